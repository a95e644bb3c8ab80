//! Which backend this machine can run, found by doing: a private ring and private sockets on loopback.
//!
//! Runs once at start, before any shard. What it says to the operator names the cause and the one thing to do.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use super::bound::{SocketError, Sockets};
use super::socket::Socket;
use super::uring::Uring;
use super::{Io, Path, Sent};
use crate::shm::MapError;

/// UDP_MAX_SEGMENTS of newer kernels, then of older ones.
const GSO_SEGMENTS: [usize; 2] = [128, 64];
/// Bytes per segment of the probe: 128 of them fit into any receive buffer.
const PROBE_SEGMENT: usize = 16;

/// Where in making a ring the kernel said no.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingStep {
    Setup,
    Files,
    Enter,
}

/// Why io_uring cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum UringError {
    #[error("io_uring is switched off on this machine (kernel.io_uring_disabled = {0}): run `sysctl -w kernel.io_uring_disabled=0`")]
    Disabled(u32),
    #[error("io_uring is forbidden to this process, usually by a container's seccomp profile: allow io_uring_setup, io_uring_enter and io_uring_register in it")]
    Forbidden,
    #[error("io_uring is not there: this kernel ({0}) is built without it, or a seccomp profile hides it; allow io_uring_setup, io_uring_enter and io_uring_register, or run Linux 6.1 or newer")]
    Absent(String),
    #[error("too little lockable memory for io_uring (RLIMIT_MEMLOCK is {0}): run `ulimit -l 65536`, or set LimitMEMLOCK=64M in the systemd unit")]
    Memory(String),
    #[error("this kernel ({0}) is too old for the io_uring features needed (single issuer, deferred work): run Linux 6.1 or newer")]
    Old(String),
    #[error("too many open files for io_uring: run `ulimit -n 65536`, or set LimitNOFILE=65536 in the systemd unit")]
    Files,
    #[error("io_uring failed at {step:?} ({source}): please report this with the kernel's version")]
    Other { step: RingStep, source: io::Error },
    #[error("io_uring was set up, but a datagram on loopback did not come back within a second: look for firewall rules that drop on lo (`nft list ruleset`); if there are none, please report this with the kernel's version")]
    Silent,
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Map(#[from] MapError),
}

impl UringError {
    /// Names the cause of an error number, with what the machine says about itself.
    pub(super) fn at(step: RingStep, source: io::Error) -> UringError {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let disabled = read("/proc/sys/kernel/io_uring_disabled").parse().unwrap_or(0);
        UringError::named(step, source, disabled, read("/proc/sys/kernel/osrelease"), memlock())
    }

    fn named(step: RingStep, source: io::Error, disabled: u32, release: String, memlock: String) -> UringError {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) if disabled > 0 => UringError::Disabled(disabled),
            Some(libc::EPERM | libc::EACCES) => UringError::Forbidden,
            Some(libc::ENOSYS) => UringError::Absent(release),
            Some(libc::ENOMEM) => UringError::Memory(memlock),
            // Unknown set-up flags, unknown registrations, unknown operations.
            Some(libc::EINVAL | libc::EOPNOTSUPP) => UringError::Old(release),
            Some(libc::EMFILE | libc::ENFILE) => UringError::Files,
            _ => UringError::Other { step, source },
        }
    }
}

/// What the operator asked for with `--io`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wanted {
    #[default]
    Auto,
    Uring,
    Socket,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    Uring,
    Socket,
}

impl Backend {
    pub fn name(self) -> &'static str {
        match self {
            Backend::Uring => "uring",
            Backend::Socket => "socket",
        }
    }
}

/// What the machine can do.
#[derive(Debug)]
pub struct Probe {
    pub uring: Result<(), UringError>,
    /// 128 or 64; 1 = the kernel does not cut (UDP_SEGMENT), each datagram is a send of its own.
    pub gso_segments: usize,
}

impl Probe {
    /// The backend to run and why, to be printed; an error only where the operator insists on what does not work.
    pub fn choose(&self, wanted: Wanted) -> Result<(Backend, String), &UringError> {
        let (backend, why) = match (wanted, &self.uring) {
            (Wanted::Socket, _) => (Backend::Socket, "as asked".to_owned()),
            (Wanted::Uring, Ok(())) => (Backend::Uring, "as asked".to_owned()),
            (Wanted::Uring, Err(error)) => return Err(error),
            (Wanted::Auto, Ok(())) => (Backend::Uring, "everything it needs works here".to_owned()),
            (Wanted::Auto, Err(error)) => (Backend::Socket, error.to_string()),
        };
        let gso = match self.gso_segments {
            1 => "UDP GSO is off: this kernel has no UDP_SEGMENT, sending costs several times more CPU; run Linux 4.18 or newer".to_owned(),
            segments => format!("UDP GSO up to {segments} segments"),
        };
        Ok((backend, format!("{why}; {gso}")))
    }
}

pub fn probe() -> Probe {
    let gso_segments = GSO_SEGMENTS.into_iter().find(|segments| takes_gso(*segments)).unwrap_or(1);
    Probe { uring: try_uring(gso_segments), gso_segments }
}

fn takes_gso(segments: usize) -> bool {
    let Ok((sockets, address)) = private_socket() else { return false };
    let mut io = Socket::new(sockets, segments);
    talk_to_itself(&mut io, address, segments)
}

fn try_uring(gso_segments: usize) -> Result<(), UringError> {
    let (sockets, address) = private_socket()?;
    let mut io = Uring::new(sockets, gso_segments)?;
    if talk_to_itself(&mut io, address, 2) {
        return Ok(());
    }
    Err(UringError::Silent)
}

/// Sends one run to its own socket, as one send, and receives it. The datagrams are known by what is in them: NAT that means every device
/// (`masquerade` without an interface) gives those of loopback another source.
fn talk_to_itself(io: &mut impl Io, address: SocketAddr, segments: usize) -> bool {
    let path = Path { local: address, remote: address };
    let length = segments * PROBE_SEGMENT;
    let mark: [u8; PROBE_SEGMENT] = std::array::from_fn(|at| RandomState::new().hash_one(at) as u8);
    match io.buffer().and_then(|buffer| buffer.get_mut(..length)) {
        Some(bytes) => bytes.chunks_exact_mut(PROBE_SEGMENT).for_each(|segment| segment.copy_from_slice(&mark)),
        None => return false,
    }
    if io.send(&path, length, PROBE_SEGMENT) != Sent::Queued {
        return false;
    }
    io.submit();
    let deadline = io.now() + Duration::from_secs(1);
    let mut got = 0;
    while got < segments && io.now() < deadline && io.tally().dropped + io.tally().one_by_one == 0 {
        io.park(Some(deadline));
        let mut whole = 0;
        io.receive(segments, |datagram| whole += usize::from(*datagram.bytes == mark));
        got += whole;
    }
    got == segments
}

fn private_socket() -> Result<(Sockets, SocketAddr), SocketError> {
    let not_bound = |source| SocketError::NotBound { fd: -1, source };
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0")).map_err(not_bound)?;
    let address = socket.local_addr().map_err(not_bound)?;
    // JUSTIFICATION: std has no eventfd.
    // SAFETY: a call by values; a descriptor that came back is fresh and owned by nobody else.
    let wake = unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC) {
            fd if fd >= 0 => OwnedFd::from_raw_fd(fd),
            fd => return Err(SocketError::Wake { fd, source: io::Error::last_os_error() }),
        }
    };
    Ok((Sockets::new(vec![socket.into()], wake)?, address))
}

fn memlock() -> String {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // JUSTIFICATION: std has no resource limits.
    // SAFETY: `limit` is a live rlimit.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    match limit.rlim_cur {
        _ if result != 0 => "unknown".to_owned(),
        libc::RLIM_INFINITY => "unlimited".to_owned(),
        bytes => format!("{} KiB", bytes / 1_024),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::netlink::network::within;
    use super::super::frames::rules::tests::masquerade;
    use super::*;

    /// Goal: NAT that gives loopback's datagrams another source takes neither io_uring nor GSO away. Method: a network of its own.
    #[test]
    fn nat_on_loopback_takes_nothing_away() {
        const NETWORK: &str = "link set lo up
            link add v0 type veth peer name v1
            link set v1 up
            address add 10.9.9.1/24 dev v0
            link set v0 up";
        let (seen, own, found) = within(NETWORK, || {
            masquerade();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let own = socket.local_addr().unwrap();
            socket.send_to(&[1], own).unwrap();
            (socket.recv_from(&mut [0; 2]).unwrap().1, own, probe())
        });
        assert_ne!(seen, own, "the rule is not in force");
        found.uring.expect("io_uring works");
        assert!(found.gso_segments >= 64);
    }

    #[test]
    fn this_machine_has_everything() {
        let found = probe();
        found.uring.as_ref().expect("io_uring works on this machine");
        assert!(found.gso_segments >= 64);
        assert_eq!(found.choose(Wanted::Auto).unwrap().0, Backend::Uring);
        assert_eq!(found.choose(Wanted::Socket).unwrap().0.name(), "socket");
    }

    #[test]
    fn more_segments_than_any_kernel_takes_are_seen_as_refused() {
        assert!(!takes_gso(4_000));
    }

    #[test]
    fn each_refusal_names_its_cause_and_what_to_do() {
        let named = |number, disabled| {
            let source = io::Error::from_raw_os_error(number);
            UringError::named(RingStep::Setup, source, disabled, "5.15.0".into(), "64 KiB".into()).to_string()
        };
        for (number, disabled, words) in [
            (libc::EPERM, 2, ["kernel.io_uring_disabled = 2", "sysctl -w kernel.io_uring_disabled=0"]),
            (libc::EPERM, 0, ["seccomp", "io_uring_setup"]),
            (libc::ENOSYS, 0, ["5.15.0", "6.1"]),
            (libc::ENOMEM, 0, ["64 KiB", "ulimit -l"]),
            (libc::EINVAL, 0, ["5.15.0", "6.1"]),
            (libc::EMFILE, 0, ["open files", "ulimit -n"]),
            (libc::EIO, 0, ["Setup", "report"]),
        ] {
            let text = named(number, disabled);
            assert!(words.iter().all(|word| text.contains(word)), "{number}: {text}");
        }
    }

    #[test]
    fn auto_falls_back_and_says_why_and_insisting_is_an_error() {
        let probe = Probe { uring: Err(UringError::Disabled(2)), gso_segments: 1 };
        let (backend, why) = probe.choose(Wanted::Auto).unwrap();
        assert_eq!(backend, Backend::Socket);
        assert!(why.contains("kernel.io_uring_disabled") && why.contains("GSO is off"), "{why}");
        assert!(probe.choose(Wanted::Uring).is_err());
    }
}

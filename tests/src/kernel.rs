//! What tests need of the kernel and std does not have: signals by pid, children that end with their test, the
//! node's link as somebody who only reads.

use spillway_proto::limits::TRACKS_MAX;
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::layout::{LINK_BYTES, Link};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::Ordering;

/// The child gets SIGTERM when the test that started it ends, however that ends.
pub fn end_with_us(command: &mut Command) {
    // JUSTIFICATION: std has no prctl; between fork and exec only this can be called.
    // SAFETY: prctl takes integers here and is safe to call between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
}

/// Sends a signal to a process this test knows by its pid.
pub fn signal(pid: u32, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(pid).expect("a pid");
    assert!(pid > 1, "{pid} is no process of ours");
    // JUSTIFICATION: std signals only children, and node.json names grandchildren.
    // SAFETY: no pointers.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "signal {signal} to {pid}: {}", std::io::Error::last_os_error());
}

pub fn kill_9(pid: u32) {
    signal(pid, libc::SIGKILL);
}

/// Moves this thread, and what it starts from now on, into a network namespace; returns the one it was in.
pub fn enter_network(namespace: &File) -> File {
    // A thread's own: the others stay where they are.
    let before = File::open("/proc/thread-self/ns/net").expect("procfs");
    // JUSTIFICATION: std knows no namespaces.
    // SAFETY: no pointers; the descriptor is open.
    let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(entered, 0, "setns: {} (network namespaces need root)", std::io::Error::last_os_error());
    before
}

/// Every IPv4 packet that comes in to this thread's network, with the moment at which the kernel got it.
pub struct Tap(File);

impl Tap {
    pub fn open() -> Tap {
        let bytes: libc::c_int = 64 << 20;
        let wait = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
        let stamps: libc::c_int = 1;
        // JUSTIFICATION: std has no packet sockets.
        // SAFETY: the descriptor is new and ours alone; each option's value outlives its call, and its size is said.
        unsafe {
            let descriptor = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, i32::from((libc::ETH_P_IP as u16).to_be()));
            assert!(descriptor >= 0, "a packet socket: {} (needs root)", std::io::Error::last_os_error());
            let set = |option: libc::c_int, value: *const libc::c_void, size: usize| {
                let result = libc::setsockopt(descriptor, libc::SOL_SOCKET, option, value, size as libc::socklen_t);
                assert_eq!(result, 0, "option {option}: {}", std::io::Error::last_os_error());
            };
            set(libc::SO_RCVBUFFORCE, (&raw const bytes).cast(), size_of_val(&bytes));
            set(libc::SO_RCVTIMEO, (&raw const wait).cast(), size_of_val(&wait));
            set(libc::SO_TIMESTAMPNS, (&raw const stamps).cast(), size_of_val(&stamps));
            Tap(File::from_raw_fd(descriptor))
        }
    }

    /// The first bytes of the next packet, and when it came in nanoseconds of UNIX time; none came in 20 ms.
    pub fn next(&self, bytes: &mut [u8]) -> Option<(usize, u64)> {
        let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut control = [0_u64; 16];
        // JUSTIFICATION: std tells no times of arrival.
        // SAFETY: all zeros is an empty header; what it points to outlives the call; the kernel writes the list of control
        // messages and its length, within which the walk stays; the time is read without assuming its alignment.
        unsafe {
            let mut from: libc::sockaddr_ll = std::mem::zeroed();
            let mut header: libc::msghdr = std::mem::zeroed();
            (header.msg_name, header.msg_namelen) = ((&raw mut from).cast(), size_of_val(&from) as libc::socklen_t);
            (header.msg_iov, header.msg_iovlen) = (&mut vector, 1);
            (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
            let length = libc::recvmsg(self.0.as_raw_fd(), &mut header, 0);
            // What this side sends is seen, too.
            if length < 0 || from.sll_pkttype == libc::PACKET_OUTGOING {
                return (length >= 0).then_some((0, 0));
            }
            let mut entry = libc::CMSG_FIRSTHDR(&header);
            while !entry.is_null() {
                if (*entry).cmsg_level == libc::SOL_SOCKET && (*entry).cmsg_type == libc::SCM_TIMESTAMPNS {
                    let time: libc::timespec = libc::CMSG_DATA(entry).cast::<libc::timespec>().read_unaligned();
                    return Some((length as usize, time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64));
                }
                entry = libc::CMSG_NXTHDR(&header, entry);
            }
        }
        None
    }
}

/// A running node's counters. The link is a memfd of the supervisor's; mapped read-only, for as long as the test
/// process lives.
pub struct Counters(Link);

impl Counters {
    pub fn of(supervisor_pid: u32) -> Counters {
        let directory = format!("/proc/{supervisor_pid}/fd");
        let is_link = |entry: &fs::DirEntry| {
            fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:spillway-link"))
        };
        let entry = fs::read_dir(&directory).expect("the supervisor runs").flatten().find(is_link);
        let file = File::open(entry.expect("the supervisor holds the link").path()).expect("we may read our own node");
        // JUSTIFICATION: the counters are shared memory, and std maps none.
        // SAFETY: the file is LINK_BYTES long and sealed against a change of its size; the mapping is never
        // unmapped; through the handle nothing is stored, only counters are loaded.
        let link = unsafe {
            let flags = libc::MAP_SHARED;
            let base = libc::mmap(std::ptr::null_mut(), LINK_BYTES, libc::PROT_READ, flags, file.as_raw_fd(), 0);
            assert_ne!(base, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
            Link::attach(base.cast(), LINK_BYTES)
        };
        Counters(link.expect("a link of this build"))
    }

    /// Over all shards.
    pub fn sum(&self, id: CounterId) -> u64 {
        (0..self.0.shards()).map(|shard| self.shard(shard, id)).sum()
    }

    /// Keyframes the tracks of now have received.
    pub fn keyframes(&self) -> u64 {
        (0..TRACKS_MAX).map(|track| self.0.track_stats(track).keyframes.load(Ordering::Relaxed)).sum()
    }

    /// Packets of publishers that never came, over the tracks of now.
    pub fn lost(&self) -> u64 {
        (0..TRACKS_MAX).map(|track| self.0.track_stats(track).lost.load(Ordering::Relaxed)).sum()
    }

    pub fn shard(&self, shard: usize, id: CounterId) -> u64 {
        self.0.counters(shard).get(id)
    }
}

/// A terminal of a test's own: what a person sees and types on.
pub struct Terminal {
    person: File,
    program: File,
}

impl Terminal {
    pub fn new() -> Terminal {
        let (mut person, mut program) = (-1, -1);
        let null = std::ptr::null_mut();
        // JUSTIFICATION: std makes no terminals.
        // SAFETY: openpty writes two descriptors, which nobody else owns; the other pointers may be null.
        unsafe {
            let made = libc::openpty(&mut person, &mut program, null, null.cast(), null.cast());
            assert_eq!(made, 0, "openpty: {}", std::io::Error::last_os_error());
            Terminal { person: File::from_raw_fd(person), program: File::from_raw_fd(program) }
        }
    }

    /// The command stands in this terminal's foreground, as one started from a shell.
    pub fn give_to(&self, command: &mut Command) {
        let end = || self.program.try_clone().expect("a descriptor");
        command.stdin(end()).stdout(end()).stderr(end());
        // JUSTIFICATION: std makes no sessions; between fork and exec only these can be called.
        // SAFETY: setsid and ioctl are safe to call between fork and exec; descriptor 0 is the terminal by then.
        unsafe {
            command.pre_exec(|| match libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            })
        };
    }

    pub fn press(&self, key: u8) {
        (&self.person).write_all(&[key]).expect("the terminal takes keys");
    }

    /// What the program has printed since the last time; empty: nothing.
    pub fn read(&self) -> String {
        let mut bytes = vec![0; 65_536];
        let mut waiting: libc::c_int = 0;
        // JUSTIFICATION: std cannot ask how much waits.
        // SAFETY: FIONREAD writes one integer.
        unsafe { libc::ioctl(self.person.as_raw_fd(), libc::FIONREAD, &raw mut waiting) };
        let length = if waiting > 0 { (&self.person).read(&mut bytes).unwrap_or(0) } else { 0 };
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// Echo and line mode: what a program may change and must put back.
    pub fn settings(&self) -> (libc::tcflag_t, libc::tcflag_t) {
        // JUSTIFICATION: std knows no terminal settings.
        // SAFETY: termios is plain data, for which zeros are valid; tcgetattr fills it.
        let settings = unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.program.as_raw_fd(), &mut settings), 0);
            settings
        };
        (settings.c_lflag, settings.c_iflag)
    }
}

impl Default for Terminal {
    fn default() -> Terminal {
        Terminal::new()
    }
}

//! The system calls std does not have: waiting on thousands of sockets, taking many datagrams at once with the time the
//! kernel got them, sleeping until a moment.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Datagrams per call.
pub const BATCH: usize = 32;
pub const DATAGRAM_BYTES_MAX: usize = 1_600;
/// What a sink that does not decrypt looks at: the header.
pub const HEAD_BYTES: usize = 64;
const CONTROL_BYTES: usize = 64;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Says which of many sockets have something.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    pub fn new() -> io::Result<Poller> {
        // JUSTIFICATION: std waits for one socket at a time.
        // SAFETY: the call takes no pointers; the descriptor it gives is ours alone.
        let epoll = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Poller { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; 1_024] })
    }

    pub fn add(&self, descriptor: &impl AsRawFd, name: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: name };
        // JUSTIFICATION: std waits for one socket at a time.
        // SAFETY: both descriptors are open; the kernel copies the event and keeps no pointer.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, descriptor.as_raw_fd(), &mut event) })?;
        Ok(())
    }

    pub fn remove(&self, descriptor: &impl AsRawFd) -> io::Result<()> {
        // JUSTIFICATION: std waits for one socket at a time.
        // SAFETY: both descriptors are open; this call takes no event.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, descriptor.as_raw_fd(), std::ptr::null_mut()) })?;
        Ok(())
    }

    /// The names of those that have something, after `longest` at the latest.
    pub fn wait(&mut self, longest: Duration) -> io::Result<impl Iterator<Item = u64> + '_> {
        let timeout = longest.as_micros().div_ceil(1_000).min(1_000) as libc::c_int;
        // JUSTIFICATION: std waits for one socket at a time.
        // SAFETY: the array is valid for as many events as are said, and outlives the call.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), self.events.len() as libc::c_int, timeout)
        };
        let count = match check(count) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            count => count?,
        };
        Ok(self.events[..count as usize].iter().map(|event| event.u64))
    }
}

/// Memory for one call's datagrams, used again and again.
pub struct Batch {
    buffers: Vec<[u8; DATAGRAM_BYTES_MAX]>,
    controls: Vec<[u8; CONTROL_BYTES]>,
    messages: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
}

/// One datagram that was taken.
pub struct Taken<'b> {
    /// What was copied of it.
    pub bytes: &'b mut [u8],
    /// How long it was.
    pub length: usize,
    /// When the kernel got it, in nanoseconds of UNIX time; 0 where it did not say.
    pub at_ns: u64,
}

impl Batch {
    pub fn new() -> Batch {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // JUSTIFICATION: the header has padding, which no literal can fill.
        // SAFETY: all zeros is a valid message header: null pointers and lengths of zero.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Batch {
            buffers: vec![[0; DATAGRAM_BYTES_MAX]; BATCH],
            controls: vec![[0; CONTROL_BYTES]; BATCH],
            messages: vec![message; BATCH],
            vectors: vec![empty; BATCH],
        }
    }

    /// Takes what waits, at most `BATCH`, without waiting; of each at most `bytes`. Returns how many.
    pub fn take(&mut self, socket: &UdpSocket, bytes: usize) -> usize {
        let bytes = bytes.min(DATAGRAM_BYTES_MAX);
        for place in 0..BATCH {
            self.vectors[place] = libc::iovec { iov_base: self.buffers[place].as_mut_ptr().cast(), iov_len: bytes };
            let header = &mut self.messages[place].msg_hdr;
            header.msg_iov = &mut self.vectors[place];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[place].as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES as _;
        }
        // JUSTIFICATION: std takes one datagram per call, and does not tell when it came.
        // SAFETY: every header points to memory of this value, which lives through the call and is not moved in it.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                // With MSG_TRUNC the length is the datagram's, however little was copied.
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                std::ptr::null_mut(),
            )
        };
        count.max(0) as usize
    }

    /// The datagram at `place` of the last `take`.
    pub fn at(&mut self, place: usize) -> Taken<'_> {
        let message = &self.messages[place];
        let length = message.msg_len as usize;
        let at_ns = stamp_of(&message.msg_hdr);
        let copied = length.min(self.vectors[place].iov_len);
        Taken { bytes: &mut self.buffers[place][..copied], length, at_ns }
    }
}

/// What the kernel says beside a datagram: SO_TIMESTAMPNS.
fn stamp_of(header: &libc::msghdr) -> u64 {
    // JUSTIFICATION: control messages are lists in raw memory.
    // SAFETY: the kernel has written the list and its length into memory of `Batch`, and CMSG_NXTHDR stays within it; the time is
    // read without assuming its alignment.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_SOCKET && (*control).cmsg_type == libc::SCM_TIMESTAMPNS {
                let time: libc::timespec = libc::CMSG_DATA(control).cast::<libc::timespec>().read_unaligned();
                return time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    0
}

/// Sets a number as a socket's option.
fn set(socket: &UdpSocket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // JUSTIFICATION: std has not these options.
    // SAFETY: the value outlives the call, and its size is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result).map(|_| ())
}

/// A socket of a remote of ours: room for `bytes` that wait, and stamps of the kernel if wanted.
pub fn prepare(socket: &UdpSocket, bytes: usize, stamps: bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Beyond rmem_max only for root; else what is granted.
    if set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes as libc::c_int).is_err() {
        set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes as libc::c_int)?;
    }
    if stamps {
        set(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    }
    Ok(())
}

/// The kernel cuts what is sent at once into packets of so many bytes.
pub fn cut_sends(socket: &UdpSocket, packet_bytes: u16) -> io::Result<()> {
    set(socket, libc::SOL_UDP, libc::UDP_SEGMENT, packet_bytes.into())
}

/// Datagrams the kernel dropped because this socket was full.
pub fn drops(socket: &UdpSocket) -> u64 {
    const SK_MEMINFO_DROPS: usize = 8;
    let mut info = [0_u32; 9];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // JUSTIFICATION: std has not this option.
    // SAFETY: the array outlives the call, and its size is said.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, info.as_mut_ptr().cast(), &mut length)
    };
    if result == 0 { u64::from(info[SK_MEMINFO_DROPS]) } else { 0 }
}

fn clock(which: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // JUSTIFICATION: std has no clock for CPU time, and its monotonic one cannot be slept on.
    // SAFETY: `time` is a valid timespec that outlives the call.
    unsafe { libc::clock_gettime(which, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time this thread has used. On a shared machine the wall clock also counts the neighbours; this does not.
pub fn thread_cpu_time() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

pub fn process_cpu_time() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of another process, all its threads together, also of those that have ended.
pub fn cpu_time_of(pid: u32) -> Option<Duration> {
    let mut which: libc::clockid_t = 0;
    // JUSTIFICATION: /proc counts in hundredths of a second, too coarse for a short look at a light load.
    // SAFETY: `which` is valid and outlives the call.
    let result = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut which) };
    let time = clock(which);
    (result == 0 && time > Duration::ZERO).then_some(time)
}

pub fn unix_ns() -> u64 {
    clock(libc::CLOCK_REALTIME).as_nanos() as u64
}

/// A moment's distance from a clock that only goes forward.
pub fn monotonic() -> Duration {
    clock(libc::CLOCK_MONOTONIC)
}

/// Sleeps until `monotonic` shows `at`, to some 50 us.
pub fn sleep_until(at: Duration) {
    let time = libc::timespec { tv_sec: at.as_secs() as libc::time_t, tv_nsec: libc::c_long::from(at.subsec_nanos()) };
    // JUSTIFICATION: std sleeps for a while, not until a moment: every lateness would add up.
    // SAFETY: `time` outlives the call; without a place for the rest nothing is written.
    unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &time, std::ptr::null_mut()) };
}

/// Raises the limit of open files to what is allowed; returns it.
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // JUSTIFICATION: std has no limits.
    // SAFETY: `limit` is valid and outlives both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return 1_024;
        }
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    limit.rlim_cur
}

/// Wakes this thread from sleeps to the nanosecond it asked for, where the default is 50 us late.
pub fn sharpen_timers() {
    // JUSTIFICATION: std has no timer slack.
    // SAFETY: the call takes no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64) };
}

/// Nothing but what is more urgent runs before this thread on its core, where that may be asked for: as what a network brings comes when it comes,
/// however busy a server is. A shard has the least real-time priority there is.
pub fn be_punctual() {
    let first = libc::sched_param { sched_priority: 2 };
    // JUSTIFICATION: std knows no priorities.
    // SAFETY: the kernel reads the live parameter; 0 names the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &first) };
}

pub fn is_root() -> bool {
    // JUSTIFICATION: std does not know who runs it.
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Keeps this thread, and those it starts from now on, on one core.
pub fn pin_to(core: usize) {
    // JUSTIFICATION: std has no affinity.
    // SAFETY: all zeros is an empty set; `core` is far below its size; the set outlives the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

/// The cores this thread may run on.
pub fn allowed_cores() -> Vec<usize> {
    // JUSTIFICATION: std has no affinity.
    // SAFETY: all zeros is an empty set, which the call fills; numbers stay below its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        (0..libc::CPU_SETSIZE as usize).filter(|core| libc::CPU_ISSET(*core, &set)).collect()
    }
}

/// Moves this thread, and those it starts from now on, into a network namespace.
pub fn enter_network(namespace: &std::fs::File) -> io::Result<()> {
    // JUSTIFICATION: std has no namespaces.
    // SAFETY: the descriptor is open; the kernel checks what it is.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(|_| ())
}

/// The child ends when this process does, however that ends; a Ctrl-C on the terminal is not for it.
pub fn end_with_us(command: &mut Command) {
    command.process_group(0);
    // JUSTIFICATION: std cannot tie a child's life to its parent's.
    // SAFETY: the closure makes one system call without pointers, which may be made between fork and exec.
    unsafe {
        command.pre_exec(|| check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM)).map(|_| ()));
    }
}

pub fn terminate(pid: u32) {
    // JUSTIFICATION: std can only kill.
    // SAFETY: a signal to a child of ours that has not been waited for.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Remembers the first SIGINT or SIGTERM; the second one ends the process as ever.
pub fn catch_interrupts() {
    extern "C" fn handle(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
        // Whichever comes next: who asks twice means it.
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // JUSTIFICATION: std has no signals.
            // SAFETY: `signal` may be called in a handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // JUSTIFICATION: std has no signals.
        // SAFETY: the handler stores a flag and restores the default, both of which a handler may do.
        unsafe { libc::signal(signal, handle as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_with_their_length_and_time_also_when_only_the_head_is_copied() {
        let (ours, theirs) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        prepare(&ours, 1 << 20, true).unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(&ours, 42).unwrap();
        let before = unix_ns();
        for length in [1_200, 40] {
            theirs.send_to(&vec![7; length], ours.local_addr().unwrap()).unwrap();
        }
        assert_eq!(poller.wait(Duration::from_secs(1)).unwrap().collect::<Vec<_>>(), [42]);
        let mut batch = Batch::new();
        assert_eq!(batch.take(&ours, HEAD_BYTES), 2);
        for (place, (copied, length)) in [(64, 1_200), (40, 40)].into_iter().enumerate() {
            let taken = batch.at(place);
            assert_eq!((taken.bytes.len(), taken.length), (copied, length));
            assert!((before..before + 5_000_000_000).contains(&taken.at_ns), "the same clock");
        }
        assert_eq!(batch.take(&ours, HEAD_BYTES), 0);
        assert_eq!(drops(&ours), 0);
    }

    #[test]
    fn a_full_socket_says_so() {
        let (ours, theirs) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        prepare(&ours, 4_096, false).unwrap();
        for _ in 0..100 {
            theirs.send_to(&[7; 1_200], ours.local_addr().unwrap()).unwrap();
        }
        assert!(drops(&ours) > 50);
    }

    #[test]
    fn a_sleep_ends_at_its_moment() {
        let at = monotonic() + Duration::from_millis(5);
        sleep_until(at);
        assert!(monotonic() >= at);
    }
}

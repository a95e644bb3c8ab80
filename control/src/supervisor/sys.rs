//! The system calls the supervisor needs and std does not have, each as a safe function.
//!
//! Owns nothing and decides nothing; the only file of control with `unsafe`.

use spillway_proto::link::layout::{LINK_BYTES, Link, LinkError};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A sparse, zeroed file in memory whose size is fixed for good: no process that shares it can cut it
/// under another's feet (which would be a SIGBUS there).
pub fn memfd(name: &std::ffi::CStr, bytes: u64) -> io::Result<OwnedFd> {
    // JUSTIFICATION: std has no memfd_create.
    // SAFETY: `name` is a C string that lives through the call; a non-negative result is a new descriptor that nobody else owns.
    let file = unsafe {
        let fd = check(libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING))?;
        File::from_raw_fd(fd)
    };
    file.set_len(bytes)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // JUSTIFICATION: std has no fcntl.
    // SAFETY: the descriptor is open, the argument is an integer.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file.into())
}

/// Lays the link out in its file. The mapping stays until the process ends: the handle is for good.
pub fn create_link(file: BorrowedFd, shards: usize) -> io::Result<Result<Link, LinkError>> {
    // JUSTIFICATION: std has no mappings, and the link is shared memory.
    // SAFETY: the file is `LINK_BYTES` long and sealed against a change of its size (`memfd`), so that every
    // byte of the mapping stays accessible; it is never unmapped; nobody else writes before it is handed over.
    unsafe {
        let base = libc::mmap(
            std::ptr::null_mut(),
            LINK_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Link::create(base.cast(), LINK_BYTES, shards as u32))
    }
}

/// A counter that wakes whoever polls it.
pub fn eventfd() -> io::Result<OwnedFd> {
    // JUSTIFICATION: std has no eventfd.
    // SAFETY: no pointers; a non-negative result is a new descriptor that nobody else owns.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?)) }
}

/// Adds one to an eventfd.
pub fn wake(fd: BorrowedFd) -> io::Result<()> {
    let one = 1u64.to_ne_bytes();
    // JUSTIFICATION: std writes to a descriptor only as its owner.
    // SAFETY: pointer and length are those of `one`.
    match unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) } {
        8 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A pipe: end to read from, which never blocks, and end to write to.
pub fn pipe() -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let reader = OwnedFd::from(reader);
    // JUSTIFICATION: std has no fcntl.
    // SAFETY: the descriptor is open, the argument is an integer.
    check(unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok((File::from(reader), writer.into()))
}

/// Sets an option whose value is an `int`.
pub fn set_option(fd: BorrowedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // JUSTIFICATION: socket2 lacks IP_MTU_DISCOVER, IP_PKTINFO and SO_*BUFFORCE.
    // SAFETY: the pointer and the length name `value`, which lives through the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Something that becomes readable when the process ends; it never names another process, as a number may.
pub struct Pidfd(OwnedFd);

impl Pidfd {
    pub fn open(pid: u32) -> io::Result<Pidfd> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        // JUSTIFICATION: neither std nor libc wraps pidfd_open.
        // SAFETY: no pointers; a non-negative result is a new descriptor (close-on-exec) that nobody else owns.
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            Ok(Pidfd(OwnedFd::from_raw_fd(check(fd as libc::c_int)?)))
        }
    }

    pub fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        // JUSTIFICATION: neither std nor libc wraps pidfd_send_signal.
        // SAFETY: the descriptor is open; a null siginfo means the one kill(2) would send.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        check(result as libc::c_int).map(drop)
    }

    /// Waits for the end of the process; false: it outlived `timeout`.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut watch = [Watch::new(self.0.as_fd())];
        let deadline = std::time::Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match poll(&mut watch, left) {
                Ok(()) if watch[0].is_readable() => return true,
                _ if left.is_zero() => return false,
                _ => {}
            }
        }
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One descriptor of a `poll`.
#[repr(transparent)]
pub struct Watch<'a>(libc::pollfd, std::marker::PhantomData<BorrowedFd<'a>>);

impl<'a> Watch<'a> {
    pub fn new(fd: BorrowedFd<'a>) -> Watch<'a> {
        Watch(libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }, std::marker::PhantomData)
    }
    /// Data, an end or an error: a read will tell.
    pub fn is_readable(&self) -> bool {
        self.0.revents != 0
    }
}

/// Waits until one of `watches` is readable or `timeout` is over. A signal is no error.
pub fn poll(watches: &mut [Watch], timeout: Duration) -> io::Result<()> {
    // Rounded up: a deadline 0.4 ms away must not become a busy loop.
    let ms = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as libc::c_int;
    // JUSTIFICATION: std has no poll.
    // SAFETY: `Watch` is a transparent pollfd; pointer and length are those of the slice.
    let result = unsafe { libc::poll(watches.as_mut_ptr().cast(), watches.len() as libc::nfds_t, ms) };
    match check(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            watches.iter_mut().for_each(|watch| watch.0.revents = 0);
            Ok(())
        }
        other => other.map(drop),
    }
}

fn signal_set(signals: &[libc::c_int]) -> libc::sigset_t {
    // JUSTIFICATION: std has no signal sets.
    // SAFETY: sigemptyset initialises the set before it is used; the numbers are constants of libc.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    }
}

/// Signals as something to read: from here on they do nothing by themselves.
pub struct Signals(File);

impl Signals {
    pub fn take(signals: &[libc::c_int]) -> io::Result<Signals> {
        let set = signal_set(signals);
        // JUSTIFICATION: std has no signalfd.
        // SAFETY: `set` is initialised and lives through both calls; a non-negative result is a new descriptor.
        unsafe {
            check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
            let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
            Ok(Signals(File::from_raw_fd(fd)))
        }
    }

    /// The next signal that came, if one did.
    pub fn next(&mut self) -> Option<libc::c_int> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        match io::Read::read(&mut self.0, &mut info) {
            Ok(length) if length == info.len() => {
                let [a, b, c, d, ..] = info;
                Some(u32::from_ne_bytes([a, b, c, d]) as libc::c_int)
            }
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The cores this process may run on, ascending.
pub fn cores() -> io::Result<Vec<usize>> {
    // JUSTIFICATION: std counts the cores but does not name them.
    // SAFETY: an all-zero cpu_set_t is an empty set; the size is that of the set; CPU_ISSET reads below CPU_SETSIZE.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        check(libc::sched_getaffinity(0, size_of_val(&set), &mut set))?;
        Ok((0..libc::CPU_SETSIZE as usize).filter(|core| libc::CPU_ISSET(*core, &set)).collect())
    }
}

/// Raises the soft limit of open files to the hard one; the limit that holds from here on.
pub fn raise_open_files() -> io::Result<u64> {
    // JUSTIFICATION: std has no rlimits.
    // SAFETY: `limit` is plain data that lives through both calls.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
        Ok(limit.rlim_cur)
    }
}

/// What a user may still write on the file system of `path`.
pub fn free_bytes(path: &std::path::Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // JUSTIFICATION: std does not tell a file system's free space.
    // SAFETY: `path` is a C string and `found` plain data, both live through the call.
    let found = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        check(libc::statvfs(path.as_ptr(), &mut found))?;
        found
    };
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether the kernel's clock is kept right by somebody (adjtimex(2)).
pub fn clock_is_synchronised() -> io::Result<bool> {
    // JUSTIFICATION: std has no adjtimex.
    // SAFETY: all-zero `modes` changes nothing; `state` is plain data that lives through the call.
    let (result, state) = unsafe {
        let mut state: libc::timex = std::mem::zeroed();
        (check(libc::adjtimex(&mut state))?, state)
    };
    Ok(result != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}

/// How a child differs from its parent between fork and exec.
#[derive(Clone)]
pub struct ChildSetup {
    /// The descriptors it inherits besides 0, 1 and 2; every other one closes at exec.
    pub keep: Vec<RawFd>,
    /// The cores it may run on; empty: those of its parent.
    pub cores: Vec<usize>,
    /// Above 0: the others go before it.
    pub nice: libc::c_int,
}

impl ChildSetup {
    /// The child lives in a process group of its own (the terminal's Ctrl-C reaches only the supervisor),
    /// takes signals as usual, and is killed when its parent dies.
    ///
    /// The caller must be the main thread: the kernel sends the parent-death signal when the *thread* that
    /// forked ends.
    pub fn apply(self, command: &mut Command) {
        let parent = std::process::id() as libc::pid_t;
        let none = signal_set(&[]);
        // JUSTIFICATION: std clears no close-on-exec flag and knows neither prctl nor affinity.
        // SAFETY: an all-zero cpu_set_t is an empty set; CPU_SET ignores cores beyond its size.
        let cores = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            for core in self.cores.iter().filter(|core| **core < libc::CPU_SETSIZE as usize) {
                libc::CPU_SET(*core, &mut set);
            }
            (!self.cores.is_empty()).then_some(set)
        };
        let (keep, nice) = (self.keep, self.nice);
        command.process_group(0);
        // JUSTIFICATION: as above; this is the place between fork and exec.
        // SAFETY: the closure makes only async-signal-safe system calls on values made before the fork; it neither
        // allocates nor takes a lock.
        unsafe {
            command.pre_exec(move || {
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0))?;
                // The parent may have died before the line above.
                if libc::getppid() != parent {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                check(libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()))?;
                if let Some(set) = &cores {
                    // Refused by a cpuset that changed meanwhile: better unpinned than not at all.
                    let _ = libc::sched_setaffinity(0, size_of_val(set), set);
                }
                if nice > 0 {
                    // Always allowed, and no reason not to run.
                    libc::setpriority(libc::PRIO_PROCESS, 0, nice);
                }
                // What we inherited ourselves goes no further. Linux 5.11; before that only ours are closed.
                libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
                for fd in &keep {
                    check(libc::fcntl(*fd, libc::F_SETFD, 0))?;
                }
                Ok(())
            });
        }
    }
}

/// The terminal's settings as they were found.
pub struct TerminalSettings(libc::termios);

/// Whether `fd` is a terminal whose foreground is this process's group: a background job must leave it alone.
pub fn is_foreground(fd: BorrowedFd) -> bool {
    // JUSTIFICATION: std does not know process groups.
    // SAFETY: both calls take integers only.
    unsafe { libc::tcgetpgrp(fd.as_raw_fd()) == libc::getpgrp() }
}

pub fn terminal_settings(fd: BorrowedFd) -> io::Result<TerminalSettings> {
    // JUSTIFICATION: std has no termios.
    // SAFETY: termios is plain data that the call fills.
    unsafe {
        let mut settings = std::mem::zeroed();
        check(libc::tcgetattr(fd.as_raw_fd(), &mut settings))?;
        Ok(TerminalSettings(settings))
    }
}

impl TerminalSettings {
    pub fn set(&self, fd: BorrowedFd) -> io::Result<()> {
        // JUSTIFICATION: std has no termios.
        // SAFETY: the settings are initialised and live through the call.
        check(unsafe { libc::tcsetattr(fd.as_raw_fd(), libc::TCSANOW, &self.0) }).map(drop)
    }

    /// Keys come one by one and are not shown; Ctrl-C stays a signal, output stays as it is.
    pub fn with_single_keys(&self) -> TerminalSettings {
        let mut settings = self.0;
        settings.c_lflag &= !(libc::ICANON | libc::ECHO);
        settings.c_cc[libc::VMIN] = 1;
        settings.c_cc[libc::VTIME] = 0;
        TerminalSettings(settings)
    }
}

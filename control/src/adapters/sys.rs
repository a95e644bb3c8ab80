//! System calls of adapters that std does not have, each as a safe function: the reel's mapping, files below a
//! directory, signals, and the process's own confinement.

use spillway_proto::stream::reel::{AttachError, STREAM_FILE_BYTES};
use spillway_proto::stream::tap::ReelTap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A stream's file, mapped for reading for the rest of the process's life.
pub struct ReelFile {
    base: *mut u8,
}

impl ReelFile {
    pub fn map(file: OwnedFd) -> io::Result<ReelFile> {
        let file = File::from(file);
        if file.metadata()?.len() < STREAM_FILE_BYTES as u64 {
            return Err(io::Error::other("the reel's file is shorter than a reel: run all of Spillway from one build"));
        }
        // JUSTIFICATION: the reel is shared memory.
        // SAFETY: a new mapping at an address the kernel chooses touches no other memory.
        let base = unsafe {
            let flags = libc::MAP_SHARED;
            libc::mmap(std::ptr::null_mut(), STREAM_FILE_BYTES, libc::PROT_READ, flags, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(ReelFile { base: base.cast() })
    }

    /// The reel that stands at `place`.
    pub fn tap(&self, place: usize) -> Result<ReelTap, AttachError> {
        // JUSTIFICATION: from here on the reel is reached through its tap, which is safe.
        // SAFETY: the whole file is mapped (its length was checked, and the supervisor's memfds are sealed against a
        // change of it), readable, and never unmapped.
        unsafe { ReelTap::attach(self.base, STREAM_FILE_BYTES, place) }
    }
}

/// Opens `name` in `directory`, never through a link, never elsewhere.
pub fn open_at(directory: &impl AsRawFd, name: &str, flags: i32) -> io::Result<File> {
    if name.contains('/') || name == ".." {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let name = CString::new(name)?;
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // JUSTIFICATION: std opens by path only.
    // SAFETY: the descriptor is open, `name` a C string that lives through the call; a non-negative result is a new
    // descriptor that nobody else owns.
    unsafe { Ok(File::from_raw_fd(check(libc::openat(directory.as_raw_fd(), name.as_ptr(), flags, 0o640))?)) }
}

/// Makes room behind a file's end that stays its own: a full disk still takes what fits there.
pub fn reserve(file: &File, bytes: i64) -> io::Result<()> {
    // JUSTIFICATION: std has no fallocate.
    // SAFETY: the descriptor is open; the rest are numbers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, bytes) }).map(|_| ())
}

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// SIGTERM asks to stop; a terminal's SIGINT is the supervisor's; a file's bound is an error, not a death.
pub fn hear_signals() {
    // JUSTIFICATION: std has no signals.
    // SAFETY: the handler only writes an atomic.
    unsafe {
        libc::signal(libc::SIGTERM, on_stop as extern "C" fn(libc::c_int) as libc::sighandler_t);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

pub fn is_asked_to_stop() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// System calls an adapter has no use for, whatever its files make it do: it opens no connection, starts no program,
/// looks into no process.
const REFUSED: [libc::c_long; 12] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_bpf,
    libc::SYS_mount,
    libc::SYS_io_uring_setup,
];

/// Gives up what the process does not need. An error: the kernel is too old or forbids it; the process may go on.
pub fn confine() -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // JUSTIFICATION: std has no prctl.
    // SAFETY: numbers only.
    unsafe {
        check(libc::prctl(libc::PR_SET_DUMPABLE, zero, zero, zero, zero))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as libc::c_ulong, zero, zero, zero))?;
    }
    // Classic BPF over seccomp_data: the call's number stands at 0, the architecture at 4. Calls of another
    // architecture have other numbers; nothing here makes any, so that they are refused.
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    #[cfg(target_arch = "x86_64")]
    const ARCHITECTURE: u32 = 0xC000_003E;
    #[cfg(target_arch = "aarch64")]
    const ARCHITECTURE: u32 = 0xC000_00B7;
    let step = |code: u16, jt: u8, jf: u8, k: u32| libc::sock_filter { code, jt, jf, k };
    let count = REFUSED.len() as u8;
    let mut program = vec![step(LOAD, 0, 0, 4), step(EQUAL, 0, count + 2, ARCHITECTURE), step(LOAD, 0, 0, 0)];
    for (place, number) in REFUSED.iter().enumerate() {
        program.push(step(EQUAL, count - place as u8, 0, *number as u32));
    }
    program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // JUSTIFICATION: as above.
    // SAFETY: the program lives through the call, which copies it; its length is its own.
    check(unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as libc::c_ulong, &raw const filter, zero, zero)
    })
    .map(|_| ())
}

//! What tests need of the kernel and std does not have: signals by pid, children that end with their test, the
//! node's link as somebody who only reads.

use spillway_proto::limits::TRACKS_MAX;
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::layout::{LINK_BYTES, Link};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
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

    pub fn shard(&self, shard: usize, id: CounterId) -> u64 {
        self.0.counters(shard).get(id)
    }
}

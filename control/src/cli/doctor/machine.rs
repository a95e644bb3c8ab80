//! What the machine gives: files, disk, limits, kernel, clock. Reads only.

use super::{Finding, split_fix};
use crate::auth::SigningKey;
use crate::cli::show::bytes;
use crate::data_dir::DataDir;
use crate::supervisor::media::BUFFER_BYTES;
use crate::supervisor::node_json::NodeJson;
use crate::supervisor::placement::place;
use crate::supervisor::{probe_io, sys};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Below it the database cannot grow any more before somebody looks.
const DISK_BYTES_MIN: u64 = 64 << 20;
const DISK_BYTES_GOOD: u64 = 1 << 30;
/// Some nine hours of one stream.
const RECORDINGS_BYTES_GOOD: u64 = 10 << 30;
/// Rings and their registered buffers of eight shards.
const MEMLOCK_BYTES_GOOD: u64 = 64 << 20;
/// 8,192 connections, and sockets, files and rings besides.
const FILES_GOOD: u64 = 16_384;
const FILES_MIN: u64 = 1_024;
const CAP_NET_ADMIN: u32 = 12;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_NICE: u32 = 23;
/// What shards ask for (`engine/src/precedence.rs`).
const SHARD_AHEAD: u64 = 10;

fn proc_of(pid: Option<u32>, name: &str) -> String {
    let pid = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

/// The hard limit in a line of /proc/PID/limits; None: unlimited, or not to be seen.
pub fn limit_in(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn has_capability(pid: Option<u32>, number: u32) -> bool {
    let status = proc_of(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> number & 1 == 1)
}

pub fn data_directory(path: &Path, data: Option<&DataDir>) -> Vec<Finding> {
    let shown = path.display();
    let Some(data) = data else {
        return vec![match path.exists() {
            true => Finding::fault("data", format!("{shown} is not a directory"), "name another one with --data DIR"),
            false => Finding::ok("data", format!("{shown} is not there yet: `serve` makes it")),
        }];
    };
    let mut findings = Vec::new();
    let mode = |path: &Path| fs::metadata(path).map(|file| (file.permissions().mode() & 0o777, file.uid()));
    match mode(data.path()) {
        Ok((mode, _)) if mode & 0o077 != 0 => findings.push(Finding::warning(
            "data",
            format!("others may read {shown} (mode {mode:o}), where the signing key stands"),
            format!("chmod 700 {shown}"),
        )),
        Ok(_) => {}
        Err(error) => findings.push(Finding::fault("data", format!("{shown} cannot be read: {error}"), "run this as the user that serves")),
    }
    let key = data.path().join("keys/signing.key");
    match mode(&key) {
        Ok((mode, _)) if mode & 0o077 != 0 => findings.push(Finding::fault(
            "data",
            format!("others may read the signing key (mode {mode:o}), and mint tokens with it"),
            format!("chmod 600 {}", key.display()),
        )),
        Ok(_) => {
            if let Err(error) = SigningKey::load_or_create(data.path()) {
                let (says, fix) = split_fix(&error.to_string());
                findings.push(Finding::fault("data", says, fix));
            }
        }
        // Made by the first `serve` or `token`.
        Err(_) => {}
    }
    if findings.is_empty() {
        findings.push(Finding::ok("data", format!("{shown} is its owner's alone")));
    }
    findings
}

pub fn disk(path: &Path) -> Finding {
    // Of a directory that is not there yet, the disk it will be made on.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let (free, shown) = match sys::free_bytes(there) {
        Ok(free) => (free, bytes(&free.into())),
        Err(error) => {
            return Finding::warning("disk", format!("{} tells no free space: {error}", there.display()), format!("df {}", there.display()));
        }
    };
    match free {
        0..DISK_BYTES_MIN => Finding::fault("disk", format!("{shown} free for {}: joins stop when it is full", path.display()), format!("make room: du -xh {} | sort -h | tail", there.display())),
        DISK_BYTES_MIN..DISK_BYTES_GOOD => Finding::warning("disk", format!("{shown} free for {}", path.display()), format!("make room: du -xh {} | sort -h | tail", there.display())),
        _ => Finding::ok("disk", format!("{shown} free")),
    }
}

/// Where recordings are written: may be a disk of its own.
pub fn recordings(path: &Path) -> Finding {
    let shown = path.display();
    if path.exists() && !path.is_dir() {
        return Finding::fault("records", format!("{shown} is no directory: nothing can be recorded"), "name another one: recording.dir");
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if fs::metadata(there).is_ok_and(|facts| facts.permissions().readonly()) {
        return Finding::fault("records", format!("{} may not be written", there.display()), format!("chmod u+wx {}", there.display()));
    }
    // An hour of 2.5 Mbit/s is 1.1 GB.
    match sys::free_bytes(there) {
        Ok(free @ 0..RECORDINGS_BYTES_GOOD) => Finding::warning(
            "records",
            format!("{} free for recordings in {shown}: about {} minutes of 2.5 Mbit/s", bytes(&free.into()), free / (312_500 * 60)),
            format!("make room (`spillway record list`, `record delete`), or another disk: recording.dir; du -xh {}", there.display()),
        ),
        Ok(free) => Finding::ok("records", format!("{} free in {shown}", bytes(&free.into()))),
        Err(error) => Finding::warning("records", format!("{} tells no free space: {error}", there.display()), format!("df {}", there.display())),
    }
}

/// How the engine will talk to the kernel; of one that runs, how it does.
pub fn engine(wanted: &str, node: Option<&NodeJson>) -> Vec<Finding> {
    let probe = probe_io();
    let mut findings = Vec::new();
    let runs_sockets = node.is_some_and(|node| node.io == "socket");
    let runs_frames = node.is_some_and(|node| node.io == "frames");
    findings.push(match (wanted, &probe.uring) {
        _ if runs_frames => Finding::ok("io", "media goes as frames, past the kernel's UDP and netfilter's output rules"),
        ("frames", _) if node.is_none() => frames(&probe.frames),
        ("socket", _) => Finding::ok("io", "plain sockets, as configured"),
        (_, Ok(())) if runs_sockets => Finding::warning(
            "io",
            "io_uring works here, but the node runs on plain sockets: it is more confined than this shell, or it was asked to",
            "look at the line `engine` that it printed when it was started",
        ),
        (_, Ok(())) => Finding::ok("io", "io_uring works"),
        ("uring", Err(error)) => {
            let (says, fix) = split_fix(error);
            Finding::fault("io", says, fix)
        }
        (_, Err(error)) => {
            let (says, fix) = split_fix(error);
            Finding::warning("io", format!("{says}; plain sockets are taken, which cost more CPU"), fix)
        }
    });
    let segments = node.map_or(probe.gso_segments, |node| node.gso as usize);
    findings.push(match segments {
        0 | 1 => Finding::warning("gso", "UDP GSO is off: sending costs several times more CPU", "run Linux 4.18 or newer"),
        segments => Finding::ok("gso", format!("UDP GSO up to {segments} segments")),
    });
    findings
}

/// What `--io frames` would find. A service may be more confined, or less, than this shell.
fn frames(probe: &Result<(), String>) -> Finding {
    match probe {
        Ok(()) => Finding::ok("io", "frames can be sent from here"),
        Err(reason) => Finding::fault(
            "io",
            format!("frames, as configured, cannot be sent from here: {reason}"),
            "give the service CAP_NET_RAW and AF_PACKET (deploy/README.md, \"Media as frames\"), or set engine.io to auto",
        ),
    }
}

pub fn memlock(pid: Option<u32>) -> Finding {
    let limit = limit_in(&proc_of(pid, "limits"), "Max locked memory");
    match limit {
        Some(limit) if limit < MEMLOCK_BYTES_GOOD && !has_capability(pid, CAP_IPC_LOCK) => Finding::warning(
            "memlock",
            format!("{} may be locked: too little for io_uring on many shards", bytes(&limit.into())),
            "ulimit -l 65536, or LimitMEMLOCK=64M in the systemd unit",
        ),
        Some(limit) => Finding::ok("memlock", format!("{} may be locked", bytes(&limit.into()))),
        None => Finding::ok("memlock", "no limit"),
    }
}

/// Whether shards may be real-time, or at least ahead of what else runs on their cores, which matters most where control does. RLIMIT_NICE counts from 20
/// downwards: 30 is a nice of -10.
pub fn priority(pid: Option<u32>, shards: Option<usize>) -> Finding {
    let limits = proc_of(pid, "limits");
    let at_least = |name, least| has_capability(pid, CAP_SYS_NICE) || limit_in(&limits, name).is_none_or(|limit| limit >= least);
    let place = sys::cores().map(|cores| place(&cores, shards)).ok();
    let shares = place.as_ref().is_some_and(|place| place.control.is_empty());
    let each_has_its_own = place.is_some_and(|place| place.shards.iter().collect::<BTreeSet<_>>().len() == place.shards.len());
    let real_time = at_least("Max realtime priority", 1) && may_stay_real_time(&limits) && each_has_its_own;
    priority_of(real_time, at_least("Max nice priority", 20 + SHARD_AHEAD), shares)
}

/// Who may not is ended by the kernel, and the engine does not try (RLIMIT_RTTIME).
fn may_stay_real_time(limits: &str) -> bool {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max realtime timeout"));
    line.is_none_or(|line| line.split_whitespace().next() == Some("unlimited"))
}

fn priority_of(real_time: bool, ahead: bool, shares: bool) -> Finding {
    match (real_time, ahead, shares) {
        (true, ..) => Finding::ok("priority", "shards are real-time while they have time to spare"),
        (false, true, _) => Finding::ok("priority", "shards are ahead of what else runs on their cores, but not real-time (a core for each, and LimitRTPRIO=1)"),
        (false, false, false) => Finding::ok("priority", "shards are as urgent as what else runs on their cores; control has its own"),
        (false, false, true) => Finding::warning(
            "priority",
            "shards are as urgent as control, which has no core of its own: packets are some milliseconds late while many join",
            "run with fewer --shards, as root, or with LimitRTPRIO=1 and LimitNICE=-15 in the systemd unit",
        ),
    }
}

pub fn files(pid: Option<u32>) -> Finding {
    let limits = proc_of(pid, "limits");
    const FIX: &str = "ulimit -Hn 65536, or LimitNOFILE=65536 in the systemd unit";
    // `serve` raises the soft limit to the hard one.
    match limit_in(&limits, "Max open files") {
        Some(limit @ 0..FILES_MIN) => Finding::fault("nofile", format!("{limit} open files: too few for pages and sockets"), FIX),
        Some(limit @ FILES_MIN..FILES_GOOD) => Finding::warning("nofile", format!("{limit} open files: fewer than 8,192 connections need"), FIX),
        Some(limit) => Finding::ok("nofile", format!("{limit} open files")),
        None => Finding::ok("nofile", "no limit of open files"),
    }
}

/// Of a node that runs: what its sockets could get.
pub fn system_buffers(supervisor: u32) -> Option<Finding> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?.trim().parse::<usize>().ok();
    if has_capability(Some(supervisor), CAP_NET_ADMIN) {
        return Some(Finding::ok("buffers", "8 MiB per socket, past the system's limit (CAP_NET_ADMIN)"));
    }
    // A container's network has no such file.
    Some(buffers(read("rmem_max")?.min(read("wmem_max")?)))
}

pub fn buffers(granted: usize) -> Finding {
    match granted < BUFFER_BYTES {
        true => Finding::warning(
            "buffers",
            format!("{} KiB per socket instead of {} KiB: a busy node loses packets", granted / 1_024, BUFFER_BYTES / 1_024),
            format!("sysctl -w net.core.rmem_max={BUFFER_BYTES} net.core.wmem_max={BUFFER_BYTES}, then restart Spillway"),
        ),
        false => Finding::ok("buffers", format!("{} KiB per socket", granted / 1_024)),
    }
}

/// Tokens end by the clock, and those who mint them have another one.
pub fn clock() -> Finding {
    match sys::clock_is_synchronised() {
        Ok(true) => Finding::ok("clock", "is synchronised"),
        Ok(false) => Finding::warning("clock", "nobody keeps the clock right: tokens end too early or too late", "timedatectl set-ntp true"),
        Err(error) => Finding::warning("clock", format!("cannot be asked: {error}"), "timedatectl"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Level;
    use crate::data_dir::tests::Scratch;

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
                          Max open files            1024                 524288               files\n\
                          Max locked memory         8388608              unlimited            bytes\n";

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        assert_eq!(limit_in(LIMITS, "Max open files"), Some(524_288));
        assert_eq!(limit_in(LIMITS, "Max locked memory"), None);
        assert_eq!(limit_in(LIMITS, "Max cpu time"), None);
        assert!(files(None).says.contains("open files"));
    }

    #[test]
    fn a_key_that_others_may_read_is_a_fault_with_one_command() {
        let scratch = Scratch::new();
        let data = DataDir::open(&scratch.0).unwrap();
        SigningKey::load_or_create(data.path()).unwrap();
        assert_eq!(data_directory(&scratch.0, Some(&data))[0].level, Level::Ok);
        let key = scratch.0.join("keys/signing.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let found = &data_directory(&scratch.0, Some(&data))[0];
        assert_eq!((found.level, found.fix.clone()), (Level::Fault, Some(format!("chmod 600 {}", key.display()))));
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(data_directory(&scratch.0, Some(&data))[0].level, Level::Warning);
        assert_eq!(data_directory(&key, None)[0].level, Level::Fault, "a file is no directory");
        assert_eq!(data_directory(&scratch.0.join("none"), None)[0].level, Level::Ok);
    }

    #[test]
    fn frames_that_are_wanted_and_cannot_be_sent_are_a_fault() {
        let found = frames(&Err("Operation not permitted (os error 1)".to_owned()));
        assert_eq!(found.level, Level::Fault);
        assert!(found.says.contains("not permitted") && found.fix.unwrap().contains("CAP_NET_RAW"));
        assert_eq!(frames(&Ok(())).level, Level::Ok);
    }

    #[test]
    fn shards_that_may_not_go_first_are_told_of_where_control_shares_their_cores() {
        assert_eq!(limit_in("Max nice priority         0                    30                   \n", "Max nice priority"), Some(30));
        assert!(may_stay_real_time("Max realtime timeout      unlimited            unlimited            us        \n") && may_stay_real_time(""));
        assert!(!may_stay_real_time("Max realtime timeout      200000               unlimited            us        \n"));
        for (real_time, ahead, shares, says) in [
            (true, true, true, "are real-time"),
            (true, false, true, "are real-time"),
            (false, true, true, "not real-time"),
            (false, false, false, "control has its own"),
        ] {
            let found = priority_of(real_time, ahead, shares);
            assert!(found.level == Level::Ok && found.says.contains(says), "{}", found.says);
        }
        let found = priority_of(false, false, true);
        assert_eq!(found.level, Level::Warning);
        assert!(found.fix.unwrap().contains("LimitRTPRIO=1 and LimitNICE=-15"));
    }

    #[test]
    fn small_buffers_name_the_sysctl() {
        let found = buffers(212_992);
        assert_eq!(found.level, Level::Warning);
        assert!(found.fix.unwrap().starts_with("sysctl -w net.core.rmem_max=8388608 net.core.wmem_max=8388608"));
        assert_eq!(buffers(BUFFER_BYTES).level, Level::Ok);
    }

    #[test]
    fn the_disk_of_a_directory_that_is_not_there_yet_is_that_of_its_parent() {
        let found = disk(Path::new("/tmp/surely/not/there"));
        assert!(found.says.contains("iB free"), "{found:?}");
    }
}

//! What the server's processes cost: CPU time and memory as /proc has them, children included.

use crate::sys;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// One process at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Process {
    pub name: String,
    parent: u32,
    /// User and system, in clock ticks.
    user_ticks: u64,
    system_ticks: u64,
    /// Both together, to the nanosecond; none where that clock cannot be read.
    cpu: Option<Duration>,
    pub rss_bytes: u64,
}

/// Processes and all their descendants, by pid.
#[derive(Clone, Default, Debug)]
pub struct Sample {
    pub processes: BTreeMap<u32, Process>,
}

/// What one process used between two samples.
#[derive(Clone, Serialize, Default, Debug)]
pub struct Usage {
    pub pid: u32,
    pub name: String,
    /// On a core, user and system, to the nanosecond; the two apart are counted in hundredths of a second.
    pub cpu_s: f64,
    pub user_s: f64,
    pub system_s: f64,
    pub rss_bytes: u64,
}

fn ticks_per_second() -> f64 {
    // JUSTIFICATION: std does not know the tick that /proc counts in.
    // SAFETY: the call takes a number and gives one.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

/// A line of /proc/PID/stat. The name may hold anything, also brackets: what counts is behind the last one.
fn parse(stat: &str, page_bytes: u64) -> Option<Process> {
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(Process {
        name: name.to_owned(),
        parent: number(1)? as u32,
        user_ticks: number(11)?,
        system_ticks: number(12)?,
        cpu: None,
        rss_bytes: number(21)? * page_bytes,
    })
}

fn read(pid: u32, page_bytes: u64) -> Option<Process> {
    let process = parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, page_bytes)?;
    Some(Process { cpu: sys::cpu_time_of(pid), ..process })
}

/// The command's name and, where its first word is one, that word: three processes of one program are told apart.
fn full_name(pid: u32, name: &str) -> String {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    with_first_word(name, &line)
}

fn with_first_word(name: &str, line: &str) -> String {
    let word = line.split('\0').nth(1).filter(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
    word.filter(|word| !word.starts_with('-')).map_or_else(|| name.to_owned(), |word| format!("{name} {word}"))
}

/// This process.
pub fn own() -> Option<Process> {
    read(std::process::id(), page_bytes())
}

fn page_bytes() -> u64 {
    // JUSTIFICATION: std does not know the page that /proc counts in.
    // SAFETY: the call takes a number and gives one.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64
}

impl Process {
    #[cfg(test)]
    pub fn of(name: &str, rss_bytes: u64, cpu: Duration) -> Process {
        Process { name: name.to_owned(), parent: 1, user_ticks: 0, system_ticks: 0, cpu: Some(cpu), rss_bytes }
    }
}

impl Sample {
    pub fn take(roots: &[u32]) -> Sample {
        let page_bytes = page_bytes();
        if roots.is_empty() {
            return Sample::default();
        }
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let all: BTreeMap<u32, Process> = pids.filter_map(|pid| Some((pid, read(pid, page_bytes)?))).collect();
        let mut chosen: BTreeMap<u32, Process> = BTreeMap::new();
        let mut open = roots.to_vec();
        while let Some(pid) = open.pop() {
            if let Some(process) = all.get(&pid)
                && chosen.insert(pid, Process { name: full_name(pid, &process.name), ..process.clone() }).is_none()
            {
                open.extend(all.iter().filter(|(_, child)| child.parent == pid).map(|(child, _)| *child));
            }
        }
        Sample { processes: chosen }
    }

    pub fn rss_bytes(&self) -> u64 {
        self.processes.values().map(|process| process.rss_bytes).sum()
    }

    /// What they hold, a page that several share counted once: segments in shared memory belong to all three.
    pub fn memory_bytes(&self) -> u64 {
        self.processes.iter().map(|(pid, process)| proportional_bytes(*pid).unwrap_or(process.rss_bytes)).sum()
    }

    /// From `before` to this one. What began in between counts whole.
    pub fn since(&self, before: &Sample) -> Vec<Usage> {
        let tick = 1.0 / ticks_per_second();
        let usage = |(pid, now): (&u32, &Process)| {
            let then = before.processes.get(pid);
            let (user, system) = then.map_or((0, 0), |then| (then.user_ticks, then.system_ticks));
            let user_s = now.user_ticks.saturating_sub(user) as f64 * tick;
            let system_s = now.system_ticks.saturating_sub(system) as f64 * tick;
            let fine = now.cpu.map(|now| now.saturating_sub(then.and_then(|then| then.cpu).unwrap_or_default()));
            Usage {
                pid: *pid,
                name: now.name.clone(),
                cpu_s: fine.map_or(user_s + system_s, |cpu| cpu.as_secs_f64()),
                user_s,
                system_s,
                rss_bytes: now.rss_bytes,
            }
        };
        self.processes.iter().map(usage).collect()
    }
}

/// The proportional set size, which only the process's owner and root may see. Walks all of its pages: some milliseconds.
fn proportional_bytes(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}

/// Descriptors a process has open; 0 where they cannot be seen.
pub fn open_files(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64)
}

/// Time of the cores this process may run on: idle, and all.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Cores {
    idle_ticks: u64,
    all_ticks: u64,
}

impl Cores {
    pub fn now() -> Cores {
        let allowed = crate::sys::allowed_cores();
        Cores::parse(&fs::read_to_string("/proc/stat").unwrap_or_default(), |core| allowed.contains(&core))
    }

    fn parse(stat: &str, is_allowed: impl Fn(usize) -> bool) -> Cores {
        let mut cores = Cores::default();
        for line in stat.lines() {
            let mut words = line.split_ascii_whitespace();
            let core = words.next().and_then(|name| name.strip_prefix("cpu")?.parse().ok());
            if !core.is_some_and(&is_allowed) {
                continue;
            }
            // user nice system idle iowait irq softirq steal; guests are in user already.
            let ticks: Vec<u64> = words.take(8).map(|word| word.parse().unwrap_or(0)).collect();
            cores.idle_ticks += ticks.iter().skip(3).take(2).sum::<u64>();
            cores.all_ticks += ticks.iter().sum::<u64>();
        }
        cores
    }

    /// The idle share of the time since; 1 where nothing is known.
    pub fn idle_since(&self, before: &Cores) -> f64 {
        let all = self.all_ticks.saturating_sub(before.all_ticks);
        if all == 0 { 1.0 } else { self.idle_ticks.saturating_sub(before.idle_ticks) as f64 / all as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_name() {
        let line = "4242 (a) b (c) S 17 4242 4242 0 -1 4194304 5 0 0 0 250 125 0 0 20 0 3 0 99 1000000 321 18446744073709551615 1";
        let process = parse(line, 4_096).unwrap();
        assert_eq!((process.name.as_str(), process.parent), ("a) b (c", 17));
        assert_eq!((process.user_ticks, process.system_ticks, process.rss_bytes), (250, 125, 321 * 4_096));
        assert_eq!(parse("", 4_096), None);
        assert_eq!(parse("1 (x) S", 4_096), None);
    }

    #[test]
    fn processes_of_one_program_are_told_apart_by_their_first_word() {
        let of = |line: &str| with_first_word("spillway", line);
        assert_eq!(of("/usr/bin/spillway\0engine\0--x\0"), "spillway engine");
        for other in ["spillway\0", "", "python3\0server.py\0", "x\0--data\0/tmp\0", "x\0\0"] {
            assert_eq!(of(other), "spillway", "{other:?}");
        }
    }

    #[test]
    fn only_the_cores_one_may_run_on_count_and_waiting_for_disks_is_idle() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0\ncpu1 10 0 10 50 20 5 5 0 7 0\nintr 5\n";
        let one = Cores::parse(stat, |core| core == 1);
        assert_eq!(one, Cores { idle_ticks: 70, all_ticks: 100 });
        assert!((one.idle_since(&Cores::default()) - 0.7).abs() < 1e-9);
        assert_eq!(one.idle_since(&one), 1.0);
        assert_eq!(Cores::parse(stat, |_| true).all_ticks, 1_100);
    }

    #[test]
    fn children_are_taken_along_and_work_is_counted() {
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 20 & wait"]).spawn().unwrap();
        let own = std::process::id();
        let grown = |sample: &Sample| sample.processes.len() >= 3;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut before = Sample::take(&[own]);
        while !grown(&before) && std::time::Instant::now() < deadline {
            before = Sample::take(&[own]);
        }
        assert!(grown(&before), "this process, the shell and its sleep: {before:?}");
        let begin = crate::sys::process_cpu_time();
        while crate::sys::process_cpu_time() - begin < std::time::Duration::from_millis(200) {
            std::hint::black_box(0);
        }
        let after = Sample::take(&[own]);
        let used = after.since(&before).into_iter().find(|usage| usage.pid == own).unwrap();
        assert!(used.user_s + used.system_s >= 0.15, "{used:?}");
        // Two clocks of one thing, of which one counts in hundredths.
        assert!((used.cpu_s - used.user_s - used.system_s).abs() <= 0.05 && used.cpu_s >= 0.2, "{used:?}");
        assert!(after.rss_bytes() > 1 << 20 && after.memory_bytes() > 1 << 19 && after.memory_bytes() < after.rss_bytes(), "what the three share counts once");
        for pid in before.processes.keys().filter(|pid| **pid != own) {
            let _ = std::process::Command::new("kill").arg(pid.to_string()).status();
        }
        let _ = child.wait();
    }
}

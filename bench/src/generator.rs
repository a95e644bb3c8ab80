//! The generator watches itself: where it was the limit, nothing is said of the server.

use crate::summary::Generator;
use std::collections::BTreeMap;
use std::time::Duration;

/// Above it a thread of the generator has no time to spare, and what it sees says nothing of the server.
const CPU_RATIO_MAX: f64 = 0.90;
/// Of the cores it may run on, together: below it nobody gets a core when he needs one.
const IDLE_RATIO_MIN: f64 = 0.05;
const LAG_MAX: Duration = Duration::from_millis(50);
/// A frame's packets are spread over 10 ms: beyond that the source is another one.
const PUBLISHER_LAG_MAX_MS: f64 = 10.0;

/// What this process's threads with such names did: time on a core, and time ready but without one.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    ran: Duration,
    waited: Duration,
}

pub fn spent(prefix: &str) -> BTreeMap<u64, Spent> {
    let mut threads = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let id = task.file_name().to_str().and_then(|id| id.parse().ok());
        // Nanoseconds: run, then waited for a core; finer than the ticks of `stat`.
        let words = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let mut words = words.split_ascii_whitespace().map(|word| word.parse().map_or(Duration::ZERO, Duration::from_nanos));
        let (Some(ran), Some(waited)) = (words.next(), words.next()) else { continue };
        if let (true, Some(id)) = (name.starts_with(prefix), id) {
            threads.insert(id, Spent { ran, waited });
        }
    }
    threads
}

/// The busiest thread's shares of the time: on a core, and waiting for one.
pub fn busiest(from: &BTreeMap<u64, Spent>, to: &BTreeMap<u64, Spent>, seconds: f64) -> (f64, f64) {
    let shares = to.iter().map(|(id, to)| {
        let from = from.get(id).copied().unwrap_or_default();
        let share = |to: Duration, from: Duration| to.saturating_sub(from).as_secs_f64() / seconds;
        (share(to.ran, from.ran), share(to.waited, from.waited))
    });
    shares.max_by(|one, other| (one.0 + one.1).total_cmp(&(other.0 + other.1))).unwrap_or_default()
}

/// Whether the generator had time to spare; if not, why. `publisher_lag_ms`: how late its packets went out (p99).
pub fn judge(seen: Generator, publisher_lag_ms: f64) -> Generator {
    let mut reasons = Vec::new();
    if seen.cores_idle_ratio < IDLE_RATIO_MIN && seen.cpu_ratio < CPU_RATIO_MAX {
        let idle = seen.cores_idle_ratio * 100.0;
        reasons.push(format!("its cores were idle for {idle:.0} % of the time: something else runs there, which may be the server"));
    }
    if seen.cpu_ratio + seen.waited_ratio > CPU_RATIO_MAX {
        reasons.push(format!("a thread of the crowd was busy for {:.0} % of the time: more --threads, or another machine", seen.cpu_ratio * 100.0));
    }
    if seen.lag_ms_p99 > LAG_MAX.as_secs_f64() * 1e3 {
        reasons.push(format!("timers were {:.0} ms late (p99): something else uses this core", seen.lag_ms_p99));
    }
    if seen.socket_drops > 0 {
        reasons.push(format!("{} datagrams were dropped before they were read: too slow, or net.core.rmem_max too small", seen.socket_drops));
    }
    if publisher_lag_ms > PUBLISHER_LAG_MAX_MS {
        reasons.push(format!("the publisher's packets went out {publisher_lag_ms:.0} ms late (p99)"));
    }
    Generator { saturated: !reasons.is_empty(), reasons, ..seen }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ease() -> Generator {
        Generator { cpu_ratio: 0.6, waited_ratio: 0.1, cores_idle_ratio: 0.3, lag_ms_p99: 2.0, ..Generator::default() }
    }

    #[test]
    fn one_reason_is_enough_and_each_is_told() {
        let judged = judge(at_ease(), 3.0);
        assert!(!judged.saturated && judged.reasons.is_empty() && judged.cpu_ratio == 0.6, "{judged:?}");
        for (seen, lag_ms, word) in [
            (Generator { cpu_ratio: 0.91, ..at_ease() }, 0.0, "91 %"),
            (Generator { waited_ratio: 0.31, ..at_ease() }, 0.0, "busy"),
            (Generator { cores_idle_ratio: 0.04, ..at_ease() }, 0.0, "idle for 4 %"),
            (Generator { lag_ms_p99: 51.0, ..at_ease() }, 0.0, "51 ms late"),
            (Generator { socket_drops: 1, ..at_ease() }, 0.0, "1 datagrams were dropped"),
            (at_ease(), 10.1, "publisher's packets went out 10 ms late"),
        ] {
            let judged = judge(seen, lag_ms);
            assert!(judged.saturated && judged.reasons.len() == 1 && judged.reasons[0].contains(word), "{word}: {judged:?}");
        }
        // A thread that fills its core leaves none idle: one reason, not two.
        assert_eq!(judge(Generator { cpu_ratio: 0.99, cores_idle_ratio: 0.0, ..at_ease() }, 0.0).reasons.len(), 1);
    }

    #[test]
    fn the_busiest_thread_is_the_one_that_wants_a_core_most() {
        let of = |ran: u64, waited: u64| Spent { ran: Duration::from_secs(ran), waited: Duration::from_secs(waited) };
        let from: BTreeMap<u64, Spent> = [(1, of(100, 0)), (2, of(5, 5))].into();
        // The third began meanwhile: all of it counts.
        let to: BTreeMap<u64, Spent> = [(1, of(103, 0)), (2, of(6, 8)), (3, of(2, 1))].into();
        assert_eq!(busiest(&from, &to, 10.0), (0.1, 0.3));
        assert_eq!(busiest(&from, &[(1, of(101, 0))].into(), 10.0), (0.1, 0.0));
        assert_eq!(busiest(&from, &BTreeMap::new(), 10.0), (0.0, 0.0));
    }

    #[test]
    fn a_threads_work_is_found_by_its_name() {
        let worked = Duration::from_millis(30);
        let work = move || {
            while crate::sys::thread_cpu_time() < worked {
                std::hint::black_box(0);
            }
            let (ours, others) = (spent("seen-"), spent("unseen-"));
            (ours.values().map(|spent| spent.ran).sum::<Duration>(), ours.len(), others.len())
        };
        let thread = std::thread::Builder::new().name("seen-7".into()).spawn(work).unwrap();
        let (ran, ours, others) = thread.join().unwrap();
        // What it runs at this moment is added at the next tick.
        assert!(ran >= worked - Duration::from_millis(20), "{ran:?}");
        assert_eq!((ours, others), (1, 0));
    }
}

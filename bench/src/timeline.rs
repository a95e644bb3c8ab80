//! The hold, second by second: what was delivered, what the server used, how memory and open files went.

use crate::crowd::{Outcome, Tally};
use crate::process::{self, Process, Sample};
use crate::summary::{self, Second, Slope};
use crate::sys;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub struct Timeline<'p> {
    from: Duration,
    pids: &'p [u32],
    /// When, and packets, bytes and holes until then.
    last: (Duration, Sample, (u64, u64, u64)),
    pub seconds: Vec<Second>,
    /// By process of the server: its name and how it went.
    resources: BTreeMap<u32, (String, Vec<Point>)>,
    own: Vec<Point>,
}

/// Second, memory, open files.
type Point = (f64, f64, f64);

impl<'p> Timeline<'p> {
    pub fn new(from: Duration, pids: &'p [u32], sample: Sample, packets: (u64, u64, u64)) -> Timeline<'p> {
        Timeline { from, pids, last: (from, sample, packets), seconds: Vec::new(), resources: BTreeMap::new(), own: Vec::new() }
    }

    /// To be called often: a point each second. `delivered`: packets and bytes so far.
    pub fn tick(&mut self, tally: &Tally, delivered: (u64, u64)) {
        let now = sys::monotonic();
        if now - self.last.0 >= Duration::from_secs(1) {
            self.add(now, tally, delivered, Sample::take(self.pids), process::own());
        }
    }

    fn add(&mut self, now: Duration, tally: &Tally, delivered: (u64, u64), new: Sample, own: Option<Process>) {
        let (then, sample, (packets, bytes, lost)) = &self.last;
        let seconds = (now - *then).as_secs_f64();
        let used: f64 = new.since(sample).iter().map(|usage| usage.cpu_s).sum();
        let counts = (delivered.0, delivered.1, tally.lost.load(Ordering::Relaxed));
        self.seconds.push(Second {
            at_s: (now - self.from).as_secs_f64(),
            packets_per_s: (counts.0 - packets) as f64 / seconds,
            mbps: (counts.1 - bytes) as f64 * 8e-6 / seconds,
            lost_packets: counts.2 - lost,
            viewers: tally.shown.load(Ordering::Relaxed),
            server_cpu: (!self.pids.is_empty()).then_some(used / seconds),
            ..Second::default()
        });
        let at_s = (now - self.from).as_secs_f64();
        let point = |pid: u32, process: &Process| (at_s, process.rss_bytes as f64, process::open_files(pid) as f64);
        for (pid, process) in &new.processes {
            let (_, points) = self.resources.entry(*pid).or_insert_with(|| (process.name.clone(), Vec::new()));
            points.push(point(*pid, process));
        }
        self.own.extend(own.map(|process| point(std::process::id(), &process)));
        self.last = (now, new, counts);
    }

    /// What memory and open files of each of the server's processes did over the hold.
    pub fn slopes(&self) -> Vec<Slope> {
        self.resources.iter().filter_map(|(pid, (name, points))| slope_of(*pid, name, points)).collect()
    }

    /// The same of this process.
    pub fn own_slope(&self) -> Option<Slope> {
        slope_of(std::process::id(), "spillway-bench", &self.own)
    }

    /// The worst of the crowd's threads in each second.
    pub fn with_latency(mut self, outcomes: &[Outcome], unix_from: u64) -> Vec<Second> {
        let worst = |old: Option<f64>, new: f64| Some(old.map_or(new, |old| old.max(new)));
        for (unix, p50, p99, p999) in outcomes.iter().flat_map(|outcome| &outcome.seconds) {
            let place = unix.checked_sub(unix_from).and_then(|at| self.seconds.get_mut(at as usize));
            let Some(second) = place else { continue };
            second.latency_p50_us = worst(second.latency_p50_us, *p50);
            second.latency_p99_us = worst(second.latency_p99_us, *p99);
            second.latency_p999_us = worst(second.latency_p999_us, *p999);
        }
        self.seconds
    }
}

fn slope_of(pid: u32, name: &str, points: &[Point]) -> Option<Slope> {
    let line = |of: fn(&Point) -> f64| summary::slope(points.iter().map(|point| (point.0, of(point))));
    let (rss, rss_error) = line(|point| point.1)?;
    let (files, files_error) = line(|point| point.2)?;
    Some(Slope {
        pid,
        name: name.to_owned(),
        rss_bytes: points.last().map_or(0, |point| point.1 as u64),
        rss_bytes_per_hour: rss * 3_600.0,
        rss_error: rss_error * 3_600.0,
        files: points.last().map_or(0, |point| point.2 as u64),
        files_per_hour: files * 3_600.0,
        files_error: files_error * 3_600.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_000 + seconds)
    }

    /// A server that grows by 1,000 bytes a second and is busy for a quarter of it.
    fn sample(second: u64) -> Sample {
        let process = Process::of("spillway engine", 50_000 + 1_000 * second, Duration::from_millis(250 * second));
        Sample { processes: [(1, process)].into() }
    }

    #[test]
    fn a_point_is_what_came_since_the_one_before() {
        let (tally, pids) = (Tally::default(), [1]);
        tally.packets.store(5_000, Ordering::Relaxed);
        let mut timeline = Timeline::new(at(0), &pids, sample(0), (5_000, 0, 0));
        for second in 1..=10 {
            tally.packets.fetch_add(310, Ordering::Relaxed);
            tally.bytes.fetch_add(125_000, Ordering::Relaxed);
            tally.lost.fetch_add(3, Ordering::Relaxed);
            tally.shown.store(second, Ordering::Relaxed);
            timeline.add(at(second), &tally, tally.delivered(), sample(second), None);
        }
        let [slope] = timeline.slopes().try_into().unwrap();
        assert_eq!((slope.name.as_str(), slope.rss_bytes), ("spillway engine", 60_000));
        assert!((slope.rss_bytes_per_hour / 3.6e6 - 1.0).abs() < 1e-6 && slope.rss_error < 1.0, "{slope:?}");
        assert!(timeline.own_slope().is_none());
        let seconds = timeline.with_latency(&[], 0);
        assert_eq!(seconds.len(), 10);
        let last = seconds[9];
        assert_eq!((last.at_s, last.packets_per_s, last.mbps, last.viewers), (10.0, 310.0, 1.0, 10));
        assert_eq!(last.lost_packets, 3);
        assert!((last.server_cpu.unwrap() - 0.25).abs() < 1e-9);
    }

    #[test]
    fn without_a_server_to_look_at_nothing_is_said_of_it_and_own_growth_is() {
        let tally = Tally::default();
        let mut timeline = Timeline::new(at(0), &[], Sample::default(), (0, 0, 0));
        for second in 1..=5 {
            timeline.add(at(second), &tally, tally.delivered(), Sample::default(), Some(Process::of("x", 7 * second, Duration::ZERO)));
        }
        assert!(timeline.slopes().is_empty());
        let own = timeline.own_slope().unwrap();
        assert!((own.rss_bytes_per_hour - 7.0 * 3_600.0).abs() < 1e-6 && own.files > 0, "{own:?}");
        assert_eq!(timeline.with_latency(&[], 0)[0].server_cpu, None);
    }

    #[test]
    fn a_seconds_latency_is_the_worst_of_the_threads() {
        let outcome = |seconds: &[(u64, f64, f64, f64)]| Outcome { seconds: seconds.to_vec(), ..Outcome::default() };
        let mut timeline = Timeline::new(at(0), &[], Sample::default(), (0, 0, 0));
        (1..=2).for_each(|second| timeline.add(at(second), &Tally::default(), (0, 0), Sample::default(), None));
        let outcomes = [outcome(&[(99, 9.0, 9.0, 9.0), (100, 1.0, 20.0, 30.0)]), outcome(&[(100, 2.0, 10.0, 40.0), (105, 9.0, 9.0, 9.0)])];
        let seconds = timeline.with_latency(&outcomes, 100);
        assert_eq!((seconds[0].latency_p50_us, seconds[0].latency_p99_us, seconds[0].latency_p999_us), (Some(2.0), Some(20.0), Some(40.0)));
        assert_eq!(seconds[1].latency_p50_us, None);
    }
}

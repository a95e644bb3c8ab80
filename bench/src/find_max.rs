//! How many viewers a server carries: runs with more and more of them until one breaks, then between the last that held and
//! the first that broke, until the number is known well enough.

use crate::cli::{FindMaxArgs, RunArgs};
use crate::price::Price;
use crate::run::{self, Elsewhere, RunError};
use crate::summary::{Latencies, Summary};
use crate::sys;
use serde::Serialize;

const GROWTH: f64 = 1.6;
/// Of a server whose CPU is known: the least and the most, and the share of a core that is aimed at.
const GROWTH_RANGE: (f64, f64) = (1.15, 2.5);
const AIM: f64 = 0.9;
/// Delivered of what was offered, at least.
const DELIVERED_MIN: f64 = 0.995;
const LOSS_MAX: f64 = 0.001;
const LATENCY_MAX_US: f64 = 250_000.0;
/// With so many numbers of viewers in a row the generator gave up: fewer still will not help it.
const UNDECIDED_MAX: u32 = 3;
/// Of a null NIC packets are counted from outside, to a frame or keyframe at either end of the hold.
const NULL_EDGE: f64 = 0.03;
/// A process that used so much of a core has no more to give, if it has one thread for media.
const BUSY: f64 = 0.85;

/// One step.
#[derive(Clone, Serialize, Default, Debug)]
pub struct Step {
    pub viewers: u64,
    pub held: bool,
    /// Why not.
    pub broke: Vec<String>,
    pub delivered_mbps: f64,
    pub loss_ratio: f64,
    /// Of the packets that those who were there were due.
    pub delivered_ratio: f64,
    pub latency_p99_us: Option<f64>,
    pub latency_frame_us: Latencies,
    pub latency_keyframe_us: Latencies,
    pub latency_spread_ratio: Option<f64>,
    pub ttff_p99_ms: Option<f64>,
    pub cpu_ns_per_packet: Option<f64>,
    /// Of the loop that only seals and sends, right after.
    pub bare_ns_per_packet: Option<f64>,
    pub server_cpu: Option<f64>,
    pub generator_cpu: f64,
    pub generator_saturated: bool,
    /// Why, in words.
    pub generator_reasons: Vec<String>,
}

#[derive(Clone, Serialize, Default, Debug)]
pub struct Found {
    pub schema: u32,
    pub target: String,
    /// The most that were carried; 0: not even the first step held.
    pub viewers: u64,
    /// The fewest that were not.
    pub broke_at: Option<u64>,
    pub limit: String,
    /// The generator gave up before the server did: `viewers` is a lower bound.
    pub generator_was_limit: bool,
    /// The cost at each step, in the order of the search.
    pub steps: Vec<Step>,
    /// With as many viewers as keep the server so busy as was asked for.
    pub at_busy: Option<Step>,
    /// Of the largest step that held.
    pub price: Option<Price>,
    pub verdict: String,
    /// The whole result of the largest step that held.
    pub largest: Option<Summary>,
}

impl Found {
    /// The steps by viewers: the cost curve.
    pub fn curve(&self) -> Vec<&Step> {
        let mut steps: Vec<&Step> = self.steps.iter().chain(&self.at_busy).collect();
        steps.sort_by_key(|step| step.viewers);
        steps
    }
}

impl Step {
    /// The generator gave up and the server did not.
    fn is_undecided(&self) -> bool {
        self.generator_saturated && self.broke.is_empty()
    }
}

/// What did not hold, in words; nothing: the server carried it.
pub fn broken(summary: &Summary) -> Vec<String> {
    let mut broke = Vec::new();
    if summary.join_failures > 0 {
        let reason = summary.failures.iter().max_by_key(|(_, count)| **count).map_or("they got no picture", |(reason, _)| reason);
        broke.push(format!("{} joins failed ({reason})", summary.join_failures));
    }
    // Viewers that were not there explain what they did not get.
    let offered = summary.offered_pps_per_viewer;
    let (delivered_min, loss_max) = if summary.network == "null" { (1.0 - NULL_EDGE, NULL_EDGE) } else { (DELIVERED_MIN, LOSS_MAX) };
    if summary.pps_per_viewer < offered * delivered_min && summary.duration_s >= 2.0 {
        broke.push(format!("{:.1} of {offered:.1} packets/s were delivered", summary.pps_per_viewer));
    }
    if summary.loss_ratio > loss_max {
        broke.push(format!("{:.3} % were lost", summary.loss_ratio * 100.0));
    }
    if summary.latency_us.p99.is_some_and(|p99| p99 > LATENCY_MAX_US) {
        broke.push(format!("latency is {:.0} ms (p99)", summary.latency_us.p99.unwrap_or_default() / 1e3));
    }
    broke.extend(summary.thresholds.iter().filter(|verdict| !verdict.met).map(|verdict| format!("{} does not hold", verdict.text)));
    broke
}

/// What was used up where it broke.
fn limit(step: &Step) -> String {
    match step.server_cpu {
        // A threshold on the CPU itself: what broke says how much that was.
        Some(cpu) if step.broke.iter().any(|broke| broke.starts_with("cpu")) => format!("the server's CPU ({:.0} % of a core: {})", cpu * 100.0, step.broke.join("; ")),
        Some(cpu) if cpu > BUSY => format!("the server's CPU ({:.0} % of a core)", cpu * 100.0),
        Some(cpu) => format!("not the server's CPU ({:.0} % of a core): {}", cpu * 100.0, step.broke.join("; ")),
        None => format!("{} (with --server-pid its CPU would be known)", step.broke.join("; ")),
    }
}

fn step(args: &RunArgs, publisher_at: Option<&Elsewhere>, viewers: u64) -> Result<(Step, Summary), RunError> {
    // A ramp that takes 5 s, but never so fast that joins alone are the load.
    let ramp = (viewers as f64 / 5.0).clamp(10.0, args.ramp().max(10.0));
    let summary = run::run_from(&args.with(viewers, args.rooms(), ramp, args.hold()), publisher_at)?;
    let broke = broken(&summary);
    let server = summary.server.as_ref();
    let step = Step {
        viewers,
        held: broke.is_empty() && !summary.generator.saturated,
        broke,
        delivered_mbps: summary.delivered_mbps,
        loss_ratio: summary.loss_ratio,
        delivered_ratio: summary.pps_per_viewer / summary.offered_pps_per_viewer.max(f64::MIN_POSITIVE),
        latency_p99_us: summary.latency_us.p99,
        latency_frame_us: summary.latency_frame_us,
        latency_keyframe_us: summary.latency_keyframe_us,
        latency_spread_ratio: summary.latency_spread_ratio,
        ttff_p99_ms: summary.ttff_ms.p99,
        cpu_ns_per_packet: server.map(|server| server.cpu_ns_per_packet),
        bare_ns_per_packet: server.and_then(|server| server.bare_ns_per_packet),
        server_cpu: server.map(|server| server.cpu_ratio),
        generator_cpu: summary.generator.cpu_ratio,
        generator_saturated: summary.generator.saturated,
        generator_reasons: summary.generator.reasons.clone(),
    };
    eprintln!("{}", line(&step));
    Ok((step, summary))
}

/// A step in words.
pub fn line(step: &Step) -> String {
    let cost = step.cpu_ns_per_packet.map_or(String::new(), |ns| format!(", {ns:>5.0} ns/packet, {:>3.0} % of a core", step.server_cpu.unwrap_or_default() * 100.0));
    let latency = step.latency_p99_us.map_or(String::new(), |us| format!(", latency {:>5.1} ms (p99)", us / 1e3));
    let outcome = match (step.held, step.generator_saturated) {
        (true, _) => "held".to_owned(),
        (false, true) => format!("the generator was the limit ({})", step.generator_reasons.join("; ")),
        (false, false) => step.broke.join("; "),
    };
    format!("{:>7} viewers {:>6.0} Mbit/s{cost}{latency}: {outcome}", step.viewers, step.delivered_mbps)
}

pub fn find(args: &FindMaxArgs, publisher_at: Option<&Elsewhere>) -> Result<Found, RunError> {
    let mut steps: Vec<Step> = Vec::new();
    let mut largest: Option<Summary> = None;
    let (mut held, mut broke_at) = (0_u64, None);
    let mut growth = GROWTH;
    let mut undecided = 0;
    while let Some(viewers) = next(held, broke_at, args.run.viewers, args.search.precision, growth)
        && undecided < UNDECIDED_MAX
        && !sys::is_interrupted()
    {
        let (mut step, mut summary) = self::step(&args.run, publisher_at, viewers)?;
        if step.is_undecided() && !sys::is_interrupted() {
            // Something else may have had its core for a moment: once is no proof.
            steps.push(step);
            (step, summary) = self::step(&args.run, publisher_at, viewers)?;
        }
        undecided = if step.is_undecided() { undecided + 1 } else { 0 };
        if step.held {
            held = viewers;
            growth = step.server_cpu.map_or(GROWTH, growth_from);
            largest = Some(summary);
        } else {
            broke_at = Some(viewers);
        }
        steps.push(step);
    }
    let mut at_busy = None;
    if let (Some(viewers), false) = (args.search.busy.and_then(|busy| viewers_at(&steps, busy)), sys::is_interrupted()) {
        at_busy = Some(step(&args.run, publisher_at, viewers)?.0);
        if at_busy.as_ref().is_some_and(Step::is_undecided) && !sys::is_interrupted() {
            at_busy = Some(step(&args.run, publisher_at, viewers)?.0);
        }
    }
    let wall = broke_at.and_then(|at| steps.iter().rfind(|step| step.viewers == at));
    let generator_was_limit = wall.is_some_and(Step::is_undecided);
    let limit = match wall {
        Some(_) if generator_was_limit => "the generator".to_owned(),
        Some(step) => limit(step),
        None => "it was interrupted before anything broke".to_owned(),
    };
    let mbps = largest.as_ref().map_or(0.0, |summary| summary.delivered_mbps);
    let verdict = format!("this box carries {held} viewers at {mbps:.0} Mbit/s; the limit is {limit}");
    let price = largest.as_ref().and_then(|summary| summary.price.clone());
    Ok(Found { schema: 1, target: args.run.target.clone(), viewers: held, broke_at, limit, generator_was_limit, steps, at_busy, price, verdict, largest })
}

/// A server that used so much of a core has so much left; what a packet costs falls as more are sent at a time.
fn growth_from(cpu: f64) -> f64 {
    (AIM / cpu.max(0.01)).clamp(GROWTH_RANGE.0, GROWTH_RANGE.1)
}

/// How many viewers keep the server so busy, on the line between the two steps around it; the largest that held, where all
/// were less busy.
fn viewers_at(steps: &[Step], busy: f64) -> Option<u64> {
    let mut points: Vec<(f64, u64)> = steps.iter().filter(|step| step.held).filter_map(|step| Some((step.server_cpu?, step.viewers))).collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    let above = points.iter().find(|(cpu, _)| *cpu >= busy);
    let below = points.iter().rev().find(|(cpu, _)| *cpu < busy).copied().unwrap_or((0.0, 0));
    match above {
        None => points.last().map(|(_, viewers)| *viewers),
        Some((cpu, viewers)) => {
            let share = (busy - below.0) / (cpu - below.0).max(1e-9);
            let between = below.1 as f64 + share * (*viewers as f64 - below.1 as f64);
            Some((between.round() as u64).max(1))
        }
    }
}

/// How many to try now; nothing: it is known.
fn next(held: u64, broke_at: Option<u64>, first: u64, precision: f64, growth: f64) -> Option<u64> {
    match (held, broke_at) {
        (0, None) => Some(first),
        (held, None) => Some(((held as f64 * growth) as u64).max(held + 1)),
        (held, Some(broke)) => {
            let middle = held.midpoint(broke);
            let known = broke - held <= ((broke as f64 * precision) as u64).max(1) || middle == held;
            (!known).then_some(middle)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches for a server that carries `truth`, and counts the runs.
    fn search(truth: u64, first: u64, precision: f64) -> (u64, u64) {
        let (mut held, mut broke, mut runs) = (0, None, 0);
        while let Some(viewers) = next(held, broke, first, precision, GROWTH) {
            runs += 1;
            if viewers <= truth { held = viewers } else { broke = Some(viewers) }
        }
        (held, runs)
    }

    #[test]
    fn the_search_ends_and_is_as_good_as_was_asked() {
        for truth in [1, 7, 99, 100, 550, 4_321, 30_000] {
            for first in [1, 100, 50_000] {
                let (found, runs) = search(truth, first, 0.05);
                assert!(found <= truth && found as f64 >= truth as f64 * 0.94 - 1.0, "{found} of {truth}");
                assert!(runs < 40, "{runs}");
            }
        }
        assert_eq!(search(0, 10, 0.05).0, 0);
    }

    #[test]
    fn a_run_broke_by_what_is_missing_and_a_null_nic_is_counted_from_outside() {
        let run = |network: &str, pps_per_viewer: f64, loss_ratio: f64| {
            let seen = Summary { network: network.to_owned(), pps_per_viewer, loss_ratio, offered_pps_per_viewer: 310.0, duration_s: 4.0, ..Summary::default() };
            broken(&seen).len()
        };
        assert_eq!((run("real", 310.0, 0.0), run("real", 308.0, 0.002), run("null", 302.0, 0.026)), (0, 2, 0));
        assert_eq!((run("real", 302.0, 0.0), run("null", 290.0, 0.065)), (1, 2));
        let failed = Summary { join_failures: 1, failures: [("no way".to_owned(), 1)].into(), ..Summary::default() };
        assert_eq!(broken(&failed), ["1 joins failed (no way)"]);
    }

    #[test]
    fn the_step_at_a_share_of_a_core_lies_between_those_around_it() {
        let step = |viewers: u64, cpu: f64, held: bool| Step { viewers, held, server_cpu: Some(cpu), ..Step::default() };
        let steps = [step(400, 0.5, true), step(600, 0.9, true), step(200, 0.3, true), step(500, 0.71, false)];
        assert_eq!([0.7, 0.15, 0.95].map(|busy| viewers_at(&steps, busy)), [Some(500), Some(100), Some(600)]);
        assert_eq!(viewers_at(&steps[3..], 0.7), None, "nothing held");
        assert!((growth_from(0.6) - 1.5).abs() < 1e-9 && growth_from(0.0) == 2.5 && growth_from(0.95) == 1.15);
    }
}

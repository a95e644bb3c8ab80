//! What a box with so many cores would carry: arithmetic over parts that were measured on two cores, for sizes nobody here can
//! measure. Pure; every assumption stands in `ASSUMED` and is told with the result.
//!
//! ```text
//!   a packet costs a shard  own + sends x (sends per packet) + seal(sessions of the shard)
//!   seal(s) = seal of 1,000 sessions + a step for each doubling beyond     (their keys fall out of the caches)
//! ```

use serde::Serialize;

/// One run with a NIC that drops: what a packet cost the engine, and the parts of it that were measured beside.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub sessions: f64,
    pub sends_per_packet: f64,
    pub seal_ns: f64,
    pub engine_ns: f64,
}

/// `null --no-audio --silent --gop 1s` with 345,000 packets of 1,200 bytes a second in each of the runs, AES-256-GCM, one shard: fewer
/// packets for each of more viewers. 2026-11-22, 2 x AMD EPYC (virtual), Linux 6.18, other builds beside.
pub const MEASURED: [Point; 3] = [
    Point { sessions: 1_000.0, sends_per_packet: 0.224, seal_ns: 269.0, engine_ns: 1_410.0 },
    Point { sessions: 5_000.0, sends_per_packet: 0.272, seal_ns: 236.0, engine_ns: 1_497.0 },
    Point { sessions: 16_370.0, sends_per_packet: 0.463, seal_ns: 382.0, engine_ns: 1_921.0 },
];

/// What was not measured here.
pub const ASSUMED: [&str; 5] = [
    "cores are alike and share neither arithmetic units nor a full memory bus; a core has the caches of the measured one",
    "the network card takes what the shards send and cuts nothing (segmentation is in the measured cost); its interrupts use cores that are not counted",
    "a shard reads each packet of its streams once from another core's cache: 20 lines of 100 ns",
    "a parked shard is woken for each packet: 1 us of the publisher's shard",
    "a viewer says something 1.5 times a second (a report, a check now and then): 2 us each",
];
const REEL_NS: f64 = 20.0 * 100.0;
const WAKE_NS: f64 = 1_000.0;
const UPKEEP_NS_PER_SECOND: f64 = 1.5 * 2_000.0;
/// Control's and the engine's work for one join (`join-cpu`).
const JOIN_NS: f64 = 1_664_000.0;
/// From here on keys are colder with each doubling.
const SESSIONS_WARM: f64 = 1_000.0;

/// Parts of a packet's cost, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Serialize, Default, Debug)]
pub struct Parts {
    /// All but sealing and sending: the kernel's part for each segment, and the engine's own.
    pub own_ns: f64,
    /// A send, however many segments it has.
    pub send_ns: f64,
    pub seal_ns: f64,
    pub seal_doubling_ns: f64,
}

/// How many doublings beyond what is warm.
fn doublings(sessions: f64) -> f64 {
    (sessions / SESSIONS_WARM).max(1.0).log2()
}

impl Parts {
    /// The straight lines through the points (least squares): what is left without sealing by sends, sealing by doublings. None of
    /// points that lie at one place.
    pub fn fit(points: &[Point]) -> Option<Parts> {
        let (send_ns, own_ns) = line(points.iter().map(|point| (point.sends_per_packet, point.engine_ns - point.seal_ns)))?;
        let (seal_doubling_ns, seal_ns) = line(points.iter().map(|point| (doublings(point.sessions), point.seal_ns)))?;
        Some(Parts { own_ns, send_ns, seal_ns, seal_doubling_ns })
    }

    pub fn packet_ns(&self, sessions: f64, sends_per_packet: f64) -> f64 {
        self.own_ns + self.send_ns * sends_per_packet + self.seal_ns + self.seal_doubling_ns * doublings(sessions)
    }
}

/// Slope and intercept.
fn line(points: impl Iterator<Item = (f64, f64)> + Clone) -> Option<(f64, f64)> {
    let count = points.clone().count() as f64;
    let mean = |of: fn((f64, f64)) -> f64| points.clone().map(of).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.clone().map(|(x, _)| (x - x_mean).powi(2)).sum();
    let together: f64 = points.map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
    (spread > 0.0).then(|| (together / spread, y_mean - together / spread * x_mean))
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub viewers: f64,
    /// Of each viewer, a second.
    pub packets: f64,
    pub sends_per_packet: f64,
    pub bps: f64,
    /// A second, all together.
    pub joins: f64,
}

/// What the model says.
#[derive(Clone, PartialEq, Serialize, Default, Debug)]
pub struct Forecast {
    pub schema: u32,
    pub parts: Parts,
    pub cores: u64,
    /// Cores with a shard: one is left to control up to eight cores, two above.
    pub shards: u64,
    pub viewers: u64,
    /// Of one core each, at so many viewers.
    pub busy_ratio: f64,
    pub packet_ns: f64,
    /// Of 1,000 viewers on one shard.
    pub packet_ns_at_1000: f64,
    pub cost_ratio: f64,
    pub gbps: f64,
    /// As many as keep the shards as busy as they may be.
    pub viewers_max: u64,
    pub gbps_max: f64,
    pub assumed: Vec<String>,
    pub text: String,
}

/// A packet's cost with `viewers` of one stream over `shards`, and how busy each shard is.
fn at(parts: &Parts, load: &Load, viewers: f64, shards: f64) -> (f64, f64) {
    let each = (viewers / shards).max(1.0);
    let shared = if shards > 1.0 { (REEL_NS + WAKE_NS) / each } else { 0.0 };
    let packet_ns = parts.packet_ns(each, load.sends_per_packet) + shared;
    let upkeep = each * UPKEEP_NS_PER_SECOND;
    // The engine's third of a join; control's is on cores of its own.
    let joins = load.joins * JOIN_NS / 3.0 / shards;
    (packet_ns, (each * load.packets * packet_ns + upkeep + joins) / 1e9)
}

pub fn forecast(parts: &Parts, load: &Load, cores: u64, busy_max: f64) -> Forecast {
    let shards = cores.saturating_sub(if cores <= 8 { 1 } else { 2 }).max(1);
    let (packet_ns, busy_ratio) = at(parts, load, load.viewers, shards as f64);
    let (packet_ns_at_1000, _) = at(parts, load, 1_000.0, 1.0);
    // More viewers never make a shard less busy.
    let (mut few, mut many) = (0.0, 1e9);
    while many - few > 1.0 {
        let middle = f64::midpoint(few, many);
        if at(parts, load, middle, shards as f64).1 <= busy_max { few = middle } else { many = middle }
    }
    let gbps = |viewers: f64| viewers * load.bps / 1e9;
    let mut forecast = Forecast {
        schema: 1,
        parts: *parts,
        cores,
        shards,
        viewers: load.viewers as u64,
        busy_ratio,
        packet_ns,
        packet_ns_at_1000,
        cost_ratio: packet_ns / packet_ns_at_1000,
        gbps: gbps(load.viewers),
        viewers_max: few as u64,
        gbps_max: gbps(few),
        assumed: ASSUMED.iter().map(|text| (*text).to_owned()).collect(),
        text: String::new(),
    };
    forecast.text = words(&forecast, load, busy_max);
    forecast
}

fn words(forecast: &Forecast, load: &Load, busy_max: f64) -> String {
    let Forecast { parts, cores, shards, .. } = forecast;
    let carries = if forecast.busy_ratio <= busy_max { "carries" } else { "does not carry" };
    let mut out = format!(
        "a packet costs {:.0} ns (own {:.0}, sends {:.2} of {:.0}, sealing {:.0} and {:.0} more for each doubling of a shard's sessions beyond 1,000); that is {:.2} times the {:.0} ns of 1,000 viewers on one shard\n\
         a box with {cores} cores ({shards} shards) {carries} {:.0} viewers of {:.0} packets/s at {:.0} Gbit/s: its shards are {:.0} % busy\n\
         at {:.0} % busy it carries {} viewers, {:.0} Gbit/s\nassumed, and not measured:\n",
        forecast.packet_ns, parts.own_ns, load.sends_per_packet, parts.send_ns, parts.seal_ns, parts.seal_doubling_ns, forecast.cost_ratio, forecast.packet_ns_at_1000,
        load.viewers, load.packets, forecast.gbps, forecast.busy_ratio * 1e2,
        busy_max * 1e2, forecast.viewers_max, forecast.gbps_max,
    );
    forecast.assumed.iter().for_each(|text| out += &format!("  - {text}\n"));
    out
}

/// How far the fitted model is from each measured point, as a share of it.
pub fn errors(points: &[Point]) -> Option<Vec<f64>> {
    let parts = Parts::fit(points)?;
    Some(points.iter().map(|point| parts.packet_ns(point.sessions, point.sends_per_packet) / point.engine_ns - 1.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const W1: Load = Load { viewers: 50_000.0, packets: 310.0, sends_per_packet: 0.25, bps: 2.564e6, joins: 0.0 };

    /// What it was made of, and what it was not made of: each point by the line through the other two.
    #[test]
    fn the_model_gives_back_what_was_measured() {
        for (point, error) in MEASURED.iter().zip(errors(&MEASURED).unwrap()) {
            assert!(error.abs() < 0.05, "{point:?}: {error}");
        }
        for left_out in 0..MEASURED.len() {
            let others: Vec<Point> = MEASURED.iter().enumerate().filter(|(place, _)| *place != left_out).map(|(_, point)| *point).collect();
            let (point, parts) = (MEASURED[left_out], Parts::fit(&others).unwrap());
            let error = parts.packet_ns(point.sessions, point.sends_per_packet) / point.engine_ns - 1.0;
            assert!(error.abs() < 0.15, "{point:?}: {error}");
        }
        assert_eq!(Parts::fit(&[MEASURED[0]; 3]), None);
    }

    /// Another machine's day, another way of measuring: a loop that only seals and sends (`ablation`) gives a send and a packet
    /// their prices, too.
    #[test]
    fn a_send_costs_what_the_ablation_says() {
        // Copied: 2,251 ns with a send for each packet, 600 with one for nine.
        let ablation = (2_251.0 - 600.0) / (1.0 - 1.0 / 9.0);
        let parts = Parts::fit(&MEASURED).unwrap();
        assert!((parts.send_ns / ablation - 1.0).abs() < 0.2, "{parts:?} {ablation}");
    }

    #[test]
    fn twice_the_cores_carry_about_twice_and_the_busy_share_is_that_of_the_viewers() {
        let parts = Parts::fit(&MEASURED).unwrap();
        let [small, large] = [18, 34].map(|cores| forecast(&parts, &W1, cores, 0.85));
        assert_eq!((small.shards, large.shards), (16, 32));
        let ratio = large.viewers_max as f64 / small.viewers_max as f64;
        assert!((1.98..=2.0).contains(&ratio), "{ratio}");
        let full = forecast(&parts, &Load { viewers: large.viewers_max as f64, ..W1 }, 34, 0.85);
        assert!((full.busy_ratio - 0.85).abs() < 1e-3 && full.text.contains(" carries "), "{full:?}");
        let beyond = forecast(&parts, &Load { viewers: large.viewers_max as f64 * 1.01, ..W1 }, 34, 0.85);
        assert!(beyond.text.contains("does not carry"), "{}", beyond.text);
        let busier = forecast(&parts, &Load { joins: 1_000.0, ..W1 }, 34, 0.85);
        assert!(busier.viewers_max < large.viewers_max);
    }

    #[test]
    fn one_shard_of_a_thousand_is_what_it_is_compared_with() {
        let parts = Parts { own_ns: 800.0, send_ns: 1_600.0, seal_ns: 250.0, seal_doubling_ns: 30.0 };
        let alone = forecast(&parts, &Load { viewers: 1_000.0, ..W1 }, 1, 0.85);
        assert_eq!((alone.shards, alone.cost_ratio, alone.packet_ns), (1, 1.0, 1_450.0));
        let crowded = forecast(&parts, &Load { viewers: 16_000.0, ..W1 }, 2, 0.85);
        assert_eq!((crowded.shards, crowded.packet_ns), (1, 1_570.0), "four doublings");
    }
}

//! What a run came to, as one value: the JSON is it, and terminal and page are made of it. Its fields are the
//! documented schema (bench/README.md); a rename is a change of schema.

use crate::crowd::Outcome;
use crate::histogram::Histogram;
use crate::price::Price;
use crate::process::Usage;
use crate::totals::Totals;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Clone, Serialize, Default, Debug)]
pub struct Summary {
    pub schema: u32,
    /// `real`, or `null`: packets ended in a device that drops them, and losses are what was not sent.
    pub network: String,
    pub target: String,
    /// At the end nobody listened there any more.
    pub target_gone: bool,
    pub scenario: Option<String>,
    pub profile: String,
    pub rooms: u64,
    pub offered_mbps_per_viewer: f64,
    pub offered_pps_per_viewer: f64,
    pub viewers_offered: u64,
    pub viewers_joined: u64,
    pub join_failures: u64,
    /// What kept viewers out, and how many.
    pub failures: BTreeMap<String, u64>,
    /// How long was measured, after the ramp.
    pub duration_s: f64,
    /// The same on the clock of the day: for whoever counts beside us.
    pub window: Window,
    /// In that time: RTP. What else came (checks, handshakes, reports) is `other_packets`.
    pub delivered_packets: u64,
    pub other_packets: u64,
    pub delivered_mbps: f64,
    pub pps_per_viewer: f64,
    pub loss_ratio: f64,
    pub loss_raw_ratio: f64,
    pub duplicate_ratio: f64,
    /// What came again in the stream for that (RTX), over the viewers' whole time.
    pub resent_packets: u64,
    pub ttff_ms: Percentiles,
    pub join_ms: JoinTimes,
    pub latency_us: Latencies,
    pub latency_audio_us: Latencies,
    pub latency_video_us: Latencies,
    /// Packets of ordinary frames, and of keyframes.
    pub latency_frame_us: Latencies,
    pub latency_keyframe_us: Latencies,
    /// Of the witnesses' mean latencies: the largest less the smallest, by their mean.
    pub latency_spread_ratio: Option<f64>,
    pub srtp_profile: Option<String>,
    pub witnesses: u64,
    /// Packets of the hold that witnesses opened, and how many of them held something else than what was published.
    pub opened_packets: u64,
    pub altered_packets: u64,
    pub server: Option<Server>,
    pub generator: Generator,
    pub publisher: PublisherSummary,
    /// Those who came meanwhile, with --burst.
    pub burst: Option<Burst>,
    /// What 1,000 viewer-hours cost, where prices were given.
    pub price: Option<Price>,
    /// One point a second of the time in which viewers came; `at_s` counts from the first.
    pub ramp: Vec<Second>,
    /// One point a second of the time measured.
    pub timeline: Vec<Second>,
    /// Time to the first frame in ms, of at most 200 viewers from the fastest to the slowest.
    pub ttff_curve_ms: Vec<f64>,
    pub thresholds: Vec<Verdict>,
    pub verdict: String,
}

#[derive(Clone, Copy, Serialize, Default, Debug)]
pub struct Window {
    pub from_unix_ns: u64,
    pub to_unix_ns: u64,
}

#[derive(Clone, Copy, Serialize, Default, Debug)]
pub struct Percentiles {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

#[derive(Clone, Copy, Serialize, Default, Debug)]
pub struct JoinTimes {
    pub http: Percentiles,
    pub ice: Percentiles,
    pub dtls: Percentiles,
    pub first_packet: Percentiles,
    /// From connected to the first whole frame, and (witnesses) to the first picture packet that is not of the past.
    pub first_frame: Percentiles,
    pub live: Percentiles,
}

#[derive(Clone, Copy, Serialize, Default, Debug)]
pub struct Latencies {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
    pub samples: u64,
}

#[derive(Clone, Serialize, Default, Debug)]
pub struct Server {
    /// CPU time of all its processes per packet that viewers got.
    pub cpu_ns_per_packet: f64,
    /// Of one core.
    pub cpu_ratio: f64,
    /// Of Spillway alone: user time of its engine, and sends of its, per packet.
    pub engine_user_ns_per_packet: Option<f64>,
    /// What sealing the same packets with as many keys costs on the server's core, in a lab.
    pub seal_ns_per_packet: Option<f64>,
    /// The same, and sending it, a frame at a time: into the NIC that drops, or over the cable.
    pub bare_ns_per_packet: Option<f64>,
    /// From when a frame was due until a packet of its picture was sent, p50: over the cable.
    pub bare_latency_us: Option<f64>,
    pub sends_per_packet: Option<f64>,
    /// What all its processes hold, shared pages once (proportional set size).
    pub memory_bytes: u64,
    pub rss_bytes: u64,
    /// What it grew by since before the first viewer, divided among them.
    pub rss_bytes_per_viewer: f64,
    /// Of each process over the hold: what a soak is about.
    pub slopes: Vec<Slope>,
    pub processes: Vec<Usage>,
}

/// How memory and open files of a process went, as a line through a point a second, with the standard error.
#[derive(Clone, Serialize, Default, Debug)]
pub struct Slope {
    pub pid: u32,
    pub name: String,
    /// At the end.
    pub rss_bytes: u64,
    pub rss_bytes_per_hour: f64,
    pub rss_error: f64,
    pub files: u64,
    pub files_per_hour: f64,
    pub files_error: f64,
}

/// Slope and its standard error of the straight line through the points (least squares); none of fewer than three.
pub fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> Option<(f64, f64)> {
    let count = points.clone().count() as f64;
    if count < 3.0 {
        return None;
    }
    let mean = |of: fn((f64, f64)) -> f64| points.clone().map(of).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.clone().map(|(x, _)| (x - x_mean).powi(2)).sum();
    let together: f64 = points.clone().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
    let slope = together / spread;
    let rest: f64 = points.map(|(x, y)| (y - y_mean - slope * (x - x_mean)).powi(2)).sum();
    (spread > 0.0).then(|| (slope, (rest / (count - 2.0) / spread).sqrt()))
}

#[derive(Clone, Serialize, Default, Debug)]
pub struct Generator {
    /// Of one core: the busiest thread of the crowd.
    pub cpu_ratio: f64,
    /// How much of the time it was ready to run and something else had its core.
    pub waited_ratio: f64,
    /// Of all cores it may run on.
    pub cores_idle_ratio: f64,
    pub threads: u64,
    pub lag_ms_p99: f64,
    pub socket_drops: u64,
    /// Of this process: what grows here did not grow there. None of a hold of less than three seconds.
    pub slope: Option<Slope>,
    pub saturated: bool,
    /// Why, in words.
    pub reasons: Vec<String>,
}

#[derive(Clone, Copy, Serialize, Default, Debug)]
pub struct PublisherSummary {
    pub packets: u64,
    pub resent: u64,
    /// Publishers whose session ended before the run did.
    pub lost_sessions: u64,
    pub keyframes_asked: u64,
    /// How late packets went out.
    pub lag_ms_p99: f64,
    pub lag_ms_max: f64,
}

/// Many came at once, and what those felt who were there: nothing of this is in the run's other counts of viewers.
#[derive(Clone, Serialize, Default, Debug)]
pub struct Burst {
    pub viewers: u64,
    /// Those who got a picture.
    pub joined: u64,
    pub failures: BTreeMap<String, u64>,
    /// From the first to the last due time, and from there to the last one's picture.
    pub due_s: f64,
    pub took_s: f64,
    pub ttff_ms: Percentiles,
    /// Of those who were there: before it, and while it lasted.
    pub latency_before_us: Latencies,
    pub latency_during_us: Latencies,
}

/// What one second of the hold looked like.
#[derive(Clone, Copy, Serialize, Default, Debug)]
pub struct Second {
    /// Since the hold began.
    pub at_s: f64,
    pub packets_per_s: f64,
    pub mbps: f64,
    /// Numbers passed over in it, whatever came later.
    pub lost_packets: u64,
    pub viewers: u64,
    /// Of the server's processes, in cores; none without --server-pid.
    pub server_cpu: Option<f64>,
    pub latency_p50_us: Option<f64>,
    pub latency_p99_us: Option<f64>,
    pub latency_p999_us: Option<f64>,
}

/// A threshold and what became of it.
#[derive(Clone, Serialize, Default, Debug)]
pub struct Verdict {
    pub text: String,
    pub measured: Option<f64>,
    pub met: bool,
}

pub fn milliseconds(histogram: &Histogram) -> Percentiles {
    let at = |quantile: f64| histogram.at(quantile).map(|value| value / 1_000.0);
    Percentiles { p50: at(0.50), p95: at(0.95), p99: at(0.99) }
}

pub fn latencies(histogram: &Histogram) -> Latencies {
    let at = |quantile: f64| histogram.at(quantile).map(|value| value / 1_000.0);
    Latencies { p50: at(0.50), p99: at(0.99), p999: at(0.999), samples: histogram.count() }
}

/// The most points a plot has.
const CURVE_POINTS: u64 = 200;

fn curve(histogram: &Histogram) -> Vec<f64> {
    let points = histogram.count().min(CURVE_POINTS);
    // The slowest is always among them.
    (1..=points).filter_map(|point| Some(histogram.at(point as f64 / points as f64)? / 1_000.0)).collect()
}

/// The part of a summary that the crowd's accounts make.
pub struct Crowd {
    pub joined: u64,
    pub failures: BTreeMap<String, u64>,
    pub loss_ratio: f64,
    pub loss_raw_ratio: f64,
    pub duplicate_ratio: f64,
    pub resent_packets: u64,
    pub ttff_ms: Percentiles,
    pub ttff_curve_ms: Vec<f64>,
    pub join_ms: JoinTimes,
    pub latency_us: Latencies,
    pub latency_audio_us: Latencies,
    pub latency_video_us: Latencies,
    pub latency_frame_us: Latencies,
    pub latency_keyframe_us: Latencies,
    pub latency_spread_ratio: Option<f64>,
    pub srtp_profile: Option<String>,
    pub socket_drops: u64,
    pub lag_ms_p99: f64,
}

/// Adds up what all threads saw. `refused` are the joins that never became viewers; `pps` is what each viewer was due.
pub fn crowd(outcomes: &[Outcome], refused: &BTreeMap<String, u64>, pps: f64) -> Crowd {
    let mut totals = Totals { failures: refused.clone(), ..Totals::default() };
    outcomes.iter().for_each(|outcome| totals.merge(&outcome.totals));
    let (loss_ratio, loss_raw_ratio, duplicate_ratio) = totals.ratios(pps);
    let (mut audio, mut frames, mut keyframes, mut lag) = (Histogram::new(), Histogram::new(), Histogram::new(), Histogram::new());
    for outcome in outcomes {
        audio.merge(&outcome.audio_ns);
        frames.merge(&outcome.video_ns);
        keyframes.merge(&outcome.keyframe_ns);
        lag.merge(&outcome.lag_us);
    }
    let mut video = frames.clone();
    video.merge(&keyframes);
    let mut both = audio.clone();
    both.merge(&video);
    let profiles: Vec<&str> = totals.profiles.iter().copied().collect();
    Crowd {
        joined: totals.joined,
        loss_ratio,
        loss_raw_ratio,
        duplicate_ratio,
        resent_packets: totals.sums.resent,
        ttff_ms: milliseconds(&totals.ttff),
        ttff_curve_ms: curve(&totals.ttff),
        join_ms: JoinTimes {
            http: milliseconds(&totals.http),
            ice: milliseconds(&totals.ice),
            dtls: milliseconds(&totals.dtls),
            first_packet: milliseconds(&totals.first_packet),
            first_frame: milliseconds(&totals.first_frame),
            live: milliseconds(&totals.live),
        },
        latency_us: latencies(&both),
        latency_audio_us: latencies(&audio),
        latency_video_us: latencies(&video),
        latency_frame_us: latencies(&frames),
        latency_keyframe_us: latencies(&keyframes),
        latency_spread_ratio: totals.means_ns.spread(),
        srtp_profile: (!profiles.is_empty()).then(|| profiles.join("+")),
        socket_drops: totals.socket_drops,
        lag_ms_p99: lag.at(0.99).unwrap_or_default() / 1_000.0,
        failures: totals.failures,
    }
}

impl Summary {
    /// The value a threshold's name stands for.
    pub fn metric(&self, name: &str) -> Option<f64> {
        Some(match name {
            "ttff_p50" => self.ttff_ms.p50?,
            "ttff_p95" => self.ttff_ms.p95?,
            "ttff_p99" => self.ttff_ms.p99?,
            "http_p99" => self.join_ms.http.p99?,
            "ice_p99" => self.join_ms.ice.p99?,
            "dtls_p99" => self.join_ms.dtls.p99?,
            "latency_p50" => self.latency_us.p50? / 1_000.0,
            "latency_p99" => self.latency_us.p99? / 1_000.0,
            "latency_p999" => self.latency_us.p999? / 1_000.0,
            "loss" => self.loss_ratio,
            "loss_raw" => self.loss_raw_ratio,
            "altered" => self.altered_packets as f64,
            "duplicates" => self.duplicate_ratio,
            "join_failures" => self.join_failures as f64,
            "viewers" => self.viewers_joined as f64,
            "pps" => self.pps_per_viewer,
            "mbps" => self.delivered_mbps,
            "cpu" => self.server.as_ref()?.cpu_ratio,
            "cpu_ns" => self.server.as_ref()?.cpu_ns_per_packet,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_that_of_the_line_and_knows_its_error() {
        let (exact, error) = slope((0..50).map(|x| (f64::from(x), 7.0 + 3.0 * f64::from(x)))).unwrap();
        assert!((exact - 3.0).abs() < 1e-9 && error < 1e-6);
        // Off by one up and down in turn: the same slope, and a doubt about it.
        let noisy = (0..50).map(|x| (f64::from(x), 3.0 * f64::from(x) + f64::from(x % 2 * 2 - 1)));
        let (found, error) = slope(noisy).unwrap();
        assert!((found - 3.0).abs() < 3.0 * error && error < 0.02, "{found} {error}");
        assert_eq!(slope([(1.0, 1.0), (2.0, 2.0)].into_iter()), None);
        assert_eq!(slope([(1.0, 1.0); 3].into_iter()), None, "one moment is no time");
    }

    #[test]
    fn a_curve_ends_with_the_slowest() {
        let mut histogram = Histogram::new();
        (1..=1_000).rev().for_each(|milliseconds| histogram.add(milliseconds * 1_000));
        let points = curve(&histogram);
        assert_eq!(points.len(), 200);
        for (point, truth) in [(0, 5.0), (99, 500.0), (199, 1_000.0)] {
            assert!((points[point] / truth - 1.0_f64).abs() < 0.02, "{point}: {}", points[point]);
        }
        histogram = Histogram::new();
        assert_eq!(curve(&histogram), [0.0; 0]);
        histogram.add(7_000);
        assert_eq!(curve(&histogram), [7.0], "as many points as viewers");
    }
}

//! A burst: many viewers come at once while others watch, and those who watch shall not feel it. Joining alone is what counts
//! here, so the newcomers go to a room of their own whose stream is thin: what they are sent afterwards is next to nothing.

use crate::histogram::Histogram;
use crate::source::{Packetizer, Plan, VideoCodec};
use crate::summary::{Burst, latencies, milliseconds};
use crate::totals::Totals;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Behind the name of the other rooms.
pub const ROOM: &str = "burst";

/// What its viewers get: a frame of one packet, five times a second, a keyframe each second.
pub fn plan() -> Plan {
    Plan {
        bitrate_bps: 48_000,
        fps: 5,
        gop: Duration::from_secs(1),
        codec: VideoCodec::H264,
        packetizer: Packetizer::Libwebrtc,
        pacing: Duration::ZERO,
        has_audio: false,
    }
}

/// Of the packets of those who were there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    Before,
    /// From the first newcomer's due time to the last one's picture.
    During,
}

/// What the crowd's threads and their watcher share.
#[derive(Default)]
pub struct Tally {
    pub shown: AtomicU64,
    pub failed: AtomicU64,
    /// The last first picture, in nanoseconds of our clock.
    pub last_ns: AtomicU64,
    /// UNIX nanoseconds; 0: not yet.
    pub before_from_ns: AtomicU64,
    pub from_ns: AtomicU64,
    pub to_ns: AtomicU64,
}

impl Tally {
    /// When a packet was sent that somebody got who was there all the time. None: outside of both times.
    pub fn moment(&self, sent_ns: u64) -> Option<Moment> {
        let at = |moment: &AtomicU64| Some(moment.load(Ordering::Relaxed)).filter(|ns| *ns > 0);
        let before = at(&self.before_from_ns).filter(|from| sent_ns >= *from)?;
        match (at(&self.from_ns), at(&self.to_ns)) {
            (Some(from), _) if before <= sent_ns && sent_ns < from => Some(Moment::Before),
            (Some(_), Some(to)) if sent_ns >= to => None,
            (Some(_), _) => Some(Moment::During),
            (None, _) => Some(Moment::Before),
        }
    }

    pub fn on_picture(&self, now: Duration) {
        self.shown.fetch_add(1, Ordering::Relaxed);
        self.last_ns.fetch_max(now.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// Latencies of those who were there, before it and while it lasted.
#[derive(Default)]
pub struct Around {
    pub before_ns: Histogram,
    pub during_ns: Histogram,
}

impl Around {
    pub fn add(&mut self, moment: Moment, latency_ns: u64) {
        match moment {
            Moment::Before => self.before_ns.add(latency_ns),
            Moment::During => self.during_ns.add(latency_ns),
        }
    }

    pub fn merge(&mut self, other: &Around) {
        self.before_ns.merge(&other.before_ns);
        self.during_ns.merge(&other.during_ns);
    }
}

/// A burst that was begun.
pub struct Begun {
    pub viewers: u64,
    /// From the first to the last due time.
    pub due: Duration,
    pub at: Duration,
}

impl Begun {
    pub fn summary(&self, tally: &Tally, totals: &Totals, around: &Around, refused: &BTreeMap<String, u64>) -> Burst {
        let mut failures = totals.failures.clone();
        for (reason, count) in refused {
            *failures.entry(reason.clone()).or_default() += count;
        }
        let last = Duration::from_nanos(tally.last_ns.load(Ordering::Relaxed));
        Burst {
            viewers: self.viewers,
            joined: totals.ttff.count(),
            failures,
            due_s: self.due.as_secs_f64(),
            took_s: last.saturating_sub(self.at).as_secs_f64(),
            ttff_ms: milliseconds(&totals.ttff),
            latency_before_us: latencies(&around.before_ns),
            latency_during_us: latencies(&around.during_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_counts_before_the_burst_while_it_lasts_or_not_at_all() {
        let tally = Tally::default();
        assert_eq!(tally.moment(5), None, "nothing is measured yet");
        tally.before_from_ns.store(100, Ordering::Relaxed);
        assert_eq!((tally.moment(99), tally.moment(100), tally.moment(1_000)), (None, Some(Moment::Before), Some(Moment::Before)));
        tally.from_ns.store(200, Ordering::Relaxed);
        assert_eq!((tally.moment(99), tally.moment(199), tally.moment(200), tally.moment(1_000)), (None, Some(Moment::Before), Some(Moment::During), Some(Moment::During)));
        tally.to_ns.store(300, Ordering::Relaxed);
        assert_eq!((tally.moment(199), tally.moment(299), tally.moment(300)), (Some(Moment::Before), Some(Moment::During), None));
    }

    #[test]
    fn it_took_until_the_last_picture_and_who_got_none_is_told_with_the_refused() {
        let tally = Tally::default();
        for second in [12, 17, 14] {
            tally.on_picture(Duration::from_secs(second));
        }
        let mut totals = Totals::default();
        totals.failures.insert("no way".into(), 2);
        (0..3).for_each(|_| totals.ttff.add(1_000_000));
        let mut around = Around::default();
        (0..100).for_each(|_| around.add(Moment::Before, 1_000_000));
        (0..50).for_each(|_| around.add(Moment::During, 3_000_000));
        let begun = Begun { viewers: 8, due: Duration::from_secs(2), at: Duration::from_secs(10) };
        let refused = [("no way".to_owned(), 1), ("full".to_owned(), 2)].into();
        let burst = begun.summary(&tally, &totals, &around, &refused);
        assert_eq!((burst.viewers, burst.joined, burst.took_s, burst.due_s), (8, 3, 7.0, 2.0));
        assert_eq!((burst.failures["no way"], burst.failures["full"]), (3, 2));
        let near = |value: Option<f64>, truth: f64| (value.unwrap() / truth - 1.0).abs() < 0.02;
        assert!(near(burst.latency_before_us.p99, 1_000.0) && near(burst.latency_during_us.p99, 3_000.0));
        assert_eq!((burst.latency_before_us.samples, burst.latency_during_us.samples), (100, 50));
    }

    #[test]
    fn its_stream_is_thin_and_each_frame_one_packet() {
        let plan = plan();
        assert!(plan.pps() <= 6.0 && (0..5).all(|place| plan.packets_of(place) == 1), "{}", plan.pps());
    }
}

//! What a session's remote experiences, as words in the link, and two histograms over all of them.
//!
//! One `SessionStats` per session slot and one `Histogram` of each kind per shard, written by the session's own shard:
//! on a report, a request, a step of the join, and once a second; never per packet. Anybody with the link reads, without
//! a command. Each word is true by itself; that all of them are of one session says the generation, read before and after.

use crate::time::Time;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A moment that has not come is 0.
fn moment(nanos: u64) -> Option<Time> {
    (nanos != 0).then_some(Time(nanos))
}

/// What a remote reports of one kind of media (RFC 3550 section 6.4.1), the worst of its feeds of that kind.
#[repr(C)]
#[derive(Default)]
pub struct ReceptionWords {
    /// In 256ths, of its last report.
    fraction_lost: AtomicU64,
    /// Since it joined; a remote that got copies may say less than nothing, which is shown as 0.
    lost: AtomicU64,
    jitter_us: AtomicU64,
    /// Of the report before; 0: there was none.
    reported_at: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reception {
    pub fraction_lost: u8,
    pub lost: u64,
    pub jitter_us: u64,
    pub reported_at: Time,
}

impl ReceptionWords {
    pub fn set(&self, reception: &Reception) {
        self.fraction_lost.store(reception.fraction_lost.into(), Ordering::Relaxed);
        self.lost.store(reception.lost, Ordering::Relaxed);
        self.jitter_us.store(reception.jitter_us, Ordering::Relaxed);
        self.reported_at.store(reception.reported_at.as_nanos(), Ordering::Relaxed);
    }

    fn get(&self) -> Option<Reception> {
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        Some(Reception {
            reported_at: moment(word(&self.reported_at))?,
            fraction_lost: u8::try_from(word(&self.fraction_lost)).unwrap_or(u8::MAX),
            lost: word(&self.lost),
            jitter_us: word(&self.jitter_us),
        })
    }
}

/// 256 bytes. Times are monotonic nanoseconds, 0: not yet.
#[repr(C, align(128))]
#[derive(Default)]
pub struct SessionStats {
    /// Of the session's id; 0 while the words are another's.
    generation: AtomicU64,
    /// How the join went: made by control's command, its first check, keys, the first packet sent to it, and the whole
    /// of the first picture it could show.
    pub added_at: AtomicU64,
    pub checked_at: AtomicU64,
    pub connected_at: AtomicU64,
    pub packet_at: AtomicU64,
    pub picture_at: AtomicU64,
    /// Sent the first time, and their payload.
    pub packets: AtomicU64,
    pub octets: AtomicU64,
    /// Of the last report that named a sender report of ours, and the shortest of all.
    pub round_trip_us: AtomicU64,
    pub round_trip_us_min: AtomicU64,
    pub video: ReceptionWords,
    pub audio: ReceptionWords,
    /// Packets it asked for again, and how many it was sent again.
    pub nacked: AtomicU64,
    pub resent: AtomicU64,
    pub keyframe_requests: AtomicU64,
    pub replays_restarted: AtomicU64,
    /// Times it asked for a keyframe after its first picture, and how long it then waited until one was there for it.
    pub freezes: AtomicU64,
    pub frozen_us: AtomicU64,
    /// When the words were last brought up to date.
    pub shown_at: AtomicU64,
    reserved: [AtomicU64; 7],
}

/// A copy of the words, all of one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quality {
    pub added_at: Time,
    pub checked_at: Option<Time>,
    pub connected_at: Option<Time>,
    pub packet_at: Option<Time>,
    pub picture_at: Option<Time>,
    pub packets: u64,
    pub octets: u64,
    pub round_trip_us: Option<u64>,
    pub round_trip_us_min: Option<u64>,
    pub video: Option<Reception>,
    pub audio: Option<Reception>,
    pub nacked: u64,
    pub resent: u64,
    pub keyframe_requests: u64,
    pub replays_restarted: u64,
    pub freezes: u64,
    pub frozen_us: u64,
}

impl SessionStats {
    /// Begins anew for the session of `generation`.
    pub fn reset(&self, generation: u32, now: Time) {
        // Whoever reads one of the words below as it is from now on also sees that they are nobody's.
        self.generation.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for word in self.words() {
            word.store(0, Ordering::Relaxed);
        }
        self.added_at.store(now.as_nanos(), Ordering::Relaxed);
        self.generation.store(u64::from(generation), Ordering::Release);
    }

    /// A step of the join: only the first time counts.
    pub fn step(word: &AtomicU64, now: Time) {
        if word.load(Ordering::Relaxed) == 0 {
            word.store(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// Only by the session's own shard: a load and a store, no locked instruction.
    pub fn add(word: &AtomicU64, count: u64) {
        word.store(word.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub fn on_round_trip(&self, micros: u64) {
        // 0 stands for "not known".
        let micros = micros.max(1);
        let least = self.round_trip_us_min.load(Ordering::Relaxed);
        self.round_trip_us.store(micros, Ordering::Relaxed);
        if least == 0 || micros < least {
            self.round_trip_us_min.store(micros, Ordering::Relaxed);
        }
    }

    /// None if the words are not, or not all, of the session of `generation`.
    pub fn read(&self, generation: u32) -> Option<Quality> {
        let is_its = |word: u64| word != 0 && word == u64::from(generation);
        if !is_its(self.generation.load(Ordering::Acquire)) {
            return None;
        }
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let known = |number: u64| (number != 0).then_some(number);
        let quality = Quality {
            added_at: Time(word(&self.added_at)),
            checked_at: moment(word(&self.checked_at)),
            connected_at: moment(word(&self.connected_at)),
            packet_at: moment(word(&self.packet_at)),
            picture_at: moment(word(&self.picture_at)),
            packets: word(&self.packets),
            octets: word(&self.octets),
            round_trip_us: known(word(&self.round_trip_us)),
            round_trip_us_min: known(word(&self.round_trip_us_min)),
            video: self.video.get(),
            audio: self.audio.get(),
            nacked: word(&self.nacked),
            resent: word(&self.resent),
            keyframe_requests: word(&self.keyframe_requests),
            replays_restarted: word(&self.replays_restarted),
            freezes: word(&self.freezes),
            frozen_us: word(&self.frozen_us),
        };
        fence(Ordering::Acquire);
        is_its(self.generation.load(Ordering::Relaxed)).then_some(quality)
    }

    /// All but the generation.
    fn words(&self) -> impl Iterator<Item = &AtomicU64> {
        fn of(words: &ReceptionWords) -> [&AtomicU64; 4] {
            [&words.fraction_lost, &words.lost, &words.jitter_us, &words.reported_at]
        }
        let phases = [&self.added_at, &self.checked_at, &self.connected_at, &self.packet_at, &self.picture_at];
        let sent = [&self.packets, &self.octets, &self.round_trip_us, &self.round_trip_us_min];
        let asked = [&self.nacked, &self.resent, &self.keyframe_requests, &self.replays_restarted];
        let rest = [&self.freezes, &self.frozen_us, &self.shown_at];
        let reports = [of(&self.video), of(&self.audio)].into_iter().flatten();
        phases.into_iter().chain(sent).chain(reports).chain(asked).chain(rest).chain(&self.reserved)
    }
}

/// Buckets of every histogram, the last one for what is beyond all bounds.
pub const BUCKETS: usize = 12;
pub const HISTOGRAMS_MAX: usize = 4;

/// Something that is measured again and again. Numbers are part of the layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum HistogramId {
    /// From control's command until the first picture, or packet where there is no video, was sent whole.
    Join = 0,
    RoundTrip = 1,
}

impl HistogramId {
    pub const ALL: [HistogramId; 2] = [HistogramId::Join, HistogramId::RoundTrip];

    /// As metrics show it, in base units.
    pub const fn name(self) -> &'static str {
        match self {
            HistogramId::Join => "viewer_join_seconds",
            HistogramId::RoundTrip => "viewer_round_trip_seconds",
        }
    }
    pub const fn label(self) -> &'static str {
        match self {
            HistogramId::Join => "Time from the join's command to the last packet of a viewer's first picture",
            HistogramId::RoundTrip => "Round trips of viewers, one for each report that tells one",
        }
    }
    /// Upper bounds of all buckets but the last, microseconds.
    pub const fn bounds_us(self) -> &'static [u64; BUCKETS - 1] {
        match self {
            HistogramId::Join => &[
                10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 16_000_000,
            ],
            HistogramId::RoundTrip => {
                &[1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 400_000, 800_000, 1_600_000]
            }
        }
    }
}

/// One histogram of one shard.
#[repr(C, align(128))]
#[derive(Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
    reserved: [AtomicU64; 3],
}

/// Over all shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Not cumulative.
    pub counts: [u64; BUCKETS],
    pub sum_us: u64,
}

impl Histogram {
    /// Only by its own shard.
    pub fn add(&self, id: HistogramId, micros: u64) {
        let bucket = id.bounds_us().iter().position(|bound| micros <= *bound);
        if let Some(count) = self.counts.get(bucket.unwrap_or(BUCKETS - 1)) {
            SessionStats::add(count, 1);
        }
        SessionStats::add(&self.sum_us, micros);
    }

    pub fn add_to(&self, counted: &mut Counted) {
        for (sum, count) in counted.counts.iter_mut().zip(&self.counts) {
            *sum = sum.wrapping_add(count.load(Ordering::Relaxed));
        }
        counted.sum_us = counted.sum_us.wrapping_add(self.sum_us.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_by_who_names_their_session() {
        let stats = SessionStats::default();
        assert_eq!(stats.read(0), None, "a slot that was never used is nobody's");
        stats.reset(7, Time(5));
        let quality = stats.read(7).unwrap();
        assert_eq!((quality.added_at, quality.checked_at, quality.video), (Time(5), None, None));
        let reception = Reception { fraction_lost: 3, lost: 9, jitter_us: 800, reported_at: Time(9) };
        stats.audio.set(&reception);
        SessionStats::step(&stats.checked_at, Time(6));
        SessionStats::step(&stats.checked_at, Time(8));
        SessionStats::add(&stats.nacked, 4);
        stats.on_round_trip(30);
        stats.on_round_trip(20);
        stats.on_round_trip(25);
        let quality = stats.read(7).unwrap();
        assert_eq!((quality.audio, quality.video), (Some(reception), None));
        assert_eq!((quality.checked_at, quality.nacked), (Some(Time(6)), 4));
        assert_eq!((quality.round_trip_us, quality.round_trip_us_min), (Some(25), Some(20)));
        assert_eq!(stats.read(6), None);
        // The next session in the slot begins with nothing.
        stats.reset(8, Time(50));
        let quality = stats.read(8).unwrap();
        assert_eq!((quality.audio, quality.nacked, quality.round_trip_us, quality.checked_at), (None, 0, None, None));
        assert_eq!(stats.read(7), None);
    }

    #[test]
    fn every_word_is_reset() {
        assert_eq!(size_of::<SessionStats>(), 256);
        assert_eq!(SessionStats::default().words().count(), size_of::<SessionStats>() / 8 - 1);
        assert_eq!(size_of::<Histogram>(), 128);
    }

    #[test]
    fn each_value_is_in_one_bucket() {
        for id in HistogramId::ALL {
            assert!(id.bounds_us().is_sorted());
            let histogram = Histogram::default();
            let bounds = id.bounds_us();
            for bound in bounds {
                histogram.add(id, *bound);
                histogram.add(id, bound + 1);
            }
            let mut counted = Counted::default();
            histogram.add_to(&mut counted);
            // Each bound is the last value of its bucket; what is one more is the next one's.
            assert_eq!(counted.counts, std::array::from_fn(|bucket| if bucket == 0 || bucket == BUCKETS - 1 { 1 } else { 2 }));
            assert_eq!(counted.sum_us, bounds.iter().map(|bound| 2 * bound + 1).sum());
        }
    }
}

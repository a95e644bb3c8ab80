//! Timestamps of a recording's tracks on one line: nanoseconds of this node's clock.
//!
//! Pure. Two things are wanted at once: sound and picture as close together as the publisher says (its sender reports),
//! and lengths that are right by our own clock (arrivals), though the publisher's clocks run up to some hundred parts
//! per million fast or slow. So:
//!
//! ```text
//!    time = timestamp / rate + offset          one offset per track, always moving a little
//!    wanted offset = report + delay            report: sender's wall clock - timestamp / rate, by its newest report
//!                                              delay: smallest (arrival - sender's wall clock) of any track lately
//! ```
//!
//! Without reports of all tracks, each has its own smallest (arrival - timestamp / rate). An offset goes to where it is
//! wanted by at most 2 % of the time that passes; a frame never comes before the one before it. Another publisher begins
//! anew. Worked number: clocks 200 ppm off and windows of 8 s leave 1.6 ms of error.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use crate::id::Kind;
use crate::stream::feedback::SrMapping;
use crate::time::{NtpTime, Time};

/// The window in which the smallest delay counts: eight buckets of a second.
const BUCKETS: usize = 8;
const BUCKET_NS: i64 = 1_000_000_000;
/// Of the time that passes, how much an offset may move: 1/50.
const SLEW_DIVISOR: i64 = 50;
/// How fast an error fades otherwise.
const SETTLE_NS: i64 = 2_000_000_000;
/// More than this is another clock, not drift.
const JUMP_NS: i64 = 1_000_000_000;
/// Reports that put sound and picture further apart than arrivals do by this are not believed.
const TRUST_NS: i64 = 3_000_000_000;
/// A frame is at least this much after the one before.
const STEP_NS: i64 = 100_000;

/// The smallest value of the last seconds.
#[derive(Clone, Copy, Default)]
struct Smallest {
    buckets: [Option<(i64, i64)>; BUCKETS],
}

impl Smallest {
    fn add(&mut self, now: i64, value: i64) {
        let number = now.div_euclid(BUCKET_NS);
        let place = number.rem_euclid(BUCKETS as i64) as usize;
        let Some(bucket) = self.buckets.get_mut(place) else { return };
        *bucket = match *bucket {
            Some((of, smallest)) if of == number => Some((of, smallest.min(value))),
            _ => Some((number, value)),
        };
    }

    fn get(&self, now: i64) -> Option<i64> {
        let oldest = now.div_euclid(BUCKET_NS) - BUCKETS as i64;
        self.buckets.iter().flatten().filter(|(number, _)| *number > oldest).map(|(_, value)| *value).min()
    }
}

#[derive(Clone, Copy, Default)]
struct Line {
    rate: i64,
    epoch: u32,
    started: bool,
    /// The newest timestamp, counted on beyond 32 bits.
    newest: i64,
    /// Sender's wall clock less the timestamp's time.
    report: Option<i64>,
    waiting: Option<(u32, SrMapping)>,
    /// Arrival less the timestamp's time.
    arrivals: Smallest,
    offset: Option<i64>,
    moved_at: i64,
    /// The latest time given out, and the timestamp it was for.
    latest: Option<(i64, i64)>,
}

impl Line {
    fn media_ns(&self, timestamp: i64) -> i64 {
        (i128::from(timestamp) * 1_000_000_000 / i128::from(self.rate.max(1))) as i64
    }

    /// The timestamp counted on beyond 32 bits, next to the newest.
    fn extended(&self, timestamp: u32) -> i64 {
        if !self.started {
            return i64::from(timestamp);
        }
        self.newest + i64::from(timestamp.wrapping_sub(self.newest as u32) as i32)
    }

    fn take_report(&mut self) {
        let waiting = self.waiting.filter(|(epoch, _)| self.started && *epoch == self.epoch);
        let Some((_, mapping)) = waiting else { return };
        self.waiting = None;
        self.report = Some(ntp_ns(mapping.ntp) - self.media_ns(self.extended(mapping.timestamp)));
    }
}

/// Nanoseconds since 1900; until 2036 and, by 64 bits, no further.
fn ntp_ns(ntp: NtpTime) -> i64 {
    let fraction = (u128::from(ntp.0 & 0xFFFF_FFFF) * 1_000_000_000 >> 32) as i64;
    (ntp.0 >> 32) as i64 * 1_000_000_000 + fraction
}

/// The two tracks of a recording.
#[derive(Clone, Default)]
pub struct Timeline {
    lines: [Line; 2],
    /// Smallest (arrival - sender's wall clock) of both.
    delay: Smallest,
    /// Nothing stands in a file yet: offsets may still jump.
    committed: bool,
}

fn place(kind: Kind) -> usize {
    match kind {
        Kind::Video => 0,
        Kind::Audio => 1,
    }
}

impl Timeline {
    fn line(&mut self, kind: Kind) -> &mut Line {
        let [video, audio] = &mut self.lines;
        if place(kind) == 0 { video } else { audio }
    }

    /// A sender report of the track's publisher number `epoch`.
    pub fn on_report(&mut self, kind: Kind, epoch: u32, mapping: &SrMapping) {
        let line = self.line(kind);
        line.waiting = Some((epoch, *mapping));
        line.take_report();
    }

    /// From now on offsets move smoothly: what was given out is written.
    pub fn commit(&mut self) {
        self.committed = true;
    }
    pub fn is_committed(&self) -> bool {
        self.committed
    }

    /// When a frame is shown or heard, on this node's clock. `rate`: of the codec's timestamps; `epoch`: its publisher.
    pub fn place(&mut self, kind: Kind, epoch: u32, rate: u32, timestamp: u32, arrival: Time) -> i64 {
        let now = arrival.0 as i64;
        let line = self.line(kind);
        if !line.started || line.epoch != epoch {
            let latest = line.latest;
            let waiting = line.waiting;
            *line = Line { rate: i64::from(rate), epoch, latest, waiting, ..Line::default() };
            // The next timestamp has nothing to do with this.
            line.latest = latest.map(|(time, _)| (time, i64::MIN));
        }
        let extended = line.extended(timestamp);
        (line.started, line.newest) = (true, if line.offset.is_none() { extended } else { line.newest.max(extended) });
        line.take_report();
        let media = line.media_ns(extended);
        line.arrivals.add(now, now - media);
        let report = line.report;
        if let Some(report) = report {
            self.delay.add(now, now - media - report);
        }
        self.steer(kind, now);
        let line = self.line(kind);
        let time = media + line.offset.unwrap_or(0);
        let time = match line.latest {
            Some((latest, before)) if extended > before => time.max(latest + STEP_NS),
            // Pictures that are shown before others that came first, or the same once more.
            _ => time,
        };
        if line.latest.is_none_or(|(latest, _)| time > latest) {
            line.latest = Some((time, extended));
        }
        time
    }

    /// Frames that were placed are placed again, in their order: nothing is written of them yet, and reports have come.
    pub fn begin_again(&mut self) {
        for kind in [Kind::Video, Kind::Audio] {
            let now = self.line(kind).moved_at;
            if let Some(wanted) = self.wanted(kind, now) {
                self.line(kind).offset = Some(wanted);
            }
            self.line(kind).latest = None;
        }
    }

    /// A frame that was placed before: where it belongs by what is known now.
    pub fn place_again(&mut self, kind: Kind, timestamp: u32) -> i64 {
        let line = self.line(kind);
        let time = line.media_ns(line.extended(timestamp)) + line.offset.unwrap_or(0);
        if line.latest.is_none_or(|(latest, _)| time > latest) {
            line.latest = Some((time, line.extended(timestamp)));
        }
        time
    }

    fn wanted(&mut self, kind: Kind, now: i64) -> Option<i64> {
        let own = self.line(kind).arrivals.get(now);
        let other_kind = if kind == Kind::Video { Kind::Audio } else { Kind::Video };
        let other = *self.line(other_kind);
        let Some(report) = self.line(kind).report else { return own };
        if other.started && !other.trusts(report, own, now) {
            return own;
        }
        self.delay.get(now).map(|delay| report + delay).or(own)
    }

    fn steer(&mut self, kind: Kind, now: i64) {
        let Some(wanted) = self.wanted(kind, now) else { return };
        let committed = self.committed;
        let line = self.line(kind);
        let Some(offset) = line.offset else {
            (line.offset, line.moved_at) = (Some(wanted), now);
            return;
        };
        let passed = (now - line.moved_at).clamp(0, BUCKET_NS);
        line.moved_at = line.moved_at.max(now);
        let error = wanted - offset;
        if !committed || error.abs() > JUMP_NS {
            line.offset = Some(wanted);
            return;
        }
        let most = passed / SLEW_DIVISOR;
        let step = (i128::from(error) * i128::from(passed) / i128::from(SETTLE_NS)) as i64;
        line.offset = Some(offset + step.clamp(-most, most));
    }
}

impl Line {
    /// Whether the reports of both tracks may be believed; `report` and `own` are the other's.
    fn trusts(&self, report: i64, own: Option<i64>, now: i64) -> bool {
        let Some(ours) = self.report else { return false };
        match (self.arrivals.get(now), own) {
            (Some(arrivals), Some(own)) => ((ours - report) - (arrivals - own)).abs() <= TRUST_NS,
            // It was silent for long: nothing speaks against it.
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests;

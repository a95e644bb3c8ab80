//! Sender reports for feeds: the publisher's own timeline, carried on to now.
//!
//! Pure. A viewer lines up audio and video by the sender reports of both (RFC 3550 section 6.4.1); they agree
//! because both come from the publisher's clock, never from ours.

use crate::time::{NtpTime, Time};

/// A publisher's sender report, in the reel's timescale: at `ntp`, the timestamp was `timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SrMapping {
    pub ntp: NtpTime,
    pub timestamp: u32,
    /// When the report arrived here.
    pub arrival: Time,
}

/// What a sender report at `now` says to a feed: the time on the publisher's clock and the timestamp of that
/// moment, shifted by the feed's mapping.
///
/// Both advance by the same span, so that however long the report was on its way, the pair stays on the
/// publisher's line.
pub fn sender_report(mapping: &SrMapping, now: Time, clock_rate: u32, timestamp_offset: u32) -> (NtpTime, u32) {
    let elapsed = now.since(mapping.arrival);
    let ticks = elapsed.as_nanos() * u128::from(clock_rate) / 1_000_000_000;
    let timestamp = mapping.timestamp.wrapping_add(ticks as u32).wrapping_add(timestamp_offset);
    (mapping.ntp + elapsed, timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::time::Duration;

    /// The publisher's NTP time, in nanoseconds, that a viewer computes for `timestamp` from a report.
    fn capture_nanos((ntp, at): (NtpTime, u32), timestamp: u32, clock_rate: i64) -> i64 {
        let seconds = (ntp.0 >> 32) as i64;
        let nanos = (((ntp.0 & 0xFFFF_FFFF) * 1_000_000_000) >> 32) as i64;
        let ticks = i64::from(timestamp.wrapping_sub(at) as i32);
        seconds * 1_000_000_000 + nanos + ticks * 1_000_000_000 / clock_rate
    }

    /// Audio and video reports of one publisher arrive at different times after different delays; a picture and
    /// a sound of one instant must come out within a millisecond of each other.
    #[test]
    fn audio_and_video_of_one_publisher_stay_together() {
        let mut rng = Rng::new(3);
        for _ in 0..10_000 {
            let start = NtpTime(0xE800_0000_1234_5678);
            let (audio_start, video_start) = (rng.next_u32(), rng.next_u32());
            let (audio_offset, video_offset) = (rng.next_u32(), rng.next_u32());
            let report = |at_ns: u64, first: u32, rate: u64, delay_ns: u64| SrMapping {
                ntp: start + Duration::from_nanos(at_ns),
                timestamp: first.wrapping_add((u128::from(at_ns) * u128::from(rate) / 1_000_000_000) as u32),
                arrival: Time(1_000_000_000 + at_ns + delay_ns),
            };
            let audio = report(rng.below(5_000_000_000), audio_start, 48_000, rng.below(300_000_000));
            let video = report(rng.below(5_000_000_000), video_start, 90_000, rng.below(300_000_000));
            let now = Time(1_000_000_000 + 5_300_000_000 + rng.below(60_000_000_000));
            let audio_report = sender_report(&audio, now, 48_000, audio_offset);
            let video_report = sender_report(&video, now, 90_000, video_offset);
            // Something that happened ten seconds after the start.
            let sound = audio_start.wrapping_add(480_000).wrapping_add(audio_offset);
            let picture = video_start.wrapping_add(900_000).wrapping_add(video_offset);
            let apart = capture_nanos(audio_report, sound, 48_000) - capture_nanos(video_report, picture, 90_000);
            assert!(apart.abs() < 1_000_000, "{apart} ns");
        }
    }

    #[test]
    fn at_arrival_it_is_the_publishers_own_report() {
        let mapping = SrMapping { ntp: NtpTime(77 << 32), timestamp: u32::MAX, arrival: Time::from_millis(5) };
        assert_eq!(sender_report(&mapping, Time::from_millis(5), 90_000, 0), (NtpTime(77 << 32), u32::MAX));
        let (ntp, timestamp) = sender_report(&mapping, Time::from_millis(1_005), 90_000, 11);
        assert_eq!((ntp, timestamp), (NtpTime(78 << 32), 90_000 + 10));
        // A clock that seems to go back holds still.
        assert_eq!(sender_report(&mapping, Time::ZERO, 90_000, 0).1, u32::MAX);
    }
}

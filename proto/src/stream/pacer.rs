//! The pace of a joining feed: from the newest keyframe to live, fast but never as one burst.
//!
//! A virtual clock starts at the keyframe's arrival and runs `REPLAY_SPEED` times as fast as ours; a packet may
//! go once the clock reached its arrival, within `REPLAY_BPS_MAX` for all replays of a session. Owned by the feed's
//! shard; `start` says when it is in use.

use crate::limits::{REPLAY_BPS_MAX, REPLAY_SPEED};
use crate::time::Time;
use std::time::Duration;

/// How far ahead of `REPLAY_BPS_MAX` a feed may be: 10 kB at 16 Mbit/s, eight packets. A browser's socket takes
/// that at once, and a shard that wakes every few milliseconds still fills the rate.
const BURST: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    Now,
    /// Ask again then.
    Wait(Time),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pacer {
    /// When the replay began, and where: the virtual clock's two zeros.
    began: Time,
    keyframe_arrival: Time,
    /// At most `REPLAY_BPS_MAX`.
    rate_bps: u64,
}

impl Pacer {
    pub const fn new(keyframe_arrival: Time, now: Time) -> Pacer {
        Pacer { began: now, keyframe_arrival, rate_bps: REPLAY_BPS_MAX }
    }

    /// At `rate_bps`, but no faster than others.
    pub const fn at_most(self, rate_bps: u64) -> Pacer {
        Pacer { rate_bps: if rate_bps < REPLAY_BPS_MAX { rate_bps } else { REPLAY_BPS_MAX }, ..self }
    }

    /// May the next packet, `bytes` long, go? `Pace::Now` counts it as sent.
    ///
    /// `paid_until`: when everything the session replayed so far would have gone out at exactly its rate.
    pub fn pace(&self, now: Time, arrival: Time, bytes: usize, paid_until: &mut Time) -> Pace {
        let span = arrival.since(self.keyframe_arrival).as_nanos() as u64;
        let clock = self.began + Duration::from_nanos(span.div_ceil(REPLAY_SPEED));
        let due = clock.max(*paid_until - BURST);
        if now < due {
            return Pace::Wait(due);
        }
        let nanos = bytes as u64 * 8 * 1_000_000_000 / self.rate_bps.max(1);
        *paid_until = (*paid_until).max(now) + Duration::from_nanos(nanos);
        Pace::Now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replays packets of `bytes` that arrived every `gap`, on a shard that ticks every `tick`; (time, index) of
    /// each one sent until it is live.
    fn run(age: Duration, gap: Duration, bytes: usize, tick: Duration) -> Vec<(Time, usize)> {
        let keyframe = Time::from_millis(10_000);
        let joined = keyframe + age;
        let pacer = Pacer::new(keyframe, joined);
        let (mut now, mut sent, mut paid_until) = (joined, Vec::new(), Time::ZERO);
        let mut cursor = 0usize;
        loop {
            loop {
                let arrival = keyframe + gap * cursor as u32;
                if arrival > now {
                    return sent;
                }
                match pacer.pace(now, arrival, bytes, &mut paid_until) {
                    Pace::Now => sent.push((now, cursor)),
                    Pace::Wait(until) => {
                        assert!(until > now);
                        break;
                    }
                }
                cursor += 1;
            }
            now = now + tick;
            assert!(now < joined + Duration::from_secs(60), "never live");
        }
    }

    #[test]
    fn live_after_a_ninth_of_the_age() {
        // 1 Mbit/s: ten times that is below the bound, so that the virtual clock leads.
        let sent = run(Duration::from_secs(3), Duration::from_millis(8), 1_000, Duration::from_millis(1));
        let joined = Time::from_millis(13_000);
        let took = sent.last().unwrap().0.since(joined).as_millis();
        assert!((320..=345).contains(&took), "{took} ms, not 3,000 / 9");
        // Never faster than ten times live.
        for (at, index) in sent {
            assert!(index as u128 * 8 <= at.since(joined).as_millis() * 10);
        }
    }

    #[test]
    fn never_faster_than_the_rate_nor_as_one_burst() {
        // 8 Mbit/s: ten times that is 80, the bound is 16.
        for tick in [1, 4] {
            let sent = run(Duration::from_secs(2), Duration::from_millis(1), 1_000, Duration::from_millis(tick));
            let joined = sent[0].0;
            for (count, (at, _)) in sent.iter().enumerate() {
                let allowed = at.since(joined).as_secs_f64() * REPLAY_BPS_MAX as f64 / 8.0 + 10_000.0 + 1_000.0;
                assert!((count as f64 + 1.0) * 1_000.0 <= allowed, "packet {count} at {at:?}");
            }
            // And the bound is reached: twice live means live after the age once more.
            let took = sent.last().unwrap().0.since(joined).as_millis();
            assert!((1_950..2_100).contains(&took), "{took} ms");
        }
    }

    #[test]
    fn waiting_until_the_deadline_is_enough() {
        let pacer = Pacer::new(Time::from_millis(100), Time::from_millis(1_000));
        let arrival = Time::from_millis(300);
        let mut paid = Time::ZERO;
        let Pace::Wait(until) = pacer.pace(Time::from_millis(1_000), arrival, 1_000, &mut paid) else {
            panic!("too early")
        };
        assert_eq!(until, Time::from_millis(1_020));
        assert_eq!(pacer.pace(Time(until.0 - 1), arrival, 1_000, &mut paid), Pace::Wait(until));
        assert_eq!(pacer.pace(until, arrival, 1_000, &mut paid), Pace::Now);
    }

    #[test]
    fn two_replays_of_one_session_share_its_rate() {
        let now = Time::from_millis(1_000);
        let pacers = [Pacer::new(now, now), Pacer::new(now, now)];
        let mut paid = Time::ZERO;
        let went = (0..100).filter(|n| pacers[n % 2].pace(now, now, 1_000, &mut paid) == Pace::Now).count();
        assert_eq!(went, 11, "10 kB, and the packet that reaches it");
    }
}

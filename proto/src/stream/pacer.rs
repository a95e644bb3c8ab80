//! The pace of a joining feed: from the newest keyframe to live, fast but never as one burst.
//!
//! A virtual clock starts at the keyframe's arrival and runs `REPLAY_SPEED` times as fast as ours; a packet may
//! go once the clock reached its arrival, within `REPLAY_BPS_MAX`. At the head of the reel the feed is live for
//! ever, and the pacer costs nothing. Owned by the feed's shard.

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
    replay: Option<Replay>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Replay {
    /// When the feed began, and where: the virtual clock's two zeros.
    joined: Time,
    keyframe_arrival: Time,
    /// When everything sent so far would have gone out at exactly `REPLAY_BPS_MAX`.
    paid_until: Time,
}

impl Pacer {
    /// A feed that starts at the head: audio.
    pub const fn live() -> Pacer {
        Pacer { replay: None }
    }

    /// A feed that starts at a keyframe in the reel.
    pub const fn replay(keyframe_arrival: Time, now: Time) -> Pacer {
        Pacer { replay: Some(Replay { joined: now, keyframe_arrival, paid_until: now }) }
    }

    pub const fn is_live(&self) -> bool {
        self.replay.is_none()
    }

    /// The cursor reached the head: live for ever.
    pub fn on_head_reached(&mut self) {
        self.replay = None;
    }

    /// May the next packet, `bytes` long, go? `Pace::Now` counts it as sent.
    pub fn pace(&mut self, now: Time, arrival: Time, bytes: usize) -> Pace {
        let Some(replay) = &mut self.replay else { return Pace::Now };
        let due = replay.due(arrival);
        if now < due {
            return Pace::Wait(due);
        }
        let nanos = bytes as u64 * 8 * 1_000_000_000 / REPLAY_BPS_MAX;
        replay.paid_until = replay.paid_until.max(now) + Duration::from_nanos(nanos);
        Pace::Now
    }

    /// When a packet that arrived at `arrival` may go; `Time::ZERO` once live.
    pub fn deadline(&self, arrival: Time) -> Time {
        self.replay.map_or(Time::ZERO, |replay| replay.due(arrival))
    }
}

impl Replay {
    fn due(&self, arrival: Time) -> Time {
        let span = arrival.since(self.keyframe_arrival).as_nanos() as u64;
        let clock = self.joined + Duration::from_nanos(span.div_ceil(REPLAY_SPEED));
        clock.max(self.paid_until - BURST)
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
        let mut pacer = Pacer::replay(keyframe, joined);
        let (mut now, mut sent) = (joined, Vec::new());
        let mut cursor = 0usize;
        while !pacer.is_live() {
            loop {
                let arrival = keyframe + gap * cursor as u32;
                if arrival > now {
                    pacer.on_head_reached();
                    break;
                }
                match pacer.pace(now, arrival, bytes) {
                    Pace::Now => sent.push((now, cursor)),
                    Pace::Wait(until) => {
                        assert!(until > now);
                        assert_eq!(until, pacer.deadline(arrival));
                        break;
                    }
                }
                cursor += 1;
            }
            now = now + tick;
            assert!(now < joined + Duration::from_secs(60), "never live");
        }
        sent
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
        let mut pacer = Pacer::replay(Time::from_millis(100), Time::from_millis(1_000));
        let arrival = Time::from_millis(300);
        let Pace::Wait(until) = pacer.pace(Time::from_millis(1_000), arrival, 1_000) else { panic!("too early") };
        assert_eq!(until, Time::from_millis(1_020));
        assert_eq!(pacer.pace(Time(until.0 - 1), arrival, 1_000), Pace::Wait(until));
        assert_eq!(pacer.pace(until, arrival, 1_000), Pace::Now);
    }

    #[test]
    fn audio_is_live_at_once() {
        let mut pacer = Pacer::live();
        assert!(pacer.is_live());
        assert_eq!(pacer.pace(Time::ZERO, Time::NEVER, usize::MAX), Pace::Now);
        assert_eq!(pacer.deadline(Time::NEVER), Time::ZERO);
    }
}

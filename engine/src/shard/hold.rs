//! How long a track's news may wait for more of its kind: not at all on an idle shard, up to `HOLD_MAX` on a busy one or for many who watch.
//!
//! A send costs the kernel about the same for one packet as for nine, so a busy shard that sends each packet as it comes
//! spends its time on sends. News of video waits for the end of its frame (which no player shows before), everything
//! else for its time alone; a shard with time to spare spends it on latency. Where hundreds watch, the last of them waits for
//! the lap anyway: there a wait of that size costs little, and halves the laps.

use spillway_proto::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// The longest wait. Also what audio may wait for a seat behind a frame (decision 5).
pub const HOLD_MAX: Duration = Duration::from_millis(10);
/// Below this busy share nothing waits; from the other on everything waits as long as it may.
const BUSY_FREE: f64 = 0.25;
const BUSY_FULL: f64 = 0.50;
/// What no more than so many watch waits for nobody's sake; beyond it each who watches is worth so much, about what his part of two laps takes.
const WATCHERS_FREE: usize = 256;
const WAIT_PER_WATCHER: Duration = Duration::from_micros(5);
/// The share is measured over spans of this length and smoothed over some four of them.
const SPAN: Duration = Duration::from_millis(25);
const SMOOTHING: f64 = 0.25;

/// What a busy shard's tracks wait for.
pub struct Hold {
    busy_ratio: f64,
    /// Of this span: how long ticks took, sending's part of it, and what the thread had worked when it began.
    ticks: Duration,
    sending: Duration,
    worked: Duration,
    span_began: Time,
    bound: Duration,
    /// By track: when its news go out; `NEVER`: it has none.
    due: Vec<Time>,
    /// Tracks that wait, by when they are due; one that went out before its time stays as a dead entry until then.
    waiting: VecDeque<(u32, Time)>,
}

impl Hold {
    pub fn new(tracks_max: usize, now: Time) -> Hold {
        Hold {
            busy_ratio: 0.0,
            ticks: Duration::ZERO,
            sending: Duration::ZERO,
            worked: Duration::ZERO,
            span_began: now,
            bound: Duration::ZERO,
            due: vec![Time::NEVER; tracks_max],
            waiting: VecDeque::with_capacity(2 * tracks_max),
        }
    }

    /// A tick is over: it went on from `began` to `end`, for so long on sending. Nothing else is a reason to wait: commands, checks and
    /// handshakes do not become fewer by it, and those who watch shall not feel that many come. Neither is time in which somebody else
    /// had our core: `worked` is what the thread has used of it since it began.
    pub fn on_tick(&mut self, began: Time, end: Time, sending: Duration, worked: impl FnOnce() -> Duration) {
        let took = end.since(began);
        self.ticks += took;
        self.sending += sending.min(took);
        let span = end.since(self.span_began);
        if span < SPAN {
            return;
        }
        let worked = worked();
        // What was taken from us was taken from all we do alike.
        let share = self.sending.as_secs_f64() / self.ticks.as_secs_f64().max(1e-9);
        let ratio = worked.saturating_sub(self.worked).min(self.ticks).as_secs_f64() * share / span.as_secs_f64();
        self.set_busy(self.busy_ratio + (ratio - self.busy_ratio) * SMOOTHING);
        (self.ticks, self.sending, self.worked) = (Duration::ZERO, Duration::ZERO, worked);
        self.span_began = end;
    }

    /// Also for tests, whose ticks take no time.
    pub fn set_busy(&mut self, ratio: f64) {
        self.busy_ratio = ratio;
        let share = ((ratio - BUSY_FREE) / (BUSY_FULL - BUSY_FREE)).clamp(0.0, 1.0);
        self.bound = HOLD_MAX.mul_f64(share);
    }

    pub fn holds_nothing_back(&self) -> bool {
        self.bound.is_zero()
    }

    #[cfg(test)]
    pub fn busy(&self) -> f64 {
        self.busy_ratio
    }

    /// News of a track that so many watch here. True: they go out now.
    pub fn goes_now(&mut self, track: u32, now: Time, is_complete: bool, watchers: usize) -> bool {
        let Some(due) = self.due.get_mut(track as usize) else { return true };
        let bound = self.bound.max(bound_of(watchers));
        if is_complete || bound.is_zero() || *due <= now {
            *due = Time::NEVER;
            return true;
        }
        if *due == Time::NEVER {
            if self.waiting.len() == self.waiting.capacity() {
                return true;
            }
            *due = now + bound;
            // Mostly the last; who waits for fewer watchers overtakes who waits for more.
            let place = self.waiting.partition_point(|&(_, at)| at <= *due);
            self.waiting.insert(place, (track, *due));
        }
        false
    }

    /// Everybody who reads the track has a turn soon for another reason: its news have no time of their own any more.
    pub fn goes_along(&mut self, track: u32) {
        if let Some(due) = self.due.get_mut(track as usize) {
            *due = Time::NEVER;
        }
    }

    /// A track whose time has come.
    pub fn take_due(&mut self, now: Time) -> Option<u32> {
        while let Some(&(track, at)) = self.waiting.front() {
            let due = &mut self.due[track as usize];
            let is_dead = *due != at;
            if !is_dead && at > now {
                return None;
            }
            self.waiting.pop_front();
            if !is_dead {
                *due = Time::NEVER;
                return Some(track);
            }
        }
        None
    }

    /// When somebody's time comes; it may be a dead entry's.
    pub fn next_due(&self) -> Time {
        self.waiting.front().map_or(Time::NEVER, |&(_, at)| at)
    }
}

fn bound_of(watchers: usize) -> Duration {
    if watchers > WATCHERS_FREE { HOLD_MAX.min(WAIT_PER_WATCHER * watchers as u32) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    //! Goal: nothing waits on an idle shard, nothing longer than it may on a busy one, and nothing is forgotten.
    //! Method: the plain state machine with invented times.

    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(1_000 + ms)
    }

    fn busy(ratio: f64) -> Hold {
        let mut hold = Hold::new(4, at(0));
        hold.set_busy(ratio);
        hold
    }

    #[test]
    fn an_idle_shard_holds_nothing() {
        let mut hold = busy(BUSY_FREE);
        assert!(hold.goes_now(1, at(0), false, 1));
        assert_eq!((hold.take_due(at(50)), hold.next_due()), (None, Time::NEVER));
    }

    #[test]
    fn what_many_watch_waits_on_an_idle_shard_too_as_long_as_they_are_many() {
        let mut hold = busy(0.0);
        assert!(hold.goes_now(1, at(0), false, WATCHERS_FREE) && hold.next_due() == Time::NEVER);
        assert!(!hold.goes_now(1, at(0), false, 600));
        assert!(!hold.goes_now(2, at(1), false, 50_000));
        assert_eq!((hold.take_due(at(2)), hold.take_due(at(3)), hold.next_due()), (None, Some(1), at(1) + HOLD_MAX));
        assert!(hold.goes_now(2, at(4), true, 50_000), "the frame is whole");
        assert!(hold.holds_nothing_back(), "rounds go by the shard");
        hold.set_busy(0.9);
        assert!(!hold.goes_now(3, at(20), false, 600) && hold.take_due(at(24)).is_none(), "the longer of the two");
    }

    #[test]
    fn who_may_wait_shorter_does_not_wait_for_who_may_wait_longer() {
        let mut hold = busy(0.0);
        assert!(!hold.goes_now(1, at(0), false, 2_000));
        assert!(!hold.goes_now(2, at(1), false, 600));
        assert_eq!(hold.next_due(), at(4));
        assert_eq!((hold.take_due(at(4)), hold.take_due(at(4)), hold.take_due(at(10))), (Some(2), None, Some(1)));
    }

    #[test]
    fn a_busy_one_waits_for_the_whole_frame_and_no_longer_than_the_bound() {
        let mut hold = busy(0.9);
        assert!(!hold.goes_now(1, at(0), false, 1));
        assert!(!hold.goes_now(1, at(4), false, 1), "the time counts from the first");
        assert!(hold.goes_now(1, at(5), true, 1));
        assert_eq!(hold.take_due(at(60)), None, "it went out, its entry is dead");
        assert!(!hold.goes_now(2, at(61), false, 1));
        assert!(!hold.goes_now(1, at(63), false, 1));
        assert_eq!((hold.take_due(at(70)), hold.next_due()), (None, at(71)));
        assert_eq!((hold.take_due(at(71)), hold.take_due(at(71))), (Some(2), None));
        assert_eq!((hold.take_due(at(99)), hold.take_due(at(99))), (Some(1), None));
        assert_eq!(hold.next_due(), Time::NEVER);
    }

    #[test]
    fn news_that_come_when_their_time_is_over_go_out_with_it() {
        let mut hold = busy(0.9);
        assert!(!hold.goes_now(3, at(0), false, 1));
        assert!(hold.goes_now(3, at(12), false, 1));
        assert_eq!(hold.take_due(at(12)), None);
    }

    #[test]
    fn a_track_that_went_out_and_waits_again_goes_at_its_new_time() {
        let mut hold = busy(0.9);
        assert!(!hold.goes_now(1, at(0), false, 1));
        assert!(hold.goes_now(1, at(2), true, 1));
        assert!(!hold.goes_now(1, at(3), false, 1));
        assert_eq!(hold.take_due(at(10)), None);
        assert_eq!(hold.take_due(at(13)), Some(1));
    }

    #[test]
    fn what_goes_along_with_others_has_no_time_of_its_own() {
        let mut hold = busy(0.9);
        assert!(!hold.goes_now(1, at(0), false, 1));
        hold.goes_along(1);
        assert_eq!(hold.take_due(at(60)), None);
        assert!(!hold.goes_now(1, at(61), false, 1), "and what comes then waits as long as ever");
        assert_eq!((hold.take_due(at(70)), hold.take_due(at(71))), (None, Some(1)));
    }

    #[test]
    fn the_list_is_bounded_and_a_full_one_holds_nobody() {
        let mut hold = busy(0.9);
        let room = hold.waiting.capacity();
        for _ in 0..room {
            assert!(!hold.goes_now(0, at(0), false, 1));
            assert!(hold.goes_now(0, at(0), true, 1));
        }
        assert!(hold.goes_now(0, at(0), false, 1));
        assert_eq!(hold.waiting.capacity(), room);
    }

    #[test]
    fn the_bound_follows_the_busy_share() {
        let mut hold = Hold::new(1, at(0));
        let run = |hold: &mut Hold, from: u64, busy_ms: u64| {
            for ms in (from..from + 2_000).step_by(10) {
                hold.on_tick(at(ms), at(ms + busy_ms), Duration::from_millis(busy_ms), || Duration::from_millis(ms));
            }
        };
        run(&mut hold, 0, 2);
        assert_eq!(hold.bound, Duration::ZERO);
        run(&mut hold, 2_000, 4);
        assert!(hold.bound > HOLD_MAX / 2 && hold.bound < HOLD_MAX * 2 / 3, "{:?}", hold.bound);
        run(&mut hold, 4_000, 9);
        assert_eq!(hold.bound, HOLD_MAX);
        run(&mut hold, 6_000, 1);
        assert_eq!(hold.bound, Duration::ZERO);
        // Nine of ten milliseconds again, but for those who come.
        for ms in (8_000..10_000).step_by(10) {
            hold.on_tick(at(ms), at(ms + 9), Duration::from_millis(1), || Duration::from_millis(ms));
        }
        assert_eq!(hold.bound, Duration::ZERO);
        // And again, but it had the core for a fifth of the time only.
        for ms in (10_000..12_000).step_by(10) {
            hold.on_tick(at(ms), at(ms + 9), Duration::from_millis(9), || Duration::from_millis(10_000 + (ms - 10_000) / 5));
        }
        assert!(hold.bound.is_zero() && (0.15..0.25).contains(&hold.busy_ratio), "{:?} {}", hold.bound, hold.busy_ratio);
    }
}

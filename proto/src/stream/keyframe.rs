//! Keyframe requests of one track: whatever many viewers ask for, the publisher is asked once, and not more often
//! than its bitrate bears.
//!
//! Owned by the publisher's shard, one per track. It says when to ask upstream, and whether asking is of any use.
//!
//! ```text
//!            wish                  poll                   a keyframe within KEYFRAME_ANSWER_TIME
//!   quiet ---------> wished -------------> asked --------------------------------------------> quiet, hears
//!     ^                ^                     | none came
//!     | a keyframe     |  not deaf yet       v
//!     +----------------+---------------- unanswered --KEYFRAME_UNANSWERED_MAX times--> deaf, quiet
//! ```
//!
//! From KEYFRAME_SUSPECT_TIME after a request on the publisher seems deaf, until a keyframe comes: who waits is served
//! from the reel, and it is asked on. A deaf publisher is asked once per KEYFRAME_PROBE_INTERVAL, and only for a wish; one that negotiated no requests
//! never.

use crate::limits::{
    KEYFRAME_ANSWER_TIME, KEYFRAME_JOIN_INTERVAL, KEYFRAME_PROBE_INTERVAL, KEYFRAME_REQUEST_INTERVAL,
    KEYFRAME_SHARE_PERCENT_MAX, KEYFRAME_SHARE_WINDOW, KEYFRAME_SUSPECT_TIME, KEYFRAME_UNANSWERED_MAX,
};
use crate::time::Time;

/// Who needs a keyframe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// A viewer that lost its picture.
    Live,
    /// A viewer that joined and sees a still picture.
    Join,
}

/// What `poll` wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    Nothing,
    /// Send one request. `again`: for a wish that was sent before, and not answered.
    Request { again: bool },
    /// One would be sent, if keyframes had not taken their share; said once per wish.
    Withheld,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct KeyframeRequests {
    /// The publisher negotiated requests.
    can_ask: bool,
    /// Somebody asked since the last request or keyframe.
    live: bool,
    join: bool,
    /// The last request was for somebody live; the present wish is that one again.
    sent_live: bool,
    again: bool,
    sent_at: Option<Time>,
    /// The oldest request that may still be answered.
    awaiting: Option<Time>,
    unanswered: u8,
    /// A request's time was over, and no keyframe came since.
    late: bool,
    deaf: bool,
    withheld: bool,
    keyframe_at: Option<Time>,
    packet_at: Option<Time>,
    share: Share,
}

impl KeyframeRequests {
    pub fn new(can_ask: bool) -> KeyframeRequests {
        KeyframeRequests { can_ask, ..KeyframeRequests::default() }
    }

    /// Asking is of no use.
    pub fn is_deaf(&self) -> bool {
        self.deaf || !self.can_ask
    }

    /// Whoever waits is better served from the reel, if it can: the publisher is deaf, or is taking long.
    pub fn seems_deaf(&self, now: Time) -> bool {
        let is_late = |at: Time| now.since(at) >= KEYFRAME_SUSPECT_TIME && self.packet_at.is_some_and(|packet| packet > at);
        self.is_deaf() || self.late || self.awaiting.is_some_and(is_late)
    }

    /// A wish waits because keyframes have taken their share.
    pub fn is_withheld(&self) -> bool {
        self.withheld
    }

    pub fn on_wish(&mut self, now: Time, wish: Wish) {
        match wish {
            Wish::Join => self.join = true,
            // A keyframe that came a moment ago was on its way while the viewer asked.
            Wish::Live if self.keyframe_at.is_some_and(|at| now.since(at) < KEYFRAME_REQUEST_INTERVAL) => {}
            Wish::Live => self.live = true,
        }
    }

    /// A packet of the track; `of_keyframe`: of its newest keyframe's picture.
    pub fn on_packet(&mut self, now: Time, bytes: usize, of_keyframe: bool) {
        self.packet_at = Some(now);
        self.share.on_packet(now, bytes as u64, of_keyframe);
    }

    /// A keyframe begins: it is what everybody who asked before it wanted. Called before its packet's `on_packet`.
    pub fn on_keyframe(&mut self, now: Time) {
        self.settle(now);
        let answers = self.awaiting.take().is_some();
        if answers {
            (self.deaf, self.unanswered) = (false, 0);
        }
        self.share.on_keyframe(answers);
        self.keyframe_at = Some(now);
        self.late = false;
        (self.live, self.join, self.again, self.withheld) = (false, false, false, false);
    }

    /// Another publisher took the track over: it has heard no request and sent no keyframe yet.
    pub fn on_takeover(&mut self, can_ask: bool) {
        *self = KeyframeRequests { live: true, ..KeyframeRequests::new(can_ask) };
    }

    /// Whether to send one request (PLI or FIR) upstream now.
    pub fn poll(&mut self, now: Time) -> Due {
        self.settle(now);
        if now < self.deadline() {
            return Due::Nothing;
        }
        if !self.share.allows(now) {
            return if std::mem::replace(&mut self.withheld, true) { Due::Nothing } else { Due::Withheld };
        }
        let again = self.again;
        self.sent_live = self.live;
        (self.live, self.join, self.again, self.withheld) = (false, false, false, false);
        self.sent_at = Some(now);
        self.awaiting = self.awaiting.or(Some(now));
        Due::Request { again }
    }

    /// The earliest moment for the present wish; `Time::NEVER` without one.
    fn deadline(&self) -> Time {
        if !self.can_ask || !(self.live || self.join) {
            return Time::NEVER;
        }
        let Some(sent_at) = self.sent_at else { return Time::ZERO };
        // Who shows no sign of life heard nothing either; asking on would fill a dead path.
        if self.packet_at.is_none_or(|at| at < sent_at) {
            return Time::NEVER;
        }
        sent_at
            + match self.live {
                _ if self.deaf => KEYFRAME_PROBE_INTERVAL,
                true => KEYFRAME_REQUEST_INTERVAL,
                false => KEYFRAME_JOIN_INTERVAL,
            }
    }

    /// A request's time is over: unanswered, it is wished again, or the publisher is deaf.
    fn settle(&mut self, now: Time) {
        let Some(asked_at) = self.awaiting.filter(|at| now.since(*at) >= KEYFRAME_ANSWER_TIME) else { return };
        // One that was sent meanwhile has its own time.
        self.awaiting = self.sent_at.filter(|at| *at > asked_at && now.since(*at) < KEYFRAME_ANSWER_TIME);
        if self.packet_at.is_some_and(|at| at > asked_at) {
            self.unanswered = self.unanswered.saturating_add(1);
            self.late = true;
        }
        self.deaf |= self.unanswered >= KEYFRAME_UNANSWERED_MAX;
        if self.deaf {
            // Whoever waits is served from the reel; whom it cannot serve wishes again.
            (self.live, self.join, self.again) = (false, false, false);
            return;
        }
        self.again = true;
        if self.sent_live { self.live = true } else { self.join = true }
    }
}

const WINDOW_SECONDS: usize = KEYFRAME_SHARE_WINDOW.as_secs() as usize;

/// What keyframes that were asked for took of a track's bytes, by second.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    second: u64,
    all: [u64; WINDOW_SECONDS],
    asked_for: [u64; WINDOW_SECONDS],
    /// Bytes of the newest keyframe so far, and whether it was asked for.
    keyframe: u64,
    provoked: bool,
}

impl Share {
    fn on_keyframe(&mut self, provoked: bool) {
        (self.keyframe, self.provoked) = (0, provoked);
    }

    fn on_packet(&mut self, now: Time, bytes: u64, of_keyframe: bool) {
        let at = self.turn(now);
        self.all[at] += bytes;
        if of_keyframe {
            self.keyframe += bytes;
            self.asked_for[at] += if self.provoked { bytes } else { 0 };
        }
    }

    /// One more of the last one's size keeps within the share. One per window may always be.
    fn allows(&mut self, now: Time) -> bool {
        self.turn(now);
        let (all, asked_for): (u64, u64) = (self.all.iter().sum(), self.asked_for.iter().sum());
        asked_for == 0 || (asked_for + self.keyframe) * 100 <= all * KEYFRAME_SHARE_PERCENT_MAX
    }

    /// The place of the present second; those of seconds that left the window are empty.
    fn turn(&mut self, now: Time) -> usize {
        let second = now.as_nanos() / 1_000_000_000;
        for passed in (self.second + 1..=second).rev().take(WINDOW_SECONDS) {
            let at = (passed % WINDOW_SECONDS as u64) as usize;
            (self.all[at], self.asked_for[at]) = (0, 0);
        }
        self.second = second.max(self.second);
        (self.second % WINDOW_SECONDS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const MS: fn(u64) -> Time = Time::from_millis;
    const SENT: Due = Due::Request { again: false };

    /// A track of 1 Mbit/s, a packet every millisecond, that answers each request after `answer` with a keyframe
    /// of `keyframe` bytes (None: never); wishes by `wish`. The moments of requests.
    fn run(requests: &mut KeyframeRequests, ms: std::ops::Range<u64>, answer: Option<(u64, usize)>, wish: impl Fn(u64) -> Option<Wish>) -> Vec<u64> {
        let (mut sent, mut due) = (Vec::new(), None);
        for at in ms {
            let key = due.is_some_and(|due| due == at);
            if key {
                requests.on_keyframe(MS(at));
            }
            requests.on_packet(MS(at), 125, false);
            if let Some((_, bytes)) = answer.filter(|_| key) {
                requests.on_packet(MS(at), bytes, true);
            }
            if let Some(wish) = wish(at) {
                requests.on_wish(MS(at), wish);
            }
            if matches!(requests.poll(MS(at)), Due::Request { .. }) {
                sent.push(at);
                due = answer.map(|(after, _)| at + after);
            }
        }
        sent
    }

    #[test]
    fn many_viewers_make_one_request() {
        let mut requests = KeyframeRequests::new(true);
        assert_eq!(requests.poll(MS(1)), Due::Nothing);
        for _ in 0..1_000 {
            requests.on_wish(MS(10), Wish::Live);
        }
        assert_eq!((requests.poll(MS(10)), requests.poll(MS(10))), (SENT, Due::Nothing));
        requests.on_packet(MS(11), 100, false);
        requests.on_wish(MS(11), Wish::Live);
        assert_eq!((requests.poll(MS(509)), requests.poll(MS(510))), (Due::Nothing, SENT));
    }

    #[test]
    fn joins_wait_for_each_other_two_seconds() {
        let mut requests = KeyframeRequests::new(true);
        let sent = run(&mut requests, 0..10_000, Some((50, 1_000)), |_| Some(Wish::Join));
        assert_eq!(sent, [0, 2_000, 4_000, 6_000, 8_000]);
    }

    #[test]
    fn a_keyframe_satisfies_who_asked_before_it_and_shortly_after() {
        let mut requests = KeyframeRequests::new(true);
        requests.on_wish(MS(10), Wish::Live);
        requests.on_keyframe(MS(20));
        assert_eq!(requests.poll(MS(10_000)), Due::Nothing);
        requests.on_keyframe(MS(20_000));
        requests.on_wish(MS(20_499), Wish::Live);
        assert_eq!(requests.poll(MS(30_000)), Due::Nothing);
        requests.on_wish(MS(30_000), Wish::Live);
        assert_eq!(requests.poll(MS(30_000)), SENT);
        // Who joins behind a keyframe waits for the next one, however young it is.
        requests.on_keyframe(MS(30_100));
        requests.on_packet(MS(30_100), 10, true);
        requests.on_packet(MS(30_101), 1_000, false);
        requests.on_wish(MS(30_101), Wish::Join);
        assert_eq!((requests.poll(MS(31_999)), requests.poll(MS(32_000))), (Due::Nothing, SENT));
    }

    #[test]
    fn two_requests_without_an_answer_make_a_publisher_deaf() {
        for (wish, moments, deaf_at) in [(Wish::Live, [0, 1_000], 2_000), (Wish::Join, [0, 2_000], 3_000)] {
            let mut requests = KeyframeRequests::new(true);
            let once = |at| (at == 0).then_some(wish);
            assert_eq!(run(&mut requests, 0..deaf_at, None, once), moments);
            assert!(!requests.is_deaf());
            assert_eq!(run(&mut requests, deaf_at..20_000, None, once), [0; 0]);
            assert!(requests.is_deaf());
            // Somebody needs it: once per two seconds. An answer, and it hears.
            let sent = run(&mut requests, 20_000..25_000, None, |_| Some(wish));
            assert_eq!(sent, [20_000, 22_000, 24_000]);
            assert!(requests.is_deaf());
            run(&mut requests, 50_000..50_200, Some((100, 1_000)), |_| Some(wish));
            assert!(!requests.is_deaf());
        }
    }

    #[test]
    fn who_takes_long_seems_deaf_until_its_keyframe_comes() {
        let mut requests = KeyframeRequests::new(true);
        let once = |at| (at == 0).then_some(Wish::Join);
        assert_eq!(run(&mut requests, 0..500, None, once), [0]);
        assert!(!requests.seems_deaf(MS(499)) && requests.seems_deaf(MS(501)) && !requests.is_deaf());
        // Also between the first request's time and the second, and while that one waits.
        for (from, to) in [(500, 1_001), (1_001, 1_900), (1_900, 2_300)] {
            run(&mut requests, from..to, None, |_| None);
            assert!(requests.seems_deaf(MS(to)) && !requests.is_deaf(), "{to}");
        }
        requests.on_keyframe(MS(2_300));
        assert!(!requests.seems_deaf(MS(9_000)), "it heard");
        // Once late, and nobody waits any more: a keyframe of its own time came.
        run(&mut requests, 10_000..11_200, None, |at| (at == 10_000).then_some(Wish::Join));
        requests.on_keyframe(MS(11_200));
        run(&mut requests, 11_201..12_000, None, |_| None);
        assert!(!requests.seems_deaf(MS(12_000)));
        // Of whom nothing comes nothing is known.
        requests.on_wish(MS(20_000), Wish::Live);
        requests.poll(MS(20_000));
        assert!(!requests.seems_deaf(MS(21_000)));
    }

    #[test]
    fn a_keyframe_of_its_own_time_is_no_answer() {
        let mut requests = KeyframeRequests::new(true);
        // Every two seconds, whatever is asked; asked 800 ms behind each: 1,200 ms pass.
        for at in 0..6_001 {
            if at % 2_000 == 0 {
                requests.on_keyframe(MS(at));
            }
            requests.on_packet(MS(at), 100, at % 2_000 == 0);
            if at % 2_000 == 800 {
                requests.on_wish(MS(at), Wish::Join);
            }
            requests.poll(MS(at));
        }
        assert!(requests.is_deaf());
    }

    #[test]
    fn silence_is_not_deafness_and_a_dead_path_is_not_filled() {
        let mut requests = KeyframeRequests::new(true);
        requests.on_wish(MS(0), Wish::Live);
        let sent: Vec<u64> = (0..20_000).filter(|&at| requests.poll(MS(at)) == SENT).collect();
        assert_eq!(sent, [0]);
        assert!(!requests.is_deaf());
        requests.on_packet(MS(20_000), 100, false);
        assert_eq!(requests.poll(MS(20_000)), Due::Request { again: true });
    }

    #[test]
    fn who_negotiated_no_requests_gets_none() {
        let mut requests = KeyframeRequests::new(false);
        assert!(requests.is_deaf());
        assert_eq!(run(&mut requests, 0..30_000, None, |_| Some(Wish::Live)), [0; 0]);
        requests.on_takeover(true);
        assert!(!requests.is_deaf());
    }

    #[test]
    fn a_new_publisher_is_asked_at_once_and_not_deaf() {
        let mut requests = KeyframeRequests::new(true);
        run(&mut requests, 0..10_000, None, |_| Some(Wish::Live));
        assert!(requests.is_deaf());
        requests.on_takeover(true);
        assert_eq!(requests.poll(MS(10_001)), SENT);
        assert!(!requests.is_deaf());
    }

    #[test]
    fn keyframes_that_were_asked_for_take_no_more_than_their_share() {
        // 1 Mbit/s, viewers that ask without end; 40 kB is a third of a second.
        for bytes in [40_000usize, 5_000] {
            let mut requests = KeyframeRequests::new(true);
            let from = 10_000;
            run(&mut requests, 0..from, Some((30, bytes)), |_| None);
            let sent = run(&mut requests, from..from + 100_000, Some((30, bytes)), |_| Some(Wish::Live));
            let taken = (sent.len() * bytes) as f64;
            let share = taken / (taken + 125_000.0 * 100.0);
            assert!(share <= 0.26, "{share} of the bytes");
            if bytes == 5_000 {
                // The interval binds, not the share: 530 ms, as a request must have been answered for 500 ms.
                assert!(sent.len() > 150, "{} requests", sent.len());
            } else {
                assert!((20..120).contains(&sent.len()), "{} requests", sent.len());
            }
        }
        // Said once per wish.
        let mut requests = KeyframeRequests::new(true);
        run(&mut requests, 0..100, Some((10, 100_000)), |at| (at == 0).then_some(Wish::Live));
        let withheld: Vec<Due> = (1_000..5_000)
            .map(|at| {
                requests.on_packet(MS(at), 125, false);
                requests.on_wish(MS(at), Wish::Live);
                requests.poll(MS(at))
            })
            .filter(|due| *due != Due::Nothing)
            .collect();
        assert_eq!(withheld, [Due::Withheld]);
    }

    #[test]
    fn never_two_within_the_interval() {
        let mut rng = Rng::new(5);
        let mut requests = KeyframeRequests::new(true);
        let (mut last, mut count): (Option<Time>, _) = (None, 0);
        for ms in 0..200_000 {
            let now = MS(ms);
            match rng.below(40) {
                0 => requests.on_wish(now, if rng.below(2) == 0 { Wish::Live } else { Wish::Join }),
                1 if rng.below(10) == 0 => requests.on_keyframe(now),
                _ => requests.on_packet(now, 1_000, rng.below(30) == 0),
            }
            if matches!(requests.poll(now), Due::Request { .. }) {
                assert!(last.is_none_or(|at| now.since(at) >= KEYFRAME_REQUEST_INTERVAL));
                (last, count) = (Some(now), count + 1);
            }
        }
        assert!(count > 50, "{count}");
    }
}

//! Keyframe requests of one track: whatever many viewers ask for, the publisher is asked once.
//!
//! Owned by the publisher's shard, one per track. It never answers a viewer itself: it says whether the reel
//! can, or when to ask upstream.

use crate::limits::KEYFRAME_REQUEST_INTERVAL;
use crate::time::Time;
use std::time::Duration;

/// A request that no keyframe followed is sent again after this: the request itself may have been lost.
pub const REPEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Sent this often for one wish; encoders that hear no request (cameras, ffmpeg) come at their own time.
pub const ATTEMPTS_MAX: u8 = 3;

/// What becomes of a viewer's request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestOutcome {
    /// A keyframe arrived a moment ago, on its way while the viewer asked: it stands in the reel.
    FromReel,
    /// The publisher is asked, as soon as `poll` lets it.
    Upstream,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct KeyframeRequests {
    /// Somebody asked since the last send.
    wanted: bool,
    /// Sends since the last keyframe for the present wish.
    attempts: u8,
    sent_at: Option<Time>,
    keyframe_at: Option<Time>,
}

impl KeyframeRequests {
    pub fn new() -> KeyframeRequests {
        KeyframeRequests::default()
    }

    pub fn on_request(&mut self, now: Time) -> RequestOutcome {
        if self.keyframe_at.is_some_and(|at| now.since(at) < KEYFRAME_REQUEST_INTERVAL) {
            return RequestOutcome::FromReel;
        }
        self.wanted = true;
        RequestOutcome::Upstream
    }

    /// A keyframe arrived: it is what everybody who asked before it wanted.
    pub fn on_keyframe(&mut self, now: Time) {
        self.keyframe_at = Some(now);
        self.wanted = false;
        self.attempts = 0;
    }

    /// Another publisher took the track over: it has heard no request and sent no keyframe yet.
    pub fn on_takeover(&mut self) {
        *self = KeyframeRequests { wanted: true, ..KeyframeRequests::default() };
    }

    /// True: send one request (PLI) upstream now.
    pub fn poll(&mut self, now: Time) -> bool {
        if now < self.deadline() {
            return false;
        }
        self.attempts = if self.wanted { 1 } else { self.attempts + 1 };
        self.wanted = false;
        self.sent_at = Some(now);
        true
    }

    /// When `poll` has something to send.
    pub fn deadline(&self) -> Time {
        match self.sent_at {
            None if self.wanted => Time::ZERO,
            Some(at) if self.wanted => at + KEYFRAME_REQUEST_INTERVAL,
            Some(at) if (1..ATTEMPTS_MAX).contains(&self.attempts) => at + REPEAT_INTERVAL,
            _ => Time::NEVER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const MS: fn(u64) -> Time = Time::from_millis;

    #[test]
    fn many_viewers_make_one_request() {
        let mut requests = KeyframeRequests::new();
        assert!(!requests.poll(MS(1)) && requests.deadline() == Time::NEVER);
        for _ in 0..1_000 {
            assert_eq!(requests.on_request(MS(10)), RequestOutcome::Upstream);
        }
        assert!(requests.poll(MS(10)) && !requests.poll(MS(10)));
        requests.on_request(MS(11));
        assert_eq!(requests.deadline(), MS(510));
        assert!(!requests.poll(MS(509)) && requests.poll(MS(510)));
    }

    #[test]
    fn a_keyframe_satisfies_who_asked_before_it_and_shortly_after() {
        let mut requests = KeyframeRequests::new();
        requests.on_request(MS(10));
        requests.on_keyframe(MS(20));
        assert!(!requests.poll(MS(10_000)));
        requests.on_keyframe(MS(20_000));
        assert_eq!(requests.on_request(MS(20_499)), RequestOutcome::FromReel);
        assert!(!requests.poll(MS(30_000)));
        assert_eq!(requests.on_request(MS(30_000)), RequestOutcome::Upstream);
        assert!(requests.poll(MS(30_000)));
    }

    #[test]
    fn an_unheard_request_is_repeated_but_not_for_ever() {
        let mut requests = KeyframeRequests::new();
        requests.on_request(MS(0));
        let mut sent = Vec::new();
        for ms in 0..20_000 {
            if requests.poll(MS(ms)) {
                sent.push(ms);
            }
        }
        assert_eq!(sent, [0, 1_000, 2_000]);
        requests.on_request(MS(20_000));
        requests.poll(MS(20_000));
        requests.on_keyframe(MS(20_100));
        assert_eq!(requests.deadline(), Time::NEVER, "answered: no repeat");
    }

    #[test]
    fn a_new_publisher_is_asked_at_once() {
        let mut requests = KeyframeRequests::new();
        requests.on_request(MS(0));
        assert!(requests.poll(MS(0)));
        requests.on_keyframe(MS(5));
        requests.on_takeover();
        assert!(requests.poll(MS(6)));
    }

    #[test]
    fn never_two_within_the_interval_and_the_deadline_is_exact() {
        let mut rng = Rng::new(5);
        let mut requests = KeyframeRequests::new();
        let mut last: Option<Time> = None;
        for ms in 0..200_000 {
            let now = MS(ms);
            match rng.below(40) {
                0 => {
                    requests.on_request(now);
                }
                1 if rng.below(20) == 0 => requests.on_keyframe(now),
                _ => {}
            }
            let due = requests.deadline() <= now;
            let sent = requests.poll(now);
            assert_eq!(sent, due);
            if sent {
                assert!(last.is_none_or(|at| now.since(at) >= KEYFRAME_REQUEST_INTERVAL));
                last = Some(now);
            }
        }
        assert!(last.is_some());
    }
}

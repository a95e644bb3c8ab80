//! Timers: one wheel for what every session needs once a second, and a short list of running handshakes.
//!
//! A session is visited once a second, at a moment given by its slot, so that the reports of thousands are
//! spread out. Nothing runs while a shard has no session and no track.

use super::Core;
use spillway_proto::id::Side;
use spillway_proto::limits::{CONSENT_EXPIRY, REPORT_INTERVAL, UNCLAIMED_EXPIRY};
use spillway_proto::link::command::SessionState;
use spillway_proto::link::event::CloseReason;
use spillway_proto::session::ice;
use spillway_proto::time::Time;
use std::time::Duration;

const BUCKETS: usize = 64;
const BUCKET_SPAN: Duration = Duration::from_nanos(REPORT_INTERVAL.as_nanos() as u64 / BUCKETS as u64);
/// Hundreds of handshakes run where many come from afar, and a look at each costs a cache line: their timers are of 50 ms and more.
const HANDSHAKES_INTERVAL: Duration = Duration::from_millis(1);
const TRACKS_INTERVAL: Duration = Duration::from_millis(100);

pub struct Timers {
    /// Slots of sessions, by the moment of their visit.
    buckets: Vec<Vec<u32>>,
    sessions: usize,
    bucket: usize,
    bucket_at: Time,
    tracks_at: Time,
    /// Sessions whose handshake runs.
    handshakes: Vec<u32>,
    /// When they are looked at next: when one of them is due, and not more often than `HANDSHAKES_INTERVAL`.
    handshakes_at: Time,
    #[cfg(test)]
    handshakes_looked_at: usize,
    /// Publishers that are told when their packets arrived, and when the next of them is.
    pub feedback: Vec<u32>,
    pub feedback_at: Time,
}

impl Timers {
    pub fn new(now: Time) -> Timers {
        Timers {
            buckets: vec![Vec::new(); BUCKETS],
            sessions: 0,
            bucket: 0,
            bucket_at: now,
            tracks_at: now,
            handshakes: Vec::new(),
            handshakes_at: Time::NEVER,
            #[cfg(test)]
            handshakes_looked_at: 0,
            feedback: Vec::new(),
            feedback_at: Time::NEVER,
        }
    }

    pub fn add(&mut self, slot: u32, now: Time) {
        if self.sessions == 0 {
            self.bucket_at = now + BUCKET_SPAN;
        }
        self.sessions += 1;
        self.buckets[bucket_of(slot)].push(slot);
    }

    pub fn remove(&mut self, slot: u32) {
        let bucket = &mut self.buckets[bucket_of(slot)];
        if let Some(at) = bucket.iter().position(|&other| other == slot) {
            bucket.swap_remove(at);
            self.sessions -= 1;
        }
        self.handshakes.retain(|&other| other != slot);
        self.feedback.retain(|&other| other != slot);
    }

    #[cfg(any(test, feature = "simulation"))]
    pub fn sessions_visited(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }

    #[cfg(any(test, feature = "simulation"))]
    pub fn handshakes_running(&self) -> usize {
        self.handshakes.len()
    }

    pub fn add_handshake(&mut self, slot: u32) {
        self.handshakes.push(slot);
    }

    /// A few numbers are looked through, where a handshake takes half a millisecond.
    pub fn end_handshake(&mut self, slot: u32) {
        if let Some(at) = self.handshakes.iter().position(|&other| other == slot) {
            self.handshakes.swap_remove(at);
        }
    }

    /// A handshake that runs is due at `at`.
    pub fn look_at_handshakes(&mut self, now: Time, at: Time) {
        self.handshakes_at = self.handshakes_at.min(at.max(now + HANDSHAKES_INTERVAL));
    }

    /// How many looks at single handshakes there were.
    #[cfg(test)]
    pub fn handshakes_looked_at(&self) -> usize {
        self.handshakes_looked_at
    }
}

/// Slots of one shard are a comb (every second, every eighth): mixed, so that all buckets are used.
fn bucket_of(slot: u32) -> usize {
    (slot.wrapping_mul(0x9E37_79B1) >> 16) as usize % BUCKETS
}

impl Core {
    pub fn run_timers(&mut self) {
        let now = self.now;
        self.run_handshake_timers();
        self.send_feedback();
        self.repair_tracks();
        if self.timers.tracks_at <= now {
            self.timers.tracks_at = now + TRACKS_INTERVAL;
            self.watch_tracks();
        }
        for _ in 0..BUCKETS {
            if self.timers.bucket_at > now || self.timers.sessions == 0 {
                return;
            }
            let bucket = self.timers.bucket;
            self.timers.bucket = (bucket + 1) % BUCKETS;
            self.timers.bucket_at = self.timers.bucket_at + BUCKET_SPAN;
            for at in (0..self.timers.buckets[bucket].len()).rev() {
                // A visit may close the session, which swaps the last one into its place: seen already.
                if let Some(&slot) = self.timers.buckets[bucket].get(at) {
                    self.visit(slot);
                }
            }
        }
        // More than a whole turn behind (the process was stopped): no catching up.
        self.timers.bucket_at = now + BUCKET_SPAN;
    }

    fn visit(&mut self, slot: u32) {
        let now = self.now;
        let Some(record) = self.table.session(slot) else { return };
        let connected = record.state == SessionState::Connected as u8;
        let added_at = Time(record.added_at);
        // RFC 7675 section 5.1: nothing goes out once consent has expired. The next visit would be too late to notice,
        // and the goodbye is sent as well.
        let silent = ice::consent_expired(record, now + REPORT_INTERVAL + 2 * BUCKET_SPAN);
        let Some(mut session) = self.sessions[slot as usize].take() else { return };
        // RFC 7675 section 5.1 for viewers; a publisher that sends no checks lives by authenticated media.
        let lives = session.side == Side::Publisher && now.since(session.media_at) < CONSENT_EXPIRY;
        if connected && (!silent || lives) {
            match session.side {
                Side::Publisher => self.report_to_publisher(&session),
                Side::Viewer => {
                    self.show_quality(&mut session);
                    self.report_to_viewer(&mut session);
                }
            }
        }
        self.sessions[slot as usize] = Some(session);
        if connected && silent && !lives {
            self.close_session(slot, CloseReason::ConsentExpired);
        } else if !connected && now.since(added_at) > UNCLAIMED_EXPIRY {
            self.close_session(slot, CloseReason::NeverConnected);
        }
    }

    fn run_handshake_timers(&mut self) {
        let now = self.now;
        if self.timers.handshakes_at > now {
            return;
        }
        self.timers.handshakes_at = Time::NEVER;
        for at in (0..self.timers.handshakes.len()).rev() {
            let Some(&slot) = self.timers.handshakes.get(at) else { continue };
            #[cfg(test)]
            {
                self.timers.handshakes_looked_at += 1;
            }
            let due = self.session_mut(slot).is_some_and(|session| session.handshake_due() <= now);
            if due {
                self.go_on_with_handshake(slot);
            }
            let over = !self.session_mut(slot).is_some_and(|session| session.is_shaking_hands());
            if over && self.timers.handshakes.get(at) == Some(&slot) {
                self.timers.handshakes.swap_remove(at);
            }
        }
        for at in 0..self.timers.handshakes.len() {
            let slot = self.timers.handshakes[at];
            let due = self.session_mut(slot).map_or(now, |session| session.handshake_due());
            self.timers.look_at_handshakes(now, due);
        }
    }

    /// When the next timer is due; None while there is nothing to wait for.
    pub fn next_deadline(&mut self) -> Option<Time> {
        let mut deadline = self.fanout.next_at().min(self.timers.feedback_at).min(self.tracks.repair_at);
        if self.timers.sessions > 0 {
            deadline = deadline.min(self.timers.bucket_at);
        }
        if !self.tracks.is_empty() {
            deadline = deadline.min(self.timers.tracks_at);
        }
        deadline = deadline.min(self.timers.handshakes_at);
        (deadline != Time::NEVER).then_some(deadline)
    }
}

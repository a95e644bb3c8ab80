//! How a video feed starts: what it is given of the newest keyframe and what came since, and when it is live.
//!
//! Decisions only; engine/shard/start carries them out. One `Start` per feed and one `ReplayBudget` per shard, both
//! owned by the viewer's shard.
//!
//! ```text
//!   Waiting --a keyframe is in the reel--> short way? --yes--> Replay ------- at the head ------> Live
//!      ^                                       | no            |  ^ \                              |  ^
//!      |                                       v          lossy|  |  `-- request: again, 3 times   |  |
//!      |                                    Keyframe           |  |                                |  |
//!      |                                       | sent          |  | deaf, and now it fits          |  |
//!      |                                       v               v  |                                |  |
//!      |                                      Hold <--------------+       the next keyframe        |  |
//!      |                                       `-----------------------------------------------------'
//!      `-- too far behind, and the reel has no keyframe -------------------------------------------'
//!
//!   Live --request, and the short way is open (or the publisher is deaf)--> Replay (or Keyframe)
//!   Live --a queue lost what was replayed, and the publisher hears--> Hold
//! ```
//!
//! Short way: all since the keyframe at ten times live. Long way: the keyframe alone, shown as if it were of now,
//! and one request upstream. Audio is Live from its first packet.
//!
//! Never: a timestamp before one that was sent; a request upstream for what a replay lost; more than `RESTARTS_MAX`
//! restarts before the feed is live.

use super::pacer::{Pace, Pacer};
use crate::limits::{
    REPLAY_AGE_MAX, REPLAY_BPS_MAX, REPLAY_BYTES_MAX, REPLAY_BYTES_PER_SECOND_MAX, REPLAY_DRAIN_MAX, REPLAY_LOSS_PERCENT_MAX,
    REPLAY_LOSSES_MAX, REPLAY_NEWS_MAX, REPLAY_SLOWER_PAUSE, REPLAY_SPEED, REPLAY_WIDE_BYTES_MAX, REPLAY_WIDE_INTERVAL, REPLAY_WIDE_TIME_MAX,
    REPLAYS_PER_SECOND_MAX, REPLAYS_SLOWER_MAX, RESTART_INTERVAL, RESTARTS_MAX,
};
use crate::session::record::LEAD_WHOLE;
use crate::time::Time;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Bytes since a younger keyframe say little of the bitrate: they are mostly the keyframe.
const RATE_KNOWN_AFTER: Duration = Duration::from_millis(500);
/// A replay that is not live after twice its time and this: the source grew faster than the replay.
const REPLAY_SLACK: Duration = Duration::from_millis(500);
/// A timeline that was bent is true again after at least this.
const BEND_MIN: Duration = Duration::from_millis(50);
/// Requests this soon after a restart were sent before it arrived.
const RESTART_GAP: Duration = Duration::from_millis(200);
/// A keyframe of this moment: who enters at it is live, and a live viewer that asks has it on its way.
const JUST_NOW: Duration = Duration::from_millis(100);

/// What the reel says of its newest keyframe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub index: u64,
    pub timestamp: u32,
    pub arrival: Time,
    /// Payload bytes since, with its own.
    pub bytes: u64,
    /// The track's publisher answers no requests.
    pub deaf: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Short,
    Long,
}

/// How large a replay may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    Small,
    /// Where nobody can be asked: who has no picture would look at a still one until the next keyframe.
    Wide,
}

/// What becomes of a viewer's keyframe request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// It was served a moment ago, or more often than it may be.
    Ignored,
    /// From the reel. `ask`: and the publisher is asked, as for a join.
    Again { way: Way, ask: bool },
    /// The reel cannot: the publisher is asked, the feed goes on.
    Upstream,
}

/// What replays may cost a shard, and what is a storm.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplayBudget {
    /// When all replays so far would be over at `REPLAY_BYTES_PER_SECOND_MAX`; all joins at their own rate.
    bytes_until: Time,
    joins_until: Time,
}

impl ReplayBudget {
    /// How a feed begins that joins now.
    pub fn join(&mut self, now: Time, entry: &Entry, bound: Bound) -> Way {
        // An audience that waited for the first keyframe: there is nothing to replay.
        if now.since(entry.arrival) < JUST_NOW && entry.fits(now, REPLAY_BPS_MAX, bound) {
            return Way::Short;
        }
        let storm = !spend(&mut self.joins_until, now, SECOND / REPLAYS_PER_SECOND_MAX as u32, SECOND);
        if storm && !entry.deaf { Way::Long } else { self.way(now, entry, bound) }
    }

    /// The short way, if it is open and paid for.
    pub fn way(&mut self, now: Time, entry: &Entry, bound: Bound) -> Way {
        let young = entry.deaf || now.since(entry.arrival) <= REPLAY_AGE_MAX;
        let cost = Duration::from_nanos(entry.bytes.saturating_mul(1_000_000_000) / REPLAY_BYTES_PER_SECOND_MAX);
        // Wide ones leave half of it to all others.
        let purse = if entry.bytes > REPLAY_BYTES_MAX { SECOND / 2 } else { SECOND };
        let open = young && entry.fits(now, REPLAY_BPS_MAX, bound) && spend(&mut self.bytes_until, now, cost, purse);
        if open { Way::Short } else { Way::Long }
    }
}

/// Takes `cost` from a purse that holds so much and fills by itself.
fn spend(until: &mut Time, now: Time, cost: Duration, purse: Duration) -> bool {
    let open = until.since(now) < purse;
    if open {
        *until = (*until).max(now) + cost;
    }
    open
}

impl Entry {
    fn fits(&self, now: Time, rate_bps: u64, bound: Bound) -> bool {
        self.catch_up(now, rate_bps).is_some_and(|takes| {
            let wide = bound == Bound::Wide && self.deaf && self.bytes <= REPLAY_WIDE_BYTES_MAX && takes <= REPLAY_WIDE_TIME_MAX;
            wide || self.bytes <= REPLAY_BYTES_MAX
        })
    }

    /// How long a replay takes that begins now; None if the source is about as fast as the replay may be.
    fn catch_up(&self, now: Time, rate_bps: u64) -> Option<Duration> {
        let age = now.since(self.arrival);
        let by_speed = age / (REPLAY_SPEED as u32 - 1);
        let rate = if age < RATE_KNOWN_AFTER { 0 } else { self.bytes * 1_000 / (age.as_millis() as u64).max(1) };
        let rate_max = rate_bps / 8;
        if rate > rate_max / 4 * 3 {
            return None;
        }
        let by_rate = Duration::from_nanos(self.bytes.saturating_mul(1_000_000_000) / (rate_max - rate));
        Some(by_speed.max(by_rate))
    }
}

/// How far from true the timestamps of a feed run that begins at `entry` now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bend {
    /// As in the record's `Mapping`.
    pub meet: u32,
    pub lead: u32,
}

impl Bend {
    /// `sent`: the greatest timestamp the viewer was sent; `offset`: the feed's; `newest`: the reel's last timestamp.
    ///
    /// On the short way nothing is bent for a viewer that saw nothing of this picture or after; else the replay
    /// begins just behind what it saw and is true again where it catches up. On the long way the keyframe is of now.
    pub fn new(way: Way, entry: &Entry, now: Time, newest: u32, offset: u32, sent: Option<u32>, clock_rate: u32) -> Bend {
        let true_start = entry.timestamp.wrapping_add(offset);
        let seen = sent.map_or(-1, |sent| sent.wrapping_sub(true_start) as i32);
        let shift = u64::from((i64::from(seen) + 1).max(0) as u32);
        match way {
            Way::Short if shift == 0 => Bend::default(),
            Way::Short => {
                let catch_up = entry.catch_up(now, REPLAY_BPS_MAX).unwrap_or(SECOND).max(BEND_MIN);
                let span = ticks(now.since(entry.arrival) + catch_up, clock_rate);
                let span = span.max(shift + ticks(BEND_MIN, clock_rate)).min(i32::MAX as u64);
                // Rounded up: not a tick before what was sent.
                let lead = (shift << 16).div_ceil(span).min(u64::from(LEAD_WHOLE));
                Bend { meet: entry.timestamp.wrapping_add(span as u32), lead: lead as u32 }
            }
            Way::Long => {
                let behind = u64::from((newest.wrapping_sub(entry.timestamp) as i32).max(0) as u32);
                let span = behind.max(shift).min(i32::MAX as u64);
                Bend { meet: entry.timestamp.wrapping_add(span as u32), lead: LEAD_WHOLE }
            }
        }
    }
}

fn ticks(span: Duration, clock_rate: u32) -> u64 {
    (span.as_nanos() * u128::from(clock_rate) / 1_000_000_000) as u64
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Not connected, or no keyframe is in the reel.
    Waiting,
    Replay(Pacer),
    Keyframe(Pacer),
    Hold,
    Live,
}

/// Where one feed stands.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    stage: Stage,
    /// First packet and timestamp of the picture it entered at.
    entry: u64,
    entry_timestamp: u32,
    /// The greatest timestamp it was sent.
    sent: Option<u32>,
    /// The newest mapping is not the true timeline.
    bent: bool,
    was_live: bool,
    restarts: u8,
    restarted_at: Option<Time>,
    give_up_at: Time,
    /// Of the present replay: packets sent, packets asked for again, and up to which SRTP index those were counted.
    replayed: u32,
    lost: u32,
    lost_until: u64,
    /// Of the lost ones those that follow another; when the replay began, where it ended, and until when its losses count after that.
    lost_in_row: u32,
    began: Time,
    replay_end: u64,
    news_until: Time,
    /// Replays given up since it was live, and when the next one may begin.
    gave_up: u8,
    again_at: Time,
    /// The queue that a replay filled is empty by then: no keyframe of before is of use. Somebody has to ask for one.
    drained_at: Time,
    to_ask: bool,
}

impl Start {
    pub const WAITING: Start = Start {
        stage: Stage::Waiting,
        entry: 0,
        entry_timestamp: 0,
        sent: None,
        bent: false,
        was_live: false,
        restarts: 0,
        restarted_at: None,
        give_up_at: Time::NEVER,
        replayed: 0,
        lost: 0,
        lost_until: 0,
        lost_in_row: 0,
        began: Time::ZERO,
        replay_end: 0,
        news_until: Time::ZERO,
        gave_up: 0,
        again_at: Time::ZERO,
        drained_at: Time::ZERO,
        to_ask: false,
    };

    #[inline]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }
    #[inline]
    pub fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }
    /// Of its next replay.
    pub fn bound(&self, now: Time) -> Bound {
        let is_due = self.restarted_at.is_none_or(|at| now.since(at) >= REPLAY_WIDE_INTERVAL);
        if is_due || !self.was_live { Bound::Wide } else { Bound::Small }
    }
    pub fn sent(&self) -> Option<u32> {
        self.sent
    }
    /// The picture it entered at last: its first packet and its timestamp.
    pub fn entered_at(&self) -> (u64, u32) {
        (self.entry, self.entry_timestamp)
    }
    #[inline]
    pub fn is_bent(&self) -> bool {
        self.bent
    }
    /// The reel's newest keyframe is another one than it entered at, and its path has room for it.
    pub fn is_newer(&self, entry: &Entry) -> bool {
        entry.index > self.entry && entry.timestamp != self.entry_timestamp && entry.arrival >= self.drained_at
    }
    /// Of the picture the feed enters at.
    #[inline]
    pub fn is_entry(&self, timestamp: u32) -> bool {
        timestamp == self.entry_timestamp && !self.is_live()
    }

    /// It begins at a keyframe; `sequence` is its first SRTP index.
    pub fn enter(&mut self, now: Time, way: Way, entry: &Entry, bend: Bend, sequence: u64) {
        let pacer = Pacer::new(entry.arrival, now).at_most(self.rate_bps());
        self.stage = if way == Way::Short { Stage::Replay(pacer) } else { Stage::Keyframe(pacer) };
        (self.entry, self.entry_timestamp) = (entry.index, entry.timestamp);
        self.bent = bend.lead > 0;
        self.give_up_at = now + entry.catch_up(now, self.rate_bps()).unwrap_or(SECOND) * 2 + REPLAY_SLACK;
        (self.replayed, self.lost, self.lost_until, self.lost_in_row) = (0, 0, sequence, 0);
        (self.began, self.replay_end) = (now, 0);
        // The keyframe once more is not the one that is waited for.
        self.to_ask &= way == Way::Long;
    }

    /// Likewise, once more, for a viewer that did not get it.
    pub fn enter_again(&mut self, now: Time, way: Way, entry: &Entry, bend: Bend, sequence: u64) {
        self.restarts = if self.is_live() { 0 } else { self.restarts + 1 };
        self.restarted_at = Some(now);
        self.enter(now, way, entry, bend, sequence);
    }

    /// A live viewer's request went upstream instead of being answered from the reel: that counts like a restart.
    pub fn on_asked_upstream(&mut self, now: Time) {
        self.restarted_at = Some(now);
    }

    /// From here on at live pace.
    pub fn on_live(&mut self, bend: Bend) {
        self.stage = Stage::Live;
        (self.restarts, self.gave_up, self.bent, self.was_live) = (0, 0, bend.lead > 0, true);
        (self.replay_end, self.to_ask) = (0, false);
    }

    /// The cursor is at the head: a replay is live, `next` is the SRTP index behind it. What it has left of a bent timeline comes at
    /// live pace.
    pub fn on_head_reached(&mut self, now: Time, next: u64) {
        if matches!(self.stage, Stage::Replay(_)) {
            self.stage = Stage::Live;
            (self.restarts, self.gave_up, self.was_live) = (0, 0, true);
            (self.replay_end, self.news_until) = (next, now + REPLAY_NEWS_MAX);
        }
    }

    /// The timeline met the true one.
    pub fn on_straight(&mut self) {
        self.bent = false;
    }

    /// The keyframe went out: the next one is waited for.
    pub fn on_keyframe_sent(&mut self) {
        self.stage = Stage::Hold;
    }

    /// The reel lost what it would send next, and has no keyframe.
    pub fn on_lost(&mut self) {
        self.stage = Stage::Waiting;
    }

    /// The replay is stopped; on as in the long way.
    ///
    /// `entry`: the reel's newest keyframe, which may have gone by in the replay.
    pub fn give_up(&mut self, now: Time, entry: Option<&Entry>) {
        (self.stage, self.again_at) = (Stage::Hold, now + REPLAY_SLOWER_PAUSE);
        self.gave_up = self.gave_up.saturating_add(1);
        if let Some(entry) = entry {
            (self.entry, self.entry_timestamp) = (entry.index, entry.timestamp);
        }
    }

    /// Likewise, because its path lost too much: what is queued there is as long as the news took to come, at most. A keyframe sent into
    /// it would wait behind that, or be lost, too.
    pub fn give_up_full(&mut self, now: Time, entry: Option<&Entry>) {
        self.give_up(now, entry);
        (self.drained_at, self.to_ask) = (now + now.since(self.began).min(REPLAY_DRAIN_MAX), true);
    }

    /// The path has room again, and the publisher has to be asked; said once.
    pub fn take_ask(&mut self, now: Time) -> bool {
        self.stage == Stage::Hold && now >= self.drained_at && std::mem::take(&mut self.to_ask)
    }

    /// A replay that takes too long: the source grows as fast as it goes.
    pub fn is_overdue(&self, now: Time) -> bool {
        matches!(self.stage, Stage::Replay(_)) && now > self.give_up_at
    }

    /// A feed that holds may replay after all, while asking is of no use: after a replay that its path did not carry at
    /// half the rate, and so a few times, if that is still faster than the source.
    pub fn may_replay(&self, now: Time, entry: &Entry, budget: &mut ReplayBudget) -> bool {
        let may = self.gave_up <= REPLAYS_SLOWER_MAX && now >= self.again_at;
        let helps = entry.deaf && entry.fits(now, self.rate_bps(), self.bound(now));
        self.stage == Stage::Hold && may && helps && budget.way(now, entry, self.bound(now)) == Way::Short
    }

    fn rate_bps(&self) -> u64 {
        REPLAY_BPS_MAX >> self.gave_up.min(REPLAYS_SLOWER_MAX)
    }

    /// May the next packet go? Live costs nothing.
    pub fn pace(&self, now: Time, arrival: Time, bytes: usize, paid_until: &mut Time) -> Pace {
        match &self.stage {
            Stage::Replay(pacer) | Stage::Keyframe(pacer) => pacer.pace(now, arrival, bytes, paid_until),
            Stage::Live => Pace::Now,
            Stage::Waiting | Stage::Hold => Pace::Wait(Time::NEVER),
        }
    }

    /// Packets went out, the last of them with this timestamp.
    pub fn on_sent(&mut self, packets: usize, timestamp: u32) {
        if !self.is_live() {
            self.replayed = self.replayed.saturating_add(packets as u32);
        }
        self.on_sent_late(timestamp);
    }

    /// A packet went out behind its successors, or in answer to a request: what follows has a later timestamp too.
    pub fn on_sent_late(&mut self, timestamp: u32) {
        if self.sent.is_none_or(|sent| timestamp.wrapping_sub(sent) as i32 > 0) {
            self.sent = Some(timestamp);
        }
    }

    /// The viewer asks for a keyframe.
    pub fn on_request(&self, now: Time, entry: Option<&Entry>, budget: &mut ReplayBudget) -> Request {
        let since = |span| self.restarted_at.is_some_and(|at| now.since(at) < span);
        let Some(entry) = entry else {
            return if self.is_live() { Request::Upstream } else { Request::Ignored };
        };
        match self.stage {
            Stage::Waiting => Request::Ignored,
            Stage::Live if since(RESTART_INTERVAL) || now.since(entry.arrival) < JUST_NOW => Request::Ignored,
            Stage::Live => match budget.way(now, entry, self.bound(now)) {
                Way::Long if !entry.deaf => Request::Upstream,
                way => Request::Again { way, ask: way == Way::Long },
            },
            _ if self.replayed == 0 || self.restarts >= RESTARTS_MAX || since(RESTART_GAP) => Request::Ignored,
            // What was granted is granted again.
            Stage::Replay(_) if entry.fits(now, REPLAY_BPS_MAX, Bound::Wide) => Request::Again { way: Way::Short, ask: false },
            Stage::Replay(_) => Request::Again { way: Way::Long, ask: true },
            Stage::Hold if now < self.drained_at => Request::Ignored,
            Stage::Keyframe(_) | Stage::Hold => Request::Again { way: Way::Long, ask: false },
        }
    }

    /// Losses are of interest: there is a replay, or was a moment ago.
    pub fn hears_losses(&self, now: Time) -> bool {
        matches!(self.stage, Stage::Replay(_)) || (self.is_live() && self.replay_end > 0 && now < self.news_until)
    }

    /// The viewer lacks the packet with this SRTP index. True: the path does not carry the replay.
    ///
    /// Behind a long queue the news come when the replay is over. By then the viewer is live and may heal: only a queue that ran over is a
    /// reason to begin anew, which loses all that comes until it has room, not one packet here and there.
    pub fn on_loss(&mut self, now: Time, index: u64) -> bool {
        let is_live = self.is_live();
        if !self.hears_losses(now) || index < self.lost_until || (is_live && index >= self.replay_end) {
            return false;
        }
        self.lost_in_row += u32::from(self.lost > 0 && index == self.lost_until);
        // Asked for again and again it is lost once.
        self.lost_until = index + 1;
        self.lost += 1;
        let share = u64::from(self.lost) * 100 > u64::from(self.replayed) * u64::from(REPLAY_LOSS_PERCENT_MAX);
        let in_row = !is_live || self.lost_in_row * 2 >= self.lost;
        self.lost >= REPLAY_LOSSES_MAX && share && in_row
    }
}

#[cfg(test)]
mod tests;

//! How feeds start: carries out, on records and reels, what `spillway_proto::stream::start` decides.
//!
//! Runs on the viewer's shard, before a feed's packets are sent (`prepare_feed`) and when a viewer asks for a
//! keyframe or for lost packets. It sends nothing itself: it sets the cursor and the mapping, and fan-out goes on.

use super::Core;
use super::session::{Feed, Session};
use spillway_proto::id::Kind;
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::quality::SessionStats;
use spillway_proto::rng::Rng;
use spillway_proto::session::record::{FeedRecord, Mapping};
use spillway_proto::stream::keyframe::Wish;
use spillway_proto::stream::reel::{ReelReader, SlotFlags};
use spillway_proto::stream::rewrite;
use spillway_proto::stream::start::{Bend, Entry, Request, Stage, Way};
use spillway_proto::time::Time;
use spillway_proto::wire::rtcp::Losses;
use std::sync::atomic::Ordering;

/// One feed and what it reads.
struct Turn<'a> {
    feed: &'a mut Feed,
    record: &'a mut FeedRecord,
    reel: &'a ReelReader,
    rng: &'a mut Rng,
    now: Time,
}

impl Core {
    /// Brings a feed to where it goes on. False: there is nothing for it now.
    pub(super) fn prepare_feed(&mut self, session: &mut Session, at: usize) -> bool {
        let now = self.now;
        let feed = &mut session.feeds[at];
        let Some(reader) = self.fanout.reader(feed.track) else { return false };
        let Some(record) = self.table.feed(feed.slot) else { return false };
        let track = reader.track;
        let behind = record.cursor.load(Ordering::Relaxed) < reader.reel.recent();
        if feed.start.is_live() && !behind && !feed.start.is_bent() {
            return true;
        }
        let Some(codec) = self.shared.owners.track_codec(track) else { return false };
        feed.clock_rate = codec.clock_rate();
        let stage = *feed.start.stage();
        let still = matches!(stage, Stage::Keyframe(_) | Stage::Hold);
        let mut turn = Turn { feed, record, reel: &reader.reel, rng: &mut self.rng, now };
        let entry = turn.entry();
        // The next keyframe: also over one that is still being sent, and has left the reel for it.
        let next = entry.as_ref().filter(|entry| still && turn.feed.start.is_newer(entry));
        let jumps = behind && next.is_none() && !matches!(stage, Stage::Waiting | Stage::Hold);
        let (mut ready, mut ask) = (true, false);
        if let Some(next) = next {
            turn.go_live(next.index, Some(next));
        } else if codec.kind() == Kind::Audio {
            turn.go_live(turn.reel.head(), None);
        } else if jumps || stage == Stage::Waiting {
            match &entry {
                Some(entry) => {
                    let way = self.replay_budget.join(now, entry, turn.feed.start.bound(now));
                    ask = way == Way::Long;
                    turn.enter(way, entry, false);
                    let id = if ask { CounterId::StartsByKeyframe } else { CounterId::StartsByReplay };
                    self.tally.add(id, u64::from(!jumps));
                }
                None => {
                    turn.feed.start.on_lost();
                    (ready, ask) = (false, true);
                }
            }
        } else if stage == Stage::Hold {
            match &entry {
                Some(entry) if turn.feed.start.may_replay(now, entry, &mut self.replay_budget) => {
                    turn.enter(Way::Short, entry, true);
                }
                // A deaf publisher's next keyframe may be minutes away, if it was taken for deaf because requests were
                // lost: its mark has ended whatever this feed wished for before. The keyframe may have left the reel by then.
                _ => {
                    let is_due = turn.feed.start.take_ask(now);
                    (ready, ask) = (false, is_due || entry.as_ref().is_none_or(|entry| entry.deaf));
                }
            }
        } else if turn.feed.start.is_overdue(now) {
            turn.feed.start.give_up(now, entry.as_ref());
            (ready, ask) = (false, true);
        } else if stage == Stage::Live {
            turn.straighten();
        }
        self.tally.add(CounterId::FeedsJumped, u64::from(jumps));
        if ask {
            self.want_keyframe(track.index, Wish::Join);
        }
        ready
    }

    /// A viewer asks for a keyframe: from the reel where that is possible, else upstream, merged with the others'.
    pub(super) fn hear_keyframe_request(&mut self, session: &mut Session, ssrc: u32) {
        let now = self.now;
        let table = &mut self.table;
        let Some(feed) =
            session.feeds.iter_mut().find(|feed| table.feed(feed.slot).is_some_and(|record| record.ssrc == ssrc))
        else {
            return;
        };
        self.tally.add(CounterId::KeyframeRequestsReceived, 1);
        let Some(reader) = self.fanout.reader(feed.track) else { return };
        let Some(record) = table.feed(feed.slot) else { return };
        let (track, codec) = (reader.track, self.shared.owners.track_codec(reader.track));
        if !codec.is_some_and(|codec| codec.kind() == Kind::Video) {
            return;
        }
        let mut turn = Turn { feed, record, reel: &reader.reel, rng: &mut self.rng, now };
        let entry = turn.entry();
        let is_live = turn.feed.start.is_live();
        let request = turn.feed.start.on_request(now, entry.as_ref(), &mut self.replay_budget);
        let stats = self.shared.link.session_stats(session.id.index);
        SessionStats::add(&stats.keyframe_requests, 1);
        // Looked at once per restart, not once per request.
        let from_reel = is_live && matches!(request, Request::Again { .. });
        let is_torn = from_reel && entry.as_ref().is_some_and(|entry| is_torn(turn.reel, entry));
        // The publisher's packets are missing, and a replay would miss them too.
        let is_of_no_use = is_torn && entry.as_ref().is_some_and(|entry| !entry.deaf);
        if is_live && request != Request::Ignored {
            let again = matches!(request, Request::Again { .. }) && !is_of_no_use;
            let newest = entry.as_ref().map(|entry| entry.index);
            Core::count_freeze(now, stats, &mut turn.feed.quality, newest, again);
        }
        match request {
            Request::Ignored => {}
            Request::Again { .. } if is_of_no_use => {
                turn.feed.start.on_asked_upstream(now);
                self.want_keyframe(track.index, Wish::Live);
            }
            Request::Upstream => self.want_keyframe(track.index, Wish::Live),
            Request::Again { way, ask } => {
                if let Some(entry) = &entry {
                    turn.enter(way, entry, true);
                }
                self.tally.add(CounterId::ReplaysRestarted, 1);
                SessionStats::add(&stats.replays_restarted, 1);
                self.fanout.queue(session.id.index);
                // Who is taken for deaf may only have lost requests: then a torn picture is worth another.
                if ask || is_torn {
                    self.want_keyframe(track.index, Wish::Join);
                }
            }
        }
    }

    /// A viewer lost packets. Of a replay, too many of them end it, also if it is over by then; nothing of it is sent again. The
    /// publisher is asked when the path has room for the answer (`prepare_feed`).
    pub(super) fn hear_replay_losses(&mut self, session: &mut Session, ssrc: u32, losses: Losses<'_>) {
        let now = self.now;
        for feed in &mut session.feeds {
            let Some(record) = self.table.feed(feed.slot).filter(|record| record.ssrc == ssrc) else { continue };
            if !feed.start.hears_losses(now) {
                return;
            }
            let Some(next) = rewrite::next_sequence(record) else { return };
            let entry = self.fanout.reader(feed.track).and_then(|reader| entry_of(&reader.reel));
            // Who is live heals as well as may be, where nobody could be asked for better.
            if feed.start.is_live() && entry.as_ref().is_none_or(|entry| entry.deaf) {
                return;
            }
            let lossy = losses.clone().any(|lost| {
                let back = (next as u16).wrapping_sub(lost);
                (1..0x8000).contains(&back) && next.checked_sub(back.into()).is_some_and(|index| feed.start.on_loss(now, index))
            });
            if lossy {
                rewrite::forget(record);
                feed.start.give_up_full(now, entry.as_ref());
                feed.live_sent = false;
                self.tally.add(CounterId::ReplaysAborted, 1);
            }
            return;
        }
    }
}

impl Turn<'_> {
    fn entry(&self) -> Option<Entry> {
        entry_of(self.reel)
    }

    /// From a keyframe on, with the next sequence number: no hole, however often.
    fn enter(&mut self, way: Way, entry: &Entry, again: bool) {
        let (sequence, offset) = self.line();
        let bend = self.bend(way, entry, offset);
        self.go_to(entry.index, sequence, offset, bend);
        self.feed.live_sent = false;
        if again {
            self.feed.start.enter_again(self.now, way, entry, bend, sequence);
        } else {
            self.feed.start.enter(self.now, way, entry, bend, sequence);
        }
    }

    /// Live from `index` on, with the next sequence number, at a keyframe or (audio) anywhere.
    fn go_live(&mut self, index: u64, entry: Option<&Entry>) {
        let (sequence, offset) = self.line();
        let bend = entry.map_or(Bend::default(), |entry| self.bend(Way::Short, entry, offset));
        self.go_to(index, sequence, offset, bend);
        self.feed.start.on_live(bend);
    }

    fn bend(&self, way: Way, entry: &Entry, offset: u32) -> Bend {
        let last = self.reel.slot(self.reel.head().saturating_sub(1));
        let newest = last.map_or(entry.timestamp, |slot| slot.meta.timestamp);
        Bend::new(way, entry, self.now, newest, offset, self.feed.start.sent(), self.feed.clock_rate)
    }

    /// Where a bent timeline met the true one it is followed by that: the same timestamps, for ever.
    fn straighten(&mut self) {
        let cursor = self.record.cursor.load(Ordering::Relaxed);
        let meet = rewrite::newest(self.record).meet;
        let past = |timestamp: u32| timestamp.wrapping_sub(meet) as i32 >= 0;
        if self.reel.slot(cursor).is_some_and(|slot| past(slot.meta.timestamp)) {
            let (sequence, offset) = self.line();
            self.go_to(cursor, sequence, offset, Bend::default());
            self.feed.start.on_straight();
        }
    }

    /// The next SRTP index and the offset of the true timeline; random for a feed that sent nothing yet.
    fn line(&mut self) -> (u64, u32) {
        match rewrite::next_sequence(self.record) {
            Some(next) => (next, rewrite::newest(self.record).timestamp_offset),
            None => (self.rng.below(1 << 15), self.rng.next_u32()),
        }
    }

    fn go_to(&mut self, index: u64, sequence: u64, offset: u32, bend: Bend) {
        let mapping = rewrite::start_mapping(index, self.feed.track, sequence, offset);
        rewrite::push_mapping(self.record, Mapping { meet: bend.meet, lead: bend.lead, ..mapping });
        self.record.cursor.store(index, Ordering::Release);
    }
}

/// Since the keyframe a packet of the source is missing: what follows it cannot be decoded, however often it is sent.
fn is_torn(reel: &ReelReader, entry: &Entry) -> bool {
    let begins = |flags: SlotFlags| flags.contains(SlotFlags::FRAME_START) || flags.contains(SlotFlags::PARAMETER_SETS);
    !reel.slot(entry.index).is_some_and(|slot| begins(slot.meta.flags))
        || (entry.index..reel.head()).any(|index| reel.slot(index).is_none())
}

fn entry_of(reel: &ReelReader) -> Option<Entry> {
    let index = reel.keyframe()?;
    let meta = reel.slot(index)?.meta;
    let (timestamp, arrival) = (meta.timestamp, meta.arrival);
    Some(Entry { index, timestamp, arrival, bytes: reel.bytes_since(index), deaf: reel.is_deaf() })
}

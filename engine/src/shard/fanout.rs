//! Fan-out: from reels to viewers, session by session, pulled.
//!
//! A session that has something to read gets a turn (`rounds` says when): for each feed, reel[cursor..head],
//! at most 16 packets, sealed straight into transmit memory; packets of equal size go out as one GSO send, a
//! shorter one closes the run. Then the next session. Back-pressure stops at a packet boundary: cursors stay, and that
//! session is first in the next tick.

use super::Core;
use super::Shared;
use super::hold::Hold;
use super::quality::FeedQuality;
use super::rounds::Rounds;
use super::session::{Feed, Session};
use crate::io::{Io, Sent};
use crate::shm::{prefetch, prefetch_behind};
use spillway_proto::id::{FeedId, Kind, TrackId};
use spillway_proto::limits::{PACKETS_PER_ROUND_MAX, SESSIONS_MAX, TRACKS_MAX, TRACKS_PER_STREAM_MAX};
use spillway_proto::link::command::{Answer, FeedFacts, Status};
use spillway_proto::link::counters::CounterId;
use spillway_proto::session::srtp::{KEY_BYTES, MediaKey, Sealer};
use spillway_proto::stream::pacer::Pace;
use spillway_proto::stream::feedback;
use spillway_proto::stream::reel::{ReelReader, SlotFlags};
use spillway_proto::stream::resend::Resends;
use spillway_proto::stream::rewrite;
use spillway_proto::stream::start::{Stage, Start};
use spillway_proto::time::Time;
use spillway_proto::wire::rtcp;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Slots of one feed looked at per round.
const LOOKS_PER_ROUND_MAX: u64 = 256;

/// A reel this shard reads, and who wants it.
pub(super) struct Reader {
    pub(super) track: TrackId,
    pub(super) reel: ReelReader,
    /// Slots of the sessions with a feed of it.
    sessions: Vec<u32>,
    /// Keeps the reel's memory mapped.
    _memory: Arc<crate::shm::Mapping>,
}

pub struct Fanout {
    readers: Vec<Option<Box<Reader>>>,
    /// Tracks with news in this tick.
    marked: Vec<u32>,
    /// Tracks whose news wait for more of their kind.
    hold: Hold,
    /// Whose turn is next.
    rounds: Rounds,
    /// Sessions whose replay goes on at a time; each slot at most once.
    paced: Vec<u32>,
    paced_at: Time,
    /// By slot: it stands in `paced`, until then; `Time::ZERO`: not there.
    paced_until: Vec<Time>,
}

pub(super) enum Served {
    Done,
    More,
    Paced(Time),
    Blocked,
}

impl Served {
    /// What holds for both parts of a turn.
    fn and(self, other: Served) -> Served {
        match (self, other) {
            (Served::Blocked, _) | (_, Served::Blocked) => Served::Blocked,
            (Served::More, _) | (_, Served::More) => Served::More,
            (Served::Paced(one), Served::Paced(other)) => Served::Paced(one.min(other)),
            (Served::Done, other) => other,
            (paced, Served::Done) => paced,
        }
    }
}

/// Sealed packets in transmit memory: segments of one size, the last may be shorter.
#[derive(Clone, Copy, Default)]
struct Run {
    length: usize,
    segment: usize,
    segments: usize,
}

impl Run {
    fn push(&mut self, sealed: usize) {
        self.segment = if self.segments == 0 { sealed } else { self.segment };
        self.length += sealed;
        self.segments += 1;
    }

    /// A shorter segment is the last one.
    fn is_closed(&self) -> bool {
        self.length < self.segment * self.segments
    }
}

/// What a run has of one feed, and where the feed stands when it is sent.
#[derive(Clone, Copy, Default)]
struct Part {
    /// The feed's place in its session.
    at: usize,
    next: u64,
    packets: usize,
    octets: usize,
    /// Of the last packet, as sent.
    timestamp: u32,
}

/// A run that is not sent yet: the session's next feed may close it.
struct Open {
    run: Run,
    part: Part,
}

/// What a round left over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    Nothing,
    /// Somebody has more to read at once.
    More,
    /// The network takes nothing now: the backend's `park` ends when it does.
    Blocked,
}

impl Fanout {
    pub fn new(now: Time) -> Fanout {
        let mut readers = Vec::new();
        readers.resize_with(TRACKS_MAX, || None);
        Fanout {
            readers,
            marked: Vec::with_capacity(TRACKS_MAX),
            hold: Hold::new(TRACKS_MAX, now),
            rounds: Rounds::new(),
            paced: Vec::with_capacity(SESSIONS_MAX),
            paced_at: Time::NEVER,
            paced_until: vec![Time::ZERO; SESSIONS_MAX],
        }
    }

    /// How many slots stand in the queue, and in the list of replays.
    #[cfg(test)]
    pub fn waiting(&self) -> (usize, usize) {
        (self.rounds.waiting(), self.paced.len())
    }

    /// How many turns were given.
    #[cfg(test)]
    pub fn turns(&self) -> usize {
        self.rounds.turns
    }

    pub(super) fn has_short_rounds(&self) -> bool {
        self.rounds.is_short()
    }

    /// The slot's session has something to read.
    pub(super) fn queue(&mut self, slot: u32) {
        self.rounds.queue(slot);
    }

    /// The slot's session has keys, or is gone.
    pub(super) fn set_connected(&mut self, slot: u32, connected: bool) {
        self.rounds.set_connected(slot, connected);
    }

    /// The slot's session goes on at `at`.
    fn pace(&mut self, slot: u32, at: Time) {
        let until = &mut self.paced_until[slot as usize];
        if *until == Time::ZERO {
            self.paced.push(slot);
            *until = at;
        }
        *until = at.min(*until);
        self.paced_at = self.paced_at.min(at);
    }

    /// Queues the replays whose time has come.
    fn queue_paced(&mut self, now: Time) {
        if self.paced_at > now {
            return;
        }
        self.paced_at = Time::NEVER;
        let (paced_until, rounds, next) = (&mut self.paced_until, &mut self.rounds, &mut self.paced_at);
        self.paced.retain(|&slot| {
            let until = &mut paced_until[slot as usize];
            if *until > now {
                *next = (*next).min(*until);
                return true;
            }
            *until = Time::ZERO;
            rounds.queue(slot);
            false
        });
    }

    pub fn mark(&mut self, track: u32) {
        if !self.marked.contains(&track) && self.marked.len() < self.marked.capacity() {
            self.marked.push(track);
        }
    }

    /// Everybody who watches the track's stream has a turn, and reads whatever there is: also what of its other tracks waited until now.
    fn news(&mut self, track: u32) {
        let stream = track - track % TRACKS_PER_STREAM_MAX as u32;
        (stream..stream + TRACKS_PER_STREAM_MAX as u32).for_each(|track| self.hold.goes_along(track));
        self.rounds.news(track);
    }

    /// When something goes on by itself.
    pub fn next_at(&self) -> Time {
        self.paced_at.min(self.hold.next_due())
    }

    /// A tick is over.
    pub fn on_tick(&mut self, began: Time, end: Time, sending: Duration, worked: impl FnOnce() -> Duration) {
        self.hold.on_tick(began, end, sending, worked);
    }

    #[cfg(test)]
    pub(super) fn busy(&self) -> f64 {
        self.hold.busy()
    }

    #[cfg(test)]
    pub(super) fn set_busy(&mut self, ratio: f64) {
        self.hold.set_busy(ratio);
    }

    pub fn unsubscribe(&mut self, shared: &Shared, shard: usize, track: u32, slot: u32) {
        let Some(reader) = self.readers.get_mut(track as usize) else { return };
        if let Some(found) = reader {
            if let Some(at) = found.sessions.iter().position(|&other| other == slot) {
                found.sessions.swap_remove(at);
                self.rounds.leave(track, &[slot]);
            }
            if found.sessions.is_empty() {
                *reader = None;
                shared.owners.remove_reader(track, shard);
            }
        }
    }

    pub(super) fn reader(&mut self, track: u32) -> Option<&mut Reader> {
        self.readers.get_mut(track as usize)?.as_deref_mut()
    }
}

impl Core {
    pub fn attach_feed(&mut self, slot: u32, track: TrackId, facts: &FeedFacts) -> Result<Answer, Status> {
        if !self.session_mut(slot).ok_or(Status::NotFound)?.has_room_for_feed() {
            return Err(Status::Full);
        }
        let codec = self.shared.owners.track_codec(track).ok_or(Status::NotFound)?;
        self.subscribe(track, slot)?;
        let record = self.table.session(slot).ok_or(Status::NotFound)?;
        // From a counter, never again in this session; 1 is the source of our own reports.
        record.ssrc_next = record.ssrc_next.max(super::session::REPORT_SSRC) + 1;
        let ssrc = record.ssrc_next;
        let has_rtx = facts.rtx_payload_types.iter().any(|payload_type| *payload_type != 0);
        record.ssrc_next += u32::from(has_rtx);
        let rtx_ssrc = if has_rtx { record.ssrc_next } else { 0 };
        let next = record.feed_first;
        let Some((feed, record)) = self.table.add_feed() else {
            self.fanout.unsubscribe(&self.shared, self.index, track.index, slot);
            return Err(Status::Full);
        };
        record.session = slot;
        record.track = track.index;
        record.track_generation = track.generation;
        (record.ssrc, record.rtx_ssrc) = (ssrc, rtx_ssrc);
        record.next = next;
        record.payload_types = facts.payload_types;
        record.rtx_payload_types = facts.rtx_payload_types;
        record.dependency_descriptor = facts.extensions.dependency_descriptor;
        if let Some(record) = self.table.session(slot) {
            record.feed_first = feed.index;
        }
        let clock_rate = codec.clock_rate();
        if let Some(session) = self.session_mut(slot) {
            // Sound last: its packets are short enough to end a run of pictures.
            let place = if codec.kind() == Kind::Video { 0 } else { session.feeds.len() };
            session.feeds.insert(place, Feed {
                slot: feed.index,
                track: track.index,
                clock_rate,
                start: Start::WAITING,
                live_sent: false,
                report_now: false,
                resends: Resends::new(codec.kind()),
                late_seen: 0,
                quality: FeedQuality::default(),
            });
        }
        self.start_feeds(slot);
        Ok(Answer::Feed { feed, ssrc, rtx_ssrc })
    }

    fn subscribe(&mut self, track: TrackId, slot: u32) -> Result<(), Status> {
        let stream = track.index / TRACKS_PER_STREAM_MAX as u32;
        let place = track.index as usize % TRACKS_PER_STREAM_MAX;
        let reader = self.fanout.readers.get(track.index as usize).ok_or(Status::NotFound)?;
        if !reader.as_ref().is_some_and(|reader| reader.track == track) {
            // A track that was detached a moment ago, and we have not heard of it yet.
            self.drop_reader(track.index);
            let memory = self.shared.reel_files.get(stream as usize).and_then(super::ReelFile::mapping);
            let memory = memory.ok_or(Status::NotFound)?;
            // JUSTIFICATION: reels are read in place in the stream's file.
            // SAFETY: the mapping has STREAM_FILE_BYTES and lives in the reader; slabs are reused only after
            // this shard's next tick (`Epochs`).
            let reel = unsafe { ReelReader::attach(memory.start().as_ptr(), memory.length(), place) };
            let reel = reel.map_err(|_| Status::NotFound)?;
            let reader = Reader { track, reel, sessions: Vec::new(), _memory: memory };
            self.fanout.readers[track.index as usize] = Some(Box::new(reader));
            self.shared.owners.add_reader(track.index, self.index);
        }
        let reader = self.fanout.reader(track.index).ok_or(Status::NotFound)?;
        if !reader.sessions.contains(&slot) {
            reader.sessions.push(slot);
            self.fanout.rounds.join(track.index, slot);
        }
        Ok(())
    }

    pub fn detach_feed(&mut self, feed: FeedId) -> Result<Answer, Status> {
        let record = self.table.feed(feed.index).filter(|record| record.id(feed.index) == feed);
        let (slot, track) = record.map(|record| (record.session, record.track)).ok_or(Status::NotFound)?;
        if let Some(session) = self.session_mut(slot) {
            session.feeds.retain(|other| other.slot != feed.index);
            let still = session.feeds.iter().any(|other| other.track == track);
            if !still {
                self.fanout.unsubscribe(&self.shared, self.index, track, slot);
            }
        }
        self.table.remove_feed(feed.index);
        Ok(Answer::Nothing)
    }

    /// A slot's number among this shard's, which are dealt out in turn with the other shards'.
    fn number(&self, slot: u32) -> u32 {
        slot / self.shared.owners.shards()
    }

    /// A session with keys may be sent to: its feeds stand in the queue.
    pub fn start_feeds(&mut self, slot: u32) {
        if self.session_mut(slot).is_some_and(|session| session.sealer.is_some() && !session.feeds.is_empty()) {
            self.fanout.queue(slot);
        }
    }

    fn queue_marked(&mut self) {
        for at in 0..self.fanout.marked.len() {
            let track = self.fanout.marked[at];
            let Some(reader) = self.fanout.readers[track as usize].as_deref() else { continue };
            let Some(codec) = self.shared.owners.track_codec(reader.track) else {
                self.drop_reader(track);
                continue;
            };
            let ends_frame = || reader.reel.slot(reader.reel.head().wrapping_sub(1)).is_some_and(|slot| slot.meta.flags.contains(SlotFlags::FRAME_END));
            let is_complete = codec.kind() == Kind::Video && ends_frame();
            if self.fanout.hold.goes_now(track, self.now, is_complete, reader.sessions.len()) {
                self.fanout.news(track);
            }
        }
        self.fanout.marked.clear();
        while let Some(track) = self.fanout.hold.take_due(self.now) {
            self.fanout.news(track);
        }
        self.fanout.rounds.step(self.fanout.hold.holds_nothing_back());
        self.fanout.queue_paced(self.now);
    }

    /// The track is gone: so are its feeds here.
    fn drop_reader(&mut self, track: u32) {
        let Some(reader) = self.fanout.readers[track as usize].take() else { return };
        self.shared.owners.remove_reader(track, self.index);
        self.fanout.rounds.leave(track, &reader.sessions);
        for slot in reader.sessions {
            let Some(session) = self.sessions[slot as usize].as_deref_mut() else { continue };
            let table = &mut self.table;
            session.feeds.retain(|feed| {
                if feed.track == track {
                    table.remove_feed(feed.slot);
                }
                feed.track != track
            });
        }
    }

    /// One round: each session in the queue gets a turn.
    pub fn fan_out(&mut self, io: &mut impl Io) -> Left {
        self.queue_marked();
        for _ in 0..self.fanout.rounds.ready() {
            let Some(slot) = self.fanout.rounds.pop() else { break };
            self.look_ahead(io);
            let Some(mut session) = self.sessions[slot as usize].take() else { continue };
            io.turn_of(self.number(slot));
            let served = self.serve(io, &mut session);
            let track = session.feeds.first().map(|feed| feed.track);
            self.sessions[slot as usize] = Some(session);
            match served {
                Served::Done => {}
                Served::More => match track {
                    Some(track) => self.fanout.rounds.again(track, slot),
                    None => self.fanout.queue(slot),
                },
                Served::Paced(at) => self.fanout.pace(slot, at),
                Served::Blocked => {
                    self.fanout.rounds.put_back(slot);
                    self.tally.add(CounterId::SendsBlocked, 1);
                    return Left::Blocked;
                }
            }
        }
        if self.fanout.rounds.is_over() { Left::Nothing } else { Left::More }
    }

    /// Fetches what the next turns need: nobody looked at those sessions for a frame, and each stands behind three pointers,
    /// which are followed one turn after the other.
    fn look_ahead(&mut self, io: &impl Io) {
        let rounds = &self.fanout.rounds;
        if let Some(slot) = rounds.peek(0) {
            io.look_ahead(self.number(slot));
        }
        let session = |turns: usize| self.sessions.get(rounds.peek(turns)? as usize)?.as_deref();
        if let Some(session) = session(2) {
            prefetch(session);
        }
        if let Some(session) = session(1) {
            prefetch(session.feeds.as_slice());
        }
        let Some(session) = session(0) else { return };
        if let Some(key) = session.sealer.as_ref().and_then(Sealer::media_key) {
            match key {
                #[cfg(target_arch = "x86_64")]
                MediaKey::Wide(key) => prefetch(&**key),
                MediaKey::AwsLc(key) => prefetch_behind(key, KEY_BYTES),
            }
        }
        for feed in &session.feeds {
            if let Some(record) = self.table.feed(feed.slot) {
                prefetch(record);
            }
        }
    }

    fn serve(&mut self, io: &mut impl Io, session: &mut Session) -> Served {
        let mut served = Served::Done;
        for at in 0..session.feeds.len() {
            served = served.and(self.serve_late(io, session, at));
            if !matches!(served, Served::Blocked) {
                served = served.and(self.serve_resends(io, session, at));
            }
            if matches!(served, Served::Blocked) {
                return served;
            }
        }
        let mut open = None;
        for at in 0..session.feeds.len() {
            served = served.and(self.serve_feed(io, session, at, &mut open));
            if matches!(served, Served::Blocked) {
                return served;
            }
        }
        if let Some(open) = open
            && !self.send_run(io, session, &open.run, [Some(&open.part), None])
        {
            return Served::Blocked;
        }
        if session.feeds.iter().any(|feed| feed.report_now) {
            self.report_to_viewer(session);
        }
        if session.joining {
            self.show_join(session);
        }
        served
    }

    /// Sends what is sealed, and only then moves the feeds on. False: the network takes nothing now.
    fn send_run(&mut self, io: &mut impl Io, session: &mut Session, run: &Run, parts: [Option<&Part>; 2]) -> bool {
        if run.segments > 0 {
            let Some(path) = session.path else { return true };
            if matches!(io.send(&path, run.length, run.segment), Sent::Blocked) {
                return false;
            }
            session.answers.earn(run.length);
            self.tally.add(CounterId::PacketsSent, run.segments as u64);
            self.tally.add(CounterId::BytesSent, run.length as u64);
            self.tally.add(CounterId::Sends, 1);
        }
        for part in parts.into_iter().flatten() {
            let Some(feed) = session.feeds.get_mut(part.at) else { continue };
            let Some(record) = self.table.feed(feed.slot) else { continue };
            record.cursor.store(part.next, Ordering::Release);
            record.packets += part.packets as u64;
            record.octets += part.octets as u64;
            if part.packets > 0 {
                feed.start.on_sent(part.packets, part.timestamp);
            }
        }
        true
    }

    /// A feed's turn. `open` is the run an earlier feed of this session left open: what is no longer than its segments
    /// goes as its last one, so that sound costs no send of its own where it meets a picture.
    fn serve_feed(&mut self, io: &mut impl Io, session: &mut Session, at: usize, open: &mut Option<Open>) -> Served {
        let now = self.now;
        if session.sealer.is_none() || !self.prepare_feed(session, at) {
            return Served::Done;
        }
        let (Some(_), Some(sealer)) = (session.path, session.sealer.as_ref()) else { return Served::Done };
        let feeds = session.feeds.len();
        let feed = &mut session.feeds[at];
        let Some(reader) = self.fanout.reader(feed.track) else { return Served::Done };
        let head = reader.reel.head();
        let Some(record) = self.table.feed(feed.slot) else { return Served::Done };
        let was_live = feed.start.is_live();
        // The keyframe and no more.
        let alone = matches!(feed.start.stage(), Stage::Keyframe(_));
        // Its report was sent: it may leave its run to the next feed.
        let may_leave = was_live && feed.live_sent && at + 1 < feeds;
        let mut sent = 0;
        let mut cursor = record.cursor.load(Ordering::Relaxed);
        // Holes cost a look each: a source whose numbers leap keeps nobody else waiting.
        let end = head.min(cursor.saturating_add(LOOKS_PER_ROUND_MAX));
        let overhead = sealer.profile().rtp_overhead();
        let segments_max = io.gso_segments().min(PACKETS_PER_ROUND_MAX);
        let mut budget = PACKETS_PER_ROUND_MAX;
        let mut paced = None;
        let (mut picture_over, mut doubled, mut met_late) = (false, false, false);
        while cursor < end && budget > 0 && paced.is_none() && !picture_over && !met_late {
            let (Some(feed), Some(sealer)) = (session.feeds.get_mut(at), session.sealer.as_ref()) else { break };
            let Some(reader) = self.fanout.reader(feed.track) else { break };
            let reel = &reader.reel;
            let Some(record) = self.table.feed(feed.slot) else { break };
            let Some(buffer) = io.buffer() else { return Served::Blocked };
            let left = open.take();
            let mut run = left.as_ref().map_or(Run::default(), |left| left.run);
            let mut part = Part { at, next: cursor, ..Part::default() };
            while part.next < end && budget > 0 && run.segments < segments_max {
                // A hole of the source stays a hole.
                let Some(slot) = reel.slot(part.next) else {
                    part.next += 1;
                    continue;
                };
                if slot.late > feed.late_seen {
                    // Filled a moment ago: its late list comes first, in the next turn.
                    met_late = true;
                    break;
                }
                let is_entry = !was_live && feed.start.is_entry(slot.meta.timestamp);
                if alone && !is_entry {
                    picture_over = true;
                    break;
                }
                let Some((header, index)) = rewrite::header(record, &slot.meta) else {
                    part.next += 1;
                    continue;
                };
                let described = rewrite::described(record, &header, slot.descriptor);
                let header = described.as_ref().map_or(&header[..], |described| described.bytes());
                let size = header.len() + slot.padded.len() + overhead;
                if run.segments > 0 && (size > run.segment || run.length + size > buffer.len()) {
                    break;
                }
                let paid_until = &mut session.replay_paid_until;
                if !was_live
                    && !doubled
                    && let Pace::Wait(at) = feed.start.pace(now, slot.meta.arrival, size, paid_until)
                {
                    paced = Some(at);
                    break;
                }
                // Before the seal: after a kill the record names at least what was on the wire.
                if index >= record.rtp_index.load(Ordering::Relaxed) {
                    record.rtp_index.store(index + 1, Ordering::Release);
                }
                let Some(sealed) = sealer.seal_into(header, &[], slot.padded, index, &mut buffer[run.length..]) else {
                    part.next += 1;
                    continue;
                };
                run.push(sealed);
                part.packets += 1;
                part.octets += slot.payload.len();
                budget -= 1;
                part.timestamp = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                // A lost first packet is not asked for again: parameter sets go twice, byte for byte the same.
                let sets = SlotFlags::PARAMETER_SETS.with(SlotFlags::PICTURE_SETS);
                doubled = is_entry && !doubled && slot.meta.flags.intersects(sets);
                if !doubled {
                    part.next += 1;
                    picture_over = alone && slot.meta.flags.contains(SlotFlags::FRAME_END);
                }
                if run.is_closed() || picture_over {
                    break;
                }
            }
            cursor = part.next;
            sent += part.packets;
            if left.is_none() && may_leave && cursor >= head && part.packets > 0 && !run.is_closed() && run.segments < segments_max {
                *open = Some(Open { run, part });
                break;
            }
            let left = left.map(|left| left.part);
            if !self.send_run(io, session, &run, [left.as_ref(), Some(&part)]) {
                return Served::Blocked;
            }
        }
        let Some(feed) = session.feeds.get_mut(at) else { return Served::Done };
        if picture_over {
            feed.start.on_keyframe_sent();
            // The next one may be there already.
            return Served::More;
        }
        if cursor >= head && !was_live {
            let next = self.table.feed(feed.slot).and_then(|record| rewrite::next_sequence(record));
            feed.start.on_head_reached(now, next.unwrap_or_default());
        }
        // No report before the first live packet: one during a replay would drag live audio back. Where there is nothing to be in step
        // with, the next visit is soon enough: a thousand who came live with the same packet would all be told at once.
        if was_live && sent > 0 && !std::mem::replace(&mut feed.live_sent, true) {
            feed.report_now = feeds > 1;
        }
        match paced {
            Some(at) => Served::Paced(at),
            None if cursor < head => Served::More,
            None => Served::Done,
        }
    }

    /// Sender reports for a viewer's live feeds, on the publisher's own timeline: lips stay in sync.
    pub fn report_to_viewer(&mut self, session: &mut Session) {
        let now = self.now;
        for at in 0..session.feeds.len() {
            let feed = &mut session.feeds[at];
            feed.report_now = false;
            if !feed.live_sent {
                continue;
            }
            let clock_rate = feed.clock_rate;
            let Some(mapping) = self.fanout.reader(feed.track).and_then(|reader| reader.reel.sr()) else { continue };
            let Some(record) = self.table.feed(feed.slot) else { continue };
            let (ntp, rtp) = feedback::sender_report(&mapping, now, clock_rate, rewrite::newest(record).timestamp_offset);
            session.feeds[at].quality.on_sender_report(ntp, now);
            let (ssrc, packets, octets) = (record.ssrc, record.packets as u32, record.octets as u32);
            self.send_rtcp(session, |out| {
                let length = rtcp::write_sr(out, ssrc, ntp, rtp, packets, octets, &[])?;
                Some(length + rtcp::write_sdes_cname(&mut out[length..], ssrc, "spillway")?)
            });
        }
    }
}

//! Tracks this shard feeds: from an opened packet to its slot in the reel.
//!
//! A stream with its tracks and reels is written by one shard only. The one copy of a packet is made here,
//! from the lent receive memory into the reel; everybody else reads.

use super::Core;
use super::pool::StreamSlabs;
use super::repair::Repair;
use super::session::{REPORT_SSRC, Session};
use crate::shm::Mapping;
use spillway_proto::id::{Codec, Kind, Side, StreamId, TrackId};
use spillway_proto::limits::{DESCRIPTOR_BYTES_MAX, PUBLISHERS_MAX, TRACKS_MAX, TRACKS_PER_STREAM_MAX};
use spillway_proto::link::command::{Answer, KeyframeOutcome, Note, Status, TrackFacts, TrackFeedback};
use spillway_proto::link::counters::{CounterId, TrackStats};
use spillway_proto::link::event::Event;
use spillway_proto::mux::packetize;
use spillway_proto::session::record::NIL;
use spillway_proto::session::srtp::{Opened, Window};
use spillway_proto::stream::intake::{Intake, IntakeError};
use spillway_proto::stream::keyframe::{Due, KeyframeRequests, Wish};
use spillway_proto::stream::nack;
use spillway_proto::stream::reel::{ReelError, ReelWriter};
use spillway_proto::time::Time;
use spillway_proto::wire::dependency_descriptor::{Descriptor, FrameNumbers, Structure};
use spillway_proto::wire::payload::{self, PayloadFacts};
use spillway_proto::wire::rtcp::{self, Rtcp};
use spillway_proto::wire::rtp::Rtp;
use spillway_proto::wire::rtp_ext;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A track without packets for this long is not live.
const SILENCE: Duration = Duration::from_secs(2);

/// Which of a publisher's SSRCs is which track.
#[derive(Clone, Copy)]
pub struct Source {
    /// What was negotiated. An SSRC of 0 was not named by the offer: the first one with this payload type is it.
    pub facts: TrackFacts,
    pub track: u32,
    pub said_bye: bool,
}

/// The writer's side of a track, beside its record.
pub struct Track {
    pub id: TrackId,
    pub stream: StreamId,
    pub codec: Codec,
    intake: Intake,
    reel: ReelWriter,
    requests: KeyframeRequests,
    feedback: TrackFeedback,
    /// Of our last FIR.
    fir_sequence: u8,
    pub(super) repair: Repair,
    live: bool,
    packet_at: Time,
    /// The publisher's session, NIL while there is none.
    pub session: u32,
    pub ssrc: u32,
    /// From SDP, for keyframes that come without: the payload of a packet, empty if there are none.
    parameter_sets: Vec<u8>,
    /// What the publisher's dependency descriptors refer to.
    structure: Option<Structure>,
    frame_numbers: FrameNumbers,
    /// Keeps the reel's memory mapped.
    _memory: Arc<Mapping>,
}

pub struct Tracks {
    tracks: Vec<Option<Box<Track>>>,
    slabs: Vec<Option<Box<StreamSlabs>>>,
    /// Indices in use, for timers.
    active: Vec<u32>,
    /// Streams without tracks whose slabs still rest.
    leaving: Vec<u32>,
    /// Tracks that miss packets, each once, and when the next one is to be asked.
    pub(super) repairing: Vec<u32>,
    pub(super) repair_at: Time,
}

impl Tracks {
    pub fn new() -> Tracks {
        let mut tracks = Vec::new();
        tracks.resize_with(TRACKS_MAX, || None);
        let mut slabs = Vec::new();
        slabs.resize_with(PUBLISHERS_MAX, || None);
        Tracks {
            tracks,
            slabs,
            active: Vec::with_capacity(TRACKS_MAX),
            leaving: Vec::with_capacity(PUBLISHERS_MAX),
            repairing: Vec::with_capacity(TRACKS_MAX),
            repair_at: Time::NEVER,
        }
    }

    pub fn get(&mut self, track: u32) -> Option<&mut Track> {
        self.tracks.get_mut(track as usize)?.as_deref_mut()
    }

    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.leaving.is_empty()
    }

    #[cfg(any(test, feature = "simulation"))]
    pub fn audit(&self, audit: &mut super::audit::Audit) {
        let tracks = self.tracks.iter().flatten();
        for track in tracks {
            audit.tracks += 1;
            audit.slabs_in_reels += track.reel.slabs_held().count();
        }
        for slabs in self.slabs.iter().flatten() {
            audit.slabs_waiting += slabs.waiting();
            audit.slabs_held += slabs.held();
        }
    }

    /// Of sound: when the oldest picture came that viewers and recordings of its stream can begin with.
    fn pictures_beside(&self, track: u32) -> Option<Time> {
        let own = self.tracks.get(track as usize)?.as_deref()?;
        if own.codec.kind() != Kind::Audio {
            return None;
        }
        let first = own.stream.index as usize * TRACKS_PER_STREAM_MAX;
        let beside = self.tracks.get(first..first + TRACKS_PER_STREAM_MAX)?;
        beside.iter().flatten().filter(|track| track.codec.kind() == Kind::Video).filter_map(|track| track.reel.keyframe_at()).min()
    }

    /// Tracks this shard feeds now.
    pub fn used(&self) -> usize {
        self.active.len()
    }
}

impl Track {
    /// What the payload says of itself, and what the dependency descriptor adds.
    fn facts_of(&mut self, payload: &[u8], descriptor: Option<&[u8]>) -> PayloadFacts {
        let facts = payload::facts(self.codec, payload);
        let parsed = descriptor.and_then(|element| Descriptor::parse(element, self.structure.as_ref()));
        let Some(descriptor) = parsed else { return facts };
        let facts = descriptor.complete(facts);
        if let Some(structure) = descriptor.structure {
            self.structure = Some(structure);
        }
        facts
    }

    /// The descriptor as viewers get it: the publisher's bytes, but for a frame number that goes on over takeovers.
    fn described<'a>(&mut self, descriptor: Option<&[u8]>, room: &'a mut [u8; DESCRIPTOR_BYTES_MAX]) -> &'a [u8] {
        let Some(element) = descriptor else { return &[] };
        let Some(place) = room.get_mut(..element.len()) else { return &[] };
        place.copy_from_slice(element);
        if self.frame_numbers.go_on(place).is_some() { place } else { &[] }
    }
}

impl Core {
    /// A publisher's packet, opened: into the reel, and the news of it to whoever reads it.
    pub fn take_in(&mut self, session: &mut Session, opened: &Opened, window: Option<Window>, packet: &[u8]) {
        let Ok(rtp) = Rtp::parse(&packet[..opened.length]) else {
            self.tally.add(CounterId::PacketsRefusedMalformed, 1);
            return;
        };
        self.note_arrival(session, &rtp);
        let resent = retransmission_of(session, &rtp);
        let Some(source) = resent.or_else(|| source_of(session, &rtp)) else {
            self.tally.add(CounterId::PacketsRefusedUnknownSsrc, 1);
            return;
        };
        let is_resent = resent.is_some();
        let index = source.track;
        let now = self.now;
        let pictures_at = self.tracks.pictures_beside(index);
        let Some(track) = self.tracks.tracks.get_mut(index as usize).and_then(Option::as_deref_mut) else { return };
        if track.session != session.id.index || (!is_resent && rtp.payload_type != source.facts.payload_type) {
            self.tally.add(CounterId::PacketsRefusedUnknownSsrc, 1);
            return;
        }
        let (source_index, bytes) = if is_resent {
            // Nothing but padding, or before anything else: a probe of the network.
            let original = nack::unwrap_retransmission(rtp.payload);
            let newest = track.intake.source_newest();
            let Some((index, bytes)) =
                original.and_then(|(sequence, bytes)| Some((nack::nearest(newest?, sequence)?, bytes)))
            else {
                return;
            };
            (index, bytes)
        } else {
            track.ssrc = rtp.ssrc;
            (opened.index, rtp.payload)
        };
        let descriptor = descriptor_of(&rtp, source.facts.extensions.dependency_descriptor);
        let facts = track.facts_of(bytes, descriptor);
        let accepted =
            match track.intake.accept(now, source_index, rtp.timestamp, rtp.marker, facts, bytes.len()) {
                Ok(accepted) => accepted,
                Err(IntakeError::Duplicate) => return self.tally.add(CounterId::PacketsDuplicate, 1),
                Err(IntakeError::TooLate) => return self.tally.add(CounterId::PacketsTooLate, 1),
            };
        if is_resent {
            track.intake.on_retransmission();
        }
        self.tally.add(CounterId::PacketsLate, u64::from(accepted.meta.index < track.reel.head()));
        self.tally.add(CounterId::PacketsRecovered, u64::from(track.repair.on_packet(now, source_index)));
        if track.repair.take_leap() {
            track.requests.on_wish(now, Wish::Live);
        }
        if track.repair.begins() {
            self.tracks.repairing.push(index);
        }
        let Some(slabs) = self.tracks.slabs[track.stream.index as usize].as_deref_mut() else { return };
        if let Some(sets) = &accepted.sets {
            // A pool that is dry refuses the picture too, and says so there.
            let _ = track.reel.push(sets, &track.parameter_sets, slabs);
        }
        let mut room = [0; DESCRIPTOR_BYTES_MAX];
        let descriptor = track.described(descriptor, &mut room);
        match track.reel.push_described(&accepted.meta, bytes, descriptor, slabs) {
            Ok(()) => {}
            Err(ReelError::Duplicate { .. }) => return self.tally.add(CounterId::PacketsDuplicate, 1),
            Err(ReelError::PoolDry) => return self.tally.add(CounterId::SlabsRefused, 1),
            Err(_) => return self.tally.add(CounterId::PacketsTooLate, 1),
        }
        if let Some(entry) = accepted.entry {
            track.reel.set_keyframe(entry);
        }
        if accepted.entry_is_new {
            track.requests.on_keyframe(now);
        }
        track.requests.on_packet(now, rtp.payload.len(), accepted.of_entry);
        track.reel.set_deaf(track.requests.seems_deaf(now));
        track.reel.trim(now, pictures_at, slabs);
        self.tally.add(CounterId::PacketsReceived, 1);
        track.packet_at = now;
        session.media_at = now;
        show_stats(self.shared.link.track_stats(index as usize), &track.intake, now);
        let became_live = !std::mem::replace(&mut track.live, true);
        let id = track.id;
        if let (Some(record), Some(window), false) = (self.table.track(index), window, is_resent) {
            record.ssrc = rtp.ssrc;
            record.sequence_max = window.sequence_max;
            record.replay_window = window.bits;
        }
        if became_live {
            self.tell(&Event::TrackState { track: id, live: true });
        }
        self.spread(index);
    }

    /// "Track t has news": to our own feeds at once, to other shards over the mesh.
    fn spread(&mut self, track: u32) {
        let mut readers = self.shared.owners.readers(track);
        while readers != 0 {
            let shard = readers.trailing_zeros() as usize;
            readers &= readers - 1;
            if shard == self.index {
                self.fanout.mark(track);
            } else if self.shared.inboxes.get(shard).is_some_and(|inbox| inbox.fresh.set(track)) {
                self.shared.wake(shard);
            }
        }
    }

    /// What other shards left for us.
    pub fn hear_mesh(&mut self) {
        let shared = Arc::clone(&self.shared);
        let inbox = &shared.inboxes[self.index];
        inbox.fresh.take(|track| self.fanout.mark(track));
        inbox.keyframe_wanted.take(|track| self.want_keyframe(track, Wish::Live));
        inbox.keyframe_wanted_to_join.take(|track| self.want_keyframe(track, Wish::Join));
    }

    /// Somebody cannot enter a track's picture. Merged here; `timers` sends what is due.
    pub fn want_keyframe(&mut self, track: u32, wish: Wish) {
        match self.shared.owners.of_track(track) {
            Some(owner) if owner == self.index => {
                let now = self.now;
                if let Some(track) = self.tracks.get(track) {
                    track.requests.on_wish(now, wish);
                }
                self.send_keyframe_request(track);
            }
            Some(owner) => {
                let inbox = &self.shared.inboxes[owner];
                let wanted = if wish == Wish::Live { &inbox.keyframe_wanted } else { &inbox.keyframe_wanted_to_join };
                if wanted.set(track) {
                    self.shared.wake(owner);
                }
            }
            None => {}
        }
    }

    /// The merged request, if one is due, to the publisher.
    pub fn send_keyframe_request(&mut self, index: u32) -> Due {
        let now = self.now;
        let Some(track) = self.tracks.get(index) else { return Due::Nothing };
        if track.session == NIL || track.ssrc == 0 {
            return Due::Nothing;
        }
        let due = track.requests.poll(now);
        track.reel.set_deaf(track.requests.seems_deaf(now));
        let again = match due {
            Due::Nothing => return due,
            Due::Withheld => {
                self.tally.add(CounterId::KeyframeRequestsWithheld, 1);
                return due;
            }
            Due::Request { again } => again,
        };
        // RFC 5104 section 4.3.1.2: a new request has the next number, a repeated one the same.
        track.fir_sequence = track.fir_sequence.wrapping_add(u8::from(!again));
        let (slot, ssrc, pli, fir) = (track.session, track.ssrc, track.feedback.pli, track.fir_sequence);
        let Some(session) = self.sessions.get_mut(slot as usize).and_then(Option::take) else { return Due::Nothing };
        let sent = self.send_rtcp(&session, |out| {
            let length = rtcp::write_rr(out, REPORT_SSRC, &[])?;
            let rest = &mut out[length..];
            // RFC 4585 section 4.2: only what was negotiated.
            let request = if pli { rtcp::write_pli(rest, REPORT_SSRC, ssrc) } else { rtcp::write_fir(rest, REPORT_SSRC, ssrc, fir) };
            Some(length + request?)
        });
        if sent {
            self.tally.add(CounterId::KeyframeRequestsSent, 1);
        }
        self.sessions[slot as usize] = Some(session);
        due
    }

    /// Somebody with the right to wants a keyframe of a track: as for a viewer that lost its picture.
    pub fn request_keyframe(&mut self, id: TrackId) -> Result<Answer, Status> {
        self.own_track(id)?;
        let now = self.now;
        let track = self.tracks.get(id.index).filter(|track| track.id == id).ok_or(Status::NotFound)?;
        if track.codec.kind() != Kind::Video {
            return Err(Status::Invalid);
        }
        if track.session == NIL || track.ssrc == 0 {
            return Ok(Answer::Keyframe { outcome: KeyframeOutcome::Silent });
        }
        track.requests.on_wish(now, Wish::Live);
        let due = self.send_keyframe_request(id.index);
        let requests = self.tracks.get(id.index).map(|track| track.requests).unwrap_or_default();
        let outcome = match due {
            Due::Request { .. } => KeyframeOutcome::Asked,
            Due::Withheld => KeyframeOutcome::Withheld,
            Due::Nothing if requests.is_withheld() => KeyframeOutcome::Withheld,
            Due::Nothing if requests.is_deaf() => KeyframeOutcome::Deaf,
            Due::Nothing => KeyframeOutcome::Pending,
        };
        Ok(Answer::Keyframe { outcome })
    }

    /// A publisher's reports. True: it said goodbye for everything it sent.
    pub fn hear_publisher(&mut self, session: &mut Session, packet: &Rtcp<'_>) -> bool {
        match packet {
            Rtcp::SenderReport { ssrc, ntp, rtp, .. } => {
                let Some(source) = session.sources.iter().find(|source| source.facts.ssrc == *ssrc) else { return false };
                let now = self.now;
                let Some(track) = self.tracks.get(source.track) else { return false };
                if track.session == session.id.index {
                    if let Some(mapping) = track.intake.on_sender_report(now, *ntp, *rtp) {
                        track.reel.set_sr(&mapping);
                    }
                }
                false
            }
            Rtcp::Bye { ssrcs } => {
                for ssrc in ssrcs.clone() {
                    if let Some(source) = session.sources.iter_mut().find(|source| source.facts.ssrc == ssrc) {
                        source.said_bye = true;
                    }
                }
                !session.sources.is_empty() && session.sources.iter().all(|source| source.said_bye)
            }
            _ => false,
        }
    }

    /// A receiver report for every track of a publisher.
    pub fn report_to_publisher(&mut self, session: &Session) {
        let now = self.now;
        let mut blocks = [rtcp::ReportBlock::default(); TRACKS_PER_STREAM_MAX];
        let mut count = 0;
        for source in &session.sources {
            let Some(track) = self.tracks.get(source.track).filter(|track| track.ssrc != 0) else { continue };
            if let (Some(place), Some(block)) = (blocks.get_mut(count), track.intake.report_block(now, track.ssrc)) {
                show_path(self.shared.link.track_stats(source.track as usize), track, block.jitter);
                *place = block;
                count += 1;
            }
        }
        self.send_rtcp(session, |out| {
            let mut length = rtcp::write_rr(out, REPORT_SSRC, &blocks[..count])?;
            length += rtcp::write_sdes_cname(&mut out[length..], REPORT_SSRC, "spillway")?;
            Some(length + Core::write_remb(session, &mut out[length..])?)
        });
    }

    pub fn attach_track(
        &mut self,
        slot: u32,
        stream: StreamId,
        takeover: TrackId,
        facts: &TrackFacts,
        note: &Note,
    ) -> Result<Answer, Status> {
        let session = self.session_mut(slot).ok_or(Status::NotFound)?;
        if session.side != Side::Publisher || session.sources.len() >= TRACKS_PER_STREAM_MAX {
            return Err(Status::Invalid);
        }
        let id = if takeover.is_none() {
            self.add_track(slot, stream, facts, note)?
        } else {
            self.take_over(slot, stream, takeover, facts, note)?
        };
        if let Some(track) = self.tracks.get(id.index) {
            track.repair.begin(facts.feedback.nack);
        }
        let source = Source { facts: *facts, track: id.index, said_bye: false };
        if let Some(session) = self.sessions.get_mut(slot as usize).and_then(Option::as_deref_mut) {
            session.sources.push(source);
            session.watch_arrivals(facts, &mut self.timers);
        }
        let record = self.table.track(id.index).ok_or(Status::NotFound)?;
        record.payload_type = facts.payload_type;
        record.rtx_payload_type = facts.rtx_payload_type;
        (record.ssrc, record.rtx_ssrc) = (facts.ssrc, facts.rtx_ssrc);
        record.feedback = facts.feedback.to_bits();
        record.transport_cc = facts.extensions.transport_cc;
        record.dependency_descriptor = facts.extensions.dependency_descriptor;
        Ok(Answer::Track { track: id })
    }

    fn add_track(&mut self, slot: u32, stream: StreamId, facts: &TrackFacts, note: &Note) -> Result<TrackId, Status> {
        let codec = facts.codec;
        let index = stream.index as usize;
        if index >= PUBLISHERS_MAX || stream.is_none() {
            return Err(Status::Invalid);
        }
        let reel_file = &self.shared.reel_files.get(index).ok_or(Status::Full)?;
        let (file, mapping) = (reel_file.file(), reel_file.mapping().ok_or(Status::Full)?);
        if self.tracks.leaving.contains(&stream.index) || !self.shared.owners.claim_stream(stream, self.index) {
            return Err(Status::WrongShard);
        }
        let first = stream.index * TRACKS_PER_STREAM_MAX as u32;
        let in_use = (first..first + TRACKS_PER_STREAM_MAX as u32)
            .filter_map(|track| self.tracks.tracks[track as usize].as_ref())
            .any(|track| track.stream != stream);
        if in_use {
            return Err(Status::Invalid);
        }
        let (shared, shard) = (Arc::clone(&self.shared), self.index as u8);
        let slabs = self.tracks.slabs[index].get_or_insert_with(|| {
            Box::new(StreamSlabs::new(file, Arc::clone(&shared.pool), Arc::clone(&shared.epochs)))
        });
        slabs.settle();
        let (id, record) = self.table.add_track(stream).ok_or(Status::Full)?;
        record.session = slot;
        record.codec = codec as u8;
        record.shard = shard;
        record.publisher_epoch = 1;
        record.note = *note;
        let place = id.index as usize % TRACKS_PER_STREAM_MAX;
        // JUSTIFICATION: a reel is written in place in the stream's file.
        // SAFETY: the mapping has STREAM_FILE_BYTES (checked by `map`) and lives in the track; this shard
        // claimed the stream, so it is the one writer.
        let reel = unsafe { ReelWriter::create(mapping.start().as_ptr(), mapping.length(), place, codec) };
        let mut reel = reel.map_err(|_| Status::Full)?;
        reel.set_stream(stream);
        let track = Track {
            id,
            stream,
            codec,
            intake: Intake::new(codec, 0),
            reel,
            requests: KeyframeRequests::new(can_ask(facts)),
            feedback: facts.feedback,
            fir_sequence: 0,
            repair: Repair::new(),
            live: false,
            packet_at: self.now,
            session: slot,
            ssrc: 0,
            parameter_sets: Vec::new(),
            structure: None,
            frame_numbers: FrameNumbers::default(),
            _memory: mapping,
        };
        self.tracks.tracks[id.index as usize] = Some(Box::new(track));
        self.tracks.active.push(id.index);
        self.shared.link.track_stats(id.index as usize).reset(id.generation);
        show_publisher(self.shared.link.track_stats(id.index as usize), codec, 1);
        self.shared.owners.publish_track(id, Some(codec));
        Ok(id)
    }

    /// Parameter sets that stood only in SDP, of the publisher that feeds the track now.
    pub fn set_parameter_sets(&mut self, id: TrackId, sets: Vec<u8>) -> Result<Answer, Status> {
        self.own_track(id)?;
        let track = self.tracks.get(id.index).filter(|track| track.id == id).ok_or(Status::NotFound)?;
        track.parameter_sets = packetize::parameter_sets(track.codec, &sets);
        track.intake.add_sets(!track.parameter_sets.is_empty());
        Ok(Answer::Nothing)
    }

    fn own_track(&self, id: TrackId) -> Result<(), Status> {
        match self.shared.owners.of_track(id.index) {
            Some(owner) if owner != self.index => Err(Status::WrongShard),
            _ => Ok(()),
        }
    }

    /// Another session feeds a track from now on; its reel and its feeds stay.
    fn take_over(
        &mut self,
        slot: u32,
        stream: StreamId,
        id: TrackId,
        facts: &TrackFacts,
        note: &Note,
    ) -> Result<TrackId, Status> {
        let codec = facts.codec;
        self.own_track(id)?;
        let track = self.tracks.get(id.index).filter(|track| track.id == id).ok_or(Status::NotFound)?;
        if track.stream != stream || track.codec.kind() != codec.kind() {
            return Err(Status::Invalid);
        }
        let before = std::mem::replace(&mut track.session, slot);
        track.codec = codec;
        track.ssrc = 0;
        track.parameter_sets = Vec::new();
        track.structure = None;
        track.frame_numbers.on_takeover();
        track.intake.takeover(codec);
        track.repair.begin(false);
        // Its first packet says so again: control waits for the new publisher to be live.
        track.live = false;
        track.feedback = facts.feedback;
        track.requests.on_takeover(can_ask(facts));
        track.reel.set_deaf(track.requests.is_deaf());
        let record = self.table.track(id.index).ok_or(Status::NotFound)?;
        record.session = slot;
        record.codec = codec as u8;
        record.publisher_epoch = record.publisher_epoch.wrapping_add(1);
        record.note = *note;
        let epoch = record.publisher_epoch;
        track.reel.set_publisher_epoch(epoch);
        self.shared.owners.publish_track(id, Some(codec));
        if let Some(session) = self.session_mut(before) {
            session.sources.retain(|source| source.track != id.index);
        }
        show_publisher(self.shared.link.track_stats(id.index as usize), codec, epoch);
        Ok(id)
    }

    /// The session that fed it is gone; the track waits for another, or for its detach.
    pub fn orphan_track(&mut self, index: u32, slot: u32) {
        let Some(track) = self.tracks.get(index).filter(|track| track.session == slot) else { return };
        track.session = NIL;
        let (id, was_live) = (track.id, std::mem::replace(&mut track.live, false));
        if let Some(record) = self.table.track(index) {
            record.session = NIL;
        }
        if was_live {
            self.tell(&Event::TrackState { track: id, live: false });
        }
    }

    pub fn detach_track(&mut self, id: TrackId) -> Result<Answer, Status> {
        self.own_track(id)?;
        let track = self.tracks.get(id.index).filter(|track| track.id == id).ok_or(Status::NotFound)?;
        let (slot, stream) = (track.session, track.stream);
        if let Some(session) = self.session_mut(slot) {
            session.sources.retain(|source| source.track != id.index);
        }
        // Readers on every shard drop their feeds when they see that the track is gone.
        self.shared.owners.publish_track(id, None);
        self.spread(id.index);
        if let (Some(track), Some(slabs)) =
            (self.tracks.tracks[id.index as usize].take(), self.tracks.slabs[stream.index as usize].as_deref_mut())
        {
            track.reel.close(slabs);
        }
        self.tracks.active.retain(|&active| active != id.index);
        self.tracks.repairing.retain(|&repairing| repairing != id.index);
        self.table.remove_track(id.index);
        let first = stream.index as usize * TRACKS_PER_STREAM_MAX;
        if self.tracks.tracks[first..first + TRACKS_PER_STREAM_MAX].iter().all(Option::is_none) {
            self.tracks.leaving.push(stream.index);
        }
        Ok(Answer::Nothing)
    }

    /// Every 100 ms or so: silence is noticed, requests that became due go out, left streams are let go.
    pub fn watch_tracks(&mut self) {
        let now = self.now;
        let mut deaf = 0;
        for at in 0..self.tracks.active.len() {
            let index = self.tracks.active[at];
            let Some(track) = self.tracks.get(index) else { continue };
            let silent = track.live && now.since(track.packet_at) > SILENCE;
            let id = track.id;
            let watched = track.session != NIL && track.codec.kind() == Kind::Video;
            deaf += u64::from(watched && track.requests.is_deaf());
            if silent {
                track.live = false;
                self.tell(&Event::TrackState { track: id, live: false });
            }
            self.send_keyframe_request(index);
        }
        self.shared.link.counters(self.index).set(CounterId::TracksDeaf, deaf);
        let mut leaving = std::mem::take(&mut self.tracks.leaving);
        leaving.retain(|&stream| {
            let Some(slabs) = self.tracks.slabs[stream as usize].as_deref_mut() else { return false };
            slabs.settle();
            let settled = slabs.is_settled();
            if settled {
                self.tracks.slabs[stream as usize] = None;
                self.shared.owners.release_stream(stream);
            }
            !settled
        });
        self.tracks.leaving = leaving;
        let held: usize = self.tracks.slabs.iter().flatten().map(|slabs| slabs.held()).sum();
        self.shared.link.counters(self.index).set(CounterId::SlabsUsed, held as u64);
    }

    /// The publisher's note and facts of a track, for `dump`.
    pub fn track_ids(&self, from: u32) -> impl Iterator<Item = u32> + '_ {
        (from..TRACKS_MAX as u32).filter(|&index| self.tracks.tracks[index as usize].is_some())
    }
}

/// The publisher negotiated keyframe requests.
fn can_ask(facts: &TrackFacts) -> bool {
    facts.feedback.pli || facts.feedback.fir
}

fn show_publisher(stats: &TrackStats, codec: Codec, epoch: u32) {
    stats.codec.store(codec as u64, Ordering::Relaxed);
    stats.publisher_epoch.store(u64::from(epoch), Ordering::Relaxed);
}

/// What the publisher's path is like, once per report to it.
fn show_path(stats: &TrackStats, track: &Track, jitter: u32) {
    let (round_trip, recovered) = track.repair.seen();
    stats.jitter_us.store(u64::from(jitter) * 1_000_000 / u64::from(track.codec.clock_rate()), Ordering::Relaxed);
    stats.round_trip_us.store(round_trip.map_or(0, |span| span.as_micros() as u64), Ordering::Relaxed);
    stats.recovered.store(recovered, Ordering::Relaxed);
}

/// What control and the pages see of a track.
fn show_stats(stats: &TrackStats, intake: &Intake, now: Time) {
    let seen = intake.stats();
    let (expected, lost) = intake.expected_and_lost();
    let show = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
    show(&stats.packets, seen.packets);
    show(&stats.bytes, seen.bytes);
    show(&stats.frames, seen.frames);
    show(&stats.keyframes, seen.keyframes);
    show(&stats.keyframe_interval_ms, u64::from(seen.keyframe_interval_ms));
    show(&stats.expected, expected);
    show(&stats.lost, lost);
    show(&stats.last_packet_at, now.as_nanos());
}

/// The packet's dependency descriptor, where one was negotiated (0: none). A retransmission has its original's.
fn descriptor_of<'a>(rtp: &Rtp<'a>, id: u8) -> Option<&'a [u8]> {
    let (profile, block) = rtp.extension.filter(|_| id != 0)?;
    rtp_ext::elements(profile, block).find(|(other, _)| *other == id).map(|(_, element)| element)
}

/// Which track a packet is sent again for; an SSRC the offer did not name is learned by its payload type.
fn retransmission_of(session: &mut Session, rtp: &Rtp<'_>) -> Option<Source> {
    let is_one = |source: &&mut Source| {
        let facts = &source.facts;
        facts.rtx_payload_type != 0
            && facts.rtx_payload_type == rtp.payload_type
            && facts.ssrc != rtp.ssrc
            && (facts.rtx_ssrc == rtp.ssrc || facts.rtx_ssrc == 0)
    };
    let source = session.sources.iter_mut().find(is_one)?;
    source.facts.rtx_ssrc = rtp.ssrc;
    Some(*source)
}

/// Which track a packet is of; an SSRC the offer did not name is learned by its payload type.
fn source_of(session: &mut Session, rtp: &Rtp<'_>) -> Option<Source> {
    if let Some(source) = session.sources.iter().find(|source| source.facts.ssrc == rtp.ssrc) {
        return Some(*source);
    }
    let unnamed = |source: &&mut Source| source.facts.ssrc == 0 && source.facts.payload_type == rtp.payload_type;
    let source = session.sources.iter_mut().find(unnamed)?;
    source.facts.ssrc = rtp.ssrc;
    Some(*source)
}


//! Commands, answers and events as bytes, little endian, without padding; and the checks that make a value
//! of what another process wrote.
//!
//! A kind is never given a new meaning and a body never a new field: what changes gets a new kind, which
//! an older reader refuses as invalid. `decode` takes exactly the bytes of the body, no more and no fewer.

use super::command::{
    ANSWER_BODY_BYTES, Answer, COMMAND_BODY_BYTES, Command, DtlsRole, DumpEntry, Extensions, FeedFacts, Fingerprint, KeyframeOutcome,
    SessionState, Status, TrackFacts, TrackFeedback,
};
use super::event::{CloseReason, Event};
use crate::id::{Codec, FeedId, SessionId, Side, StreamId, TrackId};
use crate::limits::{
    EVENT_SLOT_BYTES, FEEDS_MAX, NOTE_BYTES, PARAMETER_SETS_BYTES_MAX, PUBLISHERS_MAX, SESSIONS_MAX, TRACKS_MAX,
    TRACKS_PER_STREAM_MAX,
};

/// An event without its slot's position word.
pub(super) const EVENT_BODY_BYTES: usize = EVENT_SLOT_BYTES - 8;

/// Tag, "there is more" and the cursor, number of entries.
const DUMP_HEAD_BYTES: usize = 1 + 1 + 4 + 2;
const SESSION_ENTRY_BYTES: usize = 1 + 8 + 1 + 1 + NOTE_BYTES;
const TRACK_ENTRY_BYTES: usize = 1 + 8 + 8 + 8 + 1 + NOTE_BYTES;
const FEED_ENTRY_BYTES: usize = 1 + 8 + 8 + 8;
/// No honest dump holds more entries than the smallest of them fit.
const DUMP_ENTRIES_MAX: usize = (ANSWER_BODY_BYTES - DUMP_HEAD_BYTES) / FEED_ENTRY_BYTES;

impl DumpEntry {
    /// Bytes of an answer this entry takes.
    pub const fn encoded_bytes(&self) -> usize {
        match self {
            DumpEntry::Session { .. } => SESSION_ENTRY_BYTES,
            DumpEntry::Track { .. } => TRACK_ENTRY_BYTES,
            DumpEntry::Feed { .. } => FEED_ENTRY_BYTES,
        }
    }
}

/// Whether `entry` still fits into one answer behind `entries`.
pub fn dump_fits(entries: &[DumpEntry], entry: &DumpEntry) -> bool {
    let taken: usize = entries.iter().map(DumpEntry::encoded_bytes).sum();
    DUMP_HEAD_BYTES + taken + entry.encoded_bytes() <= ANSWER_BODY_BYTES
}

/// Writes into a slice and remembers when it was too short.
struct Put<'a> {
    bytes: &'a mut [u8],
    at: usize,
    full: bool,
}

impl<'a> Put<'a> {
    fn new(bytes: &'a mut [u8]) -> Put<'a> {
        Put { bytes, at: 0, full: false }
    }
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        match self.bytes.get_mut(self.at..).and_then(|rest| rest.get_mut(..bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            None => self.full = true,
        }
        self
    }
    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }
    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
    fn extensions(&mut self, extensions: &Extensions) -> &mut Self {
        self.u8(extensions.transport_cc).u8(extensions.dependency_descriptor)
    }
    fn feed_facts(&mut self, facts: &FeedFacts) -> &mut Self {
        self.bytes(&facts.payload_types).bytes(&facts.rtx_payload_types).extensions(&facts.extensions)
    }
    /// The number of bytes written; None if something had no room.
    fn finish(&self) -> Option<usize> {
        (!self.full).then_some(self.at)
    }
}

/// Reads from a slice; None once something is missing or out of its range.
struct Take<'a>(&'a [u8]);

impl Take<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }
    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[value]| value)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    // An id whose index is in its table: whoever has decoded an id may index with it.
    fn session(&mut self) -> Option<SessionId> {
        self.u64().map(SessionId::from_bits).filter(|id| (id.index as usize) < SESSIONS_MAX)
    }
    fn track(&mut self) -> Option<TrackId> {
        self.u64().map(TrackId::from_bits).filter(|id| (id.index as usize) < TRACKS_MAX)
    }
    fn feed(&mut self) -> Option<FeedId> {
        self.u64().map(FeedId::from_bits).filter(|id| (id.index as usize) < FEEDS_MAX)
    }
    fn stream(&mut self) -> Option<StreamId> {
        self.u64().map(StreamId::from_bits).filter(|id| (id.index as usize) < PUBLISHERS_MAX)
    }
    fn codec(&mut self) -> Option<Codec> {
        self.u8().and_then(Codec::from_u8)
    }
    fn side(&mut self) -> Option<Side> {
        match self.u8()? {
            1 => Some(Side::Publisher),
            2 => Some(Side::Viewer),
            _ => None,
        }
    }
    /// ice-char of RFC 8839 section 5.4: letters, digits, '+' and '/'.
    fn ice_chars<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.array().filter(|chars: &[u8; N]| chars.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/')))
    }
    /// Seven bits (RFC 3550 section 5.1).
    fn payload_type(&mut self) -> Option<u8> {
        self.u8().filter(|payload_type| *payload_type <= 127)
    }
    fn payload_types(&mut self) -> Option<[u8; Codec::COUNT]> {
        self.array().filter(|types: &[u8; Codec::COUNT]| types.iter().all(|payload_type| *payload_type <= 127))
    }
    fn extensions(&mut self) -> Option<Extensions> {
        Some(Extensions { transport_cc: self.u8()?, dependency_descriptor: self.u8()? })
    }
    fn feed_facts(&mut self) -> Option<FeedFacts> {
        Some(FeedFacts {
            payload_types: self.payload_types()?,
            rtx_payload_types: self.payload_types()?,
            extensions: self.extensions()?,
        })
    }
    fn dtls_role(&mut self) -> Option<DtlsRole> {
        match self.u8()? {
            1 => Some(DtlsRole::Client),
            2 => Some(DtlsRole::Server),
            _ => None,
        }
    }
    /// All that is left, if it is whole NAL units.
    fn parameter_sets(&mut self) -> Option<Vec<u8>> {
        let sets = std::mem::take(&mut self.0);
        let mut rest = (sets.len() <= PARAMETER_SETS_BYTES_MAX).then_some(sets)?;
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let length = usize::from(u16::from_be_bytes(*length));
            rest = after.get(length..).filter(|_| length > 0)?;
        }
        Some(sets.to_vec())
    }
    fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

impl Command {
    /// Writes the body; returns the kind and the body's length.
    pub(super) fn encode(&self, body: &mut [u8; COMMAND_BODY_BYTES]) -> (u32, usize) {
        let mut put = Put::new(body);
        let kind = match self {
            Command::AddSession { side, dtls_role, ufrag_random, pwd, fingerprint, note } => {
                put.u8(*side as u8).u8(*dtls_role as u8).bytes(ufrag_random).bytes(pwd);
                put.bytes(&fingerprint.0).bytes(note);
                1
            }
            Command::AddViewer { dtls_role, ufrag_random, pwd, fingerprint, note, feeds } => {
                put.u8(*dtls_role as u8).bytes(ufrag_random).bytes(pwd).bytes(&fingerprint.0).bytes(note);
                put.u8(u8::try_from(feeds.len()).unwrap_or(u8::MAX));
                for (track, facts) in feeds {
                    put.u64(track.to_bits()).feed_facts(facts);
                }
                13
            }
            Command::RemoveSession { session } => {
                put.u64(session.to_bits());
                2
            }
            Command::AttachTrack { session, stream, track, facts, note } => {
                put.u64(session.to_bits()).u64(stream.to_bits()).u64(track.to_bits());
                put.u8(facts.codec as u8).u8(facts.payload_type).u8(facts.rtx_payload_type);
                put.u32(facts.ssrc).u32(facts.rtx_ssrc).u8(facts.feedback.to_bits());
                put.extensions(&facts.extensions).bytes(note);
                9
            }
            Command::DetachTrack { track } => {
                put.u64(track.to_bits());
                4
            }
            Command::AttachFeed { session, track, facts } => {
                put.u64(session.to_bits()).u64(track.to_bits());
                put.feed_facts(facts);
                10
            }
            Command::SetParameterSets { track, sets } => {
                put.u64(track.to_bits()).bytes(sets);
                11
            }
            Command::DetachFeed { feed } => {
                put.u64(feed.to_bits());
                6
            }
            Command::SelectLayer { feed, layer } => {
                put.u64(feed.to_bits()).u8(*layer);
                7
            }
            Command::Dump { cursor } => {
                put.u32(*cursor);
                8
            }
            Command::RequestKeyframe { track } => {
                put.u64(track.to_bits());
                12
            }
        };
        // The longest bodies are parameter sets, bounded when they are decoded; one without room is refused as invalid.
        (kind, put.finish().unwrap_or(0))
    }

    pub(super) fn decode(kind: u32, body: &[u8]) -> Option<Command> {
        let mut take = Take(body);
        let command = match kind {
            1 => Command::AddSession {
                side: take.side()?,
                dtls_role: take.dtls_role()?,
                ufrag_random: take.ice_chars()?,
                pwd: take.ice_chars()?,
                fingerprint: Fingerprint(take.array()?),
                note: take.array()?,
            },
            2 => Command::RemoveSession { session: take.session()? },
            // 3 and 5 were an AttachTrack and an AttachFeed that knew no retransmissions.
            4 => Command::DetachTrack { track: take.track()? },
            6 => Command::DetachFeed { feed: take.feed()? },
            7 => Command::SelectLayer { feed: take.feed()?, layer: take.u8()? },
            8 => Command::Dump { cursor: take.u32()? },
            9 => Command::AttachTrack {
                session: take.session()?,
                stream: take.stream()?,
                track: take.track()?,
                facts: TrackFacts {
                    codec: take.codec()?,
                    payload_type: take.payload_type()?,
                    rtx_payload_type: take.payload_type()?,
                    ssrc: take.u32()?,
                    rtx_ssrc: take.u32()?,
                    feedback: TrackFeedback::from_bits(take.u8()?)?,
                    extensions: take.extensions()?,
                },
                note: take.array()?,
            },
            10 => Command::AttachFeed { session: take.session()?, track: take.track()?, facts: take.feed_facts()? },
            11 => Command::SetParameterSets { track: take.track()?, sets: take.parameter_sets()? },
            12 => Command::RequestKeyframe { track: take.track()? },
            13 => Command::AddViewer {
                dtls_role: take.dtls_role()?,
                ufrag_random: take.ice_chars()?,
                pwd: take.ice_chars()?,
                fingerprint: Fingerprint(take.array()?),
                note: take.array()?,
                feeds: {
                    let count = Some(take.u8()?).filter(|count| usize::from(*count) <= TRACKS_PER_STREAM_MAX)?;
                    (0..count).map(|_| Some((take.track()?, take.feed_facts()?))).collect::<Option<_>>()?
                },
            },
            _ => return None,
        };
        take.end(command)
    }
}

impl Status {
    pub(super) const fn from_u32(value: u32) -> Option<Status> {
        Some(match value {
            0 => Status::Pending,
            1 => Status::Done,
            2 => Status::Invalid,
            3 => Status::NotFound,
            4 => Status::Full,
            5 => Status::StaleEpoch,
            6 => Status::WrongShard,
            _ => return None,
        })
    }
}

impl KeyframeOutcome {
    const fn from_u8(value: u8) -> Option<KeyframeOutcome> {
        Some(match value {
            1 => KeyframeOutcome::Asked,
            2 => KeyframeOutcome::Pending,
            3 => KeyframeOutcome::Withheld,
            4 => KeyframeOutcome::Deaf,
            5 => KeyframeOutcome::Silent,
            _ => return None,
        })
    }
}

impl Answer {
    /// Writes the result's body and returns its length; None if it does not fit.
    pub(super) fn encode(&self, body: &mut [u8; ANSWER_BODY_BYTES]) -> Option<usize> {
        let mut put = Put::new(body);
        match self {
            Answer::Nothing => {}
            Answer::Session { session } => {
                put.u8(1).u64(session.to_bits());
            }
            Answer::Viewer { session, ssrcs } => {
                put.u8(6).u64(session.to_bits()).u8(u8::try_from(ssrcs.len()).ok()?);
                for (ssrc, rtx_ssrc) in ssrcs {
                    put.u32(*ssrc).u32(*rtx_ssrc);
                }
            }
            Answer::Track { track } => {
                put.u8(2).u64(track.to_bits());
            }
            Answer::Feed { feed, ssrc, rtx_ssrc } => {
                put.u8(3).u64(feed.to_bits()).u32(*ssrc).u32(*rtx_ssrc);
            }
            Answer::Keyframe { outcome } => {
                put.u8(5).u8(*outcome as u8);
            }
            Answer::Dump { next, entries } => {
                put.u8(4).u8(u8::from(next.is_some())).u32(next.unwrap_or(0));
                put.u16(u16::try_from(entries.len()).ok()?);
                for entry in entries {
                    match entry {
                        DumpEntry::Session { session, side, state, note } => {
                            put.u8(1).u64(session.to_bits()).u8(*side as u8).u8(*state as u8).bytes(note);
                        }
                        DumpEntry::Track { track, stream, session, codec, note } => {
                            put.u8(2).u64(track.to_bits()).u64(stream.to_bits()).u64(session.to_bits());
                            put.u8(*codec as u8).bytes(note);
                        }
                        DumpEntry::Feed { feed, session, track } => {
                            put.u8(3).u64(feed.to_bits()).u64(session.to_bits()).u64(track.to_bits());
                        }
                    }
                }
            }
        }
        put.finish()
    }

    pub(super) fn decode(body: &[u8]) -> Option<Answer> {
        if body.is_empty() {
            return Some(Answer::Nothing);
        }
        let mut take = Take(body);
        let answer = match take.u8()? {
            1 => Answer::Session { session: take.session()? },
            2 => Answer::Track { track: take.track()? },
            6 => Answer::Viewer {
                session: take.session()?,
                ssrcs: {
                    let count = Some(take.u8()?).filter(|count| usize::from(*count) <= TRACKS_PER_STREAM_MAX)?;
                    (0..count).map(|_| Some((take.u32()?, take.u32()?))).collect::<Option<_>>()?
                },
            },
            3 => Answer::Feed { feed: take.feed()?, ssrc: take.u32()?, rtx_ssrc: take.u32()? },
            4 => {
                let more = take.u8()?;
                let cursor = take.u32()?;
                let next = match more {
                    0 => None,
                    1 => Some(cursor),
                    _ => return None,
                };
                let count = usize::from(take.u16()?);
                if count > DUMP_ENTRIES_MAX {
                    return None;
                }
                let mut entries = Vec::with_capacity(count);
                for _ in 0..count {
                    entries.push(DumpEntry::decode(&mut take)?);
                }
                Answer::Dump { next, entries }
            }
            5 => Answer::Keyframe { outcome: KeyframeOutcome::from_u8(take.u8()?)? },
            _ => return None,
        };
        take.end(answer)
    }
}

impl DumpEntry {
    fn decode(take: &mut Take<'_>) -> Option<DumpEntry> {
        Some(match take.u8()? {
            1 => DumpEntry::Session {
                session: take.session()?,
                side: take.side()?,
                state: match take.u8()? {
                    1 => SessionState::New,
                    2 => SessionState::Handshake,
                    3 => SessionState::Connected,
                    _ => return None,
                },
                note: take.array()?,
            },
            2 => DumpEntry::Track {
                track: take.track()?,
                stream: take.stream()?,
                session: take.session()?,
                codec: take.codec()?,
                note: take.array()?,
            },
            3 => DumpEntry::Feed { feed: take.feed()?, session: take.session()?, track: take.track()? },
            _ => return None,
        })
    }
}

impl Event {
    pub(super) fn encode(&self) -> [u8; EVENT_BODY_BYTES] {
        let mut body = [0; EVENT_BODY_BYTES];
        let mut put = Put::new(&mut body);
        match self {
            Event::SessionConnected { session, profile } => put.u8(1).u64(session.to_bits()).u16(*profile),
            Event::SessionClosed { session, reason } => put.u8(2).u64(session.to_bits()).u8(*reason as u8),
            Event::TrackState { track, live } => put.u8(3).u64(track.to_bits()).u8(u8::from(*live)),
        };
        body
    }

    pub(super) fn decode(body: &[u8; EVENT_BODY_BYTES]) -> Option<Event> {
        let mut take = Take(body);
        Some(match take.u8()? {
            1 => Event::SessionConnected { session: take.session()?, profile: take.u16()? },
            2 => Event::SessionClosed {
                session: take.session()?,
                reason: match take.u8()? {
                    1 => CloseReason::Removed,
                    2 => CloseReason::RemoteClosed,
                    3 => CloseReason::ConsentExpired,
                    4 => CloseReason::NeverConnected,
                    5 => CloseReason::HandshakeFailed,
                    6 => CloseReason::FingerprintMismatch,
                    _ => return None,
                },
            },
            3 => Event::TrackState {
                track: take.track()?,
                live: match take.u8()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn commands() -> Vec<Command> {
        let (session, track) = (SessionId::new(65_535, 9), TrackId::new(4_095, 8));
        vec![
            Command::AddSession {
                side: Side::Viewer,
                dtls_role: DtlsRole::Server,
                ufrag_random: *b"abcDEF+/9",
                pwd: *b"0123456789ABCDEFabcdef+/",
                fingerprint: Fingerprint(std::array::from_fn(|index| index as u8)),
                note: [0xA5; NOTE_BYTES],
            },
            Command::RemoveSession { session },
            Command::AttachTrack {
                session,
                stream: StreamId::new(1_023, 7),
                track: TrackId::NONE,
                facts: TrackFacts {
                    codec: Codec::Vp8,
                    payload_type: 127,
                    rtx_payload_type: 126,
                    ssrc: u32::MAX,
                    rtx_ssrc: 77,
                    feedback: TrackFeedback { nack: true, pli: false, fir: true, transport_cc: true, remb: false },
                    extensions: Extensions { transport_cc: 3, dependency_descriptor: 255 },
                },
                note: [1; NOTE_BYTES],
            },
            Command::DetachTrack { track },
            Command::AttachFeed {
                session,
                track,
                facts: FeedFacts {
                    payload_types: [0, 96, 127, 111, 0, 0, 0, 1],
                    rtx_payload_types: [0, 97, 0, 0, 0, 0, 0, 2],
                    extensions: Extensions { transport_cc: 0, dependency_descriptor: 12 },
                },
            },
            Command::DetachFeed { feed: FeedId::new(131_071, 6) },
            Command::SelectLayer { feed: FeedId::new(1, 6), layer: 2 },
            Command::Dump { cursor: u32::MAX },
            Command::SetParameterSets { track, sets: vec![0, 3, 0x67, 1, 2, 0, 1, 0x68] },
            Command::RequestKeyframe { track },
            Command::AddViewer {
                dtls_role: DtlsRole::Client,
                ufrag_random: *b"abcDEF+/9",
                pwd: *b"0123456789ABCDEFabcdef+/",
                fingerprint: Fingerprint(std::array::from_fn(|index| index as u8)),
                note: [0xA5; NOTE_BYTES],
                feeds: vec![(track, FeedFacts::default()); TRACKS_PER_STREAM_MAX],
            },
        ]
    }

    fn entries() -> [DumpEntry; 3] {
        let (session, track) = (SessionId::new(3, 1), TrackId::new(5, 2));
        [
            DumpEntry::Session { session, side: Side::Publisher, state: SessionState::Handshake, note: [3; NOTE_BYTES] },
            DumpEntry::Track { track, stream: StreamId::new(1, 1), session: SessionId::NONE, codec: Codec::Opus, note: [4; NOTE_BYTES] },
            DumpEntry::Feed { feed: FeedId::new(70_000, 2), session, track },
        ]
    }

    #[test]
    fn commands_come_back_and_only_whole() {
        for command in commands() {
            let mut body = [0; COMMAND_BODY_BYTES];
            let (kind, length) = command.encode(&mut body);
            assert!(length > 0);
            assert_eq!(Command::decode(kind, &body[..length]).as_ref(), Some(&command));
            // What is cut between two NAL units is a shorter list of them.
            let whole = |cut: usize| matches!(command, Command::SetParameterSets { .. }) && [8, 13].contains(&cut);
            for shorter in (0..length).filter(|cut| !whole(*cut)) {
                assert_eq!(Command::decode(kind, &body[..shorter]), None, "{command:?} cut at {shorter}");
            }
            assert_eq!(Command::decode(kind, &body[..length + 1]), None, "{command:?} and one byte");
        }
        assert_eq!(Command::decode(0, &[]), None);
        assert_eq!(Command::decode(3, &[0; 94]), None, "an AttachTrack of another build");
        assert_eq!(Command::decode(13, &[]), None);
        assert_eq!(Command::decode(14, &[]), None);
    }

    #[test]
    fn fields_out_of_their_range_are_refused() {
        let mut body = [0; COMMAND_BODY_BYTES];
        let refused = |command: &Command, body: &mut [u8; COMMAND_BODY_BYTES], at: usize, value: u8| {
            let (kind, length) = command.encode(body);
            body[at] = value;
            assert_eq!(Command::decode(kind, &body[..length]), None, "{command:?} with {value} at {at}");
        };
        let commands = commands();
        refused(&commands[0], &mut body, 0, 3); // side
        refused(&commands[0], &mut body, 1, 0); // role
        refused(&commands[0], &mut body, 2, b':'); // ufrag
        refused(&commands[0], &mut body, 11, b'\n'); // pwd
        refused(&commands[1], &mut body, 2, 1); // session 65,536 + 65,535
        refused(&commands[2], &mut body, 9, 4); // stream 1,024 + 255
        refused(&commands[2], &mut body, 24, 0); // codec
        refused(&commands[2], &mut body, 25, 128); // payload type
        refused(&commands[2], &mut body, 26, 128); // payload type of retransmissions
        refused(&commands[2], &mut body, 35, 32); // feedback nobody knows
        refused(&commands[3], &mut body, 1, 16); // track 4,096 + 255
        refused(&commands[4], &mut body, 20, 200); // payload type
        refused(&commands[4], &mut body, 30, 128); // payload type of retransmissions
        refused(&commands[8], &mut body, 9, 9); // a NAL unit longer than the body
        refused(&commands[8], &mut body, 9, 0); // an empty one
        refused(&commands[5], &mut body, 2, 2); // feed 131,072 + 65,535
        refused(&commands[9], &mut body, 1, 16); // track 4,096 + 255
        refused(&commands[10], &mut body, 0, 0); // role
        refused(&commands[10], &mut body, 130, TRACKS_PER_STREAM_MAX as u8 + 1); // feeds
        refused(&commands[10], &mut body, 132, 255); // track
        refused(&commands[10], &mut body, 139, 128); // payload type
    }

    #[test]
    fn answers_come_back_and_only_whole() {
        let answers = [
            Answer::Nothing,
            Answer::Session { session: SessionId::new(7, 7) },
            Answer::Viewer { session: SessionId::new(7, 7), ssrcs: vec![(2, 3); TRACKS_PER_STREAM_MAX] },
            Answer::Track { track: TrackId::new(7, 7) },
            Answer::Feed { feed: FeedId::new(7, 7), ssrc: 1, rtx_ssrc: 2 },
            Answer::Dump { next: Some(0), entries: entries().to_vec() },
            Answer::Dump { next: None, entries: Vec::new() },
            Answer::Keyframe { outcome: KeyframeOutcome::Asked },
            Answer::Keyframe { outcome: KeyframeOutcome::Silent },
        ];
        for answer in answers {
            let mut body = [0; ANSWER_BODY_BYTES];
            let length = answer.encode(&mut body).unwrap();
            assert_eq!(Answer::decode(&body[..length]).as_ref(), Some(&answer));
            for shorter in 1..length {
                assert_eq!(Answer::decode(&body[..shorter]), None, "{answer:?} cut at {shorter}");
            }
        }
        assert_eq!(Answer::decode(&[5, 0]), None);
        assert_eq!(Answer::decode(&[5, 6]), None);
    }

    #[test]
    fn dump_fits_says_exactly_what_an_answer_holds() {
        let mut rng = Rng::new(3);
        for _ in 0..200 {
            let mut chosen = Vec::new();
            loop {
                let entry = entries()[rng.below(3) as usize].clone();
                let fits = dump_fits(&chosen, &entry);
                chosen.push(entry);
                let answer = Answer::Dump { next: Some(1), entries: chosen.clone() };
                let mut body = [0; ANSWER_BODY_BYTES];
                let length = answer.encode(&mut body);
                assert_eq!(length.is_some(), fits);
                let Some(length) = length else { break };
                assert_eq!(Answer::decode(&body[..length]), Some(answer));
            }
            assert!(chosen.len() > 5);
        }
    }

    #[test]
    fn events_come_back() {
        let session = SessionId::new(9, 1);
        let reasons = [
            CloseReason::Removed,
            CloseReason::RemoteClosed,
            CloseReason::ConsentExpired,
            CloseReason::NeverConnected,
            CloseReason::HandshakeFailed,
            CloseReason::FingerprintMismatch,
        ];
        let closed = reasons.map(|reason| Event::SessionClosed { session, reason });
        let others = [
            Event::SessionConnected { session, profile: 8 },
            Event::TrackState { track: TrackId::new(4, 4), live: true },
            Event::TrackState { track: TrackId::new(4, 4), live: false },
        ];
        for event in closed.iter().chain(&others) {
            assert_eq!(Event::decode(&event.encode()).as_ref(), Some(event));
        }
        assert_eq!(Event::decode(&[0; EVENT_BODY_BYTES]), None);
        assert_eq!(Event::decode(&[0xFF; EVENT_BODY_BYTES]), None);
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = Rng::new(4);
        let mut bytes = [0; ANSWER_BODY_BYTES];
        for _ in 0..20_000 {
            rng.fill(&mut bytes);
            bytes[0] = rng.below(7) as u8;
            let length = rng.below(ANSWER_BODY_BYTES as u64 + 1) as usize;
            let _ = Answer::decode(&bytes[..length]);
            let _ = Command::decode(rng.below(14) as u32, &bytes[..length]);
        }
    }
}

//! Commands: what control asks of a shard, and what the shard answers into the same slot.
//!
//! A command is never coupled with another: an add makes a session (a viewer's with its feeds), an attach makes a feed. The engine
//! trusts nothing it reads here (`Command::decode` refuses), and every answer says what became of the
//! command: a completion cannot be lost, because it stands in the slot the command came in.
//!
//! Slot (1,024 bytes, all little endian):
//!
//! ```text
//!    0        8        16       20       24                512                          1024
//!    +--------+--------+--------+--------+-----------------+----------------------------+
//!    | ticket | engine | kind   | length | body            | result word, result body   |
//!    |        | epoch  | u32    | u32    | <= 488 bytes    | u32 status, u32 length, .. |
//!    +--------+--------+--------+--------+-----------------+----------------------------+
//! ```

use crate::id::{Codec, FeedId, SessionId, Side, StreamId, TrackId};
use crate::limits::{COMMAND_SLOT_BYTES, ICE_PWD_CHARS, NOTE_BYTES, UFRAG_RANDOM_CHARS};

pub use super::codec::dump_fits;

/// Room for a command's body, and for an answer's, as in the picture above.
pub const COMMAND_BODY_BYTES: usize = COMMAND_SLOT_BYTES / 2 - 24;
pub const ANSWER_BODY_BYTES: usize = COMMAND_SLOT_BYTES / 2 - 8;

/// What control tells about a session and gets back by `dump`; the engine never reads it.
pub type Note = [u8; NOTE_BYTES];

/// A certificate's fingerprint as SDP gave it: SHA-256 is what everybody sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint(pub [u8; 32]);

/// Who begins the DTLS handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DtlsRole {
    /// `a=setup:active`: sends the ClientHello.
    Client = 1,
    /// `a=setup:passive`.
    Server = 2,
}

/// Ids of RTP header extensions (RFC 8285) as SDP negotiated them; 0: not negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extensions {
    /// Transport-wide sequence numbers, for transport-cc feedback.
    pub transport_cc: u8,
    /// AV1's dependency descriptor.
    pub dependency_descriptor: u8,
}

/// Which feedback a publisher negotiated: it is sent no other (RFC 4585 section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrackFeedback {
    pub nack: bool,
    pub pli: bool,
    pub fir: bool,
    pub transport_cc: bool,
    pub remb: bool,
}

impl TrackFeedback {
    pub const fn to_bits(self) -> u8 {
        self.nack as u8
            | (self.pli as u8) << 1
            | (self.fir as u8) << 2
            | (self.transport_cc as u8) << 3
            | (self.remb as u8) << 4
    }
    pub const fn from_bits(bits: u8) -> Option<TrackFeedback> {
        if bits >> 5 != 0 {
            return None;
        }
        Some(TrackFeedback {
            nack: bits & 1 != 0,
            pli: bits & 2 != 0,
            fir: bits & 4 != 0,
            transport_cc: bits & 8 != 0,
            remb: bits & 16 != 0,
        })
    }
}

/// What a publisher negotiated for a track.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrackFacts {
    pub codec: Codec,
    pub payload_type: u8,
    /// Of its retransmissions (RFC 4588), 0: it resends packets as they were.
    pub rtx_payload_type: u8,
    /// The SSRC the offer named, or 0: then the first SSRC that comes with this payload type.
    pub ssrc: u32,
    /// Likewise for its retransmissions.
    pub rtx_ssrc: u32,
    pub feedback: TrackFeedback,
    pub extensions: Extensions,
}

impl TrackFacts {
    /// Without retransmissions and extensions; keyframes may be asked for.
    pub fn new(codec: Codec, payload_type: u8, ssrc: u32) -> TrackFacts {
        TrackFacts {
            codec,
            payload_type,
            rtx_payload_type: 0,
            ssrc,
            rtx_ssrc: 0,
            feedback: TrackFeedback { pli: true, ..TrackFeedback::default() },
            extensions: Extensions::default(),
        }
    }
}

/// What a viewer negotiated for a feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FeedFacts {
    /// By codec: the payload type this viewer negotiated, 0 for a codec it does not have.
    pub payload_types: [u8; Codec::COUNT],
    /// By codec: the payload type of retransmissions (RFC 4588), 0: packets are resent as they were.
    pub rtx_payload_types: [u8; Codec::COUNT],
    pub extensions: Extensions,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Makes a session that waits for its first STUN check. Answer: `Answer::Session`.
    AddSession {
        side: Side,
        /// Our role in the handshake.
        dtls_role: DtlsRole,
        ufrag_random: [u8; UFRAG_RANDOM_CHARS],
        pwd: [u8; ICE_PWD_CHARS],
        /// The remote's certificate must have this fingerprint.
        fingerprint: Fingerprint,
        note: Note,
    },
    /// A viewer's session with all its feeds, or nothing: one word to the shard and one back, where `AddSession` and
    /// `AttachFeed` are one for each. Answer: `Answer::Viewer`. An engine that does not know it says `Invalid`.
    AddViewer {
        dtls_role: DtlsRole,
        ufrag_random: [u8; UFRAG_RANDOM_CHARS],
        pwd: [u8; ICE_PWD_CHARS],
        fingerprint: Fingerprint,
        note: Note,
        /// At most `TRACKS_PER_STREAM_MAX`.
        feeds: Vec<(TrackId, FeedFacts)>,
    },
    RemoveSession { session: SessionId },
    /// Makes a track in `stream`, fed by `session`; or, with `track` set, lets `session` feed that track
    /// from now on (takeover: its feeds and its reel stay). Answer: `Answer::Track`.
    AttachTrack {
        session: SessionId,
        stream: StreamId,
        /// `TrackId::NONE` for a new one.
        track: TrackId,
        facts: TrackFacts,
        note: Note,
    },
    DetachTrack { track: TrackId },
    /// Sends a track to a session. Answer: `Answer::Feed`.
    AttachFeed {
        session: SessionId,
        track: TrackId,
        facts: FeedFacts,
    },
    /// Parameter sets that stood only in SDP: NAL units, each behind its length in two bytes, big endian. They go
    /// before a keyframe that brings none itself; empty: there are none.
    SetParameterSets { track: TrackId, sets: Vec<u8> },
    DetachFeed { feed: FeedId },
    /// Layers come with simulcast; layer 0 always exists.
    SelectLayer { feed: FeedId, layer: u8 },
    /// Asks the track's publisher for a keyframe, within its budget. Answer: `Answer::Keyframe`.
    RequestKeyframe { track: TrackId },
    /// The shard's sessions and tracks from `cursor` on. Answer: `Answer::Dump`.
    Dump { cursor: u32 },
}

/// What became of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Status {
    /// Not executed yet. A fresh slot is all zeros.
    Pending = 0,
    Done = 1,
    /// A field is out of its range, or the command is unknown to this engine.
    Invalid = 2,
    /// The name is of something that is gone, or never was.
    NotFound = 3,
    /// A table or the slab pool is full: a safety limit of the engine.
    Full = 4,
    /// The command was written for an engine that is gone.
    StaleEpoch = 5,
    /// The named thing lives on another shard.
    WrongShard = 6,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    Nothing,
    Session { session: SessionId },
    /// SSRCs of media and retransmissions, as of `Feed`, in the order in which the feeds were named.
    Viewer { session: SessionId, ssrcs: Vec<(u32, u32)> },
    Track { track: TrackId },
    /// `rtx_ssrc` is 0 for a feed without retransmissions of their own.
    Feed { feed: FeedId, ssrc: u32, rtx_ssrc: u32 },
    Dump { next: Option<u32>, entries: Vec<DumpEntry> },
    Keyframe { outcome: KeyframeOutcome },
}

/// What became of a wish for a keyframe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum KeyframeOutcome {
    /// A request is on its way to the publisher.
    Asked = 1,
    /// One was sent, or a keyframe came, a moment ago: the next goes out when its time has come, if it is wished still.
    Pending = 2,
    /// Keyframes that were asked for have taken their share of the track's bitrate.
    Withheld = 3,
    /// The publisher negotiated no requests, or answers none.
    Deaf = 4,
    /// The track has no publisher, or none that has sent a packet yet.
    Silent = 5,
}

#[derive(Clone, PartialEq, Debug)]
pub enum DumpEntry {
    Session { session: SessionId, side: Side, state: SessionState, note: Note },
    /// `session` is NONE while nobody feeds the track.
    Track { track: TrackId, stream: StreamId, session: SessionId, codec: Codec, note: Note },
    /// `ssrc` names it towards the viewer.
    Feed { feed: FeedId, session: SessionId, track: TrackId },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SessionState {
    /// Waits for its first valid STUN check.
    New = 1,
    /// STUN passed, the handshake runs.
    Handshake = 2,
    Connected = 3,
}

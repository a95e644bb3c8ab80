//! Commands: what control asks of a shard, and what the shard answers into the same slot.
//!
//! A command is never coupled with another: an add makes a session, an attach makes a feed. The engine
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
    RemoveSession { session: SessionId },
    /// Makes a track in `stream`, fed by `session`; or, with `track` set, lets `session` feed that track
    /// from now on (takeover: its feeds and its reel stay). Answer: `Answer::Track`.
    AttachTrack {
        session: SessionId,
        stream: StreamId,
        /// `TrackId::NONE` for a new one.
        track: TrackId,
        codec: Codec,
        payload_type: u8,
        /// The SSRC the offer named, or 0: then the first SSRC that comes with this payload type.
        ssrc: u32,
        note: Note,
    },
    DetachTrack { track: TrackId },
    /// Sends a track to a session. Answer: `Answer::Feed`.
    AttachFeed {
        session: SessionId,
        track: TrackId,
        /// By codec: the payload type this viewer negotiated, 0 for a codec it does not have.
        payload_types: [u8; Codec::COUNT],
    },
    DetachFeed { feed: FeedId },
    /// Layers come with simulcast; layer 0 always exists.
    SelectLayer { feed: FeedId, layer: u8 },
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
    Track { track: TrackId },
    Feed { feed: FeedId, ssrc: u32, rtx_ssrc: u32 },
    Dump { next: Option<u32>, entries: Vec<DumpEntry> },
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

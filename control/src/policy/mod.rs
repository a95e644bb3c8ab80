//! Policy: who may publish and watch what, and where it runs. Pure: no clock, no axum, no tokio, no disk.
//!
//! Requests and events come in with everything they need, decisions and commands go out.

pub mod admission;
pub mod candidates;
pub mod capacity;
pub mod limits;
pub mod placement;
pub mod recordings;
pub mod rooms;
pub mod warnings;
pub mod webhooks;

use crate::auth::{hex, unhex};
use aws_lc_rs::digest;
use spillway_proto::id::{Codec, Side};
use spillway_proto::limits::NOTE_BYTES;
use spillway_proto::link::command::Note;
use spillway_proto::sdp::SdpError;
use spillway_proto::sdp::codec::H264Profile;
use std::fmt;

/// When a session began: Unix milliseconds, then its place among those of the same millisecond (8 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Age(u64);

impl Age {
    pub const NONE: Age = Age(0);
    /// How far a crowd may run ahead of the clock, and how small a step back of the clock does not show.
    const AHEAD_MS: u64 = 1_000;

    /// Of who comes after `last`: younger, whatever the clock shows; but a clock that was set back is believed.
    pub fn after(last: Age, now_ms: u64) -> Age {
        let now = now_ms << 8;
        let next = last.0.saturating_add(1);
        Age(if next > now && next - now < Self::AHEAD_MS << 8 { next } else { now })
    }
}

/// The unguessable part of a session's URL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId(pub [u8; 16]);

impl ResourceId {
    pub fn parse(text: &str) -> Option<ResourceId> {
        unhex(text).map(ResourceId)
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Only the beginning: whoever knows all of it may end the session.
impl fmt::Debug for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", hex(&self.0[..4]))
    }
}

impl ResourceId {
    /// Begins with the age, so that names made from it sort by it; the rest (72 bits) is the caller's chance.
    pub fn new(age: Age, random: [u8; 9]) -> ResourceId {
        let mut bytes = [0; 16];
        let (front, rest) = bytes.split_at_mut(7);
        front.copy_from_slice(age.0.to_be_bytes().get(1..).unwrap_or(&[0; 7]));
        rest.copy_from_slice(&random);
        ResourceId(bytes)
    }

    /// Unix milliseconds.
    pub fn at_ms(&self) -> u64 {
        self.0.iter().take(6).fold(0, |time, byte| time << 8 | u64::from(*byte))
    }
}

/// A session's name for everybody who may know of it: sorts by age, and does not give its URL away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PublicId(pub [u8; 16]);

impl PublicId {
    pub fn of(resource: ResourceId) -> PublicId {
        let hash = digest::digest(&digest::SHA256, &resource.0);
        let mut bytes = resource.0;
        for (byte, other) in bytes.iter_mut().skip(7).zip(hash.as_ref()) {
            *byte = *other;
        }
        PublicId(bytes)
    }
}

/// Why something is not possible, as a value; `api::problem` makes a status of it.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Sdp(#[from] SdpError),
    #[error("nothing is live in this room; try again in 2 seconds")]
    StreamNotLive,
    #[error("another publisher is live in this room; the same `sub` could take over")]
    RoomBusy,
    #[error("no common codec: offered {}; possible {}", list(.offered), list(.possible))]
    NoCommonCodec { offered: Vec<String>, possible: Vec<String> },
    #[error("the offer has more than one {0} section to send; Spillway takes one audio and one video")]
    TooManyTracks(&'static str),
    #[error("an ICE restart is not supported; end the session and POST anew")]
    IceRestartUnsupported,
    #[error("the media engine is starting; try again in a second")]
    EngineRestarting,
    #[error("the shard has too many commands waiting; try again in a second")]
    EngineBusy,
    #[error("the media engine did not answer in time; try again in a second")]
    EngineTimeout,
    #[error("the node is full ({0}); try again later or use another node")]
    NodeFull(&'static str),
    #[error("this room may have {max} viewers, and has them; try again in a while")]
    RoomFull { max: u32 },
    #[error("the account may have {max} {what}, and has them; end one, or have the limit raised")]
    AccountFull { what: &'static str, max: u32 },
    #[error("more than {max} viewers join per second; try again in a second")]
    JoinRate { max: u32 },
    #[error("one more viewer of this stream would need more than the {max} Mbit/s that may go out; try again in a while")]
    EgressFull { max: u32 },
    #[error("whoever this token is for was sent away from this room, and may come again in {seconds} s")]
    Banned { seconds: u64 },
    #[error("every shard is about as busy as the {max} % it may be; those who watch come first, try again in a while")]
    CapacityFull { max: u32 },
    #[error("there is no such session in this room; it has ended, or never was")]
    SessionNotFound,
    #[error("nothing is recorded in this room: its setting `record` is off")]
    RecordingOff,
    #[error("this room is being recorded already ({id}); stop that one, or let it go on")]
    RecordingRuns { id: String },
    #[error("this recording is not finished; stop it, and wait until its state is finished")]
    RecordingOpen,
    #[error("the recordings cannot be read: {0}; look at the disk and at recording.dir")]
    RecordingFiles(String),
    #[error("the node cannot write its database: {0}")]
    Store(String),
}

impl Refusal {
    /// Stable: clients and metrics have it.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Sdp(_) => "bad_sdp",
            Refusal::StreamNotLive => "stream_not_live",
            Refusal::RoomBusy => "room_busy",
            Refusal::NoCommonCodec { .. } => "no_common_codec",
            Refusal::TooManyTracks(_) => "too_many_tracks",
            Refusal::IceRestartUnsupported => "ice_restart_unsupported",
            Refusal::EngineRestarting => "engine_restarting",
            Refusal::EngineBusy => "engine_busy",
            Refusal::EngineTimeout => "engine_timeout",
            Refusal::NodeFull(_) => "node_full",
            Refusal::RoomFull { .. } => "room_full",
            Refusal::AccountFull { .. } => "account_full",
            Refusal::JoinRate { .. } => "join_rate",
            Refusal::EgressFull { .. } => "egress_full",
            Refusal::Banned { .. } => "banned",
            Refusal::CapacityFull { .. } => "capacity_full",
            Refusal::SessionNotFound => "session_not_found",
            Refusal::RecordingOff => "recording_off",
            Refusal::RecordingRuns { .. } => "recording_runs",
            Refusal::RecordingOpen => "recording_open",
            Refusal::RecordingFiles(_) => "recordings_unavailable",
            Refusal::Store(_) => "store_unavailable",
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Codecs as bits, by their number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CodecSet(pub u8);

impl CodecSet {
    pub fn of(codecs: impl IntoIterator<Item = Codec>) -> CodecSet {
        CodecSet(codecs.into_iter().fold(0, |bits, codec| bits | 1 << (codec as u8)))
    }
    pub fn contains(self, codec: Codec) -> bool {
        self.0 & 1 << (codec as u8) != 0
    }
}

const _: () = assert!(Codec::COUNT <= 8, "a bit for each codec");

const NOTE_VERSION: u8 = 1;
const NOTE_SESSION: u8 = 1;
const NOTE_TRACK: u8 = 2;

/// What control must know of a session after it was killed; it stands in the engine's record.
///
/// ```text
///    0         1      2      3        4      8          24       32        40      64
///    +---------+------+------+--------+------+----------+--------+---------+-------+
///    | version | kind | side | codecs | room | resource | sub    | expiry  | zeros |
///    +---------+------+------+--------+------+----------+--------+---------+-------+
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionNote {
    pub side: Side,
    /// A viewer's negotiated codecs.
    pub codecs: CodecSet,
    pub room: u32,
    pub resource: ResourceId,
    /// A hash of the token's `sub`.
    pub sub: u64,
    /// Unix seconds.
    pub expiry: u64,
}

impl SessionNote {
    pub fn write(&self) -> Note {
        let mut note = [0; NOTE_BYTES];
        note[..4].copy_from_slice(&[NOTE_VERSION, NOTE_SESSION, self.side as u8, self.codecs.0]);
        note[4..8].copy_from_slice(&self.room.to_le_bytes());
        note[8..24].copy_from_slice(&self.resource.0);
        note[24..32].copy_from_slice(&self.sub.to_le_bytes());
        note[32..40].copy_from_slice(&self.expiry.to_le_bytes());
        note
    }

    pub fn read(note: &Note) -> Option<SessionNote> {
        let [NOTE_VERSION, NOTE_SESSION, side, codecs] = *note.first_chunk::<4>()? else { return None };
        let side = match side {
            1 => Side::Publisher,
            2 => Side::Viewer,
            _ => return None,
        };
        Some(SessionNote {
            side,
            codecs: CodecSet(codecs),
            room: u32::from_le_bytes(chunk(note, 4)?),
            resource: ResourceId(chunk(note, 8)?),
            sub: u64::from_le_bytes(chunk(note, 24)?),
            expiry: u64::from_le_bytes(chunk(note, 32)?),
        })
    }
}

/// What control must know of a track: version, kind, H264 profile or 0, then the room as above, then when its stream
/// began (8 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrackNote {
    pub profile: Option<H264Profile>,
    pub room: u32,
    /// Unix milliseconds.
    pub began_ms: u64,
}

impl TrackNote {
    pub fn write(&self) -> Note {
        let mut note = [0; NOTE_BYTES];
        note[..3].copy_from_slice(&[NOTE_VERSION, NOTE_TRACK, self.profile.map_or(0, |profile| profile as u8)]);
        note[4..8].copy_from_slice(&self.room.to_le_bytes());
        note[8..16].copy_from_slice(&self.began_ms.to_le_bytes());
        note
    }

    pub fn read(note: &Note) -> Option<TrackNote> {
        let [NOTE_VERSION, NOTE_TRACK, profile] = *note.first_chunk::<3>()? else { return None };
        Some(TrackNote {
            profile: H264Profile::from_u8(profile),
            room: u32::from_le_bytes(chunk(note, 4)?),
            began_ms: u64::from_le_bytes(chunk(note, 8)?),
        })
    }
}

fn chunk<const N: usize>(note: &Note, at: usize) -> Option<[u8; N]> {
    note.get(at..)?.first_chunk::<N>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_as_they_were_written() {
        let session = SessionNote {
            side: Side::Viewer,
            codecs: CodecSet::of([Codec::H264, Codec::Opus]),
            room: 7,
            resource: ResourceId([9; 16]),
            sub: u64::MAX - 3,
            expiry: 1 << 40,
        };
        assert_eq!(SessionNote::read(&session.write()), Some(session));
        let track = TrackNote { profile: Some(H264Profile::High), room: 7, began_ms: 1 << 41 };
        assert_eq!(TrackNote::read(&track.write()), Some(track));
        assert_eq!(TrackNote::read(&session.write()), None);
        assert_eq!(SessionNote::read(&[0; NOTE_BYTES]), None);
        assert_eq!(SessionNote::read(&[0xff; NOTE_BYTES]), None);
        assert!(session.codecs.contains(Codec::Opus) && !session.codecs.contains(Codec::Vp8));
    }

    #[test]
    fn a_public_name_sorts_by_age_and_gives_nothing_away() {
        let first = Age::after(Age::NONE, 1_700_000_000_000);
        let next = Age::after(first, 1_700_000_000_000);
        let (older, newer) = (ResourceId::new(first, [9; 9]), ResourceId::new(next, [0; 9]));
        assert_eq!((older.at_ms(), newer.at_ms()), (1_700_000_000_000, 1_700_000_000_000));
        let (a, b) = (PublicId::of(older), PublicId::of(newer));
        assert!(a < b);
        assert_ne!(a.0[7..], older.0[7..]);
        assert_ne!(PublicId::of(ResourceId::new(first, [8; 9])), a);
        let (mut age, mut names) = (first, Vec::new());
        for _ in 0..50 {
            age = Age::after(age, 1_700_000_000_000);
            names.push(PublicId::of(ResourceId::new(age, [9; 9])));
        }
        assert!(names.is_sorted());
    }

    #[test]
    fn who_comes_later_is_younger_within_a_millisecond_and_over_a_small_step_of_the_clock() {
        let at_ms = |age: Age| ResourceId::new(age, [0; 9]).at_ms();
        let mut last = Age::after(Age::NONE, 5_000_000);
        for now_ms in std::iter::repeat_n(5_000_000, 600).chain([4_999_500, 5_000_001, 5_000_900]) {
            let next = Age::after(last, now_ms);
            assert!(next > last, "{last:?} and then {next:?}");
            last = next;
        }
        assert_eq!(at_ms(last), 5_000_900);
        // Set back by more: what is shown is the time of day again.
        assert_eq!(at_ms(Age::after(last, 4_000_000)), 4_000_000);
    }

    #[test]
    fn a_resource_in_a_log_line_opens_nothing() {
        let id = ResourceId([0xab; 16]);
        assert_eq!(ResourceId::parse(&id.to_string()), Some(id));
        assert_eq!(format!("{id:?}"), "abababab..");
        assert_eq!(ResourceId::parse("abab"), None);
    }
}

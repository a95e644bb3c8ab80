//! Records: what a live session needs to go on, as plain data in a segment that outlives the engine.
//!
//! Four slabs linked by index: session, feed, track, reel. `#[repr(C)]`, no pointers, no padding that
//! matters; all zeros is a valid, free record. One owner at a time: the shard that owns the slot in the
//! engine whose epoch stands in the segment's header. Counters that go into a nonce are 64-bit words that
//! are advanced *before* the seal, so that after a kill every number in the segment is at least any number
//! seen on the wire.
//!
//! Nobody but the engine gets this segment: it holds keys.

use crate::id::{Codec, FeedId, SessionId, StreamId, TrackId};
use crate::limits::{
    FEEDS_MAX, ICE_PWD_CHARS, NOTE_BYTES, PAIRS_PER_SESSION_MAX, SESSIONS_MAX, TRACKS_MAX, UFRAG_RANDOM_CHARS,
};
use std::sync::atomic::{AtomicU32, AtomicU64};

pub const RECORDS_MAGIC: u64 = u64::from_le_bytes(*b"SPILLREC");
pub const RECORDS_VERSION: u32 = 2;
/// No link to another record.
pub const NIL: u32 = u32::MAX;

#[repr(C)]
pub struct RecordsHeader {
    pub magic: u64,
    pub version: u32,
    pub shards: u32,
    /// Grows with each engine that maps the segment writable.
    pub owner_epoch: AtomicU64,
    pub session_bytes: u32,
    pub feed_bytes: u32,
    pub track_bytes: u32,
    pub reserved: u32,
    /// One more than the largest index ever used: what a new owner has to look at.
    pub session_high: AtomicU32,
    pub feed_high: AtomicU32,
    pub track_high: AtomicU32,
    pub reserved_2: u32,
}

/// An address as plain data: IPv4 is kept as IPv4-mapped IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct RawAddr {
    pub ip: [u8; 16],
    pub port: u16,
    pub reserved: u16,
    /// The interface of a link-local address.
    pub scope: u32,
}

/// A pair is (local, remote): a multi-homed host answers from the address that was asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct Pair {
    pub local: RawAddr,
    pub remote: RawAddr,
}

/// Master key and salt of one direction (RFC 3711 section 3.2.1; GCM salts are 12 bytes long).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct MasterKey {
    pub key: [u8; 32],
    pub salt: [u8; 14],
    pub reserved: [u8; 2],
}

/// A datagram kept for a resend: our last handshake flight, our close_notify.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KeptDatagram {
    pub length: u32,
    pub bytes: [u8; 508],
}

#[repr(C)]
pub struct SessionRecord {
    /// 0: free. Else the generation of the id; grows with each reuse.
    pub generation: u32,
    /// The last generation this slot had, kept while it is free.
    pub generation_last: u32,
    pub side: u8,
    /// `SessionState`, 0 while free.
    pub state: u8,
    pub dtls_role: u8,
    pub pairs: u8,
    /// The SRTP profile's number, 0 before the handshake is over.
    pub profile: u16,
    /// One more than the index of the nominated pair; 0 while none was nominated.
    pub pair_selected: u8,
    pub reserved: u8,
    pub ufrag_random: [u8; UFRAG_RANDOM_CHARS],
    pub reserved_2: [u8; 7],
    pub pwd: [u8; ICE_PWD_CHARS],
    pub fingerprint: [u8; 32],
    pub note: [u8; NOTE_BYTES],
    pub pair: [Pair; PAIRS_PER_SESSION_MAX],
    pub receive_key: MasterKey,
    pub send_key: MasterKey,
    /// Monotonic nanoseconds of the last valid check, and of the add.
    pub consent_at: u64,
    pub added_at: u64,
    /// When a nomination last changed the pair media goes to.
    pub pair_switched_at: u64,
    /// Next SRTCP index of ours (31 bits used, never reused).
    pub srtcp_index: AtomicU64,
    /// Highest SRTCP index opened, its replay window.
    pub srtcp_received: u64,
    pub srtcp_window: u64,
    /// SSRCs given out so far in this session; never again the same.
    pub ssrc_next: u32,
    pub feed_first: u32,
    pub track_first: u32,
    pub reserved_3: u32,
    /// Packets for close: resent to a remote that missed our last flight, sent on removal.
    pub last_flight: KeptDatagram,
    pub close_notify: KeptDatagram,
}

/// From `first_index` up to `end_index`: sequence = index + `sequence_offset`, timestamp = timestamp +
/// `timestamp_offset` (the feed's true timeline) + `lead` / 2^16 of what is left until `meet`.
///
/// So a picture that is shown a second time may begin after what the viewer saw last: time then runs slower than
/// true and meets the true timeline at `meet`. A lead of 0 is the true timeline, one of `LEAD_WHOLE` stands still at
/// `meet`. What lies between two mappings was skipped and has no sequence: it can never be sent. A reel's packet
/// that was sent twice stands in two mappings, under two sequences.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Mapping {
    pub first_index: u64,
    /// One past the last; the newest mapping has no end.
    pub end_index: u64,
    /// Added to the reel's index: gives the 48-bit SRTP index of the outgoing packet.
    pub sequence_offset: u64,
    pub timestamp_offset: u32,
    /// In the reel's timescale.
    pub meet: u32,
    /// 0..=LEAD_WHOLE.
    pub lead: u32,
    /// The reel (track index) this segment reads.
    pub reel: u32,
}

pub const MAPPINGS: usize = 4;
pub const LEAD_WHOLE: u32 = 1 << 16;

#[repr(C)]
pub struct FeedRecord {
    pub generation: u32,
    pub generation_last: u32,
    pub session: u32,
    pub track: u32,
    pub track_generation: u32,
    pub ssrc: u32,
    pub rtx_ssrc: u32,
    pub layer: u8,
    /// How many of `mapping` are in use; the newest is the last.
    pub mappings: u8,
    /// Id of the header extension towards this viewer, 0: none.
    pub dependency_descriptor: u8,
    pub reserved: u8,
    pub payload_types: [u8; Codec::COUNT],
    pub rtx_payload_types: [u8; Codec::COUNT],
    /// Next reel index to send.
    pub cursor: AtomicU64,
    /// One more than the largest RTP index ever sealed (48 bits used).
    pub rtp_index: AtomicU64,
    pub rtx_index: AtomicU64,
    pub mapping: [Mapping; MAPPINGS],
    /// Packets and octets sent, for sender reports.
    pub packets: u64,
    pub octets: u64,
    /// Indices before the cursor that were left out (layers, budget).
    pub drop_bitmap: [u64; 4],
    /// Next feed of the same session, or of the free list.
    pub next: u32,
    pub reserved_2: u32,
}

#[repr(C)]
pub struct TrackRecord {
    pub generation: u32,
    pub generation_last: u32,
    pub stream: u32,
    pub stream_generation: u32,
    /// Who feeds it; NIL while nobody does.
    pub session: u32,
    pub codec: u8,
    pub payload_type: u8,
    pub shard: u8,
    /// 0: none was negotiated.
    pub rtx_payload_type: u8,
    pub ssrc: u32,
    /// Grows with each takeover.
    pub publisher_epoch: u32,
    pub note: [u8; NOTE_BYTES],
    /// Reel index = extended source sequence + this; set anew at a takeover.
    pub index_offset: u64,
    pub timestamp_offset: u32,
    pub rtx_ssrc: u32,
    /// Highest extended sequence received, its replay window (`srtp::Window`).
    pub sequence_max: u64,
    pub replay_window: [u64; 16],
    pub next: u32,
    /// `TrackFeedback` as bits.
    pub feedback: u8,
    /// Ids of the publisher's header extensions, 0: none.
    pub transport_cc: u8,
    pub dependency_descriptor: u8,
    pub reserved: u8,
}

/// The writer's side of a reel; what readers need stands in the reel's own file.
#[repr(C)]
pub struct ReelRecord {
    pub generation: u32,
    /// Which of its stream file's reels this is.
    pub place: u32,
    pub slabs: u32,
    pub slab_write: u32,
    pub write_offset: u32,
    pub reserved: u32,
}

/// The whole segment, in this order; sparse, so that its size costs nothing.
#[repr(C)]
pub struct Records {
    pub header: RecordsHeader,
    pub sessions: [SessionRecord; SESSIONS_MAX],
    pub feeds: [FeedRecord; FEEDS_MAX],
    pub tracks: [TrackRecord; TRACKS_MAX],
    pub reels: [ReelRecord; TRACKS_MAX],
}

pub const RECORDS_BYTES: usize = size_of::<Records>();
const _: () = assert!(size_of::<SessionRecord>() <= 2_048, "memory per viewer");
const _: () = assert!(size_of::<FeedRecord>() <= 320, "memory per viewer");

impl SessionRecord {
    pub fn id(&self, index: u32) -> SessionId {
        SessionId::new(index, self.generation)
    }
}
impl FeedRecord {
    pub fn id(&self, index: u32) -> FeedId {
        FeedId::new(index, self.generation)
    }
}
impl TrackRecord {
    pub fn id(&self, index: u32) -> TrackId {
        TrackId::new(index, self.generation)
    }
    pub fn stream(&self) -> StreamId {
        StreamId::new(self.stream, self.stream_generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::layout::LINK_BYTES;
    use crate::stream::reel::STREAM_FILE_BYTES;
    use std::mem::offset_of;

    const README: &str = include_str!("../../README.md");
    const COLUMNS: usize = 118;

    macro_rules! places {
        ($name:literal, $record:ident: $($field:ident)*) => {
            line($name, size_of::<$record>(), &[$((offset_of!($record, $field), stringify!($field))),*])
        };
    }

    /// "name, size bytes: offset field, ..." in lines of the README's width.
    fn line(name: &str, size: usize, places: &[(usize, &str)]) -> String {
        let mut lines = vec![format!("{name}, {} bytes:", with_commas(size))];
        for (at, (offset, field)) in places.iter().enumerate() {
            let word = format!(" {offset} {field}{}", if at + 1 < places.len() { "," } else { "" });
            if lines.last().unwrap().len() + word.len() > COLUMNS {
                lines.push("   ".to_owned());
            }
            lines.last_mut().unwrap().push_str(&word);
        }
        lines.join("\n")
    }

    fn with_commas(number: usize) -> String {
        let digits = number.to_string();
        let first = digits.len() % 3;
        let mut groups: Vec<&str> = if first > 0 { vec![&digits[..first]] } else { Vec::new() };
        groups.extend(digits.as_bytes()[first..].chunks(3).map(|group| std::str::from_utf8(group).unwrap()));
        groups.join(",")
    }

    /// Goal: what the README says of the layout is true. Method: its text is made from the types, and must stand there.
    #[test]
    fn the_readme_says_where_everything_stands() {
        let rows = [
            ("header", offset_of!(Records, header), 1, size_of::<RecordsHeader>()),
            ("sessions", offset_of!(Records, sessions), SESSIONS_MAX, size_of::<SessionRecord>()),
            ("feeds", offset_of!(Records, feeds), FEEDS_MAX, size_of::<FeedRecord>()),
            ("tracks", offset_of!(Records, tracks), TRACKS_MAX, size_of::<TrackRecord>()),
            ("reels", offset_of!(Records, reels), TRACKS_MAX, size_of::<ReelRecord>()),
        ];
        let mut texts: Vec<String> = rows
            .iter()
            .map(|(name, offset, count, size)| {
                let (offset, count, size) = (with_commas(*offset), with_commas(*count), with_commas(*size));
                format!("{offset:>13}  {name:<8} {count:>9} x {size:>5}")
            })
            .collect();
        texts.extend([
            format!("## The link: {} bytes", with_commas(LINK_BYTES)),
            format!("## The records: {} bytes", with_commas(RECORDS_BYTES)),
            format!("## A stream's file: {} bytes", with_commas(STREAM_FILE_BYTES)),
            format!("Magic \"SPILLREC\", version {RECORDS_VERSION}."),
            places!("header", RecordsHeader: magic version shards owner_epoch session_bytes feed_bytes track_bytes
                session_high feed_high track_high),
            places!("session", SessionRecord: generation generation_last side state dtls_role pairs profile pair_selected
                ufrag_random pwd fingerprint note pair receive_key send_key consent_at added_at pair_switched_at
                srtcp_index srtcp_received srtcp_window ssrc_next feed_first track_first last_flight close_notify),
            places!("feed", FeedRecord: generation generation_last session track track_generation ssrc rtx_ssrc layer
                mappings dependency_descriptor payload_types rtx_payload_types cursor rtp_index rtx_index mapping packets
                octets drop_bitmap next),
            places!("mapping", Mapping: first_index end_index sequence_offset timestamp_offset meet lead reel),
            places!("track", TrackRecord: generation generation_last stream stream_generation session codec payload_type
                shard rtx_payload_type ssrc publisher_epoch note index_offset timestamp_offset rtx_ssrc sequence_max
                replay_window next feedback transport_cc dependency_descriptor),
            places!("reel", ReelRecord: generation place slabs slab_write write_offset),
        ]);
        let missing: Vec<String> = texts.into_iter().filter(|text| !README.contains(text.as_str())).collect();
        assert!(missing.is_empty(), "proto/README.md lacks:\n{}", missing.join("\n"));
    }
}

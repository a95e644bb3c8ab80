//! A feed's headers: a pure function of the feed's record and the reel's slot.
//!
//! For one (key, SSRC, index) every datagram ever sent must be byte-identical, header included, because a nonce
//! is made of it. So nothing that changes from send to send comes in here: no clock, no counter. Holes of the
//! source stay holes, and none are added.

use super::reel::{SlotFlags, SlotMeta};
use crate::id::Kind;
use crate::session::record::{FeedRecord, MAPPINGS, Mapping};

/// SRTP's packet index: 32 bits of rollover counter, 16 of sequence number (RFC 3711 section 3.3.1).
const SRTP_INDEX_MASK: u64 = (1 << 48) - 1;
const VERSION_2: u8 = 2 << 6;
const MARKER: u8 = 0x80;

pub const HEADER_BYTES: usize = 12;

/// The RTP header of `slot` as `feed` sends it, and its 48-bit SRTP index. None if the viewer has no payload type
/// for the codec, or no mapping reaches that far back.
pub fn header(feed: &FeedRecord, slot: &SlotMeta) -> Option<([u8; HEADER_BYTES], u64)> {
    let in_use = feed.mapping.get(..usize::from(feed.mappings))?;
    let mapping = in_use.iter().rev().find(|mapping| mapping.first_index <= slot.index)?;
    let payload_type = *feed.payload_types.get(slot.codec as usize)?;
    if payload_type == 0 || payload_type >= MARKER {
        return None;
    }
    let index = slot.index.wrapping_add(mapping.sequence_offset) & SRTP_INDEX_MASK;
    let timestamp = slot.timestamp.wrapping_add(mapping.timestamp_offset);
    let marker = match slot.codec.kind() {
        Kind::Video => slot.flags.contains(SlotFlags::FRAME_END),
        // RFC 7587 section 4.1 leaves it to the sender: the start of talk, if it says so.
        Kind::Audio => slot.flags.contains(SlotFlags::MARKER),
    };
    let mut bytes = [0; HEADER_BYTES];
    bytes[0] = VERSION_2;
    bytes[1] = if marker { MARKER | payload_type } else { payload_type };
    bytes[2..4].copy_from_slice(&(index as u16).to_be_bytes());
    bytes[4..8].copy_from_slice(&timestamp.to_be_bytes());
    bytes[8..12].copy_from_slice(&feed.ssrc.to_be_bytes());
    Some((bytes, index))
}

/// A mapping that gives the reel's packet `first_index` the SRTP index `first_sequence`.
///
/// For a feed's first one that is a random number of 15 bits: the rollover counter starts at 0, and 2^15 packets
/// may go by before it turns, so that a viewer that missed the first ones still guesses it right. For a later
/// one it is the feed's next index: no hole.
pub fn start_mapping(first_index: u64, reel: u32, first_sequence: u64, timestamp_offset: u32) -> Mapping {
    Mapping { first_index, sequence_offset: first_sequence.wrapping_sub(first_index), timestamp_offset, reel }
}

/// Makes `mapping` the newest of the feed; the oldest goes when all places are taken.
pub fn push_mapping(feed: &mut FeedRecord, mapping: Mapping) {
    let mut used = usize::from(feed.mappings).min(MAPPINGS);
    if used == MAPPINGS {
        feed.mapping.rotate_left(1);
        used -= 1;
    }
    feed.mapping[used] = mapping;
    feed.mappings = used as u8 + 1;
}

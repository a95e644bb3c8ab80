//! A feed's headers: a pure function of the feed's record and the reel's slot.
//!
//! For one (key, SSRC, index) every datagram ever sent must be byte-identical, header included, because a nonce
//! is made of it. So nothing that changes from send to send comes in here: no clock, no counter. Holes of the
//! source stay holes, and none are added.

use super::reel::{SlotFlags, SlotMeta};
use crate::id::Kind;
use crate::session::record::{FeedRecord, MAPPINGS, Mapping};
use std::sync::atomic::Ordering::Relaxed;

/// SRTP's packet index: 32 bits of rollover counter, 16 of sequence number (RFC 3711 section 3.3.1).
const SRTP_INDEX_MASK: u64 = (1 << 48) - 1;
const VERSION_2: u8 = 2 << 6;
const MARKER: u8 = 0x80;

pub const HEADER_BYTES: usize = 12;

/// The RTP header of `slot` as `feed` sends it, and its 48-bit SRTP index. None if the viewer has no payload type
/// for the codec, or no mapping reaches that packet.
pub fn header(feed: &FeedRecord, slot: &SlotMeta) -> Option<([u8; HEADER_BYTES], u64)> {
    let in_use = feed.mapping.get(..usize::from(feed.mappings))?;
    let mapping = in_use.iter().find(|mapping| (mapping.first_index..mapping.end_index).contains(&slot.index))?;
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

/// The reel's packet that has the SRTP index `index` in this feed: `header`'s inverse. None if no mapping gives it.
pub fn reel_index(feed: &FeedRecord, index: u64) -> Option<u64> {
    let in_use = feed.mapping.get(..usize::from(feed.mappings))?;
    in_use.iter().find_map(|mapping| {
        let reel = index.wrapping_sub(mapping.sequence_offset) & SRTP_INDEX_MASK;
        (mapping.first_index..mapping.end_index).contains(&reel).then_some(reel)
    })
}

/// A mapping that gives the reel's packet `first_index` the SRTP index `first_sequence`.
///
/// For a feed's first one that is a random number of 15 bits: the rollover counter starts at 0, and 2^15 packets
/// may go by before it turns, so that a viewer that missed the first ones still guesses it right. For a later
/// one it is the feed's next index: no hole.
pub fn start_mapping(first_index: u64, reel: u32, first_sequence: u64, timestamp_offset: u32) -> Mapping {
    let sequence_offset = first_sequence.wrapping_sub(first_index);
    Mapping { first_index, end_index: u64::MAX, sequence_offset, timestamp_offset, reel }
}

/// Makes `mapping` the newest of the feed; the oldest goes when all places are taken. The one before it ends at
/// the feed's cursor: packets that are skipped would otherwise claim the sequence numbers the new one begins with.
pub fn push_mapping(feed: &mut FeedRecord, mapping: Mapping) {
    let mut used = usize::from(feed.mappings).min(MAPPINGS);
    let end = feed.cursor.load(Relaxed);
    if let Some(before) = used.checked_sub(1).and_then(|newest| feed.mapping.get_mut(newest)) {
        before.end_index = end;
    }
    if used == MAPPINGS {
        feed.mapping.rotate_left(1);
        used -= 1;
    }
    feed.mapping[used] = mapping;
    feed.mappings = used as u8 + 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Codec;
    use crate::rng::Rng;
    use crate::time::Time;
    use std::sync::atomic::AtomicU64;

    fn feed(ssrc: u32) -> FeedRecord {
        let mut payload_types = [0; Codec::COUNT];
        (payload_types[Codec::H264 as usize], payload_types[Codec::Opus as usize]) = (102, 111);
        FeedRecord {
            generation: 1,
            generation_last: 1,
            session: 0,
            track: 0,
            track_generation: 1,
            ssrc,
            rtx_ssrc: 0,
            layer: 0,
            mappings: 0,
            dependency_descriptor: 0,
            reserved: 0,
            payload_types,
            rtx_payload_types: [0; Codec::COUNT],
            cursor: AtomicU64::new(0),
            rtp_index: AtomicU64::new(0),
            rtx_index: AtomicU64::new(0),
            mapping: [Mapping::default(); MAPPINGS],
            packets: 0,
            octets: 0,
            drop_bitmap: [0; 4],
            next: 0,
            reserved_2: 0,
        }
    }

    fn slot(index: u64) -> SlotMeta {
        SlotMeta {
            index,
            timestamp: index as u32 * 7,
            arrival: Time(index),
            flags: SlotFlags::NONE,
            codec: Codec::H264,
            layer: 0,
        }
    }

    #[test]
    fn the_header_is_laid_out_as_rfc_3550_says() {
        let mut feed = feed(0x0102_0304);
        push_mapping(&mut feed, start_mapping(1_000, 5, 0x1234, 0x10));
        let packet = SlotMeta { timestamp: 0xFFFF_FFFF, flags: SlotFlags::FRAME_END, ..slot(1_001) };
        let (bytes, index) = header(&feed, &packet).unwrap();
        assert_eq!(bytes, [0x80, 0x80 | 102, 0x12, 0x35, 0, 0, 0, 0x0F, 1, 2, 3, 4]);
        assert_eq!(index, 0x1235);
        assert_eq!(header(&feed, &slot(1_001)).unwrap().0[1], 102);
        // Audio: the publisher's marker, not the end of a frame, which every packet is.
        let audio = SlotMeta { codec: Codec::Opus, flags: SlotFlags::FRAME_END, ..slot(1_001) };
        assert_eq!(header(&feed, &audio).unwrap().0[1], 111);
        let talk = SlotMeta { flags: SlotFlags::FRAME_END.with(SlotFlags::MARKER), ..audio };
        assert_eq!(header(&feed, &talk).unwrap().0[1], 0x80 | 111);
    }

    #[test]
    fn what_the_viewer_has_no_words_for_is_not_sent() {
        let mut feed = feed(1);
        assert_eq!(header(&feed, &slot(5)), None, "no mapping");
        push_mapping(&mut feed, start_mapping(5, 0, 100, 0));
        assert!(header(&feed, &slot(5)).is_some());
        assert_eq!(header(&feed, &slot(4)), None, "before the first mapping");
        assert_eq!(header(&feed, &SlotMeta { codec: Codec::Vp8, ..slot(5) }), None, "payload type 0");
        feed.payload_types[Codec::H264 as usize] = 200;
        assert_eq!(header(&feed, &slot(5)), None, "a payload type of eight bits");
        feed.payload_types[Codec::H264 as usize] = 102;
        feed.mappings = 5;
        assert_eq!(header(&feed, &slot(5)), None, "a record that is none");
    }

    #[test]
    fn the_first_index_has_no_rollover_and_later_ones_count_it() {
        let mut rng = Rng::new(2);
        for _ in 0..1_000 {
            let mut feed = feed(1);
            let (first, sequence) = (rng.below(1 << 47), rng.below(1 << 15));
            push_mapping(&mut feed, start_mapping(first, 0, sequence, rng.next_u32()));
            assert_eq!(header(&feed, &slot(first)).unwrap().1, sequence);
            let far = rng.below(1 << 40);
            let (bytes, index) = header(&feed, &slot(first + far)).unwrap();
            assert_eq!(index, sequence + far);
            assert_eq!(u16::from_be_bytes([bytes[2], bytes[3]]), index as u16);
        }
    }

    /// A random walk over a reel with holes, the feed jumping ahead (new mappings) now and then: what goes out has
    /// exactly the source's holes, and a copy of the record says the same of every packet it still reaches.
    #[test]
    fn no_gap_of_our_own_and_the_same_bytes_again() {
        let mut rng = Rng::new(11);
        let mut sent_again = 0;
        for round in 0..200 {
            let mut feed = feed(round);
            let mut cursor = 128 + rng.below(1_000_000);
            let mut next = rng.below(1 << 15);
            let mut sent: Vec<(SlotMeta, [u8; HEADER_BYTES], u64)> = Vec::new();
            for part in 0..1 + rng.below(6) {
                feed.cursor.store(cursor, Relaxed);
                let skipped = if part == 0 { 0 } else { 1 + rng.below(500) };
                cursor += skipped;
                push_mapping(&mut feed, start_mapping(cursor, 0, next, rng.next_u32()));
                for index in cursor - skipped..cursor {
                    assert_eq!(header(&feed, &slot(index)), None, "a skipped packet has no sequence number");
                }
                let mut hole = 0;
                for place in 0..1 + rng.below(300) {
                    // A mapping begins with a packet that is there.
                    if place > 0 && rng.below(10) == 0 {
                        hole += 1;
                    } else {
                        let (bytes, index) = header(&feed, &slot(cursor)).unwrap();
                        assert_eq!(index, next + hole, "the source's holes and no others");
                        (next, hole) = (index + 1, 0);
                        sent.push((slot(cursor), bytes, index));
                    }
                    cursor += 1;
                }
            }
            let copy = FeedRecord {
                mappings: feed.mappings,
                mapping: feed.mapping,
                payload_types: feed.payload_types,
                // What changes with every send must not matter.
                cursor: AtomicU64::new(rng.next_u64()),
                rtp_index: AtomicU64::new(rng.next_u64()),
                packets: feed.packets + 99,
                ..self::feed(feed.ssrc)
            };
            feed.cursor.store(cursor, Relaxed);
            for (slot, bytes, index) in &sent {
                match header(&copy, slot) {
                    Some(again) => {
                        assert_eq!(again, (*bytes, *index));
                        assert_eq!(reel_index(&feed, *index), Some(slot.index), "the way back");
                        sent_again += 1;
                    }
                    None => assert!(slot.index < feed.mapping[0].first_index, "only what no mapping reaches"),
                }
                assert_eq!(header(&feed, slot), header(&copy, slot));
                let below = feed.mapping[0].first_index.wrapping_add(feed.mapping[0].sequence_offset);
                assert!(reel_index(&feed, *index).is_some() || *index < below & SRTP_INDEX_MASK);
            }
            // Never one index for two packets.
            assert!(sent.windows(2).all(|pair| pair[0].2 < pair[1].2));
        }
        assert!(sent_again > 10_000);
    }
}

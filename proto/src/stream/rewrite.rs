//! A feed's headers: a pure function of the feed's record and the reel's slot.
//!
//! For one (key, SSRC, index) every datagram ever sent must be byte-identical, header included, because a nonce
//! is made of it. So nothing that changes from send to send comes in here: no clock, no counter. Holes of the
//! source stay holes, and none are added.

use super::reel::{SlotFlags, SlotMeta};
use crate::id::Kind;
use crate::limits::DESCRIPTOR_BYTES_MAX;
use crate::session::record::{FeedRecord, LEAD_WHOLE, MAPPINGS, Mapping};
use std::sync::atomic::Ordering::Relaxed;

/// SRTP's packet index: 32 bits of rollover counter, 16 of sequence number (RFC 3711 section 3.3.1).
const SRTP_INDEX_MASK: u64 = (1 << 48) - 1;
const VERSION_2: u8 = 2 << 6;
const MARKER: u8 = 0x80;

pub const HEADER_BYTES: usize = 12;
const EXTENDED: u8 = 0x10;
pub(super) const PADDED: u8 = 0x20;
/// Profile and length in words (RFC 3550 section 5.3.1).
const EXTENSION_HEAD: usize = 4;
/// RFC 8285 section 4.2: up to 16 bytes under the ids 1 to 14.
const ONE_BYTE: ([u8; 2], usize, u8) = ([0xBE, 0xDE], 16, 14);
/// RFC 8285 section 4.3.
const TWO_BYTE: [u8; 2] = [0x10, 0x00];
/// A header with the longest descriptor: its id and length in two bytes, padded to a word.
const DESCRIBED_BYTES_MAX: usize = HEADER_BYTES + EXTENSION_HEAD + (2 + DESCRIPTOR_BYTES_MAX).next_multiple_of(4);

/// The RTP header of `slot` as `feed` sends it now, and its 48-bit SRTP index. None if the viewer has no payload
/// type for the codec, or no mapping reaches that packet. Of two mappings the newer one holds.
#[inline]
pub fn header(feed: &FeedRecord, slot: &SlotMeta) -> Option<([u8; HEADER_BYTES], u64)> {
    header_in(feed, mapping_of(feed, slot.index)?, slot)
}

/// The mapping under which the reel's packet `index` is sent.
#[inline]
pub fn mapping_of(feed: &FeedRecord, index: u64) -> Option<&Mapping> {
    mappings(feed).iter().rev().find(|mapping| covers(mapping, index))
}

/// Where the packet with SRTP index `index` stands: the mapping that gave it this number, and its index in the
/// reel. None if it was not sent, or no mapping reaches it any more. `header_in` of both makes the same bytes again.
pub fn sent_as(feed: &FeedRecord, index: u64) -> Option<(Mapping, u64)> {
    let cursor = feed.cursor.load(Relaxed);
    let in_use = mappings(feed);
    in_use.iter().enumerate().rev().find_map(|(at, mapping)| {
        let reel = index.wrapping_sub(mapping.sequence_offset) & SRTP_INDEX_MASK;
        // What stands at the cursor or beyond may still get another number.
        let sent = at + 1 < in_use.len() || reel < cursor;
        (sent && covers(mapping, reel)).then_some((*mapping, reel))
    })
}

#[inline]
fn mappings(feed: &FeedRecord) -> &[Mapping] {
    feed.mapping.get(..usize::from(feed.mappings)).unwrap_or_default()
}

#[inline]
fn covers(mapping: &Mapping, index: u64) -> bool {
    (mapping.first_index..mapping.end_index).contains(&index)
}

/// The header of `slot` under one mapping of the feed; what it goes before is `Slot::padded`.
#[inline]
pub fn header_in(feed: &FeedRecord, mapping: &Mapping, slot: &SlotMeta) -> Option<([u8; HEADER_BYTES], u64)> {
    let payload_type = *feed.payload_types.get(slot.codec as usize)?;
    if payload_type == 0 || payload_type >= MARKER {
        return None;
    }
    let index = slot.index.wrapping_add(mapping.sequence_offset) & SRTP_INDEX_MASK;
    let timestamp = timestamp(mapping, slot.timestamp);
    let marker = match slot.codec.kind() {
        Kind::Video => slot.flags.contains(SlotFlags::FRAME_END),
        // RFC 7587 section 4.1 leaves it to the sender: the start of talk, if it says so.
        Kind::Audio => slot.flags.contains(SlotFlags::MARKER),
    };
    let mut bytes = [0; HEADER_BYTES];
    bytes[0] = if slot.flags.contains(SlotFlags::PADDED) { VERSION_2 | PADDED } else { VERSION_2 };
    bytes[1] = if marker { MARKER | payload_type } else { payload_type };
    bytes[2..4].copy_from_slice(&(index as u16).to_be_bytes());
    bytes[4..8].copy_from_slice(&timestamp.to_be_bytes());
    bytes[8..12].copy_from_slice(&feed.ssrc.to_be_bytes());
    Some((bytes, index))
}

/// A header with its extension block.
pub struct Described {
    bytes: [u8; DESCRIBED_BYTES_MAX],
    length: usize,
}

impl Described {
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// `header` with the packet's dependency descriptor behind it, as `feed` sends it, under the viewer's own id; None if
/// the viewer negotiated none or the packet has none, then `header` is all. A retransmission has the extension of
/// its original (RFC 4588 section 4).
#[inline]
pub fn described(feed: &FeedRecord, header: &[u8; HEADER_BYTES], descriptor: &[u8]) -> Option<Described> {
    if extension_len(feed, descriptor) == 0 { None } else { Some(describe(feed.dependency_descriptor, header, descriptor)) }
}

/// By how much a header is longer with this descriptor.
#[inline]
pub fn extension_len(feed: &FeedRecord, descriptor: &[u8]) -> usize {
    let id = feed.dependency_descriptor;
    if id == 0 || descriptor.is_empty() || descriptor.len() > DESCRIPTOR_BYTES_MAX {
        return 0;
    }
    let head = if is_short(id, descriptor) { 1 } else { 2 };
    EXTENSION_HEAD + (head + descriptor.len()).next_multiple_of(4)
}

fn is_short(id: u8, value: &[u8]) -> bool {
    let (_, length_max, id_max) = ONE_BYTE;
    value.len() <= length_max && id <= id_max
}

/// One element in the shorter of the two forms: a stream mixes them, which viewers must have allowed (RFC 8285 section
/// 4.1.2; control asks them). So it is no longer than the publisher's own, but for an id that needs the longer form.
fn describe(id: u8, header: &[u8; HEADER_BYTES], value: &[u8]) -> Described {
    let mut described = Described { bytes: [0; DESCRIBED_BYTES_MAX], length: HEADER_BYTES };
    let (fixed, block) = described.bytes.split_at_mut(HEADER_BYTES);
    fixed.copy_from_slice(header);
    fixed[0] |= EXTENDED;
    let (short, long) = ([id << 4 | (value.len() as u8).wrapping_sub(1) & 0x0F], [id, value.len() as u8]);
    // The short form's length counts from 1.
    let (profile, head) = if is_short(id, value) { (ONE_BYTE.0, &short[..]) } else { (TWO_BYTE, &long[..]) };
    let length = (head.len() + value.len()).next_multiple_of(4);
    block[..2].copy_from_slice(&profile);
    block[2..4].copy_from_slice(&((length / 4) as u16).to_be_bytes());
    let element = &mut block[EXTENSION_HEAD..EXTENSION_HEAD + length];
    element[..head.len()].copy_from_slice(head);
    element[head.len()..head.len() + value.len()].copy_from_slice(value);
    described.length += EXTENSION_HEAD + length;
    described
}

/// The timestamp that a mapping gives to one of the reel.
#[inline]
pub fn timestamp(mapping: &Mapping, of_reel: u32) -> u32 {
    let left = mapping.meet.wrapping_sub(of_reel) as i32;
    let lead = if left > 0 { (left as u64 * u64::from(mapping.lead.min(LEAD_WHOLE))) >> 16 } else { 0 };
    of_reel.wrapping_add(mapping.timestamp_offset).wrapping_add(lead as u32)
}

/// The mapping that follows another one of the feed's.
pub fn mapping_after<'a>(feed: &'a FeedRecord, mapping: &Mapping) -> Option<&'a Mapping> {
    let is_it = |other: &Mapping| (other.first_index, other.sequence_offset) == (mapping.first_index, mapping.sequence_offset);
    mappings(feed).iter().skip_while(|other| !is_it(other)).nth(1)
}

/// Every packet of the reel has one moment in this mapping: that of the keyframe that went out alone, whose first
/// packet is the mapping's first. No other picture has a place there.
pub fn is_of_one_moment(mapping: &Mapping) -> bool {
    mapping.lead >= LEAD_WHOLE
}

/// The SRTP index of the packet the cursor stands at, if the newest mapping goes on.
pub fn next_sequence(feed: &FeedRecord) -> Option<u64> {
    let newest = mappings(feed).last()?;
    Some(feed.cursor.load(Relaxed).wrapping_add(newest.sequence_offset) & SRTP_INDEX_MASK)
}

/// The newest mapping; all zeros before the first.
pub fn newest(feed: &FeedRecord) -> Mapping {
    mappings(feed).last().copied().unwrap_or_default()
}

/// Nothing that was sent so far can be sent again; the sequence goes on.
pub fn forget(feed: &mut FeedRecord) {
    if feed.mappings > 0 {
        feed.mapping[0] = Mapping { first_index: feed.cursor.load(Relaxed), end_index: u64::MAX, ..newest(feed) };
        feed.mappings = 1;
    }
}

/// A mapping that gives the reel's packet `first_index` the SRTP index `first_sequence`, on the true timeline.
///
/// For a feed's first one that is a random number of 15 bits: the rollover counter starts at 0, and 2^15 packets
/// may go by before it turns, so that a viewer that missed the first ones still guesses it right. For a later
/// one it is the feed's next index: no hole.
pub fn start_mapping(first_index: u64, reel: u32, first_sequence: u64, timestamp_offset: u32) -> Mapping {
    let sequence_offset = first_sequence.wrapping_sub(first_index);
    Mapping { first_index, end_index: u64::MAX, sequence_offset, timestamp_offset, meet: 0, lead: 0, reel }
}

/// Makes `mapping` the newest of the feed; the oldest goes when all places are taken. The one before it ends at
/// the feed's cursor, or before the sequence number the new one begins with: what was skipped, or comes late into a
/// hole at the end, would otherwise claim numbers that are another packet's now.
pub fn push_mapping(feed: &mut FeedRecord, mapping: Mapping) {
    let mut used = usize::from(feed.mappings).min(MAPPINGS);
    let end = feed.cursor.load(Relaxed);
    if let Some(before) = used.checked_sub(1).and_then(|newest| feed.mapping.get_mut(newest)) {
        let first_sequence = mapping.first_index.wrapping_add(mapping.sequence_offset);
        before.end_index = end.min(first_sequence.wrapping_sub(before.sequence_offset) & SRTP_INDEX_MASK);
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

    /// RFC 8285: what is written is read back by the parser of what publishers send, in the shorter of the two forms, and
    /// makes a packet no longer than the same element did in the publisher's own packet.
    #[test]
    fn a_descriptor_stands_behind_the_header_in_the_form_it_fits() {
        use crate::wire::rtp::Rtp;
        use crate::wire::rtp_ext::elements;
        let mut feed = feed(7);
        push_mapping(&mut feed, start_mapping(5, 0, 100, 0));
        let fixed = header(&feed, &slot(5)).unwrap().0;
        assert!(described(&feed, &fixed, &[1, 2, 3]).is_none(), "not negotiated");
        for id in [1, 9, 14, 15, 16, 255] {
            feed.dependency_descriptor = id;
            assert!(described(&feed, &fixed, &[]).is_none(), "the packet has none");
            for length in 1..=DESCRIPTOR_BYTES_MAX {
                let value: Vec<u8> = (0..length).map(|at| at as u8 | 1).collect();
                let found = described(&feed, &fixed, &value).unwrap();
                let mut packet = found.bytes().to_vec();
                assert_eq!(packet.len(), HEADER_BYTES + extension_len(&feed, &value));
                packet.extend(b"payload");
                let rtp = Rtp::parse(&packet).unwrap();
                let (profile, block) = rtp.extension.unwrap();
                assert_eq!(rtp.payload, b"payload");
                assert_eq!(elements(profile, block).collect::<Vec<_>>(), [(id, &value[..])]);
                let is_short = length <= 16 && id <= 14;
                assert_eq!(profile, if is_short { 0xBEDE } else { 0x1000 });
                assert_eq!(packet[1..HEADER_BYTES], fixed[1..], "the fixed part, but for the bit that says so");
                assert_eq!(packet[0], fixed[0] | 0x10);
                let theirs = 4 + (if length <= 16 { 1 } else { 2 } + length).next_multiple_of(4);
                assert!(extension_len(&feed, &value) <= theirs + if is_short || length > 16 { 0 } else { 4 });
            }
            assert!(described(&feed, &fixed, &[1; DESCRIPTOR_BYTES_MAX + 1]).is_none(), "no form holds it");
        }
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

    #[test]
    fn a_hole_at_the_end_of_a_mapping_has_no_number_of_the_next_one() {
        let mut feed = feed(1);
        push_mapping(&mut feed, start_mapping(100, 0, 5_000, 0));
        // 110 was the last one sent; 111 and 112 did not come, then the feed jumped.
        feed.cursor.store(113, Relaxed);
        push_mapping(&mut feed, start_mapping(400, 0, 5_011, 0));
        assert_eq!(header(&feed, &slot(110)).unwrap().1, 5_010);
        assert_eq!(header(&feed, &slot(111)), None, "it came after all: its number is packet 400's");
        assert_eq!(header(&feed, &slot(400)).unwrap().1, 5_011);
        feed.cursor.store(401, Relaxed);
        let back = |index| sent_as(&feed, index).map(|(_, reel)| reel);
        assert_eq!((back(5_010), back(5_011), back(4_999)), (Some(110), Some(400), None));
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
                        let (mapping, back) = sent_as(&feed, *index).unwrap();
                        assert_eq!((back, header_in(&copy, &mapping, slot)), (slot.index, Some(again)), "the way back");
                        sent_again += 1;
                    }
                    None => assert!(slot.index < feed.mapping[0].first_index, "only what no mapping reaches"),
                }
                assert_eq!(header(&feed, slot), header(&copy, slot));
                let below = feed.mapping[0].first_index.wrapping_add(feed.mapping[0].sequence_offset);
                assert!(sent_as(&feed, *index).is_some() || *index < below & SRTP_INDEX_MASK);
            }
            // Never one index for two packets.
            assert!(sent.windows(2).all(|pair| pair[0].2 < pair[1].2));
        }
        assert!(sent_again > 10_000);
    }

    /// A feed goes back to a picture again and again, its timeline bent each time: every packet it sends has a number
    /// of its own, in order, and whatever number is asked for, it comes as the very bytes that had it.
    #[test]
    fn a_packet_sent_twice_has_two_numbers_and_each_comes_back_as_it_was() {
        let mut rng = Rng::new(12);
        let (mut came_back, mut gone) = (0, 0);
        for round in 0..300 {
            let mut feed = feed(round);
            let mut cursor = 128 + rng.below(100_000);
            let mut next = rng.below(1 << 15);
            let offset = rng.next_u32();
            let mut sent: Vec<(SlotMeta, [u8; HEADER_BYTES], u64)> = Vec::new();
            for part in 0..2 + rng.below(7) {
                if part > 0 {
                    assert_eq!(next_sequence(&feed), Some(next));
                    // Back into what was sent, or on beyond it.
                    let back = rng.below(200) as i64 - 40;
                    cursor = (cursor as i64 - back).max(100) as u64;
                }
                let bent = Mapping {
                    meet: (cursor + rng.below(400)) as u32 * 7,
                    lead: rng.below(u64::from(LEAD_WHOLE) + 1) as u32,
                    ..start_mapping(cursor, 0, next, offset)
                };
                push_mapping(&mut feed, bent);
                feed.cursor.store(cursor, Relaxed);
                for _ in 0..rng.below(200) {
                    let (bytes, index) = header(&feed, &slot(cursor)).unwrap();
                    assert_eq!(index, next);
                    assert_eq!(sent_as(&feed, index), None, "not sent yet, it may become another packet's");
                    sent.push((slot(cursor), bytes, index));
                    (cursor, next) = (cursor + 1, next + 1);
                    feed.cursor.store(cursor, Relaxed);
                }
            }
            assert!(sent.windows(2).all(|pair| pair[0].2 < pair[1].2), "one number, one packet");
            for (slot, bytes, index) in &sent {
                match sent_as(&feed, *index) {
                    Some((mapping, reel)) => {
                        assert_eq!(reel, slot.index);
                        assert_eq!(header_in(&feed, &mapping, slot), Some((*bytes, *index)));
                        came_back += 1;
                    }
                    None => gone += 1,
                }
            }
            forget(&mut feed);
            assert!(sent.iter().all(|(_, _, index)| sent_as(&feed, *index).is_none()));
            assert_eq!(next_sequence(&feed), Some(next));
        }
        assert!(came_back > 50_000 && gone > 1_000, "{came_back} {gone}");
    }
}

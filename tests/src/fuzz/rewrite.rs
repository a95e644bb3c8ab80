//! Rewrite against a model: what a feed's mappings say of any packet, that no SRTP index ever means two packets,
//! and that a packet that is sent again is the same.

use super::choices::Choices;
use spillway_proto::id::{Codec, Kind};
use spillway_proto::session::record::{FeedRecord, MAPPINGS, Mapping};
use spillway_proto::stream::reel::{SlotFlags, SlotMeta};
use spillway_proto::stream::rewrite::{header, push_mapping, start_mapping};
use spillway_proto::time::Time;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const INDEX_MASK: u64 = (1 << 48) - 1;

fn feed(ssrc: u32, payload_types: [u8; Codec::COUNT]) -> FeedRecord {
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

/// A run of packets: from `first` up to `end`, whose indices begin at `sequence`.
#[derive(Clone, Copy)]
struct Run {
    first: u64,
    end: u64,
    sequence: u64,
    timestamp_offset: u32,
}

pub fn rewrite_model(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let ssrc = choices.u32();
    let mut payload_types = [0; Codec::COUNT];
    payload_types[Codec::H264 as usize] = choices.u8();
    payload_types[Codec::Opus as usize] = choices.u8();
    let mut feed = feed(ssrc, payload_types);
    // The model: all runs there ever were; the last MAPPINGS of them are remembered.
    let mut runs: Vec<Run> = Vec::new();
    let mut next = u64::from(choices.u16() >> 1);
    // The 48-bit index of every packet ever sent, and what it was.
    let mut sent: BTreeMap<u64, (u64, [u8; 12])> = BTreeMap::new();
    let mut cursor = choices.below(1 << 40);
    while !choices.is_over() && runs.len() < 64 {
        match choices.u8() % 4 {
            // Goes on somewhere else: what is skipped gets no sequence number, what follows no hole.
            0 => {
                feed.cursor.store(cursor, Relaxed);
                if let Some(last) = runs.last_mut() {
                    last.end = cursor;
                }
                cursor += choices.below(500);
                let timestamp_offset = choices.u32();
                push_mapping(&mut feed, start_mapping(cursor, 0, next, timestamp_offset));
                runs.push(Run { first: cursor, end: u64::MAX, sequence: next, timestamp_offset });
            }
            // Live: the next packets, with holes.
            1 | 2 => {
                for _ in 0..choices.below(40) {
                    let run_is_new = runs.last().is_some_and(|run| run.first == cursor);
                    if !run_is_new && choices.u8() % 8 == 0 {
                        cursor += 1 + choices.below(20);
                    }
                    let slot = slot(&mut choices, cursor);
                    check(&feed, &runs, &slot);
                    if let Some((bytes, index)) = header(&feed, &slot) {
                        assert!(index >= next, "an index behind what was sent");
                        next = index + 1;
                        let before = sent.insert(index, (cursor, bytes));
                        assert!(before.is_none(), "one index for two packets");
                    }
                    cursor += 1;
                }
            }
            // Any packet near: sent before, skipped, or never there.
            _ => {
                let index = (cursor + choices.below(64)).saturating_sub(choices.below(1_024));
                let slot = slot(&mut choices, index);
                check(&feed, &runs, &slot);
                if let Some((bytes, index)) = header(&feed, &slot)
                    && let Some((of, first)) = sent.get(&index)
                {
                    assert_eq!(*of, slot.index, "an index that was another packet's");
                    // What the slot says of its packet is fixed in a reel; here only the fixed part is.
                    assert_eq!((&bytes[2..4], &bytes[8..12]), (&first[2..4], &first[8..12]));
                }
            }
        }
    }
}

fn slot(choices: &mut Choices<'_>, index: u64) -> SlotMeta {
    let kind = choices.u8();
    let flags = SlotFlags::NONE.with_if(kind & 1 != 0, SlotFlags::FRAME_END).with_if(kind & 2 != 0, SlotFlags::MARKER);
    let codec = match kind >> 2 & 3 {
        0 | 1 => Codec::H264,
        2 => Codec::Opus,
        _ => Codec::Vp8,
    };
    SlotMeta { index, timestamp: (index as u32).wrapping_mul(3_000), arrival: Time(index), flags, codec, layer: 0 }
}

/// What `header` must say, computed without it.
fn check(feed: &FeedRecord, runs: &[Run], slot: &SlotMeta) {
    let remembered = &runs[runs.len().saturating_sub(MAPPINGS)..];
    let run = remembered.iter().find(|run| run.first <= slot.index && slot.index < run.end);
    let payload_type = feed.payload_types[slot.codec as usize];
    let found = header(feed, slot);
    assert_eq!(found, header(feed, slot));
    let (Some(run), 1..=127) = (run, payload_type) else {
        assert_eq!(found, None);
        return;
    };
    let (bytes, index) = found.expect("a packet of a run has a header");
    assert_eq!(index, (run.sequence + (slot.index - run.first)) & INDEX_MASK);
    let marker = slot.flags.contains(match slot.codec.kind() {
        Kind::Video => SlotFlags::FRAME_END,
        Kind::Audio => SlotFlags::MARKER,
    });
    let timestamp = slot.timestamp.wrapping_add(run.timestamp_offset);
    assert_eq!((bytes[0], bytes[1]), (0x80, u8::from(marker) << 7 | payload_type));
    assert_eq!(bytes[2..4], (index as u16).to_be_bytes());
    assert_eq!(bytes[4..8], timestamp.to_be_bytes());
    assert_eq!(bytes[8..12], feed.ssrc.to_be_bytes());
}

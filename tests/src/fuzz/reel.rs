//! Reels: operations in any order against a model, a map of packets. Pushes in order, late, twice and far ahead,
//! keyframes, trims, sender reports, takeovers of the publisher, deaths of the writer, another reel at the same place, in
//! a pool that may run dry and whose slabs rest before they come back.

use super::choices::Choices;
use spillway_engine::shm::Mapping;
use spillway_proto::id::Codec;
use spillway_proto::limits::{DATAGRAM_SIZE_MAX, NACK_WINDOW, REEL_BYTES_MAX, REEL_SLOTS};
use spillway_proto::stream::feedback::SrMapping;
use spillway_proto::stream::reel::{ReelError, ReelReader, ReelWriter, STREAM_FILE_BYTES, SlotFlags, SlotMeta, Slabs};
use spillway_proto::time::{NtpTime, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

const INDEX_MASK: u64 = (1 << 48) - 1;
const PLACE: usize = 1;

/// A pool that counts, whose slabs come back when the input says that everybody has ticked.
struct Pool {
    free: VecDeque<u32>,
    resting: Vec<u32>,
    out: BTreeSet<u32>,
}

impl Slabs for Pool {
    fn take(&mut self) -> Option<u32> {
        let slab = self.free.pop_front()?;
        assert!(self.out.insert(slab), "a slab taken twice");
        Some(slab)
    }
    fn give_back(&mut self, slab: u32) {
        assert!(self.out.remove(&slab), "a slab given back that was not taken");
        self.resting.push(slab);
    }
}

fn create(file: &Mapping) -> ReelWriter {
    // JUSTIFICATION: a reel stands in mapped memory.
    // SAFETY: the mapping is longer than a stream's file and outlives the reel; one writer at a time; no slot is
    // kept over a tick.
    unsafe { ReelWriter::create(file.start().as_ptr(), file.length(), PLACE, Codec::H264) }.expect("it fits")
}

fn resume(file: &Mapping) -> ReelWriter {
    // JUSTIFICATION: as in `create`.
    // SAFETY: as in `create`; the writer before was dropped.
    unsafe { ReelWriter::resume(file.start().as_ptr(), file.length(), PLACE) }.expect("a reel stands there")
}

fn attach(file: &Mapping) -> ReelReader {
    // JUSTIFICATION: as in `create`.
    // SAFETY: as in `create`.
    unsafe { ReelReader::attach(file.start().as_ptr(), file.length(), PLACE) }.expect("a reel stands there")
}

/// What the reel must hold.
#[derive(Default)]
struct Model {
    packets: BTreeMap<u64, Packet>,
    head: u64,
    keyframe: Option<u64>,
    sr: Option<SrMapping>,
    epoch: u32,
}

struct Packet {
    meta: SlotMeta,
    payload: Vec<u8>,
}

pub fn reel_operations(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let file = Mapping::private(STREAM_FILE_BYTES).expect("21 MB of address space");
    let slabs = 1 + choices.below(6) as u32;
    let mut pool = Pool { free: (0..slabs).collect(), resting: Vec::new(), out: BTreeSet::new() };
    let mut writer = create(&file);
    let mut reader = attach(&file);
    let mut model = Model { head: 0, ..Model::default() };
    let mut now = Time::from_millis(5_000);
    // An index near the end of what 48 bits hold, or small.
    let first = if choices.u8() % 8 == 0 { INDEX_MASK - choices.below(300) } else { choices.below(1 << 20) };
    let mut steps = 0;
    while !choices.is_over() && steps < 4_000 {
        steps += 1;
        match choices.u8() % 16 {
            0..=5 => {
                for _ in 0..1 + choices.below(24) {
                    let next = model.head.max(first);
                    push(&mut choices, &mut writer, &mut pool, &mut model, next, now);
                    now = now + Duration::from_micros(choices.below(65_536));
                }
            }
            6 => {
                let index = model.head.saturating_sub(choices.below(64));
                push(&mut choices, &mut writer, &mut pool, &mut model, index, now);
            }
            7 => {
                let index = model.head.saturating_add(choices.below(9_000));
                push(&mut choices, &mut writer, &mut pool, &mut model, index, now);
            }
            8 => {
                let index = choices.u64();
                // Anywhere; beyond 48 bits mostly. A jump within them is what 7 does.
                if index >= INDEX_MASK {
                    push(&mut choices, &mut writer, &mut pool, &mut model, index, now);
                }
            }
            9 => {
                let index = model.head.saturating_sub(choices.below(16));
                let found = model.packets.get_mut(&index);
                assert_eq!(writer.set_keyframe(index), found.is_some());
                if let Some(packet) = found {
                    packet.meta.flags = packet.meta.flags.with(SlotFlags::KEYFRAME);
                    model.keyframe = Some(index);
                }
            }
            10 => {
                trim(&mut choices, &mut writer, &mut pool, &mut model, now);
            }
            11 => {
                let resting = std::mem::take(&mut pool.resting);
                pool.free.extend(resting);
            }
            12 => {
                let sr = SrMapping { ntp: NtpTime(choices.u64()), timestamp: choices.u32(), arrival: now };
                writer.set_sr(&sr);
                model.sr = Some(sr);
            }
            13 => {
                model.epoch = choices.u32();
                model.sr = None;
                writer.set_publisher_epoch(model.epoch);
            }
            14 => {
                let before = (writer.bytes(), writer.head(), writer.tail());
                drop(writer);
                writer = resume(&file);
                assert_eq!((writer.bytes(), writer.head(), writer.tail()), before);
                // A slab that holds no packet is not found again: its engine counts the pool anew.
                let held: BTreeSet<u32> = writer.slabs_held().collect();
                for slab in pool.out.clone().difference(&held) {
                    pool.give_back(*slab);
                }
                compare(&writer, &reader, &model, &pool);
            }
            _ => {
                if choices.u8() % 8 == 0 {
                    writer.close(&mut pool);
                    assert!(pool.out.is_empty(), "a slab leaked");
                    assert!(reader.keyframe().is_none());
                    assert!(model.packets.keys().all(|index| reader.slot(*index).is_none()));
                    writer = create(&file);
                    assert!(!reader.is_current());
                    reader = attach(&file);
                    model = Model::default();
                } else {
                    now = now + Duration::from_millis(choices.below(2_048));
                }
                compare(&writer, &reader, &model, &pool);
            }
        }
    }
    compare(&writer, &reader, &model, &pool);
    writer.close(&mut pool);
    assert!(pool.out.is_empty(), "a slab leaked");
}

fn push(
    choices: &mut Choices<'_>,
    writer: &mut ReelWriter,
    pool: &mut Pool,
    model: &mut Model,
    index: u64,
    now: Time,
) {
    let shape = choices.u8();
    let length = match shape % 8 {
        0 => usize::from(choices.u8()),
        1 => DATAGRAM_SIZE_MAX + usize::from(shape >> 7),
        2 => 0,
        _ => 1_150 + usize::from(shape >> 3),
    };
    let meta = SlotMeta {
        index,
        timestamp: (index as u32).wrapping_mul(3_000),
        arrival: now,
        flags: SlotFlags::NONE
            .with_if(shape & 8 != 0, SlotFlags::FRAME_END)
            .with_if(shape & 16 != 0, SlotFlags::PARAMETER_SETS),
        codec: if shape & 32 != 0 { Codec::Vp8 } else { Codec::H264 },
        layer: shape >> 6,
    };
    // Every packet has its own bytes.
    let mark = (index ^ now.0).to_le_bytes();
    let payload: Vec<u8> = mark.into_iter().cycle().take(length).collect();
    let (tail, held) = (writer.tail(), model.packets.contains_key(&index));
    let result = writer.push(&meta, &payload, pool);
    // What it dropped lies below its tail, and what lies above stays.
    model.packets = model.packets.split_off(&writer.tail());
    match result {
        Ok(()) => {
            assert!(!held && index >= tail && index < INDEX_MASK);
            model.head = model.head.max(index + 1);
            model.packets.insert(index, Packet { meta, payload });
        }
        Err(ReelError::Duplicate { .. }) => assert!(held),
        Err(ReelError::TooLate { .. }) => assert!(index < writer.tail()),
        Err(ReelError::TooLarge { .. }) => assert!(length > DATAGRAM_SIZE_MAX),
        Err(ReelError::IndexRange { .. }) => assert!(index >= INDEX_MASK),
        Err(ReelError::PoolDry) => assert!(pool.free.is_empty()),
    }
}

/// Gone is what need not be kept, and nothing else.
fn trim(choices: &mut Choices<'_>, writer: &mut ReelWriter, pool: &mut Pool, model: &mut Model, now: Time) {
    let before = writer.tail();
    // Sound: pictures of up to 4 s ago stand beside it.
    let beside = (choices.u8() % 4 == 0).then(|| now - Duration::from_millis(choices.below(4_096)));
    let oldest = beside.unwrap_or(now).min(now - NACK_WINDOW);
    writer.trim(now, beside, pool);
    let entry = model.keyframe.filter(|index| *index >= before).unwrap_or(u64::MAX);
    let kept = model.packets.split_off(&writer.tail());
    for (index, packet) in &model.packets {
        assert!(packet.meta.arrival < oldest, "{index} was younger than the window, or than the pictures beside it");
        assert!(*index < entry, "{index} is of the newest picture's run");
    }
    model.packets = kept;
    if let Some((index, packet)) = model.packets.first_key_value() {
        let of_the_run = model.keyframe.is_some_and(|entry| entry >= writer.tail() && *index >= entry);
        assert!(packet.meta.arrival >= oldest || of_the_run, "{index} need not be kept");
    }
}

fn compare(writer: &ReelWriter, reader: &ReelReader, model: &Model, pool: &Pool) {
    assert!(reader.is_current());
    assert_eq!((reader.head(), reader.tail()), (writer.head(), writer.tail()));
    assert_eq!(reader.head(), model.head);
    assert_eq!(writer.bytes(), model.packets.values().map(|packet| packet.payload.len()).sum::<usize>());
    assert_eq!(writer.slabs_held().collect::<BTreeSet<u32>>(), pool.out, "taken less given back = held");
    assert!(model.packets.len() <= REEL_SLOTS && writer.bytes() <= REEL_BYTES_MAX);
    assert!((reader.tail()..=reader.head().max(reader.tail())).contains(&reader.recent()));
    for (index, packet) in &model.packets {
        let slot = reader.slot(*index).unwrap_or_else(|| panic!("{index} is missing"));
        assert_eq!((slot.meta, slot.payload), (packet.meta, &packet.payload[..]));
        assert!(!reader.missing(*index));
    }
    // What is not in the model is not in the reel: at both ends, and up to a ring's length below the head.
    let low = reader.head().saturating_sub(300).max(reader.tail());
    for index in (reader.tail().saturating_sub(8)..reader.tail() + 8).chain(low..reader.head() + 8) {
        let is_there = model.packets.contains_key(&index);
        assert_eq!(reader.slot(index).is_some(), is_there, "{index}");
        assert_eq!(reader.missing(index), !is_there && (reader.tail()..reader.head()).contains(&index));
    }
    assert_eq!(reader.keyframe(), model.keyframe.filter(|index| model.packets.contains_key(index)));
    assert_eq!((reader.sr(), reader.publisher_epoch()), (model.sr, model.epoch));
}

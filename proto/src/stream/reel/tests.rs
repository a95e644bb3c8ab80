//! The reel against an oracle (a map of packets), under threads, and on hostile files.

use super::super::reel_memory::tests::TestFile;
use super::*;
use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

/// A pool that counts, with a quarantine that ends when the test says so.
struct TestPool {
    free: VecDeque<u32>,
    quarantine: Vec<u32>,
    out: BTreeSet<u32>,
}

impl TestPool {
    fn new(slabs: u32) -> TestPool {
        TestPool { free: (0..slabs).collect(), quarantine: Vec::new(), out: BTreeSet::new() }
    }
    fn tick(&mut self) {
        self.free.extend(self.quarantine.drain(..));
    }
}

impl Slabs for TestPool {
    fn take(&mut self) -> Option<u32> {
        let slab = self.free.pop_front()?;
        assert!(self.out.insert(slab), "a slab taken twice");
        Some(slab)
    }
    fn give_back(&mut self, slab: u32) {
        assert!(self.out.remove(&slab), "a slab given back that was not taken");
        self.quarantine.push(slab);
    }
}

fn create(file: &TestFile, place: usize) -> ReelWriter {
    // JUSTIFICATION: the constructor under test.
    // SAFETY: tests keep the file beyond the writer, one writer per place, and never hold a slot over a tick.
    unsafe { ReelWriter::create(file.base(), STREAM_FILE_BYTES, place, Codec::H264) }.unwrap()
}
fn resume(file: &TestFile, place: usize) -> Result<ReelWriter, AttachError> {
    // JUSTIFICATION: the constructor under test.
    // SAFETY: as in `create`; the test forgot the former writer.
    unsafe { ReelWriter::resume(file.base(), STREAM_FILE_BYTES, place) }
}
fn attach(file: &TestFile, place: usize) -> Result<ReelReader, AttachError> {
    // JUSTIFICATION: the constructor under test.
    // SAFETY: as in `create`.
    unsafe { ReelReader::attach(file.base(), STREAM_FILE_BYTES, place) }
}

fn meta(index: u64, arrival: Time) -> SlotMeta {
    SlotMeta {
        index,
        timestamp: (index as u32).wrapping_mul(3_000),
        arrival,
        flags: SlotFlags::NONE
            .with_if(index.is_multiple_of(3), SlotFlags::FRAME_END)
            .with_if(index % 7 == 2, SlotFlags::PADDED),
        codec: Codec::H264,
        layer: (index % 3) as u8,
    }
}

/// A payload that only this index of this seed has.
fn payload(index: u64, seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Rng::new(index ^ (seed << 50)).fill(&mut bytes);
    bytes
}

/// Every fifth has one.
fn descriptor(index: u64, seed: u64) -> Vec<u8> {
    payload(index, seed + 7, if index.is_multiple_of(5) { (index % 71) as usize } else { 0 })
}

/// What a reel must hold: by index, arrival, payload, keyframe mark.
#[derive(Default)]
struct Oracle {
    packets: BTreeMap<u64, (Time, Vec<u8>, bool)>,
    head: u64,
    keyframe: Option<u64>,
}

impl Oracle {
    fn bytes(&self) -> usize {
        self.packets.values().map(|packet| packet.1.len()).sum()
    }
}

fn compare(writer: &ReelWriter, reader: &ReelReader, oracle: &Oracle, pool: &TestPool, seed: u64) {
    assert_eq!((reader.head(), reader.tail()), (writer.head(), writer.tail()));
    assert_eq!(reader.head(), oracle.head);
    assert_eq!(writer.bytes(), oracle.bytes());
    assert_eq!(writer.slabs_held().collect::<BTreeSet<_>>(), pool.out, "taken less given back = held");
    for index in reader.tail().saturating_sub(3)..reader.head() + 3 {
        match (reader.slot(index), oracle.packets.get(&index)) {
            (None, None) => {
                assert_eq!(reader.missing(index), (reader.tail()..reader.head()).contains(&index));
            }
            (Some(slot), Some((arrival, bytes, keyframe))) => {
                let mut expected = meta(index, *arrival);
                expected.flags = expected.flags.with_if(*keyframe, SlotFlags::KEYFRAME);
                assert_eq!(slot.meta, expected);
                assert_eq!(slot.payload, bytes);
                let padding: &[u8] = if slot.meta.flags.contains(SlotFlags::PADDED) { &[1] } else { &[] };
                assert_eq!(slot.padded, [bytes, padding].concat());
                assert_eq!(slot.descriptor, descriptor(index, seed));
                assert!(!reader.missing(index));
            }
            (found, expected) => panic!("{index}: reel {}, oracle {}", found.is_some(), expected.is_some()),
        }
    }
    assert_eq!(reader.keyframe(), oracle.keyframe.filter(|index| oracle.packets.contains_key(index)));
}

/// Random pushes in order, late, twice, far ahead, keyframes, trims, ticks and deaths of the writer, in a pool of `slabs`.
/// How often the ring wrapped, and how many packets were refused.
fn random_operations(seed: u64, slabs: u32, steps: u64, step_ms: u64) -> (u64, u64) {
    let file = &TestFile::new();
    let mut rng = Rng::new(seed);
    let mut pool = TestPool::new(slabs);
    let mut writer = create(file, 2);
    let reader = attach(file, 2).unwrap();
    let mut oracle = Oracle::default();
    let mut now = Time::from_millis(5_000);
    for step in 0..steps {
        now = now + Duration::from_micros(rng.below(step_ms * 2_000));
        let index = match rng.below(40) {
            0 => oracle.head + rng.below(200),
            1 => oracle.head.saturating_sub(rng.below(5_000)),
            2 | 3 => oracle.head.saturating_sub(rng.below(40)),
            4 if rng.below(60) == 0 => oracle.head + rng.below(20_000),
            _ => oracle.head,
        };
        let length = if rng.below(10) == 0 { rng.below(2_048 - 70) as usize } else { 1_150 };
        let bytes = payload(index, seed, length);
        let (tail, held) = (writer.tail(), oracle.packets.contains_key(&index));
        let result = writer.push_described(&meta(index, now), &bytes, &descriptor(index, seed), &mut pool);
        // Whatever it dropped lies below its tail, and what lies above stays.
        let still = oracle.packets.split_off(&writer.tail());
        oracle.packets = still;
        match result {
            Ok(()) => {
                assert!(!held && index >= tail);
                oracle.packets.insert(index, (now, bytes, false));
                oracle.head = oracle.head.max(index + 1);
            }
            Err(ReelError::Duplicate { .. }) => assert!(held),
            Err(ReelError::TooLate { .. }) => assert!(index < writer.tail()),
            Err(ReelError::PoolDry) => assert!(pool.free.is_empty()),
            Err(other) => panic!("{other}"),
        }
        if rng.below(300) == 0 {
            let entry = oracle.head.saturating_sub(1 + rng.below(3));
            let present = oracle.packets.get_mut(&entry);
            assert_eq!(writer.set_keyframe(entry), present.is_some());
            if let Some(packet) = present {
                packet.2 = true;
                oracle.keyframe = Some(entry);
            }
        }
        if rng.below(20) == 0 {
            let before = writer.tail();
            let beside = (rng.below(4) == 0).then(|| now - Duration::from_millis(rng.below(3_000)));
            writer.trim(now, beside, &mut pool);
            let oldest = beside.unwrap_or(now).min(now - NACK_WINDOW);
            // Never what is younger than the window, nor what a joining viewer needs while there is room.
            let entry = oracle.keyframe.filter(|index| *index >= before).unwrap_or(u64::MAX);
            for (index, (arrival, _, _)) in oracle.packets.range(..writer.tail()) {
                assert!(*arrival < oldest, "{index} was younger than the window, or than the pictures beside it");
                assert!(*index < entry, "{index} is of the newest picture's run");
            }
            let kept = oracle.packets.split_off(&writer.tail());
            oracle.packets = kept;
            // And all that need not be kept is gone: the first packet left is needed.
            if let Some((index, (arrival, _, _))) = oracle.packets.first_key_value() {
                let run = oracle.keyframe.is_some_and(|entry| entry >= writer.tail() && *index >= entry);
                assert!(*arrival >= oldest || run);
            }
        }
        if rng.below(8) == 0 {
            pool.tick();
        }
        if step % 97 == 0 {
            compare(&writer, &reader, &oracle, &pool, seed);
        }
        if rng.below(3_000) == 0 {
            // The process dies; another one goes on with what stands in the file.
            let (bytes, head, tail) = (writer.bytes(), writer.head(), writer.tail());
            drop(writer);
            writer = resume(file, 2).unwrap();
            assert_eq!((writer.bytes(), writer.head(), writer.tail()), (bytes, head, tail));
            let held: BTreeSet<u32> = writer.slabs_held().collect();
            for slab in pool.out.clone().difference(&held) {
                pool.give_back(*slab);
            }
            compare(&writer, &reader, &oracle, &pool, seed);
        }
    }
    compare(&writer, &reader, &oracle, &pool, seed);
    assert!(oracle.packets.len() <= REEL_SLOTS && oracle.bytes() <= REEL_BYTES_MAX);
    let refused = writer.refused();
    writer.close(&mut pool);
    assert!(pool.out.is_empty(), "a slab leaked");
    assert!(
        reader.keyframe().is_none() && (0..oracle.head).rev().take(5_000).all(|index| reader.slot(index).is_none())
    );
    (oracle.head / SLOTS, refused)
}

#[test]
fn the_reel_is_what_the_oracle_says() {
    for seed in 0..6 {
        // 4 ms between packets: the window is 250 of them, a ring's length 16 s.
        let (wraps, _) = random_operations(seed, SLABS_PER_STREAM_MAX as u32, 30_000, 4);
        assert!(wraps > 5, "only {wraps} wraps");
    }
}

#[test]
fn a_ring_that_is_too_short_for_the_window_still_holds() {
    // 0.1 ms between packets: the ring ends before the window does.
    for seed in 20..22 {
        random_operations(seed, SLABS_PER_STREAM_MAX as u32, 30_000, 1);
    }
}

#[test]
fn a_dry_pool_drops_what_is_old_then_refuses() {
    let mut refused = 0;
    for seed in 40..46 {
        refused += random_operations(seed, 5, 12_000, 4).1;
    }
    assert!(refused > 100, "the pool was never dry");
}

#[test]
fn a_dry_pool_gives_up_the_old_run_but_not_the_window() {
    let file = TestFile::new();
    let mut pool = TestPool::new(3);
    let mut writer = create(&file, 0);
    let reader = attach(&file, 0).unwrap();
    let mut now = Time::from_millis(10_000);
    // 20 packets a second of 1,600 bytes: 3 slabs hold 120 packets, 6 seconds.
    for index in 0..120 {
        writer.push(&meta(index, now), &payload(index, 0, 1_600), &mut pool).unwrap();
        if index == 0 {
            assert!(writer.set_keyframe(0));
        }
        now = now + Duration::from_millis(50);
        pool.tick();
    }
    assert_eq!((reader.keyframe(), pool.free.len()), (Some(0), 0));
    // The slabs that come back are in quarantine: this one is refused, the next one is not.
    assert_eq!(writer.push(&meta(120, now), &[1; 1_600], &mut pool), Err(ReelError::PoolDry));
    assert_eq!((reader.keyframe(), reader.head(), writer.refused()), (None, 120, 1));
    assert_eq!(reader.tail(), 100, "the window stays: 20 packets");
    pool.tick();
    writer.push(&meta(121, now), &[1], &mut pool).unwrap();
    assert!(reader.missing(120) && reader.slot(121).is_some());
}

/// A pool whose slabs come back at once: no reader, no quarantine.
struct Immediate(Vec<u32>);
impl Slabs for Immediate {
    fn take(&mut self) -> Option<u32> {
        self.0.pop()
    }
    fn give_back(&mut self, slab: u32) {
        self.0.push(slab);
    }
}

#[test]
fn a_late_packet_below_what_went_for_its_slab_is_too_late() {
    let file = TestFile::new();
    let mut pool = Immediate(vec![0, 1]);
    let mut writer = create(&file, 0);
    let mut now = Time::from_millis(10_000);
    // 40 of 1,600 bytes fill a slab; number 10 is missing.
    for index in (0..81).filter(|index| *index != 10) {
        writer.push(&meta(index, now), &[3; 1_600], &mut pool).unwrap();
        now = now + Duration::from_millis(50);
    }
    assert_eq!(writer.push(&meta(10, now), &[3; 1_600], &mut pool), Err(ReelError::TooLate { index: 10 }));
    assert!(writer.tail() > 10);
    writer.close(&mut pool);
    assert_eq!(pool.0.len(), 2);
}

#[test]
fn a_slab_that_is_full_and_empty_again_goes_back() {
    let file = TestFile::new();
    let mut pool = TestPool::new(9);
    let mut writer = create(&file, 0);
    for index in 0..200 {
        let now = Time::from_millis(10_000 + index * 2_000);
        writer.trim(now, None, &mut pool);
        writer.push(&meta(index, now), &[3; 1_600], &mut pool).unwrap();
        assert_eq!(pool.out.len(), 1, "the slab being written, and no other");
        pool.tick();
    }
}

#[test]
fn without_a_keyframe_only_the_window_is_kept() {
    let file = TestFile::new();
    let mut pool = TestPool::new(50);
    let mut writer = create(&file, 0);
    let mut now = Time::from_millis(10_000);
    for index in 0..10_000 {
        writer.push(&meta(index, now), &payload(index, 0, 80), &mut pool).unwrap();
        writer.trim(now, None, &mut pool);
        pool.tick();
        assert!(writer.head() - writer.tail() <= 51, "audio keeps a second: 50 packets");
        now = now + Duration::from_millis(20);
    }
    assert!(pool.out.len() <= 2);
}

#[test]
fn sound_is_kept_as_long_as_the_pictures_beside_it_and_read_on_from_the_window() {
    let file = TestFile::new();
    let mut pool = TestPool::new(50);
    let mut writer = create(&file, 0);
    let reader = attach(&file, 0).unwrap();
    let at = |index: u64| Time::from_millis(10_000 + index * 20);
    // Another keyframe every 5 s.
    for index in 0..2_000 {
        let picture = index / 250 * 250;
        writer.push(&meta(index, at(index)), &payload(index, 0, 80), &mut pool).unwrap();
        writer.trim(at(index), Some(at(picture)), &mut pool);
        pool.tick();
        // A second is 50 packets.
        let window = index.saturating_sub(50);
        assert_eq!((writer.tail(), reader.recent()), (picture.min(window), window), "at {index}");
    }
    assert!(pool.out.len() <= 3);
    // Whoever goes on with it knows where the window is, and so does a reader when the ring's end has passed it.
    drop(writer);
    let mut writer = resume(&file, 0).unwrap();
    assert_eq!((writer.tail(), reader.recent(), writer.recent), (1_750, 1_949, 1_949));
    writer.push(&meta(1_800 + SLOTS, at(2_000)), &[1], &mut pool).unwrap();
    assert_eq!((writer.tail(), reader.recent()), (1_801, 1_949));
    writer.push(&meta(2_000 + SLOTS, at(2_000)), &[1], &mut pool).unwrap();
    assert_eq!((writer.tail(), reader.recent()), (2_001, 2_001));
    // The pictures are gone: so is their sound.
    writer.trim(at(3_000), None, &mut pool);
    assert_eq!((writer.tail(), reader.recent(), writer.recent), (2_001 + SLOTS, 2_001 + SLOTS, 2_001 + SLOTS));
    assert_eq!(writer.bytes(), 0);
}

#[test]
fn packets_of_full_size_end_with_the_bytes_and_not_with_the_slots() {
    let file = TestFile::new();
    let mut pool = TestPool::new(SLABS_PER_STREAM_MAX as u32);
    let mut writer = create(&file, 0);
    let reader = attach(&file, 0).unwrap();
    // 6 Mbit/s, and one keyframe.
    let at = |index: u64| Time::from_millis(10_000 + index * 1_600 / 1_000);
    for index in 0..SLOTS + 100 {
        writer.push(&meta(index, at(index)), &[7; 1_200], &mut pool).unwrap();
        if index == 0 {
            assert!(writer.set_keyframe(0));
        }
        writer.trim(at(index), None, &mut pool);
        pool.tick();
        assert!(writer.bytes() <= REEL_BYTES_MAX);
        // Ten seconds and more are there.
        assert_eq!(reader.keyframe(), (index < REEL_BYTES_MAX as u64 / 1_200).then_some(0), "at {index}");
    }
    // A late packet that is larger than what was below it finds no place.
    let mut writer = create(&file, 1);
    for index in (0..8_000).filter(|index| *index != 10) {
        let length = if index < 20 { 1 } else { 1_051 };
        writer.push(&meta(index, at(0)), &vec![7; length], &mut pool).unwrap();
    }
    let (before, tail) = (writer.bytes(), writer.tail());
    assert!(tail == 0 && before + 2_000 > REEL_BYTES_MAX, "{tail}, {before}");
    assert_eq!(writer.push(&meta(10, at(0)), &[7; 2_000], &mut pool), Err(ReelError::TooLate { index: 10 }));
    assert!(writer.tail() > 10 && writer.bytes() <= REEL_BYTES_MAX);
}

#[test]
fn what_cannot_be_taken_is_refused() {
    let file = TestFile::new();
    let mut pool = TestPool::new(4);
    let mut writer = create(&file, 1);
    let reader = attach(&file, 1).unwrap();
    let at = Time::from_millis(1_000);
    assert_eq!(writer.push(&meta(5, at), &[0; 2_049], &mut pool), Err(ReelError::TooLarge { length: 2_049 }));
    assert_eq!(writer.push(&meta(5, at), &[7; 2_048], &mut pool), Ok(()));
    assert_eq!(writer.push(&meta(5, at), &[8], &mut pool), Err(ReelError::Duplicate { index: 5 }));
    assert_eq!(reader.slot(5).unwrap().payload, [7; 2_048]);
    assert_eq!(writer.push(&meta(3, at), &[], &mut pool), Ok(()), "late and empty");
    assert_eq!(reader.slot(3).unwrap().payload, []);
    assert!(reader.missing(4) && !reader.missing(6));
    assert_eq!(writer.push(&meta(5 + SLOTS, at), &[9], &mut pool), Ok(()));
    assert_eq!(reader.slot(5), None);
    assert_eq!(writer.push(&meta(5, at), &[9], &mut pool), Err(ReelError::TooLate { index: 5 }));
    for index in [INDEX_MASK, 1 << 48, u64::MAX] {
        assert_eq!(writer.push(&meta(index, at), &[9], &mut pool), Err(ReelError::IndexRange { index }));
        assert!(reader.slot(index).is_none() && !reader.missing(index) && !writer.set_keyframe(index));
    }
    assert_eq!(writer.push(&meta(INDEX_MASK - 1, at), &[4], &mut pool), Ok(()));
    assert_eq!(reader.slot(INDEX_MASK - 1).unwrap().payload, [4]);
}

#[test]
fn an_empty_payload_at_the_end_of_a_slab_has_a_place() {
    let file = TestFile::new();
    let mut pool = TestPool::new(4);
    let mut writer = create(&file, 0);
    let reader = attach(&file, 0).unwrap();
    let meta = |index| SlotMeta { flags: SlotFlags::NONE, ..meta(index, Time(1)) };
    for index in 0..32 {
        writer.push(&meta(index), &[index as u8; 2_048], &mut pool).unwrap();
    }
    writer.push(&meta(32), &[], &mut pool).unwrap();
    assert_eq!(reader.slot(32).unwrap().payload, []);
    assert_eq!(reader.slot(31).unwrap().payload, [31; 2_048]);
}

#[test]
fn reels_of_one_file_do_not_touch_each_other() {
    let file = TestFile::new();
    let mut pool = TestPool::new(200);
    let mut writers: Vec<_> = (0..TRACKS_PER_STREAM_MAX).map(|place| create(&file, place)).collect();
    for index in 0..6_000 {
        for (place, writer) in writers.iter_mut().enumerate() {
            let at = Time(index * 4_000_000);
            writer.push(&meta(index, at), &payload(index, place as u64, 300), &mut pool).unwrap();
            writer.trim(at, None, &mut pool);
        }
        pool.tick();
    }
    for place in 0..TRACKS_PER_STREAM_MAX {
        let reader = attach(&file, place).unwrap();
        for index in reader.tail()..reader.head() {
            assert_eq!(reader.slot(index).unwrap().payload, payload(index, place as u64, 300));
        }
    }
    let mut held: Vec<u32> = writers.iter().flat_map(|writer| writer.slabs_held().collect::<Vec<_>>()).collect();
    let count = held.len();
    held.sort_unstable();
    held.dedup();
    assert_eq!(held.len(), count, "a slab in two reels");
}

#[test]
fn another_reel_at_the_same_place_shows_nothing_of_the_former() {
    let file = TestFile::new();
    let mut pool = TestPool::new(8);
    let mut writer = create(&file, 0);
    let old = attach(&file, 0).unwrap();
    for index in 0..50 {
        writer.push(&meta(index, Time(1)), &[1; 100], &mut pool).unwrap();
    }
    writer.set_keyframe(3);
    writer.set_sr(&SrMapping { ntp: NtpTime(9), timestamp: 8, arrival: Time(7) });
    drop(writer);
    let mut writer = create(&file, 0);
    let new = attach(&file, 0).unwrap();
    assert!(!old.is_current() && new.is_current());
    assert!((0..60).all(|index| new.slot(index).is_none()));
    assert_eq!((new.head(), new.tail(), new.keyframe(), new.sr()), (0, 0, None, None));
    writer.push(&meta(7, Time(2)), &[2; 100], &mut pool).unwrap();
    assert_eq!(new.slot(7).unwrap().payload, [2; 100]);
    assert_eq!(old.slot(7), None, "a reader of the former reel sees none of the new one");
}

#[test]
fn a_generation_that_comes_round_clears_the_slots() {
    let file = TestFile::new();
    let mut pool = TestPool::new(8);
    let mut writer = create(&file, 0);
    writer.push(&meta(9, Time(1)), &[1], &mut pool).unwrap();
    writer.memory.header().generation.store(0xFFFF, Relaxed);
    let writer = create(&file, 0);
    assert_eq!(writer.generation, 0x1_0001);
    assert!(attach(&file, 0).unwrap().slot(9).is_none(), "generation 1's slot, and this one ends in 1 too");
}

#[test]
fn the_sender_report_is_whole_and_goes_with_its_publisher() {
    let file = TestFile::new();
    let mut writer = create(&file, 0);
    let reader = attach(&file, 0).unwrap();
    assert_eq!(reader.sr(), None);
    let mapping = SrMapping { ntp: NtpTime(1 << 40), timestamp: 90_000, arrival: Time::from_millis(3) };
    writer.set_sr(&mapping);
    assert_eq!(reader.sr(), Some(mapping));
    writer.set_publisher_epoch(4);
    assert_eq!((reader.sr(), reader.publisher_epoch()), (None, 4));
    writer.set_sr(&mapping);
    // A writer that died in the middle: nothing is read, and its successor begins anew.
    writer.memory.header().sr_lock.fetch_or(1, Relaxed);
    assert_eq!(reader.sr(), None);
    drop(writer);
    let mut writer = resume(&file, 0).unwrap();
    assert_eq!(reader.sr(), None);
    writer.set_sr(&mapping);
    assert_eq!(reader.sr(), Some(mapping));
}

/// A reader on another thread sees each packet whole or not at all, while the writer wraps many times and its slabs
/// are used again after a quarantine. The reader's tick counter ends the quarantine, as a shard's does.
#[test]
fn a_reader_beside_the_writer_sees_whole_packets_only() {
    const PACKETS: u64 = 120_000;
    let file = TestFile::new();
    let (ticks, done, seen) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    let mut writer = create(&file, 0);
    let reader = attach(&file, 0).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let reader = reader;
            let mut rng = Rng::new(9);
            let mut count = 0u64;
            while !done.load(Acquire) {
                let head = reader.head();
                for back in 0..24 {
                    // The newest, and those whose slots are written over just now.
                    let index = head.wrapping_sub(if back < 4 { back } else { SLOTS - rng.below(12) });
                    if let Some(slot) = reader.slot(index) {
                        assert_eq!(slot.meta.timestamp, (index as u32).wrapping_mul(3_000));
                        assert_eq!(slot.meta.arrival, Time(index * 1_000));
                        let stamp = index.to_le_bytes();
                        assert!(slot.payload.chunks_exact(8).all(|chunk| chunk == stamp), "bytes of another packet");
                        count += 1;
                    }
                }
                if let Some(sr) = reader.sr() {
                    assert_eq!((sr.ntp.0, sr.arrival.0), (u64::from(sr.timestamp), u64::from(sr.timestamp)));
                }
                ticks.fetch_add(1, Release);
                seen.store(count, Release);
                std::thread::yield_now();
            }
        });
        let mut pool = TestPool::new(120);
        let mut waiting: VecDeque<(u64, u32)> = VecDeque::new();
        let mut index = 0;
        while index < PACKETS || seen.load(Acquire) < 2_000 {
            // The ring ends long before the window does.
            let now = Time(index * 1_000);
            let bytes: Vec<u8> =
                index.to_le_bytes().iter().copied().cycle().take(8 * (1 + index as usize % 180)).collect();
            match writer.push(&meta(index, now), &bytes, &mut pool) {
                Ok(()) => index += 1,
                Err(ReelError::PoolDry) => std::thread::yield_now(),
                Err(other) => panic!("{other}"),
            }
            if index.is_multiple_of(1_000) {
                writer.set_keyframe(index - 1);
                writer.set_sr(&SrMapping { ntp: NtpTime(index), timestamp: index as u32, arrival: Time(index) });
            }
            writer.trim(now, None, &mut pool);
            // A tick that began after the give-back must have ended: two counts on.
            let tick = ticks.load(Acquire);
            waiting.extend(pool.quarantine.drain(..).map(|slab| (tick + 2, slab)));
            while waiting.front().is_some_and(|(until, _)| *until <= tick) {
                pool.free.extend(waiting.pop_front().map(|(_, slab)| slab));
            }
        }
        done.store(true, Release);
    });
    assert!(seen.load(Acquire) >= 2_000);
}

/// The threads above meet between two looks too rarely to show that the second one is there.
#[test]
fn a_slot_that_is_written_over_while_it_is_read_is_not_seen() {
    let file = TestFile::new();
    let mut pool = TestPool::new(8);
    let mut writer = create(&file, 0);
    let reader = attach(&file, 0).unwrap();
    writer.push(&meta(7, Time(1)), &[1; 8], &mut pool).unwrap();
    let word = word(reader.generation, 7);
    let read = |meanwhile: &mut dyn FnMut()| read_slot_around(reader.memory.slot(7), word, meanwhile);
    assert!(read(&mut || {}).is_some());
    let newer = read(&mut || writer.push(&meta(7 + SLOTS, Time(2)), &[2; 16], &mut pool).unwrap());
    assert!(newer.is_none(), "words of another packet");
    let mut writer = create(&file, 0);
    let reader = attach(&file, 0).unwrap();
    let word = super::word(reader.generation, 7);
    writer.push(&meta(7, Time(1)), &[1; 8], &mut pool).unwrap();
    let gone = read_slot_around(reader.memory.slot(7), word, || writer.drop_before(8, &mut pool));
    assert!(gone.is_none(), "a packet whose slab was given back");
}

#[test]
fn a_file_that_is_no_reel_is_refused() {
    let file = TestFile::new();
    assert_eq!(attach(&file, 0).err(), Some(AttachError::NoReel));
    assert_eq!(resume(&file, 0).err(), Some(AttachError::NoReel));
    let writer = create(&file, 0);
    assert_eq!(attach(&file, 1).err(), Some(AttachError::NoReel), "no reel at this place");
    writer.memory.file().version.store(REEL_VERSION + 1, Relaxed);
    assert_eq!(attach(&file, 0).err(), Some(AttachError::Version { found: REEL_VERSION + 1 }));
    writer.memory.file().version.store(REEL_VERSION, Relaxed);
    writer.memory.file().slab_bytes.store(1, Relaxed);
    assert_eq!(attach(&file, 0).err(), Some(AttachError::Limits));
}

/// Slots whose words name every index but whose rest is random: nothing panics, nothing outside is read.
#[test]
fn hostile_contents_are_harmless() {
    let mut file = TestFile::new();
    let mut rng = Rng::new(77);
    let (mut refused, mut read) = (0, 0);
    for round in 0..40 {
        let slots_end = slab_offset(0);
        rng.fill(&mut file.bytes_mut()[..slots_end]);
        // Only the file's header is honest, so that the rest is looked at.
        let writer = create(&file, 0);
        let header = writer.memory.header();
        for word in [&header.head, &header.tail, &header.keyframe, &header.sr_lock, &header.sr_valid] {
            let value = if rng.below(2) == 0 { rng.next_u64() } else { rng.below(10_000) };
            word.store(value, Relaxed);
        }
        for index in 0..SLOTS {
            let slot = writer.memory.slot(index);
            slot.word.store(word(writer.generation, index), Relaxed);
            match rng.below(3) {
                0 => slot.bytes.store(rng.next_u64(), Relaxed),
                1 => slot.bytes.store(rng.below(SLABS_PER_STREAM_MAX as u64 + 1) | rng.next_u64() << 32, Relaxed),
                _ => slot.bytes.store(rng.below(320) | rng.below(1 << 14) << 32 | rng.below(1 << 11) << 48, Relaxed),
            }
            // Else it is any number.
            if rng.below(4) > 0 {
                slot.descriptor.store(rng.below(300), Relaxed);
            }
        }
        drop(writer);
        let reader = attach(&file, 0).unwrap();
        for index in (0..SLOTS + 5).chain([reader.head(), reader.tail(), reader.head().wrapping_sub(1), u64::MAX]) {
            match reader.slot(index) {
                // Touch every byte that is lent.
                Some(slot) => {
                    let lent = slot.payload.iter().chain(slot.descriptor);
                    read += 1 + lent.map(|byte| u64::from(*byte)).sum::<u64>();
                }
                None => refused += 1,
            }
            reader.missing(index);
        }
        reader.keyframe();
        reader.sr();
        let mut pool = TestPool::new(0);
        pool.out = (0..SLABS_PER_STREAM_MAX as u32).collect();
        let mut writer = resume(&file, 0).unwrap();
        writer.trim(Time::NEVER, None, &mut pool);
        let _ = writer.push(&meta(rng.below(1 << 49), Time(5)), &[0; 10], &mut pool);
        writer.close(&mut pool);
        // And all of the file random, honest magic or not.
        rng.fill(&mut file.bytes_mut()[..slots_end]);
        assert!(attach(&file, round % 4).is_err());
    }
    assert!(refused > 1_000 && read > 1_000, "both sides were met: {refused} {read}");
}

/// What came behind the head stands in the late list, each once, in the order it came; what fell out of the list is
/// said to be gone; a writer that goes on after a death counts on.
#[test]
fn late_packets_are_listed_in_their_order() {
    let file = &TestFile::new();
    let mut pool = TestPool::new(64);
    let mut writer = create(file, 1);
    let reader = attach(file, 1).unwrap();
    let now = Time::from_millis(5_000);
    let mut push = |writer: &mut ReelWriter, index: u64| writer.push(&meta(index, now), b"x", &mut pool);
    for index in [0, 3, 2_000] {
        push(&mut writer, index).unwrap();
        assert_eq!((reader.late_count(), reader.slot(index).unwrap().late), (0, 0));
    }
    for (number, index) in [2, 1_500, 1].into_iter().enumerate() {
        push(&mut writer, index).unwrap();
        assert!(push(&mut writer, index).is_err(), "a copy is in no list");
        assert_eq!((reader.late_count(), reader.late(number as u64)), (number as u64 + 1, Some(index)));
        assert_eq!(reader.slot(index).unwrap().late, number as u64 + 1);
    }
    for index in 10..10 + LATE_LIST as u64 {
        push(&mut writer, index).unwrap();
    }
    let count = reader.late_count();
    assert_eq!(count, 3 + LATE_LIST as u64);
    let listed: Vec<_> = (0..count).map(|number| reader.late(number)).collect();
    // The oldest place may be written over at any moment.
    assert!(listed[..4].iter().all(Option::is_none));
    assert!((4..count).all(|number| listed[number as usize] == Some(number + 7)));
    std::mem::forget(writer);
    let mut writer = resume(file, 1).unwrap();
    push(&mut writer, 1_000).unwrap();
    assert_eq!((reader.late_count(), reader.late(count)), (count + 1, Some(1_000)));
}

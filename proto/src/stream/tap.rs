//! A reel read by another process: nothing is borrowed, and nothing is written.
//!
//! The engine knows nothing of taps, so that its quarantine of slabs does not wait for them. A packet is copied out,
//! then its slot is looked at again: a slot that still has its word had its bytes all the while.

use super::feedback::SrMapping;
use super::reel::{AttachError, INDEX_MASK, ReelReader, SlotMeta, read_slot, unpack_meta, word};
use crate::id::Codec;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::fence;

pub struct ReelTap {
    reader: ReelReader,
}

impl ReelTap {
    /// Reads the reel that stands at `place` now. Whatever the file holds, reading it is harmless.
    ///
    /// # Safety
    /// `base..base + len` is a readable shared mapping of a whole stream's file that outlives the tap.
    pub unsafe fn attach(base: *mut u8, len: usize, place: usize) -> Result<ReelTap, AttachError> {
        // JUSTIFICATION: the mapping comes as an address.
        // SAFETY: passed on to the caller; no slice of the slabs is ever made here, so that the quarantine is not needed.
        let reader = unsafe { ReelReader::attach(base, len, place) }?;
        Ok(ReelTap { reader })
    }

    /// False: its track is gone, or another reel was made here.
    pub fn is_open(&self) -> bool {
        self.reader.memory.header().open.load(Acquire) == 1 && self.reader.is_current()
    }
    /// Bits of the stream's id, 0: it does not say.
    pub fn stream(&self) -> u64 {
        self.reader.memory.header().stream.load(Acquire)
    }
    /// Of its first publisher.
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_u8(self.reader.memory.header().codec.load(Relaxed) as u8)
    }
    pub fn head(&self) -> u64 {
        self.reader.head().min(INDEX_MASK)
    }
    pub fn tail(&self) -> u64 {
        self.reader.tail()
    }
    /// The publisher's number, and its first index: read after `head`, it is that of all packets before the head.
    pub fn epoch(&self) -> (u32, u64) {
        let header = self.reader.memory.header();
        loop {
            let epoch = header.publisher_epoch.load(Acquire);
            let from = header.epoch_from.load(Acquire);
            // Each change is by a command: this turns once more at most, unless the file is hostile, and then it is its own.
            if header.publisher_epoch.load(Acquire) == epoch {
                return (epoch as u32, from);
            }
        }
    }
    /// Index of the newest picture's first packet that a recording can begin with.
    pub fn keyframe(&self) -> Option<u64> {
        let index = self.reader.memory.header().keyframe.load(Acquire).checked_sub(1)?;
        self.meta(index).map(|_| index)
    }
    pub fn late_count(&self) -> u64 {
        self.reader.late_count()
    }
    pub fn late(&self, number: u64) -> Option<u64> {
        self.reader.late(number)
    }
    pub fn sr(&self) -> Option<SrMapping> {
        self.reader.sr()
    }

    /// What the slot says; None if it is a hole, no longer or not yet there.
    pub fn meta(&self, index: u64) -> Option<SlotMeta> {
        let slot = self.reader.memory.slot(index);
        let found = read_slot(slot, word(self.reader.generation, index)).filter(|_| index < INDEX_MASK)?;
        unpack_meta(index, found.arrival, found.meta)
    }

    /// Copies the packet `index` out.
    pub fn copy(&self, index: u64, into: &mut Vec<u8>) -> Option<SlotMeta> {
        self.copy_around(index, into, || {})
    }

    /// `meanwhile` is what a writer does after the copy: on a real machine that is too rare to be tested.
    fn copy_around(&self, index: u64, into: &mut Vec<u8>, meanwhile: impl FnOnce()) -> Option<SlotMeta> {
        let word = word(self.reader.generation, index);
        let slot = self.reader.memory.slot(index);
        let found = read_slot(slot, word).filter(|_| index < INDEX_MASK)?;
        if !self.reader.memory.copy_payload(found.slab, found.offset, found.length, into) {
            return None;
        }
        meanwhile();
        // The word was taken away before its slab could be given to anybody.
        fence(Acquire);
        if slot.word.load(Relaxed) != word {
            return None;
        }
        unpack_meta(index, found.arrival, found.meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::StreamId;
    use crate::limits::SLABS_PER_STREAM_MAX;
    use crate::stream::reel::{ReelWriter, STREAM_FILE_BYTES, Slabs, SlotFlags};
    use crate::stream::reel_memory::tests::TestFile;
    use crate::time::Time;

    /// Gives slabs back at once, as no engine does: whatever a tap reads meanwhile is written over.
    struct Hasty(Vec<u32>);

    impl Slabs for Hasty {
        fn take(&mut self) -> Option<u32> {
            self.0.pop()
        }
        fn give_back(&mut self, slab: u32) {
            self.0.push(slab);
        }
    }

    fn meta(index: u64) -> SlotMeta {
        let arrival = Time::from_millis(index);
        SlotMeta { index, timestamp: index as u32, arrival, flags: SlotFlags::NONE, codec: Codec::Vp8, layer: 0 }
    }

    fn writer(file: &TestFile, place: usize) -> ReelWriter {
        // SAFETY: the file outlives the writer in each test; one writer per place.
        unsafe { ReelWriter::create(file.base(), STREAM_FILE_BYTES, place, Codec::Vp8).unwrap() }
    }

    fn tap(file: &TestFile, place: usize) -> ReelTap {
        // SAFETY: the file outlives the tap in each test.
        unsafe { ReelTap::attach(file.base(), STREAM_FILE_BYTES, place).unwrap() }
    }

    #[test]
    fn packets_are_copied_whole_at_any_length() {
        let file = TestFile::new();
        let mut slabs = Hasty((0..SLABS_PER_STREAM_MAX as u32).collect());
        let mut reel = writer(&file, 1);
        reel.set_stream(StreamId::new(7, 3));
        reel.set_publisher_epoch(4);
        let tap = tap(&file, 1);
        let mut bytes = Vec::new();
        for index in 0..200 {
            let payload: Vec<u8> = (0..index * 7).map(|byte| (byte + index) as u8).collect();
            reel.push(&meta(index), &payload, &mut slabs).unwrap();
            assert_eq!(tap.copy(index, &mut bytes), Some(meta(index)));
            assert_eq!(bytes, payload);
        }
        assert_eq!((tap.head(), tap.copy(200, &mut bytes)), (200, None));
        assert_eq!((tap.stream(), tap.codec()), (StreamId::new(7, 3).to_bits(), Some(Codec::Vp8)));
        reel.set_publisher_epoch(5);
        assert_eq!(tap.epoch(), (5, 200));
    }

    #[test]
    fn what_was_written_over_during_the_copy_is_nothing() {
        let file = TestFile::new();
        let mut slabs = Hasty((0..8).collect());
        let mut reel = writer(&file, 0);
        for index in 0..40 {
            reel.push(&meta(index), &[1; 1_200], &mut slabs).unwrap();
        }
        let tap = tap(&file, 0);
        let mut bytes = Vec::new();
        let copied = tap.copy_around(0, &mut bytes, || {
            // An hour later everything old is dropped, and its slabs taken again.
            for index in 40..400 {
                let later = SlotMeta { arrival: Time::from_millis(3_600_000 + index), ..meta(index) };
                reel.push(&later, &[2; 1_200], &mut slabs).unwrap();
                reel.trim(later.arrival, None, &mut slabs);
            }
        });
        assert_eq!(copied, None);
        assert!(tap.tail() > 0 && tap.copy(399, &mut bytes).is_some() && bytes == [2; 1_200]);
    }

    #[test]
    fn a_reel_that_was_closed_or_made_anew_is_not_open() {
        let file = TestFile::new();
        let mut slabs = Hasty((0..8).collect());
        let mut reel = writer(&file, 0);
        reel.push(&meta(0), b"old", &mut slabs).unwrap();
        let before = tap(&file, 0);
        assert!(before.is_open());
        reel.close(&mut slabs);
        assert!(!before.is_open());
        let mut reel = writer(&file, 0);
        reel.push(&meta(0), b"new", &mut slabs).unwrap();
        assert!(!before.is_open());
        assert_eq!(before.copy(0, &mut Vec::new()), None, "of another reel");
        assert!(tap(&file, 0).is_open());
    }

    #[test]
    fn hostile_slots_read_as_nothing() {
        let mut file = TestFile::new();
        let mut slabs = Hasty((0..8).collect());
        let mut reel = writer(&file, 0);
        reel.push(&meta(0), &[1; 100], &mut slabs).unwrap();
        drop(reel);
        // The slot's fourth word: slab, offset, length.
        let at = 4_096 + 4_096 + 24;
        for hostile in [u64::MAX, u64::from(u32::MAX), 3 << 32 | 100 << 48, 0xFFF8 << 32 | 100 << 48] {
            file.bytes_mut()[at..at + 8].copy_from_slice(&hostile.to_ne_bytes());
            assert_eq!(tap(&file, 0).copy(0, &mut Vec::new()), None, "{hostile:x}");
        }
    }
}

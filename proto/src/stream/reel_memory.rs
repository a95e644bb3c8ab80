//! The bytes of a stream's file: layout, atomics, and the only unsafe code of the reel.
//!
//! One sparse file per stream, mapped whole. Plain data with offsets; nothing in it is a pointer.
//!
//! ```text
//!        0 +----------------------------------------------+
//!          | file header (a page)                         |  magic, version, sizes
//!    4,096 +----------------------------------------------+
//!          | reel header, place 0 (a page)                |  generation, head, tail, keyframe, ...
//!          | slot table, place 0: REEL_SLOTS x 64 bytes   |
//!          +----------------------------------------------+
//!          | ... places 1, 2, 3                           |
//!          +----------------------------------------------+  SLABS_OFFSET, on a slab's boundary
//!          | slab 0 | slab 1 | ... SLABS_PER_STREAM_MAX   |  shared by the reels of the file
//!          +----------------------------------------------+  STREAM_FILE_BYTES
//! ```
//!
//! It never decides what is kept or where: that is `reel`.

use crate::limits::{REEL_SLOTS, SLAB_BYTES, SLABS_PER_STREAM_MAX, TRACKS_PER_STREAM_MAX};
use std::sync::atomic::AtomicU64;
use thiserror::Error;

pub const REEL_MAGIC: u64 = u64::from_le_bytes(*b"SPILREEL");
pub const REEL_VERSION: u64 = 6;

const PAGE: usize = 4_096;
const SLOT_BYTES: usize = 64;
const REEL_BYTES: usize = PAGE + REEL_SLOTS * SLOT_BYTES;
const SLABS_OFFSET: usize = (PAGE + TRACKS_PER_STREAM_MAX * REEL_BYTES).next_multiple_of(SLAB_BYTES);

/// Length of a stream's file. Sparse: a slab costs memory once it was written.
pub const STREAM_FILE_BYTES: usize = SLABS_OFFSET + SLABS_PER_STREAM_MAX * SLAB_BYTES;

/// Where `slab` begins in the file: what the owner of the pool punches a hole into when a slab comes back.
pub const fn slab_offset(slab: u32) -> usize {
    SLABS_OFFSET + slab as usize * SLAB_BYTES
}

/// Why a mapping is not a reel.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum AttachError {
    #[error("the mapping has {len} bytes, a stream's file has {STREAM_FILE_BYTES}: map the whole file")]
    Length { len: usize },
    #[error("the mapping does not begin on a page: hand in what mmap returned")]
    Alignment,
    #[error("place {place} of a stream's file does not exist: there are {TRACKS_PER_STREAM_MAX}")]
    Place { place: usize },
    #[error("the file holds no reel at this place: attach after its writer made it")]
    NoReel,
    #[error("the file has layout version {found}, this program reads {REEL_VERSION}: update the older of the two")]
    Version { found: u64 },
    #[error("the file was laid out with other limits: run engine and adapters from one build")]
    Limits,
}

#[repr(C)]
pub(super) struct FileHeader {
    /// Written last.
    pub magic: AtomicU64,
    pub version: AtomicU64,
    pub slots: AtomicU64,
    pub slab_bytes: AtomicU64,
    pub slabs: AtomicU64,
    pub places: AtomicU64,
}

/// Late packets a reader can still find: what a publisher sends again at once after a burst of losses. It fits the
/// header's page.
pub const LATE_LIST: usize = 256;

/// Header of one reel; each group on a cache line of its own.
#[repr(C)]
pub(super) struct ReelHeader {
    /// 0: no reel here. Grows with each reel made at this place; the lower 16 bits are never 0.
    pub generation: AtomicU64,
    /// `Codec` of the newest packet's track, as a number.
    pub codec: AtomicU64,
    /// Grows with each takeover.
    pub publisher_epoch: AtomicU64,
    /// The first index of the present publisher.
    pub epoch_from: AtomicU64,
    /// 1: a track writes here; 0: it is gone. Stays 1 when an engine dies: then nothing new comes.
    pub open: AtomicU64,
    /// Bits of the `StreamId` it is of, 0: none was told. Files are used again, by streams of others.
    pub stream: AtomicU64,
    reserved: [AtomicU64; 2],

    /// One past the newest index.
    pub head: AtomicU64,
    /// The oldest index that may have a slot.
    pub tail: AtomicU64,
    /// One more than the index of the newest entry picture's first packet; 0: none.
    pub keyframe: AtomicU64,
    /// Payload bytes that ever came in: less those at a keyframe's slot, what came since.
    pub bytes: AtomicU64,
    /// 1: keyframes cannot be asked for, its publisher is deaf.
    pub deaf: AtomicU64,
    /// The oldest index that is not only kept because pictures of its time are.
    pub recent: AtomicU64,
    reserved_2: [AtomicU64; 2],

    /// Sender report under a sequence lock: odd while it is written, 0 before the first.
    pub sr_lock: AtomicU64,
    /// 0: no sender report of this publisher.
    pub sr_valid: AtomicU64,
    pub sr_ntp: AtomicU64,
    pub sr_timestamp: AtomicU64,
    pub sr_arrival: AtomicU64,
    reserved_3: [AtomicU64; 3],

    /// How many packets came behind the newest so far.
    pub late_count: AtomicU64,
    reserved_4: [AtomicU64; 7],
    /// Their indices, by number modulo the length.
    pub late: [AtomicU64; LATE_LIST],
}

/// One packet's place, 64 bytes:
///
/// ```text
///    0        8         16                              24                       32       40     48           56    64
///    +--------+---------+-----------+-----+-----+-------+------+--------+--------+--------+------+------------+-----+
///    | word   | arrival | timestamp |flags|codec| layer | slab | offset | length | before | late | descriptor | ... |
///    | 64     | 64      | 32        | 16  | 8   | 8     | 32   | 16     | 16     | 64     | 64   | 64         |     |
///    +--------+---------+-----------+-----+-----+-------+------+--------+--------+--------+------+------------+-----+
///    word = generation (16 bits) | index + 1 (48 bits); 0: empty. before = the reel's `bytes` when it came.
///    late = one more than the packet's number among the late ones; 0: it came in order.
///    descriptor = bytes of the packet's dependency descriptor, which stand right behind its payload and the byte of
///                  padding that a flag tells of; 0: it has none.
/// ```
///
/// The word is taken away first and written last (Release); a reader loads it before and after the rest.
#[repr(C)]
pub(super) struct SlotWords {
    pub word: AtomicU64,
    pub arrival: AtomicU64,
    pub meta: AtomicU64,
    pub bytes: AtomicU64,
    pub before: AtomicU64,
    pub late: AtomicU64,
    pub descriptor: AtomicU64,
    reserved: AtomicU64,
}

const _: () = assert!(size_of::<SlotWords>() == SLOT_BYTES);
const _: () = assert!(size_of::<FileHeader>() <= PAGE && size_of::<ReelHeader>() <= PAGE);
const _: () = assert!(SLAB_BYTES <= 1 << 16, "an offset in a slab has 16 bits");

/// One reel's part of a mapped stream file.
pub(super) struct ReelMemory {
    base: *mut u8,
    place: usize,
}

// JUSTIFICATION: a reel is made on one thread and used on the thread of its shard.
// SAFETY: the pointer names shared memory that is reached through atomics and, for payload bytes, by the
// protocol of `write_payload` and `payload`; no thread owns it.
unsafe impl Send for ReelMemory {}

impl ReelMemory {
    /// # Safety
    /// `base..base + len` is a mapping, readable and, if anything is written through it, writable, that stays for
    /// as long as this value and everything borrowed from it, and is touched by nobody but reels. Payload bytes
    /// are not written over while a slice of them is borrowed (the quarantine of slabs).
    pub unsafe fn new(base: *mut u8, len: usize, place: usize) -> Result<ReelMemory, AttachError> {
        if len != STREAM_FILE_BYTES {
            return Err(AttachError::Length { len });
        }
        if base.is_null() || base.align_offset(PAGE) != 0 {
            return Err(AttachError::Alignment);
        }
        if place >= TRACKS_PER_STREAM_MAX {
            return Err(AttachError::Place { place });
        }
        Ok(ReelMemory { base, place })
    }

    pub fn file(&self) -> &FileHeader {
        // JUSTIFICATION: the mapping is bytes; this names its first page.
        // SAFETY: `new` checked length and alignment; all fields are atomics, any bit pattern is valid.
        unsafe { &*self.base.cast::<FileHeader>() }
    }

    #[inline]
    pub fn header(&self) -> &ReelHeader {
        // JUSTIFICATION: the mapping is bytes; this names a page of it.
        // SAFETY: `new` checked length, alignment and place, so that the page lies inside the mapping; all fields
        // are atomics, any bit pattern is valid.
        unsafe { &*self.base.add(PAGE + self.place * REEL_BYTES).cast::<ReelHeader>() }
    }

    /// The slot in which `index` has its place.
    #[inline]
    pub fn slot(&self, index: u64) -> &SlotWords {
        let position = (index % REEL_SLOTS as u64) as usize;
        let offset = PAGE + self.place * REEL_BYTES + PAGE + position * SLOT_BYTES;
        // JUSTIFICATION: as above.
        // SAFETY: position < REEL_SLOTS and place < TRACKS_PER_STREAM_MAX, so that the slot ends before
        // SLABS_OFFSET; 64-byte aligned; all fields are atomics.
        unsafe { &*self.base.add(offset).cast::<SlotWords>() }
    }

    /// Writes payload bytes that no reader can know of yet. False if they do not fit.
    pub fn write_payload(&mut self, slab: u32, offset: usize, payload: &[u8]) -> bool {
        if !inside(slab, offset, payload.len()) {
            return false;
        }
        // JUSTIFICATION: the one copy of a packet; bytes through atomics would be a loop of single stores.
        // SAFETY: `inside` bounds the range by the mapping. The writer writes each byte of a taken slab once, and
        // publishes it afterwards by the slot's Release store; a slab comes back only after the quarantine, so
        // that nobody has a slice of these bytes. `payload` is the caller's memory, not a slice of this range.
        unsafe {
            std::ptr::copy_nonoverlapping(payload.as_ptr(), self.base.add(slab_offset(slab) + offset), payload.len());
        }
        true
    }

    /// Payload bytes that a valid slot names; None if it names bytes outside of the slabs.
    #[inline]
    pub fn payload(&self, slab: u32, offset: usize, length: usize) -> Option<&[u8]> {
        if !inside(slab, offset, length) {
            return None;
        }
        // JUSTIFICATION: fan-out seals from the reel without a second copy.
        // SAFETY: `inside` bounds the range by the mapping; the slot's Acquire load came after the bytes were
        // written, and by the contract of `new` they are not written again while this slice lives.
        Some(unsafe { std::slice::from_raw_parts(self.base.add(slab_offset(slab) + offset), length) })
    }
}

impl ReelMemory {
    /// Copies payload bytes that may be written over meanwhile; the caller looks at the slot's word once more before it
    /// believes them. False if they do not lie inside the slabs, on a payload's boundary.
    pub fn copy_payload(&self, slab: u32, offset: usize, length: usize, into: &mut Vec<u8>) -> bool {
        let words = length.div_ceil(8);
        into.clear();
        if !offset.is_multiple_of(8) || !inside(slab, offset, words * 8) {
            return false;
        }
        for word in 0..words {
            // JUSTIFICATION: a slice would promise that nobody writes these bytes, which another process may.
            // SAFETY: `inside` bounds the range by the mapping; slabs and `offset` are aligned to 8 bytes; reading an
            // atomic is no data race in this program, whatever the writer's process does.
            let bytes = unsafe { &*self.base.add(slab_offset(slab) + offset + 8 * word).cast::<AtomicU64>() };
            into.extend(bytes.load(std::sync::atomic::Ordering::Relaxed).to_ne_bytes());
        }
        into.truncate(length);
        true
    }
}

#[inline]
fn inside(slab: u32, offset: usize, length: usize) -> bool {
    (slab as usize) < SLABS_PER_STREAM_MAX && offset.checked_add(length).is_some_and(|end| end <= SLAB_BYTES)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    /// A stream's file in memory, all zeros as a fresh memfd is.
    pub struct TestFile(*mut u8);

    // JUSTIFICATION: the threaded test hands it to both threads.
    // SAFETY: only an address; what lies behind it is reached through reels.
    unsafe impl Send for TestFile {}
    // SAFETY: as above.
    unsafe impl Sync for TestFile {}

    impl TestFile {
        const LAYOUT: Layout = match Layout::from_size_align(STREAM_FILE_BYTES, PAGE) {
            Ok(layout) => layout,
            Err(_) => unreachable!(),
        };

        pub fn new() -> TestFile {
            // JUSTIFICATION: page-aligned zeros without a system call of our own.
            // SAFETY: the size is not zero.
            let base = unsafe { alloc_zeroed(Self::LAYOUT) };
            assert!(!base.is_null());
            TestFile(base)
        }
        pub fn base(&self) -> *mut u8 {
            self.0
        }
        pub fn bytes_mut(&mut self) -> &mut [u8] {
            // JUSTIFICATION: hostile contents are written bytewise.
            // SAFETY: exclusive by &mut; tests call it while no reel is attached.
            unsafe { std::slice::from_raw_parts_mut(self.0, STREAM_FILE_BYTES) }
        }
    }

    impl Drop for TestFile {
        fn drop(&mut self) {
            // JUSTIFICATION: pairs with alloc_zeroed.
            // SAFETY: same pointer, same layout, once.
            unsafe { dealloc(self.0, Self::LAYOUT) }
        }
    }

    #[test]
    fn a_mapping_that_is_none_is_refused() {
        let file = TestFile::new();
        let attach = |base, len, place| {
            // JUSTIFICATION: the constructor under test.
            // SAFETY: the memory lives until the end of the test; nothing is read through refused values.
            unsafe { ReelMemory::new(base, len, place) }.err()
        };
        assert_eq!(attach(file.base(), STREAM_FILE_BYTES, 0), None);
        assert_eq!(attach(file.base(), 4_096, 0), Some(AttachError::Length { len: 4_096 }));
        assert_eq!(attach(file.base(), STREAM_FILE_BYTES, 4), Some(AttachError::Place { place: 4 }));
        assert_eq!(attach(file.base().wrapping_add(8), STREAM_FILE_BYTES, 0), Some(AttachError::Alignment));
        assert_eq!(attach(std::ptr::null_mut(), STREAM_FILE_BYTES, 0), Some(AttachError::Alignment));
    }

    #[test]
    fn bytes_outside_of_the_slabs_are_nobodys() {
        let file = TestFile::new();
        // JUSTIFICATION: the memory under test.
        // SAFETY: it lives until the end of the test.
        let mut memory = unsafe { ReelMemory::new(file.base(), STREAM_FILE_BYTES, 3) }.unwrap();
        let last = SLABS_PER_STREAM_MAX as u32 - 1;
        assert!(memory.write_payload(last, SLAB_BYTES - 4, b"last"));
        assert_eq!(memory.payload(last, SLAB_BYTES - 4, 4), Some(&b"last"[..]));
        assert!(!memory.write_payload(last, SLAB_BYTES - 3, b"last"));
        assert!(!memory.write_payload(last + 1, 0, b"last"));
        assert_eq!(memory.payload(last, SLAB_BYTES - 3, 4), None);
        assert_eq!(memory.payload(last + 1, 0, 0), None);
        assert_eq!(memory.payload(0, usize::MAX, 2), None);
        // The last slot of the last place ends before the first slab.
        let slot = std::ptr::from_ref(memory.slot(REEL_SLOTS as u64 - 1)).addr() - file.base().addr();
        assert!(slot + SLOT_BYTES <= slab_offset(0));
    }
}

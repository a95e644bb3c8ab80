//! A reel: the recent plaintext packets of one layer of a track, in its stream's file.
//!
//! One writer, on the publisher's shard; many readers: every shard's fan-out, and taps in other processes. What
//! stands in the file is described in `reel_memory`. Everything the writer knows besides can be made again from
//! the slots (`ReelWriter::resume`).
//!
//! The reel keeps what came since the newest keyframe, of sound since that of the stream's pictures, at most
//! `REEL_BYTES_MAX`, and at least `NACK_WINDOW`. Its
//! payloads stand in slabs from a bounded pool; a slab goes back when no packet of the reel is left in it, and is
//! written again only after its quarantine. It never waits: without a slab it drops what is old, then refuses.

use super::feedback::SrMapping;
pub use super::reel_memory::{AttachError, STREAM_FILE_BYTES, slab_offset};
use super::reel_memory::{LATE_LIST, REEL_MAGIC, REEL_VERSION, ReelMemory, SlotWords};
use crate::id::{Codec, StreamId};
use crate::limits::{
    DATAGRAM_SIZE_MAX, NACK_WINDOW, REEL_BYTES_MAX, REEL_SLOTS, SLAB_BYTES, SLABS_PER_STREAM_MAX, TRACKS_PER_STREAM_MAX,
};
use crate::time::{NtpTime, Time};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;
use thiserror::Error;

const SLOTS: u64 = REEL_SLOTS as u64;
/// An index has 48 bits, as an SRTP index has.
pub(super) const INDEX_MASK: u64 = (1 << 48) - 1;
/// Payloads begin on this boundary.
const PAYLOAD_ALIGN: usize = 16;
/// A reader gives up a sender report that is being written after this many looks.
const SR_ATTEMPTS: usize = 8;

const _: () = assert!(DATAGRAM_SIZE_MAX <= SLAB_BYTES && DATAGRAM_SIZE_MAX <= u16::MAX as usize);

/// Bits of a slot that say what its packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotFlags(u16);

impl SlotFlags {
    pub const NONE: SlotFlags = SlotFlags(0);
    /// First packet of a frame.
    pub const FRAME_START: SlotFlags = SlotFlags(1);
    /// Last packet of a frame.
    pub const FRAME_END: SlotFlags = SlotFlags(2);
    /// First packet of a picture that a viewer can begin with.
    pub const KEYFRAME: SlotFlags = SlotFlags(4);
    /// Carries parameter sets (H.264 SPS): a picture begins with them.
    pub const PARAMETER_SETS: SlotFlags = SlotFlags(8);
    /// The publisher's marker bit.
    pub const MARKER: SlotFlags = SlotFlags(16);
    /// Carries parameter sets that name those of another packet (H.264 PPS).
    pub const PICTURE_SETS: SlotFlags = SlotFlags(32);
    /// Is sent with one byte of padding, so that its picture's packets have one size (`sizes`).
    pub const PADDED: SlotFlags = SlotFlags(64);

    pub const fn contains(self, other: SlotFlags) -> bool {
        self.0 & other.0 == other.0
    }
    pub const fn with(self, other: SlotFlags) -> SlotFlags {
        SlotFlags(self.0 | other.0)
    }
    pub const fn intersects(self, other: SlotFlags) -> bool {
        self.0 & other.0 != 0
    }
    /// `other` if `condition` holds.
    pub const fn with_if(self, condition: bool, other: SlotFlags) -> SlotFlags {
        if condition { self.with(other) } else { self }
    }
}

/// What a slot says of its packet, besides the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotMeta {
    pub index: u64,
    /// In the reel's timescale: continues over takeovers.
    pub timestamp: u32,
    pub arrival: Time,
    pub flags: SlotFlags,
    pub codec: Codec,
    pub layer: u8,
}

/// A packet in a reel, borrowed for the tick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot<'a> {
    pub meta: SlotMeta,
    pub payload: &'a [u8],
    /// As it is sent: the payload, and behind it the padding where there is one.
    pub padded: &'a [u8],
    /// Its dependency descriptor, for viewers that negotiated one; empty: it has none.
    pub descriptor: &'a [u8],
    /// How many packets had come behind the newest when this one did, itself counted; 0: it came in order. A reader
    /// that passes it before it has heard of it in the late list would meet it twice.
    pub late: u64,
}

/// The pool of one stream's slabs, as the reel's writer sees it.
///
/// A slab that was given back is taken again only after every shard has finished the tick in which it came back
/// and begun another (with the shards' tick counters read by Acquire): until then a reader may still borrow from it.
pub trait Slabs {
    /// A slab of the stream's file; None: the pool is dry.
    fn take(&mut self) -> Option<u32>;
    fn give_back(&mut self, slab: u32);
}

/// Why a packet did not get into the reel.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum ReelError {
    #[error("packet {index} stands in the reel already: drop the copy")]
    Duplicate { index: u64 },
    #[error("packet {index} is older than the reel's tail: drop it")]
    TooLate { index: u64 },
    #[error("a payload of {length} bytes is no datagram's: drop it")]
    TooLarge { length: usize },
    #[error("index {index} does not fit 48 bits: make a new reel")]
    IndexRange { index: u64 },
    #[error("no slab is left: raise the slab pool or lower the publishers' bitrate")]
    PoolDry,
}

/// The one writer of a reel.
pub struct ReelWriter {
    memory: ReelMemory,
    generation: u64,
    head: u64,
    tail: u64,
    /// The oldest index that is kept for itself: below it only what stands beside pictures.
    recent: u64,
    /// One more than the entry's index, 0: none.
    keyframe: u64,
    /// Payload bytes of all packets in the reel.
    bytes: usize,
    /// Packets of the reel in each slab of the file.
    packets_in: Box<[u32]>,
    /// The slab being written, and where in it the next payload begins.
    current: Option<u32>,
    write_offset: usize,
    /// Packets that came behind the head.
    late: u64,
    refused: u64,
}

impl ReelWriter {
    /// Makes an empty reel at `place`, in place of any that was there. Its slabs must have been given back
    /// (`close`), or the pool be counted anew.
    ///
    /// # Safety
    /// `base..base + len` is a writable shared mapping of a stream's file that outlives the writer; nobody else
    /// writes this place; slabs are quarantined as `Slabs` demands.
    pub unsafe fn create(base: *mut u8, len: usize, place: usize, codec: Codec) -> Result<ReelWriter, AttachError> {
        // JUSTIFICATION: the mapping comes as an address.
        // SAFETY: passed on to the caller.
        let memory = unsafe { ReelMemory::new(base, len, place) }?;
        let file = memory.file();
        file.version.store(REEL_VERSION, Relaxed);
        file.slots.store(SLOTS, Relaxed);
        file.slab_bytes.store(SLAB_BYTES as u64, Relaxed);
        file.slabs.store(SLABS_PER_STREAM_MAX as u64, Relaxed);
        file.places.store(TRACKS_PER_STREAM_MAX as u64, Relaxed);
        file.magic.store(REEL_MAGIC, Release);

        let header = memory.header();
        let mut generation = header.generation.load(Relaxed).wrapping_add(1);
        if generation & 0xFFFF == 0 {
            // A slot of 65,536 reels ago would look like one of this reel.
            generation += 1;
            for index in 0..SLOTS {
                memory.slot(index).word.store(0, Release);
            }
        }
        header.open.store(0, Release);
        header.codec.store(codec as u64, Relaxed);
        header.stream.store(0, Relaxed);
        header.publisher_epoch.store(0, Relaxed);
        header.epoch_from.store(0, Relaxed);
        header.head.store(0, Relaxed);
        header.tail.store(0, Relaxed);
        header.recent.store(0, Relaxed);
        header.keyframe.store(0, Relaxed);
        header.bytes.store(0, Relaxed);
        header.deaf.store(0, Relaxed);
        header.late_count.store(0, Relaxed);
        header.generation.store(generation, Release);
        let mut writer = ReelWriter::new(memory, generation);
        writer.clear_sr();
        writer.memory.header().open.store(1, Release);
        Ok(writer)
    }

    /// Goes on with the reel a process that is gone left behind: everything is read from its slots.
    ///
    /// # Safety
    /// As for `create`; the former writer is certainly gone.
    pub unsafe fn resume(base: *mut u8, len: usize, place: usize) -> Result<ReelWriter, AttachError> {
        // JUSTIFICATION: the mapping comes as an address.
        // SAFETY: passed on to the caller.
        let memory = unsafe { ReelMemory::new(base, len, place) }?;
        let generation = check(&memory)?;
        let mut writer = ReelWriter::new(memory, generation);
        let header = writer.memory.header();
        let head = header.head.load(Acquire).min(INDEX_MASK);
        let tail = header.tail.load(Acquire).min(head).max(head.saturating_sub(SLOTS));
        let keyframe = header.keyframe.load(Acquire).min(head);
        let mut end = head;
        let mut late = header.late_count.load(Acquire).min(INDEX_MASK);
        // A writer that died between a slot and the head left one packet above it.
        for index in tail..(tail + SLOTS).min(INDEX_MASK) {
            if let Some(found) = writer.find(index) {
                writer.bytes += found.length;
                writer.packets_in[found.slab as usize] += 1;
                end = end.max(index + 1);
                late = late.max(found.late.min(INDEX_MASK));
            }
        }
        (writer.head, writer.tail, writer.keyframe, writer.late) = (end, tail, keyframe, late);
        writer.recent = header.recent.load(Acquire).clamp(tail, end);
        let header = writer.memory.header();
        header.head.store(end, Release);
        header.tail.store(tail, Release);
        header.keyframe.store(keyframe, Release);
        header.late_count.store(late, Release);
        if header.sr_lock.load(Relaxed) % 2 == 1 {
            writer.clear_sr();
        }
        Ok(writer)
    }

    fn new(memory: ReelMemory, generation: u64) -> ReelWriter {
        ReelWriter {
            memory,
            generation,
            head: 0,
            tail: 0,
            recent: 0,
            keyframe: 0,
            bytes: 0,
            packets_in: vec![0; SLABS_PER_STREAM_MAX].into_boxed_slice(),
            current: None,
            write_offset: 0,
            late: 0,
            refused: 0,
        }
    }

    /// Takes a packet without a dependency descriptor in.
    pub fn push(&mut self, meta: &SlotMeta, payload: &[u8], slabs: &mut impl Slabs) -> Result<(), ReelError> {
        self.push_described(meta, payload, &[], slabs)
    }

    /// Takes a packet in. A packet beyond the head leaves holes; one before it goes into its own slot.
    pub fn push_described(
        &mut self,
        meta: &SlotMeta,
        payload: &[u8],
        descriptor: &[u8],
        slabs: &mut impl Slabs,
    ) -> Result<(), ReelError> {
        let index = meta.index;
        if index >= INDEX_MASK {
            return Err(ReelError::IndexRange { index });
        }
        let padding = padding_of(meta.flags);
        let length = payload.len() + padding.len() + descriptor.len();
        if length > DATAGRAM_SIZE_MAX {
            return Err(ReelError::TooLarge { length });
        }
        if index < self.tail {
            return Err(ReelError::TooLate { index });
        }
        if index < self.head && self.find(index).is_some() {
            return Err(ReelError::Duplicate { index });
        }
        let Some((slab, offset)) = self.place_for(length, meta.arrival, slabs) else {
            self.refused += 1;
            return Err(ReelError::PoolDry);
        };
        // The ring's end: what stands in this packet's slot, and all before it, goes.
        self.drop_before((index + 1).saturating_sub(SLOTS), slabs);
        while self.bytes + payload.len() > REEL_BYTES_MAX {
            self.drop_before(self.tail + 1, slabs);
        }
        if index < self.tail {
            // What was dropped for a slab, or for the bytes, reached beyond this late packet.
            return Err(ReelError::TooLate { index });
        }
        self.memory.write_payload(slab, offset, payload);
        if !padding.is_empty() {
            self.memory.write_payload(slab, offset + payload.len(), padding);
        }
        if !descriptor.is_empty() {
            self.memory.write_payload(slab, offset + payload.len() + padding.len(), descriptor);
        }
        self.packets_in[slab as usize] += 1;
        self.bytes += payload.len();

        let slot = self.memory.slot(index);
        slot.word.store(0, Relaxed);
        // Whoever sees a word written below also sees that the old word is gone.
        fence(Release);
        slot.arrival.store(meta.arrival.0, Relaxed);
        slot.meta.store(pack_meta(meta), Relaxed);
        let bytes = &self.memory.header().bytes;
        let before = bytes.load(Relaxed);
        slot.before.store(before, Relaxed);
        bytes.store(before.wrapping_add(payload.len() as u64), Relaxed);
        slot.bytes.store(u64::from(slab) | (offset as u64) << 32 | (payload.len() as u64) << 48, Relaxed);
        let is_late = index < self.head;
        slot.late.store(if is_late { self.late + 1 } else { 0 }, Relaxed);
        slot.descriptor.store(descriptor.len() as u64, Relaxed);
        slot.word.store(word(self.generation, index), Release);
        let header = self.memory.header();
        if is_late {
            // Whoever sees the entry written over below also sees the count that makes the old one invalid.
            fence(Release);
            header.late[self.late as usize % LATE_LIST].store(index, Relaxed);
            self.late += 1;
            header.late_count.store(self.late, Release);
        } else {
            self.head = index + 1;
            header.head.store(self.head, Release);
        }
        Ok(())
    }

    /// Marks `index` as the first packet of the newest picture that a viewer can begin with. False if the packet
    /// is not in the reel.
    pub fn set_keyframe(&mut self, index: u64) -> bool {
        if self.find(index).is_none() {
            return false;
        }
        self.memory.slot(index).meta.fetch_or(u64::from(SlotFlags::KEYFRAME.0) << 32, Relaxed);
        self.keyframe = index + 1;
        self.memory.header().keyframe.store(self.keyframe, Release);
        true
    }

    /// Drops what need not be kept: all before the newest keyframe, but nothing younger than `NACK_WINDOW`, nor than the
    /// pictures that `beside` is the time of.
    pub fn trim(&mut self, now: Time, beside: Option<Time>, slabs: &mut impl Slabs) {
        let entry = if self.keyframe > self.tail { self.keyframe - 1 } else { self.head };
        let oldest = now - NACK_WINDOW;
        let kept = beside.filter(|beside| *beside < oldest);
        self.drop_older(kept.unwrap_or(oldest), entry, slabs);
        self.recent = self.recent.max(self.tail);
        if kept.is_some() {
            while self.recent < entry && self.find(self.recent).is_none_or(|found| found.arrival < oldest) {
                self.recent += 1;
            }
        }
        self.memory.header().recent.store(self.recent, Release);
    }

    /// When the picture came that a viewer can begin with, as long as it stands here.
    pub fn keyframe_at(&self) -> Option<Time> {
        let index = self.keyframe.checked_sub(1)?;
        self.find(index).map(|found| found.arrival)
    }

    /// Drops packets before `limit` that came before `oldest`.
    fn drop_older(&mut self, oldest: Time, limit: u64, slabs: &mut impl Slabs) {
        let mut index = self.tail;
        while index < limit {
            if let Some(found) = self.find(index) {
                if found.arrival >= oldest {
                    return;
                }
                self.drop_before(index + 1, slabs);
            }
            index += 1;
        }
    }

    /// Drops everything and gives all slabs back: the track is gone.
    pub fn close(mut self, slabs: &mut impl Slabs) {
        self.drop_before(self.head, slabs);
        if let Some(slab) = self.current.take() {
            slabs.give_back(slab);
        }
        self.memory.header().keyframe.store(0, Release);
        self.memory.header().open.store(0, Release);
    }

    /// Whose packets stand here, for readers in other processes.
    pub fn set_stream(&mut self, stream: StreamId) {
        self.memory.header().stream.store(stream.to_bits(), Release);
    }

    /// The slabs this reel holds: what a pool that is counted anew must not give out.
    pub fn slabs_held(&self) -> impl Iterator<Item = u32> + '_ {
        (0..SLABS_PER_STREAM_MAX as u32)
            .filter(|slab| self.packets_in[*slab as usize] > 0 || self.current == Some(*slab))
    }

    /// The publisher's latest sender report.
    pub fn set_sr(&mut self, mapping: &SrMapping) {
        self.write_sr(1, mapping);
    }

    /// Another publisher from now on: its timeline is not known before its own sender report.
    pub fn set_publisher_epoch(&mut self, epoch: u32) {
        self.clear_sr();
        let header = self.memory.header();
        header.epoch_from.store(self.head, Release);
        header.publisher_epoch.store(u64::from(epoch), Release);
    }

    /// Whether the publisher answers keyframe requests, for whoever reads.
    pub fn set_deaf(&mut self, deaf: bool) {
        self.memory.header().deaf.store(u64::from(deaf), Release);
    }

    pub fn head(&self) -> u64 {
        self.head
    }
    pub fn tail(&self) -> u64 {
        self.tail
    }
    /// Payload bytes in the reel.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// Packets refused because no slab was left.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn clear_sr(&mut self) {
        self.write_sr(0, &SrMapping::default());
    }

    fn write_sr(&mut self, valid: u64, mapping: &SrMapping) {
        let header = self.memory.header();
        let lock = header.sr_lock.load(Relaxed) | 1;
        header.sr_lock.store(lock, Relaxed);
        fence(Release);
        header.sr_valid.store(valid, Relaxed);
        header.sr_ntp.store(mapping.ntp.0, Relaxed);
        header.sr_timestamp.store(u64::from(mapping.timestamp), Relaxed);
        header.sr_arrival.store(mapping.arrival.0, Relaxed);
        header.sr_lock.store(lock.wrapping_add(1), Release);
    }

    /// Where the next payload goes. Without a slab, what is older than the window goes first, keyframe or not.
    fn place_for(&mut self, length: usize, now: Time, slabs: &mut impl Slabs) -> Option<(u32, usize)> {
        // An empty payload needs an offset inside the slab too.
        if self.current.is_none() || self.write_offset + length.max(1) > SLAB_BYTES {
            let taken = slabs.take().or_else(|| {
                self.trim(now, None, slabs);
                self.drop_older(now - NACK_WINDOW, self.head, slabs);
                slabs.take()
            });
            let slab = taken.filter(|slab| (*slab as usize) < SLABS_PER_STREAM_MAX)?;
            let full = self.current.replace(slab);
            self.write_offset = 0;
            if let Some(full) = full.filter(|full| self.packets_in[*full as usize] == 0) {
                slabs.give_back(full);
            }
        }
        let offset = self.write_offset;
        self.write_offset = (offset + length).next_multiple_of(PAYLOAD_ALIGN);
        Some((self.current?, offset))
    }

    /// Drops all packets before `limit`; at most one ring's length of work.
    fn drop_before(&mut self, limit: u64, slabs: &mut impl Slabs) {
        if limit <= self.tail {
            return;
        }
        for index in self.tail..limit.min(self.head) {
            let Some(found) = self.find(index) else { continue };
            self.memory.slot(index).word.store(0, Release);
            self.bytes -= found.length;
            let packets = &mut self.packets_in[found.slab as usize];
            *packets -= 1;
            if *packets == 0 && self.current != Some(found.slab) {
                slabs.give_back(found.slab);
            }
        }
        self.tail = limit;
        self.memory.header().tail.store(limit, Release);
        // Who reads bytes that are written over from here on also reads that the words are gone.
        fence(Release);
    }

    /// The packet `index` as it stands in its slot.
    fn find(&self, index: u64) -> Option<Found> {
        if index >= INDEX_MASK {
            return None;
        }
        read_slot(self.memory.slot(index), word(self.generation, index))
            .filter(|found| (found.slab as usize) < SLABS_PER_STREAM_MAX && found.offset + found.length <= SLAB_BYTES)
    }
}

/// A reader of a reel. What it borrows is valid for the tick.
pub struct ReelReader {
    pub(super) memory: ReelMemory,
    pub(super) generation: u64,
}

impl ReelReader {
    /// Reads the reel that stands at `place` now. Whatever the file holds, reading it is harmless.
    ///
    /// # Safety
    /// `base..base + len` is a readable shared mapping that outlives the reader. Its slabs are quarantined as `Slabs`
    /// demands, and no slot is kept beyond the tick in which it was read.
    pub unsafe fn attach(base: *mut u8, len: usize, place: usize) -> Result<ReelReader, AttachError> {
        // JUSTIFICATION: the mapping comes as an address.
        // SAFETY: passed on to the caller.
        let memory = unsafe { ReelMemory::new(base, len, place) }?;
        let generation = check(&memory)?;
        Ok(ReelReader { memory, generation })
    }

    /// False once another reel was made at this place.
    pub fn is_current(&self) -> bool {
        self.memory.header().generation.load(Acquire) == self.generation
    }
    /// One past the newest index.
    #[inline]
    pub fn head(&self) -> u64 {
        self.memory.header().head.load(Acquire)
    }
    /// The oldest index that may be read.
    #[inline]
    pub fn tail(&self) -> u64 {
        self.memory.header().tail.load(Acquire)
    }
    /// The oldest index that a reader which goes on where it was should go on with; what is older is for those that
    /// want all there is.
    #[inline]
    pub fn recent(&self) -> u64 {
        self.memory.header().recent.load(Acquire).max(self.tail())
    }
    pub fn publisher_epoch(&self) -> u32 {
        self.memory.header().publisher_epoch.load(Acquire) as u32
    }
    /// Index of the first packet of the newest picture that a viewer can begin with, if the reel still has it.
    pub fn keyframe(&self) -> Option<u64> {
        let index = self.memory.header().keyframe.load(Acquire).checked_sub(1)?;
        self.slot(index).map(|_| index)
    }

    /// Payload bytes that came with `index` and since.
    pub fn bytes_since(&self, index: u64) -> u64 {
        let before = self.memory.slot(index).before.load(Relaxed);
        self.memory.header().bytes.load(Relaxed).wrapping_sub(before)
    }
    /// The publisher does not answer keyframe requests.
    pub fn is_deaf(&self) -> bool {
        self.memory.header().deaf.load(Acquire) != 0
    }

    /// The packet `index`; None if it is a hole, no longer or not yet here.
    #[inline]
    pub fn slot(&self, index: u64) -> Option<Slot<'_>> {
        if index >= INDEX_MASK {
            return None;
        }
        let found = read_slot(self.memory.slot(index), word(self.generation, index))?;
        let meta = unpack_meta(index, found.arrival, found.meta)?;
        let length = found.length + padding_of(meta.flags).len();
        let bytes = self.memory.payload(found.slab, found.offset, length.checked_add(found.descriptor)?)?;
        let (padded, descriptor) = bytes.split_at_checked(length)?;
        Some(Slot { meta, payload: padded.get(..found.length)?, padded, descriptor, late: found.late })
    }

    /// How many packets came behind the newest so far.
    #[inline]
    pub fn late_count(&self) -> u64 {
        self.memory.header().late_count.load(Acquire)
    }

    /// The index of late packet `number`, counted from 0; None once `LATE_LIST` others came after it.
    pub fn late(&self, number: u64) -> Option<u64> {
        let header = self.memory.header();
        let index = header.late[number as usize % LATE_LIST].load(Relaxed);
        fence(Acquire);
        (header.late_count.load(Relaxed) < number.saturating_add(LATE_LIST as u64)).then_some(index)
    }

    /// True if the reel reached beyond `index`, still has its place, and no packet came.
    pub fn missing(&self, index: u64) -> bool {
        index < self.head() && index >= self.tail() && self.slot(index).is_none()
    }

    /// The publisher's latest sender report, once there was one.
    pub fn sr(&self) -> Option<SrMapping> {
        let header = self.memory.header();
        for _ in 0..SR_ATTEMPTS {
            let lock = header.sr_lock.load(Acquire);
            let valid = header.sr_valid.load(Relaxed);
            let mapping = SrMapping {
                ntp: NtpTime(header.sr_ntp.load(Relaxed)),
                timestamp: header.sr_timestamp.load(Relaxed) as u32,
                arrival: Time(header.sr_arrival.load(Relaxed)),
            };
            fence(Acquire);
            if lock.is_multiple_of(2) && header.sr_lock.load(Relaxed) == lock {
                return (valid == 1).then_some(mapping);
            }
        }
        None
    }
}

/// The generation of the reel that stands there.
fn check(memory: &ReelMemory) -> Result<u64, AttachError> {
    let file = memory.file();
    if file.magic.load(Acquire) != REEL_MAGIC {
        return Err(AttachError::NoReel);
    }
    let version = file.version.load(Relaxed);
    if version != REEL_VERSION {
        return Err(AttachError::Version { found: version });
    }
    let sizes = [&file.slots, &file.slab_bytes, &file.slabs, &file.places].map(|word| word.load(Relaxed));
    if sizes != [SLOTS, SLAB_BYTES as u64, SLABS_PER_STREAM_MAX as u64, TRACKS_PER_STREAM_MAX as u64] {
        return Err(AttachError::Limits);
    }
    let generation = memory.header().generation.load(Acquire);
    if generation & 0xFFFF == 0 { Err(AttachError::NoReel) } else { Ok(generation) }
}

/// Words of a slot that belong together.
pub(super) struct Found {
    pub arrival: Time,
    pub meta: u64,
    pub slab: u32,
    pub offset: usize,
    pub length: usize,
    descriptor: usize,
    late: u64,
}

/// Reads a slot if `word` stands in it before and after.
#[inline]
pub(super) fn read_slot(slot: &SlotWords, word: u64) -> Option<Found> {
    read_slot_around(slot, word, || {})
}

/// `meanwhile` is what a writer does after the first look: on a real machine that is too rare to be tested.
#[inline]
fn read_slot_around(slot: &SlotWords, word: u64, meanwhile: impl FnOnce()) -> Option<Found> {
    if slot.word.load(Acquire) != word {
        return None;
    }
    meanwhile();
    let (arrival, meta, bytes) = (slot.arrival.load(Relaxed), slot.meta.load(Relaxed), slot.bytes.load(Relaxed));
    let (late, descriptor) = (slot.late.load(Relaxed), slot.descriptor.load(Relaxed));
    fence(Acquire);
    (slot.word.load(Relaxed) == word).then_some(Found {
        arrival: Time(arrival),
        meta,
        slab: bytes as u32,
        offset: usize::from((bytes >> 32) as u16),
        length: usize::from((bytes >> 48) as u16),
        descriptor: descriptor as usize,
        late,
    })
}

/// RFC 3550 section 5.1: the last byte of padding says how many bytes it has, itself counted.
#[inline]
fn padding_of(flags: SlotFlags) -> &'static [u8] {
    if flags.contains(SlotFlags::PADDED) { &[1] } else { &[] }
}

#[inline]
pub(super) fn word(generation: u64, index: u64) -> u64 {
    generation << 48 | (index + 1) & INDEX_MASK
}

fn pack_meta(meta: &SlotMeta) -> u64 {
    u64::from(meta.timestamp) | u64::from(meta.flags.0) << 32 | (meta.codec as u64) << 48 | u64::from(meta.layer) << 56
}

#[inline]
pub(super) fn unpack_meta(index: u64, arrival: Time, meta: u64) -> Option<SlotMeta> {
    Some(SlotMeta {
        index,
        timestamp: meta as u32,
        arrival,
        flags: SlotFlags((meta >> 32) as u16),
        codec: Codec::from_u8((meta >> 48) as u8)?,
        layer: (meta >> 56) as u8,
    })
}

#[cfg(test)]
mod tests;

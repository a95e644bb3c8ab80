//! The record table: a shard's safe view of the segment that outlives the engine.
//!
//! Every slot has one owner, a shard of this engine; a `Table` gives out only what its shard owns. Session
//! and feed slots are dealt out by `Owners`; a stream, with its tracks and reels, belongs to the shard that
//! first attached a track to it.

use crate::shm::Mapping;
use spillway_proto::id::{Codec, FeedId, SessionId, StreamId, TrackId};
use spillway_proto::limits::{
    FEEDS_MAX, FEEDS_PER_SESSION_MAX, PUBLISHERS_MAX, SESSIONS_MAX, TRACKS_MAX, TRACKS_PER_STREAM_MAX,
};
use spillway_proto::session::record::{
    FeedRecord, NIL, RECORDS_BYTES, RECORDS_MAGIC, RECORDS_VERSION, Records, RecordsHeader, ReelRecord, SessionRecord,
    TrackRecord,
};
use std::ptr::{addr_of_mut, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordsError {
    #[error("the record segment has {0} bytes, this engine needs {RECORDS_BYTES}: start the supervisor and the engine from the same build")]
    Size(usize),
    #[error("the record segment is of layout {0}, this engine writes {RECORDS_VERSION}: stop and start the supervisor")]
    Version(u32),
}

/// Which shard owns what; shared by all shards of the process.
pub struct Owners {
    shards: u32,
    sessions: Box<[AtomicU8]>,
    /// Shard + 1, or 0 while the stream's place is free.
    streams: Box<[AtomicU8]>,
    /// A live track's generation (upper half) and codec (lower half), 0 while the index is free: what other
    /// shards must know of a track before they attach a feed to it.
    tracks: Box<[AtomicU64]>,
    /// Shards with feeds of a track, a bit each.
    readers: Box<[AtomicU64]>,
}

impl Owners {
    pub fn new(shards: u32) -> Owners {
        Owners {
            shards,
            sessions: (0..SESSIONS_MAX).map(|slot| AtomicU8::new((slot as u32 % shards) as u8)).collect(),
            streams: (0..PUBLISHERS_MAX).map(|_| AtomicU8::new(0)).collect(),
            tracks: (0..TRACKS_MAX).map(|_| AtomicU64::new(0)).collect(),
            readers: (0..TRACKS_MAX).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub fn shards(&self) -> u32 {
        self.shards
    }

    pub fn of_session(&self, slot: u32) -> Option<usize> {
        Some(usize::from(self.sessions.get(slot as usize)?.load(Ordering::Acquire)))
    }

    pub fn of_track(&self, track: u32) -> Option<usize> {
        let owner = self.streams.get(track as usize / TRACKS_PER_STREAM_MAX)?.load(Ordering::Acquire);
        usize::from(owner).checked_sub(1)
    }

    /// Takes the stream's place for a shard; false if another shard has it.
    pub fn claim_stream(&self, stream: StreamId, shard: usize) -> bool {
        let Some(owner) = self.streams.get(stream.index as usize) else { return false };
        let mine = shard as u8 + 1;
        owner.compare_exchange(0, mine, Ordering::AcqRel, Ordering::Acquire).is_ok_and(|_| true)
            || owner.load(Ordering::Acquire) == mine
    }

    pub fn release_stream(&self, stream: u32) {
        if let Some(owner) = self.streams.get(stream as usize) {
            owner.store(0, Ordering::Release);
        }
    }

    /// A track exists from now on with this codec, or (None) no longer.
    pub fn publish_track(&self, track: TrackId, codec: Option<Codec>) {
        if let Some(word) = self.tracks.get(track.index as usize) {
            let value = codec.map_or(0, |codec| u64::from(track.generation) << 32 | codec as u64);
            word.store(value, Ordering::Release);
        }
    }

    /// What is coded in a track; None once it is gone.
    pub fn track_codec(&self, track: TrackId) -> Option<Codec> {
        let word = self.tracks.get(track.index as usize)?.load(Ordering::Acquire);
        ((word >> 32) as u32 == track.generation).then(|| Codec::from_u8(word as u8))?
    }

    pub fn add_reader(&self, track: u32, shard: usize) {
        self.readers[track as usize].fetch_or(1 << shard, Ordering::SeqCst);
    }

    pub fn remove_reader(&self, track: u32, shard: usize) {
        self.readers[track as usize].fetch_and(!(1 << shard), Ordering::SeqCst);
    }

    pub fn readers(&self, track: u32) -> u64 {
        self.readers[track as usize].load(Ordering::SeqCst)
    }
}

/// The slots of one kind a shard may hand out: freed ones first, then the next never used.
struct Slots {
    free: Vec<u32>,
    next: u32,
    step: u32,
    max: u32,
}

impl Slots {
    fn new(shard: usize, shards: u32, max: usize) -> Slots {
        Slots { free: Vec::with_capacity(max / shards as usize + 1), next: shard as u32, step: shards, max: max as u32 }
    }
    fn used(&self) -> usize {
        (self.next / self.step) as usize - self.free.len()
    }
    fn take(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = self.next;
        (slot < self.max).then(|| self.next += self.step)?;
        Some(slot)
    }
}

/// Maps the segment for a new engine: the previous one is gone (its exit is certain before an engine is
/// started), its sessions are not taken over yet, so every record is freed; generations stay, so that an
/// old name never means a new session. Returns the owner epoch.
pub fn take_ownership(segment: &Mapping, shards: u32) -> Result<u64, RecordsError> {
    if segment.length() < RECORDS_BYTES {
        return Err(RecordsError::Size(segment.length()));
    }
    let records = segment.start().as_ptr().cast::<Records>();
    // JUSTIFICATION: the segment is plain shared memory; records are written in place.
    // SAFETY: the mapping is at least RECORDS_BYTES long and page aligned; all zeros and any other bytes are
    // valid values of these plain-data types; no shard runs yet, so this is the only access.
    unsafe {
        let header: &mut RecordsHeader = &mut *addr_of_mut!((*records).header);
        if header.magic == RECORDS_MAGIC && header.version != RECORDS_VERSION {
            return Err(RecordsError::Version(header.version));
        }
        header.magic = RECORDS_MAGIC;
        header.version = RECORDS_VERSION;
        header.shards = shards;
        header.session_bytes = size_of::<SessionRecord>() as u32;
        header.feed_bytes = size_of::<FeedRecord>() as u32;
        header.track_bytes = size_of::<TrackRecord>() as u32;
        let used = |high: &AtomicU32, max: usize| (high.load(Ordering::Relaxed) as usize).min(max);
        for slot in 0..used(&header.session_high, SESSIONS_MAX) {
            let record = &mut *addr_of_mut!((*records).sessions[slot]);
            free_session(record);
        }
        for slot in 0..used(&header.feed_high, FEEDS_MAX) {
            let record = &mut *addr_of_mut!((*records).feeds[slot]);
            record.generation_last = record.generation.max(record.generation_last);
            record.generation = 0;
        }
        for slot in 0..used(&header.track_high, TRACKS_MAX) {
            let record = &mut *addr_of_mut!((*records).tracks[slot]);
            record.generation_last = record.generation.max(record.generation_last);
            record.generation = 0;
        }
        Ok(header.owner_epoch.fetch_add(1, Ordering::AcqRel) + 1)
    }
}

/// Keys do not stay in memory longer than their session.
fn free_session(record: &mut SessionRecord) {
    let generation_last = record.generation.max(record.generation_last);
    // SAFETY: all zeros is a valid, free record by definition of the segment.
    // JUSTIFICATION: the record has atomics and arrays without Default.
    *record = unsafe { std::mem::zeroed() };
    record.generation_last = generation_last;
}

fn next_generation(last: u32) -> u32 {
    last.wrapping_add(1).max(1)
}

/// One shard's view.
pub struct Table {
    records: NonNull<Records>,
    /// Keeps the mapping alive.
    _segment: Arc<Mapping>,
    owners: Arc<Owners>,
    shard: usize,
    shards: u32,
    sessions: Slots,
    feeds: Slots,
}

// SAFETY: the pointer is into a mapping that lives as long as the table; see `session` for aliasing.
// JUSTIFICATION: a table is made by the start-up and moved to its shard's thread.
unsafe impl Send for Table {}

impl Table {
    pub fn new(segment: Arc<Mapping>, owners: Arc<Owners>, shard: usize) -> Result<Table, RecordsError> {
        if segment.length() < RECORDS_BYTES {
            return Err(RecordsError::Size(segment.length()));
        }
        let records = segment.start().cast::<Records>();
        let shards = owners.shards();
        Ok(Table {
            records,
            _segment: segment,
            sessions: Slots::new(shard, shards, SESSIONS_MAX),
            feeds: Slots::new(shard, shards, FEEDS_MAX),
            owners,
            shard,
            shards,
        })
    }

    fn header(&self) -> &RecordsHeader {
        // JUSTIFICATION: the segment is plain shared memory.
        // SAFETY: in bounds; after `take_ownership` only atomics of the header are written.
        unsafe { &*addr_of_mut!((*self.records.as_ptr()).header) }
    }

    /// The record in a slot of ours, free or not.
    fn session_slot(&mut self, slot: u32) -> Option<&mut SessionRecord> {
        if self.owners.of_session(slot) != Some(self.shard) {
            return None;
        }
        // JUSTIFICATION: records are written in place in shared memory.
        // SAFETY: in bounds (of_session knows only SESSIONS_MAX slots); exactly one table of the process owns
        // the slot, and the borrow of that table is exclusive.
        Some(unsafe { &mut *addr_of_mut!((*self.records.as_ptr()).sessions[slot as usize]) })
    }

    /// A live session of this shard by its slot.
    pub fn session(&mut self, slot: u32) -> Option<&mut SessionRecord> {
        self.session_slot(slot).filter(|record| record.generation != 0)
    }

    pub fn add_session(&mut self) -> Option<(SessionId, &mut SessionRecord)> {
        let slot = self.sessions.take()?;
        self.header().session_high.fetch_max(slot + 1, Ordering::AcqRel);
        let record = self.session_slot(slot)?;
        record.generation = next_generation(record.generation_last);
        record.feed_first = NIL;
        record.track_first = NIL;
        Some((SessionId::new(slot, record.generation), record))
    }

    pub fn remove_session(&mut self, slot: u32) {
        if let Some(record) = self.session(slot) {
            free_session(record);
            self.sessions.free.push(slot);
        }
    }

    /// The record in a feed's slot of ours. Feeds live on their session's shard, dealt out like sessions.
    pub fn feed(&mut self, slot: u32) -> Option<&mut FeedRecord> {
        // Asked several times a turn: no division where there is nobody else.
        if slot as usize >= FEEDS_MAX || self.shards > 1 && slot % self.shards != self.shard as u32 {
            return None;
        }
        // JUSTIFICATION and SAFETY: as in `session_slot`; a feed's slot never changes its owner.
        Some(unsafe { &mut *addr_of_mut!((*self.records.as_ptr()).feeds[slot as usize]) })
    }

    pub fn add_feed(&mut self) -> Option<(FeedId, &mut FeedRecord)> {
        let slot = self.feeds.take()?;
        self.header().feed_high.fetch_max(slot + 1, Ordering::AcqRel);
        let record = self.feed(slot)?;
        let generation = next_generation(record.generation_last);
        // JUSTIFICATION: the record has atomics and arrays without Default.
        // SAFETY: all zeros is a valid, free record by definition of the segment.
        *record = unsafe { std::mem::zeroed() };
        record.generation = generation;
        record.next = NIL;
        Some((FeedId::new(slot, generation), record))
    }

    pub fn remove_feed(&mut self, slot: u32) {
        let Some(record) = self.feed(slot).filter(|record| record.generation != 0) else { return };
        record.generation_last = record.generation;
        record.generation = 0;
        let (session, next) = (record.session, record.next);
        self.feeds.free.push(slot);
        self.unlink_feed(session, slot, next);
    }

    /// A session's list names its feeds and no others: a slot is another's soon.
    fn unlink_feed(&mut self, session: u32, slot: u32, next: u32) {
        let Some(record) = self.session(session) else { return };
        let mut at = record.feed_first;
        if at == slot {
            record.feed_first = next;
            return;
        }
        for _ in 0..FEEDS_PER_SESSION_MAX {
            let Some(record) = self.feed(at) else { return };
            if record.next == slot {
                record.next = next;
                return;
            }
            at = record.next;
        }
    }

    /// Feeds of this shard now.
    pub fn feeds_used(&self) -> usize {
        self.feeds.used()
    }

    /// The record at a track's index, if the stream is ours.
    fn track_slot(&mut self, track: u32) -> Option<&mut TrackRecord> {
        if self.owners.of_track(track) != Some(self.shard) {
            return None;
        }
        // JUSTIFICATION: records are written in place in shared memory.
        // SAFETY: in bounds (of_track knows only TRACKS_MAX); a stream has one owner.
        Some(unsafe { &mut *addr_of_mut!((*self.records.as_ptr()).tracks[track as usize]) })
    }

    pub fn track(&mut self, track: u32) -> Option<&mut TrackRecord> {
        self.track_slot(track).filter(|record| record.generation != 0)
    }

    pub fn reel(&mut self, track: u32) -> Option<&mut ReelRecord> {
        if self.owners.of_track(track) != Some(self.shard) {
            return None;
        }
        // JUSTIFICATION and SAFETY: as in `track_slot`.
        Some(unsafe { &mut *addr_of_mut!((*self.records.as_ptr()).reels[track as usize]) })
    }

    /// A new track at a free place of a stream of ours.
    pub fn add_track(&mut self, stream: StreamId) -> Option<(TrackId, &mut TrackRecord)> {
        let first = stream.index * TRACKS_PER_STREAM_MAX as u32;
        let mut places = first..first + TRACKS_PER_STREAM_MAX as u32;
        let index = places.find(|&place| self.track_slot(place).is_some_and(|record| record.generation == 0))?;
        self.header().track_high.fetch_max(index + 1, Ordering::AcqRel);
        let record = self.track_slot(index)?;
        let generation = next_generation(record.generation_last);
        // JUSTIFICATION: the record has arrays without Default.
        // SAFETY: all zeros is a valid, free record by definition of the segment.
        *record = unsafe { std::mem::zeroed() };
        record.generation = generation;
        record.stream = stream.index;
        record.stream_generation = stream.generation;
        record.session = NIL;
        record.next = NIL;
        Some((TrackId::new(index, generation), record))
    }

    pub fn remove_track(&mut self, track: u32) {
        if let Some(record) = self.track(track) {
            record.generation_last = record.generation;
            record.generation = 0;
        }
    }
}

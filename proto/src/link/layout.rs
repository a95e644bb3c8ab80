//! The layout of the link's memory, and the handle everybody works with.
//!
//! ```text
//!    header     magic, version, sizes | engine epoch and facts | control epoch, parked flag
//!    tracks     TRACKS_MAX x TrackStats
//!    sessions   SESSIONS_MAX x SessionStats
//!    shards     SHARDS_MAX x { parked flag, counters, histograms, error log, event ring, command ring }
//! ```
//!
//! The supervisor makes it, engine and control attach. The memory is sparse: what no shard uses is never
//! touched. All of it is atomics, for which any bytes are valid: a hostile header is refused by `attach`,
//! and hostile contents behind it are wrong numbers, checked where they are read.
//!
//! Versions: a build attaches to a link of its own version, or of the one before if `VERSION_OLDEST` says that
//! it speaks it; never to a later one.

use super::command::Fingerprint;
use super::counters::{COUNTERS_MAX, Counters, TrackStats};
use super::error_log::{ERROR_TEXT_BYTES, ErrorLog};
use super::quality::{Counted, HISTOGRAMS_MAX, Histogram, HistogramId, SessionStats};
use super::ring::{CommandReader, CommandWriter, EventReader, EventWriter, Shared, command_ring_words, event_ring_words};
use crate::limits::{
    COMMAND_SLOT_BYTES, COMMAND_SLOTS, ERRORS_MAX, EVENT_SLOT_BYTES, EVENT_SLOTS, SESSIONS_MAX, SHARDS_MAX, TRACKS_MAX,
};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

pub const LINK_MAGIC: u64 = u64::from_le_bytes(*b"SPILLINK");
pub const LINK_VERSION: u32 = 2;
/// The oldest version this build speaks: `LINK_VERSION`, or the one before.
const VERSION_OLDEST: u32 = 2;
/// Bytes of the whole link, for any number of shards.
pub const LINK_BYTES: usize = size_of::<LinkMemory>();

/// A reader that meets a writer in the middle of the engine's facts tries this often.
const FACTS_READS_MAX: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the link is {found} bytes long, {LINK_BYTES} are needed: restart the supervisor, so that it makes a new one")]
    TooShort { found: usize },
    #[error("the link is mapped at an address that is no multiple of {}", align_of::<LinkMemory>())]
    Misaligned,
    #[error("this is no link: the descriptor handed over is of another file, or the supervisor has not made it yet")]
    NotALink,
    #[error("the link has version {found}, this build speaks {VERSION_OLDEST} to {LINK_VERSION}: restart the supervisor with the same build")]
    Version { found: u32 },
    #[error("the link is for {found} shards, 1 to {SHARDS_MAX} are possible")]
    Shards { found: u32 },
    #[error("the link's sizes are not those of version {LINK_VERSION}: restart the supervisor with the same build")]
    Sizes,
}

/// Which backend the engine took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum IoKind {
    Uring = 1,
    Socket = 2,
    /// Media as frames past UDP; `uring` or `socket` below.
    Frames = 3,
}

impl IoKind {
    /// As `--io` and node.json write it.
    pub const fn name(self) -> &'static str {
        match self {
            IoKind::Uring => "uring",
            IoKind::Socket => "socket",
            IoKind::Frames => "frames",
        }
    }
}

/// What control must know of an engine before it can use it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineFacts {
    /// Of the certificate the engine shows in handshakes.
    pub fingerprint: Fingerprint,
    pub io: IoKind,
    /// Segments per send, 0 = off.
    pub gso_segments: u16,
}

const FACTS_WORDS: usize = 5;

impl EngineFacts {
    fn to_words(self) -> [u64; FACTS_WORDS] {
        let mut words = [0; FACTS_WORDS];
        for (word, chunk) in words.iter_mut().zip(self.fingerprint.0.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        words[4] = self.io as u64 | u64::from(self.gso_segments) << 16;
        words
    }

    fn from_words(words: [u64; FACTS_WORDS]) -> Option<EngineFacts> {
        let mut fingerprint = [0; 32];
        for (chunk, word) in fingerprint.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *chunk = word.to_le_bytes();
        }
        let io = match words[4] & 0xFFFF {
            1 => IoKind::Uring,
            2 => IoKind::Socket,
            3 => IoKind::Frames,
            _ => return None,
        };
        let gso_segments = u16::try_from(words[4] >> 16).ok()?;
        Some(EngineFacts { fingerprint: Fingerprint(fingerprint), io, gso_segments })
    }
}

#[repr(C, align(128))]
struct Identity {
    magic: AtomicU64,
    version: AtomicU32,
    shards: AtomicU32,
    sizes: [AtomicU64; SIZES_WORDS],
}

const SIZES_WORDS: usize = 10;
/// What must be equal on both sides for the areas to be where they are looked for.
const SIZES: [u64; SIZES_WORDS] = [
    LINK_BYTES as u64,
    SHARDS_MAX as u64,
    COMMAND_SLOTS as u64,
    COMMAND_SLOT_BYTES as u64,
    EVENT_SLOTS as u64,
    EVENT_SLOT_BYTES as u64,
    COUNTERS_MAX as u64,
    TRACKS_MAX as u64,
    ERRORS_MAX as u64,
    ERROR_TEXT_BYTES as u64,
];

#[repr(C, align(128))]
struct EngineState {
    /// Grows with each engine's start; 0 before the first.
    epoch: AtomicU64,
    /// The epoch whose facts stand below; anything else: not ready.
    ready_epoch: AtomicU64,
    facts: [AtomicU64; FACTS_WORDS],
}

#[repr(C, align(128))]
struct ControlState {
    epoch: AtomicU64,
    parked: AtomicU32,
}

#[repr(C, align(128))]
struct Parked(AtomicU32);

#[repr(C, align(4096))]
struct ShardArea {
    parked: Parked,
    counters: Counters,
    histograms: [Histogram; HISTOGRAMS_MAX],
    errors: ErrorLog,
    events: RingWords<{ event_ring_words(EVENT_SLOTS) }>,
    commands: RingWords<{ command_ring_words(COMMAND_SLOTS) }>,
}

#[repr(C, align(128))]
struct RingWords<const N: usize>([AtomicU64; N]);

#[repr(C, align(4096))]
struct LinkMemory {
    identity: Identity,
    engine: EngineState,
    control: ControlState,
    tracks: [TrackStats; TRACKS_MAX],
    /// What an index beyond the table gets; nobody reads it.
    track_beyond: TrackStats,
    sessions: [SessionStats; SESSIONS_MAX],
    session_beyond: SessionStats,
    shards: [ShardArea; SHARDS_MAX],
}

/// A handle over the mapped link. It does not own the mapping.
#[derive(Clone, Copy)]
pub struct Link {
    memory: &'static LinkMemory,
    /// Read once, when it was checked.
    shards: usize,
}

fn version_is_spoken(found: u32, newest: u32, oldest: u32) -> bool {
    let before = newest.saturating_sub(1);
    found == newest || (found == before && found >= oldest && found != 0)
}

impl Link {
    /// Writes the header of a new link into zeroed memory: the supervisor, once.
    ///
    /// # Safety
    /// `base` points to `len` bytes, mapped readable and writable, that stay mapped as long as any handle
    /// made from this one is in use, and that this process touches only through such handles.
    pub unsafe fn create(base: *mut u8, len: usize, shards: u32) -> Result<Link, LinkError> {
        // JUSTIFICATION: the one place that makes a reference of the pointer is `memory`.
        // SAFETY: the caller's promise is the same.
        let memory = unsafe { Link::memory(base, len) }?;
        let count = shards_checked(shards)?;
        let identity = &memory.identity;
        for (word, size) in identity.sizes.iter().zip(SIZES) {
            word.store(size, Ordering::Relaxed);
        }
        identity.shards.store(shards, Ordering::Relaxed);
        identity.version.store(LINK_VERSION, Ordering::Relaxed);
        // Last: a link that was not finished is no link.
        identity.magic.store(LINK_MAGIC, Ordering::Release);
        Ok(Link { memory, shards: count })
    }

    /// Checks the header of a link somebody else made: engine and control.
    ///
    /// # Safety
    /// As for `create`. What stands in the memory may be anything.
    pub unsafe fn attach(base: *mut u8, len: usize) -> Result<Link, LinkError> {
        // JUSTIFICATION: the one place that makes a reference of the pointer is `memory`.
        // SAFETY: the caller's promise is the same.
        let memory = unsafe { Link::memory(base, len) }?;
        let identity = &memory.identity;
        if identity.magic.load(Ordering::Acquire) != LINK_MAGIC {
            return Err(LinkError::NotALink);
        }
        let found = identity.version.load(Ordering::Relaxed);
        if !version_is_spoken(found, LINK_VERSION, VERSION_OLDEST) {
            return Err(LinkError::Version { found });
        }
        let shards = shards_checked(identity.shards.load(Ordering::Relaxed))?;
        if identity.sizes.iter().zip(SIZES).any(|(word, size)| word.load(Ordering::Relaxed) != size) {
            return Err(LinkError::Sizes);
        }
        Ok(Link { memory, shards })
    }

    /// # Safety
    /// As for `create`.
    unsafe fn memory(base: *mut u8, len: usize) -> Result<&'static LinkMemory, LinkError> {
        if len < LINK_BYTES {
            return Err(LinkError::TooShort { found: len });
        }
        if base.is_null() || !base.addr().is_multiple_of(align_of::<LinkMemory>()) {
            return Err(LinkError::Misaligned);
        }
        // JUSTIFICATION: memory shared between processes is reached through a pointer; here it becomes a
        // reference to atomics, once, and everything above works on it in safe code.
        // SAFETY: long enough and aligned (checked above); mapped as long as handles are in use (the caller's
        // promise). LinkMemory consists of atomics and nothing else, so any contents are valid, and other
        // processes storing at the same time are no data race.
        Ok(unsafe { &*base.cast::<LinkMemory>() })
    }

    pub fn shards(&self) -> usize {
        self.shards
    }

    // ---- engine and control ----

    /// An engine begins: not ready until `set_engine_ready`. Returns its epoch.
    pub fn begin_engine_epoch(&self) -> u64 {
        let engine = &self.memory.engine;
        let epoch = engine.epoch.load(Ordering::Acquire).wrapping_add(1).max(1);
        engine.epoch.store(epoch, Ordering::Release);
        epoch
    }

    pub fn engine_epoch(&self) -> u64 {
        self.memory.engine.epoch.load(Ordering::Acquire)
    }

    /// The engine of the present epoch takes commands from now on.
    pub fn set_engine_ready(&self, facts: EngineFacts) {
        let engine = &self.memory.engine;
        // Whoever reads one of the facts below also sees the epoch that `begin_engine_epoch` stored.
        fence(Ordering::Release);
        for (word, value) in engine.facts.iter().zip(facts.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
        engine.ready_epoch.store(engine.epoch.load(Ordering::Relaxed), Ordering::Release);
    }

    /// The engine is gone: the supervisor, as soon as it knows.
    pub fn clear_engine_ready(&self) {
        self.memory.engine.ready_epoch.store(0, Ordering::Release);
    }

    /// The epoch and facts of the engine that takes commands; None while there is none.
    pub fn engine_facts(&self) -> Option<(u64, EngineFacts)> {
        let engine = &self.memory.engine;
        for _ in 0..FACTS_READS_MAX {
            let ready = engine.ready_epoch.load(Ordering::Acquire);
            if ready == 0 || ready != engine.epoch.load(Ordering::Acquire) {
                return None;
            }
            let words = std::array::from_fn(|index| engine.facts[index].load(Ordering::Relaxed));
            // An engine that began meanwhile had stored its epoch before its first fact.
            fence(Ordering::Acquire);
            if engine.epoch.load(Ordering::Relaxed) == ready {
                return EngineFacts::from_words(words).map(|facts| (ready, facts));
            }
        }
        None
    }

    /// A control begins. Returns its epoch.
    pub fn begin_control_epoch(&self) -> u64 {
        let epoch = self.control_epoch().wrapping_add(1).max(1);
        self.memory.control.epoch.store(epoch, Ordering::Release);
        epoch
    }

    pub fn control_epoch(&self) -> u64 {
        self.memory.control.epoch.load(Ordering::Acquire)
    }

    /// Raised while control sleeps on its eventfd; see `park`.
    pub fn control_parked(&self) -> &'static AtomicU32 {
        &self.memory.control.parked
    }

    /// An index beyond the table gets an entry nobody reads; ids that came over the link are inside.
    pub fn track_stats(&self, track_index: usize) -> &'static TrackStats {
        self.memory.tracks.get(track_index).unwrap_or(&self.memory.track_beyond)
    }

    /// Likewise.
    pub fn session_stats(&self, session_index: u32) -> &'static SessionStats {
        self.memory.sessions.get(session_index as usize).unwrap_or(&self.memory.session_beyond)
    }

    // ---- shards ----
    // `shard` is a number from the node's own configuration: one that is not below `shards()` is a bug and panics.

    fn shard(&self, shard: usize) -> &'static ShardArea {
        assert!(shard < self.shards, "shard {shard} of {}", self.shards);
        &self.memory.shards[shard]
    }

    /// Control's end. One at a time per shard in the whole node; two would overwrite each other's commands.
    pub fn commands_writer(&self, shard: usize) -> CommandWriter {
        CommandWriter::attach(&self.shard(shard).commands.0 as Shared)
    }

    /// The shard's end. One at a time.
    pub fn commands_reader(&self, shard: usize) -> CommandReader {
        CommandReader::attach(&self.shard(shard).commands.0 as Shared)
    }

    /// The shard's end. One at a time.
    pub fn events_writer(&self, shard: usize) -> EventWriter {
        EventWriter::attach(&self.shard(shard).events.0 as Shared)
    }

    /// Control's end. One at a time per shard.
    pub fn events_reader(&self, shard: usize) -> EventReader {
        EventReader::attach(&self.shard(shard).events.0 as Shared)
    }

    pub fn counters(&self, shard: usize) -> &'static Counters {
        &self.shard(shard).counters
    }

    /// The sum over all shards.
    pub fn counter_sum(&self, id: super::counters::CounterId) -> u64 {
        (0..self.shards).fold(0, |sum: u64, shard| sum.wrapping_add(self.counters(shard).get(id)))
    }

    pub fn histogram(&self, shard: usize, id: HistogramId) -> &'static Histogram {
        &self.shard(shard).histograms[id as usize]
    }

    /// The sum over all shards.
    pub fn histogram_sum(&self, id: HistogramId) -> Counted {
        let mut counted = Counted::default();
        (0..self.shards).for_each(|shard| self.histogram(shard, id).add_to(&mut counted));
        counted
    }

    pub fn errors(&self, shard: usize) -> &'static ErrorLog {
        &self.shard(shard).errors
    }

    /// Raised while the shard sleeps on its eventfd; see `park`.
    pub fn shard_parked(&self, shard: usize) -> &'static AtomicU32 {
        &self.shard(shard).parked.0
    }
}

fn shards_checked(shards: u32) -> Result<usize, LinkError> {
    let count = shards as usize;
    if (1..=SHARDS_MAX).contains(&count) { Ok(count) } else { Err(LinkError::Shards { found: shards }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::command::{Answer, Command, Status};
    use crate::link::counters::CounterId;
    use crate::link::event::Event;
    use crate::link::ring::Received;
    use crate::id::TrackId;
    use crate::rng::Rng;
    use crate::time::Time;
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    /// Zeroed memory, as the supervisor maps it. It must outlive the test's handles.
    struct Mapping(*mut u8);

    impl Mapping {
        const LAYOUT: Layout = Layout::new::<LinkMemory>();

        fn zeros() -> Mapping {
            // JUSTIFICATION: the layout is 40 MB and stands for mapped memory. SAFETY: not of size 0.
            Mapping(unsafe { alloc_zeroed(Self::LAYOUT) })
        }
        fn create(&self, shards: u32) -> Result<Link, LinkError> {
            // SAFETY: LINK_BYTES of our own, freed after the handles' last use.
            unsafe { Link::create(self.0, LINK_BYTES, shards) }
        }
        fn attach(&self) -> Result<Link, LinkError> {
            // SAFETY: as above.
            unsafe { Link::attach(self.0, LINK_BYTES) }
        }
        /// A header field of `identity`, to be spoiled.
        fn identity(&self) -> &Identity {
            // SAFETY: as above; the memory consists of atomics.
            unsafe { &(*self.0.cast::<LinkMemory>()).identity }
        }
        /// Every word of the first `bytes`.
        fn words(&self, bytes: usize) -> &[AtomicU64] {
            // SAFETY: as above; aligned to 4,096 and inside the allocation.
            unsafe { std::slice::from_raw_parts(self.0.cast(), bytes.min(LINK_BYTES) / 8) }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: allocated with the same layout.
            unsafe { dealloc(self.0, Self::LAYOUT) }
        }
    }

    const FACTS: EngineFacts = EngineFacts { fingerprint: Fingerprint([0xC7; 32]), io: IoKind::Uring, gso_segments: 128 };

    #[test]
    fn attach_finds_what_create_made() {
        let mapping = Mapping::zeros();
        assert_eq!(mapping.attach().err(), Some(LinkError::NotALink));
        let supervisor = mapping.create(2).unwrap();
        let (control, engine) = (mapping.attach().unwrap(), mapping.attach().unwrap());
        assert_eq!((supervisor.shards(), control.shards()), (2, 2));
        assert_eq!(LINK_BYTES % 4096, 0);

        let mut writer = control.commands_writer(1);
        let mut reader = engine.commands_reader(1);
        writer.push(1, &Command::Dump { cursor: 4 }).unwrap();
        assert!(engine.commands_reader(0).is_empty(), "each shard has its own ring");
        assert_eq!(reader.next(1), Some(Received::Command(Command::Dump { cursor: 4 })));
        reader.answer(Status::Done, &Answer::Nothing);
        assert_eq!(writer.poll_answer(), Some((0, Status::Done, Answer::Nothing)));

        let event = Event::TrackState { track: TrackId::new(1, 1), live: true };
        assert!(engine.events_writer(0).push_or_drop(&event));
        assert_eq!(control.events_reader(0).pop(), Some(event));
        engine.counters(0).add(CounterId::Ticks, 2);
        engine.counters(1).add(CounterId::Ticks, 3);
        assert_eq!(control.counter_sum(CounterId::Ticks), 5);
        engine.errors(1).note(Time(1), "x");
        assert_eq!((control.errors(0).entries().count(), control.errors(1).entries().count()), (0, 1));
        engine.track_stats(TRACKS_MAX).packets.store(9, Ordering::Relaxed);
        assert!((0..TRACKS_MAX).all(|index| control.track_stats(index).packets.load(Ordering::Relaxed) == 0));
        engine.session_stats(SESSIONS_MAX as u32).reset(1, Time(1));
        engine.session_stats(5).reset(3, Time(1));
        let named: Vec<u32> = (0..SESSIONS_MAX as u32).filter(|slot| control.session_stats(*slot).read(3).is_some()).collect();
        assert_eq!(named, [5]);
        assert!((0..SESSIONS_MAX as u32).all(|slot| control.session_stats(slot).read(1).is_none()));
        engine.histogram(1, HistogramId::Join).add(HistogramId::Join, 70);
        engine.histogram(0, HistogramId::Join).add(HistogramId::Join, 7);
        let (joins, trips) = (control.histogram_sum(HistogramId::Join), control.histogram_sum(HistogramId::RoundTrip));
        assert_eq!((joins.sum_us, joins.counts[0], trips), (77, 2, Counted::default()));
    }

    #[test]
    fn facts_are_those_of_the_engine_that_runs() {
        let mapping = Mapping::zeros();
        let link = mapping.create(1).unwrap();
        assert_eq!(link.engine_facts(), None);
        assert_eq!(link.begin_engine_epoch(), 1);
        assert_eq!(link.engine_facts(), None, "started, not ready");
        link.set_engine_ready(FACTS);
        assert_eq!(link.engine_facts(), Some((1, FACTS)));
        assert_eq!(link.begin_engine_epoch(), 2);
        assert_eq!(link.engine_facts(), None, "the facts of the one before are nobody's");
        let facts = EngineFacts { io: IoKind::Socket, gso_segments: 0, ..FACTS };
        link.set_engine_ready(facts);
        assert_eq!(link.engine_facts(), Some((2, facts)));
        link.clear_engine_ready();
        assert_eq!(link.engine_facts(), None);
        assert_eq!((link.begin_control_epoch(), link.begin_control_epoch(), link.control_epoch()), (1, 2, 2));
    }

    #[test]
    fn threat_30_versions_this_build_speaks() {
        // (found, newest, oldest)
        for (found, newest, oldest, spoken) in [
            (1, 1, 1, true),
            (0, 1, 1, false),
            (0, 1, 0, false), // zeroed memory has no version
            (2, 1, 1, false),
            (5, 5, 5, true),
            (4, 5, 5, false), // the layout before is not compatible
            (4, 5, 4, true),
            (3, 5, 4, false),
            (3, 5, 3, false), // two before: never
            (6, 5, 4, false),
            (u32::MAX, 5, 4, false),
        ] {
            assert_eq!(version_is_spoken(found, newest, oldest), spoken, "{found} {newest} {oldest}");
        }
        let mapping = Mapping::zeros();
        mapping.create(1).unwrap();
        mapping.identity().version.store(LINK_VERSION + 1, Ordering::Relaxed);
        assert_eq!(mapping.attach().err(), Some(LinkError::Version { found: LINK_VERSION + 1 }));
    }

    #[test]
    fn threat_30_hostile_headers_are_refused() {
        let mapping = Mapping::zeros();
        assert_eq!(mapping.create(0).err(), Some(LinkError::Shards { found: 0 }));
        assert_eq!(mapping.create(65).err(), Some(LinkError::Shards { found: 65 }));
        mapping.create(SHARDS_MAX as u32).unwrap();
        let identity = mapping.identity();
        for size in &identity.sizes {
            let right = size.load(Ordering::Relaxed);
            size.store(right + 1, Ordering::Relaxed);
            assert_eq!(mapping.attach().err(), Some(LinkError::Sizes));
            size.store(right, Ordering::Relaxed);
        }
        assert!(mapping.attach().is_ok());
        for found in [0, SHARDS_MAX as u32 + 1, u32::MAX] {
            identity.shards.store(found, Ordering::Relaxed);
            assert_eq!(mapping.attach().err(), Some(LinkError::Shards { found }));
        }
        // SAFETY: refused before anything is read.
        unsafe {
            assert_eq!(Link::attach(mapping.0, LINK_BYTES - 1).err(), Some(LinkError::TooShort { found: LINK_BYTES - 1 }));
            assert_eq!(Link::attach(mapping.0.add(8), LINK_BYTES).err(), Some(LinkError::Misaligned));
        }
    }

    #[test]
    fn threat_30_any_contents_end_without_a_panic() {
        let mapping = Mapping::zeros();
        let mut rng = Rng::new(21);
        let first_shard_ends = std::mem::offset_of!(LinkMemory, shards) + size_of::<ShardArea>();
        for round in 0..20 {
            for word in mapping.words(first_shard_ends) {
                let value = if round % 2 == 0 { rng.next_u64() } else { rng.below(5) };
                word.store(value, Ordering::Relaxed);
            }
            assert!(mapping.attach().is_err());
            // With a header to be believed, and everything behind it hostile.
            let link = mapping.create(1).unwrap();
            let _ = (link.engine_facts(), link.begin_engine_epoch(), link.begin_control_epoch());
            let (mut writer, mut reader) = (link.commands_writer(0), link.commands_reader(0));
            let (mut events, mut seen) = (link.events_writer(0), link.events_reader(0));
            for cursor in 0..1_000 {
                let _ = writer.push(1, &Command::Dump { cursor });
                let _ = reader.next(1);
                reader.answer(Status::Done, &Answer::Nothing);
                let _ = writer.poll_answer();
                let _ = events.push_or_drop(&Event::TrackState { track: TrackId::NONE, live: true });
                let _ = (seen.pop(), seen.dropped());
            }
            link.errors(0).note(Time(1), "still here");
            assert!(link.errors(0).entries().count() <= ERRORS_MAX);
            for id in CounterId::ALL {
                link.counters(0).add(*id, u64::MAX);
            }
            let _ = (link.counter_sum(CounterId::Ticks), link.shard_parked(0), link.track_stats(usize::MAX));
        }
    }
}

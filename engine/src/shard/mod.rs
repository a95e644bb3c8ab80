//! A shard: one pinned thread with its sessions, tracks, timers, and one loop.
//!
//! `tick` is the whole loop on one screen. Nothing in it waits, takes a lock, logs or (without a handshake
//! or a command) allocates. A shard owns what its table gives out; everything else it reads from reels or
//! hears over the mesh.

mod commands;
mod demux;
pub mod directory;
mod fanout;
pub mod mesh;
pub mod pool;
mod session;
pub mod table;
mod timers;
mod track;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use crate::io::{Io, Path, Sent};
use crate::shm::Mapping;
pub use session::HandshakeMaker;

use directory::Directory;
use fanout::Fanout;
use mesh::{Epochs, Inbox, Strays};
use pool::Pool;
use session::Session;
use spillway_proto::limits::{COMMANDS_PER_TICK_MAX, DATAGRAM_SIZE_MAX, DATAGRAMS_PER_TICK_MAX, SESSIONS_MAX};
use spillway_proto::link::counters::{COUNTERS_MAX, CounterId};
use spillway_proto::link::event::Event;
use spillway_proto::link::layout::Link;
use spillway_proto::link::park::{must_wake, park_begins, park_ends};
use spillway_proto::link::ring::{CommandReader, EventWriter};
use spillway_proto::rng::Rng;
use spillway_proto::stream::reel::STREAM_FILE_BYTES;
use spillway_proto::time::Time;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use table::{Owners, Table};
use timers::Timers;
use track::Tracks;

/// Handshake datagrams waiting for their turn: a handshake step costs 60-150 us and cannot be split, so that
/// while media is pending at most one is taken per tick (decision 12).
const HANDSHAKES_WAITING_MAX: usize = 1_024;
/// Small datagrams of ours (STUN answers, RTCP, handshakes) that one tick may produce before it sends.
const OUTBOX_BYTES: usize = 256 * 1_024;

/// What the shards of one engine share.
pub struct Shared {
    pub link: Link,
    pub epoch: u64,
    pub owners: Arc<Owners>,
    pub directory: Directory,
    pub epochs: Arc<Epochs>,
    pub pool: Arc<Pool>,
    pub inboxes: Vec<Inbox>,
    /// Eventfds.
    pub shard_wake: Vec<File>,
    pub control_wake: File,
    /// By stream.
    pub reel_files: Vec<ReelFile>,
    pub stop: AtomicBool,
}

/// One stream's file, inherited from the supervisor, mapped when the stream is first used.
pub struct ReelFile {
    file: Arc<File>,
    mapping: OnceLock<Option<Arc<Mapping>>>,
}

impl ReelFile {
    pub fn new(file: File) -> ReelFile {
        ReelFile { file: Arc::new(file), mapping: OnceLock::new() }
    }

    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// None if it cannot be mapped (an address-space limit): the stream is refused.
    pub fn mapping(&self) -> Option<Arc<Mapping>> {
        self.mapping.get_or_init(|| Mapping::shared(&*self.file, STREAM_FILE_BYTES).ok().map(Arc::new)).clone()
    }
}

impl Shared {
    /// Wakes a shard if it is parked. What it is woken for was stored before.
    pub fn wake(&self, shard: usize) {
        if must_wake(self.link.shard_parked(shard)) {
            signal(&self.shard_wake[shard]);
        }
    }

    pub fn wake_all(&self) {
        self.shard_wake.iter().for_each(signal);
    }

    fn wake_control(&self) {
        if must_wake(self.link.control_parked()) {
            signal(&self.control_wake);
        }
    }
}

/// An eventfd that cannot be written is at its maximum, which wakes as well.
fn signal(eventfd: &File) {
    let _ = (&*eventfd).write(&1u64.to_ne_bytes());
}

/// Everything of a shard but its sockets, so that a datagram lent by `io` can be worked on.
pub struct Core {
    index: usize,
    shared: Arc<Shared>,
    table: Table,
    now: Time,
    rng: Rng,
    sessions: Vec<Option<Box<Session>>>,
    tracks: Tracks,
    fanout: Fanout,
    timers: Timers,
    strays: Strays,
    events: EventWriter,
    handshakes: VecDeque<(u32, Path, Vec<u8>)>,
    make_handshake: HandshakeMaker,
    outbox: Outbox,
    tally: Tally,
    /// Something was told to control in this tick.
    told_control: bool,
}

pub struct Shard<I> {
    io: I,
    core: Core,
    commands: CommandReader,
}

impl<I: Io> Shard<I> {
    pub fn new(
        io: I,
        index: usize,
        shared: Arc<Shared>,
        table: Table,
        strays: Strays,
        make_handshake: HandshakeMaker,
        seed: u64,
    ) -> Shard<I> {
        let now = io.now();
        let commands = shared.link.commands_reader(index);
        let events = shared.link.events_writer(index);
        let mut sessions = Vec::new();
        sessions.resize_with(SESSIONS_MAX, || None);
        let core = Core {
            index,
            table,
            now,
            rng: Rng::new(seed ^ index as u64),
            sessions,
            tracks: Tracks::new(),
            fanout: Fanout::new(),
            timers: Timers::new(now),
            strays,
            events,
            handshakes: VecDeque::with_capacity(HANDSHAKES_WAITING_MAX),
            make_handshake,
            outbox: Outbox::new(),
            tally: Tally::new(),
            told_control: false,
            shared,
        };
        Shard { io, core, commands }
    }

    /// Ticks until the engine stops; parks when there is nothing to do.
    pub fn run(&mut self) {
        while !self.core.shared.stop.load(Ordering::Acquire) {
            let busy = self.tick();
            if !busy {
                self.park();
            }
        }
        self.core.close_all();
        self.send_outbox();
        self.io.submit();
        self.core.flush_counters();
    }

    /// One pass. True: there is more to do at once.
    pub fn tick(&mut self) -> bool {
        let core = &mut self.core;
        core.now = self.io.now();
        core.shared.epochs.enter(core.index);
        let commanded = core.execute_commands(&mut self.commands, COMMANDS_PER_TICK_MAX);
        let received = self.io.receive(DATAGRAMS_PER_TICK_MAX, |datagram| {
            let path = Path { local: datagram.local, remote: datagram.remote };
            core.handle_datagram(&path, datagram.bytes);
        });
        core.tally.add(CounterId::DatagramsReceived, received as u64);
        let strayed = core.receive_strays(DATAGRAMS_PER_TICK_MAX);
        core.hear_mesh();
        let unsent = core.fan_out(&mut self.io);
        let stepped = core.step_handshakes(unsent);
        core.run_timers();
        self.send_outbox();
        self.io.submit();
        let core = &mut self.core;
        core.tally.add(CounterId::Ticks, 1);
        core.flush_counters();
        commanded || strayed || stepped || unsent || received > 0
    }

    /// Waits for a datagram, a wake, or the next timer. The flag goes up before the last look around: who
    /// leaves us something afterwards sees it and writes the eventfd.
    fn park(&mut self) {
        let core = &mut self.core;
        let parked = core.shared.link.shard_parked(core.index);
        park_begins(parked);
        let quiet = core.shared.inboxes[core.index].is_empty()
            && core.strays.is_empty()
            && self.commands.is_empty()
            && !core.shared.stop.load(Ordering::SeqCst);
        if quiet {
            core.tally.add(CounterId::Parks, 1);
            core.shared.epochs.leave(core.index);
            let deadline = core.next_deadline();
            self.io.park(deadline);
        }
        park_ends(self.core.shared.link.shard_parked(self.core.index));
    }

    fn send_outbox(&mut self) {
        let outbox = &mut self.core.outbox;
        for (path, start, length) in outbox.entries.drain(..) {
            let bytes = &outbox.bytes[start..start + length];
            let taken = self.io.buffer().is_some_and(|buffer| {
                buffer[..length].copy_from_slice(bytes);
                true
            });
            // A lost STUN answer, report or flight is repeated by its protocol.
            if !taken || matches!(self.io.send(&path, length, length), Sent::Blocked) {
                self.core.tally.add(CounterId::SendsBlocked, 1);
            }
        }
        outbox.bytes.clear();
    }

    /// For tests: the parts they look at.
    #[cfg(test)]
    fn parts(&mut self) -> (&mut I, &mut Core) {
        (&mut self.io, &mut self.core)
    }
}

impl Core {
    fn session_mut(&mut self, slot: u32) -> Option<&mut Session> {
        self.sessions.get_mut(slot as usize)?.as_deref_mut()
    }

    fn tell(&mut self, event: &Event) {
        if !self.events.push_or_drop(event) {
            self.tally.add(CounterId::EventsDropped, 1);
        }
        self.told_control = true;
    }

    /// Counters reach the link once per tick; control is woken once, however much it was told.
    fn flush_counters(&mut self) {
        let counters = self.shared.link.counters(self.index);
        self.tally.flush(|id, n| counters.add(id, n));
        if std::mem::take(&mut self.told_control) {
            self.shared.wake_control();
        }
    }
}

/// Counters of the running tick.
struct Tally {
    counts: [u64; COUNTERS_MAX],
}

impl Tally {
    fn new() -> Tally {
        Tally { counts: [0; COUNTERS_MAX] }
    }
    fn add(&mut self, id: CounterId, n: u64) {
        self.counts[id as usize] += n;
    }
    fn flush(&mut self, mut to: impl FnMut(CounterId, u64)) {
        for &id in CounterId::ALL {
            let count = std::mem::take(&mut self.counts[id as usize]);
            if count != 0 {
                to(id, count);
            }
        }
    }
}

/// Small datagrams of this tick, sent after fan-out. Bounded: what does not fit is dropped.
struct Outbox {
    bytes: Vec<u8>,
    entries: Vec<(Path, usize, usize)>,
}

impl Outbox {
    fn new() -> Outbox {
        Outbox { bytes: Vec::with_capacity(OUTBOX_BYTES), entries: Vec::with_capacity(OUTBOX_BYTES / 64) }
    }

    /// Lends `write` room for one datagram to `path`; it returns the length, or None for nothing.
    fn put(&mut self, path: &Path, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let start = self.bytes.len();
        if start + DATAGRAM_SIZE_MAX > OUTBOX_BYTES || self.entries.len() == self.entries.capacity() {
            return false;
        }
        self.bytes.resize(start + DATAGRAM_SIZE_MAX, 0);
        let length = write(&mut self.bytes[start..]).filter(|&n| n > 0 && n <= DATAGRAM_SIZE_MAX).unwrap_or(0);
        self.bytes.truncate(start + length);
        if length > 0 {
            self.entries.push((*path, start, length));
        }
        length > 0
    }
}

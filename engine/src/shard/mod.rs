//! A shard: one pinned thread with its sessions, tracks, timers, and one loop.
//!
//! `tick` is the whole loop on one screen. Nothing in it waits, takes a lock, logs or (without a handshake
//! or a command) allocates. Handshakes are driven by a thread beside it (`handshaker`). A shard owns what its table gives out; everything else it reads from reels or
//! hears over the mesh.

mod commands;
mod demux;
pub mod directory;
mod estimate;
mod fanout;
pub mod handshaker;
mod hold;
mod late;
pub mod mesh;
pub mod pool;
mod quality;
mod repair;
mod resend;
mod rounds;
mod session;
mod start;
pub mod table;
mod timers;
mod track;

#[cfg(any(test, feature = "simulation"))]
pub mod audit;
#[cfg(test)]
mod batching;
#[cfg(test)]
mod codecs;
#[cfg(test)]
mod healing;
#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod joining;
#[cfg(test)]
mod narrow;
#[cfg(test)]
mod quality_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod threats;
#[cfg(test)]
mod threats_media;
#[cfg(any(test, feature = "simulation"))]
pub mod world;

use crate::io::steering::Steering;
use crate::io::{self, Io, Path, Sent};
use crate::precedence::Precedence;
use crate::shm::{Mapping, punch_hole};
pub use handshaker::HandshakeMaker;

use directory::Directory;
use fanout::{Fanout, Left};
use handshaker::Lending;
use mesh::{Epochs, Inbox, Strays};
use pool::Pool;
use session::Session;
use spillway_proto::limits::{COMMANDS_PER_TICK_MAX, DATAGRAM_SIZE_MAX, DATAGRAMS_PER_TICK_MAX, SESSIONS_MAX};
use spillway_proto::link::counters::{COUNTERS_MAX, CounterId};
use spillway_proto::link::event::{CloseReason, Event};
use spillway_proto::link::layout::Link;
use spillway_proto::link::park::{must_wake, park_begins, park_ends};
use spillway_proto::link::ring::{CommandReader, EventWriter};
use spillway_proto::rng::Rng;
use spillway_proto::stream::reel::STREAM_FILE_BYTES;
use spillway_proto::stream::start::ReplayBudget;
use spillway_proto::time::Time;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use table::{Owners, Table};
use timers::Timers;
use track::Tracks;

/// Handshakes that a tick takes back: with each one that is over, feeds begin.
const HANDSHAKES_PER_TICK_MAX: usize = 8;
/// Handshakes' datagrams that a shard keeps, with those lent out; what finds no room comes again.
const HEARD_MAX: usize = 1_024;
/// Of one session: a flight has a handful of datagrams, and nobody fills the queue for the others.
const HEARD_PER_SESSION_MAX: usize = 16;
/// Media that came before its keys: of all sessions, and of one. A publisher that is the DTLS server sends its first picture right behind its last
/// flight, which takes a millisecond to be read.
const EARLY_MAX: usize = 2_048;
const EARLY_PER_SESSION_MAX: usize = 128;
/// One resend of our last flight per this span: what asks for it is not authenticated. Retransmissions of an
/// honest remote are further apart.
const FLIGHT_RESEND_INTERVAL: Duration = Duration::from_millis(50);
/// Connectivity checks that a tick answers: one costs 25 us, with its answer's send and a handshake that begins.
const CHECKS_PER_TICK_MAX: usize = 8;
/// Those that wait for the next ticks; what finds no room comes again.
const CHECKS_WAITING_MAX: usize = 1_024;
/// Of one session: who repeats a check each 50 ms needs no more.
const CHECKS_WAITING_PER_SESSION_MAX: u8 = 4;
/// Short rounds in a row, together about as long as a long one, behind which a shard does nothing but media.
const MEDIA_ALONE_MAX: usize = 3;
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
    /// Whose datagrams come to another shard than their own.
    pub steering: Steering,
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

    /// Gives back what a predecessor's reels hold. Their records are freed: nobody reads them any more, and the
    /// pool of this engine does not count them.
    pub fn empty(&self) {
        // If the kernel refuses, the memory stays until the stream is used again.
        let _ = punch_hole(&*self.file, 0, STREAM_FILE_BYTES as u64);
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
    replay_budget: ReplayBudget,
    timers: Timers,
    strays: Strays,
    events: EventWriter,
    lending: Lending,
    /// Handshakes' datagrams, with those lent out.
    heard_waiting: usize,
    /// Media that waits for keys, of all sessions.
    early_waiting: usize,
    /// Checks that wait for a later tick, and how many this one may answer yet.
    checks: VecDeque<demux::Check>,
    checks_left: usize,
    outbox: Outbox,
    tally: Tally,
    /// Something was told to control in this tick.
    told_control: bool,
    /// Sessions with keys.
    connected: usize,
}

pub struct Shard<I> {
    io: I,
    core: Core,
    commands: CommandReader,
    /// The backend's tally as the counters have it.
    io_tally: io::Tally,
    /// The longest tick of the second that began at.
    longest: (Time, Duration),
    /// Ticks in a row that did nothing besides media.
    media_alone: usize,
}

impl<I: Io> Shard<I> {
    pub fn new(
        io: I,
        index: usize,
        shared: Arc<Shared>,
        table: Table,
        strays: Strays,
        lending: Lending,
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
            fanout: Fanout::new(now),
            replay_budget: ReplayBudget::default(),
            timers: Timers::new(now),
            strays,
            events,
            lending,
            heard_waiting: 0,
            early_waiting: 0,
            checks: VecDeque::with_capacity(CHECKS_WAITING_MAX),
            checks_left: 0,
            outbox: Outbox::new(),
            tally: Tally::new(),
            told_control: false,
            connected: 0,
            shared,
        };
        Shard { io, core, commands, io_tally: io::Tally::default(), longest: (now, Duration::ZERO), media_alone: 0 }
    }

    /// Ticks until the engine stops; parks when there is nothing to do.
    pub fn run(&mut self, precedence: &mut Precedence) {
        while !self.core.shared.stop.load(Ordering::Acquire) {
            let busy = self.tick();
            precedence.look(self.core.now, || self.io.worked());
            if !busy {
                self.park();
            }
        }
        self.close_all();
        self.core.flush_counters();
    }

    /// One pass. True: there may be more to do at once.
    pub fn tick(&mut self) -> bool {
        let core = &mut self.core;
        core.now = self.io.now();
        core.shared.epochs.enter(core.index);
        let was_alone = self.media_alone > 0;
        core.checks_left = if was_alone { 0 } else { CHECKS_PER_TICK_MAX };
        let commanded = !was_alone && core.execute_commands(&mut self.commands, COMMANDS_PER_TICK_MAX);
        let received = self.io.receive(DATAGRAMS_PER_TICK_MAX, |datagram| {
            let path = Path { local: datagram.local, remote: datagram.remote };
            core.tally.add(CounterId::BytesReceived, datagram.bytes.len() as u64);
            core.handle_datagram(&path, datagram.bytes);
        });
        core.tally.add(CounterId::DatagramsReceived, received as u64);
        let strayed = core.receive_strays(DATAGRAMS_PER_TICK_MAX);
        core.hear_mesh();
        let sending = self.io.now();
        let left = core.fan_out(&mut self.io);
        // At once: what follows takes as long as a packet to a hundred viewers.
        self.io.submit();
        let sending = self.io.now().since(sending);
        // Nor does it come between those who have had a packet and those who have not, unless that goes on.
        let alone = left == Left::More && core.fanout.has_short_rounds() && self.media_alone < MEDIA_ALONE_MAX;
        self.media_alone = if alone { self.media_alone + 1 } else { 0 };
        let more = !alone && self.work_beside();
        self.count_tick(sending);
        self.core.flush_counters();
        commanded || strayed || more || left == Left::More || received > 0
    }

    /// What a tick does besides media. True: there is more of it.
    fn work_beside(&mut self) -> bool {
        let core = &mut self.core;
        let checked = core.answer_checks();
        let stepped = core.take_handshakes_back(HANDSHAKES_PER_TICK_MAX);
        core.run_timers();
        self.send_outbox();
        self.io.submit();
        checked || stepped
    }

    /// What the backend did in this tick, how long it took, and for how long it sent media.
    fn count_tick(&mut self, sending: Duration) {
        let (core, seen) = (&mut self.core, self.io.tally());
        let was = std::mem::replace(&mut self.io_tally, seen);
        core.tally.add(CounterId::DatagramsMalformed, seen.malformed - was.malformed);
        core.tally.add(CounterId::ReceiveErrors, seen.receive_errors - was.receive_errors);
        core.tally.add(CounterId::SendsFailed, seen.dropped - was.dropped);
        core.tally.add(CounterId::SendsOneByOne, seen.one_by_one - was.one_by_one);
        core.tally.add(CounterId::PacketsFramed, seen.framed - was.framed);
        core.tally.add(CounterId::Ticks, 1);
        let end = self.io.now();
        let took = end.since(core.now);
        core.tally.add(CounterId::BusyNs, took.as_nanos() as u64);
        core.fanout.on_tick(core.now, end, sending, || self.io.worked());
        let (began, longest) = &mut self.longest;
        *longest = took.max(*longest);
        if end.since(*began) >= Duration::from_secs(1) {
            let counters = core.shared.link.counters(core.index);
            counters.set(CounterId::TickNsMax, longest.as_nanos() as u64);
            self.longest = (end, Duration::ZERO);
        }
    }

    /// Waits for a datagram, a wake, or the next timer. The flag goes up before the last look around: who
    /// leaves us something afterwards sees it and writes the eventfd.
    fn park(&mut self) {
        let core = &mut self.core;
        let parked = core.shared.link.shard_parked(core.index);
        park_begins(parked);
        let quiet = core.shared.inboxes[core.index].is_empty()
            && core.strays.is_empty()
            && core.lending.is_empty()
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

    /// Says goodbye to everybody, a tick's worth at a time.
    fn close_all(&mut self) {
        for slot in 0..SESSIONS_MAX as u32 {
            if !self.core.outbox.has_room_for_goodbye() {
                self.send_outbox();
                self.io.submit();
            }
            self.core.close_session(slot, CloseReason::Removed);
        }
        self.send_outbox();
        self.io.submit();
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
            if !taken || matches!(self.io.send_beside(&path, length), Sent::Blocked) {
                self.core.tally.add(CounterId::SendsBlocked, 1);
            }
        }
        outbox.bytes.clear();
    }

    /// For tests: the parts they look at.
    #[cfg(any(test, feature = "simulation"))]
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
        counters.set(CounterId::SessionsConnected, self.connected as u64);
        counters.set(CounterId::Feeds, self.table.feeds_used() as u64);
        counters.set(CounterId::Tracks, self.tracks.used() as u64);
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

    /// A session's goodbye is two datagrams.
    fn has_room_for_goodbye(&self) -> bool {
        self.bytes.len() + 2 * DATAGRAM_SIZE_MAX <= OUTBOX_BYTES && self.entries.len() + 2 <= self.entries.capacity()
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

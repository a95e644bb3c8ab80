//! Goal: control and shard, killed with SIGKILL at any instruction and replaced, lose no command, tear none,
//! and answer each exactly once or refuse it as stale.
//! Method: both are real processes (this test binary again, told its role by the environment) on one memfd.
//! Behind the link the memfd has a log in which both write down what they did for each ticket; contents
//! are functions of the ticket. The parent kills one of them after a random number of operations, starts the next,
//! and in the end drains the ring by itself and checks the log.

use spillway_proto::id::{Codec, FeedId, SessionId, Side, TrackId};
use spillway_proto::limits::{NOTE_BYTES, SESSIONS_MAX};
use spillway_proto::link::command::{
    Answer, Command, DtlsRole, DumpEntry, Fingerprint, SessionState, Status, TrackFacts, dump_fits,
};
use spillway_proto::link::event::Event;
use spillway_proto::link::layout::{LINK_BYTES, Link};
use spillway_proto::link::ring::{CommandReader, CommandWriter, EventReader, Received};
use spillway_proto::rng::Rng;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KILLS: usize = 400;
/// Tickets the log has room for; who reaches the end stops pushing.
const TICKETS_MAX: usize = 1 << 22;
/// Only so that a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(120);
const ROLE: &str = "SPILLWAY_RING_KILL_ROLE";
const DESCRIPTOR: &str = "SPILLWAY_RING_KILL_DESCRIPTOR";

/// What both processes did, behind the link in the same file. Each word has one writer.
#[repr(C, align(4096))]
struct Log {
    writer_operations: AtomicU64,
    reader_operations: AtomicU64,
    /// Answers that were stale, for the parent to see that this case is met.
    stale: AtomicU64,
    events_seen: AtomicU64,
    /// By ticket: the epoch of the engine that executed it, and how control read its answer.
    executed: [AtomicU64; TICKETS_MAX],
    harvested: [AtomicU64; TICKETS_MAX],
}

const HARVESTED_DONE: u64 = 1;
const HARVESTED_STALE: u64 = 2;

fn map(descriptor: i32) -> (*mut u8, &'static Log) {
    // SAFETY: a new mapping of a file of ours, never unmapped; the log behind the link consists of atomics, begins at a
    // multiple of the page size (LINK_BYTES is one) and is inside the mapping.
    unsafe {
        let base = libc::mmap(
            std::ptr::null_mut(),
            LINK_BYTES + size_of::<Log>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            descriptor,
            0,
        );
        assert_ne!(base, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        let base = base.cast::<u8>();
        (base, &*base.add(LINK_BYTES).cast::<Log>())
    }
}

fn step(word: &AtomicU64) {
    word.store(word.load(Ordering::Relaxed) + 1, Ordering::Release);
}

// ---- contents as functions of the ticket ----

/// Bodies of three lengths, every byte of them telling the ticket.
fn command_of(ticket: u64) -> Command {
    let mut rng = Rng::new(ticket);
    let mut note = [0; NOTE_BYTES];
    rng.fill(&mut note);
    note[..8].copy_from_slice(&ticket.to_le_bytes());
    let session = SessionId::new((ticket % SESSIONS_MAX as u64) as u32, ticket as u32);
    match ticket % 3 {
        0 => Command::AddSession {
            side: Side::Viewer,
            dtls_role: DtlsRole::Server,
            ufrag_random: std::array::from_fn(|_| b'a' + rng.below(26) as u8),
            pwd: std::array::from_fn(|_| b'A' + rng.below(26) as u8),
            fingerprint: Fingerprint(std::array::from_fn(|_| rng.below(256) as u8)),
            note,
        },
        1 => Command::AttachTrack {
            session,
            stream: Default::default(),
            track: TrackId::NONE,
            facts: TrackFacts::new(Codec::H264, (ticket % 128) as u8, ticket as u32),
            note,
        },
        _ => Command::Dump { cursor: ticket as u32 },
    }
}

/// The same for answers; `epoch` is of the engine that gives it.
fn answer_of(ticket: u64, epoch: u64) -> Answer {
    let session = SessionId::new((ticket % SESSIONS_MAX as u64) as u32, epoch as u32);
    match ticket % 3 {
        0 => Answer::Session { session },
        1 => Answer::Feed { feed: FeedId::new(1, epoch as u32), ssrc: ticket as u32, rtx_ssrc: epoch as u32 },
        _ => {
            let mut entries = Vec::new();
            loop {
                let note = [(ticket + entries.len() as u64) as u8; NOTE_BYTES];
                let entry = DumpEntry::Session { session, side: Side::Viewer, state: SessionState::New, note };
                if !dump_fits(&entries, &entry) {
                    return Answer::Dump { next: Some(epoch as u32), entries };
                }
                entries.push(entry);
            }
        }
    }
}

fn event_of(number: u64) -> Event {
    let session = SessionId::new((number % SESSIONS_MAX as u64) as u32, number as u32);
    Event::SessionConnected { session, profile: number as u16 }
}

// ---- the two processes ----

/// What control checks of an answer, in any process that reads one.
fn check_answer(log: &Log, ticket: u64, status: Status, answer: &Answer) {
    let executed = log.executed[ticket as usize].load(Ordering::Acquire);
    let harvested = match status {
        Status::Done => {
            assert_ne!(executed, 0, "ticket {ticket} is done and was never executed");
            assert_eq!(*answer, answer_of(ticket, executed), "ticket {ticket}: torn or of another");
            HARVESTED_DONE
        }
        Status::StaleEpoch => {
            assert_eq!(*answer, Answer::Nothing, "ticket {ticket}");
            step(&log.stale);
            HARVESTED_STALE
        }
        other => panic!("ticket {ticket} was answered {other:?}: {answer:?}"),
    };
    let before = log.harvested[ticket as usize].swap(harvested, Ordering::Relaxed);
    assert!(before == 0 || before == harvested, "ticket {ticket} was answered twice, and differently");
}

fn harvest(log: &Log, writer: &mut CommandWriter, last: &mut Option<u64>) -> bool {
    let Some((ticket, status, answer)) = writer.poll_answer() else { return false };
    assert!(last.is_none_or(|last| ticket == last + 1), "{ticket} after {last:?}");
    *last = Some(ticket);
    check_answer(log, ticket, status, &answer);
    true
}

fn run_writer(link: Link, log: &Log) {
    link.begin_control_epoch();
    let mut writer = link.commands_writer(0);
    let mut events: EventReader = link.events_reader(0);
    let mut next = writer.attached_at();
    let (mut last_answer, mut last_event) = (None, None);
    loop {
        let mut busy = false;
        if (next as usize) < TICKETS_MAX && writer.push(link.engine_epoch(), &command_of(next)).is_ok() {
            next += 1;
            busy = true;
        }
        busy |= harvest(log, &mut writer, &mut last_answer);
        if let Some(event) = events.pop() {
            let Event::SessionConnected { session, profile } = event else { panic!("{event:?}") };
            assert_eq!(event, event_of(u64::from(session.generation)), "torn: {session} {profile}");
            assert!(last_event.is_none_or(|last| session.generation > last), "{last_event:?} then {session}");
            last_event = Some(session.generation);
            step(&log.events_seen);
            busy = true;
        }
        if busy {
            step(&log.writer_operations);
        } else {
            std::thread::yield_now();
        }
    }
}

/// Executes one command; false when there was none.
fn execute(log: &Log, reader: &mut CommandReader, epoch: u64, last: &mut Option<u64>) -> bool {
    match reader.next(epoch) {
        None => return false,
        Some(Received::Refused(status)) => {
            assert_eq!(status, Status::StaleEpoch, "after ticket {last:?}");
            // Nobody says which one it was; the next command tells its ticket anew.
            *last = None;
        }
        Some(Received::Command(command)) => {
            let ticket = ticket_of(&command);
            assert_eq!(command, command_of(ticket), "torn");
            assert!(last.is_none_or(|last| ticket == last + 1), "{ticket} after {last:?}");
            *last = Some(ticket);
            let before = log.executed[ticket as usize].swap(epoch, Ordering::Release);
            assert_eq!(before, 0, "ticket {ticket} was executed by epoch {before} already, this is {epoch}");
            reader.answer(Status::Done, &answer_of(ticket, epoch));
        }
    }
    true
}

fn ticket_of(command: &Command) -> u64 {
    match command {
        Command::AddSession { note, .. } | Command::AttachTrack { note, .. } => {
            u64::from_le_bytes(*note.first_chunk().expect("a note is longer than 8 bytes"))
        }
        Command::Dump { cursor } => u64::from(*cursor),
        other => panic!("nobody pushed {other:?}"),
    }
}

fn run_reader(link: Link, log: &Log) {
    let epoch = link.begin_engine_epoch();
    let mut reader = link.commands_reader(0);
    let mut events = link.events_writer(0);
    let mut last = None;
    // Grows from process to process: nobody makes 2^22 events before it is killed.
    let mut number = epoch << 22;
    loop {
        if execute(log, &mut reader, epoch, &mut last) {
            number += 1;
            events.push_or_drop(&event_of(number & u64::from(u32::MAX)));
            step(&log.reader_operations);
        } else {
            std::thread::yield_now();
        }
    }
}

/// The processes: this test, called by the other one. By itself it does nothing.
#[test]
fn process() {
    let (Ok(role), Ok(descriptor)) = (std::env::var(ROLE), std::env::var(DESCRIPTOR)) else { return };
    // SAFETY: a system call without pointers: nobody survives the parent.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let (base, log) = map(descriptor.parse().expect("a number"));
    // SAFETY: mapped for the rest of the process.
    let link = unsafe { Link::attach(base, LINK_BYTES) }.expect("the parent made it");
    match role.as_str() {
        "writer" => run_writer(link, log),
        "reader" => run_reader(link, log),
        other => panic!("no role {other}"),
    }
}

// ---- the parent ----

struct Process {
    child: Child,
    role: &'static str,
    descriptor: i32,
}

impl Process {
    fn start(role: &'static str, descriptor: i32) -> Process {
        let child = std::process::Command::new(std::env::current_exe().expect("the path of this test"))
            .args(["ring_kill::process", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(DESCRIPTOR, descriptor.to_string())
            .stdout(Stdio::null())
            .spawn()
            .expect("a process of this test");
        Process { child, role, descriptor }
    }

    /// It only ever ends by our hand.
    fn check_runs(&mut self) {
        if let Some(status) = self.child.try_wait().expect("the child is ours") {
            panic!("the {} ended by itself ({status}): see above what it found", self.role);
        }
    }

    fn kill(&mut self) {
        self.check_runs();
        self.child.kill().expect("the child is ours");
        let status: ExitStatus = self.child.wait().expect("the child is ours");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "the {} ended by itself: {status}", self.role);
    }

    fn replace(&mut self) {
        self.kill();
        *self = Process::start(self.role, self.descriptor);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn threat_30_killed_and_replaced_at_any_moment_nothing_is_lost_or_torn() {
    // SAFETY: system calls on a name with its NUL and on a descriptor of ours. The descriptor is inherited on purpose.
    let descriptor = unsafe {
        let descriptor = libc::memfd_create(c"ring_kill".as_ptr(), 0);
        assert!(descriptor >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        assert_eq!(libc::ftruncate(descriptor, (LINK_BYTES + size_of::<Log>()) as i64), 0);
        descriptor
    };
    let (base, log) = map(descriptor);
    // SAFETY: mapped for the rest of the process.
    let link = unsafe { Link::create(base, LINK_BYTES, 1) }.expect("a new link");

    let mut writer = Process::start("writer", descriptor);
    let mut reader = Process::start("reader", descriptor);
    let mut rng = Rng::new(u64::from(std::process::id()));
    let deadline = Instant::now() + PATIENCE;
    let mut writer_kills = 0;
    for kill in 0..KILLS {
        let kills_writer = rng.below(2) == 0;
        let operations = if kills_writer { &log.writer_operations } else { &log.reader_operations };
        // One in eight dies while it starts or attaches.
        let wanted = if rng.below(8) == 0 { 0 } else { 1 + rng.below(2_000) };
        let from = operations.load(Ordering::Acquire);
        while operations.load(Ordering::Acquire) < from + wanted {
            writer.check_runs();
            reader.check_runs();
            assert!(Instant::now() < deadline, "no progress after {kill} kills");
            std::thread::yield_now();
        }
        if kills_writer {
            writer_kills += 1;
            writer.replace();
        } else {
            reader.replace();
        }
    }
    writer.kill();
    writer_kills += 1;
    reader.kill();

    // The last successors, in this process.
    let epoch = link.begin_engine_epoch();
    let (mut last_executed, mut last_answer) = (None, None);
    let mut reader = link.commands_reader(0);
    while execute(log, &mut reader, epoch, &mut last_executed) {}
    let mut writer = link.commands_writer(0);
    while harvest(log, &mut writer, &mut last_answer) {}
    assert_eq!(writer.outstanding(), 0, "every command was answered");

    let pushed = writer.attached_at() as usize;
    let read_by = |how: u64| (0..pushed).filter(|ticket| log.harvested[*ticket].load(Ordering::Relaxed) == how).count();
    let (unlogged, done, stale) = (read_by(0), read_by(HARVESTED_DONE), read_by(HARVESTED_STALE));
    // A writer killed between reading an answer and writing it down leaves one hole in the log.
    assert!(unlogged <= writer_kills, "{unlogged} answers were lost over {writer_kills} kills of the writer");
    assert!((pushed..TICKETS_MAX).all(|ticket| log.executed[ticket].load(Ordering::Relaxed) == 0), "nobody pushed these");
    let events = log.events_seen.load(Ordering::Relaxed);
    println!("{KILLS} kills, {pushed} commands: {done} done, {stale} stale, {unlogged} unlogged; {events} events");
    assert!(done > KILLS && stale > 0 && events > KILLS as u64, "the test met what it is about");
}

//! The engine's start and end: maps what the supervisor hands over, starts a thread per shard, says ready,
//! waits for SIGTERM.
//!
//! The only file that names a backend. Nothing is opened, bound or created here: everything was made by the
//! supervisor and outlives this process.

use crate::clock;
use crate::io::bound::Sockets;
use crate::io::frames::{self as framing, Frames};
use crate::io::probe::{Probe, probe};
use crate::io::socket::Socket;
use crate::io::steering::{self, Steering};
use crate::io::uring::Uring;
use crate::io::Io;
use crate::precedence::{self, Precedence};
use crate::shard::directory::Directory;
use crate::shard::mesh::{Epochs, Inbox, Strays};
use crate::shard::pool::Pool;
use crate::shard::table::{Owners, RecordsError, Table, take_ownership};
use crate::shard::handshaker::{Handshaker, Lending, handshaker};
use crate::shard::{HandshakeMaker, ReelFile, Shard, Shared};
use crate::shm::{MapError, Mapping};
use spillway_proto::limits::SHARDS_MAX;
use spillway_proto::link::fields::FieldsError;
use spillway_proto::link::handover::{HANDOVER_VARIABLE, Handover, IoChoice};
use spillway_proto::link::layout::{EngineFacts, IoKind, LINK_BYTES, Link, LinkError};
use spillway_proto::session::dtls::{Dtls, DtlsError, Handshake, Identity};
use spillway_proto::session::record::RECORDS_BYTES;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the engine is started by `spillway serve`, not by hand: {HANDOVER_VARIABLE} is not set")]
    NotHandedOver,
    #[error(transparent)]
    Handover(#[from] FieldsError),
    #[error("the handover is incomplete: {0}")]
    Incomplete(&'static str),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Identity(#[from] DtlsError),
    #[error("--io uring was asked for, but io_uring cannot be used: {0}")]
    Uring(String),
    #[error("--io frames was asked for, but frames cannot be sent from here: {0}")]
    Frames(String),
    #[error("shard {shard} cannot start: {reason}")]
    Shard { shard: usize, reason: String },
    #[error("the supervisor did not take our ready line: {0}")]
    Ready(std::io::Error),
}

/// How often it is looked whether frames would pass over somebody's rules.
const LOOK_FOR_RULES_EVERY: Duration = Duration::from_secs(5);

/// Exit code of an engine that cannot do what it was asked for, now or later.
pub const EXIT_REFUSED: u8 = 3;

/// Runs the engine until SIGTERM; what went wrong goes to standard error, where the supervisor reads it.
pub fn run() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            match error {
                StartError::Uring(_) | StartError::Frames(_) => ExitCode::from(EXIT_REFUSED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// The allocator asks for them, and the shard that first touches one waits until the kernel has wiped 2 MiB: packets are late by that, each time the heap
/// grows. A kernel that does not know this gives them, which is what it did before.
fn refuse_huge_pages() {
    let zero: libc::c_ulong = 0;
    // JUSTIFICATION: std has no prctl.
    // SAFETY: a call by values.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1 as libc::c_ulong, zero, zero, zero);
    }
}

fn start() -> Result<(), StartError> {
    let text = std::env::var(HANDOVER_VARIABLE).map_err(|_| StartError::NotHandedOver)?;
    let handover = Handover::parse(&text)?;
    check(&handover)?;
    refuse_huge_pages();
    let signals = Signals::block();
    let shards = handover.shards;

    let link_memory = Mapping::shared(adopt(handover.link), LINK_BYTES)?;
    // JUSTIFICATION: the link is a mapped file.
    // SAFETY: the mapping has LINK_BYTES and is leaked below: it lives as long as the process.
    let link = unsafe { Link::attach(link_memory.start().as_ptr(), link_memory.length()) }?;
    std::mem::forget(link_memory);
    let records_fd = handover.records.ok_or(StartError::Incomplete("no record segment"))?;
    let records = Arc::new(Mapping::shared(adopt(records_fd), RECORDS_BYTES)?);

    link.clear_engine_ready();
    let epoch = link.begin_engine_epoch();
    take_ownership(&records, shards as u32)?;
    for shard in 0..shards {
        link.counters(shard).clear_gauges();
    }
    let identity = Arc::new(Identity::new()?);
    let found = probe();
    let (below, mut why) = choose(handover.io, &found)?;
    let mut sockets = Vec::new();
    for (index, &wake) in handover.shard_wake.iter().enumerate() {
        let media = handover.media.iter().map(|group| adopt(group[index])).collect();
        let made = Sockets::new(media, adopt(wake));
        sockets.push(made.map_err(|error| StartError::Shard { shard: index, reason: error.to_string() })?);
    }
    // Taken back while the engine runs, where somebody comes whom frames would pass over.
    let frames = match choose_frames(handover.io, &sockets)? {
        Ok(words) => {
            why = words;
            Some(Arc::new(AtomicBool::new(true)))
        }
        Err(Some(words)) => {
            why = format!("{why}; no frames: {words}");
            None
        }
        Err(None) => None,
    };
    let kind = if frames.is_some() { IoKind::Frames } else { below };

    let owners = Arc::new(Owners::new(shards as u32));
    let shared = Arc::new(Shared {
        link,
        epoch,
        owners: Arc::clone(&owners),
        directory: Directory::new(),
        epochs: Arc::new(Epochs::new(shards)),
        pool: Arc::new(Pool::default()),
        inboxes: (0..shards).map(|_| Inbox::new()).collect(),
        // A second descriptor of the same eventfd: the shard's backend owns the first.
        shard_wake: handover.shard_wake.iter().map(|&fd| File::from(duplicate(fd))).collect(),
        control_wake: File::from(adopt(handover.control_wake)),
        reel_files: handover.reels.iter().map(|&fd| ReelFile::new(File::from(adopt(fd)))).collect(),
        steering: Steering::default(),
        stop: AtomicBool::new(false),
    });
    shared.reel_files.iter().for_each(ReelFile::empty);

    let (started, starting) = mpsc::channel();
    let (mut threads, mut handshakers) = (Vec::new(), Vec::new());
    // With one shard there are no strays.
    let groups = sockets.first().filter(|_| shards > 1).map(steering::groups);
    for (index, (strays, sockets)) in Strays::mesh(shards).into_iter().zip(sockets).enumerate() {
        let table = Table::new(Arc::clone(&records), Arc::clone(&owners), index)?;
        let core = handover.cores.get(index).copied();
        let has_its_own = is_alone(&handover.cores, index);
        let failed = |error: io::Error| StartError::Shard { shard: index, reason: error.to_string() };
        let (lending, handshaker) = handshaker(handshakes(Arc::clone(&identity)));
        let beside = shake_hands(index, Arc::clone(&shared), handshaker).map_err(failed)?;
        let lending = lending.to(beside.thread().clone());
        handshakers.push(beside);
        let (shared, started) = (Arc::clone(&shared), started.clone());
        let (segments, frames) = (found.gso_segments, frames.clone());
        let body = move || {
            precedence::pin(core);
            let precedence = Precedence::of_a_shard(has_its_own, clock::now());
            let place = Place { index, shared, table, strays, lending, precedence, started: &started };
            if below == IoKind::Uring {
                match Uring::new(sockets, segments) {
                    Ok(io) => begin(io, frames, place),
                    Err(error) => place.say(Err(error.to_string())),
                }
            } else {
                begin(Socket::new(sockets, segments), frames, place);
            }
        };
        let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(body);
        threads.push(thread.map_err(failed)?);
    }
    if let Some(groups) = groups {
        let shared = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("steering".to_owned()).spawn(move || shared.steering.run(&groups));
        // Without it strays cross the mesh.
        threads.extend(thread);
    }
    for _ in 0..shards {
        let (shard, outcome) = starting.recv().map_err(|_| StartError::Incomplete("a shard ended at its start"))?;
        outcome.map_err(|reason| StartError::Shard { shard, reason })?;
    }

    let gso_segments = if found.gso_segments > 1 { found.gso_segments as u16 } else { 0 };
    link.set_engine_ready(EngineFacts { fingerprint: identity.fingerprint(), io: kind, gso_segments });
    let line = format!("ready io={} gso={gso_segments} why={why}\n", kind.name());
    File::from(adopt(handover.ready)).write_all(line.as_bytes()).map_err(StartError::Ready)?;

    match frames.filter(|_| handover.io == IoChoice::Auto) {
        Some(allowed) => signals.wait_and(LOOK_FOR_RULES_EVERY, || {
            allowed.store(framing::rules::bypassed().is_ok_and(|found| found.is_empty()), Ordering::Relaxed);
        }),
        None => signals.wait(),
    }
    link.clear_engine_ready();
    shared.stop.store(true, Ordering::SeqCst);
    shared.wake_all();
    shared.steering.stop();
    handshakers.iter().for_each(|handshaker| handshaker.thread().unpark());
    for thread in threads.into_iter().chain(handshakers) {
        let _ = thread.join();
    }
    Ok(())
}

/// No other shard runs where this one is pinned to.
fn is_alone(cores: &[usize], shard: usize) -> bool {
    cores.get(shard).is_some_and(|core| cores.iter().filter(|other| *other == core).count() == 1)
}

/// What a shard is made of, beside its backend.
struct Place<'a> {
    index: usize,
    shared: Arc<Shared>,
    table: Table,
    strays: Strays,
    lending: Lending,
    precedence: Precedence,
    started: &'a mpsc::Sender<(usize, Result<(), String>)>,
}

impl Place<'_> {
    fn say(&self, outcome: Result<(), String>) {
        let _ = self.started.send((self.index, outcome));
    }
}

fn begin<I: Io>(io: I, frames: Option<Arc<AtomicBool>>, place: Place<'_>) {
    let Some(allowed) = frames else { return serve(io, place) };
    match Frames::new(io, allowed, clock::wall().0 ^ u64::from(std::process::id()) << 32) {
        Ok(io) => serve(io, place),
        Err(error) => place.say(Err(format!("frames: {error}"))),
    }
}

fn serve<I: Io>(io: I, place: Place<'_>) {
    let Place { index, shared, table, strays, lending, mut precedence, started } = place;
    let seed = clock::wall().0 ^ u64::from(std::process::id()) << 32;
    let mut shard = Shard::new(io, index, shared, table, strays, lending, seed);
    let _ = started.send((index, Ok(())));
    // A shard that panicked has lost its invariants: the process ends, the supervisor starts another.
    or_abort(index, || shard.run(&mut precedence));
}

/// The thread beside a shard. On the cores of all: the kernel puts it where there is time, and shards are ahead of it there.
fn shake_hands(shard: usize, shared: Arc<Shared>, mut handshaker: Handshaker) -> io::Result<JoinHandle<()>> {
    let body = move || {
        precedence::stay_behind();
        or_abort(shard, || handshaker.run(|| shared.stop.load(Ordering::SeqCst), || shared.wake(shard)));
    };
    std::thread::Builder::new().name(format!("handshakes-{shard}")).spawn(body)
}

fn or_abort(shard: usize, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        // `eprintln!` would panic where nobody takes it, and the process go on without this shard.
        let _ = writeln!(io::stderr(), "shard {shard} failed on a bug of ours; the engine ends and is started anew");
        std::process::abort();
    }
}

fn check(handover: &Handover) -> Result<(), StartError> {
    let shards = handover.shards;
    if shards == 0 || shards > SHARDS_MAX {
        return Err(StartError::Incomplete("the number of shards"));
    }
    if handover.shard_wake.len() != shards || handover.media.iter().any(|group| group.len() != shards) {
        return Err(StartError::Incomplete("a wake descriptor and a socket for every shard"));
    }
    Ok(())
}

/// The backend, and why it was taken, in words for the person who started us.
fn choose(asked: IoChoice, found: &Probe) -> Result<(IoKind, String), StartError> {
    match (asked, &found.uring) {
        (IoChoice::Socket, _) => Ok((IoKind::Socket, "asked for by --io socket".to_owned())),
        (IoChoice::Uring, Ok(())) => Ok((IoKind::Uring, "asked for by --io uring".to_owned())),
        (IoChoice::Uring, Err(reason)) => Err(StartError::Uring(reason.to_string())),
        (IoChoice::Auto | IoChoice::Frames, Ok(())) => Ok((IoKind::Uring, "everything it needs works here".to_owned())),
        (IoChoice::Auto | IoChoice::Frames, Err(reason)) => Ok((IoKind::Socket, reason.to_string())),
    }
}

/// Whether media goes out as frames, and why; Err: it does not, and why where somebody wants to know.
fn choose_frames(asked: IoChoice, sockets: &[Sockets]) -> Result<Result<String, Option<String>>, StartError> {
    let is_local = sockets.iter().flat_map(|shard| shard.list()).all(|socket| socket.address().ip().is_loopback());
    let probe = || framing::probe().map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => "the process has no CAP_NET_RAW".to_owned(),
        Some(libc::EAFNOSUPPORT) => "the service may not use packet sockets (RestrictAddressFamilies)".to_owned(),
        _ => error.to_string(),
    });
    if matches!(asked, IoChoice::Uring | IoChoice::Socket) || asked == IoChoice::Auto && is_local {
        return Ok(Err(None));
    }
    match (asked, probe()) {
        (IoChoice::Frames, Err(reason)) => Err(StartError::Frames(reason)),
        (IoChoice::Frames, Ok(())) => Ok(Ok("asked for by --io frames".to_owned())),
        (_, Err(reason)) => Ok(Err(Some(reason))),
        (_, Ok(())) => Ok(match framing::rules::bypassed() {
            Ok(rules) if rules.is_empty() => Ok("everything it needs works here, and no rule would be passed over".to_owned()),
            Ok(rules) => Err(Some(format!("they would pass over {}; --io frames insists", rules.join(", ")))),
            Err(reason) => Err(Some(format!("{reason}; --io frames insists"))),
        }),
    }
}

fn handshakes(identity: Arc<Identity>) -> HandshakeMaker {
    Box::new(move |role, fingerprint, now| match Dtls::new(&identity, role, fingerprint, now, Instant::now()) {
        Ok(dtls) => Ok(Box::new(dtls) as Box<dyn Handshake>),
        Err(error) => Err(error),
    })
}

fn adopt(fd: RawFd) -> OwnedFd {
    // JUSTIFICATION: descriptors come as numbers from the supervisor.
    // SAFETY: the handover names each descriptor for this process alone; every number is adopted once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn duplicate(fd: RawFd) -> OwnedFd {
    // JUSTIFICATION: as in `adopt`; the number is borrowed here and adopted later.
    // SAFETY: dup of an open descriptor gives a new one that is ours.
    adopt(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })
}

/// SIGTERM ends the engine; the terminal's SIGINT is the supervisor's business.
struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Before any thread is started, so that every thread has the signals blocked.
    fn block() -> Signals {
        // JUSTIFICATION: std has no signal masks.
        // SAFETY: the set is initialised by sigemptyset before it is used.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            Signals { set }
        }
    }

    /// The same, doing `work` now and then meanwhile.
    fn wait_and(&self, every: Duration, mut work: impl FnMut()) {
        let span = libc::timespec { tv_sec: every.as_secs() as libc::time_t, tv_nsec: libc::c_long::from(every.subsec_nanos()) };
        // JUSTIFICATION: as above.
        // SAFETY: set and span are valid for the call; nobody asks for more than the number.
        while unsafe { libc::sigtimedwait(&self.set, std::ptr::null_mut(), &span) } != libc::SIGTERM {
            work();
        }
    }

    fn wait(&self) {
        let mut signal = 0;
        while signal != libc::SIGTERM {
            // JUSTIFICATION: as above.
            // SAFETY: both pointers are valid for the call.
            unsafe { libc::sigwait(&self.set, &mut signal) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::frames::netlink::network::within;
    use crate::io::frames::rules::tests::chain;
    use std::net::UdpSocket;

    /// Goal: of shards that share a core none takes it for its own.
    #[test]
    fn who_shares_a_core_is_not_alone_there() {
        assert_eq!([0, 1, 2, 3].map(|shard| is_alone(&[4, 5, 4], shard)), [false, true, false, false]);
    }

    /// Goal: `auto` passes over nobody's rules, and says whose they are. Method: a network of the test's own, with a chain at output and without.
    #[test]
    fn auto_makes_frames_where_no_rule_is_passed_over() {
        const IPV4: u8 = 2;
        const OUTPUT: u32 = 3;
        let chosen = |asked: IoChoice, address: &str, has_chain: bool| {
            within("link set lo up", || {
                if has_chain {
                    chain(IPV4, "house", OUTPUT, None, true);
                }
                // JUSTIFICATION: std has no eventfd.
                // SAFETY: a call by values.
                let wake = adopt(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) });
                let sockets = [Sockets::new(vec![UdpSocket::bind(address).unwrap().into()], wake).unwrap()];
                choose_frames(asked, &sockets).map_err(|error| error.to_string())
            })
        };
        let words = chosen(IoChoice::Auto, "0.0.0.0:0", true).unwrap().unwrap_err().unwrap();
        assert!(words.contains("chain house/leaving (nf_tables)") && words.contains("--io frames insists"), "{words}");
        match chosen(IoChoice::Auto, "0.0.0.0:0", false).unwrap() {
            Ok(words) => assert!(words.contains("no rule would be passed over"), "{words}"),
            // The machine's own, which no network of a test's own is without.
            Err(words) => assert!(words.as_ref().is_some_and(|words| words.contains("cgroup") && !words.contains("netfilter")), "{words:?}"),
        }
        assert_eq!(chosen(IoChoice::Auto, "127.0.0.1:0", false), Ok(Err(None)), "nothing to gain on loopback");
        assert_eq!(chosen(IoChoice::Frames, "0.0.0.0:0", true), Ok(Ok("asked for by --io frames".to_owned())));
        assert_eq!(chosen(IoChoice::Uring, "0.0.0.0:0", false), Ok(Err(None)));
    }
}

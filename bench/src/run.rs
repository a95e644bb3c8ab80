//! One run: publish, let viewers join on a fixed clock, hold, leave, and add up.

use crate::bare::{self, Sends, Takers};
use crate::burst;
use crate::cli::{Exit, RunArgs, Sink};
use crate::crowd::{Arriving, Crowd, Manner, Outcome, Tally, WITNESS_EACH};
use crate::generator::{self, Spent, busiest, spent};
use crate::histogram::Histogram;
use crate::live::Live;
use crate::null::{self, NullNic};
use crate::offer::{self, Wish};
use crate::price;
use crate::process::{Cores, Sample};
use crate::publishers::{self, PublishError, Published, Publisher};
use crate::remote::Identity;
use crate::summary::{self, Generator, PublisherSummary, Server, Summary, Window};
use crate::sys;
use crate::target::{Joined, Role, Target, TargetError};
use crate::timeline::Timeline;
use crate::totals::Totals;
use crate::witness;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Joins whose POST is on its way; more wait, and their waiting counts.
const JOINERS_MAX: usize = 256;
/// A viewer that did not get there so long after it was due is a failure.
const JOIN_MAX: Duration = Duration::from_secs(20);
/// From the publisher's first packet to the first viewer: servers take a stream for live when media has come.
const LIVE_MAX: Duration = Duration::from_secs(5);
/// What was under way when the publishers stopped.
const DRAIN: Duration = Duration::from_millis(500);
/// From thin to full, and through what was on its way.
const NULL_SETTLE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("interrupted before anything was measured")]
    Interrupted,
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Failed(String),
}

impl RunError {
    pub fn exit(&self) -> Exit {
        match self {
            RunError::Interrupted => Exit::Interrupted,
            RunError::Unreachable(_) => Exit::Unreachable,
            RunError::Failed(_) => Exit::Usage,
        }
    }
}

impl From<TargetError> for RunError {
    fn from(error: TargetError) -> RunError {
        match error {
            TargetError::Unreachable { .. } => RunError::Unreachable(error.to_string()),
            other => RunError::Failed(other.to_string()),
        }
    }
}

impl From<PublishError> for RunError {
    fn from(error: PublishError) -> RunError {
        match error {
            PublishError::Target(error) => error.into(),
            PublishError::Session(..) => RunError::Failed(error.to_string()),
        }
    }
}

/// What the joiners' threads share.
struct Joiners {
    target: Arc<Target>,
    identity: Arc<Identity>,
    wish: Wish,
    crowds: Vec<Sender<Arriving>>,
    refused: Mutex<BTreeMap<String, u64>>,
    /// The same of a burst.
    burst_refused: Mutex<BTreeMap<String, u64>>,
    /// From this number on they come with a burst, and to a room of theirs.
    burst_from: u64,
    witness_print: Option<[u8; 32]>,
    /// Where those are who go on getting packets when the others' end in the null NIC.
    cabled: Option<IpAddr>,
    all_witness: bool,
    rooms: Vec<String>,
    burst_room: String,
    tasks: Mutex<Receiver<Task>>,
    begun: AtomicU64,
    /// Nobody joins any more, whoever was due.
    stop: AtomicBool,
}

/// What a joiner does next.
enum Task {
    /// Viewer so-and-so, due then.
    Join(u64, Duration),
    Leave(Joined),
}

impl Joiners {
    fn join(&self, number: u64, room: &str, scheduled: Duration) {
        // Those of a burst are counted and not measured.
        let witness = number < self.burst_from && (self.all_witness || number % WITNESS_EACH == 0);
        let mut credentials = self.identity.credentials();
        if let (true, Some(print)) = (witness, self.witness_print) {
            credentials.fingerprint = print;
        }
        let joined = self.target.join(Role::View, room, &offer::write(&credentials, &self.wish));
        let arriving = joined.map_err(|error| error.to_string()).and_then(|joined| {
            let agreed = offer::read(&joined.answer, &credentials)?;
            let from = self.cabled.filter(|_| number % null::CABLED_EACH == 0);
            Ok(Arriving { number, scheduled, answered: sys::monotonic(), ufrag: credentials.ufrag.clone(), agreed, joined, witness, from })
        });
        match arriving {
            Ok(arriving) => {
                let place = number as usize % self.crowds.len().max(1);
                let _ = self.crowds.get(place).map(|crowd| crowd.send(arriving));
            }
            Err(reason) => {
                let refused = if number < self.burst_from { &self.refused } else { &self.burst_refused };
                let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
                *refused.entry(reason).or_default() += 1;
            }
        }
    }

    /// Until nobody has tasks any more.
    fn work(&self) {
        loop {
            let task = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            match task {
                Ok(Task::Join(number, scheduled)) => {
                    if !self.stop.load(Ordering::Relaxed) {
                        sys::sleep_until(scheduled);
                    }
                    if self.stop.load(Ordering::Relaxed) {
                        continue;
                    }
                    if number >= self.burst_from {
                        self.join(number, &self.burst_room, scheduled);
                        continue;
                    }
                    self.begun.fetch_add(1, Ordering::Relaxed);
                    let room = &self.rooms[(number % self.rooms.len() as u64) as usize];
                    self.join(number, room, scheduled);
                }
                Ok(Task::Leave(joined)) => self.target.leave(&joined),
                Err(_) => return,
            }
        }
    }
}

fn burst_room_name(args: &RunArgs) -> String {
    format!("{}-{}", args.room, burst::ROOM)
}

pub fn room_name(args: &RunArgs, number: u64) -> String {
    if args.rooms() == 1 { args.room.clone() } else { format!("{}-{number}", args.room) }
}

/// Another network and core, for the publisher; and what is done to the server when a third of the hold is over.
pub struct Elsewhere {
    pub namespace: File,
    /// Its address there, and the viewers' in theirs.
    pub server: IpAddr,
    pub viewers: IpAddr,
    pub core: usize,
    pub deed: Option<Box<dyn Fn()>>,
    /// Where the server's packets end when all viewers are there.
    pub null: Option<NullNic>,
}

pub fn run(args: &RunArgs) -> Result<Summary, RunError> {
    run_from(args, None)
}

/// `publisher_at`: where the publisher's thread goes before it opens a socket.
pub fn run_from(args: &RunArgs, publisher_at: Option<&Elsewhere>) -> Result<Summary, RunError> {
    let files = sys::raise_open_files();
    let needed = args.viewers + args.burst + args.rooms() + JOINERS_MAX as u64 + 64;
    if files < needed {
        return Err(RunError::Failed(format!("{needed} open files are needed and {files} allowed: ulimit -n {needed}")));
    }
    let target = Target::new(&args.target, &args.whip_path, &args.whep_path, args.token.as_deref(), args.key_file.as_deref())?;
    let target = Arc::new(target);
    target.reach()?;
    let failed = RunError::Failed;
    let identity = Arc::new(Identity::new().map_err(failed)?);
    let plan = args.plan();
    let run = (sys::unix_ns() / 1_000_000) as u16;
    let live = Live::new(args.viewers);

    let null = publisher_at.and_then(|place| place.null.as_ref());
    if null.is_some() && (args.hold() > null::HOLD_MAX || args.stay().is_some()) {
        return Err(failed(format!("viewers of a null NIC stay, and not for longer than {} s: answers to their checks are lost", null::HOLD_MAX.as_secs())));
    }

    if args.silent && (null.is_none() || args.hold() > null::HOLD_MAX) {
        return Err(failed("--silent is for `null`: who says nothing elsewhere is taken for gone".into()));
    }

    if args.burst > 0 && (null.is_some() || args.stay().is_some() || args.no_publish) {
        return Err(failed("--burst is for viewers who stay, on a network that carries what they get, and for a publisher of our own".into()));
    }

    // ---- publish
    let published = Arc::new(Published::default());
    // Viewers join over the cable, which carries less than the null NIC: keyframes are enough for that.
    published.thin.store(null.is_some(), Ordering::Relaxed);
    let mut publisher = None;
    if !args.no_publish {
        live.note(&format!("publishing {}", room_name(args, 0)));
        let rooms: Vec<String> = (0..args.rooms()).map(|number| room_name(args, number)).collect();
        if args.record {
            rooms.iter().try_for_each(|room| target.record(room))?;
        }
        let (target, told, identity) = (Arc::clone(&target), Arc::clone(&published), Arc::clone(&identity));
        let place = publisher_at.map(|place| Ok((place.namespace.try_clone()?, place.core))).transpose();
        let place = place.map_err(|error: std::io::Error| failed(error.to_string()))?;
        let obedient = !args.deaf;
        let burst_room = (args.burst > 0).then(|| burst_room_name(args));
        let (ready, is_ready) = channel();
        publisher = Some(spawn("publisher", move || {
            let joined = (|| -> Result<Vec<Publisher>, RunError> {
                if let Some((namespace, core)) = place {
                    sys::enter_network(&namespace).map_err(|error| RunError::Failed(error.to_string()))?;
                    sys::pin_to(core);
                    sys::be_punctual();
                }
                let join = |room: &String| match sys::is_interrupted() {
                    true => Err(RunError::Interrupted),
                    false => Ok(Publisher::join(&target, &identity, room, plan, run, obedient)?),
                };
                let mut publishers = rooms.iter().map(join).collect::<Result<Vec<_>, RunError>>()?;
                if let Some(room) = burst_room {
                    publishers.push(Publisher::join(&target, &identity, &room, burst::plan(), run, obedient)?);
                }
                Ok(publishers)
            })();
            match joined {
                Ok(publishers) => {
                    let _ = ready.send(Ok(()));
                    publishers::run(publishers, &target, &told)
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    Histogram::new()
                }
            }
        })?);
        is_ready.recv().map_err(|_| failed("the publisher's thread ended".into()))??;
    }

    // ---- the crowd
    let wish = Wish { codec: plan.codec, sends: None, rtx: true, audio_only: !plan.has_video() };
    let all_witness = args.sink() == Sink::Full;
    let manner = Manner {
        recover: !args.no_recover,
        drop_each: args.drop(),
        run,
        all_witness,
        audio_only: !plan.has_video(),
        delay: args.delay(),
        reorder_each: args.reorder(),
        stay: args.stay(),
        silent: args.silent,
        burst_from: if args.burst > 0 { args.viewers } else { u64::MAX },
        seed: args.seed,
    };
    let tally = Arc::new(Tally::default());
    let (mut crowds, mut threads) = (Vec::new(), Vec::new());
    let (leaving, left) = channel();
    for number in 0..args.threads {
        let (sender, receiver) = channel();
        let (identity, tally, leaving) = (Arc::clone(&identity), Arc::clone(&tally), leaving.clone());
        let manner = Manner { seed: manner.seed ^ number, ..manner };
        threads.push(spawn(&format!("crowd-{number}"), move || Some(Crowd::new(identity, manner, tally, leaving).ok()?.run(&receiver)))?);
        crowds.push(sender);
    }
    drop(leaving);
    let (_, witness_print) = witness::certificate().map_err(failed)?;
    let (tasks, queue) = channel();
    let joiners = Arc::new(Joiners {
        target: Arc::clone(&target),
        identity,
        wish,
        crowds,
        refused: Mutex::new(BTreeMap::new()),
        burst_refused: Mutex::new(BTreeMap::new()),
        burst_from: manner.burst_from,
        witness_print: Some(witness_print),
        cabled: null.map(NullNic::cabled),
        all_witness,
        rooms: (0..args.rooms()).map(|number| room_name(args, number)).collect(),
        burst_room: burst_room_name(args),
        tasks: Mutex::new(queue),
        begun: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    await_live(&joiners, args)?;
    let before_viewers = Sample::take(&args.server_pid);

    // ---- the ramp: viewer n begins at n / ramp, whatever became of those before it
    let begin = sys::monotonic();
    let hands = hands(&joiners, args)?;
    let mut ramp = Timeline::new(begin, &args.server_pid, before_viewers.clone(), (0, 0, 0));
    for number in 0..args.viewers {
        let _ = tasks.send(Task::Join(number, begin + Duration::from_secs_f64(number as f64 / args.ramp())));
    }
    let mut churn = Churn { left, tasks: tasks.clone(), next: args.viewers };
    let expected = begin + Duration::from_secs_f64(args.viewers as f64 / args.ramp());
    let settled = |tally: &Tally, joiners: &Joiners| {
        let refused: u64 = joiners.refused.lock().unwrap_or_else(PoisonError::into_inner).values().sum();
        tally.shown.load(Ordering::Relaxed) + tally.failed.load(Ordering::Relaxed) + refused >= args.viewers
    };
    while !settled(&tally, &joiners) && sys::monotonic() < expected + JOIN_MAX && !sys::is_interrupted() {
        thread::sleep(Duration::from_millis(20));
        ramp.tick(&tally, tally.delivered());
        churn.turn();
        live.joining(&tally, &joiners.begun);
    }

    // ---- hold
    // While the route is turned, answers to us end in the null NIC, too.
    let sent_before = target.sends();
    if let Some(null) = null {
        null.divert()?;
        published.thin.store(false, Ordering::Relaxed);
        thread::sleep(NULL_SETTLE);
    }
    let begun = Edge::take(&tally, args, null);
    let from = begun.at;
    tally.window_from_ns.store(begun.unix_ns, Ordering::Relaxed);
    tally.window_to_ns.store(u64::MAX, Ordering::Relaxed);
    // Before the burst is half of what is before it: those who are there have only just come.
    let mut burst: Option<burst::Begun> = None;
    let unix_from = begun.unix_ns / 1_000_000_000;
    let mut deed = publisher_at.and_then(|place| place.deed.as_ref());
    let mut timeline = Timeline::new(from, &args.server_pid, begun.server.clone(), (begun.packets, begun.bytes, begun.lost));
    let burst_refused = || joiners.burst_refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
    while (sys::monotonic() < from + args.hold() || is_running(&tally, burst.as_ref())) && !sys::is_interrupted() {
        thread::sleep(Duration::from_millis(if args.burst > 0 { 10 } else { 50 }).min(args.hold()));
        if args.burst > 0 {
            turn_burst(args, &tally, &tasks, &mut burst, from, burst_refused().values().sum());
        }
        timeline.tick(&tally, null.map_or_else(|| tally.delivered(), NullNic::taken));
        if let Some(deed) = deed.take_if(|_| sys::monotonic() > from + args.hold() / 3) {
            deed();
        }
        churn.turn();
        live.holding(&tally, sys::monotonic() - from, args.hold());
    }
    let ended = Edge::take(&tally, args, null);
    if let Some(null) = null {
        null.restore()?;
    }
    let sent_after = target.sends();
    tally.window_to_ns.store(ended.unix_ns, Ordering::Relaxed);
    let memory_bytes = ended.server.memory_bytes();
    let (packets, bytes) = (ended.packets - begun.packets, ended.bytes - begun.bytes);

    // ---- leave
    tally.stopped_ns.store(sys::monotonic().as_nanos() as u64, Ordering::Relaxed);
    joiners.stop.store(true, Ordering::Relaxed);
    published.stop.store(true, Ordering::Relaxed);
    let lag_us = publisher.and_then(|publisher| publisher.join().ok());
    let lag_of = |quantile: f64| lag_us.as_ref().and_then(|lag| lag.at(quantile)).unwrap_or_default() / 1e3;
    let (publisher_lag_ms, publisher_lag_ms_max) = (lag_of(0.99), lag_of(1.0));
    thread::sleep(DRAIN);
    churn.forward_leavers();
    // Who was not begun was not offered: an interrupted ramp, or the last of a churn.
    let offered = joiners.begun.load(Ordering::Relaxed);
    drop((churn, tasks));
    hands.into_iter().for_each(|hand| drop(hand.join()));
    tally.stop.store(true, Ordering::Relaxed);
    let outcomes: Vec<Outcome> = threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect();
    live.note("leaving");
    let target_gone = target.reach().is_err();
    goodbye(&target, &outcomes);
    live.end();

    // ---- what the same packets cost nobody but a cipher, on the server's core and with nothing else there
    // Who interrupted the run does not wait for it.
    let bare = |sends: &Sends<'_>| publisher_at.filter(|_| !sys::is_interrupted()).and_then(|place| bare::run(&plan, args.viewers, place.core, sends));
    let sealed = bare(&Sends::None);
    let sent = match (publisher_at, null) {
        (None, _) => None,
        (Some(place), Some(null)) => {
            null.divert()?;
            let bare = bare(&Sends::Dropped { namespace: &place.namespace, to: null.viewers() });
            null.restore()?;
            bare
        }
        (Some(place), None) => Takers::open(args.viewers, place.viewers, place.server).ok().and_then(|takers| {
            let bare = bare(&Sends::Taken { namespace: &place.namespace, takers: &takers });
            bare.filter(|bare| takers.close() == bare.packets)
        }),
    };

    // ---- add up
    let seconds = ((ended.unix_ns.saturating_sub(begun.unix_ns)) as f64 / 1e9).max(1e-3);
    let refused = joiners.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut crowd = summary::crowd(&outcomes, &refused, plan.pps());
    if null.is_some() {
        // Viewers saw nothing of it: what was due and not sent is what is missing.
        let due = plan.pps() * seconds * crowd.joined.max(1) as f64;
        crowd.loss_ratio = (1.0 - packets as f64 / due).max(0.0);
        (crowd.loss_raw_ratio, crowd.duplicate_ratio) = (crowd.loss_ratio, 0.0);
    }
    let busiest = busiest(&begun.threads, &ended.threads, seconds);
    let generator = generator::judge(Generator {
        cpu_ratio: busiest.0,
        waited_ratio: busiest.1,
        cores_idle_ratio: ended.cores.idle_since(&begun.cores),
        threads: args.threads,
        lag_ms_p99: crowd.lag_ms_p99,
        socket_drops: crowd.socket_drops,
        slope: timeline.own_slope(),
        ..Generator::default()
    }, publisher_lag_ms);
    let server = (!args.server_pid.is_empty()).then(|| {
        let processes = ended.server.since(&begun.server);
        let used: f64 = processes.iter().map(|usage| usage.cpu_s).sum();
        let engine = processes.iter().find(|usage| usage.name.ends_with(" engine")).filter(|_| packets > 0);
        let grown = ended.server.rss_bytes() as f64 - before_viewers.rss_bytes() as f64;
        Server {
            cpu_ns_per_packet: if packets == 0 { 0.0 } else { used * 1e9 / packets as f64 },
            cpu_ratio: used / seconds,
            engine_user_ns_per_packet: engine.map(|engine| engine.user_s * 1e9 / packets as f64),
            seal_ns_per_packet: sealed.map(|sealed| sealed.ns_per_packet),
            bare_ns_per_packet: sent.map(|sent| sent.ns_per_packet),
            bare_latency_us: sent.and_then(|sent| sent.latency_us),
            sends_per_packet: sent_before.zip(sent_after).and_then(|(before, after)| after.per_packet_since(&before)),
            memory_bytes,
            rss_bytes: ended.server.rss_bytes(),
            slopes: timeline.slopes(),
            rss_bytes_per_viewer: grown / crowd.joined.min(args.viewers).max(1) as f64,
            processes,
        }
    });
    // Of a churn as many are there as were asked for, but not the same.
    let present = crowd.joined.min(args.viewers);
    let witnesses = if all_witness { offered } else { offered.div_ceil(WITNESS_EACH) };
    let (mut burst_totals, mut around) = (Totals::default(), burst::Around::default());
    for outcome in &outcomes {
        burst_totals.merge(&outcome.burst);
        around.merge(&outcome.around);
    }
    let mut summary = Summary {
        schema: 1,
        network: if null.is_some() { "null" } else { "real" }.into(),
        target: target.base().to_owned(),
        target_gone,
        scenario: args.scenario.clone(),
        profile: args.profile.name().into(),
        rooms: args.rooms(),
        offered_mbps_per_viewer: plan.bitrate_bps as f64 / 1e6 + 0.064,
        offered_pps_per_viewer: plan.pps(),
        viewers_offered: offered,
        viewers_joined: crowd.joined,
        join_failures: offered - crowd.joined.min(offered),
        failures: crowd.failures,
        duration_s: seconds,
        window: Window { from_unix_ns: begun.unix_ns, to_unix_ns: ended.unix_ns },
        delivered_packets: packets,
        other_packets: ended.others - begun.others,
        delivered_mbps: bytes as f64 * 8.0 / seconds / 1e6,
        pps_per_viewer: if present == 0 { 0.0 } else { packets as f64 / seconds / present as f64 },
        loss_ratio: crowd.loss_ratio,
        loss_raw_ratio: crowd.loss_raw_ratio,
        duplicate_ratio: crowd.duplicate_ratio,
        resent_packets: crowd.resent_packets,
        ttff_ms: crowd.ttff_ms,
        join_ms: crowd.join_ms,
        latency_us: crowd.latency_us,
        latency_audio_us: crowd.latency_audio_us,
        latency_video_us: crowd.latency_video_us,
        latency_frame_us: crowd.latency_frame_us,
        latency_keyframe_us: crowd.latency_keyframe_us,
        latency_spread_ratio: crowd.latency_spread_ratio,
        srtp_profile: crowd.srtp_profile,
        witnesses,
        opened_packets: outcomes.iter().map(|outcome| outcome.opened.packets).sum(),
        altered_packets: outcomes.iter().map(|outcome| outcome.opened.altered).sum(),
        server,
        generator,
        publisher: PublisherSummary {
            packets: published.packets.load(Ordering::Relaxed),
            resent: published.resent.load(Ordering::Relaxed),
            lost_sessions: published.lost_sessions.load(Ordering::Relaxed),
            keyframes_asked: published.keyframes_asked.load(Ordering::Relaxed),
            lag_ms_p99: publisher_lag_ms,
            lag_ms_max: publisher_lag_ms_max,
        },
        burst: burst.map(|burst| burst.summary(&tally.burst, &burst_totals, &around, &burst_refused())),
        price: None,
        ramp: ramp.seconds,
        timeline: timeline.with_latency(&outcomes, unix_from),
        ttff_curve_ms: crowd.ttff_curve_ms,
        thresholds: Vec::new(),
        verdict: String::new(),
    };
    summary.thresholds = args.verdict.thresholds.iter().map(|threshold| threshold.judge(&summary)).collect();
    summary.price = price::price(&args.verdict, packets, bytes, seconds, present, summary.server.as_ref().map(|server| server.cpu_ratio));
    summary.verdict = verdict(&summary);
    Ok(summary)
}

fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<thread::JoinHandle<T>, RunError> {
    let spawned = thread::Builder::new().name(name.to_owned()).stack_size(512 * 1_024).spawn(work);
    spawned.map_err(|error| RunError::Failed(format!("no thread could be started: {error}")))
}

/// The first viewer finds out when the stream is there; it leaves again and is not counted.
fn await_live(joiners: &Joiners, args: &RunArgs) -> Result<(), RunError> {
    let deadline = sys::monotonic() + LIVE_MAX;
    for number in 0..args.rooms() {
        let room = room_name(args, number);
        loop {
            let credentials = joiners.identity.credentials();
            match joiners.target.join(Role::View, &room, &offer::write(&credentials, &joiners.wish)) {
                Ok(joined) => {
                    joiners.target.leave(&joined);
                    break;
                }
                // Nothing is live yet, in the words of various servers.
                Err(TargetError::Refused { status: 404 | 409 | 425 | 503, .. }) if sys::monotonic() < deadline => {
                    if sys::is_interrupted() {
                        return Err(RunError::Interrupted);
                    }
                    thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// As many joiners as may be needed at a time.
fn hands(joiners: &Arc<Joiners>, args: &RunArgs) -> Result<Vec<thread::JoinHandle<()>>, RunError> {
    let of = |viewers: u64, ramp: f64| JOINERS_MAX.min(viewers as usize).min((ramp.ceil() as usize).max(4));
    let count = of(args.viewers, args.ramp()).max(of(args.burst, args.burst_ramp));
    let hand = |number: usize| {
        let joiners = Arc::clone(joiners);
        spawn(&format!("join-{number}"), move || joiners.work())
    };
    (0..count).map(hand).collect()
}

/// Begins the burst when its time has come, and notes when the last of it has a picture (or none).
fn turn_burst(args: &RunArgs, tally: &Tally, tasks: &Sender<Task>, burst: &mut Option<burst::Begun>, from: Duration, refused: u64) {
    let (now, marks) = (sys::monotonic(), &tally.burst);
    match burst {
        None if now >= from + args.hold() / 3 => {
            let due = |place: u64| Duration::from_secs_f64(place as f64 / args.burst_ramp);
            marks.from_ns.store(sys::unix_ns(), Ordering::Relaxed);
            *burst = Some(burst::Begun { viewers: args.burst, due: due(args.burst - 1), at: now });
            for place in 0..args.burst {
                let _ = tasks.send(Task::Join(args.viewers + place, now + due(place)));
            }
        }
        None if now >= from + args.hold() / 6 && marks.before_from_ns.load(Ordering::Relaxed) == 0 => {
            marks.before_from_ns.store(sys::unix_ns(), Ordering::Relaxed);
        }
        Some(begun) if marks.to_ns.load(Ordering::Relaxed) == 0 => {
            let ended = marks.shown.load(Ordering::Relaxed) + marks.failed.load(Ordering::Relaxed) + refused;
            if ended >= begun.viewers || now > begun.at + begun.due + JOIN_MAX {
                marks.to_ns.store(sys::unix_ns(), Ordering::Relaxed);
            }
        }
        _ => {}
    }
}

/// A burst goes on.
fn is_running(tally: &Tally, burst: Option<&burst::Begun>) -> bool {
    burst.is_some() && tally.burst.to_ns.load(Ordering::Relaxed) == 0
}

/// For everybody who left another one comes.
struct Churn {
    left: Receiver<Joined>,
    tasks: Sender<Task>,
    next: u64,
}

impl Churn {
    /// At the end: nobody comes in their place.
    fn forward_leavers(&self) {
        while let Ok(joined) = self.left.try_recv() {
            let _ = self.tasks.send(Task::Leave(joined));
        }
    }

    fn turn(&mut self) {
        while let Ok(joined) = self.left.try_recv() {
            let _ = self.tasks.send(Task::Leave(joined));
            let _ = self.tasks.send(Task::Join(self.next, sys::monotonic()));
            self.next += 1;
        }
    }
}

/// An edge of the time measured: all that is counted from one to the other, taken at one moment as far as that goes.
struct Edge {
    at: Duration,
    unix_ns: u64,
    packets: u64,
    others: u64,
    bytes: u64,
    lost: u64,
    server: Sample,
    threads: BTreeMap<u64, Spent>,
    cores: Cores,
}

impl Edge {
    fn take(tally: &Tally, args: &RunArgs, null: Option<&NullNic>) -> Edge {
        let unix_ns = tally.take_stock(args.threads);
        // Of a null NIC: what ended there, and what a few viewers still get.
        let (got, dropped) = (tally.delivered(), null.map(NullNic::taken).unwrap_or_default());
        let (packets, bytes) = (got.0 + dropped.0, got.1 + dropped.1);
        Edge {
            at: sys::monotonic(),
            unix_ns,
            packets,
            others: tally.others.load(Ordering::Relaxed),
            bytes,
            lost: tally.lost.load(Ordering::Relaxed),
            server: Sample::take(&args.server_pid),
            threads: spent("crowd-"),
            cores: Cores::now(),
        }
    }
}

/// Tells the server, in parallel and not for longer than a few seconds.
fn goodbye(target: &Arc<Target>, outcomes: &[Outcome]) {
    let joined: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.present).cloned().collect();
    let joined = Arc::new(Mutex::new(joined));
    let deadline = sys::monotonic() + Duration::from_secs(10);
    let threads: Vec<_> = (0..32)
        .filter_map(|_| {
            let (target, joined) = (Arc::clone(target), Arc::clone(&joined));
            let work = move || {
                while sys::monotonic() < deadline {
                    let next = joined.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(next) = next else { return };
                    target.leave(&next);
                }
            };
            spawn("leave", work).ok()
        })
        .collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

/// The last line: what was seen, in words, and of whom it says nothing.
fn verdict(summary: &Summary) -> String {
    if summary.target_gone {
        return format!("{} went away while it was measured", summary.target);
    }
    if summary.generator.saturated {
        return format!("the generator was the limit, this says nothing about the server: {}", summary.generator.reasons.join("; "));
    }
    let carried = format!(
        "{} of {} viewers got {:.0} packets/s each, {:.0} Mbit/s together",
        summary.viewers_joined, summary.viewers_offered, summary.pps_per_viewer, summary.delivered_mbps
    );
    let failed: Vec<&str> = summary.thresholds.iter().filter(|verdict| !verdict.met).map(|verdict| verdict.text.as_str()).collect();
    if !failed.is_empty() {
        return format!("{carried}; not met: {}", failed.join(", "));
    }
    let short = summary.pps_per_viewer < summary.offered_pps_per_viewer * 0.99;
    if summary.join_failures > 0 || short || summary.loss_ratio > 0.001 {
        return format!("{carried}; the server did not carry all of it: {} joins failed, {:.3} % lost", summary.join_failures, summary.loss_ratio * 100.0);
    }
    format!("{carried}; nothing broke")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Verdict;

    fn args(more: &[&str]) -> RunArgs {
        use clap::Parser;
        let words = ["spillway-bench", "run", "--target", "http://127.0.0.1:1"];
        match crate::cli::Cli::parse_from(words.iter().chain(more)).command {
            crate::cli::Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_room_has_its_name_and_many_have_numbers() {
        assert_eq!(room_name(&args(&["--room", "a"]), 0), "a");
        assert_eq!(room_name(&args(&["--room", "a", "--rooms", "2"]), 1), "a-1");
    }

    #[test]
    fn for_everybody_who_leaves_another_one_comes_until_the_end() {
        let ((leaving, left), (tasks, queue)) = (channel(), channel());
        let mut churn = Churn { left, tasks, next: 7 };
        let said = |queue: &Receiver<Task>| -> Vec<Option<u64>> {
            queue.try_iter().map(|task| if let Task::Join(number, _) = task { Some(number) } else { None }).collect()
        };
        leaving.send(Joined::of_nobody()).unwrap();
        leaving.send(Joined::of_nobody()).unwrap();
        churn.turn();
        assert_eq!(said(&queue), [None, Some(7), None, Some(8)]);
        leaving.send(Joined::of_nobody()).unwrap();
        churn.forward_leavers();
        assert_eq!(said(&queue), [None]);
    }

    #[test]
    fn the_last_line_names_what_counts_first() {
        let good = Summary {
            target: "http://x".into(),
            viewers_offered: 10,
            viewers_joined: 10,
            offered_pps_per_viewer: 310.0,
            pps_per_viewer: 309.0,
            ..Summary::default()
        };
        assert!(verdict(&good).ends_with("nothing broke"));
        for short in [
            Summary { pps_per_viewer: 306.0, ..good.clone() },
            Summary { join_failures: 1, ..good.clone() },
            Summary { loss_ratio: 0.0011, ..good.clone() },
        ] {
            assert!(verdict(&short).contains("the server did not carry all of it"), "{}", verdict(&short));
        }
        let broken = Verdict { text: "loss<0.1%".into(), measured: Some(0.5), met: false };
        let failed = Summary { thresholds: vec![broken], loss_ratio: 0.5, ..good.clone() };
        assert!(verdict(&failed).ends_with("not met: loss<0.1%"));
        let reasons = vec!["it was busy".to_owned()];
        let saturated = Summary { generator: Generator { saturated: true, reasons, ..Generator::default() }, ..failed.clone() };
        assert!(verdict(&saturated).ends_with("says nothing about the server: it was busy"));
        assert_eq!(verdict(&Summary { target_gone: true, ..saturated }), "http://x went away while it was measured");
    }
}

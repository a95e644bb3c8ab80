//! The viewers: one thread drives many of them, each with a socket, a session and a ledger of its own.
//!
//! Two kinds. *Witnesses* open every packet with webrtc-srtp and read its stamp: latency, and loss by the publisher's
//! own numbers. The others (*cheap*) do the whole join, then look at clear headers alone: that counts packets,
//! holes and doubles exactly and costs a fifth.

use crate::histogram::Histogram;
use crate::ledger::{Entry, Heard, Ledger, NACK_INTERVAL};
use crate::offer::Agreed;
use crate::remote::{self, Event, Identity, Keys, Remote};
use crate::source::{Stamp, StampKind};
use crate::sys::{self, BATCH, Batch, DATAGRAM_BYTES_MAX, HEAD_BYTES, Poller};
use crate::target::Joined;
use crate::totals::{Account, Phases, Totals};
use crate::witness::{self, Witness};
use spillway_proto::rng::Rng;
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::{rtcp, rtp};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

/// What waits in a viewer's socket while this thread does something else: 100 ms of 10 Mbit/s, with the kernel's overhead.
const SOCKET_BYTES: usize = 512 * 1_024;
const TURN_MAX: Duration = Duration::from_millis(1);
/// A viewer that has its picture is looked at so often, and not woken for. A wake for each packet would be work of
/// whoever sends it (over veth the server's core, a seventh of it at 600 viewers), which no viewer elsewhere costs.
/// So long, because a look costs half of what nine packets cost; longer would let the next keyframe overflow a call.
const LOOK_INTERVAL: Duration = Duration::from_millis(30);
/// The same where losses are of our own making: what is missing is asked for soon.
const LOOK_INTERVAL_LOSSY: Duration = Duration::from_millis(4);
/// Without a picture, as in a room with sound alone, it is woken for so long after its handshake.
const AWAKE_MAX: Duration = Duration::from_secs(1);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Blocks of one receiver report.
const BLOCKS_MAX: usize = 4;
const OWN_SSRC: u32 = 0xBE_4C_00_01;

/// What the crowd's threads share with whoever watches them.
#[derive(Default)]
pub struct Tally {
    pub connected: AtomicU64,
    pub shown: AtomicU64,
    pub failed: AtomicU64,
    /// Stayed as long as they wanted.
    pub left: AtomicU64,
    /// RTP.
    pub packets: AtomicU64,
    /// Datagrams that are none.
    pub others: AtomicU64,
    pub bytes: AtomicU64,
    /// Numbers that were passed over, whatever came later.
    pub lost: AtomicU64,
    /// Times to the first frame, their sum and the longest, in microseconds.
    pub ttff_us: AtomicU64,
    pub ttff_us_max: AtomicU64,
    /// How late this generator's own turns were, the worst of the last second, in microseconds.
    pub lag_us: AtomicU64,
    /// Only packets sent in this window (UNIX nanoseconds) count for latency.
    pub window_from_ns: AtomicU64,
    pub window_to_ns: AtomicU64,
    pub stop: AtomicBool,
    /// When the publishers stopped, in nanoseconds of our clock: what was due ends there.
    pub stopped_ns: AtomicU64,
    /// When stock was taken last, in UNIX nanoseconds.
    stock_at_ns: AtomicU64,
    /// Stock-takings asked for, and the crowds that have answered: see `take_stock`.
    stock_asked: AtomicU64,
    stock_taken: AtomicU64,
}

impl Tally {
    /// Packets and bytes of media so far.
    pub fn delivered(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Has each of so many crowds empty all its sockets, so that what has arrived by now is counted, not what was
    /// found in sockets by chance. Waits for it, but not forever. Returns when that was, in UNIX nanoseconds.
    pub fn take_stock(&self, crowds: u64) -> u64 {
        let wanted = (self.stock_asked.fetch_add(1, Ordering::Relaxed) + 1) * crowds;
        let deadline = sys::monotonic() + STOCK_MAX;
        while self.stock_taken.load(Ordering::Acquire) < wanted && sys::monotonic() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        self.stock_at_ns.load(Ordering::Relaxed)
    }
}

/// A crowd that has not counted after so long is too busy to be believed anyway.
const STOCK_MAX: Duration = Duration::from_millis(500);

/// How viewers behave.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Holes are asked for again.
    pub recover: bool,
    /// One of so many datagrams is thrown away as if the network had lost it; 0: none.
    pub drop_each: u64,
    /// Of the run whose stamps count.
    pub run: u16,
    /// Everybody opens every packet.
    pub all_witness: bool,
    /// There is no picture to wait for: each packet of sound is a frame.
    pub audio_only: bool,
    /// A packet is seen so much later than it came.
    pub delay: Duration,
    /// One of so many is seen another 20 ms later; 0: none.
    pub reorder_each: u64,
    /// How long a viewer stays, at least and at most; none: to the end.
    pub stay: Option<(Duration, Duration)>,
    pub seed: u64,
}

impl Manner {
    fn is_lossy(&self) -> bool {
        self.drop_each > 0 || self.reorder_each > 0 || self.delay > Duration::ZERO
    }
}

/// A viewer whose POST was answered.
pub struct Arriving {
    pub number: u64,
    /// When it was due to begin: joining counts from here, however late the generator was.
    pub scheduled: Duration,
    pub answered: Duration,
    pub ufrag: String,
    pub agreed: Agreed,
    pub joined: Joined,
    pub witness: bool,
}

/// What a thread of the crowd leaves.
#[derive(Default)]
pub struct Outcome {
    pub totals: Totals,
    /// Those the server has to be told of.
    pub present: Vec<Joined>,
    pub audio_ns: Histogram,
    /// Of ordinary frames.
    pub video_ns: Histogram,
    pub keyframe_ns: Histogram,
    pub refused: u64,
    pub cpu: Duration,
    /// How late turns were, in microseconds.
    pub lag_us: Histogram,
    /// Latency second by second: (UNIX second, p50, p99, p99.9 in microseconds).
    pub seconds: Vec<(u64, f64, f64, f64)>,
}

struct Viewer {
    number: u64,
    remote: Option<Remote>,
    phases: Phases,
    ledger: Ledger,
    rtx_pt: Option<u8>,
    /// Sum and number of its packets' latencies.
    latency_ns: (u64, u64),
    /// None: it has left, and the place is free.
    joined: Option<Joined>,
    witness: bool,
    keys: Option<Keys>,
    profile: Option<&'static str>,
    failure: Option<String>,
    report_at: Duration,
    leave_at: Duration,
    /// Its entry among the timers; an earlier one counts, others are stale.
    armed: Duration,
    /// Looked at in turn, no more woken for.
    watched: bool,
}

/// A packet that is not seen yet.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Delayed {
    at: Duration,
    place: usize,
    /// Whose it is: the place may be another's by then.
    number: u64,
    /// When it would have been seen: latency counts the delay, too.
    at_ns: u64,
    bytes: Vec<u8>,
}

/// A picture packet younger than this is live: what is older is a replay.
const LIVE_AGE: Duration = Duration::from_millis(150);
/// What a late packet comes behind its place by.
const DISORDER: Duration = Duration::from_millis(20);
/// Datagrams that wait: beyond it they are seen at once, and the run shows it as disorder.
const DELAYED_MAX: usize = 1 << 20;

pub struct Crowd {
    identity: Arc<Identity>,
    manner: Manner,
    tally: Arc<Tally>,
    viewers: Vec<Viewer>,
    /// Places of those who left.
    free: Vec<usize>,
    /// What came of them.
    totals: Totals,
    poller: Poller,
    batch: Batch,
    timers: BinaryHeap<Reverse<(Duration, usize)>>,
    audio_ns: Histogram,
    video_ns: Histogram,
    keyframe_ns: Histogram,
    lag_us: Histogram,
    seconds: Seconds,
    delayed: BinaryHeap<Reverse<Delayed>>,
    leaving: Option<Sender<Joined>>,
    rng: Rng,
    /// Sockets that have something, used again each turn.
    ready: Vec<u64>,
    /// Those that are looked at in turn, and who is next.
    watched: Vec<usize>,
    next: usize,
    looked_at: Duration,
    look_interval: Duration,
    stock_taken: u64,
    refused: u64,
    packets: u64,
    others: u64,
    bytes: u64,
    lost: u64,
}

/// Latency second by second.
#[derive(Default)]
struct Seconds {
    current: u64,
    histogram: Option<Histogram>,
    done: Vec<(u64, f64, f64, f64)>,
}

impl Seconds {
    fn add(&mut self, at_ns: u64, latency_ns: u64) {
        let second = at_ns / 1_000_000_000;
        if second != self.current {
            self.close();
            self.current = second;
        }
        self.histogram.get_or_insert_with(Histogram::new).add(latency_ns);
    }

    fn close(&mut self) {
        let Some(histogram) = self.histogram.take() else { return };
        let at = |quantile: f64| histogram.at(quantile).unwrap_or_default() / 1e3;
        self.done.push((self.current, at(0.5), at(0.99), at(0.999)));
    }
}

impl Crowd {
    /// `leaving` hears of those who stayed long enough.
    pub fn new(identity: Arc<Identity>, manner: Manner, tally: Arc<Tally>, leaving: Sender<Joined>) -> std::io::Result<Crowd> {
        Ok(Crowd {
            identity,
            manner,
            tally,
            viewers: Vec::new(),
            free: Vec::new(),
            totals: Totals::default(),
            poller: Poller::new()?,
            batch: Batch::new(),
            timers: BinaryHeap::new(),
            audio_ns: Histogram::new(),
            video_ns: Histogram::new(),
            keyframe_ns: Histogram::new(),
            lag_us: Histogram::new(),
            seconds: Seconds::default(),
            delayed: BinaryHeap::new(),
            leaving: Some(leaving),
            rng: Rng::new(manner.seed),
            ready: Vec::new(),
            watched: Vec::new(),
            next: 0,
            looked_at: sys::monotonic(),
            look_interval: if manner.is_lossy() { LOOK_INTERVAL_LOSSY } else { LOOK_INTERVAL },
            stock_taken: 0,
            refused: 0,
            packets: 0,
            others: 0,
            bytes: 0,
            lost: 0,
        })
    }

    /// Until it is told to stop: takes newcomers, datagrams and timers.
    pub fn run(mut self, arriving: &Receiver<Arriving>) -> Outcome {
        sys::sharpen_timers();
        while !self.tally.stop.load(Ordering::Relaxed) {
            while let Ok(newcomer) = arriving.try_recv() {
                self.welcome(newcomer);
            }
            self.turn();
        }
        self.leave()
    }

    fn welcome(&mut self, newcomer: Arriving) {
        let Arriving { number, scheduled, answered, ufrag, agreed, joined, witness } = newcomer;
        let witness = witness || self.manner.all_witness;
        let place = self.free.pop().unwrap_or(self.viewers.len());
        let (ledger, rtx_pt) = (Ledger::new(if self.manner.audio_only { agreed.audio_pt } else { agreed.video_pt }, self.manner.drop_each), agreed.rtx_pt);
        let remote = remote::connect(&agreed, SOCKET_BYTES, witness).map_err(|error| error.to_string()).and_then(|socket| {
            self.poller.add(&socket, place as u64).map_err(|error| error.to_string())?;
            if !witness {
                return Ok(Remote::new(&self.identity, &ufrag, agreed, socket));
            }
            let (certificate, _) = witness::certificate()?;
            Ok(Remote::witnessed(Witness::new(certificate), &ufrag, agreed, socket))
        });
        let (remote, failure) = match remote {
            Ok(remote) => (Some(remote), None),
            Err(error) => {
                self.tally.failed.fetch_add(1, Ordering::Relaxed);
                (None, Some(format!("socket: {error}")))
            }
        };
        let viewer = Viewer {
            number,
            remote,
            phases: Phases { scheduled, answered, ..Phases::default() },
            ledger,
            rtx_pt,
            joined: Some(joined),
            witness,
            keys: None,
            profile: None,
            failure,
            report_at: Duration::MAX,
            leave_at: Duration::MAX,
            latency_ns: (0, 0),
            armed: Duration::MAX,
            watched: false,
        };
        match self.viewers.get_mut(place) {
            Some(old) => *old = viewer,
            None => self.viewers.push(viewer),
        }
        self.arm(place, Duration::ZERO);
    }

    /// The viewer's next deadline is heard of, unless an earlier one is.
    fn arm(&mut self, place: usize, at: Duration) {
        let Some(viewer) = self.viewers.get_mut(place) else { return };
        if at < viewer.armed {
            viewer.armed = at;
            self.timers.push(Reverse((at, place)));
        }
    }

    /// From now on it is looked at in turn.
    fn watch(&mut self, place: usize) {
        let Some(viewer) = self.viewers.get_mut(place).filter(|viewer| !viewer.watched) else { return };
        let Some(remote) = &viewer.remote else { return };
        if self.poller.remove(&remote.socket).is_ok() {
            viewer.watched = true;
            self.watched.push(place);
        }
    }

    /// Looks at as many of the watched as the time since the last look makes due.
    fn look(&mut self, now: Duration) {
        let count = self.watched.len();
        let share = (now - self.looked_at).as_secs_f64() / self.look_interval.as_secs_f64() * count as f64;
        let due = (share as usize).min(count);
        if due == 0 && count > 0 {
            return;
        }
        // What is left over of a viewer's time is not lost; more than a round is.
        let spent = self.look_interval.mul_f64(due as f64 / count.max(1) as f64);
        self.looked_at = if due == count { now } else { self.looked_at + spent };
        for _ in 0..due {
            if self.next >= self.watched.len() {
                self.next = 0;
            }
            let Some(place) = self.watched.get(self.next).copied() else { return };
            if self.viewers.get(place).is_some_and(|viewer| viewer.remote.is_some()) {
                self.next += 1;
                self.receive(place);
            } else {
                self.watched.swap_remove(self.next);
            }
        }
    }

    /// Empties every socket and tells so, if somebody asked.
    fn take_stock(&mut self) {
        let asked = self.tally.stock_asked.load(Ordering::Relaxed);
        if asked == self.stock_taken {
            return;
        }
        self.stock_taken = asked;
        for place in 0..self.viewers.len() {
            self.receive(place);
        }
        self.tell();
        self.tally.stock_at_ns.fetch_max(sys::unix_ns(), Ordering::Relaxed);
        self.tally.stock_taken.fetch_add(1, Ordering::Release);
    }

    fn tell(&mut self) {
        self.tally.packets.fetch_add(std::mem::take(&mut self.packets), Ordering::Relaxed);
        self.tally.others.fetch_add(std::mem::take(&mut self.others), Ordering::Relaxed);
        self.tally.bytes.fetch_add(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        self.tally.lost.fetch_add(std::mem::take(&mut self.lost), Ordering::Relaxed);
    }

    fn turn(&mut self) {
        let now = sys::monotonic();
        let timer = self.timers.peek().map_or(Duration::MAX, |Reverse((at, _))| *at);
        let due = self.delayed.peek().map_or(timer, |Reverse(delayed)| delayed.at.min(timer));
        let wait = due.saturating_sub(now).min(TURN_MAX);
        let mut ready = std::mem::take(&mut self.ready);
        if let Ok(names) = self.poller.wait(wait) {
            ready.extend(names);
        }
        for place in ready.drain(..) {
            self.receive(place as usize);
        }
        self.ready = ready;
        self.look(sys::monotonic());
        self.take_stock();
        let (mut late, now) = (Duration::ZERO, sys::monotonic());
        self.show_delayed(now);
        while let Some(Reverse((at, place))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let Some(viewer) = self.viewers.get_mut(place).filter(|viewer| viewer.armed == at) else { continue };
            viewer.armed = Duration::MAX;
            if at > Duration::ZERO {
                late = late.max(now - at);
            }
            self.time(now, place);
        }
        let late = late.as_micros() as u64;
        self.lag_us.add(late);
        self.tally.lag_us.fetch_max(late, Ordering::Relaxed);
        self.tell();
    }

    /// Takes what waits in one socket, at most two calls' worth: the others wait, too.
    fn receive(&mut self, place: usize) {
        for _ in 0..2 {
            let Some(viewer) = self.viewers.get_mut(place) else { return };
            let Some(remote) = &viewer.remote else { return };
            // What comes in answer to a request is opened by everybody.
            let head_only = !viewer.witness && remote.is_connected() && !viewer.ledger.is_waiting();
            let count = self.batch.take(&remote.socket, if head_only { HEAD_BYTES } else { DATAGRAM_BYTES_MAX });
            if count == 0 {
                return;
            }
            let now = sys::monotonic();
            for at in 0..count {
                let taken = self.batch.at(at);
                let is_media = matches!(classify(taken.bytes), Class::Rtp);
                *(if is_media { &mut self.packets } else { &mut self.others }) += 1;
                self.bytes += taken.length as u64;
                let disorder = self.manner.reorder_each > 0 && self.rng.below(self.manner.reorder_each) == 0;
                let wait = self.manner.delay + if disorder { DISORDER } else { Duration::ZERO };
                if is_media && wait > Duration::ZERO && self.delayed.len() < DELAYED_MAX {
                    let at_ns = taken.at_ns + wait.as_nanos() as u64;
                    self.delayed.push(Reverse(Delayed { at: now + wait, place, number: viewer.number, at_ns, bytes: taken.bytes.to_vec() }));
                    continue;
                }
                let (bytes, at_ns) = (taken.bytes, taken.at_ns);
                let heard = viewer.take(now, bytes, at_ns, self.manner, &self.tally, &mut Measured {
                    audio_ns: &mut self.audio_ns,
                    video_ns: &mut self.video_ns,
                    keyframe_ns: &mut self.keyframe_ns,
                    seconds: &mut self.seconds,
                });
                if !note(viewer, heard, &self.tally, &mut self.refused) {
                    return;
                }
            }
            self.lost += viewer.ledger.take_passed();
            let (deadline, has_picture) = (viewer.deadline(), viewer.phases.first_frame.is_some());
            self.arm(place, deadline);
            if has_picture {
                self.watch(place);
            }
            if count < BATCH {
                return;
            }
        }
    }

    /// Shows what has waited long enough.
    fn show_delayed(&mut self, now: Duration) {
        while self.delayed.peek().is_some_and(|Reverse(delayed)| delayed.at <= now) {
            let Some(Reverse(mut delayed)) = self.delayed.pop() else { return };
            let Some(viewer) = self.viewers.get_mut(delayed.place).filter(|viewer| viewer.number == delayed.number) else { continue };
            let heard = viewer.take(now, &mut delayed.bytes, delayed.at_ns, self.manner, &self.tally, &mut Measured {
                audio_ns: &mut self.audio_ns,
                video_ns: &mut self.video_ns,
                keyframe_ns: &mut self.keyframe_ns,
                seconds: &mut self.seconds,
            });
            note(viewer, heard, &self.tally, &mut self.refused);
            let deadline = viewer.deadline();
            self.arm(delayed.place, deadline);
        }
    }

    fn time(&mut self, now: Duration, place: usize) {
        let Some(viewer) = self.viewers.get_mut(place) else { return };
        let Some(remote) = viewer.remote.as_mut() else { return };
        match remote.handle_timeout(now) {
            Ok(event) => {
                if viewer.hear(now, event) == Taken::Connected {
                    self.tally.connected.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) => return fail(viewer, error, &self.tally),
        }
        if viewer.phases.connected.is_some() && viewer.leave_at == Duration::MAX
            && let Some((least, most)) = self.manner.stay
        {
            viewer.leave_at = now + least + Duration::from_micros(self.rng.below((most - least).as_micros() as u64));
        }
        if now >= viewer.leave_at {
            return self.release(place);
        }
        if now >= viewer.report_at {
            viewer.report(now, self.manner.recover);
        }
        let deadline = viewer.deadline().max(now + Duration::from_micros(200));
        let is_settled = viewer.phases.connected.is_some_and(|at| now > at + AWAKE_MAX);
        self.arm(place, deadline);
        if is_settled {
            self.watch(place);
        }
    }

    /// It has stayed as long as it wanted: nothing of it is kept but its sums.
    fn release(&mut self, place: usize) {
        let Some(viewer) = self.viewers.get_mut(place) else { return };
        self.totals.add(&viewer.account(None));
        (viewer.remote, viewer.keys) = (None, None);
        if viewer.watched {
            self.watched.retain(|watched| *watched != place);
        }
        if let (Some(joined), Some(leaving)) = (viewer.joined.take(), &self.leaving) {
            let _ = leaving.send(joined);
        }
        self.free.push(place);
        self.tally.left.fetch_add(1, Ordering::Relaxed);
    }

    fn leave(mut self) -> Outcome {
        self.leaving = None;
        self.seconds.close();
        let stopped = Duration::from_nanos(self.tally.stopped_ns.load(Ordering::Relaxed));
        let mut present = Vec::new();
        for mut viewer in self.viewers {
            let Some(joined) = viewer.joined.take() else { continue };
            self.totals.add(&viewer.account(Some(stopped)));
            present.push(joined);
        }
        Outcome {
            totals: self.totals,
            present,
            audio_ns: self.audio_ns,
            video_ns: self.video_ns,
            keyframe_ns: self.keyframe_ns,
            refused: self.refused,
            cpu: sys::thread_cpu_time(),
            lag_us: self.lag_us,
            seconds: self.seconds.done,
        }
    }
}

fn fail(viewer: &mut Viewer, error: String, tally: &Tally) {
    tally.failed.fetch_add(1, Ordering::Relaxed);
    viewer.failure = Some(error);
    viewer.remote = None;
}

/// Where latencies go.
struct Measured<'c> {
    audio_ns: &'c mut Histogram,
    video_ns: &'c mut Histogram,
    keyframe_ns: &'c mut Histogram,
    seconds: &'c mut Seconds,
}

/// Counts what a viewer made of a datagram. False: it has failed.
fn note(viewer: &mut Viewer, heard: Result<Taken, String>, tally: &Tally, refused: &mut u64) -> bool {
    match heard {
        Ok(Taken::Nothing) => {}
        Ok(Taken::Refused) => *refused += 1,
        Ok(Taken::Connected) => {
            tally.connected.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Taken::FirstFrame) => {
            tally.shown.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) => {
            fail(viewer, error, tally);
            return false;
        }
    }
    true
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taken {
    Nothing,
    Refused,
    Connected,
    FirstFrame,
}

impl Viewer {
    fn deadline(&self) -> Duration {
        self.remote.as_ref().map_or(Duration::MAX, Remote::deadline).min(self.report_at).min(self.leave_at)
    }

    fn hear(&mut self, now: Duration, event: Event) -> Taken {
        match event {
            Event::Nothing => Taken::Nothing,
            Event::Reached => {
                self.phases.reached = Some(now);
                Taken::Nothing
            }
            Event::Connected(keys) => {
                self.phases.connected = Some(now);
                self.profile = Some(keys.profile);
                self.keys = Some(keys);
                self.report_at = now + REPORT_INTERVAL;
                Taken::Connected
            }
        }
    }

    fn take(
        &mut self,
        now: Duration,
        datagram: &mut [u8],
        at_ns: u64,
        manner: Manner,
        tally: &Tally,
        measured: &mut Measured<'_>,
    ) -> Result<Taken, String> {
        let Some(remote) = self.remote.as_mut() else { return Ok(Taken::Nothing) };
        match classify(datagram) {
            Class::Stun => {
                let event = remote.handle_stun(now, datagram)?;
                Ok(self.hear(now, event))
            }
            Class::Dtls => {
                let event = remote.handle_dtls(now, datagram)?;
                Ok(self.hear(now, event))
            }
            Class::Rtp if self.phases.connected.is_some() => Ok(self.take_media(now, datagram, at_ns, manner, tally, measured)),
            _ => Ok(Taken::Nothing),
        }
    }

    fn take_media(
        &mut self,
        now: Duration,
        datagram: &[u8],
        at_ns: u64,
        manner: Manner,
        tally: &Tally,
        measured: &mut Measured<'_>,
    ) -> Taken {
        let Ok(header) = rtp::parse_header(datagram) else { return Taken::Refused };
        if self.phases.first_packet.is_none() {
            self.phases.first_packet = Some(now);
            self.ledger.begin(sys::unix_ns());
        }
        let entry = Entry { payload_type: header.payload_type, ssrc: header.ssrc, sequence: header.sequence, marker: header.marker || manner.audio_only };
        let is_resent = Some(header.payload_type) == self.rtx_pt;
        if self.ledger.throws_away(&entry, is_resent) {
            return Taken::Nothing;
        }
        let (mut stamp, mut original) = (None, None);
        if self.witness || is_resent {
            let Some(keys) = self.keys.as_mut() else { return Taken::Nothing };
            let Ok(plain) = keys.open.decrypt_rtp(datagram) else { return Taken::Refused };
            // RFC 3550 section 5.1: the last byte of padding says how much there is.
            let padding = if header.padding { plain.last().copied().unwrap_or_default() } else { 0 };
            let end = plain.len().saturating_sub(usize::from(padding));
            let mut payload = plain.get(header.header_len..end).unwrap_or_default();
            if is_resent {
                // RFC 4588 section 4: the original sequence number, then what the packet held. Padding alone has neither.
                let Some((number, rest)) = payload.split_first_chunk::<2>() else { return Taken::Nothing };
                (original, payload) = (Some(u16::from_be_bytes(*number)), rest);
            }
            stamp = Stamp::read(payload).filter(|stamp| stamp.run == manner.run && self.witness);
        }
        if let Some(stamp) = &stamp {
            let age = Duration::from_nanos(at_ns.saturating_sub(stamp.sent_ns));
            if self.phases.live.is_none() && stamp.kind == StampKind::Video && at_ns > 0 && age < LIVE_AGE + manner.delay {
                // It may have waited for its turn here.
                self.phases.live = Some(now.saturating_sub(Duration::from_nanos(sys::unix_ns().saturating_sub(at_ns))));
            }
            // What was published before this viewer came is a replay, and no latency.
            let from = tally.window_from_ns.load(Ordering::Relaxed).max(self.ledger.began_ns());
            let to = tally.window_to_ns.load(Ordering::Relaxed);
            if (from..to).contains(&stamp.sent_ns) && at_ns > 0 {
                let latency = at_ns.saturating_sub(stamp.sent_ns);
                let of_kind = match (stamp.kind, stamp.of_keyframe) {
                    (StampKind::Audio, _) => &mut *measured.audio_ns,
                    (StampKind::Video, false) => &mut *measured.video_ns,
                    (StampKind::Video, true) => &mut *measured.keyframe_ns,
                };
                of_kind.add(latency);
                self.latency_ns = (self.latency_ns.0 + latency, self.latency_ns.1 + 1);
                measured.seconds.add(at_ns, latency);
            }
        }
        let heard = match original {
            Some(number) => self.ledger.take_resent(now, number, header.marker, stamp.as_ref()),
            None => self.ledger.take(now, &entry, stamp.as_ref()),
        };
        match heard {
            Heard::Nothing => Taken::Nothing,
            Heard::Hole => {
                if self.report_at != Duration::MAX {
                    self.report_at = self.report_at.min(now + NACK_INTERVAL);
                }
                Taken::Nothing
            }
            Heard::FirstFrame => {
                self.phases.first_frame = Some(now);
                let ttff = now.saturating_sub(self.phases.scheduled).as_micros() as u64;
                tally.ttff_us.fetch_add(ttff, Ordering::Relaxed);
                tally.ttff_us_max.fetch_max(ttff, Ordering::Relaxed);
                Taken::FirstFrame
            }
        }
    }

    /// A receiver report each second, and requests for what is missing.
    fn report(&mut self, now: Duration, recover: bool) {
        let Some(keys) = self.keys.as_mut() else { return };
        let Some(remote) = self.remote.as_ref() else { return };
        let mut out = [0; 1_200];
        let Some(mut length) = rtcp::write_rr(&mut out, OWN_SSRC, &self.ledger.blocks(BLOCKS_MAX)) else { return };
        if recover {
            for (ssrc, wanted) in self.ledger.wanted(now) {
                if let Some(added) = rtcp::write_nack(&mut out[length..], OWN_SSRC, ssrc, &wanted) {
                    length += added;
                }
            }
        }
        if let Ok(sealed) = keys.seal.encrypt_rtcp(&out[..length]) {
            remote.send(&sealed);
        }
        self.report_at = now + if self.ledger.has_requests() { NACK_INTERVAL } else { REPORT_INTERVAL };
    }

    /// `stopped`: until when it was due something; none: it has left before.
    fn account(&self, stopped: Option<Duration>) -> Account {
        Account {
            phases: self.phases,
            failure: self.failure.clone(),
            profile: self.profile,
            sums: self.ledger.sums(),
            latency_ns: self.latency_ns,
            silent: stopped.zip(self.ledger.newest_at()).map_or(Duration::ZERO, |(end, newest)| end.saturating_sub(newest)),
            socket_drops: self.remote.as_ref().map_or(0, |remote| sys::drops(&remote.socket)),
        }
    }
}

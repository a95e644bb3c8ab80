//! The viewers: one thread drives many of them, each with a socket, a session and a ledger of its own.
//!
//! Two kinds. *Witnesses* open every packet with webrtc-srtp and read its stamp: latency, and loss by the publisher's
//! own numbers. The others (*cheap*) do the whole join, then look at clear headers alone: that counts packets,
//! holes and doubles exactly and costs a fifth.

use crate::burst::{self, Around};
use crate::histogram::Histogram;
use crate::ledger::Ledger;
use crate::offer::Agreed;
use crate::remote::{self, Identity, Remote};
use crate::sys::{self, BATCH, Batch, DATAGRAM_BYTES_MAX, HEAD_BYTES, Poller};
use crate::target::Joined;
use crate::totals::{Phases, Totals};
use crate::viewer::{Measured, Opened, Seconds, Taken, Viewer};
use crate::witness::{self, Witness};
use spillway_proto::rng::Rng;
use spillway_proto::wire::demux::{Class, classify};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

/// Of the cheap sinks one in so many is a witness.
pub const WITNESS_EACH: u64 = 50;
/// What waits in a viewer's socket while this thread does something else: 100 ms of 10 Mbit/s, with the kernel's overhead.
pub const SOCKET_BYTES: usize = 512 * 1_024;
const TURN_MAX: Duration = Duration::from_millis(1);
/// A viewer that has its picture is looked at so often, and not woken for. A wake for each packet would be work of
/// whoever sends it (over veth the server's core, a seventh of it at 600 viewers), which no viewer elsewhere costs.
/// So long, because a look costs half of what nine packets cost; longer would let the next keyframe overflow a call.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(30);
/// The same where losses are of our own making: what is missing is asked for soon.
const LOOK_INTERVAL_LOSSY: Duration = Duration::from_millis(4);
/// Without a picture, as in a room with sound alone, it is woken for so long after its handshake.
const AWAKE_MAX: Duration = Duration::from_secs(1);
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
    /// Of those who came with a burst, and when.
    pub burst: burst::Tally,
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
    /// They send nothing while it is measured: no checks, no reports.
    pub silent: bool,
    /// From this number on viewers came with a burst.
    pub burst_from: u64,
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
    /// The address it has; none: the network's choice.
    pub from: Option<IpAddr>,
}

/// What a thread of the crowd leaves.
#[derive(Default)]
pub struct Outcome {
    pub totals: Totals,
    /// Of those who came with a burst.
    pub burst: Totals,
    pub around: Around,
    /// Those the server has to be told of.
    pub present: Vec<Joined>,
    pub audio_ns: Histogram,
    /// Of ordinary frames.
    pub video_ns: Histogram,
    pub keyframe_ns: Histogram,
    pub opened: Opened,
    pub refused: u64,
    pub cpu: Duration,
    /// How late turns were, in microseconds.
    pub lag_us: Histogram,
    /// Latency second by second: (UNIX second, p50, p99, p99.9 in microseconds).
    pub seconds: Vec<(u64, f64, f64, f64)>,
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
    opened: Opened,
    around: Around,
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
            opened: Opened::default(),
            around: Around::default(),
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
        let Arriving { number, scheduled, answered, ufrag, agreed, joined, witness, from } = newcomer;
        let of_burst = number >= self.manner.burst_from;
        let witness = witness || self.manner.all_witness && !of_burst;
        let place = self.free.pop().unwrap_or(self.viewers.len());
        let (ledger, rtx_pt) = (Ledger::new(if self.manner.audio_only { agreed.audio_pt } else { agreed.video_pt }, self.manner.drop_each), agreed.rtx_pt);
        let remote = remote::connect(&agreed, from, SOCKET_BYTES, witness).map_err(|error| error.to_string()).and_then(|socket| {
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
                failed(&self.tally, of_burst);
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
            of_burst,
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
        if self.is_silent() {
            // Nothing is due.
            late = Duration::ZERO;
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
            // What comes in answer to a request is opened by everybody, and so is what may be the first picture behind a hole.
            let needs_all = viewer.witness || viewer.ledger.is_waiting() || viewer.ledger.seeks_keyframe();
            let head_only = remote.is_connected() && !needs_all;
            let count = self.batch.take(&remote.socket, if head_only { HEAD_BYTES } else { DATAGRAM_BYTES_MAX });
            if count == 0 {
                return;
            }
            let now = sys::monotonic();
            for at in 0..count {
                let taken = self.batch.at(at);
                let is_media = matches!(classify(taken.bytes), Class::Rtp);
                *(if is_media && !viewer.of_burst { &mut self.packets } else { &mut self.others }) += 1;
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
                    opened: &mut self.opened,
                    around: &mut self.around,
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
                opened: &mut self.opened,
                around: &mut self.around,
            });
            note(viewer, heard, &self.tally, &mut self.refused);
            let deadline = viewer.deadline();
            self.arm(delayed.place, deadline);
        }
    }

    /// It is measured, and viewers say nothing meanwhile.
    fn is_silent(&self) -> bool {
        self.manner.silent && self.tally.window_from_ns.load(Ordering::Relaxed) > 0
    }

    fn time(&mut self, now: Duration, place: usize) {
        if self.is_silent() {
            return;
        }
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
        let (mut present, mut burst) = (Vec::new(), Totals::default());
        for mut viewer in self.viewers {
            let Some(joined) = viewer.joined.take() else { continue };
            let totals = if viewer.of_burst { &mut burst } else { &mut self.totals };
            totals.add(&viewer.account(Some(stopped)));
            present.push(joined);
        }
        Outcome {
            totals: self.totals,
            burst,
            around: self.around,
            present,
            audio_ns: self.audio_ns,
            video_ns: self.video_ns,
            keyframe_ns: self.keyframe_ns,
            opened: self.opened,
            refused: self.refused,
            cpu: sys::thread_cpu_time(),
            lag_us: self.lag_us,
            seconds: self.seconds.done,
        }
    }
}

fn failed(tally: &Tally, of_burst: bool) {
    let count = if of_burst { &tally.burst.failed } else { &tally.failed };
    count.fetch_add(1, Ordering::Relaxed);
}

fn fail(viewer: &mut Viewer, error: String, tally: &Tally) {
    failed(tally, viewer.of_burst);
    viewer.failure = Some(error);
    viewer.remote = None;
}

/// Counts what a viewer made of a datagram. False: it has failed.
fn note(viewer: &mut Viewer, heard: Result<Taken, String>, tally: &Tally, refused: &mut u64) -> bool {
    match heard {
        Ok(Taken::Nothing) => {}
        Ok(Taken::Refused) => *refused += 1,
        Ok(Taken::Connected) => {
            tally.connected.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Taken::FirstFrame) if viewer.of_burst => tally.burst.on_picture(sys::monotonic()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Sums;
    use crate::remote::Keys;
    use crate::source::{Stamp, StampKind};
    use spillway_proto::wire::rtp;
    use std::net::UdpSocket;
    use std::sync::mpsc::channel;
    use webrtc_srtp::protection_profile::ProtectionProfile;

    const MANNER: Manner = Manner {
        recover: true,
        drop_each: 0,
        run: 1,
        all_witness: false,
        audio_only: false,
        delay: Duration::ZERO,
        reorder_each: 0,
        stay: None,
        silent: false,
        burst_from: u64::MAX,
        seed: 1,
    };

    /// A crowd whose viewers are connected to a socket of this test, without a handshake.
    struct Stage {
        crowd: Crowd,
        server: UdpSocket,
        left: Receiver<Joined>,
        came: u64,
    }

    impl Stage {
        fn new(manner: Manner) -> Stage {
            let (leaving, left) = channel();
            let identity = Arc::new(Identity::new().unwrap());
            let crowd = Crowd::new(identity, manner, Arc::new(Tally::default()), leaving).unwrap();
            Stage { crowd, server: UdpSocket::bind("127.0.0.1:0").unwrap(), left, came: 0 }
        }

        /// One more; its place.
        fn welcome(&mut self) -> usize {
            let now = sys::monotonic();
            let agreed = Agreed {
                ufrag: "server".into(),
                pwd: "secret".into(),
                own_pwd: "ours".into(),
                fingerprint: [0; 32],
                server_is_active: false,
                candidates: vec![self.server.local_addr().unwrap()],
                audio_pt: 111,
                video_pt: 96,
                rtx_pt: Some(97),
            };
            let joined = Joined::of_nobody();
            self.crowd.welcome(Arriving { number: self.came, scheduled: now, answered: now, ufrag: "own".into(), agreed, joined, witness: false, from: None });
            let place = self.crowd.viewers.iter().position(|viewer| viewer.number == self.came).unwrap();
            self.came += 1;
            self.crowd.viewers[place].phases.connected = Some(now);
            place
        }

        fn send(&self, place: usize, sequence: u16, marker: bool) {
            let mut header = [0; 12];
            rtp::write_header(&mut header, marker, 96, sequence, 0, 7);
            self.send_to(place, &[&header[..], &[0; 188]].concat());
        }

        fn send_to(&self, place: usize, packet: &[u8]) {
            let to = self.crowd.viewers[place].remote.as_ref().unwrap().socket.local_addr().unwrap();
            let to = (self.server.local_addr().unwrap().ip(), to.port());
            self.server.send_to(packet, to).unwrap();
        }

        fn received(&self, place: usize) -> u64 {
            self.crowd.viewers[place].ledger.sums().received
        }

        /// Turns until it is so.
        fn until(&mut self, what: &str, is_so: impl Fn(&Stage) -> bool) {
            let deadline = sys::monotonic() + Duration::from_secs(10);
            while !is_so(self) {
                assert!(sys::monotonic() < deadline, "{what}");
                self.crowd.turn();
            }
        }
    }

    #[test]
    fn who_has_a_picture_is_looked_at_in_turn_and_nobody_is_forgotten() {
        let mut stage = Stage::new(MANNER);
        let places: Vec<usize> = (0..50).map(|_| stage.welcome()).collect();
        for place in &places {
            stage.send(*place, 1, true);
        }
        stage.until("everybody has a picture", |stage| stage.crowd.watched.len() == 50);
        assert_eq!(stage.crowd.poller.wait(Duration::ZERO).unwrap().count(), 0);
        for sequence in 2..=5 {
            for place in &places {
                stage.send(*place, sequence, false);
            }
            // Nobody is woken for it, and all of it is found.
            assert_eq!(stage.crowd.poller.wait(Duration::ZERO).unwrap().count(), 0);
            stage.until("all is found", |stage| places.iter().all(|place| stage.received(*place) == u64::from(sequence)));
        }
        assert_eq!(stage.crowd.tally.shown.load(Ordering::Relaxed), 50);
    }

    #[test]
    fn behind_a_hole_who_looks_at_headers_opens_what_may_be_the_first_picture_and_nothing_more() {
        let mut stage = Stage::new(Manner { recover: false, ..MANNER });
        let place = stage.welcome();
        let keys = |we_are_client| Keys::new(ProtectionProfile::AeadAes256Gcm, &[9; 2 * (32 + 12)], we_are_client).unwrap();
        let mut seal = keys(false).seal;
        let viewer = &mut stage.crowd.viewers[place];
        viewer.keys = Some(keys(true));
        viewer.remote.as_mut().unwrap().pretend_connected();
        let mut send = |stage: &Stage, (payload_type, ssrc): (u8, u32), before: &[u8], sequence: u16, marker: bool, of_keyframe: bool| {
            let mut header = [0; 12];
            rtp::write_header(&mut header, marker, payload_type, sequence, 0, ssrc);
            let mut packet = [&header[..], before, &[0; 188]].concat();
            Stamp { kind: StampKind::Video, keyframe: false, of_keyframe, run: 1, number: 500, sent_ns: 5 }.write(&mut packet);
            if marker {
                // RFC 3550 section 5.1: three bytes of padding.
                packet[0] |= 0x20;
                packet.extend([0, 0, 3]);
            }
            stage.send_to(place, &seal.encrypt_rtp(&packet).unwrap());
        };
        let (media, resends) = ((96, 7), (97, 70));
        // 2 is lost; the frame behind it hangs on it. Of both the heads are read before that is seen.
        for (sequence, marker, of_keyframe) in [(1, false, true), (3, true, true), (4, false, false), (5, true, false)] {
            send(&stage, media, &[], sequence, marker, of_keyframe);
        }
        stage.until("all is seen", |stage| stage.received(place) == 4);
        assert!(stage.crowd.viewers[place].ledger.seeks_keyframe() && stage.crowd.watched.is_empty());
        // A keyframe whose last packet alone would do, and a whole one, which is a single packet; then what comes behind it.
        for (sequence, marker) in [(7, false), (8, true), (9, true)] {
            send(&stage, media, &[], sequence, marker, true);
        }
        stage.until("it has a picture", |stage| stage.crowd.viewers[place].phases.first_frame.is_some());
        assert_eq!(stage.received(place), 7, "with the first that is whole");
        for sequence in [10, 11] {
            send(&stage, media, &[], sequence, true, false);
        }
        stage.until("all is seen", |stage| stage.received(place) == 9);
        // The lost one after all, asked for, in the stream for that (RFC 4588 section 4: its number, then what it held).
        stage.crowd.viewers[place].ledger.wanted(sys::monotonic()).for_each(drop);
        send(&stage, resends, &[0, 2], 1, false, true);
        stage.until("it is seen", |stage| stage.received(place) == 10);
        // What was opened for it stands in no book but that of numbers, and what did not open is no refusal.
        assert_eq!(stage.crowd.viewers[place].ledger.sums(), Sums { due: 11, received: 10, recovered: 1, resent: 1, duplicates: 0 });
        assert_eq!((stage.crowd.refused, stage.crowd.opened.packets, stage.crowd.watched.len()), (0, 0, 1));
    }

    #[test]
    fn a_round_takes_its_time_and_is_not_longer() {
        let mut stage = Stage::new(MANNER);
        let places: Vec<usize> = (0..10).map(|_| stage.welcome()).collect();
        for place in &places {
            stage.send(*place, 1, true);
        }
        stage.until("everybody has a picture", |stage| stage.crowd.watched.len() == 10);
        places.iter().for_each(|place| stage.send(*place, 2, false));
        let (mut now, interval) = (stage.crowd.looked_at, stage.crowd.look_interval);
        let seen = |stage: &Stage| places.iter().filter(|place| stage.received(**place) == 2).count();
        for tenth in 1..=10 {
            assert_eq!(seen(&stage), tenth - 1);
            now += interval / 10 + Duration::from_nanos(1);
            stage.crowd.look(now);
        }
        assert_eq!(seen(&stage), 10);
        // After a long pause each is looked at once, and not for every round that was missed.
        stage.crowd.look(now + interval * 100);
        assert_eq!(stage.crowd.looked_at, now + interval * 100);
    }

    #[test]
    fn taking_stock_empties_every_socket() {
        let mut stage = Stage::new(MANNER);
        let places: Vec<usize> = (0..20).map(|_| stage.welcome()).collect();
        for place in &places {
            (1..=30).for_each(|sequence| stage.send(*place, sequence, sequence == 1));
        }
        let tally = Arc::clone(&stage.crowd.tally);
        let before = sys::unix_ns();
        let asking = std::thread::spawn(move || (tally.take_stock(1), tally.packets.load(Ordering::Relaxed)));
        while tally_asked(&stage.crowd) == 0 {
            std::thread::yield_now();
        }
        stage.crowd.take_stock();
        let (at, packets) = asking.join().unwrap();
        assert_eq!(packets, 20 * 30);
        assert!((before..=sys::unix_ns()).contains(&at));
    }

    fn tally_asked(crowd: &Crowd) -> u64 {
        crowd.tally.stock_asked.load(Ordering::Relaxed)
    }

    #[test]
    fn who_leaves_makes_room_and_nothing_of_him_reaches_the_next() {
        // Nobody leaves by himself meanwhile.
        let stay = Duration::from_secs(3_600);
        let mut stage = Stage::new(Manner { stay: Some((stay, stay * 2)), delay: Duration::from_millis(40), ..MANNER });
        for round in 0..5 {
            let place = stage.welcome();
            assert_eq!(place, 0, "the same place");
            stage.send(place, 100 + round, true);
            // Its packet is on its way to be seen when it leaves.
            stage.until("it is taken", |stage| stage.crowd.packets + stage.crowd.tally.packets.load(Ordering::Relaxed) > u64::from(round));
            stage.crowd.viewers[place].leave_at = Duration::ZERO;
            stage.crowd.arm(place, Duration::ZERO);
            stage.until("it leaves", |stage| stage.crowd.tally.left.load(Ordering::Relaxed) > u64::from(round));
            assert!(stage.left.try_recv().is_ok() && stage.crowd.watched.is_empty());
        }
        let place = stage.welcome();
        stage.until("nothing waits any more", |stage| stage.crowd.delayed.is_empty());
        assert_eq!((stage.received(place), stage.crowd.viewers.len()), (0, 1));
        let outcome = stage.crowd.leave();
        assert_eq!((outcome.present.len(), outcome.totals.joined), (1, 0));
    }

    #[test]
    fn who_left_is_looked_at_no_more_and_the_next_is_woken_for() {
        let stay = Duration::from_secs(3_600);
        let mut stage = Stage::new(Manner { stay: Some((stay, stay * 2)), ..MANNER });
        let place = stage.welcome();
        stage.send(place, 1, true);
        stage.until("it has a picture", |stage| stage.crowd.watched == [place]);
        stage.crowd.viewers[place].leave_at = Duration::ZERO;
        stage.crowd.arm(place, Duration::ZERO);
        stage.until("it leaves", |stage| stage.crowd.watched.is_empty());
        assert_eq!(stage.welcome(), place);
        assert!(stage.crowd.watched.is_empty() && !stage.crowd.viewers[place].watched);
        stage.send(place, 7, false);
        stage.until("it is woken for", |stage| stage.received(place) == 1);
    }

    #[test]
    fn a_timer_that_was_moved_ahead_fires_once() {
        let mut stage = Stage::new(MANNER);
        let place = stage.welcome();
        let far = sys::monotonic() + Duration::from_secs(3_600);
        for minutes in [5, 4, 3, 4, 9] {
            stage.crowd.viewers[place].armed = stage.crowd.viewers[place].armed.min(far);
            stage.crowd.arm(place, far - Duration::from_secs(3_600 - 60 * minutes));
        }
        // The one of its welcome was earlier than all of these.
        assert_eq!(stage.crowd.timers.len(), 1);
        stage.until("it has fired", |stage| stage.crowd.viewers[place].armed > Duration::ZERO);
        assert_eq!(stage.crowd.timers.len(), 1, "one entry for the next deadline");
    }
}

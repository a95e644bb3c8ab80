//! The viewers: one thread drives many of them, each with a socket, a session and an account of its own.
//!
//! Two kinds. *Witnesses* open every packet with webrtc-srtp and read its stamp: latency, and loss by the publisher's
//! own numbers. The others (*cheap*) do the whole join, then look at clear headers alone: that counts packets,
//! holes and doubles exactly and costs a fifth.

use crate::histogram::Histogram;
use crate::offer::Agreed;
use crate::remote::{self, Event, Identity, Keys, Remote};
use crate::sequence::{Arrival, Sequence};
use crate::source::{Stamp, StampKind};
use crate::sys::{self, BATCH, Batch, DATAGRAM_BYTES_MAX, HEAD_BYTES, Poller};
use crate::target::Joined;
use crate::witness::{self, Witness};
use spillway_proto::rng::Rng;
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::{rtcp, rtp};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

/// What waits in a viewer's socket while this thread does something else: 100 ms of 10 Mbit/s, with the kernel's overhead.
const SOCKET_BYTES: usize = 512 * 1_024;
const TURN_MAX: Duration = Duration::from_millis(5);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// A hole is asked for when it is so old in packets, then again.
const NACK_PATIENCE: u64 = 3;
const NACK_INTERVAL: Duration = Duration::from_millis(40);
const NACKS_MAX: u8 = 4;
/// Numbers one request names.
const NACK_NUMBERS_MAX: usize = 64;
const OWN_SSRC: u32 = 0xBE_4C_00_01;

/// What the crowd's threads share with whoever watches them.
#[derive(Default)]
pub struct Tally {
    pub connected: AtomicU64,
    pub shown: AtomicU64,
    pub failed: AtomicU64,
    /// Stayed as long as they wanted.
    pub left: AtomicU64,
    pub packets: AtomicU64,
    pub bytes: AtomicU64,
    /// Numbers that were passed over, whatever came later.
    pub lost: AtomicU64,
    /// How late this generator's own turns were, the worst of the last second, in microseconds.
    pub lag_us: AtomicU64,
    /// Only packets sent in this window (UNIX nanoseconds) count for latency.
    pub window_from_ns: AtomicU64,
    pub window_to_ns: AtomicU64,
    pub stop: AtomicBool,
}

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
    /// There is no picture to wait for.
    pub audio_only: bool,
    /// A packet is seen so much later than it came.
    pub delay: Duration,
    /// One of so many is seen another 20 ms later; 0: none.
    pub reorder_each: u64,
    /// How long a viewer stays, at least and at most; none: to the end.
    pub stay: Option<(Duration, Duration)>,
    pub seed: u64,
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

/// When a viewer was how far.
#[derive(Clone, Copy, Default, Debug)]
pub struct Phases {
    pub scheduled: Duration,
    pub answered: Duration,
    pub reached: Option<Duration>,
    pub connected: Option<Duration>,
    pub first_packet: Option<Duration>,
    pub first_frame: Option<Duration>,
    /// The first picture packet that is not of the past (witnesses).
    pub live: Option<Duration>,
}

/// What one viewer's run came to.
pub struct Account {
    pub phases: Phases,
    pub failure: Option<String>,
    pub profile: Option<&'static str>,
    pub due: u64,
    pub received: u64,
    /// Of those that a request brought back.
    pub recovered: u64,
    pub duplicates: u64,
    pub socket_drops: u64,
    /// When the newest packet came.
    pub newest_at: Option<Duration>,
    /// It had stayed as long as it wanted.
    pub left: bool,
    /// Somebody tells the server so.
    pub told: bool,
    /// Sum and number of its packets' latencies (witnesses).
    pub latency_ns: (u64, u64),
    pub joined: Joined,
}

/// What a thread of the crowd leaves.
pub struct Outcome {
    pub accounts: Vec<Account>,
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

/// One source as it arrives.
struct Source {
    payload_type: u8,
    ssrc: u32,
    sequence: Sequence,
    arrivals: u64,
    recovered: u64,
    /// Asked for: when last, and how often.
    asked: BTreeMap<u64, (Duration, u8)>,
    /// The numbers of the first frames until one is whole: (number, marker).
    opening: BTreeMap<u64, bool>,
    newest_at: Duration,
}

struct Viewer {
    remote: Option<Remote>,
    phases: Phases,
    joined: Joined,
    witness: bool,
    keys: Option<Keys>,
    profile: Option<&'static str>,
    failure: Option<String>,
    sources: Vec<Source>,
    report_at: Duration,
    leave_at: Duration,
    left: bool,
    told: bool,
    socket_drops: u64,
    /// When its first packet came, in UNIX nanoseconds.
    began_ns: u64,
    latency_ns: (u64, u64),
    /// Numbers that were passed over since somebody last asked.
    passed: u64,
}

/// A packet that is not seen yet.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Delayed {
    at: Duration,
    place: usize,
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
    refused: u64,
    packets: u64,
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
            refused: 0,
            packets: 0,
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
        let Arriving { scheduled, answered, ufrag, agreed, joined, witness, .. } = newcomer;
        let witness = witness || self.manner.all_witness;
        let place = self.viewers.len();
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
        self.viewers.push(Viewer {
            remote,
            phases: Phases { scheduled, answered, ..Phases::default() },
            joined,
            witness,
            keys: None,
            profile: None,
            failure,
            sources: Vec::new(),
            report_at: Duration::MAX,
            leave_at: Duration::MAX,
            left: false,
            told: false,
            socket_drops: 0,
            began_ns: 0,
            latency_ns: (0, 0),
            passed: 0,
        });
        self.timers.push(Reverse((Duration::ZERO, place)));
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
        let (mut late, now) = (Duration::ZERO, sys::monotonic());
        self.show_delayed(now);
        while let Some(Reverse((at, place))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            if at > Duration::ZERO {
                late = late.max(now - at);
            }
            self.time(now, place);
        }
        let late = late.as_micros() as u64;
        self.lag_us.add(late);
        self.tally.lag_us.fetch_max(late, Ordering::Relaxed);
        self.tally.packets.fetch_add(std::mem::take(&mut self.packets), Ordering::Relaxed);
        self.tally.bytes.fetch_add(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        self.tally.lost.fetch_add(std::mem::take(&mut self.lost), Ordering::Relaxed);
    }

    /// Takes what waits in one socket, at most two calls' worth: the others wait, too.
    fn receive(&mut self, place: usize) {
        for _ in 0..2 {
            let Some(viewer) = self.viewers.get_mut(place) else { return };
            let Some(remote) = &viewer.remote else { return };
            let head_only = !viewer.witness && remote.is_connected();
            let count = self.batch.take(&remote.socket, if head_only { HEAD_BYTES } else { DATAGRAM_BYTES_MAX });
            if count == 0 {
                return;
            }
            let now = sys::monotonic();
            for at in 0..count {
                let taken = self.batch.at(at);
                let is_media = matches!(classify(taken.bytes), Class::Rtp);
                self.packets += u64::from(is_media);
                self.bytes += taken.length as u64;
                let disorder = self.manner.reorder_each > 0 && self.rng.below(self.manner.reorder_each) == 0;
                let wait = self.manner.delay + if disorder { DISORDER } else { Duration::ZERO };
                if is_media && wait > Duration::ZERO && self.delayed.len() < DELAYED_MAX {
                    let at_ns = taken.at_ns + wait.as_nanos() as u64;
                    self.delayed.push(Reverse(Delayed { at: now + wait, place, at_ns, bytes: taken.bytes.to_vec() }));
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
            self.lost += std::mem::take(&mut viewer.passed);
            let deadline = viewer.deadline();
            if !viewer.phases.connected.is_some_and(|at| at < now) {
                self.timers.push(Reverse((deadline, place)));
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
            let Some(viewer) = self.viewers.get_mut(delayed.place) else { continue };
            let heard = viewer.take(now, &mut delayed.bytes, delayed.at_ns, self.manner, &self.tally, &mut Measured {
                audio_ns: &mut self.audio_ns,
                video_ns: &mut self.video_ns,
                keyframe_ns: &mut self.keyframe_ns,
                seconds: &mut self.seconds,
            });
            note(viewer, heard, &self.tally, &mut self.refused);
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
            viewer.left = true;
            viewer.socket_drops = viewer.remote.take().map_or(0, |remote| sys::drops(&remote.socket));
            self.tally.left.fetch_add(1, Ordering::Relaxed);
            viewer.told = self.leaving.as_ref().is_some_and(|leaving| leaving.send(viewer.joined.clone()).is_ok());
            return;
        }
        if now >= viewer.report_at {
            viewer.report(now, self.manner.recover);
        }
        self.timers.push(Reverse((viewer.deadline().max(now + Duration::from_micros(200)), place)));
    }

    fn leave(mut self) -> Outcome {
        self.leaving = None;
        self.seconds.close();
        let accounts = self.viewers.into_iter().map(Viewer::into_account).collect();
        Outcome {
            accounts,
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
            Class::Rtp if self.phases.connected.is_some() => {
                let Ok(header) = rtp::parse_header(datagram) else { return Ok(Taken::Refused) };
                if self.phases.first_packet.is_none() {
                    self.phases.first_packet = Some(now);
                    self.began_ns = sys::unix_ns();
                }
                let place = self.source(header.payload_type, header.ssrc, manner.drop_each);
                let source = &mut self.sources[place];
                source.arrivals += 1;
                if manner.drop_each > 0 && source.arrivals % manner.drop_each == 0 {
                    // The network lost it: nobody has seen it, and a hole is found by what comes behind it.
                    return Ok(Taken::Nothing);
                }
                if self.witness {
                    let Some(keys) = self.keys.as_mut() else { return Ok(Taken::Nothing) };
                    let Ok(plain) = keys.open.decrypt_rtp(datagram) else { return Ok(Taken::Refused) };
                    if let Some(stamp) = plain.get(header.header_len..).and_then(Stamp::read).filter(|stamp| stamp.run == manner.run) {
                        let age = Duration::from_nanos(at_ns.saturating_sub(stamp.sent_ns));
                        if self.phases.live.is_none() && stamp.kind == StampKind::Video && at_ns > 0 && age < LIVE_AGE + manner.delay {
                            self.phases.live = Some(now);
                        }
                        // What was published before this viewer came is a replay, and no latency.
                        let from = tally.window_from_ns.load(Ordering::Relaxed).max(self.began_ns);
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
                }
                Ok(self.account(now, place, header.sequence, header.marker, manner.audio_only))
            }
            _ => Ok(Taken::Nothing),
        }
    }

    fn source(&mut self, payload_type: u8, ssrc: u32, drop_each: u64) -> usize {
        if let Some(place) = self.sources.iter().position(|source| source.ssrc == ssrc) {
            return place;
        }
        self.sources.push(Source {
            payload_type,
            ssrc,
            sequence: Sequence::new(),
            // Each begins elsewhere in the round: else every source would end before its last loss.
            arrivals: (u64::from(ssrc) * 7_919).checked_rem(drop_each).unwrap_or_default(),
            recovered: 0,
            asked: BTreeMap::new(),
            opening: BTreeMap::new(),
            newest_at: Duration::ZERO,
        });
        self.sources.len() - 1
    }

    fn account(&mut self, now: Duration, place: usize, number: u16, marker: bool, audio_only: bool) -> Taken {
        let video = self.remote.as_ref().is_some_and(|remote| self.sources[place].payload_type == remote.agreed().video_pt);
        let source = &mut self.sources[place];
        let (extended, arrival) = source.sequence.arrive(number);
        match arrival {
            Arrival::Late => source.recovered += u64::from(source.asked.remove(&extended).is_some()),
            Arrival::Ahead(passed) => {
                source.newest_at = now;
                self.passed += passed;
                if passed > 0 && self.report_at != Duration::MAX {
                    self.report_at = self.report_at.min(now + NACK_INTERVAL);
                }
            }
            Arrival::Duplicate | Arrival::Strange => {}
        }
        if self.phases.first_frame.is_some() || !(video || audio_only) || arrival == Arrival::Strange {
            return Taken::Nothing;
        }
        // Each packet of sound is a frame.
        let marker = marker || audio_only;
        // A frame is there when nothing is missing from the first packet to a marker.
        source.opening.insert(extended, marker);
        let first = source.opening.keys().next().copied().unwrap_or_default();
        let mut next = first;
        for (at, marker) in &source.opening {
            if *at != next {
                return Taken::Nothing;
            }
            if *marker {
                self.phases.first_frame = Some(now);
                source.opening.clear();
                return Taken::FirstFrame;
            }
            next += 1;
        }
        Taken::Nothing
    }

    /// A receiver report each second, and requests for what is missing.
    fn report(&mut self, now: Duration, recover: bool) {
        let Some(keys) = self.keys.as_mut() else { return };
        let Some(remote) = self.remote.as_ref() else { return };
        let mut out = [0; 1_200];
        let blocks: Vec<rtcp::ReportBlock> = self.sources.iter().take(4).map(Source::block).collect();
        let Some(mut length) = rtcp::write_rr(&mut out, OWN_SSRC, &blocks) else { return };
        let mut waiting = false;
        if recover {
            for source in &mut self.sources {
                let wanted = source.wanted(now);
                waiting |= source.asked.values().any(|(_, times)| *times < NACKS_MAX);
                if let Some(added) = rtcp::write_nack(&mut out[length..], OWN_SSRC, source.ssrc, &wanted) {
                    length += added;
                }
            }
        }
        if let Ok(sealed) = keys.seal.encrypt_rtcp(&out[..length]) {
            remote.send(&sealed);
        }
        self.report_at = now + if waiting { NACK_INTERVAL } else { REPORT_INTERVAL };
    }

    fn into_account(self) -> Account {
        let socket_drops = self.remote.as_ref().map_or(self.socket_drops, |remote| sys::drops(&remote.socket));
        let sum = |of: fn(&Source) -> u64| self.sources.iter().map(of).sum();
        Account {
            phases: self.phases,
            failure: self.failure,
            profile: self.profile,
            due: sum(|source| source.sequence.due()),
            received: sum(|source| source.sequence.received()),
            recovered: sum(|source| source.recovered),
            duplicates: sum(|source| source.sequence.duplicates()),
            socket_drops,
            newest_at: self.sources.iter().map(|source| source.newest_at).max(),
            left: self.left,
            told: self.told,
            latency_ns: self.latency_ns,
            joined: self.joined,
        }
    }
}

impl Source {
    fn block(&self) -> rtcp::ReportBlock {
        let lost = self.sequence.due().saturating_sub(self.sequence.received());
        rtcp::ReportBlock {
            ssrc: self.ssrc,
            cumulative_lost: lost.min(0x7F_FFFF) as i32,
            sequence_max: self.sequence.highest() as u32,
            ..Default::default()
        }
    }

    /// The numbers whose time to be asked for has come.
    fn wanted(&mut self, now: Duration) -> Vec<u16> {
        let missing: Vec<u64> = self.sequence.missing(1_024, NACK_PATIENCE).take(NACK_NUMBERS_MAX).collect();
        // What came, and what is too old to matter, is forgotten; what was asked for often enough is not asked for again.
        self.asked.retain(|number, _| missing.contains(number));
        let mut wanted = Vec::new();
        for number in missing {
            let entry = self.asked.entry(number).or_insert((Duration::ZERO, 0));
            if entry.1 < NACKS_MAX && now.saturating_sub(entry.0) >= NACK_INTERVAL {
                *entry = (now, entry.1 + 1);
                wanted.push(number as u16);
            }
        }
        wanted
    }
}

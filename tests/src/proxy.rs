//! A bad network of a test's own: a UDP proxy that stands between remotes and a node's media port and loses,
//! delays, reorders and repeats datagrams, each direction by a profile of its own, all from a seed.
//!
//! Two remotes are two flows: towards the node each has a socket of its own. What becomes of the nth datagram of
//! a class (STUN, DTLS, RTP, RTCP) of a flow depends on the seed alone, not on the clock. Threads of its own, which
//! end with it; counts what it did.

use spillway_proto::rng::Rng;
use spillway_proto::wire::demux::{Class, classify};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a thread that hears nothing looks whether it is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const DATAGRAM_BYTES: usize = 65_536;
/// A queue before a slow line drops what would wait longer: routers hold about this much.
const QUEUE_MAX: Duration = Duration::from_millis(500);

/// What happens to datagrams in one direction. The default: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Profile {
    /// This share is lost, each datagram by itself.
    pub loss: f64,
    /// In a row: (of so many datagrams one begins a burst, so many are lost then).
    pub burst: Option<(u64, u64)>,
    /// This share comes so much later than its neighbours.
    pub reorder: Option<(f64, Duration)>,
    /// This share comes twice.
    pub duplicate: f64,
    /// Each waits up to this long; their order stays.
    pub jitter: Duration,
    /// All wait this long.
    pub delay: Duration,
    /// Checks and handshakes pass untouched: a way so bad that nobody would connect otherwise.
    pub media_only: bool,
    /// What the line carries; the rest queues, and is lost when the queue is half a second long.
    pub bits_per_second: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From a remote to the node.
    Up,
    /// From the node to a remote.
    Down,
}

/// What the proxy did in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub datagrams: u64,
    /// By profile or filter, of any class.
    pub lost: u64,
    pub rtp: u64,
    pub rtp_lost: u64,
    pub reordered: u64,
    pub duplicated: u64,
    /// Of `lost`: those the filter took.
    pub filtered: u64,
}

/// One datagram before its fate is known: what stands in the clear.
pub struct Datagram<'d> {
    pub direction: Direction,
    pub class: Class,
    pub bytes: &'d [u8],
}

impl Datagram<'_> {
    /// The payload type, sequence and SSRC of an RTP packet (RFC 3550 section 5.1: never encrypted).
    pub fn rtp(&self) -> Option<(u8, u16, u32)> {
        let [_, second, s0, s1, _, _, _, _, r0, r1, r2, r3, ..] = *self.bytes else { return None };
        let rtp = (second & 0x7F, u16::from_be_bytes([s0, s1]), u32::from_be_bytes([r0, r1, r2, r3]));
        (self.class == Class::Rtp).then_some(rtp)
    }
}

/// True: this one is lost.
type Filter = Box<dyn FnMut(&Datagram<'_>) -> bool + Send>;

#[derive(Default)]
struct Rules {
    profiles: [Profile; 2],
    filter: Option<Filter>,
    counts: [Counts; 2],
}

pub struct Proxy {
    /// What remotes send to.
    pub address: SocketAddr,
    rules: Arc<Mutex<Rules>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

fn locked(rules: &Mutex<Rules>) -> MutexGuard<'_, Rules> {
    rules.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Before `node`, with nothing wrong in the beginning.
    pub fn start(node: SocketAddr, seed: u64) -> Proxy {
        Proxy::start_with(node, seed, Profile::default(), Profile::default())
    }

    pub fn start_with(node: SocketAddr, seed: u64, up: Profile, down: Profile) -> Proxy {
        Proxy::start_at((Ipv4Addr::LOCALHOST, 0).into(), node, seed, up, down)
    }

    /// On an address that the node's answers name (`--announce`), for remotes that cannot be told another one.
    pub fn start_at(address: SocketAddr, node: SocketAddr, seed: u64, up: Profile, down: Profile) -> Proxy {
        let listener = roomy(UdpSocket::bind(address).expect("a port"));
        let address = listener.local_addr().expect("its address");
        let rules = Arc::new(Mutex::new(Rules { profiles: [up, down], ..Rules::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = channel();
        let reader = {
            let (socket, stop) = (listener.try_clone().expect("a descriptor"), Arc::clone(&stop));
            let sender = sender.clone();
            std::thread::spawn(move || read(&socket, &stop, |remote, bytes| sender.send(Heard { remote, bytes, up: true }).is_ok()))
        };
        let line = Line { node, seed, listener, rules: Arc::clone(&rules), stop: Arc::clone(&stop), sender, flows: HashMap::new() };
        let carrier = std::thread::spawn(move || line.run(&receiver));
        Proxy { address, rules, stop, threads: vec![reader, carrier] }
    }

    /// From now on.
    pub fn set(&self, direction: Direction, profile: Profile) {
        locked(&self.rules).profiles[direction as usize] = profile;
    }

    /// Both ways, from now on.
    pub fn set_both(&self, profile: Profile) {
        locked(&self.rules).profiles = [profile; 2];
    }

    /// Loses what `filter` picks; it sees every datagram once, before the profile does. Replaces an earlier filter.
    pub fn lose_if(&self, filter: impl FnMut(&Datagram<'_>) -> bool + Send + 'static) {
        locked(&self.rules).filter = Some(Box::new(filter));
    }

    pub fn counts(&self, direction: Direction) -> Counts {
        locked(&self.rules).counts[direction as usize]
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What the proxy loses, it loses on purpose: its own sockets hold what comes at once.
fn roomy(socket: UdpSocket) -> UdpSocket {
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).expect("room for datagrams");
    socket
}

struct Heard {
    /// Whose flow it belongs to.
    remote: SocketAddr,
    bytes: Vec<u8>,
    up: bool,
}

/// Hands on what the socket hears, until it is to stop or nobody takes it.
fn read(socket: &UdpSocket, stop: &AtomicBool, mut take: impl FnMut(SocketAddr, Vec<u8>) -> bool) {
    socket.set_read_timeout(Some(LOOK_INTERVAL)).expect("a timeout");
    let mut buffer = vec![0; DATAGRAM_BYTES];
    while !stop.load(Ordering::Relaxed) {
        // An error is the timeout, or the echo of a datagram that found nobody.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if !take(from, buffer[..length].to_vec()) {
            return;
        }
    }
}

/// A datagram on its way: ordered by when it arrives, then by when it left.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Underway {
    due: Instant,
    number: u64,
    remote: SocketAddr,
    up: bool,
    bytes: Vec<u8>,
}

/// One direction of one flow.
struct Lane {
    /// By class: what happens to media does not depend on how many checks came between.
    rngs: [Rng; 5],
    burst_left: u64,
    /// When the slow line is free again.
    free_at: Option<Instant>,
    /// What keeps its order arrives no sooner than this.
    last_due: Option<Instant>,
}

impl Lane {
    fn new(seed: u64) -> Lane {
        let rngs = std::array::from_fn(|class| Rng::new(seed ^ (class as u64 + 1) << 56));
        Lane { rngs, burst_left: 0, free_at: None, last_due: None }
    }
}

struct Flow {
    socket: UdpSocket,
    lanes: [Lane; 2],
    reader: JoinHandle<()>,
}

/// The carrier's side: all flows.
struct Line {
    node: SocketAddr,
    seed: u64,
    listener: UdpSocket,
    rules: Arc<Mutex<Rules>>,
    stop: Arc<AtomicBool>,
    sender: Sender<Heard>,
    flows: HashMap<SocketAddr, Flow>,
}

impl Line {
    fn run(mut self, receiver: &Receiver<Heard>) {
        let mut underway: BinaryHeap<Reverse<Underway>> = BinaryHeap::new();
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            while underway.peek().is_some_and(|Reverse(first)| first.due <= now) {
                if let Some(Reverse(datagram)) = underway.pop() {
                    self.deliver(&datagram);
                }
            }
            let next = underway.peek().map_or(LOOK_INTERVAL, |Reverse(first)| first.due.saturating_duration_since(now));
            let heard = match receiver.recv_timeout(next.min(LOOK_INTERVAL)) {
                Ok(heard) => heard,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for due in self.judge(&heard, Instant::now()).into_iter().flatten() {
                let Heard { remote, up, .. } = heard;
                underway.push(Reverse(Underway { due, number, remote, up, bytes: heard.bytes.clone() }));
                number += 1;
            }
        }
        for (_, flow) in self.flows.drain() {
            let _ = flow.reader.join();
        }
    }

    fn deliver(&self, datagram: &Underway) {
        // A full socket loses it, as a network does.
        let _ = match (self.flows.get(&datagram.remote), datagram.up) {
            (Some(flow), true) => flow.socket.send(&datagram.bytes),
            _ => self.listener.send_to(&datagram.bytes, datagram.remote),
        };
    }

    fn flow(&mut self, remote: SocketAddr) -> &mut Flow {
        let (node, count, seed) = (self.node, self.flows.len() as u64, self.seed);
        let (stop, sender) = (&self.stop, &self.sender);
        self.flows.entry(remote).or_insert_with(|| {
            let any = if node.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = roomy(UdpSocket::bind(any).expect("a port"));
            socket.connect(node).expect("a way to the node");
            let (ours, stop, sender) = (socket.try_clone().expect("a descriptor"), Arc::clone(stop), sender.clone());
            let hand_on = move |_, bytes| sender.send(Heard { remote, bytes, up: false }).is_ok();
            let reader = std::thread::spawn(move || read(&ours, &stop, hand_on));
            let lane = |direction: u64| Lane::new(seed ^ count << 8 ^ direction << 40);
            Flow { socket, lanes: [lane(0), lane(1)], reader }
        })
    }

    /// When the datagram arrives, and when its copy does.
    fn judge(&mut self, heard: &Heard, now: Instant) -> [Option<Instant>; 2] {
        let direction = if heard.up { Direction::Up } else { Direction::Down };
        let class = classify(&heard.bytes);
        let rules = Arc::clone(&self.rules);
        let mut rules = locked(&rules);
        let mut profile = rules.profiles[direction as usize];
        if profile.media_only && !matches!(class, Class::Rtp | Class::Rtcp) {
            profile = Profile::default();
        }
        let lane = &mut self.flow(heard.remote).lanes[direction as usize];
        let datagram = Datagram { direction, class, bytes: &heard.bytes };
        let filtered = rules.filter.as_mut().is_some_and(|filter| filter(&datagram));
        let counts = &mut rules.counts[direction as usize];
        counts.datagrams += 1;
        counts.rtp += u64::from(class == Class::Rtp);

        // Each draws the same number of times whatever happens, so that one datagram's fate moves no other's.
        let rng = &mut lane.rngs[class as usize];
        let mut chance = |ratio: f64| rng.below(1_000_000) < (ratio * 1_000_000.0) as u64;
        let lost = chance(profile.loss);
        let begins_burst = chance(profile.burst.map_or(0.0, |(of, _)| 1.0 / of.max(1) as f64));
        let late = profile.reorder.filter(|(ratio, _)| chance(*ratio)).map(|(_, delay)| delay);
        let twice = chance(profile.duplicate);
        let jitter = Duration::from_nanos(rng.below(profile.jitter.as_nanos() as u64));

        if begins_burst && lane.burst_left == 0 {
            lane.burst_left = profile.burst.map_or(0, |(_, length)| length);
        }
        let in_burst = lane.burst_left > 0;
        lane.burst_left = lane.burst_left.saturating_sub(1);
        // A slow line: each datagram takes its time behind the one before it.
        let sent = profile.bits_per_second.map(|bps| {
            let takes = Duration::from_nanos(heard.bytes.len() as u64 * 8_000_000_000 / bps.max(1));
            lane.free_at.map_or(now, |free| free.max(now)) + takes
        });
        let overflows = sent.is_some_and(|sent| sent - now > QUEUE_MAX);
        if filtered || lost || in_burst || overflows {
            counts.lost += 1;
            counts.filtered += u64::from(filtered);
            counts.rtp_lost += u64::from(class == Class::Rtp);
            return [None, None];
        }
        lane.free_at = sent.or(lane.free_at);
        let mut due = sent.unwrap_or(now) + profile.delay + jitter;
        match late {
            Some(delay) => {
                counts.reordered += 1;
                due += delay;
            }
            // Jitter alone overtakes nobody.
            None => {
                due = lane.last_due.map_or(due, |last| last.max(due));
                lane.last_due = Some(due);
            }
        }
        counts.duplicated += u64::from(twice);
        [Some(due), twice.then_some(due)]
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the network is as bad as it says, and as bad the next time. Method: a remote that sends numbered packets
    //! through the proxy to an echoing node; what comes back, in which order.
    use super::*;
    use crate::wait::{seconds, until};

    /// A packet of the given number, as a demultiplexer sees it.
    fn packet(number: u16, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        bytes[..2].copy_from_slice(&[0x80, 96]);
        bytes[2..4].copy_from_slice(&number.to_be_bytes());
        bytes[8..12].copy_from_slice(&7u32.to_be_bytes());
        bytes
    }

    fn number(bytes: &[u8]) -> u16 {
        u16::from_be_bytes([bytes[2], bytes[3]])
    }

    /// What arrives at a node of `count` packets, and how long after the first was sent.
    fn arrivals(up: Profile, seed: u64, count: u16, size: usize) -> (Vec<(u16, Duration)>, Counts) {
        let node = UdpSocket::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start_with(node.local_addr().unwrap(), seed, up, Profile::default());
        let remote = UdpSocket::bind("127.0.0.1:0").unwrap();
        let began = Instant::now();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = {
            let (heard, stop) = (Arc::clone(&heard), Arc::clone(&stop));
            let take = move |_, bytes: Vec<u8>| {
                heard.lock().unwrap().push((number(&bytes), began.elapsed()));
                true
            };
            std::thread::spawn(move || read(&node, &stop, take))
        };
        let keeps_none = up.delay.is_zero() && up.jitter.is_zero() && up.reorder.is_none() && up.bits_per_second.is_none();
        for number in 0..count {
            remote.send_to(&packet(number, size), proxy.address).unwrap();
            // Never more underway than a socket holds, on either side of the proxy.
            let deadline = Instant::now() + seconds(10);
            let is_full = || {
                let (counts, arrived) = (proxy.counts(Direction::Up), heard.lock().unwrap().len() as u64);
                let unread = counts.datagrams.saturating_sub(counts.lost + counts.filtered + arrived);
                counts.datagrams + 32 <= u64::from(number) || keeps_none && unread > 100
            };
            while is_full() {
                assert!(Instant::now() < deadline, "the proxy does not keep up");
                std::thread::yield_now();
            }
        }
        let counts = until("all are judged, and what was not lost arrives", seconds(10), || {
            let counts = proxy.counts(Direction::Up);
            let arrived = heard.lock().unwrap().len() as u64;
            let whole = counts.datagrams == u64::from(count) && arrived == counts.datagrams - counts.lost + counts.duplicated;
            if whole { Ok(counts) } else { Err(format!("{arrived} of {counts:?}")) }
        });
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        (heard, counts)
    }

    fn numbers(heard: &[(u16, Duration)]) -> Vec<u16> {
        heard.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn nothing_happens_by_default_and_both_ways_are_open() {
        let (heard, counts) = arrivals(Profile::default(), 1, 500, 100);
        assert_eq!(numbers(&heard), (0..500).collect::<Vec<u16>>());
        assert_eq!(counts, Counts { datagrams: 500, rtp: 500, ..Counts::default() });

        let node = UdpSocket::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(node.local_addr().unwrap(), 1);
        let remotes = [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap()];
        let mut buffer = [0; 64];
        for (remote, word) in remotes.iter().zip([b"one", b"two"]) {
            remote.send_to(word, proxy.address).unwrap();
            let (length, from) = node.recv_from(&mut buffer).unwrap();
            node.send_to(&buffer[..length], from).unwrap();
        }
        for (remote, word) in remotes.iter().zip([b"one", b"two"]) {
            remote.set_read_timeout(Some(seconds(10))).unwrap();
            let (length, from) = remote.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&word[..], proxy.address), "each remote has a way back of its own");
        }
    }

    #[test]
    fn the_seed_decides_who_is_lost() {
        let five = Profile { loss: 0.05, ..Profile::default() };
        let (first, counts) = arrivals(five, 1, 2_000, 100);
        assert!((70..=130).contains(&counts.rtp_lost), "5 % of 2,000: {counts:?}");
        assert_eq!(numbers(&first), numbers(&arrivals(five, 1, 2_000, 100).0), "the same seed");
        assert_ne!(numbers(&first), numbers(&arrivals(five, 2, 2_000, 100).0), "another seed");
    }

    #[test]
    fn bursts_are_in_a_row() {
        let (heard, counts) = arrivals(Profile { burst: Some((200, 8)), ..Profile::default() }, 1, 2_000, 100);
        assert!(counts.lost >= 16, "{counts:?}");
        let holes: Vec<u16> = numbers(&heard).windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|hole| *hole > 0).collect();
        // Two bursts may touch; the last may be cut off by the end.
        assert!(!holes.is_empty() && holes.iter().all(|hole| hole % 8 == 0), "{holes:?}");
    }

    #[test]
    fn late_ones_are_overtaken_and_copies_follow() {
        let delay = Duration::from_millis(50);
        let (heard, counts) = arrivals(Profile { reorder: Some((0.1, delay)), ..Profile::default() }, 1, 500, 100);
        let order = numbers(&heard);
        assert!(counts.reordered > 20 && counts.lost == 0, "{counts:?}");
        assert!(order.windows(2).any(|pair| pair[1] < pair[0]), "nobody was overtaken");
        let (heard, counts) = arrivals(Profile { duplicate: 0.05, ..Profile::default() }, 1, 500, 100);
        assert!(counts.duplicated > 10, "{counts:?}");
        assert_eq!(heard.len() as u64, 500 + counts.duplicated);
    }

    #[test]
    fn jitter_and_a_slow_line_keep_the_order_and_take_their_time() {
        let jitter = Duration::from_millis(100);
        let (heard, _) = arrivals(Profile { jitter, delay: jitter, ..Profile::default() }, 1, 100, 100);
        assert_eq!(numbers(&heard), (0..100).collect::<Vec<u16>>());
        assert!(heard[0].1 >= jitter, "{:?}", heard[0]);
        // 40 datagrams of 1,000 bytes at 1 Mbit/s: 8 ms each.
        let (heard, counts) = arrivals(Profile { bits_per_second: Some(1_000_000), ..Profile::default() }, 1, 40, 1_000);
        assert_eq!((heard.len(), counts.lost), (40, 0));
        assert!(heard[39].1 >= Duration::from_millis(320), "{:?}", heard[39]);
        // 500 of them would wait four seconds: more than a router keeps.
        let (_, counts) = arrivals(Profile { bits_per_second: Some(1_000_000), ..Profile::default() }, 1, 500, 1_000);
        assert!(counts.lost > 300, "{counts:?}");
    }

    #[test]
    fn a_filter_picks_by_what_stands_in_the_clear() {
        let node = UdpSocket::bind("127.0.0.1:0").unwrap();
        node.set_read_timeout(Some(seconds(10))).unwrap();
        let proxy = Proxy::start(node.local_addr().unwrap(), 1);
        let mut first = true;
        proxy.lose_if(move |datagram| {
            datagram.direction == Direction::Up
                && datagram.rtp().is_some_and(|(payload_type, _, ssrc)| payload_type == 96 && ssrc == 7)
                && std::mem::replace(&mut first, false)
        });
        let remote = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut check = vec![0; 20];
        check[1] = 1;
        for bytes in [check.clone(), packet(1, 100), packet(2, 100)] {
            remote.send_to(&bytes, proxy.address).unwrap();
        }
        let mut buffer = [0; 2_048];
        let mut heard = Vec::new();
        for _ in 0..2 {
            let (length, _) = node.recv_from(&mut buffer).unwrap();
            heard.push(buffer[..length].to_vec());
        }
        assert_eq!(heard, [check, packet(2, 100)]);
        let counts = proxy.counts(Direction::Up);
        assert_eq!((counts.filtered, counts.lost, counts.rtp_lost, counts.datagrams), (1, 1, 1, 3));
    }
}

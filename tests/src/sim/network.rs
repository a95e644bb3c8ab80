//! The network: datagrams under way, each with the time it arrives at. What is lost, late, doubled or held back is
//! drawn from the run's numbers; nothing else decides.

use super::media::MediaItem;
use spillway_engine::io::Path;
use spillway_proto::rng::Rng;
use spillway_proto::time::Time;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// What a path does to its datagrams, both ways. Everything in thousandths or milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weather {
    pub loss: u64,
    pub duplicate: u64,
    /// So many are held back by up to `reorder_ms` more.
    pub reorder: u64,
    pub reorder_ms: u64,
    pub delay_ms: u64,
    pub jitter_ms: u64,
    /// A loss takes what follows within up to so many milliseconds with it.
    pub burst_ms: u64,
}

impl Weather {
    pub const CLEAR: Weather =
        Weather { loss: 0, duplicate: 0, reorder: 0, reorder_ms: 0, delay_ms: 5, jitter_ms: 0, burst_ms: 0 };

    /// Bad in some way or other.
    pub fn bad(rng: &mut Rng) -> Weather {
        Weather {
            loss: [0, 5, 20, 50, 100, 300][rng.below(6) as usize],
            duplicate: [0, 0, 10, 50][rng.below(4) as usize],
            reorder: [0, 0, 20, 100][rng.below(4) as usize],
            reorder_ms: 1 + rng.below(50),
            delay_ms: 1 + rng.below(60),
            jitter_ms: [0, 0, 3, 20][rng.below(4) as usize],
            burst_ms: [0, 0, 20, 150][rng.below(4) as usize],
        }
    }
}

/// One remote's way to the node and back.
#[derive(Clone, Debug)]
pub struct Route {
    pub weather: Weather,
    /// Nothing passes until then.
    pub cut_until: Time,
    /// What comes before then goes with what was lost last.
    doomed_until: Time,
}

impl Route {
    pub fn new(weather: Weather) -> Route {
        Route { weather, cut_until: Time::ZERO, doomed_until: Time::ZERO }
    }

    /// When each copy of a datagram arrives; none: lost.
    fn arrivals(&mut self, now: Time, rng: &mut Rng) -> impl Iterator<Item = Time> + use<> {
        let weather = self.weather;
        let lost = if now < self.cut_until || now < self.doomed_until {
            true
        } else if rng.below(1_000) < weather.loss {
            self.doomed_until = now + Duration::from_millis(rng.below(weather.burst_ms + 1));
            true
        } else {
            false
        };
        let copies = if lost { 0 } else { 1 + u64::from(rng.below(1_000) < weather.duplicate) };
        let times: Vec<Time> = (0..copies)
            .map(|_| {
                let held = if rng.below(1_000) < weather.reorder { rng.below(weather.reorder_ms + 1) } else { 0 };
                let jitter = if weather.jitter_ms == 0 { 0 } else { rng.below(weather.jitter_ms + 1) };
                now + Duration::from_millis(weather.delay_ms.max(1) + jitter + held)
            })
            .collect();
        times.into_iter()
    }
}

#[derive(Clone, Debug)]
pub enum Parcel {
    /// To a shard's sockets; `media` names the packet that is in it.
    ToEngine { shard: usize, path: Path, remote: usize, bytes: Vec<u8>, media: Option<MediaItem> },
    ToRemote { remote: usize, path: Path, bytes: Vec<u8> },
    /// An RTP packet that the sniffer has opened: its feed and its number there.
    MediaToRemote { remote: usize, path: Path, packet: Packet },
}

/// A packet of a feed, as a viewer sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    pub feed: usize,
    /// The 48-bit number in the feed: an RTX packet has the one it repeats.
    pub index: u64,
    pub item: MediaItem,
}

struct InFlight {
    at: Time,
    number: u64,
    parcel: Parcel,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &InFlight) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for InFlight {}
impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &InFlight) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for InFlight {
    /// The earliest is the greatest: it leaves the heap first.
    fn cmp(&self, other: &InFlight) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

pub struct Network {
    rng: Rng,
    queue: BinaryHeap<InFlight>,
    number: u64,
    pub lost: u64,
    pub carried: u64,
}

impl Network {
    pub fn new(rng: Rng) -> Network {
        Network { rng, queue: BinaryHeap::new(), number: 0, lost: 0, carried: 0 }
    }

    pub fn send(&mut self, now: Time, route: &mut Route, parcel: Parcel) {
        let mut arrivals = route.arrivals(now, &mut self.rng);
        let Some(first) = arrivals.next() else {
            self.lost += 1;
            return;
        };
        for at in arrivals {
            let parcel = parcel.clone();
            self.put(at, parcel);
        }
        self.put(first, parcel);
    }

    /// Without weather: what somebody throws at the node from next door.
    pub fn put(&mut self, at: Time, parcel: Parcel) {
        self.number += 1;
        self.carried += 1;
        self.queue.push(InFlight { at, number: self.number, parcel });
    }

    pub fn next_at(&self) -> Time {
        self.queue.peek().map_or(Time::NEVER, |parcel| parcel.at)
    }

    pub fn arrived(&mut self, now: Time) -> Option<Parcel> {
        (self.next_at() <= now).then(|| self.queue.pop().map(|parcel| parcel.parcel))?
    }
}

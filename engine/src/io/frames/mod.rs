//! The backend that makes frames: media goes past the kernel's UDP and IP, as whole runs in memory that the kernel reads (`ring`),
//! and everything else through the backend below.
//!
//! A send through UDP looks up a route, a neighbour and netfilter's hooks, and copies, for each run anew; here a run is sealed
//! where the kernel reads it, behind headers that were made once. The device, or the kernel, cuts it into packets. Who a frame is for is
//! asked of the kernel (`routes`) and asked again when it tells of a change; what only the kernel can send, and a neighbour nobody has
//! resolved, goes through the kernel. So do checks, handshakes and reports: they keep the neighbours known that frames are sent to.

pub mod headers;
pub mod netlink;
pub mod ring;
pub mod routes;
pub mod rules;
#[cfg(test)]
mod tests;
mod ways;

use super::{Datagram, Io, Path, Sent, Tally};
use headers::Headers;
use ring::{Kick, Prober, Ring};
use routes::Routes;
use spillway_proto::time::Time;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use ways::{Way, Ways};

/// Runs that go to the kernel with one call: enough that the call costs little, few enough to be in the cache still.
const RUNS_PER_KICK: usize = 16;
/// UDP_MAX_SEGMENTS of older kernels.
const SEGMENTS_MAX: usize = 64;
/// How often the kernel is asked whether routes have changed.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// After a device could not be opened, or went away.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often devices are looked at whether frames fit them still.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// What every network takes of IPv6 (RFC 8200 section 5). Nobody makes fragments on the way, and what a way takes is learned by the kernel alone.
const IPV6_MTU: u32 = 1_280;
/// How long a park lasts at most while frames wait for room.
const ROOM_RETRY: Duration = Duration::from_millis(1);
/// Devices of one shard; through more of them the kernel sends.
const DEVICES_MAX: usize = 8;

pub struct Frames<I: Io> {
    below: I,
    routes: Routes,
    ways: Ways,
    /// Whose turn it is: the number by which `ways` know the session.
    turn: u32,
    devices: Vec<Device>,
    prober: Prober,
    /// Devices may become others while they are in use: a VLAN whose device below puts no tags in any more.
    probe_at: Time,
    lent: Lent,
    /// The device that was used last: most shards have one.
    last: usize,
    /// Whether frames may be used; the engine's first thread takes it back when somebody stands in the way (`rules::bypassed`).
    allowed: Arc<AtomicBool>,
    /// `allowed`, as it was when it was looked at last: within a tick nothing of a path goes the other way, and overtakes.
    allowed_now: bool,
    looked_at: Time,
    /// Somebody was told that a ring has no room.
    told_blocked: bool,
    identification: u16,
    tally: Tally,
}

/// Whose buffer was lent and holds what is sent next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lent {
    Nothing,
    Below,
    /// The next place of this device's ring.
    Ring(usize),
}

struct Device {
    index: u32,
    ring: Option<Ring>,
    open_again_at: Time,
}

impl<I: Io> Frames<I> {
    pub fn new(below: I, allowed: Arc<AtomicBool>, seed: u64) -> io::Result<Frames<I>> {
        Ok(Frames {
            routes: Routes::open()?,
            ways: Ways::new(),
            turn: 0,
            devices: Vec::with_capacity(DEVICES_MAX),
            prober: Prober::open()?,
            probe_at: below.now() + PROBE_EVERY,
            lent: Lent::Nothing,
            allowed_now: allowed.load(Ordering::Relaxed),
            told_blocked: false,
            last: 0,
            allowed,
            looked_at: below.now(),
            identification: seed as u16,
            tally: Tally::default(),
            below,
        })
    }

    /// Sends what the lent buffer begins with as a frame. None: this is for the kernel.
    fn send_frame(&mut self, path: &Path, length: usize, segment: usize) -> Option<Sent> {
        let count = length.div_ceil(segment);
        if !self.allowed_now || self.lent == Lent::Nothing || count > SEGMENTS_MAX {
            return None;
        }
        let (ways, routes, devices, prober, now) = (&mut self.ways, &mut self.routes, &mut self.devices, &self.prober, self.looked_at);
        let way = *ways.get(self.turn, path, || make_way(routes, devices, prober, path, now))?;
        if segment > way.payload_max {
            // And so does the kernel all that follows: shorter ones would overtake it.
            ways.leave(self.turn);
            return None;
        }
        let hop = routes.address(way.hop)?;
        let device = devices.get_mut(way.device).filter(|device| device.index == way.device_index)?;
        if device.ring.is_none() && now >= device.open_again_at {
            device.open(prober, routes, now);
        }
        let ring = device.ring.as_mut()?;
        if self.lent != Lent::Ring(way.device) {
            match ring.room() {
                Ok(true) => {}
                Ok(false) => {
                    self.tally.blocked += 1;
                    self.told_blocked = true;
                    return Some(Sent::Blocked);
                }
                Err(_) => {
                    self.tally.dropped += device.close(now);
                    return None;
                }
            }
            // It was sealed elsewhere: for the one below, or for another device.
            match self.lent {
                Lent::Nothing => return None,
                Lent::Below => ring.payload()?.get_mut(..length)?.copy_from_slice(self.below.buffer()?.get(..length)?),
                Lent::Ring(other) => {
                    let [ring, other] = devices.get_disjoint_mut([way.device, other]).ok()?.map(|device| device.ring.as_mut());
                    ring?.payload()?.get_mut(..length)?.copy_from_slice(other?.payload()?.get(..length)?);
                }
            }
        }
        let device = devices.get_mut(way.device)?;
        let ring = device.ring.as_mut()?;
        // One for each packet that it is cut into.
        if !ring.push(&way.headers, hop, length, segment, self.identification) {
            return None;
        }
        self.identification = self.identification.wrapping_add(count as u16);
        self.last = way.device;
        self.tally.sends += 1;
        self.tally.sent += count as u64;
        self.tally.framed += count as u64;
        if ring.pushed() >= RUNS_PER_KICK && ring.kick() == Kick::Dead {
            self.tally.dropped += device.close(now);
        }
        Some(Sent::Queued)
    }

    /// Sends what the lent buffer begins with through the kernel.
    fn send_below(&mut self, path: &Path, length: usize, segment: usize) -> Sent {
        if let Lent::Ring(lent) = self.lent {
            let sealed = self.devices.get_mut(lent).and_then(|device| device.ring.as_mut()?.payload()?.get(..length));
            let (Some(sealed), Some(buffer)) = (sealed, self.below.buffer()) else {
                return Sent::Blocked;
            };
            let Some(buffer) = buffer.get_mut(..length) else { return Sent::Blocked };
            buffer.copy_from_slice(sealed);
        }
        self.below.send(path, length, segment)
    }

    /// Everything pushed goes to the kernel. True: it has no room for some of it.
    fn kick(&mut self) -> bool {
        let mut waits = false;
        for device in &mut self.devices {
            let Some(ring) = &mut device.ring else { continue };
            let kicked = ring.kick();
            self.tally.dropped += ring.refused();
            match kicked {
                Kick::Done => {}
                Kick::Later => waits = true,
                Kick::Dead => self.tally.dropped += device.close(self.looked_at),
            }
        }
        self.take_back();
        waits
    }

    /// A ring that is gone took what was lent with it.
    fn take_back(&mut self) {
        if let Lent::Ring(lent) = self.lent
            && self.devices.get(lent).is_none_or(|device| device.ring.is_none())
        {
            self.lent = Lent::Nothing;
        }
    }

    /// Hears of changes now and then: before media is sent, as the last time may be long ago.
    fn look(&mut self) {
        self.allowed_now = self.allowed.load(Ordering::Relaxed);
        let now = self.below.now();
        if now.since(self.looked_at) < LOOK_EVERY {
            return;
        }
        self.looked_at = now;
        self.ways.look();
        if self.routes.changed() {
            self.ways.forget();
            // A device that is gone leaves its place to another. The others stay open: a ring is 4 MB to make.
            for device in self.devices.iter_mut().filter(|device| !self.routes.is_there(device.index)) {
                self.tally.dropped += device.close(now);
            }
            self.take_back();
        }
        if now >= self.probe_at {
            self.probe_at = now + PROBE_EVERY;
            let (routes, prober) = (&self.routes, &self.prober);
            for device in self.devices.iter_mut().filter(|device| device.ring.is_some() && !device.is_plain(prober, routes)) {
                self.tally.dropped += device.close(now);
            }
            self.take_back();
        }
    }
}

impl Device {
    /// Through one that frames do not fit the kernel sends; it may become another.
    fn open(&mut self, prober: &Prober, routes: &Routes, now: Time) {
        self.open_again_at = now + OPEN_AGAIN_AFTER;
        self.ring = if self.is_plain(prober, routes) { Ring::open(self.index).ok() } else { None };
    }

    fn is_plain(&self, prober: &Prober, routes: &Routes) -> bool {
        routes.mtu(self.index).is_some_and(|mtu| prober.is_plain(self.index, mtu))
    }

    /// Runs that go with it.
    fn close(&mut self, now: Time) -> u64 {
        self.open_again_at = now + OPEN_AGAIN_AFTER;
        self.ring.take().map_or(0, |mut ring| ring.pushed() as u64 + ring.refused())
    }
}

/// How frames of a path are made; None where the kernel sends.
fn make_way(routes: &mut Routes, devices: &mut Vec<Device>, prober: &Prober, path: &Path, now: Time) -> Option<Way> {
    let found = routes.find(path)?;
    let headers = Headers::new(path, found.source)?;
    let device = match devices.iter().position(|device| device.index == found.device) {
        Some(device) => device,
        None => {
            let mut device = Device { index: found.device, ring: None, open_again_at: now };
            device.open(prober, routes, now);
            // A device that went takes a place that another may have.
            match devices.iter().position(|device| device.ring.is_none()) {
                Some(place) if devices.len() == DEVICES_MAX => {
                    devices[place] = device;
                    place
                }
                _ if devices.len() == DEVICES_MAX => return None,
                _ => {
                    devices.push(device);
                    devices.len() - 1
                }
            }
        }
    };
    let mtu = if path.remote.is_ipv6() { found.mtu.min(IPV6_MTU) } else { found.mtu };
    let payload_max = (mtu as usize).saturating_sub(headers.length_in_mtu());
    Some(Way { headers, hop: found.hop, device, device_index: found.device, payload_max })
}

impl<I: Io> Io for Frames<I> {
    fn receive(&mut self, max: usize, f: impl FnMut(Datagram<'_>)) -> usize {
        self.look();
        self.below.receive(max, f)
    }

    fn buffer(&mut self) -> Option<&mut [u8]> {
        // Until it is sent it stays the same one, also where a ring has room again meanwhile: a run may be in it already.
        if self.lent == Lent::Nothing {
            // Where the kernel reads: what is sealed there needs no copy. The next run is likely to go where the last one went.
            let has_room = |device: &mut Device| device.ring.as_mut().is_some_and(|ring| ring.room() == Ok(true));
            let last = self.last;
            let is_lent = self.allowed_now && self.devices.get_mut(last).is_some_and(has_room);
            self.lent = if is_lent { Lent::Ring(last) } else { Lent::Below };
        }
        match self.lent {
            Lent::Ring(lent) => self.devices.get_mut(lent)?.ring.as_mut()?.payload(),
            _ => {
                let buffer = self.below.buffer();
                if buffer.is_none() {
                    self.lent = Lent::Nothing;
                }
                buffer
            }
        }
    }

    fn send(&mut self, path: &Path, length: usize, segment: usize) -> Sent {
        let sent = match length {
            0 => None,
            _ => self.send_frame(path, length, if segment == 0 { length } else { segment.min(length) }),
        };
        let sent = sent.unwrap_or_else(|| self.send_below(path, length, segment));
        self.lent = Lent::Nothing;
        sent
    }

    fn send_beside(&mut self, path: &Path, length: usize) -> Sent {
        let sent = self.send_below(path, length, length);
        self.lent = Lent::Nothing;
        sent
    }

    fn turn_of(&mut self, who: u32) {
        self.turn = who;
    }

    fn look_ahead(&self, who: u32) {
        self.ways.fetch(who);
    }

    fn submit(&mut self) {
        self.kick();
        self.below.submit();
    }

    fn park(&mut self, until: Option<Time>) {
        // There may be no room although nothing waits for the kernel: what it took stands in its place until the device is done with it.
        let is_blocked = std::mem::take(&mut self.told_blocked);
        let until = if self.kick() | is_blocked {
            let retry = self.below.now() + ROOM_RETRY;
            Some(until.map_or(retry, |until| until.min(retry)))
        } else {
            until
        };
        self.below.park(until);
    }

    fn now(&self) -> Time {
        self.below.now()
    }

    fn worked(&self) -> Duration {
        self.below.worked()
    }

    fn gso_segments(&self) -> usize {
        self.below.gso_segments()
    }

    fn tally(&self) -> Tally {
        let below = self.below.tally();
        Tally {
            sent: below.sent + self.tally.sent,
            sends: below.sends + self.tally.sends,
            dropped: below.dropped + self.tally.dropped,
            blocked: below.blocked + self.tally.blocked,
            framed: self.tally.framed,
            ..below
        }
    }
}

/// Whether this process may make frames at all.
pub fn probe() -> io::Result<()> {
    ring::probe()?;
    Routes::open()?;
    Ok(())
}

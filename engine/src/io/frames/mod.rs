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
mod ways;

use super::{Datagram, Io, Path, Sent, Tally};
use headers::Headers;
use ring::{Kick, Ring};
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
/// How long a park lasts at most while frames wait for room.
const ROOM_RETRY: Duration = Duration::from_millis(1);
/// Devices of one shard; through more of them the kernel sends.
const DEVICES_MAX: usize = 8;

pub struct Frames<I: Io> {
    below: I,
    routes: Routes,
    ways: Ways,
    devices: Vec<Device>,
    /// Whose next place was lent as buffer; else it was the one below.
    lent: Option<usize>,
    /// The device that was used last: most shards have one.
    last: usize,
    /// Whether frames may be used; the engine's first thread takes it back when somebody stands in the way (`rules::bypassed`).
    allowed: Arc<AtomicBool>,
    looked_at: Time,
    identification: u16,
    tally: Tally,
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
            ways: Ways::new(seed),
            devices: Vec::with_capacity(DEVICES_MAX),
            lent: None,
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
        if !self.allowed.load(Ordering::Relaxed) || count > SEGMENTS_MAX {
            return None;
        }
        let (ways, routes, devices, now) = (&mut self.ways, &mut self.routes, &mut self.devices, self.looked_at);
        let way = *ways.get(path, || make_way(routes, devices, path, now))?;
        if segment > way.payload_max {
            return None;
        }
        let hop = routes.address(way.hop)?;
        let device = devices.get_mut(way.device)?;
        if device.ring.is_none() && now >= device.open_again_at {
            device.open(now);
        }
        let ring = device.ring.as_mut()?;
        if self.lent != Some(way.device) {
            match ring.room() {
                Ok(true) => {}
                Ok(false) => {
                    self.tally.blocked += 1;
                    return Some(Sent::Blocked);
                }
                Err(_) => {
                    self.tally.dropped += device.close(now);
                    return None;
                }
            }
            // It was sealed elsewhere: for the one below, or for another device.
            match self.lent {
                None => ring.payload()?.get_mut(..length)?.copy_from_slice(self.below.buffer()?.get(..length)?),
                Some(other) => {
                    let [ring, other] = devices.get_disjoint_mut([way.device, other]).ok()?.map(|device| device.ring.as_mut());
                    ring?.payload()?.get_mut(..length)?.copy_from_slice(other?.payload()?.get(..length)?);
                }
            }
        }
        let device = devices.get_mut(way.device)?;
        let ring = device.ring.as_mut()?;
        self.identification = self.identification.wrapping_add(count as u16);
        if !ring.push(&way.headers, hop, length, segment, self.identification) {
            return None;
        }
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
        if let Some(lent) = self.lent {
            let sealed = self.devices.get_mut(lent).and_then(|device| device.ring.as_mut()?.payload()?.get(..length));
            let (Some(sealed), Some(buffer)) = (sealed, self.below.buffer()) else {
                return Sent::Blocked;
            };
            buffer[..length].copy_from_slice(sealed);
        }
        self.below.send(path, length, segment)
    }

    /// Everything pushed goes to the kernel. True: it has no room for some of it.
    fn kick(&mut self) -> bool {
        let mut waits = false;
        for device in &mut self.devices {
            match device.ring.as_mut().map_or(Kick::Done, Ring::kick) {
                Kick::Done => {}
                Kick::Later => waits = true,
                Kick::Dead => self.tally.dropped += device.close(self.looked_at),
            }
        }
        waits
    }

    /// Hears of changes now and then.
    fn look(&mut self) {
        let now = self.below.now();
        if now.since(self.looked_at) < LOOK_EVERY {
            return;
        }
        self.looked_at = now;
        if self.routes.changed() {
            self.ways.forget();
            // Whoever is gone is not found again by the next packet. The others stay open: a ring costs some 8 MB to make.
            self.kick();
        }
    }
}

impl Device {
    fn open(&mut self, now: Time) {
        self.open_again_at = now + OPEN_AGAIN_AFTER;
        self.ring = Ring::open(self.index).ok();
    }

    /// Runs that go with it.
    fn close(&mut self, now: Time) -> u64 {
        self.open_again_at = now + OPEN_AGAIN_AFTER;
        self.ring.take().map_or(0, |ring| ring.pushed() as u64)
    }
}

/// How frames of a path are made; None where the kernel sends.
fn make_way(routes: &mut Routes, devices: &mut Vec<Device>, path: &Path, now: Time) -> Option<Way> {
    let found = routes.find(path)?;
    let headers = Headers::new(path, found.source)?;
    let device = match devices.iter().position(|device| device.index == found.device) {
        Some(device) => device,
        None => {
            let mut device = Device { index: found.device, ring: None, open_again_at: now };
            device.open(now);
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
    let payload_max = (found.mtu as usize).saturating_sub(headers.length_in_mtu());
    Some(Way { headers, hop: found.hop, device, payload_max })
}

impl<I: Io> Io for Frames<I> {
    fn receive(&mut self, max: usize, f: impl FnMut(Datagram<'_>)) -> usize {
        self.below.receive(max, f)
    }

    fn buffer(&mut self) -> Option<&mut [u8]> {
        // Where the kernel reads: what is sealed there needs no copy. The next run is likely to go where the last one went.
        let has_room = |device: &mut Device| device.ring.as_mut().is_some_and(|ring| ring.room() == Ok(true));
        self.lent = Some(self.last).filter(|last| self.devices.get_mut(*last).is_some_and(has_room));
        match self.lent {
            Some(lent) => self.devices.get_mut(lent)?.ring.as_mut()?.payload(),
            None => self.below.buffer(),
        }
    }

    fn send(&mut self, path: &Path, length: usize, segment: usize) -> Sent {
        if length > 0
            && let Some(sent) = self.send_frame(path, length, if segment == 0 { length } else { segment.min(length) })
        {
            return sent;
        }
        self.send_below(path, length, segment)
    }

    fn send_beside(&mut self, path: &Path, length: usize) -> Sent {
        self.send_below(path, length, length)
    }

    fn submit(&mut self) {
        self.kick();
        self.below.submit();
        self.look();
    }

    fn park(&mut self, until: Option<Time>) {
        let until = if self.kick() {
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

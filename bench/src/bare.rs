//! The loop a server would be if it had nothing to decide. Measured beside each run of the lab, on the server's core, with as many
//! keys and the same packets: sealing alone, and sealing and sending, into a NIC that drops or to as many sockets at the other end of
//! the cable. What the server spends beyond it is its own (performance, section 9); the loop is as fast as the machine is at that
//! moment, so the two can be compared on any.

use crate::crowd::{LOOK_INTERVAL, SOCKET_BYTES, WITNESS_EACH};
use crate::histogram::Histogram;
use crate::source::{AUDIO_INTERVAL, HEADER_BYTES, Plan};
use crate::sys;
use spillway_proto::session::record::MasterKey;
use spillway_proto::session::srtp::{Profile, Sealer};
use std::fs::File;
use std::hint::black_box;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// CPU time that is enough for a figure.
const ENOUGH: Duration = Duration::from_millis(400);
/// And how long it may take where frames have a pace.
const LONG_ENOUGH: Duration = Duration::from_secs(2);
/// Sealed packets go round a ring of buffers, as transmit memory does.
const BUFFERS: usize = 32;
const BUFFER_BYTES: usize = 1 << 16;
/// Header and payload of sound.
const AUDIO_BYTES: usize = 172;
/// Ports of destinations begin here; they are all of one address, which ends in the NIC that drops.
const FIRST_PORT: u64 = 10_000;
/// Where the loop sends from to those who take it: they are connected to it, as viewers are to a server.
const OWN_PORT: u16 = 9_999;
/// What one send may have: the kernel's limit of a datagram before it is cut.
const SEND_BYTES_MAX: usize = 65_000;
/// Of AES-256-GCM.
const TAG_BYTES: usize = 16;

/// Where sealed packets go.
pub enum Sends<'s> {
    None,
    /// To an address that a network of its own leads to a NIC that drops, as fast as it goes.
    Dropped { namespace: &'s File, to: IpAddr },
    /// From a network of its own to those who take them. A frame goes when it is due: they could not follow else, and what a full socket drops
    /// costs less than what it takes.
    Taken { namespace: &'s File, takers: &'s Takers },
}

/// A socket for each viewer at the other end of the cable, as the crowd's are and emptied as often.
pub struct Takers {
    remotes: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Takers {
    /// In this thread's network and on its cores, at the address `at`; the loop sends from `from`.
    pub fn open(viewers: u64, at: IpAddr, from: IpAddr) -> io::Result<Takers> {
        let open = |viewer: u64| {
            let socket = UdpSocket::bind((at, 0))?;
            socket.connect((from, OWN_PORT))?;
            sys::prepare(&socket, SOCKET_BYTES, viewer % WITNESS_EACH == 0)?;
            Ok(socket)
        };
        let sockets: Vec<UdpSocket> = (0..viewers.max(1)).map(open).collect::<io::Result<_>>()?;
        let remotes = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            let (mut batch, mut taken, mut is_last) = (sys::Batch::new(), 0, false);
            while !is_last {
                is_last = stopped.load(Ordering::Relaxed);
                let next = sys::monotonic() + LOOK_INTERVAL;
                for socket in &sockets {
                    loop {
                        let count = batch.take(socket, HEADER_BYTES);
                        taken += count as u64;
                        if count < sys::BATCH {
                            break;
                        }
                    }
                }
                sys::sleep_until(next);
            }
            taken
        };
        let thread = thread::Builder::new().name("takers".to_owned()).spawn(work)?;
        Ok(Takers { remotes, stop, thread: Some(thread) })
    }

    /// How many datagrams were taken.
    pub fn close(mut self) -> u64 {
        self.end().unwrap_or_default()
    }

    fn end(&mut self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Takers {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the loop took.
#[derive(Clone, Copy, Debug)]
pub struct Bare {
    pub packets: u64,
    /// Of CPU.
    pub ns_per_packet: f64,
    /// From when a frame was due until a packet of it was sent, the middle of all (of sound where there are no pictures); of frames that have a pace.
    pub latency_us: Option<f64>,
}

/// With a key for each viewer. A frame is one send (its shorter packets count as padded), and each sound another: what a server does at best.
pub fn run(plan: &Plan, viewers: u64, core: usize, sends: &Sends<'_>) -> Option<Bare> {
    let pictures = if plan.has_video() { plan.sizes_of(plan.packets_of(1)) } else { Vec::new() };
    let widest = pictures.iter().copied().max().unwrap_or(AUDIO_BYTES);
    let (plan, is_sent) = (*plan, !matches!(sends, Sends::None));
    let pictures = if is_sent { vec![widest; pictures.len()] } else { pictures };
    let place = match sends {
        Sends::None => None,
        Sends::Dropped { namespace, to } => {
            let remote = |viewer: u64| SocketAddr::new(*to, (FIRST_PORT + viewer % 50_000) as u16);
            Some((namespace.try_clone().ok()?, (0..viewers.max(1)).map(remote).collect(), 0))
        }
        Sends::Taken { namespace, takers } => Some((namespace.try_clone().ok()?, takers.remotes.clone(), OWN_PORT)),
    };
    let pace = matches!(sends, Sends::Taken { .. }).then(|| if pictures.is_empty() { AUDIO_INTERVAL } else { plan.frame_interval() });
    let work = move || {
        sys::pin_to(core);
        let place: Option<(UdpSocket, Vec<SocketAddr>)> = match place {
            None => None,
            Some((namespace, remotes, port)) => {
                sys::enter_network(&namespace).ok()?;
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?;
                // Of what is sent at once, so many bytes are a packet; what is shorter is one as it is.
                sys::cut_sends(&socket, (widest + TAG_BYTES) as u16).ok()?;
                Some((socket, remotes))
            }
        };
        let sealers: Vec<Sealer> = (0..viewers.max(1) as usize).map(|viewer| Sealer::new(Profile::AeadAes256Gcm, &master(viewer))).collect();
        let plain = vec![0x5A; 1 << 14];
        let mut out = vec![0; BUFFERS * BUFFER_BYTES];
        // A frame for everybody, then the next: sound as often as it falls due.
        let (mut index, mut packets, mut sound_due) = (0, 0, 0.0);
        let (began, began_at) = (sys::thread_cpu_time(), sys::monotonic());
        let (mut due, mut latency) = (began_at, Histogram::new());
        loop {
            if let Some(pace) = pace {
                due = (due + pace).max(sys::monotonic());
                sys::sleep_until(due);
            }
            sound_due += if !plan.has_audio {
                0.0
            } else if pictures.is_empty() { 1.0 } else { plan.frame_interval().as_secs_f64() / AUDIO_INTERVAL.as_secs_f64() };
            let sounds = sound_due as usize;
            sound_due -= sounds as f64;
            let sizes: Vec<usize> = pictures.iter().copied().chain(std::iter::repeat_n(AUDIO_BYTES, sounds)).collect();
            // Where frames have a pace a picture goes to all before sound does, which has a time of its own and would delay the others' pictures.
            let split = if pace.is_some() { pictures.len() } else { 0 };
            let turns = [0..split, split..sizes.len()].into_iter().flat_map(|part| sealers.iter().enumerate().map(move |of| (part.clone(), of)));
            for (part, (viewer, sealer)) in turns {
                let buffer = &mut out[viewer % BUFFERS * BUFFER_BYTES..][..BUFFER_BYTES];
                let (mut sent, mut length, mut waiting) = (0, 0, part.start);
                for at in part {
                    let size = sizes[at];
                    let number = index + at as u64;
                    let mut header = [0x80, 96, 0, 0, 1, 2, 3, 4, 0, 0, 0, 2];
                    header[2..4].copy_from_slice(&(number as u16).to_be_bytes());
                    length += sealer.seal_into(&header, &[], plain.get(..size - HEADER_BYTES)?, number, buffer.get_mut(length..)?)?;
                    let is_last = at + 1 >= pictures.len();
                    if let Some((socket, remotes)) = &place && (is_last || length - sent + widest + 64 > SEND_BYTES_MAX) {
                        socket.send_to(&buffer[sent..length], remotes.get(viewer)?).ok()?;
                        sent = length;
                        if pace.is_some() && (at < pictures.len() || pictures.is_empty()) {
                            let us = (sys::monotonic() - due).as_micros() as u64;
                            (waiting..=at).for_each(|_| latency.add(us));
                            waiting = at + 1;
                        }
                    }
                }
                black_box(&buffer[..length]);
            }
            index += sizes.len() as u64;
            packets += sizes.len() as u64 * viewers.max(1);
            let spent = sys::thread_cpu_time() - began;
            if spent > ENOUGH || (pace.is_some() && sys::monotonic() > began_at + LONG_ENOUGH) {
                return Some(Bare { packets, ns_per_packet: spent.as_nanos() as f64 / packets as f64, latency_us: latency.at(0.5) });
            }
        }
    };
    thread::Builder::new().name("bare".to_owned()).spawn(work).ok()?.join().ok()?
}

fn master(viewer: usize) -> MasterKey {
    let [low, high, ..] = viewer.to_le_bytes();
    let key = std::array::from_fn(|place| if place % 2 == 0 { low } else { high } ^ place as u8);
    MasterKey { key, salt: std::array::from_fn(|place| low ^ high ^ place as u8), reserved: [0; 2] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::W1;

    #[test]
    fn it_seals_pictures_and_sound_alone() {
        let of = |plan: &Plan| run(plan, 100, sys::allowed_cores()[0], &Sends::None).unwrap().ns_per_packet;
        let (picture, sound) = (of(&W1), of(&Plan { bitrate_bps: 0, ..W1 }));
        // Sealing 1,200 bytes costs more than sealing 172, on any machine and beside anything: this is CPU time.
        assert!(sound > 1.0 && picture > sound, "{picture} {sound}");
    }
}

//! The loop a server would be if it had nothing to decide. Measured beside each run of the lab, on the server's core, with as many
//! keys and the same packets: sealing alone, and with a NIC that drops also sealing and sending. What the server spends beyond it
//! is its own (performance, section 9); the loop is as fast as the machine is at that moment, so the two can be compared on any.

use crate::source::{AUDIO_INTERVAL, HEADER_BYTES, Plan};
use crate::sys;
use spillway_proto::session::record::MasterKey;
use spillway_proto::session::srtp::{Profile, Sealer};
use std::fs::File;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// CPU time that is enough for a figure.
const ENOUGH: Duration = Duration::from_millis(400);
/// Sealed packets go round a ring of buffers, as transmit memory does.
const BUFFERS: usize = 32;
const BUFFER_BYTES: usize = 1 << 16;
/// Header and payload of sound.
const AUDIO_BYTES: usize = 172;
/// Ports of destinations begin here; they are all of one address, which ends in the NIC that drops.
const FIRST_PORT: u64 = 10_000;
/// What one send may have: the kernel's limit of a datagram before it is cut.
const SEND_BYTES_MAX: usize = 65_000;
/// Of AES-256-GCM.
const TAG_BYTES: usize = 16;

/// Where sealed packets go: nowhere, or to an address that a network of its own leads to a NIC that drops.
pub enum Sends<'s> {
    None,
    Into { namespace: &'s File, to: IpAddr },
}

/// Nanoseconds of CPU per packet, with a key for each viewer. A frame is one send (its shorter packets count as padded), and each
/// sound another: what a server does at best.
pub fn ns_per_packet(plan: &Plan, viewers: u64, core: usize, sends: &Sends<'_>) -> Option<f64> {
    let pictures = if plan.has_video() { plan.sizes_of(plan.packets_of(1)) } else { Vec::new() };
    let widest = pictures.iter().copied().max().unwrap_or(AUDIO_BYTES);
    let (plan, is_sent) = (*plan, !matches!(sends, Sends::None));
    let pictures = if is_sent { vec![widest; pictures.len()] } else { pictures };
    let place = match sends {
        Sends::None => None,
        Sends::Into { namespace, to } => Some((namespace.try_clone().ok()?, *to)),
    };
    let work = move || {
        sys::pin_to(core);
        let socket = match place {
            None => None,
            Some((namespace, to)) => {
                sys::enter_network(&namespace).ok()?;
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
                // Of what is sent at once, so many bytes are a packet; what is shorter is one as it is.
                sys::cut_sends(&socket, (widest + TAG_BYTES) as u16).ok()?;
                Some((socket, to))
            }
        };
        let sealers: Vec<Sealer> = (0..viewers.max(1) as usize).map(|viewer| Sealer::new(Profile::AeadAes256Gcm, &master(viewer))).collect();
        let plain = vec![0x5A; 1 << 14];
        let mut out = vec![0; BUFFERS * BUFFER_BYTES];
        // A frame for everybody, then the next: sound as often as it falls due.
        let (mut index, mut packets, mut sound_due) = (0, 0, 0.0);
        let began = sys::thread_cpu_time();
        loop {
            sound_due += if !plan.has_audio {
                0.0
            } else if pictures.is_empty() { 1.0 } else { plan.frame_interval().as_secs_f64() / AUDIO_INTERVAL.as_secs_f64() };
            let sounds = sound_due as usize;
            sound_due -= sounds as f64;
            let sizes: Vec<usize> = pictures.iter().copied().chain(std::iter::repeat_n(AUDIO_BYTES, sounds)).collect();
            for (viewer, sealer) in sealers.iter().enumerate() {
                let buffer = &mut out[viewer % BUFFERS * BUFFER_BYTES..][..BUFFER_BYTES];
                let (mut sent, mut length) = (0, 0);
                for (place, size) in sizes.iter().enumerate() {
                    let number = index + place as u64;
                    let mut header = [0x80, 96, 0, 0, 1, 2, 3, 4, 0, 0, 0, 2];
                    header[2..4].copy_from_slice(&(number as u16).to_be_bytes());
                    length += sealer.seal_into(&header, &[], plain.get(..size - HEADER_BYTES)?, number, buffer.get_mut(length..)?)?;
                    let is_last = place + 1 >= pictures.len();
                    if let Some((socket, to)) = &socket && (is_last || length - sent + widest + 64 > SEND_BYTES_MAX) {
                        let port = (FIRST_PORT + viewer as u64 % 50_000) as u16;
                        socket.send_to(&buffer[sent..length], SocketAddr::new(*to, port)).ok()?;
                        sent = length;
                    }
                }
                black_box(&buffer[..length]);
            }
            index += sizes.len() as u64;
            packets += sizes.len() as u64 * viewers.max(1);
            let spent = sys::thread_cpu_time() - began;
            if spent > ENOUGH {
                return Some(spent.as_nanos() as f64 / packets as f64);
            }
        }
    };
    std::thread::Builder::new().name("bare".to_owned()).spawn(work).ok()?.join().ok()?
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
        let of = |plan: &Plan| ns_per_packet(plan, 100, sys::allowed_cores()[0], &Sends::None).unwrap();
        let (picture, sound) = (of(&W1), of(&Plan { bitrate_bps: 0, ..W1 }));
        // Sealing 1,200 bytes costs more than sealing 172, on any machine and beside anything: this is CPU time.
        assert!(sound > 1.0 && picture > sound, "{picture} {sound}");
    }
}

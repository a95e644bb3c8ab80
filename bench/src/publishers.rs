//! The published streams: one thread drives all of them, packet by packet, on a clock of their plan. A packet that
//! is due goes out when it is due or, if the thread was late, at once; nothing is left out and nothing is sent ahead.

use crate::histogram::Histogram;
use crate::offer::{self, Agreed, Wish};
use crate::remote::{self, Event, Identity, Keys, Remote};
use crate::source::{self, AUDIO_INTERVAL, HEADER_BYTES, Plan, STAMP_BYTES, Stamp, StampKind, VideoCodec};
use crate::sys::{self, DATAGRAM_BYTES_MAX};
use crate::target::{Joined, Role, Target, TargetError};
use spillway_proto::time::NtpTime;
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::rtcp::{self, Rtcp};
use spillway_proto::wire::rtp::write_header;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const SOCKET_BYTES: usize = 1 << 20;
const CONNECT_MAX: Duration = Duration::from_secs(15);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// What is kept to be sent again: two seconds of W1.
const KEPT_PACKETS: usize = 620;
/// Keyframe requests are followed this often at most, as encoders of browsers do.
const KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_millis(2);
/// From the UNIX epoch back to that of NTP.
const NTP_OFFSET: u64 = 2_208_988_800;

/// What the publishers tell whoever watches them.
#[derive(Default)]
pub struct Published {
    pub packets: AtomicU64,
    pub keyframes_asked: AtomicU64,
    pub resent: AtomicU64,
    pub lost_sessions: AtomicU64,
    pub stop: AtomicBool,
}

pub struct Publisher {
    joined: Joined,
    remote: Remote,
    keys: Keys,
    agreed: Agreed,
    ssrcs: [u32; 2],
    plan: Plan,
    run: u16,
    /// Frames since the first one; the place in the GOP; the packet within the frame.
    frame: u64,
    place: u64,
    packet: u64,
    frame_at: Duration,
    audio_at: Duration,
    report_at: Duration,
    numbers: [u64; 2],
    sequences: [u16; 2],
    /// Sealed packets of video: sequence and datagram.
    kept: VecDeque<(u16, Vec<u8>)>,
    keyframe_wanted: bool,
    keyframe_at: Duration,
    /// Payload without a stamp, used again.
    audio: Vec<u8>,
    obedient: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("the publisher of room {0} did not get through: {1}")]
    Session(String, String),
}

impl Publisher {
    /// Joins and is connected before it returns.
    pub fn join(target: &Target, identity: &Identity, room: &str, plan: Plan, run: u16, obedient: bool) -> Result<Publisher, PublishError> {
        let failed = |reason: String| PublishError::Session(room.to_owned(), reason);
        let credentials = identity.credentials();
        // Chosen so that two runs against one server do not share them.
        let base = 0x1000_0000 + u32::from(run) * 16;
        let ssrcs = [base, base + 1];
        let wish = Wish { codec: plan.codec, sends: Some(ssrcs), rtx: false, audio_only: !plan.has_video() };
        let joined = target.join(Role::Publish, room, &offer::write(&credentials, &wish))?;
        let agreed = offer::read(&joined.answer, &credentials).map_err(failed)?;
        let socket = remote::connect(&agreed, SOCKET_BYTES, false).map_err(|error| failed(error.to_string()))?;
        let mut remote = Remote::new(identity, &credentials.ufrag, agreed.clone(), socket);
        let deadline = sys::monotonic() + CONNECT_MAX;
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        let keys = loop {
            let now = sys::monotonic();
            if now > deadline {
                return Err(failed("not connected within 15 s".into()));
            }
            if let Event::Connected(keys) = remote.handle_timeout(now).map_err(failed)? {
                break keys;
            }
            let event = match remote.socket.recv(&mut datagram) {
                Ok(length) => match classify(&datagram[..length]) {
                    Class::Stun => remote.handle_stun(now, &datagram[..length]),
                    Class::Dtls => remote.handle_dtls(now, &datagram[..length]),
                    _ => Ok(Event::Nothing),
                },
                Err(_) => {
                    sys::sleep_until(now + Duration::from_millis(1));
                    Ok(Event::Nothing)
                }
            };
            if let Event::Connected(keys) = event.map_err(failed)? {
                break keys;
            }
        };
        let now = sys::monotonic();
        Ok(Publisher {
            joined,
            remote,
            keys,
            agreed,
            ssrcs,
            plan,
            run,
            frame: 0,
            place: 0,
            packet: 0,
            frame_at: now,
            audio_at: now,
            report_at: now,
            numbers: [0; 2],
            sequences: [run, run.wrapping_mul(7)],
            kept: VecDeque::with_capacity(KEPT_PACKETS),
            keyframe_wanted: false,
            keyframe_at: now,
            audio: source::audio_payload(),
            obedient,
        })
    }

    fn due(&self) -> Duration {
        let packets = self.plan.packets_of(self.place);
        let video = self.frame_at + self.plan.packet_interval(packets) * self.packet as u32;
        let video = if self.plan.has_video() { video } else { Duration::MAX };
        video.min(self.audio_at).min(self.report_at).min(self.remote.deadline())
    }

    /// Sends all that is due.
    fn step(&mut self, now: Duration, told: &Published, lag_us: &mut Histogram) -> Result<(), String> {
        self.remote.handle_timeout(now)?;
        while self.audio_at <= now {
            let mut payload = std::mem::take(&mut self.audio);
            self.send(StampKind::Audio, false, true, &mut payload, (self.numbers[0] * 960) as u32, told);
            self.audio = payload;
            self.audio_at += AUDIO_INTERVAL;
        }
        while self.plan.has_video() {
            let packets = self.plan.packets_of(self.place);
            let at = self.frame_at + self.plan.packet_interval(packets) * self.packet as u32;
            if at > now {
                break;
            }
            lag_us.add((now - at).as_micros() as u64);
            let size = self.plan.sizes_of(packets)[self.packet as usize];
            let keyframe = self.place == 0;
            let mut payload = source::video_payload(self.plan.codec, keyframe, self.packet as usize, packets as usize, size);
            let entry = keyframe && self.packet == u64::from(self.plan.codec == VideoCodec::H264 && packets > 1);
            let timestamp = (self.frame * 90_000 / u64::from(self.plan.fps)) as u32;
            self.packet += 1;
            self.send(StampKind::Video, entry, self.packet == packets, &mut payload, timestamp, told);
            if self.packet < packets {
                continue;
            }
            self.packet = 0;
            self.frame += 1;
            self.place = (self.place + 1) % self.plan.frames_per_gop();
            if std::mem::take(&mut self.keyframe_wanted) {
                self.place = 0;
            }
            self.frame_at += self.plan.frame_interval();
        }
        if self.report_at <= now {
            self.report(now);
        }
        Ok(())
    }

    fn send(&mut self, kind: StampKind, keyframe: bool, marker: bool, payload: &mut [u8], timestamp: u32, told: &Published) {
        let track = kind as usize;
        let of_keyframe = kind == StampKind::Video && self.place == 0;
        let stamp = Stamp { kind, keyframe, of_keyframe, run: self.run, number: self.numbers[track], sent_ns: sys::unix_ns() };
        stamp.write(payload);
        self.numbers[track] += 1;
        let sequence = self.sequences[track];
        self.sequences[track] = sequence.wrapping_add(1);
        let payload_type = if kind == StampKind::Audio { self.agreed.audio_pt } else { self.agreed.video_pt };
        let mut header = [0; HEADER_BYTES];
        write_header(&mut header, marker, payload_type, sequence, timestamp, self.ssrcs[track]);
        let mut packet = Vec::with_capacity(HEADER_BYTES + payload.len());
        packet.extend_from_slice(&header);
        packet.extend_from_slice(payload);
        let Ok(sealed) = self.keys.seal.encrypt_rtp(&packet) else { return };
        self.remote.send(&sealed);
        told.packets.fetch_add(1, Ordering::Relaxed);
        if kind == StampKind::Video {
            if self.kept.len() == KEPT_PACKETS {
                self.kept.pop_front();
            }
            self.kept.push_back((sequence, sealed.to_vec()));
        }
    }

    /// A sender report per track: what lips hang on (RFC 3550 section 6.4.1).
    fn report(&mut self, now: Duration) {
        self.report_at = now + REPORT_INTERVAL;
        let unix = sys::unix_ns();
        let ntp = (unix / 1_000_000_000 + NTP_OFFSET) << 32 | ((unix % 1_000_000_000) << 32) / 1_000_000_000;
        let rtp = [(self.numbers[0] * 960) as u32, (self.frame * 90_000 / u64::from(self.plan.fps)) as u32];
        for track in 0..if self.plan.has_video() { 2 } else { 1 } {
            let mut out = [0; 128];
            let (packets, octets) = (self.numbers[track] as u32, (self.numbers[track] * STAMP_BYTES as u64) as u32);
            let Some(length) = rtcp::write_sr(&mut out, self.ssrcs[track], NtpTime(ntp), rtp[track], packets, octets, &[]) else { return };
            if let Ok(sealed) = self.keys.seal.encrypt_rtcp(&out[..length]) {
                self.remote.send(&sealed);
            }
        }
    }

    /// Takes what waits in the socket.
    fn hear(&mut self, now: Duration, told: &Published) -> Result<(), String> {
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        for _ in 0..16 {
            let Ok(length) = self.remote.socket.recv(&mut datagram) else { return Ok(()) };
            let datagram = &datagram[..length];
            match classify(datagram) {
                Class::Stun => {
                    self.remote.handle_stun(now, datagram)?;
                }
                Class::Dtls => {
                    self.remote.handle_dtls(now, datagram)?;
                }
                Class::Rtcp => {
                    let Ok(compound) = self.keys.open.decrypt_rtcp(datagram) else { continue };
                    for packet in rtcp::packets(&compound) {
                        self.obey(now, &packet, told);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn obey(&mut self, now: Duration, packet: &Rtcp<'_>, told: &Published) {
        match packet {
            Rtcp::Nack { media, losses, .. } if *media == self.ssrcs[1] => {
                for loss in losses.clone() {
                    if let Some((_, sealed)) = self.kept.iter().find(|(sequence, _)| *sequence == loss) {
                        self.remote.send(sealed);
                        told.resent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Rtcp::Pli { .. } | Rtcp::Fir { .. } => {
                told.keyframes_asked.fetch_add(1, Ordering::Relaxed);
                if self.obedient && now.saturating_sub(self.keyframe_at) >= KEYFRAME_INTERVAL && self.place > 0 {
                    self.keyframe_at = now;
                    self.keyframe_wanted = true;
                }
            }
            _ => {}
        }
    }
}

/// Drives them until told to stop, then says goodbye. Returns how late video packets went out, in microseconds.
pub fn run(mut publishers: Vec<Publisher>, target: &Arc<Target>, told: &Published) -> Histogram {
    let mut lag_us = Histogram::new();
    sys::sharpen_timers();
    // The clocks begin now, one after the other: rooms are not in step with each other.
    let begin = sys::monotonic() + Duration::from_millis(5);
    let count = publishers.len().max(1) as u32;
    for (place, publisher) in publishers.iter_mut().enumerate() {
        let at = begin + publisher.plan.frame_interval() * place as u32 / count;
        (publisher.frame_at, publisher.audio_at, publisher.report_at) = (at, at, at);
    }
    let mut hear_at = begin;
    while !told.stop.load(Ordering::Relaxed) {
        let now = sys::monotonic();
        let next = publishers.iter().map(Publisher::due).min().unwrap_or(Duration::MAX);
        if next > now {
            sys::sleep_until(next.min(now + IDLE_MAX));
        }
        let now = sys::monotonic();
        let hears = now >= hear_at;
        if hears {
            hear_at = now + IDLE_MAX;
        }
        publishers.retain_mut(|publisher| {
            let heard = if hears { publisher.hear(now, told) } else { Ok(()) };
            let stepped = heard.and_then(|()| if publisher.due() <= now { publisher.step(now, told, &mut lag_us) } else { Ok(()) });
            if stepped.is_err() {
                told.lost_sessions.fetch_add(1, Ordering::Relaxed);
            }
            stepped.is_ok()
        });
    }
    for publisher in &publishers {
        target.leave(&publisher.joined);
    }
    lag_us
}

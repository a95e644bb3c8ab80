//! The published streams: one thread drives all of them, packet by packet, on a clock of their plan. A packet that
//! is due goes out when it is due or, if the thread was late, at once; nothing is left out and nothing is sent ahead.

use crate::histogram::Histogram;
use crate::offer::{self, Agreed, Wish};
use crate::seal::Sealer;
use crate::remote::{self, Event, Identity, Keys, Remote};
use crate::source::{self, AUDIO_INTERVAL, HEADER_BYTES, Plan, STAMP_BYTES, Stamp, StampKind, VideoCodec};
use crate::sys::{self, DATAGRAM_BYTES_MAX, Poller};
use crate::target::{Joined, Role, Target, TargetError};
use spillway_proto::time::NtpTime;
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::rtcp::{self, Rtcp};
use spillway_proto::wire::rtp::write_header;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
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
/// Behind a sealed packet.
const TAG_BYTES: usize = 16;
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
    /// Only keyframes, and a tenth of the sound.
    pub thin: AtomicBool,
}

pub struct Publisher {
    joined: Joined,
    remote: Remote,
    keys: Keys,
    /// Faster than `keys.seal`, where the profile allows.
    sealer: Option<Sealer>,
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
        let socket = remote::connect(&agreed, None, SOCKET_BYTES, false).map_err(|error| failed(error.to_string()))?;
        let mut remote = Remote::new(identity, &credentials.ufrag, agreed.clone(), socket);
        let deadline = sys::monotonic() + CONNECT_MAX;
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        let keys = loop {
            let now = sys::monotonic();
            if now > deadline {
                return Err(failed("not connected within 15 s".into()));
            }
            if sys::is_interrupted() {
                return Err(failed("interrupted".into()));
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
        let sealer = Sealer::new(&keys.own.0, &keys.own.1);
        Ok(Publisher {
            joined,
            sealer,
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
            audio_at: if plan.has_audio { now } else { Duration::MAX },
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
        let thin = told.thin.load(Ordering::Relaxed);
        while self.audio_at <= now {
            if thin {
                self.audio_at += AUDIO_INTERVAL * 9;
            }
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
            if thin && self.place > 0 && self.packet == 0 {
                self.frame += 1;
                self.place = (self.place + 1) % self.plan.frames_per_gop();
                self.frame_at += self.plan.frame_interval();
                continue;
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
        let mut packet = Vec::with_capacity(HEADER_BYTES + payload.len() + TAG_BYTES);
        packet.extend_from_slice(&header);
        packet.extend_from_slice(payload);
        let sealed = match &mut self.sealer {
            Some(sealer) => {
                if sealer.seal(&mut packet).is_none() {
                    return;
                }
                packet
            }
            None => match self.keys.seal.encrypt_rtp(&packet) {
                Ok(sealed) => sealed.to_vec(),
                Err(_) => return,
            },
        };
        self.remote.send(&sealed);
        told.packets.fetch_add(1, Ordering::Relaxed);
        if kind == StampKind::Video {
            if self.kept.len() == KEPT_PACKETS {
                self.kept.pop_front();
            }
            self.kept.push_back((sequence, sealed));
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
        let audio_at = if publisher.plan.has_audio { at } else { Duration::MAX };
        (publisher.frame_at, publisher.audio_at, publisher.report_at) = (at, audio_at, at);
    }
    // A thousand rooms are neither asked one by one what is due nor listened to one by one.
    let poller = Poller::new();
    let mut poller = poller.and_then(|poller| publishers.iter().enumerate().try_for_each(|(place, publisher)| poller.add(&publisher.remote.socket, place as u64)).map(|()| poller));
    let mut timers: BinaryHeap<Reverse<(Duration, usize)>> = publishers.iter().enumerate().map(|(place, publisher)| Reverse((publisher.due(), place))).collect();
    let mut publishers: Vec<Option<Publisher>> = publishers.into_iter().map(Some).collect();
    let mut hear_at = begin;
    let mut ready = Vec::new();
    while !told.stop.load(Ordering::Relaxed) {
        let now = sys::monotonic();
        let next = timers.peek().map_or(Duration::MAX, |Reverse((at, _))| *at);
        if next > now {
            sys::sleep_until(next.min(now + IDLE_MAX));
        }
        let now = sys::monotonic();
        if now >= hear_at {
            hear_at = now + IDLE_MAX;
            match poller.as_mut().map(|poller| poller.wait(Duration::ZERO)) {
                Ok(Ok(names)) => ready.extend(names.map(|name| name as usize)),
                _ => ready.extend(0..publishers.len()),
            }
            for place in ready.drain(..) {
                attend(&mut publishers, place, told, |publisher| publisher.hear(now, told));
            }
        }
        while let Some(Reverse((at, place))) = timers.peek().copied()
            && at <= now
        {
            timers.pop();
            attend(&mut publishers, place, told, |publisher| publisher.step(now, told, &mut lag_us));
            if let Some(Some(publisher)) = publishers.get(place) {
                timers.push(Reverse((publisher.due().max(now + Duration::from_micros(1)), place)));
            }
        }
    }
    for publisher in publishers.iter().flatten() {
        target.leave(&publisher.joined);
    }
    lag_us
}

/// Does something with one of them; if that fails, its session is over.
fn attend(publishers: &mut [Option<Publisher>], place: usize, told: &Published, what: impl FnOnce(&mut Publisher) -> Result<(), String>) {
    let Some(slot) = publishers.get_mut(place) else { return };
    if slot.as_mut().is_some_and(|publisher| what(publisher).is_err()) {
        told.lost_sessions.fetch_add(1, Ordering::Relaxed);
        *slot = None;
    }
}

//! A viewer of a test's own: writes down every packet, asks again for what is missing if it is told to, and never
//! decodes. One thread and one socket each; ends with its owner.

use crate::remote::{AUDIO_PT, OWN_SSRC, Offer, RTX_PT, Session, VIDEO_PT, Way, hash};
use crate::wait::until;
use spillway_proto::id::Codec;
use spillway_proto::limits::DATAGRAM_SIZE_MAX;
use spillway_proto::session::client::Received;
use spillway_proto::wire::payload;
use spillway_proto::wire::rtcp::{self, Rtcp};
use spillway_proto::wire::rtp::Rtp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A hole is asked for when its packet has not come by another way for so long.
const PATIENCE: Duration = Duration::from_millis(15);
/// Then again, as browsers do: ten times at most.
const ASK_INTERVAL: Duration = Duration::from_millis(60);
const ASKS_MAX: u8 = 10;
/// Who asks for everything asks for so many at a time.
const GREED: u16 = 64;
const TURN: Duration = Duration::from_millis(10);

/// What a viewer does about losses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Asks {
    /// Nothing: it shows what the network really lost.
    #[default]
    Never,
    /// For what is missing.
    Missing,
    /// For the newest packets, whether they came or not, fifty times a second.
    Everything,
}

#[derive(Clone, Copy, Debug)]
pub struct Manner {
    pub codec: Codec,
    pub asks: Asks,
    pub rtx: bool,
}

impl Default for Manner {
    fn default() -> Manner {
        Manner { codec: Codec::H264, asks: Asks::Never, rtx: false }
    }
}

/// One packet that arrived, once.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub timestamp: u32,
    pub marker: bool,
    /// A picture can be entered here.
    pub keyframe: bool,
    pub hash: u64,
    pub at: Instant,
    /// It had been asked for before it came.
    pub asked: bool,
    /// It came in the stream of retransmissions.
    pub by_rtx: bool,
}

/// What came from one source.
#[derive(Clone, Default, Debug)]
pub struct Source {
    pub ssrc: u32,
    /// By the sequence number with its rounds; each once.
    pub packets: BTreeMap<u64, Packet>,
    pub duplicates: u64,
    /// How many sequence numbers were asked for, repeats included.
    pub asked: u64,
    newest: u64,
}

impl Source {
    pub fn first(&self) -> Option<u64> {
        self.packets.keys().next().copied()
    }

    /// Between the first and the last that arrived before `end`: how many there should be, and how many are missing.
    pub fn expected_and_missing(&self, end: Instant) -> (u64, u64) {
        let Some(first) = self.first() else { return (0, 0) };
        let last = self.packets.iter().rev().find(|(_, packet)| packet.at <= end).map_or(first, |(index, _)| *index);
        (last + 1 - first, last + 1 - first - self.packets.range(first..=last).count() as u64)
    }

    pub fn missing(&self) -> u64 {
        self.expected_and_missing(Instant::now()).1
    }

    pub fn asked_for(&self) -> u64 {
        self.packets.values().filter(|packet| packet.asked).count() as u64
    }

    pub fn by_rtx(&self) -> u64 {
        self.packets.values().filter(|packet| packet.by_rtx).count() as u64
    }

    /// Timestamps of pictures, in the order of their packets.
    pub fn pictures(&self) -> Vec<u32> {
        let mut pictures: Vec<u32> = self.packets.values().map(|packet| packet.timestamp).collect();
        pictures.dedup();
        pictures
    }

    /// The longest time between two packets that follow each other, after `since`.
    pub fn longest_silence(&self, since: Instant) -> Duration {
        let mut times: Vec<Instant> = self.packets.values().map(|packet| packet.at).filter(|at| *at >= since).collect();
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    fn extend(&self, sequence: u16) -> u64 {
        if self.packets.is_empty() {
            return 1 << 16 | u64::from(sequence);
        }
        let step = sequence.wrapping_sub(self.newest as u16);
        if step < 0x8000 { self.newest + u64::from(step) } else { self.newest - u64::from(step.wrapping_neg()) }
    }
}

/// What a sender report said.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub ssrc: u32,
    /// Seconds from 1900 in the upper half, fraction in the lower.
    pub ntp: u64,
    pub timestamp: u32,
    pub at: Instant,
}

/// All of it.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    pub connected_at: Option<Instant>,
    /// Why it ended, if it did not end by itself.
    pub over: Option<String>,
    pub audio: Source,
    pub video: Source,
    pub reports: Vec<Report>,
    /// Retransmissions of packets that had come already.
    pub rtx_in_vain: u64,
    pub has_nack: bool,
    pub has_rtx: bool,
}

impl Seen {
    /// The instant a timestamp stands for, in nanoseconds of the sender's clock, by the newest report of the source.
    pub fn nanos_of(&self, source: &Source, timestamp: u32, clock_rate: u32) -> Option<i128> {
        let report = self.reports.iter().rev().find(|report| report.ssrc == source.ssrc)?;
        let apart = i128::from(timestamp.wrapping_sub(report.timestamp) as i32) * 1_000_000_000 / i128::from(clock_rate);
        Some((i128::from(report.ntp) * 1_000_000_000 >> 32) + apart)
    }
}

pub struct Viewer {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    wants_keyframe: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Viewer {
    /// Joins beside the test; `until_connected` waits for it.
    pub fn join(way: &Way, manner: Manner) -> Viewer {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stop, wants_keyframe) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let watching = Watching {
            seen: Arc::clone(&seen),
            stop: Arc::clone(&stop),
            wants_keyframe: Arc::clone(&wants_keyframe),
            codec: manner.codec,
            asks: manner.asks,
            holes: BTreeMap::new(),
            asked: BTreeSet::new(),
            asked_at: Instant::now(),
        };
        let way = way.clone();
        let thread = std::thread::spawn(move || watching.run(&way, manner));
        Viewer { seen, stop, wants_keyframe, thread: Some(thread) }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One PLI.
    pub fn ask_keyframe(&self) {
        self.wants_keyframe.store(true, Ordering::Relaxed);
    }

    /// Waits until `look` finds something in what was seen.
    pub fn until<T>(&self, what: &str, patience: Duration, look: impl Fn(&Seen) -> Option<T>) -> T {
        until(what, patience, || {
            let seen = self.seen();
            assert_eq!(seen.over, None, "{what}: the viewer is gone");
            let words = || format!("{} of video, {} of audio", seen.video.packets.len(), seen.audio.packets.len());
            look(&seen).ok_or_else(words)
        })
    }

    pub fn until_playing(&self, patience: Duration) {
        self.until("video and audio arrive", patience, |seen| {
            (!seen.video.packets.is_empty() && !seen.audio.packets.is_empty()).then_some(())
        });
    }

    /// Leaves in order; what it saw.
    pub fn leave(mut self) -> Seen {
        self.end();
        self.seen()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The thread's side.
struct Watching {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    wants_keyframe: Arc<AtomicBool>,
    codec: Codec,
    asks: Asks,
    /// Missing video: when to ask, and how often that was done.
    holes: BTreeMap<u64, (Instant, u8)>,
    asked: BTreeSet<u64>,
    asked_at: Instant,
}

impl Watching {
    fn with<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn run(mut self, way: &Way, manner: Manner) {
        let offer = Offer { codec: manner.codec, nack: manner.asks != Asks::Never, rtx: manner.rtx, sources: None, sets: String::new() };
        let mut session = match Session::open(way, &offer) {
            Ok(session) => session,
            Err(error) => return self.with(|seen| seen.over = Some(error)),
        };
        self.with(|seen| (seen.has_nack, seen.has_rtx) = (session.has_nack(), session.has_rtx()));
        let mut buffer = [0; DATAGRAM_SIZE_MAX];
        while !self.stop.load(Ordering::Relaxed) {
            match session.turn(TURN, &mut buffer) {
                Ok(Received::Nothing) => {}
                Ok(Received::Connected(_)) => self.with(|seen| seen.connected_at = Some(Instant::now())),
                Ok(Received::Rtp(length)) => self.take(&buffer[..length]),
                Ok(Received::Rtcp(length)) => self.hear(&buffer[..length]),
                Err(error) => return self.with(|seen| seen.over = Some(error.to_string())),
            }
            self.ask(&mut session);
        }
        session.leave();
    }

    fn hear(&mut self, compound: &[u8]) {
        let at = Instant::now();
        for packet in rtcp::packets(compound) {
            if let Rtcp::SenderReport { ssrc, ntp, rtp, .. } = packet {
                self.with(|seen| seen.reports.push(Report { ssrc, ntp: ntp.0, timestamp: rtp, at }));
            }
        }
    }

    fn take(&mut self, packet: &[u8]) {
        let Ok(rtp) = Rtp::parse(packet) else { return };
        match rtp.payload_type {
            AUDIO_PT => self.store(&rtp, rtp.sequence, rtp.payload, false),
            VIDEO_PT => self.store(&rtp, rtp.sequence, rtp.payload, false),
            // RFC 4588 section 4: the original sequence number, then the original payload.
            RTX_PT => {
                if let Some((original, payload)) = rtp.payload.split_first_chunk() {
                    self.store(&rtp, u16::from_be_bytes(*original), payload, true);
                }
            }
            _ => {}
        }
    }

    fn store(&mut self, rtp: &Rtp<'_>, sequence: u16, payload: &[u8], by_rtx: bool) {
        let at = Instant::now();
        let is_audio = rtp.payload_type == AUDIO_PT;
        let keyframe = !is_audio && payload::facts(self.codec, payload).keyframe;
        let asks = self.asks;
        let (holes, all_asked) = (&mut self.holes, &self.asked);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = &mut *seen;
        let source = if is_audio { &mut seen.audio } else { &mut seen.video };
        if !by_rtx {
            source.ssrc = rtp.ssrc;
        }
        let index = source.extend(sequence);
        if source.packets.contains_key(&index) {
            source.duplicates += 1;
            seen.rtx_in_vain += u64::from(by_rtx);
            return;
        }
        let asked = !is_audio && all_asked.contains(&index);
        let (timestamp, marker) = (rtp.timestamp, rtp.marker);
        let packet = Packet { timestamp, marker, keyframe, hash: hash(payload), at, asked, by_rtx };
        let begins = source.packets.is_empty();
        source.packets.insert(index, packet);
        if !is_audio && asks == Asks::Missing {
            holes.remove(&index);
            let from = if begins { index } else { source.newest + 1 };
            for missing in from..index {
                holes.insert(missing, (at + PATIENCE, 0));
            }
        }
        source.newest = source.newest.max(index);
    }

    fn ask(&mut self, session: &mut Session) {
        let mut out = [0; DATAGRAM_SIZE_MAX];
        let (ssrc, newest, empty) = self.with(|seen| (seen.video.ssrc, seen.video.newest, seen.video.packets.is_empty()));
        if empty {
            return;
        }
        if self.wants_keyframe.swap(false, Ordering::Relaxed) {
            if let Some(length) = rtcp::write_pli(&mut out, OWN_SSRC, ssrc) {
                session.send_rtcp(&out[..length]);
            }
        }
        let now = Instant::now();
        let wanted: Vec<u64> = match self.asks {
            Asks::Never => return,
            Asks::Missing => {
                let due = self.holes.iter_mut().filter(|(_, (at, count))| *at <= now && *count < ASKS_MAX);
                due.map(|(index, (at, count))| {
                    (*at, *count) = (now + ASK_INTERVAL, *count + 1);
                    *index
                })
                .collect()
            }
            Asks::Everything if now - self.asked_at < 2 * TURN => return,
            Asks::Everything => {
                self.asked_at = now;
                (newest.saturating_sub(u64::from(GREED)) + 1..=newest).collect()
            }
        };
        self.asked.extend(&wanted);
        for some in wanted.chunks(usize::from(GREED)) {
            let sequences: Vec<u16> = some.iter().map(|index| *index as u16).collect();
            if let Some(length) = rtcp::write_nack(&mut out, OWN_SSRC, ssrc, &sequences) {
                session.send_rtcp(&out[..length]);
            }
        }
        self.with(|seen| seen.video.asked += wanted.len() as u64);
    }
}

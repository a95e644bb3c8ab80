//! A publisher of a test's own: sends a clip from its first frame on, in real time, and knows each of its packets.
//! Says what it was asked for; answers as much of it as the test wants. One thread and one socket; ends with its owner.

use crate::node::Node;
use crate::remote::{AUDIO_PT, Offer, RTX_PT, Session, VIDEO_PT, Way, hash};
use crate::wait::{seconds, until};
use spillway_proto::id::{Codec, Kind};
use spillway_proto::limits::DATAGRAM_SIZE_MAX;
use spillway_proto::mux::matroska::{Clip, Frame};
use spillway_proto::mux::packetize;
use spillway_proto::session::client::Received;
use spillway_proto::wire::payload::{h264, h265};
use spillway_proto::wire::rtcp::{self, Rtcp};
use spillway_proto::wire::rtp::{RTP_HEADER_BYTES, write_header};
use spillway_proto::time::NtpTime;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const AUDIO: u32 = 0x0A0D_1001;
const VIDEO: u32 = 0x0A0D_1002;
const AGAIN: u32 = 0x0A0D_1003;
/// Sequence numbers begin shortly before they wrap, timestamps too.
const FIRST_INDEX: u64 = 65_400;
const FIRST_TIMESTAMP: [u32; 2] = [u32::MAX - 24_000, u32::MAX - 270_000];
/// Kept for whoever asks again: seven seconds.
const HISTORY: usize = 1_024;
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
const TURN: Duration = Duration::from_millis(2);
/// Seconds from 1900, where NTP begins, to 1970 (RFC 868).
const NTP_UNIX: u64 = 2_208_988_800;

/// What a publisher does when it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Conduct {
    /// A keyframe request is answered by the clip's first picture. Otherwise it is deaf, as OBS is.
    pub obeys: bool,
    /// Lost packets are sent again: in a stream of their own where that was agreed, else the same bytes.
    pub resends: bool,
    pub rtx: bool,
    /// The parameter sets stand in the description and in no packet.
    pub sets_in_offer: bool,
    /// It checks the path as long as it is connected; otherwise it lives by its media.
    pub checks: bool,
}

impl Conduct {
    pub const DEAF: Conduct = Conduct { obeys: false, resends: false, rtx: false, sets_in_offer: false, checks: true };
    pub const OBEDIENT: Conduct = Conduct { obeys: true, resends: true, rtx: true, sets_in_offer: false, checks: true };
}

/// One frame as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub kind: Kind,
    pub timestamp: u32,
    pub keyframe: bool,
    /// Where it stands in the clip, from its beginning.
    pub clip_ns: u64,
    /// When it is to be shown, from the publisher's beginning.
    pub due_ns: u64,
    /// Of its last packet's payload.
    pub hash: u64,
    pub at: Instant,
}

#[derive(Clone, Default, Debug)]
pub struct Told {
    pub over: Option<String>,
    pub frames: Vec<Sent>,
    /// Distinct packets of video.
    pub video_packets: u64,
    /// The payload of each of them, in order.
    pub video_hashes: Vec<u64>,
    /// When keyframes were asked for (PLI and FIR).
    pub keyframe_requests: Vec<Instant>,
    /// When, and how many sequence numbers of video were asked for again.
    pub losses: Vec<(Instant, u64)>,
    pub resent: u64,
    pub has_nack: bool,
    pub has_rtx: bool,
}

impl Told {
    pub fn pictures(&self) -> impl DoubleEndedIterator<Item = &Sent> {
        self.frames.iter().filter(|frame| frame.kind == Kind::Video)
    }

    pub fn keyframes(&self) -> Vec<Sent> {
        self.pictures().filter(|frame| frame.keyframe).copied().collect()
    }

    pub fn requests_since(&self, since: Instant) -> usize {
        self.keyframe_requests.iter().filter(|at| **at >= since).count()
    }

    pub fn losses_since(&self, since: Instant) -> u64 {
        self.losses.iter().filter(|(at, _)| *at >= since).map(|(_, count)| count).sum()
    }
}

pub struct Publisher {
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The clip that was built in, or one made for a test.
pub fn load(path: &Path) -> Clip {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Clip::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The committed clip in H264: ten seconds, a keyframe every two.
pub fn clip() -> Clip {
    load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../control/clip/h264.mkv")))
}

/// A small one in H265, as the payload parsers' own tests read it: three seconds, a keyframe each second.
pub fn clip_h265() -> Clip {
    load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/src/wire/payload/fixtures/h265.mkv")))
}

impl Publisher {
    /// Publishes to the room, and waits until it is live and has a keyframe.
    pub fn start(node: &Node, room: &str, clip: Clip, conduct: Conduct) -> Publisher {
        Publisher::start_on(node, room, &Way::to_publish(node, room), clip, conduct)
    }

    /// By a way of its own.
    pub fn start_on(node: &Node, room: &str, way: &Way, clip: Clip, conduct: Conduct) -> Publisher {
        let told = Arc::new(Mutex::new(Told::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = {
            let (its_told, its_stop, way) = (Arc::clone(&told), Arc::clone(&stop), way.clone());
            let thread = std::thread::spawn(move || run(&its_told, &its_stop, &way, &clip, conduct));
            Publisher { told, stop, thread: Some(thread) }
        };
        until("the publisher has sent a picture", seconds(15), || {
            let told = publisher.told();
            assert_eq!(told.over, None, "the publisher is gone");
            if told.frames.is_empty() { Err("nothing sent".to_owned()) } else { Ok(()) }
        });
        node.wait_live(room);
        publisher
    }

    pub fn told(&self) -> Told {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this much after the first frame was sent.
    pub fn until_age(&self, age: Duration) {
        let first = self.told().frames.first().map(|frame| frame.at).expect("it has sent a frame");
        let patience = age + seconds(5);
        until(&format!("{} s of stream", age.as_secs_f32()), patience, || {
            let told = self.told();
            assert_eq!(told.over, None, "the publisher is gone");
            let now = first.elapsed();
            if now >= age { Ok(()) } else { Err(format!("{now:?}")) }
        });
    }

    pub fn leave(mut self) -> Told {
        self.end();
        self.told()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.end();
    }
}

/// One track on its way out.
struct Track<'c> {
    kind: Kind,
    codec: Codec,
    parameter_sets: &'c [Vec<u8>],
    sets_in_band: bool,
    hashes: Vec<u64>,
    frames: Vec<&'c Frame>,
    /// Frames sent so far, and which of the clip's is next: they part when a keyframe was asked for.
    count: u64,
    next: usize,
    index: u64,
    again: u64,
    packets: u32,
    octets: u32,
    /// Header, payload, index.
    history: VecDeque<([u8; RTP_HEADER_BYTES], Vec<u8>, u64)>,
}

impl<'c> Track<'c> {
    fn new(clip: &'c Clip, kind: Kind, sets_in_band: bool) -> Option<Track<'c>> {
        let track = if kind == Kind::Audio { clip.audio.as_ref() } else { clip.video.as_ref() }?;
        let frames = clip.frames.iter().filter(|frame| frame.track == kind).collect();
        let (codec, parameter_sets) = (track.codec, track.parameter_sets.as_slice());
        Some(Track {
            kind,
            codec,
            parameter_sets,
            sets_in_band,
            hashes: Vec::new(),
            frames,
            count: 0,
            next: 0,
            index: FIRST_INDEX,
            again: 0,
            packets: 0,
            octets: 0,
            history: VecDeque::new(),
        })
    }

    /// When the next frame is due. Frames are as far apart as they are on average, so that rounds have no seam.
    fn due_ns(&self, clip_ns: u64) -> u64 {
        let each = clip_ns as f64 / self.frames.len() as f64;
        (self.count as f64 * each) as u64
    }

    fn timestamp(&self, due_ns: u64) -> u32 {
        let ticks = u128::from(due_ns) * u128::from(self.codec.clock_rate()) / 1_000_000_000;
        FIRST_TIMESTAMP[self.kind as usize % 2].wrapping_add(ticks as u32)
    }

    fn ssrc(&self) -> u32 {
        if self.kind == Kind::Audio { AUDIO } else { VIDEO }
    }

    fn send(&mut self, session: &Session, clip: &Clip) -> Option<Sent> {
        let frame = *self.frames.get(self.next)?;
        let due_ns = self.due_ns(clip.duration_ns());
        let (timestamp, ssrc) = (self.timestamp(due_ns), self.ssrc());
        let payload_type = if self.kind == Kind::Audio { AUDIO_PT } else { VIDEO_PT };
        let mut payloads: Vec<Vec<u8>> = Vec::new();
        let emit = |payload: &[u8], _last: bool| payloads.push(payload.to_vec());
        match (self.codec, clip.video.as_ref()) {
            (Codec::H264 | Codec::H265, Some(track)) => {
                let mut nals: Vec<&[u8]> = Vec::new();
                if frame.keyframe && self.sets_in_band {
                    nals.extend(self.parameter_sets.iter().map(Vec::as_slice));
                }
                // Some encoders repeat them in their frames too.
                let is_set = |nal: &[u8]| nal.first().is_some_and(|first| match self.codec {
                    Codec::H265 => (h265::VPS..=h265::PPS).contains(&h265::nal_type(*first)),
                    _ => matches!(h264::nal_type(*first), h264::SPS | 8),
                });
                nals.extend(track.nals(&frame.data).filter(|nal| self.sets_in_band || !is_set(nal)));
                if self.codec == Codec::H265 { packetize::h265(&nals, emit) } else { packetize::h264(&nals, emit) }
            }
            (Codec::Vp8, _) => packetize::vp8(&frame.data, self.count as u16 & 0x7FFF, emit),
            _ => _ = packetize::opus(&frame.data, emit),
        }
        let count = payloads.len();
        let mut last = 0;
        for (at, payload) in payloads.into_iter().enumerate() {
            let mut header = [0; RTP_HEADER_BYTES];
            let marker = at + 1 == count && self.kind == Kind::Video;
            write_header(&mut header, marker, payload_type, self.index as u16, timestamp, ssrc);
            session.send_rtp(&header, &payload, self.index);
            last = hash(&payload);
            self.hashes.push(last);
            self.packets += 1;
            self.octets = self.octets.wrapping_add(payload.len() as u32);
            self.history.push_back((header, payload, self.index));
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
            self.index += 1;
        }
        let (kind, keyframe) = (self.kind, frame.keyframe);
        let sent = Sent { kind, timestamp, keyframe, clip_ns: frame.time_ns, due_ns, hash: last, at: Instant::now() };
        self.count += 1;
        self.next = (self.next + 1) % self.frames.len();
        Some(sent)
    }

    /// RFC 4588 where it was agreed, else the same datagram once more.
    fn resend(&mut self, session: &Session, sequence: u16, rtx: bool) -> bool {
        let found = self.history.iter().rev().find(|(_, _, index)| *index as u16 == sequence);
        let Some((header, payload, index)) = found else { return false };
        if !rtx {
            session.send_rtp(header, payload, *index);
            return true;
        }
        let mut again = *header;
        let timestamp = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        write_header(&mut again, header[1] & 0x80 != 0, RTX_PT, self.again as u16, timestamp, AGAIN);
        session.send_rtp(&again, &[&sequence.to_be_bytes(), payload.as_slice()].concat(), self.again);
        self.again += 1;
        true
    }

    fn report(&self, session: &mut Session, began_unix: Duration, since: Duration) {
        let unix = began_unix + since;
        let fraction = (u64::from(unix.subsec_nanos()) << 32) / 1_000_000_000;
        let ntp = NtpTime(unix.as_secs() + NTP_UNIX << 32 | fraction);
        let timestamp = self.timestamp(since.as_nanos() as u64);
        let mut out = [0; 256];
        let written = rtcp::write_sr(&mut out, self.ssrc(), ntp, timestamp, self.packets, self.octets, &[]);
        let written = written.and_then(|length| Some(length + rtcp::write_sdes_cname(&mut out[length..], self.ssrc(), "test")?));
        if let Some(length) = written {
            session.send_rtcp(&out[..length]);
        }
    }
}

fn run(told: &Mutex<Told>, stop: &AtomicBool, way: &Way, clip: &Clip, conduct: Conduct) {
    let with = |change: &mut dyn FnMut(&mut Told)| change(&mut told.lock().unwrap_or_else(PoisonError::into_inner));
    let end = |error: String| with(&mut |told| told.over = Some(error.clone()));
    let mut tracks: Vec<Track<'_>> = [Kind::Audio, Kind::Video].iter().filter_map(|kind| Track::new(clip, *kind, !conduct.sets_in_offer)).collect();
    let codec = clip.video.as_ref().map_or(Codec::H264, |video| video.codec);
    let sets = clip.video.as_ref().filter(|_| conduct.sets_in_offer).map(|video| sprop(codec, &video.parameter_sets));
    let sources = Some([AUDIO, VIDEO, AGAIN]);
    let offer = Offer { codec, nack: conduct.resends, rtx: conduct.rtx, sources, sets: sets.unwrap_or_default() };
    let mut session = match Session::open(way, &offer) {
        Ok(session) => session,
        Err(error) => return end(error),
    };
    session.checks = conduct.checks;
    let has_rtx = session.has_rtx();
    with(&mut |told| (told.has_nack, told.has_rtx) = (session.has_nack(), has_rtx));
    let mut buffer = [0; DATAGRAM_SIZE_MAX];
    let mut began: Option<Instant> = None;
    let mut began_unix = Duration::ZERO;
    let mut report_at = REPORT_INTERVAL / 4;
    while !stop.load(Ordering::Relaxed) {
        match session.turn(TURN, &mut buffer) {
            Ok(Received::Rtcp(length)) => {
                for packet in rtcp::packets(&buffer[..length]) {
                    listen(&packet, &mut tracks, &session, conduct, has_rtx, &with);
                }
            }
            Ok(_) => {}
            Err(error) => return end(error.to_string()),
        }
        if !session.client.is_connected() {
            continue;
        }
        let began = *began.get_or_insert_with(|| {
            began_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Instant::now()
        });
        for track in &mut tracks {
            while u128::from(track.due_ns(clip.duration_ns())) <= began.elapsed().as_nanos() {
                let Some(sent) = track.send(&session, clip) else { break };
                let packets = track.index - FIRST_INDEX;
                with(&mut |told| {
                    told.frames.push(sent);
                    if sent.kind == Kind::Video {
                        told.video_packets = packets;
                        told.video_hashes.append(&mut track.hashes);
                    }
                });
            }
        }
        if began.elapsed() >= report_at {
            report_at += REPORT_INTERVAL;
            for track in &tracks {
                track.report(&mut session, began_unix, began.elapsed());
            }
        }
    }
    session.leave();
}

/// Parameter sets as a description has them (RFC 6184 section 8.1, RFC 7798 section 7.1), with a semicolon before.
fn sprop(codec: Codec, sets: &[Vec<u8>]) -> String {
    let coded: Vec<String> = sets.iter().map(|set| base64(set)).collect();
    match codec {
        Codec::H265 => {
            ["vps", "sps", "pps"].iter().zip(coded).map(|(name, set)| format!(";sprop-{name}={set}")).collect()
        }
        _ => format!(";sprop-parameter-sets={}", coded.join(",")),
    }
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(three.get(at).copied().unwrap_or(0)));
        for place in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * place) & 63]);
            text.push(if place <= three.len() { digit } else { '=' });
        }
    }
    text
}

/// What the node wants of us.
fn listen(
    packet: &Rtcp<'_>,
    tracks: &mut [Track<'_>],
    session: &Session,
    conduct: Conduct,
    has_rtx: bool,
    with: &dyn Fn(&mut dyn FnMut(&mut Told)),
) {
    let now = Instant::now();
    let Some(track) = tracks.iter_mut().find(|track| track.kind == Kind::Video) else { return };
    match packet {
        Rtcp::Pli { .. } | Rtcp::Fir { .. } => {
            if conduct.obeys {
                track.next = 0;
            }
            with(&mut |told| told.keyframe_requests.push(now));
        }
        Rtcp::Nack { media: VIDEO, losses, .. } => {
            let (mut count, mut resent) = (0, 0);
            for sequence in losses.clone() {
                count += 1;
                resent += u64::from(conduct.resends && track.resend(session, sequence, has_rtx));
            }
            with(&mut |told| {
                told.losses.push((now, count));
                told.resent += resent;
            });
        }
        _ => {}
    }
}

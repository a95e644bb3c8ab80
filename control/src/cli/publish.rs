//! `spillway publish synthetic ROOM`: a publisher without a camera. Loops a clip whose picture carries its own
//! frame counter: frame k leaves when Unix time modulo the clip's length is k/30 s, so that any page reads its
//! latency. Lost packets are sent again when the server asks for them; keyframe requests are not heard, as OBS
//! does not hear them.

use super::remote::{Heard, RemoteError, Section, Server, ServerArgs, Session, Stop};
use super::resend::Resends;
use super::Exit;
use super::token::parse_room;
use crate::auth::Role;
use crate::supervisor::terminal::complain;
use clap::{Args, Subcommand, ValueEnum};
use spillway_proto::id::{Codec, Kind};
use spillway_proto::limits::DATAGRAM_SIZE_MAX;
use spillway_proto::mux::matroska::{Clip, Frame, Track};
use spillway_proto::mux::packetize;
use spillway_proto::sdp::Direction;
use spillway_proto::time::NtpTime;
use spillway_proto::wire::payload::h265;
use spillway_proto::wire::rtcp::{self, Rtcp};
use spillway_proto::wire::rtp;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const CLIP_H264: &[u8] = include_bytes!("../../clip/h264.mkv");
const CLIP_VP8: &[u8] = include_bytes!("../../clip/vp8.webm");
/// Seconds from 1900, where NTP begins, to 1970 (RFC 868).
const NTP_UNIX: u64 = 2_208_988_800;
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// A clip whose next keyframe is this far away says so.
const SILENCE_WORTH_A_WORD: Duration = Duration::from_secs(3);
/// The longest sleep between two looks at the socket.
const NAP: Duration = Duration::from_millis(5);
/// Reports and requests taken between two frames: the server sends a few in a second.
const REPORTS_PER_NAP_MAX: usize = 16;
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_SLOWEST: Duration = Duration::from_secs(2);

#[derive(Args, Clone, Debug)]
pub struct PublishArgs {
    #[command(subcommand)]
    pub source: SourceArgs,
}

#[derive(Subcommand, Clone, Debug)]
pub enum SourceArgs {
    /// A looping clip with a frame counter in its picture, and flash and beep each second
    Synthetic(SyntheticArgs),
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway publish synthetic demo
  spillway publish synthetic demo --codec vp8
  spillway publish synthetic demo --clip film.mkv          H264, H265, VP8, VP9 or AV1 with Opus, no B-frames:
                                                           ffmpeg -i IN -c:v libx264 -bf 0 -c:a libopus film.mkv
  spillway publish synthetic demo --server http://192.0.2.7:7080 --token TOKEN

Ends with Ctrl-C. When the server restarts, it publishes anew by itself. Packets lost on the way to the server are
sent again on request, up to a second later. Keyframes come only where the clip has them: requests for one are not
answered, as OBS and ffmpeg do not answer them.")]
pub struct SyntheticArgs {
    /// The room to publish to
    #[arg(value_name = "ROOM", value_parser = parse_room)]
    pub room: String,
    /// The built-in clip's codec
    #[arg(long, value_enum, default_value_t = ClipCodec::H264, conflicts_with = "clip")]
    pub codec: ClipCodec,
    /// A Matroska or WebM file of your own instead
    #[arg(long, value_name = "FILE")]
    pub clip: Option<PathBuf>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClipCodec {
    H264,
    Vp8,
}

pub fn run(args: PublishArgs) -> ExitCode {
    let SourceArgs::Synthetic(args) = args.source;
    let clip = match load(&args) {
        Ok(clip) => clip,
        Err(words) => {
            complain(words);
            return Exit::Config.into();
        }
    };
    let outcome = Stop::listen().map_err(RemoteError::Socket).and_then(|stop| publish(&args, &clip, &stop));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error.to_string());
            error.exit().into()
        }
    }
}

fn load(args: &SyntheticArgs) -> Result<Clip, String> {
    let clip = match (&args.clip, args.codec) {
        (Some(path), _) => {
            let bytes = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            Clip::parse(&bytes).map_err(|error| format!("{}: {error}", path.display()))?
        }
        (None, ClipCodec::H264) => Clip::parse(CLIP_H264).map_err(|error| error.to_string())?,
        (None, ClipCodec::Vp8) => Clip::parse(CLIP_VP8).map_err(|error| error.to_string())?,
    };
    if clip.duration_ns() == 0 {
        return Err("the clip has only one frame: nothing to loop".to_owned());
    }
    Ok(clip)
}

/// Publishes until stopped; comes back by itself after a restart of the server.
fn publish(args: &SyntheticArgs, clip: &Clip, stop: &Stop) -> Result<(), RemoteError> {
    let mut retry = RETRY_FIRST;
    let mut was_live = false;
    while !stop.is_set() {
        // Found anew each time: a restarted node may listen elsewhere.
        let attempt = Server::find(&args.server, &args.room, Role::Publish).and_then(|server| {
            let began = Instant::now();
            let outcome = session(&server, args, clip, stop, &mut was_live);
            if began.elapsed() > RETRY_SLOWEST {
                retry = RETRY_FIRST;
            }
            outcome
        });
        match attempt {
            Ok(()) => return Ok(()),
            // Before the first picture the user is told at once; afterwards the stream is kept up.
            Err(error) if was_live && (error.is_passing() || matches!(error, RemoteError::NoNode(_))) => {
                complain(format!("{error}; publishing anew"));
                std::thread::sleep(retry);
                retry = (retry * 2).min(RETRY_SLOWEST);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn session(
    server: &Server,
    args: &SyntheticArgs,
    clip: &Clip,
    stop: &Stop,
    was_live: &mut bool,
) -> Result<(), RemoteError> {
    let mut tracks: Vec<Output<'_>> = Vec::new();
    for (track, payload_type, ssrc) in [(&clip.audio, 111, 0x5350_0001), (&clip.video, 96, 0x5350_0002)] {
        if let Some(track) = track {
            tracks.push(Output::new(track, payload_type, ssrc));
        }
    }
    let sections: Vec<Section> = tracks
        .iter()
        .map(|output| Section {
            codecs: vec![(output.track.codec, output.payload_type, 0)],
            direction: Direction::SendOnly,
            ssrc: output.ssrc,
        })
        .collect();
    let path = format!("/whip/{}", args.room);
    let Some(mut session) = Session::connect(server, &path, &sections, stop)? else { return Ok(()) };
    *was_live = true;
    println!("publishing to {} at {}; Ctrl-C ends it", args.room, server.base);

    let clock = WallClock::new();
    let duration = clip.duration_ns();
    let mut position = Position::at(clip, clock.unix_ns());
    let silence = Duration::from_nanos(position.entry_due_at(clip, duration).saturating_sub(clock.unix_ns()));
    if silence >= SILENCE_WORTH_A_WORD {
        println!("nothing is sent before the clip's next keyframe, in {} s", silence.as_secs());
    }
    let mut report_at = Instant::now();
    let mut began = false;
    let mut buffer = [0; DATAGRAM_SIZE_MAX];
    loop {
        if stop.is_set() {
            session.leave();
            return Ok(());
        }
        let now = clock.unix_ns();
        while let Some((frame, time_ns)) = position.next_due(clip, duration, now) {
            began |= is_entry(clip, frame);
            if !began {
                continue;
            }
            if let Some(output) = tracks.iter_mut().find(|output| output.track.codec.kind() == frame.track) {
                output.send(&session, frame, time_ns);
            }
        }
        if report_at <= Instant::now() {
            report_at += REPORT_INTERVAL;
            for output in tracks.iter().filter(|output| output.packets > 0) {
                output.report(&mut session, now);
            }
        }
        // Whatever came: checks, reports, keyframe requests nobody answers, and what the server misses.
        for _ in 0..REPORTS_PER_NAP_MAX {
            let Heard::Rtcp(length) = session.wait(Duration::ZERO, &mut buffer)? else { break };
            for packet in rtcp::packets(buffer.get(..length).unwrap_or_default()) {
                let Rtcp::Nack { media, losses, .. } = packet else { continue };
                if let Some(output) = tracks.iter_mut().find(|output| output.ssrc == media) {
                    output.send_again(&session, losses);
                }
            }
        }
        let due = Duration::from_nanos(position.due_at(clip, duration).saturating_sub(clock.unix_ns()));
        std::thread::sleep(due.min(NAP));
    }
}

/// Nobody can enter before a keyframe; sound alone would call the room live too early.
fn is_entry(clip: &Clip, frame: &Frame) -> bool {
    frame.keyframe && (frame.track == Kind::Video || clip.video.is_none())
}

/// Unix time that does not jump while we publish.
struct WallClock {
    unix_ns: u64,
    at: Instant,
}

impl WallClock {
    fn new() -> WallClock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallClock { unix_ns: unix.as_nanos() as u64, at: Instant::now() }
    }
    fn unix_ns(&self) -> u64 {
        self.unix_ns + self.at.elapsed().as_nanos() as u64
    }
}

/// Which frame of which round is next.
struct Position {
    round: u64,
    frame: usize,
}

impl Position {
    /// Where the clip is at this time: the clock decides, not the moment we began.
    fn at(clip: &Clip, unix_ns: u64) -> Position {
        let duration = clip.duration_ns();
        let frame = clip.frames.partition_point(|frame| frame.time_ns < unix_ns % duration);
        Position { round: unix_ns / duration, frame }
    }

    fn due_at(&self, clip: &Clip, duration: u64) -> u64 {
        let (round, frame) = self.normal(clip);
        round * duration + clip.frames.get(frame).map_or(0, |frame| frame.time_ns)
    }

    /// When the next frame is due that viewers can enter at.
    fn entry_due_at(&self, clip: &Clip, duration: u64) -> u64 {
        let (round, frame) = self.normal(clip);
        let find = |from: usize| clip.frames.iter().skip(from).find(|frame| is_entry(clip, frame));
        let this_round = find(frame).map(|frame| round * duration + frame.time_ns);
        this_round.or_else(|| find(0).map(|frame| (round + 1) * duration + frame.time_ns)).unwrap_or(0)
    }

    fn normal(&self, clip: &Clip) -> (u64, usize) {
        if self.frame < clip.frames.len() { (self.round, self.frame) } else { (self.round + 1, 0) }
    }

    /// The next frame if its time has come, with that time.
    fn next_due<'c>(&mut self, clip: &'c Clip, duration: u64, unix_ns: u64) -> Option<(&'c Frame, u64)> {
        let due_at = self.due_at(clip, duration);
        if due_at > unix_ns {
            return None;
        }
        let (round, frame) = self.normal(clip);
        *self = Position { round, frame: frame + 1 };
        Some((clip.frames.get(frame)?, due_at))
    }
}

/// One track on its way out.
struct Output<'c> {
    track: &'c Track,
    payload_type: u8,
    ssrc: u32,
    /// The 48-bit SRTP index.
    index: u64,
    picture_id: u16,
    packets: u32,
    octets: u32,
    sent: Resends,
}

impl<'c> Output<'c> {
    fn new(track: &'c Track, payload_type: u8, ssrc: u32) -> Output<'c> {
        let mut random = [0; 2];
        // Sequence numbers begin anywhere; without randomness they begin at 0, which is anywhere too.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let index = u64::from(u16::from_le_bytes(random) >> 1);
        Output { track, payload_type, ssrc, index, picture_id: 0, packets: 0, octets: 0, sent: Resends::new() }
    }

    /// A pure function of the clock: after a restart the timestamps go on.
    fn timestamp(&self, unix_ns: u64) -> u32 {
        (u128::from(unix_ns) * u128::from(self.track.codec.clock_rate()) / 1_000_000_000) as u32
    }

    fn send(&mut self, session: &Session<'_>, frame: &Frame, unix_ns: u64) {
        let timestamp = self.timestamp(unix_ns);
        let codec = self.track.codec;
        let (index, payload_type, ssrc) = (&mut self.index, self.payload_type, self.ssrc);
        let (packets, octets, sent) = (&mut self.packets, &mut self.octets, &mut self.sent);
        let now = Instant::now();
        let emit = |payload: &[u8], last: bool| {
            let mut header = [0; rtp::RTP_HEADER_BYTES];
            let marker = last && codec.kind() == Kind::Video;
            rtp::write_header(&mut header, marker, payload_type, *index as u16, timestamp, ssrc);
            let mut out = [0; DATAGRAM_SIZE_MAX];
            if let Some(length) = session.client.seal_rtp(&header, payload, *index, &mut out) {
                session.send(&out[..length]);
                sent.keep(now, *index as u16, &out[..length]);
            }
            *index += 1;
            *packets = packets.wrapping_add(1);
            *octets = octets.wrapping_add(payload.len() as u32);
        };
        match codec {
            Codec::H264 => {
                let mut nals: Vec<&[u8]> = Vec::new();
                if frame.keyframe {
                    nals.extend(self.track.parameter_sets.iter().map(Vec::as_slice));
                }
                nals.extend(self.track.nals(&frame.data));
                packetize::h264(&nals, emit);
            }
            Codec::H265 => {
                let mut nals: Vec<&[u8]> = self.track.nals(&frame.data).collect();
                // A file that has them in its frames too has the right ones there.
                if frame.keyframe && !nals.iter().any(|nal| nal.first().is_some_and(|first| h265::nal_type(*first) == h265::VPS)) {
                    nals.splice(0..0, self.track.parameter_sets.iter().map(Vec::as_slice));
                }
                packetize::h265(&nals, emit);
            }
            Codec::Vp8 => {
                packetize::vp8(&frame.data, self.picture_id & 0x7FFF, emit);
                self.picture_id = self.picture_id.wrapping_add(1);
            }
            Codec::Vp9 => {
                packetize::vp9(&frame.data, frame.keyframe, self.picture_id & 0x7FFF, emit);
                self.picture_id = self.picture_id.wrapping_add(1);
            }
            Codec::Av1 if frame.keyframe && !packetize::has_sequence_header(&frame.data) => {
                let sequence = self.track.parameter_sets.first().map_or(&[][..], Vec::as_slice);
                packetize::av1(&[sequence, &frame.data].concat(), true, emit);
            }
            Codec::Av1 => packetize::av1(&frame.data, frame.keyframe, emit),
            Codec::Opus => _ = packetize::opus(&frame.data, emit),
        }
    }

    fn send_again(&mut self, session: &Session<'_>, losses: rtcp::Losses<'_>) {
        let now = Instant::now();
        for sequence in losses {
            if let Some(sealed) = self.sent.again(now, sequence) {
                session.send(sealed);
            }
        }
    }

    fn report(&self, session: &mut Session<'_>, unix_ns: u64) {
        let seconds = unix_ns / 1_000_000_000 + NTP_UNIX;
        let fraction = (u128::from(unix_ns % 1_000_000_000) << 32) / 1_000_000_000;
        let ntp = NtpTime(seconds << 32 | fraction as u64);
        let mut plain = [0; 256];
        let written = rtcp::write_sr(&mut plain, self.ssrc, ntp, self.timestamp(unix_ns), self.packets, self.octets, &[])
            .and_then(|length| {
                Some(length + rtcp::write_sdes_cname(plain.get_mut(length..)?, self.ssrc, "spillway-cli")?)
            });
        if let Some(length) = written {
            session.send_rtcp(&plain[..length]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clips_are_ten_seconds_of_thirty_frames() {
        for (bytes, codec) in [(CLIP_H264, Codec::H264), (CLIP_VP8, Codec::Vp8)] {
            let clip = Clip::parse(bytes).unwrap();
            assert_eq!(clip.video.as_ref().unwrap().codec, codec);
            assert_eq!(clip.frames.iter().filter(|frame| frame.track == Kind::Video).count(), 300);
            // To the nanosecond: pages read their latency as Unix time modulo ten seconds.
            assert_eq!(clip.duration_ns(), 10_000_000_000);
        }
    }

    #[test]
    fn the_clock_decides_which_frame_is_next_and_rounds_follow_each_other() {
        let clip = Clip::parse(CLIP_VP8).unwrap();
        let duration = clip.duration_ns();
        let start = 7 * duration + duration / 2;
        let mut position = Position::at(&clip, start);
        assert!(position.next_due(&clip, duration, start - 1).is_none());
        let (mut last, mut count) = (0, 0);
        while let Some((frame, at)) = position.next_due(&clip, duration, start + duration - 1) {
            assert!(at >= last && at >= start, "frames leave in order");
            assert_eq!(at % duration, frame.time_ns % duration);
            (last, count) = (at, count + 1);
        }
        assert_eq!(count, clip.frames.len(), "each frame once in a round");
    }

    #[test]
    fn the_next_keyframe_is_known_beforehand() {
        let mut clip = Clip::parse(CLIP_H264).unwrap();
        let duration = clip.duration_ns();
        let second = 1_000_000_000;
        // One keyframe, and that in the middle.
        let middle = clip.frames.iter().find(|frame| frame.track == Kind::Video && frame.time_ns > 3 * second).unwrap().time_ns;
        for frame in &mut clip.frames {
            frame.keyframe = frame.track == Kind::Audio || frame.time_ns == middle;
        }
        assert_eq!(clip.frames.iter().filter(|frame| is_entry(&clip, frame)).count(), 1);
        let due = |now: u64| Position::at(&clip, now).entry_due_at(&clip, duration);
        let start = 7 * duration;
        assert_eq!(due(start), start + middle);
        assert_eq!(due(start + middle), start + middle);
        assert_eq!(due(start + middle + 1), start + duration + middle);
        assert_eq!(due(start + duration - 1), start + duration + middle);
        // Of sound alone any frame will do.
        clip.video = None;
        assert!(Position::at(&clip, start + second).entry_due_at(&clip, duration) < start + second + second / 10);
    }
}

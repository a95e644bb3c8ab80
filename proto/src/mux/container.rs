//! A recording's file as it grows: samples in, a header and fragments out, each fragment whole in itself. Which container
//! a codec gets, and what all containers have in common: sound without holes, bounded fragments, the mark before each.
//!
//! No file: the caller appends what it is given, in order, and makes it durable. Times are nanoseconds since the
//! recording's start. `finish` reads such a file back and closes it.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::mark::{Digest, Mark};
use super::sample::{Sample, TrackFormat};
use super::{fmp4, webm};
use crate::id::{Codec, Kind};
use crate::limits::{FILE_SAMPLES_MAX, FRAGMENT_BYTES_MAX, FRAGMENT_SAMPLES_MAX, SAMPLE_NS_MAX, SILENCE_NS_MAX};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Container {
    Mp4,
    WebM,
}

impl Container {
    /// VP8 has no box of its own that players agree on; everything else is MP4, also sound alone.
    pub fn for_codecs(video: Option<Codec>) -> Container {
        if video == Some(Codec::Vp8) { Container::WebM } else { Container::Mp4 }
    }
    pub const fn extension(self) -> &'static str {
        match self {
            Container::Mp4 => "mp4",
            Container::WebM => "webm",
        }
    }
    /// Units of decode times in a second, per kind.
    pub(super) const fn scale(self, kind: Kind) -> u64 {
        match (self, kind) {
            (Container::Mp4, Kind::Video) => 90_000,
            (Container::Mp4, Kind::Audio) => 48_000,
            (Container::WebM, _) => 1_000,
        }
    }
}

pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// To the nearest unit.
pub(super) fn ticks(time_ns: u64, scale: u64) -> u64 {
    ((u128::from(time_ns) * u128::from(scale) + u128::from(SECOND_NS / 2)) / u128::from(SECOND_NS)) as u64
}

/// Sound that is less than this too late is played where it is.
const HOLE_NS_MIN: u64 = 15_000_000;
/// Sound that is this much too early is not made up for any more: the timeline was set back.
const EARLY_NS_MAX: u64 = 200_000_000;

/// The length of an Opus packet (RFC 6716 section 3.1); of one that makes no sense, 20 ms.
pub(super) fn opus_ns(packet: &[u8]) -> u64 {
    let Some(toc) = packet.first() else { return 20_000_000 };
    let config = toc >> 3;
    let frame_us: u64 = match config {
        0..=11 => [10_000, 20_000, 40_000, 60_000].get(usize::from(config & 3)).copied().unwrap_or(20_000),
        12..=15 => 10_000 << (config & 1),
        _ => 2_500 << (config & 3),
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => packet.get(1).map_or(1, |count| u64::from(count & 0x3F)),
    };
    let length_us = frame_us * frames;
    1_000 * if (2_500..=120_000).contains(&length_us) { length_us } else { 20_000 }
}

/// Packets of silence (RFC 6716: CELT, full band, mono, the range coder's rest at its end), longest first: six times
/// 20 ms in one packet of code 3, then single frames.
const SILENCE: [(u64, &[u8]); 5] = [
    (120_000_000, &[0xFB, 6, 0xFF, 0xFE, 0xFF, 0xFE, 0xFF, 0xFE, 0xFF, 0xFE, 0xFF, 0xFE, 0xFF, 0xFE]),
    (20_000_000, &[0xF8, 0xFF, 0xFE]),
    (10_000_000, &[0xF0, 0xFF, 0xFE]),
    (5_000_000, &[0xE8, 0xFF, 0xFE]),
    (2_500_000, &[0xE0, 0xFF, 0xFE]),
];

/// One frame as it is written.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub time_ns: u64,
    pub keyframe: bool,
    pub data: &'a [u8],
}

/// What goes from fragment to fragment; also what a resumed run must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct State {
    pub sequence: u32,
    pub sound_ns: u64,
    pub video_floor: u64,
    pub audio_next: u64,
    pub samples: u64,
}

/// Writes one file. One owner, the recorder; it knows nothing of where the bytes go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Muxer {
    container: Container,
    tracks: Vec<TrackFormat>,
    started_unix_ms: u64,
    state: State,
}

impl Muxer {
    /// Of several tracks of one kind the first counts.
    pub fn new(container: Container, tracks: &[TrackFormat], started_unix_ms: u64) -> Muxer {
        let mut kept: Vec<TrackFormat> = Vec::new();
        // Pictures first, in whatever order they come.
        for kind in [Kind::Video, Kind::Audio] {
            kept.extend(tracks.iter().find(|track| track.codec.kind() == kind).cloned());
        }
        Muxer { container, tracks: kept, started_unix_ms, state: State::default() }
    }

    pub(super) fn resumed(container: Container, tracks: Vec<TrackFormat>, started_unix_ms: u64, state: State) -> Muxer {
        Muxer { container, tracks, started_unix_ms, state }
    }

    pub fn container(&self) -> Container {
        self.container
    }
    pub fn tracks(&self) -> &[TrackFormat] {
        &self.tracks
    }
    /// As many frames as a file may hold and be closed in bounded memory: the next fragment belongs into the next file.
    pub fn is_full(&self) -> bool {
        self.state.samples >= (FILE_SAMPLES_MAX - 8 * FRAGMENT_SAMPLES_MAX) as u64
    }

    /// The file's first bytes.
    pub fn header(&self, out: &mut Vec<u8>) {
        match self.container {
            Container::Mp4 => fmp4::header(&self.tracks, self.started_unix_ms, out),
            Container::WebM => webm::header(&self.tracks, self.started_unix_ms, None, out),
        }
    }

    /// All samples of both tracks from one fragment, each track's in decode order. `until_ns`: where the next one begins,
    /// which is how long the last picture stays. `gap_ns`: time without media before it. Holes in the sound are filled
    /// with silence. Samples of a track the file has not, and samples without data, are left out.
    ///
    /// What is more than a fragment may hold becomes several.
    pub fn fragment(&mut self, samples: &[Sample], until_ns: u64, gap_ns: Option<u64>, out: &mut Vec<u8>) {
        let kinds = [Kind::Video, Kind::Audio].map(|kind| self.tracks.iter().any(|track| track.codec.kind() == kind));
        let is_kept = |sample: &&Sample| {
            let has_track = if sample.kind == Kind::Video { kinds.first() } else { kinds.last() };
            has_track == Some(&true) && !sample.data.is_empty() && sample.data.len() <= FRAGMENT_BYTES_MAX
        };
        let mut gap_ns = gap_ns.unwrap_or(0);
        let (mut video, mut audio, mut bytes) = (Vec::new(), Vec::new(), 0);
        for sample in samples.iter().filter(is_kept) {
            // Silence has at most 14 bytes per packet; it may be some more than the most of one fragment.
            if bytes + sample.data.len() > FRAGMENT_BYTES_MAX || video.len() + audio.len() >= FRAGMENT_SAMPLES_MAX {
                self.write(&video, &audio, sample.time_ns.min(SAMPLE_NS_MAX), gap_ns, out);
                (video.clear(), audio.clear());
                (bytes, gap_ns) = (0, 0);
            }
            bytes += sample.data.len();
            let piece = Piece { time_ns: sample.time_ns.min(SAMPLE_NS_MAX), keyframe: sample.keyframe, data: &sample.data };
            match sample.kind {
                Kind::Video => video.push(piece),
                Kind::Audio => self.push_sound(piece, &mut audio),
            }
        }
        if !video.is_empty() || !audio.is_empty() {
            self.write(&video, &audio, until_ns.min(SAMPLE_NS_MAX), gap_ns, out);
        }
    }

    /// Players play sound without a stop, whatever its times say (Chromium drifts, and says so): what is missing
    /// becomes silence, of which at most `SILENCE_NS_MAX` at once.
    fn push_sound<'a>(&mut self, piece: Piece<'a>, audio: &mut Vec<Piece<'a>>) {
        let end = self.state.sound_ns;
        let late = piece.time_ns.saturating_sub(end);
        let mut played = end;
        if end > 0 && late >= HOLE_NS_MIN {
            let mut left = late.min(SILENCE_NS_MAX);
            for (length, data) in SILENCE {
                while left >= length {
                    audio.push(Piece { time_ns: played, keyframe: true, data });
                    (played, left) = (played + length, left - length);
                }
            }
        }
        // What is a little late stays late, until it is a hole; who is far off begins anew.
        let is_known = end > 0 && played.abs_diff(piece.time_ns) < EARLY_NS_MAX;
        self.state.sound_ns = if is_known { played } else { piece.time_ns } + opus_ns(piece.data);
        audio.push(piece);
    }

    fn write(&mut self, video: &[Piece], audio: &[Piece], until_ns: u64, gap_ns: u64, out: &mut Vec<u8>) {
        self.state.sequence = self.state.sequence.saturating_add(1);
        self.state.samples += (video.len() + audio.len()) as u64;
        let mut contents = Vec::new();
        match self.container {
            Container::Mp4 => fmp4::fragment(&mut self.state, &self.tracks, video, audio, until_ns, &mut contents),
            Container::WebM => webm::fragment(&mut self.state, &self.tracks, video, audio, &mut contents),
        }
        let mut digest = Digest::new();
        digest.update(&contents);
        let times = || video.iter().chain(audio).map(|piece| piece.time_ns);
        let ends = video.last().map(|piece| piece.time_ns + 1).into_iter().chain(audio.last().map(|piece| piece.time_ns + opus_ns(piece.data)));
        let mark = Mark {
            sequence: self.state.sequence,
            length: contents.len() as u64,
            start_ns: times().min().unwrap_or(until_ns),
            until_ns: ends.chain([until_ns]).max().unwrap_or(until_ns),
            gap_ns,
            key_ns: video.first().filter(|piece| piece.keyframe).map_or(u64::MAX, |piece| piece.time_ns),
            sound_ns: self.state.sound_ns,
            video_floor: self.state.video_floor,
            audio_next: self.state.audio_next,
            video_frames: video.len() as u32,
            audio_frames: audio.len() as u32,
            digest: digest.finish(),
        };
        match self.container {
            Container::Mp4 => fmp4::mark(&mark, out),
            Container::WebM => webm::mark(&mark, out),
        }
        out.append(&mut contents);
    }
}

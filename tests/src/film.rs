//! Films for the recorder's containers: real material of any encoder, as samples; and files of them as the recorder
//! makes them, growing, cut and closed.

use crate::node::Scratch;
use spillway_proto::id::{Codec, Kind};
use spillway_proto::mux::codec_config::track_format;
use spillway_proto::mux::container::{Container, Muxer};
use spillway_proto::mux::finish::inspect;
use spillway_proto::mux::matroska::Clip;
use spillway_proto::mux::sample::{Sample, TrackFormat};
use std::fs;
use std::path::Path;
use std::process::Command;

pub const SECOND: u64 = 1_000_000_000;

/// Encoders of Debian's ffmpeg, quick ones; a keyframe every 30 pictures, none out of order.
pub const H264: &[&str] = &["libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "30", "-bf", "0"];
pub const H265: &[&str] = &["libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:bframes=0:keyint=30:min-keyint=30"];
pub const VP8: &[&str] = &["libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "30", "-b:v", "300k"];
pub const VP9: &[&str] = &["libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "30", "-b:v", "300k"];
pub const AV1: &[&str] = &["libaom-av1", "-usage", "realtime", "-cpu-used", "8", "-g", "30", "-b:v", "300k"];

#[derive(Clone)]
pub struct Film {
    /// In the order of time.
    pub samples: Vec<Sample>,
    pub tracks: Vec<TrackFormat>,
}

/// What ffmpeg makes: pictures of a test pattern at 30 a second, and a tone. Either may be left out.
pub fn film(video: Option<(&[&str], &str)>, has_sound: bool, seconds: u32) -> Film {
    let scratch = Scratch::new();
    let path = scratch.0.join("film.mkv");
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-y"]);
    if let Some((_, size)) = video {
        command.args(["-f", "lavfi", "-i", &format!("testsrc2=size={size}:rate=30")]);
    }
    if has_sound {
        command.args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]);
    }
    command.args(["-t", &seconds.to_string(), "-pix_fmt", "yuv420p"]);
    if let Some((encoder, _)) = video {
        command.arg("-c:v").args(encoder);
    }
    command.args(["-c:a", "libopus", "-b:a", "32k"]).arg(&path);
    let done = command.output().expect("ffmpeg is installed");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    Film::of(&fs::read(&path).expect("a film"))
}

impl Film {
    pub fn of(matroska: &[u8]) -> Film {
        let clip = Clip::parse(matroska).expect("a film that can be read");
        let samples: Vec<Sample> = clip.frames.iter().map(|frame| sample(&clip, frame)).collect();
        let first = |kind: Kind| samples.iter().find(|sample| sample.kind == kind);
        let tracks = [clip.video.as_ref().map(|track| track.codec), clip.audio.as_ref().map(|track| track.codec)].into_iter().flatten();
        let format = |codec: Codec| track_format(codec, &first(codec.kind()).expect("a sample").data).expect("a format");
        Film { tracks: tracks.map(format).collect(), samples }
    }

    pub fn container(&self) -> Container {
        Container::for_codecs(self.tracks.iter().map(|track| track.codec).find(|codec| codec.kind() == Kind::Video))
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.samples.iter().filter(|sample| sample.kind == kind).count()
    }

    /// This film, then the other one, `gap_ns` later than its last picture stays.
    pub fn then(mut self, mut other: Film, gap_ns: u64) -> Film {
        let end = self.end() + gap_ns;
        other.samples.iter_mut().for_each(|sample| sample.time_ns += end);
        self.samples.append(&mut other.samples);
        self
    }

    /// Where the last picture, or the last sound, has been shown for a thirtieth.
    pub fn end(&self) -> u64 {
        self.samples.iter().map(|sample| sample.time_ns).max().unwrap_or(0) + SECOND / 30
    }

    /// The samples in pieces of about a second that begin at keyframes; with each, where it ends.
    pub fn pieces(&self) -> Vec<(Vec<Sample>, u64)> {
        let is_sound_only = self.count(Kind::Video) == 0;
        let mut pieces: Vec<(Vec<Sample>, u64)> = Vec::new();
        let mut begin = 0;
        for sample in &self.samples {
            let may_begin = sample.keyframe && (is_sound_only || sample.kind == Kind::Video);
            if pieces.is_empty() || may_begin && sample.time_ns >= begin + 900_000_000 {
                begin = sample.time_ns;
                if let Some(last) = pieces.last_mut() {
                    last.1 = begin;
                }
                pieces.push((Vec::new(), 0));
            }
            pieces.last_mut().expect("one was pushed").0.push(sample.clone());
        }
        if let Some(last) = pieces.last_mut() {
            last.1 = self.end();
        }
        pieces
    }

    /// The growing file, and where each of its fragments ends; before them, where its header does.
    pub fn record(&self) -> (Vec<u8>, Vec<usize>) {
        let mut muxer = Muxer::new(self.container(), &self.tracks, 1_700_000_000_000);
        let mut file = Vec::new();
        muxer.header(&mut file);
        let mut ends = vec![file.len()];
        for (samples, until) in self.pieces() {
            muxer.fragment(&samples, until, None, &mut file);
            ends.push(file.len());
        }
        (file, ends)
    }
}

fn sample(clip: &Clip, frame: &spillway_proto::mux::matroska::Frame) -> Sample {
    let track = if frame.track == Kind::Video { &clip.video } else { &clip.audio };
    let track = track.as_ref().expect("its track");
    let mut data = Vec::new();
    let mut push = |unit: &[u8]| {
        data.extend((unit.len() as u32).to_be_bytes());
        data.extend(unit);
    };
    match track.codec {
        Codec::H264 | Codec::H265 => {
            if frame.keyframe {
                track.parameter_sets.iter().for_each(|set| push(set));
            }
            track.nals(&frame.data).for_each(push);
        }
        _ => data.extend(&frame.data),
    }
    Sample { kind: frame.track, time_ns: frame.time_ns, keyframe: frame.keyframe, data }
}

/// What a finish run does: cut, append, patch. Returns the file as it is closed; None: nothing is in it.
pub fn close(mut file: Vec<u8>) -> Option<Vec<u8>> {
    let contents = inspect(&mut file.as_slice()).ok()?;
    if contents.is_final {
        return Some(file);
    }
    let closing = contents.closing()?;
    file.truncate(closing.at as usize);
    file.extend(&closing.append);
    for (at, bytes) in &closing.then {
        file[*at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    Some(file)
}

/// What ffprobe says of a file, as JSON. It complains of nothing.
pub fn ffprobe(path: &Path, more: &[&str]) -> serde_json::Value {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-of", "json", "-show_format", "-show_streams"]).args(more).arg(path);
    let done = command.output().expect("ffprobe is installed");
    let complaints = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && complaints.is_empty(), "{}: {complaints}", path.display());
    serde_json::from_slice(&done.stdout).expect("JSON")
}

/// Decodes everything; what the decoder complains of.
pub fn decode(path: &Path) -> String {
    let done = Command::new("ffmpeg").args(["-v", "error", "-nostdin", "-i"]).arg(path).args(["-fps_mode", "passthrough", "-enc_time_base", "-1", "-f", "null", "-"]).output();
    let done = done.expect("ffmpeg is installed");
    format!("{}{}", String::from_utf8_lossy(&done.stderr), if done.status.success() { "" } else { "it failed" })
}

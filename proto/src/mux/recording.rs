//! A recording as a machine: packets and sender reports of a stream's tracks in, pieces for a container and notes out.
//!
//! Pure; `now` comes in. It decides where a piece begins (at a keyframe where one is near), when a file ends and the next
//! one begins (another codec, a track more, a bound), and what a gap is. It knows no container's bytes and no disk:
//! whoever writes pieces may drop whole ones, and begins again at a piece whose first picture is a keyframe.
//!
//! Time zero is the first frame of the first piece. A run that goes on where another one ended (`Resumed`) keeps that
//! zero, and takes nothing that came before the end.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::codec_config::track_format;
use super::depacketize::{Depacketizer, Dropped, Frame, Output as Unpacked};
use super::sample::{Sample, TrackFormat};
use super::timeline::Timeline;
use crate::id::{Codec, Kind};
use crate::limits::{FILE_SAMPLES_MAX, HELD_FRAMES_MAX, PIECE_NS_MAX, PIECE_NS_MIN, TAP_WAIT};
use crate::stream::feedback::SrMapping;
use crate::stream::reel::SlotMeta;
use crate::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// A track that gives nothing for so long is not waited for: what it misses was waited for, and a bit.
const STALE: Duration = Duration::from_millis(TAP_WAIT.as_millis() as u64 + 500);
/// One track waits for the other at most so long.
const HOLD: Duration = Duration::from_millis(TAP_WAIT.as_millis() as u64 + 1_500);
/// Sound alone is no recording of a stream that has a picture, unless it does not come for so long.
const PICTURE_WAIT: Duration = Duration::from_secs(10);
/// Nothing of any track for so long: the publisher is away.
const SILENCE_NS: i64 = 2_000_000_000;
/// Between two requests for a keyframe.
const REQUEST_INTERVAL: Duration = Duration::from_secs(2);
/// A publisher begins with a keyframe by itself; it is asked after this, and at once when something else came.
const REQUEST_PATIENCE: Duration = Duration::from_secs(1);
/// A hole between two pieces that is worth a mark in the file.
const MARK_NS: u64 = 100_000_000;

/// When a file has become large enough; 0: never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bounds {
    pub file_bytes_max: u64,
    pub file_seconds_max: u64,
}

/// Where an earlier run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resumed {
    /// The recording's zero on this machine's clock; it may lie before the machine's start.
    pub origin_ns: i64,
    /// Since the recording's start: what is written.
    pub end_ns: u64,
    /// The file that is gone on with; none: a new one begins.
    pub file: Option<OpenFile>,
    /// Why there is nothing between that end and what comes now.
    pub reason: Reason,
}

/// The file pieces go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenFile {
    pub video: Option<Codec>,
    pub has_audio: bool,
    /// Since the recording's start.
    pub start_ns: u64,
    pub bytes: u64,
    pub samples: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    PublisherAway,
    Loss,
    Behind,
    Restart,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// Nothing to see (without a picture: to hear) from there on. Since the recording's start.
    Gap { at_ns: u64, length_ns: u64, reason: Reason },
    Warning { code: &'static str, detail: String },
    WantKeyframe,
}

/// What is written as one: a fragment of a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// A new file with these tracks begins here.
    pub begins: Option<Vec<TrackFormat>>,
    /// Pictures in decode order, then sound. Times are since the recording's start.
    pub samples: Vec<Sample>,
    pub start_ns: u64,
    /// Where the next piece begins, or this one ends.
    pub until_ns: u64,
    /// Time without media before it.
    pub gap_ns: Option<u64>,
    /// On this machine's clock, of `start_ns`.
    pub start_at_ns: i64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    Piece(Piece),
    Note(Note),
}

struct Held {
    time: i64,
    timestamp: u32,
    arrival: Time,
    codec: Codec,
    epoch: u32,
    keyframe: bool,
    data: Vec<u8>,
}

struct Lane {
    depacketizer: Depacketizer,
    held: VecDeque<Held>,
    format: Option<TrackFormat>,
    /// Time and arrival of the newest frame.
    latest: Option<(i64, Time)>,
    packet_at: Option<Time>,
    /// From one frame to the next, usually.
    interval_ns: i64,
    epoch: u32,
    /// Why frames were left out since the newest.
    cause: Option<Reason>,
    /// Pictures before the end of an earlier run are passed over, until a keyframe behind it.
    skips: bool,
}

pub struct Recording {
    bounds: Bounds,
    timeline: Timeline,
    video: Option<Lane>,
    audio: Option<Lane>,
    origin: Option<i64>,
    floor_ns: u64,
    resumes: Option<Reason>,
    /// Where the last piece ended.
    until_ns: Option<u64>,
    file: Option<OpenFile>,
    gaps: Vec<(i64, i64, Reason)>,
    outputs: VecDeque<Output>,
    asked: Option<Time>,
    wanted_since: Option<Time>,
    has_warned: bool,
}

/// How many pictures are cut off, and where the piece ends.
#[derive(Clone, Copy)]
struct Cut {
    pictures: usize,
    end: i64,
}

impl Lane {
    fn is_fresh(&self, now: Time) -> bool {
        self.latest.is_some_and(|(_, arrival)| now.since(arrival) < STALE)
    }
}

impl Recording {
    pub fn new(bounds: Bounds, resumed: Option<Resumed>) -> Recording {
        let resumes = resumed.as_ref().map(|resumed| resumed.reason);
        let (origin, floor_ns, file) = match resumed {
            Some(resumed) => (Some(resumed.origin_ns), resumed.end_ns, resumed.file),
            None => (None, 0, None),
        };
        Recording {
            bounds,
            timeline: Timeline::default(),
            video: None,
            audio: None,
            origin,
            floor_ns,
            resumes,
            until_ns: origin.map(|_| floor_ns),
            file,
            gaps: Vec::new(),
            outputs: VecDeque::new(),
            asked: None,
            wanted_since: None,
            has_warned: false,
        }
    }

    fn lane(&mut self, kind: Kind) -> Option<&mut Lane> {
        match kind {
            Kind::Video => self.video.as_mut(),
            Kind::Audio => self.audio.as_mut(),
        }
    }

    /// A track of the stream: packets are given from `first` on, recorded from `from` on. In place of the one of its kind
    /// that was there.
    pub fn add_track(&mut self, kind: Kind, first: u64, from: u64, epoch: u32) {
        let resumes = self.resumes;
        let before = match kind {
            Kind::Video => self.video.take(),
            Kind::Audio => self.audio.take(),
        };
        let mut lane = Lane {
            depacketizer: Depacketizer::new(kind, first, from, epoch),
            held: VecDeque::new(),
            format: None,
            latest: None,
            packet_at: None,
            interval_ns: if kind == Kind::Video { 33_000_000 } else { 20_000_000 },
            epoch,
            cause: resumes,
            skips: false,
        };
        if let Some(before) = before {
            (lane.held, lane.format, lane.latest) = (before.held, before.format, before.latest);
            (lane.interval_ns, lane.cause) = (before.interval_ns, Some(Reason::PublisherAway));
        }
        match kind {
            Kind::Video => self.video = Some(lane),
            Kind::Audio => self.audio = Some(lane),
        }
    }

    pub fn on_packet(&mut self, kind: Kind, meta: &SlotMeta, payload: &[u8]) {
        let Some(lane) = self.lane(kind).filter(|_| meta.codec.kind() == kind) else { return };
        lane.packet_at = lane.packet_at.max(Some(meta.arrival));
        lane.depacketizer.push(meta, payload);
    }

    /// Another publisher from packet `from` on.
    pub fn on_epoch(&mut self, kind: Kind, from: u64, epoch: u32) {
        if let Some(lane) = self.lane(kind) {
            lane.depacketizer.begin_epoch(from, epoch);
        }
    }

    pub fn on_report(&mut self, kind: Kind, epoch: u32, mapping: &SrMapping) {
        self.timeline.on_report(kind, epoch, mapping);
    }

    /// The reel went on without its reader: it goes on at `index`.
    pub fn on_behind(&mut self, kind: Kind, index: u64, now: Time) {
        // What it has is all that comes of what was before.
        self.unpack(kind, now, true);
        if let Some(lane) = self.lane(kind) {
            lane.depacketizer.skip_to(index);
            lane.cause = Some(Reason::Behind);
        }
    }

    pub fn dropped(&self) -> Dropped {
        let both = [&self.video, &self.audio].into_iter().flatten().map(|lane| lane.depacketizer.dropped());
        both.fold(Dropped::default(), |sum, one| Dropped {
            frames: sum.frames + one.frames,
            packets: sum.packets + one.packets,
        })
    }

    /// What is ready. `drain`: the run ends, what is there goes out.
    pub fn poll(&mut self, now: Time, drain: bool) -> Option<Output> {
        for kind in [Kind::Audio, Kind::Video] {
            self.unpack(kind, now, drain);
        }
        self.ask(now);
        while let Some(cut) = self.cut(now, drain) {
            self.write(cut);
        }
        self.outputs.pop_front()
    }

    fn unpack(&mut self, kind: Kind, now: Time, drain: bool) {
        while let Some(unpacked) = self.lane(kind).and_then(|lane| lane.depacketizer.poll(now, drain)) {
            match unpacked {
                Unpacked::Frame(frame) => self.take(kind, frame),
                Unpacked::Broken | Unpacked::Missing => {
                    if let Some(lane) = self.lane(kind).filter(|_| unpacked == Unpacked::Broken) {
                        lane.cause = lane.cause.or(Some(Reason::Loss));
                    }
                    self.wanted_since = Some(now - REQUEST_PATIENCE);
                }
            }
        }
    }

    /// Asks for a keyframe while there is none to go on with.
    fn ask(&mut self, now: Time) {
        let wants = self.video.as_ref().is_some_and(|lane| {
            let comes = lane.packet_at.is_some_and(|at| now.since(at) < REQUEST_PATIENCE);
            comes && (lane.depacketizer.wants_keyframe() || lane.skips)
        });
        if !wants {
            self.wanted_since = None;
            return;
        }
        let since = *self.wanted_since.get_or_insert(now);
        let may = self.asked.is_none_or(|asked| now.since(asked) >= REQUEST_INTERVAL);
        if may && now.since(since) >= REQUEST_PATIENCE {
            self.asked = Some(now);
            self.outputs.push_back(Output::Note(Note::WantKeyframe));
        }
    }

    fn take(&mut self, kind: Kind, frame: Frame) {
        let time = self.timeline.place(kind, frame.epoch, frame.codec.clock_rate(), frame.timestamp, frame.arrival);
        let (origin, floor) = (self.origin, self.floor_ns);
        // Sound leads where there is no picture.
        let has_picture = self.file.as_ref().is_some_and(|file| file.video.is_some());
        let leads = kind == Kind::Video || self.video.as_ref().is_none_or(|lane| lane.latest.is_none() && !has_picture);
        let others = match kind {
            Kind::Video => self.audio.as_ref(),
            Kind::Audio => self.video.as_ref(),
        };
        let others_latest = others.and_then(|lane| lane.latest).map_or(i64::MIN, |(time, _)| time);
        let Some(lane) = self.lane(kind) else { return };
        let is_written = origin.is_some_and(|origin| time < origin.saturating_add_unsigned(floor));
        if is_written || (lane.skips && !frame.keyframe) {
            lane.skips = kind == Kind::Video;
            return;
        }
        lane.skips = false;
        let is_other = std::mem::replace(&mut lane.epoch, frame.epoch) != frame.epoch;
        if is_other {
            lane.cause = lane.cause.or(Some(Reason::PublisherAway));
        }
        let before = lane.latest.map(|(time, _)| time + lane.interval_ns);
        let resumed_at = origin.map(|origin| origin.saturating_add_unsigned(floor)).filter(|_| floor > 0);
        let expected = before.or(resumed_at);
        let mut is_backwards = false;
        let mut gap = None;
        if let Some(expected) = expected {
            let hole = time - expected;
            let is_silence = hole > SILENCE_NS && time.saturating_sub(others_latest) > SILENCE_NS;
            let reason = lane.cause.or(is_silence.then_some(Reason::PublisherAway));
            // Longer than two frames.
            gap = reason.filter(|_| leads && hole > lane.interval_ns).map(|reason| (expected, hole, reason));
        }
        lane.cause = None;
        if let Some((latest, _)) = lane.latest {
            let step = time - latest;
            is_backwards = step < 0;
            if (1..1_000_000_000).contains(&step) && !is_other && gap.is_none() {
                lane.interval_ns = (7 * lane.interval_ns + step) / 8;
            }
        }
        lane.latest = Some((lane.latest.map_or(time, |(latest, _)| latest.max(time)), frame.arrival));
        if lane.held.len() >= HELD_FRAMES_MAX {
            lane.held.pop_front();
        }
        let Frame { timestamp, arrival, codec, epoch, keyframe, data, .. } = frame;
        lane.held.push_back(Held { time, timestamp, arrival, codec, epoch, keyframe, data });
        self.gaps.extend(gap);
        if is_backwards && !std::mem::replace(&mut self.has_warned, true) {
            let detail = "the publisher sends pictures in another order than they are shown (B-frames): switch them off in the \
                          encoder; browsers cannot show them live"
                .to_owned();
            self.outputs.push_back(Output::Note(Note::Warning { code: "b_frames", detail }));
        }
    }

    /// Where the next piece ends, if it is time.
    fn cut(&self, now: Time, drain: bool) -> Option<Cut> {
        let pictures = self.video.iter().flat_map(|lane| &lane.held);
        let sounds = self.audio.iter().flat_map(|lane| &lane.held);
        let start = pictures.clone().chain(sounds.clone()).map(|held| held.time).min()?;
        let all = Cut { pictures: pictures.clone().count(), end: i64::MAX };
        if drain {
            return Some(all);
        }
        let is_fresh = |lane: &Option<Lane>| lane.as_ref().is_some_and(|lane| lane.is_fresh(now));
        if !is_fresh(&self.video) && !is_fresh(&self.audio) {
            // Nothing comes: what is there is written, unless a picture may still come to what has none.
            return Some(all);
        }
        if let Some((place, held)) = self.picture_cut(start) {
            let cut = Cut { pictures: place, end: held.time };
            let has_passed = |lane: &Lane| lane.latest.is_some_and(|(time, _)| time >= held.time);
            let is_late = now.since(held.arrival) >= HOLD;
            let is_forced = all.pictures >= HELD_FRAMES_MAX / 2;
            let is_ready = self.audio.as_ref().is_none_or(|lane| has_passed(lane)) || is_late || is_forced;
            return is_ready.then_some(cut);
        }
        if is_fresh(&self.video) {
            return None;
        }
        // Sound goes on by itself.
        let first = sounds.clone().next()?;
        let end = sounds.clone().find(|held| held.time - start >= PIECE_NS_MAX as i64)?;
        let is_first = self.file.is_none() && self.video.is_some() && all.pictures == 0;
        let wait = if is_first { PICTURE_WAIT } else { STALE };
        let waits = self.video.is_some() && now.since(if is_first { first.arrival } else { end.arrival }) < wait;
        (!waits || sounds.count() >= HELD_FRAMES_MAX / 2).then_some(Cut { pictures: all.pictures, end: end.time })
    }

    /// The picture that begins the next piece.
    fn picture_cut(&self, start: i64) -> Option<(usize, &Held)> {
        let held = &self.video.as_ref()?.held;
        let first = held.front()?;
        held.iter().enumerate().skip(1).find(|(_, picture)| {
            let length = picture.time - start;
            picture.codec != first.codec
                || (picture.keyframe && length >= PIECE_NS_MIN as i64)
                || length >= PIECE_NS_MAX as i64
        })
    }

    fn write(&mut self, cut: Cut) {
        let first = !self.timeline.is_committed();
        if first {
            self.place_again();
        }
        // Placed again, pictures may have moved.
        let next = self.video.as_ref().and_then(|lane| lane.held.get(cut.pictures)).map(|held| held.time);
        let end = next.unwrap_or(cut.end);
        let (mut pictures, mut sounds) = (Vec::new(), Vec::new());
        let mut until = i64::MIN;
        if let Some(lane) = &mut self.video {
            pictures.extend(lane.held.drain(..cut.pictures.min(lane.held.len())));
            until = pictures.last().map_or(until, |last| last.time + lane.interval_ns);
        }
        if let Some(lane) = &mut self.audio {
            let count = lane.held.iter().take_while(|held| held.time < end).count();
            sounds.extend(lane.held.drain(..count));
            until = sounds.last().map_or(until, |last| until.max(last.time + lane.interval_ns));
        }
        // Whole silence is not the last picture's.
        if end != i64::MAX && end - until < SILENCE_NS {
            until = end;
        }
        self.timeline.commit();
        self.emit(pictures, sounds, until);
    }

    /// Nothing is written yet: all that is known by now counts for all.
    fn place_again(&mut self) {
        self.timeline.begin_again();
        for (kind, lane) in [(Kind::Video, &mut self.video), (Kind::Audio, &mut self.audio)] {
            let Some(lane) = lane else { continue };
            let epoch = lane.epoch;
            for held in lane.held.iter_mut().filter(|held| held.epoch == epoch) {
                held.time = self.timeline.place_again(kind, held.timestamp);
            }
            lane.latest = lane.held.back().map(|held| (held.time, held.arrival)).or(lane.latest);
        }
    }

    fn emit(&mut self, mut pictures: Vec<Held>, mut sounds: Vec<Held>, until: i64) {
        let begins = self.begin_file(&mut pictures, &mut sounds);
        let Some(start) = pictures.iter().chain(&sounds).map(|held| held.time).min() else { return };
        let origin = *self.origin.get_or_insert(start);
        let since = |time: i64| u64::try_from(time - origin).unwrap_or(0);
        for (at, length, reason) in std::mem::take(&mut self.gaps) {
            let (at_ns, length_ns) = (since(at), u64::try_from(length).unwrap_or(0));
            self.outputs.push_back(Output::Note(Note::Gap { at_ns, length_ns, reason }));
        }
        let start_ns = since(start);
        let gap_ns = self.until_ns.map(|until| start_ns.saturating_sub(until)).filter(|gap| *gap >= MARK_NS);
        let until_ns = since(until).max(start_ns);
        self.until_ns = Some(until_ns);
        let sample = |kind: Kind| {
            move |held: Held| Sample { kind, time_ns: since(held.time), keyframe: held.keyframe, data: held.data }
        };
        let samples: Vec<Sample> =
            pictures.into_iter().map(sample(Kind::Video)).chain(sounds.into_iter().map(sample(Kind::Audio))).collect();
        if let Some(formats) = &begins {
            let video = formats.iter().find(|format| format.codec.kind() == Kind::Video).map(|format| format.codec);
            let has_audio = formats.iter().any(|format| format.codec.kind() == Kind::Audio);
            self.file = Some(OpenFile { video, has_audio, start_ns, bytes: 0, samples: 0 });
        }
        if let Some(file) = &mut self.file {
            file.bytes += samples.iter().map(|sample| sample.data.len() as u64).sum::<u64>();
            file.samples += samples.len() as u64;
        }
        self.outputs.push_back(Output::Piece(Piece { begins, samples, start_ns, until_ns, gap_ns, start_at_ns: start }));
    }

    /// The tracks of a new file, if these frames need one. What no file can take is left out.
    fn begin_file(&mut self, pictures: &mut Vec<Held>, sounds: &mut Vec<Held>) -> Option<Vec<TrackFormat>> {
        let codec = pictures.first().map(|first| first.codec);
        let file = self.file.as_ref();
        let is_new = file.is_none_or(|file| {
            (codec.is_some() && file.video != codec) || (!sounds.is_empty() && !file.has_audio)
        });
        let is_full = file.is_some_and(|file| {
            let start = pictures.first().or(sounds.first()).map_or(0, |held| held.time - self.origin.unwrap_or(held.time));
            let age = u64::try_from(start).unwrap_or(0).saturating_sub(file.start_ns) / 1_000_000_000;
            let exceeds = |value: u64, most: u64| most > 0 && value >= most;
            exceeds(file.bytes, self.bounds.file_bytes_max)
                || exceeds(age, self.bounds.file_seconds_max)
                || file.samples >= FILE_SAMPLES_MAX as u64 / 2
        });
        let has_picture = file.is_some_and(|file| file.video.is_some());
        let can_begin = pictures.first().map_or(!has_picture, |first| first.keyframe);
        if !is_new && !(is_full && can_begin) {
            return None;
        }
        let mut formats = Vec::new();
        if let (Some(first), Some(lane)) = (pictures.first(), &mut self.video) {
            let format = if first.keyframe { track_format(first.codec, &first.data) } else { None };
            match format {
                Some(format) => {
                    lane.format = Some(format.clone());
                    formats.push(format);
                }
                None => pictures.clear(),
            }
        }
        if let Some(lane) = &mut self.audio {
            if let Some(first) = sounds.first() {
                lane.format = track_format(first.codec, &first.data).or(lane.format.take());
            }
            formats.extend(lane.format.clone());
        }
        let gives = |kind: Kind, frames: &[Held]| !frames.is_empty() && formats.iter().any(|format| format.codec.kind() == kind);
        if file.is_some() && !gives(Kind::Video, pictures) && has_picture {
            // A file with a picture is not left for one without, as long as the picture may come back.
            return None;
        }
        (gives(Kind::Video, pictures) || gives(Kind::Audio, sounds)).then_some(formats)
    }
}

#[cfg(test)]
mod tests;

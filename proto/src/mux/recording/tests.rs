//! Goal: what a publisher sent stands in the pieces once, in its time, and what is missing is said.
//! Method: a reel's packets of sound and pictures made here, given as a recorder reads them; the pieces are counted.

use super::*;
use crate::mux::container::{Container, Muxer};
use crate::mux::matroska::Clip;
use crate::mux::packetize;
use crate::stream::reel::SlotFlags;

const MS: u64 = 1_000_000;

/// Packets of one track as they come.
struct Source {
    codec: Codec,
    index: u64,
    frames: Vec<(bool, Vec<u8>)>,
}

impl Source {
    fn new(codec: Codec) -> Source {
        let file: &[u8] = match codec {
            Codec::Vp9 => include_bytes!("../../wire/payload/fixtures/vp9.webm"),
            Codec::Av1 => include_bytes!("../../wire/payload/fixtures/av1.mkv"),
            _ => return Source { codec, index: 128, frames: vec![(true, vec![0xFC, 1, 2, 3])] },
        };
        let clip = Clip::parse(file).unwrap();
        let frames = clip.frames.iter().filter(|frame| frame.track == Kind::Video);
        Source { codec, index: 128, frames: frames.map(|frame| (frame.keyframe, frame.data.to_vec())).collect() }
    }

    /// Frame `number` of the clip, which repeats (15 pictures to a keyframe), at `at`.
    fn packets(&mut self, number: u64, timestamp: u32, at: u64) -> Vec<(SlotMeta, Vec<u8>)> {
        let (keyframe, data) = self.frames[number as usize % self.frames.len()].clone();
        let mut payloads: Vec<(Vec<u8>, bool)> = Vec::new();
        let push = |payload: &[u8], last: bool| payloads.push((payload.to_vec(), last));
        match self.codec {
            Codec::Vp9 => packetize::vp9(&data, keyframe, number as u16 & 0x7FFF, push),
            Codec::Av1 => packetize::av1(&data, keyframe, push),
            _ => assert!(packetize::opus(&data, push)),
        }
        let mut packets = Vec::new();
        for (place, (payload, last)) in payloads.into_iter().enumerate() {
            let flags = SlotFlags::NONE.with_if(place == 0, SlotFlags::FRAME_START).with_if(last, SlotFlags::FRAME_END);
            packets.push((SlotMeta { index: self.index, timestamp, arrival: Time(at), flags, codec: self.codec, layer: 0 }, payload));
            self.index += 1;
        }
        packets
    }
}

#[derive(Default)]
struct Taken {
    pieces: Vec<Piece>,
    notes: Vec<Note>,
}

impl Taken {
    fn from(&mut self, recording: &mut Recording, now: Time, drain: bool) {
        while let Some(output) = recording.poll(now, drain) {
            match output {
                Output::Piece(piece) => self.pieces.push(piece),
                Output::Note(note) => self.notes.push(note),
            }
        }
    }
    fn times(&self, kind: Kind) -> Vec<u64> {
        let samples = self.pieces.iter().flat_map(|piece| &piece.samples);
        samples.filter(|sample| sample.kind == kind).map(|sample| sample.time_ns).collect()
    }
    fn gaps(&self) -> Vec<(u64, u64, Reason)> {
        let gaps = self.notes.iter().filter_map(|note| match note {
            Note::Gap { at_ns, length_ns, reason } => Some((at_ns / MS, length_ns / MS, *reason)),
            _ => None,
        });
        gaps.collect()
    }
}

/// Sends from `from` to `to` (milliseconds); `keep` says which packets arrive, by kind and frame.
struct Sender {
    video: Option<Source>,
    audio: Option<Source>,
    taken: Taken,
    epoch: u32,
}

const BASE: u64 = 1_000_000 * MS;

impl Sender {
    fn new(video: Option<Codec>, audio: bool) -> Sender {
        let audio = audio.then(|| Source::new(Codec::Opus));
        Sender { video: video.map(Source::new), audio, taken: Taken::default(), epoch: 1 }
    }
    fn begin(&self, recording: &mut Recording) {
        if let Some(video) = &self.video {
            recording.add_track(Kind::Video, video.index, video.index, self.epoch);
        }
        if let Some(audio) = &self.audio {
            recording.add_track(Kind::Audio, audio.index, audio.index, self.epoch);
        }
    }
    fn send(&mut self, recording: &mut Recording, from: u64, to: u64, keep: impl Fn(Kind, u64) -> bool) {
        for ms in from..to {
            let at = BASE + ms * MS;
            let (number, due) = (ms * 30 / 1_000, (ms * 30 / 1_000) * 1_000 / 30 == ms || ms * 30 % 1_000 < 30);
            if let (Some(video), true) = (&mut self.video, due) {
                let first = video.index;
                for (meta, payload) in video.packets(number, number as u32 * 3_000, at) {
                    if meta.index > first + 1 || keep(Kind::Video, number) {
                        recording.on_packet(Kind::Video, &meta, &payload);
                    }
                }
            }
            if let (Some(audio), 0) = (&mut self.audio, ms % 20) {
                for (meta, payload) in audio.packets(ms / 20, ms as u32 * 48, at) {
                    if keep(Kind::Audio, ms / 20) {
                        recording.on_packet(Kind::Audio, &meta, &payload);
                    }
                }
            }
            if ms % 10 == 0 {
                self.taken.from(recording, Time(at), false);
            }
        }
    }
    fn end(&mut self, recording: &mut Recording, at: u64) {
        self.taken.from(recording, Time(BASE + at * MS), true);
    }
}

fn check_order(taken: &Taken) {
    for kind in [Kind::Video, Kind::Audio] {
        assert!(taken.times(kind).windows(2).all(|pair| pair[1] > pair[0]));
    }
    for pair in taken.pieces.windows(2) {
        assert!(pair[1].start_ns >= pair[0].start_ns && pair[0].until_ns <= pair[1].start_ns + 5 * MS);
    }
}

#[test]
fn every_frame_stands_in_a_piece_once() {
    for codec in [Codec::Vp9, Codec::Av1] {
        let mut recording = Recording::new(Bounds::default(), None);
        let mut sender = Sender::new(Some(codec), true);
        sender.begin(&mut recording);
        sender.send(&mut recording, 0, 10_000, |_, _| true);
        // A second is the most that is not written.
        let written = sender.taken.pieces.last().unwrap().until_ns;
        assert!(written >= 8_400 * MS, "{}", written / MS);
        sender.end(&mut recording, 10_000);
        let taken = &sender.taken;
        assert_eq!((taken.times(Kind::Video).len(), taken.times(Kind::Audio).len()), (300, 500), "{codec:?}");
        check_order(taken);
        assert_eq!(taken.notes, []);
        assert_eq!(taken.pieces.iter().filter(|piece| piece.begins.is_some()).count(), 1);
        assert_eq!(taken.pieces[0].begins.as_ref().unwrap().len(), 2);
        assert!(taken.pieces.iter().all(|piece| piece.samples[0].keyframe && piece.gap_ns.is_none()));
        assert!((8..=12).contains(&taken.pieces.len()), "{}", taken.pieces.len());
        assert_eq!(taken.pieces[0].start_ns, 0);
        assert!(taken.times(Kind::Video)[299].abs_diff(299 * 1_000 * MS / 30) <= 2 * MS);
        // The containers take what comes out.
        let mut muxer = Muxer::new(Container::Mp4, taken.pieces[0].begins.as_ref().unwrap(), 1);
        let mut file = Vec::new();
        muxer.header(&mut file);
        taken.pieces.iter().for_each(|piece| muxer.fragment(&piece.samples, piece.until_ns, piece.gap_ns, &mut file));
        let contents = crate::mux::finish::inspect(&mut file.as_slice()).unwrap();
        assert_eq!((contents.video_frames, contents.whole_length), (300, file.len() as u64));
    }
}

#[test]
fn a_lost_picture_is_a_gap_while_sound_goes_on() {
    let mut recording = Recording::new(Bounds::default(), None);
    let mut sender = Sender::new(Some(Codec::Vp9), true);
    sender.begin(&mut recording);
    sender.send(&mut recording, 0, 10_000, |kind, number| kind == Kind::Audio || number != 95);
    sender.end(&mut recording, 10_000);
    let taken = &sender.taken;
    // Pictures 95 to 104; 105 is a keyframe.
    assert_eq!((taken.times(Kind::Video).len(), taken.times(Kind::Audio).len()), (290, 500));
    // The next keyframe was there before the lost packet was given up.
    assert!(!taken.notes.contains(&Note::WantKeyframe));
    let [(at, length, Reason::Loss)] = taken.gaps()[..] else { panic!("{:?}", taken.gaps()) };
    assert!(at.abs_diff(95 * 1_000 / 30) < 10 && length.abs_diff(333) < 10, "{at} {length}");
    check_order(taken);
}

#[test]
fn a_wish_is_repeated_every_two_seconds_and_no_faster() {
    let mut recording = Recording::new(Bounds::default(), None);
    let mut sender = Sender::new(Some(Codec::Vp9), false);
    sender.begin(&mut recording);
    // No keyframe but the first one ever comes whole.
    sender.send(&mut recording, 0, 20_000, |_, number| number == 0 || number % 15 != 0);
    let wishes = sender.taken.notes.iter().filter(|note| **note == Note::WantKeyframe).count();
    assert!((8..=10).contains(&wishes), "{wishes}");
}

#[test]
fn a_publisher_that_was_away_leaves_a_gap_of_its_length() {
    let mut recording = Recording::new(Bounds::default(), None);
    let mut sender = Sender::new(Some(Codec::Vp9), true);
    sender.begin(&mut recording);
    sender.send(&mut recording, 0, 4_000, |_, _| true);
    // Nothing comes for six seconds; what was there is written meanwhile.
    for ms in (4_000..10_000).step_by(10) {
        sender.taken.from(&mut recording, Time(BASE + ms * MS), false);
    }
    assert_eq!(sender.taken.times(Kind::Video).len(), 120);
    recording.on_epoch(Kind::Video, sender.video.as_ref().unwrap().index, 2);
    recording.on_epoch(Kind::Audio, sender.audio.as_ref().unwrap().index, 2);
    sender.send(&mut recording, 10_000, 14_000, |_, _| true);
    sender.end(&mut recording, 14_000);
    let taken = &sender.taken;
    assert_eq!((taken.times(Kind::Video).len(), taken.times(Kind::Audio).len()), (240, 400));
    let [(at, length, Reason::PublisherAway)] = taken.gaps()[..] else { panic!("{:?}", taken.gaps()) };
    assert!(at.abs_diff(4_000) <= 40 && length.abs_diff(6_000) <= 40, "{at} {length}");
    let marked: Vec<u64> = taken.pieces.iter().filter_map(|piece| piece.gap_ns).collect();
    assert!(marked.len() == 1 && (marked[0] / MS).abs_diff(6_000) <= 60, "{marked:?}");
    assert!(taken.times(Kind::Video)[120].abs_diff(10_000 * MS) <= 5 * MS);
    check_order(taken);
}

#[test]
fn another_codec_is_another_file_of_the_same_timeline() {
    let mut recording = Recording::new(Bounds::default(), None);
    let mut sender = Sender::new(Some(Codec::Vp9), true);
    sender.begin(&mut recording);
    sender.send(&mut recording, 0, 3_000, |_, _| true);
    let index = sender.video.as_ref().unwrap().index;
    sender.video = Some(Source { index, ..Source::new(Codec::Av1) });
    recording.on_epoch(Kind::Video, index, 2);
    sender.send(&mut recording, 3_000, 6_000, |_, _| true);
    sender.end(&mut recording, 6_000);
    let taken = &sender.taken;
    let files: Vec<(Codec, u64)> = taken
        .pieces
        .iter()
        .filter_map(|piece| Some((piece.begins.as_ref()?.first()?.codec, piece.start_ns / MS)))
        .collect();
    assert_eq!(files.iter().map(|(codec, _)| *codec).collect::<Vec<_>>(), [Codec::Vp9, Codec::Av1]);
    assert!(files[1].1.abs_diff(3_000) <= 40, "{files:?}");
    assert_eq!(taken.times(Kind::Video).len(), 180);
    assert_eq!(taken.times(Kind::Audio).len(), 300);
}

#[test]
fn files_end_at_their_bounds_and_begin_at_keyframes() {
    for bounds in [Bounds { file_seconds_max: 3, file_bytes_max: 0 }, Bounds { file_seconds_max: 0, file_bytes_max: 60_000 }] {
        let mut recording = Recording::new(bounds, None);
        let mut sender = Sender::new(Some(Codec::Vp9), true);
        sender.begin(&mut recording);
        sender.send(&mut recording, 0, 20_000, |_, _| true);
        sender.end(&mut recording, 20_000);
        let begins: Vec<&Piece> = sender.taken.pieces.iter().filter(|piece| piece.begins.is_some()).collect();
        assert!(begins.len() >= 3, "{}", begins.len());
        assert!(begins.iter().all(|piece| piece.samples[0].keyframe));
        assert_eq!(sender.taken.times(Kind::Video).len(), 600);
        if bounds.file_seconds_max > 0 {
            let lengths: Vec<u64> = begins.windows(2).map(|pair| (pair[1].start_ns - pair[0].start_ns) / MS).collect();
            assert!(lengths.iter().all(|length| (3_000..=4_100).contains(length)), "{lengths:?}");
        }
    }
}

#[test]
fn sound_alone_is_recorded_too() {
    let mut recording = Recording::new(Bounds::default(), None);
    let mut sender = Sender::new(None, true);
    sender.begin(&mut recording);
    sender.send(&mut recording, 0, 5_000, |_, _| true);
    assert!(sender.taken.pieces.len() >= 3);
    sender.end(&mut recording, 5_000);
    assert_eq!(sender.taken.times(Kind::Audio).len(), 250);
    assert_eq!(sender.taken.pieces[0].begins.as_ref().unwrap()[0].codec, Codec::Opus);
    check_order(&sender.taken);
}

#[test]
fn a_camera_that_comes_later_begins_a_file_with_both() {
    let mut recording = Recording::new(Bounds::default(), None);
    let mut sender = Sender::new(None, true);
    sender.begin(&mut recording);
    sender.send(&mut recording, 0, 4_000, |_, _| true);
    sender.video = Some(Source::new(Codec::Vp9));
    recording.add_track(Kind::Video, 128, 128, 1);
    sender.send(&mut recording, 4_000, 8_000, |_, _| true);
    sender.end(&mut recording, 8_000);
    let begins: Vec<usize> = sender.taken.pieces.iter().filter_map(|piece| Some(piece.begins.as_ref()?.len())).collect();
    assert_eq!(begins, [1, 2]);
    assert_eq!((sender.taken.times(Kind::Video).len(), sender.taken.times(Kind::Audio).len()), (120, 400));
}

#[test]
fn a_later_run_goes_on_in_the_same_file_behind_what_is_written() {
    let mut recording = Recording::new(Bounds::default(), None);
    let mut sender = Sender::new(Some(Codec::Vp9), true);
    sender.begin(&mut recording);
    sender.send(&mut recording, 0, 5_000, |_, _| true);
    let end_ns = sender.taken.pieces.last().unwrap().until_ns;
    let file = recording.file.clone();
    // Killed. The reel still has what came since 3,000; the next run reads it again.
    assert!(end_ns > 3_500 * MS);
    let resumed = Resumed { origin_ns: BASE as i64, end_ns, file, reason: Reason::Restart };
    let mut second = Recording::new(Bounds::default(), Some(resumed));
    let mut again = Sender::new(Some(Codec::Vp9), true);
    again.begin(&mut second);
    again.send(&mut second, 3_000, 10_000, |_, _| true);
    again.end(&mut second, 10_000);
    assert!(again.taken.pieces.iter().all(|piece| piece.begins.is_none()));
    assert!(again.taken.pieces[0].start_ns >= end_ns);
    assert!(again.taken.pieces[0].samples[0].keyframe);
    let times = again.taken.times(Kind::Video);
    assert!(times[0] < end_ns + 600 * MS, "the next keyframe is half a second away at most");
    assert!(times.last().unwrap().abs_diff(9_967 * MS) <= 3 * MS, "{}", times.last().unwrap() / MS);
    for (_, length, reason) in again.taken.gaps() {
        assert!(reason == Reason::Restart && length < 600);
    }
}

#[test]
fn a_reader_that_fell_behind_says_so() {
    let mut recording = Recording::new(Bounds::default(), None);
    let mut sender = Sender::new(Some(Codec::Vp9), true);
    sender.begin(&mut recording);
    sender.send(&mut recording, 0, 3_000, |_, _| true);
    // Stopped for five seconds: the reel goes on without it.
    let mut unread = Recording::new(Bounds::default(), None);
    sender.send(&mut unread, 3_000, 8_000, |_, _| true);
    let now = Time(BASE + 8_000 * MS);
    recording.on_behind(Kind::Video, sender.video.as_ref().unwrap().index, now);
    recording.on_behind(Kind::Audio, sender.audio.as_ref().unwrap().index, now);
    sender.send(&mut recording, 8_000, 12_000, |_, _| true);
    sender.end(&mut recording, 12_000);
    let [(at, length, Reason::Behind)] = sender.taken.gaps()[..] else { panic!("{:?}", sender.taken.gaps()) };
    assert!(at.abs_diff(3_000) <= 100 && length.abs_diff(5_000) <= 100, "{at} {length}");
    assert_eq!(sender.taken.times(Kind::Video).len(), 90 + 120);
    assert!(sender.taken.pieces.iter().any(|piece| piece.gap_ns.is_some_and(|gap| (gap / MS).abs_diff(5_000) <= 150)));
}

/// Sound that takes 300 ms longer than pictures stands in the piece of its time all the same.
#[test]
fn a_track_that_is_behind_is_waited_for() {
    use crate::time::NtpTime;
    let mut recording = Recording::new(Bounds::default(), None);
    let (mut video, mut audio) = (Source::new(Codec::Vp9), Source::new(Codec::Opus));
    recording.add_track(Kind::Video, 128, 128, 1);
    recording.add_track(Kind::Audio, 128, 128, 1);
    for kind in [Kind::Video, Kind::Audio] {
        let mapping = SrMapping { ntp: NtpTime(0xE900_0000_0000_0000), timestamp: 0, arrival: Time(BASE) };
        recording.on_report(kind, 1, &mapping);
    }
    let mut taken = Taken::default();
    for ms in (0..8_000u64).step_by(20) {
        let at = BASE + ms * MS;
        for (meta, payload) in video.packets(ms / 20, ms as u32 * 90, at) {
            recording.on_packet(Kind::Video, &meta, &payload);
        }
        if ms >= 300 {
            for (meta, payload) in audio.packets(ms / 20, (ms as u32 - 300) * 48, at) {
                recording.on_packet(Kind::Audio, &meta, &payload);
            }
        }
        taken.from(&mut recording, Time(at), false);
    }
    taken.from(&mut recording, Time(BASE + 8_000 * MS), true);
    for piece in &taken.pieces[1..] {
        let sounds: Vec<u64> =
            piece.samples.iter().filter(|sample| sample.kind == Kind::Audio).map(|sample| sample.time_ns).collect();
        assert!(sounds.iter().all(|time| (piece.start_ns..piece.until_ns + 5 * MS).contains(time)), "{} {sounds:?}", piece.start_ns);
        assert!(sounds.len() >= 10 || piece.until_ns > 7_000 * MS, "{} at {}", sounds.len(), piece.start_ns / MS);
    }
    // None begins before the one before it ends: its sound was there when it was cut.
    for pair in taken.pieces.windows(2) {
        assert!(pair[1].start_ns + 5 * MS >= pair[0].until_ns, "{} before {}", pair[1].start_ns / MS, pair[0].until_ns / MS);
    }
    assert_eq!((taken.times(Kind::Video).len(), taken.times(Kind::Audio).len()), (400, 385));
}

#[test]
fn what_is_held_is_bounded_when_one_track_never_comes() {
    let mut recording = Recording::new(Bounds::default(), None);
    let mut sender = Sender::new(Some(Codec::Vp9), true);
    sender.begin(&mut recording);
    // Sound without a picture: it is waited for, then the sound is recorded alone.
    sender.send(&mut recording, 0, 30_000, |kind, number| kind == Kind::Audio || number % 15 != 0);
    assert!(sender.taken.times(Kind::Audio).len() > 1_200, "{}", sender.taken.times(Kind::Audio).len());
}

fn wishes(taken: &Taken) -> usize {
    taken.notes.iter().filter(|note| **note == Note::WantKeyframe).count()
}

/// A recording that is begun in the middle of a stream: the reel's newest keyframe may be gone.
#[test]
fn a_keyframe_that_is_not_there_is_asked_for_at_once() {
    let mut sender = Sender::new(Some(Codec::Vp9), true);
    let mut recording = Recording::new(Bounds::default(), None);
    let video = sender.video.as_mut().unwrap();
    // Pictures 5 to 14 are coded from others.
    (0..5).for_each(|number| drop(video.packets(number, number as u32 * 3_000, BASE)));
    sender.begin(&mut recording);
    sender.send(&mut recording, 166, 266, |_, _| true);
    assert_eq!(wishes(&sender.taken), 1);
    // One that comes is asked for no more, and the recording begins at it.
    sender.send(&mut recording, 266, 4_266, |_, _| true);
    sender.end(&mut recording, 4_266);
    assert_eq!((wishes(&sender.taken), sender.taken.gaps()), (1, Vec::new()));
    let first = sender.taken.pieces.iter().flat_map(|piece| &piece.samples).find(|sample| sample.kind == Kind::Video);
    assert!(first.is_some_and(|first| first.keyframe));
}

/// Or it lacks a packet that was waited for long ago.
#[test]
fn a_keyframe_that_is_damaged_is_asked_for_at_once() {
    let mut video = Source::new(Codec::Vp9);
    let mut recording = Recording::new(Bounds::default(), None);
    recording.add_track(Kind::Video, video.index, video.index, 1);
    let now = BASE + TAP_WAIT.as_nanos() as u64;
    for number in 0..10 {
        let at = if number < 9 { BASE } else { now };
        for (meta, payload) in video.packets(number, number as u32 * 3_000, at).into_iter().skip(usize::from(number == 0)) {
            recording.on_packet(Kind::Video, &meta, &payload);
        }
    }
    let mut taken = Taken::default();
    taken.from(&mut recording, Time(now), false);
    assert_eq!(wishes(&taken), 1);
}

/// A publisher that begins by itself is not asked, whatever came before it in the reel.
#[test]
fn who_begins_with_a_keyframe_is_not_asked_for_one() {
    let mut sender = Sender::new(Some(Codec::Vp9), true);
    let mut recording = Recording::new(Bounds::default(), None);
    let video = sender.video.as_mut().unwrap();
    let first = video.index;
    // Begun at the second keyframe; of what came before it, which is given as well, some is missing for good.
    let at = |number| if number < 14 { BASE - TAP_WAIT.as_nanos() as u64 } else { BASE + 490 * MS };
    let before: Vec<(SlotMeta, Vec<u8>)> = (3..15).flat_map(|number| video.packets(number, number as u32 * 3_000, at(number))).collect();
    recording.add_track(Kind::Video, first, video.index, 1);
    for (meta, payload) in before.iter().filter(|(meta, _)| meta.index % 7 != 3) {
        recording.on_packet(Kind::Video, meta, payload);
    }
    sender.taken.from(&mut recording, Time(BASE + 495 * MS), false);
    sender.send(&mut recording, 500, 1_500, |_, _| true);
    sender.end(&mut recording, 1_500);
    assert!(!sender.taken.notes.contains(&Note::WantKeyframe), "{:?}", sender.taken.notes);
    assert!(sender.taken.times(Kind::Video).len() >= 28);
}

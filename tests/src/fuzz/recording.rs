//! A recording's file: fragments of any samples, then damage - with digests that are right again, or not - cuts and
//! pages of zeros. What is read back is inside the file, goes on, is closed, and is the same when it is read once more.
//! Keyframes of any bytes: a format that fits, or none.

use super::choices::Choices;
use crate::film::close;
use spillway_proto::id::{Codec, Kind};
use spillway_proto::limits::CODEC_PRIVATE_BYTES_MAX;
use spillway_proto::mux::codec_config::track_format;
use spillway_proto::mux::container::{Container, Muxer};
use spillway_proto::mux::finish::{InspectError, inspect, inspect_tail};
use spillway_proto::mux::mark::{Digest, MARK_BYTES, Mark};
use spillway_proto::mux::sample::{Sample, TrackFormat};

const FRAGMENTS_MAX: u64 = 5;
const SAMPLES_MAX: u64 = 8;

/// The first byte says which of three: any file, any keyframe, or operations.
pub fn recording_file(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, file)) => read(file),
        Some((1, keyframe)) => formats(keyframe),
        Some((_, operations)) => operate(&mut Choices::new(operations)),
        None => {}
    }
}

fn formats(keyframe: &[u8]) {
    for codec in (0..=u8::MAX).filter_map(Codec::from_u8) {
        if let Some(format) = track_format(codec, keyframe) {
            assert!(format.codec == codec && format.private.len() <= CODEC_PRIVATE_BYTES_MAX);
            assert_eq!(format.width == 0, codec == Codec::Opus);
        }
    }
}

fn operate(choices: &mut Choices) {
    let container = if choices.below(2) == 0 { Container::Mp4 } else { Container::WebM };
    let video = TrackFormat { codec: if container == Container::Mp4 { Codec::H264 } else { Codec::Vp8 }, width: 16, height: 16, private: vec![1; 7] };
    let audio = TrackFormat { codec: Codec::Opus, width: 0, height: 0, private: vec![0; 11] };
    let tracks = match choices.below(4) {
        0 => vec![video],
        1 => vec![audio],
        _ => vec![audio, video],
    };
    let mut muxer = Muxer::new(container, &tracks, choices.u64() % (1 << 42));
    let (mut file, mut marks) = (Vec::new(), Vec::new());
    muxer.header(&mut file);
    for _ in 0..choices.below(FRAGMENTS_MAX + 1) {
        let at = file.len();
        fragment(choices, &mut muxer, &mut file);
        if file.len() > at {
            marks.push(at);
        }
    }
    let contents = inspect(&mut file.as_slice()).expect("nothing is damaged yet");
    assert_eq!(contents.whole_length, file.len() as u64);
    assert_eq!(contents.muxer().as_ref(), Some(&muxer));
    if choices.below(2) == 1 {
        file = close(file.clone()).unwrap_or(file);
    }
    while !choices.is_over() {
        damage(choices, container, &marks, &mut file);
    }
    read(&file);
}

fn fragment(choices: &mut Choices, muxer: &mut Muxer, file: &mut Vec<u8>) {
    let mut samples = Vec::new();
    for _ in 0..choices.below(SAMPLES_MAX + 1) {
        let kind = if choices.below(2) == 0 { Kind::Video } else { Kind::Audio };
        // Close to each other, or an age away; half a century is still no recording.
        let time_ns = if choices.below(8) == 0 { choices.u64() >> 4 } else { u64::from(choices.u16()) * 100_000 };
        let length = choices.below(40) as usize;
        samples.push(Sample { kind, time_ns, keyframe: choices.below(2) == 1, data: choices.bytes(length).to_vec() });
    }
    let gap = (choices.below(4) == 0).then(|| choices.u64());
    muxer.fragment(&samples, u64::from(choices.u16()) * 100_000, gap, file);
}

fn damage(choices: &mut Choices, container: Container, marks: &[usize], file: &mut Vec<u8>) {
    let length = file.len() as u64;
    if length == 0 {
        // There is nothing to be damaged; the rest of the choices mean nothing.
        choices.bytes(usize::MAX);
        return;
    }
    match choices.below(5) {
        0 => file.truncate(choices.below(length) as usize),
        1 => file[choices.below(length) as usize] = choices.u8(),
        2 => {
            let at = choices.below(length) as usize;
            let end = (at + choices.below(512) as usize).min(file.len());
            file[at..end].fill(0);
        }
        3 => file.extend(choices.bytes(16)),
        _ => reseal(choices, container, marks, file),
    }
}

/// Changes a byte of a fragment, or a number of its mark, and makes both digests right.
fn reseal(choices: &mut Choices, container: Container, marks: &[usize], file: &mut [u8]) {
    let Some(at) = marks.get(choices.below(marks.len().max(1) as u64) as usize) else { return };
    let frame = if container == Container::Mp4 { 8 } else { 9 };
    let begin = at + frame + MARK_BYTES;
    let Some(mut mark) = file.get(at + frame..).and_then(|rest| rest.first_chunk()).and_then(Mark::parse) else { return };
    let Some(contents) = file.get_mut(begin..).and_then(|rest| rest.get_mut(..mark.length as usize)) else { return };
    match choices.below(8) {
        0 => mark.length = choices.u64() >> choices.below(64),
        1 => mark.until_ns = choices.u64(),
        2 => mark.key_ns = choices.u64(),
        3 => mark.sound_ns = choices.u64(),
        4 => (mark.video_floor, mark.audio_next) = (choices.u64(), choices.u64()),
        _ => {
            let place = choices.below(contents.len().max(1) as u64) as usize;
            if let Some(byte) = contents.get_mut(place) {
                *byte = choices.u8();
            }
        }
    }
    let mut digest = Digest::new();
    digest.update(contents);
    mark.digest = digest.finish();
    let mut bytes = Vec::new();
    mark.write(&mut bytes);
    file[at + frame..begin].copy_from_slice(&bytes);
}

fn read(file: &[u8]) {
    let tail = inspect_tail(&mut { file });
    let contents = match inspect(&mut { file }) {
        Ok(contents) => contents,
        Err(error) => return assert!(!matches!(error, InspectError::Read(_))),
    };
    let tail = tail.expect("whoever can read all can read the tail");
    // Files here are shorter than a tail.
    assert_eq!((tail.muxer(), tail.whole_length), (contents.muxer(), contents.whole_length));
    assert!(contents.whole_length <= file.len() as u64);
    if contents.is_final {
        assert!(contents.muxer().is_none() && contents.closing().is_none());
        return;
    }
    let mut longer = file[..contents.whole_length as usize].to_vec();
    let mut muxer = contents.muxer().expect("it is not closed");
    let sample = Sample { kind: muxer.tracks().first().map_or(Kind::Video, |track| track.codec.kind()), time_ns: contents.end_ns, keyframe: true, data: vec![1] };
    muxer.fragment(&[sample], contents.end_ns + 1, None, &mut longer);
    if !muxer.tracks().is_empty() && muxer.container() == Container::WebM {
        let again = inspect(&mut longer.as_slice()).expect("its beginning is the same");
        assert!(again.fragments > contents.fragments, "a run goes on behind what is whole");
    }
    if let Some(closed) = close(file.to_vec()) {
        let again = inspect(&mut closed.as_slice()).expect("closed by us");
        assert!(again.is_final);
        assert_eq!(again.whole_length, closed.len() as u64);
        let frames = (contents.video_frames + contents.audio_frames) as usize;
        assert!(closed.len() <= file.len() + 4_096 + 64 * frames, "an index is short");
    }
}

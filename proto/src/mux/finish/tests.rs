//! Goal: whatever end a recording came to, what was whole is read back, can go on and is closed; closing may be cut off
//! anywhere. Method: synthetic recordings of both containers, cut, zeroed, damaged and killed at every place.

use super::*;
use crate::id::{Codec, Kind};
use crate::limits::FRAGMENT_BYTES_MAX;
use crate::mux::sample::Sample;
use crate::rng::Rng;
use crate::wire::torture::torture;

const MS: u64 = 1_000_000;
const OPUS_20_MS: u8 = 0xF8;

fn tracks(container: Container) -> Vec<TrackFormat> {
    let codec = if container == Container::Mp4 { Codec::H264 } else { Codec::Vp8 };
    let video = TrackFormat { codec, width: 640, height: 360, private: vec![1, 66, 192, 30, 0xFF, 0xE0, 0] };
    vec![video, TrackFormat { codec: Codec::Opus, width: 0, height: 0, private: vec![0, 2, 0, 0, 0, 0, 0xBB, 0x80, 0, 0, 0] }]
}

fn picture(time_ns: u64, keyframe: bool, bytes: usize) -> Sample {
    // Other bytes in each, so that a fragment in another's place is seen.
    let data = (0..bytes).map(|at| (at as u64 * 7 + time_ns / MS) as u8 | 1).collect();
    Sample { kind: Kind::Video, time_ns, keyframe, data }
}
fn sound(time_ns: u64) -> Sample {
    Sample { kind: Kind::Audio, time_ns, keyframe: true, data: vec![OPUS_20_MS, (time_ns / MS) as u8, 7] }
}

/// One second from `begin_ms` on: 10 pictures and 50 packets of sound.
fn second(begin_ms: u64) -> Vec<Sample> {
    let pictures = (0..10).map(|place| picture((begin_ms + 100 * place) * MS, place == 0, 300));
    let sounds = (0..50).map(|place| sound((begin_ms + 20 * place) * MS));
    pictures.chain(sounds).collect()
}

struct Recording {
    muxer: Muxer,
    file: Vec<u8>,
    /// Where the header and each fragment end.
    ends: Vec<usize>,
}

fn begin(container: Container) -> Recording {
    let muxer = Muxer::new(container, &tracks(container), 1_700_000_000_123);
    let mut file = Vec::new();
    muxer.header(&mut file);
    Recording { muxer, ends: vec![file.len()], file }
}

impl Recording {
    fn fragment(&mut self, samples: &[Sample], until_ms: u64) {
        self.muxer.fragment(samples, until_ms * MS, None, &mut self.file);
        self.ends.push(self.file.len());
    }
}

fn recording(container: Container, seconds: u64) -> Recording {
    let mut recording = begin(container);
    for number in 0..seconds {
        recording.fragment(&second(1_000 * number), 1_000 * (number + 1));
    }
    recording
}

fn look(file: &[u8]) -> Contents {
    inspect(&mut { file }).unwrap()
}

/// The file at each step of closing it, as a kill would leave it.
fn closing_steps(mut file: Vec<u8>) -> Vec<Vec<u8>> {
    let closing = look(&file).closing().unwrap();
    file.truncate(closing.at as usize);
    let mut steps = vec![file.clone()];
    for length in [1, closing.append.len() / 2, closing.append.len()] {
        steps.push([&file[..], &closing.append[..length]].concat());
    }
    file.extend(&closing.append);
    for (at, bytes) in closing.then {
        file[at as usize..][..bytes.len()].copy_from_slice(&bytes);
        steps.push(file.clone());
    }
    steps
}
fn close(file: &[u8]) -> Vec<u8> {
    closing_steps(file.to_vec()).pop().unwrap()
}

const BOTH: [Container; 2] = [Container::Mp4, Container::WebM];

#[test]
fn what_was_written_is_read_back() {
    for container in BOTH {
        let recording = recording(container, 3);
        let contents = look(&recording.file);
        assert_eq!((contents.container, contents.is_final, contents.fragments), (container, false, 3));
        assert_eq!((contents.video_frames, contents.audio_frames, contents.end_ns), (30, 150, 3_000 * MS));
        assert_eq!((contents.started_unix_ms, contents.damaged), (1_700_000_000_123, 0));
        assert_eq!(contents.tracks, tracks(container));
        assert_eq!(contents.whole_length, recording.file.len() as u64);
        assert_eq!(contents.muxer().unwrap(), recording.muxer, "a run that goes on knows what this one knew");
        let tail = inspect_tail(&mut recording.file.as_slice()).unwrap();
        assert_eq!((tail.muxer(), tail.video_frames), (contents.muxer(), 30));
        assert_eq!(tail.closing(), None, "who saw only the tail has no index");
    }
}

#[test]
fn a_file_cut_anywhere_keeps_every_whole_fragment_and_goes_on() {
    for container in BOTH {
        let whole = recording(container, 4);
        for length in 0..whole.file.len() {
            let cut = &whole.file[..length];
            let fragments = whole.ends.iter().filter(|end| **end <= length).count();
            let Ok(contents) = inspect(&mut { cut }) else {
                assert_eq!(fragments, 0, "{container:?} {length}: the header is whole");
                continue;
            };
            assert_eq!(contents.fragments as usize, fragments - 1, "{container:?} {length}");
            assert_eq!(contents.whole_length as usize, whole.ends[fragments - 1]);
            // The next run writes what the one that was killed would have written.
            let mut muxer = contents.muxer().unwrap();
            let mut again = cut[..contents.whole_length as usize].to_vec();
            for number in fragments as u64 - 1..4 {
                muxer.fragment(&second(1_000 * number), 1_000 * (number + 1) * MS, None, &mut again);
            }
            assert!(again == whole.file, "{container:?} {length}");
        }
    }
}

#[test]
fn closing_may_be_killed_at_every_step_and_comes_to_the_same_end() {
    for container in BOTH {
        let steps = closing_steps(recording(container, 3).file);
        let last = steps.last().unwrap();
        for (number, step) in steps.iter().enumerate() {
            let contents = look(step);
            assert_eq!(contents.is_final, number + 1 == steps.len(), "{container:?} {number}");
            assert_eq!((contents.video_frames, contents.end_ns), (30, 3_000 * MS), "{container:?} {number}");
            if contents.is_final {
                assert_eq!((contents.whole_length, contents.muxer(), contents.closing()), (step.len() as u64, None, None));
            } else {
                assert!(close(step) == *last, "{container:?} {number}");
            }
        }
        // A closed file that lost its end is repaired like any other.
        for length in (last.len() - 200..last.len()).chain([last.len() / 2]) {
            let contents = look(&last[..length]);
            assert!(!contents.is_final, "{container:?} {length}");
            assert!(look(&close(&last[..length])).is_final);
        }
        assert!(close(&last[..last.len() - 1]) == *last);
    }
}

/// A power loss leaves pages of zeros where the last writes were.
#[test]
fn zeroed_pages_cost_the_fragments_they_are_in() {
    for container in BOTH {
        let whole = recording(container, 8);
        let mut rng = Rng::new(7);
        for _ in 0..300 {
            let mut file = whole.file.clone();
            let unsynced = whole.ends[5];
            for page in unsynced / 512..file.len() / 512 {
                if rng.below(4) == 0 {
                    let begin = (512 * page).max(unsynced);
                    file[begin..512 * (page + 1)].fill(0);
                }
            }
            let contents = look(&file);
            let is_whole = |number: usize| whole.file[whole.ends[number]..whole.ends[number + 1]] == file[whole.ends[number]..whole.ends[number + 1]];
            let intact = (0..8).filter(|number| is_whole(*number)).count();
            assert!(contents.fragments >= 5 && contents.fragments as usize <= intact, "{container:?}: {} of {intact}", contents.fragments);
            assert!(look(&close(&file)).is_final);
        }
    }
}

#[test]
fn a_damaged_fragment_inside_is_left_out_of_the_closed_file() {
    for container in BOTH {
        let mut file = recording(container, 4);
        let at = file.ends[2] - 5;
        file.file[at] ^= 1;
        let contents = look(&file.file);
        assert_eq!((contents.fragments, contents.damaged, contents.video_frames), (3, 1, 30), "{container:?}");
        assert_eq!(contents.whole_length, file.file.len() as u64);
        let steps = closing_steps(file.file);
        let closed = steps.last().unwrap();
        match container {
            Container::Mp4 => {
                // Two chunks of three each.
                let moov = &closed[look(&steps[0]).whole_length as usize..];
                assert_eq!(count(moov, b"co64"), [3, 3]);
            }
            Container::WebM => {
                let clip = crate::mux::matroska::Clip::parse(closed).unwrap();
                assert_eq!(clip.frames.len(), 180, "the second fragment has become a Void");
            }
        }
        // Nor is it counted there.
        let contents = look(closed);
        assert_eq!((contents.is_final, contents.fragments, contents.damaged, contents.video_frames), (true, 3, 1, 30), "{container:?}");
        for step in &steps[..steps.len() - 1] {
            assert!(close(step) == *closed, "{container:?}");
        }
    }
}

/// The counts in the full boxes of this type, wherever they stand.
fn count(moov: &[u8], kind: &[u8; 4]) -> Vec<u32> {
    let places = moov.windows(4).enumerate().filter(|(_, window)| *window == kind);
    places.map(|(at, _)| fmp4::u32_at(moov, at + 8).unwrap()).collect()
}

/// The words of a full box: its count, and what it counts.
fn table(moov: &[u8], kind: &[u8; 4], nth: usize) -> Vec<u32> {
    let (at, _) = moov.windows(4).enumerate().filter(|(_, window)| *window == kind).nth(nth).unwrap();
    let size = fmp4::u32_at(moov, at - 4).unwrap() as usize;
    moov[at + 8..at - 4 + size].chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect()
}

fn moov_of(file: &[u8]) -> Vec<u8> {
    look(file).closing().unwrap().append
}

#[test]
fn times_durations_and_offsets_stand_in_the_index_as_they_were_given() {
    let mut recording = begin(Container::Mp4);
    // Sound before pictures, neither at 0; a fragment of one picture; one without sound; one without pictures.
    recording.fragment(&[sound(40 * MS), sound(60 * MS), picture(70 * MS, true, 50), sound(80 * MS), sound(100 * MS)], 120);
    recording.fragment(&[picture(120 * MS, false, 60)], 150);
    recording.fragment(&[sound(120 * MS), sound(140 * MS)], 150);
    recording.fragment(&[picture(150 * MS, false, 70), picture(200 * MS, true, 80), sound(160 * MS)], 250);
    let moov = moov_of(&recording.file);
    assert_eq!(table(&moov, b"stts", 0), [4, 1, 4_500, 1, 2_700, 1, 4_500, 1, 4_500], "90,000 units a second, the last one apart");
    assert_eq!(table(&moov, b"stts", 1), [2, 6, 960, 1, 960]);
    assert_eq!(table(&moov, b"stsz", 0), [0, 4, 50, 60, 70, 80]);
    assert_eq!(table(&moov, b"stss", 0), [2, 1, 4]);
    assert_eq!(table(&moov, b"stsc", 0), [2, 1, 1, 1, 3, 2, 1]);
    // Nothing for 70 ms, 40 ms: in movie units of 1/720,000 s.
    for (nth, first) in [(0, 70 * 720), (1, 40 * 720)] {
        let edits = table(&moov, b"elst", nth);
        assert_eq!(edits[..5], [2, 0, first, u32::MAX, u32::MAX], "{edits:?}");
    }
    let contents = look(&recording.file);
    assert_eq!((contents.end_ns, contents.fragments), (250 * MS, 4));
}

#[test]
fn pictures_out_of_order_keep_both_their_times() {
    let mut recording = begin(Container::Mp4);
    // Decode order I P B B, twice.
    let order = |begin: u64| [0, 3, 1, 2].map(|place| picture((begin + place * 40) * MS, place == 0 && begin == 0, 10));
    recording.fragment(&order(0), 160);
    recording.fragment(&order(160), 320);
    let moov = moov_of(&recording.file);
    assert_eq!(table(&moov, b"stts", 0), [2, 7, 3_600, 1, 3_600]);
    let offsets: Vec<i32> = table(&moov, b"ctts", 0)[1..].chunks(2).flat_map(|run| vec![run[1] as i32; run[0] as usize]).collect();
    assert_eq!(offsets, [0, 7_200, -3_600, -3_600, 0, 7_200, -3_600, -3_600]);
}

#[test]
fn sound_has_no_holes() {
    for container in BOTH {
        let mut recording = begin(container);
        // One packet is missing, then 1,000 ms, then less than a packet; one comes too early.
        let times = [0, 20, 60, 80, 1_100, 1_130, 1_145, 1_165];
        recording.fragment(&times.map(|time| sound(time * MS)), 1_185);
        let contents = look(&recording.file);
        // 20 ms are one packet more; 1,000 ms are 8 of 120, 2 of 20; 10 ms too late is no hole.
        assert_eq!(contents.audio_frames, 8 + 1 + 10, "{container:?}");
        let contents = {
            recording.fragment(&[sound(3_600_000 * 3 * MS)], 3_600_000 * 3 + 20);
            look(&recording.file)
        };
        // An hour is filled at the most.
        assert_eq!(contents.audio_frames, 19 + 1 + 30_000);
        assert_eq!(contents.end_ns, (3_600_000 * 3 + 20) * MS);
    }
}

/// A sender's clock is slow by half a percent: no packet is late to the one before, all of them together are.
#[test]
fn sound_of_a_slow_clock_is_not_pulled_before_its_pictures() {
    let mut recording = begin(Container::Mp4);
    let sounds: Vec<_> = (0..1_000).map(|number| sound(number * 20_100_000)).collect();
    recording.fragment(&sounds, 20_100);
    // 100 ms are missing, in pieces of at least 15.
    let frames = look(&recording.file).audio_frames;
    assert!((1_005..=1_020).contains(&frames), "{frames}");
}

#[test]
fn sound_that_jitters_a_little_is_put_in_its_place() {
    let mut recording = begin(Container::Mp4);
    for number in 0..20 {
        let jitter = [0, 300_000, 900_000, 500_000];
        let sounds: Vec<_> = (0..50).map(|place| sound((1_000 * number + 20 * place) * MS + jitter[place as usize % 4])).collect();
        recording.fragment(&sounds, 1_000 * (number + 1));
    }
    let moov = moov_of(&recording.file);
    assert_eq!(table(&moov, b"stts", 0), [2, 999, 960, 1, 960], "one run, and the last one");
}

#[test]
fn a_fragment_that_is_long_becomes_several_clusters() {
    let mut recording = begin(Container::WebM);
    let pictures: Vec<_> = (0..8).map(|number| picture(number * 10_000 * MS, number == 0, 9)).collect();
    recording.fragment(&pictures, 80_000);
    let clip = crate::mux::matroska::Clip::parse(&close(&recording.file)).unwrap();
    let times: Vec<u64> = clip.frames.iter().map(|frame| frame.time_ns / MS).collect();
    assert_eq!(times, [0, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 70_000]);
    assert_eq!(clip.frames.iter().filter(|frame| frame.keyframe).count(), 1);
}

#[test]
fn a_mark_is_believed_as_a_whole_or_not_at_all() {
    let mark = Mark { sequence: 7, length: 900, start_ns: 1, until_ns: 2, key_ns: u64::MAX, video_frames: 3, ..Mark::default() };
    let bytes = |mark: &Mark| {
        let mut bytes = Vec::new();
        mark.write(&mut bytes);
        <[u8; MARK_BYTES]>::try_from(bytes).unwrap()
    };
    assert_eq!(Mark::parse(&bytes(&mark)), Some(mark));
    for at in 0..MARK_BYTES {
        let mut damaged = bytes(&mark);
        damaged[at] ^= 0x10;
        assert_eq!(Mark::parse(&damaged), None, "byte {at}");
    }
    // Whoever can make digests can write any number.
    let numbers = [
        Mark { length: 1 << 40, ..mark },
        Mark { start_ns: 1 << 62, ..mark },
        Mark { until_ns: u64::MAX, ..mark },
        Mark { sound_ns: 1 << 61, ..mark },
        Mark { video_floor: u64::MAX, ..mark },
        Mark { audio_next: u64::MAX, ..mark },
    ];
    assert!(numbers.iter().all(|mark| Mark::parse(&bytes(mark)).is_none()));
}

#[test]
fn samples_and_fragments_outside_the_file_are_refused() {
    let mut recording = recording(Container::Mp4, 2);
    // Without digests a cut fragment is seen by its length alone.
    let cut = recording.file.len() - 1;
    let contents = Inspector { file: &mut &recording.file[..cut] }.run(true, u64::MAX).unwrap();
    assert_eq!((contents.fragments, contents.whole_length as usize), (1, recording.ends[1]));
    // The size of a sample is changed, and the digest made right.
    let begin = recording.ends[1] + fmp4::MARK_BOX_BYTES;
    let mut mark = Mark::parse(recording.file[recording.ends[1] + 8..].first_chunk().unwrap()).unwrap();
    let place = recording.file[begin..].windows(8).position(|bytes| bytes[4..] == 300_u32.to_be_bytes()).unwrap();
    recording.file[begin + place + 5] = 0xFF;
    let mut digest = Digest::new();
    digest.update(&recording.file[begin..]);
    mark.digest = digest.finish();
    let mut bytes = Vec::new();
    mark.write(&mut bytes);
    recording.file[begin - MARK_BYTES..begin].copy_from_slice(&bytes);
    assert_eq!(inspect(&mut recording.file.as_slice()).unwrap_err(), InspectError::NotOurs);
}

#[test]
fn more_than_a_fragment_becomes_several() {
    let mut recording = begin(Container::Mp4);
    let mut samples: Vec<_> = (0..5).map(|number| picture(number * 100 * MS, number == 0, FRAGMENT_BYTES_MAX / 3)).collect();
    samples.push(picture(500 * MS, false, FRAGMENT_BYTES_MAX + 1));
    recording.fragment(&samples, 500);
    let contents = look(&recording.file);
    assert_eq!((contents.fragments, contents.video_frames, contents.end_ns), (2, 5, 500 * MS), "what is larger than any fragment is left out");
    assert_eq!(contents.whole_length, recording.file.len() as u64);
    let mut recording = begin(Container::WebM);
    recording.fragment(&(0..40_000).map(|number| picture(number * 10 * MS, false, 1)).collect::<Vec<_>>(), 400_000);
    assert_eq!(look(&recording.file).fragments, 3);
}

/// Bytes that stand somewhere in a very long file of zeros.
struct Sparse {
    parts: Vec<(u64, Vec<u8>)>,
    length: u64,
}

impl Bytes for Sparse {
    type Error = std::convert::Infallible;
    fn length(&mut self) -> Result<u64, Self::Error> {
        Ok(self.length)
    }
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<usize, Self::Error> {
        let count = self.length.saturating_sub(offset).min(into.len() as u64) as usize;
        into[..count].fill(0);
        for (at, bytes) in &self.parts {
            let (from, to) = ((*at).max(offset), (at + bytes.len() as u64).min(offset + count as u64));
            if from < to {
                let source = &bytes[(from - at) as usize..(to - at) as usize];
                into[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        }
        Ok(count)
    }
}

#[test]
fn offsets_behind_four_gibibytes_are_right() {
    for container in BOTH {
        let mut recording = begin(container);
        // Fragments with one picture and 64 MiB of zeros behind it.
        let header = std::mem::take(&mut recording.file);
        let (mut parts, mut length) = (vec![(0, header.clone())], header.len() as u64);
        let count = (5_u64 << 30) / FRAGMENT_BYTES_MAX as u64;
        for number in 0..count {
            let mut out = Vec::new();
            recording.muxer.fragment(&[picture(number * 1_000 * MS, true, 9)], (number + 1) * 1_000 * MS, None, &mut out);
            let frame = mark_bytes(container) as usize - MARK_BYTES;
            let mut mark = Mark::parse(out[frame..].first_chunk().unwrap()).unwrap();
            mark.length += FRAGMENT_BYTES_MAX as u64;
            let mut longer = out[..frame].to_vec();
            mark.write(&mut longer);
            out[..longer.len()].copy_from_slice(&longer);
            parts.push((length, out.clone()));
            length += (out.len() + FRAGMENT_BYTES_MAX) as u64;
        }
        let mut file = Sparse { parts, length };
        // The digests would be others, and of 5 GiB they take seconds.
        let contents = Inspector { file: &mut file }.run(true, u64::MAX).unwrap();
        assert_eq!((contents.fragments as u64, contents.whole_length), (count, length), "{container:?}");
        let last = file.parts.last().unwrap().0;
        let closing = contents.closing().unwrap();
        match container {
            Container::Mp4 => {
                let words = table(&closing.append, b"co64", 0);
                let at = u64::from(words[words.len() - 2]) << 32 | u64::from(words[words.len() - 1]);
                assert!(at > last && at < last + 400 && at > 1 << 32, "{at} {last}");
                assert_eq!(closing.then[0].1[8..], (length - 32).to_be_bytes());
            }
            Container::WebM => {
                let position = (last + webm::MARK_VOID_BYTES as u64 - webm::SEGMENT_AT as u64).to_be_bytes();
                assert!(closing.append.windows(5).any(|bytes| bytes == &position[3..]), "the last cue");
                let size = 1 << 56 | length + closing.append.len() as u64 - webm::SEGMENT_AT as u64;
                assert_eq!(closing.then[0].1[webm::SEGMENT_AT - 8..webm::SEGMENT_AT], size.to_be_bytes());
            }
        }
    }
}

#[test]
fn a_day_is_closed_in_bounded_memory() {
    // 24 hours of 30 pictures, whose times jitter by a unit, and 50 packets of sound a second, fragment by fragment.
    let container = Container::Mp4;
    let mut tables = vec![fmp4::Table::default(); 2];
    let mut state = State::default();
    let formats = tracks(container);
    let (mut at, frame) = (1_000_u64, vec![0_u8; 30]);
    for number in 0..86_400_u64 {
        let begin = number * 1_000 * MS;
        let piece = |time_ns: u64, keyframe: bool| crate::mux::container::Piece { time_ns, keyframe, data: &frame };
        let video: Vec<_> = (0..30).map(|place| piece(begin + place * 33_333_333 + number % 3 * 11_000, place == 0)).collect();
        let audio: Vec<_> = (0..50).map(|place| piece(begin + place * 20 * MS + number % 5 * 9_000, true)).collect();
        let mut contents = Vec::new();
        fmp4::fragment(&mut state, &formats, &video, &audio, begin + 1_000 * MS, &mut contents);
        assert!(fmp4::absorb(&mut tables, &formats, &contents, at, contents.len() as u64));
        at += 1_000_000;
    }
    let (samples, bytes) = (tables.iter().map(fmp4::Table::samples).sum::<usize>(), tables.iter().map(fmp4::Table::bytes).sum::<usize>());
    assert_eq!(samples, 80 * 86_400);
    assert!(bytes < 12 * samples, "{bytes} bytes of tables");
    let moov = fmp4::closing(&formats, tables, 0);
    assert!(moov.len() < 12 * samples, "{} bytes of index", moov.len());
    // What stands in limits.rs and in the README.
    assert!(bytes < 60_000_000 && moov.len() < 60_000_000, "{bytes} {}", moov.len());
}

#[test]
fn a_file_of_somebody_else_is_refused_in_words() {
    for file in [&b""[..], b"\0\0\0\x18ftypmp42", &[0x1A, 0x45, 0xDF, 0xA3, 0x80], &[0; 5_000]] {
        let error = inspect(&mut { file }).unwrap_err();
        assert_eq!(error, InspectError::NotOurs);
        assert!(error.to_string().contains("delete it"));
    }
    struct Broken;
    impl Bytes for Broken {
        type Error = &'static str;
        fn length(&mut self) -> Result<u64, Self::Error> {
            Ok(1_000)
        }
        fn read_at(&mut self, _: u64, _: &mut [u8]) -> Result<usize, Self::Error> {
            Err("EIO")
        }
    }
    assert_eq!(inspect(&mut Broken).unwrap_err(), InspectError::Read("EIO"));
}

#[test]
fn damaged_files_never_panic() {
    for container in BOTH {
        let mut small = begin(container);
        small.fragment(&[picture(0, true, 20), sound(0)], 40);
        small.fragment(&[picture(40 * MS, false, 20), picture(80 * MS, true, 20), sound(20 * MS)], 120);
        let closed = close(&small.file);
        torture(&[&small.file, &closed], |file| {
            let Ok(contents) = inspect(&mut { file }) else { return };
            assert!(contents.whole_length <= file.len() as u64);
            let muxer = contents.muxer();
            assert_eq!(muxer.is_none(), contents.is_final);
            if let Some(closing) = contents.closing() {
                assert!(closing.at <= file.len() as u64 && closing.append.len() < 5_000);
                assert!(closing.then.iter().all(|(at, bytes)| at + bytes.len() as u64 <= closing.at + closing.append.len() as u64));
            }
        });
    }
    // Where the digests are right, and the rest is anything.
    let formats = tracks(Container::Mp4);
    let mut moof = Vec::new();
    let frame = [1_u8; 9];
    let piece = |time_ns| crate::mux::container::Piece { time_ns, keyframe: true, data: &frame };
    fmp4::fragment(&mut State::default(), &formats, &[piece(0), piece(40 * MS)], &[piece(0)], 80 * MS, &mut moof);
    torture(&[&moof], |moof| {
        let mut tables = vec![fmp4::Table::default(); 2];
        if fmp4::absorb(&mut tables, &formats, moof, u64::MAX / 2, moof.len() as u64) {
            assert!(fmp4::closing(&formats, tables, u64::MAX / 2).len() < 5_000);
        }
    });
}

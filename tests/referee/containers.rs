//! Goal: what the recorder writes is what was sent, for other people's readers: every frame, its time, where one can
//! begin; while the file grows, after any end, and closed.
//! Method: films by Debian's encoders (ffmpeg) through our writers; ffprobe and ffmpeg's decoders read the files, and
//! re_mp4 compares the bytes of every sample in a closed MP4.

use serde_json::Value;
use spillway_proto::id::{Codec, Kind};
use spillway_proto::mux::codec_config::nals;
use spillway_proto::mux::container::{Container, Muxer};
use spillway_proto::mux::finish::{inspect, inspect_tail};
use spillway_proto::mux::matroska::Clip;
use spillway_proto::mux::packetize;
use spillway_proto::mux::recording::{Bounds, Note, Output, Recording};
use spillway_proto::mux::sample::Sample;
use spillway_proto::rng::Rng;
use spillway_proto::stream::reel::{SlotFlags, SlotMeta};
use spillway_proto::time::Time;
use spillway_tests::film::{AV1, Film, H264, H265, SECOND, VP8, VP9, close, decode, ffprobe, film};
use spillway_tests::node::Scratch;
use std::fs;
use std::path::Path;

/// Times are written to a unit of the track's, at most half a millisecond (WebM) off.
const UNIT: f64 = 0.000_501;

/// What ffprobe says of a file's packets of one kind: presentation time, duration, keyframe, bytes.
fn packets(found: &Value, kind: Kind) -> Vec<(f64, f64, bool, usize)> {
    let name = if kind == Kind::Video { "video" } else { "audio" };
    let number = |packet: &Value, name: &str| packet[name].as_str().and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN);
    let packets = found["packets"].as_array().expect("packets").iter().filter(|packet| packet["codec_type"] == name);
    let of = |packet: &Value| {
        let keyframe = packet["flags"].as_str().is_some_and(|flags| flags.starts_with('K'));
        (number(packet, "pts_time"), number(packet, "duration_time"), keyframe, number(packet, "size") as usize)
    };
    packets.map(of).collect()
}

/// Every sample of the film stands in the file: time, keyframe, length.
fn assert_all(film: &Film, path: &Path, what: &str) -> Value {
    let found = ffprobe(path, &["-show_packets"]);
    for kind in [Kind::Video, Kind::Audio] {
        let wanted: Vec<&Sample> = film.samples.iter().filter(|sample| sample.kind == kind).collect();
        let packets = packets(&found, kind);
        assert_eq!(packets.len(), wanted.len(), "{what}: packets of {kind:?}");
        for (packet, sample) in packets.iter().zip(&wanted) {
            let time = sample.time_ns as f64 / SECOND as f64;
            // Sound may be moved by a millisecond.
            assert!((packet.0 - time).abs() < if kind == Kind::Audio { 0.0011 } else { UNIT }, "{what}: {kind:?} at {time}: {packet:?}");
            assert_eq!((packet.2, packet.3), (sample.keyframe, sample.data.len()), "{what}: {kind:?} at {time}");
        }
    }
    found
}

fn duration(found: &Value) -> f64 {
    found["format"]["duration"].as_str().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
}

/// Another reader finds each sample's bytes where the index says.
fn assert_bytes(film: &Film, file: &[u8]) {
    if film.container() == Container::WebM {
        let clip = Clip::parse(file).expect("a closed WebM");
        let mut frames = film.samples.clone();
        frames.sort_by_key(|sample| sample.time_ns);
        assert_eq!(clip.frames.len(), frames.len());
        for kind in [Kind::Video, Kind::Audio] {
            let ours = clip.frames.iter().filter(|frame| frame.track == kind).map(|frame| &frame.data);
            assert!(ours.eq(frames.iter().filter(|sample| sample.kind == kind).map(|sample| &sample.data)), "{kind:?}");
        }
        return;
    }
    let mp4 = re_mp4::Mp4::read_bytes(file).expect("a closed MP4");
    assert!(mp4.moofs.is_empty(), "a closed file is a plain one");
    for (track, format) in mp4.tracks().values().zip(&film.tracks) {
        let ours = film.samples.iter().filter(|sample| sample.kind == format.codec.kind());
        let theirs = track.samples.iter().map(|sample| (&file[sample.offset as usize..][..sample.size as usize], sample.is_sync));
        assert!(theirs.eq(ours.map(|sample| (&sample.data[..], sample.keyframe))), "{:?}", format.codec);
    }
}

#[test]
fn every_codec_comes_back_frame_by_frame_while_it_grows_and_closed() {
    let scratch = Scratch::new();
    let films = [
        ("H264", film(Some((H264, "322x182")), true, 4), "h264", "avc1"),
        ("H265", film(Some((H265, "320x180")), true, 4), "hevc", "hvc1"),
        ("AV1", film(Some((AV1, "320x180")), true, 3), "av1", "av01"),
        ("VP9", film(Some((VP9, "320x180")), true, 4), "vp9", "vp09"),
        ("VP8", film(Some((VP8, "320x180")), true, 4), "vp8", ""),
        ("H264 alone", film(Some((H264, "640x360")), false, 3), "h264", "avc1"),
        ("VP8 alone", film(Some((VP8, "320x180")), false, 3), "vp8", ""),
        ("sound alone", film(None, true, 3), "opus", "Opus"),
    ];
    for (name, film, codec, tag) in &films {
        let (growing, ends) = film.record();
        assert!(ends.len() >= 3, "{name}: {ends:?}");
        let closed = close(growing.clone()).expect("something is in it");
        for (file, state) in [(&growing, "growing"), (&closed, "closed")] {
            let what = format!("{name}, {state}");
            let path = scratch.0.join(format!("film.{}", film.container().extension()));
            fs::write(&path, file).expect("written");
            let found = assert_all(film, &path, &what);
            let stream = &found["streams"][0];
            assert_eq!(stream["codec_name"], *codec, "{what}");
            if !tag.is_empty() {
                assert_eq!(stream["codec_tag_string"], *tag, "{what}");
            }
            let format = &film.tracks[0];
            if format.width > 0 {
                assert_eq!((stream["width"].as_u64(), stream["height"].as_u64()), (Some(format.width.into()), Some(format.height.into())), "{what}");
            }
            assert_eq!(decode(&path), "", "{what}");
            if state == "closed" {
                let wanted = film.end() as f64 / SECOND as f64;
                assert!((duration(&found) - wanted).abs() < 0.025, "{what}: {} of {wanted} s", duration(&found));
            }
        }
        assert_bytes(film, &closed);
        let contents = inspect(&mut closed.as_slice()).expect("ours");
        assert!(contents.is_final && contents.tracks == film.tracks, "{name}: {contents:?}");
        assert_eq!((contents.video_frames, contents.audio_frames), (film.count(Kind::Video) as u64, film.count(Kind::Audio) as u64));
    }
}

fn write(scratch: &Scratch, film: &Film, file: &[u8]) -> std::path::PathBuf {
    let path = scratch.0.join(format!("film.{}", film.container().extension()));
    fs::write(&path, file).expect("written");
    path
}

/// The films of both kinds of file, small.
fn both() -> [Film; 2] {
    [film(Some((H264, "160x90")), true, 6), film(Some((VP8, "160x90")), true, 6)]
}

#[test]
fn uneven_pictures_and_a_gap_keep_their_times_and_the_sound_has_no_hole() {
    let scratch = Scratch::new();
    for mut film in both() {
        // Pictures 20 to 110 ms apart, from 250 ms on: the sound is there first.
        let mut rng = Rng::new(3);
        let mut at = 250_000_000;
        for sample in film.samples.iter_mut().filter(|sample| sample.kind == Kind::Video) {
            sample.time_ns = at;
            at += (20 + rng.below(90)) * 1_000_000;
        }
        film.samples.sort_by_key(|sample| sample.time_ns);
        let whole = film.clone().then(film, 7 * SECOND);
        let (growing, _) = whole.record();
        let closed = close(growing.clone()).expect("something is in it");
        for (file, state) in [(&growing, "growing"), (&closed, "closed")] {
            let path = write(&scratch, &whole, file);
            let found = ffprobe(&path, &["-show_packets"]);
            let pictures = packets(&found, Kind::Video);
            let wanted: Vec<f64> = whole.samples.iter().filter(|sample| sample.kind == Kind::Video).map(|sample| sample.time_ns as f64 / SECOND as f64).collect();
            assert_eq!(pictures.len(), wanted.len(), "{state}");
            assert!(pictures.iter().zip(&wanted).all(|(picture, wanted)| (picture.0 - wanted).abs() < UNIT), "{state}: {pictures:?}");
            // Each packet of sound begins where the one before ended, over the gap, too.
            let sounds = packets(&found, Kind::Audio);
            let holes = sounds.windows(2).filter(|pair| pair[1].0 - pair[0].0 > 0.140 || pair[1].0 - pair[0].0 < 0.001);
            assert_eq!(holes.count(), 0, "{state}");
            assert!(sounds.len() > whole.count(Kind::Audio) + 50, "{state}: silence fills what is missing");
            assert_eq!(decode(&path), "", "{state}");
            if state == "closed" {
                let wanted = whole.end() as f64 / SECOND as f64;
                assert!((duration(&found) - wanted).abs() < 0.025, "{} of {wanted} s", duration(&found));
            }
        }
        // All of the sound is as long as its last packet's time says: nobody's player falls behind.
        let path = write(&scratch, &whole, &closed);
        let decoded = std::process::Command::new("ffmpeg").args(["-v", "error", "-nostdin", "-i"]).arg(&path)
            .args(["-vn", "-c:a", "pcm_s16le", "-ac", "1", "-f", "s16le", "-af", "anull", "-"]).output().expect("ffmpeg");
        let heard = decoded.stdout.len() as f64 / 2.0 / 48_000.0;
        let last = whole.samples.iter().filter(|sample| sample.kind == Kind::Audio).map(|sample| sample.time_ns).max().expect("sound");
        assert!((heard - last as f64 / SECOND as f64 - 0.02).abs() < 0.03, "{heard} s are heard of {last} ns");
    }
}

#[test]
fn pictures_of_another_size_go_on_in_the_same_file() {
    let scratch = Scratch::new();
    for (name, encoder) in [("H264", H264), ("H265", H265), ("VP9", VP9), ("AV1", AV1), ("VP8", VP8)] {
        let part = |size: &str| film(Some((encoder, size)), true, 2);
        let whole = part("320x180").then(part("640x360"), 0).then(part("160x90"), 0);
        let closed = close(whole.record().0).expect("something is in it");
        let path = write(&scratch, &whole, &closed);
        assert_eq!(decode(&path), "", "{name}");
        let found = ffprobe(&path, &["-show_frames", "-select_streams", "v"]);
        let frames = found["frames"].as_array().expect("frames");
        let of = |width: u64| frames.iter().filter(|frame| frame["width"].as_u64() == Some(width)).count();
        assert_eq!((of(320), of(640), of(160), frames.len()), (60, 60, 60, 180), "{name}");
    }
}

/// Access units of an H264 stream with delimiters, and the times ffprobe finds in the same film.
fn reordered(scratch: &Scratch) -> Film {
    let (path, raw) = (scratch.0.join("b.mkv"), scratch.0.join("b.h264"));
    let run = |arguments: &[&str], out: &Path| {
        let done = std::process::Command::new("ffmpeg").args(["-v", "error", "-y"]).args(arguments).arg(out).output().expect("ffmpeg");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    run(&["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-t", "4", "-c:v", "libx264", "-g", "30", "-bf", "2", "-x264-params", "aud=1:b-adapt=0:repeat-headers=1", "-pix_fmt", "yuv420p"], &path);
    run(&["-i", path.to_str().expect("a name"), "-c", "copy", "-bsf:v", "h264_mp4toannexb"], &raw);
    let found = ffprobe(&path, &["-show_packets"]);
    let times: Vec<u64> = packets(&found, Kind::Video).iter().map(|packet| (packet.0 * SECOND as f64) as u64).collect();
    let bytes = fs::read(&raw).expect("a stream");
    let mut units: Vec<Vec<u8>> = Vec::new();
    let starts: Vec<usize> = bytes.windows(3).enumerate().filter(|(_, three)| *three == [0, 0, 1]).map(|(at, _)| at + 3).collect();
    for (place, start) in starts.iter().enumerate() {
        let end = starts.get(place + 1).map_or(bytes.len(), |next| next - 3);
        let unit = &bytes[*start..end];
        let unit = unit.strip_suffix(&[0]).filter(|_| place + 1 < starts.len()).unwrap_or(unit);
        if unit[0] & 0x1F == 9 {
            units.push(Vec::new());
            continue;
        }
        // Sets of the file's header may stand before the first delimiter; they come again.
        let Some(sample) = units.last_mut() else { continue };
        sample.extend((unit.len() as u32).to_be_bytes());
        sample.extend(unit);
    }
    assert_eq!(units.len(), times.len());
    let is_key = |sample: &[u8]| spillway_proto::mux::codec_config::nals(sample).any(|unit| unit[0] & 0x1F == 5);
    let format = spillway_proto::mux::codec_config::track_format(Codec::H264, &units[0]).expect("a format");
    let samples = units.into_iter().zip(times).map(|(data, time_ns)| Sample { kind: Kind::Video, time_ns, keyframe: is_key(&data), data });
    Film { samples: samples.collect(), tracks: vec![format] }
}

#[test]
fn pictures_that_are_shown_in_another_order_than_they_came_keep_both() {
    let scratch = Scratch::new();
    let film = reordered(&scratch);
    assert!(film.samples.windows(2).any(|pair| pair[0].time_ns > pair[1].time_ns), "there are some");
    let (growing, _) = film.record();
    let closed = close(growing.clone()).expect("something is in it");
    let path = write(&scratch, &film, &closed);
    let found = assert_all(&film, &path, "B-frames");
    let decoding: Vec<f64> = found["packets"].as_array().expect("packets").iter().map(|packet| packet["dts_time"].as_str().expect("a time").parse().expect("a number")).collect();
    assert!(decoding.windows(2).all(|pair| pair[0] < pair[1]), "{decoding:?}");
    assert_eq!(decode(&path), "");
    assert_bytes(&film, &closed);
    // ffmpeg 5 shows the pictures of fragments with negative offsets later by the largest of these, all of them.
    let path = write(&scratch, &film, &growing);
    let times: Vec<f64> = packets(&ffprobe(&path, &["-show_packets"]), Kind::Video).iter().map(|packet| packet.0).collect();
    let shift = times[0];
    assert!(shift < 0.07 && times.len() == film.samples.len(), "{times:?}");
    assert!(times.iter().zip(&film.samples).all(|(time, sample)| (time - shift - sample.time_ns as f64 / SECOND as f64).abs() < 0.001), "{times:?}");
    assert_eq!(decode(&path), "");
}

/// What a recorder makes of the film's pictures when they come as packets, one picture each thirtieth.
fn recorded(film: &Film) -> (Vec<u8>, Vec<Note>) {
    let codec = film.tracks[0].codec;
    let mut recording = Recording::new(Bounds::default(), None);
    recording.add_track(Kind::Video, 128, 128, 1);
    let (mut index, mut file, mut muxer, mut notes) = (128, Vec::new(), None, Vec::new());
    let mut take = |recording: &mut Recording, now: Time, drain: bool| {
        while let Some(output) = recording.poll(now, drain) {
            match output {
                Output::Note(note) => notes.push(note),
                Output::Piece(piece) => {
                    if let Some(formats) = &piece.begins {
                        let new = Muxer::new(film.container(), formats, 1_700_000_000_000);
                        new.header(&mut file);
                        assert!(muxer.replace(new).is_none(), "one file");
                    }
                    muxer.as_mut().expect("a file").fragment(&piece.samples, piece.until_ns, piece.gap_ns, &mut file);
                }
            }
        }
    };
    for (number, sample) in film.samples.iter().enumerate() {
        let arrival = Time(1_000 * SECOND + number as u64 * SECOND / 30);
        let units: Vec<&[u8]> = nals(&sample.data).collect();
        let mut payloads: Vec<(Vec<u8>, bool)> = Vec::new();
        let emit = |payload: &[u8], last: bool| payloads.push((payload.to_vec(), last));
        match codec {
            Codec::H264 => packetize::h264(&units, emit),
            _ => packetize::h265(&units, emit),
        }
        for (place, (payload, last)) in payloads.iter().enumerate() {
            let flags = SlotFlags::NONE.with_if(place == 0, SlotFlags::FRAME_START).with_if(*last, SlotFlags::FRAME_END);
            let timestamp = ((sample.time_ns + SECOND / 180_000) * 90_000 / SECOND) as u32;
            recording.on_packet(Kind::Video, &SlotMeta { index, timestamp, arrival, flags, codec, layer: 0 }, payload);
            index += 1;
        }
        take(&mut recording, arrival, false);
    }
    take(&mut recording, Time(2_000 * SECOND), true);
    (file, notes)
}

#[test]
fn pictures_in_another_order_come_through_a_recorder_and_the_publishers_owner_is_told() {
    let scratch = Scratch::new();
    for (film, is_reordered) in [(reordered(&scratch), true), (film(Some((H265, "320x180")), false, 4), false)] {
        let (growing, notes) = recorded(&film);
        let warnings = notes.iter().filter(|note| matches!(note, Note::Warning { code: "b_frames", .. })).count();
        assert_eq!((warnings, notes.len()), (usize::from(is_reordered), usize::from(is_reordered)), "{notes:?}");
        let closed = close(growing.clone()).expect("something is in it");
        for file in [&growing, &closed] {
            let path = write(&scratch, &film, file);
            let found = ffprobe(&path, &["-show_packets"]);
            let pictures = packets(&found, Kind::Video);
            assert_eq!(pictures.len(), film.samples.len());
            // Shown when they were to be shown, the first at the file's beginning or where ffmpeg 5 puts it.
            let shift = pictures[0].0 - film.samples[0].time_ns as f64 / SECOND as f64;
            for (picture, sample) in pictures.iter().zip(&film.samples) {
                let wanted = sample.time_ns as f64 / SECOND as f64 + shift;
                assert!((picture.0 - wanted).abs() < 0.002 && picture.2 == sample.keyframe, "{picture:?} at {wanted}");
            }
            let decoding: Vec<f64> = found["packets"].as_array().expect("packets").iter().map(|packet| packet["dts_time"].as_str().expect("a time").parse().expect("a number")).collect();
            assert!(decoding.windows(2).all(|pair| pair[0] < pair[1]), "{decoding:?}");
            assert_eq!(decode(&path), "");
        }
    }
}

/// What is whole and closed plays: for our second reader in any case, for ffprobe if it is asked.
fn assert_plays(scratch: &Scratch, film: &Film, file: &[u8], asks_ffprobe: bool, what: &str) {
    let pictures = inspect(&mut { file }).expect("ours").video_frames as usize;
    let (video, sound) = match film.container() {
        Container::Mp4 => {
            let mp4 = re_mp4::Mp4::read_bytes(file).unwrap_or_else(|error| panic!("{what}: {error}"));
            let counts: Vec<usize> = mp4.tracks().values().map(|track| track.samples.len()).collect();
            let last = mp4.tracks().values().flat_map(|track| &track.samples).map(|sample| sample.offset + sample.size).max();
            assert!(last.is_some_and(|end| end <= file.len() as u64), "{what}");
            (counts[0], counts[1])
        }
        Container::WebM => {
            let clip = Clip::parse(file).unwrap_or_else(|error| panic!("{what}: {error}"));
            let count = |kind| clip.frames.iter().filter(|frame| frame.track == kind).count();
            (count(Kind::Video), count(Kind::Audio))
        }
    };
    assert!(video == pictures && sound > 0, "{what}: {video} of {pictures} pictures");
    if asks_ffprobe {
        let path = write(scratch, film, file);
        let found = ffprobe(&path, &["-show_packets"]);
        assert_eq!((packets(&found, Kind::Video).len(), packets(&found, Kind::Audio).len()), (video, sound), "{what}");
    }
}

/// How many of each kind of ending are tried, and how many of them ffprobe looks at. All of a thousand:
/// `SPILLWAY_CUTS=1000 cargo test --workspace --release containers` (five minutes).
fn rounds() -> (usize, usize) {
    match std::env::var("SPILLWAY_CUTS").ok().and_then(|text| text.parse().ok()) {
        Some(rounds) => (rounds, 1),
        None => (1_000, 100),
    }
}

#[test]
fn a_thousand_files_cut_anywhere_lose_the_fragment_they_were_cut_in() {
    let scratch = Scratch::new();
    let (rounds, every) = rounds();
    for film in both() {
        let (growing, ends) = film.record();
        let closed = close(growing.clone()).expect("something is in it");
        let mut rng = Rng::new(11);
        for round in 0..rounds {
            // Of files that grow, and of closed ones.
            let file = if round % 4 == 0 { &closed } else { &growing };
            let length = ends[0] + rng.below((file.len() - ends[0]) as u64) as usize;
            let whole = ends.iter().rposition(|end| *end <= length).expect("behind the header");
            let contents = inspect(&mut &file[..length]).expect("the header is there");
            assert_eq!((contents.fragments as usize, contents.whole_length as usize), (whole, ends[whole]), "cut at {length}");
            match close(file[..length].to_vec()) {
                Some(repaired) => assert_plays(&scratch, &film, &repaired, round % every == 0, &format!("cut at {length}")),
                None => assert_eq!(whole, 0, "cut at {length}"),
            }
        }
    }
}

#[test]
fn a_thousand_tails_that_never_reached_the_disk_cost_no_more_than_they_were() {
    let scratch = Scratch::new();
    let (rounds, every) = rounds();
    for film in both() {
        let (growing, ends) = film.record();
        let mut rng = Rng::new(12);
        for round in 0..rounds {
            // The last one or two fragments were not made durable: each of their pages is there or not, and the file's
            // length may be more than was written.
            let synced = ends.len() - 2 - rng.below(2) as usize;
            let mut file = growing.clone();
            let pages = (ends[synced] / 4_096..file.len().div_ceil(4_096)).collect::<Vec<_>>();
            for page in pages {
                if rng.below(2) == 0 {
                    let (begin, end) = ((4_096 * page).max(ends[synced]), (4_096 * (page + 1)).min(file.len()));
                    file[begin..end].fill(0);
                }
            }
            match rng.below(3) {
                0 => file.truncate(ends[synced] + rng.below((file.len() - ends[synced]) as u64) as usize),
                1 => file.extend(vec![0; rng.below(9_000) as usize]),
                _ => {}
            }
            let contents = inspect(&mut file.as_slice()).expect("the header is there");
            assert!(contents.fragments as usize >= synced, "round {round}: {} of {synced}", contents.fragments);
            assert_eq!(contents.whole_length as usize, ends[contents.fragments as usize + contents.damaged as usize], "round {round}");
            let repaired = close(file).expect("something is in it");
            assert_plays(&scratch, &film, &repaired, round % every == 0, &format!("round {round}"));
        }
    }
}

#[test]
fn a_run_that_goes_on_behind_a_cut_keeps_the_timeline() {
    let scratch = Scratch::new();
    for film in both() {
        let (growing, ends) = film.record();
        let cut = ends[3] - 100;
        let contents = inspect_tail(&mut &growing[..cut]).expect("the header is there");
        assert_eq!(contents.fragments, 2);
        let mut file = growing[..contents.whole_length as usize].to_vec();
        // Three seconds later it goes on, with what then comes.
        let mut muxer = contents.muxer().expect("not closed");
        let mut expected = Film { samples: film.pieces()[..2].iter().flat_map(|(samples, _)| samples.clone()).collect(), ..film.clone() };
        let gap = 3 * SECOND;
        for (number, (mut samples, until)) in film.pieces().into_iter().enumerate().skip(3) {
            samples.iter_mut().for_each(|sample| sample.time_ns += gap);
            muxer.fragment(&samples, until + gap, (number == 3).then_some(gap), &mut file);
            expected.samples.append(&mut samples);
        }
        let closed = close(file).expect("something is in it");
        let path = write(&scratch, &film, &closed);
        let found = ffprobe(&path, &["-show_packets"]);
        let wanted: Vec<f64> = expected.samples.iter().filter(|sample| sample.kind == Kind::Video).map(|sample| sample.time_ns as f64 / SECOND as f64).collect();
        let pictures = packets(&found, Kind::Video);
        assert_eq!(pictures.len(), wanted.len());
        assert!(pictures.iter().zip(&wanted).all(|(picture, wanted)| (picture.0 - wanted).abs() < UNIT));
        assert!(packets(&found, Kind::Audio).len() > expected.count(Kind::Audio), "silence over the gap");
        assert!((duration(&found) - expected.end() as f64 / SECOND as f64).abs() < 0.025, "{}", duration(&found));
        assert_eq!(decode(&path), "");
    }
}

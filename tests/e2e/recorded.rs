//! Goal: what real publishers send stands on the disk picture by picture, sound in step with it, and a disk that fills up
//! costs the recording and no viewer.
//! Method: Chromium's camera, ffmpeg's WHIP muxer and our clip, recorded by a node; ffprobe and ffmpeg (Debian's) read the
//! files; a tmpfs of 2 MB for the disk.

use crate::browser::camera;
use serde_json::Value;
use spillway_tests::browser::Browser;
use spillway_tests::node::{Machine, Node, Scratch, Start, stderr, stdout};
use spillway_tests::program::{Program, tool};
use spillway_tests::publisher::{Conduct, Publisher, load};
use spillway_tests::wait::{seconds, until};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// 15 pictures a second.
const SOURCE: &str = "-re -f lavfi -i testsrc2=size=320x180:rate=15 -re -f lavfi -i sine=frequency=440:sample_rate=48000 \
    -c:v libx264 -preset ultrafast -tune zerolatency -threads 1 -profile:v baseline -pix_fmt yuv420p -bf 0 -g 30 -b:v 300k \
    -c:a libopus -ac 2 -ar 48000 -f whip";
const APART_S_MAX: f64 = 0.040;

fn ask(node: &Node, method: &str, path: &str, body: Option<&str>) -> Value {
    let bearer = format!("Bearer {}", stdout(&node.run(&["token", "--role", "node"])));
    let headers = [("authorization", bearer.as_str()), ("accept", "application/json"), ("content-type", "application/json")];
    let answer = node.http.ask(method, path, &headers, body);
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

/// The room's recording once it is so.
fn recording(node: &Node, room: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    until(what, seconds(40), || {
        let found = ask(node, "GET", &format!("/v1/recordings?room={room}"), None)["data"][0].clone();
        if is_so(&found) { Ok(found) } else { Err(found.to_string()) }
    })
}

/// Ends it, waits until it is final, and gives its only file.
fn finished(node: &Node, recording: &Value) -> (Value, PathBuf) {
    let (id, room) = (recording["id"].as_str().expect("an id"), recording["room"].as_str().expect("a room"));
    ask(node, "POST", &format!("/v1/recordings/{id}/stop"), None);
    let done = self::recording(node, room, "it is finished", |found| found["state"] == "finished");
    assert_eq!((done["files"].as_array().map(Vec::len), done["gaps_count"].as_u64()), (Some(1), Some(0)), "{done}");
    let path = node.data().join("recordings").join(done["files"][0]["path"].as_str().expect("a path"));
    (done, path)
}

fn output(program: &str, arguments: &[&str], file: &Path, more: &[&str]) -> Vec<u8> {
    let run = Command::new(program).args(arguments).arg(file).args(more).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(run.status.success() && run.stderr.is_empty(), "{program}: {}", stderr(&run));
    run.stdout
}

/// The times of a stream's frames, decoded.
fn times(file: &Path, stream: &str) -> Vec<f64> {
    let arguments = ["-v", "error", "-select_streams", stream, "-show_entries", "frame=pts_time", "-of", "csv=p=0"];
    let text = String::from_utf8(output("ffprobe", &arguments, file, &[])).expect("text");
    // A frame with something beside it has an empty line behind its own.
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| line.trim_end_matches(',').parse().unwrap_or_else(|_| panic!("a time: {line}"))).collect()
}

/// From each time to the next: the least and the most.
fn steps(times: &[f64]) -> (f64, f64) {
    let steps = times.windows(2).map(|pair| pair[1] - pair[0]);
    steps.fold((f64::MAX, 0.0), |(least, most), step| (least.min(step), most.max(step)))
}

#[test]
fn chromiums_camera_and_ffmpeg_are_recorded_picture_by_picture() {
    let _machine = Machine::busy();
    let node = Node::start();
    for room in ["camera", "whip"] {
        ask(&node, "POST", "/v1/rooms", Some(&format!(r#"{{"id":"{room}","record":"auto"}}"#)));
    }
    let mut command = Command::new(tool("ffmpeg"));
    command.args(["-nostdin", "-hide_banner", "-loglevel", "warning"]).args(SOURCE.split_whitespace());
    command.args(["-authorization", &node.token("whip", "publish"), &format!("{}/whip/whip", node.http.base())]);
    let _ffmpeg = Program::begin(command);
    let browser = Browser::start();
    let _camera = camera(&browser, &node, "camera", &node.token("camera", "publish"));
    let long = |found: &Value| found["duration_ms"].as_u64() > Some(10_000);
    for (room, codec, kind) in [("whip", "H264", "mp4"), ("camera", "VP8", "webm")] {
        let (done, file) = finished(&node, &recording(&node, room, "ten seconds are written", long));
        assert_eq!((done["files"][0]["codecs"][0].as_str(), file.extension().and_then(|kind| kind.to_str())), (Some(codec), Some(kind)), "{done}");
        let (pictures, sounds) = (times(&file, "v:0"), times(&file, "a:0"));
        assert_eq!(Some(pictures.len() as u64), done["files"][0]["frames"].as_u64(), "{done}");
        let (length, heard) = (pictures[pictures.len() - 1] - pictures[0], sounds[sounds.len() - 1] - sounds[0]);
        let (least, most) = steps(&sounds);
        let ends = format!("pictures {:?}, sound {:?}, from {least} to {most} s between packets of sound", (pictures[0], pictures[pictures.len() - 1]), (sounds[0], sounds[sounds.len() - 1]));
        assert!(length > 8.0 && (length - heard).abs() < 0.5, "{room}: {length} s of pictures, {heard} s of sound: {ends}");
        // Sound has no hole and no leap: 20 ms a packet, whatever the clocks do.
        assert!(least > 0.015 && most < 0.030, "{room}: from {least} to {most} s between packets of sound");
        if room == "whip" {
            let due = length * 15.0 + 1.0;
            assert!((pictures.len() as f64 - due).abs() <= 1.0, "{} pictures in {length} s", pictures.len());
        }
        let (least, most) = steps(&pictures);
        assert!(least > 0.0 && most < 0.5, "{room}: from {least} to {most} s between pictures");
        // Every packet decodes, without a word.
        // With the file's own clock: pictures of a busy camera may be nearer to each other than ticks of their mean rate.
        output("ffmpeg", &["-v", "error", "-i"], &file, &["-fps_mode", "passthrough", "-enc_time_base", "-1", "-f", "null", "-"]);
    }
}

/// The picture of each frame, as a hash.
fn hashes(file: &Path) -> Vec<String> {
    let text = output("ffmpeg", &["-v", "error", "-i"], file, &["-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-"]);
    let text = String::from_utf8(text).expect("text");
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn h265_is_recorded_picture_by_picture() {
    let _machine = Machine::shared();
    let node = Node::start();
    let scratch = Scratch::new();
    let clip = scratch.0.join("clip.mkv");
    let made = Command::new("ffmpeg").args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"])
        .args(["-t", "4", "-pix_fmt", "yuv420p", "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:bframes=0:keyint=30:min-keyint=30"])
        .args(["-c:a", "libopus"]).arg(&clip).output().expect("ffmpeg runs");
    assert!(made.status.success(), "{}", stderr(&made));
    ask(&node, "POST", "/v1/rooms", Some(r#"{"id":"demo","record":"auto"}"#));
    let _publisher = node.begin(&["publish", "synthetic", "demo", "--clip", clip.to_str().expect("a name")]);
    let long = |found: &Value| found["duration_ms"].as_u64() > Some(9_000);
    let (done, file) = finished(&node, &recording(&node, "demo", "nine seconds are written", long));
    assert_eq!((done["files"][0]["codecs"][0].as_str(), done["warnings"].as_array().map(Vec::len)), (Some("H265"), Some(0)), "{done}");
    let (sent, written, times) = (hashes(&clip), hashes(&file), times(&file, "v:0"));
    assert_eq!((Some(written.len() as u64), times.len()), (done["files"][0]["frames"].as_u64(), written.len()), "{done}");
    let first = sent.iter().position(|hash| *hash == written[0]).expect("a picture of the clip");
    assert_eq!(first % 30, 0, "it begins at a keyframe");
    for (place, hash) in written.iter().enumerate() {
        assert_eq!(*hash, sent[(first + place) % sent.len()], "picture {place}");
        // Where the clip begins anew, its sound may be a little longer than its pictures.
        let is_seam = (first + place) % sent.len() == 0;
        let step = if place == 0 { 1.0 / 30.0 } else { times[place] - times[place - 1] };
        assert!((step - 1.0 / 30.0).abs() < if is_seam { 0.050 } else { 0.002 }, "{step} s before picture {place}");
    }
}

/// A camera with rare keyframes: who begins to record has pictures of seconds ago, and the sound that belongs to them.
#[test]
fn a_recording_that_begins_later_has_the_sound_of_its_first_picture() {
    let _machine = Machine::shared();
    let node = Node::start();
    let scratch = Scratch::new();
    let clip = scratch.0.join("clip.mkv");
    let made = Command::new("ffmpeg").args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"])
        .args(["-t", "30", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-profile:v", "baseline", "-g", "900"])
        .args(["-force_key_frames", "0,1", "-c:a", "libopus"]).arg(&clip).output().expect("ffmpeg runs");
    assert!(made.status.success(), "{}", stderr(&made));
    let publisher = Publisher::start(&node, "demo", load(&clip), Conduct::DEAF);
    publisher.until_age(seconds(6));
    let begun = Instant::now();
    ask(&node, "POST", "/v1/rooms/demo/recordings", None);
    let (done, file) = finished(&node, &recording(&node, "demo", "five seconds are written", |found| found["duration_ms"].as_u64() > Some(5_000)));
    let passed = begun.elapsed().as_secs_f64();
    let (pictures, sounds) = (times(&file, "v:0"), times(&file, "a:0"));
    let ends = format!("pictures {:?}, sound {:?}", (pictures[0], pictures[pictures.len() - 1]), (sounds[0], sounds[sounds.len() - 1]));
    assert!(pictures[pictures.len() - 1] > passed + 2.0, "it begins with a keyframe of long ago: {ends}, {passed} s");
    assert!((pictures[0] - sounds[0]).abs() < 0.1, "sound begins where the picture does: {ends}");
    let (least, most) = steps(&sounds);
    assert!(least > 0.015 && most < 0.030, "from {least} to {most} s between packets of sound");
    assert_eq!(done["warnings"].as_array().map(Vec::len), Some(0), "{done}");
}

#[test]
fn flash_and_beep_are_together_in_the_file() {
    let _machine = Machine::shared();
    let node = Node::start();
    ask(&node, "POST", "/v1/rooms", Some(r#"{"id":"demo","record":"auto"}"#));
    let _publisher = node.publish("demo", "h264");
    let (_, file) = finished(&node, &recording(&node, "demo", "eight seconds are written", |found| found["duration_ms"].as_u64() > Some(8_000)));
    // The middle of each picture as one grey dot.
    let dots = output("ffmpeg", &["-v", "error", "-i"], &file, &["-map", "0:v", "-fps_mode", "passthrough", "-vf", "crop=64:64:288:148,scale=1:1,format=gray", "-f", "rawvideo", "-"]);
    let pictures = times(&file, "v:0");
    assert_eq!(dots.len(), pictures.len());
    let is_flash = |place: usize| dots[place] > 200;
    let flashes: Vec<f64> = (1..dots.len()).filter(|place| is_flash(*place) && !is_flash(place - 1)).map(|place| pictures[place]).collect();
    // The sound from the file's first moment on, in windows of 5 ms. The clip hums; its beep is three times as loud.
    let pcm = output("ffmpeg", &["-v", "error", "-i"], &file, &["-map", "0:a", "-af", "aresample=async=1:first_pts=0", "-ac", "1", "-ar", "48000", "-f", "s16le", "-"]);
    let samples: Vec<f64> = pcm.chunks_exact(2).map(|pair| f64::from(i16::from_le_bytes([pair[0], pair[1]]))).collect();
    let loud: Vec<bool> = samples.chunks(240).map(|window| (window.iter().map(|sample| sample * sample).sum::<f64>() / window.len() as f64).sqrt() > 3_000.0).collect();
    let beeps: Vec<f64> = (20..loud.len()).filter(|at| loud[*at] && loud[at - 20..*at].iter().all(|loud| !loud)).map(|at| at as f64 * 0.005).collect();
    assert!(flashes.len() >= 6, "{flashes:?}");
    for flash in &flashes {
        let apart = beeps.iter().map(|beep| beep - flash).min_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(f64::MAX);
        // The beep of a flash near either end may be outside.
        let is_inside = *flash > 0.2 && *flash < pictures[pictures.len() - 1] - 0.3;
        assert!(!is_inside || apart.abs() <= APART_S_MAX, "{apart} s at {flash} s: flashes {flashes:?}, beeps {beeps:?}");
    }
}

/// A small disk of its own, gone with it.
struct Disk(Scratch);

impl Disk {
    fn of(bytes: usize) -> Disk {
        let scratch = Scratch::new();
        std::fs::create_dir_all(&scratch.0).expect("a directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(&scratch.0).status();
        assert!(mounted.expect("mount runs").success(), "mounting needs root, as other tests here do");
        Disk(scratch)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0.0).status();
    }
}

#[test]
fn threat_20_a_full_disk_costs_the_recording_and_no_viewer() {
    let _machine = Machine::shared();
    let disk = Disk::of(750_000);
    let scratch = Scratch::new();
    std::fs::create_dir_all(&scratch.0).expect("a directory");
    let config = scratch.0.join("spillway.toml");
    std::fs::write(&config, format!("[recording]\ndir = {:?}\n", disk.0.0.join("recordings"))).expect("a file");
    let path = config.display().to_string();
    let node = Node::start_with(&Start { more: &["--shards", "2", "--config", &path], ..Start::default() });
    ask(&node, "POST", "/v1/rooms", Some(r#"{"id":"demo","record":"auto"}"#));
    let _publisher = node.publish("demo", "h264");
    let viewer = node.begin(&["play", "demo", "--seconds", "18", "--json"]);
    let told = until("the event says why", seconds(60), || {
        let events = ask(&node, "GET", "/v1/events?types=recording.failed", None);
        let found = events["data"].as_array().into_iter().flatten().find(|event| event["data"]["code"] == "disk_full").cloned();
        found.ok_or(events.to_string())
    });
    assert!(told["data"]["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{told}");
    let played = viewer.json();
    assert_eq!((played["lost"].as_u64(), played["duplicates"].as_u64()), (Some(0), Some(0)), "{played}");
    assert!(played["frames"].as_u64() >= Some(16 * 30), "{played}");
    // What was written before plays.
    let found = recording(&node, "demo", "it knows its error", |found| !found["error"].is_null() || found["state"] == "finished");
    let file = disk.0.0.join("recordings").join(found["files"][0]["path"].as_str().expect("a path"));
    assert!(times(&file, "v:0").len() > 60);
}

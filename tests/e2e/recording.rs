//! Goal: what a publisher sends is on the disk and plays, whoever is killed meanwhile; one recording, finished once.
//! Method: the synthetic publisher into a node, ffprobe (Debian's) over what the API gives; kill -9 by pids, mid-recording.

use serde_json::Value;
use spillway_tests::kernel::kill_9;
use spillway_tests::node::{Machine, Node, Scratch, Start, stderr, stdout};
use spillway_tests::wait::{seconds, until};
use std::path::Path;
use std::process::Command;

struct Desk {
    node: Node,
    bearer: String,
}

impl Desk {
    fn of(node: Node) -> Desk {
        let token = node.run(&["token", "--role", "node"]);
        Desk { bearer: format!("Bearer {}", stdout(&token)), node }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Value {
        let headers = [("authorization", self.bearer.as_str()), ("accept", "application/json"), ("content-type", "application/json")];
        let answer = self.node.http.ask(method, path, &headers, body);
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {:?}", answer.status, answer.code());
        if answer.status == 204 { Value::Null } else { answer.json() }
    }

    /// The newest recording, once it is so.
    fn recording(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        until(what, seconds(30), || {
            let headers = [("authorization", self.bearer.as_str())];
            let answer = self.node.http.try_ask("GET", "/v1/recordings?limit=1", &headers, None).ok_or("no control")?;
            let found = answer.json()["data"][0].clone();
            if is_so(&found) { Ok(found) } else { Err(found.to_string()) }
        })
    }

    fn count(&self) -> usize {
        self.ask("GET", "/v1/recordings", None)["data"].as_array().map_or(0, Vec::len)
    }

    /// Brings the recording's only file here by the command line; it is checked by its hash.
    fn fetched(&self, recording: &Value) -> std::path::PathBuf {
        let path = self.node.data().join("fetched.mp4");
        let _ = std::fs::remove_file(&path);
        let (id, out) = (recording["id"].as_str().expect("an id"), path.to_str().expect("a path"));
        let got = self.node.run(&["record", "get", id, "-o", out]);
        assert!(got.status.success(), "{} {}", stdout(&got), stderr(&got));
        path
    }

    fn bytes(&self, id: &str) -> u64 {
        self.ask("GET", &format!("/v1/recordings/{id}"), None)["size"].as_u64().unwrap_or(0)
    }

    /// Another half megabyte was written since.
    fn goes_on(&self, id: &str) {
        let before = until("control answers", seconds(10), || {
            let headers = [("authorization", self.bearer.as_str())];
            let answer = self.node.http.try_ask("GET", &format!("/v1/recordings/{id}"), &headers, None);
            answer.and_then(|answer| answer.json()["size"].as_u64()).ok_or("nobody".to_owned())
        });
        until("the recording goes on", seconds(30), || match self.bytes(id) {
            now if now > before + 100_000 => Ok(()),
            now => Err(format!("{now} after {before}")),
        });
    }
}

/// What ffprobe counts of the picture: frames, and seconds from the first to the end of the last.
fn probed(path: &Path) -> (u64, f64) {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v:0", "-show_entries", "stream=nb_read_frames,codec_name"])
        .args(["-show_entries", "format=duration", "-of", "json"])
        .arg(path)
        .output()
        .expect("ffprobe runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let number = |value: &Value| value.as_str().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (number(&found["streams"][0]["nb_read_frames"]) as u64, number(&found["format"]["duration"]))
}

#[test]
fn a_room_that_records_by_itself_has_every_frame_and_one_that_is_off_has_none() {
    let _machine = Machine::shared();
    let desk = Desk::of(Node::start());
    desk.ask("POST", "/v1/rooms", Some(r#"{"id":"demo","record":"auto"}"#));
    desk.ask("POST", "/v1/rooms", Some(r#"{"id":"quiet","record":"off"}"#));
    let _publisher = desk.node.publish("demo", "h264");
    let _other = desk.node.publish("quiet", "h264");
    let started = desk.recording("something is written", |found| found["size"].as_u64() > Some(500_000));
    let id = started["id"].as_str().expect("an id").to_owned();
    assert_eq!(started["files"][0]["codecs"].as_array().map(Vec::len), Some(2), "{started}");
    // By the API: stopped, and final a moment later.
    desk.ask("POST", &format!("/v1/recordings/{id}/stop"), None);
    let done = desk.recording("it is finished", |found| found["state"] == "finished");
    assert_eq!((done["id"].as_str(), done["error"].clone(), done["gaps_count"].as_u64()), (Some(&*id), Value::Null, Some(0)), "{done}");
    let file = &done["files"][0];
    let (frames, duration) = probed(&desk.fetched(&done));
    assert_eq!(Some(frames), file["frames"].as_u64(), "{file}");
    // 30 frames a second, from the first keyframe on.
    assert!((duration * 30.0 - frames as f64).abs() <= 2.0, "{frames} frames in {duration} s");
    let told = file["duration_ms"].as_u64().expect("a duration") as f64 / 1_000.0;
    assert!((told - duration).abs() < 0.1, "{told} {duration}");
    // It was stopped by hand, and the other room was off.
    assert_eq!(desk.count(), 1);
}

#[test]
fn control_engine_and_recorder_are_killed_and_it_is_one_recording_that_plays() {
    let _machine = Machine::shared();
    let desk = Desk::of(Node::start());
    desk.ask("POST", "/v1/rooms", Some(r#"{"id":"demo","record":"auto"}"#));
    let publisher = desk.node.publish("demo", "h264");
    let id = desk.recording("something is written", |found| found["size"].as_u64() > Some(300_000))["id"].as_str().expect("an id").to_owned();
    let control = desk.node.pid("control_pid");
    kill_9(control);
    desk.node.next_pid("control_pid", control);
    desk.goes_on(&id);
    kill_9(recorder_of(desk.node.pid("supervisor_pid")));
    desk.goes_on(&id);
    let engine = desk.node.pid("engine_pid");
    kill_9(engine);
    desk.node.next_pid("engine_pid", engine);
    // The publisher has nobody to send to any more: another one takes its place within the time it is waited for. (The
    // first would come back, too, and they would take the room from each other.)
    drop(publisher);
    let _again = desk.node.publish("demo", "h264");
    desk.goes_on(&id);
    // Publishers come again by themselves: that is another stream, and would be another recording.
    desk.ask("PATCH", "/v1/rooms/demo", Some(r#"{"record":"manual"}"#));
    let stream = desk.ask("GET", "/v1/streams", None)["data"][0]["id"].as_str().expect("a stream").to_owned();
    desk.ask("POST", &format!("/v1/streams/{stream}/end"), None);
    let done = desk.recording("it is finished", |found| found["state"] == "finished");
    assert_eq!((done["id"].as_str(), done["reason"].as_str(), desk.count()), (Some(&*id), Some("stream_ended"), 1), "{done}");
    assert!(done["gaps_count"].as_u64() >= Some(1), "{done}");
    let files = done["files"].as_array().expect("files");
    for file in files {
        let (frames, _) = probed(&desk.node.data().join("recordings").join(file["path"].as_str().expect("a path")));
        assert_eq!(Some(frames), file["frames"].as_u64(), "{file}");
    }
}

#[test]
fn after_a_kill_of_the_supervisor_the_next_start_finishes_what_was_recorded_once() {
    let _machine = Machine::shared();
    let mut desk = Desk::of(Node::start());
    let path = desk.node.data().to_owned();
    let _publisher = desk.node.publish("demo", "h264");
    let made = desk.ask("POST", "/v1/rooms/demo/recordings", None);
    let id = made["id"].as_str().expect("an id").to_owned();
    desk.recording("something is written", |found| found["size"].as_u64() > Some(300_000));
    kill_9(desk.node.pid("supervisor_pid"));
    desk.node.wait_end();
    // Of the one that was killed; the next one writes its own.
    std::fs::remove_file(path.join("node.json")).expect("its node.json");
    // What was written plays as it is.
    let file = path.join("recordings").join(&id).join("0001.mp4");
    let (before, _) = probed(&file);
    assert!(before > 0);
    let again = Desk::of(Node::start_in(Scratch(path.clone()), &Start::default()));
    let done = again.recording("it is finished", |found| found["state"] == "finished");
    assert_eq!((done["id"].as_str(), done["reason"].as_str()), (Some(&*id), Some("node_restarted")), "{done}");
    let (frames, _) = probed(&file);
    assert!(frames >= before && Some(frames) == done["files"][0]["frames"].as_u64(), "{before} {frames}");
    let journal = std::fs::read_to_string(path.join("recordings").join(&id).join("journal.jsonl")).expect("a journal");
    assert_eq!(journal.matches("\"stopped\"").count(), 1, "{journal}");
}

#[test]
fn a_node_that_is_stopped_finishes_what_it_recorded() {
    let _machine = Machine::shared();
    let mut desk = Desk::of(Node::start());
    let path = desk.node.data().to_owned();
    desk.ask("POST", "/v1/rooms", Some(r#"{"id":"demo","record":"auto"}"#));
    let publisher = desk.node.publish("demo", "h264");
    let id = desk.recording("something is written", |found| found["size"].as_u64() > Some(300_000))["id"].as_str().expect("an id").to_owned();
    let stopped = desk.node.run(&["stop"]);
    assert!(stopped.status.success(), "{} {}", stdout(&stopped), stderr(&stopped));
    desk.node.wait_end();
    drop(publisher);
    let journal = std::fs::read_to_string(path.join("recordings").join(&id).join("journal.jsonl")).expect("a journal");
    assert_eq!((journal.matches("\"segment\"").count(), journal.matches("\"stopped\"").count()), (1, 1), "{journal}");
    let (frames, _) = probed(&path.join("recordings").join(&id).join("0001.mp4"));
    // The next start tells of it, and does nothing again.
    let again = Desk::of(Node::start_in(Scratch(path.clone()), &Start::default()));
    let done = again.recording("it is known", |found| found["state"] == "finished");
    assert_eq!((done["id"].as_str(), done["reason"].as_str()), (Some(&*id), Some("node_restarted")), "{done}");
    assert_eq!(Some(frames), done["files"][0]["frames"].as_u64(), "{done}");
    let after = std::fs::read_to_string(path.join("recordings").join(&id).join("journal.jsonl")).expect("a journal");
    assert_eq!(after, journal);
}

/// The pid of the only recorder that is a child of the supervisor.
fn recorder_of(supervisor: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).expect("its children");
    let is_recorder = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("adapter\0recorder\0record")
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_recorder).expect("a recorder")
}

//! Goal: a recording is what its journal says, told once, over every restart; who asks gets the bytes of its files and
//! nothing else.
//! Method: the test is the supervisor (it reads the lists that control sends) and the recorder (it writes files and
//! journals); the engine is `test_node`'s.

use super::{Client, Node, Role, Value, json, operator, with};
use crate::wanted::{Run, Trouble, Wanted, parse_list};
use std::cell::RefCell;
use std::fs;
use std::io::Write;

/// The test as supervisor and recorder.
pub struct Stage<'a> {
    node: &'a Node,
    told: RefCell<Vec<Wanted>>,
}

impl Stage<'_> {
    pub fn new(node: &Node) -> Stage<'_> {
        Stage { node, told: RefCell::default() }
    }

    /// The newest list.
    fn told(&self) -> Vec<Wanted> {
        let mut bytes = vec![0; 65_536];
        while let Ok(length) = self.node.recorders.0.recv(&mut bytes) {
            *self.told.borrow_mut() = parse_list(&bytes[..length]).unwrap();
        }
        self.told.borrow().clone()
    }

    fn run(&self, id: &str) -> Option<Run> {
        self.told().into_iter().find(|wanted| wanted.recording == id).map(|wanted| wanted.run)
    }

    fn until_run(&self, id: &str, is_so: impl Fn(Option<Run>) -> bool) {
        self.node.until(|_| is_so(self.run(id)));
    }

    pub fn write(&self, id: &str, name: &str, bytes: &[u8]) {
        let directory = self.node.data.join("recordings").join(id);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), bytes).unwrap();
    }

    fn journal(&self, id: &str, lines: &str) {
        self.write(id, "unrelated", b"");
        let path = self.node.data.join("recordings").join(id).join("journal.jsonl");
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }

    fn begin(&self, id: &str) {
        self.write(id, "0001.mp4", b"0123456789");
        self.journal(id, "{\"at\":1000,\"event\":\"started\",\"codecs\":[\"H264\",\"opus\"],\"file\":\"0001.mp4\"}\n");
    }

    /// Makes it final, and waits until control has heard of it.
    pub fn finish(&self, id: &str) {
        let sha256 = "ab".repeat(32);
        self.journal(id, &format!(
            "{{\"at\":2000,\"event\":\"segment\",\"file\":\"0001.mp4\",\"bytes\":10,\"sha256\":\"{sha256}\",\"duration_ms\":900,\
             \"started_at\":1000,\"width\":640,\"height\":360,\"frames\":27}}\n\
             {{\"at\":2001,\"event\":\"stopped\",\"duration_ms\":900,\"bytes\":10,\"files\":1}}\n"
        ));
        let path = format!("/v1/recordings/{id}");
        self.node.until(|node| operator(node).get(&path).json()["state"] == "finished");
    }
}

fn start(client: &Client<'_>) -> String {
    let reply = client.post("/v1/rooms/demo/recordings", &Value::Null);
    assert_eq!(reply.status(), 201, "{}", reply.body);
    reply.json()["id"].as_str().unwrap().to_owned()
}

fn newest(client: &Client<'_>) -> Value {
    client.get("/v1/recordings?limit=1").json()["data"][0].clone()
}

/// Events of recordings, `type` with `data`.
fn events(client: &Client<'_>) -> Vec<(String, Value)> {
    let page = client.get("/v1/events?limit=200").json();
    let all = page["data"].as_array().unwrap().iter();
    let of = all.filter(|event| event["type"].as_str().unwrap().starts_with("recording."));
    of.map(|event| (event["type"].as_str().unwrap().to_owned(), event["data"].clone())).collect()
}

fn kinds(client: &Client<'_>) -> Vec<String> {
    events(client).into_iter().map(|(kind, _)| kind).collect()
}

#[test]
fn a_room_that_records_by_itself_has_one_recording_over_reconnects_until_its_stream_is_ended() {
    let node = Node::new();
    let (operator, stage) = (operator(&node), Stage::new(&node));
    assert_eq!(operator.post("/v1/rooms", &json!({ "id": "demo", "record": "auto" })).json()["record"], "auto");
    let session = node.live().header("location").to_owned();
    node.until(|_| newest(&operator)["state"] == "recording");
    let id = newest(&operator)["id"].as_str().unwrap().to_owned();
    stage.until_run(&id, |run| matches!(run, Some(Run::Record { .. })));
    let first = stage.run(&id);
    stage.begin(&id);
    node.until(|_| newest(&operator)["started_at"].is_string());
    let stream = &operator.get("/v1/streams").json()["data"][0];
    assert_eq!((stream["recording"].as_str(), newest(&operator)["stream"].as_str()), (Some(&*id), stream["id"].as_str()));
    // A takeover by the same `sub`: the same stream, the same reel, the same recorder.
    node.live();
    assert_eq!(stage.run(&id), first);
    let reply = node.delete(&session, &node.token("demo", Role::Publish, "ann"));
    assert_eq!(reply.status(), 404, "it was taken over");
    // It goes; nobody watches, so that the stream goes with it; and it comes again.
    let session = node.live().header("location").to_owned();
    assert_eq!(node.delete(&session, &node.token("demo", Role::Publish, "ann")).status(), 200);
    node.until(|_| newest(&operator)["state"] == "waiting");
    stage.until_run(&id, |run| run.is_none());
    node.live();
    stage.until_run(&id, |run| matches!(run, Some(Run::Record { .. })) && run != first);
    assert_eq!(newest(&operator)["state"], "recording");
    stage.journal(&id, "{\"at\":1500,\"event\":\"gap\",\"file\":\"0001.mp4\",\"at_ms\":400,\"length_ms\":70,\"reason\":\"publisher_away\"}\n\
                        {\"at\":1501,\"event\":\"want_keyframe\"}\n{\"at\":1502,\"event\":\"from_the_future\"}\n");
    node.until(|_| newest(&operator)["gaps_count"] == 1);
    node.until(|node| node.engine.tables().commands.iter().any(|command| format!("{command:?}").starts_with("RequestKeyframe")));
    // It is ended: finished at once, and what is sent away now begins no other one.
    let stream = operator.get("/v1/streams").json()["data"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(operator.post(&format!("/v1/streams/{stream}/end"), &Value::Null).status(), 200);
    stage.until_run(&id, |run| run == Some(Run::Finish));
    stage.finish(&id);
    stage.until_run(&id, |run| run.is_none());
    assert_eq!(operator.get("/v1/recordings").json()["data"].as_array().unwrap().len(), 1);
    let done = newest(&operator);
    assert_eq!((done["reason"].as_str(), done["duration_ms"].as_u64(), done["gaps_ms"].as_u64()), (Some("stream_ended"), Some(900), Some(70)));
    assert_eq!(done["gaps"][0]["reason"], "publisher_away");
    let file = &done["files"][0];
    assert_eq!((file["final"].as_bool(), file["frames"].as_u64(), file["codecs"].clone()), (Some(true), Some(27), json!(["H264", "opus"])));
    assert_eq!(kinds(&operator), ["recording.started", "recording.gap", "recording.segment", "recording.stopped"]);
    let segment = &events(&operator)[2].1;
    assert_eq!((segment["path"].as_str(), segment["size"].as_u64()), (Some(&*format!("{id}/0001.mp4")), Some(10)));
    assert_eq!(segment["sha256"], "ab".repeat(32));
    // The next publisher is recorded again.
    node.live();
    node.until(|_| newest(&operator)["id"] != id.as_str());
}

#[test]
fn what_is_asked_for_is_recorded_stopped_and_deleted_and_refusals_say_why() {
    let node = Node::new();
    let (operator, stage) = (operator(&node), Stage::new(&node));
    operator.post("/v1/rooms/demo/recordings", &Value::Null).is(409, "stream_not_live");
    node.live();
    let once = [("Idempotency-Key", "k")];
    let first = operator.ask("POST", "/v1/rooms/demo/recordings", &once, "");
    let id = first.json()["id"].as_str().unwrap().to_owned();
    assert_eq!((first.status(), first.header("location")), (201, &*format!("/v1/recordings/{id}")));
    assert_eq!(operator.ask("POST", "/v1/rooms/demo/recordings", &once, "").json()["id"], id.as_str(), "sent again, done once");
    let refused = operator.post("/v1/rooms/demo/recordings", &Value::Null);
    refused.is(409, "recording_runs");
    assert!(refused.body.contains(&id), "{}", refused.body);
    stage.until_run(&id, |run| run.is_some());
    stage.begin(&id);
    let path = format!("/v1/recordings/{id}");
    operator.ask("DELETE", &path, &[], "").is(409, "recording_open");
    assert_eq!(operator.post(&format!("{path}/stop"), &Value::Null).json()["state"], "finishing");
    assert_eq!(operator.post(&format!("{path}/stop"), &Value::Null).status(), 200, "stopped is stopped");
    stage.until_run(&id, |run| run == Some(Run::Finish));
    operator.ask("DELETE", &path, &[], "").is(409, "recording_open");
    // A room may have another one while the first is finished.
    let second = start(&operator);
    stage.finish(&id);
    assert_eq!(operator.get(&format!("{path}/download")).body, "0123456789");
    assert_eq!(operator.get("/v1/recordings?state=finished").json()["data"][0]["id"], id.as_str());
    assert_eq!(operator.get("/v1/recordings?state=recording&room=demo").json()["data"][0]["id"], second.as_str());
    operator.get("/v1/recordings?state=lost").is(400, "bad_request");
    let page = operator.get("/v1/recordings?limit=1").json();
    let next = page["next_cursor"].as_str().unwrap();
    assert_eq!(operator.get(&format!("/v1/recordings?limit=1&after={next}")).json()["data"][0]["id"], id.as_str());
    assert_eq!(operator.ask("DELETE", &path, &[], "").status(), 204);
    operator.get(&path).is(404, "recording_not_found");
    assert!(!node.data.join("recordings").join(&id).exists());
    // Off is off, also for who asks; the one that runs goes on.
    assert_eq!(operator.post("/v1/rooms", &json!({ "id": "demo", "record": "off" })).status(), 201);
    operator.post("/v1/rooms/demo/recordings", &Value::Null).is(409, "recording_off");
    assert_eq!(operator.get(&format!("/v1/recordings/{second}")).json()["state"], "recording");
    operator.post("/v1/rooms", &json!({ "id": "x", "record": "always" })).is(400, "bad_request");
    assert_eq!(operator.patch("/v1/rooms/demo", &json!({ "viewers_max": 3 })).json()["record"], "off");
    assert_eq!(operator.patch("/v1/rooms/demo", &json!({ "record": null })).json()["record"], "manual");
}

#[test]
fn a_control_that_is_killed_leaves_the_recording_as_it_was_and_tells_nothing_twice() {
    let mut node = Node::new();
    node.live();
    let id = start(&operator(&node));
    let run = {
        let stage = Stage::new(&node);
        stage.until_run(&id, |run| run.is_some());
        stage.begin(&id);
        node.until(|node| kinds(&operator(node)) == ["recording.started"]);
        // Until it is on its way, whoever comes next would tell it.
        let db = rusqlite::Connection::open(node.data.join("spillway.db")).unwrap();
        node.until(|_| db.query_row("SELECT count(*) FROM outbox", [], |row| row.get::<_, i64>(0)).unwrap() == 0);
        stage.run(&id)
    };
    node.restart_control_over_live_tracks();
    let stage = Stage::new(&node);
    stage.until_run(&id, |now| now.is_some());
    // The same reel since the same moment: the recorder that runs is the one that is wanted.
    assert_eq!(stage.run(&id), run);
    stage.journal(&id, "{\"at\":1500,\"event\":\"gap\",\"file\":\"0001.mp4\",\"at_ms\":4,\"length_ms\":7,\"reason\":\"loss\"}\n{\"at\":1600,\"ev");
    node.until(|node| newest(&operator(node))["gaps_count"] == 1);
    assert_eq!(kinds(&operator(&node)), ["recording.gap"], "of this control: the beginning was told by the one before");
    assert_eq!(newest(&operator(&node))["state"], "recording");
}

#[test]
fn after_a_restart_of_the_node_what_was_recorded_is_finished_once_and_strangers_are_taken_in() {
    let mut node = Node::new();
    node.live();
    let id = start(&operator(&node));
    let stage = Stage::new(&node);
    stage.until_run(&id, |run| run.is_some());
    stage.begin(&id);
    node.until(|node| newest(&operator(node))["started_at"].is_string());
    let stranger = "rec_01jd0000000000000000000000";
    stage.begin(stranger);
    node.kill_control();
    node.boot += 1;
    node.start_control();
    let stage = Stage::new(&node);
    stage.until_run(&id, |run| run == Some(Run::Finish));
    stage.until_run(stranger, |run| run == Some(Run::Finish));
    stage.finish(&id);
    stage.finish(stranger);
    node.until(|_| stage.told().is_empty());
    let operator = operator(&node);
    assert_eq!(operator.get(&format!("/v1/recordings/{id}")).json()["reason"], "node_restarted");
    let found = operator.get(&format!("/v1/recordings/{stranger}")).json();
    assert_eq!((found["room"].clone(), found["begun_by"].as_str(), found["reason"].as_str()), (Value::Null, Some("found"), Some("found")));
    assert_eq!(kinds(&operator).iter().filter(|kind| *kind == "recording.stopped").count(), 2);
    drop(operator);
    node.kill_control();
    node.boot += 1;
    node.start_control();
    // Nothing is left to be done.
    assert!(Stage::new(&node).told().is_empty());
    assert!(kinds(&super::operator(&node)).is_empty());
}

#[test]
fn a_publisher_that_never_sent_anything_leaves_no_recording() {
    let node = Node::new();
    let mut settings = node.settings.clone();
    settings.recording.reconnect_seconds = 0;
    node.service().set_settings(settings).unwrap();
    let (operator, stage) = (operator(&node), Stage::new(&node));
    operator.post("/v1/rooms", &json!({ "id": "demo", "record": "auto" }));
    let session = node.live().header("location").to_owned();
    node.until(|_| newest(&operator)["state"] == "recording");
    let id = newest(&operator)["id"].as_str().unwrap().to_owned();
    assert_eq!(node.delete(&session, &node.token("demo", Role::Publish, "ann")).status(), 200);
    stage.until_run(&id, |run| run == Some(Run::Finish));
    stage.journal(&id, "{\"at\":2001,\"event\":\"stopped\",\"duration_ms\":0,\"bytes\":0,\"files\":0}\n");
    node.until(|_| operator.get("/v1/recordings").json()["data"].as_array().unwrap().is_empty());
    node.until(|node| !node.data.join("recordings").join(&id).exists());
    assert!(kinds(&operator).is_empty());
}

#[test]
fn who_stopped_a_recording_by_hand_does_not_get_another_at_once() {
    let node = Node::new();
    let (operator, stage) = (operator(&node), Stage::new(&node));
    operator.post("/v1/rooms", &json!({ "id": "demo", "record": "auto" }));
    node.live();
    node.until(|_| newest(&operator)["state"] == "recording");
    let id = newest(&operator)["id"].as_str().unwrap().to_owned();
    stage.begin(&id);
    assert_eq!(operator.post(&format!("/v1/recordings/{id}/stop"), &Value::Null).status(), 200);
    stage.finish(&id);
    stage.until_run(&id, |run| run.is_none());
    assert_eq!(operator.get("/v1/recordings").json()["data"].as_array().unwrap().len(), 1);
    // Whoever asks gets one.
    assert_ne!(start(&operator), id);
}

#[test]
fn a_recording_that_no_file_takes_is_over_and_not_begun_again() {
    let mut node = Node::new();
    {
        let (operator, stage) = (operator(&node), Stage::new(&node));
        operator.post("/v1/rooms", &json!({ "id": "demo", "record": "auto" }));
        node.live();
        node.until(|_| newest(&operator)["state"] == "recording");
        let id = newest(&operator)["id"].as_str().unwrap().to_owned();
        stage.begin(&id);
        stage.journal(&id, "{\"at\":1500,\"event\":\"failed\",\"code\":\"file_limit\",\"detail\":\"not even a new file\"}\n");
        stage.until_run(&id, |run| run == Some(Run::Finish));
        stage.finish(&id);
        node.until(|_| newest(&operator)["state"] == "finished");
        let done = newest(&operator);
        assert_eq!((done["id"].as_str(), done["reason"].as_str(), done["error"]["code"].as_str()), (Some(&*id), Some("failed"), Some("file_limit")));
        // The publisher is there, and the room records by itself: it would fail again.
        assert_eq!(operator.get("/v1/recordings").json()["data"].as_array().unwrap().len(), 1);
        assert_eq!(kinds(&operator), ["recording.started", "recording.failed", "recording.segment", "recording.stopped"]);
    }
    // Whoever asks gets one; a control that is killed before it heeds the line finds it in the row.
    let id = start(&operator(&node));
    Stage::new(&node).until_run(&id, |run| matches!(run, Some(Run::Record { .. })));
    node.kill_control();
    let db = rusqlite::Connection::open(node.data.join("spillway.db")).unwrap();
    db.execute("UPDATE recordings SET error_code = 'file_limit', error_detail = '' WHERE id = ?1", [&id]).unwrap();
    drop(db);
    node.start_control();
    Stage::new(&node).until_run(&id, |run| run == Some(Run::Finish));
    assert_eq!(newest(&operator(&node))["reason"], "failed");
}

#[test]
fn what_keeps_a_recorder_from_running_is_told() {
    let node = Node::new();
    let operator = operator(&node);
    node.live();
    let id = start(&operator);
    let trouble = Trouble { recording: id.clone(), detail: "cannot open /x: no room".into() };
    node.recorders.0.send(trouble.write().as_bytes()).unwrap();
    node.recorders.0.send(b"\xff").unwrap();
    node.until(|_| newest(&operator)["error"]["code"] == "recorder_failed");
    node.until(|_| kinds(&operator) == ["recording.failed"]);
    assert_eq!(events(&operator)[0].1["detail"], "cannot open /x: no room");
    let metrics = node.request("GET", "/metrics", &[], "").body;
    assert!(metrics.contains("\nspillway_recordings 1\n") && metrics.contains("\nspillway_recording_failures_total 1\n"), "{metrics}");
}

#[test]
fn a_download_has_ranges_a_tag_and_only_a_recordings_files() {
    let node = Node::new();
    let (operator, stage) = (operator(&node), Stage::new(&node));
    node.live();
    let id = start(&operator);
    stage.until_run(&id, |run| run.is_some());
    operator.get(&format!("/v1/recordings/{id}/download")).is(404, "file_not_found");
    stage.begin(&id);
    let path = format!("/v1/recordings/{id}/download?file=0001.mp4");
    let ask = |headers: &[(&str, &str)]| operator.ask("GET", &path, headers, "");
    let whole = ask(&[]);
    assert_eq!((whole.status(), whole.body.as_str(), whole.header("content-type")), (200, "0123456789", "video/mp4"));
    assert_eq!((whole.header("content-length"), whole.header("accept-ranges")), ("10", "bytes"));
    assert!(whole.header("content-disposition").contains(&format!("{id}-0001.mp4")));
    let growing = whole.header("etag").to_owned();
    let middle = ask(&[("Range", "bytes=2-4"), ("If-Range", &growing)]);
    assert_eq!((middle.status(), middle.body.as_str(), middle.header("content-range")), (206, "234", "bytes 2-4/10"));
    assert_eq!(ask(&[("Range", "bytes=-3")]).body, "789");
    let beyond = ask(&[("Range", "bytes=10-")]);
    beyond.is(416, "range_not_satisfiable");
    assert_eq!(beyond.header("content-range"), "bytes */10");
    // Large enough for several pieces.
    let large: Vec<u8> = (0..1_000_000).map(|n: u32| b'a' + (n % 23) as u8).collect();
    stage.write(&id, "0002.webm", &large);
    let reply = operator.get(&format!("/v1/recordings/{id}/download?file=0002.webm"));
    assert_eq!((reply.body.as_bytes() == large, reply.header("content-type")), (true, "video/webm"));
    operator.get(&format!("/v1/recordings/{id}/download")).is(400, "bad_request");
    // Final: another tag, by which a part of the growing one is not taken for a part of this.
    stage.finish(&id);
    let done = ask(&[("Range", "bytes=2-4"), ("If-Range", &growing)]);
    assert_eq!((done.status(), done.body.as_str()), (200, "0123456789"));
    let tag = done.header("etag").to_owned();
    assert_eq!(tag, format!("\"{}\"", "ab".repeat(32)));
    assert_eq!(ask(&[("Range", "bytes=2-4"), ("If-Range", &tag)]).body, "234");
    let known = ask(&[("If-None-Match", &tag)]);
    assert_eq!((known.status(), known.body.as_str()), (304, ""));
    let head = operator.ask("HEAD", &path, &[], "");
    assert_eq!((head.status(), head.header("content-length"), head.body.as_str()), (200, "10", ""));
    // The page's way: the token in the query.
    let bearer = node.token("demo", Role::Admin, "a");
    assert_eq!(node.request("GET", &format!("{path}&token={bearer}"), &[], "").body, "0123456789");
    with(&node, node.token("other", Role::Admin, "a")).get(&path).is(404, "recording_not_found");
    with(&node, node.token("demo", Role::View, "v")).get(&path).is(403, "wrong_role");
}

#[test]
fn threat_13_no_name_of_a_request_leads_out_of_the_recordings() {
    let node = Node::new();
    let (operator, stage) = (operator(&node), Stage::new(&node));
    node.live();
    let id = start(&operator);
    stage.begin(&id);
    fs::write(node.data.join("recordings").join("0001.mp4"), "secret").unwrap();
    fs::write(node.data.join("secret.mp4"), "secret").unwrap();
    std::os::unix::fs::symlink(node.data.join("secret.mp4"), node.data.join("recordings").join(&id).join("0002.mp4")).unwrap();
    let long = "1".repeat(300);
    let names = ["..%2F0001.mp4", "..%2f..%2fsecret.mp4", "%2Fetc%2Fpasswd", "0002.mp4", "journal.jsonl", "..", "", "%00", "0001.mp4%00",
        "%D9%A1%D9%A1%D9%A1%D9%A1.mp4", "0001%E2%80%AE4pm.exe", &long];
    for name in names {
        let reply = operator.get(&format!("/v1/recordings/{id}/download?file={name}"));
        assert!([400, 404].contains(&reply.status()) && !reply.body.contains("secret"), "{name}: {}", reply.body);
    }
    let long = format!("rec_{}", "0".repeat(300));
    for other in ["..", "%2e%2e", "..%2F..", "rec_..%2F..%2F..%2F..%2F..%2F..%2F..", "rec_%C3%A9", &long] {
        for end in ["", "/download?file=0001.mp4"] {
            let reply = operator.get(&format!("/v1/recordings/{other}{end}"));
            assert!(reply.status() == 404 && !reply.body.contains("secret"), "{other}{end}: {}", reply.body);
        }
    }
    // A room's name is nowhere on the disk, whatever it is.
    operator.post("/v1/rooms/..%2F..%2Fx/recordings", &Value::Null).is(404, "not_found");
    let there: Vec<String> = fs::read_dir(node.data.join("recordings")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(there.iter().all(|name| name == "0001.mp4" || *name == id), "{there:?}");
}

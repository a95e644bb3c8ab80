//! Goal: the REST API of the built binary: what it admits, what it keeps over restarts, what it counts.
//! Method: one node, requests over real HTTP; sessions are counted in the engine, media comes from a synthetic
//! publisher.

use crate::offers::VIEW;
use serde_json::{Value, json};
use spillway_proto::link::counters::CounterId;
use spillway_tests::http::Answer;
use spillway_tests::kernel::{self, Counters};
use spillway_tests::node::{Machine, Node, Start, stderr, stdout};
use spillway_tests::publisher::{Conduct, Publisher, clip};
use spillway_tests::wait::{seconds, until};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Calls as who may everything.
pub fn call(node: &Node, method: &str, path: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {}", node_token(node));
    let text = body.to_string();
    let body = (!body.is_null()).then_some(text.as_str());
    node.http.ask(method, path, &[("authorization", &bearer), ("content-type", "application/json")], body)
}

fn node_token(node: &Node) -> String {
    let output = node.run(&["token", "--role", "node"]);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

fn viewers(counters: &Counters) -> u64 {
    counters.sum(CounterId::SessionsViewer)
}

pub fn restart_control(node: &Node) {
    let output = node.run(&["restart", "control"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn of_two_hundred_viewers_at_once_ten_are_admitted_and_the_others_leave_nothing() {
    const PLACES: u64 = 10;
    let _machine = Machine::shared();
    let node = Node::start();
    assert_eq!(call(&node, "PATCH", "/v1/limits", &json!({ "viewers_per_room_max": PLACES })).status, 200);
    let _publisher = node.publish("demo", "vp8");
    let token = node.token("demo", "view");
    let counters = node.counters();
    for round in 0..20 {
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let offer = || node.http.offer("/whep/demo", &token, VIEW);
            let all: Vec<_> = (0..200).map(|_| scope.spawn(offer)).collect();
            all.into_iter().map(|one| one.join().expect("an answer")).collect()
        });
        let admitted: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 201).collect();
        assert_eq!(admitted.len() as u64, PLACES, "round {round}");
        for refused in answers.iter().filter(|answer| answer.status != 201) {
            assert_eq!((refused.status, refused.code().as_str(), refused.header("retry-after")), (409, "room_full", Some("10")));
        }
        until("the engine has the admitted alone", seconds(5), || match viewers(&counters) {
            PLACES => Ok(()),
            other => Err(other.to_string()),
        });
        if round % 7 == 6 {
            // The next control finds the places taken.
            restart_control(&node);
            assert_eq!(node.http.offer("/whep/demo", &token, VIEW).code(), "room_full");
        }
        for answer in admitted {
            assert_eq!(node.http.delete(answer.header("location").unwrap_or_default(), &token).status, 200);
        }
        until("nobody is left", seconds(5), || match viewers(&counters) {
            0 => Ok(()),
            other => Err(other.to_string()),
        });
    }
}

#[test]
fn a_stream_is_seen_with_its_figures_and_ended() {
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "h264");
    let stream = until("a second of the stream was measured", seconds(10), || {
        let streams = call(&node, "GET", "/v1/streams", &Value::Null).json();
        let tracks = streams["data"][0]["tracks"].as_array().cloned().unwrap_or_default();
        // The first second it was measured may be the one in which it began.
        let runs = |track: &Value| track["kind"] == "video" && track["frames_per_second"].as_f64() > Some(10.0);
        match streams["data"][0]["bitrate_bps"].as_u64() {
            Some(1..) if tracks.iter().any(runs) => Ok(streams["data"][0].clone()),
            _ => Err(streams.to_string()),
        }
    });
    assert_eq!((stream["room"].as_str(), stream["live"].as_bool()), (Some("demo"), Some(true)));
    let tracks = stream["tracks"].as_array().expect("tracks");
    let video = tracks.iter().find(|track| track["kind"] == "video").expect("video");
    assert_eq!(video["codec"], "H264", "{video}");
    let path = format!("/v1/streams/{}", stream["id"].as_str().unwrap_or_default());
    // A control that is killed gives the same names.
    restart_control(&node);
    assert_eq!(call(&node, "GET", &path, &Value::Null).json()["started_at"], stream["started_at"]);
    assert_eq!(call(&node, "POST", &format!("/streams/{}/end", stream["id"].as_str().unwrap_or_default()), &Value::Null).status, 200);
    assert_eq!(call(&node, "GET", &path, &Value::Null).code(), "stream_not_found");
}

#[test]
fn a_viewer_is_kicked_and_its_media_stops() {
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let player = node.begin(&["play", "demo", "--seconds", "20", "--json"]);
    let viewer = until("the viewer is connected", seconds(10), || {
        let viewers = call(&node, "GET", "/v1/rooms/demo/viewers", &Value::Null).json();
        match viewers["data"][0]["connected"].as_bool() {
            Some(true) => Ok(viewers["data"][0].clone()),
            _ => Err(viewers.to_string()),
        }
    });
    let path = format!("/v1/viewers/{}/kick", viewer["id"].as_str().unwrap_or_default());
    assert_eq!(call(&node, "POST", &path, &Value::Null).status, 200);
    until("the engine has no viewer", seconds(5), || match viewers(&node.counters()) {
        0 => Ok(()),
        other => Err(other.to_string()),
    });
    drop(player);
}

/// A supervisor waits longer and longer before it starts again what dies at once: fifty kills are ten of each of five nodes.
#[test]
fn what_was_acknowledged_is_there_after_each_of_fifty_kills_of_control() {
    const NODES: usize = 5;
    const KILLS: usize = 10;
    let _machine = Machine::shared();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..NODES).map(|_| scope.spawn(|| kill_while_writing(KILLS))).collect();
        all.into_iter().for_each(|one| one.join().expect("nothing was lost"));
    });
}

fn kill_while_writing(kills: usize) {
    let node = Node::start_with(&Start { more: &["--shards", "1"], ..Start::default() });
    let publisher = node.publish("demo", "vp8");
    let engine = node.pid("engine_pid");
    let bearer = format!("Bearer {}", node_token(&node));
    let stop = AtomicBool::new(false);
    let count = AtomicUsize::new(0);
    let acknowledged = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut acknowledged = Vec::new();
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let body = json!({ "role": "read", "name": format!("n{number}") }).to_string();
                let key = format!("write-{number}");
                // Until it is answered: the same request, however often control dies meanwhile.
                let answer = loop {
                    let headers = [("authorization", bearer.as_str()), ("idempotency-key", key.as_str())];
                    match node.http.try_ask("POST", "/v1/keys", &headers, Some(&body)) {
                        Some(answer) if answer.status == 201 => break answer,
                        _ if stop.load(Ordering::Relaxed) => return acknowledged,
                        _ => {}
                    }
                };
                acknowledged.push(answer.json()["id"].as_str().expect("an id").to_owned());
                count.fetch_add(1, Ordering::Relaxed);
            }
            acknowledged
        });
        for kill in 0..kills {
            let control = node.pid("control_pid");
            // After so many writes of this control, in the midst of the next.
            let enough = count.load(Ordering::Relaxed) + 1 + kill % 7;
            until("control has written", seconds(60), || match count.load(Ordering::Relaxed) {
                written if written >= enough => Ok(()),
                written => Err(format!("{written} of {enough}")),
            });
            kernel::signal(control, libc::SIGKILL);
            node.next_pid("control_pid", control);
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer")
    });
    let mut found = Vec::new();
    let mut path = "/v1/keys?limit=200".to_owned();
    loop {
        let page = call(&node, "GET", &path, &Value::Null).json();
        found.extend(page["data"].as_array().expect("keys").iter().map(|key| (key["id"].clone(), key["name"].clone())));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/keys?limit=200&after={cursor}"),
            None => break,
        }
    }
    assert!(acknowledged.len() > kills, "{} writes", acknowledged.len());
    for id in &acknowledged {
        assert!(found.iter().any(|(found, _)| found == id.as_str()), "{id} was acknowledged and is gone");
    }
    let mut names: Vec<String> = found.iter().map(|(_, name)| name.to_string()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), found.len(), "no request was done twice");
    assert_eq!(node.pid("engine_pid"), engine);
    assert_eq!(node.http.live("demo", &node.token("demo", "view"))["live"], true);
    drop(publisher);
}

#[test]
fn a_backup_of_a_running_node_is_a_node_again_with_its_keys() {
    let _machine = Machine::shared();
    let node = Node::start();
    let key = call(&node, "POST", "/v1/keys", &json!({ "role": "admin" })).json()["secret"].as_str().expect("a secret").to_owned();
    let hook = call(&node, "POST", "/v1/webhooks", &json!({ "url": "http://127.0.0.1:9/" })).json()["id"].clone();
    let restored = spillway_tests::node::Scratch::new();
    let file = restored.0.join("spillway.db");
    let made = node.run(&["backup", &file.display().to_string(), "--keys"]);
    assert!(made.status.success(), "{}", stderr(&made));
    let again = node.run(&["backup", &file.display().to_string()]);
    assert_eq!(again.status.code(), Some(1), "nothing is replaced: {}", stderr(&again));
    let take = |name: &str, to: &str| std::fs::rename(restored.0.join(format!("spillway.db.{name}")), restored.0.join(to)).expect("it was made");
    std::fs::create_dir(restored.0.join("keys")).expect("a directory");
    take("signing.key", "keys/signing.key");
    take("master.key", "master.key");
    let other = Node::start_in(restored, &Start::default());
    let asked = other.http.ask("GET", "/v1/webhooks", &[("authorization", &format!("Bearer {key}"))], None);
    assert_eq!(asked.json()["data"][0]["id"], hook, "{}", asked.body);
    // Its secret can be opened: what goes wrong is that nobody is there.
    let path = format!("/v1/webhooks/{}/test", hook.as_str().unwrap_or_default());
    let tested = call(&other, "POST", &path, &Value::Null).json();
    assert!(tested["error"].as_str().is_some_and(|text| text.contains("cannot connect")), "{tested}");
}

#[test]
fn a_configuration_is_checked_shown_and_reloaded() {
    let _machine = Machine::shared();
    let scratch = spillway_tests::node::Scratch::new();
    let file = scratch.0.join("spillway.toml");
    let path = file.display().to_string();
    let write = |text: &str| std::fs::write(&file, text).expect("a file");
    write("[limits]\nviewer_max = 1\n");
    let refused = spillway_tests::node::spillway(&["check", "--config", &path]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(stderr(&refused).contains(":2: `limits.viewer_max` is no key of Spillway's; did you mean `limits.viewers_max`?"), "{}", stderr(&refused));
    let refused = spillway_tests::node::spillway(&["serve", "--config", &path, "--data", &scratch.0.join("data").display().to_string()]);
    assert_eq!(refused.status.code(), Some(3), "a node with a broken configuration does not start");

    write("[limits]\nviewers_per_room_max = 1\n");
    let shown = stdout(&spillway_tests::node::spillway(&["config", "show", "--origin", "--config", &path]));
    assert!(shown.contains(&format!("# {path}:2")), "{shown}");
    let node = Node::start_with(&Start { more: &["--shards", "2", "--config", &path], ..Start::default() });
    let limit = || call(&node, "GET", "/v1/limits", &Value::Null).json()["viewers_per_room_max"].as_u64();
    assert_eq!(limit(), Some(1));
    let reload = |text: &str, wanted: &str| {
        write(text);
        kernel::signal(node.facts()["supervisor_pid"].as_u64().unwrap_or_default() as u32, libc::SIGHUP);
        until(wanted, seconds(10), || if node.output().contains(wanted) { Ok(()) } else { Err(node.output()) });
    };
    reload("[limits]\nviewers_per_room_max = 7\n[engine]\nshards = 1\n", "limits.viewers_per_room_max = 7 (was 1)");
    until("control has heard", seconds(5), || if limit() == Some(7) { Ok(()) } else { Err(format!("{:?}", limit())) });
    reload("[limits\n", "SIGHUP: nothing changes");
    reload("[limits]\nviewers_per_room_max = 8\n[server]\nhttp = \"127.0.0.1:1\"\n", "limits.viewers_per_room_max = 8 (was 7)");
    // What was broken in between kept nobody from starting again.
    restart_control(&node);
    until("the next control has it", seconds(5), || if limit() == Some(8) { Ok(()) } else { Err(format!("{:?}", limit())) });
}

fn stream_named(node: &Node, room: &str) -> String {
    until("the stream is live", seconds(10), || {
        let streams = call(node, "GET", &format!("/v1/streams?room={room}"), &Value::Null).json();
        match streams["data"][0]["live"].as_bool() {
            Some(true) => Ok(streams["data"][0]["id"].as_str().unwrap_or_default().to_owned()),
            _ => Err(streams.to_string()),
        }
    })
}

#[test]
fn a_publisher_is_asked_for_a_keyframe_by_the_api() {
    let _machine = Machine::shared();
    let node = Node::start();
    let hears = Publisher::start(&node, "hears", clip(), Conduct::OBEDIENT);
    let ask = |stream: &str| {
        let answer = call(&node, "POST", &format!("/v1/streams/{stream}/keyframe"), &Value::Null);
        assert_eq!((answer.status, answer.json()["id"].as_str()), (202, Some(stream)));
        answer.json()["result"].as_str().unwrap_or_default().to_owned()
    };
    let stream = stream_named(&node, "hears");
    // Whoever has just sent one is not asked in the same moment.
    until("it is asked", seconds(10), || match ask(&stream).as_str() {
        "asked" => Ok(()),
        other => Err(other.to_owned()),
    });
    until("it has heard", seconds(5), || match hears.told().keyframe_requests.len() {
        0 => Err("no request".to_owned()),
        _ => Ok(()),
    });
}

#[test]
fn what_a_viewer_experiences_is_seen_without_asking_the_engine() {
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let player = node.begin(&["play", "demo", "--seconds", "20", "--json"]);
    let counters = node.counters();
    let quality = until("its words were brought up to date", seconds(10), || {
        let viewers = call(&node, "GET", "/v1/viewers", &Value::Null).json();
        match viewers["data"][0]["quality"]["packets_sent"].as_u64() {
            Some(1..) => Ok(viewers["data"][0]["quality"].clone()),
            _ => Err(viewers.to_string()),
        }
    });
    let commands = counters.sum(CounterId::Commands);
    let step = |name: &str| quality["join"][name].as_f64().unwrap_or_else(|| panic!("{name} in {quality}"));
    assert!(0.0 < step("checked_ms") && step("checked_ms") < step("connected_ms"), "{quality}");
    assert!(step("connected_ms") <= step("first_packet_ms") && step("first_packet_ms") <= step("first_picture_ms"), "{quality}");
    assert_eq!((quality["freezes_estimated"].as_u64(), quality["keyframe_requests"].as_u64()), (Some(0), Some(0)));
    for _ in 0..20 {
        assert_eq!(call(&node, "GET", "/v1/viewers", &Value::Null).status, 200);
    }
    assert_eq!(counters.sum(CounterId::Commands), commands, "no command for it");
    let text = node.http.ask("GET", "/metrics", &[], None).body;
    assert!(text.contains("spillway_viewer_join_seconds_count 1\n"), "{text}");
    drop(player);
}

/// The load is made until the node says that it is there: whatever the machine can do.
#[test]
fn a_busy_node_refuses_more_viewers_and_keeps_those_it_has() {
    let _machine = Machine::alone();
    let node = Node::start_with(&Start { more: &["--shards", "1"], ..Start::default() });
    let _publisher = node.publish("demo", "vp8");
    let player = node.begin(&["play", "demo", "--seconds", "120", "--json"]);
    let token = node.token("demo", "view");
    until("somebody watches", seconds(10), || match viewers(&node.counters()) {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
    let busy = || call(&node, "GET", "/v1/node", &Value::Null).json()["shards"][0]["busy_ratio"].as_f64().unwrap_or_default();
    let join = || node.http.offer("/whep/demo", &token, VIEW);
    // Four times what it takes to serve one, so that a slow machine is not taken for a busy one.
    let idle = until("it was measured", seconds(10), || Some(busy()).filter(|busy| *busy > 0.0).ok_or("nothing yet".to_owned()));
    let max = ((idle * 400.0).ceil() as u32).clamp(10, 60);
    assert_eq!(call(&node, "PATCH", "/v1/limits", &json!({ "busy_percent_max": max })).status, 200);
    let admitted = join();
    assert_eq!(admitted.status, 201, "{}", admitted.body);
    assert_eq!(node.http.delete(admitted.header("location").unwrap_or_default(), &token).status, 200);
    let (over, media) = (AtomicBool::new(false), node.media());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            // Of nobody it knows: looked at and dropped.
            scope.spawn(|| {
                let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                while !over.load(Ordering::Relaxed) {
                    let _ = socket.send_to(&[0x80; 200], media);
                }
            });
        }
        let refused = until("it refuses", seconds(60), || {
            let answer = join();
            if answer.status == 201 {
                node.http.delete(answer.header("location").unwrap_or_default(), &token);
                return Err(format!("{} of {max} %", busy() * 100.0));
            }
            Ok(answer)
        });
        until("it says what ends first", seconds(60), || {
            let capacity = call(&node, "GET", "/v1/node", &Value::Null).json()["capacity"].clone();
            let is_full = capacity["limited_by"] == "shards" && capacity["viewers_left"] == 0;
            is_full.then_some(()).ok_or(capacity.to_string())
        });
        over.store(true, Ordering::Relaxed);
        assert_eq!((refused.status, refused.code().as_str(), refused.header("retry-after")), (503, "capacity_full", Some("10")));
    });
    assert_eq!(viewers(&node.counters()), 1, "who was there is, and nobody else");
    let sent = node.counters().sum(CounterId::PacketsSent);
    until("it is still served", seconds(5), || (node.counters().sum(CounterId::PacketsSent) > sent + 50).then_some(()).ok_or("no packets".to_owned()));
    until("it admits again", seconds(60), || match join().status {
        201 => Ok(()),
        _ => Err(busy().to_string()),
    });
    drop(player);
}

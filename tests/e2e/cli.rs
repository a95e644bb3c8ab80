//! Goal: every subcommand that asks the API does what it says, for scripts (JSON as the API has it, exit codes) and for
//! people; none is forgotten here.
//! Method: one node with a publisher and viewers; each action of each noun, as `--help` lists them, is run.

use serde_json::Value;
use spillway_tests::node::{Machine, Node, spillway, stderr, stdout};
use spillway_tests::wait::{seconds, until};
use std::cell::RefCell;
use std::collections::BTreeSet;

const NOUNS: [&str; 7] = ["room", "stream", "record", "viewer", "keys", "limits", "webhook"];

/// A node, and which `noun action` was run on it.
struct Desk {
    node: Node,
    ran: RefCell<BTreeSet<String>>,
}

impl Desk {
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        self.ran.borrow_mut().insert(arguments.iter().take(2).copied().collect::<Vec<_>>().join(" "));
        let output = self.node.run(arguments);
        (output.status.code(), stdout(&output), stderr(&output))
    }

    /// What it prints for people; it must succeed.
    fn text(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.run(arguments);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}: {out}");
        out
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let out = self.text(&[arguments, &["--json"]].concat());
        assert_eq!(out.lines().count(), 1, "{arguments:?} prints one document: {out}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }

    fn fails(&self, arguments: &[&str], code: i32, word: &str) {
        let (found, out, err) = self.run(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {out} {err}");
        assert!(err.contains(word) && out.is_empty(), "{arguments:?}: {out} {err}");
    }
}

/// The actions that `spillway NOUN --help` lists.
fn actions(noun: &str) -> Vec<String> {
    let help = stdout(&spillway(&[noun, "--help"]));
    let commands = help.split_once("Commands:").map_or("", |(_, rest)| rest).split("\n\n").next().unwrap_or_default();
    let names = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()));
    names.filter(|name| *name != "help").map(|name| format!("{noun} {name}")).collect()
}

fn id(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no name")).to_owned()
}

#[test]
fn every_subcommand_asks_the_api_and_shows_its_answer() {
    let _machine = Machine::shared();
    let desk = Desk { node: Node::start(), ran: RefCell::default() };
    let publisher = desk.node.publish("demo", "h264");
    let _viewer = desk.node.begin(&["play", "demo", "--seconds", "60"]);

    // Rooms.
    assert!(desk.text(&["room", "create", "lobby", "--viewers-max", "5"]).contains("viewers max  5"));
    desk.fails(&["room", "create", "lobby"], 1, "room_exists");
    assert_eq!(desk.json(&["room", "get", "lobby"])["viewers_max"], 5);
    assert_eq!(desk.json(&["room", "update", "lobby", "--viewers-max", "default"])["viewers_max"], Value::Null);
    let rooms = desk.json(&["room", "list"]);
    assert_eq!(rooms["data"].as_array().map(Vec::len), Some(2), "{rooms}");
    let one = desk.json(&["room", "list", "--limit", "1"]);
    assert_eq!((one["data"].as_array().map(Vec::len), &one["has_more"]), (Some(1), &Value::Bool(true)));
    assert!(desk.text(&["room", "list", "--limit", "1"]).ends_with("(the first 1 only; --limit N shows more)"));
    desk.text(&["room", "delete", "lobby"]);
    desk.fails(&["room", "get", "lobby"], 5, "room_not_found");

    // Streams and viewers.
    let streams = desk.json(&["stream", "list", "--room", "demo"]);
    let stream = id(&streams["data"][0]["id"]);
    assert!(desk.text(&["stream", "list"]).lines().any(|line| line.starts_with(&stream) && line.contains("H264")));
    assert_eq!(desk.json(&["stream", "get", &stream])["room"], "demo");
    assert!(desk.text(&["stream", "get", &stream]).contains("cli-publish"));
    let has_keyframe = desk.node.http.get("/openapi.json").json()["paths"]["/v1/streams/{stream}/keyframe"].is_object();
    assert_eq!(desk.run(&["stream", "keyframe", &stream]).0, Some(if has_keyframe { 0 } else { 5 }));
    let viewer = until("the viewer is there", seconds(10), || {
        let viewers = desk.json(&["viewer", "list", "--room", "demo"]);
        match viewers["data"][0]["connected"] == true {
            true => Ok(id(&viewers["data"][0]["id"])),
            false => Err(viewers.to_string()),
        }
    });
    assert!(desk.text(&["viewer", "list"]).contains(&viewer));
    assert!(desk.text(&["viewer", "get", &viewer]).contains("cli-view"));
    desk.text(&["viewer", "kick", &viewer, "--ban", "1h"]);
    assert!(desk.text(&["room", "bans", "demo"]).contains("cli-view"));
    let ban = id(&desk.json(&["room", "bans", "demo"])["data"][0]["id"]);
    desk.text(&["room", "unban", "demo", &ban]);
    desk.fails(&["room", "unban", "demo", &ban], 5, "ban_not_found");
    assert_eq!(desk.text(&["room", "bans", "demo"]).trim(), "nobody is banned");
    desk.fails(&["viewer", "get", "vw_none"], 5, "viewer_not_found");

    // Recordings.
    let recording = id(&desk.json(&["record", "start", "demo"])["id"]);
    desk.fails(&["record", "start", "demo"], 1, "recording_runs");
    until("something is recorded", seconds(20), || match desk.json(&["record", "get", &recording]) {
        found if found["size"].as_u64() > Some(0) => Ok(()),
        found => Err(found.to_string()),
    });
    assert!(desk.text(&["record", "list", "--room", "demo"]).contains(&recording));
    assert!(desk.text(&["record", "stop", &recording]).contains("stopped"));
    until("it is finished", seconds(20), || match desk.json(&["record", "get", &recording]) {
        found if found["state"] == "finished" => Ok(()),
        found => Err(found.to_string()),
    });
    // On the node's own machine it says where the files are.
    let shown = desk.text(&["record", "get", &recording]);
    assert!(shown.contains(&format!("recordings/{recording}/0001.mp4")) && shown.contains("sha256"), "{shown}");
    let output = desk.node.data().join("here.mp4").display().to_string();
    let got = desk.json(&["record", "get", &recording, "-o", &output]);
    assert_eq!(got["size"].as_u64(), std::fs::metadata(&output).ok().map(|file| file.len()));
    desk.fails(&["record", "get", &recording, "-o", &output], 2, "is there already");
    desk.text(&["record", "delete", &recording]);
    desk.fails(&["record", "get", &recording], 5, "recording_not_found");

    // What happened so far, as it is followed.
    let events = desk.text(&["events", "--after", "ev_0", "--types", "viewer.left", "--room", "demo", "--count", "1", "--json"]);
    // An id that nobody gave: something was missed, and that is said first.
    assert!(events.contains("events.missed"), "{events}");
    let first = desk.node.http.ask("GET", "/v1/events?limit=1", &[
        ("authorization", &format!("Bearer {}", stdout(&desk.node.run(&["token", "--role", "node"])))),
        ("accept", "application/json"),
    ], None).json();
    let from = id(&first["data"][0]["id"]);
    let left = desk.text(&["events", "--after", &from, "--types", "viewer.left", "--count", "1", "--json"]);
    let left: Value = serde_json::from_str(&left).expect("an event");
    assert_eq!((left["data"]["id"].as_str(), left["data"]["reason"].as_str()), (Some(viewer.as_str()), Some("kicked")));
    assert!(desk.text(&["events", "--after", &from, "--types", "stream.started", "--count", "1"]).contains("stream.started"));

    // Keys: one works until it is revoked, with no data directory in sight.
    let key = desk.json(&["keys", "create", "--role", "read", "--name", "dash"]);
    let (secret, key) = (id(&key["secret"]), id(&key["id"]));
    let base = desk.node.http.base().to_owned();
    let with = |secret: &str, arguments: &[&str]| spillway(&[arguments, &["--server", &base, "--token", secret]].concat());
    assert!(with(&secret, &["room", "list"]).status.success());
    let refused = with(&secret, &["room", "create", "x"]);
    assert_eq!(refused.status.code(), Some(4), "a read key writes nothing");
    assert!(stderr(&refused).contains("wrong_role") && stderr(&refused).contains("request "), "{}", stderr(&refused));
    let other = id(&desk.json(&["keys", "rotate", &key, "--grace", "1h"])["secret"]);
    assert!(with(&secret, &["node"]).status.success() && with(&other, &["node"]).status.success());
    assert!(desk.text(&["keys", "list"]).contains("dash"));
    desk.text(&["keys", "revoke", &key]);
    assert_eq!(with(&other, &["node"]).status.code(), Some(4));
    // As JSON a problem comes as it is.
    let problem = with(&other, &["node", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&stdout(&problem)).expect("a problem")["code"], "key_invalid");
    let nobody = spillway(&["node", "--server", &base]);
    assert_eq!(nobody.status.code(), Some(4), "{}", stderr(&nobody));

    // Limits.
    assert_eq!(desk.json(&["limits", "set", "viewers_per_room_max=7", "egress_mbps_max=900"])["viewers_per_room_max"], 7);
    let shown = desk.text(&["limits", "get"]);
    assert!(shown.lines().any(|line| line.starts_with("viewers_per_room_max") && line.contains('7') && line.ends_with("API")), "{shown}");
    assert_eq!(desk.json(&["limits", "set", "viewers_per_room_max=default"])["viewers_per_room_max"], 0);
    desk.fails(&["limits", "set", "viewer_max=1"], 1, "viewers_max");
    desk.fails(&["limits", "set", "viewers_max=many"], 2, "default");

    // The node itself.
    let node = desk.json(&["node"]);
    assert_eq!(node["shards"].as_array().map(Vec::len), Some(2));
    assert!(desk.text(&["node"]).contains("2 shards"));
    assert_eq!(desk.json(&["health"])["status"], "ok");
    assert!(desk.text(&["health"]).starts_with("ok, 1 streams"));

    webhooks(&desk);

    desk.text(&["room", "end", "demo"]);
    // It would come again.
    publisher.stop();
    until("the room is empty", seconds(10), || match desk.json(&["stream", "list"])["data"].as_array() {
        Some(streams) if streams.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(desk.text(&["stream", "list"]), "no streams: nobody publishes");
    desk.fails(&["stream", "end", &stream], 5, "stream_not_found");

    let all: BTreeSet<String> = NOUNS.iter().flat_map(|noun| actions(noun)).collect();
    assert!(all.len() > 20, "{all:?}");
    let unseen: Vec<&String> = all.iter().filter(|action| !desk.ran.borrow().contains(*action)).collect();
    assert!(unseen.is_empty(), "never run here: {unseen:?}");
}

/// A receiver that nobody is: what is asked and shown is the API's matter here, not the delivery.
fn webhooks(desk: &Desk) {
    let is_there = desk.node.http.get("/openapi.json").json()["paths"]["/v1/webhooks"].is_object();
    if !is_there {
        for action in actions("webhook") {
            let action = action.split_once(' ').expect("noun action").1.to_owned();
            let more: &[&str] = match action.as_str() {
                "list" => &[],
                "create" => &["https://example.org/h"],
                "retry" => &["wh_0", "dl_0"],
                _ => &["wh_0"],
            };
            desk.fails(&[&["webhook", &action], more].concat(), 5, "not_found");
        }
        return;
    }
    let hook = desk.json(&["webhook", "create", "https://example.org/hooks", "--types", "stream.started,stream.ended"]);
    assert!(hook["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")), "{hook}");
    let hook = id(&hook["id"]);
    assert_eq!(desk.json(&["webhook", "update", &hook, "--enabled", "false"])["enabled"], false);
    assert!(desk.text(&["webhook", "list"]).contains("https://example.org/hooks"));
    assert!(desk.text(&["webhook", "get", &hook]).contains("stream.started,stream.ended"));
    assert!(desk.text(&["webhook", "rotate", &hook, "--grace", "1h"]).contains("whsec_"));
    assert!(desk.text(&["webhook", "test", &hook]).contains("delivered"));
    assert_eq!(desk.text(&["webhook", "deliveries", &hook]), "nothing was sent yet");
    desk.fails(&["webhook", "retry", &hook, "dl_0"], 5, "not_found");
    desk.text(&["webhook", "delete", &hook]);
    desk.fails(&["webhook", "get", &hook], 5, "not_found");
}

#[test]
fn without_a_node_every_command_says_where_to_find_one() {
    let scratch = spillway_tests::node::Scratch::new();
    let data = scratch.0.display().to_string();
    for arguments in [&["room", "list"][..], &["node"], &["health"], &["events"], &["limits", "get"]] {
        let output = spillway(&[arguments, &["--data", &data]].concat());
        assert_eq!(output.status.code(), Some(5), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("spillway serve --data"), "{}", stderr(&output));
    }
    let output = spillway(&["health", "--server", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&spillway(&["completions", shell]));
        assert!(script.contains("keyframe") && script.contains("deliveries"), "{shell}");
    }
}

#[test]
fn the_doctor_checks_a_running_node_by_ice_and_finds_what_is_wrong() {
    let _machine = Machine::shared();
    let node = Node::start();
    let findings = |node: &Node| {
        let output = node.run(&["doctor", "--json"]);
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
        (output.status.code(), report)
    };
    let (code, report) = findings(&node);
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)), "{report}");
    let all = report["findings"].as_array().expect("findings");
    let ice: Vec<&str> = all.iter().filter(|finding| finding["check"] == "ice").filter_map(|finding| finding["says"].as_str()).collect();
    assert!(ice[0].starts_with(&format!("{}/udp answers checks", node.media())), "{ice:?}");
    for finding in all {
        assert_eq!(finding["level"] == "ok", finding["fix"].is_null(), "{finding}");
    }
    // What it says of shards is how one of them runs. The policy is the 41st number of `stat`, and 2 is SCHED_RR.
    let says_real_time = all.iter().any(|finding| finding["check"] == "priority" && finding["says"].as_str().is_some_and(|says| says.contains("are real-time")));
    until("the shard's place is as the doctor says", seconds(10), || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", node.pid("engine_pid"))).expect("the engine runs").flatten();
        let shard = tasks.map(|task| task.path()).find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "shard-0\n")).expect("a shard");
        let stat = std::fs::read_to_string(shard.join("stat")).expect("its state");
        let policy = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(38)).expect("a policy").to_owned();
        if (policy == "2") == says_real_time { Ok(()) } else { Err(format!("policy {policy}, the doctor: {all:?}")) }
    });
    // It left no session and no room behind.
    until("the doctor has left", seconds(10), || match node.counters().sum(spillway_proto::link::counters::CounterId::SessionsPublisher) {
        0 => Ok(()),
        other => Err(other.to_string()),
    });
    // A key that others may read.
    use std::os::unix::fs::PermissionsExt;
    let key = node.data().join("keys/signing.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("our own file");
    let (code, report) = findings(&node);
    assert_eq!((code, &report["ok"]), (Some(1), &Value::Bool(false)), "{report}");
    assert!(report.to_string().contains(&format!("chmod 600 {}", key.display())), "{report}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("our own file");
    // Nobody serves: ports that are taken are named with who has them.
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let scratch = spillway_tests::node::Scratch::new();
    let address = taken.local_addr().expect("its address").to_string();
    let data = scratch.0.display().to_string();
    let output = spillway(&["doctor", "--http", "127.0.0.1:0", "--media", &address, "--data", &data]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stdout(&output).contains("is taken by") && stdout(&output).contains("fix: "), "{}", stdout(&output));
    let output = spillway(&["doctor", "--http", "127.0.0.1:0", "--media", "127.0.0.1:0", "--data", &data]);
    assert!(stdout(&output).contains("a socket of the doctor's stood in for it"), "{}", stdout(&output));
}

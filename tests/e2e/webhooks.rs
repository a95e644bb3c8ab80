//! Goal: events reach whoever is told of them, signed, at least once, whatever the receivers and the node go through; a bad
//! receiver costs nobody else anything. Method: the built binary, receivers that fail, hang and lie, kills of control;
//! signatures are verified by Standard Webhooks' own library.

use crate::api::{call, restart_control};
use serde_json::{Value, json};
use spillway_tests::kernel;
use spillway_tests::node::{Machine, Node, Start};
use spillway_tests::program::library;
use spillway_tests::receiver::{Came, Receiver};
use spillway_tests::wait::{seconds, until};
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

/// A webhook; its id and its secret.
fn hook(node: &Node, body: Value) -> (String, String) {
    let made = call(node, "POST", "/v1/webhooks", &body);
    assert_eq!(made.status, 201, "{}", made.body);
    let text = |name: &str| made.json()[name].as_str().expect("a text").to_owned();
    (text("id"), text("secret"))
}

fn deliveries(node: &Node, hook: &str, query: &str) -> Vec<Value> {
    let answer = call(node, "GET", &format!("/v1/webhooks/{hook}/deliveries?limit=200&{query}"), &Value::Null);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["data"].as_array().expect("a page").clone()
}

fn kinds(came: &[Came]) -> Vec<String> {
    came.iter().map(|one| one.json()["type"].as_str().unwrap_or_default().to_owned()).collect()
}

/// By the library of the standard, from PyPI: `ok`, or what it raises.
fn verified(secret: &str, came: &Came) -> String {
    let script = "import json, sys\nfrom standardwebhooks.webhooks import Webhook\nwhat = json.load(sys.stdin)\n\
                  try:\n    Webhook(what['secret']).verify(what['body'], what['headers'])\n    print('ok')\n\
                  except Exception as error:\n    print(type(error).__name__)";
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .env("PYTHONPATH", library("standardwebhooks"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let what = json!({ "secret": secret, "body": came.body, "headers": came.headers }).to_string();
    python.stdin.take().expect("a pipe").write_all(what.as_bytes()).expect("python reads");
    let output = python.wait_with_output().expect("its output");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_streams_life_is_told_and_signed_and_bad_receivers_cost_nobody_anything() {
    let _machine = Machine::shared();
    let node = Node::start();
    let receiver = Receiver::start();
    let (good, secret) = hook(&node, json!({ "url": receiver.url("/good") }));
    let some = |path: &str| hook(&node, json!({ "url": receiver.url(path), "types": ["stream.started", "viewer.joined", "viewer.left"] })).0;
    let [flaky, gone, redirect, nonsense, long, huge, crawl, hang] =
        ["/flaky", "/gone", "/redirect", "/nonsense", "/long", "/huge", "/crawl", "/hang"].map(some);
    let _publisher = node.publish("demo", "vp8");
    let seen = node.play("demo", 3);
    assert_eq!(seen["lost"], 0, "media notices nothing");
    // Only now: what hangs had its time to hinder the others.
    let told = until("the good one has heard everything", seconds(10), || {
        let told = kinds(&receiver.came("/good"));
        match ["stream.started", "viewer.joined", "viewer.left", "webhook.disabled"].iter().all(|kind| told.iter().any(|one| one == kind)) {
            true => Ok(told),
            false => Err(format!("{told:?}")),
        }
    });
    assert_eq!(told.iter().filter(|kind| *kind == "viewer.joined").count(), 1, "{told:?}");
    for came in receiver.came("/good") {
        assert_eq!(verified(&secret, &came), "ok", "{came:?}");
    }
    let one = receiver.came("/good").remove(0);
    assert_eq!(verified(&secret, &Came { body: one.body.replace("stream", "scream"), ..one.clone() }), if one.body.contains("stream") { "WebhookVerificationError" } else { "ok" });
    assert!(one.header("webhook-id").starts_with("dl_") && one.header("content-type") == "application/json", "{one:?}");

    // The one that failed once heard it again, under the same name.
    let twice = until("it was tried again", seconds(10), || {
        let came = receiver.came("/flaky");
        let same: BTreeSet<&str> = came.iter().map(|one| one.header("webhook-id")).collect();
        if came.len() > same.len() { Ok(came.clone()) } else { Err(format!("{} of {}", same.len(), came.len())) }
    });
    assert!(twice[1].at - twice[0].at >= seconds(0), "in order");
    until("everything of it was taken", seconds(10), || {
        let all = deliveries(&node, &flaky, "");
        if all.iter().all(|one| one["status"] == "delivered") { Ok(()) } else { Err(format!("{all:?}")) }
    });
    let hooks = call(&node, "GET", &format!("/v1/webhooks/{gone}"), &Value::Null).json();
    assert_eq!((hooks["enabled"].as_bool(), hooks["disabled_reason"].as_str()), (Some(false), Some("the receiver answered 410 Gone")));
    assert_eq!(deliveries(&node, &gone, "status=dead")[0]["response_status"], 410);
    assert!(receiver.came("/secret").is_empty(), "redirects are not followed");
    let error = |hook: &str| deliveries(&node, hook, "status=queued").iter().filter_map(|one| one["error"].as_str().map(str::to_owned)).collect::<String>();
    assert!(error(&redirect).contains("redirects are not followed"), "{}", error(&redirect));
    assert!(error(&nonsense).contains("no HTTP came back"), "{}", error(&nonsense));
    assert!(error(&long).contains("no HTTP came back"), "{}", error(&long));
    assert!(deliveries(&node, &huge, "").iter().all(|one| one["status"] == "delivered"), "nothing of an answer's body is read");
    for silent in [&crawl, &hang] {
        until("its first attempt was given up", seconds(20), || {
            let errors = error(silent);
            if errors.contains("no answer within 10s") { Ok(()) } else { Err(errors) }
        });
    }
    let metrics = node.http.get("/metrics").body;
    let count = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or(-1.0);
    assert!(count("spillway_webhook_deliveries_total{result=\"delivered\"}") >= told.len() as f64, "{metrics}");
    assert!(count("spillway_webhook_deliveries_total{result=\"dead\"}") >= 1.0 && count("spillway_webhook_queue_depth") >= 2.0, "{metrics}");

    // One that is disabled is taken up again; a dead letter goes out once more.
    let patched = call(&node, "PATCH", &format!("/v1/webhooks/{gone}"), &json!({ "url": receiver.url("/back"), "enabled": true }));
    assert_eq!((patched.status, patched.json()["disabled_reason"].clone()), (200, Value::Null));
    let dead = deliveries(&node, &gone, "status=dead")[0]["id"].as_str().unwrap_or_default().to_owned();
    assert_eq!(call(&node, "POST", &format!("/v1/webhooks/{gone}/deliveries/{dead}/retry"), &Value::Null).status, 200);
    until("the dead letter came", seconds(10), || {
        let came: Vec<String> = receiver.came("/back").iter().map(|one| one.header("webhook-id").to_owned()).collect();
        if came.contains(&dead) { Ok(()) } else { Err(format!("{came:?}")) }
    });
    let tested = call(&node, "POST", &format!("/v1/webhooks/{good}/test"), &Value::Null).json();
    assert_eq!((tested["delivered"].as_bool(), tested["status"].as_u64()), (Some(true), Some(204)));
}

#[test]
fn two_secrets_sign_while_one_takes_over_from_the_other() {
    let _machine = Machine::shared();
    let node = Node::start();
    let receiver = Receiver::start();
    let (id, first) = hook(&node, json!({ "url": receiver.url("/in"), "types": ["room.created"] }));
    let rotated = call(&node, "POST", &format!("/v1/webhooks/{id}/rotate"), &json!({ "grace_seconds": 3600 }));
    let second = rotated.json()["secret"].as_str().expect("a secret").to_owned();
    let next = |count: usize| {
        call(&node, "POST", "/v1/rooms", &json!({ "id": format!("room-{count}") }));
        until("it came", seconds(10), || receiver.came("/in").get(count - 1).cloned().ok_or("nothing".to_owned()))
    };
    let both = next(1);
    assert_eq!(both.header("webhook-signature").split(' ').count(), 2);
    assert_eq!((verified(&first, &both), verified(&second, &both)), ("ok".to_owned(), "ok".to_owned()));
    // Over a restart; then without grace.
    restart_control(&node);
    let rotated = call(&node, "POST", &format!("/v1/webhooks/{id}/rotate"), &json!({ "grace_seconds": 0 }));
    let third = rotated.json()["secret"].as_str().expect("a secret").to_owned();
    let one = next(2);
    assert_eq!(one.header("webhook-signature").split(' ').count(), 1);
    assert_eq!((verified(&third, &one), verified(&second, &one)), ("ok".to_owned(), "WebhookVerificationError".to_owned()));
}

#[test]
fn what_is_queued_comes_at_least_once_however_often_control_is_killed() {
    const ROOMS: usize = 30;
    let _machine = Machine::shared();
    let node = Node::start();
    // Nobody is there yet.
    let address = Receiver::start().address();
    let (id, secret) = hook(&node, json!({ "url": format!("http://{address}/in"), "types": ["room.created"] }));
    let mut queued = BTreeSet::new();
    for round in 0..3 {
        for number in 0..ROOMS / 3 {
            let room = json!({ "id": format!("room-{round}-{number}") });
            assert_eq!(call(&node, "POST", "/v1/rooms", &room).status, 201);
        }
        until("they are queued", seconds(10), || {
            let all = deliveries(&node, &id, "status=queued");
            queued.extend(all.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)));
            if queued.len() == (round + 1) * ROOMS / 3 { Ok(()) } else { Err(queued.len().to_string()) }
        });
        let control = node.pid("control_pid");
        kernel::kill_9(control);
        node.next_pid("control_pid", control);
    }
    // Killed while it delivers, too.
    let receiver = Receiver::start_on(address);
    assert_eq!(call(&node, "POST", "/v1/rooms", &json!({ "id": "last" })).status, 201);
    until("the first came", seconds(30), || if receiver.came("/in").is_empty() { Err("nothing".to_owned()) } else { Ok(()) });
    let control = node.pid("control_pid");
    kernel::kill_9(control);
    node.next_pid("control_pid", control);
    let came = || receiver.came("/in").iter().map(|one| one.header("webhook-id").to_owned()).collect::<BTreeSet<String>>();
    until("all of them came", seconds(60), || {
        let missing = queued.difference(&came()).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
    });
    for one in receiver.came("/in") {
        assert_eq!(one.header("webhook-signature").split(' ').count(), 1);
    }
    assert_eq!(verified(&secret, &receiver.came("/in")[0]), "ok");
}

#[test]
fn what_was_answered_is_told_once_though_control_is_killed_right_then() {
    const ROOMS: usize = 8;
    let _machine = Machine::shared();
    let node = Node::start();
    let receiver = Receiver::start();
    let (id, _) = hook(&node, json!({ "url": receiver.url("/in"), "types": ["room.created", "room.deleted"] }));
    for number in 0..ROOMS {
        let control = node.pid("control_pid");
        let room = format!("room-{}", number / 2);
        match number % 2 {
            0 => assert_eq!(call(&node, "POST", "/v1/rooms", &json!({ "id": room })).status, 201),
            _ => assert_eq!(call(&node, "DELETE", &format!("/v1/rooms/{room}"), &Value::Null).status, 204),
        }
        kernel::kill_9(control);
        node.next_pid("control_pid", control);
    }
    until("each was told", seconds(60), || {
        let told: BTreeSet<String> = receiver.came("/in").iter().map(|one| one.json()["id"].to_string()).collect();
        if told.len() == ROOMS { Ok(()) } else { Err(format!("{told:?}")) }
    });
    assert_eq!(deliveries(&node, &id, "").len(), ROOMS, "no event became two deliveries");
}

#[test]
fn threat_14_webhooks_do_not_lead_into_the_house() {
    let _machine = Machine::shared();
    let receiver = Receiver::start();
    let port = receiver.address().port();
    // As a node that others reach.
    let node = Node::start_with(&Start { http: "0.0.0.0:0", ..Start::default() });
    for inside in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[::ffff:169.254.169.254]/".to_owned(),
        "http://10.0.0.1/".to_owned(),
        "https://[fd00::1]/".to_owned(),
        "http://0.0.0.0/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "http://user:pass@example.org/".to_owned(),
    ] {
        let refused = call(&node, "POST", "/v1/webhooks", &json!({ "url": inside }));
        assert_eq!((refused.status, refused.code().as_str()), (400, "bad_request"), "{inside}: {}", refused.body);
    }
    // Names are looked at when they are called, whatever they meant before.
    for name in ["localhost", "127.1", "0x7f000001", "2130706433"] {
        let (id, _) = hook(&node, json!({ "url": format!("http://{name}:{port}/in") }));
        let tested = call(&node, "POST", &format!("/v1/webhooks/{id}/test"), &Value::Null).json();
        assert_eq!(tested["delivered"], false);
        assert!(tested["error"].as_str().is_some_and(|text| text.contains("which is loopback")), "{name}: {tested}");
    }
    assert!(receiver.came("/in").is_empty() && receiver.came("/").is_empty(), "somebody was called");
    // Whom the operator lets in gets in; link-local addresses never do.
    let more = ["--config", &allowing(&node)];
    let node = Node::start_with(&Start { http: "0.0.0.0:0", more: &more, ..Start::default() });
    let (id, _) = hook(&node, json!({ "url": format!("http://localhost:{port}/in") }));
    assert_eq!(call(&node, "POST", &format!("/v1/webhooks/{id}/test"), &Value::Null).json()["delivered"], true);
    let refused = call(&node, "POST", "/v1/webhooks", &json!({ "url": "http://169.254.169.254/" }));
    assert_eq!((refused.status, refused.code().as_str()), (400, "bad_request"));
}

/// A configuration file beside a node's data.
fn allowing(node: &Node) -> String {
    let path = node.data().join("allowing.toml");
    std::fs::write(&path, "[webhooks]\nallow_private = true\n").expect("a file");
    path.display().to_string()
}

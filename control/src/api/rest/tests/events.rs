//! Goal: who listens hears what happened once and in order, also after he was away; who may not, hears nothing.
//! Method: control over real HTTP; listeners read their streams until the event they wait for.

use super::{Node, Role, Value, json, operator, with};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A stream of server-sent events.
struct Listener(BufReader<TcpStream>);

impl Listener {
    fn new(node: &Node, bearer: &str, path: &str, last: Option<&str>) -> Listener {
        let mut stream = TcpStream::connect(node.control.as_ref().unwrap().2).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let last = last.map_or(String::new(), |last| format!("Last-Event-ID: {last}\r\n"));
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n{last}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut listener = Listener(BufReader::new(stream));
        // The comment at the beginning: from here on nothing is missed.
        assert!(listener.line().starts_with("HTTP/1.1 200"));
        while !listener.line().starts_with([':', 'e', 'i']) {}
        listener
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the stream ended");
        line
    }

    fn next(&mut self) -> Value {
        loop {
            if let Some(json) = self.line().strip_prefix("data: ") {
                return serde_json::from_str(json).unwrap();
            }
        }
    }

    fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next();
            if event["type"] == kind {
                return event;
            }
        }
    }
}

fn kinds(page: &Value) -> Vec<String> {
    page["data"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_streams_life_is_told_in_order_and_each_part_once() {
    let node = Node::new();
    let operator = operator(&node);
    let mut all = Listener::new(&node, &operator.bearer, "/v1/events", None);
    node.live();
    let started = all.until("stream.started");
    assert_eq!(started["room"], "demo");
    let viewer = node.view();
    let joined = all.until("viewer.joined");
    assert_eq!((joined["data"]["sub"].as_str(), joined["data"]["id"].clone()), (Some("v"), operator.get("/v1/viewers").json()["data"][0]["id"].clone()));
    node.delete(viewer.header("location"), &node.token("demo", Role::View, "v"));
    assert_eq!(all.until("viewer.left")["data"]["reason"], "left");
    node.view();
    let kicked = all.until("viewer.joined")["data"]["id"].as_str().unwrap().to_owned();
    operator.post(&format!("/v1/viewers/{kicked}/kick"), &Value::Null);
    let left = all.until("viewer.left");
    assert_eq!((left["data"]["reason"].as_str(), left["data"]["id"].as_str()), (Some("kicked"), Some(&*kicked)));
    let stream = started["data"]["id"].as_str().unwrap();
    operator.post(&format!("/v1/streams/{stream}/end"), &Value::Null);
    assert_eq!(all.until("stream.ended")["data"]["id"], stream);
    operator.post("/v1/rooms", &json!({ "id": "lobby" }));
    assert_eq!(all.until("room.created")["room"], "lobby");
    // The same as pages, everything once.
    let page = operator.get("/v1/events?types=stream.started,stream.ended,viewer.joined,viewer.left,room.created").json();
    let wanted = ["stream.started", "viewer.joined", "viewer.left", "viewer.joined", "viewer.left", "stream.ended", "room.created"];
    assert_eq!(kinds(&page), wanted);
    let first = operator.get("/v1/events?limit=2&types=stream.started,stream.ended,room.created").json();
    assert_eq!((kinds(&first).len(), first["has_more"].as_bool()), (2, Some(true)));
    let path = format!("/v1/events?types=room.created&after={}", first["next_cursor"].as_str().unwrap());
    assert_eq!(kinds(&operator.get(&path).json()), ["room.created"]);
    operator.get("/v1/events?types=stream.begun").is(400, "bad_request");
}

#[test]
fn who_was_away_hears_what_he_missed_or_that_he_did() {
    let mut node = Node::new();
    let bearer = operator(&node).bearer;
    let mut listener = Listener::new(&node, &bearer, "/v1/events?room=demo", None);
    node.live();
    let last = listener.until("stream.started")["id"].as_str().unwrap().to_owned();
    drop(listener);
    node.view();
    node.until(|node| node.service().state("demo").viewers == 1);
    let mut listener = Listener::new(&node, &bearer, "/v1/events?room=demo&types=viewer.joined", Some(&last));
    listener.until("viewer.joined");
    // The next control knows nothing of the last one's events, and says so; whoever is there is no news.
    node.restart_control_over_live_tracks();
    let page = operator(&node).get(&format!("/v1/events?after={last}")).json();
    assert_eq!(kinds(&page), ["events.missed", "node.started", "node.engine_ready"]);
    let fresh = operator(&node).get("/v1/events").json();
    assert_eq!(kinds(&fresh), ["node.started", "node.engine_ready"]);
    // An engine that dies ends everything that was told.
    let mut listener = Listener::new(&node, &bearer, "/v1/events", None);
    node.engine.kill(node.link);
    assert_eq!(listener.until("viewer.left")["data"]["reason"], "engine");
    listener.until("stream.ended");
}

#[test]
fn a_rooms_admin_hears_its_room_alone_and_a_revoked_token_nothing() {
    let node = Node::new();
    let own = node.token("demo", Role::Admin, "a");
    let other = node.token("other", Role::Admin, "a");
    let mut listener = Listener::new(&node, &own, "/v1/events", None);
    operator(&node).post("/v1/rooms", &json!({ "id": "secret" }));
    node.live();
    assert_eq!(listener.next()["room"], "demo", "nothing of the node, nothing of another room");
    assert!(with(&node, &*other).get("/v1/events").json()["data"].as_array().unwrap().is_empty());
    with(&node, &*other).get("/v1/events?room=demo").is(403, "wrong_room");
}

#[test]
fn metrics_are_for_this_machine_and_for_who_may_read() {
    let node = Node::new();
    node.live();
    assert_eq!(node.view().status(), 201);
    let reply = node.request("GET", "/metrics", &[], "");
    assert_eq!((reply.status(), reply.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "spillway_engine_up 1",
        "spillway_streams 1",
        "media_server_active_streams 1",
        "spillway_view_joins_total{result=\"admitted\"} 1",
        "media_server_streaming_method{method=\"webrtc\"} 1",
        "spillway_engine_packets_sent_total 0",
    ] {
        assert!(reply.body.lines().any(|found| found == line), "{line} in\n{}", reply.body);
    }
    // What a proxy passes on is not of this machine.
    node.request("GET", "/metrics", &[("X-Forwarded-For", "203.0.113.9")], "").is(401, "token_missing");
    with(&node, node.token("demo", Role::Admin, "a")).get("/metrics").is(403, "wrong_role");
    let key = operator(&node).key(json!({ "role": "read" }));
    assert_eq!(with(&node, key["secret"].as_str().unwrap()).get("/metrics").status(), 200);
    assert_eq!(node.request("GET", "/startupz", &[], "").status(), 200);
}

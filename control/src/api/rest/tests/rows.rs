//! Goal: every row of the OpenAPI document is kept, its errors included.
//! Method: a story in which everything succeeds once, then every mistake at every row; each answer is held against the
//! document, and at the end nothing the document says may be unseen.

use super::recordings::Stage;
use super::{Client, Node, ROWS, Reply, Role, Row, json, openapi, operator, with};
use crate::auth::{Grant, KeyText, mint_at, unix_now};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

struct Witness {
    document: Value,
    /// Row, and the code of a problem or the status of a success.
    seen: BTreeSet<(&'static str, String)>,
}

impl Witness {
    /// Holds an answer against the document.
    fn saw(&mut self, row: &'static Row, reply: &Reply) {
        let operation = &self.document["paths"][row.path][row.method.to_lowercase()];
        let response = &operation["responses"][reply.status().to_string()];
        assert!(response.is_object(), "{}: {} is not documented: {}", row.id, reply.status(), reply.body);
        let kind = reply.header("content-type");
        if kind.starts_with("video/") {
            assert!(response["content"][kind].is_object(), "{}: {kind} is not documented", row.id);
            self.seen.insert((row.id, reply.status().to_string()));
            return;
        }
        let Some(content) = response["content"].as_object() else {
            assert!(reply.body.is_empty(), "{}: {}", row.id, reply.body);
            self.seen.insert((row.id, reply.status().to_string()));
            return;
        };
        let schema = &content.get(kind).unwrap_or_else(|| panic!("{}: {kind} is not documented", row.id))["schema"];
        let value = reply.json();
        check(schema, &self.document, &value, row.id);
        let what = if kind == "application/json" { reply.status().to_string() } else { value["code"].as_str().unwrap().to_owned() };
        self.seen.insert((row.id, what));
    }
}

/// What of JSON Schema the document uses.
fn check(schema: &Value, document: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        return check(&document["components"]["schemas"][name], document, value, &format!("{at}/{name}"));
    }
    if let Some(all) = schema["allOf"].as_array() {
        return all.iter().for_each(|schema| check(schema, document, value, at));
    }
    if let Some(any) = schema["anyOf"].as_array() {
        if value.is_null() {
            assert!(any.iter().any(|schema| schema["type"] == "null"), "{at}: null");
        } else {
            check(&any[0], document, value, at);
        }
        return;
    }
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is none of {words:?}");
    }
    match schema["type"].as_str() {
        Some("string") => assert!(value.is_string(), "{at}: {value}"),
        Some("boolean") => assert!(value.is_boolean(), "{at}: {value}"),
        Some("integer") => assert!(value.is_u64(), "{at}: {value}"),
        Some("number") => assert!(value.is_number(), "{at}: {value}"),
        Some("array") => {
            for item in value.as_array().unwrap_or_else(|| panic!("{at}: {value}")) {
                check(&schema["items"], document, item, at);
            }
        }
        Some("object") => {
            let object = value.as_object().unwrap_or_else(|| panic!("{at}: {value}"));
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(object.contains_key(name.as_str().unwrap()), "{at}: {name} is missing in {value}");
            }
            for (name, value) in object {
                match schema["properties"].get(name) {
                    Some(property) => check(property, document, value, &format!("{at}.{name}")),
                    None => assert_ne!(schema["additionalProperties"], false, "{at}: {name} is not documented"),
                }
            }
        }
        // `properties` beside `allOf`, without a type.
        None => {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                check(property, document, &value[name], &format!("{at}.{name}"));
            }
        }
        Some(other) => panic!("{at}: the test does not know {other}"),
    }
}

fn row(id: &str) -> &'static Row {
    ROWS.iter().find(|row| row.id == id).unwrap_or_else(|| panic!("no row {id}"))
}

/// The row's path with names put in.
fn path(row: &Row, names: &[(&str, &str)]) -> String {
    names.iter().fold(row.path.to_owned(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value))
}

#[test]
fn every_row_of_the_document_is_kept() {
    let mut node = Node::new();
    node.settings.requests_per_token = 0;
    let mut witness = Witness { document: openapi::document(), seen: BTreeSet::new() };
    let operator = operator(&node);
    // Somebody who is not there: what is for him waits.
    let hook_body = json!({ "url": "http://127.0.0.1:9/in" });
    let new_hook = || operator.post("/v1/webhooks", &hook_body).json()["id"].as_str().unwrap().to_owned();
    let (hook, doomed_hook) = (new_hook(), new_hook());
    node.live();
    assert_eq!(node.post("/whep/demo", &node.token("demo", Role::View, "troll"), crate::api::test_node::VIEW).status(), 201);
    let troll = operator.get("/v1/viewers").json()["data"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(operator.post(&format!("/v1/viewers/{troll}/kick"), &json!({ "ban_seconds": 60 })).status(), 200);
    let ban = operator.get("/v1/rooms/demo/bans").json()["data"][0]["id"].as_str().unwrap().to_owned();
    node.view();
    node.view();
    node.until(|node| node.service().state("demo").viewers == 2);
    let stream = operator.get("/v1/streams").json()["data"][0]["id"].as_str().unwrap().to_owned();
    let viewer = operator.get("/v1/viewers").json()["data"][0]["id"].as_str().unwrap().to_owned();
    let key = operator.key(json!({ "role": "read" }))["id"].as_str().unwrap().to_owned();
    let doomed = operator.key(json!({ "role": "read" }))["id"].as_str().unwrap().to_owned();
    let deliveries = || operator.get(&format!("/v1/webhooks/{hook}/deliveries")).json()["data"][0]["id"].as_str().map(str::to_owned);
    node.until(|_| deliveries().is_some());
    let delivery = deliveries().unwrap();
    let names = [
        ("room", "demo"),
        ("stream", &*stream),
        ("viewer", &*viewer),
        ("key", &*key),
        ("account", "acme"),
        ("webhook", &*hook),
        ("delivery", &*delivery),
        ("ban", &*ban),
        ("recording", "rec_0"),
    ];
    let (stage, recording) = (Stage::new(&node), std::cell::OnceCell::<String>::new());
    let body_of = |row: &Row| match row.id {
        "createRoom" => json!({ "id": "demo" }),
        "updateRoom" => json!({ "viewers_max": 100 }),
        "createToken" => json!({ "room": "demo", "role": "view" }),
        "createKey" => json!({ "role": "stream", "room": "demo" }),
        "updateLimits" => json!({ "viewers_max": 1_000 }),
        "rotateKey" | "rotateWebhook" => json!({ "grace_seconds": 0 }),
        "kickViewer" => json!({ "ban_seconds": 0 }),
        "createWebhook" => hook_body.clone(),
        "updateWebhook" => json!({ "types": ["stream.started"], "room": null }),
        _ => Value::Null,
    };
    let text = |body: &Value| if body.is_null() { String::new() } else { body.to_string() };

    // Everything succeeds once; ends come last.
    let order = |row: &&Row| match row.id {
        "createRoom" => 0,
        "kickViewer" => 2,
        "endStream" | "endStreamUnversioned" => 3,
        "endRoom" => 4,
        "deleteRoom" | "revokeKey" | "liftBan" | "deleteWebhook" | "deleteRecording" => 5,
        _ => 1,
    };
    let mut rows: Vec<&'static Row> = ROWS.iter().collect();
    rows.sort_by_key(order);
    for row in &rows {
        let mut names = names;
        names[8].1 = recording.get().map_or("rec_0", String::as_str);
        if row.id == "deleteRecording" {
            stage.finish(names[8].1);
        }
        if row.id == "revokeKey" {
            names[3].1 = &doomed;
        }
        if row.id == "deleteWebhook" {
            names[5].1 = &doomed_hook;
        }
        if row.id == "endStreamUnversioned" {
            // The first one was ended by the row before.
            node.live();
        }
        let again = operator.get("/v1/streams").json()["data"][0]["id"].as_str().unwrap_or("").to_owned();
        if row.id == "endStreamUnversioned" {
            names[1].1 = &again;
        }
        let key = format!("once-{}", row.id);
        let reply = operator.ask(row.method, &path(row, &names), &[("Idempotency-Key", &key)], &text(&body_of(row)));
        assert_eq!(reply.status(), row.status, "{}: {}", row.id, reply.body);
        witness.saw(row, &reply);
        if row.id == "startRecording" {
            recording.set(reply.json()["id"].as_str().unwrap().to_owned()).unwrap();
            stage.write(recording.get().unwrap(), "0001.mp4", b"0123456789");
        }
    }
    // The health of a node with an engine was seen; the same fields come with 503.

    let expired = {
        let grant = Grant { room: String::new(), role: Role::Node, sub: "x".into(), acct: None, ttl: Duration::from_secs(1) };
        mint_at(&node.key, grant, unix_now() - 100)
    };
    let unknown = KeyText::fresh(&crate::ids::fresh("key", 1).unwrap()).unwrap().0;
    let large = json!({ "name": "x".repeat(70_000) }).to_string();
    for row in ROWS.iter() {
        let (good, body) = (path(row, &names), text(&body_of(row)));
        let mut ask = |client: &Client<'_>, path: &str, headers: &[(&str, &str)], body: &str| {
            let reply = client.ask(row.method, path, headers, body);
            witness.saw(row, &reply);
        };
        for bearer in ["", "a.b.c", &expired, &unknown, &node.token("demo", Role::View, "v"), &node.token("other", Role::Admin, "a")] {
            ask(&with(&node, bearer), &good, &[], &body);
        }
        ask(&operator, &format!("{good}?what=1"), &[], &body);
        if row.path.contains("{room}") {
            ask(&operator, &row.path.replace("{room}", "no%20name"), &[], &body);
        }
        if row.takes_body() {
            ask(&operator, &good, &[], "{");
            ask(&operator, &good, &[], &large);
            ask(&operator, &good, &[("Content-Type", "application/sdp")], "v=0");
        }
        if row.method == "POST" {
            // The key it succeeded with, for something else.
            let others = [
                ("room", "demo2"),
                ("stream", "st_other"),
                ("viewer", "vw_other"),
                ("key", "key_other"),
                ("webhook", "wh_other"),
                ("delivery", "dl_other"),
                ("ban", "ban_other"),
                ("recording", "rec_other"),
            ];
            let key = format!("once-{}", row.id);
            let other = if row.takes_body() { json!({ "id": "other" }).to_string() } else { String::new() };
            ask(&operator, &path(row, &others), &[("Idempotency-Key", &key)], &other);
        }
    }
    // What only one row can be told.
    let nothing = [("room", "nobody"), ("stream", "st_0"), ("viewer", "vw_0"), ("key", "key_0"), ("webhook", "wh_0"), ("delivery", "dl_0"), ("ban", "ban_0"), ("recording", "rec_0")];
    for id in ["getDelivery", "retryDelivery"] {
        let none = [("webhook", &*hook), ("delivery", "dl_0")];
        witness.saw(row(id), &operator.ask(row(id).method, &path(row(id), &none), &[], ""));
    }
    for row in ROWS.iter().filter(|row| row.errors.iter().any(|(status, _)| *status == 404)) {
        let reply = operator.ask(row.method, &path(row, &nothing), &[], &text(&body_of(row)));
        witness.saw(row, &reply);
    }
    assert_eq!(operator.post("/v1/rooms", &json!({ "id": "twice" })).status(), 201);
    witness.saw(row("createRoom"), &operator.post("/v1/rooms", &json!({ "id": "twice" })));
    for (id, path) in [("updateRoom", "/v1/rooms/twice"), ("updateLimits", "/v1/limits"), ("updateWebhook", &*format!("/v1/webhooks/{hook}"))] {
        witness.saw(row(id), &operator.ask("PATCH", path, &[("If-Match", "\"999\"")], "{}"));
    }
    node.live();
    let made = operator.post("/v1/rooms/demo/recordings", &Value::Null).json();
    let made = made["id"].as_str().unwrap();
    stage.write(made, "0001.mp4", b"0123456789");
    witness.saw(row("startRecording"), &operator.post("/v1/rooms/demo/recordings", &Value::Null));
    witness.saw(row("startRecording"), &operator.post("/v1/rooms/nobody/recordings", &Value::Null));
    assert_eq!(operator.post("/v1/rooms", &json!({ "id": "off", "record": "off" })).status(), 201);
    witness.saw(row("startRecording"), &operator.post("/v1/rooms/off/recordings", &Value::Null));
    witness.saw(row("deleteRecording"), &operator.ask("DELETE", &format!("/v1/recordings/{made}"), &[], ""));
    let download = |query: &str, range: &str| operator.ask("GET", &format!("/v1/recordings/{made}/download{query}"), &[("Range", range)], "");
    witness.saw(row("downloadRecording"), &download("?file=0009.mp4", ""));
    witness.saw(row("downloadRecording"), &download("", "bytes=10-"));
    let admin = with(&node, node.token("demo", Role::Admin, "a"));
    witness.saw(row("listEvents"), &admin.get("/v1/events?room=other"));
    witness.saw(row("createToken"), &admin.post("/v1/tokens", &json!({ "room": "other", "role": "view" })));
    for _ in 0..crate::store::WEBHOOKS_MAX {
        operator.post("/v1/webhooks", &hook_body);
    }
    witness.saw(row("createWebhook"), &operator.post("/v1/webhooks", &hook_body));
    // With a backend that knows foreign tokens, or fails to.
    let backend = super::backend::Backend::start(|token| (if token == "no" { 401 } else { 500 }, String::new()));
    let mut settings = node.settings.clone();
    settings.backend_url = Some(backend.url.clone());
    node.service().set_settings(settings.clone()).unwrap();
    for row in ROWS.iter() {
        for bearer in ["no", "what"] {
            witness.saw(row, &with(&node, bearer).ask(row.method, &path(row, &names), &[], &text(&body_of(row))));
        }
    }
    settings.requests_per_token = 1;
    node.service().set_settings(settings).unwrap();
    let hasty = with(&node, node.token("", Role::Node, "hasty"));
    for row in ROWS.iter() {
        let refused = (0..40).map(|_| hasty.ask(row.method, &path(row, &nothing), &[], "")).find(|reply| reply.status() == 429);
        witness.saw(row, &refused.unwrap());
    }

    // Last: without an engine.
    node.link.clear_engine_ready();
    let reply = operator.post(&path(row("requestKeyframe"), &names), &Value::Null);
    reply.is(503, "engine_restarting");
    witness.saw(row("requestKeyframe"), &reply);
    witness.saw(row("startRecording"), &operator.post("/v1/rooms/demo/recordings", &Value::Null));

    let mut unseen = Vec::new();
    for row in ROWS.iter() {
        let success = (row.id, row.status.to_string());
        let all = row.problems().into_iter().map(|(_, code)| (row.id, code.to_owned()));
        unseen.extend(all.chain([success]).filter(|what| !witness.seen.contains(what)));
    }
    assert!(unseen.is_empty(), "documented and never seen: {unseen:#?}");
}

#[test]
fn other_methods_are_refused_with_what_is_allowed_and_options_are_answered() {
    let node = Node::new();
    let operator = operator(&node);
    for row in ROWS.iter() {
        let path = path(row, &[("room", "demo"), ("stream", "x"), ("viewer", "x"), ("key", "x"), ("account", "x"), ("webhook", "x"), ("delivery", "x"), ("ban", "x"), ("recording", "x")]);
        let refused = operator.ask("PUT", &path, &[], "");
        refused.is(405, "method_not_allowed");
        let allow = refused.header("allow").to_owned();
        for other in ROWS.iter().filter(|other| other.path == row.path) {
            assert!(allow.split(", ").any(|method| method == other.method), "{path}: {allow}");
        }
        let count = ROWS.iter().filter(|other| other.path == row.path).count();
        let plain = allow.split(", ").filter(|method| !["HEAD", "OPTIONS"].contains(method)).count();
        assert_eq!(plain, count, "{path}: {allow}");
        let options = node.request("OPTIONS", &path, &[("Origin", "http://x")], "");
        assert_eq!((options.status(), options.header("access-control-allow-methods")), (200, allow.as_str()));
    }
}

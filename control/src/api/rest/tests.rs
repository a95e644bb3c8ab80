//! Goal: the API does what its document says, for everybody who may and for nobody else, and nothing twice.
//! Method: control over real HTTP with an engine of the imagination (`test_node`); every answer is held against the
//! OpenAPI document, and every row's every problem must have been seen.

mod admission;
mod backend;
mod events;
mod insight;
mod matrix;
mod recordings;
mod rows;

use super::openapi;
use super::table::{ROWS, Row};
use crate::api::problem::CODES;
use crate::api::test_node::{Node, Reply};
use crate::auth::Role;
use serde_json::{Value, json};

/// Somebody who calls.
pub struct Client<'a> {
    pub node: &'a Node,
    pub bearer: String,
}

impl Client<'_> {
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let authorization = format!("Bearer {}", self.bearer);
        let mut all = vec![("Authorization", authorization.as_str()), ("Accept", "application/json")];
        all.extend_from_slice(headers);
        self.node.request(method, path, &all, body)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.ask("POST", path, &[], &if body.is_null() { String::new() } else { body.to_string() })
    }

    pub fn patch(&self, path: &str, body: &Value) -> Reply {
        self.ask("PATCH", path, &[], &body.to_string())
    }

    /// A key of this role; what `POST /v1/keys` answers.
    pub fn key(&self, more: Value) -> Value {
        let reply = self.post("/v1/keys", &more);
        assert_eq!(reply.status(), 201, "{}", reply.body);
        reply.json()
    }
}

/// Who may everything.
pub fn operator(node: &Node) -> Client<'_> {
    Client { node, bearer: node.token("", Role::Node, "operator") }
}

fn with<'a>(node: &'a Node, bearer: impl Into<String>) -> Client<'a> {
    Client { node, bearer: bearer.into() }
}

/// Everything in DATA, to look for what must not be there.
fn stored(node: &Node) -> Vec<u8> {
    let files = ["spillway.db", "spillway.db-wal"].into_iter();
    files.flat_map(|name| std::fs::read(node.data.join(name)).unwrap_or_default()).collect()
}

fn holds(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn a_post_sent_twice_is_done_once_also_by_the_next_control() {
    let mut node = Node::new();
    let body = json!({ "role": "read", "name": "dash" });
    let once = [("Idempotency-Key", "key 1")];
    let first = operator(&node).ask("POST", "/v1/keys", &once, &body.to_string());
    assert_eq!((first.status(), first.header("idempotent-replayed")), (201, ""));
    let second = operator(&node).ask("POST", "/v1/keys", &once, &body.to_string());
    assert_eq!((second.status(), second.header("idempotent-replayed")), (201, "true"));
    assert_eq!((second.json(), second.header("location")), (first.json(), first.header("location")));
    node.kill_control();
    node.start_control();
    let third = operator(&node).ask("POST", "/v1/keys", &once, &body.to_string());
    assert_eq!((third.status(), third.json()), (201, first.json()));
    assert_eq!(operator(&node).get("/v1/keys").json()["data"].as_array().unwrap().len(), 1);
    // Another request under the same key, and another caller with the same key.
    operator(&node).ask("POST", "/v1/keys", &once, &json!({ "role": "admin" }).to_string()).is(409, "idempotency_mismatch");
    operator(&node).ask("POST", "/v1/rooms", &once, &json!({ "id": "x" }).to_string()).is(409, "idempotency_mismatch");
    let other = with(&node, operator(&node).key(json!({ "role": "admin" }))["secret"].as_str().unwrap());
    let reply = other.ask("POST", "/v1/keys", &once, &body.to_string());
    assert_eq!((reply.status(), reply.header("idempotent-replayed")), (201, ""));
    assert_ne!(reply.json()["id"], first.json()["id"]);
    // A refusal is not kept: the next may be better.
    let once = [("Idempotency-Key", "key 2")];
    operator(&node).ask("POST", "/v1/streams/none/end", &once, "").is(404, "stream_not_found");
    operator(&node).ask("POST", "/v1/streams/none/end", &once, "").is(404, "stream_not_found");
    operator(&node).ask("POST", "/v1/rooms", &[("Idempotency-Key", &"x".repeat(256))], "{}").is(400, "bad_request");
    let secret = first.json()["secret"].as_str().unwrap().to_owned();
    assert!(!holds(&stored(&node), &secret), "what is shown once is nowhere in clear");
}

#[test]
fn no_secret_that_was_given_out_is_in_the_database_in_clear() {
    let mut node = Node::new();
    let mut secrets = Vec::new();
    {
        let operator = operator(&node);
        let mut give = |path: &str, body: Value, key: &str| {
            let reply = operator.ask("POST", path, &[("Idempotency-Key", key)], &body.to_string());
            assert!([200, 201].contains(&reply.status()), "{path}: {}", reply.body);
            let secret = reply.json()["secret"].as_str().or(reply.json()["token"].as_str()).unwrap().to_owned();
            secrets.extend([secret.clone(), secret.trim_start_matches("whsec_").to_owned()]);
            reply.json()["id"].as_str().unwrap_or_default().to_owned()
        };
        let hook = give("/v1/webhooks", json!({ "url": "http://127.0.0.1:9/" }), "a");
        give(&format!("/v1/webhooks/{hook}/rotate"), json!({}), "b");
        let key = give("/v1/keys", json!({ "role": "admin" }), "c");
        give(&format!("/v1/keys/{key}/rotate"), json!({ "grace_seconds": 60 }), "d");
        give("/v1/keys", json!({ "role": "stream", "room": "demo" }), "e");
        give("/v1/tokens", json!({ "room": "demo", "role": "admin" }), "f");
        // A delivery that was tried has been written as well.
        assert_eq!(operator.post("/v1/rooms", &json!({ "id": "lobby" })).status(), 201);
        node.until(|_| operator.get(&format!("/v1/webhooks/{hook}")).json()["failing_since"].is_string());
        assert!(!operator.get("/v1/webhooks").body.contains("whsec_"));
    }
    let master = std::fs::read_to_string(node.data.join("master.key")).unwrap();
    secrets.push(master.trim().to_owned());
    let found = |node: &Node| secrets.iter().filter(|secret| holds(&stored(node), secret)).count();
    assert_eq!(found(&node), 0);
    node.kill_control();
    assert_eq!(found(&node), 0);
    // What the test looks for could be found: a webhook's URL stands there in clear.
    assert!(holds(&stored(&node), "http://127.0.0.1:9/"));
}

#[test]
fn of_many_that_come_at_once_with_one_key_one_is_done() {
    let node = Node::new();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let post = || {
            let once = [("Idempotency-Key", "same")];
            operator(&node).ask("POST", "/v1/keys", &once, &json!({ "role": "read" }).to_string()).status()
        };
        let all: Vec<_> = (0..16).map(|_| scope.spawn(post)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| [201, 409].contains(status)) && statuses.contains(&201), "{statuses:?}");
    assert_eq!(operator(&node).get("/v1/keys").json()["data"].as_array().unwrap().len(), 1);
}

#[test]
fn a_list_shows_everything_that_stays_once_whatever_comes_and_goes() {
    let node = Node::new();
    let operator = operator(&node);
    let names: Vec<String> = (0..9).map(|number| format!("room-{number}")).collect();
    for name in &names {
        assert_eq!(operator.post("/v1/rooms", &json!({ "id": name })).status(), 201);
    }
    let mut seen: Vec<String> = Vec::new();
    let mut path = "/v1/rooms?limit=2".to_owned();
    loop {
        let page = operator.get(&path).json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|room| room["id"].as_str().unwrap().to_owned()));
        // What was shown goes (the cursor's own room, or the one before it), and something comes before it.
        let last = seen[seen.len() - 1 - (seen.len() / 2 + 1) % 2 * usize::from(seen.len() > 1)].clone();
        assert_eq!(operator.ask("DELETE", &format!("/v1/rooms/{last}"), &[], "").status(), 204);
        operator.post("/v1/rooms", &json!({ "id": format!("{last}-before").replace("room", "aroom") }));
        let Some(cursor) = page["next_cursor"].as_str() else {
            assert_eq!(page["has_more"], false);
            break;
        };
        path = format!("/v1/rooms?limit=2&after={cursor}");
    }
    assert_eq!(seen, names);
    for wrong in ["limit=0", "limit=201", "limit=x", "after=%00", "after=a%2Fb"] {
        operator.get(&format!("/v1/rooms?{wrong}")).is(400, "bad_request");
    }
}

#[test]
fn viewers_come_in_pages_by_age_and_a_live_room_is_listed_undeclared() {
    let node = Node::new();
    node.live();
    for _ in 0..5 {
        assert_eq!(node.view().status(), 201);
    }
    let operator = operator(&node);
    let rooms = operator.get("/v1/rooms").json();
    assert_eq!((rooms["data"][0]["id"].as_str(), rooms["data"][0]["declared"].as_bool()), (Some("demo"), Some(false)));
    let all = operator.get("/v1/viewers").json();
    let ids: Vec<&str> = all["data"].as_array().unwrap().iter().map(|viewer| viewer["id"].as_str().unwrap()).collect();
    assert!(ids.len() == 5 && ids.is_sorted(), "{ids:?}");
    let first = operator.get("/v1/rooms/demo/viewers?limit=2").json();
    // The one that was shown last goes: its place in the order is known all the same.
    let last = first["data"][1]["id"].as_str().unwrap();
    assert_eq!(operator.post(&format!("/v1/viewers/{last}/kick"), &Value::Null).status(), 200);
    let next = first["next_cursor"].as_str().unwrap();
    assert_eq!(next, last);
    let second = operator.get(&format!("/v1/rooms/demo/viewers?limit=2&after={next}")).json();
    assert_eq!(second["data"][0]["id"].as_str(), Some(ids[2]));
    assert!(operator.get("/v1/viewers?room=other").json()["data"].as_array().unwrap().is_empty());
}

#[test]
fn a_change_meant_for_another_version_is_refused() {
    let node = Node::new();
    let operator = operator(&node);
    let made = operator.post("/v1/rooms", &json!({ "id": "lobby", "viewers_max": 5 }));
    let tag = made.header("etag").to_owned();
    assert_eq!((tag.as_str(), made.header("location")), ("\"1\"", "/v1/rooms/lobby"));
    let change = |tag: &str, body: Value| operator.ask("PATCH", "/v1/rooms/lobby", &[("If-Match", tag)], &body.to_string());
    let changed = change(&tag, json!({ "viewers_max": 7 }));
    assert_eq!((changed.status(), changed.header("etag")), (200, "\"2\""));
    change(&tag, json!({ "viewers_max": 8 })).is(412, "version_mismatch");
    change("W/\"2\"", json!({ "viewers_max": 8 })).is(412, "version_mismatch");
    assert_eq!(operator.get("/v1/rooms/lobby").json()["viewers_max"], 7);
    assert_eq!(operator.patch("/v1/rooms/lobby", &json!({})).json()["viewers_max"], 7, "nothing named, nothing changed");
    assert_eq!(operator.patch("/v1/rooms/lobby", &json!({ "viewers_max": null })).json()["viewers_max"], Value::Null);
    let refused = operator.patch("/v1/rooms/lobby", &json!({ "max_viewers": 1 }));
    refused.is(400, "bad_request");
    assert!(refused.body.contains("viewers_max"), "it says what there is: {}", refused.body);
    let limits = operator.get("/v1/limits");
    let set = operator.ask("PATCH", "/v1/limits", &[("If-Match", limits.header("etag"))], "{\"viewers_max\":9}");
    assert_eq!((set.status(), set.json()["set_here"].clone()), (200, json!(["viewers_max"])));
    operator.ask("PATCH", "/v1/limits", &[("If-Match", limits.header("etag"))], "{\"viewers_max\":8}").is(412, "version_mismatch");
}

#[test]
fn limits_set_by_the_api_stay_over_restarts_and_go_back_with_null() {
    let mut node = Node::new();
    node.settings.limits.viewers_per_room_max = 4;
    node.kill_control();
    node.start_control();
    assert_eq!(operator(&node).get("/v1/limits").json()["viewers_per_room_max"], 4);
    assert_eq!(operator(&node).patch("/v1/limits", &json!({ "viewers_per_room_max": 1 })).status(), 200);
    node.kill_control();
    node.start_control();
    node.live();
    assert_eq!(node.view().status(), 201);
    let refused = node.view();
    refused.is(409, "room_full");
    assert_eq!(refused.header("retry-after"), "10");
    let back = operator(&node).patch("/v1/limits", &json!({ "viewers_per_room_max": null })).json();
    assert_eq!((back["viewers_per_room_max"].as_u64(), back["set_here"].clone()), (Some(4), json!([])));
    assert_eq!(node.view().status(), 201);
    // A SIGHUP with other settings, while it runs.
    let mut settings = node.settings.clone();
    settings.limits.viewers_per_room_max = 2;
    node.service().set_settings(settings).unwrap();
    node.view().is(409, "room_full");
    // The room's own limit goes before.
    assert_eq!(operator(&node).post("/v1/rooms", &json!({ "id": "demo", "viewers_max": 3 })).status(), 201);
    assert_eq!(node.view().status(), 201);
    node.view().is(409, "room_full");
}

#[test]
fn a_stream_key_publishes_in_its_room_until_it_is_revoked() {
    let node = Node::new();
    let operator = operator(&node);
    let key = operator.key(json!({ "role": "stream", "room": "demo", "name": "OBS", "account": "acme" }));
    let secret = key["secret"].as_str().unwrap();
    let offer = crate::api::test_node::PUBLISH;
    // As OBS does it, and again: it takes over from itself.
    for path in ["/whip", "/whip/demo"] {
        assert_eq!(node.post(path, secret, offer).status(), 201, "{path}");
    }
    node.post("/whip/other", secret, offer).is(403, "wrong_room");
    node.post("/whep/demo", secret, offer).is(403, "wrong_role");
    let streams = operator.get("/v1/streams").json();
    assert_eq!(streams["data"][0]["publisher"]["account"], "acme");
    assert_eq!(operator.get("/v1/accounts/acme/usage").json()["publishers"], 1);
    with(&node, secret).get("/v1/streams").is(403, "wrong_role");
    // Another secret: the one before goes on for a while, or not at all.
    let path = format!("/v1/keys/{}/rotate", key["id"].as_str().unwrap());
    let second = operator.post(&path, &json!({ "grace_seconds": 3600 })).json();
    for good in [secret, second["secret"].as_str().unwrap()] {
        assert_eq!(node.post("/whip", good, offer).status(), 201);
    }
    let third = operator.post(&path, &Value::Null).json();
    node.post("/whip", second["secret"].as_str().unwrap(), offer).is(401, "key_invalid");
    node.post("/whip", secret, offer).is(401, "key_invalid");
    let third = third["secret"].as_str().unwrap();
    assert_eq!(node.post("/whip", third, offer).status(), 201);
    assert!([secret, third].iter().all(|secret| !holds(&stored(&node), secret)));
    assert!(!operator.get("/v1/keys").body.contains("spk_"));
    let path = format!("/v1/keys/{}", key["id"].as_str().unwrap());
    assert_eq!(operator.ask("DELETE", &path, &[], "").status(), 204);
    node.post("/whip", third, offer).is(401, "key_invalid");
    operator.get(&path).is(404, "key_not_found");
}

#[test]
fn a_minted_token_opens_what_its_links_say_and_no_more_than_its_maker_could() {
    let node = Node::new();
    node.live();
    let operator = operator(&node);
    let minted = operator.post("/v1/tokens", &json!({ "room": "demo", "role": "view", "ttl_seconds": 60 }));
    assert_eq!(minted.status(), 201, "{}", minted.body);
    let token = minted.json();
    let bearer = token["token"].as_str().unwrap();
    assert_eq!(token["urls"]["whip"], Value::Null);
    let whep = token["urls"]["whep"].as_str().unwrap();
    assert_eq!(whep, "http://x/whep/demo", "the request's Host, until public_url is set");
    assert!(token["urls"]["watch"].as_str().unwrap().ends_with(&format!("/watch/demo#token={bearer}")));
    assert_eq!(node.post(whep.strip_prefix("http://x").unwrap(), bearer, crate::api::test_node::VIEW).status(), 201);
    // A room's admin: its own room, its own account, and no longer than itself.
    let admin = with(&node, node.token("demo", Role::Admin, "ann"));
    let child = admin.post("/v1/tokens", &json!({ "room": "demo", "role": "admin", "ttl_seconds": 86_400 })).json();
    let claims = crate::auth::verify(&node.key, child["token"].as_str().unwrap(), crate::auth::unix_now()).unwrap();
    assert!(claims.exp <= crate::auth::unix_now() + 60);
    admin.post("/v1/tokens", &json!({ "room": "other", "role": "view" })).is(403, "wrong_room");
    admin.post("/v1/tokens", &json!({ "room": "demo", "role": "view", "account": "rich" })).is(400, "bad_request");
    for wrong in [
        json!({ "room": "demo", "role": "node" }),
        json!({ "room": "a b", "role": "view" }),
        json!({ "room": "demo", "role": "view", "ttl_seconds": 0 }),
        json!({ "room": "demo", "role": "view", "sub": "a\nb" }),
        json!({ "role": "view" }),
    ] {
        operator.post("/v1/tokens", &wrong).is(400, "bad_request");
    }
    let mut settings = node.settings.clone();
    settings.public_url = Some("https://live.example.org".into());
    node.service().set_settings(settings).unwrap();
    let token = operator.post("/v1/tokens", &json!({ "room": "demo", "role": "publish" })).json();
    assert_eq!(token["urls"]["whip"], "https://live.example.org/whip/demo");
    // A Host that is none ends up in no link.
    node.service().set_settings(node.settings.clone()).unwrap();
}

#[test]
fn an_ended_stream_leaves_nobody_and_a_kicked_viewer_is_gone() {
    let node = Node::new();
    node.live();
    let (first, second) = (node.view(), node.view());
    assert_eq!((first.status(), second.status()), (201, 201));
    let admin = with(&node, node.token("demo", Role::Admin, "ann"));
    let viewers = admin.get("/v1/viewers").json();
    let viewer = viewers["data"][0]["id"].as_str().unwrap();
    assert_eq!(admin.post(&format!("/v1/viewers/{viewer}/kick"), &Value::Null).json()["ended"], true);
    admin.post(&format!("/v1/viewers/{viewer}/kick"), &Value::Null).is(404, "viewer_not_found");
    node.delete(first.header("location"), &node.token("demo", Role::View, "x")).is(404, "session_not_found");
    // Unversioned, as other systems call it.
    let streams = admin.get("/streams").json();
    let stream = streams["data"][0]["id"].as_str().unwrap();
    assert_eq!(admin.get(&format!("/streams/{stream}")).json()["viewers"], 1);
    assert_eq!(admin.post(&format!("/streams/{stream}/end"), &Value::Null).status(), 200);
    node.until(|node| {
        let tables = node.engine.tables();
        tables.sessions.is_empty() && tables.tracks.is_empty() && tables.feeds.is_empty()
    });
    assert!(admin.get("/streams").json()["data"].as_array().unwrap().is_empty());
    admin.get(&format!("/streams/{stream}")).is(404, "stream_not_found");
    // And a room as a whole.
    node.live();
    assert_eq!(admin.post("/v1/rooms/demo/end", &Value::Null).status(), 200);
    node.until(|node| node.engine.tables().sessions.is_empty());
    admin.post("/v1/rooms/demo/end", &Value::Null).is(404, "room_not_found");
}

#[test]
fn health_has_the_fields_that_other_systems_read() {
    let mut node = Node::new();
    node.live();
    let health = node.request("GET", "/health", &[], "").json();
    let names: Vec<&str> = health.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["activeStreams", "cpu", "memory", "status", "uptime"]);
    assert_eq!((health["status"].as_str(), health["activeStreams"].as_u64()), (Some("ok"), Some(1)));
    assert!(health["memory"]["used"].as_u64() > Some(0) && health["memory"]["total"].as_u64() > health["memory"]["used"].as_u64());
    assert!(health["cpu"]["user"].is_u64() && health["cpu"]["system"].is_u64());
    node.engine.kill(node.link);
    let reply = node.request("GET", "/health", &[], "");
    assert_eq!((reply.status(), reply.json()["status"].as_str()), (503, Some("unavailable")));
}

#[test]
fn ice_servers_are_told_with_every_session() {
    let node = Node::new();
    let mut settings = node.settings.clone();
    settings.turn.urls = vec!["stun:stun.example.org".into()];
    node.service().set_settings(settings).unwrap();
    for reply in [node.live(), node.view()] {
        assert_eq!(reply.header("link"), "<stun:stun.example.org>; rel=\"ice-server\"");
    }
}

#[test]
fn every_code_stands_in_the_readme_with_the_same_words() {
    let readme = include_str!("../../../README.md");
    for (code, words) in CODES {
        let line = readme.lines().find(|line| line.starts_with(&format!("| `{code}` | ")));
        let line = line.unwrap_or_else(|| panic!("{code} is in no table of README.md"));
        assert!(line.contains(words), "{code}: README.md says\n{line}\nand the code says\n{words}");
    }
    let documented: Vec<String> = ROWS.iter().flat_map(Row::problems).map(|(_, code)| code.to_owned()).collect();
    assert!(documented.iter().all(|code| CODES.iter().any(|(known, _)| known == code)));
}

#[test]
fn rfc3339_is_right_over_leap_years_and_centuries() {
    for (ms, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_709_164_800_123, "2024-02-29T00:00:00.123Z"),
        (1_798_761_599_999, "2026-12-31T23:59:59.999Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
    ] {
        assert_eq!(crate::ids::rfc3339(ms), text);
    }
}

#[test]
fn the_document_and_its_page_are_served() {
    let node = Node::new();
    let document = node.request("GET", "/openapi.json", &[], "").json();
    assert_eq!(document, openapi::document());
    assert_eq!(document["openapi"], "3.1.0");
    let page = node.request("GET", "/docs", &[], "");
    assert_eq!((page.status(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "nothing from elsewhere");
    let ids: Vec<&str> = ROWS.iter().map(|row| row.id).collect();
    assert!(ids.iter().all(|id| ids.iter().filter(|other| *other == id).count() == 1));
}

//! Goal: exactly those may who should: role by row by fault of the credential.
//! Method: what each caller may is said here a second time, by rules of its own, and compared with what each row does
//! for each caller.

use super::{Node, ROWS, Role, Row, Value, json, operator, with};
use crate::auth::{Claims, Grant, mint, mint_at, unix_now};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use std::time::Duration;

/// What a caller is told before anything is looked up: Ok is anything that is not 401 or 403.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Refused(u16, &'static str),
}

const ROLE: Outcome = Outcome::Refused(403, "wrong_role");
const ROOM: Outcome = Outcome::Refused(403, "wrong_room");

/// The rules, by the row's id.
fn expected(caller: &str, row: &Row) -> Outcome {
    if ["getHealth", "getLobby"].contains(&row.id) {
        return Outcome::Passed;
    }
    let reads = row.method == "GET";
    let of_one_room = ["getRoom", "endRoom", "listRoomViewers", "listBans", "liftBan", "startRecording"].contains(&row.id);
    let shared = [
        "listRooms", "listStreams", "getStream", "endStream", "listStreamsUnversioned", "getStreamUnversioned",
        "endStreamUnversioned", "requestKeyframe", "listViewers", "getViewer", "kickViewer", "createToken", "listEvents",
        "listRecordings", "getRecording", "stopRecording", "downloadRecording", "deleteRecording",
    ];
    match caller {
        "nobody" => Outcome::Refused(401, "token_missing"),
        "expired" => Outcome::Refused(401, "token_expired"),
        "foreign" | "unsigned" | "other audience" | "damaged" | "other algorithm" | "node token with a room" => {
            Outcome::Refused(401, "token_invalid")
        }
        "revoked" | "guessed" | "rotated" => Outcome::Refused(401, "key_invalid"),
        "node" | "admin key" => Outcome::Passed,
        "read key" => if reads { Outcome::Passed } else { ROLE },
        "view" | "publish" | "stream key" => ROLE,
        // The body of createToken names the room `demo`, too.
        "admin of demo" => if of_one_room || shared.contains(&row.id) { Outcome::Passed } else { ROLE },
        "admin of other" if of_one_room || row.id == "createToken" => ROOM,
        "admin of other" => if shared.contains(&row.id) { Outcome::Passed } else { ROLE },
        other => panic!("{other}"),
    }
}

#[test]
fn threat_12_whoever_asks_gets_what_he_may_and_nothing_else() {
    let node = Node::new();
    let operator = operator(&node);
    let secret = |body: Value| operator.key(body)["secret"].as_str().unwrap().to_owned();
    let claims = |room: &str, role, aud: &str| Claims {
        iss: "spillway".into(),
        sub: "x".into(),
        acct: "a".into(),
        aud: aud.into(),
        room: room.into(),
        role,
        iat: 0,
        exp: unix_now() + 60,
        jti: "1".into(),
    };
    let grant = |role| Grant { room: String::new(), role, sub: "x".into(), acct: None, ttl: Duration::from_secs(60) };
    let raw = node.key.bytes();
    let signed = |algorithm, claims: &Claims| {
        jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(&raw)).unwrap()
    };
    let good = node.token("", Role::Node, "x");
    let payload = good.split('.').nth(1).unwrap().to_owned();
    let revoked = operator.key(json!({ "role": "admin" }));
    let path = format!("/v1/keys/{}", revoked["id"].as_str().unwrap());
    assert_eq!(operator.ask("DELETE", &path, &[], "").status(), 204);
    let admin_key = secret(json!({ "role": "admin" }));
    // Its secret of before, without a grace.
    let rotated = operator.key(json!({ "role": "admin" }));
    let path = format!("/v1/keys/{}/rotate", rotated["id"].as_str().unwrap());
    assert_eq!(operator.post(&path, &Value::Null).status(), 200);
    let callers: Vec<(&str, String)> = vec![
        ("nobody", String::new()),
        ("expired", mint_at(&node.key, grant(Role::Node), unix_now() - 100)),
        ("foreign", mint(&crate::auth::SigningKey::from_bytes([3; 32]), grant(Role::Node))),
        // {"alg":"none","typ":"JWT"}
        ("unsigned", format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.")),
        ("other audience", signed(Algorithm::HS256, &claims("", Role::Node, "other"))),
        ("other algorithm", signed(Algorithm::HS512, &claims("", Role::Node, "spillway"))),
        ("node token with a room", signed(Algorithm::HS256, &claims("demo", Role::Node, "spillway"))),
        ("damaged", good[..good.len() - 4].to_owned()),
        ("revoked", revoked["secret"].as_str().unwrap().to_owned()),
        ("rotated", rotated["secret"].as_str().unwrap().to_owned()),
        ("guessed", format!("{}{}", &admin_key[..admin_key.len() - 4], "0000")),
        ("node", good),
        ("admin key", admin_key),
        ("read key", secret(json!({ "role": "read" }))),
        ("stream key", secret(json!({ "role": "stream", "room": "demo" }))),
        ("view", node.token("demo", Role::View, "v")),
        ("publish", node.token("demo", Role::Publish, "p")),
        ("admin of demo", node.token("demo", Role::Admin, "a")),
        ("admin of other", node.token("other", Role::Admin, "a")),
    ];
    for (caller, bearer) in &callers {
        for row in ROWS.iter() {
            let path = ["room", "account"].iter().fold(row.path.to_owned(), |path, name| path.replace(&format!("{{{name}}}"), "demo"));
            let path = ["stream", "viewer", "key", "webhook", "delivery", "ban", "recording"].iter().fold(path, |path, name| path.replace(&format!("{{{name}}}"), "none"));
            // Nothing that would change who may what: bodies that are refused, and names that are not there.
            let body = match row.id {
                "createToken" => json!({ "room": "demo", "role": "view" }).to_string(),
                _ if row.takes_body() => json!({ "no": "field" }).to_string(),
                _ => String::new(),
            };
            let reply = with(&node, bearer.as_str()).ask(row.method, &path, &[], &body);
            let got = match reply.status() {
                401 | 403 => Outcome::Refused(reply.status(), CODES_OF.iter().copied().find(|code| reply.json()["code"] == *code).unwrap_or("?")),
                _ => Outcome::Passed,
            };
            assert_eq!(got, expected(caller, row), "{caller} at {} {}: {}", row.method, row.path, reply.body);
        }
    }
}

const CODES_OF: [&str; 6] = ["token_missing", "token_expired", "token_invalid", "key_invalid", "wrong_role", "wrong_room"];

#[test]
fn a_rooms_admin_sees_its_room_alone() {
    let node = Node::new();
    node.live();
    node.view();
    node.until(|node| node.service().state("demo").viewers == 1);
    let operator = operator(&node);
    assert_eq!(operator.post("/v1/rooms", &json!({ "id": "other" })).status(), 201);
    let stream = operator.get("/v1/streams").json()["data"][0]["id"].as_str().unwrap().to_owned();
    let viewer = operator.get("/v1/viewers").json()["data"][0]["id"].as_str().unwrap().to_owned();
    let (own, other) = (with(&node, node.token("demo", Role::Admin, "a")), with(&node, node.token("other", Role::Admin, "a")));
    let count = |client: &super::Client<'_>, path: &str| client.get(path).json()["data"].as_array().unwrap().len();
    for path in ["/v1/streams", "/streams", "/v1/viewers", "/v1/viewers?room=demo", "/v1/streams?room=demo"] {
        assert_eq!((count(&own, path), count(&other, path)), (1, 0), "{path}");
    }
    assert_eq!(own.get("/v1/rooms").json()["data"][0]["id"], "demo");
    assert_eq!(other.get("/v1/rooms").json()["data"][0]["id"], "other");
    other.get(&format!("/v1/streams/{stream}")).is(404, "stream_not_found");
    other.post(&format!("/v1/streams/{stream}/end"), &Value::Null).is(404, "stream_not_found");
    other.get(&format!("/v1/viewers/{viewer}")).is(404, "viewer_not_found");
    other.post(&format!("/v1/viewers/{viewer}/kick"), &Value::Null).is(404, "viewer_not_found");
    assert_eq!(own.get(&format!("/v1/viewers/{viewer}")).json()["id"], viewer.as_str());
}

//! Goal: every answer of the HTTP API that scripts rely on: status, code, headers, Location.
//! Method: one node, requests as standard clients send them (offers of OBS and Chromium), no media but a
//! synthetic publisher where a room must be live.

use crate::offers::{PUBLISH, VIEW};
use spillway_tests::http::Answer;
use spillway_tests::node::{Machine, Node, Start};
use spillway_tests::wait::{seconds, until};

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// 201 with a Location that is a path of that resource and nothing else; returns it.
fn location(answer: &Answer, prefix: &str) -> String {
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.header("content-type"), Some("application/sdp"));
    assert!(answer.body.starts_with("v=0"), "{}", answer.body);
    let location = answer.header("location").expect("a Location").to_owned();
    let session = location.strip_prefix(prefix).unwrap_or_else(|| panic!("{location} begins with {prefix}"));
    assert!(!session.is_empty() && session.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{location}");
    location
}

#[test]
fn without_a_valid_token_nothing_opens() {
    let _machine = Machine::shared();
    let node = Node::start();
    let sdp = [("content-type", "application/sdp")];
    for path in ["/whip/demo", "/whip", "/whep/demo"] {
        let answer = node.http.ask("POST", path, &sdp, Some(PUBLISH));
        assert_eq!((answer.status, answer.code().as_str()), (401, "token_missing"), "{path}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert_eq!(node.http.offer(path, "no.valid.token", PUBLISH).code(), "token_invalid");
    }
    assert_eq!(node.http.get("/v1/rooms/demo/live").status, 401);
    for method in ["DELETE", "PATCH"] {
        let path = format!("/whip/demo/{}", "0".repeat(32));
        assert_eq!(node.http.ask(method, &path, &[], None).status, 401, "{method}");
    }
    // A token of another node's key.
    let other = Node::start();
    assert_eq!(node.http.offer("/whip/demo", &other.token("demo", "publish"), PUBLISH).code(), "token_invalid");

    let short = node.token_of("demo", "publish", &["--ttl", "1s"]);
    until("a token of 1 s expires", seconds(5), || match node.http.offer("/whip/demo", &short, PUBLISH) {
        answer if answer.status == 401 => Ok(assert_eq!(answer.code(), "token_expired")),
        answer => Err(answer.status.to_string()),
    });
}

#[test]
fn a_token_opens_its_room_in_its_role_wherever_it_stands_in_the_request() {
    let _machine = Machine::shared();
    let node = Node::start();
    let publish = node.token("demo", "publish");
    let view = node.token("demo", "view");
    for (path, token, code) in [
        ("/whip/other", &publish, "wrong_room"),
        ("/whep/other", &view, "wrong_room"),
        ("/whip/demo", &view, "wrong_role"),
        ("/whep/demo", &publish, "wrong_role"),
    ] {
        let answer = node.http.offer(path, token, PUBLISH);
        assert_eq!((answer.status, answer.code().as_str()), (403, code), "{path}");
    }
    assert_eq!(node.http.ask("GET", "/v1/rooms/other/live", &[("authorization", &bearer(&view))], None).status, 403);
    for role in ["publish", "view", "admin"] {
        let state = node.http.live("demo", &node.token("demo", role));
        assert_eq!((state["live"].as_bool(), state["viewers"].as_u64()), (Some(false), Some(0)), "{role}: {state}");
    }

    // Bearer, the raw header, the query: the same publisher takes over from itself, 201 each time.
    let sdp = ("content-type", "application/sdp");
    location(&node.http.offer("/whip/demo", &publish, PUBLISH), "/whip/demo/");
    location(&node.http.ask("POST", "/whip/demo", &[("authorization", &publish), sdp], Some(PUBLISH)), "/whip/demo/");
    let query = format!("/whip/demo?token={publish}");
    location(&node.http.ask("POST", &query, &[sdp], Some(PUBLISH)), "/whip/demo/");
    // OBS has one field for the URL and one for the token: the room is the token's.
    location(&node.http.offer("/whip", &publish, PUBLISH), "/whip/demo/");
    // An admin may publish and view.
    location(&node.http.offer("/whip/all", &node.token("all", "admin"), PUBLISH), "/whip/all/");
}

#[test]
fn a_bad_body_is_refused_with_what_is_wrong_with_it() {
    let _machine = Machine::shared();
    let node = Node::start();
    let token = node.token("demo", "publish");
    let bearer = bearer(&token);
    let broken: Vec<String> = PUBLISH.lines().enumerate().map(|(index, line)| if index == 11 { "a=fingerprint:sha-256 no".into() } else { line.to_owned() }).collect();
    let answer = node.http.offer("/whip/demo", &token, &broken.join("\r\n"));
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad_sdp"));
    assert!(answer.json()["detail"].as_str().unwrap_or_default().contains("line 12"), "{}", answer.body);
    let answer = node.http.offer("/whip/demo", &token, "hello");
    assert_eq!(answer.status, 400);
    assert!(answer.json()["detail"].as_str().unwrap_or_default().contains("line 1"), "{}", answer.body);

    for content_type in ["text/plain", "application/json"] {
        let headers = [("authorization", bearer.as_str()), ("content-type", content_type)];
        let answer = node.http.ask("POST", "/whip/demo", &headers, Some(PUBLISH));
        assert_eq!((answer.status, answer.code().as_str()), (415, "unsupported_media_type"), "{content_type}");
    }
    let parameter = [("authorization", bearer.as_str()), ("content-type", "application/sdp; charset=utf-8")];
    assert_eq!(node.http.ask("POST", "/whip/demo", &parameter, Some(PUBLISH)).status, 201);

    let long = |bytes: usize| format!("{PUBLISH}a=x:{}\r\n", "y".repeat(bytes - PUBLISH.len() - 6));
    assert_eq!(node.http.offer("/whip/demo", &token, &long(65_536)).status, 201, "64 KB is allowed");
    let answer = node.http.offer("/whip/demo", &token, &long(65_537));
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
}

#[test]
fn what_is_not_live_can_be_asked_for_again() {
    let _machine = Machine::shared();
    let node = Node::start();
    let answer = node.http.offer("/whep/demo", &node.token("demo", "view"), VIEW);
    assert_eq!((answer.status, answer.code().as_str()), (409, "stream_not_live"));
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert_eq!(answer.json()["retry_after_seconds"], 2);
}

#[test]
fn the_same_publisher_takes_over_and_another_is_told_that_the_room_is_busy() {
    let _machine = Machine::shared();
    let node = Node::start();
    let ada = node.token_of("demo", "publish", &["--sub", "ada"]);
    let again = node.token_of("demo", "publish", &["--sub", "ada"]);
    let bob = node.token_of("demo", "publish", &["--sub", "bob"]);
    let first = location(&node.http.offer("/whip/demo", &ada, PUBLISH), "/whip/demo/");
    let answer = node.http.offer("/whip/demo", &bob, PUBLISH);
    assert_eq!((answer.status, answer.code().as_str()), (409, "room_busy"));
    let second = location(&node.http.offer("/whip/demo", &again, PUBLISH), "/whip/demo/");
    assert_ne!(first, second);
    assert_eq!(node.http.delete(&first, &ada).status, 404, "the first was taken over");

    let foreign = node.token("other", "publish");
    assert_eq!(node.http.delete(&second, &foreign).status, 403, "the URL alone ends nothing");
    assert_eq!(node.http.delete(&second, &again).status, 200);
    let answer = node.http.delete(&second, &again);
    assert_eq!((answer.status, answer.code().as_str()), (404, "session_not_found"));
    location(&node.http.offer("/whip/demo", &bob, PUBLISH), "/whip/demo/");
}

#[test]
fn offers_that_cannot_be_served_say_why() {
    let _machine = Machine::shared();
    let node = Node::start();
    let publish = node.token("demo", "publish");
    // Who begins the handshake is the offer's choice.
    for (offered, answered) in [("passive", "a=setup:active"), ("active", "a=setup:passive"), ("actpass", "a=setup:passive")] {
        let offer = PUBLISH.replace("a=setup:actpass", &format!("a=setup:{offered}"));
        let answer = node.http.offer("/whip/demo", &publish, &offer);
        assert_eq!(answer.status, 201, "{}", answer.body);
        assert!(answer.body.lines().any(|line| line == answered), "{offered}: {}", answer.body);
    }

    let unknown = PUBLISH.replace("H264/90000", "AV2/90000");
    let answer = node.http.offer("/whip/demo", &publish, &unknown);
    assert_eq!((answer.status, answer.code().as_str()), (422, "no_common_codec"));
    let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
    for name in ["AV2", "H264", "VP8"] {
        assert!(detail.contains(name), "both lists are named: {detail}");
    }

    // A player that knows no codec of the stream.
    let _publisher = node.publish("vp8", "vp8");
    let view = VIEW.replace("VP8/90000", "VP7/90000");
    let answer = node.http.offer("/whep/vp8", &node.token("vp8", "view"), &view);
    assert_eq!((answer.status, answer.code().as_str()), (422, "no_common_codec"));
    let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
    for name in ["VP7", "VP8"] {
        assert!(detail.contains(name), "both lists are named: {detail}");
    }
}

#[test]
fn a_viewers_session_is_made_trickled_to_and_ended() {
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "h264");
    let view = node.token("demo", "view");
    let path = location(&node.http.offer("/whep/demo", &view, VIEW), "/whep/demo/");

    let fragment = "a=ice-ufrag:Xb3k\r\na=ice-pwd:q7Jx/9Zk2mVw+L0pRtYc5sDa\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\na=candidate:1 1 udp 2122260223 192.0.2.7 50000 typ host\r\na=end-of-candidates\r\n";
    let bearer = bearer(&view);
    let patch = |kind: &str| node.http.ask("PATCH", &path, &[("authorization", &bearer), ("content-type", kind)], Some(fragment));
    assert_eq!(patch("application/trickle-ice-sdpfrag").status, 204);
    assert_eq!((patch("application/sdp").status, patch("application/sdp").code().as_str()), (415, "unsupported_media_type"));

    assert_eq!(node.http.delete(&path, &view).status, 200);
    assert_eq!(node.http.delete(&path, &view).status, 404);
    assert_eq!(patch("application/trickle-ice-sdpfrag").status, 404);
}

#[test]
fn publishers_are_told_what_the_server_receives_and_viewers_are_not() {
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "h264");
    let publish = node.token("demo", "publish");
    let state = node.http.hear("demo", &publish, |state| {
        let received = &state["received"];
        received["keyframe_interval_ms"].as_u64() > Some(0) && received["bitrate_bps"].as_u64() > Some(0)
    });
    let received = &state["received"];
    assert_eq!(received["codec"], "H264", "{state}");
    assert_eq!(received["loss_ratio"].as_f64(), Some(0.0), "{state}");
    let interval = received["keyframe_interval_ms"].as_u64().unwrap_or_default();
    assert!((1_800..=2_200).contains(&interval), "a keyframe every 2 s: {state}");
    assert!(state["epoch"].is_u64(), "{state}");
    let state = node.http.live("demo", &node.token("demo", "view"));
    assert!(state["live"] == true && state["received"].is_null(), "{state}");
}

#[test]
fn browsers_of_other_origins_may_ask() {
    let _machine = Machine::shared();
    let node = Node::start();
    let session = "0".repeat(32);
    for path in ["/whip".to_owned(), "/whip/demo".into(), "/whep/demo".into(), format!("/whip/demo/{session}"), format!("/whep/demo/{session}")] {
        let headers = [("origin", "https://example.org"), ("access-control-request-method", "POST")];
        let answer = node.http.ask("OPTIONS", &path, &headers, None);
        assert!(matches!(answer.status, 200 | 204), "{path}: {}", answer.status);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
        let allowed = answer.header("access-control-allow-headers").unwrap_or_default().to_lowercase();
        assert!(allowed.contains("authorization") && allowed.contains("content-type"), "{path}: {allowed}");
        let method = if path.ends_with(&session) { "DELETE" } else { "POST" };
        let methods = answer.header("access-control-allow-methods").unwrap_or_default();
        assert!(methods.contains(method), "{path}: {methods}");
        if method == "POST" {
            assert_eq!(answer.header("accept-post"), Some("application/sdp"), "{path}");
        }
    }
    let answer = node.http.offer("/whip/demo", &node.token("demo", "publish"), PUBLISH);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let exposed = answer.header("access-control-expose-headers").unwrap_or_default().to_lowercase();
    assert!(exposed.contains("location"), "{exposed}");
}

#[test]
fn pages_are_served_with_a_policy_and_nothing_else_is() {
    let _machine = Machine::shared();
    let node = Node::start();
    assert_eq!(node.http.get("/livez").status, 200);
    assert_eq!(node.http.get("/readyz").status, 200);
    for path in ["/", "/publish/demo", "/watch/demo"] {
        let answer = node.http.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").unwrap_or_default().starts_with("text/html"), "{path}");
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        // No CDN: whatever a page names is ours and there.
        for name in answer.body.split(['"', '\'']).filter(|part| part.starts_with("/assets/")) {
            assert_eq!(node.http.get(name).status, 200, "{name} of {path}");
        }
        assert!(!answer.body.contains("https://") && !answer.body.contains("src=\"//"), "{path} loads from elsewhere");
        let tag = answer.header("etag").expect("an ETag").to_owned();
        assert_eq!(node.http.ask("GET", path, &[("if-none-match", &tag)], None).status, 304);
    }
    for path in ["/nothing", "/assets/../auth.rs", "/assets/nothing.js", "/watch/no%20room", "/v1/nothing"] {
        let answer = node.http.get(path);
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{path}");
    }
    let answer = node.http.ask("PUT", "/whip/demo", &[], Some(""));
    assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"));
    assert!(answer.header("allow").unwrap_or_default().contains("POST"));
}

#[test]
fn media_addresses_of_both_families_are_offered_ipv4_first() {
    let _machine = Machine::shared();
    let node = Node::start_with(&Start { media: &["[::1]:0", "127.0.0.1:0"], ..Start::default() });
    let answer = node.http.offer("/whip/demo", &node.token("demo", "publish"), PUBLISH);
    let candidates: Vec<&str> = answer.body.lines().filter(|line| line.starts_with("a=candidate:")).collect();
    let first = candidates.first().copied().unwrap_or_default();
    assert!(first.contains("127.0.0.1") && first.to_lowercase().contains("udp") && first.contains("typ host"), "{candidates:?}");
    assert!(candidates.iter().any(|line| line.contains("::1")), "{candidates:?}");

    let node = Node::start_with(&Start { more: &["--shards", "2", "--announce", "203.0.113.5"], ..Start::default() });
    let answer = node.http.offer("/whip/demo", &node.token("demo", "publish"), PUBLISH);
    assert!(answer.body.contains("203.0.113.5") && !answer.body.contains(" 127.0.0.1 "), "{}", answer.body);
}

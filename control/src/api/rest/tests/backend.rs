//! Goal: what an operator's own systems meet: his backend that knows foreign tokens, limits of requests, origins, bans.
//! Method: control over real HTTP, and a backend that says what the test wants and counts who asks.

use super::{Node, Role, Value, json, operator, with};
use crate::api::test_node::{PUBLISH, Reply, VIEW};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

/// Answers `POST /api/verify-media-server-token`; ends with the test's process.
pub struct Backend {
    pub url: String,
    requests: Arc<AtomicUsize>,
}

impl Backend {
    /// `answer`: status and body for a token.
    pub fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (requests, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
        let counted = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, counted) = (answer.clone(), counted.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    let (mut length, mut line) = (0, String::new());
                    while reader.read_line(&mut line).unwrap_or(0) > 2 {
                        let lower = line.to_lowercase();
                        length = lower.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap());
                        if lower.starts_with("post") {
                            assert!(lower.starts_with("post /api/verify-media-server-token http/1.1"), "{lower}");
                        }
                        line.clear();
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let body: Value = serde_json::from_slice(&body).unwrap();
                    counted.fetch_add(1, Ordering::Relaxed);
                    let (status, body) = answer(body["token"].as_str().unwrap());
                    let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", body.len());
                    // Whoever asked may have given up.
                    let _ = reader.get_mut().write_all(format!("{head}{body}").as_bytes());
                });
            }
        });
        Backend { url, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn ask_backend(node: &Node, backend: &Backend) {
    let mut settings = node.settings.clone();
    settings.backend_url = Some(backend.url.clone());
    node.service().set_settings(settings).unwrap();
}

#[test]
fn a_foreign_token_opens_what_the_backend_says_and_a_storm_asks_once() {
    let node = Node::new();
    node.live();
    node.post("/whep/demo", "guest-1", VIEW).is(401, "token_invalid");
    let backend = Backend::start(|token| match token {
        "publisher" => (200, json!({ "room": "stage", "role": "publish", "sub": "bob", "account": "acme" }).to_string()),
        "admin" => (200, json!({ "room": "demo", "role": "admin" }).to_string()),
        "no" => (403, String::new()),
        "broken" => (200, json!({ "role": "root" }).to_string()),
        _ => (200, String::new()),
    });
    ask_backend(&node, &backend);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..40).map(|_| scope.spawn(|| node.post("/whep/demo", "guest-1", VIEW).status())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| *status == 201), "{statuses:?}");
    assert_eq!(backend.requests(), 1);
    // Without a role: any room, to watch, and nothing else.
    node.post("/whip/demo", "guest-1", PUBLISH).is(403, "wrong_role");
    node.post("/whip", "guest-1", PUBLISH).is(403, "wrong_role");
    node.post("/whep/other", "guest-1", VIEW).is(409, "stream_not_live");
    with(&node, "guest-1").get("/v1/streams").is(403, "wrong_role");
    // With one: what it says.
    assert_eq!(node.post("/whip", "publisher", PUBLISH).status(), 201);
    node.post("/whip/demo", "publisher", PUBLISH).is(403, "wrong_room");
    let operator = operator(&node);
    let of_stage = operator.get("/v1/streams?room=stage").json();
    assert_eq!(of_stage["data"][0]["publisher"]["account"], "acme");
    assert_eq!(with(&node, "admin").get("/v1/streams").json()["data"].as_array().unwrap().len(), 1, "its room alone");
    node.post("/whep/demo", "no", VIEW).is(401, "token_denied");
    node.post("/whep/demo", "broken", VIEW).is(503, "backend_unavailable");
    // Ours are nobody else's business: good ones, expired ones, and keys.
    let before = backend.requests();
    assert_eq!(node.view().status(), 201);
    let grant = crate::auth::Grant { room: "demo".into(), role: Role::View, sub: "v".into(), acct: None, ttl: std::time::Duration::from_secs(1) };
    let expired = crate::auth::mint_at(&node.key, grant, crate::auth::unix_now() - 100);
    node.post("/whep/demo", &expired, VIEW).is(401, "token_expired");
    let (key, _) = crate::auth::KeyText::fresh(&crate::ids::fresh("key", 1).unwrap()).unwrap();
    node.post("/whep/demo", &key, VIEW).is(401, "key_invalid");
    assert_eq!(backend.requests(), before);
}

#[test]
fn a_backend_that_hangs_or_is_gone_keeps_only_its_own_out_and_nothing_is_remembered() {
    let node = Node::new();
    node.live();
    let (sender, receiver) = mpsc::channel::<()>();
    let (held, is_up) = (Mutex::new(receiver), Arc::new(AtomicUsize::new(0)));
    let up = is_up.clone();
    let backend = Backend::start(move |_| {
        if up.load(Ordering::Relaxed) == 0 {
            // Until the test has seen what it wanted.
            let _ = held.lock().unwrap().recv();
        }
        (200, String::new())
    });
    ask_backend(&node, &backend);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| node.post("/whep/demo", "guest", VIEW));
        node.until(|_| backend.requests() == 1);
        // It hangs, and everybody else goes on.
        assert_eq!(node.view().status(), 201);
        assert!(!waiting.is_finished(), "an own token waited for the backend");
        let refused: Reply = waiting.join().unwrap();
        refused.is(503, "backend_unavailable");
        assert_eq!(refused.header("retry-after"), "1");
    });
    is_up.store(1, Ordering::Relaxed);
    drop(sender);
    assert_eq!(node.post("/whep/demo", "guest", VIEW).status(), 201, "asked anew");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut settings = node.settings.clone();
    settings.backend_url = Some(format!("http://{gone}"));
    node.service().set_settings(settings).unwrap();
    node.post("/whep/demo", "guest", VIEW).is(503, "backend_unavailable");
}

#[test]
fn one_token_or_address_too_often_waits_and_the_others_do_not() {
    let mut node = Node::new();
    node.settings.requests_per_token = 1;
    node.settings.requests_per_address = 1;
    node.settings.trusted_proxies = vec!["127.0.0.1".into()];
    node.service().set_settings(node.settings.clone()).unwrap();
    let (hasty, other) = (node.token("", Role::Node, "hasty"), node.token("", Role::Node, "other"));
    let last = (0..40).map(|_| with(&node, hasty.as_str()).get("/v1/node")).find(|reply| reply.status() == 429).unwrap();
    last.is(429, "rate_limited");
    assert!((1..=10).contains(&last.header("retry-after").parse::<u64>().unwrap()), "{}", last.head);
    assert_eq!(last.header("access-control-allow-origin"), "*", "a page can read that it must wait");
    assert_eq!(with(&node, other.as_str()).get("/v1/node").status(), 200);
    // Pages, too, and whatever there is: by address. Ours alone is free.
    let from = |address: &str, path: &str| node.request("GET", path, &[("X-Forwarded-For", address)], "").status();
    for path in ["/", "/whep/demo", "/docs", "/nothing"] {
        assert!((0..40).any(|_| from("203.0.113.9", path) == 429), "{path}");
    }
    assert_eq!(from("203.0.113.10", "/"), 200);
    assert!((0..40).any(|number| from(&format!("2001:db8::{number:x}"), "/") == 429), "a /64 is one");
    assert_eq!(from("2001:db8:0:1::1", "/"), 200);
    assert!((0..40).all(|_| node.request("GET", "/", &[], "").status() == 200), "this machine is free");
    let counted = node.request("GET", "/metrics", &[], "").body;
    assert!(counted.contains("spillway_requests_limited_total{by=\"address\"}") && counted.contains("{by=\"token\"}"), "{counted}");
}

#[test]
fn only_configured_origins_may_call() {
    let node = Node::new();
    let allowed = |origin: &str| node.request("OPTIONS", "/whep/demo", &[("Origin", origin)], "").header("access-control-allow-origin").to_owned();
    assert_eq!(allowed("https://any.example"), "*");
    let mut settings = node.settings.clone();
    settings.cors_origins = vec!["https://www.example.org".into(), "http://localhost:3000".into()];
    node.service().set_settings(settings).unwrap();
    assert_eq!(allowed("https://www.example.org"), "https://www.example.org");
    assert_eq!(allowed("http://localhost:3000"), "http://localhost:3000");
    for other in ["https://evil.example", "https://www.example.org.evil.example", "null", ""] {
        assert_eq!(allowed(other), "", "{other}");
    }
    let reply = node.request("GET", "/livez", &[("Origin", "https://www.example.org")], "");
    assert!(reply.head.to_lowercase().contains("vary: origin"), "{}", reply.head);
}

#[test]
fn who_was_sent_away_does_not_come_back_until_his_time_is_over() {
    let mut node = Node::new();
    node.live();
    let token = node.token("demo", Role::View, "troll");
    assert_eq!(node.post("/whep/demo", &token, VIEW).status(), 201);
    let path = format!("/v1/viewers/{}/kick", operator(&node).get("/v1/viewers").json()["data"][0]["id"].as_str().unwrap());
    operator(&node).post(&path, &json!({ "ban_seconds": 40_000_000 })).is(400, "bad_request");
    assert_eq!(operator(&node).post(&path, &json!({ "ban_seconds": 3_600 })).status(), 200);
    let refused = node.post("/whep/demo", &token, VIEW);
    refused.is(403, "banned");
    assert!((3_500..=3_600).contains(&refused.header("retry-after").parse::<u64>().unwrap()), "{}", refused.head);
    // Another token of his, and another way in.
    node.post("/whep/demo", &node.token("demo", Role::View, "troll"), VIEW).is(403, "banned");
    node.post("/whip/demo", &node.token("demo", Role::Publish, "troll"), PUBLISH).is(403, "banned");
    assert_eq!(node.post("/whep/demo", &node.token("demo", Role::View, "ann"), VIEW).status(), 201);
    assert_eq!(node.post("/whip/other", &node.token("other", Role::Publish, "troll"), PUBLISH).status(), 201);
    node.restart_control_over_live_tracks();
    node.post("/whep/demo", &token, VIEW).is(403, "banned");
    // The ban is listed, and can be lifted.
    let bans = operator(&node).get("/v1/rooms/demo/bans").json();
    let ban = &bans["data"][0];
    assert_eq!((bans["data"].as_array().unwrap().len(), ban["sub"].as_str(), ban["room"].as_str()), (1, Some("troll"), Some("demo")), "{bans}");
    assert!(operator(&node).get("/v1/rooms/other/bans").json()["data"].as_array().unwrap().is_empty());
    let of = |room: &str| format!("/v1/rooms/{room}/bans/{}", ban["id"].as_str().unwrap());
    operator(&node).ask("DELETE", &of("other"), &[], "").is(404, "ban_not_found");
    assert_eq!(operator(&node).ask("DELETE", &of("demo"), &[], "").status(), 204);
    operator(&node).ask("DELETE", &of("demo"), &[], "").is(404, "ban_not_found");
    assert_eq!(node.post("/whep/demo", &token, VIEW).status(), 201, "he may come again");
    // Sent away alone, one may come again.
    let viewers = operator(&node).get("/v1/rooms/demo/viewers").json();
    let ann = viewers["data"].as_array().unwrap().iter().find(|viewer| viewer["sub"] == "ann").unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(operator(&node).post(&format!("/v1/viewers/{ann}/kick"), &Value::Null).status(), 200);
    assert_eq!(node.post("/whep/demo", &node.token("demo", Role::View, "ann"), VIEW).status(), 201);
}

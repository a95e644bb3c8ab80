//! Goal: rows 10, 11, 12, 24, 25 and 27 of the list of threats against a running node: whatever is thrown at the HTTP side
//! costs little, ends with a clear refusal, and media goes on. Method: the built binary with a publisher and a viewer
//! that count every packet, and plain sockets that misbehave.

use crate::api::call;
use crate::offers::{PUBLISH, VIEW};
use aws_lc_rs::hmac;
use serde_json::{Value, json};
use spillway_proto::link::counters::CounterId;
use spillway_tests::http::{Answer, Http};
use spillway_tests::node::{Machine, Node, Start, Task};
use spillway_tests::wait::{seconds, until};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// A viewer that is connected, to be asked later what it missed.
fn watch(node: &Node, count: u64) -> Task {
    let player = node.begin(&["play", "demo", "--seconds", &count.to_string(), "--json"]);
    let counters = node.counters();
    until("the viewer is connected", PATIENCE, || match counters.sum(CounterId::SessionsConnected) {
        0 | 1 => Err("nobody".to_owned()),
        _ => Ok(()),
    });
    player
}

fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.http.base().trim_start_matches("http://")).expect("the node listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// What comes back for these bytes, until the node closes or says nothing more.
fn raw(node: &Node, bytes: &[u8]) -> String {
    let mut stream = connect(node);
    // It may have heard enough before the end.
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// CPU time of a process so far (proc(5): utime and stime, in hundredths of a second).
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let rest = stat.rsplit_once(") ").expect("proc(5)").1;
    let ticks = |field: usize| rest.split(' ').nth(field - 3).and_then(|text| text.parse::<u64>().ok()).expect("proc(5)");
    Duration::from_millis((ticks(14) + ticks(15)) * 10)
}

fn memory_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("proc(5)");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1_024
}

#[test]
fn threat_10_bombs_of_sdp_and_json_cost_little_and_are_refused() {
    const TIMES: u32 = 20;
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let (publish, view) = (node.token("boom", "publish"), node.token("demo", "view"));
    let counters = node.counters();
    let sessions = counters.sum(CounterId::Commands);
    let lines = |line: &str, count: usize| format!("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n{}", line.repeat(count));
    let bombs: Vec<(&str, String)> = vec![
        ("a megabyte", lines("a=x\r\n", 200_000)),
        ("ten thousand sections", lines("m=x 9 x 0\r\n", 5_900)),
        ("many sections", lines("m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n", 1_900)),
        ("a NUL", VIEW.replacen("a=ice-ufrag:", "a=ice-ufrag:\0", 1)),
        ("bad fmtp", lines(&format!("m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 {}\r\n", "profile-level-id=zz;".repeat(50)), 50)),
        ("a long line", lines(&format!("a={}\r\n", "y".repeat(65_000)), 1)),
        ("no line ends", "v=0".repeat(20_000)),
        ("large numbers", PUBLISH.replace("m=video 9", "m=video 99999999999999999999")),
        ("nothing", String::new()),
    ];
    let control = node.pid("control_pid");
    for (name, bomb) in &bombs {
        let before = cpu(control);
        for number in 0..TIMES {
            let (path, token) = if number % 2 == 0 { ("/whip/boom", &publish) } else { ("/whep/demo", &view) };
            // A body that is too large may be refused before it was sent: the connection may end in the midst of it.
            let Some(answer) = node.http.try_ask("POST", path, &[("authorization", &format!("Bearer {token}")), ("content-type", "application/sdp")], Some(bomb)) else {
                assert!(bomb.len() > 65_536, "{name}: no answer");
                continue;
            };
            assert!((400..=499).contains(&answer.status), "{name}: {} {}", answer.status, answer.body);
            answer.code();
        }
        let each = (cpu(control) - before) / TIMES;
        assert!(each <= Duration::from_millis(10), "{name}: {each:?} of CPU each");
    }
    let deep = format!("{{\"id\":{}1{}}}", "[".repeat(30_000), "]".repeat(30_000));
    let wide = format!("{{{}\"id\":\"x\"}}", (0..4_000).map(|number| format!("\"k{number}\":1,")).collect::<String>());
    for bomb in [deep.as_str(), &wide, "{\"id\":\"\\u0000\"}", "[1]", "\u{FEFF}{}", "{\"id\":1e999}"] {
        let bearer = node_bearer(&node);
        let answer = node.http.ask("POST", "/v1/rooms", &[("authorization", &bearer), ("content-type", "application/json")], Some(bomb));
        assert!((400..=499).contains(&answer.status), "{:.40}: {} {}", bomb, answer.status, answer.body);
    }
    assert_eq!(counters.sum(CounterId::Commands), sessions, "the engine was asked for nothing");
    // An offer that is only long is as good as any other: candidates are read over.
    let long = VIEW.replacen("a=ice-ufrag", &format!("{}a=ice-ufrag", "a=candidate:1 1 UDP 1 10.0.0.1 9 typ host\r\n".repeat(1_300)), 1);
    assert_eq!(node.http.offer("/whep/demo", &view, &long).status, 201);
    assert_eq!((node.pid("control_pid"), node.http.get("/livez").status), (control, 200));
}

fn node_bearer(node: &Node) -> String {
    let output = node.run(&["token", "--role", "node"]);
    format!("Bearer {}", spillway_tests::node::stdout(&output))
}

#[test]
fn threat_11_slow_idle_and_overlong_requests_hinder_nobody() {
    const IDLE: usize = 600;
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let player = watch(&node, 6);
    let (control, engine) = (node.pid("control_pid"), node.pid("engine_pid"));
    let mut idle: Vec<TcpStream> = (0..IDLE).map(|_| connect(&node)).collect();
    for (number, stream) in idle.iter_mut().enumerate() {
        // A third says nothing, a third half a head, a third a head and half a body.
        let begin = ["", "POST /whep/demo HTTP/1.1\r\nHost: x\r\nX-", "POST /whep/demo HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nv=0"];
        stream.write_all(begin[number % 3].as_bytes()).expect("the node listens");
    }
    let head = |more: &str| format!("GET /livez HTTP/1.1\r\nHost: x\r\n{more}\r\n\r\n");
    let bombs: Vec<(&str, String)> = vec![
        ("a megabyte of one header", head(&format!("x: {}", "y".repeat(1 << 20)))),
        ("ten thousand headers", head(&(0..10_000).map(|number| format!("x{number}: y\r\n")).collect::<String>())),
        ("a long path", format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(1 << 20))),
        ("HTTP/2 with a rapid reset", format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{}", "\0\0\u{4}\u{3}\0\0\0\0\u{1}\0\0\0\u{8}".repeat(1_000))),
        ("two lengths", "POST /whip/demo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".to_owned()),
        ("a chunk beyond counting", "POST /whip/demo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_owned()),
        ("no HTTP", "\u{16}\u{3}\u{1}\u{2}\0\u{1}".repeat(50)),
    ];
    for (name, bomb) in &bombs {
        for _ in 0..5 {
            let text = raw(&node, bomb.as_bytes());
            // It may close without a word where the rest could not be read; it never says yes.
            assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{name}: {text:.80}");
        }
        assert_eq!(node.http.get("/livez").status, 200, "{name}: others are answered meanwhile");
    }
    // An upgrade that nobody offers is a request like others; there is no WebSocket to flood.
    let upgraded = raw(&node, head("Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==").as_bytes());
    assert!(upgraded.starts_with("HTTP/1.1 200"), "{upgraded:.80}");
    assert_eq!(node.http.offer("/whep/demo", &node.token("demo", "view"), VIEW).status, 201, "others join meanwhile");
    // Half a body is waited for so long and no longer (8 s), and is told so.
    let mut text = String::new();
    idle[2].set_read_timeout(Some(seconds(20))).expect("a timeout");
    let _ = idle[2].read_to_string(&mut text);
    assert!(text.starts_with("HTTP/1.1 401") || text.starts_with("HTTP/1.1 408"), "{text:.80}");
    assert_eq!(player.json()["lost"], 0);
    assert_eq!((node.pid("control_pid"), node.pid("engine_pid")), (control, engine));
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    bits.chunks(6).map(|six| char::from(DIGITS[(0..6).fold(0, |number, bit| number << 1 | usize::from(*six.get(bit).unwrap_or(&0)))])).collect()
}

#[test]
fn threat_12_forged_tokens_open_nothing() {
    let _machine = Machine::shared();
    let key = [0xA7; 32];
    let node = Node::start_with_key(&key);
    let _publisher = node.publish("demo", "vp8");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let good = json!({ "iss": "spillway", "sub": "x", "acct": "a", "aud": "spillway", "room": "demo", "role": "view", "iat": now, "exp": now + 60, "jti": "1" });
    let token = |header: Value, claims: &Value, key: &[u8]| {
        let signed = format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes());
        format!("{signed}.{}", base64url(tag.as_ref()))
    };
    let hs = json!({ "alg": "HS256", "typ": "JWT" });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let kid = |kid: &str| json!({ "alg": "HS256", "kid": kid });
    let plain = token(json!({ "alg": "none" }), &good, &key);
    let unsigned = plain.rsplit_once('.').expect("three parts").0.to_owned() + ".";
    let ours = token(hs.clone(), &good, &key);
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("good", ours.clone(), 201, ""),
        ("alg none", unsigned, 401, "token_invalid"),
        ("alg none, signed", plain, 401, "token_invalid"),
        ("alg None", token(json!({ "alg": "None" }), &good, &key), 401, "token_invalid"),
        ("another algorithm", token(json!({ "alg": "HS512" }), &good, &key), 401, "token_invalid"),
        ("RS256 with our key as a secret", token(json!({ "alg": "RS256" }), &good, &key), 401, "token_invalid"),
        ("a key of its own", token(json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "AAAA" } }), &good, &[0; 3]), 401, "token_invalid"),
        ("the empty key", token(hs.clone(), &good, b""), 401, "token_invalid"),
        ("kid that is a path", token(kid("../../../../dev/null"), &good, b""), 401, "token_invalid"),
        ("kid that is SQL", token(kid("x' UNION SELECT 'a"), &good, b"a"), 401, "token_invalid"),
        ("kid that is a command", token(kid("|/bin/sh"), &good, &[7; 32]), 401, "token_invalid"),
        ("the text of the key", token(hs.clone(), &good, "a7".repeat(32).as_bytes()), 401, "token_invalid"),
        ("expired", token(hs.clone(), &with("exp", json!(now - 5)), &key), 401, "token_expired"),
        ("no end", token(hs.clone(), &with("exp", Value::Null), &key), 401, "token_invalid"),
        ("an end that is text", token(hs.clone(), &with("exp", json!("9999999999")), &key), 401, "token_invalid"),
        ("another audience", token(hs.clone(), &with("aud", json!("other")), &key), 401, "token_invalid"),
        ("another room", token(hs.clone(), &with("room", json!("demo2")), &key), 403, "wrong_room"),
        ("a room that is a path", token(hs.clone(), &with("room", json!("../demo")), &key), 401, "token_invalid"),
        ("another role", token(hs.clone(), &with("role", json!("publish")), &key), 403, "wrong_role"),
        ("a role that is none", token(hs.clone(), &with("role", json!("root")), &key), 401, "token_invalid"),
        ("node", token(hs, &{ let mut claims = with("role", json!("node")); claims["room"] = json!(""); claims }, &key), 403, "wrong_role"),
        ("one bit of the signature", format!("{}{}", &ours[..ours.len() - 2], if ours.ends_with("AA") { "BA" } else { "AA" }), 401, "token_invalid"),
        ("claims changed", { let parts: Vec<&str> = ours.split('.').collect(); format!("{}.{}.{}", parts[0], base64url(with("role", json!("admin")).to_string().as_bytes()), parts[2]) }, 401, "token_invalid"),
        ("too long", "a".repeat(5_000), 401, "token_invalid"),
        ("none", String::new(), 401, "token_missing"),
    ];
    for (name, token, status, code) in &cases {
        let answer = node.http.offer("/whep/demo", token, VIEW);
        assert_eq!(answer.status, *status, "{name}: {}", answer.body);
        if *status != 201 {
            assert_eq!(answer.code(), *code, "{name}");
            // The same at the other doors: never in, never a fault of ours.
            for (method, path) in [("POST", "/whip/demo"), ("DELETE", "/whep/demo/00"), ("GET", "/v1/rooms/demo/live"), ("GET", "/v1/rooms")] {
                if ["another role", "node"].contains(name) {
                    continue;
                }
                let other = node.http.ask(method, path, &[("authorization", &format!("Bearer {token}")), ("content-type", "application/sdp")], None);
                assert!([401, 403].contains(&other.status), "{name} at {path}: {}", other.status);
            }
        }
    }
    // A key that was revoked opens nothing from the next request on.
    let key = call(&node, "POST", "/v1/keys", &json!({ "role": "stream", "room": "demo" })).json();
    let (id, secret) = (key["id"].as_str().expect("an id"), key["secret"].as_str().expect("a secret"));
    assert_eq!(node.http.offer("/whip/demo", secret, PUBLISH).code(), "room_busy", "it is a publisher's");
    assert_eq!(call(&node, "DELETE", &format!("/v1/keys/{id}"), &Value::Null).status, 204);
    assert_eq!(node.http.offer("/whip/demo", secret, PUBLISH).code(), "key_invalid");
}

/// Sets how many files a process may have open.
fn allow_files(pid: u32, count: usize) {
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={count}:20000")]).status();
    assert!(status.expect("prlimit, of util-linux").success());
}

fn files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

#[test]
fn threat_24_without_descriptors_media_goes_on_and_control_recovers() {
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let player = watch(&node, 5);
    let (control, engine) = (node.pid("control_pid"), node.pid("engine_pid"));
    // What is open stays open; a handful more, and then EMFILE at every accept. The engine has none to open at all.
    allow_files(control, files(control) + 4);
    allow_files(engine, files(engine));
    let held: Vec<TcpStream> = (0..50).map(|_| connect(&node)).collect();
    until("control has no descriptor left", PATIENCE, || match files(control) {
        count if count >= 4 => Ok(()),
        count => Err(count.to_string()),
    });
    // A connection of before is answered, its room is written to the disk.
    let mut first = held.into_iter();
    let mut open = first.next().expect("the first one");
    let bearer = node_bearer(&node);
    let body = "{\"id\":\"still\"}";
    let request = format!("POST /v1/rooms HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    open.write_all(request.as_bytes()).expect("it is open");
    let mut answer = [0; 12];
    open.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 201");
    // All go: whoever comes now is served, without anything else being done.
    drop((open, first));
    let served = until("others are served again", PATIENCE, || node.http.try_ask("GET", "/livez", &[], None).ok_or("no answer".to_owned()));
    assert_eq!(served.status, 200);
    assert_eq!(call(&node, "GET", "/v1/rooms/still", &Value::Null).status, 200);
    assert_eq!(player.json()["lost"], 0);
    assert_eq!((node.pid("control_pid"), node.pid("engine_pid")), (control, engine), "nobody died of it");
    // A viewer needs no descriptor of the engine's.
    assert_eq!(node.play("demo", 1)["lost"], 0);
}

#[test]
fn threat_25_memory_is_bounded_and_admission_stops_before_it() {
    const CONNECTIONS: usize = 1_500;
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let player = watch(&node, 6);
    let (control, engine) = (node.pid("control_pid"), node.pid("engine_pid"));
    let before = (memory_mib(control), memory_mib(engine));
    let token = node.token("demo", "view");
    // Each sends nearly a whole body, which has to be kept until its end comes.
    let head = format!("POST /whep/demo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/sdp\r\nContent-Length: 65536\r\n\r\n");
    let body = vec![b'v'; 65_000];
    // All of them within the 8 s that a body may take.
    let held: Vec<TcpStream> = std::thread::scope(|scope| {
        let some = || {
            let one = |_| {
                let mut stream = connect(&node);
                stream.write_all(head.as_bytes()).expect("the node listens");
                // Those that are refused do not listen any more.
                let _ = stream.write_all(&body);
                stream
            };
            (0..CONNECTIONS / 8).map(one).collect::<Vec<_>>()
        };
        let all: Vec<_> = (0..8).map(|_| scope.spawn(some)).collect();
        all.into_iter().flat_map(|one| one.join().expect("connections")).collect()
    });
    held.iter().for_each(|stream| stream.set_nonblocking(true).expect("a socket"));
    let refused = until("somebody was refused", seconds(5), || {
        let mut text = [0; 4_096];
        let said = held.iter().find_map(|mut stream| stream.read(&mut text).ok().filter(|count| *count > 0));
        said.map(|count| String::from_utf8_lossy(&text[..count]).into_owned()).ok_or("nobody".to_owned())
    });
    assert!(refused.starts_with("HTTP/1.1 503") && refused.to_lowercase().contains("retry-after") && refused.contains("node_full"), "{refused}");
    let (now_control, now_engine) = (memory_mib(control), memory_mib(engine));
    // 64 MiB of bodies twice (as they come, and as one), and what 1,024 connections take.
    assert!(now_control < before.0 + 300, "control grew from {} to {now_control} MiB", before.0);
    assert!(now_engine < before.1 + 64, "the engine grew from {} to {now_engine} MiB", before.1);
    assert_eq!(node.http.get("/livez").status, 200, "what has no body goes on");
    drop(held);
    until("bodies are taken again", PATIENCE, || match node.http.offer("/whep/demo", &token, VIEW).status {
        201 => Ok(()),
        status => Err(status.to_string()),
    });
    assert_eq!(player.json()["lost"], 0);
    assert_eq!((node.pid("control_pid"), node.pid("engine_pid")), (control, engine));
}

#[test]
fn threat_27_a_storm_of_joins_is_answered_or_refused_and_viewers_see_none_of_it() {
    const THREADS: usize = 16;
    const EACH: usize = 60;
    let _machine = Machine::shared();
    let node = Node::start_with(&Start { more: &["--shards", "2"], ..Start::default() });
    assert_eq!(call(&node, "PATCH", "/v1/limits", &json!({ "joins_per_second_max": 100 })).status, 200);
    let _publisher = node.publish("demo", "vp8");
    let player = watch(&node, 8);
    let counters = node.counters();
    let asked = counters.sum(CounterId::KeyframeRequestsSent);
    let token = node.token("demo", "view");
    let began = Instant::now();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let storm = || {
            let http = Http::new(node.http.base());
            (0..EACH).map(|_| http.offer("/whep/demo", &token, VIEW)).collect::<Vec<_>>()
        };
        let all: Vec<_> = (0..THREADS).map(|_| scope.spawn(storm)).collect();
        all.into_iter().flat_map(|one| one.join().expect("answers")).collect()
    });
    let took = began.elapsed();
    let admitted = answers.iter().filter(|answer| answer.status == 201).count();
    // One second's worth at once, then the rate.
    let most = 100.0 * (took.as_secs_f64() + 1.0) + 1.0;
    assert!(admitted >= 100 && admitted as f64 <= most, "{admitted} of {} in {took:?}", answers.len());
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        let wait: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("it says when to come again");
        assert!([429, 503].contains(&refused.status) && wait >= 1, "{}: {}", refused.status, refused.body);
        refused.code();
    }
    assert!(answers.iter().any(|answer| answer.status == 429), "the storm was none");
    assert_eq!(player.json()["lost"], 0, "who was there sees none of it");
    let asked = counters.sum(CounterId::KeyframeRequestsSent) - asked;
    // Each asks for none; the first of them may bring one for all, and one every 2 s after it.
    assert!(asked as f64 <= 2.0 + (8.0 + took.as_secs_f64()) / 2.0, "{asked} keyframes were asked for");
    assert_eq!(node.http.get("/readyz").status, 200);
}

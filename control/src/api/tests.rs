//! The API over real HTTP on a real link, with an engine of the imagination on a thread: each status of the
//! issue's "Answers", and what a killed control, a new engine and a takeover look like from outside.

use super::test_node::{Engine, FFMPEG, Node, PUBLISH, Reply, VIEW};
use crate::auth::{Grant, Role, SigningKey, mint, mint_at, unix_now};
use crate::store::Store;
use spillway_proto::id::{SessionId, Side};
use spillway_proto::link::command::{Command, DtlsRole};
use spillway_proto::link::event::{CloseReason, Event};
use spillway_proto::sdp::Setup;
use spillway_proto::sdp::offer::OfferFacts;
use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn tokens_open_only_their_room_and_role() {
    let node = Node::new();
    let sdp = ("Content-Type", "application/sdp");
    node.request("POST", "/whip/demo", &[sdp], PUBLISH).is(401, "token_missing");
    node.post("/whip/demo", "x.y.z", PUBLISH).is(401, "token_invalid");
    let reply = node.post("/whip/demo", "", PUBLISH);
    assert_eq!(reply.header("www-authenticate"), "Bearer");
    let other = SigningKey::from_bytes([1; 32]);
    let grant = Grant { room: "demo".into(), role: Role::Admin, sub: "a".into(), acct: None, ttl: Duration::from_secs(9) };
    node.post("/whip/demo", &mint(&other, grant.clone()), PUBLISH).is(401, "token_invalid");
    node.post("/whip/demo", &mint_at(&node.key, grant, unix_now() - 10), PUBLISH).is(401, "token_expired");
    node.post("/whip/demo", &node.token("other", Role::Publish, "a"), PUBLISH).is(403, "wrong_room");
    node.post("/whip/demo", &node.token("demo", Role::View, "a"), PUBLISH).is(403, "wrong_role");
    node.post("/whep/demo", &node.token("demo", Role::Publish, "a"), VIEW).is(403, "wrong_role");
    node.post("/whep/demo", &node.token("demo", Role::Admin, "a"), VIEW).is(409, "stream_not_live");
    // The three places of a token, and the room of `/whip` from the token.
    let token = node.token("demo", Role::Publish, "a");
    assert_eq!(node.request("POST", "/whip/demo", &[sdp, ("Authorization", &token)], PUBLISH).status(), 201);
    assert_eq!(node.request("POST", &format!("/whip/demo?token={token}"), &[sdp], PUBLISH).status(), 201);
    let reply = node.post("/whip", &token, PUBLISH);
    assert!(reply.status() == 201 && reply.header("location").starts_with("/whip/demo/"));
}

#[test]
fn bad_bodies_are_named() {
    let node = Node::new();
    let token = node.token("demo", Role::Publish, "a");
    let bearer = format!("Bearer {token}");
    let reply = node.request("POST", "/whip/demo", &[("Authorization", &bearer)], PUBLISH);
    reply.is(415, "unsupported_media_type");
    let json = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    node.request("POST", "/whip/demo", &json, "{}").is(415, "unsupported_media_type");
    node.post("/whip/demo", &token, &"a".repeat(65 * 1_024)).is(413, "body_too_large");
    // The same without a Content-Length: the bound is on what comes.
    let mut stream = TcpStream::connect(node.control.as_ref().unwrap().2).unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1_024, "a".repeat(1_024));
    let request = format!(
        "POST /whip/demo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {bearer}\r\n\
         Content-Type: application/sdp\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(65)
    );
    let _ = stream.write_all(request.as_bytes());
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
    let broken = PUBLISH.replace("a=rtpmap:96 VP8/90000", "a=rtpmap:96 VP8");
    let reply = node.post("/whip/demo", &token, &broken);
    reply.is(400, "bad_sdp");
    let line = broken.lines().position(|line| line == "a=rtpmap:96 VP8").unwrap() + 1;
    assert!(reply.body.contains(&format!("line {line}: ")), "{}", reply.body);
    node.post("/whip/demo", &token, "").is(400, "bad_sdp");
    let unknown = ["VP8", "VP9", "AV1", "H264"];
    let unknown = unknown.iter().fold(PUBLISH.to_owned(), |sdp, codec| sdp.replace(&format!("{codec}/90000"), "H266/90000"));
    let reply = node.post("/whip/demo", &token, &unknown);
    reply.is(422, "no_common_codec");
    assert!(reply.body.contains("H266") && reply.body.contains("possible H264, VP8"), "{}", reply.body);
    let charset = [("Authorization", bearer.as_str()), ("Content-Type", "application/sdp; charset=utf-8")];
    assert_eq!(node.request("POST", "/whip/demo", &charset, PUBLISH).status(), 201);
}

#[test]
fn a_join_is_answered_with_201_location_and_an_answer() {
    let node = Node::new();
    let reply = node.view();
    reply.is(409, "stream_not_live");
    assert_eq!(reply.header("retry-after"), "2");
    let reply = node.live();
    let location = reply.header("location");
    assert!(location.starts_with("/whip/demo/") && location.len() == "/whip/demo/".len() + 32, "{location}");
    assert_eq!(reply.header("content-type"), "application/sdp");
    let answer = OfferFacts::parse(&reply.body).unwrap();
    assert!(answer.ice_lite && answer.fingerprint == [7; 32] && answer.candidates.len() == 1);
    assert_eq!(answer.ice_ufrag.len(), spillway_proto::limits::UFRAG_CHARS);
    let reply = node.view();
    assert_eq!(reply.status(), 201);
    assert!(reply.header("location").starts_with("/whep/demo/"));
    let answer = OfferFacts::parse(&reply.body).unwrap();
    assert!(answer.media.iter().all(|media| media.ssrcs.len() == 1 && media.ssrcs[0].ssrc != 0));
    let tables = node.engine.tables();
    assert_eq!((tables.sessions.len(), tables.tracks.len(), tables.feeds.len()), (2, 2, 2));
    assert_ne!(tables.sessions[0].0, tables.sessions[1].0, "on two shards");
}

/// RFC 8842 section 5.3: the engine begins the handshake where the offer waits for it, for publishers and viewers.
#[test]
fn the_offer_decides_who_begins_the_handshake() {
    let node = Node::new();
    let publish = node.token("demo", Role::Publish, "ann");
    let view = node.token("demo", Role::View, "v");
    let reply = node.post("/whip/demo", &publish, FFMPEG);
    assert_eq!(reply.status(), 201, "{}", reply.body);
    assert_eq!(OfferFacts::parse(&reply.body).unwrap().setup, Setup::Active);
    node.engine.tables().told = true;
    node.until(|node| node.service().state("demo").live);
    for (offered, answered) in [("passive", Setup::Active), ("active", Setup::Passive), ("actpass", Setup::Passive)] {
        let offer = VIEW.replace("a=setup:actpass", &format!("a=setup:{offered}"));
        let reply = node.post("/whep/demo", &view, &offer);
        assert_eq!(reply.status(), 201, "{}", reply.body);
        assert_eq!(OfferFacts::parse(&reply.body).unwrap().setup, answered, "{offered}");
    }
    let tables = node.engine.tables();
    let roles: Vec<DtlsRole> = tables
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::AddSession { dtls_role, .. } | Command::AddViewer { dtls_role, .. } => Some(*dtls_role),
            _ => None,
        })
        .collect();
    assert_eq!(roles, [DtlsRole::Client, DtlsRole::Client, DtlsRole::Server, DtlsRole::Server]);
}

#[test]
fn a_viewer_is_one_command_and_an_engine_of_the_build_before_gets_those_it_knows() {
    let node = Node::new();
    node.live();
    for is_older in [false, true] {
        let before = {
            let mut tables = node.engine.tables();
            tables.is_older = is_older;
            (tables.commands.len(), tables.sessions.len(), tables.feeds.len(), tables.tracks.len())
        };
        assert_eq!(node.view().status(), 201, "{is_older}");
        let tables = node.engine.tables();
        let steps: Vec<bool> = tables.commands[before.0..].iter().map(|command| matches!(command, Command::AddViewer { .. })).collect();
        assert_eq!(steps.len(), if is_older { 2 + before.3 } else { 1 }, "{:?}", &tables.commands[before.0..]);
        assert!(steps[0]);
        assert_eq!((tables.sessions.len(), tables.feeds.len()), (before.1 + 1, before.2 + before.3), "{is_older}");
    }
}

#[test]
fn the_same_sub_takes_over_and_another_is_refused() {
    let node = Node::new();
    let first = node.live();
    assert_eq!(node.view().status(), 201);
    node.until(|node| node.service().state("demo").viewers == 1);
    let before = node.service().state("demo");
    node.publish("bob").is(409, "room_busy");
    assert_eq!(node.publish("ann").status(), 201);
    node.until(|node| node.service().state("demo").live);
    assert_eq!(node.service().state("demo"), before, "viewers, tracks and epoch stay");
    assert_eq!(node.engine.tables().sessions.len(), 2, "the first publisher's session is gone");
    let token = node.token("demo", Role::Publish, "ann");
    node.delete(first.header("location"), &token).is(404, "session_not_found");
}

#[test]
fn delete_is_200_and_then_404() {
    let node = Node::new();
    let publisher = node.live();
    let viewer = node.view();
    let (publishes, views) = (node.token("demo", Role::Publish, "x"), node.token("demo", Role::View, "x"));
    let path = viewer.header("location");
    node.request("DELETE", path, &[], "").is(401, "token_missing");
    node.delete(path, &node.token("other", Role::View, "x")).is(403, "wrong_room");
    node.delete(path, &publishes).is(403, "wrong_role");
    assert_eq!(node.delete(path, &views).status(), 200);
    node.delete(path, &views).is(404, "session_not_found");
    node.delete("/whep/demo/abc", &views).is(404, "session_not_found");
    assert_eq!(node.delete(publisher.header("location"), &publishes).status(), 200);
    node.until(|node| node.engine.tables().tracks.is_empty());
    let tables = node.engine.tables();
    assert!(tables.sessions.is_empty() && tables.feeds.is_empty());
}

#[test]
fn trickle_is_204_and_a_restart_is_not_possible() {
    let node = Node::new();
    let location = node.live().header("location").to_owned();
    let bearer = format!("Bearer {}", node.token("demo", Role::Publish, "ann"));
    let typed = |kind| [("Authorization", bearer.as_str()), ("Content-Type", kind), ("X-None", "")];
    let fragment = "a=ice-ufrag:Xb3k\r\na=ice-pwd:q7Jx/9Zk2mVw+L0pRtYc5sDa\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
                    a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\n";
    let kind = "application/trickle-ice-sdpfrag";
    let reply = node.request("PATCH", &location, &typed(kind), fragment);
    assert_eq!((reply.status(), reply.body.as_str(), reply.header("etag")), (204, "", ""));
    node.request("PATCH", &location, &typed("application/json"), "{}").is(415, "unsupported_media_type");
    node.request("PATCH", &location, &typed(kind), "{}").is(400, "bad_sdp");
    node.request("PATCH", &location, &typed(kind), &fragment.replace("Xb3k", "Other")).is(422, "ice_restart_unsupported");
    let mut restart = typed(kind);
    restart[2] = ("If-Match", "\"*\"");
    node.request("PATCH", &location, &restart, fragment).is(422, "ice_restart_unsupported");
    let unknown = format!("/whip/demo/{}", "0".repeat(32));
    node.request("PATCH", &unknown, &typed(kind), fragment).is(404, "session_not_found");
}

#[test]
fn other_methods_and_paths_have_their_answers() {
    let node = Node::new();
    for path in ["/whip", "/whip/demo", "/whep/demo", "/whip/demo/0", "/whep/demo/0"] {
        let reply = node.request("GET", path, &[], "");
        assert_eq!((reply.status(), reply.body.as_str()), (204, ""), "{path}");
        let reply = node.request("OPTIONS", path, &[("Origin", "http://x")], "");
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.header("access-control-allow-origin"), "*");
        assert!(reply.header("access-control-allow-headers").contains("Authorization, Content-Type, If-Match"));
        assert_eq!(reply.header("accept-post") == "application/sdp", path.matches('/').count() < 3, "{path}");
        node.request("PUT", path, &[], "").is(405, "method_not_allowed");
    }
    let reply = node.request("HEAD", "/whep/demo", &[], "");
    assert_eq!((reply.status(), reply.header("content-type")), (200, "application/sdp"));
    let reply = node.request("GET", "/nowhere", &[], "");
    reply.is(404, "not_found");
    assert_eq!(reply.header("access-control-expose-headers"), "Location, Link, ETag, Retry-After, Idempotent-Replayed, Content-Range, Accept-Ranges");
    node.request("POST", "/whip/no%20room", &[], "").is(404, "not_found");
    node.request("POST", "/livez", &[], "").is(405, "method_not_allowed");
    assert_eq!(node.request("GET", "/livez", &[], "").status(), 200);
    assert_eq!(node.request("GET", "/readyz", &[], "").status(), 200);
}

#[test]
fn pages_are_served_with_their_policy_and_tags() {
    let node = Node::new();
    for path in ["/", "/publish/demo", "/watch/demo", "/assets/app.css", "/assets/favicon.svg"] {
        let reply = node.request("GET", path, &[], "");
        assert_eq!(reply.status(), 200, "{path}");
        assert!(reply.header("content-security-policy").starts_with("default-src 'self'"));
        assert_eq!((reply.header("x-content-type-options"), reply.header("cache-control")), ("nosniff", "no-cache"));
        let again = node.request("GET", path, &[("If-None-Match", reply.header("etag"))], "");
        assert_eq!((again.status(), again.body.as_str()), (304, ""));
    }
    assert_eq!(node.request("GET", "/", &[], "").header("content-type"), "text/html; charset=utf-8");
    node.request("GET", "/assets/other.js", &[], "").is(404, "not_found");
    node.request("GET", "/watch/a%2Fb", &[], "").is(404, "not_found");
}

/// The `data:` of the next events, until one satisfies.
fn event_until(reader: &mut impl BufRead, is_it: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    for line in reader.lines().map_while(Result::ok) {
        if let Some(json) = line.strip_prefix("data: ") {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            if is_it(&value) {
                return value;
            }
        }
    }
    panic!("the events ended");
}

#[test]
fn the_rooms_state_comes_at_once_on_change_and_each_second() {
    let node = Node::new();
    node.request("GET", "/v1/rooms/demo/live", &[], "").is(401, "token_missing");
    let path = format!("/v1/rooms/demo/live?token={}", node.token("other", Role::View, "v"));
    node.request("GET", &path, &[], "").is(403, "wrong_room");
    let (mut viewer, mut publisher) = (node.listen(Role::View), node.listen(Role::Publish));
    let first = event_until(&mut viewer, |_| true);
    assert_eq!((first["live"].as_bool(), first["viewers"].as_u64()), (Some(false), Some(0)));
    assert!(first.get("received").is_none(), "only for publishers");
    assert!(event_until(&mut publisher, |_| true)["received"].is_object());
    node.live();
    let live = event_until(&mut viewer, |state| state["live"] == true);
    assert_ne!(live["epoch"], first["epoch"]);
    node.view();
    event_until(&mut viewer, |state| state["viewers"] == 1);
    let second = event_until(&mut publisher, |state| state["received"]["codec"] == "VP8");
    assert_eq!(second["received"]["bitrate_bps"], 0);
}

#[test]
fn a_killed_control_is_whole_again_and_sends_no_command_but_dumps() {
    let mut node = Node::new();
    let publisher = node.live().header("location").to_owned();
    let viewers: Vec<Reply> = (0..20).map(|_| node.view()).collect();
    assert!(viewers.iter().all(|reply| reply.status() == 201));
    node.until(|node| node.service().state("demo").viewers == 20);
    let before = node.service().state("demo");
    node.kill_control();
    node.engine.tables().commands.clear();
    node.restart_control_over_live_tracks();
    assert!(node.engine.tables().commands.iter().all(|command| matches!(command, Command::Dump { .. })));
    assert_eq!(node.service().state("demo"), before);
    let token = node.token("demo", Role::View, "x");
    assert_eq!(node.delete(viewers[7].header("location"), &token).status(), 200);
    node.publish("bob").is(409, "room_busy");
    assert_eq!(node.publish("ann").status(), 201);
    node.delete(&publisher, &node.token("demo", Role::Publish, "x")).is(404, "session_not_found");
}

#[test]
fn pages_hear_nothing_of_a_new_control() {
    let mut node = Node::new();
    node.live();
    let before = event_until(&mut node.listen(Role::View), |_| true);
    node.kill_control();
    node.engine.tables().silent = true;
    node.begin_control();
    let mut page = node.listen(Role::View);
    // The request is on its way while the engine does not answer yet.
    std::thread::park_timeout(Duration::from_millis(50));
    node.engine.tables().silent = false;
    assert_eq!(event_until(&mut page, |_| true)["epoch"], before["epoch"], "another epoch makes each page POST anew");
}

#[test]
fn what_no_store_knows_is_removed_at_the_start() {
    let mut node = Node::new();
    node.live();
    node.kill_control();
    let foreign = SessionId::new(900, 1);
    node.engine.tables().sessions.push((1, foreign, Side::Viewer, [9; 64]));
    node.start_control();
    node.until(|node| node.engine.tables().sessions.iter().all(|entry| entry.1 != foreign));
    assert_eq!(node.engine.tables().sessions.len(), 1);
}

#[test]
fn a_new_engine_is_503_then_everything_anew() {
    let mut node = Node::new();
    let location = node.live().header("location").to_owned();
    let before = node.service().state("demo").epoch;
    node.engine.kill(node.link);
    let reply = node.publish("ann");
    reply.is(503, "engine_restarting");
    assert_eq!(reply.header("retry-after"), "1");
    node.view().is(503, "engine_restarting");
    node.request("GET", "/readyz", &[], "").is(503, "engine_restarting");
    assert_eq!(node.request("GET", "/livez", &[], "").status(), 200);
    node.engine = Engine::start(node.link, node.wakes.0.again());
    node.until(|node| node.service().is_ready());
    let state = node.service().state("demo");
    assert!(!state.live && state.epoch != before);
    node.delete(&location, &node.token("demo", Role::Publish, "x")).is(404, "session_not_found");
    node.live();
    assert_ne!(node.service().state("demo").epoch, state.epoch);
    let rows = node.control.as_ref().unwrap().0.block_on(Store::open(&node.data).unwrap().known()).unwrap();
    node.until(|_| true);
    assert_eq!(rows.sessions.iter().filter(|session| session.engine_epoch == 2).count(), 1);
}

#[test]
fn an_engine_that_does_not_answer_is_504_and_leaves_nothing() {
    let node = Node::new();
    node.live();
    node.engine.tables().silent = true;
    node.view().is(504, "engine_timeout");
    node.engine.tables().silent = false;
    node.until(|node| {
        let tables = node.engine.tables();
        tables.sessions.len() == 1 && tables.commands.iter().any(|c| matches!(c, Command::RemoveSession { .. }))
    });
    assert_eq!(node.view().status(), 201);
}

#[test]
fn many_publishers_of_one_room_leave_one() {
    let node = Node::new();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let posts: Vec<_> = (0..8).map(|_| scope.spawn(|| node.publish("ann").status())).collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    });
    assert_eq!(statuses, [201; 8]);
    node.until(|node| node.engine.tables().sessions.len() == 1);
    assert_eq!(node.engine.tables().tracks.len(), 2);
}

#[test]
fn a_lost_event_is_made_good_by_a_dump() {
    let node = Node::new();
    let publisher = node.live();
    assert_eq!(node.view().status(), 201);
    node.until(|node| node.service().state("demo").viewers == 1);
    let (shard, viewer) = {
        let mut tables = node.engine.tables();
        let entry = tables.sessions.iter().find(|entry| entry.2 == Side::Viewer).map(|entry| (entry.0, entry.1)).unwrap();
        tables.sessions.retain(|other| other.1 != entry.1);
        tables.feeds.retain(|other| other.2 != entry.1);
        entry
    };
    // Its end is not told, and then the ring says that something was lost.
    let mut writer = node.link.events_writer(1 - shard);
    let noise = Event::SessionClosed { session: SessionId::new(60_000, 9), reason: CloseReason::Removed };
    while writer.push_or_drop(&noise) {}
    node.wakes.0.wake();
    node.until(|node| node.service().state("demo").viewers == 0);
    assert_eq!(node.service().find("demo", Side::Publisher, crate::policy::ResourceId::parse(&publisher.header("location")[11..]).unwrap()), Ok(()));
    assert!(!viewer.is_none());
}

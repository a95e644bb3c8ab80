//! Goal: control may be killed at any moment and no viewer loses a packet; the engine may be killed and
//! everybody has picture again within 10 s.
//! Method: kill -9 by the pids of node.json, mid-stream; `play` counts packets, Chromium shows pages that nobody
//! touches.

use crate::browser::{camera, decodes};
use crate::offers::{PUBLISH, VIEW};
use spillway_proto::link::counters::CounterId;
use spillway_proto::rng::Rng;
use spillway_tests::browser::Browser;
use spillway_tests::kernel::kill_9;
use spillway_tests::node::{Machine, Node};
use spillway_tests::wait::{seconds, until};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn control_is_killed_three_times_and_no_viewer_loses_a_packet() {
    let _machine = Machine::busy();
    let node = Node::start();
    let _publisher = node.publish("demo", "h264");
    let admin = node.token("demo", "admin");
    let epoch = node.http.live("demo", &admin)["epoch"].clone();
    let viewers: Vec<_> = (0..2).map(|_| node.begin(&["play", "demo", "--seconds", "12", "--json"])).collect();
    let counters = node.counters();
    let began = Instant::now();
    until("publisher and viewers are connected", seconds(10), || match counters.sum(CounterId::DtlsHandshakes) {
        3 => Ok(()),
        count => Err(count.to_string()),
    });
    for round in 1..=3 {
        let control = node.pid("control_pid");
        let engine = node.pid("engine_pid");
        kill_9(control);
        node.next_pid("control_pid", control);
        // A new control knows at once who is there: it asks the engine before it answers.
        let state = until("control answers", seconds(10), || node.http.try_live("demo", &admin).ok_or("nobody".to_owned()));
        assert_eq!((&state["live"], &state["viewers"]), (&true.into(), &2.into()), "after kill {round}: {state}");
        assert_eq!(state["epoch"], epoch, "nobody has to POST anew: {state}");
        assert_eq!(node.pid("engine_pid"), engine, "the engine has not noticed");
    }
    assert!(began.elapsed() < seconds(11), "the kills came while the viewers watched");
    for viewer in viewers {
        let played = viewer.json();
        for key in ["lost", "seq_gaps", "duplicates"] {
            assert_eq!(played[key], 0, "{key}: {played}");
        }
        assert!(played["frames"].as_u64() >= Some(11 * 30), "{played}");
    }
    until("control has seen them leave", seconds(5), || match node.http.live("demo", &admin) {
        state if state["viewers"] == 0 => Ok(()),
        state => Err(state.to_string()),
    });
}

/// 20 in CI; `SPILLWAY_KILLS=1000 cargo test --release -p spillway-tests --test e2e -- threat_15` takes 45 minutes.
fn kills() -> u64 {
    std::env::var("SPILLWAY_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

#[test]
fn threat_15_control_is_killed_at_random_instants_under_load_and_no_viewer_loses_a_packet() {
    let _machine = Machine::busy();
    let node = Node::start();
    let _publisher = node.publish("demo", "h264");
    let (admin, view) = (node.token("demo", "admin"), node.token("demo", "view"));
    let epoch = node.http.live("demo", &admin)["epoch"].clone();
    let engine = node.pid("engine_pid");
    let viewers: Vec<_> = (0..2).map(|_| node.begin(&["play", "demo", "--seconds", "86400", "--json"])).collect();
    let counters = node.counters();
    until("publisher and viewers are connected", seconds(10), || match counters.sum(CounterId::DtlsHandshakes) {
        3 => Ok(()),
        count => Err(count.to_string()),
    });
    let sent = counters.sum(CounterId::PacketsSent);
    let mut rng = Rng::new(u64::from(std::process::id()));
    let over = AtomicBool::new(false);
    let mut answered = 0;
    std::thread::scope(|scope| {
        // Whoever joins in the meantime: posts, answers and deletes are cut off in the middle.
        let load = scope.spawn(|| {
            let authorization = format!("Bearer {view}");
            let headers = [("authorization", authorization.as_str()), ("content-type", "application/sdp")];
            let mut joined = 0;
            while !over.load(Ordering::Acquire) {
                if let Some(answer) = node.http.try_ask("POST", "/whep/demo", &headers, Some(VIEW))
                    && answer.status == 201
                {
                    joined += 1;
                    let location = answer.header("location").expect("a session").to_owned();
                    let _ = node.http.try_ask("DELETE", &location, &headers[..1], None);
                }
            }
            joined
        });
        for _ in 0..kills() {
            let control = node.pid("control_pid");
            let instant = Instant::now() + Duration::from_micros(rng.below(400_000));
            while Instant::now() < instant {
                answered += u64::from(node.http.try_live("demo", &admin).is_some());
            }
            kill_9(control);
            node.next_pid("control_pid", control);
        }
        over.store(true, Ordering::Release);
        assert!(load.join().expect("the load goes on") > 0, "nobody could join between the kills");
    });
    assert!(answered > 0);
    let state = until("control answers", seconds(10), || node.http.try_live("demo", &admin).ok_or("nobody".to_owned()));
    assert_eq!((&state["live"], &state["epoch"]), (&true.into(), &epoch), "rooms and tokens are what they were: {state}");
    assert_eq!(node.pid("engine_pid"), engine, "the engine has not noticed");
    let sent = counters.sum(CounterId::PacketsSent) - sent;
    for viewer in viewers {
        let output = viewer.stop();
        let played: serde_json::Value = serde_json::from_slice(&output.stdout).expect("what the viewer saw");
        for key in ["lost", "seq_gaps", "duplicates"] {
            assert_eq!(played[key], 0, "{key}: {played}");
        }
        let packets = played["packets"].as_u64().unwrap_or(0) + played["audio_packets"].as_u64().unwrap_or(0);
        assert!(packets >= sent / 2, "{packets} of {sent} packets to two viewers: {played}");
    }
}

#[test]
fn while_no_engine_is_ready_posts_are_told_to_come_again() {
    let _machine = Machine::shared();
    let node = Node::start();
    let token = node.token("demo", "publish");
    // The supervisor waits longer before each start of an engine that dies young.
    let refused = (0..8).find_map(|_| {
        let engine = node.pid("engine_pid");
        kill_9(engine);
        let deadline = Instant::now() + seconds(10);
        while Instant::now() < deadline {
            let answer = node.http.offer("/whip/demo", &token, PUBLISH);
            if answer.status == 503 && answer.code() == "engine_restarting" {
                return Some(answer);
            }
            if node.facts()["engine_pid"].as_u64().is_some_and(|pid| pid as u32 != engine) {
                break;
            }
        }
        None
    });
    let refused = refused.expect("a POST while no engine was ready");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(node.http.get("/livez").status, 200);
    until("the engine is back", seconds(10), || match node.http.offer("/whip/demo", &token, PUBLISH).status {
        201 => Ok(()),
        status => Err(status.to_string()),
    });
    assert_eq!(node.http.get("/readyz").status, 200);
}

#[test]
fn after_the_engines_death_a_synthetic_publisher_and_new_viewers_are_back_within_10_s() {
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let epoch = node.http.live("demo", &node.token("demo", "view"))["epoch"].clone();
    let engine = node.pid("engine_pid");
    kill_9(engine);
    let killed = Instant::now();
    let view = node.token("demo", "view");
    until("the room is live again", seconds(10), || match node.http.try_live("demo", &view) {
        Some(state) if state["live"] == true && state["epoch"] != epoch => Ok(()),
        state => Err(format!("{state:?}")),
    });
    let live = killed.elapsed();
    let played = node.play("demo", 4);
    let picture = live + Duration::from_millis(played["ttff_ms"].as_u64().unwrap_or_else(|| panic!("{played}")));
    assert!(picture < seconds(10), "{picture:?}: {played}");
    assert!(played["lost"] == 0 && played["frames"].as_u64() > Some(30), "{played}");
    assert_ne!(node.pid("engine_pid"), engine);
}

#[test]
fn after_the_engines_death_pages_show_picture_again_within_10_s_without_a_click() {
    let _machine = Machine::busy();
    let node = Node::start();
    let browser = Browser::start();
    let publisher = camera(&browser, &node, "demo", &node.token("demo", "publish"));
    let viewer = browser.open(&format!("{}/watch/demo#token={}", node.http.base(), node.token("demo", "view")));
    decodes(&viewer, seconds(20));
    let posts = viewer.stats()["posts"].as_u64().unwrap_or_default();
    let engine = node.pid("engine_pid");
    kill_9(engine);
    let killed = Instant::now();
    let script = format!("const s = await spillway.stats(); return spillway.state === 'live' && s.posts > {posts} && s.framesDecoded > 5");
    viewer.until("picture again after the engine's death", seconds(10), &script);
    let took = killed.elapsed();
    publisher.until("the publisher is live again", seconds(10), "return spillway.state === 'live'");
    println!("picture again after {took:?}");
    decodes(&viewer, seconds(5));
}

#[test]
fn control_dies_and_pages_neither_reconnect_nor_stop() {
    let _machine = Machine::busy();
    let node = Node::start();
    let browser = Browser::start();
    let publisher = camera(&browser, &node, "demo", &node.token("demo", "publish"));
    let viewer = browser.open(&format!("{}/watch/demo#token={}", node.http.base(), node.token("demo", "view")));
    decodes(&viewer, seconds(20));
    let control = node.pid("control_pid");
    kill_9(control);
    node.next_pid("control_pid", control);
    for page in [&viewer, &publisher] {
        page.until("the page hears of its room again", seconds(10), "return spillway.live?.live === true");
        assert_eq!((&page.stats()["posts"], page.run("return spillway.state")), (&1.into(), "live".into()), "{}", page.report());
    }
    decodes(&viewer, seconds(5));
    assert_eq!(viewer.stats()["packetsLost"], 0, "{}", viewer.stats());
}

//! Goal: every table and card shows what the API's documents hold, with units, and nothing where there is nothing.
//! Method: documents as the API writes them, lines as a terminal has them.

use super::{keys, limits, node, parse_limit, room, stream, viewer, webhook};
use crate::cli::show::{Painted, table};
use serde_json::{Value, json};

fn page(row: Value) -> Value {
    json!({ "data": [row], "has_more": false, "next_cursor": null })
}

/// The cells of a table's only row.
fn cells(Painted(text): Painted) -> Vec<String> {
    let mut lines = text.lines();
    let titles = lines.next().unwrap().to_owned();
    let row = lines.next().unwrap();
    assert_eq!(lines.next(), None);
    // Two spaces stand between columns, none within a cell.
    assert!(!titles.is_empty());
    row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

fn facts(Painted(text): Painted) -> Vec<(String, String)> {
    let split = |line: &str| line.split_once("  ").map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    text.lines().map(|line| split(line).unwrap_or_default()).collect()
}

fn fact(facts: &[(String, String)], name: &str) -> String {
    facts.iter().find(|(fact, _)| fact == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

fn now() -> String {
    crate::ids::rfc3339(crate::service::now_ms().saturating_sub(65_000))
}

#[test]
fn rooms() {
    let declared = json!({ "id": "lobby", "declared": true, "created_at": now(), "viewers_max": 500, "live": true,
        "stream": "st_1", "viewers": 12 });
    assert_eq!(cells(table(room::COLUMNS, &page(declared.clone()), "")), ["lobby", "yes", "12", "500", "yes", "st_1"]);
    let shown = facts(room::card_of(&declared));
    assert_eq!((fact(&shown, "viewers max"), fact(&shown, "declared")), ("500".into(), "1m 5s ago".into()));
    let other = json!({ "id": "x", "declared": false, "created_at": null, "viewers_max": null, "live": false, "stream": null, "viewers": 0 });
    assert_eq!(cells(table(room::COLUMNS, &page(other.clone()), "")), ["x", "no", "0", "-", "no", "-"]);
    assert_eq!(fact(&facts(room::card_of(&other)), "viewers max"), "what the node allows each room");
}

#[test]
fn streams() {
    let live = json!({ "id": "st_1", "room": "demo", "live": true, "started_at": now(), "viewers": 3, "bitrate_bps": 2_500_000,
        "publisher": { "sub": "cam", "account": "acme", "connected": true },
        "tracks": [
            { "kind": "audio", "codec": "opus", "live": true, "bitrate_bps": 64_000, "frames_per_second": 50.0, "loss_ratio": 0.0, "keyframe_interval_ms": 0 },
            { "kind": "video", "codec": "H264", "live": true, "bitrate_bps": 2_436_000, "frames_per_second": 29.9, "loss_ratio": 0.012, "keyframe_interval_ms": 2_000 },
        ],
        "warnings": [{ "code": "uplink_loss", "detail": "the path loses" }] });
    let row = cells(table(stream::COLUMNS, &page(live.clone()), ""));
    assert_eq!(row, ["st_1", "demo", "yes", "3", "2.5 Mbit/s", "29.9", "1.2 %", "opus H264", "1m 5s", "uplink_loss"]);
    let shown = facts(stream::card_of(&live));
    assert_eq!(fact(&shown, "video"), "H264, 2.4 Mbit/s, 29.9 fps, a keyframe each 2.0 s, 1.2 % lost");
    assert_eq!(fact(&shown, "audio"), "opus, 64 kbit/s, 0 % lost");
    assert_eq!(fact(&shown, "publisher"), "cam (account acme)");
    assert_eq!(fact(&shown, "warning"), "uplink_loss: the path loses");
    let waiting = json!({ "id": "st_2", "room": "r", "live": false, "started_at": now(), "viewers": 0, "bitrate_bps": 0,
        "publisher": null, "tracks": [], "warnings": [] });
    assert_eq!(cells(table(stream::COLUMNS, &page(waiting.clone()), "")), ["st_2", "r", "no", "0", "0", "-", "-", "1m 5s"]);
    assert_eq!(fact(&facts(stream::card_of(&waiting)), "publisher"), "gone; its viewers wait");
}

#[test]
fn viewers_with_and_without_statistics() {
    let mut one = json!({ "id": "vw_1", "room": "demo", "sub": "anna", "account": "", "joined_at": now(), "connected": true,
        "protocol": "whep", "codecs": ["opus", "VP8"] });
    assert_eq!(cells(table(viewer::COLUMNS, &page(one.clone()), "")), ["vw_1", "demo", "anna", "-", "yes", "1m 5s", "-", "-", "-"]);
    let reception = json!({ "loss_ratio": 0.5, "packets_lost": 9, "jitter_ms": 3.2, "reported_at": now() });
    one["quality"] = json!({ "join": { "first_picture_ms": 41.0 }, "round_trip_ms": 23.4, "round_trip_min_ms": 20.0, "video": null,
        "audio": reception, "packets_nacked": 7, "packets_resent": 6, "keyframe_requests": 1, "freezes_estimated": 2, "frozen_ms_estimated": 310.0 });
    assert_eq!(cells(table(viewer::COLUMNS, &page(one.clone()), ""))[6..], ["23 ms", "50 %", "2"]);
    let shown = facts(viewer::card_of(&one));
    assert_eq!((fact(&shown, "codecs"), fact(&shown, "video")), ("opus VP8".into(), String::new()));
    assert_eq!(fact(&shown, "audio"), "50 % lost (9 packets so far), jitter 3 ms");
    assert_eq!((fact(&shown, "round trip"), fact(&shown, "freezes")), ("23 ms (least 20 ms)".into(), "about 2, 310 ms in all".into()));
}

#[test]
fn keys_and_webhooks_show_a_secret_once_and_only_there() {
    let mut key = json!({ "id": "key_1", "role": "stream", "name": "OBS", "room": "demo", "account": "", "created_at": now(), "rotated_at": now() });
    assert_eq!(cells(table(keys::COLUMNS, &page(key.clone()), "")), ["key_1", "stream", "OBS", "demo", "-", "1m 5s", "1m 5s"]);
    key["secret"] = json!("sk_secret");
    assert!(keys::card_with_secret(&key).0.contains("sk_secret\n"));
    let mut hook = json!({ "id": "wh_1", "url": "https://example.org/h", "types": [], "room": null, "enabled": true, "created_at": now() });
    assert_eq!(cells(table(webhook::COLUMNS, &page(hook.clone()), "")), ["wh_1", "https://example.org/h", "all", "-", "yes", "1m 5s"]);
    assert!(!webhook::card_of(&hook).0.contains("secret"));
    hook["secret"] = json!("whsec_x");
    hook["types"] = json!(["stream.started", "stream.ended"]);
    let shown = webhook::card_of(&hook).0;
    assert!(shown.contains("whsec_x") && shown.contains("stream.started,stream.ended"), "{shown}");
    let delivery = json!({ "id": "dl_1", "type": "stream.started", "status": "dead", "attempts": 3,
        "created_at": now(), "response_status": 500, "error": null });
    assert_eq!(cells(table(webhook::DELIVERIES, &page(delivery), "")), ["dl_1", "stream.started", "dead", "3", "500", "1m 5s", "-"]);
    let test = |test: Value| webhook::test_line(&test).0;
    assert_eq!(test(json!({ "delivered": true, "status": 204, "error": null, "milliseconds": 12 })), "delivered, answered with 204 after 12 ms");
    assert_eq!(test(json!({ "delivered": false, "status": null, "error": "refused", "milliseconds": 1 })), "not delivered: refused");
}

#[test]
fn limits_say_what_is_used_and_who_set_them() {
    let all = json!({ "publishers_max": 0, "viewers_max": 1_000, "egress_mbps_max": 900, "set_here": ["viewers_max"],
        "used": { "publishers": 1, "viewers": 12, "egress_bps": 30_000_000 } });
    let Painted(text) = limits::shown(&all);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert!(lines.contains(&vec!["viewers_max", "1000", "12", "API"]), "{text}");
    assert!(lines.contains(&vec!["publishers_max", "none", "1", "configuration"]), "{text}");
    assert!(lines.contains(&vec!["egress_mbps_max", "900", "30.0 Mbit/s", "configuration"]), "{text}");
}

#[test]
fn a_node_without_an_engine_says_so() {
    let mut one = json!({ "id": "edge-1", "version": "0.1.0", "started_at": now(), "uptime_seconds": 192, "engine": "uring",
        "shards": [{ "sessions": 3, "packets_sent": 99 }], "candidates": ["10.0.0.5:7081"], "streams": 1,
        "used": { "publishers": 1, "viewers": 2, "egress_bps": 0 }, "egress_bps": 5_000_000, "memory_bytes": 104_857_600 });
    let shown = facts(node::card_of(&one));
    assert_eq!(fact(&shown, "engine"), "io_uring, 1 shard");
    assert_eq!(fact(&shown, "memory"), "100 MiB");
    assert_eq!(fact(&shown, "up for"), "3m 12s");
    assert_eq!(fact(&shown, "shard"), "0: 3 sessions, 99 packets sent");
    // What a node that judges its load says besides.
    one["shards"][0]["busy_ratio"] = json!(0.25);
    one["capacity"] = json!({ "limited_by": "shards", "viewers_left": 120 });
    let shown = facts(node::card_of(&one));
    assert_eq!(fact(&shown, "shard"), "0: 3 sessions, 99 packets sent, 25 % busy");
    assert_eq!(fact(&shown, "capacity"), "about 120 more viewers, then its shards have no more time");
    one["engine"] = Value::Null;
    assert!(fact(&facts(node::card_of(&one)), "engine").starts_with("none just now"));
}

#[test]
fn a_limit_is_a_number_or_default() {
    assert_eq!(parse_limit("0").unwrap().0, Some(0));
    assert_eq!(parse_limit("default").unwrap().0, None);
    assert!(parse_limit("many").unwrap_err().contains("default"));
}

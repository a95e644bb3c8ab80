//! Goal: joins that came to nothing can be looked up, by who may, with what was offered and without what is secret;
//! live rooms are told to nobody unless the operator wants it; the last hour is there.
//! Method: joins over real HTTP that are refused, and sessions that the engine of the imagination closes.

use super::{Node, Role, operator, with};
use crate::api::test_node::{PUBLISH, VIEW};
use serde_json::json;

#[test]
fn joins_that_came_to_nothing_are_listed_with_what_was_offered() {
    let node = Node::new();
    let operator = operator(&node);
    assert_eq!(operator.get("/v1/attempts").json()["data"], json!([]));
    let anna = node.token("demo", Role::View, "anna");
    for _ in 0..3 {
        node.post("/whep/demo", &anna, VIEW).is(409, "stream_not_live");
    }
    for room in ["a", "b", "c"] {
        node.post(&format!("/whip/{room}"), "x.y.z", PUBLISH).is(401, "token_invalid");
    }
    node.post("/whep/demo", &anna, "v=1").is(400, "bad_sdp");
    let all = operator.get("/v1/attempts").json();
    let all = all["data"].as_array().unwrap();
    let found: Vec<(&str, u64)> = all.iter().map(|one| (one["code"].as_str().unwrap(), one["count"].as_u64().unwrap())).collect();
    assert_eq!(found, [("stream_not_live", 3), ("token_invalid", 3), ("bad_sdp", 1)]);
    assert_eq!((&all[0]["sub"], &all[0]["room"], &all[0]["protocol"]), (&json!("anna"), &json!("demo"), &json!("whep")));
    let offer = all[0]["offer"].as_str().unwrap();
    let secret = VIEW.lines().find_map(|line| line.strip_prefix("a=ice-pwd:")).unwrap().trim();
    assert!(offer.contains("m=audio") && !offer.contains(secret) && offer.contains("a=ice-pwd:(masked)"), "{offer}");
    // Who has no token is not listened to: there is no offer of his, and no name.
    assert_eq!((&all[1]["offer"], &all[1]["sub"]), (&json!(null), &json!(null)));
    // Pages, like all lists.
    let first = operator.get("/v1/attempts?limit=2").json();
    let after = first["next_cursor"].as_str().unwrap();
    assert_eq!(operator.get(&format!("/v1/attempts?limit=2&after={after}")).json()["data"][0]["code"], "bad_sdp");
    // What succeeds is no attempt that failed, and a room's admin sees none.
    node.live();
    assert_eq!(node.view().status(), 201);
    node.until(|node| node.service().state("demo").viewers == 1);
    assert_eq!(operator.get("/v1/attempts").json()["data"].as_array().unwrap().len(), 3);
    with(&node, node.token("demo", Role::Admin, "a")).get("/v1/attempts").is(403, "wrong_role");
}

#[test]
fn live_rooms_are_told_to_nobody_by_default() {
    let node = Node::new();
    node.live();
    let reply = node.request("GET", "/v1/lobby", &[], "");
    assert_eq!((reply.status(), reply.json()), (200, json!({ "public": false, "data": [] })));
}

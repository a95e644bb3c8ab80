//! Goal: of many who come at once exactly as many get in as may, and the others leave nothing in the engine.
//! Method: 200 POSTs at once over real HTTP for 10 places, several times, also across a restart of control.

use super::{Node, operator};
use crate::api::test_node::VIEW;
use crate::auth::Role;
use serde_json::json;
use spillway_proto::id::Side;

const PLACES: usize = 10;
const COMING: usize = 200;
const ROUNDS: usize = 20;

fn viewers(node: &Node) -> usize {
    node.engine.tables().sessions.iter().filter(|entry| entry.2 == Side::Viewer).count()
}

#[test]
fn of_two_hundred_at_once_ten_are_admitted() {
    let mut node = Node::new();
    assert_eq!(operator(&node).patch("/v1/limits", &json!({ "viewers_per_room_max": PLACES })).status(), 200);
    node.live();
    for round in 0..ROUNDS {
        let token = node.token("demo", Role::View, "v");
        let replies: Vec<(u16, String)> = std::thread::scope(|scope| {
            let post = || {
                let reply = node.post("/whep/demo", &token, VIEW);
                match reply.status() {
                    201 => (201, reply.header("location").to_owned()),
                    status => (status, reply.problem().1),
                }
            };
            let all: Vec<_> = (0..COMING).map(|_| scope.spawn(post)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let admitted: Vec<&String> = replies.iter().filter(|(status, _)| *status == 201).map(|(_, at)| at).collect();
        let refused = replies.iter().filter(|(status, code)| (*status, code.as_str()) == (409, "room_full")).count();
        assert_eq!((admitted.len(), refused), (PLACES, COMING - PLACES), "round {round}: {replies:?}");
        node.until(|node| viewers(node) == PLACES);
        assert_eq!(operator(&node).get("/v1/limits").json()["used"]["viewers"], PLACES);
        // The places are taken, also for the next control.
        if round % 5 == 4 {
            node.engine.tables().told = true;
            node.restart_control_over_live_tracks();
        }
        node.post("/whep/demo", &token, VIEW).is(409, "room_full");
        for location in admitted {
            assert_eq!(node.delete(location, &token).status(), 200);
        }
        node.until(|node| viewers(node) == 0 && node.engine.tables().feeds.is_empty());
    }
}

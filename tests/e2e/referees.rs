//! Goal: programs that share nothing with ours find nothing wrong: schemathesis no request that brings the API down,
//! promtool no metric that breaks Prometheus' conventions.
//! Method: both on one node with a stream and a viewer; schemathesis makes its requests from the OpenAPI document.

use serde_json::json;
use spillway_tests::node::{Machine, Node, stderr, stdout};
use spillway_tests::program::{Program, tool};
use spillway_tests::wait::{seconds, until};
use std::io::Write;
use std::process::{Command, Stdio};

fn node_token(node: &Node) -> String {
    let output = node.run(&["token", "--role", "node"]);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

#[test]
fn schemathesis_finds_no_request_that_the_api_fails_at() {
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let token = node_token(&node);
    let mut command = Command::new("/usr/bin/python3");
    command.env("PYTHONPATH", tool("schemathesis")).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(node.data());
    command.args(["-m", "schemathesis.cli", "run"]).arg(format!("{}/openapi.json", node.http.base()));
    command.args(["-H", &format!("Authorization: Bearer {token}"), "-H", "Accept: application/json"]);
    // Both kinds of data; what is asserted is that nothing fails, not what is answered: `rows.rs` has that, row by row.
    command.args(["--checks", "not_a_server_error", "--phases", "coverage,fuzzing", "--mode", "all", "--seed", "1"]);
    command.args(["--max-examples", "5", "--continue-on-failure", "--request-timeout", "10", "--no-color", "--generation-database", "none"]);
    let mut program = Program::begin(command);
    let code = program.exit_code(seconds(300));
    let lines = program.lines();
    let report = lines[lines.len().saturating_sub(80)..].join("\n");
    assert_eq!(code, Some(0), "{report}");
    // It looked at everything, and was let in.
    let operations: usize = node.http.get("/openapi.json").json()["paths"].as_object().into_iter().flatten().map(|(_, path)| path.as_object().map_or(0, serde_json::Map::len)).sum();
    assert!(lines.iter().any(|line| line.contains(&format!("{operations} selected")) || line.contains(&format!("{operations} / {operations}"))), "{report}");
    assert_eq!(node.http.get("/livez").status, 200);
    // Also what the log says: a panic in a handler is a closed connection, no status.
    assert!(!node.output().contains("panicked"), "{}", node.output());
}

#[test]
fn promtool_has_nothing_to_say_about_the_metrics() {
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let _viewer = node.begin(&["play", "demo", "--seconds", "60"]);
    // Every family that has a value only after something happened has one.
    let token = node_token(&node);
    let authorization = format!("Bearer {token}");
    let limits = json!({ "viewers_max": 100, "egress_mbps_max": 1_000 }).to_string();
    assert_eq!(node.http.ask("PATCH", "/v1/limits", &[("authorization", &authorization)], Some(&limits)).status, 200);
    let text = until("the viewer is counted", seconds(10), || {
        let text = node.http.get("/metrics").body;
        if text.contains("\nspillway_viewers 1\n") && text.contains("spillway_view_joins_total{") { Ok(text) } else { Err(text) }
    });
    let check = |text: &str| {
        let mut promtool = Command::new(tool("promtool"))
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool starts");
        promtool.stdin.take().expect("its input").write_all(text.as_bytes()).expect("it reads");
        let output = promtool.wait_with_output().expect("it ends");
        (output.status.success(), format!("{}{}", stdout(&output), stderr(&output)))
    };
    assert_eq!(check(&text), (true, String::new()));
    // The referee is awake: a counter without _total is something to say.
    assert!(!check(&format!("{text}# HELP spillway_bad x\n# TYPE spillway_bad counter\nspillway_bad 1\n")).0);
}

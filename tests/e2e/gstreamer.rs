//! Goal: GStreamer's webrtcbin publishes and watches as it comes: with its RSA key, and H264 without packetization-mode.
//! Method: tests/gstreamer.py, with Debian's GStreamer, which has no WHIP elements; our headless viewer and publisher at
//! the other end.

use serde_json::Value;
use spillway_tests::node::{Machine, Node};
use spillway_tests::program::Program;
use spillway_tests::wait::{seconds, until};
use std::process::Command;

/// Debian's Python: the one with GStreamer's bindings.
fn gstreamer(node: &Node, action: &str, room: &str) -> Program {
    let (path, role) = if action == "publish" { ("whip", "publish") } else { ("whep", "view") };
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/gstreamer.py")).arg(action);
    command.args([format!("{}/{path}/{room}", node.http.base()), node.token(room, role)]);
    Program::begin(command)
}

/// The newest line that says how many buffers came.
fn counted(lines: &[String], kind: &str) -> u64 {
    let facts = lines.iter().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    facts.filter_map(|facts| facts[kind].as_u64()).next().unwrap_or_default()
}

#[test]
fn gstreamer_publishes() {
    let _machine = Machine::shared();
    let node = Node::start_reachable();
    let counters = node.counters();
    let _publisher = gstreamer(&node, "publish", "demo");
    node.wait_live("demo");
    until("a keyframe has arrived", seconds(15), || if counters.keyframes() > 0 { Ok(()) } else { Err(String::new()) });
    let played = node.play("demo", 4);
    assert_eq!((&played["codec"], &played["lost"], &played["seq_gaps"]), (&"H264".into(), &0.into(), &0.into()), "{played}");
    assert!(played["frames"].as_u64() > Some(60) && played["audio_packets"].as_u64() > Some(100), "{played}");
}

#[test]
fn gstreamer_watches_h264_and_vp8() {
    let _machine = Machine::shared();
    let node = Node::start_reachable();
    for codec in ["h264", "vp8"] {
        let _publisher = node.publish(codec, codec);
        let mut viewer = gstreamer(&node, "view", codec);
        viewer.until(&format!("{codec}: pictures and sound come out of the decoders"), seconds(20), |lines| {
            (counted(lines, "video") > 60 && counted(lines, "audio") > 50).then_some(())
        });
    }
}

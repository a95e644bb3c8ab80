//! Goal: ffmpeg publishes with its own WHIP muxer, is seen in a browser, and its session stays. It is the DTLS server,
//! its checks have four attributes; 9.0.2 goes on checking (RFC 7675), and ends when nobody answers. The first versions
//! of its muxer sent none after the handshake: such a publisher lives by its media.
//! Method: ffmpeg 9 of PyPI's imageio-ffmpeg (tests/run gets it), a viewer that counts for longer than consent and every
//! other timer lasts, Chromium for the pictures. Beside it a publisher of our own that stops checking.

use crate::browser::decodes;
use spillway_proto::link::counters::CounterId;
use spillway_tests::browser::Browser;
use spillway_tests::node::{Machine, Node};
use spillway_tests::program::{Program, tool};
use spillway_tests::publisher::{Conduct, Publisher, clip};
use spillway_tests::wait::{seconds, until};
use std::process::Command;

/// Small pictures: it encodes for a minute beside other tests.
const SOURCE: &str = "-re -f lavfi -i testsrc2=size=320x180:rate=15 -re -f lavfi -i sine=frequency=440:sample_rate=48000 \
    -c:v libx264 -preset ultrafast -tune zerolatency -threads 1 -profile:v baseline -pix_fmt yuv420p -bf 0 -g 30 -b:v 300k \
    -c:a libopus -ac 2 -ar 48000 -f whip";

fn publish(node: &Node, room: &str) -> Program {
    let mut command = Command::new(tool("ffmpeg"));
    command.args(["-nostdin", "-hide_banner", "-loglevel", "warning"]).args(SOURCE.split_whitespace());
    command.args(["-authorization", &node.token(room, "publish"), &format!("{}/whip/{room}", node.http.base())]);
    Program::begin(command)
}

#[test]
fn ffmpeg_publishes_and_stays_for_more_than_a_minute() {
    // The minute costs nothing: others have the machine meanwhile. Only the browser takes a place among them.
    let node = Node::start();
    let counters = node.counters();
    let publisher = publish(&node, "demo");
    node.wait_live("demo");
    until("a keyframe has arrived", seconds(10), || match counters.keyframes() {
        0 => Err(publisher.lines().join("\n")),
        _ => Ok(()),
    });
    let viewer = node.begin(&["play", "demo", "--seconds", "65", "--json"]);
    let unchecked = Publisher::start(&node, "unchecked", clip(), Conduct { checks: false, ..Conduct::DEAF });
    {
        let _machine = Machine::busy();
        let browser = Browser::start();
        let page = browser.open(&format!("{}/watch/demo#token={}", node.http.base(), node.token("demo", "view")));
        decodes(&page, seconds(20));
        let stats = page.stats();
        assert_eq!((&stats["frameWidth"], &stats["frameHeight"]), (&320.into(), &180.into()), "{stats}");
        page.run("spillway.unmute()");
        page.until("sound arrives", seconds(15), "return (await spillway.stats()).audioEnergy > 0");
    }
    let played = viewer.json();
    println!("ffmpeg, as a viewer saw it: {played}");
    assert_eq!((&played["codec"], &played["lost"], &played["duplicates"]), (&"H264".into(), &0.into(), &0.into()));
    // 15 pictures a second, from the first second to the last.
    assert!(played["frames"].as_u64() >= Some(63 * 15), "{played}");
    assert_eq!(counters.sum(CounterId::SessionsPublisher), 2, "they are the sessions of the beginning");
    assert_eq!(node.http.live("unchecked", &node.token("unchecked", "view"))["live"], true);
    unchecked.until_age(seconds(45));
    unchecked.leave();
    assert_eq!(counters.sum(CounterId::DtlsFailed), 0);
    drop(publisher);
    // It says goodbye: viewers need not wait for its silence.
    let token = node.token("demo", "view");
    until("the room is not live any more", seconds(10), || match node.http.live("demo", &token) {
        state if state["live"] == false => Ok(()),
        state => Err(state.to_string()),
    });
}

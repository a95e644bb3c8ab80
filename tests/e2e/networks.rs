//! Goal: a node serves networks without IPv4, networks of its own on several interfaces from the address that was asked,
//! and keeps what arrives while a shard stands still.
//! Method: network namespaces and virtual cables (root), our headless publisher and viewer, Chromium. Of the stalled
//! engine: SIGSTOP, by its pid.

use crate::browser::decodes;
use serde_json::Value;
use spillway_proto::link::counters::CounterId;
use spillway_tests::browser::Browser;
use spillway_tests::kernel::signal;
use spillway_tests::network::Network;
use spillway_tests::node::{Machine, Node, Scratch, Start, Task};
use spillway_tests::wait::{seconds, until};
use std::process::Command;
use std::time::{Duration, Instant};

/// A viewer elsewhere, for so many seconds, over HTTP at `base`.
fn play_from(network: &Network, base: &str, token: &str, count: u64) -> Task {
    let count = count.to_string();
    let arguments = ["play", "demo", "--seconds", &count, "--json", "--server", base, "--token", token];
    network.within(|| Task::begin(&arguments))
}

fn assert_whole(played: &Value, seconds: u64) {
    for key in ["lost", "seq_gaps", "duplicates"] {
        assert_eq!(played[key], 0, "{key}: {played}");
    }
    assert!(played["frames"].as_u64() >= Some((seconds - 1) * 30), "{played}");
}

#[test]
fn a_network_without_ipv4_is_served_and_a_browser_there_shows_the_picture() {
    let _machine = Machine::busy();
    let (server, viewer) = (Network::new(), Network::new());
    // Names as on real machines: addresses of `veth*` are not offered to anybody.
    server.connect("eth0", "fd00:5b:1::1/64", &viewer, "eth0", "fd00:5b:1::2/64");
    viewer.ip(&["-6", "route", "add", "default", "via", "fd00:5b:1::1"]);
    // Not even on loopback.
    server.ip(&["address", "del", "127.0.0.1/8", "dev", "lo"]);
    let (node, publisher, base) = server.within(|| {
        let start = Start { http: "[::]:0", media: &["[::]:0"], ..Start::default() };
        let node = Node::start_with(&start);
        let publisher = node.publish("demo", "vp8");
        let port = node.http.base().rsplit(':').next().unwrap_or_default().to_owned();
        (node, publisher, format!("http://[fd00:5b:1::1]:{port}"))
    });
    let token = node.token("demo", "view");
    assert_whole(&play_from(&viewer, &base, &token, 4).json(), 4);
    viewer.within(|| {
        let browser = Browser::start();
        let page = browser.open(&format!("{base}/watch/demo#token={token}"));
        decodes(&page, seconds(20));
        assert_eq!(page.stats()["packetsLost"], 0);
    });
    server.within(|| drop((publisher, node)));
}

#[test]
fn a_node_on_two_networks_answers_from_the_address_that_was_asked() {
    let _machine = Machine::shared();
    let (server, left, right) = (Network::new(), Network::new(), Network::new());
    server.connect("eth0", "10.91.1.1/24", &left, "eth0", "10.91.1.2/24");
    server.connect("eth1", "10.91.2.1/24", &right, "eth0", "10.91.2.2/24");
    // The left knows a way to the node's right address, and the node would by itself answer from its left one: a
    // connected socket does not take that answer.
    left.ip(&["route", "add", "10.91.2.0/24", "via", "10.91.1.1"]);
    let started = |more: &[&str]| {
        let more = [&["--shards", "2"], more].concat();
        let node = Node::start_with(&Start { http: "0.0.0.0:0", media: &["0.0.0.0:0"], more: &more, ..Start::default() });
        let publisher = node.publish("demo", "h264");
        let port = node.http.base().rsplit(':').next().unwrap_or_default().to_owned();
        (publisher, node, port)
    };
    let (publisher, node, port) = server.within(|| started(&[]));
    let token = node.token("demo", "view");
    // Each side has the first of two candidates, or only the second.
    let viewers = [
        play_from(&left, &format!("http://10.91.1.1:{port}"), &token, 4),
        play_from(&right, &format!("http://10.91.2.1:{port}"), &token, 4),
    ];
    viewers.into_iter().for_each(|viewer| assert_whole(&viewer.json(), 4));
    server.within(|| drop((publisher, node)));

    let (publisher, node, port) = server.within(|| started(&["--announce", "10.91.2.1"]));
    let viewer = play_from(&left, &format!("http://10.91.1.1:{port}"), &node.token("demo", "view"), 4);
    assert_whole(&viewer.json(), 4);
    server.within(|| drop((publisher, node)));
}

/// With `--io frames` viewers elsewhere get everything, and nearly all of it as frames; those on loopback get theirs through the kernel.
#[test]
fn media_reaches_another_network_as_frames() {
    let _machine = Machine::shared();
    let (server, viewer) = (Network::new(), Network::new());
    server.connect("eth0", "10.91.3.1/24", &viewer, "eth0", "10.91.3.2/24");
    let (publisher, node, port) = server.within(|| {
        let more = ["--shards", "2", "--io", "frames"];
        let node = Node::start_with(&Start { http: "0.0.0.0:0", media: &["0.0.0.0:0"], more: &more, ..Start::default() });
        let publisher = node.publish("demo", "h264");
        let port = node.http.base().rsplit(':').next().unwrap_or_default().to_owned();
        (publisher, node, port)
    });
    assert!(node.output().contains("frames, 2 shards") && node.output().contains("asked for by --io frames"), "{}", node.output());
    assert_eq!(node.facts()["io"], "frames");
    let counters = node.counters();
    let counted = |id: CounterId| counters.sum(id);
    let token = node.token("demo", "view");
    let near = server.within(|| node.begin(&["play", "demo", "--seconds", "4", "--json"])).json();
    assert_whole(&near, 4);
    let before = (counted(CounterId::PacketsSent), counted(CounterId::PacketsFramed));
    assert_whole(&play_from(&viewer, &format!("http://10.91.3.1:{port}"), &token, 4).json(), 4);
    let (sent, framed) = (counted(CounterId::PacketsSent) - before.0, counted(CounterId::PacketsFramed) - before.1);
    assert!(sent > 200 && framed * 10 > sent * 9, "{framed} of {sent} packets went as frames");
    server.within(|| drop((publisher, node)));
}

/// Goal: frames go where the kernel's datagrams would, over what hosts are built of: a bridge that has the server's address, behind it a gateway that is
/// replaced (another link-layer address under the same IP address) while a viewer watches; and a macvlan. Not here: VLANs and bonds, which not every
/// kernel has; `io/frames/tests.rs` has what a VLAN needs.
#[test]
fn frames_find_their_way_over_a_bridge_a_macvlan_and_a_gateway_that_is_replaced() {
    const SECONDS: u64 = 8;
    let _machine = Machine::shared();
    let (server, gateway, far, near) = (Network::new(), Network::new(), Network::new(), Network::new());
    server.connect("port", "10.91.9.1/24", &gateway, "eth0", "10.91.4.254/24");
    server.ip(&["address", "flush", "dev", "port"]);
    server.ip(&["link", "add", "br0", "type", "bridge"]);
    server.ip(&["link", "set", "port", "master", "br0"]);
    server.ip(&["address", "add", "10.91.4.1/24", "dev", "br0"]);
    server.ip(&["link", "set", "br0", "up"]);
    server.ip(&["route", "add", "default", "via", "10.91.4.254"]);
    gateway.connect("eth1", "10.91.5.254/24", &far, "eth0", "10.91.5.2/24");
    far.ip(&["route", "add", "default", "via", "10.91.5.254"]);
    gateway.within(|| {
        // The second: it tells its neighbours when it changes.
        for setting in ["ip_forward", "conf/eth0/arp_notify"] {
            std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), "1").expect("a setting of this network");
        }
    });
    server.connect("lower", "10.91.9.2/24", &near, "eth0", "10.91.6.2/24");
    server.ip(&["address", "flush", "dev", "lower"]);
    server.ip(&["link", "add", "link", "lower", "name", "mac0", "type", "macvlan", "mode", "bridge"]);
    server.ip(&["address", "add", "10.91.6.1/24", "dev", "mac0"]);
    server.ip(&["link", "set", "mac0", "up"]);

    let (publisher, node, port) = server.within(|| {
        let node = Node::start_with(&Start { http: "0.0.0.0:0", media: &["0.0.0.0:0"], more: &["--shards", "1", "--io", "frames"], ..Start::default() });
        let publisher = node.publish("demo", "h264");
        let port = node.http.base().rsplit(':').next().unwrap_or_default().to_owned();
        (publisher, node, port)
    });
    let counters = node.counters();
    let counted = |id: CounterId| counters.sum(id);
    let token = node.token("demo", "view");
    let admin = node.token("demo", "admin");
    let before = (counted(CounterId::PacketsSent), counted(CounterId::PacketsFramed));
    let far_viewer = play_from(&far, &format!("http://10.91.4.1:{port}"), &token, SECONDS);
    let near_viewer = play_from(&near, &format!("http://10.91.6.1:{port}"), &token, SECONDS);
    until("both get frames", seconds(10), || {
        let (live, framed) = (server.within(|| node.http.try_live("demo", &admin)), counted(CounterId::PacketsFramed) - before.1);
        if framed > 400 && live.as_ref().is_some_and(|live| live["viewers"] == 2) { Ok(()) } else { Err(format!("{framed} {live:?}")) }
    });
    gateway.ip(&["link", "set", "eth0", "address", "02:00:5e:00:01:09"]);
    assert_whole(&near_viewer.json(), SECONDS);
    let played = far_viewer.json();
    // What was on its way to the old gateway comes again.
    assert_eq!((&played["lost"], &played["duplicates"]), (&0.into(), &0.into()), "{played}");
    assert!(played["frames"].as_u64() >= Some((SECONDS - 1) * 30), "{played}");
    let (sent, framed) = (counted(CounterId::PacketsSent) - before.0, counted(CounterId::PacketsFramed) - before.1);
    assert!(sent > 1_000 && framed * 10 > sent * 9, "{framed} of {sent} packets went as frames");
    server.within(|| drop((publisher, node)));
}

/// A clip of 10 Mbit/s, H264 and Opus: noise, which no encoder makes small.
fn heavy_clip(scratch: &Scratch) -> String {
    let path = scratch.0.join("heavy.mkv").display().to_string();
    let arguments = "-nostdin -hide_banner -loglevel error -f lavfi -i nullsrc=size=640x360:rate=30,geq=random(1)*255:128:128 \
        -f lavfi -i sine=frequency=440:sample_rate=48000 -t 2 -c:v libx264 -preset ultrafast -profile:v baseline -bf 0 -g 30 \
        -b:v 11M -minrate 11M -maxrate 11M -bufsize 2M -pix_fmt yuv420p -c:a libopus -ac 2";
    let status = Command::new("ffmpeg").args(arguments.split_whitespace()).arg(&path).status().expect("ffmpeg");
    assert!(status.success(), "ffmpeg: {status}");
    path
}

/// The buffers of the media sockets hold what one publisher of 10 Mbit/s sends in half a second, and more.
#[test]
fn half_a_second_of_a_stalled_engine_loses_nothing() {
    const STALL: Duration = Duration::from_millis(500);
    let _machine = Machine::shared();
    let scratch = Scratch::new();
    let clip = heavy_clip(&scratch);
    let node = Node::start();
    assert!(!node.output().contains("socket buffers are"), "root, or net.core.rmem_max of 8 MiB: {}", node.output());
    let counters = node.counters();
    let _publisher = node.begin(&["publish", "synthetic", "demo", "--clip", &clip]);
    node.wait_live("demo");
    until("a keyframe has arrived", seconds(10), || if counters.keyframes() > 0 { Ok(()) } else { Err(String::new()) });
    let token = node.token("demo", "publish");
    let bytes = || counters.sum(CounterId::BytesReceived);
    let (before, began) = (bytes(), Instant::now());
    let second = Duration::from_secs(1);
    until("a second of media has arrived", seconds(5), || if began.elapsed() > second { Ok(()) } else { Err(String::new()) });
    let bitrate = (bytes() - before) as f64 * 8.0 / began.elapsed().as_secs_f64();
    assert!(bitrate > 9e6, "the clip's rate is {bitrate} bit/s");
    let viewer = node.begin(&["play", "demo", "--seconds", "6", "--json"]);
    until("the viewer is there", seconds(10), || match node.http.live("demo", &token) {
        state if state["viewers"] == 1 => Ok(()),
        state => Err(state.to_string()),
    });
    let engine = node.pid("engine_pid");
    let received = || counters.sum(CounterId::PacketsReceived);
    let (before, began) = (received(), Instant::now());
    signal(engine, libc::SIGSTOP);
    // The stall is what is tested here, nothing is waited for.
    while began.elapsed() < STALL {
        std::thread::park_timeout(STALL - began.elapsed());
    }
    signal(engine, libc::SIGCONT);
    // 0.5 s of 10 Mbit/s are 520 packets of 1,200 bytes.
    let caught_up = until("what waited was taken in", seconds(5), || match received() - before {
        count if count > 450 => Ok(count),
        count => Err(count.to_string()),
    });
    let played = viewer.json();
    println!("{bitrate:.0} bit/s, {caught_up} packets after the stall: {played}");
    assert_eq!(counters.lost(), 0, "the publisher's packets");
    assert_whole(&played, 5);
    assert_eq!(node.pid("engine_pid"), engine, "nobody replaced it meanwhile");
}

//! Goal: Firefox ESR shows a picture too, with sound and GCM.
//! Method: Debian's Firefox, our own watch page. VP8: Debian's Firefox offers H264 only after it has downloaded Cisco's
//! OpenH264, and tests download nothing.

use spillway_tests::firefox::Firefox;
use spillway_tests::node::{Machine, Node};
use spillway_tests::wait::seconds;

#[test]
fn firefox_shows_a_picture() {
    let _machine = Machine::busy();
    let node = Node::start_reachable();
    let _publisher = node.publish("demo", "vp8");
    let firefox = Firefox::start();
    firefox.go(&format!("{}/watch/demo#token={}", node.http.base(), node.token("demo", "view")));
    firefox.until("the page is live", seconds(20), "return window.spillway?.state === 'live'");
    firefox.until("pictures are decoded", seconds(20), "return (await spillway.stats()).framesDecoded > 30");
    let before = firefox.run("return (await spillway.stats()).framesDecoded").as_u64().unwrap_or_default();
    firefox.until("more pictures", seconds(10), &format!("return (await spillway.stats()).framesDecoded > {before} + 30"));
    assert_eq!(firefox.run("return document.querySelector('#video').videoWidth"), 640);
    // Read from the cells in the picture: what was drawn is what was sent.
    let latency = firefox.until("the clock in the picture is read", seconds(10), "return (await spillway.stats()).latencyMs");
    assert!(latency.as_u64() < Some(2_000), "{latency} ms");
    firefox.until("sound arrives", seconds(10), "return (await spillway.stats()).audioEnergy > 0");
    let stats = firefox.run("return spillway.stats()");
    assert!(stats["srtpCipher"].as_str().is_some_and(|cipher| cipher.contains("GCM")), "{stats}");
    assert_eq!((&stats["packetsLost"], &stats["posts"]), (&0.into(), &1.into()), "{stats}");
    println!("Firefox: {latency} ms from end to end");
}

//! Goal: a browser's camera comes to its full bitrate soon: the feedback its encoder lives on reaches it.
//! Method: Chromium's fake camera at 720p, set to 2.5 Mbit/s; what the browser says that it sent.

use crate::browser::go_live;
use spillway_tests::browser::Browser;
use spillway_tests::node::{Machine, Node};
use spillway_tests::wait::seconds;

/// The bitrate of the last second of video, in bit/s, noted every 250 ms.
const WATCH_BITRATE: &str = "
    const past = [];
    window.bitrates = [];
    setInterval(async () => {
        const entries = [...(await connections.at(-1).getStats()).values()];
        const video = entries.find((entry) => entry.type === 'outbound-rtp' && entry.kind === 'video');
        if (!video) return;
        past.push({ at: video.timestamp, bytes: video.bytesSent });
        const then = past.findLast(({ at }) => at <= video.timestamp - 1000);
        if (then) bitrates.push(Math.round((video.bytesSent - then.bytes) * 8000 / (video.timestamp - then.at)));
    }, 250);";

#[test]
fn a_camera_at_720p_comes_to_two_megabits_within_fifteen_seconds() {
    let _machine = Machine::alone();
    let node = Node::start();
    let browser = Browser::start();
    let page = browser.open(&format!("{}/publish/demo#token={}", node.http.base(), node.token("demo", "publish")));
    go_live(&page, 720);
    page.run(WATCH_BITRATE);
    let reached = "const best = Math.max(0, ...bitrates); return best >= 2_000_000 ? best : null";
    let bitrate = page.until("2 Mbit/s are sent", seconds(15), reached);
    println!("{bitrate} bit/s; on the way: {}", page.run("return bitrates.join(' ')"));
    let size = page.run("const s = await spillway.stats(); return `${s.frameWidth}x${s.frameHeight}`");
    assert_eq!(size, "1280x720", "a smaller picture proves nothing");
}

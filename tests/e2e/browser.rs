//! Goal: a real browser publishes its camera through the engine and others show it: pictures of the right size,
//! sound, GCM on both sides; a takeover keeps viewers; the synthetic clip's clock gives a latency.
//! Method: Chromium with a fake camera, our own pages, the browser's own statistics.

use serde_json::{Value, json};
use spillway_proto::sdp::DEPENDENCY_DESCRIPTOR_URI;
use spillway_tests::browser::{Browser, Page};
use spillway_tests::node::{Machine, Node};
use spillway_tests::wait::{seconds, until};
use std::time::Duration;

/// A publish page that is live with the fake camera at 640x360: small enough for two cores that also decode.
pub fn camera<'b>(browser: &'b Browser, node: &Node, room: &str, token: &str) -> Page<'b> {
    let page = browser.open(&format!("{}/publish/{room}#token={token}", node.http.base()));
    go_live(&page, 360);
    page
}

/// The fake camera at this height, until the server says that it is live.
pub fn go_live(page: &Page<'_>, height: u32) {
    page.until("the page is loaded", seconds(10), "return Boolean(window.spillway)");
    page.run(&format!("document.querySelector('#quality').value = '{height}'; spillway.start('camera')"));
    page.until("the camera is live", seconds(20), "return spillway.state === 'live' && spillway.live?.live === true");
}

pub fn watch<'b>(browser: &'b Browser, node: &Node, room: &str) -> Page<'b> {
    browser.open(&format!("{}/watch/{room}#token={}", node.http.base(), node.token(room, "view")))
}

/// The page shows new pictures from now on.
pub fn decodes(page: &Page<'_>, patience: Duration) {
    page.until("the page is live", patience, "return spillway.state === 'live'");
    let before = page.stats()["framesDecoded"].as_u64().unwrap_or_default();
    page.until("pictures are decoded", patience, &format!("return (await spillway.stats()).framesDecoded > {before} + 15"));
}

fn is_gcm(stats: &Value) -> bool {
    stats["srtpCipher"].as_str().is_some_and(|cipher| cipher.contains("GCM"))
}

#[test]
fn two_viewers_see_and_hear_a_camera_and_a_takeover_keeps_them() {
    let _machine = Machine::alone();
    let node = Node::start();
    let browser = Browser::start();
    let token = node.token_of("demo", "publish", &["--sub", "ada"]);
    let publisher = camera(&browser, &node, "demo", &token);
    let viewers = [watch(&browser, &node, "demo"), watch(&browser, &node, "demo")];
    for viewer in &viewers {
        decodes(viewer, seconds(20));
        viewer.until("the picture has the camera's size", seconds(15), "const s = await spillway.stats(); return s.frameWidth === 640 && s.frameHeight === 360");
        viewer.run("spillway.unmute()");
        viewer.until("sound arrives", seconds(15), "return (await spillway.stats()).audioEnergy > 0");
        let stats = viewer.stats();
        assert!(is_gcm(&stats), "{stats}");
        assert_eq!((&stats["dtlsState"], &stats["posts"]), (&"connected".into(), &1.into()), "{stats}");
    }
    // What the browsers report of their reception is what the API says of these viewers.
    let bearer = format!("Bearer {}", node.token_of("demo", "admin", &[]));
    until("both browsers' reports are in the API", seconds(20), || {
        let told = node.http.ask("GET", "/v1/viewers", &[("authorization", &bearer)], None).json();
        let told: Vec<Value> = told["data"].as_array().into_iter().flatten().map(|viewer| viewer["quality"].clone()).collect();
        let is_whole = |quality: &Value| {
            let trip = quality["round_trip_ms"].as_f64().is_some_and(|ms| 0.0 < ms && ms < 1_000.0);
            trip && ["video", "audio"].iter().all(|kind| quality[kind]["jitter_ms"].as_f64().is_some_and(|ms| ms < 1_000.0))
        };
        match told.len() == 2 && told.iter().all(is_whole) {
            true => Ok(()),
            false => Err(json!(told).to_string()),
        }
    });
    for viewer in &viewers {
        let lost = viewer.run("return [...(await connections.at(-1).getStats()).values()].filter((one) => one.type === 'inbound-rtp').map((one) => one.packetsLost)");
        assert_eq!(lost, json!([0, 0]), "on loopback");
    }
    let told = node.http.ask("GET", "/v1/viewers", &[("authorization", &bearer)], None).json();
    for quality in told["data"].as_array().into_iter().flatten().map(|viewer| &viewer["quality"]) {
        assert_eq!((&quality["video"]["packets_lost"], &quality["audio"]["packets_lost"]), (&json!(0), &json!(0)), "{quality}");
    }
    let stats = publisher.stats();
    assert!(is_gcm(&stats), "{stats}");
    until("the publisher is told of its viewers", seconds(5), || match publisher.run("return spillway.live") {
        live if live["viewers"] == 2 && live["received"]["bitrate_bps"].as_u64() > Some(0) => Ok(()),
        live => Err(live.to_string()),
    });

    // The same token in another window: it is live at once, the first gives way, viewers see on.
    let second = camera(&browser, &node, "demo", &token);
    publisher.until("the first publisher is told", seconds(15), "return spillway.state === 'taken'");
    for viewer in &viewers {
        decodes(viewer, seconds(10));
        let stats = viewer.stats();
        assert_eq!(stats["posts"], 1, "a viewer had to come again: {stats} {}", viewer.report());
    }
    assert_eq!(second.run("return spillway.state"), "live", "{}", second.report());
}

/// What the browser itself took from our answer, for the one track of a kind: names of codecs, feedback lines,
/// header extensions it uses, sources.
const NEGOTIATED: &str = "
    const peer = connections.at(-1);
    const own = peer.getTransceivers().find((one) => one.receiver.track.kind === kind);
    const parameters = (own.currentDirection === 'sendonly' ? own.sender : own.receiver).getParameters();
    const section = peer.remoteDescription.sdp.split(/^m=/m).find((part) => part.startsWith(kind));
    const statistics = [...(await peer.getStats()).values()];
    const stream = statistics.find((entry) => /^(in|out)bound-rtp$/.test(entry.type) && entry.kind === kind);
    return {
        codecs: parameters.codecs.map((codec) => codec.mimeType),
        extensions: parameters.headerExtensions.map((extension) => extension.uri),
        feedback: [...new Set(section.match(/^a=rtcp-fb:\\d+ .*$/gm)?.map((line) => line.trim().replace(/^\\S+ /, '')) ?? [])],
        groups: section.match(/^a=ssrc-group:FID .*$/gm)?.map((line) => line.trim()) ?? [],
        ssrc: stream?.ssrc, rtxSsrc: stream?.rtxSsrc,
    };";

fn negotiated(page: &Page<'_>, kind: &str) -> Value {
    page.run(&format!("const kind = '{kind}';{NEGOTIATED}"))
}

fn has(list: &Value, name: &str) -> bool {
    list.as_array().is_some_and(|all| all.iter().any(|one| one.as_str().is_some_and(|one| one.contains(name))))
}

#[test]
fn chromium_agrees_to_repairs_and_to_tell_bandwidth_only_as_a_publisher() {
    let _machine = Machine::busy();
    let node = Node::start();
    let browser = Browser::start();
    let publisher = camera(&browser, &node, "demo", &node.token("demo", "publish"));
    let sent = negotiated(&publisher, "video");
    assert!(has(&sent["codecs"], "video/rtx"), "{sent}");
    assert!(has(&sent["extensions"], "transport-wide-cc"), "{sent}");
    assert_eq!(sent["feedback"], json!(["nack", "nack pli", "ccm fir", "transport-cc"]), "{sent}");
    assert!(sent["rtxSsrc"].as_u64().is_some(), "it is ready to send retransmissions: {sent}");
    let sent = negotiated(&publisher, "audio");
    assert!(has(&sent["extensions"], "transport-wide-cc"), "sound counts in its estimate: {sent}");

    let viewer = watch(&browser, &node, "demo");
    decodes(&viewer, seconds(20));
    let received = negotiated(&viewer, "video");
    assert!(has(&received["codecs"], "video/rtx"), "{received}");
    assert_eq!(received["feedback"], json!(["nack", "nack pli", "ccm fir"]), "{received}");
    let extensions = json!([DEPENDENCY_DESCRIPTOR_URI]);
    assert_eq!(received["extensions"], extensions, "nothing that varies per send: {received}");
    let group = format!("a=ssrc-group:FID {} {}", received["ssrc"], received["rtxSsrc"]);
    assert_eq!(received["groups"], json!([group]), "{received}");
}

/// A synthetic publisher, watched: pictures, sound, and how old they are.
fn latency_of(codec: &str) {
    let _machine = Machine::alone();
    let node = Node::start();
    let _publisher = node.publish("demo", codec);
    let browser = Browser::start();
    let viewer = watch(&browser, &node, "demo");
    decodes(&viewer, seconds(20));
    let latency = viewer.until("the clock in the picture is read", seconds(10), "return (await spillway.stats()).latencyMs");
    println!("{codec}: {latency} ms from end to end");
    // Read modulo 10 s: a wrong reading would be anywhere in between.
    assert!(latency.as_u64() < Some(2_000), "{latency} ms");
    let stats = viewer.stats();
    assert_eq!((&stats["frameWidth"], &stats["frameHeight"]), (&640.into(), &360.into()), "{stats}");
    assert!(stats["codec"].as_str().is_some_and(|found| found.eq_ignore_ascii_case(codec)), "{stats}");
    assert_eq!(stats["packetsLost"], 0, "{stats}");
    viewer.run("spillway.unmute()");
    viewer.until("the beep is heard", seconds(10), "return (await spillway.stats()).audioEnergy > 0");
}

#[test]
fn the_synthetic_h264_clip_shows_its_latency() {
    latency_of("h264");
}

#[test]
fn the_synthetic_vp8_clip_shows_its_latency() {
    latency_of("vp8");
}

/// Notes when the clip's square flashes and when its beep of 1 kHz sounds, each second, as the page plays them.
const FLASHES_AND_BEEPS: &str = "
    const video = document.querySelector('#video');
    const seen = window.seen = { flashes: [], beeps: [] };
    const edge = (times, now, on) => { if (on && now - (times.at(-1) ?? -1000) > 500) times.push(now); };
    const pixel = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const look = (now) => {
        const { videoWidth: w, videoHeight: h } = video;
        pixel.drawImage(video, w * 0.47, h * 0.46, w * 0.06, h * 0.08, 0, 0, 1, 1);
        edge(seen.flashes, now, pixel.getImageData(0, 0, 1, 1).data[1] > 200);
        video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
    const audio = new AudioContext({ sampleRate: 48000 });
    const analyser = audio.createAnalyser();
    analyser.fftSize = 1024;
    analyser.smoothingTimeConstant = 0;
    audio.createMediaStreamSource(video.srcObject).connect(analyser);
    const levels = new Uint8Array(analyser.frequencyBinCount);
    setInterval(() => {
        analyser.getByteFrequencyData(levels);
        edge(seen.beeps, performance.now(), levels[21] > 200);
    }, 5);";

/// How far apart a flash and its beep are, in the middle of the last five; null before there were ten of each.
const APART: &str = "
    const { flashes, beeps } = window.seen;
    if (flashes.length < 10 || beeps.length < 10) return null;
    const apart = flashes.slice(-6, -1).map((flash) => Math.min(...beeps.map((beep) => Math.abs(beep - flash))));
    return String(Math.round(apart.sort((a, b) => a - b)[2]));";

#[test]
fn lips_stay_in_sync() {
    let _machine = Machine::alone();
    let node = Node::start();
    let _publisher = node.publish("demo", "h264");
    let browser = Browser::start();
    let viewer = watch(&browser, &node, "demo");
    decodes(&viewer, seconds(20));
    viewer.run("spillway.unmute()");
    // The browser knows what plays now on the publisher's clock only after a sender report of each feed.
    let reported = "
        const entries = [...(await connections.at(-1).getStats()).values()];
        return entries.filter((entry) => entry.type === 'inbound-rtp' && entry.estimatedPlayoutTimestamp).length === 2";
    viewer.until("sender reports of both feeds arrived", seconds(15), reported);
    // By a wrong mapping the browser would now drift sound and picture apart, 80 ms in each second.
    viewer.run(FLASHES_AND_BEEPS);
    let apart = viewer.until("ten flashes and beeps", seconds(20), APART);
    println!("sound and picture are {apart} ms apart");
    let apart: u64 = apart.as_str().and_then(|ms| ms.parse().ok()).expect("milliseconds");
    assert!(apart < 150, "sound and picture are {apart} ms apart");
}

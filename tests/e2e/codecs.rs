//! Goal: VP9 and AV1 as well as H264 and VP8: who joins late sees a picture at once, a takeover with another codec keeps
//! viewers; H265 arrives byte for byte, beginning at its parameter sets; parameter sets that stand only in the
//! description reach every viewer.
//! Method: Chromium publishes with the codec chosen on the page and decodes; a publisher of the tests' own sends clips
//! whose every payload is known; a viewer of the tests' own writes down what comes.

use crate::browser::decodes;
use spillway_proto::id::Codec;
use spillway_proto::sdp::DEPENDENCY_DESCRIPTOR_URI;
use spillway_proto::wire::payload;
use spillway_tests::browser::{Browser, Page};
use spillway_tests::node::{Machine, Node};
use spillway_tests::publisher::{Conduct, Publisher, clip, clip_h265};
use spillway_tests::remote::{Way, hash};
use spillway_tests::viewer::{Manner, Seen, Viewer};
use spillway_tests::wait::seconds;
use std::time::Duration;

fn publish<'b>(browser: &'b Browser, node: &Node, token: &str, codec: &str) -> Page<'b> {
    let page = browser.open(&format!("{}/publish/demo#token={token}", node.http.base()));
    page.until("the page is loaded", seconds(10), "return Boolean(window.spillway)");
    go_live_with(&page, codec);
    page
}

fn go_live_with(page: &Page<'_>, codec: &str) {
    page.run(&format!(
        "document.querySelector('#quality').value = '360'; document.querySelector('#codec').value = '{codec}';
         spillway.start('camera')"
    ));
    let live = format!("return spillway.state === 'live' && spillway.live?.received?.codec === '{codec}'");
    page.until("the camera is live", seconds(20), &live);
}

fn watch<'b>(browser: &'b Browser, node: &Node) -> Page<'b> {
    browser.open(&format!("{}/watch/demo#token={}", node.http.base(), node.token("demo", "view")))
}

/// Pictures of that codec, of the camera's size, from the first POST on.
fn shows(viewer: &Page<'_>, codec: &str) {
    decodes(viewer, seconds(15));
    let said = "const s = await spillway.stats(); return s.frameWidth === 640 && s.codec";
    assert_eq!(viewer.until("the codec and the size", seconds(10), said), codec);
    assert_eq!(viewer.stats()["posts"], 1, "{}", viewer.report());
}

#[test]
fn vp9_and_av1_of_a_camera_are_decoded_by_who_joins_late_and_by_who_stays() {
    let _machine = Machine::alone();
    let node = Node::start();
    let browser = Browser::start();
    let token = node.token_of("demo", "publish", &["--sub", "ada"]);
    let first = publish(&browser, &node, &token, "VP9");
    let early = watch(&browser, &node);
    shows(&early, "VP9");
    let late = watch(&browser, &node);
    shows(&late, "VP9");
    let counted = node.counters().keyframes();
    assert!(counted > 0, "the engine saw no keyframe of VP9");

    let _second = publish(&browser, &node, &token, "AV1");
    first.until("the first publisher is told", seconds(15), "return spillway.state === 'taken'");
    for viewer in [&early, &late] {
        shows(viewer, "AV1");
    }
    assert!(node.counters().keyframes() > 0);
    let newest = watch(&browser, &node);
    shows(&newest, "AV1");
}

/// Layers of the next publisher's video.
fn layered(page: &Page<'_>, mode: &str) {
    page.until("the page is loaded", seconds(10), "return Boolean(window.spillway)");
    page.run(&format!(
        "const add = RTCPeerConnection.prototype.addTransceiver;
         RTCPeerConnection.prototype.addTransceiver = function (what, init) {{
           if (init?.sendEncodings) init.sendEncodings[0].scalabilityMode = '{mode}';
           return add.call(this, what, init);
         }}"
    ));
}

/// One kind of video statistics of the page's connection.
fn statistics(page: &Page<'_>, kind: &str) -> serde_json::Value {
    page.run(&format!(
        "const all = [...(await connections.at(-1).getStats()).values()];
         return all.find((one) => one.type === '{kind}' && one.kind === 'video') ?? {{}}"
    ))
}

/// Chromium decodes these layers without descriptors too: what this adds is that it takes ours, over a takeover, where
/// a frame number that ran back would end all pictures. What is on the wire, byte for byte: engine/src/shard/codecs.rs.
#[test]
fn layered_av1_of_a_camera_is_decoded_whole() {
    let _machine = Machine::alone();
    let node = Node::start();
    let browser = Browser::start();
    let token = node.token_of("demo", "publish", &["--sub", "ada"]);
    let mut early = None;
    for mode in ["L1T3", "L2T1"] {
        let page = browser.open(&format!("{}/publish/demo#token={token}", node.http.base()));
        layered(&page, mode);
        go_live_with(&page, "AV1");
        let early = early.get_or_insert_with(|| watch(&browser, &node));
        let late = watch(&browser, &node);
        let count = |stats: &serde_json::Value, name: &str| stats[name].as_u64().unwrap_or_default();
        // Both count at the same time.
        let begun = [&*early, &late].map(|viewer| {
            shows(viewer, "AV1");
            (viewer, statistics(viewer, "inbound-rtp"))
        });
        for (viewer, begun) in &begun {
            let enough = count(begun, "framesReceived") + 90;
            let received = format!("return (await connections.at(-1).getStats().then((all) => [...all.values()].find((one) => one.type === 'inbound-rtp' && one.kind === 'video'))).framesReceived > {enough}");
            viewer.until("three seconds of it", seconds(20), &received);
            let uses = "const own = connections.at(-1).getTransceivers().find((one) => one.receiver.track.kind === 'video');
                return own.receiver.getParameters().headerExtensions.map((extension) => extension.uri)";
            assert_eq!(viewer.run(uses), serde_json::json!([DEPENDENCY_DESCRIPTOR_URI]));
            let seen = statistics(viewer, "inbound-rtp");
            let [all, decoded] = ["framesReceived", "framesDecoded"].map(|name| count(&seen, name) - count(begun, name));
            assert!(decoded * 100 >= all * 95, "{mode}: {decoded} of {all} decoded: {seen}");
        }
        let sent = statistics(&page, "outbound-rtp");
        assert_eq!(sent["scalabilityMode"], mode, "{sent}");
    }
}

fn assert_whole(seen: &Seen) {
    assert_eq!(seen.video.missing(), 0);
    // The parameter sets it begins with go twice, byte for byte the same.
    assert!(seen.video.duplicates <= 1, "{} packets came twice", seen.video.duplicates);
}

/// The viewer's payloads are the publisher's, without a gap, from a keyframe's first packet on.
fn assert_replayed(publisher: &Publisher, viewer: &Viewer, packets: usize) {
    viewer.until("enough of it", seconds(10), |seen| (seen.video.packets.len() >= packets).then_some(()));
    let (seen, told) = (viewer.seen(), publisher.told());
    assert_whole(&seen);
    let got: Vec<u64> = seen.video.packets.values().map(|packet| packet.hash).collect();
    let begins = told.video_hashes.windows(got.len()).position(|sent| sent == got.as_slice());
    let begins = begins.unwrap_or_else(|| panic!("{} payloads are not the publisher's", got.len()));
    assert!(begins > 0, "it joined before anything was sent");
}

#[test]
fn h265_arrives_byte_for_byte_and_begins_with_its_parameter_sets() {
    let _machine = Machine::shared();
    let node = Node::start();
    let clip = clip_h265();
    let sets: Vec<Vec<u8>> = clip.video.as_ref().unwrap().parameter_sets.clone();
    let publisher = Publisher::start(&node, "demo", clip, Conduct::DEAF);
    // In the middle of the second GOP.
    publisher.until_age(Duration::from_millis(1_500));
    let viewer = Viewer::join(&Way::to_watch(&node, "demo"), Manner { codec: Codec::H265, ..Manner::default() });
    assert_replayed(&publisher, &viewer, 60);
    let seen = viewer.leave();
    let first = seen.video.packets.values().next().unwrap();
    assert_eq!(first.hash, hash(&described(Codec::H265, &sets)), "VPS, SPS and PPS in one packet");
    let second = seen.video.packets.values().nth(1).unwrap();
    assert!(second.keyframe && second.timestamp == first.timestamp, "then the picture that needs them");
}

/// The packet of a description's parameter sets.
fn described(codec: Codec, sets: &[Vec<u8>]) -> Vec<u8> {
    let listed: Vec<u8> = sets.iter().flat_map(|set| [&(set.len() as u16).to_be_bytes()[..], set].concat()).collect();
    spillway_proto::mux::packetize::parameter_sets(codec, &listed)
}

/// Chromium cannot decode H264 without its SPS and PPS: it asks for keyframes for ever.
#[test]
fn parameter_sets_that_stand_only_in_the_description_reach_a_browser() {
    let _machine = Machine::busy();
    let node = Node::start();
    let publisher = Publisher::start(&node, "demo", clip(), Conduct { sets_in_offer: true, ..Conduct::DEAF });
    publisher.until_age(Duration::from_millis(2_500));
    let browser = Browser::start();
    let viewer = watch(&browser, &node);
    shows(&viewer, "H264");
}

#[test]
fn added_parameter_sets_stand_before_each_keyframe_and_nothing_else_changes() {
    let _machine = Machine::shared();
    let node = Node::start();
    let clip = clip_h265();
    let sets = described(Codec::H265, &clip.video.as_ref().unwrap().parameter_sets);
    let facts = payload::facts(Codec::H265, &sets);
    assert!(facts.parameter_sets && !facts.keyframe);
    let publisher = Publisher::start(&node, "demo", clip, Conduct { sets_in_offer: true, ..Conduct::DEAF });
    publisher.until_age(Duration::from_millis(1_500));
    let viewer = Viewer::join(&Way::to_watch(&node, "demo"), Manner { codec: Codec::H265, ..Manner::default() });
    // From a keyframe over the next two.
    viewer.until("three keyframes", seconds(10), |seen| {
        (seen.video.packets.values().filter(|packet| packet.keyframe).count() >= 3).then_some(())
    });
    let (seen, told) = (viewer.leave(), publisher.told());
    assert_whole(&seen);
    let packets: Vec<_> = seen.video.packets.values().collect();
    assert_eq!(packets[0].hash, hash(&sets), "it begins with them");
    for pair in packets.windows(2) {
        let (is_sets, before_key) = (pair[0].hash == hash(&sets), pair[1].keyframe);
        assert_eq!(is_sets, before_key);
        assert!(!is_sets || pair[0].timestamp == pair[1].timestamp && !pair[0].marker);
    }
    let got: Vec<u64> = packets.iter().map(|packet| packet.hash).filter(|found| *found != hash(&sets)).collect();
    assert!(told.video_hashes.windows(got.len()).any(|sent| sent == got.as_slice()), "the rest is the publisher's");
}

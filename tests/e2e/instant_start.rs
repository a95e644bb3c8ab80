//! Goal: whoever joins sees a picture at once, from the reel, whatever the publisher's keyframe interval is and
//! whether it listens or not; and is live soon after.
//! Method: a clip with a keyframe every 30 s, sent by a publisher that writes down what it is asked; viewers that
//! write down every packet, and Chromium, which decodes. No wall clock decides: the next keyframe does.

use crate::browser::{camera, decodes, watch};
use serde_json::Value;
use spillway_proto::id::{Codec, Kind};
use spillway_proto::limits::REPLAY_BYTES_MAX;
use spillway_proto::link::counters::CounterId;
use spillway_proto::mux::matroska::Clip;
use spillway_tests::browser::{Browser, Page};
use spillway_tests::node::{Machine, Node, Scratch};
use spillway_tests::proxy::{Direction, Proxy};
use spillway_tests::publisher::{Conduct, Publisher, clip, load};
use spillway_tests::remote::Way;
use spillway_tests::viewer::{Asks, Manner, Seen, Viewer};
use spillway_tests::wait::{seconds, until};
use std::process::Command;
use std::time::{Duration, Instant};

/// The payload type Chromium offers sound with.
const CHROMIUM_OPUS: u8 = 111;
const NACK_AND_RTX: Manner = Manner { asks: Asks::Missing, rtx: true, codec: Codec::H264 };

/// The committed clip three times over, coded anew with one keyframe in its 30 s and as many kbit/s, for which it needs noise. Its cells stay readable.
fn half_a_minute_without_keyframes(scratch: &Scratch, kbps: u64) -> Clip {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../control/clip/h264.mkv");
    let path = scratch.0.join("gop900.mkv");
    let words = "-nostdin -hide_banner -loglevel error -y -stream_loop 2 -i";
    let coding = "-map 0:v -map 0:a -r 30 -frames:v 900 -c:v libx264 -profile:v baseline -preset veryfast -bf 0 -refs 1 \
                  -g 900 -keyint_min 900 -sc_threshold 0 -slices 1 -c:a copy";
    let rate = format!("-vf noise=alls=30:allf=t -b:v {kbps}k -maxrate {}k -bufsize {}k", kbps * 5 / 4, kbps * 5 / 8);
    let mut command = Command::new("ffmpeg");
    command.args(words.split_whitespace()).arg(source).args(coding.split_whitespace()).args(rate.split_whitespace()).arg(&path);
    let output = command.output().expect("ffmpeg is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let clip = load(&path);
    assert_eq!(clip.frames.iter().filter(|frame| frame.track == Kind::Video && frame.keyframe).count(), 1);
    clip
}

/// No number between the first and the last packet is missing, none came twice.
fn assert_no_gap(name: &str, seen: &Seen) {
    assert_eq!((seen.video.missing(), seen.audio.missing()), (0, 0), "{name}: gaps");
    assert_eq!(seen.video.asked, 0, "{name}: had to ask");
}

/// Its keyframes, by their times.
fn keyframes(seen: &Seen) -> Vec<u32> {
    seen.video.packets.values().filter(|packet| packet.keyframe).map(|packet| packet.timestamp).collect()
}

/// Delay to live by the cells in the picture, modulo ten seconds; and the mean time sound waited in the last second.
fn latency(page: &Page<'_>) -> i64 {
    let read = page.until("the clock in the picture is read", seconds(10), "return (await spillway.stats()).latencyMs");
    read.as_i64().expect("milliseconds")
}

const AUDIO_BUFFER: &str = "
    const read = async () => {
        const entries = [...(await connections.at(-1).getStats()).values()];
        const audio = entries.find((entry) => entry.type === 'inbound-rtp' && entry.kind === 'audio');
        return [audio.jitterBufferDelay, audio.jitterBufferEmittedCount];
    };
    const [delay, count] = await read();
    for (;;) {
        await new Promise((resolve) => setTimeout(resolve, 100));
        const [later, emitted] = await read();
        if (emitted - count >= 96_000) return (later - delay) / (emitted - count) * 1000;
    }";

/// One of 10 s around is no distance.
fn apart(a: i64, b: i64) -> i64 {
    let around = (a - b).rem_euclid(10_000);
    around.min(10_000 - around)
}

fn is_decoding(page: &Page<'_>) -> bool {
    page.stats()["framesDecoded"].as_u64() > Some(0)
}

#[test]
fn a_deaf_publisher_with_a_keyframe_every_half_minute_is_joined_at_once() {
    let _machine = Machine::alone();
    let (node, scratch) = (Node::start(), Scratch::new());
    let browser = Browser::start();
    // As wide as OBS: 3 MB when others join.
    let clip = half_a_minute_without_keyframes(&scratch, 2_000);
    let video: usize = clip.frames.iter().filter(|frame| frame.track == Kind::Video).map(|frame| frame.data.len()).sum();
    assert!(video as u64 > 12 * REPLAY_BYTES_MAX / 2, "{video} bytes in half a minute");
    let publisher = Publisher::start(&node, "demo", clip, Conduct::DEAF);
    let way = Way::to_watch(&node, "demo");
    let from_the_start = watch(&browser, &node, "demo");
    decodes(&from_the_start, seconds(20));
    // Somebody who needs a fresh keyframe: the requests that nobody answers make the publisher known as deaf.
    let asker = Viewer::join(&way, NACK_AND_RTX);
    asker.until_playing(seconds(10));
    publisher.until_age(seconds(5));
    until("the publisher is known as deaf", seconds(6), || {
        asker.ask_keyframe();
        match node.counters().sum(CounterId::TracksDeaf) {
            1 => Ok(()),
            _ => Err(format!("{} requests", publisher.told().keyframe_requests.len())),
        }
    });
    asker.leave();

    publisher.until_age(seconds(12));
    let joined = Instant::now();
    let viewer = Viewer::join(&way, NACK_AND_RTX);
    let page = watch(&browser, &node, "demo");
    // A way that loses exactly the first packet of video, whichever of its copies: the browser asks for no packet
    // that it does not know of.
    let proxy = Proxy::start(node.media(), 1);
    let mut first = None;
    proxy.lose_if(move |datagram| match datagram.rtp() {
        Some((payload_type, sequence, ssrc)) if datagram.direction == Direction::Down && payload_type != CHROMIUM_OPUS => {
            *first.get_or_insert((ssrc, sequence)) == (ssrc, sequence)
        }
        _ => false,
    });
    let restarted = node.counters().sum(CounterId::ReplaysRestarted);
    let unlucky = browser.open_through(proxy.address, &format!("{}/watch/demo#token={}", node.http.base(), node.token("demo", "view")));
    page.until("a picture is decoded", seconds(10), "return (await spillway.stats()).framesDecoded");
    unlucky.until("a picture is decoded after a lost first packet", seconds(10), "return (await spillway.stats()).framesDecoded");
    let told = publisher.told();
    assert_eq!(told.keyframes().len(), 1, "it was the next keyframe that helped");
    println!("both showed a picture {:?} after they joined", joined.elapsed());
    assert!(proxy.counts(Direction::Down).filtered >= 1);
    assert!(node.counters().sum(CounterId::ReplaysRestarted) > restarted, "the first packet came from elsewhere");
    assert!(is_decoding(&page) && is_decoding(&unlucky));

    // Ten seconds later, still before the next keyframe.
    publisher.until_age(seconds(22) + Duration::from_millis(500));
    let [early, late, last] = [&from_the_start, &page, &unlucky].map(latency);
    println!("delay to live: {early} ms from the start, {late} ms joined late, {last} ms without the first packet");
    assert!(apart(late, early) <= 300, "{late} ms, and {early} ms for who was there from the start");
    assert!(apart(last, early) <= 300, "{last} ms, and {early} ms for who was there from the start");
    let [buffer, usual] = [&page, &from_the_start].map(|page| page.run(AUDIO_BUFFER).as_f64().expect("milliseconds"));
    println!("sound waits {buffer:.0} ms, {usual:.0} ms where it was there from the start");
    // On a busy machine sound waits longer for everybody, and a while after a replay was decoded for who joined; a report in the middle of
    // a replay would add 130 ms and more.
    assert!(buffer < usual.max(40.0) + 60.0, "sound waits {buffer} ms; usual are {usual} ms");
    let told = publisher.told();
    assert_eq!(told.keyframes().len(), 1);
    assert_eq!((told.requests_since(joined), told.losses_since(joined)), (0, 0), "the publisher heard of a join");
    let seen = viewer.leave();
    assert_no_gap("who joined late", &seen);
    let first = seen.video.packets.values().next().expect("a packet");
    assert_eq!(first.timestamp, seen.video.pictures()[0]);
    assert!(seen.video.packets.values().take(3).any(|packet| packet.keyframe), "it begins with the keyframe");
    // All of the group of pictures, and all that followed.
    let sent = told.pictures().filter(|picture| picture.at < Instant::now() - seconds(1)).count();
    assert!(seen.video.pictures().len() >= sent, "{} pictures of {sent}", seen.video.pictures().len());
    assert_eq!(from_the_start.stats()["plis"], Value::from(0), "{}", from_the_start.stats());
}

#[test]
fn an_obedient_publisher_is_asked_once_and_the_old_keyframe_shows_meanwhile() {
    let _machine = Machine::alone();
    let node = Node::start();
    let browser = Browser::start();
    let publisher = camera(&browser, &node, "demo", &node.token("demo", "publish"));
    let way = Way::to_watch(&node, "demo");
    // The camera makes keyframes only when asked, and while it finds its size: after this long the newest one is too old to
    // replay what followed.
    let counters = node.counters();
    let mut newest = (counters.keyframes(), Instant::now());
    until("the keyframe is old", seconds(40), || {
        if counters.keyframes() != newest.0 {
            newest = (counters.keyframes(), Instant::now());
        }
        if newest.1.elapsed() > seconds(6) { Ok(()) } else { Err(format!("{} of them", newest.0)) }
    });
    let requests = || publisher.stats()["plis"].as_u64().unwrap_or_default();
    let before = requests();
    let manner = Manner { codec: Codec::Vp8, ..NACK_AND_RTX };
    let viewers: Vec<Viewer> = (0..3).map(|_| Viewer::join(&way, manner)).collect();
    let page = watch(&browser, &node, "demo");
    decodes(&page, seconds(10));
    // What the node did about it, for whoever reads that it failed.
    let story = || {
        let [alone, replayed, sent, withheld, deaf] = [
            CounterId::StartsByKeyframe,
            CounterId::StartsByReplay,
            CounterId::KeyframeRequestsSent,
            CounterId::KeyframeRequestsWithheld,
            CounterId::TracksDeaf,
        ]
        .map(|id| counters.sum(id));
        let asked = requests() - before;
        format!("asked {asked} times; {sent} requests sent, {withheld} withheld, {deaf} deaf; {alone} began with the keyframe alone, {replayed} by a replay")
    };
    until("the publisher's new keyframe", seconds(10), || if counters.keyframes() > newest.0 { Ok(()) } else { Err(story()) });
    println!("{}", story());
    // It is asked when the first of them knocks, and may answer before they are connected, most of all on a busy machine:
    // who is late begins with the answer.
    let mut alone = 0;
    for viewer in &viewers {
        let seen = viewer.until("two seconds of live pictures", seconds(10), |seen| {
            (!keyframes(seen).is_empty() && seen.video.pictures().len() >= 40).then(|| seen.clone())
        });
        assert_no_gap("who joined", &seen);
        let (pictures, keyframes) = (seen.video.pictures(), keyframes(&seen));
        assert_eq!(keyframes[0], pictures[0], "it begins with a keyframe");
        if let Some(next) = keyframes.get(1) {
            // The first picture is the old keyframe; the next is a new one: nothing between them would decode.
            assert_eq!(*next, pictures[1], "the old keyframe alone, then the new one");
            alone += 1;
        }
    }
    println!("asked {} times for 4 joins", requests() - before);
    assert_eq!(requests() - before, 1, "one merged request");
    // The page is the fourth.
    let began = counters.sum(CounterId::StartsByKeyframe);
    assert!(began == alone || began == alone + 1, "{began} began with the old keyframe, {alone} viewers had a new one after it");
}

#[test]
fn a_storm_of_joins_asks_the_publisher_once_per_window() {
    let _machine = Machine::busy();
    let (node, scratch) = (Node::start(), Scratch::new());
    let publisher = Publisher::start(&node, "demo", half_a_minute_without_keyframes(&scratch, 400), Conduct::OBEDIENT);
    publisher.until_age(seconds(6));
    let way = Way::to_watch(&node, "demo");
    let began = Instant::now();
    let viewers: Vec<Viewer> = (0..200).map(|_| Viewer::join(&way, NACK_AND_RTX)).collect();
    for viewer in &viewers {
        viewer.until("a live picture", seconds(30), |seen| {
            let keyframes = seen.video.packets.values().filter(|packet| packet.keyframe).count();
            (keyframes >= 1 && seen.video.pictures().len() >= 10).then_some(())
        });
    }
    let told = publisher.told();
    let requests: Vec<Duration> = told.keyframe_requests.iter().filter(|at| **at >= began).map(|at| *at - began).collect();
    println!("200 joins within {:?}: asked after {requests:?}", began.elapsed());
    assert!(!requests.is_empty(), "the long way asks");
    assert!(requests.len() <= 1 + began.elapsed().as_secs() as usize / 2, "{requests:?}");
    assert!(requests.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(1_900)), "{requests:?}");
    for viewer in viewers {
        assert_no_gap("one of 200", &viewer.seen());
    }
}

#[test]
fn a_short_interval_is_replayed_and_asks_nobody() {
    let _machine = Machine::shared();
    let node = Node::start();
    let publisher = Publisher::start(&node, "demo", clip(), Conduct::OBEDIENT);
    publisher.until_age(seconds(3) + Duration::from_millis(500));
    let joined = Instant::now();
    let viewer = Viewer::join(&Way::to_watch(&node, "demo"), NACK_AND_RTX);
    viewer.until("half a second of pictures", seconds(10), |seen| (seen.video.pictures().len() >= 15).then_some(()));
    let (seen, told) = (viewer.leave(), publisher.told());
    assert_no_gap("who joined", &seen);
    assert!(seen.video.packets.values().take(3).any(|packet| packet.keyframe), "it begins with the keyframe");
    assert_eq!((told.requests_since(joined), told.losses_since(joined)), (0, 0));
    assert!(node.counters().sum(CounterId::StartsByReplay) > 0);
}

//! Goal: what a network loses comes again: to viewers from the reel, without the publisher hearing of it; from
//! publishers by asking them. Nobody pays for somebody else's bad way.
//! Method: a seeded proxy on the way of each remote; viewers and publishers that count every packet, and Chromium,
//! which shows whether pictures are whole. Beside each who asks for what is missing stands one who does not: what he
//! misses is what the proxy really lost.

use crate::browser::{decodes, go_live};
use spillway_proto::link::counters::CounterId;
use spillway_tests::browser::{Browser, Page};
use spillway_tests::node::{Machine, Node, Start};
use spillway_tests::proxy::{Direction, Profile, Proxy};
use spillway_tests::publisher::{Conduct, Publisher, Told, clip};
use spillway_tests::remote::Way;
use spillway_tests::viewer::{Asks, Manner, Seen, Viewer};
use spillway_tests::wait::{seconds, until};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const NACK_AND_RTX: Manner = Manner { asks: Asks::Missing, rtx: true, codec: spillway_proto::id::Codec::H264 };
const NACK_ALONE: Manner = Manner { rtx: false, ..NACK_AND_RTX };
const SILENT: Manner = Manner { asks: Asks::Never, ..NACK_ALONE };
const FIVE_PERCENT: Profile = Profile {
    loss: 0.05,
    burst: None,
    reorder: None,
    duplicate: 0.0,
    jitter: Duration::ZERO,
    delay: Duration::ZERO,
    bits_per_second: None,
    media_only: false,
};

fn view_url(node: &Node, room: &str) -> String {
    format!("{}/watch/{room}#token={}", node.http.base(), node.token(room, "view"))
}

fn frames_decoded(page: &Page<'_>) -> u64 {
    page.stats()["framesDecoded"].as_u64().unwrap_or_default()
}

/// Missing for good: of what was expected until `end`, when there was time to ask again for the last of it.
fn missing_for_good(viewer: &Viewer, end: Instant) -> (u64, u64) {
    until("the last holes had their time", seconds(5), || match end.elapsed() {
        passed if passed > seconds(1) => Ok(()),
        passed => Err(format!("{passed:?}")),
    });
    viewer.seen().video.expected_and_missing(end)
}

/// Less than 3 in 1,000.
fn assert_healed(name: &str, (expected, missing): (u64, u64)) {
    println!("{name}: {missing} of {expected} missing");
    assert!(expected > 300, "{name}: {expected} packets prove nothing");
    assert!(missing * 1_000 < expected * 3, "{name} misses {missing} of {expected}");
}

#[test]
fn five_percent_lost_both_ways_for_half_a_minute_heal_from_the_reel() {
    let _machine = Machine::busy();
    let node = Node::start();
    let publisher = Publisher::start(&node, "demo", clip(), Conduct::OBEDIENT);
    let way = Way::to_watch(&node, "demo");
    let proxies: Vec<Proxy> = (1..=4).map(|seed| Proxy::start(node.media(), seed)).collect();
    let join = |at: usize, manner| Viewer::join(&way.through(proxies[at].address), manner);
    let (rtx, plain, silent) = (join(0, NACK_AND_RTX), join(1, NACK_ALONE), join(2, SILENT));
    let near = Viewer::join(&way, SILENT);
    let browser = Browser::start();
    let page = browser.open_through(proxies[3].address, &view_url(&node, "demo"));
    decodes(&page, seconds(20));
    for viewer in [&rtx, &plain, &silent, &near] {
        viewer.until_playing(seconds(10));
    }
    assert!(rtx.seen().has_rtx && rtx.seen().has_nack, "the answer grants retransmissions");
    assert!(plain.seen().has_nack && !plain.seen().has_rtx);

    proxies.iter().for_each(|proxy| proxy.set_both(FIVE_PERCENT));
    let (began, decoded, sent) = (Instant::now(), frames_decoded(&page), publisher.told().pictures().count() as u64);
    let answered = node.counters().sum(CounterId::RtxFromReel);
    until("half a minute", seconds(35), || if began.elapsed() >= seconds(30) { Ok(()) } else { Err(String::new()) });
    let (end, sent) = (Instant::now(), publisher.told().pictures().count() as u64 - sent);
    let decoded = frames_decoded(&page) - decoded;
    let stats = page.stats();

    // The control: so much was really lost on such a way.
    let (expected, missing) = silent.seen().video.expected_and_missing(end);
    println!("who does not ask: {missing} of {expected} missing");
    assert!(missing * 100 > expected * 3, "the proxy lost only {missing} of {expected}");
    assert_eq!(near.seen().video.expected_and_missing(end).1, 0, "nothing is lost on a good way");
    assert_healed("by RTX", missing_for_good(&rtx, end));
    assert_healed("by the same bytes", missing_for_good(&plain, end));
    let (rtx, plain) = (rtx.leave().video, plain.leave().video);
    assert!(rtx.by_rtx() > 0 && plain.by_rtx() == 0 && plain.asked_for() > 0);
    println!("Chromium: {decoded} of {sent} pictures decoded; {stats}");
    assert!(decoded * 100 >= sent * 95, "{decoded} of {sent} pictures decoded: {stats}");
    assert!(node.counters().sum(CounterId::RtxFromReel) > answered);
    let told = publisher.leave();
    assert!(told.has_nack, "it could have been asked");
    assert_eq!(told.losses_since(began), 0, "a viewer's loss is the node's own affair");
}

/// A publisher in a room of its own, behind a proxy, and a near viewer of it.
fn published_over(node: &Node, room: &str, proxy: &Proxy, conduct: Conduct) -> (Publisher, Viewer) {
    let way = Way::to_publish(node, room).through(proxy.address);
    let publisher = Publisher::start_on(node, room, &way, clip(), conduct);
    let viewer = Viewer::join(&Way::to_watch(node, room), SILENT);
    viewer.until_playing(seconds(10));
    (publisher, viewer)
}

#[test]
fn what_a_publisher_loses_is_asked_for_again() {
    let _machine = Machine::busy();
    let node = Node::start();
    let proxies: Vec<Proxy> = (11..=14).map(|seed| Proxy::start(node.media(), seed)).collect();
    let plain = Conduct { rtx: false, ..Conduct::OBEDIENT };
    let rooms = [("rtx", Conduct::OBEDIENT), ("plain", plain), ("deaf", Conduct::DEAF)];
    let pairs: Vec<(Publisher, Viewer)> =
        rooms.iter().zip(&proxies).map(|((room, conduct), proxy)| published_over(&node, room, proxy, *conduct)).collect();
    let browser = Browser::start();
    let token = node.token("camera", "publish");
    let camera = browser.open_through(proxies[3].address, &format!("{}/publish/camera#token={token}", node.http.base()));
    go_live(&camera, 360);
    let seen = Viewer::join(&Way::to_watch(&node, "camera"), Manner { codec: spillway_proto::id::Codec::Vp8, ..SILENT });
    seen.until_playing(seconds(10));

    proxies.iter().for_each(|proxy| proxy.set_both(FIVE_PERCENT));
    let began = Instant::now();
    until("ten seconds", seconds(15), || if began.elapsed() >= seconds(10) { Ok(()) } else { Err(String::new()) });
    let end = Instant::now();
    for ((room, conduct), (publisher, viewer)) in rooms.iter().zip(&pairs) {
        let told = publisher.told();
        if conduct.resends {
            assert_healed(room, missing_for_good(viewer, end));
            assert!(told.resent > 0 && told.has_rtx == conduct.rtx, "{room}: {} sent again", told.resent);
            println!("{room}: asked for {} of {}", told.losses_since(began), told.video_packets);
        } else {
            // The control: whoever cannot resend is not asked, and so much is lost.
            let (expected, missing) = viewer.seen().video.expected_and_missing(end);
            println!("{room}: {missing} of {expected} missing");
            assert!(missing * 100 > expected * 3, "the proxy lost only {missing} of {expected}");
            assert_eq!(told.losses.len(), 0, "asked though it never offered to answer");
        }
    }
    assert_healed("a camera in Chromium", missing_for_good(&seen, end));
    let stats = camera.run("
        const entries = [...(await connections.at(-1).getStats()).values()];
        const video = entries.find((entry) => entry.type === 'outbound-rtp' && entry.kind === 'video');
        return { nacks: video.nackCount, again: video.retransmittedPacketsSent }");
    println!("Chromium: {stats}");
    assert!(stats["nacks"].as_u64() > Some(0) && stats["again"].as_u64() > Some(0), "{stats}");
}

/// `spillway publish` goes where the answer says: that is the proxy, at the node's port on another address of loopback.
#[test]
fn what_spillway_publish_loses_on_its_way_is_sent_again() {
    let _machine = Machine::shared();
    let node = Node::start_with(&Start { more: &["--shards", "2", "--announce", "127.0.0.2"], ..Start::default() });
    let media = node.media();
    let announced = SocketAddr::from(([127, 0, 0, 2], media.port()));
    let proxy = Proxy::start_at(announced, media, 61, Profile::default(), Profile::default());
    let _publisher = node.publish("demo", "h264");
    let viewer = Viewer::join(&Way::to_watch(&node, "demo").through(media), SILENT);
    viewer.until_playing(seconds(10));
    proxy.set(Direction::Up, FIVE_PERCENT);
    let before = proxy.counts(Direction::Up);
    let end = viewer.until("ten seconds of video", seconds(20), |seen| {
        (seen.video.packets.len() > 600).then(Instant::now)
    });
    let (counts, recovered) = (proxy.counts(Direction::Up), node.counters().sum(CounterId::PacketsRecovered));
    let (lost, of) = (counts.rtp_lost - before.rtp_lost, counts.rtp - before.rtp);
    println!("{lost} of {of} lost on the way, {recovered} came again");
    assert!(lost * 100 > of * 3, "the proxy lost only {lost} of {of}");
    assert_healed("spillway publish", missing_for_good(&viewer, end));
    assert!(recovered * 2 > lost, "{recovered} of {lost} came again");
}

/// The ways that are bad in other manners than by chance.
fn bad_ways() -> [(&'static str, Profile); 4] {
    let none = Profile::default();
    [
        ("bursts of 8", Profile { burst: Some((300, 8)), ..none }),
        ("a tenth 50 ms late", Profile { reorder: Some((0.1, Duration::from_millis(50))), ..none }),
        ("5 % twice", Profile { duplicate: 0.05, ..none }),
        ("100 ms of jitter", Profile { jitter: Duration::from_millis(100), ..none }),
    ]
}

#[test]
fn bursts_disorder_copies_and_jitter_cost_viewers_nothing() {
    let _machine = Machine::alone();
    let node = Node::start();
    let publisher = Publisher::start(&node, "demo", clip(), Conduct::OBEDIENT);
    let way = Way::to_watch(&node, "demo");
    let browser = Browser::start();
    let viewers: Vec<_> = bad_ways()
        .into_iter()
        .zip(21..)
        .map(|((name, profile), seed)| {
            let proxy = Proxy::start(node.media(), seed);
            let viewer = Viewer::join(&way.through(proxy.address), NACK_AND_RTX);
            let page = browser.open_through(proxy.address, &view_url(&node, "demo"));
            (name, profile, proxy, viewer, page)
        })
        .collect();
    for (_, _, _, viewer, page) in &viewers {
        viewer.until_playing(seconds(10));
        decodes(page, seconds(20));
    }
    for (_, profile, proxy, _, _) in &viewers {
        proxy.set_both(*profile);
    }
    let began = Instant::now();
    let before: Vec<u64> = viewers.iter().map(|(.., page)| frames_decoded(page)).collect();
    let sent = publisher.told().pictures().count() as u64;
    until("ten seconds", seconds(15), || if began.elapsed() >= seconds(10) { Ok(()) } else { Err(String::new()) });
    let (end, sent) = (Instant::now(), publisher.told().pictures().count() as u64 - sent);
    let decoded: Vec<u64> = viewers.iter().zip(before).map(|((.., page), before)| frames_decoded(page) - before).collect();
    for ((name, _, proxy, viewer, page), decoded) in viewers.iter().zip(decoded) {
        let counts = proxy.counts(Direction::Down);
        assert!(counts.lost + counts.reordered + counts.duplicated > 0 || *name == "100 ms of jitter", "{name}: {counts:?}");
        assert_healed(name, missing_for_good(viewer, end));
        println!("{name}: {decoded} of {sent} pictures decoded; {:?}", proxy.counts(Direction::Down));
        assert!(decoded * 100 >= sent * 95, "{name}: {decoded} of {sent} pictures decoded: {}", page.stats());
    }
    assert_eq!(publisher.told().losses_since(began), 0);
}

#[test]
fn bursts_disorder_copies_and_jitter_cost_publishers_nothing() {
    let _machine = Machine::shared();
    let node = Node::start();
    let rooms: Vec<_> = bad_ways()
        .into_iter()
        .enumerate()
        .map(|(number, (name, profile))| {
            let proxy = Proxy::start(node.media(), 31 + number as u64);
            let (publisher, viewer) = published_over(&node, &format!("room-{number}"), &proxy, Conduct::OBEDIENT);
            (name, profile, proxy, publisher, viewer)
        })
        .collect();
    for (_, profile, proxy, ..) in &rooms {
        proxy.set_both(*profile);
    }
    let began = Instant::now();
    until("eight seconds", seconds(15), || if began.elapsed() >= seconds(8) { Ok(()) } else { Err(String::new()) });
    let end = Instant::now();
    for (name, _, proxy, publisher, viewer) in &rooms {
        println!("{name}: {:?}", proxy.counts(Direction::Up));
        assert_healed(name, missing_for_good(viewer, end));
        let seen = viewer.seen();
        assert_eq!(seen.video.duplicates, 0, "{name}: copies go no further");
        assert_known(name, &publisher.told(), &seen);
    }
}

/// Every picture's last packet is one that the publisher sent with that timestamp's distance.
fn assert_known(name: &str, told: &Told, seen: &Seen) {
    let sent: HashMap<u64, u32> = told.pictures().map(|picture| (picture.hash, picture.timestamp)).collect();
    for packet in seen.video.packets.values().filter(|packet| packet.marker) {
        assert!(sent.contains_key(&packet.hash), "{name}: a packet nobody sent");
    }
}

/// How long pictures took from publisher to viewer, of those sent between two instants; sorted.
fn latencies(told: &Told, seen: &Seen, from: Instant, to: Instant) -> Vec<Duration> {
    let ends = || seen.video.packets.values().filter(|packet| packet.marker);
    // The viewer's timestamps are the publisher's and a constant; payloads may repeat, so most of them vote.
    let sent_as: HashMap<u64, u32> = told.pictures().map(|picture| (picture.hash, picture.timestamp)).collect();
    let mut votes: HashMap<u32, usize> = HashMap::new();
    for (packet, timestamp) in ends().filter_map(|packet| Some((packet, sent_as.get(&packet.hash)?))) {
        *votes.entry(packet.timestamp.wrapping_sub(*timestamp)).or_default() += 1;
    }
    let Some(offset) = votes.into_iter().max_by_key(|(_, count)| *count).map(|(offset, _)| offset) else { return Vec::new() };
    let arrived: HashMap<u32, Instant> = ends().map(|packet| (packet.timestamp, packet.at)).collect();
    let sent = told.pictures().filter(|picture| picture.at >= from && picture.at < to);
    let mut all: Vec<Duration> = sent
        .filter_map(|picture| {
            let at = arrived.get(&picture.timestamp.wrapping_add(offset))?;
            // Both clocks are one; the sender notes its time after the send.
            Some(at.saturating_duration_since(picture.at))
        })
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn one_bad_viewer_costs_the_others_nothing() {
    let _machine = Machine::alone();
    let node = Node::start();
    let publisher = Publisher::start(&node, "demo", clip(), Conduct::OBEDIENT);
    let way = Way::to_watch(&node, "demo");
    let others: Vec<Viewer> = (0..3).map(|_| Viewer::join(&way, SILENT)).collect();
    others.iter().for_each(|viewer| viewer.until_playing(seconds(10)));
    let wait = |since: Instant| {
        until("four seconds", seconds(10), || if since.elapsed() >= seconds(4) { Ok(()) } else { Err(String::new()) });
    };
    let calm = Instant::now();
    wait(calm);
    let proxy = Proxy::start(node.media(), 41);
    let bad = Viewer::join(&way.through(proxy.address), Manner { asks: Asks::Everything, ..NACK_AND_RTX });
    bad.until_playing(seconds(10));
    let awful = Profile { loss: 0.3, media_only: true, ..Profile::default() };
    proxy.set_both(awful);
    let trouble = Instant::now();
    let (down, refused) = (proxy.counts(Direction::Down), node.counters().sum(CounterId::RtxRefusedBudget));
    wait(trouble);
    let end = Instant::now();
    let told = publisher.told();
    for viewer in &others {
        let seen = viewer.seen();
        assert_eq!((seen.video.missing(), seen.video.duplicates, seen.audio.missing()), (0, 0, 0));
        // What was sent in these four seconds is there: no packet more, none less.
        let sent = told.pictures().filter(|picture| picture.at >= trouble && picture.at < end - Duration::from_millis(200)).count();
        let before = latencies(&told, &seen, calm, calm + seconds(4));
        let during = latencies(&told, &seen, trouble, end - Duration::from_millis(200));
        assert_eq!(during.len(), sent, "pictures of the bad viewer's time are missing");
        let p99 = |sorted: &[Duration]| sorted[sorted.len() * 99 / 100];
        assert!(!before.is_empty(), "nothing to compare with");
        println!("p99 {:?} before, {:?} beside a bad viewer", p99(&before), p99(&during));
        assert!(p99(&during) < (p99(&before) * 10).max(Duration::from_millis(250)), "{during:?}");
    }
    // It asked for everything fifty times a second, and got what its share pays for.
    let (seen, after) = (bad.leave(), proxy.counts(Direction::Down));
    let (asked, refused) = (seen.video.asked, node.counters().sum(CounterId::RtxRefusedBudget) - refused);
    let answers = after.rtp - down.rtp;
    let source = others[0].seen();
    let of = |source: &spillway_tests::viewer::Source| source.packets.values().filter(|packet| packet.at >= trouble).count() as u64;
    let media = of(&source.video) + of(&source.audio);
    println!("asked for {asked}, refused {refused}; {answers} packets sent where {media} are media");
    assert!(asked > 5_000 && refused > 0, "asked for {asked}, refused {refused}");
    assert!(answers.saturating_sub(media) * 20 < asked, "its greed paid: {answers} packets for {media}");
    assert_eq!(told.losses_since(trouble), 0);
}

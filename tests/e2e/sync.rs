//! Goal: lips stay in sync for a minute: the clip's flash and its beep, which belong together, are as near each other
//! on the clock of the sender reports a viewer gets.
//! Method: a publisher whose sound and picture have timestamps of their own beginning; viewers from the start and
//! from half way; each flash and beep is known by its payload, and its time by the newest report of its source.

use spillway_proto::id::Kind;
use spillway_tests::node::{Machine, Node};
use spillway_tests::publisher::{Conduct, Publisher, Told, clip};
use spillway_tests::remote::Way;
use spillway_tests::viewer::{Manner, Seen, Viewer};
use spillway_tests::wait::seconds;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const APART_MS_MAX: i128 = 40;
/// The flash lasts three pictures, the beep five packets: only their beginnings count.
const SECOND_NS: u64 = 1_000_000_000;

/// How far apart each flash and its beep are, in milliseconds: of the flashes that came after `since`, but for those of the last second, whose beeps may be
/// on their way.
fn apart(told: &Told, seen: &Seen, since: Instant) -> Vec<i128> {
    let begins = |kind: Kind| -> BTreeSet<u64> {
        let of_kind = told.frames.iter().filter(move |frame| frame.kind == kind);
        // Container times are whole milliseconds.
        let begins = of_kind.clone().filter(|frame| (frame.clip_ns + SECOND_NS / 500) % SECOND_NS < SECOND_NS / 250);
        let others: BTreeSet<u64> =
            of_kind.filter(|frame| (frame.clip_ns + SECOND_NS / 500) % SECOND_NS >= SECOND_NS / 250).map(|frame| frame.hash).collect();
        begins.map(|frame| frame.hash).filter(|hash| !others.contains(hash)).collect()
    };
    let until = Instant::now() - Duration::from_secs(1);
    let times = |kind: Kind, came: &dyn Fn(Instant) -> bool| -> Vec<i128> {
        let (source, clock_rate) = if kind == Kind::Audio { (&seen.audio, 48_000) } else { (&seen.video, 90_000) };
        let begins = begins(kind);
        let packets = source.packets.values().filter(|packet| came(packet.at) && begins.contains(&packet.hash));
        packets.filter_map(|packet| Some(seen.nanos_of(source, packet.timestamp, clock_rate)? / 1_000_000)).collect()
    };
    let (flashes, beeps) = (times(Kind::Video, &|at| (since..until).contains(&at)), times(Kind::Audio, &|_| true));
    flashes.iter().filter_map(|flash| beeps.iter().map(|beep| beep - flash).min_by_key(|apart| apart.abs())).collect()
}

#[test]
fn flash_and_beep_stay_together_for_a_minute() {
    let _machine = Machine::shared();
    let node = Node::start();
    let publisher = Publisher::start(&node, "demo", clip(), Conduct::DEAF);
    let way = Way::to_watch(&node, "demo");
    let first = Viewer::join(&way, Manner::default());
    first.until_playing(seconds(10));
    publisher.until_age(seconds(30));
    let second = Viewer::join(&way, Manner::default());
    second.until_playing(seconds(10));
    publisher.until_age(seconds(62));
    let late = Instant::now() - Duration::from_secs(10);
    for (name, viewer) in [("first", &first), ("second", &second)] {
        let apart = apart(&publisher.told(), &viewer.seen(), late);
        println!("{name}: {apart:?} ms apart");
        assert!(apart.len() >= 5, "{name}: flashes and beeps were not found: {apart:?}");
        assert!(apart.iter().all(|apart| apart.abs() <= APART_MS_MAX), "{name}: {apart:?} ms apart");
    }
}

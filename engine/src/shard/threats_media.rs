//! Goal: rows 6 to 9, 28 and the engine's half of 29: media that is replayed, forged, malformed or too much costs its
//! sender alone, also where the sender has valid keys; what comes and goes leaves nothing. Method: a whole engine
//! over `Sim`, real sealing; an honest publisher and its viewer beside the attacker, whose packets are counted.

use super::threats::{bad, path_from, publishing};
use super::world::{Source, World, number_of};
use spillway_proto::id::{Codec, Side, StreamId, TrackId};
use spillway_proto::limits::{KEYFRAME_REQUEST_INTERVAL, PUBLISHER_BURST, PUBLISHER_PACKETS_PER_SECOND_MAX};
use spillway_proto::link::command::{Command, FeedFacts};
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::event::{CloseReason, Event};
use spillway_proto::time::Time;
use spillway_proto::wire::rtcp;
use spillway_proto::wire::rtp::{parse_header, write_header};
use std::collections::HashMap;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A second stream with a viewer: what an attack on the first must not touch.
struct Bystanders {
    source: Source,
    viewer: usize,
    ssrc: u32,
}

fn bystanders(world: &mut World) -> Bystanders {
    let publisher = world.add(0, Side::Publisher);
    let stream = std::mem::replace(&mut world.stream, StreamId::new(2, 1));
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 55);
    world.stream = stream;
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    world.connect();
    Bystanders { source: Source::new(publisher, 55), viewer, ssrc }
}

impl Bystanders {
    /// They see every packet there was, in order.
    fn assert_untouched(&self, world: &World, packets: usize) {
        let seen = world.remotes[self.viewer].of(self.ssrc);
        assert_eq!(seen.len(), packets);
        assert!(seen.windows(2).all(|pair| number_of(&pair[1].payload) == number_of(&pair[0].payload) + 1));
    }
}

/// Any plaintext as a packet of `remote` with valid keys. What claims a header longer than itself is sealed behind its
/// fixed part.
fn sealed(world: &World, remote: usize, plain: &[u8], index: u64) -> Vec<u8> {
    let split = parse_header(plain).map_or(12, |header| header.header_len);
    let mut out = vec![0; plain.len() + 64];
    let length = world.remotes[remote].client.seal_rtp(&plain[..split], &plain[split..], index, &mut out).unwrap();
    out.truncate(length);
    out
}

fn sealed_rtcp(world: &mut World, remote: usize, plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0; plain.len() + 64];
    let length = world.remotes[remote].client.seal_rtcp(plain, &mut out).unwrap();
    out.truncate(length);
    out
}

/// An RTCP packet whose head says what it is told to; the length is right.
fn packet(count: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | count, kind, 0, 0];
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(4), 0);
    let words = (out.len() / 4 - 1) as u16;
    out[2..4].copy_from_slice(&words.to_be_bytes());
    out
}

#[test]
fn threat_06_replays_forgeries_and_injections_change_nothing() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    world.connect();
    // Begins at 65,300 and goes over 2^16: old sequence numbers look like new ones to whoever forgets the rollover.
    source.index = 65_300;
    let mut wire: Vec<Vec<u8>> = Vec::new();
    for _ in 0..100 {
        let datagrams = source.frame(&world, 4);
        for datagram in &datagrams {
            world.push(source.remote, datagram.clone());
        }
        wire.extend(datagrams);
        world.run(Duration::from_millis(10));
    }
    assert_eq!(world.remotes[viewer].of(ssrc).len(), 400);
    let counts = |world: &World| {
        [CounterId::PacketsRefusedReplay, CounterId::PacketsRefusedAuth, CounterId::DatagramsUnknown, CounterId::PacketsReceived]
            .map(|id| world.counter(id))
    };
    let before = counts(&world);
    // Everything once more: inside the window, at both of its edges, and behind it, over the rollover.
    for datagram in &wire {
        world.push(source.remote, datagram.clone());
    }
    // Forged: each byte of the last packet changed once.
    let last = wire.last().unwrap().clone();
    let mut forged = 0;
    for at in 12..last.len() {
        let mut copy = last.clone();
        copy[at] ^= 0x40;
        world.push(source.remote, copy);
        forged += 1;
    }
    // The next packets as they are, but from other addresses; and far ahead with a tag of nobody (2^15 and more).
    let injected = source.frame(&world, 4);
    for (number, datagram) in injected.iter().enumerate() {
        world.deliver(0, path_from(bad(number as u32)), datagram.clone());
    }
    for ahead in [1u16, 63, 64, 65, 1_000, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
        let mut copy = last.clone();
        let sequence = u16::from_be_bytes([copy[2], copy[3]]).wrapping_add(ahead);
        copy[2..4].copy_from_slice(&sequence.to_be_bytes());
        world.push(source.remote, copy);
        forged += 1;
    }
    world.run(Duration::from_millis(100));
    let after = counts(&world);
    let [replayed, unauthentic, unknown, received] = [0, 1, 2, 3].map(|at| after[at] - before[at]);
    assert_eq!((replayed + unauthentic, unknown, received), (400 + forged, 4, 0));
    // A forgery inside the window is a replay by its number alone; the last byte of the sequence decides which.
    assert!(replayed >= 400 && unauthentic >= 7, "{replayed} replays, {unauthentic} forgeries");
    assert_eq!(world.remotes[viewer].of(ssrc).len(), 400, "a viewer saw one of them");
    // No state moved: the very packets that were injected are taken from their own sender, and all that follows.
    for datagram in injected {
        world.push(source.remote, datagram);
    }
    source.play(&mut world, 20, 4);
    let seen = world.remotes[viewer].of(ssrc);
    assert_eq!(seen.len(), 400 + 84);
    assert!(seen.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
}

/// Malformed RTP: what parsers of others fell over.
fn malformed_rtp(sequence: u16) -> Vec<Vec<u8>> {
    let mut fixed = [0; 12];
    write_header(&mut fixed, true, 96, sequence, 9_000, 77);
    let with = |first: u8, rest: &[u8]| {
        let mut packet = fixed.to_vec();
        packet[0] = first;
        packet.extend_from_slice(rest);
        packet
    };
    vec![
        // Padding longer than the payload (CVE-2025-49140), zero, and of all the payload.
        with(0xA0, &[1, 2, 3, 255]),
        with(0xA0, &[1, 2, 3, 0]),
        with(0xA0, &[1, 2, 3, 4]),
        with(0xA0, &[]),
        // CSRCs, an extension, and both beyond the packet's end.
        with(0x8F, &[1; 4]),
        with(0x90, &[0xBE, 0xDE, 0xFF, 0xFF]),
        with(0x9F, &[0xBE, 0xDE, 0, 1]),
        with(0x90, &[0xBE, 0xDE, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0x10]),
        with(0x90, &[0x10, 0x00, 0, 1, 5, 255, 1, 1, 0x10]),
        with(0x90, &[0xBE]),
        // Nothing, and the beginnings of descriptors.
        with(0x80, &[]),
        with(0x80, &[0x90]),
        with(0x80, &[0x90, 0xF0]),
        with(0x80, &[0x90, 0xF0, 0x80]),
        with(0x80, &[0xFF; 1_400]),
        // Another version.
        with(0x00, &[1; 20]),
        with(0x40, &[1; 20]),
        with(0xC0, &[1; 20]),
    ]
}

fn malformed_rtcp() -> Vec<Vec<u8>> {
    let two = [0, 0, 0, 77, 0, 0, 0, 77];
    let body = |rest: &[u8]| [&two[..], rest].concat();
    let mut nack_of_all = Vec::new();
    for base in (0..=u16::MAX).step_by(17).take(470) {
        nack_of_all.extend_from_slice(&base.to_be_bytes());
        nack_of_all.extend_from_slice(&[0xFF, 0xFF]);
    }
    let sources: Vec<u8> = (1_000..1_100u32).flat_map(|ssrc| [&ssrc.to_be_bytes()[..], &[1, 0, 0, 0]].concat()).collect();
    let mut short = packet(1, 206, &two);
    short[3] = 200;
    let mut zero = packet(1, 206, &two);
    zero[3] = 0;
    vec![
        // transport-cc of 65,535 statuses in one run, and in none.
        packet(15, 205, &body(&[0, 0, 0xFF, 0xFF, 0, 0, 1, 0, 0x1F, 0xFF])),
        packet(15, 205, &body(&[0, 0, 0xFF, 0xFF, 0, 0, 1, 0])),
        // A NACK of as many packets as a datagram can name.
        packet(1, 205, &body(&nack_of_all)),
        packet(1, 205, &body(&[])),
        // REMB of 0, of the largest exponent, of sources that are not there.
        packet(15, 206, &body(b"REMB\x01\0\0\0\0\0\0\x07")),
        packet(15, 206, &body(b"REMB\x01\xFF\xFF\xFF\0\0\0\x07")),
        packet(15, 206, &body(b"REMB\xFF\xFF\xFF\xFF")),
        // FIR for a hundred sources.
        packet(4, 206, &body(&sources)),
        // Counts that the body does not have: reports, BYE, SDES.
        packet(31, 200, &two),
        packet(31, 201, &two),
        packet(31, 203, &two[..4]),
        packet(31, 202, &two),
        packet(0, 207, &two),
        // Lengths: beyond the datagram, zero, padding of all and more.
        short,
        zero,
        packet(0x21, 206, &body(&[0, 0, 0, 255])),
        packet(0x21, 206, &body(&[0, 0, 0, 0])),
        // A report from the end of time.
        packet(0, 200, &[0, 0, 0, 77, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]),
    ]
}

#[test]
fn threat_07_malformed_media_plain_and_with_valid_keys_harms_nobody() {
    let (mut world, mut source, track) = publishing(1);
    let mut others = bystanders(&mut world);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    world.connect();
    let attackers = [source.remote, viewer];
    for round in 0..20 {
        for &attacker in &attackers {
            let sequence = source.index as u16;
            for plain in malformed_rtp(sequence).into_iter().chain(malformed_rtcp()) {
                world.push(attacker, plain);
            }
            for plain in malformed_rtp(sequence) {
                // A sealer of ours seals it as it is; only the version decides whether the engine looks at it.
                let index = source.index;
                let datagram = sealed(&world, attacker, &plain, index);
                world.push(attacker, datagram);
                source.index += u64::from(attacker == source.remote);
                let mut next = plain.clone();
                next[2..4].copy_from_slice(&(source.index as u16).to_be_bytes());
            }
            for plain in malformed_rtcp() {
                let datagram = sealed_rtcp(&mut world, attacker, &plain);
                world.push(attacker, datagram);
            }
        }
        others.source.play(&mut world, 1, 2);
        let _ = round;
    }
    for &attacker in &attackers {
        let session = world.remotes[attacker].session;
        assert!(!world.heard.iter().any(|e| matches!(e, Event::SessionClosed { session: s, .. } if *s == session)));
    }
    assert!(world.counter(CounterId::PacketsRefusedMalformed) >= 20, "the keys were valid");
    // Padding longer than the payload, of zero bytes, of nothing: refused as that, each, and not taken in.
    let counts = |world: &World| {
        [CounterId::PacketsRefusedMalformed, CounterId::PacketsReceived].map(|counter| world.counter(counter))
    };
    let before = counts(&world);
    for lie in [0, 1, 3] {
        let datagram = sealed(&world, source.remote, &malformed_rtp(source.index as u16)[lie], source.index);
        source.index += 1;
        world.push(source.remote, datagram);
    }
    world.run(Duration::from_millis(1));
    assert_eq!(counts(&world), [before[0] + 3, before[1]]);
    others.assert_untouched(&world, 40);
    // The attacked stream goes on, too.
    let before = world.remotes[viewer].of(ssrc).len();
    source.frame = 0;
    source.play(&mut world, 30, 2);
    assert_eq!(world.remotes[viewer].of(ssrc).len() - before, 60);
    assert_eq!(world.counter(CounterId::SessionsConnected), 4);
}

#[test]
fn threat_07_a_storm_of_keyframe_requests_reaches_the_publisher_twice_a_second() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    source.play(&mut world, 10, 2);
    let before = world.remotes[source.remote].keyframe_requests;
    // No other keyframe comes: while this one is young the reel answers, then the publisher is asked.
    source.frames_per_keyframe = u64::MAX;
    // 10 in each millisecond for 10 s, every second one a FIR.
    for request in 0..100_000u32 {
        let mut plain = [0; 64];
        let length = match request % 2 {
            0 => rtcp::write_pli(&mut plain, 1, ssrc).unwrap(),
            _ => rtcp::write_fir(&mut plain, 1, ssrc, request as u8).unwrap(),
        };
        let datagram = sealed_rtcp(&mut world, viewer, &plain[..length]);
        world.push(viewer, datagram);
        if request % 10 == 9 {
            world.run(Duration::from_millis(1));
        }
        if request % 330 == 0 {
            source.play_for(&mut world, 2, Duration::ZERO);
        }
    }
    let asked = world.remotes[source.remote].keyframe_requests - before;
    let most = 10 * SECOND.as_millis() / KEYFRAME_REQUEST_INTERVAL.as_millis() + 1;
    assert!((1..=most as usize).contains(&asked), "{asked} requests in 10 s");
}

#[test]
fn threat_08_who_asks_for_everything_again_and_again_gets_its_share_and_no_more() {
    for rtx in [true, false] {
        let (mut world, mut source, track) = publishing(1);
        let mut others = bystanders(&mut world);
        let viewer = world.add(0, Side::Viewer);
        let mut facts = FeedFacts::default();
        facts.payload_types[Codec::Vp8 as usize] = 103;
        facts.rtx_payload_types[Codec::Vp8 as usize] = if rtx { 113 } else { 0 };
        let (_, ssrc, rtx_ssrc) = world.feed_with(0, viewer, track, facts);
        world.remotes[viewer].wire = Some(Vec::new());
        world.connect();
        let mut newest = 0;
        for _ in 0..300 {
            for datagram in source.frame(&world, 8) {
                world.push(source.remote, datagram);
            }
            for datagram in others.source.frame(&world, 2) {
                world.push(others.source.remote, datagram);
            }
            for _ in 0..3 {
                world.run(Duration::from_millis(11));
                newest = world.remotes[viewer].of(ssrc).iter().map(|seen| seen.sequence).last().unwrap_or(newest);
                // The last 512 packets, which it all had, three times over.
                for from in [0u16, 128, 256, 384].repeat(3) {
                    let losses: Vec<u16> = (0..128).map(|n| newest.wrapping_sub(from + 127 - n)).collect();
                    let mut plain = [0; 256];
                    let length = rtcp::write_nack(&mut plain, 1, ssrc, &losses).unwrap();
                    let datagram = sealed_rtcp(&mut world, viewer, &plain[..length]);
                    world.push(viewer, datagram);
                }
            }
        }
        let wire = world.remotes[viewer].wire.take().unwrap();
        let mut sent: HashMap<u16, (usize, usize)> = HashMap::new();
        for datagram in wire.iter().filter(|datagram| datagram[8..12] == ssrc.to_be_bytes()) {
            let packet = sent.entry(u16::from_be_bytes([datagram[2], datagram[3]])).or_insert((0, datagram.len()));
            packet.0 += 1;
        }
        let media: usize = sent.values().map(|(_, length)| length).sum();
        let all: usize = wire.iter().map(Vec::len).sum();
        assert!(sent.len() >= 300 * 8 - 8 && media > 2_000_000, "the stream itself was sent");
        let answers = all - media;
        let most = media * 15 / 100 + 64 * 1_024;
        assert!(answers <= most && answers > most / 2, "{answers} bytes of answers to {media}: at most {most}");
        let again = |count: usize| assert!(count <= 2, "a packet was answered {count} times");
        sent.values().for_each(|(count, _)| again(count - 1));
        let mut by_rtx: HashMap<[u8; 2], usize> = HashMap::new();
        for seen in world.remotes[viewer].of(rtx_ssrc).iter().filter(|_| rtx) {
            *by_rtx.entry([seen.payload[0], seen.payload[1]]).or_default() += 1;
        }
        by_rtx.values().for_each(|count| again(*count));
        assert!(world.counter(CounterId::RtxRefusedBudget) > 10_000);
        others.assert_untouched(&world, 600);
        assert!(world.remotes[source.remote].asked_again.is_empty(), "it went upstream");
    }
}

#[test]
fn threat_09_a_publishers_flood_is_clamped_and_the_others_unaffected() {
    let (mut world, mut source, track) = publishing(1);
    let mut others = bystanders(&mut world);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    world.connect();
    let received = |world: &World| world.counter(CounterId::PacketsReceived);
    let before = received(&world);
    // 100 packets in each millisecond for a second: ten times what a publisher may send.
    for millisecond in 0..1_000 {
        for n in 0..100u64 {
            let mut plain = vec![0; 60];
            let mut header = [0; 12];
            write_header(&mut header, n == 99, 96, source.index as u16, millisecond * 90, 77);
            plain[..12].copy_from_slice(&header);
            plain[12..14].copy_from_slice(&[0x10, 1]);
            let datagram = sealed(&world, source.remote, &plain, source.index);
            source.index += 1;
            world.push(source.remote, datagram);
        }
        if millisecond % 33 == 0 {
            others.source.play_for(&mut world, 2, Duration::ZERO);
        }
        world.run(Duration::from_millis(1));
    }
    let taken = received(&world) - before - 62;
    let second = PUBLISHER_PACKETS_PER_SECOND_MAX;
    let most = second + second * PUBLISHER_BURST.as_millis() as u64 / 1_000 + 1;
    assert!((second..=most).contains(&taken), "{taken} packets of the flood were taken");
    assert_eq!(world.counter(CounterId::PacketsRefusedFlood), 100_000 - taken);
    others.assert_untouched(&world, 62);
    // A flood that only looks like the publisher's spends nothing of its share.
    world.run(SECOND);
    let refused = world.counter(CounterId::PacketsRefusedFlood);
    let forged: Vec<u8> = (0..1_200).map(|n| if n == 0 { 0x80 } else { n as u8 }).collect();
    for _ in 0..1_000 {
        for _ in 0..40 {
            world.push(source.remote, forged.clone());
        }
        world.run(Duration::from_millis(1));
    }
    assert_eq!(world.counter(CounterId::PacketsRefusedFlood), refused);
    // And an honest stream is seen as ever; its keyframe's burst of 1 MB too.
    let before = world.remotes[viewer].of(ssrc).len();
    source.frame = 0;
    source.play(&mut world, 1, 900);
    source.play(&mut world, 30, 10);
    world.run(SECOND);
    assert_eq!(world.remotes[viewer].of(ssrc).len() - before, 1_200);
}

/// 10^3 in CI; `SPILLWAY_CYCLES=1000000 cargo test --release -p spillway-engine threat_28` for the long run.
fn cycles() -> usize {
    std::env::var("SPILLWAY_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000)
}

#[test]
fn threat_28_whoever_comes_and_goes_leaves_nothing() {
    let mut world = World::new(2);
    let nothing = world.audit();
    let mut publisher = world.add(0, Side::Publisher);
    let mut track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
    // A second track that claims the same SSRC: the first one has it.
    let audio = world.track(0, publisher, TrackId::NONE, Codec::Opus, 77);
    world.connect();
    let mut source = Source::new(publisher, 77);
    source.play(&mut world, 31, 2);
    let mut codecs = [Codec::H264, Codec::Vp8].into_iter().cycle();
    let mut highest = 0;
    for cycle in 1..=cycles() {
        // A viewer comes and leaves; every hundredth time a storm of thirty.
        let storm = if cycle % 100 == 0 { 30 } else { 1 };
        let first = world.remotes.len();
        for viewer in 0..storm {
            let shard = (cycle + viewer) % 2;
            let viewer = world.add(shard, Side::Viewer);
            world.feed(shard, viewer, track);
            world.feed(shard, viewer, audio);
            highest = highest.max(world.remotes[viewer].session.index);
        }
        source.play_for(&mut world, 2, Duration::from_millis(25));
        for viewer in first..first + storm {
            assert!(world.remotes[viewer].connected, "cycle {cycle}");
            let (session, shard) = (world.remotes[viewer].session, world.remotes[viewer].lands_on);
            world.done(shard, &Command::RemoveSession { session });
        }
        world.remotes.truncate(first);
        if cycle % 10 == 0 {
            // The publisher flaps: another one takes over in the middle of a picture, now and then with another codec,
            // always with the SSRC of its predecessor.
            let next = world.add(0, Side::Publisher);
            world.run(Duration::from_millis(25));
            let codec = if cycle % 50 == 0 { codecs.next().unwrap() } else { Codec::Vp8 };
            assert_eq!(world.track(0, next, track, codec, 77), track);
            let session = world.remotes[publisher].session;
            world.done(0, &Command::RemoveSession { session });
            world.remotes.swap_remove(publisher);
            publisher = 0;
            source = Source { remote: publisher, ..Source::new(publisher, 77) };
            assert!(world.remotes[publisher].connected);
        }
        if cycle % 100 == 0 {
            // And the whole stream ends and comes back under another name.
            world.done(0, &Command::DetachTrack { track });
            world.run(Duration::from_millis(300));
            track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
            source.play(&mut world, 5, 2);
            assert!(world.remotes[publisher].connected);
        }
        world.heard.clear();
    }
    assert!(highest < 200, "slots are used again: the highest was {highest}");
    for track in [track, audio] {
        world.done(0, &Command::DetachTrack { track });
    }
    let session = world.remotes[publisher].session;
    world.done(0, &Command::RemoveSession { session });
    world.remotes.clear();
    world.run(SECOND);
    let left = world.audit();
    assert_eq!(super::audit::Audit { bytes_allocated: 0, ..left }, super::audit::Audit { bytes_allocated: 0, ..nothing });
    assert_eq!((left.visited, left.handshakes, left.slabs_taken, left.feed_records), (0, 0, 0, 0));
    let gauges = [CounterId::SessionsPublisher, CounterId::SessionsViewer, CounterId::SessionsConnected, CounterId::Feeds, CounterId::Tracks];
    assert_eq!(gauges.map(|id| world.counter(id)), [0; 5]);
}

#[test]
fn threat_28_a_takeover_in_the_middle_of_a_picture_keeps_viewers() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    source.play(&mut world, 10, 4);
    // Half a frame, then another publisher with the same SSRC, with other sizes and, the second time, another codec.
    let mut expected = 40;
    for (turn, codec) in [Codec::Vp8, Codec::H264].into_iter().enumerate() {
        let half = source.frame(&world, 4);
        for datagram in half.into_iter().take(2) {
            world.push(source.remote, datagram);
        }
        expected += 2;
        world.run(Duration::from_millis(5));
        let next = world.add(0, Side::Publisher);
        world.connect();
        assert_eq!(world.track(0, next, track, codec, 77), track);
        let session = world.remotes[source.remote].session;
        world.done(0, &Command::RemoveSession { session });
        assert!(world.heard.contains(&Event::SessionClosed { session, reason: CloseReason::Removed }) || turn < 2);
        world.remotes[source.remote].silent = true;
        source = Source { timestamp: 5_000_000 * (turn as u32 + 2), ..Source::new(next, 77) };
        source.play(&mut world, 10, 3 + turn);
        expected += 10 * (3 + turn);
        let seen = world.remotes[viewer].of(ssrc);
        assert_eq!(seen.len(), expected, "turn {turn}");
        assert!(seen.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)), "a gap of ours");
        assert!(seen.windows(2).all(|pair| pair[1].timestamp.wrapping_sub(pair[0].timestamp) < 90_000));
    }
    let types: std::collections::BTreeSet<u8> =
        world.remotes[viewer].of(ssrc).iter().map(|seen| seen.payload_type).collect();
    assert_eq!(types, [102, 103].into(), "each codec under its own number");
}

/// What an honest viewer saw, and when, beside a bad one or alone.
fn honest(with_bad: bool) -> Vec<(u64, Time)> {
    let (mut world, mut source, track) = publishing(1);
    let good = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, good, track);
    let bad = world.add(0, Side::Viewer);
    let (_, bad_ssrc) = world.feed(0, bad, track);
    world.connect();
    let begin = world.now;
    let mut rng = spillway_proto::rng::Rng::new(29);
    let mut late: Vec<Vec<u8>> = Vec::new();
    for frame in 0..150 {
        for datagram in source.frame(&world, 8) {
            world.push(source.remote, datagram);
        }
        if with_bad {
            // It loses a third of everything, asks for all of it again and again, for keyframes too, and what it sends
            // arrives late, twice and in another order.
            let newest = world.remotes[bad].of(bad_ssrc).last().map_or(0, |seen| seen.sequence);
            for _ in 0..20 {
                let from = newest.wrapping_sub(300 - rng.below(3) as u16);
                let losses: Vec<u16> = (0..100).map(|n| from.wrapping_add(3 * n)).collect();
                let mut plain = [0; 1_200];
                let mut length = rtcp::write_nack(&mut plain, 1, bad_ssrc, &losses).unwrap();
                length += rtcp::write_pli(&mut plain[length..], 1, bad_ssrc).unwrap();
                let datagram = sealed_rtcp(&mut world, bad, &plain[..length]);
                match rng.below(10) {
                    0..3 => {}
                    3..5 => late.push(datagram),
                    5 => {
                        world.push(bad, datagram.clone());
                        world.push(bad, datagram);
                    }
                    _ => world.push(bad, datagram),
                }
            }
            if frame % 5 == 4 {
                late.drain(..).rev().for_each(|datagram| world.push(bad, datagram));
            }
        }
        world.run(Duration::from_millis(33));
    }
    let trouble = [CounterId::RtxFromReel, CounterId::RtxRefusedBudget, CounterId::ReplaysRestarted];
    let trouble = trouble.map(|counter| world.counter(counter));
    assert!(trouble.iter().zip([30, 500, 2]).all(|(count, least)| (*count >= least) == with_bad), "{trouble:?}");
    let seen = world.remotes[good].of(ssrc);
    assert!(seen.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
    seen.iter().map(|seen| (number_of(&seen.payload), Time(seen.at.0 - begin.0))).collect()
}

#[test]
fn threat_29_one_bad_viewer_costs_the_others_nothing() {
    let (alone, beside) = (honest(false), honest(true));
    assert_eq!(alone.len(), 150 * 8);
    assert_eq!(alone, beside, "the same packets in the same milliseconds");
}

/// Its session is there until control removes it, and it goes on sending from the same SSRC.
#[test]
fn threat_28_who_was_taken_over_is_not_heard_any_more() {
    let (mut world, mut former, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    former.play(&mut world, 10, 4);
    let next = world.add(0, Side::Publisher);
    world.connect();
    assert_eq!(world.track(0, next, track, Codec::Vp8, 77), track);
    // The former one's numbers are ahead: nothing but whose they are tells them from new ones.
    let mut source = Source { index: 59_000, ..Source::new(next, 77) };
    let refused = world.counter(CounterId::PacketsRefusedUnknownSsrc);
    for _ in 0..10 {
        for datagram in former.frame(&world, 4) {
            world.push(former.remote, datagram);
        }
        source.play(&mut world, 1, 4);
    }
    let seen = world.remotes[viewer].of(ssrc);
    let numbers: Vec<u64> = seen.iter().map(|seen| number_of(&seen.payload)).collect();
    assert_eq!(numbers, (60_000..60_040).chain(59_000..59_040).collect::<Vec<u64>>());
    assert!(seen.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)), "a gap of ours");
    assert_eq!(world.counter(CounterId::PacketsRefusedUnknownSsrc) - refused, 40);
}

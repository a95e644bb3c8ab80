//! What a shard owes: over `Sim`, in virtual time, with real handshakes and real sealing.

use crate::alloc_count::allocations_in;
use super::world::{SERVER, Seen, Source, World, number_of};
use crate::io::Path;
use spillway_proto::id::{Codec, Side, TrackId};
use spillway_proto::link::command::{Answer, Command, DumpEntry, SessionState, Status};
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::event::{CloseReason, Event};
use spillway_proto::time::NtpTime;
use spillway_proto::wire::rtcp;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A publisher of one VP8 track, connected.
fn publishing(shards: usize) -> (World, Source, TrackId) {
    let mut world = World::new(shards);
    let publisher = world.add(0, Side::Publisher);
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
    world.connect();
    (world, Source::new(publisher, 77), track)
}

/// No gap, no copy, and the packets of the source in its order.
fn assert_contiguous(seen: &[&Seen]) {
    for pair in seen.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1), "a gap or a copy of our own making");
        assert_eq!(number_of(&pair[1].payload), number_of(&pair[0].payload) + 1, "not the source's order");
    }
}

#[test]
fn a_viewer_enters_at_the_newest_keyframe_and_misses_nothing() {
    let (mut world, mut source, track) = publishing(1);
    source.play(&mut world, 40, 8);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    source.play(&mut world, 60, 8);
    world.run(SECOND);
    let seen = world.remotes[viewer].of(ssrc);
    let first = number_of(&seen[0].payload);
    assert_eq!(first, 60_000 + 30 * 8, "frame 30 is the newest keyframe at the join");
    assert_contiguous(&seen);
    assert_eq!(number_of(&seen.last().unwrap().payload), 60_000 + 100 * 8 - 1);
    assert!(seen.iter().all(|seen| seen.payload_type == 103));
    // The sequence turned over 2^16 on the way from the publisher: 60,000 + 800 packets do, and ours go on.
    assert!(seen.len() > 500);
}

#[test]
fn a_join_is_paced_faster_than_live_but_not_as_one_burst() {
    let (mut world, mut source, track) = publishing(1);
    source.frames_per_keyframe = 1_000;
    source.play(&mut world, 90, 8);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    source.play(&mut world, 30, 8);
    let seen = world.remotes[viewer].of(ssrc);
    let in_first_50_ms = seen.iter().filter(|s| s.at.since(seen[0].at) < Duration::from_millis(50)).count();
    // 16 Mbit/s is 100 kB in 50 ms, some 100 packets; 720 wait.
    assert!((60..160).contains(&in_first_50_ms), "{in_first_50_ms} packets in the first 50 ms");
    assert_eq!(seen.len(), 120 * 8, "live again within the second");
    assert_contiguous(&seen);
}

#[test]
fn without_a_keyframe_the_publisher_is_asked_once_per_interval() {
    let (mut world, mut source, track) = publishing(1);
    source.frame = 1;
    source.play(&mut world, 5, 2);
    let viewers: Vec<usize> = (0..5).map(|_| world.add(0, Side::Viewer)).collect();
    let ssrcs: Vec<u32> = viewers.iter().map(|&viewer| world.feed(0, viewer, track).1).collect();
    source.play(&mut world, 12, 2);
    let asked = world.remotes[source.remote].keyframe_requests;
    assert!((1..=2).contains(&asked), "{asked} requests in 400 ms for five viewers");
    assert!(viewers.iter().all(|&viewer| world.remotes[viewer].seen.is_empty()));
    source.frame = 0;
    source.play(&mut world, 3, 2);
    for (&viewer, &ssrc) in viewers.iter().zip(&ssrcs) {
        assert_eq!(world.remotes[viewer].of(ssrc).len(), 6);
    }
}

#[test]
fn strays_cross_the_mesh_and_nothing_is_lost() {
    let (mut world, mut source, track) = publishing(2);
    let viewer = world.add(1, Side::Viewer);
    // The kernel gives everything to the other shard.
    world.remotes[source.remote].lands_on = 1;
    world.remotes[viewer].lands_on = 0;
    let (_, ssrc) = world.feed(1, viewer, track);
    source.play(&mut world, 60, 8);
    world.run(SECOND);
    let seen = world.remotes[viewer].of(ssrc);
    assert_eq!(seen.len(), 60 * 8);
    assert_contiguous(&seen);
    assert!(world.counter(CounterId::StrayDatagrams) > 480);
    assert_eq!(world.counter(CounterId::MeshDropped), 0);
}

/// Goal: a publisher whose media comes to another shard is named to the kernel, with its own shard, as long as it lives; nobody else is. Method: all
/// datagrams of a publisher and a viewer are strays, and somebody repeats the publisher's.
#[test]
fn a_publisher_whose_media_strays_is_steered_to_its_shard() {
    let (mut world, mut source, track) = publishing(2);
    let viewer = world.add(1, Side::Viewer);
    world.feed(1, viewer, track);
    source.play(&mut world, 5, 2);
    assert_eq!(world.steered(), [], "nothing strays");
    world.remotes[source.remote].lands_on = 1;
    world.remotes[viewer].lands_on = 0;
    source.play(&mut world, 5, 2);
    let address = world.remotes[source.remote].address;
    assert_eq!(world.steered(), [(address, 0)]);
    // Somebody repeats its packets from elsewhere.
    let stranger = Path { local: SERVER.parse().unwrap(), remote: "203.0.113.9:9".parse().unwrap() };
    for datagram in source.frame(&world, 2) {
        world.deliver(1, stranger, datagram);
    }
    world.run(Duration::from_millis(100));
    assert_eq!(world.steered(), [(address, 0)], "who passed no check is nobody");
    // A viewer that sends something like media.
    let viewers = Path { local: SERVER.parse().unwrap(), remote: world.remotes[viewer].address };
    for datagram in source.frame(&world, 2) {
        world.deliver(0, viewers, datagram);
    }
    world.run(Duration::from_millis(100));
    assert_eq!(world.steered(), [(address, 0)]);
    let session = world.remotes[source.remote].session;
    world.done(0, &Command::RemoveSession { session });
    assert_eq!(world.steered(), []);
}

/// What the sockets held while the process stood still comes at once: 0.5 s of 10 Mbit/s, on the wrong shard.
#[test]
fn a_burst_of_strays_after_a_stall_crosses_whole() {
    let (mut world, mut source, _) = publishing(2);
    world.remotes[source.remote].lands_on = 1;
    source.play(&mut world, 1, 1);
    let before = world.counter(CounterId::PacketsReceived);
    let datagrams: Vec<_> = (0..55).flat_map(|_| source.frame(&world, 10)).collect();
    // Shard 1 is through with its sockets before shard 0 wakes up.
    let count = datagrams.len() as u64;
    datagrams.into_iter().for_each(|datagram| world.push(source.remote, datagram));
    for _ in 0..4 {
        world.shards[1].tick();
    }
    world.run(Duration::from_millis(50));
    assert_eq!(world.counter(CounterId::MeshDropped), 0);
    assert_eq!(world.counter(CounterId::PacketsReceived) - before, count);
}

#[test]
fn a_takeover_goes_on_without_a_gap_in_sequence_or_time() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    source.play(&mut world, 30, 4);
    let second = world.add(0, Side::Publisher);
    world.connect();
    let taken = world.track(0, second, track, Codec::Vp8, 0);
    assert_eq!(taken, track);
    let first_session = world.remotes[source.remote].session;
    world.done(0, &Command::RemoveSession { session: first_session });
    let mut other = Source::new(second, 1_234);
    (other.index, other.timestamp) = (5, 4_000_000);
    world.heard.clear();
    other.play(&mut world, 30, 4);
    assert!(world.heard.contains(&Event::TrackState { track, live: true }), "live again with the new publisher");
    let seen = world.remotes[viewer].of(ssrc);
    assert_eq!(seen.len(), 60 * 4);
    for pair in seen.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        let step = pair[1].timestamp.wrapping_sub(pair[0].timestamp);
        assert!(step < 90_000, "the picture's time jumped by {step}");
    }
    assert_eq!(world.counter(CounterId::SessionsPublisher), 1);
    // Late packets of the first publisher change nothing.
    for datagram in source.frame(&world, 2) {
        world.push(source.remote, datagram);
    }
    world.run(Duration::from_millis(50));
    assert_eq!(world.remotes[viewer].of(ssrc).len(), 60 * 4);
}

#[test]
fn back_pressure_loses_nothing_and_repeats_nothing() {
    let (mut world, mut source, track) = publishing(1);
    let viewers: Vec<usize> = (0..3).map(|_| world.add(0, Side::Viewer)).collect();
    let ssrcs: Vec<u32> = viewers.iter().map(|&viewer| world.feed(0, viewer, track).1).collect();
    world.connect();
    for frame in 0..60 {
        for datagram in source.frame(&world, 8) {
            world.push(source.remote, datagram);
        }
        let (io, _) = world.shards[0].parts();
        if frame % 2 == 0 { io.block(3) } else { io.run_dry(2) }
        world.run(Duration::from_millis(33));
    }
    world.run(SECOND);
    for (&viewer, &ssrc) in viewers.iter().zip(&ssrcs) {
        let seen = world.remotes[viewer].of(ssrc);
        assert_eq!(seen.len(), 60 * 8);
        assert_contiguous(&seen);
    }
    assert!(world.counter(CounterId::SendsBlocked) > 0);
}

#[test]
fn a_full_network_is_waited_for_asleep() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    source.play(&mut world, 30, 2);
    let before = world.remotes[viewer].of(ssrc).len();
    for datagram in source.frame(&world, 2) {
        world.push(source.remote, datagram);
    }
    let (io, _) = world.shards[0].parts();
    io.block(3);
    assert!(world.shards[0].tick(), "datagrams came");
    assert!(!world.shards[0].tick(), "nothing to do but wait for the network");
    world.run(Duration::from_millis(50));
    assert_eq!(world.remotes[viewer].of(ssrc).len(), before + 2);
}

#[test]
fn a_tick_without_a_handshake_or_a_command_allocates_nothing() {
    let (mut world, mut source, track) = publishing(1);
    let viewers: Vec<usize> = (0..50).map(|_| world.add(0, Side::Viewer)).collect();
    let ssrcs: Vec<u32> = viewers.iter().map(|&viewer| world.feed(0, viewer, track).1).collect();
    world.connect();
    let feedback = |world: &mut World| {
        for (&viewer, &ssrc) in viewers.iter().zip(&ssrcs) {
            let mut plain = [0; 256];
            let block = rtcp::ReportBlock { ssrc, ..rtcp::ReportBlock::default() };
            let mut length = rtcp::write_rr(&mut plain, 1, &[block]).unwrap();
            length += rtcp::write_pli(&mut plain[length..], 1, ssrc).unwrap();
            let mut out = vec![0; 300];
            let length = world.remotes[viewer].client.seal_rtcp(&plain[..length], &mut out).unwrap();
            out.truncate(length);
            world.push(viewer, out);
        }
    };
    source.play(&mut world, 1, 3);
    let mut report = vec![0; 128];
    let length = rtcp::write_sr(&mut report, 77, NtpTime(1 << 32), source.timestamp, 0, 0, &[]).unwrap();
    let mut sealed = vec![0; 128];
    let length = world.remotes[source.remote].client.seal_rtcp(&report[..length], &mut sealed).unwrap();
    sealed.truncate(length);
    world.push(source.remote, sealed);
    for _ in 0..40 {
        feedback(&mut world);
        source.play(&mut world, 1, 3);
    }
    let (io, _) = world.shards[0].parts();
    io.discard_sent();
    let (packets, reports) = (world.counter(CounterId::PacketsSent), world.counter(CounterId::RtcpSent));
    let checks = world.counter(CounterId::StunAnswered);
    let (mut allocations, now) = (0, world.now);
    for tick in 0..200 {
        for datagram in source.frame(&world, 3) {
            world.push(source.remote, datagram);
        }
        feedback(&mut world);
        // Consent checks, each sent again as nobody hears an answer.
        let at = now + Duration::from_millis(10) * tick;
        for remote in 0..world.remotes.len() {
            world.remotes[remote].client.handle_timeout(at).unwrap();
            while let Some(datagram) = world.remotes[remote].client.poll_datagram() {
                world.push(remote, datagram);
            }
        }
        let shard = &mut world.shards[0];
        shard.parts().0.advance(Duration::from_millis(10));
        allocations += allocations_in(|| while shard.tick() {});
    }
    assert_eq!(allocations, 0);
    assert!(world.counter(CounterId::PacketsSent) - packets >= 200 * 3 * 50, "the ticks did their work");
    assert!(world.counter(CounterId::ReplaysRestarted) >= 100, "requests were answered from the reel");
    let reports = world.counter(CounterId::RtcpSent) - reports;
    assert!(reports >= 95, "{reports} reports in almost two rounds of timers");
    assert!(world.counter(CounterId::StunAnswered) - checks >= 51);
}

#[test]
fn equal_packets_leave_in_few_sends() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    world.feed(0, viewer, track);
    world.connect();
    source.play(&mut world, 1, 8);
    let (packets, sends) = (world.counter(CounterId::PacketsSent), world.counter(CounterId::Sends));
    source.play(&mut world, 30, 8);
    let (packets, sends) = (world.counter(CounterId::PacketsSent) - packets, world.counter(CounterId::Sends) - sends);
    assert_eq!(packets, 240);
    // Four packets of s bytes, four of s + 1: two runs a frame.
    assert!(sends <= 60, "{sends} sends for 240 packets");
}

#[test]
fn lips_stay_in_sync() {
    let (mut world, mut video, track) = publishing(1);
    let publisher = video.remote;
    let audio_track = world.track(0, publisher, TrackId::NONE, Codec::Opus, 88);
    let viewer = world.add(0, Side::Viewer);
    let (_, video_ssrc) = world.feed(0, viewer, track);
    let (_, audio_ssrc) = world.feed(0, viewer, audio_track);
    world.connect();
    let mut audio = Source::new(publisher, 88);
    audio.payload_type = 111;
    audio.timestamp = 700_000;
    // On the publisher's clock both begin at this moment.
    let ntp = 5_000u64 << 32;
    let report = |world: &mut World, ssrc, timestamp| {
        let mut plain = [0; 64];
        let length = rtcp::write_sr(&mut plain, ssrc, NtpTime(ntp), timestamp, 0, 0, &[]).unwrap();
        let mut out = vec![0; 128];
        let client = &mut world.remotes[publisher].client;
        let length = client.seal_rtcp(&plain[..length], &mut out).unwrap();
        out.truncate(length);
        world.push(publisher, out);
    };
    let (video_start, audio_start) = (video.timestamp, audio.timestamp);
    video.play(&mut world, 1, 1);
    audio.play(&mut world, 1, 1);
    report(&mut world, 77, video_start);
    // The audio's report was 40 ms longer on its way.
    world.run(Duration::from_millis(40));
    report(&mut world, 88, audio_start + 40 * 48);
    video.play(&mut world, 90, 1);
    audio.timestamp += 3_000;
    audio.play(&mut world, 3, 1);
    world.run(2 * SECOND);
    let at = |ssrc: u32| world.remotes[viewer].reports.iter().rev().find(|r| r.1 == ssrc).copied().unwrap();
    let (v, a) = (at(video_ssrc), at(audio_ssrc));
    let offset = |ssrc: u32, source: u32, index| world.remotes[viewer].of(ssrc)[index as usize].timestamp.wrapping_sub(source);
    let (v0, a0) = (offset(video_ssrc, video_start, 0), offset(audio_ssrc, audio_start, 0));
    // Seconds on the publisher's clock of the two first packets, as the viewer computes them.
    let capture = |r: (_, u32, u64, u32), start: u32, rate: f64| {
        (r.2 - ntp) as f64 / 2f64.powi(32) - f64::from(r.3.wrapping_sub(start)) / rate
    };
    let video_at = capture(v, video_start.wrapping_add(v0), 90_000.0);
    let audio_at = capture(a, audio_start.wrapping_add(a0), 48_000.0);
    // The same capture moment but for the 40 ms by which the second report was sent later on the same clock.
    assert!((video_at - audio_at - 0.040).abs() < 0.002, "video {video_at:.4} audio {audio_at:.4}");
}

#[test]
fn a_viewer_without_checks_is_gone_after_thirty_seconds() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    world.connect();
    world.remotes[viewer].silent = true;
    let session = world.remotes[viewer].session;
    source.play(&mut world, 29 * 30, 1);
    let closed = Event::SessionClosed { session, reason: CloseReason::ConsentExpired };
    assert!(!world.heard.contains(&closed), "consent lasts 30 s");
    source.play(&mut world, 3 * 30, 1);
    assert!(world.heard.contains(&closed));
    assert_eq!(world.counter(CounterId::SessionsViewer), 0);
    let counters = [CounterId::ConsentExpired, CounterId::SessionsRemoved, CounterId::SessionsConnected, CounterId::Feeds];
    assert_eq!(counters.map(|id| world.counter(id)), [1, 1, 1, 0]);
    let sent = world.counter(CounterId::PacketsSent);
    source.play(&mut world, 30, 1);
    assert_eq!(world.counter(CounterId::PacketsSent), sent, "sent after consent expired");
    assert!(world.remotes[viewer].of(ssrc).is_empty());
}

#[test]
fn a_publisher_without_checks_lives_by_its_media() {
    let (mut world, mut source, _) = publishing(1);
    let session = world.remotes[source.remote].session;
    // Its checks are lost, its media arrives.
    world.remotes[source.remote].silent = true;
    source.play(&mut world, 40 * 30, 1);
    assert!(!world.heard.iter().any(|e| matches!(e, Event::SessionClosed { session: s, .. } if *s == session)));
    world.run(35 * SECOND);
    assert!(world.heard.contains(&Event::SessionClosed { session, reason: CloseReason::ConsentExpired }));
}

#[test]
fn a_session_nobody_comes_for_is_removed() {
    let mut world = World::new(1);
    let viewer = world.add(0, Side::Viewer);
    world.remotes[viewer].silent = true;
    let session = world.remotes[viewer].session;
    world.run(Duration::from_secs(17));
    assert!(world.heard.contains(&Event::SessionClosed { session, reason: CloseReason::NeverConnected }));
    assert_eq!(world.command(0, &Command::RemoveSession { session }).0, Status::NotFound);
}

#[test]
fn closing_a_client_closes_its_session_at_once() {
    let (mut world, _, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    world.feed(0, viewer, track);
    world.connect();
    let now = world.now;
    world.remotes[viewer].client.close(now);
    world.run(Duration::from_millis(20));
    let session = world.remotes[viewer].session;
    assert!(world.heard.contains(&Event::SessionClosed { session, reason: CloseReason::RemoteClosed }));
}

#[test]
fn strangers_get_no_answer() {
    let (mut world, mut source, _) = publishing(1);
    let stranger = world.add(0, Side::Viewer);
    world.remotes[stranger].silent = true;
    // DTLS, media and noise from an address that passed no check.
    let hello: Vec<u8> = [22, 254, 253].into_iter().chain([0; 60]).collect();
    let media = source.frame(&world, 1).remove(0);
    for datagram in [hello, media, vec![0; 40], vec![0xFF; 40], vec![]] {
        world.push(stranger, datagram);
    }
    let before = world.counter(CounterId::PacketsReceived);
    for _ in 0..3 {
        world.shards[0].tick();
    }
    let (io, _) = world.shards[0].parts();
    let address = world.remotes[stranger].address;
    assert!(io.take_sent().iter().all(|sent| sent.path.remote != address));
    assert_eq!(world.counter(CounterId::PacketsReceived), before);
    assert_eq!(world.counter(CounterId::DtlsRefused), 1);
}

#[test]
fn a_dump_names_everything_and_stale_names_are_refused() {
    let (mut world, _, track) = publishing(2);
    let viewers: Vec<usize> = (0..20).map(|_| world.add(0, Side::Viewer)).collect();
    for &viewer in &viewers {
        world.feed(0, viewer, track);
    }
    world.connect();
    let (mut cursor, mut entries) = (Some(0), Vec::new());
    while let Some(at) = cursor {
        let Answer::Dump { next, entries: more } = world.done(0, &Command::Dump { cursor: at }) else { panic!() };
        entries.extend(more);
        cursor = next;
    }
    let sessions = entries.iter().filter(|entry| matches!(entry, DumpEntry::Session { state: SessionState::Connected, .. }));
    assert_eq!(sessions.count(), 21);
    let feeds = entries.iter().filter(|entry| matches!(entry, DumpEntry::Feed { track: t, .. } if *t == track));
    assert_eq!(feeds.count(), 20);
    let gauges = [CounterId::SessionsConnected, CounterId::SessionsViewer, CounterId::Feeds, CounterId::Tracks];
    assert_eq!(gauges.map(|id| world.counter(id)), [21, 20, 20, 1]);
    let tracks: Vec<_> = entries.iter().filter(|entry| matches!(entry, DumpEntry::Track { .. })).collect();
    assert!(matches!(tracks[..], [DumpEntry::Track { note: [9, ..], codec: Codec::Vp8, .. }]));

    let session = world.remotes[viewers[0]].session;
    assert_eq!(world.command(1, &Command::RemoveSession { session }).0, Status::WrongShard);
    world.done(0, &Command::RemoveSession { session });
    assert_eq!(world.command(0, &Command::RemoveSession { session }).0, Status::NotFound);
    let again = world.add(0, Side::Viewer);
    let reused = world.remotes[again].session;
    assert_eq!(reused.index, session.index, "the slot is used again");
    assert_ne!(reused.generation, session.generation, "under another name");
    assert_eq!(world.command(0, &Command::RemoveSession { session }).0, Status::NotFound, "the old name is nobody's");
    world.done(0, &Command::RemoveSession { session: reused });
}

#[test]
fn a_detached_track_takes_its_feeds_along_on_every_shard() {
    let (mut world, mut source, track) = publishing(2);
    let viewer = world.add(1, Side::Viewer);
    let (feed, ssrc) = world.feed(1, viewer, track);
    assert_eq!(world.command(0, &Command::DetachFeed { feed }).0, Status::NotFound, "it is the other shard's");
    source.play(&mut world, 30, 8);
    assert!(!world.remotes[viewer].of(ssrc).is_empty());
    assert!(world.counter(CounterId::SlabsUsed) > 0);
    world.done(0, &Command::DetachTrack { track });
    world.run(SECOND);
    assert_eq!(world.command(1, &Command::DetachFeed { feed }).0, Status::NotFound);
    assert_eq!(world.counter(CounterId::SlabsUsed), 0, "the reel's memory went back");
    // The stream's place can be used again.
    let track = world.track(0, source.remote, TrackId::NONE, Codec::Vp8, 77);
    let (_, ssrc) = world.feed(1, viewer, track);
    source.frame = 0;
    source.play(&mut world, 3, 2);
    assert_eq!(world.remotes[viewer].of(ssrc).len(), 6);
}

/// A recording that begins now begins with a picture of seconds ago, and its sound with it. No viewer gets old sound for that.
#[test]
fn sound_stands_as_far_back_as_the_picture_and_a_viewer_left_behind_goes_on_live() {
    let (mut world, mut video, track) = publishing(1);
    video.frames_per_keyframe = 150;
    let sound_track = world.track(0, video.remote, TrackId::NONE, Codec::Opus, 88);
    let viewer = world.add(0, Side::Viewer);
    let (_, video_ssrc) = world.feed(0, viewer, track);
    let (_, ssrc) = world.feed(0, viewer, sound_track);
    let mut sound = Source { payload_type: 111, ..Source::new(video.remote, 88) };
    let mut play = |world: &mut World, pictures: usize, blocked: bool| {
        for _ in 0..pictures {
            for datagram in video.frame(world, 4).into_iter().chain(sound.frame(world, 1)) {
                world.push(video.remote, datagram);
            }
            if blocked {
                let (io, _) = world.shards[0].parts();
                io.block(usize::MAX);
            }
            world.run(Duration::from_millis(33));
        }
        let (io, _) = world.shards[0].parts();
        io.block(0);
    };
    let kept = |world: &mut World, track: TrackId| {
        let reader = world.shards[0].core.fanout.reader(track.index).unwrap();
        // Where an index begins.
        (reader.reel.tail().saturating_sub(128), reader.reel.head() - 128)
    };
    play(&mut world, 140, false);
    // All since the only keyframe: pictures in four packets, sound in one.
    assert_eq!((kept(&mut world, track), kept(&mut world, sound_track)), ((0, 560), (0, 140)));
    play(&mut world, 20, true);
    // The next keyframe is a third of a second old: the window counts, which is a second.
    let (tail, head) = kept(&mut world, sound_track);
    assert!(head == 160 && (128..=131).contains(&tail), "{tail}..{head}");
    play(&mut world, 20, false);
    let (tail, head) = kept(&mut world, sound_track);
    assert!(head == 180 && (149..=151).contains(&tail), "{tail}..{head}");
    // Its socket takes nothing for two seconds, of which all is there.
    play(&mut world, 60, true);
    play(&mut world, 20, false);
    let numbers: Vec<u64> = world.remotes[viewer].of(ssrc).iter().map(|seen| number_of(&seen.payload) - 60_000).collect();
    let leaps: Vec<_> = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
    // What it gets then is no older than the window.
    assert!(leaps.len() == 1 && leaps[0][0] < 185 && leaps[0][1] >= 240 - 31, "{leaps:?}");
    assert!(!world.remotes[viewer].of(video_ssrc).is_empty());
    // Without pictures the window is all that sound has.
    world.done(0, &Command::DetachTrack { track });
    let mut alone = Source { payload_type: 111, index: sound.index, timestamp: sound.timestamp, ..Source::new(video.remote, 88) };
    alone.play(&mut world, 2, 1);
    let (tail, head) = kept(&mut world, sound_track);
    assert!(head == 262 && (230..=233).contains(&tail), "{tail}..{head}");
}

#[test]
fn a_viewer_left_behind_goes_on_at_the_newest_keyframe_without_a_hole() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    source.play(&mut world, 30, 8);
    // Its socket takes nothing while the reel moves on by three keyframes.
    for _ in 0..95 {
        for datagram in source.frame(&world, 8) {
            world.push(source.remote, datagram);
        }
        let (io, _) = world.shards[0].parts();
        io.block(usize::MAX);
        world.run(Duration::from_millis(33));
    }
    let (io, _) = world.shards[0].parts();
    io.block(0);
    source.play(&mut world, 30, 8);
    world.run(SECOND);
    assert!(world.counter(CounterId::FeedsJumped) > 0);
    let seen = world.remotes[viewer].of(ssrc);
    let mut skips = 0;
    for pair in seen.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1), "a gap of our own making");
        skips += u64::from(number_of(&pair[1].payload) != number_of(&pair[0].payload) + 1);
        assert!(pair[1].timestamp.wrapping_sub(pair[0].timestamp) < 90_000 * 5, "time goes forward");
    }
    assert_eq!(skips, 1, "one jump");
    assert_eq!(number_of(&seen.last().unwrap().payload), 60_000 + 155 * 8 - 1, "live again");
}

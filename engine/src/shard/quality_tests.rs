//! Goal: what the link says of a viewer is what it experienced: how its join went, what it reported, what it asked for;
//! and a wish for a keyframe that control has is answered with what becomes of it.
//! Method: a whole engine over `Sim` in virtual time; viewers write reports and requests by hand.

use super::world::{Source, World};
use spillway_proto::id::{Codec, Side, TrackId};
use spillway_proto::link::command::{Answer, Command, FeedFacts, KeyframeOutcome, Status, TrackFacts};
use spillway_proto::link::quality::{Counted, HistogramId, Quality};
use spillway_proto::time::NtpTime;
use spillway_proto::wire::rtcp::{self, ReportBlock};
use std::time::Duration;

const MS: fn(u64) -> Duration = Duration::from_millis;
const SSRC: u32 = 77;

fn publishing(shards: usize) -> (World, Source, TrackId) {
    let mut world = World::new(shards);
    let publisher = world.add(0, Side::Publisher);
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, SSRC);
    world.connect();
    (world, Source::new(publisher, SSRC), track)
}

fn quality(world: &World, remote: usize) -> Quality {
    let session = world.remotes[remote].session;
    world.link.session_stats(session.index).read(session.generation).expect("the session's words")
}

/// A compound of a remote's own, sealed and on its way.
fn say(world: &mut World, remote: usize, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
    let mut plain = [0; 1_024];
    let length = write(&mut plain).unwrap();
    let mut out = vec![0; 1_100];
    let length = world.remotes[remote].client.seal_rtcp(&plain[..length], &mut out).unwrap();
    out.truncate(length);
    world.push(remote, out);
}

fn ask_for_keyframe(world: &mut World, remote: usize, ssrc: u32) {
    say(world, remote, |out| rtcp::write_pli(out, 1, ssrc));
    world.run(MS(1));
}

#[test]
fn the_steps_of_a_join_are_in_order_and_a_picture_counts_when_it_is_whole() {
    let (mut world, mut source, track) = publishing(2);
    let viewer = world.add(1, Side::Viewer);
    world.feed(1, viewer, track);
    let joining = quality(&world, viewer);
    assert_eq!((joining.checked_at, joining.packet_at, joining.picture_at), (None, None, None));
    world.connect();
    let connected = quality(&world, viewer);
    assert!(connected.checked_at.unwrap() > connected.added_at && connected.connected_at >= connected.checked_at);
    assert_eq!((connected.packet_at, connected.picture_at), (None, None));
    // Half of a keyframe.
    let frame = source.frame(&world, 4);
    for datagram in &frame[..2] {
        world.push(source.remote, datagram.clone());
    }
    world.run(MS(5));
    let half = quality(&world, viewer);
    assert!(half.packet_at > half.connected_at && half.picture_at.is_none(), "{half:?}");
    assert_eq!(world.link.histogram_sum(HistogramId::Join), Counted::default());
    for datagram in &frame[2..] {
        world.push(source.remote, datagram.clone());
    }
    world.run(MS(5));
    let whole = quality(&world, viewer);
    assert!(whole.picture_at > whole.packet_at, "{whole:?}");
    let joins = world.link.histogram_sum(HistogramId::Join);
    let took = whole.picture_at.unwrap().since(whole.added_at).as_micros() as u64;
    assert_eq!((joins.sum_us, joins.counts.iter().sum::<u64>()), (took, 1));
    source.play(&mut world, 60, 3);
    let later = quality(&world, viewer);
    assert_eq!((later.picture_at, later.packet_at), (whole.picture_at, whole.packet_at), "a join is over once");
    assert!(later.packets > 30 && later.octets > 30_000, "{later:?}");
    // The next session in its slot begins with nothing.
    let session = world.remotes[viewer].session;
    world.done(1, &Command::RemoveSession { session });
    let next = world.add(1, Side::Viewer);
    assert_eq!(world.remotes[next].session.index, session.index);
    assert_eq!(quality(&world, next).packets, 0);
    assert!(world.link.session_stats(session.index).read(session.generation).is_none());
}

#[test]
fn reports_give_round_trip_loss_and_jitter() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    world.connect();
    source.play(&mut world, 3, 3);
    // The publisher's clock is nothing like ours.
    let ntp = NtpTime(0xE123_4567_0000_0000);
    let at = source.timestamp;
    say(&mut world, source.remote, |out| rtcp::write_sr(out, SSRC, ntp, at, 9, 9_000, &[]));
    source.play(&mut world, 90, 3);
    assert!(world.remotes[viewer].reports.len() >= 2);
    let block = |world: &World, back: usize, wait_ms: u64| {
        let reports = &world.remotes[viewer].reports;
        let (heard_at, _, ntp, _) = reports[reports.len() - 1 - back];
        // It came here 30 ms later than it did, and says that it waited as long as it really did, less that.
        let waited = world.now.since(heard_at).as_millis() as u64 + wait_ms - 30;
        ReportBlock {
            ssrc,
            fraction_lost: 64,
            cumulative_lost: 17,
            sequence_max: 1,
            jitter: 900,
            last_sr: NtpTime(ntp).middle(),
            delay_since_sr: (waited * 65_536 / 1_000) as u32,
        }
    };
    for back in [0, 1] {
        world.run(MS(40));
        let block = block(&world, back, 1);
        say(&mut world, viewer, |out| rtcp::write_rr(out, 1, &[block]));
        world.run(MS(1));
        let seen = quality(&world, viewer);
        let round_trip = seen.round_trip_us.expect("a round trip");
        assert!((28_500..=31_500).contains(&round_trip), "{back}: {round_trip} us");
        let video = seen.video.unwrap();
        assert_eq!((video.fraction_lost, video.lost, video.jitter_us, seen.audio), (64, 17, 10_000, None));
    }
    let trips = world.link.histogram_sum(HistogramId::RoundTrip);
    assert_eq!(trips.counts.iter().sum::<u64>(), 2);
    // Of reports nobody sent, of another's feed, with a wait longer than the report is old, and less than nothing lost.
    let before = quality(&world, viewer);
    let honest = block(&world, 0, 0);
    for (number, forged) in [
        ReportBlock { last_sr: 0x1234_5678, ..honest },
        ReportBlock { last_sr: 0, delay_since_sr: 0, ..honest },
        ReportBlock { ssrc: ssrc + 100, ..honest },
        ReportBlock { delay_since_sr: u32::MAX / 2, cumulative_lost: -5, ..honest },
    ].into_iter().enumerate() {
        say(&mut world, viewer, |out| rtcp::write_rr(out, 1, &[forged]));
        world.run(MS(1));
        let after = quality(&world, viewer);
        match number {
            3 => assert_eq!((after.round_trip_us, after.video.unwrap().lost), (Some(1), 0), "no time at all, not a negative one"),
            _ => assert_eq!(after.round_trip_us, before.round_trip_us, "{number}"),
        }
    }
}

#[test]
fn what_a_viewer_asks_for_is_counted_and_a_wait_for_a_keyframe_is_a_freeze() {
    let (mut world, mut source, track) = publishing(1);
    source.frames_per_keyframe = u64::MAX;
    let viewer = world.add(0, Side::Viewer);
    let mut facts = FeedFacts::default();
    facts.payload_types[Codec::Vp8 as usize] = 103;
    let (_, ssrc, _) = world.feed_with(0, viewer, track, facts);
    world.connect();
    source.play(&mut world, 30, 3);
    let newest = world.remotes[viewer].of(ssrc).last().unwrap().sequence;
    say(&mut world, viewer, |out| rtcp::write_nack(out, 1, ssrc, &[newest, newest - 1, newest - 2]));
    world.run(MS(20));
    let seen = quality(&world, viewer);
    assert_eq!((seen.nacked, seen.resent, seen.freezes), (3, 3, 0));
    // A keyframe is a second old and in the reel: it is sent again at once, and nobody waits.
    ask_for_keyframe(&mut world, viewer, ssrc);
    let seen = quality(&world, viewer);
    assert_eq!((seen.keyframe_requests, seen.replays_restarted, seen.freezes, seen.frozen_us), (1, 1, 1, 0));
    // Six seconds later it is too old for that: the publisher is asked, and its keyframe comes after 1.5 s.
    source.play(&mut world, 180, 3);
    ask_for_keyframe(&mut world, viewer, ssrc);
    assert_eq!(world.remotes[source.remote].keyframe_requests, 1);
    source.play(&mut world, 15, 3);
    ask_for_keyframe(&mut world, viewer, ssrc);
    source.play(&mut world, 30, 3);
    let waiting = quality(&world, viewer);
    assert_eq!(waiting.freezes, 2, "the second request is of the same freeze");
    assert!(waiting.frozen_us > 400_000, "what it waits is told while it waits: {waiting:?}");
    (source.frame, source.frames_per_keyframe) = (0, 1_000);
    source.play(&mut world, 60, 3);
    let over = quality(&world, viewer);
    // 45 frames of 33 ms, and the milliseconds of the requests.
    assert!((1_450_000..=1_530_000).contains(&over.frozen_us), "{over:?}");
    source.play(&mut world, 60, 3);
    assert_eq!(quality(&world, viewer).frozen_us, over.frozen_us, "it is over");
}

#[test]
fn a_wish_of_control_is_answered_with_what_becomes_of_it() {
    let (mut world, mut source, track) = publishing(2);
    let wish = |world: &mut World, track| match world.done(0, &Command::RequestKeyframe { track }) {
        Answer::Keyframe { outcome } => outcome,
        other => panic!("{other:?}"),
    };
    assert_eq!(wish(&mut world, track), KeyframeOutcome::Silent, "no packet came yet");
    source.frames_per_keyframe = u64::MAX;
    source.play(&mut world, 30, 3);
    assert_eq!(wish(&mut world, track), KeyframeOutcome::Asked);
    assert_eq!(wish(&mut world, track), KeyframeOutcome::Pending, "a moment ago");
    world.run(MS(1));
    assert_eq!(world.remotes[source.remote].keyframe_requests, 1);
    // It answers none.
    source.play(&mut world, 100, 3);
    assert_eq!(wish(&mut world, track), KeyframeOutcome::Asked, "who is taken for deaf is asked now and then");
    assert_eq!(wish(&mut world, track), KeyframeOutcome::Deaf);
    // Of a track that takes no requests, of sound, on another shard, and gone.
    let other = world.add(0, Side::Publisher);
    let facts = TrackFacts { feedback: Default::default(), ..TrackFacts::new(Codec::Vp8, 96, 78) };
    let mute = world.track_with(0, other, TrackId::NONE, facts);
    let sound = world.track(0, other, TrackId::NONE, Codec::Opus, 79);
    world.connect();
    let mut second = Source::new(other, 78);
    second.play(&mut world, 2, 3);
    assert_eq!(wish(&mut world, mute), KeyframeOutcome::Deaf);
    let refused = |world: &mut World, shard, track| world.command(shard, &Command::RequestKeyframe { track }).0;
    assert_eq!(refused(&mut world, 0, sound), Status::Invalid);
    assert_eq!(refused(&mut world, 1, track), Status::WrongShard);
    assert_eq!(refused(&mut world, 0, TrackId::new(track.index, track.generation + 1)), Status::NotFound);
    let session = world.remotes[source.remote].session;
    world.done(0, &Command::RemoveSession { session });
    assert_eq!(wish(&mut world, track), KeyframeOutcome::Silent, "its publisher is gone");
}

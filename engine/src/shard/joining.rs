//! Goal: a viewer sees a picture at once and is live soon, whatever the publisher's keyframes are like, at a price
//! its publisher and the other viewers do not feel.
//! Method: a whole engine over `Sim` in virtual time; what a viewer received is decoded as a player would (whole
//! pictures, from a keyframe on, none that is older than one it showed).

use super::world::{Source, World, number_of};
use spillway_proto::id::{Codec, Side, TrackId};
use spillway_proto::link::command::{Command, FeedFacts, TrackFacts, TrackFeedback};
use spillway_proto::link::counters::CounterId;
use spillway_proto::stream::rewrite;
use spillway_proto::time::{NtpTime, Time};
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::rtcp;
use spillway_proto::wire::rtp::write_header;
use std::time::Duration;

const FIRST: u64 = 60_000;
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A publisher of one VP8 track with `packets` packets of 1,000 bytes in each of its 30 pictures a second.
struct Stage {
    world: World,
    source: Source,
    track: TrackId,
    packets: u64,
    /// It answers requests with its next picture. How many it did.
    obedient: bool,
    answered: usize,
}

/// A picture as a player shows it.
#[derive(Clone, Copy, Debug)]
struct Picture {
    at: Time,
    frame: u64,
}

impl Stage {
    fn new(shards: usize, feedback: TrackFeedback, packets: u64, frames_per_keyframe: u64) -> Stage {
        let mut world = World::new(shards);
        let publisher = world.add(0, Side::Publisher);
        let facts = TrackFacts { feedback, ..TrackFacts::new(Codec::Vp8, 96, 77) };
        let track = world.track_with(0, publisher, TrackId::NONE, facts);
        world.connect();
        let source = Source { frames_per_keyframe, ..Source::new(publisher, 77) };
        Stage { world, source, track, packets, obedient: false, answered: 0 }
    }

    fn obedient(packets: u64, frames_per_keyframe: u64) -> Stage {
        let pli = TrackFeedback { pli: true, ..TrackFeedback::default() };
        Stage { obedient: true, ..Stage::new(1, pli, packets, frames_per_keyframe) }
    }

    fn play(&mut self, frames: u64) {
        for _ in 0..frames {
            if self.obedient && self.asked() > self.answered {
                self.answered = self.asked();
                self.source.frame = 0;
            }
            self.source.play(&mut self.world, 1, self.packets as usize);
        }
    }

    /// Keyframe requests that reached the publisher.
    fn asked(&self) -> usize {
        self.world.remotes[self.source.remote].keyframe_requests
    }

    fn join(&mut self) -> (usize, u32) {
        let viewer = self.world.add(0, Side::Viewer);
        let (_, ssrc) = self.world.feed(0, viewer, self.track);
        (viewer, ssrc)
    }

    fn request(&mut self, (viewer, ssrc): (usize, u32)) {
        let mut plain = [0; 64];
        let mut length = rtcp::write_rr(&mut plain, 1, &[]).unwrap();
        length += rtcp::write_pli(&mut plain[length..], 1, ssrc).unwrap();
        self.send(viewer, &plain[..length]);
    }

    fn nack(&mut self, (viewer, ssrc): (usize, u32), lost: &[u16]) {
        let mut plain = [0; 512];
        let mut length = rtcp::write_rr(&mut plain, 1, &[]).unwrap();
        length += rtcp::write_nack(&mut plain[length..], 1, ssrc, lost).unwrap();
        self.send(viewer, &plain[..length]);
    }

    fn send(&mut self, remote: usize, plain: &[u8]) {
        let mut out = vec![0; plain.len() + 64];
        let length = self.world.remotes[remote].client.seal_rtcp(plain, &mut out).unwrap();
        out.truncate(length);
        self.world.push(remote, out);
    }

    /// Every sequence number once, and none left out, but for `lost` at the beginning.
    fn assert_no_gap(&self, (viewer, ssrc): (usize, u32)) {
        for pair in self.world.remotes[viewer].of(ssrc).windows(2) {
            assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1), "a gap or a copy of our own making");
        }
    }

    /// The pictures a player shows. Panics where its time would run back.
    fn watch(&self, (viewer, ssrc): (usize, u32)) -> Vec<Picture> {
        let seen = self.world.remotes[viewer].of(ssrc);
        let mut shown: Vec<Picture> = Vec::new();
        let mut newest = None;
        for picture in seen.chunk_by(|a, b| a.timestamp == b.timestamp) {
            let (first, last) = (picture[0], picture[picture.len() - 1]);
            if let Some(before) = newest.replace(first.timestamp) {
                let step = first.timestamp.wrapping_sub(before) as i32;
                assert!(step > 0 && step < 90_000 * 32, "time makes a step of {step} at {:?}", first.at);
            }
            let numbers: Vec<u64> = picture.iter().map(|seen| number_of(&seen.payload) - FIRST).collect();
            let frame = numbers[0] / self.packets;
            let whole = numbers.iter().copied().eq(frame * self.packets..(frame + 1) * self.packets)
                && last.sequence.wrapping_sub(first.sequence) as u64 + 1 == self.packets;
            let keyframe = first.payload[1] == 0;
            if whole && (keyframe || shown.last().is_some_and(|before| before.frame + 1 == frame)) {
                shown.push(Picture { at: last.at, frame });
            }
        }
        shown
    }

    /// Frames pushed so far.
    fn pushed(&self) -> u64 {
        (self.source.index - FIRST) / self.packets
    }
}

/// Without requests: OBS, ffmpeg, cameras.
fn deaf(packets: u64, frames_per_keyframe: u64) -> Stage {
    Stage::new(1, TrackFeedback::default(), packets, frames_per_keyframe)
}

/// Plays on, and asserts that the viewer shows each picture in the millisecond it was sent.
fn assert_live(stage: &mut Stage, viewer: (usize, u32)) {
    let (from, first) = (stage.world.now, stage.pushed());
    stage.play(10);
    let shown = stage.watch(viewer);
    for n in 0..10 {
        let sent = from + 33 * MS * n as u32;
        let picture = shown.iter().find(|picture| picture.frame == first + n);
        let picture = picture.unwrap_or_else(|| panic!("picture {} of {first}.. is not shown", first + n));
        assert!(picture.at.since(sent) <= 2 * MS, "{:?} behind live", picture.at.since(sent));
    }
}

#[test]
fn a_deaf_publishers_picture_is_there_before_its_next_keyframe() {
    let mut stage = deaf(2, 900);
    stage.play(364);
    let began = stage.world.now;
    let viewer = stage.join();
    stage.play(60);
    let shown = stage.watch(viewer);
    assert_eq!(shown[0].frame, 0, "the keyframe of 12 s ago");
    assert!(shown[0].at.since(began) < 100 * MS);
    let live = shown.iter().find(|picture| picture.frame + 1 >= (picture.at.since(began).as_millis() / 33) as u64 + 364);
    let live = live.unwrap().at.since(began);
    assert!(live < 1_500 * MS, "live after {live:?}, a ninth of 12 s is 1.33 s");
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
    // All of it, once, on one timeline.
    assert_eq!(stage.watch(viewer).len() as u64, stage.pushed());
    let publisher = &stage.world.remotes[stage.source.remote];
    assert_eq!((publisher.keyframe_requests, publisher.asked_again.len(), publisher.fir_sequences.len()), (0, 0, 0));
    let counters = [CounterId::StartsByReplay, CounterId::StartsByKeyframe, CounterId::TracksDeaf];
    assert_eq!(counters.map(|id| stage.world.counter(id)), [1, 0, 1]);
}

#[test]
fn who_leaves_two_requests_unanswered_is_deaf_and_is_left_alone() {
    let mut stage = Stage { obedient: false, ..Stage::obedient(2, 900) };
    stage.play(300);
    let began = stage.world.now;
    let first = stage.join();
    stage.play(12);
    assert_eq!(stage.watch(first).len(), 1, "the keyframe alone");
    // It may just be slow; whoever waits does not pay for that. A ninth of ten seconds is 1.1 s.
    stage.play(48);
    assert!(stage.world.now.since(began) < 2_100 * MS && stage.asked() == 1);
    assert_live(&mut stage, first);
    stage.play(80);
    // Two requests, unanswered: the picture comes from the reel, for who waits and for who comes.
    assert_eq!(stage.asked(), 2);
    assert_live(&mut stage, first);
    stage.assert_no_gap(first);
    let second = stage.join();
    stage.play(90);
    assert_live(&mut stage, second);
    stage.assert_no_gap(second);
    assert_eq!(stage.watch(second)[0].frame, 0);
    assert_eq!((stage.asked(), stage.world.counter(CounterId::TracksDeaf)), (2, 1));
    // Whoever comes in its place may hear.
    let publisher = stage.world.add(0, Side::Publisher);
    stage.world.connect();
    let track = stage.track;
    stage.world.track(0, publisher, track, Codec::Vp8, 99);
    stage.world.run(SECOND / 2);
    assert_eq!(stage.world.counter(CounterId::TracksDeaf), 0);
}

#[test]
fn a_deaf_publishers_long_picture_group_is_caught_up_with() {
    // 2.4 Mbit/s, a keyframe 7.3 s ago: 2.2 MB, 1.3 s at what is left of 16 Mbit/s.
    let mut stage = deaf(10, 300);
    stage.play(220);
    let began = stage.world.now;
    let viewer = stage.join();
    stage.play(42);
    let shown = stage.watch(viewer);
    assert!(shown[0].frame == 0 && shown[0].at.since(began) < 100 * MS);
    assert_eq!(shown.len() as u64, stage.pushed(), "all of it");
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
    assert_eq!(stage.asked(), 0);
    // Who watches has as much once in six seconds: the second time the keyframe alone.
    stage.request(viewer);
    stage.play(50);
    assert_live(&mut stage, viewer);
    let shows = |stage: &Stage, frame| stage.watch(viewer).iter().filter(|picture| picture.frame == frame).count();
    assert_eq!(shows(&stage, 0), 2);
    stage.play(440 - stage.pushed());
    stage.request(viewer);
    stage.play(40);
    assert_eq!((shows(&stage, 300), shows(&stage, 445)), (2, 0));
    stage.play(600 - stage.pushed());
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
    assert_eq!((stage.world.counter(CounterId::ReplaysRestarted), stage.asked()), (2, 0));
}

/// The reel lets go of what was before: whoever is not there yet goes on at the keyframe, live.
#[test]
fn a_replay_that_the_next_keyframe_overtakes_goes_on_there() {
    let mut stage = deaf(10, 300);
    stage.play(290);
    let viewer = stage.join();
    stage.play(12);
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
    let frames: Vec<u64> = stage.watch(viewer).iter().map(|picture| picture.frame).collect();
    let leap = frames.windows(2).find(|pair| pair[1] != pair[0] + 1).map(|pair| pair[1]);
    assert!(frames[0] == 0 && leap == Some(300), "{frames:?}");
    assert_eq!((stage.world.counter(CounterId::FeedsJumped), stage.asked()), (1, 0));
}

#[test]
fn a_deaf_publisher_too_wide_to_catch_up_with_shows_its_keyframe_and_goes_on_at_the_next() {
    // 8.6 Mbit/s: 3.7 s of it are 4 MB, and would take 4.3 s.
    let mut stage = deaf(36, 150);
    stage.play(111);
    let viewer = stage.join();
    stage.play(36);
    assert_eq!(stage.watch(viewer).len(), 1);
    stage.play(10);
    let shown = stage.watch(viewer);
    assert_eq!((shown[0].frame, shown[1].frame), (0, 150));
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
    assert_eq!(stage.asked(), 0);
}

#[test]
fn an_obedient_publisher_is_asked_once_and_the_viewer_is_live_at_its_answer() {
    // 11 Mbit/s: more than a replay may hold or catch up with, so that nothing but its answer helps.
    let mut stage = Stage::obedient(47, 300);
    stage.play(1);
    let mut report = [0; 64];
    let length = rtcp::write_sr(&mut report, 77, NtpTime(1 << 40), 1_000, 0, 0, &[]).unwrap();
    let publisher = stage.source.remote;
    stage.send(publisher, &report[..length]);
    stage.play(52);
    stage.obedient = false;
    let joined = stage.world.now;
    let viewer = stage.join();
    // Longer than reports are apart.
    stage.play(33);
    let shown = stage.watch(viewer);
    assert_eq!(shown.len(), 1, "the keyframe alone");
    assert!(shown[0].frame == 0 && shown[0].at.since(joined) < 100 * MS);
    assert_eq!(stage.world.remotes[viewer.0].of(viewer.1).len(), 47);
    assert!(stage.world.remotes[viewer.0].reports.is_empty());
    // It answers late.
    stage.obedient = true;
    let answer = stage.pushed();
    stage.play(1);
    assert_eq!(stage.watch(viewer)[1].frame, answer);
    assert_live(&mut stage, viewer);
    stage.play(60);
    assert_eq!(stage.asked(), 1);
    stage.assert_no_gap(viewer);
    // The old keyframe is shown as if it were of the moment of the join.
    let seen = stage.world.remotes[viewer.0].of(viewer.1);
    let step = seen[47].timestamp.wrapping_sub(seen[0].timestamp);
    assert!(step <= 3_000 * 35, "{step} ticks for the 34 pictures of the wait");
    let live = seen[47].at;
    let reports = &stage.world.remotes[viewer.0].reports;
    assert!(!reports.is_empty() && reports.iter().all(|report| report.0 >= live), "none before the first live packet");
    assert_eq!(stage.world.counter(CounterId::StartsByKeyframe), 1);
}

/// Loses the first `count` RTP datagrams towards a remote.
fn lose_first(stage: &mut Stage, viewer: usize, count: usize) {
    let mut left = count;
    stage.world.remotes[viewer].path_down = Some(Box::new(move |datagram| {
        let lost = left > 0 && classify(datagram) == Class::Rtp;
        left -= usize::from(lost);
        !lost
    }));
}

#[test]
fn a_lost_first_packet_restarts_the_replay_and_asks_nobody() {
    for age in [60, 364] {
        let mut stage = if age == 60 { Stage::obedient(2, 900) } else { deaf(2, 900) };
        stage.play(age);
        let viewer = stage.join();
        lose_first(&mut stage, viewer.0, 1);
        stage.play(3);
        assert!(stage.watch(viewer).is_empty(), "nothing to begin with");
        stage.request(viewer);
        stage.play(60);
        assert_eq!(stage.watch(viewer)[0].frame, 0);
        assert_live(&mut stage, viewer);
        stage.assert_no_gap(viewer);
        assert_eq!((stage.asked(), stage.world.counter(CounterId::ReplaysRestarted)), (0, 1));
    }
}

#[test]
fn a_lost_keyframe_that_came_alone_is_shown_once_more() {
    let mut stage = Stage { obedient: false, ..Stage::obedient(2, 900) };
    stage.play(200);
    let viewer = stage.join();
    lose_first(&mut stage, viewer.0, 1);
    stage.play(6);
    assert!(stage.watch(viewer).is_empty());
    stage.request(viewer);
    stage.play(3);
    assert_eq!(stage.watch(viewer).len(), 1);
    assert_eq!(stage.asked(), 1, "that of the join");
    stage.obedient = true;
    stage.play(3);
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
}

#[test]
fn threat_27_a_join_storm_asks_for_one_keyframe_per_window() {
    let mut stage = Stage { obedient: true, ..Stage::new(2, TrackFeedback { pli: true, ..TrackFeedback::default() }, 2, 900) };
    stage.play(300);
    let viewers: Vec<(usize, u32)> = (0..200)
        .map(|n| {
            let viewer = stage.world.add(n % 2, Side::Viewer);
            (viewer, stage.world.feed(n % 2, viewer, stage.track).1)
        })
        .collect();
    // It is slow to answer.
    stage.obedient = false;
    stage.play(15);
    assert_eq!(stage.asked(), 1);
    stage.obedient = true;
    stage.play(75);
    assert_eq!(stage.asked(), 1);
    for &viewer in &viewers {
        assert!(stage.watch(viewer).len() > 60, "{} pictures", stage.watch(viewer).len());
        stage.assert_no_gap(viewer);
    }
    let starts = [CounterId::StartsByReplay, CounterId::StartsByKeyframe].map(|id| stage.world.counter(id));
    assert_eq!(starts.iter().sum::<u64>(), 200);
    assert_live(&mut stage, viewers[0]);
}

#[test]
fn an_audience_that_waits_for_the_first_picture_is_live_with_it() {
    let mut stage = Stage::obedient(4, 900);
    let viewers: Vec<(usize, u32)> = (0..150).map(|_| stage.join()).collect();
    stage.world.connect();
    stage.play(30);
    for &viewer in &viewers {
        assert_eq!(stage.watch(viewer).len(), 30);
    }
    assert_live(&mut stage, viewers[149]);
    assert_eq!((stage.asked(), stage.world.counter(CounterId::StartsByReplay)), (0, 150));
}

#[test]
fn replays_of_a_shard_share_a_budget() {
    // 3 s of 1.9 Mbit/s: 720 kB each.
    let mut stage = Stage { obedient: false, ..Stage::obedient(8, 900) };
    stage.play(90);
    let viewers: Vec<(usize, u32)> = (0..70).map(|_| stage.join()).collect();
    stage.play(10);
    let starts = [CounterId::StartsByReplay, CounterId::StartsByKeyframe].map(|id| stage.world.counter(id));
    // 32 MB at once, and 32 more each second.
    assert!((40..=58).contains(&starts[0]) && starts[0] + starts[1] == 70, "{starts:?}");
    assert_eq!(stage.asked(), 1);
    stage.obedient = true;
    stage.play(40);
    for &viewer in &viewers {
        assert!(!stage.watch(viewer).is_empty());
        stage.assert_no_gap(viewer);
    }
    assert_live(&mut stage, viewers[69]);
}

#[test]
fn a_path_that_does_not_carry_the_replay_gets_the_long_way_and_no_resends() {
    let mut stage = Stage { obedient: false, ..Stage::obedient(8, 900) };
    stage.play(90);
    let viewer = stage.join();
    stage.play(4);
    // Every third packet was lost, says the viewer.
    let sequences: Vec<u16> = stage.world.remotes[viewer.0].of(viewer.1).iter().map(|seen| seen.sequence).collect();
    assert!(sequences.len() > 60, "{} packets", sequences.len());
    stage.world.remotes[viewer.0].wire = Some(Vec::new());
    let lost: Vec<u16> = sequences.iter().copied().step_by(3).collect();
    stage.nack(viewer, &lost[..15]);
    stage.world.run(2 * MS);
    assert_eq!(stage.world.counter(CounterId::ReplaysAborted), 0, "15 are none too many");
    let resent = stage.world.counter(CounterId::RtxFromReel);
    assert!(resent > 0, "and come again");
    stage.nack(viewer, &lost);
    stage.play(2);
    assert_eq!(stage.world.counter(CounterId::ReplaysAborted), 1);
    let count = stage.world.remotes[viewer.0].of(viewer.1).len();
    // Less than after what it would be taken for deaf.
    stage.play(20);
    let after = stage.world.counter(CounterId::RtxFromReel);
    assert_eq!(after, resent, "what was replayed is forgotten");
    assert_eq!(stage.world.remotes[viewer.0].of(viewer.1).len(), count, "the replay stopped");
    assert_eq!(stage.asked(), 1);
    stage.obedient = true;
    stage.play(2);
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
}

/// Nobody can be asked for a keyframe, and the next one is 20 s away: the replay begins anew, slower.
#[test]
fn a_deaf_publishers_picture_comes_slower_over_a_path_that_does_not_carry_the_replay() {
    // 1 Mbit/s, a keyframe 3 s ago.
    let mut stage = deaf(4, 700);
    stage.play(90);
    let viewer = stage.join();
    stage.play(4);
    let sequences: Vec<u16> = stage.world.remotes[viewer.0].of(viewer.1).iter().map(|seen| seen.sequence).collect();
    let lost: Vec<u16> = sequences.iter().copied().step_by(3).collect();
    assert!(lost.len() >= 16, "{} packets", sequences.len());
    stage.nack(viewer, &lost);
    stage.play(15);
    assert_eq!(stage.world.counter(CounterId::ReplaysAborted), 1);
    let count = stage.world.remotes[viewer.0].of(viewer.1).len();
    stage.play(10);
    assert_eq!(stage.world.remotes[viewer.0].of(viewer.1).len(), count, "the path empties itself");
    stage.play(60);
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
    assert_eq!((stage.asked(), stage.world.counter(CounterId::ReplaysAborted)), (0, 1));
}

#[test]
fn a_source_as_fast_as_a_replay_is_live_all_the_same() {
    // 19 Mbit/s: a replay at 16 would never arrive. After 110 pictures the keyframe has left the reel; the answer
    // is too young to tell how fast its source is, and is given up for another.
    for (age, requests) in [(110, 2), (30, 1), (6, 1)] {
        let mut stage = Stage::obedient(80, 900);
        stage.play(age);
        let viewer = stage.join();
        stage.play(120);
        assert_live(&mut stage, viewer);
        stage.assert_no_gap(viewer);
        assert_eq!(stage.asked(), requests);
        assert_eq!(stage.world.counter(CounterId::FeedsJumped), 0);
    }
}

#[test]
fn a_live_viewer_is_answered_from_the_reel_while_the_keyframe_is_young() {
    let mut stage = Stage::obedient(4, 300);
    let viewer = stage.join();
    stage.play(60);
    stage.request(viewer);
    stage.play(30);
    assert_eq!((stage.asked(), stage.world.counter(CounterId::ReplaysRestarted)), (0, 1));
    let shown = stage.watch(viewer);
    assert_eq!(shown.iter().filter(|picture| picture.frame == 0).count(), 2, "shown once more");
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
    stage.play(60);
    // By now it is old, and the publisher hears: the viewer goes on meanwhile.
    stage.request(viewer);
    stage.play(10);
    assert_eq!((stage.asked(), stage.world.counter(CounterId::ReplaysRestarted)), (1, 1));
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
    // Where the bent timeline met the true one it was followed by that: a bend that stays is one again in six hours.
    let slot = stage.world.remotes[viewer.0].session.index;
    let (_, core) = stage.world.shards[0].parts();
    let session = core.sessions[slot as usize].as_deref().unwrap();
    let record = core.table.feed(session.feeds[0].slot).unwrap();
    assert!(!session.feeds[0].start.is_bent() && rewrite::newest(record).lead == 0);
    // On one timeline from first to last: what came live has the same offset before and after.
    let seen = stage.world.remotes[viewer.0].of(viewer.1);
    let number = |n: usize| ((number_of(&seen[n].payload) - FIRST) / 4) as u32;
    let offset = |n: usize| seen[n].timestamp.wrapping_sub(number(n) * 3_000);
    assert_eq!(offset(0), offset(seen.len() - 1));
}

/// A replay of what the publisher's packets are missing from would show nothing: the publisher is asked instead, once.
#[test]
fn a_picture_the_source_lost_packets_of_is_not_replayed_but_asked_for() {
    let mut stage = Stage::obedient(4, 300);
    let viewer = stage.join();
    stage.play(30);
    // Two packets that never arrive.
    (stage.source.index, stage.source.timestamp) = (stage.source.index + 2, stage.source.timestamp + 3_000);
    stage.play(30);
    for _ in 0..10 {
        stage.request(viewer);
    }
    stage.play(10);
    assert_eq!((stage.asked(), stage.world.counter(CounterId::ReplaysRestarted)), (1, 0));
}

/// Two requests are lost, and the publisher taken for deaf, while a viewer waits whose replay came to nothing: as soon
/// as the way is clear again it is asked again, for a wish that the mark has ended.
#[test]
fn who_was_only_out_of_reach_is_asked_again_while_somebody_waits() {
    let mut stage = Stage { obedient: false, ..Stage::obedient(40, 100_000) };
    // 9.6 Mbit/s are too much for a slower replay, and the keyframe leaves the reel before the publisher seems deaf.
    stage.play(20);
    let viewer = stage.join();
    stage.play(4);
    let sequences: Vec<u16> = stage.world.remotes[viewer.0].of(viewer.1).iter().map(|seen| seen.sequence).collect();
    stage.nack(viewer, &sequences);
    stage.play(110);
    assert_eq!((stage.world.counter(CounterId::ReplaysAborted), stage.asked()), (1, 2));
    assert_eq!(stage.world.counter(CounterId::TracksDeaf), 1);
    // From here on requests arrive.
    (stage.obedient, stage.answered) = (true, stage.asked());
    stage.play(85);
    assert_eq!(stage.asked(), 3);
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
    assert_eq!(stage.world.counter(CounterId::TracksDeaf), 0);
}

/// A replay passes a hole and waits for its pace; what was missing comes, and goes out at once. A replay that begins
/// again begins behind that too.
#[test]
fn a_replay_that_begins_again_begins_behind_what_came_late() {
    let mut stage = Stage::obedient(4, 300);
    stage.play(30);
    let late = stage.source.frame(&stage.world, 4);
    stage.play(30);
    let viewer = stage.join();
    let last = |stage: &Stage| stage.world.remotes[viewer.0].of(viewer.1).last().map(|seen| number_of(&seen.payload));
    for _ in 0..400 {
        stage.world.run(MS);
        if last(&stage) == Some(FIRST + 30 * 4 - 1) {
            break;
        }
    }
    late.into_iter().for_each(|datagram| stage.world.push(stage.source.remote, datagram));
    stage.world.run(MS);
    assert_eq!(last(&stage), Some(FIRST + 31 * 4 - 1), "the frame that came late, and none behind it");
    stage.request(viewer);
    stage.play(30);
    assert_eq!(stage.world.counter(CounterId::ReplaysRestarted), 1);
    // Panics where the viewer's time runs back.
    assert_eq!(stage.watch(viewer).iter().filter(|picture| picture.frame == 0).count(), 2);
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
}

/// The same, and the missing frame comes after the replay began again: under its first number it would be of later
/// than what has the numbers behind it.
#[test]
fn a_hole_before_a_replay_that_began_again_stays_one() {
    let mut stage = Stage::obedient(4, 300);
    stage.play(30);
    let late = stage.source.frame(&stage.world, 4);
    stage.play(30);
    let viewer = stage.join();
    let last = |stage: &Stage| stage.world.remotes[viewer.0].of(viewer.1).last().map(|seen| (number_of(&seen.payload), seen.sequence));
    for _ in 0..400 {
        stage.world.run(MS);
        if last(&stage).is_some_and(|(number, _)| number == FIRST + 30 * 4 - 1) {
            break;
        }
    }
    let (_, sequence) = last(&stage).unwrap();
    stage.request(viewer);
    stage.world.run(MS);
    late.into_iter().for_each(|datagram| stage.world.push(stage.source.remote, datagram));
    stage.nack(viewer, &[1, 2, 3, 4].map(|ahead| sequence.wrapping_add(ahead)));
    stage.play(30);
    assert_eq!(stage.world.counter(CounterId::ReplaysRestarted), 1);
    // Panics where the viewer's time runs back.
    assert!(stage.watch(viewer).iter().any(|picture| picture.frame == 30), "under its new number it is shown");
    assert_live(&mut stage, viewer);
}

/// The end of a keyframe that was sent alone comes late, and is sent; so does the beginning of the next picture, which
/// has no place there, also not when it is asked for.
#[test]
fn a_keyframe_that_went_alone_takes_only_its_own_late_packets() {
    let mut stage = Stage { obedient: false, ..Stage::obedient(4, 900) };
    let mut late = Vec::new();
    for lost in [3, 0] {
        let mut frame = stage.source.frame(&stage.world, 4);
        late.push(frame.remove(lost));
        frame.into_iter().for_each(|datagram| stage.world.push(stage.source.remote, datagram));
        stage.world.run(33 * MS);
    }
    stage.play(150);
    let viewer = stage.join();
    stage.play(10);
    assert_eq!(stage.world.counter(CounterId::StartsByKeyframe), 1);
    let sequences: Vec<u16> = stage.world.remotes[viewer.0].of(viewer.1).iter().map(|seen| seen.sequence).collect();
    assert_eq!(sequences.len(), 3);
    late.into_iter().for_each(|datagram| stage.world.push(stage.source.remote, datagram));
    stage.play(2);
    stage.nack(viewer, &[sequences[2] + 2]);
    stage.play(2);
    let seen = stage.world.remotes[viewer.0].of(viewer.1);
    let numbers: Vec<u64> = seen.iter().map(|seen| number_of(&seen.payload) - FIRST).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(stage.watch(viewer).len(), 1);
}

#[test]
fn threat_07_a_viewer_that_asks_ten_thousand_times_a_second_costs_a_restart_a_second() {
    let mut stage = Stage::obedient(2, 90);
    let (viewer, other) = (stage.join(), stage.join());
    stage.play(30);
    let (before, asked) = (stage.world.remotes[viewer.0].of(viewer.1).len(), stage.asked());
    for frame in 0..90 {
        for datagram in stage.source.frame(&stage.world, 2) {
            stage.world.push(stage.source.remote, datagram);
        }
        for _ in 0..33 {
            if frame < 60 {
                (0..10).for_each(|_| stage.request(viewer));
            }
            stage.world.run(MS);
        }
    }
    let restarts = stage.world.counter(CounterId::ReplaysRestarted);
    // Two seconds; each may be followed by three while it runs.
    assert!((2..=9).contains(&restarts), "{restarts} restarts");
    let sent = stage.world.remotes[viewer.0].of(viewer.1).len() - before;
    assert!(sent <= 180 + 9 * 180, "{sent} packets");
    assert!(stage.asked() - asked <= 1);
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
    assert_eq!(stage.watch(other).len() as u64, stage.pushed(), "nobody else noticed");
}

#[test]
fn a_publisher_that_negotiated_only_fir_gets_that() {
    let fir = TrackFeedback { fir: true, ..TrackFeedback::default() };
    let mut stage = Stage::new(1, fir, 2, 900);
    stage.play(200);
    stage.join();
    stage.play(95);
    let publisher = &stage.world.remotes[stage.source.remote];
    assert_eq!((publisher.keyframe_requests, publisher.fir_sequences.clone()), (0, vec![1, 1]), "one, and again");
}

#[test]
fn parameter_sets_go_twice_byte_for_byte() {
    let mut world = World::new(1);
    let publisher = world.add(0, Side::Publisher);
    let track = world.track(0, publisher, TrackId::NONE, Codec::H264, 77);
    world.connect();
    let mut index = 0u64;
    let mut picture = |world: &mut World, timestamp: u32, units: &[&[u8]]| {
        for (n, unit) in units.iter().enumerate() {
            let mut payload = unit.to_vec();
            payload.resize(40 + n, 7);
            let mut header = [0; 12];
            write_header(&mut header, n + 1 == units.len(), 96, index as u16, timestamp, 77);
            let mut out = vec![0; 200];
            let length = world.remotes[publisher].client.seal_rtp(&header, &payload, index, &mut out).unwrap();
            out.truncate(length);
            world.push(publisher, out);
            index += 1;
        }
        world.run(33 * MS);
    };
    // SPS and PPS in packets of their own.
    picture(&mut world, 0, &[&[0x67, 1], &[0x68, 2], &[0x65, 0x88], &[0x65, 0x08]]);
    (1..40).for_each(|n| picture(&mut world, n * 3_000, &[&[0x41, 0x9A]]));
    let viewer = world.add(0, Side::Viewer);
    world.remotes[viewer].wire = Some(Vec::new());
    let mut facts = FeedFacts::default();
    facts.payload_types[Codec::H264 as usize] = 102;
    world.feed_with(0, viewer, track, facts);
    (40..60).for_each(|n| picture(&mut world, n * 3_000, &[&[0x41, 0x9A]]));
    // Live, they go once: nothing is known to be lost.
    picture(&mut world, 180_000, &[&[0x67, 1], &[0x68, 2], &[0x65, 0x88], &[0x65, 0x08]]);
    let wire = world.remotes[viewer].wire.take().unwrap();
    assert!(wire[0] == wire[1] && wire[2] == wire[3], "each of them");
    assert!(wire[1] != wire[2] && wire[3..].windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(wire.len(), 4 + 59 + 4 + 2);
}

#[test]
fn threat_28_a_publisher_replaced_in_the_middle_of_its_pictures_is_followed() {
    let mut stage = Stage::obedient(2, 900);
    stage.play(200);
    let viewer = stage.join();
    stage.obedient = false;
    stage.play(5);
    // Held at the keyframe alone; its publisher goes, another comes.
    let second = stage.world.add(0, Side::Publisher);
    stage.world.connect();
    let track = stage.track;
    stage.world.track(0, second, track, Codec::Vp8, 99);
    let first = stage.world.remotes[stage.source.remote].session;
    stage.world.done(0, &Command::RemoveSession { session: first });
    let index = stage.source.index;
    stage.source = Source { index, frames_per_keyframe: 900, timestamp: 5, ..Source::new(second, 99) };
    stage.play(30);
    assert_live(&mut stage, viewer);
    stage.assert_no_gap(viewer);
}

//! Goal: a busy shard makes few and long sends of the same packets, and loses, doubles and delays nothing by it.
//! Method: `Sim` in virtual time with real sealing; ticks take no time there, so that being busy is said, not made.

use super::hold::HOLD_MAX;
use super::world::{Source, World};
use crate::io::sim::SentDatagram;
use spillway_proto::id::{Codec, Side, StreamId, TrackId};
use spillway_proto::link::command::{Command, FeedFacts};
use spillway_proto::link::counters::CounterId;
use spillway_proto::time::NtpTime;
use spillway_proto::wire::rtcp;
use spillway_proto::wire::rtp::write_header;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A stream with picture and sound, and a viewer who is live in both.
struct Scene {
    world: World,
    picture_track: TrackId,
    video: Source,
    sound: u64,
    viewer: usize,
    ssrcs: [u32; 2],
}

impl Scene {
    /// `sound_first`: the order in which control attaches tracks and feeds.
    fn new(sound_first: bool) -> Scene {
        let mut world = World::new(1);
        let publisher = world.add(0, Side::Publisher);
        let order = if sound_first { [1, 0] } else { [0, 1] };
        let mut tracks = [TrackId::NONE; 2];
        for at in order {
            tracks[at] = world.track(0, publisher, TrackId::NONE, [Codec::Vp8, Codec::Opus][at], [77, 88][at]);
        }
        world.connect();
        let mut video = Source::new(publisher, 77);
        video.frames_per_keyframe = 1_000;
        let viewer = world.add(0, Side::Viewer);
        let mut ssrcs = [0; 2];
        for at in order {
            ssrcs[at] = world.feed(0, viewer, tracks[at]).1;
        }
        let mut scene = Scene { world, picture_track: tracks[0], video, sound: 500, viewer, ssrcs };
        // Both live, their first reports sent.
        scene.world.connect();
        for _ in 0..10 {
            scene.picture(4);
            scene.hear();
            scene.world.run(Duration::from_millis(33));
        }
        assert!(scene.seen() == [40, 10], "{:?}", scene.seen());
        scene
    }

    fn seen(&self) -> [usize; 2] {
        self.ssrcs.map(|ssrc| self.world.remotes[self.viewer].of(ssrc).len())
    }

    fn picture(&mut self, packets: usize) {
        for datagram in self.video.frame(&self.world, packets) {
            self.world.push(self.video.remote, datagram);
        }
    }

    /// One packet of sound arrives.
    fn hear(&mut self) {
        let index = self.sound;
        self.sound += 1;
        self.send((true, 111), 88, index, index as u32 * 960, &[7; 160]);
    }

    /// A picture whose packets have these payloads.
    fn picture_of(&mut self, sizes: &[usize]) {
        let (index, timestamp) = (self.video.index, self.video.timestamp);
        for (at, size) in sizes.iter().enumerate() {
            let mut payload = vec![0; *size];
            (payload[0], payload[1]) = (if at == 0 { 0x10 } else { 0 }, 1);
            self.send((at + 1 == sizes.len(), 96), 77, index + at as u64, timestamp, &payload);
        }
        self.video.index += sizes.len() as u64;
        self.video.timestamp += 3_000;
    }

    fn send(&mut self, (marker, payload_type): (bool, u8), ssrc: u32, index: u64, timestamp: u32, payload: &[u8]) {
        let mut header = [0; 12];
        write_header(&mut header, marker, payload_type, index as u16, timestamp, ssrc);
        let mut out = vec![0; 1_100];
        let client = &self.world.remotes[self.video.remote].client;
        let length = client.seal_rtp(&header, payload, index, &mut out).unwrap();
        out.truncate(length);
        self.world.push(self.video.remote, out);
    }

    /// What one tick sends to the viewer: for each run its datagrams' sizes.
    fn tick(&mut self) -> Vec<Vec<usize>> {
        self.world.tick(0);
        let to = self.world.remotes[self.viewer].address;
        let sent: Vec<SentDatagram> = self.world.take_sent(0).into_iter().filter(|sent| sent.path.remote == to).collect();
        let mut runs: Vec<(u64, Vec<usize>)> = Vec::new();
        for datagram in sent {
            match runs.last_mut().filter(|(run, _)| *run == datagram.run) {
                Some((_, sizes)) => sizes.push(datagram.bytes.len()),
                None => runs.push((datagram.run, vec![datagram.bytes.len()])),
            }
            let now = self.world.now;
            self.world.remotes[self.viewer].take(now, datagram.bytes);
        }
        runs.into_iter().map(|(_, sizes)| sizes).collect()
    }

    fn busy(&mut self) {
        self.world.shards[0].parts().1.fanout.set_busy(0.9);
    }

    fn assert_whole(&self, counts: [usize; 2]) {
        assert_eq!(self.seen(), counts);
        for ssrc in self.ssrcs {
            let seen = self.world.remotes[self.viewer].of(ssrc);
            assert!(seen.windows(2).all(|two| two[1].sequence == two[0].sequence.wrapping_add(1)), "a gap or a copy");
        }
    }
}

/// Sizes on the wire: 12 bytes of header and 16 of tag around the payload. Half of the packets are a byte shorter, and padded.
const WIDE: usize = 1_029;
const SOUND: usize = 188;

#[test]
fn sound_rides_as_the_last_segment_of_a_picture() {
    for sound_first in [false, true] {
        let mut scene = Scene::new(sound_first);
        let sends = scene.world.counter(CounterId::Sends);
        scene.hear();
        scene.picture(8);
        assert_eq!(scene.tick(), [[&[WIDE; 8][..], &[SOUND]].concat()]);
        assert_eq!(scene.world.counter(CounterId::Sends) - sends, 1);
        scene.assert_whole([48, 11]);
        // Two of them: the first closes the run, as it is shorter.
        scene.hear();
        scene.hear();
        scene.picture(1);
        assert_eq!(scene.tick(), [vec![WIDE, SOUND], vec![SOUND]]);
        // And none: the picture does not wait for it.
        scene.picture(2);
        assert_eq!(scene.tick(), [vec![WIDE; 2]]);
        scene.hear();
        assert_eq!(scene.tick(), [vec![SOUND]]);
        scene.assert_whole([51, 14]);
    }
}

/// RFC 3550 section 5.1 and RFC 4588 section 4: what viewers find in the packets is what was published, also in those sent again.
#[test]
fn padding_is_no_payload_and_is_not_sent_in_retransmissions_of_their_own() {
    let mut scene = Scene::new(false);
    let with_rtx = scene.world.add(0, Side::Viewer);
    let mut facts = FeedFacts::default();
    (facts.payload_types[Codec::Vp8 as usize], facts.rtx_payload_types[Codec::Vp8 as usize]) = (103, 98);
    let (_, ssrc, rtx_ssrc) = scene.world.feed_with(0, with_rtx, scene.picture_track, facts);
    scene.world.connect();
    for _ in 0..2 {
        scene.picture(4);
        scene.world.run(Duration::from_millis(33));
    }
    let of = |scene: &Scene, viewer: usize, ssrc: u32| -> Vec<(u16, Vec<u8>)> {
        let seen = scene.world.remotes[viewer].of(ssrc);
        seen[seen.len() - 4..].iter().map(|seen| (seen.sequence, seen.payload.clone())).collect()
    };
    let seen = of(&scene, with_rtx, ssrc);
    for seen in [&seen, &of(&scene, scene.viewer, scene.ssrcs[0])] {
        let sizes: Vec<usize> = seen.iter().map(|(_, payload)| payload.len()).collect();
        assert_eq!(sizes, [1_000, 1_000, 1_001, 1_001]);
    }
    let mut plain = [0; 64];
    let sequences: Vec<u16> = seen.iter().map(|(sequence, _)| *sequence).collect();
    let length = rtcp::write_nack(&mut plain, 1, ssrc, &sequences).unwrap();
    let mut out = vec![0; 128];
    let length = scene.world.remotes[with_rtx].client.seal_rtcp(&plain[..length], &mut out).unwrap();
    out.truncate(length);
    scene.world.push(with_rtx, out);
    scene.world.run(Duration::from_millis(20));
    let again: Vec<(u16, Vec<u8>)> = of(&scene, with_rtx, rtx_ssrc)
        .into_iter()
        .map(|(_, payload)| (u16::from_be_bytes([payload[0], payload[1]]), payload[2..].to_vec()))
        .collect();
    assert!(again == seen, "what was sent again is not what was published");
}

#[test]
fn a_picture_with_a_short_end_has_no_seat_left() {
    let mut scene = Scene::new(false);
    scene.hear();
    // As OBS and ffmpeg cut it.
    scene.picture_of(&[1_001, 400]);
    assert_eq!(scene.tick(), [vec![WIDE + 1, 428], vec![SOUND]]);
    scene.assert_whole([42, 11]);
}

/// Who is served first waits least. Over a few seconds everybody waits as long as everybody else.
#[test]
fn all_viewers_have_the_same_mean_place_after_a_second() {
    let mut world = World::new(1);
    let publisher = world.add(0, Side::Publisher);
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
    world.connect();
    let mut video = Source::new(publisher, 77);
    let viewers: Vec<usize> = (0..40).map(|_| world.add(0, Side::Viewer)).collect();
    for &viewer in &viewers {
        world.feed(0, viewer, track);
    }
    world.connect();
    video.play(&mut world, 3, 2);
    let (mut places, mut ever_first) = (vec![0; viewers.len()], vec![0; viewers.len()]);
    for _ in 0..30 {
        for datagram in video.frame(&world, 1) {
            world.push(publisher, datagram);
        }
        world.tick(0);
        let sent = world.take_sent(0).into_iter().filter(|sent| sent.bytes.len() > 1_000);
        for (place, sent) in sent.enumerate() {
            let viewer = viewers.iter().position(|&viewer| world.remotes[viewer].address == sent.path.remote).unwrap();
            places[viewer] += place;
            ever_first[viewer] += usize::from(place == 0);
        }
    }
    let (least, most) = (places.iter().min().unwrap(), places.iter().max().unwrap());
    // Places 0 to 39 in 30 rounds: 585 on average.
    assert!((500..=585).contains(least) && (585..=670).contains(most), "{least} .. {most}");
    assert!(ever_first.iter().all(|&times| times <= 2), "{ever_first:?}");
}

/// Goal: a backend that keeps what it knows of each session is told whose turn it is, by a number that nobody else has and that is as low as there are
/// sessions on the shard; and a turn before that, so that it can fetch it. Method: three viewers on each of two shards.
#[test]
fn a_backend_knows_whose_turn_it_is() {
    let mut world = World::new(2);
    let publisher = world.add(0, Side::Publisher);
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
    world.connect();
    let mut video = Source::new(publisher, 77);
    for shard in [0, 1, 0, 1, 0, 1] {
        let viewer = world.add(shard, Side::Viewer);
        world.feed(shard, viewer, track);
    }
    world.connect();
    video.play(&mut world, 10, 2);
    for shard in 0..2 {
        world.take_sent(shard);
        world.shards[shard].parts().0.take_turns();
    }
    let mut whose = [BTreeMap::new(), BTreeMap::new()];
    for _ in 0..10 {
        for datagram in video.frame(&world, 2) {
            world.push(publisher, datagram);
        }
        for (shard, whose) in whose.iter_mut().enumerate() {
            world.tick(shard);
            for sent in world.take_sent(shard).iter().filter(|sent| sent.bytes.len() > 1_000) {
                let before = whose.insert(sent.path.remote, sent.whose);
                assert!(before.is_none_or(|before| before == sent.whose));
            }
        }
    }
    for (shard, whose) in whose.iter().enumerate() {
        let numbers: BTreeSet<u32> = whose.values().map(|who| who.expect("media has a turn")).collect();
        // The publisher is a session of the first.
        let sessions = if shard == 0 { 4 } else { 3 };
        assert!(whose.len() == 3 && numbers.len() == 3 && numbers.iter().all(|number| *number < sessions), "{numbers:?}");
        let [turns, foreseen] = world.shards[shard].parts().0.take_turns();
        assert!(turns >= 30 && foreseen * 3 >= turns * 2, "{foreseen} of {turns}: all but the first of each tick");
    }
}

#[test]
fn a_shared_run_that_the_network_refuses_moves_neither_feed() {
    let mut scene = Scene::new(false);
    scene.hear();
    scene.picture_of(&[1_001, 1_001, 900, 900, 900]);
    // The first run passes, the shared one does not.
    let (io, _) = scene.world.shards[0].parts();
    io.run_dry(0);
    scene.world.block(0, 1);
    assert_eq!(scene.tick(), Vec::<Vec<usize>>::new());
    scene.assert_whole([40, 10]);
    assert_eq!(scene.tick(), [vec![WIDE + 1, WIDE + 1, 928], vec![928, 928, SOUND]]);
    scene.assert_whole([45, 11]);
    // No room for the second run's packets: what was sent before stays sent.
    scene.hear();
    scene.picture(1);
    scene.world.block(0, 1);
    assert_eq!(scene.tick(), Vec::<Vec<usize>>::new());
    scene.assert_whole([45, 11]);
    assert_eq!(scene.tick(), [vec![WIDE, SOUND]]);
    scene.assert_whole([46, 12]);
}

#[test]
fn without_gso_nothing_is_left_open() {
    let mut scene = Scene::new(false);
    scene.world.shards[0].parts().0.set_gso_segments(1);
    scene.hear();
    scene.picture(2);
    assert_eq!(scene.tick(), [vec![WIDE], vec![WIDE], vec![SOUND]]);
    scene.assert_whole([42, 11]);
}

#[test]
fn a_busy_shard_waits_for_the_end_of_a_frame() {
    let mut scene = Scene::new(false);
    scene.busy();
    let mut datagrams = scene.video.frame(&scene.world, 8);
    let last = datagrams.pop().unwrap();
    for datagram in datagrams {
        scene.world.push(scene.video.remote, datagram);
        assert_eq!(scene.tick(), Vec::<Vec<usize>>::new());
    }
    scene.hear();
    assert_eq!(scene.tick(), Vec::<Vec<usize>>::new());
    scene.world.push(scene.video.remote, last);
    assert_eq!(scene.tick(), [[&[WIDE; 8][..], &[SOUND]].concat()]);
    scene.assert_whole([48, 11]);
}

/// What waited and went along with a picture of its stream needs no turn of its own afterwards, in which there is nothing to read.
#[test]
fn who_was_given_the_sound_with_the_picture_has_no_turn_for_it() {
    for sound_first in [false, true] {
        let mut scene = Scene::new(sound_first);
        scene.busy();
        scene.hear();
        assert_eq!(scene.tick(), Vec::<Vec<usize>>::new());
        let turns = |scene: &mut Scene| scene.world.shards[0].parts().1.fanout.turns();
        let before = turns(&mut scene);
        scene.picture(8);
        assert_eq!(scene.tick(), [[&[WIDE; 8][..], &[SOUND]].concat()]);
        scene.world.now = scene.world.now + HOLD_MAX;
        assert_eq!(scene.tick(), Vec::<Vec<usize>>::new());
        assert_eq!(turns(&mut scene) - before, 1);
    }
}

#[test]
fn nothing_waits_longer_than_it_may_and_the_shard_wakes_for_it() {
    let mut scene = Scene::new(false);
    scene.busy();
    let mut datagrams = scene.video.frame(&scene.world, 8).into_iter();
    scene.world.push(scene.video.remote, datagrams.next().unwrap());
    assert_eq!(scene.tick(), Vec::<Vec<usize>>::new());
    let due = scene.world.now + HOLD_MAX;
    assert!(scene.world.rest(0).is_some_and(|at| at <= due));
    scene.world.now = scene.world.now + HOLD_MAX - Duration::from_millis(1);
    scene.world.push(scene.video.remote, datagrams.next().unwrap());
    assert_eq!(scene.tick(), Vec::<Vec<usize>>::new());
    scene.world.now = due;
    assert_eq!(scene.tick(), [vec![WIDE; 2]]);
    // Sound alone waits as long, and a shard with time again holds nothing.
    scene.hear();
    assert_eq!(scene.tick(), Vec::<Vec<usize>>::new());
    scene.world.now = scene.world.now + HOLD_MAX;
    assert_eq!(scene.tick(), [vec![SOUND]]);
    scene.world.shards[0].parts().1.fanout.set_busy(0.1);
    scene.world.push(scene.video.remote, datagrams.next().unwrap());
    assert_eq!(scene.tick(), [vec![WIDE]]);
    scene.assert_whole([43, 11]);
}

/// Who watches does not wait because others come: neither the time of their commands, checks and handshakes nor what control takes of
/// the core makes a shard hold back what it has.
#[test]
fn a_shard_that_is_busy_with_handshakes_is_not_busy() {
    let mut world = World::new(1);
    let mut run = |sending: Duration, robbed: Duration| {
        for _ in 0..200 {
            let shard = &mut world.shards[0];
            shard.core.now = crate::io::Io::now(&shard.io);
            shard.io.advance(Duration::from_millis(9) - robbed);
            shard.io.rob(robbed);
            shard.count_tick(sending);
            shard.core.flush_counters();
            shard.io.advance(Duration::from_millis(1));
        }
        world.shards[0].core.fanout.busy()
    };
    let ms = Duration::from_millis;
    let (storm, media, robbed) = (run(ms(1), ms(0)), run(ms(9), ms(0)), run(ms(9), ms(8)));
    assert!((0.05..0.15).contains(&storm) && media > 0.8 && (0.15..0.25).contains(&robbed), "{storm} {media} {robbed}");
}

/// A room of so many, and a small one on the same shard.
struct Rooms {
    world: World,
    large: Source,
    small: Source,
    track: TrackId,
    /// Remote and SSRC, the two of the small room last.
    viewers: Vec<(usize, u32)>,
    /// What the last tick said: there may be more to do.
    more: bool,
}

impl Rooms {
    fn new(large: usize) -> Rooms {
        let mut world = World::new(1);
        let publishers = [world.add(0, Side::Publisher), world.add(0, Side::Publisher)];
        let tracks = [77, 78].map(|ssrc| {
            // A stream each.
            world.stream = StreamId::new(ssrc - 76, 1);
            world.track(0, publishers[ssrc as usize - 77], TrackId::NONE, Codec::Vp8, ssrc)
        });
        world.connect();
        let mut sources = [77, 78].map(|ssrc| Source::new(publishers[ssrc as usize - 77], ssrc));
        let mut viewers = Vec::new();
        for at in 0..large + 2 {
            let viewer = world.add(0, Side::Viewer);
            viewers.push((viewer, world.feed(0, viewer, tracks[usize::from(at >= large)]).1));
        }
        world.connect();
        for source in &mut sources {
            source.frames_per_keyframe = 1_000;
            source.play(&mut world, 5, 1);
        }
        let [large, small] = sources;
        Rooms { world, large, small, track: tracks[0], viewers, more: false }
    }

    fn publish(&mut self, large: bool) {
        self.publish_frame(large, 1);
    }

    fn publish_frame(&mut self, large: bool, packets: usize) {
        let source = if large { &mut self.large } else { &mut self.small };
        for datagram in source.frame(&self.world, packets) {
            self.world.push(source.remote, datagram);
        }
    }

    /// Of the large room and the small one, who got something by this tick.
    fn tick(&mut self) -> [usize; 2] {
        self.more = self.world.tick(0);
        let sent = self.world.take_sent(0);
        let mut counts = [0; 2];
        for datagram in sent {
            let Some(at) = self.viewers.iter().position(|(remote, _)| self.world.remotes[*remote].address == datagram.path.remote) else { continue };
            let now = self.world.now;
            let (remote, ssrc) = self.viewers[at];
            let before = self.world.remotes[remote].of(ssrc).len();
            self.world.remotes[remote].take(now, datagram.bytes);
            counts[usize::from(at + 2 >= self.viewers.len())] += self.world.remotes[remote].of(ssrc).len() - before;
        }
        counts
    }

    fn seen(&self) -> Vec<usize> {
        self.viewers.iter().map(|(remote, ssrc)| self.world.remotes[*remote].of(*ssrc).len()).collect()
    }
}

#[test]
fn a_room_of_many_does_not_keep_another_one_waiting() {
    let mut rooms = Rooms::new(700);
    assert_eq!(rooms.seen(), vec![5; 702]);
    rooms.publish(true);
    let mut large = rooms.tick()[0];
    assert!((16..64).contains(&large), "{large} in one tick");
    // The small room's packet arrives behind it and is there first.
    rooms.publish(false);
    let [more, small] = rooms.tick();
    large += more;
    assert!(small == 2 && large < 128, "{small} and {large}");
    large += rooms.tick()[0];
    assert!(large < 192 && rooms.more, "{large}, and nobody said that there is more to do");
    // News of the large room in the middle of its lap: everybody gets both packets, nobody anything twice.
    rooms.publish(true);
    for _ in 0..2 * 700 / 40 {
        large += rooms.tick()[0];
    }
    assert_eq!((large, rooms.seen()), (1_400, [vec![7; 700], vec![6; 2]].concat()));
    assert!(!rooms.world.tick(0), "and there is nothing left to do");
}

/// Goal: between those who have a packet and those who have not comes nothing else, but not for ever, and not where a shard is busy and its rounds are
/// long. Method: a command in the middle of a large room's lap, and what went out before its answer.
#[test]
fn nothing_but_media_comes_between_some_short_rounds() {
    for (busy, round, until_answered) in [(0.0, 40..=64, 3 * 40..=4 * 64), (0.9, 160..=256, 1..=256)] {
        let mut rooms = Rooms::new(700);
        rooms.world.shards[0].core.fanout.set_busy(busy);
        rooms.publish(true);
        let before = rooms.tick()[0];
        rooms.world.take_sent(0);
        rooms.world.command(0, &Command::RequestKeyframe { track: rooms.track });
        let sent = rooms.world.take_sent(0).len();
        assert!(round.contains(&before) && until_answered.contains(&sent), "{before}, then {sent}");
    }
}

/// Goal: where hundreds watch a picture waits for its end on an idle shard, too, as long as they are many; where few do, nothing waits. Method: the first
/// half of a picture in a room of 400 and in one of two.
#[test]
fn a_picture_that_hundreds_watch_waits_for_its_end() {
    let mut rooms = Rooms::new(400);
    let mut frame = rooms.large.frame(&rooms.world, 2).into_iter();
    rooms.world.push(rooms.large.remote, frame.next().unwrap());
    let small = rooms.small.frame(&rooms.world, 2).into_iter().next().unwrap();
    rooms.world.push(rooms.small.remote, small);
    assert_eq!(rooms.tick(), [0, 2]);
    assert!(rooms.world.rest(0).is_some_and(|at| at <= rooms.world.now + Duration::from_millis(2)), "it waits for two milliseconds");
    rooms.world.push(rooms.large.remote, frame.next().unwrap());
    let sent: usize = (0..10).map(|_| rooms.tick()[0]).sum();
    assert_eq!(sent, 800, "both halves in one lap");
}

/// Goal: who has two tracks is told of their clocks with the first live packet; who has one, with nothing to be in step with, when its turn among the
/// timers comes: a thousand who come live by the same packet are not all told at once. Method: fifty of either kind, two pictures after they came.
#[test]
fn who_has_one_track_is_not_told_of_its_clock_at_once() {
    for (feeds, told) in [(1, 0..25), (2, 50..51)] {
        let mut world = World::new(1);
        let publisher = world.add(0, Side::Publisher);
        let tracks = [(Codec::Vp8, 77), (Codec::Opus, 88)].map(|(codec, ssrc)| world.track(0, publisher, TrackId::NONE, codec, ssrc));
        world.connect();
        let mut video = Source::new(publisher, 77);
        video.play(&mut world, 2, 1);
        let mut plain = [0; 64];
        let length = rtcp::write_sr(&mut plain, 77, NtpTime(1 << 40), video.timestamp, 0, 0, &[]).unwrap();
        let mut sealed = vec![0; 128];
        let length = world.remotes[publisher].client.seal_rtcp(&plain[..length], &mut sealed).unwrap();
        world.push(publisher, sealed[..length].to_vec());
        let viewers: Vec<usize> = (0..50).map(|_| world.add(0, Side::Viewer)).collect();
        for viewer in &viewers {
            tracks[..feeds].iter().for_each(|track| {
                world.feed(0, *viewer, *track);
            });
        }
        world.connect();
        video.play(&mut world, 2, 1);
        let heard = viewers.iter().filter(|viewer| !world.remotes[**viewer].reports.is_empty()).count();
        assert!(told.contains(&heard), "{heard} of 50 with {feeds}");
    }
}

/// A picture of three turns: nobody has it whole before everybody has begun with it.
#[test]
fn a_keyframe_goes_to_all_before_some_get_what_is_behind_it() {
    let mut rooms = Rooms::new(500);
    rooms.publish_frame(true, 40);
    loop {
        rooms.tick();
        let seen = rooms.seen();
        let begun = seen[..500].iter().filter(|count| **count > 5).count();
        if seen.contains(&45) {
            assert_eq!(begun, 500, "who has it whole was served three times");
            break;
        }
        assert!(rooms.more, "{begun} have begun");
    }
    while rooms.more {
        rooms.tick();
    }
    assert_eq!(rooms.seen(), [vec![45; 500], vec![5; 2]].concat());
}

/// Its rounds go forth and back: who was the last to begin with it does not get each of its packets last.
#[test]
fn a_keyframe_reaches_everybody_as_late_on_the_whole() {
    let mut rooms = Rooms::new(200);
    rooms.publish_frame(true, 64);
    let (mut sum, mut place) = (vec![0.0_f64; 200], 0.0);
    loop {
        let more = rooms.world.tick(0);
        for sent in rooms.world.take_sent(0) {
            let viewers = &rooms.viewers[..200];
            let found = viewers.iter().position(|(remote, _)| rooms.world.remotes[*remote].address == sent.path.remote);
            if let Some(at) = found {
                sum[at] += place;
                place += 1.0;
            }
        }
        if !more {
            break;
        }
    }
    assert_eq!(place, 64.0 * 200.0);
    let (least, most) = sum.iter().fold((f64::MAX, 0.0_f64), |(least, most), &sum| (sum.min(least), sum.max(most)));
    // One way only they would lie half as far apart as the mean itself.
    assert!((most - least) / (place / 2.0 * 64.0) < 0.1, "{} .. {}", least / 64.0, most / 64.0);
}

/// The same with news in the middle of it: nobody is more than a turn ahead of anybody else, wherever the news come.
#[test]
fn frames_behind_a_keyframe_do_not_disturb_its_rounds() {
    for news_at in [1, 2, 3, 4, 5, 7] {
        let mut rooms = Rooms::new(200);
        rooms.publish_frame(true, 64);
        let mut ahead = 0;
        for tick in 1.. {
            rooms.tick();
            if tick == news_at || tick == news_at + 2 {
                rooms.publish(true);
            }
            let seen = rooms.seen();
            let (least, most) = (seen[..200].iter().min().unwrap(), seen[..200].iter().max().unwrap());
            ahead = ahead.max(most - least);
            if !rooms.more && tick > news_at + 2 {
                break;
            }
        }
        assert!((16..=17).contains(&ahead), "news at {news_at}: {ahead} packets ahead");
        assert_eq!(rooms.seen(), [vec![71; 200], vec![5; 2]].concat());
    }
}

/// A viewer far behind takes one turn for each lap, not the laps' place.
#[test]
fn who_is_far_behind_does_not_keep_news_from_the_others() {
    let mut rooms = Rooms::new(80);
    let slot = rooms.world.remotes[rooms.viewers[7].0].session.index;
    // Nothing goes to it while it has no path, and it is 400 packets behind.
    let path = rooms.world.shards[0].core.sessions[slot as usize].as_mut().unwrap().path.take();
    for _ in 0..40 {
        rooms.publish_frame(true, 10);
        while { rooms.tick(); rooms.more } {}
    }
    rooms.world.shards[0].core.sessions[slot as usize].as_mut().unwrap().path = path;
    for round in 0..8 {
        rooms.publish(true);
        for _ in 0..3 {
            rooms.tick();
        }
        let seen = rooms.seen();
        assert!(seen[..80].iter().enumerate().all(|(at, seen)| at == 7 || *seen == 406 + round), "{round}: {seen:?}");
        assert!(seen[7] < 406, "{round}: it is behind all the time");
    }
    // Without news it has a turn again and again, until it is where the others are.
    while rooms.more {
        rooms.tick();
    }
    assert_eq!(rooms.seen()[..80], vec![413; 80]);
}

/// A viewer without sound any more is one of the stream's still.
#[test]
fn who_gives_up_one_of_two_feeds_has_its_turns() {
    let mut scene = Scene::new(false);
    let core = &mut scene.world.shards[0].core;
    let slot = scene.world.remotes[scene.viewer].session.index;
    let sound = core.sessions[slot as usize].as_ref().unwrap().feeds[1].slot;
    let feed = core.table.feed(sound).unwrap().id(sound);
    scene.world.done(0, &Command::DetachFeed { feed });
    scene.picture(8);
    assert_eq!(scene.tick(), [vec![WIDE; 8]]);
    scene.assert_whole([48, 10]);
}

/// Whose turn it was when the network took nothing is the first when it does.
#[test]
fn who_could_not_be_served_is_first_in_the_next_tick() {
    let order = |blocked: bool| {
        let mut rooms = Rooms::new(20);
        rooms.publish(true);
        if blocked {
            rooms.world.block(0, 1);
            assert_eq!(rooms.tick(), [0, 0]);
        }
        rooms.world.tick(0);
        let place = |to| rooms.viewers.iter().position(|(at, _)| rooms.world.remotes[*at].address == to);
        let sent = rooms.world.shards[0].parts().0.take_sent();
        sent.iter().filter_map(|sent| place(sent.path.remote)).collect::<Vec<_>>()
    };
    let unhindered = order(false);
    assert_eq!((unhindered.len(), order(true)), (20, unhindered));
}

#[test]
fn who_comes_back_to_a_stream_stays_when_another_one_leaves() {
    let mut rooms = Rooms::new(6);
    let detach = |rooms: &mut Rooms, at: usize| {
        let slot = rooms.world.remotes[rooms.viewers[at].0].session.index;
        let core = &mut rooms.world.shards[0].core;
        let feed = core.sessions[slot as usize].as_ref().unwrap().feeds[0].slot;
        let feed = core.table.feed(feed).unwrap().id(feed);
        rooms.world.done(0, &Command::DetachFeed { feed });
    };
    detach(&mut rooms, 0);
    let viewer = rooms.viewers[0].0;
    rooms.viewers[0].1 = rooms.world.feed(0, viewer, rooms.track).1;
    rooms.world.run(Duration::from_millis(500));
    detach(&mut rooms, 1);
    let before = rooms.seen()[0];
    assert!(before > 0);
    rooms.publish(true);
    rooms.tick();
    assert_eq!(rooms.seen()[0], before + 1);
}

/// Who goes in the middle of a lap is replaced in the list by its last one, who may not have had its turn; who comes stands
/// at its end, before those who are last in a lap that began in the middle.
#[test]
fn who_comes_and_goes_in_the_middle_of_a_lap_costs_nobody_a_packet() {
    let mut rooms = Rooms::new(300);
    for round in 0..40 {
        // Of forty laps some begin where it matters: in the middle, so that they end before the list's end, or behind it.
        let goes = round < 20;
        let comes = (!goes).then(|| rooms.world.add(0, Side::Viewer));
        rooms.publish(true);
        let large = rooms.tick()[0];
        assert!(large < 270 && rooms.more, "{large}: the lap goes on");
        if let Some(viewer) = comes {
            rooms.world.feed(0, viewer, rooms.track);
        } else {
            let (gone, _) = rooms.viewers.remove(100);
            let session = rooms.world.remotes[gone].session;
            rooms.world.done(0, &Command::RemoveSession { session });
        }
        while rooms.more {
            rooms.tick();
        }
        let seen = rooms.seen();
        let missed = seen[..seen.len() - 2].iter().filter(|count| **count != 6 + round).count();
        assert_eq!(missed, 0, "round {round}");
    }
}

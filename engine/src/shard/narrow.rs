//! Goal: behind a way that is hardly wider than the stream a viewer is live soon, though its replay was too much for it.
//! Method: a whole engine over `Sim` in virtual time, a source shaped like W1 with a keyframe every 10 s, and between them and the
//! viewer 3 Mbit/s, a queue of 300 ms and 200 ms of delay; what it did not get it asks for, as players do.

use super::world::{Source, World, number_of};
use spillway_proto::id::{Codec, Side, TrackId};
use spillway_proto::link::command::{TrackFacts, TrackFeedback};
use spillway_proto::time::Time;
use spillway_proto::wire::rtcp;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const FIRST: u64 = 60_000;
const FRAME_MS: u64 = 33;
const FRAMES_PER_KEYFRAME: u64 = 300;
const DELAY: Duration = Duration::from_millis(200);
/// A picture packet that is younger when it arrives is live, as `spillway-bench` counts.
const LIVE_AGE: Duration = Duration::from_millis(150);

/// What the way does to datagrams, drop-tail: a queue drained at a rate, and a delay.
struct Way {
    now: Time,
    bps: u64,
    queue: Duration,
    /// When all that was let in has gone out.
    free_at: Time,
    /// (arrival, sequence number) of video, as they were sent.
    arrivals: Vec<(Time, u16)>,
    ssrc: u32,
}

impl Way {
    fn carries(&mut self, datagram: &[u8]) -> bool {
        // UDP, IPv4 and Ethernet are in the way, too; and what the source's 1,000 bytes are short of W1's 1,200.
        let bytes = datagram.len() as u64 + 42 + if datagram.len() > 900 { 188 } else { 0 };
        let free_at = self.free_at.max(self.now);
        if free_at.since(self.now) > self.queue {
            return false;
        }
        self.free_at = free_at + Duration::from_nanos(bytes * 8 * 1_000_000_000 / self.bps);
        if datagram.len() > 12 && datagram[8..12] == self.ssrc.to_be_bytes() {
            self.arrivals.push((self.free_at + DELAY, u16::from_be_bytes([datagram[2], datagram[3]])));
        }
        true
    }
}

struct Stage {
    world: World,
    source: Source,
    track: TrackId,
    answered: usize,
    /// When each packet was published.
    published: Vec<Time>,
    /// Datagrams of the present picture that are not sent yet, how many a millisecond, and milliseconds since the last began.
    pending: Vec<Vec<u8>>,
    pending_each: usize,
    since_frame: u64,
}

impl Stage {
    fn new() -> Stage {
        let mut world = World::new(1);
        let publisher = world.add(0, Side::Publisher);
        let feedback = TrackFeedback { pli: true, ..TrackFeedback::default() };
        let track = world.track_with(0, publisher, TrackId::NONE, TrackFacts { feedback, ..TrackFacts::new(Codec::Vp8, 96, 77) });
        world.connect();
        let source = Source { frames_per_keyframe: FRAMES_PER_KEYFRAME, ..Source::new(publisher, 77) };
        Stage {
            world, source, track, answered: 0, published: Vec::new(),
            pending: Vec::new(), pending_each: 0, since_frame: FRAME_MS,
        }
    }

    /// A millisecond: a keyframe of 65 packets is spread over a picture's time, another one of 8 or 9 over 10 ms.
    fn turn(&mut self) {
        self.since_frame += 1;
        if self.since_frame > FRAME_MS {
            self.since_frame = 1;
            let asked = self.world.remotes[self.source.remote].keyframe_requests;
            if asked > self.answered {
                self.source.frame = 0;
            }
            self.answered = asked;
            let is_keyframe = self.source.frame.is_multiple_of(FRAMES_PER_KEYFRAME);
            let packets = if is_keyframe { 65 } else { 8 + (self.source.frame % 2) as usize };
            self.pending = self.source.frame(&self.world, packets);
            self.pending_each = if is_keyframe { 2 } else { 1 };
        }
        for datagram in self.pending.drain(..self.pending_each.min(self.pending.len())) {
            self.published.push(self.world.now);
            self.world.push(self.source.remote, datagram);
        }
        self.world.run(MS);
    }

    fn play(&mut self, span: Duration) {
        let end = self.world.now + span;
        while self.world.now < end {
            self.turn();
        }
    }
}

/// What became of one viewer.
#[derive(Debug)]
struct Story {
    /// After it was connected.
    live: Option<Duration>,
    /// What came from then on, by the source's numbers.
    after: Vec<u64>,
    /// Keyframes the publisher was asked for.
    asked: usize,
}

/// A viewer joins when the keyframe is so old, and stays 2 s.
fn join_at(age: Duration) -> Story {
    let mut stage = Stage::new();
    stage.play(age);
    let viewer = stage.world.add(0, Side::Viewer);
    let (_, ssrc) = stage.world.feed(0, viewer, stage.track);
    let way = Way { now: stage.world.now, bps: 3_000_000, queue: Duration::from_millis(300), free_at: Time::ZERO, arrivals: Vec::new(), ssrc };
    let way = Rc::new(RefCell::new(way));
    let inside = Rc::clone(&way);
    stage.world.remotes[viewer].path_down = Some(Box::new(move |datagram| inside.borrow_mut().carries(datagram)));
    while !stage.world.remotes[viewer].connected {
        way.borrow_mut().now = stage.world.now;
        stage.turn();
    }
    let connected = stage.world.now;
    let (mut live, mut after, mut asked) = (None, Vec::new(), BTreeMap::<u16, u8>::new());
    let mut shown = 0;
    for ms in 0..2_000u64 {
        way.borrow_mut().now = stage.world.now;
        stage.turn();
        let now = stage.world.now;
        let arrivals = way.borrow().arrivals.clone();
        let seen = stage.world.remotes[viewer].of(ssrc);
        let numbers: BTreeMap<u16, u64> = seen.iter().map(|seen| (seen.sequence, number_of(&seen.payload) - FIRST)).collect();
        while let Some((at, sequence)) = arrivals.get(shown).filter(|(at, _)| *at <= now) {
            let number = numbers[sequence];
            let age = at.since(stage.published[number as usize]);
            if age < LIVE_AGE + DELAY && live.is_none() {
                live = Some(at.since(connected));
            }
            if live.is_some() {
                after.push(number);
            }
            shown += 1;
        }
        // Holes, three packets after they were passed over.
        let arrived: Vec<u16> = arrivals[..shown].iter().map(|(_, sequence)| *sequence).collect();
        if ms % 40 == 0 && let (Some(first), Some(last)) = (arrived.first(), arrived.last()) {
            let span = last.wrapping_sub(*first).saturating_sub(3);
            let come: BTreeSet<u16> = arrived.iter().map(|sequence| sequence.wrapping_sub(*first)).collect();
            let missing = (0..span).filter(|step| !come.contains(step)).map(|step| first.wrapping_add(step));
            let lost: Vec<u16> = missing.filter(|sequence| asked.get(sequence).is_none_or(|times| *times < 4)).take(64).collect();
            if !lost.is_empty() {
                lost.iter().for_each(|sequence| *asked.entry(*sequence).or_default() += 1);
                let mut plain = [0; 1_000];
                let mut length = rtcp::write_rr(&mut plain, 1, &[]).unwrap();
                length += rtcp::write_nack(&mut plain[length..], 1, ssrc, &lost).unwrap();
                let mut out = vec![0; length + 64];
                let sealed = stage.world.remotes[viewer].client.seal_rtcp(&plain[..length], &mut out).unwrap();
                out.truncate(sealed);
                stage.world.push(viewer, out);
            }
        }
    }
    Story { live, after, asked: stage.world.remotes[stage.source.remote].keyframe_requests }
}

/// An age of 150 to 180 ms is left out: its replay fills the queue and loses nothing, so that nobody knows, and 0.3 Mbit/s to spare
/// drain 150 ms of it in a second and a half. And what is too old to be replayed: the keyframe alone and its answer are 180 ms of queue here,
/// where no burst passes.
#[test]
fn behind_a_narrow_way_a_viewer_is_live_soon_after_a_replay() {
    for age in [20, 120, 200, 250, 300, 500, 1_000, 2_000, 2_900, 3_500] {
        let Story { live, mut after, asked } = join_at(MS * age);
        assert!(live.is_some_and(|live| live <= MS * 1_500), "a keyframe of {age} ms: live after {live:?}");
        assert!(asked <= 1, "a keyframe of {age} ms: asked {asked} times");
        // What a replay that was given up had in the queue is gone when the next keyframe comes.
        if age >= 200 {
            after.sort_unstable();
            assert!(after.len() > 100 && after.windows(2).all(|pair| pair[1] == pair[0] + 1), "a keyframe of {age} ms: torn again");
        }
    }
}

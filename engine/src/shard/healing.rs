//! Goal: what the network loses comes back, to the one who lost it, at a bounded price, and nobody else notices.
//! Method: a whole engine over `Sim` in virtual time; the paths of chosen remotes lose datagrams by a seed, viewers
//! ask again as RFC 4585 has it, and every ciphertext on the wire is kept and compared.

use super::world::{Source, World, number_of};
use crate::alloc_count::allocations_in;
use spillway_proto::id::{Codec, Side, TrackId};
use spillway_proto::link::command::{FeedFacts, TrackFacts};
use spillway_proto::link::counters::CounterId;
use spillway_proto::rng::Rng;
use spillway_proto::wire::rtcp;
use spillway_proto::wire::rtp::write_header;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

const VIDEO: u8 = 103;
const RTX: u8 = 113;

fn publishing(shards: usize) -> (World, Source, TrackId) {
    let mut world = World::new(shards);
    let publisher = world.add(0, Side::Publisher);
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
    world.connect();
    (world, Source::new(publisher, 77), track)
}

/// A viewer that asks again for what it misses, by RTX if it has it.
struct Viewer {
    remote: usize,
    ssrc: u32,
    rtx_ssrc: u32,
    /// Of `Remote::seen`, looked at already.
    looked_at: usize,
    /// Sequence numbers that came, of the stream or by a retransmission; and the payloads' own numbers.
    got: BTreeSet<u64>,
    numbers: BTreeSet<u64>,
    copies: usize,
    answers: usize,
    newest: u64,
    /// When each missing number was last asked for.
    asked: HashMap<u64, u64>,
}

impl Viewer {
    fn new(world: &mut World, shard: usize, track: TrackId, rtx: bool) -> Viewer {
        let remote = world.add(shard, Side::Viewer);
        let mut facts = FeedFacts::default();
        facts.payload_types[Codec::Vp8 as usize] = VIDEO;
        facts.rtx_payload_types[Codec::Vp8 as usize] = if rtx { RTX } else { 0 };
        let (_, ssrc, rtx_ssrc) = world.feed_with(shard, remote, track, facts);
        assert_eq!(rtx_ssrc != 0, rtx);
        world.remotes[remote].wire = Some(Vec::new());
        Viewer {
            remote,
            ssrc,
            rtx_ssrc,
            looked_at: 0,
            got: BTreeSet::new(),
            numbers: BTreeSet::new(),
            copies: 0,
            answers: 0,
            newest: 0,
            asked: HashMap::new(),
        }
    }

    /// Takes what came, and asks for what is missing at most every 40 ms.
    fn turn(&mut self, world: &mut World) {
        let remote = &world.remotes[self.remote];
        for seen in &remote.seen[self.looked_at..] {
            let (sequence, payload) = match seen.ssrc {
                ssrc if ssrc == self.ssrc => (seen.sequence, &seen.payload[..]),
                ssrc if ssrc == self.rtx_ssrc => {
                    assert_eq!(seen.payload_type, RTX);
                    self.answers += 1;
                    (u16::from_be_bytes([seen.payload[0], seen.payload[1]]), &seen.payload[2..])
                }
                _ => continue,
            };
            if self.newest == 0 {
                self.newest = 1 << 20 | u64::from(sequence);
            }
            let ahead = i64::from(sequence.wrapping_sub(self.newest as u16) as i16);
            let index = self.newest.saturating_add_signed(ahead);
            self.newest = self.newest.max(index);
            self.copies += usize::from(!self.got.insert(index));
            self.numbers.insert(number_of(payload));
        }
        self.looked_at = remote.seen.len();
        let now = world.now.as_nanos() / 1_000_000;
        let first = *self.got.first().unwrap_or(&self.newest);
        let missing: Vec<u16> = (first.max(self.newest.saturating_sub(900))..self.newest)
            .filter(|index| !self.got.contains(index))
            .filter(|index| self.asked.get(index).is_none_or(|at| now >= at + 40))
            .collect::<Vec<u64>>()
            .into_iter()
            .map(|index| {
                self.asked.insert(index, now);
                index as u16
            })
            .collect();
        if !missing.is_empty() {
            self.ask(world, &missing);
        }
    }

    fn ask(&self, world: &mut World, sequences: &[u16]) {
        for part in sequences.chunks(200) {
            let mut plain = [0; 1_024];
            let length = rtcp::write_nack(&mut plain, 1, self.ssrc, part).unwrap();
            let mut out = vec![0; 1_100];
            let length = world.remotes[self.remote].client.seal_rtcp(&plain[..length], &mut out).unwrap();
            out.truncate(length);
            world.push(self.remote, out);
        }
    }

    /// Distinct packets of the source that came, of those from the first on.
    fn missed(&self, source: &Source) -> u64 {
        source.index - self.numbers.first().unwrap() - self.numbers.len() as u64
    }
}

/// `frames` frames at 30 a second, everybody asking for what is missing every 10 ms.
fn play(world: &mut World, source: &mut Source, frames: usize, packets: usize, viewers: &mut [Viewer]) {
    for _ in 0..frames {
        for datagram in source.frame(world, packets) {
            world.push(source.remote, datagram);
        }
        for span in [10, 10, 13] {
            world.run(Duration::from_millis(span));
            viewers.iter_mut().for_each(|viewer| viewer.turn(world));
        }
    }
}

fn settle(world: &mut World, viewers: &mut [Viewer]) {
    for _ in 0..30 {
        world.run(Duration::from_millis(10));
        viewers.iter_mut().for_each(|viewer| viewer.turn(world));
    }
}

/// Loses `percent` of the RTP, and nothing else.
fn losing(percent: u64, seed: u64) -> Option<Box<dyn FnMut(&[u8]) -> bool>> {
    let mut rng = Rng::new(seed);
    Some(Box::new(move |datagram| !(128..192).contains(&datagram[0]) || rng.below(100) >= percent))
}

/// Sequence number and SSRC stand in clear.
fn name_of(datagram: &[u8]) -> (u32, u16) {
    let word = |at: usize| u32::from_be_bytes(datagram[at..at + 4].try_into().unwrap());
    (word(8), word(0) as u16)
}

/// For one SSRC and sequence every datagram ever sent is the same (a test sends fewer than 2^16 packets).
fn assert_no_nonce_twice(wire: &[Vec<u8>]) -> usize {
    let mut seen: HashMap<(u32, u16), &[u8]> = HashMap::new();
    let mut again = 0;
    for datagram in wire {
        if let Some(before) = seen.insert(name_of(datagram), datagram) {
            assert_eq!(before, datagram, "one index, two ciphertexts");
            again += 1;
        }
    }
    again
}

/// RFC 4588 section 4: a retransmission has timestamp and marker of the packet it repeats, of frames of `packets`.
fn assert_on_one_timeline(world: &World, viewer: &Viewer, packets: u64) {
    let mut offsets = BTreeSet::new();
    for seen in &world.remotes[viewer.remote].seen {
        let payload = if seen.ssrc == viewer.rtx_ssrc { &seen.payload[2..] } else { &seen.payload[..] };
        let number = number_of(payload) - 60_000;
        offsets.insert(seen.timestamp.wrapping_sub((number / packets) as u32 * 3_000));
        assert_eq!(seen.marker, number % packets == packets - 1, "packet {number} of {}", seen.ssrc);
    }
    assert_eq!(offsets.len(), 1, "timestamps {offsets:?}");
}

#[test]
fn five_percent_loss_is_healed_by_retransmissions_and_by_plain_resends() {
    for rtx in [true, false] {
        let (mut world, mut source, track) = publishing(1);
        let mut viewers = vec![Viewer::new(&mut world, 0, track, rtx), Viewer::new(&mut world, 0, track, rtx)];
        world.connect();
        play(&mut world, &mut source, 2, 8, &mut viewers);
        world.remotes[viewers[0].remote].path_down = losing(5, 1);
        play(&mut world, &mut source, 900, 8, &mut viewers);
        settle(&mut world, &mut viewers);
        let missed = viewers[0].missed(&source);
        // With two answers per packet one in 8,000 is missing, and 7,216 were sent to each of these two viewers.
        assert!(missed == 0, "{missed} of {} are missing for good", 902 * 8);
        let answered = world.counter(CounterId::RtxFromReel);
        assert!((300..600).contains(&answered), "{answered} answers to 5 % of 7,200");
        // The other viewer saw nothing of it, and nobody asked the publisher.
        assert_eq!((viewers[1].missed(&source), viewers[1].copies, viewers[1].answers), (0, 0, 0));
        assert_eq!(world.remotes[viewers[1].remote].seen.len(), 902 * 8);
        assert!(world.remotes[source.remote].asked_again.is_empty(), "a viewer's loss went upstream");
        let again = assert_no_nonce_twice(world.remotes[viewers[0].remote].wire.as_ref().unwrap());
        assert_eq!(again, if rtx { 0 } else { answered as usize }, "plain resends are copies, retransmissions are not");
        assert_on_one_timeline(&world, &viewers[0], 8);
    }
}

#[test]
fn a_burst_of_three_hundred_is_healed_but_not_by_a_burst() {
    let (mut world, mut source, track) = publishing(1);
    let mut viewers = vec![Viewer::new(&mut world, 0, track, true)];
    world.connect();
    play(&mut world, &mut source, 300, 16, &mut viewers);
    // 0.6 s of it: within the window for which a reel keeps everything.
    let mut lost = 0;
    world.remotes[viewers[0].remote].path_down = Some(Box::new(move |_| {
        lost += 1;
        lost > 300
    }));
    let answered = world.counter(CounterId::RtxFromReel);
    play(&mut world, &mut source, 60, 16, &mut viewers);
    settle(&mut world, &mut viewers);
    assert_eq!(viewers[0].missed(&source), 0);
    let answered = world.counter(CounterId::RtxFromReel) - answered;
    assert!((300..=310).contains(&answered), "{answered}");
    let remote = &world.remotes[viewers[0].remote];
    let answers: Vec<_> = remote.of(viewers[0].rtx_ssrc).iter().map(|seen| seen.at).collect();
    let first_10_ms = answers.iter().filter(|at| at.since(answers[0]) < Duration::from_millis(10)).count();
    // 16 Mbit/s is 20 kB in 10 ms, and 10 kB may be ahead of it.
    assert!((15..=35).contains(&first_10_ms), "{first_10_ms} answers in 10 ms");
}

/// A publisher whose packets meet a bad road, and that sends again what it is asked for.
struct Sender {
    source: Source,
    /// 0: packets are resent as they were.
    rtx_ssrc: u32,
    rtx_index: u64,
    /// By sequence number: header, payload, datagram.
    kept: HashMap<u16, ([u8; 12], Vec<u8>, Vec<u8>)>,
    answered: usize,
    road: Road,
}

/// What becomes of a datagram, by a seed.
struct Road {
    rng: Rng,
    loss_percent: u64,
    copies_percent: u64,
    delay_ms_max: u64,
    /// So many of the next ones are lost, whatever the rest says.
    burst: usize,
    flying: BTreeMap<(u64, u64), Vec<u8>>,
    count: u64,
}

impl Road {
    fn good(seed: u64) -> Road {
        let (rng, flying) = (Rng::new(seed), BTreeMap::new());
        Road { rng, loss_percent: 0, copies_percent: 0, delay_ms_max: 0, burst: 0, flying, count: 0 }
    }

    fn put(&mut self, world: &World, datagram: Vec<u8>) {
        if self.burst > 0 {
            self.burst -= 1;
            return;
        }
        if self.rng.below(100) < self.loss_percent {
            return;
        }
        let copies = 1 + u64::from(self.rng.below(100) < self.copies_percent);
        for _ in 0..copies {
            self.count += 1;
            let delay = if self.delay_ms_max > 0 { self.rng.below(self.delay_ms_max + 1) } else { 0 };
            self.flying.insert((world.now.as_nanos() + delay * 1_000_000, self.count), datagram.clone());
        }
    }
}

impl Sender {
    /// Connected, with one VP8 track that negotiated NACK, and RTX if `rtx`.
    fn publishing(shards: usize, rtx: bool) -> (World, Sender, TrackId) {
        let mut world = World::new(shards);
        let publisher = world.add(0, Side::Publisher);
        let mut facts = TrackFacts::new(Codec::Vp8, 96, 77);
        facts.feedback.nack = true;
        // Its SSRC is learned: nobody names it.
        facts.rtx_payload_type = if rtx { 97 } else { 0 };
        let track = world.track_with(0, publisher, TrackId::NONE, facts);
        world.connect();
        (world, Sender::new(publisher, 77, if rtx { 78 } else { 0 }), track)
    }

    fn new(remote: usize, ssrc: u32, rtx_ssrc: u32) -> Sender {
        let source = Source::new(remote, ssrc);
        Sender { source, rtx_ssrc, rtx_index: 500, kept: HashMap::new(), answered: 0, road: Road::good(3) }
    }

    fn frame(&mut self, world: &World, packets: usize) {
        let source = &mut self.source;
        let keyframe = source.frame.is_multiple_of(source.frames_per_keyframe);
        for n in 0..packets {
            let mut payload = vec![0u8; 1_000];
            payload[0] = if n == 0 { 0x10 } else { 0x00 };
            payload[1] = u8::from(!(keyframe && n == 0));
            payload[8..16].copy_from_slice(&source.index.to_be_bytes());
            let mut header = [0; 12];
            write_header(&mut header, n + 1 == packets, 96, source.index as u16, source.timestamp, source.ssrc);
            let datagram = seal(world, source.remote, &header, &payload, source.index);
            self.kept.insert(source.index as u16, (header, payload, datagram.clone()));
            self.road.put(world, datagram);
            source.index += 1;
        }
        source.frame += 1;
        source.timestamp = source.timestamp.wrapping_add(3_000);
    }

    /// A millisecond: what is asked for goes out again, what flew arrives.
    fn turn(&mut self, world: &mut World) {
        let asked = world.remotes[self.source.remote].asked_again[self.answered..].to_vec();
        self.answered += asked.len();
        for (_, ssrc, sequence) in asked {
            assert_eq!(ssrc, self.source.ssrc);
            let (header, payload, datagram) = self.kept.get(&sequence).expect("asked for what was never sent").clone();
            if self.rtx_ssrc == 0 {
                self.road.put(world, datagram);
                continue;
            }
            let again = self.resend(world, &header, &[&sequence.to_be_bytes()[..], &payload].concat());
            self.road.put(world, again);
        }
        while let Some(entry) = self.road.flying.first_entry().filter(|entry| entry.key().0 <= world.now.as_nanos()) {
            let datagram = entry.remove();
            world.push(self.source.remote, datagram);
        }
    }

    /// A packet of the stream of retransmissions.
    fn resend(&mut self, world: &World, header: &[u8; 12], payload: &[u8]) -> Vec<u8> {
        let mut again = *header;
        again[1] = header[1] & 0x80 | 97;
        again[2..4].copy_from_slice(&(self.rtx_index as u16).to_be_bytes());
        again[8..12].copy_from_slice(&self.rtx_ssrc.to_be_bytes());
        self.rtx_index += 1;
        seal(world, self.source.remote, &again, payload, self.rtx_index - 1)
    }

    /// `frames` frames at 30 a second.
    fn play(&mut self, world: &mut World, frames: usize, packets: usize, viewers: &mut [Viewer]) {
        for _ in 0..frames {
            self.frame(world, packets);
            self.run(world, 33, viewers);
        }
    }

    fn run(&mut self, world: &mut World, ms: usize, viewers: &mut [Viewer]) {
        for step in 0..ms {
            self.turn(world);
            world.run(Duration::from_millis(1));
            if step % 10 == 9 {
                viewers.iter_mut().for_each(|viewer| viewer.turn(world));
            }
        }
    }
}

fn seal(world: &World, remote: usize, header: &[u8], payload: &[u8], index: u64) -> Vec<u8> {
    let mut out = vec![0; 1_100];
    let length = world.remotes[remote].client.seal_rtp(header, payload, index, &mut out).unwrap();
    out.truncate(length);
    out
}

/// What the last receiver report about `ssrc` says of losses.
fn losses_told(world: &World, remote: usize, ssrc: u32) -> u64 {
    let block = |compound: &Vec<u8>| {
        rtcp::packets(compound).find_map(|packet| match packet {
            rtcp::Rtcp::ReceiverReport { blocks, .. } => blocks.clone().find(|block| block.ssrc == ssrc),
            _ => None,
        })
    };
    let last = world.remotes[remote].compounds.iter().rev().find_map(block).expect("a report");
    u64::try_from(last.cumulative_lost).unwrap_or_default()
}

#[test]
fn what_a_publisher_loses_is_asked_for_and_forwarded_once_to_everybody() {
    for rtx in [true, false] {
        let (mut world, mut sender, track) = Sender::publishing(2, rtx);
        let mut viewers = vec![Viewer::new(&mut world, 0, track, true), Viewer::new(&mut world, 1, track, false)];
        world.connect();
        sender.play(&mut world, 2, 8, &mut viewers);
        sender.road.loss_percent = 5;
        sender.road.delay_ms_max = 3;
        sender.play(&mut world, 100, 8, &mut viewers);
        // In the middle of a picture, and of losses.
        viewers.push(Viewer::new(&mut world, 1, track, true));
        sender.play(&mut world, 300, 8, &mut viewers);
        sender.run(&mut world, 1_500, &mut viewers);
        let sent = sender.source.index - 60_000;
        for viewer in &viewers {
            let missed = viewer.missed(&sender.source);
            assert!(missed * 1_000 < 3 * sent, "{missed} of {sent} are missing for good");
            assert_eq!((viewer.copies, viewer.answers), (0, 0), "given twice");
            assert_eq!(assert_no_nonce_twice(world.remotes[viewer.remote].wire.as_ref().unwrap()), 0);
        }
        let recovered = world.counter(CounterId::PacketsRecovered);
        assert!((100..260).contains(&recovered), "{recovered} of 5 % of {sent}");
        let asked = world.counter(CounterId::NacksSent);
        assert_eq!(asked, world.remotes[sender.source.remote].asked_again.len() as u64);
        assert!(asked < 2 * recovered, "{asked} requests for {recovered}");
        // What came in a stream of its own was lost on the way all the same: the encoder must know. A copy of the packet
        // itself is that packet.
        let told = losses_told(&world, sender.source.remote, 77);
        let expected = if rtx { recovered * 9 / 10..=asked } else { 0..=recovered / 10 };
        assert!(expected.contains(&told), "{told} losses were reported, {recovered} came again");
        // Every request of a viewer came while the packet was not here; none of them went on.
        assert_eq!(world.counter(CounterId::RtxFromReel), 0);
        assert_eq!(world.counter(CounterId::PacketsRefusedUnknownSsrc), 0);
    }
}

#[test]
fn loss_both_ways_leaves_less_than_three_in_a_thousand() {
    let (mut world, mut sender, track) = Sender::publishing(1, true);
    let mut viewers = vec![Viewer::new(&mut world, 0, track, true), Viewer::new(&mut world, 0, track, false)];
    world.connect();
    sender.play(&mut world, 2, 8, &mut viewers);
    sender.road.loss_percent = 5;
    for (viewer, seed) in viewers.iter().zip([5, 6]) {
        world.remotes[viewer.remote].path_down = losing(5, seed);
    }
    sender.play(&mut world, 900, 8, &mut viewers);
    sender.road.loss_percent = 0;
    sender.run(&mut world, 1_500, &mut viewers);
    for viewer in &viewers {
        let missed = viewer.missed(&sender.source);
        assert!(missed * 1_000 < 3 * 902 * 8, "{missed} of {} are missing for good", 902 * 8);
        assert_no_nonce_twice(world.remotes[viewer.remote].wire.as_ref().unwrap());
    }
    assert!(world.counter(CounterId::RtxFromReel) > 500);
}

#[test]
fn reordered_and_doubled_packets_arrive_once_each() {
    let (mut world, mut sender, track) = Sender::publishing(2, true);
    let mut viewers = vec![Viewer::new(&mut world, 0, track, true), Viewer::new(&mut world, 1, track, true)];
    world.connect();
    sender.play(&mut world, 2, 8, &mut viewers);
    (sender.road.delay_ms_max, sender.road.copies_percent) = (50, 5);
    sender.play(&mut world, 300, 8, &mut viewers);
    sender.run(&mut world, 1_000, &mut viewers);
    for viewer in &viewers {
        assert_eq!(viewer.missed(&sender.source), 0);
        // What was late is forwarded once; the viewer's own requests may bring it again.
        assert_eq!(world.remotes[viewer.remote].of(viewer.ssrc).len() as u64, sender.source.index - 60_000);
        assert_eq!(assert_no_nonce_twice(world.remotes[viewer.remote].wire.as_ref().unwrap()), 0, "sent twice");
    }
    assert!(world.counter(CounterId::PacketsLate) > 500);
    assert!(world.counter(CounterId::PacketsRefusedReplay) > 50);
}

/// More comes late than one turn forwards, part of it where the feed has not been yet.
#[test]
fn a_feed_that_is_behind_meets_late_packets_once() {
    let (mut world, mut sender, track) = Sender::publishing(1, true);
    let viewer = Viewer::new(&mut world, 0, track, true);
    world.connect();
    sender.play(&mut world, 2, 8, &mut []);
    let push = |world: &World, sender: &mut Sender, index: u64| {
        let datagram = sender.kept[&(index as u16)].2.clone();
        sender.road.flying.insert((world.now.as_nanos(), index), datagram);
    };
    let frame = |world: &mut World, sender: &mut Sender, lost: &[u64]| -> u64 {
        let first = sender.source.index;
        sender.road.burst = 40;
        sender.frame(world, 40);
        (0..40).filter(|n| !lost.contains(n)).for_each(|n| push(world, sender, first + n));
        sender.run(world, 3, &mut []);
        first
    };
    let holes: Vec<u64> = (5..35).collect();
    let before = frame(&mut world, &mut sender, &holes);
    world.shards[0].parts().0.block(usize::MAX);
    let behind = frame(&mut world, &mut sender, &[3, 4, 5, 20]);
    holes.iter().for_each(|n| push(&world, &mut sender, before + n));
    [3, 4, 5, 20].iter().for_each(|n| push(&world, &mut sender, behind + n));
    sender.run(&mut world, 3, &mut []);
    world.shards[0].parts().0.block(0);
    sender.run(&mut world, 20, &mut []);
    let mut numbers: Vec<u64> =
        world.remotes[viewer.remote].of(viewer.ssrc).iter().map(|seen| number_of(&seen.payload)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (60_000..sender.source.index).collect::<Vec<u64>>());
    // A copy would be refused by the viewer's replay window: the wire tells.
    assert_eq!(assert_no_nonce_twice(world.remotes[viewer.remote].wire.as_ref().unwrap()), 0, "sent twice");
}

#[test]
fn a_publishers_burst_of_three_hundred_comes_back() {
    let (mut world, mut sender, track) = Sender::publishing(1, true);
    let mut viewers = vec![Viewer::new(&mut world, 0, track, true)];
    world.connect();
    sender.play(&mut world, 60, 16, &mut viewers);
    sender.road.burst = 300;
    sender.play(&mut world, 60, 16, &mut viewers);
    sender.run(&mut world, 500, &mut viewers);
    assert_eq!(viewers[0].missed(&sender.source), 0);
    let longest = world.remotes[sender.source.remote].asked_again.len();
    assert!((300..=310).contains(&longest), "{longest} requests for 300");
    // A leap of thousands is not asked for: a keyframe is.
    let (requests, asked) = (world.remotes[sender.source.remote].keyframe_requests, longest);
    sender.road.burst = 1_600;
    sender.play(&mut world, 110, 16, &mut viewers);
    assert_eq!(world.remotes[sender.source.remote].asked_again.len(), asked);
    assert!(world.remotes[sender.source.remote].keyframe_requests > requests);
}

#[test]
fn a_takeover_is_no_loss_and_who_did_not_negotiate_is_not_asked() {
    let (mut world, mut sender, track) = Sender::publishing(1, true);
    let mut viewers = vec![Viewer::new(&mut world, 0, track, true)];
    world.connect();
    sender.play(&mut world, 30, 8, &mut viewers);
    let second = world.add(0, Side::Publisher);
    world.connect();
    let mut facts = TrackFacts::new(Codec::Vp8, 96, 0);
    facts.feedback.nack = true;
    world.track_with(0, second, track, facts);
    let mut other = Sender::new(second, 1_234, 0);
    other.source.index = 3;
    other.play(&mut world, 30, 8, &mut viewers);
    assert_eq!(world.counter(CounterId::NacksSent), 0);
    // The same again with losses, by one that did not negotiate it.
    let third = world.add(0, Side::Publisher);
    world.connect();
    world.track(0, third, track, Codec::Vp8, 0);
    let mut deaf = Sender::new(third, 4_321, 0);
    deaf.road.loss_percent = 10;
    deaf.play(&mut world, 60, 8, &mut viewers);
    assert_eq!(world.counter(CounterId::NacksSent), 0);
}

#[test]
fn probes_in_the_stream_of_retransmissions_are_nobodys_packets() {
    let (mut world, mut sender, track) = Sender::publishing(1, true);
    let mut viewers = vec![Viewer::new(&mut world, 0, track, true)];
    world.connect();
    sender.play(&mut world, 10, 8, &mut viewers);
    let received = world.counter(CounterId::PacketsReceived);
    let newest = (sender.source.index - 1) as u16;
    let (header, payload, _) = sender.kept[&newest].clone();
    // Nothing; only a number; nothing but padding; a packet that came already.
    let mut padding = [0; 200];
    padding[199] = 200;
    let mut padded = header;
    padded[0] |= 0x20;
    for (header, payload) in [(header, &[][..]), (header, &newest.to_be_bytes()), (padded, &padding[..])] {
        let probe = sender.resend(&world, &header, payload);
        world.push(sender.source.remote, probe);
    }
    let copy = sender.resend(&world, &header, &[&newest.to_be_bytes()[..], &payload].concat());
    world.push(sender.source.remote, copy);
    world.run(Duration::from_millis(20));
    assert_eq!(world.counter(CounterId::PacketsReceived), received);
    assert_eq!(world.counter(CounterId::PacketsDuplicate), 1);
    assert_eq!(world.counter(CounterId::PacketsRefusedMalformed), 0);
    assert_eq!(world.counter(CounterId::PacketsRefusedUnknownSsrc), 0);
}

#[test]
fn who_asks_for_everything_gets_its_share_and_costs_nobody_else() {
    let (mut world, mut source, track) = publishing(1);
    let mut viewers = vec![Viewer::new(&mut world, 0, track, true), Viewer::new(&mut world, 0, track, true)];
    world.connect();
    play(&mut world, &mut source, 1, 8, &mut viewers);
    let everything: Vec<u16> = (0..=u16::MAX).collect();
    let bytes = |world: &World, remote: usize| -> u64 {
        world.remotes[remote].wire.as_ref().unwrap().iter().map(|datagram| datagram.len() as u64).sum()
    };
    let bad = viewers[0].remote;
    for frame in 0..300 {
        for datagram in source.frame(&world, 8) {
            world.push(source.remote, datagram);
        }
        for ms in 0..33 {
            // A thousand times a second, what there is to be asked for and what there is not.
            let newest = viewers[0].newest as u16;
            let around: Vec<u16> = (0..200).map(|back| newest.wrapping_add(5).wrapping_sub(back)).collect();
            viewers[0].ask(&mut world, &around);
            if frame % 100 == 0 && ms == 0 {
                viewers[0].ask(&mut world, &everything);
            }
            world.run(Duration::from_millis(1));
        }
        viewers[0].turn(&mut world);
        viewers[1].turn(&mut world);
    }
    let mut answers: HashMap<u16, usize> = HashMap::new();
    for seen in world.remotes[bad].of(viewers[0].rtx_ssrc) {
        *answers.entry(u16::from_be_bytes([seen.payload[0], seen.payload[1]])).or_default() += 1;
    }
    assert_eq!(answers.values().max(), Some(&2), "two answers per packet");
    let answered: u64 = world.remotes[bad].of(viewers[0].rtx_ssrc).len() as u64 * 1_031;
    let media = bytes(&world, bad) - answered;
    assert!(answered <= media * 15 / 100 + 64 * 1_024, "{answered} bytes of answers to {media} of media");
    assert!(answered * 100 > media * 14, "and it gets its share");
    assert!(world.counter(CounterId::RtxRefusedBudget) > 100_000);
    // The other one: every packet, none twice; and nothing went upstream.
    assert_eq!((viewers[1].missed(&source), viewers[1].copies, viewers[1].answers), (0, 0, 0));
    assert!(world.remotes[source.remote].asked_again.is_empty());
    assert_no_nonce_twice(world.remotes[bad].wire.as_ref().unwrap());
}

#[test]
fn one_tick_looks_at_so_many_numbers_of_one_viewer() {
    let (mut world, mut source, track) = publishing(1);
    let mut viewers = vec![Viewer::new(&mut world, 0, track, true)];
    world.connect();
    play(&mut world, &mut source, 30, 8, &mut viewers);
    let (looked, refused) = (world.counter(CounterId::NacksReceived), world.counter(CounterId::RtxRefusedBudget));
    let everything: Vec<u16> = (0..=u16::MAX).collect();
    viewers[0].ask(&mut world, &everything);
    world.shards[0].tick();
    assert_eq!(world.counter(CounterId::NacksReceived) - looked, 1_024);
    assert!(world.counter(CounterId::RtxRefusedBudget) - refused > 300, "a count per request that was not read");
}

#[test]
fn what_was_not_sent_yet_is_not_answered() {
    let (mut world, mut source, track) = publishing(1);
    source.frames_per_keyframe = 1_000;
    let mut viewers = vec![Viewer::new(&mut world, 0, track, true)];
    world.connect();
    play(&mut world, &mut source, 5, 8, &mut viewers);
    let newest = viewers[0].newest as u16;
    let ahead: Vec<u16> = (1..200).map(|ahead| newest.wrapping_add(ahead)).collect();
    viewers[0].ask(&mut world, &ahead);
    // Packets that the reel has by then, and the feed has not.
    let (io, _) = world.shards[0].parts();
    io.block(1_000);
    for datagram in source.frame(&world, 8) {
        world.push(source.remote, datagram);
    }
    world.run(Duration::from_millis(1));
    viewers[0].ask(&mut world, &ahead);
    world.run(Duration::from_millis(5));
    let (io, _) = world.shards[0].parts();
    io.block(0);
    play(&mut world, &mut source, 5, 8, &mut viewers);
    assert_eq!(world.counter(CounterId::RtxFromReel), 0);
    assert_eq!(world.counter(CounterId::RtxNotInReel), 2 * 199);
    assert_eq!((viewers[0].missed(&source), viewers[0].copies), (0, 0));
}

#[test]
fn back_pressure_loses_no_answer_and_uses_no_index_twice() {
    let (mut world, mut source, track) = publishing(1);
    let mut viewers = vec![Viewer::new(&mut world, 0, track, true), Viewer::new(&mut world, 0, track, false)];
    world.connect();
    play(&mut world, &mut source, 30, 8, &mut viewers);
    for (viewer, seed) in viewers.iter().zip([7, 8]) {
        world.remotes[viewer.remote].path_down = losing(10, seed);
    }
    for frame in 0..150 {
        let (io, _) = world.shards[0].parts();
        if frame % 2 == 0 { io.block(5) } else { io.run_dry(4) }
        play(&mut world, &mut source, 1, 8, &mut viewers);
    }
    settle(&mut world, &mut viewers);
    assert!(world.counter(CounterId::RtxFromReel) > 200);
    for viewer in &viewers {
        let missed = viewer.missed(&source);
        assert!(missed * 1_000 < 10 * 180 * 8, "{missed} missing at 10 % loss");
        assert_no_nonce_twice(world.remotes[viewer.remote].wire.as_ref().unwrap());
    }
}

#[test]
fn healing_allocates_nothing() {
    let (mut world, mut sender, track) = Sender::publishing(1, true);
    let mut viewers: Vec<Viewer> = (0..10).map(|n| Viewer::new(&mut world, 0, track, n % 2 == 0)).collect();
    world.connect();
    sender.road.loss_percent = 10;
    sender.play(&mut world, 60, 8, &mut viewers);
    let answered = world.counter(CounterId::RtxFromReel);
    let (recovered, asked) = (world.counter(CounterId::PacketsRecovered), world.counter(CounterId::NacksSent));
    world.shards[0].parts().0.discard_sent();
    let mut allocations = 0;
    for step in 0..300u64 {
        // What was lost comes back three steps later, under its own number.
        if step % 3 == 0 {
            sender.frame(&world, 8);
        }
        let newest = sender.source.index;
        for back in [30, 31, 33] {
            let (header, payload, _) = sender.kept[&((newest - back) as u16)].clone();
            let again = sender.resend(&world, &header, &[&header[2..4], &payload].concat());
            world.push(sender.source.remote, again);
        }
        while let Some((_, datagram)) = sender.road.flying.pop_first() {
            world.push(sender.source.remote, datagram);
        }
        for viewer in &viewers {
            let sequence = viewer.newest.wrapping_add(newest - 60_000 - 480) as u16;
            viewer.ask(&mut world, &[sequence.wrapping_sub(5), sequence.wrapping_sub(3)]);
        }
        let shard = &mut world.shards[0];
        shard.parts().0.advance(Duration::from_millis(11));
        allocations += allocations_in(|| while shard.tick() {});
    }
    assert_eq!(allocations, 0);
    assert!(world.counter(CounterId::RtxFromReel) > answered + 300, "the ticks did their work");
    assert!(world.counter(CounterId::PacketsRecovered) > recovered + 30);
    assert!(world.counter(CounterId::NacksSent) > asked + 30);
}

//! Goal: what the network loses comes back, to the one who lost it, at a bounded price, and nobody else notices.
//! Method: a whole engine over `Sim` in virtual time; the paths of chosen remotes lose datagrams by a seed, viewers
//! ask again as RFC 4585 has it, and every ciphertext on the wire is kept and compared.

use super::world::{Source, World, number_of};
use spillway_proto::id::{Codec, Side, TrackId};
use spillway_proto::link::command::FeedFacts;
use spillway_proto::link::counters::CounterId;
use spillway_proto::rng::Rng;
use spillway_proto::wire::rtcp;
use std::collections::{BTreeSet, HashMap};
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
        assert!(missed * 1_000 < 3 * 902 * 8, "{missed} of {} are missing for good", 902 * 8);
        let answered = world.counter(CounterId::RtxFromReel);
        assert!((300..600).contains(&answered), "{answered} answers to 5 % of 7,200");
        // The other viewer saw nothing of it, and nobody asked the publisher.
        assert_eq!((viewers[1].missed(&source), viewers[1].copies, viewers[1].answers), (0, 0, 0));
        assert_eq!(world.remotes[viewers[1].remote].seen.len(), 902 * 8);
        assert!(world.remotes[source.remote].asked_again.is_empty(), "a viewer's loss went upstream");
        let again = assert_no_nonce_twice(world.remotes[viewers[0].remote].wire.as_ref().unwrap());
        assert_eq!(again, if rtx { 0 } else { answered as usize }, "plain resends are copies, retransmissions are not");
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

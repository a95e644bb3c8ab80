//! Goal: parameter sets that stood only in SDP go before each keyframe, for viewers of now and for those who join; an
//! AV1 picture is entered where its dependency descriptor says, and viewers that negotiated descriptors get them, on every
//! way a packet takes to them.
//! Method: a whole engine over `Sim`, packets made by hand, byte for byte what viewers get.

use super::world::World;
use spillway_proto::id::{Codec, Side, TrackId};
use spillway_proto::link::command::{Answer, Command, Extensions, FeedFacts, TrackFacts};
use spillway_proto::wire::rtcp;
use spillway_proto::wire::rtp::write_header;
use spillway_proto::wire::rtp_ext::elements;
use std::collections::BTreeMap;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SSRC: u32 = 77;

struct Stage {
    world: World,
    publisher: usize,
    track: TrackId,
    codec: Codec,
    index: u64,
    timestamp: u32,
}

impl Stage {
    fn new(codec: Codec, extensions: Extensions) -> Stage {
        let mut world = World::new(1);
        let publisher = world.add(0, Side::Publisher);
        let facts = TrackFacts { extensions, ..TrackFacts::new(codec, 96, SSRC) };
        let track = world.track_with(0, publisher, TrackId::NONE, facts);
        world.connect();
        Stage { world, publisher, track, codec, index: 65_530, timestamp: 9 }
    }

    /// A picture of these payloads, each with its extension element of id 12, if it has one.
    fn picture(&mut self, packets: &[(&[u8], &[u8])]) {
        for (n, (element, payload)) in packets.iter().enumerate() {
            let mut header = vec![0; 12];
            let marker = n + 1 == packets.len();
            write_header(header.first_chunk_mut().unwrap(), marker, 96, self.index as u16, self.timestamp, SSRC);
            if !element.is_empty() {
                // Two-byte form (RFC 8285 section 4.3).
                header[0] |= 0x10;
                let mut block = vec![12, element.len() as u8];
                block.extend_from_slice(element);
                block.resize(block.len().next_multiple_of(4), 0);
                header.extend([0x10, 0, 0, (block.len() / 4) as u8]);
                header.extend(block);
            }
            let mut out = vec![0; 400];
            let client = &mut self.world.remotes[self.publisher].client;
            let length = client.seal_rtp(&header, payload, self.index, &mut out).unwrap();
            out.truncate(length);
            self.world.push(self.publisher, out);
            self.index += 1;
        }
        self.timestamp += 3_000;
        self.world.run(33 * MS);
    }

    fn join(&mut self) -> (usize, u32) {
        let (viewer, ssrc, _) = self.join_with(0, 0);
        (viewer, ssrc)
    }

    /// A viewer that takes descriptors under `descriptor` and retransmissions with payload type `rtx`; 0: not.
    fn join_with(&mut self, descriptor: u8, rtx: u8) -> (usize, u32, u32) {
        let viewer = self.world.add(0, Side::Viewer);
        let mut facts = FeedFacts::default();
        facts.payload_types[self.codec as usize] = 102;
        facts.rtx_payload_types[self.codec as usize] = rtx;
        facts.extensions.dependency_descriptor = descriptor;
        let (_, ssrc, rtx_ssrc) = self.world.feed_with(0, viewer, self.track, facts);
        self.world.connect();
        (viewer, ssrc, rtx_ssrc)
    }

    /// The descriptors of an SSRC's packets, by the original's sequence number, and the profile they came in.
    fn descriptors(&self, viewer: usize, ssrc: u32, id: u8) -> BTreeMap<u16, (u16, Vec<u8>)> {
        let seen = self.world.remotes[viewer].of(ssrc);
        let told = seen.into_iter().filter_map(|seen| {
            let (profile, block) = seen.extension.as_ref()?;
            let all: Vec<_> = elements(*profile, block).collect();
            assert!(all.len() == 1 && all[0].0 == id, "one element, under the viewer's own id: {all:?}");
            let is_rtx = seen.payload_type != 102;
            let number = if is_rtx { u16::from_be_bytes([seen.payload[0], seen.payload[1]]) } else { seen.sequence };
            Some((number, (*profile, all[0].1.to_vec())))
        });
        told.collect()
    }

    /// What a viewer got, each sequence number once and none missing.
    fn payloads(&self, (viewer, ssrc): (usize, u32)) -> Vec<Vec<u8>> {
        let mut seen = self.world.remotes[viewer].of(ssrc);
        seen.dedup_by_key(|seen| seen.sequence);
        assert!(seen.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)), "a hole");
        seen.into_iter().map(|seen| seen.payload.clone()).collect()
    }
}

/// Two keyframes of two packets, inter pictures between and behind; the sets, and the keyframe's packets.
fn sets_go_before_keyframes(codec: Codec, listed: &[u8], packed: &[u8], key: [&[u8]; 2], inter: &[u8]) {
    let mut stage = Stage::new(codec, Extensions::default());
    let command = Command::SetParameterSets { track: stage.track, sets: listed.to_vec() };
    assert_eq!(stage.world.done(0, &command), Answer::Nothing);
    let early = stage.join();
    let gop = |stage: &mut Stage| {
        stage.picture(&[(&[], key[0]), (&[], key[1])]);
        (0..20).for_each(|_| stage.picture(&[(&[], inter)]));
    };
    gop(&mut stage);
    gop(&mut stage);
    let late = stage.join();
    (0..40).for_each(|_| stage.picture(&[(&[], inter)]));
    let of_gop = [&[packed, key[0], key[1]][..], &[inter; 20]].concat();
    assert_eq!(stage.payloads(early)[..2 * of_gop.len()], [&of_gop[..], &of_gop].concat());
    assert_eq!(stage.payloads(late)[..of_gop.len()], of_gop, "who joins begins with them");
}

#[test]
fn h264_parameter_sets_of_the_description_go_before_each_keyframe() {
    let (listed, packed) = ([0, 3, 0x67, 0x42, 0xC0, 0, 2, 0x68, 0xCE], [0x78, 0, 3, 0x67, 0x42, 0xC0, 0, 2, 0x68, 0xCE]);
    let key: [&[u8]; 2] = [&[0x7C, 0x85, 0x88, 1], &[0x7C, 0x45, 2]];
    sets_go_before_keyframes(Codec::H264, &listed, &packed, key, &[0x41, 0x9A, 3]);
}

#[test]
fn h265_parameter_sets_of_the_description_go_before_each_keyframe() {
    let listed = [0, 3, 0x40, 1, 0x0C, 0, 3, 0x42, 1, 1, 0, 3, 0x44, 1, 0xC0];
    let packed = [&[0x60, 1][..], &listed].concat();
    let key: [&[u8]; 2] = [&[0x62, 1, 0x95, 0xAF, 1], &[0x62, 1, 0x55, 2]];
    sets_go_before_keyframes(Codec::H265, &listed, &packed, key, &[0x02, 1, 0xD0, 3]);
}

/// Template 0 refers to nothing, 1 to the picture before.
fn key_descriptor() -> Vec<u8> {
    // Start and end, template 0; the structure: two templates of layer (0, 0), one target, one reference of 1.
    let bits = "11000000_0000000000000001_10000_000000_00000_00_11_10_11_0_1_0000_0_0_0";
    let bits: Vec<u8> = bits.bytes().filter(|bit| *bit != b'_').map(|bit| bit - b'0').collect();
    bits.chunks(8).map(|byte| (0..8).fold(0, |b, at| b << 1 | byte.get(at).unwrap_or(&0))).collect()
}

fn numbered(descriptor: &[u8], number: u16) -> Vec<u8> {
    let mut descriptor = descriptor.to_vec();
    descriptor[1..3].copy_from_slice(&number.to_be_bytes());
    descriptor
}

/// A keyframe's descriptor, as long as one with resolutions and chains: too long for the one-byte form.
fn long_descriptor() -> Vec<u8> {
    let mut key = key_descriptor();
    key.resize(70, 0);
    key
}

/// Two packets a picture; their descriptors by the publisher's number. Returns the next picture's number.
fn described(stage: &mut Stage, numbers: std::ops::Range<u16>, keyframe: bool) -> u16 {
    for number in numbers.clone() {
        let key = keyframe && number == numbers.start;
        let first = if key { long_descriptor() } else { vec![0b1000_0001, 0, 0] };
        let first = numbered(&first, number);
        let last = numbered(&[if key { 0b0100_0000 } else { 0b0100_0001 }, 0, 0], number);
        let (begin, end) = ([0x50u8, 0xEE, number as u8], [0x90u8, 0xEE, number as u8]);
        stage.picture(&[(&first, &begin), (&last, &end)]);
    }
    numbers.end
}

#[test]
fn descriptors_reach_who_negotiated_them_live_replayed_late_and_sent_again() {
    let mut stage = Stage::new(Codec::Av1, Extensions { dependency_descriptor: 12, ..Extensions::default() });
    let (early, early_ssrc, _) = stage.join_with(9, 0);
    let (plain, plain_ssrc, _) = stage.join_with(0, 0);
    let next = described(&mut stage, 1..30, true);
    // An id that only the two-byte form can carry.
    let (late, late_ssrc, rtx_ssrc) = stage.join_with(20, 103);
    // One overtakes another.
    stage.index += 1;
    let next = described(&mut stage, next..next + 1, false);
    (stage.index, stage.timestamp) = (stage.index - 3, stage.timestamp - 3_000);
    stage.picture(&[(&numbered(&[0b1000_0001, 0, 0], 500), &[0x50, 0xEE, 99])]);
    stage.index += 2;
    described(&mut stage, next..next + 30, false);
    let of_early = stage.descriptors(early, early_ssrc, 9);
    let of_late = stage.descriptors(late, late_ssrc, 20);
    assert_eq!((of_early.len(), of_late.len()), (2 * 60 + 1, 2 * 60 + 1), "each packet has one");
    assert!(stage.world.remotes[plain].of(plain_ssrc).iter().all(|seen| seen.extension.is_none()), "nobody asked");
    assert!(of_late.values().all(|(profile, _)| *profile == 0x1000));
    let first = of_early.values().find(|(_, bytes)| bytes.len() > 3).unwrap();
    assert_eq!(first, &(0x1000, long_descriptor()), "byte for byte");
    assert!(of_early.values().all(|(profile, bytes)| (*profile == 0xBEDE) == (bytes.len() == 3)));
    let bytes = |told: &BTreeMap<u16, (u16, Vec<u8>)>| told.values().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>();
    assert_eq!(bytes(&of_early), bytes(&of_late));
    assert!(bytes(&of_early).contains(&numbered(&[0b1000_0001, 0, 0], 500)), "the late one");

    // What is sent again has it too, in a stream of its own or as it was.
    let ask = |stage: &mut Stage, viewer: usize, ssrc: u32, lost: &[u16]| {
        let mut plain = [0; 128];
        let mut length = rtcp::write_rr(&mut plain, 1, &[]).unwrap();
        length += rtcp::write_nack(&mut plain[length..], 1, ssrc, lost).unwrap();
        let mut out = vec![0; 256];
        let sealed = stage.world.remotes[viewer].client.seal_rtcp(&plain[..length], &mut out).unwrap();
        out.truncate(sealed);
        stage.world.push(viewer, out);
        stage.world.run(5 * MS);
    };
    let lost: Vec<u16> = of_late.keys().copied().take(3).collect();
    ask(&mut stage, late, late_ssrc, &lost);
    let again = stage.descriptors(late, rtx_ssrc, 20);
    assert_eq!(again, of_late.iter().filter(|(number, _)| lost.contains(number)).map(|(n, told)| (*n, told.clone())).collect());
    let lost = *of_early.iter().find(|(_, (_, bytes))| bytes.len() > 3).unwrap().0;
    stage.world.remotes[early].wire = Some(Vec::new());
    ask(&mut stage, early, early_ssrc, &[lost]);
    let wire = stage.world.remotes[early].wire.take().unwrap();
    let again = wire.iter().find(|datagram| datagram[2..4] == lost.to_be_bytes()).expect("sent again as it was");
    assert_eq!(again[0], 0x90);
    assert_eq!(again[12..14], [0x10, 0x00]);
    assert_eq!(again[18..18 + 70], long_descriptor());
}

/// Chromium drops a keyframe whose frame number is before the last keyframe's.
#[test]
fn frame_numbers_go_on_over_a_takeover() {
    let mut stage = Stage::new(Codec::Av1, Extensions { dependency_descriptor: 12, ..Extensions::default() });
    let (viewer, ssrc, _) = stage.join_with(9, 0);
    described(&mut stage, 5_000..5_030, true);
    let second = stage.world.add(0, Side::Publisher);
    stage.world.connect();
    let extensions = Extensions { dependency_descriptor: 12, ..Extensions::default() };
    let facts = TrackFacts { extensions, ..TrackFacts::new(Codec::Av1, 96, SSRC) };
    stage.world.track_with(0, second, stage.track, facts);
    (stage.publisher, stage.index) = (second, 300);
    described(&mut stage, 1..30, true);
    let told = stage.descriptors(viewer, ssrc, 9);
    let numbers: Vec<u16> = told.values().map(|(_, bytes)| u16::from_be_bytes([bytes[1], bytes[2]])).collect();
    assert_eq!(numbers.len(), 2 * (30 + 29));
    assert_eq!((numbers[0], numbers[59], numbers[60]), (5_000, 5_029, 5_029 + 256));
    assert!(numbers.windows(2).all(|pair| pair[0] <= pair[1]), "{numbers:?}");
    let second: Vec<_> = told.values().skip(60).map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(second[0], numbered(&long_descriptor(), 5_285), "the rest is the publisher's");
}

/// The payloads are encrypted from end to end: only the descriptor knows.
#[test]
fn an_encrypted_av1_picture_is_entered_by_its_descriptor() {
    let mut stage = Stage::new(Codec::Av1, Extensions { dependency_descriptor: 12, ..Extensions::default() });
    let (key, inter) = (key_descriptor(), [0b1100_0001, 0, 2]);
    let (secret_key, secret) = ([0x50u8, 0xEE, 1], [0x50u8, 0xEE, 2]);
    stage.picture(&[(&inter, &secret)]);
    stage.picture(&[(&key, &secret_key)]);
    (0..20).for_each(|_| stage.picture(&[(&inter, &secret)]));
    let late = stage.join();
    (0..40).for_each(|_| stage.picture(&[(&inter, &secret)]));
    let got = stage.payloads(late);
    assert!(got.len() > 20 && got[0] == secret_key && got[1..].iter().all(|payload| *payload == secret), "{got:?}");
}

//! Goal: parameter sets that stood only in SDP go before each keyframe, for viewers of now and for those who join; an
//! AV1 picture is entered where its dependency descriptor says.
//! Method: a whole engine over `Sim`, packets made by hand, byte for byte what viewers get.

use super::world::World;
use spillway_proto::id::{Codec, Side, TrackId};
use spillway_proto::link::command::{Answer, Command, Extensions, FeedFacts, TrackFacts};
use spillway_proto::wire::rtp::write_header;
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
        let viewer = self.world.add(0, Side::Viewer);
        let mut facts = FeedFacts::default();
        facts.payload_types[self.codec as usize] = 102;
        let (_, ssrc, _) = self.world.feed_with(0, viewer, self.track, facts);
        self.world.connect();
        (viewer, ssrc)
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

/// The payloads are encrypted from end to end: only the descriptor knows. Template 0 refers to nothing, 1 to the
/// picture before.
#[test]
fn an_encrypted_av1_picture_is_entered_by_its_descriptor() {
    let mut stage = Stage::new(Codec::Av1, Extensions { dependency_descriptor: 12, ..Extensions::default() });
    // Start and end, template 0; the structure: two templates of layer (0, 0), one target, one reference of 1.
    let bits = "11000000_0000000000000001_10000_000000_00000_00_11_10_11_0_1_0000_0_0_0";
    let bits: Vec<u8> = bits.bytes().filter(|bit| *bit != b'_').map(|bit| bit - b'0').collect();
    let key: Vec<u8> = bits.chunks(8).map(|byte| (0..8).fold(0, |b, at| b << 1 | byte.get(at).unwrap_or(&0))).collect();
    let inter = [0b1100_0001, 0, 2];
    let (secret_key, secret) = ([0x50u8, 0xEE, 1], [0x50u8, 0xEE, 2]);
    stage.picture(&[(&inter, &secret)]);
    stage.picture(&[(&key, &secret_key)]);
    (0..20).for_each(|_| stage.picture(&[(&inter, &secret)]));
    let late = stage.join();
    (0..40).for_each(|_| stage.picture(&[(&inter, &secret)]));
    let got = stage.payloads(late);
    assert!(got.len() > 20 && got[0] == secret_key && got[1..].iter().all(|payload| *payload == secret), "{got:?}");
}

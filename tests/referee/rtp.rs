//! `wire::rtp` and `wire::rtp_ext` against crate `rtp`.

use bytes::Bytes;
use rtp::header::{EXTENSION_PROFILE_ONE_BYTE, EXTENSION_PROFILE_TWO_BYTE, Header};
use spillway_proto::rng::Rng;
use spillway_proto::wire::rtp::{Rtp, parse_header, write_header};
use spillway_proto::wire::rtp_ext::elements;
use webrtc_util::marshal::{Marshal, MarshalSize, Unmarshal};

const ROUNDS: usize = 20_000;

fn bytes(rng: &mut Rng, length_max: u64) -> Bytes {
    let mut bytes = vec![0; rng.below(length_max + 1) as usize];
    rng.fill(&mut bytes);
    bytes.into()
}

fn packet(rng: &mut Rng) -> rtp::packet::Packet {
    let mut header = Header {
        version: 2,
        marker: rng.below(2) == 1,
        payload_type: rng.below(128) as u8,
        sequence_number: rng.next_u32() as u16,
        timestamp: rng.next_u32(),
        ssrc: rng.next_u32(),
        csrc: (0..rng.below(16)).map(|_| rng.next_u32()).collect(),
        ..Header::default()
    };
    let form = rng.below(3);
    if form > 0 {
        header.extension = true;
        header.extension_profile = if form == 1 { EXTENSION_PROFILE_ONE_BYTE } else { EXTENSION_PROFILE_TWO_BYTE };
        let first = 1 + rng.below(5) as u8;
        for id in first..first + 1 + rng.below(6) as u8 {
            // The one-byte form has no empty values and at most 16 bytes.
            let mut value = bytes(rng, if form == 1 { 16 } else { 60 });
            if form == 1 && value.is_empty() {
                value = Bytes::from_static(&[7]);
            }
            header.set_extension(id, value).unwrap();
        }
    }
    rtp::packet::Packet { header, payload: bytes(rng, 1_200) }
}

#[test]
fn packets_of_theirs_read_as_they_meant_them() {
    let mut rng = Rng::new(1);
    for round in 0..ROUNDS {
        let theirs = packet(&mut rng);
        let mut datagram = theirs.marshal().unwrap().to_vec();
        // Their builder pads by itself only for lengths of its own choice: padding is put on here.
        let padding = if rng.below(3) == 0 { 1 + rng.below(255) as usize } else { 0 };
        if padding > 0 {
            datagram[0] |= 0x20;
            datagram.resize(datagram.len() + padding, 0);
            *datagram.last_mut().unwrap() = padding as u8;
        }

        let ours = Rtp::parse(&datagram).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let header = &theirs.header;
        assert_eq!(
            (ours.marker, ours.payload_type, ours.sequence, ours.timestamp, ours.ssrc),
            (header.marker, header.payload_type, header.sequence_number, header.timestamp, header.ssrc)
        );
        assert_eq!(ours.header_len, header.marshal_size());
        assert_eq!((ours.payload, ours.padding_len), (&theirs.payload[..], padding));
        let expected: Vec<(u8, Bytes)> = header.extensions.iter().map(|e| (e.id, e.payload.clone())).collect();
        let found: Vec<(u8, Bytes)> = ours.extension.map_or(Vec::new(), |(profile, block)| {
            elements(profile, block).map(|(id, value)| (id, Bytes::copy_from_slice(value))).collect()
        });
        assert_eq!(found, expected, "round {round}");

        // And they read the padded packet as we do.
        let back = rtp::packet::Packet::unmarshal(&mut &datagram[..]).unwrap();
        assert_eq!(&back.payload[..], ours.payload, "round {round}");
        let facts = parse_header(&datagram).unwrap();
        assert_eq!((facts.header_len, facts.padding), (ours.header_len, padding > 0));
        assert_eq!(facts.extension.map(|e| (e.profile, &datagram[e.start..facts.header_len])), ours.extension);
    }
}

#[test]
fn headers_of_ours_are_read_by_them() {
    let mut rng = Rng::new(2);
    for _ in 0..ROUNDS {
        let (marker, payload_type) = (rng.below(2) == 1, rng.below(128) as u8);
        let (sequence, timestamp, ssrc) = (rng.next_u32() as u16, rng.next_u32(), rng.next_u32());
        let mut out = [0xFF; 12];
        write_header(&mut out, marker, payload_type, sequence, timestamp, ssrc);
        let theirs = Header::unmarshal(&mut &out[..]).unwrap();
        let expected = Header { version: 2, marker, payload_type, sequence_number: sequence, timestamp, ssrc, ..Header::default() };
        assert_eq!(theirs, expected);
    }
}

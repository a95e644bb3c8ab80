//! RTP: the parts of a packet add up to it, and what is written again is read the same. Payloads: facts of any
//! bytes and of every codec, and a descriptor that ends inside its payload.

use spillway_proto::id::Codec;
use spillway_proto::wire::payload::{facts, vp8};
use spillway_proto::wire::rtp::{RTP_HEADER_BYTES, Rtp, parse_header, write_header};
use spillway_proto::wire::rtp_ext::elements;

/// The bytes as they are, and once more as version 2, which one byte of four is.
pub fn rtp(bytes: &[u8]) {
    read(bytes);
    if let Some(first) = bytes.first().filter(|first| **first >> 6 != 2) {
        let mut repaired = bytes.to_vec();
        repaired[0] = first & 0x3F | 0x80;
        read(&repaired);
    }
    payloads(bytes);
}

fn read(packet: &[u8]) {
    let header = parse_header(packet);
    let Ok(rtp) = Rtp::parse(packet) else { return };
    let header = header.expect("a packet that is read has a header that is read");
    assert_eq!(rtp.header_len + rtp.payload.len() + rtp.padding_len, packet.len());
    assert_eq!(
        (rtp.marker, rtp.payload_type, rtp.sequence, rtp.timestamp, rtp.ssrc, rtp.header_len),
        (header.marker, header.payload_type, header.sequence, header.timestamp, header.ssrc, header.header_len)
    );
    assert_eq!(rtp.padding_len > 0, header.padding);
    assert_eq!(rtp.payload.as_ptr(), packet[rtp.header_len..].as_ptr());
    if let Some((profile, block)) = rtp.extension {
        let extension = header.extension.expect("the header says so, too");
        assert_eq!((extension.profile, extension.start + block.len()), (profile, header.header_len));
        let mut taken = 0;
        for (id, value) in elements(profile, block) {
            assert!(id != 0, "padding is no element");
            taken += 1 + value.len();
            assert!(block.as_ptr_range().contains(&value.as_ptr()) || value.is_empty());
        }
        assert!(taken <= block.len());
        // Any profile and any end of the block.
        for other in [0xBEDE, 0x1000, 0x100F] {
            let count = elements(other, &block[..block.len() / 2]).count();
            assert!(count <= block.len());
        }
    }
    // As a feed sends it: our header, the same payload, no padding.
    let mut fixed = [0; RTP_HEADER_BYTES];
    write_header(&mut fixed, rtp.marker, rtp.payload_type, rtp.sequence, rtp.timestamp, rtp.ssrc);
    let mut again = fixed.to_vec();
    again.extend_from_slice(rtp.payload);
    let second = Rtp::parse(&again).expect("our own header is read");
    let expected = Rtp { header_len: RTP_HEADER_BYTES, extension: None, padding_len: 0, ..rtp };
    assert_eq!(second, expected);
    payloads(rtp.payload);
}

fn payloads(payload: &[u8]) {
    for codec in (0..=u8::MAX).filter_map(Codec::from_u8) {
        let whole = facts(codec, payload);
        assert_eq!(whole, facts(codec, payload));
        assert!(codec != Codec::Opus || whole == Default::default(), "audio has no pictures");
    }
    if let Some(descriptor) = vp8::Descriptor::parse(payload) {
        assert!((1..=6).contains(&descriptor.length) && descriptor.length <= payload.len());
        // It is whole with its own bytes, and not with one fewer.
        assert_eq!(vp8::Descriptor::parse(&payload[..descriptor.length]), Some(descriptor));
        assert_eq!(vp8::Descriptor::parse(&payload[..descriptor.length - 1]), None);
    }
}

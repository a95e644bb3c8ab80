//! The RTP header (RFC 3550 section 5.1), read by borrowing and written by hand.
//!
//! ```text
//!  0                   1                   2                   3
//!  |V=2|P|X|  CC   |M|     PT      |       sequence number         |
//!  |                           timestamp                           |
//!  |                             SSRC                              |
//!  |                 CSRC (CC times), extension                    |
//! ```
//!
//! Never looks into the payload, and never trusts a length it has not checked.

/// Length of the fixed header, the only one we write.
pub const RTP_HEADER_BYTES: usize = 12;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RtpError {
    #[error("shorter than the RTP header it claims to have; count and drop it")]
    Short,
    #[error("RTP version is not 2; count and drop it")]
    Version,
    #[error("RTP padding is zero or longer than the payload; count and drop it")]
    Padding,
}

/// The header's facts, without a look at what follows it: right for encrypted packets too.
/// Keeps no borrow, so that the packet can be opened in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RtpHeader {
    pub marker: bool,
    /// The P bit. How long the padding is stands in the last byte, which may be encrypted.
    pub padding: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    /// Up to the payload: with CSRCs and the extension.
    pub header_len: usize,
    pub extension: Option<RtpExtension>,
}

/// Where the extension's block stands: from `start` to the end of the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RtpExtension {
    pub profile: u16,
    pub start: usize,
}

pub fn parse_header(packet: &[u8]) -> Result<RtpHeader, RtpError> {
    let fixed: &[u8; RTP_HEADER_BYTES] = packet.first_chunk().ok_or(RtpError::Short)?;
    let [b0, b1, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *fixed;
    if b0 >> 6 != 2 {
        return Err(RtpError::Version);
    }
    let mut header_len = RTP_HEADER_BYTES + 4 * usize::from(b0 & 0x0F);
    let mut extension = None;
    if b0 & 0x10 != 0 {
        let head: &[u8; 4] = packet.get(header_len..).and_then(<[u8]>::first_chunk).ok_or(RtpError::Short)?;
        let start = header_len + 4;
        extension = Some(RtpExtension { profile: u16::from_be_bytes([head[0], head[1]]), start });
        header_len = start + 4 * usize::from(u16::from_be_bytes([head[2], head[3]]));
    }
    if header_len > packet.len() {
        return Err(RtpError::Short);
    }
    Ok(RtpHeader {
        marker: b1 & 0x80 != 0,
        padding: b0 & 0x20 != 0,
        payload_type: b1 & 0x7F,
        sequence: u16::from_be_bytes([s0, s1]),
        timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
        ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
        header_len,
        extension,
    })
}

/// A whole plaintext packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rtp<'a> {
    pub marker: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub header_len: usize,
    /// Profile and block, for `rtp_ext::elements`.
    pub extension: Option<(u16, &'a [u8])>,
    /// Without the padding; empty for a packet of nothing but padding.
    pub payload: &'a [u8],
    pub padding_len: usize,
}

impl<'a> Rtp<'a> {
    pub fn parse(packet: &'a [u8]) -> Result<Rtp<'a>, RtpError> {
        let header = parse_header(packet)?;
        let body = packet.get(header.header_len..).ok_or(RtpError::Short)?;
        let mut padding_len = 0;
        if header.padding {
            // The last byte counts itself (RFC 3550 section 5.1).
            padding_len = usize::from(*body.last().ok_or(RtpError::Padding)?);
            if padding_len == 0 {
                return Err(RtpError::Padding);
            }
        }
        let payload_len = body.len().checked_sub(padding_len).ok_or(RtpError::Padding)?;
        let extension = header
            .extension
            .and_then(|extension| Some((extension.profile, packet.get(extension.start..header.header_len)?)));
        Ok(Rtp {
            marker: header.marker,
            payload_type: header.payload_type,
            sequence: header.sequence,
            timestamp: header.timestamp,
            ssrc: header.ssrc,
            header_len: header.header_len,
            extension,
            payload: body.get(..payload_len).ok_or(RtpError::Padding)?,
            padding_len,
        })
    }
}

/// A header without padding, CSRCs and extension.
pub fn write_header(
    out: &mut [u8; RTP_HEADER_BYTES],
    marker: bool,
    payload_type: u8,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
) {
    out[0] = 0x80;
    out[1] = u8::from(marker) << 7 | payload_type & 0x7F;
    out[2..4].copy_from_slice(&sequence.to_be_bytes());
    out[4..8].copy_from_slice(&timestamp.to_be_bytes());
    out[8..12].copy_from_slice(&ssrc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    /// Two CSRCs, an extension of two words, three bytes of payload, two of padding.
    const FULL: &[u8] = b"\xb2\xe0\x12\x34\x00\x00\x00\x07\xde\xad\xbe\xef\
        \x00\x00\x00\x01\x00\x00\x00\x02\xbe\xde\x00\x02\x10\xaa\x21\xbb\xcc\x00\x00\x00\
        abc\x00\x02";

    #[test]
    fn every_part_is_found() {
        let rtp = Rtp::parse(FULL).unwrap();
        assert!(rtp.marker);
        assert_eq!((rtp.payload_type, rtp.sequence, rtp.timestamp, rtp.ssrc), (96, 0x1234, 7, 0xDEAD_BEEF));
        assert_eq!(rtp.header_len, 12 + 8 + 4 + 8);
        assert_eq!(rtp.extension, Some((0xBEDE, &b"\x10\xaa\x21\xbb\xcc\x00\x00\x00"[..])));
        assert_eq!((rtp.payload, rtp.padding_len), (&b"abc"[..], 2));

        let header = parse_header(FULL).unwrap();
        assert!(header.padding && header.marker);
        assert_eq!((header.header_len, header.ssrc, header.sequence), (32, 0xDEAD_BEEF, 0x1234));
        assert_eq!(header.extension, Some(RtpExtension { profile: 0xBEDE, start: 24 }));
    }

    #[test]
    fn the_written_header_is_read_back() {
        let mut out = [0xFF; 12];
        write_header(&mut out, true, 111, 65_535, u32::MAX, 5);
        let rtp = Rtp::parse(&out).unwrap();
        assert!(rtp.marker && rtp.payload.is_empty() && rtp.extension.is_none());
        assert_eq!((rtp.payload_type, rtp.sequence, rtp.timestamp, rtp.ssrc), (111, 65_535, u32::MAX, 5));
        write_header(&mut out, false, 0x80 | 96, 1, 2, 3);
        assert!(!Rtp::parse(&out).unwrap().marker, "a payload type has seven bits");
    }

    #[test]
    fn padding_is_checked_from_both_sides() {
        let mut packet = FULL.to_vec();
        let last = packet.len() - 1;
        packet[last] = 5;
        assert_eq!(Rtp::parse(&packet).unwrap().payload, b"", "nothing but padding");
        packet[last] = 6;
        assert_eq!(Rtp::parse(&packet), Err(RtpError::Padding));
        packet[last] = 0;
        assert_eq!(Rtp::parse(&packet), Err(RtpError::Padding));
        assert_eq!(Rtp::parse(&packet[..32]), Err(RtpError::Padding), "a P bit and no byte to say how much");
        assert!(parse_header(&packet[..32]).is_ok(), "the header does not look at padding");
    }

    #[test]
    fn csrcs_and_extension_stay_inside_the_packet() {
        for length in 0..32 {
            assert_eq!(parse_header(&FULL[..length]), Err(RtpError::Short), "{length} bytes");
        }
        let mut packet = FULL.to_vec();
        packet[22] = 0xFF;
        assert_eq!(Rtp::parse(&packet), Err(RtpError::Short));
        packet[0] = 0x40;
        assert_eq!(Rtp::parse(&packet), Err(RtpError::Version));
    }

    #[test]
    fn damaged_packets_never_panic() {
        torture(&[FULL, b"\x80\x60\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01payload"], |packet| {
            if let Ok(rtp) = Rtp::parse(packet) {
                assert_eq!(rtp.header_len + rtp.payload.len() + rtp.padding_len, packet.len());
                let header = parse_header(packet).unwrap();
                assert_eq!((header.header_len, header.padding), (rtp.header_len, rtp.padding_len > 0));
            }
        });
    }
}

//! Tells by its first bytes which protocol a datagram belongs to. Looks at nothing else, decides nothing else.

/// The protocols that share the one port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    Stun,
    Dtls,
    Rtp,
    Rtcp,
    /// No protocol of ours, or too short to be one.
    Unknown,
}

/// Header of a STUN message (RFC 8489 section 5).
const STUN_HEADER: usize = 20;
/// Header of a DTLS record (RFC 6347 section 4.1).
const DTLS_HEADER: usize = 13;
/// Fixed header of RTP (RFC 3550 section 5.1).
const RTP_HEADER: usize = 12;
/// The shortest SRTCP head that names its sender (RFC 3550 section 6.4).
const RTCP_HEADER: usize = 8;

/// RFC 7983 section 7 by the first byte; RTP and RTCP on one port by the second (RFC 5761 section 4).
pub fn classify(datagram: &[u8]) -> Class {
    let [first, second, ..] = *datagram else {
        return Class::Unknown;
    };
    let (class, shortest) = match first {
        0..=3 => (Class::Stun, STUN_HEADER),
        20..=63 => (Class::Dtls, DTLS_HEADER),
        128..=191 => match second & 0x7F {
            64..=95 => (Class::Rtcp, RTCP_HEADER),
            _ => (Class::Rtp, RTP_HEADER),
        },
        _ => return Class::Unknown,
    };
    if datagram.len() < shortest { Class::Unknown } else { class }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(first: u8, second: u8, length: usize) -> Class {
        let mut datagram = vec![0; length];
        datagram[0] = first;
        datagram[1] = second;
        classify(&datagram)
    }

    #[test]
    fn every_first_byte_has_its_class() {
        for first in 0..=255_u8 {
            let expected = match first {
                0..=3 => Class::Stun,
                20..=63 => Class::Dtls,
                128..=191 => Class::Rtp,
                _ => Class::Unknown,
            };
            assert_eq!(with(first, 0, 100), expected, "first byte {first}");
        }
    }

    #[test]
    fn rtcp_is_told_by_the_payload_type_with_or_without_marker() {
        for second in 0..=255_u8 {
            let expected = if (64..=95).contains(&(second & 0x7F)) { Class::Rtcp } else { Class::Rtp };
            assert_eq!(with(0x80, second, 100), expected, "second byte {second}");
        }
        assert_eq!(with(0x80, 200, 100), Class::Rtcp, "a sender report");
        assert_eq!(with(0x80, 0x80 | 111, 100), Class::Rtp, "Opus with a marker");
    }

    #[test]
    fn what_is_too_short_is_unknown() {
        for (first, second, shortest, class) in [
            (0, 1, 20, Class::Stun),
            (22, 0, 13, Class::Dtls),
            (0x80, 96, 12, Class::Rtp),
            (0x80, 201, 8, Class::Rtcp),
        ] {
            assert_eq!(with(first, second, shortest), class);
            assert_eq!(with(first, second, shortest - 1), Class::Unknown);
        }
        assert_eq!(classify(&[]), Class::Unknown);
        assert_eq!(classify(&[0x80]), Class::Unknown);
    }
}

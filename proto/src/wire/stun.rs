//! STUN as ICE uses it: binding requests and their success responses, read by borrowing and written in place.
//!
//! Owns the byte layout, MESSAGE-INTEGRITY and FINGERPRINT; decides nothing about sessions or pairs.
//! By hand because lenient clients must be read: ffmpeg's requests have no PRIORITY and no
//! ICE-CONTROLLING, which `is::stun` refuses.

use aws_lc_rs::{constant_time, hmac};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const HEADER: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;

// RFC 8489 section 18.3 and RFC 8445 section 20.1.
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLING: u16 = 0x802A;

const INTEGRITY: usize = 20;
const FAMILY_IPV4: u8 = 1;
const FAMILY_IPV6: u8 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StunError {
    #[error("not a STUN message: the header or its magic cookie is missing; count and drop it")]
    NotStun,
    #[error("the STUN length field does not match the datagram; count and drop it")]
    Length,
    #[error("a STUN attribute runs past the end of its message; count and drop it")]
    AttributeLength,
    #[error("a known STUN attribute has a value of the wrong shape; count and drop it")]
    AttributeValue,
    #[error("FINGERPRINT does not match the message, or is not its last attribute; count and drop it")]
    Fingerprint,
    #[error("a binding request without USERNAME names no session; count and drop it")]
    NoUsername,
    #[error("a binding success without XOR-MAPPED-ADDRESS says nothing; count and drop it")]
    NoMappedAddress,
}

#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    Request(BindingRequest<'a>),
    Success(BindingSuccess<'a>),
    /// Indications, error responses and other methods: sound, but nothing here answers them.
    Other,
}

#[derive(Clone, Copy, Debug)]
pub struct BindingRequest<'a> {
    pub transaction: [u8; 12],
    pub use_candidate: bool,
    /// Missing in ffmpeg's requests.
    pub priority: Option<u32>,
    username: &'a str,
    signed: Signed<'a>,
}

impl<'a> BindingRequest<'a> {
    pub fn username(&self) -> &'a str {
        self.username
    }
    /// The receiver's ufrag: USERNAME up to the colon (RFC 8445 section 7.2.2).
    pub fn local_ufrag(&self) -> &'a str {
        self.username.split_once(':').map_or(self.username, |(local, _)| local)
    }
    /// The sender's ufrag; empty where USERNAME has no colon.
    pub fn remote_ufrag(&self) -> &'a str {
        self.username.split_once(':').map_or("", |(_, remote)| remote)
    }
    /// True when MESSAGE-INTEGRITY is there and was made with this password.
    #[must_use]
    pub fn verify(&self, pwd: &[u8]) -> bool {
        self.signed.verify(pwd)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct BindingSuccess<'a> {
    pub transaction: [u8; 12],
    /// Where the request came from, as the responder saw it.
    pub mapped: SocketAddr,
    signed: Signed<'a>,
}

impl BindingSuccess<'_> {
    /// True when MESSAGE-INTEGRITY is there and was made with this password.
    #[must_use]
    pub fn verify(&self, pwd: &[u8]) -> bool {
        self.signed.verify(pwd)
    }
}

/// What MESSAGE-INTEGRITY covers, and its value.
#[derive(Clone, Copy, Debug)]
struct Signed<'a> {
    /// From the header up to the attribute, without it.
    covered: &'a [u8],
    /// Empty when the attribute is missing.
    integrity: &'a [u8],
}

impl Signed<'_> {
    fn verify(&self, pwd: &[u8]) -> bool {
        if self.integrity.len() != INTEGRITY {
            return false;
        }
        integrity_of(self.covered, pwd)
            .is_some_and(|tag| constant_time::verify_slices_are_equal(tag.as_ref(), self.integrity).is_ok())
    }
}

/// HMAC-SHA1 over the message, whose length field reads as if MESSAGE-INTEGRITY were its last attribute
/// (RFC 8489 section 14.5).
fn integrity_of(covered: &[u8], pwd: &[u8]) -> Option<hmac::Tag> {
    let kind = covered.get(..2)?;
    let rest = covered.get(4..)?;
    let length = u16::try_from(covered.len().checked_sub(HEADER)? + 4 + INTEGRITY).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, pwd);
    let mut context = hmac::Context::with_key(&key);
    context.update(kind);
    context.update(&length.to_be_bytes());
    context.update(rest);
    Some(context.sign())
}

/// Reads one datagram. Unknown attributes are passed over, required or not: nothing a peer could ask for
/// with them would change what an ICE-lite agent answers. Of a repeated attribute the first counts
/// (RFC 8489 section 14).
pub fn parse(datagram: &[u8]) -> Result<Message<'_>, StunError> {
    let header: &[u8; HEADER] = datagram.first_chunk().ok_or(StunError::NotStun)?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    if kind & 0xC000 != 0 || header[4..8] != COOKIE {
        return Err(StunError::NotStun);
    }
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if length % 4 != 0 || HEADER + length != datagram.len() {
        return Err(StunError::Length);
    }
    let mut transaction = [0; 12];
    transaction.copy_from_slice(&header[8..]);

    let mut found = Attributes::default();
    let mut at = HEADER;
    // Every turn takes at least the four bytes of an attribute's head.
    while at < datagram.len() {
        let rest = datagram.get(at..).ok_or(StunError::AttributeLength)?;
        let [t0, t1, l0, l1, ..] = *rest else {
            return Err(StunError::AttributeLength);
        };
        let value_length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = rest.get(4..4 + value_length).ok_or(StunError::AttributeLength)?;
        found.take(u16::from_be_bytes([t0, t1]), value, datagram, at)?;
        at += 4 + value_length.next_multiple_of(4);
    }

    let signed = Signed { covered: found.covered.unwrap_or_default(), integrity: found.integrity };
    Ok(match kind {
        BINDING_REQUEST => Message::Request(BindingRequest {
            transaction,
            use_candidate: found.use_candidate,
            priority: found.priority,
            username: found.username.ok_or(StunError::NoUsername)?,
            signed,
        }),
        BINDING_SUCCESS => Message::Success(BindingSuccess {
            transaction,
            mapped: mapped_address(found.mapped.ok_or(StunError::NoMappedAddress)?, &transaction)?,
            signed,
        }),
        _ => Message::Other,
    })
}

#[derive(Default)]
struct Attributes<'a> {
    username: Option<&'a str>,
    priority: Option<u32>,
    use_candidate: bool,
    mapped: Option<&'a [u8]>,
    /// Set once MESSAGE-INTEGRITY was seen.
    covered: Option<&'a [u8]>,
    integrity: &'a [u8],
}

impl<'a> Attributes<'a> {
    fn take(&mut self, kind: u16, value: &'a [u8], datagram: &'a [u8], at: usize) -> Result<(), StunError> {
        if kind == FINGERPRINT {
            // RFC 8489 section 14.7: the last attribute, over all that stands before it.
            let expected = crc32(datagram.get(..at).unwrap_or_default()) ^ FINGERPRINT_XOR;
            let last = at + 8 == datagram.len();
            return if last && *value == expected.to_be_bytes() { Ok(()) } else { Err(StunError::Fingerprint) };
        }
        // RFC 8489 section 14.5: what follows MESSAGE-INTEGRITY is not covered by it, so it does not count.
        if self.covered.is_some() {
            return Ok(());
        }
        match kind {
            USERNAME if self.username.is_none() => {
                self.username = Some(std::str::from_utf8(value).map_err(|_| StunError::AttributeValue)?);
            }
            PRIORITY if self.priority.is_none() => {
                let bytes: [u8; 4] = value.try_into().map_err(|_| StunError::AttributeValue)?;
                self.priority = Some(u32::from_be_bytes(bytes));
            }
            USE_CANDIDATE => self.use_candidate = true,
            XOR_MAPPED_ADDRESS if self.mapped.is_none() => self.mapped = Some(value),
            MESSAGE_INTEGRITY => {
                if value.len() != INTEGRITY {
                    return Err(StunError::AttributeValue);
                }
                self.covered = datagram.get(..at);
                self.integrity = value;
            }
            _ => {}
        }
        Ok(())
    }
}

/// RFC 8489 section 14.2.
#[allow(clippy::indexing_slicing, reason = "arrays of known length")]
fn mapped_address(value: &[u8], transaction: &[u8; 12]) -> Result<SocketAddr, StunError> {
    let [_, family, p0, p1, address @ ..] = value else {
        return Err(StunError::AttributeValue);
    };
    let port = u16::from_be_bytes([p0 ^ COOKIE[0], p1 ^ COOKIE[1]]);
    let mask = mask(transaction);
    let ip = match *family {
        FAMILY_IPV4 => {
            let bytes: [u8; 4] = address.try_into().map_err(|_| StunError::AttributeValue)?;
            IpAddr::V4(Ipv4Addr::from(std::array::from_fn(|i| bytes[i] ^ mask[i])))
        }
        FAMILY_IPV6 => {
            let bytes: [u8; 16] = address.try_into().map_err(|_| StunError::AttributeValue)?;
            IpAddr::V6(Ipv6Addr::from(std::array::from_fn(|i| bytes[i] ^ mask[i])))
        }
        _ => return Err(StunError::AttributeValue),
    };
    Ok(SocketAddr::new(ip, port))
}

/// What addresses are XORed with: the cookie, then the transaction.
fn mask(transaction: &[u8; 12]) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&COOKIE);
    mask[4..].copy_from_slice(transaction);
    mask
}

/// A success response: XOR-MAPPED-ADDRESS, MESSAGE-INTEGRITY, FINGERPRINT; at most 76 bytes.
/// None: `out` is too small.
#[allow(clippy::indexing_slicing, reason = "an array of our own; the lengths are 8 and 20")]
pub fn write_success(out: &mut [u8], transaction: &[u8; 12], remote: SocketAddr, pwd: &[u8]) -> Option<usize> {
    let mut writer = Writer::new(out, BINDING_SUCCESS, transaction)?;
    let port = remote.port().to_be_bytes();
    let mask = mask(transaction);
    let mut value = [0; 20];
    value[2] = port[0] ^ COOKIE[0];
    value[3] = port[1] ^ COOKIE[1];
    // A dual-stack socket shows IPv4 peers as ::ffff:a.b.c.d; they know themselves by the four bytes.
    let length = match remote.ip().to_canonical() {
        IpAddr::V4(ip) => {
            value[1] = FAMILY_IPV4;
            for (to, (byte, mask)) in value[4..].iter_mut().zip(ip.octets().iter().zip(mask)) {
                *to = byte ^ mask;
            }
            8
        }
        IpAddr::V6(ip) => {
            value[1] = FAMILY_IPV6;
            for (to, (byte, mask)) in value[4..].iter_mut().zip(ip.octets().iter().zip(mask)) {
                *to = byte ^ mask;
            }
            20
        }
    };
    writer.attribute(XOR_MAPPED_ADDRESS, &value[..length])?;
    writer.finish(pwd)
}

/// A check of a controlling agent (RFC 8445 section 7.2.2). None: `out` is too small.
pub fn write_request(
    out: &mut [u8],
    transaction: &[u8; 12],
    username: &str,
    pwd: &[u8],
    priority: u32,
    tie_breaker: u64,
    use_candidate: bool,
) -> Option<usize> {
    let mut writer = Writer::new(out, BINDING_REQUEST, transaction)?;
    writer.attribute(USERNAME, username.as_bytes())?;
    writer.attribute(PRIORITY, &priority.to_be_bytes())?;
    writer.attribute(ICE_CONTROLLING, &tie_breaker.to_be_bytes())?;
    if use_candidate {
        writer.attribute(USE_CANDIDATE, &[])?;
    }
    writer.finish(pwd)
}

struct Writer<'a> {
    out: &'a mut [u8],
    length: usize,
}

#[allow(clippy::indexing_slicing, reason = "within what `get_mut` has just lent")]
impl<'a> Writer<'a> {
    fn new(out: &'a mut [u8], kind: u16, transaction: &[u8; 12]) -> Option<Writer<'a>> {
        let header = out.get_mut(..HEADER)?;
        header[..2].copy_from_slice(&kind.to_be_bytes());
        header[2..4].fill(0);
        header[4..8].copy_from_slice(&COOKIE);
        header[8..].copy_from_slice(transaction);
        Some(Writer { out, length: HEADER })
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> Option<()> {
        let length = u16::try_from(value.len()).ok()?;
        let padded = value.len().next_multiple_of(4);
        let room = self.out.get_mut(self.length..self.length + 4 + padded)?;
        room[..2].copy_from_slice(&kind.to_be_bytes());
        room[2..4].copy_from_slice(&length.to_be_bytes());
        room[4..4 + value.len()].copy_from_slice(value);
        room[4 + value.len()..].fill(0);
        self.length += 4 + padded;
        Some(())
    }

    /// The header's length field as if `more` bytes followed.
    fn set_length(&mut self, more: usize) -> Option<()> {
        let length = u16::try_from(self.length - HEADER + more).ok()?;
        self.out.get_mut(2..4)?.copy_from_slice(&length.to_be_bytes());
        Some(())
    }

    fn finish(mut self, pwd: &[u8]) -> Option<usize> {
        let tag = integrity_of(self.out.get(..self.length)?, pwd)?;
        self.attribute(MESSAGE_INTEGRITY, tag.as_ref())?;
        self.set_length(8)?;
        let fingerprint = crc32(self.out.get(..self.length)?) ^ FINGERPRINT_XOR;
        self.attribute(FINGERPRINT, &fingerprint.to_be_bytes())?;
        Some(self.length)
    }
}

/// "STUN", so that a CRC of another protocol in the same place does not pass (RFC 8489 section 14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// CRC-32 of ITU V.42, a byte at a time: a check has about 100 of them.
#[allow(clippy::indexing_slicing, reason = "a byte indexes 256 entries")]
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

#[allow(clippy::indexing_slicing, reason = "computed at compile time")]
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    /// RFC 5769 section 2.1: a request with PRIORITY, ICE-CONTROLLED, USERNAME (padded with spaces),
    /// MESSAGE-INTEGRITY and FINGERPRINT.
    const SAMPLE_REQUEST: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\
        \x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\x00\x06\x00\x09evtj:h6vY\x20\x20\x20\
        \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\
        \x80\x28\x00\x04\xe5\x7a\x3b\xcf";
    /// RFC 5769 section 2.2: the response to it, for 192.0.2.1:32853.
    const SAMPLE_SUCCESS: &[u8] = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x0btest vector\x20\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
        \x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
        \x80\x28\x00\x04\xc0\x7d\x4c\x96";
    const SAMPLE_PWD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
    const TRANSACTION: [u8; 12] = *b"spillway-01!";

    fn request(datagram: &[u8]) -> BindingRequest<'_> {
        match parse(datagram) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }
    fn success(datagram: &[u8]) -> BindingSuccess<'_> {
        match parse(datagram) {
            Ok(Message::Success(success)) => success,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_sample_request_of_rfc_5769_is_read_and_verified() {
        let request = request(SAMPLE_REQUEST);
        assert_eq!(request.username(), "evtj:h6vY");
        assert_eq!((request.local_ufrag(), request.remote_ufrag()), ("evtj", "h6vY"));
        assert_eq!(request.priority, Some(0x6E00_01FF));
        assert!(!request.use_candidate);
        assert!(request.verify(SAMPLE_PWD));
        assert!(!request.verify(b"VOkJxbRl1RmTxUk/WvJxBu"));
    }

    #[test]
    fn the_sample_response_of_rfc_5769_is_read_and_verified() {
        let success = success(SAMPLE_SUCCESS);
        assert_eq!(success.mapped, "192.0.2.1:32853".parse().unwrap());
        assert_eq!(success.transaction[..], SAMPLE_SUCCESS[8..20]);
        assert!(success.verify(SAMPLE_PWD) && !success.verify(b""));
    }

    #[test]
    fn a_written_request_is_read_back() {
        let mut out = [0xAA; 256];
        let length = write_request(&mut out, &TRANSACTION, "us:themlong", b"secret", 7, 99, true).unwrap();
        let read = request(&out[..length]);
        assert_eq!(read.transaction, TRANSACTION);
        assert_eq!((read.local_ufrag(), read.remote_ufrag()), ("us", "themlong"));
        assert_eq!((read.priority, read.use_candidate), (Some(7), true));
        assert!(read.verify(b"secret") && !read.verify(b"other"));
        let length = write_request(&mut out, &TRANSACTION, "us:them", b"secret", 7, 99, false).unwrap();
        assert!(!request(&out[..length]).use_candidate);
        for short in 0..length {
            assert_eq!(write_request(&mut out[..short], &TRANSACTION, "us:them", b"secret", 7, 99, false), None);
        }
    }

    #[test]
    fn a_written_response_is_read_back_for_every_kind_of_address() {
        for (remote, mapped) in [
            ("192.0.2.1:32853", "192.0.2.1:32853"),
            ("[2001:db8:1234::7]:443", "[2001:db8:1234::7]:443"),
            // A dual-stack socket's spelling of IPv4.
            ("[::ffff:10.1.2.3]:9", "10.1.2.3:9"),
        ] {
            let mut out = [0xAA; 76];
            let length = write_success(&mut out, &TRANSACTION, remote.parse().unwrap(), b"pwd").unwrap();
            let read = success(&out[..length]);
            assert_eq!(read.mapped, mapped.parse().unwrap());
            assert_eq!(read.transaction, TRANSACTION);
            assert!(read.verify(b"pwd") && !read.verify(b"pwe"));
            assert_eq!(write_success(&mut out[..length - 1], &TRANSACTION, remote.parse().unwrap(), b"pwd"), None);
        }
    }

    /// The message with its attributes in the given order, finished with integrity and fingerprint.
    fn request_of(attributes: &[(u16, &[u8])], pwd: &[u8]) -> Vec<u8> {
        let mut out = [0; 512];
        let mut writer = Writer::new(&mut out, BINDING_REQUEST, &TRANSACTION).unwrap();
        for (kind, value) in attributes {
            writer.attribute(*kind, value).unwrap();
        }
        let length = writer.finish(pwd).unwrap();
        out[..length].to_vec()
    }

    #[test]
    fn the_request_of_ffmpeg_without_priority_and_role_is_taken() {
        let datagram = request_of(&[(USERNAME, b"us:ffmpeg"), (USE_CANDIDATE, b"")], b"pwd");
        let read = request(&datagram);
        assert_eq!((read.use_candidate, read.priority), (true, None));
        assert!(read.verify(b"pwd"));
    }

    /// The message as a client without FINGERPRINT sends it.
    fn without_fingerprint(datagram: &[u8]) -> Vec<u8> {
        let mut without = datagram[..datagram.len() - 8].to_vec();
        let length = (without.len() - HEADER) as u16;
        without[2..4].copy_from_slice(&length.to_be_bytes());
        without
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let datagram = request_of(&[(USERNAME, b"us:them"), (PRIORITY, &[0, 0, 0, 1])], b"pwd");
        let bare = without_fingerprint(&datagram);
        for at in 0..bare.len() {
            for bit in 0..8 {
                let mut damaged = datagram.clone();
                damaged[at] ^= 1 << bit;
                assert!(parse(&damaged).is_err(), "fingerprint: byte {at} bit {bit}");
                let mut damaged = bare.clone();
                damaged[at] ^= 1 << bit;
                match parse(&damaged) {
                    Ok(Message::Request(request)) => assert!(!request.verify(b"pwd"), "byte {at} bit {bit}"),
                    Ok(Message::Success(_)) => panic!("byte {at} bit {bit}"),
                    Ok(Message::Other) | Err(_) => {}
                }
            }
        }
    }

    #[test]
    fn a_wrong_fingerprint_is_an_error_and_a_missing_one_is_not() {
        let datagram = request_of(&[(USERNAME, b"us:them")], b"pwd");
        let mut wrong = datagram.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(parse(&wrong).err(), Some(StunError::Fingerprint));

        let mut without = without_fingerprint(&datagram);
        assert!(request(&without).verify(b"pwd"), "FINGERPRINT is optional");

        without.truncate(without.len() - 24);
        let length = (without.len() - HEADER) as u16;
        without[2..4].copy_from_slice(&length.to_be_bytes());
        assert!(!request(&without).verify(b"pwd"), "no MESSAGE-INTEGRITY: nothing to trust");
    }

    #[test]
    fn attributes_after_the_integrity_do_not_count() {
        // USE-CANDIDATE appended by somebody on the way, with a fingerprint that fits.
        let mut out = [0; 256];
        let mut writer = Writer::new(&mut out, BINDING_REQUEST, &TRANSACTION).unwrap();
        writer.attribute(USERNAME, b"us:them").unwrap();
        let tag = integrity_of(&writer.out[..writer.length], b"pwd").unwrap();
        writer.attribute(MESSAGE_INTEGRITY, tag.as_ref()).unwrap();
        writer.attribute(USE_CANDIDATE, &[]).unwrap();
        writer.set_length(8).unwrap();
        let fingerprint = crc32(&writer.out[..writer.length]) ^ FINGERPRINT_XOR;
        writer.attribute(FINGERPRINT, &fingerprint.to_be_bytes()).unwrap();
        let length = writer.length;
        let read = request(&out[..length]);
        assert!(read.verify(b"pwd") && !read.use_candidate);
    }

    #[test]
    fn what_is_no_binding_is_other_and_what_is_broken_has_a_reason() {
        let mut indication = SAMPLE_REQUEST.to_vec();
        indication[1] = 0x11;
        indication.truncate(HEADER);
        indication[2..4].fill(0);
        assert!(matches!(parse(&indication), Ok(Message::Other)));
        indication[1] = 0x01;
        assert_eq!(parse(&indication).err(), Some(StunError::NoUsername));
        indication[..2].copy_from_slice(&BINDING_SUCCESS.to_be_bytes());
        assert_eq!(parse(&indication).err(), Some(StunError::NoMappedAddress));
        indication[4] = 0;
        assert_eq!(parse(&indication).err(), Some(StunError::NotStun));
        assert_eq!(parse(&SAMPLE_REQUEST[..40]).err(), Some(StunError::Length));
        let mut long = request_of(&[(USERNAME, b"us:them")], b"pwd");
        long[23] = 0xFF;
        assert_eq!(parse(&long).err(), Some(StunError::AttributeLength));
    }

    #[test]
    fn damaged_messages_never_panic() {
        torture(&[SAMPLE_REQUEST, SAMPLE_SUCCESS], |datagram| match parse(datagram) {
            Ok(Message::Request(request)) => {
                let _ = (request.local_ufrag(), request.remote_ufrag(), request.verify(SAMPLE_PWD));
            }
            Ok(Message::Success(success)) => {
                let _ = success.verify(SAMPLE_PWD);
            }
            Ok(Message::Other) | Err(_) => {}
        });
    }
}

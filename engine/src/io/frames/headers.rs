//! The headers in front of a datagram that is sent as a frame: Ethernet, IPv4 or IPv6, UDP. Pure.

use super::super::Path;
use std::net::IpAddr;

pub const ETHERNET: usize = 14;
const UDP: usize = 8;
/// The longest: Ethernet, IPv6, UDP.
pub const HEADERS_MAX: usize = ETHERNET + 40 + UDP;
const TIME_TO_LIVE: u8 = 64;
const PROTOCOL_UDP: u8 = 17;
/// Of the UDP header: where its checksum stands.
pub const CHECKSUM_OFFSET: usize = 6;

/// What all frames of a path begin with, but for what differs from one to the next.
#[derive(Clone, Copy)]
pub struct Headers {
    bytes: [u8; HEADERS_MAX],
    /// Of Ethernet and IP: where UDP begins.
    udp: u8,
    /// Of the addresses and the protocol.
    pseudo: u64,
}

impl Headers {
    /// None for a path between families.
    pub fn new(path: &Path, source: [u8; 6]) -> Option<Headers> {
        let mut bytes = [0; HEADERS_MAX];
        bytes[6..12].copy_from_slice(&source);
        let (udp, addresses) = match (path.local.ip(), path.remote.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                bytes[12..14].copy_from_slice(&[0x08, 0x00]);
                // Version 4, five words, no fragment: but it may be made into some on the way, as the sockets' datagrams may.
                bytes[14] = 0x45;
                (bytes[22], bytes[23]) = (TIME_TO_LIVE, PROTOCOL_UDP);
                bytes[26..30].copy_from_slice(&local.octets());
                bytes[30..34].copy_from_slice(&remote.octets());
                (34, 26..34)
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                bytes[12..14].copy_from_slice(&[0x86, 0xDD]);
                bytes[14] = 0x60;
                (bytes[20], bytes[21]) = (PROTOCOL_UDP, TIME_TO_LIVE);
                bytes[22..38].copy_from_slice(&local.octets());
                bytes[38..54].copy_from_slice(&remote.octets());
                (54, 22..54)
            }
            _ => return None,
        };
        let pseudo = sum(&bytes[addresses]) + sum(&[0, PROTOCOL_UDP]);
        bytes[udp..udp + 2].copy_from_slice(&path.local.port().to_be_bytes());
        bytes[udp + 2..udp + 4].copy_from_slice(&path.remote.port().to_be_bytes());
        Some(Headers { bytes, udp: udp as u8, pseudo })
    }

    pub fn length(&self) -> usize {
        usize::from(self.udp) + UDP
    }
    /// Of IP and UDP: what counts against an MTU beside the payload.
    pub fn length_in_mtu(&self) -> usize {
        self.length() - ETHERNET
    }
    /// Where the UDP header begins.
    pub fn udp(&self) -> usize {
        usize::from(self.udp)
    }

    /// Fills `front`, which stands before `payload` bytes, and is `length()` long; false where it is not, or that is more than a datagram
    /// has. The UDP checksum is left to the device: its field holds the pseudo header's sum, as the kernel's own datagrams have it there.
    pub fn write(&self, front: &mut [u8], hop: [u8; 6], payload: usize, identification: u16) -> bool {
        let (udp, start) = (self.udp(), self.length());
        let Some(udp_length) = u16::try_from(UDP + payload).ok().filter(|_| front.len() == start && self.length_in_mtu() + payload <= usize::from(u16::MAX)) else {
            return false;
        };
        let udp_length = udp_length.to_be_bytes();
        front.copy_from_slice(&self.bytes[..start]);
        front[..6].copy_from_slice(&hop);
        if udp == 34 {
            front[16..18].copy_from_slice(&((start - ETHERNET + payload) as u16).to_be_bytes());
            front[18..20].copy_from_slice(&identification.to_be_bytes());
            let checksum = !fold(sum(&front[ETHERNET..udp]));
            front[24..26].copy_from_slice(&checksum.to_ne_bytes());
        } else {
            front[18..20].copy_from_slice(&udp_length);
        }
        front[udp + 4..udp + 6].copy_from_slice(&udp_length);
        let pseudo = fold(self.pseudo + sum(&udp_length));
        front[udp + CHECKSUM_OFFSET..udp + UDP].copy_from_slice(&pseudo.to_ne_bytes());
        true
    }
}

/// The sum of RFC 1071, in the order of this machine's bytes: it does not matter which, as long as it is one.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>() + u64::from(u32::from_ne_bytes(last))
}

fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > u64::from(u16::MAX) {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 word by word, over what is given as one.
    fn checksum(parts: &[&[u8]]) -> u16 {
        let mut bytes = parts.concat();
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// Headers and payload as they are sent, with the checksum that the device makes.
    fn framed(headers: &Headers, hop: [u8; 6], payload: &[u8], identification: u16) -> Vec<u8> {
        let mut frame = vec![0xEE; headers.length()];
        assert!(headers.write(&mut frame, hop, payload.len(), identification));
        frame.extend(payload);
        let at = headers.udp() + CHECKSUM_OFFSET;
        // Over what stands there: the pseudo header's sum is in it.
        let whole = checksum(&[&frame[headers.udp()..]]);
        frame[at..at + 2].copy_from_slice(&whole.to_be_bytes());
        frame
    }

    fn path(local: &str, remote: &str) -> Path {
        Path { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
    }

    /// Goal: a receiver finds both checksums right, for every length. Method: the sums of RFC 791 and 768, written plainly.
    #[test]
    fn headers_of_ipv4_are_those_of_a_datagram() {
        let headers = Headers::new(&path("192.0.2.1:7000", "198.51.100.200:50001"), [2, 0, 0, 0, 0, 1]).unwrap();
        for length in (0..64).chain([1_199, 1_200, 1_472, 65_000]) {
            let payload: Vec<u8> = (0..length).map(|i| (i * 37 + length) as u8).collect();
            let frame = framed(&headers, [2, 0, 0, 0, 0, 2], &payload, 0xABCD);
            assert_eq!((headers.length(), headers.udp(), headers.length_in_mtu()), (42, 34, 28));
            assert_eq!(frame[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
            assert_eq!(frame[14..16], [0x45, 0]);
            assert_eq!(u16::from_be_bytes([frame[16], frame[17]]) as usize, 28 + length);
            assert_eq!(frame[18..20], [0xAB, 0xCD]);
            assert_eq!(frame[20..24], [0, 0, 64, 17], "no flags: it may be cut on the way");
            assert_eq!(checksum(&[&frame[14..34]]), 0, "the header's");
            assert_eq!(frame[26..34], [192, 0, 2, 1, 198, 51, 100, 200]);
            assert_eq!((u16::from_be_bytes([frame[34], frame[35]]), u16::from_be_bytes([frame[36], frame[37]])), (7_000, 50_001));
            assert_eq!(u16::from_be_bytes([frame[38], frame[39]]) as usize, 8 + length);
            assert_eq!(checksum(&[&frame[26..34], &[0, 17], &frame[38..40], &frame[34..]]), 0, "the datagram's, {length}");
            assert_eq!(frame[42..], payload);
        }
        assert!(!headers.write(&mut [0; 41], [0; 6], 9, 0), "no room");
        assert!(!headers.write(&mut [0; 42], [0; 6], 65_508, 0), "more than a datagram has");
    }

    #[test]
    fn headers_of_ipv6_are_those_of_a_datagram() {
        let headers = Headers::new(&path("[2001:db8::1]:7000", "[2001:db8:ffff::2]:9"), [2, 0, 0, 0, 0, 1]).unwrap();
        for length in [0, 1, 33, 1_200] {
            let payload = vec![0x5A; length];
            let frame = framed(&headers, [2, 0, 0, 0, 0, 2], &payload, 7);
            assert_eq!((frame.len(), frame[12..15].to_vec()), (62 + length, vec![0x86, 0xDD, 0x60]));
            assert_eq!(u16::from_be_bytes([frame[18], frame[19]]) as usize, 8 + length);
            assert_eq!(frame[20..22], [17, 64]);
            assert_eq!(checksum(&[&frame[22..54], &[0, 17], &frame[58..60], &frame[54..]]), 0, "{length}");
            assert_eq!(frame[62..], payload[..]);
        }
    }

    #[test]
    fn a_path_between_families_has_no_headers() {
        assert!(Headers::new(&path("192.0.2.1:7000", "[2001:db8::1]:9"), [0; 6]).is_none());
    }
}

//! Socket addresses and control messages as the kernel lays them out, written and read as bytes.
//!
//! ```text
//! control message:  0        8       12      16            16 + n     padded to 8
//!                   | length | level | type  | data ...    | padding  | next
//! ```
//! (`length` is the kernel's size_t and counts the header; on 32-bit machines the offsets are 4, 8, 12.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

const WORD: usize = size_of::<usize>();
const HEADER: usize = align(WORD + 8);
/// PKTINFO of IPv6 (20 bytes of data) and UDP_SEGMENT (2 bytes), each with header and padding.
const CONTROL_SIZE: usize = 64;
/// The larger of sockaddr_in (16) and sockaddr_in6.
pub const NAME_SIZE: usize = size_of::<libc::sockaddr_in6>();

const fn align(length: usize) -> usize {
    length.next_multiple_of(WORD)
}

const _: () = assert!(HEADER + align(20) + HEADER + align(2) <= CONTROL_SIZE);

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Name {
    bytes: [u8; NAME_SIZE],
}

impl Name {
    pub const EMPTY: Name = Name { bytes: [0; NAME_SIZE] };

    /// Writes `address` and returns how many bytes the kernel is to read. `mapped`: an IPv4 address goes
    /// to an IPv6 socket (RFC 4291 section 2.5.5.2).
    pub fn write(&mut self, address: SocketAddr, mapped: bool) -> u32 {
        let bytes = &mut self.bytes;
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (ip, flowinfo, scope) = match address {
            SocketAddr::V4(v4) if !mapped => {
                bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                bytes[8..16].fill(0);
                return size_of::<libc::sockaddr_in>() as u32;
            }
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0, 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.flowinfo(), v6.scope_id()),
        };
        bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        bytes[4..8].copy_from_slice(&flowinfo.to_be_bytes());
        bytes[8..24].copy_from_slice(&ip.octets());
        bytes[24..28].copy_from_slice(&scope.to_ne_bytes());
        NAME_SIZE as u32
    }

    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads what the kernel wrote as a peer's name.
pub fn parse_name(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(field(bytes, 0)?);
    let port = u16::from_be_bytes(field(bytes, 2)?);
    if family == libc::AF_INET as u16 {
        return Some(SocketAddr::new(Ipv4Addr::from(field::<4>(bytes, 4)?).into(), port));
    }
    if family != libc::AF_INET6 as u16 {
        return None;
    }
    let ip = Ipv6Addr::from(field::<16>(bytes, 8)?);
    Some(address_v6(ip, port, u32::from_ne_bytes(field(bytes, 24)?)))
}

/// An IPv6 address as the rest of the engine knows it: mapped IPv4 as IPv4; the scope only where it belongs to
/// the address, and never the flow label, so that one remote is always one key.
fn address_v6(ip: Ipv6Addr, port: u16, scope: u32) -> SocketAddr {
    match ip.to_ipv4_mapped() {
        Some(v4) => SocketAddr::new(v4.into(), port),
        None => SocketAddrV6::new(ip, port, 0, if ip.is_unicast_link_local() { scope } else { 0 }).into(),
    }
}

/// Control messages of one datagram or run.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Control {
    bytes: [u8; CONTROL_SIZE],
}

impl Control {
    pub const EMPTY: Control = Control { bytes: [0; CONTROL_SIZE] };
    pub const SIZE: usize = CONTROL_SIZE;

    /// Writes the source address, and the segment size where the run is to be cut; returns the length.
    pub fn write(&mut self, local: SocketAddr, segment: Option<u16>) -> usize {
        let mut length = match local {
            SocketAddr::V4(v4) => {
                // struct in_pktinfo: interface index (0 = by route), ipi_spec_dst = our source, ipi_addr.
                let mut data = [0; 12];
                data[4..8].copy_from_slice(&v4.ip().octets());
                self.put(0, libc::IPPROTO_IP, libc::IP_PKTINFO, &data)
            }
            SocketAddr::V6(v6) => {
                // struct in6_pktinfo: our source, interface index (only a link-local address needs one).
                let mut data = [0; 20];
                data[..16].copy_from_slice(&v6.ip().octets());
                if v6.ip().is_unicast_link_local() {
                    data[16..].copy_from_slice(&v6.scope_id().to_ne_bytes());
                }
                self.put(0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data)
            }
        };
        if let Some(segment) = segment {
            length = self.put(length, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        length
    }

    fn put(&mut self, at: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        let end = at + HEADER + align(data.len());
        let message = &mut self.bytes[at..end];
        message[..WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        message[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        message[WORD + 4..WORD + 8].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..HEADER + data.len()].copy_from_slice(data);
        message[HEADER + data.len()..].fill(0);
        end
    }

    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The address a datagram was sent to, from the control messages it came with.
pub fn parse_local(mut control: &[u8], port: u16) -> Option<SocketAddr> {
    // Each round takes a header at least, so the buffer's length bounds the loop.
    while let Some(length) = field(control, 0).map(usize::from_ne_bytes) {
        let level = i32::from_ne_bytes(field(control, WORD)?);
        let kind = i32::from_ne_bytes(field(control, WORD + 4)?);
        let data = control.get(HEADER..length)?;
        if level == libc::IPPROTO_IP && kind == libc::IP_PKTINFO {
            // ipi_spec_dst: the address to answer from, also where the datagram went to a broadcast address.
            return Some(SocketAddr::new(IpAddr::from(field::<4>(data, 4)?), port));
        }
        if level == libc::IPPROTO_IPV6 && kind == libc::IPV6_PKTINFO {
            let ip = Ipv6Addr::from(field::<16>(data, 0)?);
            return Some(address_v6(ip, port, u32::from_ne_bytes(field(data, 16)?)));
        }
        control = control.get(align(length)..)?;
    }
    None
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn names_come_back_as_they_went_and_mapped_ones_as_ipv4() {
        let mut name = Name::EMPTY;
        for text in ["192.0.2.7:5000", "[2001:db8::7]:443", "[fe80::1%3]:9"] {
            let length = name.write(address(text), false);
            assert_eq!(parse_name(&name.bytes()[..length as usize]), Some(address(text)));
        }
        assert_eq!(name.write(address("192.0.2.7:5000"), true), 28);
        assert_eq!(&name.bytes()[8..24], &"::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(parse_name(name.bytes()), Some(address("192.0.2.7:5000")));
    }

    #[test]
    fn the_layout_is_the_one_libcs_macros_walk() {
        for (local, pktinfo) in [("192.0.2.7:1", 12), ("[fe80::7%5]:1", 20)] {
            let mut control = Control::EMPTY;
            let length = control.write(address(local), Some(1_216));
            // SAFETY: the macros walk inside the buffer that `header` names; msghdr is plain data.
            unsafe {
                let mut header: libc::msghdr = std::mem::zeroed();
                header.msg_control = control.as_mut_ptr().cast();
                header.msg_controllen = length as _;
                let first = libc::CMSG_FIRSTHDR(&header);
                assert_eq!((*first).cmsg_len as usize, libc::CMSG_LEN(pktinfo) as usize);
                let second = libc::CMSG_NXTHDR(&header, first);
                assert_eq!(((*second).cmsg_level, (*second).cmsg_type), (libc::SOL_UDP, libc::UDP_SEGMENT));
                assert_eq!(libc::CMSG_DATA(second).cast::<u16>().read_unaligned(), 1_216);
                assert!(libc::CMSG_NXTHDR(&header, second).is_null());
            }
            let local = address(local);
            assert_eq!(parse_local(&control.bytes()[..length], local.port()), Some(local));
        }
    }

    #[test]
    fn broken_control_messages_end_the_search() {
        let mut control = Control::EMPTY;
        let length = control.write(address("192.0.2.7:1"), None);
        for cut in 0..length - 4 {
            assert_eq!(parse_local(&control.bytes()[..cut], 1), None, "cut at {cut}");
        }
        for lie in [0_usize, 1, HEADER - 1, usize::MAX, usize::MAX - 7] {
            let mut bytes = control.bytes;
            bytes[..WORD].copy_from_slice(&lie.to_ne_bytes());
            bytes[WORD + 4] ^= 1;
            assert_eq!(parse_local(&bytes, 1), None, "length {lie}");
        }
        assert_eq!(parse_name(&[]), None);
        assert_eq!(parse_name(&[0xff; 28]), None);
    }
}

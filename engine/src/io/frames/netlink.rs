//! Netlink messages: built, read, asked. Knows the layout of what the kernel says, nothing of what it is asked for.
//!
//! Reading never panics, whatever the bytes are: what does not fit into its frame ends the walk. Nothing here
//! allocates besides a socket's buffer. Used by whichever thread owns the socket.
//!
//! ```text
//! message    | length u32 | kind u16 | flags u16 | sequence u32 | port u32 | header of the kind | attributes |  padded to 4
//! attribute  | length u16 | kind u16 | value |  padded to 4; lengths count their own header, not the padding
//! ```
//! All in the machine's byte order, except where a value is a network's (ports, addresses, everything of netfilter).

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The kernel's numbers. They are user-space ABI and never change. Each was printed from the headers of Linux 6.1
/// (linux-libc-dev) and compared. Those of links, routes, neighbours, traffic control, nf_tables and XFRM were seen at work by the tests
/// of this folder on 6.18; NFNL_HOOK_GET and HOOK_* by hand on Debian's 6.12 (that kernel is built without it); from headers only are NEWDST, the two of VRFs.
pub mod abi {
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const GETLINK: u16 = 18;
    pub const NEWADDR: u16 = 20;
    pub const DELADDR: u16 = 21;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const GETROUTE: u16 = 26;
    pub const NEWNEIGH: u16 = 28;
    pub const DELNEIGH: u16 = 29;
    pub const GETNEIGH: u16 = 30;
    pub const NEWRULE: u16 = 32;
    pub const DELRULE: u16 = 33;
    pub const NEWNEXTHOP: u16 = 104;
    pub const DELNEXTHOP: u16 = 105;

    /// Multicast groups of NETLINK_ROUTE: links, neighbours, IPv4 addresses, routes and rules, the same of IPv6, next hop objects.
    pub const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];

    pub const RTA_DST: u16 = 1;
    pub const RTA_SRC: u16 = 2;
    pub const RTA_OIF: u16 = 4;
    pub const RTA_GATEWAY: u16 = 5;
    pub const RTA_METRICS: u16 = 8;
    pub const RTA_MULTIPATH: u16 = 9;
    pub const RTA_VIA: u16 = 18;
    pub const RTA_NEWDST: u16 = 19;
    pub const RTA_ENCAP_TYPE: u16 = 21;
    pub const RTA_ENCAP: u16 = 22;
    pub const RTA_IP_PROTO: u16 = 27;
    pub const RTA_SPORT: u16 = 28;
    pub const RTA_DPORT: u16 = 29;
    pub const RTAX_MTU: u16 = 2;
    pub const RTN_UNICAST: u8 = 1;
    pub const RTN_LOCAL: u8 = 2;
    /// RTM_F_CLONED: news of a cached answer, not of a route.
    pub const CLONED: u32 = 0x200;

    pub const NDA_DST: u16 = 1;
    pub const NDA_LLADDR: u16 = 2;
    pub const NUD_STALE: u16 = 0x04;
    /// REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT.
    pub const NUD_USABLE: u16 = 0x02 | NUD_STALE | 0x08 | 0x10 | 0x40 | 0x80;
    pub const NTF_USE: u8 = 0x01;
    pub const NTF_PROXY: u8 = 0x08;

    pub const IFLA_ADDRESS: u16 = 1;
    pub const IFLA_MTU: u16 = 4;
    pub const IFLA_LINKINFO: u16 = 18;
    pub const IFLA_AF_SPEC: u16 = 26;
    pub const IFLA_INFO_KIND: u16 = 1;
    pub const IFLA_INFO_SLAVE_KIND: u16 = 4;
    pub const IFLA_INET6_CONF: u16 = 2;
    /// DEVCONF_MTU6's place in the i32s of IFLA_INET6_CONF.
    pub const DEVCONF_MTU6: usize = 2;
    pub const ETHER: u16 = 1;

    pub const NFNL_HOOK_GET: u16 = 12 << 8;
    pub const NFTABLES_GETCHAIN: u16 = 10 << 8 | 4;
    pub const HOOK_HOOKNUM: u16 = 1;
    pub const HOOK_FUNCTION: u16 = 4;
    pub const HOOK_MODULE: u16 = 5;
    pub const HOOK_CHAIN_INFO: u16 = 6;
    pub const HOOK_INFO_DESC: u16 = 1;
    pub const CHAIN_TABLE: u16 = 1;
    pub const CHAIN_NAME: u16 = 3;
    pub const CHAIN_HOOK: u16 = 4;
    pub const CHAIN_TYPE: u16 = 7;
    pub const CHAIN_HOOKNUM: u16 = 1;
    pub const NFPROTO_INET: u8 = 1;
    pub const NFPROTO_IPV4: u8 = 2;
    pub const NFPROTO_IPV6: u8 = 10;
    pub const LOCAL_OUT: u32 = 3;
    pub const POST_ROUTING: u32 = 4;

    pub const XFRM_GETSPDINFO: u16 = 0x25;
    pub const XFRMA_SPD_INFO: u16 = 1;
    pub const XFRM_GETDEFAULT: u16 = 0x28;
    pub const XFRM_BLOCK: u8 = 1;
}

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER stand in the same word as the kind.
const KIND_MASK: u16 = 0x3FFF;
/// The largest request asked here (a route: two IPv6 addresses, ports) takes 96 bytes; nf_tables' in tests 200.
const REQUEST_SIZE_MAX: usize = 256;

fn padded(length: usize) -> usize {
    length.saturating_add(3) & !3
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// An IP address as its bytes.
pub fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// A name, as far as the zero that ends it.
pub fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A message on its way to the kernel.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: [u8; REQUEST_SIZE_MAX],
    length: usize,
    sequence: u32,
}

impl Request {
    /// `header` is the kind's own (rtmsg, ndmsg, ...). Its sequence number is given when it is sent.
    pub fn new(kind: u16, flags: i32, header: &[u8]) -> Request {
        let mut request = Request { bytes: [0; REQUEST_SIZE_MAX], length: HEADER, sequence: 0 };
        request.put(4, &kind.to_ne_bytes());
        request.put(6, &((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        request.append(header);
        request
    }

    /// One that does not fit is left out, and the kernel refuses what is left: a bug of the caller's, not of any input.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        debug_assert!(self.length + padded(ATTRIBUTE_HEADER + value.len()) <= REQUEST_SIZE_MAX);
        if self.length + padded(ATTRIBUTE_HEADER + value.len()) <= REQUEST_SIZE_MAX {
            let length = (ATTRIBUTE_HEADER + value.len()) as u16;
            let (length, kind) = (length.to_ne_bytes(), kind.to_ne_bytes());
            self.append(&[length[0], length[1], kind[0], kind[1]]);
            self.append(value);
        }
        self
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn number(&mut self, sequence: u32) {
        self.sequence = sequence;
        self.put(8, &sequence.to_ne_bytes());
    }

    fn append(&mut self, bytes: &[u8]) {
        self.put(self.length, bytes);
        self.length = (self.length + padded(bytes.len())).min(REQUEST_SIZE_MAX);
        self.put(0, &(self.length as u32).to_ne_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// A message as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub port: u32,
    /// The kind's own header and the attributes.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Whether this answers what was asked from `port` under that number. Lists of netfilter's hooks come without the port (seen on Linux 6.12).
    fn answers(&self, port: u32, sequence: u32) -> bool {
        (self.port == port || self.port == 0) && self.sequence == sequence
    }

    /// What an NLMSG_ERROR says: 0 is a yes. Also what ends a dump.
    fn error(&self) -> Option<i32> {
        u32_at(self.body, 0).map(|number| number as i32)
    }
}

/// The messages of one datagram; ends at the first that does not fit.
#[derive(Clone, Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32_at(self.0, 0)? as usize;
        let whole = self.0.get(..length)?;
        let message = Message {
            kind: u16_at(whole, 4)?,
            flags: u16_at(whole, 6)?,
            sequence: u32_at(whole, 8)?,
            port: u32_at(whole, 12)?,
            body: whole.get(HEADER..)?,
        };
        self.0 = self.0.get(padded(length)..).unwrap_or_default();
        Some(message)
    }
}

/// Attributes as (kind, value); ends at the first that does not fit.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(u16_at(self.0, 0)?);
        let value = self.0.get(ATTRIBUTE_HEADER..length)?;
        let kind = u16_at(self.0, 2)? & KIND_MASK;
        self.0 = self.0.get(padded(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The attributes behind a header of so many bytes.
pub fn attributes(body: &[u8], header: usize) -> Attributes<'_> {
    Attributes(body.get(padded(header)..).unwrap_or_default())
}

/// The first attribute of a kind.
pub fn find(attributes: Attributes<'_>, kind: u16) -> Option<&[u8]> {
    attributes.into_iter().find(|(each, _)| *each == kind).map(|(_, value)| value)
}

/// What RTM_GETROUTE is answered with, and what news of routes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// RTN_UNICAST and so on.
    pub kind: u8,
    pub flags: u32,
    pub device: Option<u32>,
    pub gateway: Option<IpAddr>,
    pub mtu: Option<u32>,
    /// Something that a plain frame to a single hop does not do: encapsulation, another destination, several hops, a gateway of an unknown family.
    pub special: bool,
}

/// ```text
/// rtmsg | family u8 | dst_len u8 | src_len u8 | tos u8 | table u8 | protocol u8 | scope u8 | type u8 | flags u32 |
/// ```
pub fn route(body: &[u8]) -> Option<Route> {
    let mut route = Route { kind: *body.get(7)?, flags: u32_at(body, 8)?, device: None, gateway: None, mtu: None, special: false };
    for (kind, value) in attributes(body, 12) {
        match kind {
            abi::RTA_OIF => route.device = Some(u32_at(value, 0)?),
            abi::RTA_GATEWAY => route.gateway = Some(address(value)?),
            // struct rtvia: the family, then the address.
            abi::RTA_VIA => match (u16_at(value, 0).map(i32::from), value.get(2..).and_then(address)) {
                (Some(libc::AF_INET), Some(gateway @ IpAddr::V4(_))) => route.gateway = Some(gateway),
                (Some(libc::AF_INET6), Some(gateway @ IpAddr::V6(_))) => route.gateway = Some(gateway),
                _ => route.special = true,
            },
            abi::RTA_METRICS => route.mtu = find(Attributes(value), abi::RTAX_MTU).and_then(|mtu| u32_at(mtu, 0)).filter(|mtu| *mtu > 0),
            abi::RTA_ENCAP | abi::RTA_ENCAP_TYPE | abi::RTA_NEWDST | abi::RTA_MULTIPATH => route.special = true,
            _ => {}
        }
    }
    Some(route)
}

/// A neighbour entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    pub device: u32,
    pub address: IpAddr,
    /// NUD_*.
    pub state: u16,
    pub link: Option<[u8; 6]>,
}

/// None: also what is no neighbour of an IP address (a bridge's forwarding entry), or one that this machine only answers for.
///
/// ```text
/// ndmsg | family u8 | pad u8 | pad u16 | ifindex i32 | state u16 | flags u8 | type u8 |
/// ```
pub fn neighbour(body: &[u8]) -> Option<Neighbour> {
    let family = i32::from(*body.first()?);
    let (device, state, flags) = (u32_at(body, 4)?, u16_at(body, 8)?, *body.get(10)?);
    let address = address(find(attributes(body, 12), abi::NDA_DST)?)?;
    let is_right = family == if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    if !is_right || flags & abi::NTF_PROXY != 0 {
        return None;
    }
    let link = find(attributes(body, 12), abi::NDA_LLADDR).and_then(|link| link.try_into().ok());
    Some(Neighbour { device, address, state, link })
}

/// What of a device matters to frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    pub device: u32,
    /// ARPHRD_*.
    pub kind: u16,
    /// IFF_*, without those that come and go and matter to nobody here.
    pub flags: u32,
    pub mtu: u32,
    /// IPv6's own, where it is smaller.
    pub mtu6: Option<u32>,
    pub address: Option<[u8; 6]>,
    /// A VRF or in one: its routes are not those that a plain lookup sees.
    pub vrf: bool,
}

/// None: also news of a bridge's port, which are not of the device as such.
///
/// ```text
/// ifinfomsg | family u8 | pad u8 | type u16 | ifindex i32 | flags u32 | change u32 |
/// ```
pub fn link(body: &[u8]) -> Option<Link> {
    const FLAGS: i32 = libc::IFF_UP | libc::IFF_LOOPBACK | libc::IFF_POINTOPOINT | libc::IFF_NOARP | libc::IFF_LOWER_UP;
    if i32::from(*body.first()?) != libc::AF_UNSPEC {
        return None;
    }
    let flags = u32_at(body, 8)? & FLAGS as u32;
    let mut link = Link { device: u32_at(body, 4)?, kind: u16_at(body, 2)?, flags, mtu: 0, mtu6: None, address: None, vrf: false };
    for (kind, value) in attributes(body, 16) {
        match kind {
            abi::IFLA_ADDRESS => link.address = value.try_into().ok(),
            abi::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            abi::IFLA_LINKINFO => {
                let is_kind = |kind| matches!(kind, abi::IFLA_INFO_KIND | abi::IFLA_INFO_SLAVE_KIND);
                link.vrf = Attributes(value).any(|(kind, name)| is_kind(kind) && text(name) == b"vrf");
            }
            abi::IFLA_AF_SPEC => {
                let inet6 = find(Attributes(value), libc::AF_INET6 as u16);
                let values = inet6.and_then(|inet6| find(Attributes(inet6), abi::IFLA_INET6_CONF));
                link.mtu6 = values.and_then(|values| u32_at(values, 4 * abi::DEVCONF_MTU6)).filter(|mtu| *mtu > 0);
            }
            _ => {}
        }
    }
    Some(link)
}

/// A netlink socket, and the buffer that its datagrams are read into.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Box<[u8]>,
}

/// A dump's datagrams are as large as the reader's buffer allows, up to 32 KiB.
const RECEIVE_SIZE: usize = 32 * 1_024;
/// How long the kernel may take for an answer. It gives it while it is asked; 20 ms are for a machine in trouble.
const ANSWER_TIME_US: libc::suseconds_t = 20_000;
/// Datagrams looked at for one answer: stray ones, or those of a dump of some 100,000 entries.
const ANSWER_DATAGRAMS_MAX: usize = 4_096;

impl Socket {
    /// `protocol` is NETLINK_ROUTE and so on.
    pub fn open(protocol: i32) -> io::Result<Socket> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // JUSTIFICATION: std has no netlink.
        // SAFETY: a call by values; a descriptor that came back is fresh and owned by nobody else.
        let fd = unsafe {
            match libc::socket(libc::AF_NETLINK, kind, protocol) {
                fd if fd >= 0 => OwnedFd::from_raw_fd(fd),
                _ => return Err(io::Error::last_os_error()),
            }
        };
        let mut own = nobody();
        let mut length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // JUSTIFICATION: as above.
        // SAFETY: `own` is a whole sockaddr_nl and `length` its size; both outlive the calls.
        unsafe {
            check(libc::bind(fd.as_raw_fd(), (&raw const own).cast(), length))?;
            check(libc::getsockname(fd.as_raw_fd(), (&raw mut own).cast(), &mut length))?;
        }
        let socket = Socket { fd, port: own.nl_pid, sequence: 0, buffer: vec![0; RECEIVE_SIZE].into_boxed_slice() };
        let time = libc::timeval { tv_sec: 0, tv_usec: ANSWER_TIME_US };
        socket.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)?;
        socket.set(libc::SOL_SOCKET, libc::SO_SNDTIMEO, &time)?;
        Ok(socket)
    }

    pub fn join(&self, group: u32) -> io::Result<()> {
        self.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &group)
    }

    /// Room for so many bytes of news. Beyond net.core.rmem_max only with CAP_NET_ADMIN, else as much as is allowed.
    pub fn room(&self, bytes: i32) -> io::Result<()> {
        let forced = self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes);
        forced.or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes))
    }

    fn set<T: Copy>(&self, level: i32, name: i32, value: &T) -> io::Result<()> {
        let length = size_of::<T>() as libc::socklen_t;
        // JUSTIFICATION: std has no options of such sockets.
        // SAFETY: `value` is a live T of `length` bytes, the type that the option takes.
        check(unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) })
    }

    /// Sends and does not look for an answer: one that comes is passed over by the next `ask`.
    pub fn tell(&mut self, request: &mut Request) -> io::Result<()> {
        // 0 is what the kernel gives to news.
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        request.number(self.sequence);
        let (bytes, to, length) = (request.bytes(), nobody(), size_of::<libc::sockaddr_nl>() as libc::socklen_t);
        // JUSTIFICATION: std has no sendto for netlink's addresses.
        // SAFETY: `bytes` and `to` are live and as long as said.
        let sent = unsafe { libc::sendto(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, (&raw const to).cast(), length) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Gives each message of the kernel's answer to `each`: one message, or a dump's. An error of the kernel's is one here.
    pub fn ask(&mut self, request: &mut Request, mut each: impl FnMut(&Message<'_>)) -> io::Result<()> {
        self.tell(request)?;
        for _ in 0..ANSWER_DATAGRAMS_MAX {
            let (port, sequence) = (self.port, request.sequence);
            let Some(datagram) = self.receive(0)? else { continue };
            for message in Messages(datagram).filter(|message| message.answers(port, sequence)) {
                if i32::from(message.flags) & libc::NLM_F_DUMP_INTR != 0 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                match (i32::from(message.kind), message.error()) {
                    (libc::NLMSG_ERROR | libc::NLMSG_DONE, Some(number)) if number < 0 => return Err(io::Error::from_raw_os_error(-number)),
                    (libc::NLMSG_ERROR | libc::NLMSG_DONE, _) => return Ok(()),
                    (libc::NLMSG_NOOP | libc::NLMSG_OVERRUN, _) => continue,
                    _ => each(&message),
                }
                if i32::from(message.flags) & libc::NLM_F_MULTI == 0 {
                    return Ok(());
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Several in one datagram, and no for an answer is an error: what netfilter calls a batch.
    #[cfg(test)]
    pub fn tell_all(&mut self, requests: &[Request]) -> io::Result<()> {
        let bytes: Vec<u8> = requests.iter().flat_map(|request| request.bytes().iter().copied()).collect();
        let (to, length) = (nobody(), size_of::<libc::sockaddr_nl>() as libc::socklen_t);
        // SAFETY: `bytes` and `to` are live and as long as said.
        let sent = unsafe { libc::sendto(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, (&raw const to).cast(), length) };
        assert_eq!(sent, bytes.len() as isize);
        while let Some(datagram) = self.news()? {
            let error = Messages(datagram).find_map(|message| message.error()).unwrap_or(0);
            if error < 0 {
                return Err(io::Error::from_raw_os_error(-error));
            }
        }
        Ok(())
    }

    /// Sends to another program's socket, as anybody may who is root.
    #[cfg(test)]
    pub fn lie_to(&self, whom: &Socket, request: &Request) -> io::Result<()> {
        let (mut to, length) = (nobody(), size_of::<libc::sockaddr_nl>() as libc::socklen_t);
        to.nl_pid = whom.port;
        let bytes = request.bytes();
        // SAFETY: `bytes` and `to` are live and as long as said.
        let sent = unsafe { libc::sendto(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, (&raw const to).cast(), length) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// A datagram that is there now: None where none is, Some(empty) for one that is not the kernel's.
    pub fn news(&mut self) -> io::Result<Option<&[u8]>> {
        match self.receive(libc::MSG_DONTWAIT) {
            Ok(datagram) => Ok(Some(datagram.unwrap_or_default())),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next datagram: None where it is not the kernel's own, EMSGSIZE where it was cut.
    fn receive(&mut self, flags: i32) -> io::Result<Option<&[u8]>> {
        let mut from = nobody();
        let mut length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // JUSTIFICATION: std has no recvfrom for netlink's addresses.
        // SAFETY: `buffer`, `from` and `length` are live, and the sizes given are theirs.
        let got = unsafe {
            let buffer = self.buffer.as_mut_ptr().cast();
            let flags = flags | libc::MSG_TRUNC;
            libc::recvfrom(self.fd.as_raw_fd(), buffer, self.buffer.len(), flags, (&raw mut from).cast(), &mut length)
        };
        let Ok(got) = usize::try_from(got) else { return Err(io::Error::last_os_error()) };
        let datagram = self.buffer.get(..got).ok_or(io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        Ok((from.nl_pid == 0).then_some(datagram))
    }
}

/// The kernel's address, and that of a socket which has none yet.
fn nobody() -> libc::sockaddr_nl {
    // JUSTIFICATION: the struct has a private field of padding.
    // SAFETY: all zeros is a sockaddr_nl: it is made of integers.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A network of a test's own.
#[cfg(test)]
pub(crate) mod network {
    use std::process::Command;

    /// Runs `body` in a thread whose network is empty but for what `lines` (arguments of `ip`) make; it goes with the thread.
    pub fn within<T: Send>(lines: &str, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter();
                run(lines);
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Gives this thread an empty network.
    pub fn enter() {
        // SAFETY: the call takes a number; it fails or moves this thread.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "a network of its own needs root");
    }

    /// By which `ip link set ... netns` knows this thread's network.
    pub fn thread() -> i32 {
        // SAFETY: a call without arguments.
        unsafe { libc::gettid() }
    }

    /// `ip LINE` for each line, and what they print. A line that begins with another program's name in brackets is its arguments: `[tc] qdisc show`.
    pub fn run(lines: &str) -> String {
        let mut printed = String::new();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (program, line) = line.strip_prefix('[').and_then(|line| line.split_once("] ")).unwrap_or(("ip", line));
            let output = Command::new(program).args(line.split(' ')).output().expect("ip and tc are installed (Debian: iproute2)");
            assert!(output.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&output.stderr));
            printed += &String::from_utf8_lossy(&output.stdout);
        }
        printed
    }
}

#[cfg(test)]
mod tests {
    use super::network::{run, within};
    use super::*;

    fn read_all(bytes: &[u8]) -> usize {
        let mut understood = 0;
        let mut left = bytes.len();
        for message in Messages(bytes) {
            left = left.checked_sub(HEADER + message.body.len()).expect("messages are within the datagram");
            understood += usize::from(route(message.body).is_some()) + usize::from(neighbour(message.body).is_some());
            understood += usize::from(link(message.body).is_some());
            for header in [0, 4, 12, 16, 20] {
                understood += attributes(message.body, header).count();
            }
        }
        understood
    }

    /// What a real kernel says about links, routes and neighbours, as whole messages.
    fn samples() -> Vec<Vec<u8>> {
        within(
            "link add v0 type veth peer name v1
            address add 10.0.0.1/24 dev v0
            address add 2001:db8::1/64 dev v0 nodad
            link set v0 up
            link set v1 up
            neighbour add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0
            neighbour add 2001:db8::2 lladdr 02:00:00:00:00:06 dev v0
            route add 10.1.0.0/16 via 10.0.0.2 mtu 1300
            route add 10.2.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.0.3
            route add 10.3.0.0/16 via inet6 2001:db8::2 dev v0",
            || {
                let mut socket = Socket::open(libc::NETLINK_ROUTE).unwrap();
                let mut samples = Vec::new();
                for kind in [abi::GETLINK, abi::GETROUTE, abi::GETNEIGH] {
                    let mut request = Request::new(kind, libc::NLM_F_DUMP, &[0; 16][..if kind == abi::GETLINK { 16 } else { 12 }]);
                    let ask = socket.ask(&mut request, |message| {
                        let mut bytes = ((HEADER + message.body.len()) as u32).to_ne_bytes().to_vec();
                        bytes.extend([message.kind.to_ne_bytes(), message.flags.to_ne_bytes()].concat());
                        bytes.extend([message.sequence.to_ne_bytes(), message.port.to_ne_bytes()].concat());
                        bytes.extend(message.body);
                        samples.push(bytes);
                    });
                    ask.unwrap();
                }
                samples
            },
        )
    }

    #[test]
    fn cut_and_changed_messages_are_read_without_a_panic() {
        let samples = samples();
        assert!(samples.len() > 10, "{}", samples.len());
        let mut understood = 0;
        for sample in &samples {
            understood += read_all(sample);
            for length in 0..sample.len() {
                read_all(&sample[..length]);
            }
            let mut changed = sample.clone();
            for index in 0..sample.len() {
                for value in [0, 1, 4, 0x7F, 0x80, 0xFF, sample[index].wrapping_add(1)] {
                    changed[index] = value;
                    read_all(&changed);
                }
                changed[index] = sample[index];
            }
        }
        assert!(understood > 100, "{understood}");
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let samples = samples();
        let bodies = |wanted: u16| samples.iter().flat_map(|sample| Messages(sample)).filter(move |message| message.kind == wanted).map(|message| message.body);
        let routes: Vec<Route> = bodies(abi::NEWROUTE).filter_map(route).collect();
        assert!(routes.iter().any(|route| route.mtu == Some(1_300) && route.gateway == Some([10, 0, 0, 2].into())));
        assert!(routes.iter().any(|route| route.special && route.gateway.is_none()), "several hops");
        assert!(routes.iter().any(|route| route.gateway.is_some_and(|gateway| gateway.is_ipv6()) && !route.special));
        let neighbours: Vec<Neighbour> = bodies(abi::NEWNEIGH).filter_map(neighbour).collect();
        assert!(neighbours.iter().any(|entry| entry.address.is_ipv4() && entry.link == Some([2, 0, 0, 0, 0, 2]) && entry.state & 0x80 != 0));
        assert!(neighbours.iter().any(|entry| entry.address.is_ipv6() && entry.link == Some([2, 0, 0, 0, 0, 6])));
        let links: Vec<Link> = bodies(abi::NEWLINK).filter_map(link).collect();
        assert!(links.iter().any(|link| link.kind == abi::ETHER && link.mtu == 1_500 && link.mtu6 == Some(1_500) && link.address.is_some()));
        assert!(links.iter().any(|link| link.flags & libc::IFF_LOOPBACK as u32 != 0));
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let mut request = Request::new(abi::GETROUTE, libc::NLM_F_DUMP, &[9; 12]).attribute(7, &[1, 2, 3]).attribute(8, &[4]).attribute(9, &[]);
        request.number(77);
        let messages: Vec<Message<'_>> = Messages(request.bytes()).collect();
        assert_eq!(messages.len(), 1);
        assert_eq!((messages[0].kind, messages[0].sequence, messages[0].port), (abi::GETROUTE, 77, 0));
        let read: Vec<(u16, &[u8])> = attributes(messages[0].body, 12).collect();
        assert_eq!(read, [(7, &[1, 2, 3][..]), (8, &[4]), (9, &[])]);
    }

    #[test]
    fn an_answer_may_lack_the_port_but_not_the_number() {
        let message = |port, sequence| Message { kind: abi::NFNL_HOOK_GET, flags: 2, sequence, port, body: &[] };
        assert!(message(215, 7).answers(215, 7) && message(0, 7).answers(215, 7));
        assert!(!message(214, 7).answers(215, 7) && !message(215, 6).answers(215, 7) && !message(0, 0).answers(215, 7));
    }

    #[test]
    fn an_error_of_the_kernel_is_one_and_a_late_answer_is_passed_over() {
        within("link set lo up", || {
            let mut socket = Socket::open(libc::NETLINK_ROUTE).unwrap();
            let get = |device: u8| Request::new(abi::GETLINK, 0, &[0, 0, 0, 0, device, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let error = socket.ask(&mut get(99), |_| panic!("there is no such device")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
            // Its answer lies there when the next is asked for.
            socket.tell(&mut get(1)).unwrap();
            let mut got = Vec::new();
            socket.ask(&mut get(1), |message| got.push(message.sequence)).unwrap();
            assert_eq!(got, [3]);
            run("link set lo down");
        });
    }
}

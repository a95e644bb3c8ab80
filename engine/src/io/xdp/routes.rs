//! Where the frames of a path go: asked from the kernel once per path, kept right by its news.
//!
//! Owned and used by one thread. `address` is an array's index, `changed` reads what is there and never waits. `find`
//! asks: some system calls, behind whoever holds the kernel's lock of its network configuration (RTNL) just then.
//!
//! A hop is in one of these states:
//! - unknown: no usable entry; the caller sends by the kernel, which resolves it, and news bring the address.
//! - usable: the address goes into frames.
//! - usable, idle: the kernel has grown unsure of it (STALE) while nobody sent there. The first to use it has it probed.
//!
//! The kernel does not see frames, so to it every neighbour is unused: it would never look again whether one that is STALE
//! still lives. So one that is used is told to be (NTF_USE): the kernel probes it after five seconds, as for datagrams of its own.
//!
//! Not seen, because the kernel does not tell: redirects, path MTUs learned later, sysctls, and hop limits of routes.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::netlink::{self, Link, Messages, Neighbour, Request, Route, Socket, abi};
use crate::io::Path;

/// Next hops known at a time: as many as an index of 16 bits tells apart. A publisher's network has one, a LAN its hosts.
const HOPS_MAX: usize = 65_536;
/// Devices known: a host with more has containers by the thousand, and then the kernel sends.
const DEVICES_MAX: usize = 4_096;
/// Datagrams of news read at a time; the rest is read in the next tick.
const NEWS_MAX: usize = 256;
/// Room for news: some 4,000 of them between two ticks before some are lost, which only costs asking again.
const NEWS_ROOM: i32 = 1 << 20;

/// Where frames of a path go: what the kernel would do with a datagram of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// The device's index.
    pub device: u32,
    /// Of the device and the route, the smaller.
    pub mtu: u32,
    /// The device's own link-layer address.
    pub source: [u8; 6],
    /// The gateway, or the destination itself.
    pub hop: HopId,
}

/// A next hop, until `changed` says true. An older one is known as such, and has no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HopId {
    index: u16,
    /// Of the table that it is an index into.
    edition: u16,
}

struct Hop {
    address: Option<[u8; 6]>,
    /// To be probed when it is used next.
    idle: Cell<bool>,
    /// Used since it was found or probed last.
    used: Cell<bool>,
    /// What an entry that does not exist yet would say, where there is no ARP: the device's own address.
    without_entry: Option<[u8; 6]>,
    device: u32,
    neighbour: IpAddr,
}

impl Hop {
    /// Whether it is to be probed now.
    fn learn(&mut self, state: u16, link: Option<[u8; 6]>) -> bool {
        self.address = link.filter(|_| state & abi::NUD_USABLE != 0);
        let is_stale = state & abi::NUD_STALE != 0 && self.address.is_some();
        let was_used = self.used.replace(false);
        self.idle.set(is_stale && !was_used);
        is_stale && was_used
    }
}

pub struct Routes {
    /// Asks.
    asker: Socket,
    news: Socket,
    hops: Vec<Hop>,
    by_neighbour: HashMap<(u32, IpAddr), u16>,
    edition: u16,
    links: HashMap<u32, Link>,
    /// Every device there is stands in `links`, and each change of one was in news.
    links_known: bool,
    /// An idle hop was used.
    woken: Cell<bool>,
}

impl Routes {
    /// Of the network namespace that the thread is in.
    pub fn open() -> io::Result<Routes> {
        let asker = Socket::open(libc::NETLINK_ROUTE)?;
        let news = Socket::open(libc::NETLINK_ROUTE)?;
        news.room(NEWS_ROOM)?;
        // Before anything is asked, so that nothing falls between.
        for group in abi::GROUPS {
            news.join(group)?;
        }
        let mut routes = Routes {
            asker,
            news,
            hops: Vec::with_capacity(HOPS_MAX),
            by_neighbour: HashMap::with_capacity(HOPS_MAX),
            edition: 0,
            links: HashMap::with_capacity(DEVICES_MAX),
            links_known: false,
            woken: Cell::new(false),
        };
        routes.read_links()?;
        Ok(routes)
    }

    /// None: only the kernel can send there. To itself, to many, over a device without Ethernet or one that is down, into a
    /// tunnel or a VRF, from an address that is not this machine's; where there is no route; and where it did not answer.
    /// The answer holds until `changed` says true, also a None.
    pub fn find(&mut self, path: &Path) -> Option<Way> {
        let (local, remote) = (path.local.ip(), path.remote.ip());
        let is_one = |ip: IpAddr| !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback() && ip != Ipv4Addr::BROADCAST;
        if local.is_ipv4() != remote.is_ipv4() || !is_one(local) || !is_one(remote) {
            return None;
        }
        if !self.links_known {
            self.read_links().ok()?;
        }
        // For IPv4 the lookup refuses a source that is not ours. For IPv6 it believes anything.
        if local.is_ipv6() && !self.is_own(&path.local) {
            return None;
        }
        let route = self.route(route_request(path)?)?;
        if route.kind != abi::RTN_UNICAST || route.special {
            return None;
        }
        let link = *self.links.get(&route.device?)?;
        let up = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
        let odd = (libc::IFF_LOOPBACK | libc::IFF_POINTOPOINT) as u32;
        if link.kind != abi::ETHER || link.flags & (up | odd) != up || link.vrf {
            return None;
        }
        let hop = self.hop(&link, route.gateway.unwrap_or(remote))?;
        let mtu = [route.mtu, link.mtu6.filter(|_| remote.is_ipv6())].into_iter().flatten().fold(link.mtu, u32::min);
        Some(Way { device: link.device, mtu, source: link.address?, hop })
    }

    /// The hop's link-layer address, where one is known that can be used now. None: the caller sends by the kernel.
    #[inline]
    pub fn address(&self, hop: HopId) -> Option<[u8; 6]> {
        let known = self.hops.get(usize::from(hop.index)).filter(|_| hop.edition == self.edition)?;
        known.used.set(true);
        if known.idle.get() {
            self.woken.set(true);
        }
        known.address
    }

    /// Takes what the kernel told since. Neighbours' news are put into the hops at once. True: every Way found before is to be
    /// found again, because routes, rules, addresses or devices changed or news were lost; no HopId is good any more.
    pub fn changed(&mut self) -> bool {
        if self.woken.take() {
            self.probe_woken();
        }
        let mut is_changed = false;
        for _ in 0..NEWS_MAX {
            // Out of `self`, so that its buffer is not lent while hops and links are written.
            let Routes { asker, news, hops, by_neighbour, links, links_known, .. } = self;
            match news.news() {
                Ok(None) => break,
                Ok(Some(datagram)) => {
                    for message in Messages(datagram) {
                        match message.kind {
                            abi::NEWNEIGH | abi::DELNEIGH => {
                                let Some(neighbour) = netlink::neighbour(message.body) else { continue };
                                let index = by_neighbour.get(&(neighbour.device, neighbour.address));
                                let Some(hop) = index.and_then(|index| hops.get_mut(usize::from(*index))) else { continue };
                                if message.kind == abi::DELNEIGH {
                                    hop.learn(0, None);
                                    hop.address = hop.without_entry;
                                } else if hop.learn(neighbour.state, neighbour.link) {
                                    // Lost, it stays as it is: not probed until it is STALE the next time.
                                    let _ = asker.tell(&mut use_request(neighbour.device, neighbour.address));
                                }
                            }
                            abi::NEWLINK => is_changed |= netlink::link(message.body).is_some_and(|link| learn_link(links, links_known, link)),
                            abi::DELLINK => is_changed |= netlink::link(message.body).is_some_and(|link| links.remove(&link.device).is_some()),
                            abi::NEWROUTE | abi::DELROUTE => {
                                is_changed |= netlink::route(message.body).is_none_or(|route| route.flags & abi::CLONED == 0);
                            }
                            abi::NEWADDR | abi::DELADDR | abi::NEWRULE | abi::DELRULE | abi::NEWNEXTHOP | abi::DELNEXTHOP => is_changed = true,
                            _ => {}
                        }
                    }
                }
                // ENOBUFS: some were lost. Anything else: whatever it is, it may have been news.
                Err(_) => {
                    is_changed = true;
                    *links_known = false;
                }
            }
        }
        if is_changed {
            self.hops.clear();
            self.by_neighbour.clear();
            self.edition = self.edition.wrapping_add(1);
        }
        is_changed
    }

    /// How many hops are known.
    pub fn hops(&self) -> usize {
        self.hops.len()
    }

    fn read_links(&mut self) -> io::Result<()> {
        self.links.clear();
        let (links, mut is_whole) = (&mut self.links, true);
        let mut request = Request::new(abi::GETLINK, libc::NLM_F_DUMP, &[0; 16]);
        self.asker.ask(&mut request, |message| {
            if let Some(link) = netlink::link(message.body).filter(|_| message.kind == abi::NEWLINK) {
                learn_link(links, &mut is_whole, link);
            }
        })?;
        // Where they are too many for the table, those that stand in it are served; news of others are changes.
        self.links_known = true;
        Ok(())
    }

    fn route(&mut self, mut request: Request) -> Option<Route> {
        let mut answer = None;
        let is_route = |message: &netlink::Message<'_>| message.kind == abi::NEWROUTE;
        self.asker.ask(&mut request, |message| answer = netlink::route(message.body).filter(|_| is_route(message))).ok()?;
        answer
    }

    fn is_own(&mut self, local: &SocketAddr) -> bool {
        let path = Path { local: *local, remote: *local };
        let request = route_request(&path);
        request.and_then(|request| self.route(request)).is_some_and(|route| route.kind == abi::RTN_LOCAL)
    }

    fn hop(&mut self, link: &Link, address: IpAddr) -> Option<HopId> {
        let key = (link.device, address);
        if let Some(index) = self.by_neighbour.get(&key) {
            return Some(HopId { index: *index, edition: self.edition });
        }
        let index = u16::try_from(self.hops.len()).ok()?;
        let without_entry = link.address.filter(|_| link.flags & libc::IFF_NOARP as u32 != 0);
        let (idle, used) = (Cell::new(false), Cell::new(false));
        let mut hop = Hop { address: without_entry, idle, used, without_entry, device: link.device, neighbour: address };
        if let Some(neighbour) = self.neighbour(link.device, address)? {
            hop.learn(neighbour.state, neighbour.link);
        }
        self.hops.push(hop);
        self.by_neighbour.insert(key, index);
        Some(HopId { index, edition: self.edition })
    }

    /// Some(None): the kernel has no entry.
    fn neighbour(&mut self, device: u32, address: IpAddr) -> Option<Option<Neighbour>> {
        let mut answer = None;
        let mut request = neighbour_request(abi::GETNEIGH, device, address, 0);
        match self.asker.ask(&mut request, |message| answer = netlink::neighbour(message.body)) {
            Ok(()) => Some(answer.filter(|answer| (answer.device, answer.address) == (device, address))),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Some(None),
            Err(_) => None,
        }
    }

    /// Has those probed that were idle and are used now.
    fn probe_woken(&mut self) {
        for hop in self.hops.iter().filter(|hop| hop.idle.get() && hop.used.get()) {
            hop.idle.set(false);
            // Lost, it stays as it is: not probed until it is STALE the next time.
            let _ = self.asker.tell(&mut use_request(hop.device, hop.neighbour));
        }
    }
}

/// Whether anything of the device changed that matters. A device that is new changes nothing by itself: its routes do.
fn learn_link(links: &mut HashMap<u32, Link>, known: &mut bool, link: Link) -> bool {
    if links.len() >= DEVICES_MAX && !links.contains_key(&link.device) {
        return true;
    }
    let before = links.insert(link.device, link);
    before.map_or(!*known, |before| before != link)
}

/// rtmsg for one source and destination, ports as the datagrams have them: policy routing and several hops look at all of it.
fn route_request(path: &Path) -> Option<Request> {
    let (local, remote) = (path.local.ip(), path.remote.ip());
    let bits = if remote.is_ipv4() { 32 } else { 128 };
    let header = [family(remote), bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let request = with_address(Request::new(abi::GETROUTE, 0, &header), abi::RTA_DST, remote);
    let mut request = with_address(request, abi::RTA_SRC, local)
        .attribute(abi::RTA_IP_PROTO, &[libc::IPPROTO_UDP as u8])
        .attribute(abi::RTA_SPORT, &path.local.port().to_be_bytes())
        .attribute(abi::RTA_DPORT, &path.remote.port().to_be_bytes());
    if let SocketAddr::V6(remote) = path.remote
        && remote.ip().is_unicast_link_local()
    {
        // The same address on each of its networks: without a device it means nothing.
        let scope = Some(remote.scope_id()).filter(|scope| *scope > 0)?;
        request = request.attribute(abi::RTA_OIF, &scope.to_ne_bytes());
    }
    Some(request)
}

fn neighbour_request(kind: u16, device: u32, address: IpAddr, flags: u8) -> Request {
    let [a, b, c, d] = device.to_ne_bytes();
    let request = Request::new(kind, 0, &[family(address), 0, 0, 0, a, b, c, d, 0, 0, flags, 0]);
    with_address(request, abi::NDA_DST, address)
}

fn with_address(request: Request, kind: u16, address: IpAddr) -> Request {
    match address {
        IpAddr::V4(ip) => request.attribute(kind, &ip.octets()),
        IpAddr::V6(ip) => request.attribute(kind, &ip.octets()),
    }
}

/// As if a datagram were sent there: an entry that is STALE is probed. None is made and none is changed.
fn use_request(device: u32, address: IpAddr) -> Request {
    neighbour_request(abi::NEWNEIGH, device, address, abi::NTF_USE)
}

fn family(ip: IpAddr) -> u8 {
    (if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

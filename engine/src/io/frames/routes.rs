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

    /// A device's own, as far as is known.
    pub fn mtu(&self, device: u32) -> Option<u32> {
        self.links.get(&device).map(|link| link.mtu)
    }

    /// Whether the kernel has such a device still, as far as is known.
    pub fn is_there(&self, device: u32) -> bool {
        !self.links_known || self.links.len() >= DEVICES_MAX || self.links.contains_key(&device)
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

#[cfg(test)]
mod tests {
    use super::super::netlink::network::{enter, run, thread, within};
    use super::*;
    use crate::alloc_count::allocations_in;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    /// Two ends of a cable, both here: only one has an address, so nobody answers on it. No address makes itself: that would be news at any time.
    const CABLE: &str = "link set lo up
        link add v0 address 02:00:00:00:00:01 type veth peer name v1
        link set v0 addrgenmode none
        link set v1 addrgenmode none
        address add 10.0.0.1/24 dev v0
        address add fe80::1/64 dev v0 nodad
        address add 2001:db8::1/64 dev v0 nodad
        link set v1 up
        link set v0 up";
    const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const SECOND: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn path(local: &str, remote: &str) -> Path {
        Path { local: SocketAddr::new(local.parse().unwrap(), 4_000), remote: SocketAddr::new(remote.parse().unwrap(), 5_004) }
    }

    fn device(name: &str) -> u32 {
        run(&format!("-o link show {name}")).split(':').next().unwrap().parse().unwrap()
    }

    /// With all news taken. The kernel gives news before it answers whoever caused them, but for those of a cable's state.
    fn opened() -> Routes {
        let mut routes = Routes::open().unwrap();
        until("cables are seen up", || run("-o link show up type veth").lines().all(|line| line.contains("state UP")));
        while routes.changed() {}
        routes
    }

    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: not within ten seconds");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_neighbour_and_what_becomes_of_it() {
        within(CABLE, || {
            run("neighbour add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0");
            let mut routes = opened();
            let path = path("10.0.0.1", "10.0.0.2");
            let way = routes.find(&path).unwrap();
            assert_eq!((way.device, way.mtu, way.source), (device("v0"), 1_500, SOURCE));
            assert_eq!(routes.address(way.hop), Some(SECOND));
            assert_eq!(routes.find(&path), Some(way));
            assert_eq!(routes.hops(), 1);

            run("neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:03 dev v0");
            assert_eq!(routes.address(way.hop), Some(SECOND));
            assert!(!routes.changed());
            assert_eq!(routes.address(way.hop), Some([2, 0, 0, 0, 0, 3]));
            run("neighbour delete 10.0.0.2 dev v0");
            assert!(!routes.changed());
            assert_eq!(routes.address(way.hop), None);
            run("neighbour add 10.0.0.2 lladdr 02:00:00:00:00:04 dev v0 nud reachable");
            assert!(!routes.changed());
            assert_eq!(routes.address(way.hop), Some([2, 0, 0, 0, 0, 4]));
            run("neighbour change 10.0.0.2 lladdr 02:00:00:00:00:04 dev v0 nud failed");
            assert!(!routes.changed());
            assert_eq!(routes.address(way.hop), None);
            // Others' neighbours are nobody's hops.
            run("neighbour add 10.0.0.3 lladdr 02:00:00:00:00:02 dev v0");
            run("neighbour add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v1");
            assert!(!routes.changed());
            assert_eq!(routes.address(way.hop), None);
        });
    }

    #[test]
    fn a_neighbour_that_nobody_knows_is_resolved_by_the_kernel() {
        within(CABLE, || {
            let mut routes = opened();
            let (done, wait) = std::sync::mpsc::channel::<()>();
            std::thread::scope(|scope| {
                let (tell, told) = std::sync::mpsc::channel();
                scope.spawn(move || {
                    enter();
                    tell.send(thread()).unwrap();
                    // The network lasts as long as this thread, which goes on when it has been given its end of the cable.
                    wait.recv().unwrap();
                    run("link set v1 up\naddress add 10.0.0.2/24 dev v1");
                    wait.recv().unwrap();
                });
                run(&format!("link set v1 netns {}", told.recv().unwrap()));
                done.send(()).unwrap();
                until("the cable is seen up", || run("-o link show v0").contains("state UP"));
                while routes.changed() {}
                let path = path("10.0.0.1", "10.0.0.2");
                let mut way = routes.find(&path).unwrap();
                let socket = UdpSocket::bind(path.local).unwrap();
                until("the neighbour is resolved", || {
                    socket.send_to(&[0], path.remote).unwrap();
                    if routes.changed() {
                        way = routes.find(&path).unwrap();
                    }
                    routes.address(way.hop).is_some()
                });
                let entry = run("neighbour show to 10.0.0.2");
                let address = routes.address(way.hop).unwrap().map(|byte| format!("{byte:02x}")).join(":");
                assert!(entry.contains(&address), "{address}: {entry}");
                done.send(()).unwrap();
            });
        });
    }

    #[test]
    fn a_stale_neighbour_is_probed_when_it_is_used() {
        within(CABLE, || {
            run("neighbour add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0 nud stale");
            let state = || run("neighbour show to 10.0.0.2").split_whitespace().last().unwrap_or_default().to_owned();
            let mut routes = opened();
            let way = routes.find(&path("10.0.0.1", "10.0.0.2")).unwrap();
            assert!(!routes.changed());
            assert_eq!(state(), "STALE", "nobody uses it yet");
            assert_eq!(routes.address(way.hop), Some(SECOND));
            assert!(!routes.changed());
            assert_eq!(state(), "DELAY");
            // Used all the time: the next time it is stale it is probed at once. That use is over with it.
            assert_eq!(routes.address(way.hop), Some(SECOND));
            run("neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0 nud reachable");
            assert!(!routes.changed());
            assert_eq!(routes.address(way.hop), Some(SECOND));
            run("neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0 nud stale");
            assert!(!routes.changed());
            assert_eq!(state(), "DELAY");
            run("neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0 nud stale");
            assert!(!routes.changed());
            assert!(!routes.changed());
            assert_eq!(state(), "STALE");
        });
    }

    #[test]
    fn gateways_routes_and_their_mtu() {
        within(CABLE, || {
            run("neighbour add 10.0.0.9 lladdr 02:00:00:00:00:02 dev v0
                neighbour add 2001:db8::9 lladdr 02:00:00:00:00:06 dev v0
                route add 10.9.0.0/16 via 10.0.0.9 mtu 1300
                route add 10.8.0.0/16 via 10.0.0.9 mtu 9000
                route add 10.7.0.0/16 via inet6 2001:db8::9 dev v0");
            let mut routes = opened();
            let (near, far) = (path("10.0.0.1", "10.0.0.9"), path("10.0.0.1", "10.9.1.2"));
            let (near, mut way) = (routes.find(&near).unwrap(), routes.find(&far).unwrap());
            assert_eq!((way.mtu, way.hop, way.device), (1_300, near.hop, near.device));
            assert_eq!(routes.address(way.hop), Some(SECOND));
            let large = routes.find(&path("10.0.0.1", "10.8.0.1")).unwrap();
            assert_eq!((large.mtu, large.hop), (1_500, near.hop));
            let via = routes.find(&path("10.0.0.1", "10.7.0.1")).unwrap();
            assert_eq!(routes.address(via.hop), Some([2, 0, 0, 0, 0, 6]));

            // The news of a route make all ways void, and the hops of the old ones unknown.
            run("route delete 10.9.0.0/16");
            assert!(routes.changed());
            assert!(!routes.changed());
            assert_eq!(routes.address(way.hop), None);
            assert_eq!(routes.find(&far), None);
            run("route add 10.9.0.0/16 via 10.0.0.9");
            assert!(routes.changed());
            way = routes.find(&far).unwrap();
            assert_eq!((way.mtu, routes.address(way.hop)), (1_500, Some(SECOND)));
            run("link set v0 mtu 1400");
            assert!(routes.changed());
            assert_eq!(routes.find(&far).unwrap().mtu, 1_400);
        });
    }

    #[test]
    fn only_the_kernel_sends_there() {
        within(CABLE, || {
            run("address add 10.0.1.1/24 dev v0
                route add blackhole 10.9.0.0/16
                route add unreachable 10.8.0.0/16
                -6 route add blackhole 2001:db8:9::/48
                tuntap add t0 mode tun
                link set t0 addrgenmode none
                link set t0 up
                route add 10.7.0.0/16 dev t0
                address add 10.6.0.1 peer 10.6.0.2 dev t0
                route add 10.5.0.0/16 encap ip id 100 dst 10.0.0.2 dev v0
                -6 route add 2001:db8:4::/48 encap seg6 mode encap segs 2001:db8::9 dev v0");
            let mut routes = opened();
            for (local, remote) in [
                ("127.0.0.1", "127.0.0.1"),
                ("10.0.0.1", "127.0.0.1"),
                ("10.0.0.1", "10.0.0.1"),
                ("10.0.0.1", "10.0.1.1"),
                ("10.0.0.1", "10.0.0.255"),
                ("10.0.0.1", "255.255.255.255"),
                ("10.0.0.1", "224.0.0.5"),
                ("10.0.0.1", "0.0.0.0"),
                ("10.0.0.1", "10.9.0.1"),
                ("10.0.0.1", "10.8.0.1"),
                ("10.0.0.1", "10.7.0.1"),
                ("10.6.0.1", "10.6.0.2"),
                ("10.0.0.1", "10.5.0.1"),
                ("10.0.0.1", "192.0.2.1"),
                ("10.0.0.77", "10.0.0.2"),
                ("0.0.0.0", "10.0.0.2"),
                ("10.0.0.1", "2001:db8::2"),
                ("::1", "::1"),
                ("2001:db8::1", "2001:db8::1"),
                ("2001:db8::1", "ff02::1"),
                ("2001:db8::1", "2001:db8:9::1"),
                ("2001:db8::1", "2001:db8:5::1"),
                ("2001:db8::1", "2001:db8:4::1"),
                ("2001:db8::77", "2001:db8::2"),
                ("2001:db8::1", "fe80::2"),
            ] {
                assert_eq!(routes.find(&path(local, remote)), None, "{local} to {remote}");
            }
            assert_eq!(routes.hops(), 0);
            assert!(routes.find(&path("10.0.0.1", "10.0.0.2")).is_some());
            assert!(!routes.changed());
        });
    }

    #[test]
    fn ipv6_and_its_link_local_hops() {
        within(CABLE, || {
            run("neighbour add 2001:db8::2 lladdr 02:00:00:00:00:02 dev v0
                neighbour add fe80::9 lladdr 02:00:00:00:00:09 dev v0
                -6 route add default via fe80::9 dev v0 mtu 1280");
            let mut routes = opened();
            let way = routes.find(&path("2001:db8::1", "2001:db8::2")).unwrap();
            assert_eq!((way.device, way.mtu, way.source, routes.address(way.hop)), (device("v0"), 1_500, SOURCE, Some(SECOND)));
            let way = routes.find(&path("2001:db8::1", "2001:db8:5::1")).unwrap();
            assert_eq!((way.mtu, routes.address(way.hop)), (1_280, Some([2, 0, 0, 0, 0, 9])));
            let mut near = path("2001:db8::1", "fe80::9");
            near.remote = std::net::SocketAddrV6::new("fe80::9".parse().unwrap(), 5_004, 0, device("v0")).into();
            assert_eq!(routes.find(&near).map(|near| near.hop), Some(way.hop));
            run("-6 neighbour delete fe80::9 dev v0");
            assert!(!routes.changed());
            assert_eq!(routes.address(way.hop), None);
            run("address delete 2001:db8::1/64 dev v0");
            assert!(routes.changed());
            assert_eq!(routes.find(&path("2001:db8::1", "2001:db8::2")), None);
        });
    }

    #[test]
    fn policy_by_source_and_by_port_is_honoured() {
        within(CABLE, || {
            run("address add 10.0.0.3/24 dev v0
                link add w0 type veth peer name w1
                link set w0 addrgenmode none
                link set w1 addrgenmode none
                link set w1 up
                link set w0 up
                route add default via 10.0.0.9
                route add default dev w0 table 7
                rule add from 10.0.0.3 table 7");
            let mut routes = opened();
            let (first, second) = (path("10.0.0.1", "192.0.2.1"), path("10.0.0.3", "192.0.2.1"));
            assert_eq!(routes.find(&first).unwrap().device, device("v0"));
            assert_eq!(routes.find(&second).unwrap().device, device("w0"));
            run("rule add ipproto udp sport 4000 dport 5004 table 7");
            assert!(routes.changed());
            assert_eq!(routes.find(&first).unwrap().device, device("w0"));
            let mut other = first;
            other.remote.set_port(5_005);
            assert_eq!(routes.find(&other).unwrap().device, device("v0"));
            run("rule delete from 10.0.0.3 table 7\nrule delete ipproto udp sport 4000 dport 5004 table 7");
            assert!(routes.changed());
            assert_eq!(routes.find(&second).unwrap().device, device("v0"));
        });
    }

    #[test]
    fn devices_that_go_down_and_come_up_change_all() {
        within(CABLE, || {
            let mut routes = opened();
            let path = path("10.0.0.1", "10.0.0.2");
            assert!(routes.find(&path).is_some());
            // What is news of a device without changing anything here is none.
            run("link set v0 alias something");
            assert!(!routes.changed());
            run("link set v0 address 02:00:00:00:00:0a");
            assert!(routes.changed());
            assert_eq!(routes.find(&path).unwrap().source, [2, 0, 0, 0, 0, 10]);
            // Its other end down is a cable pulled; what the kernel says of cables comes when it gets to it.
            run("link set v1 down");
            until("the cable's end", || routes.changed() && routes.find(&path).is_none());
            run("link set v1 up");
            until("the cable is back", || routes.changed() && routes.find(&path).is_some());
            run("link set v0 down");
            assert!(routes.changed());
            assert_eq!(routes.find(&path), None);
            run("link delete v0");
            assert!(routes.changed());
            assert_eq!(routes.find(&path), None);
        });
    }

    #[test]
    fn without_arp_a_neighbour_has_the_devices_own_address() {
        let lines = "link add i0 address 02:00:00:00:00:01 type ifb
            address add 10.0.0.1/24 dev i0
            link set i0 addrgenmode none
            link set i0 up";
        within(lines, || {
            let mut routes = opened();
            let path = path("10.0.0.1", "10.0.0.2");
            let way = routes.find(&path).unwrap();
            assert_eq!((way.source, routes.address(way.hop)), (SOURCE, Some(SOURCE)));
            run("neighbour add 10.0.0.2 lladdr 02:00:00:00:00:02 dev i0");
            assert!(!routes.changed());
            assert_eq!(routes.address(way.hop), Some(SECOND));
            assert_eq!(opened().find(&path).map(|way| way.source), Some(SOURCE));
            run("neighbour delete 10.0.0.2 dev i0");
            assert!(!routes.changed());
            assert_eq!(routes.address(way.hop), Some(SOURCE));
        });
    }

    #[test]
    fn lost_news_are_a_change() {
        within(CABLE, || {
            let mut routes = opened();
            let way = routes.find(&path("10.0.0.1", "10.0.0.2")).unwrap();
            routes.news.room(1).unwrap();
            for last in 10..40 {
                run(&format!("neighbour add 10.0.0.{last} lladdr 02:00:00:00:00:02 dev v0"));
            }
            assert!(routes.changed());
            assert_eq!(routes.address(way.hop), None);
            assert!(routes.find(&path("10.0.0.1", "10.0.0.2")).is_some(), "the devices are read again");
            assert!(!routes.changed());
        });
    }

    #[test]
    fn only_the_kernel_is_believed() {
        within(CABLE, || {
            let mut routes = opened();
            let way = routes.find(&path("10.0.0.1", "10.0.0.2")).unwrap();
            let stranger = Socket::open(libc::NETLINK_ROUTE).unwrap();
            let lie = neighbour_request(abi::NEWNEIGH, way.device, [10, 0, 0, 2].into(), 0).attribute(abi::NDA_LLADDR, &SECOND);
            stranger.lie_to(&routes.news, &lie).unwrap();
            let lie = Request::new(abi::NEWROUTE, 0, &[0; 12]);
            stranger.lie_to(&routes.news, &lie).unwrap();
            assert!(!routes.changed());
            assert_eq!(routes.address(way.hop), None);
        });
    }

    #[test]
    fn nothing_is_allocated_while_news_come() {
        within(CABLE, || {
            let mut routes = opened();
            let way = routes.find(&path("10.0.0.1", "10.0.0.2")).unwrap();
            for step in 0..20 {
                run(&format!("neighbour replace 10.0.0.2 lladdr 02:00:00:00:01:{step:02x} dev v0"));
                run(&format!("link set v1 mtu {}", 1_400 + step));
                let work = || {
                    std::hint::black_box((routes.changed(), routes.address(way.hop)));
                };
                assert_eq!(allocations_in(work), 0);
            }
        });
    }

    #[test]
    fn a_full_table_says_so_until_it_is_emptied() {
        within(CABLE, || {
            run("address add 10.128.0.1/9 dev v0");
            let mut routes = opened();
            let link = routes.links.values().copied().find(|link| link.address == Some(SOURCE)).unwrap();
            for index in 0..HOPS_MAX as u32 {
                assert!(routes.hop(&link, Ipv4Addr::from(0x0A80_0002 + index).into()).is_some());
            }
            let path = path("10.0.0.1", "10.0.0.2");
            assert_eq!(routes.find(&path), None);
            run("route add 10.9.0.0/16 via 10.0.0.9");
            assert!(routes.changed());
            assert!(routes.find(&path).is_some());
        });
    }
}

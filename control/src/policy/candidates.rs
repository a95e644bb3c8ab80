//! Which addresses an answer names. Pure over a list of interfaces; who reads that list is `control.rs`.

use std::net::{IpAddr, SocketAddr};

/// An address of one of the machine's interfaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceAddress {
    pub interface: String,
    pub ip: IpAddr,
    pub up: bool,
}

/// Interfaces of containers: nobody outside this machine reaches their addresses.
const INNER_INTERFACES: [&str; 4] = ["docker", "br-", "veth", "cni"];

/// What clients are told to send to, in the order they shall try it. `announce` replaces the addresses and
/// keeps the ports; a bound address stands for itself; a wildcard stands for every address of its family
/// that somebody outside can reach. IPv4 comes first, because ffmpeg takes only the first one.
pub fn candidates(bound: &[SocketAddr], announce: &[IpAddr], interfaces: &[InterfaceAddress]) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = if announce.is_empty() {
        bound.iter().flat_map(|address| expand(*address, interfaces)).collect()
    } else {
        let port_of = |ip: &IpAddr| {
            let same = bound.iter().find(|address| address.is_ipv4() == ip.is_ipv4());
            same.or(bound.first()).map(SocketAddr::port)
        };
        announce.iter().filter_map(|ip| Some(SocketAddr::new(*ip, port_of(ip)?))).collect()
    };
    // Stable: within a family the operator's order, or the system's, stays.
    found.sort_by_key(SocketAddr::is_ipv6);
    let mut distinct: Vec<SocketAddr> = Vec::with_capacity(found.len());
    for address in found {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    distinct
}

fn expand(bound: SocketAddr, interfaces: &[InterfaceAddress]) -> Vec<SocketAddr> {
    if !bound.ip().is_unspecified() {
        return vec![bound];
    }
    interfaces
        .iter()
        .filter(|address| address.up && address.ip.is_ipv4() == bound.is_ipv4())
        .filter(|address| !address.ip.is_loopback() && !is_link_local(address.ip))
        .filter(|address| !INNER_INTERFACES.iter().any(|prefix| address.interface.starts_with(prefix)))
        .map(|address| SocketAddr::new(address.ip, bound.port()))
        .collect()
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces() -> Vec<InterfaceAddress> {
        [
            ("lo", "127.0.0.1", true),
            ("lo", "::1", true),
            ("eth0", "192.0.2.7", true),
            ("eth0", "2001:db8::7", true),
            ("eth0", "fe80::1", true),
            ("eth1", "198.51.100.7", false),
            ("eth2", "169.254.3.3", true),
            ("docker0", "172.17.0.1", true),
            ("br-3f", "172.18.0.1", true),
            ("veth12", "172.19.0.1", true),
            ("cni0", "10.88.0.1", true),
            ("bridge0", "203.0.113.7", true),
        ]
        .map(|(interface, ip, up)| InterfaceAddress { interface: interface.into(), ip: ip.parse().unwrap(), up })
        .into()
    }

    fn text(bound: &[&str], announce: &[&str]) -> Vec<String> {
        let bound: Vec<SocketAddr> = bound.iter().map(|address| address.parse().unwrap()).collect();
        let announce: Vec<IpAddr> = announce.iter().map(|ip| ip.parse().unwrap()).collect();
        candidates(&bound, &announce, &interfaces()).iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn a_bound_address_stands_for_itself_even_on_loopback() {
        assert_eq!(text(&["127.0.0.1:7081"], &[]), ["127.0.0.1:7081"]);
        assert_eq!(text(&["[::1]:7081", "127.0.0.1:7081"], &[]), ["127.0.0.1:7081", "[::1]:7081"]);
    }

    #[test]
    fn a_wildcard_stands_for_what_others_reach() {
        assert_eq!(text(&["0.0.0.0:9"], &[]), ["192.0.2.7:9", "203.0.113.7:9"]);
        assert_eq!(text(&["[::]:9"], &[]), ["[2001:db8::7]:9"]);
    }

    #[test]
    fn announced_addresses_replace_all_and_take_the_port_of_their_family() {
        assert_eq!(
            text(&["0.0.0.0:7", "[::]:8"], &["2001:db8::9", "203.0.113.9", "203.0.113.9"]),
            ["203.0.113.9:7", "[2001:db8::9]:8"]
        );
        assert_eq!(text(&["0.0.0.0:7"], &["2001:db8::9"]), ["[2001:db8::9]:7"]);
        assert!(text(&[], &["203.0.113.9"]).is_empty());
    }
}

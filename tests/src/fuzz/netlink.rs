//! Netlink: messages and attributes lie within what they came in; a route, a neighbour or a device that is read is the
//! same when it is written and read again.

use spillway_engine::io::frames::netlink::{Attributes, Link, Message, Messages, Neighbour, Request, Route, abi, attributes, link, neighbour, route};
use std::net::IpAddr;

/// The bytes as they are, and once more as the body of a message that is right: few inputs guess a length.
pub fn netlink(bytes: &[u8]) {
    read(bytes);
    body(bytes);
}

fn read(datagram: &[u8]) {
    let mut left = datagram.len();
    for message in Messages(datagram) {
        left = left.checked_sub(16 + message.body.len()).expect("a message beyond its datagram");
        body(message.body);
    }
}

fn body(bytes: &[u8]) {
    for header in [0, 4, 12, 16, 20] {
        within(attributes(bytes, header), bytes.len().saturating_sub(header));
    }
    if let Some(read) = route(bytes) {
        assert_eq!(route(only(&write_route(&read)).body), Some(read));
    }
    if let Some(read) = neighbour(bytes) {
        assert_eq!(neighbour(only(&write_neighbour(&read)).body), Some(read));
    }
    if let Some(read) = link(bytes) {
        assert_eq!(link(only(&write_link(&read)).body), Some(read));
    }
}

fn within(all: Attributes<'_>, mut left: usize) {
    for (kind, value) in all {
        assert!(kind < 0x4000, "flags in a kind");
        left = left.checked_sub(4 + value.len()).expect("an attribute beyond its message");
        within(Attributes(value), value.len());
    }
}

fn only(request: &Request) -> Message<'_> {
    let messages: Vec<Message<'_>> = Messages(request.bytes()).collect();
    assert_eq!(messages.len(), 1, "what is written is one message");
    messages[0]
}

/// An attribute as a value for another.
fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    Request::new(0, 0, &[]).attribute(kind, value).bytes()[16..].to_vec()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn write_route(route: &Route) -> Request {
    let mut header = [0; 12];
    header[7] = route.kind;
    header[8..].copy_from_slice(&route.flags.to_ne_bytes());
    let mut request = Request::new(abi::NEWROUTE, 0, &header);
    if let Some(device) = route.device {
        request = request.attribute(abi::RTA_OIF, &device.to_ne_bytes());
    }
    if let Some(gateway) = route.gateway {
        request = request.attribute(abi::RTA_GATEWAY, &octets(gateway));
    }
    if let Some(mtu) = route.mtu {
        request = request.attribute(abi::RTA_METRICS, &nested(abi::RTAX_MTU, &mtu.to_ne_bytes()));
    }
    if route.special {
        request = request.attribute(abi::RTA_ENCAP, &[]);
    }
    request
}

fn write_neighbour(neighbour: &Neighbour) -> Request {
    let mut header = [0; 12];
    header[0] = if neighbour.address.is_ipv4() { 2 } else { 10 };
    header[4..8].copy_from_slice(&neighbour.device.to_ne_bytes());
    header[8..10].copy_from_slice(&neighbour.state.to_ne_bytes());
    let request = Request::new(abi::NEWNEIGH, 0, &header).attribute(abi::NDA_DST, &octets(neighbour.address));
    match neighbour.link {
        Some(link) => request.attribute(abi::NDA_LLADDR, &link),
        None => request,
    }
}

fn write_link(link: &Link) -> Request {
    let mut header = [0; 16];
    header[2..4].copy_from_slice(&link.kind.to_ne_bytes());
    header[4..8].copy_from_slice(&link.device.to_ne_bytes());
    header[8..12].copy_from_slice(&link.flags.to_ne_bytes());
    let mut request = Request::new(abi::NEWLINK, 0, &header).attribute(abi::IFLA_MTU, &link.mtu.to_ne_bytes());
    if let Some(address) = link.address {
        request = request.attribute(abi::IFLA_ADDRESS, &address);
    }
    if link.vrf {
        request = request.attribute(abi::IFLA_LINKINFO, &nested(abi::IFLA_INFO_SLAVE_KIND, b"vrf\0"));
    }
    if let Some(mtu) = link.mtu6 {
        let values: Vec<u8> = [0, 0, mtu].iter().flat_map(|value| value.to_ne_bytes()).collect();
        request = request.attribute(abi::IFLA_AF_SPEC, &nested(10, &nested(abi::IFLA_INET6_CONF, &values)));
    }
    request
}

//! The sockets: for each media address one UDP socket per shard, and the HTTP listener.
//!
//! Bound once, here; the engine and control inherit them and never bind again, so that a restart of either
//! loses neither the port nor what waits in the queues. Reads nothing from them.

use super::port_holder::{self, PortHolder, Protocol};
use super::sys;
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

/// Buffers of a media socket: 27,193 of 400,000 datagrams were lost over 97 engine kills with the default
/// ones, none with 8 MiB.
pub const BUFFER_BYTES: usize = 8 * 1_024 * 1_024;
/// Connections that wait while control restarts.
const BACKLOG: i32 = 1_024;

/// The sockets of one media address, one per shard, in the shards' order.
pub struct MediaGroup {
    pub address: SocketAddr,
    pub sockets: Vec<Socket>,
    /// The smaller of what the kernel granted for receiving and for sending.
    pub buffer_bytes: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{what} port {address} is taken by {holder}; stop that process, or choose another port with {flag}")]
    Taken { what: &'static str, flag: &'static str, address: SocketAddr, holder: PortHolder },
    #[error(
        "this machine has no IPv6 (wanted {0}); leave --media {0} out, or enable it: sysctl net.ipv6.conf.all.disable_ipv6=0"
    )]
    NoIpv6(SocketAddr),
    #[error("{address} is no address of this machine; see `ip address`, and choose one with {flag}")]
    NotOurs { flag: &'static str, address: SocketAddr },
    #[error("no permission for port {address}; choose one above 1023 with {flag}")]
    NotAllowed { flag: &'static str, address: SocketAddr },
    #[error("cannot open {address}: {step}: {source}")]
    Other { address: SocketAddr, step: &'static str, source: io::Error },
}

const MEDIA: (&str, &str) = ("media", "--media HOST:PORT");
const HTTP: (&str, &str) = ("HTTP", "--http HOST:PORT");

fn bind_error((what, flag): (&'static str, &'static str), address: SocketAddr, source: io::Error) -> BindError {
    let protocol = if what == HTTP.0 { Protocol::Tcp } else { Protocol::Udp };
    match source.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            BindError::Taken { what, flag, address, holder: port_holder::find(protocol, address) }
        }
        Some(libc::EADDRNOTAVAIL)
            if address.is_ipv6() && (address.ip().is_loopback() || address.ip().is_unspecified()) =>
        {
            BindError::NoIpv6(address)
        }
        Some(libc::EAFNOSUPPORT) if address.is_ipv6() => BindError::NoIpv6(address),
        Some(libc::EADDRNOTAVAIL) => BindError::NotOurs { flag, address },
        _ if source.kind() == ErrorKind::PermissionDenied => BindError::NotAllowed { flag, address },
        _ => BindError::Other { address, step: "bind", source },
    }
}

/// Control's listener.
pub fn bind_http(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from(socket))
    };
    bound().map_err(|source| bind_error(HTTP, address, source))
}

impl MediaGroup {
    pub fn bind(address: SocketAddr, shards: usize) -> Result<MediaGroup, BindError> {
        // Once without SO_REUSEPORT: a second server must fail loudly, not take half of the packets.
        if address.port() != 0 {
            udp(address)
                .and_then(|probe| probe.bind(&address.into()))
                .map_err(|source| bind_error(MEDIA, address, source))?;
        }
        let mut group = MediaGroup { address, sockets: Vec::with_capacity(shards), buffer_bytes: usize::MAX };
        for _ in 0..shards {
            let socket = group.bind_one()?;
            // Port 0: the first socket decides.
            group.address = socket.local_addr().ok().and_then(|local| local.as_socket()).unwrap_or(group.address);
            group.sockets.push(socket);
        }
        Ok(group)
    }

    fn bind_one(&mut self) -> Result<Socket, BindError> {
        let address = self.address;
        let at = |step: &'static str| move |source| BindError::Other { address, step, source };
        let socket = udp(address).map_err(|source| bind_error(MEDIA, address, source))?;
        socket.set_reuse_port(true).map_err(at("SO_REUSEPORT"))?;
        socket.set_nonblocking(true).map_err(at("O_NONBLOCK"))?;
        // Every datagram says which of our addresses it came to, so that the answer leaves from there; and
        // datagrams above a path's MTU are fragmented by us or a router instead of being refused.
        let options = match address {
            SocketAddr::V4(_) => [
                (libc::IPPROTO_IP, libc::IP_PKTINFO, 1, "IP_PKTINFO"),
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT, "IP_MTU_DISCOVER"),
            ],
            SocketAddr::V6(_) => [
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO"),
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT, "IPV6_MTU_DISCOVER"),
            ],
        };
        for (level, name, value, step) in options {
            sys::set_option(socket.as_fd(), level, name, value).map_err(at(step))?;
        }
        self.buffer_bytes = self.buffer_bytes.min(enlarge_buffers(&socket));
        socket.bind(&address.into()).map_err(|source| bind_error(MEDIA, address, source))?;
        Ok(socket)
    }
}

fn udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Asks for `BUFFER_BYTES` both ways, past the system's limit where we may (CAP_NET_ADMIN); what was granted.
fn enlarge_buffers(socket: &Socket) -> usize {
    for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        let wanted = BUFFER_BYTES as libc::c_int;
        if sys::set_option(socket.as_fd(), libc::SOL_SOCKET, force, wanted).is_err() {
            // Cannot fail: the kernel takes what its limit allows.
            let _ = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, plain, wanted);
        }
    }
    // socket(7): the kernel doubles the value for its own bookkeeping, and reports it doubled.
    socket.recv_buffer_size().unwrap_or(0).min(socket.send_buffer_size().unwrap_or(0)) / 2
}

/// What to tell when the kernel granted less than was asked for.
pub fn buffer_advice(granted: usize) -> Option<String> {
    (granted < BUFFER_BYTES).then(|| {
        format!(
            "socket buffers are {} KiB instead of {} KiB: a busy node will lose packets. Fix: \
             sysctl -w net.core.rmem_max={BUFFER_BYTES} net.core.wmem_max={BUFFER_BYTES} (then restart Spillway)",
            granted / 1_024,
            BUFFER_BYTES / 1_024
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_0_gives_every_shard_the_same_port() {
        let group = MediaGroup::bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_ne!(group.address.port(), 0);
        for socket in &group.sockets {
            assert_eq!(socket.local_addr().unwrap().as_socket(), Some(group.address));
        }
        assert_eq!(group.sockets.len(), 3);
    }

    #[test]
    fn a_second_server_is_refused_though_the_first_shares_its_port_between_its_shards() {
        let first = MediaGroup::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let refused = MediaGroup::bind(first.address, 2).err().expect("half of the packets would be stolen");
        let text = refused.to_string();
        assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
        assert!(text.contains(&first.address.to_string()), "{text}");
    }

    #[test]
    fn a_taken_http_port_names_its_holder() {
        let first = bind_http("127.0.0.1:0".parse().unwrap()).unwrap();
        let text = bind_http(first.local_addr().unwrap()).err().expect("taken").to_string();
        assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    }

    #[test]
    fn an_address_of_another_machine_is_called_that() {
        // RFC 5737: 192.0.2.0/24 is nobody's.
        let refused = MediaGroup::bind("192.0.2.1:7081".parse().unwrap(), 1).err();
        assert!(matches!(refused, Some(BindError::NotOurs { .. })));
    }

    #[test]
    fn advice_only_when_less_was_granted() {
        assert_eq!(buffer_advice(BUFFER_BYTES), None);
        assert!(buffer_advice(212_992).unwrap().contains("net.core.rmem_max=8388608"));
    }
}

//! The descriptors a shard inherits: its media sockets, bound by the supervisor, and its wake.
//!
//! Owns them for the backend, knows each one's address, and says which one a path leaves from.
//! Never binds or closes for others: the supervisor keeps its own copies.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::cmsg::{self, Name};
use super::sizes::SOCKETS_PER_SHARD_MAX;
use super::Path;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("a shard takes 1 to {SOCKETS_PER_SHARD_MAX} media sockets and was given {0}: give --media at most {SOCKETS_PER_SHARD_MAX} times")]
    Count(usize),
    #[error("descriptor {fd} is no bound UDP socket ({source}): this is a bug of the start-up, please report it")]
    NotBound { fd: RawFd, source: io::Error },
    #[error("the kernel refuses to tell the local address of datagrams on {address} ({source}): IP_PKTINFO is needed, run on a kernel that has it")]
    PacketInfo { address: SocketAddr, source: io::Error },
    #[error("descriptor {fd} cannot be set up for waiting ({source}): this is a bug of the start-up, please report it")]
    Wake { fd: RawFd, source: io::Error },
}

/// One media socket.
#[derive(Debug)]
pub struct Bound {
    descriptor: OwnedFd,
    address: SocketAddr,
    /// An IPv6 socket that also carries IPv4.
    dual: bool,
}

impl Bound {
    pub fn fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// A second descriptor of the same socket.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.descriptor.try_clone()
    }
    /// Whether a datagram from `local` may leave here.
    fn carries(&self, local: &SocketAddr) -> bool {
        let family = match self.address {
            SocketAddr::V4(_) => local.is_ipv4(),
            SocketAddr::V6(_) => local.is_ipv6() || self.dual,
        };
        let ip = self.address.ip();
        family && self.address.port() == local.port() && (ip.is_unspecified() || ip == local.ip())
    }
}

/// All of them, and the eventfd that wakes the shard.
#[derive(Debug)]
pub struct Sockets {
    list: Vec<Bound>,
    wake: OwnedFd,
}

impl Sockets {
    /// `sockets`: bound UDP sockets, one per media address; `wake`: an eventfd.
    pub fn new(sockets: Vec<OwnedFd>, wake: OwnedFd) -> Result<Sockets, SocketError> {
        if sockets.is_empty() || sockets.len() > SOCKETS_PER_SHARD_MAX {
            return Err(SocketError::Count(sockets.len()));
        }
        let list = sockets.into_iter().map(adopt).collect::<Result<Vec<_>, _>>()?;
        // The read that empties the eventfd must not wait when another wake already did.
        set_nonblocking(wake.as_raw_fd(), true).map_err(|source| SocketError::Wake { fd: wake.as_raw_fd(), source })?;
        Ok(Sockets { list, wake })
    }

    pub fn list(&self) -> &[Bound] {
        &self.list
    }
    pub fn wake(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// The socket that `path` leaves from.
    pub(crate) fn choose(&self, path: &Path) -> Option<usize> {
        if path.local.is_ipv4() != path.remote.is_ipv4() {
            return None;
        }
        self.list.iter().position(|socket| socket.carries(&path.local))
    }

    /// Whether names on this socket are IPv6 ones even for IPv4 remotes.
    pub(crate) fn writes_mapped(&self, socket: usize) -> bool {
        self.list.get(socket).is_some_and(|socket| socket.address.is_ipv6())
    }

    /// Takes all wakes that are there.
    pub(crate) fn drain_wake(&self) {
        let mut count = [0_u8; 8];
        // JUSTIFICATION: std reads only through types that own the descriptor.
        // SAFETY: 8 bytes are written into an array of 8. An error means that there was nothing to take.
        unsafe { libc::read(self.wake(), count.as_mut_ptr().cast(), count.len()) };
    }
}

fn adopt(descriptor: OwnedFd) -> Result<Bound, SocketError> {
    let fd = descriptor.as_raw_fd();
    let address = local_address(fd).map_err(|source| SocketError::NotBound { fd, source })?;
    let refused = |source| SocketError::PacketInfo { address, source };
    let mut dual = false;
    match address.ip() {
        IpAddr::V4(_) => set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1).map_err(refused)?,
        IpAddr::V6(_) => {
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1).map_err(refused)?;
            dual = option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).map_err(refused)? == 0;
        }
    }
    Ok(Bound { descriptor, address, dual })
}

fn local_address(fd: RawFd) -> io::Result<SocketAddr> {
    let mut name = Name::EMPTY;
    let mut length = cmsg::NAME_SIZE as libc::socklen_t;
    // JUSTIFICATION: std knows addresses only of the sockets it owns.
    // SAFETY: at most `length` bytes are written into a name of that size.
    let result = unsafe { libc::getsockname(fd, name.as_mut_ptr().cast(), &mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let address = name.bytes().get(..length as usize).and_then(cmsg::parse_name);
    address.filter(|address| address.port() != 0).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

fn set_option(fd: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // JUSTIFICATION: socket2 has no IP_PKTINFO.
    // SAFETY: the kernel reads one i32.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn option(fd: RawFd, level: i32, option: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // JUSTIFICATION: std knows options only of the sockets it owns.
    // SAFETY: the kernel writes at most one i32.
    let result = unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set_nonblocking(fd: RawFd, nonblocking: bool) -> io::Result<()> {
    // JUSTIFICATION: std sets O_NONBLOCK only on the sockets it owns.
    // SAFETY: calls by values.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = if nonblocking { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    // SAFETY: as above.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFL, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::super::suite::eventfd;
    use super::*;
    use std::net::UdpSocket;

    fn path(local: SocketAddr, remote: &str) -> Path {
        Path { local, remote: remote.parse().unwrap() }
    }

    #[test]
    fn a_path_leaves_from_the_socket_of_its_family_address_and_port() {
        let four = UdpSocket::bind("127.0.0.1:0").unwrap();
        let six = UdpSocket::bind("[::1]:0").unwrap();
        let (address4, address6) = (four.local_addr().unwrap(), six.local_addr().unwrap());
        let sockets = Sockets::new(vec![six.into(), four.into()], eventfd()).unwrap();
        assert_eq!(sockets.choose(&path(address4, "192.0.2.1:9")), Some(1));
        assert_eq!(sockets.choose(&path(address6, "[2001:db8::1]:9")), Some(0));
        assert_eq!(sockets.choose(&path(address4, "[2001:db8::1]:9")), None, "families differ");
        let elsewhere = SocketAddr::new("127.0.0.2".parse().unwrap(), address4.port());
        assert_eq!(sockets.choose(&path(elsewhere, "192.0.2.1:9")), None, "not bound to that address");
        let port = SocketAddr::new(address4.ip(), address4.port() ^ 1);
        assert_eq!(sockets.choose(&path(port, "192.0.2.1:9")), None, "not bound to that port");
    }

    #[test]
    fn what_is_no_bound_socket_is_refused() {
        assert!(matches!(Sockets::new(vec![eventfd()], eventfd()), Err(SocketError::NotBound { .. })));
        assert!(matches!(Sockets::new(vec![], eventfd()), Err(SocketError::Count(0))));
        let five = (0..=SOCKETS_PER_SHARD_MAX).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap().into()).collect();
        assert!(matches!(Sockets::new(five, eventfd()), Err(SocketError::Count(5))));
    }
}

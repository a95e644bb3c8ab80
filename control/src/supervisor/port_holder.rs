//! Who holds a port: the kernel's socket tables give an inode, /proc/*/fd the process that has it open.
//!
//! Only asked after a bind was refused, to name the other process; reads /proc and changes nothing.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// The process that has a port, as far as this user may see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortHolder {
    Process {
        pid: u32,
        name: String,
    },
    /// Its descriptors are another user's.
    OtherUser,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortHolder::Process { pid, name } => write!(f, "pid {pid} ({name})"),
            PortHolder::OtherUser => f.write_str("a process of another user (root can see its pid: ss -lunpt)"),
        }
    }
}

/// Who stands in the way of binding `address`.
pub fn find(protocol: Protocol, address: SocketAddr) -> PortHolder {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let inodes: Vec<u64> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|text| inodes_in(&text, protocol, address))
        .collect();
    process_with(&inodes).unwrap_or(PortHolder::OtherUser)
}

const TCP_LISTEN: &str = "0A";

/// The inodes of the sockets in a table of /proc/net that stand in the way of binding `address`.
///
/// A line: `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...`
fn inodes_in(table: &str, protocol: Protocol, address: SocketAddr) -> Vec<u64> {
    let conflicts = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = parse_address(fields.get(1)?)?;
        let listens = protocol == Protocol::Udp || *fields.get(3)? == TCP_LISTEN;
        let overlaps = local.port() == address.port()
            && (local.ip().is_unspecified() || address.ip().is_unspecified() || local.ip() == address.ip());
        if listens && overlaps { fields.get(9)?.parse().ok() } else { None }
    };
    table.lines().skip(1).filter_map(conflicts).collect()
}

/// `0100007F:1BA9`: 32-bit words as the machine keeps them, the port as a number.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |from: usize| {
        let digits = ip.get(from * 8..from * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The process with the lowest pid that has one of these sockets open: of a server's processes that share
/// a socket, the parent.
fn process_with(inodes: &[u64]) -> Option<PortHolder> {
    let names: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut pids: Vec<u32> =
        fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let holds = |pid: &u32| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        descriptors
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .any(|target| names.iter().any(|name| target.as_os_str() == name.as_str()))
    };
    let pid = pids.into_iter().find(holds)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    Some(PortHolder::Process { pid, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[cfg(target_endian = "little")]
    const UDP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  100: 0100007F:1BA9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4001 2 0000000000000000 0
  101: 00000000:1BA9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4002 2 0000000000000000 0
  102: 0200007F:1BA9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4003 2 0000000000000000 0
  103: 0100007F:1BAA 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4004 2 0000000000000000 0
  104: cut short
";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_wildcard_stands_in_the_way_and_another_address_or_port_does_not() {
        let address = "127.0.0.1:7081".parse().unwrap();
        assert_eq!(inodes_in(UDP, Protocol::Udp, address), [4001, 4002]);
        let wildcard = "0.0.0.0:7081".parse().unwrap();
        assert_eq!(inodes_in(UDP, Protocol::Udp, wildcard), [4001, 4002, 4003]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_tcp_connection_holds_no_port_but_a_listener_does() {
        let table = "header
   0: 00000000000000000000000001000000:1BA8 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 51 1
   1: 00000000000000000000000001000000:1BA8 00000000000000000000000001000000:0999 01 0:0 0:0 0 0 0 52 1
";
        assert_eq!(inodes_in(table, Protocol::Tcp, "[::1]:7080".parse().unwrap()), [51]);
    }

    #[test]
    fn the_holder_of_a_real_port_is_this_process() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        for (protocol, address) in
            [(Protocol::Udp, udp.local_addr().unwrap()), (Protocol::Tcp, tcp.local_addr().unwrap())]
        {
            let PortHolder::Process { pid, name } = find(protocol, address) else { panic!("{protocol:?} not found") };
            assert_eq!(pid, std::process::id());
            assert!(!name.is_empty());
        }
    }
}

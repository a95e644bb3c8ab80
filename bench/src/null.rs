//! The null NIC: a device that takes every packet and drops it, so that what is measured is the server and its kernel, without
//! a receiver's half on the same core (performance, method 1).
//!
//! Viewers join over the cable of the lab, with real handshakes. Then the server's route to them is turned to an `ifb`
//! device, which the kernel hands cut packets (no segmentation in "hardware") and which frees them. What viewers send still
//! arrives over the cable, so that the server goes on believing in them; answers to it are lost, which viewers stand for
//! 30 s (consent). The server is the one that always runs: no path of it knows of this.

use crate::lab::command as run;
use crate::run::RunError;
use crate::sys;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

/// Viewers give up 30 s after the last answer; the hold and what is around it have to be shorter.
pub const HOLD_MAX: Duration = Duration::from_secs(20);
const DEVICE: &str = "null0";
/// One viewer in so many stays on the cable, at an address of its own, and opens what it gets: packets that nobody looks at could
/// be anything.
pub const CABLED_EACH: u64 = 1_000;

pub struct NullNic {
    namespace: String,
    viewers: IpAddr,
    cabled: IpAddr,
    /// /proc/net/dev of the server's network.
    counters: Mutex<File>,
}

impl NullNic {
    /// Makes the device in the namespace. The route is not touched yet.
    pub fn make(namespace: &str, open: File, viewers: IpAddr, cabled: IpAddr) -> Result<NullNic, RunError> {
        run("ip", &["-n", namespace, "link", "add", DEVICE, "type", "ifb"])?;
        run("ip", &["-n", namespace, "link", "set", DEVICE, "up"])?;
        // No queue of its own: nothing waits before a NIC that never waits.
        run("ip", &["netns", "exec", namespace, "tc", "qdisc", "replace", "dev", DEVICE, "root", "noqueue"])?;
        run("ip", &["netns", "exec", namespace, "ethtool", "-K", DEVICE, "tx-udp-segmentation", "off", "tso", "off", "gso", "on"])?;
        // The file belongs to the network of the thread that opens it.
        let opened = std::thread::spawn(move || {
            sys::enter_network(&open)?;
            File::open("/proc/thread-self/net/dev")
        });
        let counters = opened.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        let counters = counters.map_err(|error| RunError::Failed(format!("/proc/net/dev: {error}")))?;
        Ok(NullNic { namespace: namespace.to_owned(), viewers, cabled, counters: Mutex::new(counters) })
    }

    /// The address of those who stay on the cable.
    pub fn cabled(&self) -> IpAddr {
        self.cabled
    }

    /// Who is sent to while it is diverted.
    pub fn viewers(&self) -> IpAddr {
        self.viewers
    }

    /// From now on what the server sends to viewers ends here.
    pub fn divert(&self) -> Result<(), RunError> {
        run("ip", &["-n", &self.namespace, "route", "add", &format!("{}/32", self.viewers), "dev", DEVICE])
    }

    pub fn restore(&self) -> Result<(), RunError> {
        run("ip", &["-n", &self.namespace, "route", "delete", &format!("{}/32", self.viewers), "dev", DEVICE])
    }

    /// Packets and bytes the device took so far.
    pub fn taken(&self) -> (u64, u64) {
        let mut text = String::new();
        let mut file = self.counters.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text));
        read.ok().and_then(|_| parse(&text)).unwrap_or_default()
    }
}

/// Packets and bytes. An ifb counts what it is given to send as received.
fn parse(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(DEVICE)?.strip_prefix(':'))?;
    let mut words = line.split_ascii_whitespace();
    let bytes = words.next()?.parse().ok()?;
    Some((words.next()?.parse().ok()?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_found_among_others_and_its_packets_are_not_its_bytes() {
        let text = "Inter-|   Receive        |  Transmit\n face |bytes    packets errs\n    lo: 1 2 0 0\n null0:11322070    9001    0 9001 0 0\nnull01: 3 4 0\n";
        assert_eq!(parse(text), Some((9_001, 11_322_070)));
        assert_eq!(parse("  sb0: 1 2 3"), None);
    }
}

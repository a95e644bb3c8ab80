//! Networks of a test's own: namespaces joined by virtual cables. They go when the test ends, however it ends.
//!
//! A namespace belongs to a thread, and what the thread starts inherits it: nodes, tasks and browsers need to know
//! nothing of it. Needs root.

use crate::kernel::enter_network;
use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Network {
    name: String,
    file: File,
}

impl Network {
    /// Empty but for a loopback interface, which is up.
    pub fn new() -> Network {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("spillway-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let file = File::open(format!("/run/netns/{name}")).expect("the namespace that was just made");
        let network = Network { name, file };
        network.ip(&["link", "set", "lo", "up"]);
        network
    }

    /// What `body` starts is in this network, and so is this thread meanwhile.
    pub fn within<T>(&self, body: impl FnOnce() -> T) -> T {
        /// Also when `body` panics: the thread may have more to clean up outside.
        struct Back(File);
        impl Drop for Back {
            fn drop(&mut self) {
                enter_network(&self.0);
            }
        }
        let _back = Back(enter_network(&self.file));
        body()
    }

    /// `ip ARGUMENTS` in here.
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }

    /// A cable to another network, with an interface and an address (as 192.0.2.1/24) at each end.
    pub fn connect(&self, interface: &str, address: &str, to: &Network, their_interface: &str, their_address: &str) {
        let arguments = ["link", "add", interface, "type", "veth", "peer", "name", their_interface, "netns"];
        self.ip(&[&arguments[..], &[&to.name]].concat());
        for (network, interface, address) in [(self, interface, address), (to, their_interface, their_address)] {
            // An IPv6 address is otherwise of no use for the second in which duplicates are looked for.
            let at_once: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            network.ip(&[&["address", "add", address, "dev", interface], at_once].concat());
            network.ip(&["link", "set", interface, "up"]);
        }
    }
}

impl Default for Network {
    fn default() -> Network {
        Network::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Cables go with their ends. What still runs in here keeps the namespace until it has ended.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip is installed (Debian: iproute2)");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {}: {said} (network namespaces need root)", arguments.join(" "));
}

//! What systemd wants to know (sd_notify(3)): ready, stopping, still alive. Without systemd: nothing.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often `alive` must be said; `None`: nobody listens for it.
    pub watchdog_interval: Option<Duration>,
}

/// Only the supervisor speaks to systemd: its children do not get these.
pub const ENVIRONMENT: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

impl Notify {
    pub fn from_environment() -> Notify {
        let text = |name| std::env::var(name).ok();
        let socket = text("NOTIFY_SOCKET").and_then(|path| Some((UnixDatagram::unbound().ok()?, address(&path)?)));
        let is_ours = text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog_interval =
            text("WATCHDOG_USEC").filter(|_| is_ours && socket.is_some()).and_then(|us| interval(&us));
        Notify { socket, watchdog_interval }
    }

    pub fn is_wanted(&self) -> bool {
        self.socket.is_some()
    }

    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping");
    }
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            // A manager that does not listen changes nothing for us.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}

/// A path, or `@name` of the abstract namespace.
fn address(path: &str) -> Option<SocketAddr> {
    match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).ok(),
        None => SocketAddr::from_pathname(path).ok(),
    }
}

/// A third of the deadline: two lost wake-ups are no reason to be killed.
fn interval(microseconds: &str) -> Option<Duration> {
    let deadline: u64 = microseconds.parse().ok()?;
    (deadline > 0).then(|| Duration::from_micros(deadline) / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_to_an_abstract_socket_and_to_a_path() {
        let name = format!("spillway-notify-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let path = std::env::temp_dir().join(&name);
        let paths = [format!("@{name}"), path.to_str().unwrap().to_owned()];
        for (listener, text) in
            [UnixDatagram::bind_addr(&abstract_name), UnixDatagram::bind(&path)].into_iter().zip(paths)
        {
            let listener = listener.unwrap();
            let socket = Some((UnixDatagram::unbound().unwrap(), address(&text).unwrap()));
            Notify { socket, watchdog_interval: None }.ready("two shards");
            let mut state = [0; 64];
            let length = listener.recv(&mut state).unwrap();
            assert_eq!(&state[..length], b"READY=1\nSTATUS=two shards");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_watchdog_hears_us_three_times_per_deadline() {
        assert_eq!(interval("30000000"), Some(Duration::from_secs(10)));
        assert_eq!(interval("0"), None);
        assert_eq!(interval("soon"), None);
    }
}

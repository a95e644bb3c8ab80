//! What `serve` prints when everything is ready: what was taken and why, and links that work with one click.

use super::terminal::{Colour, coloured};
use super::words::Ready;
use crate::auth::{Grant, Role, SigningKey, mint};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// The room of the links.
pub const ROOM: &str = "demo";
const LINK_TTL: Duration = Duration::from_secs(24 * 3_600);

pub struct Greeting<'a> {
    pub http: SocketAddr,
    pub media: &'a [SocketAddr],
    pub announce: &'a [IpAddr],
    pub shards: usize,
    pub engine: &'a Ready,
    pub data: &'a Path,
    pub key: &'a SigningKey,
    /// Somebody sits at the keys `p` and `q`.
    pub has_keys: bool,
    /// Nobody but the one who started us reads this: links may carry their token.
    pub is_private: bool,
}

impl Greeting<'_> {
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  {} {value}", coloured(Colour::Green, &format!("{name:<8}")));
        };
        line("engine", engine_words(self.engine, self.shards));
        let media: Vec<String> = self.media.iter().map(|address| format!("{address}/udp")).collect();
        line("media", media.join(", "));
        let base = format!("http://{}", reachable(self.http, self.announce));
        if self.is_private {
            let token = |role: Role| {
                let sub = format!("dev-{}", role.name());
                mint(self.key, Grant { room: ROOM.to_owned(), role, sub, acct: None, ttl: LINK_TTL })
            };
            let (publish, view) = (token(Role::Publish), token(Role::View));
            line("open", format!("{base}/#token={}", token(Role::Admin)));
            // With the view token too: the page shares a link that works.
            line("publish", format!("{base}/publish/{ROOM}#token={publish}&view={view}"));
            line("watch", format!("{base}/watch/{ROOM}#token={view}"));
            line("OBS", format!("Service WHIP, Server {base}/whip, Bearer Token {publish}"));
        } else {
            line("publish", format!("{base}/publish/ROOM   watch {base}/watch/ROOM   OBS (WHIP) {base}/whip"));
            let data = self.data.display();
            line("tokens", format!("spillway token --room ROOM --role publish|view --data {data}"));
        }
        if self.has_keys {
            let keys = "press p = start a synthetic publisher, q = quit";
            let _ = writeln!(out, "  {}", coloured(Colour::Bold, keys));
        }
        let mode = if is_loopback_only(self.http, self.media) { "loopback only" } else { "open to the network" };
        let title = coloured(Colour::Bold, &format!("Spillway {}", env!("CARGO_PKG_VERSION")));
        let notes = format!("· {mode} · data in {} · links valid 24 h", self.data.display());
        let notes = if self.is_private { notes.as_str() } else { notes.trim_end_matches(" · links valid 24 h") };
        format!("{title} {}\n{}", coloured(Colour::Dim, notes), out.trim_end())
    }
}

/// `io_uring, 2 shards, UDP GSO 64 (why)`
pub fn engine_words(engine: &Ready, shards: usize) -> String {
    let io = match engine.io.as_str() {
        "uring" => "io_uring",
        "socket" => "plain sockets",
        "frames" => "frames",
        other => other,
    };
    let gso = match engine.gso {
        0 => "UDP GSO off".to_owned(),
        segments => format!("UDP GSO on ({segments} segments)"),
    };
    let why = if engine.why.is_empty() { String::new() } else { format!(" - {}", engine.why) };
    format!("{io}, {shards} shard{}, {gso}{why}", if shards == 1 { "" } else { "s" })
}

pub fn is_loopback_only(http: SocketAddr, media: &[SocketAddr]) -> bool {
    http.ip().is_loopback() && media.iter().all(|address| address.ip().is_loopback())
}

/// Where a browser finds a listener: a wildcard is no address to click on.
fn reachable(http: SocketAddr, announce: &[IpAddr]) -> SocketAddr {
    if !http.ip().is_unspecified() {
        return http;
    }
    let announced = announce.iter().find(|ip| ip.is_ipv4() == http.is_ipv4());
    let loopback = if http.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    SocketAddr::new(announced.copied().unwrap_or(loopback), http.port())
}

/// A service manager keeps what we print, and a token must not reach a log.
pub fn is_logged() -> bool {
    // systemd.exec(5): device and inode of the journal's stream, which may also be inherited by a shell.
    let journal = std::env::var("JOURNAL_STREAM").ok();
    let stdout = std::fs::metadata("/proc/self/fd/1").ok();
    match (journal, stdout) {
        (Some(journal), Some(stdout)) => journal == format!("{}:{}", stdout.dev(), stdout.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(is_private: bool) -> String {
        let engine = Ready { io: "uring".into(), gso: 64, why: "kernel 6.18".into(), ..Ready::default() };
        Greeting {
            http: "127.0.0.1:7080".parse().unwrap(),
            media: &["127.0.0.1:7081".parse().unwrap()],
            announce: &[],
            shards: 2,
            engine: &engine,
            data: Path::new("/data"),
            key: &SigningKey::from_bytes([1; 32]),
            has_keys: true,
            is_private,
        }
        .text()
    }

    #[test]
    fn says_what_was_taken_and_gives_links_that_work() {
        let text = greeting(true);
        assert!(text.contains("io_uring, 2 shards, UDP GSO on (64 segments) - kernel 6.18"), "{text}");
        assert!(text.contains("loopback only"));
        assert!(text.contains("http://127.0.0.1:7080/publish/demo#token=ey"));
        assert!(text.contains("http://127.0.0.1:7080/watch/demo#token=ey"));
        assert!(text.contains("http://127.0.0.1:7080/whip"));
    }

    #[test]
    fn no_token_reaches_a_log() {
        let text = greeting(false);
        assert!(!text.contains("ey"), "{text}");
        assert!(text.contains("spillway token"));
    }

    #[test]
    fn a_wildcard_becomes_an_address_to_click_on() {
        let wildcard = "0.0.0.0:7080".parse().unwrap();
        assert_eq!(reachable(wildcard, &[]).to_string(), "127.0.0.1:7080");
        let announce = ["2001:db8::1".parse().unwrap(), "203.0.113.5".parse().unwrap()];
        assert_eq!(reachable(wildcard, &announce).to_string(), "203.0.113.5:7080");
        assert_eq!(reachable("[::]:7080".parse().unwrap(), &[]).to_string(), "[::1]:7080");
    }
}

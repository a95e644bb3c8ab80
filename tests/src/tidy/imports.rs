//! Who may import whom, and what `proto` may not touch.

use super::code::{Used, blanked, used, without_tests};
use super::{Faults, Source};

/// The rooms of proto and what each may import besides itself. Base is `limits`, `id`, `time`, `rng`.
const PROTO: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("id", &["limits"]),
    ("time", &["limits"]),
    ("rng", &["limits"]),
    ("wire", &["limits", "id", "time", "rng"]),
    ("sdp", &["limits", "id", "time", "rng"]),
    ("link", &["limits", "id", "time", "rng"]),
    // `link` names what control tells an engine about a session (fingerprint, role, pairs): plain types that a
    // session is made from.
    ("session", &["limits", "id", "time", "rng", "wire", "link::command", "link::event"]),
    // Sessions and streams meet in the engine. A record is plain data, and a feed's record is what says how its
    // packets are rewritten.
    ("stream", &["limits", "id", "time", "rng", "wire", "session::record"]),
    // A recording is made of what stands in a reel's slots: plain data of them, nothing that reads or writes reels.
    ("mux", &["limits", "id", "time", "rng", "wire", "stream::reel", "stream::feedback"]),
];

/// Paths that a part of the workspace may not name: (files below, but not these, forbidden paths, why).
struct Ban {
    below: &'static str,
    except: &'static [&'static str],
    paths: &'static [&'static str],
    why: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        below: "control/",
        except: &["control/src/main.rs", "control/src/supervisor.rs", "control/src/supervisor/"],
        paths: &["spillway_engine"],
        why: "control and engine meet in the link only",
    },
    Ban { below: "engine/", except: &[], paths: &["spillway", "axum", "tokio"], why: "control and engine meet in the link only" },
    Ban {
        below: "proto/",
        except: &[],
        paths: &["spillway", "spillway_engine", "axum", "tokio", "socket2", "io_uring", "libc"],
        why: "proto is pure",
    },
    // The ablation sends frames as the engine makes them: that is what it shows.
    Ban { below: "bench/", except: &["bench/benches/ablation.rs"], paths: &["spillway", "spillway_engine"], why: "the load tester shares nothing with a server but proto" },
    Ban {
        below: "engine/src/io/",
        except: &[],
        paths: &[
            "crate::shard",
            "spillway_proto::wire",
            "spillway_proto::sdp",
            "spillway_proto::session",
            "spillway_proto::stream",
            "spillway_proto::mux",
            "spillway_proto::link",
        ],
        why: "io knows datagrams, nothing of what is in them",
    },
    Ban {
        below: "engine/src/",
        except: &["engine/src/io/", "engine/src/start.rs"],
        paths: &["crate::io::uring", "crate::io::socket", "crate::io::frames", "crate::io::sim", "crate::io::probe"],
        why: "only the start-up names a backend",
    },
    Ban {
        below: "control/src/policy/",
        except: &[],
        paths: &["axum", "tokio", "tower_http", "rusqlite", "ureq", "crate::api", "crate::store", "crate::engine_link", "std::fs", "std::env"],
        why: "policy is pure: a request and a time in, commands out",
    },
    Ban {
        below: "control/src/api/",
        except: &[],
        paths: &["crate::supervisor", "crate::cli", "crate::store", "rusqlite"],
        why: "handlers know auth, policy and the service, and decide nothing",
    },
];

/// Faults of one file against the table and the bans. Tests may look wherever they like.
pub fn faults(source: &Source) -> Faults {
    let Some(uses) = product_uses(source) else { return Faults::new() };
    let mut faults = Faults::new();
    let room = source.path.strip_prefix("proto/src/").map(|path| path.split(['/', '.']).next().unwrap_or_default());
    for used in &uses {
        let fault = |why: &str| format!("{}:{}: {} ({why})", source.path, used.line, used.path.join("::"));
        if let Some(room) = room.filter(|room| *room != "lib")
            && let Some(other) = used.path.get(1).filter(|_| used.path[0] == "crate")
            && other != room
            && PROTO.iter().any(|(name, _)| name == other)
        {
            let allowed = PROTO.iter().find(|(name, _)| *name == room).map_or(&[][..], |(_, allowed)| allowed);
            let inner = used.path.get(2).map(|inner| format!("{other}::{inner}")).unwrap_or_default();
            if !allowed.contains(&other.as_str()) && !allowed.contains(&inner.as_str()) {
                faults.push(fault("base <- wire <- {session, stream, mux}; sdp <- base; link <- base"));
            }
        }
        for ban in BANS {
            let is_here = source.path.starts_with(ban.below) && !ban.except.iter().any(|except| source.path.starts_with(except));
            if is_here && ban.paths.iter().any(|path| begins(used, path)) {
                faults.push(fault(ban.why));
            }
        }
    }
    faults
}

/// Clocks, sockets, files, the environment: `proto` gets their results as arguments. Addresses are values.
pub fn purity(source: &Source) -> Faults {
    const IMPURE: &[&str] = &[
        "std::time::SystemTime",
        "std::net::UdpSocket",
        "std::net::TcpStream",
        "std::net::TcpListener",
        "std::net::ToSocketAddrs",
        "std::fs",
        "std::env",
        "std::process",
        "std::thread",
        "std::io",
        "std::os",
    ];
    if !source.path.starts_with("proto/src/") {
        return Faults::new();
    }
    let Some(uses) = product_uses(source) else { return Faults::new() };
    let is_impure = |used: &&Used| {
        let asks_clock = used.path.windows(2).any(|pair| matches!((pair[0].as_str(), pair[1].as_str()), ("Instant" | "SystemTime", "now")));
        asks_clock || IMPURE.iter().any(|path| begins(used, path))
    };
    let say = |used: &Used| format!("{}:{}: {} (proto is given what it needs)", source.path, used.line, used.path.join("::"));
    uses.iter().filter(is_impure).map(say).collect()
}

fn begins(used: &Used, path: &str) -> bool {
    let parts: Vec<&str> = path.split("::").collect();
    used.path.len() >= parts.len() && used.path.iter().zip(parts).all(|(part, wanted)| part == wanted)
}

/// The paths a file of the product uses; None: it is a test, or no Rust.
fn product_uses(source: &Source) -> Option<Vec<Used>> {
    if source.is_test || !source.is_rust() {
        return None;
    }
    let (_, inside) = source.path.split_once("/src/").unwrap_or(("", ""));
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    let module: Vec<&str> = inside.split('/').filter(|part| !matches!(*part, "" | "lib" | "main")).collect();
    Some(used(&without_tests(&blanked(&source.text)), &module))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        faults(&Source::sample(path, text)).len()
    }

    #[test]
    fn proto_points_from_the_remote_to_the_base() {
        assert_eq!(count("proto/src/wire/rtp.rs", "use crate::limits::X; use super::demux;"), 0);
        assert_eq!(count("proto/src/wire/rtp.rs", "use crate::session::srtp;"), 1);
        assert_eq!(count("proto/src/wire/rtp.rs", "fn f() { super::super::stream::reel::f() }"), 1);
        assert_eq!(count("proto/src/session/srtp.rs", "use crate::{wire::rtp, stream::reel};"), 1);
        assert_eq!(count("proto/src/stream/rewrite.rs", "use crate::session::record::FeedRecord;"), 0);
        assert_eq!(count("proto/src/stream/rewrite.rs", "use crate::session::srtp::Sealer;"), 1);
        assert_eq!(count("proto/src/id.rs", "use crate::wire::rtp;"), 1);
        assert_eq!(count("proto/src/link/ring.rs", "use crate::session::record;"), 1);
        assert_eq!(count("proto/src/wire/rtp.rs", "#[cfg(test)]\nmod tests {\n    use crate::session::srtp;\n}\n"), 0);
    }

    #[test]
    fn control_and_engine_do_not_know_each_other() {
        assert_eq!(count("control/src/api/whip.rs", "use spillway_engine::shard;"), 1);
        assert_eq!(count("control/src/main.rs", "fn f() { spillway_engine::run() }"), 0);
        assert_eq!(count("control/src/supervisor/mod.rs", "spillway_engine::run()"), 0);
        assert_eq!(count("engine/src/start.rs", "use tokio::spawn;"), 1);
        assert_eq!(count("engine/src/start.rs", "use spillway_proto::id;"), 0);
        assert_eq!(count("proto/src/time.rs", "use spillway_engine::clock;"), 1);
    }

    #[test]
    fn io_knows_no_rtp_and_shard_no_backend() {
        assert_eq!(count("engine/src/io/uring.rs", "use spillway_proto::wire::rtp;"), 1);
        assert_eq!(count("engine/src/io/uring.rs", "use spillway_proto::time::Time; use super::socket;"), 0);
        assert_eq!(count("engine/src/shard/mod.rs", "use crate::io::uring::Uring;"), 1);
        assert_eq!(count("engine/src/shard/mod.rs", "use crate::io::{Io, Path};"), 0);
        assert_eq!(count("engine/src/start.rs", "use crate::io::uring::Uring;"), 0);
    }

    #[test]
    fn policy_is_pure() {
        assert_eq!(count("control/src/policy/rooms.rs", "use axum::http::StatusCode;"), 1);
        assert_eq!(count("control/src/policy/rooms.rs", "tokio::spawn(f)"), 1);
        assert_eq!(count("control/src/policy/rooms.rs", "use super::super::api;"), 1);
        assert_eq!(count("control/src/policy/rooms.rs", "use crate::auth::Role;"), 0);
        assert_eq!(count("control/src/api/whip.rs", "use crate::store::Store;"), 1);
    }

    #[test]
    fn proto_touches_no_clock_socket_file_or_environment() {
        let impure = |text: &str| purity(&Source::sample("proto/src/session/dtls.rs", text)).len();
        for text in [
            "use std::time::SystemTime;",
            "let now = Instant::now();",
            "let now = std::time::Instant::now();",
            "use std::{fs::File, net::UdpSocket};",
            "std::env::var(x)",
        ] {
            assert!(impure(text) > 0, "{text}");
        }
        for text in ["use std::time::{Duration, Instant};", "use std::net::{IpAddr, SocketAddr};", "// Instant::now()", "\"std::fs\""] {
            assert_eq!(impure(text), 0, "{text}");
        }
        assert_eq!(impure("fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { Instant::now(); }\n}\n"), 0);
    }
}

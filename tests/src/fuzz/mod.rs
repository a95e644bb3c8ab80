//! The bodies of the fuzz targets: what `fuzz/` runs with changed bytes for minutes, and `cargo test` with the
//! committed corpora in a second.
//!
//! A body takes any bytes and checks more than that nothing panics: what was read is written and read again,
//! lengths add up, operations agree with a model. Nothing here depends on the machine, a clock or earlier inputs.

mod choices;
mod depacketize;
mod link;
mod netlink;
mod offer;
mod recording;
mod reel;
#[cfg(test)]
mod replay;
mod rewrite;
mod rtcp;
mod rtp;
mod session;
mod stun;

pub use depacketize::depacketize;
pub use link::link_decode;
pub use netlink::netlink;
pub use offer::sdp_offer;
pub use recording::recording_file;
pub use reel::reel_operations;
pub use rewrite::rewrite_model;
pub use rtcp::rtcp;
pub use rtp::rtp;
pub use session::{session_datagrams, session_datagrams_keyed};
pub use stun::stun;

/// A target: its name in `fuzz/`, and its body.
pub struct Target {
    pub name: &'static str,
    pub body: fn(&[u8]),
}

/// Every target there is, in the order `tests/fuzz all` runs them.
pub const TARGETS: &[Target] = &[
    Target { name: "stun", body: stun },
    Target { name: "rtp", body: rtp },
    Target { name: "rtcp", body: rtcp },
    Target { name: "sdp_offer", body: sdp_offer },
    Target { name: "session_datagrams", body: session_datagrams },
    Target { name: "session_datagrams_keyed", body: session_datagrams_keyed },
    Target { name: "reel_operations", body: reel_operations },
    Target { name: "rewrite_model", body: rewrite_model },
    Target { name: "link_decode", body: link_decode },
    Target { name: "depacketize", body: depacketize },
    Target { name: "recording_file", body: recording_file },
    Target { name: "netlink", body: netlink },
];

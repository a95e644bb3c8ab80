//! Offers to facts, facts to answers. Used by control and bench; the engine never sees SDP.
//!
//! Written by hand: every refusal names its line, every bound is ours, and an answer has few fixed shapes.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod answer;
pub mod codec;
pub mod offer;

use crate::id::Kind;
use std::fmt;

/// How much of an offending line an error repeats.
const QUOTED_CHARS_MAX: usize = 80;
/// Ours are shorter than half of this; a remote's word in one is cut off.
const REASON_CHARS_MAX: usize = 160;

/// Why a description was refused: the line (counted from 1), its text, and what is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {reason} (\"{text}\")")]
pub struct SdpError {
    pub line: usize,
    pub text: String,
    pub reason: String,
}

impl SdpError {
    pub(crate) fn new(line: usize, text: &str, reason: impl Into<String>) -> SdpError {
        // Both go into logs and replies, and a reason may repeat a word of the line.
        let clean = |text: &str, most: usize| text.chars().take(most).map(|c| if c.is_control() { '?' } else { c }).collect();
        SdpError { line, text: clean(text, QUOTED_CHARS_MAX), reason: clean(&reason.into(), REASON_CHARS_MAX) }
    }
}

/// Who opens the DTLS association (RFC 4145 section 4, RFC 8842).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setup {
    ActPass,
    Active,
    Passive,
}

impl Setup {
    pub fn name(self) -> &'static str {
        match self {
            Setup::ActPass => "actpass",
            Setup::Active => "active",
            Setup::Passive => "passive",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }
    pub fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }
    pub fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }
    fn of(name: &str) -> Option<Direction> {
        [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive]
            .into_iter()
            .find(|direction| direction.name() == name)
    }
}

/// What a media section carries; anything but audio and video (a data channel) is refused in the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MediaKind {
    Rtp(Kind),
    Other(String),
}

impl fmt::Display for MediaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MediaKind::Rtp(Kind::Audio) => "audio",
            MediaKind::Rtp(Kind::Video) => "video",
            MediaKind::Other(name) => name,
        })
    }
}

/// Header extensions that Spillway knows by their URI (RFC 8285).
pub const TRANSPORT_CC_URI: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
pub const DEPENDENCY_DESCRIPTOR_URI: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

/// RTCP feedback a payload type may use (RFC 4585, RFC 5104).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Feedback {
    pub nack: bool,
    pub nack_pli: bool,
    pub ccm_fir: bool,
    pub transport_cc: bool,
    pub remb: bool,
}

impl Feedback {
    /// What both sides know (RFC 4585 section 4.2: an answer is a subset of its offer).
    pub fn and(self, other: Feedback) -> Feedback {
        Feedback {
            nack: self.nack && other.nack,
            nack_pli: self.nack_pli && other.nack_pli,
            ccm_fir: self.ccm_fir && other.ccm_fir,
            transport_cc: self.transport_cc && other.transport_cc,
            remb: self.remb && other.remb,
        }
    }
}

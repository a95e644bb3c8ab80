//! What a run may not do: the eight invariants, and how one of them was broken.

use spillway_proto::time::Time;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Invariant {
    /// Every forwarded payload is byte for byte one that was published.
    Payload,
    /// Sequence and timestamps of a feed go on over switches: no hole that the source did not have.
    Continuity,
    /// One (key, SSRC, index), one datagram.
    Nonce,
    /// A viewer receives only what it was admitted to, a stranger nothing.
    Admission,
    /// One active publisher of a room, one epoch.
    OnePublisher,
    /// What is accounted is what is held.
    Accounting,
    /// After the faults every admitted viewer sees a picture in time.
    Picture,
    /// Nothing is sent to who fell silent.
    Consent,
}

impl Invariant {
    pub const ALL: [Invariant; 8] = [
        Invariant::Payload,
        Invariant::Continuity,
        Invariant::Nonce,
        Invariant::Admission,
        Invariant::OnePublisher,
        Invariant::Accounting,
        Invariant::Picture,
        Invariant::Consent,
    ];

    pub fn letter(self) -> char {
        (b'a' + self as u8) as char
    }

    pub fn text(self) -> &'static str {
        match self {
            Invariant::Payload => "every forwarded payload is byte for byte one that was published",
            Invariant::Continuity => "sequence and timestamps of a feed go on over switches",
            Invariant::Nonce => "for one (key, SSRC, index) every datagram is byte-identical",
            Invariant::Admission => "a viewer receives only what it was admitted to, a stranger nothing",
            Invariant::OnePublisher => "a room has at most one active publisher and epoch",
            Invariant::Accounting => "bytes, feeds and sessions accounted are those held",
            Invariant::Picture => "after the faults every admitted viewer gets a decodable frame in time",
            Invariant::Consent => "nothing is sent to a viewer whose consent has expired",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}) {}", self.letter(), self.text())
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub invariant: Invariant,
    /// Virtual time.
    pub at: Time,
    pub seen: String,
}

impl Violation {
    pub fn new(invariant: Invariant, at: Time, seen: String) -> Violation {
        Violation { invariant, at, seen }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {}\n  seen at {:?}: {}", self.invariant, self.at, self.seen)
    }
}

//! Events: what nobody asked for. Level-triggered: an event says what *is*, so that after an overflow a
//! dump makes control whole again.

use crate::id::{SessionId, TrackId};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// DTLS finished and the fingerprint matched. `profile` is the SRTP profile's number (RFC 7714).
    SessionConnected { session: SessionId, profile: u16 },
    SessionClosed { session: SessionId, reason: CloseReason },
    /// Packets arrive (again), or none came for two seconds.
    TrackState { track: TrackId, live: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum CloseReason {
    /// Control removed it.
    Removed = 1,
    /// The remote said goodbye: DTLS close_notify, or BYE for every SSRC.
    RemoteClosed = 2,
    /// No valid STUN check for 30 s (RFC 7675).
    ConsentExpired = 3,
    /// Nobody completed ICE and DTLS in time.
    NeverConnected = 4,
    HandshakeFailed = 5,
    /// The remote's certificate is not the one its offer promised.
    FingerprintMismatch = 6,
}

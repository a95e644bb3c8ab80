//! Opus payloads (RFC 7587): each packet stands alone.

use super::PayloadFacts;

/// Every packet is a place to begin, so that none is worth a note.
pub fn facts(_payload: &[u8]) -> PayloadFacts {
    PayloadFacts::default()
}

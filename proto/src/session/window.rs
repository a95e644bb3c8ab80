//! The replay window of one SSRC: what index an arriving sequence number means, and whether it came before.
//!
//! Plain data, so that it can stand in a record. It believes what it is told: `srtp::Opener` marks only what has
//! authenticated.

use super::srtp::{INDEX_END, OpenError};

/// How far behind the newest packet one may still arrive: what was sent again within a second at 1,000 packets a
/// second (RFC 3711 section 3.3.2 asks for 64 at least).
pub const WINDOW_PACKETS: u64 = 1_024;
const WINDOW_WORDS: usize = WINDOW_PACKETS as usize / 64;

/// The replay window of one SSRC, plain so that it can stand in a record. All zeros: nothing came yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Window {
    /// The highest index opened.
    pub sequence_max: u64,
    /// By index modulo `WINDOW_PACKETS`, for those up to the highest: it was opened. The highest's is set once
    /// anything was.
    pub bits: [u64; WINDOW_WORDS],
}

pub(super) static NOTHING_OPENED: Window = Window { sequence_max: 0, bits: [0; WINDOW_WORDS] };

impl Window {
    pub fn is_empty(&self) -> bool {
        !self.bit(self.sequence_max)
    }

    fn bit(&self, index: u64) -> bool {
        let (word, mask) = window_place(index);
        self.bits[word] & mask != 0
    }

    /// The index an arriving sequence number most likely has (RFC 3711 section 3.3.1 and appendix A).
    /// None: it lies before the first rollover period, or after the last.
    pub(super) fn estimate(&self, sequence: u16) -> Option<u64> {
        let sequence = u64::from(sequence);
        if self.is_empty() {
            return Some(sequence);
        }
        let (roc, last) = (self.sequence_max >> 16, self.sequence_max & 0xFFFF);
        let roc = if last < 0x8000 {
            if sequence > last + 0x8000 { roc.checked_sub(1)? } else { roc }
        } else if last - 0x8000 > sequence {
            roc + 1
        } else {
            roc
        };
        Some(roc << 16 | sequence).filter(|index| *index < INDEX_END)
    }

    /// Whether `index` may still be opened (RFC 3711 section 3.3.2); changes nothing.
    pub(super) fn check(&self, index: u64) -> Result<(), OpenError> {
        if self.is_empty() || index > self.sequence_max {
            Ok(())
        } else if self.sequence_max - index >= WINDOW_PACKETS {
            Err(OpenError::TooOld)
        } else if self.bit(index) {
            Err(OpenError::Replayed)
        } else {
            Ok(())
        }
    }

    /// Remembers an index whose packet has authenticated.
    pub(super) fn mark(&mut self, index: u64) {
        if self.is_empty() || index > self.sequence_max {
            if index.saturating_sub(self.sequence_max) >= WINDOW_PACKETS {
                self.bits = [0; WINDOW_WORDS];
            } else {
                for skipped in self.sequence_max + 1..index {
                    let (word, mask) = window_place(skipped);
                    self.bits[word] &= !mask;
                }
            }
            self.sequence_max = index;
        } else if self.sequence_max - index >= WINDOW_PACKETS {
            return;
        }
        let (word, mask) = window_place(index);
        self.bits[word] |= mask;
    }
}

fn window_place(index: u64) -> (usize, u64) {
    let position = index % WINDOW_PACKETS;
    (position as usize / 64, 1 << (position % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window in which only `index` came.
    fn only(index: u64) -> Window {
        let mut window = Window::default();
        window.mark(index);
        window
    }

    #[test]
    fn the_estimate_is_the_nearest_index_with_that_sequence() {
        for newest in [0x1_0000u64, 0x1_7FFF, 0x1_8000, 0x1_8001, 0x1_FFFF, 0x5_0001] {
            let window = only(newest);
            for away in [-32_767i64, -32_000, -129, -1, 0, 1, 300, 32_000, 32_767] {
                let index = newest.checked_add_signed(away).unwrap();
                assert_eq!(window.estimate(index as u16), Some(index), "{newest:x} {away}");
            }
        }
    }

    #[test]
    fn there_is_nothing_before_the_first_period_nor_after_the_last() {
        assert_eq!(only(5).estimate(65_530), None);
        assert_eq!(only(INDEX_END - 1).estimate(0), None, "a key ends with its 48 bits");
    }

    /// Random indices around the newest, against a set.
    #[test]
    fn a_window_agrees_with_a_set() {
        let mut rng = crate::rng::Rng::new(8);
        for _ in 0..200 {
            let mut window = Window::default();
            let mut opened = std::collections::BTreeSet::new();
            let mut newest = rng.below(100_000);
            for _ in 0..600 {
                let index = match rng.below(8) {
                    0 => newest + rng.below(3_000),
                    1 => newest.saturating_sub(rng.below(2_000)),
                    2 => newest.saturating_sub(1_020 + rng.below(8)),
                    _ => newest + rng.below(3),
                };
                let expected = match opened.last() {
                    Some(last) if index + WINDOW_PACKETS <= *last => Err(OpenError::TooOld),
                    _ if opened.contains(&index) => Err(OpenError::Replayed),
                    _ => Ok(()),
                };
                assert_eq!(window.check(index), expected, "{index}, newest {:?}", opened.last());
                if expected.is_ok() {
                    window.mark(index);
                    opened.insert(index);
                }
                newest = newest.max(index);
                assert_eq!(window.sequence_max, *opened.last().unwrap());
            }
        }
    }
}

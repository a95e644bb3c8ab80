//! Malformed input for the parsers' tests: every truncation of a valid message and seeded mutations of it.
//! What counts is that the reader comes back; what it says about the bytes is for other tests.

use crate::rng::Rng;

const MUTATIONS: usize = 100_000;

/// Calls `read` with every prefix of each message and with `MUTATIONS` damaged copies in all.
pub fn torture(valid: &[&[u8]], mut read: impl FnMut(&[u8])) {
    for message in valid {
        for length in 0..=message.len() {
            read(&message[..length]);
        }
    }
    let mut rng = Rng::new(0x5111_1A3E);
    let mut damaged = Vec::new();
    for round in 0..MUTATIONS {
        damaged.clear();
        damaged.extend_from_slice(valid[round % valid.len()]);
        for _ in 0..=rng.below(4) {
            let at = rng.below(damaged.len() as u64) as usize;
            match rng.below(4) {
                0 => damaged[at] = rng.next_u32() as u8,
                1 => damaged[at] ^= 1 << rng.below(8),
                // Lengths and counts live at their extremes.
                2 => damaged[at] = if rng.below(2) == 0 { 0 } else { 0xFF },
                _ => {
                    damaged.truncate(at.max(1));
                }
            }
        }
        read(&damaged);
    }
}

//! A hash of whole datagrams that is the same on every machine: 128 bits, a word at a time.
//!
//! Two ciphertexts of one nonce differ in many bits, none chosen by an opponent: no cryptography is needed to tell
//! them apart.

const MULTIPLIERS: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F];

pub fn hash(bytes: &[u8]) -> (u64, u64) {
    let mut state = (0x51_7C_C1_B7_27_22_0A_95u64 ^ bytes.len() as u64, 0x2545_F491_4F6C_DD1Du64);
    let chunks = bytes.chunks_exact(8);
    let mut tail = [0; 8];
    tail[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    for chunk in chunks.chain(std::iter::once(&tail[..])) {
        let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        state = mix(state, word);
    }
    mix(mix(state, 1), 2)
}

/// Takes one more word in.
pub fn mix(state: (u64, u64), word: u64) -> (u64, u64) {
    let one = u128::from(state.0 ^ word) * u128::from(MULTIPLIERS[0]);
    let other = (state.1 ^ word).wrapping_mul(MULTIPLIERS[1]).rotate_left(29);
    (one as u64 ^ (one >> 64) as u64 ^ other, other.wrapping_add(one as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_bit_and_the_length_count() {
        let mut seen = BTreeSet::new();
        for length in [0, 1, 7, 8, 9, 40] {
            let mut bytes = vec![0u8; length];
            assert!(seen.insert(hash(&bytes)));
            for bit in 0..length * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(seen.insert(hash(&bytes)), "{length} {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

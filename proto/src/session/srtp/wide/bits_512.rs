//! Four blocks as one value: AVX-512.
//!
//! What `seal_by` is made of; `bits_256` has the same names. A *part* of a vector begins at a byte of it; around it are zeros, which are
//! neither read nor written.

use super::{BLOCK, REVERSE, bits_256};
use std::arch::x86_64::*;

pub type Vector = __m512i;
pub const BYTES: usize = 64;

/// The same block in each place.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub fn each(block: __m128i) -> Vector {
    _mm512_broadcast_i64x2(block)
}

/// The block in this place, zeros in the others.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub fn at(place: usize, block: __m128i) -> Vector {
    _mm512_maskz_broadcast_i64x2(0b11 << (2 * place), block)
}

/// 0 in the first place, 1 in the next.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn counting() -> Vector {
    _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn first_block(vector: Vector) -> __m128i {
    _mm512_castsi512_si128(vector)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn load(from: &[u8; BYTES]) -> Vector {
    // JUSTIFICATION: the only way into such a register. SAFETY: so many bytes are there.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn store(vector: Vector, into: &mut [u8; BYTES]) {
    // JUSTIFICATION: the only way out of such a register. SAFETY: so many bytes are there.
    unsafe { _mm512_storeu_si512(into.as_mut_ptr().cast(), vector) }
}

/// A part: these bytes, as many as there is room for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn load_part(begin: usize, from: &[u8]) -> Vector {
    if let (0, Some(whole)) = (begin, from.first_chunk()) {
        return load(whole);
    }
    // To load nothing from where nothing is would not fault, but takes the processor 100 ns to find that out.
    if from.is_empty() {
        return _mm512_setzero_si512();
    }
    // JUSTIFICATION: bytes that are too few for a register, without a copy.
    // SAFETY: the mask names bytes from `begin` on, which are the slice's, and no more than it has.
    unsafe { _mm512_maskz_loadu_epi8(mask(begin, from.len()), from.as_ptr().wrapping_sub(begin).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn store_part(vector: Vector, begin: usize, into: &mut [u8]) {
    if let (0, Some(whole)) = (begin, into.first_chunk_mut()) {
        return store(vector, whole);
    }
    // JUSTIFICATION: bytes that are too few for a register, without a copy.
    // SAFETY: the mask names bytes from `begin` on, which are the slice's, and no more than it has.
    unsafe { _mm512_mask_storeu_epi8(into.as_mut_ptr().wrapping_sub(begin).cast(), mask(begin, into.len()), vector) }
}

/// So many bytes from `begin` on, zeros for all else.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn part(vector: Vector, begin: usize, length: usize) -> Vector {
    _mm512_maskz_mov_epi8(mask(begin, length), vector)
}

#[inline]
fn mask(begin: usize, length: usize) -> u64 {
    let ones = |count: usize| if count < BYTES { (1 << count) - 1 } else { u64::MAX };
    ones(begin + length) & !ones(begin)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn xor(a: Vector, b: Vector) -> Vector {
    _mm512_xor_si512(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// By words of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn plus(a: Vector, b: Vector) -> Vector {
    _mm512_add_epi32(a, b)
}

/// The bytes of each block the other way round.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
pub fn reversed(vector: Vector) -> Vector {
    _mm512_shuffle_epi8(vector, each(super::number(REVERSE)))
}

/// The halves of each block.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn swapped(vector: Vector) -> Vector {
    _mm512_shuffle_epi32::<0x4E>(vector)
}

#[inline]
#[target_feature(enable = "avx512f,vaes")]
pub fn aes(vector: Vector, key: Vector) -> Vector {
    _mm512_aesenc_epi128(vector, key)
}

#[inline]
#[target_feature(enable = "avx512f,vaes")]
pub fn aes_last(vector: Vector, key: Vector) -> Vector {
    _mm512_aesenclast_epi128(vector, key)
}

/// Without carry, a half by a half. Bit 0 of `HALVES`: the upper one of `a`, bit 4: of `b`.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
pub fn multiplied<const HALVES: i32>(a: Vector, b: Vector) -> Vector {
    _mm512_clmulepi64_epi128::<HALVES>(a, b)
}

/// Of all blocks.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
pub fn sum(vector: Vector) -> __m128i {
    bits_256::sum(bits_256::xor(_mm512_castsi512_si256(vector), _mm512_extracti64x4_epi64::<1>(vector)))
}

const _: () = assert!(BYTES == 4 * BLOCK);

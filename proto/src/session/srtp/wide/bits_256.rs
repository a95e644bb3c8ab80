//! Two blocks as one value: AVX2. What each means stands in `bits_512`.

use super::{BLOCK, REVERSE};
use std::arch::x86_64::*;

pub type Vector = __m256i;
pub const BYTES: usize = 32;

#[inline]
#[target_feature(enable = "avx2")]
pub fn each(block: __m128i) -> Vector {
    _mm256_broadcastsi128_si256(block)
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn at(place: usize, block: __m128i) -> Vector {
    let zero = _mm_setzero_si128();
    if place == 0 { _mm256_set_m128i(zero, block) } else { _mm256_set_m128i(block, zero) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn counting() -> Vector {
    _mm256_set_epi64x(0, 1, 0, 0)
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn first_block(vector: Vector) -> __m128i {
    _mm256_castsi256_si128(vector)
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn load(from: &[u8; BYTES]) -> Vector {
    // JUSTIFICATION: the only way into such a register. SAFETY: so many bytes are there.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn store(vector: Vector, into: &mut [u8; BYTES]) {
    // JUSTIFICATION: the only way out of such a register. SAFETY: so many bytes are there.
    unsafe { _mm256_storeu_si256(into.as_mut_ptr().cast(), vector) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn load_part(begin: usize, from: &[u8]) -> Vector {
    if let (0, Some(whole)) = (begin, from.first_chunk()) {
        return load(whole);
    }
    if let (BLOCK, Some(half)) = (begin, from.first_chunk()) {
        return at(1, super::block(half));
    }
    let mut bytes = [0; BYTES];
    let length = from.len().min(BYTES - begin);
    bytes[begin..][..length].copy_from_slice(&from[..length]);
    load(&bytes)
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn store_part(vector: Vector, begin: usize, into: &mut [u8]) {
    if let (0, Some(whole)) = (begin, into.first_chunk_mut()) {
        return store(vector, whole);
    }
    if let (BLOCK, Some(half)) = (begin, into.first_chunk_mut()) {
        *half = super::bytes(_mm256_extracti128_si256::<1>(vector));
        return;
    }
    let mut bytes = [0; BYTES];
    store(vector, &mut bytes);
    let length = into.len().min(BYTES - begin);
    into[..length].copy_from_slice(&bytes[begin..][..length]);
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn part(vector: Vector, begin: usize, length: usize) -> Vector {
    let places = _mm256_set_epi64x(0x1F1E_1D1C_1B1A_1918, 0x1716_1514_1312_1110, 0x0F0E_0D0C_0B0A_0908, 0x0706_0504_0302_0100);
    let from = _mm256_cmpgt_epi8(places, _mm256_set1_epi8(begin as i8 - 1));
    let to = _mm256_cmpgt_epi8(_mm256_set1_epi8((begin + length).min(BYTES) as i8), places);
    _mm256_and_si256(vector, _mm256_and_si256(from, to))
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn xor(a: Vector, b: Vector) -> Vector {
    _mm256_xor_si256(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
    xor(xor(a, b), c)
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn plus(a: Vector, b: Vector) -> Vector {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn reversed(vector: Vector) -> Vector {
    _mm256_shuffle_epi8(vector, each(super::number(REVERSE)))
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn swapped(vector: Vector) -> Vector {
    _mm256_shuffle_epi32::<0x4E>(vector)
}

#[inline]
#[target_feature(enable = "avx2,vaes")]
pub fn aes(vector: Vector, key: Vector) -> Vector {
    _mm256_aesenc_epi128(vector, key)
}

#[inline]
#[target_feature(enable = "avx2,vaes")]
pub fn aes_last(vector: Vector, key: Vector) -> Vector {
    _mm256_aesenclast_epi128(vector, key)
}

#[inline]
#[target_feature(enable = "avx2,vpclmulqdq")]
pub fn multiplied<const HALVES: i32>(a: Vector, b: Vector) -> Vector {
    _mm256_clmulepi64_epi128::<HALVES>(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn sum(vector: Vector) -> __m128i {
    _mm_xor_si128(_mm256_castsi256_si128(vector), _mm256_extracti128_si256::<1>(vector))
}

const _: () = assert!(BYTES == 2 * BLOCK);

//! AES-GCM for processors with wide AES (VAES and VPCLMULQDQ): two or four blocks an instruction.
//!
//! Only sealing, only media: the one cipher that runs for each packet of each viewer. A key is expanded here to 576 bytes: round keys and
//! the first 16 powers of the hash key. A packet is sealed in groups of 16 blocks; the processor overlaps the AES of a group with the hash
//! of the one before. Opening, RTCP and processors without these instructions stay with aws-lc, which the tests hold this against.
//!
//! Never: a branch or an address that depends on key or content (only on lengths); a nonce of its own making.
//!
//! ```text
//!      what is encrypted            what is hashed (GHASH)
//!   0  a block of zeros             the header's last block (those before it beforehand)
//!  16  prefix and payload           prefix and payload, encrypted, zeros up to a whole block; both lengths
//!      tag = hash ^ the first block, encrypted
//! ```

use std::arch::x86_64::*;

mod bits_256;
mod bits_512;

const BLOCK: usize = 16;
/// Blocks of a group: as many powers of the hash key are kept.
const GROUP: usize = 16;
const GROUP_BYTES: usize = GROUP * BLOCK;
/// A vector of powers may be read that begins at the last one.
const POWERS: usize = GROUP + 4;
const ROUNDS_MAX: usize = 14;
/// By which a product that is too long is reduced: 1 + x + x^2 + x^7 + x^128, as GHASH writes it from right to left.
const POLYNOMIAL: u128 = 0xC200_0000_0000_0000_0000_0000_0000_0001;
/// Where each byte of a reversed block comes from.
const REVERSE: u128 = 0x0001_0203_0405_0607_0809_0A0B_0C0D_0E0F;

/// How many bits an instruction takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// AVX2: AMD since Zen 3, Intel's desktops since Alder Lake.
    Bits256,
    /// AVX-512: AMD since Zen 4, Intel's servers since Ice Lake.
    Bits512,
}

impl Width {
    /// The greatest one of this processor.
    pub fn here() -> Option<Width> {
        [Width::Bits512, Width::Bits256].into_iter().find(|width| width.is_here())
    }

    /// All that `seal_by` and `expand` name, and nothing else they may be compiled to.
    fn is_here(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        let both = has!("avx2") && has!("aes") && has!("pclmulqdq") && has!("vaes") && has!("vpclmulqdq");
        let wider = || has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
        both && (self == Width::Bits256 || wider())
    }
}

/// An expanded key, in whole cache lines.
#[repr(C, align(64))]
pub struct WideKey {
    /// Of the hash key, times x: from the last one down to the first, zeros behind.
    powers: [[u8; BLOCK]; POWERS],
    rounds: [[u8; BLOCK]; ROUNDS_MAX + 1],
    width: Width,
    is_256: bool,
}

/// One packet, and where it goes: as long as prefix, payload and tag.
struct Packet<'a> {
    nonce: u128,
    header: &'a [u8],
    prefix: &'a [u8],
    payload: &'a [u8],
    out: &'a mut [u8],
}

impl WideKey {
    /// Of 16 or 32 bytes. None: another length, or a width that this processor does not have.
    pub fn new(width: Width, key: &[u8]) -> Option<Box<WideKey>> {
        if !width.is_here() || ![16, 32].contains(&key.len()) {
            return None;
        }
        let (powers, rounds) = ([[0; BLOCK]; POWERS], [[0; BLOCK]; ROUNDS_MAX + 1]);
        let mut expanded = Box::new(WideKey { powers, rounds, width, is_256: key.len() == 32 });
        // JUSTIFICATION: instructions that not each processor has. SAFETY: this one has.
        unsafe { expanded.expand(key) };
        Some(expanded)
    }

    /// Writes `prefix`, a block at most, and `payload`, encrypted, and the tag over them and `header` into `out`, which is as long as they.
    /// The nonce has 96 bits, its first byte the highest.
    #[inline]
    pub fn seal(&self, nonce: u128, header: &[u8], prefix: &[u8], payload: &[u8], out: &mut [u8]) -> Option<()> {
        if prefix.len() > BLOCK || out.len() != prefix.len() + payload.len() + BLOCK {
            return None;
        }
        let packet = Packet { nonce, header, prefix, payload, out };
        // JUSTIFICATION: instructions that not each processor has. SAFETY: there is no key of a width that this one does not have.
        unsafe {
            match (self.width, self.is_256) {
                (Width::Bits512, true) => seal_by_512::<14>(self, packet),
                (Width::Bits512, false) => seal_by_512::<10>(self, packet),
                (Width::Bits256, true) => seal_by_256::<14>(self, packet),
                (Width::Bits256, false) => seal_by_256::<10>(self, packet),
            }
        }
        Some(())
    }

    /// Round keys (FIPS 197 section 5.2), and the powers of the hash key (NIST SP 800-38D section 6.3).
    #[target_feature(enable = "aes,pclmulqdq,avx2")]
    fn expand(&mut self, key: &[u8]) {
        let words = key.len() / 4;
        let rounds = words + 6;
        let mut schedule = [0; 4 * (ROUNDS_MAX + 1)];
        for (word, bytes) in schedule.iter_mut().zip(key.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let mut constant = 1;
        for at in words..4 * (rounds + 1) {
            let mut word = schedule[at - 1];
            if at % words == 0 {
                word = substituted(word).rotate_right(8) ^ constant;
                constant = constant << 1 ^ if constant & 0x80 == 0 { 0 } else { 0x11B };
            } else if words > 6 && at % words == 4 {
                word = substituted(word);
            }
            schedule[at] = schedule[at - words] ^ word;
        }
        for (bytes, word) in self.rounds.as_flattened_mut().as_chunks_mut().0.iter_mut().zip(schedule) {
            *bytes = word.to_le_bytes();
        }
        schedule.fill(0);
        std::hint::black_box(&schedule);

        let mut hash_key = block(&self.rounds[0]);
        for round in &self.rounds[1..rounds] {
            hash_key = _mm_aesenc_si128(hash_key, block(round));
        }
        hash_key = _mm_aesenclast_si128(hash_key, block(&self.rounds[rounds]));
        // The product of two reversed numbers is a bit too low: times x, once and for all.
        let once = u128::from_be_bytes(bytes(hash_key));
        let once = number(once << 1 ^ (once >> 127).wrapping_neg() & POLYNOMIAL);
        let mut power = once;
        for place in self.powers[..GROUP].iter_mut().rev() {
            *place = bytes(power);
            power = product(power, once);
        }
    }

    /// The hash of a header's blocks but the last one, and that.
    #[inline]
    #[target_feature(enable = "pclmulqdq,avx2")]
    fn begin_hash<'a>(&self, header: &'a [u8]) -> (__m128i, &'a [u8]) {
        let (mut hash, mut rest) = (_mm_setzero_si128(), header);
        while let Some((whole, behind)) = rest.split_first_chunk().filter(|(_, behind)| !behind.is_empty()) {
            let hashed = _mm_xor_si128(hash, reversed_block(block(whole)));
            hash = product(hashed, block(&self.powers[GROUP - 1]));
            rest = behind;
        }
        (hash, rest)
    }
}

/// Sealing by one width: the same text for both, because a function names the instructions it may use.
macro_rules! seal_by {
    ($seal_by:ident, $bits:ident, $features:literal) => {
        #[target_feature(enable = $features)]
        fn $seal_by<const ROUNDS: usize>(key: &WideKey, packet: Packet<'_>) {
            use $bits::*;
            const BLOCKS: usize = BYTES / BLOCK;
            const VECTORS: usize = GROUP_BYTES / BYTES;
            let Packet { nonce, header, prefix, payload, out } = packet;
            let (body, tag) = out.split_at_mut(prefix.len() + payload.len());
            // Of the header one block, of the body, and of the lengths one.
            let blocks = 1 + body.len().div_ceil(BLOCK) + 1;
            let lengths = number(u128::from(header.len() as u64 * 8) << 64 | u128::from(body.len() as u64 * 8));
            let powers = key.powers.as_flattened();
            let rounds: [Vector; ROUNDS_MAX + 1] = std::array::from_fn(|round| each(block(&key.rounds[round])));
            let zero = each(number(0));

            // A block's number, from 1 on, stands behind the nonce: reversed, it is the lowest word.
            let mut counters = plus(each(number(nonce << 32 | 1)), counting());
            let (mut hash, header_end) = key.begin_hash(header);
            let mut mask = number(0);
            let mut done = 0;
            while done < blocks {
                let mut stream = [zero; VECTORS];
                for vector in &mut stream {
                    *vector = xor(reversed(counters), rounds[0]);
                    counters = plus(counters, each(number(BLOCKS as u128)));
                }
                for round in &rounds[1..ROUNDS] {
                    for vector in &mut stream {
                        *vector = aes(*vector, *round);
                    }
                }
                for vector in &mut stream {
                    *vector = aes_last(*vector, rounds[ROUNDS]);
                }

                // A sum of products, before it is reduced: low, middle and high.
                let mut sums = [zero; 3];
                let mut add = |hashed, power| {
                    let middle = xor(multiplied::<0x01>(hashed, power), multiplied::<0x10>(hashed, power));
                    sums = [
                        xor(sums[0], multiplied::<0x00>(hashed, power)),
                        xor(sums[1], middle),
                        xor(sums[2], multiplied::<0x11>(hashed, power)),
                    ];
                };
                // Where the group begins in body: a block further left than in the stream, which has one of zeros before it.
                let begin = (done * BLOCK).wrapping_sub(BLOCK);
                let plain = payload.get(begin.wrapping_sub(prefix.len())..).and_then(<[u8]>::first_chunk::<GROUP_BYTES>);
                let sealed = body.get_mut(begin..).and_then(<[u8]>::first_chunk_mut::<GROUP_BYTES>);
                if let (Some(plain), Some(sealed)) = (plain, sealed) {
                    let places = plain.as_chunks().0.iter().zip(sealed.as_chunks_mut().0);
                    for (index, (stream, (plain, sealed))) in stream.into_iter().zip(places).enumerate() {
                        let made = xor(load(plain), stream);
                        store(made, sealed);
                        let hashed = if index == 0 { xor(reversed(made), at(0, hash)) } else { reversed(made) };
                        add(hashed, load_part(0, &powers[index * BYTES..][..BYTES]));
                    }
                } else {
                    // The first group, which the header's end is in, or the last one, with the lengths.
                    let here = (blocks - done).min(GROUP);
                    for (index, stream) in stream.into_iter().enumerate().take(here.div_ceil(BLOCKS)) {
                        let first = done + index * BLOCKS;
                        let (clear, start) = if first == 0 { (BLOCK, 0) } else { (0, body.len().min(first * BLOCK - BLOCK)) };
                        let length = (BYTES - clear).min(body.len() - start);
                        let (plain, authentic) = if first == 0 {
                            mask = first_block(stream);
                            let plain = load_part(BLOCK + prefix.len(), &payload[..length - prefix.len()]);
                            (xor(plain, load_part(BLOCK, prefix)), load_part(0, header_end))
                        } else {
                            (load_part(0, &payload[start - prefix.len()..][..length]), zero)
                        };
                        let made = xor(plain, stream);
                        store_part(made, clear, &mut body[start..][..length]);
                        let mut hashed = reversed(xor(part(made, clear, length), authentic));
                        if index == 0 {
                            hashed = xor(hashed, at(0, hash));
                        }
                        if (first..first + BLOCKS).contains(&(blocks - 1)) {
                            hashed = xor(hashed, at(blocks - 1 - first, lengths));
                        }
                        add(hashed, load_part(0, &powers[(GROUP - here) * BLOCK + index * BYTES..][..BYTES]));
                    }
                }
                // Reduced: what is low is folded into the middle, that into what is high.
                let [low, middle, high] = sums;
                let polynomial = each(number(POLYNOMIAL));
                let middle = xor3(middle, swapped(low), multiplied::<0x10>(low, polynomial));
                hash = sum(xor3(high, swapped(middle), multiplied::<0x10>(middle, polynomial)));
                done += GROUP;
            }
            tag.copy_from_slice(&bytes(_mm_xor_si128(reversed_block(hash), mask)));
        }
    };
}

seal_by!(seal_by_512, bits_512, "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,avx2");
seal_by!(seal_by_256, bits_256, "vaes,vpclmulqdq,aes,pclmulqdq,avx2");

impl Drop for WideKey {
    fn drop(&mut self) {
        self.powers.as_flattened_mut().fill(0);
        self.rounds.as_flattened_mut().fill(0);
        // Else nobody looks at it again, and it need not be done.
        std::hint::black_box(&self.powers);
        std::hint::black_box(&self.rounds);
    }
}

impl std::fmt::Debug for WideKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WideKey").field("width", &self.width).finish_non_exhaustive()
    }
}

/// Of two hashes, of which one was multiplied by x.
#[inline]
#[target_feature(enable = "pclmulqdq,avx2")]
fn product(a: __m128i, b: __m128i) -> __m128i {
    let polynomial = number(POLYNOMIAL);
    let folded = |into, from| {
        let reduced = _mm_clmulepi64_si128::<0x10>(from, polynomial);
        _mm_xor_si128(into, _mm_xor_si128(_mm_shuffle_epi32::<0x4E>(from), reduced))
    };
    let middle = _mm_xor_si128(_mm_clmulepi64_si128::<0x01>(a, b), _mm_clmulepi64_si128::<0x10>(a, b));
    let middle = folded(middle, _mm_clmulepi64_si128::<0x00>(a, b));
    folded(_mm_clmulepi64_si128::<0x11>(a, b), middle)
}

/// The bytes of a word through AES's table, which stands in the processor and not in memory.
#[target_feature(enable = "aes,avx2")]
fn substituted(word: u32) -> u32 {
    _mm_cvtsi128_si32(_mm_aeskeygenassist_si128::<0>(_mm_set1_epi32(word as i32))) as u32
}

#[inline]
#[target_feature(enable = "avx2")]
fn reversed_block(block: __m128i) -> __m128i {
    _mm_shuffle_epi8(block, number(REVERSE))
}

#[inline]
#[target_feature(enable = "avx2")]
fn block(bytes: &[u8; BLOCK]) -> __m128i {
    number(u128::from_le_bytes(*bytes))
}

#[inline]
#[target_feature(enable = "avx2")]
fn bytes(block: __m128i) -> [u8; BLOCK] {
    let halves = [_mm_extract_epi64::<0>(block), _mm_extract_epi64::<1>(block)];
    let mut bytes = [0; BLOCK];
    for (into, half) in bytes.as_chunks_mut().0.iter_mut().zip(halves) {
        *into = half.to_le_bytes();
    }
    bytes
}

#[inline]
#[target_feature(enable = "avx2")]
fn number(bits: u128) -> __m128i {
    _mm_set_epi64x((bits >> 64) as i64, bits as i64)
}

#[cfg(test)]
mod tests;

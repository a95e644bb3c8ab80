//! The key that media is sealed with, expanded by the library that is fastest on this processor. Both write the same bytes.
//!
//! aws-lc takes AES-GCM over AVX-512, and one block after the other without; ring takes the wide AES of AVX2, too, which is
//! what processors without AVX-512 have (AMD before Zen 4, Intel's desktops). A packet of 1,200 bytes, AES-256, thread CPU time:
//! Xeon with AVX-512: aws-lc 160, ring 224 ns (the copy included); EPYC without: 480 to 740 against 330 to 400.

use crate::session::srtp::Profile;
use ::ring::aead as ring;
use aws_lc_rs::aead as aws;

#[derive(Debug)]
pub enum MediaKey {
    /// Out of place: what is encrypted needs no copy before.
    AwsLc(aws::LessSafeKey),
    /// In place. Boxed, so that a session is as small as with the other.
    Ring(Box<ring::LessSafeKey>),
}

impl MediaKey {
    /// `key` is as long as the profile, one of GCM, says.
    pub fn new(profile: Profile, key: &[u8]) -> MediaKey {
        if is_for_ring() { MediaKey::ring(profile, key) } else { MediaKey::aws_lc(profile, key) }
    }

    #[allow(clippy::expect_used, reason = "the profile decides the key's length")]
    pub fn aws_lc(profile: Profile, key: &[u8]) -> MediaKey {
        let algorithm = if profile.key_len() == 32 { &aws::AES_256_GCM } else { &aws::AES_128_GCM };
        let key = aws::UnboundKey::new(algorithm, key).expect("the algorithm was chosen by the key's length");
        MediaKey::AwsLc(aws::LessSafeKey::new(key))
    }

    #[allow(clippy::expect_used, reason = "the profile decides the key's length")]
    pub fn ring(profile: Profile, key: &[u8]) -> MediaKey {
        let algorithm = if profile.key_len() == 32 { &ring::AES_256_GCM } else { &ring::AES_128_GCM };
        let key = ring::UnboundKey::new(algorithm, key).expect("the algorithm was chosen by the key's length");
        MediaKey::Ring(Box::new(ring::LessSafeKey::new(key)))
    }

    /// Writes `prefix` and `payload`, encrypted, and the tag over them and `header` into `out`, which is as long as they.
    #[inline]
    pub fn seal(&self, nonce: [u8; 12], header: &[u8], prefix: &[u8], payload: &[u8], out: &mut [u8]) -> Option<()> {
        match self {
            MediaKey::AwsLc(key) => {
                // The cipher takes plaintext in two pieces and writes them one behind the other.
                let (first, second) = if prefix.is_empty() { (payload, prefix) } else { (prefix, payload) };
                let (out_first, out_second) = out.split_at_mut_checked(first.len())?;
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                key.seal_out_of_place_scatter(nonce, aws::Aad::from(header), first, out_first, second, out_second).ok()
            }
            MediaKey::Ring(key) => {
                let (body, tag) = out.split_at_mut_checked(prefix.len() + payload.len())?;
                let (out_prefix, out_payload) = body.split_at_mut(prefix.len());
                out_prefix.copy_from_slice(prefix);
                out_payload.copy_from_slice(payload);
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                let made = key.seal_in_place_separate_tag(nonce, ring::Aad::from(header), body).ok()?;
                (tag.len() == made.as_ref().len()).then(|| tag.copy_from_slice(made.as_ref()))
            }
        }
    }
}

/// As the libraries ask themselves: ring wants the first three, aws-lc the rest as well.
fn is_for_ring() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let has_wide_aes = has!("avx2") && has!("vaes") && has!("vpclmulqdq");
        let has_avx512 = has!("avx512f") && has!("avx512dq") && has!("avx512bw") && has!("avx512vl");
        has_wide_aes && !has_avx512
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: it does not matter whose key it is. Method: both, over all lengths of prefixes and many of payloads.
    #[test]
    fn both_libraries_write_the_same() {
        for profile in [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm] {
            let key: Vec<u8> = (0..profile.key_len() as u8).map(|byte| byte.wrapping_mul(37)).collect();
            let keys = [MediaKey::aws_lc(profile, &key), MediaKey::ring(profile, &key)];
            let bytes: Vec<u8> = (0..1_500_u32).map(|at| (at * at) as u8).collect();
            for (prefix, payload) in (0..=16).flat_map(|prefix| [0, 1, 15, 16, 17, 95, 160, 1_188, 1_400].map(|payload| (prefix, payload))) {
                let header = &bytes[700..712 + 4 * (prefix % 5)];
                let sealed = keys.each_ref().map(|key| {
                    let mut out = vec![0xEE; prefix + payload + 16];
                    key.seal([prefix as u8; 12], header, &bytes[..prefix], &bytes[16..16 + payload], &mut out).unwrap();
                    out
                });
                assert_eq!(sealed[0], sealed[1], "{profile:?}, {prefix} and {payload} bytes");
                // And it is not what went in.
                assert!(payload < 16 || sealed[0][prefix..prefix + payload] != bytes[16..16 + payload]);
            }
        }
    }

    #[test]
    fn no_room_for_all_of_it_is_no_packet() {
        for key in [MediaKey::aws_lc(Profile::AeadAes128Gcm, &[7; 16]), MediaKey::ring(Profile::AeadAes128Gcm, &[7; 16])] {
            for length in [0, 3, 19, 27, 29] {
                assert_eq!(key.seal([0; 12], &[0; 12], &[1; 2], &[2; 10], &mut vec![0; length]), None, "{length}");
            }
            assert_eq!(key.seal([0; 12], &[0; 12], &[1; 2], &[2; 10], &mut [0; 28]), Some(()));
        }
    }

    /// Goal: the right one on whatever processor the tests run on. Method: the words of the kernel's list, read here.
    #[test]
    fn the_processor_decides() {
        let list = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = list.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has = |words: &[&str]| words.iter().all(|word| flags.split_whitespace().any(|flag| flag == *word));
        let is_ring = has(&["avx2", "vaes", "vpclmulqdq"]) && !has(&["avx512f", "avx512dq", "avx512bw", "avx512vl"]);
        let key = MediaKey::new(Profile::AeadAes256Gcm, &[1; 32]);
        assert_eq!(matches!(key, MediaKey::Ring(_)), is_ring);
    }
}

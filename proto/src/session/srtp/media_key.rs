//! The key that media is sealed with, expanded by what is fastest on this processor. All write the same bytes.
//!
//! Ours (`wide`) where there is wide AES; aws-lc, which is fast without it, too, elsewhere. A packet of 1,200 bytes, AES-256, thread CPU
//! time on an EPYC with AVX-512: ours 195 ns, by 256 bits 247, aws-lc 285 (`bench/benches/seal.rs`).

use crate::session::srtp::{Profile, nonce_bytes};
#[cfg(target_arch = "x86_64")]
use crate::session::srtp::{WideKey, Width};
use aws_lc_rs::aead as aws;

#[derive(Debug)]
pub enum MediaKey {
    AwsLc(aws::LessSafeKey),
    #[cfg(target_arch = "x86_64")]
    Wide(Box<WideKey>),
}

impl MediaKey {
    /// `key` is as long as the profile, one of GCM, says.
    pub fn new(profile: Profile, key: &[u8]) -> MediaKey {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = Width::here().and_then(|width| WideKey::new(width, key)) {
            return MediaKey::Wide(wide);
        }
        MediaKey::aws_lc(profile, key)
    }

    #[allow(clippy::expect_used, reason = "the profile decides the key's length")]
    pub fn aws_lc(profile: Profile, key: &[u8]) -> MediaKey {
        let algorithm = if profile.key_len() == 32 { &aws::AES_256_GCM } else { &aws::AES_128_GCM };
        let key = aws::UnboundKey::new(algorithm, key).expect("the algorithm was chosen by the key's length");
        MediaKey::AwsLc(aws::LessSafeKey::new(key))
    }

    /// Writes `prefix` and `payload`, encrypted, and the tag over them and `header` into `out`, which is as long as they. The nonce has
    /// 96 bits, its first byte the highest.
    #[inline]
    pub fn seal(&self, nonce: u128, header: &[u8], prefix: &[u8], payload: &[u8], out: &mut [u8]) -> Option<()> {
        match self {
            #[cfg(target_arch = "x86_64")]
            MediaKey::Wide(key) => key.seal(nonce, header, prefix, payload, out),
            MediaKey::AwsLc(key) => {
                // The cipher takes plaintext in two pieces and writes them one behind the other.
                let (first, second) = if prefix.is_empty() { (payload, prefix) } else { (prefix, payload) };
                let (out_first, out_second) = out.split_at_mut_checked(first.len())?;
                let nonce = aws::Nonce::assume_unique_for_key(nonce_bytes(nonce));
                key.seal_out_of_place_scatter(nonce, aws::Aad::from(header), first, out_first, second, out_second).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the right one on whatever processor the tests run on. Method: the words of the kernel's list, read here.
    #[test]
    fn the_processor_decides() {
        let list = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = list.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has = |words: &[&str]| words.iter().all(|word| flags.split_whitespace().any(|flag| flag == *word));
        let is_wide = has(&["aes", "pclmulqdq", "avx2", "vaes", "vpclmulqdq"]);
        let width = if has(&["avx512f", "avx512dq", "avx512bw", "avx512vl"]) { "Bits512" } else { "Bits256" };
        let key = format!("{:?}", MediaKey::new(Profile::AeadAes256Gcm, &[1; 32]));
        assert_eq!((key.contains("WideKey"), key.contains(width)), (is_wide, is_wide), "{key}");
    }

    #[test]
    fn no_room_for_all_of_it_is_no_packet() {
        for key in [MediaKey::aws_lc(Profile::AeadAes128Gcm, &[7; 16]), MediaKey::new(Profile::AeadAes128Gcm, &[7; 16])] {
            for length in [0, 3, 19, 27, 29] {
                assert_eq!(key.seal(0, &[0; 12], &[1; 2], &[2; 10], &mut vec![0; length]), None, "{length}");
            }
            assert_eq!(key.seal(0, &[0; 12], &[1; 2], &[2; 10], &mut [0; 28]), Some(()));
        }
    }
}

//! SRTP of the publishers: webrtc-srtp takes some 5 us a packet, which for a thousand rooms is more than a core; this takes a
//! twentieth. Only the two GCM profiles, only sending, only RTP: whatever else there is stays with webrtc-srtp, which is
//! also who opens these packets in the test.

use crate::source::HEADER_BYTES;
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{self, EncryptingKey, EncryptionContext, UnboundCipherKey};

/// RFC 3711 section 4.3.2: which of the keys made of one.
const LABEL_KEY: u8 = 0;
const LABEL_SALT: u8 = 2;

pub struct Sealer {
    key: LessSafeKey,
    salt: [u8; NONCE_LEN],
    /// By source: its SSRC, and the number of its newest packet with the rounds.
    newest: Vec<(u32, u64)>,
}

/// RFC 3711 section 4.3.3 with AES in counter mode: `out` is what the generator gives for a label.
fn derive(master: &[u8], salt: &[u8], label: u8, out: &mut [u8]) -> Option<()> {
    let algorithm = if master.len() == 32 { &cipher::AES_256 } else { &cipher::AES_128 };
    // RFC 7714 section 11: the salt of 96 bits stands left, zeros behind it. The label is XORed 48 bits before the end of the
    // 112 bits that RFC 3711 has.
    let mut iv = [0; 16];
    iv.get_mut(..salt.len())?.copy_from_slice(salt);
    iv[7] ^= label;
    let key = EncryptingKey::ctr(UnboundCipherKey::new(algorithm, master).ok()?).ok()?;
    out.fill(0);
    key.less_safe_encrypt(out, EncryptionContext::Iv128(iv.into())).ok().map(|_| ())
}

impl Sealer {
    /// Of a GCM profile's master key (16 or 32 bytes) and salt (12); nothing of another's.
    pub fn new(master: &[u8], salt: &[u8]) -> Option<Sealer> {
        let algorithm = match (master.len(), salt.len()) {
            (16, NONCE_LEN) => &AES_128_GCM,
            (32, NONCE_LEN) => &AES_256_GCM,
            _ => return None,
        };
        let mut key = vec![0; master.len()];
        derive(master, salt, LABEL_KEY, &mut key)?;
        let mut own = [0; NONCE_LEN];
        derive(master, salt, LABEL_SALT, &mut own)?;
        Some(Sealer { key: LessSafeKey::new(UnboundKey::new(algorithm, &key).ok()?), salt: own, newest: Vec::new() })
    }

    /// Header (ours: 12 bytes) and payload in, the same sealed and with its tag out. Numbers of a source only go up.
    pub fn seal(&mut self, packet: &mut Vec<u8>) -> Option<()> {
        let sequence = u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?);
        let ssrc = u32::from_be_bytes(packet.get(8..12)?.try_into().ok()?);
        let index = match self.newest.iter_mut().find(|(of, _)| *of == ssrc) {
            Some((_, newest)) => {
                *newest += u64::from(sequence.wrapping_sub(*newest as u16));
                *newest
            }
            None => {
                self.newest.push((ssrc, sequence.into()));
                sequence.into()
            }
        };
        // RFC 7714 section 8.1: two zeros, SSRC, rounds and sequence number, XORed with the salt.
        let mut nonce = self.salt;
        let counted = ssrc.to_be_bytes().into_iter().chain(index.to_be_bytes().into_iter().skip(2));
        nonce.iter_mut().skip(2).zip(counted).for_each(|(nonce, byte)| *nonce ^= byte);
        let (header, payload) = packet.split_at_mut_checked(HEADER_BYTES)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(&*header), payload).ok()?;
        packet.extend_from_slice(tag.as_ref());
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_proto::wire::rtp::write_header;
    use webrtc_srtp::context::Context;
    use webrtc_srtp::protection_profile::ProtectionProfile;

    #[test]
    fn somebody_else_opens_what_is_sealed_here_also_after_the_numbers_wrap() {
        for (profile, length) in [(ProtectionProfile::AeadAes128Gcm, 16), (ProtectionProfile::AeadAes256Gcm, 32)] {
            let master: Vec<u8> = (0..length).map(|place| place * 7 + 1).collect();
            let salt: Vec<u8> = (0..12).map(|place| place * 11 + 3).collect();
            let mut sealer = Sealer::new(&master, &salt).unwrap();
            let mut referee = Context::new(&master, &salt, profile, None, None).unwrap();
            for (number, ssrc) in (0..400_u32).flat_map(|number| [(number, 0x1234_5678), (number, 0xfedc_ba98)]) {
                // 65,400 and on: the wrap is in it.
                let sequence = (65_400 + number) as u16;
                let mut packet = vec![0; HEADER_BYTES];
                write_header((&mut packet[..]).try_into().unwrap(), number % 2 == 0, 96, sequence, number * 3_000, ssrc);
                packet.extend((0..100 + number).map(|byte| byte as u8));
                let plain = packet.clone();
                sealer.seal(&mut packet).unwrap();
                assert_eq!(packet.len(), plain.len() + 16);
                assert_eq!(referee.decrypt_rtp(&packet).unwrap(), plain, "{number}");
            }
        }
    }

    #[test]
    fn other_profiles_are_not_ours() {
        assert!(Sealer::new(&[0; 16], &[0; 14]).is_none() && Sealer::new(&[0; 20], &[0; 12]).is_none());
        assert!(Sealer::new(&[0; 16], &[0; 12]).unwrap().seal(&mut vec![0; 11]).is_none());
    }
}

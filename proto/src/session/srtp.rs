//! SRTP and SRTCP (RFC 3711, RFC 7714) on aws-lc (media is sealed by our own, see `media_key`): one `Sealer` and one `Opener` per session.
//!
//! The sealer writes straight into the memory that is sent: header copied in clear, prefix and payload
//! encrypted behind it, no allocation. It keeps no counter:
//! the caller owns the indices (they stand in the record) and never gives one twice with other bytes.
//! The opener works in place, and believes nothing before the tag is right: no state is made, no window
//! moves for a packet that did not authenticate. Key derivation rate is 0, no MKI, as DTLS-SRTP has it.

use crate::limits::{NACK_WINDOW, PUBLISHER_PACKETS_PER_SECOND_MAX, REEL_SLOTS, SSRCS_PER_SESSION_MAX};
use crate::session::record::MasterKey;
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use thiserror::Error;

mod media_key;
pub use media_key::MediaKey;
#[cfg(target_arch = "x86_64")]
mod wide;
#[cfg(target_arch = "x86_64")]
pub use wide::{WideKey, Width};

const RTP_HEADER_MIN: usize = 12;
/// The first RTCP header and its SSRC stay in clear (RFC 3711 section 3.4).
const RTCP_CLEAR: usize = 8;
const RTCP_INDEX_BYTES: usize = 4;
/// E flag of the word that ends an SRTCP packet: the packet is encrypted.
const RTCP_ENCRYPTED: u32 = 1 << 31;
/// RTP indices have 48 bits: rollover counter and sequence number.
const INDEX_END: u64 = 1 << 48;
/// Of an expanded GCM key of aws-lc (some 0.6 KB): what is worth fetching.
pub const KEY_BYTES: usize = 576;
/// Bytes that may stand between header and payload: an RTX sequence, a VP8 descriptor.
pub const PREFIX_BYTES_MAX: usize = 16;

/// The SRTP profiles we speak, by the numbers DTLS gives them (RFC 5764 section 4.1.2, RFC 7714 section 14.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Profile {
    Aes128CmSha1_80 = 0x0001,
    AeadAes128Gcm = 0x0007,
    AeadAes256Gcm = 0x0008,
}

impl Profile {
    pub const fn from_u16(value: u16) -> Option<Profile> {
        Some(match value {
            0x0001 => Profile::Aes128CmSha1_80,
            0x0007 => Profile::AeadAes128Gcm,
            0x0008 => Profile::AeadAes256Gcm,
            _ => return None,
        })
    }
    pub const fn key_len(self) -> usize {
        match self {
            Profile::Aes128CmSha1_80 | Profile::AeadAes128Gcm => 16,
            Profile::AeadAes256Gcm => 32,
        }
    }
    pub const fn salt_len(self) -> usize {
        if self.is_gcm() { 12 } else { 14 }
    }
    /// The tag's length.
    const fn tag_len(self) -> usize {
        if self.is_gcm() { 16 } else { 10 }
    }
    /// Bytes a sealed RTP packet is longer than the plain one.
    pub const fn rtp_overhead(self) -> usize {
        self.tag_len()
    }
    /// Bytes a sealed RTCP packet is longer than the plain one: tag and index word.
    pub const fn rtcp_overhead(self) -> usize {
        self.tag_len() + RTCP_INDEX_BYTES
    }
    pub const fn is_gcm(self) -> bool {
        !matches!(self, Profile::Aes128CmSha1_80)
    }
}

/// Why a packet was not opened. The packet's bytes are worthless afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum OpenError {
    #[error("shorter than its header and tag: not SRTP, or cut on the way")]
    TooShort,
    #[error("not an encrypted packet of version 2: check what else sends to this port")]
    Malformed,
    #[error("this index was opened before: a duplicate or a replay")]
    Replayed,
    #[error("older than the replay window: more than {WINDOW_PACKETS} packets late")]
    TooOld,
    #[error("the tag is wrong: another session's key, or a forged packet")]
    Unauthentic,
    #[error("the remote sends from more than {SSRCS_PER_SESSION_MAX} SSRCs: it must reuse the ones it has")]
    TooManySsrcs,
}

/// An opened RTP packet: `packet[..length]` is plaintext, the payload begins at `header_len`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    pub ssrc: u32,
    /// Rollover counter and sequence number: 48 bits that never wrap in a session.
    pub index: u64,
    pub header_len: usize,
    pub length: usize,
}

/// How far behind the newest packet one of media may still arrive: as far as a reel takes it. A publisher without
/// retransmissions of their own sends again what we ask for within `NACK_WINDOW` as it was (RFC 3711 section 3.3.2
/// asks for 64 at least).
pub const WINDOW_PACKETS: u64 = REEL_SLOTS as u64;
pub const MEDIA_WORDS: usize = REEL_SLOTS / 64;
/// Of control packets, which nobody sends again; and of media, what a record keeps.
const WORDS: usize = 16;

const _: () = assert!(MEDIA_WORDS >= WORDS && WINDOW_PACKETS.is_power_of_two());
const _: () = assert!(
    WINDOW_PACKETS >= REEL_SLOTS as u64
        || WINDOW_PACKETS >= PUBLISHER_PACKETS_PER_SECOND_MAX * NACK_WINDOW.as_millis() as u64 / 1_000,
    "all that a reel takes, or all that is asked for again"
);

/// The replay window of one SSRC, plain so that it can stand in a record. All zeros: nothing came yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window<const N: usize = WORDS> {
    /// The highest index opened.
    pub sequence_max: u64,
    /// By index modulo the number of bits, for those up to the highest: it was opened. The highest's is set once
    /// anything was.
    pub bits: [u64; N],
}

impl<const N: usize> Default for Window<N> {
    fn default() -> Window<N> {
        Window::EMPTY
    }
}

impl Window<MEDIA_WORDS> {
    /// The newest part of it, for a record.
    pub fn kept(&self) -> Window {
        let mut kept = Window { sequence_max: self.sequence_max, bits: [0; WORDS] };
        for block in kept.blocks() {
            kept.bits[block as usize % WORDS] = self.bits[block as usize % MEDIA_WORDS];
        }
        kept
    }

    /// What a record kept: all that is older counts as opened.
    pub fn restored(kept: &Window) -> Window<MEDIA_WORDS> {
        if kept.is_empty() {
            return Window::EMPTY;
        }
        let mut window = Window { sequence_max: kept.sequence_max, bits: [u64::MAX; MEDIA_WORDS] };
        for block in kept.blocks() {
            window.bits[block as usize % MEDIA_WORDS] = kept.bits[block as usize % WORDS];
        }
        window
    }
}

impl<const N: usize> Window<N> {
    const EMPTY: Window<N> = Window { sequence_max: 0, bits: [0; N] };
    const PACKETS: u64 = N as u64 * 64;

    /// Its newest words, each by the number of the 64 indices it is of.
    fn blocks(&self) -> std::ops::RangeInclusive<u64> {
        let newest = self.sequence_max / 64;
        newest.saturating_sub(N as u64 - 1)..=newest
    }

    pub fn is_empty(&self) -> bool {
        !self.bit(self.sequence_max)
    }

    fn bit(&self, index: u64) -> bool {
        let (word, mask) = Self::place(index);
        self.bits[word] & mask != 0
    }

    fn place(index: u64) -> (usize, u64) {
        let position = index % Self::PACKETS;
        (position as usize / 64, 1 << (position % 64))
    }

    /// The index an arriving sequence number most likely has (RFC 3711 section 3.3.1 and appendix A).
    /// None: it lies before the first rollover period, or after the last.
    fn estimate(&self, sequence: u16) -> Option<u64> {
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
    fn check(&self, index: u64) -> Result<(), OpenError> {
        if self.is_empty() || index > self.sequence_max {
            Ok(())
        } else if self.sequence_max - index >= Self::PACKETS {
            Err(OpenError::TooOld)
        } else if self.bit(index) {
            Err(OpenError::Replayed)
        } else {
            Ok(())
        }
    }

    /// Remembers an index whose packet has authenticated.
    fn mark(&mut self, index: u64) {
        if self.is_empty() || index > self.sequence_max {
            if index.saturating_sub(self.sequence_max) >= Self::PACKETS {
                self.bits = [0; N];
            } else {
                for skipped in self.sequence_max + 1..index {
                    let (word, mask) = Self::place(skipped);
                    self.bits[word] &= !mask;
                }
            }
            self.sequence_max = index;
        } else if self.sequence_max - index >= Self::PACKETS {
            return;
        }
        let (word, mask) = Self::place(index);
        self.bits[word] |= mask;
    }
}

/// Encrypts what we send to one remote. Keys are expanded once, here: some 0.6 KB for RTP and as much for RTCP on the heap (GCM).
#[derive(Debug)]
pub struct Sealer {
    profile: Profile,
    keys: Keys<MediaKey>,
}

impl Sealer {
    pub fn new(profile: Profile, master: &MasterKey) -> Sealer {
        Sealer::with(profile, master, MediaKey::new)
    }

    /// With media's key by a library of choice: for comparing them.
    pub fn with(profile: Profile, master: &MasterKey, of_media: fn(Profile, &[u8]) -> MediaKey) -> Sealer {
        Sealer { profile, keys: Keys::derive(profile, master, of_media) }
    }

    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// What media is sealed with, for who wants it in the cache beforehand: aws-lc's points at `KEY_BYTES` of expanded key.
    pub fn media_key(&self) -> Option<&MediaKey> {
        match &self.keys {
            Keys::Gcm(keys) => Some(&keys.rtp.key),
            Keys::Cm(_) => None,
        }
    }

    /// Seals one RTP packet into `out` and returns its length. `header` is the whole RTP header with CSRCs
    /// and extensions; SSRC and sequence number are read from it. `index` is rollover counter and sequence
    /// number, 48 bits. `prefix` (at most 16 bytes) stands before the payload, encrypted like it.
    /// None when `out` is too small, or when `header` is no RTP header.
    pub fn seal_into(
        &self,
        header: &[u8],
        prefix: &[u8],
        payload: &[u8],
        index: u64,
        out: &mut [u8],
    ) -> Option<usize> {
        debug_assert!(prefix.len() <= PREFIX_BYTES_MAX && index < INDEX_END);
        let ssrc = be32(header, 8)?;
        debug_assert_eq!(be16(header, 2), Some(index as u16), "header and index disagree");
        let length = header.len() + prefix.len() + payload.len() + self.profile.rtp_overhead();
        let out = out.get_mut(..length)?;
        let (out_header, out_body) = out.split_at_mut(header.len());
        out_header.copy_from_slice(header);
        match &self.keys {
            Keys::Gcm(keys) => {
                keys.rtp.key.seal(keys.rtp.rtp_nonce(ssrc, index), header, prefix, payload, out_body)?;
            }
            Keys::Cm(keys) => {
                let body = prefix.len() + payload.len();
                out_body[..prefix.len()].copy_from_slice(prefix);
                out_body[prefix.len()..body].copy_from_slice(payload);
                keys.rtp.crypt(ssrc, index, &mut out_body[..body])?;
                let (authenticated, tag) = out.split_at_mut(header.len() + body);
                tag.copy_from_slice(&keys.rtp.tag(authenticated, &roc_of(index)));
            }
        }
        Some(length)
    }

    /// Seals one (compound) RTCP packet into `out` and returns its length. `index` has 31 bits and is
    /// never given twice in a session. None when `out` is too small, or `packet` no RTCP packet.
    pub fn seal_rtcp_into(&self, packet: &[u8], index: u32, out: &mut [u8]) -> Option<usize> {
        debug_assert!(index & RTCP_ENCRYPTED == 0);
        let ssrc = be32(packet, 4)?;
        let word = (index | RTCP_ENCRYPTED).to_be_bytes();
        let length = packet.len() + self.profile.rtcp_overhead();
        let out = out.get_mut(..length)?;
        let (clear, secret) = packet.split_at(RTCP_CLEAR);
        out[..RTCP_CLEAR].copy_from_slice(clear);
        match &self.keys {
            // RFC 7714 section 9.2: ciphertext, tag, index word; the word is authenticated, not encrypted.
            Keys::Gcm(keys) => {
                let (sealed, out_word) = out.split_at_mut(length - RTCP_INDEX_BYTES);
                out_word.copy_from_slice(&word);
                let (out_secret, tag) = sealed[RTCP_CLEAR..].split_at_mut(secret.len());
                let nonce = Nonce::assume_unique_for_key(nonce_bytes(keys.rtcp.rtcp_nonce(ssrc, index)));
                keys.rtcp
                    .key
                    .seal_out_of_place_scatter(nonce, rtcp_aad(clear, word), secret, out_secret, &[], tag)
                    .ok()?;
            }
            // RFC 3711 section 3.4: ciphertext, index word, tag over both.
            Keys::Cm(keys) => {
                let (authenticated, tag) = out.split_at_mut(packet.len() + RTCP_INDEX_BYTES);
                authenticated[RTCP_CLEAR..packet.len()].copy_from_slice(secret);
                keys.rtcp.crypt(ssrc, u64::from(index), &mut authenticated[RTCP_CLEAR..packet.len()])?;
                authenticated[packet.len()..].copy_from_slice(&word);
                tag.copy_from_slice(&keys.rtcp.tag(authenticated, &[]));
            }
        }
        Some(length)
    }
}

/// Decrypts what one remote sends, with a replay window per SSRC, for RTP and for RTCP.
///
/// RTCP needs a window per SSRC too: libsrtp (Chromium, Firefox, OBS) counts SRTCP per sender SSRC, so the
/// same index comes once from the audio's and once from the video's SSRC.
#[derive(Debug)]
pub struct Opener {
    profile: Profile,
    keys: Keys<LessSafeKey>,
    rtp: Windows<MEDIA_WORDS>,
    rtcp: Windows<WORDS>,
}

impl Opener {
    pub fn new(profile: Profile, master: &MasterKey) -> Opener {
        Opener {
            profile,
            keys: Keys::derive(profile, master, aead_key),
            rtp: Windows::default(),
            rtcp: Windows::default(),
        }
    }

    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Opens an SRTP packet in place.
    pub fn open_rtp(&mut self, packet: &mut [u8]) -> Result<Opened, OpenError> {
        let header_len = rtp_header_len(packet)?;
        let tag_len = self.profile.tag_len();
        let length = packet
            .len()
            .checked_sub(tag_len)
            .filter(|length| *length >= header_len)
            .ok_or(OpenError::TooShort)?;
        let sequence = be16(packet, 2).ok_or(OpenError::TooShort)?;
        let ssrc = be32(packet, 8).ok_or(OpenError::TooShort)?;
        let window = self.rtp.before(ssrc)?;
        let index = window.estimate(sequence).ok_or(OpenError::TooOld)?;
        window.check(index)?;
        match &self.keys {
            Keys::Gcm(keys) => {
                let nonce = Nonce::assume_unique_for_key(nonce_bytes(keys.rtp.rtp_nonce(ssrc, index)));
                let (header, body) = packet.split_at_mut(header_len);
                let aad = Aad::from(&*header);
                keys.rtp.key.open_in_place(nonce, aad, body).map_err(|_| OpenError::Unauthentic)?;
            }
            Keys::Cm(keys) => {
                let (authenticated, tag) = packet.split_at_mut(length);
                keys.rtp.verify(authenticated, &roc_of(index), tag)?;
                let body = &mut authenticated[header_len..];
                keys.rtp.crypt(ssrc, index, body).ok_or(OpenError::Unauthentic)?;
            }
        }
        self.rtp.mark(ssrc, index);
        Ok(Opened { ssrc, index, header_len, length })
    }

    /// Opens an SRTCP packet in place: `packet[..length]` is the plain compound packet. Packets without
    /// the E flag are refused: no WebRTC endpoint sends its RTCP in clear (RFC 8827 section 6.5).
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, OpenError> {
        let length = packet
            .len()
            .checked_sub(self.profile.rtcp_overhead())
            .filter(|length| *length >= RTCP_CLEAR)
            .ok_or(OpenError::TooShort)?;
        if packet[0] >> 6 != 2 {
            return Err(OpenError::Malformed);
        }
        let ssrc = be32(packet, 4).ok_or(OpenError::TooShort)?;
        let word_at = if self.profile.is_gcm() { packet.len() - RTCP_INDEX_BYTES } else { length };
        let word = be32(packet, word_at).ok_or(OpenError::TooShort)?;
        if word & RTCP_ENCRYPTED == 0 {
            return Err(OpenError::Malformed);
        }
        let index = word & !RTCP_ENCRYPTED;
        self.rtcp.before(ssrc)?.check(u64::from(index))?;
        match &self.keys {
            Keys::Gcm(keys) => {
                let nonce = Nonce::assume_unique_for_key(nonce_bytes(keys.rtcp.rtcp_nonce(ssrc, index)));
                let (clear, rest) = packet.split_at_mut(RTCP_CLEAR);
                let sealed = &mut rest[..word_at - RTCP_CLEAR];
                let aad = rtcp_aad(clear, word.to_be_bytes());
                keys.rtcp.key.open_in_place(nonce, aad, sealed).map_err(|_| OpenError::Unauthentic)?;
            }
            Keys::Cm(keys) => {
                let (authenticated, tag) = packet.split_at_mut(length + RTCP_INDEX_BYTES);
                keys.rtcp.verify(authenticated, &[], tag)?;
                let secret = &mut authenticated[RTCP_CLEAR..length];
                keys.rtcp.crypt(ssrc, u64::from(index), secret).ok_or(OpenError::Unauthentic)?;
            }
        }
        self.rtcp.mark(ssrc, u64::from(index));
        Ok(length)
    }

    /// The RTP window of an SSRC that has sent, for its record.
    pub fn window(&self, ssrc: u32) -> Option<&Window<MEDIA_WORDS>> {
        self.rtp.find(ssrc)
    }

    /// The SRTCP window of an SSRC that has sent, for its record.
    pub fn rtcp_window(&self, ssrc: u32) -> Option<&Window> {
        self.rtcp.find(ssrc)
    }

    /// Takes up an SSRC where its record left it. False when there is no room for another SSRC.
    pub fn restore_window(&mut self, ssrc: u32, kept: Window) -> bool {
        self.rtp.restore(ssrc, Window::restored(&kept))
    }

    pub fn restore_rtcp_window(&mut self, ssrc: u32, window: Window) -> bool {
        self.rtcp.restore(ssrc, window)
    }
}

/// Windows by SSRC: at most `SSRCS_PER_SESSION_MAX`, so a scan is the fastest look-up. Grows only when an
/// authentic packet brings a new SSRC.
#[derive(Debug, Default)]
struct Windows<const N: usize>(Vec<(u32, Window<N>)>);

impl<const N: usize> Windows<N> {
    fn find(&self, ssrc: u32) -> Option<&Window<N>> {
        self.0.iter().find(|(known, _)| *known == ssrc).map(|(_, window)| window)
    }

    /// What is known of an SSRC before its packet is believed.
    fn before(&self, ssrc: u32) -> Result<&Window<N>, OpenError> {
        match self.find(ssrc) {
            Some(window) => Ok(window),
            None if self.0.len() < SSRCS_PER_SESSION_MAX => Ok(&Window::EMPTY),
            None => Err(OpenError::TooManySsrcs),
        }
    }

    fn mark(&mut self, ssrc: u32, index: u64) {
        if let Some((_, window)) = self.0.iter_mut().find(|(known, _)| *known == ssrc) {
            window.mark(index);
        } else {
            let mut window = Window::default();
            window.mark(index);
            self.restore(ssrc, window);
        }
    }

    fn restore(&mut self, ssrc: u32, window: Window<N>) -> bool {
        if let Some((_, known)) = self.0.iter_mut().find(|(known, _)| *known == ssrc) {
            *known = window;
            return true;
        }
        let room = self.0.len() < SSRCS_PER_SESSION_MAX;
        if room {
            self.0.push((ssrc, window));
        }
        room
    }
}

/// The session keys of one direction. The legacy ones are three times as long and live apart, so that
/// GCM sessions do not pay for them.
#[derive(Debug)]
enum Keys<K> {
    Gcm(GcmKeys<K>),
    Cm(Box<CmKeys>),
}

#[derive(Debug)]
struct GcmKeys<K> {
    rtp: Gcm<K>,
    rtcp: Gcm<LessSafeKey>,
}

#[derive(Debug)]
struct CmKeys {
    rtp: Cm,
    rtcp: Cm,
}

impl<K> Keys<K> {
    /// RFC 3711 section 4.3.2: labels 0 to 2 for SRTP, 3 to 5 for SRTCP. `of_media` expands the key for RTP.
    fn derive(profile: Profile, master: &MasterKey, of_media: fn(Profile, &[u8]) -> K) -> Keys<K> {
        let derivation = Derivation::new(profile, master);
        if profile.is_gcm() {
            Keys::Gcm(GcmKeys {
                rtp: Gcm::new(of_media(profile, &derivation.bytes::<32>(0)[..profile.key_len()]), derivation.bytes(2)),
                rtcp: Gcm::new(aead_key(profile, &derivation.bytes::<32>(3)[..profile.key_len()]), derivation.bytes(5)),
            })
        } else {
            Keys::Cm(Box::new(CmKeys {
                rtp: Cm::new(derivation.bytes(0), derivation.bytes(1), derivation.bytes(2)),
                rtcp: Cm::new(derivation.bytes(3), derivation.bytes(4), derivation.bytes(5)),
            }))
        }
    }
}

/// AES-CM as the pseudo-random function that makes session keys of a master key.
struct Derivation {
    cipher: EncryptingKey,
    salt: [u8; 14],
}

impl Derivation {
    fn new(profile: Profile, master: &MasterKey) -> Derivation {
        // RFC 7714 section 11: a salt of 12 octets is padded on the right with two zero octets.
        let mut salt = [0; 14];
        salt[..profile.salt_len()].copy_from_slice(&master.salt[..profile.salt_len()]);
        Derivation { cipher: counter_mode(&master.key[..profile.key_len()]), salt }
    }

    #[allow(clippy::expect_used, reason = "counter mode takes any length")]
    fn bytes<const LENGTH: usize>(&self, label: u8) -> [u8; LENGTH] {
        let mut iv = [0; 16];
        iv[..14].copy_from_slice(&self.salt);
        iv[7] ^= label;
        let mut stream = [0; LENGTH];
        self.cipher
            .less_safe_encrypt(&mut stream, EncryptionContext::Iv128(FixedLength::from(iv)))
            .expect("counter mode takes any length");
        stream
    }
}

/// A key of 16 or 32 bytes, expanded. Lengths come from `Profile`, never from the network.
#[allow(clippy::expect_used, reason = "no input decides the key's length")]
fn counter_mode(key: &[u8]) -> EncryptingKey {
    let algorithm = if key.len() == 32 { &AES_256 } else { &AES_128 };
    let key = UnboundCipherKey::new(algorithm, key).expect("the algorithm was chosen by the key's length");
    EncryptingKey::ctr(key).expect("AES has a counter mode")
}

/// `key` is as long as the profile, one of GCM, says.
#[allow(clippy::expect_used, reason = "the profile decides the key's length")]
fn aead_key(profile: Profile, key: &[u8]) -> LessSafeKey {
    let algorithm = if profile.key_len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("the algorithm was chosen by the key's length"))
}

#[derive(Debug)]
struct Gcm<K> {
    key: K,
    /// As nonces are: one number of 96 bits, which needs no way through memory to the cipher.
    salt: u128,
}

impl<K> Gcm<K> {
    fn new(key: K, salt: [u8; 12]) -> Gcm<K> {
        Gcm { key, salt: salt.into_iter().fold(0, |salt, byte| salt << 8 | u128::from(byte)) }
    }

    /// RFC 7714 section 8.1: two zero octets, SSRC, rollover counter, sequence number; XOR salt.
    fn rtp_nonce(&self, ssrc: u32, index: u64) -> u128 {
        self.salt ^ u128::from(ssrc) << 48 ^ u128::from(index)
    }

    /// RFC 7714 section 9.1: two zero octets, SSRC, two zero octets, SRTCP index; XOR salt.
    fn rtcp_nonce(&self, ssrc: u32, index: u32) -> u128 {
        self.salt ^ u128::from(ssrc) << 48 ^ u128::from(index)
    }
}

fn nonce_bytes(nonce: u128) -> [u8; 12] {
    let [_, _, _, _, bytes @ ..] = nonce.to_be_bytes();
    bytes
}

const CM_TAG_BYTES: usize = Profile::Aes128CmSha1_80.tag_len();

/// AES-128 in counter mode and HMAC-SHA1 cut to 80 bits.
#[derive(Debug)]
struct Cm {
    cipher: EncryptingKey,
    authentication: hmac::Key,
    salt: [u8; 14],
}

impl Cm {
    fn new(key: [u8; 16], authentication: [u8; 20], salt: [u8; 14]) -> Cm {
        Cm {
            cipher: counter_mode(&key),
            authentication: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &authentication),
            salt,
        }
    }

    /// Encrypts or decrypts in place: the same in counter mode.
    fn crypt(&self, ssrc: u32, index: u64, bytes: &mut [u8]) -> Option<()> {
        // RFC 3711 section 4.1.1: IV = salt * 2^16 XOR SSRC * 2^64 XOR index * 2^16.
        let mut iv = [0; 16];
        iv[..14].copy_from_slice(&self.salt);
        xor(&mut iv[4..8], ssrc.to_be_bytes());
        xor(&mut iv[8..14], index_bytes(index));
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        self.cipher.less_safe_encrypt(bytes, context).ok().map(|_| ())
    }

    /// RFC 3711 section 4.2: over the authenticated portion, and for RTP the rollover counter behind it.
    fn tag(&self, authenticated: &[u8], roc: &[u8]) -> [u8; CM_TAG_BYTES] {
        let mut context = hmac::Context::with_key(&self.authentication);
        context.update(authenticated);
        context.update(roc);
        let full = context.sign();
        let mut tag = [0; CM_TAG_BYTES];
        tag.copy_from_slice(&full.as_ref()[..CM_TAG_BYTES]);
        tag
    }

    fn verify(&self, authenticated: &[u8], roc: &[u8], tag: &[u8]) -> Result<(), OpenError> {
        verify_slices_are_equal(&self.tag(authenticated, roc), tag).map_err(|_| OpenError::Unauthentic)
    }
}

/// RFC 7714 section 9.3: the clear header and the index word are authenticated with an encrypted packet.
fn rtcp_aad(clear: &[u8], word: [u8; 4]) -> Aad<[u8; RTCP_CLEAR + RTCP_INDEX_BYTES]> {
    let mut aad = [0; RTCP_CLEAR + RTCP_INDEX_BYTES];
    aad[..RTCP_CLEAR].copy_from_slice(clear);
    aad[RTCP_CLEAR..].copy_from_slice(&word);
    Aad::from(aad)
}

/// Fixed header, CSRCs and extension block (RFC 3550 sections 5.1 and 5.3.1).
fn rtp_header_len(packet: &[u8]) -> Result<usize, OpenError> {
    let first = *packet.first().ok_or(OpenError::TooShort)?;
    if first >> 6 != 2 {
        return Err(OpenError::Malformed);
    }
    let mut length = RTP_HEADER_MIN + 4 * usize::from(first & 0x0F);
    if first & 0x10 != 0 {
        let words = be16(packet, length + 2).ok_or(OpenError::TooShort)?;
        length += 4 + 4 * usize::from(words);
    }
    Ok(length)
}

/// Rollover counter and sequence number, as they stand in an IV.
fn index_bytes(index: u64) -> [u8; 6] {
    let [_, _, bytes @ ..] = index.to_be_bytes();
    bytes
}

fn roc_of(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

fn xor<const LENGTH: usize>(into: &mut [u8], bytes: [u8; LENGTH]) {
    for (into, byte) in into.iter_mut().zip(bytes) {
        *into ^= byte;
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;

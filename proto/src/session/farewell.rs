//! What is left of a DTLS association once its keys are made: enough to know the remote's close_notify. 37 bytes in place of
//! the library's object, which holds some 10 KB.
//!
//! The library gives its keys to nobody, but makes its ciphers through a provider: the one here gives them out as they
//! are, and notes the key and the salt of each record that was opened, for the thread that opened it. `dtls` calls the
//! library on one thread and takes the note when the call is over, so it is always of the association it called for;
//! the last one of a handshake is the key of the remote's Finished, with which whatever comes after it is sealed.
//!
//! AES-GCM alone (RFC 5288), which every remote of ours takes; of any other suite there is no `Farewell`, and the
//! object has to stay. Pure, but for that note.

use crate::session::reassembler::{CONTENT_ALERT, RECORD_HEADER, Records, content_type, epoch};
use ::aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use dimpl::CryptoError;
use dimpl::crypto::{Buf, Cipher, CryptoProvider, Dtls12CipherSuite, HashAlgorithm, SupportedDtls12CipherSuite, TmpBuf, aws_lc_rs};
use std::cell::Cell;
use std::fmt;
use std::sync::OnceLock;

const KEY_BYTES_MAX: usize = 32;
const SALT_BYTES: usize = 4;
const EXPLICIT_NONCE_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
const ALERT_BYTES: usize = 2;
/// RFC 5246 section 7.2: the description comes second.
const CLOSE_NOTIFY: u8 = 0;
/// Of one datagram. An honest goodbye is one record.
const ALERTS_MAX: usize = 2;

thread_local! {
    static OPENED: Cell<Option<Farewell>> = const { Cell::new(None) };
}

/// Knows a goodbye of the remote when it comes.
#[derive(Clone, Copy)]
pub struct Farewell {
    key: [u8; KEY_BYTES_MAX],
    key_bytes: u8,
    salt: [u8; SALT_BYTES],
}

/// Without its key.
impl fmt::Debug for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Farewell({} bytes)", self.key_bytes)
    }
}

impl Farewell {
    /// The remote's close_notify, sealed by it. A copy of it is one, too: the session it would end has ended.
    pub fn is_said_by(&self, datagram: &[u8]) -> bool {
        let records = Records(datagram).map_while(Result::ok);
        let alerts = records.filter(|record| content_type(record) == CONTENT_ALERT && epoch(record) == 1);
        alerts.take(ALERTS_MAX).any(|record| self.open(record).is_some_and(|alert| alert[1] == CLOSE_NOTIFY))
    }

    fn open(&self, record: &[u8]) -> Option<[u8; ALERT_BYTES]> {
        let (header, body) = record.split_first_chunk::<RECORD_HEADER>()?;
        let (explicit, sealed) = body.split_first_chunk::<EXPLICIT_NONCE_BYTES>()?;
        let mut sealed: [u8; ALERT_BYTES + TAG_BYTES] = sealed.try_into().ok()?;
        // RFC 5288 section 3.
        let mut nonce = [0; SALT_BYTES + EXPLICIT_NONCE_BYTES];
        nonce[..SALT_BYTES].copy_from_slice(&self.salt);
        nonce[SALT_BYTES..].copy_from_slice(explicit);
        // RFC 6347 section 4.1.2.1: epoch and number, then type and version, then the length of what was sealed.
        let &[kind, v0, v1, e0, e1, n0, n1, n2, n3, n4, n5, _, _] = header;
        let seen = [e0, e1, n0, n1, n2, n3, n4, n5, kind, v0, v1, 0, ALERT_BYTES as u8];
        let algorithm = if usize::from(self.key_bytes) == KEY_BYTES_MAX { &AES_256_GCM } else { &AES_128_GCM };
        let key = UnboundKey::new(algorithm, self.key.get(..usize::from(self.key_bytes))?).ok()?;
        let key = LessSafeKey::new(key);
        let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(seen), &mut sealed).ok()?;
        (&*opened).try_into().ok()
    }
}

/// What was opened last on this thread since the last call, if it was.
pub(super) fn take_opened() -> Option<Farewell> {
    OPENED.take()
}

/// The library's crypto, with its ciphers watched.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider { cipher_suites: suites(), ..aws_lc_rs::default_provider() }
}

/// Its suites of DTLS 1.2. Made once per process.
fn suites() -> &'static [&'static dyn SupportedDtls12CipherSuite] {
    static SUITES: OnceLock<Vec<&'static dyn SupportedDtls12CipherSuite>> = OnceLock::new();
    SUITES.get_or_init(|| {
        let watched = |suite: &&'static dyn SupportedDtls12CipherSuite| -> &'static dyn SupportedDtls12CipherSuite {
            let (_, key, salt) = suite.key_lengths();
            let is_gcm = suite.explicit_nonce_len() == EXPLICIT_NONCE_BYTES && suite.tag_len() == TAG_BYTES;
            if is_gcm && salt == SALT_BYTES && [16, KEY_BYTES_MAX].contains(&key) { Box::leak(Box::new(Watched(*suite))) } else { *suite }
        };
        aws_lc_rs::default_provider().cipher_suites.iter().map(watched).collect()
    })
}

#[derive(Debug)]
struct Watched(&'static dyn SupportedDtls12CipherSuite);

impl SupportedDtls12CipherSuite for Watched {
    fn suite(&self) -> Dtls12CipherSuite {
        self.0.suite()
    }
    fn hash_algorithm(&self) -> HashAlgorithm {
        self.0.hash_algorithm()
    }
    fn key_lengths(&self) -> (usize, usize, usize) {
        self.0.key_lengths()
    }
    fn explicit_nonce_len(&self) -> usize {
        self.0.explicit_nonce_len()
    }
    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }
    fn min_protected_fragment_len(&self) -> usize {
        self.0.min_protected_fragment_len()
    }
    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        let cipher = self.0.create_cipher(key)?;
        let mut noted = Farewell { key: [0; KEY_BYTES_MAX], key_bytes: 0, salt: [0; SALT_BYTES] };
        let Some(place) = noted.key.get_mut(..key.len()) else { return Ok(cipher) };
        place.copy_from_slice(key);
        noted.key_bytes = key.len() as u8;
        Ok(Box::new(Noting { cipher, noted }))
    }
}

#[derive(Debug)]
struct Noting {
    cipher: Box<dyn Cipher>,
    noted: Farewell,
}

impl Cipher for Noting {
    fn encrypt(&mut self, plaintext: &mut Buf, aad: dimpl::crypto::Aad, nonce: dimpl::crypto::Nonce) -> Result<(), CryptoError> {
        self.cipher.encrypt(plaintext, aad, nonce)
    }

    fn decrypt(
        &mut self,
        ciphertext: &mut TmpBuf,
        aad: dimpl::crypto::Aad,
        nonce: dimpl::crypto::Nonce,
    ) -> Result<(), CryptoError> {
        if let Some(salt) = nonce.0.first_chunk() {
            self.noted.salt = *salt;
        }
        self.cipher.decrypt(ciphertext, aad, nonce)?;
        OPENED.set(Some(self.noted));
        Ok(())
    }
}

//! The key of our certificate, read once. The library (dimpl 0.9) reads it anew for each handshake, and what it reads it
//! checks: a point multiplication, a tenth of a handshake's work. It knows keys by a provider; the one here gives out the
//! key it has, and asks the library's for any other.

use ::aws_lc_rs::rand::SystemRandom;
use ::aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use dimpl::crypto::{Buf, CryptoProvider, HashAlgorithm, KeyProvider, SignatureAlgorithm, SigningKey, aws_lc_rs};
use dimpl::{CryptoError, CryptoOperation};
use std::fmt;
use std::sync::Arc;

/// `provider` with the key of `der` read; as it was if that is no P-256 key in PKCS #8. What it takes stays for good: of one
/// per process.
pub(super) fn read(provider: CryptoProvider, der: &[u8]) -> CryptoProvider {
    let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der) else { return provider };
    CryptoProvider { key_provider: Box::leak(Box::new(OwnKey { der: der.to_vec(), pair: Arc::new(pair) })), ..provider }
}

struct OwnKey {
    der: Vec<u8>,
    pair: Arc<EcdsaKeyPair>,
}

/// Without the key.
impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnKey")
    }
}

impl KeyProvider for OwnKey {
    fn load_private_key(&self, der: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        match der == self.der {
            true => Ok(Box::new(Signer(Arc::clone(&self.pair)))),
            false => aws_lc_rs::default_provider().key_provider.load_private_key(der),
        }
    }
}

struct Signer(Arc<EcdsaKeyPair>);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl SigningKey for Signer {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), CryptoError> {
        if hash != HashAlgorithm::SHA256 {
            return Err(CryptoError::SigningKeyHashMismatch { key_hash: HashAlgorithm::SHA256, requested: hash });
        }
        let signature = self.0.sign(&SystemRandom::new(), data);
        let signature = signature.map_err(|_| CryptoError::OperationFailed(CryptoOperation::Sign))?;
        out.clear();
        out.extend_from_slice(signature.as_ref());
        Ok(())
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
    fn hash_algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::SHA256
    }
    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        &[HashAlgorithm::SHA256]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_key_is_given_out_and_any_other_is_read() {
        let [own, other] = [(); 2].map(|()| dimpl::certificate::generate_self_signed_certificate().unwrap());
        let provider = read(aws_lc_rs::default_provider(), &own.private_key);
        for (certificate, is_own) in [(&own, true), (&other, false)] {
            let mut key = provider.key_provider.load_private_key(&certificate.private_key).unwrap();
            assert_eq!(format!("{key:?}") == "Signer", is_own);
            let mut signature = Buf::new();
            key.sign(b"transcript", HashAlgorithm::SHA256, &mut signature).unwrap();
            let verify = |data: &[u8]| {
                let (hash, algorithm) = (HashAlgorithm::SHA256, SignatureAlgorithm::ECDSA);
                provider.signature_verification.verify_signature(&certificate.certificate, data, &signature, hash, algorithm)
            };
            assert!(verify(b"transcript").is_ok() && verify(b"another").is_err());
            assert!(key.sign(b"transcript", HashAlgorithm::SHA384, &mut Buf::new()).is_err());
        }
        assert!(provider.key_provider.load_private_key(b"no key").is_err());
    }
}

//! RSA certificates of DTLS clients, for a library (dimpl 0.9) that asks for ECDSA alone. GStreamer makes an RSA key.
//!
//! Three things change where we are the server, and nothing where we are the client:
//!
//! * The library's CertificateRequest is *widened* on its way out: certificate type rsa_sign and RSA PKCS #1 with
//!   SHA-256 and SHA-384 come behind what stands there. Everything else in a datagram is copied.
//! * The library's transcript holds its narrow request. Whatever is hashed or verified over the transcript (master
//!   secret, Finished, CertificateVerify) goes through the two providers here, which put the widened request in its
//!   place: both sides speak of the bytes that were on the wire.
//! * A CertificateVerify by RSA is verified here, by ECDSA as before.
//!
//! Why this is safe. Widening is one function of the request's bytes, the same for the wire and for the transcript; it
//! adds constant bytes and takes none away, so two transcripts that differ differ afterwards as well. The request is
//! written by the library itself, never with RSA in it; of the remote's messages only those it waits for come into a
//! transcript, and a CertificateRequest is none of them. Who changes the request under way (to make a client sign with
//! something else, say) ends the handshake, as with any other message: the client's Finished is over other bytes, then.
//! Which certificate is the right one the fingerprint decides, in `dtls`; what is added here is that its owner may prove
//! with RSA that it holds the key.
//!
//! Pure; what does not parse is refused, and nothing here panics.

use crate::limits::RSA_SIGNATURE_BYTES_MAX;
use crate::session::farewell;
use crate::session::reassembler::{CONTENT_HANDSHAKE, MESSAGE_HEADER, RECORD_HEADER, Records, content_type, epoch};
use ::aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, UnparsedPublicKey};
use dimpl::crypto::{
    Buf, CryptoProvider, HashAlgorithm, HashContext, HashProvider, SignatureAlgorithm, SignatureVerifier, aws_lc_rs,
};
use dimpl::{CryptoError, CryptoOperation};
use std::borrow::Cow;

/// RFC 5246 section 7.4.4 (ClientCertificateType).
const RSA_SIGN: u8 = 1;
/// RFC 5246 section 7.4.1.4.1: hash (SHA-256, SHA-384), then signature (RSA, which is PKCS #1 v1.5 there).
const RSA_ALGORITHMS: [u8; 4] = [4, 1, 5, 1];
/// What a widened request is longer by.
pub(super) const WIDENED_BY: usize = 1 + RSA_ALGORITHMS.len();
/// RFC 5246 section 7.4 (HandshakeType).
const CLIENT_HELLO: u8 = 1;
const CERTIFICATE_REQUEST: u8 = 13;

/// The library's crypto, hashing and verifying over transcripts as they were on the wire. For servers only.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider { hash_provider: &Hashes, signature_verification: &Signatures, ..farewell::provider() }
}

/// Copies a datagram of the library's with its request widened; returns its length. None: it does not fit `out`.
/// Every other byte stays, and a request in fragments would, too: it would fail the handshake, so the datagrams the
/// library is granted must hold it whole (`dtls` tests it).
pub(super) fn widen_datagram(datagram: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut length = 0;
    let mut push = |bytes: &[u8]| {
        out.get_mut(length..length + bytes.len())?.copy_from_slice(bytes);
        length += bytes.len();
        Some(())
    };
    let mut rest = datagram;
    for record in Records(datagram).map_while(Result::ok) {
        rest = rest.get(record.len()..)?;
        let (header, message) = record.split_at_checked(RECORD_HEADER)?;
        let plain = content_type(record) == CONTENT_HANDSHAKE && epoch(record) == 0;
        match widened(message).filter(|_| plain) {
            Some(message) => {
                // RFC 6347 section 4.1: the length is the header's last field.
                push(header.get(..RECORD_HEADER - 2)?)?;
                push(&u16::try_from(message.len()).ok()?.to_be_bytes())?;
                push(&message)?;
            }
            None => push(record)?,
        }
    }
    push(rest)?;
    Some(length)
}

/// A handshake message that is a whole CertificateRequest and nothing else, widened, header included.
fn widened(message: &[u8]) -> Option<Vec<u8>> {
    let (CERTIFICATE_REQUEST, body, []) = whole_message(message)? else { return None };
    // RFC 5246 section 7.4.4: types<1..2^8-1>, algorithms<2..2^16-2>, authorities<0..2^16-1>.
    let (types_length, rest) = body.split_first()?;
    let (types, rest) = rest.split_at_checked(usize::from(*types_length))?;
    let (algorithms_length, rest) = rest.split_first_chunk::<2>()?;
    let (algorithms, authorities) = rest.split_at_checked(usize::from(u16::from_be_bytes(*algorithms_length)))?;
    if types.contains(&RSA_SIGN) {
        return None;
    }
    let [_, length @ ..] = u32::try_from(body.len() + WIDENED_BY).ok()?.to_be_bytes();
    let algorithms_length = u16::try_from(algorithms.len() + RSA_ALGORITHMS.len()).ok()?;

    let mut widened = Vec::with_capacity(message.len() + WIDENED_BY);
    widened.push(CERTIFICATE_REQUEST);
    widened.extend_from_slice(&length);
    // Its message_seq, and fragment_offset 0.
    widened.extend_from_slice(message.get(4..9)?);
    widened.extend_from_slice(&length);
    widened.push(types_length.checked_add(1)?);
    // ECDSA stays in front: a client that can do both is to take it.
    widened.extend_from_slice(types);
    widened.push(RSA_SIGN);
    widened.extend_from_slice(&algorithms_length.to_be_bytes());
    widened.extend_from_slice(algorithms);
    widened.extend_from_slice(&RSA_ALGORITHMS);
    widened.extend_from_slice(authorities);
    Some(widened)
}

/// The first message of `bytes`: its type, its body, and what comes behind it. None if it is not there in one piece.
fn whole_message(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<MESSAGE_HEADER>()?;
    // RFC 6347 section 4.2.2: type, length, message_seq, fragment_offset, fragment_length.
    let &[kind, length @ .., _, _, 0, 0, 0, f0, f1, f2] = header else { return None };
    if length != [f0, f1, f2] {
        return None;
    }
    let [l0, l1, l2] = length;
    let (body, rest) = rest.split_at_checked(u32::from_be_bytes([0, l0, l1, l2]) as usize)?;
    Some((kind, body, rest))
}

/// A transcript around the request: what is before it, the request widened, what is behind it. None if the bytes are no
/// transcript of whole messages from a ClientHello on, or hold no request, or two.
fn around_request(transcript: &[u8]) -> Option<(&[u8], Vec<u8>, &[u8])> {
    if transcript.first() != Some(&CLIENT_HELLO) {
        return None;
    }
    let mut found = None;
    let mut rest = transcript;
    while !rest.is_empty() {
        let (kind, _, behind) = whole_message(rest)?;
        if kind == CERTIFICATE_REQUEST {
            let from = transcript.len() - rest.len();
            let to = transcript.len() - behind.len();
            let request = widened(transcript.get(from..to)?)?;
            if found.replace((transcript.get(..from)?, request, behind)).is_some() {
                return None;
            }
        }
        rest = behind;
    }
    found
}

/// A transcript as it was on the wire; other bytes as they are.
fn on_the_wire(data: &[u8]) -> Cow<'_, [u8]> {
    match around_request(data) {
        Some((before, request, behind)) => Cow::Owned([before, &request, behind].concat()),
        None => Cow::Borrowed(data),
    }
}

/// Hashes transcripts as they were on the wire. The library hashes nothing else, and each transcript in one piece.
#[derive(Debug)]
struct Hashes;

impl HashProvider for Hashes {
    fn create_hash(&self, algorithm: HashAlgorithm) -> Box<dyn HashContext> {
        Box::new(Hash(aws_lc_rs::default_provider().hash_provider.create_hash(algorithm)))
    }
}

#[derive(Debug)]
struct Hash(Box<dyn HashContext>);

impl HashContext for Hash {
    fn update(&mut self, data: &[u8]) {
        match around_request(data) {
            Some((before, request, behind)) => {
                for piece in [before, &request, behind] {
                    self.0.update(piece);
                }
            }
            None => self.0.update(data),
        }
    }

    fn clone_and_finalize(&self, out: &mut Buf) {
        self.0.clone_and_finalize(out);
    }
}

/// Verifies the CertificateVerify of a client.
#[derive(Debug)]
struct Signatures;

impl SignatureVerifier for Signatures {
    fn verify_signature(
        &self,
        certificate: &[u8],
        data: &[u8],
        signature: &[u8],
        hash: HashAlgorithm,
        algorithm: SignatureAlgorithm,
    ) -> Result<(), CryptoError> {
        let data = on_the_wire(data);
        if algorithm != SignatureAlgorithm::RSA {
            let theirs = aws_lc_rs::default_provider().signature_verification;
            return theirs.verify_signature(certificate, &data, signature, hash, algorithm);
        }
        // A signature is as long as the key's modulus, or wrong.
        if signature.len() > RSA_SIGNATURE_BYTES_MAX {
            return Err(CryptoError::UnsupportedPublicKeyAlgorithm);
        }
        // The two that were asked for. Both refuse keys under 2,048 bits.
        let parameters = match hash {
            HashAlgorithm::SHA256 => &RSA_PKCS1_2048_8192_SHA256,
            HashAlgorithm::SHA384 => &RSA_PKCS1_2048_8192_SHA384,
            _ => return Err(CryptoError::UnsupportedSignaturePair { signature: algorithm, hash }),
        };
        let key = rsa_key(certificate).ok_or(CryptoError::UnsupportedPublicKeyAlgorithm)?;
        UnparsedPublicKey::new(parameters, key)
            .verify(&data, signature)
            .map_err(|_| CryptoError::OperationFailed(CryptoOperation::VerifySignature))
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
/// RFC 3279 section 2.3.1: the AlgorithmIdentifier of an RSA key is rsaEncryption with NULL, in these bytes.
const RSA_ENCRYPTION: [u8; 13] = [0x06, 9, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1, 0x05, 0];

/// The RSAPublicKey in a certificate (RFC 5280 section 4.1), in DER; None if there is no such key. Looks at nothing
/// else of it: WebRTC's certificates are signed by nobody who matters (RFC 8827 section 6.5).
fn rsa_key(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, []) = element(SEQUENCE, certificate)? else { return None };
    let (fields, _) = element(SEQUENCE, certificate)?;
    let fields = element(VERSION, fields).map_or(fields, |(_, rest)| rest);
    let (_serial_number, fields) = element(INTEGER, fields)?;
    let (_signature, fields) = element(SEQUENCE, fields)?;
    let (_issuer, fields) = element(SEQUENCE, fields)?;
    let (_validity, fields) = element(SEQUENCE, fields)?;
    let (_subject, fields) = element(SEQUENCE, fields)?;
    let (key_info, _) = element(SEQUENCE, fields)?;
    let (algorithm, key_info) = element(SEQUENCE, key_info)?;
    let (key, []) = element(BIT_STRING, key_info)? else { return None };
    // A bit string begins with the number of bits its last byte has too many.
    let (0, key) = key.split_first().map(|(unused, key)| (*unused, key))? else { return None };
    let (_, []) = element(SEQUENCE, key)? else { return None };
    (algorithm == RSA_ENCRYPTION).then_some(key)
}

/// The element with this tag that `bytes` begin with (X.690 section 8.1), and what comes behind it.
fn element(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    if *found != tag {
        return None;
    }
    // Lengths in DER are as short as can be (section 10.1), and no message is longer than two bytes say.
    let (length, rest) = match rest {
        [length @ 0..=0x7F, rest @ ..] => (usize::from(*length), rest),
        [0x81, length @ 0x80..=0xFF, rest @ ..] => (usize::from(*length), rest),
        [0x82, high @ 1..=0xFF, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests;

//! Goal: the request, the transcript and the signature say the same bytes, and nothing else is touched or believed.
//! Method: messages written out by hand, keys and signatures of aws-lc-rs, one weak key of OpenSSL's.

use super::*;
use crate::wire::torture::torture;
use ::aws_lc_rs::digest::{SHA256, SHA384, digest};
use ::aws_lc_rs::encoding::AsDer;
use ::aws_lc_rs::rand::SystemRandom;
use ::aws_lc_rs::rsa::KeySize;
use ::aws_lc_rs::signature::{
    KeyPair, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RsaKeyPair,
};

const NARROW: [u8; 10] = [1, 64, 0, 4, 4, 3, 5, 3, 0, 0];
const WIDE: [u8; 15] = [2, 64, 1, 0, 8, 4, 3, 5, 3, 4, 1, 5, 1, 0, 0];

fn message(kind: u8, sequence: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u8;
    let mut message = vec![kind, 0, 0, length, 0, sequence, 0, 0, 0, 0, 0, length];
    message.extend_from_slice(body);
    message
}

fn record(content: u8, epoch: u8, sequence: u8, body: &[u8]) -> Vec<u8> {
    let mut record = vec![content, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, sequence, 0, body.len() as u8];
    record.extend_from_slice(body);
    record
}

fn widen(datagram: &[u8]) -> Vec<u8> {
    let mut out = vec![0xEE; datagram.len() + WIDENED_BY];
    let length = widen_datagram(datagram, &mut out).unwrap();
    out.truncate(length);
    out
}

fn transcript(request: &[u8]) -> Vec<u8> {
    let messages = [(1, 0, &b"hello"[..]), (2, 0, b"and hello"), (13, 3, request), (14, 4, b""), (11, 1, b"me")];
    messages.map(|(kind, sequence, body)| message(kind, sequence, body)).concat()
}

#[test]
fn the_request_of_a_flight_is_widened_and_every_other_byte_stays() {
    let around = |request: &[u8]| {
        let hello = record(22, 0, 0, &message(2, 0, b"hello"));
        let request = record(22, 0, 1, &message(13, 3, request));
        [hello, request, record(22, 0, 2, &message(14, 4, b"")), record(20, 0, 3, &[1])].concat()
    };
    assert_eq!(widen(&around(&NARROW)), around(&WIDE));
    assert_eq!(around(&NARROW).len() + WIDENED_BY, around(&WIDE).len());
    assert_eq!(widen_datagram(&around(&NARROW), &mut vec![0; around(&NARROW).len()]), None, "it does not fit");
    let authorities = [&[1, 64, 0, 0, 0, 3][..], b"\0\x01A"].concat();
    let wide = [&[2, 64, 1, 0, 4, 4, 1, 5, 1, 0, 3][..], b"\0\x01A"].concat();
    assert_eq!(widen(&around(&authorities)), around(&wide));

    let mut fragment = message(13, 3, &NARROW);
    fragment[3] = 20;
    let mut second = message(13, 3, &NARROW);
    second[8] = 10;
    for (untouched, why) in [
        (record(22, 1, 0, &message(13, 3, &NARROW)), "sealed"),
        (record(23, 0, 0, &message(13, 3, &NARROW)), "no handshake"),
        (record(22, 0, 0, &message(11, 3, &NARROW)), "another message"),
        (record(22, 0, 0, &fragment), "the first fragment"),
        (record(22, 0, 0, &second), "the second fragment"),
        (record(22, 0, 0, &message(13, 3, &NARROW[..7])), "cut"),
        (around(&WIDE), "widened before"),
        (around(&NARROW)[..60].to_vec(), "a cut datagram"),
        (Vec::new(), "nothing"),
    ] {
        assert_eq!(widen(&untouched), untouched, "{why}");
    }
}

fn hashed(algorithm: HashAlgorithm, data: &[u8]) -> Vec<u8> {
    let mut hash = provider().hash_provider.create_hash(algorithm);
    hash.update(data);
    let mut out = Buf::new();
    hash.clone_and_finalize(&mut out);
    out.into_vec()
}

#[test]
fn a_transcript_is_hashed_as_it_was_on_the_wire() {
    let (narrow, wide) = (transcript(&NARROW), transcript(&WIDE));
    assert_eq!(hashed(HashAlgorithm::SHA256, &narrow), digest(&SHA256, &wide).as_ref());
    assert_eq!(hashed(HashAlgorithm::SHA384, &narrow), digest(&SHA384, &wide).as_ref());

    let mut fragment = narrow.clone();
    fragment[9..12].copy_from_slice(&[0, 0, 4]);
    for (other, why) in [
        (narrow[17..].to_vec(), "it begins with no ClientHello"),
        (narrow[..narrow.len() - 1].to_vec(), "it ends within a message"),
        ([narrow.clone(), transcript(&NARROW)].concat(), "two requests"),
        (fragment, "a fragment"),
        (wide, "widened before"),
        (Vec::new(), "nothing"),
        (b"what is no transcript".to_vec(), "what is no transcript"),
    ] {
        assert_eq!(hashed(HashAlgorithm::SHA256, &other), digest(&SHA256, &other).as_ref(), "{why}");
    }
}

/// DER of X.690 with lengths of up to two bytes.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut element = vec![tag];
    match content.len() {
        length @ 0..=0x7F => element.push(length as u8),
        length @ 0x80..=0xFF => element.extend([0x81, length as u8]),
        length => element.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    element.extend(content);
    element
}

/// A certificate of this key (an RSAPublicKey), as short as they come.
fn certificate(key: &[u8], algorithm: &[u8]) -> Vec<u8> {
    let key_info = der(SEQUENCE, &[&der(SEQUENCE, &[algorithm]), &der(BIT_STRING, &[&[0], key])]);
    let (version, serial, nothing) = (der(VERSION, &[&[2, 1, 2]]), [2, 1, 77], der(SEQUENCE, &[]));
    let fields = der(SEQUENCE, &[&version, &serial, &nothing, &nothing, &nothing, &nothing, &key_info]);
    der(SEQUENCE, &[&fields, &nothing, &der(BIT_STRING, &[&[0, 1, 2]])])
}

fn sign(key: &RsaKeyPair, data: &[u8], long: bool) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    let padding = if long { &RSA_PKCS1_SHA384 } else { &RSA_PKCS1_SHA256 };
    key.sign(padding, &SystemRandom::new(), data, &mut signature).unwrap();
    signature
}

fn verify(certificate: &[u8], data: &[u8], signature: &[u8], hash: HashAlgorithm) -> Result<(), CryptoError> {
    provider().signature_verification.verify_signature(certificate, data, signature, hash, SignatureAlgorithm::RSA)
}

#[test]
fn a_signature_is_over_the_wire_by_the_certificates_key_in_an_algorithm_we_asked_for() {
    let (narrow, wide) = (transcript(&NARROW), transcript(&WIDE));
    let keys = [KeySize::Rsa2048, KeySize::Rsa2048].map(|size| RsaKeyPair::generate(size).unwrap());
    let shown = certificate(keys[0].public_key().as_ref(), &RSA_ENCRYPTION);
    for (hash, long) in [(HashAlgorithm::SHA256, false), (HashAlgorithm::SHA384, true)] {
        let good = sign(&keys[0], &wide, long);
        assert_eq!(verify(&shown, &narrow, &good, hash), Ok(()));
        let mut changed = good.clone();
        changed[100] ^= 1;
        for (signature, why) in [
            (sign(&keys[1], &wide, long), "another key"),
            (sign(&keys[0], &narrow, long), "the request as it never was on the wire"),
            (sign(&keys[0], &wide, !long), "another hash"),
            (changed, "another byte"),
            (good[1..].to_vec(), "a byte less"),
            (Vec::new(), "nothing"),
        ] {
            assert!(verify(&shown, &narrow, &signature, hash).is_err(), "{why}");
        }
        let theirs = provider().signature_verification;
        for other in [SignatureAlgorithm::ECDSA, SignatureAlgorithm::Anonymous] {
            assert!(theirs.verify_signature(&shown, &narrow, &good, hash, other).is_err(), "{other:?}");
        }
    }
    // RFC 5246 section 7.4.1.4.1: SHA-512 (6) and SHA-1 (2) are hashes of TLS 1.2, but were not asked for.
    for hash in [2, 6].map(HashAlgorithm::from_u8) {
        let refused = verify(&shown, &narrow, &sign(&keys[0], &wide, false), hash);
        assert!(matches!(refused, Err(CryptoError::UnsupportedSignaturePair { .. })), "{refused:?}");
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// openssl genrsa 1024; printf signed | openssl dgst -sha256 -sign
const WEAK_KEY: &str = "\
    30818902818100d79bec30998ae64490d7db047c69da9f2d20c5d70202d9e92f14e869ac9b0252b65775b32fe84137fb473c391e6335ce5b\
    c1b7480b8d15c0716247632c8ee008ba86ef2d1fb77084048a5d9ac284c0cb8384726e7dd6f3d44261851ac7124a60970828f22b5a6f68e0\
    8b0105b11a6bc35c116d7595239aa81ac795d9a2bc22670203010001";
const WEAK_SIGNATURE: &str = "\
    853a5d8e3427447d29993876d48449bbbb2e16598daf5d67963859cf31c5977d011c13a44bfd50990d5e7560eb8b77dd7b99b660555f0956\
    1a524e5e4096f6a7314c0b08903955bc7c79d59bc9f26e1d21a8a18daa619b9b7ec4c87c6548304eb94740a5d448277c5a3a508f5ae76e55\
    b2b757395001c1ba1b6bba1fd4055eb0";

/// The same with 4,104 bits.
const LONG_KEY: &str = "\
    3082020b02820202009cacb120bf5683a0f47f28cf1081d670fcae10712cb2ec1c3c295d7ca56eb18e512688cd957a41333f711f790f7081\
    bb6d9756c98099d3cf0fbfa9d2841614d2b4664e70ad85a7b751aa86e75f08620ae49801f5d79275a369bc7e6fba32afde3ca0e4d8bc41e6\
    a80bdedd5a30ae78338975177c97eb8c7625df82d6ced7d75efd5032e817a0474ad0417ced806354f33f5ff32df8dc16b866eda91793440f\
    07634b9cf3fc6b74faecdeabe26fdece0b331889ff67a00826e453a07f90506dbdb67add44dc94d84e6471cf2f0bebb8bb6bcd7b97aa858e\
    e1efc69e5f894dc5c6af377afd35eb109c7cd922664bb72fb1f71ab44572ee74b1f616f247a5507852459ff808fe61d226b76d49395484ea\
    080139eb994a55cabd7c2cfd804b04d4aa2e9e5a0a4a950f91f219e4c42d30467a6df7a712b793b88f23fb47684e82cb11c906d2f921e6b9\
    43d2d8711e91a83613216bf76a4d024c611199ff81d15fa7d6b11c7603ffa40fb849825b7bbbdce30558927642ca95472bd10aa85897c661\
    bc709d072595bfb7cec6ce31d1f3ae4b84d641a86d39516161953f229cc363e0d299829599da25857f6350cd54b13a57d7333085c021d36c\
    ec3bcaae4fc729242bb3444144d2e250097b144b61a8dc50144c6c250101a8b7e60358df950134a8c93308851be6ab1f633fbfdc9c51995f\
    42a337395e369528a1447d2fcb81a349e29f0203010001";
const LONG_SIGNATURE: &str = "\
    639e332d4d792e4a3970c8961ff980ccbb315ac469053cea0a3d463143637b83653451001568431189c175a540170348bdb05d707f19cedc\
    d62ebda777dbfd1b8f751219e0c0dc172418a1ae3be3dca95b7476b41e6aa2feea0c41035c43e218e6a77ab1b25898cac4e7ba6902469a22\
    7cdbe60fbe8e5c426f1df4c777e57c8ceeddde388b42c11a877164bb56aa51bcd3c211228b83214104701f1c26a98f5e958efde7b74aec5c\
    bd0543fe986f9667179c053e7a06d9b8a136d0e6e3bb8495bd9b5b6c12446bf88a4f368bf152e761a1a0ef4c01e7f2083542b040a060e4a1\
    c68d1b7aee6811b69ce25c6625e485a9bf3623e5a97ec0260fe35a1b74746a6316298d9d566f924a84cdbd8f9d106b6150b25657140f34ce\
    c2065ec2c930835f8508dd6408183f42b9c362bc36616a54af90a96b721ad459cba49b89f552ddedd86034fa180379555641633fa2d5d014\
    b85fa58dfbda9239e6a989086f26e21887f758bf6f0de92acbc07afcc9761d58db62c3e05424952b7071fd021652f7153717ad7fdaee7983\
    120d639e24386a6c520998c997298a26dc7694fc617a609ea41cbc4190c648aa8a1a6f6b261b2786149e31253d2262d214aa2bcb1b57aa38\
    03a1b457913bbb6416d5aadc08b42f3c95a2ef28b80b9cf9f2297f414dcec6bdb89a3b97da4b2fb9b0b02bc4cc19aad1ea7f62db6840fe8f\
    faa702845d29aae73b";

/// Goal: what is too weak or too long is refused though its signature is right. Method: keys and signatures of OpenSSL's,
/// which a laxer algorithm takes.
#[test]
fn keys_of_1024_and_of_4104_bits_are_refused() {
    for (key, signature) in [(WEAK_KEY, WEAK_SIGNATURE), (LONG_KEY, LONG_SIGNATURE)] {
        let (key, signature) = (bytes(key), bytes(signature));
        let lax = UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, &key);
        assert!(lax.verify(b"signed", &signature).is_ok());
        let shown = certificate(&key, &RSA_ENCRYPTION);
        assert_eq!(rsa_key(&shown), Some(&key[..]));
        assert!(verify(&shown, b"signed", &signature, HashAlgorithm::SHA256).is_err(), "{} bytes", signature.len());
    }
}

#[test]
fn a_certificate_of_another_algorithm_or_form_has_no_rsa_key() {
    let key = bytes(WEAK_KEY);
    assert_eq!(rsa_key(&certificate(&key, &RSA_ENCRYPTION)), Some(&key[..]));
    let mut pss = RSA_ENCRYPTION;
    pss[10] = 10;
    let ecdsa = dimpl::certificate::generate_self_signed_certificate().unwrap().certificate;
    let behind = [certificate(&key, &RSA_ENCRYPTION), vec![0]].concat();
    let no_sequence = certificate(&key[3..], &RSA_ENCRYPTION);
    for other in [certificate(&key, &pss), certificate(&key, &RSA_ENCRYPTION[..11]), ecdsa, behind, no_sequence] {
        assert_eq!(rsa_key(&other), None);
    }
    for (length, valid) in [
        (&[0x05][..], true),
        (&[0x81, 0x80], true),
        (&[0x82, 1, 0], true),
        (&[0x80], false),
        (&[0x81, 0x05], false),
        (&[0x82, 0, 0x80], false),
        (&[0x83, 0, 0, 5], false),
        (&[0xFF], false),
        (&[], false),
    ] {
        let bytes = [&[SEQUENCE][..], length, &[7; 300]].concat();
        assert_eq!(element(SEQUENCE, &bytes).is_some(), valid || length.is_empty(), "{length:x?}");
        assert_eq!(element(SEQUENCE, &bytes[..1 + length.len()]), None, "{length:x?}");
    }
}

#[test]
fn torture_certificates_transcripts_and_datagrams() {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let long = certificate(key.public_key().as_ref(), &RSA_ENCRYPTION);
    let ecdsa = dimpl::certificate::generate_self_signed_certificate().unwrap().certificate;
    let spki: Vec<u8> = AsDer::<::aws_lc_rs::encoding::PublicKeyX509Der>::as_der(key.public_key()).unwrap().as_ref().into();
    torture(&[&long, &ecdsa, &certificate(&spki, &RSA_ENCRYPTION)], |bytes| {
        if let Some(key) = rsa_key(bytes) {
            assert!(key.len() < bytes.len());
        }
    });
    torture(&[&transcript(&NARROW), &transcript(&WIDE)], |bytes| {
        let wide = on_the_wire(bytes);
        assert!(wide.len() == bytes.len() || wide.len() == bytes.len() + WIDENED_BY);
        assert_eq!(on_the_wire(&wide), wide, "once");
    });
    let datagram = [record(22, 0, 0, &message(2, 0, b"hi")), record(22, 0, 1, &message(13, 3, &NARROW))].concat();
    let mut out = [0; 200];
    torture(&[&datagram], |bytes| {
        let length = widen_datagram(bytes, &mut out).unwrap();
        assert!(length == bytes.len() || length == bytes.len() + WIDENED_BY);
        let _ = widen_datagram(bytes, &mut out[..bytes.len() / 2]);
    });
}

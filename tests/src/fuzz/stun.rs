//! STUN: whatever is read is written and read again; a signature holds for its password and for no other byte.

use spillway_proto::wire::stun::{BindingRequest, Message, parse, write_request, write_success};
use std::net::SocketAddr;

const PWD: &[u8] = b"0123456789abcdefghijklmn";
const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

/// The bytes as they are, and once more behind a header that is right: few inputs guess a cookie and a length.
pub fn stun(bytes: &[u8]) {
    read(bytes);
    if bytes.len() < 20 {
        return;
    }
    let mut repaired = bytes[..20 + (bytes.len() - 20) / 4 * 4].to_vec();
    repaired[0] &= 0x3F;
    let length = (repaired.len() - 20) as u16;
    repaired[2..4].copy_from_slice(&length.to_be_bytes());
    repaired[4..8].copy_from_slice(&COOKIE);
    if repaired.len() < 20 + 0x1_0000 {
        read(&repaired);
    }
}

fn read(datagram: &[u8]) {
    match parse(datagram) {
        Ok(Message::Request(request)) => again(&request, datagram),
        Ok(Message::Success(success)) => {
            assert_eq!(success.transaction, datagram[8..20]);
            // Written with our signature, it says the same address, in its canonical form.
            let mut out = [0; 128];
            let length = write_success(&mut out, &success.transaction, success.mapped, PWD).unwrap();
            assert!(length <= 76);
            let Ok(Message::Success(second)) = parse(&out[..length]) else { panic!("our own success is none") };
            let canonical = SocketAddr::new(success.mapped.ip().to_canonical(), success.mapped.port());
            assert_eq!((second.transaction, second.mapped), (success.transaction, canonical));
            assert!(second.verify(PWD) && !second.verify(b"another"));
        }
        Ok(Message::Other) | Err(_) => {}
    }
}

fn again(request: &BindingRequest<'_>, datagram: &[u8]) {
    assert_eq!(request.transaction, datagram[8..20]);
    let (local, remote) = (request.local_ufrag(), request.remote_ufrag());
    assert!(request.username() == local || request.username() == format!("{local}:{remote}"));
    // The signature of a stranger is nobody's: an input that carries PWD's own would need its HMAC.
    let is_signed = request.verify(PWD);
    if is_signed {
        assert!(!request.verify(b"another"));
    }
    let mut out = vec![0; request.username().len() + 128];
    let priority = request.priority.unwrap_or(7);
    let length =
        write_request(&mut out, &request.transaction, request.username(), PWD, priority, 9, request.use_candidate);
    let Some(length) = length else { panic!("a name of {} bytes was not written", request.username().len()) };
    let out = &mut out[..length];
    let Ok(Message::Request(second)) = parse(out) else { panic!("our own request is none") };
    assert_eq!(second.username(), request.username());
    assert_eq!((second.priority, second.use_candidate), (Some(priority), request.use_candidate));
    assert!(second.verify(PWD) && !second.verify(b"another"));
    // Any one bit changed: FINGERPRINT sees it, or, where the change hid FINGERPRINT, the signature.
    let bit = usize::from(datagram[19]) << 8 | usize::from(datagram[18]);
    let bit = bit % ((length - 8) * 8);
    out[bit / 8] ^= 1 << (bit % 8);
    if let Ok(Message::Request(third)) = parse(out) {
        assert!(!third.verify(PWD), "a changed request is still signed: {third:?}");
    }
}

//! `wire::stun` against crate `is`.

use aws_lc_rs::hmac;
use is::stun::{StunMessage, TransId};
use spillway_proto::rng::Rng;
use spillway_proto::wire::stun::{Message, parse, write_request, write_success};
use std::net::SocketAddr;

const ROUNDS: usize = 2_000;

fn sha1(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key));
    parts.iter().for_each(|part| context.update(part));
    context.sign().as_ref().try_into().unwrap()
}

fn address(rng: &mut Rng) -> SocketAddr {
    let port = rng.next_u32() as u16;
    if rng.below(2) == 0 {
        SocketAddr::from((rng.next_u32().to_be_bytes(), port))
    } else {
        let mut ip = [0x20; 16];
        rng.fill(&mut ip[1..]);
        SocketAddr::from((ip, port))
    }
}

fn word(rng: &mut Rng, length_max: u64) -> String {
    (0..1 + rng.below(length_max)).map(|_| char::from(b'a' + rng.below(26) as u8)).collect()
}

#[test]
fn messages_of_theirs_are_read_and_verified() {
    let mut rng = Rng::new(5);
    for _ in 0..ROUNDS {
        let (local, remote, pwd) = (word(&mut rng, 16), word(&mut rng, 32), word(&mut rng, 80));
        let username = format!("{local}:{remote}");
        let (priority, nominated) = (rng.next_u32(), rng.below(2) == 1);
        let mut out = [0; 512];

        let theirs = StunMessage::binding_request(&username, TransId::new(), true, rng.next_u64(), priority, nominated);
        let length = theirs.to_bytes(Some(pwd.as_bytes()), &mut out, sha1).unwrap();
        let Message::Request(read) = parse(&out[..length]).unwrap() else { panic!() };
        assert_eq!((read.local_ufrag(), read.remote_ufrag()), (&local[..], &remote[..]));
        assert_eq!((read.priority, read.use_candidate), (Some(priority), nominated));
        assert!(read.verify(pwd.as_bytes()) && !read.verify(b"-"));

        let mapped = address(&mut rng);
        let theirs = StunMessage::binding_reply(TransId::new(), mapped);
        let length = theirs.to_bytes(Some(pwd.as_bytes()), &mut out, sha1).unwrap();
        let Message::Success(read) = parse(&out[..length]).unwrap() else { panic!() };
        assert_eq!(read.mapped, mapped);
        assert!(read.verify(pwd.as_bytes()) && !read.verify(b"-"));
    }
}

#[test]
fn messages_of_ours_are_read_and_verified_by_them() {
    let mut rng = Rng::new(6);
    for _ in 0..ROUNDS {
        let (username, pwd) = (format!("{}:{}", word(&mut rng, 16), word(&mut rng, 32)), word(&mut rng, 80));
        let (priority, tie_breaker, nominated) = (rng.next_u32(), rng.next_u64(), rng.below(2) == 1);
        let mut transaction = [0; 12];
        rng.fill(&mut transaction);
        let mut out = [0; 512];

        let length = write_request(&mut out, &transaction, &username, pwd.as_bytes(), priority, tie_breaker, nominated);
        let read = StunMessage::parse(&out[..length.unwrap()]).unwrap();
        assert!(read.is_binding_request() && read.verify(pwd.as_bytes(), sha1) && !read.verify(b"-", sha1));
        assert_eq!(read.username(), Some(&username[..]));
        assert_eq!((read.prio(), read.use_candidate()), (Some(priority), nominated));
        assert_eq!(read.ice_controlling(), Some(tie_breaker));

        let mapped = address(&mut rng);
        let length = write_success(&mut out, &transaction, mapped, pwd.as_bytes());
        let read = StunMessage::parse(&out[..length.unwrap()]).unwrap();
        assert!(read.is_successful_binding_response() && read.verify(pwd.as_bytes(), sha1));
        assert_eq!(read.mapped_address(), Some(mapped));
    }
}

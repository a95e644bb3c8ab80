//! Goal: rows 1, 2 and 5 of the list of threats against a running node: strangers get no answer, and who shows another
//! certificate than its offer promised gets no media. Method: the built binary, plain sockets, and a client of our own
//! that lies about its fingerprint.

use crate::offers::VIEW;
use spillway_proto::id::Kind;
use spillway_proto::link::command::{DtlsRole, Fingerprint};
use spillway_proto::link::counters::CounterId;
use spillway_proto::sdp::answer::{MediaText, OfferText};
use spillway_proto::sdp::offer::OfferFacts;
use spillway_proto::sdp::{Direction, Setup};
use spillway_proto::session::client::{Client, ClientFacts, Received};
use spillway_proto::session::dtls::Identity;
use spillway_proto::time::Time;
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::stun::write_request;
use spillway_tests::node::{Machine, Node};
use spillway_tests::wait::{seconds, until};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

fn media_address(answer: &OfferFacts) -> SocketAddr {
    let usable = answer.candidates.iter().find(|candidate| candidate.udp && candidate.address.is_some());
    let candidate = usable.expect("the answer has a UDP candidate");
    SocketAddr::new(candidate.address.expect("looked for"), candidate.port)
}

fn check(ufrag: &str, pwd: &[u8], number: u32) -> Vec<u8> {
    let mut transaction = [0; 12];
    transaction[..4].copy_from_slice(&number.to_be_bytes());
    let mut out = vec![0; 256];
    let length = write_request(&mut out, &transaction, &format!("{ufrag}:abcd"), pwd, 1, 2, true);
    out.truncate(length.expect("256 bytes are enough"));
    out
}

/// A ClientHello that offers TLS_NULL_WITH_NULL_NULL.
fn null_hello() -> Vec<u8> {
    let body = [&[0xFE, 0xFD][..], &[7; 32], &[0, 0, 0, 2, 0, 0, 1, 0]].concat();
    let length = body.len() as u8;
    let head = [22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, length + 12, 1, 0, 0, length, 0, 0, 0, 0, 0, 0, 0, length];
    [&head[..], &body].concat()
}

#[test]
fn threat_01_02_strangers_get_no_answer_from_a_running_node() {
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "h264");
    let view = node.token("demo", "view");
    let offered = node.http.offer("/whep/demo", &view, VIEW);
    let answer = OfferFacts::parse(&offered.body).expect("an answer");
    let counters = node.counters();
    let count = |id: CounterId| counters.sum(id);
    let before = [CounterId::StunRefused, CounterId::DtlsRefused, CounterId::DatagramsUnknown].map(count);
    let sockets: Vec<UdpSocket> = (0..4)
        .map(|_| {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a port");
            socket.connect(media_address(&answer)).expect("an address of this machine");
            socket
        })
        .collect();
    let mut unsigned = check(&answer.ice_ufrag, answer.ice_pwd.as_bytes(), 1);
    unsigned.truncate(unsigned.len() - 32);
    let length = (unsigned.len() - 20) as u16;
    unsigned[2..4].copy_from_slice(&length.to_be_bytes());
    let mut sent = 0;
    for number in 0..200 {
        let floods = [
            unsigned.clone(),
            check(&answer.ice_ufrag, b"another password", number),
            check("AAAAAAA123456789", answer.ice_pwd.as_bytes(), number),
            null_hello(),
            [&[0x80, 96][..], &[1; 60]].concat(),
            [&[0x80, 200, 0, 1][..], &[1; 60]].concat(),
            vec![0xFF; 60],
        ];
        for flood in &floods {
            sockets[number as usize % sockets.len()].send(flood).expect("the node's socket is there");
            sent += 1;
        }
    }
    until("the node has counted them", seconds(10), || {
        let now = [CounterId::StunRefused, CounterId::DtlsRefused, CounterId::DatagramsUnknown].map(count);
        let counted: u64 = now.iter().zip(before).map(|(now, before)| now - before).sum();
        // The kernel may drop some of a burst; what arrived was counted, and most arrived.
        if counted > sent / 2 && now.iter().zip(before).all(|(now, before)| *now > before) { Ok(()) } else { Err(format!("{counted} of {sent}")) }
    });
    // The session's own remote is answered: after that, an answer to a stranger would be here, too.
    let own = UdpSocket::bind(("0.0.0.0", 0)).expect("a port");
    own.connect(media_address(&answer)).expect("an address of this machine");
    own.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut buffer = [0; 2_048];
    until("a true check is answered", seconds(5), || {
        own.send(&check(&answer.ice_ufrag, answer.ice_pwd.as_bytes(), 9)).map_err(|error| error.to_string())?;
        own.recv(&mut buffer).map_err(|error| error.to_string())
    });
    for socket in &sockets {
        socket.set_nonblocking(true).expect("a socket");
        assert!(socket.recv(&mut buffer).is_err(), "a stranger got an answer");
    }
    assert_eq!(node.play("demo", 3)["lost"], 0);
}

#[test]
fn threat_05_another_certificate_than_promised_gets_no_media() {
    let _machine = Machine::shared();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let view = node.token("demo", "view");
    // What Chromium would offer, with a fingerprint that is not its certificate's.
    let template = OfferFacts::parse(VIEW).expect("a fixture");
    let media = template.media.iter().map(|section| {
        let payloads: Vec<_> = section.codecs().iter().filter_map(|codec| section.payload_to_send(*codec, None).cloned()).collect();
        assert!(section.kind == spillway_proto::sdp::MediaKind::Rtp(Kind::Audio) || !payloads.is_empty());
        MediaText::accepted(section, Direction::RecvOnly, &payloads, None)
    });
    let offer = OfferText {
        origin: 5,
        ice_ufrag: "abcd".into(),
        ice_pwd: "0123456789abcdefghijklmn".into(),
        fingerprint: [7; 32],
        setup: Setup::ActPass,
        media: media.collect(),
    };
    let answered = node.http.offer("/whep/demo", &view, &offer.write());
    let answer = OfferFacts::parse(&answered.body).expect("an answer");
    let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a port");
    socket.connect(media_address(&answer)).expect("an address of this machine");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let facts = ClientFacts {
        local_ufrag: offer.ice_ufrag.clone(),
        remote_ufrag: answer.ice_ufrag.clone(),
        remote_pwd: answer.ice_pwd.clone(),
        remote_fingerprint: Fingerprint(answer.fingerprint),
        role: DtlsRole::Client,
    };
    let counters = node.counters();
    let failed = counters.sum(CounterId::DtlsFailed);
    let handshakes = counters.sum(CounterId::DtlsHandshakes);
    let began = Instant::now();
    let now = || Time::ZERO + began.elapsed();
    let mut client = Client::new(&Identity::new().expect("keys"), facts, 3, now(), began).expect("a client");
    let (mut media, mut buffer) = (0, [0; 2_048]);
    until("the node has refused the certificate", seconds(10), || {
        let _ = client.handle_timeout(now());
        while let Some(datagram) = client.poll_datagram() {
            let _ = socket.send(&datagram);
        }
        if let Ok(length) = socket.recv(&mut buffer) {
            media += usize::from(matches!(classify(&buffer[..length]), Class::Rtp | Class::Rtcp));
            let received = client.handle_datagram(now(), &mut buffer[..length]);
            assert!(!matches!(received, Ok(Received::Rtp(_) | Received::Rtcp(_))));
        }
        match counters.sum(CounterId::DtlsFailed) - failed {
            0 => Err(format!("{media} media datagrams")),
            count => Ok(count),
        }
    });
    while let Ok(length) = socket.recv(&mut buffer) {
        media += usize::from(matches!(classify(&buffer[..length]), Class::Rtp | Class::Rtcp));
    }
    assert_eq!(media, 0, "media for a stranger");
    assert_eq!(counters.sum(CounterId::DtlsHandshakes), handshakes);
    let location = answered.header("location").expect("a session").to_owned();
    until("control has closed the session", seconds(5), || match node.http.delete(&location, &view).status {
        404 => Ok(()),
        status => Err(status.to_string()),
    });
}

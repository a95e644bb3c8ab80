//! Goal: rows 1 to 5 of the list of threats, as far as they need virtual time: what comes before and beside a
//! handshake gets no answer, leaves nothing, and stops nobody. Method: a whole engine over `Sim`, real handshakes, and
//! datagrams from addresses of the attackers' own.

use super::demux::pair_of;
use super::session::Held;
use super::world::{PWD, SERVER, Source, World};
use crate::io::Path;
use spillway_proto::id::{Codec, SessionId, Side, TrackId};
use spillway_proto::limits::PAIRS_PER_SESSION_MAX;
use spillway_proto::link::command::{Command, Fingerprint};
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::event::{CloseReason, Event};
use spillway_proto::session::client::Client;
use spillway_proto::session::dtls::Identity;
use spillway_proto::session::ice::encode_ufrag;
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::stun::write_request;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const MILLISECOND: Duration = Duration::from_millis(1);

/// A publisher of one VP8 track, connected.
pub fn publishing(shards: usize) -> (World, Source, TrackId) {
    let mut world = World::new(shards);
    let publisher = world.add(0, Side::Publisher);
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
    world.connect();
    (world, Source::new(publisher, 77), track)
}

pub fn path_from(remote: SocketAddr) -> Path {
    Path { local: SERVER.parse().unwrap(), remote }
}

/// An address of the attackers.
pub fn bad(number: u32) -> SocketAddr {
    SocketAddr::from(([203, 0, (number >> 8) as u8, number as u8], 4_000 + (number >> 16) as u16))
}

/// A handshake message, or a part of one, in a plain record.
fn fragment(kind: u8, length: u32, sequence: u16, offset: u32, bytes: &[u8], record: u64) -> Vec<u8> {
    let mut out = vec![22, 0xFE, 0xFD, 0, 0];
    out.extend_from_slice(&record.to_be_bytes()[2..]);
    out.extend_from_slice(&(12 + bytes.len() as u16).to_be_bytes());
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&offset.to_be_bytes()[1..]);
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(bytes);
    out
}

/// The body of a ClientHello that offers these cipher suites and no extension.
fn client_hello(suites: &[u16]) -> Vec<u8> {
    let mut body = vec![0xFE, 0xFD];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(&(2 * suites.len() as u16).to_be_bytes());
    suites.iter().for_each(|suite| body.extend_from_slice(&suite.to_be_bytes()));
    body.extend_from_slice(&[1, 0]);
    body
}

/// TLS_NULL_WITH_NULL_NULL: what the published attacks send.
fn null_hello() -> Vec<u8> {
    let body = client_hello(&[0]);
    fragment(1, body.len() as u32, 0, 0, &body, 0)
}

/// A check as the session's own remote makes it, from wherever.
fn check(session: SessionId, number: u32) -> Vec<u8> {
    named_check(session, b"abcdefghi", PWD, number)
}

fn named_check(session: SessionId, random: &[u8; 9], pwd: &[u8], number: u32) -> Vec<u8> {
    let ufrag = String::from_utf8(encode_ufrag(session, random).to_vec()).unwrap();
    let mut transaction = [0; 12];
    transaction[..4].copy_from_slice(&number.to_be_bytes());
    let mut out = vec![0; 256];
    let length = write_request(&mut out, &transaction, &format!("{ufrag}:client"), pwd, 1, 2, true).unwrap();
    out.truncate(length);
    out
}

/// The same without MESSAGE-INTEGRITY and FINGERPRINT.
fn unsigned(mut check: Vec<u8>) -> Vec<u8> {
    check.truncate(check.len() - 24 - 8);
    let length = (check.len() - 20) as u16;
    check[2..4].copy_from_slice(&length.to_be_bytes());
    check
}

#[test]
fn threat_01_a_client_hello_race_is_lost_by_the_attacker() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    let own = world.remotes[viewer].address;
    let elsewhere = SocketAddr::from(([203, 0, 113, 9], own.port()));
    let before = world.counter(CounterId::DtlsRefused);
    let mut pushed = 0;
    // Before the first check: not even from the viewer's own address. Nobody hears an answer: the viewer is silent.
    world.remotes[viewer].silent = true;
    for _ in 0..20 {
        world.deliver(0, path_from(own), null_hello());
        world.shards[0].tick();
        let sent = world.take_sent(0);
        assert!(sent.iter().all(|sent| sent.path.remote != own), "an answer before ICE");
        pushed += 1;
    }
    world.remotes[viewer].silent = false;
    // While its checks and its handshake run, and afterwards: one in each millisecond, from two other addresses.
    let body = client_hello(&[0xC02B]);
    let proper = fragment(1, body.len() as u32, 0, 0, &body, 0);
    for _ in 0..300 {
        for (from, hello) in [(elsewhere, null_hello()), (bad(1), proper.clone())] {
            world.deliver(0, path_from(from), hello);
            pushed += 1;
        }
        world.run(MILLISECOND);
    }
    assert!(world.remotes[viewer].connected, "the race was won");
    assert!(world.to_strangers.is_empty(), "an unverified source got an answer");
    assert_eq!(world.counter(CounterId::DtlsRefused) - before, pushed);
    assert_eq!(world.counter(CounterId::DtlsFailed), 0);
    source.play(&mut world, 10, 2);
    assert_eq!(world.remotes[viewer].of(ssrc).len(), 20);
}

#[test]
fn threat_02_stun_floods_get_no_answer_and_leave_no_state() {
    let (mut world, mut source, track) = publishing(2);
    let viewer = world.add(1, Side::Viewer);
    let (_, ssrc) = world.feed(1, viewer, track);
    world.connect();
    source.play(&mut world, 3, 2);
    let session = world.remotes[viewer].session;
    let gone = SessionId::new(session.index, session.generation + 1);
    let nobody = SessionId::new(60_000, 1);
    let (audit, refused) = (world.audit(), world.counter(CounterId::StunRefused));
    let unknown = world.counter(CounterId::DatagramsUnknown);
    let answered = world.counter(CounterId::StunAnswered);
    let mut number = 0;
    for _ in 0..1_000 {
        let floods = [
            unsigned(check(session, number)),
            named_check(session, b"abcdefghi", b"another password 1234567", number),
            named_check(session, b"zzzzzzzzz", PWD, number),
            check(gone, number),
            check(nobody, number),
            vec![0; 40],
        ];
        for datagram in floods {
            number += 1;
            world.deliver(number as usize % 2, path_from(bad(number)), datagram);
        }
        world.step();
    }
    world.run(Duration::from_millis(20));
    assert!(world.to_strangers.is_empty(), "amplification must be 0");
    assert_eq!(world.audit(), audit, "a flood left state");
    for number in 1..=6_000 {
        let found = world.shards[0].parts().1.shared.directory.find(&pair_of(&path_from(bad(number))));
        assert_eq!(found, None, "an address nobody verified is remembered");
    }
    let counted = world.counter(CounterId::StunRefused) - refused + world.counter(CounterId::DatagramsUnknown) - unknown;
    assert_eq!(counted, 6_000, "every one is counted");
    assert!(world.counter(CounterId::StunAnswered) - answered <= 4, "only the remotes' own checks are answered");
    let before = world.remotes[viewer].of(ssrc).len();
    source.play(&mut world, 30, 2);
    assert_eq!(world.remotes[viewer].of(ssrc).len(), before + 60);
}

/// Eight checks are answered in a tick; of the others four of each session wait, and who does not know a session's name waits for nothing.
#[test]
fn threat_02_neither_strangers_nor_a_viewer_fill_the_queue_of_checks() {
    let (mut world, _, _) = publishing(1);
    let [flooder, honest] = [0, 1].map(|_| world.add(0, Side::Viewer));
    let [flooders, honests] = [flooder, honest].map(|remote| world.remotes[remote].session);
    world.remotes[flooder].silent = true;
    let refused = world.counter(CounterId::StunRefused);
    for number in 0..20 {
        world.deliver(0, path_from(bad(1)), check(flooders, number));
    }
    for number in 20..2_020 {
        world.deliver(0, path_from(bad(number)), named_check(honests, b"zzzzzzzzz", PWD, number));
        if number % 400 == 0 {
            world.tick(0);
        }
    }
    world.deliver(0, path_from(world.remotes[honest].address), check(honests, 3_000));
    world.tick(0);
    let core = world.shards[0].parts().1;
    assert!(core.checks.len() <= 5, "{}", core.checks.len());
    world.run(Duration::from_millis(200));
    assert!(world.remotes[honest].connected);
    assert_eq!(world.counter(CounterId::StunRefused) - refused, 8 + 2_000);
}

#[test]
fn checks_that_wait_are_not_the_next_sessions_in_the_slot() {
    let (mut world, _, _) = publishing(1);
    let viewers: Vec<usize> = (0..5).map(|_| world.add(0, Side::Viewer)).collect();
    let sessions: Vec<SessionId> = viewers.iter().map(|&remote| world.remotes[remote].session).collect();
    viewers.iter().for_each(|&remote| world.remotes[remote].silent = true);
    // Eight at once, then four of each.
    for number in 0..24 {
        let of = (number as usize / 4).saturating_sub(1);
        world.deliver(0, path_from(bad(of as u32)), check(sessions[of], number));
    }
    world.tick(0);
    assert_eq!(world.shards[0].parts().1.checks.len(), 16);
    let refused = world.counter(CounterId::StunRefused);
    world.done(0, &Command::RemoveSession { session: sessions[4] });
    assert_eq!(world.shards[0].parts().1.checks.len(), 8);
    let next = world.add(0, Side::Viewer);
    assert_eq!(world.remotes[next].session.index, sessions[4].index);
    assert!(world.shards[0].parts().1.checks.is_empty());
    assert_eq!(world.counter(CounterId::StunRefused), refused);
    world.run(Duration::from_millis(200));
    assert!(world.remotes[next].connected);
}

#[test]
fn threat_03_a_viewer_that_flaps_is_followed_once_a_second() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    world.feed(0, viewer, track);
    world.connect();
    let session = world.remotes[viewer].session;
    let own = world.remotes[viewer].address;
    let is_media = |datagram: &[u8]| classify(datagram) == Class::Rtp;
    let (mut switches, mut at_own) = (0, true);
    let mut seen = world.remotes[viewer].seen.len();
    for turn in 0..1_000u32 {
        // A nomination in every 10 ms, from two addresses in turn: 1,000 asks in 10 s.
        let from = if turn % 2 == 0 { bad(1) } else { own };
        world.deliver(0, path_from(from), check(session, turn));
        source.play_for(&mut world, 1, Duration::from_millis(10));
        let elsewhere = world.to_strangers.drain(..).filter(|sent| is_media(&sent.bytes)).count();
        let here = world.remotes[viewer].seen.len() - std::mem::replace(&mut seen, world.remotes[viewer].seen.len());
        if (elsewhere > 0 && at_own) || (here > 0 && !at_own) {
            switches += 1;
            at_own = !at_own;
        }
    }
    assert!((5..=11).contains(&switches), "{switches} switches in 10 s");
    // From a thousand addresses: the table of pairs stays what it is.
    for number in 0..1_000 {
        world.deliver(0, path_from(bad(100 + number)), check(session, 5_000 + number));
        world.step();
    }
    let core = world.shards[0].parts().1;
    let pairs = usize::from(core.table.session(session.index).unwrap().pairs);
    let known = (0..1_000).filter(|n| core.shared.directory.find(&pair_of(&path_from(bad(100 + n)))).is_some());
    assert!(pairs <= PAIRS_PER_SESSION_MAX && known.count() <= PAIRS_PER_SESSION_MAX);
    assert_eq!(world.counter(CounterId::SessionsConnected), 2);
}

/// A session whose pair is verified, and which then sends what its attacker likes.
fn half_open(world: &mut World) -> usize {
    let remote = world.add(0, Side::Viewer);
    let session = world.remotes[remote].session;
    world.remotes[remote].silent = true;
    world.deliver(0, path_from(world.remotes[remote].address), check(session, remote as u32));
    remote
}

#[test]
fn threat_04_fragments_and_half_open_handshakes_are_bounded_and_expire() {
    let (mut world, mut source, track) = publishing(1);
    let body = client_hello(&[0xC02B, 0xC02F]);
    let length = body.len() as u32;
    let one_byte: Vec<_> =
        body.iter().enumerate().map(|(at, byte)| fragment(1, length, 0, at as u32, &[*byte], at as u64)).collect();
    let empty: Vec<_> = (0..200).map(|n| fragment(1, length, 0, n % length, &[], u64::from(n))).collect();
    let overlapping: Vec<_> = (0..200)
        .map(|n| {
            let from = n * 7 % (length - 20);
            fragment(1, length, 0, from, &[n as u8; 20], u64::from(n))
        })
        .collect();
    let huge: Vec<_> = (0..200).map(|n| fragment(1, 65_535, 0, n * 300, &[n as u8; 300], u64::from(n))).collect();
    // Lengths beyond their record, and fragments beyond their message.
    let beyond: Vec<_> = (0..200).map(|n| fragment(1, 10, 0, 0xFF_FFF0 + n % 15, &[1; 30], u64::from(n))).collect();
    let attacks = [one_byte, empty, overlapping, huge, beyond];
    let attackers: Vec<usize> = attacks.iter().map(|_| half_open(&mut world)).collect();
    let flood: Vec<usize> = (0..200).map(|_| half_open(&mut world)).collect();
    let whole = fragment(1, length, 0, 0, &body, 0);
    let began = world.now;
    world.run(MILLISECOND);
    for &remote in &flood {
        world.push(remote, whole.clone());
    }
    for round in 0..200 {
        for (attack, &remote) in attacks.iter().zip(&attackers) {
            world.push(remote, attack[round % attack.len()].clone());
        }
        world.run(MILLISECOND);
        assert!(world.shards[0].parts().1.heard_waiting <= 1_024);
    }
    // A legitimate viewer joins in the middle of it.
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    let joined = world.now;
    while !world.remotes[viewer].connected {
        world.run(MILLISECOND);
        assert!(world.now.since(joined) < Duration::from_millis(500), "the flood blocks an honest join");
    }
    source.play(&mut world, 10, 2);
    assert_eq!(world.remotes[viewer].of(ssrc).len(), 20);
    let rest = Duration::from_millis(10_200) - world.now.since(began);
    world.run(rest);
    let audit = world.audit();
    assert_eq!((audit.handshakes, audit.publishers, audit.viewers), (0, 1, 1), "half-open sessions expire after 10 s");
    assert_eq!(world.counter(CounterId::DtlsHandshakes), 2);
    let closed = world.heard.iter().filter(|event| matches!(event, Event::SessionClosed { .. })).count();
    assert_eq!(closed, attackers.len() + flood.len());
    assert_eq!((world.lent(0), world.shards[0].parts().1.heard_waiting), (0, 0));
}

/// More than a shard lends out at a time: the others begin with a later check, and what has begun goes on when there is room.
#[test]
fn handshakes_for_which_there_is_no_room_wait() {
    let mut world = World::new(1);
    let first = world.add(0, Side::Viewer);
    world.step();
    world.run(Duration::from_millis(1));
    world.handshakers_rest = true;
    let crowd: Vec<usize> = (0..1_100)
        .map(|_| {
            let remote = half_open(&mut world);
            world.shards[0].tick();
            remote
        })
        .collect();
    assert_eq!((world.lent(0), world.counter(CounterId::StunAnswered) >= 1_100), (1_024, true));
    world.run(Duration::from_millis(20));
    assert!(!world.remotes[first].connected);
    world.handshakers_rest = false;
    world.run(Duration::from_millis(20));
    assert!(world.remotes[first].connected);
    for &remote in &crowd {
        let session = world.remotes[remote].session;
        world.deliver(0, path_from(world.remotes[remote].address), check(session, remote as u32));
        world.step();
    }
    let sessions = world.shards[0].parts().1.sessions.iter().flatten();
    let here = sessions.filter(|session| matches!(session.handshake, Held::Here(_)));
    assert_eq!((here.count(), world.lent(0)), (1_100, 0), "all of them have begun");
}

#[test]
fn threat_05_another_certificate_than_promised_gets_no_keys_and_no_media() {
    let (mut world, mut source, track) = publishing(1);
    let impostor = |world: &mut World, side| {
        let (now, identity) = (world.now, Identity::new().unwrap());
        world.add_with(0, side, Fingerprint([7; 32]), |facts, seed| {
            Client::new(&identity, facts, seed, now, Instant::now()).unwrap()
        })
    };
    let viewer = impostor(&mut world, Side::Viewer);
    world.feed(0, viewer, track);
    let publisher = impostor(&mut world, Side::Publisher);
    world.stream.index = 2;
    let stolen = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 99);
    let sent = world.counter(CounterId::RtcpSent);
    world.run(Duration::from_millis(100));
    for remote in [viewer, publisher] {
        let session = world.remotes[remote].session;
        let reason = CloseReason::FingerprintMismatch;
        assert!(world.heard.contains(&Event::SessionClosed { session, reason }));
        assert!(!world.heard.iter().any(|event| matches!(event, Event::SessionConnected { session: s, .. } if *s == session)));
    }
    source.play(&mut world, 10, 2);
    assert!(world.remotes[viewer].seen.is_empty(), "media for a stranger");
    assert!(!world.heard.contains(&Event::TrackState { track: stolen, live: true }));
    assert_eq!(world.counter(CounterId::RtcpSent) - sent, 0, "not even a report is sealed for them");
    assert_eq!((world.audit().viewers, world.audit().publishers), (0, 1));
    assert_eq!(world.counter(CounterId::DtlsFailed), 2);
}

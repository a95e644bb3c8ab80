//! A shard under fire: an engine over memory and in virtual time, whose remotes are connected by a handshake without
//! cryptography, so that the same bytes do the same thing every time.
//!
//! Two streams with a viewer each. The first pair is the attacker's: plain datagrams from anywhere
//! (`session_datagrams`), or plaintext sealed with its valid keys (`session_datagrams_keyed`). The second pair is honest
//! and must not notice.

use super::choices::Choices;
use spillway_engine::io::Path;
use spillway_engine::shard::HandshakeMaker;
use spillway_engine::shard::audit::Audit;
use spillway_engine::shard::world::{PWD, SERVER, Source, World};
use spillway_proto::id::{Codec, SessionId, Side, StreamId, TrackId};
use spillway_proto::limits::{KEYFRAME_REQUEST_INTERVAL, PAYLOAD_SIZE_MAX};
use spillway_proto::link::command::{Answer, Command, DtlsRole, Fingerprint};
use spillway_proto::session::client::Client;
use spillway_proto::session::dtls::{DtlsError, DtlsOutput, Handshake, SrtpKeys};
use spillway_proto::session::ice::encode_ufrag;
use spillway_proto::session::record::MasterKey;
use spillway_proto::session::srtp::Profile;
use spillway_proto::time::Time;
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::rtp::{parse_header, write_header};
use spillway_proto::wire::stun::{Message, parse, write_request};
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

const UFRAG_RANDOM: &[u8; 9] = b"abcdefghi";
const HELLO: [u8; 14] = [22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 7];

/// Connected with the first datagram that is exactly `HELLO`; anything else is ignored.
struct Instantly {
    role: DtlsRole,
    said: bool,
    out: Option<[u8; 14]>,
    keys: Option<SrtpKeys>,
}

impl Instantly {
    fn new(role: DtlsRole) -> Instantly {
        Instantly { role, said: false, out: None, keys: None }
    }
}

impl Handshake for Instantly {
    fn handle_datagram(&mut self, _: Time, datagram: &[u8]) -> Result<(), DtlsError> {
        let heard = datagram == HELLO && (self.role == DtlsRole::Client || !self.said);
        if heard {
            let master = |byte| MasterKey { key: [byte; 32], salt: [byte; 14], reserved: [0; 2] };
            let (client, server) = (master(1), master(2));
            self.keys = Some(match self.role {
                DtlsRole::Client => SrtpKeys { profile: Profile::AeadAes128Gcm, receive: server, send: client },
                DtlsRole::Server => SrtpKeys { profile: Profile::AeadAes128Gcm, receive: client, send: server },
            });
            if self.role == DtlsRole::Server {
                (self.said, self.out) = (true, Some(HELLO));
            }
        }
        Ok(())
    }
    fn poll(&mut self, _: Time, out: &mut [u8]) -> Result<DtlsOutput, DtlsError> {
        if self.role == DtlsRole::Client && !self.said {
            (self.said, self.out) = (true, Some(HELLO));
        }
        if let Some(datagram) = self.out.take() {
            out[..datagram.len()].copy_from_slice(&datagram);
            return Ok(DtlsOutput::Datagram(datagram.len()));
        }
        Ok(self.keys.take().map_or(DtlsOutput::Wait(Time::NEVER), DtlsOutput::Connected))
    }
    fn close(&mut self) {}
    fn sealed_close_notify(&mut self, _: &mut [u8]) -> usize {
        0
    }
    fn last_flight(&self) -> &[u8] {
        &[]
    }
}

fn stranger(number: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, number], 4_000))
}

/// A publisher and a viewer of one stream.
struct Pair {
    source: Source,
    viewer: usize,
    ssrc: u32,
    track: TrackId,
}

struct Scene {
    world: Box<World>,
    inputs: usize,
    attacker: Pair,
    honest: Pair,
    began: Time,
}

/// Inputs that share an engine: to make one takes 20 ms, and what an input leaves behind in it is a finding.
const INPUTS_PER_WORLD: usize = 64;

thread_local! {
    static WORLD: Cell<Option<(Box<World>, usize)>> = const { Cell::new(None) };
}

fn empty_world() -> Box<World> {
    let maker: HandshakeMaker = Box::new(|role, _, _| Ok(Box::new(Instantly::new(role)) as Box<dyn Handshake>));
    Box::new(World::over(vec![maker], 2, 7))
}

impl Scene {
    fn new() -> Scene {
        // Taken out: an input that panics leaves none for the next one.
        let (mut world, inputs) = WORLD.take().unwrap_or_else(|| (empty_world(), 0));
        let attacker = Scene::pair(&mut world, 1, 77);
        let honest = Scene::pair(&mut world, 2, 55);
        world.run(Duration::from_millis(4));
        assert!(world.remotes.iter().all(|remote| remote.connected));
        let began = world.now;
        Scene { world, inputs, attacker, honest, began }
    }

    fn pair(world: &mut World, stream: u32, ssrc: u32) -> Pair {
        let add = |world: &mut World, side| {
            let now = world.now;
            world.add_with(0, side, Fingerprint([0; 32]), |facts, seed| {
                Client::over(Box::new(Instantly::new(DtlsRole::Client)), facts, seed, now)
            })
        };
        let publisher = add(world, Side::Publisher);
        world.stream = StreamId::new(stream - 1, 1);
        let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, ssrc);
        let viewer = add(world, Side::Viewer);
        let (_, feed_ssrc) = world.feed(0, viewer, track);
        Pair { source: Source::new(publisher, ssrc), viewer, ssrc: feed_ssrc, track }
    }

    fn push_from(&mut self, from: SocketAddr, datagram: Vec<u8>) {
        let path = Path { local: SERVER.parse().expect("an address"), remote: from };
        self.world.deliver(0, path, datagram);
    }

    /// The attacker's own addresses, and two of nobody.
    fn address(&self, number: u8) -> SocketAddr {
        match number % 4 {
            0 => self.world.remotes[self.attacker.source.remote].address,
            1 => self.world.remotes[self.attacker.viewer].address,
            other => stranger(other),
        }
    }

    /// What an honest pair does all the time, and must see.
    fn honest_frame(&mut self) {
        let before = self.world.remotes[self.honest.viewer].of(self.honest.ssrc).len();
        for datagram in self.honest.source.frame(&self.world, 2) {
            self.world.push(self.honest.source.remote, datagram);
        }
        self.world.step();
        let seen = self.world.remotes[self.honest.viewer].of(self.honest.ssrc).len();
        assert_eq!(seen - before, 2, "an honest viewer missed a packet");
    }

    fn end(mut self) {
        self.world.now = self.world.now + Duration::from_millis(40);
        self.world.step();
        self.honest.source.frame = 0;
        self.honest_frame();
        // The engine still answers control, and holds what it says it holds.
        let answer = self.world.done(0, &Command::Dump { cursor: 0 });
        assert!(matches!(answer, Answer::Dump { .. }));
        let audit = self.world.audit();
        assert!(audit.publishers <= 2 && audit.viewers <= 2 && audit.feeds <= 2, "{audit:?}");
        assert_eq!(audit.feeds, audit.feed_records);
        assert_eq!(audit.slabs_held, audit.slabs_in_reels + audit.slabs_waiting, "{audit:?}");
        assert_eq!(audit.slabs_taken, audit.slabs_held);
        let honest = [self.honest.source.remote, self.honest.viewer];
        for remote in honest {
            assert!(!self.world.remotes[remote].silent, "an honest session was closed");
        }
        // Requests to the publishers are merged, whatever came.
        let span = self.world.now.since(self.began);
        let most = span.as_millis() / KEYFRAME_REQUEST_INTERVAL.as_millis() + 1;
        for source in [&self.attacker.source, &self.honest.source] {
            assert!(self.world.remotes[source.remote].keyframe_requests as u128 <= most);
        }
        self.leave();
    }

    /// Everybody goes, and nothing is left.
    fn leave(mut self) {
        for remote in 0..self.world.remotes.len() {
            let session = self.world.remotes[remote].session;
            // One that said goodbye is gone already.
            let _ = self.world.command(0, &Command::RemoveSession { session });
        }
        for track in [self.attacker.track, self.honest.track] {
            self.world.done(0, &Command::DetachTrack { track });
        }
        self.world.remotes.clear();
        for _ in 0..3 {
            self.world.now = self.world.now + Duration::from_millis(150);
            self.world.step();
        }
        // Goodbyes to remotes that are gone are no answers to strangers of the next input.
        self.world.heard.clear();
        self.world.to_strangers.clear();
        let left = Audit { bytes_allocated: 0, ..self.world.audit() };
        assert_eq!(left, Audit::default(), "something was left behind");
        if self.inputs < INPUTS_PER_WORLD {
            WORLD.set(Some((self.world, self.inputs + 1)));
        }
    }
}

/// Whether a datagram is a check that the session's own remote could have made: such a one is answered.
fn is_signed(datagram: &[u8]) -> bool {
    matches!(parse(datagram), Ok(Message::Request(request)) if request.verify(PWD))
}

fn check(session: SessionId, choices: &mut Choices<'_>) -> Vec<u8> {
    let mut transaction = [0; 12];
    transaction[0] = choices.u8();
    let ufrag = String::from_utf8(encode_ufrag(session, UFRAG_RANDOM).to_vec()).expect("letters");
    let mut out = vec![0; 256];
    let nominates = choices.u8() & 1 == 1;
    let length = write_request(&mut out, &transaction, &format!("{ufrag}:client"), PWD, 1, 2, nominates);
    out.truncate(length.expect("256 bytes are enough"));
    out
}

/// Plain datagrams of any bytes, from the remotes' addresses and from strangers.
pub fn session_datagrams(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut scene = Scene::new();
    let mut steps = 0;
    let mut signed = false;
    while !choices.is_over() && steps < 200 {
        steps += 1;
        let kind = choices.u8();
        let from = scene.address(kind >> 4);
        let datagram = match kind % 8 {
            // Time goes by, less than consent lasts.
            0 => {
                scene.world.now = scene.world.now + Duration::from_millis(choices.below(100));
                scene.world.step();
                continue;
            }
            1 => {
                scene.honest_frame();
                continue;
            }
            // A true check, as it is or with one byte changed.
            2 => {
                let of = if kind & 0x40 == 0 { scene.attacker.viewer } else { scene.attacker.source.remote };
                let mut datagram = check(scene.world.remotes[of].session, &mut choices);
                let (at, change) = (usize::from(choices.u8()), choices.u8());
                let at = at % datagram.len();
                datagram[at] ^= change;
                datagram
            }
            _ => {
                let length = choices.below(1_500) as usize;
                choices.bytes(length).to_vec()
            }
        };
        signed |= is_signed(&datagram);
        scene.push_from(from, datagram);
        scene.world.step();
        if !signed {
            assert!(scene.world.to_strangers.is_empty(), "a stranger got an answer");
        }
    }
    if !signed {
        // Nobody had keys: every session is as it was.
        assert_eq!(scene.world.audit().connected, 4);
    }
    scene.end();
}

/// Any plaintext with valid keys: packets and reports of a publisher and a viewer that are nobody's friends.
pub fn session_datagrams_keyed(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut scene = Scene::new();
    let mut steps = 0;
    while !choices.is_over() && steps < 200 {
        steps += 1;
        let kind = choices.u8();
        let attacker = if kind & 0x40 == 0 { scene.attacker.source.remote } else { scene.attacker.viewer };
        match kind % 8 {
            0 => {
                scene.world.now = scene.world.now + Duration::from_millis(choices.below(100));
                scene.world.step();
                continue;
            }
            1 => {
                scene.honest_frame();
                continue;
            }
            // A proper frame, so that there is something to ask for.
            2 => {
                let packets = 1 + choices.below(12) as usize;
                for datagram in scene.attacker.source.frame(&scene.world, packets) {
                    scene.world.push(scene.attacker.source.remote, datagram);
                }
            }
            // A packet with the right header and any payload.
            3 => {
                let length = choices.below(PAYLOAD_SIZE_MAX as u64) as usize;
                let payload = choices.bytes(length).to_vec();
                let source = &mut scene.attacker.source;
                let mut header = [0; 12];
                write_header(&mut header, kind & 0x80 != 0, 96, source.index as u16, source.timestamp, 77);
                let index = source.index;
                source.index += 1;
                scene.publish(&header, &payload, index);
            }
            // Any packet at all: header, CSRCs, extension, padding, source, number.
            4 => {
                let length = choices.below(1_300) as usize;
                let mut plain = choices.bytes(length).to_vec();
                if plain.len() < 12 {
                    continue;
                }
                let source = &mut scene.attacker.source;
                let mut index = source.index;
                if kind & 0x80 == 0 {
                    // The next number of the right source, so that it goes further than the first look.
                    plain[0] = plain[0] & 0x3F | 0x80;
                    plain[1] = plain[1] & 0x80 | 96;
                    plain[8..12].copy_from_slice(&77u32.to_be_bytes());
                    source.index += 1;
                } else {
                    index = choices.u64() & ((1 << 48) - 1);
                }
                plain[2..4].copy_from_slice(&(index as u16).to_be_bytes());
                let split = parse_header(&plain).map_or(12, |header| header.header_len);
                let mut out = vec![0; plain.len() + 64];
                let client = &scene.world.remotes[attacker].client;
                if let Some(length) = client.seal_rtp(&plain[..split], &plain[split..], index, &mut out) {
                    out.truncate(length);
                    scene.world.push(attacker, out);
                }
            }
            // Any report: whole, or one whose head is right.
            5 | 6 => {
                let length = choices.below(1_300) as usize;
                let mut plain = choices.bytes(length).to_vec();
                plain.resize(plain.len().next_multiple_of(4).max(8), 0);
                plain[0] = plain[0] & 0x3F | 0x80;
                if kind % 8 == 5 {
                    plain[1] = 200 + plain[1] % 8;
                    let words = (plain.len() / 4 - 1) as u16;
                    plain[2..4].copy_from_slice(&words.to_be_bytes());
                    if plain.len() >= 12 && kind & 0x80 != 0 {
                        plain[8..12].copy_from_slice(&scene.attacker.ssrc.to_be_bytes());
                    }
                }
                let mut out = vec![0; plain.len() + 64];
                if let Some(length) = scene.world.remotes[attacker].client.seal_rtcp(&plain, &mut out) {
                    out.truncate(length);
                    scene.world.push(attacker, out);
                }
            }
            _ => {
                let datagram = check(scene.world.remotes[attacker].session, &mut choices);
                let from = scene.address(choices.u8());
                scene.push_from(from, datagram);
            }
        }
        scene.world.step();
    }
    scene.check_forwarded();
    scene.end();
}

impl Scene {
    fn publish(&mut self, header: &[u8], payload: &[u8], index: u64) {
        let mut out = vec![0; payload.len() + 64];
        let client = &self.world.remotes[self.attacker.source.remote].client;
        if let Some(length) = client.seal_rtp(header, payload, index, &mut out) {
            out.truncate(length);
            self.world.push(self.attacker.source.remote, out);
        }
    }

    /// What the attacker's viewer got is of its feed, whole, and nothing of the honest stream.
    fn check_forwarded(&self) {
        for seen in &self.world.remotes[self.attacker.viewer].seen {
            assert!(seen.payload.len() <= 2_048);
            assert!(seen.payload_type < 128 && seen.ssrc != 0);
        }
        let honest = self.world.remotes[self.honest.viewer].of(self.honest.ssrc);
        assert!(honest.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
        assert_eq!(honest.len(), self.world.remotes[self.honest.viewer].seen.len(), "packets of another stream");
        let strangers = self.world.to_strangers.iter().filter(|sent| classify(&sent.bytes) == Class::Unknown);
        assert_eq!(strangers.count(), 0);
    }
}

//! A whole engine in one thread and in virtual time, for tests: shards over `Sim`, the link's other end, and
//! clients behind addresses of their own. Handshakes and sealing are real.

use super::audit::Audit;
use super::directory::Directory;
use super::mesh::{Epochs, Inbox, Strays};
use super::pool::Pool;
use super::table::{Owners, Table, take_ownership};
use super::handshaker::{Handshaker, handshaker};
use super::{HandshakeMaker, MEDIA_ALONE_MAX, ReelFile, Shard, Shared};
use crate::io::sim::{SentDatagram, Sim};
use crate::io::steering::Steering;
use crate::io::{Io, Path};
use crate::shm::Mapping;
use spillway_proto::id::{Codec, FeedId, SessionId, Side, StreamId, TrackId};
use spillway_proto::limits::UFRAG_RANDOM_CHARS;
use spillway_proto::link::command::{Answer, Command, DtlsRole, FeedFacts, Fingerprint, Status, TrackFacts};
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::event::Event;
use spillway_proto::link::layout::{LINK_BYTES, Link};
use spillway_proto::link::ring::{CommandWriter, EventReader};
use spillway_proto::session::client::{Client, ClientFacts, Received};
use spillway_proto::session::dtls::{Dtls, Handshake, Identity};
use spillway_proto::session::ice::encode_ufrag;
use spillway_proto::session::record::RECORDS_BYTES;
use spillway_proto::stream::reel::{STREAM_FILE_BYTES, slab_offset};
use spillway_proto::time::Time;
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::rtcp::{self, Rtcp};
use spillway_proto::wire::rtp::{Rtp, write_header};
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

pub const PWD: &[u8; 24] = b"0123456789abcdefghijklmn";
pub const SERVER: &str = "198.51.100.1:7081";
const STREAMS: usize = 4;
/// Where every world's time begins.
pub const BEGIN: Time = Time::from_millis(10_000);

pub fn memfd(bytes: usize) -> File {
    // JUSTIFICATION: std has no memfd.
    // SAFETY: a valid name; the descriptor is new and ours.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"spillway-test".as_ptr(), libc::MFD_CLOEXEC)) };
    file.set_len(bytes as u64).unwrap();
    file
}

fn eventfd() -> File {
    // JUSTIFICATION: std has no eventfd.
    // SAFETY: no arguments that could be wrong; the descriptor is new and ours.
    unsafe { File::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }
}

/// What a client received, as a viewer's player would see it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub marker: bool,
    pub sequence: u16,
    pub timestamp: u32,
    pub payload_type: u8,
    pub ssrc: u32,
    pub payload: Vec<u8>,
    /// Profile and block of its header extension.
    pub extension: Option<(u16, Vec<u8>)>,
    pub at: Time,
}

pub struct Remote {
    pub address: SocketAddr,
    pub session: SessionId,
    pub client: Client,
    pub seen: Vec<Seen>,
    /// (time, SSRC, NTP, timestamp) of sender reports.
    pub reports: Vec<(Time, u32, u64, u32)>,
    pub keyframe_requests: usize,
    /// Every compound, as it was opened.
    pub compounds: Vec<Vec<u8>>,
    /// Of full intra requests, which are not counted above.
    pub fir_sequences: Vec<u8>,
    pub connected: bool,
    /// Answers no more: its datagrams are lost both ways.
    pub silent: bool,
    /// So many handshake datagrams of the engine's are lost on their way here; those that came to be lost.
    pub handshakes_lost_max: usize,
    pub handshakes_lost: usize,
    /// The shard the kernel would give its datagrams to.
    pub lands_on: usize,
    /// What the network does to datagrams on their way to this remote.
    pub path_down: Option<Box<dyn FnMut(&[u8]) -> bool>>,
    /// SRTP as it was on the wire towards this remote, lost ones too, if somebody wants to see it.
    pub wire: Option<Vec<Vec<u8>>>,
    /// What this remote was asked to send again, as 16-bit numbers of an SSRC.
    pub asked_again: Vec<(Time, u32, u16)>,
}

pub struct World {
    pub now: Time,
    anchor: Instant,
    pub shards: Vec<Shard<Sim>>,
    /// In the place of the threads beside the shards.
    handshakers: Vec<Handshaker>,
    /// They do nothing.
    pub handshakers_rest: bool,
    pub link: Link,
    commands: Vec<CommandWriter>,
    events: Vec<EventReader>,
    pub heard: Vec<Event>,
    pub remotes: Vec<Remote>,
    /// Where `track` puts the next one.
    pub stream: StreamId,
    /// What went to addresses of no remote.
    pub to_strangers: Vec<SentDatagram>,
    /// Remotes there ever were: each has an address of its own, also where others went.
    added: u32,
    /// None where the handshakes are somebody else's.
    server_identity: Option<Arc<Identity>>,
    epoch: u64,
    _records: Arc<Mapping>,
    _link_memory: Mapping,
}

impl World {
    pub fn new(shards: usize) -> World {
        let server_identity = Arc::new(Identity::new().unwrap());
        let (now, anchor) = (BEGIN, Instant::now());
        let makers = (0..shards).map(|_| {
            let identity = Arc::clone(&server_identity);
            Box::new(move |role, fingerprint, at: Time| {
                Ok(Box::new(Dtls::new(&identity, role, fingerprint, at, anchor + at.since(now))?)
                    as Box<dyn Handshake>)
            }) as HandshakeMaker
        });
        let makers = makers.collect();
        World { anchor, server_identity: Some(Arc::clone(&server_identity)), ..World::over(makers, STREAMS, 7) }
    }

    /// An engine with a shard for each of `makers`, which make its handshakes, and no remotes of its own: the
    /// simulator has a network and clients besides.
    pub fn over(makers: Vec<HandshakeMaker>, streams: usize, seed: u64) -> World {
        let (now, shards) = (BEGIN, makers.len());
        let link_memory = Mapping::shared(memfd(LINK_BYTES), LINK_BYTES).unwrap();
        // JUSTIFICATION: the link is a mapped file.
        // SAFETY: the mapping lives in the world, as long as every handle.
        let link =
            unsafe { Link::create(link_memory.start().as_ptr(), link_memory.length(), shards as u32) }.unwrap();
        let records = Arc::new(Mapping::shared(memfd(RECORDS_BYTES), RECORDS_BYTES).unwrap());
        take_ownership(&records, shards as u32).unwrap();
        let epoch = link.begin_engine_epoch();
        let owners = Arc::new(Owners::new(shards as u32));
        let shared = Arc::new(Shared {
            link,
            epoch,
            owners: Arc::clone(&owners),
            directory: Directory::new(),
            epochs: Arc::new(Epochs::new(shards)),
            pool: Arc::new(Pool::default()),
            inboxes: (0..shards).map(|_| Inbox::new()).collect(),
            shard_wake: (0..shards).map(|_| eventfd()).collect(),
            control_wake: eventfd(),
            reel_files: (0..streams).map(|_| ReelFile::new(memfd(STREAM_FILE_BYTES))).collect(),
            steering: Steering::default(),
            stop: AtomicBool::new(false),
        });
        let (engine, handshakers) = Strays::mesh(shards)
            .into_iter()
            .zip(makers)
            .enumerate()
            .map(|(index, (strays, maker))| {
                let table = Table::new(Arc::clone(&records), Arc::clone(&owners), index).unwrap();
                let (lending, handshaker) = handshaker(maker);
                (Shard::new(Sim::new(now), index, Arc::clone(&shared), table, strays, lending, seed), handshaker)
            })
            .unzip();
        World {
            now,
            anchor: Instant::now(),
            shards: engine,
            handshakers,
            handshakers_rest: false,
            link,
            commands: (0..shards).map(|shard| link.commands_writer(shard)).collect(),
            events: (0..shards).map(|shard| link.events_reader(shard)).collect(),
            heard: Vec::new(),
            remotes: Vec::new(),
            stream: StreamId::new(1, 1),
            to_strangers: Vec::new(),
            added: 0,
            server_identity: None,
            epoch,
            _records: records,
            _link_memory: link_memory,
        }
    }

    pub fn command(&mut self, shard: usize, command: &Command) -> (Status, Answer) {
        self.commands[shard].push(self.epoch, command).unwrap();
        // Some ticks are media's alone.
        for _ in 0..=MEDIA_ALONE_MAX {
            self.shards[shard].tick();
            if let Some((_, status, answer)) = self.commands[shard].poll_answer() {
                return (status, answer);
            }
        }
        panic!("no answer in the slot");
    }

    pub fn done(&mut self, shard: usize, command: &Command) -> Answer {
        let (status, answer) = self.command(shard, command);
        assert_eq!(status, Status::Done, "{command:?}");
        answer
    }

    /// A session of the engine's and the client at its other end, which begins the handshake; returns the client's
    /// number.
    pub fn add(&mut self, shard: usize, side: Side) -> usize {
        self.add_as(shard, side, DtlsRole::Server)
    }

    /// The engine has this role in the handshake, the client the other.
    pub fn add_as(&mut self, shard: usize, side: Side, dtls_role: DtlsRole) -> usize {
        let identity = Identity::new().unwrap();
        self.add_promising(shard, side, dtls_role, &identity, identity.fingerprint())
    }

    /// A client whose offer promised this fingerprint.
    pub fn add_promising(
        &mut self,
        shard: usize,
        side: Side,
        dtls_role: DtlsRole,
        identity: &Identity,
        fingerprint: Fingerprint,
    ) -> usize {
        let (now, at) = (self.now, self.anchor + self.now.since(BEGIN));
        let make = |facts, seed| Client::new(identity, facts, seed, now, at).unwrap();
        self.add_made(shard, side, dtls_role, fingerprint, make)
    }

    fn next_address(&mut self) -> SocketAddr {
        let number = self.added;
        self.added += 1;
        SocketAddr::from(([192, 0, 2 + (number / 50_000 % 250) as u8, 1], 5_000 + (number % 50_000) as u16))
    }

    /// The same with a promise and a client of the caller's, who is given what the answer says and a seed.
    pub fn add_with(
        &mut self,
        shard: usize,
        side: Side,
        fingerprint: Fingerprint,
        make: impl FnOnce(ClientFacts, u64) -> Client,
    ) -> usize {
        self.add_made(shard, side, DtlsRole::Server, fingerprint, make)
    }

    fn add_made(
        &mut self,
        shard: usize,
        side: Side,
        dtls_role: DtlsRole,
        fingerprint: Fingerprint,
        make: impl FnOnce(ClientFacts, u64) -> Client,
    ) -> usize {
        let number = self.remotes.len();
        let ufrag_random: [u8; UFRAG_RANDOM_CHARS] = *b"abcdefghi";
        let answer = self.done(
            shard,
            &Command::AddSession {
                side,
                dtls_role,
                ufrag_random,
                pwd: *PWD,
                fingerprint,
                note: [number as u8; 64],
            },
        );
        let Answer::Session { session } = answer else { panic!("{answer:?}") };
        let facts = ClientFacts {
            local_ufrag: "client".into(),
            remote_ufrag: String::from_utf8(encode_ufrag(session, &ufrag_random).to_vec()).unwrap(),
            remote_pwd: String::from_utf8(PWD.to_vec()).unwrap(),
            remote_fingerprint: self.server_identity.as_ref().map_or(Fingerprint([0; 32]), |identity| identity.fingerprint()),
            role: if dtls_role == DtlsRole::Client { DtlsRole::Server } else { DtlsRole::Client },
        };
        let client = make(facts, number as u64);
        let address = self.next_address();
        self.remotes.push(Remote {
            address,
            session,
            client,
            seen: Vec::new(),
            reports: Vec::new(),
            keyframe_requests: 0,
            compounds: Vec::new(),
            fir_sequences: Vec::new(),
            connected: false,
            silent: false,
            handshakes_lost_max: 0,
            handshakes_lost: 0,
            lands_on: shard,
            path_down: None,
            wire: None,
            asked_again: Vec::new(),
        });
        number
    }

    pub fn track(&mut self, shard: usize, publisher: usize, takeover: TrackId, codec: Codec, ssrc: u32) -> TrackId {
        let payload_type = if codec == Codec::Opus { 111 } else { 96 };
        self.track_with(shard, publisher, takeover, TrackFacts::new(codec, payload_type, ssrc))
    }

    pub fn track_with(&mut self, shard: usize, publisher: usize, takeover: TrackId, facts: TrackFacts) -> TrackId {
        let command = Command::AttachTrack {
            session: self.remotes[publisher].session,
            stream: self.stream,
            track: takeover,
            facts,
            note: [9; 64],
        };
        match self.done(shard, &command) {
            Answer::Track { track } => track,
            other => panic!("{other:?}"),
        }
    }

    pub fn feed(&mut self, shard: usize, viewer: usize, track: TrackId) -> (FeedId, u32) {
        let mut payload_types = [0; Codec::COUNT];
        payload_types[Codec::H264 as usize] = 102;
        payload_types[Codec::Vp8 as usize] = 103;
        payload_types[Codec::Opus as usize] = 104;
        let (feed, ssrc, _) = self.feed_with(shard, viewer, track, FeedFacts { payload_types, ..FeedFacts::default() });
        (feed, ssrc)
    }

    /// The feed, its SSRC and that of its retransmissions.
    pub fn feed_with(&mut self, shard: usize, viewer: usize, track: TrackId, facts: FeedFacts) -> (FeedId, u32, u32) {
        let command = Command::AttachFeed { session: self.remotes[viewer].session, track, facts };
        match self.done(shard, &command) {
            Answer::Feed { feed, ssrc, rtx_ssrc } => (feed, ssrc, rtx_ssrc),
            other => panic!("{other:?}"),
        }
    }

    /// Runs everybody until `span` of virtual time is over, in steps of a millisecond.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + Duration::from_millis(1);
            self.step();
        }
    }

    pub fn step(&mut self) {
        let server: SocketAddr = SERVER.parse().unwrap();
        for remote in &mut self.remotes {
            let outcome = remote.client.handle_timeout(self.now);
            remote.connected |= matches!(outcome, Ok(Received::Connected(_)));
            while let Some(datagram) = remote.client.poll_datagram() {
                if !remote.silent {
                    let (io, _) = self.shards[remote.lands_on].parts();
                    io.push(Path { local: server, remote: remote.address }, datagram);
                }
            }
        }
        for index in 0..self.shards.len() {
            let (io, _) = self.shards[index].parts();
            let behind = self.now.since(io.now());
            io.advance(behind);
        }
        // What one shard leaves for another is there in the same step.
        for _ in 0..64 {
            let busy = self.shards.iter_mut().fold(false, |busy, shard| shard.tick() | busy);
            let busy = (0..self.shards.len()).fold(busy, |busy, shard| self.shake_hands(shard) | busy);
            if !busy {
                break;
            }
        }
        for index in 0..self.shards.len() {
            let (io, _) = self.shards[index].parts();
            for sent in io.take_sent() {
                assert_eq!(sent.path.local, server, "answered from another address than was asked");
                if let Some(remote) = self.remotes.iter_mut().find(|remote| remote.address == sent.path.remote) {
                    remote.take(self.now, sent.bytes);
                } else {
                    self.to_strangers.push(sent);
                }
            }
            while let Some(event) = self.events[index].pop() {
                self.heard.push(event);
            }
        }
    }

    /// The remote's datagram reaches the shard the kernel chose.
    pub fn push(&mut self, remote: usize, datagram: Vec<u8>) {
        let path = Path { local: SERVER.parse().unwrap(), remote: self.remotes[remote].address };
        let (io, _) = self.shards[self.remotes[remote].lands_on].parts();
        io.push(path, datagram);
    }

    pub fn connect(&mut self) {
        self.run(Duration::from_millis(200));
        for remote in &self.remotes {
            assert!(remote.connected || remote.silent, "{:?} is not connected", remote.session);
        }
    }

    pub fn counter(&self, id: CounterId) -> u64 {
        self.link.counter_sum(id)
    }

    // ---- for whoever has a network, clients and a control of his own ----

    /// Who was named to the kernel, with the shard.
    #[cfg(test)]
    pub fn steered(&self) -> Vec<(SocketAddr, usize)> {
        self.shards[0].core.shared.steering.named()
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A datagram arrives at a shard's sockets.
    pub fn deliver(&mut self, shard: usize, path: Path, datagram: Vec<u8>) {
        self.shards[shard].io.push(path, datagram);
    }

    /// One pass of one shard at the world's time; true: there may be more to do at once.
    pub fn tick(&mut self, shard: usize) -> bool {
        let shard = &mut self.shards[shard];
        let behind = self.now.since(shard.io.now());
        shard.io.advance(behind);
        shard.tick()
    }

    /// Everything that the shard lent out is done. True if there was anything.
    pub fn shake_hands(&mut self, shard: usize) -> bool {
        let now = self.now;
        let mut worked = false;
        while !self.handshakers_rest && self.handshakers[shard].work(|| now) {
            worked = true;
        }
        worked
    }

    /// Handshakes that the shard lent out.
    pub fn lent(&self, shard: usize) -> usize {
        self.shards[shard].core.lending.lent()
    }

    /// What the shard sent since the last call.
    pub fn take_sent(&mut self, shard: usize) -> Vec<SentDatagram> {
        self.shards[shard].io.take_sent()
    }

    /// The shard parks, as one that has nothing to do does: it holds no slab, and wakes at the time that is returned,
    /// a datagram, or news.
    pub fn rest(&mut self, shard: usize) -> Option<Time> {
        let core = &mut self.shards[shard].core;
        core.shared.epochs.leave(core.index);
        core.next_deadline()
    }

    /// The next sends of a shard find no room in its sockets.
    pub fn block(&mut self, shard: usize, sends: usize) {
        self.shards[shard].io.block(sends);
    }

    /// What the streams' files hold beside slabs: at most this.
    pub fn reel_overhead(&self) -> usize {
        self.shards[0].core.shared.reel_files.len() * slab_offset(0)
    }

    /// Other shards left something for this one.
    pub fn has_news(&self, shard: usize) -> bool {
        let core = &self.shards[shard].core;
        !core.shared.inboxes[shard].is_empty() || !core.strays.is_empty()
    }

    pub fn audit(&self) -> Audit {
        let mut audit = Audit::default();
        self.shards.iter().for_each(|shard| shard.core.audit(&mut audit));
        audit
    }
}

impl Remote {
    pub fn take(&mut self, now: Time, mut datagram: Vec<u8>) {
        if self.silent {
            return;
        }
        if classify(&datagram) == Class::Rtp {
            self.wire.iter_mut().for_each(|wire| wire.push(datagram.clone()));
        }
        // True: it arrives.
        if self.path_down.as_mut().is_some_and(|path| !path(&datagram)) {
            return;
        }
        if self.handshakes_lost < self.handshakes_lost_max && classify(&datagram) == Class::Dtls {
            self.handshakes_lost += 1;
            return;
        }
        match self.client.handle_datagram(now, &mut datagram) {
            Ok(Received::Connected(_)) => self.connected = true,
            Ok(Received::Rtp(length)) => {
                let rtp = Rtp::parse(&datagram[..length]).unwrap();
                assert!(rtp.padding_len <= 1, "no more than what makes a picture one send");
                self.seen.push(Seen {
                    marker: rtp.marker,
                    sequence: rtp.sequence,
                    timestamp: rtp.timestamp,
                    payload_type: rtp.payload_type,
                    ssrc: rtp.ssrc,
                    payload: rtp.payload.to_vec(),
                    extension: rtp.extension.map(|(profile, block)| (profile, block.to_vec())),
                    at: now,
                });
            }
            Ok(Received::Rtcp(length)) => {
                self.compounds.push(datagram[..length].to_vec());
                for packet in rtcp::packets(&datagram[..length]) {
                    match packet {
                        Rtcp::SenderReport { ssrc, ntp, rtp, .. } => self.reports.push((now, ssrc, ntp.0, rtp)),
                        Rtcp::Pli { .. } => self.keyframe_requests += 1,
                        Rtcp::Fir { entries, .. } => self.fir_sequences.extend(entries.map(|entry| entry.sequence)),
                        Rtcp::Nack { media, losses, .. } => {
                            self.asked_again.extend(losses.map(|sequence| (now, media, sequence)));
                        }
                        _ => {}
                    }
                }
            }
            Ok(Received::Nothing) => {}
            // Over: what comes after the goodbye is of no interest.
            Err(_) => self.silent = true,
        }
    }

    /// The packets of one SSRC.
    pub fn of(&self, ssrc: u32) -> Vec<&Seen> {
        self.seen.iter().filter(|seen| seen.ssrc == ssrc).collect()
    }
}

/// A publisher of one VP8 track whose payloads say which packet they are.
pub struct Source {
    pub remote: usize,
    pub ssrc: u32,
    pub payload_type: u8,
    pub index: u64,
    pub timestamp: u32,
    pub frame: u64,
    pub frames_per_keyframe: u64,
}

impl Source {
    pub fn new(remote: usize, ssrc: u32) -> Source {
        Source { remote, ssrc, payload_type: 96, index: 60_000, timestamp: 1_000, frame: 0, frames_per_keyframe: 30 }
    }

    /// The next frame's datagrams: `packets` of them, as libwebrtc cuts them (s and s + 1 bytes).
    pub fn frame(&mut self, world: &World, packets: usize) -> Vec<Vec<u8>> {
        let keyframe = self.frame % self.frames_per_keyframe == 0;
        let datagrams = (0..packets)
            .map(|n| {
                let mut payload = vec![0u8; if n < packets / 2 { 1_000 } else { 1_001 }];
                payload[0] = if n == 0 { 0x10 } else { 0x00 };
                payload[1] = u8::from(!(keyframe && n == 0));
                payload[8..16].copy_from_slice(&self.index.to_be_bytes());
                let mut header = [0; 12];
                let marker = n + 1 == packets;
                write_header(&mut header, marker, self.payload_type, self.index as u16, self.timestamp, self.ssrc);
                let mut out = vec![0; 1_100];
                let client = &world.remotes[self.remote].client;
                let length = client.seal_rtp(&header, &payload, self.index, &mut out).unwrap();
                out.truncate(length);
                self.index += 1;
                out
            })
            .collect();
        self.frame += 1;
        self.timestamp = self.timestamp.wrapping_add(3_000);
        datagrams
    }

    /// One frame, and time for it.
    pub fn play_for(&mut self, world: &mut World, packets: usize, span: Duration) {
        for datagram in self.frame(world, packets) {
            world.push(self.remote, datagram);
        }
        world.run(span);
    }

    /// `frames` frames at 30 a second.
    pub fn play(&mut self, world: &mut World, frames: usize, packets: usize) {
        for _ in 0..frames {
            self.play_for(world, packets, Duration::from_millis(33));
        }
    }
}

/// What a packet of `Source` carries.
pub fn number_of(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload[8..16].try_into().unwrap())
}

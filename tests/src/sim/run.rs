//! One run: the engine's shards, control, the network and the people, one millisecond after the other.
//!
//! Nothing here asks a clock or the system's randomness: a scenario and a seed decide every byte. `step` is the whole
//! loop; what happens when is in the heap of actions and in the network's queue.

mod actions;
mod verdict;

use super::control::{Admitted, Control, Post, Said};
use super::feed::Feed;
use super::handshake::{KeyLog, Stub};
use super::hash::{hash, mix};
use super::media::{Broadcast, MediaItem, Studio};
use super::network::{Network, Parcel};
use super::person::Person;
use super::remote::{Remote, Sniffed};
use super::violation::{Invariant, Violation};
use spillway_engine::io::Path;
use spillway_engine::io::sim::SentDatagram;
use spillway_engine::shard::HandshakeMaker;
use spillway_engine::shard::world::{BEGIN, World};
use spillway_proto::id::{Codec, Kind, Side};
use spillway_proto::limits::DATAGRAM_SIZE_MAX;
use spillway_proto::link::command::{DtlsRole, Fingerprint, TrackFacts};
use spillway_proto::rng::Rng;
use spillway_proto::sdp::offer::OfferFacts;
use spillway_proto::session::client::{Client, ClientFacts, Received};
use spillway_proto::session::dtls::Handshake;
use spillway_proto::session::ice::encode_ufrag;
use spillway_proto::session::srtp::Profile;
use spillway_proto::time::{NtpTime, Time};
use spillway_proto::wire::rtcp::{self, Rtcp};
use spillway_proto::wire::rtp::write_header;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Viewers ask for lost packets again, as browsers do.
pub const NACK: bool = true;

const OFFER_VP8: &str = include_str!("../../../proto/src/sdp/fixtures/chromium_publish.sdp");
const OFFER_H264: &str = include_str!("../../../proto/src/sdp/fixtures/obs_publish.sdp");
const OFFER_VIEW: &str = include_str!("../../../proto/src/sdp/fixtures/chromium_view.sdp");

const MS: Duration = Duration::from_millis(1);
/// The way of a POST and of its answer: TCP, so that only the time is uncertain.
const POST_MS: u64 = 20;
const AUDIT_EVERY: Duration = Duration::from_millis(200);
/// Passes of the shards within one step: a livelock ends the run.
const ROUNDS_MAX: usize = 512;
/// One turn in so many of the thread beside a shard comes later.
const HANDSHAKES_LATE: u64 = 4;
const SERVER_FINGERPRINT: Fingerprint = Fingerprint([0x5E; 32]);
/// The source of a viewer's own reports.
const VIEWER_SSRC: u32 = 7;

/// What a scenario has happen.
#[derive(Clone, Debug)]
pub enum Action {
    Join(usize),
    /// How: by a DELETE, by a goodbye of DTLS, or without a word.
    Leave(usize, Leaving),
    /// Nothing passes between this person and the node for so long.
    Cut(usize, Duration),
    /// The person's address changes, as behind a NAT that forgot.
    Rebind(usize),
    CrashControl,
    StartControl,
    /// A shard's thread does not run for so long.
    Stall(usize, Duration),
    /// The next sends of a shard find no room.
    Block(usize, usize),
    /// Datagrams of strangers.
    Noise(usize),
    /// No more faults: clear paths, running shards, a control.
    Calm,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    Delete,
    Goodbye,
    Silently,
}

/// Results of a run, beside its being free of violations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Over every datagram that was sent or arrived, with its time and address.
    pub digest: (u64, u64),
    pub virtual_ms: u64,
    pub datagrams: u64,
    pub lost: u64,
    pub media: u64,
    pub sessions: u64,
    pub frames: u64,
    /// Packets that viewers missed and got when they asked; likewise that the engine missed of publishers.
    pub repaired: u64,
    pub recovered: u64,
    /// Packets that publishers were asked for and sent again.
    pub resent: u64,
    pub rebuilds: u64,
    pub strays: u64,
}

pub struct Run {
    pub now: Time,
    pub rng: Rng,
    world: World,
    control: Control,
    network: Network,
    studio: Studio,
    keys: KeyLog,
    pub people: Vec<Person>,
    remotes: Vec<Remote>,
    addresses: BTreeMap<SocketAddr, usize>,
    timers: BinaryHeap<Reverse<(Time, usize)>>,
    actions: BinaryHeap<Reverse<(Time, u64)>>,
    scheduled: BTreeMap<u64, Action>,
    /// POSTs and answers on their way, by time and number.
    posts: BTreeMap<(Time, u64), Post>,
    answers: BTreeMap<(Time, u64), Option<Box<Admitted>>>,
    deletes: BTreeMap<(Time, u64), usize>,
    numbers: u64,
    offers: [Rc<OfferFacts>; 3],
    stalled_until: Vec<Time>,
    /// How long a shard was stalled at most: datagrams reach their owner that much later.
    slack: Duration,
    engine_at: Time,
    audit_at: Time,
    /// From then on there are no faults: (g) is looked at `DECODABLE_WITHIN` later.
    pub calm_at: Time,
    digest: (u64, u64),
    media: u64,
    sessions: u64,
    resent: u64,
}

impl Run {
    pub fn new(seed: u64, shards: usize, rooms: u32) -> Run {
        let mut rng = Rng::new(seed);
        let keys = KeyLog::default();
        let makers = (0..shards).map(|_| {
            let (keys, mut randoms) = (keys.clone(), Rng::new(rng.next_u64()));
            Box::new(move |role, fingerprint, _| {
                let mut random = [0; 16];
                randoms.fill(&mut random);
                let stub = Stub::new(role, SERVER_FINGERPRINT, fingerprint, random, Profile::AeadAes256Gcm, keys.clone());
                Ok(Box::new(stub) as Box<dyn Handshake>)
            }) as HandshakeMaker
        });
        let makers = makers.collect();
        let world = World::over(makers, rooms as usize * 4, rng.next_u64());
        let control = Control::new(&world, rooms, Rng::new(rng.next_u64()));
        let network = Network::new(Rng::new(rng.next_u64()));
        let offers = [OFFER_VP8, OFFER_H264, OFFER_VIEW];
        Run {
            now: BEGIN,
            rng,
            control,
            network,
            studio: Studio::default(),
            keys,
            people: Vec::new(),
            remotes: Vec::new(),
            addresses: BTreeMap::new(),
            timers: BinaryHeap::new(),
            actions: BinaryHeap::new(),
            scheduled: BTreeMap::new(),
            posts: BTreeMap::new(),
            answers: BTreeMap::new(),
            deletes: BTreeMap::new(),
            numbers: 0,
            offers: offers.map(|text| Rc::new(OfferFacts::parse(text).expect("a fixture of proto's is an offer"))),
            stalled_until: vec![Time::ZERO; shards],
            slack: Duration::ZERO,
            engine_at: Time::ZERO,
            audit_at: BEGIN,
            calm_at: BEGIN,
            digest: (seed, 0),
            media: 0,
            sessions: 0,
            resent: 0,
            world,
        }
    }

    pub fn shards(&self) -> usize {
        self.stalled_until.len()
    }

    pub fn add(&mut self, person: Person) -> usize {
        self.people.push(person);
        self.people.len() - 1
    }

    /// `after` the beginning.
    pub fn at(&mut self, after: Duration, action: Action) {
        self.numbers += 1;
        self.actions.push(Reverse((BEGIN + after, self.numbers)));
        self.scheduled.insert(self.numbers, action);
    }

    // ---- the loop ----

    /// Runs until `end` after the beginning.
    pub fn until(&mut self, end: Duration) -> Result<(), Violation> {
        let end = BEGIN + end;
        loop {
            let next = self.next_at().max(self.now + MS);
            if next > end {
                self.now = end;
                return Ok(());
            }
            // The whole of a millisecond happens at its end.
            self.now = Time(next.as_nanos().div_ceil(1_000_000) * 1_000_000);
            self.step()?;
        }
    }

    fn next_at(&self) -> Time {
        let first = |map: &BinaryHeap<Reverse<(Time, usize)>>| map.peek().map_or(Time::NEVER, |entry| entry.0.0);
        let posts = self.posts.first_key_value().map_or(Time::NEVER, |(key, _)| key.0);
        let answers = self.answers.first_key_value().map_or(Time::NEVER, |(key, _)| key.0);
        let deletes = self.deletes.first_key_value().map_or(Time::NEVER, |(key, _)| key.0);
        let actions = self.actions.peek().map_or(Time::NEVER, |entry| entry.0.0);
        let control = if self.control.is_busy() { self.now + MS } else { Time::NEVER };
        first(&self.timers)
            .min(self.network.next_at())
            .min(posts.min(answers).min(deletes))
            .min(actions.min(control))
            .min(self.engine_at)
            .min(self.audit_at)
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.world.now = self.now;
        self.act();
        self.carry_posts();
        self.deliver();
        self.run_people();
        self.control.poll(self.now, &self.world)?;
        self.run_engine()?;
        self.control.poll(self.now, &self.world)?;
        self.hear_control();
        if self.audit_at <= self.now {
            self.audit_at = self.now + AUDIT_EVERY;
            self.audit()?;
        }
        Ok(())
    }

    /// Every shard that runs, in an order of the seed's, until nobody has more to do at once.
    fn run_engine(&mut self) -> Result<(), Violation> {
        let shards = self.shards();
        let first = self.rng.below(shards as u64) as usize;
        let mut rounds = 0;
        loop {
            let mut busy = false;
            for at in 0..shards {
                let shard = (first + at) % shards;
                if self.stalled_until[shard] > self.now {
                    continue;
                }
                busy |= self.world.tick(shard);
                if self.world.lent(shard) > 0 && self.rng.below(HANDSHAKES_LATE) > 0 {
                    busy |= self.world.shake_hands(shard);
                }
                for sent in self.world.take_sent(shard) {
                    self.sniff(sent)?;
                }
            }
            rounds += 1;
            if !busy {
                break;
            }
            if rounds >= ROUNDS_MAX {
                let text = format!("the shards are busy for {ROUNDS_MAX} passes at one time");
                return Err(Violation::new(Invariant::Picture, self.now, text));
            }
        }
        self.engine_at = Time::NEVER;
        for shard in 0..shards {
            let stalled_until = self.stalled_until[shard];
            let wake = if stalled_until > self.now {
                stalled_until
            } else if self.world.has_news(shard) || self.world.lent(shard) > 0 {
                self.now + MS
            } else {
                self.world.rest(shard).unwrap_or(Time::NEVER)
            };
            self.engine_at = self.engine_at.min(wake);
        }
        Ok(())
    }

    // ---- the wire ----

    fn sniff(&mut self, sent: SentDatagram) -> Result<(), Violation> {
        let digest = hash(&sent.bytes);
        self.digest = mix(mix(mix(self.digest, self.now.as_nanos()), digest.0), digest.1);
        let Some(&at) = self.addresses.get(&sent.path.remote) else {
            let text = format!("{} bytes to {}, a stranger", sent.bytes.len(), sent.path.remote);
            return Err(Violation::new(Invariant::Admission, self.now, text));
        };
        let remote = &mut self.remotes[at];
        let sniffed = remote.sniff(self.now, &sent.bytes, &self.keys, &self.studio, self.slack)?;
        // Where nobody listens any more, it is lost.
        if !remote.alive || remote.address != sent.path.remote {
            return Ok(());
        }
        let parcel = match sniffed {
            Sniffed::Bytes => Parcel::ToRemote { remote: at, path: sent.path, bytes: sent.bytes },
            Sniffed::Media(packet) => {
                self.media += 1;
                Parcel::MediaToRemote { remote: at, path: sent.path, packet }
            }
        };
        let route = &mut self.people[remote.person].route;
        self.network.send(self.now, route, parcel);
        Ok(())
    }

    fn deliver(&mut self) {
        while let Some(parcel) = self.network.arrived(self.now) {
            match parcel {
                Parcel::ToEngine { shard, path, remote, bytes, media } => {
                    let digest = hash(&bytes);
                    self.digest = mix(mix(self.digest, digest.0), shard as u64);
                    if let Some(known) = self.remotes.get_mut(remote) {
                        let is_check = bytes.first().is_some_and(|first| *first < 4);
                        let speaks = known.side == Side::Publisher && media.is_some();
                        if is_check || speaks {
                            known.heard_at = self.now;
                        }
                    }
                    if let Some(item) = media {
                        self.studio.arrived(item, self.now);
                    }
                    self.world.deliver(shard, path, bytes);
                }
                Parcel::ToRemote { remote, path, bytes } => self.hear_server(remote, &path, bytes),
                Parcel::MediaToRemote { remote, path, packet } => {
                    let known = &mut self.remotes[remote];
                    if known.alive && known.address == path.remote {
                        known.receptions[packet.feed].on_packet(self.now, &packet, &self.studio);
                        self.reschedule(remote);
                    }
                }
            }
        }
    }

    /// A datagram of this remote's goes out.
    fn send(&mut self, at: usize, bytes: Vec<u8>, media: Option<MediaItem>) {
        let shards = self.shards() as u64;
        let remote = &self.remotes[at];
        let shard = remote.lands_on.unwrap_or_else(|| self.rng.below(shards) as usize);
        let parcel = Parcel::ToEngine { shard, path: remote.path(), remote: at, bytes, media };
        self.network.send(self.now, &mut self.people[remote.person].route, parcel);
    }

    fn send_report(&mut self, at: usize, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        let (mut plain, mut out) = ([0; 1_400], vec![0; 1_500]);
        let Some(length) = write(&mut plain) else { return };
        if let Some(sealed) = self.remotes[at].client.seal_rtcp(&plain[..length], &mut out) {
            out.truncate(sealed);
            self.send(at, out, None);
        }
    }

    /// Notes when the remote's next turn is. An entry that is overtaken by an earlier one stays and is passed over.
    fn reschedule(&mut self, at: usize) {
        let remote = &mut self.remotes[at];
        let broadcast = remote.broadcast.map(|number| &self.studio.broadcasts[number]);
        let deadline = remote.deadline(broadcast);
        if deadline < remote.wake_at {
            remote.wake_at = deadline;
            self.timers.push(Reverse((deadline, at)));
        }
    }

    // ---- remotes ----

    fn hear_server(&mut self, at: usize, path: &Path, mut bytes: Vec<u8>) {
        let remote = &mut self.remotes[at];
        if !remote.alive || remote.address != path.remote {
            return;
        }
        bytes.resize(bytes.len().min(DATAGRAM_SIZE_MAX), 0);
        match remote.client.handle_datagram(self.now, &mut bytes) {
            Ok(Received::Connected(_)) => self.connected(at),
            Ok(Received::Rtcp(length)) => {
                let broadcast = self.remotes[at].broadcast;
                for packet in rtcp::packets(&bytes[..length]) {
                    let wanted = matches!(packet, Rtcp::Pli { .. } | Rtcp::Fir { .. });
                    if let Some(broadcast) = broadcast.filter(|_| wanted) {
                        self.studio.broadcasts[broadcast].keyframe_wanted = true;
                    }
                    if let (Rtcp::Nack { media, losses, .. }, Some(broadcast)) = (packet, broadcast) {
                        losses.for_each(|sequence| self.send_again(at, broadcast, media, sequence));
                    }
                }
            }
            Ok(_) => {}
            Err(_) => return self.lose(at),
        }
        self.drain(at);
    }

    /// What the client has to say goes out, and its next deadline is noted.
    fn drain(&mut self, at: usize) {
        while let Some(bytes) = self.remotes[at].client.poll_datagram() {
            self.send(at, bytes, None);
        }
        self.reschedule(at);
    }

    fn connected(&mut self, at: usize) {
        let now = self.now;
        self.remotes[at].connected_at = Some(now);
        self.sessions += 1;
        if let Some(broadcast) = self.remotes[at].broadcast {
            self.studio.broadcasts[broadcast].begin(now + MS);
            self.remotes[at].report_at = now + Duration::from_millis(300);
        }
    }

    /// The session is over for its client; who still wants to be in POSTs anew.
    fn lose(&mut self, at: usize) {
        let remote = &mut self.remotes[at];
        if !std::mem::replace(&mut remote.alive, false) {
            return;
        }
        if let Some(broadcast) = remote.broadcast {
            self.studio.broadcasts[broadcast].end();
        }
        let who = remote.person;
        if self.people[who].remote == Some(at) {
            self.people[who].remote = None;
            if self.gives_way(who) {
                self.people[who].wants = false;
            } else if self.people[who].wants {
                let when = self.now + Duration::from_millis(50 + self.rng.below(400));
                self.schedule_post(who, when);
            }
        }
    }

    /// A publisher after whom another came with the same name: the page that was taken over gives way.
    fn gives_way(&self, who: usize) -> bool {
        let person = &self.people[who];
        person.side == Side::Publisher
            && self.people.iter().any(|other| {
                other.side == Side::Publisher
                    && (other.room, other.sub) == (person.room, person.sub)
                    && other.wants
                    && other.since > person.since
            })
    }

    fn run_people(&mut self) {
        while let Some(&Reverse((at, remote))) = self.timers.peek() {
            if at > self.now {
                break;
            }
            self.timers.pop();
            let known = &mut self.remotes[remote];
            if known.wake_at == at {
                known.wake_at = Time::NEVER;
                if known.alive {
                    self.run_remote(remote);
                    self.reschedule(remote);
                }
            }
        }
    }

    fn run_remote(&mut self, at: usize) {
        let now = self.now;
        if self.remotes[at].client.deadline() <= now {
            match self.remotes[at].client.handle_timeout(now) {
                Ok(Received::Connected(_)) => self.connected(at),
                Ok(_) => {}
                Err(_) => return self.lose(at),
            }
            self.drain(at);
        }
        if self.remotes[at].broadcast.is_some() {
            self.run_broadcast(at);
        }
        for feed in 0..self.remotes[at].receptions.len() {
            if self.remotes[at].receptions[feed].deadline() > now {
                continue;
            }
            let wishes = self.remotes[at].receptions[feed].poll(now, &self.studio);
            let ssrc = self.remotes[at].feeds[feed].ssrc;
            if wishes.keyframe {
                self.send_report(at, |out| rtcp::write_pli(out, VIEWER_SSRC, ssrc));
            }
            if !wishes.lost.is_empty() {
                let lost: Vec<u16> = wishes.lost.iter().map(|index| *index as u16).collect();
                self.send_report(at, |out| rtcp::write_nack(out, VIEWER_SSRC, ssrc, &lost));
            }
        }
    }

    /// A packet that the engine misses: in a stream of its own where that was agreed (RFC 4588), else as it was.
    fn send_again(&mut self, at: usize, broadcast: usize, ssrc: u32, sequence: u16) {
        let broadcast = &mut self.studio.broadcasts[broadcast];
        let Some(item) = broadcast.find(ssrc, sequence) else { return };
        self.resent += 1;
        let Some((payload_type, rtx_ssrc)) = broadcast.track(item.video).rtx else { return self.send_packet(at, item) };
        let index = broadcast.next_retransmission(item.video);
        let packet = self.studio.published(item);
        let payload = [&sequence.to_be_bytes()[..], &packet.payload].concat();
        let mut header = [0; 12];
        let marker = packet.is_last() && item.video;
        write_header(&mut header, marker, payload_type, index as u16, packet.timestamp, rtx_ssrc);
        self.seal_and_send(at, item, &header, &payload, index);
    }

    fn send_packet(&mut self, at: usize, item: MediaItem) {
        let track = self.studio.broadcasts[item.broadcast as usize].track(item.video);
        let packet = &track.packets[item.number as usize];
        let index = track.first_index + u64::from(item.number);
        let mut header = [0; 12];
        let marker = packet.is_last() && item.video;
        write_header(&mut header, marker, track.payload_type, index as u16, packet.timestamp, track.ssrc);
        let payload = packet.payload.clone();
        self.seal_and_send(at, item, &header, &payload, index);
    }

    fn seal_and_send(&mut self, at: usize, item: MediaItem, header: &[u8], payload: &[u8], index: u64) {
        let mut out = vec![0; payload.len() + 64];
        if let Some(length) = self.remotes[at].client.seal_rtp(header, payload, index, &mut out) {
            out.truncate(length);
            self.send(at, out, Some(item));
        }
    }

    fn run_broadcast(&mut self, at: usize) {
        let Some(number) = self.remotes[at].broadcast else { return };
        let now = self.now;
        for item in self.studio.broadcasts[number].capture(now) {
            self.send_packet(at, item);
        }
        if self.remotes[at].report_at <= now {
            self.remotes[at].report_at = now + Duration::from_secs(1);
            for video in [true, false] {
                let track = self.studio.broadcasts[number].track(video);
                let Some(last) = track.packets.last() else { continue };
                let (ssrc, rtp, packets, octets) = (track.ssrc, last.timestamp, track.packets.len() as u32, track.octets as u32);
                let ntp = NtpTime(0xE000_0000_0000_0000) + last.captured_at.since(Time::ZERO);
                self.send_report(at, |out| rtcp::write_sr(out, ssrc, ntp, rtp, packets, octets, &[]));
            }
        }
    }

    // ---- people and control ----

    fn schedule_post(&mut self, person: usize, at: Time) {
        self.numbers += 1;
        let (number, who) = (self.numbers, &mut self.people[person]);
        who.post = Some(number);
        let offer = match (who.side, who.video) {
            (Side::Viewer, _) => &self.offers[2],
            (_, Codec::H264) => &self.offers[1],
            _ => &self.offers[0],
        };
        let mut fingerprint = [0; 32];
        fingerprint[..8].copy_from_slice(&(person as u64).to_be_bytes());
        let post = Post {
            number,
            side: who.side,
            room: who.room,
            sub: who.sub,
            offer: Rc::clone(offer),
            fingerprint: Fingerprint(fingerprint),
        };
        self.posts.insert((at + Duration::from_millis(1 + self.rng.below(POST_MS)), number), post);
    }

    fn person_of(&self, post: u64) -> Option<usize> {
        self.people.iter().position(|person| person.post == Some(post))
    }

    fn carry_posts(&mut self) {
        while let Some(entry) = self.posts.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let post = entry.remove();
            let number = post.number;
            let Some(person) = self.person_of(number) else { continue };
            if !self.people[person].wants {
                self.people[person].post = None;
            } else if !self.control.post(post) {
                self.try_again(person);
            }
        }
        while let Some(entry) = self.deletes.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let remote = &self.remotes[entry.remove()];
            self.control.delete(remote.room, remote.side, remote.resource);
        }
        while let Some(entry) = self.answers.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let ((_, number), admitted) = entry.remove_entry();
            let Some(person) = self.person_of(number) else { continue };
            match admitted {
                Some(admitted) => self.admitted(person, *admitted),
                None => self.try_again(person),
            }
        }
    }

    fn try_again(&mut self, person: usize) {
        self.people[person].post = None;
        if self.people[person].wants {
            let at = self.now + Duration::from_millis(300 + self.rng.below(400));
            self.schedule_post(person, at);
        }
    }

    fn hear_control(&mut self) {
        for said in std::mem::take(&mut self.control.said) {
            let at = self.now + Duration::from_millis(1 + self.rng.below(POST_MS));
            match said {
                Said::Admitted { post, admitted } => {
                    self.answers.insert((at, post), Some(admitted));
                }
                Said::Refused { post, refusal: _ } => {
                    self.answers.insert((at, post), None);
                }
                Said::Ended { session, .. } => {
                    let ended = self.remotes.iter_mut().find(|remote| remote.session == session);
                    if let Some(remote) = ended {
                        remote.ended_at.get_or_insert(self.now);
                    }
                }
            }
        }
    }

    /// The answer is here: the client begins.
    fn admitted(&mut self, person: usize, admitted: Admitted) {
        let number = self.remotes.len();
        let address = self.new_address(number, 0);
        let shards = self.shards();
        let who = &mut self.people[person];
        who.post = None;
        who.sessions += 1;
        let (side, room, profile) = (who.side, who.room, who.profile);
        let mut random = [0; 16];
        self.rng.fill(&mut random);
        random[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let mut fingerprint = [0; 32];
        fingerprint[..8].copy_from_slice(&(person as u64).to_be_bytes());
        let stub = Stub::new(DtlsRole::Client, Fingerprint(fingerprint), SERVER_FINGERPRINT, random, profile, self.keys.clone());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let facts = ClientFacts {
            local_ufrag: "page".into(),
            remote_ufrag: text(&encode_ufrag(admitted.session, &admitted.ufrag_random)),
            remote_pwd: text(&admitted.pwd),
            remote_fingerprint: SERVER_FINGERPRINT,
            role: DtlsRole::Client,
        };
        let client = Client::over(Box::new(stub), facts, self.rng.next_u64(), self.now);
        let feeds = admitted.feeds.iter().map(|feed| {
            Feed::new(feed.ssrc, feed.rtx_ssrc, feed.track, feed.video, feed.payload_types, feed.rtx_payload_types)
        });
        let feeds = feeds.collect();
        // The kernel deals datagrams out by a hash of their addresses; mostly the engine has steered that right.
        let lands_on = match (who.strays, self.rng.below(4)) {
            (true, _) => None,
            _ if who.lands_wrong => Some((admitted.shard + 1 + self.rng.below(shards as u64 - 1) as usize) % shards),
            (false, 0) => Some(self.rng.below(shards as u64) as usize),
            (false, _) => Some(admitted.shard),
        };
        let wants = who.wants;
        let mut remote = Remote::new(
            person, side, room, address, lands_on, admitted.session, admitted.resource, client, random, feeds, NACK, self.now,
        );
        if side == Side::Publisher {
            remote.broadcast = Some(self.new_broadcast(person, number, &admitted));
        }
        self.remotes.push(remote);
        self.addresses.insert(address, number);
        if wants {
            self.people[person].remote = Some(number);
            self.drain(number);
        } else {
            // The page was closed while it waited.
            self.remotes[number].alive = false;
            self.delete(number);
        }
    }

    fn new_broadcast(&mut self, person: usize, remote: usize, admitted: &Admitted) -> usize {
        let who = &self.people[person];
        let number = self.studio.broadcasts.len();
        let of = |kind: Kind| admitted.sent.iter().find(|sent| sent.codec.kind() == kind).copied();
        let facts = [
            of(Kind::Video).unwrap_or(TrackFacts::new(Codec::Vp8, 96, 1)),
            of(Kind::Audio).unwrap_or(TrackFacts::new(Codec::Opus, 111, 2)),
        ];
        let rng = Rng::new(self.rng.next_u64());
        let broadcast = Broadcast::new(number as u32, remote, who.room, &facts, who.size, who.deaf, rng);
        self.studio.broadcasts.push(broadcast);
        number
    }

    fn new_address(&mut self, remote: usize, turn: u16) -> SocketAddr {
        let [_, a, b, c] = (remote as u32).to_be_bytes();
        SocketAddr::from(([10, a, b, c], 5_000 + turn))
    }

    fn delete(&mut self, remote: usize) {
        self.numbers += 1;
        self.deletes.insert((self.now + Duration::from_millis(1 + self.rng.below(POST_MS)), self.numbers), remote);
    }
}

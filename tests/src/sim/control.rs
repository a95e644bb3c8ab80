//! Control in virtual time: the real policy, driven over the real link as control's service drives it.
//!
//! What a crash leaves is the store; everything else is thrown away and made again from a dump. Joins are the same
//! chains of commands as the service's, each step a round over the ring; any number run at once, and a crash may fall
//! between any two steps.

use super::violation::{Invariant, Violation};
use spillway::policy::rooms::{JoinRequest, KnownSession, Order, PublishPlan, Rooms, ViewPlan, Who};
use spillway::policy::{Refusal, ResourceId, SessionNote};
use spillway_engine::shard::world::World;
use spillway_proto::id::{Codec, SessionId, Side, TrackId};
use spillway_proto::limits::{ICE_PWD_CHARS, UFRAG_RANDOM_CHARS};
use spillway_proto::link::command::{Answer, Command, DtlsRole, DumpEntry, Fingerprint, Status, TrackFacts};
use spillway_proto::link::event::{CloseReason, Event};
use spillway_proto::link::ring::{CommandWriter, EventReader, Ticket};
use spillway_proto::rng::Rng;
use spillway_proto::sdp::offer::OfferFacts;
use spillway_proto::time::Time;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// As control's service has it.
const PACKET_AGE_MAX: Duration = Duration::from_secs(2);
const COMMANDS_PER_POLL_MAX: usize = 64;

/// A POST as it arrives.
#[derive(Clone)]
pub struct Post {
    pub number: u64,
    pub side: Side,
    pub room: u32,
    pub sub: u64,
    pub offer: Rc<OfferFacts>,
    pub fingerprint: Fingerprint,
}

/// What an answer tells a client.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub session: SessionId,
    pub shard: usize,
    pub resource: [u8; 16],
    pub ufrag_random: [u8; UFRAG_RANDOM_CHARS],
    pub pwd: [u8; ICE_PWD_CHARS],
    pub feeds: Vec<AdmittedFeed>,
    /// A publisher's: what was agreed for its video and its audio.
    pub sent: Vec<TrackFacts>,
}

#[derive(Clone, Debug)]
pub struct AdmittedFeed {
    pub track: TrackId,
    pub ssrc: u32,
    pub rtx_ssrc: u32,
    pub video: bool,
    pub payload_types: [u8; Codec::COUNT],
    pub rtx_payload_types: [u8; Codec::COUNT],
}

/// What control says to the outside.
pub enum Said {
    Admitted { post: u64, admitted: Box<Admitted> },
    Refused { post: u64, refusal: Refusal },
    /// The engine has ended a session: it closed it, or a removal was answered.
    Ended { session: SessionId, reason: Option<CloseReason> },
}

/// What survives a crash.
#[derive(Default)]
struct Store {
    sessions: BTreeMap<ResourceId, KnownSession>,
    names: HashMap<u32, String>,
    generation: u32,
}

enum Plan {
    Publish(PublishPlan),
    View(ViewPlan),
}

struct Join {
    post: Post,
    resource: ResourceId,
    plan: Plan,
    ufrag_random: [u8; UFRAG_RANDOM_CHARS],
    pwd: [u8; ICE_PWD_CHARS],
    session: Option<SessionId>,
    tracks: Vec<TrackId>,
    feeds: Vec<AdmittedFeed>,
}

enum Waiter {
    Join(u64),
    /// An order; the session it removes.
    Order(Option<SessionId>),
    Dump,
}

/// A control process.
struct Live {
    rooms: Rooms,
    writers: Vec<CommandWriter>,
    readers: Vec<EventReader>,
    waiting: BTreeMap<(usize, Ticket), Waiter>,
    joins: BTreeMap<u64, Join>,
    posts: VecDeque<Post>,
    deletes: VecDeque<(u32, Side, ResourceId)>,
    orders: VecDeque<(usize, Command)>,
    /// Commands of joins that found no room in the ring.
    unsent: VecDeque<(u64, usize, Command)>,
    sync: Option<Sync>,
}

struct Sync {
    shard: usize,
    cursor: Option<u32>,
    asked: bool,
    dump: Vec<(usize, DumpEntry)>,
    events: Vec<Event>,
}

/// Who publishes where, by the engine's word alone: policy is not asked.
#[derive(Clone, Copy)]
struct Publishing {
    room: u32,
    sub: u64,
    admitted_at: Time,
}

pub struct Control {
    live: Option<Live>,
    store: Store,
    rng: Rng,
    pub said: Vec<Said>,
    publishing: BTreeMap<SessionId, Publishing>,
    pub refusals: BTreeMap<&'static str, u64>,
    pub rebuilds: u64,
}

pub fn room_name(room: u32) -> String {
    format!("room-{room}")
}

impl Control {
    pub fn new(world: &World, rooms: u32, rng: Rng) -> Control {
        let store = Store { names: (1..=rooms).map(|room| (room, room_name(room))).collect(), ..Store::default() };
        let mut control = Control {
            live: None,
            store,
            rng,
            said: Vec::new(),
            publishing: BTreeMap::new(),
            refusals: BTreeMap::new(),
            rebuilds: 0,
        };
        control.start(world);
        control
    }

    pub fn is_up(&self) -> bool {
        self.live.is_some()
    }

    /// Nothing is under way: what control knows and what the engine has must agree.
    pub fn is_settled(&self) -> bool {
        self.live.as_ref().is_some_and(|live| {
            live.sync.is_none()
                && live.waiting.is_empty()
                && live.joins.is_empty()
                && live.orders.is_empty()
                && live.posts.is_empty()
                && live.deletes.is_empty()
        })
    }

    /// Viewers that are connected, as policy tells pages.
    pub fn viewers(&self) -> usize {
        let state = |room: &u32| self.live.as_ref().map_or(0, |live| live.rooms.state(&room_name(*room)).viewers);
        self.store.names.keys().map(state).sum()
    }

    /// A room with more than one publisher in the engine.
    pub fn room_of_two(&self) -> Option<u32> {
        let mut rooms: Vec<u32> = self.publishing.values().map(|publishing| publishing.room).collect();
        rooms.sort_unstable();
        rooms.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }

    /// Whether `poll` has something to do by itself.
    pub fn is_busy(&self) -> bool {
        self.live.is_some() && !self.is_settled()
    }

    /// The process dies: everything but the store is gone, callers' connections too.
    pub fn crash(&mut self) {
        self.live = None;
    }

    pub fn start(&mut self, world: &World) {
        let shards = world.shards.len();
        world.link.begin_control_epoch();
        self.live = Some(Live {
            rooms: Rooms::new(shards),
            writers: (0..shards).map(|shard| world.link.commands_writer(shard)).collect(),
            readers: (0..shards).map(|shard| world.link.events_reader(shard)).collect(),
            waiting: BTreeMap::new(),
            joins: BTreeMap::new(),
            posts: VecDeque::new(),
            deletes: VecDeque::new(),
            orders: VecDeque::new(),
            unsent: VecDeque::new(),
            sync: Some(Sync { shard: 0, cursor: Some(0), asked: false, dump: Vec::new(), events: Vec::new() }),
        });
    }

    /// False: nobody listens.
    pub fn post(&mut self, post: Post) -> bool {
        self.live.as_mut().is_some_and(|live| {
            live.posts.push_back(post);
            true
        })
    }

    pub fn delete(&mut self, room: u32, side: Side, resource: [u8; 16]) {
        if let Some(live) = &mut self.live {
            live.deletes.push_back((room, side, ResourceId(resource)));
        }
    }

    /// One turn: answers, events, joins, orders.
    pub fn poll(&mut self, now: Time, world: &World) -> Result<(), Violation> {
        let Some(mut live) = self.live.take() else { return Ok(()) };
        let result = self.turn(now, world, &mut live);
        self.live = Some(live);
        result
    }

    fn turn(&mut self, now: Time, world: &World, live: &mut Live) -> Result<(), Violation> {
        for shard in 0..live.writers.len() {
            while let Some((ticket, status, answer)) = live.writers[shard].poll_answer() {
                // Tickets of a predecessor have nobody waiting; the dump shows what became of them.
                match live.waiting.remove(&(shard, ticket)) {
                    Some(Waiter::Join(number)) => self.on_answer(now, live, number, status, answer)?,
                    Some(Waiter::Order(session)) => {
                        if let Some(session) = session {
                            self.ended(session, None);
                        }
                    }
                    Some(Waiter::Dump) => self.on_dump(now, world, live, status, answer),
                    None => {}
                }
            }
            while let Some(event) = live.readers[shard].pop() {
                if let Event::SessionClosed { session, reason } = event {
                    self.ended(session, Some(reason));
                }
                match &mut live.sync {
                    Some(sync) => sync.events.push(event),
                    None => {
                        let orders = live.rooms.on_event(&event);
                        self.obey(live, orders);
                    }
                }
            }
        }
        match &mut live.sync {
            Some(sync) if !sync.asked => {
                let command = Command::Dump { cursor: sync.cursor.unwrap_or_default() };
                let shard = sync.shard;
                if let Ok(ticket) = live.writers[shard].push(world.epoch(), &command) {
                    sync.asked = true;
                    live.waiting.insert((shard, ticket), Waiter::Dump);
                }
            }
            Some(_) => {}
            None => self.take_posts(live),
        }
        self.push_commands(world.epoch(), live);
        Ok(())
    }

    fn take_posts(&mut self, live: &mut Live) {
        while let Some((room, side, resource)) = live.deletes.pop_front() {
            if let Ok(orders) = live.rooms.end(&room_name(room), side, resource) {
                self.obey(live, orders);
            }
        }
        // One publisher's join per room at a time, as the service's lock has it.
        let mut later = VecDeque::new();
        while let Some(post) = live.posts.pop_front() {
            let busy = post.side == Side::Publisher
                && live.joins.values().any(|join| join.post.side == Side::Publisher && join.post.room == post.room);
            if busy {
                later.push_back(post);
            } else {
                self.admit(live, post);
            }
        }
        live.posts = later;
    }

    fn admit(&mut self, live: &mut Live, post: Post) {
        let mut resource = ResourceId([0; 16]);
        self.rng.fill(&mut resource.0);
        let name = room_name(post.room);
        let request = JoinRequest {
            room: post.room,
            room_name: &name,
            resource,
            sub: post.sub,
            who: &Who::default(),
            expiry: u64::MAX,
            offer: &post.offer,
            viewers_max: None,
            now: Time::ZERO,
            at_ms: 0,
        };
        let plan = match post.side {
            Side::Publisher => {
                self.store.generation += 1;
                live.rooms.admit_publish(&request, self.store.generation).map(Plan::Publish)
            }
            Side::Viewer => live.rooms.admit_view(&request).map(Plan::View),
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(refusal) => return self.refuse(post.number, refusal),
        };
        let (note, engine_epoch, shard): (SessionNote, u64, usize) = match &plan {
            Plan::Publish(plan) => (plan.note, plan.engine_epoch, plan.shard),
            Plan::View(plan) => (plan.note, plan.engine_epoch, plan.shard),
        };
        self.store.sessions.insert(resource, KnownSession { resource, room: post.room, engine_epoch, who: Who::default() });
        let (mut ufrag_random, mut pwd) = ([0; UFRAG_RANDOM_CHARS], [0; ICE_PWD_CHARS]);
        ufrag_random.iter_mut().chain(&mut pwd).for_each(|byte| *byte = b'a' + self.rng.below(26) as u8);
        let command = Command::AddSession {
            side: post.side,
            dtls_role: DtlsRole::Server,
            ufrag_random,
            pwd,
            fingerprint: post.fingerprint,
            note: note.write(),
        };
        let number = post.number;
        let (session, tracks, feeds) = (None, Vec::new(), Vec::new());
        live.joins.insert(number, Join { post, resource, plan, ufrag_random, pwd, session, tracks, feeds });
        live.unsent.push_back((number, shard, command));
    }

    fn refuse(&mut self, post: u64, refusal: Refusal) {
        let name = match &refusal {
            Refusal::StreamNotLive => "stream not live",
            Refusal::RoomBusy => "room busy",
            Refusal::EngineRestarting => "engine restarting",
            _ => "other",
        };
        *self.refusals.entry(name).or_default() += 1;
        self.said.push(Said::Refused { post, refusal });
    }

    /// A join's command was answered: the next one, or the end.
    fn on_answer(&mut self, now: Time, live: &mut Live, number: u64, status: Status, answer: Answer) -> Result<(), Violation> {
        let Some(join) = live.joins.get_mut(&number) else { return Ok(()) };
        match (status, answer) {
            (Status::Done, Answer::Session { session }) => join.session = Some(session),
            (Status::Done, Answer::Track { track }) => join.tracks.push(track),
            (Status::Done, Answer::Feed { ssrc, rtx_ssrc, .. }) => join.on_feed(ssrc, rtx_ssrc),
            (status, _) => {
                self.abandon(live, number, refusal_of(status));
                return Ok(());
            }
        }
        let Some(session) = join.session else { return Ok(()) };
        if let Some((shard, command)) = join.next_command(session) {
            live.unsent.push_back((number, shard, command));
            return Ok(());
        }
        let outcome = match &join.plan {
            Plan::Publish(plan) => live.rooms.published(plan, session, &join.tracks),
            Plan::View(plan) => live.rooms.viewed(plan, session).map(|()| Vec::new()),
        };
        let orders = match outcome {
            Ok(orders) => orders,
            Err(refusal) => {
                self.abandon(live, number, refusal);
                return Ok(());
            }
        };
        let Some(join) = live.joins.remove(&number) else { return Ok(()) };
        if join.post.side == Side::Publisher {
            self.publishes(now, session, &join.post)?;
        }
        self.said.push(Said::Admitted { post: number, admitted: Box::new(join.admitted(session)) });
        self.obey(live, orders);
        Ok(())
    }

    /// (e): whoever else publishes in this room is the same publisher.
    fn publishes(&mut self, now: Time, session: SessionId, post: &Post) -> Result<(), Violation> {
        let other = self.publishing.iter().find(|(_, other)| other.room == post.room && other.sub != post.sub);
        if let Some((other, was)) = other {
            let text = format!(
                "room {}: {session:?} (sub {}) was admitted while {other:?} (sub {}, since {:?}) publishes",
                post.room, post.sub, was.sub, was.admitted_at
            );
            return Err(Violation::new(Invariant::OnePublisher, now, text));
        }
        self.publishing.insert(session, Publishing { room: post.room, sub: post.sub, admitted_at: now });
        Ok(())
    }

    fn abandon(&mut self, live: &mut Live, number: u64, refusal: Refusal) {
        let Some(join) = live.joins.remove(&number) else { return };
        let (shard, epoch, new, taken) = match &join.plan {
            Plan::Publish(plan) => {
                let pairs = plan.tracks.iter().zip(&join.tracks);
                let new: Vec<TrackId> =
                    pairs.filter(|(planned, _)| planned.track.is_none()).map(|(_, track)| *track).collect();
                let taken = join.tracks.len() > new.len();
                (plan.shard, plan.engine_epoch, new, taken)
            }
            Plan::View(plan) => (plan.shard, plan.engine_epoch, Vec::new(), false),
        };
        let orders = live.rooms.abandon(join.resource, shard, epoch, join.session, &new, taken);
        self.obey(live, orders);
        self.refuse(number, refusal);
    }

    fn ended(&mut self, session: SessionId, reason: Option<CloseReason>) {
        self.publishing.remove(&session);
        self.said.push(Said::Ended { session, reason });
    }

    fn obey(&mut self, live: &mut Live, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Forget(resource) => {
                    self.store.sessions.remove(&resource);
                }
                Order::Command { shard, command } => live.orders.push_back((shard, command)),
            }
        }
    }

    fn push_commands(&mut self, epoch: u64, live: &mut Live) {
        for _ in 0..COMMANDS_PER_POLL_MAX {
            let Some((shard, command)) = live.orders.front() else { break };
            let Ok(ticket) = live.writers[*shard].push(epoch, command) else { break };
            let session = match command {
                Command::RemoveSession { session } => Some(*session),
                _ => None,
            };
            live.waiting.insert((*shard, ticket), Waiter::Order(session));
            live.orders.pop_front();
        }
        for _ in 0..COMMANDS_PER_POLL_MAX {
            let Some((number, shard, command)) = live.unsent.front() else { break };
            let Ok(ticket) = live.writers[*shard].push(epoch, command) else { break };
            live.waiting.insert((*shard, ticket), Waiter::Join(*number));
            live.unsent.pop_front();
        }
    }

    // ---- after a crash ----

    fn on_dump(&mut self, now: Time, world: &World, live: &mut Live, status: Status, answer: Answer) {
        let Some(sync) = &mut live.sync else { return };
        sync.asked = false;
        let Answer::Dump { next, entries } = answer else { return };
        if status != Status::Done {
            return;
        }
        sync.dump.extend(entries.into_iter().map(|entry| (sync.shard, entry)));
        if next.is_some() {
            sync.cursor = next;
            return;
        }
        (sync.cursor, sync.shard) = (Some(0), sync.shard + 1);
        if sync.shard < live.writers.len() {
            return;
        }
        let is_fed = |track: TrackId| {
            let stats = world.link.track_stats(track.index as usize);
            let last = stats.last_packet_at.load(Ordering::Relaxed);
            stats.generation.load(Ordering::Acquire) == u64::from(track.generation)
                && last != 0
                && now.since(Time(last)) < PACKET_AGE_MAX
        };
        let Some(sync) = live.sync.take() else { return };
        let known: Vec<KnownSession> = self.store.sessions.values().cloned().collect();
        let mut orders = live.rooms.rebuild(world.epoch(), &sync.dump, &known, &self.store.names, is_fed);
        for event in &sync.events {
            orders.extend(live.rooms.on_event(event));
        }
        // Ends that a predecessor heard of and took with it.
        let there: Vec<SessionId> = sync
            .dump
            .iter()
            .filter_map(|(_, entry)| match entry {
                DumpEntry::Session { session, .. } => Some(*session),
                _ => None,
            })
            .collect();
        self.publishing.retain(|session, _| there.contains(session));
        self.rebuilds += 1;
        self.obey(live, orders);
    }
}

impl Join {
    fn on_feed(&mut self, ssrc: u32, rtx_ssrc: u32) {
        let Plan::View(plan) = &self.plan else { return };
        let Some(received) = plan.feeds.get(self.feeds.len()) else { return };
        let is_video = |types: &[u8; Codec::COUNT]| types[Codec::Opus as usize] == 0;
        self.feeds.push(AdmittedFeed {
            track: received.track,
            ssrc,
            rtx_ssrc,
            video: is_video(&received.payload_types),
            payload_types: received.payload_types,
            rtx_payload_types: received.rtx_payload_types,
        });
    }

    /// The next of the chain; None: all is made.
    fn next_command(&self, session: SessionId) -> Option<(usize, Command)> {
        match &self.plan {
            Plan::Publish(plan) => {
                let planned = plan.tracks.get(self.tracks.len())?;
                let command = Command::AttachTrack {
                    session,
                    stream: plan.stream,
                    track: planned.track,
                    facts: planned.sent.facts(),
                    note: planned.note.write(),
                };
                Some((plan.shard, command))
            }
            Plan::View(plan) => {
                let feed = plan.feeds.get(self.feeds.len())?;
                let command = Command::AttachFeed { session, track: feed.track, facts: feed.facts() };
                Some((plan.shard, command))
            }
        }
    }

    fn admitted(self, session: SessionId) -> Admitted {
        let (shard, sent) = match &self.plan {
            Plan::Publish(plan) => {
                (plan.shard, plan.tracks.iter().map(|track| track.sent.facts()).collect())
            }
            Plan::View(plan) => (plan.shard, Vec::new()),
        };
        Admitted {
            session,
            shard,
            resource: self.resource.0,
            ufrag_random: self.ufrag_random,
            pwd: self.pwd,
            feeds: self.feeds,
            sent,
        }
    }
}

/// As the service has it.
fn refusal_of(status: Status) -> Refusal {
    match status {
        Status::Full => Refusal::NodeFull("the engine's tables"),
        Status::NotFound => Refusal::StreamNotLive,
        Status::StaleEpoch => Refusal::EngineRestarting,
        _ => Refusal::EngineBusy,
    }
}

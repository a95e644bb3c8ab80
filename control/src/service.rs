//! The control service between the API, policy, store and link: has decided joins carried out, keeps policy
//! true to what the engine says. Decisions themselves are `policy`'s.
//!
//! ```text
//!    handler --publish/view/end--> policy (lock, no await) --commands--> link --answers--> policy --> handler
//!    engine --events--> pump --> policy --orders--> link, store
//!    new engine, overflow, start: dump --> policy::rebuild   (no join runs meanwhile)
//! ```
//!
//! A join is `Whole`: a client that hangs up leaves no half-made session behind.

use crate::attempts::Attempts;
use crate::auth::{self, AuthError, Claims, KeyText, Role, SigningKey};
use crate::config::Settings;
use crate::engine_link::{EngineLink, LinkFailure};
use crate::event_log::EventLog;
use crate::events::{Events, Snapshot, TrackTotals};
use crate::history::History;
use crate::logging::{self, Level};
use crate::meters::{Meters, Rates};
use crate::policy::limits::Limits;
use crate::policy::rooms::{JoinRequest, Order, PublishPlan, Rooms, RoomState, ViewPlan, Who};
use crate::policy::{Age, Refusal, ResourceId, SessionNote, admission};
use crate::shm::{Wake, monotonic_now};
use crate::api::{RequestLimits, Rates as RequestRates};
use crate::config::Proxies;
use crate::foreign::Foreign;
use crate::store::{JoinRoom, SessionRow, Store, StoreError};
use crate::turn::IceServers;
use crate::webhooks::Webhooks;
use aws_lc_rs::{digest, rand};
use spillway_proto::id::{SessionId, Side, StreamId, TrackId};
use spillway_proto::limits::{ICE_PWD_CHARS, UFRAG_RANDOM_CHARS};
use spillway_proto::link::command::{Answer, Command, DtlsRole, Fingerprint, Status};
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::event::Event;
use spillway_proto::sdp::Setup;
use spillway_proto::sdp::answer::{AnswerFacts, MediaText};
use spillway_proto::sdp::offer::OfferFacts;
use spillway_proto::session::ice::encode_ufrag;
use spillway_proto::time::Time;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

mod operations;
mod recordings;
mod whole;

pub use spillway_proto::link::quality::{Quality, Reception};

pub use crate::store::{
    Changed, DeliveryRow, FINISHED, Filter, Found, KeyRow, Record, RoomChange, RoomRow, Rotated, RotatedSecret,
    WEBHOOKS_MAX, WebhookChange, WebhookRow, WholeRecording,
};
pub use operations::{Applied, KeyRole, Refused};
pub use recordings::Recorder;
use whole::Whole;

/// How long control sleeps at most: a wake may be lost with a killed engine.
const PUMP_INTERVAL: Duration = Duration::from_millis(50);
/// Pumps in a row before others have their turn.
const PUMPS_PER_YIELD: u32 = 8;
const RESYNC_RETRY: Duration = Duration::from_millis(200);
/// A removal waits for room in a full ring this often.
const ORDER_TRIES_MAX: usize = 50;
const ORDER_RETRY: Duration = Duration::from_millis(20);
/// An engine that is not ready by then is not just a little later than control.
const FIRST_SYNC_WAIT: Duration = Duration::from_secs(3);
/// Events kept while a dump is taken; beyond it another dump is cheaper than the events.
const EVENTS_KEPT_MAX: usize = 65_536;
/// A track whose last packet is younger is live.
const PACKET_AGE_MAX: Duration = Duration::from_secs(2);
/// The ICE characters (RFC 8839 section 5.4).
const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub struct Service {
    pub key: SigningKey,
    store: Store,
    link: EngineLink,
    rooms: Mutex<Rooms>,
    pub events: Events,
    pub log: Arc<EventLog>,
    pub attempts: Attempts,
    pub history: History,
    candidates: Vec<SocketAddr>,
    /// Joins hold it for reading, a rebuild for writing.
    joins: tokio::sync::RwLock<()>,
    /// One publisher's join per room at a time.
    publishing: Mutex<HashMap<u32, Weak<tokio::sync::Mutex<()>>>>,
    /// The engine whose state we have: 0 while there is none.
    engine_epoch: AtomicU64,
    resync: Mutex<Resync>,
    /// Whether this process has ever known an engine's state.
    synced: watch::Sender<bool>,
    meters: Mutex<Meters>,
    settings: Mutex<Told>,
    /// When this control began: monotonic, and Unix milliseconds.
    began: (Instant, u64),
    /// How joins ended, by the metric and by what became of them.
    ended: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// Warnings that were told of streams that live.
    warned: Mutex<HashMap<StreamId, Vec<&'static str>>>,
    /// Requests with an Idempotency-Key that are being answered.
    pub pending: Mutex<std::collections::HashSet<[u8; 32]>>,
    pub webhooks: Webhooks,
    pub recorder: Recorder,
    foreign: Arc<Foreign>,
    pub rates: RequestRates,
}

/// What the operator told us that may change while we run.
#[derive(Clone, Debug)]
struct Told {
    settings: Settings,
    ice: IceServers,
    requests: RequestLimits,
    /// What the API has set, and which version of it.
    overrides: crate::store::Overrides,
}

#[derive(Default)]
struct Resync {
    running: bool,
    /// Asked for again while one was running.
    again: bool,
    /// Events that came meanwhile: applied to what the dump gave.
    events: Vec<Event>,
}

/// A join that succeeded.
#[derive(Clone, Debug)]
pub struct Joined {
    pub resource: ResourceId,
    pub answer: String,
}

/// Our side of one session: its secrets, and whether it begins the DTLS handshake.
struct Credentials {
    dtls_role: DtlsRole,
    ufrag_random: [u8; UFRAG_RANDOM_CHARS],
    pwd: [u8; ICE_PWD_CHARS],
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is changed by single calls that finish or leave it as it was.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<LinkFailure> for Refusal {
    fn from(failure: LinkFailure) -> Refusal {
        match failure {
            LinkFailure::Full => Refusal::EngineBusy,
            LinkFailure::Timeout => Refusal::EngineTimeout,
            LinkFailure::EngineRestarting => Refusal::EngineRestarting,
            LinkFailure::Refused(Status::Full) => Refusal::NodeFull("the engine's tables"),
            // The session or track ended between decision and command: as if it had not been there.
            LinkFailure::Refused(Status::NotFound) => Refusal::StreamNotLive,
            LinkFailure::Refused(_) => Refusal::EngineBusy,
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        Refusal::Store(error.to_string())
    }
}

impl Service {
    pub fn new(
        key: SigningKey,
        store: Store,
        link: EngineLink,
        candidates: Vec<SocketAddr>,
        settings: Settings,
    ) -> Arc<Service> {
        let rooms = Mutex::new(Rooms::new(link.shards()));
        let (ice, requests, overrides) = Default::default();
        let told = Told { settings, ice, requests, overrides };
        Arc::new(Service {
            key,
            store,
            link,
            rooms,
            events: Events::default(),
            log: Arc::default(),
            attempts: Attempts::default(),
            history: History::default(),
            candidates,
            joins: tokio::sync::RwLock::new(()),
            publishing: Mutex::new(HashMap::new()),
            engine_epoch: AtomicU64::new(0),
            resync: Mutex::new(Resync::default()),
            synced: watch::channel(false).0,
            meters: Mutex::new(Meters::default()),
            settings: Mutex::new(told),
            began: (Instant::now(), now_ms()),
            ended: Mutex::default(),
            warned: Mutex::default(),
            pending: Mutex::default(),
            webhooks: Webhooks::default(),
            recorder: Recorder::default(),
            foreign: Arc::default(),
            rates: RequestRates::default(),
        })
    }

    /// Whether POSTs can be served.
    pub fn is_ready(&self) -> bool {
        let epoch = self.engine_epoch.load(Ordering::Acquire);
        epoch != 0 && self.link.engine().is_some_and(|(ready, _)| ready == epoch)
    }

    /// Waits until the first engine's state is known, but not for ever: a new control must not tell pages
    /// that nothing is live before it has asked.
    pub async fn first_sync(&self) {
        let mut synced = self.synced.subscribe();
        let _ = tokio::time::timeout(FIRST_SYNC_WAIT, synced.wait_for(|synced| *synced)).await;
    }

    /// The refusal of every POST while the engine starts.
    pub fn require_engine(&self) -> Result<(), Refusal> {
        if self.is_ready() { Ok(()) } else { Err(Refusal::EngineRestarting) }
    }

    pub fn state(&self, room: &str) -> RoomState {
        lock(&self.rooms).state(room)
    }

    // ---- joins ----

    pub async fn publish(self: &Arc<Self>, claims: Claims, offer: OfferFacts) -> Result<Joined, Refusal> {
        let service = self.clone();
        let joined = Whole::of(async move { service.publish_whole(&claims, &offer).await }).await;
        self.count_join(Side::Publisher, &joined);
        joined
    }

    pub async fn view(self: &Arc<Self>, claims: Claims, offer: OfferFacts) -> Result<Joined, Refusal> {
        let service = self.clone();
        let joined = Whole::of(async move { service.view_whole(&claims, &offer).await }).await;
        self.count_join(Side::Viewer, &joined);
        joined
    }

    async fn publish_whole(self: &Arc<Self>, claims: &Claims, offer: &OfferFacts) -> Result<Joined, Refusal> {
        let _join = self.joins.read().await;
        let JoinRoom { number: room, .. } = self.room_of(claims).await?;
        let one_at_a_time = self.publish_lock(room);
        let _one = one_at_a_time.lock().await;
        let generation = self.store.stream_generation().await?;
        let resource = new_resource()?;
        let who = who_of(claims);
        let request = join_request(room, claims, &who, resource, offer, None);
        let plan = lock(&self.rooms).admit_publish(&request, generation)?;
        let mut made = Made::default();
        match self.make_publisher(claims, offer, &plan, &mut made).await {
            Ok(joined) => Ok(joined),
            Err(refusal) => {
                let new: Vec<TrackId> = new_tracks(&plan, &made);
                let taken = made.tracks.len() > new.len();
                let orders =
                    lock(&self.rooms).abandon(resource, plan.shard, plan.engine_epoch, made.session, &new, taken);
                self.obey(orders).await;
                Err(refusal)
            }
        }
    }

    /// Where somebody wants to go, unless he was sent away from there.
    async fn room_of(&self, claims: &Claims) -> Result<JoinRoom, Refusal> {
        let now_ms = now_ms();
        let room = self.store.join_room(&claims.room, &claims.sub, now_ms).await?;
        match room.banned_until_ms {
            Some(until_ms) => Err(Refusal::Banned { seconds: until_ms.saturating_sub(now_ms).div_ceil(1_000) }),
            None => Ok(room),
        }
    }

    async fn make_publisher(
        self: &Arc<Self>,
        claims: &Claims,
        offer: &OfferFacts,
        plan: &PublishPlan,
        made: &mut Made,
    ) -> Result<Joined, Refusal> {
        let credentials = self.write_session(claims, offer, &plan.note, plan.engine_epoch).await?;
        let session = self.add_session(offer, &plan.note, plan.engine_epoch, plan.shard, &credentials).await?;
        made.session = Some(session);
        for planned in &plan.tracks {
            let command = Command::AttachTrack {
                session,
                stream: plan.stream,
                track: planned.track,
                facts: planned.sent.facts(),
                note: planned.note.write(),
            };
            let track = match self.link.command(plan.engine_epoch, plan.shard, command).await? {
                Answer::Track { track } => track,
                _ => return Err(Refusal::EngineBusy),
            };
            made.tracks.push(track);
            // Before the answer is out: no packet comes earlier.
            let sets = planned.sent.parameter_sets.clone();
            if !sets.is_empty() {
                let command = Command::SetParameterSets { track, sets };
                self.link.command(plan.engine_epoch, plan.shard, command).await?;
            }
        }
        let sections = admission::answer_sent(offer, &sent_of(plan));
        let answer = self.answer(plan.engine_epoch, session, &credentials, plan.resource, sections)?;
        let orders = lock(&self.rooms).published(plan, session, &made.tracks)?;
        // The join is complete: from here on nothing is undone.
        self.obey(orders).await;
        self.tell_changes();
        Ok(Joined { resource: plan.resource, answer })
    }

    async fn view_whole(self: &Arc<Self>, claims: &Claims, offer: &OfferFacts) -> Result<Joined, Refusal> {
        let _join = self.joins.read().await;
        let JoinRoom { number: room, viewers_max, .. } = self.room_of(claims).await?;
        let resource = new_resource()?;
        let who = who_of(claims);
        let request = join_request(room, claims, &who, resource, offer, viewers_max);
        let plan = lock(&self.rooms).admit_view(&request)?;
        let mut made = Made::default();
        match self.make_viewer(claims, offer, &plan, &mut made).await {
            Ok(joined) => Ok(joined),
            Err(refusal) => {
                let orders =
                    lock(&self.rooms).abandon(resource, plan.shard, plan.engine_epoch, made.session, &[], false);
                self.obey(orders).await;
                Err(refusal)
            }
        }
    }

    async fn make_viewer(
        self: &Arc<Self>,
        claims: &Claims,
        offer: &OfferFacts,
        plan: &ViewPlan,
        made: &mut Made,
    ) -> Result<Joined, Refusal> {
        let credentials = self.write_session(claims, offer, &plan.note, plan.engine_epoch).await?;
        let command = Command::AddViewer {
            dtls_role: credentials.dtls_role,
            ufrag_random: credentials.ufrag_random,
            pwd: credentials.pwd,
            fingerprint: Fingerprint(offer.fingerprint),
            note: plan.note.write(),
            feeds: plan.feeds.iter().map(|feed| (feed.track, feed.facts())).collect(),
        };
        let (session, ssrcs) = match self.link.command(plan.engine_epoch, plan.shard, command).await {
            Ok(Answer::Viewer { session, ssrcs }) if ssrcs.len() == plan.feeds.len() => (session, ssrcs),
            Ok(_) => return Err(Refusal::EngineBusy),
            // An engine of the build before, until it is restarted, too.
            Err(LinkFailure::Refused(Status::Invalid)) => self.make_viewer_stepwise(offer, plan, &credentials, made).await?,
            Err(failure) => return Err(failure.into()),
        };
        made.session = Some(session);
        let sections = admission::answer_received(offer, &plan.feeds, &ssrcs, &claims.room);
        let answer = self.answer(plan.engine_epoch, session, &credentials, plan.resource, sections)?;
        lock(&self.rooms).viewed(plan, session)?;
        self.tell_changes();
        Ok(Joined { resource: plan.resource, answer })
    }

    async fn make_viewer_stepwise(
        &self,
        offer: &OfferFacts,
        plan: &ViewPlan,
        credentials: &Credentials,
        made: &mut Made,
    ) -> Result<(SessionId, Vec<(u32, u32)>), Refusal> {
        let session = self.add_session(offer, &plan.note, plan.engine_epoch, plan.shard, credentials).await?;
        made.session = Some(session);
        let mut ssrcs = Vec::with_capacity(plan.feeds.len());
        for feed in &plan.feeds {
            let command = Command::AttachFeed { session, track: feed.track, facts: feed.facts() };
            match self.link.command(plan.engine_epoch, plan.shard, command).await? {
                Answer::Feed { ssrc, rtx_ssrc, .. } => ssrcs.push((ssrc, rtx_ssrc)),
                _ => return Err(Refusal::EngineBusy),
            }
        }
        Ok((session, ssrcs))
    }

    /// Writes the session down: before the engine is asked to make it.
    async fn write_session(
        &self,
        claims: &Claims,
        offer: &OfferFacts,
        note: &SessionNote,
        engine_epoch: u64,
    ) -> Result<Credentials, Refusal> {
        self.store
            .add_session(SessionRow {
                resource: note.resource,
                room: note.room,
                side: note.side as u8,
                engine_epoch,
                sub: claims.sub.clone(),
                remote_ufrag: offer.ice_ufrag.clone(),
                expiry: claims.exp,
                account: claims.acct.clone(),
            })
            .await?;
        Ok(Credentials { dtls_role: dtls_role(offer.setup), ufrag_random: ice_chars()?, pwd: ice_chars()? })
    }

    async fn add_session(
        &self,
        offer: &OfferFacts,
        note: &SessionNote,
        engine_epoch: u64,
        shard: usize,
        credentials: &Credentials,
    ) -> Result<SessionId, Refusal> {
        let command = Command::AddSession {
            side: note.side,
            dtls_role: credentials.dtls_role,
            ufrag_random: credentials.ufrag_random,
            pwd: credentials.pwd,
            fingerprint: Fingerprint(offer.fingerprint),
            note: note.write(),
        };
        match self.link.command(engine_epoch, shard, command).await? {
            Answer::Session { session } => Ok(session),
            _ => Err(Refusal::EngineBusy),
        }
    }

    fn answer(
        &self,
        engine_epoch: u64,
        session: SessionId,
        credentials: &Credentials,
        resource: ResourceId,
        media: Vec<MediaText>,
    ) -> Result<String, Refusal> {
        let facts = self.link.engine().filter(|(ready, _)| *ready == engine_epoch);
        let (_, facts) = facts.ok_or(Refusal::EngineRestarting)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let origin = resource.0.first_chunk::<8>().map_or(1, |bytes| u64::from_le_bytes(*bytes).max(1));
        let answer = AnswerFacts {
            origin,
            ice_ufrag: text(&encode_ufrag(session, &credentials.ufrag_random)),
            ice_pwd: text(&credentials.pwd),
            fingerprint: facts.fingerprint.0,
            setup: match credentials.dtls_role {
                DtlsRole::Client => Setup::Active,
                DtlsRole::Server => Setup::Passive,
            },
            candidates: self.candidates.clone(),
            media,
        };
        Ok(answer.write())
    }

    // ---- sessions ----

    /// DELETE.
    pub async fn end(self: &Arc<Self>, room: &str, side: Side, resource: ResourceId) -> Result<(), Refusal> {
        let orders = lock(&self.rooms).end(room, side, resource)?;
        self.tell_changes();
        let service = self.clone();
        // To the end, whether or not the client waits for it.
        Whole::of(async move { service.obey(orders).await }).await;
        Ok(())
    }

    /// A trickle PATCH: the fragment must be of this session, and its ufrag that of the offer.
    pub async fn trickle(&self, room: &str, side: Side, resource: ResourceId, ufrag: &str) -> Result<(), Refusal> {
        lock(&self.rooms).find(room, side, resource)?;
        let offered = self.store.remote_ufrag(resource).await?;
        match offered {
            Some(offered) if !ufrag.is_empty() && offered != ufrag => Err(Refusal::IceRestartUnsupported),
            _ => Ok(()),
        }
    }

    /// Whether the URL names a session.
    pub fn find(&self, room: &str, side: Side, resource: ResourceId) -> Result<(), Refusal> {
        lock(&self.rooms).find(room, side, resource)
    }

    // ---- the engine's word ----

    /// Runs until the process ends: answers, events, new engines, the clock of the `state` events.
    pub async fn run(self: Arc<Self>, wake: AsyncFd<Wake>) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut pumped = 0u32;
        loop {
            if self.pump_once().await {
                pumped = pumped.wrapping_add(1);
                // A storm of events must not keep the joins from running; each yield costs a look at all sockets.
                if pumped % PUMPS_PER_YIELD == 0 {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            self.link.park();
            if self.pump_once().await {
                self.link.unpark();
                continue;
            }
            tokio::select! {
                ready = wake.readable() => {
                    if let Ok(mut ready) = ready {
                        ready.get_inner().clear();
                        ready.clear_ready();
                    }
                }
                () = tokio::time::sleep(PUMP_INTERVAL) => {}
                _ = second.tick() => self.tell_second(),
            }
            self.link.unpark();
        }
    }

    async fn pump_once(self: &Arc<Self>) -> bool {
        let ready = self.link.engine().map_or(0, |(epoch, _)| epoch);
        if ready != self.engine_epoch.load(Ordering::Acquire) && !lock(&self.resync).running {
            self.on_engine(ready);
        }
        let pumped = self.link.pump();
        if pumped.is_empty() {
            return false;
        }
        if pumped.overflowed {
            self.start_resync();
        }
        let mut resync = lock(&self.resync);
        if resync.running {
            resync.events.extend_from_slice(&pumped.events);
            if resync.events.len() > EVENTS_KEPT_MAX {
                resync.events.clear();
                resync.again = true;
            }
            return true;
        }
        drop(resync);
        self.apply(&pumped.events);
        true
    }

    /// Another engine is ready, or none is any more.
    fn on_engine(self: &Arc<Self>, ready: u64) {
        if self.engine_epoch.swap(0, Ordering::AcqRel) != 0 {
            logging::tell(Level::Warn, "the engine is gone; waiting for the next", &[]);
            self.log.push("node.engine_lost", None, now_ms(), &serde_json::json!({}));
        }
        let orders = lock(&self.rooms).engine_gone();
        self.obey_later(orders);
        self.tell_changes();
        if ready != 0 {
            self.start_resync();
        }
    }

    fn start_resync(self: &Arc<Self>) {
        let mut resync = lock(&self.resync);
        resync.again = true;
        if !std::mem::replace(&mut resync.running, true) {
            resync.events.clear();
            let service = self.clone();
            tokio::spawn(async move { service.resync().await });
        }
    }

    /// Makes policy whole from a dump; ends when it is, or when there is no engine.
    async fn resync(self: Arc<Self>) {
        // Joins that run finish first, and none begins: a session between its add and its feed would look
        // half-made.
        let _no_join = self.joins.write().await;
        loop {
            lock(&self.resync).again = false;
            let Some((epoch, _)) = self.link.engine() else { break };
            match self.rebuild(epoch).await {
                Ok(()) => {
                    if self.engine_epoch.swap(epoch, Ordering::AcqRel) != epoch {
                        self.log.push("node.engine_ready", None, now_ms(), &serde_json::json!({}));
                    }
                    self.synced.send_replace(true);
                }
                Err(reason) => {
                    logging::tell(Level::Warn, &format!("cannot take stock of the engine: {reason}; trying again"), &[]);
                    tokio::time::sleep(RESYNC_RETRY).await;
                    continue;
                }
            }
            let mut resync = lock(&self.resync);
            if !resync.again {
                // Under the lock, so that no event slips between the rebuilt state and the next pump.
                let events = std::mem::take(&mut resync.events);
                self.apply(&events);
                resync.running = false;
                return;
            }
        }
        let mut resync = lock(&self.resync);
        resync.running = false;
        resync.events.clear();
    }

    async fn rebuild(self: &Arc<Self>, epoch: u64) -> Result<(), Refusal> {
        let dump = self.link.dump(epoch).await?;
        let known = self.store.known().await?;
        let now = monotonic_now();
        let is_fed = |track: TrackId| {
            let stats = self.link.track_stats(track.index);
            let last = stats.last_packet_at.load(Ordering::Relaxed);
            stats.generation.load(Ordering::Acquire) == u64::from(track.generation)
                && last != 0
                && now.since(Time(last)) < PACKET_AGE_MAX
        };
        let orders = lock(&self.rooms).rebuild(epoch, &dump, &known.sessions, &known.names, is_fed);
        self.obey(orders).await;
        self.tell_changes();
        Ok(())
    }

    fn apply(self: &Arc<Self>, events: &[Event]) {
        let orders: Vec<Order> = {
            let mut rooms = lock(&self.rooms);
            events.iter().flat_map(|event| rooms.on_event(event)).collect()
        };
        self.obey_later(orders);
        self.tell_changes();
    }

    fn obey_later(self: &Arc<Self>, orders: Vec<Order>) {
        if !orders.is_empty() {
            let service = self.clone();
            tokio::spawn(async move { service.obey(orders).await });
        }
    }

    /// Carries orders out. Each is a removal: what cannot be removed because it is gone already is done.
    async fn obey(&self, orders: Vec<Order>) {
        let epoch = lock(&self.rooms).engine_epoch();
        let mut forgotten = Vec::new();
        for order in orders {
            match order {
                Order::Forget(resource) => forgotten.push(resource),
                Order::Command { shard, command } => {
                    for _ in 0..ORDER_TRIES_MAX {
                        match self.link.command(epoch, shard, command.clone()).await {
                            Err(LinkFailure::Full) => tokio::time::sleep(ORDER_RETRY).await,
                            _ => break,
                        }
                    }
                }
            }
        }
        self.store.forget_sessions(forgotten);
    }

    fn tell_changes(&self) {
        let mut rooms = lock(&self.rooms);
        for name in rooms.take_changed() {
            self.events.on_change(&name, rooms.state(&name));
        }
        let streams_changed = rooms.take_streams_changed();
        // Under the lock, so that events stand in the order in which things happened.
        for happening in rooms.take_happened() {
            self.tell(&happening);
        }
        if streams_changed {
            self.wake_recorder();
        }
    }

    /// A room's snapshots from now on.
    pub fn listen(&self, room: &str) -> watch::Receiver<Arc<Snapshot>> {
        self.events.subscribe(room, self.state(room), Instant::now(), |track| self.totals(track))
    }

    /// What a track has received so far; None once another track stands in its place.
    fn totals(&self, track: TrackId) -> Option<TrackTotals> {
        let stats = self.link.track_stats(track.index);
        (stats.generation.load(Ordering::Acquire) == u64::from(track.generation)).then(|| TrackTotals {
            bytes: stats.bytes.load(Ordering::Relaxed),
            lost: stats.lost.load(Ordering::Relaxed),
            expected: stats.expected.load(Ordering::Relaxed),
            frames: stats.frames.load(Ordering::Relaxed),
            keyframe_interval_ms: stats.keyframe_interval_ms.load(Ordering::Relaxed),
        })
    }

    fn tell_second(&self) {
        self.events.on_second(Instant::now(), |room| self.state(room), |track| self.totals(track));
        self.measure();
        lock(&self.publishing).retain(|_, one| one.strong_count() > 0);
        if self.store.has_forgotten() {
            let store = self.store.clone();
            tokio::spawn(async move {
                // Left-over rows are found and removed at the next start.
                store.write_forgotten().await.unwrap_or_else(|error| logging::tell(Level::Error, &error.to_string(), &[]));
            });
        }
    }

    fn publish_lock(&self, room: u32) -> Arc<tokio::sync::Mutex<()>> {
        let mut publishing = lock(&self.publishing);
        if let Some(one) = publishing.get(&room).and_then(Weak::upgrade) {
            return one;
        }
        let one = Arc::new(tokio::sync::Mutex::new(()));
        publishing.insert(room, Arc::downgrade(&one));
        one
    }
}

/// What the engine has made of a join so far.
#[derive(Default)]
struct Made {
    session: Option<SessionId>,
    tracks: Vec<TrackId>,
}

fn new_tracks(plan: &PublishPlan, made: &Made) -> Vec<TrackId> {
    let pairs = plan.tracks.iter().zip(&made.tracks);
    pairs.filter(|(planned, _)| planned.track.is_none()).map(|(_, track)| *track).collect()
}

fn sent_of(plan: &PublishPlan) -> Vec<admission::SentTrack> {
    plan.tracks.iter().map(|planned| planned.sent.clone()).collect()
}

fn who_of(claims: &Claims) -> Who {
    Who { sub: claims.sub.clone(), account: claims.acct.clone() }
}

fn join_request<'a>(
    room: u32,
    claims: &'a Claims,
    who: &'a Who,
    resource: ResourceId,
    offer: &'a OfferFacts,
    viewers_max: Option<u32>,
) -> JoinRequest<'a> {
    JoinRequest {
        room,
        room_name: &claims.room,
        resource,
        sub: hash_of(&claims.sub),
        who,
        expiry: claims.exp,
        offer,
        viewers_max,
        now: monotonic_now(),
        at_ms: now_ms(),
    }
}

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// The beginning of the SHA-256: equal subs are the same publisher.
fn hash_of(sub: &str) -> u64 {
    let hash = digest::digest(&digest::SHA256, sub.as_bytes());
    hash.as_ref().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Who offers passive waits for our ClientHello (RFC 4145 section 4.1, RFC 8842 section 5.3). In all other cases the
/// remote begins: as the server we choose the SRTP profile, and take GCM.
fn dtls_role(offered: Setup) -> DtlsRole {
    match offered {
        Setup::Passive => DtlsRole::Client,
        Setup::ActPass | Setup::Active => DtlsRole::Server,
    }
}

fn new_resource() -> Result<ResourceId, Refusal> {
    static LAST: Mutex<Age> = Mutex::new(Age::NONE);
    let mut bytes = [0; 9];
    rand::fill(&mut bytes).map_err(|_| Refusal::NodeFull("random bytes"))?;
    let mut last = lock(&LAST);
    *last = Age::after(*last, now_ms());
    Ok(ResourceId::new(*last, bytes))
}

fn ice_chars<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Refusal::NodeFull("random bytes"))?;
    // 256 is a multiple of 64: every character is equally likely.
    Ok(bytes.map(|byte| ICE_CHARS[usize::from(byte % 64)]))
}

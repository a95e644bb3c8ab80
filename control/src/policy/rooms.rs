//! Rooms: who publishes, who watches, which tracks there are. Pure: requests, results and events in,
//! decisions and orders out; built anew from a dump at any time.
//!
//! A stream's life:
//!
//! ```text
//!   (none) --publisher attached--> published --publisher left, viewers stay--> kept
//!   kept --any publisher--> published        published --same sub--> published (takeover)
//!   published or kept --neither publisher nor viewers--> (none): its tracks are detached
//! ```
//!
//! Between `admit_*` and `published`/`viewed`/`abandon` a session is *joining*: it counts as load and keeps
//! the stream, but has no name in the engine yet.

use super::admission::{self, LiveTrack, ReceivedTrack, SentTrack};
use super::limits::{Counts, Gate, Limits, Room as RoomCounts};
use super::placement::{self, Load};
use super::{CodecSet, PublicId, Refusal, ResourceId, SessionNote, TrackNote};
use spillway_proto::id::{Codec, SessionId, Side, StreamId, TrackId};
use spillway_proto::limits::{PUBLISHERS_MAX, SESSIONS_MAX, TRACKS_PER_STREAM_MAX};
use spillway_proto::link::command::{Command, DumpEntry, SessionState};
use spillway_proto::link::event::Event;
use spillway_proto::sdp::codec::H264Profile;
use spillway_proto::sdp::offer::OfferFacts;
use spillway_proto::time::Time;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

mod happenings;
mod views;

use happenings::word_of;
pub use happenings::Happening;
pub use views::{CapacityView, SessionView, StreamView, TrackView, Usage};

/// Something that has to be done because of a decision.
#[derive(Clone, PartialEq, Debug)]
pub enum Order {
    Command { shard: usize, command: Command },
    /// The store need not remember this session any more.
    Forget(ResourceId),
}

/// A POST, its offer read and its token verified.
#[derive(Clone, Debug)]
pub struct JoinRequest<'a> {
    pub room: u32,
    pub room_name: &'a str,
    pub resource: ResourceId,
    /// A hash of the token's `sub`.
    pub sub: u64,
    /// Who publishes or watches, as the token has it, and who pays.
    pub who: &'a Who,
    /// Unix seconds.
    pub expiry: u64,
    pub offer: &'a OfferFacts,
    /// How many viewers this room may have; None: what the node allows each room.
    pub viewers_max: Option<u32>,
    /// For rates.
    pub now: Time,
    /// Unix milliseconds: when a stream began.
    pub at_ms: u64,
}

/// The person behind a session, by the token's `sub` and `acct`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Who {
    pub sub: String,
    pub account: String,
}

/// What a publisher's POST leads to: first `note` with its session on `shard`, then its tracks.
#[derive(Clone, Debug)]
pub struct PublishPlan {
    pub engine_epoch: u64,
    pub resource: ResourceId,
    pub room: u32,
    pub shard: usize,
    pub stream: StreamId,
    pub note: SessionNote,
    pub tracks: Vec<PlannedTrack>,
}

#[derive(Clone, Debug)]
pub struct PlannedTrack {
    /// `NONE` for a new one.
    pub track: TrackId,
    pub note: TrackNote,
    pub sent: SentTrack,
}

/// What a viewer's POST leads to.
#[derive(Clone, Debug)]
pub struct ViewPlan {
    pub engine_epoch: u64,
    pub resource: ResourceId,
    pub shard: usize,
    pub note: SessionNote,
    pub feeds: Vec<ReceivedTrack>,
}

/// What pages are told of a room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomState {
    pub live: bool,
    /// Another number after the engine was restarted or the stream was made anew: POST again.
    pub epoch: u64,
    pub viewers: usize,
    pub tracks: Vec<(TrackId, Codec)>,
}

#[derive(Debug)]
struct Room {
    name: String,
    stream: Option<Stream>,
    viewers: HashSet<ResourceId>,
    /// Those of them that are connected: counted as they come and go, because every join tells it.
    connected: usize,
    /// A publisher whose tracks are being attached.
    joining: Option<ResourceId>,
}

#[derive(Debug)]
struct Stream {
    id: StreamId,
    shard: usize,
    publisher: Option<ResourceId>,
    tracks: Vec<Track>,
    /// Unix milliseconds.
    began_ms: u64,
    /// As it was measured last.
    bitrate_bps: u64,
    /// That it began was told.
    is_told: bool,
}

#[derive(Debug)]
struct Track {
    id: TrackId,
    codec: Codec,
    profile: Option<H264Profile>,
    live: bool,
}

#[derive(Debug)]
struct Session {
    note: SessionNote,
    shard: usize,
    /// `NONE` while joining.
    id: SessionId,
    connected: bool,
    who: Who,
    public: PublicId,
    /// That it joined was told.
    is_told: bool,
}

/// What the store knows of a session; without it the engine's copy is not ours.
#[derive(Clone, PartialEq, Debug)]
pub struct KnownSession {
    pub resource: ResourceId,
    pub room: u32,
    pub engine_epoch: u64,
    pub who: Who,
}

#[derive(Debug)]
pub struct Rooms {
    /// 0 while no engine is ready: nothing is admitted then.
    engine_epoch: u64,
    rooms: BTreeMap<u32, Room>,
    names: HashMap<String, u32>,
    sessions: HashMap<ResourceId, Session>,
    /// How many of them each shard has: a join does not count them.
    loads: Vec<Load>,
    by_id: HashMap<SessionId, ResourceId>,
    streams_used: BTreeSet<u32>,
    /// Streams take places in turn, so that one is not used again while its last tracks are still detached.
    stream_next: u32,
    changed: BTreeSet<String>,
    /// Streams, their tracks or publishers may have changed since the last call of `take_streams_changed`.
    streams_changed: bool,
    /// Sessions by the name others may know.
    by_public: BTreeMap<PublicId, ResourceId>,
    gate: Gate,
    happened: Vec<Happening>,
    /// There was a state to compare with before a rebuild.
    was_built: bool,
}

impl Rooms {
    pub fn new(shards: usize) -> Rooms {
        Rooms {
            engine_epoch: 0,
            rooms: BTreeMap::new(),
            names: HashMap::new(),
            sessions: HashMap::new(),
            loads: vec![Load::default(); shards.max(1)],
            by_id: HashMap::new(),
            streams_used: BTreeSet::new(),
            stream_next: 0,
            changed: BTreeSet::new(),
            streams_changed: false,
            by_public: BTreeMap::new(),
            gate: Gate::default(),
            happened: Vec::new(),
            was_built: false,
        }
    }

    /// From the next join on; nobody who is there is sent away.
    pub fn set_limits(&mut self, limits: Limits) {
        self.gate.limits = limits;
    }

    /// What was measured: each stream's bitrate, all that goes out to viewers, and how busy each shard is.
    pub fn measure(&mut self, bitrates: &HashMap<StreamId, u64>, egress_bps: u64, busy: &[f64]) {
        for stream in self.rooms.values_mut().filter_map(|room| room.stream.as_mut()) {
            stream.bitrate_bps = bitrates.get(&stream.id).copied().unwrap_or(0);
        }
        self.gate.egress_bps = egress_bps;
        let (loads, max, bitrate_bps) = (self.loads(), self.gate.busy_max(), self.mean_bitrate_bps());
        self.gate.capacity.measure(busy, &loads, max, bitrate_bps);
    }

    /// The engine and the shard that a stream's tracks are on.
    pub fn place_of(&self, stream: StreamId) -> Option<(u64, usize)> {
        let found = self.rooms.values().filter_map(|room| room.stream.as_ref()).find(|found| found.id == stream);
        found.map(|stream| (self.engine_epoch, stream.shard))
    }

    pub fn engine_epoch(&self) -> u64 {
        self.engine_epoch
    }

    /// Names of rooms whose state may have changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// Whether more than viewers came and went since the last call.
    pub fn take_streams_changed(&mut self) -> bool {
        std::mem::take(&mut self.streams_changed)
    }

    // ---- publishers ----

    /// Decides a WHIP POST. `generation` is a number no stream had before.
    pub fn admit_publish(&mut self, request: &JoinRequest<'_>, generation: u32) -> Result<PublishPlan, Refusal> {
        self.require_engine()?;
        let sent = admission::choose_sent(request.offer)?;
        let loads = self.loads();
        let room = self.rooms.get(&request.room);
        if room.is_some_and(|room| room.joining.is_some()) {
            return Err(Refusal::RoomBusy);
        }
        let stream = room.and_then(|room| room.stream.as_ref());
        let publisher = stream.and_then(|stream| stream.publisher).and_then(|resource| self.sessions.get(&resource));
        if publisher.is_some_and(|publisher| publisher.note.sub != request.sub) {
            return Err(Refusal::RoomBusy);
        }
        // Who takes over from itself has its place already.
        if publisher.is_none() {
            self.gate.admit_publisher(&self.counts(request, None))?;
        }
        let began_ms = stream.map_or(request.at_ms, |stream| stream.began_ms);
        let (id, shard) = match stream {
            Some(stream) => (stream.id, stream.shard),
            None => (StreamId::NONE, placement::publisher_shard(&loads)),
        };
        let planned: Vec<PlannedTrack> = sent
            .into_iter()
            .map(|sent| {
                let kind = sent.codec.kind();
                let kept = stream.and_then(|stream| stream.tracks.iter().find(|track| track.codec.kind() == kind));
                PlannedTrack {
                    track: kept.map_or(TrackId::NONE, |track| track.id),
                    note: TrackNote { profile: sent.profile, room: request.room, began_ms },
                    sent,
                }
            })
            .collect();
        let added = planned.iter().filter(|planned| planned.track.is_none()).count();
        if stream.map_or(0, |stream| stream.tracks.len()) + added > TRACKS_PER_STREAM_MAX {
            return Err(Refusal::NodeFull("tracks of this stream"));
        }
        let note = self.join(request, Side::Publisher, CodecSet::default(), shard)?;
        let stream = if id.is_none() {
            match self.take_stream_place() {
                Some(index) => StreamId::new(index, generation.max(1)),
                None => {
                    self.drop_session(request.resource);
                    return Err(Refusal::NodeFull("streams"));
                }
            }
        } else {
            id
        };
        let room = self.room(request.room, request.room_name);
        room.joining = Some(request.resource);
        Ok(PublishPlan {
            engine_epoch: self.engine_epoch,
            resource: request.resource,
            room: request.room,
            shard,
            stream,
            note,
            tracks: planned,
        })
    }

    /// The engine has the publisher's session and tracks. Removes the publisher it takes over from.
    pub fn published(
        &mut self,
        plan: &PublishPlan,
        session: SessionId,
        tracks: &[TrackId],
    ) -> Result<Vec<Order>, Refusal> {
        if plan.engine_epoch != self.engine_epoch || !self.name_session(plan.resource, session) {
            return Err(Refusal::EngineRestarting);
        }
        let Some(room) = self.rooms.get_mut(&plan.room) else { return Err(Refusal::EngineRestarting) };
        room.joining = None;
        let stream = room.stream.get_or_insert_with(|| Stream {
            id: plan.stream,
            shard: plan.shard,
            publisher: None,
            tracks: Vec::new(),
            began_ms: plan.tracks.first().map_or(0, |planned| planned.note.began_ms),
            bitrate_bps: 0,
            is_told: false,
        });
        // `live` of tracks stays what the engine last said: it speaks again only when that changes.
        let replaced = stream.publisher.replace(plan.resource);
        for (planned, id) in plan.tracks.iter().zip(tracks) {
            let (codec, profile) = (planned.sent.codec, planned.sent.profile);
            match stream.tracks.iter_mut().find(|track| track.id == *id) {
                Some(track) => (track.codec, track.profile) = (codec, profile),
                None => stream.tracks.push(Track { id: *id, codec, profile, live: false }),
            }
        }
        // A viewer that never negotiated the new codec cannot be served: its page POSTs anew and is told.
        let codecs = CodecSet::of(stream.tracks.iter().map(|track| track.codec));
        let lost: Vec<ResourceId> = (room.viewers.iter().copied())
            .filter(|viewer| self.sessions.get(viewer).is_some_and(|session| !serves(session.note.codecs, codecs)))
            .collect();
        self.changed.insert(room.name.clone());
        self.streams_changed = true;
        let mut orders = Vec::new();
        for resource in replaced.into_iter().chain(lost) {
            orders.extend(self.remove(resource, "failed"));
        }
        Ok(orders)
    }

    // ---- viewers ----

    /// Decides a WHEP POST.
    pub fn admit_view(&mut self, request: &JoinRequest<'_>) -> Result<ViewPlan, Refusal> {
        self.require_engine()?;
        let stream = self.rooms.get(&request.room).and_then(|room| room.stream.as_ref());
        let Some(stream) = stream.filter(|stream| is_live(stream, &self.sessions)) else {
            return Err(Refusal::StreamNotLive);
        };
        let tracks: Vec<LiveTrack> = stream
            .tracks
            .iter()
            .map(|track| LiveTrack { track: track.id, codec: track.codec, profile: track.profile })
            .collect();
        let feeds = admission::choose_received(request.offer, &tracks)?;
        let counts = self.counts(request, Some(stream.bitrate_bps));
        let loads = self.loads();
        let shard = self.gate.admit_viewer(&counts, &loads, request.viewers_max, request.now)?;
        let note = self.join(request, Side::Viewer, admission::codecs_of(&feeds), shard)?;
        self.room(request.room, request.room_name).viewers.insert(request.resource);
        Ok(ViewPlan { engine_epoch: self.engine_epoch, resource: request.resource, shard, note, feeds })
    }

    /// The engine has the viewer's session and feeds.
    pub fn viewed(&mut self, plan: &ViewPlan, session: SessionId) -> Result<(), Refusal> {
        if plan.engine_epoch == self.engine_epoch && self.name_session(plan.resource, session) {
            Ok(())
        } else {
            Err(Refusal::EngineRestarting)
        }
    }

    // ---- ends ----

    /// A join failed half-way: `session` and the new `tracks` are what the engine had made by then, and
    /// `taken` says whether it had already taken a track from another publisher.
    pub fn abandon(
        &mut self,
        resource: ResourceId,
        shard: usize,
        engine_epoch: u64,
        session: Option<SessionId>,
        tracks: &[TrackId],
        taken: bool,
    ) -> Vec<Order> {
        let mut orders = vec![Order::Forget(resource)];
        if engine_epoch != self.engine_epoch {
            return orders;
        }
        let command = |command| Order::Command { shard, command };
        orders.extend(session.map(|session| command(Command::RemoveSession { session })));
        orders.extend(tracks.iter().map(|track| command(Command::DetachTrack { track: *track })));
        let Some(left) = self.drop_session(resource) else { return orders };
        self.by_id.retain(|_, other| *other != resource);
        let number = left.note.room;
        let mut robbed = None;
        let mut unused = None;
        if let Some(room) = self.rooms.get_mut(&number) {
            room.viewers.remove(&resource);
            if room.joining == Some(resource) {
                room.joining = None;
                robbed = room.stream.as_ref().and_then(|stream| stream.publisher).filter(|_| taken);
                unused = room.stream.is_none().then_some(());
            }
        }
        if unused.is_some() {
            self.release_unused_places();
        }
        orders.extend(robbed.into_iter().flat_map(|resource| self.remove(resource, "failed")).collect::<Vec<_>>());
        orders.extend(self.tidy(number));
        orders
    }

    /// DELETE. `side` and room must be those of the URL.
    pub fn end(&mut self, room: &str, side: Side, resource: ResourceId) -> Result<Vec<Order>, Refusal> {
        self.find(room, side, resource)?;
        Ok(self.remove(resource, "left"))
    }

    /// Sends everybody of a stream away, viewers first: they are not to wait for another publisher. None: it is gone.
    pub fn end_stream(&mut self, stream: StreamId) -> Option<Vec<Order>> {
        let here = |room: &&Room| room.stream.as_ref().is_some_and(|here| here.id == stream);
        let name = self.rooms.values().find(here)?.name.clone();
        self.end_room(&name)
    }

    /// The same for all that a room holds.
    pub fn end_room(&mut self, name: &str) -> Option<Vec<Order>> {
        let room = self.rooms.get(self.names.get(name)?)?;
        let publisher = room.stream.as_ref().and_then(|stream| stream.publisher);
        let all: Vec<ResourceId> = room.viewers.iter().copied().chain(publisher).collect();
        Some(all.into_iter().flat_map(|resource| self.remove(resource, "ended")).collect())
    }

    /// Sends one viewer away. None: it has gone.
    pub fn kick(&mut self, viewer: PublicId) -> Option<Vec<Order>> {
        let resource = *self.by_public.get(&viewer)?;
        let session = self.sessions.get(&resource)?;
        (session.note.side == Side::Viewer).then(|| self.remove(resource, "kicked"))
    }

    /// Whether the URL names a session.
    pub fn find(&self, room: &str, side: Side, resource: ResourceId) -> Result<(), Refusal> {
        let session = self.sessions.get(&resource).filter(|session| !session.id.is_none());
        let number = self.names.get(room);
        match session {
            Some(session) if session.note.side == side && number == Some(&session.note.room) => Ok(()),
            _ => Err(Refusal::SessionNotFound),
        }
    }

    pub fn on_event(&mut self, event: &Event) -> Vec<Order> {
        match *event {
            Event::SessionConnected { session, .. } => {
                if let Some(session) = self.by_id.get(&session).and_then(|resource| self.sessions.get_mut(resource)) {
                    let is_news = !std::mem::replace(&mut session.connected, true);
                    let (number, resource) = (session.note.room, session.note.resource);
                    self.streams_changed |= session.note.side == Side::Publisher;
                    if session.note.side == Side::Viewer && is_news {
                        self.rooms.entry(number).and_modify(|room| room.connected += 1);
                    }
                    self.note_change(number);
                    self.tell_viewer(resource);
                    self.tell_stream(number);
                }
                Vec::new()
            }
            Event::SessionClosed { session, reason } => match self.by_id.get(&session).copied() {
                Some(resource) => {
                    self.tell_failure(resource, reason);
                    self.leave(resource, word_of(reason))
                }
                None => Vec::new(),
            },
            Event::TrackState { track, live } => {
                let found = self.rooms.values_mut().find_map(|room| {
                    let track = room.stream.as_mut()?.tracks.iter_mut().find(|other| other.id == track)?;
                    track.live = live;
                    Some(room.name.clone())
                });
                if let Some(number) = found.as_ref().and_then(|name| self.names.get(name)).copied() {
                    self.tell_stream(number);
                }
                self.changed.extend(found);
                self.streams_changed = true;
                Vec::new()
            }
        }
    }

    /// No engine is ready any more: everything live is gone with it.
    pub fn engine_gone(&mut self) -> Vec<Order> {
        let orders = self.sessions.keys().map(|resource| Order::Forget(*resource)).collect();
        let told = self.told();
        self.clear(0);
        self.tell_difference(told, "engine");
        orders
    }

    /// Everything anew from what the engine has (`dump`, each entry with its shard) and what the store
    /// knows. Orders only removals: of sessions nobody knows, of half-made ones, of tracks nobody needs.
    pub fn rebuild(
        &mut self,
        engine_epoch: u64,
        dump: &[(usize, DumpEntry)],
        known: &[KnownSession],
        names: &HashMap<u32, String>,
        is_fed: impl Fn(TrackId) -> bool,
    ) -> Vec<Order> {
        let told = self.told();
        self.clear(engine_epoch);
        let mut orders = Vec::new();
        let known_here: HashMap<ResourceId, &KnownSession> = (known.iter())
            .filter(|session| session.engine_epoch == engine_epoch)
            .map(|session| (session.resource, session))
            .collect();
        let fed: HashSet<SessionId> = dump
            .iter()
            .filter_map(|(_, entry)| match entry {
                DumpEntry::Feed { session, .. } => Some(*session),
                DumpEntry::Track { session, .. } => Some(*session),
                DumpEntry::Session { .. } => None,
            })
            .collect();
        for (shard, entry) in dump {
            let DumpEntry::Session { session, state, note, .. } = entry else { continue };
            let note = SessionNote::read(note);
            let ours = note.and_then(|note| {
                let known = known_here.get(&note.resource).filter(|known| known.room == note.room)?;
                Some((note, known.who.clone()))
            });
            let name = ours.as_ref().and_then(|(note, _)| names.get(&note.room));
            match (ours, name) {
                (Some((note, who)), Some(name)) if fed.contains(session) => {
                    if note.side == Side::Viewer {
                        self.room(note.room, name).viewers.insert(note.resource);
                    }
                    let connected = *state == SessionState::Connected;
                    self.by_id.insert(*session, note.resource);
                    self.keep_session(note, *shard, *session, connected, who);
                }
                _ => orders.push(Order::Command { shard: *shard, command: Command::RemoveSession { session: *session } }),
            }
        }
        for (shard, entry) in dump {
            let DumpEntry::Track { track, stream, session, codec, note } = entry else { continue };
            let note = TrackNote::read(note);
            let Some((note, name)) = note.and_then(|note| Some((note, names.get(&note.room)?))) else {
                orders.push(detach(*shard, *track));
                continue;
            };
            let publisher = self.by_id.get(session).copied();
            let live = publisher.is_some() && is_fed(*track);
            let room = self.room(note.room, name);
            let new = || Stream {
                id: *stream,
                shard: *shard,
                publisher: None,
                tracks: Vec::new(),
                began_ms: note.began_ms,
                bitrate_bps: 0,
                is_told: false,
            };
            let kept = room.stream.get_or_insert_with(new);
            if kept.id != *stream {
                // Two streams of one room: control was killed between ending one and opening the next.
                let older = if kept.id.generation < stream.generation {
                    std::mem::replace(kept, new())
                } else {
                    orders.push(detach(*shard, *track));
                    continue;
                };
                orders.extend(older.tracks.iter().map(|track| detach(older.shard, track.id)));
            }
            kept.publisher = kept.publisher.or(publisher);
            kept.tracks.push(Track { id: *track, codec: *codec, profile: note.profile, live });
            self.streams_used.insert(stream.index);
        }
        self.release_unused_places();
        self.remove_displaced_publishers(&mut orders);
        let numbers: Vec<u32> = self.rooms.keys().copied().collect();
        for number in numbers {
            orders.extend(self.tidy(number));
            self.note_change(number);
        }
        self.tell_difference(told, "unknown");
        self.was_built = true;
        self.streams_changed = true;
        orders.extend(
            known
                .iter()
                .filter(|session| !self.sessions.contains_key(&session.resource))
                .map(|session| Order::Forget(session.resource)),
        );
        orders
    }

    pub fn state(&self, room: &str) -> RoomState {
        let room = self.names.get(room).and_then(|number| self.rooms.get(number));
        let stream = room.and_then(|room| room.stream.as_ref());
        // 53 bits, because a page reads it as a JSON number.
        let generation = stream.map_or(0, |stream| u64::from(stream.id.generation));
        RoomState {
            live: stream.is_some_and(|stream| is_live(stream, &self.sessions)),
            epoch: (self.engine_epoch & 0x1f_ffff) << 32 | generation,
            viewers: room.map_or(0, |room| room.connected),
            tracks: stream.map_or(Vec::new(), |s| s.tracks.iter().map(|track| (track.id, track.codec)).collect()),
        }
    }

    // ---- inside ----

    fn require_engine(&self) -> Result<(), Refusal> {
        if self.engine_epoch == 0 { Err(Refusal::EngineRestarting) } else { Ok(()) }
    }

    fn join(
        &mut self,
        request: &JoinRequest<'_>,
        side: Side,
        codecs: CodecSet,
        shard: usize,
    ) -> Result<SessionNote, Refusal> {
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(Refusal::NodeFull("sessions"));
        }
        let JoinRequest { room, resource, sub, expiry, .. } = *request;
        let note = SessionNote { side, codecs, room, resource, sub, expiry };
        self.keep_session(note, shard, SessionId::NONE, false, request.who.clone());
        Ok(note)
    }

    fn keep_session(&mut self, note: SessionNote, shard: usize, id: SessionId, connected: bool, who: Who) {
        let public = PublicId::of(note.resource);
        self.by_public.insert(public, note.resource);
        if connected && note.side == Side::Viewer {
            self.rooms.entry(note.room).and_modify(|room| room.connected += 1);
        }
        let before = self.sessions.insert(note.resource, Session { note, shard, id, connected, who, public, is_told: false });
        if let Some(before) = before {
            self.uncount(&before);
        }
        if let Some(count) = count_of(&mut self.loads, shard, note.side) {
            *count += 1;
        }
    }

    fn drop_session(&mut self, resource: ResourceId) -> Option<Session> {
        let session = self.sessions.remove(&resource)?;
        self.by_public.remove(&session.public);
        self.uncount(&session);
        Some(session)
    }

    fn uncount(&mut self, session: &Session) {
        if let Some(count) = count_of(&mut self.loads, session.shard, session.note.side) {
            *count = count.saturating_sub(1);
        }
        if session.connected && session.note.side == Side::Viewer {
            self.rooms.entry(session.note.room).and_modify(|room| room.connected = room.connected.saturating_sub(1));
        }
    }

    /// How full everything is that one more of `request` would fill; `bitrate_bps` of the stream a viewer wants.
    fn counts(&self, request: &JoinRequest<'_>, bitrate_bps: Option<u64>) -> Counts {
        let mut counts = Counts { wanted_bps: bitrate_bps.unwrap_or(0), ..Counts::default() };
        // A publisher that is being taken over from is there twice: rooms count, not sessions.
        for (number, room) in &self.rooms {
            let publisher = room.joining.or(room.stream.as_ref().and_then(|stream| stream.publisher));
            counts.add(&RoomCounts {
                is_wanted: *number == request.room,
                has_publisher: publisher.is_some(),
                is_of_account: publisher.is_some_and(|resource| self.is_of(resource, &request.who.account)),
                viewers: room.viewers.len(),
                bitrate_bps: room.stream.as_ref().map_or(0, |stream| stream.bitrate_bps),
            });
        }
        if self.gate.limits.viewers_per_account_max > 0 {
            let of_account = |session: &&Session| {
                session.note.side == Side::Viewer && session.who.account == request.who.account
            };
            counts.viewers_of_account = self.sessions.values().filter(of_account).count();
        }
        counts
    }

    fn is_of(&self, resource: ResourceId, account: &str) -> bool {
        self.sessions.get(&resource).is_some_and(|session| session.who.account == account)
    }

    /// False if the session was ended while it was joining.
    fn name_session(&mut self, resource: ResourceId, id: SessionId) -> bool {
        match self.sessions.get_mut(&resource) {
            Some(session) => {
                session.id = id;
                self.by_id.insert(id, resource);
                true
            }
            None => false,
        }
    }

    fn room(&mut self, number: u32, name: &str) -> &mut Room {
        let names = &mut self.names;
        self.rooms.entry(number).or_insert_with(|| {
            names.insert(name.to_owned(), number);
            Room { name: name.to_owned(), stream: None, viewers: HashSet::new(), connected: 0, joining: None }
        })
    }

    fn loads(&self) -> Vec<Load> {
        self.loads.clone()
    }

    fn take_stream_place(&mut self) -> Option<u32> {
        let places = PUBLISHERS_MAX as u32;
        let place = (0..places).map(|step| (self.stream_next + step) % places).find(|p| !self.streams_used.contains(p))?;
        self.streams_used.insert(place);
        self.stream_next = (place + 1) % places;
        Some(place)
    }

    /// Places of streams that never came to be, or were replaced.
    fn release_unused_places(&mut self) {
        let used = self.rooms.values().filter_map(|room| Some(room.stream.as_ref()?.id.index)).collect();
        // A stream that is only being opened holds a place without a room's word for it.
        if self.rooms.values().all(|room| room.joining.is_none()) {
            self.streams_used = used;
        }
    }

    /// Takes a session out of the room and orders the engine to remove it.
    fn remove(&mut self, resource: ResourceId, reason: &'static str) -> Vec<Order> {
        let mut orders = Vec::new();
        if let Some(session) = self.sessions.get(&resource).filter(|session| !session.id.is_none()) {
            let command = Command::RemoveSession { session: session.id };
            orders.push(Order::Command { shard: session.shard, command });
        }
        orders.extend(self.leave(resource, reason));
        orders
    }

    /// A session is gone, or goes.
    fn leave(&mut self, resource: ResourceId, reason: &'static str) -> Vec<Order> {
        let Some(session) = self.drop_session(resource) else { return Vec::new() };
        self.by_id.remove(&session.id);
        let number = session.note.room;
        self.tell_leave(&session, reason);
        if let Some(room) = self.rooms.get_mut(&number) {
            room.viewers.remove(&resource);
            if let Some(stream) = room.stream.as_mut().filter(|stream| stream.publisher == Some(resource)) {
                stream.publisher = None;
                self.streams_changed = true;
            }
        }
        self.note_change(number);
        let mut orders = vec![Order::Forget(resource)];
        orders.extend(self.tidy(number));
        orders
    }

    /// Ends a stream that has neither publisher nor viewers, and forgets an empty room.
    fn tidy(&mut self, number: u32) -> Vec<Order> {
        let Some(room) = self.rooms.get_mut(&number) else { return Vec::new() };
        if room.joining.is_some() || !room.viewers.is_empty() {
            return Vec::new();
        }
        if room.stream.as_ref().is_some_and(|stream| stream.publisher.is_some()) {
            return Vec::new();
        }
        let mut orders = Vec::new();
        if let Some(stream) = room.stream.take() {
            let ended = Happening::StreamEnded { stream: stream.id, began_ms: stream.began_ms, room: room.name.clone() };
            self.happened.extend(stream.is_told.then_some(ended));
            self.streams_used.remove(&stream.id.index);
            orders.extend(stream.tracks.iter().map(|track| detach(stream.shard, track.id)));
        }
        self.changed.insert(room.name.clone());
        self.streams_changed = true;
        self.names.remove(&room.name);
        self.rooms.remove(&number);
        orders
    }

    /// Publishers that feed nothing of their room any more: control was killed within a takeover.
    fn remove_displaced_publishers(&mut self, orders: &mut Vec<Order>) {
        let current: HashSet<ResourceId> =
            self.rooms.values().filter_map(|room| room.stream.as_ref()?.publisher).collect();
        let displaced: Vec<ResourceId> = (self.sessions.iter())
            .filter(|(resource, session)| session.note.side == Side::Publisher && !current.contains(resource))
            .map(|(resource, _)| *resource)
            .collect();
        for resource in displaced {
            orders.extend(self.remove(resource, "unknown"));
        }
    }

    fn note_change(&mut self, number: u32) {
        self.changed.extend(self.rooms.get(&number).map(|room| room.name.clone()));
    }

    fn clear(&mut self, engine_epoch: u64) {
        self.changed.extend(self.names.keys().cloned());
        self.streams_changed = true;
        self.engine_epoch = engine_epoch;
        self.rooms.clear();
        self.names.clear();
        self.sessions.clear();
        self.loads.fill(Load::default());
        self.by_id.clear();
        self.by_public.clear();
        self.streams_used.clear();
    }
}

fn count_of(loads: &mut [Load], shard: usize, side: Side) -> Option<&mut usize> {
    let load = loads.get_mut(shard)?;
    Some(if side == Side::Publisher { &mut load.publishers } else { &mut load.viewers })
}

fn detach(shard: usize, track: TrackId) -> Order {
    Order::Command { shard, command: Command::DetachTrack { track } }
}

/// Its publisher is connected and packets come.
fn is_live(stream: &Stream, sessions: &HashMap<ResourceId, Session>) -> bool {
    let publisher = stream.publisher.and_then(|resource| sessions.get(&resource));
    publisher.is_some_and(|session| session.connected) && stream.tracks.iter().any(|track| track.live)
}

/// Whether a viewer still understands something of each kind it had: it has codecs of a kind exactly if it
/// was given a feed of it.
fn serves(viewer: CodecSet, stream: CodecSet) -> bool {
    let all = (0..=u8::MAX).map_while(|number| (usize::from(number) < Codec::COUNT).then_some(number));
    let codecs: Vec<Codec> = all.filter_map(Codec::from_u8).collect();
    codecs.iter().all(|codec| {
        let has_kind = codecs.iter().any(|other| other.kind() == codec.kind() && viewer.contains(*other));
        !stream.contains(*codec) || !has_kind || viewer.contains(*codec)
    })
}

#[cfg(test)]
mod tests;

//! What the API asks of the service besides joins: settings, limits, keys, ends, facts. Each that writes comes back
//! when it is on the disk.

use super::{
    AuthError, Claims, CounterId, IceServers, Instant, KeyText, Limits, Ordering, Proxies, Quality, Rates, Refusal,
    RequestLimits, Role, Service, Settings, auth, lock, now_ms,
};
use crate::attempts::Draft;
use crate::event_log::Event;
use crate::foreign::{Granted, Verdict};
use crate::history::Look;
use crate::ids;
use crate::logging::{self, Level};
use crate::metrics::{self, Sample};
use crate::policy::rooms::{CapacityView, Happening, SessionView, StreamView, TrackView, Usage};
use crate::policy::{PublicId, warnings};
use crate::store::{Changed, Drafts, KeyRow, Overrides, Store};
use crate::webhooks;
use serde_json::json;
use spillway_proto::id::{Kind, SessionId, Side, StreamId, TrackId};
use spillway_proto::link::command::{Answer, Command, KeyframeOutcome};
use spillway_proto::limits::{PUBLISHERS_MAX, SESSIONS_MAX};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What a key opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyRole {
    /// Everything.
    Admin,
    /// Everything that changes nothing.
    Read,
    /// Publishing in its room.
    Stream,
}

impl KeyRole {
    pub fn name(self) -> &'static str {
        match self {
            KeyRole::Admin => "admin",
            KeyRole::Read => "read",
            KeyRole::Stream => "stream",
        }
    }
    pub fn from_name(name: &str) -> Option<KeyRole> {
        [KeyRole::Admin, KeyRole::Read, KeyRole::Stream].into_iter().find(|role| role.name() == name)
    }
}

/// The limits in force, and which of them the API has set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    pub limits: Limits,
    pub set: BTreeMap<String, u32>,
    pub version: u64,
}

/// What `GET /v1/node` tells.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    pub id: String,
    pub began_ms: u64,
    pub engine: Option<&'static str>,
    pub shards: Vec<ShardFacts>,
    pub candidates: Vec<String>,
    pub usage: Usage,
    pub streams: usize,
    pub egress_bps: u64,
    pub capacity: CapacityView,
}

/// Of one track's publisher.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathFacts {
    pub jitter_us: u64,
    pub round_trip_us: Option<u64>,
    pub recovered: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct ShardFacts {
    /// Smoothed, 0 to 1.
    pub busy: f64,
    pub sessions: u64,
    pub packets_sent: u64,
}

impl Service {
    pub fn store(&self) -> &Store {
        &self.store
    }

    // ---- settings and limits ----

    /// What the store and the settings say, before the first request.
    pub async fn begin(self: &Arc<Self>, settings: Settings) -> Result<(), String> {
        let (cursor, _) = self.log.cursor(None);
        let overrides = self.store.limits().await.map_err(|error| error.to_string())?;
        lock(&self.settings).overrides = overrides;
        self.log.push("node.started", None, now_ms(), &json!({}));
        // What the control before us wrote down and was killed before it told.
        let kept = self.store.kept_events().await.map_err(|error| error.to_string())?;
        kept.into_iter().for_each(|event| self.log.tell(event));
        self.set_settings(settings)?;
        webhooks::begin(self, cursor).await.map_err(|error| error.to_string())
    }

    /// Other settings, from the next request on.
    pub fn set_settings(&self, settings: Settings) -> Result<(), String> {
        let ice = IceServers::load(&settings.turn)?;
        let proxies = Proxies::parse(&settings.trusted_proxies)?;
        let requests = RequestLimits {
            per_address: settings.requests_per_address,
            per_token: settings.requests_per_token,
            origins: settings.cors_origins.clone().into(),
            proxies: Arc::new(proxies),
        };
        self.webhooks.set_reach(webhooks::reach_of(&settings));
        self.recorder.set_reconnect(settings.recording.reconnect_seconds);
        let mut told = lock(&self.settings);
        if told.settings.backend_url != settings.backend_url {
            self.foreign.forget();
        }
        told.requests = requests;
        told.settings = settings;
        told.ice = ice;
        drop(told);
        self.enforce();
        Ok(())
    }

    fn enforce(&self) -> Applied {
        // Held until it is in force: of two changes the later one wins.
        let told = lock(&self.settings);
        let applied = applied(&told.settings.limits, &told.overrides);
        lock(&self.rooms).set_limits(applied.limits);
        applied
    }

    pub fn limits(&self) -> Applied {
        let told = lock(&self.settings);
        applied(&told.settings.limits, &told.overrides)
    }

    /// None takes a limit back to the configuration. In force, and on the disk, when this comes back.
    pub async fn change_limits(
        &self,
        expected: Option<u64>,
        changes: BTreeMap<String, Option<u32>>,
    ) -> Result<Changed<Applied>, Refusal> {
        Ok(match self.store.change_limits(expected, changes).await? {
            Changed::Done(overrides) => {
                let mut told = lock(&self.settings);
                if overrides.version > told.overrides.version {
                    told.overrides = overrides;
                }
                drop(told);
                Changed::Done(self.enforce())
            }
            Changed::OtherVersion(version) => Changed::OtherVersion(version),
            Changed::NotFound => Changed::NotFound,
        })
    }

    pub fn public_url(&self) -> Option<String> {
        lock(&self.settings).settings.public_url.clone()
    }

    /// What counts before a request is looked at.
    pub fn request_limits(&self) -> RequestLimits {
        lock(&self.settings).requests.clone()
    }

    pub fn ice_links(&self, sub: &str) -> Vec<String> {
        lock(&self.settings).ice.links(sub, auth::unix_now())
    }

    // ---- who asks ----

    /// What a token says: ours, or by the word of the backend. `asked` is the room it is shown for.
    pub async fn token(&self, text: &str, asked: Option<&str>) -> Result<Claims, Refused> {
        let refused = match auth::verify(&self.key, text, auth::unix_now()) {
            Ok(claims) => return Ok(claims),
            Err(refused) => refused,
        };
        let backend = lock(&self.settings).settings.backend_url.clone();
        let Some(backend) = backend.filter(|_| refused.is_foreign()) else { return Err(refused.into()) };
        match self.foreign.ask(&backend, text).await {
            Verdict::Granted(granted) => {
                let (iss, jti, aud) = (String::new(), String::new(), auth::AUDIENCE.to_owned());
                let Granted { room, role, sub, account, expiry } = granted;
                // One that is for all rooms is for the one it is shown for.
                let room = room.or(asked.map(str::to_owned)).unwrap_or_default();
                Ok(Claims { iss, sub, acct: account, aud, room, role, iat: 0, exp: expiry, jti })
            }
            Verdict::Denied => Err(AuthError::Denied.into()),
            Verdict::Unknown(reason) => Err(Refused::Backend(reason)),
        }
    }

    /// What a token or a stream key may do where media is published and watched.
    pub async fn claims(&self, text: &str, asked: Option<&str>) -> Result<Claims, Refused> {
        let Some(key) = KeyText::parse(text) else { return self.token(text, asked).await };
        let key = self.key(&key).await?;
        let (role, room) = match (KeyRole::from_name(&key.role), key.room) {
            (Some(KeyRole::Stream), Some(room)) => (Role::Publish, room),
            _ => (Role::Node, String::new()),
        };
        let (iss, jti, aud) = (String::new(), String::new(), auth::AUDIENCE.to_owned());
        // A key has no end of its own; a session that it made ends with the session.
        let exp = i64::MAX.unsigned_abs();
        Ok(Claims { iss, sub: key.id, acct: key.account, aud, room, role, iat: 0, exp, jti })
    }

    /// The key, if its secret is right.
    pub async fn key(&self, text: &KeyText) -> Result<KeyRow, Refused> {
        let key = self.store.key(&text.id).await.map_err(Refusal::from)?.ok_or(AuthError::Key)?;
        let former = key.former_hash.filter(|_| now_ms() < key.former_until_ms);
        match auth::is_same(&key.hash, &text.hash) || former.is_some_and(|former| auth::is_same(&former, &text.hash)) {
            true => Ok(key),
            false => Err(AuthError::Key.into()),
        }
    }

    // ---- what there is ----

    pub fn streams(&self) -> Vec<StreamView> {
        lock(&self.rooms).streams()
    }

    pub fn rates(&self, track: TrackId) -> Rates {
        lock(&self.meters).rates(track)
    }

    /// What the publisher's path does to a track.
    pub fn path(&self, track: TrackId) -> PathFacts {
        let stats = self.link.track_stats(track.index);
        if stats.generation.load(Ordering::Acquire) != u64::from(track.generation) {
            return PathFacts::default();
        }
        let round_trip_us = stats.round_trip_us.load(Ordering::Relaxed);
        PathFacts {
            jitter_us: stats.jitter_us.load(Ordering::Relaxed),
            round_trip_us: (round_trip_us > 0).then_some(round_trip_us),
            recovered: stats.recovered.load(Ordering::Relaxed),
        }
    }

    /// What a session experiences; None if the engine has no such session.
    pub fn quality(&self, session: SessionId) -> Option<Quality> {
        self.link.session_stats(session.index).read(session.generation)
    }

    /// Has the publisher of a stream's picture asked for a keyframe; what became of it, in a word.
    pub async fn request_keyframe(&self, stream: &StreamView) -> Result<&'static str, Refusal> {
        let video = stream.tracks.iter().find(|track| track.codec.kind() == Kind::Video);
        let Some(track) = video.map(|track| track.id) else { return Ok("no_video") };
        let (epoch, shard) = lock(&self.rooms).place_of(stream.id).ok_or(Refusal::StreamNotLive)?;
        match self.link.command(epoch, shard, Command::RequestKeyframe { track }).await? {
            Answer::Keyframe { outcome } => Ok(match outcome {
                KeyframeOutcome::Asked => "asked",
                KeyframeOutcome::Pending => "pending",
                KeyframeOutcome::Withheld => "withheld",
                KeyframeOutcome::Deaf => "deaf",
                KeyframeOutcome::Silent => "silent",
            }),
            _ => Err(Refusal::EngineBusy),
        }
    }

    pub fn live_names(&self) -> Vec<String> {
        lock(&self.rooms).live_names()
    }

    pub fn viewers(&self, room: Option<&str>, after: Option<PublicId>, count: usize) -> Vec<SessionView> {
        lock(&self.rooms).viewers(room, after, count)
    }

    pub fn viewer(&self, id: PublicId) -> Option<SessionView> {
        lock(&self.rooms).by_public(id, Side::Viewer)
    }

    pub fn usage(&self, account: Option<&str>) -> Usage {
        lock(&self.rooms).usage(account)
    }

    pub fn uptime(&self) -> std::time::Duration {
        self.began.0.elapsed()
    }

    pub fn node(&self) -> NodeFacts {
        let id = lock(&self.settings).settings.node_id.clone().unwrap_or_else(crate::process::machine_name);
        let capacity = lock(&self.rooms).capacity();
        let shard = |number| ShardFacts {
            busy: capacity.busy.get(number).copied().unwrap_or(0.0),
            sessions: self.link.counter(number, CounterId::SessionsPublisher)
                + self.link.counter(number, CounterId::SessionsViewer),
            packets_sent: self.link.counter(number, CounterId::PacketsSent),
        };
        NodeFacts {
            id,
            began_ms: self.began.1,
            engine: self.link.engine().map(|(_, facts)| facts.io.name()),
            shards: (0..self.link.shards()).map(shard).collect(),
            capacity: capacity.clone(),
            candidates: self.candidates.iter().map(ToString::to_string).collect(),
            usage: self.usage(None),
            streams: self.streams().iter().filter(|stream| stream.live).count(),
            egress_bps: lock(&self.meters).egress_bps,
        }
    }

    /// What is told of a room that the API changes, once the store has it.
    pub fn drafts_of_room(&self, kind: &'static str, room: &str) -> Drafts {
        self.drafts(vec![self.log.draft(kind, Some(room.to_owned()), now_ms(), &json!({ "id": room }))])
    }

    pub fn drafts(&self, events: Vec<Event>) -> Drafts {
        Drafts { log: self.log.clone(), events }
    }

    pub(super) fn tell(&self, happening: &Happening) {
        let (kind, room, data) = match happening {
            Happening::StreamStarted { stream, began_ms, room } => {
                ("stream.started", room, json!({ "id": ids::stream(*stream, *began_ms) }))
            }
            Happening::StreamEnded { stream, began_ms, room } => {
                ("stream.ended", room, json!({ "id": ids::stream(*stream, *began_ms) }))
            }
            Happening::ViewerJoined { viewer, room, who } => {
                let data = json!({ "id": ids::viewer(*viewer), "sub": who.sub, "account": who.account });
                ("viewer.joined", room, data)
            }
            Happening::ViewerLeft { viewer, room, who, reason } => {
                let data = json!({ "id": ids::viewer(*viewer), "sub": who.sub, "account": who.account, "reason": reason });
                ("viewer.left", room, data)
            }
            Happening::NeverConnected { resource, protocol, room, who, code, detail } => {
                let viewer = ids::viewer(PublicId::of(*resource));
                let facts = [("room", room.as_str()), ("sub", &who.sub), (if *protocol == "whep" { "viewer" } else { "session" }, &viewer)];
                logging::tell(Level::Warn, &format!("{protocol}: granted, then {code}"), &facts);
                let draft = Draft { protocol, room: room.clone(), sub: who.sub.clone(), ..Draft::default() };
                return self.attempts.never_connected(*resource, draft, code, detail, now_ms());
            }
        };
        if kind.starts_with("stream.") {
            let id = data["id"].as_str().unwrap_or_default();
            logging::tell(Level::Info, kind, &[("room", room), ("stream", id)]);
        }
        self.log.push(kind, Some(room.clone()), now_ms(), &data);
    }

    // ---- monitoring ----

    pub fn has_metrics_elsewhere(&self) -> bool {
        lock(&self.settings).settings.metrics.is_some()
    }

    pub fn has_started(&self) -> bool {
        *self.synced.borrow()
    }

    pub(super) fn count_join(&self, side: Side, joined: &Result<super::Joined, Refusal>) {
        let result = joined.as_ref().map_or_else(Refusal::code, |_| "admitted");
        let family = match side {
            Side::Publisher => "spillway_publish_joins_total",
            Side::Viewer => "spillway_view_joins_total",
        };
        *lock(&self.ended).entry((family, result)).or_default() += 1;
    }

    pub fn count_limited(&self, by: &'static str) {
        *lock(&self.ended).entry(("spillway_requests_limited_total", by)).or_default() += 1;
    }

    /// The text for Prometheus.
    pub fn metrics(&self) -> String {
        let used = crate::process::node();
        let (streams, usage, applied) = (self.streams(), self.usage(None), self.limits());
        let live = streams.iter().filter(|stream| stream.live).count() as f64;
        let (egress_bps, ingress_bps) = {
            let meters = lock(&self.meters);
            let tracks = streams.iter().flat_map(|stream| &stream.tracks);
            (meters.egress_bps, tracks.map(|track| meters.rates(track.id).bitrate_bps).sum::<u64>())
        };
        let mut samples = Vec::new();
        let mut add = |family, label: &str, value: f64| samples.push(Sample { family, label: label.to_owned(), value });
        add("spillway_build_info", env!("CARGO_PKG_VERSION"), 1.0);
        add("spillway_engine_up", "", f64::from(u8::from(self.is_ready())));
        add("spillway_streams", "", live);
        add("spillway_publishers", "", usage.publishers as f64);
        add("spillway_viewers", "", usage.viewers as f64);
        for ((family, result), count) in lock(&self.ended).iter() {
            add(family, result, *count as f64);
        }
        for (result, count) in self.webhooks.results() {
            add("spillway_webhook_deliveries_total", result, count as f64);
        }
        add("spillway_webhook_queue_depth", "", self.webhooks.queued() as f64);
        let recorded = self.recorder.counts();
        add("spillway_recordings", "", self.recorder.active() as f64);
        add("spillway_recording_bytes_total", "", recorded.bytes as f64);
        add("spillway_recording_gaps_total", "", recorded.gaps as f64);
        add("spillway_recording_failures_total", "", recorded.failures as f64);
        let mut limits = applied.limits;
        for name in Limits::NAMES {
            if let Some(limit) = limits.by_name(name).filter(|limit| **limit > 0) {
                add("spillway_limit", name, f64::from(*limit));
            }
        }
        let ratio = |used: f64, max: f64| if max > 0.0 { used / max } else { 0.0 };
        let fullest = [
            ratio(usage.publishers as f64, PUBLISHERS_MAX as f64),
            ratio((usage.publishers + usage.viewers) as f64, SESSIONS_MAX as f64),
            ratio(usage.publishers as f64, f64::from(applied.limits.publishers_max)),
            ratio(usage.viewers as f64, f64::from(applied.limits.viewers_max)),
            ratio(egress_bps as f64, f64::from(applied.limits.egress_mbps_max) * 1e6),
        ];
        let capacity = lock(&self.rooms).capacity();
        let busiest = capacity.busy.iter().copied().fold(0.0, f64::max);
        let fullest = fullest.into_iter().chain([ratio(busiest, capacity.busy_max)]);
        add("spillway_capacity_used_ratio", "", fullest.fold(0.0, f64::max));
        add("spillway_egress_bytes_per_second", "", egress_bps as f64 / 8.0);
        add("spillway_ingress_bytes_per_second", "", ingress_bps as f64 / 8.0);
        for shard in 0..self.link.shards() {
            let count = |id| self.link.counter(shard, id) as f64;
            add("spillway_shard_busy_seconds_total", &shard.to_string(), count(CounterId::BusyNs) * 1e-9);
            add("spillway_shard_busy_ratio", &shard.to_string(), capacity.busy.get(shard).copied().unwrap_or(0.0));
            let sessions = count(CounterId::SessionsPublisher) + count(CounterId::SessionsViewer);
            add("spillway_shard_sessions", &shard.to_string(), sessions);
        }
        add("spillway_uptime_seconds", "", self.uptime().as_secs_f64());
        add("process_resident_memory_bytes", "", used.memory_bytes as f64);
        add("process_cpu_seconds_total", "", (used.user_micros + used.system_micros) as f64 * 1e-6);
        add("process_start_time_seconds", "", self.began.1 as f64 * 1e-3);
        add("media_server_active_streams", "", live);
        add("media_server_streaming_method", "webrtc", 1.0);
        metrics::text(&samples, |id| self.link.histogram_sum(id), |id| match id {
            // A longest of each shard: their sum would mean nothing.
            CounterId::TickNsMax => (0..self.link.shards()).map(|shard| self.link.counter(shard, id)).max().unwrap_or(0),
            _ => self.link.counter_sum(id),
        })
    }

    // ---- ends ----

    /// Publisher and viewers are sent away. False: there is no such stream any more.
    pub async fn end_stream(self: &Arc<Self>, stream: StreamId) -> bool {
        // First: what is ended is not waited for.
        if let Some(stream) = self.streams().into_iter().find(|here| here.id == stream) {
            self.stop_recording_of(&stream.room).await;
        }
        let orders = lock(&self.rooms).end_stream(stream);
        self.carry_out(orders).await
    }

    /// The same for whatever a room holds.
    pub async fn end_room(self: &Arc<Self>, room: &str) -> bool {
        self.stop_recording_of(room).await;
        let orders = lock(&self.rooms).end_room(room);
        self.carry_out(orders).await
    }

    pub async fn kick(self: &Arc<Self>, viewer: PublicId) -> bool {
        let orders = lock(&self.rooms).kick(viewer);
        self.carry_out(orders).await
    }

    /// Whoever bears this `sub` may not come to the room for so long; first on the disk, so that nobody slips in between.
    pub async fn ban(&self, room: &str, sub: &str, seconds: u32) -> Result<(), Refusal> {
        let now_ms = now_ms();
        Ok(self.store.ban(room, sub, now_ms, now_ms + u64::from(seconds) * 1_000).await?)
    }

    async fn carry_out(self: &Arc<Self>, orders: Option<Vec<crate::policy::rooms::Order>>) -> bool {
        let Some(orders) = orders else { return false };
        self.tell_changes();
        let service = self.clone();
        // To the end, whether or not the client waits for it.
        let _ = tokio::spawn(async move { service.obey(orders).await }).await;
        true
    }

    // ---- once a second ----

    pub(super) fn measure(&self) {
        let streams = self.streams();
        let tracks = streams.iter().flat_map(|stream| stream.tracks.iter().map(|track| track.id));
        let mut meters = lock(&self.meters);
        let sent = self.link.counter_sum(CounterId::BytesSent);
        let worked = |shard| self.link.counter(shard, CounterId::BusyNs);
        let busy = meters.measure_shards(Instant::now(), (0..self.link.shards()).map(worked).collect());
        meters.measure(Instant::now(), tracks, |track| self.totals(track), sent);
        let of_stream = |stream: &StreamView| stream.tracks.iter().map(|track| meters.rates(track.id).bitrate_bps).sum();
        let bitrates: HashMap<StreamId, u64> = streams.iter().map(|stream| (stream.id, of_stream(stream))).collect();
        let egress_bps = meters.egress_bps;
        drop(meters);
        lock(&self.rooms).measure(&bitrates, egress_bps, &busy);
        self.tell_warnings(&streams);
        self.history.look(Look {
            at_ms: now_ms(),
            viewers: self.usage(None).viewers as u64,
            streams: streams.iter().filter(|stream| stream.live).count() as u64,
            bytes_sent: sent,
            busy_ns: (0..self.link.shards()).map(|shard| self.link.counter(shard, CounterId::BusyNs)).collect(),
        });
    }

    /// Rooms that anybody may know of; None where nobody was told that.
    pub fn public_rooms(&self) -> Option<Vec<StreamView>> {
        let is_public = lock(&self.settings).settings.list_rooms;
        is_public.then(|| self.streams().into_iter().filter(|stream| stream.live).collect())
    }

    /// What is wrong with a stream that lives, in a word and a sentence.
    pub fn warnings(&self, stream: &StreamView) -> Vec<(&'static str, String)> {
        let facts = |track: &TrackView| {
            let rates = self.rates(track.id);
            let (loss_ratio, keyframe_interval_ms) = (rates.loss_ratio, rates.keyframe_interval_ms);
            warnings::TrackFacts { codec: track.codec, loss_ratio, keyframe_interval_ms }
        };
        let facts: Vec<warnings::TrackFacts> = stream.tracks.iter().map(facts).collect();
        if stream.live { warnings::of(&facts) } else { Vec::new() }
    }

    /// Each warning once, as long as its stream lives.
    fn tell_warnings(&self, streams: &[StreamView]) {
        let mut warned = lock(&self.warned);
        warned.retain(|id, _| streams.iter().any(|stream| stream.id == *id));
        for stream in streams {
            let told = warned.entry(stream.id).or_default();
            for (code, detail) in self.warnings(stream) {
                if !told.contains(&code) {
                    told.push(code);
                    let id = ids::stream(stream.id, stream.began_ms);
                    let data = json!({ "id": id, "code": code, "detail": detail });
                    self.log.push("stream.warning", Some(stream.room.clone()), now_ms(), &data);
                }
            }
        }
    }
}

/// A request that is not answered: for who asks, or for what he asks.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("the backend that knows this token gave no answer ({0}); try again in a second")]
    Backend(String),
    #[error(transparent)]
    Policy(#[from] Refusal),
}

/// What the configuration says, with what the API has set before it.
fn applied(configured: &Limits, overrides: &Overrides) -> Applied {
    let mut limits = *configured;
    for (name, value) in &overrides.values {
        // One of a newer build says nothing here.
        if let Some(limit) = limits.by_name(name) {
            *limit = *value;
        }
    }
    Applied { limits, set: overrides.values.clone(), version: overrides.version }
}

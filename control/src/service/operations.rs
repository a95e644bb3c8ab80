//! What the API asks of the service besides joins: settings, limits, keys, ends, facts. Each that writes comes back
//! when it is on the disk.

use super::{
    AuthError, Claims, CounterId, IceServers, Instant, KeyText, Limits, Rates, Refusal, Role, Service, Settings, auth,
    lock, now_ms,
};
use crate::policy::PublicId;
use crate::policy::rooms::{SessionView, StreamView, Usage};
use crate::store::{Changed, KeyRow, Overrides, Store};
use spillway_proto::id::{Side, StreamId, TrackId};
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
}

#[derive(Clone, Copy, Debug)]
pub struct ShardFacts {
    pub sessions: u64,
    pub packets_sent: u64,
}

impl Service {
    pub fn store(&self) -> &Store {
        &self.store
    }

    // ---- settings and limits ----

    /// What the store and the settings say, before the first request.
    pub async fn begin(&self, settings: Settings) -> Result<(), String> {
        let overrides = self.store.limits().await.map_err(|error| error.to_string())?;
        lock(&self.settings).overrides = overrides;
        self.set_settings(settings)
    }

    /// Other settings, from the next request on.
    pub fn set_settings(&self, settings: Settings) -> Result<(), String> {
        let ice = IceServers::load(&settings.turn)?;
        let mut told = lock(&self.settings);
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

    pub fn ice_links(&self, sub: &str) -> Vec<String> {
        lock(&self.settings).ice.links(sub, auth::unix_now())
    }

    // ---- who asks ----

    /// What a token or a stream key may do where media is published and watched.
    pub async fn claims(&self, text: &str) -> Result<Claims, Refused> {
        let Some(key) = KeyText::parse(text) else { return Ok(auth::verify(&self.key, text, auth::unix_now())?) };
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
        let shard = |number| ShardFacts {
            sessions: self.link.counter(number, CounterId::SessionsPublisher)
                + self.link.counter(number, CounterId::SessionsViewer),
            packets_sent: self.link.counter(number, CounterId::PacketsSent),
        };
        NodeFacts {
            id,
            began_ms: self.began.1,
            engine: self.link.engine().map(|(_, facts)| facts.io.name()),
            shards: (0..self.link.shards()).map(shard).collect(),
            candidates: self.candidates.iter().map(ToString::to_string).collect(),
            usage: self.usage(None),
            streams: self.streams().iter().filter(|stream| stream.live).count(),
            egress_bps: lock(&self.meters).egress_bps,
        }
    }

    // ---- ends ----

    /// Publisher and viewers are sent away. False: there is no such stream any more.
    pub async fn end_stream(self: &Arc<Self>, stream: StreamId) -> bool {
        let orders = lock(&self.rooms).end_stream(stream);
        self.carry_out(orders).await
    }

    /// The same for whatever a room holds.
    pub async fn end_room(self: &Arc<Self>, room: &str) -> bool {
        let orders = lock(&self.rooms).end_room(room);
        self.carry_out(orders).await
    }

    pub async fn kick(self: &Arc<Self>, viewer: PublicId) -> bool {
        let orders = lock(&self.rooms).kick(viewer);
        self.carry_out(orders).await
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
        meters.measure(Instant::now(), tracks, |track| self.totals(track), sent);
        let of_stream = |stream: &StreamView| stream.tracks.iter().map(|track| meters.rates(track.id).bitrate_bps).sum();
        let bitrates: HashMap<StreamId, u64> = streams.iter().map(|stream| (stream.id, of_stream(stream))).collect();
        let egress_bps = meters.egress_bps;
        drop(meters);
        lock(&self.rooms).measure(&bitrates, egress_bps);
    }
}

/// A request that is not answered: for who asks, or for what he asks.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Auth(#[from] AuthError),
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

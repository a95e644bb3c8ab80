//! One function for each row of the table. They look up, translate and answer; what may be is `policy`'s.

use super::bodies::{
    Capacity, Ended, Health, HealthCpu, HealthMemory, Join, Key, KeyWithSecret, KeyframeAnswer, Kick, Limits, LimitsPatch, NewKey, NewRoom, NewToken, Node, Publisher,
    Quality, Reception, Room, RoomPatch, Rotation, Shard, Stream, Token, TokenUrls, Track, Usage, Viewer, Warning,
};
use super::page::{Page, Wanted};
use super::{Answer, Call, Reply, Scope};
use crate::api::problem::Problem;
use crate::auth::{self, AuthError, Grant, KeyText, Role};
use crate::ids::{self, rfc3339};
use crate::policy::limits::Limits as LimitsInForce;
use crate::policy::rooms::{SessionView, StreamView};
use crate::policy::Refusal;
use crate::policy::recordings::Mode;
use crate::process;
use crate::shm::monotonic_now;
use crate::service::{Applied, Changed, KeyRole, KeyRow, RoomChange, RoomRow, Rotated, now_ms};
use axum::http::header;
use spillway_proto::id::{Codec, Kind};
use spillway_proto::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

const TTL_SECONDS_DEFAULT: u64 = 3_600;
const TTL_SECONDS_MAX: u64 = 366 * 86_400;
const GRACE_SECONDS_MAX: u64 = 7 * 86_400;
const BAN_SECONDS_MAX: u32 = 366 * 86_400;
const NAME_CHARS_MAX: usize = 100;
const MB: u64 = 1_024 * 1_024;

// ---- rooms ----

pub async fn rooms(call: Call) -> Answer {
    let Wanted { after, count } = Wanted::of(&call)?;
    let mut found: BTreeMap<String, Option<RoomRow>> = BTreeMap::new();
    match &call.caller.scope {
        Scope::Room(own) => {
            let row = call.service.store().room(own).await.map_err(Refusal::from)?;
            if *own > after && (row.is_some() || call.service.live_names().contains(own)) {
                found.insert(own.clone(), row);
            }
        }
        _ => {
            let live = call.service.live_names().into_iter().filter(|name| *name > after);
            found.extend(live.take(count + 1).map(|name| (name, None)));
            let rows = call.service.store().rooms_after(&after, count + 1).await.map_err(Refusal::from)?;
            found.extend(rows.into_iter().map(|row| (row.name.clone(), Some(row))));
            // A live room between two declared ones of this page was among the first, or is behind the page.
            let names: Vec<String> = found.keys().take(count + 1).cloned().collect();
            found.retain(|name, _| names.contains(name));
            for (name, row) in found.iter_mut().filter(|(_, row)| row.is_none()) {
                *row = call.service.store().room(name).await.map_err(Refusal::from)?;
            }
        }
    }
    let streams = call.service.streams();
    let rooms = found.into_iter().map(|(name, row)| room_body(&call, &name, row.as_ref(), &streams)).collect();
    Ok(Reply::json(200, &Page::new(rooms, count, |room: &Room| room.id.clone())))
}

pub async fn create_room(call: Call) -> Answer {
    let new: NewRoom = call.body()?;
    if !auth::is_room_name(&new.id) {
        return Err(Problem::bad_request("id: a room's name is 1 to 64 characters of A-Z a-z 0-9 _ -"));
    }
    let record = record_of(new.record)?;
    let row = RoomRow { name: new.id, created_ms: now_ms(), version: 1, viewers_max: new.viewers_max, record };
    let body = room_body(&call, &row.name, Some(&row), &call.service.streams());
    let reply = Reply::json(201, &body).with(header::LOCATION, format!("/v1/rooms/{}", row.name)).version(row.version);
    let (reply, record) = call.record(reply);
    let name = row.name.clone();
    let drafts = call.service.drafts_of_room("room.created", &name);
    match call.service.store().create_room(row, record, drafts).await.map_err(Refusal::from)? {
        true => Ok(reply),
        false => Err(Problem::room_exists(&name)),
    }
}

pub async fn room(call: Call) -> Answer {
    let name = call.part("room");
    let row = call.service.store().room(name).await.map_err(Refusal::from)?;
    if row.is_none() && !call.service.live_names().iter().any(|live| live == name) {
        return Err(Problem::missing("room"));
    }
    let reply = Reply::json(200, &room_body(&call, name, row.as_ref(), &call.service.streams()));
    Ok(match row {
        Some(row) => reply.version(row.version),
        None => reply,
    })
}

pub async fn update_room(call: Call) -> Answer {
    let patch: RoomPatch = call.body()?;
    // null and nothing are two things in a merge patch (RFC 7396).
    let viewers_max = call.body.get("viewers_max").map(|_| patch.viewers_max);
    let record = match call.body.get("record") {
        Some(_) => Some(record_of(patch.record)?),
        None => None,
    };
    let (name, expected) = (call.part("room"), call.expected()?);
    let drafts = call.service.drafts_of_room("room.updated", name);
    let changed = call.service.store().change_room(name, expected, RoomChange { viewers_max, record }, drafts).await;
    match changed.map_err(Refusal::from)? {
        Changed::Done(row) => {
            let body = room_body(&call, name, Some(&row), &call.service.streams());
            Ok(Reply::json(200, &body).version(row.version))
        }
        Changed::OtherVersion(version) => Err(Problem::version_mismatch(version)),
        Changed::NotFound => Err(Problem::missing("room")),
    }
}

fn record_of(given: Option<String>) -> Result<Option<String>, Problem> {
    match given {
        Some(name) if Mode::from_name(&name).is_none() => Err(Problem::bad_request("record must be auto, manual or off")),
        given => Ok(given),
    }
}

pub async fn delete_room(call: Call) -> Answer {
    let drafts = call.service.drafts_of_room("room.deleted", call.part("room"));
    match call.service.store().delete_room(call.part("room"), drafts).await.map_err(Refusal::from)? {
        true => Ok(Reply::nothing()),
        false => Err(Problem::missing("room")),
    }
}

pub async fn end_room(call: Call) -> Answer {
    let name = call.part("room").to_owned();
    let is_declared = call.service.store().room(&name).await.map_err(Refusal::from)?.is_some();
    // A declared room that holds nobody is ended already.
    match call.service.end_room(&name).await || is_declared {
        true => Ok(Reply::json(200, &Ended { id: name, ended: true })),
        false => Err(Problem::missing("room")),
    }
}

fn room_body(call: &Call, name: &str, row: Option<&RoomRow>, streams: &[StreamView]) -> Room {
    let state = call.service.state(name);
    let stream = streams.iter().find(|stream| stream.room == name);
    Room {
        id: name.to_owned(),
        declared: row.is_some(),
        created_at: row.map(|row| rfc3339(row.created_ms)),
        viewers_max: row.and_then(|row| row.viewers_max),
        record: row.and_then(|row| row.record.clone()).unwrap_or_else(|| Mode::default().name().to_owned()),
        live: state.live,
        stream: stream.map(|stream| ids::stream(stream.id, stream.began_ms)),
        viewers: state.viewers as u64,
    }
}

// ---- streams ----

pub async fn streams(call: Call) -> Answer {
    let Wanted { after, count } = Wanted::of(&call)?;
    let room = call.query.get("room");
    let found = call.service.streams().into_iter().filter(|stream| {
        call.caller.sees(&stream.room) && room.is_none_or(|room| *room == stream.room)
    });
    let mut found: Vec<Stream> = found.map(|stream| stream_body(&call, &stream)).filter(|body| body.id > after).collect();
    found.sort_by(|left, right| left.id.cmp(&right.id));
    found.truncate(count + 1);
    Ok(Reply::json(200, &Page::new(found, count, |stream: &Stream| stream.id.clone())))
}

pub async fn stream(call: Call) -> Answer {
    let stream = stream_named(&call)?;
    Ok(Reply::json(200, &stream_body(&call, &stream)))
}

pub async fn end_stream(call: Call) -> Answer {
    let stream = stream_named(&call)?;
    match call.service.end_stream(stream.id).await {
        true => Ok(Reply::json(200, &Ended { id: ids::stream(stream.id, stream.began_ms), ended: true })),
        false => Err(Problem::missing("stream")),
    }
}

pub async fn request_keyframe(call: Call) -> Answer {
    // First: what an engine leaves behind is no stream that has ended.
    call.service.require_engine()?;
    let stream = stream_named(&call)?;
    let result = call.service.request_keyframe(&stream).await?;
    let id = ids::stream(stream.id, stream.began_ms);
    Ok(Reply::json(202, &KeyframeAnswer { id, result: result.to_owned() }))
}

/// The stream in the path; one of another room is not there for who may not see it.
fn stream_named(call: &Call) -> Result<StreamView, Problem> {
    let id = call.part("stream");
    let mut streams = call.service.streams().into_iter();
    let found = streams.find(|stream| ids::stream(stream.id, stream.began_ms) == id);
    found.filter(|stream| call.caller.sees(&stream.room)).ok_or_else(|| Problem::missing("stream"))
}

fn stream_body(call: &Call, stream: &StreamView) -> Stream {
    let tracks: Vec<Track> = stream.tracks.iter().map(|track| {
        let (rates, path) = (call.service.rates(track.id), call.service.path(track.id));
        Track {
            kind: if track.codec.kind() == Kind::Audio { "audio" } else { "video" }.to_owned(),
            codec: track.codec.sdp_name().to_owned(),
            live: track.live,
            bitrate_bps: rates.bitrate_bps,
            frames_per_second: rates.frames_per_second,
            loss_ratio: rates.loss_ratio,
            keyframe_interval_ms: rates.keyframe_interval_ms,
            jitter_ms: millis(path.jitter_us),
            round_trip_ms: path.round_trip_us.map(millis),
            packets_recovered: path.recovered,
            layers: 1,
        }
    }).collect();
    let warnings = call.service.warnings(stream);
    Stream {
        id: ids::stream(stream.id, stream.began_ms),
        room: stream.room.clone(),
        live: stream.live,
        started_at: rfc3339(stream.began_ms),
        publisher: stream.publisher.as_ref().map(|publisher| Publisher {
            sub: publisher.who.sub.clone(),
            account: publisher.who.account.clone(),
            connected: publisher.connected,
        }),
        viewers: stream.viewers as u64,
        recording: call.service.recorder.of_room(&stream.room),
        bitrate_bps: tracks.iter().map(|track| track.bitrate_bps).sum(),
        tracks,
        warnings: warnings.into_iter().map(|(code, detail)| Warning { code: code.to_owned(), detail }).collect(),
    }
}

// ---- viewers ----

pub async fn viewers(call: Call) -> Answer {
    let Wanted { after, count } = Wanted::of(&call)?;
    let after = match after.as_str() {
        "" => None,
        text => Some(ids::parse_viewer(text).ok_or_else(|| Problem::bad_request("after is no cursor of this list"))?),
    };
    let asked = call.path.get("room").or(call.query.get("room")).cloned();
    let room = match (&call.caller.scope, asked) {
        // Of another room it may see nobody.
        (Scope::Room(own), Some(asked)) if *own != asked => return Ok(Reply::json(200, &Page::<Viewer>::new(Vec::new(), count, |_| String::new()))),
        (Scope::Room(own), _) => Some(own.clone()),
        (_, asked) => asked,
    };
    let found = call.service.viewers(room.as_deref(), after, count + 1);
    let bodies = found.iter().map(|viewer| viewer_body(&call, viewer)).collect();
    Ok(Reply::json(200, &Page::new(bodies, count, |viewer: &Viewer| viewer.id.clone())))
}

pub async fn viewer(call: Call) -> Answer {
    Ok(Reply::json(200, &viewer_body(&call, &viewer_named(&call)?)))
}

pub async fn kick(call: Call) -> Answer {
    let how: Kick = call.body()?;
    let viewer = viewer_named(&call)?;
    match how.ban_seconds.unwrap_or(0) {
        0 => {}
        seconds @ 1..=BAN_SECONDS_MAX => call.service.ban(&viewer.room, &viewer.who.sub, seconds).await?,
        _ => return Err(Problem::bad_request(format!("ban_seconds must be from 0 to {BAN_SECONDS_MAX}"))),
    }
    match call.service.kick(viewer.id).await {
        true => Ok(Reply::json(200, &Ended { id: ids::viewer(viewer.id), ended: true })),
        false => Err(Problem::missing("viewer")),
    }
}

fn viewer_named(call: &Call) -> Result<SessionView, Problem> {
    let found = ids::parse_viewer(call.part("viewer")).and_then(|id| call.service.viewer(id));
    found.filter(|viewer| call.caller.sees(&viewer.room)).ok_or_else(|| Problem::missing("viewer"))
}

fn viewer_body(call: &Call, viewer: &SessionView) -> Viewer {
    let codecs = (0..=u8::MAX).map_while(|number| (usize::from(number) < Codec::COUNT).then_some(number));
    let codecs = codecs.filter_map(Codec::from_u8).filter(|codec| viewer.codecs.contains(*codec));
    Viewer {
        id: ids::viewer(viewer.id),
        room: viewer.room.clone(),
        sub: viewer.who.sub.clone(),
        account: viewer.who.account.clone(),
        joined_at: rfc3339(viewer.resource.at_ms()),
        connected: viewer.connected,
        protocol: "whep".to_owned(),
        codecs: codecs.map(|codec| codec.sdp_name().to_owned()).collect(),
        quality: call.service.quality(viewer.session).map(|quality| quality_body(&quality)),
    }
}

fn quality_body(quality: &crate::service::Quality) -> Quality {
    let step = |at: Option<Time>| at.map(|at| millis(at.since(quality.added_at).as_micros() as u64));
    // The link's clock is the monotonic one.
    let (now, now_ms) = (monotonic_now(), now_ms());
    let reception = |of: crate::service::Reception| Reception {
        loss_ratio: rounded(f64::from(of.fraction_lost) / 256.0),
        packets_lost: of.lost,
        jitter_ms: millis(of.jitter_us),
        reported_at: rfc3339(now_ms.saturating_sub(now.since(of.reported_at).as_millis() as u64)),
    };
    Quality {
        join: Join {
            checked_ms: step(quality.checked_at),
            connected_ms: step(quality.connected_at),
            first_packet_ms: step(quality.packet_at),
            first_picture_ms: step(quality.picture_at),
        },
        packets_sent: quality.packets,
        bytes_sent: quality.octets,
        round_trip_ms: quality.round_trip_us.map(millis),
        round_trip_min_ms: quality.round_trip_us_min.map(millis),
        video: quality.video.map(reception),
        audio: quality.audio.map(reception),
        packets_nacked: quality.nacked,
        packets_resent: quality.resent,
        keyframe_requests: quality.keyframe_requests,
        replays_restarted: quality.replays_restarted,
        freezes_estimated: quality.freezes,
        frozen_ms_estimated: millis(quality.frozen_us),
    }
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

/// A ratio with as many places as say something.
fn rounded(ratio: f64) -> f64 {
    (ratio * 10_000.0).round() / 10_000.0
}

// ---- tokens ----

pub async fn create_token(call: Call) -> Answer {
    let new: NewToken = call.body()?;
    if !auth::is_room_name(&new.room) {
        return Err(Problem::bad_request("room: a room's name is 1 to 64 characters of A-Z a-z 0-9 _ -"));
    }
    if !call.caller.sees(&new.room) {
        let token = match &call.caller.scope {
            Scope::Room(own) => own.clone(),
            _ => String::new(),
        };
        return Err(AuthError::WrongRoom { token, asked: new.room }.into());
    }
    let role = match new.role.parse() {
        Ok(role @ (Role::Publish | Role::View | Role::Admin)) => role,
        _ => return Err(Problem::bad_request("role must be publish, view or admin")),
    };
    let ttl = new.ttl_seconds.unwrap_or(TTL_SECONDS_DEFAULT);
    if !(1..=TTL_SECONDS_MAX).contains(&ttl) {
        return Err(Problem::bad_request(format!("ttl_seconds must be from 1 to {TTL_SECONDS_MAX}")));
    }
    let now = auth::unix_now();
    // Who has ten minutes left gives away ten minutes.
    let ttl = ttl.min(call.caller.expiry.saturating_sub(now));
    let sub = match new.sub {
        Some(sub) => plain("sub", sub, NAME_CHARS_MAX)?,
        None => ids::fresh(role.name(), now_ms()).ok_or_else(Problem::no_randomness)?,
    };
    let account = match (&call.caller.scope, new.account) {
        (Scope::Node, Some(account)) => plain("account", account, NAME_CHARS_MAX)?,
        // A room's token pays itself.
        (_, None) => call.caller.account.clone(),
        (_, Some(account)) if account == call.caller.account => account,
        _ => return Err(Problem::bad_request("account: only an API key may name another account than its own")),
    };
    let acct = (!account.is_empty()).then_some(account);
    let grant = Grant { room: new.room.clone(), role, sub: sub.clone(), acct, ttl: Duration::from_secs(ttl) };
    let token = auth::mint_at(&call.service.key, grant, now);
    let (base, room) = (&call.base, &new.room);
    let publishes = |url: String| role.may_publish().then_some(url);
    let views = |url: String| role.may_view().then_some(url);
    let urls = TokenUrls {
        whip: publishes(format!("{base}/whip/{room}")),
        whep: views(format!("{base}/whep/{room}")),
        publish: publishes(format!("{base}/publish/{room}#token={token}")),
        watch: views(format!("{base}/watch/{room}#token={token}")),
    };
    let expires_at = rfc3339((now + ttl).saturating_mul(1_000));
    let body = Token { token, room: new.room.clone(), role: role.name().to_owned(), sub, expires_at, urls };
    Ok(Reply::json(201, &body))
}

// ---- keys ----

pub async fn keys(call: Call) -> Answer {
    let Wanted { after, count } = Wanted::of(&call)?;
    let rows = call.service.store().keys_after(&after, count + 1).await.map_err(Refusal::from)?;
    Ok(Reply::json(200, &Page::new(rows.iter().map(key_body).collect(), count, |key: &Key| key.id.clone())))
}

pub async fn create_key(call: Call) -> Answer {
    let new: NewKey = call.body()?;
    let role = KeyRole::from_name(&new.role).ok_or_else(|| Problem::bad_request("role must be admin, read or stream"))?;
    match (role, &new.room) {
        (KeyRole::Stream, Some(room)) if auth::is_room_name(room) => {}
        (KeyRole::Stream, _) => return Err(Problem::bad_request("room: a stream key is of one room, name it")),
        (_, None) => {}
        (_, Some(_)) => return Err(Problem::bad_request("room: only a stream key is of one room")),
    }
    let now = now_ms();
    let id = ids::fresh("key", now).ok_or_else(Problem::no_randomness)?;
    let (secret, hash) = KeyText::fresh(&id).ok_or_else(Problem::no_randomness)?;
    let row = KeyRow {
        id,
        role: role.name().to_owned(),
        name: plain("name", new.name.unwrap_or_default(), NAME_CHARS_MAX)?,
        room: new.room,
        account: match new.account {
            Some(account) => plain("account", account, NAME_CHARS_MAX)?,
            None => call.caller.account.clone(),
        },
        hash,
        former_hash: None,
        former_until_ms: 0,
        created_ms: now,
        rotated_ms: now,
    };
    let reply = Reply::json(201, &with_secret(&row, secret)).with(header::LOCATION, format!("/v1/keys/{}", row.id));
    let (reply, record) = call.record(reply);
    call.service.store().create_key(row, record).await.map_err(Refusal::from)?;
    Ok(reply)
}

pub async fn key(call: Call) -> Answer {
    Ok(Reply::json(200, &key_body(&key_named(&call).await?)))
}

pub async fn revoke_key(call: Call) -> Answer {
    match call.service.store().revoke_key(call.part("key")).await.map_err(Refusal::from)? {
        true => Ok(Reply::nothing()),
        false => Err(Problem::missing("key")),
    }
}

pub async fn rotate_key(call: Call) -> Answer {
    let rotation: Rotation = call.body()?;
    let grace = rotation.grace_seconds.unwrap_or(0);
    if grace > GRACE_SECONDS_MAX {
        return Err(Problem::bad_request(format!("grace_seconds must be from 0 to {GRACE_SECONDS_MAX}")));
    }
    let row = key_named(&call).await?;
    let (secret, hash) = KeyText::fresh(&row.id).ok_or_else(Problem::no_randomness)?;
    let now_ms = now_ms();
    let rotated = Rotated { hash, now_ms, former_until_ms: if grace == 0 { 0 } else { now_ms + grace * 1_000 } };
    let id = row.id.clone();
    let reply = Reply::json(200, &with_secret(&KeyRow { rotated_ms: now_ms, ..row }, secret));
    let (reply, record) = call.record(reply);
    let done = call.service.store().rotate_key(&id, rotated, record).await.map_err(Refusal::from)?;
    done.map(|_| reply).ok_or_else(|| Problem::missing("key"))
}

async fn key_named(call: &Call) -> Result<KeyRow, Problem> {
    let found = call.service.store().key(call.part("key")).await.map_err(Refusal::from)?;
    found.ok_or_else(|| Problem::missing("key"))
}

fn key_body(row: &KeyRow) -> Key {
    Key {
        id: row.id.clone(),
        role: row.role.clone(),
        name: row.name.clone(),
        room: row.room.clone(),
        account: row.account.clone(),
        created_at: rfc3339(row.created_ms),
        rotated_at: rfc3339(row.rotated_ms),
    }
}

fn with_secret(row: &KeyRow, secret: String) -> KeyWithSecret {
    let Key { id, role, name, room, account, created_at, rotated_at } = key_body(row);
    KeyWithSecret { id, role, name, room, account, created_at, rotated_at, secret }
}

// ---- limits, node ----

pub async fn limits(call: Call) -> Answer {
    let applied = call.service.limits();
    Ok(limits_reply(&call, applied))
}

pub async fn update_limits(call: Call) -> Answer {
    let patch: LimitsPatch = call.body()?;
    let all = [
        ("publishers_max", patch.publishers_max),
        ("publishers_per_account_max", patch.publishers_per_account_max),
        ("viewers_max", patch.viewers_max),
        ("viewers_per_room_max", patch.viewers_per_room_max),
        ("viewers_per_account_max", patch.viewers_per_account_max),
        ("joins_per_second_max", patch.joins_per_second_max),
        ("egress_mbps_max", patch.egress_mbps_max),
        ("busy_percent_max", patch.busy_percent_max),
    ];
    // null and nothing are two things in a merge patch (RFC 7396).
    let named = all.into_iter().filter(|(name, _)| call.body.get(name).is_some());
    let changes: BTreeMap<String, Option<u32>> = named.map(|(name, value)| (name.to_owned(), value)).collect();
    match call.service.change_limits(call.expected()?, changes).await? {
        Changed::Done(applied) => Ok(limits_reply(&call, applied)),
        Changed::OtherVersion(version) => Err(Problem::version_mismatch(version)),
        Changed::NotFound => Err(Problem::not_found()),
    }
}

fn limits_reply(call: &Call, applied: Applied) -> Reply {
    let LimitsInForce {
        publishers_max,
        publishers_per_account_max,
        viewers_max,
        viewers_per_room_max,
        viewers_per_account_max,
        joins_per_second_max,
        egress_mbps_max,
        busy_percent_max,
    } = applied.limits;
    let body = Limits {
        publishers_max,
        publishers_per_account_max,
        viewers_max,
        viewers_per_room_max,
        viewers_per_account_max,
        joins_per_second_max,
        egress_mbps_max,
        busy_percent_max,
        set_here: applied.set.into_keys().collect(),
        used: usage_body(call.service.usage(None)),
    };
    Reply::json(200, &body).version(applied.version)
}

pub async fn usage(call: Call) -> Answer {
    Ok(Reply::json(200, &usage_body(call.service.usage(Some(call.part("account"))))))
}

fn usage_body(usage: crate::policy::rooms::Usage) -> Usage {
    Usage { publishers: usage.publishers as u64, viewers: usage.viewers as u64, egress_bps: usage.egress_bps }
}

pub async fn node(call: Call) -> Answer {
    let facts = call.service.node();
    let body = Node {
        id: facts.id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: rfc3339(facts.began_ms),
        uptime_seconds: call.service.uptime().as_secs(),
        engine: facts.engine.map(str::to_owned),
        shards: facts
            .shards
            .iter()
            .map(|shard| Shard { sessions: shard.sessions, packets_sent: shard.packets_sent, busy_ratio: rounded(shard.busy) })
            .collect(),
        candidates: facts.candidates,
        streams: facts.streams as u64,
        used: usage_body(facts.usage),
        capacity: Capacity {
            limited_by: facts.capacity.limited_by.to_owned(),
            viewers_left: facts.capacity.viewers_left,
            busy_ratio_max: facts.capacity.busy_max,
        },
        egress_bps: facts.egress_bps,
        memory_bytes: process::node().memory_bytes,
    };
    Ok(Reply::json(200, &body))
}

pub async fn health(call: Call) -> Answer {
    let used = process::node();
    let is_ready = call.service.is_ready();
    let body = Health {
        status: if is_ready { "ok" } else { "unavailable" }.to_owned(),
        activeStreams: call.service.streams().iter().filter(|stream| stream.live).count() as u64,
        memory: HealthMemory { used: used.memory_bytes / MB, total: process::machine_memory_bytes() / MB },
        cpu: HealthCpu { user: used.user_micros, system: used.system_micros },
        uptime: call.service.uptime().as_secs_f64(),
    };
    Ok(Reply::json(if is_ready { 200 } else { 503 }, &body))
}

// ---- words ----

/// Text that ends up in tokens, headers and log lines.
fn plain(field: &str, text: String, chars_max: usize) -> Result<String, Problem> {
    match text.chars().count() <= chars_max && !text.chars().any(char::is_control) {
        true => Ok(text),
        false => Err(Problem::bad_request(format!("{field}: up to {chars_max} characters, none of them a control character"))),
    }
}

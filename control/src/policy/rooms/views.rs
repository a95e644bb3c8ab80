//! What the API is told of rooms: streams and sessions as they are now, as plain values.

use super::{Rooms, Who, is_live};
use crate::policy::{CodecSet, PublicId, ResourceId};
use spillway_proto::id::{Codec, SessionId, Side, StreamId, TrackId};
use spillway_proto::limits::SESSIONS_MAX;
use std::ops::Bound;

/// A stream as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamView {
    pub id: StreamId,
    pub room: String,
    pub live: bool,
    /// Unix milliseconds.
    pub began_ms: u64,
    pub publisher: Option<SessionView>,
    pub viewers: usize,
    pub tracks: Vec<TrackView>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrackView {
    pub id: TrackId,
    pub codec: Codec,
    pub live: bool,
}

/// A publisher or viewer as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionView {
    pub id: PublicId,
    pub resource: ResourceId,
    /// The engine's name for it.
    pub session: SessionId,
    pub side: Side,
    pub room: String,
    pub who: Who,
    pub connected: bool,
    /// What it can show.
    pub codecs: CodecSet,
}

/// What is there now of an account, or of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    pub publishers: usize,
    pub viewers: usize,
    /// What viewers are promised.
    pub egress_bps: u64,
}

/// What the node can still do, and what ends it.
#[derive(Clone, PartialEq, Debug)]
pub struct CapacityView {
    /// What ends first: shards, egress, viewers or sessions.
    pub limited_by: &'static str,
    /// How many more viewers of a middling stream that is; None while there is no stream to judge by.
    pub viewers_left: Option<u64>,
    /// By shard, smoothed, 0 to 1.
    pub busy: Vec<f64>,
    pub busy_max: f64,
}

impl Rooms {
    /// What a viewer gets on average: of those that are there, else of the streams there are.
    pub(super) fn mean_bitrate_bps(&self) -> u64 {
        let of = |weight: fn(usize) -> u64| {
            let streams = self.rooms.values().filter_map(|room| Some((room.stream.as_ref()?.bitrate_bps, weight(room.viewers.len()))));
            let (sum, count) = streams.fold((0u64, 0u64), |(sum, count), (bitrate, weight)| {
                (sum.saturating_add(bitrate.saturating_mul(weight)), count + weight)
            });
            sum.checked_div(count)
        };
        of(|viewers| viewers as u64).filter(|mean| *mean > 0).or_else(|| of(|_| 1)).unwrap_or(0)
    }

    pub fn capacity(&self) -> CapacityView {
        let (gate, usage, loads) = (&self.gate, self.usage(None), self.loads());
        let (bitrate, busy_max) = (self.mean_bitrate_bps(), gate.busy_max());
        let mut left = vec![("sessions", SESSIONS_MAX.saturating_sub(usage.publishers + usage.viewers) as u64)];
        if gate.limits.viewers_max > 0 {
            left.push(("viewers", u64::from(gate.limits.viewers_max).saturating_sub(usage.viewers as u64)));
        }
        if gate.limits.egress_mbps_max > 0 && bitrate > 0 {
            let room = u64::from(gate.limits.egress_mbps_max) * 1_000_000;
            left.push(("egress", room.saturating_sub(gate.egress_bps.max(usage.egress_bps)) / bitrate));
        }
        // Without a limit of ours a shard is full when it never sleeps.
        let max = if busy_max > 0.0 { busy_max } else { 1.0 };
        left.push(("shards", gate.capacity.viewers_left(&loads, max, bitrate)));
        let (limited_by, viewers_left) = left.into_iter().min_by_key(|(_, left)| *left).unwrap_or(("sessions", 0));
        CapacityView {
            limited_by,
            viewers_left: (bitrate > 0).then_some(viewers_left),
            busy: (0..loads.len()).map(|shard| gate.capacity.busy(shard)).collect(),
            busy_max,
        }
    }

    /// Every stream, oldest first.
    pub fn streams(&self) -> Vec<StreamView> {
        let mut streams: Vec<StreamView> = self.rooms.values().filter_map(|room| {
            let stream = room.stream.as_ref()?;
            Some(StreamView {
                id: stream.id,
                room: room.name.clone(),
                live: is_live(stream, &self.sessions),
                began_ms: stream.began_ms,
                publisher: stream.publisher.and_then(|resource| self.session_view(resource)),
                viewers: room.viewers.len(),
                tracks: stream.tracks.iter().map(|t| TrackView { id: t.id, codec: t.codec, live: t.live }).collect(),
            })
        }).collect();
        streams.sort_by_key(|stream| stream.id.generation);
        streams
    }

    /// Rooms that hold something, by name.
    pub fn live_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.names.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// At most `count` viewers that came after `after`, oldest first; of one room or of all.
    pub fn viewers(&self, room: Option<&str>, after: Option<PublicId>, count: usize) -> Vec<SessionView> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let number = room.map(|room| self.names.get(room).copied());
        self.by_public
            .range((from, Bound::Unbounded))
            .filter(|(_, resource)| {
                self.sessions.get(*resource).is_some_and(|session| {
                    let here = number.is_none_or(|number| number == Some(session.note.room));
                    here && session.note.side == Side::Viewer && !session.id.is_none()
                })
            })
            .filter_map(|(_, resource)| self.session_view(*resource))
            .take(count)
            .collect()
    }

    /// The session of a public name, if it is one of `side`.
    pub fn by_public(&self, id: PublicId, side: Side) -> Option<SessionView> {
        self.session_view(*self.by_public.get(&id)?).filter(|session| session.side == side)
    }

    /// Of an account, or of all.
    pub fn usage(&self, account: Option<&str>) -> Usage {
        let mut usage = Usage::default();
        for session in self.sessions.values().filter(|s| account.is_none_or(|account| s.who.account == account)) {
            match session.note.side {
                Side::Publisher => usage.publishers += 1,
                Side::Viewer => {
                    usage.viewers += 1;
                    let stream = self.rooms.get(&session.note.room).and_then(|room| room.stream.as_ref());
                    usage.egress_bps = usage.egress_bps.saturating_add(stream.map_or(0, |stream| stream.bitrate_bps));
                }
            }
        }
        usage
    }

    fn session_view(&self, resource: ResourceId) -> Option<SessionView> {
        let session = self.sessions.get(&resource)?;
        Some(SessionView {
            id: session.public,
            resource,
            session: session.id,
            side: session.note.side,
            room: self.rooms.get(&session.note.room)?.name.clone(),
            who: session.who.clone(),
            connected: session.connected,
            codecs: session.note.codecs,
        })
    }
}

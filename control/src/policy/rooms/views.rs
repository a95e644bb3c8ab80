//! What the API is told of rooms: streams and sessions as they are now, as plain values.

use super::{Rooms, Who, is_live};
use crate::policy::{CodecSet, PublicId, ResourceId};
use spillway_proto::id::{Codec, Side, StreamId, TrackId};
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

impl Rooms {
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
            side: session.note.side,
            room: self.rooms.get(&session.note.room)?.name.clone(),
            who: session.who.clone(),
            connected: session.connected,
            codecs: session.note.codecs,
        })
    }
}

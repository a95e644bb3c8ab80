//! What others are told that happened: each beginning and each end once, also over a rebuild. A control that was only
//! just started takes what it finds for told: its predecessor told it.

use super::{Rooms, Session, Who, is_live};
use crate::policy::{PublicId, ResourceId};
use spillway_proto::id::{Side, StreamId};
use spillway_proto::link::event::CloseReason;
use std::collections::HashMap;

/// Something that happened to a stream or a viewer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happening {
    StreamStarted { stream: StreamId, began_ms: u64, room: String },
    StreamEnded { stream: StreamId, began_ms: u64, room: String },
    ViewerJoined { viewer: PublicId, room: String, who: Who },
    /// Of one that had joined.
    ViewerLeft { viewer: PublicId, room: String, who: Who, reason: &'static str },
    /// A join was granted, and no connection came of it.
    NeverConnected {
        resource: ResourceId,
        protocol: &'static str,
        room: String,
        who: Who,
        code: &'static str,
        detail: &'static str,
    },
}

/// What was told of those who are there.
#[derive(Debug, Default)]
pub struct Told {
    streams: HashMap<StreamId, (u64, String)>,
    viewers: HashMap<PublicId, (String, Who)>,
}

/// As `viewer.left` has it.
pub fn word_of(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::RemoteClosed => "left",
        CloseReason::ConsentExpired => "timeout",
        // We removed it, and said why when we did.
        CloseReason::Removed => "ended",
        CloseReason::NeverConnected | CloseReason::HandshakeFailed | CloseReason::FingerprintMismatch => "failed",
    }
}

impl Rooms {
    /// What happened since the last call.
    pub fn take_happened(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.happened)
    }

    /// A viewer's handshake may be complete.
    pub(super) fn tell_viewer(&mut self, resource: ResourceId) {
        let Some(session) = self.sessions.get_mut(&resource) else { return };
        let is_new = session.note.side == Side::Viewer && session.connected && !session.is_told;
        let Some(room) = self.rooms.get(&session.note.room).filter(|_| is_new) else { return };
        session.is_told = true;
        let (viewer, room, who) = (session.public, room.name.clone(), session.who.clone());
        self.happened.push(Happening::ViewerJoined { viewer, room, who });
    }

    /// A room's stream may have become live.
    pub(super) fn tell_stream(&mut self, number: u32) {
        let Some(room) = self.rooms.get_mut(&number) else { return };
        let Some(stream) = room.stream.as_mut().filter(|stream| !stream.is_told && is_live(stream, &self.sessions)) else {
            return;
        };
        stream.is_told = true;
        let (stream, began_ms, room) = (stream.id, stream.began_ms, room.name.clone());
        self.happened.push(Happening::StreamStarted { stream, began_ms, room });
    }

    pub(super) fn tell_leave(&mut self, session: &Session, reason: &'static str) {
        let Some(room) = self.rooms.get(&session.note.room).filter(|_| session.is_told) else { return };
        let (viewer, room, who) = (session.public, room.name.clone(), session.who.clone());
        self.happened.push(Happening::ViewerLeft { viewer, room, who, reason });
    }

    /// A session that was granted has ended before it was one.
    pub(super) fn tell_failure(&mut self, resource: ResourceId, reason: CloseReason) {
        let (code, detail) = match reason {
            CloseReason::NeverConnected => {
                ("never_connected", "no check from the client reached the media port, or no answer reached the client: look at the \
                                     UDP port, the candidates in the answer, and what is between")
            }
            CloseReason::HandshakeFailed => ("handshake_failed", "checks came through, the DTLS handshake failed"),
            CloseReason::FingerprintMismatch => {
                ("fingerprint_mismatch", "the certificate is another than the offer named: somebody is in between, or the client is broken")
            }
            CloseReason::RemoteClosed | CloseReason::ConsentExpired | CloseReason::Removed => return,
        };
        let Some(session) = self.sessions.get(&resource).filter(|session| !session.connected) else { return };
        let Some(room) = self.rooms.get(&session.note.room) else { return };
        let protocol = if session.note.side == Side::Viewer { "whep" } else { "whip" };
        let (room, who) = (room.name.clone(), session.who.clone());
        self.happened.push(Happening::NeverConnected { resource, protocol, room, who, code, detail });
    }

    /// What stands told now, before everything is made anew.
    pub(super) fn told(&self) -> Told {
        let streams = self.rooms.values().filter_map(|room| {
            let stream = room.stream.as_ref().filter(|stream| stream.is_told)?;
            Some((stream.id, (stream.began_ms, room.name.clone())))
        });
        let viewers = self.sessions.values().filter(|session| session.is_told).filter_map(|session| {
            Some((session.public, (self.rooms.get(&session.note.room)?.name.clone(), session.who.clone())))
        });
        Told { streams: streams.collect(), viewers: viewers.collect() }
    }

    /// After everything was made anew: who is new, and who is gone.
    pub(super) fn tell_difference(&mut self, mut before: Told, reason: &'static str) {
        let is_first = !self.was_built;
        for room in self.rooms.values_mut() {
            let Some(stream) = room.stream.as_mut() else { continue };
            stream.is_told = before.streams.remove(&stream.id).is_some() || is_first && is_live(stream, &self.sessions);
        }
        for session in self.sessions.values_mut().filter(|session| session.note.side == Side::Viewer) {
            session.is_told = before.viewers.remove(&session.public).is_some() || is_first && session.connected;
        }
        for (viewer, (room, who)) in before.viewers {
            self.happened.push(Happening::ViewerLeft { viewer, room, who, reason });
        }
        for (stream, (began_ms, room)) in before.streams {
            self.happened.push(Happening::StreamEnded { stream, began_ms, room });
        }
        let numbers: Vec<u32> = self.rooms.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.tell_stream(number));
        let viewers: Vec<ResourceId> = self.sessions.keys().copied().collect();
        viewers.into_iter().for_each(|resource| self.tell_viewer(resource));
    }
}

//! Commands from control, executed at the start of a tick, each answered in its own slot.
//!
//! Control is untrusted input: the ring has decoded every field, here every name is looked up with its
//! generation, and every table has a bound of its own.

use super::Core;
use super::session::Session;
use spillway_proto::id::{SessionId, Side};
use spillway_proto::link::command::{Answer, Command, DtlsRole, DumpEntry, Fingerprint, SessionState, Status};
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::event::CloseReason;
use spillway_proto::link::command::dump_fits;
use spillway_proto::link::ring::{CommandReader, Received};

/// A dump's cursor names the table in its upper two bits and the next index in the rest.
const TABLE_SHIFT: u32 = 30;
const SESSIONS: u32 = 0;
const TRACKS: u32 = 1;
const FEEDS: u32 = 2;
/// Slots one dump command looks at: its time is bounded however empty the tables are.
const DUMP_SLOTS_MAX: usize = 4_096;

impl Core {
    /// True if there was any.
    pub fn execute_commands(&mut self, commands: &mut CommandReader, max: usize) -> bool {
        let epoch = self.shared.epoch;
        for n in 0..max {
            let Some(received) = commands.next(epoch) else { return n > 0 };
            let command = match received {
                Received::Command(command) => command,
                // The ring has answered it already.
                Received::Refused(_) => {
                    self.tally.add(CounterId::CommandsRefused, 1);
                    self.told_control = true;
                    continue;
                }
            };
            let (status, answer) = match self.execute(command) {
                Ok(answer) => (Status::Done, answer),
                Err(status) => (status, Answer::Nothing),
            };
            commands.answer(status, &answer);
            self.tally.add(CounterId::Commands, 1);
            self.told_control = true;
        }
        true
    }

    fn execute(&mut self, command: Command) -> Result<Answer, Status> {
        match command {
            Command::AddSession { side, dtls_role, ufrag_random, pwd, fingerprint, note } => {
                let session = self.add_session(side, dtls_role, fingerprint)?;
                if let Some(record) = self.table.session(session.index) {
                    (record.ufrag_random, record.pwd, record.note) = (ufrag_random, pwd, note);
                }
                Ok(Answer::Session { session })
            }
            Command::AddViewer { dtls_role, ufrag_random, pwd, fingerprint, note, feeds } => {
                let session = self.add_session(Side::Viewer, dtls_role, fingerprint)?;
                if let Some(record) = self.table.session(session.index) {
                    (record.ufrag_random, record.pwd, record.note) = (ufrag_random, pwd, note);
                }
                let mut ssrcs = Vec::with_capacity(feeds.len());
                for (track, facts) in &feeds {
                    match self.attach_feed(session.index, *track, facts) {
                        Ok(Answer::Feed { ssrc, rtx_ssrc, .. }) => ssrcs.push((ssrc, rtx_ssrc)),
                        refused => {
                            // Nobody knows of it yet: control takes the event of a session it never had for nothing.
                            self.close_session(session.index, CloseReason::Removed);
                            return Err(refused.err().unwrap_or(Status::Invalid));
                        }
                    }
                }
                Ok(Answer::Viewer { session, ssrcs })
            }
            Command::RemoveSession { session } => {
                let slot = self.own_session(session)?;
                self.close_session(slot, CloseReason::Removed);
                Ok(Answer::Nothing)
            }
            Command::AttachTrack { session, stream, track, facts, note } => {
                let slot = self.own_session(session)?;
                self.attach_track(slot, stream, track, &facts, &note)
            }
            Command::DetachTrack { track } => self.detach_track(track),
            Command::AttachFeed { session, track, facts } => {
                let slot = self.own_session(session)?;
                self.attach_feed(slot, track, &facts)
            }
            Command::SetParameterSets { track, sets } => self.set_parameter_sets(track, sets),
            Command::DetachFeed { feed } => self.detach_feed(feed),
            Command::SelectLayer { feed, layer } => {
                let record = self.table.feed(feed.index).filter(|record| record.id(feed.index) == feed);
                let record = record.ok_or(Status::NotFound)?;
                if layer != 0 {
                    return Err(Status::Invalid);
                }
                record.layer = layer;
                Ok(Answer::Nothing)
            }
            Command::RequestKeyframe { track } => self.request_keyframe(track),
            Command::Dump { cursor } => Ok(self.dump(cursor)),
        }
    }

    fn add_session(&mut self, side: Side, dtls_role: DtlsRole, fingerprint: Fingerprint) -> Result<SessionId, Status> {
        let now = self.now;
        let (id, record) = self.table.add_session().ok_or(Status::Full)?;
        record.side = side as u8;
        record.state = SessionState::New as u8;
        record.dtls_role = dtls_role as u8;
        record.fingerprint = fingerprint.0;
        record.added_at = now.as_nanos();
        self.sessions[id.index as usize] = Some(Box::new(Session::new(id, side, now)));
        self.begin_quality(id);
        self.timers.add(id.index, now);
        self.tally_sessions(side, 1);
        Ok(id)
    }

    fn own_session(&mut self, id: SessionId) -> Result<u32, Status> {
        match self.shared.owners.of_session(id.index) {
            None => Err(Status::Invalid),
            Some(owner) if owner != self.index => Err(Status::WrongShard),
            Some(_) => match self.session_mut(id.index) {
                Some(session) if session.id == id => Ok(id.index),
                _ => Err(Status::NotFound),
            },
        }
    }

    /// What is: sessions, then tracks, then feeds, as many as one answer holds.
    fn dump(&mut self, cursor: u32) -> Answer {
        let (mut table, mut at) = (cursor >> TABLE_SHIFT, cursor & ((1 << TABLE_SHIFT) - 1));
        let mut entries = Vec::new();
        let mut looked = 0;
        while table <= FEEDS {
            while let Some(entry) = self.dump_entry(table, &mut at, &mut looked) {
                if !dump_fits(&entries, &entry) {
                    return Answer::Dump { next: Some(table << TABLE_SHIFT | at), entries };
                }
                entries.push(entry);
                at += 1;
            }
            if looked >= DUMP_SLOTS_MAX {
                return Answer::Dump { next: Some(table << TABLE_SHIFT | at), entries };
            }
            (table, at) = (table + 1, 0);
        }
        Answer::Dump { next: None, entries }
    }

    /// The first entry of a table at or after `at`, which is moved to it.
    fn dump_entry(&mut self, table: u32, at: &mut u32, looked: &mut usize) -> Option<DumpEntry> {
        match table {
            SESSIONS => loop {
                if *looked >= DUMP_SLOTS_MAX {
                    return None;
                }
                let slot = *at;
                let session = self.sessions.get(slot as usize)?;
                // Not before it is one: to read a record is to make its page, and all of them are a hundred megabytes.
                if let Some(session) = session
                    && let Some(record) = self.table.session(slot)
                {
                    let state = match record.state {
                        state if state == SessionState::Connected as u8 => SessionState::Connected,
                        state if state == SessionState::Handshake as u8 => SessionState::Handshake,
                        _ => SessionState::New,
                    };
                    return Some(DumpEntry::Session { session: session.id, side: session.side, state, note: record.note });
                }
                *at += 1;
                *looked += 1;
            },
            TRACKS => {
                let index = self.track_ids(*at).next()?;
                *at = index;
                let track = self.tracks.get(index)?;
                let (id, stream, codec, slot) = (track.id, track.stream, track.codec, track.session);
                let session = self.session_mut(slot).map_or(SessionId::NONE, |session| session.id);
                let note = self.table.track(index)?.note;
                Some(DumpEntry::Track { track: id, stream, session, codec, note })
            }
            _ => loop {
                // Feeds are found by their sessions: `at` is slot * 32 + number.
                if *looked >= DUMP_SLOTS_MAX {
                    return None;
                }
                let (slot, number) = (*at / FEEDS_STEP, *at % FEEDS_STEP);
                let feed = self.sessions.get(slot as usize)?.as_ref().and_then(|s| s.feeds.get(number as usize));
                let found = feed.map(|feed| feed.slot);
                if let Some(record) = found.and_then(|found| self.table.feed(found)) {
                    let feed = record.id(found.unwrap_or_default());
                    let track = spillway_proto::id::TrackId::new(record.track, record.track_generation);
                    let session = self.sessions.get(slot as usize)?.as_ref().map(|session| session.id)?;
                    return Some(DumpEntry::Feed { feed, session, track });
                }
                *at = (slot + 1) * FEEDS_STEP;
                *looked += 1;
            },
        }
    }
}

const FEEDS_STEP: u32 = spillway_proto::limits::FEEDS_PER_SESSION_MAX as u32;
const _: () = assert!((spillway_proto::limits::SESSIONS_MAX as u64) * (FEEDS_STEP as u64) < 1 << TABLE_SHIFT);

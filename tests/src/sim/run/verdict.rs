//! What must be true: of the accounts while the run goes on, of feeds and pictures at its end.

use super::{Report, Run};
use crate::sim::person::Person;
use crate::sim::violation::{Invariant, Violation};
use spillway_engine::shard::world::BEGIN;
use spillway_proto::id::Side;
use spillway_proto::limits::DECODABLE_WITHIN;
use spillway_proto::link::counters::CounterId;

impl Run {
    /// (f), and (e) where control is at rest.
    pub(super) fn audit(&mut self) -> Result<(), Violation> {
        let now = self.now;
        let audit = self.world.audit();
        let stalled = self.stalled_until.iter().any(|until| *until > now);
        let counter = |id| self.world.counter(id) as usize;
        let mut pairs = vec![
            ("slabs in reels and waiting", audit.slabs_in_reels + audit.slabs_waiting, "slabs the files hold", audit.slabs_held),
            ("slabs the files hold", audit.slabs_held, "slabs taken from the pool", audit.slabs_taken),
            ("feeds of sessions", audit.feeds, "feed records in use", audit.feed_records),
            ("sessions", audit.publishers + audit.viewers, "sessions the timers visit", audit.visited),
        ];
        if !stalled {
            pairs.extend([
                ("publishers", audit.publishers, "their counter", counter(CounterId::SessionsPublisher)),
                ("viewers", audit.viewers, "their counter", counter(CounterId::SessionsViewer)),
                ("connected sessions", audit.connected, "their counter", counter(CounterId::SessionsConnected)),
                ("feeds", audit.feeds, "their counter", counter(CounterId::Feeds)),
                ("tracks", audit.tracks, "their counter", counter(CounterId::Tracks)),
            ]);
        }
        for (what, count, other, expected) in pairs {
            if count != expected {
                let text = format!("{count} {what}, but {other}: {expected}");
                return Err(Violation::new(Invariant::Accounting, now, text));
            }
        }
        let accounted = audit.slab_bytes_accounted() + self.world.reel_overhead();
        if audit.bytes_allocated > accounted {
            let text = format!("{} bytes of the reels' files are allocated, {accounted} accounted", audit.bytes_allocated);
            return Err(Violation::new(Invariant::Accounting, now, text));
        }
        if !stalled && self.control.is_settled() {
            let known = self.control.viewers();
            if known != audit.viewers_connected {
                let text = format!("{} viewers are connected, control knows of {known}", audit.viewers_connected);
                return Err(Violation::new(Invariant::Accounting, now, text));
            }
            if let Some(room) = self.control.room_of_two() {
                let text = format!("room {room} has two publishers, and nothing is under way that ends one");
                return Err(Violation::new(Invariant::OnePublisher, now, text));
            }
        }
        Ok(())
    }

    /// The end: (b) over whole feeds, (g) for everybody who is in. Returns what the run was.
    pub fn finish(&mut self) -> Result<Report, Violation> {
        let mesh_lost = self.world.counter(CounterId::MeshDropped) > 0;
        for remote in &self.remotes {
            for feed in &remote.feeds {
                feed.check(&remote.name(), &self.studio, self.slack, mesh_lost)?;
            }
        }
        self.check_pictures()?;
        let mut report = Report {
            digest: self.digest,
            virtual_ms: self.now.since(BEGIN).as_millis() as u64,
            datagrams: self.network.carried,
            lost: self.network.lost,
            media: self.media,
            sessions: self.sessions,
            recovered: self.world.counter(CounterId::PacketsRecovered),
            resent: self.resent,
            rebuilds: self.control.rebuilds,
            strays: self.world.counter(CounterId::StrayDatagrams),
            ..Report::default()
        };
        for reception in self.remotes.iter().flat_map(|remote| &remote.receptions) {
            report.frames += reception.frames;
            report.repaired += reception.repaired;
        }
        Ok(report)
    }

    /// Who is where, for the text of a violation.
    fn publishers_of(&self, room: u32) -> String {
        let publishers = self.people.iter().enumerate().filter(|(_, person)| person.side == Side::Publisher && person.room == room);
        let words = publishers.map(|(number, person)| {
            let state = match person.remote.map(|at| &self.remotes[at]) {
                Some(remote) => format!("in since {:?}, connected {:?}", remote.admitted_at, remote.connected_at),
                None => format!("out, post {:?}", person.post),
            };
            format!("publisher {number} wants {} sub {}: {state}", person.wants, person.sub)
        });
        words.collect::<Vec<_>>().join("; ")
    }

    /// (g): a frame captured after the faults was complete, at the latest `DECODABLE_WITHIN` after them.
    fn check_pictures(&self) -> Result<(), Violation> {
        for (number, person) in self.people.iter().enumerate() {
            let since = person.since.max(self.calm_at);
            let until = since + DECODABLE_WITHIN;
            if !person.wants || person.side != Side::Viewer || until > self.now {
                continue;
            }
            let fault = |text: String| Err(Violation::new(Invariant::Picture, until, format!("viewer {number}: {text}")));
            let publishes = |other: &Person| other.side == Side::Publisher && other.room == person.room && other.wants;
            if !self.people.iter().any(publishes) {
                continue;
            }
            let Some(remote) = person.remote.map(|at| &self.remotes[at]) else {
                return fault(format!(
                    "not in {DECODABLE_WITHIN:?} after the faults ({:?}); {}",
                    self.control.refusals,
                    self.publishers_of(person.room)
                ));
            };
            let video = remote.feeds.iter().position(|feed| feed.video);
            let decoded = video.and_then(|feed| remote.receptions[feed].decoded);
            let fresh = decoded.is_some_and(|(captured_at, complete_at)| captured_at >= since && complete_at >= since);
            if !fresh {
                let packets = video.map_or(0, |feed| remote.receptions[feed].packets);
                return fault(format!(
                    "no decodable frame within {DECODABLE_WITHIN:?} after the faults (ended {:?}): the newest was \
                     {decoded:?}, {packets} packets, connected {:?}, {}; {}",
                    self.calm_at,
                    remote.connected_at,
                    remote.name(),
                    self.publishers_of(person.room)
                ));
            }
        }
        Ok(())
    }
}

//! Recordings: which there are to be, what each is to read, and when it is over. Pure.
//!
//! ```text
//!   (none) --publisher attached (auto), or asked for--> recording
//!   recording --publisher gone--> waiting --any publisher of the room--> recording
//!   waiting --so long--> finishing        recording, waiting --stopped, stream ended--> finishing
//!   finishing --its files are final--> (none)
//! ```
//!
//! A recording is of a room: a takeover, a reconnect, another engine go on in it, with a gap. A room has at most one
//! that is not finishing.

use super::Refusal;
use spillway_proto::id::StreamId;
use spillway_proto::limits::{FINISHING_MAX, RECORDINGS_MAX};
use spillway_proto::time::Time;
use std::collections::BTreeMap;

/// A room's setting `record`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Each publisher is recorded from its first keyframe on.
    Auto,
    /// What is asked for is recorded.
    #[default]
    Manual,
    /// Nothing is, whoever asks.
    Off,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Auto, Mode::Manual, Mode::Off];

    pub const fn name(self) -> &'static str {
        match self {
            Mode::Auto => "auto",
            Mode::Manual => "manual",
            Mode::Off => "off",
        }
    }
    pub fn from_name(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Recording,
    /// Its publisher is away.
    Waiting { since_ms: u64 },
    /// Its files are made final.
    Finishing,
}

impl Phase {
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Recording => "recording",
            Phase::Waiting { .. } => "waiting",
            Phase::Finishing => "finishing",
        }
    }
}

/// Why a recording is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// By the API.
    Stopped,
    StreamEnded,
    PublisherGone,
    NodeRestarted,
    /// Its directory was found, and nobody knew of it.
    Found,
    /// Nothing more of it can be written.
    Failed,
}

impl Reason {
    pub const ALL: [Reason; 6] =
        [Reason::Stopped, Reason::StreamEnded, Reason::PublisherGone, Reason::NodeRestarted, Reason::Found, Reason::Failed];

    pub const fn name(self) -> &'static str {
        match self {
            Reason::Stopped => "stopped",
            Reason::StreamEnded => "stream_ended",
            Reason::PublisherGone => "publisher_gone",
            Reason::NodeRestarted => "node_restarted",
            Reason::Found => "found",
            Reason::Failed => "failed",
        }
    }
    pub fn from_name(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// What a recorder reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    pub stream: StreamId,
    /// What arrived before is not of this stream.
    pub since: Time,
}

/// A recording that is not final.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    pub id: String,
    pub room: String,
    pub phase: Phase,
    /// None: there is no stream just now, and nothing to read.
    pub source: Option<Source>,
    pub reason: Option<Reason>,
}

/// A room's stream as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamFact {
    pub room: String,
    pub source: Source,
    pub has_publisher: bool,
}

/// What one recorder is to do: read a source, or (None) make files final.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Want {
    pub id: String,
    pub source: Option<Source>,
}

#[derive(Clone, Debug, Default)]
pub struct Recordings {
    open: BTreeMap<String, Open>,
    pub reconnect_ms: u64,
}

impl Recordings {
    /// One that the store knows, or whose directory was found.
    pub fn restore(&mut self, open: Open) {
        self.open.insert(open.id.clone(), open);
    }

    pub fn open(&self, id: &str) -> Option<&Open> {
        self.open.get(id)
    }

    pub fn all(&self) -> impl Iterator<Item = &Open> {
        self.open.values()
    }

    /// The one that runs in a room; one that is finishing does not.
    pub fn of_room(&self, room: &str) -> Option<&Open> {
        self.open.values().find(|open| open.room == room && open.phase != Phase::Finishing)
    }

    pub fn active(&self) -> usize {
        self.open.values().filter(|open| open.phase != Phase::Finishing).count()
    }

    /// Streams have come, gone or changed, or time has passed. Gives the ids of those that are another now.
    pub fn observe(&mut self, now_ms: u64, facts: &[StreamFact]) -> Vec<String> {
        let mut changed = Vec::new();
        for open in self.open.values_mut().filter(|open| open.phase != Phase::Finishing) {
            let before = (open.phase, open.source);
            let fact = facts.iter().find(|fact| fact.room == open.room);
            // Of a stream that is kept for its viewers the reel stays: its recorder may go on looking at it.
            open.source = fact.map(|fact| fact.source);
            open.phase = match (open.phase, fact.is_some_and(|fact| fact.has_publisher)) {
                (_, true) => Phase::Recording,
                (Phase::Waiting { since_ms }, false) => Phase::Waiting { since_ms },
                (_, false) => Phase::Waiting { since_ms: now_ms },
            };
            if let Phase::Waiting { since_ms } = open.phase
                && now_ms.saturating_sub(since_ms) >= self.reconnect_ms
            {
                (open.phase, open.reason) = (Phase::Finishing, Some(Reason::PublisherGone));
            }
            if before != (open.phase, open.source) {
                changed.push(open.id.clone());
            }
        }
        changed
    }

    /// Rooms somebody publishes in and nothing is recorded.
    pub fn unrecorded<'a>(&self, facts: &'a [StreamFact]) -> Vec<&'a StreamFact> {
        facts.iter().filter(|fact| fact.has_publisher && self.of_room(&fact.room).is_none()).collect()
    }

    pub fn start(&mut self, id: String, room: &str, mode: Mode, fact: Option<&StreamFact>) -> Result<Open, Refusal> {
        if mode == Mode::Off {
            return Err(Refusal::RecordingOff);
        }
        if let Some(open) = self.of_room(room) {
            return Err(Refusal::RecordingRuns { id: open.id.clone() });
        }
        let Some(fact) = fact.filter(|fact| fact.has_publisher) else { return Err(Refusal::StreamNotLive) };
        if self.active() >= RECORDINGS_MAX {
            return Err(Refusal::NodeFull("recorders"));
        }
        let source = Some(fact.source);
        let open = Open { id: id.clone(), room: room.to_owned(), phase: Phase::Recording, source, reason: None };
        self.open.insert(id, open.clone());
        Ok(open)
    }

    /// False: it is none that runs.
    pub fn stop(&mut self, id: &str, reason: Reason) -> bool {
        let Some(open) = self.open.get_mut(id).filter(|open| open.phase != Phase::Finishing) else { return false };
        (open.phase, open.reason) = (Phase::Finishing, Some(reason));
        true
    }

    /// Its files are final, or it has none.
    pub fn close(&mut self, id: &str) {
        self.open.remove(id);
    }

    /// The whole list: all that record, and a few that are made final, oldest first.
    pub fn wants(&self) -> Vec<Want> {
        let recording = self.open.values().filter(|open| open.phase != Phase::Finishing);
        let finishing = self.open.values().filter(|open| open.phase == Phase::Finishing).take(FINISHING_MAX);
        let want = |open: &Open, source| Want { id: open.id.clone(), source };
        let recording = recording.filter_map(|open| Some(want(open, Some(open.source?))));
        recording.take(RECORDINGS_MAX).chain(finishing.map(|open| want(open, None))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(index: u32) -> Source {
        Source { stream: StreamId::new(index, 1), since: Time(u64::from(index) * 100) }
    }

    fn fact(room: &str, index: u32, has_publisher: bool) -> StreamFact {
        StreamFact { room: room.into(), source: source(index), has_publisher }
    }

    fn recordings() -> Recordings {
        Recordings { reconnect_ms: 15_000, ..Recordings::default() }
    }

    fn started(recordings: &mut Recordings, id: &str, room: &str) {
        recordings.start(id.into(), room, Mode::Manual, Some(&fact(room, 3, true))).unwrap();
    }

    fn want(id: &str, source: Option<Source>) -> Want {
        Want { id: id.into(), source }
    }

    #[test]
    fn one_recording_goes_on_through_takeover_reconnect_and_another_engine() {
        let mut all = recordings();
        started(&mut all, "a", "demo");
        assert_eq!(all.wants(), [want("a", Some(source(3)))]);
        // A takeover: the same stream, another publisher.
        assert!(all.observe(1_000, &[fact("demo", 3, true)]).is_empty());
        // Its publisher is away and its viewers keep the stream: the recorder goes on looking at the reel.
        assert_eq!(all.observe(2_000, &[fact("demo", 3, false)]), ["a"]);
        assert_eq!((all.open("a").unwrap().phase, all.wants().len()), (Phase::Waiting { since_ms: 2_000 }, 1));
        assert_eq!(all.observe(3_000, &[fact("demo", 3, true)]), ["a"]);
        // The engine is gone with every stream: nothing to read.
        assert_eq!(all.observe(4_000, &[]), ["a"]);
        assert!(all.wants().is_empty());
        assert!(all.observe(5_000, &[]).is_empty(), "nothing new");
        // Another stream of the same room.
        assert_eq!(all.observe(18_999, &[fact("demo", 9, true), fact("other", 8, true)]), ["a"]);
        assert_eq!(all.wants(), [want("a", Some(source(9)))]);
    }

    #[test]
    fn who_does_not_come_back_in_time_is_not_waited_for() {
        let mut all = recordings();
        started(&mut all, "a", "demo");
        all.observe(1_000, &[]);
        assert!(all.observe(15_999, &[]).is_empty());
        assert_eq!(all.observe(16_000, &[]), ["a"]);
        let open = all.open("a").unwrap().clone();
        assert_eq!((open.phase, open.reason), (Phase::Finishing, Some(Reason::PublisherGone)));
        assert_eq!(all.wants(), [want("a", None)]);
        // Too late: that one is over, and another may begin.
        assert!(all.observe(16_001, &[fact("demo", 4, true)]).is_empty());
        assert_eq!(all.unrecorded(&[fact("demo", 4, true)]).len(), 1);
        started(&mut all, "b", "demo");
        all.close("a");
        assert_eq!(all.wants(), [want("b", Some(source(3)))]);
        // Nobody is waited for.
        let mut none = Recordings::default();
        started(&mut none, "a", "demo");
        none.observe(1_000, &[fact("demo", 3, false)]);
        assert_eq!(none.wants(), [want("a", None)]);
    }

    #[test]
    fn refusals_say_why() {
        let mut all = recordings();
        let live = fact("demo", 3, true);
        assert_eq!(all.start("a".into(), "demo", Mode::Off, Some(&live)), Err(Refusal::RecordingOff));
        assert_eq!(all.start("a".into(), "demo", Mode::Auto, None), Err(Refusal::StreamNotLive));
        assert_eq!(all.start("a".into(), "demo", Mode::Auto, Some(&fact("demo", 3, false))), Err(Refusal::StreamNotLive));
        started(&mut all, "a", "demo");
        let runs = Refusal::RecordingRuns { id: "a".into() };
        assert!(runs.to_string().contains("(a)"), "{runs}");
        assert_eq!(all.start("b".into(), "demo", Mode::Manual, Some(&live)), Err(runs));
        for number in 1..RECORDINGS_MAX {
            started(&mut all, &format!("n{number}"), &format!("room{number}"));
        }
        assert_eq!(all.start("z".into(), "z", Mode::Manual, Some(&fact("z", 5, true))), Err(Refusal::NodeFull("recorders")));
        assert!(all.stop("n1", Reason::Stopped));
        started(&mut all, "z", "z");
    }

    #[test]
    fn what_is_stopped_is_finished_at_once_and_few_at_a_time() {
        let mut all = recordings();
        for number in 0..2 * FINISHING_MAX {
            started(&mut all, &format!("n{number}"), &format!("room{number}"));
        }
        started(&mut all, "x", "demo");
        for number in 0..2 * FINISHING_MAX {
            assert!(all.stop(&format!("n{number}"), Reason::StreamEnded));
            assert!(!all.stop(&format!("n{number}"), Reason::Stopped), "once");
        }
        assert_eq!(all.open("n0").unwrap().reason, Some(Reason::StreamEnded));
        let wants = all.wants();
        assert_eq!(wants.iter().filter(|want| want.source.is_none()).count(), FINISHING_MAX);
        assert!(wants.contains(&want("x", Some(source(3)))));
        all.close("n0");
        assert!(all.wants().contains(&want(&format!("n{FINISHING_MAX}"), None)), "the next one's turn");
        assert!(!all.stop("nobody", Reason::Stopped));
        assert_eq!(all.active(), 1);
    }

    #[test]
    fn words_come_back() {
        assert!(Mode::ALL.into_iter().all(|mode| Mode::from_name(mode.name()) == Some(mode)));
        assert!(Reason::ALL.into_iter().all(|reason| Reason::from_name(reason.name()) == Some(reason)));
        assert_eq!(Mode::from_name("always"), None);
    }
}

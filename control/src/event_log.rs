//! What happened on this node, for `GET /v1/events`: the last events in memory, each with an id, so that who was away
//! for a while hears what he missed, or that he missed something.
//!
//! An event that tells of something the store was told is drafted first, written beside it (`store::outbox`), and told
//! once that is on the disk: a control that is killed in between leaves it to the next.
//!
//! Owns the ring. Knows no HTTP, and decides nothing: `policy` says what happened.

use crate::ids;
use aws_lc_rs::rand;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A join storm's worth; some 300 bytes each.
const EVENTS_MAX: usize = 10_000;

/// Every type there is, with what it means. README.md has the same table, and a test compares them.
pub const TYPES: &[(&str, &str)] = &[
    ("stream.started", "a publisher is connected and its first packets came"),
    ("stream.ended", "the stream is over: its publisher and its viewers are gone"),
    ("stream.warning", "viewers will notice something that the publisher can put right; `code`, `detail`"),
    ("viewer.joined", "a viewer's handshake is complete"),
    ("viewer.left", "a viewer that had joined is gone; `reason`: left, timeout, kicked, ended, failed, engine or unknown"),
    ("recording.started", "the first pictures of a recording stand on the disk; `file`, `codecs`"),
    ("recording.segment", "a file of a recording is final; `file`, `path` below recording.dir, `size`, `sha256`, `duration_ms`"),
    ("recording.gap", "time without media was marked in a recording; `file`, `at_ms`, `length_ms`, `reason`: publisher_away, loss, behind, disk_full or restart"),
    ("recording.stopped", "a recording is finished; `duration_ms`, `size`, `files`, `reason`: stopped, stream_ended, publisher_gone, node_restarted, found or failed"),
    ("recording.failed", "something keeps a recording from being written; `code`, `detail`, which says whether it goes on"),
    ("room.created", "a room was declared"),
    ("room.updated", "a declared room's settings were changed"),
    ("room.deleted", "a room's declaration was taken back"),
    ("webhook.disabled", "a webhook was disabled: nothing was taken for a day, or its receiver answered 410; `reason`"),
    ("webhook.test", "you asked for it; it goes to that webhook alone"),
    ("node.started", "control was started; what happened before is not told again, but for what the one before had written down and nobody was told of"),
    ("node.engine_ready", "there is an engine, and control knows its state"),
    ("node.engine_lost", "the engine is gone, and all media with it"),
    ("events.missed", "what came since the event you named is not kept any more: look at the lists, then go on"),
];

#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Sorts by age.
    pub id: String,
    pub kind: &'static str,
    pub room: Option<String>,
    /// The whole event as JSON.
    pub json: String,
    /// It stands in the store until its deliveries do.
    pub is_kept: bool,
}

/// By name, as everything that `serde_json` sorts; a map made for each of a join's events costs more than the text.
#[derive(serde::Serialize)]
struct EventJson<'a> {
    data: &'a Value,
    id: &'a str,
    room: Option<&'a str>,
    time: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
}

impl Event {
    fn new(id: String, kind: &'static str, room: Option<String>, at_ms: u64, data: &Value) -> Event {
        let time = crate::ids::rfc3339(at_ms);
        // Strings, and what is JSON already, always become JSON.
        let json = serde_json::to_string(&EventJson { data, id: &id, room: room.as_deref(), time: &time, kind });
        let json = json.unwrap_or_default();
        Event { id, kind, room, json, is_kept: false }
    }

    /// As the store has it; None: of a type that only another build knows.
    pub fn kept(id: String, kind: &str, room: Option<String>, json: String) -> Option<Event> {
        let kind = TYPES.iter().map(|(name, _)| *name).find(|name| *name == kind)?;
        Some(Event { id, kind, room, json, is_kept: true })
    }

    /// As server-sent events have it.
    pub fn text(&self) -> String {
        // JSON text has no line breaks of its own.
        format!("id: {}\nevent: {}\ndata: {}\n\n", self.id, self.kind, self.json)
    }
}

pub struct EventLog {
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
}

struct Ring {
    /// The number of the next event; the first has 1.
    next: u64,
    /// Ids that were given, also to drafts.
    ids: u64,
    events: VecDeque<Arc<Event>>,
    /// Of this control alone, so that an id of another is none of ours.
    boot: [u8; 4],
}

impl Ring {
    fn oldest(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    fn id(&mut self, at_ms: u64) -> String {
        let mut bytes = [0; 16];
        let time = at_ms.to_be_bytes();
        self.ids += 1;
        let number = self.ids.to_be_bytes();
        let all = time.iter().skip(2).chain(&self.boot).chain(number.iter().skip(2));
        bytes.iter_mut().zip(all).for_each(|(byte, other)| *byte = *other);
        format!("ev_{}", ids::encode(bytes))
    }
}

impl Default for EventLog {
    fn default() -> EventLog {
        let mut boot = [0; 4];
        // Zeros name events badly, and hinder nothing.
        let _ = rand::fill(&mut boot);
        EventLog { ring: Mutex::new(Ring { next: 1, ids: 0, events: VecDeque::new(), boot }), newest: watch::channel(0).0 }
    }
}

impl EventLog {
    pub fn push(&self, kind: &'static str, room: Option<String>, at_ms: u64, data: &Value) {
        let id = self.lock().id(at_ms);
        self.tell(Event::new(id, kind, room, at_ms, data));
    }

    /// An event that nobody is told of yet: for the store, which tells it once it is on the disk.
    pub fn draft(&self, kind: &'static str, room: Option<String>, at_ms: u64, data: &Value) -> Event {
        let id = self.lock().id(at_ms);
        Event { is_kept: true, ..Event::new(id, kind, room, at_ms, data) }
    }

    pub fn tell(&self, event: Event) {
        let mut ring = self.lock();
        ring.events.push_back(Arc::new(event));
        if ring.events.len() > EVENTS_MAX {
            ring.events.pop_front();
        }
        let number = ring.next;
        ring.next += 1;
        drop(ring);
        // Two that push at once may tell in the wrong order: the larger number counts.
        self.newest.send_if_modified(|newest| {
            let is_newer = number > *newest;
            *newest = number.max(*newest);
            is_newer
        });
    }

    /// Where somebody stands who heard the event of this id last; None: everything is new to him from now on. The
    /// second value: what he missed is not kept any more.
    pub fn cursor(&self, last: Option<&str>) -> (u64, bool) {
        let ring = self.lock();
        let Some(last) = last else { return (ring.next, false) };
        match ring.events.iter().position(|event| event.id == last) {
            Some(at) => (ring.oldest() + at as u64 + 1, false),
            None => (ring.oldest(), true),
        }
    }

    /// At most `count` events from `cursor` on, where to go on, and whether some were missed in between.
    pub fn from(&self, cursor: u64, count: usize) -> (Vec<Arc<Event>>, u64, bool) {
        let ring = self.lock();
        let begin = cursor.max(ring.oldest());
        let skip = usize::try_from(begin - ring.oldest()).unwrap_or(usize::MAX);
        let events: Vec<Arc<Event>> = ring.events.iter().skip(skip).take(count).cloned().collect();
        let next = begin + events.len() as u64;
        (events, next, begin > cursor)
    }

    /// Tells whenever there is something new.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// What is told of a gap.
    pub fn missed(at_ms: u64, newest: &str) -> Event {
        Event::new(newest.to_owned(), "events.missed", None, at_ms, &json!({}))
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(count: usize) -> EventLog {
        let log = EventLog::default();
        (0..count).for_each(|number| log.push("viewer.joined", Some("demo".into()), 1_000 + number as u64, &json!({ "n": number })));
        log
    }

    fn numbers(events: &[Arc<Event>]) -> Vec<u64> {
        events.iter().map(|event| serde_json::from_str::<Value>(&event.json).unwrap()["data"]["n"].as_u64().unwrap()).collect()
    }

    #[test]
    fn who_was_away_hears_what_he_missed_and_nothing_twice() {
        let log = log(5);
        let (all, next, missed) = log.from(1, 99);
        assert_eq!((numbers(&all), next, missed), (vec![0, 1, 2, 3, 4], 6, false));
        assert!(all.is_sorted_by_key(|event| event.id.clone()));
        let (cursor, missed) = log.cursor(Some(&all[2].id));
        assert_eq!((numbers(&log.from(cursor, 99).0), missed), (vec![3, 4], false));
        let (now, _) = log.cursor(None);
        assert!(log.from(now, 99).0.is_empty());
        assert_eq!(numbers(&log.from(1, 2).0), [0, 1]);
    }

    #[test]
    fn who_was_away_too_long_is_told_so() {
        let log = log(EVENTS_MAX + 10);
        let (first, next, missed) = log.from(1, 1);
        assert_eq!((numbers(&first), next, missed), (vec![10], 12, true));
        // An id of another control, or none at all.
        for id in ["ev_00000000000000000000000000", "x", ""] {
            assert_eq!(log.cursor(Some(id)), (11, true), "{id}");
        }
    }

    #[test]
    fn readme_names_every_type() {
        let readme = include_str!("../README.md");
        for (kind, meaning) in TYPES {
            let row = format!("| `{kind}` | {meaning} |");
            assert!(readme.lines().any(|line| line == row), "README.md lacks:\n{row}");
        }
    }
}

//! Lines of the log, from what a process says to what is printed: text for a terminal, a JSON object per line for a
//! service manager or a file; the same line again within ten seconds is counted, not printed.
//!
//! A child says more than words by a line that is a JSON object itself, with `message`; the supervisor alone prints.

use crate::ids::rfc3339;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the same line is only counted.
pub const FOLD: Duration = Duration::from_secs(10);
/// Different lines that are remembered.
const LINES_MAX: usize = 64;

static IS_JSON: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// From now on this process prints JSON.
pub fn print_json() {
    IS_JSON.store(true, Ordering::Relaxed);
}

pub fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// What a child tells the supervisor: a message with facts, as one line on its standard error.
pub fn tell(level: Level, message: &str, facts: &[(&str, &str)]) {
    let mut line = Map::new();
    line.insert("level".to_owned(), level.name().into());
    line.insert("message".to_owned(), message.into());
    let facts = facts.iter().filter(|(_, value)| !value.is_empty());
    line.extend(facts.map(|(name, value)| ((*name).to_owned(), Value::from(*value))));
    complain(Value::Object(line));
}

/// A line on standard error. `eprintln!` panics where nobody takes it (a file on a full disk, or one that may not grow), which is
/// no reason to end.
pub fn complain(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A child's line: its level, its message, its facts. What is no JSON of ours is a message.
pub fn read(line: &str) -> (Level, String, Map<String, Value>) {
    let told = line.starts_with('{').then(|| serde_json::from_str::<Map<String, Value>>(line).ok()).flatten();
    let Some(mut facts) = told.filter(|facts| facts.get("message").is_some_and(Value::is_string)) else {
        return (Level::Info, line.to_owned(), Map::new());
    };
    let level = match facts.remove("level").as_ref().and_then(Value::as_str) {
        Some("warn") => Level::Warn,
        Some("error") => Level::Error,
        _ => Level::Info,
    };
    let message = facts.remove("message").and_then(|message| message.as_str().map(str::to_owned)).unwrap_or_default();
    (level, message, facts)
}

/// `{"time":...,"level":...,"process":...,"message":...,"room":...}`
pub fn json_line(at_ms: u64, level: Level, process: &str, message: &str, facts: &Map<String, Value>) -> String {
    let mut line = json!({ "time": rfc3339(at_ms), "level": level.name(), "process": process, "message": message });
    if let Some(line) = line.as_object_mut() {
        // What a child says of itself takes the place of nothing that is ours.
        line.extend(facts.iter().filter(|(name, _)| !["time", "level", "process", "message"].contains(&name.as_str())).map(|(name, value)| (name.clone(), value.clone())));
    }
    line.to_string()
}

/// For a terminal: the message, then its facts.
pub fn text_line(message: &str, facts: &Map<String, Value>) -> String {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let facts: Vec<String> = facts.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
    if facts.is_empty() { message.to_owned() } else { format!("{message}  {}", facts.join(" ")) }
}

/// Lines that were just printed.
#[derive(Debug, Default)]
pub struct Folder {
    lines: VecDeque<Folded>,
}

#[derive(Debug)]
struct Folded {
    text: String,
    until: Instant,
    again: u64,
}

impl Folder {
    /// Whether a line is to be printed: it was not within the last ten seconds.
    pub fn is_news(&mut self, text: &str, now: Instant) -> bool {
        if let Some(line) = self.lines.iter_mut().find(|line| line.text == text && now < line.until) {
            line.again += 1;
            return false;
        }
        if self.lines.len() < LINES_MAX {
            self.lines.push_back(Folded { text: text.to_owned(), until: now + FOLD, again: 0 });
        }
        true
    }

    /// The lines whose time is over, with how often they came again.
    pub fn settle(&mut self, now: Instant) -> Vec<(String, u64)> {
        let mut settled = Vec::new();
        self.lines.retain(|line| {
            if now >= line.until && line.again > 0 {
                settled.push((line.text.clone(), line.again));
            }
            now < line.until
        });
        settled
    }

    /// When `settle` has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.lines.iter().filter(|line| line.again > 0).map(|line| line.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_line_is_printed_once_and_counted() {
        let (mut folder, now) = (Folder::default(), Instant::now());
        assert!(folder.is_news("disk full", now));
        assert!((0..999).all(|_| !folder.is_news("disk full", now + FOLD / 2)));
        assert!(folder.is_news("something else", now + FOLD / 2));
        assert_eq!((folder.deadline(), folder.settle(now + FOLD / 2)), (Some(now + FOLD), vec![]));
        assert_eq!(folder.settle(now + FOLD), [("disk full".to_owned(), 999)]);
        assert!(folder.is_news("disk full", now + FOLD), "after its time it is news again");
        assert_eq!(folder.deadline(), None);
    }

    #[test]
    fn different_lines_are_all_printed_and_few_are_remembered() {
        let (mut folder, now) = (Folder::default(), Instant::now());
        assert!((0..1_000).all(|number| folder.is_news(&format!("line {number}"), now)));
        assert_eq!(folder.lines.len(), LINES_MAX);
        folder.settle(now + FOLD);
        assert!(folder.lines.is_empty());
    }

    #[test]
    fn a_childs_facts_come_through_and_forge_nothing() {
        let (level, message, facts) = read(r#"{"level":"warn","message":"refused","room":"demo","request_id":"01","process":"supervisor","time":"x"}"#);
        assert_eq!((level, message.as_str()), (Level::Warn, "refused"));
        let line: Value = serde_json::from_str(&json_line(0, level, "control", &message, &facts)).unwrap();
        assert_eq!(line, json!({ "time": "1970-01-01T00:00:00.000Z", "level": "warn", "process": "control", "message": "refused", "room": "demo", "request_id": "01" }));
        assert_eq!(text_line("refused", &read(r#"{"message":"x","room":"demo","n":3}"#).2), "refused  n=3 room=demo");
        for odd in ["plain words", "{broken", r#"{"no":"message"}"#, r#"{"message":3}"#, ""] {
            assert_eq!(read(odd), (Level::Info, odd.to_owned(), Map::new()));
        }
    }
}

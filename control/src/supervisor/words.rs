//! What a child says: its ready line, its lines as they are complete, its last ones.
//!
//! Bytes in, text out; touches no process and no descriptor.

use std::collections::VecDeque;
use std::time::Duration;

/// What a child tells when it is ready: `ready io=uring gso=64 why=the rest of the line`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ready {
    /// The engine's backend; control has none.
    pub io: String,
    pub gso: u32,
    /// Why this backend was taken.
    pub why: String,
    pub after: Duration,
}

impl Ready {
    pub fn parse(line: &str) -> Option<Ready> {
        let rest = line.strip_prefix("ready")?;
        if !rest.is_empty() && !rest.starts_with(' ') {
            return None;
        }
        let (facts, why) = match rest.split_once("why=") {
            Some((facts, why)) => (facts, why),
            None => (rest, ""),
        };
        let fact =
            |key: &str| facts.split_whitespace().filter_map(|fact| fact.split_once('=')).find(|(name, _)| *name == key);
        Some(Ready {
            io: fact("io").map_or("", |(_, value)| value).to_owned(),
            gso: fact("gso").and_then(|(_, value)| value.parse().ok()).unwrap_or(0),
            why: why.trim().to_owned(),
            after: Duration::ZERO,
        })
    }
}

/// A line longer than this is cut.
const LINE_BYTES_MAX: usize = 4_096;

/// Bytes as they come, lines as they are complete.
#[derive(Default)]
pub struct Lines(VecDeque<u8>);

impl Lines {
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }
    pub fn pop(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == b'\n');
        match end {
            Some(end) if end <= LINE_BYTES_MAX => {
                let line = self.text(end);
                self.0.pop_front();
                Some(line)
            }
            _ if self.0.len() >= LINE_BYTES_MAX => Some(self.text(LINE_BYTES_MAX)),
            _ => None,
        }
    }
    pub fn take_rest(&mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.text(self.0.len()))
    }
    fn text(&mut self, length: usize) -> String {
        let bytes: Vec<u8> = self.0.drain(..length).collect();
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }
}

const LAST_WORDS_MAX: usize = 12;

/// The last lines of a child, kept for the moment it turns out that it cannot start.
#[derive(Default)]
pub struct LastWords {
    lines: VecDeque<String>,
    told: VecDeque<String>,
}

impl LastWords {
    pub fn push(&mut self, line: String) {
        if self.lines.len() == LAST_WORDS_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
    /// A new process begins: what the one before it said is not its own.
    pub fn clear(&mut self) {
        self.lines.clear();
    }
    pub fn is_new(&self) -> bool {
        !self.lines.is_empty() && self.lines != self.told
    }
    pub fn take(&mut self) -> Vec<String> {
        self.told = std::mem::take(&mut self.lines);
        self.told.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_lines() {
        assert_eq!(Ready::parse("ready"), Some(Ready::default()));
        assert_eq!(
            Ready::parse("ready io=socket gso=0 why=io_uring is off: why=x").unwrap().why,
            "io_uring is off: why=x"
        );
        assert_eq!(Ready::parse("already"), None);
        assert_eq!(Ready::parse("readyish"), None);
        assert_eq!(Ready::parse("cannot pin"), None);
    }

    #[test]
    fn the_same_last_words_are_no_news() {
        let mut words = LastWords::default();
        for is_new in [true, false] {
            words.clear();
            words.push("no memory".into());
            assert_eq!(words.is_new(), is_new);
            if is_new {
                assert_eq!(words.take(), ["no memory"]);
            }
        }
        words.push("no luck".into());
        assert!(words.is_new());
    }

    #[test]
    fn lines_are_whole_and_bounded() {
        let mut lines = Lines::default();
        lines.push(b"one\ntw");
        assert_eq!(lines.pop().as_deref(), Some("one"));
        assert_eq!(lines.pop(), None);
        lines.push(b"o\n");
        assert_eq!(lines.pop().as_deref(), Some("two"));
        lines.push(&[b'x'; 3 * LINE_BYTES_MAX]);
        assert_eq!(lines.pop().map(|line| line.len()), Some(LINE_BYTES_MAX));
    }
}

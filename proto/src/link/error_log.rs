//! The distinct error log: the same error once, with how often, and when first and last.
//!
//! One writer, the shard it belongs to; anybody with the link reads. An entry's text is written once and
//! then published by its hash, so that a reader never sees half a text and a writer killed in between
//! leaves a free entry. Texts name kinds of errors, not addresses: what differs each time fills the log.

use super::ring::Word;
use crate::limits::ERRORS_MAX;
use crate::time::Time;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longer texts are cut.
pub const ERROR_TEXT_BYTES: usize = 160;

/// The error log of one shard; all zeros is an empty one.
#[repr(C, align(128))]
pub struct ErrorLog {
    /// Errors that found no free entry.
    beyond: AtomicU64,
    reserved: [AtomicU64; 15],
    entries: [ErrorEntry; ERRORS_MAX],
}

#[repr(C)]
struct ErrorEntry {
    /// 0: free.
    hash: AtomicU64,
    count: AtomicU64,
    first_ns: AtomicU64,
    last_ns: AtomicU64,
    text_length: AtomicU64,
    text: [AtomicU64; ERROR_TEXT_BYTES / 8],
}

/// An entry as a reader gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorSeen {
    pub count: u64,
    pub first: Time,
    pub last: Time,
    pub text: String,
}

impl ErrorLog {
    /// Counts `text`, and keeps it if it is new. Only by the log's own shard.
    pub fn note(&self, now: Time, text: &str) {
        let text = &text.as_bytes()[..text.floor_char_boundary(ERROR_TEXT_BYTES)];
        let hash = hash_of(text);
        for entry in &self.entries {
            match entry.hash.load(Ordering::Relaxed) {
                0 => return entry.publish(now, hash, text),
                found if found == hash => {
                    entry.last_ns.store(now.as_nanos(), Ordering::Relaxed);
                    increment(&entry.count);
                    return;
                }
                _ => {}
            }
        }
        increment(&self.beyond);
    }

    /// The distinct errors so far, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = ErrorSeen> + '_ {
        self.entries.iter().take_while(|entry| entry.hash.load(Ordering::Acquire) != 0).map(ErrorEntry::read)
    }

    /// How many errors found the log full.
    pub fn beyond(&self) -> u64 {
        self.beyond.load(Ordering::Relaxed)
    }
}

impl ErrorEntry {
    fn publish(&self, now: Time, hash: u64, text: &[u8]) {
        for (word, chunk) in self.text.iter().zip(text.chunks(8)) {
            let mut eight = [0; 8];
            eight[..chunk.len()].copy_from_slice(chunk);
            Word::store(word, u64::from_le_bytes(eight), Ordering::Relaxed);
        }
        self.text_length.store(text.len() as u64, Ordering::Relaxed);
        self.first_ns.store(now.as_nanos(), Ordering::Relaxed);
        self.last_ns.store(now.as_nanos(), Ordering::Relaxed);
        self.count.store(1, Ordering::Relaxed);
        self.hash.store(hash, Ordering::Release);
    }

    fn read(&self) -> ErrorSeen {
        let mut text = [0; ERROR_TEXT_BYTES];
        for (word, chunk) in self.text.iter().zip(text.chunks_mut(8)) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[..chunk.len()]);
        }
        let length = usize::try_from(self.text_length.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        ErrorSeen {
            count: self.count.load(Ordering::Relaxed),
            first: Time(self.first_ns.load(Ordering::Relaxed)),
            last: Time(self.last_ns.load(Ordering::Relaxed)),
            text: String::from_utf8_lossy(&text[..length.min(ERROR_TEXT_BYTES)]).into_owned(),
        }
    }
}

/// One writer: no locked instruction is needed.
fn increment(word: &AtomicU64) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// FNV-1a, never 0. The texts are our own, so nobody looks for collisions.
fn hash_of(text: &[u8]) -> u64 {
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Box<ErrorLog> {
        let zero = || AtomicU64::new(0);
        Box::new(ErrorLog {
            beyond: zero(),
            reserved: std::array::from_fn(|_| zero()),
            entries: std::array::from_fn(|_| ErrorEntry {
                hash: zero(),
                count: zero(),
                first_ns: zero(),
                last_ns: zero(),
                text_length: zero(),
                text: std::array::from_fn(|_| zero()),
            }),
        })
    }

    #[test]
    fn the_same_error_stands_once_with_count_and_times() {
        let log = log();
        log.note(Time(10), "socket: send refused");
        log.note(Time(20), "handshake: no common profile");
        log.note(Time(30), "socket: send refused");
        let entries: Vec<_> = log.entries().collect();
        assert_eq!(entries.len(), 2);
        assert_eq!(
            entries[0],
            ErrorSeen { count: 2, first: Time(10), last: Time(30), text: "socket: send refused".into() }
        );
        assert_eq!(entries[1].count, 1);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let log = log();
        let text = format!("{}é and more", "x".repeat(ERROR_TEXT_BYTES - 1));
        log.note(Time(1), &text);
        assert_eq!(log.entries().next().map(|entry| entry.text), Some("x".repeat(ERROR_TEXT_BYTES - 1)));
    }

    #[test]
    fn a_full_log_counts_what_it_cannot_keep() {
        let log = log();
        for number in 0..ERRORS_MAX + 3 {
            log.note(Time(1), &format!("error {number}"));
        }
        log.note(Time(2), "error 0");
        assert_eq!(log.entries().count(), ERRORS_MAX);
        assert_eq!(log.beyond(), 3);
        assert_eq!(log.entries().next().map(|entry| entry.count), Some(2));
    }

    #[test]
    fn a_writer_killed_before_the_hash_leaves_a_free_entry() {
        let log = log();
        log.entries[0].text[0].store(u64::from_le_bytes(*b"half a t"), Ordering::Relaxed);
        log.entries[0].text_length.store(100, Ordering::Relaxed);
        assert_eq!(log.entries().count(), 0);
        log.note(Time(5), "whole");
        assert_eq!(log.entries().next().map(|entry| entry.text), Some("whole".into()));
    }

    #[test]
    fn hostile_lengths_and_bytes_are_read_without_a_panic() {
        let log = log();
        log.entries[0].hash.store(7, Ordering::Relaxed);
        log.entries[0].text_length.store(u64::MAX, Ordering::Relaxed);
        log.entries[0].text[3].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(log.entries().count(), 1);
    }
}

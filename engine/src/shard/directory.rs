//! The directory: which session's slot a (local, remote) pair belongs to, for every shard of the process.
//!
//! Written by the owner of a session only, after the pair passed MESSAGE-INTEGRITY; read by every shard for
//! every datagram. A look-up is a hash and one or two cache lines; it never waits. An entry holds 64 bits of
//! a keyed hash, so a false hit is possible in principle: the owner compares the pair with the session's
//! record before it believes the directory.

use spillway_proto::limits::{PAIRS_PER_SESSION_MAX, SESSIONS_MAX};
use spillway_proto::session::record::Pair;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A quarter full when every session has one pair.
const ENTRIES: usize = 4 * SESSIONS_MAX;
/// Pairs all sessions together may hold: three quarters of the table, so that probes stay short.
const PAIRS_MAX: usize = ENTRIES / 4 * 3;
const EMPTY: u64 = 0;
const REMOVED: u64 = 1;

const _: () = assert!(ENTRIES.is_power_of_two() && PAIRS_PER_SESSION_MAX <= 8);

struct Entry {
    /// EMPTY, REMOVED, or a pair's hash.
    hash: AtomicU64,
    slot: AtomicU64,
}

/// One for the process.
pub struct Directory {
    entries: Box<[Entry]>,
    /// The key: addresses are chosen by strangers, who must not be able to make probes long.
    state: RandomState,
    /// Writers are rare (joins and leaves) and take turns.
    pairs: Mutex<usize>,
}

impl Directory {
    pub fn new() -> Directory {
        let entries = (0..ENTRIES).map(|_| Entry { hash: AtomicU64::new(EMPTY), slot: AtomicU64::new(0) }).collect();
        Directory { entries, state: RandomState::new(), pairs: Mutex::new(0) }
    }

    fn hash(&self, pair: &Pair) -> u64 {
        self.state.hash_one(pair).max(REMOVED + 1)
    }

    /// The session's slot, if the pair is known.
    pub fn find(&self, pair: &Pair) -> Option<u32> {
        let hash = self.hash(pair);
        let mut at = hash as usize % ENTRIES;
        for _ in 0..ENTRIES {
            match self.entries[at].hash.load(Ordering::Acquire) {
                EMPTY => return None,
                found if found == hash => return Some(self.entries[at].slot.load(Ordering::Acquire) as u32),
                _ => at = (at + 1) % ENTRIES,
            }
        }
        None
    }

    /// Remembers a pair; false if the table is full (the session then goes on without it).
    pub fn insert(&self, pair: &Pair, slot: u32) -> bool {
        let mut pairs = self.pairs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let hash = self.hash(pair);
        let mut at = hash as usize % ENTRIES;
        let mut free = None;
        for _ in 0..ENTRIES {
            let entry = &self.entries[at];
            match entry.hash.load(Ordering::Relaxed) {
                EMPTY => {
                    free.get_or_insert(at);
                    break;
                }
                REMOVED => {
                    free.get_or_insert(at);
                }
                found if found == hash => {
                    // The same remote came back for a new session.
                    entry.slot.store(u64::from(slot), Ordering::Release);
                    return true;
                }
                _ => {}
            }
            at = (at + 1) % ENTRIES;
        }
        let Some(at) = free.filter(|_| *pairs < PAIRS_MAX) else { return false };
        *pairs += 1;
        self.entries[at].slot.store(u64::from(slot), Ordering::Release);
        self.entries[at].hash.store(hash, Ordering::Release);
        true
    }

    /// Forgets a pair, unless it belongs to another session by now.
    pub fn remove(&self, pair: &Pair, slot: u32) {
        let mut pairs = self.pairs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let hash = self.hash(pair);
        let mut at = hash as usize % ENTRIES;
        for _ in 0..ENTRIES {
            match self.entries[at].hash.load(Ordering::Relaxed) {
                EMPTY => return,
                found if found == hash => {
                    if self.entries[at].slot.load(Ordering::Relaxed) != u64::from(slot) {
                        return;
                    }
                    *pairs -= 1;
                    self.entries[at].hash.store(REMOVED, Ordering::Release);
                    self.sweep(at);
                    return;
                }
                _ => at = (at + 1) % ENTRIES,
            }
        }
    }

    /// A removed entry in front of an empty one ends no probe: it may be empty itself, and so may those
    /// before it. Without this the table would fill with removed entries over days of joins and leaves.
    fn sweep(&self, mut at: usize) {
        if self.entries[(at + 1) % ENTRIES].hash.load(Ordering::Relaxed) != EMPTY {
            return;
        }
        for _ in 0..ENTRIES {
            if self.entries[at].hash.load(Ordering::Relaxed) != REMOVED {
                return;
            }
            self.entries[at].hash.store(EMPTY, Ordering::Release);
            at = (at + ENTRIES - 1) % ENTRIES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_proto::rng::Rng;
    use spillway_proto::session::record::RawAddr;
    use std::collections::HashMap;

    fn pair(n: u64) -> Pair {
        let mut remote = RawAddr { port: n as u16, ..RawAddr::default() };
        remote.ip[..8].copy_from_slice(&(n / 7).to_le_bytes());
        Pair { local: RawAddr { port: 7081, ..RawAddr::default() }, remote }
    }

    #[test]
    fn agrees_with_a_map_over_many_joins_and_leaves() {
        let directory = Directory::new();
        let mut model = HashMap::new();
        let mut rng = Rng::new(1);
        for step in 0..200_000u32 {
            let n = rng.below(5_000);
            if rng.below(2) == 0 {
                assert!(directory.insert(&pair(n), step));
                model.insert(n, step);
            } else if let Some(slot) = model.get(&n).copied() {
                directory.remove(&pair(n), slot + 1);
                assert_eq!(directory.find(&pair(n)), Some(slot), "another session's pair stays");
                directory.remove(&pair(n), slot);
                model.remove(&n);
            }
            let probe = rng.below(5_000);
            assert_eq!(directory.find(&pair(probe)), model.get(&probe).copied());
        }
        for (n, slot) in model.drain() {
            directory.remove(&pair(n), slot);
        }
        let left = directory.entries.iter().filter(|e| e.hash.load(Ordering::Relaxed) != EMPTY).count();
        assert!(left < 100, "{left} removed entries were not swept");
    }

    #[test]
    fn a_full_table_says_so() {
        let directory = Directory::new();
        *directory.pairs.lock().unwrap() = PAIRS_MAX;
        assert!(!directory.insert(&pair(1), 1));
    }
}

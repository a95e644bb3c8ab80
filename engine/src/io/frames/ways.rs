//! What is known of paths: how frames of each are made, or that the kernel sends there. A table by path, for as many as are in use.

use super::headers::Headers;
use super::routes::HopId;
use super::super::Path;
use spillway_proto::limits::SESSIONS_MAX;
use spillway_proto::time::Time;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Paths that are asked for between two looks at the kernel's news: an answer takes some 50 us, and thousands are to be asked for
/// again after each change. Until it is a path's turn the kernel sends there.
const ASKS: u32 = 16;
/// Whoever gets nothing for so long has left.
const KEPT_UNUSED: Duration = Duration::from_secs(10);

/// How frames of a path are made.
#[derive(Clone, Copy)]
pub struct Way {
    pub headers: Headers,
    pub hop: HopId,
    /// Its place in the shard's list, and the index by which the kernel knows who stood there.
    pub device: usize,
    pub device_index: u32,
    pub payload_max: usize,
}

struct Known {
    /// Of the table, when it was asked for.
    generation: u32,
    used_at: Time,
    way: Option<Way>,
}

pub struct Ways {
    known: HashMap<Path, Known, Mix>,
    generation: u32,
    /// What may still be asked for.
    asks: u32,
}

impl Ways {
    pub fn new(seed: u64) -> Ways {
        Ways { known: HashMap::with_hasher(Mix(seed)), generation: 0, asks: ASKS }
    }

    /// So many more may be asked for again.
    pub fn look(&mut self) {
        self.asks = ASKS;
    }

    /// The way of `path`, which `ask` finds where it is not known; None: the kernel sends, or sends still.
    pub fn get(&mut self, path: &Path, now: Time, ask: impl FnOnce() -> Option<Way>) -> Option<&Way> {
        if !self.known.get(path).is_some_and(|known| known.generation == self.generation) {
            self.asks = self.asks.checked_sub(1)?;
            if self.known.len() == self.known.capacity() || self.known.len() >= SESSIONS_MAX {
                self.clean(now);
            }
            let known = Known { generation: self.generation, used_at: now, way: ask() };
            self.known.insert(*path, known);
        }
        let known = self.known.get_mut(path)?;
        known.used_at = now;
        known.way.as_ref()
    }

    /// The kernel sends there, until everything is forgotten.
    pub fn leave(&mut self, path: &Path) {
        if let Some(known) = self.known.get_mut(path) {
            known.way = None;
        }
    }

    /// Nothing that was found holds any longer.
    pub fn forget(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Viewers who left leave their ways behind: those go before the table grows.
    fn clean(&mut self, now: Time) {
        self.known.retain(|_, known| now.since(known.used_at) < KEPT_UNUSED);
        if self.known.len() >= SESSIONS_MAX {
            self.known.clear();
        }
        // As many again as there are before the next look through all of them.
        self.known.reserve(self.known.len());
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.known.len()
    }
}

/// Odd, with its bits well mixed.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A seeded hash for addresses: cheap, and nobody outside knows the seed.
#[derive(Clone, Copy)]
struct Mix(u64);

impl BuildHasher for Mix {
    type Hasher = Mix;
    fn build_hasher(&self) -> Mix {
        *self
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_ne_bytes(*word)));
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_ne_bytes(last));
        }
    }
    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }
    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }
    fn write_u64(&mut self, word: u64) {
        // The upper half of a product depends on all of both factors.
        let product = u128::from(self.0 ^ word) * u128::from(GOLDEN);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn path(port: u16) -> Path {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        Path { local: at("192.0.2.1:7000"), remote: SocketAddr::new(at("192.0.2.2:1").ip(), port) }
    }

    #[test]
    fn a_path_is_asked_for_once_until_everything_is_forgotten() {
        let mut ways = Ways::new(7);
        let mut asked = 0;
        for _ in 0..3 {
            assert!(ways.get(&path(1), Time(0), || { asked += 1; None }).is_none());
        }
        assert_eq!(asked, 1);
        ways.forget();
        ways.get(&path(1), Time(0), || { asked += 1; None });
        assert_eq!((asked, ways.len()), (2, 1));
    }

    /// Goal: a change that makes thousands unknown costs no tick more than a few answers, and all are asked for in the end.
    #[test]
    fn few_are_asked_for_at_a_time() {
        let mut ways = Ways::new(7);
        let mut asked = 0;
        for round in 1..=100 {
            (0..1_000).for_each(|port| _ = ways.get(&path(port), Time(0), || { asked += 1; None }));
            assert_eq!(asked, (round * ASKS).min(1_000));
            ways.look();
        }
    }

    /// Goal: an hour of viewers who come and go leaves no more than those who are there. Method: a thousand stay, a hundred thousand pass; who stays
    /// gets something every 3.6 seconds.
    #[test]
    fn viewers_who_left_do_not_stay_in_the_table() {
        let mut ways = Ways::new(7);
        let staying: Vec<Path> = (0..1_000).map(path).collect();
        let mut asked = 0;
        for passing in 0..100_000_u32 {
            let mut other = path(1_000 + (passing % 60_000) as u16);
            other.local.set_port(1 + (passing / 60_000) as u16);
            let now = Time(u64::from(passing) * 36_000_000);
            ways.look();
            ways.get(&other, now, || None);
            if passing % 100 == 0 {
                for path in &staying {
                    ways.look();
                    ways.get(path, now, || { asked += 1; None });
                }
            }
        }
        assert!(ways.len() < 8_000, "{}", ways.len());
        assert_eq!(asked, 1_000, "who stays is not asked for again");
    }

    #[test]
    fn paths_spread() {
        let mut seen = std::collections::HashSet::new();
        for port in 0..4_096 {
            seen.insert(Mix(99).hash_one(path(port)) >> 52);
        }
        assert!(seen.len() > 2_400, "{}", seen.len());
    }
}

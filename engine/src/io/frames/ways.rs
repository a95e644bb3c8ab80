//! What is known of paths: how frames of each are made, or that the kernel sends there. A table by path, for as many as are in use.

use super::headers::Headers;
use super::routes::HopId;
use super::super::Path;
use crate::shm::prefetch;
use spillway_proto::limits::SESSIONS_MAX;
use spillway_proto::time::Time;
use std::net::IpAddr;
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

/// Three whole lines of the cache.
#[repr(align(64))]
struct Known {
    path: Path,
    /// Of the table, when it was asked for.
    generation: u32,
    used_at: Time,
    way: Option<Way>,
}

const _: () = assert!(size_of::<Known>() == 192);

/// Those known stand side by side, and are found by an index that is small enough to stay in the cache: what is fetched beforehand is one of them.
pub struct Ways {
    known: Vec<Known>,
    /// One more than the number of a known one, from its hash on; 0: nothing. A power of two, at most half full.
    index: Vec<u32>,
    seed: u64,
    generation: u32,
    /// What may still be asked for.
    asks: u32,
}

/// Places of the smallest index.
const INDEX_MIN: usize = 64;

impl Ways {
    pub fn new(seed: u64) -> Ways {
        Ways { known: Vec::new(), index: vec![0; INDEX_MIN], seed, generation: 0, asks: ASKS }
    }

    /// So many more may be asked for again.
    pub fn look(&mut self) {
        self.asks = ASKS;
    }

    /// The way of `path`, which `ask` finds where it is not known; None: the kernel sends, or sends still.
    pub fn get(&mut self, path: &Path, now: Time, ask: impl FnOnce() -> Option<Way>) -> Option<&Way> {
        let at = match self.find(path) {
            Some(at) if self.known.get(at)?.generation == self.generation => at,
            found => {
                self.asks = self.asks.checked_sub(1)?;
                let known = Known { path: *path, generation: self.generation, used_at: now, way: ask() };
                match found.and_then(|at| self.known.get_mut(at)) {
                    Some(old) => *old = known,
                    None => self.add(known, now),
                }
                self.find(path)?
            }
        };
        let known = self.known.get_mut(at)?;
        known.used_at = now;
        known.way.as_ref()
    }

    /// The kernel sends there, until everything is forgotten.
    pub fn leave(&mut self, path: &Path) {
        if let Some(known) = self.find(path).and_then(|at| self.known.get_mut(at)) {
            known.way = None;
        }
    }

    /// Has the processor fetch what `get` of this path will look at.
    pub fn fetch(&self, path: &Path) {
        // Whoever stands there first, as a rule the one.
        let place = self.place(path);
        if let Some(known) = self.index.get(place).and_then(|number| self.known.get((*number as usize).wrapping_sub(1))) {
            prefetch(known);
        }
    }

    /// Nothing that was found holds any longer.
    pub fn forget(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    fn place(&self, path: &Path) -> usize {
        hash(self.seed, path) as usize & (self.index.len() - 1)
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let mut place = self.place(path);
        loop {
            let at = (*self.index.get(place)? as usize).checked_sub(1)?;
            if self.known.get(at)?.path == *path {
                return Some(at);
            }
            place = (place + 1) & (self.index.len() - 1);
        }
    }

    fn add(&mut self, known: Known, now: Time) {
        if 2 * (self.known.len() + 1) > self.index.len() || self.known.len() >= SESSIONS_MAX {
            self.clean(now);
        }
        self.known.push(known);
        self.note(self.known.len() - 1);
    }

    /// The index says where it stands.
    fn note(&mut self, at: usize) {
        let Some(known) = self.known.get(at) else { return };
        let mut place = self.place(&known.path);
        while self.index[place] != 0 {
            place = (place + 1) & (self.index.len() - 1);
        }
        self.index[place] = at as u32 + 1;
    }

    /// Viewers who left leave their ways behind: those go before the table grows.
    fn clean(&mut self, now: Time) {
        self.known.retain(|known| now.since(known.used_at) < KEPT_UNUSED);
        if self.known.len() >= SESSIONS_MAX {
            self.known.clear();
        }
        // As many again as there are before the next look through all of them.
        let places = (4 * self.known.len()).next_power_of_two().max(INDEX_MIN);
        self.index.clear();
        self.index.resize(places, 0);
        (0..self.known.len()).for_each(|at| self.note(at));
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.known.len()
    }
}

/// Odd, with its bits well mixed.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A seeded hash for addresses: cheap, and nobody outside knows the seed.
fn hash(seed: u64, path: &Path) -> u64 {
    let ends = [&path.remote, &path.local];
    ends.into_iter().fold(seed, |mixed, end| match end.ip() {
        IpAddr::V4(ip) => mix(mixed, u64::from(ip.to_bits()) << 16 | u64::from(end.port())),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            mix(mix(mixed, bits as u64), (bits >> 64) as u64 ^ u64::from(end.port()) << 48)
        }
    })
}

fn mix(mixed: u64, word: u64) -> u64 {
    // The upper half of a product depends on all of both factors.
    let product = u128::from(mixed ^ word) * u128::from(GOLDEN);
    (product >> 64) as u64 ^ product as u64
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
            seen.insert(hash(99, &path(port)) % 4_096);
        }
        assert!(seen.len() > 2_400, "{}", seen.len());
    }
}

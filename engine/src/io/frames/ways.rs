//! What is known of sessions' paths: how frames of each are made, or that the kernel sends there. One for each session, in the order of
//! their slots: nothing is searched, and whose turn comes can be fetched beforehand.

use super::headers::Headers;
use super::routes::HopId;
use super::super::Path;
use crate::shm::prefetch;
use spillway_proto::limits::SESSIONS_MAX;

/// Paths that are asked for between two looks at the kernel's news: an answer takes some 50 us, and thousands are to be asked for
/// again after each change. Until it is a path's turn the kernel sends there.
const ASKS: u32 = 16;

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
    /// None: nothing was sent to this session yet. Another than the session's: it has moved, or is another session.
    path: Option<Path>,
    /// Of the table, when it was asked for.
    generation: u32,
    way: Option<Way>,
}

const _: () = assert!(size_of::<Known>() == 192);

const UNKNOWN: Known = Known { path: None, generation: 0, way: None };

pub struct Ways {
    known: Vec<Known>,
    generation: u32,
    /// What may still be asked for.
    asks: u32,
}

impl Ways {
    pub fn new() -> Ways {
        Ways { known: Vec::new(), generation: 0, asks: ASKS }
    }

    /// So many more may be asked for again.
    pub fn look(&mut self) {
        self.asks = ASKS;
    }

    /// The way of `who` by `path`, which `ask` finds where it is not known; None: the kernel sends, or sends still.
    pub fn get(&mut self, who: u32, path: &Path, ask: impl FnOnce() -> Option<Way>) -> Option<&Way> {
        let at = who as usize;
        if at >= self.known.len() {
            if at >= SESSIONS_MAX {
                return None;
            }
            self.known.resize_with(at + 1, || UNKNOWN);
        }
        let known = self.known.get_mut(at)?;
        if known.generation != self.generation || known.path != Some(*path) {
            self.asks = self.asks.checked_sub(1)?;
            *known = Known { path: Some(*path), generation: self.generation, way: ask() };
        }
        known.way.as_ref()
    }

    /// The kernel sends to `who`, until everything is forgotten or its path is another.
    pub fn leave(&mut self, who: u32) {
        if let Some(known) = self.known.get_mut(who as usize) {
            known.way = None;
        }
    }

    /// Has the processor fetch what `get` will look at.
    pub fn fetch(&self, who: u32) {
        if let Some(known) = self.known.get(who as usize) {
            prefetch(known);
        }
    }

    /// Nothing that was found holds any longer.
    pub fn forget(&mut self) {
        self.generation = self.generation.wrapping_add(1);
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

    /// Goal: a path is asked for once, and again when everything is forgotten, when the session has moved, and when another has its slot.
    #[test]
    fn a_path_is_asked_for_once_until_it_is_another() {
        let mut ways = Ways::new();
        let mut asked = 0;
        let mut get = |ways: &mut Ways, who, port| {
            ways.get(who, &path(port), || { asked += 1; None });
            asked
        };
        assert_eq!([get(&mut ways, 0, 1), get(&mut ways, 0, 1), get(&mut ways, 0, 1)], [1; 3]);
        assert_eq!([get(&mut ways, 5, 1), get(&mut ways, 0, 1), get(&mut ways, 5, 1)], [2; 3]);
        assert_eq!([get(&mut ways, 0, 2), get(&mut ways, 0, 2), get(&mut ways, 0, 1)], [3, 3, 4]);
        ways.forget();
        assert_eq!([get(&mut ways, 0, 1), get(&mut ways, 5, 1), get(&mut ways, 0, 1)], [5, 6, 6]);
        assert_eq!(get(&mut ways, SESSIONS_MAX as u32, 1), 6, "nobody has that slot");
    }

    /// Goal: a change that makes thousands unknown costs no tick more than a few answers, and all are asked for in the end.
    #[test]
    fn few_are_asked_for_at_a_time() {
        let mut ways = Ways::new();
        let mut asked = 0;
        for round in 1..=100 {
            (0..1_000).for_each(|who| _ = ways.get(who, &path(who as u16), || { asked += 1; None }));
            assert_eq!(asked, (round * ASKS).min(1_000));
            ways.look();
        }
    }
}

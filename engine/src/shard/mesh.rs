//! The mesh: what shards tell each other. Nothing here waits, and nothing grows.
//!
//! Two kinds of news are bits, so that they merge and cannot overflow: "this track has new packets" and
//! "somebody needs a keyframe of this track". Stray datagrams (the kernel gave them to a shard that does not
//! own their session) cross in rings of one writer and one reader; a full ring drops and counts.

use crate::io::Path;
use crossbeam_utils::CachePadded;
use spillway_proto::limits::{DATAGRAM_SIZE_MAX, MESH_DATAGRAMS_MAX, SHARDS_MAX, TRACKS_MAX};
use std::sync::atomic::{AtomicU64, Ordering};

const PARKED: u64 = u64::MAX;

/// Who may still be reading: each shard shows the epoch its present tick began in.
pub struct Epochs {
    now: CachePadded<AtomicU64>,
    seen: Box<[CachePadded<AtomicU64>]>,
}

impl Epochs {
    pub fn new(shards: usize) -> Epochs {
        let seen = (0..shards.min(SHARDS_MAX)).map(|_| CachePadded::new(AtomicU64::new(PARKED))).collect();
        Epochs { now: CachePadded::new(AtomicU64::new(1)), seen }
    }

    /// A tick begins: what the shard reads from here on is protected from reuse.
    pub fn enter(&self, shard: usize) {
        // SeqCst: the store must be seen before any read of a reel that follows it, as in `passed`.
        self.seen[shard].store(self.now.load(Ordering::SeqCst), Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// The shard parks: it holds nothing.
    pub fn leave(&self, shard: usize) {
        self.seen[shard].store(PARKED, Ordering::SeqCst);
    }

    /// The epoch in which something was given back.
    pub fn stamp(&self) -> u64 {
        self.now.fetch_add(1, Ordering::SeqCst)
    }

    /// Everything stamped below this was given back before every present tick began.
    pub fn passed(&self) -> u64 {
        let now = self.now.load(Ordering::SeqCst);
        self.seen.iter().map(|seen| seen.load(Ordering::SeqCst)).min().unwrap_or(PARKED).min(now)
    }
}

/// A bit per track, set by any shard and taken by one.
pub struct TrackBits {
    words: Box<[AtomicU64]>,
    /// A bit per word that may have bits.
    summary: CachePadded<AtomicU64>,
}

const WORDS: usize = TRACKS_MAX / 64;
const _: () = assert!(WORDS <= 64 && TRACKS_MAX % 64 == 0, "one summary word covers all");

impl TrackBits {
    fn new() -> TrackBits {
        TrackBits {
            words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
            summary: CachePadded::new(AtomicU64::new(0)),
        }
    }

    pub fn set(&self, track: u32) {
        let word = track as usize / 64 % WORDS;
        self.words[word].fetch_or(1 << (track % 64), Ordering::SeqCst);
        self.summary.fetch_or(1 << word, Ordering::SeqCst);
    }

    pub fn is_empty(&self) -> bool {
        self.summary.load(Ordering::SeqCst) == 0
    }

    /// Takes all bits and gives each to `f`.
    pub fn take(&self, mut f: impl FnMut(u32)) {
        if self.is_empty() {
            return;
        }
        let mut summary = self.summary.swap(0, Ordering::SeqCst);
        while summary != 0 {
            let word = summary.trailing_zeros();
            summary &= summary - 1;
            let mut bits = self.words[word as usize].swap(0, Ordering::SeqCst);
            while bits != 0 {
                f(word * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }
}

/// What others leave for one shard.
pub struct Inbox {
    pub fresh: TrackBits,
    pub keyframe_wanted: TrackBits,
}

impl Inbox {
    pub fn new() -> Inbox {
        Inbox { fresh: TrackBits::new(), keyframe_wanted: TrackBits::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.keyframe_wanted.is_empty()
    }
}

/// A datagram on its way to the shard that owns its session.
pub struct Stray {
    pub path: Path,
    length: u16,
    bytes: [u8; DATAGRAM_SIZE_MAX],
}

impl Stray {
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.length).min(DATAGRAM_SIZE_MAX)]
    }
}

/// One shard's ends of the rings to and from every other.
pub struct Strays {
    to: Vec<Option<rtrb::Producer<Stray>>>,
    from: Vec<Option<rtrb::Consumer<Stray>>>,
}

impl Strays {
    /// The ends of every shard, by its number.
    pub fn mesh(shards: usize) -> Vec<Strays> {
        let mut ends: Vec<Strays> = (0..shards)
            .map(|_| Strays { to: (0..shards).map(|_| None).collect(), from: (0..shards).map(|_| None).collect() })
            .collect();
        for a in 0..shards {
            for b in (0..shards).filter(|&b| b != a) {
                let (producer, consumer) = rtrb::RingBuffer::new(MESH_DATAGRAMS_MAX);
                ends[a].to[b] = Some(producer);
                ends[b].from[a] = Some(consumer);
            }
        }
        ends
    }

    /// False: the ring is full (or the datagram too long), and the datagram is lost.
    pub fn send(&mut self, shard: usize, path: &Path, datagram: &[u8]) -> bool {
        let Some(Some(ring)) = self.to.get_mut(shard) else { return false };
        if datagram.len() > DATAGRAM_SIZE_MAX {
            return false;
        }
        let mut stray = Stray { path: *path, length: datagram.len() as u16, bytes: [0; DATAGRAM_SIZE_MAX] };
        stray.bytes[..datagram.len()].copy_from_slice(datagram);
        ring.push(stray).is_ok()
    }

    /// At most one from each shard; None when no ring has any.
    pub fn receive(&mut self) -> Option<Stray> {
        self.from.iter_mut().flatten().find_map(|ring| ring.pop().ok())
    }

    pub fn is_empty(&self) -> bool {
        self.from.iter().flatten().all(|ring| ring.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_rests_until_every_running_shard_ticked_past_it() {
        let epochs = Epochs::new(2);
        epochs.enter(0);
        epochs.enter(1);
        let stamp = epochs.stamp();
        assert!(stamp >= epochs.passed(), "both ticks began before");
        epochs.enter(0);
        assert!(stamp >= epochs.passed(), "shard 1 may still read it");
        epochs.enter(1);
        assert!(stamp < epochs.passed());
    }

    #[test]
    fn a_parked_shard_holds_nothing() {
        let epochs = Epochs::new(2);
        epochs.enter(0);
        epochs.enter(1);
        let stamp = epochs.stamp();
        epochs.leave(1);
        assert!(stamp >= epochs.passed());
        epochs.leave(0);
        assert!(stamp < epochs.passed());
    }

    #[test]
    fn bits_merge_and_are_taken_once() {
        let bits = TrackBits::new();
        for track in [0, 63, 64, 4_095, 64] {
            bits.set(track);
        }
        let mut taken = Vec::new();
        bits.take(|track| taken.push(track));
        assert_eq!(taken, [0, 63, 64, 4_095]);
        assert!(bits.is_empty());
        bits.take(|_| panic!("taken twice"));
    }
}

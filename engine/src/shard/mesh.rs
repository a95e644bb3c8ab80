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
        // What was given back must be unreachable before we look who may have reached it.
        std::sync::atomic::fence(Ordering::SeqCst);
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

    /// True if the bit was not set: who set it before has woken, or is about to wake, whoever takes it.
    pub fn set(&self, track: u32) -> bool {
        let word = track as usize / 64 % WORDS;
        let bit = 1 << (track % 64);
        if self.words[word].fetch_or(bit, Ordering::SeqCst) & bit != 0 {
            return false;
        }
        self.summary.fetch_or(1 << word, Ordering::SeqCst);
        true
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
    /// By viewers that lost their picture, and by those who join.
    pub keyframe_wanted: TrackBits,
    pub keyframe_wanted_to_join: TrackBits,
}

impl Inbox {
    pub fn new() -> Inbox {
        Inbox { fresh: TrackBits::new(), keyframe_wanted: TrackBits::new(), keyframe_wanted_to_join: TrackBits::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.keyframe_wanted.is_empty() && self.keyframe_wanted_to_join.is_empty()
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
    /// Whose turn it is, so that one busy shard does not keep the others' waiting.
    turn: usize,
}

impl Strays {
    /// The ends of every shard, by its number.
    pub fn mesh(shards: usize) -> Vec<Strays> {
        let mut ends: Vec<Strays> = (0..shards)
            .map(|_| Strays { to: (0..shards).map(|_| None).collect(), from: (0..shards).map(|_| None).collect(), turn: 0 })
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

    /// The shards in turn; None when no ring has any.
    pub fn receive(&mut self) -> Option<Stray> {
        for _ in 0..self.from.len() {
            self.turn = (self.turn + 1) % self.from.len();
            if let Some(stray) = self.from[self.turn].as_mut().and_then(|ring| ring.pop().ok()) {
                return Some(stray);
            }
        }
        None
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
    fn a_busy_shard_does_not_keep_the_others_datagrams_waiting() {
        let path = Path { local: "192.0.2.1:1".parse().unwrap(), remote: "192.0.2.2:2".parse().unwrap() };
        let mut ends = Strays::mesh(3);
        for sender in [0, 1] {
            for _ in 0..3 {
                assert!(ends[sender].send(2, &path, &[sender as u8]));
            }
        }
        let order: Vec<u8> = (0..6).map(|_| ends[2].receive().unwrap().bytes_mut()[0]).collect();
        assert!(order.windows(2).all(|pair| pair[0] != pair[1]), "{order:?}");
        assert!(ends[2].receive().is_none());
    }

    #[test]
    fn bits_merge_and_are_taken_once() {
        let bits = TrackBits::new();
        for track in [0, 63, 64, 4_095] {
            assert!(bits.set(track));
        }
        assert!(!bits.set(64), "who set it first wakes");
        let mut taken = Vec::new();
        bits.take(|track| taken.push(track));
        assert_eq!(taken, [0, 63, 64, 4_095]);
        assert!(bits.is_empty());
        bits.take(|_| panic!("taken twice"));
        bits.set(1);
        taken.clear();
        bits.take(|track| taken.push(track));
        assert_eq!(taken, [1], "a neighbour that was taken before does not come again");
    }
}

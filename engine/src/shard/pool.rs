//! The slab pool: who may take 64 KiB more of a stream's file, and when a slab may be used again.
//!
//! A slab that a reel gave back may still be read by another shard in its present tick. So it rests until
//! every shard has begun a later tick (or is parked, which reads nothing), and is then used again by the
//! same file or returned to the node with its memory.

use super::mesh::Epochs;
use crate::shm::punch_hole;
use spillway_proto::limits::{SLAB_BYTES, SLABS_MAX, SLABS_PER_STREAM_MAX};
use spillway_proto::stream::reel::Slabs;
use spillway_proto::stream::reel::slab_offset;
use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Free slabs a file keeps for itself; more go back to the node.
const SPARE_MAX: usize = 4;

/// One for the process: how many slabs all files together hold.
#[derive(Default)]
pub struct Pool {
    taken: AtomicUsize,
}

impl Pool {
    fn take(&self) -> bool {
        let grown = |taken| (taken < SLABS_MAX).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    #[cfg(any(test, feature = "simulation"))]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// One stream file's slabs; owned by the shard that writes the stream's reels.
pub struct StreamSlabs {
    file: Arc<File>,
    pool: Arc<Pool>,
    epochs: Arc<Epochs>,
    /// Slabs never taken so far: fresh..SLABS_PER_STREAM_MAX.
    fresh: u32,
    spare: Vec<u32>,
    /// Given back, with the epoch in which that happened.
    resting: VecDeque<(u32, u64)>,
    /// Slabs whose memory went back to the node.
    returned: Vec<u32>,
}

impl StreamSlabs {
    pub fn new(file: Arc<File>, pool: Arc<Pool>, epochs: Arc<Epochs>) -> StreamSlabs {
        StreamSlabs {
            file,
            pool,
            epochs,
            fresh: 0,
            spare: Vec::with_capacity(SLABS_PER_STREAM_MAX),
            resting: VecDeque::with_capacity(SLABS_PER_STREAM_MAX),
            returned: Vec::with_capacity(SLABS_PER_STREAM_MAX),
        }
    }

    /// Wakes what has rested long enough; surplus memory goes back to the node.
    pub fn settle(&mut self) {
        if self.resting.is_empty() {
            return;
        }
        let passed = self.epochs.passed();
        while let Some(&(slab, epoch)) = self.resting.front() {
            if epoch >= passed {
                break;
            }
            self.resting.pop_front();
            self.spare.push(slab);
        }
        while self.spare.len() > SPARE_MAX {
            let Some(slab) = self.spare.pop() else { break };
            self.return_memory(slab);
            self.returned.push(slab);
        }
    }

    fn return_memory(&self, slab: u32) {
        // If the kernel refuses, the page stays and is written over by the next use.
        let _ = punch_hole(&*self.file, slab_offset(slab) as u64, SLAB_BYTES as u64);
        self.pool.give_back();
    }

    /// Slabs of the file that hold memory.
    pub fn held(&self) -> usize {
        self.fresh as usize - self.returned.len()
    }

    /// Slabs that hold memory and no packet.
    #[cfg(any(test, feature = "simulation"))]
    pub fn waiting(&self) -> usize {
        self.spare.len() + self.resting.len()
    }

    /// True when nothing of the file is in use any more.
    pub fn is_settled(&self) -> bool {
        self.resting.is_empty()
    }
}

impl Slabs for StreamSlabs {
    fn take(&mut self) -> Option<u32> {
        self.settle();
        if let Some(slab) = self.spare.pop() {
            return Some(slab);
        }
        if !self.pool.take() {
            return None;
        }
        if let Some(slab) = self.returned.pop() {
            return Some(slab);
        }
        if self.fresh as usize >= SLABS_PER_STREAM_MAX {
            self.pool.give_back();
            return None;
        }
        self.fresh += 1;
        Some(self.fresh - 1)
    }

    fn give_back(&mut self, slab: u32) {
        self.resting.push_back((slab, self.epochs.stamp()));
    }
}

impl Drop for StreamSlabs {
    /// The stream is gone: the pool gets back what is spare; resting slabs were waited for (`is_settled`).
    fn drop(&mut self) {
        let held: Vec<u32> = self.spare.drain(..).chain(self.resting.drain(..).map(|(slab, _)| slab)).collect();
        for slab in held {
            self.return_memory(slab);
        }
    }
}

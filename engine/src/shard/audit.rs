//! What a shard holds, counted one by one: for tests, which compare it with what the counters and the pool say.
//!
//! Reads only. Never in a build that is run.

use super::Core;
use spillway_proto::id::Side;
use spillway_proto::limits::SLAB_BYTES;
use std::os::unix::fs::MetadataExt;

/// The sums over all shards that were asked.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Audit {
    pub publishers: usize,
    pub viewers: usize,
    pub connected: usize,
    pub viewers_connected: usize,
    /// Feeds the sessions have, and records the table gave out for feeds.
    pub feeds: usize,
    pub feed_records: usize,
    pub tracks: usize,
    /// Slabs with packets of a reel, or being written by one.
    pub slabs_in_reels: usize,
    /// Given back by a reel: resting, or spare.
    pub slabs_waiting: usize,
    /// As the streams' files account for them.
    pub slabs_held: usize,
    /// As the node's pool accounts for them: one for all shards, not a sum.
    pub slabs_taken: usize,
    /// Bytes the system gave the streams' files, their headers included.
    pub bytes_allocated: usize,
    /// Sessions that timers visit, and handshakes that run.
    pub visited: usize,
    pub handshakes: usize,
}

impl Audit {
    /// What the slabs that are accounted for may take of the system's memory.
    pub fn slab_bytes_accounted(&self) -> usize {
        self.slabs_held * SLAB_BYTES
    }
}

impl Core {
    pub(super) fn audit(&self, audit: &mut Audit) {
        for session in self.sessions.iter().flatten() {
            match session.side {
                Side::Publisher => audit.publishers += 1,
                Side::Viewer => audit.viewers += 1,
            }
            let connected = session.sealer.is_some();
            audit.connected += usize::from(connected);
            audit.viewers_connected += usize::from(connected && session.side == Side::Viewer);
            audit.feeds += session.feeds.len();
        }
        audit.feed_records += self.table.feeds_used();
        self.tracks.audit(audit);
        audit.slabs_taken = self.shared.pool.taken();
        audit.visited += self.timers.sessions_visited();
        audit.handshakes += self.timers.handshakes_running();
        // Shared by all shards: counted by the first.
        if self.index == 0 {
            let files = self.shared.reel_files.iter().map(super::ReelFile::file);
            let blocks = files.filter_map(|file| Some(allocated(&file.metadata().ok()?)));
            audit.bytes_allocated = blocks.sum();
        }
    }
}

/// Bytes the system gave a file (`st_blocks` counts 512 of them each).
fn allocated(metadata: &std::fs::Metadata) -> usize {
    metadata.blocks() as usize * 512
}

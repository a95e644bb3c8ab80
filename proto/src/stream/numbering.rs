//! A publisher's packet numbers and the reel's: an offset, and a new one from each packet on before which we put one
//! of our own (parameter sets that came only in SDP).
//!
//! ```text
//!   source   100 101 102         103 104        102 is found behind the packet we added, 101 before it, whenever
//!   reel     128 129 [130] 131   132 133        they come
//! ```
//!
//! Owned by the publisher's shard, as a part of `Intake`.

/// Offsets remembered: late packets from before older ones are refused. A publisher of nothing but keyframes adds 30
/// packets in a second; half of one is more than a retransmission takes.
const OFFSETS_MAX: usize = 16;

/// A publisher's numbers have 48 bits.
const SOURCES: u64 = 1 << 48;

#[derive(Clone, Copy, Default)]
struct Offset {
    /// The first source index it holds for.
    from: u64,
    /// Reel index = source index + this, modulo 2^64.
    offset: u64,
}

#[derive(Clone, Default)]
pub struct Numbering {
    /// The newest is the last in use.
    offsets: [Offset; OFFSETS_MAX],
    used: usize,
}

impl Numbering {
    /// From now on `source` is `index`, and all others stand around it.
    pub fn anchor(&mut self, source: u64, index: u64) {
        self.offsets[0] = Offset { from: 0, offset: index.wrapping_sub(source) };
        self.used = 1;
    }

    /// A packet of our own takes the index that `source` had; `source` and all behind it move up by one.
    pub fn add_before(&mut self, source: u64) {
        let offset = self.offset().wrapping_add(1);
        if self.used == OFFSETS_MAX {
            self.offsets.rotate_left(1);
            self.used -= 1;
        }
        self.offsets[self.used] = Offset { from: source, offset };
        self.used += 1;
    }

    /// None: before all offsets that are remembered, or before an anchor.
    pub fn index_of(&self, source: u64) -> Option<u64> {
        let in_use = self.offsets.get(..self.used)?;
        in_use.iter().rev().find(|offset| source >= offset.from).map(|offset| source.wrapping_add(offset.offset))
    }

    /// The way back. None: the packet is one of our own, or nobody knows any more.
    pub fn source_of(&self, index: u64) -> Option<u64> {
        let in_use = self.offsets.get(..self.used)?;
        in_use.iter().rev().find_map(|offset| {
            let source = index.wrapping_sub(offset.offset);
            // What would be below 0 is no number of the publisher's.
            (source < SOURCES && self.index_of(source) == Some(index)).then_some(source)
        })
    }

    /// The newest one.
    pub fn offset(&self) -> u64 {
        self.used.checked_sub(1).and_then(|newest| self.offsets.get(newest)).map_or(0, |newest| newest.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeMap;

    #[test]
    fn packets_before_an_added_one_stay_and_those_behind_it_move() {
        let mut numbering = Numbering::default();
        assert_eq!((numbering.index_of(5), numbering.source_of(5)), (None, None));
        numbering.anchor(100, 128);
        numbering.add_before(102);
        assert_eq!([99, 100, 101, 102, 103].map(|source| numbering.index_of(source)), [127, 128, 129, 131, 132].map(Some));
        assert_eq!(numbering.source_of(130), None, "ours");
        assert_eq!([129, 131].map(|index| numbering.source_of(index)), [Some(101), Some(102)]);
        numbering.anchor(7, 500);
        assert_eq!(numbering.index_of(102), Some(595), "another publisher");
    }

    #[test]
    fn it_agrees_with_a_list_of_everything_as_far_as_it_remembers() {
        let mut rng = Rng::new(17);
        for round in 0..200 {
            // Some begin just below the end of all numbers' half, some at 0: the offset may be "negative".
            let first = [0, 5, rng.below(1 << 40), (1 << 47) + 3][round % 4];
            let mut numbering = Numbering::default();
            numbering.anchor(first, 128);
            let (mut next, mut all, mut added) = (128, BTreeMap::new(), Vec::new());
            for source in first..first + 300 {
                if rng.below(12) == 0 {
                    numbering.add_before(source);
                    added.push((source, next));
                    next += 1;
                }
                all.insert(source, next);
                next += 1;
            }
            let oldest = if added.len() >= OFFSETS_MAX { added[added.len() - OFFSETS_MAX].0 } else { 0 };
            for (source, index) in &all {
                let known = (*source >= oldest).then_some(*index);
                assert_eq!(numbering.index_of(*source), known);
                if known.is_some() {
                    assert_eq!(numbering.source_of(*index), Some(*source));
                }
            }
            for (_, index) in added.iter().rev().take(OFFSETS_MAX) {
                assert_eq!(numbering.source_of(*index), None);
            }
            assert_eq!(numbering.offset(), next.wrapping_sub(first + 300));
        }
    }
}

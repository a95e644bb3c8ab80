//! Which shard a session goes to. Pure arithmetic over what each shard carries.

/// What a shard carries, sessions that are only being added included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    pub publishers: usize,
    pub viewers: usize,
}

/// A viewer goes where the fewest sessions are of the shards that have room: sealing for viewers is what costs.
pub fn viewer_shard(loads: &[Load], has_room: impl Fn(usize) -> bool) -> Option<usize> {
    let open = loads.iter().enumerate().filter(|(shard, _)| has_room(*shard));
    open.min_by_key(|(_, load)| (load.viewers + load.publishers, load.publishers)).map(|(shard, _)| shard)
}

/// A publisher that opens a stream goes where the fewest publishers are, then the fewest sessions. One that
/// takes over goes to its tracks' shard and is not asked here.
pub fn publisher_shard(loads: &[Load]) -> usize {
    let least = loads.iter().enumerate().min_by_key(|(_, load)| (load.publishers, load.viewers));
    least.map_or(0, |(shard, _)| shard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_spread_and_publishers_spread_first() {
        let mut loads = vec![Load::default(); 2];
        let publisher = publisher_shard(&loads);
        loads[publisher].publishers += 1;
        for _ in 0..9 {
            let shard = viewer_shard(&loads, |_| true).unwrap();
            loads[shard].viewers += 1;
        }
        assert_eq!(loads, [Load { publishers: 1, viewers: 4 }, Load { publishers: 0, viewers: 5 }]);
        assert_eq!(publisher_shard(&loads), 1);
        assert_eq!(viewer_shard(&[], |_| true), None);
        assert_eq!(viewer_shard(&loads, |shard| shard == 1), Some(1), "the other one is full");
        assert_eq!(viewer_shard(&loads, |_| false), None);
    }
}

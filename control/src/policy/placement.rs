//! Which shard a session goes to. Pure arithmetic over what each shard carries.

/// What a shard carries, sessions that are only being added included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    pub publishers: usize,
    pub viewers: usize,
}

/// Shards that differ by less than such a step are equally busy: of an idle node's nobody wants to hear which had one tick more.
const STEPS: f64 = 20.0;

/// A viewer goes to the least busy of the shards that have room: a hundred who watch cost more than a thousand who
/// listen. Where they are equally busy or nothing was measured yet, to the one with the fewest sessions.
pub fn viewer_shard(loads: &[Load], busy: impl Fn(usize) -> f64, has_room: impl Fn(usize) -> bool) -> Option<usize> {
    let sessions = |shard: usize| loads.get(shard).map(|load| (load.viewers + load.publishers, load.publishers));
    let open = (0..loads.len()).filter(|shard| has_room(*shard));
    open.min_by_key(|&shard| ((busy(shard) * STEPS) as u32, sessions(shard)))
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
            let shard = viewer_shard(&loads, |_| 0.0, |_| true).unwrap();
            loads[shard].viewers += 1;
        }
        assert_eq!(loads, [Load { publishers: 1, viewers: 4 }, Load { publishers: 0, viewers: 5 }]);
        assert_eq!(publisher_shard(&loads), 1);
        assert_eq!(viewer_shard(&[], |_| 0.0, |_| true), None);
        assert_eq!(viewer_shard(&loads, |_| 0.0, |shard| shard == 1), Some(1), "the other one is full");
        assert_eq!(viewer_shard(&loads, |_| 0.0, |_| false), None);
    }

    #[test]
    fn a_viewer_goes_to_the_shard_with_the_most_time_left_and_not_to_the_one_with_the_fewest_sessions() {
        let loads = [Load { publishers: 1, viewers: 100 }, Load { publishers: 1, viewers: 900 }];
        let busy = |shard: usize| [0.7, 0.2][shard];
        assert_eq!(viewer_shard(&loads, busy, |_| true), Some(1));
        assert_eq!(viewer_shard(&loads, busy, |shard| shard == 0), Some(0));
        assert_eq!(viewer_shard(&loads, |_| 0.5, |_| true), Some(0), "equally busy: the fewest sessions");
        assert_eq!(viewer_shard(&loads, |shard| [0.04, 0.01][shard], |_| true), Some(0), "as good as equally busy");
    }
}

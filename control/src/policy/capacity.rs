//! The capacity model: how busy each shard is, what one more viewer would cost it, and how many more the node can
//! serve. Those who are there come first: one more is refused before their packets come late. Pure.
//!
//! Busy is the share of a second in which a shard was not asleep, without the handshakes: they are over in a moment and
//! give way to media. It is smoothed over some seconds, and so is the number of viewers it was measured with, so that
//! who came since is counted at the measured price of one.

use super::placement::Load;

/// Of what was measured in a second, this much is believed at once.
const BELIEVED: f64 = 1.0 / 3.0;
/// A shard that refuses goes on until it is this part of the limit below it: one viewer that leaves lets not one in.
const GAP: f64 = 0.06;
/// From so many viewers on, what one costs is measured.
const VIEWERS_KNOWN_MIN: f64 = 20.0;
/// Before that: nanoseconds per byte. A packet of 1,000 bytes cost 1,000 to 3,800 ns on the machines we measured.
const NS_PER_BYTE: f64 = 3.0;
/// Somebody who gets nothing yet will get something.
const BITRATE_BPS_MIN: u64 = 64_000;

#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Shard {
    /// Smoothed, 0 to 1; None before the first measurement.
    busy: Option<f64>,
    /// The viewers that were there, smoothed alike.
    viewers: f64,
    refuses: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Capacity {
    shards: Vec<Shard>,
}

impl Capacity {
    /// Once a second: what each shard was busy, and what it carries. `max`: the limit, 0 for none.
    pub fn measure(&mut self, busy: &[f64], loads: &[Load], max: f64, bitrate_bps: u64) {
        self.shards.resize(busy.len(), Shard::default());
        for (number, (shard, busy)) in self.shards.iter_mut().zip(busy).enumerate() {
            let viewers = loads.get(number).map_or(0.0, |load| load.viewers as f64);
            let (was, had) = shard.busy.map_or((*busy, viewers), |was| (was, shard.viewers));
            shard.busy = Some(was + (busy - was) * BELIEVED);
            shard.viewers = had + (viewers - had) * BELIEVED;
        }
        for number in 0..self.shards.len() {
            let expected = self.expected(number, loads, bitrate_bps);
            if let Some(shard) = self.shards.get_mut(number) {
                shard.refuses = max > 0.0 && expected > if shard.refuses { max * (1.0 - GAP) } else { max };
            }
        }
    }

    /// Smoothed, 0 before the first measurement.
    pub fn busy(&self, shard: usize) -> f64 {
        self.shards.get(shard).and_then(|shard| shard.busy).unwrap_or(0.0)
    }

    /// How busy a shard is, those included who came since it was measured; 0 for all until all were measured: a shard
    /// nobody knows of is not an idle one.
    pub fn busy_with_newcomers(&self, shard: usize, loads: &[Load], bitrate_bps: u64) -> f64 {
        let is_known = self.shards.len() == loads.len() && self.shards.iter().all(|shard| shard.busy.is_some());
        if is_known { self.expected(shard, loads, bitrate_bps) } else { 0.0 }
    }

    /// Whether a shard can serve one more that gets `bitrate_bps`.
    pub fn has_room(&self, shard: usize, loads: &[Load], max: f64, bitrate_bps: u64) -> bool {
        let Some(state) = self.shards.get(shard).filter(|shard| max > 0.0 && shard.busy.is_some()) else { return true };
        !state.refuses && self.expected(shard, loads, bitrate_bps) + self.cost(shard, bitrate_bps) <= max
    }

    /// How many more of `bitrate_bps` all shards can serve.
    pub fn viewers_left(&self, loads: &[Load], max: f64, bitrate_bps: u64) -> u64 {
        let left = |shard: usize| {
            let room = max - self.expected(shard, loads, bitrate_bps);
            if self.shards[shard].refuses { 0 } else { (room / self.cost(shard, bitrate_bps)).max(0.0) as u64 }
        };
        (0..self.shards.len()).map(left).sum()
    }

    /// How busy it will be, once those who came since the measurements cost what the others do.
    fn expected(&self, shard: usize, loads: &[Load], bitrate_bps: u64) -> f64 {
        let state = self.shards.get(shard).copied().unwrap_or_default();
        let viewers = loads.get(shard).map_or(0.0, |load| load.viewers as f64);
        self.busy(shard) + (viewers - state.viewers).max(0.0) * self.cost(shard, bitrate_bps)
    }

    /// Of one viewer, as a share of the shard.
    fn cost(&self, shard: usize, bitrate_bps: u64) -> f64 {
        let state = self.shards.get(shard).copied().unwrap_or_default();
        let guess = bitrate_bps.max(BITRATE_BPS_MIN) as f64 / 8.0 * NS_PER_BYTE * 1e-9;
        if state.viewers < VIEWERS_KNOWN_MIN {
            return guess;
        }
        // What else a shard does is in its busy time as well; and who gets nothing now will cost something.
        (self.busy(shard) / state.viewers).clamp(guess / 8.0, guess * 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W1: u64 = 2_500_000;

    fn load(viewers: usize) -> Vec<Load> {
        vec![Load { publishers: 1, viewers }]
    }

    /// So many seconds of being so busy with so many viewers.
    fn after(capacity: &mut Capacity, seconds: usize, busy: f64, viewers: usize) {
        for _ in 0..seconds {
            capacity.measure(&[busy], &load(viewers), 0.85, W1);
        }
    }

    #[test]
    fn a_busy_shard_refuses_until_it_is_well_below_its_limit() {
        let mut capacity = Capacity::default();
        let room = |capacity: &Capacity, viewers| capacity.has_room(0, &load(viewers), 0.85, W1);
        assert!(room(&capacity, 0), "nothing is known yet");
        after(&mut capacity, 10, 0.84, 2_000);
        assert!(room(&capacity, 2_000));
        after(&mut capacity, 20, 0.90, 2_000);
        assert!(!room(&capacity, 2_000));
        // A few that leave are no reason to let as many in, and to refuse them the next second.
        after(&mut capacity, 20, 0.83, 1_900);
        assert!(!room(&capacity, 1_900));
        after(&mut capacity, 20, 0.79, 1_800);
        assert!(room(&capacity, 1_800));
        assert!(capacity.has_room(0, &load(1_000_000), 0.0, W1), "0 is no limit");
    }

    #[test]
    fn a_second_of_work_is_no_reason_to_refuse() {
        let mut capacity = Capacity::default();
        after(&mut capacity, 10, 0.3, 500);
        after(&mut capacity, 1, 1.0, 500);
        assert!(capacity.has_room(0, &load(500), 0.85, W1));
        after(&mut capacity, 5, 1.0, 500);
        assert!(!capacity.has_room(0, &load(500), 0.85, W1));
    }

    /// Many come between two measurements: each is counted at the price of those that are there.
    #[test]
    fn who_came_since_counts_before_he_is_measured() {
        let mut capacity = Capacity::default();
        after(&mut capacity, 20, 0.4, 1_000);
        let mut viewers = 1_000;
        while capacity.has_room(0, &load(viewers), 0.85, W1) {
            viewers += 1;
            assert!(viewers < 10_000);
        }
        assert!((2_120..=2_130).contains(&viewers), "{viewers}");
        // Which rounds the other way.
        assert!(capacity.viewers_left(&load(1_000), 0.85, W1).abs_diff(viewers as u64 - 1_000) <= 1);
        // They are measured little by little, and nobody more gets in meanwhile.
        for _ in 0..30 {
            capacity.measure(&[0.4 * viewers as f64 / 1_000.0], &load(viewers), 0.85, W1);
            assert!(!capacity.has_room(0, &load(viewers + 5), 0.85, W1));
        }
    }

    #[test]
    fn newcomers_count_at_once_and_nobody_is_idle_who_was_not_measured() {
        let mut capacity = Capacity::default();
        let loads = [Load { publishers: 1, viewers: 100 }, Load { publishers: 0, viewers: 900 }];
        assert_eq!([0, 1].map(|shard| capacity.busy_with_newcomers(shard, &loads, W1)), [0.0, 0.0]);
        (0..20).for_each(|_| capacity.measure(&[0.3, 0.2], &loads, 0.85, W1));
        let busy = |viewers: [usize; 2]| {
            let loads = viewers.map(|viewers| Load { publishers: 0, viewers });
            [0, 1].map(|shard| capacity.busy_with_newcomers(shard, &loads, W1))
        };
        assert_eq!(busy([100, 900]), [0.3, 0.2]);
        // One costs 0.2 / 900 there: 450 more fill the difference of 0.1, and then it is the other's turn.
        let [one, other] = busy([100, 900 + 445]);
        assert!(one > other, "{one} {other}");
        let [one, other] = busy([100, 900 + 455]);
        assert!(one < other, "{one} {other}");
        let three = [Load::default(); 3];
        assert_eq!(capacity.busy_with_newcomers(2, &three, W1), 0.0);
        assert_eq!(capacity.busy_with_newcomers(0, &three, W1), 0.0, "the third was not measured");
    }

    #[test]
    fn an_empty_shard_goes_by_the_streams_bitrate() {
        let mut capacity = Capacity::default();
        after(&mut capacity, 1, 0.0, 0);
        let left = |bitrate| capacity.viewers_left(&load(0), 0.85, bitrate);
        // 312,500 bytes a second at 3 ns.
        assert_eq!(left(W1), 906);
        assert_eq!(left(2 * W1), 453);
        assert_eq!(left(0), 35_416, "as if it were 64 kbit/s");
        let mut two = Capacity::default();
        two.measure(&[0.0, 0.9], &[Load::default(); 2], 0.85, W1);
        assert_eq!(two.viewers_left(&[Load::default(); 2], 0.85, W1), 906);
        assert!(two.has_room(0, &[Load::default(); 2], 0.85, W1) && !two.has_room(1, &[Load::default(); 2], 0.85, W1));
    }
}

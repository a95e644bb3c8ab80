//! Admission limits: what an operator allows, and whether one more fits. Decided under the lock of `Rooms` together
//! with the join's entry into its tables, so that of many who come at once exactly as many get in as there are places.

use super::Refusal;
use super::capacity::Capacity;
use super::placement::{self, Load};
use serde::{Deserialize, Serialize};
use spillway_proto::time::Time;

/// 0 is no limit. What the engine cannot do it refuses by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub publishers_max: u32,
    pub publishers_per_account_max: u32,
    pub viewers_max: u32,
    pub viewers_per_room_max: u32,
    pub viewers_per_account_max: u32,
    pub joins_per_second_max: u32,
    pub egress_mbps_max: u32,
    pub busy_percent_max: u32,
}

impl Limits {
    pub const NAMES: [&str; 8] = [
        "publishers_max",
        "publishers_per_account_max",
        "viewers_max",
        "viewers_per_room_max",
        "viewers_per_account_max",
        "joins_per_second_max",
        "egress_mbps_max",
        "busy_percent_max",
    ];

    pub fn by_name(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            "publishers_max" => &mut self.publishers_max,
            "publishers_per_account_max" => &mut self.publishers_per_account_max,
            "viewers_max" => &mut self.viewers_max,
            "viewers_per_room_max" => &mut self.viewers_per_room_max,
            "viewers_per_account_max" => &mut self.viewers_per_account_max,
            "joins_per_second_max" => &mut self.joins_per_second_max,
            "egress_mbps_max" => &mut self.egress_mbps_max,
            "busy_percent_max" => &mut self.busy_percent_max,
            _ => return None,
        })
    }
}

/// How full everything is, joins under way included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub publishers: usize,
    pub publishers_of_account: usize,
    pub viewers: usize,
    pub viewers_of_room: usize,
    pub viewers_of_account: usize,
    /// What all viewers of all streams get.
    pub promised_bps: u64,
    /// What one more would get.
    pub wanted_bps: u64,
}

/// One room's part of the counts.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub is_wanted: bool,
    pub has_publisher: bool,
    /// The publisher is of the account that asks.
    pub is_of_account: bool,
    pub viewers: usize,
    pub bitrate_bps: u64,
}

impl Counts {
    pub fn add(&mut self, room: &Room) {
        self.publishers += usize::from(room.has_publisher);
        self.publishers_of_account += usize::from(room.is_of_account);
        self.viewers += room.viewers;
        if room.is_wanted {
            self.viewers_of_room = room.viewers;
        }
        self.promised_bps = self.promised_bps.saturating_add(room.bitrate_bps.saturating_mul(room.viewers as u64));
    }
}

/// The limits with what has to be remembered between two joins.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    pub limits: Limits,
    /// All that went out in the last second, with headers and what was sent twice.
    pub egress_bps: u64,
    pub capacity: Capacity,
    joins: Joins,
}

impl Gate {
    pub fn admit_publisher(&self, counts: &Counts) -> Result<(), Refusal> {
        let Limits { publishers_max, publishers_per_account_max, .. } = self.limits;
        if is_full(counts.publishers, publishers_max) {
            return Err(Refusal::NodeFull("publishers, by its limit"));
        }
        if is_full(counts.publishers_of_account, publishers_per_account_max) {
            return Err(Refusal::AccountFull { what: "publishers", max: publishers_per_account_max });
        }
        Ok(())
    }

    /// How busy a shard may be, 0 to 1; 0: as busy as it gets.
    pub fn busy_max(&self) -> f64 {
        f64::from(self.limits.busy_percent_max) / 100.0
    }

    /// `room_max` is the room's own limit. Takes a join of this second if it admits, and says to which shard.
    pub fn admit_viewer(&mut self, counts: &Counts, loads: &[Load], room_max: Option<u32>, now: Time) -> Result<usize, Refusal> {
        let limits = self.limits;
        let room_max = room_max.unwrap_or(limits.viewers_per_room_max);
        if is_full(counts.viewers_of_room, room_max) {
            return Err(Refusal::RoomFull { max: room_max });
        }
        if is_full(counts.viewers_of_account, limits.viewers_per_account_max) {
            return Err(Refusal::AccountFull { what: "viewers", max: limits.viewers_per_account_max });
        }
        if is_full(counts.viewers, limits.viewers_max) {
            return Err(Refusal::NodeFull("viewers, by its limit"));
        }
        // What was measured has repairs in it; what was promised has those that came since.
        let egress_bps = self.egress_bps.max(counts.promised_bps).saturating_add(counts.wanted_bps);
        if limits.egress_mbps_max > 0 && egress_bps > u64::from(limits.egress_mbps_max) * 1_000_000 {
            return Err(Refusal::EgressFull { max: limits.egress_mbps_max });
        }
        let has_room = |shard| self.capacity.has_room(shard, loads, self.busy_max(), counts.wanted_bps);
        let busy = |shard| self.capacity.busy_with_newcomers(shard, loads, counts.wanted_bps);
        let Some(shard) = placement::viewer_shard(loads, busy, has_room) else {
            return Err(Refusal::CapacityFull { max: limits.busy_percent_max });
        };
        if !self.joins.take(limits.joins_per_second_max, now) {
            return Err(Refusal::JoinRate { max: limits.joins_per_second_max });
        }
        Ok(shard)
    }
}

fn is_full(count: usize, max: u32) -> bool {
    max > 0 && count >= max as usize
}

/// A second's joins may come at once, then as many as the second gives back.
#[derive(Clone, Copy, Debug, Default)]
struct Joins {
    /// Thousandths of a join that were taken and not given back yet.
    taken_milli: u64,
    at: Option<Time>,
}

impl Joins {
    fn take(&mut self, per_second: u32, now: Time) -> bool {
        if per_second == 0 {
            self.at = None;
            return true;
        }
        let given_back = match self.at {
            Some(at) => (now.since(at).as_nanos() / 1_000).saturating_mul(u128::from(per_second)) / 1_000,
            None => u128::from(self.taken_milli),
        };
        let taken = u128::from(self.taken_milli).saturating_sub(given_back);
        if taken + 1_000 > u128::from(per_second) * 1_000 {
            // Not moved on: what a microsecond gives back may be less than a thousandth.
            return false;
        }
        self.taken_milli = u64::try_from(taken + 1_000).unwrap_or(u64::MAX);
        self.at = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LOADS: [Load; 1] = [Load { publishers: 1, viewers: 0 }];

    fn gate(limits: Limits) -> Gate {
        Gate { limits, ..Gate::default() }
    }

    #[test]
    fn each_limit_admits_up_to_itself_and_none_beyond() {
        let max = 3;
        let view = |limits: Limits, counts: Counts| gate(limits).admit_viewer(&counts, &LOADS, None, Time::ZERO).err();
        let publish = |limits: Limits, counts: Counts| gate(limits).admit_publisher(&counts).err();
        for (count, full) in [(2, false), (3, true), (4, true)] {
            let of = |refusal: Refusal| full.then_some(refusal);
            let counts = Counts { viewers_of_room: count, ..Counts::default() };
            assert_eq!(view(Limits { viewers_per_room_max: max, ..Limits::default() }, counts), of(Refusal::RoomFull { max }));
            let counts = Counts { viewers: count, ..Counts::default() };
            let node = Refusal::NodeFull("viewers, by its limit");
            assert_eq!(view(Limits { viewers_max: max, ..Limits::default() }, counts), of(node));
            let counts = Counts { viewers_of_account: count, ..Counts::default() };
            let account = Refusal::AccountFull { what: "viewers", max };
            assert_eq!(view(Limits { viewers_per_account_max: max, ..Limits::default() }, counts), of(account));
            let counts = Counts { publishers: count, ..Counts::default() };
            let node = Refusal::NodeFull("publishers, by its limit");
            assert_eq!(publish(Limits { publishers_max: max, ..Limits::default() }, counts), of(node));
            let counts = Counts { publishers_of_account: count, ..Counts::default() };
            let account = Refusal::AccountFull { what: "publishers", max };
            assert_eq!(publish(Limits { publishers_per_account_max: max, ..Limits::default() }, counts), of(account));
            let counts = Counts { promised_bps: count as u64 * 1_000_000, wanted_bps: 1_000_000, ..Counts::default() };
            assert_eq!(view(Limits { egress_mbps_max: max, ..Limits::default() }, counts), of(Refusal::EgressFull { max }));
        }
        assert_eq!(view(Limits::default(), Counts { viewers: 1 << 20, viewers_of_room: 1 << 20, ..Counts::default() }), None);
    }

    #[test]
    fn a_rooms_own_limit_goes_before_the_nodes() {
        let counts = Counts { viewers_of_room: 3, ..Counts::default() };
        let mut gate = gate(Limits { viewers_per_room_max: 3, ..Limits::default() });
        assert_eq!(gate.admit_viewer(&counts, &LOADS, Some(4), Time::ZERO), Ok(0));
        assert_eq!(gate.admit_viewer(&counts, &LOADS, Some(2), Time::ZERO), Err(Refusal::RoomFull { max: 2 }));
        assert_eq!(gate.admit_viewer(&counts, &LOADS, Some(0), Time::ZERO), Ok(0), "0 is no limit here, too");
    }

    #[test]
    fn what_goes_out_already_counts_even_if_nobody_promised_it() {
        let mut gate = gate(Limits { egress_mbps_max: 10, ..Limits::default() });
        let counts = Counts { promised_bps: 5_000_000, wanted_bps: 1_000_000, ..Counts::default() };
        assert_eq!(gate.admit_viewer(&counts, &LOADS, None, Time::ZERO), Ok(0));
        gate.egress_bps = 9_500_000;
        assert_eq!(gate.admit_viewer(&counts, &LOADS, None, Time::ZERO), Err(Refusal::EgressFull { max: 10 }));
    }

    #[test]
    fn a_busy_node_refuses_and_a_shard_with_room_is_found() {
        let mut gate = gate(Limits { busy_percent_max: 85, ..Limits::default() });
        let loads = [Load { publishers: 1, viewers: 30 }, Load { publishers: 0, viewers: 90 }];
        let counts = Counts { wanted_bps: 1_000_000, ..Counts::default() };
        let shard = |gate: &mut Gate| gate.admit_viewer(&counts, &loads, None, Time::ZERO);
        assert_eq!(shard(&mut gate), Ok(0), "nothing is known of either");
        for (busy, found) in [([0.1, 0.1], Ok(0)), ([0.3, 0.1], Ok(1)), ([0.1, 0.3], Ok(0)), ([0.95, 0.1], Ok(1)), ([0.95, 0.95], Err(Refusal::CapacityFull { max: 85 }))] {
            for _ in 0..20 {
                let max = gate.busy_max();
                gate.capacity.measure(&busy, &loads, max, 1_000_000);
            }
            assert_eq!(shard(&mut gate), found);
        }
        gate.limits.busy_percent_max = 0;
        assert!(shard(&mut gate).is_ok(), "0 is no limit");
    }

    #[test]
    fn joins_come_in_a_burst_of_a_second_and_then_at_their_rate() {
        let mut gate = gate(Limits { joins_per_second_max: 10, ..Limits::default() });
        let at = |ms| Time::ZERO + Duration::from_secs(9) + Duration::from_millis(ms);
        let mut joins = |ms| (0..100).filter(|_| gate.admit_viewer(&Counts::default(), &LOADS, None, at(ms)).is_ok()).count();
        assert_eq!(joins(0), 10);
        assert_eq!(joins(99), 0);
        assert_eq!(joins(100), 1);
        assert_eq!(joins(400), 3);
        assert_eq!(joins(9_000), 10, "no more than a second is saved up");
        // Asked every millisecond, still ten a second.
        let mut gate = super::Gate { limits: Limits { joins_per_second_max: 10, ..Limits::default() }, ..Gate::default() };
        let count = (0..3_000).filter(|ms| gate.admit_viewer(&Counts::default(), &LOADS, None, at(*ms)).is_ok()).count();
        assert_eq!(count, 10 + 29);
    }
}

//! Which cores the shards run on, and which are left for control. Pure.

use spillway_proto::limits::SHARDS_MAX;

#[derive(PartialEq, Debug)]
pub struct Placement {
    /// One per shard.
    pub shards: Vec<usize>,
    /// Control's; empty: anywhere, because the shards leave none free.
    pub control: Vec<usize>,
}

/// What control gives way by where it shares the shards' cores. A join costs it a millisecond, and a thousand of them come at
/// once: those who watch already go first.
const CONTROL_NICE: libc::c_int = 10;

impl Placement {
    pub fn control_nice(&self) -> libc::c_int {
        if self.control.is_empty() { CONTROL_NICE } else { 0 }
    }
}

/// Up to 8 cores one is left to control and the kernel, above that two.
fn shards_default(cores: usize) -> usize {
    let left = if cores <= 8 { 1 } else { 2 };
    cores.saturating_sub(left).clamp(1, SHARDS_MAX)
}

/// Shards on the last cores (interrupts prefer the first ones), control on the rest; more shards than cores
/// share them in turn.
pub fn place(cores: &[usize], shards: Option<usize>) -> Placement {
    let shards = shards.unwrap_or_else(|| shards_default(cores.len()));
    let free = cores.len().saturating_sub(shards);
    let (control, ours) = cores.split_at(free);
    Placement { shards: ours.iter().copied().cycle().take(shards).collect(), control: control.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_is_left_up_to_eight_and_two_above() {
        let expected = [(1, 1), (2, 1), (3, 2), (8, 7), (9, 7), (16, 14), (64, 62), (128, 64)];
        for (cores, shards) in expected {
            assert_eq!(shards_default(cores), shards, "{cores} cores");
        }
    }

    #[test]
    fn control_stays_off_the_shards_cores_where_there_is_room() {
        assert_eq!(place(&[4, 5, 6, 7], Some(2)), Placement { shards: vec![6, 7], control: vec![4, 5] });
        assert_eq!(place(&[0, 1], None), Placement { shards: vec![1], control: vec![0] });
        assert_eq!(place(&[0, 1], Some(2)), Placement { shards: vec![0, 1], control: vec![] });
        assert_eq!(place(&[3], Some(2)), Placement { shards: vec![3, 3], control: vec![] });
    }

    #[test]
    fn control_gives_way_where_it_has_no_core_of_its_own() {
        assert_eq!(place(&[0, 1], None).control_nice(), 0);
        assert!(place(&[0, 1], Some(2)).control_nice() > 0 && place(&[0], None).control_nice() > 0);
    }
}

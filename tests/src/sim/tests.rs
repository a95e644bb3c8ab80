//! Goal: the eight invariants hold. Method: twenty seeds of each scenario, on all cores; more by hand (`bin/sim.rs`).

use super::scenario::SCENARIOS;
use super::{replay_command, simulate};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const SEEDS: usize = 20;

/// All seeds of all scenarios in one test, so that the cores are shared by as many threads as there are cores.
#[test]
fn twenty_seeds_of_every_scenario_hold() {
    let next = AtomicUsize::new(0);
    // Packets that publishers lost: sent again because they were asked for, and come back to the engine, of all runs.
    let (resent, recovered) = (AtomicU64::new(0), AtomicU64::new(0));
    let broken = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(scenario), seed) = (SCENARIOS.get(at / SEEDS), (at % SEEDS) as u64) else { return };
                    match simulate(scenario, seed) {
                        Ok(report) => {
                            resent.fetch_add(report.resent, Ordering::Relaxed);
                            recovered.fetch_add(report.recovered, Ordering::Relaxed);
                        }
                        Err(violation) => {
                            let text = format!("{violation}\n  again: {}", replay_command(scenario.name, seed));
                            broken.lock().unwrap().push(text);
                        }
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{} runs broke an invariant:\n{}", broken.len(), broken.join("\n"));
    let (resent, recovered) = (resent.into_inner(), recovered.into_inner());
    assert!(resent.min(recovered) > 2_000, "{resent} packets were sent again by publishers, {recovered} came back");
}

#[test]
fn a_seed_gives_the_same_run_again_and_another_seed_another() {
    for scenario in &SCENARIOS[1..] {
        let first = simulate(scenario, 3).unwrap();
        assert_eq!(first, simulate(scenario, 3).unwrap(), "{}", scenario.name);
        assert!(first.media > 1_000 && first.frames > 100, "{}: {first:?}", scenario.name);
    }
    assert_ne!(simulate(&SCENARIOS[4], 1).unwrap().digest, simulate(&SCENARIOS[4], 2).unwrap().digest);
}

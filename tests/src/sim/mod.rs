//! The simulator: the engine's shards and control's policy as they are, over a network, clients and a clock that a
//! seed decides. Eight invariants are looked at in every scenario; what breaks one names the seed that shows it.
//!
//! - `run` is the loop, with `actions` and `verdict`; `scenario` says what happens in it; `person` and `remote` are who
//!   is there.
//! - `network` loses, doubles, delays; `media` is what is published; `control` drives the policy.
//! - `remote` (its sniffer), `feed`, `reception` and `run::verdict` hold what they see to `violation`'s list.
//! - `handshake` stands in for DTLS, `hash` for the comparison of whole datagrams.

pub mod control;
pub mod feed;
pub mod handshake;
pub mod hash;
pub mod media;
pub mod network;
pub mod person;
pub mod reception;
pub mod remote;
pub mod run;
pub mod scenario;
pub mod violation;

use run::Report;
use scenario::Scenario;
use violation::Violation;

/// One seed of one scenario, from its beginning to its end.
pub fn simulate(scenario: &Scenario, seed: u64) -> Result<Report, Violation> {
    let (mut run, end) = scenario.begin(seed);
    run.until(end)?;
    run.finish()
}

/// The one command that shows a failing seed again.
pub fn replay_command(scenario: &str, seed: u64) -> String {
    format!("cargo run --release -p spillway-tests --bin sim -- --scenario {scenario} --seeds {seed}..{}", seed + 1)
}


#[cfg(test)]
mod tests;

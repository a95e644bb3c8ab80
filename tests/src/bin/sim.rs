//! `sim`: runs the simulator's scenarios over ranges of seeds. Prints what broke and how to see it again.

use clap::Parser;
use spillway_tests::sim::run::Report;
use spillway_tests::sim::scenario::{SCENARIOS, Scenario, find};
use spillway_tests::sim::violation::{Invariant, Violation};
use spillway_tests::sim::{replay_command, simulate};
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The engine's shards and control's policy in virtual time, over a network that a seed decides.
///
/// Every run is looked at for eight invariants (--list names them and the scenarios). The same seed gives the same
/// run, byte for byte: a failure prints the one command that shows it again. Exit code 0: all runs held; 1: some
/// invariant broke; 2: the command line is wrong.
#[derive(Parser)]
#[command(after_help = "Examples:\n  \
    sim --list                                     what there is\n  \
    sim --scenario lossy-crowd --seeds 0..1000     a thousand seeds on all cores\n  \
    sim --scenario all --seeds 0..20               what the tests run\n  \
    sim --scenario control-crash --seeds 17..18    one seed again")]
struct Arguments {
    /// A scenario's name, or `all`.
    #[arg(long, default_value = "all")]
    scenario: String,
    /// First..end: the end is not run; or a single seed.
    #[arg(long, default_value = "0..20", value_parser = seeds)]
    seeds: (u64, u64),
    /// Runs at once; 0: as many as there are cores.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// A line of JSON for every run and one at the end, on standard output.
    #[arg(long)]
    json: bool,
    /// Goes on after a failure.
    #[arg(long)]
    keep_going: bool,
    /// Names the scenarios and the invariants.
    #[arg(long)]
    list: bool,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("`{text}` is no number; write 0..20"));
    let (first, end) = match text.split_once("..") {
        Some((first, end)) => (number(first)?, number(end)?),
        None => (number(text)?, number(text)?.saturating_add(1)),
    };
    if first < end { Ok((first, end)) } else { Err(format!("{text} holds no seed: the end is not run")) }
}

struct Done {
    scenario: &'static Scenario,
    seed: u64,
    took: Duration,
    outcome: Result<Report, Violation>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for scenario in &SCENARIOS {
            println!("{:<20} {}", scenario.name, scenario.text);
        }
        println!();
        Invariant::ALL.iter().for_each(|invariant| println!("{invariant}"));
        return ExitCode::SUCCESS;
    }
    let scenarios: Vec<&'static Scenario> = match (arguments.scenario.as_str(), find(&arguments.scenario)) {
        ("all", _) => SCENARIOS.iter().collect(),
        (_, Some(scenario)) => vec![scenario],
        (name, None) => {
            let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            eprintln!("there is no scenario `{name}`; there are all, {}", names.join(", "));
            return ExitCode::from(2);
        }
    };
    let broken = run_all(&arguments, &scenarios);
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns how many runs broke an invariant.
fn run_all(arguments: &Arguments, scenarios: &[&'static Scenario]) -> usize {
    let (first, end) = arguments.seeds;
    let each = end - first;
    let total = each * scenarios.len() as u64;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = if arguments.jobs == 0 { cores } else { arguments.jobs };
    let next = AtomicU64::new(0);
    let (done, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&scenario) = scenarios.get((at / each) as usize) else { return };
                    let (seed, began) = (first + at % each, Instant::now());
                    let outcome = simulate(scenario, seed);
                    if done.send(Done { scenario, seed, took: began.elapsed(), outcome }).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let broken = tell(arguments, total, results);
        // Ends the others: they find no more seeds.
        next.store(total, Ordering::Relaxed);
        broken
    })
}

fn tell(arguments: &Arguments, total: u64, results: mpsc::Receiver<Done>) -> usize {
    let began = Instant::now();
    let (mut runs, mut broken, mut told_at) = (0, 0, Instant::now());
    let (mut media, mut virtual_ms) = (0, 0);
    for done in results {
        runs += 1;
        if arguments.json {
            println!("{}", json(&done));
        }
        match &done.outcome {
            Ok(report) => (media, virtual_ms) = (media + report.media, virtual_ms + report.virtual_ms),
            Err(violation) => {
                broken += 1;
                eprintln!("{} seed {}: {violation}", done.scenario.name, done.seed);
                eprintln!("  again: {}", replay_command(done.scenario.name, done.seed));
                if !arguments.keep_going {
                    break;
                }
            }
        }
        if told_at.elapsed() >= Duration::from_secs(5) {
            told_at = Instant::now();
            eprintln!("{runs} of {total} runs, {broken} broken, {:.0?} (now {})", began.elapsed(), done.scenario.name);
        }
    }
    let took = began.elapsed();
    let text = format!("{runs} of {total} runs, {broken} broken: {virtual_ms} ms of virtual time, {media} media datagrams, {took:.1?}");
    if arguments.json {
        println!("{}", serde_json::json!({ "runs": runs, "broken": broken, "virtual_ms": virtual_ms, "media": media, "ms": took.as_millis() as u64 }));
    } else {
        println!("{text}");
    }
    let _ = std::io::stdout().flush();
    broken
}

fn json(done: &Done) -> serde_json::Value {
    let mut value = serde_json::json!({
        "scenario": done.scenario.name, "seed": done.seed, "ms": done.took.as_millis() as u64,
        "held": done.outcome.is_ok(),
    });
    let more = match &done.outcome {
        Ok(report) => serde_json::json!({
            "digest": format!("{:016x}{:016x}", report.digest.0, report.digest.1), "virtual_ms": report.virtual_ms,
            "datagrams": report.datagrams, "lost": report.lost, "media": report.media, "sessions": report.sessions,
            "frames": report.frames, "repaired": report.repaired, "recovered": report.recovered, "resent": report.resent,
            "rebuilds": report.rebuilds, "strays": report.strays,
        }),
        Err(violation) => serde_json::json!({
            "invariant": violation.invariant.letter().to_string(), "at_ms": violation.at.as_millis(),
            "seen": violation.seen, "again": replay_command(done.scenario.name, done.seed),
        }),
    };
    if let (Some(value), Some(more)) = (value.as_object_mut(), more.as_object()) {
        value.extend(more.clone());
    }
    value
}

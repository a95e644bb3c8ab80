//! `spillway-bench`: reads the command line, runs, writes what came of it, and ends with a code that scripts can use.

use clap::Parser;
use spillway_bench::cli::{Cli, Command, Exit, RunArgs};
use spillway_bench::summary::Summary;
use spillway_bench::{run, text};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the first Ctrl-C: what was measured so far is told, and everybody leaves in order.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let cli = Cli::parse();
    spillway_bench::sys::on_interrupt(|| INTERRUPTED.store(true, Ordering::Relaxed));
    match cli.command {
        Command::Run(args) => end(&args),
    }
}

fn end(args: &RunArgs) -> ExitCode {
    let summary = match run::run(args, &INTERRUPTED) {
        Ok(summary) => summary,
        Err(error) => {
            eprintln!("spillway-bench: {error}");
            return error.exit().into();
        }
    };
    let json_to_output = args.json.as_deref() == Some(Path::new("-"));
    if json_to_output {
        eprint!("{}", text::write(&summary));
    } else {
        print!("{}", text::write(&summary));
    }
    if let Err(error) = files(args, &summary) {
        eprintln!("spillway-bench: {error}");
        return Exit::Usage.into();
    }
    if summary.generator.saturated {
        return Exit::Saturated.into();
    }
    if summary.thresholds.iter().any(|verdict| !verdict.met) { Exit::Failed.into() } else { Exit::Ok.into() }
}

fn files(args: &RunArgs, summary: &Summary) -> Result<(), String> {
    let json = serde_json::to_string_pretty(summary).map_err(|error| error.to_string())?;
    match args.json.as_deref() {
        Some(path) if path == Path::new("-") => println!("{json}"),
        Some(path) => std::fs::write(path, json + "\n").map_err(|error| format!("{}: {error}", path.display()))?,
        None => {}
    }
    Ok(())
}

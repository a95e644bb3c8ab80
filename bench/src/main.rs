//! `spillway-bench`: reads the command line, runs, writes what came of it, and ends with a code that scripts can use.

use serde::Serialize;
use spillway_bench::cli::{Cli, Command, Exit, LabArgs, VerdictArgs};
use spillway_bench::find_max::{self, Found};
use spillway_bench::lab::Lab;
use spillway_bench::run::{self, RunError};
use spillway_bench::summary::Summary;
use spillway_bench::{page, scenario, spec, sys, text};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words = match scenario::expand(std::env::args_os().collect()) {
        Ok(words) => words,
        Err(error) => {
            eprintln!("spillway-bench: {error}");
            return Exit::Usage.into();
        }
    };
    let cli = Cli::read(words).unwrap_or_else(|error| error.exit());
    // The first Ctrl-C: what was measured so far is told, and everybody leaves in order.
    sys::catch_interrupts();
    let ended = match cli.command {
        Command::Run(args) => {
            run::run(&args).and_then(|summary| tell(&summary, &args.verdict))
        }
        Command::FindMax(args) => {
            find_max::find(&args, None).and_then(|found| tell_found(&found, &args.run.verdict))
        }
        Command::Lab(args) => lab(&args, false),
        Command::Null(args) => lab(&args.lab(), true),
        Command::Model(args) => {
            let forecast = args.forecast();
            write(&forecast.text, &forecast, args.json.as_deref()).map(|()| Exit::Ok)
        }
        Command::Spec(args) => return spec::main(&args),
    };
    match ended {
        // Cut short, it neither held nor failed.
        Ok(_) if sys::is_interrupted() => Exit::Interrupted.into(),
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("spillway-bench: {error}");
            if sys::is_interrupted() { Exit::Interrupted.into() } else { error.exit().into() }
        }
    }
}

fn lab(args: &LabArgs, null: bool) -> Result<Exit, RunError> {
    let lab = Lab::open(args, null)?;
    let place = lab.beside_server(args.kill)?;
    if args.find_max {
        let found = find_max::find(&lab.find_max_args(args), Some(&place))?;
        return tell_found(&found, &args.run.verdict);
    }
    let summary = run::run_from(&lab.run_args(args), Some(&place))?;
    tell(&summary, &args.run.verdict)
}

fn tell(summary: &Summary, asked: &VerdictArgs) -> Result<Exit, RunError> {
    write(&text::write(summary), summary, asked.json.as_deref())?;
    if let Some(path) = &asked.report {
        put(path, &page::write(summary))?;
    }
    if summary.target_gone {
        return Ok(Exit::Unreachable);
    }
    if summary.generator.saturated {
        return Ok(Exit::Saturated);
    }
    Ok(if summary.thresholds.iter().any(|verdict| !verdict.met) { Exit::Failed } else { Exit::Ok })
}

fn tell_found(found: &Found, asked: &VerdictArgs) -> Result<Exit, RunError> {
    write(&text::write_found(found), found, asked.json.as_deref())?;
    if let Some(path) = &asked.report {
        put(path, &page::write_found(found))?;
    }
    Ok(if found.generator_was_limit { Exit::Saturated } else { Exit::Ok })
}

/// The words to people, the numbers to the file; with `-` the numbers have standard output for themselves.
fn write(words: &str, value: &impl Serialize, json: Option<&Path>) -> Result<(), RunError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| RunError::Failed(error.to_string()))?;
    match json {
        Some(path) if path == Path::new("-") => {
            eprint!("{words}");
            println!("{text}");
        }
        Some(path) => {
            print!("{words}");
            put(path, &(text + "\n"))?;
        }
        None => print!("{words}"),
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<(), RunError> {
    std::fs::write(path, text).map_err(|error| RunError::Failed(format!("{}: {error}", path.display())))
}

//! `spillway-bench spec`: runs what `bench/SPECIFICATION.md` says and holds what was measured against its floors and goals.
//! Each run is the command that stands there, as a process of its own, so that everybody can run it alone.

pub mod document;
mod machine;
pub mod measure;

use crate::cli::{Cli, Command, Exit, SpecArgs};
use crate::{scenario, sys};
use document::{Document, Row, Section, UNMEASURED, number, typed, with_unit};
use serde::Serialize;
use serde_json::Value;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

/// The one in the program, when no file is named: it cannot be written to.
const BUILT_IN: &str = include_str!("../../SPECIFICATION.md");
const UNMEASURABLE: u8 = 1;

/// One row of the result.
#[derive(Clone, Serialize, Debug)]
pub struct Line {
    pub id: String,
    pub promise: String,
    pub unit: String,
    pub floor: String,
    pub goal: String,
    /// The middle of the repeats that counted; none: why stands in `note`.
    pub measured: Option<f64>,
    /// The least and the most.
    pub spread: Option<[f64; 2]>,
    /// Of every repeat that counted.
    pub values: Vec<f64>,
    /// `floor`, `goal` or `no`.
    pub met: Option<&'static str>,
    pub commands: Vec<String>,
    /// Repeats that did not count, and why.
    pub note: Option<String>,
}

pub fn main(args: &SpecArgs) -> ExitCode {
    match run(args) {
        Ok(_) if sys::is_interrupted() => Exit::Interrupted.into(),
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => UNMEASURABLE.into(),
        Err(error) => {
            eprintln!("spillway-bench spec: {error}");
            Exit::Usage.into()
        }
    }
}

/// True: every row that was asked for could be measured.
fn run(args: &SpecArgs) -> Result<bool, String> {
    let (mut document, path) = read(args)?;
    let asked: Vec<Section> = chosen(&document, &args.rows)?;
    if args.list {
        list(&asked);
        return Ok(true);
    }
    if args.write && path.is_none() {
        return Err("--write needs --file: bench/spec gives it".to_owned());
    }
    let seconds: f64 = asked.iter().flat_map(|section| &section.commands).map(|command| duration_of(command)).sum::<f64>() * args.repeats as f64;
    eprintln!("{} rows in {} sections, {} times each: about {}", asked.iter().map(|section| section.rows.len()).sum::<usize>(), asked.len(), args.repeats, minutes(seconds));
    let mut lines = Vec::new();
    let mut left = seconds;
    for (place, section) in asked.iter().enumerate() {
        let measured = measure_section(section, args.repeats, |repeat, command| {
            eprintln!("[{}/{}] {} ({repeat} of {}; {} to go): {}", place + 1, asked.len(), section.name, args.repeats, minutes(left), typed(command));
            left = (left - duration_of(command)).max(0.0);
        });
        if !args.json {
            for line in &measured {
                println!("{}", in_words(line));
            }
        }
        lines.extend(measured);
        if sys::is_interrupted() {
            break;
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&lines).map_err(|error| error.to_string())?);
    }
    if let (true, Some(path)) = (args.write, path) {
        let date = machine::date();
        for line in lines.iter().filter(|line| line.measured.is_some()) {
            document.write(&line.id, as_cells(line, &date));
        }
        document.write_machine(&machine::facts());
        std::fs::write(&path, document.text()).map_err(|error| format!("{}: {error}", path.display()))?;
        eprintln!("written to {}", path.display());
    }
    let asked_rows = asked.iter().map(|section| section.rows.len()).sum::<usize>();
    Ok(lines.len() == asked_rows && lines.iter().all(|line| line.measured.is_some()))
}

fn read(args: &SpecArgs) -> Result<(Document, Option<PathBuf>), String> {
    let (text, name) = match &args.file {
        Some(path) => (std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?, path.display().to_string()),
        None => (BUILT_IN.to_owned(), "bench/SPECIFICATION.md".to_owned()),
    };
    let document = Document::parse(&text).map_err(|error| format!("{name}: {error}"))?;
    for row in document.rows() {
        let measure = measure::find(&row.id).ok_or_else(|| format!("{name}: nobody knows how to measure {}", row.id))?;
        if measure.unit != row.floor.unit {
            return Err(format!("{name}: {} is measured in {:?}, not in {:?}", row.id, measure.unit, row.floor.unit));
        }
    }
    Ok((document, args.file.clone()))
}

/// The sections with the rows that were named, by id or by its beginning.
fn chosen(document: &Document, names: &[String]) -> Result<Vec<Section>, String> {
    let is_asked = |section: &Section, row: &Row, name: &String| *name == section.name || row.id.starts_with(name.as_str());
    for name in names {
        if !document.sections.iter().any(|section| section.rows.iter().any(|row| is_asked(section, row, name))) {
            let ids: Vec<&str> = document.rows().map(|row| row.id.as_str()).collect();
            return Err(format!("there is no row {name:?}; there are {}", ids.join(", ")));
        }
    }
    let mut sections = document.sections.clone();
    for section in &mut sections {
        let all = section.clone();
        section.rows.retain(|row| names.is_empty() || names.iter().any(|name| is_asked(&all, row, name)));
    }
    sections.retain(|section| !section.rows.is_empty());
    Ok(sections)
}

fn list(sections: &[Section]) {
    for section in sections {
        let seconds: f64 = section.commands.iter().map(|command| duration_of(command)).sum();
        println!("{} (about {} a time)", section.name, minutes(seconds));
        for row in &section.rows {
            let [measured, spread, met, date] = &row.last;
            println!("  {:<24} {}: floor {}, goal {}; last {measured} ({spread}; met: {met}; {date})", row.id, row.promise, row.floor, row.goal);
        }
        for command in &section.commands {
            println!("      sudo {}", typed(command));
        }
    }
}

/// All repeats of a section, its commands in turn, so that what they are compared by had the same machine.
fn measure_section(section: &Section, repeats: u64, mut tell: impl FnMut(u64, &[String])) -> Vec<Line> {
    let mut values: Vec<Vec<f64>> = vec![Vec::new(); section.rows.len()];
    let mut notes: Vec<Vec<String>> = vec![Vec::new(); section.rows.len()];
    'repeats: for repeat in 1..=repeats {
        let mut runs = Vec::new();
        for command in &section.commands {
            if sys::is_interrupted() {
                break 'repeats;
            }
            tell(repeat, command);
            match run_command(command) {
                Ok(run) => runs.push(run),
                Err(reason) => {
                    eprintln!("    {reason}");
                    notes.iter_mut().for_each(|notes| notes.push(reason.clone()));
                    // What needs root, or a program that is not there, needs it the next time, too.
                    break 'repeats;
                }
            }
        }
        if sys::is_interrupted() {
            break;
        }
        for (place, row) in section.rows.iter().enumerate() {
            match value_of(row, &runs) {
                Ok(value) => values[place].push(value),
                Err(reason) => notes[place].push(reason),
            }
        }
    }
    let lines = section.rows.iter().zip(values.into_iter().zip(notes));
    lines.map(|(row, (values, notes))| line(section, row, values, notes)).collect()
}

fn value_of(row: &Row, runs: &[Value]) -> Result<f64, String> {
    let measure = measure::find(&row.id).ok_or("nobody knows how to measure it")?;
    match runs.iter().find_map(|run| measure::objection(run, measure.needs_all)) {
        Some(reason) => Err(reason),
        None => (measure.value)(runs),
    }
}

fn line(section: &Section, row: &Row, values: Vec<f64>, mut notes: Vec<String>) -> Line {
    let least = values.iter().copied().reduce(f64::min);
    let most = values.iter().copied().reduce(f64::max);
    let measured = (!values.is_empty()).then(|| middle(values.clone()));
    let met = measured.map(|value| match (row.goal.holds(value), row.floor.holds(value)) {
        (true, _) => "goal",
        (false, true) => "floor",
        (false, false) => "no",
    });
    let missing = notes.len();
    notes.dedup();
    Line {
        id: row.id.clone(),
        promise: row.promise.clone(),
        unit: row.floor.unit.clone(),
        floor: row.floor.to_string(),
        goal: row.goal.to_string(),
        measured,
        spread: least.zip(most).map(|(least, most)| [least, most]),
        values,
        met,
        commands: section.commands.iter().map(|command| format!("sudo {}", typed(command))).collect(),
        note: match (notes.is_empty(), measured) {
            (true, Some(_)) => None,
            (true, None) => Some("interrupted".to_owned()),
            (false, _) => Some(format!("{missing} did not count: {}", notes.join(" / "))),
        },
    }
}

/// The middle one; of an even number the mean of the two.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or_default();
    at(values.len() / 2).midpoint(at(values.len().saturating_sub(1) / 2))
}

fn spread_of(line: &Line) -> String {
    line.spread.map_or(UNMEASURED.to_owned(), |[least, most]| format!("{} .. {}", number(least), number(most)))
}

fn in_words(line: &Line) -> String {
    let head = format!("{:<24} floor {:<18} goal {:<18}", line.id, line.floor, line.goal);
    let note = line.note.as_ref().map_or(String::new(), |note| format!("   [{note}]"));
    let commands = line.commands.join("; ");
    match line.measured {
        Some(value) => {
            let met = match line.met {
                Some("no") | None => "no".to_owned(),
                Some(met) => format!("yes, the {met}"),
            };
            format!("{head} measured {:<16} spread {:<20} met: {met}{note}   {commands}", with_unit(value, &line.unit), spread_of(line))
        }
        None => format!("{head} NOT MEASURED{note}   {commands}"),
    }
}

fn as_cells(line: &Line, date: &str) -> [String; 4] {
    let measured = line.measured.map_or(UNMEASURED.to_owned(), |value| with_unit(value, &line.unit));
    let met = line.met.unwrap_or(UNMEASURED).to_owned();
    [measured, format!("{} ({})", spread_of(line), line.values.len()), met, date.to_owned()]
}

/// The command as a process; its JSON.
fn run_command(command: &[String]) -> Result<Value, String> {
    if command.first().is_some_and(|word| ["lab", "null"].contains(&word.as_str())) && !sys::is_root() {
        return Err("it needs root, for network namespaces: sudo bench/spec ...".to_owned());
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = std::process::Command::new(program).args(command).args(["--json", "-"]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).map_err(|_| said.trim().lines().last().unwrap_or("it ended without a word").to_owned())
}

/// About how long a run takes, in seconds.
fn duration_of(command: &[String]) -> f64 {
    /// Server, publisher, the last viewer's frame, goodbye.
    const AROUND_S: f64 = 4.0;
    /// A search's runs, and the longest of their ramps.
    const STEPS: f64 = 7.0;
    const RAMP_S: f64 = 6.0;
    let words = std::iter::once("spillway-bench".into()).chain(command.iter().map(OsString::from)).collect();
    let command = scenario::expand(words).ok().and_then(|words| Cli::read(words).ok()).map(|cli| cli.command);
    let is_model = matches!(command, Some(Command::Model(_)));
    let lab = match command {
        Some(Command::Lab(args)) => Some(args),
        Some(Command::Null(args)) => Some(args.lab()),
        _ => None,
    };
    match lab {
        Some(args) if args.find_max => (RAMP_S + AROUND_S + args.run.hold().as_secs_f64()) * STEPS,
        Some(args) => (args.run.viewers as f64 / args.run.ramp() + args.run.hold().as_secs_f64()) + AROUND_S,
        None if is_model => 0.0,
        _ => AROUND_S,
    }
}

fn minutes(seconds: f64) -> String {
    if seconds < 100.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specification() -> Document {
        Document::parse(BUILT_IN).unwrap()
    }

    #[test]
    fn every_promise_can_be_measured_and_every_measure_is_promised() {
        let document = specification();
        for row in document.rows() {
            let measure = measure::find(&row.id).unwrap_or_else(|| panic!("{} has no measure", row.id));
            assert_eq!(measure.unit, row.floor.unit, "{}", row.id);
            // A goal is never behind its floor.
            assert!(row.floor.holds(row.goal.value), "{}", row.id);
        }
        for measure in measure::MEASURES {
            assert!(document.rows().any(|row| row.id == measure.id), "{} is promised nowhere", measure.id);
        }
    }

    #[test]
    fn every_command_of_the_specification_is_one() {
        for section in specification().sections {
            for command in section.commands {
                let words = std::iter::once("spillway-bench".into()).chain(command.iter().map(OsString::from)).collect();
                let cli = scenario::expand(words).map(|words| Cli::read(words).map_err(|error| error.to_string()));
                assert!(matches!(&cli, Ok(Ok(Cli { command: Command::Lab(_) | Command::Null(_) | Command::Model(_) }))), "{}: {cli:?}", section.name);
                assert!(command[0] == "model" || (5.0..300.0).contains(&duration_of(&command)), "{}", section.name);
            }
        }
    }

    #[test]
    fn rows_are_chosen_by_their_beginning_and_a_stranger_is_told_what_there_is() {
        let document = specification();
        let ids = |names: &[&str]| -> Vec<String> {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            chosen(&document, &names).unwrap().into_iter().flat_map(|section| section.rows).map(|row| row.id).collect()
        };
        assert_eq!(ids(&["latency-100-p50", "control"]), ["latency-100-p50", "control-killed"]);
        assert_eq!(ids(&["latency-100"]).len(), 3);
        assert_eq!(ids(&[]).len(), measure::MEASURES.len());
        assert!(chosen(&document, &["speed".to_owned()]).unwrap_err().contains("cost-veth"));
    }

    #[test]
    fn the_middle_counts_and_says_whether_floor_or_goal_is_met() {
        let section = &specification().sections[0];
        let row = &section.rows[0];
        assert_eq!((row.id.as_str(), row.floor.value, row.goal.value), ("cost-veth", 1_400.0, 1_000.0));
        for (values, measured, met) in [(vec![5_000.0, 900.0, 1_000.0], 1_000.0, "goal"), (vec![1_100.0, 1_300.0], 1_200.0, "floor"), (vec![1_401.0], 1_401.0, "no")] {
            let line = line(section, row, values, Vec::new());
            assert_eq!((line.measured, line.met), (Some(measured), Some(met)));
        }
        let none = line(section, row, Vec::new(), vec!["busy".to_owned(), "busy".to_owned()]);
        assert_eq!((none.measured, none.met, none.note.as_deref()), (None, None, Some("2 did not count: busy")));
        assert!(in_words(&none).contains("NOT MEASURED"));
    }
}

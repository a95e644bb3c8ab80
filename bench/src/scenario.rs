//! Scenarios: loads with a name. A file of them is a few lines `option = value`, and the options are those of `run`:
//! they are put before the words of the command line, so that what is given there counts. The files are TOML, of which
//! only strings, whole numbers, booleans and comments are read: a library for that would be more than the reader.

use std::ffi::OsString;
use std::path::Path;

/// A file longer than this is none.
const FILE_BYTES_MAX: u64 = 64 * 1_024;

/// The scenarios that need no file.
pub const BUILT_IN: [(&str, &str); 6] = [
    ("W1", include_str!("../scenarios/W1.toml")),
    ("audio-only", include_str!("../scenarios/audio-only.toml")),
    ("rooms-100x30", include_str!("../scenarios/rooms-100x30.toml")),
    ("rooms-1000x3", include_str!("../scenarios/rooms-1000x3.toml")),
    ("storm", include_str!("../scenarios/storm.toml")),
    ("reference-floor", include_str!("../scenarios/reference-floor.toml")),
];

/// What `lab` runs when nothing else is said.
const DEFAULT_OF_LAB: &str = "W1";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenario {
    pub name: String,
    pub about: String,
    /// As on the command line.
    pub words: Vec<String>,
}

/// The value of a line, as the command line would have it; `None`: the option is off.
fn value(text: &str) -> Option<Option<String>> {
    match text {
        "true" => return Some(Some(String::new())),
        "false" => return Some(None),
        _ => {}
    }
    if let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return (!inner.is_empty() && !inner.contains(['"', '\\'])).then(|| Some(inner.to_owned()));
    }
    let digits = text.replace('_', "");
    let whole = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
    whole.then_some(Some(digits))
}

/// The part of a line that is no comment: a `#` within quotes is none.
fn code(line: &str) -> &str {
    let mut quoted = false;
    for (at, letter) in line.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            '#' if !quoted => return &line[..at],
            _ => {}
        }
    }
    line
}

pub fn parse(name: &str, text: &str) -> Result<Scenario, String> {
    let mut scenario = Scenario { name: name.to_owned(), about: String::new(), words: Vec::new() };
    for (number, line) in text.lines().enumerate() {
        let line = code(line).trim();
        if line.is_empty() {
            continue;
        }
        let wrong = || format!("scenario {name}, line {}: `{line}` is no option: write viewers = 200 or ramp = \"100/s\", as in bench/scenarios", number + 1);
        let (key, rest) = line.split_once('=').ok_or_else(wrong)?;
        let key = key.trim();
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        let value = value(rest.trim()).filter(|_| is_key).ok_or_else(wrong)?;
        match (key, value) {
            ("about", Some(words)) => scenario.about = words,
            (_, None) => {}
            (_, Some(value)) if value.is_empty() => scenario.words.push(format!("--{key}")),
            (_, Some(value)) => scenario.words.push(format!("--{key}={value}")),
        }
    }
    Ok(scenario)
}

/// By name, else the file.
pub fn load(name: &str) -> Result<Scenario, String> {
    if let Some((known, text)) = BUILT_IN.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return parse(known, text);
    }
    let names = BUILT_IN.map(|(name, _)| name).join(", ");
    let failed = |reason: String| format!("{name} is neither a scenario ({names}) nor a file that can be read: {reason}");
    let length = std::fs::metadata(name).map_err(|error| failed(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(format!("{length} bytes")));
    }
    let text = std::fs::read_to_string(name).map_err(|error| failed(error.to_string()))?;
    let stem = Path::new(name).file_stem().map_or(name.to_owned(), |stem| stem.to_string_lossy().into_owned());
    parse(&stem, &text)
}

/// The command line with the words of its scenario before those that were given.
pub fn expand(words: Vec<OsString>) -> Result<Vec<OsString>, String> {
    let text = |place: usize| words.get(place).and_then(|word| word.to_str()).unwrap_or_default();
    let command = text(1);
    if !["run", "find-max", "lab", "null"].contains(&command) {
        return Ok(words);
    }
    let mut asked = None;
    for place in 2..words.len() {
        if text(place) == "--scenario" {
            // Without a value: the reader of the command line says so.
            asked = words.get(place + 1).map(|word| word.to_string_lossy().into_owned());
        } else if let Some(name) = text(place).strip_prefix("--scenario=") {
            asked = Some(name.to_owned());
        }
    }
    let asks_for_help = words.iter().any(|word| word == "--help" || word == "-h");
    let name = match asked {
        Some(name) => name,
        None if ["lab", "null"].contains(&command) && !asks_for_help => DEFAULT_OF_LAB.to_owned(),
        None => return Ok(words),
    };
    let scenario = load(&name)?;
    let mut expanded: Vec<OsString> = words[..2].to_vec();
    expanded.push(format!("--scenario={}", scenario.name).into());
    expanded.extend(scenario.words.iter().map(OsString::from));
    expanded.extend_from_slice(&words[2..]);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, RunArgs};

    fn read(words: &[&str]) -> Result<RunArgs, String> {
        let words = expand(words.iter().map(OsString::from).collect())?;
        match Cli::read(words).map_err(|error| error.to_string())?.command {
            Command::Run(args) => Ok(args),
            Command::FindMax(args) => Ok(args.run),
            Command::Lab(args) => Ok(args.run),
            Command::Null(args) => Ok(args.lab().run),
            Command::Model(_) | Command::Spec(_) => Err("no run".to_owned()),
        }
    }

    #[test]
    fn every_scenario_is_a_command_line_and_says_what_it_is() {
        for (name, text) in BUILT_IN {
            assert!(parse(name, text).unwrap().about.len() > 10, "{name}");
            let args = read(&["spillway-bench", "lab", "--scenario", name]).unwrap();
            assert_eq!(args.scenario.as_deref(), Some(name));
            let rooms = match name {
                "rooms-100x30" => 100,
                "rooms-1000x3" => 1_000,
                "audio-only" => 20,
                "reference-floor" => 10,
                _ => 1,
            };
            assert_eq!(args.rooms(), rooms, "{name}");
            assert_eq!(args.plan().has_video(), name != "audio-only");
        }
        let w1 = read(&["spillway-bench", "lab"]).unwrap();
        assert_eq!((w1.scenario.as_deref(), w1.plan().pps(), w1.viewers), (Some("W1"), 310.0, 200));
    }

    #[test]
    fn what_is_given_counts_wherever_it_stands() {
        let args = read(&["spillway-bench", "run", "--viewers", "7", "--target", "http://x", "--scenario=w1", "--gop", "10s"]).unwrap();
        assert_eq!((args.viewers, args.gop.as_secs(), args.ramp()), (7, 10, 100.0));
        let plain = read(&["spillway-bench", "run", "--target", "http://x"]).unwrap();
        assert_eq!((plain.scenario, plain.viewers), (None, 100));
    }

    #[test]
    fn a_file_is_a_scenario_and_what_it_cannot_be_is_told_with_its_line() {
        let text = "# ours\nabout = \"two # three\" # for us\nviewers = 1_200\nno-video = true\ndeaf = false\n\nramp=\"5/s\"\n";
        let found = parse("mine", text).unwrap();
        assert_eq!((found.about.as_str(), found.words), ("two # three", ["--viewers=1200", "--no-video", "--ramp=5/s"].map(str::to_owned).to_vec()));
        for line in ["viewers", "viewers = ", "viewers = many", "[run]", "Viewers = 5", "a b = 5", "room = \"\"", "room = \"a\\n\"", "= 5"] {
            let error = parse("mine", &format!("\n{line}\n")).unwrap_err();
            assert!(error.contains("scenario mine, line 2"), "{line}: {error}");
        }
        assert!(load("w2").unwrap_err().contains("rooms-1000x3"));
        // An option that does not exist is the command line's to refuse.
        let refused = read(&["spillway-bench", "run", "--target", "http://x", "--viewer=5"]).unwrap_err();
        assert!(refused.contains("--viewers"), "{refused}");
    }
}

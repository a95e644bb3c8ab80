//! `bench/SPECIFICATION.md` as a value: its sections, the commands under them, the promises in their tables. The file is
//! the only place where a promise, its floor and its goal stand; what was measured is written back into the same lines.

use std::fmt;

/// How a number is held against its bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    AtMost,
    AtLeast,
    Exactly,
}

/// `<= 1,400 ns`
#[derive(Clone, PartialEq, Debug)]
pub struct Bound {
    pub side: Side,
    pub value: f64,
    /// Empty for a plain number.
    pub unit: String,
}

impl Bound {
    fn parse(text: &str) -> Option<Bound> {
        let text = text.trim();
        let (side, rest) = match (text.strip_prefix("<="), text.strip_prefix(">="), text.strip_prefix('=')) {
            (Some(rest), ..) => (Side::AtMost, rest),
            (_, Some(rest), _) => (Side::AtLeast, rest),
            (.., Some(rest)) => (Side::Exactly, rest),
            _ => return None,
        };
        let (number, unit) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        let value = number.replace(',', "").parse::<f64>().ok().filter(|value| value.is_finite())?;
        Some(Bound { side, value, unit: unit.trim().to_owned() })
    }

    pub fn holds(&self, measured: f64) -> bool {
        match self.side {
            Side::AtMost => measured <= self.value,
            Side::AtLeast => measured >= self.value,
            Side::Exactly => measured == self.value,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::AtMost => "<=",
            Side::AtLeast => ">=",
            Side::Exactly => "=",
        };
        write!(out, "{side} {}", with_unit(self.value, &self.unit))
    }
}

pub fn with_unit(value: f64, unit: &str) -> String {
    if unit.is_empty() { number(value) } else { format!("{} {unit}", number(value)) }
}

/// Three digits or more, thousands apart.
pub fn number(value: f64) -> String {
    let (size, whole) = (value.abs(), value == value.trunc());
    let text = match size {
        _ if whole => format!("{size:.0}"),
        100.0.. => format!("{size:.0}"),
        10.0.. => format!("{size:.1}"),
        _ => format!("{size:.2}"),
    };
    let (head, tail) = text.split_once('.').map_or((text.as_str(), String::new()), |(head, tail)| (head, format!(".{tail}")));
    let mut out = if value < 0.0 && size > 0.0 { "-".to_owned() } else { String::new() };
    for (place, digit) in head.chars().enumerate() {
        if place > 0 && (head.len() - place) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out + &tail
}

/// One promise.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    pub id: String,
    pub promise: String,
    pub floor: Bound,
    pub goal: Bound,
    /// The last four cells as they stand: measured, spread, met, date.
    pub last: [String; 4],
    /// Its line in the file, from 0.
    line: usize,
}

/// Promises that the same runs measure.
#[derive(Clone, PartialEq, Debug)]
pub struct Section {
    pub name: String,
    /// What `spillway-bench` is told, a run each.
    pub commands: Vec<Vec<String>>,
    pub rows: Vec<Row>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Document {
    lines: Vec<String>,
    pub sections: Vec<Section>,
}

/// A command in the text stands indented, and is the program's.
const PROGRAM: &str = "target/release/spillway-bench ";
const MACHINE: &str = "Measured last on ";
pub const UNMEASURED: &str = "-";

/// Words as a shell splits them: single quotes keep together.
fn words(line: &str) -> Vec<String> {
    let (mut out, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for letter in line.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => {
                if !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(letter),
        }
    }
    if !word.is_empty() {
        out.push(word);
    }
    out
}

/// The command as one can type it.
pub fn typed(command: &[String]) -> String {
    let quoted = |word: &String| if word.contains(['<', '>', ' ', '%']) { format!("'{word}'") } else { word.clone() };
    format!("{PROGRAM}{}", command.iter().map(quoted).collect::<Vec<_>>().join(" "))
}

fn cells(line: &str) -> Vec<&str> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(str::trim).collect()
}

impl Document {
    pub fn parse(text: &str) -> Result<Document, String> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut sections: Vec<Section> = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let wrong = |what: &str| format!("line {}: {what}: {}", number + 1, line.trim());
            if let Some(name) = line.strip_prefix("## ") {
                sections.push(Section { name: name.trim().to_owned(), commands: Vec::new(), rows: Vec::new() });
                continue;
            }
            let Some(section) = sections.last_mut() else { continue };
            if line.starts_with("    ") && line.contains(PROGRAM) {
                let (_, rest) = line.split_once(PROGRAM).unwrap_or_default();
                section.commands.push(words(rest));
            }
            if !line.starts_with("| `") {
                continue;
            }
            let cells = cells(line);
            let [id, promise, floor, goal, measured, spread, met, date] = cells[..] else {
                return Err(wrong("a promise has eight cells: id, promise, floor, goal, measured, spread, met, date"));
            };
            let bound = |text: &str| Bound::parse(text).ok_or_else(|| wrong("floor and goal are written as `<= 1,400 ns`"));
            let (floor, goal) = (bound(floor)?, bound(goal)?);
            if floor.unit != goal.unit || floor.side != goal.side {
                return Err(wrong("floor and goal have one unit and one direction"));
            }
            let id = id.trim_matches('`').to_owned();
            let last = [measured, spread, met, date].map(str::to_owned);
            section.rows.push(Row { id, promise: promise.to_owned(), floor, goal, last, line: number });
        }
        sections.retain(|section| !section.rows.is_empty());
        if let Some(section) = sections.iter().find(|section| section.commands.is_empty()) {
            return Err(format!("section {}: no command stands above its promises", section.name));
        }
        let mut ids: Vec<&str> = sections.iter().flat_map(|section| &section.rows).map(|row| row.id.as_str()).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("{} stands there twice", twice[0]));
        }
        Ok(Document { lines, sections })
    }

    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.sections.iter().flat_map(|section| &section.rows)
    }

    /// Puts what was measured into the line of `id`.
    pub fn write(&mut self, id: &str, last: [String; 4]) {
        let Some(row) = self.sections.iter_mut().flat_map(|section| &mut section.rows).find(|row| row.id == id) else { return };
        let Some(line) = self.lines.get_mut(row.line) else { return };
        let kept: Vec<String> = cells(line).into_iter().take(4).map(str::to_owned).collect();
        *line = format!("| {} | {} |", kept.join(" | "), last.join(" | "));
        row.last = last;
    }

    /// Says on what; the line has to be there.
    pub fn write_machine(&mut self, machine: &str) {
        if let Some(line) = self.lines.iter_mut().find(|line| line.starts_with(MACHINE)) {
            *line = format!("{MACHINE}{machine}");
        }
    }

    pub fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "# S\n\nMeasured last on nothing.\n\n## fast\n\nWords.\n\n    sudo target/release/spillway-bench lab --scenario W1 --fail 'loss<=0.01%'\n\n\
        | id | promise | floor | goal | measured | spread | met | date |\n|---|---|---|---|---|---|---|---|\n\
        | `fast-one` | It is fast | <= 1,400 ns | <= 900 ns | - | - | - | - |\n| `fast-many` | It carries | >= 2,000 | >= 3,000 | - | - | - | - |\n\n## open\n\nNo rows.\n";

    #[test]
    fn promises_and_their_commands_are_read_and_written_back_into_their_lines() {
        let mut document = Document::parse(SAMPLE).unwrap();
        assert_eq!(document.text(), SAMPLE);
        assert_eq!(document.sections.len(), 1, "a section without promises is prose");
        let section = &document.sections[0];
        assert_eq!(section.commands, [["lab", "--scenario", "W1", "--fail", "loss<=0.01%"].map(str::to_owned).to_vec()]);
        assert_eq!(typed(&section.commands[0]), "target/release/spillway-bench lab --scenario W1 --fail 'loss<=0.01%'");
        let row = &section.rows[0];
        assert_eq!((row.id.as_str(), row.floor.to_string().as_str(), row.goal.value), ("fast-one", "<= 1,400 ns", 900.0));
        document.write("fast-many", ["684", "650 .. 700", "no", "2026-11-21"].map(str::to_owned));
        document.write_machine("a sewing machine.");
        let text = document.text();
        assert!(text.contains("| `fast-many` | It carries | >= 2,000 | >= 3,000 | 684 | 650 .. 700 | no | 2026-11-21 |\n"), "{text}");
        assert!(text.contains("\nMeasured last on a sewing machine.\n") && text.contains("| `fast-one` | It is fast | <= 1,400 ns | <= 900 ns | - | - | - | - |"));
        assert_eq!(Document::parse(&text).unwrap().sections[0].rows[1].last[0], "684");
    }

    #[test]
    fn what_is_no_promise_is_told_with_its_line() {
        for (from, to, words) in [
            ("<= 1,400 ns", "1,400 ns", "line 13"),
            ("<= 900 ns", "<= 900 us", "one unit"),
            ("<= 900 ns", ">= 900 ns", "one direction"),
            ("| >= 2,000 |", "|", "eight cells"),
            ("`fast-many`", "`fast-one`", "twice"),
            ("    sudo target", "sudo target", "no command"),
        ] {
            let error = Document::parse(&SAMPLE.replace(from, to)).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn bounds_hold_at_their_edge_and_numbers_are_for_people() {
        let holds = |text: &str, value: f64| Bound::parse(text).unwrap().holds(value);
        assert!(holds("<= 20 ms", 20.0) && !holds("<= 20 ms", 20.1) && holds(">= 55 %", 55.0) && !holds(">= 55 %", 54.9));
        assert!(holds("= 0 packets", 0.0) && !holds("= 0 packets", 1.0));
        let texts = [0.0, 3.0, 3.456, 34.56, 345.6, 1_234.5, 1_234_567.0, -1_500.0].map(number);
        assert_eq!(texts, ["0", "3", "3.46", "34.6", "346", "1,234", "1,234,567", "-1,500"]);
    }
}

//! Holds the JSON of `run` and `find-max` against the tables of bench/README.md: every field is documented, and nothing is
//! documented that is not there.

use crate::find_max::{Found, Step};
use crate::price::Price;
use crate::process::Usage;
use crate::summary::{Burst, Generator, Second, Server, Slope, Summary, Verdict};
use serde_json::Value;
use std::collections::BTreeSet;

const README: &str = include_str!("../README.md");

/// A summary in which nothing is missing.
fn whole() -> Summary {
    Summary {
        server: Some(Server { slopes: vec![Slope::default()], processes: vec![Usage::default()], ..Server::default() }),
        generator: Generator { slope: Some(Slope::default()), ..Generator::default() },
        burst: Some(Burst::default()),
        price: Some(Price::default()),
        ramp: vec![Second::default()],
        timeline: vec![Second::default()],
        thresholds: vec![Verdict::default()],
        ..Summary::default()
    }
}

/// The names of all values in it, as `server.processes[].pid`.
fn names(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                names(value, &format!("{path}{dot}{name}"), found);
            }
        }
        Value::Array(items) if items.first().is_some_and(Value::is_object) => names(&items[0], &format!("{path}[]"), found),
        _ => {
            found.insert(path.to_owned());
        }
    }
}

/// `a.{b,c}` is `a.b` and `a.c`.
fn expanded(name: &str) -> Vec<String> {
    let Some((head, rest)) = name.split_once('{') else { return vec![name.to_owned()] };
    let (inner, tail) = rest.split_once('}').unwrap_or((rest, ""));
    inner.split(',').flat_map(|one| expanded(&format!("{head}{one}{tail}"))).collect()
}

/// The first cells of the table under a heading.
fn documented(heading: &str) -> BTreeSet<String> {
    let (_, rest) = README.split_once(heading).unwrap_or_else(|| panic!("bench/README.md has no {heading:?}"));
    let table = rest.lines().take_while(|line| !line.starts_with('#'));
    let cells = table.filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name));
    cells.flat_map(expanded).collect()
}

fn agree(heading: &str, value: &Value) {
    let mut there = BTreeSet::new();
    names(value, "", &mut there);
    let told = documented(heading);
    let missing: Vec<_> = there.difference(&told).collect();
    let invented: Vec<_> = told.difference(&there).collect();
    assert!(missing.is_empty() && invented.is_empty(), "{heading}: not documented: {missing:?}; documented and not there: {invented:?}");
}

#[test]
fn the_readme_documents_the_json_of_a_run_field_by_field() {
    agree("### Of a run", &serde_json::to_value(whole()).unwrap());
}

#[test]
fn the_readme_documents_the_json_of_a_search_field_by_field() {
    let found = Found { steps: vec![Step::default()], at_busy: Some(Step::default()), price: Some(Price::default()), largest: Some(whole()), ..Found::default() };
    // A step at a share of a core is a step, the largest run is a run, and prices are those of a run.
    let mut value = serde_json::to_value(found).unwrap();
    for name in ["at_busy", "largest", "price"] {
        assert!(value[name].is_object());
        value[name] = Value::Null;
    }
    agree("### Of a search", &value);
}

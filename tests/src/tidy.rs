//! The project's own text, held to its rules: layout, who may import whom, where `unsafe` may stand, how files
//! begin and how long they get. Every rule is a function over text, so that a bad sample shows that it can fail.
//!
//! Reads what git tracks and what is about to be added; changes nothing.

mod code;
mod imports;
mod text;

use spillway_proto::link::counters::CounterId;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One file of the repository.
pub struct Source {
    /// From the root, with `/`.
    pub path: String,
    pub text: String,
    /// It only exists in tests: declared behind `#[cfg(test)]`, or a test binary.
    pub is_test: bool,
}

impl Source {
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    #[cfg(test)]
    pub fn sample(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), is_test: false }
    }
}

/// What is wrong, as `path:line: what to do`.
pub type Faults = Vec<String>;

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the repository").to_owned()
}

/// All files of the repository, as names.
fn names() -> Vec<String> {
    // The owner of a clone may be another user than the one who tests it.
    let listed = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"])
        .current_dir(root())
        .output()
        .expect("tidy needs git to know which files are the project's");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8(listed.stdout).expect("names of files are UTF-8");
    text.split('\0').filter(|name| !name.is_empty() && root().join(name).is_file()).map(str::to_owned).collect()
}

/// The files that are text.
fn sources() -> Vec<Source> {
    let mut sources: Vec<Source> = names()
        .into_iter()
        .filter_map(|path| {
            let text = String::from_utf8(std::fs::read(root().join(&path)).ok()?).ok()?;
            let is_test = path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
            Some(Source { path, text, is_test })
        })
        .collect();
    let declared: Vec<String> = sources.iter().filter(|source| source.is_rust()).flat_map(test_modules).collect();
    for source in &mut sources {
        source.is_test |= declared.contains(&source.path);
    }
    sources
}

/// The files of the modules that `source` declares for tests only.
fn test_modules(source: &Source) -> Vec<String> {
    let own = match source.path.strip_suffix("/mod.rs").or(source.path.strip_suffix("/lib.rs")) {
        Some(directory) => directory,
        None => source.path.trim_end_matches(".rs"),
    };
    let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
    lines
        .windows(2)
        .filter(|pair| code::is_of_tests(pair[0]))
        .filter_map(|pair| pair[1].strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| format!("{own}/{name}.rs")))
        .collect()
}

fn hold(rule: &str, faults: Faults) {
    assert!(faults.is_empty(), "{rule}:\n  {}\n", faults.join("\n  "));
}

#[test]
fn the_top_level_holds_what_it_may_and_every_room_has_a_readme() {
    hold("layout", text::layout(&names()));
}

#[test]
fn files_open_with_what_they_own() {
    hold("opening", sources().iter().flat_map(text::opening).collect());
}

#[test]
fn files_are_short() {
    let sources = sources();
    for (path, lines) in text::long(&sources) {
        // Past the capture of a test that passes: whoever runs it shall see.
        let _ = writeln!(std::io::stderr(), "long: {path} has {lines} lines; look at it again");
    }
    hold("length", text::too_long(&sources));
}

#[test]
fn nothing_is_left_for_later() {
    hold("left for later", sources().iter().flat_map(text::leftovers).collect());
}

#[test]
fn nothing_of_a_machine_is_in_the_text() {
    hold("of a machine", sources().iter().flat_map(text::machines).collect());
}

#[test]
fn imports_point_one_way() {
    hold("imports", sources().iter().flat_map(imports::faults).collect());
}

#[test]
fn proto_is_pure() {
    hold("purity", sources().iter().flat_map(imports::purity).collect());
}

#[test]
fn unsafe_stands_where_it_may_and_says_why() {
    let sources = sources();
    hold("unsafe", sources.iter().flat_map(text::unsafe_code).collect());
    hold("unsafe list", text::unsafe_list(&sources));
}

#[test]
fn every_counter_is_kept() {
    let names: Vec<String> = CounterId::ALL.iter().map(|id| format!("{id:?}")).collect();
    hold("counters", text::unkept_counters(&sources(), &names));
}

#[test]
fn modules_of_tests_are_known_by_their_declaration() {
    let source = Source::sample("engine/src/io/mod.rs", "mod a;\n#[cfg(test)]\npub(crate) mod suite;\n");
    assert_eq!(test_modules(&source), ["engine/src/io/suite.rs"]);
    let source = Source::sample("proto/src/link/ring.rs", "#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod inline {}");
    assert_eq!(test_modules(&source), ["proto/src/link/ring/tests.rs"]);
}

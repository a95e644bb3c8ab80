//! Rules about files as such: names, openings, length, what must not stand in them, `unsafe`.

use super::code::{blanked, without_tests};
use super::{Faults, Source};

const ROOMS: [&str; 7] = ["proto", "engine", "control", "bench", "deploy", "fuzz", "tests"];
const META: [&str; 12] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "deny.toml",
    "rust-toolchain.toml",
    "rustfmt.toml",
    ".gitignore",
    ".ci",
];

pub fn layout(names: &[String]) -> Faults {
    let mut faults: Faults = names
        .iter()
        .filter_map(|name| {
            let top = name.split('/').next()?;
            let known = ROOMS.contains(&top) && top != name || META.contains(&top);
            (!known).then(|| format!("{name}: nothing else stands at the root; which room does it belong to?"))
        })
        .collect();
    for room in ROOMS.iter().map(|room| format!("{room}/README.md")).chain(["README.md".to_owned()]) {
        if !names.contains(&room) {
            faults.push(format!("{room}: every room says what it is"));
        }
    }
    faults
}

pub fn opening(source: &Source) -> Faults {
    if !source.is_rust() || source.text.starts_with("//!") || source.text.starts_with("#![no_main]\n//!") {
        return Faults::new();
    }
    vec![format!("{}:1: a file opens with `//!`: what it owns, what it never does", source.path)]
}

const LINES_MAX: usize = 900;
const LINES_GOOD: usize = 600;

fn lines(source: &Source) -> Option<usize> {
    let counted = [".rs", ".js", ".mjs", ".css", ".html"].iter().any(|end| source.path.ends_with(end));
    counted.then(|| source.text.lines().count())
}

pub fn long(sources: &[Source]) -> Vec<(&str, usize)> {
    sources
        .iter()
        .filter_map(|source| Some((source.path.as_str(), lines(source)?)))
        .filter(|(_, lines)| *lines > LINES_GOOD)
        .collect()
}

pub fn too_long(sources: &[Source]) -> Faults {
    long(sources)
        .into_iter()
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines; split it by noun ({LINES_MAX} are the most)"))
        .collect()
}

/// Faults for every line that has one of `words`. Words stand here in two halves, so that this file has none.
fn lines_with(source: &Source, words: &[(&str, &str)], why: &str) -> Faults {
    let words: Vec<String> = words.iter().map(|(head, tail)| format!("{head}{tail}")).collect();
    let is_hit = |line: &str| words.iter().find(|word| line.contains(word.as_str()));
    let numbered = source.text.lines().enumerate();
    numbered
        .filter_map(|(index, line)| Some(format!("{}:{}: `{}` {why}", source.path, index + 1, is_hit(line)?)))
        .collect()
}

pub fn leftovers(source: &Source) -> Faults {
    let words = [("TO", "DO"), ("FIX", "ME"), ("todo", "!("), ("unimplemented", "!("), ("dbg", "!(")];
    lines_with(source, &words, "is work left for later: do it, or make it an issue")
}

pub fn machines(source: &Source) -> Faults {
    if source.path == "Cargo.lock" {
        let foreign = |line: &&str| line.starts_with("source =") && !line.contains("github.com/rust-lang/crates.io-index");
        let faults = source.text.lines().filter(foreign);
        return faults.map(|line| format!("Cargo.lock: `{line}` is not the registry everybody has")).collect();
    }
    let words = [("/wo", "rk/"), ("/ro", "ot/"), ("/tmp", "/w/"), ("replace", "-with"), ("registry", "-mirror"), ("index", "-url")];
    lines_with(source, &words, "is of one machine, not of the project")
}

/// Counters of `names` that no product file of the engine writes: a number that is always 0 is a lie.
pub fn unkept_counters(sources: &[Source], names: &[String]) -> Faults {
    let engine: Vec<String> = sources
        .iter()
        .filter(|source| source.path.starts_with("engine/src/") && source.is_rust() && !source.is_test)
        .map(|source| without_tests(&blanked(&source.text)))
        .collect();
    let is_kept = |name: &String| {
        let used = format!("CounterId::{name}");
        let is_whole = |text: &String, at: usize| !text[at + used.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_');
        engine.iter().any(|text| text.match_indices(&used).any(|(at, _)| is_whole(text, at)))
    };
    names.iter().filter(|name| !is_kept(name)).map(|name| format!("CounterId::{name}: nobody counts it")).collect()
}

/// Where `unsafe` may stand: what shares memory, what speaks to the kernel, and their tests.
const UNSAFE_FILES: &[&str] = &[
    "proto/src/link/layout.rs",
    "proto/src/session/client.rs",
    "proto/src/session/srtp/wide.rs",
    "proto/src/session/srtp/wide/bits_256.rs",
    "proto/src/session/srtp/wide/bits_512.rs",
    "proto/src/session/srtp/wide/tests.rs",
    "proto/src/stream/reel.rs",
    "proto/src/stream/reel/tests.rs",
    "proto/src/stream/reel_memory.rs",
    "proto/src/stream/tap.rs",
    "engine/src/alloc_count.rs",
    "engine/src/clock.rs",
    "engine/src/io/bound.rs",
    "engine/src/io/cmsg.rs",
    "engine/src/io/frames/netlink.rs",
    "engine/src/io/frames/ring.rs",
    "engine/src/io/frames/rules.rs",
    "engine/src/io/probe.rs",
    "engine/src/io/inbox.rs",
    "engine/src/io/socket.rs",
    "engine/src/io/steering.rs",
    "engine/src/io/suite.rs",
    "engine/src/io/uring.rs",
    "engine/src/precedence.rs",
    "engine/src/shard/fanout.rs",
    "engine/src/shard/table.rs",
    "engine/src/shard/track.rs",
    "engine/src/shard/world.rs",
    "engine/src/shm.rs",
    "engine/src/start.rs",
    "control/src/adapters/sys.rs",
    "control/src/shm.rs",
    "control/src/supervisor/sys.rs",
    "bench/benches/ablation.rs",
    "bench/benches/reel.rs",
    "bench/src/process.rs",
    "bench/src/sys.rs",
    "tests/link/engine_kill.rs",
    "tests/link/ring_kill.rs",
    "tests/src/fuzz/reel.rs",
    "tests/src/kernel.rs",
    "tests/src/reel.rs",
];

/// How far above its block a comment may begin.
const COMMENT_LINES_MAX: usize = 14;

fn unsafe_lines(blank: &str) -> Vec<(usize, &str)> {
    let is_word = |line: &str, at: usize| {
        let end = line[at + 6..].chars().next().unwrap_or(' ');
        let begin = line[..at].chars().next_back().unwrap_or(' ');
        !(begin.is_alphanumeric() || begin == '_' || end.is_alphanumeric() || end == '_')
    };
    let numbered = blank.lines().enumerate();
    numbered.filter(|(_, line)| line.match_indices("unsafe").any(|(at, _)| is_word(line, at))).collect()
}

pub fn unsafe_code(source: &Source) -> Faults {
    if !source.is_rust() {
        return Faults::new();
    }
    let blank = blanked(&source.text);
    let found = unsafe_lines(&blank);
    if let Some((index, _)) = found.first()
        && !UNSAFE_FILES.contains(&source.path.as_str())
    {
        return vec![format!("{}:{}: unsafe stands only in the files listed in {}", source.path, index + 1, file!())];
    }
    let product = if source.is_test { String::new() } else { without_tests(&blank) };
    let product: Vec<&str> = product.lines().collect();
    let lines: Vec<&str> = source.text.lines().collect();
    let mut faults = Faults::new();
    for (index, line) in found {
        let above = lines.get(index.saturating_sub(COMMENT_LINES_MAX)..=index).unwrap_or_default().join("\n");
        // What a caller must keep stands in the documentation of the function.
        let is_function = line.contains("unsafe fn");
        let is_product = product.get(index).is_some_and(|line| line.contains("unsafe"));
        if !(above.contains("SAFETY") || is_function && above.contains("# Safety")) {
            faults.push(format!("{}:{}: unsafe without `SAFETY:` above it", source.path, index + 1));
        } else if is_product && !is_function && !above.contains("JUSTIFICATION") {
            faults.push(format!("{}:{}: unsafe without `JUSTIFICATION:` above it", source.path, index + 1));
        }
    }
    faults
}

/// A list that names files without `unsafe` is a door left open.
pub fn unsafe_list(sources: &[Source]) -> Faults {
    let has = |path: &&&str| {
        let source = sources.iter().find(|source| source.path == **path);
        !source.is_some_and(|source| !unsafe_lines(&blanked(&source.text)).is_empty())
    };
    UNSAFE_FILES.iter().filter(has).map(|path| format!("{path}: has no unsafe (any more); take it off the list")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_at_the_root_and_a_room_without_readme_are_found() {
        let mut names: Vec<String> = ROOMS.iter().map(|room| format!("{room}/README.md")).collect();
        names.extend(["README.md".to_owned(), "Cargo.toml".to_owned(), ".ci/run".to_owned()]);
        assert_eq!(layout(&names), Faults::new());
        names.push("notes.txt".to_owned());
        names.push("scripts/x.sh".to_owned());
        names.push("docs".to_owned());
        names.retain(|name| name != "fuzz/README.md");
        assert_eq!(layout(&names).len(), 4);
    }

    #[test]
    fn a_file_without_opening_is_found() {
        assert!(opening(&Source::sample("a.rs", "//! Owns nothing.\n")).is_empty());
        assert_eq!(opening(&Source::sample("a.rs", "// Owns nothing.\n")).len(), 1);
        assert!(opening(&Source::sample("a.md", "# Title\n")).is_empty());
    }

    #[test]
    fn lengths_are_counted_from_both_sides() {
        let sources = [600, 601, 900, 901].map(|lines| Source::sample("a.rs", &"x\n".repeat(lines)));
        assert_eq!(long(&sources).len(), 3);
        assert_eq!(too_long(&sources).len(), 1);
    }

    #[test]
    fn work_left_for_later_is_found() {
        for (head, tail) in [("// TO", "DO: later"), ("// FIX", "ME"), ("todo", "!()"), ("unimplemented", "!()"), ("dbg", "!(x)")] {
            let source = Source::sample("a.rs", &format!("fine\n{head}{tail}\n"));
            assert_eq!(leftovers(&source).len(), 1, "{head}{tail}");
            assert!(leftovers(&source)[0].starts_with("a.rs:2:"));
        }
        assert!(leftovers(&Source::sample("a.rs", "fine\n")).is_empty());
    }

    #[test]
    fn paths_and_registries_of_a_machine_are_found() {
        for (head, tail) in [("/wo", "rk/main"), ("/ro", "ot/.cargo"), ("/tmp", "/w/x"), ("replace", "-with = \"x\"")] {
            assert_eq!(machines(&Source::sample("a.md", &format!("{head}{tail}"))).len(), 1, "{head}{tail}");
        }
        let lock = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\nsource = \"registry+https://mirror.example/index\"\n";
        assert_eq!(machines(&Source::sample("Cargo.lock", lock)).len(), 1);
    }

    #[test]
    fn unsafe_must_be_listed_and_explained() {
        let explained = "// JUSTIFICATION: none.\n// SAFETY: none.\nunsafe { f() }\n";
        let listed = UNSAFE_FILES[0];
        assert!(unsafe_code(&Source::sample(listed, explained)).is_empty());
        assert_eq!(unsafe_code(&Source::sample("control/src/main.rs", explained)).len(), 1);
        assert_eq!(unsafe_code(&Source::sample(listed, "// SAFETY: none.\nunsafe { f() }\n")).len(), 1);
        assert_eq!(unsafe_code(&Source::sample(listed, "unsafe impl Send for X {}\n")).len(), 1);
        assert_eq!(unsafe_code(&Source::sample(listed, "let unsafe_code = \"unsafe\"; // unsafe\n")), Faults::new());
        let test = format!("#[cfg(test)]\nmod tests {{\n    // SAFETY: none.\n    unsafe {{ f() }}\n}}\n");
        assert!(unsafe_code(&Source::sample(listed, &test)).is_empty());
    }

    #[test]
    fn a_counter_nobody_keeps_is_found() {
        let names = ["Sends".to_owned(), "SendsFailed".to_owned()];
        let kept = |text: &str| unkept_counters(&[Source::sample("engine/src/shard/mod.rs", text)], &names).len();
        assert_eq!(kept("add(CounterId::Sends, 1); add(CounterId::SendsFailed, 1)"), 0);
        assert_eq!(kept("add(CounterId::SendsFailed, 1)"), 1);
        assert_eq!(kept("#[cfg(test)]\nmod tests {\n    CounterId::Sends; CounterId::SendsFailed;\n}\n"), 2);
    }

    #[test]
    fn a_list_that_is_too_long_is_found() {
        let listed: Vec<Source> = UNSAFE_FILES.iter().map(|path| Source::sample(path, "unsafe {}")).collect();
        assert!(unsafe_list(&listed).is_empty());
        assert_eq!(unsafe_list(&listed[1..]).len(), 1);
    }
}

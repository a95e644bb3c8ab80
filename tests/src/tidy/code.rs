//! Rust text as the rules want it: comments and literals blanked, paths resolved, tests told apart.

/// The text with comments and the insides of string and character literals replaced by spaces; lines keep
/// their numbers.
pub fn blanked(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let at = |index: usize| bytes.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut index = 0;
    let blank = |out: &mut String, character: char| out.push(if character == '\n' { '\n' } else { ' ' });
    while index < bytes.len() {
        let character = at(index);
        let is_name_before = index > 0 && (at(index - 1).is_alphanumeric() || at(index - 1) == '_');
        if character == '/' && at(index + 1) == '/' {
            while index < bytes.len() && at(index) != '\n' {
                out.push(' ');
                index += 1;
            }
        } else if character == '/' && at(index + 1) == '*' {
            let mut depth = 0;
            loop {
                let step = match (at(index), at(index + 1)) {
                    ('/', '*') => (1, 2),
                    ('*', '/') => (-1, 2),
                    _ => (0, 1),
                };
                depth += step.0;
                for _ in 0..step.1 {
                    blank(&mut out, at(index));
                    index += 1;
                }
                if depth == 0 || index >= bytes.len() {
                    break;
                }
            }
        } else if character == 'r' && !is_name_before_raw(&bytes, index) && matches!(at(index + 1), '"' | '#') && raw_hashes(&bytes, index).is_some() {
            let hashes = raw_hashes(&bytes, index).unwrap_or_default();
            index += 1 + hashes + 1;
            out.push_str("r\"");
            while index < bytes.len() && !(at(index) == '"' && (1..=hashes).all(|step| at(index + step) == '#')) {
                blank(&mut out, at(index));
                index += 1;
            }
            out.push('"');
            index += 1 + hashes;
        } else if character == '"' {
            out.push('"');
            index += 1;
            while index < bytes.len() && at(index) != '"' {
                if at(index) == '\\' {
                    out.push(' ');
                    index += 1;
                }
                blank(&mut out, at(index));
                index += 1;
            }
            out.push('"');
            index += 1;
        } else if character == '\'' && !is_name_before && (at(index + 1) == '\\' || at(index + 2) == '\'') {
            // A character; what is left is a lifetime.
            index += if at(index + 1) == '\\' { 3 } else { 2 };
            while index < bytes.len() && at(index) != '\'' {
                index += 1;
            }
            out.push_str("' '");
            index += 1;
        } else {
            out.push(character);
            index += 1;
        }
    }
    out
}

fn is_name_before_raw(text: &[char], index: usize) -> bool {
    // `br"..."` and `cr"..."` are raw as well.
    let before = |back: usize| index.checked_sub(back).and_then(|at| text.get(at)).copied().unwrap_or(' ');
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    is_name(before(1)) && !(matches!(before(1), 'b' | 'c') && !is_name(before(2)))
}

/// How many `#` stand between the `r` at `index` and its quote; None: this is no raw string.
fn raw_hashes(text: &[char], index: usize) -> Option<usize> {
    let hashes = text.iter().skip(index + 1).take_while(|character| **character == '#').count();
    (text.get(index + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// Whether an attribute says that what follows is for tests: unit tests, or the simulator.
pub fn is_of_tests(attribute: &str) -> bool {
    ["#[cfg(test)]", "#[cfg(all(test", "#[cfg(any(test, feature ="].iter().any(|begin| attribute.starts_with(begin))
}

/// Blanked text with its inline test modules blanked, too.
pub fn without_tests(blanked: &str) -> String {
    let mut out = String::with_capacity(blanked.len());
    let mut lines = blanked.lines().peekable();
    while let Some(line) = lines.next() {
        if !is_of_tests(line.trim_start()) {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        // The item that follows, to its closing brace in the same column, or its semicolon.
        out.push('\n');
        let indent = line.len() - line.trim_start().len();
        for line in lines.by_ref() {
            out.push('\n');
            let is_outermost = line.len() - line.trim_start().len() == indent;
            let ends = line.trim_end().ends_with(';') || line.trim_end().ends_with('}');
            if is_outermost && ends && !line.trim_start().starts_with("#[") {
                break;
            }
        }
    }
    out
}

/// A path in the code, made absolute: `["crate", "io", "Path"]`, `["spillway_proto", "id", ...]`.
pub struct Used {
    pub line: usize,
    pub path: Vec<String>,
}

/// Every path of the (blanked) text that begins at a crate or climbs. `module` is the file's own place:
/// `["io", "uring"]`.
pub fn used(blanked: &str, module: &[&str]) -> Vec<Used> {
    let characters: Vec<char> = blanked.chars().collect();
    let mut found = Vec::new();
    let (mut index, mut line) = (0, 1);
    while index < characters.len() {
        if characters[index] == '\n' {
            line += 1;
        }
        let starts = (characters[index].is_alphabetic() || characters[index] == '_')
            && (index == 0 || !is_word(characters[index - 1]));
        let after_colons = index >= 2 && characters[index - 1] == ':' && characters[index - 2] == ':';
        if starts && !after_colons {
            let mut paths = Vec::new();
            let end = tree(&characters, index, &mut Vec::new(), &mut paths);
            for path in paths.into_iter().filter(|path| path.len() > 1) {
                found.push(Used { line, path: absolute(path, module) });
            }
            line += characters[index..end].iter().filter(|character| **character == '\n').count();
            index = end.max(index + 1);
        } else {
            index += 1;
        }
    }
    found
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Reads `a::b::{c, d::e}` from `index`; returns where it ends.
fn tree(text: &[char], mut index: usize, prefix: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
    let depth = prefix.len();
    let at = |index: usize| text.get(index).copied().unwrap_or('\0');
    loop {
        if at(index) == '{' {
            index += 1;
            while at(index) != '}' && index < text.len() {
                if is_word(at(index)) {
                    index = tree(text, index, prefix, paths);
                } else {
                    index += 1;
                }
            }
            prefix.truncate(depth);
            return index + 1;
        }
        let mut word = String::new();
        while is_word(at(index)) {
            word.push(at(index));
            index += 1;
        }
        if !word.is_empty() {
            prefix.push(word);
        }
        if at(index) == ':' && at(index + 1) == ':' && (is_word(at(index + 2)) || at(index + 2) == '{') {
            index += 2;
        } else {
            paths.push(prefix.clone());
            prefix.truncate(depth);
            return index;
        }
    }
}

fn absolute(path: Vec<String>, module: &[&str]) -> Vec<String> {
    let climbs = path.iter().take_while(|part| part.as_str() == "super").count();
    let is_self = path.first().is_some_and(|part| part == "self");
    if climbs == 0 && !is_self {
        return path;
    }
    let kept = module.len().saturating_sub(climbs);
    let own = module.iter().take(kept).map(|part| (*part).to_owned());
    ["crate".to_owned()].into_iter().chain(own).chain(path.into_iter().skip(climbs.max(usize::from(is_self)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, module: &[&str]) -> Vec<String> {
        used(&blanked(text), module).into_iter().map(|used| used.path.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_are_blank_and_lines_stay() {
        let text = "a // std::fs\n/* x /* y */ z */ b \"std::env \\\" q\" r#\"unsafe \" \"# 'u' b'\\'' <'a> c\n";
        let blank = blanked(text);
        assert_eq!(blank.lines().count(), 2);
        for word in ["std", "unsafe", "q", "'u'"] {
            assert!(!blank.contains(word), "{blank}");
        }
        for word in ["a", "b", "<'a>", "c"] {
            assert!(blank.contains(word), "{blank}");
        }
    }

    #[test]
    fn paths_are_found_in_groups_and_made_absolute() {
        let text = "use crate::{id::X, stream::{Y, z::W}};\nuse super::super::session as s;\nself::inner::f(); let x: std::net::IpAddr;";
        let found = names(text, &["wire", "rtp"]);
        for path in ["crate::id::X", "crate::stream::Y", "crate::stream::z::W", "crate::session", "crate::wire::rtp::inner::f", "std::net::IpAddr"] {
            assert!(found.iter().any(|used| used == path), "{path} in {found:?}");
        }
    }

    #[test]
    fn tests_are_told_apart_from_the_product() {
        let text = "fn a() {}\n#[cfg(test)]\nuse std::fs;\n#[cfg(test)]\nmod tests {\n    use std::env;\n}\nfn b() {}\n";
        let product = without_tests(&blanked(text));
        assert!(product.contains("fn a") && product.contains("fn b"));
        assert!(!product.contains("std"), "{product}");
        assert_eq!(product.lines().count(), text.lines().count());
    }
}

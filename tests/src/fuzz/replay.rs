//! Goal: what a fuzzer found once stays found without one. Method: the committed corpora and the files of findings,
//! through the bodies of the targets.

use super::TARGETS;
use crate::tidy::root;
use std::fs;
use std::path::{Path, PathBuf};

fn files(of: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(of) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    files
}

#[test]
fn corpora_and_findings_pass() {
    for target in TARGETS {
        let corpus = files(&root().join("fuzz/corpus").join(target.name));
        assert!(corpus.len() >= 5, "{}: a corpus of {} files says little", target.name, corpus.len());
        for file in corpus.iter().chain(&files(&root().join("fuzz/findings").join(target.name))) {
            let bytes = fs::read(file).expect("a readable file");
            // Names the file, should the body panic: the panic itself says why.
            let outcome = std::panic::catch_unwind(|| (target.body)(&bytes));
            assert!(outcome.is_ok(), "{} fails on {}", target.name, file.display());
        }
    }
}

#[test]
fn every_target_stands_in_the_fuzz_workspace() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("fuzz has a manifest");
    for target in TARGETS {
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{} is no binary of fuzz/", target.name);
        let text = fs::read_to_string(root().join(format!("fuzz/targets/{}.rs", target.name))).expect("its file");
        assert!(text.contains(&format!("spillway_tests::fuzz::{}(bytes)", target.name)), "{text}");
    }
    let binaries = manifest.matches("[[bin]]").count();
    assert_eq!(binaries, TARGETS.len(), "a binary of fuzz/ is not in the list of targets");
}

#[test]
fn corpora_are_small() {
    let size = |file: &PathBuf| fs::metadata(file).map_or(0, |facts| facts.len());
    let all = TARGETS.iter().flat_map(|target| files(&root().join("fuzz/corpus").join(target.name)));
    let bytes: u64 = all.map(|file| size(&file)).sum();
    assert!(bytes < 300_000, "{bytes} bytes of corpora: minimise them (cargo fuzz cmin)");
}

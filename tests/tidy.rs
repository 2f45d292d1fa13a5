//! The repository checks itself: import directions between crates, a `//!` on every file, lengths, one word for one thing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on ends with the reason")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file of more lines is worth two files.
const MAX_LINES: usize = 600;
/// What each crate may use of the others.
const MAY_USE: [(&str, &[&str]); 8] = [
    ("conf", &[]),
    ("policy", &["waypost-conf"]),
    ("watcher", &["waypost-conf", "waypost-policy"]),
    ("benches", &["waypost-conf", "waypost-policy", "waypost-watcher"]),
    ("owner", &["waypost-conf", "waypost-policy", "waypost-watcher"]),
    ("inputs", &["waypost-conf", "waypost-policy", "waypost-watcher"]),
    ("proxy", &["waypost-conf", "waypost-policy", "waypost-watcher", "waypost-bench", "waypost-owner"]),
    ("tests", &["waypost-owner"]),
];
/// What the core may not touch: sockets, tasks, clocks, its own randomness.
const NOT_IN_THE_CORE: [&str; 6] = ["tokio", "std::net::Tcp", "Instant::now", "SystemTime", "fastrand::Rng::new()", "std::fs"];
/// Words that mean something else here, or nothing.
const OTHER_WORDS: [&str; 3] = ["backend pool", "vhost", "virtual host"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            found.extend(files_below(&path, ending));
        } else if path.extension().is_some_and(|given| given == ending) {
            found.push(path);
        }
    }
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    let folders = MAY_USE.iter().map(|(folder, _)| root().join(folder));
    folders.flat_map(|folder| files_below(&folder, "rs")).map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

#[test]
fn every_file_says_what_it_is_for_and_has_a_bearable_length() {
    for (file, text) in sources() {
        assert!(text.starts_with("//! "), "{} does not start with //!", file.display());
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", file.display());
    }
}

#[test]
fn crates_use_only_what_they_may() {
    for (folder, allowed) in MAY_USE {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        for line in manifest.lines().filter(|line| line.starts_with("waypost-")) {
            let used = line.split(['.', ' ', '=']).next().unwrap();
            assert!(allowed.contains(&used), "{folder} uses {used}");
        }
    }
}

#[test]
fn the_core_has_no_sockets_clocks_or_randomness() {
    let core = files_below(&root().join("policy/src"), "rs");
    let machine = ["machine.rs", "applier.rs", "applier/guard.rs", "applier/resync.rs", "listed.rs"]
        .map(|file| root().join("watcher/src").join(file));
    for file in core.iter().chain(&machine) {
        let text = fs::read_to_string(file).unwrap();
        for word in NOT_IN_THE_CORE {
            assert!(!text.contains(word), "{} mentions {word}", file.display());
        }
    }
}

#[test]
fn one_word_for_one_thing() {
    let documents = files_below(&root(), "md").into_iter().map(|file| (file.clone(), fs::read_to_string(file).unwrap()));
    for (file, text) in documents.chain(sources().into_iter().filter(|(file, _)| !file.ends_with("tests/tidy.rs"))) {
        let lower = text.to_lowercase();
        for word in OTHER_WORDS {
            assert!(!lower.contains(word), "{} says \"{word}\"", file.display());
        }
    }
}

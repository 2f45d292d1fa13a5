//! What the fuzz targets have kept is replayed: every input that once reached something new, and every one that once broke something.
#![allow(clippy::unwrap_used, reason = "a test that can't go on ends with the reason")]

use std::{fs, panic, path::Path};

use waypost_inputs::INPUTS;

/// In a corpus of this size a target has been at work; fewer would mean that the folder is another one.
const FEW: usize = 10;

#[test]
fn what_was_found_once_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fuzz/corpus");
    for (name, holds) in INPUTS {
        let files: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= FEW, "{name} has {} inputs", files.len());
        for file in files {
            let bytes = fs::read(&file).unwrap();
            assert!(
                panic::catch_unwind(|| holds(&bytes)).is_ok(),
                "{} does not hold: {:?}",
                file.display(),
                String::from_utf8_lossy(&bytes)
            );
        }
    }
}

#[test]
fn every_corpus_has_a_target_and_every_target_is_replayed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let names = |folder: &str| {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let known = INPUTS.map(|(name, _)| name);
    assert_eq!((names("fuzz/corpus"), names("fuzz/fuzz_targets")), (known.map(str::to_owned).to_vec(), known.map(str::to_owned).to_vec()));
}

//! The bench of the gold copy in small, so that it does not rot: every scene runs to its end. No figure is looked at.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::process::Command;

/// What the scenes themselves hold: all routes are listed, nothing fails, no answer is wrong, the table is the store's at the end.
#[test]
fn every_scene_runs_to_its_end() {
    let bench = env!("CARGO_BIN_EXE_bench-gold");
    let ran = Command::new(bench).arg("--quick").output().unwrap();
    let (table, said) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "build the binary first: cargo build -p waypost\n{said}");
    assert!(table.contains("| 0 wrong of "), "{table}\n{said}");
    let figures = table.lines().filter(|line| line.starts_with("| ")).count();
    assert!(figures > 10, "{table}");
}

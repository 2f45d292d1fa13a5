//! The bench of stale routes in small, so that it does not rot. No time is looked at, but what must hold at any speed is.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::process::Command;

#[test]
fn every_scene_runs_to_its_end() {
    let bench = env!("CARGO_BIN_EXE_bench-stale");
    let ran = Command::new(bench).arg("--quick").output().unwrap();
    let (table, said) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "build the binary first: cargo build -p waypost\n{said}");
    assert!(table.contains(": 0 failed, 0 reads of the store"), "{table}\n{said}");
    assert!(table.contains(" 1 connections to the owner that refused"), "{table}\n{said}");
}

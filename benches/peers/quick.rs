//! The comparison in small, so that it does not rot: every row with those peers that are installed. No figure is looked at.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::process::Command;

/// Waypost answers in every row and fails in none; nobody's cell is empty.
#[test]
fn every_row_has_a_figure_or_a_reason() {
    let bench = env!("CARGO_BIN_EXE_bench-peers");
    let ran = Command::new(bench).args(["--quick", "--peer", "waypost", "--peer", "haproxy", "--peer", "nginx"]).output().unwrap();
    let (report, said) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "build the binary first: cargo build -p waypost\n{said}");
    let listed = Command::new(bench).args(["--quick", "--list"]).output().unwrap();
    let rows = String::from_utf8_lossy(&listed.stdout).lines().count();
    for peer in ["Waypost", "HAProxy", "nginx"] {
        let cells: Vec<&str> = report
            .lines()
            .filter(|line| {
                line.contains(&format!("| {peer} |")) && line.matches(" | ").count() > 3 && !line.starts_with(&format!("| {peer} |"))
            })
            .collect();
        assert_eq!(cells.len(), rows, "{peer}\n{report}\n{said}");
        for cell in cells {
            assert!(
                !cell.contains("can't") || cell.trim_end_matches(" |").rsplit("| ").next().is_some_and(|why| !why.is_empty()),
                "{cell}"
            );
            assert!(peer != "Waypost" || !(cell.contains("can't") || cell.contains("failed")), "{cell}\n{said}");
        }
    }
}

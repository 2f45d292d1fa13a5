//! An end before the end: what was started goes with this program, and so does its folder.
//!
//! Stopped processes outlive whoever stopped them, and a folder of a run holds a gigabyte.

use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use waypost_bench::processes::{Told, say};

use crate::tree;

/// On SIGINT and SIGTERM all children are ended, the folder is removed, and this process exits 1.
pub(crate) fn watch(folder: PathBuf) -> Told<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(say)?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt()).map_err(say)?, signal(SignalKind::terminate()).map_err(say)?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        tree::end_below(std::process::id());
        let _ = std::fs::remove_dir_all(&folder);
        eprintln!("ended before its end");
        std::process::exit(1);
    });
    Ok(())
}

/// Thousands of connections are two files each, in this process and in each peer: as many as this user may have.
pub(crate) fn raise_limit_of_files() {
    let limit = getrlimit(Resource::Nofile);
    // If that is refused, the rows with many connections say what came of it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn stopped_children_are_ended_too() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        super::tree::signal(child.id(), rustix::process::Signal::STOP);
        super::tree::end_below(std::process::id());
        assert!(!child.wait().unwrap().success());
    }
}

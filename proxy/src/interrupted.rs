//! For commands that start processes of their own: being asked to stop, so that they can end those first.

use std::future::pending;

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failed;

/// Ends at SIGINT or SIGTERM, with what the command ends with then: as a shell has it, 128 and the signal's number.
pub(crate) async fn interrupted() -> Failed {
    let comes = async |kind| match signal(kind) {
        Ok(mut signals) => drop(signals.recv().await),
        Err(_) => pending().await,
    };
    tokio::select! {
        () = comes(SignalKind::interrupt()) => Failed::said(130),
        () = comes(SignalKind::terminate()) => Failed::said(143),
    }
}

//! The signals that a running process knows.

use std::io;

use tokio::signal::unix::{self, SignalKind, signal};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM: drain.
    Terminate,
    /// SIGINT: stop at once.
    Interrupt,
    /// SIGHUP: reread what can be reread.
    HangUp,
    /// SIGQUIT: hand the sockets over.
    Quit,
}

/// Those that came and were not heard yet.
pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
    quit: unix::Signal,
}

/// From now on SIGHUP and SIGQUIT no longer end the process, although nobody hears them before it serves: it may have to wait for that.
///
/// # Errors
/// If the handlers can't be installed.
pub(crate) fn outlast() -> io::Result<()> {
    for kind in [SignalKind::hangup(), SignalKind::quit()] {
        // The handler stays when its stream goes.
        drop(signal(kind)?);
    }
    Ok(())
}

impl Signals {
    /// From now on they are for this to hear.
    ///
    /// # Errors
    /// If the handlers can't be installed.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.quit.recv() => Signal::Quit,
            _ = self.hang_up.recv() => Signal::HangUp,
        }
    }

    /// Ends at SIGINT. What else comes is for a process that is not on its way out, but for `hung_up`, which is called.
    pub(super) async fn interrupted(&mut self, mut hung_up: impl FnMut()) {
        loop {
            match self.next().await {
                Signal::Interrupt => return,
                Signal::HangUp => hung_up(),
                Signal::Terminate | Signal::Quit => tracing::info!("the process is on its way out already; SIGINT ends it at once"),
            }
        }
    }
}

//! The process's monotonic clock as the core's [`Moment`]s, counted from the process's start.

use std::time::Instant;

use waypost_policy::Moment;

/// One origin for all moments of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The origin, for those who count from the same.
    pub(crate) fn origin(self) -> Instant {
        self.origin
    }

    /// The present moment.
    pub(crate) fn now(self) -> Moment {
        Moment::after_origin(self.origin.elapsed())
    }
}

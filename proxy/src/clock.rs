//! The process's monotonic clock as the core's [`Moment`]s, counted from the process's start.

use std::time::{Duration, Instant};

use waypost_policy::Moment;

/// As good as never.
const FAR: Duration = Duration::from_secs(24 * 3600);

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

    /// A moment as the runtime's timers know it; one that is centuries away as a day from now.
    pub(crate) fn instant(self, moment: Moment) -> Instant {
        let later = moment.since(Moment::default());
        self.origin.checked_add(later).unwrap_or_else(|| Instant::now() + FAR)
    }

    /// The present moment.
    pub(crate) fn now(self) -> Moment {
        self.moment(Instant::now())
    }

    /// The moment of this time.
    pub(crate) fn moment(self, at: Instant) -> Moment {
        Moment::after_origin(at.saturating_duration_since(self.origin))
    }
}

//! When a change is put in force: at once, unless another was a moment ago; then together with what comes until that moment is over.
//!
//! A lone change never waits, nor does one behind another that was put in force cheaply; a burst costs a publish a moment instead of one
//! a change. Sans-IO: time is an argument.

use std::time::{Duration, Instant};

/// Between two publishes of changes, at most. A runtime's timer may take a millisecond more: together that is the two that a change may wait.
const MOMENT: Duration = Duration::from_millis(1);
/// It is so many times what the last publish took, if that is less: one writer's puts, each behind the last, are all put in force at
/// once, and publishing stays a tenth of a core.
const TIMES_A_PUBLISH: u32 = 10;

/// What was applied and is not in force yet.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    published: Option<Instant>,
    pause: Duration,
    /// When the first change that is not in force arrived.
    waiting: Option<Instant>,
}

impl Pace {
    /// A change that arrived at `arrived` has been applied; true if it is to be put in force now.
    pub(crate) fn changed(&mut self, arrived: Instant, now: Instant) -> bool {
        self.waiting.get_or_insert(arrived);
        self.due_in(now).is_some_and(|due| due.is_zero())
    }

    /// How long what was applied may still wait; `None` if everything is in force.
    pub(crate) fn due_in(&self, now: Instant) -> Option<Duration> {
        self.waiting?;
        Some(self.published.map_or(Duration::ZERO, |published| (published + self.pause).saturating_duration_since(now)))
    }

    /// Everything is put in force now; when the first of it arrived, if something had waited.
    pub(crate) fn publishing(&mut self, now: Instant) -> Option<Instant> {
        (self.published, self.pause) = (Some(now), MOMENT);
        self.waiting.take()
    }

    /// It is in force.
    pub(crate) fn published(&mut self, now: Instant) {
        let took = self.published.map_or(MOMENT, |began| now.saturating_duration_since(began));
        self.pause = (took * TIMES_A_PUBLISH).min(MOMENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_change_never_waits_and_a_burst_is_put_in_force_together() {
        let start = Instant::now();
        let at = |micros: u64| start + Duration::from_micros(micros);
        let mut pace = Pace::default();
        assert_eq!(pace.due_in(at(0)), None);
        assert!(pace.changed(at(0), at(10)), "the first");
        assert_eq!(pace.publishing(at(20)), Some(at(0)));
        pace.published(at(120));
        assert!(!pace.changed(at(300), at(310)), "right behind another");
        assert!(!pace.changed(at(500), at(510)));
        assert_eq!(pace.due_in(at(520)), Some(Duration::from_micros(500)));
        assert_eq!(pace.due_in(at(5000)), Some(Duration::ZERO));
        assert!(pace.changed(at(1000), at(1020)), "the moment is over");
        assert_eq!(pace.publishing(at(1030)), Some(at(300)), "the time of the first that waited");
        pace.published(at(9000));
        assert!(pace.changed(at(9000), at(9000)), "no pause is longer than a moment");
        assert_eq!(pace.publishing(at(9000)), Some(at(9000)));
        pace.published(at(9020));
        assert_eq!(pace.due_in(at(9040)), None);
        assert!(!pace.changed(at(9150), at(9150)), "a pause of ten times what the last one took");
        assert!(pace.changed(at(9200), at(9200)), "which is over sooner than a moment");
    }
}

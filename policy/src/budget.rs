//! The retry budget: what share of a service's requests may be sent again, so that a failing owner is not met by a storm.
//!
//! Counted over the last ten seconds in ten one-second buckets, each one atomic word, so that no request waits for
//! another. A budget outlives every publish of the table.

use std::sync::atomic::{AtomicU64, Ordering};

use waypost_conf::Retries;

use crate::Moment;

/// How many seconds a budget looks back (STALE-ROUTES.md, "Sending again").
const WINDOW_S: u64 = 10;

/// Counts requests and repeats of one service.
#[derive(Debug, Default)]
pub struct RetryBudget {
    requests: Window,
    repeats: Window,
}

impl RetryBudget {
    /// Counts a request that came from a client.
    pub fn request(&self, now: Moment) {
        self.requests.add(now);
    }

    /// Whether a request may be sent again now; if so, it is counted.
    pub fn draw(&self, rules: &Retries, now: Moment) -> bool {
        let share = self.requests.total(now).saturating_mul(u64::from(rules.budget_percent)) / 100;
        let floor = WINDOW_S.saturating_mul(u64::from(rules.min_per_second));
        if self.repeats.total(now) >= share.max(floor) {
            return false;
        }
        self.repeats.add(now);
        true
    }
}

/// Ten one-second counters; each word holds its second (high half) and its count (low half).
#[derive(Debug, Default)]
struct Window {
    buckets: [AtomicU64; WINDOW_S as usize],
}

impl Window {
    fn add(&self, now: Moment) {
        let second = now.as_secs() + 1; // 0 is an empty bucket
        let bucket = &self.buckets[(second % WINDOW_S) as usize];
        let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            Some(if word >> 32 == second { word.saturating_add(1) } else { second << 32 | 1 })
        });
    }

    fn total(&self, now: Moment) -> u64 {
        let second = now.as_secs() + 1;
        let words = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        words.filter(|word| (word >> 32) + WINDOW_S > second).map(|word| word & u64::from(u32::MAX)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn repeats_are_bounded_by_the_floor_and_then_by_the_share() {
        let budget = RetryBudget::default();
        let rules = Retries { budget_percent: 20, min_per_second: 1 };
        let now = Moment::default();
        assert_eq!((0..100).filter(|_| budget.draw(&rules, now)).count(), 10);
        for _ in 0..100 {
            budget.request(now);
        }
        assert_eq!((0..100).filter(|_| budget.draw(&rules, now)).count(), 10);
        let later = now + Duration::from_secs(11);
        assert_eq!((0..100).filter(|_| budget.draw(&rules, later)).count(), 10);
    }
}

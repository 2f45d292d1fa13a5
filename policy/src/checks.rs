//! How many reads of the store healing may cause: a token bucket over the whole proxy.
//!
//! STALE-ROUTES.md: at most 200 checks a second, burst 50, each of at most 250 ms. Sharing one read among all requests
//! that wait for a key is the watcher's, who does the reading; it asks here before it starts one.

use std::time::Duration;

use crate::Moment;

/// Checks a second.
pub const CHECKS_PER_SECOND: u64 = 200;
/// How many may start at once after a quiet while.
pub const CHECK_BURST: u64 = 50;
/// How long one read may take.
pub const CHECK_TIMEOUT: Duration = Duration::from_millis(250);

/// The bucket. Counted in nano-tokens, so that refilling loses nothing to rounding.
#[derive(Debug)]
pub struct CheckBudget {
    tokens: u64,
    filled_at: Moment,
}

const TOKEN: u64 = 1_000_000_000;

impl CheckBudget {
    /// A full bucket.
    pub fn new(now: Moment) -> Self {
        Self { tokens: CHECK_BURST * TOKEN, filled_at: now }
    }

    /// Whether a check may start now; if so, it is counted.
    pub fn draw(&mut self, now: Moment) -> bool {
        let elapsed_ns = u64::try_from(now.since(self.filled_at).as_nanos()).unwrap_or(u64::MAX);
        self.tokens = self.tokens.saturating_add(elapsed_ns.saturating_mul(CHECKS_PER_SECOND)).min(CHECK_BURST * TOKEN);
        self.filled_at = self.filled_at.max(now);
        if self.tokens < TOKEN {
            return false;
        }
        self.tokens -= TOKEN;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_to_the_burst_and_then_to_the_rate() {
        let mut budget = CheckBudget::new(Moment::default());
        let mut drawn = 0;
        for ms in 0..1000 {
            let now = Moment::default() + Duration::from_millis(ms);
            drawn += (0..10).filter(|_| budget.draw(now)).count();
        }
        assert!((200..=250).contains(&drawn), "{drawn}");
    }
}

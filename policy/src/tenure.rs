//! How long an owner may serve that stops without the store: within its lease, by its own clock, and no longer than it has looked since.
//!
//! Such an owner's lease counts as its word: once it has ended, a mover takes its keys for let go (STALE-ROUTES.md). What always holds: nothing is
//! served by a lease that may have ended; after one has ended nothing is served until the view is known to be newer than the
//! announcement that was made again. Clocks need to agree on how long a second is, to a tenth; only storage that fences makes it safe against a process that is
//! paused between being admitted and writing.

use std::time::Duration;

use crate::Moment;

/// So much of its lease an owner admits requests for, ...
const ADMITS: f64 = 2.0 / 3.0;
/// ... and so much of it what was admitted may go on.
const FINISHES: f64 = 9.0 / 10.0;

/// One owner's lease, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Tenure {
    lease: Option<Lease>,
    /// How often it began anew, the first time included.
    terms: u64,
    /// The term in which the view was looked at.
    confirmed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    /// When it was asked for, or for its renewal: it began no sooner.
    from: Moment,
    lasts: Duration,
}

/// What an owner may do now, and until when if it hears nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It serves.
    Serves(Moment),
    /// It admits no request, and ends streams; what was admitted may go on.
    Finishes(Moment),
    /// Nothing may be executed.
    Over,
}

impl Tenure {
    /// The lease was granted, or renewed, for so long: asked for at `from`, and its key known to be in the store at `known`.
    pub fn renewed(&mut self, from: Moment, lasts: Duration, known: Moment) {
        let has_stood = self.lease.is_some_and(|lease| known < lease.from + lease.lasts);
        if !has_stood {
            self.terms += 1;
        }
        self.lease = Some(Lease { from, lasts });
    }

    /// The term for which it is not known yet that the view is newer than the announcement, if there is one.
    pub fn unconfirmed(&self) -> Option<u64> {
        (self.confirmed < self.terms).then_some(self.terms)
    }

    /// The view is newer than the announcement with which a term began.
    pub fn confirm(&mut self, term: u64) {
        self.confirmed = self.confirmed.max(term);
    }

    /// What may be done.
    pub fn standing(&self, now: Moment) -> Standing {
        let Some(lease) = self.lease.filter(|_| self.confirmed == self.terms) else { return Standing::Over };
        let [admits, finishes] = [ADMITS, FINISHES].map(|part| lease.from + lease.lasts.mul_f64(part));
        match now {
            now if now < admits => Standing::Serves(admits),
            now if now < finishes => Standing::Finishes(finishes),
            _ => Standing::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    fn at(seconds: f64) -> Moment {
        Moment::after_origin(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn it_stops_before_its_lease_ends_and_serves_again_when_it_is_renewed_in_time() {
        let mut tenure = Tenure::default();
        assert_eq!(tenure.standing(at(0.0)), Standing::Over, "before the first lease");
        tenure.renewed(at(1.0), TEN, at(2.0));
        assert_eq!((tenure.standing(at(2.0)), tenure.unconfirmed()), (Standing::Over, Some(1)), "nobody has looked");
        tenure.confirm(1);
        assert_eq!(tenure.standing(at(2.0)), Standing::Serves(at(1.0) + TEN.mul_f64(ADMITS)));
        assert_eq!(tenure.standing(at(8.0)), Standing::Finishes(at(10.0)));
        assert_eq!(tenure.standing(at(10.0)), Standing::Over);
        tenure.renewed(at(9.5), TEN, at(10.9));
        assert!(matches!(tenure.standing(at(10.9)), Standing::Serves(_)), "it has stood throughout");
        tenure.renewed(at(19.0), TEN, at(19.5));
        assert_eq!(tenure.standing(at(19.5)), Standing::Over, "it may have ended in between");
        tenure.confirm(1);
        assert_eq!(tenure.standing(at(19.5)), Standing::Over, "what was seen before does not count");
        tenure.confirm(2);
        assert!(matches!(tenure.standing(at(19.5)), Standing::Serves(_)));
    }

    proptest! {
        /// However renewals come, and whichever of them are missed: nothing is served outside a lease, or by a view from before one ended.
        #[test]
        fn nothing_is_served_without_a_lease(steps in proptest::collection::vec((0u64..12_000, 0u64..6_000, any::<bool>(), any::<bool>()), 1..60)) {
            let ms = |ms: u64| Moment::from_nanos(ms * 1_000_000);
            let (mut tenure, mut now) = (Tenure::default(), 0);
            // In the store: when the key goes, unless it is renewed, and in which term the process has looked since.
            let (mut ends, mut has_looked) = (0, false);
            for (pause, took, is_heard, looks) in steps {
                now += pause;
                let term = tenure.unconfirmed();
                if looks && let Some(term) = term {
                    tenure.confirm(term);
                    has_looked = true;
                }
                let began = now;
                now += took;
                // The store renews at any time between question and answer: at the question here.
                let has_stood = began < ends && now < ends;
                if is_heard {
                    has_looked &= has_stood;
                    ends = began + 10_000;
                    tenure.renewed(ms(began), TEN, ms(now));
                }
                for later in [now, now + 3_000, now + 7_000, now + 9_500] {
                    if tenure.standing(ms(later)) != Standing::Over {
                        prop_assert!(later < ends && has_looked);
                    }
                }
            }
        }
    }
}

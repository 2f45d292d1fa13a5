//! The table against the store, now and then: whether what was followed change by change comes to what the store holds. Sans-IO.
//!
//! etcd has lost, repeated and delayed events in several of its versions, and a table that missed one is wrong until that key changes again.
//! So at a revision R the whole store is read, slowly, and only its digest is kept; the table's digest as of R is remembered when the first
//! change behind R is applied ([`Applier::set_mark`]). What always holds: a difference is told only when all that leads to R had its time to
//! come, and a check that a list or a lost connection overtakes is begun again, not judged.

use std::time::Duration;

use waypost_policy::Moment;

use crate::applier::Applier;

/// How long changes up to the revision may take to come when everything else has; begun anew whenever one comes. Longer than a watch may be silent.
const GRACE: Duration = Duration::from_secs(20);
/// A check that could not be made is made this much sooner than the next one would be.
const SOONER: u32 = 10;

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The revision.
    pub revision: u64,
    /// Whether the table was what the store holds.
    pub is_equal: bool,
}

#[derive(Debug)]
enum Step {
    Waiting { until: Moment },
    Asking,
    Reading { revision: u64 },
    Comparing { revision: u64, digest: u128, seen: u64, until: Moment },
}

/// When the store is read, and what the answers mean.
#[derive(Debug)]
pub struct DigestCheck {
    every: Duration,
    step: Step,
}

impl DigestCheck {
    /// Checks about `every` so often (zero: never), at no regular times, so that the proxies of a fleet do not read the store together.
    pub fn new(every: Duration, now: Moment, rng: &mut fastrand::Rng) -> Self {
        let mut check = Self { every, step: Step::Asking };
        check.wait(every, now, rng);
        check
    }

    /// When [`DigestCheck::is_due`] or [`DigestCheck::compare`] is to be called, at the latest; `None` while something is being read, or for ever.
    pub fn wake_at(&self) -> Option<Moment> {
        match self.step {
            Step::Waiting { until } if !self.every.is_zero() => Some(until),
            Step::Comparing { until, .. } => Some(until),
            Step::Waiting { .. } | Step::Asking | Step::Reading { .. } => None,
        }
    }

    /// Whether the store's revision is to be read now, linearizably.
    pub fn is_due(&mut self, is_watching: bool, now: Moment, rng: &mut fastrand::Rng) -> bool {
        let is_due = matches!(self.step, Step::Waiting { until } if until <= now) && !self.every.is_zero();
        if is_due && is_watching {
            self.step = Step::Asking;
        } else if is_due {
            self.wait(self.every / SOONER, now, rng);
        }
        is_due && is_watching
    }

    /// The store's revision was read. At which revision all its records are to be read; `None`: not now.
    pub fn asked(&mut self, revision: u64, applier: &mut Applier) -> Option<u64> {
        let Step::Asking = self.step else { return None };
        // What came meanwhile is in force already.
        let revision = revision.max(applier.revision());
        applier.set_mark(revision);
        self.step = Step::Reading { revision };
        Some(revision)
    }

    /// All records were read; their digest.
    pub fn read(&mut self, digest: u128, applier: &Applier, now: Moment) {
        let Step::Reading { revision } = self.step else { return };
        self.step = Step::Comparing { revision, digest, seen: applier.revision(), until: now + GRACE };
    }

    /// Something broke, or the connection was given up.
    pub fn fail(&mut self, now: Moment, rng: &mut fastrand::Rng) {
        if !matches!(self.step, Step::Waiting { .. }) {
            self.wait(self.every / SOONER, now, rng);
        }
    }

    /// What came of it, if that is known; to be asked after each change and when it is time.
    pub fn compare(&mut self, applier: &Applier, now: Moment, rng: &mut fastrand::Rng) -> Option<Compared> {
        let Step::Comparing { revision, digest, seen, until } = &mut self.step else { return None };
        let Some((known, is_certain)) = applier.digest_at_mark() else {
            self.fail(now, rng);
            return None;
        };
        if applier.revision() > *seen {
            (*seen, *until) = (applier.revision(), now + GRACE);
        }
        let is_equal = known == *digest;
        if !is_equal && !is_certain && now < *until {
            return None;
        }
        let compared = Compared { revision: *revision, is_equal };
        self.wait(self.every, now, rng);
        Some(compared)
    }

    fn wait(&mut self, about: Duration, now: Moment, rng: &mut fastrand::Rng) {
        self.step = Step::Waiting { until: now + about.mul_f64(0.5 + rng.f64()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applier::histories::Scene;

    const EVERY: Duration = Duration::from_secs(3600);

    struct Checking {
        scene: Scene,
        check: DigestCheck,
        now: Moment,
        rng: fastrand::Rng,
    }

    impl Checking {
        fn new() -> Self {
            let mut rng = fastrand::Rng::with_seed(1);
            let check = DigestCheck::new(EVERY, Moment::default(), &mut rng);
            Self { scene: Scene::new(), check, now: Moment::default(), rng }
        }

        /// The store is read at its present revision.
        fn read(&mut self) -> u64 {
            self.now = self.check.wake_at().unwrap();
            assert!(self.check.is_due(true, self.now, &mut self.rng));
            self.check.asked(self.scene.store.revision, &mut self.scene.applier).unwrap()
        }

        fn answer(&mut self, digest: u128) {
            self.check.read(digest, &self.scene.applier, self.now);
        }

        fn compare(&mut self) -> Option<bool> {
            self.check.compare(&self.scene.applier, self.now, &mut self.rng).map(|compared| compared.is_equal)
        }
    }

    #[test]
    fn what_changes_while_the_store_is_read_does_not_count() {
        let mut it = Checking::new();
        it.read();
        let digest = it.scene.store.digest();
        it.scene.put("routes/orders/t1", r#"{"owner":"a"}"#);
        it.answer(digest);
        assert_eq!(it.compare(), Some(true));
        assert_eq!(it.compare(), None, "once");
        assert!(it.check.wake_at().unwrap() > it.now + EVERY / 4);
    }

    #[test]
    fn what_is_still_to_come_has_its_time_and_what_never_comes_is_a_difference() {
        for comes in [true, false] {
            let mut it = Checking::new();
            let events = it.scene.store.transact(&[("routes/orders/t1", Some(r#"{"owner":"a"}"#))]);
            it.read();
            it.answer(it.scene.store.digest());
            assert_eq!(it.compare(), None);
            if comes {
                it.scene.applier.apply(events).unwrap();
                assert_eq!(it.compare(), Some(true));
            } else {
                it.now = it.check.wake_at().unwrap();
                assert_eq!(it.compare(), Some(false));
            }
        }
    }

    #[test]
    fn a_lost_event_is_a_difference_as_soon_as_a_later_one_has_come() {
        let mut it = Checking::new();
        it.scene.store.transact(&[("routes/orders/t1", Some(r#"{"owner":"a"}"#))]);
        it.read();
        it.answer(it.scene.store.digest());
        it.scene.put("routes/orders/t2", r#"{"owner":"a"}"#);
        assert_eq!(it.compare(), Some(false));
    }

    #[test]
    fn what_is_overtaken_is_not_judged() {
        let mut it = Checking::new();
        it.read();
        it.scene.resync(false);
        it.answer(7);
        assert_eq!(it.compare(), None, "the store was listed meanwhile");
        let again = it.check.wake_at().unwrap();
        assert!(again < it.now + EVERY / 4, "but soon again");
        it.read();
        it.check.fail(it.now, &mut it.rng);
        it.answer(7);
        assert_eq!(it.compare(), None, "a late answer");
        it.now = it.check.wake_at().unwrap();
        assert!(!it.check.is_due(false, it.now, &mut it.rng), "there is no watch that it could be compared with");
        assert!(it.check.wake_at().unwrap() > it.now);
        let never = DigestCheck::new(Duration::ZERO, it.now, &mut it.rng);
        assert_eq!(never.wake_at(), None);
    }
}

//! Which reads of the store healing may cause, and whom each answers: one a key, shared by all who ask for it, and a token bucket over the whole
//! proxy.
//!
//! STALE-ROUTES.md: at most 200 checks a second, burst 50, each of at most 250 ms. Whoever does the reading asks here before a read is begun,
//! and is told here whom to answer when it has ended. What always holds: of one key one read is under way; an asker is answered once; one
//! that has gone meanwhile fails no other.

use std::{collections::HashMap, time::Duration};

use crate::{Moment, table::RequestKey};

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

/// What is to be done for an asker.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin<A> {
    /// Read the store; the read has this number.
    Read(u64),
    /// Nothing: a read for this key is under way.
    Joined,
    /// Too many were begun: tell the asker so.
    Capped(A),
    /// The store can't be read now: tell the asker so.
    Unavailable(A),
}

/// The checks under way, and who waits for each.
#[derive(Debug)]
pub struct Checks<A> {
    asked: HashMap<RequestKey, Asked<A>>,
    budget: CheckBudget,
    /// Keys whose answer is the watch's having reached a revision.
    awaited: Vec<(u64, RequestKey)>,
    numbers: u64,
}

#[derive(Debug)]
struct Asked<A> {
    number: u64,
    began: Moment,
    askers: Vec<A>,
}

impl<A> Checks<A> {
    /// None under way.
    pub fn new(now: Moment) -> Self {
        Self { asked: HashMap::new(), budget: CheckBudget::new(now), awaited: Vec::new(), numbers: 0 }
    }

    /// Begins a check, or joins the one that is under way for the key. `can_read`: there is a connection to read over.
    pub fn ask(&mut self, key: &RequestKey, asker: A, can_read: bool, now: Moment) -> Begin<A> {
        if let Some(asked) = self.asked.get_mut(key) {
            asked.askers.push(asker);
            return Begin::Joined;
        }
        if !can_read {
            return Begin::Unavailable(asker);
        }
        if !self.budget.draw(now) {
            return Begin::Capped(asker);
        }
        self.numbers += 1;
        self.asked.insert(key.clone(), Asked { number: self.numbers, began: now, askers: vec![asker] });
        Begin::Read(self.numbers)
    }

    /// When the read of this number was begun; `None` if nobody waits for it any more.
    pub fn began(&self, key: &RequestKey, number: u64) -> Option<Moment> {
        self.asked.get(key).filter(|asked| asked.number == number).map(|asked| asked.began)
    }

    /// The answer for a key is the watch's having reached a revision. The number of the read that ends with it.
    pub fn wait_for(&mut self, revision: u64, key: &RequestKey) -> Option<u64> {
        let number = self.asked.get(key)?.number;
        self.awaited.push((revision, key.clone()));
        Some(number)
    }

    /// The keys that are answered by the table in force having reached a revision.
    pub fn reached(&self, revision: u64) -> Vec<RequestKey> {
        self.awaited.iter().filter(|(awaited, _)| *awaited <= revision).map(|(_, key)| key.clone()).collect()
    }

    /// A key's check has ended: who is to be told, and when it began.
    pub fn end(&mut self, key: &RequestKey) -> Option<(Moment, Vec<A>)> {
        self.awaited.retain(|(_, awaited)| awaited != key);
        self.asked.remove(key).map(|asked| (asked.began, asked.askers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ServiceId;

    fn key(name: &str) -> RequestKey {
        RequestKey { service: ServiceId::new(0), key: name.as_bytes().into() }
    }

    #[test]
    fn one_read_a_key_answers_all_who_ask_for_it() {
        let now = Moment::default();
        let mut checks = Checks::new(now);
        assert_eq!(checks.ask(&key("a"), 1, false, now), Begin::Unavailable(1));
        assert_eq!(checks.ask(&key("a"), 1, true, now), Begin::Read(1));
        assert_eq!(checks.ask(&key("a"), 2, false, now), Begin::Joined);
        assert_eq!(checks.ask(&key("b"), 3, true, now), Begin::Read(2));
        assert_eq!((checks.began(&key("a"), 1), checks.began(&key("a"), 2)), (Some(now), None));
        assert_eq!(checks.end(&key("a")), Some((now, vec![1, 2])));
        assert_eq!(checks.end(&key("a")), None);
        assert_eq!(checks.wait_for(7, &key("b")), Some(2));
        assert_eq!((checks.reached(6).len(), checks.reached(7)), (0, vec![key("b")]));
        assert_eq!(checks.end(&key("b")), Some((now, vec![3])));
        assert_eq!((checks.reached(7).len(), checks.wait_for(7, &key("b"))), (0, None));
        let asked = (0..100).map(|n| checks.ask(&key(&n.to_string()), n, true, now));
        assert_eq!(asked.filter(|begun| matches!(begun, Begin::Capped(_))).count(), 52);
    }

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

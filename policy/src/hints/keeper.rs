//! Which hints have lived long enough: those that the table has caught up with end, old ones are checked against the store.
//!
//! What always holds: a hint is checked first [`FIRST_CHECK_AFTER`] it was taken, and while the store can't be read ever more rarely; where
//! the store is another incarnation, epochs start afresh and no hint outlives it.

use std::{collections::HashMap, time::Duration};

use super::FIRST_CHECK_AFTER;
use crate::{
    Found, Moment, TableId, World,
    exchange::{look_up, settle},
    table::RequestKey,
};

/// What is remembered between two turns.
#[derive(Debug, Default)]
pub struct Keeper {
    incarnation: Option<TableId>,
    /// Hints whose check failed, by key and epoch: when the next one is due, and the pause before it.
    failed: HashMap<(RequestKey, u64), (Moment, Duration)>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Turn {
    /// The store is another incarnation than before; all hints were dropped.
    pub is_another_incarnation: bool,
    /// What is to be checked; [`Keeper::checked`] is to be told of each.
    pub due: Vec<Due>,
}

/// A hint that is to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its key.
    pub key: RequestKey,
    epoch: u64,
    pause: Duration,
}

impl Keeper {
    /// Looks at all hints; to be called when a table has come into force, and once a second.
    pub fn turn(&mut self, world: &World<'_>) -> Turn {
        let mut turn = Turn::default();
        let id = world.table.id();
        if self.incarnation.replace(id.clone()).is_some_and(|before| before != *id) {
            world.hints.clear();
            turn.is_another_incarnation = true;
        }
        if world.hints.is_empty() {
            self.failed.clear();
            return turn;
        }
        for (key, hint) in world.hints.all() {
            // Looking up ends a hint that has been reached; what remains is checked when it is old, and then ever more rarely.
            let _ = look_up(&key, world);
            let still = world.hints.get(&key).is_some_and(|kept| kept.epoch == hint.epoch);
            let of_it = (key, hint.epoch);
            let (at, pause) = *self.failed.get(&of_it).unwrap_or(&(hint.taken_at + FIRST_CHECK_AFTER, FIRST_CHECK_AFTER));
            if still && at <= world.now {
                turn.due.push(Due { key: of_it.0, epoch: hint.epoch, pause });
            }
        }
        turn.due.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        turn
    }

    /// A check has ended.
    pub fn checked(&mut self, due: &Due, found: Found, world: &World<'_>) {
        let of_it = (due.key.clone(), due.epoch);
        if let Found::Answered { began } = found {
            settle(&due.key, began, world);
            self.failed.remove(&of_it);
        } else {
            self.failed.insert(of_it, (world.now + due.pause * 2, due.pause * 2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Hint, Hints, Table,
        table::{UpstreamId, testing},
    };

    #[test]
    fn an_old_hint_is_checked_and_then_ever_more_rarely_until_the_store_answers() {
        let table: std::sync::Arc<Table> = testing::table(
            &[("services/orders", r#"{"match":[{}],"key":{"header":"x"}}"#), ("routes/orders/t1", r#"{"owner":"a","epoch":5}"#)],
            9,
        );
        let (hints, mut rng) = (Hints::default(), fastrand::Rng::with_seed(1));
        let key = RequestKey { service: table.service_named("orders").unwrap().id, key: b"t1"[..].into() };
        let reporter = "127.0.0.1:1".try_into().unwrap();
        hints.take(&key, Hint { owner: UpstreamId::new(1), epoch: 6, revision: 99, reporter, taken_at: Moment::default(), over: 1 });
        let mut keeper = Keeper::default();
        let mut at = |seconds: u64| {
            let now = Moment::default() + Duration::from_secs(seconds);
            World {
                table: &table,
                hints: &hints,
                now,
                gold_age: Duration::ZERO,
                is_other_history: false,
                rng: Box::leak(Box::new(rng.fork())),
            }
        };
        assert!(keeper.turn(&at(4)).due.is_empty());
        for (seconds, next) in [(5, 15), (15, 35)] {
            let turn = keeper.turn(&at(seconds));
            assert_eq!(turn.due.len(), 1);
            keeper.checked(&turn.due[0], Found::Unavailable, &at(seconds));
            assert!(keeper.turn(&at(next - 1)).due.is_empty());
        }
        let turn = keeper.turn(&at(35));
        keeper.checked(&turn.due[0], Found::Answered { began: at(35).now }, &at(35));
        assert_eq!((hints.len(), hints.refuted()), (0, 1));
    }
}

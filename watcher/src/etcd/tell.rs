//! What people are told of the gold copy, in `/status` and the log: the contact, the records that are not as they should be, the snapshot.
//!
//! What always holds: what is said of records was reported before the table that holds them is in force, but of very many now and then only.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use waypost_conf::escaped;

use super::EtcdSource;

/// How many quarantined keys one publish logs; the others are in `/status`.
const MAX_LOGGED_KEYS: usize = 20;

/// Telling costs as much as there is to tell. Of more bad keys than this it is done less often: the pause is so many times what it took.
const MANY_BAD: usize = 1000;
const TELL_PACE_FACTOR: u32 = 10;
/// How many held keys are told: each change of one tells them again.
const MAX_TOLD_HELD: usize = 1000;

impl EtcdSource {
    pub(super) fn report_contact(&mut self, error: Option<String>, again_in: Option<Duration>) {
        if let Some(error) = &error {
            let meanwhile =
                if self.has_table { "what is known goes on being served" } else { "there is no table yet, requests are answered 503" };
            tracing::warn!("the gold copy: {error}; trying again in {:.1?}; {meanwhile}", again_in.unwrap_or_default());
        } else {
            tracing::info!(revision = self.applier.revision(), "watching the gold copy");
        }
        self.publisher.report(|status| {
            status.connected = error.is_none();
            status.last_error = error;
        });
    }

    /// Tells what is quarantined, held back and noted, if that has changed; of very many keys not each time, but the last word always.
    pub(super) fn report_records(&mut self) {
        let since = Instant::now();
        let is_put_off = self.applier.bad().len() > MANY_BAD && since < self.tell_at;
        if is_put_off || !self.applier.take_news() {
            return;
        }
        self.say_held_back();
        let (quarantined, warnings) = (self.applier.held(&self.place.prefix), self.applier.notes());
        let held_back = self.applier.held_back();
        let (held_back, held_back_count) = (held_back.iter().take(MAX_TOLD_HELD).map(|key| escaped(key)).collect(), held_back.len());
        let known = self.publisher.status();
        let known: HashSet<(&str, u64)> = known.quarantined.iter().map(|held| (&*held.key, held.revision)).collect();
        let new: Vec<_> = quarantined.iter().filter(|held| !known.contains(&(&*held.key, held.revision))).collect();
        for held in new.iter().take(MAX_LOGGED_KEYS) {
            tracing::warn!(key = held.key, revision = held.revision, "quarantined: {}", held.reason);
        }
        if new.len() > MAX_LOGGED_KEYS {
            tracing::warn!("quarantined: {} more keys; /status lists them", new.len() - MAX_LOGGED_KEYS);
        }
        self.publisher.report(|status| {
            status.quarantined = quarantined.into();
            status.held_back = held_back;
            status.held_back_count = held_back_count;
            status.warnings = warnings.into();
        });
        self.tell_at = Instant::now() + since.elapsed() * TELL_PACE_FACTOR;
    }

    /// Says that deletes are held back, when there are more of them than were told.
    fn say_held_back(&self) {
        let (held, told) = (self.applier.held_back().len(), self.publisher.status().held_back_count);
        if held <= told {
            return;
        }
        match self.applier.to_confirm() {
            Some(_) => tracing::warn!(routes = held, "more than half of the routes were deleted: held back until the store confirms it"),
            None => say_empty(held),
        }
    }

    pub(super) fn report_snapshot(&mut self) {
        let on_disk = self.saver.as_ref().map(|saver| saver.on_disk().clone());
        self.publisher.report(|status| status.snapshot = on_disk);
    }
}

pub(super) fn say_empty(routes: usize) {
    tracing::error!(
        routes,
        "the store holds no routes any more: the known ones stay in force; if that was meant, set allow_empty = true under [gold]"
    );
}

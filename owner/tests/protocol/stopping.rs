//! Owners that stop without the store, as `owner/src/stopping.rs` has them do it by `policy::tenure`: their lease's end counts as their word, so
//! nothing is executed by one that may have ended, and none is taken up again before the view is newer.

use std::time::Duration;

use waypost_policy::{
    Moment,
    tenure::{Standing, Tenure},
};

use crate::{
    history::Seen,
    world::{Pid, World},
};

/// How long one call to the store may take, and how soon it is looked again.
const CALL_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl World {
    /// The lease of an announcement was made or renewed; it was asked for at this time.
    pub(crate) fn lease_renewed(&mut self, pid: Pid, asked_at: Moment) {
        let local = self.local(pid);
        let Some(instance) = self.instances.get_mut(&pid) else { return };
        let lasts = instance.leased.ttl;
        let Some(tenure) = &mut instance.tenure else { return };
        let before = tenure.unconfirmed();
        tenure.renewed(asked_at, lasts, local);
        // The first one is confirmed by what is announced of the first view.
        if let Some(term) = tenure.unconfirmed().filter(|term| *term > 1 && before != Some(*term)) {
            self.seen(Seen::LooksAnew { pid });
            self.catch_up(pid, term);
        }
    }

    /// Serves again when its view has come to where the store is now.
    fn catch_up(&mut self, pid: Pid, term: u64) {
        if self.tenure(pid).unconfirmed() != Some(term) {
            return;
        }
        self.call(
            pid,
            CALL_LIMIT,
            |world| world.store.revision(),
            move |world, revision| match revision {
                Some(revision) => {
                    world.ask_progress(pid);
                    world.wait_for(pid, term, revision);
                }
                None => world.catch_up(pid, term),
            },
        );
    }

    fn wait_for(&mut self, pid: Pid, term: u64, revision: u64) {
        if self.table(pid).is_some_and(|table| table.revision() >= revision) {
            return self.tenure(pid).confirm(term);
        }
        let at = self.local(pid) + LOOK_EVERY;
        self.at_local(pid, at, move |world| world.wait_for(pid, term, revision));
    }

    fn tenure(&mut self, pid: Pid) -> &mut Tenure {
        self.instances.get_mut(&pid).unwrap().tenure.as_mut().unwrap()
    }

    /// Whether requests are admitted at all.
    pub(crate) fn admits(&mut self, pid: Pid) -> bool {
        let local = self.local(pid);
        self.instances[&pid].tenure.as_ref().is_none_or(|tenure| matches!(tenure.standing(local), Standing::Serves(_)))
    }

    /// What is executed ends when it has to.
    pub(crate) fn watch_for_its_end(&mut self, pid: Pid) {
        let local = self.local(pid);
        let instance = self.instances.get_mut(&pid).unwrap();
        let Some(tenure) = instance.tenure.as_ref().filter(|_| !instance.is_watching_its_end && !instance.running.is_empty()) else {
            return;
        };
        match tenure.standing(local) {
            Standing::Serves(until) | Standing::Finishes(until) => {
                instance.is_watching_its_end = true;
                self.at_local(pid, until, move |world| {
                    world.instances.get_mut(&pid).unwrap().is_watching_its_end = false;
                    world.watch_for_its_end(pid);
                });
            }
            Standing::Over => {
                for (execution, key) in std::mem::take(&mut instance.running) {
                    self.seen(Seen::CutShort { pid });
                    self.seen(Seen::Ended { pid, execution });
                    self.leave(pid, key);
                }
            }
        }
    }
}

//! What an owner does about keys that were left frozen, as `owner/src/rescue.rs` does it: `policy::handover::Rescue` at the store.

use waypost_policy::handover::{Effect, Freeze, Input, Rescue, Rescued};

use crate::{
    history::Seen,
    mover::{CALL_LIMIT, failed, how_it_ended, known},
    store::STATE,
    world::{Pid, World},
};

impl World {
    /// A table has come into force: keys that it shows frozen for the first time are looked after.
    pub(crate) fn look_after_freezes(&mut self, pid: Pid) {
        let now = self.local(pid);
        let instance = self.instances.get_mut(&pid).unwrap();
        let Some(table) = instance.watching.table.clone() else { return };
        let new = instance.freezes.look(&table, now);
        let upstream = instance.upstream.clone();
        for freeze in new.into_iter().filter(|freeze| freeze.owner.as_deref() == Some(&*upstream)) {
            let mut rescue = Rescue::new(freeze.revision, &mut self.rng);
            let asked = rescue.begin(freeze.since);
            self.rescue(pid, freeze, rescue, asked);
        }
    }

    fn rescue(&mut self, pid: Pid, freeze: Freeze, mut rescue: Rescue, asked: Effect<Rescued>) {
        let record = format!("routes/{}/{}", freeze.service, String::from_utf8_lossy(&freeze.record));
        let go_on = move |world: &mut Self, input: Input<'_>| {
            let now = world.local(pid);
            let asked = rescue.step(input, now);
            world.rescue(pid, freeze, rescue, asked);
        };
        match asked {
            Effect::Sleep(until) => self.at_local(pid, until, move |world| world.rescue_wakes(pid, go_on, &record)),
            Effect::Read => {
                let read = move |world: &mut Self| world.store.get(&record).map(|stored| known(&stored));
                self.call(pid, CALL_LIMIT, read, move |world, read| go_on(world, read.map_or_else(failed, Input::Read)));
            }
            Effect::LookForMark(id) => {
                let look = move |world: &mut Self| world.store.get(&format!("{STATE}moves/{id}")).is_some();
                self.call(pid, CALL_LIMIT, look, move |world, found| go_on(world, found.map_or_else(failed, Input::Mark)));
            }
            Effect::Swap { route, read_at } => {
                let swap = move |world: &mut Self| world.swap(&record, &route, read_at);
                self.call(pid, CALL_LIMIT, swap, move |world, swapped| {
                    go_on(world, how_it_ended(swapped));
                });
            }
            Effect::End(rescued) => self.seen(Seen::Rescued { pid, record, is_given_back: matches!(rescued, Rescued::GivenBack(_)) }),
            // A rescue asks for nothing else.
            Effect::Mark | Effect::Look(_) => {}
        }
    }

    /// Unless it is frozen no more.
    fn rescue_wakes(&mut self, pid: Pid, go_on: impl FnOnce(&mut Self, Input<'_>), record: &str) {
        let is_frozen = |freeze: &Freeze| format!("routes/{}/{}", freeze.service, String::from_utf8_lossy(&freeze.record)) == record;
        if self.instances[&pid].freezes.all().any(is_frozen) {
            go_on(self, Input::Woke);
        }
    }
}

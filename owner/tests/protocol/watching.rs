//! How a process follows the store: the watcher's machine and applier as they are shipped, driven as `watcher/src/etcd.rs` drives them. What is
//! put in force is seen, key by key.

use std::{sync::Arc, time::Duration};

use waypost_policy::{
    Moment, Source, Table, TableId,
    table::{Entry, RequestKey, State},
};
use waypost_watcher::{
    anchor::Anchor,
    applier::Applier,
    listed::{Listed, Part},
    machine::{Applied, Effect, Hello, Input, Machine},
    record::Event,
};

use crate::{
    history::{InForce, Seen},
    store::CLUSTER,
    world::{Peer, Pid, World},
};

/// How long a connection, a list or a watch may take to stand; the shell's limit.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Changes that come within this of each other may be put in force together.
const MOMENT: Duration = Duration::from_millis(1);

/// One process's view of the gold copy.
pub(crate) struct Watching {
    machine: Machine,
    pub(crate) applier: Applier,
    has_table: bool,
    /// The table in force.
    pub(crate) table: Option<Arc<Table>>,
    /// When the store was last known to have nothing newer, by the process's clock.
    pub(crate) fresh_at: Moment,
    /// The present connection; what comes over another is not heard.
    connection: u64,
    /// Whether there has ever been one: a check may be read over it.
    pub(crate) can_read: bool,
    watch: Option<Watch>,
    tick_at: Option<Moment>,
    is_publish_due: bool,
    /// What was seen in force last, by key.
    shown: Vec<Option<InForce>>,
}

/// The store's side of a watch.
#[derive(Clone, Copy)]
struct Watch {
    next: u64,
    /// Nothing overtakes on a stream.
    arrives: Moment,
}

impl Watching {
    pub(crate) fn new(keys: usize) -> Self {
        Self {
            machine: Machine::new(1, 0),
            applier: Applier::new(TableId::etcd(0, 0), Source::Watch, true),
            has_table: false,
            table: None,
            fresh_at: Moment::default(),
            connection: 0,
            can_read: false,
            watch: None,
            tick_at: None,
            is_publish_due: false,
            shown: vec![None; keys],
        }
    }
}

impl World {
    pub(crate) fn watching(&mut self, pid: Pid) -> &mut Watching {
        match self.proxies.get_mut(&pid) {
            Some(proxy) => &mut proxy.watching,
            None => &mut self.instances.get_mut(&pid).unwrap().watching,
        }
    }

    pub(crate) fn table(&mut self, pid: Pid) -> Option<Arc<Table>> {
        self.watching(pid).table.clone()
    }

    /// What stands in a table under a key of the course.
    pub(crate) fn request_key(&self, table: &Table, key: usize) -> Option<RequestKey> {
        let key = &self.plan.keys[key];
        Some(RequestKey { service: table.service_named(key.service)?.id, key: key.name.as_bytes().into() })
    }

    pub(crate) fn feed(&mut self, pid: Pid, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let now = self.local(pid);
            let mut rng = self.rng.fork();
            let watching = self.watching(pid);
            let id = watching.has_table.then(|| watching.applier.id().clone());
            let applied = Applied { revision: watching.applier.revision(), id };
            for effect in watching.machine.step(input, &applied, now, &mut rng) {
                // What was to follow an effect that could not be carried out is not done.
                if let Some(next) = self.carry_out(pid, effect) {
                    inputs.push(next);
                    break;
                }
            }
        }
        self.wake_in_time(pid);
    }

    fn wake_in_time(&mut self, pid: Pid) {
        let watching = self.watching(pid);
        let Some(at) = watching.machine.wake_at() else { return };
        if watching.tick_at.is_some_and(|due| due <= at) {
            return;
        }
        watching.tick_at = Some(at);
        self.at_local(pid, at, move |world| {
            let watching = world.watching(pid);
            if watching.tick_at == Some(at) {
                watching.tick_at = None;
                world.feed(pid, Input::Tick);
            }
        });
    }

    fn carry_out(&mut self, pid: Pid, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Connect { .. } => {
                self.disconnect(pid);
                let connection = self.watching(pid).connection;
                let cursor = self.watching(pid).applier.revision();
                let hello = move |world: &mut Self| {
                    let compacted = world.store.compacted() > cursor;
                    let anchor = if compacted { Anchor::Compacted } else { Anchor::Same };
                    let revision = world.store.revision();
                    Hello { cluster_id: CLUSTER, incarnation: 0, revision, anchor, resume_behind: cursor, progress_is_barrier: true }
                };
                self.ask(pid, connection, hello, move |world, hello| {
                    world.watching(pid).can_read = true;
                    Input::Connected(hello)
                });
            }
            Effect::Disconnect => self.disconnect(pid),
            Effect::List { revision } => {
                let connection = self.watching(pid).connection;
                self.ask(
                    pid,
                    connection,
                    move |world| world.store.records_at(revision),
                    move |_, found| match found {
                        None => Input::Compacted,
                        Some(records) => {
                            let mut listed = Listed::default();
                            listed.add(Part::of(records));
                            Input::Listed { revision, records: listed }
                        }
                    },
                );
            }
            Effect::Watch { from } => {
                let connection = self.watching(pid).connection;
                let open = move |world: &mut Self| (from > world.store.compacted()).then(|| world.store.revision());
                self.ask(pid, connection, open, move |world, opened| match opened {
                    None => Input::Compacted,
                    Some(revision) => {
                        let arrives = world.now;
                        world.watching(pid).watch = Some(Watch { next: from, arrives });
                        world.within(pid, Duration::ZERO, move |world| world.push(pid));
                        Input::Opened { revision }
                    }
                });
            }
            Effect::Apply { events, revision } => {
                let applied = self.watching(pid).applier.apply(events);
                if let Err(refused) = applied {
                    self.publish(pid);
                    return Some(Input::Refused { why: refused.to_string(), reason: "late", is_lasting: false });
                }
                self.watching(pid).applier.advance(revision);
                self.publish_soon(pid);
            }
            Effect::Resync { revision, records, id, fresh, .. } => {
                let watching = self.watching(pid);
                if let Err(refused) = watching.applier.resync(revision, records, id, fresh) {
                    return Some(Input::Refused { why: refused.to_string(), reason: "history", is_lasting: true });
                }
                let is_first = !std::mem::replace(&mut watching.has_table, true);
                self.publish(pid);
                if !is_first {
                    self.seen(Seen::Resynced { pid });
                }
            }
            Effect::Advance { revision } => {
                self.watching(pid).applier.advance(revision);
                self.publish(pid);
            }
            Effect::Alive => {
                let now = self.local(pid);
                self.watching(pid).fresh_at = now;
            }
            Effect::AskProgress => self.ask_progress(pid),
            Effect::Report { .. } => {
                self.watching(pid).applier.confirm();
            }
        }
        None
    }

    fn ask<R: 'static>(
        &mut self,
        pid: Pid,
        connection: u64,
        ask: impl FnOnce(&mut Self) -> R + 'static,
        input: impl FnOnce(&mut Self, R) -> Input + 'static,
    ) {
        self.call(pid, ANSWER_LIMIT, ask, move |world, answer| {
            if world.watching(pid).connection != connection {
                return;
            }
            let input = match answer {
                Some(answer) => input(world, answer),
                None => Input::Failed("no answer".to_owned()),
            };
            world.feed(pid, input);
        });
    }

    fn disconnect(&mut self, pid: Pid) {
        let watching = self.watching(pid);
        watching.connection += 1;
        watching.watch = None;
    }

    /// The watch breaks.
    pub(crate) fn cut_watch(&mut self, pid: Pid) {
        let connection = self.watching(pid).connection;
        let is_open = self.watching(pid).watch.take().is_some();
        if is_open {
            let by = self.micros(50, 50_000);
            self.within(pid, by, move |world| {
                if world.watching(pid).connection == connection {
                    world.feed(pid, Input::Failed("cut".to_owned()));
                }
            });
        }
    }

    /// The store has something new, and tells those who watch.
    pub(crate) fn written(&mut self) {
        let watchers: Vec<Pid> = self.proxies.keys().chain(self.instances.keys()).copied().filter(|pid| self.is_alive(*pid)).collect();
        for pid in watchers {
            self.push(pid);
        }
    }

    fn push(&mut self, pid: Pid) {
        let Some(Watch { next, arrives }) = self.watching(pid).watch else { return };
        let connection = self.watching(pid).connection;
        let input = match self.store.events_from(next) {
            None => Input::Compacted,
            Some(events) => {
                if events.is_empty() {
                    return;
                }
                Input::Events { events, more: false }
            }
        };
        let next = self.store.revision() + 1;
        let arrives = arrives.max(self.now + self.watch_delay(pid));
        self.watching(pid).watch = Some(Watch { next, arrives });
        let is_repeated = self.fault(5);
        let tell = move |world: &mut Self, input| {
            if world.watching(pid).connection == connection {
                world.feed(pid, input);
            }
        };
        if let (true, Input::Events { events, .. }) = (is_repeated, &input) {
            let events: Vec<Event> = events.clone();
            self.within(pid, arrives.since(self.now), move |world| tell(world, Input::Events { events, more: false }));
        }
        self.within(pid, arrives.since(self.now), move |world| tell(world, input));
    }

    /// How long a change is on its way to a process.
    fn watch_delay(&mut self, pid: Pid) -> Duration {
        let parted = self.parted_until(Peer::Store, Peer::Process(pid)).map_or(Duration::ZERO, |until| until.since(self.now));
        let lag = self.proxies.get(&pid).map_or(Duration::ZERO, |proxy| proxy.lag);
        let late = if self.fault(30) { self.micros(0, 800_000) } else { Duration::ZERO };
        parted + lag + late + self.micros(100, 3000)
    }

    pub(crate) fn ask_progress(&mut self, pid: Pid) {
        let connection = self.watching(pid).connection;
        self.send(Peer::Process(pid), Peer::Store, move |world| {
            if world.watching(pid).connection != connection {
                return;
            }
            // Behind everything that was sent.
            let Some(Watch { next, arrives }) = world.watching(pid).watch else { return };
            let revision = world.store.revision();
            world.push(pid);
            let arrives = world.watching(pid).watch.map_or(arrives, |watch| watch.arrives.max(world.now));
            let revision = if world.watching(pid).watch.is_some_and(|watch| watch.next > next) { revision } else { revision.max(next - 1) };
            world.within(pid, arrives.since(world.now) + Duration::from_micros(200), move |world| {
                if world.watching(pid).connection == connection {
                    world.feed(pid, Input::Progress { revision });
                }
            });
        });
    }

    /// A lone change is put in force at once; of a burst, what comes within a moment together.
    fn publish_soon(&mut self, pid: Pid) {
        if self.watching(pid).is_publish_due {
            return;
        }
        if self.chance(75) {
            return self.publish(pid);
        }
        self.watching(pid).is_publish_due = true;
        self.within(pid, MOMENT, move |world| {
            if world.watching(pid).is_publish_due {
                world.publish(pid);
            }
        });
    }

    /// Puts what was applied in force.
    pub(crate) fn publish(&mut self, pid: Pid) {
        let watching = self.watching(pid);
        watching.is_publish_due = false;
        let table = watching.applier.publish();
        watching.table = Some(Arc::clone(&table));
        self.note_in_force(pid, &table);
        self.in_force(pid, &table);
    }

    pub(crate) fn is_publish_due(&mut self, pid: Pid) -> bool {
        self.watching(pid).is_publish_due
    }

    fn note_in_force(&mut self, pid: Pid, table: &Table) {
        for key in 0..self.plan.keys.len() {
            let shown = self.request_key(table, key).map(|request_key| shown(table, &request_key));
            let known = &mut self.watching(pid).shown[key];
            if let Some(shown) = shown
                && known.as_ref() != Some(&shown)
            {
                *known = Some(shown.clone());
                self.seen(Seen::InForce { pid, key, revision: table.revision(), shown });
            }
        }
    }

    /// What follows from a table in force.
    fn in_force(&mut self, pid: Pid, table: &Arc<Table>) {
        if self.proxies.contains_key(&pid) {
            self.proxy_in_force(pid, table.revision());
        } else {
            self.owner_in_force(pid);
        }
    }
}

/// What a table says of a key.
fn shown(table: &Table, key: &RequestKey) -> InForce {
    match table.entry(key) {
        Entry::Absent(source) => InForce { route: None, is_read_ahead: source == Source::Store },
        Entry::Route(route, source) => {
            let owner = table.upstream_name(route.owner).map(ToString::to_string).unwrap_or_default();
            let state = if route.state == State::Quarantined { "quarantined" } else { route.state.as_str() };
            let route = (owner, route.epoch, route.meta.create_revision, route.meta.mod_revision, state);
            InForce { route: Some(route), is_read_ahead: source == Source::Store }
        }
    }
}

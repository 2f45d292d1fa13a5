//! What a proxy waits for: checks, keys in parking places, times; and the keepers of waiting requests and of hints.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use waypost_conf::RecordKey;
use waypost_policy::{
    Code, Found, Input, Moment, Next, World as Shared,
    checks::{Begin, CHECK_TIMEOUT},
    hints::Due,
    parking::{Full, PACE},
    table::RequestKey,
};

use crate::{
    history::Seen,
    world::{Pid, World},
};

/// Who asks for a check.
pub(crate) enum Asker {
    Request(u64),
    Keeper(Due),
}

/// Notes whom to look at.
struct Bell {
    woken: Arc<Mutex<Vec<u64>>>,
    id: u64,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push(self.id);
    }
}

impl World {
    // Parking.

    pub(crate) fn park(&mut self, pid: Pid, id: u64, key: &RequestKey) -> Next {
        let bytes = self.rng.usize(100..2000);
        let proxy = self.proxy(pid);
        let placed = proxy.parking.register(key, bytes);
        let input = match placed {
            Ok(place) => {
                self.request(pid, id).unwrap().place = Some(place);
                let key = self.plan.key_named(&key.key);
                self.seen(Seen::Parked { pid, request: id, key });
                self.keep_parking_soon(pid);
                Input::Parked
            }
            Err(Full) => {
                self.seen(Seen::NoRoom { request: id });
                Input::NoRoom
            }
        };
        self.step(pid, id, input)
    }

    /// Until the place is let go, or until a time; no longer than the whole request may take.
    pub(crate) fn sleep(&mut self, pid: Pid, id: u64, until: Moment) {
        let local = self.local(pid);
        if until <= local {
            self.seen(Seen::Spins { pid, request: id });
        }
        let Some(request) = self.request(pid, id) else { return };
        request.naps += 1;
        let nap = request.naps;
        request.sleeping = Some(nap);
        let until = request.ends_at.map_or(until, |ends_at| ends_at.min(until));
        let until = if until > local { until } else { local + Duration::from_millis(1) };
        if self.is_let_go(pid, id) {
            let by = self.micros(1, 30);
            self.within(pid, by, move |world| world.wake_up(pid, id, nap));
        } else {
            self.at_local(pid, until, move |world| world.wake_up(pid, id, nap));
        }
    }

    fn is_let_go(&mut self, pid: Pid, id: u64) -> bool {
        let woken = Arc::clone(&self.proxy(pid).woken);
        let Some(place) = self.request(pid, id).and_then(|request| request.place.as_mut()) else { return false };
        let waker = Waker::from(Arc::new(Bell { woken, id }));
        Pin::new(place).poll(&mut Context::from_waker(&waker)) == Poll::Ready(())
    }

    fn wake_up(&mut self, pid: Pid, id: u64, nap: u64) {
        let local = self.local(pid);
        let Some(request) = self.request(pid, id).filter(|request| request.sleeping == Some(nap)) else { return };
        request.sleeping = None;
        let is_over = request.ends_at.is_some_and(|ends_at| ends_at <= local);
        let next = if is_over { Next::Answer(Code::UpstreamTimeout) } else { self.step(pid, id, Input::Woken) };
        self.carry(pid, id, next);
    }

    /// Those whose places were let go look again.
    pub(crate) fn ring(&mut self, pid: Pid) {
        let woken = std::mem::take(&mut *self.proxy(pid).woken.lock().unwrap());
        for id in woken {
            let Some(nap) = self.request(pid, id).and_then(|request| request.sleeping) else { continue };
            let by = self.micros(1, 50);
            self.within(pid, by, move |world| {
                let is_asleep = world.request(pid, id).is_some_and(|request| request.sleeping == Some(nap));
                if is_asleep && world.is_let_go(pid, id) {
                    world.wake_up(pid, id, nap);
                }
            });
        }
    }

    pub(crate) fn keep_parking_soon(&mut self, pid: Pid) {
        let by = self.micros(1, 60);
        self.within(pid, by, move |world| world.keep_parking(pid));
    }

    /// `keep_parking` comes round.
    fn keep_parking(&mut self, pid: Pid) {
        let now = self.local(pid);
        let proxy = self.proxy(pid);
        if proxy.parking.is_empty() {
            proxy.known = None;
            return;
        }
        let table = proxy.watching.table.clone();
        let is_compared = proxy.known.as_ref().zip(table.as_ref()).is_some_and(|(before, after)| Arc::ptr_eq(before, after));
        if !is_compared {
            proxy.parking.wake_changed(proxy.known.as_deref(), table.as_deref(), now);
        }
        proxy.known = table;
        if proxy.parking.let_go(now).is_some() && !std::mem::replace(&mut proxy.is_pacing, true) {
            self.at_local(pid, now + PACE, move |world| {
                world.proxy(pid).is_pacing = false;
                world.keep_parking(pid);
            });
        }
        self.ring(pid);
    }

    // Checks.

    pub(crate) fn check_for(&mut self, pid: Pid, id: u64, key: RequestKey) {
        let Some(request) = self.request(pid, id) else { return };
        request.is_checking = true;
        let name = self.plan.key_named(&key.key);
        self.seen(Seen::CheckWanted { pid, request: id, key: name });
        self.check(pid, key, Asker::Request(id));
    }

    fn check(&mut self, pid: Pid, key: RequestKey, asker: Asker) {
        let by = self.micros(1, 100);
        self.within(pid, by, move |world| {
            let now = world.local(pid);
            let proxy = world.proxy(pid);
            match proxy.checks.ask(&key, asker, proxy.watching.can_read, now) {
                Begin::Read(number) => world.read(pid, &key, number),
                Begin::Joined => {
                    let key = world.plan.key_named(&key.key);
                    world.seen(Seen::CheckJoined { pid, key });
                }
                Begin::Capped(asker) => world.tell(pid, asker, Found::Capped),
                Begin::Unavailable(asker) => world.tell(pid, asker, Found::Unavailable),
            }
        });
    }

    fn read(&mut self, pid: Pid, key: &RequestKey, number: u64) {
        let key = key.clone();
        let name = self.plan.key_named(&key.key);
        let (service, record) = (self.plan.keys[name].service, self.plan.keys[name].name.clone());
        self.seen(Seen::CheckBegan { pid, key: name, number });
        if self.watching(pid).applier.is_exact(service) {
            let route = RecordKey::Route { service: service.try_into().unwrap(), key: record.into_bytes() };
            let full_key = String::from_utf8(route.suffix()).unwrap();
            let read = move |world: &mut Self| (world.store.revision(), world.store.get(&full_key));
            return self.call(pid, CHECK_TIMEOUT, read, move |world, found| {
                if world.proxy(pid).checks.began(&key, number).is_none() {
                    return;
                }
                // An answer speaks of what is in force.
                if world.is_publish_due(pid) {
                    world.publish(pid);
                }
                let Some((revision, stored)) = found else { return world.end_check(pid, &key, false) };
                let stored = stored.map(|stored| (*stored).clone());
                if world.watching(pid).applier.adopt(key.clone(), &route, revision, stored) {
                    world.publish(pid);
                }
                world.end_check(pid, &key, true);
            });
        }
        self.call(
            pid,
            CHECK_TIMEOUT,
            |world| world.store.revision(),
            move |world, found| {
                if world.proxy(pid).checks.began(&key, number).is_none() {
                    return;
                }
                if world.is_publish_due(pid) {
                    world.publish(pid);
                }
                match found {
                    None => world.end_check(pid, &key, false),
                    Some(revision) if revision <= world.watching(pid).applier.revision() => world.end_check(pid, &key, true),
                    Some(revision) => {
                        world.proxy(pid).checks.wait_for(revision, &key);
                        let at = world.local(pid) + CHECK_TIMEOUT;
                        world.at_local(pid, at, move |world| {
                            if world.proxy(pid).checks.began(&key, number).is_some() {
                                world.end_check(pid, &key, false);
                            }
                        });
                        world.ask_progress(pid);
                    }
                }
            },
        );
    }

    /// All who asked for a key are told.
    pub(crate) fn end_check(&mut self, pid: Pid, key: &RequestKey, is_answered: bool) {
        let Some((began, askers)) = self.proxy(pid).checks.end(key) else { return };
        let found = if is_answered { Found::Answered { began } } else { Found::Unavailable };
        let name = self.plan.key_named(&key.key);
        self.seen(Seen::CheckEnded { pid, key: name, found });
        for asker in askers {
            self.tell(pid, asker, found);
        }
    }

    fn tell(&mut self, pid: Pid, asker: Asker, found: Found) {
        let by = self.micros(1, 60);
        self.within(pid, by, move |world| match asker {
            Asker::Request(id) => {
                let local = world.local(pid);
                let Some(request) = world.request(pid, id).filter(|request| request.is_checking) else { return };
                request.is_checking = false;
                let is_over = request.ends_at.is_some_and(|ends_at| ends_at <= local);
                world.seen(Seen::CheckTold { request: id, found });
                let next = world.step(pid, id, Input::Found(found));
                // What is sent after its time is cut at once.
                let next = if is_over && matches!(next, Next::Forward(..)) { Next::Answer(Code::UpstreamTimeout) } else { next };
                world.carry(pid, id, next);
            }
            Asker::Keeper(due) => {
                world.with_keeper(pid, |keeper, shared| keeper.checked(&due, found, shared));
                world.proxy(pid).due.pop_front();
                world.note_hints(pid);
                world.check_next_hint(pid);
            }
        });
    }

    // Hints.

    pub(crate) fn keep_hints_each_second(&mut self, pid: Pid) {
        self.keep_hints(pid);
        let at = self.local(pid) + Duration::from_secs(1);
        self.at_local(pid, at, move |world| world.keep_hints_each_second(pid));
    }

    pub(crate) fn keep_hints_soon(&mut self, pid: Pid) {
        let by = self.micros(1, 200);
        self.within(pid, by, move |world| world.keep_hints(pid));
    }

    /// `keep_hints` comes round, unless it waits for a check.
    fn keep_hints(&mut self, pid: Pid) {
        if !self.proxy(pid).due.is_empty() || self.table(pid).is_none() {
            return;
        }
        let mut due = Vec::new();
        self.with_keeper(pid, |keeper, shared| due = keeper.turn(shared).due);
        self.proxy(pid).due.extend(due);
        self.note_hints(pid);
        self.check_next_hint(pid);
    }

    fn check_next_hint(&mut self, pid: Pid) {
        if let Some(due) = self.proxy(pid).due.front().cloned() {
            self.check(pid, due.key.clone(), Asker::Keeper(due));
        }
    }

    fn with_keeper(&mut self, pid: Pid, act: impl FnOnce(&mut waypost_policy::hints::Keeper, &Shared<'_>)) {
        let (now, mut rng) = (self.local(pid), self.rng.fork());
        let proxy = self.proxy(pid);
        let Some(table) = proxy.watching.table.clone() else { return };
        let gold_age = now.since(proxy.watching.fresh_at);
        act(&mut proxy.keeper, &Shared { table: &table, hints: &proxy.hints, now, gold_age, is_other_history: false, rng: &mut rng });
    }
}

//! One key under a lease that is kept alive, as `watcher/src/leased.rs` keeps it: an owner's announcement, or a move's mark.

use std::time::Duration;

use waypost_policy::Moment;

use crate::world::{Pid, World};

/// How long one call may take, and how long to wait after one that failed; the shell's.
const CALL_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
/// So many times within a lease's time it is renewed.
const RENEWALS: u32 = 3;

/// The key.
#[derive(Default)]
pub(crate) struct Leased {
    pub(crate) key: String,
    pub(crate) ttl: Duration,
    wanted: String,
    written: Option<String>,
    lease: Option<u64>,
    /// When the present lease was asked for, by the process's clock.
    asked_at: Moment,
    /// What comes of a call over an older connection is not heard.
    connection: u64,
    is_calling: bool,
    is_done: bool,
}

impl Leased {
    pub(crate) fn new(key: String, ttl: Duration) -> Self {
        Self { key, ttl, ..Self::default() }
    }

    /// The value in the store is the one that is wanted.
    pub(crate) fn is_written(&self) -> bool {
        self.written.as_ref() == Some(&self.wanted)
    }
}

impl World {
    fn leased(&mut self, pid: Pid) -> &mut Leased {
        match self.instances.get_mut(&pid) {
            Some(instance) => &mut instance.leased,
            None => &mut self.movers.by_pid.get_mut(&pid).unwrap().leased,
        }
    }

    /// From now on this is the key's value.
    pub(crate) fn set_leased(&mut self, pid: Pid, value: String) {
        self.leased(pid).wanted = value;
        self.keep(pid);
    }

    /// The key is not kept alive any longer.
    pub(crate) fn let_lease_go(&mut self, pid: Pid) {
        let leased = self.leased(pid);
        leased.is_done = true;
        leased.connection += 1;
    }

    fn keep(&mut self, pid: Pid) {
        let local = self.local(pid);
        let leased = self.leased(pid);
        if leased.is_calling || leased.is_done {
            return;
        }
        let connection = leased.connection;
        let Some(lease) = leased.lease else {
            leased.is_calling = true;
            leased.asked_at = local;
            let ttl = leased.ttl;
            let grant = move |world: &mut Self| {
                let until = world.now + ttl;
                world.expire_at(ttl);
                world.store.grant(until)
            };
            return self.call(pid, CALL_LIMIT, grant, move |world, granted| {
                let leased = world.leased(pid);
                if leased.connection != connection {
                    return;
                }
                leased.is_calling = false;
                leased.lease = granted;
                match granted {
                    Some(lease) => {
                        world.renew_later(pid, lease);
                        world.keep(pid);
                    }
                    None => world.connect_again(pid),
                }
            });
        };
        if leased.is_written() {
            return;
        }
        leased.is_calling = true;
        let (key, value) = (leased.key.clone(), leased.wanted.clone());
        let put = {
            let value = value.clone();
            move |world: &mut Self| {
                let is_there = world.store.is_granted(lease);
                if is_there {
                    world.store.put(&key, Some(&value), Some(lease));
                }
                is_there
            }
        };
        self.call(pid, CALL_LIMIT, put, move |world, was_put| {
            let leased = world.leased(pid);
            if leased.connection != connection {
                return;
            }
            leased.is_calling = false;
            if was_put == Some(true) {
                let (is_first, asked_at) = (leased.written.is_none(), leased.asked_at);
                leased.written = Some(value);
                if is_first {
                    world.lease_renewed(pid, asked_at);
                }
                world.lease_written(pid);
                world.keep(pid);
            } else {
                world.connect_again(pid);
            }
        });
    }

    fn renew_later(&mut self, pid: Pid, lease: u64) {
        let ttl = self.leased(pid).ttl;
        let at = self.local(pid) + ttl / RENEWALS;
        self.at_local(pid, at, move |world| {
            if world.leased(pid).lease != Some(lease) || world.leased(pid).is_done {
                return;
            }
            let asked_at = world.local(pid);
            let renew = move |world: &mut Self| {
                let until = world.now + ttl;
                world.expire_at(ttl);
                world.store.renew(lease, until)
            };
            world.call(pid, CALL_LIMIT, renew, move |world, renewed| {
                if world.leased(pid).lease != Some(lease) {
                    return;
                }
                match renewed {
                    Some(true) => {
                        if world.leased(pid).written.is_some() {
                            world.lease_renewed(pid, asked_at);
                        } else {
                            world.leased(pid).asked_at = asked_at;
                        }
                        world.renew_later(pid, lease);
                    }
                    // It has ended meanwhile, and the key with it.
                    _ => world.connect_again(pid),
                }
            });
        });
    }

    fn connect_again(&mut self, pid: Pid) {
        let leased = self.leased(pid);
        leased.connection += 1;
        (leased.lease, leased.written, leased.is_calling) = (None, None, false);
        let connection = leased.connection;
        let at = self.local(pid) + PAUSE;
        self.at_local(pid, at, move |world| {
            if world.leased(pid).connection == connection {
                world.keep(pid);
            }
        });
    }

    fn expire_at(&mut self, ttl: Duration) {
        self.later(ttl, |world| {
            let now = world.now;
            world.store.expire(now);
        });
    }

    /// Who waited for it goes on.
    fn lease_written(&mut self, pid: Pid) {
        if !self.leased(pid).is_written() {
            return;
        }
        if self.instances.contains_key(&pid) {
            self.announced(pid);
        } else {
            self.marked(pid);
        }
    }
}

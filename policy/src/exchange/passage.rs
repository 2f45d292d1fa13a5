//! A request that a guard has let through: it goes to the one backend behind the guard, and nowhere else.
//!
//! Whether it is let through is judged by [`crate::owner`], of whose key it is by its stamp, or else by [`identify`]. The rest is as for
//! any owner: a slot, what may be sent again after a failure, the codes. What always holds: every answer is passed on, since a backend that knows
//! nothing of the protocol can mean nothing by its headers; the store is never asked, and nobody else.

use std::sync::Arc;

use super::{Considered, Exchange, LookedUp, Next, Nowhere, Outcome, World, consider};
use crate::{
    Code, Head, Upstream,
    table::{Service, Source, Table},
    wire::StaleState,
};

/// What a request is of.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its service; `None`: the stamp names one that the table does not have.
    pub service: Option<Arc<Service>>,
    /// Its routing key; `None` where the service has none.
    pub key: Option<Arc<[u8]>>,
}

/// Of which key a request is that no proxy has stamped, by the matching and the routing key of every proxy. Who owns it is not asked.
///
/// # Errors
/// The code to answer with: it belongs to no service, or carries no key where it needs one.
pub fn identify<H: Head>(head: &H, world: &World<'_>) -> Result<Identity, Code> {
    let mut considered = Considered::default();
    let found = consider(head, world, &mut considered);
    let service = considered.service.map(|(service, _)| Arc::clone(service));
    let key = considered.key.map(|key| key.key);
    match found {
        Err(nowhere) if key.is_none() && nowhere != Nowhere::Answered(Code::NoRoute) => Err(nowhere.code()),
        _ => Ok(Identity { service, key }),
    }
}

impl Identity {
    /// What a stamp says.
    pub fn stamped(service: &str, key: Option<&[u8]>, table: &Table) -> Self {
        Self { service: table.service_named(service).cloned(), key: key.map(Arc::from) }
    }
}

impl Exchange {
    /// Takes note of what the request is of, before it is judged.
    pub fn identified(&mut self, identity: Identity, world: &World<'_>) {
        self.trace.started = world.now;
        self.trace.revision = world.table.revision();
        self.policy = Some(Arc::clone(identity.service.as_ref().map_or_else(|| world.table.default_policy(), |service| &service.policy)));
        self.trace.service = identity.service;
        self.trace.key = identity.key;
    }

    /// The guard refuses it.
    pub fn turned_away(&mut self, state: StaleState) {
        self.trace.stale.push(state);
    }

    /// The guard lets it through, at the epoch that its upstream owns the key at.
    pub fn pass(&mut self, backend: Arc<Upstream>, epoch: u64, world: &mut World<'_>) -> Next {
        if let Some(service) = &self.trace.service {
            service.budget.request(world.now);
        }
        self.trace.epoch = Some(epoch);
        let to = self.at_backend(&backend, world);
        self.backend = Some(backend);
        self.dispatch(to, world).unwrap_or_else(|nowhere| Next::Answer(nowhere.code()))
    }

    /// The backend has answered.
    pub(super) fn relayed(&mut self, status: u16, world: &World<'_>) -> Next {
        self.trace.dispatches.end_last(world.now, Outcome::Answered(status));
        Next::Relay
    }

    /// The backend as the owner that it serves for.
    pub(super) fn at_backend(&self, backend: &Upstream, world: &World<'_>) -> LookedUp {
        let source = if self.trace.epoch == Some(0) { Source::Default } else { world.table.source() };
        LookedUp { owner: backend.id, epoch: self.trace.epoch.unwrap_or(0), source, create_revision: 0 }
    }
}

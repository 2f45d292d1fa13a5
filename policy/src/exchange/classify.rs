//! What an answer of a backend means for the route: it was served, or the route is stale.
//!
//! An answer becomes a value before anybody decides on it. A 421 without `Route-Stale` is the application's own. A call of gRPC is answered
//! 200 even then: a refusal is `UNAVAILABLE` in a head behind which nothing comes (STALE-ROUTES.md, "gRPC").

use waypost_conf::MAX_NAME_BYTES;

use super::Outcome;
use crate::{
    Reply, Table,
    table::UpstreamId,
    wire::{STALE_HEADER, Stale, StaleState, UPDATE_HEADER, Update},
};

const GRPC_STATUS: &str = "grpc-status";
const GRPC_UNAVAILABLE: &[u8] = b"14";

/// The two meanings.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Pass it on.
    Served,
    /// The backend executed nothing.
    Stale(Refusal),
}

/// A refusal, as far as it can be believed at all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) state: StaleState,
    /// The owner, epoch and table that it names, where it speaks of this very key and service.
    pub(super) claim: Option<Claim>,
}

/// Where the key is now, says the backend.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claim {
    owner: String,
    epoch: u64,
    table: String,
    /// The store's revision that it claims; 0: none.
    pub(super) revision: u64,
}

/// Reads an answer.
pub(super) fn classify<R: Reply>(reply: &R, service: &str, key: Option<&[u8]>) -> Verdict {
    if !may_refuse(reply) {
        return Verdict::Served;
    }
    let mut values = reply.values(STALE_HEADER);
    let Some(value) = values.next() else { return Verdict::Served };
    let stale = match (Stale::parse(value), values.next()) {
        (Ok(stale), None) => stale,
        // It refused, but how is not understood: nothing in it is believed, and the store is asked.
        _ => return Verdict::Stale(Refusal { state: StaleState::Moved, claim: None }),
    };
    let is_ours = stale.service.as_deref().is_none_or(|named| named == service) && stale.key.as_deref() == key;
    let revision = stale.revision.unwrap_or(0);
    let claim = match (stale.owner, stale.epoch, stale.table) {
        (Some(owner), Some(epoch), Some(table)) if is_ours => Some(Claim { owner, epoch, table, revision }),
        _ => None,
    };
    Verdict::Stale(Refusal { state: stale.state, claim })
}

fn may_refuse<R: Reply>(reply: &R) -> bool {
    let is_unavailable = || reply.values(GRPC_STATUS).any(|status| status == GRPC_UNAVAILABLE);
    reply.status() == 421 || (reply.status() == 200 && is_unavailable())
}

/// What an owner that has served corrects, if it speaks of this very key.
pub(super) fn correction<R: Reply>(reply: &R, key: &[u8]) -> Option<Claim> {
    let mut values = reply.values(UPDATE_HEADER);
    let update = Update::parse(values.next()?).filter(|_| values.next().is_none())?;
    let (Some(owner), Some(epoch), Some(table)) = (update.owner, update.epoch, update.table) else { return None };
    (update.key.as_deref() == Some(key)).then_some(Claim { owner, epoch, table, revision: update.revision.unwrap_or(0) })
}

impl Refusal {
    /// As it is remembered.
    pub(super) fn as_outcome(&self) -> Outcome {
        let claim = self.claim.as_ref().filter(|claim| claim.owner.len() <= MAX_NAME_BYTES);
        let claim = claim.map(|claim| (claim.owner.as_str().into(), claim.epoch));
        Outcome::Stale { state: self.state, claim }
    }
}

impl Claim {
    /// The owner to go to, if it may be followed: the same table, an epoch strictly greater than the one known, and an
    /// upstream that the table has.
    pub(super) fn may_be_followed(&self, known_epoch: u64, table: &Table) -> Option<(UpstreamId, u64)> {
        let advances = self.epoch > known_epoch && self.table == table.id().as_str();
        let owner = table.upstream_named(&self.owner)?;
        advances.then_some((owner.id, self.epoch))
    }

    /// Whether it speaks of what was there before the record that is known, made at this revision: another, whose epochs have no order to
    /// this one's.
    pub(super) fn is_of_before(&self, create_revision: u64) -> bool {
        self.revision > 0 && self.revision < create_revision
    }

    /// Whom to ask for this one request, if that may be done: it is of the same table, and changes nothing of what is known.
    pub(super) fn may_be_asked(&self, stamped_epoch: u64, table: &Table) -> Option<UpstreamId> {
        let changes_nothing = self.epoch == stamped_epoch && self.table == table.id().as_str();
        let owner = table.upstream_named(&self.owner)?;
        changes_nothing.then_some(owner.id)
    }
}

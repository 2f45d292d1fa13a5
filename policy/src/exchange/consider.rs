//! What a request's head, the hints and the table decide before an endpoint is taken: service, routing key, owner.
//!
//! Real requests and `explain` both come through here, so that the one can't say what the other does not do. It changes nothing:
//! what follows from it (a hint that ends, a request that counts) is the exchange's to do.

use std::{sync::Arc, time::Duration};

use waypost_conf::Policy;

use super::{
    LookedUp, Nowhere,
    lookup::{Known, default_owner},
};
use crate::{
    Code, Head, World,
    head::Target,
    matching::Fit,
    routing_key,
    table::{RequestKey, Service, Source},
};

/// What has been decided on the way to an owner or an answer. What is missing was not reached, or the service has no routing key.
#[derive(Debug, Default)]
pub(crate) struct Considered<'t> {
    /// The service, and how closely it fits.
    pub(crate) service: Option<(&'t Arc<Service>, Fit)>,
    /// The routing key.
    pub(crate) key: Option<RequestKey>,
    /// What is known of it.
    pub(crate) known: Option<Known>,
}

/// Decides who is to serve a request.
///
/// # Errors
/// `Frozen`, or the code to answer with; `so_far` then holds what was decided before.
pub(crate) fn consider<'t, H: Head>(head: &H, world: &World<'t>, so_far: &mut Considered<'t>) -> Result<LookedUp, Nowhere> {
    let target = Target::parse(head.target()).ok_or(Code::BadRequest)?;
    let matched = world.table.match_service(target.authority.or(head.authority()), target.path);
    let (service, _) = *so_far.service.insert(matched.ok_or(Code::NoService)?);
    if !service.dot_segments && target.has_dot_segment() {
        return Err(Code::BadPath.into());
    }
    if service.quarantined {
        return Err(Code::Quarantined.into());
    }
    if is_too_stale(&service.policy, world) {
        return Err(Code::TooStale.into());
    }
    let Some(source) = &service.key else { return Ok(default_owner(service)?) };
    let key = routing_key::extract(source, head, &target)?.into();
    let key = so_far.key.insert(RequestKey { service: service.id, key });
    so_far.known.insert(Known::of(key, world.table, world.hints)).owner(Some(service))
}

/// Whether the store has not been heard of for longer than the policy allows. A file has no newer version elsewhere, so it is always fresh.
fn is_too_stale(policy: &Policy, world: &World<'_>) -> bool {
    let limit = Duration::from_millis(policy.max_staleness_ms);
    !limit.is_zero() && world.gold_age > limit && world.table.source() != Source::File
}

//! The general transport in a guard: a request is judged instead of routed, and what is let through goes to the backend behind it.
//!
//! What always holds: a request is judged by its head alone, before anything of its body is read; the permit is held until the connection to the
//! backend is done with it, or broken; what is refused was seen by no backend.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use waypost_owner::{Permit, Served, Stale};
use waypost_policy::{
    Code, Next, World,
    exchange::{Identity, identify},
    wire::Stamp,
};

use super::{GeneralLane, Request, can_be_followed};
use crate::{guard::Guard, transport::headers::RequestHead};

/// How long a call whose key is frozen may go on: most that have begun to answer have nearly done so.
const CALL_GRACE: Duration = Duration::from_millis(50);

/// What a guard has decided about a request.
#[derive(Default)]
pub(super) struct Guarded {
    /// The stamp that it came with, as it goes on.
    stamp: Option<HeaderValue>,
    permit: Option<Permit>,
    /// What is corrected beside the answer.
    update: Option<String>,
    /// What is said of the route, where the request is refused.
    refusal: Option<Stale>,
}

impl Guarded {
    pub(super) fn stamp(&self) -> Option<&HeaderValue> {
        self.stamp.as_ref()
    }

    pub(super) fn update(&self) -> Option<&str> {
        self.update.as_deref()
    }

    /// Nothing of the request is executed any more.
    pub(super) fn release(&mut self) {
        self.permit = None;
    }
}

impl GeneralLane {
    /// May the request be served here? Waits no longer than its stamp allows.
    pub(super) async fn judge(&self, guard: &Guard, head: &RequestHeader, stamp: Option<(HeaderValue, Stamp)>, ctx: &mut Request) -> Next {
        let Some(owner) = guard.owner() else { return Next::Answer(Code::NotReady) };
        let identity = match self.in_world(|world| match &stamp {
            Some((_, stamp)) => Ok(Identity::stamped(&stamp.service, stamp.key.as_deref(), world.table)),
            None => identify(&RequestHead(head), world),
        }) {
            Some(Ok(identity)) => identity,
            Some(Err(code)) => return Next::Answer(code),
            None => return Next::Answer(Code::NotReady),
        };
        let key = identity.key.clone().unwrap_or_default();
        // A service that is not known here is judged all the same: it may be that this view is behind.
        let service = stamp.as_ref().map(|(_, stamp)| Arc::clone(&stamp.service));
        let service = service.or_else(|| identity.service.as_ref().map(|service| service.name.shared())).unwrap_or_default();
        self.in_world(|world| ctx.exchange.identified(identity, world));
        let (stamp, _) = stamp.unzip();
        let asked = waypost_owner::Head {
            method: head.method.as_str(),
            service: &service,
            key: &key,
            stamp: stamp.as_ref().map(HeaderValue::as_bytes),
        };
        match owner.admit(&asked).await {
            Ok(permit) => {
                let epoch = permit.epoch;
                ctx.guarded.update = permit.update.as_ref().map(|update| update.to_value());
                ctx.guarded.permit = Some(permit);
                ctx.guarded.stamp = stamp;
                Self::end_when_recalled(ctx, Served::Request);
                self.in_world(|world| ctx.exchange.pass(guard.backend(), epoch, world)).unwrap_or(Next::Answer(Code::NotReady))
            }
            Err(stale) => {
                ctx.exchange.turned_away(stale.state);
                ctx.guarded.refusal = Some(stale);
                Next::Answer(Code::Misdirected)
            }
        }
    }

    /// Does something in the world of this moment; `None` without a table. To an owner the store's age does not matter: it serves its last view.
    fn in_world<T>(&self, act: impl FnOnce(&mut World<'_>) -> T) -> Option<T> {
        let table = self.shared.view.load();
        let table = table.as_ref()?;
        let (now, gold_age) = (self.shared.clock.now(), Duration::ZERO);
        Some(act(&mut World { table, hints: &self.shared.hints, now, gold_age, is_other_history: false, rng: &mut fastrand::Rng::new() }))
    }

    /// Says in the answer that is about to be written why the request is refused, where it is.
    pub(super) fn say_refusal(&self, session: &mut Session, ctx: &Request, head: &mut ResponseHeader) -> Result<()> {
        let Some(refusal) = &ctx.guarded.refusal else { return Ok(()) };
        head.insert_header("Route-Stale", refusal.to_value())?;
        head.insert_header("Cache-Control", "no-store")?;
        // What is left of a short body is dropped, so that the proxy's connection can be used again.
        if can_be_followed(session, &ctx.deadline) {
            session.as_mut().set_close_on_response_before_downstream_finish(false);
        } else {
            session.set_keepalive(None);
        }
        Ok(())
    }

    /// A call that has begun to answer is a stream, which no move waits for: it ends with its permit, unless it does so by itself at that time.
    pub(super) fn end_call_when_recalled(ctx: &Request) {
        if let Some(permit) = &ctx.guarded.permit {
            let recalled = permit.recalled(Served::Stream);
            ctx.deadline.ending().set(async move {
                recalled.await;
                tokio::time::sleep(CALL_GRACE).await;
            });
        }
    }

    /// From now on it ends when its permit is recalled for what it is.
    pub(super) fn end_when_recalled(ctx: &Request, served: Served) {
        if let Some(permit) = &ctx.guarded.permit {
            ctx.deadline.ending().set(permit.recalled(served));
        }
    }
}

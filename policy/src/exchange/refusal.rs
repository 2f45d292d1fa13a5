//! What follows from an owner's refusal, by its state (STALE-ROUTES.md, the table of answers): follow or check, repeat, wait, ask another.
//!
//! A refusal means that nothing was executed, so whatever the method, the request may be sent again while its body is at hand. What a
//! refusal claims is believed only as far as [`Claim`] allows.

use super::{
    Dispatch, Exchange, LookedUp, Next, Nowhere, Why, World,
    classify::{Claim, Refusal},
    lookup::{Known, look_up},
};
use crate::{
    Body, Code, Head,
    hints::Hint,
    table::{RequestKey, Source},
    wire::StaleState,
};

impl Exchange {
    /// An owner has executed nothing.
    pub(super) fn refused<H: Head>(
        &mut self,
        head: &H,
        refusal: &Refusal,
        last: &Dispatch,
        body: Body,
        world: &mut World<'_>,
    ) -> Result<Next, Nowhere> {
        self.trace.dispatches.end_last(world.now, refusal.as_outcome());
        self.trace.stale.push(refusal.state);
        let Some(key) = self.key.clone() else { return Err(Code::StaleUnhealed.into()) };
        if refusal.state == StaleState::Moved {
            return self.moved(head, refusal.claim.as_ref(), last, &key, body, world);
        }
        if body == Body::Spent {
            return Err(Code::StaleUnhealed.into());
        }
        self.body = Some(body);
        match refusal.state {
            StaleState::Behind => self.behind(last, body, world),
            StaleState::Handoff => Ok(self.handed_over(world)?),
            StaleState::Ask => self.ask(refusal.claim.as_ref(), last, body, world),
            // A version that does not know a state must not guess.
            StaleState::Moved | StaleState::Unknown => Err(Code::StaleUnhealed.into()),
        }
    }

    fn moved<H: Head>(
        &mut self,
        head: &H,
        claim: Option<&Claim>,
        last: &Dispatch,
        key: &RequestKey,
        body: Body,
        world: &mut World<'_>,
    ) -> Result<Next, Nowhere> {
        if let Some(to) = claim.and_then(|claim| self.believe(claim, last, key, world)) {
            return self.follow(head, to, body, world);
        }
        // Looked up anew: the table may have caught up while the request was away.
        match look_up(key, world) {
            Ok(known) if known.epoch > last.epoch => self.follow(head, known, body, world),
            Err(Nowhere::Frozen) if body != Body::Spent => {
                self.body = Some(body);
                Err(Nowhere::Frozen)
            }
            _ => self.check(Why::Refused, body),
        }
    }

    /// Takes a claim as a hint, if it may be followed; where the key is then. Of a store that is not the table's no revision and no epoch says
    /// anything.
    pub(super) fn believe(&mut self, claim: &Claim, last: &Dispatch, key: &RequestKey, world: &World<'_>) -> Option<LookedUp> {
        let known = Known::of(key, world.table, world.hints);
        known.end_hint(key, world.hints, world.now);
        let (known_epoch, over) = known.generation();
        let (owner, epoch) = claim.may_be_followed(known_epoch.max(last.epoch), world.table)?;
        if claim.is_of_before(over) || world.is_other_history {
            return None;
        }
        let reporter = last.endpoint.clone();
        let hint = Hint { owner, epoch, revision: claim.revision, reporter, taken_at: world.now, over };
        if !world.hints.take(key, hint) {
            return None;
        }
        self.learnt = Some(key.clone());
        Some(LookedUp { owner, epoch, source: Source::Hint, create_revision: 0 })
    }

    /// One item of a moving key has gone to the target already: this request goes there, and nothing of what is known changes.
    fn ask(&mut self, claim: Option<&Claim>, last: &Dispatch, body: Body, world: &mut World<'_>) -> Result<Next, Nowhere> {
        let target = claim.filter(|_| !self.has_asked && !last.is_ask).and_then(|claim| claim.may_be_asked(last.epoch, world.table));
        let Some(target) = target else { return self.check(Why::Refused, body) };
        self.has_asked = true;
        self.tried.clear();
        self.waiting.end();
        let name = world.table.upstream_name(target).cloned().ok_or(Code::NoUpstream)?;
        self.send(LookedUp { owner: target, epoch: last.epoch, source: last.source, create_revision: 0 }, Some(&name), world)
    }
}

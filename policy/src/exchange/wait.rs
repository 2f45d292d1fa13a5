//! Waiting within an exchange: for a frozen key, for the end of a handover, for an owner that is behind.
//!
//! The exchange never waits itself: it says until when, and looks again when told that the time has come. What always holds: a wait for
//! a key ends `park_ms` after the first began, however often it was interrupted; repeats at an owner that is behind end after
//! [`BEHIND_LIMIT`], and ask the store nothing before that.

use std::time::Duration;

use super::{Dispatch, Exchange, LookedUp, Next, Nowhere, Why, World};
use crate::{Body, Code, Head, Moment, table::Source};

/// For how long an owner that is behind is asked again.
pub const BEHIND_LIMIT: Duration = Duration::from_millis(250);
const BEHIND_FIRST: Duration = Duration::from_millis(2);
const BEHIND_MOST: Duration = Duration::from_millis(50);
/// When an owner that is handing a key over is asked again, at the earliest and at the latest.
const HANDOFF_FIRST: Duration = Duration::from_millis(50);
const HANDOFF_MOST: Duration = Duration::from_millis(200);

/// What a request waits for, and since when.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// When waiting for the key ends; set when it begins.
    until: Option<Moment>,
    /// Whether the request has a place among those that wait.
    pub(super) is_parked: bool,
    /// When the owner that is handing the key over is asked again, and the pause after that.
    ask_at: Option<(Moment, Duration)>,
    /// Since when the present owner has been behind, and the last pause.
    behind: Option<(Moment, Duration)>,
}

impl Waiting {
    /// The request goes to another owner, or at another epoch.
    pub(super) fn end(&mut self) {
        self.ask_at = None;
        self.behind = None;
    }
}

impl Exchange {
    /// Waits for the key to change; not with a request that could not be sent then.
    pub(super) fn park(&mut self, world: &World<'_>) -> Result<Next, Code> {
        let Some(key) = self.key.clone() else { return Err(Code::Internal) };
        if self.body == Some(Body::Spent) {
            return Err(Code::StaleUnhealed);
        }
        let until = *self.waiting.until.get_or_insert(world.now + Duration::from_millis(self.policy().park_ms));
        if until <= world.now {
            return Err(Code::ParkTimeout);
        }
        if !self.waiting.is_parked {
            return Ok(Next::Park(key));
        }
        // Where the table says that nobody may serve the key, the owner is not asked: its time has passed, and only a change is waited for.
        let ask_at = self.waiting.ask_at.map(|(at, _)| at).filter(|at| *at > world.now);
        Ok(Next::Sleep(ask_at.map_or(until, |at| until.min(at))))
    }

    /// The place is taken: whatever changes from here on wakes it, and what has changed before is seen now.
    pub(super) fn parked<H: Head>(&mut self, head: &H, world: &mut World<'_>) -> Result<Next, Nowhere> {
        self.waiting.is_parked = true;
        self.woken(head, world)
    }

    /// Looks again.
    pub(super) fn woken<H: Head>(&mut self, head: &H, world: &mut World<'_>) -> Result<Next, Nowhere> {
        let known = self.look_up(world)?;
        let Some(last) = self.last.clone() else {
            // It was never sent anywhere: frozen when it came.
            return self.dispatch(known, world);
        };
        let body = self.body.unwrap_or(Body::Spent);
        let (is_same, is_newer) = (last.is_at(&known), known.epoch > last.epoch);
        if is_newer || !(is_same || last.is_ask) {
            return self.follow(head, known, body, world);
        }
        match (self.waiting.behind, self.waiting.ask_at) {
            (Some((since, pause)), _) => self.ask_again(&last, since, pause, world),
            (None, Some((at, pause))) if at <= world.now => {
                // Without the means for a repeat the wait goes on, for the change of the key.
                self.waiting.ask_at = Some((world.now + jittered(pause, world), (pause * 2).min(HANDOFF_MOST)));
                if self.draw(world) { self.repeat(&last, world) } else { Err(Nowhere::Frozen) }
            }
            (None, Some(_)) => Err(Nowhere::Frozen),
            // Frozen, and now served again by whom it was.
            (None, None) => self.repeat(&last, world),
        }
    }

    /// Nobody may serve the key now, says its owner.
    pub(super) fn handed_over(&mut self, world: &mut World<'_>) -> Result<Next, Code> {
        // Another instance of the owner may have been behind: that is another wait, and over.
        self.waiting.behind = None;
        if self.waiting.ask_at.is_none_or(|(at, _)| at <= world.now) {
            let pause = self.waiting.ask_at.map_or(HANDOFF_FIRST, |(_, pause)| pause);
            self.waiting.ask_at = Some((world.now + jittered(pause, world), (pause * 2).min(HANDOFF_MOST)));
        }
        self.park(world)
    }

    /// The owner does not know yet what was stamped.
    pub(super) fn behind(&mut self, last: &Dispatch, body: Body, world: &mut World<'_>) -> Result<Next, Nowhere> {
        let (since, pause) = match self.waiting.behind {
            Some((since, pause)) => (since, (pause * 2).min(BEHIND_MOST)),
            None => (world.now, BEHIND_FIRST),
        };
        let ends = since + BEHIND_LIMIT;
        if ends <= world.now {
            if last.source != Source::Hint || last.is_ask {
                return Err(Code::StaleUnhealed.into());
            }
            // The epoch came from a backend's word alone: the store is to say whether it is so. Out of reach it says nothing, and the hint stays:
            // were it dropped, the epoch could go back, and its reporter, to whom the request would go, would say the same again.
            return self.check(Why::Refused, body);
        }
        self.waiting.behind = Some((since, pause));
        Ok(Next::Sleep((world.now + jittered(pause, world)).min(ends)))
    }

    fn ask_again(&mut self, last: &Dispatch, since: Moment, pause: Duration, world: &mut World<'_>) -> Result<Next, Nowhere> {
        if self.draw(world) {
            return self.repeat(last, world);
        }
        // Repeats are scarce: it may be the other requests' turn.
        let ends = since + BEHIND_LIMIT;
        if ends <= world.now {
            return Err(Code::StaleUnhealed.into());
        }
        let pause = (pause * 2).min(BEHIND_MOST);
        self.waiting.behind = Some((since, pause));
        Ok(Next::Sleep((world.now + jittered(pause, world)).min(ends)))
    }

    /// Sends the request once more to whom it was sent last.
    fn repeat(&mut self, last: &Dispatch, world: &mut World<'_>) -> Result<Next, Nowhere> {
        self.trace.retries += 1;
        self.tried.clear();
        let to = LookedUp { owner: last.owner, epoch: last.epoch, source: last.source, create_revision: 0 };
        let asked = world.table.upstream_name(last.owner).filter(|_| last.is_ask).cloned();
        self.send(to, asked.as_ref(), world)
    }
}

/// Half of a pause to all of it, so that a crowd does not come back together.
fn jittered(pause: Duration, world: &mut World<'_>) -> Duration {
    pause.mul_f64(0.5 + world.rng.f64() / 2.0)
}

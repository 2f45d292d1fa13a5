//! The waits of the general transport: for a check, for a key in a place among those that wait for it, for a time.
//!
//! What always holds: each ends with another step of the exchange; a check ends by itself (250 ms), any other wait with the time that the whole
//! request may take.

use pingora_proxy::Session;
use waypost_policy::{Code, Input, Moment, Next, parking::Full, table::RequestKey};

use super::{GeneralLane, REPLAY_BYTES, Request};

impl GeneralLane {
    /// Carries out a wait, and takes the step that its end allows.
    pub(super) async fn wait(&self, session: &mut Session, ctx: &mut Request, what: Next) -> Next {
        match what {
            Next::Check(key) => self.check(session, ctx, &key).await,
            Next::Park(key) => self.park(session, ctx, &key),
            Next::Sleep(until) => self.sleep(session, ctx, until).await,
            other => other,
        }
    }

    /// Takes a place among the requests that wait for a key, and looks again.
    fn park(&self, session: &mut Session, ctx: &mut Request, key: &RequestKey) -> Next {
        let head = session.req_header();
        let head_bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let bytes = head.raw_path().len() + head_bytes + session.body_bytes_read().min(REPLAY_BYTES);
        let input = match self.shared.parking.register(key, bytes) {
            Ok(place) => {
                ctx.place = Some(place);
                self.shared.someone_parked.notify_one();
                Input::Parked
            }
            Err(Full) => Input::NoRoom,
        };
        self.step(session.req_header(), ctx, input)
    }

    /// Waits until the place is let go, or until a time, and looks again. No longer than the whole request may take.
    async fn sleep(&self, session: &Session, ctx: &mut Request, until: Moment) -> Next {
        let until = tokio::time::Instant::from_std(self.shared.clock.instant(until));
        let ends_at = ctx.deadline.ends_at();
        let timer = tokio::time::sleep_until(ends_at.map_or(until, |ends_at| ends_at.min(until)));
        match &mut ctx.place {
            Some(place) => tokio::select! {
                () = place => {}
                () = timer => {}
            },
            None => timer.await,
        }
        if ends_at.is_some_and(|ends_at| ends_at <= tokio::time::Instant::now()) {
            return Next::Answer(Code::UpstreamTimeout);
        }
        self.step(session.req_header(), ctx, Input::Woken)
    }

    /// Waits for a check, and takes the step that its end allows.
    async fn check(&self, session: &Session, ctx: &mut Request, key: &RequestKey) -> Next {
        let service = ctx.exchange.trace().service.as_ref().map(|service| service.name.clone());
        let Some(service) = service else { return Next::Answer(Code::Internal) };
        let found = self.shared.check(&service, key).await;
        self.step(session.req_header(), ctx, Input::Found(found))
    }
}

//! The waits of the general transport: for a check, for a key in a place among those that wait for it, for a time.
//!
//! What always holds: each ends with another step of the exchange; a check ends by itself (250 ms), any other wait with the time that the whole
//! request may take.

use pingora_core::{Error, Result};
use pingora_proxy::Session;
use waypost_policy::{Code, Input, Moment, Next, parking::Full, table::RequestKey};

use super::{GeneralLane, REPLAY_BYTES, Request, session::is_http2};

impl GeneralLane {
    /// Carries out a wait, and takes the step that its end allows.
    ///
    /// # Errors
    /// If the client has gone meanwhile, as far as that shows.
    pub(super) async fn wait(&self, session: &mut Session, ctx: &mut Request, what: Next) -> Result<Next> {
        match what {
            Next::Check(key) => Ok(self.check(session, ctx, &key).await),
            Next::Park(key) => Ok(self.park(session, ctx, &key)),
            Next::Sleep(until) => self.sleep(session, ctx, until).await,
            other => Ok(other),
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
    async fn sleep(&self, session: &mut Session, ctx: &mut Request, until: Moment) -> Result<Next> {
        let until = tokio::time::Instant::from_std(self.shared.clock.instant(until));
        let ends_at = ctx.deadline.ends_at();
        let timer = tokio::time::sleep_until(ends_at.map_or(until, |ends_at| ends_at.min(until)));
        let place = async {
            match &mut ctx.place {
                Some(place) => place.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = place => {}
            () = timer => {}
            gone = client_gone(session) => return Err(gone),
        }
        if ends_at.is_some_and(|ends_at| ends_at <= tokio::time::Instant::now()) {
            return Ok(Next::Answer(Code::UpstreamTimeout));
        }
        Ok(self.step(session.req_header(), ctx, Input::Woken))
    }

    /// Waits for a check, and takes the step that its end allows.
    async fn check(&self, session: &Session, ctx: &mut Request, key: &RequestKey) -> Next {
        let service = ctx.exchange.trace().service.as_ref().map(|service| service.name.clone());
        let Some(service) = service else { return Next::Answer(Code::Internal) };
        let found = self.shared.check(&service, key).await;
        self.step(session.req_header(), ctx, Input::Found(found))
    }
}

/// Ends when the client has cancelled. Over HTTP/1.1 nobody can tell without reading on, and what has been read may not be needed.
async fn client_gone(session: &mut Session) -> Box<Error> {
    if is_http2(session)
        && let Err(gone) = session.as_mut().read_body_or_idle(true).await
    {
        return gone;
    }
    std::future::pending().await
}

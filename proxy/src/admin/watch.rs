//! `GET /watch`: each change of the table in force as one JSON object a line, from now on, until the reader goes.
//!
//! `?service=S&key=K` leaves out what does not concern them. A reader that is too slow is told `{"change":"missed","missed":N}` and
//! holds nobody up: not the watcher, not requests, not other readers. There are at most [`MAX_WATCHERS`] of them.

use std::{convert::Infallible, pin::Pin, sync::Arc, task};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use serde::Serialize;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use waypost_watcher::{Changes, Heard, Told, change::Change};

use super::{Answer, problem_saying};
use crate::state::Shared;

/// How many may watch at once.
pub(crate) const MAX_WATCHERS: usize = 16;
/// How many lines are put together for a reader that lags, so that a mass change costs few writes.
const MAX_LINES_A_FRAME: usize = 64;

/// One change as a line.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    revision: u64,
    in_force_ms: Option<f64>,
    #[serde(flatten)]
    change: &'a Change,
}

/// What a reader asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    service: Option<String>,
    key: Option<String>,
}

/// The lines that are told next, and the listener for those behind them; `None` when the watcher has ended.
type NextLines = Pin<Box<dyn Future<Output = Option<(Bytes, Changes)>> + Send>>;

/// The stream of one reader.
struct Lines {
    next: NextLines,
    wanted: Arc<Wanted>,
    _place: OwnedSemaphorePermit,
}

/// The answer. A HEAD, or one reader too many, is answered at once.
pub(super) fn watch(shared: &Shared, query: Option<&str>) -> Answer {
    let Ok(place) = Arc::clone(&shared.watchers).try_acquire_owned() else {
        let mut answer = problem_saying(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_watchers",
            &format!("{MAX_WATCHERS} readers watch already; end one of them, or ask another proxy"),
        );
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return answer;
    };
    // Subscribed before the first line is made: what comes into force in between is told.
    let changes = shared.view.watch();
    let first = line(&json!({
        "change": "watching",
        "proxy": shared.id,
        "revision": shared.view.load().as_ref().map_or(0, |table| table.revision()),
        "connected": shared.view.is_connected(),
    }));
    let lines = Lines {
        next: Box::pin(async move { Some((first.into(), changes)) }),
        wanted: Arc::new(Wanted::parse(query.unwrap_or_default())),
        _place: place,
    };
    let mut answer = Response::new(lines.boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let Some((lines, changes)) = task::ready!(this.next.as_mut().poll(context)) else { return task::Poll::Ready(None) };
        this.next = Box::pin(next_lines(changes, Arc::clone(&this.wanted)));
        task::Poll::Ready(Some(Ok(Frame::data(lines))))
    }
}

/// Waits for a change that is wanted, and takes what else is there already.
async fn next_lines(mut changes: Changes, wanted: Arc<Wanted>) -> Option<(Bytes, Changes)> {
    let mut lines = Vec::new();
    let mut count = 0;
    loop {
        let heard = match count {
            0 => Some(changes.next().await?),
            MAX_LINES_A_FRAME => None,
            _ => changes.at_hand(),
        };
        let Some(heard) = heard else { return Some((lines.into(), changes)) };
        match heard {
            Heard::Missed(missed) => lines.extend(line(&json!({ "change": "missed", "missed": missed }))),
            Heard::Told(told) if wanted.concerns(&told.change) => lines.extend(line(&Line::of(&told))),
            Heard::Told(_) => continue,
        }
        count += 1;
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

impl<'a> Line<'a> {
    fn of(told: &'a Told) -> Self {
        Self {
            time: humantime::format_rfc3339_micros(told.at).to_string(),
            revision: told.revision,
            in_force_ms: told.in_force_after.map(|after| after.as_secs_f64() * 1000.0),
            change: &told.change,
        }
    }
}

impl Wanted {
    fn parse(query: &str) -> Self {
        let decoded = |value: &str| percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
        let mut wanted = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "service" => wanted.service = Some(decoded(value)),
                "key" => wanted.key = Some(decoded(value)),
                _ => {}
            }
        }
        wanted
    }

    fn concerns(&self, change: &Change) -> bool {
        change.concerns(self.service.as_deref(), self.key.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_read_from_the_query() {
        assert_eq!(Wanted::parse(""), Wanted::default());
        let wanted = Wanted::parse("service=orders&x=1&key=a%2Fb%20c");
        assert_eq!(wanted, Wanted { service: Some("orders".to_owned()), key: Some("a/b c".to_owned()) });
    }
}

//! `GET /records`: every key that this proxy knows of the store, with its mod_revision and digest, for a comparison with the store.
//!
//! JSON lines: first the revision, table and digest that all of it reflects, then an object a key, at the end how many there were, so that
//! a stream that was cut is noticed. The records are those of one moment; a reader holds up nobody, has a few lines made for it at a
//! time, and is given up when it does not read. There are at most [`MAX_READERS`] of them: each may keep an old table in memory.

use std::{convert::Infallible, io::Write, pin::Pin, sync::Arc, task, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use waypost_conf::escaped;
use waypost_watcher::listing::{Known, Listing, Standing};

use super::{Answer, problem_saying};
use crate::state::Shared;

/// How many may read at once.
pub(crate) const MAX_READERS: usize = 2;
/// How much is made at a time, and how many of these may wait for the reader.
const FRAME_BYTES: usize = 64 * 1024;
const FRAMES: usize = 4;
/// How long a reader may not read.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// The stream of one reader.
struct Lines(mpsc::Receiver<Bytes>);

/// The answer.
pub(super) async fn records(shared: &Shared, is_head: bool) -> Answer {
    let place = Arc::clone(&shared.record_readers).try_acquire_owned();
    let listing = match place {
        Ok(place) => shared.asker.listing().await.map(|listing| (place, listing)),
        Err(_) => None,
    };
    let Some((place, listing)) = listing else {
        let mut answer = problem_saying(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_readers",
            &format!("at most {MAX_READERS} may read the records at once; try again"),
        );
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return answer;
    };
    let (sender, receiver) = mpsc::channel(FRAMES);
    if !is_head {
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || send(&listing, &sender, &runtime, place));
    }
    let mut answer = Response::new(Lines(receiver).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Makes the lines, as fast as they are read.
fn send(listing: &Listing, sender: &mpsc::Sender<Bytes>, runtime: &tokio::runtime::Handle, _place: OwnedSemaphorePermit) {
    let mut frame = Vec::with_capacity(FRAME_BYTES + 1024);
    put(&mut frame, &json!({ "revision": listing.revision, "table": listing.id.as_str(), "digest": hex(listing.digest) }));
    let mut count: u64 = 0;
    for known in listing.keys() {
        put(&mut frame, &line(&known));
        count += 1;
        if frame.len() >= FRAME_BYTES {
            let full = std::mem::replace(&mut frame, Vec::with_capacity(FRAME_BYTES + 1024));
            if !runtime.block_on(is_read(sender, full)) {
                return;
            }
        }
    }
    put(&mut frame, &json!({ "records": count }));
    runtime.block_on(is_read(sender, frame));
}

async fn is_read(sender: &mpsc::Sender<Bytes>, frame: Vec<u8>) -> bool {
    matches!(tokio::time::timeout(STALL_LIMIT, sender.send(frame.into())).await, Ok(Ok(())))
}

fn line(known: &Known) -> Value {
    let mut line = json!({ "key": escaped(&known.key), "mod_revision": known.meta.mod_revision, "digest": hex(known.meta.digest) });
    match &known.standing {
        Standing::InForce => {}
        Standing::Quarantined(reason) => {
            line["state"] = json!("quarantined");
            line["reason"] = json!(reason);
        }
        Standing::HeldBack => line["state"] = json!("held_back"),
    }
    line
}

fn put(frame: &mut Vec<u8>, line: &Value) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(&mut *frame, line);
    let _ = frame.write_all(b"\n");
}

fn hex(digest: u128) -> String {
    format!("{digest:032x}")
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(|frame| Ok(Frame::data(frame))))
    }
}

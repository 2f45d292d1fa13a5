//! What is said to etcd, one function a question: the hello of a new connection, a watch, and what a watch answers.
//!
//! Each ends with an input for the machine; none changes anything here.

use std::time::{Duration, Instant};

use etcd_client::{Client, EventType, KeyValue, WatchOptions, WatchStream};

use waypost_conf::{Record, RecordKey, decode};
use waypost_policy::TableId;

use super::{anchored::anchored, list::is_too_large, others::known_by_others};
use crate::{
    anchor::{Anchor, LastChanges},
    connect::{EtcdPlace, MAX_MESSAGE_BYTES, Reads, Wanted, connect, say_later},
    machine::{Hello, Input},
    record::{Event, Stored},
};

/// How long a read of a new connection, or of a part of a list, may take.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(20);

/// Where what was applied stands.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    pub(super) table: TableId,
    pub(super) revision: u64,
    pub(super) last_changes: LastChanges,
    pub(super) incarnation: u64,
}

/// What a piece of work ends with, beside the machine's input.
pub(super) enum Done {
    Connected(Box<(Reads, Client)>, Hello, String),
    Opened(Box<WatchStream>, u64),
    /// The stream of a list broke; a sentence.
    Broken(String),
    Only(Input),
}

/// What the watch says next.
pub(super) struct Heard {
    pub(super) input: Input,
    /// When it came.
    pub(super) arrived: Instant,
    /// It was more than one answer may hold.
    pub(super) is_too_large: bool,
}

/// What the watch says next; never anything while there is none.
pub(super) async fn heard(stream: &mut Option<Box<WatchStream>>, place: &EtcdPlace) -> Heard {
    let Some(open) = stream else { return std::future::pending().await };
    let message = open.message().await;
    let arrived = Instant::now();
    let is_too_large = message.as_ref().is_err_and(is_too_large);
    let input = match message {
        Ok(Some(response)) => heard_response(&response, place),
        Ok(None) => {
            *stream = None;
            Input::Failed("the watch was closed by the store".to_owned())
        }
        Err(error) => {
            *stream = None;
            Input::Failed(format!("the watch broke: etcd {}", say_later(&error, Wanted::Read)))
        }
    };
    Heard { input, arrived, is_too_large }
}

fn heard_response(response: &etcd_client::WatchResponse, place: &EtcdPlace) -> Input {
    if response.canceled() {
        return if response.compact_revision() > 0 {
            Input::Compacted
        } else {
            Input::Failed(format!("the store ended the watch: etcd {}", place.say_refusal(response.cancel_reason())))
        };
    }
    if response.events().is_empty() {
        let revision = response.header().map_or(0, |header| u64::try_from(header.revision()).unwrap_or(0));
        return Input::Progress { revision };
    }
    // `event_type()` panics on a type that it does not know: the number is looked at instead.
    let events = response.events().iter().filter_map(|event| {
        let stored = stored(event.kv()?.clone(), place.prefix.len() + 1);
        match event.0.r#type {
            kind if kind == EventType::Put as i32 => Some(Event::Put(stored)),
            kind if kind == EventType::Delete as i32 => Some(Event::Delete { key: stored.key, mod_revision: stored.mod_revision }),
            _ => None,
        }
    });
    Input::Events { events: events.collect(), more: response.0.fragment }
}

/// A record from etcd's form; `prefix_len` bytes of its key are cut off.
pub(crate) fn stored(kv: KeyValue, prefix_len: usize) -> Stored {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let (create_revision, mod_revision, leased) = (number(kv.create_revision()), number(kv.mod_revision()), kv.lease() != 0);
    let (key, value) = kv.into_key_value();
    Stored { key: key.get(prefix_len..).unwrap_or_default().to_vec(), value, create_revision, mod_revision, leased }
}

pub(super) async fn say_hello(place: EtcdPlace, endpoint: String, cursor: Option<Cursor>) -> Done {
    match Box::pin(hello(&place, &endpoint, cursor)).await {
        Ok((clients, hello)) => Done::Connected(Box::new(clients), hello, endpoint),
        Err(why) => Done::Only(Input::Failed(why)),
    }
}

async fn hello(place: &EtcdPlace, endpoint: &str, cursor: Option<Cursor>) -> Result<((Reads, Client), Hello), String> {
    let reads = connect(place, endpoint).await?;
    let watches = connect(place, endpoint).await?;
    let mut maintenance = reads.maintenance_client();
    let reads = Reads::over(reads, &place.credentials);
    let fail = |error: &etcd_client::Error| format!("etcd at {endpoint} {}", place.say(error, endpoint));
    let slow = |_| format!("etcd at {endpoint} did not answer within {READ_LIMIT:?}");
    // Linearizable: whoever answers this has a majority behind it, however old its own view was.
    let found = tokio::time::timeout(READ_LIMIT, reads.get(format!("{}/incarnation", place.prefix), None)).await;
    let found = found.map_err(slow)?.map_err(|error| fail(&error))?;
    let header = found.header().ok_or_else(|| format!("etcd at {endpoint} answered without a header"))?;
    if let Some(cursor) = &cursor
        && !cursor.table.is_of_cluster(header.cluster_id())
        && let Some(other) = Box::pin(known_by_others(place, endpoint, &cursor.table)).await
    {
        return Err(format!(
            "etcd at {endpoint} is a member of another cluster than the one whose records are in force, to which {other} belongs; members of \
             one cluster would be right"
        ));
    }
    let revision = u64::try_from(header.revision()).unwrap_or(0);
    let incarnation = match found.kvs().first().map(|kv| decode(&RecordKey::Incarnation, kv.value()).map(|decoded| decoded.record)) {
        Some(Ok(Record::Incarnation(incarnation))) => incarnation,
        // A bad value is quarantined like any other: what was good before stays.
        Some(_) => cursor.as_ref().map_or(0, |cursor| cursor.incarnation),
        None => 0,
    };
    let (anchor, resume_behind) = match &cursor {
        // What the store has not come to, it can't be asked for; the machine knows what that means.
        Some(cursor) if cursor.revision <= revision => anchored(&reads, &place.prefix, cursor).await.map_err(|error| fail(&error))?,
        _ => (Anchor::None, 0),
    };
    // Not every user may ask for the version; without it progress notices are only signs of life.
    let version = tokio::time::timeout(READ_LIMIT, maintenance.status()).await;
    let version = version.ok().and_then(Result::ok).map(|status| status.version().to_owned());
    let cluster_id = header.cluster_id();
    let progress_is_barrier = version.as_deref().is_some_and(progress_is_barrier);
    Ok(((reads, watches), Hello { cluster_id, incarnation, revision, anchor, resume_behind, progress_is_barrier }))
}

/// Below 3.4.25 and 3.5.8 a progress reply can overtake events (measured: always, with 200 undelivered ones).
fn progress_is_barrier(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.split(['-', '+']).next().and_then(|part| part.parse::<u32>().ok()).unwrap_or(0));
    let (major, minor, patch) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match (major, minor) {
        (3, 4) => patch >= 25,
        (3, 5) => patch >= 8,
        (3, minor) => minor > 5,
        (major, _) => major > 3,
    }
}

/// The first key behind all that start with a prefix.
pub(crate) fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Answers are whole revisions, of up to `whole` bytes together; `None`: in fragments. For those etcd adds up what it has so far at each event, so that
/// one that says much (the end of many leases, a deleted prefix) costs it the square of that, for each watch.
pub(super) async fn open_watch(watches: Option<etcd_client::WatchClient>, place: EtcdPlace, from: u64, whole: Option<usize>) -> Done {
    let Some(watches) = watches else { return Done::Only(Input::Failed("there is no connection to watch over".to_owned())) };
    // What is queued before the watch is created comes in no fragments, whatever was asked for.
    let mut watches = watches.max_decoding_message_size(whole.unwrap_or(MAX_MESSAGE_BYTES));
    let options = WatchOptions::new().with_prefix().with_start_revision(i64::try_from(from).unwrap_or(i64::MAX)).with_progress_notify();
    let options = if whole.is_none() { options.with_fragment() } else { options };
    let opened = tokio::time::timeout(READ_LIMIT, async {
        let mut stream = watches.watch(format!("{}/", place.prefix), Some(options)).await?;
        let first = stream.message().await?;
        Ok::<_, etcd_client::Error>((stream, first))
    });
    match opened.await {
        Ok(Ok((stream, Some(first)))) if first.created() && !first.canceled() => {
            let revision = first.header().map_or(0, |header| u64::try_from(header.revision()).unwrap_or(0));
            Done::Opened(Box::new(stream), revision)
        }
        Ok(Ok((_, Some(first)))) if first.compact_revision() > 0 => Done::Only(Input::Compacted),
        Ok(Ok((_, Some(first)))) => {
            Done::Only(Input::Failed(format!("the watch is refused: etcd {}", place.say_refusal(first.cancel_reason()))))
        }
        Ok(Ok((_, None))) => Done::Only(Input::Failed("the store closed the watch at once".to_owned())),
        Ok(Err(error)) => {
            Done::Only(Input::Failed(format!("the watch could not be opened: etcd {}", place.say_later(&error, Wanted::Read))))
        }
        Err(_) => Done::Only(Input::Failed(format!("the watch did not open within {READ_LIMIT:?}"))),
    }
}

#[cfg(test)]
mod tests;

//! The last requests by their ids, for `/requests/<id>`: plain ones for a short while, those with something to tell for longer.
//!
//! Two rings, each bounded in entries and in bytes, each cut into shards with a lock of their own. A request never waits for one:
//! where its shard is held, by another request or by somebody who looks, it is kept in the next.

use std::{
    collections::VecDeque,
    mem::size_of,
    sync::{Arc, Mutex, PoisonError, TryLockError},
    time::{Duration, SystemTime},
};

use ahash::RandomState;
use waypost_conf::Name;
use waypost_policy::{
    Code, Moment,
    exchange::{Dispatched, Dispatches, Waited},
};

use crate::access_log::Line;

/// How many plain requests are kept: the last seconds, to ask about the answer just seen. Keeping one costs a request some 0.2 µs as
/// long as the ring stays in the cache; with four times as many it is three times that.
pub(crate) const PLAIN_ENTRIES: usize = 8 * 1024;
/// How many failed, repeated and stale ones are kept: they are few, and are asked about later.
pub(crate) const NOTABLE_ENTRIES: usize = 32 * 1024;
/// The memory of each ring; some 500 bytes an entry are usual.
const RING_BYTES: usize = 16 * 1024 * 1024;
/// Many more than requests that end at the very same moment, so that each finds a free one.
const SHARDS: usize = 64;
/// What is kept of a path and of a host; what is longer is cut, and marked so.
const MAX_TEXT_BYTES: usize = 1024;
const MARK: &[u8] = "…".as_bytes();
/// What is kept of a method; no registered one is longer.
const MAX_METHOD_CHARS: usize = 32;

/// What is kept of a request.
#[derive(Debug)]
pub(crate) struct Kept {
    texts: Texts,
    /// When it ended, as in the access log.
    pub(crate) ended: SystemTime,
    /// 0 if nothing was answered.
    pub(crate) status: u16,
    pub(crate) reason: Option<Code>,
    pub(crate) service: Option<Name>,
    pub(crate) key: Option<Arc<[u8]>>,
    pub(crate) duration: Duration,
    /// What the moments of the dispatches are counted from.
    pub(crate) started: Moment,
    pub(crate) dispatches: Dispatches,
    pub(crate) waits: Box<[Waited]>,
}

/// All that a request said, in one piece of memory.
#[derive(Debug)]
struct Texts {
    /// Request id, method, host and path, one behind the other.
    all: Box<[u8]>,
    request_id: usize,
    method: usize,
    host: Option<usize>,
}

impl Texts {
    fn new(request_id: &str, method: &str, host: Option<&[u8]>, path: &[u8]) -> Self {
        let method = method.char_indices().nth(MAX_METHOD_CHARS).map_or(method, |(end, _)| &method[..end]);
        let parts = [request_id.as_bytes(), method.as_bytes(), host.unwrap_or_default(), path];
        let mut all = Vec::with_capacity(parts.iter().map(|part| part.len().min(MAX_TEXT_BYTES + MARK.len())).sum());
        let [request_id, method, host_bytes, _] = parts.map(|part| {
            let start = all.len();
            all.extend_from_slice(&part[..part.len().min(MAX_TEXT_BYTES)]);
            if part.len() > MAX_TEXT_BYTES {
                all.extend_from_slice(MARK);
            }
            all.len() - start
        });
        Self { all: all.into(), request_id, method, host: host.map(|_| host_bytes) }
    }
}

impl Kept {
    /// The request's id.
    pub(crate) fn request_id(&self) -> &str {
        std::str::from_utf8(&self.texts.all[..self.texts.request_id]).unwrap_or_default()
    }

    /// Its method.
    pub(crate) fn method(&self) -> &str {
        std::str::from_utf8(&self.texts.all[self.texts.request_id..][..self.texts.method]).unwrap_or_default()
    }

    /// Whom it was for.
    pub(crate) fn host(&self) -> Option<&[u8]> {
        self.texts.host.map(|bytes| &self.texts.all[self.texts.request_id + self.texts.method..][..bytes])
    }

    /// Its path, without the query, which is where secrets are.
    pub(crate) fn path(&self) -> &[u8] {
        &self.texts.all[self.texts.request_id + self.texts.method + self.texts.host.unwrap_or_default()..]
    }

    fn of(line: &Line<'_>, ended: SystemTime) -> Self {
        Self {
            texts: Texts::new(line.request_id, line.method, line.host, line.path()),
            ended,
            status: line.status,
            reason: line.reason,
            service: line.trace.service.as_ref().map(|service| service.name.clone()),
            key: line.trace.key.clone(),
            duration: line.duration,
            started: line.trace.started,
            dispatches: line.trace.dispatches.clone(),
            waits: line.trace.waits.as_slice().into(),
        }
    }

    /// Names and addresses are shared with the table and not counted.
    fn bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.len());
        let dispatches = self.dispatches.len().saturating_sub(1) * size_of::<Dispatched>();
        size_of::<Self>() + self.texts.all.len() + key + dispatches + size_of_val(&*self.waits)
    }
}

/// Both rings.
#[derive(Debug)]
pub(crate) struct Recent {
    hasher: RandomState,
    plain: Ring,
    notable: Ring,
}

impl Default for Recent {
    fn default() -> Self {
        Self { hasher: RandomState::new(), plain: Ring::new(PLAIN_ENTRIES, RING_BYTES), notable: Ring::new(NOTABLE_ENTRIES, RING_BYTES) }
    }
}

impl Recent {
    /// Keeps a request that has just ended.
    pub(crate) fn keep(&self, line: &Line<'_>, now: SystemTime) {
        let has_failed = line.status >= 500 || line.status == 0 || line.reason.is_some();
        let is_notable = has_failed || line.trace.dispatches.len() > 1 || !line.trace.stale.is_empty() || !line.trace.waits.is_empty();
        let ring = if is_notable { &self.notable } else { &self.plain };
        ring.push(self.hasher.hash_one(line.request_id), Kept::of(line, now));
    }

    /// The last request of this id that is still kept.
    pub(crate) fn find(&self, request_id: &str) -> Option<Arc<Kept>> {
        let hash = self.hasher.hash_one(request_id);
        let found = [&self.plain, &self.notable].into_iter().filter_map(|ring| ring.find(hash, request_id));
        found.max_by_key(|kept| kept.ended)
    }
}

/// Requests in the order in which they ended, as far as a shard goes.
#[derive(Debug)]
struct Ring {
    shards: Box<[Mutex<Shard>]>,
    max_entries: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Shard {
    /// Hashes beside them, so that looking for one touches little memory.
    entries: VecDeque<(u64, Arc<Kept>)>,
    bytes: usize,
}

impl Ring {
    fn new(entries: usize, bytes: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, max_entries: entries / SHARDS, max_bytes: bytes / SHARDS }
    }

    /// The shards, from the hash's own on.
    fn shards(&self, hash: u64) -> impl Iterator<Item = &Mutex<Shard>> {
        let own = hash as usize % SHARDS;
        self.shards[own..].iter().chain(&self.shards[..own])
    }

    /// Where every shard is held at this very moment, the request is not kept.
    fn push(&self, hash: u64, kept: Kept) {
        let bytes = kept.bytes();
        let kept = Arc::new(kept);
        for shard in self.shards(hash) {
            let mut shard = match shard.try_lock() {
                Ok(shard) => shard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => continue,
            };
            shard.bytes += bytes;
            shard.entries.push_back((hash, kept));
            while shard.entries.len() > self.max_entries || shard.bytes > self.max_bytes {
                let Some((_, oldest)) = shard.entries.pop_front() else { return };
                shard.bytes = shard.bytes.saturating_sub(oldest.bytes());
            }
            return;
        }
    }

    fn find(&self, hash: u64, request_id: &str) -> Option<Arc<Kept>> {
        self.shards(hash).find_map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let newest_first = shard.entries.iter().rev();
            let mut of_this_id = newest_first.filter(|(of, kept)| *of == hash && kept.request_id() == request_id);
            of_this_id.next().map(|(_, kept)| Arc::clone(kept))
        })
    }
}

#[cfg(test)]
mod tests {
    use waypost_policy::exchange::Trace;

    use super::*;

    fn kept(id: &str, path_bytes: usize) -> Kept {
        Kept {
            texts: Texts::new(id, "GET", None, &vec![b'x'; path_bytes]),
            ended: SystemTime::now(),
            status: 200,
            reason: None,
            service: None,
            key: None,
            duration: Duration::ZERO,
            started: Moment::default(),
            dispatches: Dispatches::default(),
            waits: Box::default(),
        }
    }

    fn total(ring: &Ring) -> (usize, usize) {
        let shards: Vec<_> = ring.shards.iter().map(|shard| shard.lock().unwrap()).collect();
        (shards.iter().map(|shard| shard.entries.len()).sum(), shards.iter().map(|shard| shard.bytes).sum())
    }

    #[test]
    fn it_is_bounded_in_entries_and_bytes_and_the_oldest_go_first() {
        let hasher = RandomState::new();
        for (entries, bytes, path_bytes) in [(128, RING_BYTES, 10), (PLAIN_ENTRIES, 64 * 4096, 100_000)] {
            let ring = Ring::new(entries, bytes);
            for number in 0..PLAIN_ENTRIES / 2 {
                let id = number.to_string();
                ring.push(hasher.hash_one(&*id), kept(&id, path_bytes));
                assert!(ring.find(hasher.hash_one(&*id), &id).is_some(), "the newest is kept");
            }
            let (kept_entries, kept_bytes) = total(&ring);
            assert!(kept_entries <= entries && kept_bytes <= bytes && kept_entries > 0, "{kept_entries} entries, {kept_bytes} bytes");
            assert!(ring.find(hasher.hash_one("0"), "0").is_none(), "the oldest has gone");
        }
    }

    /// A request that was answered, `reason` being the proxy's own.
    fn ended<'a>(request_id: &'a str, reason: Option<Code>, trace: &'a Trace) -> Line<'a> {
        let line = Line::without_request(Code::NoRoute, request_id, [127, 0, 0, 1].into(), trace);
        Line { reason, status: 404, target: b"/a?secret", ..line }
    }

    #[test]
    fn a_crowd_of_plain_requests_drives_out_plain_ones_only() {
        let recent = Recent::default();
        let trace = Trace::default();
        recent.keep(&ended("plain", None, &trace), SystemTime::now());
        recent.keep(&ended("failed", Some(Code::NoRoute), &trace), SystemTime::now());
        for number in 0..2 * PLAIN_ENTRIES {
            recent.keep(&ended(&number.to_string(), None, &trace), SystemTime::now());
        }
        assert!(recent.find("plain").is_none());
        let failed = recent.find("failed").unwrap();
        assert_eq!((failed.reason, failed.path()), (Some(Code::NoRoute), &b"/a"[..]));
        recent.keep(&ended("failed", None, &trace), SystemTime::now());
        assert_eq!(recent.find("failed").unwrap().reason, None, "of one id the last is shown");
    }

    #[test]
    fn no_query_is_kept_of_a_target_that_is_none() {
        let (recent, trace) = (Recent::default(), Trace::default());
        recent.keep(&Line { target: b"/a?secret#b", ..ended("none", Some(Code::BadRequest), &trace) }, SystemTime::now());
        assert_eq!(recent.find("none").unwrap().path(), b"/a");
    }

    #[test]
    fn a_shard_that_is_held_makes_nobody_wait_and_nothing_is_lost() {
        let ring = Ring::new(PLAIN_ENTRIES, RING_BYTES);
        let held: Vec<_> = ring.shards[..SHARDS - 1].iter().map(|shard| shard.lock().unwrap()).collect();
        for hash in 0..SHARDS as u64 {
            ring.push(hash, kept(&hash.to_string(), 1));
        }
        drop(held);
        assert!((0..SHARDS as u64).all(|hash| ring.find(hash, &hash.to_string()).is_some()));
    }
}

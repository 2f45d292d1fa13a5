//! The access log: one line a request, off the request's path.
//!
//! Each worker gathers its lines (`batch`), written as `form` has it; a thread of the log's own (`writer`) takes and writes them, a few
//! milliseconds later at most. When a reader of the log stalls, or lines can't be written, they are lost and counted; a request never waits for a log. Queries, and what stands before the host in a
//! URL, are never written.

mod batch;
mod form;
mod writer;

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, SystemTime},
};

use prometheus_client::metrics::counter::Counter;
use waypost_conf::{AccessTarget, LogFormat};
use waypost_policy::{Code, exchange::Trace, head::Target};

use batch::{Batches, Put};
use writer::{Order, Place};

/// How many orders may wait for the writer.
const ORDERS: usize = 64;

/// What is known of a request that has ended.
pub(crate) struct Line<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) client: Option<IpAddr>,
    pub(crate) method: &'a str,
    pub(crate) host: Option<&'a [u8]>,
    pub(crate) target: &'a [u8],
    /// 0 if nothing was answered.
    pub(crate) status: u16,
    pub(crate) reason: Option<Code>,
    pub(crate) trace: &'a Trace,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration: Duration,
    pub(crate) upstream: Duration,
    pub(crate) protocol: &'static str,
    pub(crate) user_agent: Option<&'a [u8]>,
}

impl<'a> Line<'a> {
    /// A line for a connection on which no request could be read.
    pub(crate) fn without_request(code: Code, request_id: &'a str, client: IpAddr, trace: &'a Trace) -> Self {
        Self {
            request_id,
            client: Some(client),
            method: "",
            host: None,
            target: b"",
            status: code.status(),
            reason: Some(code),
            trace,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            upstream: Duration::ZERO,
            protocol: "HTTP/1.1",
            user_agent: None,
        }
    }

    /// The path that was asked for. The query is never shown: it is where secrets are.
    pub(crate) fn path(&self) -> &'a [u8] {
        Target::parse(self.target).map_or_else(|| without_secrets(self.target), |target| target.path)
    }
}

/// What may be shown of a target that is none: nothing behind a `?`, and nothing before an `@`.
fn without_secrets(target: &[u8]) -> &[u8] {
    let shown = target.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    shown.rsplit(|byte| *byte == b'@').next().unwrap_or_default()
}

/// Where the lines go.
pub(crate) struct AccessLog {
    batches: Arc<Batches>,
    orders: SyncSender<Order>,
    dropped: Counter,
}

impl AccessLog {
    /// Opens the log and starts its writer; so many workers put lines.
    ///
    /// # Errors
    /// If the file cannot be opened, or the thread not be started.
    pub(crate) fn open(target: &AccessTarget, format: LogFormat, workers: usize) -> io::Result<Self> {
        Self::start(Place::open(target)?.as_ref(), format, workers)
    }

    fn start(place: Option<&Arc<Place>>, format: LogFormat, workers: usize) -> io::Result<Self> {
        let batches = Arc::new(Batches::new(workers, place, format));
        let dropped = Counter::default();
        let (orders, ordered) = sync_channel(ORDERS);
        let (waiting, lost) = (Arc::clone(&batches), dropped.clone());
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer::run(&waiting, &ordered, &lost))?;
        Ok(Self { batches, orders, dropped })
    }

    /// From now on lines go there, in this format; those so far went, or are still going, where they belong.
    ///
    /// # Errors
    /// If the file cannot be opened; then nothing has changed.
    pub(crate) fn change(&self, target: &AccessTarget, format: LogFormat) -> io::Result<()> {
        self.batches.change(Place::open(target)?.as_ref(), format);
        Ok(())
    }

    /// Has the line of a request that has just ended written.
    pub(crate) fn write(&self, line: &Line<'_>, ended: SystemTime) {
        match self.batches.put(line, ended) {
            Put::Waits if self.batches.has_to_tell() => {
                // With a full queue the writer has not gone to sleep.
                let _ = self.orders.try_send(Order::Write);
            }
            Put::Waits | Put::Unwanted => {}
            Put::Lost => drop(self.dropped.inc()),
        }
    }

    /// Has the file opened anew, after whoever rotates it has moved it away. A move is noticed without this too, within a second.
    pub(crate) fn reopen(&self) {
        let _ = self.orders.try_send(Order::Reopen);
    }

    /// Waits until the lines so far are written, or for `limit` if nobody takes them.
    pub(crate) fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            let _ = written.recv_timeout(limit);
        }
    }

    /// How many lines were lost because their reader stalled or they could not be written.
    pub(crate) fn dropped(&self) -> &Counter {
        &self.dropped
    }
}

#[cfg(test)]
mod tests;

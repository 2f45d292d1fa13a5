//! The access log: one line a request, off the request's path.
//!
//! Lines go through a bounded queue to a thread of their own (`writer`). When a reader of the log stalls, or lines can't be written, they
//! are lost and counted; a request never waits for a log. Queries, and what stands before the host in a URL, are never written.

mod writer;

use std::{
    borrow::Cow,
    io,
    net::IpAddr,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, SystemTime},
};

use prometheus_client::metrics::counter::Counter;
use serde::{Serialize, Serializer};
use waypost_conf::{AccessTarget, LogFormat};
use waypost_policy::{Code, exchange::Trace, head::Target};

use writer::{Message, Place, Writer};

/// How long a line usually is, and some more.
const USUAL_BYTES: usize = 640;
/// How many lines may wait for the writer.
const QUEUE_LINES: usize = 16 * 1024;

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

/// The fields of INTERFACE.md, in its order, and the chain of dispatches where it has more to tell than they.
#[derive(Serialize)]
struct Fields<'a> {
    #[serde(serialize_with = "as_text")]
    time: humantime::Rfc3339Timestamp,
    request_id: &'a str,
    client: Option<IpAddr>,
    method: &'a str,
    host: Option<Cow<'a, str>>,
    path: Cow<'a, str>,
    status: u16,
    reason: Option<&'static str>,
    service: Option<&'a str>,
    key: Option<Cow<'a, str>>,
    owner: Option<&'a str>,
    endpoint: Option<&'a str>,
    epoch: Option<u64>,
    revision: u64,
    hops: u32,
    bytes_in: u64,
    bytes_out: u64,
    duration_us: u64,
    upstream_us: u64,
    protocol: &'a str,
    user_agent: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<Vec<String>>,
}

fn as_text<S: Serializer>(time: &humantime::Rfc3339Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
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

    fn fields(&self) -> Fields<'_> {
        let text = String::from_utf8_lossy;
        // The query stays out of the log: it is where secrets are.
        let path = Target::parse(self.target).map_or_else(|| without_secrets(self.target), |target| target.path);
        let dispatches = &self.trace.dispatches;
        Fields {
            time: humantime::format_rfc3339_micros(SystemTime::now()),
            request_id: self.request_id,
            client: self.client,
            method: self.method,
            host: self.host.map(text),
            path: text(path),
            status: self.status,
            reason: self.reason.map(Code::as_str),
            service: self.trace.service.as_ref().map(|service| &*service.name),
            key: self.trace.key.as_deref().map(text),
            owner: self.trace.upstream.as_ref().map(|upstream| &*upstream.name),
            endpoint: self.trace.endpoint.as_ref().map(|endpoint| endpoint.as_str()),
            epoch: self.trace.epoch,
            revision: self.trace.revision,
            hops: self.trace.hops,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration_us: micros(self.duration),
            upstream_us: micros(self.upstream),
            protocol: self.protocol,
            user_agent: self.user_agent.map(text),
            chain: dispatches.are_a_chain().then(|| dispatches.iter().map(ToString::to_string).collect()),
        }
    }
}

/// What may be shown of a target that is none: nothing behind a `?`, and nothing before an `@`.
fn without_secrets(target: &[u8]) -> &[u8] {
    let shown = target.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    shown.rsplit(|byte| *byte == b'@').next().unwrap_or_default()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Where the lines go.
pub(crate) struct AccessLog {
    queue: SyncSender<Message>,
    is_on: AtomicBool,
    is_text: AtomicBool,
    dropped: Counter,
}

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// If the file cannot be opened, or the thread not be started.
    pub(crate) fn open(target: &AccessTarget, format: LogFormat) -> io::Result<Self> {
        let dropped = Counter::default();
        let place = Place::open(target)?;
        let is_on = place.is_some();
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let lost = dropped.clone();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || Writer::new(place, lost).run(&lines))?;
        Ok(Self { queue, is_on: is_on.into(), is_text: (format == LogFormat::Text).into(), dropped })
    }

    /// From now on lines go there, in this format; those so far went where they belong.
    ///
    /// # Errors
    /// If the file cannot be opened, or the writer is held up; then nothing has changed.
    pub(crate) fn change(&self, target: &AccessTarget, format: LogFormat) -> io::Result<()> {
        let place = Place::open(target)?;
        let is_on = place.is_some();
        let held_up = |_| io::Error::other("its present reader takes no lines");
        self.queue.try_send(Message::Change(place)).map_err(held_up)?;
        self.is_on.store(is_on, Ordering::Relaxed);
        self.is_text.store(format == LogFormat::Text, Ordering::Relaxed);
        Ok(())
    }

    /// Queues a line.
    pub(crate) fn write(&self, line: &Line<'_>) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let fields = line.fields();
        let mut bytes = if self.is_text.load(Ordering::Relaxed) {
            text_line(&fields).into_bytes()
        } else {
            let mut bytes = Vec::with_capacity(USUAL_BYTES);
            // What it is made of can be written, and a vector takes it.
            let _ = serde_json::to_writer(&mut bytes, &fields);
            bytes
        };
        bytes.push(b'\n');
        if self.queue.try_send(Message::Line(bytes)).is_err() {
            self.dropped.inc();
        }
    }

    /// Has the file opened anew, after whoever rotates it has moved it away. A move is noticed without this too, within a second.
    pub(crate) fn reopen(&self) {
        let _ = self.queue.try_send(Message::Reopen);
    }

    /// Waits until the lines so far are written, or for `limit` if nobody takes them.
    pub(crate) fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(limit);
        }
    }

    /// How many lines were lost because their reader stalled or they could not be written.
    pub(crate) fn dropped(&self) -> &Counter {
        &self.dropped
    }
}

/// One line for people: what came, what was answered, who answered, how long it took.
fn text_line(fields: &Fields<'_>) -> String {
    let chain = fields.chain.as_ref().map_or_else(String::new, |chain| format!(" chain={:?}", chain.join(" > ")));
    let or_dash = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").escape_debug().to_string();
    format!(
        "{} {} {} {}{} {} {} {} key={} owner={} endpoint={} epoch={} hops={} in={} out={} {}us id={}{chain}",
        fields.time,
        fields.client.map_or_else(|| "-".to_owned(), |client| client.to_string()),
        or_dash(Some(fields.method)),
        fields.host.as_deref().unwrap_or_default().escape_debug(),
        fields.path.escape_debug(),
        fields.status,
        or_dash(fields.reason),
        or_dash(fields.service),
        or_dash(fields.key.as_deref()),
        or_dash(fields.owner),
        or_dash(fields.endpoint),
        fields.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string()),
        fields.hops,
        fields.bytes_in,
        fields.bytes_out,
        fields.duration_us,
        fields.request_id,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_none_shows_no_secret() {
        assert_eq!(without_secrets(b"user:pw@host:443"), b"host:443");
        assert_eq!(without_secrets(b"what?token=1"), b"what");
        assert_eq!(without_secrets(b"http://user:pw@host/?a@b"), b"host/");
    }
}

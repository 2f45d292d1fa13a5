//! The access log: one line a request, off the request's path.
//!
//! Lines go through a bounded queue to a thread of their own. When a reader of the log stalls, lines are dropped and counted; a
//! request never waits for a log.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, SystemTime},
};

use serde::Serialize;
use waypost_conf::{AccessTarget, LogFormat};
use waypost_policy::{Code, exchange::Trace, head::Target};

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

/// The fields of INTERFACE.md, in its order.
#[derive(Serialize)]
struct Fields<'a> {
    time: String,
    request_id: &'a str,
    client: Option<IpAddr>,
    method: &'a str,
    host: Option<String>,
    path: String,
    status: u16,
    reason: Option<&'static str>,
    service: Option<&'a str>,
    key: Option<String>,
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
    user_agent: Option<String>,
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
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // The query stays out of the log: it is where secrets are.
        let path = Target::parse(self.target).map_or(self.target, |target| target.path);
        Fields {
            time: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
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
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Where the lines go.
pub(crate) struct AccessLog {
    queue: Option<SyncSender<Vec<u8>>>,
    format: LogFormat,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// If the file cannot be opened, or the thread not be started.
    pub(crate) fn open(target: &AccessTarget, format: LogFormat) -> io::Result<Self> {
        let writer: Option<Box<dyn Write + Send>> = match target {
            AccessTarget::Off => None,
            AccessTarget::Stdout => Some(Box::new(io::stdout())),
            AccessTarget::File(path) => Some(Box::new(OpenOptions::new().create(true).append(true).open(path)?)),
        };
        let queue = match writer {
            None => None,
            Some(writer) => {
                let (queue, lines) = sync_channel(QUEUE_LINES);
                std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_lines(BufWriter::new(writer), &lines))?;
                Some(queue)
            }
        };
        Ok(Self { queue, format, dropped: Arc::default() })
    }

    /// Queues a line.
    pub(crate) fn write(&self, line: &Line<'_>) {
        let Some(queue) = &self.queue else { return };
        let fields = line.fields();
        let mut bytes = match self.format {
            LogFormat::Json => serde_json::to_vec(&fields).unwrap_or_default(),
            LogFormat::Text => text_line(&fields).into_bytes(),
        };
        bytes.push(b'\n');
        if queue.try_send(bytes).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines were dropped because their reader stalled.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// One line for people: what came, what was answered, who answered, how long it took.
fn text_line(fields: &Fields<'_>) -> String {
    let or_dash = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").escape_debug().to_string();
    format!(
        "{} {} {} {}{} {} {} {} key={} owner={} endpoint={} epoch={} hops={} in={} out={} {}us id={}",
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

/// Writes until the queue's other end has gone; flushes whenever nothing waits.
fn write_lines(mut writer: BufWriter<Box<dyn Write + Send>>, lines: &Receiver<Vec<u8>>) {
    while let Ok(first) = lines.recv() {
        let mut failed = writer.write_all(&first).is_err();
        while let Ok(line) = lines.try_recv() {
            failed |= writer.write_all(&line).is_err();
        }
        if failed | writer.flush().is_err() {
            // Nobody reads any more (a closed pipe, a full disk): the next line tries again.
            continue;
        }
    }
}

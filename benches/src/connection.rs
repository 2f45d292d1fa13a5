//! One connection of a load: sends, reads the answer to its end, counts, and reconnects when it must.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    fixed::OWNER_HEADER,
    plan::{Plan, Schedule},
    report::{Failure, Tally},
};

/// An answer that takes longer has failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection waits after one that could not be made.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Says of an answer whether it is right. Called for each, by several threads: it must be quick.
pub type Check<'a> = dyn Fn(&Seen) -> bool + Sync + 'a;

/// An answer that a check judges.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The number of the request's key.
    pub key: u64,
    /// Its status.
    pub status: u16,
    /// The owner that answered, if it said so ([`OWNER_HEADER`]).
    pub owner: Option<u64>,
    /// When the request was sent.
    pub sent: Instant,
    /// When the answer was whole.
    pub ended: Instant,
    /// As it counts: in an open loop from when the request was due, if its connection was busy then.
    pub latency: Duration,
}

pub(crate) struct Connection<'a> {
    plan: &'a Plan,
    check: Option<&'a Check<'a>>,
    key: u64,
    schedule: Option<Schedule>,
    rng: fastrand::Rng,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

struct Answered {
    status: u16,
    owner: Option<u64>,
    bytes: usize,
    keep: bool,
}

impl<'a> Connection<'a> {
    pub(crate) fn new(plan: &'a Plan, check: Option<&'a Check<'a>>, number: usize, schedule: Option<Schedule>) -> Self {
        let rng = fastrand::Rng::with_seed(plan.seed.wrapping_add(number as u64));
        Self { plan, check, key: 0, schedule, rng, stream: None, request: Vec::new(), answer: Vec::with_capacity(16 * 1024) }
    }

    /// Sends until `to`; what ends after `from` is counted.
    pub(crate) async fn run(mut self, begins: Instant, from: Instant, to: Instant) -> Tally {
        let mut tally = Tally::default();
        let mut due = self.schedule.map_or(begins, |schedule| schedule.first);
        loop {
            // The timer is late by up to a millisecond, which is nobody's latency: a request that was late because its connection was busy
            // counts from when it was due.
            let is_free = due > Instant::now();
            if is_free {
                tokio::time::sleep_until(due.into()).await;
            }
            let sent = Instant::now();
            if due.max(sent) >= to {
                return tally;
            }
            let counted_from = if self.schedule.is_some() && !is_free { due } else { sent };
            let left = to.saturating_duration_since(sent).min(ANSWER_LIMIT) + Duration::from_millis(1);
            let outcome = tokio::time::timeout(left, self.once()).await;
            let ended = Instant::now();
            let in_time = ended >= from && ended <= to;
            if let (Some(check), Ok(Ok(Answered { status, owner, .. }))) = (self.check, &outcome) {
                let seen = Seen { key: self.key, status: *status, owner: *owner, sent, ended, latency: ended - counted_from };
                tally.checked(check(&seen));
            }
            match outcome {
                Ok(Ok(answered)) if in_time => tally.answered(answered.status, answered.bytes, ended - counted_from),
                Ok(Err(failure)) => {
                    self.stream = None;
                    if in_time {
                        tally.failed(failure);
                    }
                    if matches!(failure, Failure::Connect) {
                        tokio::time::sleep(CONNECT_PAUSE).await;
                    }
                }
                Err(_) => {
                    self.stream = None;
                    // The end of the run is nobody's failure.
                    if left > ANSWER_LIMIT && in_time {
                        tally.failed(Failure::Timeout);
                    }
                }
                Ok(Ok(_)) => {}
            }
            due = self.schedule.map_or(ended, |schedule| due + schedule.every);
        }
    }

    async fn once(&mut self) -> Result<Answered, Failure> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.plan.target.address).await.map_err(|_| Failure::Connect)?;
            stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
            self.stream = Some(stream);
        }
        self.write_request();
        let Some(stream) = &mut self.stream else { return Err(Failure::Connect) };
        stream.write_all(&self.request).await.map_err(|_| Failure::Io)?;
        let is_head = self.plan.method == "HEAD";
        let answered = read_answer(stream, &mut self.answer, is_head).await.map_err(|_| Failure::Io)?;
        if !answered.keep {
            self.stream = None;
        }
        Ok(answered)
    }

    fn write_request(&mut self) {
        let keys = &self.plan.keys;
        let number = self.rng.u64(keys.range.clone());
        self.key = number;
        let key = |template: &str| {
            if template.contains("{key}") { template.replace("{key}", &format!("{}{number}", keys.prefix)) } else { template.to_owned() }
        };
        let target = &self.plan.target;
        self.request.clear();
        self.request
            .extend_from_slice(format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.plan.method, key(&target.path), target.host).as_bytes());
        for (name, value) in &self.plan.headers {
            self.request.extend_from_slice(format!("{name}: {}\r\n", key(value)).as_bytes());
        }
        if self.plan.body_bytes > 0 {
            self.request.extend_from_slice(format!("Content-Length: {}\r\n", self.plan.body_bytes).as_bytes());
        }
        self.request.extend_from_slice(b"\r\n");
        self.request.resize(self.request.len() + self.plan.body_bytes, b'x');
    }
}

/// Reads one answer to its end.
async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>, is_head: bool) -> io::Result<Answered> {
    buffer.clear();
    let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(head_bytes) = head.parse(buffer).map_err(|_| bad("no HTTP answer"))? else { continue };
        let status = head.code.unwrap_or(0);
        if (100..200).contains(&status) {
            buffer.drain(..head_bytes);
            continue;
        }
        let field = |name: &str| head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value);
        let length = field("content-length").and_then(|length| std::str::from_utf8(length).ok()?.parse::<usize>().ok());
        let chunked = field("transfer-encoding").is_some();
        let mut keep = !field("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        let owner = field(OWNER_HEADER).and_then(|owner| std::str::from_utf8(owner).ok()?.parse().ok());
        let bodiless = is_head || status == 204 || status == 304;
        let bytes = match (bodiless, chunked, length) {
            (true, ..) => head_bytes,
            (_, true, _) => read_chunked(stream, buffer, head_bytes).await?,
            (_, _, Some(length)) => {
                let mut left = (head_bytes + length).saturating_sub(buffer.len());
                while left > 0 {
                    buffer.clear();
                    let read = stream.read_buf(buffer).await?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    left = left.saturating_sub(read);
                }
                head_bytes + length
            }
            (_, _, None) => {
                keep = false;
                while stream.read_buf(buffer).await? > 0 {}
                buffer.len()
            }
        };
        return Ok(Answered { status, owner, bytes, keep });
    }
}

/// Reads a chunked body to its end; how many bytes the answer had.
async fn read_chunked(stream: &mut TcpStream, buffer: &mut Vec<u8>, head_bytes: usize) -> io::Result<usize> {
    let mut at = head_bytes;
    loop {
        match httparse::parse_chunk_size(&buffer[at..]) {
            Ok(httparse::Status::Complete((line, size))) => {
                let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidData)?;
                at += line + size + 2;
                while buffer.len() < at {
                    if stream.read_buf(buffer).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                if size == 0 {
                    return Ok(at);
                }
            }
            Ok(httparse::Status::Partial) => {
                if stream.read_buf(buffer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

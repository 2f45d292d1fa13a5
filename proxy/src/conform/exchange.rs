//! One request and its answer over a connection of its own, byte for byte: what hides heads, interim answers or a missing body could not judge.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::judge::Answer;

/// An answer of more bytes than this is no answer to what is asked here.
const MAX_BYTES: usize = 4 << 20;
const MAX_FIELDS: usize = 128;

/// A request.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    /// Request line and fields with their line ends, and the empty line.
    pub(super) head: Vec<u8>,
    /// What is sent of the body.
    pub(super) body: Vec<u8>,
}

/// A request, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    /// What was sent.
    pub(super) sent: Request,
    /// The heads that came, as they were.
    pub(super) heads: Vec<u8>,
    /// The answer, or why there was none.
    pub(super) answer: Result<Answer, String>,
    pub(super) took: Duration,
}

/// Sends a request and reads its answer.
pub(super) async fn exchange(to: SocketAddr, request: &Request, limit: Duration) -> Exchange {
    let began = Instant::now();
    match Open::send(to, request, limit).await {
        Ok(open) => open.answer(limit.saturating_sub(began.elapsed())).await,
        Err(why) => Exchange { sent: request.clone(), heads: Vec::new(), answer: Err(why), took: began.elapsed() },
    }
}

/// A request that has been sent, perhaps not all of it.
pub(super) struct Open {
    stream: TcpStream,
    sent: Request,
    buffer: Vec<u8>,
    heads: Vec<u8>,
    interim: Vec<u16>,
    began: Instant,
}

impl Open {
    /// Connects and sends what there is.
    ///
    /// # Errors
    /// A few words.
    pub(super) async fn send(to: SocketAddr, request: &Request, limit: Duration) -> Result<Self, String> {
        let began = Instant::now();
        let connected = tokio::time::timeout(limit, TcpStream::connect(to)).await;
        let mut stream = connected.map_err(|_| format!("no connection within {limit:?}"))?.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let bytes = [&*request.head, &request.body].concat();
        stream.write_all(&bytes).await.map_err(|error| error.to_string())?;
        Ok(Self { stream, sent: request.clone(), buffer: Vec::new(), heads: Vec::new(), interim: Vec::new(), began })
    }

    /// Sends more of the body; what the other end does not take is seen in its answer.
    pub(super) async fn send_more(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        self.sent.body.extend_from_slice(bytes);
    }

    /// Whether a part of the body has been sent.
    pub(super) fn has_sent_body(&self) -> bool {
        !self.sent.body.is_empty()
    }

    /// Waits for an answer of any kind, without taking a final one: its status, or nothing within the limit.
    pub(super) async fn first_status(&mut self, limit: Duration) -> Option<u16> {
        let head = tokio::time::timeout(limit, self.head()).await.ok()?.ok()?;
        let status = head.status;
        if is_interim(status) {
            self.interim.push(status);
        } else {
            // Read again by whoever wants the answer.
            let length = head.length;
            let bytes = self.heads.split_off(self.heads.len() - length);
            self.buffer.splice(0..0, bytes);
        }
        Some(status)
    }

    /// Reads the answer to its end.
    pub(super) async fn answer(mut self, limit: Duration) -> Exchange {
        let read = tokio::time::timeout(limit, self.read()).await;
        let answer = read.unwrap_or_else(|_| Err(format!("no whole answer within {:.1} s", limit.as_secs_f64())));
        Exchange { sent: self.sent, heads: self.heads, answer, took: self.began.elapsed() }
    }

    async fn read(&mut self) -> Result<Answer, String> {
        loop {
            let head = self.head().await?;
            if is_interim(head.status) {
                self.interim.push(head.status);
                continue;
            }
            let is_head = self.sent.head.starts_with(b"HEAD ");
            let body = if is_head || matches!(head.status, 204 | 304) { Vec::new() } else { self.body(&head.headers).await? };
            return Ok(Answer { status: head.status, headers: head.headers, body, interim: std::mem::take(&mut self.interim) });
        }
    }

    async fn head(&mut self) -> Result<Head, String> {
        loop {
            if let Some(head) = parse(&self.buffer)? {
                self.heads.extend(self.buffer.drain(..head.length));
                return Ok(head);
            }
            if !self.more().await? {
                return Err("the connection was closed before an answer".to_owned());
            }
        }
    }

    async fn body(&mut self, headers: &[(String, Vec<u8>)]) -> Result<Vec<u8>, String> {
        let field = |name: &str| headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| &**value);
        if field("transfer-encoding").is_some() {
            return self.chunks().await;
        }
        let Some(length) = field("content-length") else {
            while self.more().await? {}
            return Ok(std::mem::take(&mut self.buffer));
        };
        let length = std::str::from_utf8(length).ok().and_then(|length| length.trim().parse().ok());
        self.exactly(length.ok_or("its Content-Length is no number")?).await
    }

    async fn chunks(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                    break self.exactly(at + 2).await?;
                }
                if !self.more().await? {
                    return Err("the connection was closed within a chunk".to_owned());
                }
            };
            let size = std::str::from_utf8(&line).ok().and_then(|line| usize::from_str_radix(line.trim().split(';').next()?, 16).ok());
            let size = size.filter(|size| *size < MAX_BYTES).ok_or("a chunk has no size")?;
            if size == 0 {
                return Ok(body);
            }
            body.extend(self.exactly(size).await?);
            self.exactly(2).await?;
        }
    }

    async fn exactly(&mut self, bytes: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < bytes {
            if !self.more().await? {
                return Err(format!("the connection was closed {} bytes before the end of the body", bytes - self.buffer.len()));
            }
        }
        Ok(self.buffer.drain(..bytes).collect())
    }

    /// Reads once; false at the end.
    async fn more(&mut self) -> Result<bool, String> {
        if self.buffer.len() > MAX_BYTES {
            return Err(format!("it answers with more than {MAX_BYTES} bytes"));
        }
        self.stream.read_buf(&mut self.buffer).await.map(|read| read > 0).map_err(|error| error.to_string())
    }
}

/// A head.
struct Head {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    length: usize,
}

fn is_interim(status: u16) -> bool {
    (100..200).contains(&status) && status != 101
}

/// The head at the start of these bytes, if all of it is there.
fn parse(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let headers = parsed.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
            Ok(Some(Head { status: parsed.code.unwrap_or_default(), headers, length }))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(fault) => Err(format!("what it answers is no HTTP/1.1: {fault}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// What is read of an answer that comes in two parts.
    async fn read(first: &'static str, second: &'static str) -> Exchange {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for part in [first, second] {
                stream.write_all(part.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut rest = Vec::new();
            let _ = stream.read_buf(&mut rest).await;
        });
        let request = Request { head: b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), body: Vec::new() };
        exchange(to, &request, Duration::from_secs(10)).await
    }

    #[tokio::test]
    async fn interim_answers_framings_and_heads_are_read_as_they_are() {
        let read_whole = read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", "llo").await;
        let answer = read_whole.answer.unwrap();
        assert_eq!((answer.status, &*answer.body, &*answer.interim), (200, &b"hello"[..], &[100][..]));
        assert!(
            read_whole.heads.starts_with(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n") && read_whole.heads.ends_with(b"\r\n\r\n")
        );
        let chunked =
            read("HTTP/1.1 421 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", "2;a=b\r\nlo\r\n0\r\n\r\n").await.answer.unwrap();
        assert_eq!((chunked.status, &*chunked.body), (421, &b"hello"[..]));
        let empty = read("HTTP/1.1 204 X\r\n", "\r\n").await.answer.unwrap();
        assert_eq!((empty.status, empty.body.len()), (204, 0));
        assert!(read("SSH-2.0\r\n", "").await.answer.unwrap_err().starts_with("what it answers is no HTTP/1.1"));
    }
}

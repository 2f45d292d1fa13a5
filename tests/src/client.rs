//! A raw HTTP/1.1 client: exact bytes in, a parsed answer out, everything within a limit.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// One kept-alive connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// All header fields, in order, as they were written.
    pub headers: Vec<(String, String)>,
    /// The body, unchunked.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a header; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// The code of the proxy's own answers.
    pub fn reason(&self) -> &str {
        self.header("waypost-reason")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> Self {
        Self::try_connect(to).await.unwrap()
    }

    /// Connects; an error says why that could not be.
    pub async fn try_connect(to: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// One GET over a connection of its own.
    pub async fn fetch(to: SocketAddr, path: &str) -> Result<Answer, String> {
        let mut client = Self::try_connect(to).await?;
        client.try_request("GET", path, &[], b"").await
    }

    /// A GET on this connection.
    pub async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", path, headers, b"").await
    }

    /// A request on this connection; a body is sent with its length.
    pub async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_request(method, path, headers, body).await.unwrap()
    }

    /// The same; an error says why there was no whole answer.
    pub async fn try_request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, String> {
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request += "Host: orders.example.com\r\n";
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        let bytes = [request.as_bytes(), b"\r\n", body].concat();
        self.send(&bytes).await?;
        self.answer(method == "HEAD").await
    }

    /// Sends exact bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(|error| error.to_string())
    }

    /// Reads one answer; those of 1xx are passed over, except 101.
    pub async fn answer(&mut self, is_head: bool) -> Result<Answer, String> {
        tokio::time::timeout(LIMIT, self.read_answer(is_head)).await.map_err(|_| format!("no answer within {LIMIT:?}"))?
    }

    /// Reads one head, also of 1xx, and leaves what is behind it to [`Self::answer`] or [`Self::some`].
    pub async fn head(&mut self) -> Result<Answer, String> {
        tokio::time::timeout(LIMIT, self.read_head()).await.map_err(|_| format!("no head within {LIMIT:?}"))?
    }

    /// The bytes that come next, whatever they mean; none at the end of the stream.
    pub async fn some(&mut self) -> Result<Vec<u8>, String> {
        if self.buffer.is_empty() {
            let read = tokio::time::timeout(LIMIT, self.stream.read_buf(&mut self.buffer)).await;
            read.map_err(|_| format!("nothing within {LIMIT:?}"))?.map_err(|error| error.to_string())?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Whether nothing has come that was not taken.
    pub fn has_nothing(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Whether the other end closes within the limit.
    pub async fn is_closed(&mut self) -> bool {
        self.buffer.clear();
        matches!(tokio::time::timeout(LIMIT, self.stream.read_buf(&mut self.buffer)).await, Ok(Ok(0) | Err(_)))
    }

    async fn read_answer(&mut self, is_head: bool) -> Result<Answer, String> {
        loop {
            let mut answer = self.read_head().await?;
            if (100..200).contains(&answer.status) && answer.status != 101 {
                continue;
            }
            let bodiless = is_head || matches!(answer.status, 101 | 204 | 304);
            if !bodiless {
                answer.body = self.read_body(&answer).await?;
            }
            return Ok(answer);
        }
    }

    async fn read_head(&mut self) -> Result<Answer, String> {
        let end = self.until_found(b"\r\n\r\n", 0).await?;
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or("no status line")?;
        let headers =
            lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        Ok(Answer { status, headers, body: Vec::new() })
    }

    async fn read_body(&mut self, answer: &Answer) -> Result<Vec<u8>, String> {
        if answer.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
            let mut body = Vec::new();
            loop {
                let end = self.until_found(b"\r\n", 0).await?;
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                let size =
                    usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16).map_err(|error| error.to_string())?;
                self.buffer.drain(..end + 2);
                self.fill(size + 2).await?;
                body.extend(self.buffer.drain(..size));
                self.buffer.drain(..2);
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        if let Ok(length) = answer.header("content-length").parse::<usize>() {
            self.fill(length).await?;
            return Ok(self.buffer.drain(..length).collect());
        }
        while self.stream.read_buf(&mut self.buffer).await.map_err(|error| error.to_string())? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    async fn until_found(&mut self, what: &[u8], from: usize) -> Result<usize, String> {
        loop {
            if let Some(at) = self.buffer[from..].windows(what.len()).position(|window| window == what) {
                return Ok(from + at);
            }
            self.more().await?;
        }
    }

    async fn fill(&mut self, bytes: usize) -> Result<(), String> {
        while self.buffer.len() < bytes {
            self.more().await?;
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<(), String> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(format!("the connection was closed; read so far: {:?}", String::from_utf8_lossy(&self.buffer))),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

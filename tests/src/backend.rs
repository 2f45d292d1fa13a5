//! A scripted HTTP/1.1 backend that remembers exactly what it saw.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The request target, as sent.
    pub target: String,
    /// All header fields, in order, as they were written.
    pub headers: Vec<(String, String)>,
    /// The body, unchunked.
    pub body: Vec<u8>,
}

impl Seen {
    /// All values of a header.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| &**value).collect()
    }

    /// The first value of a header; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.values(name).first().copied().unwrap_or_default()
    }

    /// One member of the stamp: a number, or a string without its quotes.
    pub fn stamped(&self, member: &str) -> String {
        let stamp = self.header("route-stamp");
        let value = stamp.split(", ").find_map(|part| part.strip_prefix(member)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches('"').to_owned()
    }
}

/// What a backend does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status, header fields, body.
    Say(u16, Vec<(String, String)>, Vec<u8>),
    /// These bytes, and then the connection is closed.
    RawAndClose(Vec<u8>),
    /// Nothing: the connection is closed.
    Close,
    /// Nothing at all, for long.
    Hang,
}

impl Reply {
    /// 200 with this text.
    pub fn ok(text: impl Into<String>) -> Self {
        Self::Say(200, Vec::new(), text.into().into_bytes())
    }

    /// 421 with `Route-Stale`.
    pub fn stale(value: impl Into<String>) -> Self {
        let headers = vec![("Route-Stale".to_owned(), value.into()), ("Cache-Control".to_owned(), "no-store".to_owned())];
        Self::Say(421, headers, b"not here".to_vec())
    }
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A running backend; gone when dropped.
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    heads: Arc<Mutex<usize>>,
    task: tokio::task::JoinHandle<()>,
}

impl Backend {
    /// Starts a backend that does with each request what the handler says.
    pub async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, heads) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Mutex<usize>>::default());
        let handler: Handler = Arc::new(handler);
        let (all, counted) = (Arc::clone(&seen), Arc::clone(&heads));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&handler), Arc::clone(&all), Arc::clone(&counted)));
            }
        });
        Self { address, seen, heads, task }
    }

    /// Starts a backend that answers 200 with its name.
    pub async fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::start(move |_| Reply::ok(name.clone())).await
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The last request.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("the backend saw no request")
    }

    /// How many heads have arrived, with or without their bodies.
    pub fn heads(&self) -> usize {
        *self.heads.lock().unwrap()
    }

    /// An upstream's record with this backend as its only endpoint.
    pub fn upstream(&self) -> serde_json::Value {
        serde_json::json!({ "endpoints": [{ "address": self.address.to_string() }] })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, handler: Handler, all: Arc<Mutex<Vec<Seen>>>, heads: Arc<Mutex<usize>>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(mut seen) = read_head(&mut stream, &mut buffer, &heads).await {
        let is_refused = seen.header("expect") == "100-continue" && matches!(handler(&seen), Reply::Say(421, ..));
        // Who is refused on the head alone never sends its body.
        if !is_refused && read_body(&mut stream, &mut buffer, &mut seen).await.is_none() {
            return;
        }
        let reply = handler(&seen);
        let is_head = seen.method == "HEAD";
        all.lock().unwrap().push(seen);
        match reply {
            Reply::Say(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} X\r\n");
                for (name, value) in headers {
                    head += &format!("{name}: {value}\r\n");
                }
                if !matches!(status, 204 | 304) {
                    head += &format!("Content-Length: {}\r\n", body.len());
                }
                let body = if is_head || matches!(status, 204 | 304) { Vec::new() } else { body };
                if stream.write_all(&[head.as_bytes(), b"\r\n", &body].concat()).await.is_err() {
                    return;
                }
            }
            Reply::RawAndClose(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Reply::Close => return,
            Reply::Hang => tokio::time::sleep(Duration::from_secs(60)).await,
        }
    }
}

async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>, heads: &Mutex<usize>) -> Option<Seen> {
    let end = find(stream, buffer, b"\r\n\r\n").await?;
    *heads.lock().unwrap() += 1;
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let mut seen = Seen { method: first.next()?.to_owned(), target: first.next()?.to_owned(), ..Seen::default() };
    seen.headers = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Some(seen)
}

async fn read_body(stream: &mut TcpStream, buffer: &mut Vec<u8>, seen: &mut Seen) -> Option<()> {
    if seen.header("expect") == "100-continue" {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    if seen.header("transfer-encoding") == "chunked" {
        loop {
            let end = find(stream, buffer, b"\r\n").await?;
            let size = usize::from_str_radix(std::str::from_utf8(&buffer[..end]).ok()?, 16).ok()?;
            buffer.drain(..end + 2);
            fill(stream, buffer, size + 2).await?;
            seen.body.extend(buffer.drain(..size));
            buffer.drain(..2);
            if size == 0 {
                return Some(());
            }
        }
    }
    let length = seen.header("content-length").parse().unwrap_or(0);
    fill(stream, buffer, length).await?;
    seen.body = buffer.drain(..length).collect();
    Some(())
}

async fn find(stream: &mut TcpStream, buffer: &mut Vec<u8>, what: &[u8]) -> Option<usize> {
    loop {
        if let Some(at) = buffer.windows(what.len()).position(|window| window == what) {
            return Some(at);
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>, bytes: usize) -> Option<()> {
    while buffer.len() < bytes {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    Some(())
}

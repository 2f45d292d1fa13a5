//! HTTP/2 by the `h2` crate, frame by frame where a test wants it: a client of one connection, and a backend.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    server::SendResponse,
};
use http::{HeaderMap, Request, Response, request::Parts};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{Reply, Seen};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How much room small frames may take that have not been read.
const DATA_FRAME_BUDGET: usize = 16 << 20;

/// One connection.
pub struct Http2Client {
    sender: SendRequest<Bytes>,
    host: String,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// An answer.
#[derive(Debug)]
pub struct Http2Answer {
    /// The status code.
    pub status: u16,
    /// All header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// What came behind the body.
    pub trailers: Option<HeaderMap>,
}

/// A request whose body is still being sent.
pub struct Http2Call {
    /// For the body.
    pub body: SendStream<Bytes>,
    /// The answer to come.
    pub answer: ResponseFuture,
}

impl Http2Call {
    /// The whole answer.
    pub async fn answered(self) -> Result<Http2Answer, String> {
        read_answer(self.answer).await
    }
}

impl Http2Answer {
    /// The first value of a header; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        text(&self.headers, name)
    }

    /// The first value of a trailer; empty if absent.
    pub fn trailer(&self, name: &str) -> &str {
        self.trailers.as_ref().map_or("", |trailers| text(trailers, name))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn text<'a>(fields: &'a HeaderMap, name: &str) -> &'a str {
    fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl Http2Client {
    /// Connects with prior knowledge.
    pub async fn connect(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).await.unwrap(), "orders.example.com").await
    }

    /// Over any connection, for this host.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, host: &str) -> Self {
        // A test may be slow to read what an owner sends byte by byte.
        let (sender, connection) = h2::client::Builder::new().data_frame_budget(DATA_FRAME_BUDGET).handshake(stream).await.unwrap();
        Self { sender, host: host.to_owned(), connection: tokio::spawn(connection) }
    }

    /// A GET.
    pub async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Http2Answer {
        self.request("GET", path, fields, b"").await.unwrap()
    }

    /// A request with a whole body; an error says why there was no whole answer.
    pub async fn request(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Result<Http2Answer, String> {
        let mut call = self.open(method, path, fields, body.is_empty()).await?;
        if !body.is_empty() {
            // Who is answered early is told by the answer.
            let _ = send(&mut call.body, body, true).await;
        }
        read_answer(call.answer).await
    }

    /// Begins a request; `ends`: it has no body.
    pub async fn open(&self, method: &str, path: &str, fields: &[(&str, &str)], ends: bool) -> Result<Http2Call, String> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.host));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.open_request(request.body(()).map_err(|error| error.to_string())?, ends).await
    }

    /// Begins this request.
    pub async fn open_request(&self, request: Request<()>, ends: bool) -> Result<Http2Call, String> {
        let mut sender = self.sender.clone().ready().await.map_err(|error| error.to_string())?;
        let (answer, body) = sender.send_request(request, ends).map_err(|error| error.to_string())?;
        Ok(Http2Call { body, answer })
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }

    /// How the connection ended; `Ok` if as agreed.
    pub async fn ended(mut self) -> Result<(), String> {
        let ended = tokio::time::timeout(LIMIT, &mut self.connection).await;
        ended.map_err(|_| format!("it goes on after {LIMIT:?}"))?.unwrap().map_err(|error| error.to_string())
    }
}

impl Drop for Http2Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Sends a body, or a part of it.
pub async fn send(body: &mut SendStream<Bytes>, bytes: &[u8], end: bool) -> Result<(), String> {
    let mut left = Bytes::copy_from_slice(bytes);
    while !left.is_empty() {
        body.reserve_capacity(left.len());
        let room = std::future::poll_fn(|context| body.poll_capacity(context)).await.ok_or("the stream is closed")?;
        let part = left.split_to(room.map_err(|error| error.to_string())?.min(left.len()));
        let is_last = end && left.is_empty();
        body.send_data(part, is_last).map_err(|error| error.to_string())?;
    }
    if bytes.is_empty() && end {
        body.send_data(Bytes::new(), true).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Reads a whole answer.
pub async fn read_answer(answer: ResponseFuture) -> Result<Http2Answer, String> {
    let read = async {
        let (head, mut body) = answer.await.map_err(|error| error.to_string())?.into_parts();
        let (body, trailers) = read_body(&mut body).await?;
        Ok(Http2Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
    };
    tokio::time::timeout(LIMIT, read).await.map_err(|_| format!("no answer within {LIMIT:?}"))?
}

/// Reads an answer as far as it comes: its head, its body, and whether that is whole; an error if it has no head.
pub async fn read_answer_so_far(answer: ResponseFuture) -> Result<(http::response::Parts, Vec<u8>, bool), String> {
    let read = async {
        let (head, mut body) = answer.await.map_err(|error| error.to_string())?.into_parts();
        let mut so_far = Vec::new();
        while let Some(part) = body.data().await {
            let Ok(part) = part else { return Ok((head, so_far, false)) };
            let _ = body.flow_control().release_capacity(part.len());
            so_far.extend_from_slice(&part);
        }
        Ok((head, so_far, true))
    };
    tokio::time::timeout(LIMIT, read).await.map_err(|_| format!("no whole answer within {LIMIT:?}"))?
}

/// Reads a body to its end.
pub async fn read_body(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), String> {
    let mut whole = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(|error| error.to_string())?;
        let _ = body.flow_control().release_capacity(part.len());
        whole.extend_from_slice(&part);
    }
    Ok((whole, body.trailers().await.map_err(|error| error.to_string())?))
}

/// A request as a scripted backend has it.
pub struct Http2Request {
    /// Its head.
    pub head: Parts,
    /// Its body.
    pub body: RecvStream,
    /// For the answer.
    pub respond: SendResponse<Bytes>,
    /// Which connection it came by, from 0.
    pub connection: usize,
}

impl Http2Request {
    /// Its head, as tests of HTTP/1.1 have it.
    pub fn seen(&self) -> Seen {
        let headers =
            self.head.headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        let target = self.head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let authority = self.head.uri.authority().map(|authority| (":authority".to_owned(), authority.to_string()));
        Seen { method: self.head.method.to_string(), target, headers: headers.chain(authority).collect(), body: Vec::new() }
    }

    /// Answers with a head, `ends` if there is nothing behind it.
    pub fn answer(&mut self, status: u16, fields: &[(&str, &str)], ends: bool) -> Result<SendStream<Bytes>, String> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        self.respond.send_response(response.body(()).unwrap(), ends).map_err(|error| error.to_string())
    }
}

/// A running backend with prior knowledge; gone when dropped.
pub struct Http2Backend {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Http2Backend {
    /// Does with each whole request what the handler says.
    pub async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (all, handler) = (Arc::clone(&seen), Arc::new(handler));
        let mut backend = Self::scripted(move |mut request| {
            let (all, handler) = (Arc::clone(&all), Arc::clone(&handler));
            async move {
                let mut seen = request.seen();
                let Ok((body, _)) = read_body(&mut request.body).await else { return };
                seen.body = body;
                let reply = handler(&seen);
                all.lock().unwrap().push(seen);
                let Reply::Say(status, fields, body) = reply else { return };
                let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
                if let Ok(mut writer) = request.answer(status, &fields, body.is_empty())
                    && !body.is_empty()
                {
                    let _ = send(&mut writer, &body, true).await;
                }
            }
        })
        .await;
        backend.seen = seen;
        backend
    }

    /// Does with each request what the script does.
    pub async fn scripted<F: Future<Output = ()> + Send + 'static>(script: impl Fn(Http2Request) -> F + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let (counted, script) = (Arc::clone(&connections), Arc::new(script));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = counted.fetch_add(1, Ordering::Relaxed);
                let script = Arc::clone(&script);
                tokio::spawn(async move {
                    let Ok(mut h2) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = h2.accept().await {
                        let (head, body) = request.into_parts();
                        tokio::spawn(script(Http2Request { head, body, respond, connection }));
                    }
                });
            }
        });
        Self { address, seen: Arc::default(), connections, task }
    }

    /// All whole requests so far, of one that was started with a handler.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// An upstream's record with this backend as its only endpoint.
    pub fn upstream(&self) -> serde_json::Value {
        serde_json::json!({ "endpoints": [{ "address": self.address.to_string() }], "protocol": "h2" })
    }
}

impl Drop for Http2Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

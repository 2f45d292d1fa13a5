//! Both ends of a connection byte for byte: a peer that sends what it is told and keeps all it got, and a backend made of such peers.
//!
//! [`crate::Backend`] and [`crate::Client`] speak HTTP properly; what is here does not have to. Every wait has a limit.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// How long a peer waits for bytes or for the other end to close.
const LIMIT: Duration = Duration::from_secs(20);

/// What came over one connection.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Every byte, in order.
    pub bytes: Vec<u8>,
    /// The other end has closed.
    pub ended: bool,
    /// It closed with a reset.
    pub reset: bool,
}

impl Received {
    /// The bytes as text, for comparing and for showing.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// One request as its bytes were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawRequest {
    /// Request line and fields with their line ends, without the empty line.
    pub head: String,
    /// The body, unchunked.
    pub body: Vec<u8>,
}

impl RawRequest {
    /// The head without the fields that the proxy adds (INTERFACE.md, "Headers").
    pub fn own_head(&self) -> String {
        const ADDED: [&str; 7] =
            ["via:", "x-forwarded-for:", "x-forwarded-proto:", "x-forwarded-host:", "x-request-id:", "cdn-loop:", "route-stamp:"];
        let is_added = |line: &&str| ADDED.iter().any(|name| line.to_ascii_lowercase().starts_with(name));
        self.head.split_inclusive("\r\n").filter(|line| !is_added(line)).collect()
    }

    /// All values of a field, in order.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

/// One end of a connection.
pub struct Peer {
    stream: TcpStream,
    received: Arc<Mutex<Received>>,
    /// How much of what came was taken by [`Peer::until`] and [`Peer::request`].
    taken: usize,
}

impl Peer {
    /// Connects as a client.
    pub async fn connect(to: SocketAddr) -> Self {
        Self::new(TcpStream::connect(to).await.unwrap(), Arc::default())
    }

    /// Connects as a client with a receive buffer of about so many bytes, so that its not reading is soon felt.
    pub async fn connect_narrow(to: SocketAddr, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        Self::new(socket.connect(to).await.unwrap(), Arc::default())
    }

    fn new(stream: TcpStream, received: Arc<Mutex<Received>>) -> Self {
        let _ = stream.set_nodelay(true);
        Self { stream, received, taken: 0 }
    }

    /// Where this end is.
    pub fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Sends exact bytes; false if the other end takes no more.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Sends exact bytes one at a time, each in a write of its own; false if the other end takes no more.
    pub async fn send_bytewise(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if !self.send([*byte]).await {
                return false;
            }
            tokio::task::yield_now().await;
        }
        true
    }

    /// Sends while it reads, until the other end closes; all that was not taken, and whether everything was sent.
    pub async fn send_and_read(&mut self, bytes: &[u8]) -> (String, bool) {
        let mut left = bytes;
        let mut space = vec![0; 64 * 1024];
        let (mut reading, mut writing) = self.stream.split();
        let exchange = async {
            loop {
                tokio::select! {
                    read = reading.read(&mut space) => {
                        if !keep(&self.received, read, &space) {
                            return;
                        }
                    }
                    // Whoever no longer takes it may still have answered.
                    wrote = writing.write(left), if !left.is_empty() => match wrote {
                        Ok(wrote) => left = &left[wrote..],
                        Err(_) => left = &[],
                    },
                }
            }
        };
        let _ = tokio::time::timeout(LIMIT, exchange).await;
        (self.rest().await, left.is_empty())
    }

    /// Sends no more, and still reads.
    pub async fn finish_sending(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Closes with a reset.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Takes everything up to and including `what`; `None` if the other end closes before.
    pub async fn until(&mut self, what: impl AsRef<[u8]>) -> Option<String> {
        let what = what.as_ref();
        loop {
            let found = {
                let received = self.received.lock().unwrap();
                received.bytes[self.taken..].windows(what.len()).position(|window| window == what)
            };
            if let Some(at) = found {
                return Some(String::from_utf8_lossy(&self.take(at + what.len())).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Takes one whole request; `None` if the other end closes before its end, or its framing is broken.
    pub async fn request(&mut self) -> Option<RawRequest> {
        let mut head = self.until("\r\n\r\n").await?;
        head.truncate(head.len() - 2);
        let mut request = RawRequest { head, body: Vec::new() };
        if request.values("transfer-encoding").is_empty() {
            let length = request.values("content-length").first().map_or(Some(0), |length| length.parse().ok())?;
            request.body = self.exactly(length).await?;
        } else {
            request.body = self.chunks().await?;
        }
        Some(request)
    }

    /// Takes a whole chunked body; `None` if the other end closes before its end, or its framing is broken.
    pub async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until("\r\n").await?;
            let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
            body.extend(self.exactly(size).await?);
            if self.exactly(2).await? != b"\r\n" {
                return None;
            }
            if size == 0 {
                return Some(body);
            }
        }
    }

    /// Reads until the other end closes; all that was not taken.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        assert!(self.received.lock().unwrap().ended, "the other end did not close; so far: {:?}", self.received().text());
        let left = self.arrived() - self.taken;
        String::from_utf8_lossy(&self.take(left)).into_owned()
    }

    /// What has come so far, taken or not.
    pub fn received(&self) -> Received {
        self.received.lock().unwrap().clone()
    }

    /// Takes the next so many bytes; `None` if the other end closes before.
    pub async fn exactly(&mut self, bytes: usize) -> Option<Vec<u8>> {
        while self.arrived() - self.taken < bytes {
            if !self.more().await {
                return None;
            }
        }
        Some(self.take(bytes))
    }

    /// Takes what has come, at least a byte; `None` if the other end closes before.
    pub async fn some(&mut self) -> Option<Vec<u8>> {
        while self.arrived() == self.taken {
            if !self.more().await {
                return None;
            }
        }
        Some(self.take(self.arrived() - self.taken))
    }

    fn arrived(&self) -> usize {
        self.received.lock().unwrap().bytes.len()
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        let from = self.taken;
        self.taken += bytes;
        self.received.lock().unwrap().bytes[from..self.taken].to_vec()
    }

    /// Reads once; false at the end or when the limit has passed.
    async fn more(&mut self) -> bool {
        let mut space = vec![0; 64 * 1024];
        let Ok(read) = tokio::time::timeout(LIMIT, self.stream.read(&mut space)).await else { return false };
        keep(&self.received, read, &space)
    }
}

/// Keeps what one read gave; false at the end.
fn keep(received: &Mutex<Received>, read: std::io::Result<usize>, space: &[u8]) -> bool {
    let mut received = received.lock().unwrap();
    match read {
        Ok(read) if read > 0 => {
            received.bytes.extend_from_slice(&space[..read]);
            return true;
        }
        Ok(_) => received.ended = true,
        Err(_) => (received.ended, received.reset) = (true, true),
    }
    false
}

/// A backend whose every connection is a [`Peer`] in the hands of a script; gone when dropped.
pub struct RawBackend {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<Arc<Mutex<Received>>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl RawBackend {
    /// Starts one; the script gets each connection with its number, from 0, and closes it by ending.
    pub async fn start<F: Future<Output = ()> + Send + 'static>(script: impl Fn(Peer, usize) -> F + Send + 'static) -> Self {
        Self::start_at("127.0.0.1:0", script).await
    }

    /// The same at an address, which may stand for many: of `0.0.0.0` each [`Peer::address`] says which one the proxy has taken.
    pub async fn start_at<F: Future<Output = ()> + Send + 'static>(at: &str, script: impl Fn(Peer, usize) -> F + Send + 'static) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<Mutex<Vec<Arc<Mutex<Received>>>>>::default();
        let all = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let received = Arc::<Mutex<Received>>::default();
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(Arc::clone(&received));
                    all.len() - 1
                };
                tokio::spawn(script(Peer::new(stream, received), number));
            }
        });
        Self { address, connections, task }
    }

    /// What came, connection by connection in the order in which they were made.
    pub fn received(&self) -> Vec<Received> {
        self.connections.lock().unwrap().iter().map(|received| received.lock().unwrap().clone()).collect()
    }

    /// How many of its connections the proxy has closed, as far as their scripts have read.
    pub fn ended(&self) -> usize {
        self.connections.lock().unwrap().iter().filter(|received| received.lock().unwrap().ended).count()
    }

    /// How often a text came, over all connections.
    pub fn count(&self, what: &str) -> usize {
        self.received().iter().map(|received| received.text().matches(what).count()).sum()
    }

    /// An upstream's record with this backend as its only endpoint.
    pub fn upstream(&self) -> serde_json::Value {
        serde_json::json!({ "endpoints": [{ "address": self.address.to_string() }] })
    }
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

//! Clients that ask for named keys, one request at a time on each connection.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use waypost_bench::processes::{Told, say};

/// One connection to the proxy.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came of many requests.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// How many had each status.
    pub(crate) statuses: BTreeMap<u16, usize>,
    /// From the first to the last answer.
    pub(crate) took: Duration,
}

impl Connection {
    pub(crate) async fn open(to: SocketAddr) -> Told<Self> {
        let stream = TcpStream::connect(to).await.map_err(say)?;
        stream.set_nodelay(true).map_err(say)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Asks for a key, and reads the whole answer; its status.
    pub(crate) async fn ask(&mut self, key: &str) -> Told<u16> {
        let request = format!("GET / HTTP/1.1\r\nHost: bench.example.com\r\nx-tenant: {key}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await.map_err(say)?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await.map_err(say)? == 0 {
                return Err(format!("the connection was closed when {key} was asked for"));
            }
            if let Some(status) = whole(&self.buffer) {
                return Ok(status);
            }
        }
    }
}

/// The status of an answer that has come whole.
fn whole(buffer: &[u8]) -> Option<u16> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = answer.parse(buffer).ok()? else { return None };
    let length = answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length: usize = std::str::from_utf8(length?.value).ok()?.parse().ok()?;
    answer.code.filter(|_| buffer.len() >= head + length)
}

/// Asks for `<scene>-0` to `<scene>-<keys>`, each once, over so many connections.
pub(crate) async fn all_at_once(to: SocketAddr, connections: usize, keys: usize, scene: &'static str) -> Told<Answers> {
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        opened.push(Connection::open(to).await?);
    }
    let since = Instant::now();
    let mut clients = JoinSet::new();
    for (first, mut connection) in opened.into_iter().enumerate() {
        clients.spawn(async move {
            let mut statuses = Vec::new();
            for n in (first..keys).step_by(connections) {
                statuses.push(connection.ask(&format!("{scene}-{n}")).await?);
            }
            Ok::<_, String>(statuses)
        });
    }
    let mut answers = Answers::default();
    for statuses in clients.join_all().await {
        for status in statuses? {
            *answers.statuses.entry(status).or_default() += 1;
        }
    }
    answers.took = since.elapsed();
    Ok(answers)
}

//! The stage of most tests here: a proxy with one service that sends everything to one server; and asking both the same.

use std::net::SocketAddr;

use serde_json::{Value, json};
use waypost_tests::{Answer, Client, RecordFile, Waypost};

/// What belongs to one connection, or is the proxy's own, and may differ from the server's answer.
const OF_THE_CONNECTION: [&str; 7] = ["connection", "keep-alive", "transfer-encoding", "content-length", "date", "via", "x-request-id"];

/// A proxy in front of one server.
pub(crate) struct Front {
    pub(crate) waypost: Waypost,
    pub(crate) server: SocketAddr,
    _records: RecordFile,
}

impl Front {
    /// Everything goes to this server, byte for byte, also dot segments.
    pub(crate) async fn of(server: SocketAddr) -> Self {
        Self::with(server, json!({})).await
    }

    /// The same with a policy.
    pub(crate) async fn with(server: SocketAddr, policy: Value) -> Self {
        Self::started(server, policy, &[]).await
    }

    /// The same, started with more arguments.
    pub(crate) async fn started(server: SocketAddr, policy: Value, extra: &[&str]) -> Self {
        let records = RecordFile::of(&json!({
            "services/all": { "match": [{}], "default_owner": "server", "dot_segments": true },
            "upstreams/server": { "endpoints": [{ "address": server.to_string() }] },
            "policies/default": policy,
        }));
        Self { waypost: Waypost::start(&records.gold(), extra).await, server, _records: records }
    }

    /// `http://…` of the proxy, and of the server itself.
    pub(crate) fn urls(&self) -> [String; 2] {
        [self.waypost.listen, self.server].map(|address| format!("http://{address}"))
    }

    /// Two kept-alive connections: to the proxy, and to the server itself.
    pub(crate) async fn pair(&self) -> Pair {
        let (proxy, server) = (self.waypost.listen, self.server);
        Pair { proxied: Client::connect(proxy).await, direct: Client::connect(server).await, proxy, server }
    }
}

/// The same questions asked of the proxy and of the server behind it.
pub(crate) struct Pair {
    pub(crate) proxied: Client,
    pub(crate) direct: Client,
    proxy: SocketAddr,
    server: SocketAddr,
}

impl Pair {
    /// Asks both, holds the proxied answer to be the server's own, and gives it.
    pub(crate) async fn same(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        // A server may close behind any answer, announced or not; the proxy has to bear that for its clients.
        let direct = match self.direct.try_request(method, path, headers, b"").await {
            Ok(answer) => answer,
            Err(_) => {
                self.direct = Client::connect(self.server).await;
                self.direct.request(method, path, headers, b"").await
            }
        };
        let proxied = self.proxied.request(method, path, headers, b"").await;
        if proxied.header("connection") == "close" {
            self.proxied = Client::connect(self.proxy).await;
        }
        let what = format!("{method} {path} {headers:?}");
        assert_eq!(proxied.status, direct.status, "{what}");
        assert_eq!(own_fields(&proxied), own_fields(&direct), "{what}");
        let (wanted, length) = (comparable(&direct), direct.body.len());
        assert!(comparable(&proxied) == wanted, "{what}: {} bytes of body instead of these {length}", proxied.body.len());
        if method == "HEAD" {
            assert_eq!(proxied.header("content-length"), direct.header("content-length"), "{what}");
        }
        proxied
    }
}

/// The header fields that are the server's own, in any order.
fn own_fields(answer: &Answer) -> Vec<(String, String)> {
    let fields = answer.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let mut own: Vec<_> = fields.filter(|(name, _)| !OF_THE_CONNECTION.contains(&&**name)).collect();
    for (name, value) in &mut own {
        if name == "content-type" && value.starts_with("multipart/byteranges") {
            // Drawn anew for each answer.
            "multipart/byteranges".clone_into(value);
        }
    }
    own.sort();
    own
}

/// The body, without the boundary that is drawn anew for each answer.
fn comparable(answer: &Answer) -> Vec<u8> {
    match answer.header("content-type").split_once("boundary=") {
        Some((_, boundary)) => String::from_utf8_lossy(&answer.body).replace(boundary, "BOUNDARY").into_bytes(),
        None => answer.body.clone(),
    }
}

/// Bytes that compress a little and don't repeat at any power of two.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| ((n % 251) ^ (n / 251 % 127)) as u8).collect()
}

//! One HTTP/1.1 request over a connection of its own: for `status` and for the demo's clients.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, header::HeaderMap};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a request may take in all.
const LIMIT: Duration = Duration::from_secs(5);

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Fetched {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text; empty if absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Sends one request and reads its answer.
///
/// # Errors
/// A few words, if there was no whole answer in time.
pub(crate) async fn fetch(address: &str, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Fetched, String> {
    tokio::time::timeout(LIMIT, fetch_unlimited(address, method, path, headers, body))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
}

async fn fetch_unlimited(address: &str, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Fetched, String> {
    let say = |error: hyper::Error| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| not_connected(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(say)?;
    let mut request = Request::builder().method(method).uri(path).header("host", address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).map_err(|error| error.to_string())?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(say)?.into_parts();
        let body = body.collect().await.map_err(say)?.to_bytes();
        Ok(Fetched { status: head.status, headers: head.headers, body })
    };
    tokio::select! {
        answer = answer => answer,
        Err(error) = connection => Err(error.to_string()),
    }
}

fn not_connected(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "the connection was refused".to_owned(),
        std::io::ErrorKind::InvalidInput => "it is no host:port, as in 127.0.0.1:9901".to_owned(),
        _ => error.to_string(),
    }
}

//! One HTTP/1.1 request over a connection of its own: for commands that ask a proxy, and for the demo's clients.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, header::HeaderMap};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a request may take in all.
const LIMIT: Duration = Duration::from_secs(5);

/// A line of more bytes than this comes from no proxy.
const MAX_LINE_BYTES: usize = 4 << 20;

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

/// Reads a stream of lines to its end; each is given without its line break. `LIMIT` is for each part of it.
///
/// # Errors
/// A few words, if the stream did not come or end, or a line was refused.
pub(crate) async fn lines(
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    mut each: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let say = |error: hyper::Error| error.to_string();
    let slow = |_| format!("nothing more within {LIMIT:?}");
    let stream = tokio::time::timeout(LIMIT, TcpStream::connect(address)).await.map_err(slow)?.map_err(|error| not_connected(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(say)?;
    tokio::spawn(connection);
    let request = headers.iter().fold(Request::get(path).header("host", address), |request, (name, value)| request.header(*name, *value));
    let request = request.body(Full::<Bytes>::default()).map_err(|error| error.to_string())?;
    let answer = tokio::time::timeout(LIMIT, sender.send_request(request)).await.map_err(slow)?.map_err(say)?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answers {} for {path}", answer.status()));
    }
    let mut body = answer.into_body();
    let mut rest = Vec::new();
    while let Some(frame) = tokio::time::timeout(LIMIT, body.frame()).await.map_err(slow)? {
        rest.extend_from_slice(frame.map_err(say)?.data_ref().map_or(&b""[..], |data| data));
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole == 0 && rest.len() > MAX_LINE_BYTES {
            return Err("what it says is not lines".to_owned());
        }
        rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).try_for_each(&mut each)?;
        rest.drain(..whole);
    }
    Ok(())
}

fn not_connected(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "the connection was refused".to_owned(),
        std::io::ErrorKind::InvalidInput => "it is no host:port, as in 127.0.0.1:9901".to_owned(),
        _ => error.to_string(),
    }
}

//! The admin endpoints: plain HTTP for the person and the machines that run the proxy, loopback unless configured ([`door`] says for whom).
//!
//! Here are the server, the choice of an endpoint and the ways to answer; an endpoint that has more to say is a file of its own.
//! Everything is read from what requests themselves use: the table in force, the hints, the watcher's status. Nothing in here
//! can change anything.

mod door;
mod explain;
mod records;
mod requests;
mod route;
mod status;
mod watch;

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Incoming, header::HeaderValue, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde::Serialize;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch::Receiver},
};
use waypost_policy::Code;

use crate::{exposition, state::Shared, transport::problem_json};

/// An answer whose body may be whole or a stream.
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(crate) use door::{Door, Tokens, check_address};
pub(crate) use records::MAX_READERS;
pub(crate) use watch::MAX_WATCHERS;

/// Connections at once.
const MAX_CONNECTIONS: usize = 256;

/// Serves until the process ends, or another one serves on the same socket; then connections end as soon as they can.
pub(crate) async fn serve_admin(shared: Arc<Shared>, listener: TcpListener, mut handed_over: Receiver<bool>) {
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = handed_over.wait_for(|handed_over| *handed_over) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                // One too many is closed: whoever asks has others open that he could use.
                if let Ok(seat) = Arc::clone(&seats).try_acquire_owned() {
                    let serving = serve(Arc::clone(&shared), stream, handed_over.clone());
                    tokio::spawn(async move {
                        serving.await;
                        drop(seat);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, mut handed_over: Receiver<bool>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    let mut connection = pin!(http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service));
    let leave = async {
        // An error means that the process ends, and this with it.
        if handed_over.wait_for(|handed_over| *handed_over).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let mut served = tokio::select! {
        served = &mut connection => Some(served),
        () = leave => None,
    };
    if served.is_none() {
        connection.as_mut().graceful_shutdown();
        served = tokio::time::timeout(LEAVE_LIMIT, connection).await.ok();
    }
    if let Some(Err(error)) = served {
        tracing::debug!(%error, "an admin connection ended early");
    }
}

/// So long a connection may go on when another process has taken over; streams, as of changes, are then cut, and begun anew there.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// When the loop that applies changes has not come round for so long, it is said to be stuck. The longest thing it does, comparing a list with a
/// table of a million routes, takes a second or two.
const STALLED: Duration = Duration::from_secs(10);
/// What is escaped in a routing key that is part of a path: all but the unreserved (RFC 3986, section 2.3).
const KEY_IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is answered under other paths.
const ENDPOINTS: &str = "\
nothing here; try
GET  /healthz                  200 while the process runs
GET  /readyz                   200 once routes are in force
GET  /metrics                  for Prometheus
GET  /status                   what this proxy knows, and how fresh that is
GET  /watch                    each change of the table, a line each, as it comes into force
GET  /records                  every key of the store that this proxy knows, a line each
GET  /routes/<service>/<key>   the route in force for a routing key
GET  /requests/<request-id>    what became of a recent request, hop by hop
POST /explain                  what would become of a request, and why
";

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    // Balancers have no token, and learn nothing but whether to come.
    let is_open = matches!(request.uri().path(), "/healthz" | "/readyz");
    if !is_open && !shared.admin.opens_to(request.headers()) {
        let mut answer =
            problem_saying(StatusCode::UNAUTHORIZED, "unauthorized", "a token has to be shown here: Authorization: Bearer <token>");
        answer.headers_mut().insert(hyper::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return answer;
    }
    if request.uri().path() == "/explain" {
        return match *request.method() {
            Method::POST => explain::explain(shared, request.into_body()).await,
            _ => not_allowed("POST", "POST the request that is to be explained, as JSON\n"),
        };
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return not_allowed("GET, HEAD", "only GET is answered here\n");
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match shared.readiness() {
            // Ready also while it is stuck: what it knows is served. Who restarts on that looks at the detail.
            Ok(()) if shared.view.stalled() > STALLED => text(StatusCode::OK, "ready, but changes are no longer applied\n"),
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(code) => problem(code),
        },
        "/metrics" => metrics(shared, request.headers()),
        "/records" => records::records(shared, request.method() == Method::HEAD).await,
        "/watch" => watch::watch(shared, request.uri().query()),
        "/status" => as_json(StatusCode::OK, &status::status(shared)),
        path => {
            let route = path.strip_prefix("/routes/").and_then(|rest| rest.split_once('/'));
            match (route, path.strip_prefix("/requests/")) {
                (Some((service, key)), _) => route::route(shared, service, key),
                (None, Some(id)) if !id.is_empty() => requests::request(shared, id),
                _ => text(StatusCode::NOT_FOUND, ENDPOINTS),
            }
        }
    }
}

/// The classic text format; OpenMetrics for who asks for it.
fn metrics(shared: &Shared, headers: &HeaderMap) -> Answer {
    let accepts = headers.get_all(hyper::header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let openmetrics = shared.metrics.render(shared);
    if accepts.into_iter().any(|accepted| accepted.contains("application/openmetrics-text")) {
        return typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", openmetrics);
    }
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", exposition::classic(&openmetrics))
}

/// An answer of the data path's own kind, for an endpoint that says of a request or a key what a request would be told.
fn problem(code: Code) -> Answer {
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = typed(status, "application/problem+json", problem_json(code, ""));
    answer.headers_mut().insert("waypost-reason", HeaderValue::from_static(code.as_str()));
    if code.status() == 503 {
        answer.headers_mut().insert(hyper::header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

/// A problem in words of its own, for what only the admin endpoints can be asked.
fn problem_saying(status: StatusCode, code: &str, detail: &str) -> Answer {
    let problem = json!({
        "type": format!("urn:waypost:problem:{code}"),
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
    });
    typed(status, "application/problem+json", serde_json::to_vec_pretty(&problem).unwrap_or_default())
}

/// A routing key in JSON: as it is, or with `\xNN` for what is not UTF-8.
fn shown_key(key: &[u8]) -> String {
    std::str::from_utf8(key).map_or_else(|_| waypost_conf::escaped(key), str::to_owned)
}

/// A routing key without loss, as `/routes/<service>/<key>` takes it.
fn percent_encoded(key: &[u8]) -> String {
    percent_encoding::percent_encode(key, KEY_IN_PATH).to_string()
}

fn not_allowed(allowed: &'static str, why: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, why);
    answer.headers_mut().insert(hyper::header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn as_json(status: StatusCode, value: &impl Serialize) -> Answer {
    typed(status, "application/json", serde_json::to_vec_pretty(value).unwrap_or_default())
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    typed(status, "text/plain; charset=utf-8", body)
}

/// A whole body of a media type.
fn typed(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

/// Binds the admin address.
///
/// # Errors
/// If it is in use or may not be bound.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

//! The admin endpoints: plain HTTP for the person and the machines that run the proxy, loopback unless configured.
//!
//! Everything is read from what requests themselves use: the table in force, the hints, the watcher's status. Nothing in here
//! can change anything.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header::HeaderValue, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use waypost_policy::{
    Code, World,
    exchange::look_up,
    table::{Entry, RequestKey, Source, State, Table},
};

use crate::{state::Shared, transport::problem_json};

type Answer = Response<Full<Bytes>>;

/// Serves until the process ends.
pub(crate) async fn serve_admin(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&shared, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            let served = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                tracing::debug!(%error, "an admin connection ended early");
            }
        });
    }
}

fn answer(shared: &Shared, request: &Request<Incoming>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        answer.headers_mut().insert(hyper::header::ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match shared.readiness() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(code) => problem(code),
        },
        "/metrics" => {
            let mut answer = Response::new(Full::from(shared.metrics.render(shared)));
            let format = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            answer.headers_mut().insert(hyper::header::CONTENT_TYPE, format);
            answer
        }
        "/status" => as_json(StatusCode::OK, &status(shared)),
        path => match path.strip_prefix("/routes/").and_then(|rest| rest.split_once('/')) {
            Some((service, key)) => route(shared, service, key),
            None => text(StatusCode::NOT_FOUND, "nothing here; try /healthz /readyz /metrics /status /routes/<service>/<key>\n"),
        },
    }
}

fn route(shared: &Shared, service: &str, key: &str) -> Answer {
    let Some(table) = shared.view.load_full() else { return problem(Code::NotReady) };
    let decode = |part: &str| percent_encoding::percent_decode_str(part).collect::<Vec<u8>>();
    let key: Arc<[u8]> = decode(key).into();
    let service = String::from_utf8_lossy(&decode(service)).into_owned();
    let Some(service) = table.service_named(&service) else { return problem(Code::NoService) };
    let request_key = RequestKey { service: service.id, key: Arc::clone(&key) };
    let world = World { table: &table, hints: &shared.hints, now: shared.clock.now(), rng: &mut fastrand::Rng::new() };
    let entry = table.entry(&request_key);
    let record = match entry {
        Entry::Route(..) => Some(String::from_utf8_lossy(&key).into_owned()),
        Entry::Absent(_) => None,
    };
    let (state, target) = match entry {
        Entry::Route(route, _) => (route.state, if let State::Moving(target) = route.state { table.upstream_name(target) } else { None }),
        Entry::Absent(_) => (State::Serving, None),
    };
    let found = match (look_up(&request_key, &world), entry) {
        (Ok(found), _) => Some((found.owner, found.epoch, found.source)),
        // Frozen and quarantined routes can't be used, but they can be shown.
        (Err(_), Entry::Route(route, source)) => Some((route.owner, route.epoch, source)),
        (Err(code), Entry::Absent(_)) => return problem(code),
    };
    let Some((owner, epoch, source)) = found else { return problem(Code::NoRoute) };
    let shown = json!({
        "service": &*service.name,
        "key": String::from_utf8_lossy(&key),
        "record": record,
        "owner": table.upstream_name(owner).map(|name| &**name),
        "epoch": epoch,
        "state": if source == Source::Hint { State::Serving.as_str() } else { state.as_str() },
        "target": target.map(|name| &**name),
        "revision": table.revision(),
        "source": source.as_str(),
    });
    as_json(StatusCode::OK, &shown)
}

fn status(shared: &Shared) -> Value {
    // The table first: what is said of its records was told before it came into force.
    let table = shared.view.load_full();
    let gold = shared.view.status();
    let table = table.as_deref();
    let warnings = gold.warnings.iter().cloned().chain(shared.bootstrap_warnings.iter().cloned());
    let warnings =
        warnings.chain(table.into_iter().flat_map(Table::warnings).map(|warning| format!("{}: {}", warning.key, warning.message)));
    let quarantined = gold.quarantined.iter().map(|held| json!({ "key": held.key, "revision": held.revision, "reason": held.reason }));
    json!({
        "proxy": shared.id,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": u64::try_from(shared.clock.origin().elapsed().as_millis()).unwrap_or(u64::MAX),
        "gold": [{
            "shard": "default",
            "cluster_id": gold.cluster_id,
            "table": table.map(|table| table.id().as_str()),
            "revision": table.map_or(0, Table::revision),
            "connected": gold.connected,
            "endpoint": gold.endpoint,
            "source": table.map_or(Source::Watch, Table::source).as_str(),
            "age_ms": gold.age_ms,
            "resyncs": gold.resyncs.values().sum::<u64>(),
            "resyncs_by_reason": gold.resyncs,
            "last_error": gold.last_error,
        }],
        "table": {
            "services": table.map_or(0, |table| table.services().len()),
            "routes": table.map_or(0, Table::route_count),
            "upstreams": table.map_or(0, |table| table.upstreams().count()),
            "endpoints": table.map_or(0, |table| table.upstreams().map(|upstream| upstream.endpoints.len()).sum()),
            "digest": format!("{:032x}", table.map_or(0, Table::digest)),
        },
        "hints": { "count": shared.hints.len(), "refuted": shared.hints.refuted() },
        "quarantined": quarantined.collect::<Vec<_>>(),
        "held_back": gold.held_back,
        "warnings": warnings.collect::<Vec<_>>(),
    })
}

fn problem(code: Code) -> Answer {
    let mut answer = Response::new(Full::from(problem_json(code, "")));
    *answer.status_mut() = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    answer.headers_mut().insert("waypost-reason", HeaderValue::from_static(code.as_str()));
    if code.status() == 503 {
        answer.headers_mut().insert(hyper::header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

fn as_json(status: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(Full::from(serde_json::to_vec_pretty(value).unwrap_or_default()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// Binds the admin address.
///
/// # Errors
/// If it is in use or may not be bound.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

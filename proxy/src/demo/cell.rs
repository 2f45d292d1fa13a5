//! A cell: a small key-value service that owns tenants, follows the gold copy for its ownership, and speaks the stale-route protocol.
//!
//! It decides on a request's head alone, before it reads a body, and answers `Route-Stale` only if it executed nothing
//! (STALE-ROUTES.md, "What a backend answers"). Data is shared by all cells, as on a shared disk, so that a moved tenant finds its values.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header::HeaderValue, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use waypost_policy::{
    owner::{self, Asked, Judgement},
    table::{Entry, RequestKey},
    wire::{STALE_HEADER, STAMP_HEADER, Stale, Stamp, UPDATE_HEADER, Update},
};
use waypost_watcher::{EtcdPlace, GoldPlace, Settings, View, Watcher};

/// The service that the demo's tenants belong to.
pub(super) const SERVICE: &str = "orders";
/// The header that names the tenant.
pub(super) const TENANT_HEADER: &str = "x-tenant";
const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// What all cells store, by tenant and path.
pub(super) type Data = Arc<Mutex<HashMap<(String, String), Bytes>>>;

/// A running cell.
pub(super) struct Cell {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) view: View,
    watcher: Watcher,
    task: tokio::task::JoinHandle<()>,
}

impl Cell {
    /// Starts a cell on a free port.
    pub(super) async fn start(name: &str, gold: EtcdPlace, data: Data) -> Result<Self, String> {
        let settings = Settings::new(GoldPlace::Etcd(gold), fastrand::u64(..), Instant::now());
        let watcher = waypost_watcher::start(settings)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?.to_string();
        let service = Arc::new(Serving { name: name.to_owned(), view: watcher.view.clone(), data });
        let task = tokio::spawn(accept(listener, service));
        Ok(Self { name: name.to_owned(), address, view: watcher.view.clone(), watcher, task })
    }

    /// Who owns a tenant in this cell's view.
    pub(super) fn owner_of(&self, tenant: &str) -> Option<String> {
        let table = self.view.load_full()?;
        let service = table.service_named(SERVICE)?;
        match table.entry(&RequestKey { service: service.id, key: tenant.as_bytes().into() }) {
            Entry::Route(route, _) => table.upstream_name(route.owner).map(ToString::to_string),
            Entry::Absent(_) => None,
        }
    }

    /// Stops it.
    pub(super) async fn stop(self) {
        self.task.abort();
        self.watcher.stop().await;
    }
}

struct Serving {
    name: String,
    view: View,
    data: Data,
}

async fn accept(listener: TcpListener, service: Arc<Serving>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            // A client that goes away is its own affair.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

impl Serving {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let Some(tenant) = request.headers().get(TENANT_HEADER).map(|tenant| tenant.as_bytes().to_vec()) else {
            return self.say(StatusCode::BAD_REQUEST, format!("the {TENANT_HEADER} header names the tenant\n"));
        };
        let judged = self.judge(&request, &tenant).await;
        let mut answer = match judged {
            Ok(_) => self.serve(request, &tenant).await,
            Err(_) => self.say(StatusCode::MISDIRECTED_REQUEST, "this cell does not own the tenant\n".to_owned()),
        };
        let (header, value) = match judged {
            Ok(None) => return answer,
            Ok(Some(update)) => (UPDATE_HEADER, update.to_value()),
            Err(stale) => {
                answer.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
                (STALE_HEADER, stale.to_value())
            }
        };
        if let Ok(value) = value.parse() {
            answer.headers_mut().insert(header, value);
        }
        answer
    }

    async fn serve(&self, request: Request<Incoming>, tenant: &[u8]) -> Response<Full<Bytes>> {
        let slot = (String::from_utf8_lossy(tenant).into_owned(), request.uri().path().to_owned());
        if request.method() == Method::PUT {
            let Ok(body) = Limited::new(request.into_body(), MAX_VALUE_BYTES).collect().await else {
                return self.say(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {MAX_VALUE_BYTES} bytes\n"));
            };
            let body = body.to_bytes();
            let answer = format!("{} stored {} bytes for {}\n", self.name, body.len(), slot.0);
            self.data.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, body);
            return self.say(StatusCode::OK, answer);
        }
        let value = self.data.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).cloned();
        let value = value.map_or_else(|| "nothing stored yet".to_owned(), |value| String::from_utf8_lossy(&value).into_owned());
        self.say(StatusCode::OK, format!("{} serves {}: {value}\n", self.name, slot.0))
    }

    /// Whether this cell may serve the tenant, by the rows of the protocol's table.
    async fn judge(&self, request: &Request<Incoming>, tenant: &[u8]) -> Result<Option<Update>, Stale> {
        let stamp = request.headers().get(STAMP_HEADER).and_then(|stamp| Stamp::parse(stamp.as_bytes()).ok());
        let wait = Duration::from_millis(stamp.as_ref().map_or(0, |stamp| stamp.wait_ms));
        let until = tokio::time::Instant::now() + wait;
        let mut changed = self.view.changed();
        loop {
            let may_wait = tokio::time::Instant::now() < until;
            let Some(table) = self.view.load_full() else { return Err(Stale::without_view(SERVICE, tenant)) };
            let is_safe = owner::is_safe(request.method().as_str());
            let asked = Asked { service: SERVICE, key: tenant, stamp: stamp.as_ref(), is_safe, may_wait };
            match owner::judge(&table, &self.name, &asked) {
                Judgement::Serve(serving) => return Ok(serving.update),
                Judgement::Refuse(stale) => return Err(stale),
                Judgement::Wait => drop(tokio::time::timeout_at(until, changed.changed()).await),
            }
        }
    }

    fn say(&self, status: StatusCode, text: String) -> Response<Full<Bytes>> {
        let mut answer = Response::new(Full::from(text));
        *answer.status_mut() = status;
        if let Ok(name) = self.name.parse() {
            answer.headers_mut().insert("x-cell", name);
        }
        answer
    }
}

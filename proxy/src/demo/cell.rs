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
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use waypost_policy::{
    Table,
    table::{Entry, RequestKey, State},
    wire::{STALE_HEADER, STAMP_HEADER, Stale, StaleState, Stamp},
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
        known(&table, tenant.as_bytes()).map(|known| known.owner)
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

/// What a view says of a tenant.
struct Known {
    owner: String,
    epoch: u64,
}

fn known(table: &Table, key: &[u8]) -> Option<Known> {
    let service = table.service_named(SERVICE)?;
    match table.entry(&RequestKey { service: service.id, key: key.into() }) {
        Entry::Route(route, _) if route.state == State::Serving => {
            Some(Known { owner: table.upstream_name(route.owner)?.to_string(), epoch: route.epoch })
        }
        _ => None,
    }
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
        if let Err(stale) = self.judge(&request, &tenant).await {
            let mut refusal = self.say(StatusCode::MISDIRECTED_REQUEST, "this cell does not own the tenant\n".to_owned());
            refusal.headers_mut().insert("cache-control", hyper::header::HeaderValue::from_static("no-store"));
            if let Ok(value) = stale.to_value().parse() {
                refusal.headers_mut().insert(STALE_HEADER, value);
            }
            return refusal;
        }
        let slot = (String::from_utf8_lossy(&tenant).into_owned(), request.uri().path().to_owned());
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
    async fn judge(&self, request: &Request<Incoming>, tenant: &[u8]) -> Result<(), Stale> {
        let stamp = request.headers().get(STAMP_HEADER).and_then(|stamp| Stamp::parse(stamp.as_bytes()).ok());
        if let Some(stamp) = &stamp {
            self.catch_up(tenant, stamp).await;
        }
        let Some(table) = self.view.load_full() else { return Err(self.stale(StaleState::Behind, tenant, None, None)) };
        let Some(known) = known(&table, tenant) else { return Err(self.stale(StaleState::Moved, tenant, None, Some(&table))) };
        let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let (same_table, stamped) = match &stamp {
            Some(stamp) => (stamp.table == table.id().as_str(), stamp.epoch),
            None => (true, known.epoch),
        };
        let owns = known.owner == self.name;
        match (same_table, stamped.cmp(&known.epoch)) {
            (false, _) if owns => Ok(()),
            (false, _) => Err(self.stale(StaleState::Moved, tenant, None, Some(&table))),
            (true, std::cmp::Ordering::Greater) => Err(self.stale(StaleState::Behind, tenant, None, Some(&table))),
            (true, std::cmp::Ordering::Less) if owns && safe => Ok(()),
            (true, std::cmp::Ordering::Equal) if owns => Ok(()),
            (true, std::cmp::Ordering::Equal) if stamp.is_some() => Err(self.stale(StaleState::Moved, tenant, None, Some(&table))),
            _ => Err(self.stale(StaleState::Moved, tenant, Some(&known), Some(&table))),
        }
    }

    /// Waits, as long as the proxy allows, for this cell's own watch to reach what the proxy knows.
    async fn catch_up(&self, tenant: &[u8], stamp: &Stamp) {
        let mut changed = self.view.changed();
        let reached = async {
            loop {
                let behind = self.view.load_full().is_none_or(|table| {
                    table.id().as_str() != stamp.table || known(&table, tenant).map_or(0, |known| known.epoch) < stamp.epoch
                });
                if !behind || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(stamp.wait_ms), reached).await;
    }

    fn stale(&self, state: StaleState, tenant: &[u8], newer: Option<&Known>, table: Option<&Table>) -> Stale {
        Stale {
            state,
            service: Some(SERVICE.to_owned()),
            key: Some(tenant.to_vec()),
            owner: newer.map(|known| known.owner.clone()),
            epoch: newer.map(|known| known.epoch),
            revision: table.map(Table::revision),
            table: table.map(|table| table.id().as_str().to_owned()),
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

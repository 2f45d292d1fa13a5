//! A backend that speaks the protocol by the library: a small store of values by key and path, decided on each head alone; and, where a
//! test wants it, one that gets one thing wrong.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use waypost_owner::{Credentials, EtcdPlace, Head, Owner, Permit, Settings, Stale};
use waypost_tests::{Peer, RawBackend, RawRequest};

/// What it gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Whoever comes without a stamp is served.
    ServesWithoutStamp,
    /// A stamp of another table is taken for one of its own.
    KnowsOneTable,
    /// `ask` is not looked at.
    HearsNoAsk,
    /// It never waits for its own watch.
    NeverWaits,
    /// An older stamp is served, whatever the method.
    ServesOlderStamps,
    /// It corrects nobody.
    SaysNoUpdate,
    /// A key is written as a string, whatever it is.
    WritesKeysAsText,
    /// A frozen key has moved, if the stamp is older.
    ForgetsHandoff,
    /// It always says who the owner is.
    AlwaysNamesOwner,
    /// The body is read first.
    ReadsBodyFirst,
    /// A write is done, and then judged.
    WritesFirst,
    /// A key is let go while requests for it are under way.
    ForgetsWhoIsUnderWay,
    /// What it refuses may be cached.
    LetsRefusalsBeCached,
    /// 409 instead of 421.
    SaysConflict,
}

type Data = Arc<Mutex<HashMap<(String, String), Vec<u8>>>>;

/// It; gone when dropped.
pub(crate) struct Cell {
    pub(crate) backend: RawBackend,
    owner: Arc<Owner>,
}

impl Cell {
    /// Follows this gold copy as this upstream.
    pub(crate) async fn start(gold: &str, prefix: &str, upstream: &str, wrong: Option<Wrong>) -> Self {
        let gold = EtcdPlace { endpoints: vec![gold.to_owned()], prefix: prefix.to_owned(), credentials: Credentials::default() };
        let settings = Settings { gold, upstream: upstream.try_into().unwrap(), id: "one".try_into().unwrap() };
        let owner = Arc::new(Owner::start(settings).await.unwrap());
        let (serving, data) = (Arc::clone(&owner), Data::default());
        let backend = RawBackend::start(move |peer, _| serve(peer, Arc::clone(&serving), Arc::clone(&data), wrong)).await;
        Self { backend, owner }
    }

    /// The revision that it judges by.
    pub(crate) fn revision(&self) -> u64 {
        self.owner.view().load_full().map_or(0, |table| table.revision())
    }

    /// The incarnation of the store.
    pub(crate) fn table(&self) -> String {
        self.owner.view().load_full().unwrap().id().as_str().to_owned()
    }
}

async fn serve(mut peer: Peer, owner: Arc<Owner>, data: Data, wrong: Option<Wrong>) {
    while let Some(head) = peer.until("\r\n\r\n").await {
        let request = RawRequest { head, body: Vec::new() };
        let value = |name: &str| request.values(name).first().map(|value| (*value).to_owned());
        let mut line = request.head.split(' ');
        let (method, path) = (line.next().unwrap_or_default().to_owned(), line.next().unwrap_or_default().to_owned());
        let Some(tenant) = value("x-tenant") else { return };
        let slot = (tenant.clone(), path);
        let mut body = None;
        // Who writes first reads what has come: a large body has not.
        let is_small = value("content-length").is_none_or(|length| length.len() < 5);
        if wrong == Some(Wrong::ReadsBodyFirst) || wrong == Some(Wrong::WritesFirst) && is_small && value("expect").is_none() {
            let Some(read) = read_body(&mut peer, &request).await else { return };
            if method == "PUT" && wrong == Some(Wrong::WritesFirst) {
                data.lock().unwrap().insert(slot.clone(), read.clone());
            }
            body = Some(read);
        }
        let permit = match judge(&owner, &method, &tenant, value("route-stamp"), wrong).await {
            Ok(permit) => permit,
            Err(refusal) => {
                if !peer.send(refusal).await {
                    return;
                }
                // Its body, if it ever comes, must not be taken for a request.
                if value("content-length").is_some() && body.is_none() && read_body(&mut peer, &request).await.is_none() {
                    return;
                }
                continue;
            }
        };
        let update =
            permit.as_ref().and_then(|permit| permit.update.as_ref()).map(|update| format!("Route-Update: {}\r\n", update.to_value()));
        let update = update.filter(|_| wrong != Some(Wrong::SaysNoUpdate)).unwrap_or_default();
        let permit = permit.filter(|_| wrong != Some(Wrong::ForgetsWhoIsUnderWay));
        let body = match body {
            Some(body) => body,
            None => match read_body(&mut peer, &request).await {
                Some(body) => body,
                None => return,
            },
        };
        let text = if method == "PUT" {
            data.lock().unwrap().insert(slot, body);
            b"stored".to_vec()
        } else {
            data.lock().unwrap().get(&slot).cloned().unwrap_or_default()
        };
        drop(permit);
        let head = format!("HTTP/1.1 200 OK\r\n{update}Content-Length: {}\r\n\r\n", text.len());
        if !peer.send([head.as_bytes(), &text].concat()).await {
            return;
        }
    }
}

/// Reads the body behind a head; says that it may come where that is waited for.
async fn read_body(peer: &mut Peer, request: &RawRequest) -> Option<Vec<u8>> {
    if !request.values("expect").is_empty() {
        peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    }
    if !request.values("transfer-encoding").is_empty() {
        return peer.chunks().await;
    }
    let length = request.values("content-length").first().map_or(Some(0), |length| length.parse().ok())?;
    peer.exactly(length).await
}

/// Serves under a permit (or, where that is what is wrong, without one), or says what is answered.
async fn judge(owner: &Owner, method: &str, tenant: &str, stamp: Option<String>, wrong: Option<Wrong>) -> Result<Option<Permit>, String> {
    let mut stamp = stamp;
    let mut method = method;
    match wrong {
        Some(Wrong::ServesWithoutStamp) if stamp.is_none() => return Ok(None),
        Some(Wrong::ServesOlderStamps) => method = "GET",
        Some(Wrong::NeverWaits) => stamp = stamp.map(|stamp| change(&stamp, "wait-ms", "0")),
        Some(Wrong::HearsNoAsk) => stamp = stamp.map(|stamp| stamp.split(", ask=").next().unwrap_or_default().to_owned()),
        Some(Wrong::KnowsOneTable) => {
            let own = owner.view().load_full().map(|table| format!("\"{}\"", table.id().as_str())).unwrap_or_default();
            stamp = stamp.map(|stamp| change(&stamp, "table", &own));
        }
        _ => {}
    }
    let head = Head { method, service: "orders", key: tenant.as_bytes(), stamp: stamp.as_deref().map(str::as_bytes) };
    let mut stale: Stale = match owner.admit(&head).await {
        Ok(permit) => return Ok(Some(permit)),
        Err(stale) => stale,
    };
    let has_moved = stale.to_value().starts_with("state=moved");
    if wrong == Some(Wrong::AlwaysNamesOwner)
        && has_moved
        && stale.owner.is_none()
        && stamp.as_deref().is_some_and(|stamp| stamp.contains("epoch=5,"))
    {
        (stale.owner, stale.epoch) = (Some("cell-b".to_owned()), Some(5));
    }
    let mut said = stale.to_value();
    let is_older = stamp.as_deref().is_some_and(|stamp| stamp.contains("epoch=4,"));
    if wrong == Some(Wrong::ForgetsHandoff) && is_older {
        said = said.replace("state=handoff", "state=moved");
    }
    if wrong == Some(Wrong::WritesKeysAsText) && said.contains("key=:") {
        let (before, rest) = said.split_once("key=:").unwrap();
        let after = rest.split_once(':').unwrap().1;
        said = format!("{before}key=\"{tenant}\"{after}");
    }
    let status = if wrong == Some(Wrong::SaysConflict) { "409 Conflict" } else { "421 Misdirected Request" };
    let cache = if wrong == Some(Wrong::LetsRefusalsBeCached) { "" } else { "Cache-Control: no-store\r\n" };
    Err(format!("HTTP/1.1 {status}\r\nRoute-Stale: {said}\r\n{cache}Content-Length: 0\r\n\r\n"))
}

/// A stamp with another value of one member.
fn change(stamp: &str, member: &str, value: &str) -> String {
    let start = format!("{member}=");
    let members = stamp.split(", ").map(|part| if part.starts_with(&start) { format!("{start}{value}") } else { part.to_owned() });
    members.collect::<Vec<_>>().join(", ")
}

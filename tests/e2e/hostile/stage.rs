//! The stage: cell `a` owns `t1` and says what a test wants, byte for byte; cell `b` owns `t2` and serves; and a stranger listens whom
//! nobody may ever dial.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use waypost_tests::{Backend, Etcd, Peer, RawBackend, RawRequest, Waypost};

use crate::{
    scene::{route, service},
    stage::{field, statuses},
};

/// What `a` answers to a request; `None`: it serves.
pub(super) type Says = dyn Fn(&RawRequest) -> Option<Vec<u8>> + Send + Sync;

pub(super) struct Stage {
    pub(super) etcd: Etcd,
    pub(super) waypost: Waypost,
    _a: RawBackend,
    pub(super) b: Backend,
    pub(super) stranger: RawBackend,
    pub(super) says: Arc<Mutex<Arc<Says>>>,
    /// The incarnation of the store, as stamps name it.
    pub(super) table: String,
}

/// What `a` answers where it is not told otherwise.
pub(super) const SERVED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";

impl Stage {
    pub(super) async fn start() -> Self {
        Self::with(json!({})).await
    }

    /// With another default policy.
    pub(super) async fn with(policy: Value) -> Self {
        let says: Arc<Mutex<Arc<Says>>> = Arc::new(Mutex::new(Arc::new(|_: &RawRequest| None)));
        let said = Arc::clone(&says);
        let a = RawBackend::start(move |peer, _| answer(peer, Arc::clone(&said))).await;
        let stranger = RawBackend::start(|mut peer: Peer, _| async move {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nstranger").await;
        })
        .await;
        let (b, etcd) = (Backend::named("b").await, Etcd::start().await);
        let records = [
            ("services/orders", service(json!({}))),
            ("policies/default", policy),
            ("upstreams/a", a.upstream()),
            ("upstreams/b", b.upstream()),
            ("routes/orders/t1", route("a", 5)),
            ("routes/orders/t2", route("b", 5)),
        ];
        etcd.put_all(&records).await;
        let waypost = Waypost::start(&etcd.url(), &[]).await;
        let table = waypost.until_connected(true).await["table"].as_str().unwrap().to_owned();
        Self { etcd, waypost, _a: a, b, stranger, says, table }
    }

    /// From now on `a` answers so, whatever it is asked.
    pub(super) fn say(&self, answer: impl Into<Vec<u8>>) {
        let answer = answer.into();
        self.reply(move |_| Some(answer.clone()));
    }

    /// From now on `a` answers by the request.
    pub(super) fn reply(&self, says: impl Fn(&RawRequest) -> Option<Vec<u8>> + Send + Sync + 'static) {
        *self.says.lock().unwrap() = Arc::new(says);
    }

    /// One request for a key over a connection of its own: status, reason, all that came.
    pub(super) async fn ask(&self, tenant: &str, body: &str) -> (u16, String, String) {
        let request = format!(
            "POST /x HTTP/1.1\r\nHost: h\r\nx-tenant: {tenant}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut client = Peer::connect(self.waypost.listen).await;
        let (got, _) = client.send_and_read(request.as_bytes()).await;
        assert_no_leak(&got);
        let status = statuses(&got).last().copied().unwrap_or(0);
        (status, field(&got, "waypost-reason").to_owned(), got)
    }

    /// The stranger was not dialled, other keys are served, nothing is left over.
    pub(super) async fn is_sound(&self, what: &str) {
        assert_eq!(self.stranger.received().len(), 0, "{what}: somebody dialled the stranger");
        let (status, _, got) = self.ask("t2", "").await;
        assert!(status == 200 && got.ends_with('b'), "{what}: another key: {got}");
    }

    /// How many hints there are, and how many were refuted.
    pub(super) async fn hints(&self) -> (u64, u64) {
        let hints = self.waypost.status().await["hints"].clone();
        (hints["count"].as_u64().unwrap(), hints["refuted"].as_u64().unwrap())
    }
}

async fn answer(mut peer: Peer, says: Arc<Mutex<Arc<Says>>>) {
    while let Some(request) = peer.request().await {
        let says = Arc::clone(&says.lock().unwrap());
        let answer = says(&request);
        if !peer.send(answer.unwrap_or_else(|| SERVED.to_vec())).await {
            return;
        }
    }
}

/// Nothing of the protocol reaches a client, whatever its spelling.
pub(super) fn assert_no_leak(got: &str) {
    let lower = got.to_ascii_lowercase().replace('_', "-");
    assert!(!lower.contains("\nroute-"), "{got}");
}

/// 421 with these fields and a short body.
pub(super) fn refusal(fields: &str) -> String {
    format!("HTTP/1.1 421 Misdirected Request\r\n{fields}Cache-Control: no-store\r\nContent-Length: 4\r\n\r\nno\r\n")
}

/// The same with this `Route-Stale`.
pub(super) fn stale(value: &str) -> String {
    refusal(&format!("Route-Stale: {value}\r\n"))
}

/// A claim that the key `t1` has moved.
pub(super) fn moved(owner: &str, epoch: &str, revision: u64, table: &str) -> String {
    format!(r#"state=moved, service="orders", key="t1", owner="{owner}", epoch={epoch}, revision={revision}, table="{table}""#)
}

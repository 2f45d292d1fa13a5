//! The stage of most tests: an etcd, a service `orders` keyed by `x-tenant`, two cells, and a proxy.

use serde_json::{Value, json};
use waypost_tests::{Backend, Etcd, Reply, Seen, Waypost};

/// The stage.
pub(crate) struct Scene {
    pub(crate) etcd: Etcd,
    pub(crate) waypost: Waypost,
    pub(crate) a: Backend,
    pub(crate) b: Backend,
}

/// The service's record, with more fields.
pub(crate) fn service(extra: Value) -> Value {
    let mut service = json!({ "match": [{}], "key": { "header": "x-tenant" } });
    merge(&mut service, extra);
    service
}

/// A route's record.
pub(crate) fn route(owner: &str, epoch: u64) -> Value {
    json!({ "owner": owner, "epoch": epoch })
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

impl Scene {
    /// Two cells that answer with their names; `t1` belongs to `a` at epoch 5.
    pub(crate) async fn start() -> Self {
        Self::with(|_| Reply::ok("a"), |_| Reply::ok("b")).await
    }

    /// Two cells that do as they are told.
    pub(crate) async fn with(
        a: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
        b: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let etcd = Etcd::start().await;
        let (a, b) = (Backend::start(a).await, Backend::start(b).await);
        let records = [
            ("services/orders", service(json!({}))),
            ("upstreams/a", a.upstream()),
            ("upstreams/b", b.upstream()),
            ("routes/orders/t1", route("a", 5)),
        ];
        etcd.put_all(&records).await;
        let waypost = Waypost::start(&etcd.url(), &[]).await;
        Self { etcd, waypost, a, b }
    }

    /// Puts a record and waits until the proxy has it in force.
    pub(crate) async fn put(&self, key: &str, value: Value) -> u64 {
        let revision = self.etcd.put(key, value).await;
        self.waypost.at(revision).await;
        revision
    }

    /// Deletes a record and waits until the proxy knows.
    pub(crate) async fn delete(&self, key: &str) {
        let revision = self.etcd.delete(key).await;
        self.waypost.at(revision).await;
    }

    /// `/routes/orders/<key>`
    pub(crate) async fn route(&self, key: &str) -> Value {
        self.waypost.json(&format!("/routes/orders/{key}")).await
    }

    /// The incarnation of the store, as stamps name it.
    pub(crate) async fn table(&self) -> String {
        self.waypost.status().await["gold"][0]["table"].as_str().unwrap().to_owned()
    }
}

//! The store as a cluster, and as something that one must be let into. A client keeps sending through all of it.

mod chaos;
mod checked;
mod cluster;
mod endpoints;
mod faults;
mod reports;
mod streams;
mod tls;
mod users;

use serde_json::{Value, json};
use waypost_tests::{Backend, Etcd, Steady, Waypost, until};

use crate::scene::{route, service};

/// For a proxy whose connections are counted.
pub(crate) const WITHOUT_REPORTS: [&str; 2] = ["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/store/without_reports.toml")];

/// Two cells that answer with their names, and the records of a service `orders` in which `t1` belongs to `a`.
pub(crate) struct Cells {
    pub(crate) a: Backend,
    pub(crate) b: Backend,
}

impl Cells {
    pub(crate) async fn start() -> Self {
        Self { a: Backend::named("a").await, b: Backend::named("b").await }
    }

    /// The same, and the store has them.
    pub(crate) async fn of(etcd: &Etcd) -> Self {
        let cells = Self::start().await;
        etcd.put_all(&cells.records()).await;
        cells
    }

    pub(crate) fn records(&self) -> [(&'static str, Value); 4] {
        [
            ("services/orders", service(json!({}))),
            ("upstreams/a", self.a.upstream()),
            ("upstreams/b", self.b.upstream()),
            ("routes/orders/t1", route("a", 1)),
        ]
    }
}

/// Moves `t1` by way of a member, and waits until it is in force.
pub(crate) async fn moved(etcd: &Etcd, waypost: &Waypost, steady: &Steady, owner: &str, epoch: u64) {
    steady.may("t1", owner);
    let revision = etcd.put("routes/orders/t1", route(owner, epoch)).await;
    waypost.at(revision).await;
    assert_eq!(waypost.get("t1", "/").await.text(), owner);
}

/// Waits until `/status` says this of the store.
pub(crate) async fn until_said(waypost: &Waypost, words: &[&str]) -> String {
    until(&format!("/status says {words:?}"), async || {
        let error = waypost.status().await["gold"][0]["last_error"].as_str().unwrap_or_default().to_owned();
        if words.iter().all(|word| error.contains(word)) { Ok(error) } else { Err(error) }
    })
    .await
}

/// A proxy that was started on a store that does not let it in says why.
pub(crate) async fn is_refused(gold: &str, flags: &[&str], words: &[&str]) -> String {
    let mut waypost = Waypost::new(gold, flags);
    waypost.spawn();
    until("the admin endpoint answers", async || waypost_tests::Client::fetch(waypost.admin, "/healthz").await).await;
    until_said(&waypost, words).await
}

/// What chance begins with: `WAYPOST_SEED`, or another each time. A test that fails says it.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("WAYPOST_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(0..1_000_000))
}

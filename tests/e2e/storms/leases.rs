//! Ten thousand leased endpoints whose leases end: nobody fails whose upstream still has an endpoint, and the last leased one stays.

use serde_json::{Value, json};
use tokio::task::JoinSet;
use waypost_tests::{Backend, Etcd, Steady, Waypost, until};

use super::{Leased, equals_a_fresh_one, put_many};
use crate::scene::{route, service};

const BACKENDS: usize = 50;
const UPSTREAMS: usize = 200;

/// Upstreams `u0` to `u199` with fifty leased endpoints each, and `mixed`, which lists one besides.
struct Stage {
    etcd: Etcd,
    _backends: Vec<Backend>,
    waypost: Waypost,
    leases: Vec<i64>,
}

impl Stage {
    /// The endpoints are spread over so many leases.
    async fn start(leases: usize) -> Self {
        let etcd = Etcd::start().await;
        let mut backends = Vec::new();
        for _ in 0..BACKENDS {
            backends.push(Backend::named("a").await);
        }
        let mut granted = Vec::new();
        for _ in 0..leases {
            granted.push(etcd.client().await.lease_grant(600, None).await.unwrap().id());
        }
        let address = |n: usize| json!({ "address": backends[n].address.to_string() });
        etcd.put("services/orders", service(json!({}))).await;
        etcd.put_all(&[("upstreams/mixed", json!({ "endpoints": [address(0)] })), ("routes/orders/mixed", route("mixed", 1))]).await;
        let mut records: Vec<Leased> = Vec::new();
        for upstream in 0..UPSTREAMS {
            records.push((format!("upstreams/u{upstream}"), "{}".to_owned(), 0));
            records.push((format!("routes/orders/t{upstream}"), route(&format!("u{upstream}"), 1).to_string(), 0));
            let endpoints = (0..BACKENDS).map(|n| {
                let lease = granted[(upstream * BACKENDS + n) % granted.len()];
                (format!("endpoints/u{upstream}/e{n}"), address(n).to_string(), lease)
            });
            records.extend(endpoints);
        }
        records.extend((1..BACKENDS).map(|n| (format!("endpoints/mixed/e{n}"), address(n).to_string(), granted[n % granted.len()])));
        let revision = put_many(&etcd, records).await;
        let waypost = Waypost::start(&etcd.url(), &[]).await;
        waypost.at(revision).await;
        Self { etcd, _backends: backends, waypost, leases: granted }
    }

    async fn endpoints(&self) -> Value {
        self.waypost.status().await["table"]["endpoints"].clone()
    }

    /// Ends all leases, and waits until nothing but the last endpoints is left.
    async fn end_leases(&self) {
        assert_eq!(self.endpoints().await, json!(BACKENDS * UPSTREAMS + BACKENDS));
        let steady = Steady::start(&self.waypost, &[("t0", "a"), ("t7", "a"), ("t199", "a"), ("mixed", "a")]);
        steady.more(20).await;
        let mut under_way = JoinSet::new();
        for lease in self.leases.clone() {
            let mut client = self.etcd.client().await;
            under_way.spawn(async move { client.lease_revoke(lease).await.unwrap() });
        }
        under_way.join_all().await;
        until("all leases have ended", async || match self.endpoints().await {
            left if left == json!(UPSTREAMS + 1) => Ok(()),
            left => Err(left.to_string()),
        })
        .await;
        steady.more(100).await;
        steady.stop().await;
    }
}

#[tokio::test]
async fn one_lease_that_ends_for_all_keys_leaves_each_upstream_its_last() {
    let mut stage = Stage::start(1).await;
    stage.end_leases().await;
    // They are still there after a restart, with and without the store.
    for is_up in [true, false] {
        stage.waypost.terminate();
        assert!(stage.waypost.wait(waypost_tests::LIMIT).success());
        if !is_up {
            stage.etcd.kill();
        }
        stage.waypost.spawn();
        stage.waypost.ready().await;
        assert_eq!(stage.waypost.get("t150", "/").await.text(), "a");
        assert_eq!(stage.endpoints().await, json!(UPSTREAMS + 1));
    }
}

#[tokio::test]
async fn many_leases_that_end_one_by_one_leave_each_upstream_its_last() {
    let stage = Stage::start(500).await;
    stage.end_leases().await;
    equals_a_fresh_one(&stage.etcd, &stage.waypost).await;
    // Who comes back is used, and what was left is not any more.
    let back = Backend::named("back").await;
    let revision = stage.etcd.put("endpoints/u7/back", json!({ "address": back.address.to_string() })).await;
    stage.waypost.at(revision).await;
    assert_eq!(stage.waypost.get("t7", "/").await.text(), "back");
    assert_eq!(stage.endpoints().await, json!(UPSTREAMS + 1));
}

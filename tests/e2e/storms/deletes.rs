//! Deletes of very many keys in one revision.

use serde_json::json;
use waypost_tests::{Etcd, Steady, Waypost, until};

use super::{equals_a_fresh_one, put_many, routes};
use crate::store::Cells;

const GONE: usize = 50_000;

/// Fifty thousand routes that are to go, and so many that stay.
async fn stage(stay: usize) -> (Etcd, Cells, Waypost) {
    // In fragments of 64 kB: etcd counts a fragment's bytes anew for each event, so that its default of 1.5 MB takes it many seconds here.
    let etcd = Etcd::with(&["--max-request-bytes", "65536"]).await;
    let cells = Cells::of(&etcd).await;
    let revision = put_many(&etcd, [routes("goes", GONE, "b"), routes("stays", stay, "a")].concat()).await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    waypost.at(revision).await;
    (etcd, cells, waypost)
}

#[tokio::test]
async fn fifty_thousand_routes_that_are_less_than_half_are_gone_at_once() {
    let (etcd, _cells, waypost) = stage(GONE + 1000).await;
    let steady = Steady::start(&waypost, &[("stays7", "a"), ("t1", "a")]);
    let revision = etcd.delete_prefix("routes/orders/goes").await;
    waypost.at(revision).await;
    assert_eq!(waypost.get("goes7", "/").await.reason(), "no_route");
    let status = waypost.status().await;
    assert_eq!((&status["table"]["routes"], &status["held_back_count"]), (&json!(GONE + 1001), &json!(0)));
    equals_a_fresh_one(&etcd, &waypost).await;
    steady.stop().await;
}

#[tokio::test]
async fn fifty_thousand_routes_that_are_most_are_gone_when_the_store_has_confirmed_it() {
    let (etcd, _cells, waypost) = stage(GONE / 2).await;
    let steady = Steady::start(&waypost, &[("stays7", "a"), ("t1", "a")]);
    let revision = etcd.delete_prefix("routes/orders/goes").await;
    waypost.at(revision).await;
    until("they are gone", async || match waypost.get("goes7", "/").await.reason() {
        "no_route" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    let status = waypost.status().await;
    assert_eq!((&status["table"]["routes"], &status["held_back_count"]), (&json!(GONE / 2 + 1), &json!(0)));
    equals_a_fresh_one(&etcd, &waypost).await;
    steady.stop().await;
}

#[tokio::test]
async fn a_store_that_loses_all_its_records_at_once_changes_no_request() {
    let (etcd, cells, mut waypost) = stage(1000).await;
    let steady = Steady::start(&waypost, &[("stays7", "a"), ("goes7", "b"), ("t1", "a")]);
    // The services and upstreams as well.
    let revision = etcd.delete_prefix("").await;
    waypost.at(revision).await;
    let status = waypost.status().await;
    assert_eq!(status["held_back_count"], json!(GONE + 1001 + 3), "{}", status["gold"]);
    steady.more(100).await;
    steady.stop().await;
    waypost.terminate();
    assert!(waypost.wait(waypost_tests::LIMIT).success());
    waypost.spawn();
    waypost.ready().await;
    waypost.until_connected(true).await;
    let steady = Steady::start(&waypost, &[("stays7", "a"), ("goes7", "b"), ("t1", "a")]);
    steady.more(100).await;
    // Written anew, it is as it was.
    etcd.put_all(&cells.records()).await;
    let revision = put_many(&etcd, [routes("goes", GONE, "b"), routes("stays", 1000, "a")].concat()).await;
    waypost.at(revision).await;
    until("nothing is held", async || match waypost.status().await["held_back_count"].as_u64() {
        Some(0) => Ok(()),
        held => Err(format!("{held:?}")),
    })
    .await;
    steady.stop().await;
    equals_a_fresh_one(&etcd, &waypost).await;
}

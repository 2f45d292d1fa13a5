//! The store goes away, is compacted, restarts, comes back changed; the table goes on being served.

use serde_json::json;
use waypost_tests::{Backend, Etcd, FaultProxy, Steady, Waypost, until, until_true};

use crate::scene::{Scene, route, service};

#[tokio::test]
async fn a_deleted_route_is_gone_after_compaction_while_disconnected() {
    let etcd = Etcd::start().await;
    let a = Backend::named("a").await;
    etcd.put_all(&[
        ("services/orders", service(json!({}))),
        ("upstreams/a", a.upstream()),
        ("routes/orders/stays", route("a", 1)),
        ("routes/orders/goes", route("a", 1)),
    ])
    .await;
    let between = FaultProxy::start(etcd.address()).await;
    let waypost = Waypost::start(&between.url(), &[]).await;
    let steady = Steady::start(&waypost, &[("stays", "a")]);
    between.cut();
    until_true("the proxy has lost the store", async || waypost.status().await["gold"][0]["connected"] == false).await;
    etcd.delete("routes/orders/goes").await;
    let revision = etcd.put("routes/orders/new", route("a", 1)).await;
    etcd.compact().await;
    assert_eq!(waypost.get("goes", "/").await.status, 200, "without the store everything is served as it was");
    between.pass();
    waypost.at(revision).await;
    assert_eq!(waypost.get("goes", "/").await.reason(), "no_route");
    assert_eq!(waypost.get("new", "/").await.status, 200);
    assert!(waypost.metric("waypost_resyncs_total").await >= 1.0, "{}", waypost.status().await);
    steady.stop().await;
}

#[tokio::test]
async fn a_member_s_restart_costs_nothing() {
    let mut scene = Scene::start().await;
    let steady = Steady::start(&scene.waypost, &[("t1", "a")]);
    for epoch in 6..9 {
        scene.etcd.kill();
        until_true("the proxy has lost the store", async || scene.waypost.status().await["gold"][0]["connected"] == false).await;
        scene.etcd.restart().await;
        scene.put("routes/orders/t2", route("b", epoch)).await;
        assert_eq!(scene.route("t2").await["epoch"], epoch);
    }
    steady.stop().await;
    assert_eq!(scene.waypost.status().await["gold"][0]["resyncs"], 0, "resumed from the cursor, not listed anew");
}

#[tokio::test]
async fn a_proxy_starts_without_the_store_and_catches_up_with_one_that_has_moved_on() {
    let mut scene = Scene::start().await;
    scene.put("routes/orders/goes", route("b", 1)).await;
    scene.waypost.terminate();
    assert!(scene.waypost.wait(std::time::Duration::from_secs(20)).success());
    scene.etcd.kill();
    scene.waypost.spawn();
    scene.waypost.ready().await;
    let gold = scene.waypost.status().await["gold"][0].clone();
    assert_eq!((&gold["source"], &gold["connected"]), (&json!("snapshot"), &json!(false)));
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "a");
    assert_eq!(scene.route("t1").await["source"], "snapshot");
    let digest = scene.waypost.status().await["table"]["digest"].clone();
    scene.etcd.restart().await;
    scene.etcd.delete("routes/orders/goes").await;
    let revision = scene.etcd.put("routes/orders/t1", route("b", 6)).await;
    scene.waypost.at(revision).await;
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "b");
    assert_eq!(scene.waypost.get("goes", "/").await.reason(), "no_route");
    assert_ne!(scene.waypost.status().await["table"]["digest"], digest);
    let fresh = Waypost::start(&scene.etcd.url(), &[]).await;
    assert_eq!(
        scene.waypost.status().await["table"]["digest"],
        fresh.status().await["table"]["digest"],
        "a table that was resumed equals one that was listed"
    );
}

#[tokio::test]
async fn without_store_and_snapshot_the_proxy_waits_for_the_store() {
    let mut etcd = Etcd::start().await;
    let a = Backend::named("a").await;
    etcd.put_all(&[("services/orders", service(json!({ "default_owner": "a" }))), ("upstreams/a", a.upstream())]).await;
    etcd.kill();
    let mut waypost = Waypost::new(&etcd.url(), &[]);
    waypost.spawn();
    let answer = until("the admin endpoint answers", async || waypost_tests::Client::fetch(waypost.admin, "/readyz").await).await;
    assert_eq!((answer.status, answer.reason()), (503, "not_ready"));
    let answer = waypost.get("t1", "/").await;
    assert_eq!((answer.status, answer.reason()), (503, "not_ready"));
    until_true("the missing store is named on stderr", async || waypost.said().contains(&etcd.url())).await;
    etcd.restart().await;
    waypost.ready().await;
    assert_eq!(waypost.get("t1", "/").await.text(), "a");
}

#[tokio::test]
async fn a_damaged_snapshot_is_set_aside() {
    let mut scene = Scene::start().await;
    scene.waypost.terminate();
    scene.waypost.wait(std::time::Duration::from_secs(20));
    let mut bytes = std::fs::read(scene.waypost.snapshot()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(scene.waypost.snapshot(), bytes).unwrap();
    scene.waypost.spawn();
    scene.waypost.ready().await;
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "a");
    let aside = scene.waypost.snapshot().with_extension("snapshot.damaged");
    assert!(aside.exists(), "{} is not there", aside.display());
}

#[tokio::test]
async fn a_raised_incarnation_starts_epochs_afresh() {
    let scene = Scene::start().await;
    scene.put("routes/orders/t1", route("b", 9)).await;
    let before = scene.table().await;
    scene.etcd.put_all(&[("incarnation", json!(1)), ("routes/orders/t1", route("a", 2))]).await;
    until_true("the new incarnation is in force", async || scene.table().await != before).await;
    assert!(scene.table().await.ends_with("-1"));
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "a");
    assert_eq!(scene.waypost.status().await["quarantined"], json!([]));
}

//! Guards while the store is away: they serve by what they know, or stop in time.

use std::time::{Duration, Instant};

use serde_json::json;
use waypost_tests::{Backend, Etcd, FaultProxy, Guard, Peer, RawBackend, Waypost, until, until_true};

use crate::scene::{route, service};

/// How long a guard's announcement outlives its contact with the store.
const LEASE: Duration = Duration::from_secs(10);

async fn store() -> Etcd {
    let etcd = Etcd::start().await;
    let records = [
        ("services/orders", service(json!({}))),
        ("upstreams/a", json!({})),
        ("upstreams/b", json!({})),
        ("routes/orders/mine", route("a", 5)),
        ("routes/orders/other", route("b", 5)),
    ];
    etcd.put_all(&records).await;
    etcd
}

/// In short: the status, and the state of a refusal.
async fn asked(guard: &Guard, key: &str) -> String {
    let answer = guard.client().await.request("POST", "/", &[("x-tenant", key)], b"x").await;
    let state = answer.header("route-stale").split(", ").next().unwrap_or_default();
    [answer.status.to_string().as_str(), state].join(" ").trim_end().to_owned()
}

async fn until_asked(guard: &Guard, key: &str, wanted: &str) {
    until(&format!("{key}: {wanted}"), async || match asked(guard, key).await {
        said if said == wanted => Ok(()),
        said => Err(said),
    })
    .await;
}

#[tokio::test]
async fn a_guard_goes_on_serving_by_what_it_knows_and_announces_itself_again() {
    let mut etcd = store().await;
    let backend = Backend::named("a").await;
    let guard = Guard::start(&etcd.url(), "a", "a-1", backend.address, &[]).await;
    etcd.kill();
    guard.until_connected(false).await;
    assert_eq!((asked(&guard, "mine").await, asked(&guard, "other").await), ("200".into(), "421 state=moved".into()));
    etcd.restart().await;
    guard.until_connected(true).await;
    etcd.put("routes/orders/mine", route("b", 6)).await;
    until_asked(&guard, "mine", "421 state=moved").await;
    until_true("it is announced", async || etcd.get_beside("owners/a/a-1").await.is_some()).await;
}

#[tokio::test]
async fn one_that_stops_without_the_store_does_so_before_its_lease_ends_and_looks_anew_before_it_serves_again() {
    let etcd = store().await;
    let network = FaultProxy::start(etcd.address()).await;
    let backend = RawBackend::start(|mut peer: Peer, _| async move {
        while let Some(request) = peer.request().await {
            if request.values("x-do").first() != Some(&"hang") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
            }
        }
    })
    .await;
    let guard = Guard::start(&network.url(), "a", "a-1", backend.address, &["--without-store", "stop"]).await;
    assert_eq!(asked(&guard, "mine").await, "200");
    let address = guard.listen;
    let hangs = tokio::spawn(async move {
        let mut client = waypost_tests::Client::connect(address).await;
        let answer = client.request("POST", "/", &[("x-tenant", "mine"), ("x-do", "hang")], b"x").await;
        (answer.status, answer.reason().to_owned(), Instant::now())
    });
    until_true("it is under way", async || guard.status().await["guard"]["serving"] == 1).await;
    network.stall();
    let lost = Instant::now();
    until_asked(&guard, "mine", "421 state=handoff").await;
    assert_eq!(asked(&guard, "other").await, "421 state=handoff", "it knows nothing for certain");
    let stopped = lost.elapsed();
    assert!(stopped < LEASE, "it stopped {stopped:?} after the store was lost");
    assert!(etcd.get_beside("owners/a/a-1").await.is_some(), "before its lease ended");
    assert_eq!(guard.status().await["guard"]["admits"], false);
    let (status, reason, ended) = hangs.await.unwrap();
    assert_eq!((status, reason.as_str()), (502, "upstream_reset"), "what was under way is not waited for");
    assert!(ended < lost + LEASE, "nor does it outlive the lease");
    until_true("its lease has ended", async || etcd.get_beside("owners/a/a-1").await.is_none()).await;
    // The key is given away meanwhile.
    etcd.put("routes/orders/mine", route("b", 6)).await;
    etcd.put("routes/orders/other", route("a", 6)).await;
    network.pass();
    // By no view of before: until it knows better nothing is said but that nobody may serve.
    until("it has looked anew", async || match asked(&guard, "mine").await.as_str() {
        "421 state=handoff" => Err("handoff".to_owned()),
        said => {
            assert_eq!(said, "421 state=moved");
            Ok(())
        }
    })
    .await;
    assert_eq!(asked(&guard, "other").await, "200");
}

#[tokio::test]
async fn a_key_is_moved_from_two_of_which_one_is_cut_off_once_its_lease_has_ended() {
    let etcd = store().await;
    let network = FaultProxy::start(etcd.address()).await;
    let backend = Backend::named("a").await;
    let stop = ["--without-store", "stop"];
    let cut_off = Guard::start(&network.url(), "a", "a-1", backend.address, &stop).await;
    let other = Guard::start(&etcd.url(), "a", "a-2", backend.address, &stop).await;
    let _new = Guard::start(&etcd.url(), "b", "b-1", backend.address, &[]).await;
    network.stall();
    let gold = etcd.url();
    let moving = ["route", "move", "orders", "mine", "--to", "b", "--gold", &gold];
    let moved = until("the move is made", async || match Waypost::run(&moving).await {
        (0, out, _) => Ok(out),
        (_, _, said) => Err(said),
    })
    .await;
    assert!(moved.contains("a → b"), "{moved}");
    assert!(etcd.get_beside("owners/a/a-1").await.is_none(), "not before its lease had ended");
    assert_eq!(asked(&cut_off, "mine").await, "421 state=handoff");
    assert_eq!(asked(&other, "mine").await, "421 state=moved");
}

//! Stale routes met over HTTP/2: healed for clients of either version, with bodies sent again and connections kept.

use serde_json::json;
use waypost_tests::{Backend, Client, Etcd, Guard, Http2Backend, Http2Client, RecordFile, Reply, Seen, Waypost, until_true};

use crate::scene::{route, service};

/// Refuses everything in favour of `b`.
fn refuses(table: &str) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    let table = table.to_owned();
    move |seen| {
        let key = seen.stamped("key");
        Reply::stale(format!(r#"state=moved, key="{key}", owner="b", epoch=6, revision=900000, table="{table}""#))
    }
}

fn says_what_it_got(seen: &Seen) -> Reply {
    Reply::ok(format!("{} {} {}", seen.method, seen.body.len(), seen.stamped("epoch")))
}

#[tokio::test]
async fn a_request_goes_to_the_new_owner_with_all_of_its_body() {
    let etcd = Etcd::start().await;
    etcd.put_all(&[("services/orders", service(json!({})))]).await;
    // A key of its own for each request: what has been healed once is not refused again.
    let keys: Vec<String> = (0..24).map(|at| format!("t{at}")).collect();
    for key in &keys {
        etcd.put(&format!("routes/orders/{key}"), route("a", 5)).await;
    }
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    let table = waypost.status().await["gold"][0]["table"].as_str().unwrap().to_owned();
    let (old_a, new_a) = (Backend::start(refuses(&table)).await, Http2Backend::start(refuses(&table)).await);
    let (old_b, new_b) = (Backend::start(says_what_it_got).await, Http2Backend::start(says_what_it_got).await);
    let mut keys = keys.iter();
    for (a, b) in [
        (old_a.upstream(), old_b.upstream()),
        (old_a.upstream(), new_b.upstream()),
        (new_a.upstream(), old_b.upstream()),
        (new_a.upstream(), new_b.upstream()),
    ] {
        etcd.put("upstreams/a", a.clone()).await;
        let revision = etcd.put("upstreams/b", b.clone()).await;
        waypost.at(revision).await;
        for body in [0, 10, 60_000] {
            let key = keys.next().unwrap();
            let client = Http2Client::connect(waypost.listen).await;
            let answer = client.request("POST", "/", &[("x-tenant", key)], &vec![b'x'; body]).await.unwrap();
            assert_eq!((answer.status, answer.text()), (200, format!("POST {body} 6")), "{a} {b}");
            assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("route-")));
            assert_eq!(waypost.json(&format!("/routes/orders/{key}")).await["source"], "hint");
            let key = keys.next().unwrap();
            let answer = Client::connect(waypost.listen).await.request("POST", "/", &[("x-tenant", key)], &vec![b'x'; body]).await;
            assert_eq!((answer.status, answer.text()), (200, format!("POST {body} 6")), "{a} {b}");
        }
    }
    assert_eq!((old_a.seen().len(), new_a.seen().len()), (12, 12), "each was refused");
    assert!(new_a.connections() <= 2, "refusals cost {} connections", new_a.connections());
}

#[tokio::test]
async fn a_guard_passes_on_what_comes_by_http2_by_http2() {
    let etcd = Etcd::start().await;
    let backend = Http2Backend::start(says_what_it_got).await;
    etcd.put_all(&[("services/orders", service(json!({}))), ("upstreams/a", json!({})), ("upstreams/b", json!({}))]).await;
    etcd.put_all(&[("routes/orders/mine", route("a", 5)), ("routes/orders/other", route("b", 5))]).await;
    let guard = Guard::start(&etcd.url(), "a", "a-1", backend.address, &[]).await;
    let client = Http2Client::connect(guard.listen).await;
    let answer = client.request("POST", "/", &[("x-tenant", "mine")], b"body").await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "POST 4 ".to_owned()));
    let answer = client.request("POST", "/", &[("x-tenant", "other")], b"body").await.unwrap();
    assert_eq!(answer.status, 421);
    assert!(answer.header("route-stale").starts_with("state=moved"), "{answer:?}");
    // A call is refused by its status.
    let answer = client.request("POST", "/", &[("x-tenant", "other"), ("content-type", "application/grpc")], b"").await.unwrap();
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "14"));
    assert!(answer.header("route-stale").starts_with("state=moved"), "{answer:?}");
    until_true("nothing is held", async || etcd.get_beside("owners/a/a-1").await.unwrap()["busy"] == json!([])).await;
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test]
async fn who_cancels_while_waiting_for_a_frozen_key_makes_room() {
    let records = RecordFile::of(&json!({
        "services/orders": service(json!({})),
        "routes/orders/t1": { "owner": "a", "epoch": 1, "state": "frozen" },
        "upstreams/a": {},
        "policies/default": { "park_ms": 60_000 },
    }));
    let waypost = Waypost::start(&records.gold(), &[]).await;
    let client = Http2Client::connect(waypost.listen).await;
    let mut calls = Vec::new();
    for _ in 0..5 {
        calls.push(client.open("POST", "/", &[("x-tenant", "t1")], false).await.unwrap());
    }
    until_true("they wait", async || waypost.metric("waypost_parked").await > 4.5).await;
    for call in &mut calls {
        call.body.send_reset(h2::Reason::CANCEL);
    }
    until_true("their places are free", async || waypost.metric("waypost_parked").await < 0.5).await;
}

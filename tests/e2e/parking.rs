//! Requests wait for their key: frozen in the table, or in the hands of a handover; and an owner that is behind is given its time.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use waypost_tests::{Answer, Client, Reply, until, until_true};

use crate::scene::{Scene, route};

/// A route that nobody may serve now.
fn frozen(owner: &str, epoch: u64) -> Value {
    json!({ "owner": owner, "epoch": epoch, "state": "frozen" })
}

async fn parked(scene: &Scene, count: usize) {
    until(&format!("{count} requests wait"), async || {
        let waiting = scene.waypost.metric("waypost_parked").await as usize;
        if waiting == count { Ok(()) } else { Err(waiting.to_string()) }
    })
    .await;
}

/// A request that is sent, and its answer when it comes.
fn sent(scene: &Scene, tenant: &'static str, body: &'static [u8]) -> tokio::task::JoinHandle<Answer> {
    let address = scene.waypost.listen;
    tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        client.request("POST", "/", &[("x-tenant", tenant)], body).await
    })
}

#[tokio::test]
async fn a_frozen_key_s_requests_wait_and_go_to_its_next_owner() {
    let scene = Scene::start().await;
    // On a busy machine a crowd's connections may wait to be accepted.
    scene.put("policies/default", json!({ "park_ms": 30_000, "timeouts": { "connect_ms": 20_000 } })).await;
    scene.put("routes/orders/t1", frozen("a", 5)).await;
    let waiting: Vec<_> = (0..200).map(|_| sent(&scene, "t1", b"numbered")).collect();
    parked(&scene, 200).await;
    scene.put("routes/orders/other", route("a", 1)).await;
    assert_eq!(scene.waypost.get("other", "/").await.text(), "a", "other keys are served meanwhile");
    parked(&scene, 200).await;
    scene.put("routes/orders/t1", route("b", 6)).await;
    for answer in waiting {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "b"));
    }
    parked(&scene, 0).await;
    assert!(scene.b.seen().iter().all(|seen| seen.body == b"numbered" && seen.stamped("epoch") == "6" && seen.stamped("hop") == "0"));
    assert_eq!(scene.a.seen().len(), 1, "the frozen owner was never asked");
}

#[tokio::test]
async fn a_wait_that_is_in_vain_ends_with_a_503() {
    let scene = Scene::start().await;
    scene.put("policies/default", json!({ "park_ms": 50 })).await;
    scene.put("routes/orders/t1", frozen("a", 5)).await;
    let answer = scene.waypost.get("t1", "/").await;
    assert_eq!((answer.status, answer.reason(), answer.header("retry-after")), (503, "park_timeout", "1"));
    parked(&scene, 0).await;
    scene.put("policies/default", json!({ "park_ms": 60_000, "timeouts": { "total_ms": 50 } })).await;
    assert_eq!(scene.waypost.get("t1", "/").await.reason(), "upstream_timeout", "no longer than the whole request may take");
}

#[tokio::test]
async fn a_handover_is_waited_for_without_a_word_of_the_store() {
    let word = Arc::<Mutex<Option<String>>>::default();
    let asked = Arc::<AtomicUsize>::default();
    let (said, count) = (Arc::clone(&word), Arc::clone(&asked));
    let a = move |_: &_| {
        count.fetch_add(1, Ordering::Relaxed);
        said.lock().unwrap().clone().map_or_else(|| Reply::ok("a"), Reply::stale)
    };
    let scene = Scene::with(a, |_| Reply::ok("b")).await;
    scene.put("policies/default", json!({ "park_ms": 30_000 })).await;
    let handoff = "state=handoff, service=\"orders\", key=\"t1\"".to_owned();
    *word.lock().unwrap() = Some(handoff.clone());
    let waiting = sent(&scene, "t1", b"x");
    until_true("its owner is asked again now and then", async || asked.load(Ordering::Relaxed) >= 4).await;
    // It serves again: the handover was given up.
    *word.lock().unwrap() = None;
    assert_eq!(waiting.await.unwrap().text(), "a");
    *word.lock().unwrap() = Some(handoff);
    let waiting = sent(&scene, "t1", b"x");
    parked(&scene, 1).await;
    scene.put("routes/orders/t1", route("b", 6)).await;
    assert_eq!(waiting.await.unwrap().text(), "b");
    assert_eq!(scene.b.last().stamped("hop"), "1");
}

#[tokio::test]
async fn an_owner_that_is_behind_is_asked_again_until_it_knows() {
    let times = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&times);
    let a = move |_: &_| match count.fetch_add(1, Ordering::Relaxed) {
        0..3 => Reply::stale("state=behind, service=\"orders\", key=\"t1\""),
        _ => Reply::ok("a"),
    };
    let scene = Scene::with(a, |_| Reply::ok("b")).await;
    let answer = sent(&scene, "t1", b"whole").await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "a"));
    assert!(scene.a.seen().iter().all(|seen| seen.body == b"whole" && seen.stamped("hop") == "0"));
    assert_eq!(scene.a.seen().len(), 4);
}

#[tokio::test]
async fn an_owner_that_stays_behind_ends_with_a_503() {
    let scene = Scene::with(|_| Reply::stale("state=behind, key=\"t1\""), |_| Reply::ok("b")).await;
    let answer = scene.waypost.get("t1", "/").await;
    assert_eq!((answer.status, answer.reason()), (503, "stale_unhealed"));
    assert_eq!(scene.b.heads(), 0);
}

#[tokio::test]
async fn an_ask_serves_one_request_at_the_target() {
    let table = Arc::<Mutex<String>>::default();
    let said = Arc::clone(&table);
    let a = move |_: &_| {
        let table = said.lock().unwrap().clone();
        Reply::stale(format!(r#"state=ask, service="orders", key="t1", owner="b", epoch=5, revision=1, table="{table}""#))
    };
    let scene = Scene::with(a, |seen| Reply::ok(format!("b, asked as {}", seen.stamped("ask")))).await;
    *table.lock().unwrap() = scene.table().await;
    scene.put("routes/orders/t1", json!({ "owner": "a", "epoch": 5, "state": "moving", "target": "b" })).await;
    for times in 1..=2 {
        let answer = scene.waypost.get("t1", "/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "b, asked as b"));
        assert_eq!(scene.a.seen().len(), times, "each request goes to the owner first");
    }
    assert_eq!(scene.waypost.status().await["hints"]["count"], 0);
    assert_eq!(scene.route("t1").await["owner"], "a");
}

#[tokio::test]
async fn an_owner_that_serves_corrects_what_is_known() {
    let table = Arc::<Mutex<String>>::default();
    let said = Arc::clone(&table);
    let a = move |_: &_| {
        let update = format!(r#"key="t1", owner="a", epoch=9, revision=99999, table="{}""#, said.lock().unwrap());
        Reply::Say(200, vec![("Route-Update".to_owned(), update)], b"a".to_vec())
    };
    let scene = Scene::with(a, |_| Reply::ok("b")).await;
    *table.lock().unwrap() = scene.table().await;
    let answer = scene.waypost.get("t1", "/").await;
    assert_eq!((answer.status, answer.header("route-update")), (200, ""));
    assert_eq!(scene.waypost.get("t1", "/").await.status, 200);
    assert_eq!(scene.a.last().stamped("epoch"), "9");
    let shown = scene.route("t1").await;
    assert_eq!((&shown["source"], &shown["epoch"]), (&json!("hint"), &json!(9)));
}

#[tokio::test]
async fn an_owner_that_can_not_be_reached_may_have_been_replaced() {
    let scene = Scene::start().await;
    let between = waypost_tests::FaultProxy::start(scene.etcd.address()).await;
    let late = waypost_tests::Waypost::start(&between.url(), &crate::store::WITHOUT_REPORTS).await;
    until_true("its watch stands", async || late.status().await["gold"][0]["connected"] == true).await;
    between.hold_newest();
    scene.etcd.put("routes/orders/t1", route("b", 6)).await;
    // Whoever was the owner has gone for good.
    let gone = scene.etcd.put("upstreams/a", json!({ "endpoints": [{ "address": "127.0.0.1:1" }] })).await;
    assert!(gone > 0);
    drop(scene.a);
    let answer = late.get("t1", "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "b"));
}

//! `/requests/<id>`: what became of a recent request, dispatch by dispatch.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use waypost_tests::{Answer, Client, Reply, Waypost, free_address, until};

use crate::scene::{Scene, route};

/// What is remembered of the request that got this answer; it is, a moment after the answer's end.
async fn remembered(waypost: &Waypost, answer: &Answer) -> Value {
    let path = format!("/requests/{}", answer.header("x-request-id"));
    until("the request is remembered", async || {
        let kept = Client::fetch(waypost.admin, &path).await?;
        if kept.status == 200 { serde_json::from_slice(&kept.body).map_err(|error| error.to_string()) } else { Err(kept.text()) }
    })
    .await
}

/// Owner, endpoint, epoch, source and outcome of each hop.
fn chain(kept: &Value) -> Vec<(&str, &str, u64, &str, &str)> {
    fn text(value: &Value) -> &str {
        value.as_str().unwrap()
    }
    let hops = kept["hops"].as_array().unwrap().iter();
    hops.map(|hop| {
        (text(&hop["owner"]), text(&hop["endpoint"]), hop["epoch"].as_u64().unwrap(), text(&hop["source"]), text(&hop["outcome"]))
    })
    .collect()
}

#[tokio::test]
async fn a_plain_request_has_one_hop() {
    let scene = Scene::start().await;
    let answer = scene.waypost.get("t1", "/note?token=secret").await;
    let kept = remembered(&scene.waypost, &answer).await;
    assert_eq!(kept["request_id"].as_str(), Some(answer.header("x-request-id")));
    for (field, wanted) in [
        ("method", json!("GET")),
        ("host", json!("orders.example.com")),
        ("path", json!("/note")),
        ("status", json!(200)),
        ("reason", Value::Null),
        ("service", json!("orders")),
        ("key", json!("t1")),
    ] {
        assert_eq!(kept[field], wanted, "{field}");
    }
    assert!(!kept.to_string().contains("secret"), "{kept}");
    let endpoint = scene.a.address.to_string();
    assert_eq!(chain(&kept), [("a", &*endpoint, 5, "watch", "answered 200")]);
    let hop = &kept["hops"][0];
    assert_eq!(hop["revision"], scene.waypost.status().await["gold"][0]["revision"]);
    assert!(hop["at_us"].as_u64() <= kept["duration_us"].as_u64() && hop["took_us"].as_u64() <= kept["duration_us"].as_u64(), "{kept}");
    let logged = async || scene.waypost.access_log().pop().ok_or("no line yet".to_owned());
    let line = until("the request is logged", logged).await;
    assert_eq!((&line["hops"], &line["request_id"]), (&json!(0), &kept["request_id"]), "the chain is only where there is more to tell");
    assert_eq!((kept["waits"].clone(), line.get("chain")), (json!([]), None));
}

#[tokio::test]
async fn a_stale_route_shows_as_a_chain() {
    let word = Arc::<Mutex<String>>::default();
    let said = Arc::clone(&word);
    let scene = Scene::with(move |_| Reply::stale(said.lock().unwrap().clone()), |_| Reply::ok("b")).await;
    let table = scene.table().await;
    *word.lock().unwrap() = format!(r#"state=moved, key="t1", owner="b", epoch=6, revision=99999, table="{table}""#);
    let answer = scene.waypost.get("t1", "/").await;
    assert_eq!(answer.text(), "b");
    let kept = remembered(&scene.waypost, &answer).await;
    let (a, b) = (scene.a.address.to_string(), scene.b.address.to_string());
    assert_eq!(chain(&kept), [("a", &*a, 5, "watch", "stale moved to b at 6"), ("b", &*b, 6, "hint", "answered 200")]);
    let at = |hop: usize| kept["hops"][hop]["at_us"].as_u64().unwrap();
    assert!(at(1) >= at(0) + kept["hops"][0]["took_us"].as_u64().unwrap(), "{kept}");

    // Refused by an owner that names nobody: checked with the store, which names the same one.
    scene.put("routes/orders/t2", route("a", 3)).await;
    *word.lock().unwrap() = "state=moved".to_owned();
    let answer = scene.waypost.get("t2", "/").await;
    assert_eq!(answer.reason(), "stale_unhealed");
    let kept = remembered(&scene.waypost, &answer).await;
    assert_eq!(chain(&kept), [("a", &*a, 3, "watch", "stale moved")]);
    assert_eq!((&kept["status"], &kept["reason"]), (&json!(503), &json!("stale_unhealed")));
    let wait = &kept["waits"][0];
    assert_eq!((kept["waits"].as_array().unwrap().len(), &wait["for"]), (1, &json!("check")), "{kept}");
    assert!(wait["at_us"].as_u64() >= kept["hops"][0]["took_us"].as_u64() && wait["took_us"].is_u64(), "{kept}");
}

#[tokio::test]
async fn a_wait_for_a_frozen_key_is_told() {
    let scene = Scene::start().await;
    scene.put("policies/default", json!({ "park_ms": 30 })).await;
    scene.put("routes/orders/t2", json!({ "owner": "a", "epoch": 1, "state": "frozen" })).await;
    let answer = scene.waypost.get("t2", "/").await;
    assert_eq!(answer.reason(), "park_timeout");
    let kept = remembered(&scene.waypost, &answer).await;
    assert_eq!((&kept["hops"], &kept["waits"][0]["for"]), (&json!([]), &json!("key")));
    assert!(kept["waits"][0]["took_us"].as_u64() >= Some(30_000), "{kept}");
}

#[tokio::test]
async fn failures_are_hops_with_their_code() {
    let scene = Scene::with(|_| Reply::ok("a"), |_| Reply::Close).await;
    let (gone, a) = (free_address().to_string(), scene.a.address.to_string());
    scene.put("upstreams/a", json!({ "endpoints": [{ "address": gone, "weight": 100 }, { "address": a }] })).await;
    let kept = until("the endpoint that is not there is met", async || {
        let answer = scene.waypost.get("t1", "/").await;
        assert_eq!(answer.text(), "a");
        let kept = remembered(&scene.waypost, &answer).await;
        if kept["hops"].as_array().unwrap().len() > 1 { Ok(kept) } else { Err(kept.to_string()) }
    })
    .await;
    assert_eq!(chain(&kept), [("a", &*gone, 5, "watch", "connect_failed"), ("a", &*a, 5, "watch", "answered 200")]);

    scene.put("routes/orders/t2", route("b", 2)).await;
    let answer = scene.waypost.get("t2", "/").await;
    assert_eq!(answer.reason(), "upstream_reset");
    let kept = remembered(&scene.waypost, &answer).await;
    assert_eq!(kept["hops"][0]["outcome"], "upstream_reset");

    let answer = scene.waypost.get("none", "/").await;
    let kept = remembered(&scene.waypost, &answer).await;
    assert_eq!((&kept["reason"], &kept["hops"], &kept["key"]), (&json!("no_route"), &json!([]), &json!("none")), "never sent anywhere");

    let mut client = scene.waypost.client().await;
    client.send(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let answer = client.answer(false).await.unwrap();
    let kept = remembered(&scene.waypost, &answer).await;
    assert_eq!((&kept["status"], &kept["reason"]), (&json!(400), &json!("bad_request")), "a head that could not be read");
}

#[tokio::test]
async fn a_request_that_nobody_remembers_is_said_to_be_so() {
    let scene = Scene::start().await;
    let answer = Client::fetch(scene.waypost.admin, "/requests/0190b2a4-0000-7000-8000-000000000000").await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (404, "application/problem+json"));
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("X-Request-Id"), "{problem}");
    assert_eq!(Client::fetch(scene.waypost.admin, "/requests/").await.unwrap().status, 404);
}

//! Records taking effect without a restart, and the answer to each thing that is missing.

use serde_json::json;
use waypost_tests::{Backend, free_address, until_true};

use crate::scene::{Scene, route, service};

#[tokio::test]
async fn changes_of_every_kind_of_record_take_effect_without_a_restart() {
    let scene = Scene::start().await;
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "a");
    scene.put("routes/orders/t1", route("b", 6)).await;
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "b", "a changed route");
    scene.put("routes/orders/new", route("a", 1)).await;
    assert_eq!(scene.waypost.get("new", "/").await.text(), "a", "a created route");
    scene.delete("routes/orders/new").await;
    assert_eq!(scene.waypost.get("new", "/").await.reason(), "no_route", "a deleted route");
    let c = Backend::named("c").await;
    scene.put("upstreams/b", c.upstream()).await;
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "c", "a changed upstream");
    scene.delete("upstreams/b").await;
    assert_eq!(scene.waypost.get("t1", "/").await.reason(), "no_upstream", "a deleted upstream");
    scene.put("upstreams/b", scene.b.upstream()).await;
    scene.put("policies/default", json!({ "limits": { "body_bytes": 3 } })).await;
    let answer = scene.waypost.client().await.request("POST", "/", &[("x-tenant", "t1")], b"four").await;
    assert_eq!((answer.status, answer.reason()), (413, "body_too_large"), "a created policy");
    scene.delete("policies/default").await;
    let answer = scene.waypost.client().await.request("POST", "/", &[("x-tenant", "t1")], b"four").await;
    assert_eq!(answer.status, 200, "a deleted policy");
    scene.put("services/orders", service(json!({ "key": { "query": "tenant" } }))).await;
    assert_eq!(scene.waypost.client().await.get("/?tenant=t1", &[]).await.text(), "b", "a changed service");
    scene.put("services/billing", json!({ "match": [{ "path_prefix": "/billing" }], "default_owner": "a" })).await;
    assert_eq!(scene.waypost.client().await.get("/billing/1", &[]).await.text(), "a", "a created service");
    scene.delete("services/orders").await;
    assert_eq!(scene.waypost.get("t1", "/").await.reason(), "no_service", "a deleted service");
}

#[tokio::test]
async fn what_is_missing_is_named_by_its_own_code() {
    let scene = Scene::start().await;
    let problem = scene.waypost.client().await.get("/", &[]).await;
    assert_eq!((problem.status, problem.reason()), (400, "no_key"));
    assert_eq!(problem.header("content-type"), "application/problem+json");
    let body: serde_json::Value = serde_json::from_slice(&problem.body).unwrap();
    for field in ["type", "title", "detail", "request_id"] {
        assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {body}");
    }
    assert_eq!(body["status"], 400);
    assert_eq!(body["request_id"].as_str(), Some(problem.header("x-request-id")));

    scene.put("routes/orders/lost", route("nobody", 1)).await;
    let answer = scene.waypost.get("lost", "/").await;
    assert_eq!((answer.status, answer.reason(), answer.header("retry-after")), (503, "no_upstream", "1"));
    scene.put("upstreams/nobody", json!({})).await;
    let answer = scene.waypost.get("lost", "/").await;
    assert_eq!((answer.status, answer.reason(), answer.header("retry-after")), (503, "no_endpoint", "1"));
    scene.put("upstreams/nobody", json!({ "endpoints": [{ "address": free_address().to_string() }] })).await;
    let answer = scene.waypost.get("lost", "/").await;
    assert_eq!((answer.status, answer.reason()), (502, "connect_failed"));
    scene.put("endpoints/nobody/one", json!({ "address": scene.b.address.to_string() })).await;
    assert_eq!(scene.waypost.get("lost", "/").await.text(), "b", "the endpoint that refuses is passed over");
}

#[tokio::test]
async fn a_key_without_a_route_goes_to_the_default_owner_unfenced() {
    let scene = Scene::start().await;
    assert_eq!(scene.waypost.get("other", "/").await.reason(), "no_route");
    scene.put("services/orders", service(json!({ "default_owner": "b" }))).await;
    assert_eq!(scene.waypost.get("other", "/").await.text(), "b");
    let seen = scene.b.last();
    assert_eq!((seen.stamped("epoch").as_str(), seen.stamped("key").as_str()), ("0", "other"));
    assert_eq!(scene.route("other").await["source"], "default");
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "a");
    let seen = scene.a.last();
    assert_eq!((seen.stamped("service"), seen.stamped("epoch"), seen.stamped("hop")), ("orders".into(), "5".into(), "0".into()));
    assert_eq!((seen.stamped("table"), seen.stamped("wait-ms")), (scene.table().await, "50".into()));
}

#[tokio::test]
async fn an_endpoint_given_by_name_is_resolved_and_of_two_one_may_be_gone() {
    let scene = Scene::start().await;
    let (named, gone) = (format!("localhost:{}", scene.b.address.port()), free_address().to_string());
    scene.put("upstreams/a", json!({ "endpoints": [{ "address": gone }, { "address": named }] })).await;
    until_true("the name is resolved", async || scene.waypost.get("t1", "/").await.status == 200).await;
    for _ in 0..50 {
        assert_eq!(scene.waypost.get("t1", "/").await.text(), "b");
    }
}

#[tokio::test]
async fn the_table_shows_what_it_has() {
    let scene = Scene::start().await;
    let shown = scene.route("t1").await;
    assert_eq!(
        (&shown["owner"], &shown["epoch"], &shown["source"], &shown["record"]),
        (&json!("a"), &json!(5), &json!("watch"), &json!("t1"))
    );
    let status = scene.waypost.status().await;
    assert_eq!((&status["table"]["routes"], &status["table"]["upstreams"]), (&json!(1), &json!(2)));
    assert_eq!(status["proxy"], "edge-1");
    assert_eq!(status["table"]["digest"].as_str().map(str::len), Some(32));
    // Ready with the list, connected with the watch, a moment later.
    until_true("the watch stands", async || scene.waypost.metric("waypost_gold_connected").await > 0.5).await;
    assert_eq!(scene.waypost.json("/routes/orders/none").await["status"], 404);
}

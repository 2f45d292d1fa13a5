//! A bad value costs nothing but its own key.

use serde_json::json;
use waypost_tests::until;

use crate::scene::{Scene, route, service};

#[tokio::test]
async fn a_bad_value_leaves_the_last_good_one_in_force() {
    let scene = Scene::start().await;
    let bad: [(&[u8], &str); 5] = [
        (b"not json", "JSON"),
        (br#"{"owner":7}"#, "owner"),
        (br#"{"owner":"a","epoch":4}"#, "goes down"),
        (br#"{"owner":"b","epoch":5}"#, "owner changes"),
        (br#"{"owner":"b","epoch":0}"#, "from 1 to"),
    ];
    for (value, reason) in bad {
        let revision = scene.etcd.put_raw("routes/orders/t1", value).await;
        scene.waypost.at(revision).await;
        let held = scene.waypost.status().await["quarantined"].clone();
        assert_eq!(held[0]["key"], "/waypost/v1/routes/orders/t1");
        assert_eq!(held[0]["revision"], revision);
        assert!(held[0]["reason"].as_str().unwrap().contains(reason), "{held}");
        assert!((scene.waypost.metric("waypost_records_quarantined").await - 1.0).abs() < f64::EPSILON);
        assert_eq!(scene.waypost.get("t1", "/").await.text(), "a");
    }
    scene.put("routes/orders/t1", route("b", 6)).await;
    assert_eq!(scene.waypost.status().await["quarantined"], json!([]));
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "b");
}

#[tokio::test]
async fn a_bad_value_without_a_good_one_is_never_the_default_owner_s() {
    let scene = Scene::start().await;
    scene.put("services/orders", service(json!({ "default_owner": "b" }))).await;
    let revision = scene.etcd.put_all(&[("routes/orders/bad", json!("no object")), ("routes/orders/good", route("a", 1))]).await;
    scene.waypost.at(revision).await;
    let answer = scene.waypost.get("bad", "/").await;
    assert_eq!((answer.status, answer.reason(), answer.header("retry-after")), (503, "quarantined", "1"));
    assert_eq!(scene.waypost.get("good", "/").await.text(), "a", "the good records of a transaction apply");
    scene.put("services/bad", json!({ "match": [{ "path_prefix": "/bad" }], "key": "x" })).await;
    assert_eq!(scene.waypost.get("t1", "/bad/1").await.reason(), "quarantined");
    scene.delete("routes/orders/bad").await;
    assert_eq!(scene.waypost.get("bad", "/").await.text(), "b");
}

#[tokio::test]
async fn quarantine_and_last_good_value_survive_a_restart_without_the_store() {
    let mut scene = Scene::start().await;
    scene.put("routes/orders/t1", json!({ "ownr": "b" })).await;
    scene.put("routes/orders/never", json!(3)).await;
    let digest = scene.waypost.status().await["table"]["digest"].clone();
    scene.waypost.terminate();
    scene.waypost.wait(std::time::Duration::from_secs(20));
    scene.etcd.kill();
    scene.waypost.spawn();
    scene.waypost.ready().await;
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "a");
    assert_eq!(scene.waypost.get("never", "/").await.reason(), "quarantined");
    let status = scene.waypost.status().await;
    assert_eq!(status["quarantined"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["table"]["digest"], digest);
}

#[tokio::test]
async fn what_is_known_but_not_acted_on_is_said() {
    let scene = Scene::start().await;
    scene.put("upstreams/b", json!({ "endpoints": [{ "address": "127.0.0.1:1" }], "health": { "path": "/" }, "colour": "blue" })).await;
    let warnings = scene.waypost.status().await["warnings"].to_string();
    assert!(warnings.contains("health") && warnings.contains("colour"), "{warnings}");
}

#[tokio::test]
async fn very_many_bad_records_are_all_told_and_hold_nothing_up() {
    const BATCHES: usize = 250;
    let scene = Scene::start().await;
    for batch in 0..BATCHES {
        let bad: Vec<(String, serde_json::Value)> = (0..120).map(|n| (format!("routes/orders/bad-{batch}-{n}"), json!([]))).collect();
        let bad: Vec<(&str, serde_json::Value)> = bad.iter().map(|(key, value)| (&**key, value.clone())).collect();
        scene.etcd.put_all(&bad).await;
    }
    scene.put("routes/orders/t1", route("b", 6)).await;
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "b");
    until("all are told", async || match scene.waypost.metric("waypost_records_quarantined").await {
        count if (count - 120.0 * BATCHES as f64).abs() < 0.5 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;
    assert_eq!(scene.waypost.status().await["quarantined"].as_array().map(Vec::len), Some(120 * BATCHES));
}

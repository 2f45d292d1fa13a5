//! Deletes of most routes at once: held back while the store is asked, never taken if it holds no routes, unless that is allowed.

use serde_json::{Value, json};
use waypost_tests::{Backend, Etcd, Waypost, until, until_true};

use crate::scene::{route, service};

const ROUTES: usize = 120;

struct Stage {
    etcd: Etcd,
    _a: Backend,
    waypost: Waypost,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// `count` routes of `a`, half of them under `routes/orders/x…`, and a proxy with more settings.
    async fn start(settings: &str) -> Self {
        let etcd = Etcd::start().await;
        let a = Backend::named("a").await;
        etcd.put_all(&[("services/orders", service(json!({}))), ("upstreams/a", a.upstream())]).await;
        let revision = fill(&etcd, "x", ROUTES).await;
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("waypost.toml");
        std::fs::write(&config, format!("[gold]\nendpoints = [\"{}\"]\n{settings}\n", etcd.url())).unwrap();
        let waypost = Waypost::start(&etcd.url(), &["--config", config.to_str().unwrap()]).await;
        waypost.at(revision).await;
        Self { etcd, _a: a, waypost, _folder: folder }
    }

    async fn held(&self) -> usize {
        self.waypost.status().await["held_back"].as_array().unwrap().len()
    }
}

async fn fill(etcd: &Etcd, name: &str, count: usize) -> u64 {
    let records: Vec<(String, Value)> = (0..count).map(|n| (format!("routes/orders/{name}{n}"), route("a", 1))).collect();
    let records: Vec<(&str, Value)> = records.iter().map(|(key, value)| (&**key, value.clone())).collect();
    etcd.put_all(&records).await
}

#[tokio::test]
async fn deleting_everything_changes_no_request_until_a_key_is_put_again() {
    let mut stage = Stage::start("").await;
    let revision = stage.etcd.delete_prefix("routes/").await;
    stage.waypost.at(revision).await;
    let status = stage.waypost.status().await;
    assert_eq!(stage.held().await, ROUTES, "{status}");
    assert!((stage.waypost.metric("waypost_records_held_back").await - 120.0).abs() < f64::EPSILON);
    assert!(status["held_back"].to_string().contains("routes/orders/x7\""), "{status}");
    assert_eq!(stage.waypost.get("x7", "/").await.text(), "a");
    let revision = stage.etcd.put("routes/orders/x7", route("b", 1)).await;
    stage.waypost.at(revision).await;
    assert_eq!(stage.waypost.get("x7", "/").await.reason(), "no_upstream", "later revisions apply, and a put ends a hold");
    assert_eq!(stage.held().await, ROUTES - 1);
    assert_eq!(stage.waypost.get("x8", "/").await.text(), "a");
    // Held routes are in the snapshot, too.
    stage.waypost.terminate();
    stage.waypost.wait(std::time::Duration::from_secs(20));
    stage.waypost.spawn();
    stage.waypost.ready().await;
    stage.waypost.at(revision).await;
    assert_eq!((stage.held().await, stage.waypost.get("x8", "/").await.text()), (ROUTES - 1, "a".to_owned()));
}

#[tokio::test]
async fn an_empty_store_is_believed_where_that_is_allowed() {
    let stage = Stage::start("allow_empty = true").await;
    let revision = stage.etcd.delete_prefix("routes/").await;
    stage.waypost.at(revision).await;
    assert_eq!((stage.held().await, stage.waypost.get("x7", "/").await.reason()), (0, "no_route"));
}

#[tokio::test]
async fn deleting_most_routes_is_taken_once_the_store_has_confirmed_it() {
    let stage = Stage::start("").await;
    let revision = fill(&stage.etcd, "y", 80).await;
    stage.waypost.at(revision).await;
    let revision = stage.etcd.delete_prefix("routes/orders/x").await;
    stage.waypost.at(revision).await;
    until("the deletes are taken", async || match stage.held().await {
        0 => Ok(()),
        held => Err(format!("{held} are held back")),
    })
    .await;
    assert_eq!(stage.waypost.get("x7", "/").await.reason(), "no_route");
    assert_eq!(stage.waypost.get("y7", "/").await.text(), "a");
    until_true("it was said", async || stage.waypost.said().contains("the store has confirmed that most routes were deleted")).await;
}

//! Metrics, access log and what the process says: exact names, the classic format, staleness, and no secret anywhere.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use waypost_tests::{Backend, Client, Etcd, Reply, Waypost, until, until_true};

use crate::scene::{Scene, route, service};

/// A strict reader of the classic text format: kinds and samples by name, or what is wrong.
fn parsed(text: &str) -> Result<BTreeMap<String, (String, Vec<String>)>, String> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let mut families: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    let mut series = BTreeSet::new();
    let mut current = String::new();
    if !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    for line in text.lines() {
        let wrong = |why: &str| Err(format!("{why}: {line}"));
        if let Some(rest) = line.strip_prefix("# ") {
            match rest.splitn(3, ' ').collect::<Vec<_>>()[..] {
                ["HELP", name, _] if is_name(name) && !families.contains_key(name) => {}
                ["TYPE", name, kind @ ("counter" | "gauge" | "histogram")] if is_name(name) && !families.contains_key(name) => {
                    if (kind == "counter") != name.ends_with("_total") || name.ends_with("_total_total") {
                        return wrong("a counter, and nothing else, ends in _total, once");
                    }
                    families.insert(name.to_owned(), (kind.to_owned(), Vec::new()));
                    current = name.to_owned();
                }
                _ => return wrong("no description"),
            }
            continue;
        }
        let Some((labelled, value)) = line.rsplit_once(' ') else { return wrong("no value") };
        if value.parse::<f64>().is_err() && value != "+Inf" {
            return wrong("no number");
        }
        let name = labelled.split('{').next().unwrap();
        let (kind, samples) = families.get_mut(&current).ok_or_else(|| format!("nothing describes {line}"))?;
        let endings: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        if !endings.iter().any(|ending| name == format!("{current}{ending}")) {
            return wrong("not of the family above it");
        }
        if labelled.contains('{') && !(labelled.ends_with("\"}") && labelled.contains("=\"")) {
            return wrong("broken labels");
        }
        if !series.insert(labelled.to_owned()) {
            return wrong("a second time");
        }
        samples.push(line.to_owned());
    }
    Ok(families)
}

#[tokio::test]
async fn every_metric_of_the_contract_is_there_and_a_strict_reader_takes_it() {
    let mut scene = Scene::start().await;
    assert_eq!(scene.waypost.get("t1", "/").await.status, 200);
    assert_eq!(scene.waypost.get("unknown", "/").await.reason(), "no_route");
    let text = until("the requests are counted", async || {
        let answer = Client::fetch(scene.waypost.admin, "/metrics").await?;
        assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let text = answer.text();
        if text.contains("reason=\"no_route\"") { Ok(text) } else { Err(text) }
    })
    .await;
    let families = parsed(&text).unwrap();
    for (name, kind) in [
        ("requests_total", "counter"),
        ("request_duration_seconds", "histogram"),
        ("proxy_overhead_seconds", "histogram"),
        ("upstream_connect_seconds", "histogram"),
        ("in_flight", "gauge"),
        ("table_revision", "gauge"),
        ("gold_age_seconds", "gauge"),
        ("gold_connected", "gauge"),
        ("gold_other_history", "gauge"),
        ("table_routes", "gauge"),
        ("table_publishes_total", "counter"),
        ("table_publish_seconds", "histogram"),
        ("records_quarantined", "gauge"),
        ("records_held_back", "gauge"),
        ("snapshot_age_seconds", "gauge"),
        ("snapshot_failed", "gauge"),
        ("resyncs_total", "counter"),
        ("stale_total", "counter"),
        ("stale_outcome_total", "counter"),
        ("hops", "histogram"),
        ("hints", "gauge"),
        ("parked", "gauge"),
        ("retries_total", "counter"),
        ("retry_budget_exhausted_total", "counter"),
    ] {
        let family = families.get(&format!("waypost_{name}")).unwrap_or_else(|| panic!("waypost_{name} is missing in\n{text}"));
        assert_eq!(family.0, kind, "{name}");
        assert!(!family.1.is_empty(), "{name} has no sample");
    }
    for line in [
        "waypost_requests_total{service=\"orders\",upstream=\"a\",status=\"200\",reason=\"\"} 1",
        "waypost_requests_total{service=\"orders\",upstream=\"\",status=\"404\",reason=\"no_route\"} 1",
        "waypost_gold_connected{shard=\"default\"} 1",
        "waypost_stale_total{state=\"moved\"} 0",
        "waypost_stale_outcome_total{outcome=\"unhealed\"} 0",
        "waypost_resyncs_total{reason=\"compacted\"} 0",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
    }
    let mut client = Client::connect(scene.waypost.admin).await;
    let asked = client.get("/metrics", &[("accept", "application/openmetrics-text; version=1.0.0")]).await;
    assert!(asked.header("content-type").starts_with("application/openmetrics-text") && asked.text().ends_with("# EOF\n"));
    scene.etcd.kill();
    until_true("the loss is 0, not absent", async || {
        let text = Client::fetch(scene.waypost.admin, "/metrics").await.unwrap().text();
        text.lines().any(|line| line == "waypost_gold_connected{shard=\"default\"} 0")
    })
    .await;
}

#[tokio::test]
async fn a_service_that_wants_fresh_routes_is_refused_while_the_store_is_away_and_no_other() {
    let mut scene = Scene::start().await;
    let strict = json!({ "match": [{ "hosts": ["strict.example.com"] }], "key": { "header": "x-tenant" }, "default_owner": "b", "policy": "strict" });
    scene.put("policies/strict", json!({ "max_staleness_ms": 1500 })).await;
    scene.put("services/strict", strict).await;
    let ask = async || {
        let mut client = scene.waypost.client().await;
        client.get("/", &[("host", "strict.example.com"), ("x-tenant", "t1")]).await
    };
    assert_eq!(ask().await.text(), "b");
    let admin = scene.waypost.admin;
    let listen = scene.waypost.listen;
    let ask = async || {
        let mut client = Client::connect(listen).await;
        client.get("/", &[("host", "strict.example.com"), ("x-tenant", "t1")]).await
    };
    scene.etcd.kill();
    let refused = until("it is too stale", async || {
        let answer = ask().await;
        if answer.status == 503 { Ok(answer) } else { Err(answer.text()) }
    })
    .await;
    assert_eq!((refused.reason(), refused.header("retry-after")), ("too_stale", "1"));
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "a", "a service without a limit is served");
    assert_eq!(Client::fetch(admin, "/routes/strict/t1").await.unwrap().status, 200);
    scene.etcd.restart().await;
    until("it is fresh again", async || {
        let answer = ask().await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

#[tokio::test]
async fn a_quiet_store_in_contact_is_never_too_stale() {
    let scene = Scene::start().await;
    scene.put("policies/default", json!({ "max_staleness_ms": 1000 })).await;
    let ends = std::time::Instant::now() + std::time::Duration::from_secs(3);
    while std::time::Instant::now() < ends {
        let answer = scene.waypost.get("t1", "/").await;
        assert_eq!(answer.status, 200, "{}", answer.reason());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn no_secret_is_said_anywhere() {
    const SECRETS: [&str; 7] =
        ["s3cret-url", "s3cret-query", "s3cret-auth", "s3cret-cookie", "s3cret-pem", "s3cret-connect", "s3cret-proxy"];
    let etcd = Etcd::start().await;
    let a = Backend::start(|_| Reply::ok("a")).await;
    etcd.put_all(&[("services/orders", service(json!({}))), ("upstreams/a", a.upstream()), ("routes/orders/t1", route("a", 5))]).await;
    let bad = json!({ "hosts": ["x.example.com"], "cert": "file:/x", "key": "-----BEGIN PRIVATE KEY-----s3cret-pem" });
    etcd.put("certificates/x", bad).await;
    let plain = Waypost::start(&etcd.url(), &[]).await;
    let with_password = etcd.url().replace("http://", "http://root:s3cret-url@");
    let mut client = plain.client().await;
    let headers = [
        ("x-tenant", "t1"),
        ("authorization", "Bearer s3cret-auth"),
        ("cookie", "id=s3cret-cookie"),
        ("proxy-authorization", "s3cret-proxy"),
    ];
    assert_eq!(client.get("/x?token=s3cret-query", &headers).await.status, 200);
    assert_eq!(client.get("/nowhere?token=s3cret-query", &[("x-tenant", "unknown")]).await.status, 404);
    let _ = plain.client().await.try_request("CONNECT", "user:s3cret-connect@host:443", &[], b"").await;
    let _ = plain.client().await.try_request("GET", "nothing?s3cret-query", &[], b"").await;
    until_true("the log has them", async || plain.access_log().len() >= 3).await;
    let mut outputs = vec![("stderr", plain.said())];
    outputs.push(("access log", plain.access_log().iter().map(ToString::to_string).collect()));
    for path in ["/status", "/metrics", "/routes/orders/t1"] {
        outputs.push((path, Client::fetch(plain.admin, path).await.unwrap().text()));
    }
    let (_, out, err) = Waypost::run(&["route", "get", "orders", "t1", "--gold", &with_password]).await;
    outputs.extend([("route get", out), ("route get", err)]);
    for gold in [&with_password, "ftp://root:s3cret-url@host"] {
        let (_, out, err) = Waypost::run(&["run", "--gold", gold]).await;
        assert!(err.contains("--gold-password-file"), "{err}");
        outputs.extend([("run", out), ("run", err)]);
    }
    for (name, text) in outputs {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} is in {name}:\n{text}");
        }
    }
}

#[tokio::test]
async fn a_healthy_proxy_says_little() {
    let mut scene = Scene::start().await;
    let mut client = scene.waypost.client().await;
    for epoch in 6..26 {
        scene.put("routes/orders/t1", route("a", epoch)).await;
        for _ in 0..50 {
            assert_eq!(client.get("/", &[("x-tenant", "t1")]).await.status, 200);
        }
    }
    drop(client);
    scene.waypost.terminate();
    assert!(scene.waypost.wait(std::time::Duration::from_secs(20)).success());
    let said = scene.waypost.said();
    assert!(said.lines().count() <= 10, "{said}");
    assert_eq!(scene.waypost.access_log().len(), 1000, "no line is lost at the end");
}

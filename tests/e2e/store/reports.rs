//! What each proxy says of itself to the fleet, at `<prefix>-state/fleet/<proxy>`, and that nothing depends on it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use waypost_tests::{Etcd, PREFIX, Waypost, until, until_true};

use super::Cells;
use crate::scene::route;

const KEY: &str = "fleet/edge-1";

/// A report as the store has it: what it says, how often it was written since it was made, and under which lease.
struct Report {
    value: Value,
    writes: i64,
    lease: i64,
}

async fn report(etcd: &Etcd) -> Option<Report> {
    let found = etcd.client().await.get(format!("{PREFIX}-state/{KEY}"), None).await.unwrap();
    let kv = found.kvs().first()?;
    Some(Report { value: serde_json::from_slice(kv.value()).unwrap(), writes: kv.version(), lease: kv.lease() })
}

/// Waits until a report says what is in force.
async fn reported(etcd: &Etcd, waypost: &Waypost) -> Report {
    until("what is in force is reported", async || {
        let status = waypost.status().await;
        let Some(report) = report(etcd).await else { return Err("there is no report".to_owned()) };
        let is_so = report.value["digest"] == status["table"]["digest"] && report.value["table"] == status["gold"][0]["table"];
        if is_so { Ok(report) } else { Err(format!("{} of {status}", report.value)) }
    })
    .await
}

async fn gone(etcd: &Etcd) {
    until_true("the report is gone", async || report(etcd).await.is_none()).await;
}

#[tokio::test]
async fn what_a_proxy_has_applied_is_reported_now_and_then_while_it_runs() {
    let etcd = Etcd::start().await;
    let _cells = Cells::of(&etcd).await;
    let mut waypost = Waypost::start(&etcd.url(), &[]).await;
    let Report { value, writes, .. } = reported(&etcd, &waypost).await;
    let since = Instant::now();
    assert_eq!((&value["version"], &value["source"]), (&json!(env!("CARGO_PKG_VERSION")), &json!("watch")));
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    assert!(now_ms.abs_diff(value["at_ms"].as_u64().unwrap()) < 60_000, "{value}");
    // Changes one behind the other, for longer than two reports are apart: few of them are seen.
    let mut revision = 0;
    let mut epoch = 1;
    until_true("it was reported twice more", async || {
        epoch += 1;
        revision = etcd.put("routes/orders/t1", route(if epoch % 2 == 0 { "b" } else { "a" }, epoch)).await;
        report(&etcd).await.unwrap().writes >= writes + 2
    })
    .await;
    waypost.at(revision).await;
    let last = reported(&etcd, &waypost).await;
    assert!(last.value["revision"].as_u64() >= Some(revision) && epoch > 10, "{} of {revision}, epoch {epoch}", last.value);
    assert!(
        (last.writes - writes) as f64 <= since.elapsed().as_secs_f64() / 5.0 + 1.0,
        "{} in {:?}",
        last.writes - writes,
        since.elapsed()
    );
    waypost.kill();
    gone(&etcd).await;
    waypost.spawn();
    waypost.ready().await;
    let again = reported(&etcd, &waypost).await;
    assert_eq!((again.writes, again.value["revision"].as_u64() >= Some(revision)), (1, true), "made anew: {}", again.value);
    // One that ends takes its report with it.
    waypost.terminate();
    waypost.wait(Duration::from_secs(30));
    assert!(report(&etcd).await.is_none());
}

#[tokio::test]
async fn a_process_that_takes_over_reports_on_under_the_same_name() {
    let etcd = Etcd::start().await;
    let _cells = Cells::of(&etcd).await;
    let mut waypost = Waypost::start(&etcd.url(), &[]).await;
    let before = reported(&etcd, &waypost).await;
    waypost.upgrade_gently().await;
    let after = until("the new process reports", async || match report(&etcd).await {
        Some(report) if report.lease != before.lease => Ok(report),
        other => Err(format!("{:?}", other.map(|report| report.value))),
    })
    .await;
    assert_eq!(after.value["digest"], waypost.status().await["table"]["digest"]);
}

#[tokio::test]
async fn who_may_not_report_or_is_not_to_serves_as_well() {
    let (control, quiet, mut closed) = (Etcd::start().await, Etcd::start().await, Etcd::with(&["--bcrypt-cost", "4"]).await);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let settings = file("waypost.toml", format!("[gold]\nendpoints = [\"{}\"]\nfleet_report = false\n", quiet.url()));
    let password = file("password", "secret".to_owned());
    for etcd in [&control, &quiet, &closed] {
        let _cells = Cells::of(etcd).await;
    }
    closed.enable_auth().await;
    closed.add_user("edge", "secret").await;
    closed.grant("edge", &format!("{PREFIX}/"), false).await;
    let told_not_to = Waypost::start(&quiet.url(), &["--config", &settings]).await;
    let may_not = Waypost::start(&closed.url(), &["--gold-user", "edge", "--gold-password-file", &password]).await;
    // By its second report all had their first behind them.
    let reports = Waypost::start(&control.url(), &[]).await;
    let first = reported(&control, &reports).await;
    control.put("routes/orders/t1", route("b", 2)).await;
    until_true("the second report", async || report(&control).await.is_some_and(|report| report.writes > first.writes)).await;
    assert!(report(&quiet).await.is_none() && report(&closed).await.is_none());
    until_true("what is missing is said", async || may_not.said().contains("-state/fleet/")).await;
    assert_eq!((may_not.said().matches("can't be reported").count(), told_not_to.said().matches("reported").count()), (1, 0));
    for (etcd, waypost) in [(&quiet, &told_not_to), (&closed, &may_not)] {
        let revision = etcd.put("routes/orders/t1", route("b", 2)).await;
        waypost.at(revision).await;
        assert!(waypost.status().await["warnings"].as_array().unwrap().is_empty());
    }
}

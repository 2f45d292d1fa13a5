//! The watcher against a store whose history is another, or may be: what a reconnect notices, what only the digest check does, and what is
//! refused because it is too much. A real etcd each, restored from its own backups.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod stage;

use std::time::{Duration, Instant};

use stage::{Etcd, LIMIT, owner, request_key, settings, until, until_revision};
use waypost_conf::Name;
use waypost_watcher::{Checked, GoldStatus, Settings, Watcher};

const A: &str = r#"{"owner":"a"}"#;
const B: &str = r#"{"owner":"b"}"#;
/// More than the changes that are kept as the anchor.
const ROUTES: usize = 40;

fn checking(etcd: &Etcd) -> Watcher {
    let every = Duration::from_millis(200);
    waypost_watcher::start(Settings { digest_check_every: every, ..settings(&etcd.url(), None) }).unwrap()
}

/// Routes `t0` to `t39`, one revision each, the first of this owner, the others of `a`; the last revision.
async fn write_routes(etcd: &Etcd, first: &str) -> u64 {
    let mut revision = etcd.put("routes/orders/t0", first).await;
    for n in 1..ROUTES {
        revision = etcd.put(&format!("routes/orders/t{n}"), A).await;
    }
    revision
}

fn is_refused(status: &GoldStatus) -> bool {
    status.last_error.as_deref().is_some_and(|error| error.contains("raise the integer"))
}

#[tokio::test]
async fn a_table_that_is_the_store_s_is_found_to_be_again_and_again() {
    let etcd = Etcd::start().await;
    etcd.filled().await;
    let watcher = checking(&etcd);
    for n in 0..3 {
        let before = watcher.view.status().digest_checks.get("equal").copied().unwrap_or_default();
        let revision = etcd.put("routes/orders/t2", if n == 1 { "{" } else { A }).await;
        until(&watcher.view, "two more checks were made", |table, status| {
            table.revision() >= revision && status.digest_checks.get("equal").copied().unwrap_or_default() >= before + 2
        })
        .await;
    }
    let status = watcher.view.status();
    assert!(status.digest_checked.is_some_and(|checked| checked.is_equal), "{status:?}");
    assert_eq!((status.digest_checks.get("different"), status.resyncs.len()), (None, 0));
    watcher.stop().await;
}

#[tokio::test]
async fn a_quiet_store_whose_history_was_compacted_can_be_checked() {
    let etcd = Etcd::start().await;
    let revision = etcd.filled().await;
    let watcher = checking(&etcd);
    until_revision(&watcher.view, revision).await;
    // Below another prefix: nothing of it reaches the watch.
    let mut client = etcd.client().await;
    client.put("/other", "x", None).await.unwrap();
    let now = client.put("/other", "y", None).await.unwrap().header().unwrap().revision();
    etcd.compact(u64::try_from(now).unwrap()).await;
    let checked = |status: &GoldStatus| status.digest_checked.filter(|checked| checked.revision >= u64::try_from(now).unwrap());
    until(&watcher.view, "it is checked at the store's revision", |_, status| checked(status).is_some_and(|checked| checked.is_equal))
        .await;
    watcher.stop().await;
}

/// A backup was restored and written to just as before but for one record: the last changes are the same, key by key and revision by revision.
#[tokio::test]
async fn a_restore_that_no_reconnect_can_notice_is_found_by_the_digest() {
    let mut etcd = Etcd::start().await;
    etcd.filled().await;
    etcd.backup();
    let revision = write_routes(&etcd, A).await;
    let watcher = checking(&etcd);
    let before = until_revision(&watcher.view, revision).await;
    etcd.restore_hidden(async |etcd| assert_eq!(write_routes(etcd, B).await, revision)).await;
    until(&watcher.view, "the difference is noticed and refused", |_, status| {
        status.digest_checks.get("different") >= Some(&1) && is_refused(status)
    })
    .await;
    let table = watcher.view.load_full().unwrap();
    assert_eq!((table.revision(), table.digest()), (before.revision(), before.digest()), "the live table goes on serving");
    assert!(watcher.view.status().last_error.unwrap().contains("routes/orders/t0"), "and it is said what shows it");
    etcd.put("incarnation", "1").await;
    let table = until(&watcher.view, "the new incarnation is in force", |table, _| table.id() != before.id()).await;
    assert_eq!(owner(&table, "t0").as_deref(), Some("b"));
    watcher.stop().await;
}

/// The key that was changed last was deleted: that it is not there proves nothing.
#[tokio::test]
async fn a_restore_is_noticed_behind_a_delete() {
    let mut etcd = Etcd::start().await;
    let filled = etcd.filled().await;
    etcd.backup();
    let watcher = stage::watch(&etcd);
    // What comes is followed then, not listed: of what came and went before a list nobody knows.
    until_revision(&watcher.view, filled).await;
    etcd.put("routes/orders/t2", A).await;
    let revision = etcd.delete("routes/orders/t2").await;
    until_revision(&watcher.view, revision).await;
    etcd.restore_hidden(async |etcd| {
        for _ in 0..3 {
            etcd.put("routes/orders/t1", B).await;
        }
    })
    .await;
    let table = until(&watcher.view, "the restore is noticed", |_, status| is_refused(status)).await;
    assert_eq!((owner(&table, "t1").as_deref(), table.revision()), (Some("a"), revision));
    watcher.stop().await;
}

/// From the moment at which a restored store can be reached, and for as long as its incarnation has not been raised, no check takes its word.
#[tokio::test]
async fn a_store_whose_history_is_another_is_not_read_from() {
    let mut etcd = Etcd::start().await;
    let filled = etcd.filled().await;
    etcd.backup();
    let watcher = stage::watch(&etcd);
    until_revision(&watcher.view, filled).await;
    let revision = etcd.put("routes/orders/rolled-back", B).await;
    let before = until_revision(&watcher.view, revision).await;
    etcd.restore_hidden(async |etcd| {
        for _ in 0..5 {
            etcd.put("routes/orders/t1", B).await;
        }
    })
    .await;
    let (service, key) = (Name::try_from("orders").unwrap(), request_key(&before, "t1").unwrap());
    let refuses = async |what: &str| {
        let checked = watcher.asker.check(&service, &key).await;
        assert!(!matches!(checked, Checked::Answered { .. }), "{what}");
        assert_eq!(owner(&watcher.view.load_full().unwrap(), "t1").as_deref(), Some("a"), "{what}");
    };
    let end = Instant::now() + LIMIT;
    while !watcher.view.is_other_history() {
        refuses("before it was noticed").await;
        assert!(Instant::now() < end, "{:?}", watcher.view.status());
    }
    assert!(is_refused(&watcher.view.status()), "what to do is told with it");
    let noticed = Instant::now();
    // The connection is made anew several times meanwhile.
    while noticed.elapsed() < Duration::from_secs(1) {
        refuses("afterwards").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    etcd.put("incarnation", "1").await;
    let table = until(&watcher.view, "the new incarnation is in force", |table, _| table.id() != before.id()).await;
    assert_eq!((owner(&table, "t1").as_deref(), watcher.view.is_other_history()), (Some("b"), false));
    let end = Instant::now() + LIMIT;
    while !matches!(watcher.asker.check(&service, &key).await, Checked::Answered { .. }) {
        assert!(Instant::now() < end, "checks are answered again");
    }
    watcher.stop().await;
}

#[tokio::test]
async fn a_store_with_too_many_records_changes_nothing_until_it_has_fewer() {
    let etcd = Etcd::start().await;
    let revision = etcd.filled().await;
    let watcher = waypost_watcher::start(Settings { most_records: 6, ..settings(&etcd.url(), None) }).unwrap();
    until_revision(&watcher.view, revision).await;
    for n in 2..4 {
        etcd.put(&format!("routes/orders/t{n}"), A).await;
    }
    let fits = etcd.put("routes/orders/t1", B).await;
    until_revision(&watcher.view, fits).await;
    etcd.put("routes/orders/t4", A).await;
    let is_full = |status: &GoldStatus| status.last_error.as_deref().is_some_and(|error| error.contains("more than 6 records"));
    let table = until(&watcher.view, "it is said that there are too many", |_, status| is_full(status)).await;
    assert_eq!((owner(&table, "t1").as_deref(), owner(&table, "t4"), table.revision()), (Some("b"), None, fits));
    etcd.delete("routes/orders/t2").await;
    let table = until(&watcher.view, "there are few enough", |table, _| owner(table, "t4").is_some()).await;
    assert_eq!(owner(&table, "t2"), None);
    assert!(watcher.view.status().resyncs.contains_key("full"));
    watcher.stop().await;
}

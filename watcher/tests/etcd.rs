//! The watcher against a real etcd: what is written is seen, whole, and outages, compaction and restores change nothing that they
//! should not. Each test starts an etcd of its own on free ports and waits for conditions, never for time to pass.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod stage;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use stage::{Etcd, LIMIT, PREFIX, free_port, owner, request_key, settings, until, until_revision, watch, watch_with_snapshot};
use waypost_conf::Name;
use waypost_policy::{Source, table::RequestKey};
use waypost_watcher::{
    Checked, EtcdPlace, GoldPlace,
    store::{Change, Store, Swapped},
};

/// Requests and the watcher have nothing to wait for in common: here the only thread of the runtime that it was started on does nothing else.
#[tokio::test]
async fn a_watcher_does_not_need_the_threads_it_was_started_on() {
    let etcd = Etcd::start().await;
    etcd.filled().await;
    let watcher = watch(&etcd);
    let end = Instant::now() + LIMIT;
    while watcher.view.load_full().is_none() {
        assert!(Instant::now() < end, "nothing is in force");
        std::thread::sleep(Duration::from_millis(1));
    }
    watcher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_deletes_and_whole_transactions_are_seen() {
    let etcd = Etcd::start().await;
    etcd.filled().await;
    let watcher = watch(&etcd);
    let table = until(&watcher.view, "the first list is in force", |_, status| status.connected).await;
    assert_eq!((owner(&table, "t1").as_deref(), table.source()), (Some("a"), Source::Watch));
    let revision = etcd.put("routes/orders/t2", r#"{"owner":"a"}"#).await;
    assert_eq!(owner(&*until_revision(&watcher.view, revision).await, "t2").as_deref(), Some("a"));

    // Two routes that always change together are never seen apart.
    let done = Arc::new(AtomicBool::new(false));
    let (view, is_done) = (watcher.view.clone(), Arc::clone(&done));
    let reader = tokio::task::spawn_blocking(move || {
        let mut seen = 0u64;
        while !is_done.load(Ordering::Relaxed) {
            let table = view.load_full().unwrap();
            assert_eq!(owner(&table, "t1"), owner(&table, "t2"), "at revision {}", table.revision());
            seen += 1;
        }
        seen
    });
    let mut kv = etcd.client().await.kv_client();
    let mut revision = 0;
    for turn in 0..200 {
        let value = format!(r#"{{"owner":"{}"}}"#, if turn % 2 == 0 { "b" } else { "a" });
        let puts = ["t1", "t2"].map(|key| TxnOp::put(format!("{PREFIX}/routes/orders/{key}"), value.clone(), None));
        let swapped = kv.txn(Txn::new().and_then(puts)).await.unwrap();
        revision = u64::try_from(swapped.header().unwrap().revision()).unwrap();
    }
    until_revision(&watcher.view, revision).await;
    done.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 0);

    let revision = etcd.delete("routes/orders/t2").await;
    assert_eq!(owner(&*until_revision(&watcher.view, revision).await, "t2"), None);
    assert_eq!(watcher.view.status().resyncs.len(), 0);
    watcher.stop().await;
}

#[tokio::test]
async fn a_killed_member_is_followed_again_from_the_cursor() {
    let mut etcd = Etcd::start().await;
    etcd.filled().await;
    let watcher = watch(&etcd);
    until(&watcher.view, "the first list is in force", |_, status| status.connected).await;
    etcd.kill();
    let table = until(&watcher.view, "the loss is told", |_, status| !status.connected && status.last_error.is_some()).await;
    assert_eq!(owner(&table, "t1").as_deref(), Some("a"), "what is known goes on being served");
    etcd.restart().await;
    let revision = etcd.put("routes/orders/t1", r#"{"owner":"b"}"#).await;
    let table = until_revision(&watcher.view, revision).await;
    assert_eq!(owner(&table, "t1").as_deref(), Some("b"));
    let table = until(&watcher.view, "the contact is told", |_, status| status.connected && status.last_error.is_none()).await;
    assert_eq!(table.source(), Source::Watch);
    assert_eq!(watcher.view.status().resyncs.len(), 0, "resumed, not listed");
    watcher.stop().await;
}

#[tokio::test]
async fn a_snapshot_serves_without_the_store_and_catches_up_with_it() {
    let mut etcd = Etcd::start().await;
    etcd.filled().await;
    etcd.put("routes/orders/bad", "{").await;
    let revision = etcd.put("routes/orders/gone", r#"{"owner":"a"}"#).await;
    let watcher = watch_with_snapshot(&etcd);
    let saved = until_revision(&watcher.view, revision).await;
    watcher.stop().await;
    etcd.kill();

    let watcher = watch_with_snapshot(&etcd);
    let table = watcher.view.load_full().expect("a table is in force when start returns");
    assert_eq!((table.source(), table.digest(), table.id()), (Source::Snapshot, saved.digest(), saved.id()));
    assert_eq!((owner(&table, "t1").as_deref(), owner(&table, "gone").as_deref()), (Some("a"), Some("a")));
    assert_eq!(watcher.view.status().quarantined[0].key, format!("{PREFIX}/routes/orders/bad"));

    etcd.restart().await;
    let table = until(&watcher.view, "the snapshot is confirmed", |table, _| table.source() == Source::Watch).await;
    assert_eq!(table.revision(), revision, "nothing has changed, and the source is the watch all the same");
    etcd.delete("routes/orders/gone").await;
    let revision = etcd.put("routes/orders/t1", r#"{"owner":"b"}"#).await;
    let table = until_revision(&watcher.view, revision).await;
    assert_eq!((owner(&table, "t1").as_deref(), owner(&table, "gone")), (Some("b"), None));
    assert_eq!(watcher.view.status().resyncs.len(), 0, "resumed, not listed");
    watcher.stop().await;
}

#[tokio::test]
async fn what_was_compacted_while_away_is_found_by_comparison() {
    let etcd = Etcd::start().await;
    etcd.filled().await;
    let revision = etcd.put("routes/orders/gone", r#"{"owner":"a"}"#).await;
    let watcher = watch_with_snapshot(&etcd);
    until_revision(&watcher.view, revision).await;
    watcher.stop().await;
    etcd.delete("routes/orders/gone").await;
    etcd.put("routes/orders/new", r#"{"owner":"b"}"#).await;
    let revision = etcd.put("routes/orders/t1", r#"{"owner":"b"}"#).await;
    etcd.compact(revision).await;

    let watcher = watch_with_snapshot(&etcd);
    // The live table is never without the routes that it had.
    let table = until(&watcher.view, "the list is in force", |table, _| {
        assert!(owner(table, "t1").is_some());
        table.revision() >= revision
    });
    let table = table.await;
    let owners = ["t1", "new", "gone"].map(|key| owner(&table, key));
    assert_eq!(owners.each_ref().map(Option::as_deref), [Some("b"), Some("b"), None]);
    assert_eq!(watcher.view.status().resyncs.get("compacted"), Some(&1));
    let fresh = watch(&etcd);
    let listed = until_revision(&fresh.view, revision).await;
    assert_eq!(listed.digest(), table.digest(), "two proxies at one revision have one digest");
    fresh.stop().await;
    watcher.stop().await;
}

#[tokio::test]
async fn what_a_check_read_is_in_force_when_it_is_answered() {
    let mut etcd = Etcd::start().await;
    etcd.filled().await;
    let watcher = watch(&etcd);
    let table = until(&watcher.view, "the first list is in force", |_, status| status.connected).await;
    let (service, key) = (Name::try_from("orders").unwrap(), request_key(&table, "t1").unwrap());
    for turn in 0..20 {
        let now = if turn % 2 == 0 { "b" } else { "a" };
        etcd.put("routes/orders/t1", &format!(r#"{{"owner":"{now}"}}"#)).await;
        assert!(matches!(watcher.asker.check(&service, &key).await, Checked::Answered { .. }));
        assert_eq!(owner(&watcher.view.load_full().unwrap(), "t1").as_deref(), Some(now));
    }
    etcd.delete("routes/orders/t1").await;
    assert!(matches!(watcher.asker.check(&service, &key).await, Checked::Answered { .. }));
    assert_eq!(owner(&watcher.view.load_full().unwrap(), "t1"), None, "absence is an answer");

    // A crowd that asks for one key shares a read; one that asks for many meets the cap.
    let ask = |key: RequestKey| {
        let (asker, service) = (watcher.asker.clone(), service.clone());
        tokio::spawn(async move { asker.check(&service, &key).await })
    };
    let same: Vec<_> = (0..500).map(|_| ask(key.clone())).collect();
    // One caller's going away fails no other.
    same[0].abort();
    for answer in same.into_iter().skip(1) {
        assert!(matches!(answer.await.unwrap(), Checked::Answered { .. }));
    }
    let many: Vec<_> = (0..500).map(|n| ask(RequestKey { key: format!("k{n}").as_bytes().into(), ..key.clone() })).collect();
    let mut capped = 0;
    for answer in many {
        capped += usize::from(answer.await.unwrap() == Checked::Capped);
    }
    assert!((300..500).contains(&capped), "{capped}");

    etcd.kill();
    let lone = RequestKey { key: b"lone".as_slice().into(), ..key };
    let end = Instant::now() + LIMIT;
    while watcher.asker.check(&service, &lone).await != Checked::Unavailable {
        assert!(Instant::now() < end, "a check without a store must end as unavailable");
    }
    watcher.stop().await;
}

#[tokio::test]
async fn a_restored_backup_is_taken_only_when_its_incarnation_is_raised() {
    let mut etcd = Etcd::start().await;
    etcd.filled().await;
    etcd.backup();
    let revision = etcd.put("routes/orders/rolled-back", r#"{"owner":"b"}"#).await;
    let watcher = watch(&etcd);
    let before = until_revision(&watcher.view, revision).await;
    // Until it is past the cursor: neither cluster id nor revision tells then, only what was applied last does.
    etcd.restore_hidden(async |etcd| {
        for _ in 0..5 {
            etcd.put("routes/orders/other", r#"{"owner":"b"}"#).await;
        }
    })
    .await;
    let table = until(&watcher.view, "the restore is noticed", |_, status| {
        status.last_error.as_deref().is_some_and(|error| error.contains("raise the integer"))
    });
    let table = table.await;
    assert_eq!((table.revision(), table.digest()), (before.revision(), before.digest()), "the live table goes on serving");

    etcd.put("incarnation", "1").await;
    let table = until(&watcher.view, "the new incarnation is in force", |table, _| table.id() != before.id()).await;
    assert!(table.id().as_str().ends_with("-1"));
    assert_eq!((owner(&table, "other").as_deref(), owner(&table, "rolled-back")), (Some("b"), None));
    assert_eq!(watcher.view.status().resyncs.get("incarnation"), Some(&1));
    watcher.stop().await;
}

#[tokio::test]
async fn a_bad_incarnation_costs_nothing_but_itself() {
    let mut etcd = Etcd::start().await;
    etcd.filled().await;
    etcd.put("incarnation", "3").await;
    let revision = etcd.put("incarnation", "three").await;
    etcd.put("incarnation", "3").await;
    let watcher = watch(&etcd);
    let before = until_revision(&watcher.view, revision + 1).await;
    assert!(before.id().as_str().ends_with("-3"));
    let revision = etcd.put("incarnation", "three").await;
    until_revision(&watcher.view, revision).await;
    etcd.restart().await;
    let revision = etcd.put("routes/orders/t1", r#"{"owner":"b"}"#).await;
    let table = until_revision(&watcher.view, revision).await;
    assert_eq!((table.id(), watcher.view.status().resyncs.len()), (before.id(), 0), "no new incarnation");
    assert_eq!(watcher.view.status().quarantined[0].key, format!("{PREFIX}/incarnation"));
    watcher.stop().await;
}

#[tokio::test]
async fn a_first_start_without_the_store_waits_for_it() {
    let mut etcd = Etcd::start().await;
    let revision = etcd.filled().await;
    etcd.kill();
    let watcher = watch(&etcd);
    let end = Instant::now() + LIMIT;
    while watcher.view.status().last_error.is_none() {
        assert!(Instant::now() < end, "the store's absence is told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(watcher.view.load_full().is_none() && !watcher.view.status().connected);
    assert!(watcher.view.status().last_error.unwrap().contains(&etcd.url()), "which endpoint");
    etcd.restart().await;
    until_revision(&watcher.view, revision).await;
    watcher.stop().await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_set_aside_and_the_store_is_listed() {
    let etcd = Etcd::start().await;
    let revision = etcd.filled().await;
    let path = etcd.directory.path().join("edge.snapshot");
    fs::write(&path, "neither whole nor ours").unwrap();
    let watcher = watch_with_snapshot(&etcd);
    assert!(watcher.view.load_full().is_none());
    until_revision(&watcher.view, revision).await;
    watcher.stop().await;
    assert!(etcd.directory.path().join("edge.snapshot.damaged").exists() && path.exists());
}

#[tokio::test]
async fn commands_read_and_swap_on_what_they_read() {
    let etcd = Etcd::start().await;
    etcd.filled().await;
    let GoldPlace::Etcd(place) = settings(&etcd.url(), None).place else { panic!("an etcd place was made") };
    let store = Store::connect(&place).await.unwrap();
    let found = store.get(b"routes/orders/t1").await.unwrap().unwrap();
    assert_eq!((found.key.as_slice(), found.value.as_slice()), (b"routes/orders/t1".as_slice(), br#"{"owner":"a"}"#.as_slice()));
    assert_eq!(store.list(b"upstreams/").await.unwrap().len(), 2);
    let change = Change { key: found.key.clone(), value: Some(br#"{"owner":"b"}"#.to_vec()), read_at: found.mod_revision };
    assert!(matches!(store.swap(std::slice::from_ref(&change), &[]).await.unwrap(), Swapped::Done(_)));
    let key = change.key.clone();
    assert_eq!(store.swap(&[change], &[]).await.unwrap(), Swapped::Moved(vec![key.clone()]), "the second swap read an older value");
    let create = Change { key: b"routes/orders/t1".to_vec(), value: Some(b"{}".to_vec()), read_at: 0 };
    assert_eq!(store.swap(&[create], &[]).await.unwrap(), Swapped::Moved(vec![key]), "the key is there already");
    let unset = Compare::version(format!("{PREFIX}/routes/orders/t9"), CompareOp::Equal, 0);
    assert!(etcd.client().await.kv_client().txn(Txn::new().when([unset])).await.unwrap().succeeded());

    let nobody = format!("http://127.0.0.1:{}", free_port());
    let nowhere = EtcdPlace { endpoints: vec![nobody.clone()], ..place };
    let error = Store::connect(&nowhere).await.unwrap_err();
    assert!(error.contains(&nobody) && error.contains("--gold"), "{error}");
}

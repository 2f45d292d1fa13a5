//! A store that is restored from a backup, or replaced by an empty one, with and without a raised incarnation: nothing is taken that may be
//! of another history, `/status` says what to do, and doing it mends.

use std::sync::{Arc, Mutex};

use serde_json::json;
use waypost_tests::{Backend, Etcd, Reply, Steady, Waypost, until, until_true};

use super::{equals_a_fresh_one, put_many, routes};
use crate::{
    scene::route,
    store::{Cells, until_said},
};

/// What `/status` says of a store whose history is another.
const WHAT_TO_DO: [&str; 2] = ["it was restored or replaced", "raise the integer"];

/// Waits until the table is of this incarnation.
async fn until_incarnation(waypost: &Waypost, incarnation: u64) {
    until("the incarnation is followed", async || {
        let gold = waypost.status().await["gold"][0].clone();
        let is_it = gold["table"].as_str().is_some_and(|table| table.ends_with(&format!("-{incarnation}")));
        if is_it && gold["connected"] == true { Ok(()) } else { Err(gold.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_restored_store_is_not_taken_until_its_incarnation_is_raised() {
    let mut etcd = Etcd::start().await;
    let _cells = Cells::of(&etcd).await;
    etcd.put("routes/orders/t2", route("a", 1)).await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    etcd.back_up();
    let revision = etcd.put("routes/orders/t2", route("b", 2)).await;
    waypost.at(revision).await;
    let steady = Steady::start(&waypost, &[("t1", "a"), ("t2", "b")]);
    etcd.restore().await;
    until_said(&waypost, &WHAT_TO_DO).await;
    // What is written now passes the revision that is in force, and is of another history all the same.
    for epoch in 2..30 {
        etcd.put("routes/orders/t1", route("b", epoch)).await;
    }
    until_said(&waypost, &WHAT_TO_DO).await;
    steady.more(200).await;
    assert_eq!(waypost.get("t2", "/").await.text(), "b", "what was rolled back is still in force");
    steady.may("t1", "b");
    steady.may("t2", "a");
    etcd.put("incarnation", json!(1)).await;
    until_incarnation(&waypost, 1).await;
    assert_eq!((waypost.get("t1", "/").await.text(), waypost.get("t2", "/").await.text()), ("b".to_owned(), "a".to_owned()));
    steady.stop().await;
    equals_a_fresh_one(&etcd, &waypost).await;
}

/// What leads to a check, and what would be a hint, while the store's history is another.
#[tokio::test]
async fn of_a_store_with_another_history_nothing_is_read_and_no_hint_is_taken() {
    let mut etcd = Etcd::start().await;
    let _cells = Cells::of(&etcd).await;
    let word = Arc::<Mutex<String>>::default();
    let said = Arc::clone(&word);
    let refusing = Backend::start(move |_| Reply::stale(said.lock().unwrap().clone())).await;
    etcd.put_all(&[("upstreams/refusing", refusing.upstream()), ("routes/orders/t2", route("refusing", 5))]).await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    etcd.back_up();
    let revision = etcd.put("routes/orders/t3", route("b", 1)).await;
    waypost.at(revision).await;
    let table = waypost.status().await["gold"][0]["table"].as_str().unwrap().to_owned();
    etcd.restore().await;
    for epoch in 6..30 {
        etcd.put("routes/orders/t2", route("b", epoch)).await;
    }
    until_said(&waypost, &WHAT_TO_DO).await;
    assert_eq!(waypost.metric("waypost_gold_other_history").await, 1.0);
    let words = [
        r#"state=moved, service="orders", key="t2""#.to_owned(),
        format!(r#"state=moved, service="orders", key="t2", owner="b", epoch=9, revision={}, table="{table}""#, revision + 100),
    ];
    for said in words {
        *word.lock().unwrap() = said.clone();
        assert_eq!(waypost.get("t2", "/").await.reason(), "stale_unhealed", "{said}");
        let shown = waypost.json("/routes/orders/t2").await;
        assert_eq!((&shown["source"], &shown["owner"]), (&json!("watch"), &json!("refusing")), "{said}");
    }
    assert_eq!(waypost.status().await["hints"]["count"], 0);
    etcd.put("incarnation", json!(1)).await;
    until_incarnation(&waypost, 1).await;
    assert_eq!(waypost.get("t2", "/").await.text(), "b");
    assert_eq!(waypost.metric("waypost_gold_other_history").await, 0.0);
}

#[tokio::test]
async fn a_store_that_is_restored_with_a_raised_incarnation_is_followed_at_once() {
    let mut etcd = Etcd::start().await;
    let _cells = Cells::of(&etcd).await;
    etcd.put("routes/orders/t2", route("a", 7)).await;
    let mut waypost = Waypost::start(&etcd.url(), &[]).await;
    etcd.back_up();
    let revision = etcd.put("routes/orders/t2", route("b", 8)).await;
    waypost.at(revision).await;
    let steady = Steady::start(&waypost, &[("t1", "a"), ("t2", "b")]);
    steady.may("t2", "a");
    etcd.restore().await;
    etcd.put("incarnation", json!(1)).await;
    is_as_it_was(&waypost, 1).await;
    steady.stop().await;
    // Who was away meanwhile begins with its snapshot, and follows as well.
    waypost.terminate();
    assert!(waypost.wait(waypost_tests::LIMIT).success());
    etcd.restore().await;
    etcd.put("incarnation", json!(2)).await;
    waypost.spawn();
    waypost.ready().await;
    is_as_it_was(&waypost, 2).await;
    equals_a_fresh_one(&etcd, &waypost).await;
}

/// The restored store is followed: epochs have started afresh.
async fn is_as_it_was(waypost: &Waypost, incarnation: u64) {
    until_incarnation(waypost, incarnation).await;
    assert_eq!(waypost.get("t2", "/").await.text(), "a");
    assert_eq!(waypost.status().await["quarantined"], json!([]));
}

#[tokio::test]
async fn an_empty_store_in_place_of_the_known_one_changes_no_request() {
    let mut etcd = Etcd::start().await;
    let cells = Cells::of(&etcd).await;
    let revision = put_many(&etcd, routes("more", 200, "b")).await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    waypost.at(revision).await;
    let steady = Steady::start(&waypost, &[("t1", "a"), ("more7", "b")]);
    // Somebody started it with an empty folder: the same cluster, by its id.
    etcd.empty().await;
    until_said(&waypost, &WHAT_TO_DO).await;
    steady.more(50).await;
    // The incarnation alone, with nothing written yet: all that is known stays.
    etcd.put("incarnation", json!(1)).await;
    until_incarnation(&waypost, 1).await;
    until_true("what is held is told", async || waypost.status().await["held_back_count"].as_u64() > Some(200)).await;
    steady.more(50).await;
    etcd.put_all(&cells.records()).await;
    let revision = put_many(&etcd, routes("more", 200, "b")).await;
    waypost.at(revision).await;
    until_true("nothing is held", async || waypost.status().await["held_back_count"] == json!(0)).await;
    steady.stop().await;
    equals_a_fresh_one(&etcd, &waypost).await;
}

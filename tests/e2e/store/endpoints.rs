//! Several endpoints: one that is dead, one that accepts and never answers, one of another cluster; `/status` says which is followed.

use serde_json::json;
use waypost_tests::{Etcd, FaultProxy, LIMIT, Steady, Waypost, free_address, until};

use super::{Cells, moved, until_said};
use crate::scene::route;

/// Both wait for silence to be noticed.
#[tokio::test]
async fn silent_members_are_passed_over_and_left() {
    tokio::join!(dead_and_silent_members_are_passed_over_wherever_a_proxy_begins(), a_member_that_falls_silent_is_left_for_the_next());
}

async fn dead_and_silent_members_are_passed_over_wherever_a_proxy_begins() {
    let etcd = Etcd::start().await;
    let cells = Cells::of(&etcd).await;
    let silent = FaultProxy::start(etcd.address()).await;
    silent.stall();
    let gold = format!("http://{},{},{}", free_address(), silent.url(), etcd.url());
    // Each begins with a member that chance picks: with so many, all are begun with.
    let mut proxies: Vec<Waypost> = (0..6).map(|_| Waypost::new(&gold, &[])).collect();
    proxies.iter_mut().for_each(Waypost::spawn);
    for waypost in &mut proxies {
        waypost.ready().await;
        let gold = waypost.until_connected(true).await;
        assert_eq!(gold["endpoint"], json!(etcd.url()), "{gold}");
        assert_eq!(waypost.get("t1", "/").await.text(), "a");
    }
    drop(cells);
}

async fn a_member_that_falls_silent_is_left_for_the_next() {
    let etcd = Etcd::start().await;
    let _cells = Cells::of(&etcd).await;
    let (one, other) = (FaultProxy::start(etcd.address()).await, FaultProxy::start(etcd.address()).await);
    let waypost = Waypost::start(&format!("{},{}", one.url(), other.url()), &[]).await;
    let steady = Steady::start(&waypost, &[("t1", "a")]);
    let first = waypost.until_connected(true).await["endpoint"].clone();
    let (left, next) = if first == json!(one.url()) { (&one, &other) } else { (&other, &one) };
    left.stall();
    steady.may("t1", "b");
    let revision = etcd.put("routes/orders/t1", route("b", 2)).await;
    waypost.at(revision).await;
    assert_eq!(waypost.status().await["gold"][0]["endpoint"], json!(next.url()));
    waypost.equals(&["--gold", &etcd.url()]).await;
    steady.stop().await;
}

#[tokio::test]
async fn a_member_of_another_cluster_is_not_followed_while_one_of_the_known_cluster_answers() {
    let (mut etcd, other) = (Etcd::start().await, Etcd::start().await);
    let _cells = Cells::of(&etcd).await;
    let mut waypost = Waypost::start(&etcd.url(), &[]).await;
    waypost.follow(&format!("{},{}", other.url(), etcd.url()));
    // As often as it takes to begin with the stranger, which chance decides.
    until("it begins with the stranger", async || {
        waypost.terminate();
        assert!(waypost.wait(LIMIT).success());
        waypost.spawn();
        waypost.ready().await;
        let gold = waypost.until_connected(true).await;
        assert_eq!(gold["endpoint"], json!(etcd.url()), "{gold}");
        if waypost.said().contains("a member of another cluster") { Ok(()) } else { Err(gold.to_string()) }
    })
    .await;
    let steady = Steady::start(&waypost, &[("t1", "a")]);
    moved(&etcd, &waypost, &steady, "b", 2).await;
    steady.stop().await;
    // Once nobody of the known cluster answers, it has been replaced.
    other.put_all(&[("services/orders", crate::scene::service(json!({}))), ("routes/orders/new", route("nobody", 1))]).await;
    etcd.kill();
    until("the other cluster is followed", async || {
        let gold = waypost.status().await["gold"][0].clone();
        if gold["endpoint"] == json!(other.url()) && gold["connected"] == true { Ok(()) } else { Err(gold.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn when_none_can_be_reached_each_is_named() {
    let (one, other) = (free_address(), free_address());
    let mut waypost = Waypost::new(&format!("http://{one},http://{other}"), &[]);
    waypost.spawn();
    until("the admin endpoint answers", async || waypost_tests::Client::fetch(waypost.admin, "/healthz").await).await;
    for address in [one, other] {
        until_said(&waypost, &[&address.to_string(), "refused"]).await;
    }
}

//! A cluster of three: its leader killed and paused, its majority lost, the member that is followed paused, cut off or behind. A client
//! keeps sending, and what the proxy ends up with is what the store has.

use serde_json::json;
use waypost_tests::{Cluster, Steady, Waypost, until};

use super::{Cells, until_said};
use crate::scene::route;

/// Three members, a proxy that knows all of them, and a client.
struct Three {
    cluster: Cluster,
    _cells: Cells,
    waypost: Waypost,
    steady: Steady,
    epoch: u64,
}

impl Three {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let cells = Cells::of(cluster.member(0)).await;
        let waypost = Waypost::start(&cluster.urls(), &[]).await;
        waypost.until_connected(true).await;
        let steady = Steady::start(&waypost, &[("t1", "a")]);
        Self { cluster, _cells: cells, waypost, steady, epoch: 1 }
    }

    /// The member that the proxy follows.
    async fn followed(&self) -> usize {
        let gold = self.waypost.until_connected(true).await;
        self.cluster.number_of(gold["endpoint"].as_str().unwrap()).unwrap()
    }

    /// The members but one.
    fn others(number: usize) -> Vec<usize> {
        (0..3).filter(|other| *other != number).collect()
    }

    /// Moves `t1` by way of a member that can write; the revision.
    async fn write(&mut self, by: usize) -> u64 {
        self.epoch += 1;
        let owner = if self.epoch.is_multiple_of(2) { "b" } else { "a" };
        self.steady.may("t1", owner);
        until("the cluster takes writes", async || self.cluster.member(by).try_put("routes/orders/t1", route(owner, self.epoch)).await)
            .await
    }

    /// The same, and waits until the proxy has it.
    async fn moves(&mut self, by: usize) {
        let revision = self.write(by).await;
        self.waypost.at(revision).await;
    }

    /// What the proxy has is what the store has; it was never listed anew, and no request failed.
    async fn ends(self) {
        self.waypost.equals(&["--gold", &self.cluster.urls()]).await;
        let status = self.waypost.status().await;
        assert_eq!(status["gold"][0]["resyncs"], 0, "resumed from the cursor: {status}");
        assert_eq!(status["held_back_count"], 0, "{status}");
        self.steady.stop().await;
    }
}

#[tokio::test]
async fn a_leader_that_is_killed_or_paused_costs_nothing() {
    let mut three = Three::start().await;
    let leader = three.cluster.leader(&[0, 1, 2]).await;
    let others = Three::others(leader);
    three.moves(others[0]).await;
    three.cluster.member_mut(leader).kill();
    three.moves(others[0]).await;
    three.cluster.member_mut(leader).restart().await;
    three.moves(leader).await;
    let leader = three.cluster.leader(&[0, 1, 2]).await;
    let others = Three::others(leader);
    three.cluster.member(leader).pause();
    three.moves(others[1]).await;
    three.cluster.member(leader).resume();
    three.moves(leader).await;
    three.ends().await;
}

#[tokio::test]
async fn without_a_majority_everything_is_served_and_with_one_again_it_goes_on() {
    let mut three = Three::start().await;
    let followed = three.followed().await;
    let others = Three::others(followed);
    others.iter().for_each(|number| three.cluster.member_mut(*number).kill());
    let gold = three.waypost.until_connected(false).await;
    assert!(gold["last_error"].is_string(), "{gold}");
    three.steady.more(100).await;
    // The one that is left answers nothing that it could not stand by.
    until("the lost majority is named", async || {
        let error = three.waypost.status().await["gold"][0]["last_error"].to_string();
        if error.contains("majority") { Ok(()) } else { Err(error) }
    })
    .await;
    three.cluster.member_mut(others[0]).spawn();
    three.cluster.member_mut(others[1]).spawn();
    three.moves(followed).await;
    three.ends().await;
}

#[tokio::test]
async fn the_member_that_is_followed_may_stop_answering() {
    let mut three = Three::start().await;
    let followed = three.followed().await;
    three.cluster.member(followed).pause();
    three.moves(Three::others(followed)[0]).await;
    assert_ne!(three.followed().await, followed);
    three.cluster.member(followed).resume();
    three.moves(followed).await;
    three.ends().await;
}

#[tokio::test]
async fn a_member_that_is_cut_off_from_the_others_is_neither_believed_nor_taken_for_a_restored_store() {
    let mut three = Three::start().await;
    let followed = three.followed().await;
    three.cluster.part(followed);
    let other = Three::others(followed)[0];
    three.moves(other).await;
    assert_ne!(three.followed().await, followed, "it lags behind, without a way to know");
    // Who begins with it finds the others.
    let alone = three.cluster.member(followed).url();
    let mut fresh = Waypost::new(&three.cluster.urls(), &[]);
    fresh.spawn();
    fresh.ready().await;
    assert_ne!(fresh.until_connected(true).await["endpoint"], json!(alone));
    for _ in 0..20 {
        three.write(other).await;
    }
    three.cluster.rejoin();
    three.moves(followed).await;
    three.ends().await;
}

#[tokio::test]
#[ignore = "soak"]
async fn a_member_that_is_removed_is_left() {
    let mut three = Three::start().await;
    let followed = three.followed().await;
    let other = Three::others(followed)[0];
    three.cluster.remove(followed, other).await;
    three.moves(other).await;
    assert_ne!(three.followed().await, followed);
    three.ends().await;
}

/// A proxy that knows only a member that is behind waits for it, and goes neither back nor anywhere else.
#[tokio::test]
async fn a_lone_member_that_is_behind_is_waited_for() {
    let mut three = Three::start().await;
    let behind = 0;
    let waypost = Waypost::start(&three.cluster.member(behind).url(), &[]).await;
    let steady = Steady::start(&waypost, &[("t1", "a")]);
    steady.may("t1", "b");
    three.moves(1).await;
    let revision = waypost.status().await["gold"][0]["revision"].clone();
    three.cluster.part(behind);
    waypost.until_connected(false).await;
    for _ in 0..10 {
        steady.may("t1", "a");
        three.moves(1).await;
    }
    steady.more(50).await;
    let gold = waypost.status().await["gold"][0].clone();
    assert!(gold["revision"].as_u64() >= revision.as_u64(), "{gold}");
    assert!(!gold["last_error"].to_string().contains("restored"), "{gold}");
    three.cluster.rejoin();
    let revision = three.write(1).await;
    waypost.at(revision).await;
    waypost.equals(&["--gold", &three.cluster.urls()]).await;
    assert_eq!(waypost.status().await["gold"][0]["resyncs"], 0);
    steady.stop().await;
    three.ends().await;
}

#[tokio::test]
async fn a_learner_is_passed_over_and_followed_once_it_votes() {
    let mut three = Three::start().await;
    let (learner, id) = three.cluster.learner().await;
    let mut of_it_alone = Waypost::new(&learner.url(), &[]);
    of_it_alone.spawn();
    until("the admin endpoint answers", async || waypost_tests::Client::fetch(of_it_alone.admin, "/healthz").await).await;
    until_said(&of_it_alone, &["only learns", "voting members"]).await;
    // One that knows a voting member too comes to it, wherever it begins.
    for _ in 0..3 {
        let of_both = Waypost::start(&format!("{},{}", learner.url(), three.cluster.member(1).url()), &[]).await;
        let gold = of_both.until_connected(true).await;
        assert_eq!(gold["endpoint"], three.cluster.member(1).url());
        let revision = three.write(0).await;
        of_both.at(revision).await;
    }
    three.cluster.promote(id).await;
    of_it_alone.ready().await;
    let revision = three.write(0).await;
    of_it_alone.at(revision).await;
    three.waypost.at(revision).await;
    of_it_alone.equals(&["--gold", &three.cluster.urls()]).await;
    three.ends().await;
}

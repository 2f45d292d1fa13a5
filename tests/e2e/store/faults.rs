//! The network between proxy and store: resets, silence, single bytes, connections that end anywhere. The proxy resumes each time from
//! where it was.

use std::time::{Duration, Instant};

use waypost_tests::{Etcd, FaultProxy, Steady, Waypost, until, until_true};

use super::{Cells, WITHOUT_REPORTS, checked::Checked, moved};
use crate::scene::route;

/// A store behind a network that can be broken, a proxy and a client.
struct Broken {
    etcd: Etcd,
    _cells: Cells,
    between: FaultProxy,
    waypost: Waypost,
    steady: Steady,
}

impl Broken {
    async fn start() -> Self {
        let etcd = Etcd::start().await;
        let cells = Cells::of(&etcd).await;
        let between = FaultProxy::start(etcd.address()).await;
        let waypost = Waypost::start(&between.url(), &WITHOUT_REPORTS).await;
        waypost.until_connected(true).await;
        let steady = Steady::start(&waypost, &[("t1", "a")]);
        Self { etcd, _cells: cells, between, waypost, steady }
    }

    async fn ends(self) {
        self.waypost.equals(&["--gold", &self.etcd.url()]).await;
        assert_eq!(self.waypost.status().await["gold"][0]["resyncs"], 0, "resumed from the cursor");
        self.steady.stop().await;
    }
}

#[tokio::test]
async fn resets_cost_nothing() {
    let broken = Broken::start().await;
    for epoch in 2..6 {
        broken.between.reset();
        broken.waypost.until_connected(false).await;
        broken.between.pass();
        moved(&broken.etcd, &broken.waypost, &broken.steady, if epoch % 2 == 0 { "b" } else { "a" }, epoch).await;
    }
    broken.ends().await;
}

/// Both wait for silence to be noticed.
#[tokio::test]
async fn silence_is_noticed_on_either_connection() {
    tokio::join!(
        a_network_that_drops_everything_is_noticed_and_what_was_missed_is_caught_up_with(),
        a_dead_connection_for_reads_is_replaced_while_the_watch_goes_on()
    );
}

async fn a_network_that_drops_everything_is_noticed_and_what_was_missed_is_caught_up_with() {
    let broken = Broken::start().await;
    broken.between.stall();
    broken.steady.may("t1", "b");
    let revision = broken.etcd.put("routes/orders/t1", route("b", 2)).await;
    let gold = broken.waypost.until_connected(false).await;
    assert!(gold["last_error"].is_string(), "{gold}");
    broken.between.pass();
    broken.waypost.at(revision).await;
    broken.ends().await;
}

#[tokio::test]
async fn a_network_that_carries_single_bytes_is_slow_and_no_more() {
    let broken = Broken::start().await;
    broken.between.trickle(1, Duration::from_micros(200));
    moved(&broken.etcd, &broken.waypost, &broken.steady, "b", 2).await;
    let mut late = Waypost::new(&broken.between.url(), &[]);
    late.spawn();
    late.ready().await;
    assert_eq!(late.get("t1", "/").await.text(), "b");
    moved(&broken.etcd, &broken.waypost, &broken.steady, "a", 3).await;
    broken.ends().await;
}

/// Cuts connections at places that chance picks, while the store is written.
async fn cut_anywhere(rounds: usize) {
    let seed = super::seed();
    eprintln!("WAYPOST_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let broken = Broken::start().await;
    let mut revision = 0;
    for round in 0..rounds {
        let connections = broken.between.accepted();
        // A hello takes some hundred bytes of answers, an event some more.
        broken.between.cut_after(rng.usize(1..2000));
        let owner = if round % 2 == 0 { "b" } else { "a" };
        broken.steady.may("t1", owner);
        let mut epoch = 0;
        until(&format!("a connection is cut, seed {seed}"), async || {
            epoch += 1;
            revision = broken.etcd.put("routes/orders/t1", route(owner, (round as u64 + 2) << 20 | epoch)).await;
            let made = broken.between.accepted() - connections;
            if made > 0 { Ok(()) } else { Err(format!("{made} connections")) }
        })
        .await;
    }
    broken.between.pass();
    broken.waypost.at(revision).await;
    broken.ends().await;
}

#[tokio::test]
async fn connections_that_end_anywhere_cost_nothing() {
    cut_anywhere(8).await;
}

#[tokio::test]
#[ignore = "soak"]
async fn many_connections_that_end_anywhere_cost_nothing() {
    cut_anywhere(16).await;
}

/// The first connection of a proxy is for reads, the second for the watch.
async fn a_dead_connection_for_reads_is_replaced_while_the_watch_goes_on() {
    let etcd = Etcd::start().await;
    let _cells = Cells::of(&etcd).await;
    let mut checked = Checked::start(&etcd, &[]).await;
    let steady = Steady::start(&checked.waypost, &[("t1", "a")]);
    checked.between.hold_one(1);
    checked.asks_in_vain().await;
    until_true("the dead connection is given up", async || checked.between.ended() == 1).await;
    moved(&etcd, &checked.waypost, &steady, "b", 2).await;
    steady.may("t2", "c");
    checked.reads_while(&etcd, &steady, 2).await;
    let gold = checked.waypost.status().await["gold"][0].clone();
    assert_eq!((checked.between.accepted(), &gold["connected"]), (3, &true.into()), "the watch was never lost: {gold}");
    steady.stop().await;
}

/// etcd ends connections that are kept alive more often than it likes, which took some 20 s.
#[tokio::test]
#[ignore = "soak"]
async fn idle_connections_stay() {
    let broken = Broken::start().await;
    let began = Instant::now();
    until_true("they have been idle for long", async || began.elapsed() > Duration::from_secs(35)).await;
    moved(&broken.etcd, &broken.waypost, &broken.steady, "b", 2).await;
    assert_eq!(broken.between.ended(), 0);
    broken.ends().await;
}

#[tokio::test]
async fn a_list_that_is_cut_is_begun_again_and_nothing_half_listed_is_served() {
    let etcd = Etcd::start().await;
    let _cells = Cells::of(&etcd).await;
    for part in 0..10 {
        let routes: Vec<(String, serde_json::Value)> =
            (0..100).map(|n| (format!("routes/orders/{part}-{n}-{}", "x".repeat(500)), route("a", 1))).collect();
        etcd.put_all(&routes.iter().map(|(key, value)| (&**key, value.clone())).collect::<Vec<_>>()).await;
    }
    let between = FaultProxy::start(etcd.address()).await;
    // The list takes some 600 kB.
    between.cut_after(200_000);
    let mut waypost = Waypost::new(&between.url(), &[]);
    waypost.spawn();
    until_true("the list was cut twice", async || between.accepted() > 4).await;
    let answer = until("the admin endpoint answers", async || waypost_tests::Client::fetch(waypost.admin, "/readyz").await).await;
    assert_eq!((answer.status, answer.reason()), (503, "not_ready"));
    between.pass();
    waypost.ready().await;
    waypost.equals(&["--gold", &etcd.url()]).await;
}

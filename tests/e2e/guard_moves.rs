//! Guards under load: keys are handed over between them, and they come and go, while clients write; what was executed is judged.

use std::time::{Duration, Instant};

use serde_json::json;
use waypost_tests::{Client, Etcd, Guard, RawBackend, Waypost, until, until_true};

use crate::{
    scene::{route, service},
    writes::{History, Writers},
};

const TENANTS: usize = 8;
const CLIENTS: usize = 16;

/// An etcd in which upstream `a` owns every tenant, and a proxy.
struct Stage {
    etcd: Etcd,
    waypost: Waypost,
    history: History,
}

/// A backend that knows nothing, and the guard before it.
struct Cell {
    guard: Guard,
    _backend: RawBackend,
}

impl Stage {
    async fn start() -> Self {
        let etcd = Etcd::start().await;
        etcd.put_all(&[("services/orders", service(json!({}))), ("upstreams/a", json!({})), ("upstreams/b", json!({}))]).await;
        for n in 0..TENANTS {
            etcd.put(&format!("routes/orders/t{n}"), route("a", 5)).await;
        }
        let waypost = Waypost::start(&etcd.url(), &[]).await;
        Self { etcd, waypost, history: History::default() }
    }

    /// A cell whose name begins with its upstream's, registered by its guard; the proxy knows it.
    async fn cell(&self, name: &'static str) -> Cell {
        let backend = self.history.cell(name).await;
        let guard = Guard::start(&self.etcd.url(), &name[..1], name, backend.address, &["--register"]).await;
        self.knows(&guard, true).await;
        Cell { guard, _backend: backend }
    }

    /// Waits until the proxy has the guard among the endpoints, or no longer.
    async fn knows(&self, guard: &Guard, is_known: bool) {
        let address = guard.listen.to_string();
        until(&format!("{address} known: {is_known}"), async || {
            let (_, out, said) = Waypost::run(&[
                "explain",
                "POST",
                "/",
                "-H",
                "x-tenant: t0",
                "-H",
                "Host: h",
                "--admin",
                &self.waypost.admin.to_string(),
                "--json",
            ])
            .await;
            let wanted = self.etcd.get("routes/orders/t0").await.unwrap()["owner"].as_str().unwrap().to_owned();
            // Only the owner's endpoints are shown; those of others are taken on trust.
            if !guard.upstream().starts_with(&wanted) || out.contains(&address) == is_known { Ok(()) } else { Err(format!("{out}{said}")) }
        })
        .await;
    }

    async fn route_move(&self, args: &[&str]) -> (i32, String, String) {
        let gold = self.etcd.url();
        Waypost::run(&[&["route", "move", "orders"], args, &["--gold", &gold]].concat()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_moved_between_guards_under_load_and_nothing_fails_is_lost_or_doubled() {
    let stage = Stage::start().await;
    let (_a, _b) = (stage.cell("a-1").await, stage.cell("b-1").await);
    // Long enough for two owners to be seen at work at the same time, if ever they are.
    stage.history.slow(Duration::from_millis(30));
    let writers = Writers::start(stage.waypost.listen, CLIENTS, TENANTS);
    stage.history.more(200).await;
    for (from, to, parallel) in [("a", "b", "3"), ("b", "a", "8"), ("a", "b", "1")] {
        let (status, out, said) = stage.route_move(&["--owner", from, "--to", to, "--parallel", parallel]).await;
        assert_eq!((status, out.lines().count()), (0, TENANTS), "{out}{said}");
    }
    stage.history.more(50).await;
    stage.history.judge(&writers.stop().await, |_| false);
    assert!(stage.history.count_of("b-1") > 50, "b was at work");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guards_of_one_upstream_stop_and_start_under_load_and_nothing_fails() {
    let stage = Stage::start().await;
    stage.history.slow(Duration::from_millis(5));
    let mut cells = [stage.cell("a-1").await, stage.cell("a-2").await];
    let writers = Writers::start(stage.waypost.listen, CLIENTS, TENANTS);
    stage.history.more(200).await;
    for cell in &mut cells {
        cell.guard.terminate();
        stage.knows(&cell.guard, false).await;
        assert!(cell.guard.wait(Duration::from_secs(20)).success());
        stage.history.more(100).await;
        cell.guard.spawn();
        cell.guard.ready().await;
        stage.knows(&cell.guard, true).await;
        stage.history.more(100).await;
    }
    stage.history.judge(&writers.stop().await, |_| false);
    assert!(stage.history.count_of("a-1") > 50 && stage.history.count_of("a-2") > 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_is_killed_and_started_again_costs_only_what_it_was_doing() {
    let stage = Stage::start().await;
    stage.history.slow(Duration::from_millis(5));
    let mut cell = stage.cell("a-1").await;
    let writers = Writers::start(stage.waypost.listen, CLIENTS, TENANTS);
    stage.history.more(200).await;
    let killed = Instant::now();
    cell.guard.kill();
    cell.guard.spawn();
    cell.guard.ready().await;
    let back = Instant::now();
    stage.history.more(200).await;
    let answers = writers.stop().await;
    // While it was away, and what had been sent to it before; a new connection to it may be passed over for a second.
    let slack = Duration::from_secs(2);
    stage.history.judge(&answers, |write| write.to >= killed && write.from <= back + slack && matches!(write.status, 502 | 503));
    assert!(answers.iter().filter(|write| write.from > back + slack || write.to < killed).all(|write| write.reason.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_finishes_what_is_under_way_before_its_announcement_goes() {
    let stage = Stage::start().await;
    stage.history.slow(Duration::from_millis(1500));
    let mut cell = stage.cell("a-1").await;
    let writers = Writers::start(stage.waypost.listen, 1, 1);
    until_true("the write is under way", async || cell.guard.status().await["guard"]["serving"] == 1).await;
    cell.guard.terminate();
    until_true("its endpoint has gone", async || stage.etcd.get("endpoints/a/a-1").await.is_none()).await;
    assert!(stage.etcd.get_beside("owners/a/a-1").await.is_some(), "it is still at work");
    assert!(cell.guard.wait(Duration::from_secs(20)).success());
    assert_eq!(stage.etcd.get_beside("owners/a/a-1").await, None);
    let answers = writers.stop().await;
    // Those behind the first may have found nobody to serve them any more.
    stage.history.judge(&answers, |write| write.number > 0 && write.status == 502);
    assert_eq!(answers[0].status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_holds_a_move_up_is_waited_for_or_cut() {
    let stage = Stage::start().await;
    let (a, _b) = (stage.cell("a-1").await, stage.cell("b-1").await);
    // Longer than a move waits, all tries together.
    stage.history.slow(Duration::from_secs(30));
    let address = stage.waypost.listen;
    let long = tokio::spawn(async move { Client::connect(address).await.request("POST", "/", &[("x-tenant", "t0")], b"0").await });
    until_true("the write is under way", async || a.guard.status().await["guard"]["serving"] == 1).await;
    let (status, _, said) = stage.route_move(&["t0", "--to", "b"]).await;
    assert!(status == 1 && said.contains("a-1 (still serves requests)"), "{said}");
    let (status, _, said) = stage.route_move(&["t0", "--to", "b", "--cut"]).await;
    assert_eq!(status, 0, "{said}");
    let answer = long.await.unwrap();
    assert_eq!(answer.status, 502, "whether it was executed is not known: {}", answer.text());
    assert_eq!(a.guard.status().await["guard"]["serving"], 0);
}

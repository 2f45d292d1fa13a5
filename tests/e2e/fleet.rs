//! A fleet: three cells behind guards, two proxies, many clients, and every tenant moved while they write. What was executed, and what was
//! answered, is judged; the report is printed (`--nocapture`).

mod files;
mod report;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, watch};
use waypost_tests::{Etcd, FaultProxy, Guard, RawBackend, Waypost};

use self::report::Report;
use crate::{
    scene::{route, service},
    writes::{History, Load, Writers, Written},
};

/// One fleet at a time: each has enough to do for the whole machine.
static TURN: Mutex<()> = Mutex::const_new(());
/// How long requests may wait. On a machine that is busy with other tests an owner may need a second try to let a key go, and a late proxy
/// hears of the first when the second is under way.
const PARK_MS: u64 = 5000;
/// How late one proxy hears of everything.
const LATE: Duration = Duration::from_millis(500);
/// The cells, by their upstreams.
const CELLS: [&str; 3] = ["a-1", "b-1", "c-1"];
/// After these every tenant, a third of them with each cell to begin with, has been moved twice at least.
const ROUNDS: [(&str, &str); 5] = [("b", "c"), ("a", "b"), ("c", "a"), ("b", "c"), ("a", "b")];

/// How much of it.
#[derive(Clone, Copy)]
struct Size {
    tenants: usize,
    clients: usize,
    /// The least time between two writes of one client.
    every: Duration,
    parallel: &'static str,
}

const WHOLE: Size = Size { tenants: 1000, clients: 200, every: Duration::from_millis(400), parallel: "8" };

/// An etcd, two proxies of which one is late, and the cells' guards.
struct Fleet {
    size: Size,
    etcd: Etcd,
    late: FaultProxy,
    proxies: [Waypost; 2],
    guards: Vec<Guard>,
    _turn: MutexGuard<'static, ()>,
}

impl Fleet {
    /// Guards before these backends, one for each cell.
    async fn start(size: Size, backends: [std::net::SocketAddr; 3]) -> Self {
        let turn = TURN.lock().await;
        let etcd = Etcd::start().await;
        etcd.put_all(&[("services/orders", service(json!({}))), ("policies/default", json!({ "park_ms": PARK_MS }))]).await;
        let mut guards = Vec::new();
        for (cell, backend) in CELLS.into_iter().zip(backends) {
            let guard = Guard::start(&etcd.url(), &cell[..1], cell, backend, &[]).await;
            etcd.put(&format!("upstreams/{}", &cell[..1]), guard.record()).await;
            guards.push(guard);
        }
        let routes: Vec<(String, Value)> =
            (0..size.tenants).map(|n| (format!("routes/orders/t{n}"), route(&CELLS[n % CELLS.len()][..1], 1))).collect();
        let mut revision = 0;
        for some in routes.chunks(100) {
            revision = etcd.put_all(&some.iter().map(|(key, value)| (&**key, value.clone())).collect::<Vec<_>>()).await;
        }
        let late = FaultProxy::delaying(etcd.address(), 2, LATE).await;
        let proxies = [Waypost::start(&etcd.url(), &[]).await, Waypost::start(&late.url(), &crate::store::WITHOUT_REPORTS).await];
        for process in proxies.iter().chain(guards.iter().map(|guard| &**guard)) {
            process.at(revision).await;
        }
        assert_eq!(late.accepted(), 2, "reads, and the watch");
        Self { size, etcd, late, proxies, guards, _turn: turn }
    }

    fn load(&self) -> Load {
        let Size { clients, tenants, every, .. } = self.size;
        let proxies = self.proxies.iter().map(|proxy| proxy.listen).collect();
        Load { proxies, clients, tenants, every, any_tenant: true, method: "POST", path: |_, _| "/".to_owned() }
    }

    /// One run of the mover.
    async fn route_move(&self, (from, to): (&str, &str), report: &mut Report) -> bool {
        let gold = self.etcd.url();
        let args = ["route", "move", "orders", "--owner", from, "--to", to, "--parallel", self.size.parallel, "--json", "--gold", &gold];
        let (status, out, said) = Waypost::run(&args).await;
        report.run(&out, &said);
        status == 0
    }

    /// Runs until one had nothing left to do that failed.
    async fn move_all(&self, round: (&str, &str), report: &mut Report) {
        let ends = Instant::now() + waypost_tests::LIMIT;
        while !self.route_move(round, report).await {
            assert!(Instant::now() < ends, "{round:?} does not end: {report}");
        }
    }

    async fn every_tenant_was_moved_twice(&self) {
        let gold = self.etcd.url();
        let (status, out, said) = Waypost::run(&["route", "list", "orders", "--json", "--gold", &gold]).await;
        assert_eq!(status, 0, "{said}");
        let routes: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(routes.len(), self.size.tenants);
        for route in routes {
            assert!(route["value"]["epoch"].as_u64() >= Some(3) && route["value"].get("state").is_none(), "{route}");
        }
    }

    /// What proxies and guards wrote of these.
    fn say_more_of<'a>(&self, writes: impl Iterator<Item = &'a Written>) {
        let processes = || self.proxies.iter().chain(self.guards.iter().map(|guard| &**guard));
        for write in writes {
            for line in processes().flat_map(Waypost::access_log).filter(|line| line["request_id"] == *write.request_id) {
                eprintln!("{write:?}: {line}");
            }
        }
    }

    /// The owners of the requests that failed, as the proxies wrote it.
    fn owners_of_failures(&self) -> HashMap<String, String> {
        let lines = self.proxies.iter().flat_map(Waypost::access_log).filter(|line| line["status"].as_u64() >= Some(500));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        lines.map(|line| (text(&line["request_id"]), text(&line["owner"]))).collect()
    }
}

/// The backends of the cells, which know nothing of who owns what.
struct Backends {
    history: History,
    /// Ends what a cell executes.
    alive: Vec<watch::Sender<bool>>,
    backends: Vec<RawBackend>,
}

impl Backends {
    async fn start() -> Self {
        let mut backends = Self { history: History::default(), alive: Vec::new(), backends: Vec::new() };
        for cell in CELLS {
            let (alive, backend) = backends.cell(cell).await;
            backends.alive.push(alive);
            backends.backends.push(backend);
        }
        backends
    }

    async fn cell(&self, name: &'static str) -> (watch::Sender<bool>, RawBackend) {
        let (alive, is_alive) = watch::channel(true);
        let history = self.history.clone();
        let backend = RawBackend::start(move |peer, _| {
            let (history, mut is_alive) = (history.clone(), is_alive.clone());
            async move {
                tokio::select! {
                    () = history.serve(peer, name) => {}
                    _ = is_alive.wait_for(|alive| !alive) => {}
                }
            }
        })
        .await;
        (alive, backend)
    }

    fn addresses(&self) -> [std::net::SocketAddr; 3] {
        [0, 1, 2].map(|cell: usize| self.backends[cell].address)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tenant_of_a_fleet_is_moved_twice_and_no_request_fails() {
    let backends = Backends::start().await;
    let fleet = Fleet::start(WHOLE, backends.addresses()).await;
    backends.history.slow(Duration::from_millis(10));
    let mut report = Report::default();
    let writers = Writers::of(&fleet.load());
    backends.history.more(200).await;
    for round in ROUNDS {
        fleet.move_all(round, &mut report).await;
    }
    backends.history.more(200).await;
    let answers = writers.stop().await;
    report.answered(&answers);
    report.proxies(&fleet.proxies).await;
    eprintln!("{report}");
    backends.history.judge(&answers, |_| false);
    fleet.every_tenant_was_moved_twice().await;
    assert_eq!(fleet.late.accepted(), 2, "the late watch was never made anew");
    // The other proxy hears of most freezes before a request of its own meets one.
    assert!(fleet.proxies[1].metric("waypost_stale_outcome_total").await > 0.0, "the late proxy was told by owners");
    for proxy in &fleet.proxies {
        let hints = proxy.status().await["hints"].clone();
        assert_eq!(hints["refuted"], 0, "{hints}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_proxy_and_a_killed_cell_cost_a_fleet_only_what_was_with_them() {
    let mut backends = Backends::start().await;
    let mut fleet = Fleet::start(WHOLE, backends.addresses()).await;
    backends.history.slow(Duration::from_millis(10));
    let writers = Writers::of(&fleet.load());
    backends.history.more(200).await;
    let mut report = Report::default();

    let stopped = Instant::now();
    fleet.proxies[0].pause();
    let (mut moved, mut resumed) = (Report::default(), stopped);
    tokio::join!(fleet.move_all(ROUNDS[0], &mut moved), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        fleet.proxies[0].resume();
        resumed = Instant::now();
    });
    report.add(moved);
    backends.history.more(200).await;

    // The mover meets a cell that dies and comes back, as keys go from it.
    let (alive, backend) = backends.cell(CELLS[2]).await;
    let mut again = Guard::new(&fleet.etcd.url(), "c", CELLS[2], backend.address, &[]);
    again.listen = fleet.guards[2].listen;
    let killed = Instant::now();
    backends.alive[2].send_replace(false);
    fleet.guards[2].kill();
    let (mut moved, mut is_back) = (Report::default(), None);
    tokio::join!(fleet.move_all(ROUNDS[2], &mut moved), async {
        backends.history.more(200).await;
        again.spawn();
        again.ready().await;
        is_back = Some(Instant::now());
    });
    let back = is_back.unwrap();
    (backends.alive[2], backends.backends[2], fleet.guards[2]) = (alive, backend, again);
    for round in [ROUNDS[1], ROUNDS[2], ROUNDS[3], ROUNDS[4]] {
        fleet.move_all(round, &mut moved).await;
    }
    report.add(moved);
    backends.history.more(200).await;
    let answers = writers.stop().await;
    report.answered(&answers);
    report.proxies(&fleet.proxies).await;
    eprintln!("{report}");
    // Who was refused a connection a moment ago may be passed over for a second.
    let slack = Duration::from_secs(2);
    let owners = fleet.owners_of_failures();
    let was_with_the_cell = |write: &Written| {
        let is_its = owners.get(&write.request_id).is_some_and(|owner| owner == "c");
        is_its && matches!(write.status, 502..=504) && write.to >= killed && write.from <= back + slack
    };
    let was_with_the_proxy = |write: &Written| write.proxy == 0 && write.from <= resumed && write.to >= stopped && write.status == 503;
    let may_fail = |write: &Written| was_with_the_cell(write) || was_with_the_proxy(write);
    fleet.say_more_of(answers.iter().filter(|write| write.status != 200 && !may_fail(write)));
    backends.history.judge(&answers, may_fail);
    fleet.every_tenant_was_moved_twice().await;
    let late = answers.iter().filter(|write| write.proxy == 0 && write.from <= resumed && write.to >= resumed).count();
    assert!(late > 0, "the stopped proxy had something to answer late");
}

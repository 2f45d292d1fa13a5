//! Keys handed over under load: owners that use the library, a mover, clients that write numbered requests, and a judge of what was executed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use waypost_owner::{Credentials, EtcdPlace, Head, Owner, Served, Settings};
use waypost_tests::{Client, Etcd, Peer, RawBackend, Waypost, until, until_true};

use crate::scene::{route, service};

mod movers;

const TENANTS: usize = 8;
const CLIENTS: usize = 16;

/// One execution of a write.
#[derive(Clone, Debug)]
struct Executed {
    tenant: String,
    number: u64,
    cell: &'static str,
    from: Instant,
    to: Instant,
}

type History = Arc<Mutex<Vec<Executed>>>;

/// A backend that speaks the protocol by the library.
struct Cell {
    backend: RawBackend,
    owner: Arc<Owner>,
}

fn place(etcd: &Etcd) -> EtcdPlace {
    EtcdPlace { endpoints: vec![etcd.url()], prefix: "/waypost/v1".to_owned(), credentials: Credentials::default() }
}

async fn instance(etcd: &Etcd, upstream: &str, id: &str) -> Owner {
    let settings = Settings { gold: place(etcd), upstream: upstream.try_into().unwrap(), id: id.try_into().unwrap() };
    Owner::start(settings).await.unwrap()
}

impl Cell {
    /// `slow`: how long a write takes.
    async fn start(etcd: &Etcd, name: &'static str, history: &History, slow: Arc<AtomicU64>) -> Self {
        let owner = Arc::new(instance(etcd, name, "one").await);
        let (serving, history) = (Arc::clone(&owner), Arc::clone(history));
        let backend =
            RawBackend::start(move |peer, _| serve(peer, name, Arc::clone(&serving), Arc::clone(&history), Arc::clone(&slow))).await;
        Self { backend, owner }
    }
}

async fn serve(mut peer: Peer, name: &'static str, owner: Arc<Owner>, history: History, slow: Arc<AtomicU64>) {
    while let Some(request) = peer.request().await {
        let value = |field: &str| request.values(field).first().map(|value| (*value).to_owned());
        let tenant = value("x-tenant").unwrap();
        let stamp = value("route-stamp");
        let head = Head { method: "POST", service: "orders", key: tenant.as_bytes(), stamp: stamp.as_deref().map(str::as_bytes) };
        let answer = match owner.admit(&head).await {
            Err(stale) => {
                format!("HTTP/1.1 421 X\r\nRoute-Stale: {}\r\nCache-Control: no-store\r\nContent-Length: 0\r\n\r\n", stale.to_value())
            }
            Ok(permit) => {
                let from = Instant::now();
                let recalled = permit.recalled(Served::Request);
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(slow.load(Ordering::Relaxed))) => {}
                    // What is ended in the middle is not answered.
                    () = recalled => return,
                }
                let number = String::from_utf8_lossy(&request.body).parse().unwrap();
                history.lock().unwrap().push(Executed { tenant, number, cell: name, from, to: Instant::now() });
                drop(permit);
                format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}")
            }
        };
        if !peer.send(answer).await {
            return;
        }
    }
}

struct Stage {
    etcd: Etcd,
    waypost: Waypost,
    history: History,
    slow: Arc<AtomicU64>,
    a: Cell,
    _b: Cell,
}

impl Stage {
    async fn start() -> Self {
        let etcd = Etcd::start().await;
        let (history, slow) = (History::default(), Arc::<AtomicU64>::default());
        etcd.put_all(&[("services/orders", service(json!({}))), ("upstreams/a", json!({})), ("upstreams/b", json!({}))]).await;
        let a = Cell::start(&etcd, "a", &history, Arc::clone(&slow)).await;
        let b = Cell::start(&etcd, "b", &history, Arc::clone(&slow)).await;
        for (name, cell) in [("upstreams/a", &a), ("upstreams/b", &b)] {
            etcd.put(name, cell.backend.upstream()).await;
        }
        for n in 0..TENANTS {
            etcd.put(&format!("routes/orders/t{n}"), route("a", 5)).await;
        }
        let waypost = Waypost::start(&etcd.url(), &[]).await;
        Self { etcd, waypost, history, slow, a, _b: b }
    }

    async fn run(&self, args: &[&str]) -> (i32, String, String) {
        let gold = self.etcd.url();
        Waypost::run(&[&["route", "move", "orders"], args, &["--gold", &gold]].concat()).await
    }

    async fn owner(&self, tenant: &str) -> String {
        self.waypost.json(&format!("/routes/orders/{tenant}")).await["owner"].as_str().unwrap().to_owned()
    }
}

/// Clients that write numbers until they are stopped; what they were answered.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<(u64, u16, String)>>>,
}

impl Writers {
    fn start(stage: &Stage) -> Self {
        let (stop, numbers) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (stop, numbers, address) = (Arc::clone(&stop), Arc::clone(&numbers), stage.waypost.listen);
                tokio::spawn(async move {
                    let mut connection = Client::connect(address).await;
                    let tenant = format!("t{}", client % TENANTS);
                    let mut answers = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let number = numbers.fetch_add(1, Ordering::Relaxed);
                        let answer = connection.request("POST", "/", &[("x-tenant", &tenant)], number.to_string().as_bytes()).await;
                        if answer.header("connection") == "close" {
                            connection = Client::connect(address).await;
                        }
                        answers.push((number, answer.status, answer.reason().to_owned()));
                    }
                    answers
                })
            })
            .collect();
        Self { stop, tasks }
    }

    async fn stop(self) -> Vec<(u64, u16, String)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        all
    }
}

/// Each answered write was executed once, none of another number, and no two owners executed one key's at the same time.
fn judge(history: &[Executed], answers: &[(u64, u16, String)]) {
    let mut times: HashMap<u64, usize> = HashMap::new();
    history.iter().for_each(|executed| *times.entry(executed.number).or_default() += 1);
    for (number, status, reason) in answers {
        assert_eq!((*status, reason.as_str()), (200, ""), "write {number}");
        assert_eq!(times.get(number), Some(&1), "write {number}");
    }
    assert_eq!(times.len(), answers.len());
    let mut by_tenant: HashMap<&str, Vec<&Executed>> = HashMap::new();
    history.iter().for_each(|executed| by_tenant.entry(&executed.tenant).or_default().push(executed));
    for executed in by_tenant.into_values() {
        for one in &executed {
            let overlaps = executed.iter().find(|other| other.cell != one.cell && other.from < one.to && one.from < other.to);
            assert!(overlaps.is_none(), "two owners at work: {one:?} and {overlaps:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_moved_under_load_and_nothing_fails_is_lost_or_doubled() {
    let stage = Stage::start().await;
    // Long enough for two owners to be seen at work at the same time, if ever they are.
    stage.slow.store(30, Ordering::Relaxed);
    let writers = Writers::start(&stage);
    until_true("writes go on", async || stage.history.lock().unwrap().len() > 200).await;
    let (status, out, said) = stage.run(&["t0", "--to", "b", "--json"]).await;
    assert_eq!((status, said.as_str()), (0, ""));
    let moved: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&moved["from"], &moved["to"], &moved["tries"]), (&json!("a"), &json!("b"), &json!(1)), "{moved}");
    let (status, out, said) = stage.run(&["--owner", "a", "--to", "b", "--parallel", "3"]).await;
    assert_eq!((status, out.lines().count()), (0, TENANTS - 1), "{out}{said}");
    let (status, out, said) = stage.run(&["--owner", "b", "--to", "a", "--parallel", "8"]).await;
    assert_eq!((status, out.lines().count()), (0, TENANTS), "{out}{said}");
    until("the proxy knows", async || match stage.owner("t0").await.as_str() {
        "a" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    let answers = writers.stop().await;
    let history = stage.history.lock().unwrap().clone();
    judge(&history, &answers);
    assert!(history.iter().any(|executed| executed.cell == "b"), "nothing was ever served by b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_owner_does_not_let_go_stays_where_it_is() {
    let stage = Stage::start().await;
    stage.slow.store(3000, Ordering::Relaxed);
    let address = stage.waypost.listen;
    let long = tokio::spawn(async move { Client::connect(address).await.request("POST", "/", &[("x-tenant", "t1")], b"1").await });
    until_true("the owner is busy", async || stage.a.backend.count("x-tenant: t1") > 0).await;
    let (status, out, said) = stage.run(&["t1", "--to", "b"]).await;
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(
        said.contains("was not let go within 500ms by a's one (still serves requests)") && said.contains("given back 3 times"),
        "{said}"
    );
    let answer = long.await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "a"), "what was under way is not disturbed");
    stage.slow.store(0, Ordering::Relaxed);
    let (status, _, said) = stage.run(&["t1", "--to", "b"]).await;
    assert_eq!(status, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_moved_is_said_and_what_was_left_frozen_is_given_back() {
    let stage = Stage::start().await;
    stage.etcd.put("upstreams/c", json!({})).await;
    for (args, wanted) in [
        (&["t0", "--to", "c"][..], "no instance of the new owner \"c\" has announced itself"),
        (&["t0", "--to", "nobody"], "there is no upstreams/nobody"),
        (&["t0", "--to", "a"], "belongs to a already"),
        (&["nothing", "--to", "b"], "there is no routes/orders/nothing"),
        (&["t0", "--abort"], "is not being moved"),
    ] {
        let (status, out, said) = stage.run(args).await;
        assert!(status == 1 && out.is_empty() && said.contains(wanted), "{args:?}: {said}");
    }
    let (status, _, said) = stage.run(&["t0"]).await;
    assert!(status == 2 && said.contains("--to is missing"), "{said}");
    let (status, out, said) = stage.run(&["--owner", "a", "--to", "b", "--dry-run"]).await;
    assert_eq!((status, out.lines().count()), (0, TENANTS));
    assert!(said.contains("nothing was changed"), "{said}");
    // A mover that has died in between.
    stage.etcd.put("routes/orders/t0", json!({ "owner": "a", "epoch": 5, "state": "frozen", "target": "b", "move": "m" })).await;
    let (status, out, said) = stage.run(&["t0", "--abort"]).await;
    assert!(status == 0 && out.contains("given back"), "{said}");
    assert_eq!(stage.etcd.get("routes/orders/t0").await.unwrap(), json!({ "owner": "a", "epoch": 6 }));
    let shown = stage.a.owner.view().load_full().unwrap();
    assert!(shown.revision() > 0);
}

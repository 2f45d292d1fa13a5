//! Numbered writes under load, backends that remember when they executed each, and a judge of both.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use waypost_tests::{Client, Peer, RawBackend, until_true};

/// One execution of a write.
#[derive(Clone, Debug)]
pub(crate) struct Executed {
    tenant: String,
    number: u64,
    cell: &'static str,
    from: Instant,
    to: Instant,
}

/// What the cells have executed, and how long a write takes them.
#[derive(Clone, Default)]
pub(crate) struct History {
    executed: Arc<Mutex<Vec<Executed>>>,
    slow_ms: Arc<AtomicU64>,
}

impl History {
    /// From now on a write takes so long.
    pub(crate) fn slow(&self, time: Duration) {
        self.slow_ms.store(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// How many writes a cell has executed.
    pub(crate) fn count_of(&self, cell: &str) -> usize {
        self.executed.lock().unwrap().iter().filter(|executed| executed.cell == cell).count()
    }

    /// Waits until so many more writes were executed.
    pub(crate) async fn more(&self, writes: usize) {
        let wanted = self.executed.lock().unwrap().len() + writes;
        until_true("writes go on", async || self.executed.lock().unwrap().len() >= wanted).await;
    }

    /// A cell that executes whatever comes, and knows nothing of who owns what.
    pub(crate) async fn cell(&self, name: &'static str) -> RawBackend {
        let history = self.clone();
        RawBackend::start(move |peer, _| history.clone().serve(peer, name)).await
    }

    pub(crate) async fn serve(self, mut peer: Peer, cell: &'static str) {
        while let Some(request) = peer.request().await {
            let tenant = request.values("x-tenant").first().copied().unwrap_or_default().to_owned();
            let from = Instant::now();
            tokio::time::sleep(Duration::from_millis(self.slow_ms.load(Ordering::Relaxed))).await;
            let number = String::from_utf8_lossy(&request.body).parse().unwrap();
            self.executed.lock().unwrap().push(Executed { tenant, number, cell, from, to: Instant::now() });
            if !peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}", &cell[..1])).await {
                return;
            }
        }
    }

    /// Each answered write was executed once, a failed one at most once, and no two cells executed one key's at the same time. Cells are told
    /// apart by the upstream that they are of, the first letter of their names.
    pub(crate) fn judge(&self, answers: &[Written], may_fail: impl Fn(&Written) -> bool) {
        let history = self.executed.lock().unwrap().clone();
        let mut times: HashMap<u64, usize> = HashMap::new();
        history.iter().for_each(|executed| *times.entry(executed.number).or_default() += 1);
        for write in answers {
            let executed = times.remove(&write.number).unwrap_or(0);
            if write.status == 200 {
                assert_eq!(executed, 1, "{write:?}");
            } else {
                assert!(executed <= 1 && may_fail(write), "{write:?} was executed {executed} times");
            }
        }
        assert!(times.is_empty(), "executed, and nobody's: {times:?}");
        let mut by_tenant: HashMap<&str, Vec<&Executed>> = HashMap::new();
        history.iter().for_each(|executed| by_tenant.entry(&executed.tenant).or_default().push(executed));
        let upstream = |executed: &Executed| executed.cell.as_bytes()[0];
        for executed in by_tenant.into_values() {
            for one in &executed {
                let overlaps = executed.iter().find(|other| upstream(other) != upstream(one) && other.from < one.to && one.from < other.to);
                assert!(overlaps.is_none(), "two owners at work: {one:?} and {overlaps:?}");
            }
        }
    }
}

/// What a client was answered to a write.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) number: u64,
    pub(crate) tenant: String,
    /// The place of the proxy that was asked.
    pub(crate) proxy: usize,
    /// Of the answer.
    pub(crate) request_id: String,
    /// 0: nothing.
    pub(crate) status: u16,
    pub(crate) reason: String,
    /// When it was sent and answered.
    pub(crate) from: Instant,
    pub(crate) to: Instant,
}

/// Who writes what.
#[derive(Clone)]
pub(crate) struct Load {
    /// The proxies; each client keeps to one.
    pub(crate) proxies: Vec<SocketAddr>,
    pub(crate) clients: usize,
    pub(crate) tenants: usize,
    /// The least time between two writes of one client.
    pub(crate) every: Duration,
    /// Whether each write is for a tenant that is drawn; else each client keeps to one.
    pub(crate) any_tenant: bool,
    /// The method, and the path of a write.
    pub(crate) method: &'static str,
    pub(crate) path: fn(&str, u64) -> String,
}

/// Clients that write numbers, each for one of the tenants `t0`, `t1` …, until they are stopped.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Written>>>,
}

impl Writers {
    pub(crate) fn start(address: SocketAddr, clients: usize, tenants: usize) -> Self {
        let (proxies, every) = (vec![address], Duration::ZERO);
        Self::of(&Load { proxies, clients, tenants, every, any_tenant: false, method: "POST", path: |_, _| "/".to_owned() })
    }

    pub(crate) fn of(load: &Load) -> Self {
        let (stop, numbers) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks = (0..load.clients).map(|client| tokio::spawn(load.clone().write(client, Arc::clone(&stop), Arc::clone(&numbers))));
        let tasks = tasks.collect();
        Self { stop, tasks }
    }

    pub(crate) async fn stop(self) -> Vec<Written> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        all
    }
}

impl Load {
    async fn write(self, client: usize, stop: Arc<AtomicBool>, numbers: Arc<AtomicU64>) -> Vec<Written> {
        let proxy = client % self.proxies.len();
        let address = self.proxies[proxy];
        let mut rng = fastrand::Rng::with_seed(client as u64);
        let mut connection = Client::connect(address).await;
        let mut answers = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let tenant = if self.any_tenant { rng.usize(..self.tenants) } else { client % self.tenants };
            let (number, tenant, from) = (numbers.fetch_add(1, Ordering::Relaxed), format!("t{tenant}"), Instant::now());
            let path = (self.path)(&tenant, number);
            let written = connection.try_request(self.method, &path, &[("x-tenant", &tenant)], number.to_string().as_bytes()).await;
            let to = Instant::now();
            let (status, reason, request_id) = match &written {
                Ok(answer) => (answer.status, answer.reason().to_owned(), answer.header("x-request-id").to_owned()),
                Err(why) => (0, why.clone(), String::new()),
            };
            if written.is_ok_and(|answer| answer.header("connection") == "close") || status == 0 {
                connection = Client::connect(address).await;
            }
            answers.push(Written { number, tenant, proxy, request_id, status, reason, from, to });
            // A client that is slower than that has no pause at all.
            tokio::time::sleep_until((from + self.every).into()).await;
        }
        answers
    }
}

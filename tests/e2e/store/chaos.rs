//! Everything at once: a cluster of three behind networks that break, members killed, paused and cut off, compactions and writes, in an
//! order that a seed picks. Whatever happened, no request fails, the table never goes back, and in the end it is the store's.
//!
//! `WAYPOST_SEED=n cargo test -p waypost-tests --test e2e chaos` replays a course, as far as processes on a machine can be replayed.

use serde_json::{Value, json};
use waypost_tests::{Backend, Cluster, FaultProxy, Steady, Waypost, until};

use crate::scene::{route, service};

const KEYS: [&str; 4] = ["t1", "t2", "t3", "t4"];
/// Routes that come and go; nobody asks for them.
const LOOSE: usize = 200;

struct Chaos {
    cluster: Cluster,
    networks: Vec<FaultProxy>,
    waypost: Waypost,
    steady: Steady,
    _cells: [Backend; 3],
    rng: fastrand::Rng,
    /// The member that is killed, paused or cut off: at most one, so that a majority is left.
    down: Option<(usize, Trouble)>,
    epoch: u64,
    revision: u64,
    course: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Killed,
    Paused,
    Parted,
}

impl Chaos {
    async fn start(seed: u64) -> Self {
        let cluster = Cluster::start().await;
        let cells = [Backend::named("a").await, Backend::named("b").await, Backend::named("c").await];
        let mut records = vec![("services/orders".to_owned(), service(json!({})))];
        records.extend(["a", "b", "c"].iter().zip(&cells).map(|(name, cell)| (format!("upstreams/{name}"), cell.upstream())));
        records.extend(KEYS.map(|key| (format!("routes/orders/{key}"), route("a", 1))));
        let records: Vec<(&str, Value)> = records.iter().map(|(key, value)| (&**key, value.clone())).collect();
        cluster.member(0).put_all(&records).await;
        let mut networks = Vec::new();
        for number in 0..3 {
            networks.push(FaultProxy::start(cluster.member(number).address()).await);
        }
        let gold: Vec<String> = networks.iter().map(FaultProxy::url).collect();
        let waypost = Waypost::start(&gold.join(","), &[]).await;
        let steady = Steady::start(&waypost, &KEYS.map(|key| (key, "a")));
        let rng = fastrand::Rng::with_seed(seed);
        Self { cluster, networks, waypost, steady, _cells: cells, rng, down: None, epoch: 1, revision: 0, course: Vec::new() }
    }

    async fn step(&mut self) {
        let network = self.rng.usize(0..3);
        match self.rng.u32(0..16) {
            0 => self.trouble(Trouble::Killed).await,
            1 => self.trouble(Trouble::Paused).await,
            2 => self.trouble(Trouble::Parted).await,
            3 | 4 => self.mend().await,
            5 => self.note(format!("cut {network}"), |chaos| chaos.networks[network].cut()),
            6 => self.note(format!("reset {network}"), |chaos| chaos.networks[network].reset()),
            7 => self.note(format!("stall {network}"), |chaos| chaos.networks[network].stall()),
            8 => {
                let bytes = self.rng.usize(1..4000);
                self.note(format!("cut {network} after {bytes}"), |chaos| chaos.networks[network].cut_after(bytes));
            }
            9 => self.note(format!("hold {network}"), |chaos| chaos.networks[network].hold()),
            10 | 11 => self.note(format!("pass {network}"), |chaos| chaos.networks[network].pass()),
            12 => {
                self.course.push("compact".to_owned());
                self.cluster.member(self.healthy()).try_compact().await;
            }
            _ => {}
        }
        for _ in 0..self.rng.usize(1..8) {
            self.write().await;
        }
        let revision = self.waypost.status().await["gold"][0]["revision"].as_u64().unwrap();
        assert!(revision >= self.revision, "the table went back from {} to {revision}: {:#?}", self.revision, self.course);
        self.revision = revision;
        self.steady.more(5).await;
    }

    fn note(&mut self, what: String, act: impl FnOnce(&Self)) {
        self.course.push(what);
        act(self);
    }

    fn healthy(&self) -> usize {
        (0..3).find(|number| self.down.is_none_or(|(down, _)| down != *number)).unwrap()
    }

    async fn trouble(&mut self, trouble: Trouble) {
        self.mend().await;
        let number = self.rng.usize(0..3);
        self.course.push(format!("{number} is {trouble:?}"));
        match trouble {
            Trouble::Killed => self.cluster.member_mut(number).kill(),
            Trouble::Paused => self.cluster.member(number).pause(),
            Trouble::Parted => self.cluster.part(number),
        }
        self.down = Some((number, trouble));
    }

    async fn mend(&mut self) {
        let Some((number, trouble)) = self.down.take() else { return };
        self.course.push(format!("{number} is no longer {trouble:?}"));
        match trouble {
            Trouble::Killed => self.cluster.member_mut(number).restart().await,
            Trouble::Paused => self.cluster.member(number).resume(),
            Trouble::Parted => self.cluster.rejoin(),
        }
    }

    /// One write, which may fail: then it may also have been done.
    async fn write(&mut self) {
        self.epoch += 1;
        let member = self.cluster.member(self.healthy());
        if self.rng.bool() {
            let (key, owner) = (KEYS[self.rng.usize(0..KEYS.len())], ["a", "b", "c"][self.rng.usize(0..3)]);
            self.steady.may(key, owner);
            let _ = member.try_put(&format!("routes/orders/{key}"), route(owner, self.epoch)).await;
        } else {
            let key = format!("routes/orders/loose-{}", self.rng.usize(0..LOOSE));
            let _ = if self.rng.bool() { member.try_put(&key, route("a", self.epoch)).await } else { member.try_delete(&key).await };
        }
    }

    async fn ends(mut self) {
        self.mend().await;
        self.networks.iter().for_each(FaultProxy::pass);
        let revision =
            until("the cluster takes writes", async || self.cluster.member(0).try_put("routes/orders/last", route("a", 1)).await).await;
        let course = format!("{:#?}", self.course);
        until(&format!("the proxy has caught up, after {course}"), async || {
            let gold = self.waypost.status().await["gold"][0].clone();
            if gold["revision"].as_u64() >= Some(revision) && gold["connected"] == true { Ok(()) } else { Err(gold.to_string()) }
        })
        .await;
        self.waypost.equals(&["--gold", &self.cluster.urls()]).await;
        self.steady.stop().await;
    }
}

async fn course(steps: usize, seed: u64) {
    eprintln!("WAYPOST_SEED={seed}");
    let mut chaos = Chaos::start(seed).await;
    for _ in 0..steps {
        chaos.step().await;
    }
    chaos.ends().await;
}

#[tokio::test]
async fn a_course_of_troubles_ends_with_the_store_s_table() {
    course(8, super::seed()).await;
}

#[tokio::test]
#[ignore = "soak"]
async fn long_courses_of_troubles_end_with_the_store_s_table() {
    let first = super::seed();
    for seed in first..first + 5 {
        course(100, seed).await;
    }
}

//! Two owners that send each request to the other, by every state that there is, in an order that a seed picks: whatever they say, every
//! request ends soon.
//!
//! Each has many endpoints: who is found out is not believed any more, and the next one takes over.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use waypost_tests::{Peer, RawBackend, RawRequest, until};

use super::stage::{SERVED, Stage, moved, refusal, stale};
use crate::scene::route;

const REQUESTS: usize = 200;
const ENDPOINTS: usize = 40;

/// What one endpoint says.
struct Liar {
    other: &'static str,
    stranger: String,
    table: String,
    rng: Mutex<fastrand::Rng>,
}

impl Liar {
    /// Mostly what leads on: what is not followed ends the request.
    fn says(&self, request: &RawRequest) -> Vec<u8> {
        let mut rng = self.rng.lock().unwrap();
        let stamp = request.values("route-stamp").first().map(|stamp| (*stamp).to_owned()).unwrap_or_default();
        let stamped: u64 = stamp.split(", ").find_map(|part| part.strip_prefix("epoch=")?.parse().ok()).unwrap_or(0);
        let state = if rng.u8(..3) > 0 { "moved" } else { ["behind", "handoff", "ask", "evaporated"][rng.usize(..4)] };
        let owner = if rng.u8(..3) > 0 { self.other } else { ["a", "b", "nobody", &self.stranger][rng.usize(..4)] };
        let epoch = if rng.u8(..6) > 0 { stamped + 1 } else { stamped.saturating_sub(rng.u64(..2)) };
        let said = moved(owner, &epoch.to_string(), 999_999, &self.table).replace("state=moved", &format!("state={state}"));
        match rng.usize(..24) {
            0 => SERVED.to_vec(),
            1 => refusal("").into_bytes(),
            2 => stale("state=moved, key=\"t1\"").into_bytes(),
            _ => stale(&said).into_bytes(),
        }
    }
}

/// The endpoints of one owner, and its record.
async fn owner(other: &'static str, stage: &Stage, rng: &mut fastrand::Rng, asked: &Arc<AtomicUsize>) -> (Vec<RawBackend>, Value) {
    let mut endpoints = Vec::new();
    for _ in 0..ENDPOINTS {
        let (stranger, table) = (stage.stranger.address.to_string(), stage.table.clone());
        let (liar, asked) = (Arc::new(Liar { other, stranger, table, rng: Mutex::new(rng.fork()) }), Arc::clone(asked));
        let answering = move |mut peer: Peer, _| {
            let (liar, asked) = (Arc::clone(&liar), Arc::clone(&asked));
            async move {
                while let Some(request) = peer.request().await {
                    asked.fetch_add(1, Ordering::Relaxed);
                    if !peer.send(liar.says(&request)).await {
                        return;
                    }
                }
            }
        };
        endpoints.push(RawBackend::start(answering).await);
    }
    let addresses: Vec<Value> = endpoints.iter().map(|endpoint| json!({ "address": endpoint.address.to_string() })).collect();
    (endpoints, json!({ "endpoints": addresses }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_two_of_them_say_every_request_ends_soon() {
    let seed = std::env::var("WAYPOST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("WAYPOST_SEED={seed}");
    let rng = &mut fastrand::Rng::with_seed(seed);
    // No budget ends it: the other bounds have to.
    let stage = Stage::with(json!({ "park_ms": 400, "retries": { "min_per_second": 10_000 } })).await;
    let asked = Arc::<AtomicUsize>::default();
    let (_as, a) = owner("b", &stage, rng, &asked).await;
    let (_bs, b) = owner("a", &stage, rng, &asked).await;
    for (key, record) in [("upstreams/c", stage.b.upstream()), ("routes/orders/t2", route("c", 6)), ("upstreams/a", a)] {
        stage.etcd.put(key, record).await;
    }
    let revision = stage.etcd.put("upstreams/b", b).await;
    stage.waypost.at(revision).await;
    for number in 0..REQUESTS {
        let began = Instant::now();
        let (status, reason, got) = stage.ask("t1", "x").await;
        let took = began.elapsed();
        // Waiting: 400 ms for the key, 250 ms for one that is behind at each of five, and as often a check of 250 ms at most.
        assert!(took < Duration::from_secs(8), "request {number} took {took:?}");
        let is_known = matches!((status, &*reason), (200 | 421, "") | (503, "stale_unhealed" | "park_timeout"));
        assert!(is_known, "request {number}: {got}");
    }
    // Each of four dispatches and an ask may be repeated while its owner is behind or hands over.
    let dispatched = asked.load(Ordering::Relaxed);
    assert!(dispatched < REQUESTS * 40, "{dispatched} dispatches for {REQUESTS} requests");
    until("nothing is left over", async || {
        let left = [stage.waypost.metric("waypost_parked").await, stage.waypost.metric("waypost_in_flight").await];
        if left == [0.0, 0.0] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let lines = until("all are logged", async || {
        let lines = stage.waypost.access_log();
        if lines.len() >= REQUESTS { Ok(lines) } else { Err(lines.len().to_string()) }
    })
    .await;
    let most = lines.iter().filter_map(|line| line["hops"].as_u64()).max();
    assert_eq!(most, Some(3), "hops: so many are made, and no more");
    let (hints, refuted) = stage.hints().await;
    assert!(hints <= 1 && refuted > 0, "one key, one hint: {hints}; refuted: {refuted}");
    stage.is_sound(&format!("seed {seed}")).await;
}

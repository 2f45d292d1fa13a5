//! Playing the rows: the store is set, the request is sent as a proxy would send it, the answer is judged.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use waypost_policy::wire::Stamp;

use super::{
    backend::{Backend, Process},
    cases::{CASES, Case, Cast, EPOCH, EXECUTED, Facts, Sends, Wanted, stamp},
    exchange::{Exchange, Request, exchange},
    judge::{judge, right},
    world::World,
};

/// So much longer than `wait-ms` an answer may take.
pub(super) const SLACK: Duration = Duration::from_millis(1500);
/// How long a change may take to be known to the backend.
pub(super) const KNOWN_LIMIT: Duration = Duration::from_secs(3);
/// The epoch that keys have once they have come back to the backend.
const BACK: u64 = 100;
/// What a stamp lets the backend wait where its waiting is what is looked at, and when what it waits for comes.
const CATCH_UP_MS: u64 = 3000;
const COMES_AFTER: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(20);

/// How a row ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Failed(Vec<String>),
    /// It could not be played, or was not to be; why.
    Skipped(String),
}

/// A row that was played.
#[derive(Clone, Debug)]
pub(super) struct Played {
    pub(super) row: &'static str,
    pub(super) says: String,
    pub(super) verdict: Verdict,
    pub(super) exchanges: Vec<Exchange>,
    /// What would have been right.
    pub(super) right: Option<String>,
    pub(super) took: Duration,
}

impl Played {
    pub(super) fn of(row: &'static str, says: &str, began: Instant, exchanges: Vec<Exchange>, faults: Vec<String>) -> Self {
        let verdict = if faults.is_empty() { Verdict::Passed } else { Verdict::Failed(faults) };
        Self { row, says: says.to_owned(), verdict, exchanges, right: None, took: began.elapsed() }
    }

    pub(super) fn skipped(row: &'static str, says: &str, why: impl Into<String>) -> Self {
        let verdict = Verdict::Skipped(why.into());
        Self { row, says: says.to_owned(), verdict, exchanges: Vec::new(), right: None, took: Duration::ZERO }
    }
}

/// A write that must not be executed, and the text that would show that it was.
struct Written {
    says: &'static str,
    facts: Facts,
    text: String,
}

/// A run.
pub(super) struct Stage<'a> {
    pub(super) backend: &'a Backend,
    pub(super) cast: Cast,
    pub(super) world: &'a mut World,
    /// What makes this run's keys its own.
    pub(super) run: String,
    written: Vec<Written>,
    revision: u64,
}

impl<'a> Stage<'a> {
    /// Puts the records of all cases.
    pub(super) async fn set(
        backend: &'a Backend,
        cast: Cast,
        world: &'a mut World,
        key_header: &str,
        address: SocketAddr,
    ) -> Result<Self, String> {
        let run = format!("{:04x}", fastrand::u16(..));
        let Cast { service, me, other, .. } = &cast;
        let mut records = vec![
            (format!("services/{service}").into_bytes(), json!({ "match": [{}], "key": { "header": key_header }, "default_owner": me })),
            (format!("upstreams/{me}").into_bytes(), json!({ "endpoints": [{ "address": address.to_string() }], "stale_aware": true })),
            (format!("upstreams/{other}").into_bytes(), json!({})),
        ];
        let mut stage = Self { backend, cast: cast.clone(), world, run, written: Vec::new(), revision: 0 };
        for (number, case) in CASES.iter().enumerate() {
            let key = stage.key_of(number, case);
            records.extend(case.route(&cast).map(|route| (stage.route_key(&key), route)));
        }
        for name in ["ready", "proof", "late"] {
            records.push((stage.route_key(&stage.key(name)), stage.mine(EPOCH)));
        }
        stage.revision = stage.world.put(&records).await?;
        Ok(stage)
    }

    /// A key of this run's.
    pub(super) fn key(&self, name: &str) -> Vec<u8> {
        format!("conform-{name}-{}", self.run).into_bytes()
    }

    fn key_of(&self, number: usize, case: &Case) -> Vec<u8> {
        self.key(&if case.is_odd { format!("№{number}") } else { number.to_string() })
    }

    /// Where a key's route is.
    pub(super) fn route_key(&self, key: &[u8]) -> Vec<u8> {
        [format!("routes/{}/", self.cast.service).as_bytes(), key].concat()
    }

    /// A route to the backend.
    pub(super) fn mine(&self, epoch: u64) -> Value {
        json!({ "owner": self.cast.me, "epoch": epoch })
    }

    /// Puts one route; its revision.
    pub(super) async fn put(&mut self, key: &[u8], route: Value) -> Result<u64, String> {
        let record = (self.route_key(key), route);
        self.world.put(&[record]).await
    }

    /// Sends a request and judges the answer; the limit is the stamp's `wait-ms` and some more.
    pub(super) async fn ask(&self, request: &Request, stamp: Option<&Stamp>, wanted: Wanted, facts: &Facts) -> (Exchange, Vec<String>) {
        let limit = Duration::from_millis(stamp.map_or(0, |stamp| stamp.wait_ms)) + SLACK;
        let exchange = exchange(self.backend.to, request, limit).await;
        let faults = match &exchange.answer {
            Ok(answer) => judge(wanted, answer, &self.cast, facts),
            Err(why) => vec![why.clone()],
        };
        (exchange, faults)
    }

    /// Asks the safe request of a key until it is served, or a limit has passed.
    pub(super) async fn until_served(
        &self,
        facts: &Facts,
        limit: Duration,
        process: &mut Option<Process>,
    ) -> Result<Exchange, (Option<Exchange>, String)> {
        let ends = Instant::now() + limit;
        let stamp = stamp(&self.cast, facts);
        let request = self.backend.request(Sends::Read, &facts.key, Some(&stamp), "");
        loop {
            let (exchange, faults) = self.ask(&request, Some(&stamp), Wanted::Served, facts).await;
            if faults.is_empty() {
                return Ok(exchange);
            }
            if let Some(status) = process.as_mut().and_then(Process::has_ended) {
                return Err((None, format!("its command has ended: {status}")));
            }
            if Instant::now() >= ends {
                return Err((Some(exchange), faults.join("; ")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the backend serves a key that it owns: then it knows all that was put.
    pub(super) async fn ready(&self, limit: Duration, process: &mut Option<Process>) -> Result<Exchange, (Option<Exchange>, String)> {
        let facts = Facts { key: self.key("ready"), epoch: EPOCH, revision: self.revision };
        self.until_served(&facts, limit, process).await
    }

    /// Plays one case.
    pub(super) async fn case(&mut self, number: usize, case: &Case) -> Played {
        let began = Instant::now();
        let facts = case.facts(self.key_of(number, case), self.revision);
        let stamp = case.stamp(&self.cast, &facts);
        let text = format!("written by conform {}-{number}", self.run);
        let request = self.backend.request(case.sends, &facts.key, stamp.as_ref(), &text);
        let (exchange, faults) = self.ask(&request, stamp.as_ref(), case.wanted, &facts).await;
        let right = right(case.wanted, &self.cast, &facts);
        let was_refused = exchange.answer.as_ref().is_ok_and(super::judge::Answer::is_refusal);
        // What was served though it should not have been has been told already.
        if case.must_not_execute() && was_refused {
            self.written.push(Written { says: case.says, facts, text });
        }
        Played { right: Some(right), ..Played::of(case.row, case.says, began, vec![exchange], faults) }
    }

    /// The epoch of the stamp comes to the backend while it waits.
    pub(super) async fn catches_up(&mut self) -> Result<Played, String> {
        const SAYS: &str = "a newer epoch that comes within wait-ms: waited for, and served";
        let began = Instant::now();
        let key = self.key("late");
        let facts = Facts { key: key.clone(), epoch: EPOCH + 1, revision: self.revision };
        let stamp = Stamp { wait_ms: CATCH_UP_MS, ..stamp(&self.cast, &facts) };
        let request = self.backend.request(Sends::Write, &key, Some(&stamp), "late");
        let mut asked = std::pin::pin!(async { exchange(self.backend.to, &request, Duration::from_millis(CATCH_UP_MS) + SLACK).await });
        let early = tokio::time::timeout(COMES_AFTER, &mut asked).await;
        let record = (self.route_key(&key), self.mine(EPOCH + 1));
        let put = self.world.put(&[record]).await;
        let (exchange, was_early) = match early {
            Ok(exchange) => (exchange, true),
            Err(_) => (asked.await, false),
        };
        put?;
        let mut faults = match &exchange.answer {
            Ok(answer) => judge(Wanted::Served, answer, &self.cast, &facts),
            Err(why) => vec![why.clone()],
        };
        if was_early {
            faults = vec![format!("it answers after {} ms, and does not wait for its own watch", exchange.took.as_millis())];
        }
        let right =
            format!("waiting up to wait-ms, here {CATCH_UP_MS} ms, until the own watch has brought epoch {}; then serving", EPOCH + 1);
        Ok(Played { right: Some(right), ..Played::of("d", SAYS, began, vec![exchange], faults) })
    }

    /// Whether what was refused had been executed all the same, as far as a read shows it.
    pub(super) async fn executed(&mut self) -> Result<Played, String> {
        const SAYS: &str = "nothing that was refused had been executed";
        let began = Instant::now();
        if self.written.is_empty() {
            for (number, case) in CASES.iter().enumerate().filter(|(_, case)| case.must_not_execute()) {
                self.case(number, case).await;
            }
        }
        if let Some(why) = self.why_unseen().await {
            return Ok(Played::skipped(EXECUTED, SAYS, why));
        }
        let written = std::mem::take(&mut self.written);
        let records: Vec<_> = written.iter().map(|written| (self.route_key(&written.facts.key), self.mine(BACK))).collect();
        let revision = self.world.put(&records).await?;
        let (mut faults, mut exchanges) = (Vec::new(), Vec::new());
        for Written { says, facts, text } in written {
            let facts = Facts { epoch: BACK, revision, ..facts };
            match self.until_served(&facts, KNOWN_LIMIT, &mut None).await {
                Ok(exchange) if shows(&exchange, &text) => {
                    faults.push(format!("\"{says}\": a read shows what it was told to write"));
                    exchanges.push(exchange);
                }
                Ok(_) => {}
                Err((exchange, why)) => {
                    faults.push(format!("the key of \"{says}\" has come back to it at epoch {BACK}, and it does not serve it: {why}"));
                    exchanges.extend(exchange);
                }
            }
        }
        Ok(Played::of(EXECUTED, SAYS, began, exchanges, faults))
    }

    /// Why a read would not show what was written, if it would not.
    async fn why_unseen(&self) -> Option<String> {
        let facts = Facts { key: self.key("proof"), epoch: EPOCH, revision: self.revision };
        let stamp = stamp(&self.cast, &facts);
        let text = format!("written by conform {}-proof", self.run);
        let mut seen = Vec::new();
        for sends in [Sends::Write, Sends::Read] {
            let request = self.backend.request(sends, &facts.key, Some(&stamp), &text);
            seen.push(self.ask(&request, Some(&stamp), Wanted::Served, &facts).await.0);
        }
        let [read, write] = self.backend.asked();
        (!shows(&seen[1], &text)).then(|| {
            format!(
                "the answer to {read} does not show what {write} has written, so it can't be seen; --read and --request name such a pair"
            )
        })
    }
}

/// Whether an answer's body has this text in it.
fn shows(exchange: &Exchange, text: &str) -> bool {
    let has = |body: &[u8]| body.windows(text.len()).any(|window| window == text.as_bytes());
    exchange.answer.as_ref().is_ok_and(|answer| has(&answer.body))
}

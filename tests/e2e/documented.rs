//! What docs/backends.md shows is what happens: its examples are read from the page itself and played, in both directions.
//!
//! A block is fenced as `http NAME`; a request and the answer to it have one name. A name that is not known here fails, and so does one that
//! the page has no more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use waypost_owner::Announcement;
use waypost_tests::{Etcd, FaultProxy, Peer, RawBackend, RawRequest, Waypost, until_true};

use crate::{
    conform::Cell,
    scene::{route, service},
};

const PAGE: &str = include_str!("../../docs/backends.md");
/// The incarnation of the page's store.
const TABLE: &str = "cdf818194e3a8c32-0";
const SERVED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n";

/// One example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Example {
    request: Option<String>,
    answer: Option<String>,
}

/// Fenced blocks of one language: the words behind it, and the text.
fn blocks(language: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```").filter(|info| !info.is_empty()) else { continue };
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let (given, words) = info.split_once(' ').unwrap_or((info, ""));
        if given == language {
            found.push((words.to_owned(), text.join("\n")));
        }
    }
    found
}

fn examples() -> BTreeMap<String, Example> {
    let mut all: BTreeMap<String, Example> = BTreeMap::new();
    for (name, text) in blocks("http") {
        // The page's lines are the wire's lines; a body ends where it ends.
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let wire = format!("{}\r\n\r\n{body}", head.replace('\n', "\r\n"));
        let example = all.entry(name.clone()).or_default();
        let place = if wire.starts_with("HTTP/1.1 ") { &mut example.answer } else { &mut example.request };
        assert!(place.replace(wire).is_none(), "{name} is there twice");
    }
    all
}

/// A text of this run as the page has it: its table, and any revision.
fn as_on_page(text: &str, table: &str) -> String {
    let mut parts = text.split("revision=");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown += "revision=N";
        shown += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    shown.replace(table, TABLE)
}

/// What a backend knows when it answers so, and the upstream that it is.
fn world(name: &str) -> (&'static str, Value) {
    match name {
        "served" => ("cell-7", route("cell-7", 43)),
        "moved" | "bytes" | "large" => ("cell-7", route("cell-9", 44)),
        "update" | "itself" => ("cell-7", route("cell-7", 44)),
        "behind" => ("cell-7", route("cell-7", 43)),
        "handoff" => ("cell-7", json!({ "owner": "cell-7", "epoch": 43, "state": "frozen" })),
        "unknown" => ("cell-7", route("cell-9", 43)),
        "asked" => ("cell-9", json!({ "owner": "cell-7", "epoch": 43, "state": "moving", "target": "cell-9" })),
        other => panic!("the example {other} is not known; say here what its backend knows"),
    }
}

fn key_of(name: &str) -> &'static str {
    if name == "bytes" { "tänant" } else { "tenant-42" }
}

async fn cells(etcd: &Etcd) {
    etcd.put_all(&[("services/orders", service(json!({}))), ("upstreams/cell-7", json!({})), ("upstreams/cell-9", json!({}))]).await;
}

/// The requests of the page, sent to a backend that uses the library: it answers what the page shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_answered_as_the_page_shows() {
    let etcd = Etcd::start().await;
    cells(&etcd).await;
    let cell = BTreeMap::from([
        ("cell-7", Cell::start(&etcd.url(), "/waypost/v1", "cell-7", None).await),
        ("cell-9", Cell::start(&etcd.url(), "/waypost/v1", "cell-9", None).await),
    ]);
    let table = cell["cell-7"].table();
    let mut played = Vec::new();
    for (name, Example { request, answer }) in examples() {
        // An item that has gone is the application's own knowledge.
        if name == "ask" {
            continue;
        }
        let (upstream, record) = world(&name);
        let revision = etcd.put(&format!("routes/orders/{}", key_of(&name)), record).await;
        let cell = &cell[upstream];
        until_true("the backend knows it", async || cell.revision() >= revision).await;
        let request = request.unwrap_or_else(|| examples()["served"].request.clone().unwrap());
        let mut peer = Peer::connect(cell.backend.address).await;
        peer.send(request.replace(TABLE, &table)).await;
        let head = peer.until("\r\n\r\n").await.unwrap();
        match answer {
            Some(answer) => assert_eq!(as_on_page(&head, &table), as_on_page(&answer, &table), "{name}"),
            None => assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("Route-"), "{name}: {head}"),
        }
        played.push(name);
        etcd.delete(&format!("routes/orders/{}", key_of(played.last().unwrap()))).await;
    }
    assert_eq!(played, ["asked", "behind", "bytes", "handoff", "itself", "large", "moved", "served", "unknown", "update"]);
}

/// A proxy before two backends: `cell-7` gives the page's answer once and then serves, `cell-9` serves.
struct Stage {
    waypost: Waypost,
    table: String,
    seen: [Arc<Mutex<Vec<RawRequest>>>; 2],
    etcd: Etcd,
    _backends: [RawBackend; 2],
    between: FaultProxy,
}

/// Gives its answers one after the other and then serves with its name; keeps what it was asked.
async fn backend(name: &'static str, answers: Arc<Mutex<Vec<String>>>, seen: Arc<Mutex<Vec<RawRequest>>>) -> RawBackend {
    RawBackend::start(move |mut peer: Peer, _| {
        let (answers, seen) = (Arc::clone(&answers), Arc::clone(&seen));
        async move {
            while let Some(mut head) = peer.until("\r\n\r\n").await {
                head.truncate(head.len() - 2);
                let mut request = RawRequest { head, body: Vec::new() };
                let next = answers.lock().unwrap().pop();
                let is_refusal = next.as_ref().is_some_and(|answer| answer.starts_with("HTTP/1.1 421"));
                if request.values("expect").is_empty() || !is_refusal {
                    if !request.values("expect").is_empty() {
                        peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                    }
                    let length = request.values("content-length").first().map_or(0, |length| length.parse().unwrap());
                    let Some(body) = peer.exactly(length).await else { return };
                    request.body = body;
                }
                seen.lock().unwrap().push(request);
                if !peer.send(next.unwrap_or_else(|| format!("{SERVED}{name}"))).await {
                    return;
                }
            }
        }
    })
    .await
}

impl Stage {
    async fn of(name: &str, example: &Example) -> Self {
        let etcd = Etcd::start().await;
        let seen = [Arc::<Mutex<Vec<RawRequest>>>::default(), Arc::default()];
        let answers = Arc::<Mutex<Vec<String>>>::default();
        let backends = [
            backend("cell-7", Arc::clone(&answers), Arc::clone(&seen[0])).await,
            backend("cell-9", Arc::default(), Arc::clone(&seen[1])).await,
        ];
        let mut aware = backends[0].upstream();
        aware["stale_aware"] = json!(true);
        let epoch = if name == "behind" { 44 } else { 43 };
        let mut known = route("cell-7", epoch);
        if name == "ask" {
            known = json!({ "owner": "cell-7", "epoch": epoch, "state": "moving", "target": "cell-9" });
        }
        etcd.put_all(&[
            ("services/orders", service(json!({}))),
            ("upstreams/cell-7", aware),
            ("upstreams/cell-9", backends[1].upstream()),
            (&format!("routes/orders/{}", key_of(name)), known),
        ])
        .await;
        let between = FaultProxy::start(etcd.address()).await;
        let waypost = Waypost::start(&between.url(), &crate::store::WITHOUT_REPORTS).await;
        let gold = waypost.until_connected(true).await;
        let table = gold["table"].as_str().unwrap().to_owned();
        answers.lock().unwrap().extend(example.answer.iter().map(|answer| answer.replace(TABLE, &table)));
        Self { waypost, table, seen, etcd, _backends: backends, between }
    }

    /// The page's request as a client sends it: without what the proxy adds.
    async fn ask(&self, request: &str) -> String {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let is_the_proxy_s = |line: &&str| line.starts_with("Route-Stamp: ") || line.starts_with("Expect: ");
        let head: Vec<&str> = head.split("\r\n").filter(|line| !is_the_proxy_s(line)).collect();
        let length: usize = head.iter().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |length| length.parse().unwrap());
        let body = if body.len() < length { "x".repeat(length) } else { body.to_owned() };
        let mut client = Peer::connect(self.waypost.listen).await;
        client.send_and_read(format!("{}\r\nConnection: close\r\n\r\n{body}", head.join("\r\n")).as_bytes()).await.0
    }

    /// What one of the backends was asked, stamp by stamp: epoch, hop, ask.
    fn stamps(&self, cell: usize) -> Vec<String> {
        let member =
            |stamp: &str, name: &str| stamp.split(", ").find_map(|part| part.strip_prefix(&format!("{name}="))).unwrap_or("-").to_owned();
        let seen = self.seen[cell].lock().unwrap();
        let stamps = seen.iter().map(|request| request.values("route-stamp")[0].to_owned());
        stamps.map(|stamp| ["epoch", "hop", "ask"].map(|name| member(&stamp, name)).join(" ")).collect()
    }

    /// Asserts that what a backend saw first is what the page shows, but for what the proxy says of the client.
    fn saw(&self, cell: usize, shown: &str) {
        let seen = self.seen[cell].lock().unwrap()[0].clone();
        let stamp = format!("Route-Stamp: {}", seen.values("route-stamp")[0]);
        let lines = |head: &str| {
            let head = as_on_page(head, &self.table);
            let mut lines: Vec<String> = head
                .trim_end()
                .split("\r\n")
                .map(|line| line.split_once(':').map_or(line.to_owned(), |(name, value)| format!("{}:{value}", name.to_lowercase())))
                .collect();
            lines.sort();
            lines
        };
        let seen = format!("{}{stamp}\r\n", seen.own_head().replace("Connection: close\r\n", ""));
        assert_eq!(lines(&seen), lines(shown.split_once("\r\n\r\n").unwrap().0));
    }
}

/// The answers of the page, given to a proxy: it does what the page says, and no client sees any of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_answer_has_the_effect_that_the_page_tells() {
    let all = examples();
    for (name, example) in &all {
        // What the target of an ask sees is looked at there.
        if name == "asked" {
            continue;
        }
        let stage = Stage::of(name, example).await;
        if name == "unknown" {
            stage.between.hold_newest();
            stage.etcd.put("routes/orders/tenant-42", route("cell-9", 44)).await;
        }
        let request = example.request.clone().unwrap_or_else(|| all["served"].request.clone().unwrap());
        let answer = stage.ask(&request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.to_lowercase().contains("\nroute-"), "{name}: {answer}");
        stage.saw(0, &request);
        let (of_seven, of_nine): (&[&str], &[&str]) = match name.as_str() {
            "served" | "update" => (&["43 0 -"], &[]),
            "moved" | "bytes" | "large" | "unknown" => (&["43 0 -"], &["44 1 -"]),
            "itself" => (&["43 0 -", "44 1 -"], &[]),
            "behind" => (&["44 0 -", "44 0 -"], &[]),
            "handoff" => (&["43 0 -", "43 0 -"], &[]),
            "ask" => (&["43 0 -"], &["43 0 \"cell-9\""]),
            other => panic!("the effect of the example {other} is not known here"),
        };
        assert_eq!(
            (stage.stamps(0), stage.stamps(1)),
            (of_seven.iter().map(|s| (*s).to_owned()).collect(), of_nine.iter().map(|s| (*s).to_owned()).collect()),
            "{name}"
        );
        let shown = stage.waypost.json(&format!("/routes/orders/{}", key_of(name).replace('ä', "%C3%A4"))).await;
        let (owner, epoch, source) = match name.as_str() {
            "moved" | "bytes" | "large" => ("cell-9", 44, "hint"),
            "update" | "itself" => ("cell-7", 44, "hint"),
            "unknown" => ("cell-9", 44, "store"),
            "behind" => ("cell-7", 44, "watch"),
            _ => ("cell-7", 43, "watch"),
        };
        assert_eq!((&shown["owner"], &shown["epoch"], &shown["source"]), (&json!(owner), &json!(epoch), &json!(source)), "{name}");
        if name == "ask" {
            stage.saw(1, all["asked"].request.as_deref().unwrap());
        }
        if name == "large" {
            assert_eq!((stage.seen[0].lock().unwrap()[0].body.len(), stage.seen[1].lock().unwrap()[0].body.len()), (0, 100_000));
        }
    }
}

#[test]
fn the_announcement_is_one() {
    let blocks = blocks("json");
    assert_eq!(blocks.len(), 1);
    let announcement: Announcement = serde_json::from_str(&blocks[0].1).unwrap();
    assert_eq!((announcement.applied, announcement.busy[0].key.as_str()), (918_377, "tenant-42"));
}

/// The report on the page is the one that a backend gets which keeps all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_on_the_page_is_today_s() {
    let rows = |text: &str| {
        let rows = text.lines().filter(|line| !line.starts_with('$')).map(|line| {
            let line = line.rsplit_once("  (").map_or(line, |(line, _)| line);
            line.trim_start_matches("✓").trim_start_matches("pass").trim().to_owned()
        });
        rows.collect::<Vec<_>>()
    };
    let etcd = Etcd::start().await;
    let cell = Cell::start(&etcd.url(), "/documented", "cell-a", None).await;
    let to = format!("http://{}", cell.backend.address);
    let (_, out, said) = Waypost::run(&["conform", "--to", &to, "--gold", &etcd.url(), "--prefix", "/documented"]).await;
    assert_eq!(rows(&blocks("text")[0].1), rows(&out), "{said}");
}

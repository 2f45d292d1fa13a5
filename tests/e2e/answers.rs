//! The answers table of INTERFACE.md: each code that this version gives, met from outside, with all that goes with it.

use serde_json::{Value, json};
use waypost_tests::{Answer, Client, Etcd, Peer, RawBackend, Waypost, free_address, until};

use crate::{
    scene::{route, service},
    stage::{OK, field, reason, statuses},
};

/// The table. What can't be met here says why.
const TABLE: [(u16, &str, Met); 28] = [
    (404, "no_service", Met::Here),
    (400, "bad_request", Met::Here),
    (400, "bad_path", Met::Here),
    (400, "no_key", Met::Here),
    (404, "no_route", Met::Here),
    (503, "no_upstream", Met::Here),
    (503, "no_endpoint", Met::Here),
    (503, "quarantined", Met::Here),
    (503, "too_stale", Met::Elsewhere("observe::a_service_that_wants_fresh_routes_is_refused_while_the_store_is_away_and_no_other")),
    (503, "not_ready", Met::Elsewhere("a_proxy_without_a_table_is_not_ready")),
    (
        503,
        "draining",
        Met::Elsewhere("commands::sigterm_finishes_what_is_under_way_and_then_ends, on /readyz: clients get no new connections"),
    ),
    (503, "overloaded", Met::Elsewhere("a_connection_too_many_is_overload")),
    (502, "connect_failed", Met::Here),
    (502, "upstream_reset", Met::Here),
    (502, "upstream_tls", Met::Elsewhere("tls_upstream::whom_a_connection_may_trust")),
    (502, "bad_response", Met::Here),
    (504, "connect_timeout", Met::Here),
    (504, "upstream_timeout", Met::Here),
    (307, "moved", Met::Here),
    (503, "stale_unhealed", Met::Here),
    (503, "park_timeout", Met::Here),
    (503, "park_full", Met::Not("it takes 4,096 requests that wait; exchange::tests::waits and parking::tests have what leads to it")),
    (508, "loop", Met::Here),
    (413, "body_too_large", Met::Here),
    (429, "rate_limited", Met::Not("requests_per_second is read and not acted on yet")),
    (431, "header_too_large", Met::Here),
    (408, "client_timeout", Met::Here),
    (500, "internal", Met::Not("a fault of ours; what leads to it is mended when it is known")),
];

#[derive(Clone, Copy, PartialEq)]
enum Met {
    Here,
    Elsewhere(&'static str),
    Not(&'static str),
}

/// The owner does what its tenant's name says.
async fn owner(mut peer: Peer, _: usize) {
    while let Some(request) = peer.request().await {
        let said = match request.values("x-tenant").first().copied().unwrap_or_default() {
            "resets" => return,
            "babbles" => "SSH-2.0-OpenSSH\r\n\r\n",
            "sleeps" => {
                peer.rest().await;
                return;
            }
            "stale" | "moves" => {
                // The claim names no owner or one that the table of this store has; only the second is a redirect.
                let claim = request.values("x-claim").first().map_or("state=moved", |claim| claim).to_owned();
                peer.send(format!("HTTP/1.1 421 Misdirected Request\r\nRoute-Stale: {claim}\r\nContent-Length: 0\r\n\r\n")).await;
                continue;
            }
            _ => OK,
        };
        peer.send(said).await;
    }
}

struct World {
    _etcd: Etcd,
    _owner: RawBackend,
    _full: (tokio::net::TcpListener, Vec<tokio::task::JoinHandle<std::io::Result<tokio::net::TcpStream>>>),
    waypost: Waypost,
    /// What may stand in no detail.
    internal: Vec<String>,
}

async fn world() -> World {
    let etcd = Etcd::start().await;
    let owner = RawBackend::start(owner).await;
    let (nobody, full) = (free_address(), full_backlog());
    let deaf = full.0.local_addr().unwrap();
    let at = |address: &str| json!({ "endpoints": [{ "address": address }] });
    let policy = json!({ "on_stale": "redirect", "limits": { "body_bytes": 10 },
        "timeouts": { "header_ms": 700, "connect_ms": 600, "first_byte_ms": 900, "idle_ms": 1500 } });
    etcd.put_all(&[
        ("policies/default", policy),
        ("services/orders", service(json!({ "match": [{ "hosts": ["orders.example.com"] }] }))),
        ("upstreams/a", owner.upstream()),
        ("upstreams/b", owner.upstream()),
        ("upstreams/empty", json!({})),
        ("upstreams/nobody", at(&nobody.to_string())),
        ("upstreams/deaf", at(&deaf.to_string())),
        ("routes/orders/fine", route("a", 5)),
        ("routes/orders/resets", route("a", 5)),
        ("routes/orders/babbles", route("a", 5)),
        ("routes/orders/sleeps", route("a", 5)),
        ("routes/orders/stale", route("a", 5)),
        ("routes/orders/moves", route("a", 5)),
        ("routes/orders/nobody", route("nobody", 5)),
        ("routes/orders/deaf", route("deaf", 5)),
        ("routes/orders/empty", route("empty", 5)),
        ("routes/orders/homeless", route("unknown", 5)),
        ("routes/orders/frozen", json!({ "owner": "a", "epoch": 5, "state": "frozen" })),
        ("routes/orders/bad", json!({ "ownr": "a" })),
    ])
    .await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    let addresses = [owner.address, nobody, deaf, etcd.address(), waypost.listen, waypost.admin];
    let internal = addresses.iter().map(|address| format!(":{}", address.port())).chain(["127.0.0.1".into(), "etcd".into()]).collect();
    World { _etcd: etcd, _owner: owner, _full: full, waypost, internal }
}

/// A listener that takes no more connections, and those that fill it.
fn full_backlog() -> (tokio::net::TcpListener, Vec<tokio::task::JoinHandle<std::io::Result<tokio::net::TcpStream>>>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, (0..4).map(|_| tokio::spawn(tokio::net::TcpStream::connect(address))).collect())
}

/// The bytes that lead to a code, and nothing else; `None` for a code that is not met here.
fn leading_to(code: &str, method: &str, table: &str) -> Option<String> {
    let head = |path: &str, fields: &str| format!("{method} {path} HTTP/1.1\r\nHost: orders.example.com\r\n{fields}\r\n\r\n");
    let tenant = |name: &str| head("/", &format!("x-tenant: {name}"));
    let moved = format!(r#"state=moved, service="orders", key="moves", owner="b", epoch=6, revision=99, table="{table}""#);
    Some(match code {
        "no_service" => format!("{method} / HTTP/1.1\r\nHost: elsewhere.example.com\r\n\r\n"),
        "bad_request" => head("/", "X : y"),
        "bad_path" => head("/a/../b", "x-tenant: fine"),
        "no_key" => head("/", "X: y"),
        "no_route" => tenant("unheard-of"),
        "no_upstream" => tenant("homeless"),
        "no_endpoint" => tenant("empty"),
        "quarantined" => tenant("bad"),
        "connect_failed" => tenant("nobody"),
        "upstream_reset" => tenant("resets"),
        "bad_response" => tenant("babbles"),
        "connect_timeout" => tenant("deaf"),
        "upstream_timeout" => tenant("sleeps"),
        "moved" => head("/x?y", &format!("x-tenant: moves\r\nx-claim: {moved}")),
        "stale_unhealed" => tenant("stale"),
        "park_timeout" => tenant("frozen"),
        "loop" => head("/", "x-tenant: fine\r\nCDN-Loop: waypost-edge-1"),
        "body_too_large" => format!("{}01234567890", head("/", "x-tenant: fine\r\nContent-Length: 11")),
        "header_too_large" => head("/", &format!("x-tenant: {}", "a".repeat(1025))),
        "client_timeout" => format!("{}half", head("/", "x-tenant: fine\r\nContent-Length: 9")),
        _ => return None,
    })
}

/// What holds of every answer of the proxy's own.
fn holds(answer: &Answer, status: u16, code: &str, internal: &[String]) -> Value {
    assert_eq!((answer.status, answer.reason()), (status, code), "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/problem+json", "{code}");
    assert_eq!(answer.header("retry-after"), if status == 503 { "1" } else { "" }, "{code}");
    assert!(!answer.header("x-request-id").is_empty() && !answer.header("via").is_empty(), "{code}");
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{code}: {error}: {}", answer.text()));
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    assert!(text("type").ends_with(code) && !text("title").is_empty() && !text("detail").is_empty(), "{problem}");
    assert_eq!(problem["status"], status, "{problem}");
    assert_eq!(text("request_id"), answer.header("x-request-id"), "{problem}");
    let told = internal.iter().find(|word| text("detail").contains(&***word) || text("title").contains(&***word));
    assert_eq!(told, None, "nothing internal is told: {problem}");
    problem
}

async fn logged(waypost: &Waypost, request_id: &str) -> Value {
    until("the request is logged", async || {
        let lines = waypost.access_log();
        lines.into_iter().find(|line| line["request_id"] == request_id).ok_or_else(|| format!("no line for {request_id}"))
    })
    .await
}

async fn count_of(waypost: &Waypost, code: &str) -> f64 {
    let text = Client::fetch(waypost.admin, "/metrics").await.unwrap().text();
    let of_code = format!("reason=\"{code}\"");
    let lines = text.lines().filter(|line| line.starts_with("waypost_requests_total{") && line.contains(&of_code));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test]
async fn every_answer_of_the_table() {
    let world = world().await;
    let table = world.waypost.status().await["gold"][0]["table"].as_str().unwrap().to_owned();
    for (status, code, met) in TABLE {
        if met != Met::Here {
            assert_eq!(leading_to(code, "GET", &table), None, "{code} is met after all");
            continue;
        }
        let mut counted = count_of(&world.waypost, code).await;
        for method in ["GET", "HEAD"] {
            // A hint that the GET has left behind serves the next one.
            if (code, method) == ("moved", "HEAD") {
                continue;
            }
            let sent = leading_to(code, method, &table).unwrap();
            // Of a head that is malformed the method is not known, so the answer has a body whatever it was.
            let request_id = if method == "GET" || code == "bad_request" {
                let mut client = world.waypost.client().await;
                client.send(sent.as_bytes()).await.unwrap();
                let answer = client.answer(false).await.unwrap_or_else(|why| panic!("{code}, {method}: {why}"));
                holds(&answer, status, code, &world.internal);
                if code == "moved" {
                    assert_eq!((answer.header("location"), answer.header("cache-control")), ("/x?y", "no-store"));
                }
                answer.header("x-request-id").to_owned()
            } else {
                answer_to_head(&world.waypost, &sent, status, code).await
            };
            let line = logged(&world.waypost, &request_id).await;
            assert_eq!((&line["status"], &line["reason"]), (&json!(status), &json!(code)), "{line}");
            let now = count_of(&world.waypost, code).await;
            assert!(now > counted, "waypost_requests_total counts {code}");
            counted = now;
        }
    }
}

/// The answer to HEAD is a GET's without its body; the request's id.
async fn answer_to_head(waypost: &Waypost, sent: &str, status: u16, code: &str) -> String {
    let mut client = Peer::connect(waypost.listen).await;
    client.send(sent).await;
    let head = client.until("\r\n\r\n").await.unwrap_or_default();
    assert_eq!((statuses(&head), reason(&head)), (vec![status], code));
    assert_eq!(field(&head, "retry-after"), if status == 503 { "1" } else { "" }, "{code}");
    assert!(field(&head, "content-length").parse::<usize>().is_ok_and(|length| length > 0), "what a GET would have got: {head}");
    client.finish_sending().await;
    assert_eq!(client.rest().await, "", "no body behind an answer to HEAD: {code}");
    field(&head, "x-request-id").to_owned()
}

/// The table here is the contract's: none is left out, and what is not met says why.
#[test]
fn every_code_is_met_or_has_its_reason() {
    let contract = std::collections::BTreeSet::from(TABLE.map(|(_, code, _)| code));
    assert_eq!(contract.len(), TABLE.len());
    for (_, code, met) in TABLE {
        match met {
            Met::Here => assert!(leading_to(code, "GET", "").is_some(), "{code}"),
            Met::Elsewhere(why) | Met::Not(why) => assert!(!why.is_empty() && leading_to(code, "GET", "").is_none(), "{code}"),
        }
    }
}

#[tokio::test]
async fn a_proxy_without_a_table_is_not_ready() {
    let nowhere = format!("http://{}", free_address());
    let mut waypost = Waypost::new(&nowhere, &[]);
    waypost.spawn();
    let answer = until("it answers", async || Client::fetch(waypost.listen, "/").await).await;
    holds(&answer, 503, "not_ready", &[nowhere]);
    assert_eq!(logged(&waypost, answer.header("x-request-id")).await["reason"], "not_ready");
}

#[tokio::test]
async fn a_connection_too_many_is_overload() {
    let folder = tempfile::tempdir().unwrap();
    let (records, bootstrap) = (folder.path().join("records.json"), folder.path().join("waypost.toml"));
    std::fs::write(&records, json!({ "services/web": service(json!({})) }).to_string()).unwrap();
    std::fs::write(&bootstrap, "[limits]\nconnections = 1\n").unwrap();
    let gold = format!("file:{}", records.display());
    let waypost = Waypost::start(&gold, &["--config", bootstrap.to_str().unwrap()]).await;
    let mut first = waypost.client().await;
    assert_eq!(first.get("/", &[]).await.reason(), "no_key");
    let answer = until("the second is turned away", async || Client::fetch(waypost.listen, "/").await).await;
    holds(&answer, 503, "overloaded", &[]);
    assert_eq!(first.get("/", &[]).await.reason(), "no_key", "the first goes on");
    drop(first);
    let served = async || {
        Client::fetch(waypost.listen, "/").await.and_then(|answer| if answer.reason() == "no_key" { Ok(()) } else { Err(answer.text()) })
    };
    until("a place is free again", served).await;
}

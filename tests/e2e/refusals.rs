//! A refusal is read to its end: the connection to the owner that refused lives on, and so does the client's.

use std::sync::{Arc, Mutex};

use serde_json::json;
use waypost_tests::{Etcd, Peer, RawBackend, RawRequest, Waypost, until, until_true};

use crate::{
    scene::{route, service},
    stage::keeping,
};

/// How a refusal goes on behind its own fields.
type End = Arc<Mutex<&'static str>>;

struct Stage {
    waypost: Waypost,
    refusing: RawBackend,
    taking: RawBackend,
    taken: Arc<Mutex<Vec<RawRequest>>>,
    end: End,
    _etcd: Etcd,
}

fn member<'a>(request: &'a RawRequest, name: &str) -> &'a str {
    let stamp = request.values("route-stamp")[0];
    stamp.split(", ").find_map(|member| member.strip_prefix(&format!("{name}=\""))).unwrap().trim_end_matches('"')
}

fn refusal(request: &RawRequest, owner: &str, end: &str) -> String {
    let (key, table) = (member(request, "key"), member(request, "table"));
    format!(
        "HTTP/1.1 421 Misdirected Request\r\nCache-Control: no-store\r\nRoute-Stale: state=moved, service=\"orders\", key=\"{key}\", \
         owner=\"{owner}\", epoch=6, revision=999, table=\"{table}\"\r\n{end}"
    )
}

impl Stage {
    /// `a` owns all keys and refuses them in favour of `b`, which takes them.
    async fn start() -> Self {
        let end = End::new(Mutex::new("Content-Length: 0\r\n\r\n"));
        let said = Arc::clone(&end);
        let refusing = RawBackend::start(move |mut peer, _| {
            let said = Arc::clone(&said);
            async move {
                while let Some(request) = peer.request().await {
                    let end = *said.lock().unwrap();
                    let owner = if request.head.contains("?nobody") { "nobody" } else { "b" };
                    peer.send(refusal(&request, owner, end)).await;
                }
            }
        })
        .await;
        let taken = Arc::default();
        let taking = RawBackend::start(keeping(Arc::clone(&taken))).await;
        let etcd = Etcd::start().await;
        let records = [
            ("services/orders", service(json!({ "default_owner": "a" }))),
            ("upstreams/a", refusing.upstream()),
            ("upstreams/b", taking.upstream()),
        ];
        etcd.put_all(&records).await;
        let keys: Vec<_> = (0..100).map(|n| (format!("routes/orders/k{n}"), route("a", 5))).collect();
        let keys: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        etcd.put_all(&keys).await;
        let waypost = Waypost::start(&etcd.url(), &[]).await;
        Self { waypost, refusing, taking, taken, end, _etcd: etcd }
    }

    async fn client(&self) -> Peer {
        Peer::connect(self.waypost.listen).await
    }
}

async fn answered(client: &mut Peer) -> String {
    let head = client.until("\r\n\r\n").await.unwrap_or_else(|| panic!("no answer: {:?}", client.received().text()));
    let length: usize = head.to_ascii_lowercase().split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    client.exactly(length).await.expect("its body");
    head.lines().next().unwrap().to_owned()
}

const ENDS: [(&str, &str); 3] = [
    ("nothing", "Content-Length: 0\r\n\r\n"),
    ("a body", "Content-Length: 9\r\n\r\nnot here\n"),
    ("chunks", "Transfer-Encoding: chunked\r\n\r\n4\r\nnot \r\n5\r\nhere\n\r\n0\r\n\r\n"),
];

#[tokio::test]
async fn the_connections_of_both_sides_live_on() {
    let stage = Stage::start().await;
    let mut client = stage.client().await;
    let mut sent = 0;
    let large = "x".repeat(40_000);
    for (what, end) in ENDS {
        *stage.end.lock().unwrap() = end;
        let requests = [
            ("GET", String::new()),
            ("POST", "Content-Length: 5\r\n\r\nwrite".to_owned()),
            ("PUT", "Transfer-Encoding: chunked\r\n\r\n5\r\nwrite\r\n0\r\n\r\n".to_owned()),
            ("PUT", format!("Content-Length: {}\r\n\r\n{large}", large.len())),
        ];
        for (method, rest) in requests {
            let rest = if rest.is_empty() { "\r\n".to_owned() } else { rest };
            client.send(format!("{method} /{sent} HTTP/1.1\r\nHost: h\r\nx-tenant: k{sent}\r\n{rest}")).await;
            assert_eq!(answered(&mut client).await, "HTTP/1.1 200 OK", "{method} refused with {what}");
            let took = stage.taken.lock().unwrap().last().unwrap().clone();
            assert!(took.head.starts_with(&format!("{method} /{sent} HTTP/1.1")), "{took:?}");
            assert_eq!((took.values("route-stamp").len(), took.values("via").len()), (1, 1), "{took:?}");
            let body: &[u8] = if method == "GET" {
                b""
            } else if took.body.len() > 5 {
                large.as_bytes()
            } else {
                b"write"
            };
            assert_eq!(took.body, body, "{method} refused with {what}");
            sent += 1;
        }
    }
    assert_eq!((stage.refusing.received().len(), stage.taking.received().len()), (1, 1), "connections to each owner");
    assert_eq!(stage.refusing.count("Route-Stamp"), sent);
    let lines = until("each request is logged", async || {
        let lines = stage.waypost.access_log();
        if lines.len() >= sent { Ok(lines) } else { Err(lines.len().to_string()) }
    })
    .await;
    assert_eq!(lines.len(), sent, "once");
    assert!(lines.iter().all(|line| line["hops"] == 1 && line["status"] == 200), "{lines:?}");
    until_true("no request is under way", async || stage.waypost.metric("waypost_in_flight").await.abs() < 0.5).await;
}

/// Pipelined behind a request that is refused, with the end of what the client sends: nothing of it is lost, and the order stays.
#[tokio::test]
async fn what_is_pipelined_behind_a_refused_request_is_answered_in_its_turn() {
    let stage = Stage::start().await;
    let mut client = stage.client().await;
    let requests: String =
        (0..20).map(|n| format!("POST /{n} HTTP/1.1\r\nHost: h\r\nx-tenant: k{n}\r\nContent-Length: 1\r\n\r\n{}", n % 10)).collect();
    client.send(requests).await;
    client.finish_sending().await;
    for _ in 0..20 {
        assert_eq!(answered(&mut client).await, "HTTP/1.1 200 OK");
    }
    assert_eq!(client.rest().await, "");
    let targets: Vec<_> = stage.taken.lock().unwrap().iter().map(|took| took.head.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(targets, (0..20).map(|n| format!("/{n}")).collect::<Vec<_>>());
    assert_eq!(stage.refusing.received().len(), 1);
}

/// Neither a refusal that does not end, nor one that is too long, nor a broken one holds the request up.
#[tokio::test]
async fn a_refusal_that_can_not_be_read_to_its_end_costs_its_connection_and_nothing_else() {
    let stage = Stage::start().await;
    let long = format!("Content-Length: 1000000\r\n\r\n{}", "x".repeat(1000)).leak();
    let endless = format!("Transfer-Encoding: chunked\r\n\r\n{}", format!("400\r\n{}\r\n", "y".repeat(1024)).repeat(100)).leak();
    let ends: [&'static str; 5] =
        ["Content-Length: 10\r\n\r\nsta", "\r\nuntil the end", "Transfer-Encoding: chunked\r\n\r\nzz\r\n", long, endless];
    let mut client = stage.client().await;
    for (n, end) in ends.into_iter().enumerate() {
        *stage.end.lock().unwrap() = end;
        for (key, method) in [(n * 2, "GET"), (n * 2 + 1, "POST")] {
            client.send(format!("{method} /{n} HTTP/1.1\r\nHost: h\r\nx-tenant: k{key}\r\nContent-Length: 0\r\n\r\n")).await;
            assert_eq!(answered(&mut client).await, "HTTP/1.1 200 OK", "{method} refused with {end:?}");
        }
    }
    assert_eq!((stage.refusing.received().len(), stage.taking.received().len()), (10, 1));
}

/// The proxy's own answer to a request that was refused in vain.
#[tokio::test]
async fn a_client_that_gets_no_owner_keeps_its_connection() {
    let stage = Stage::start().await;
    let mut client = stage.client().await;
    *stage.end.lock().unwrap() = "Content-Length: 0\r\n\r\n";
    for _ in 0..3 {
        // The store says that `a` owns it, by default; `a` says that `nobody` does.
        client.send("POST /?nobody HTTP/1.1\r\nHost: h\r\nx-tenant: other\r\nContent-Length: 5\r\n\r\nwrite").await;
        assert_eq!(answered(&mut client).await, "HTTP/1.1 503 Service Unavailable");
        client.send("GET / HTTP/1.1\r\nHost: h\r\nx-tenant: k1\r\n\r\n").await;
        assert_eq!(answered(&mut client).await, "HTTP/1.1 200 OK");
    }
    assert_eq!(stage.refusing.received().len(), 1);
}

/// Clients whose connection ends with the request, and an answer without a body.
#[tokio::test]
async fn a_last_request_is_healed_like_any_other() {
    let stage = Stage::start().await;
    for (n, request) in [
        "GET /0 HTTP/1.0\r\nx-tenant: k0\r\n\r\n",
        "POST /1 HTTP/1.0\r\nHost: h\r\nx-tenant: k1\r\nContent-Length: 5\r\n\r\nwrite",
        "GET /2 HTTP/1.1\r\nHost: h\r\nx-tenant: k2\r\nConnection: close\r\n\r\n",
        "HEAD /3 HTTP/1.1\r\nHost: h\r\nx-tenant: k3\r\nConnection: close\r\n\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        // To a HEAD a length is said and no body sent.
        let end = if n == 3 { "Content-Length: 9\r\n\r\n" } else { ENDS[n].1 };
        *stage.end.lock().unwrap() = end;
        let mut client = stage.client().await;
        client.send(request).await;
        let answer = client.rest().await;
        assert!(answer.contains(" 200 OK\r\n") && answer.matches("HTTP/1.1 ").count() == 1, "{request:?}: {answer:?}");
        assert_eq!(answer.ends_with("ok"), n < 3, "{answer:?}");
    }
    // A request may come while the last one's connection is on its way back.
    assert!(matches!((stage.refusing.received().len(), stage.taking.received().len()), (1..=4, 1..=4)));
    assert_eq!(stage.taken.lock().unwrap().len(), 4);
}

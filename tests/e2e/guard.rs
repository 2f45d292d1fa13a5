//! A guard before a backend that knows nothing: every row of the backend's table, met with requests of the test's own.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waypost_tests::{Answer, Backend, Client, Etcd, Guard, Peer, RawBackend, Reply, Waypost, free_address, until, until_true};

use crate::scene::{route, service};

/// An etcd, a backend that answers with its name, and a guard of the upstream `a` before it.
struct Stage {
    etcd: Etcd,
    backend: Backend,
    guard: Guard,
    table: String,
}

impl Stage {
    async fn start() -> Self {
        Self::with(Backend::named("a").await).await
    }

    async fn with(backend: Backend) -> Self {
        let etcd = Etcd::start().await;
        let mine = |state: Value| {
            let mut route = route("a", 5);
            route.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
            route
        };
        let records = [
            ("services/orders", service(json!({}))),
            ("services/web", json!({ "match": [{ "hosts": ["web"] }], "default_owner": "a" })),
            ("services/lost", json!({ "match": [{ "hosts": ["lost"] }], "default_owner": "b" })),
            ("upstreams/a", json!({})),
            ("upstreams/b", json!({})),
            ("routes/orders/mine", mine(json!({}))),
            ("routes/orders/frozen", mine(json!({ "state": "frozen" }))),
            ("routes/orders/leaving", mine(json!({ "state": "moving", "target": "b" }))),
            ("routes/orders/other", route("b", 5)),
            ("routes/orders/coming", json!({ "owner": "b", "epoch": 5, "state": "moving", "target": "a" })),
        ];
        etcd.put_all(&records).await;
        let guard = Guard::start(&etcd.url(), "a", "a-1", backend.address, &[]).await;
        let table = guard.status().await["gold"][0]["table"].as_str().unwrap().to_owned();
        Self { etcd, backend, guard, table }
    }

    fn stamp(&self, key: &str, epoch: u64) -> String {
        format!(r#"service="orders", key="{key}", epoch={epoch}, revision=1, table="{}", hop=0, wait-ms=50"#, self.table)
    }
}

/// In short: `200`, `200 update a 5`, `421 moved b 5`, `421 handoff`, `404 no_service`.
fn said(answer: &Answer) -> String {
    let member = |header: &str, name: &str| {
        let found = answer.header(header).split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        found.map(|value| format!(" {}", value.trim_matches('"'))).unwrap_or_default()
    };
    let claim = |header| [member(header, "owner"), member(header, "epoch")].concat();
    match answer.status {
        421 => {
            assert_eq!((answer.header("cache-control"), answer.reason()), ("no-store", "misdirected"), "{answer:?}");
            format!("421{}{}", member("route-stale", "state"), claim("route-stale"))
        }
        200 if !answer.header("route-update").is_empty() => format!("200 update{}", claim("route-update")),
        200 => "200".to_owned(),
        status => format!("{status} {}", answer.reason()),
    }
}

#[tokio::test]
async fn every_row_of_the_table() {
    let stage = Stage::start().await;
    let stamp = |key: &str, epoch| Some(stage.stamp(key, epoch));
    let another = |key: &str, epoch| Some(stage.stamp(key, epoch).replace(&stage.table, "c0ffee-7"));
    let ask = |key: &str, of: &str| Some(format!(r#"{}, ask="{of}""#, stage.stamp(key, 5)));
    let rows = [
        ("a", "POST", "mine", None, "200"),
        ("a", "GET", "leaving", None, "200"),
        ("a", "GET", "other", None, "421 moved b 5"),
        ("a", "GET", "coming", None, "421 moved b 5"),
        ("a", "GET", "frozen", None, "421 handoff"),
        ("a", "GET", "unknown", None, "421 moved"),
        ("b", "POST", "mine", another("mine", 9), "200"),
        ("b", "POST", "other", another("other", 4), "421 moved"),
        ("b", "POST", "frozen", another("frozen", 5), "421 handoff"),
        ("c", "POST", "coming", ask("coming", "a"), "200"),
        ("c", "POST", "mine", ask("mine", "a"), "200"),
        ("c", "POST", "other", ask("other", "a"), "421 behind"),
        ("d", "GET", "mine", stamp("mine", 6), "421 behind"),
        ("d", "POST", "other", stamp("other", 6), "421 behind"),
        ("e", "GET", "mine", stamp("mine", 4), "200 update a 5"),
        ("e", "HEAD", "mine", stamp("mine", 4), "200 update a 5"),
        ("e", "POST", "mine", stamp("mine", 4), "421 moved a 5"),
        ("f", "POST", "mine", stamp("mine", 5), "200"),
        ("f", "POST", "leaving", stamp("leaving", 5), "200"),
        ("g", "GET", "other", stamp("other", 4), "421 moved b 5"),
        ("g", "POST", "coming", stamp("coming", 4), "421 moved b 5"),
        ("g'", "GET", "frozen", stamp("frozen", 5), "421 handoff"),
        ("g'", "POST", "frozen", stamp("frozen", 4), "421 handoff"),
        ("h", "POST", "other", stamp("other", 5), "421 moved"),
        ("h", "POST", "unknown", stamp("unknown", 0), "421 moved"),
    ];
    // One connection: a refusal costs no connection.
    let mut client = stage.guard.client().await;
    let mut served = 0;
    for (row, method, key, stamp, wanted) in rows.clone() {
        let mut headers = vec![("x-tenant", key)];
        headers.extend(stamp.as_deref().map(|stamp| ("Route-Stamp", stamp)));
        let body: &[u8] = if method == "POST" { b"body" } else { b"" };
        let began = Instant::now();
        let answer = client.try_request(method, "/x?y=%2F", &headers, body).await;
        let answer = answer.unwrap_or_else(|why| panic!("row {row}: {method} {key}: {why}"));
        assert_eq!(said(&answer), wanted, "row {row}: {method} {key} {stamp:?}");
        if row == "d" {
            assert!(began.elapsed() >= Duration::from_millis(50), "row d waits as long as the stamp allows");
        }
        served += usize::from(answer.status == 200);
        assert_eq!(stage.backend.heads(), served, "row {row}: what is refused is seen by no backend");
        if answer.status == 200 {
            let seen = stage.backend.last();
            assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.body.as_slice()), (method, "/x?y=%2F", body));
            assert_eq!(seen.header("route-stamp"), stamp.unwrap_or_default(), "the stamp goes on as it came");
        } else {
            assert!(answer.header("route-stale").contains(&format!(r#"table="{}""#, stage.table)), "{answer:?}");
        }
    }
    let refused = (rows.len() - served) as f64;
    // A request is counted when its answer has gone.
    until_true("every refusal is counted once", async || (stage.guard.metric("waypost_stale_total").await - refused).abs() < 0.5).await;
}

#[tokio::test]
async fn what_belongs_to_no_key_is_answered_as_a_proxy_answers_it_and_what_has_no_key_by_its_default_owner() {
    let stage = Stage::start().await;
    let mut client = stage.guard.client().await;
    let ask = async |client: &mut Client, headers: &[(&str, &str)], path: &str| said(&client.get(path, headers).await);
    assert_eq!(ask(&mut client, &[], "/health").await, "400 no_key");
    assert_eq!(ask(&mut client, &[("x-tenant", "mine")], "/a/../b").await, "400 bad_path");
    assert_eq!(ask(&mut client, &[("Host", "web")], "/health").await, "200");
    assert_eq!(ask(&mut client, &[("Host", "lost")], "/health").await, "421 moved b 0");
    stage.etcd.put("services/orders", json!({ "match": [{ "hosts": ["orders.example.com"] }], "key": { "header": "x-tenant" } })).await;
    until("what no service wants is refused", async || {
        match said(&stage.guard.client().await.get("/", &[("Host", "none")]).await).as_str() {
            "404 no_service" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    // A stamp decides by itself, also of a service that is not known here, and without a key.
    let stamped = |service: &str| format!(r#"service="{service}", epoch=0, revision=1, table="{}", hop=0, wait-ms=0"#, stage.table);
    for (service, wanted) in [("web", "200"), ("lost", "421 moved"), ("nothing", "421 moved")] {
        assert_eq!(ask(&mut client, &[("Host", "none"), ("Route-Stamp", &stamped(service))], "/").await, wanted, "{service}");
    }
    assert_eq!(stage.backend.heads(), 2);
}

#[tokio::test]
async fn a_view_that_is_behind_is_waited_for() {
    let stage = Stage::start().await;
    let stamp = stage.stamp("mine", 6).replace("wait-ms=50", "wait-ms=1000");
    let address = stage.guard.listen;
    let asked = tokio::spawn(async move {
        Client::connect(address).await.request("POST", "/", &[("x-tenant", "mine"), ("Route-Stamp", &stamp)], b"x").await
    });
    until_true("the request is under way", async || stage.guard.metric("waypost_in_flight").await > 0.0).await;
    stage.etcd.put("routes/orders/mine", route("a", 6)).await;
    assert_eq!(said(&asked.await.unwrap()), "200");
}

#[tokio::test]
async fn the_protocol_is_the_guard_s_and_the_rest_passes_as_the_proxy_sent_it() {
    let noise =
        [("Route-Stale", "state=moved"), ("Route-Update", "key=\"mine\""), ("route_stale", "x"), ("Waypost-Reason", "x"), ("X-Own", "1")];
    let reply = move |seen: &waypost_tests::Seen| {
        let headers = noise.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Reply::Say(if seen.target == "/421" { 421 } else { 200 }, headers, b"a".to_vec())
    };
    let stage = Stage::with(Backend::start(reply).await).await;
    let stamp = stage.stamp("mine", 5);
    let sent = [
        ("x-tenant", "mine"),
        ("Route-Stamp", stamp.as_str()),
        ("Route-Other", "x"),
        ("Route_Stamp", "x"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.example.com"),
        ("Via", "1.1 waypost"),
        ("CDN-Loop", "waypost-a-1, waypost-edge-1"),
        ("X-Request-Id", "request-7"),
    ];
    for path in ["/", "/421"] {
        let answer = stage.guard.client().await.get(path, &sent).await;
        assert_eq!((answer.status, answer.text().as_str()), (if path == "/" { 200 } else { 421 }, "a"));
        assert_eq!((answer.header("x-own"), answer.header("x-request-id")), ("1", "request-7"));
        for gone in ["route-stale", "route-update", "route_stale", "waypost-reason"] {
            assert_eq!(answer.header(gone), "", "{gone} of a backend that can't mean it");
        }
        let seen = stage.backend.last();
        for (name, value) in sent {
            let wanted =
                if name.to_ascii_lowercase().replace('_', "-").starts_with("route-") && value == "x" { vec![] } else { vec![value] };
            assert_eq!(seen.values(name), wanted, "{name}");
        }
    }
    // Two stamps are none, and one that can't be read is none: the table's own matching decides.
    for stamps in [vec![stamp.as_str(), &stamp], vec!["epoch="], vec![r#"service="orders""#]] {
        let mut headers = vec![("x-tenant", "other")];
        headers.extend(stamps.iter().map(|stamp| ("Route-Stamp", *stamp)));
        assert_eq!(said(&stage.guard.client().await.get("/", &headers).await), "421 moved b 5", "{stamps:?}");
        headers[0] = ("x-tenant", "mine");
        assert_eq!(stage.guard.client().await.get("/", &headers).await.status, 200);
        assert!(stage.backend.last().values("route-stamp").is_empty(), "{stamps:?}");
    }
}

#[tokio::test]
async fn a_key_of_odd_bytes_is_judged_by_its_stamp() {
    let stage = Stage::start().await;
    // "vÄt", not in UTF-8: b"v\xc4t".
    stage.etcd.put_bytes(b"routes/orders/v\xc4t", route("a", 7)).await;
    let stamp = |epoch| stage.stamp("K", epoch).replace(r#"key="K""#, "key=:dsR0:");
    until("the route is known", async || {
        let answer = stage.guard.client().await.request("POST", "/", &[("Route-Stamp", &stamp(7))], b"x").await;
        if answer.status == 200 { Ok(()) } else { Err(said(&answer)) }
    })
    .await;
    assert_eq!(stage.backend.last().header("route-stamp"), stamp(7));
    let answer = stage.guard.client().await.request("POST", "/", &[("Route-Stamp", &stamp(6))], b"x").await;
    assert_eq!(said(&answer), "421 moved a 7");
    assert!(answer.header("route-stale").contains("key=:dsR0:"), "{answer:?}");
}

/// Decided on the head: a body that is withheld is never asked for.
#[tokio::test]
async fn a_request_is_refused_before_its_body_is_asked_for() {
    let stage = Stage::start().await;
    let mut peer = Peer::connect(stage.guard.listen).await;
    let stamp = stage.stamp("other", 5);
    peer.send(format!("POST / HTTP/1.1\r\nHost: h\r\nRoute-Stamp: {stamp}\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"))
        .await;
    let answer = peer.until("}").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 ") && answer.contains("Connection: close"), "{answer}");
    assert_eq!(peer.rest().await, "");
    assert_eq!(stage.backend.heads(), 0);
}

#[tokio::test]
async fn the_backend_s_failures_have_the_proxy_s_codes() {
    let stage = Stage::start().await;
    stage.etcd.put("policies/default", json!({ "timeouts": { "first_byte_ms": 300 } })).await;
    let raw = RawBackend::start(|mut peer: Peer, _| async move {
        while let Some(request) = peer.request().await {
            match request.values("x-do").first().copied().unwrap_or_default() {
                "reset" => return,
                "babble" => drop(peer.send("SSH-2.0\r\n\r\n").await),
                _ => drop(peer.rest().await),
            }
        }
    })
    .await;
    let guard = Guard::start(&stage.etcd.url(), "a", "a-2", raw.address, &[]).await;
    for (what, wanted) in [("reset", "502 upstream_reset"), ("babble", "502 bad_response"), ("hang", "504 upstream_timeout")] {
        let answer = guard.client().await.request("POST", "/", &[("x-tenant", "mine"), ("x-do", what)], b"x").await;
        assert_eq!(said(&answer), wanted);
    }
    let nobody = Guard::start(&stage.etcd.url(), "a", "a-3", free_address(), &[]).await;
    let answer = nobody.client().await.get("/", &[("x-tenant", "mine")]).await;
    assert_eq!(said(&answer), "502 connect_failed");
}

#[tokio::test]
async fn nothing_is_served_before_the_announcement_is_in_the_store() {
    let etcd_down = format!("http://{}", free_address());
    let backend = Backend::named("a").await;
    let mut guard = Guard::new(&etcd_down, "a", "a-1", backend.address, &[]);
    guard.spawn();
    let answer = until("it answers", async || Client::fetch(guard.listen, "/").await).await;
    assert_eq!(said(&answer), "503 not_ready");
    assert_eq!(Client::fetch(guard.admin, "/readyz").await.unwrap().status, 503);
    assert_eq!(guard.status().await["guard"]["announced"], false);
    until_true("it says so", async || guard.said().contains("not announced yet")).await;
    assert_eq!(backend.heads(), 0);
    guard.terminate();
    assert!(guard.wait(Duration::from_secs(20)).success());
}

#[tokio::test]
async fn it_announces_itself_and_says_what_it_stands_before() {
    let stage = Stage::start().await;
    let announced = stage.etcd.get_beside("owners/a/a-1").await.expect("an announcement");
    assert!(announced["applied"].as_u64() > Some(0) && announced["busy"] == json!([]), "{announced}");
    let status = stage.guard.status().await;
    assert_eq!(status["guard"]["upstream"], "a");
    assert_eq!((&status["guard"]["announced"], &status["guard"]["serving"]), (&json!(true), &json!(0)));
    assert_eq!(status["guard"]["to"], stage.backend.address.to_string());
    let mut guard = stage.guard;
    guard.terminate();
    assert!(guard.wait(Duration::from_secs(20)).success());
    assert_eq!(stage.etcd.get_beside("owners/a/a-1").await, None, "the announcement goes with the guard");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_yet_is_said_and_waited_for() {
    let etcd = Etcd::start().await;
    etcd.put_all(&[("services/orders", service(json!({}))), ("routes/orders/t1", route("late", 5))]).await;
    let backend = Backend::named("late").await;
    let guard = Guard::start(&etcd.url(), "late", "one", backend.address, &[]).await;
    until_true("it says so", async || guard.said().contains("there is no upstreams/late yet")).await;
    assert_eq!(guard.client().await.get("/", &[("x-tenant", "t1")]).await.status, 421);
    etcd.put("upstreams/late", guard.record()).await;
    until("it serves", async || match said(&guard.client().await.get("/", &[("x-tenant", "t1")]).await).as_str() {
        "200" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
}

#[tokio::test]
async fn what_can_not_work_is_said_at_once() {
    let to = free_address().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let listener = std::net::TcpListener::bind(&taken);
    let free = free_address().to_string();
    let guard = ["guard", "--upstream", "a", "--to", &to, "--admin", "127.0.0.1:0"];
    for (more, status, wanted) in [
        (&["--listen", &taken][..], 1, "the port is in use"),
        (&["--listen", &free, "--gold", "file:x.yaml"], 2, "no owner can announce itself"),
        (&["--listen", "0.0.0.0:7777", "--register"], 2, "--advertise host:port"),
        (&["--listen", &free, "--advertise", "h:1"], 2, "without --register"),
        (&["--listen", &to], 2, "name the backend's address"),
        (&["--listen", &free, "--id", "a/b"], 2, "--id"),
        (&[], 2, "--listen"),
    ] {
        let (ended, _, said) = Waypost::run(&[&guard[..], more].concat()).await;
        assert!(ended == status && said.contains(wanted), "{more:?}: {ended} {said}");
    }
    drop(listener);
}

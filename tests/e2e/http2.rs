//! HTTP/2 from clients and to owners, in all pairings with HTTP/1.1: heads, bodies, trailers, time-outs, the end of connections.
//!
//! `http2/` has what else there is of it: plain requests, stale routes, calls of gRPC, floods.

mod floods;
mod grpc;
mod plain;
mod stale;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::sync::Notify;
use waypost_tests::{
    Backend, Client, Http2Backend, Http2Client, Http2Request, Peer, RawBackend, RecordFile, Reply, Seen, Waypost,
    http2::{read_answer, read_body, send},
    until, until_true,
};

/// A proxy over records: a service without a key, owned by `a`.
async fn proxy(upstream: Value, policy: Value) -> (Waypost, RecordFile) {
    let records = RecordFile::of(&json!({
        "services/web": { "match": [{}], "default_owner": "a" },
        "upstreams/a": upstream,
        "policies/default": policy,
    }));
    (Waypost::start(&records.gold(), &[]).await, records)
}

async fn over(upstream: Value) -> (Waypost, RecordFile) {
    proxy(upstream, json!({})).await
}

/// Says back what it was sent.
fn echo(seen: &Seen) -> Reply {
    Reply::Say(200, vec![("X-Method".to_owned(), seen.method.clone()), ("X-Target".to_owned(), seen.target.clone())], seen.body.clone())
}

#[tokio::test]
async fn every_pairing_carries_heads_and_bodies() {
    let (old, new) = (Backend::start(echo).await, Http2Backend::start(echo).await);
    let auto = json!({ "endpoints": [{ "address": old.address.to_string() }], "protocol": "auto" });
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    for (upstream, is_new) in [(old.upstream(), false), (new.upstream(), true), (auto, false)] {
        let (waypost, _records) = over(upstream).await;
        let client = Http2Client::connect(waypost.listen).await;
        let mut plain = Client::connect(waypost.listen).await;
        for body in [&b""[..], b"small", &large] {
            let answer = client.request("PUT", "/p?q=%20", &[("x-own", "1"), ("route-stamp", "mine")], body).await.unwrap();
            assert_eq!(
                (answer.status, answer.body.len(), answer.header("x-method"), answer.header("x-target")),
                (200, body.len(), "PUT", "/p?q=%20")
            );
            assert!(answer.body == body, "the body has changed on its way");
            assert_eq!(answer.header("via"), if is_new { "2.0 waypost" } else { "1.1 waypost" });
            let seen = if is_new { new.seen().pop().unwrap() } else { old.last() };
            let host = if is_new { ":authority" } else { "host" };
            assert_eq!(
                (seen.header(host), seen.header("x-own"), seen.header("via"), seen.header("x-forwarded-proto")),
                ("orders.example.com", "1", "2.0 waypost", "http"),
                "{seen:?}"
            );
            assert_eq!((seen.header("x-forwarded-host"), seen.header("x-forwarded-for")), ("orders.example.com", "127.0.0.1"));
            assert_eq!((seen.values("route-stamp").len(), &*seen.stamped("service")), (1, "web"));

            let answer = plain.request("PUT", "/p?q=%20", &[], body).await;
            assert_eq!((answer.status, answer.body == body, answer.header("x-target")), (200, true, "/p?q=%20"));
        }
        let answer = client.request("HEAD", "/p", &[], b"").await.unwrap();
        assert_eq!((answer.status, answer.header("x-method"), answer.body.len()), (200, "HEAD", 0));
        let lines = until("requests are logged", async || {
            let lines = waypost.access_log();
            if lines.len() == 7 { Ok(lines) } else { Err(format!("{} lines", lines.len())) }
        })
        .await;
        assert_eq!(lines.iter().filter(|line| line["protocol"] == "HTTP/2.0").count(), 4);
        assert_eq!(lines.iter().map(|line| line["bytes_in"].as_u64().unwrap()).sum::<u64>(), 2 * (5 + 3_000_000));
    }
}

#[tokio::test]
async fn many_requests_share_a_connection_on_both_sides_and_none_waits_for_another() {
    let gate = Arc::new(Notify::new());
    let held = Arc::clone(&gate);
    let backend = Http2Backend::scripted(move |mut request: Http2Request| {
        let held = Arc::clone(&held);
        async move {
            if request.head.uri.path() == "/held" {
                held.notified().await;
            }
            let mut body = request.answer(200, &[], false).unwrap();
            send(&mut body, &vec![b'x'; 100_000], true).await.unwrap();
        }
    })
    .await;
    let (waypost, _records) = over(backend.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    let first = client.open("GET", "/held", &[], true).await.unwrap();
    let others: Vec<_> = futures_util::future::join_all((0..60).map(|_| client.get("/free", &[]))).await;
    assert!(others.iter().all(|answer| answer.status == 200 && answer.body.len() == 100_000));
    gate.notify_one();
    assert_eq!(read_answer(first.answer).await.unwrap().status, 200);
    assert!(backend.connections() <= 3, "{} connections for 61 requests", backend.connections());
}

#[tokio::test]
async fn one_whose_client_reads_no_further_holds_no_other_up() {
    let backend = Http2Backend::scripted(|mut request: Http2Request| async move {
        let mut body = request.answer(200, &[], false).unwrap();
        let bytes = if request.head.uri.path() == "/large" { 40_000_000 } else { 2 };
        let _ = send(&mut body, &vec![b'x'; bytes], true).await;
    })
    .await;
    let (waypost, _records) = over(backend.upstream()).await;
    let (slow, quick) = (Http2Client::connect(waypost.listen).await, Http2Client::connect(waypost.listen).await);
    let mut stalled = Vec::new();
    for _ in 0..20 {
        // Heads are read, bodies are not.
        let call = slow.open("GET", "/large", &[], true).await.unwrap();
        stalled.push(call.answer.await.unwrap());
    }
    for _ in 0..100 {
        assert_eq!(quick.get("/small", &[]).await.text(), "xx");
    }
}

#[tokio::test]
async fn trailers_and_interim_answers_are_passed_on_and_the_protocols_own_words_are_not() {
    let backend = Http2Backend::scripted(|mut request: Http2Request| async move {
        let mut body = request.answer(200, &[], false).unwrap();
        send(&mut body, b"body", false).await.unwrap();
        let fields = [("x-sum", "42"), ("route-update", "lies"), ("route-stale", "lies")];
        let fields = fields.map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        body.send_trailers(fields.into_iter().collect()).unwrap();
    })
    .await;
    let (waypost, _records) = over(backend.upstream()).await;
    let answer = Http2Client::connect(waypost.listen).await.get("/", &[]).await;
    assert_eq!((answer.text(), answer.trailer("x-sum")), ("body".to_owned(), "42"));
    assert!(!answer.trailers.unwrap().keys().any(|name| name.as_str().starts_with("route-")));
    // HTTP/1.1 has no place for them here, and the body is whole without.
    assert_eq!(Client::connect(waypost.listen).await.get("/", &[]).await.text(), "body");
}

#[tokio::test]
async fn cookies_are_one_field_and_a_client_that_waits_to_go_on_is_told() {
    let (old, new) = (Backend::start(echo).await, Http2Backend::start(echo).await);
    for (upstream, is_new) in [(old.upstream(), false), (new.upstream(), true)] {
        let (waypost, _records) = over(upstream).await;
        let client = Http2Client::connect(waypost.listen).await;
        let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("expect", "100-continue"), ("te", "trailers"), ("content-length", "4")];
        let mut call = client.open("POST", "/", &fields, false).await.unwrap();
        let interim = std::future::poll_fn(|context| call.answer.poll_informational(context));
        let interim = tokio::time::timeout(waypost_tests::LIMIT, interim).await.expect("it is told to go on");
        assert_eq!(interim.unwrap().unwrap().status(), 100);
        send(&mut call.body, b"body", true).await.unwrap();
        assert_eq!(read_answer(call.answer).await.unwrap().text(), "body");
        let seen = if is_new { new.seen().pop().unwrap() } else { old.last() };
        assert_eq!((seen.values("cookie"), seen.header("te")), (vec!["a=1; b=2"], if is_new { "trailers" } else { "" }));
    }
}

#[tokio::test]
async fn what_can_not_be_carried_is_refused_and_costs_its_connection_nothing() {
    let backend = Backend::start(echo).await;
    let (waypost, _records) = over(backend.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    for fields in
        [&[("host", "another.example.com")][..], &[("content-length", "5")], &[("content_length", "5")], &[("content-length", "+0")]]
    {
        match client.request("GET", "/", fields, b"").await {
            Ok(answer) => assert_eq!((answer.status, answer.header("waypost-reason")), (400, "bad_request"), "{fields:?}"),
            // The frames themselves were faulty.
            Err(why) => assert!(why.contains("PROTOCOL_ERROR") || why.contains("unspecific protocol error"), "{fields:?}: {why}"),
        }
    }
    let answer = client.request("HEAD", "/", &[("content_length", "5")], b"").await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (400, 0));
    let many: Vec<(String, String)> = (0..300).map(|at| (format!("x-{at}"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
    let answer = client.request("GET", "/", &many, b"").await.unwrap();
    assert_eq!((answer.status, answer.header("waypost-reason")), (431, "header_too_large"));
    assert_eq!(client.get("/", &[]).await.status, 200);
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test]
async fn time_outs_are_answered_as_in_http1() {
    let backend = Http2Backend::scripted(|mut request: Http2Request| async move {
        match request.head.uri.path() {
            "/silent" => std::future::pending().await,
            "/stalls" => {
                let mut body = request.answer(200, &[], false).unwrap();
                send(&mut body, b"some", false).await.unwrap();
                std::future::pending().await
            }
            _ => {
                let _ = read_body(&mut request.body).await;
                let _ = request.answer(200, &[], true);
            }
        }
    })
    .await;
    let (waypost, _records) =
        proxy(backend.upstream(), json!({ "timeouts": { "first_byte_ms": 500, "idle_ms": 700, "total_ms": 0 } })).await;
    let client = Http2Client::connect(waypost.listen).await;
    let answer = client.get("/silent", &[]).await;
    assert_eq!((answer.status, answer.header("waypost-reason")), (504, "upstream_timeout"));
    let call = client.open("POST", "/sends-no-body", &[], false).await.unwrap();
    let answer = read_answer(call.answer).await.unwrap();
    assert_eq!((answer.status, answer.header("waypost-reason")), (408, "client_timeout"));
    // Too late for another answer: the stream is cut, and its connection goes on.
    let why = client.request("GET", "/stalls", &[], b"").await.unwrap_err();
    assert!(why.contains("internal error"), "{why}");
    assert_eq!(client.request("POST", "/fine", &[], b"x").await.unwrap().status, 200);
    for (path, reason) in [("/silent", "upstream_timeout"), ("/sends-no-body", "client_timeout"), ("/stalls", "upstream_timeout")] {
        until(&format!("{path} is logged with its reason"), async || {
            let lines = waypost.access_log();
            let line = lines.iter().find(|line| line["path"] == path).ok_or("no line")?;
            if line["reason"] == reason { Ok(()) } else { Err(line.to_string()) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let backend = Backend::start(echo).await;
    let (waypost, _records) = proxy(backend.upstream(), json!({ "limits": { "body_bytes": 1000 } })).await;
    let client = Http2Client::connect(waypost.listen).await;
    for fields in [&[("content-length", "2000")][..], &[]] {
        let answer = client.request("POST", "/", fields, &[b'x'; 2000]).await.unwrap();
        assert_eq!((answer.status, answer.header("waypost-reason")), (413, "body_too_large"), "{fields:?}");
    }
    assert_eq!(client.request("POST", "/", &[], &[b'x'; 1000]).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_client_that_cancels_is_gone_for_its_owner_too() {
    let gone = Arc::new(Notify::new());
    let told = Arc::clone(&gone);
    let backend = Http2Backend::scripted(move |mut request: Http2Request| {
        let told = Arc::clone(&told);
        async move {
            if request.head.uri.path() != "/cancelled" {
                let _ = request.answer(200, &[], true);
                return;
            }
            let _ = std::future::poll_fn(|context| request.respond.poll_reset(context)).await;
            told.notify_one();
        }
    })
    .await;
    let (waypost, _records) = over(backend.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    let mut call = client.open("POST", "/cancelled", &[], false).await.unwrap();
    send(&mut call.body, b"begun", false).await.unwrap();
    until_true("the request is under way", async || waypost.metric("waypost_in_flight").await > 0.5).await;
    call.body.send_reset(h2::Reason::CANCEL);
    tokio::time::timeout(waypost_tests::LIMIT, gone.notified()).await.expect("the owner is told");
    assert_eq!(client.get("/", &[]).await.status, 200);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn what_an_owner_has_not_processed_is_sent_again_and_what_it_may_have_is_not() {
    let backend = Http2Backend::scripted(|mut request: Http2Request| async move {
        let path = request.head.uri.path().to_owned();
        let (body, _) = read_body(&mut request.body).await.unwrap();
        // The first request of each path comes by the path's own first connection.
        static SEEN: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
        let is_first = {
            let mut seen = SEEN.lock().unwrap();
            let is_first = !seen.contains(&path);
            seen.push(path.clone());
            is_first
        };
        match (&*path, is_first) {
            ("/refused", true) => request.respond.send_reset(h2::Reason::REFUSED_STREAM),
            ("/broken", _) => request.respond.send_reset(h2::Reason::INTERNAL_ERROR),
            _ => {
                let mut answer = request.answer(200, &[], false).unwrap();
                send(&mut answer, &body, true).await.unwrap();
            }
        }
    })
    .await;
    let (waypost, _records) = over(backend.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    let answer = client.request("POST", "/refused", &[], b"once").await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "once".to_owned()));
    let answer = client.request("POST", "/broken", &[], b"once").await.unwrap();
    assert_eq!((answer.status, answer.header("waypost-reason")), (502, "upstream_reset"));
}

#[tokio::test]
async fn a_draining_proxy_says_goodbye_and_answers_what_was_asked() {
    let gate = Arc::new(Notify::new());
    let held = Arc::clone(&gate);
    let backend = Http2Backend::scripted(move |mut request: Http2Request| {
        let held = Arc::clone(&held);
        async move {
            held.notified().await;
            let mut body = request.answer(200, &[], false).unwrap();
            send(&mut body, b"at last", true).await.unwrap();
        }
    })
    .await;
    let (mut waypost, _records) = over(backend.upstream()).await;
    let (busy, idle) = (Http2Client::connect(waypost.listen).await, Http2Client::connect(waypost.listen).await);
    let call = busy.open("GET", "/", &[], true).await.unwrap();
    until_true("the request is under way", async || waypost.metric("waypost_in_flight").await > 0.5).await;
    waypost.terminate();
    idle.ended().await.unwrap();
    until_true("no request is taken any more", async || busy.open("GET", "/", &[], true).await.is_err()).await;
    gate.notify_one();
    assert_eq!(read_answer(call.answer).await.unwrap().text(), "at last");
    busy.ended().await.unwrap();
    assert!(waypost.wait(Duration::from_secs(10)).success());
}

#[tokio::test]
async fn an_idle_connection_and_one_that_has_asked_enough_are_told_to_go() {
    let backend = Backend::start(echo).await;
    let (waypost, _records) = proxy(backend.upstream(), json!({ "timeouts": { "idle_ms": 400 } })).await;
    let client = Http2Client::connect(waypost.listen).await;
    assert_eq!(client.get("/", &[]).await.status, 200);
    client.ended().await.unwrap();
    // One that never says a word of HTTP/2.
    let mut silent = Peer::connect(waypost.listen).await;
    assert!(silent.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
    silent.rest().await;

    let records = RecordFile::of(&json!({ "services/web": { "match": [{}], "default_owner": "a" }, "upstreams/a": backend.upstream() }));
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = folder.path().join("waypost.toml");
    std::fs::write(&bootstrap, "[limits]\nrequests_per_connection = 3\n").unwrap();
    let waypost = Waypost::start(&records.gold(), &["--config", bootstrap.to_str().unwrap()]).await;
    let client = Http2Client::connect(waypost.listen).await;
    for _ in 0..3 {
        assert_eq!(client.get("/", &[]).await.status, 200);
    }
    client.ended().await.unwrap();
}

#[tokio::test]
async fn prior_knowledge_can_be_switched_off() {
    let backend = Backend::start(echo).await;
    let records = RecordFile::of(&json!({ "services/web": { "match": [{}], "default_owner": "a" }, "upstreams/a": backend.upstream() }));
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = folder.path().join("waypost.toml");
    std::fs::write(&bootstrap, "[[listener]]\naddress = \"127.0.0.1:1\"\nh2c = false\n").unwrap();
    let waypost = Waypost::start(&records.gold(), &["--config", bootstrap.to_str().unwrap()]).await;
    let mut client = Peer::connect(waypost.listen).await;
    assert!(client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
    let said = client.rest().await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    assert_eq!(Client::connect(waypost.listen).await.get("/", &[]).await.status, 200);
}

#[tokio::test]
async fn an_owner_that_can_not_be_reached_costs_each_request_its_own_time_and_no_other() {
    // A listener whose backlog is full answers nobody.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address)).await {
        waiting.push(connection);
    }
    let upstream = json!({ "endpoints": [{ "address": address.to_string() }], "protocol": "h2" });
    let (waypost, _records) = proxy(upstream, json!({ "timeouts": { "connect_ms": 1000 } })).await;
    let client = Http2Client::connect(waypost.listen).await;
    let began = std::time::Instant::now();
    let answers = futures_util::future::join_all((0..30).map(|_| client.get("/", &[]))).await;
    assert!(answers.iter().all(|answer| answer.header("waypost-reason") == "connect_timeout"), "{answers:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "30 requests waited for one another: {:?}", began.elapsed());
}

#[tokio::test]
async fn an_owner_that_does_not_speak_it_is_a_bad_one() {
    let backend = Backend::start(echo).await;
    let upstream = json!({ "endpoints": [{ "address": backend.address.to_string() }], "protocol": "h2" });
    let (waypost, _records) = over(upstream).await;
    let answer = Http2Client::connect(waypost.listen).await.get("/", &[]).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(Client::connect(waypost.listen).await.get("/", &[]).await.status, 502);
}

#[tokio::test]
async fn an_offer_to_change_to_it_is_not_taken_up_and_costs_nothing() {
    let (old, new) = (Backend::start(echo).await, Http2Backend::start(echo).await);
    for upstream in [old.upstream(), new.upstream()] {
        let (waypost, _records) = over(upstream).await;
        let fields = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")];
        let answer = Client::connect(waypost.listen).await.request("POST", "/", &fields, b"body").await;
        assert_eq!((answer.status, answer.text()), (200, "body".to_owned()));
    }
    assert_eq!((old.last().values("upgrade").len(), old.last().values("http2-settings").len()), (0, 0));
}

#[tokio::test]
async fn a_client_that_begins_it_letter_by_letter_has_the_time_of_one_head() {
    let backend = Backend::start(echo).await;
    let (waypost, _records) = proxy(backend.upstream(), json!({ "timeouts": { "header_ms": 700 } })).await;
    let mut client = Peer::connect(waypost.listen).await;
    let mut letters = b"PRI * HTTP/2.0\r\n\r\nSM".iter();
    let said = loop {
        match tokio::time::timeout(Duration::from_millis(150), client.until("HTTP/1.1 408")).await {
            Ok(said) => break said,
            Err(_) => client.send([*letters.next().expect("all letters were taken, each in its own time")]).await,
        };
    };
    assert!(said.is_some(), "it was closed without a word");
}

#[tokio::test]
async fn a_body_that_ends_with_nothing_ends_once() {
    let backend = RawBackend::start(|mut peer: Peer, _| async move {
        while peer.request().await.is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let (waypost, _records) = over(backend.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    for part in [&b"hello"[..], b""] {
        let mut call = client.open("POST", "/", &[], false).await.unwrap();
        send(&mut call.body, part, false).await.unwrap();
        // Read by itself, so that it is an empty frame that ends the body.
        until_true("it is under way", async || waypost.metric("waypost_in_flight").await > 0.5).await;
        call.body.send_data(bytes::Bytes::new(), false).unwrap();
        call.body.send_data(bytes::Bytes::new(), true).unwrap();
        assert_eq!(read_answer(call.answer).await.unwrap().text(), "ok");
    }
    assert_eq!(client.get("/last", &[]).await.text(), "ok");
    assert_eq!((backend.count("\r\n0\r\n\r\n"), backend.count("0\r\n\r\n0\r\n\r\n")), (2, 0));
}

#[tokio::test]
async fn an_owner_that_resets_a_stream_is_not_asked_again() {
    let asked = Arc::<std::sync::atomic::AtomicUsize>::default();
    let counted = Arc::clone(&asked);
    let backend = Http2Backend::scripted(move |mut request: Http2Request| {
        let counted = Arc::clone(&counted);
        async move {
            if request.head.uri.path() == "/fine" {
                let _ = request.answer(200, &[], true);
                return;
            }
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            request.respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let (waypost, _records) = over(backend.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    assert_eq!(client.get("/fine", &[]).await.status, 200);
    let answer = client.get("/breaks", &[]).await;
    assert_eq!((answer.status, answer.header("waypost-reason")), (502, "upstream_reset"));
    // It says nothing of its connection, so nothing is repeated.
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_owner_that_takes_no_more_of_a_body_is_given_up_on() {
    // Both answer `/small` and never read a body; what they may be sent ahead is soon used up.
    let new = Http2Backend::scripted(|mut request: Http2Request| async move {
        if request.head.uri.path() == "/small" {
            let _ = request.answer(200, &[], true);
        } else {
            let _ = std::future::poll_fn(|context| request.respond.poll_reset(context)).await;
        }
    })
    .await;
    let old = RawBackend::start(|mut peer: Peer, _| async move {
        let head = peer.until("\r\n\r\n").await.unwrap_or_default();
        if head.contains("/small") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        } else {
            tokio::time::sleep(waypost_tests::LIMIT).await;
        }
    })
    .await;
    let body = vec![b'x'; 40_000_000];
    for upstream in [new.upstream(), old.upstream()] {
        let (waypost, _records) = proxy(upstream.clone(), json!({ "timeouts": { "idle_ms": 800, "first_byte_ms": 900 } })).await;
        let client = Http2Client::connect(waypost.listen).await;
        let answer = client.request("POST", "/large", &[], &body).await.unwrap();
        assert_eq!((answer.status, answer.header("waypost-reason")), (504, "upstream_timeout"), "{upstream}");
        let mut plain = Peer::connect(waypost.listen).await;
        let head = format!("POST /large HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
        let (said, _) = plain.send_and_read(&[head.as_bytes(), &body].concat()).await;
        assert!(plain.received().text().contains("504") || said.contains("504"), "{upstream}: {said}");
        // Who cancels is not waited for. Idle connections have ended meanwhile.
        let client = Http2Client::connect(waypost.listen).await;
        let mut call = client.open("POST", "/large", &[], false).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(300), send(&mut call.body, &body, false)).await;
        call.body.send_reset(h2::Reason::CANCEL);
        until_true("nothing is under way", async || waypost.metric("waypost_in_flight").await < 0.5).await;
        assert_eq!(Http2Client::connect(waypost.listen).await.get("/small", &[]).await.status, 200);
        let lines = until("they are logged", async || {
            let lines: Vec<_> = waypost.access_log().into_iter().filter(|line| line["reason"] == "upstream_timeout").collect();
            if lines.len() >= 2 { Ok(lines) } else { Err(format!("{} lines", lines.len())) }
        })
        .await;
        assert!(lines.iter().any(|line| line["owner"] == "a"), "{lines:?}");
    }
}

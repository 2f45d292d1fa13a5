//! Calls of gRPC, message by message: refusals and failures as a status, time limits, streams in both directions, and what a move makes of them.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::sync::Notify;
use waypost_tests::{
    Backend, Etcd, Guard, Http2Backend, Http2Client, Http2Request, Waypost,
    http2::{read_answer, read_body, send},
    until, until_true,
};

use super::{over, proxy};
use crate::scene::{route, service};

const CALL: (&str, &str) = ("content-type", "application/grpc+proto");
const TRAILERS: (&str, &str) = ("te", "trailers");

/// A message as it is framed.
fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

fn fields(all: &[(&'static str, &str)]) -> http::HeaderMap {
    all.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

/// Answers a unary call with what it was sent.
async fn echoes(mut request: Http2Request) {
    let (body, _) = read_body(&mut request.body).await.unwrap();
    let mut answer = request.answer(200, &[CALL], false).unwrap();
    send(&mut answer, &body, false).await.unwrap();
    answer.send_trailers(fields(&[("grpc-status", "0"), ("grpc-message", "fine")])).unwrap();
}

#[tokio::test]
async fn a_call_and_its_status_pass() {
    let backend = Http2Backend::scripted(|request| async move {
        assert_eq!(request.head.headers["te"], "trailers");
        assert!(request.head.headers.contains_key("grpc-timeout"));
        echoes(request).await;
    })
    .await;
    let (waypost, _records) = over(backend.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    let answer = client.request("POST", "/s/M", &[CALL, TRAILERS, ("grpc-timeout", "20S")], &message(b"hello")).await.unwrap();
    assert_eq!((answer.status, &*answer.body, answer.trailer("grpc-status")), (200, &*message(b"hello"), "0"));
}

#[tokio::test]
async fn a_failure_is_a_status_and_never_a_page() {
    let nobody = json!({ "endpoints": [{ "address": waypost_tests::free_address().to_string() }], "protocol": "h2" });
    let (waypost, _records) = over(nobody).await;
    let client = Http2Client::connect(waypost.listen).await;
    let answer = client.request("POST", "/s/M", &[CALL, TRAILERS], &message(b"x")).await.unwrap();
    assert_eq!((answer.status, answer.header("grpc-status"), answer.header("waypost-reason")), (200, "14", "connect_failed"));
    assert_eq!((answer.header("content-type"), answer.body.len()), ("application/grpc", 0));
    assert!(!answer.header("grpc-message").is_empty());

    let silent = Http2Backend::scripted(|request| async move {
        let _held = request;
        std::future::pending().await
    })
    .await;
    let (waypost, _records) = over(silent.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    let answer = client.request("POST", "/s/M", &[CALL, TRAILERS, ("grpc-timeout", "300m")], &message(b"x")).await.unwrap();
    assert_eq!((answer.header("grpc-status"), answer.header("waypost-reason")), ("4", "upstream_timeout"));
}

#[tokio::test]
async fn messages_flow_in_both_directions_at_their_own_pace() {
    let backend = Http2Backend::scripted(|mut request| async move {
        let mut answer = request.answer(200, &[CALL], false).unwrap();
        while let Some(Ok(part)) = request.body.data().await {
            let _ = request.body.flow_control().release_capacity(part.len());
            send(&mut answer, &part, false).await.unwrap();
        }
        answer.send_trailers(fields(&[("grpc-status", "0")])).unwrap();
    })
    .await;
    let (waypost, _records) = over(backend.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    let mut call = client.open("POST", "/s/Talk", &[CALL, TRAILERS], false).await.unwrap();
    let mut answer = call.answer.await.unwrap().into_body();
    for turn in 0..50_usize {
        let said = message(&vec![turn as u8; turn * 500]);
        send(&mut call.body, &said, false).await.unwrap();
        let mut heard = Vec::new();
        while heard.len() < said.len() {
            let part = answer.data().await.unwrap().unwrap();
            let _ = answer.flow_control().release_capacity(part.len());
            heard.extend_from_slice(&part);
        }
        assert!(heard == said, "turn {turn}");
    }
    send(&mut call.body, b"", true).await.unwrap();
    let (rest, trailers) = read_body(&mut answer).await.unwrap();
    assert_eq!((rest.len(), trailers.unwrap()["grpc-status"].to_str().unwrap()), (0, "0"));
}

#[tokio::test]
async fn a_call_that_is_cut_short_ends_with_a_status() {
    let backend = Http2Backend::scripted(|mut request| async move {
        let mut answer = request.answer(200, &[CALL], false).unwrap();
        send(&mut answer, &message(b"one"), false).await.unwrap();
        if request.head.uri.path() == "/breaks" {
            // Not before it has been read.
            let _ = request.body.data().await;
            answer.send_reset(h2::Reason::INTERNAL_ERROR);
        } else {
            std::future::pending::<()>().await;
        }
    })
    .await;
    let (waypost, _records) = proxy(backend.upstream(), json!({ "timeouts": { "idle_ms": 500 } })).await;
    let client = Http2Client::connect(waypost.listen).await;
    for (path, limit, status) in [("/breaks", "20S", "14"), ("/stalls", "20S", "14"), ("/stalls", "200m", "4")] {
        let mut call = client.open("POST", path, &[CALL, TRAILERS, ("grpc-timeout", limit)], false).await.unwrap();
        let mut answer = call.answer.await.unwrap().into_body();
        assert_eq!(&*answer.data().await.unwrap().unwrap(), &*message(b"one"));
        let _ = send(&mut call.body, b"", true).await;
        let (_, trailers) = read_body(&mut answer).await.unwrap();
        assert_eq!(trailers.unwrap()["grpc-status"], status, "{path} {limit}");
    }
}

#[tokio::test]
async fn a_status_in_the_head_of_an_owner_s_answer_is_not_its_end() {
    let backend =
        Backend::start(|_| waypost_tests::Reply::Say(200, vec![("grpc-status".to_owned(), "0".to_owned())], b"ten bytes!".to_vec())).await;
    let (waypost, _records) = over(backend.upstream()).await;
    let answer = Http2Client::connect(waypost.listen).await.request("POST", "/s/M", &[CALL, TRAILERS], b"").await.unwrap();
    assert_eq!((answer.text(), answer.header("grpc-status")), ("ten bytes!".to_owned(), "0"));
}

#[tokio::test]
async fn a_stale_route_is_healed_by_the_status_that_refuses() {
    let etcd = Etcd::start().await;
    etcd.put_all(&[("services/orders", service(json!({}))), ("routes/orders/t1", route("a", 5))]).await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    let table = waypost.status().await["gold"][0]["table"].as_str().unwrap().to_owned();
    let stale = format!(r#"state=moved, key="t1", owner="b", epoch=6, revision=900000, table="{table}""#);
    let a = Http2Backend::scripted(move |mut request| {
        let stale = stale.clone();
        async move {
            request.answer(200, &[CALL, ("grpc-status", "14"), ("route-stale", &stale)], true).unwrap();
        }
    })
    .await;
    let b = Http2Backend::scripted(echoes).await;
    etcd.put("upstreams/a", a.upstream()).await;
    let revision = etcd.put("upstreams/b", b.upstream()).await;
    waypost.at(revision).await;
    let client = Http2Client::connect(waypost.listen).await;
    let call = [CALL, TRAILERS, ("x-tenant", "t1")];
    let answer = client.request("POST", "/s/M", &call, &message(b"hello")).await.unwrap();
    assert_eq!((&*answer.body, answer.trailer("grpc-status")), (&*message(b"hello"), "0"));
    assert_eq!(waypost.json("/routes/orders/t1").await["source"], "hint");
    // UNAVAILABLE by itself is the application's own.
    let a = Http2Backend::scripted(|mut request| async move {
        request.answer(200, &[CALL, ("grpc-status", "14")], true).unwrap();
    })
    .await;
    let revision = etcd.put("upstreams/b", a.upstream()).await;
    waypost.at(revision).await;
    let answer = client.request("POST", "/s/M", &call, &message(b"hello")).await.unwrap();
    assert_eq!((answer.header("grpc-status"), answer.header("waypost-reason")), ("14", ""));
}

/// A guarded upstream whose calls stream until they are ended.
async fn guarded_streams(etcd: &Etcd, ended: &Arc<Notify>) -> (Http2Backend, Guard) {
    let ended = Arc::clone(ended);
    let backend = Http2Backend::scripted(move |mut request: Http2Request| {
        let ended = Arc::clone(&ended);
        async move {
            let mut answer = request.answer(200, &[CALL], false).unwrap();
            send(&mut answer, &message(b"one"), false).await.unwrap();
            let _ = std::future::poll_fn(|context| answer.poll_reset(context)).await;
            ended.notify_one();
        }
    })
    .await;
    let guard = Guard::start(&etcd.url(), "a", "a-1", backend.address, &[]).await;
    (backend, guard)
}

#[tokio::test]
async fn a_stream_ends_unavailable_when_its_key_is_moved_and_holds_no_move_up() {
    let etcd = Etcd::start().await;
    etcd.put_all(&[("services/orders", service(json!({}))), ("routes/orders/t1", route("a", 5))]).await;
    let ended = Arc::new(Notify::new());
    let (_backend, guard) = guarded_streams(&etcd, &ended).await;
    let target = Http2Backend::scripted(echoes).await;
    let to = Guard::start(&etcd.url(), "b", "b-1", target.address, &[]).await;
    let h2 = |record: Value| {
        let mut record = record;
        record["protocol"] = json!("h2");
        record
    };
    etcd.put("upstreams/a", h2(guard.record())).await;
    let revision = etcd.put("upstreams/b", h2(to.record())).await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    waypost.at(revision).await;
    let client = Http2Client::connect(waypost.listen).await;
    let call = [CALL, TRAILERS, ("x-tenant", "t1")];
    let mut stream = client.open("POST", "/s/Watch", &call, false).await.unwrap();
    send(&mut stream.body, &message(b"watch"), false).await.unwrap();
    let mut answer = stream.answer.await.unwrap().into_body();
    assert_eq!(&*answer.data().await.unwrap().unwrap(), &*message(b"one"));
    let (code, out, err) = Waypost::run(&["route", "move", "orders", "t1", "--to", "b", "--gold", &etcd.url()]).await;
    assert_eq!(code, 0, "{out}{err}");
    let (_, trailers) = tokio::time::timeout(Duration::from_secs(20), read_body(&mut answer)).await.expect("the stream ends").unwrap();
    assert_eq!(trailers.unwrap()["grpc-status"], "14");
    tokio::time::timeout(Duration::from_secs(20), ended.notified()).await.expect("the backend is told");
    let answer = client.request("POST", "/s/M", &call, &message(b"hello")).await.unwrap();
    assert_eq!((&*answer.body, answer.trailer("grpc-status")), (&*message(b"hello"), "0"));
    until_true("nothing is held", async || etcd.get_beside("owners/a/a-1").await.unwrap()["busy"] == json!([])).await;
}

#[tokio::test]
async fn a_call_to_an_owner_of_http1_is_carried_as_any_request() {
    let backend = Backend::named("a").await;
    let (waypost, _records) = over(backend.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    let call = client.open("POST", "/s/M", &[CALL, TRAILERS], true).await.unwrap();
    let answer = read_answer(call.answer).await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "a".to_owned()));
    // What the proxy says itself is a status there too.
    let answer = client.request("POST", "/s/../M", &[CALL, TRAILERS], b"").await.unwrap();
    assert_eq!((answer.status, answer.header("waypost-reason"), answer.header("grpc-status")), (200, "bad_path", "13"));
    until("it is logged", async || if waypost.access_log().is_empty() { Err("no line".to_owned()) } else { Ok(()) }).await;
}

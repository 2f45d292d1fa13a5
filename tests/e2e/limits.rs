//! What a client may not exceed: requests on a connection, connections, time, bytes; and how slow it may be.
//!
//! A time-out is shown by what can't be seen without it: a peer that goes on for ever is ended, one that only is slow is not.

use std::time::Duration;

use serde_json::{Value, json};
use waypost_tests::{Peer, RawBackend, until_true};

use crate::stage::{OK, Requests, Stage, body, field, keeping, reason, short_timeouts, statuses, whole_body};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
/// Between the bytes of a slow peer; far below any limit here.
const NOW_AND_THEN: Duration = Duration::from_millis(50);
/// How often a peer without end says something, if nobody objects: 20 s.
const WITHOUT_END: usize = 400;

/// A stage with these process limits whose owner keeps what it was asked.
async fn limited(limits: &str) -> (Stage, Requests) {
    let requests = Requests::default();
    let backend = RawBackend::start(keeping(requests.clone())).await;
    let upstream = backend.upstream();
    (Stage::on(backend, &upstream, json!({}), &format!("[limits]\n{limits}")).await, requests)
}

#[tokio::test]
async fn the_last_request_of_a_connection_is_told_so() {
    let (stage, requests) = limited("requests_per_connection = 3").await;
    let mut client = stage.client().await;
    client.send(GET.repeat(5)).await;
    for is_last in [false, false, true] {
        let answer = client.until("ok").await.unwrap_or_default();
        assert_eq!((statuses(&answer), field(&answer, "connection") == "close"), (vec![200], is_last), "{answer:?}");
    }
    assert_eq!(client.rest().await, "", "what was pipelined behind the last is for another connection");
    assert_eq!(requests.lock().unwrap().len(), 3);
    assert_eq!(stage.backend.received().len(), 1, "the owner's connection goes on");
}

#[tokio::test]
async fn the_last_request_is_told_so_when_the_proxy_answers_by_itself() {
    let (stage, _) = limited("requests_per_connection = 1").await;
    let answer = stage.ask("GET /a/../b HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!((statuses(&answer), reason(&answer), field(&answer, "connection")), (vec![400], "bad_path", "close"));
}

/// That it is turned away and later finds room is in [`crate::answers`].
#[tokio::test]
async fn what_a_connection_too_many_has_sent_is_not_served_and_its_answer_is_read_whole() {
    let (stage, requests) = limited("connections = 1").await;
    let mut first = stage.client().await;
    first.send(GET).await;
    first.until("ok").await.unwrap();
    let answer = stage.ask("POST /one-too-many HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nhalf").await;
    assert_eq!((statuses(&answer), reason(&answer), field(&answer, "connection")), (vec![503], "overloaded", "close"));
    assert!(whole_body(&answer).1, "{answer:?}");
    assert_eq!(requests.lock().unwrap().len(), 1);
}

/// Says this behind the request, and then something of it again and again, until the proxy has closed.
async fn dripping(mut peer: Peer, said: &str, drip: &str) {
    peer.send(said).await;
    for _ in 0..WITHOUT_END {
        if drip.is_empty() || !peer.send(drip).await {
            break;
        }
        tokio::time::sleep(NOW_AND_THEN).await;
    }
    peer.rest().await;
}

#[tokio::test]
async fn a_request_may_take_so_long_in_all() {
    let stage = Stage::with(json!({ "timeouts": { "total_ms": 700 } }), |mut peer: Peer, _| async move {
        let head = peer.until("\r\n\r\n").await.unwrap_or_default();
        let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
        let (said, drip) = match head.split(' ').nth(1) {
            Some("/silent") => ("", ""),
            Some("/interim") => (interim, interim),
            Some("/half") => ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", ""),
            _ => ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
        };
        dripping(peer, said, drip).await;
    })
    .await;
    for path in ["/silent", "/interim"] {
        let answer = stage.get(path).await;
        assert_eq!((statuses(&answer).last(), reason(&answer)), (Some(&504), "upstream_timeout"), "{path}: {answer:?}");
    }
    for path in ["/half", "/trickles"] {
        let answer = stage.get(path).await;
        assert_eq!((statuses(&answer), whole_body(&answer).1), (vec![200], false), "too late for another answer: {answer:?}");
        assert_eq!(stage.logged(path).await["reason"], "upstream_timeout");
    }
    stage.has_left(4).await;
    stage.at_rest().await;
}

#[tokio::test]
async fn the_time_between_requests_is_none_of_a_request() {
    let stage = Stage::with(json!({ "timeouts": { "total_ms": 500 } }), |mut peer: Peer, _| async move {
        while let Some(head) = peer.until("\r\n\r\n").await {
            if !head.starts_with("GET /silent ") {
                peer.send(OK).await;
            }
        }
    })
    .await;
    let mut client = stage.client().await;
    client.send(GET).await;
    client.until("ok").await.unwrap();
    // When this one has run out of time, the other has been idle for as long.
    assert_eq!(reason(&stage.get("/silent").await), "upstream_timeout");
    client.send(GET).await;
    assert_eq!(statuses(&client.until("ok").await.unwrap_or_default()), [200]);
}

#[tokio::test]
async fn a_request_on_its_way_is_no_idle_connection() {
    let (release, released) = tokio::sync::watch::channel(false);
    let policy = json!({ "timeouts": { "idle_ms": 300, "first_byte_ms": 30_000 } });
    let stage = Stage::with(policy, move |mut peer: Peer, _| {
        let mut released = released.clone();
        async move {
            peer.until("\r\n\r\n").await;
            let _ = released.wait_for(|released| *released).await;
            peer.send(OK).await;
        }
    })
    .await;
    let mut client = stage.client().await;
    client.send(GET).await;
    until_true("it has arrived", async || stage.backend.count("GET / ") == 1).await;
    // Two that are idle from now on, one after the other: when they have been closed, the first has waited longer than that.
    for _ in 0..2 {
        assert_eq!(stage.client().await.rest().await, "");
    }
    release.send_replace(true);
    assert_eq!(statuses(&client.until("ok").await.unwrap_or_default()), [200]);
}

/// A drip of bytes is no progress.
#[tokio::test]
async fn a_head_may_take_so_long_in_all_however_it_trickles() {
    let stage = Stage::with(short_timeouts(), keeping(Requests::default())).await;
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ").await;
    let mut answer = None;
    for _ in 0..WITHOUT_END {
        if let Ok(answered) = tokio::time::timeout(NOW_AND_THEN, client.until("\r\n\r\n")).await {
            answer = answered;
            break;
        }
        client.send("a").await;
    }
    let answer = answer.unwrap_or_default();
    assert_eq!((statuses(&answer), reason(&answer)), (vec![408], "client_timeout"), "{answer:?}");
    client.rest().await;
    assert!(stage.backend.received().is_empty());
    let line = stage.logged("").await;
    assert_eq!((&line["status"], &line["reason"]), (&json!(408), &json!("client_timeout")));
}

/// One that stops is in [`crate::owners_time`].
#[tokio::test]
async fn a_body_that_trickles_has_all_the_time_it_needs() {
    const BYTES: usize = 50;
    let policy = json!({ "timeouts": { "header_ms": 1500, "first_byte_ms": 1500, "idle_ms": 1500 } });
    let requests = Requests::default();
    let stage = Stage::with(policy, keeping(requests.clone())).await;
    for (framing, byte, end) in
        [(format!("Content-Length: {BYTES}"), "x", ""), ("Transfer-Encoding: chunked".into(), "1\r\nx\r\n", "0\r\n\r\n")]
    {
        let mut client = stage.client().await;
        client.send(format!("PUT / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{framing}\r\n\r\n")).await;
        for _ in 0..BYTES {
            assert!(client.send(byte).await);
            tokio::time::sleep(NOW_AND_THEN).await;
        }
        client.send(end).await;
        let answer = client.rest().await;
        assert_eq!((statuses(&answer), body(&answer)), (vec![200], "ok"), "longer than each of the limits, and never still: {answer:?}");
    }
    assert!(requests.lock().unwrap().iter().all(|request| request.body.len() == BYTES));
}

/// Sends an answer, or interim ones, without end.
async fn endless(policy: Value, head: &'static str, part: String) -> Stage {
    Stage::with(policy, move |mut peer: Peer, _| {
        let part = part.clone();
        async move {
            peer.until("\r\n\r\n").await;
            peer.send(head).await;
            while peer.send(&part).await {}
            peer.rest().await;
        }
    })
    .await
}

/// A client that asks and does not read; it waits until the proxy has given it and its owner up.
async fn unread(stage: &Stage) -> Peer {
    let mut client = Peer::connect_narrow(stage.waypost.listen, 8 * 1024).await;
    client.send("GET /endless HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    stage.has_left(1).await;
    stage.at_rest().await;
    client
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk() -> String {
    format!("10000\r\n{}\r\n", "x".repeat(0x10000))
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up_on_and_its_owner_left() {
    let stage = endless(json!({ "timeouts": { "idle_ms": 600 } }), CHUNKED, chunk()).await;
    let mut client = unread(&stage).await;
    let line = stage.logged("/endless").await;
    assert_eq!((&line["status"], &line["reason"]), (&json!(200), &json!("client_timeout")));
    let found = client.rest().await;
    assert!(!found.ends_with("0\r\n\r\n"), "what it finds when it comes back is no whole answer");
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_no_longer_than_the_whole_request_may_take() {
    let stage = endless(json!({ "timeouts": { "total_ms": 700, "idle_ms": 0 } }), CHUNKED, chunk()).await;
    unread(&stage).await;
}

/// Interim answers without end to a client that does not read, with these time-outs.
async fn interim_unread(timeouts: Value) {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(1000);
    let stage = endless(json!({ "timeouts": timeouts }), "", interim).await;
    unread(&stage).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_interim_answers_gets_no_longer_than_the_whole_request_may_take() {
    interim_unread(json!({ "first_byte_ms": 600, "idle_ms": 600, "total_ms": 2000 })).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_interim_answers_is_given_up_on() {
    interim_unread(json!({ "first_byte_ms": 600, "idle_ms": 600 })).await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all_of_it() {
    const BYTES: usize = 4_000_000;
    let stage = Stage::with(json!({ "timeouts": { "idle_ms": 1500 } }), |mut peer: Peer, _| async move {
        peer.until("\r\n\r\n").await;
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n")).await;
        peer.send(vec![b'x'; BYTES]).await;
        peer.rest().await;
    })
    .await;
    let mut client = Peer::connect_narrow(stage.waypost.listen, 64 * 1024).await;
    client.send("GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(client.until("\r\n\r\n").await.is_some());
    for number in 0..50 {
        assert!(client.exactly(BYTES / 50).await.is_some(), "cut in part {number}");
        tokio::time::sleep(NOW_AND_THEN).await;
    }
    assert_eq!(client.rest().await, "");
    let line = stage.logged("/large").await;
    assert_eq!((&line["status"], &line["reason"], &line["bytes_out"]), (&json!(200), &json!(null), &json!(BYTES)));
}

/// What the client is told is in [`crate::answers`] and [`crate::http`].
#[tokio::test]
async fn a_body_over_the_limit_never_reaches_an_owner_whole() {
    let requests = Requests::default();
    let stage = Stage::with(json!({ "limits": { "body_bytes": 10 } }), keeping(requests.clone())).await;
    for (framed, status) in [
        ("Content-Length: 10\r\n\r\n0123456789", 200),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", 200),
        ("Content-Length: 11\r\n\r\n0123456789a", 413),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n", 413),
        ("Transfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n", 413),
    ] {
        let answer = stage.ask(format!("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{framed}")).await;
        assert_eq!((statuses(&answer), whole_body(&answer).1), (vec![status], true), "{framed:?}: {answer:?}");
    }
    assert_eq!(requests.lock().unwrap().iter().map(|request| request.body.len()).collect::<Vec<_>>(), [10, 10]);
}

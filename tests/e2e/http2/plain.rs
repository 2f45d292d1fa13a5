//! Requests of HTTP/2 that go by the express lane, for owners of HTTP/1.1: what is particular to streams. What both lanes do alike `lanes` has.

use std::{future::poll_fn, sync::Arc, task::Poll};

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::json;
use tokio::{net::TcpStream, sync::Notify};
use waypost_tests::{Backend, Http2Client, Peer, RawBackend, http2::read_answer, http2::send, until, until_true};

use super::{echo, over, proxy};

const LARGE: usize = 20_000_000;

/// Reads a request's head.
async fn request(peer: &mut Peer) -> Option<String> {
    peer.until("\r\n\r\n").await
}

#[tokio::test]
async fn many_at_once_get_what_is_theirs_however_long_it_is() {
    let backend = Backend::start(echo).await;
    let (waypost, _records) = over(backend.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    let lengths = [0, 1, 5000, 16_384, 65_536, 65_537, 300_000];
    let calls = (0..70_usize).map(|at| {
        let (client, bytes) = (&client, lengths[at % lengths.len()]);
        async move {
            let body: Vec<u8> = (0..bytes).map(|byte| (byte * (at + 1) % 251) as u8).collect();
            let length = bytes.to_string();
            // Half of them say how long their body is.
            let fields = [("content-length", &*length)];
            let answer = client.request("PUT", &format!("/{at}"), &fields[..at % 2], &body).await.unwrap();
            assert_eq!((answer.status, answer.header("x-target")), (200, &*format!("/{at}")));
            assert!(answer.body == body, "{at}: {} bytes of {bytes}", answer.body.len());
        }
    });
    join_all(calls).await;
    for seen in backend.seen() {
        let at: usize = seen.target[1..].parse().unwrap();
        let (has_length, has_body) = (at % 2 == 1, !seen.body.is_empty());
        let framing = (seen.values("content-length").len(), seen.header("transfer-encoding"));
        assert_eq!(framing, (usize::from(has_length), if has_body && !has_length { "chunked" } else { "" }), "{at}");
    }
}

#[tokio::test]
async fn each_wait_has_its_own_end_and_costs_the_connection_nothing() {
    let backend = RawBackend::start(|mut peer: Peer, _| async move {
        while let Some(head) = request(&mut peer).await {
            if head.contains("/silent") || head.contains("/sends-half") {
                return drop(peer.rest().await);
            }
            if head.contains("/stalls") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nsome").await;
                return drop(peer.rest().await);
            }
            if head.contains("/large") {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")).await;
                peer.send(vec![b'x'; LARGE]).await;
                return;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let times = json!({ "timeouts": { "first_byte_ms": 500, "idle_ms": 700, "total_ms": 0 } });
    let (waypost, _records) = proxy(backend.upstream(), times).await;
    let client = Http2Client::connect(waypost.listen).await;
    // What it does not read takes the room of all its connection.
    let slow = Http2Client::connect(waypost.listen).await;
    let unread = slow.open("GET", "/large", &[], true).await.unwrap().answer.await.unwrap();
    let answer = client.get("/silent", &[]).await;
    assert_eq!((answer.status, answer.header("waypost-reason")), (504, "upstream_timeout"));
    for fields in [&[("content-length", "9")][..], &[]] {
        let mut call = client.open("POST", "/sends-half", fields, false).await.unwrap();
        send(&mut call.body, b"half", false).await.unwrap();
        let answer = read_answer(call.answer).await.unwrap();
        assert_eq!((answer.status, answer.header("waypost-reason")), (408, "client_timeout"), "{fields:?}");
    }
    let why = client.request("GET", "/stalls", &[], b"").await.unwrap_err();
    assert!(why.contains("internal error"), "{why}");
    assert_eq!(client.get("/fine", &[]).await.text(), "ok");
    for (path, reason) in [("/silent", "upstream_timeout"), ("/stalls", "upstream_timeout"), ("/large", "client_timeout")] {
        until(&format!("{path} is logged with its reason"), async || {
            let lines = waypost.access_log();
            let line = lines.iter().find(|line| line["path"] == path).ok_or("no line")?;
            if line["reason"] == reason { Ok(()) } else { Err(line.to_string()) }
        })
        .await;
    }
    drop(unread);
    until_true("nothing is under way", async || waypost.metric("waypost_in_flight").await < 0.5).await;
}

#[tokio::test]
async fn a_client_that_cancels_is_gone_for_its_owner_whatever_it_waits_for() {
    let gone = Arc::new(Notify::new());
    let told = Arc::clone(&gone);
    let backend = RawBackend::start(move |mut peer: Peer, _| {
        let told = Arc::clone(&told);
        async move {
            let head = request(&mut peer).await.unwrap_or_default();
            if head.contains("/begun") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nsome").await;
            }
            peer.rest().await;
            told.notify_one();
        }
    })
    .await;
    let (waypost, _records) = over(backend.upstream()).await;
    let client = Http2Client::connect(waypost.listen).await;
    for (method, path, ends) in [("GET", "/silent", true), ("GET", "/begun", true), ("POST", "/silent", false)] {
        let seen = backend.received().len();
        let mut call = client.open(method, path, &[], ends).await.unwrap();
        until_true("it is with its owner", async || backend.received().len() > seen).await;
        call.body.send_reset(h2::Reason::CANCEL);
        tokio::time::timeout(waypost_tests::LIMIT, gone.notified()).await.expect("the owner's connection has ended");
    }
    until_true("nothing is under way", async || waypost.metric("waypost_in_flight").await < 0.5).await;
    assert!(!client.is_closed());
}

#[tokio::test]
async fn a_client_without_room_gets_a_short_answer_when_it_makes_some() {
    let backend = Backend::start(echo).await;
    let (waypost, _records) = over(backend.upstream()).await;
    let stream = TcpStream::connect(waypost.listen).await.unwrap();
    let (sender, mut connection) = h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(stream).await.unwrap();
    let mut sender = sender.ready().await.unwrap();
    let asked = http::Request::post("http://orders.example.com/").body(()).unwrap();
    let (answer, mut body) = sender.send_request(asked, false).unwrap();
    body.send_data(Bytes::from_static(b"short"), true).unwrap();
    let mut answered = std::pin::pin!(async {
        let mut body = answer.await.unwrap().into_body();
        body.data().await.unwrap().unwrap()
    });
    let mut seen = std::pin::pin!(until_true("its owner has it", async || backend.seen().len() == 1));
    // The connection moves only while it is looked at.
    let mut both = |done: &mut dyn FnMut(&mut std::task::Context<'_>) -> bool, context: &mut std::task::Context<'_>| {
        assert!(std::pin::Pin::new(&mut connection).poll(context).is_pending());
        if done(context) { Poll::Ready(()) } else { Poll::Pending }
    };
    poll_fn(|context| both(&mut |context| seen.as_mut().poll(context).is_ready(), context)).await;
    poll_fn(|context| both(&mut |context| !answered.as_mut().poll(context).is_ready(), context)).await;
    connection.set_initial_window_size(65_535).unwrap();
    tokio::spawn(connection);
    assert_eq!(&answered.await[..], b"short");
}

//! Owners and clients that are late, each at its own wait: who is named for it, and that nothing waits for ever.

use serde_json::json;
use waypost_tests::{Peer, RawBackend, free_address, until_true};

use crate::stage::{Requests, Stage, body, keeping, reason, short_timeouts, statuses};

async fn silent(mut peer: Peer, _: usize) {
    peer.rest().await;
}

/// Reads a head, says this, and then nothing, with the connection open.
async fn stalling(said: &'static str) -> Stage {
    Stage::with(short_timeouts(), move |mut peer: Peer, _| async move {
        peer.until("\r\n\r\n").await;
        peer.send(said).await;
        peer.rest().await;
    })
    .await
}

#[tokio::test]
async fn an_owner_that_never_answers_is_a_504() {
    for said in ["", "HTTP/1.1 200 OK\r\nConte", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let stage = stalling(said).await;
        let answer = stage.get("/").await;
        assert_eq!(statuses(&answer).last(), Some(&504), "{said:?}: {answer:?}");
        assert_eq!(reason(&answer), "upstream_timeout", "{said:?}");
        until_true("the late connection is closed", async || stage.backend.received()[0].ended).await;
    }
}

/// Each part resets no clock but the one it is for: a head has its time as a whole.
#[tokio::test]
async fn a_head_or_interim_answers_in_drips_do_not_stretch_it() {
    for drip in ["X", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let stage = Stage::with(short_timeouts(), move |mut peer: Peer, _| async move {
            peer.until("\r\n\r\n").await;
            peer.send(if drip == "X" { "HTTP/1.1 200 OK\r\nX: " } else { drip }).await;
            // Ends when the proxy has closed; 300 drips are far beyond every limit here.
            for _ in 0..300 {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                if !peer.send(drip).await {
                    return;
                }
            }
            peer.send("\r\nContent-Length: 2\r\n\r\nok").await;
        })
        .await;
        let answer = stage.get("/").await;
        assert_eq!((statuses(&answer).last(), reason(&answer)), (Some(&504), "upstream_timeout"), "{drip:?}");
    }
}

#[tokio::test]
async fn an_answer_that_stalls_is_cut_and_what_had_come_of_it_arrives() {
    for (said, came) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "abc"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "3\r\nabc\r\n"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", ""),
    ] {
        let stage = stalling(said).await;
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let head = client.until("\r\n\r\n").await;
        assert!(head.is_some(), "the head does not wait for the body: {said:?}");
        let rest = client.rest().await;
        assert_eq!(rest, came, "{said:?}");
    }
}

#[tokio::test]
async fn a_client_that_is_slow_is_a_408() {
    let requests = Requests::default();
    let stage = Stage::with(short_timeouts(), keeping(requests.clone())).await;
    for sent in [
        "GET / HTTP/1.1\r\nHost: h\r\n",
        "G",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    ] {
        let mut client = stage.client().await;
        client.send(sent).await;
        let answer = client.rest().await;
        assert_eq!((statuses(&answer), reason(&answer)), (vec![408], "client_timeout"), "{sent:?}");
    }
    assert!(requests.lock().unwrap().is_empty(), "no owner saw a whole request");
    until_true("no owner keeps a part of one", async || stage.backend.received().iter().all(|received| received.ended)).await;
}

#[tokio::test]
async fn an_owner_that_does_not_listen_or_does_not_accept_is_named() {
    let unused = RawBackend::start(silent).await;
    let upstream = json!({ "endpoints": [{ "address": free_address().to_string() }] });
    let stage = Stage::on(unused, &upstream, short_timeouts(), "").await;
    let answer = stage.ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx").await;
    assert_eq!((statuses(&answer), reason(&answer)), (vec![502], "connect_failed"));

    // A full backlog: what connects is neither accepted nor refused.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let _listener = socket.listen(0).unwrap();
    let waiting: Vec<_> = (0..4).map(|_| tokio::spawn(tokio::net::TcpStream::connect(address))).collect();
    tokio::task::yield_now().await;
    let upstream = json!({ "endpoints": [{ "address": address.to_string() }] });
    let stage = Stage::on(RawBackend::start(silent).await, &upstream, short_timeouts(), "").await;
    let answer = stage.get("/").await;
    assert_eq!((statuses(&answer), reason(&answer)), (vec![504], "connect_timeout"));
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn another_endpoint_is_tried_where_no_connection_was_made() {
    let backend = RawBackend::start(keeping(Requests::default())).await;
    let endpoints: Vec<_> =
        [free_address(), backend.address, free_address()].iter().map(|address| json!({ "address": address.to_string() })).collect();
    let stage = Stage::on(backend, &json!({ "endpoints": endpoints }), short_timeouts(), "").await;
    for _ in 0..6 {
        let answer = stage.ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx").await;
        assert_eq!((statuses(&answer), body(&answer)), (vec![200], "ok"));
    }
    assert_eq!(stage.backend.count("POST / "), 6);
}

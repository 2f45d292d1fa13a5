//! `Expect: 100-continue` end to end: the owner decides, the proxy passes on.

use serde_json::json;
use waypost_tests::{Peer, RawBackend, until_true};

use crate::stage::{OK, Stage, body, field, reason, short_timeouts, statuses};

const HEAD: &str = "POST /first HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// Reads a head, says 100 when it may, reads the body, answers.
async fn patient(mut peer: Peer, _: usize) {
    while let Some(head) = peer.until("\r\n\r\n").await {
        if head.to_ascii_lowercase().contains("expect: 100-continue") {
            peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        if head.starts_with("POST") && peer.until("hello").await.is_none() {
            return;
        }
        peer.send(OK).await;
    }
}

#[tokio::test]
async fn the_body_follows_the_owners_word_and_the_connection_goes_on() {
    let (allow, allowed) = tokio::sync::watch::channel(false);
    let stage = Stage::start(move |mut peer: Peer, _| {
        let mut allowed = allowed.clone();
        async move {
            // Either may come on any connection.
            while let Some(head) = peer.until("\r\n\r\n").await {
                if head.contains("100-continue") {
                    let _ = allowed.wait_for(|allowed| *allowed).await;
                    peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                    peer.until("hello").await;
                }
                peer.send(OK).await;
            }
        }
    })
    .await;
    let mut client = stage.client().await;
    client.send(HEAD).await;
    until_true("the owner has the head", async || head_arrived(&stage.backend)).await;
    assert_eq!(client.received().text(), "", "the proxy does not say 100 of its own");
    allow.send_replace(true);
    assert!(client.until("\r\n\r\n").await.unwrap().starts_with("HTTP/1.1 100 "));
    assert_eq!(stage.backend.count("hello"), 0, "the body was not sent before");
    client.send("hello").await;
    assert_eq!(statuses(&client.until("ok").await.unwrap()), [200]);
    client.send(NEXT).await;
    assert_eq!(statuses(&client.rest().await), [200]);
}

fn head_arrived(backend: &RawBackend) -> bool {
    backend.received().first().is_some_and(|received| received.text().contains("\r\n\r\n"))
}

#[tokio::test]
async fn a_client_that_does_not_wait_is_served_alike() {
    let stage = Stage::start(patient).await;
    let answers = stage.ask(format!("{HEAD}hello{NEXT}")).await;
    assert_eq!(statuses(&answers).iter().filter(|status| **status == 200).count(), 2, "{answers:?}");
    assert_eq!((stage.backend.count("POST /first"), stage.backend.count("GET /next")), (1, 1));
}

#[tokio::test]
async fn a_final_answer_instead_arrives_and_no_body_is_taken_for_a_request() {
    const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let stage = Stage::start(|mut peer: Peer, _| async move {
        while let Some(head) = peer.until("\r\n\r\n").await {
            peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
            if head.starts_with("POST") && peer.until(SMUGGLED).await.is_none() {
                return;
            }
        }
    })
    .await;
    let mut client = stage.client().await;
    client.send(HEAD.replace("Length: 5", &format!("Length: {}", SMUGGLED.len()))).await;
    assert_eq!(statuses(&client.until("no").await.unwrap()), [403]);
    // The client sends the body after all: it may be read and dropped, or the connection closed, but it is a body.
    client.send(SMUGGLED).await;
    client.finish_sending().await;
    assert_eq!(client.rest().await, "", "nothing answers a body");
    assert_eq!(statuses(&stage.get("/sound").await), [403]);
    let used_again = |text: &String| text.contains("/first") && text.contains("/sound");
    let mixed = stage.backend.received().iter().map(|received| received.text()).find(used_again);
    // Once the whole body has been sent after all, the connection is as good as any.
    assert!(mixed.as_ref().is_none_or(|text| text.contains(SMUGGLED)), "used again with a body due: {mixed:?}");
}

/// A client that waits for the end that was announced must see it, and its owner's slot must not be kept by its silence.
#[tokio::test]
async fn what_was_said_to_close_closes_without_the_body() {
    let requests = [
        HEAD.to_owned(),
        HEAD.replace("Expect: 100-continue\r\n\r\n", "\r\nhe"),
        HEAD.replace("Content-Length: 5", "Transfer-Encoding: chunked"),
    ];
    let policy = json!({ "timeouts": { "first_byte_ms": 60_000, "idle_ms": 60_000 } });
    let stage = Stage::with(policy, |mut peer: Peer, _| async move {
        peer.until("\r\n\r\n").await;
        peer.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
        peer.rest().await;
    })
    .await;
    for (number, request) in requests.iter().enumerate() {
        // Read to its end within the harness's limit, which is below the time-outs.
        let answer = stage.ask(request).await;
        assert_eq!((statuses(&answer), body(&answer), field(&answer, "connection")), (vec![417], "no", "close"), "{request:?}");
        stage.has_left(number + 1).await;
    }
}

#[tokio::test]
async fn what_else_is_expected_is_the_owners_to_judge() {
    let stage = Stage::start(patient).await;
    let answer = stage.ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: a-miracle\r\nConnection: close\r\n\r\nhello").await;
    assert!(matches!(statuses(&answer)[..], [200] | [417]), "{answer:?}");
    if statuses(&answer) == [200] {
        assert_eq!(stage.backend.count("Expect: a-miracle\r\n"), 1);
    }
}

/// RFC 9110, section 10.1.1: of an HTTP/1.0 request it is ignored, and no 100 ever goes to such a client.
#[tokio::test]
async fn an_old_client_expects_nothing() {
    let stage = Stage::start(patient).await;
    let answer = stage.ask(format!("{}hello", HEAD.replace("HTTP/1.1", "HTTP/1.0"))).await;
    assert_eq!((statuses(&answer), body(&answer)), (vec![200], "ok"));
    assert_eq!(stage.backend.count("Expect"), 0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_sent() {
    let mut policy = short_timeouts();
    policy["limits"] = json!({ "body_bytes": 4 });
    let stage = Stage::with(policy, patient).await;
    let answer = stage.ask(HEAD).await;
    assert_eq!((statuses(&answer), reason(&answer)), (vec![413], "body_too_large"));
    assert!(stage.backend.received().is_empty());
}

/// The client does what it should and waits; who is late is the owner.
#[tokio::test]
async fn an_owner_that_never_says_continue_is_late_and_not_the_client() {
    let stage = Stage::with(short_timeouts(), |mut peer: Peer, _| async move {
        peer.rest().await;
    })
    .await;
    let answer = stage.ask(HEAD).await;
    assert_eq!((statuses(&answer), reason(&answer)), (vec![504], "upstream_timeout"));
}

/// Once told to go on, it is the client that is waited for.
#[tokio::test]
async fn a_client_that_is_silent_behind_the_100_is_late() {
    let policy = json!({ "timeouts": { "first_byte_ms": 60_000, "idle_ms": 500 } });
    let stage = Stage::with(policy, |mut peer: Peer, _| async move {
        peer.until("\r\n\r\n").await;
        peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        peer.rest().await;
    })
    .await;
    let answer = stage.ask(HEAD).await;
    assert_eq!((statuses(&answer), reason(&answer)), (vec![100, 408], "client_timeout"), "{answer:?}");
    stage.has_left(1).await;
}

#[tokio::test]
async fn a_chunked_body_follows_the_owners_word_as_well() {
    let stage = Stage::start(|mut peer: Peer, _| async move {
        let head = peer.until("\r\n\r\n").await.unwrap_or_default();
        // The mark tells the owner's word from one of the proxy's own.
        peer.send("HTTP/1.1 100 Continue\r\nX-Said-By: owner\r\n\r\n").await;
        if head.contains("Expect: 100-Continue\r\n") && peer.until("5\r\nhello\r\n0\r\n\r\n").await.is_some() {
            peer.send(OK).await;
        }
    })
    .await;
    let mut client = stage.client().await;
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-Continue\r\n\r\n").await;
    let interim = client.until("\r\n\r\n").await.unwrap_or_default();
    assert!(interim.starts_with("HTTP/1.1 100 ") && interim.contains("X-Said-By: owner\r\n"), "{interim}");
    assert_eq!(stage.backend.count("hello"), 0);
    client.send("5\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!(statuses(&client.until("ok").await.unwrap_or_default()), [200]);
}

#[tokio::test]
async fn an_owner_that_dies_behind_its_100_is_named() {
    let stage = Stage::start(|mut peer: Peer, _| async move {
        peer.until("\r\n\r\n").await;
        peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        peer.until("hello").await;
    })
    .await;
    let mut client = stage.client().await;
    client.send(HEAD).await;
    client.until("\r\n\r\n").await;
    client.send("hello").await;
    client.finish_sending().await;
    let answer = client.rest().await;
    assert_eq!((statuses(&answer), reason(&answer)), (vec![502], "upstream_reset"), "{answer:?}");
}

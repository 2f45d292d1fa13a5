//! A client's connection: how long it lives, what is served over it in which order, and how it ends.

use std::sync::{Arc, Mutex};

use waypost_tests::{Peer, until_true};

use crate::stage::{OK, Requests, Stage, answering, body, field, keeping, reason, short_timeouts, statuses, whole_body};

/// Each is answered with its own target; `/slow…` waits until the test lets it go.
fn echoing(
    release: tokio::sync::watch::Receiver<bool>,
) -> impl Fn(Peer, usize) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send {
    move |mut peer, _| {
        let mut release = release.clone();
        Box::pin(async move {
            while let Some(request) = peer.request().await {
                let target = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
                if target.starts_with("/slow") {
                    let _ = release.wait_for(|released| *released).await;
                }
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len())).await;
            }
        })
    }
}

fn bodies(text: &str) -> Vec<&str> {
    text.split("\r\n\r\n").skip(1).map(|part| part.split("HTTP/1.1 ").next().unwrap_or_default()).collect()
}

#[tokio::test]
async fn a_connection_ends_when_a_client_says_so_and_not_before() {
    let stage = Stage::with(short_timeouts(), keeping(Requests::default())).await;
    for (version, connection, stays) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: x\r\n", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: CLOSE\r\n", false),
        ("1.1", "Connection: x, close\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: close\r\n", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: Keep-Alive\r\n", true),
    ] {
        let mut client = stage.client().await;
        let request = format!("GET / HTTP/{version}\r\nHost: h\r\n{connection}\r\n");
        client.send(&request).await;
        let answer = client.until("ok").await.unwrap_or_default();
        if stays {
            assert_ne!(field(&answer, "connection"), "close", "{version} {connection:?}");
            client.send(&request).await;
            assert!(client.until("ok").await.is_some(), "{version} {connection:?}");
        } else {
            assert_eq!(field(&answer, "connection"), "close", "{version} {connection:?}");
            assert_eq!(client.rest().await, "", "{version} {connection:?}");
        }
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let stage = Stage::with(short_timeouts(), keeping(Requests::default())).await;
    assert_eq!(stage.client().await.rest().await, "", "one that never said anything");
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    client.until("ok").await;
    assert_eq!(client.rest().await, "", "one that was used");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_also_behind_a_slow_one() {
    let (release, released) = tokio::sync::watch::channel(false);
    let stage = Stage::start(echoing(released)).await;
    let mut client = stage.client().await;
    let large = "x".repeat(50_000);
    let mut sent = "GET /slow HTTP/1.1\r\nHost: h\r\n\r\nPOST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".to_owned();
    sent += &format!("POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{large}", large.len());
    sent += "POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    sent += "GET /4 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: h\r\n\r\n";
    client.send(sent).await;
    until_true("the first has arrived", async || stage.backend.count("GET /slow") == 1).await;
    assert_eq!(stage.backend.count("POST /1"), 0, "one at a time");
    release.send_replace(true);
    assert_eq!(bodies(&client.rest().await), ["/slow", "/1", "/2", "/3", "/4"]);
    assert_eq!(stage.backend.count("/never"), 0, "nothing is served behind Connection: close");
}

#[tokio::test]
async fn what_is_pipelined_behind_a_refused_request_is_served_or_lost_but_never_misread() {
    let requests = Requests::default();
    let stage = Stage::start(keeping(requests.clone())).await;
    let next = "GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    // Framed well and refused for its path: the next one may be served.
    let answers = stage.ask(format!("GET /a/../b HTTP/1.1\r\nHost: h\r\n\r\n{next}")).await;
    assert_eq!(statuses(&answers), [400, 200]);
    // The same with a body; the body is none of the next request.
    let length = smuggled.len();
    for framed in [
        format!("Content-Length: {length}\r\n\r\n{smuggled}"),
        format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{smuggled}\r\n0\r\n\r\n"),
    ] {
        let answers = stage.ask(format!("POST /a/../b HTTP/1.1\r\nHost: h\r\n{framed}{next}")).await;
        assert!(matches!(statuses(&answers)[..], [400] | [400, 200]), "{answers:?}");
    }
    // Framed badly: nobody knows where it ends.
    let answers = stage.ask(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length : {length}\r\n\r\n{smuggled}{next}")).await;
    assert_eq!((statuses(&answers), reason(&answers)), (vec![400], "bad_request"));
    assert!(requests.lock().unwrap().iter().all(|request| request.head.starts_with("GET /next ")));
}

#[tokio::test]
async fn a_client_that_has_finished_sending_is_answered() {
    let (release, released) = tokio::sync::watch::channel(false);
    let stage = Stage::start(echoing(released)).await;
    for (sent, wanted) in [
        ("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n", vec!["/1"]),
        ("POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", vec!["/2"]),
        ("POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", vec!["/3"]),
        ("GET /4 HTTP/1.1\r\nHost: h\r\n\r\nGET /5 HTTP/1.1\r\nHost: h\r\n\r\n", vec!["/4", "/5"]),
        ("GET /6 HTTP/1.0\r\n\r\n", vec!["/6"]),
    ] {
        let mut client = stage.client().await;
        client.send(sent).await;
        client.finish_sending().await;
        assert_eq!(bodies(&client.rest().await), wanted, "{sent:?}");
    }
    let mut client = stage.client().await;
    client.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").await;
    client.finish_sending().await;
    until_true("it has arrived", async || stage.backend.count("GET /slow") == 1).await;
    release.send_replace(true);
    assert_eq!(bodies(&client.rest().await), ["/slow"]);
}

#[tokio::test]
async fn a_client_gone_in_its_body_leaves_the_owner_a_request_that_is_not_whole() {
    let requests = Requests::default();
    let stage = Stage::with(short_timeouts(), keeping(requests.clone())).await;
    let starts = [
        "Content-Length: 10\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    ];
    for start in starts {
        for way in ["finish", "close", "reset"] {
            let before = stage.backend.received().len();
            let mut client = stage.client().await;
            client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{start}")).await;
            until_true("the body has begun to arrive", async || {
                stage.backend.received()[before..].iter().any(|received| received.text().contains("abc"))
            })
            .await;
            match way {
                "finish" => {
                    client.finish_sending().await;
                    client.rest().await;
                }
                "close" => drop(client),
                _ => client.reset(),
            }
            until_true(&format!("the owner is left ({way})"), async || stage.backend.received()[before].ended).await;
            assert!(!stage.backend.received()[before].text().ends_with("0\r\n\r\n"), "{start:?}, {way}");
        }
    }
    assert!(requests.lock().unwrap().is_empty(), "no owner saw a whole request");
}

#[tokio::test]
async fn a_client_gone_while_it_waits_frees_its_owner() {
    let mut policy = short_timeouts();
    policy["timeouts"]["first_byte_ms"] = serde_json::json!(30_000);
    let stage = Stage::with(policy, |mut peer: Peer, _| async move {
        while peer.until("\r\n\r\n").await.is_some_and(|head| head.starts_with("GET /before")) {
            peer.send(OK).await;
        }
        peer.rest().await;
    })
    .await;
    // One that has never been waited for, also if its connection will end, and one that has.
    for (number, before, connection) in [(0, "", ""), (1, "", "Connection: close\r\n"), (2, "GET /before HTTP/1.1\r\nHost: h\r\n\r\n", "")]
    {
        let mut client = stage.client().await;
        client.send(before).await;
        if !before.is_empty() {
            client.until("ok").await;
        }
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: h\r\n{connection}\r\n")).await;
        until_true("the request has arrived", async || stage.backend.count(&format!("GET /{number}")) == 1).await;
        let began = std::time::Instant::now();
        client.reset();
        until_true("the owner is left", async || stage.backend.received()[number].ended).await;
        assert!(began.elapsed() < std::time::Duration::from_secs(15), "by the reset, not by a time-out");
        stage.at_rest().await;
        let line = stage.logged(&format!("/{number}")).await;
        assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(0), None), "nothing was answered: {line}");
    }
}

#[tokio::test]
async fn an_answer_before_the_body_arrives_and_the_body_poisons_nothing() {
    let closes = Arc::new(Mutex::new(false));
    let says = Arc::clone(&closes);
    let stage = Stage::start(move |mut peer: Peer, _| {
        let says = Arc::clone(&says);
        async move {
            let Some(head) = peer.until("\r\n\r\n").await else { return };
            if !head.starts_with("POST") {
                peer.send(OK).await;
                return;
            }
            peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
            if !*says.lock().unwrap() {
                peer.rest().await;
            }
        }
    })
    .await;
    for close in [false, true] {
        *closes.lock().unwrap() = close;
        for framing in ["Content-Length: 300000", "Transfer-Encoding: chunked"] {
            let mut client = stage.client().await;
            client.send(format!("POST /early HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n5\r\nhello")).await;
            let answer = client.until("big").await.unwrap_or_default();
            assert_eq!((statuses(&answer), body(&answer)), (vec![413], "big"), "close: {close}");
            // Whatever comes now is body, however much it looks like a request.
            client.send("GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n").await;
            client.finish_sending().await;
            assert_eq!(statuses(&client.rest().await), [] as [u16; 0]);
            assert_eq!(statuses(&stage.get("/sound").await), [200]);
        }
    }
    let mixed =
        stage.backend.received().into_iter().find(|received| received.text().contains("/early") && received.text().contains("/sound"));
    assert!(mixed.is_none(), "a connection on which a body is due is used for nothing else: {:?}", mixed.map(|received| received.text()));
}

#[tokio::test]
async fn a_client_gone_within_its_answer_frees_its_owner_and_harms_nobody() {
    let stage = Stage::start(|mut peer: Peer, _| async move {
        while let Some(head) = peer.until("\r\n\r\n").await {
            if head.starts_with("GET /endless ") {
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
                while peer.send(&chunk).await {}
            } else {
                peer.send(OK).await;
            }
        }
    })
    .await;
    for (number, resets) in [false, true].into_iter().enumerate() {
        let mut client = stage.client().await;
        client.send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").await;
        client.until("\r\n\r\n").await.unwrap();
        if resets {
            client.reset();
        } else {
            drop(client);
        }
        stage.has_left(number + 1).await;
        stage.at_rest().await;
    }
    assert_eq!(body(&stage.get("/next").await), "ok");
}

/// How much a client sends that is answered early: more than all buffers hold.
const MUCH: usize = 20_000_000;

/// Answers a POST when a little of its body has come, then reads the rest of it or closes; a GET at once.
async fn answer_early(mut peer: Peer, reads_on: bool) {
    const LITTLE: usize = 100_000;
    while let Some(head) = peer.until("\r\n\r\n").await {
        if head.starts_with("GET ") {
            peer.send(OK).await;
            continue;
        }
        peer.exactly(LITTLE).await;
        peer.send(format!("HTTP/1.1 403 Forbidden\r\nContent-Length: 60000\r\n\r\n{}", "n".repeat(60_000))).await;
        if !reads_on || peer.exactly(MUCH - LITTLE).await.is_none() {
            return;
        }
    }
}

/// The answer is whole for a client that reads while it sends, and the connection's end is an orderly one.
async fn is_read_whole(stage: &Stage, sent: &[u8], status: u16, what: &str) {
    let mut client = stage.client().await;
    let (answer, _) = client.send_and_read(sent).await;
    let found = (statuses(&answer), whole_body(&answer).1, client.received().reset);
    assert_eq!(found, (vec![status], true, false), "{what}: {} bytes", answer.len());
}

/// The same for one that reads only when all is sent, as a simple client does.
async fn is_read_whole_when_all_is_sent(stage: &Stage, sent: &[u8], status: u16, what: &str) {
    let mut client = stage.client().await;
    assert!(client.send(sent).await, "{what}: it is taken");
    let answer = client.rest().await;
    let found = (statuses(&answer), whole_body(&answer).1, client.received().reset);
    assert_eq!(found, (vec![status], true, false), "{what}: {} bytes", answer.len());
}

/// What the client still sends is read, or the close would be a reset that takes the answer with it (RFC 9112, section 9.6).
#[tokio::test]
async fn a_large_upload_is_answered_early_and_the_answer_is_read_whole() {
    for reads_on in [true, false] {
        let stage = Stage::start(move |peer, _| answer_early(peer, reads_on)).await;
        let mut request = format!("POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: {MUCH}\r\n\r\n").into_bytes();
        request.resize(request.len() + MUCH, b'x');
        let what = format!("the owner reads on: {reads_on}");
        is_read_whole(&stage, request.as_slice(), 403, &what).await;
        is_read_whole_when_all_is_sent(&stage, request.as_slice(), 403, &what).await;
        stage.at_rest().await;
        assert_eq!(body(&stage.get("/next").await), "ok");
        assert_eq!((stage.backend.count("POST /early"), stage.backend.count("GET /next")), (2, 1));
    }
}

#[tokio::test]
async fn answers_of_the_proxys_own_are_read_whole_by_clients_that_still_send() {
    let mut policy = short_timeouts();
    policy["limits"] = serde_json::json!({ "body_bytes": 1000 });
    let stage = Stage::with(policy, keeping(Requests::default())).await;
    let chunks = [format!("{MUCH:x}\r\n").as_bytes(), &vec![b'x'; MUCH]].concat();
    for (head, status) in [
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20000000\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        ("POST /a/../b HTTP/1.1\r\nHost: h\r\nContent-Length: 20000000\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 20000000\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 200),
        ("GET / HTTP/1.0\r\nHost: h\r\n\r\n", 200),
    ] {
        let sent = [head.as_bytes(), &chunks].concat();
        is_read_whole(&stage, &sent, status, head).await;
        is_read_whole_when_all_is_sent(&stage, &sent, status, head).await;
    }
}

#[tokio::test]
async fn an_owner_that_closes_its_connection_does_not_close_the_clients() {
    let close = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let stage = Stage::start(answering(move |_| (close.into(), false))).await;
    let mut client = stage.client().await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let answer = client.until("ok").await.unwrap_or_default();
        assert_ne!(field(&answer, "connection"), "close", "{answer:?}");
    }
    assert_eq!(stage.backend.received().len(), 3);
}

#[tokio::test]
async fn a_last_answer_is_not_followed_by_a_reset_if_its_client_goes_on_sending() {
    let (release, released) = tokio::sync::watch::channel(false);
    let stage = Stage::start(echoing(released)).await;
    let target = format!("/slow{}", "x".repeat(3000));
    let mut client = stage.client().await;
    client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
    until_true("the owner has the request", async || stage.backend.count("GET /slow") == 1).await;
    // Nobody ever answers this. On one machine it has come when it has been sent, and the owner answers then.
    client.send("GET /never HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let _ = release.send(true);
    let answer = client.rest().await;
    assert_eq!(body(&answer), target, "{answer:?}");
    assert!(client.send(vec![b'x'; 4 << 20]).await, "what it sends is read: a reset could take the answer with it");
    assert_eq!(stage.backend.count("GET /never"), 0);
}

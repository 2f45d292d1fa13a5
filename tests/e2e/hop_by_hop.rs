//! What belongs to one connection stays on it (RFC 9110, section 7.6.1), and nobody can use that to take away what is needed.

use crate::stage::{Requests, Stage, answering, body, field, keeping, reason, statuses};

#[tokio::test]
async fn a_clients_connection_fields_stay_behind() {
    let requests = Requests::default();
    let stage = Stage::start(keeping(requests.clone())).await;
    let gone = [
        "Connection: X-Hop, keep-alive",
        "Connection: x-hop-too",
        "X-Hop: 1",
        "X-HOP-TOO: 2",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: close",
        "TE: trailers",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: HTTP2-Settings",
        "Proxy-Authorization: Basic c2VjcmV0",
        "Trailer: X-T",
    ];
    let kept = [
        "Authorization: Basic a",
        "Cookie: a",
        "Cookie: b",
        "X-Multi: 1",
        "X-Multi: 2",
        "Range: bytes=0-1",
        "X-Hopping: 3",
        "Accept-Encoding: gzip",
        "user-AGENT: q",
    ];
    let fields: String = gone.iter().chain(&kept).map(|field| format!("{field}\r\n")).collect();
    let mut client = stage.client().await;
    client.send(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).await;
    client.until("ok").await.unwrap();
    let seen = requests.lock().unwrap()[0].clone();
    for field in gone {
        let name = field.split(':').next().unwrap();
        assert!(seen.values(name).is_empty(), "{name}: {}", seen.head);
    }
    for name in ["Authorization", "Cookie", "X-Multi", "X-Hopping", "Range", "Accept-Encoding", "User-Agent"] {
        let sent: Vec<&str> = kept
            .iter()
            .filter_map(|field| field.split_once(": "))
            .filter(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect();
        assert_eq!(seen.values(name), sent, "in their order");
    }
}

#[tokio::test]
async fn what_framing_host_and_the_protocol_need_can_not_be_named_away() {
    let requests = Requests::default();
    let stage = Stage::start(keeping(requests.clone())).await;
    for named in [
        "close, Host",
        "Host",
        "content-length",
        "Content-Length, close",
        "transfer-encoding",
        "x-forwarded-for, x-forwarded-proto",
        "X-Forwarded-Host",
        "X-Request-Id",
        "Via, CDN-Loop",
        "route-stamp, Route-Stamp",
        "connection",
        "expect",
        "x y",
        "\"x\"",
        ",,,",
        "close;q=1",
    ] {
        for (framing, sent) in [("Content-Length: 3", "abc"), ("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n")] {
            let before = requests.lock().unwrap().len();
            let mut client = stage.client().await;
            client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nConnection: {named}\r\n{framing}\r\n\r\n{sent}")).await;
            client.finish_sending().await;
            let answer = client.rest().await;
            let new = requests.lock().unwrap()[before..].to_vec();
            if statuses(&answer) == [400] {
                assert_eq!((reason(&answer), new.len()), ("bad_request", 0), "{named:?}");
                continue;
            }
            assert_eq!((statuses(&answer), new.len()), (vec![200], 1), "{named:?}: {answer:?}");
            assert_eq!(new[0].body, b"abc", "{named:?}");
            for name in
                ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "via", "cdn-loop", "route-stamp"]
            {
                assert_eq!(new[0].values(name).len(), 1, "{name} with Connection: {named}: {}", new[0].head);
            }
            assert_eq!(new[0].values("content-length").len() + new[0].values("transfer-encoding").len(), 1, "{named:?}");
        }
    }
}

#[tokio::test]
async fn an_owners_connection_fields_stay_behind() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop\r\nConnection: x-hop-too, keep-alive\r\nX-Hop: 1\r\nX-Hop-Too: 2\r\n\
                Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTE: x\r\n\
                Proxy-Authenticate: Basic\r\nProxy-Authentication-Info: x=y\r\nTrailer: X-T\r\nX-Hopping: 3\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nServer: y\r\n\r\nok";
    let stage = Stage::start(answering(move |_| (head.into(), true))).await;
    let answer = stage.get("/").await;
    let gone = [
        "x-hop",
        "x-hop-too",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "te",
        "proxy-authenticate",
        "proxy-authentication-info",
        "trailer",
    ];
    for name in gone {
        assert_eq!(field(&answer, name), "", "{name}: {answer:?}");
    }
    assert_eq!(field(&answer, "x-hopping"), "3", "only what is named");
    assert_eq!(answer.matches("Set-Cookie: ").count(), 2);
    assert_eq!(field(&answer, "server"), "y");
    assert!(answer.find("Set-Cookie: a") < answer.find("Set-Cookie: b"));
}

#[tokio::test]
async fn an_owner_can_not_name_its_framing_away() {
    let stage = Stage::start(answering(|name| match name {
        "length" => (b"HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nContent-Length: 2\r\n\r\nok".to_vec(), true),
        "chunked" => {
            (b"HTTP/1.1 200 OK\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec(), true)
        }
        _ => (b"HTTP/1.1 200 OK\r\nConnection: Via, X-Request-Id, Date\r\nContent-Length: 2\r\n\r\nok".to_vec(), true),
    }))
    .await;
    for path in ["/length", "/chunked", "/own"] {
        let mut client = waypost_tests::Client::connect(stage.waypost.listen).await;
        for _ in 0..2 {
            let answer = client.get(path, &[]).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{path}");
            assert!(!answer.header("via").is_empty() && !answer.header("x-request-id").is_empty(), "{path}");
        }
    }
}

/// The code is the proxy's own word; an owner can't say it in its stead.
#[tokio::test]
async fn an_owner_can_not_speak_for_the_proxy() {
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nWaypost-Reason: no_route\r\nX-Request-Id: theirs\r\n\r\nok";
    let stage = Stage::start(answering(move |_| (forged.into(), true))).await;
    let answer = stage.get("/").await;
    assert_eq!((reason(&answer), answer.matches("X-Request-Id: ").count(), body(&answer)), ("", 1, "ok"), "{answer:?}");
    assert_ne!(field(&answer, "x-request-id"), "theirs");
}

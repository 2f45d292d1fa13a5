//! HTTP/1.1: bodies, framing, time-outs, and what malformed requests get.

use serde_json::json;
use waypost_tests::Reply;

use crate::scene::Scene;

#[tokio::test]
async fn bodies_pass_whole_in_both_directions_over_one_connection() {
    let scene = Scene::with(|seen| Reply::Say(200, Vec::new(), seen.body.clone()), |_| Reply::ok("b")).await;
    let mut client = scene.waypost.client().await;
    for bytes in [0, 1, 65_535, 65_536, 3_000_000] {
        let body: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
        let answer = client.request("PUT", "/", &[("x-tenant", "t1")], &body).await;
        assert_eq!((answer.status, answer.body == body), (200, true), "{bytes} bytes");
    }
    client
        .send(b"POST / HTTP/1.1\r\nHost: h\r\nx-tenant: t1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.answer(false).await.unwrap().text(), "hello world");
}

#[tokio::test]
async fn answers_without_a_body_keep_the_connection() {
    let status = |seen: &waypost_tests::Seen| seen.target.trim_start_matches('/').parse().unwrap_or(200);
    let scene = Scene::with(move |seen| Reply::Say(status(seen), Vec::new(), b"body".to_vec()), |_| Reply::ok("b")).await;
    let mut client = scene.waypost.client().await;
    let tenant = [("x-tenant", "t1")];
    let answer = client.request("HEAD", "/200", &tenant, b"").await;
    assert_eq!((answer.status, answer.header("content-length")), (200, "4"));
    for status in [204, 304, 200, 404, 500] {
        let answer = client.get(&format!("/{status}"), &tenant).await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn path_and_query_pass_byte_for_byte() {
    let scene = Scene::start().await;
    let mut client = scene.waypost.client().await;
    for target in ["/", "//", "/a//b/", "/%2F%2f%41", "/a?b=c?d&&e", "/?", "/a;b,c=d'(e)!*$@:+~", "/%E2%84%96", "/a|b\"c^{e}\\"] {
        let answer = client.get(target, &[("x-tenant", "t1")]).await;
        assert_eq!((answer.status, scene.a.last().target.as_str()), (200, target));
    }
    for target in ["/a/../b", "/.", "/%2e%2E/x", "/a/%2e"] {
        let answer = client.get(target, &[("x-tenant", "t1")]).await;
        assert_eq!((answer.status, answer.reason()), (400, "bad_path"), "{target}");
    }
    let now = scene.a.seen().len();
    scene.put("services/orders", crate::scene::service(json!({ "dot_segments": true }))).await;
    assert_eq!(client.get("/a/../b", &[("x-tenant", "t1")]).await.status, 200);
    assert_eq!((scene.a.seen().len(), scene.a.last().target.as_str()), (now + 1, "/a/../b"));
}

#[tokio::test]
async fn an_absolute_form_reaches_the_same_route_and_may_not_contradict_the_host() {
    let scene = Scene::start().await;
    scene.put("services/orders", crate::scene::service(json!({ "match": [{ "hosts": ["orders.example.com"] }] }))).await;
    let mut client = scene.waypost.client().await;
    client.send(b"GET http://orders.example.com/x?y HTTP/1.1\r\nHost: orders.example.com\r\nx-tenant: t1\r\n\r\n").await.unwrap();
    assert_eq!(client.answer(false).await.unwrap().text(), "a");
    assert_eq!(scene.a.last().target, "/x?y");
    assert_eq!(client.get("/x", &[("x-tenant", "t1"), ("Host", "other.example.com")]).await.reason(), "no_service");
    client.send(b"GET http://orders.example.com/x HTTP/1.1\r\nHost: other.example.com\r\nx-tenant: t1\r\n\r\n").await.unwrap();
    assert_eq!(client.answer(false).await.unwrap().reason(), "bad_request");
}

#[tokio::test]
async fn every_byte_of_a_target_passes_unaltered_or_is_refused() {
    let scene = Scene::start().await;
    let head = b" HTTP/1.1\r\nHost: h\r\nx-tenant: t1\r\n\r\n";
    for byte in 0u8..=255 {
        for (before, after) in [("/a", "b"), ("/a?x=", "y")] {
            let target = [before.as_bytes(), &[byte], after.as_bytes()].concat();
            let mut client = scene.waypost.client().await;
            let seen = scene.a.seen().len();
            client.send(&[b"GET ", &target[..], head].concat()).await.unwrap();
            let answer = client.answer(false).await.unwrap_or_else(|why| panic!("{target:?}: {why}"));
            if answer.status == 200 {
                assert_eq!(scene.a.last().target, String::from_utf8_lossy(&target), "{target:?}");
            } else {
                assert_eq!((answer.status, answer.reason()), (400, "bad_request"), "{target:?}");
                assert_eq!(scene.a.seen().len(), seen);
            }
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let scene = Scene::with(|seen| Reply::ok(seen.target.clone()), |seen| Reply::ok(format!("b{}", seen.target))).await;
    scene.put("routes/orders/t2", crate::scene::route("b", 1)).await;
    let mut client = scene.waypost.client().await;
    let mut requests = Vec::new();
    for number in 0..20 {
        let tenant = if number % 2 == 0 { "t1" } else { "t2" };
        requests.extend_from_slice(
            format!("POST /{number} HTTP/1.1\r\nHost: h\r\nx-tenant: {tenant}\r\nContent-Length: 2\r\n\r\nGE").as_bytes(),
        );
    }
    client.send(&requests).await.unwrap();
    for number in 0..20 {
        let wanted = if number % 2 == 0 { format!("/{number}") } else { format!("b/{number}") };
        assert_eq!(client.answer(false).await.unwrap().text(), wanted);
    }
}

#[tokio::test]
async fn malformed_requests_are_answered_400_and_reach_nobody() {
    let scene = Scene::start().await;
    let host = "Host: h\r\nx-tenant: t1\r\n";
    let requests = [
        format!("GET  / HTTP/1.1\r\n{host}\r\n"),
        format!("GET / HTTP/1.1\n{host}\r\n"),
        format!("GET / HTTP/1.1\r\n{host}X-A: b\rc\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}X-A: b\0c\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}X-A: b\r\n c\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}X-A : b\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}Host: g\r\n\r\n"),
        "GET / HTTP/1.1\r\nx-tenant: t1\r\n\r\n".to_owned(),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: +3\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 3, 3\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("GET / HTTP/3.0\r\n{host}\r\n"),
        format!("CONNECT h:1 HTTP/1.1\r\n{host}\r\n"),
        "\u{16}\u{3}\u{1}hello".to_owned(),
    ];
    for request in requests {
        let mut client = scene.waypost.client().await;
        client.send(request.as_bytes()).await.unwrap();
        let answer = client.answer(false).await.unwrap_or_else(|why| panic!("{request:?}: {why}"));
        assert_eq!((answer.status, answer.reason()), (400, "bad_request"), "{request:?}");
        assert!(client.is_closed().await, "{request:?}");
    }
    let mut client = scene.waypost.client().await;
    let long = format!("GET / HTTP/1.1\r\n{host}X-A: {}\r\n\r\n", "a".repeat(70_000));
    client.send(long.as_bytes()).await.unwrap();
    assert_eq!(client.answer(false).await.unwrap().reason(), "header_too_large");
    assert_eq!(scene.a.heads(), 0);
}

#[tokio::test]
async fn a_body_with_broken_framing_is_refused() {
    let scene = Scene::start().await;
    for body in ["5\nhello\r\n0\r\n\r\n", "zz\r\n", "5\r\nhelloX", "0\r\nTrailer: x\r\n\r\n"] {
        let mut client = scene.waypost.client().await;
        let request = format!("POST / HTTP/1.1\r\nHost: h\r\nx-tenant: t1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        client.send(request.as_bytes()).await.unwrap();
        let answer = client.answer(false).await.unwrap_or_else(|why| panic!("{body:?}: {why}"));
        assert_eq!((answer.status, answer.reason()), (400, "bad_request"), "{body:?}");
    }
    assert!(scene.a.seen().is_empty(), "no backend saw a whole request");
}

#[tokio::test]
async fn each_wait_has_its_own_time_out() {
    let scene = Scene::with(
        |seen| match seen.target.as_str() {
            "/idle" => Reply::RawAndClose(b"HTTP/1.1 200 OK\r\n\r\nhalf".to_vec()),
            _ => Reply::Hang,
        },
        |_| Reply::ok("b"),
    )
    .await;
    let timeouts = json!({ "timeouts": { "header_ms": 300, "connect_ms": 300, "first_byte_ms": 300, "idle_ms": 1500 } });
    scene.put("policies/default", timeouts).await;
    let mut client = scene.waypost.client().await;
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n").await.unwrap();
    let answer = client.answer(false).await.unwrap();
    assert_eq!((answer.status, answer.reason()), (408, "client_timeout"), "a slow head");
    assert!(client.is_closed().await);
    let answer = scene.waypost.get("t1", "/").await;
    assert_eq!((answer.status, answer.reason()), (504, "upstream_timeout"), "a silent owner");
    let mut client = scene.waypost.client().await;
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nx-tenant: t1\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
    let answer = client.answer(false).await.unwrap();
    assert_eq!((answer.status, answer.reason()), (408, "client_timeout"), "a slow body");
    let mut client = scene.waypost.client().await;
    assert!(client.is_closed().await, "an idle connection is closed");
}

#[tokio::test]
async fn what_a_broken_owner_does_is_named() {
    let reply = |seen: &waypost_tests::Seen| match seen.target.as_str() {
        "/close" => Reply::Close,
        "/garbage" => Reply::RawAndClose(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()),
        _ => Reply::ok("a"),
    };
    let scene = Scene::with(reply, |_| Reply::ok("b")).await;
    for (path, reason) in [("/close", "upstream_reset"), ("/garbage", "bad_response")] {
        let answer = scene.waypost.client().await.request("POST", path, &[("x-tenant", "t1")], b"x").await;
        assert_eq!((answer.status, answer.reason()), (502, reason), "{path}");
    }
    let posts = scene.a.seen().iter().filter(|seen| seen.method == "POST").count();
    assert_eq!(posts, 2, "what may have been executed is not sent again");
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "a");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_also_when_chunked() {
    let scene = Scene::start().await;
    scene.put("policies/default", json!({ "limits": { "body_bytes": 10 } })).await;
    let mut client = scene.waypost.client().await;
    client
        .send(b"POST / HTTP/1.1\r\nHost: h\r\nx-tenant: t1\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n")
        .await
        .unwrap();
    let answer = client.answer(false).await.unwrap();
    assert_eq!((answer.status, answer.reason()), (413, "body_too_large"));
    let answer = scene.waypost.client().await.request("POST", "/", &[("x-tenant", "t1")], b"0123456789").await;
    assert_eq!(answer.status, 200);
}

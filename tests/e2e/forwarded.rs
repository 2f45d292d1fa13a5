//! Who asked, through whom, and whether the request was here before: what an owner is told, and what a client may say of it.

use serde_json::json;
use waypost_tests::{RawBackend, RawRequest, until_true};

use crate::stage::{Requests, Stage, body, field, keeping, reason, statuses};

async fn stage(listener: &str) -> (Stage, Requests) {
    let requests = Requests::default();
    let backend = RawBackend::start(keeping(requests.clone())).await;
    let upstream = backend.upstream();
    (Stage::on(backend, &upstream, json!({}), listener).await, requests)
}

/// The answer to a GET with these fields, and what the owner saw of it.
async fn told(stage: &Stage, requests: &Requests, fields: &[u8]) -> (String, RawRequest) {
    let answer = stage.ask([b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n", fields, b"\r\n"].concat()).await;
    assert_eq!(statuses(&answer), [200], "{}", String::from_utf8_lossy(fields));
    let request = requests.lock().unwrap().last().cloned().unwrap();
    (answer, request)
}

const TRUSTED: &str = "trusted = [\"10.0.0.0/8\", \"127.0.0.0/8\"]";

#[tokio::test]
async fn of_a_trusted_client_the_list_is_kept_and_appended_to() {
    let (stage, requests) = stage(TRUSTED).await;
    for (given, wanted) in [
        ("", "127.0.0.1"),
        ("X-Forwarded-For: 1.2.3.4\r\n", "1.2.3.4, 127.0.0.1"),
        ("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8, 9.9.9.9\r\n", "1.2.3.4, 5.6.7.8, 9.9.9.9, 127.0.0.1"),
        ("x-forwarded-for: unknown, \"[2001:db8::1]:80\"\r\n", "unknown, \"[2001:db8::1]:80\", 127.0.0.1"),
        ("X-Forwarded-For:\r\n", "127.0.0.1"),
    ] {
        let (_, seen) = told(&stage, &requests, given.as_bytes()).await;
        assert_eq!(seen.values("x-forwarded-for"), [wanted], "{given:?}");
    }
    let given = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: outside.example.com\r\nX-Forwarded-Port: 443\r\nX-Request-Id: mine-1\r\n";
    let (answer, seen) = told(&stage, &requests, given.as_bytes()).await;
    assert_eq!(seen.values("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.values("x-forwarded-host"), ["outside.example.com"]);
    assert_eq!(seen.values("x-forwarded-port"), ["443"]);
    assert_eq!((seen.values("x-request-id"), field(&answer, "x-request-id")), (vec!["mine-1"], "mine-1"));
    let (_, seen) = told(&stage, &requests, b"").await;
    assert_eq!((seen.values("x-forwarded-proto"), seen.values("x-forwarded-host")), (vec!["http"], vec!["h"]), "made where none was given");
}

#[tokio::test]
async fn a_request_id_that_could_not_be_logged_is_replaced_also_of_a_trusted_client() {
    let (stage, requests) = stage(TRUSTED).await;
    let long = "a".repeat(129);
    for given in ["", "two words", "caf\u{e9}", &long] {
        let (answer, seen) = told(&stage, &requests, format!("X-Request-Id: {given}\r\n").as_bytes()).await;
        assert_eq!(seen.values("x-request-id"), [field(&answer, "x-request-id")]);
        assert_ne!(field(&answer, "x-request-id"), given);
        assert!(!field(&answer, "x-request-id").is_empty());
    }
    let (answer, seen) = told(&stage, &requests, b"X-Request-Id: one\r\nX-Request-Id: two\r\n").await;
    assert_eq!(seen.values("x-request-id"), [field(&answer, "x-request-id")], "there is one");
    let longest = "a".repeat(128);
    let (_, seen) = told(&stage, &requests, format!("X-Request-Id: {longest}\r\n").as_bytes()).await;
    assert_eq!(seen.values("x-request-id"), [&longest]);
}

#[tokio::test]
async fn of_any_other_client_all_of_it_is_replaced() {
    for listener in ["", "trusted = [\"10.0.0.0/8\", \"127.0.0.2/32\"]"] {
        let (stage, requests) = stage(listener).await;
        let given = "X-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Proto: ftp\r\n\
                     X-FORWARDED-HOST: evil\r\nX-Forwarded-Host: worse\r\nX-Request-Id: mine\r\nX-Request-Id: other\r\n";
        let (answer, seen) = told(&stage, &requests, given.as_bytes()).await;
        assert_eq!(seen.values("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(seen.values("x-forwarded-proto"), ["http"]);
        assert_eq!(seen.values("x-forwarded-host"), ["h"]);
        assert_eq!(seen.values("x-request-id"), [field(&answer, "x-request-id")]);
        assert!(!["mine", "other", ""].contains(&field(&answer, "x-request-id")));
    }
}

/// INTERFACE.md says `X-Forwarded-*`: an owner that builds links of a forged prefix or port has been lied to as well.
#[tokio::test]
async fn what_else_is_forwarded_is_replaced_by_nothing() {
    let (stage, requests) = stage("").await;
    let names = ["X-Forwarded-Port", "X-Forwarded-Server", "X-Forwarded-Prefix", "X-Forwarded-Ssl", "Forwarded"];
    let given: String = names.iter().map(|name| format!("{name}: forged\r\n")).collect();
    let (_, seen) = told(&stage, &requests, given.as_bytes()).await;
    assert!(!seen.head.contains("forged"), "{}", seen.head);
}

/// Behind CGI and WSGI, `X_Forwarded_For` is the same variable as `X-Forwarded-For`.
#[tokio::test]
async fn no_spelling_with_underscores_says_what_the_client_may_not() {
    let (stage, requests) = stage("").await;
    let given = "X_Forwarded_For: forged\r\nX_Forwarded-Proto: forged\r\nRoute_Stamp: forged\r\n";
    let answer = stage.ask(format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{given}\r\n")).await;
    assert!(matches!(statuses(&answer)[..], [200] | [400]), "{answer:?}");
    assert!(requests.lock().unwrap().iter().all(|seen| !seen.head.contains("forged")), "{:?}", requests.lock().unwrap());
}

#[tokio::test]
async fn via_is_appended_to_both_ways() {
    let requests = Requests::default();
    let backend = RawBackend::start(crate::stage::answering({
        let requests = requests.clone();
        move |_| {
            requests.lock().unwrap().push(RawRequest::default());
            (b"HTTP/1.1 200 OK\r\nVia: 1.0 inner\r\nContent-Length: 2\r\n\r\nok".to_vec(), true)
        }
    }))
    .await;
    let upstream = backend.upstream();
    let stage = Stage::on(backend, &upstream, json!({}), "").await;
    let answer = stage.ask("GET / HTTP/1.1\r\nHost: h\r\nVia: 1.0 first, 1.1 second\r\nVia: 1.1 third\r\nConnection: close\r\n\r\n").await;
    let all = |text: &str| {
        let lines = text.split("\r\n").filter_map(|line| line.to_ascii_lowercase().strip_prefix("via: ").map(str::to_owned));
        lines.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(all(&answer), "1.0 inner, 1.1 waypost");
    assert_eq!(all(&stage.backend.received()[0].text()), "1.0 first, 1.1 second, 1.1 third, 1.1 waypost");
    assert_eq!(body(&answer), "ok");
}

#[tokio::test]
async fn no_spelling_with_underscores_makes_a_request_id() {
    let (stage, requests) = stage("").await;
    let (_, seen) = told(&stage, &requests, b"X_Request_Id: forged\r\n").await;
    assert!(!seen.head.contains("forged"), "{}", seen.head);
}

/// RFC 8586. The proxy's own identifier is `waypost-edge-1`.
#[tokio::test]
async fn a_request_that_was_here_before_is_refused_however_that_is_said() {
    let (stage, requests) = stage("").await;
    for given in [
        "waypost-edge-1",
        "a, waypost-edge-1",
        "waypost-edge-1;v=1, b",
        " waypost-edge-1 ; a",
        "a\r\ncdn-loop: waypost-edge-1",
        "a,waypost-edge-1,b",
        ", ,waypost-edge-1,",
        "waypost-edge-1\r\nConnection: cdn-loop",
    ] {
        let answer = stage.ask(format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nCDN-Loop: {given}\r\n\r\n")).await;
        assert_eq!((statuses(&answer), reason(&answer)), (vec![508], "loop"), "{given:?}");
    }
    assert!(requests.lock().unwrap().is_empty());
    for given in ["waypost-edge-10", "waypost-edge", "a;by=waypost-edge-1", "a; x=\"waypost-edge-1\"", "x-waypost-edge-1"] {
        let (_, seen) = told(&stage, &requests, format!("CDN-Loop: {given}\r\n").as_bytes()).await;
        assert_eq!(seen.values("cdn-loop"), [format!("{given}, waypost-edge-1")], "others are kept as they came");
    }
    let (_, seen) = told(&stage, &requests, b"CDN-Loop: foo\r\nCDN-Loop: bar; v=1\r\n").await;
    assert_eq!(seen.values("cdn-loop").join(", "), "foo, bar; v=1, waypost-edge-1");
}

/// One odd byte must not blind the check: the loop would then run for ever.
#[tokio::test]
async fn a_loop_is_seen_beside_bytes_that_are_no_text() {
    let (stage, _) = stage("").await;
    let answer = stage.ask(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nCDN-Loop: x\xff, waypost-edge-1\r\n\r\n").await;
    assert!(matches!((&statuses(&answer)[..], reason(&answer)), ([508], "loop") | ([400], "bad_request")), "{answer:?}");
}

/// Behind a balancer that says whom a connection is from, also in version 2; whom the listener trusts is asked of the client, not of the balancer.
#[tokio::test]
async fn the_proxy_protocol_names_the_client() {
    let (stage, requests) = stage("proxy_protocol = true\ntrusted = [\"10.0.0.0/8\"]").await;
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\xc3\x50\0\x50";
    let get = b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n\r\n";
    for (header, seen_as) in [
        (&b"PROXY TCP4 192.0.2.7 127.0.0.1 50000 80\r\n"[..], "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 50000 80\r\n", "2001:db8::7"),
        (v2, "192.0.2.7"),
        (b"PROXY TCP4 10.1.1.1 127.0.0.1 50000 80\r\n", "1.2.3.4, 10.1.1.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ] {
        let answer = stage.ask([header, get].concat()).await;
        assert_eq!(statuses(&answer), [200], "{seen_as}");
        assert_eq!(requests.lock().unwrap().last().unwrap().values("x-forwarded-for"), [seen_as]);
    }
    until_true("the log names it", async || stage.waypost.access_log().iter().any(|line| line["client"] == "2001:db8::7")).await;
    // Byte by byte, as a network may bring it.
    let mut client = stage.client().await;
    client.send_bytewise(&[v2, &get[..]].concat()).await;
    assert_eq!(statuses(&client.rest().await), [200]);
    for nothing in [&get[..], b"PROXY TCP4 nobody\r\n", b""] {
        let mut client = stage.client().await;
        client.send(nothing).await;
        client.finish_sending().await;
        assert_eq!(client.rest().await, "", "{nothing:?}");
    }
    assert_eq!(requests.lock().unwrap().len(), 6);
}

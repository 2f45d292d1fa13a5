//! The framing table: bytes in, and what the backend saw of them.
//!
//! Whatever two parsers could read differently is refused, and nothing of it reaches a backend; everything else arrives byte for
//! byte, as exactly one request. Bodies and chunks have a table of their own in [`crate::framing_bodies`].

use crate::stage::{Requests, Stage, keeping, reason, short_timeouts, statuses};

/// What becomes of a head.
pub(crate) enum Expected {
    /// Answered 400 `bad_request`, the connection closed, nothing reached the backend.
    Refused,
    /// The same; the proxy may wait for the rest of such a head until its time is up.
    RefusedInTheEnd,
    /// Answered so.
    Answered(u16, &'static str),
    /// The backend saw the head and the body that were sent.
    AsSent,
    /// The backend saw this head and body.
    Seen(&'static str, &'static str),
}
use Expected::{Answered, AsSent, Refused, RefusedInTheEnd, Seen};

/// A request that must never be taken for one, inside or behind another.
pub(crate) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{body}").into_bytes()
}

fn get(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n").into_bytes()
}

/// A request line in front of `Host: h`.
fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: h\r\n\r\n").into_bytes()
}

fn hosted(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

type Case = (Vec<u8>, Expected);

/// Each case on a connection of its own, one after the other, in front of one backend that keeps what it saw.
async fn hold(cases: Vec<Case>) {
    let requests = Requests::default();
    let stage = Stage::with(short_timeouts(), keeping(requests.clone())).await;
    let mut wrong = Vec::new();
    for (sent, expected) in cases {
        let (whole, bytes) = (requests.lock().unwrap().len(), arrived(&stage));
        let mut client = stage.client().await;
        client.send(&sent).await;
        let head = client.until("\r\n\r\n").await.unwrap_or_default();
        let mut status = statuses(&head).first().copied().unwrap_or(0);
        let code = reason(&head).to_owned();
        if status == 200 {
            client.until("ok").await;
        }
        client.finish_sending().await;
        let rest = client.rest().await;
        if !statuses(&rest).is_empty() {
            status = 0;
        }
        let new = requests.lock().unwrap()[whole..].to_vec();
        let seen = new.first().map(|request| (request.own_head(), String::from_utf8_lossy(&request.body).into_owned()));
        let untouched = arrived(&stage) == bytes;
        let as_sent = String::from_utf8_lossy(&sent).into_owned();
        let as_sent = as_sent.split_once("\r\n\r\n").map(|(head, body)| (format!("{head}\r\n"), body.to_owned()));
        let holds = match expected {
            Refused => (status, &*code) == (400, "bad_request") && untouched,
            RefusedInTheEnd => matches!((status, &*code), (400, "bad_request") | (408, "client_timeout")) && untouched,
            Answered(wanted, reason) => (status, &*code) == (wanted, reason) && untouched,
            AsSent => status == 200 && new.len() == 1 && seen == as_sent,
            Seen(head, body) => status == 200 && new.len() == 1 && seen == Some((head.to_owned(), body.to_owned())),
        };
        if !holds {
            let sent: String = String::from_utf8_lossy(&sent).chars().take(200).collect();
            wrong.push(format!("{sent:?}\n    answered {status} {code:?}, the backend saw {seen:?}, then {rest:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases do not hold:\n{}", wrong.len(), wrong.join("\n"));
    assert!(requests.lock().unwrap().iter().all(|request| !request.head.contains("/smuggled")));
}

fn arrived(stage: &Stage) -> usize {
    stage.backend.received().iter().map(|received| received.bytes.len()).sum()
}

const CHUNKED_ABC: &str = "3\r\nabc\r\n0\r\n\r\n";

#[tokio::test]
async fn content_length_says_one_thing_or_the_request_is_refused() {
    let chunked = "Transfer-Encoding: chunked";
    let mut cases: Vec<Case> = vec![
        (post("Content-Length: 3\r\nContent-Length: 3", "abc"), Refused),
        (post("Content-Length: 3\r\nContent-Length: 5", "abcde"), Refused),
        (post(&format!("Content-Length: 0\r\nContent-Length: {}", SMUGGLED.len()), SMUGGLED), Refused),
        (post(&format!("Content-Length: 3\r\n{chunked}"), CHUNKED_ABC), Refused),
        (post(&format!("{chunked}\r\nContent-Length: 3"), CHUNKED_ABC), Refused),
        (post(&format!("{chunked}\r\nContent-Length: 5"), &format!("0\r\n\r\n{SMUGGLED}")), Refused),
        (post("Content-Length : 3", "abc"), Refused),
        (post("Content-Length:\r\n 3", "abc"), Refused),
        (post("X: a\nContent-Length: 3", "abc"), Refused),
        (post("Content-Length: 3", "abc"), AsSent),
        (post("CONTENT-LENGTH: 3", "abc"), AsSent),
        (post("Content-Length: 003", "abc"), AsSent),
        (post("Content-Length: 0", ""), AsSent),
        (post("Content-Length:\t3 \t", "abc"), Seen("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n", "abc")),
        (post(&format!("Content-Length: {}", SMUGGLED.len()), SMUGGLED), AsSent),
    ];
    let values = [
        "3, 3",
        "3,",
        ",3",
        "3,5",
        "+3",
        "-3",
        "-0",
        "0x3",
        "3 0",
        "3.0",
        "3e0",
        "3;x",
        "\"3\"",
        "",
        "\u{b}3",
        "3\u{c}",
        "٣",
        "\u{a0}3",
        "three",
        "18446744073709551616",
        "99999999999999999999999",
    ];
    cases.extend(values.iter().map(|value| (post(&format!("Content-Length: {value}"), "abc"), Refused)));
    hold(cases).await;
}

#[tokio::test]
async fn transfer_encoding_is_chunked_once_or_the_request_is_refused() {
    const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n";
    let refused = [
        "xchunked",
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "identity",
        "chunked, identity",
        ",chunked",
        "chunked,",
        "",
        "\"chunked\"",
        "chunked;q=1",
        "\u{b}chunked",
        "chunked\u{c}",
        "\u{a0}chunked",
        "chun ked",
        "chunked\0",
        "chunked\rx",
        "\r\n chunked",
        "x\r\n\tchunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: identity",
        "identity\r\nTransfer-Encoding: chunked",
        "chunked\nX: y",
    ];
    let mut cases: Vec<Case> = refused.iter().map(|value| (post(&format!("Transfer-Encoding: {value}"), CHUNKED_ABC), Refused)).collect();
    cases.extend([
        (post("Transfer-Encoding : chunked", CHUNKED_ABC), Refused),
        (post("Transfer-Encoding\t: chunked", CHUNKED_ABC), Refused),
        (post("X: a\nTransfer-Encoding: chunked", CHUNKED_ABC), Refused),
        (line("POST / HTTP/1.0\r\nTransfer-Encoding: chunked").into_iter().chain(CHUNKED_ABC.bytes()).collect(), Refused),
    ]);
    for passes in
        ["Transfer-Encoding: chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding: ChUnKeD", "TRANSFER-encoding:chunked \t"]
    {
        cases.push((post(passes, CHUNKED_ABC), Seen(CHUNKED, "abc")));
    }
    // Behind CGI the same variable, so not for a backend to judge.
    cases.push((post("Transfer_Encoding: chunked", ""), Refused));
    cases.push((post("Content_Length: 3", ""), Refused));
    hold(cases).await;
}

#[tokio::test]
async fn lines_are_whole_and_hold_no_control_characters() {
    let refused: [&[u8]; 30] = [
        b"GET / HTTP/1.1\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\nHost: h\n\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\n",
        b"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n",
        b"GET /\r HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /a\rb HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /a\nb HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /a\0b HTTP/1.1\r\nHost: h\r\n\r\n",
        b"G\0T / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\0\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX\rA: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX\nA: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX\0A: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\nB: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x01b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n\tb\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX\t: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX Y: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nXa\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX(: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX\xe9: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\"X\": a\r\n\r\n",
        b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    let mut cases: Vec<Case> = refused.iter().map(|sent| (sent.to_vec(), Refused)).collect();
    cases.extend([
        (b"GET / HTTP/1.1\r\nHost: h\n\r\n".to_vec(), RefusedInTheEnd),
        (b"\r".iter().copied().chain(get("X: a")).collect(), Refused),
        (get("X!#$%&'*+-.^_`|~1: y"), AsSent),
        (get("X: a\tb"), AsSent),
        (get("X:a"), Seen("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n", "")),
        (get("X:"), Seen("GET / HTTP/1.1\r\nHost: h\r\nX: \r\n", "")),
        (get("X: \u{e9}"), AsSent),
        (format!("\r\n\r\n{}", String::from_utf8(get("X: a")).unwrap()).into_bytes(), Seen("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n", "")),
    ]);
    hold(cases).await;
}

#[tokio::test]
async fn there_is_one_host_and_it_is_one() {
    let mut cases: Vec<Case> = vec![
        (get("Host: h"), Refused),
        (get("host: g"), Refused),
        (b"GET / HTTP/1.1\r\nX: a\r\n\r\n".to_vec(), Refused),
        (hosted(""), Seen("GET / HTTP/1.1\r\nHost: \r\n", "")),
    ];
    let refused = ["u@h", "u:p@h", "h/x", "h x", "h:8x", "h:1:2", "h,g", "h, g", "h?x", "h#x", "h\\g", "[::1", "::1", "a[b]c", "hé", "<h>"];
    cases.extend(refused.iter().map(|host| (hosted(host), Refused)));
    cases.extend(["h:80", "h:", "h.", "H", "a.b-c_d~e", "[::1]:80", "127.0.0.1:1", "a%20b"].iter().map(|host| (hosted(host), AsSent)));
    hold(cases).await;
}

/// RFC 9112, section 3.2.
#[tokio::test]
async fn a_target_has_one_of_the_four_forms() {
    const SEEN: &str = "GET /x?y HTTP/1.1\r\nHost: h\r\n";
    hold(vec![
        (line("GET http://h/x?y HTTP/1.1"), Seen(SEEN, "")),
        (line("GET https://h/x?y HTTP/1.1"), Seen(SEEN, "")),
        (line("GET http://h HTTP/1.1"), Seen("GET / HTTP/1.1\r\nHost: h\r\n", "")),
        (line("GET http://h?q HTTP/1.1"), Seen("GET /?q HTTP/1.1\r\nHost: h\r\n", "")),
        (line("GET http://g/x HTTP/1.1"), Refused),
        (b"GET http://h/x HTTP/1.1\r\n\r\n".to_vec(), Refused),
        (b"GET http://h/x HTTP/1.1\r\nHost:\r\n\r\n".to_vec(), Refused),
        (line("GET http://u@h/x HTTP/1.1"), Refused),
        (line("GET http:///x HTTP/1.1"), Refused),
        (line("GET ftp://h/x HTTP/1.1"), Refused),
        (b"GET http://h:x/x HTTP/1.1\r\nHost: h:x\r\n\r\n".to_vec(), Refused),
        (line("GET h:80 HTTP/1.1"), Refused),
        (line("GET x HTTP/1.1"), Refused),
        (line("GET ?a HTTP/1.1"), Refused),
        (line("OPTIONS * HTTP/1.1"), AsSent),
        (line("GET * HTTP/1.1"), Refused),
        (line("OPTIONS *x HTTP/1.1"), Refused),
        (line("CONNECT h:80 HTTP/1.1"), Refused),
        (line("CONNECT / HTTP/1.1"), Refused),
        (line("GET /a#b HTTP/1.1"), Refused),
        (line("GET /%zz%0 HTTP/1.1"), AsSent),
        (line("GET /%00%0d%0a HTTP/1.1"), AsSent),
        (line("GET /a\\b HTTP/1.1"), AsSent),
        (line("GET /\u{e9} HTTP/1.1"), AsSent),
        (b"GET /\xe9 HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), Refused),
        (line("GET /a\u{7f}b HTTP/1.1"), Refused),
        (line("M-SEARCH!#$ / HTTP/1.1"), AsSent),
        (line("get / HTTP/1.1"), AsSent),
        (line("GE(T / HTTP/1.1"), Refused),
        (line(" / HTTP/1.1"), Refused),
    ])
    .await;
}

#[tokio::test]
async fn a_request_line_has_three_parts_and_a_version_that_is_spoken() {
    let mut cases: Vec<Case> = vec![
        (b"GET /\r\n".to_vec(), RefusedInTheEnd),
        (b"GET /\r\n\r\n".to_vec(), Refused),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), Refused),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(), Refused),
        (line("GET  / HTTP/1.1"), Refused),
        (line(" GET / HTTP/1.1"), Refused),
        (line("GET / HTTP/1.1 "), Refused),
        (line("GET / x HTTP/1.1"), Refused),
        (line("GET\t/\tHTTP/1.1"), Refused),
        (line("GET / "), Refused),
    ];
    let versions = [
        "HTTP/0.9",
        "HTTP/1.2",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/1",
        "HTTP/2",
        "HTTP/2.0",
        "HTTP/3.0",
        "http/1.1",
        "HTTPS/1.1",
        "HTTP/1.1x",
    ];
    cases.extend(versions.iter().map(|version| (line(&format!("GET / {version}")), Refused)));
    hold(cases).await;
}

#[tokio::test]
async fn a_head_has_bounds() {
    let many = |fields: usize| get(&(0..fields).map(|n| format!("X{n}: y")).collect::<Vec<_>>().join("\r\n"));
    hold(vec![
        (line(&format!("GET /{} HTTP/1.1", "a".repeat(60_000))), AsSent),
        (line(&format!("GET /{} HTTP/1.1", "a".repeat(70_000))), Answered(431, "header_too_large")),
        (get(&format!("X: {}", "a".repeat(65_000))), AsSent),
        (get(&format!("X: {}", "a".repeat(70_000))), Answered(431, "header_too_large")),
        (many(190), AsSent),
        (many(201), Answered(431, "header_too_large")),
        (many(5_000), Answered(431, "header_too_large")),
    ])
    .await;
}

/// RFC 9112, section 3.2.2: a proxy makes Host from the target's authority. An HTTP/1.0 client need not have sent one.
#[tokio::test]
async fn an_absolute_form_without_host_becomes_host() {
    hold(vec![(b"GET http://h/x HTTP/1.0\r\n\r\n".to_vec(), Seen("GET /x HTTP/1.1\r\nHost: h\r\n", ""))]).await;
}

/// RFC 9112, section 3.2.4: the last proxy turns it into the asterisk-form.
#[tokio::test]
async fn options_of_a_whole_server_in_absolute_form() {
    hold(vec![(line("OPTIONS http://h HTTP/1.1"), Seen("OPTIONS * HTTP/1.1\r\nHost: h\r\n", ""))]).await;
}

/// RFC 3986, section 3.2: each means another host to another parser.
#[tokio::test]
async fn a_host_without_a_name_or_with_half_an_escape_is_refused() {
    hold([":80", "a%zz", "a%2"].iter().map(|host| (hosted(host), Refused)).collect()).await;
}

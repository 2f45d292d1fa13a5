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

/// Longer cases are only sent at once.
const BYTEWISE_UP_TO: usize = 2000;

/// Each case on a connection of its own, at once and byte by byte, one after the other, in front of one backend that keeps what it saw.
async fn hold(cases: Vec<Case>) {
    let requests = Requests::default();
    let stage = Stage::with(short_timeouts(), keeping(requests.clone())).await;
    let mut wrong = Vec::new();
    let ways = cases.iter().flat_map(|case| [(case, false), (case, true)]);
    for ((sent, expected), is_bytewise) in ways.filter(|((sent, _), is_bytewise)| !is_bytewise || sent.len() <= BYTEWISE_UP_TO) {
        let (whole, bytes) = (requests.lock().unwrap().len(), arrived(&stage));
        let mut client = stage.client().await;
        if is_bytewise {
            client.send_bytewise(sent).await;
        } else {
            client.send(sent).await;
        }
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
        let as_sent = String::from_utf8_lossy(sent).into_owned();
        let as_sent = as_sent.split_once("\r\n\r\n").map(|(head, body)| (format!("{head}\r\n"), body.to_owned()));
        let holds = match *expected {
            Refused => (status, &*code) == (400, "bad_request") && untouched,
            RefusedInTheEnd => matches!((status, &*code), (400, "bad_request") | (408, "client_timeout")) && untouched,
            Answered(wanted, reason) => (status, &*code) == (wanted, reason) && untouched,
            AsSent => status == 200 && new.len() == 1 && seen == as_sent,
            Seen(head, body) => status == 200 && new.len() == 1 && seen == Some((head.to_owned(), body.to_owned())),
        };
        if !holds {
            let sent: String = String::from_utf8_lossy(sent).chars().take(200).collect();
            let way = if is_bytewise { " byte by byte" } else { "" };
            wrong.push(format!("{sent:?}{way}\n    answered {status} {code:?}, the backend saw {seen:?}, then {rest:?}"));
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
        (post("Content-Length: 3\r\ncontent-length: 3", "abc"), Refused),
        (post("Content-Length: 3\r\nTransfer-Encoding: xchunked", "abc"), Refused),
        (post("Content-Length: 3\r\nTransfer-Encoding:", "abc"), Refused),
        (post("Content-Length: 3\r\ntransfer_encoding: chunked", "abc"), Refused),
        (post("Connection: content-length\r\nContent-Length: 3", "abc"), Refused),
        (post("Content-Length:3", "abc"), Seen("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n", "abc")),
        (
            line("POST / HTTP/1.0\r\nContent-Length: 3").into_iter().chain(*b"abc").collect(),
            Seen("POST / HTTP/1.1\r\nContent-Length: 3\r\nHost: h\r\n", "abc"),
        ),
        (b"POST / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), AsSent),
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
        "3\t0",
        "a",
        "\t ",
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
        "chunkedx",
        "chun\u{212a}ed",
        "identity, chunked",
        "chunked\r\nTransfer-Encoding:",
        "chunked\r\n\tx",
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
        (post("X: a\rTransfer-Encoding: chunked", CHUNKED_ABC), Refused),
        (post(" Transfer-Encoding: chunked", CHUNKED_ABC), Refused),
        (post("Transfer-Encoding\r\n: chunked", CHUNKED_ABC), Refused),
        (post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", CHUNKED_ABC), Refused),
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
    let refused: [&[u8]; 40] = [
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
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n \r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\r\nY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x1bb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX\x7f: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX[0]: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX/Y: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX@Y: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\xef\xbb\xbfX: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nGET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n X: a\r\nHost: h\r\n\r\n",
    ];
    let mut cases: Vec<Case> = refused.iter().map(|sent| (sent.to_vec(), Refused)).collect();
    cases.extend([
        (b"GET / HTTP/1.1\r\nHost: h\n\r\n".to_vec(), RefusedInTheEnd),
        (b"\r".iter().copied().chain(get("X: a")).collect(), Refused),
        (get("X!#$%&'*+-.^_`|~1: y"), AsSent),
        (get("X: a\tb"), AsSent),
        (get("X: a:b"), AsSent),
        (get("X: Content-Length: 5"), AsSent),
        (get("x-ONE: 1\r\nX-two: 2"), AsSent),
        (get("X: 1\r\nX: 3\r\nY: 2"), AsSent),
        (get("X: \t a \t "), Seen("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n", "")),
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
        (b"GET / HTTP/1.1\r\nHost:\r\nHost: h\r\n\r\n".to_vec(), Refused),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n".to_vec(), Refused),
        (b"GET / HTTP/1.1\r\nHost:\r\n h\r\n\r\n".to_vec(), Refused),
        (b"GET / HTTP/1.1\r\nX: y\r\n Host: other\r\nHost: h\r\n\r\n".to_vec(), Refused),
        (b"GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n".to_vec(), Refused),
        (b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n".to_vec(), Refused),
        (hosted("\t h \t"), Seen("GET / HTTP/1.1\r\nHost: h\r\n", "")),
        (hosted(""), Seen("GET / HTTP/1.1\r\nHost: \r\n", "")),
    ];
    let refused = [
        "u@h", "u:p@h", "h/x", "h x", "h\tx", "h:8x", "h:1:2", "h:-1", "h: 80", "h,g", "h, g", "h?x", "h#x", "h\\g", "http://h", "hé",
        "h\0", "<h>", "\"h\"", "::1", "a[b]c", "[::1", "[::1]x",
    ];
    cases.extend(refused.iter().map(|host| (hosted(host), Refused)));
    cases.extend(
        ["h:80", "h:", "h.", "H", "a.b-c_d~e", "[::1]", "[::1]:80", "127.0.0.1:1", "a%20b", "xn--bcher-kva.example"]
            .iter()
            .map(|host| (hosted(host), AsSent)),
    );
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
        (line("GET http://hh/ HTTP/1.1"), Refused),
        (line("GET http://h:81/ HTTP/1.1"), Refused),
        (line("GET http:// HTTP/1.1"), Refused),
        (line("GET http:/h/ HTTP/1.1"), Refused),
        (line("GET http://h/#a HTTP/1.1"), Refused),
        (line("GET http://[::1/ HTTP/1.1"), Refused),
        (line("GET http://h\\a/ HTTP/1.1"), Refused),
        (line("GET h2://h/ HTTP/1.1"), Refused),
        (line("GET ftp://g/ HTTP/1.1"), Refused),
        (line("GET hptt://[/ HTTP/1.1"), Refused),
        (b"GET http://h/a HTTP/1.1\r\nHost: h\r\nHost: other\r\n\r\n".to_vec(), Refused),
        (line("GET http://h?a/b HTTP/1.1"), Seen("GET /?a/b HTTP/1.1\r\nHost: h\r\n", "")),
        (line("GET http://h/a?http://g/ HTTP/1.1"), Seen("GET /a?http://g/ HTTP/1.1\r\nHost: h\r\n", "")),
        (line("GET http://h/http://g/ HTTP/1.1"), Seen("GET /http://g/ HTTP/1.1\r\nHost: h\r\n", "")),
        (b"GET http://h:81/a HTTP/1.1\r\nHost: h:81\r\n\r\n".to_vec(), Seen("GET /a HTTP/1.1\r\nHost: h:81\r\n", "")),
        (b"GET http://[::1]:81/a HTTP/1.1\r\nHost: [::1]:81\r\n\r\n".to_vec(), Seen("GET /a HTTP/1.1\r\nHost: [::1]:81\r\n", "")),
        (line("OPTIONS *?a HTTP/1.1"), Refused),
        (line("OPTIONS /a HTTP/1.1"), AsSent),
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
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(), Refused),
        (line("GET  / HTTP/1.1"), Refused),
        (line(" GET / HTTP/1.1"), Refused),
        (line("GET / HTTP/1.1 "), Refused),
        (line("GET / x HTTP/1.1"), Refused),
        (line("GET /  HTTP/1.1"), Refused),
        (line("GET /\tHTTP/1.1"), Refused),
        (line("GET /a\tb HTTP/1.1"), Refused),
        (line("GET / HTTP/1.1\r"), Refused),
        (line("GET HTTP/1.1"), Refused),
        (line("/ HTTP/1.1"), Refused),
        (line("GET: / HTTP/1.1"), Refused),
        (line("GET / RTSP/1.0"), Refused),
        (line("GET / HTTP/1.1 b HTTP/1.1"), Refused),
        (b"GET / HTTP/1.1\nHost: h\r\n\r\n".to_vec(), Refused),
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
        (line(&format!("GET /?{} HTTP/1.1", "a".repeat(60_000))), AsSent),
        (line(&format!("{} / HTTP/1.1", "A".repeat(70_000))), Answered(431, "header_too_large")),
        (get(&format!("{}: a", "X".repeat(70_000))), Answered(431, "header_too_large")),
        (get(&"X".repeat(70_000)), Answered(431, "header_too_large")),
        (get(&format!("X: {}", "a".repeat(65_000))), AsSent),
        (get(&format!("X: {}", "a".repeat(70_000))), Answered(431, "header_too_large")),
        (many(190), AsSent),
        (many(201), Answered(431, "header_too_large")),
        (many(5_000), Answered(431, "header_too_large")),
    ])
    .await;
}

/// Nothing that is needed can be named away, and a list that is none is none: see also [`crate::hop_by_hop`].
#[tokio::test]
async fn connection_names_what_stays_behind_or_the_request_is_refused() {
    const BARE: &str = "GET / HTTP/1.1\r\nHost: h\r\n";
    let refused = [
        "host",
        "x-a, host",
        "close, content-length",
        "Transfer-Encoding",
        "x-forwarded-for",
        "X-Forwarded-Proto",
        "x-forwarded-host",
        "@",
        "a b",
        "x-a; q=1",
        "\"close\"",
        "close,,\u{b}",
        "x-a=1",
        "x-\u{e9}",
        "a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p",
    ];
    let mut cases: Vec<Case> = refused.iter().map(|options| (get(&format!("Connection: {options}")), Refused)).collect();
    cases.push((get("Connection: x-a\r\n".repeat(20).trim_end()), Refused));
    for (fields, seen) in [
        ("Connection: x-a", BARE),
        ("Connection: x-a\r\nX-A: 1\r\nX-B: 2", "GET / HTTP/1.1\r\nHost: h\r\nX-B: 2\r\n"),
        ("X-A: 1\r\nX-B: 2\r\nConnection: X-A", "GET / HTTP/1.1\r\nHost: h\r\nX-B: 2\r\n"),
        ("Connection: x-a\r\nX-A: 1\r\nConnection: x-b\r\nX-B: 2\r\nX-C: 3", "GET / HTTP/1.1\r\nHost: h\r\nX-C: 3\r\n"),
        ("Connection: , x-a,,\r\nX-A: 1", BARE),
        ("Connection:\r\nX-A: 1", "GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n"),
        ("Connection: keep-alive", BARE),
        ("Connection: x-a, close\r\nX-A: 1\r\nX-B: 2", "GET / HTTP/1.1\r\nHost: h\r\nX-B: 2\r\n"),
    ] {
        cases.push((get(fields), Seen(seen, "")));
    }
    hold(cases).await;
}

/// The owner's server wants one, and knows no other name of itself.
#[tokio::test]
async fn without_any_host_an_old_request_goes_on_with_the_owners_address() {
    let requests = Requests::default();
    let stage = Stage::start(keeping(requests.clone())).await;
    assert_eq!(statuses(&stage.ask("GET /a HTTP/1.0\r\n\r\n").await), [200]);
    let seen = requests.lock().unwrap()[0].clone();
    assert_eq!((seen.head.split("\r\n").next(), seen.values("host")), (Some("GET /a HTTP/1.1"), vec![&*stage.backend.address.to_string()]));
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

/// RFC 3986, section 3.2.2: in brackets stands an IPv6 address.
#[tokio::test]
async fn brackets_hold_an_address() {
    let refused = ["[]", "[x]", "[127.0.0.1]", "[:::]", "[::1::2]", "[1:2:3:4:5:6:7:8:9]"];
    hold(refused.iter().map(|host| (hosted(host), Refused)).collect()).await;
}

/// RFC 3986, section 3.2: each means another host to another parser.
#[tokio::test]
async fn a_host_without_a_name_or_with_half_an_escape_is_refused() {
    hold([":80", "a%zz", "a%2"].iter().map(|host| (hosted(host), Refused)).collect()).await;
}

/// A message that ends early is no shorter message.
#[tokio::test]
async fn a_request_that_is_cut_at_any_byte_is_never_whole() {
    let requests = Requests::default();
    let stage = Stage::with(short_timeouts(), keeping(requests.clone())).await;
    for whole in [post("Content-Length: 3", "abc"), post("Transfer-Encoding: chunked", CHUNKED_ABC)] {
        for cut in 1..whole.len() {
            let mut client = stage.client().await;
            client.send(&whole[..cut]).await;
            client.finish_sending().await;
            let answer = client.rest().await;
            assert!(answer.is_empty() || (statuses(&answer), reason(&answer)) == (vec![400], "bad_request"), "cut at {cut}: {answer:?}");
            assert!(requests.lock().unwrap().is_empty(), "cut at {cut}: {:?}", requests.lock().unwrap());
        }
    }
    stage.at_rest().await;
    stage.has_left(stage.backend.received().len()).await;
    assert!(requests.lock().unwrap().is_empty(), "{:?}", requests.lock().unwrap());
}

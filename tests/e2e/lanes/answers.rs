//! What owners answer, and when: framed in every way or in none, early, late, cut, reset.

use super::case::{Act, Case, OK, Then, Way, answers, last};

fn ok(fields: &str, rest: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{rest}")
}

fn bytes(answer: &str) -> Vec<u8> {
    answer.chars().map(|letter| letter as u8).collect()
}

/// Answers that leave their connection open.
fn kept() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let five = "Content-Length: 5\r\n";
    for fields in [
        "",
        "X: y\r\n",
        "X:y\r\n",
        "X : y\r\n",
        "X\t: y\r\n",
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n \r\n",
        "X:\r\n",
        "X: a\r\nx: b\r\nX: c\r\n",
        "Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n",
        "X: caf\u{e9}\r\n",
        "X_Under: a\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "Connection: x-a\r\nX-A: b\r\n",
        "Connection: close, x-a\r\nX-A: b\r\n",
        "Connection: content-length\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
        "Upgrade: h2c\r\n",
        "Keep-Alive: timeout=5\r\n",
        "Proxy-Connection: keep-alive\r\n",
        "Proxy-Authenticate: x\r\n",
        "Proxy-Authentication-Info: x\r\n",
        "Proxy-Authorization: x\r\n",
        "TE: a\r\n",
        "Trailer: X\r\n",
        "Trailer:\r\n",
        "Via: 1.0 x\r\n",
        "Date: Mon\r\n",
        "date: a\r\nDate: b\r\n",
        "Server: s\r\n",
        "X-Request-Id: theirs\r\n",
        "Waypost-Reason: mine\r\n",
        "waypost_reason: mine\r\n",
        "Route-Stale: state=moved\r\n",
        "Route-Update: x\r\n",
        "Route-Stamp: y\r\n",
        "route_stale: x\r\n",
        "Route-X: a\r\n",
        "Location: /x\r\n",
        "Content-Encoding: gzip\r\n",
        "Alt-Svc: h2\r\n",
        "Cache-Control: no-store\r\nAge: 3\r\n",
        "X-Forwarded-For: a\r\n",
        "CDN-Loop: a\r\n",
        "HTTP2-Settings: a\r\n",
        "Retry-After: 1\r\n",
        "Content-Type:\r\n",
    ] {
        all.push(ok(&format!("{fields}{five}"), "hello"));
    }
    for length in [
        "5\r\nContent-Length: 5",
        "5\r\nContent-Length: 6",
        "5, 5",
        "05",
        "+5",
        "-5",
        " 5 ",
        "",
        "a",
        "5a",
        "99999999999999999999",
        "5\r\nTransfer-Encoding: chunked",
        "5;x",
        "0x5",
        "5\r\nContent_Length: 6",
    ] {
        all.push(ok(&format!("Content-Length: {length}\r\n"), "hello"));
    }
    for coding in [
        "chunked",
        "Chunked",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "identity",
        "",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nContent-Length: 3",
        "x",
        "chunked;a",
        " chunked\t",
    ] {
        all.push(ok(&format!("Transfer-Encoding: {coding}\r\n"), "5\r\nhello\r\n0\r\n\r\n"));
    }
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
        "5;x=y\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5 ;x\r\nhello\r\n0\r\n\r\n",
        "0005\r\nhello\r\n000\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\nZ: a\r\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\n\r\n",
        "5\r\nhello\r\n0\r\nRoute-Stale: x\r\n\r\n",
        "A\r\n0123456789\r\n0;x\r\n\r\n",
    ] {
        all.push(ok("Transfer-Encoding: chunked\r\n", body));
    }
    for body in [
        "zz\r\n",
        "\r\n",
        "5\r\nhello\r\nzz\r\n",
        "5\r\nhello\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r\n-1\r\n",
        "5\r\nhello\r\n0\r\n\rX",
        "5\r\nhello\r\n0\r\n\nX",
        "5\r\nhello\r\n10000000000000005\r\nx",
        "ffffffffffffffff\r\nx",
        "1ffffffffffffffff\r\nx",
        " 5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n5;\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
    ] {
        all.push(ok("Transfer-Encoding: chunked\r\n", body));
    }
    // What is behind an answer.
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for first in [
        ok(five, "hello"),
        ok("Content-Length: 0\r\n", ""),
        ok("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_owned(),
    ] {
        all.push(format!("{first}{poison}"));
        all.push(format!("{first}\r\n"));
        all.push(format!("{first}x"));
    }
    for first in [
        "HTTP/1.1 200",
        "HTTP/1.1 200 ",
        "HTTP/1.1 200 All is well: \u{e9}",
        "HTTP/1.1  200 OK",
        "HTTP/1.0 200 OK",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive",
        "HTTP/1.1 201 Created",
        "HTTP/1.1 299 X",
        "HTTP/1.1 300 M",
        "HTTP/1.1 404 Not Found",
        "HTTP/1.1 421 Misdirected",
        "HTTP/1.1 500 E",
        "HTTP/1.1 503 Busy",
        "HTTP/1.1 599 x",
        "HTTP/1.1 600 x",
        "HTTP/1.1 999 x",
        "HTTP/1.1 099 x",
        "HTTP/1.1 000 x",
        "HTTP/1.1 20 x",
        "HTTP/1.1 2000 x",
        "HTTP/1.1 abc x",
        "HTTP/1.2 200 OK",
        "HTTP/2 200 OK",
        "HTTP/2.0 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "garbage",
        "",
        "HTTP/1.1 200 OK\0",
        "HTTP/1.1 200 O\tK",
        "HTTP/1.1 200 OK ",
        "\r\nHTTP/1.1 200 OK",
        "\nHTTP/1.1 200 OK",
        "HTTP/1.1 205 Reset Content",
        "HTTP/1.1 206 Partial",
        "HTTP/1.1 416 x",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x",
        "HTTP/1.1 101 x",
    ] {
        all.push(format!("{first}\r\nContent-Length: 5\r\n\r\nhello"));
    }
    for bodiless in ["204 No Content", "304 Not Modified"] {
        for fields in [
            "",
            "Content-Length: 0\r\n",
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "ETag: \"x\"\r\n",
            "Connection: close\r\n",
            "Trailer: X\r\n",
        ] {
            all.push(format!("HTTP/1.1 {bodiless}\r\n{fields}\r\n"));
        }
    }
    // Interim answers.
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let interims = [
        early.to_owned(),
        early.repeat(3),
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
        "HTTP/1.1 102 Processing\r\n\r\n".to_owned(),
        "HTTP/1.0 103 Early\r\n\r\n".to_owned(),
        "HTTP/1.1 103 E\r\nContent-Length: 5\r\n\r\n".to_owned(),
        "HTTP/1.1 199 x\r\nX: a\r\n\r\n".to_owned(),
        "HTTP/1.1 103 E\r\nConnection: close\r\nDate: x\r\nX-Request-Id: a\r\nRoute-Stale: y\r\nWaypost-Reason: z\r\nVia: v\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 103\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "HTTP/1.1 103 E\r\nTrailer: X\r\n\r\n".to_owned(),
        "HTTP/1.1 103 E\r\nX: a\r\n b\r\n\r\n".to_owned(),
    ];
    for interim in interims {
        all.push(interim.clone() + &ok(five, "hello"));
        all.push(interim + "HTTP/1.1 204 No Content\r\n\r\n");
    }
    // Lines that end in LF.
    all.push("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello".to_owned());
    all.push("HTTP/1.1 200 OK\r\nX: a\nContent-Length: 5\r\n\r\nhello".to_owned());
    all.push("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello".to_owned());
    all.push("HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\nhello".to_owned());
    for field in [
        "X: a\0b",
        "X: a\rb",
        "X: a\x01b",
        "X: a\x7fb",
        "X",
        ": a",
        "X Y: a",
        " X: a",
        "X:: a",
        "\"X\": a",
        "X(a): b",
        "caf\u{e9}: a",
        "Content-Length : 5",
        "Transfer-Encoding : chunked",
    ] {
        all.push(ok(&format!("{field}\r\n{five}"), "hello"));
    }
    for count in [100, 200, 253, 254, 255, 256, 257, 300] {
        all.push(ok(&("X: y\r\n".repeat(count) + five), "hello"));
    }
    for size in [1000, 4096, 16_384, 65_536, 200_000, 1_100_000] {
        all.push(ok(&format!("X: {}\r\n{five}", "a".repeat(size)), "hello"));
    }
    for size in [4095, 4096, 4097, 16_384, 65_536, 131_072, 500_000] {
        let body = "0123456789abcdef".repeat(size / 16 + 1)[..size].to_owned();
        all.push(ok(&format!("Content-Length: {size}\r\n"), &body));
        all.push(ok("Transfer-Encoding: chunked\r\n", &format!("{size:x}\r\n{body}\r\n0\r\n\r\n")));
    }
    all.push(ok("Transfer-Encoding: chunked\r\n", &("1\r\nx\r\n".repeat(3000) + "0\r\n\r\n")));
    all
}

/// Answers whose connection ends behind them.
fn closed() -> Vec<String> {
    let hello = "5\r\nhello\r\n0\r\n\r\n";
    let mut all = vec![
        ok("", "hello"),
        ok("X: y\r\n", ""),
        "HTTP/1.0 200 OK\r\n\r\nhello".to_owned(),
        "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        ok("Connection: close\r\nContent-Length: 5\r\n", "hello"),
        ok("Content-Length: 5\r\n", "hello"),
        ok("Connection: close\r\nTransfer-Encoding: chunked\r\n", hello),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        ok("Transfer-Encoding: gzip\r\n", "hello"),
        ok("Transfer-Encoding: identity\r\n", "hello"),
        ok("Transfer-Encoding:\r\n", "hello"),
        "HTTP/1.1 404 Not Found\r\n\r\nhello".to_owned(),
        "HTTP/1.1 103 E\r\n\r\n".to_owned(),
        "HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello".to_owned(),
        "HTTP/1.1 204 N\r\n\r\n".to_owned(),
        "HTTP/1.1 304 N\r\n\r\n".to_owned(),
        String::new(),
        "H".to_owned(),
        "HTTP/1.1 200 OK\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 5".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r".to_owned(),
        ok("Content-Length: 5\r\n", ""),
        ok("Content-Length: 5\r\n", "hell"),
        ok("", &"x".repeat(200_000)),
        ok("Content-Length: 300000\r\n", &"x".repeat(200_000)),
    ];
    all.extend((0..hello.len()).map(|end| ok("Transfer-Encoding: chunked\r\n", &hello[..end])));
    all
}

fn named(answer: &str) -> String {
    answer.chars().take(100).collect()
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const HEAD: &str = "HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";

pub(super) fn all() -> Vec<Case> {
    let mut all = Vec::new();
    for answer in kept() {
        for request in [GET, HEAD, POST] {
            // What waits for more ends with the owner's end.
            let acts = vec![Act::Body, Act::Send(bytes(&answer)), Act::Finish, Act::Hang];
            all.push(Case::of(format!("{} of {}", named(&answer), &request[..4]), request).owner(acts));
        }
        // Alone: what comes behind an answer by itself may meet the next request.
        if answer.len() < 500 {
            let acts = vec![Act::Body, Act::SendBytewise(bytes(&answer)), Act::Finish, Act::Hang];
            all.push(Case::of(named(&answer), GET).alone().then(Then::Finishes).owner(acts));
        }
    }
    for answer in closed() {
        for request in [GET, HEAD, POST] {
            all.push(Case::of(named(&answer), request).owner(vec![Act::Body, Act::Send(bytes(&answer)), Act::Close]));
        }
        if answer.len() < 500 {
            let acts = vec![Act::Body, Act::SendBytewise(bytes(&answer)), Act::Close];
            all.push(Case::of(named(&answer), GET).alone().then(Then::Finishes).owner(acts));
        }
    }
    // Answers that leave their connection open, and requests over it in turn.
    for answer in [
        ok("Content-Length: 5\r\n", "hello"),
        ok("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        "HTTP/1.1 204 N\r\n\r\n".to_owned(),
        "HTTP/1.1 103 E\r\n\r\n".to_owned() + &ok("Content-Length: 0\r\n", ""),
    ] {
        let mut case = Case::of(named(&answer), GET).owner(answers(bytes(&answer))).way(Way::InTurn);
        case.requests = [GET, POST, HEAD, GET].iter().map(|request| request.as_bytes().to_vec()).chain([last()]).collect();
        all.push(case);
    }
    all
}

/// Those that have to do with when it comes.
pub(super) fn in_time() -> Vec<Case> {
    let mut all = Vec::new();
    let post = |path: &str, sent: usize| format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n{}", &"abcdef"[..sent]);
    let chunks = |path: &str, sent: &str| format!("POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{sent}");
    let early = [
        OK.to_vec(),
        b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec(),
    ];
    // Before the body has come, which then never comes: the time-outs are short.
    for answer in &early {
        for request in [post("/short", 0), post("/short", 3), chunks("/short", ""), chunks("/short", "3\r\nab")] {
            all.push(Case::of("an early answer", request.clone()).alone().owner(vec![Act::Send(answer.clone())]));
            all.push(Case::of("an early answer, and the end", request.clone()).alone().owner(vec![
                Act::Send(answer.clone()),
                Act::Finish,
                Act::Hang,
            ]));
            all.push(
                Case::of("an early answer to who has gone", request).alone().owner(vec![Act::Send(answer.clone())]).then(Then::Finishes),
            );
        }
    }
    // Silence at each stage.
    for (name, acts) in [
        ("silence", vec![Act::Hang]),
        ("silence behind the body", vec![Act::Body, Act::Hang]),
        ("half a head", vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\nX: ".to_vec()), Act::Hang]),
        ("an interim answer and silence", vec![Act::Body, Act::Send(b"HTTP/1.1 103 E\r\n\r\n".to_vec()), Act::Hang]),
        ("a head and silence", vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec()), Act::Hang]),
        ("a part and silence", vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel".to_vec()), Act::Hang]),
        (
            "a chunk and silence",
            vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n".to_vec()), Act::Hang],
        ),
        ("no end and silence", vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\n\r\nhel".to_vec()), Act::Hang]),
        ("a body behind a 204", vec![Act::Body, Act::Send(b"HTTP/1.1 204 N\r\n\r\nhel".to_vec()), Act::Hang]),
    ] {
        for request in [
            GET.replace("/a", "/short"),
            HEAD.replace("/a", "/short"),
            POST.replace("/a", "/short"),
            post("/short", 3),
            chunks("/short", "3\r\nabc\r\n"),
        ] {
            // Behind an answer that is whole with its head the next request would meet the silence.
            if !request.starts_with("HEAD") {
                all.push(Case::of(name, request.clone()).owner(acts.clone()));
            }
            all.push(Case::of(name, request).alone().owner(acts.clone()).then(Then::Finishes));
        }
    }
    // Heads that do not come whole.
    for sent in ["G", "GET /short HTTP/1.1\r\n", "GET /short HTTP/1.1\r\nHost: h\r\n\r\nGET"] {
        all.push(Case::of("half a head", sent).alone());
    }
    // Ends at each stage.
    for (name, end) in [("closes", Act::Close), ("resets", Act::Reset), ("finishes", Act::Finish)] {
        let is_reset = matches!(end, Act::Reset);
        for (stage, acts) in [
            ("at once", vec![]),
            ("behind the body", vec![Act::Body]),
            ("in its head", vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\n".to_vec())]),
            ("behind an interim answer", vec![Act::Body, Act::Send(b"HTTP/1.1 103 E\r\n\r\n".to_vec())]),
            ("behind its head", vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec())]),
            ("in its body", vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel".to_vec())]),
            ("in its chunks", vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel".to_vec())]),
        ] {
            for request in [GET, POST, HEAD] {
                let ended = acts.iter().cloned().chain([end.clone(), Act::Hang]).collect();
                let case = Case::of(format!("{name} {stage}"), request).owner(ended);
                // A reset may overtake what was sent before it.
                all.push(if is_reset { case.torn() } else { case });
            }
        }
    }
    // A large upload that is answered early, or whose owner goes.
    let large = format!("POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n{}", "x".repeat(3_000_000));
    for acts in [vec![Act::Send(OK.to_vec()), Act::Body], answers(OK)] {
        all.push(Case::of("a large upload", large.clone()).alone().owner(acts));
    }
    all
}

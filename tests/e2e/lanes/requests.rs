//! Requests that are valid, odd or hostile, for an owner that gives the plain answer.

use super::case::{Act, Case, OK, Then, Way, last};

fn get(fields: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

/// Whole requests, each as its text.
fn texts() -> Vec<String> {
    let many = |count: usize| get(&"X: y\r\n".repeat(count));
    let mut all: Vec<String> =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "m!", "get", "CONNECT", "A".repeat(40).as_str()]
            .iter()
            .map(|method| format!("{method} /a HTTP/1.1\r\nHost: h\r\n\r\n"))
            .collect();
    let targets = [
        "/",
        "/a?b",
        "/a?",
        "/?q=a%20b&c",
        "//a",
        "/a//b",
        "/a;b",
        "/a%2Fb",
        "/%00",
        "/caf\u{e9}",
        "/a#b",
        "/a|b",
        "/a\\b",
        "/a\"b",
        "/{a}",
        "/a^b`c",
        "/a/../b",
        "/a/%2e/b",
        "/a/.",
        "*",
        "http://h/a",
        "http://h",
        "https://h:443/a",
        "http://other/a",
        "HTTP://h/a",
        "a",
        "?a",
        "/a%",
        "/a%zz",
        "/~a!$&'()*+,;=:@",
    ];
    all.extend(targets.iter().map(|target| format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")));
    all.push("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n".to_owned());
    all.push(format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(8000)));
    for host in ["", "H", "h:80", "h:", "h.", "[::1]:80", "a b", "h\r\nHost: h", "h/", "u@h", "%41", "h\r\nX: caf\u{e9}"] {
        all.push(format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    for version in ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 "] {
        all.push(format!("GET /a {version}\r\nHost: h\r\n\r\n"));
        all.push(format!("GET /a {version}\r\nHost: h\r\nConnection: keep-alive\r\n\r\n"));
    }
    all.push("GET /a HTTP/1.0\r\n\r\n".to_owned());
    all.push("\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned());
    for connection in [
        "keep-alive",
        "close",
        "Keep-Alive",
        "CLOSE",
        "keep-alive, close",
        "close, x-a",
        "x-a",
        "X-A\r\nX-A: b",
        ", ,",
        "",
        "upgrade",
        "te",
        "keep-alive\r\nConnection: close",
        "keep-alive\r\nConnection: x-a\r\nX-A: 1",
        "\"close\"",
        "transfer-encoding",
        "host",
        "via",
        "x-request-id",
        "x-forwarded-for",
        "route-stamp",
        "cdn-loop",
        "close\r\nKeep-Alive: timeout=5",
    ] {
        all.push(get(&format!("Connection: {connection}\r\n")));
    }
    let fields = [
        "TE: trailers",
        "TE: gzip",
        "TE: trailers, deflate;q=0.5",
        "Trailer: X",
        "Keep-Alive: 5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: x",
        "Proxy-Authenticate: x",
        "Proxy-Authentication-Info: x",
        "Upgrade: websocket",
        "Upgrade: h2c",
        "HTTP2-Settings: AAAA",
        "Connection: upgrade\r\nUpgrade: x",
        "Via: 1.1 a",
        "Via: 1.1 a\r\nVia: 1.0 b (c)",
        "Via:",
        "CDN-Loop: a",
        "CDN-Loop: a\r\nCDN-Loop: b; c=d",
        "CDN-Loop: edge-1",
        "CDN-Loop: x, edge-1; a=b",
        "CDN-Loop: edge-10",
        "CDN-Loop:",
        "cdn_loop: edge-1",
        "CDN-Loop: EDGE-1",
        "Max-Forwards: 0",
        "Accept-Encoding: gzip",
        "Expect: x",
        "Expect: 100-continue",
        "Expect:",
        "X-Empty:",
        "X-Space:  a  b  ",
        "X-Tab:\ta\t",
        "X:a",
        "X-High: caf\u{e9}",
        "X-Twice: 1\r\nY: 2\r\nx-twice: 3",
        "X_Under: a",
        "x.dot: a",
        "X!#$%&'*+-.^_`|~: a",
        "Cookie: a=b\r\nCookie: c=d",
        "User-Agent: caf\u{e9} \"x\"",
        "User-Agent:",
        "User-Agent: a\r\nUser-Agent: b",
        "Content-Type: a",
        "Date: x",
        "Host2: h",
        "Accept:\r\nAccept: a",
        "X-Client-Cert-Subject: CN=a",
        "x_client_cert_subject: CN=a",
        "X-Client_Cert-Subject: b",
        "Waypost-Reason: a",
        "Server: a",
        "Age: 1",
        "Warning: a",
        "X: a, b\r\nX: c",
        "Route-Stamp: epoch=9",
        "route-stamp: x\r\nROUTE-STAMP: y",
        "Route-Stale: state=moved",
        "Route-Update: x",
        "Route-Anything: a",
        "route_stamp: epoch=9",
        "Route_Stale: x",
        "Router: a",
        "route-: a",
        "Route: a",
        "X-Bad\0: a",
        "X: a\0b",
        "X: a\nY: b",
        "X: a\rY: b",
        "X : a",
        " X: a",
        "X: a\r\n b",
        ": a",
        "X",
        "X: a\x7f",
        "X: \x01",
    ];
    all.extend(fields.iter().map(|field| get(&format!("{field}\r\n"))));
    for name in CLIENTS_WORDS {
        all.push(get(&format!("{name}\r\n")));
    }
    for count in [60, 61, 62, 63, 64, 65, 100, 196, 197, 198, 199, 200] {
        all.push(many(count));
    }
    let long = |bytes: usize| get(&format!("X: {}\r\n", "a".repeat(bytes)));
    all.extend([1000, 4000, 4096, 8192, 30_000, 65_400, 65_480, 65_490, 65_500, 65_536, 70_000].map(long));
    all.extend(bodies());
    all
}

/// What clients say of themselves and of those before them.
const CLIENTS_WORDS: [&str; 21] = [
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8, 9.9.9.9",
    "X-Forwarded-For:",
    "X-Forwarded-For: ,",
    "X-Forwarded-For: unknown\r\nX-Forwarded-For:\r\nX-Forwarded-For: \"[::1]:80\"",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Proto:",
    "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http",
    "X-Forwarded-Host: outside",
    "X-Forwarded-Host: a\r\nx-forwarded-host: b\r\nX-FORWARDED-HOST:",
    "X-Forwarded-Port: 443\r\nX-Forwarded-Server: s\r\nX-Forwarded-By: b\r\nX-Forwarded-Prefix: /p",
    "X_Forwarded_For: 1.2.3.4\r\nX-Forwarded_Host: a\r\nx_forwarded-proto: b",
    "Forwarded: for=1.2.3.4",
    "X-Real-IP: 1.2.3.4",
    "X-Request-Id: mine-1",
    "X-Request-Id: one\r\nX-Request-Id: two",
    "X-Request-Id: two words",
    "X-Request-Id:",
    "X_Request_Id: mine",
    "X-Request-Id: caf\u{e9}",
    "X-Forwarded-For: caf\u{e9}\r\nX-Forwarded-Host: caf\u{e9}\r\nVia: caf\u{e9}\r\nCDN-Loop: caf\u{e9}",
];

fn bodies() -> Vec<String> {
    let mut all = Vec::new();
    for length in [
        "3",
        "003",
        " 3 ",
        "\t3",
        "+3",
        "-3",
        "3, 3",
        "3,",
        "0x3",
        "3.0",
        "",
        "a",
        "99999999999999999999",
        "3\r\nContent-Length: 3",
        "3\r\nTransfer-Encoding: chunked",
        "3\r\nContent_Length: 4",
    ] {
        all.push(post(&format!("Content-Length: {length}\r\n"), "abc"));
    }
    all.push(post("Content-Length: 0\r\n", ""));
    all.push(post("content-length: 3\r\n", "abc"));
    all.push(get("Content-Length: 3\r\n") + "abc");
    all.push("HEAD /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".to_owned());
    all.push("POST /a HTTP/1.0\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".to_owned());
    all.push("POST /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned());
    all.push(post("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc"));
    all.push(post("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"));
    for coding in [
        "Chunked",
        "CHUNKED",
        " chunked ",
        "gzip, chunked",
        "chunked, gzip",
        "identity",
        "",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked;q=1",
        "x",
        "chunked\r\nContent-Length: 3",
    ] {
        all.push(post(&format!("Transfer-Encoding: {coding}\r\n"), "3\r\nabc\r\n0\r\n\r\n"));
    }
    for body in [
        "0\r\n\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        "1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n",
        "3;x=y\r\nabc\r\n0\r\n\r\n",
        "3;x=\"a;b\"\r\nabc\r\n0;last\r\n\r\n",
        "0003\r\nabc\r\n0000\r\n\r\n",
        "A\r\n0123456789\r\n0\r\n\r\n",
        "a\r\n0123456789\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\t;x\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabcX\r\n0\r\n\r\n",
        "zz\r\n",
        "\r\n",
        "-1\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "3\r\nabc\r\n0\r\n\n",
        "3\r\nabc\r\n0\r\n\rX",
        "ffffffffffffffff\r\nabc",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "000000000000000000003\r\nabc\r\n0\r\n\r\n",
        "3;\0\r\nabc\r\n0\r\n\r\n",
        "3;caf\u{e9}\r\nabc\r\n0\r\n\r\n",
    ] {
        all.push(chunked(body));
    }
    all.push(chunked(&format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(200))));
    all.push(chunked(&format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(5000))));
    for size in [100, 4096, 20_000, 65_535, 65_536, 65_537, 200_000] {
        let body = "0123456789abcdef".repeat(size / 16 + 1)[..size].to_owned();
        all.push(post(&format!("Content-Length: {size}\r\n"), &body));
        all.push(chunked(&format!("{size:x}\r\n{body}\r\n0\r\n\r\n")));
    }
    all.push(chunked(&("1\r\nx\r\n".repeat(3000) + "0\r\n\r\n")));
    // Of the service whose bodies have ten bytes at most.
    for size in [9, 10, 11, 1000] {
        let body = "x".repeat(size);
        all.push(format!("POST /limit HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n{body}"));
        all.push(format!("POST /limit HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"));
        all.push(format!("POST /limit HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", "1\r\nx\r\n".repeat(size)));
    }
    all
}

fn name(request: &str) -> String {
    request.chars().take(80).collect()
}

/// Latin-1, so that a letter is a byte.
fn bytes(request: &str) -> Vec<u8> {
    request.chars().map(|letter| letter as u8).collect()
}

pub(super) fn all() -> Vec<Case> {
    let mut all = Vec::new();
    for (number, request) in texts().iter().enumerate() {
        let case = Case::of(name(request), bytes(request));
        all.push(case.clone());
        all.push(case.clone().way(Way::Parts(number as u64)).then(Then::Finishes));
        if request.len() < 500 {
            all.push(case.clone().way(Way::Bytewise));
        }
    }
    let simple = get("");
    let post = post("Content-Length: 3\r\n", "abc");
    let chunks = chunked("3\r\nabc\r\n0\r\n\r\n");
    // Many over one connection, pipelined and in turn.
    for way in [Way::AtOnce, Way::InTurn, Way::Parts(1), Way::Bytewise] {
        let mut many = Case::of("many", bytes(&simple)).way(way);
        many.requests =
            [&simple, &post, &chunks, &simple.replace("GET", "HEAD"), &get("Expect: x\r\n"), &get("Connection: x-a\r\n"), &simple]
                .iter()
                .map(|text| bytes(text))
                .collect();
        many.requests.push(last());
        all.push(many);
    }
    // Cut off at each byte by a client that has closed its half.
    for request in [&simple, &post, &chunks] {
        for end in 0..request.len() {
            all.push(Case::of(format!("{end} bytes of {}", name(request)), bytes(&request[..end])).alone().then(Then::Finishes));
        }
    }
    for request in [&simple, &post, &chunks] {
        for (end, acts) in [
            (request.len(), vec![Act::Body, Act::Hang]),
            (request.len(), vec![Act::Body, Act::Send(OK.into())]),
            (request.len() - 2, vec![Act::Hang]),
        ] {
            for then in [Then::Leaves, Then::Resets] {
                // Of the service whose time-outs are short: who has gone in silence is noticed by them.
                let sent = bytes(&request[..end].replacen("/a", "/short", 1));
                all.push(Case::of(name(request), sent).alone().owner(acts.clone()).then(then));
            }
        }
    }
    all
}

/// Those that concern what clients say of themselves.
pub(super) fn of_clients() -> Vec<Case> {
    let all = CLIENTS_WORDS.iter().map(|field| get(&format!("{field}\r\n"))).chain([
        get(""),
        get("Via: a\r\n"),
        get("CDN-Loop: a\r\n"),
        get("X_Under: b\r\n"),
    ]);
    all.map(|request| Case::of(name(&request), bytes(&request))).collect()
}

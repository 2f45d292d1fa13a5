//! From HTTP/2 down to HTTP/1.1: fields and bodies that would be something else once they are written as lines. Frames are written byte by
//! byte, since no client would send them.
//!
//! What holds for each: the backend sees one request with the target and the body that were sent, or none; all readings of what it got agree; the next
//! request of the connection, unless that is closed, and that of another one are answered by their own answers.

use std::collections::BTreeMap;

use waypost_tests::Peer;

use super::{
    Backend,
    cases::{CODINGS, COLONS, LENGTHS, LINES, NAMES, put, smuggled},
    echoing, number,
    readings::{Fields, READINGS, strictly},
};
use crate::stage::{Stage, body, short_timeouts};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One request of HTTP/2.
#[derive(Clone, Debug, Default)]
struct Case {
    fields: Fields,
    /// Frames of the body; none: the head ends the request.
    body: Vec<Vec<u8>>,
    trailers: Fields,
    /// It may be served.
    is_sound: bool,
}

fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> (Vec<u8>, Vec<u8>) {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

fn plain(number: usize) -> Fields {
    vec![field(":method", "POST"), field(":scheme", "http"), field(":authority", "h"), field(":path", format!("/case-{number}"))]
}

impl Case {
    fn new(number: usize) -> Self {
        Self { fields: plain(number), body: vec![smuggled(number).into_bytes()], ..Self::default() }
    }

    fn with(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.fields.push(field(name, value));
        self
    }

    /// Another value of a pseudo-header.
    fn saying(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for (given, old) in &mut self.fields {
            if given == name.as_bytes() {
                *old = value.as_ref().to_vec();
            }
        }
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(given, _)| given != name.as_bytes());
        self
    }

    fn of_body(mut self, frames: &[&[u8]]) -> Self {
        self.body = frames.iter().map(|frame| frame.to_vec()).collect();
        self
    }

    fn trailed_by(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.trailers.push(field(name, value));
        self
    }

    fn sound(mut self) -> Self {
        self.is_sound = true;
        self
    }

    /// The frames of stream 1.
    fn frames(&self) -> Vec<u8> {
        let ends = if self.body.is_empty() && self.trailers.is_empty() { END_STREAM } else { 0 };
        let block = block(&self.fields);
        let (first, rest) = block.split_at(block.len() / 2);
        let mut bytes = [frame(HEADERS, ends, 1, first), frame(CONTINUATION, END_HEADERS, 1, rest)].concat();
        for (at, part) in self.body.iter().enumerate() {
            let is_last = at + 1 == self.body.len() && self.trailers.is_empty();
            bytes.extend(frame(DATA, if is_last { END_STREAM } else { 0 }, 1, part));
        }
        if !self.trailers.is_empty() {
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &self::block(&self.trailers)));
        }
        bytes
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Literal fields without indexing (RFC 7541, section 6.2.2), their texts as they are.
fn block(fields: &Fields) -> Vec<u8> {
    fn text(into: &mut Vec<u8>, text: &[u8]) {
        if text.len() < 127 {
            into.push(u8::try_from(text.len()).unwrap());
        } else {
            into.push(127);
            let mut left = text.len() - 127;
            while left >= 128 {
                into.push(u8::try_from(left % 128).unwrap() | 128);
                left /= 128;
            }
            into.push(u8::try_from(left).unwrap());
        }
        into.extend_from_slice(text);
    }
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// What a connection answered.
#[derive(Debug, Default)]
struct Answered {
    /// The data of each stream.
    data: BTreeMap<u32, Vec<u8>>,
    reset: Vec<u32>,
    is_closed: bool,
}

async fn ask(stage: &Stage, number: usize, case: &Case) -> Answered {
    let mut client = Peer::connect(stage.waypost.listen).await;
    let next = vec![field(":method", "GET"), field(":scheme", "http"), field(":authority", "h"), field(":path", format!("/next-{number}"))];
    client
        .send(
            [
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                frame(SETTINGS, 0, 0, b""),
                case.frames(),
                frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(&next)),
            ]
            .concat(),
        )
        .await;
    let mut answered = Answered::default();
    let mut ended = Vec::new();
    while ended.len() < 2 {
        let Some(head) = client.exactly(9).await else {
            answered.is_closed = true;
            return answered;
        };
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let Some(payload) = client.exactly(length).await else { continue };
        match head[3] {
            DATA => answered.data.entry(stream).or_default().extend(payload),
            RST_STREAM => answered.reset.push(stream),
            GOAWAY => answered.is_closed = true,
            _ => {}
        }
        let ends = head[3] == RST_STREAM || (matches!(head[3], DATA | HEADERS) && head[4] & END_STREAM != 0);
        if ends && !ended.contains(&stream) {
            ended.push(stream);
        }
    }
    answered
}

fn cases() -> Vec<Case> {
    let mut made: Vec<Case> = Vec::new();
    let mut add = |case: &dyn Fn(Case, &str) -> Case| made.push(case(Case::new(made.len()), &smuggled(made.len())));

    add(&|case, _| case.sound());
    add(&|case, hidden| case.with("content-length", hidden.len().to_string()).sound());
    add(&|case, hidden| case.of_body(&[&hidden.as_bytes()[..5], &hidden.as_bytes()[5..]]).sound());
    add(&|case, _| case.of_body(&[]).sound());
    add(&|case, _| case.with("te", "trailers").sound());
    // A length that is not the body's.
    for length in ["0", "5", "38", "40", "4294967296", "18446744073709551616"] {
        add(&|case, _| case.with("content-length", length));
        add(&|case, hidden| case.with("content-length", length).of_body(&[&hidden.as_bytes()[..5], &hidden.as_bytes()[5..]]));
        add(&|case, hidden| case.with("content-length", length).of_body(&[hidden.as_bytes(), b""]));
    }
    add(&|case, _| case.with("content-length", "5").of_body(&[]));
    add(&|case, hidden| case.with("content-length", "0").with("content-length", hidden.len().to_string()));
    add(&|case, hidden| case.with("content-length", hidden.len().to_string()).with("content-length", hidden.len().to_string()));
    for length in LENGTHS.iter().skip(3) {
        add(&|case, hidden| case.with("content-length", put(length, hidden.len().to_string().as_bytes())));
    }
    // A coding, in every spelling of HTTP/1.1.
    for coding in CODINGS {
        add(&|case, hidden| case.with("transfer-encoding", coding).of_body(&[format!("0\r\n\r\n{hidden}").as_bytes()]));
    }
    for name in NAMES {
        add(&|case, hidden| case.with(put(name, b"transfer-encoding"), "chunked").of_body(&[format!("0\r\n\r\n{hidden}").as_bytes()]));
        add(&|case, _| case.with(put(name, b"content-length"), "0"));
        add(&|case, _| case.with(put(name, b"host"), "other"));
    }
    for colon in COLONS {
        add(&|case, hidden| {
            case.with([&b"transfer-encoding"[..], colon, b"chunked\r\nx"].concat(), "y").of_body(&[format!("0\r\n\r\n{hidden}").as_bytes()])
        });
    }
    for name in
        ["Transfer-Encoding", "Content-Length", "Host", "X-Upper", "transfer_encoding", "content_length", "", ":", ":other", "x:y", "x y"]
    {
        add(&|case, _| case.with(name, "1"));
    }
    // What is of a connection alone.
    for (name, value) in [
        ("connection", "close"),
        ("connection", "content-length"),
        ("connection", "transfer-encoding"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("upgrade", "websocket"),
        ("te", "chunked"),
        ("te", "trailers, chunked"),
        ("host", "other"),
        ("host", "h, other"),
        ("host", ""),
    ] {
        add(&|case, _| case.with(name, value));
    }
    // A line's end in what becomes a part of a line.
    for end in ["\r\n", "\n", "\r", "\0", "\r\n ", "\n ", "\u{b}", "\u{7f}"] {
        let lines = format!("{end}Transfer-Encoding: chunked{end}X: y");
        add(&|case, _| case.with("x-own", format!("y{lines}")));
        add(&|case, _| case.with(format!("x-own: y{lines}"), "y"));
        add(&|case, _| case.saying(":authority", format!("h{lines}")));
        add(&|case, _| case.saying(":method", format!("POST / HTTP/1.1{end}Host: h{lines}{end}{end}POST")));
        add(&|case, hidden| case.saying(":path", format!("/x HTTP/1.1{end}Host: h{end}{end}{hidden}")));
        add(&|case, _| case.saying(":scheme", format!("http{lines}")));
        add(&|case, hidden| case.with("x-own", format!("y{end}{end}{hidden}")));
        add(&|case, hidden| case.with("cookie", format!("a=b{end}{end}{hidden}")));
        add(&|case, hidden| case.with("expect", format!("100-continue{end}{end}{hidden}")));
    }
    for line in LINES {
        add(&|case, hidden| case.with("x-own", line.replace("{}", hidden).replace("{len}", "39") + "\n"));
    }
    for path in ["", "*", "x", "/ x", "/x HTTP/1.1", "/\tx", "/x#y", "http://other/x", "//other/x", "/\u{e9}", " /x", "/x ", "?x", "h:80"] {
        add(&|case, _| case.saying(":path", path));
    }
    for method in ["", "CONNECT", "PO ST", "POST ", " POST", "POST /x", "PO\tST", "P(ST", "P\u{e9}ST"] {
        add(&|case, _| case.saying(":method", method));
    }
    for authority in ["h, other", "u@h", "h/x", "h x", "", " h", "h:x", "h\\x", "http://h", "[::1", "h#x", "h?x"] {
        add(&|case, _| case.saying(":authority", authority));
    }
    for scheme in ["", "ftp", "http://other/?", "http ", "ht tp"] {
        add(&|case, _| case.saying(":scheme", scheme));
    }
    for name in [":method", ":path", ":authority", ":scheme"] {
        add(&|case, _| case.without(name));
        add(&|case, _| {
            let value = case.fields.iter().find(|(given, _)| given == name.as_bytes()).unwrap().1.clone();
            case.with(name, value)
        });
        add(&|case, _| {
            let value = case.fields.iter().find(|(given, _)| given == name.as_bytes()).unwrap().1.clone();
            case.without(name).with("x-own", "y").with(name, value)
        });
    }
    add(&|case, _| case.with(":status", "200"));
    add(&|case, _| case.with(":protocol", "websocket").saying(":method", "CONNECT"));
    // Behind the body.
    for (name, value) in [
        ("content-length", "0"),
        ("transfer-encoding", "chunked"),
        ("host", "other"),
        (":path", "/other"),
        ("connection", "close"),
        ("x-own", "y\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("x-own\r\n", "y"),
        ("X-Own", "y"),
        ("route-stamp", "epoch=9"),
        ("x-own", "y"),
    ] {
        add(&|case, _| case.trailed_by(name, value));
        add(&|case, _| case.of_body(&[]).trailed_by(name, value));
    }
    made
}

async fn hold(backend: Backend) {
    let stage = Stage::with(short_timeouts(), echoing(backend)).await;
    let cases = cases();
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let answered = ask(&stage, number, case).await;
        let own = String::from_utf8_lossy(answered.data.get(&1).map_or(&[][..], |data| data)).into_owned();
        let next = String::from_utf8_lossy(answered.data.get(&3).map_or(&[][..], |data| data)).into_owned();
        let is_served = own == format!("/case-{number}");
        let other = stage.get(&format!("/other-{number}")).await;
        if (case.is_sound && !is_served)
            || !(next == format!("/next-{number}") || answered.is_closed)
            || body(&other) != format!("/other-{number}")
        {
            wrong.push(format!("{case:?}\n  {answered:?}\n  was answered {own:?}, {next:?}, {other:?}"));
        }
    }
    let mut seen = vec![0; cases.len()];
    for received in stage.backend.received() {
        let found = strictly(&received.bytes);
        wrong.extend(
            READINGS
                .iter()
                .filter(|reading| reading.all(&received.bytes) != found)
                .map(|reading| format!("{reading:?} reads {:?} otherwise", received.text())),
        );
        for request in found {
            let Some(number) = number(&request.target).filter(|number| *number < cases.len()) else {
                // Targets of the cases' own.
                if request.target.contains("smuggled") {
                    wrong.push(format!("{request:?} is nobody's"));
                }
                continue;
            };
            let sent = cases[number].body.concat();
            let is_case = request.target == format!("/case-{number}");
            seen[number] += usize::from(is_case);
            let is_other = [format!("/next-{number}"), format!("/other-{number}")].contains(&request.target);
            // More than a length says is never sent on.
            let is_body = sent.starts_with(&request.body) && (request.body.len() == sent.len() || !cases[number].is_sound);
            if !(is_other && request.body.is_empty() || is_case && is_body) {
                wrong.push(format!("{:?} reached the backend as {request:?}", cases[number]));
            }
        }
    }
    wrong.extend(seen.iter().enumerate().filter(|(_, seen)| **seen > 1).map(|(number, _)| format!("case {number} was seen twice")));
    assert!(wrong.is_empty(), "{} of {} cases do not hold:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let served = seen.iter().filter(|seen| **seen == 1).count();
    assert!(served * 5 < cases.len(), "{served} of {} were served", cases.len());
}

#[tokio::test]
async fn nothing_of_http2_becomes_two_requests_for_a_strict_backend() {
    hold(Backend::Strict).await;
}

#[tokio::test]
async fn nothing_of_http2_becomes_two_requests_for_a_loose_backend() {
    hold(Backend::Loose(READINGS[0])).await;
}

//! Cases that a seed draws: valid requests and answers with bytes changed, cut out, doubled or put in, over connections cut at random; and what fuzzing has kept.
//!
//! One course is played each time, so that a change is judged by what it changes; `WAYPOST_SEED=n … --test e2e what_a_seed_draws` plays another one, and
//! `WAYPOST_LANES=n` draws so many cases from a new seed.

use super::{
    case::{Act, Case, OK, Then, Way, last},
    hold,
    lane::Setting,
};

/// The seed of the course that is played each time.
const SEED: u64 = 6_043_396_007_445_196_717;
/// How many cases a course has.
const CASES: usize = 400;

pub(super) async fn course() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let count = number("WAYPOST_LANES");
    let seed = number("WAYPOST_SEED").unwrap_or_else(|| count.map_or(SEED, |_| fastrand::u64(..)));
    eprintln!("WAYPOST_SEED={seed}");
    let rng = &mut fastrand::Rng::with_seed(seed);
    let count = count.map_or(CASES, |count| count as usize);
    let mut left = count;
    while left > 0 {
        let some = left.min(1000);
        left -= some;
        hold(Setting::default(), (0..some).map(|_| draw(rng)).collect()).await;
    }
}

/// What fuzzing has kept: heads, and chunked bodies, each as a request's and as an answer's.
pub(super) fn kept() -> Vec<Case> {
    let corpus = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|file| std::fs::read(file).unwrap()).collect::<Vec<_>>()
    };
    let case = |request: Vec<u8>, answer: Vec<u8>| {
        let acts = vec![Act::Body, Act::Send(answer), Act::Finish, Act::Hang];
        Case::of("kept", request).alone().owner(acts).then(Then::Finishes)
    };
    let heads = corpus("head").into_iter().map(|head| case([&head[..], b"\r\n\r\n"].concat(), OK.to_vec()));
    let bodies = corpus("chunks").into_iter().chain(corpus("parts")).flat_map(|body| {
        let body = body.get(1..).unwrap_or_default();
        let post = [b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", body].concat();
        let said = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", body].concat();
        [case(post, OK.to_vec()), case(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), said)]
    });
    heads.chain(bodies).collect()
}

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS"];
const TARGETS: [&str; 6] = ["/a", "/a?b=c", "/limit", "/%41/b", "/", "*"];
const FIELDS: [&str; 16] = [
    "X: y",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: x-a",
    "X-A: b",
    "Expect: x",
    "TE: trailers",
    "Via: 1.1 a",
    "Cookie: a=b",
    "X-Forwarded-For: 1.2.3.4",
    "Route-Stamp: x",
    "User-Agent: u",
    "Accept:",
    "CDN-Loop: b",
    "X-Request-Id: q",
    "Upgrade: x",
];
const SAID: [&str; 12] = [
    "X: y",
    "Connection: close",
    "Connection: x-a",
    "X-A: b",
    "Set-Cookie: a",
    "Date: x",
    "Trailer: X",
    "Route-Stale: x",
    "Keep-Alive: 1",
    "X : y",
    "X: a\r\n b",
    "Server: s",
];
/// What is put in.
const TOKENS: [&[u8]; 18] = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"\0",
    b"0",
    b"1",
    b"5",
    b"f",
    b";",
    b",",
    b"\r\n\r\n",
    b"chunked",
    b"close",
    b"\xe9",
    b"HTTP/1.1",
];

fn chunks(rng: &mut fastrand::Rng, body: &str) -> String {
    let mut left = body;
    let mut chunked = String::new();
    while !left.is_empty() {
        let (part, rest) = left.split_at(rng.usize(1..=left.len()));
        left = rest;
        let extension = if rng.u8(..4) == 0 { ";x=y" } else { "" };
        chunked += &format!("{:x}{extension}\r\n{part}\r\n", part.len());
    }
    chunked + "0\r\n\r\n"
}

fn fields(rng: &mut fastrand::Rng, of: &[&str]) -> String {
    (0..rng.usize(..4)).map(|_| format!("{}\r\n", of[rng.usize(..of.len())])).collect()
}

fn message(rng: &mut fastrand::Rng, first: &str, fields: &str, may_be_none: bool) -> String {
    let size = if rng.u8(..8) == 0 { rng.usize(..3000) } else { rng.usize(..20) };
    let body = &"hello, world and all that is in it ".repeat(100)[..size];
    match rng.u8(..3) {
        0 if may_be_none => format!("{first}\r\n{fields}\r\n"),
        0 | 1 => format!("{first}\r\n{fields}Content-Length: {size}\r\n\r\n{body}"),
        _ => format!("{first}\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{}", chunks(rng, body)),
    }
}

fn request(rng: &mut fastrand::Rng) -> Vec<u8> {
    let first = format!("{} {} HTTP/1.1", METHODS[rng.usize(..METHODS.len())], TARGETS[rng.usize(..TARGETS.len())]);
    let fields = format!("Host: h\r\n{}", fields(rng, &FIELDS));
    message(rng, &first, &fields, true).into_bytes()
}

fn answer(rng: &mut fastrand::Rng) -> Vec<u8> {
    let first = ["HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found", "HTTP/1.0 200 OK", "HTTP/1.1 204 N", "HTTP/1.1 304 N", "HTTP/1.1 500 E"]
        [rng.usize(..6)];
    let interim = if rng.u8(..8) == 0 { "HTTP/1.1 103 E\r\nX: y\r\n\r\n" } else { "" };
    let fields = fields(rng, &SAID);
    (interim.to_owned() + &message(rng, first, &fields, false)).into_bytes()
}

/// Changes some bytes, in most cases of the framing.
fn mutate(rng: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.usize(..bytes.len());
        let to = (at + rng.usize(1..8)).min(bytes.len());
        match rng.u8(..5) {
            0 => bytes[at] = rng.u8(..),
            1 => _ = bytes.drain(at..to),
            2 => {
                let part = bytes[at..to].to_vec();
                bytes.splice(at..at, part);
            }
            _ => _ = bytes.splice(at..at, TOKENS[rng.usize(..TOKENS.len())].iter().copied()),
        }
    }
}

fn draw(rng: &mut fastrand::Rng) -> Case {
    let mut requests: Vec<Vec<u8>> = (0..rng.usize(1..4)).map(|_| request(rng)).collect();
    let mut said = answer(rng);
    let acts = match rng.u8(..4) {
        0 | 1 => {
            let at = rng.usize(..requests.len());
            mutate(rng, &mut requests[at]);
            vec![Act::Body, Act::Send(said)]
        }
        2 => {
            mutate(rng, &mut said);
            // Whether a connection that ends meets the next request is chance, and matters to what is not sent twice.
            requests.truncate(1);
            // What waits for the rest of an answer that has lost its framing ends with the connection.
            let end = if rng.bool() { vec![Act::Finish, Act::Hang] } else { vec![Act::Close] };
            [vec![Act::Body, Act::Send(said)], end].concat()
        }
        _ => {
            requests.truncate(1);
            vec![Act::Body, Act::SendBytewise(said), Act::Close]
        }
    };
    // What comes behind an answer by itself, as a body where there can be none, may meet the next request.
    if !acts.iter().any(|act| matches!(act, Act::SendBytewise(_))) {
        requests.push(last());
    }
    let mut case = Case::of("drawn", Vec::new()).owner(acts);
    case.requests = requests;
    let way = [Way::AtOnce, Way::Bytewise, Way::Parts(rng.u64(..))][rng.usize(..3)];
    // Who has lost his framing waits for nothing.
    case.way(way).then(Then::Finishes)
}

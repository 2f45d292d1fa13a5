//! What a hostile client of HTTP/2 can send without end: it costs its own connection, and no other client anything.

use std::time::Duration;

use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use waypost_tests::{Backend, Http2Backend, Http2Client, Http2Request, RecordFile, Waypost, resident_bytes, until};

use super::{echo, over};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a flood may go on. Generous: it is only used up by a failure.
const LIMIT: Duration = Duration::from_secs(60);
/// What a flood may cost in memory.
const MEMORY: u64 = 64 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of `GET /` in HPACK's static table, with an authority.
fn head() -> Vec<u8> {
    [&[0x82, 0x86, 0x84, 0x41, 1][..], b"h"].concat()
}

/// Sends what `next` makes, again and again, until the proxy has had enough; others are served meanwhile, and memory stays bounded.
async fn flood(mut next: impl FnMut(u32) -> Vec<u8>) {
    let backend = Backend::start(echo).await;
    let (waypost, _records) = over(backend.upstream()).await;
    let other = Http2Client::connect(waypost.listen).await;
    assert_eq!(other.get("/", &[]).await.status, 200);
    let before = resident_bytes(waypost.pid());
    let (mut answers, mut attacker) = TcpStream::connect(waypost.listen).await.unwrap().into_split();
    attacker.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
    // The proxy's answers are read, or it would wait for that.
    let read = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut tokio::io::sink()).await });
    let flooding = async {
        let mut turn = 0;
        while !read.is_finished() && attacker.write_all(&next(turn)).await.is_ok() {
            turn += 1;
        }
        turn
    };
    let served = async {
        loop {
            assert_eq!(other.get("/", &[]).await.status, 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        turns = flooding => assert!(turns > 0, "the connection was closed at once"),
        () = served => {}
        () = tokio::time::sleep(LIMIT) => panic!("the flood goes on"),
    }
    assert_eq!(other.get("/", &[]).await.status, 200);
    let grown = resident_bytes(waypost.pid()).saturating_sub(before);
    assert!(grown < MEMORY, "it has grown by {grown} bytes");
}

#[tokio::test]
async fn requests_that_are_cancelled_at_once() {
    let mut stream = 1;
    flood(move |_| {
        let mut burst = Vec::new();
        for _ in 0..20 {
            burst.extend([frame(1, 5, stream, &head()), frame(3, 0, stream, &8_u32.to_be_bytes())].concat());
            stream += 2;
        }
        burst
    })
    .await;
}

#[tokio::test]
async fn pings() {
    flood(|_| frame(6, 0, 0, &[7; 8]).repeat(500)).await;
}

#[tokio::test]
async fn settings() {
    flood(|_| frame(4, 0, 0, &[]).repeat(500)).await;
}

#[tokio::test]
async fn heads_without_end() {
    flood(|turn| {
        // A field that is not indexed: its name and value.
        let field = [&[0, 1, b'x', 0x7f, 0x81, 0x7f][..], &vec![b'v'; 16_256]].concat();
        let first = if turn == 0 { frame(1, 1, 1, &head()) } else { Vec::new() };
        [first, frame(9, 0, 1, &field[..16_000])].concat()
    })
    .await;
}

#[tokio::test]
async fn empty_data() {
    flood(|turn| {
        let post = [&[0x83, 0x86, 0x84, 0x41, 1][..], b"h"].concat();
        let first = if turn == 0 { frame(1, 4, 1, &post) } else { Vec::new() };
        [first, frame(0, 0, 1, &[]).repeat(500)].concat()
    })
    .await;
}

#[tokio::test]
async fn window_updates_and_priorities() {
    flood(|_| [frame(2, 0, 3, &[0, 0, 0, 0, 16]), frame(8, 0, 0, &[0, 0, 0, 1])].concat().repeat(500)).await;
}

#[tokio::test]
async fn uploads_that_nobody_reads_are_none() {
    let records = RecordFile::of(&json!({
        "services/web": { "match": [{ "path_prefix": "/frozen" }], "key": { "header": "x" } },
        "routes/web/k": { "owner": "a", "epoch": 1, "state": "frozen" },
        "upstreams/a": {},
        "policies/default": { "park_ms": 1500 },
    }));
    let waypost = Waypost::start(&records.gold(), &[]).await;
    let client = Http2Client::connect(waypost.listen).await;
    let body = vec![b'x'; 2_000_000];
    let uploads = (0..16).map(|_| client.request("POST", "/frozen", &[("x", "k")], &body));
    for answer in futures_util::future::join_all(uploads).await {
        assert_eq!(answer.unwrap().header("waypost-reason"), "park_timeout");
    }
    for turn in 0..64 {
        let answer = client.request("POST", "/nobody", &[], &body).await;
        assert_eq!(answer.unwrap_or_else(|why| panic!("upload {turn}: {why}")).header("waypost-reason"), "no_service");
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_passes_on_costs_its_other_clients_nothing() {
    let backend = Http2Backend::scripted(|mut request: Http2Request| async move {
        if request.head.uri.path() == "/held" {
            let _ = std::future::poll_fn(|context| request.respond.poll_reset(context)).await;
        } else {
            let _ = request.answer(200, &[], true);
        }
    })
    .await;
    let records = RecordFile::of(&json!({ "services/web": { "match": [{}], "default_owner": "a" }, "upstreams/a": backend.upstream() }));
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = folder.path().join("waypost.toml");
    std::fs::write(&bootstrap, "[[listener]]\naddress = \"127.0.0.1:1\"\ntrusted = [\"127.0.0.0/8\"]\n").unwrap();
    let waypost = Waypost::start(&records.gold(), &["--config", bootstrap.to_str().unwrap()]).await;
    let client = Http2Client::connect(waypost.listen).await;
    for turn in 0..400 {
        let mut call = client.open("POST", "/held", &[], false).await.unwrap_or_else(|why| panic!("after {turn}: {why}"));
        call.body.send_reset(h2::Reason::CANCEL);
    }
    // While too many are under way one more is refused, unprocessed; the connection goes on.
    until("it is served", async || match client.request("GET", "/", &[], b"").await {
        Ok(answer) => {
            if answer.status == 200 {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        }
        Err(why) => {
            assert!(why.contains("refused stream"), "{why}");
            Err(why)
        }
    })
    .await;
}

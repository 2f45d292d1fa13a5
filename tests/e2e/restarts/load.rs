//! Ten upgrades in a row under load: not one request fails.
//!
//! The rule. A request has failed if it was not answered whole, with 200 and the right body; whoever sends may not send again. So a kept
//! connection that is closed while a request is on its way is a failure too, with one exception, which is the protocol's own: a client that has said
//! nothing for as long as an idle connection is kept while the process drains (`[drain] idle_ms`) may find it closed, without a byte of an answer, and
//! sends its request once more over another (RFC 9112, section 9.3.1). Connections that are refused or reset, answers that break off, and
//! websockets that lose a word are failures without exception. A write is executed exactly once.
//!
//! Over HTTP/2 a request that can't be begun any more, or whose number is above the last one that the GOAWAY names, was not taken by the protocol's own
//! word (RFC 9113, section 6.8) and is sent over another connection; that it was executed once is checked as for any other write.
//!
//! A client of another protocol is one more function beside [`kept`], started in [`Load::start`].

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{net::TcpStream, task::JoinSet};
use waypost_tests::{Client, Http2Client, Peer, RawBackend, until_true};

use crate::stage::Stage;

const UPGRADES: usize = 10;
/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(3);
/// How long an idle connection is kept while the process drains; clients that are to find theirs closed are silent for longer now and then.
const IDLE: Duration = Duration::from_millis(400);
/// A download is so many parts, one now and then: it outlasts an upgrade.
const PARTS: usize = 40;
const PART_BYTES: usize = 8 * 1024;
const BETWEEN_PARTS: Duration = Duration::from_millis(30);
/// What the client of HTTP/2 says of a request that the other end's GOAWAY leaves out.
const UNTAKEN: &str = "connection error received: not a result of an error";
/// How long old processes may keep their websockets.
const STREAMS: Duration = Duration::from_secs(120);

/// What went wrong, and how much went well, by kind.
#[derive(Default)]
struct Judge {
    failures: Mutex<Vec<String>>,
    kept: AtomicUsize,
    fresh: AtomicUsize,
    rare: AtomicUsize,
    found_closed: AtomicUsize,
    downloads: AtomicUsize,
    words: AtomicUsize,
    streams: AtomicUsize,
    untaken: AtomicUsize,
}

impl Judge {
    fn failed(&self, what: impl Into<String>) {
        self.failures.lock().unwrap().push(what.into());
    }
}

/// Everything that runs against the proxy.
struct Load {
    stop: Arc<AtomicBool>,
    judge: Arc<Judge>,
    clients: JoinSet<()>,
}

#[derive(Clone)]
struct Context {
    to: SocketAddr,
    stop: Arc<AtomicBool>,
    judge: Arc<Judge>,
}

impl Context {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

impl Load {
    fn start(to: SocketAddr) -> Self {
        let (stop, judge) = (Arc::<AtomicBool>::default(), Arc::<Judge>::default());
        let mut clients = JoinSet::new();
        let context = Context { to, stop: Arc::clone(&stop), judge: Arc::clone(&judge) };
        for number in 0..8 {
            clients.spawn(kept(context.clone(), number));
        }
        for number in 0..4 {
            clients.spawn(fresh(context.clone()));
            clients.spawn(rare(context.clone()));
            clients.spawn(downloads(context.clone()));
            clients.spawn(http2(context.clone(), number));
        }
        Self { stop, judge, clients }
    }

    async fn stop(mut self) -> Arc<Judge> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.judge
    }
}

/// Writes over one connection, for as long as it is kept, each with its number.
async fn kept(context: Context, client: usize) {
    let mut connection = None;
    let mut number = 0;
    while context.goes_on() {
        let mut kept = match connection.take() {
            Some(kept) => kept,
            None => match Client::try_connect(context.to).await {
                Ok(fresh) => fresh,
                Err(why) => return context.judge.failed(format!("writer {client} can't connect: {why}")),
            },
        };
        number += 1;
        match kept.try_request("POST", "/write", &[], format!("{client}-{number}").as_bytes()).await {
            Ok(answer) if answer.status == 200 && answer.text() == "written" => {
                context.judge.kept.fetch_add(1, Ordering::Relaxed);
                if answer.header("connection") != "close" {
                    connection = Some(kept);
                }
            }
            Ok(answer) => context.judge.failed(format!("write {client}-{number}: {} {}", answer.status, answer.reason())),
            Err(why) => context.judge.failed(format!("write {client}-{number}: {why}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A connection for each request.
async fn fresh(context: Context) {
    while context.goes_on() {
        match once(&context, "/read").await {
            Ok(()) => drop(context.judge.fresh.fetch_add(1, Ordering::Relaxed)),
            Err(why) => context.judge.failed(format!("a new connection: {why}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn once(context: &Context, path: &str) -> Result<(), String> {
    let answer = Client::try_connect(context.to).await?.try_request("GET", path, &[], b"").await?;
    if answer.status == 200 && answer.text() == "read" { Ok(()) } else { Err(format!("{} {}", answer.status, answer.reason())) }
}

/// Reads over a connection that is idle for longer than a draining process keeps it.
async fn rare(context: Context) {
    while context.goes_on() {
        let mut kept = match Client::try_connect(context.to).await {
            Ok(kept) => kept,
            Err(why) => return context.judge.failed(format!("a rare client can't connect: {why}")),
        };
        while context.goes_on() {
            let since = Instant::now();
            match kept.try_request("GET", "/read", &[], b"").await {
                Ok(answer) if answer.status == 200 => drop(context.judge.rare.fetch_add(1, Ordering::Relaxed)),
                Ok(answer) => context.judge.failed(format!("a rare client: {} {}", answer.status, answer.reason())),
                // Closed while nobody used it, and at once: the other end had gone before.
                Err(_) if kept.has_nothing() && since.elapsed() < IDLE => {
                    context.judge.found_closed.fetch_add(1, Ordering::Relaxed);
                    if let Err(why) = once(&context, "/read").await {
                        context.judge.failed(format!("a rare client, again: {why}"));
                    }
                    break;
                }
                Err(why) => context.judge.failed(format!("a rare client: {why}")),
            }
            tokio::time::sleep(IDLE * 2).await;
        }
    }
}

/// Reads long answers slowly, whole ones only.
async fn downloads(context: Context) {
    while context.goes_on() {
        let mut client = match Client::try_connect(context.to).await {
            Ok(client) => client,
            Err(why) => return context.judge.failed(format!("a download can't connect: {why}")),
        };
        match client.try_request("GET", "/download", &[], b"").await {
            Ok(answer) if answer.status == 200 && answer.body.len() == PARTS * PART_BYTES => {
                context.judge.downloads.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) => context.judge.failed(format!("a download: {} and {} bytes", answer.status, answer.body.len())),
            Err(why) => context.judge.failed(format!("a download: {}", why.get(..why.len().min(200)).unwrap_or_default())),
        }
    }
}

/// Writes side by side over one connection of HTTP/2, for as long as it takes them.
async fn http2(context: Context, client: usize) {
    let numbers = AtomicUsize::new(0);
    while context.goes_on() {
        let connection = match TcpStream::connect(context.to).await {
            Ok(stream) => Http2Client::over(stream, "h").await,
            Err(error) => return context.judge.failed(format!("a client of HTTP/2 can't connect: {error}")),
        };
        while context.goes_on() {
            let write = || stream(&context, &connection, format!("h{client}-{}", numbers.fetch_add(1, Ordering::Relaxed)));
            let (first, second, third) = tokio::join!(write(), write(), write());
            if !(first && second && third) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// One of them; false if the connection takes no more.
async fn stream(context: &Context, connection: &Http2Client, number: String) -> bool {
    let path = format!("/write?{number}");
    let Ok(call) = connection.open("POST", &path, &[], true).await else { return false };
    let mut answered = call.answered().await;
    let is_untaken = matches!(&answered, Err(why) if why.contains(UNTAKEN));
    if is_untaken {
        context.judge.untaken.fetch_add(1, Ordering::Relaxed);
        let another = Http2Client::over(TcpStream::connect(context.to).await.unwrap(), "h").await;
        answered = another.request("POST", &path, &[], b"").await;
    }
    match answered {
        Ok(answer) if answer.status == 200 && answer.text() == "written" => drop(context.judge.streams.fetch_add(1, Ordering::Relaxed)),
        Ok(answer) => context.judge.failed(format!("stream {number}: {} {}", answer.status, answer.header("waypost-reason"))),
        Err(why) => context.judge.failed(format!("stream {number}: {why}")),
    }
    !is_untaken
}

/// A websocket that says what it hears.
struct Echo(Peer);

impl Echo {
    async fn open(to: SocketAddr) -> Self {
        let mut peer = Peer::connect(to).await;
        peer.send("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let head = peer.until("\r\n\r\n").await.unwrap_or_default();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self(peer)
    }

    async fn says(&mut self, word: &str) -> bool {
        self.0.send(word).await && self.0.until(word).await.is_some()
    }
}

/// The owner of it all. Executed writes are kept.
async fn owner(written: Arc<Mutex<Vec<String>>>) -> RawBackend {
    RawBackend::start(move |mut peer: Peer, _| {
        let written = Arc::clone(&written);
        async move {
            while let Some(request) = peer.request().await {
                let answer = match request.head.split(' ').nth(1).unwrap_or_default() {
                    path if path.starts_with("/write") => {
                        let number =
                            path.split_once('?').map_or_else(|| String::from_utf8_lossy(&request.body), |(_, number)| number.into());
                        written.lock().unwrap().push(number.into_owned());
                        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nwritten".to_owned()
                    }
                    "/read" => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nread".to_owned(),
                    "/download" => {
                        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PARTS * PART_BYTES)).await;
                        for _ in 0..PARTS {
                            peer.send(vec![b'x'; PART_BYTES]).await;
                            tokio::time::sleep(BETWEEN_PARTS).await;
                        }
                        continue;
                    }
                    _ => {
                        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
                        while let Some(word) = peer.until(".").await {
                            peer.send(word).await;
                        }
                        return;
                    }
                };
                peer.send(answer).await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_upgrades_in_a_row_fail_no_request() {
    let written = Arc::<Mutex<Vec<String>>>::default();
    let backend = owner(Arc::clone(&written)).await;
    let upstream = backend.upstream();
    let bootstrap = format!("[drain]\nidle_ms = {}\nlimit_ms = {}", IDLE.as_millis(), STREAMS.as_millis());
    let mut stage = Stage::on(backend, &upstream, json!({}), &bootstrap).await;
    let to = stage.waypost.listen;
    let load = Load::start(to);
    let judge = Arc::clone(&load.judge);
    let (mut olds, mut echoes) = (Vec::new(), Vec::new());
    for upgrade in 0..UPGRADES {
        echoes.push(Echo::open(to).await);
        let before = judge.kept.load(Ordering::Relaxed) + judge.fresh.load(Ordering::Relaxed);
        let downloads = judge.downloads.load(Ordering::Relaxed);
        olds.push(stage.waypost.upgrade().await);
        for (number, echo) in echoes.iter_mut().enumerate() {
            if echo.says(&format!("{upgrade} {number}.")).await {
                judge.words.fetch_add(1, Ordering::Relaxed);
            } else {
                judge.failed(format!("websocket {number} has lost a word after upgrade {upgrade}"));
            }
        }
        until_true("requests and downloads go on", async || {
            judge.kept.load(Ordering::Relaxed) + judge.fresh.load(Ordering::Relaxed) > before + 100
                && (upgrade % 5 != 4 || judge.downloads.load(Ordering::Relaxed) > downloads)
        })
        .await;
        // Not always the last one: for a moment both accept.
        assert!(olds.iter_mut().any(|old| !old.has_ended()), "whoever has a websocket keeps it");
    }
    let judge = load.stop().await;
    drop(echoes);
    for old in &mut olds {
        assert!(old.wait(STREAMS).success());
    }
    let failures = judge.failures.lock().unwrap();
    let told: Vec<&String> = failures.iter().take(20).collect();
    assert!(failures.is_empty(), "{} failures: {told:#?}", failures.len());
    let counts =
        [&judge.kept, &judge.fresh, &judge.rare, &judge.found_closed, &judge.downloads, &judge.words, &judge.streams, &judge.untaken]
            .map(|count| count.load(Ordering::Relaxed));
    eprintln!("writes, new connections, rare, found closed, downloads, words, streams of HTTP/2, untaken: {counts:?}");
    assert!(counts[3] > 0, "no rare client has found its connection closed");
    let written = written.lock().unwrap();
    let distinct: BTreeSet<&String> = written.iter().collect();
    assert_eq!((written.len(), distinct.len()), (counts[0] + counts[6], counts[0] + counts[6]), "each write is executed once");
}

//! Ten thousand idle and a thousand busy connections at the same time, in front of one proxy.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};
use waypost_tests::{open_files, raise_open_files, resident_bytes, until};

use crate::stage::Front;

const IDLE: usize = 10_000;
const BUSY: usize = 1_000;
/// How often each busy connection asks.
const ROUNDS: usize = 5;
/// What one process needs open for the rest: the busy connections on both sides of the proxy, and other tests beside this one.
const RESERVED: u64 = 4_000;
/// Connections that are opened at the same time.
const OPENERS: usize = 50;
/// Connections from one address, far fewer than it has ports.
const FROM_ONE_ADDRESS: usize = 5_000;
/// What an idle connection may cost at the most. A TLS-less HTTP/1.1 connection needs a fraction of it.
const BYTES_PER_IDLE: u64 = 64 * 1024;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const TOGETHER: &[u8] = b"GET /together HTTP/1.1\r\nHost: h\r\n\r\n";

/// A server that answers `/together` only when a thousand of those requests have arrived.
async fn server() -> (SocketAddr, JoinSet<()>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(4 * BUSY as u32).unwrap();
    let (address, arrived, rounds) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default(), watch::channel(0).0);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(answer(stream, Arc::clone(&arrived), rounds.clone()));
        }
    });
    (address, tasks)
}

async fn answer(mut stream: TcpStream, arrived: Arc<AtomicUsize>, rounds: watch::Sender<usize>) {
    let mut buffer = Vec::with_capacity(1024);
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        if !buffer.ends_with(b"\r\n\r\n") {
            continue;
        }
        if buffer.starts_with(b"GET /together") {
            let number = arrived.fetch_add(1, Ordering::SeqCst);
            if number % BUSY == BUSY - 1 {
                rounds.send_replace(number / BUSY + 1);
            }
            let _ = rounds.subscribe().wait_for(|round| *round > number / BUSY).await;
        }
        buffer.clear();
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

/// A connection from one of several loopback addresses.
async fn connect(number: usize, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(number / FROM_ONE_ADDRESS).unwrap());
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Asks once on a connection that is kept.
async fn ask(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::with_capacity(512);
    while !answer.ends_with(b"\r\n\r\nok") {
        let read = stream.read_buf(&mut answer).await.unwrap();
        assert!(read > 0, "closed behind {:?}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
}

/// Opens connections, each of which has been used once.
async fn open(count: usize, to: SocketAddr) -> Vec<TcpStream> {
    let mut openers = JoinSet::new();
    for opener in 0..OPENERS {
        openers.spawn(async move {
            let mut opened = Vec::new();
            for number in (opener..count).step_by(OPENERS) {
                let mut stream = connect(number, to).await;
                ask(&mut stream, REQUEST).await;
                opened.push(stream);
            }
            opened
        });
    }
    openers.join_all().await.into_iter().flatten().collect()
}

#[tokio::test]
async fn ten_thousand_idle_and_a_thousand_busy_connections() {
    let allowed = raise_open_files().await;
    let idle_count = IDLE.min(usize::try_from(allowed.saturating_sub(RESERVED)).unwrap());
    let (server, tasks) = server().await;
    // What a loaded machine takes for it is no matter here.
    let patient = json!({ "timeouts": { "header_ms": 60_000, "connect_ms": 30_000, "first_byte_ms": 60_000 } });
    // By default half of the files that the process may open are for clients.
    let limits = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&limits, format!("[limits]\nconnections = {}\n", idle_count + 2 * BUSY)).unwrap();
    let front = Front::started(server, patient, &["--config", limits.path().to_str().unwrap()]).await;
    let (proxy, pid) = (front.waypost.listen, front.waypost.pid());
    drop(open(OPENERS, proxy).await);
    let files = open_files(pid);
    let memory = resident_bytes(pid);
    let mut idle = open(idle_count, proxy).await;
    let each = resident_bytes(pid).saturating_sub(memory) / idle_count as u64;
    eprintln!("{idle_count} idle connections (of {allowed} files allowed) take {each} bytes of the proxy each");
    assert!(open_files(pid) >= idle_count && each < BYTES_PER_IDLE);
    let mut busy = JoinSet::new();
    for number in 0..BUSY {
        busy.spawn(async move {
            let mut stream = connect(number, proxy).await;
            for _ in 0..ROUNDS {
                ask(&mut stream, TOGETHER).await;
            }
        });
    }
    assert_eq!(busy.join_all().await.len(), BUSY);
    for stream in idle.iter_mut().step_by(97) {
        ask(stream, REQUEST).await;
    }
    drop((idle, tasks));
    until("the proxy has closed what was open", async || {
        let now = open_files(pid);
        if now <= files + OPENERS { Ok(()) } else { Err(format!("{now} files are open; {files} were at first")) }
    })
    .await;
}

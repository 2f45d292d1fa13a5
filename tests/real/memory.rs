//! Memory stays bounded whatever the body: a gigabyte down and up, with a fast sender and a slow reader, sampled over the whole run.
//!
//! A slow reader stalls until the sender has come to rest: it can't go on because what lies between them is full. What lies there is
//! mostly the kernel's; a proxy that kept bodies would be beyond the bound at once.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use waypost_tests::{Nginx, Sampler, until};

use crate::stage::Front;

const BODY: u64 = 1 << 30;
/// How far the proxy's resident memory may grow during any of these.
const GROWTH: u64 = 64 << 20;
/// How many readers stall at the same time in one of these, and how far memory may grow then: pingora has some ten parts of 64 KiB
/// under way for each of them.
const READERS: u64 = 100;
const GROWTH_FOR_ALL: u64 = READERS * (2 << 20);
/// What may be under way between a sender and a reader who stalls: nearly all of it is in the kernel's buffers of two connections
/// (`net.ipv4.tcp_rmem`: often 32 MiB each). Far less than the body.
const UNDER_WAY: u64 = 256 << 20;
/// How often a slow reader stalls.
const STALLS: u64 = 4;
/// The sender rests if it has not sent anything during so many samples.
const REST: u64 = 30;

/// Counts bytes, seen from another task.
type Count = Arc<AtomicU64>;

/// A server that sends a gigabyte in answer to anything, as fast as it is taken.
async fn source() -> (std::net::SocketAddr, Count) {
    let (listener, sent) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Count::default());
    let (address, counted) = (listener.local_addr().unwrap(), Arc::clone(&sent));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n").as_bytes()).await;
                pour(&mut stream, BODY, &counted, b"", b"").await;
            });
        }
    });
    (address, sent)
}

/// Sends so many bytes in parts, each between two marks, and counts them as they leave.
async fn pour(stream: &mut TcpStream, length: u64, sent: &AtomicU64, before: &[u8], behind: &[u8]) {
    let part = [before, &vec![b'x'; 64 * 1024], behind].concat();
    for _ in 0..length / (64 * 1024) {
        if stream.write_all(&part).await.is_err() {
            return;
        }
        sent.fetch_add(64 * 1024, Ordering::Relaxed);
    }
}

/// A server that takes one body up to its `ending` while it is allowed to, and then answers with its length on the wire.
async fn sink(ending: &'static [u8], mut may_read: watch::Receiver<bool>) -> (std::net::SocketAddr, Count) {
    let (listener, taken) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Count::default());
    let (address, counted) = (listener.local_addr().unwrap(), Arc::clone(&taken));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut buffer, mut last) = (vec![0; 64 * 1024], Vec::new());
        while may_read.wait_for(|may| *may).await.is_ok() {
            let read = stream.read(&mut buffer).await.unwrap_or(0);
            counted.fetch_add(read as u64, Ordering::Relaxed);
            last.extend_from_slice(&buffer[..read]);
            last.drain(..last.len().saturating_sub(ending.len()));
            if read == 0 || last == ending {
                break;
            }
        }
        let length = counted.load(Ordering::Relaxed).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", length.len());
        let _ = stream.write_all(format!("{head}{length}").as_bytes()).await;
    });
    (address, taken)
}

/// Waits until a count does not move any more, and gives it.
async fn comes_to_rest(sampler: &Sampler, count: &AtomicU64) -> u64 {
    let (mut last, mut since) = (0, sampler.samples());
    until("the sender comes to rest", async || {
        let now = count.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, sampler.samples());
        }
        if sampler.samples() >= since + REST { Ok(now) } else { Err(format!("{now} bytes, and it goes on")) }
    })
    .await
}

/// Reads so many bytes at the least, and gives how many it were.
async fn take(stream: &mut TcpStream, at_least: u64) -> u64 {
    let (mut buffer, mut taken) = (vec![0; 256 * 1024], 0);
    while taken < at_least {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the answer ended after {taken} bytes");
        taken += read as u64;
    }
    taken
}

async fn ask(front: &Front) -> TcpStream {
    let mut stream = TcpStream::connect(front.waypost.listen).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    stream
}

fn holds_little(sampler: &Sampler, bound: u64) {
    let growth = sampler.growth();
    eprintln!("resident memory grew by {} KiB at most, over {} samples", growth / 1024, sampler.samples());
    assert!(growth < bound, "resident memory grew by {growth} bytes");
}

#[tokio::test]
async fn a_gigabyte_comes_down_from_nginx() {
    let nginx = Nginx::start("").await;
    File::create(nginx.files().join("large")).unwrap().set_len(BODY).unwrap();
    let front = Front::of(nginx.address).await;
    let sampler = Sampler::start(front.waypost.pid());
    let mut stream = ask(&front).await;
    take(&mut stream, BODY).await;
    holds_little(&sampler, GROWTH);
}

#[tokio::test]
async fn a_gigabyte_comes_down_to_a_slow_reader() {
    let (server, sent) = source().await;
    let front = Front::of(server).await;
    let sampler = Sampler::start(front.waypost.pid());
    let mut stream = ask(&front).await;
    let mut taken = 0;
    for stall in 1..=STALLS {
        let sent = comes_to_rest(&sampler, &sent).await;
        assert!(sent - taken < UNDER_WAY, "{} bytes were taken from the server and not by the client", sent - taken);
        taken += take(&mut stream, BODY * stall / STALLS - taken).await;
    }
    holds_little(&sampler, GROWTH);
}

#[tokio::test]
async fn a_hundred_readers_who_stall_hold_little() {
    let (server, sent) = source().await;
    let front = Front::of(server).await;
    let sampler = Sampler::start(front.waypost.pid());
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut stream = ask(&front).await;
        take(&mut stream, 1).await;
        readers.push(stream);
    }
    comes_to_rest(&sampler, &sent).await;
    holds_little(&sampler, GROWTH_FOR_ALL);
}

/// Sends a gigabyte to a sink that stalls now and then.
async fn sent_to_a_slow_sink(head: &str, before: &'static [u8], behind: &'static [u8], ending: &'static [u8]) {
    let (reading, may_read) = watch::channel(false);
    let (server, taken) = sink(ending, may_read).await;
    let front = Front::of(server).await;
    let sampler = Sampler::start(front.waypost.pid());
    let mut stream = TcpStream::connect(front.waypost.listen).await.unwrap();
    stream.write_all(format!("PUT /large HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
    let sent = Count::default();
    let counting = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        // The last bytes of the body are the ending that the sink waits for.
        pour(&mut stream, BODY, &counting, before, behind).await;
        stream.write_all(ending).await.unwrap();
        stream
    });
    for stall in 1..=STALLS {
        let sent = comes_to_rest(&sampler, &sent).await;
        let before = taken.load(Ordering::Relaxed);
        assert!(sent.saturating_sub(before) < UNDER_WAY, "{} bytes were taken from the client and not by the server", sent - before);
        reading.send_replace(true);
        until("the server takes its part", async || {
            let now = taken.load(Ordering::Relaxed);
            if now >= BODY * stall / STALLS { Ok(()) } else { Err(format!("{now} bytes")) }
        })
        .await;
        reading.send_replace(stall == STALLS);
    }
    let mut stream = sending.await.unwrap();
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..read]));
    holds_little(&sampler, GROWTH);
}

#[tokio::test]
async fn a_gigabyte_goes_up_to_a_slow_server() {
    sent_to_a_slow_sink(&format!("Content-Length: {}", BODY + 3), b"", b"", b"end").await;
}

#[tokio::test]
async fn a_chunked_gigabyte_goes_up_to_a_slow_server() {
    sent_to_a_slow_sink("Transfer-Encoding: chunked", b"10000\r\n", b"\r\n", b"0\r\n\r\n").await;
}

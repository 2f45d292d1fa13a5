//! The end-to-end harness: a real etcd, the built binary, scripted backends, raw peers, and a TCP proxy that makes faults.
//!
//! Everything listens on loopback on ports that the kernel gave, lives in a folder of its own and is ended by its own pid when dropped.
//! Nothing sleeps for a fixed time: [`until`] waits for a condition with a limit and says what was seen last.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on ends with the reason")]

mod backend;
mod client;
mod etcd;
mod fault;
mod process;
mod raw;
mod waypost;

use std::time::{Duration, Instant};

pub use backend::{Backend, Reply, Seen};
pub use client::{Answer, Client};
pub use etcd::Etcd;
pub use fault::FaultProxy;
pub use raw::{Peer, RawBackend, RawRequest, Received};
pub use waypost::{Waypost, command};

/// How long anything may take to be seen. Generous: it is only used up by a failure.
pub const LIMIT: Duration = Duration::from_secs(40);

/// Polls until the condition gives `Ok`; panics with `what` and the last thing seen when the limit has passed.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Result<T, String>) -> T {
    let ends = Instant::now() + LIMIT;
    loop {
        match condition().await {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= ends => panic!("{what}: not within {LIMIT:?}; seen last: {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Like [`until`], for a condition that only holds or not.
pub async fn until_true(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    until(what, async || if condition().await { Ok(()) } else { Err("it did not hold".to_owned()) }).await;
}

/// A loopback address that was free a moment ago.
pub fn free_address() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

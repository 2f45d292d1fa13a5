//! The end-to-end harness: a real etcd, the built binary, scripted backends, raw peers, a TCP proxy that makes faults, and
//! software that nobody here wrote (nginx, Python servers and clients, curl, wrk).
//!
//! Everything listens on loopback on ports that were free a moment ago ([`free_address`]) or that the kernel gave, lives in a folder of its
//! own and is ended by its own pid when dropped.
//! Nothing sleeps for a fixed time: [`until`] waits for a condition with a limit and says what was seen last.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on ends with the reason")]

mod backend;
mod certificates;
mod client;
mod cluster;
mod etcd;
mod fault;
mod guard;
pub mod http2;
mod nginx;
mod process;
mod program;
mod python;
mod raw;
mod records;
mod secure;
mod secure_front;
mod steady;
mod streaming;
mod usage;
mod waypost;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

pub use backend::{Backend, Reply, Seen};
pub use certificates::{Certificates, Signed};
pub use client::{Answer, Client};
pub use cluster::Cluster;
pub use etcd::{Etcd, PREFIX};
pub use fault::FaultProxy;
pub use guard::Guard;
pub use http2::{Http2Answer, Http2Backend, Http2Client, Http2Request};
pub use nginx::Nginx;
pub use program::{Ran, program};
pub use python::Python;
pub use raw::{Peer, RawBackend, RawRequest, Received};
pub use records::RecordFile;
pub use secure::{SecureClient, SecurePeer};
pub use secure_front::{Handshaking, SecureFront, Shaken};
pub use steady::Steady;
pub use streaming::{Called, Course, Streaming};
pub use usage::{Sampler, open_files, raise_open_files, resident_bytes};
pub use waypost::{Replaced, Waypost, command};

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

/// In this range the kernel takes no ports for outgoing connections, of which tests make thousands.
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 22_000;

/// A loopback address that was free a moment ago. Each call gives another one; processes begin at different ones.
pub fn free_address() -> SocketAddr {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let begin = std::process::id().wrapping_mul(389);
    for _ in 0..PORTS {
        let step = u32::from(CALLS.fetch_add(1, Ordering::Relaxed));
        let port = FIRST_PORT + (begin.wrapping_add(step) % u32::from(PORTS)) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port between {FIRST_PORT} and {} is free", FIRST_PORT + PORTS);
}

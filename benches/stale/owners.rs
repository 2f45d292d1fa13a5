//! Two owners in this process: `a` refuses keys that begin with `stale`, `b` takes everything.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use waypost_bench::{
    processes::{Told, say},
    serve_fixed,
};

/// What a client gets when no owner can be found.
pub(crate) const REFUSED: u16 = 503;

/// The owners, for as long as the runtime lives.
pub(crate) struct Owners {
    pub(crate) a: SocketAddr,
    pub(crate) b: SocketAddr,
    pub(crate) connections_to_a: Arc<AtomicUsize>,
}

impl Owners {
    /// Both listen when this returns. They share the calling runtime's thread.
    pub(crate) async fn start() -> Told<Self> {
        let (a, b) = (listen().await?, listen().await?);
        let connections_to_a = Arc::new(AtomicUsize::new(0));
        let owners =
            Self { a: a.local_addr().map_err(say)?, b: b.local_addr().map_err(say)?, connections_to_a: Arc::clone(&connections_to_a) };
        tokio::spawn(serve_fixed(b, 2));
        tokio::spawn(async move {
            while let Ok((stream, _)) = a.accept().await {
                connections_to_a.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(refuse(stream));
            }
        });
        Ok(owners)
    }
}

async fn listen() -> Told<TcpListener> {
    TcpListener::bind("127.0.0.1:0").await.map_err(say)
}

/// Refuses request after request; none of them has a body.
async fn refuse(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        match stream.read_buf(&mut buffer).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        if !buffer.ends_with(b"\r\n\r\n") {
            continue;
        }
        let head = String::from_utf8_lossy(&buffer);
        let member = |name: &str| {
            let value = head.split_once(&format!("{name}=\"")).map(|(_, rest)| rest);
            value.and_then(|value| value.split('"').next()).unwrap_or_default()
        };
        let (key, table) = (member("key"), member("table"));
        let names = if key.starts_with("stale-unnamed") { "" } else { "owner=\"b\", epoch=6, " };
        let answer = format!(
            "HTTP/1.1 421 Misdirected Request\r\nRoute-Stale: state=moved, service=\"orders\", key=\"{key}\", {names}revision=999999999, \
             table=\"{table}\"\r\nCache-Control: no-store\r\nContent-Length: 0\r\n\r\n"
        );
        buffer.clear();
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

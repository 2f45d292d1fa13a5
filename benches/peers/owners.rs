//! The owners behind all peers: threads of this program, as cheap as can be, for as long as it runs.
//!
//! Each answer of a tenant's owner names it. The one called `echo` answers with the head that it was sent.

use std::net::{SocketAddr, TcpListener};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypost_bench::{
    processes::{Told, say},
    serve_fixed, serve_owner,
};

use crate::table::{OWNERS, owner_name};

/// Names and addresses.
#[derive(Clone, Debug)]
pub(crate) struct Owners(Vec<(String, SocketAddr)>);

impl Owners {
    /// All listen when this returns. They share one thread, which stays on the cores that the calling one is on.
    pub(crate) fn start() -> Told<Self> {
        let mut named = Vec::new();
        let mut listeners = Vec::new();
        for name in (0..OWNERS).map(owner_name).chain(["echo", "kb10", "mb1"].map(str::to_owned)) {
            let listener = TcpListener::bind("127.0.0.1:0").map_err(say)?;
            listener.set_nonblocking(true).map_err(say)?;
            named.push((name.clone(), listener.local_addr().map_err(say)?));
            listeners.push((name, listener));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(say)?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                for (name, listener) in listeners {
                    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { continue };
                    match name.as_str() {
                        "echo" => drop(tokio::spawn(echo(listener))),
                        "kb10" => drop(tokio::spawn(serve_fixed(listener, 10 * 1024))),
                        "mb1" => drop(tokio::spawn(serve_fixed(listener, 1024 * 1024))),
                        owner => {
                            let number = owner.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
                            drop(tokio::spawn(serve_owner(listener, number)));
                        }
                    }
                }
                std::future::pending::<()>().await;
            });
        });
        Ok(Self(named))
    }

    /// The address of the first: what a load without a proxy goes to.
    pub(crate) fn first(&self) -> SocketAddr {
        self.0[0].1
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.0.iter().map(|(name, address)| (name.as_str(), *address))
    }

    /// One piece of a configuration for each.
    pub(crate) fn lines(&self, line: impl Fn(&str, SocketAddr) -> String) -> String {
        self.all().map(|(name, address)| line(name, address)).collect::<Vec<_>>().join("\n")
    }
}

async fn echo(listener: tokio::net::TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut head = Vec::new();
            while let Ok(read) = stream.read_buf(&mut head).await {
                if read == 0 {
                    return;
                }
                if head.ends_with(b"\r\n\r\n") {
                    let answer = [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len()).as_bytes(), &head].concat();
                    head.clear();
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

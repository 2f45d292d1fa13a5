//! A loopback TCP proxy that makes faults: holds bytes back, cuts connections, refuses new ones.

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
    sync::watch,
};

/// What it does to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Bytes from the server are held back.
    Hold,
    /// The same, only on the connection that was made last before it was said.
    HoldNewest,
    /// Connections are cut, and new ones too.
    Cut,
}

/// The proxy; gone when dropped.
pub struct FaultProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    accepted: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl FaultProxy {
    /// Starts relaying to `to`.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(Mode::Pass);
        let accepted = Arc::<AtomicUsize>::default();
        let newest = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = newest.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::spawn(relay(stream, to, modes.clone(), Arc::clone(&newest), number));
            }
        });
        Self { address, mode, accepted, task }
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Relays everything.
    pub fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }

    /// Holds back what the server says.
    pub fn hold(&self) {
        self.mode.send_replace(Mode::Hold);
    }

    /// Holds back what the server says on the newest connection only. A proxy's first connection is for reads, its second for the watch.
    pub fn hold_newest(&self) {
        assert!(self.accepted.load(Ordering::Relaxed) >= 2, "there is no second connection");
        self.mode.send_replace(Mode::HoldNewest);
    }

    /// Cuts what there is and what comes.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(client: TcpStream, to: SocketAddr, mut modes: watch::Receiver<Mode>, newest: Arc<AtomicUsize>, number: usize) {
    if *modes.borrow() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let holding = Holding { modes: modes.clone(), newest, number };
    tokio::select! {
        () = copy(from_client, to_server, None) => {}
        () = copy(from_server, to_client, Some(holding)) => {}
        _ = modes.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

/// Whether one connection's bytes are held back.
struct Holding {
    modes: watch::Receiver<Mode>,
    newest: Arc<AtomicUsize>,
    number: usize,
}

impl Holding {
    async fn passed(&mut self) {
        let is_newest = self.newest.load(Ordering::Relaxed) == self.number;
        let _ = self.modes.wait_for(|mode| !(*mode == Mode::Hold || (*mode == Mode::HoldNewest && is_newest))).await;
    }
}

async fn copy(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, mut holding: Option<Holding>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut bytes).await {
        if let Some(holding) = &mut holding {
            holding.passed().await;
        }
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

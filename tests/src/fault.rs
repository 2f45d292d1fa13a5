//! A loopback TCP proxy that makes faults: holds bytes back, slows them down, cuts and resets connections, refuses new ones.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::Instant,
};

/// What it does to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Bytes from the server are held back.
    Hold,
    /// The same, only on the connections of these numbers, one bit each.
    HoldSome(u64),
    /// Bytes are held back in both directions; new connections are accepted, and nothing comes of them.
    Stall,
    /// Bytes from the server arrive a few at a time, with a pause behind each.
    Trickle {
        bytes: usize,
        pause: Duration,
    },
    /// Connections are cut when the server has said so much from now on.
    CutAfter(usize),
    /// Connections are cut, and new ones too.
    Cut,
    /// Connections are reset, and new ones too: what was under way is lost on both sides.
    Reset,
}

impl Mode {
    fn is_end(self) -> bool {
        matches!(self, Self::Cut | Self::Reset)
    }
}

/// The proxy; gone when dropped.
pub struct FaultProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    accepted: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl FaultProxy {
    /// Starts relaying to `to`.
    pub async fn start(to: SocketAddr) -> Self {
        Self::with(to, None).await
    }

    /// Starts relaying to `to`. On the connection of this number, the first having number 1, what the server says arrives so much later.
    pub async fn delaying(to: SocketAddr, number: usize, by: Duration) -> Self {
        Self::with(to, Some((number, by))).await
    }

    async fn with(to: SocketAddr, late: Option<(usize, Duration)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(Mode::Pass);
        let accepted = Arc::<AtomicUsize>::default();
        let ended = Arc::<AtomicUsize>::default();
        let (count, count_ended) = (Arc::clone(&accepted), Arc::clone(&ended));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                let (modes, ended) = (modes.clone(), Arc::clone(&count_ended));
                let late = late.filter(|(late, _)| *late == number);
                tokio::spawn(async move {
                    match late {
                        Some((_, by)) => relay_late(stream, to, by).await,
                        None => relay(stream, to, modes, number).await,
                    }
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, mode, accepted, ended, task }
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections there were.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many of them have ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
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
        assert!(self.accepted() >= 2, "there is no second connection");
        self.hold_one(self.accepted());
    }

    /// Holds back what the server says on one connection, the first having number 1.
    pub fn hold_one(&self, number: usize) {
        self.mode.send_replace(Mode::HoldSome(bit(number)));
    }

    /// Holds everything back, as a network does that drops packets.
    pub fn stall(&self) {
        self.mode.send_replace(Mode::Stall);
    }

    /// Lets what the server says through a few bytes at a time.
    pub fn trickle(&self, bytes: usize, pause: Duration) {
        self.mode.send_replace(Mode::Trickle { bytes, pause });
    }

    /// Cuts each connection when the server has said so many bytes on it from now on.
    pub fn cut_after(&self, bytes: usize) {
        self.mode.send_replace(Mode::CutAfter(bytes));
    }

    /// Cuts what there is and what comes.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Resets what there is and what comes.
    pub fn reset(&self) {
        self.mode.send_replace(Mode::Reset);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection's place among the bits; those beyond the last have none.
fn bit(number: usize) -> u64 {
    u32::try_from(number).ok().and_then(|number| 1_u64.checked_shl(number)).unwrap_or(0)
}

async fn relay(client: TcpStream, to: SocketAddr, mut modes: watch::Receiver<Mode>, number: usize) {
    let mode = *modes.borrow();
    if mode == Mode::Reset {
        let _ = client.set_zero_linger();
    }
    if mode.is_end() {
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut up = Way { from: from_client, to: to_server, modes: modes.clone(), is_held: Box::new(|mode| mode == Mode::Stall) };
    let held = move |mode| match mode {
        Mode::HoldSome(some) => some & bit(number) != 0,
        mode => matches!(mode, Mode::Hold | Mode::Stall),
    };
    let mut down = Way { from: from_server, to: to_client, modes: modes.clone(), is_held: Box::new(held) };
    let ended = tokio::select! {
        () = up.carry(false) => Mode::Pass,
        () = down.carry(true) => Mode::Pass,
        mode = modes.wait_for(|mode| mode.is_end()) => mode.map_or(Mode::Pass, |mode| *mode),
    };
    if ended == Mode::Reset {
        let _ = (down.to.as_ref().set_zero_linger(), up.to.as_ref().set_zero_linger());
    }
}

/// Relays, with what the server says so much later; whatever the proxy does to other connections.
async fn relay_late(client: TcpStream, to: SocketAddr, by: Duration) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (said, mut heard) = mpsc::unbounded_channel();
    let read = async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
            let _ = said.send((Instant::now() + by, bytes[..read].to_vec()));
        }
    };
    let write = async move {
        while let Some((at, bytes)) = heard.recv().await {
            tokio::time::sleep_until(at).await;
            if to_client.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = async { tokio::join!(read, write) } => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
}

/// One direction of a connection.
struct Way {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    modes: watch::Receiver<Mode>,
    is_held: Box<dyn Fn(Mode) -> bool + Send + Sync>,
}

impl Way {
    /// Carries bytes until either end has had enough.
    async fn carry(&mut self, from_server: bool) {
        let mut bytes = vec![0; 64 * 1024];
        let mut said = 0;
        loop {
            let Ok(read) = self.from.read(&mut bytes).await else { return };
            let _ = self.modes.wait_for(|mode| !(self.is_held)(*mode)).await;
            let mode = *self.modes.borrow_and_update();
            let done = match mode {
                _ if read == 0 => return,
                Mode::Trickle { bytes: few, pause } if from_server => self.trickle(&bytes[..read], few, pause).await,
                Mode::CutAfter(limit) if from_server => {
                    let passed = read.min(limit.saturating_sub(said));
                    said += read;
                    let done = self.to.write_all(&bytes[..passed]).await;
                    if said >= limit {
                        return;
                    }
                    done
                }
                _ => self.to.write_all(&bytes[..read]).await,
            };
            said = if matches!(mode, Mode::CutAfter(_)) { said } else { 0 };
            if done.is_err() {
                return;
            }
        }
    }

    /// A few at a time, until something else is wanted.
    async fn trickle(&mut self, bytes: &[u8], few: usize, pause: Duration) -> std::io::Result<()> {
        for part in bytes.chunks(few.max(1)) {
            let is_wanted = matches!(*self.modes.borrow(), Mode::Trickle { .. });
            self.to.write_all(part).await?;
            if is_wanted {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }
}

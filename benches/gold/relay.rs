//! A relay between proxy and store that can cut what there is and refuse what comes.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use waypost_bench::processes::{Told, say, thread_stands_back};

/// The relay.
pub(crate) struct Relay {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
}

impl Relay {
    /// Starts relaying to `to`, on a thread that stands back, until the program ends.
    pub(crate) fn start(to: SocketAddr) -> Told<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(say)?;
        listener.set_nonblocking(true).map_err(say)?;
        let address = listener.local_addr().map_err(say)?;
        let (is_cut, cut) = watch::channel(false);
        std::thread::spawn(move || {
            thread_stands_back()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(say)?;
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).map_err(say)?;
                while let Ok((stream, _)) = listener.accept().await {
                    if !*cut.borrow() {
                        tokio::spawn(relay(stream, to, cut.clone()));
                    }
                }
                Ok::<_, String>(())
            })
        });
        Ok(Self { address, is_cut })
    }

    /// `http://127.0.0.1:port`
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts, or relays again.
    pub(crate) fn cut(&self, cut: bool) {
        self.is_cut.send_replace(cut);
    }
}

async fn relay(mut client: TcpStream, to: SocketAddr, mut cut: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
}

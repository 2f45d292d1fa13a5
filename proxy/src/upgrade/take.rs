//! The new process's side: it waits for the old one's sockets, and serves on them once it is ready and the old one agrees.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    time::Duration,
};

use rustix::net::sockopt::socket_acceptconn;

use super::{
    Known, Meeting,
    link::{Link, Word},
    meeting::Attended,
};

/// Waits for the old process.
#[derive(Debug)]
pub(crate) struct Waiting(Attended);

/// The old process's sockets, and the connection to it.
#[derive(Debug)]
pub(crate) struct Taken {
    sockets: Vec<(SocketAddr, TcpListener)>,
    link: Link,
    /// The process that they come from.
    pub(crate) pid: u32,
    /// What it knew.
    pub(crate) known: Known,
}

impl Waiting {
    /// Begins to wait.
    ///
    /// # Errors
    /// A sentence, if that can't be done there.
    pub(crate) fn at(meeting: &Meeting) -> Result<Self, String> {
        meeting.open().map(Self)
    }

    /// The sockets of the process that this one is to replace, whose name must be this one's.
    ///
    /// # Errors
    /// A sentence, if they do not come within the limit, or not whole; the old process goes on.
    pub(crate) async fn sockets(self, id: &str, limit: Duration) -> Result<Taken, String> {
        let come = async {
            loop {
                let (stream, _) = self.0.listener.accept().await.map_err(|error| format!("the old process can't be met: {error}"))?;
                match Link::over(stream) {
                    Ok(link) => return receive(link, id).await,
                    Err(why) => tracing::warn!("sockets were offered and not taken: {why}"),
                }
            }
        };
        tokio::time::timeout(limit, come).await.unwrap_or_else(|_| {
            Err(format!("no process has handed its sockets over within {limit:?}; send SIGQUIT to the one that is to be replaced"))
        })
    }
}

async fn receive(mut link: Link, id: &str) -> Result<Taken, String> {
    let (pid, count, known) = match link.hear().await? {
        Some(Word::Offer { id: of, pid, sockets, revision, digest }) if of == id => (pid, sockets, Known { revision, digest }),
        Some(Word::Offer { id: of, .. }) => {
            let why = format!("the old process is {of}, this one is {id}; the same --id would be right");
            let _ = link.say(&Word::No { why: why.clone() }).await;
            return Err(why);
        }
        _ => return Err("what was met is no process that hands its sockets over".to_owned()),
    };
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let came = match link.hear().await? {
            Some(Word::Socket) => link.take_socket(),
            Some(Word::No { why }) => return Err(format!("the old process goes on: {why}")),
            _ => None,
        };
        let Some(socket) = came else { return Err("the old process ended before all its sockets had come".to_owned()) };
        if !socket_acceptconn(socket.as_fd()).unwrap_or(false) {
            return Err("what the old process handed over is no listening socket".to_owned());
        }
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().map_err(|error| format!("a socket of the old process can't be used: {error}"))?;
        sockets.push((address, listener));
    }
    Ok(Taken { sockets, link, pid, known })
}

impl Taken {
    /// The socket that listens on this address, if there is one.
    pub(crate) fn socket(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.sockets.iter().position(|(listens, _)| *listens == address)?;
        Some(self.sockets.swap_remove(at).1)
    }

    /// Closes this process's copies of what nobody has asked for; their addresses.
    pub(crate) fn close_rest(&mut self) -> Vec<SocketAddr> {
        self.sockets.drain(..).map(|(address, _)| address).collect()
    }

    /// Says that this process can serve when it can. Well: it is to begin, also if the old one has died; then it does not wait until it can.
    ///
    /// # Errors
    /// A sentence, if the old one goes on by itself: this one must never accept a connection then.
    pub(crate) async fn ready(&mut self, can_serve: impl Future<Output = ()>) -> Result<(), String> {
        tokio::select! {
            () = can_serve => {}
            heard = self.link.hear() => return verdict(heard),
        }
        // One that does not read any more may have said why before it closed.
        let _ = self.link.say(&Word::Ready).await;
        match self.link.hear().await {
            Ok(Some(Word::Yours)) => Ok(()),
            heard => verdict(heard),
        }
    }

    /// Says that it does not come to serving.
    pub(crate) async fn decline(mut self, why: &str) {
        let _ = self.link.say(&Word::No { why: why.to_owned() }).await;
    }

    /// Says that connections are accepted.
    pub(crate) async fn serving(mut self) {
        if let Err(why) = self.link.say(&Word::Serving).await {
            tracing::warn!("this process serves, but the old one may go on as well: {why}");
        }
    }
}

/// What is to be done when the old process says anything but that this one is to serve.
fn verdict(heard: Result<Option<Word>, String>) -> Result<(), String> {
    match heard {
        Ok(None) => {
            tracing::warn!("the old process has gone without a word; this one takes its place");
            Ok(())
        }
        Ok(Some(Word::No { why })) => Err(format!("the old process goes on: {why}")),
        Ok(Some(_)) => Err("the old process says what this version does not expect".to_owned()),
        Err(why) => Err(why),
    }
}

//! A client's socket, which the runtime watches only from the first time that somebody has to wait for it.
//!
//! Most connections that come with one request never need that: its bytes are there when the connection is accepted, its answer fits into what the system
//! buffers. To be watched and forgotten again costs two calls and a wake each. What always holds: whoever is told to wait is woken, since whatever
//! would have to wait is watched first.

use std::{
    io::{self, IoSlice, Write},
    mem::MaybeUninit,
    net,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// How long nobody hears that a client has gone whose socket is not watched.
pub(crate) const UNWATCHED: Duration = Duration::from_secs(1);
/// How much is read of a socket that is not watched: more than nearly all requests have.
const FIRST_READ: usize = 4 * 1024;
/// More follows at once. What is not Linux makes two packets of it.
#[cfg(target_os = "linux")]
const HELD: SendFlags = SendFlags::MORE.union(SendFlags::NOSIGNAL);
#[cfg(not(target_os = "linux"))]
const HELD: SendFlags = SendFlags::empty();

/// The socket.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    state: State,
    /// The last bytes wait for the end of the stream.
    is_held: bool,
}

#[derive(Debug)]
enum State {
    Unwatched {
        socket: net::TcpStream,
        /// It has been read from: more is not there yet, most likely.
        was_read: bool,
    },
    Watched(TcpStream),
    /// It could not be watched.
    Gone,
}

impl ClientSocket {
    /// One that was accepted, and does not block.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { state: State::Unwatched { socket: socket.into(), was_read: false }, is_held: false }
    }

    /// Its number.
    pub(super) fn fd(&self) -> RawFd {
        match &self.state {
            State::Unwatched { socket, .. } => socket.as_raw_fd(),
            State::Watched(socket) => socket.as_raw_fd(),
            State::Gone => -1,
        }
    }

    /// Whether whoever polls it hears of what becomes of it.
    pub(super) fn is_watched(&self) -> bool {
        !matches!(self.state, State::Unwatched { .. })
    }

    /// As it was before anybody had to wait for it.
    ///
    /// # Errors
    /// If the runtime does not let it go; it is of no use then.
    pub(super) fn unwatched(self) -> io::Result<Self> {
        match self.state {
            State::Watched(socket) => Ok(Self::new(socket.into_std()?.into())),
            State::Unwatched { socket, .. } => Ok(Self::new(socket.into())),
            State::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// As the runtime watches it.
    ///
    /// # Errors
    /// If the system watches no more.
    pub(crate) fn into_watched(mut self) -> io::Result<TcpStream> {
        self.watch()?;
        match self.state {
            State::Watched(socket) => Ok(socket),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Has it watched from now on.
    ///
    /// # Errors
    /// If the system watches no more; it is of no use then.
    pub(super) fn watch(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let State::Unwatched { .. } = self.state
            && let State::Unwatched { socket, .. } = std::mem::replace(&mut self.state, State::Gone)
        {
            self.state = State::Watched(TcpStream::from_std(socket)?);
        }
        match &mut self.state {
            State::Watched(socket) => Ok(Pin::new(socket)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads what is there by itself, the first time; nothing if the socket has to be waited for.
    fn read_now(&mut self, into: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        let State::Unwatched { socket, was_read } = &mut self.state else { return None };
        if std::mem::replace(was_read, true) {
            return None;
        }
        let mut space = [const { MaybeUninit::uninit() }; FIRST_READ];
        let room = into.remaining().min(FIRST_READ);
        match recv(socket, &mut space[..room], RecvFlags::empty()) {
            Ok(((read, _), _)) => {
                into.put_slice(read);
                Some(Ok(()))
            }
            Err(Errno::AGAIN | Errno::INTR) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Writes by itself; nothing if that would have to wait.
    fn write_now(&mut self, write: impl FnOnce(&net::TcpStream) -> io::Result<usize>) -> Option<io::Result<usize>> {
        let State::Unwatched { socket, .. } = &self.state else { return None };
        match write(socket) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            written => Some(written),
        }
    }

    /// Writes the last bytes of the connection, one part behind the other: they leave with its end, in one packet, when [`Self::end`] is called.
    pub(super) fn poll_write_last(&mut self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.is_held = true;
        if let Some(written) = self.write_now(|socket| send_held(socket, parts)) {
            return Poll::Ready(written);
        }
        let socket = self.watch()?.get_mut();
        loop {
            ready!(socket.poll_write_ready(context))?;
            match socket.try_io(Interest::WRITABLE, || send_held(&*socket, parts)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Says that no more comes, if something is held back for that: were the socket only closed, what a client still sends could take it away. Whether
    /// something has come that nobody has read.
    pub(super) fn end(&mut self) -> bool {
        if self.is_held {
            // A client that can't be told has gone.
            let _ = self.shut();
        }
        // Asked of the socket itself: the runtime may not have heard of it yet.
        let next = match &self.state {
            State::Unwatched { socket, .. } => recv(socket, &mut [0], RecvFlags::empty()),
            State::Watched(socket) => recv(socket, &mut [0], RecvFlags::empty()),
            State::Gone => return false,
        };
        next.is_ok_and(|(_, read)| read > 0)
    }

    fn shut(&self) -> io::Result<()> {
        match &self.state {
            State::Unwatched { socket, .. } => Ok(shutdown(socket, Shutdown::Write)?),
            State::Watched(socket) => Ok(shutdown(socket, Shutdown::Write)?),
            State::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Sends, so that the system waits for more before it makes a packet of the rest.
fn send_held(socket: impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    match parts {
        [part] => Ok(send(socket, part, HELD)?),
        parts => Ok(sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), HELD)?),
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.read_now(into) {
            Some(read) => Poll::Ready(read),
            None => this.watch()?.poll_read(context, into),
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.write_now(|mut socket| socket.write(bytes)) {
            Some(written) => Poll::Ready(written),
            None => this.watch()?.poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shut())
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.write_now(|mut socket| socket.write_vectored(parts)) {
            Some(written) => Poll::Ready(written),
            None => this.watch()?.poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn pair() -> (ClientSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let accepted = listener.accept().await.unwrap().0.into_std().unwrap();
        (ClientSocket::new(accepted.into()), client)
    }

    #[tokio::test]
    async fn only_what_has_to_be_waited_for_is_watched() {
        let (mut socket, mut client) = pair().await;
        client.write_all(b"first").await.unwrap();
        let mut bytes = [0; 16];
        assert_eq!(socket.read(&mut bytes).await.unwrap(), 5);
        socket.write_all(b"an answer").await.unwrap();
        assert!(!socket.is_watched());
        let second = async {
            tokio::task::yield_now().await;
            client.write_all(b"second").await.unwrap();
        };
        let (read, ()) = tokio::join!(socket.read(&mut bytes), second);
        assert!(socket.is_watched() && &bytes[..read.unwrap()] == b"second");
    }

    #[tokio::test]
    async fn more_than_the_system_takes_at_once_is_waited_for_and_the_end_comes_behind_it() {
        let (mut socket, mut client) = pair().await;
        let sent = vec![b'x'; 16 << 20];
        let mut left = sent.as_slice();
        let write = async {
            while !left.is_empty() {
                let written = std::future::poll_fn(|context| socket.poll_write_last(context, &[IoSlice::new(left)])).await.unwrap();
                left = &left[written..];
            }
            let was_watched = socket.is_watched();
            (was_watched, socket.end())
        };
        let mut received = Vec::new();
        let both = async { tokio::join!(write, client.read_to_end(&mut received)) };
        let (wrote, read) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("the end comes");
        assert_eq!((wrote, read.unwrap(), received == sent), ((true, false), sent.len(), true));
    }

    #[tokio::test]
    async fn what_nobody_has_read_is_found_at_the_end() {
        for is_watched in [false, true] {
            let (mut socket, mut client) = pair().await;
            if is_watched {
                socket.watch().unwrap();
            }
            assert!(!socket.end());
            client.write_all(b"more").await.unwrap();
            assert!(socket.end());
        }
    }
}

//! A client's connection as it was accepted: a socket, or what a handshake has made of one.
//!
//! Known by its type, not by a pointer, since nearly all of a request's time is spent in reading and writing it. It buffers nothing.

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::client_socket::ClientSocket;

/// The connection.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// In the clear.
    Plain(ClientSocket),
    /// Secure.
    Secure(Box<TlsStream<TcpStream>>),
}

impl Accepted {
    /// Its socket's number.
    pub(crate) fn fd(&self) -> RawFd {
        match self {
            Self::Plain(socket) => socket.fd(),
            Self::Secure(secure) => secure.get_ref().0.as_raw_fd(),
        }
    }

    /// Whether whoever polls it hears of what becomes of it.
    pub(super) fn is_watched(&self) -> bool {
        !matches!(self, Self::Plain(socket) if !socket.is_watched())
    }

    /// Has it watched from now on.
    ///
    /// # Errors
    /// If the system watches no more; it is of no use then.
    pub(super) fn watch(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.watch().map(|_| ()),
            Self::Secure(_) => Ok(()),
        }
    }

    /// As a connection is kept that nobody waits for: in the clear the runtime does not watch it any more.
    ///
    /// # Errors
    /// If the runtime does not let it go; it is of no use then.
    pub(super) fn at_rest(self) -> io::Result<Self> {
        match self {
            Self::Plain(socket) => socket.unwatched().map(Self::Plain),
            // What a handshake has made of a socket can't be taken apart and put together again.
            secure @ Self::Secure(_) => Ok(secure),
        }
    }

    /// Writes the last bytes of the connection, which may wait for its end.
    pub(super) fn poll_write_last(&mut self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_write_last(context, parts),
            Self::Secure(secure) => Pin::new(&mut **secure).poll_write_vectored(context, parts),
        }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, into),
            Self::Secure(secure) => Pin::new(&mut **secure).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Secure(secure) => Pin::new(&mut **secure).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Secure(secure) => Pin::new(&mut **secure).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Secure(secure) => Pin::new(&mut **secure).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(context, bytes),
            Self::Secure(secure) => Pin::new(&mut **secure).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Secure(secure) => secure.is_write_vectored(),
        }
    }
}

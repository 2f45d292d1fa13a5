//! Connections to owners for requests that ask to switch protocols.
//!
//! pingora takes such an exchange for ended if it sees the owner's 101 before it has seen the end of the request, which is empty and
//! already waiting (its issue 946). It looks at both in random order, so a fast owner was cut off now and then. Here the first look
//! behind whatever was written finds nothing and is repeated at once: so is the first look for an answer, and by then the end of the
//! request has been seen. (What a handshake writes and reads before is none of it.)

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use pingora_core::{
    Error, ErrorType, Result,
    connectors::l4::Connect,
    protocols::l4::{
        socket::SocketAddr,
        stream::Stream,
        virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::deadline::{Deadline, Phase};

/// Makes these connections.
#[derive(Debug)]
pub(super) struct UpgradeConnector {
    /// Of the request that the connection is for.
    pub(super) deadline: Arc<Deadline>,
}

#[async_trait]
impl Connect for UpgradeConnector {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let Some(address) = address.as_inet() else { return Error::e_explain(ErrorType::ConnectError, "an endpoint is a host and a port") };
        let connected = TcpStream::connect(address).await;
        let socket = connected.map_err(|error| Error::because(ErrorType::ConnectError, "for an upgrade", error))?;
        Ok(VirtualSocketStream::new(Box::new(LateReader {
            socket,
            has_looked: false,
            deadline: Arc::clone(&self.deadline),
            is_cut: false,
        }))
        .into())
    }
}

#[derive(Debug)]
struct LateReader {
    socket: TcpStream,
    /// Since the last write.
    has_looked: bool,
    deadline: Arc<Deadline>,
    /// A write has found the stream over.
    is_cut: bool,
}

impl LateReader {
    /// Ready when the stream is over.
    fn poll_ended(&self, context: &mut Context<'_>) -> Poll<io::Error> {
        std::task::ready!(self.deadline.ending().poll(context));
        self.deadline.fire(Phase::Lost);
        Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "it may not be served here any more"))
    }
}

impl VirtualSocket for LateReader {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.socket.set_nodelay(true),
            // Nothing else is asked for.
            _ => Ok(()),
        }
    }
}

impl AsyncRead for LateReader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.has_looked {
            this.has_looked = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        // pingora reads on when it can't write, for what the owner may have said.
        if this.is_cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut this.socket).poll_read(context, into)
    }
}

impl AsyncWrite for LateReader {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Poll::Ready(over) = this.poll_ended(context) {
            this.is_cut = true;
            return Poll::Ready(Err(over));
        }
        this.has_looked = false;
        Pin::new(&mut this.socket).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

//! What a lane sends its requests over: a connection of its own (HTTP/1.1), or a stream of one that it shares (HTTP/2).
//!
//! Whatever goes wrong ends as a [`Failure`] of one kind; the connection is then made anew with the next request.

pub(crate) mod http1;
pub(crate) mod http2;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

use crate::{
    answer::Answer,
    plan::{Plan, Protocol},
    report::FailureKind,
};

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// For a person.
    pub(crate) said: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, said: impl std::fmt::Display) -> Self {
        Self { kind, said: said.to_string() }
    }

    fn broken(error: impl std::fmt::Display) -> Self {
        Self::new(FailureKind::Broken, format!("a connection broke: {error}"))
    }
}

/// An answer, and what it cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchanged {
    pub(crate) answer: Answer,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// Where connections are made to.
pub(crate) struct Connector {
    target: crate::plan::Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    is_http2: bool,
    /// Connections made since it was asked last.
    made: AtomicU64,
}

impl Connector {
    /// # Errors
    /// If no certificate could be judged.
    pub(crate) fn new(plan: &Plan) -> Result<Self, crate::PlanFault> {
        let is_http2 = matches!(plan.protocol, Protocol::Http2 { .. });
        let tls = if plan.target.tls { Some(crate::tls::connector(plan, is_http2)?) } else { None };
        Ok(Self { target: plan.target.clone(), tls, is_http2, made: AtomicU64::new(0) })
    }

    /// How many connections were made since this was asked last.
    pub(crate) fn take_made(&self) -> u64 {
        self.made.swap(0, Ordering::Relaxed)
    }

    /// Makes a connection, and whatever belongs to it before the first request.
    pub(crate) async fn connect(&self) -> Result<Stream, Failure> {
        let address = self.target.address;
        let not_connected = |error: io::Error| {
            let why = if error.kind() == io::ErrorKind::ConnectionRefused {
                "refused the connection; is anything listening there?".to_owned()
            } else {
                format!("could not be connected to: {error}")
            };
            Failure::new(FailureKind::NotConnected, format!("{address} {why}"))
        };
        let stream = TcpStream::connect(address).await.map_err(not_connected)?;
        stream.set_nodelay(true).map_err(not_connected)?;
        self.made.fetch_add(1, Ordering::Relaxed);
        let Some((connector, name)) = &self.tls else { return Ok(Stream::Plain(stream)) };
        let tls = connector.connect(name.clone(), stream).await;
        let tls = tls.map_err(|error| Failure::new(FailureKind::Tls, format!("TLS with {address} failed: {error}")))?;
        if self.is_http2 && tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Failure::new(
                FailureKind::Tls,
                format!("{address} does not offer HTTP/2; without --http2 it would be asked over HTTP/1.1"),
            ));
        }
        Ok(Stream::Tls(Box::new(tls)))
    }
}

/// A connection, with TLS or without.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, to),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, to),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, from),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, from),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, from: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, from),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, from),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

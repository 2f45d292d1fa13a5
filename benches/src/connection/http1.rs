//! HTTP/1.1 on a lane's own connection: one request, one answer.
//!
//! The answer is read while the request is still being written, since a server may answer before it has read all. What is read goes into one
//! buffer for all connections of a thread, and none of it is kept but an unfinished head.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Connector, Exchanged, Failure, Stream};
use crate::{
    answer::{Answer, NoAnswer, Reader},
    report::FailureKind,
    request::{Asked, Requests},
};

/// The most that is read at once.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    static CAME: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// A lane's connection, and what is kept for its next request.
#[derive(Debug, Default)]
pub(crate) struct Http1 {
    stream: Option<Stream>,
    head: Vec<u8>,
    reader: Reader,
    is_alone: bool,
}

impl Http1 {
    /// `is_alone`: each request has a connection of its own.
    pub(crate) fn new(is_alone: bool) -> Self {
        Self { is_alone, ..Self::default() }
    }

    /// Sends a request, over a new connection if there is none, and reads its answer.
    pub(crate) async fn exchange(&mut self, connector: &Connector, requests: &Requests, asked: Asked) -> Result<Exchanged, Failure> {
        // Put back only after a whole answer: who is given up on meanwhile leaves none behind.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                self.reader.reset();
                connector.connect().await?
            }
        };
        let body = requests.write(asked, &mut self.head);
        let mut exchange = Exchange {
            stream: &mut stream,
            reader: &mut self.reader,
            is_head: requests.is_head(),
            head: &self.head,
            body,
            written: 0,
            is_flushed: false,
            read: 0,
        };
        let answer = poll_fn(|context| exchange.poll(context)).await?;
        let Exchange { written, is_flushed, read, .. } = exchange;
        if answer.keep && is_flushed && !self.is_alone {
            self.stream = Some(stream);
        }
        Ok(Exchanged { answer, bytes_in: read, bytes_out: written as u64 })
    }

    /// Gives the connection up.
    pub(crate) fn forget(&mut self) {
        self.stream = None;
    }
}

/// One request under way.
struct Exchange<'a> {
    stream: &'a mut Stream,
    reader: &'a mut Reader,
    is_head: bool,
    head: &'a [u8],
    body: &'a [u8],
    written: usize,
    is_flushed: bool,
    read: u64,
}

impl Exchange<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, Failure>> {
        let wrote = if self.is_flushed { Poll::Ready(Ok(())) } else { self.poll_write(context) };
        match (self.poll_read(context), wrote) {
            (Poll::Ready(outcome), _) => Poll::Ready(outcome),
            // Who stopped reading may have answered; if not, this is why there is none.
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(Failure::broken(error))),
            (Poll::Pending, _) => Poll::Pending,
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.head.len() + self.body.len() {
            let written = match self.written.checked_sub(self.head.len()) {
                Some(of_body) => ready!(Pin::new(&mut *self.stream).poll_write(context, &self.body[of_body..]))?,
                None if self.body.is_empty() => ready!(Pin::new(&mut *self.stream).poll_write(context, &self.head[self.written..]))?,
                None => {
                    let both = [IoSlice::new(&self.head[self.written..]), IoSlice::new(self.body)];
                    ready!(Pin::new(&mut *self.stream).poll_write_vectored(context, &both))?
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        ready!(Pin::new(&mut *self.stream).poll_flush(context))?;
        self.is_flushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, Failure>> {
        CAME.with_borrow_mut(|came| {
            loop {
                let mut came = ReadBuf::new(came);
                ready!(Pin::new(&mut *self.stream).poll_read(context, &mut came)).map_err(Failure::broken)?;
                let came = came.filled();
                if came.is_empty() {
                    return Poll::Ready(self.reader.closed().ok_or_else(|| Failure::broken("closed before the answer's end")));
                }
                self.read += came.len() as u64;
                let no_answer = |NoAnswer(why)| Failure::new(FailureKind::Protocol, format!("an answer could not be read: {why}"));
                if let Some(answer) = self.reader.take(came, self.is_head).map_err(no_answer)? {
                    return Poll::Ready(Ok(answer));
                }
            }
        })
    }
}

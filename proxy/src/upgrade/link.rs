//! The connection between the two processes: words, a line of JSON each, and sockets that travel beside them.
//!
//! What always holds: nothing is believed from another user's process, and no line is longer than a bound.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    cmsg_space,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg},
    process::geteuid,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
};

/// A longer line comes from no proxy.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Sockets that one message may bring; one is sent with each.
const SOCKETS_A_MESSAGE: usize = 4;

/// What the two say.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Word {
    /// The first: who offers, and how many sockets follow.
    Offer {
        /// The old process's name.
        id: String,
        /// The old process.
        pid: u32,
        /// How many sockets follow.
        sockets: usize,
        /// What the old process's table reflects, and its digest: the new one's is to be as new.
        #[serde(default)]
        revision: u64,
        /// In hex; empty where there is no table.
        #[serde(default)]
        digest: String,
    },
    /// A socket comes with this.
    Socket,
    /// The new process can serve.
    Ready,
    /// The new process is to serve.
    Yours,
    /// The new process serves.
    Serving,
    /// It comes to nothing; why.
    No {
        /// A sentence for the other's log.
        why: String,
    },
}

/// One end.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    heard: Vec<u8>,
    sockets: VecDeque<OwnedFd>,
}

impl Link {
    /// Over a connection to the same user's process, or to root's.
    ///
    /// # Errors
    /// A sentence, if it is somebody else's.
    pub(super) fn over(stream: UnixStream) -> Result<Self, String> {
        let other = stream.peer_cred().map_err(|error| format!("it can't be told whose process is there: {error}"))?;
        let own = geteuid().as_raw();
        if other.uid() != own && other.uid() != 0 {
            return Err(format!("the process there belongs to user {}, not to {own}", other.uid()));
        }
        Ok(Self { stream, heard: Vec::new(), sockets: VecDeque::new() })
    }

    /// Says a word.
    pub(super) async fn say(&mut self, word: &Word) -> Result<(), String> {
        self.stream.write_all(&line(word)).await.map_err(|error| format!("the other process can't be told: {error}"))
    }

    /// Sends a socket; the other end gets a copy.
    pub(super) async fn send(&mut self, socket: BorrowedFd<'_>) -> Result<(), String> {
        let line = line(&Word::Socket);
        let sent = self.stream.async_io(Interest::WRITABLE, || {
            let sockets = [socket];
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            beside.push(SendAncillaryMessage::ScmRights(&sockets));
            Ok(sendmsg(&self.stream, &[IoSlice::new(&line)], &mut beside, SendFlags::NOSIGNAL)?)
        });
        let say = |error: io::Error| format!("a socket can't be sent: {error}");
        let sent = sent.await.map_err(say)?;
        // The socket goes with the first byte.
        self.stream.write_all(line.get(sent..).unwrap_or_default()).await.map_err(say)
    }

    /// The next word; `None`: the other end has gone.
    ///
    /// # Errors
    /// If what comes is no word, or nothing can be read.
    pub(super) async fn hear(&mut self) -> Result<Option<Word>, String> {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                let word = serde_json::from_slice(&line);
                return word.map(Some).map_err(|_| "the other process says what this version does not understand".to_owned());
            }
            if self.heard.len() > MAX_LINE_BYTES {
                return Err("the other process is no proxy".to_owned());
            }
            if !self.read().await.map_err(|error| format!("the other process can't be heard: {error}"))? {
                return Ok(None);
            }
        }
    }

    /// The socket that came with the last word.
    pub(super) fn take_socket(&mut self) -> Option<OwnedFd> {
        self.sockets.pop_front()
    }

    /// Reads once; false at the end. May be dropped and called again: what was read is kept at once.
    async fn read(&mut self) -> io::Result<bool> {
        let (stream, heard, sockets) = (&self.stream, &mut self.heard, &mut self.sockets);
        let read = stream.async_io(Interest::READABLE, || {
            let mut bytes = [0; 1024];
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_A_MESSAGE))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let read = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(came) = message {
                    sockets.extend(came);
                }
            }
            heard.extend_from_slice(bytes.get(..read.bytes).unwrap_or_default());
            Ok(read.bytes > 0)
        });
        match read.await {
            // Who goes without having read everything resets the connection.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            read => read,
        }
    }
}

fn line(word: &Word) -> Vec<u8> {
    let mut line = serde_json::to_vec(word).unwrap_or_default();
    line.push(b'\n');
    line
}

//! The end of a request from outside: whoever lets it be served takes that back.
//!
//! An upgraded stream is no request in flight, so a move of its key does not wait for it (STALE-ROUTES.md, "Handover"). Both of its ends look
//! here whenever they read, write or flush, so that it ends whichever of them holds the other up. A client is told so by a close frame, if its owner has just
//! ended one of its own: in the middle of one the stream can only be cut. So is a request that is not waited for.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

/// A close frame of a server, code 1012: the service restarts (RFC 6455, section 5.5.1; the code is registered with IANA).
pub(super) const CLOSE_FRAME: [u8; 4] = [0x88, 2, 0x03, 0xf4];

/// When the request is to end, if ever.
#[derive(Default)]
pub(crate) struct Ending {
    /// Most requests end by themselves, and are not held up here.
    is_set: AtomicBool,
    when: Mutex<When>,
}

#[derive(Default)]
enum When {
    #[default]
    Never,
    Then(Pin<Box<dyn Future<Output = ()> + Send>>),
    Now,
}

impl Ending {
    /// It is over when this has ended, and nothing else that was set before.
    pub(crate) fn set(&self, when: impl Future<Output = ()> + Send + 'static) {
        *self.lock() = When::Then(Box::pin(when));
        self.is_set.store(true, Ordering::Release);
    }

    /// Ready once it is over. Only one task may ask.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_set.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let mut when = self.lock();
        match &mut *when {
            When::Never => return Poll::Pending,
            When::Then(future) => std::task::ready!(future.as_mut().poll(context)),
            When::Now => {}
        }
        *when = When::Now;
        Poll::Ready(())
    }

    /// A poisoned lock guards plain data that is valid after any panic, or a future that is then never ready.
    fn lock(&self) -> MutexGuard<'_, When> {
        self.when.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Ending").field("is_set", &self.is_set).finish_non_exhaustive()
    }
}

/// How far a server has come in what it writes after an upgrade: the head that grants it, then frames (RFC 6455, section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frames {
    /// In the head; so many bytes of its end have been seen.
    Granting(usize),
    /// In a frame's own head: its bytes so far.
    Head([u8; 2], usize, u64),
    /// So many bytes of a frame are to come.
    Payload(u64),
}

impl Default for Frames {
    fn default() -> Self {
        Self::Granting(0)
    }
}

impl Frames {
    const START: Self = Self::Head([0; 2], 0, 0);
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";

    /// Takes note of what was written.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if let Self::Payload(left) = *self {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                bytes = &bytes[taken..];
                *self = Self::after(left - taken as u64);
                continue;
            }
            bytes = rest;
            *self = self.next(*first);
        }
    }

    /// Whether a frame of somebody else's may be put here.
    pub(super) fn is_between(self) -> bool {
        matches!(self, Self::Head(_, 0, _))
    }

    fn next(self, byte: u8) -> Self {
        match self {
            Self::Granting(seen) if byte != Self::END_OF_HEAD[seen] => Self::Granting(usize::from(byte == b'\r')),
            Self::Granting(3) => Self::START,
            Self::Granting(seen) => Self::Granting(seen + 1),
            Self::Payload(left) => Self::after(left.saturating_sub(1)),
            Self::Head([_, _], 0, _) => Self::Head([byte, 0], 1, 0),
            Self::Head([first, _], 1, _) => Self::head([first, byte], 2, u64::from(byte & 0x7f)),
            Self::Head(start, seen, length) => Self::head(start, seen + 1, length << 8 | u64::from(byte)),
        }
    }

    /// A frame's head of which so many bytes have come: with a length of its own in two or eight more, or whole.
    fn head(start: [u8; 2], seen: usize, length: u64) -> Self {
        let extended = match start[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        // Only a client's frames are masked, but that is for the client to find fault with.
        let mask = if start[1] & 0x80 == 0 { 0 } else { 4 };
        match seen {
            2 if extended > 0 => Self::Head(start, 2, 0),
            _ if seen < 2 + extended => Self::Head(start, seen, length),
            _ => Self::after(length.saturating_add(mask)),
        }
    }

    fn after(left: u64) -> Self {
        if left == 0 { Self::START } else { Self::Payload(left) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_where_frames_begin_however_they_are_written() {
        let long = |length: &[u8], payload: usize| [&[0x82][..], length, &vec![0x88; payload]].concat();
        let written = [
            b"HTTP/1.1 101 Switching Protocols\r\nA: \r\r\n\r\n".to_vec(),
            vec![0x89, 0],
            vec![0x81, 3, b'a', b'b', b'c'],
            long(&[126, 1, 0], 256),
            long(&[127, 0, 0, 0, 0, 0, 1, 0, 1], 65_537),
            vec![0x81, 0x81, 1, 2, 3, 4, b'x'],
            long(&[125], 125),
        ];
        let ends: Vec<usize> = (1..=written.len()).map(|parts| written[..parts].iter().map(Vec::len).sum()).collect();
        let all = written.concat();
        let mut frames = Frames::default();
        for (at, byte) in all.iter().enumerate() {
            frames.pass(&[*byte]);
            assert_eq!(frames.is_between(), ends.contains(&(at + 1)), "behind byte {at}");
        }
        let mut frames = Frames::default();
        for part in all.chunks(1000) {
            frames.pass(part);
        }
        assert!(frames.is_between());
        frames.pass(&[0x81, 2, b'a']);
        assert!(!frames.is_between());
    }
}

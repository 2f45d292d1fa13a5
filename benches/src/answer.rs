//! Reads an answer of HTTP/1.1 from pieces as they come, without a socket: no more of it is kept than a head that is not whole yet.

use std::mem::MaybeUninit;

use crate::fixed::OWNER_HEADER;

/// The most fields of a head.
const FIELDS: usize = 100;
/// The longest head, and the longest line between chunks.
const HEAD_BYTES: usize = 64 * 1024;
const LINE_BYTES: usize = 4096;

/// An answer that has been read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The owner that answered, if it said so.
    pub(crate) owner: Option<u64>,
    /// Whether the connection may carry another.
    pub(crate) keep: bool,
}

/// Why it is none; says what was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer(pub(crate) &'static str);

/// Reads one answer after the other.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    state: State,
    /// What is kept of a head, or of a line between chunks.
    kept: Vec<u8>,
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Head,
    /// So many bytes are left of the body.
    Body(u64),
    ChunkLine,
    Chunk(u64),
    /// Lines after the last chunk; how long this one is.
    Trailer(usize),
    UntilClosed,
}

impl Reader {
    /// Forgets what is left of an answer that was given up.
    pub(crate) fn reset(&mut self) {
        (self.state, self.answer) = (State::Head, None);
        self.kept.clear();
    }

    /// Takes what came; the answer, if it ends with that. `is_head`: there is no body, whatever the head says.
    pub(crate) fn take(&mut self, mut came: &[u8], is_head: bool) -> Result<Option<Answer>, NoAnswer> {
        loop {
            match self.state {
                State::Head => {
                    let (head, used) = if self.kept.is_empty() {
                        let Some(read) = read_head(came, is_head)? else {
                            self.kept.extend_from_slice(came);
                            return Ok(None);
                        };
                        read
                    } else {
                        let before = self.kept.len();
                        self.kept.extend_from_slice(came);
                        if self.kept.len() > HEAD_BYTES {
                            return Err(NoAnswer("its head does not end"));
                        }
                        let Some((head, bytes)) = read_head(&self.kept, is_head)? else { return Ok(None) };
                        self.kept.clear();
                        // What was kept was no whole head, so this one ends in what came.
                        (head, bytes - before)
                    };
                    came = &came[used..];
                    // An answer before the answer (100 to 199).
                    let Some((answer, state)) = head else { continue };
                    (self.answer, self.state) = (Some(answer), state);
                    if matches!(state, State::Body(0)) {
                        return Ok(self.end(came));
                    }
                }
                State::Body(left) => {
                    let here = left.min(came.len() as u64);
                    self.state = State::Body(left - here);
                    if left == here {
                        return Ok(self.end(&came[here as usize..]));
                    }
                    return Ok(None);
                }
                State::ChunkLine => {
                    let Some(at) = came.iter().position(|byte| *byte == b'\n') else {
                        self.kept.extend_from_slice(came);
                        if self.kept.len() > LINE_BYTES {
                            return Err(NoAnswer("a line before a chunk does not end"));
                        }
                        return Ok(None);
                    };
                    self.kept.extend_from_slice(&came[..=at]);
                    came = &came[at + 1..];
                    let size = httparse::parse_chunk_size(&self.kept);
                    self.kept.clear();
                    let Ok(httparse::Status::Complete((_, size))) = size else { return Err(NoAnswer("a chunk has no size")) };
                    self.state = match size {
                        0 => State::Trailer(0),
                        // With the line's end after it.
                        _ => State::Chunk(size.saturating_add(2)),
                    };
                }
                State::Chunk(left) => {
                    let here = left.min(came.len() as u64);
                    came = &came[here as usize..];
                    self.state = if left == here { State::ChunkLine } else { State::Chunk(left - here) };
                    if came.is_empty() {
                        return Ok(None);
                    }
                }
                State::Trailer(length) => {
                    let Some(at) = came.iter().position(|byte| *byte == b'\n') else {
                        let length = length + came.len();
                        self.state = State::Trailer(length);
                        return if length > LINE_BYTES { Err(NoAnswer("its trailers do not end")) } else { Ok(None) };
                    };
                    // An empty line: nothing, or the return before its end.
                    let is_empty = length + at <= 1;
                    came = &came[at + 1..];
                    self.state = State::Trailer(0);
                    if is_empty {
                        return Ok(self.end(came));
                    }
                }
                State::UntilClosed => return Ok(None),
            }
        }
    }

    /// The connection has ended: that may be the answer's end.
    pub(crate) fn closed(&mut self) -> Option<Answer> {
        if matches!(self.state, State::UntilClosed) { self.end(&[]) } else { None }
    }

    /// More than was asked for ends the connection.
    fn end(&mut self, after: &[u8]) -> Option<Answer> {
        self.state = State::Head;
        let answer = self.answer.take()?;
        Some(Answer { keep: answer.keep && after.is_empty(), ..answer })
    }
}

/// A head and its length, if it is whole; no answer if it is one before the answer.
type Head = (Option<(Answer, State)>, usize);

fn read_head(bytes: &[u8], is_head: bool) -> Result<Option<Head>, NoAnswer> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut head, bytes, &mut fields);
    let httparse::Status::Complete(length) = parsed.map_err(|_| NoAnswer("it is no HTTP"))? else { return Ok(None) };
    let status = head.code.unwrap_or(0);
    if (100..200).contains(&status) && status != 101 {
        return Ok(Some((None, length)));
    }
    let (mut body, mut chunked, mut close, mut owner) = (None, false, head.version == Some(0), None);
    // By their lengths first: most fields are none of these.
    for field in &*head.headers {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            14 if is("content-length") => body = Some(number(field.value).ok_or(NoAnswer("its length is no number"))?),
            17 if is("transfer-encoding") => chunked = true,
            10 if is("connection") && field.value.eq_ignore_ascii_case(b"close") => close = true,
            10 if is("connection") && field.value.eq_ignore_ascii_case(b"keep-alive") => close = false,
            7 if is(OWNER_HEADER) => owner = number(field.value),
            _ => {}
        }
    }
    let state = match body {
        _ if is_head || matches!(status, 101 | 204 | 304) => State::Body(0),
        _ if chunked => State::ChunkLine,
        Some(length) => State::Body(length),
        None => State::UntilClosed,
    };
    let keep = !close && status != 101 && !matches!(state, State::UntilClosed);
    Ok(Some((Some((Answer { status, owner, keep }, state)), length)))
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nX-Owner: 7\r\nContent-Length: 5\r\n\r\nhello";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\n";

    /// However an answer is cut, it is the same.
    #[test]
    fn an_answer_may_come_in_any_pieces() {
        let plain = Answer { status: 200, owner: Some(7), keep: true };
        let made = Answer { status: 201, owner: None, keep: true };
        for (bytes, wanted) in [(PLAIN, plain), (CHUNKED, made)] {
            for size in 1..=bytes.len() {
                let mut reader = Reader::default();
                for _ in 0..2 {
                    let pieces = bytes.chunks(size).map(|piece| reader.take(piece, false).unwrap());
                    let ends: Vec<_> = pieces.collect();
                    let (last, before) = ends.split_last().unwrap();
                    assert!(before.iter().all(Option::is_none) && *last == Some(wanted), "{size}: {ends:?}");
                }
            }
        }
    }

    #[test]
    fn what_ends_a_connection_is_noticed() {
        let read = |bytes: &[u8], is_head| Reader::default().take(bytes, is_head).unwrap();
        let keep = |bytes: &[u8]| read(bytes, false).map(|answer| answer.keep);
        assert_eq!(keep(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), Some(false));
        assert_eq!(keep(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"), Some(false));
        assert_eq!(keep(b"HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), Some(false));
        assert_eq!(keep(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"), Some(true));
        assert_eq!(keep(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(true));
        assert_eq!(keep(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore"), Some(false));
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true).map(|answer| answer.keep), Some(true));
        let mut reader = Reader::default();
        assert_eq!(reader.take(b"HTTP/1.1 200 OK\r\n\r\nhello", false), Ok(None));
        assert_eq!(reader.closed(), Some(Answer { status: 200, owner: None, keep: false }));
        assert_eq!(Reader::default().closed(), None);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let long = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), vec![b'1'; LINE_BYTES + 1]].concat();
        for bytes in [
            &b"SSH-2.0-x\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            &long,
        ] {
            assert!(Reader::default().take(bytes, false).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        let mut reader = Reader::default();
        assert_eq!(reader.take(b"HTTP/1.1 200 OK\r\nA: ", false), Ok(None));
        let endless = (0..HEAD_BYTES).find_map(|_| reader.take(b"xxxxxxxx", false).err());
        assert_eq!(endless, Some(NoAnswer("its head does not end")));
    }
}

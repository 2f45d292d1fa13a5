//! How an owner's answer is framed, followed as its bytes come.
//!
//! Looser than towards clients, as clients of HTTP are (white space behind a chunk's size, trailers, which are dropped): it has been executed, and
//! refusing it helps nobody. What always holds: what is told as data is the body's, and nothing behind its end is taken for it.

use super::Part;

/// The longest line of a chunk's size with its extensions.
const MOST_LINE_BYTES: usize = 8 << 10;
/// The largest chunk: what is larger is no size but an attempt to overflow one.
const MOST_CHUNK_BYTES: u64 = 1 << 60;
/// The most that trailers may be.
const MOST_TRAILER_BYTES: usize = 64 << 10;

/// The framing is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer's chunked framing is broken")]
pub struct Broken;

/// The rest of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerBody {
    /// So many bytes are to come.
    Length(u64),
    /// In chunks.
    Chunked(AnswerChunks),
    /// All that comes until the connection ends.
    UntilClose,
}

/// Where in chunked framing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerChunks {
    /// At the line of a chunk's size.
    Size,
    /// In data.
    Data {
        /// How much of it is still to come.
        left: u64,
    },
    /// Behind data, at its CRLF.
    DataEnd,
    /// Behind the last chunk; so many bytes of trailers have been seen.
    Trailers {
        /// How many.
        seen: usize,
    },
    /// The body is over.
    Done,
    /// What came is no chunk; nothing behind it can be read.
    Broken,
}

impl AnswerBody {
    /// At the start of a chunked body.
    pub const CHUNKED: Self = Self::Chunked(AnswerChunks::Size);

    /// Whether nothing more is to come.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(AnswerChunks::Done))
    }

    /// What the next bytes are, up to the end of the next data; moves on by as many. Nothing is taken where a line has not come whole.
    ///
    /// # Errors
    /// If the framing is broken.
    pub fn part(&mut self, bytes: &[u8]) -> Result<Part, Broken> {
        match self {
            Self::Length(left) => {
                let here = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= here as u64;
                Ok(Part { taken: here, data: 0..here })
            }
            Self::UntilClose => Ok(Part { taken: bytes.len(), data: 0..bytes.len() }),
            Self::Chunked(chunks) => chunks.part(bytes),
        }
    }
}

impl AnswerChunks {
    fn part(&mut self, bytes: &[u8]) -> Result<Part, Broken> {
        let part = self.follow(bytes);
        if part.is_err() {
            *self = Self::Broken;
        }
        part
    }

    fn follow(&mut self, bytes: &[u8]) -> Result<Part, Broken> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            match *self {
                Self::Data { left } => {
                    let here = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - here as u64;
                    // Data whose end is broken is not told, as far as the end has come.
                    if left == 0 && !b"\r\n".starts_with(&rest[here..rest.len().min(here + 2)]) {
                        return Err(Broken);
                    }
                    *self = if left == 0 { Self::DataEnd } else { Self::Data { left } };
                    return Ok(Part { taken: at + here, data: at..at + here });
                }
                Self::Size => match httparse::parse_chunk_size(rest) {
                    Ok(httparse::Status::Complete((line, size))) if size <= MOST_CHUNK_BYTES => {
                        at += line;
                        *self = if size == 0 { Self::Trailers { seen: 0 } } else { Self::Data { left: size } };
                    }
                    Ok(httparse::Status::Partial) if rest.len() <= MOST_LINE_BYTES => return Ok(Part::framing(at)),
                    _ => return Err(Broken),
                },
                Self::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        at += 2;
                        *self = Self::Size;
                    }
                    [] | [b'\r'] => return Ok(Part::framing(at)),
                    _ => return Err(Broken),
                },
                Self::Trailers { seen } => {
                    let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
                        return if seen + rest.len() <= MOST_TRAILER_BYTES { Ok(Part::framing(at)) } else { Err(Broken) };
                    };
                    match &rest[end..] {
                        [b'\r', b'\n', ..] => {}
                        [b'\r'] => return Ok(Part::framing(at)),
                        _ => return Err(Broken),
                    }
                    at += end + 2;
                    *self = if end == 0 { Self::Done } else { Self::Trailers { seen: seen + end } };
                    if seen + end > MOST_TRAILER_BYTES {
                        return Err(Broken);
                    }
                }
                Self::Done => return Ok(Part::framing(at)),
                Self::Broken => return Err(Broken),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data that is told when it comes in parts of so many bytes, and what is left behind it; whether it ended.
    fn decode(bytes: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>, bool), Broken> {
        let (mut body, mut data, mut here) = (AnswerBody::CHUNKED, Vec::new(), Vec::new());
        let mut parts = bytes.chunks(step.max(1));
        while !body.is_done() {
            let part = body.part(&here)?;
            data.extend_from_slice(&here[part.data]);
            here.drain(..part.taken);
            if part.taken == 0 || here.is_empty() {
                match parts.next() {
                    Some(more) => here.extend_from_slice(more),
                    None => return Ok((data, here, body.is_done())),
                }
            }
        }
        here.extend(parts.flatten());
        Ok((data, here, true))
    }

    #[test]
    fn chunks_are_followed_however_they_are_cut() {
        let bytes = b"3\r\nabc\r\n1;x=y\r\nd\r\n2 \r\nef\r\n0\r\nA: b\r\n\r\nnext";
        for step in 1..bytes.len() {
            assert_eq!(decode(bytes, step), Ok((b"abcdef".to_vec(), b"next".to_vec(), true)), "{step}");
        }
    }

    #[test]
    fn broken_framing_is_found() {
        for bytes in [&b"x\r\n"[..], b"3\r\nabcd\r\n", b"3\r\nabc\n0\r\n\r\n", b"0\r\nA: b\n\r\n", b"0\r\n\rx", b"ffffffffffffffff\r\n"] {
            assert!((1..=bytes.len()).all(|step| decode(bytes, step) == Err(Broken)), "{bytes:?}");
        }
        // And stays found, whatever comes.
        let mut body = AnswerBody::CHUNKED;
        assert_eq!(body.part(b"3\r\nabc\r\nzz\r\n"), Ok(Part { taken: 6, data: 3..6 }));
        assert_eq!((body.part(b"\r\nzz\r\n"), body.part(b"\r\n0\r\n\r\n")), (Err(Broken), Err(Broken)));
        let long = [b"0\r\n".to_vec(), vec![b'x'; MOST_TRAILER_BYTES + 1]].concat();
        assert_eq!(decode(&long, 1000), Err(Broken));
        let long = [b"1;".to_vec(), vec![b'x'; MOST_LINE_BYTES]].concat();
        assert_eq!(decode(&long, 1000), Err(Broken));
    }

    proptest! {
        #[test]
        fn what_is_written_in_chunks_is_read_back(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8), step in 1usize..40) {
            let mut bytes = Vec::new();
            for part in &parts {
                bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                bytes.extend_from_slice(part);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\nrest");
            prop_assert_eq!(decode(&bytes, step), Ok((parts.concat(), b"rest".to_vec(), true)));
        }

        #[test]
        fn nothing_panics_and_no_more_is_taken_than_there_is(bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'0'), any::<u8>()], 0..60)) {
            let mut body = AnswerBody::CHUNKED;
            if let Ok(part) = body.part(&bytes) {
                prop_assert!(part.taken <= bytes.len() && part.data.end <= part.taken);
            }
        }
    }
}

//! A request on its way to an owner: its head, and its body as it comes from the client.
//!
//! The body stands in the client's buffer behind the request's own head, so that it can be sent again, or handed to the general transport, by
//! beginning anew; what is longer than that is kept goes through the buffer and is gone. Bodies with a length are written from where they
//! stand, chunks are framed anew, and so is what comes without a framing of its own and ends when its client says so. What always holds: nothing behind the body's end is taken for it.

use bytes::BytesMut;
use waypost_policy::{
    Body, Code,
    framing::{Chunks, Framing},
};

use crate::transport::general::REPLAY_BYTES;

/// A body that is kept may take so much with its framing.
const KEPT_BYTES: usize = 8 * REPLAY_BYTES;
/// So much at most is framed ahead of what has been written.
const FRAMED_BYTES: usize = 64 << 10;
/// So much may be read at once.
const MOST_READ: usize = 64 << 10;
const LEAST_READ: usize = 4 << 10;

/// One request's way.
pub(super) struct Upload {
    framing: Framing,
    /// What is to go on in chunks comes without them.
    is_bare: bool,
    /// Of such a body: all of it is in the buffer, or has been.
    has_ended: bool,
    head_len: usize,
    /// 0: none.
    body_limit: u64,
    /// What of the body has not been found in the buffer yet.
    rest: Rest,
    /// So many bytes in the buffer behind the head are the body's.
    found: usize,
    /// Of a body with a length: so many of them have been written.
    sent: usize,
    /// To be written before anything else: the head, and chunks.
    lead: Vec<u8>,
    lead_sent: usize,
    /// All of it so far is in the buffer.
    is_kept: bool,
    /// Of the body alone, without its framing.
    pub(super) bytes: u64,
}

enum Rest {
    Length(u64),
    Chunks(Chunks),
    /// Until its client says that it has ended.
    Bare,
}

impl Rest {
    fn of(framing: Framing, is_bare: bool) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked if is_bare => Self::Bare,
            Framing::Chunked => Self::Chunks(Chunks::START),
        }
    }
}

impl Upload {
    /// Of a request whose head, so long, stands at the buffer's start; `lead` is to be used for what is written. `is_bare`: a body without a length comes
    /// without any framing.
    pub(super) fn new(framing: Framing, is_bare: bool, head_len: usize, lead: Vec<u8>) -> Self {
        Self {
            framing,
            is_bare,
            has_ended: false,
            head_len,
            body_limit: 0,
            rest: Rest::of(framing, is_bare),
            found: 0,
            sent: 0,
            lead,
            lead_sent: 0,
            is_kept: true,
            bytes: 0,
        }
    }

    /// What was given to it, for the next one.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.lead
    }

    /// No more than that may come.
    pub(super) fn limit(&mut self, body_limit: u64) {
        self.body_limit = body_limit;
    }

    /// Begins with another owner, by the head that `write` writes.
    ///
    /// # Errors
    /// The code to answer with, if what has come of the body is broken or too much.
    pub(super) fn begin(&mut self, buffer: &BytesMut, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Code> {
        (self.rest, self.found, self.sent, self.bytes) = (Rest::of(self.framing, self.is_bare), 0, 0, 0);
        self.lead.clear();
        self.lead_sent = 0;
        write(&mut self.lead);
        self.find(buffer)
    }

    /// May it be sent again?
    pub(super) fn body(&self) -> Body {
        match self.framing {
            Framing::Length(0) => Body::None,
            _ if !self.is_kept => Body::Spent,
            _ if self.bytes == 0 => Body::Withheld,
            _ => Body::Buffered,
        }
    }

    /// Whether all of it has come from the client.
    pub(super) fn has_come(&self) -> bool {
        matches!(self.rest, Rest::Length(0) | Rest::Chunks(Chunks::Done))
    }

    /// What is to be written now, in this order.
    pub(super) fn unwritten<'a>(&'a self, buffer: &'a BytesMut) -> (&'a [u8], &'a [u8]) {
        let body = match self.framing {
            Framing::Length(_) => &buffer[self.head_len + self.sent..self.head_len + self.found],
            Framing::Chunked => &[],
        };
        (&self.lead[self.lead_sent..], body)
    }

    /// So much of it has been written.
    pub(super) fn written(&mut self, bytes: usize) {
        let of_lead = bytes.min(self.lead.len() - self.lead_sent);
        self.lead_sent += of_lead;
        self.sent += bytes - of_lead;
        if self.lead_sent == self.lead.len() {
            self.lead.clear();
            self.lead_sent = 0;
        }
    }

    /// Looks for the body in what has come; true if there was something new. What went before has been written.
    ///
    /// # Errors
    /// The code to answer with, if its framing is broken or it is too much.
    pub(super) fn advance(&mut self, buffer: &mut BytesMut) -> Result<bool, Code> {
        if !self.is_kept && self.found > 0 {
            let behind = self.head_len + self.found;
            buffer.copy_within(behind.., self.head_len);
            buffer.truncate(buffer.len() - self.found);
            (self.found, self.sent) = (0, 0);
        }
        let before = self.found;
        self.find(buffer)?;
        Ok(self.found > before)
    }

    /// Its client sends nothing more, and all that has come has been looked at; false if the body is not whole with that.
    pub(super) fn ends(&mut self) -> bool {
        let is_end = matches!(self.rest, Rest::Bare);
        if is_end {
            self.has_ended = true;
            self.end_bare();
        }
        is_end
    }

    fn end_bare(&mut self) {
        self.lead.extend_from_slice(LAST_CHUNK);
        self.rest = Rest::Chunks(Chunks::Done);
    }

    /// How much may be read of the client at once.
    pub(super) fn room(&self) -> usize {
        match self.rest {
            Rest::Length(left) => usize::try_from(left).unwrap_or(MOST_READ).clamp(LEAST_READ, MOST_READ),
            Rest::Chunks(_) | Rest::Bare => MOST_READ,
        }
    }

    /// How many bytes behind the body have come.
    pub(super) fn behind(&self, buffer: &BytesMut) -> usize {
        buffer.len() - self.head_len - self.found
    }

    /// Where the request ends in the buffer, as far as it has come.
    pub(super) fn end(&self) -> usize {
        self.head_len + self.found
    }

    fn find(&mut self, buffer: &BytesMut) -> Result<(), Code> {
        while !self.has_come() {
            let here = &buffer[self.head_len + self.found..];
            if self.has_ended && here.is_empty() {
                self.end_bare();
                break;
            }
            if here.is_empty() || self.lead.len() > FRAMED_BYTES {
                break;
            }
            match &mut self.rest {
                Rest::Length(left) => {
                    let taken = here.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    self.found += taken;
                    self.bytes += taken as u64;
                }
                Rest::Chunks(chunks) => {
                    let part = chunks.part(here)?;
                    write_chunk(&here[part.data.clone()], &mut self.lead);
                    self.found += part.taken;
                    self.bytes += part.data.len() as u64;
                    if *chunks == Chunks::Done {
                        self.lead.extend_from_slice(LAST_CHUNK);
                    }
                }
                Rest::Bare => {
                    write_chunk(here, &mut self.lead);
                    self.found += here.len();
                    self.bytes += here.len() as u64;
                }
            }
            self.is_kept &= self.bytes <= REPLAY_BYTES as u64 && self.found <= KEPT_BYTES;
            if self.body_limit > 0 && self.bytes > self.body_limit {
                return Err(Code::BodyTooLarge);
            }
        }
        Ok(())
    }
}

/// What ends a chunked body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes data as a chunk; none where there is none.
pub(super) fn write_chunk(data: &[u8], out: &mut Vec<u8>) {
    if !data.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written to an owner when the request comes in parts of so many bytes; and what is left in the buffer.
    fn carry(request: &[u8], head_len: usize, framing: Framing, step: usize) -> Result<(Vec<u8>, Vec<u8>), Code> {
        let (mut upload, mut buffer, mut seen) =
            (Upload::new(framing, false, head_len, Vec::new()), BytesMut::from(&request[..head_len]), Vec::new());
        upload.begin(&buffer, |out| out.extend_from_slice(b"HEAD:"))?;
        for part in request[head_len..].chunks(step) {
            buffer.extend_from_slice(part);
            loop {
                let (lead, body) = upload.unwritten(&buffer);
                let written = [lead, body].concat();
                seen.extend_from_slice(&written);
                upload.written(written.len());
                if written.is_empty() && !upload.advance(&mut buffer)? {
                    break;
                }
            }
        }
        assert!(upload.has_come());
        Ok((seen, buffer.split_off(upload.end()).to_vec()))
    }

    #[test]
    fn a_body_goes_on_however_it_comes_and_what_is_behind_it_stays() {
        let long = vec![b'x'; 3 * REPLAY_BYTES];
        for (head, framing, body, wanted) in [
            ("L\r\n", Framing::Length(5), b"hello".to_vec(), b"hello".to_vec()),
            ("L\r\n", Framing::Length(long.len() as u64), long.clone(), long.clone()),
            ("C\r\n", Framing::Chunked, b"3;a=b\r\nabc\r\n0\r\n\r\n".to_vec(), b"3\r\nabc\r\n0\r\n\r\n".to_vec()),
        ] {
            let request = [head.as_bytes(), &body, b"GET /next"].concat();
            let wanted = [b"HEAD:", &*wanted].concat();
            for step in [4096, 100_000, 1_000_000] {
                assert_eq!(carry(&request, 3, framing, step), Ok((wanted.clone(), b"GET /next".to_vec())), "{framing:?} by {step}");
            }
        }
    }

    #[test]
    fn chunks_are_framed_anew_however_they_are_cut() {
        let request = b"C\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\n\r\nrest";
        for step in 1..request.len() {
            let (seen, left) = carry(request, 3, Framing::Chunked, step).unwrap();
            let (mut chunks, mut data, mut at) = (Chunks::START, Vec::new(), 5);
            while chunks != Chunks::Done {
                let part = chunks.part(&seen[at..]).unwrap();
                data.extend_from_slice(&seen[at..][part.data]);
                at += part.taken;
            }
            assert_eq!((&*data, at, &*left), (&b"abcde"[..], seen.len(), &b"rest"[..]), "by {step}");
        }
        assert_eq!(carry(b"C\r\n3\r\nabcX", 3, Framing::Chunked, 4), Err(Code::BadRequest));
    }

    #[test]
    fn what_is_longer_than_what_is_kept_is_spent_and_can_be_too_much() {
        let mut buffer = BytesMut::from(&b"L\r\n"[..]);
        let mut upload = Upload::new(Framing::Length(1 << 20), false, 3, Vec::new());
        upload.begin(&buffer, |_| ()).unwrap();
        assert_eq!(upload.body(), Body::Withheld);
        buffer.extend_from_slice(&vec![b'x'; REPLAY_BYTES]);
        upload.advance(&mut buffer).unwrap();
        assert_eq!(upload.body(), Body::Buffered);
        upload.written(REPLAY_BYTES);
        buffer.extend_from_slice(b"x");
        upload.advance(&mut buffer).unwrap();
        assert_eq!(upload.body(), Body::Spent);
        upload.written(1);
        upload.advance(&mut buffer).unwrap();
        assert_eq!(&buffer[..], b"L\r\n");
        upload.limit(REPLAY_BYTES as u64 + 10);
        buffer.extend_from_slice(&[b'x'; 10]);
        assert_eq!(upload.advance(&mut buffer), Err(Code::BodyTooLarge));
    }

    #[test]
    fn what_comes_without_a_framing_goes_in_chunks_and_ends_when_its_client_says_so() {
        let mut buffer = BytesMut::from(&b"B\r\n"[..]);
        let mut upload = Upload::new(Framing::Chunked, true, 3, Vec::new());
        let mut seen = Vec::new();
        let mut write = |upload: &mut Upload, buffer: &BytesMut| {
            let written = upload.unwritten(buffer).0.to_vec();
            upload.written(written.len());
            seen.extend_from_slice(&written);
        };
        upload.begin(&buffer, |out| out.extend_from_slice(b"HEAD:")).unwrap();
        for part in [&b"hello"[..], b"0\r\n\r\n"] {
            buffer.extend_from_slice(part);
            assert!(upload.advance(&mut buffer).unwrap());
            write(&mut upload, &buffer);
        }
        assert!(!upload.has_come() && upload.ends());
        assert!(upload.has_come() && !upload.ends());
        write(&mut upload, &buffer);
        assert_eq!(upload.body(), Body::Buffered);
        // Once more, to another owner: all of it is there.
        upload.begin(&buffer, |out| out.extend_from_slice(b"AGAIN:")).unwrap();
        assert!(upload.has_come());
        write(&mut upload, &buffer);
        let wanted = b"HEAD:5\r\nhello\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\nAGAIN:a\r\nhello0\r\n\r\n\r\n0\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(wanted));
    }
}

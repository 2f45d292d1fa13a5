//! Backends that answer every request with the same bytes, as cheaply as can be: what proxies are measured in front of.
//!
//! An answer is made once, and a request's body is read over, never kept.

use std::{mem::MaybeUninit, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What an owner's answers name it by, a number.
pub const OWNER_HEADER: &str = "x-owner";

/// The most fields of a head.
const FIELDS: usize = 100;
/// The most that is read at once of requests without large bodies; a head must fit.
const READ_BYTES: usize = 16 * 1024;
/// The most that is read at once of a large body.
const BODY_READ_BYTES: usize = 256 * 1024;

/// Serves until dropped. Requests may have a body, chunked or with `Content-Length`; pipelining is answered in order, and
/// `Connection: close` is obeyed.
pub async fn serve_fixed(listener: TcpListener, body_bytes: usize) {
    serve_answer(listener, "", body_bytes).await;
}

/// The same for one owner of many: each answer says by [`OWNER_HEADER`] who gave it.
pub async fn serve_owner(listener: TcpListener, number: usize) {
    serve_answer(listener, &format!("{OWNER_HEADER}: {number}\r\n"), 2).await;
}

async fn serve_answer(listener: TcpListener, fields: &str, body_bytes: usize) {
    let answer: Arc<[u8]> = [
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{fields}Content-Length: {body_bytes}\r\n\r\n").into_bytes(),
        vec![b'x'; body_bytes],
    ]
    .concat()
    .into();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(serve(stream, Arc::clone(&answer)));
    }
}

async fn serve(stream: TcpStream, answer: Arc<[u8]>) {
    let _ = stream.set_nodelay(true);
    let mut incoming = Incoming { stream, came: Vec::with_capacity(READ_BYTES), scratch: Vec::new() };
    loop {
        let Some(Request { head_bytes, body, close }) = Request::read(&incoming.came) else { return };
        if head_bytes == 0 {
            if incoming.more().await.is_none() {
                return;
            }
            continue;
        }
        incoming.came.drain(..head_bytes);
        if incoming.read_over(&body).await.is_none() || incoming.stream.write_all(&answer).await.is_err() || close {
            return;
        }
    }
}

/// The head of a request.
struct Request {
    /// 0 while it is not whole.
    head_bytes: usize,
    body: Body,
    close: bool,
}

enum Body {
    Length(u64),
    Chunked,
}

impl Request {
    /// Nothing, if it is none.
    fn read(came: &[u8]) -> Option<Self> {
        let mut request = Self { head_bytes: 0, body: Body::Length(0), close: false };
        if came.is_empty() {
            return Some(request);
        }
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
        let mut head = httparse::Request::new(&mut []);
        let httparse::Status::Complete(head_bytes) = head.parse_with_uninit_headers(came, &mut fields).ok()? else { return Some(request) };
        request.head_bytes = head_bytes;
        for field in &*head.headers {
            // By their lengths first: most fields are none of these.
            match field.name.len() {
                14 if field.name.eq_ignore_ascii_case("content-length") => {
                    request.body = Body::Length(std::str::from_utf8(field.value).ok()?.parse().ok()?);
                }
                17 if field.name.eq_ignore_ascii_case("transfer-encoding") => request.body = Body::Chunked,
                10 if field.name.eq_ignore_ascii_case("connection") => request.close = field.value.eq_ignore_ascii_case(b"close"),
                _ => {}
            }
        }
        Some(request)
    }
}

/// A connection, and what of it has not been looked at.
struct Incoming {
    stream: TcpStream,
    came: Vec<u8>,
    /// Where large bodies go.
    scratch: Vec<u8>,
}

impl Incoming {
    /// Reads to a body's end; what came after it is left. Nothing, if it does not come to an end.
    async fn read_over(&mut self, body: &Body) -> Option<()> {
        if let Body::Length(bytes) = body {
            return self.skip(*bytes).await;
        }
        loop {
            let httparse::Status::Complete((line, size)) = httparse::parse_chunk_size(&self.came).ok()? else {
                self.more().await?;
                continue;
            };
            self.came.drain(..line);
            if size == 0 {
                return self.skip_trailers().await;
            }
            self.skip(size.checked_add(2)?).await?;
        }
    }

    /// Reads over so many bytes, of which some may have come.
    async fn skip(&mut self, bytes: u64) -> Option<()> {
        let mut left = self.drain(bytes);
        while left > READ_BYTES as u64 {
            self.scratch.resize(BODY_READ_BYTES, 0);
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(BODY_READ_BYTES);
            match self.stream.read(&mut self.scratch[..most]).await {
                Ok(read @ 1..) => left -= read as u64,
                _ => return None,
            }
        }
        while left > 0 {
            self.more().await?;
            left = self.drain(left);
        }
        Some(())
    }

    /// Reads over lines up to an empty one.
    async fn skip_trailers(&mut self) -> Option<()> {
        loop {
            let Some(end) = self.came.windows(2).position(|two| two == b"\r\n") else {
                self.more().await?;
                continue;
            };
            self.came.drain(..end + 2);
            if end == 0 {
                return Some(());
            }
        }
    }

    /// How many of these bytes have not come yet.
    fn drain(&mut self, bytes: u64) -> u64 {
        let here = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.came.len());
        self.came.drain(..here);
        bytes - here as u64
    }

    async fn more(&mut self) -> Option<()> {
        if self.came.len() >= READ_BYTES {
            return None;
        }
        matches!(self.stream.read_buf(&mut self.came).await, Ok(1..)).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends all of it in pieces of a size; how many answers come before the connection ends.
    async fn answers(requests: &[u8], piece: usize) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = tokio::spawn(serve_fixed(listener, 3));
        let (mut reading, mut writing) = stream.split();
        let mut said = Vec::new();
        let write = async {
            for piece in requests.chunks(piece) {
                writing.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            writing.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(write, reading.read_to_end(&mut said));
        read.unwrap();
        server.abort();
        String::from_utf8(said).unwrap().matches("\r\n\r\nxxx").count()
    }

    #[tokio::test]
    async fn every_request_is_answered_once_whatever_its_body() {
        let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n4\r\nabcd\r\n0\r\nA: b\r\n\r\n".to_vec();
        let sized = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello".to_vec();
        let large = [b"POST / HTTP/1.1\r\nContent-Length: 300000\r\n\r\n".to_vec(), vec![b'x'; 300_000]].concat();
        let large_chunk =
            [b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n493e0\r\n".to_vec(), vec![b'x'; 300_000], b"\r\n0\r\n\r\n".to_vec()]
                .concat();
        let get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
        let all = [get.clone(), chunked, sized, large, large_chunk, get].concat();
        for piece in [7, 1000, all.len()] {
            assert_eq!(answers(&all, piece).await, 6, "{piece}");
        }
        assert_eq!(answers(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n", 1000).await, 1);
        assert_eq!(answers(b"no HTTP\r\n\r\n", 1000).await, 0);
    }
}

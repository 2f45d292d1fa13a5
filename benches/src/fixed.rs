//! Backends that answer every request with the same bytes, as cheaply as can be: what proxies are measured in front of.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What an owner's answers name it by, a number.
pub const OWNER_HEADER: &str = "x-owner";

/// Serves until dropped. Requests may have a body with `Content-Length`; pipelining is answered in order.
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

async fn serve(mut stream: TcpStream, answer: Arc<[u8]>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        let Some(request_bytes) = request_len(&buffer) else {
            match stream.read_buf(&mut buffer).await {
                Ok(read) if read > 0 => continue,
                _ => return,
            }
        };
        if buffer.len() < request_bytes {
            match stream.read_buf(&mut buffer).await {
                Ok(read) if read > 0 => continue,
                _ => return,
            }
        }
        buffer.drain(..request_bytes);
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// How long the first request in the buffer is, body included; `None` while its head is not whole.
fn request_len(buffer: &[u8]) -> Option<usize> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(head_bytes) = head.parse(buffer).ok()? else { return None };
    let length = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok()).unwrap_or(0);
    Some(head_bytes + length)
}

//! A chunked body: it ends at the same byte however it is cut, and two readers behind make the same data of it.

use httparse::{Status, parse_chunk_size};
use waypost_policy::{Code, framing::Chunks};

use crate::parser::behind;

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The first byte says in which pieces the others come.
///
/// # Panics
/// If pieces are read in another way than the whole, or what is let through in another way by anybody behind.
pub fn chunks(bytes: &[u8]) {
    let Some((piece, body)) = bytes.split_first() else { return };
    let whole = follow(body, body.len().max(1));
    assert_eq!(whole, follow(body, usize::from(*piece % 9) + 1));
    if let Ok((end, Chunks::Done)) = whole {
        let data = data(&body[..end]);
        assert!(data.is_some(), "what is let through is chunked");
        assert_eq!(behind(&[HEAD, &body[..end]].concat(), true).map(|behind| behind.body), data);
    }
}

/// Where the body ends or all was taken, and what is expected then.
fn follow(body: &[u8], piece: usize) -> Result<(usize, Chunks), (Code, Chunks)> {
    let mut chunks = Chunks::START;
    let mut at = 0;
    for part in body.chunks(piece) {
        let taken = chunks.take(part).map_err(|code| (code, chunks))?;
        at += taken;
        if taken < part.len() {
            assert_eq!(chunks, Chunks::Done, "only the end leaves anything");
            break;
        }
    }
    Ok((at, chunks))
}

/// The data of a whole chunked body, read in the plainest way; `None` if it is none.
fn data(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let Ok(Status::Complete((line, size))) = parse_chunk_size(body) else { return None };
        let size = usize::try_from(size).ok()?;
        let chunk = body.get(line..line.checked_add(size)?)?;
        data.extend_from_slice(chunk);
        body = body[line + size..].strip_prefix(b"\r\n")?;
        if size == 0 {
            return body.is_empty().then_some(data);
        }
    }
}

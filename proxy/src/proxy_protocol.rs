//! The PROXY protocol on a listener: whom a connection is really from, as the balancer before us says (HAProxy's specification, versions 1 and 2).
//!
//! What always holds: not a byte behind the header is read, a connection that does not begin with one is closed, and a health check of the
//! balancer's own (`LOCAL`, `UNKNOWN`) keeps the address that it came from.

use std::{net::SocketAddr, time::Duration};

use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The shortest header there is: `PROXY UNKNOWN` and its line's end.
const SHORTEST: usize = 15;
/// Version 2 says in its first 16 bytes how much follows.
const FIXED: usize = 16;
/// The longest of version 1, by the specification; of version 2, with what it may say beside the addresses.
const LONGEST_1: usize = 107;
const LONGEST_2: usize = 4096;

/// Reads the header, for no longer than that. The client's address; `None`: the balancer speaks for itself.
///
/// # Errors
/// A sentence for the log.
pub(crate) async fn read_header(from: &mut (impl AsyncRead + Unpin), limit: Duration) -> Result<Option<SocketAddr>, String> {
    let read = read(from);
    let read = if limit.is_zero() {
        read.await
    } else {
        timeout(limit, read).await.unwrap_or_else(|_| Err(format!("no header within {limit:?}")))
    };
    let bytes = read?;
    match ProxyHeader::parse(&bytes, ParseConfig::default()) {
        Ok((header, length)) if length == bytes.len() => Ok(header.proxied_address().map(|address| address.source)),
        Ok(_) | Err(Error::BufferTooShort) => Err("its header has another length than it says".to_owned()),
        Err(error) => Err(format!("its header can't be read: {error}")),
    }
}

async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, String> {
    let say = |error: std::io::Error| format!("no header came: {error}");
    let mut bytes = vec![0; SHORTEST];
    from.read_exact(&mut bytes).await.map_err(say)?;
    if bytes.starts_with(SIGNATURE) {
        bytes.push(from.read_u8().await.map_err(say)?);
        let rest = usize::from(u16::from_be_bytes([bytes[FIXED - 2], bytes[FIXED - 1]]));
        if FIXED + rest > LONGEST_2 {
            return Err(format!("its header is longer than {LONGEST_2} bytes"));
        }
        bytes.resize(FIXED + rest, 0);
        from.read_exact(&mut bytes[FIXED..]).await.map_err(say)?;
        return Ok(bytes);
    }
    if !bytes.starts_with(b"PROXY ") {
        return Err("it does not begin with a PROXY header; set proxy_protocol only where a balancer sends one".to_owned());
    }
    while !bytes.ends_with(b"\r\n") {
        if bytes.len() >= LONGEST_1 {
            return Err(format!("its header has no end within {LONGEST_1} bytes"));
        }
        bytes.push(from.read_u8().await.map_err(say)?);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;

    use super::*;

    const BEHIND: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    /// The address, or the error, and what is left of the stream.
    fn of(header: &[u8]) -> (Result<Option<SocketAddr>, String>, Vec<u8>) {
        let stream = [header, BEHIND].concat();
        let mut left = &stream[..];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let read = runtime.block_on(read_header(&mut left, Duration::from_secs(5)));
        (read, left.to_vec())
    }

    fn encoded(source: &str, version: u8) -> Vec<u8> {
        let source: SocketAddr = source.parse().unwrap();
        let to = SocketAddr::new(source.ip(), 443);
        let (header, mut bytes) = (ProxyHeader::with_address(ProxiedAddress::stream(source, to)), Vec::new());
        if version == 1 {
            header.encode_v1(&mut bytes).unwrap()
        } else {
            header.encode_v2(&mut bytes).unwrap()
        }
        bytes
    }

    #[test]
    fn the_client_is_whom_the_header_names_and_nothing_behind_it_is_read() {
        for source in ["192.0.2.1:50000", "[2001:db8::1]:1"] {
            for version in [1, 2] {
                assert_eq!(of(&encoded(source, version)), (Ok(Some(source.parse().unwrap())), BEHIND.to_vec()), "{source} {version}");
            }
        }
        assert_eq!(of(b"PROXY UNKNOWN\r\n"), (Ok(None), BEHIND.to_vec()));
        assert_eq!(of(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), (Ok(None), BEHIND.to_vec()));
        let local = [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat();
        assert_eq!(of(&local), (Ok(None), BEHIND.to_vec()));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let endless = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        let huge = [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
        for bad in [&b""[..], b"PROXY TCP4 1.2.3.4\r\n", b"PROXY TCP4 a b c d\r\n", b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", &endless, &huge]
        {
            assert!(of(bad).0.is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(start in 0..3usize, rest in proptest::collection::vec(any::<u8>(), 0..300)) {
            let start = [&b""[..], b"PROXY ", SIGNATURE][start];
            let _ = of(&[start, &rest].concat());
        }
    }
}

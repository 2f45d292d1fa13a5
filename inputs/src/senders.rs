//! The PROXY protocol's header: nothing behind it is read, and the sender is the one that a plain reading finds.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use crate::{parser::run, proxy_protocol::read_header};

/// The first bytes of a connection.
///
/// # Panics
/// If the sender is another one than a plain reading finds, or depends on what follows.
pub fn proxy_header(bytes: &[u8]) {
    let mut left = bytes;
    let Some(Ok(sender)) = run(read_header(&mut left, Duration::ZERO)) else { return };
    let header = &bytes[..bytes.len() - left.len()];
    let mut alone = header;
    assert_eq!(run(read_header(&mut alone, Duration::ZERO)), Some(Ok(sender)), "what follows does not count");
    assert!(alone.is_empty());
    if header.starts_with(b"PROXY ") {
        assert!(header.len() <= 107 && header.ends_with(b"\r\n"));
        assert_eq!(sender, by_text(header));
    } else if let Some(plain) = by_bytes(header) {
        assert_eq!(sender, plain);
    }
}

/// Behind `UNKNOWN` anything may stand; it is not looked at.
fn by_text(header: &[u8]) -> Option<SocketAddr> {
    let line = std::str::from_utf8(header).ok()?.strip_suffix("\r\n")?.strip_prefix("PROXY ")?;
    if line.starts_with("UNKNOWN") {
        return None;
    }
    let [kind, from, _, port, _] = *line.split(' ').collect::<Vec<_>>() else { return None };
    let address: IpAddr = from.parse().ok()?;
    assert!(matches!((kind, address), ("TCP4", IpAddr::V4(_)) | ("TCP6", IpAddr::V6(_))));
    Some(SocketAddr::new(address, port.parse().ok()?))
}

/// Of addresses over TCP, and of `LOCAL`; the outer `None`: something else.
fn by_bytes(header: &[u8]) -> Option<Option<SocketAddr>> {
    let port = |at: usize| Some(u16::from_be_bytes([*header.get(at)?, *header.get(at + 1)?]));
    match (header.get(12)?, header.get(13)?) {
        (0x20, _) => Some(None),
        (0x21, 0x11) => {
            let address: [u8; 4] = header.get(16..20)?.try_into().ok()?;
            Some(Some((address, port(24)?).into()))
        }
        (0x21, 0x21) => {
            let address: [u8; 16] = header.get(16..32)?.try_into().ok()?;
            Some(Some((Ipv6Addr::from(address), port(48)?).into()))
        }
        _ => None,
    }
}

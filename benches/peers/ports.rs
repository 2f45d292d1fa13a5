//! Ports for those that are started: below the range that outgoing connections take theirs from.
//!
//! Thousands of connections come and go while peers start; a port that was free a moment before may be one of theirs.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

use waypost_bench::processes::Told;

/// Linux begins at 32,768 unless it is told otherwise; below are few that listen always.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// How many have been given, so that none is given twice.
static GIVEN: AtomicU16 = AtomicU16::new(0);

/// An address on loopback that nobody has now.
pub(crate) fn free_address() -> Told<SocketAddr> {
    // Programs that run beside each other begin at different places.
    let start = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    for _ in 0..COUNT {
        let place = (start + u32::from(GIVEN.fetch_add(1, Ordering::Relaxed))) % u32::from(COUNT);
        let port = FIRST + u16::try_from(place).unwrap_or(0);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err("there is no free port".to_owned())
}

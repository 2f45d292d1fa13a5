//! The system's authorities. pingora reads them by itself, and ends the process over a single one that it can't use; where there is such a
//! one, or they can't be read at all, they are kept from it and those that can be used are named for each connection.

use std::sync::{Arc, OnceLock};

use pingora_core::protocols::tls::CaType;

use super::certificates;

/// Read once, at start.
static SIFTED: OnceLock<Option<Arc<CaType>>> = OnceLock::new();

/// Where pingora is to read authorities instead: there are none. `None`: it may read the system's.
pub(crate) fn ca_file() -> Option<String> {
    sifted().map(|_| "/dev/null".to_owned())
}

/// Those of the system's that can be used, where not all can.
pub(super) fn sifted() -> Option<Arc<CaType>> {
    SIFTED.get_or_init(sift).clone()
}

fn sift() -> Option<Arc<CaType>> {
    let all = rustls_native_certs::load_native_certs();
    if let Err(error) = &all {
        tracing::warn!("the system's authorities can't be read: {error}; upstreams with tls need a ca");
    }
    let (is_read, all) = (all.is_ok(), all.unwrap_or_default());
    let known = all.len();
    let usable: Vec<_> = all.into_iter().filter(certificates::is_authority).collect();
    if is_read && usable.len() == known {
        return None;
    }
    let unusable = known - usable.len();
    tracing::warn!(usable = usable.len(), unusable, "not all of the system's authorities can be used");
    Some(usable.into_iter().map(certificates::wrapped).collect())
}

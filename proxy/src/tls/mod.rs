//! TLS: towards clients, certificates of the table's records, chosen by SNI at each handshake, and clients' own; towards upstreams, what
//! their records trust and show.
//!
//! What always holds: a private key is read from a file or the environment and never leaves this module but into a handshake; material that
//! can't be used costs nobody else's, nor its own last good one; what is swapped touches no connection that stands.

mod certificates;
mod chosen;
mod keeper;
mod listener;
mod roots;
mod sources;
mod subject;
mod upstreams;

use std::sync::Arc;

pub(crate) use chosen::Certificates;
pub(crate) use keeper::Told;
pub(crate) use listener::Handshake;
pub(crate) use roots::ca_file;
pub(crate) use upstreams::{Reached, Upstreams, is_refusal, secure};

use crate::state::Shared;

/// Keeps the certificates that listeners show; runs for as long as the process does.
pub(crate) async fn keep_certificates(shared: Arc<Shared>) {
    keeper::keep::<chosen::OfListeners>(shared).await;
}

/// Keeps what connections to upstreams trust and show. A guard connects to none.
pub(crate) async fn keep_upstreams(shared: Arc<Shared>) {
    if shared.guard.is_none() {
        keeper::keep::<upstreams::OfUpstreams>(shared).await;
    }
}

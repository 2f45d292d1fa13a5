//! TLS towards clients: certificates of the table's records, chosen by SNI at each handshake, and clients' own.
//!
//! What always holds: a private key is read from a file or the environment and never leaves this module; a certificate that can't be used costs
//! nobody else's, nor its own last good one; what is swapped touches no connection that stands.

mod certificates;
mod chosen;
mod keeper;
mod listener;
mod subject;

pub(crate) use chosen::{Certificates, Told};
pub(crate) use keeper::keep_certificates;
pub(crate) use listener::Handshake;

//! A certificate and its key, or a list of authorities: looked at before they are used.
//!
//! No error repeats anything of what was read: it may be a key.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pingora_core::utils::tls::{WrappedX509, parse_x509};
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use waypost_conf::HostPattern;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::sources::Read;

/// A certificate that can be shown.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    /// The chain and the key, as rustls takes them.
    pub(super) key: Arc<CertifiedKey>,
    /// From when on nobody accepts it any more.
    pub(super) not_after: SystemTime,
    /// The hosts that it names.
    names: Vec<String>,
}

/// Makes a chain and its key usable.
///
/// # Errors
/// A sentence: what is wrong with them.
pub(super) fn load(chain: &Read, key: &PrivateKeyDer<'static>, provider: &CryptoProvider, now: SystemTime) -> Result<Loaded, String> {
    let chain = certificates(chain).map_err(|()| "the certificate is no PEM; blocks of CERTIFICATE would be right".to_owned())?;
    let first = chain.first().ok_or("no certificate is in it; a PEM chain, its own certificate first, would be right")?.clone();
    if chain.iter().any(|certificate| X509Certificate::from_der(certificate).is_err()) {
        return Err("the certificate is no X.509, or one of its chain is not".to_owned());
    }
    let key = CertifiedKey::from_der(chain, key.clone_key(), provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => "the private key is not the certificate's".to_owned(),
        _ => "the private key is of a kind that can't be used; RSA, ECDSA P-256 or P-384, or Ed25519 would be right".to_owned(),
    })?;
    let (_, parsed) = X509Certificate::from_der(&first).map_err(|_| "the certificate is no X.509".to_owned())?;
    let at = |time: x509_parser::time::ASN1Time| UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0));
    let (not_before, not_after) = (at(parsed.validity().not_before), at(parsed.validity().not_after));
    if not_after <= now {
        return Err(format!("the certificate expired on {}", humantime::format_rfc3339_seconds(not_after)));
    }
    if not_before > now {
        return Err(format!("the certificate is not valid before {}", humantime::format_rfc3339_seconds(not_before)));
    }
    let named = parsed.subject_alternative_name().ok().flatten();
    let names = named.into_iter().flat_map(|names| &names.value.general_names).filter_map(dns_name).collect();
    Ok(Loaded { key: Arc::new(key), not_after, names })
}

/// The one private key of a source.
///
/// # Errors
/// A sentence, if there is none.
pub(super) fn private_key(key: &Read) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(key).map_err(|_| "no private key is in its source; one PEM block would be right".to_owned())
}

/// Authorities that others' certificates may be signed by; at least one.
///
/// # Errors
/// A sentence: what is wrong with them.
pub(super) fn authorities(ca: &Read) -> Result<Vec<CertificateDer<'static>>, String> {
    let list = certificates(ca).map_err(|()| "the ca is no PEM; blocks of CERTIFICATE would be right".to_owned())?;
    if list.is_empty() {
        return Err("no certificate is in the ca: nobody could be trusted".to_owned());
    }
    if list.iter().all(is_authority) { Ok(list) } else { Err("the ca has a certificate that can't be an authority".to_owned()) }
}

/// Whether a certificate can be an authority, to rustls and to pingora.
pub(super) fn is_authority(certificate: &CertificateDer<'static>) -> bool {
    RootCertStore::empty().add(certificate.clone()).is_ok() && X509Certificate::from_der(certificate).is_ok()
}

/// As pingora keeps one that is known to be X.509.
pub(super) fn wrapped(certificate: CertificateDer<'static>) -> WrappedX509 {
    WrappedX509::new(certificate.to_vec(), parse_x509)
}

fn certificates(pem: &Read) -> Result<Vec<CertificateDer<'static>>, ()> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| ())
}

fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    }
}

impl Loaded {
    /// Those of a record's hosts that it does not name.
    pub(super) fn unnamed(&self, hosts: &[HostPattern]) -> Vec<String> {
        hosts.iter().filter(|host| !self.is_for(host)).map(ToString::to_string).collect()
    }

    /// Whether a client that asks for a host would accept it (RFC 9525, section 6.3: a wildcard is one label).
    fn is_for(&self, host: &HostPattern) -> bool {
        self.names.iter().any(|name| match (host, name.strip_prefix("*.")) {
            (HostPattern::Exact(host), None) => host.eq_ignore_ascii_case(name),
            (HostPattern::Exact(host), Some(parent)) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
            (HostPattern::Wildcard(_), None) => false,
            (HostPattern::Wildcard(wanted), Some(parent)) => wanted.eq_ignore_ascii_case(parent),
        })
    }
}

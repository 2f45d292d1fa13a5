//! One certificate: read from where its record says, and looked at before it is used.
//!
//! No error repeats anything of what was read: it may be a key.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use waypost_conf::{CertSource, Certificate, HostPattern, PrivateKeySource};
use waypost_watcher::files::why;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use xxhash_rust::xxh3::xxh3_128;

/// What a record's sources hold.
pub(crate) struct Material {
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// A certificate that can be used.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// The chain and the key, as rustls takes them.
    pub(crate) key: Arc<CertifiedKey>,
    /// From when on nobody accepts it any more.
    pub(crate) not_after: SystemTime,
    /// The record's hosts that the certificate does not name.
    pub(crate) unnamed: Vec<String>,
}

impl Material {
    /// Reads what a record names.
    ///
    /// # Errors
    /// A sentence: which source, and why it can't be read.
    pub(crate) fn read(record: &Certificate) -> Result<Self, String> {
        let file =
            |what: &str, path: &str| std::fs::read(path).map_err(|error| format!("the {what} {path} can't be read: {}", why(&error)));
        let chain = match &record.cert {
            CertSource::File(path) => file("certificate", path)?,
            CertSource::Inline(pem) => pem.clone().into_bytes(),
        };
        let key = match &record.key {
            PrivateKeySource::File(path) => file("private key", path)?,
            PrivateKeySource::Env(name) => match std::env::var(name) {
                Ok(key) => key.into_bytes(),
                Err(_) => return Err(format!("the private key is not in the environment: there is no {name}")),
            },
        };
        Ok(Self { chain, key })
    }

    /// What tells it from other material.
    pub(crate) fn digest(&self) -> [u128; 2] {
        [xxh3_128(&self.chain), xxh3_128(&self.key)]
    }
}

/// Makes a certificate usable.
///
/// # Errors
/// A sentence: what is wrong with it.
pub(crate) fn load(material: &Material, record: &Certificate, provider: &CryptoProvider, now: SystemTime) -> Result<Loaded, String> {
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&material.chain).collect();
    let chain = chain.map_err(|_| "the certificate is no PEM; blocks of CERTIFICATE would be right".to_owned())?;
    let first = chain.first().ok_or("no certificate is in it; a PEM chain, its own certificate first, would be right")?.clone();
    let key = PrivateKeyDer::from_pem_slice(&material.key)
        .map_err(|_| "no private key is in its source; one PEM block would be right".to_owned())?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
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
    let named: Vec<&str> = named.into_iter().flat_map(|names| &names.value.general_names).filter_map(dns_name).collect();
    let unnamed = record.hosts.iter().filter(|host| !is_named(host, &named)).map(ToString::to_string).collect();
    Ok(Loaded { key: Arc::new(key), not_after, unnamed })
}

fn dns_name<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::DNSName(name) => Some(name),
        _ => None,
    }
}

/// Whether a client that asks for a host would accept a certificate of these names (RFC 9525, section 6.3: a wildcard is one label).
fn is_named(host: &HostPattern, names: &[&str]) -> bool {
    names.iter().any(|name| match (host, name.strip_prefix("*.")) {
        (HostPattern::Exact(host), None) => host.eq_ignore_ascii_case(name),
        (HostPattern::Exact(host), Some(parent)) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
        (HostPattern::Wildcard(_), None) => false,
        (HostPattern::Wildcard(wanted), Some(parent)) => wanted.eq_ignore_ascii_case(parent),
    })
}

//! Secure connections to upstreams: what each trusts and shows, and why one could not be made.
//!
//! pingora shakes hands; what is decided here is whom it must meet. What always holds: to an upstream with `tls` nothing goes in the
//! clear; the name to check is never empty, since pingora checks nothing then; a connection is used again only by who would have
//! trusted it for the same reasons; no request reads a file.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::{
    Error, ErrorType, Result,
    connectors::L4Connect,
    protocols::{
        l4::{socket::SocketAddr, stream::Stream},
        tls::CaType,
    },
    upstreams::peer::{HttpPeer, Scheme, Tracer, Tracing},
    utils::tls::CertKey,
};
use rustls::{AlertDescription, crypto::CryptoProvider, pki_types::PrivateKeyDer};
use tokio::sync::Notify;
use waypost_conf::{Name, UpstreamTls};
use waypost_policy::{Failure, Lease, Table, wire::Stamp};

use super::{
    certificates,
    keeper::{Kind, Records, Told},
    roots,
    sources::{Material, Sources},
};
use crate::state::Shared;

/// A name that nobody has, where there is none to check: never the empty one.
const NOBODY: &str = "nobody.invalid";
/// How long a request waits for what a record that has just changed names to be read, where connections may take any time.
const READ_WITHIN: Duration = Duration::from_secs(1);
/// The same failure of the same endpoint is told once in so long.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// So many failures at most are told in that time.
const MOST_TOLD: usize = 1024;

/// What is in force for upstreams with TLS, by name.
#[derive(Default)]
pub(crate) struct Upstreams {
    in_force: ArcSwap<InForce>,
    changed: Notify,
    told: Mutex<Arc<Vec<Told>>>,
    failed: Mutex<HashMap<String, Failed>>,
}

pub(super) type InForce = BTreeMap<Name, Entry>;

pub(super) struct Entry {
    /// What was looked at.
    record: Arc<UpstreamTls>,
    /// What is in force of it, or of what the record said before; `None` if it never could be used.
    usable: Option<Arc<Usable>>,
    /// The record that this one has replaced, for requests that had chosen an endpoint by it: that one is not to be met by another's name.
    before: Option<Replaced>,
}

#[derive(Clone)]
struct Replaced {
    record: Arc<UpstreamTls>,
    usable: Option<Arc<Usable>>,
}

impl Entry {
    /// Takes note of what stood in its place.
    fn replaces(&mut self, before: &Self) {
        let is_same = before.record == self.record;
        self.before = if is_same {
            before.before.clone()
        } else {
            Some(Replaced { record: Arc::clone(&before.record), usable: before.usable.clone() })
        };
    }
}

/// What makes a connection secure.
pub(super) struct Usable {
    record: Arc<UpstreamTls>,
    ca: Option<Arc<CaType>>,
    shown: Option<(Arc<CertKey>, SystemTime)>,
    /// Tells its connections from those of any other: pingora leaves the authorities out of what it compares, and has of the certificate
    /// that is shown only the serial number.
    group: u64,
}

/// A failure that was told.
struct Failed {
    at: Instant,
    untold: u32,
}

/// How far a secure connection has come, shared with the attempt that makes it; `None`: it is not to be secure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reached(Option<Arc<AtomicBool>>);

impl Reached {
    /// Whether an attempt failed at the handshake: anything but a connection that was refused or took too long.
    pub(crate) fn fails_by(&self, error: &Error) -> bool {
        let Some(is_connected) = &self.0 else { return false };
        match error.etype() {
            ErrorType::TLSHandshakeFailure
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::TLSWantX509Lookup
            | ErrorType::InvalidCert
            | ErrorType::HandshakeError => true,
            // pingora has one word for both.
            ErrorType::ConnectTimedout => is_connected.load(Ordering::Relaxed),
            _ => false,
        }
    }
}

impl Tracing for Reached {
    fn on_connected(&self) {
        if let Some(is_connected) = &self.0 {
            is_connected.store(true, Ordering::Relaxed);
        }
    }

    fn on_disconnected(&self) {}

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

/// Makes no connection.
#[derive(Debug)]
struct Refusing(String);

#[async_trait]
impl L4Connect for Refusing {
    async fn connect(&self, _: &SocketAddr) -> Result<Stream> {
        Error::e_explain(ErrorType::TLSHandshakeFailure, self.0.clone())
    }
}

/// Makes a peer secure where its upstream's record says so; where that can't be, nothing will connect to it. Called last: what is set here
/// counts.
pub(crate) async fn secure(shared: &Shared, peer: &mut HttpPeer, lease: &Lease) -> Reached {
    let Some(tls) = &lease.upstream().tls else { return Reached::default() };
    let reached = Reached(Some(Arc::default()));
    peer.scheme = Scheme::HTTPS;
    peer.sni = NOBODY.to_owned();
    let limit = peer.options.connection_timeout.unwrap_or(READ_WITHIN);
    let usable = shared.upstreams.usable(shared, &lease.upstream().name, tls, limit).await;
    let named = usable.and_then(|usable| Ok((usable.record.name_for(&lease.endpoint().address)?.to_owned(), usable)));
    match named {
        Ok((name, usable)) => {
            peer.sni = name;
            peer.options.ca = usable.ca.clone();
            peer.client_cert_key = usable.shown.as_ref().map(|(shown, _)| Arc::clone(shown));
            peer.options.tracer = Some(Tracer(Box::new(reached.clone())));
            peer.group_key ^= usable.group;
        }
        Err(why) => {
            peer.options.custom_l4 = Some(Arc::new(Refusing(why)));
            peer.group_key = fastrand::u64(1..);
        }
    }
    reached
}

/// Whether an upstream has ended a connection because it does not take the certificate that it was shown. In TLS 1.3 it says so when
/// the request is under way already.
pub(crate) fn is_refusal(error: &Error) -> bool {
    let cause = error.root_cause();
    let read = cause.downcast_ref::<std::io::Error>().or_else(|| cause.downcast_ref::<h2::Error>()?.get_io());
    let cause = read.and_then(std::io::Error::get_ref);
    let Some(rustls::Error::AlertReceived(alert)) = cause.and_then(|cause| cause.downcast_ref()) else { return false };
    matches!(
        alert,
        AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
}

impl Upstreams {
    /// What is known of each record, by name.
    pub(crate) fn told(&self) -> Arc<Vec<Told>> {
        // A poisoned lock guards plain data.
        Arc::clone(&self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is in force for a record; waits for one that has just come into force to be read.
    async fn usable(&self, shared: &Shared, name: &Name, tls: &Arc<UpstreamTls>, limit: Duration) -> Result<Arc<Usable>, String> {
        let read = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                // From here on no change is missed.
                changed.as_mut().enable();
                if let Some(found) = self.find(shared, name, tls) {
                    return found;
                }
                changed.await;
            }
        };
        let read = tokio::time::timeout(limit, read).await.ok().flatten();
        read.ok_or_else(|| "what its record names for TLS can't be used; /status says why".to_owned())
    }

    /// `None`: the record, or the one that has replaced it meanwhile, has not been looked at yet. `Some(None)`: it can't be used.
    fn find(&self, shared: &Shared, name: &Name, tls: &Arc<UpstreamTls>) -> Option<Option<Arc<Usable>>> {
        let in_force = self.in_force.load();
        let entry = in_force.get(name);
        let is_of = |tls: &Arc<UpstreamTls>| entry.is_some_and(|entry| Arc::ptr_eq(&entry.record, tls) || entry.record == *tls);
        if is_of(tls) {
            return Some(entry?.usable.clone());
        }
        if let Some(before) = entry.and_then(|entry| entry.before.as_ref()).filter(|before| before.record == *tls) {
            return Some(before.usable.clone());
        }
        let table = shared.view.load();
        match table.as_ref().and_then(|table| table.upstream_named(name)).and_then(|upstream| upstream.tls.as_ref()) {
            None => Some(None),
            Some(newest) => is_of(newest).then(|| entry?.usable.clone()),
        }
    }

    /// Tells an operator why an attempt has failed, if it is for its connection that it could not be made secure; not more often than is of use.
    pub(crate) fn tell(&self, attempt: &Option<(Lease, Stamp)>, failure: Failure, error: &Error) {
        let (Failure::Tls, Some((lease, _))) = (failure, attempt) else { return };
        let (upstream, endpoint, why) = (&lease.upstream().name, lease.endpoint().address.as_str(), why(error));
        // Some reasons have the time in them.
        let timeless: String = why.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        if let Some(untold) = self.is_to_be_told(format!("{upstream} {endpoint} {timeless}"), Instant::now()) {
            tracing::warn!(%upstream, endpoint, untold, "no secure connection: {why}");
        }
    }

    /// How many like it were not told since the last that was; `None` if this one is not to be told either.
    fn is_to_be_told(&self, failure: String, now: Instant) -> Option<u32> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = failed.get_mut(&failure)
            && now.duration_since(known.at) < TOLD_EVERY
        {
            known.untold = known.untold.saturating_add(1);
            return None;
        }
        if failed.len() >= MOST_TOLD {
            failed.retain(|_, known| now.duration_since(known.at) < TOLD_EVERY);
        }
        if failed.len() >= MOST_TOLD {
            return None;
        }
        let before = failed.insert(failure, Failed { at: now, untold: 0 });
        Some(before.map_or(0, |before| before.untold))
    }
}

/// What an error of pingora's comes down to.
fn why(error: &Error) -> String {
    if *error.etype() == ErrorType::ConnectTimedout {
        return "no handshake within connect_ms".to_owned();
    }
    let Some(context) = &error.context else { return error.to_string() };
    let said = context.as_str();
    let cause = said.rsplit_once("cause: ").map_or(said, |(_, cause)| cause);
    cause.rsplit_once(", SNI: ").map_or(cause, |(cause, _)| cause).trim().to_owned()
}

/// What records of upstreams say of TLS.
pub(super) struct OfUpstreams;

impl Kind for OfUpstreams {
    type Record = Arc<UpstreamTls>;
    type Loaded = Arc<Usable>;
    type InForce = InForce;
    const FOLDER: &'static str = "upstreams";
    const NONE: &'static str = "its requests are answered 502 upstream_tls";

    fn records(table: &Table) -> &Records<Arc<UpstreamTls>> {
        table.secured()
    }

    fn read(record: &Arc<UpstreamTls>, sources: &mut Sources) -> Result<Material, String> {
        let ca = record.ca.as_ref().map(|ca| sources.certificates("ca", ca)).transpose()?;
        let own = match &record.shown {
            Some(shown) => Some((sources.certificates("certificate", &shown.cert)?, sources.private_key(&shown.key)?)),
            None => None,
        };
        Ok(Material { ca, own })
    }

    fn load(
        record: &Arc<UpstreamTls>,
        material: &Material,
        provider: &CryptoProvider,
        now: SystemTime,
    ) -> std::result::Result<Arc<Usable>, String> {
        let ca = material.ca.as_ref().map(certificates::authorities).transpose()?;
        let ca = ca.map(|list| list.into_iter().map(certificates::wrapped).collect()).or_else(roots::sifted);
        let shown = match &material.own {
            None => None,
            Some((chain, key)) => {
                let key = certificates::private_key(key)?;
                // pingora takes the bytes and finds out their kind by itself.
                let guessed = PrivateKeyDer::try_from(key.secret_der().to_vec());
                let guessed = guessed.map_err(|_| "the private key is of a kind that can't be used; PKCS #8 would be right".to_owned())?;
                let loaded = certificates::load(chain, &guessed, provider, now)?;
                let chain = loaded.key.cert.iter().map(|certificate| certificate.to_vec()).collect();
                Some((Arc::new(CertKey::new(chain, key.secret_der().to_vec())), loaded.not_after))
            }
        };
        Ok(Arc::new(Usable { record: Arc::clone(record), ca, shown, group: fastrand::u64(1..) }))
    }

    fn not_after(loaded: &Arc<Usable>) -> Option<SystemTime> {
        loaded.shown.as_ref().map(|(_, not_after)| *not_after)
    }

    fn shows_certificate(record: &Arc<UpstreamTls>) -> bool {
        record.shown.is_some()
    }

    fn add(to: &mut InForce, name: &Name, record: &Arc<UpstreamTls>, loaded: Option<&Arc<Usable>>) -> Vec<String> {
        to.insert(name.clone(), Entry { record: Arc::clone(record), usable: loaded.cloned(), before: None });
        Vec::new()
    }

    fn put(shared: &Shared, mut in_force: InForce, told: Vec<Told>) {
        let upstreams = &shared.upstreams;
        let before = upstreams.in_force.load();
        for (name, entry) in &mut in_force {
            before.get(name).inspect(|before| entry.replaces(before));
        }
        upstreams.in_force.store(Arc::new(in_force));
        *upstreams.told.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(told);
        upstreams.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_in_a_while_and_not_without_end() {
        let (upstreams, start) = (Upstreams::default(), Instant::now());
        let told = |failure: &str, after: Duration| upstreams.is_to_be_told(failure.to_owned(), start + after);
        assert_eq!(told("a", Duration::ZERO), Some(0));
        assert_eq!((told("a", Duration::ZERO), told("a", TOLD_EVERY / 2), told("b", TOLD_EVERY / 2)), (None, None, Some(0)));
        assert_eq!(told("a", TOLD_EVERY), Some(2));
        let all = (0..2 * MOST_TOLD).filter(|at| told(&format!("endpoint {at}"), TOLD_EVERY).is_some()).count();
        assert!((MOST_TOLD - 2..=MOST_TOLD).contains(&all), "{all}");
    }

    #[test]
    fn what_pingora_says_comes_down_to_the_cause() {
        let inner =
            "TLS connect() failed:  TLSHandshakeFailure context: tls connect error cause: invalid peer certificate: UnknownIssuer, SNI: a";
        let error = Error::explain(ErrorType::TLSHandshakeFailure, inner);
        assert_eq!(why(&error), "invalid peer certificate: UnknownIssuer");
        assert_eq!(why(&Error::explain(ErrorType::TLSHandshakeFailure, "no such name")), "no such name");
    }
}

//! Which certificate a client is shown: by the name that it asks for.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use waypost_conf::{Certificate, HostPattern, Name};
use waypost_policy::Table;

use super::{
    certificates::{self, Loaded},
    keeper::{Kind, Records, Told},
    sources::{Material, Sources},
};
use crate::state::Shared;

type ByHost = HashMap<Box<str>, Arc<CertifiedKey>, ahash::RandomState>;

/// The certificates in force, and what is said of all that there are.
#[derive(Default)]
pub(crate) struct Certificates {
    chosen: ArcSwap<Chosen>,
    told: Mutex<Arc<Vec<Told>>>,
}

/// The records of certificates for listeners.
pub(super) struct OfListeners;

impl Kind for OfListeners {
    type Record = Certificate;
    type Loaded = Loaded;
    type InForce = Chosen;
    const FOLDER: &'static str = "certificates";
    const NONE: &'static str = "there is none to show";

    fn records(table: &Table) -> &Records<Certificate> {
        table.certificates()
    }

    fn read(record: &Certificate, sources: &mut Sources) -> Result<Material, String> {
        let own = (sources.certificates("certificate", &record.cert)?, sources.private_key(&record.key)?);
        Ok(Material { ca: None, own: Some(own) })
    }

    fn load(_: &Certificate, material: &Material, provider: &CryptoProvider, now: SystemTime) -> Result<Loaded, String> {
        let (chain, key) = material.own.as_ref().ok_or("the record names no certificate")?;
        certificates::load(chain, &certificates::private_key(key)?, provider, now)
    }

    fn not_after(loaded: &Loaded) -> Option<SystemTime> {
        Some(loaded.not_after)
    }

    fn shows_certificate(_: &Certificate) -> bool {
        true
    }

    fn add(to: &mut Chosen, _: &Name, record: &Certificate, loaded: Option<&Loaded>) -> Vec<String> {
        let Some(loaded) = loaded else { return Vec::new() };
        let (taken, unnamed) = (to.add(record, &loaded.key), loaded.unnamed(&record.hosts));
        let taken = (!taken.is_empty()).then(|| format!("another certificate is used for {}", taken.join(", ")));
        let unnamed =
            (!unnamed.is_empty()).then(|| format!("the certificate does not name {}: clients refuse it there", unnamed.join(", ")));
        taken.into_iter().chain(unnamed).collect()
    }

    fn put(shared: &Shared, in_force: Chosen, told: Vec<Told>) {
        shared.certificates.set(in_force, told);
    }
}

/// By name: an exact one beats a wildcard, a longer wildcard a shorter one, then the default.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    exact: ByHost,
    wildcard: ByHost,
    default: Option<Arc<CertifiedKey>>,
}

impl Chosen {
    /// Adds a certificate; what another one has already stays that one's. The hosts that it does not get.
    pub(super) fn add(&mut self, record: &Certificate, key: &Arc<CertifiedKey>) -> Vec<String> {
        let mut taken = Vec::new();
        for host in &record.hosts {
            let (by_host, name) = match host {
                HostPattern::Exact(name) => (&mut self.exact, name),
                HostPattern::Wildcard(parent) => (&mut self.wildcard, parent),
            };
            if by_host.contains_key(name.as_str()) {
                taken.push(host.to_string());
            } else {
                by_host.insert(name.as_str().into(), Arc::clone(key));
            }
        }
        if record.default {
            if self.default.is_some() {
                taken.push("the default".to_owned());
            } else {
                self.default = Some(Arc::clone(key));
            }
        }
        taken
    }

    /// The certificate for a name; `None` as the name: the client asked for none.
    fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        self.find_named(name).or(self.default.as_ref())
    }

    fn find_named(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let name = name?.trim_end_matches('.').to_ascii_lowercase();
        let parents = || std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.')).map(|(_, parent)| parent);
        self.exact.get(name.as_str()).or_else(|| parents().find_map(|parent| self.wildcard.get(parent)))
    }
}

impl Certificates {
    /// From now on these are in force.
    fn set(&self, chosen: Chosen, told: Vec<Told>) {
        self.chosen.store(Arc::new(chosen));
        // A poisoned lock guards plain data.
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(told);
    }

    /// What is known of each record, by name.
    pub(crate) fn told(&self) -> Arc<Vec<Told>> {
        Arc::clone(&self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.chosen.load().find(hello.server_name()).cloned()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificates").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Arc<CertifiedKey> {
        let made = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        Arc::new(CertifiedKey::from_der(vec![made.cert.der().clone()], key, &rustls::crypto::ring::default_provider()).unwrap())
    }

    fn record(hosts: &str, default: bool) -> Certificate {
        serde_json::from_str(&format!(r#"{{"hosts":[{hosts}],"cert":"file:/c","key":"file:/k","default":{default}}}"#)).unwrap()
    }

    #[test]
    fn an_exact_name_beats_a_wildcard_and_a_longer_one_a_shorter_then_comes_the_default() {
        let mut chosen = Chosen::default();
        let keys: Vec<_> = (0..4).map(|_| key()).collect();
        let hosts = [r#""a.x.y""#, r#""*.x.y""#, r#""*.y""#, ""];
        for (hosts, key) in hosts.iter().zip(&keys) {
            assert!(chosen.add(&record(hosts, hosts.is_empty()), key).is_empty());
        }
        let place = |name| chosen.find(name).and_then(|found| keys.iter().position(|key| Arc::ptr_eq(key, found)));
        for (name, wanted) in [("a.x.y", 0), ("A.X.y.", 0), ("b.x.y", 1), ("c.b.x.y", 1), ("x.y", 2), ("z.y", 2), ("y", 3), ("other", 3)] {
            assert_eq!(place(Some(name)), Some(wanted), "{name}");
        }
        assert_eq!(place(None), Some(3));
        chosen.default = None;
        assert!(chosen.find(Some("other")).is_none() && chosen.find(None).is_none());
        assert_eq!(chosen.add(&record(r#""a.x.y","new.y""#, false), &key()), ["a.x.y"]);
    }
}

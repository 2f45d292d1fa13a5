//! A certificate authority of a test's own, and what it signs: made by the test, in a folder that goes with it.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;

/// How many there are in this process.
static MADE: AtomicU32 = AtomicU32::new(0);

/// The authority.
pub struct Certificates {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its own certificate (PEM).
    pub ca: PathBuf,
}

/// A certificate and its private key (PEM).
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes one.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each has a name of its own, as in life.
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("a test's authority {number}"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, issuer.pem()).unwrap();
        Self { folder, issuer, ca }
    }

    /// A certificate for this machine's loopback, as server or client, with this common name.
    pub fn sign(&self, common_name: &str) -> Signed {
        self.sign_for(common_name, &["localhost", "127.0.0.1"])
    }

    /// The same for other hosts.
    pub fn sign_for(&self, common_name: &str, hosts: &[&str]) -> Signed {
        self.signed(common_name, hosts, |_| {})
    }

    /// The same, good until long ago.
    pub fn sign_expired(&self, common_name: &str) -> Signed {
        self.signed(common_name, &["localhost", "127.0.0.1"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1))
    }

    /// The same for other hosts, good for that long from now.
    pub fn sign_for_a_while(&self, common_name: &str, hosts: &[&str], good: Duration) -> Signed {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        self.signed(common_name, hosts, |params| params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + good)
    }

    fn signed(&self, common_name: &str, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Signed {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let folder = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let signed = Signed { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        std::fs::write(&signed.cert, certificate.pem()).unwrap();
        std::fs::write(&signed.key, key.serialize_pem()).unwrap();
        signed
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

impl Signed {
    /// The flags by which a proxy shows it.
    pub fn flags(&self) -> [&str; 4] {
        ["--gold-cert", text(&self.cert), "--gold-key", text(&self.key)]
    }
}

/// A path that is text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

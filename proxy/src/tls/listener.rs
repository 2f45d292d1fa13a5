//! A listener's handshakes, and the connections that come of them.

use std::{sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
    server::{ServerSessionMemoryCache, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use waypost_conf::{ClientCert, Listener};
use waypost_watcher::files::why;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Certificates, subject};

/// Sessions of TLS 1.2 that can be resumed; those of 1.3 are kept by their clients.
const SESSIONS: usize = 20_000;

/// HTTP/2 as it is agreed on (RFC 7301).
const HTTP2: &[u8] = b"h2";

/// Makes connections secure.
#[derive(Clone)]
pub(crate) struct Handshake(TlsAcceptor);

/// A secure connection.
pub(crate) struct Secured(Box<TlsStream<TcpStream>>);

impl Handshake {
    /// For one listener.
    ///
    /// # Errors
    /// A sentence, if the clients' authorities can't be used.
    pub(crate) fn new(certificates: Arc<Certificates>, listener: &Listener) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let config = config.map_err(|error| format!("TLS can't be offered: {error}"))?;
        let config = match client_verifier(listener, provider)? {
            Some(verifier) => config.with_client_cert_verifier(verifier),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_cert_resolver(certificates);
        config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        config.ticketer = ring::Ticketer::new().map_err(|error| format!("session tickets can't be made: {error}"))?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands, for no longer than that.
    ///
    /// # Errors
    /// A sentence for the log. The client has been told by an alert, where it has got that far.
    pub(crate) async fn shake(&self, stream: TcpStream, limit: Duration) -> Result<Secured, String> {
        let shaken = self.0.accept(stream);
        let shaken = if limit.is_zero() { Ok(shaken.await) } else { tokio::time::timeout(limit, shaken).await };
        match shaken {
            Ok(Ok(stream)) => Ok(Secured(Box::new(stream))),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no handshake within {limit:?}")),
        }
    }
}

fn client_verifier(
    listener: &Listener,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let (Some(wanted), Some(source)) = (listener.client_cert, &listener.client_ca) else {
        return match (listener.client_cert, &listener.client_ca) {
            (Some(_), None) => Err("client_cert is set without client_ca: by whom clients' certificates must be signed".to_owned()),
            _ => Ok(None),
        };
    };
    let path = source.strip_prefix("file:").unwrap_or(source);
    let read = std::fs::read(path).map_err(|error| format!("client_ca {path} can't be read: {}", why(&error)))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read) {
        let certificate = certificate.map_err(|_| format!("client_ca {path} is no PEM; blocks of CERTIFICATE would be right"))?;
        roots.add(certificate).map_err(|_| format!("client_ca {path} has a certificate that can't be an authority"))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = if wanted == ClientCert::Optional { verifier.allow_unauthenticated() } else { verifier };
    verifier.build().map(Some).map_err(|_| format!("client_ca {path} holds no certificate"))
}

impl Secured {
    /// The stream inside it.
    pub(crate) fn into_inner(self) -> Box<TlsStream<TcpStream>> {
        self.0
    }

    /// Whether it was agreed to speak HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.0.get_ref().1.alpn_protocol() == Some(HTTP2)
    }

    /// The subject of the client's certificate (RFC 4514), if it has shown one that was accepted.
    pub(crate) fn subject(&self) -> Option<String> {
        let shown = self.0.get_ref().1.peer_certificates()?.first()?;
        let (_, parsed) = X509Certificate::from_der(shown).ok()?;
        Some(subject::text(parsed.subject()))
    }
}

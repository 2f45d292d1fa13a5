//! TLS before a backend that knows nothing of it: shakes hands, remembers how, and passes bytes on.
//!
//! So every backend of the harness can be a secure one, and what it has not seen was never said to it.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use rustls::{
    ProtocolVersion, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::Signed;

/// How it shakes hands.
#[derive(Clone, Debug)]
pub struct Handshaking {
    config: Arc<ServerConfig>,
}

/// A handshake that came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shaken {
    /// The name that the client asked for.
    pub sni: Option<String>,
    /// `Some(…)` by the version, `TLSv1_3`.
    pub version: Option<ProtocolVersion>,
    /// The client's own certificate (DER), if it has shown one.
    pub shown: Option<Vec<u8>>,
    /// What the two agreed on speaking.
    pub protocol: Option<Vec<u8>>,
}

/// A running one; gone when dropped, with all its connections.
pub struct SecureFront {
    /// Where it listens.
    pub address: SocketAddr,
    shaken: Arc<Mutex<Vec<Shaken>>>,
    failed: Arc<Mutex<Vec<String>>>,
    tasks: tokio::task::JoinHandle<()>,
}

impl Handshaking {
    /// Shows this certificate, in any version.
    pub fn by(signed: &Signed) -> Self {
        Self::with(signed, rustls::ALL_VERSIONS, None)
    }

    /// The same in these versions only; with authorities, only clients who show a certificate of theirs.
    pub fn with(signed: &Signed, versions: &[&'static SupportedProtocolVersion], clients: Option<&Path>) -> Self {
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                config.with_client_cert_verifier(verifier)
            }
        };
        let chain = vec![CertificateDer::from_pem_file(&signed.cert).unwrap()];
        let config = config.with_single_cert(chain, PrivateKeyDer::from_pem_file(&signed.key).unwrap()).unwrap();
        Self { config: Arc::new(config) }
    }

    /// And offers these protocols.
    pub fn offering(mut self, protocols: &[&[u8]]) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        self
    }
}

impl SecureFront {
    /// Starts one before a backend, on 127.0.0.1.
    pub async fn start(handshaking: &Handshaking, backend: SocketAddr) -> Self {
        Self::start_on("127.0.0.1:0", handshaking, backend).await
    }

    /// The same on any address.
    pub async fn start_on(address: &str, handshaking: &Handshaking, backend: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shaken, failed) = (Arc::<Mutex<Vec<Shaken>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (all, faults) = (Arc::clone(&shaken), Arc::clone(&failed));
        let acceptor = TlsAcceptor::from(Arc::clone(&handshaking.config));
        let tasks = tokio::spawn(async move {
            // All connections end with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(acceptor.clone(), stream, backend, Arc::clone(&all), Arc::clone(&faults)));
            }
        });
        Self { address, shaken, failed, tasks }
    }

    /// The handshakes that came to their end, in order: one a connection.
    pub fn shaken(&self) -> Vec<Shaken> {
        self.shaken.lock().unwrap().clone()
    }

    /// What the others failed with.
    pub fn failed(&self) -> Vec<String> {
        self.failed.lock().unwrap().clone()
    }
}

impl Drop for SecureFront {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

async fn serve(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    backend: SocketAddr,
    shaken: Arc<Mutex<Vec<Shaken>>>,
    failed: Arc<Mutex<Vec<String>>>,
) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut secure = match acceptor.accept(stream).into_fallible().await {
        Ok(secure) => secure,
        Err((error, mut stream)) => {
            failed.lock().unwrap().push(error.to_string());
            // The alert has gone; closing at once, with something unread, would take it back.
            let _ = stream.shutdown().await;
            return tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(|_| ());
        }
    };
    let session = secure.get_ref().1;
    shaken.lock().unwrap().push(Shaken {
        sni: session.server_name().map(str::to_owned),
        version: session.protocol_version(),
        shown: session.peer_certificates().and_then(|chain| Some(chain.first()?.to_vec())),
        protocol: session.alpn_protocol().map(<[u8]>::to_vec),
    });
    let mut plain = TcpStream::connect(backend).await?;
    plain.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut secure, &mut plain).await?;
    Ok(())
}

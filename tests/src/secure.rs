//! A client's secure connections: by rustls, with what a test wants to know of the handshake.

use std::{net::SocketAddr, path::Path, sync::Arc};

use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    client::{ClientSessionMemoryCache, Resumption},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::Signed;

/// A client; its sessions are resumed where the server lets it.
#[derive(Clone)]
pub struct SecureClient(Arc<ClientConfig>);

/// A connection.
pub struct SecurePeer {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl SecureClient {
    /// One that trusts this authority, and shows that certificate.
    pub fn new(ca: &Path, shows: Option<&Signed>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let mut config = match shows {
            None => config.with_no_client_auth(),
            Some(signed) => {
                let chain = vec![CertificateDer::from_pem_file(&signed.cert).unwrap()];
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&signed.key).unwrap()).unwrap()
            }
        };
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(16)));
        Self(Arc::new(config))
    }

    /// Shakes hands and asks for a host.
    ///
    /// # Errors
    /// What the handshake failed with.
    pub async fn connect(&self, to: SocketAddr, host: &str) -> Result<SecurePeer, String> {
        let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let shaken = TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await;
        Ok(SecurePeer { stream: shaken.map_err(|error| error.to_string())?, buffer: Vec::new() })
    }
}

impl SecurePeer {
    /// The server's own certificate (DER).
    pub fn certificate(&self) -> Vec<u8> {
        self.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// Whether an earlier session was resumed.
    pub fn is_resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Sends exact bytes, and reads until the other end closes; all that came.
    pub async fn exchange(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (mut reading, mut writing) = tokio::io::split(&mut self.stream);
        let mut got = std::mem::take(&mut self.buffer);
        let sending = async {
            let _ = writing.write_all(bytes).await;
            let _ = writing.flush().await;
        };
        let reading = async { while reading.read_buf(&mut got).await.is_ok_and(|read| read > 0) {} };
        let _ = tokio::time::timeout(crate::LIMIT, futures_util::future::join(sending, reading)).await;
        got
    }

    /// Sends a request and reads its answer, which has a length; the whole answer. An empty one: the connection has ended.
    pub async fn ask(&mut self, request: &str) -> String {
        if self.stream.write_all(request.as_bytes()).await.is_err() {
            return String::new();
        }
        loop {
            let text = String::from_utf8_lossy(&self.buffer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let lower = head.to_ascii_lowercase();
                let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok()).unwrap_or(0);
                if body.len() >= length {
                    self.buffer.clear();
                    return text;
                }
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(read) if read > 0 => {}
                _ => return String::new(),
            }
        }
    }
}

//! TLS towards what is loaded: whose certificates are taken, and what is offered by ALPN.
//!
//! Sessions are not resumed: a new connection is a whole handshake, so that what is measured with `--new-connections` does not depend on what a
//! server remembers.

use std::sync::Arc;

use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::{
            Resumption,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::CryptoProvider,
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    },
};

use crate::plan::{Plan, PlanFault, Trust};

/// What handshakes are made with, and the name that certificates must be for.
///
/// # Errors
/// If there are no authorities to judge them by.
pub(crate) fn connector(plan: &Plan, is_http2: bool) -> Result<(TlsConnector, ServerName<'static>), PlanFault> {
    let host = plan.target.name();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| PlanFault::Host(host.to_owned()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| PlanFault::Authorities("TLS".to_owned(), error.to_string()))?;
    let mut config = match &plan.trust {
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth(),
        trust => builder.with_root_certificates(authorities(trust)?).with_no_client_auth(),
    };
    config.alpn_protocols = vec![if is_http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    config.resumption = Resumption::disabled();
    Ok((Arc::new(config).into(), name))
}

fn authorities(trust: &Trust) -> Result<RootCertStore, PlanFault> {
    let mut store = RootCertStore::empty();
    let (whose, found) = match trust {
        Trust::Ca(file) => {
            let whose = file.display().to_string();
            let wrong = |why: String| PlanFault::Authorities(whose.clone(), why);
            let text = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
            let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
            (whose.clone(), found.map_err(|error| wrong(format!("{error}; PEM would be right")))?)
        }
        _ => {
            let whose = "this system".to_owned();
            let found =
                rustls_native_certs::load_native_certs().map_err(|error| PlanFault::Authorities(whose.clone(), error.to_string()))?;
            (whose, found)
        }
    };
    let (taken, _) = store.add_parsable_certificates(found);
    if taken == 0 {
        return Err(PlanFault::Authorities(whose, "there are none; --cacert FILE or --insecure would be right".to_owned()));
    }
    Ok(store)
}

/// Takes any certificate; that whoever shows it has its key is still proven.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

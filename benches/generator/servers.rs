//! Servers to load: hyper's for HTTP/1.1 and h2's for HTTP/2, in front of one application that counts what it sees.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Mutex, Semaphore},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig},
};

/// What the application saw.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    /// Bytes of bodies.
    pub(crate) body_bytes: AtomicU64,
    /// Bodies without a length said before.
    pub(crate) unsized_bodies: AtomicU64,
    /// Requests at once, now and at most.
    at_once: AtomicU64,
    pub(crate) most_at_once: AtomicU64,
    /// Requests whose key begins with `stale-`.
    pub(crate) stale: AtomicU64,
}

/// How a server is to be.
#[derive(Clone, Default)]
pub(crate) struct Ways {
    /// Over TLS, with this certificate and these protocols.
    pub(crate) tls: Option<TlsAcceptorOf>,
    pub(crate) is_http2: bool,
    /// So many requests on a connection, then it is ended in good order (HTTP/2).
    pub(crate) requests_a_connection: Option<u64>,
    /// Nobody is answered for this long, once, when so many requests have been.
    pub(crate) stall: Option<(u64, Duration)>,
    /// Requests for stale keys are answered with this status.
    pub(crate) stale_status: Option<u16>,
    /// Each request waits until this lets it.
    pub(crate) gate: Option<Arc<Semaphore>>,
}

/// A certificate, and what offers it.
#[derive(Clone)]
pub(crate) struct TlsAcceptorOf(TlsAcceptor);

/// A server that runs until its thread's runtime is dropped with this.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) counts: Arc<Counts>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    pub(crate) fn start(ways: Ways) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (address, counts) = (listener.local_addr().unwrap(), Arc::<Counts>::default());
        runtime.spawn(accept(listener, Arc::new(App { ways, counts: Arc::clone(&counts), stalled: Mutex::default() })));
        Self { address, counts, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// A certificate for `localhost`, in a file what it is signed by, and an acceptor that has it and speaks these.
pub(crate) fn certificate(folder: &std::path::Path, protocols: &[&str]) -> (PathBuf, TlsAcceptorOf) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let file = folder.join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = config.with_single_cert(vec![signed.der().clone()], key).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    (file, TlsAcceptorOf(Arc::new(config).into()))
}

struct App {
    ways: Ways,
    counts: Arc<Counts>,
    stalled: Mutex<bool>,
}

async fn accept(listener: TcpListener, app: Arc<App>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            stream.set_nodelay(true).unwrap();
            match &app.ways.tls {
                None => serve(stream, Arc::clone(&app)).await,
                Some(TlsAcceptorOf(acceptor)) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, Arc::clone(&app)).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, app: Arc<App>) {
    app.counts.connections.fetch_add(1, Ordering::Relaxed);
    if app.ways.is_http2 {
        serve_http2(stream, app).await;
        return;
    }
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let app = Arc::clone(&app);
        async move {
            let (head, body) = request.into_parts();
            let is_unsized = body.collect().await.map(|body| body.to_bytes());
            let status = app.answer(&head.headers, is_unsized.map_or(0, |body| body.len())).await;
            Ok::<_, Infallible>(Response::builder().status(status).body(Full::new(Bytes::from_static(b"hello"))).unwrap())
        }
    });
    // A client that goes is no error here.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn serve_http2(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, app: Arc<App>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut served = 0;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        served += 1;
        if app.ways.requests_a_connection == Some(served) {
            connection.graceful_shutdown();
        }
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut bytes = 0;
            while let Some(Ok(data)) = body.data().await {
                bytes += data.len();
                let _ = body.flow_control().release_capacity(data.len());
            }
            let status = app.answer(&head.headers, bytes).await;
            let Ok(mut stream) = respond.send_response(Response::builder().status(status).body(()).unwrap(), false) else { return };
            let _ = stream.send_data(Bytes::from_static(b"hello"), true);
        });
    }
}

impl App {
    async fn answer(&self, headers: &http::HeaderMap, body_bytes: usize) -> u16 {
        let counts = &self.counts;
        let number = counts.requests.fetch_add(1, Ordering::Relaxed);
        counts.body_bytes.fetch_add(body_bytes as u64, Ordering::Relaxed);
        counts.unsized_bodies.fetch_add(u64::from(!headers.contains_key("content-length") && body_bytes > 0), Ordering::Relaxed);
        let at_once = counts.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        counts.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        if let Some(gate) = &self.ways.gate {
            gate.acquire().await.unwrap().forget();
        }
        if let Some((after, duration)) = self.ways.stall {
            // Whoever comes meanwhile waits for the lock.
            let mut stalled = self.stalled.lock().await;
            if number >= after && !*stalled {
                *stalled = true;
                tokio::time::sleep(duration).await;
            }
        }
        counts.at_once.fetch_sub(1, Ordering::Relaxed);
        let is_stale = headers.get("x-tenant").is_some_and(|key| key.as_bytes().starts_with(b"stale-"));
        counts.stale.fetch_add(u64::from(is_stale), Ordering::Relaxed);
        self.ways.stale_status.filter(|_| is_stale).unwrap_or(200)
    }
}

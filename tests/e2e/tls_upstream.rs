//! TLS towards upstreams: whom a connection may trust, what it shows, and that nothing else is ever said to anybody.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use waypost_tests::{
    Backend, Certificates, Etcd, Handshaking, Http2Backend, Peer, RawBackend, Reply, SecureFront, Signed, Waypost, until, until_true,
};

use crate::{
    scene::{route, service},
    stage::{Stage as Raw, short_timeouts},
};

/// A service without a key, all of which goes to `upstreams/a`; one backend, before which tests put TLS.
struct Stage {
    etcd: Etcd,
    backend: Backend,
    waypost: Waypost,
    certificates: Certificates,
}

fn file(path: &Path) -> String {
    format!("file:{}", path.display())
}

fn upstream(address: impl ToString, tls: Value) -> Value {
    json!({ "endpoints": [{ "address": address.to_string() }], "tls": tls })
}

/// With a certificate to show.
fn showing(mut tls: Value, signed: &Signed) -> Value {
    tls["cert"] = json!(file(&signed.cert));
    tls["key"] = json!(file(&signed.key));
    tls
}

fn der(signed: &Signed) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_file(&signed.cert).unwrap().to_vec()
}

impl Stage {
    async fn start() -> Self {
        Self::with(|_, _| {}, |_| Reply::ok("secure")).await
    }

    async fn with(
        prepare: impl Fn(&mut Waypost, &Certificates),
        handler: impl Fn(&waypost_tests::Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let certificates = Certificates::new();
        let (etcd, backend) = (Etcd::start().await, Backend::start(handler).await);
        etcd.put_all(&[("services/web", service(json!({ "key": null, "default_owner": "a" })))]).await;
        let mut waypost = Waypost::new(&etcd.url(), &[]);
        prepare(&mut waypost, &certificates);
        waypost.spawn();
        waypost.ready().await;
        Self { etcd, backend, waypost, certificates }
    }

    /// `ca` is the stage's own.
    fn trusting(&self) -> Value {
        json!({ "ca": file(&self.certificates.ca) })
    }

    async fn front(&self, handshaking: &Handshaking) -> SecureFront {
        SecureFront::start(handshaking, self.backend.address).await
    }

    /// Puts `upstreams/a` and waits until it is in force.
    async fn put(&self, record: Value) {
        let revision = self.etcd.put("upstreams/a", record).await;
        self.waypost.at(revision).await;
    }

    async fn ask(&self, path: &str) -> (u16, String) {
        let answer = self.waypost.client().await.get(path, &[]).await;
        (answer.status, if answer.status == 200 { answer.text() } else { answer.reason().to_owned() })
    }

    /// The request is answered by the backend.
    async fn serves(&self, what: &str) {
        assert_eq!(self.ask("/").await, (200, "secure".to_owned()), "{what}: {}", self.waypost.said());
    }

    /// The request is answered 502 `upstream_tls`, the backend hears nothing, and the log says why.
    async fn refuses(&self, what: &str, why: &str) {
        let (seen, path) = (self.backend.heads(), format!("/{}", what.replace(' ', "-")));
        assert_eq!(self.ask(&path).await, (502, "upstream_tls".to_owned()), "{what}");
        assert_eq!(self.backend.heads(), seen, "{what}");
        until_true(&format!("the log says of {what}: {why}"), async || self.waypost.said().contains(why)).await;
        let logged = async || self.waypost.access_log().into_iter().find(|line| line["path"] == *path).ok_or("no line".to_owned());
        let line = until("it is logged", logged).await;
        assert_eq!((&line["reason"], &line["status"]), (&json!("upstream_tls"), &json!(502)), "{line}");
    }

    async fn quarantined(&self, why: &str) {
        let told = async || {
            let status = self.waypost.status().await;
            let held = status["quarantined"].as_array().unwrap().iter().find(|held| held["key"] == "/waypost/v1/upstreams/a").cloned();
            held.filter(|held| held["reason"].as_str().unwrap().contains(why)).ok_or(status.to_string())
        };
        until(&format!("it is told that {why}"), told).await;
    }
}

#[tokio::test]
async fn whom_a_connection_may_trust() {
    let stage = Stage::start().await;
    let (ours, others) = (&stage.certificates, Certificates::new());
    let both = ours.sign("both");
    let (name_only, inner) = (ours.sign_for("name only", &["localhost"]), ours.sign_for("inner", &["cell-7.internal"]));
    let tls = |extra: Value| {
        let mut tls = stage.trusting();
        tls.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        tls
    };
    let refused = Some;
    // The certificate, whether the endpoint is written as a name, what the record says; the name asked for, or why it is refused.
    for (what, signed, by_name, tls, why, sni) in [
        ("an address in the certificate", &both, false, tls(json!({})), None, None),
        ("a name in the certificate", &both, true, tls(json!({})), None, Some("localhost")),
        ("an address that is not in it", &name_only, false, tls(json!({})), refused("not valid for name"), None),
        ("the sni counts before the address", &inner, false, tls(json!({ "sni": "cell-7.internal" })), None, Some("cell-7.internal")),
        ("an sni that is not in it", &both, false, tls(json!({ "sni": "cell-8.internal" })), refused("cell-8.internal"), None),
        ("an address as sni", &both, true, tls(json!({ "sni": "127.0.0.1" })), None, None),
        ("another address as sni", &both, false, tls(json!({ "sni": "127.0.0.2" })), refused("not valid for name"), None),
        ("an unknown authority", &both, false, json!({ "ca": file(&others.ca) }), refused("UnknownIssuer"), None),
        ("the system's authorities", &both, false, json!({}), refused("UnknownIssuer"), None),
        ("an expired certificate", &ours.sign_expired("old"), false, tls(json!({})), refused("expired"), None),
    ] {
        let front = stage.front(&Handshaking::by(signed)).await;
        let address = if by_name { format!("localhost:{}", front.address.port()) } else { front.address.to_string() };
        stage.put(upstream(&address, tls)).await;
        match why {
            None => {
                until_true("the name is resolved", async || stage.ask("/").await.1 != "no_endpoint").await;
                stage.serves(what).await;
                assert_eq!(front.shaken()[0].sni.as_deref(), sni, "{what}");
                assert_eq!(stage.backend.last().header("x-forwarded-proto"), "http", "what the client spoke");
            }
            Some(why) => {
                stage.refuses(what, why).await;
                assert_eq!(front.shaken(), [], "{what}");
            }
        }
    }
    // An empty name to check is no record at all.
    let front = stage.front(&Handshaking::by(&inner)).await;
    stage.put(upstream(front.address, tls(json!({ "sni": "cell-7.internal" })))).await;
    stage.serves("the good record").await;
    stage.put(upstream(front.address, json!({ "sni": "" }))).await;
    stage.quarantined("would turn the check of the name off").await;
    stage.serves("its last good value").await;
}

#[tokio::test]
async fn without_a_ca_the_system_s_authorities_count() {
    // One of them that nobody can use costs no other, nor the process.
    for beside in ["", "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n"] {
        let prepare = |waypost: &mut Waypost, ours: &Certificates| {
            let all = std::fs::read_to_string(&ours.ca).unwrap() + beside;
            std::fs::write(&ours.ca, all).unwrap();
            waypost.env("SSL_CERT_FILE", ours.ca.to_str().unwrap());
        };
        let stage = Stage::with(prepare, |_| Reply::ok("secure")).await;
        let (ours, others) = (&stage.certificates, Certificates::new());
        let front = stage.front(&Handshaking::by(&ours.sign("a"))).await;
        stage.put(upstream(front.address, json!({}))).await;
        stage.serves("the system's authority").await;
        let front = stage.front(&Handshaking::by(&others.sign("b"))).await;
        stage.put(upstream(front.address, json!({}))).await;
        stage.refuses("another authority", "UnknownIssuer").await;
    }
}

#[tokio::test]
async fn both_versions_are_spoken() {
    let stage = Stage::start().await;
    let signed = stage.certificates.sign("a");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let front = stage.front(&Handshaking::with(&signed, &[version], None).offering(&[b"http/1.1"])).await;
        stage.put(upstream(front.address, stage.trusting())).await;
        stage.serves("this version").await;
        let shaken = &front.shaken()[0];
        assert_eq!((shaken.version, shaken.protocol.as_deref()), (Some(version.version), Some(&b"http/1.1"[..])));
    }
}

#[tokio::test]
async fn the_handshake_agrees_on_http_2_or_not() {
    let stage = Stage::start().await;
    let newer = Http2Backend::start(|_| Reply::ok("secure")).await;
    let signed = stage.certificates.sign("a");
    let both = [&b"h2"[..], b"http/1.1"];
    for (protocol, offered, agreed) in
        [("h2", &both[..], "h2"), ("auto", &both, "h2"), ("auto", &both[1..], "http/1.1"), ("http1", &both, "http/1.1")]
    {
        let backend = if agreed == "h2" { newer.address } else { stage.backend.address };
        let front = SecureFront::start(&Handshaking::by(&signed).offering(offered), backend).await;
        let mut record = upstream(front.address, stage.trusting());
        record["protocol"] = json!(protocol);
        stage.put(record).await;
        // A request that comes while the last one's connection is on its way back makes another.
        until_true("a connection is kept", async || {
            let before = front.shaken().len();
            stage.serves(protocol).await;
            before > 0 && front.shaken().len() == before
        })
        .await;
        assert!(front.shaken().iter().all(|shaken| shaken.protocol.as_deref() == Some(agreed.as_bytes())), "{protocol}");
    }
}

#[tokio::test]
async fn an_owner_that_does_not_agree_to_http_2_gets_nothing() {
    let stage = Stage::start().await;
    let signed = stage.certificates.sign("a");
    let front = SecureFront::start(&Handshaking::by(&signed).offering(&[b"http/1.1"]), stage.backend.address).await;
    let mut record = upstream(front.address, stage.trusting());
    record["protocol"] = json!("h2");
    stage.put(record).await;
    assert_eq!(stage.ask("/").await, (502, "upstream_tls".to_owned()));
    assert_eq!(stage.backend.heads(), 0);
}

#[tokio::test]
async fn a_certificate_is_shown_and_its_renewal_on_disk_noticed() {
    let stage = Stage::with(
        |waypost, ours| {
            let key = std::fs::read_to_string(&ours.sign("unused").key).unwrap();
            waypost.env("EDGE_KEY", &key);
        },
        // Each request has a connection of its own.
        |_| Reply::RawAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecure".to_vec()),
    )
    .await;
    let (ours, others) = (&stage.certificates, Certificates::new());
    let server = ours.sign("server");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let front = stage.front(&Handshaking::with(&server, &[version], Some(&ours.ca))).await;
        let shown = ours.sign_for_a_while("edge", &["edge"], Duration::from_secs(10 * 86_400));
        stage.put(upstream(front.address, stage.trusting())).await;
        stage.refuses(&format!("no certificate in {:?}", version.version), "CertificateRequired").await;
        stage.put(upstream(front.address, showing(stage.trusting(), &others.sign("stranger")))).await;
        stage.refuses(&format!("a stranger's in {:?}", version.version), "received fatal alert").await;
        assert_eq!(front.shaken(), []);
        stage.put(upstream(front.address, showing(stage.trusting(), &shown))).await;
        stage.serves("with a certificate").await;
        assert_eq!(front.shaken()[0].shown.as_ref(), Some(&der(&shown)));
        let status = stage.waypost.status().await;
        assert!(status["warnings"].to_string().contains("upstreams/a: the certificate ends on"), "{status}");
        let ends = stage.waypost.metric("waypost_certificate_end_seconds").await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now..now + 30.0 * 86_400.0).contains(&ends), "{ends}");
        // As tools do it: the key first, then the certificate; for a moment they do not fit.
        let next = ours.sign("edge");
        std::fs::copy(&next.key, &shown.key).unwrap();
        std::fs::copy(&next.cert, &shown.cert).unwrap();
        let renewed = async || {
            stage.serves("while it is renewed").await;
            front.shaken().pop().unwrap().shown == Some(der(&next))
        };
        until_true("the new certificate is shown", renewed).await;
    }
    // The key may be in the environment; here it is another certificate's.
    let front = stage.front(&Handshaking::by(&server)).await;
    let mut tls = showing(stage.trusting(), &server);
    tls["key"] = json!("env:EDGE_KEY");
    stage.put(upstream(front.address, tls.clone())).await;
    stage.quarantined("the private key is not the certificate's").await;
    tls["key"] = json!("env:NOT_THERE");
    stage.put(upstream(front.address, tls)).await;
    stage.quarantined("there is no NOT_THERE").await;
    let secret = std::fs::read_to_string(&server.key).unwrap();
    let body = secret.lines().nth(1).unwrap();
    assert!(!stage.waypost.said().contains(body) && !stage.waypost.status().await.to_string().contains(body));
}

/// A connection that was made for other reasons is not used again, although the endpoint, the name and the serial number are the same.
#[tokio::test]
async fn what_a_record_trusted_before_serves_no_request_any_more() {
    let stage = Stage::start().await;
    let (ours, others) = (&stage.certificates, Certificates::new());
    let front = stage.front(&Handshaking::by(&ours.sign("a"))).await;
    stage.put(upstream(front.address, stage.trusting())).await;
    // A request that comes while the last one's connection is on its way back makes another.
    until_true("a connection is kept", async || {
        let before = front.shaken().len();
        stage.serves("of the record").await;
        before > 0 && front.shaken().len() == before
    })
    .await;
    stage.put(upstream(front.address, json!({ "ca": file(&others.ca) }))).await;
    stage.refuses("another authority in the record", "UnknownIssuer").await;
    stage.put(upstream(front.address, stage.trusting())).await;
    stage.serves("trusted again").await;
    stage.put(upstream(front.address, json!({ "ca": file(&stage.certificates.ca), "sni": "other.internal" }))).await;
    stage.refuses("another name in the record", "other.internal").await;
    // The same record, another authority in its file.
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(&ours.ca, ca.path()).unwrap();
    stage.put(upstream(front.address, json!({ "ca": file(ca.path()) }))).await;
    stage.serves("by the file").await;
    std::fs::copy(&others.ca, ca.path()).unwrap();
    until_true("the file is read again", async || stage.ask("/").await == (502, "upstream_tls".to_owned())).await;
    // And with the certificate itself in the record.
    let pem = std::fs::read_to_string(&ours.ca).unwrap();
    stage.put(upstream(front.address, json!({ "ca": pem }))).await;
    stage.serves("by the record").await;
}

#[tokio::test]
async fn material_that_can_not_be_read_is_told_and_nothing_is_sent_in_the_clear() {
    let stage =
        Stage::with(|_, _| {}, |_| Reply::RawAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecure".to_vec()))
            .await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let plain = RawBackend::start(|mut peer: Peer, _| async move {
        peer.rest().await;
    })
    .await;
    let tls = json!({ "ca": file(&ca) });
    stage.put(upstream(plain.address, tls.clone())).await;
    stage.refuses("never readable", "can't be used").await;
    stage.quarantined("there is no such file").await;
    assert!(stage.waypost.metric("waypost_records_quarantined").await >= 1.0);
    assert!(plain.received().is_empty(), "nobody has connected");
    std::fs::write(&ca, "nothing\n").unwrap();
    stage.quarantined("no certificate is in the ca").await;
    let front = stage.front(&Handshaking::by(&stage.certificates.sign("a"))).await;
    stage.put(upstream(front.address, tls)).await;
    std::fs::copy(&stage.certificates.ca, &ca).unwrap();
    until_true("the file that has come is read", async || stage.ask("/").await.0 == 200).await;
    assert_eq!(stage.waypost.status().await["quarantined"], json!([]));
    std::fs::write(&ca, "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n").unwrap();
    stage.quarantined("can't be an authority").await;
    stage.serves("what was read before").await;
}

#[tokio::test]
async fn who_does_not_speak_tls_or_stalls_is_given_up() {
    let stage = Stage::start().await;
    let revision = stage.etcd.put("policies/default", short_timeouts()).await;
    stage.waypost.at(revision).await;
    let answers = RawBackend::start(|mut peer: Peer, _| async move {
        peer.exactly(5).await;
        peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        peer.rest().await;
    })
    .await;
    let closes = RawBackend::start(|mut peer: Peer, _| async move {
        peer.exactly(5).await;
    })
    .await;
    let stalls = RawBackend::start(|mut peer: Peer, _| async move {
        peer.rest().await;
    })
    .await;
    for (what, backend, why) in [
        ("one that answers in the clear", &answers, "InvalidContentType"),
        ("one that closes", &closes, "no secure connection"),
        ("one that stalls", &stalls, "no handshake within connect_ms"),
    ] {
        stage.put(upstream(backend.address, stage.trusting())).await;
        stage.refuses(what, why).await;
        assert_eq!((backend.received().len(), backend.count("GET")), (1, 0), "{what}");
    }
    // With another endpoint the client sees nothing of it.
    let front = stage.front(&Handshaking::by(&stage.certificates.sign("a"))).await;
    let endpoints: Vec<Value> = [stalls.address, answers.address, front.address].map(|to| json!({ "address": to.to_string() })).into();
    stage.put(json!({ "endpoints": endpoints, "balance": "round_robin", "tls": stage.trusting() })).await;
    for _ in 0..4 {
        stage.serves("another endpoint").await;
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    stage.put(upstream(taken, stage.trusting())).await;
    assert_eq!(stage.ask("/").await, (502, "connect_failed".to_owned()), "nobody listens there");
}

#[tokio::test]
async fn a_moved_key_is_followed_from_one_secure_upstream_to_another() {
    let certificates = Certificates::new();
    let word = Arc::<Mutex<Option<String>>>::default();
    let said = Arc::clone(&word);
    let a = Backend::start(move |_| said.lock().unwrap().clone().map_or_else(|| Reply::ok("a"), Reply::stale)).await;
    let b = Backend::start(|_| Reply::ok("b")).await;
    let to_a = SecureFront::start(&Handshaking::by(&certificates.sign_for("a", &["a.internal"])), a.address).await;
    let to_b = SecureFront::start(&Handshaking::by(&certificates.sign_for("b", &["b.internal"])), b.address).await;
    let tls = |name: &str| json!({ "ca": file(&certificates.ca), "sni": format!("{name}.internal") });
    let etcd = Etcd::start().await;
    let records = [
        ("services/orders", service(json!({}))),
        ("upstreams/a", upstream(to_a.address, tls("a"))),
        ("upstreams/b", upstream(to_b.address, tls("b"))),
        ("routes/orders/t1", route("a", 5)),
    ];
    etcd.put_all(&records).await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    assert_eq!(waypost.get("t1", "/").await.text(), "a");
    let gold = waypost.status().await["gold"][0].clone();
    let (revision, table) = (gold["revision"].as_u64().unwrap() + 1, gold["table"].as_str().unwrap());
    *word.lock().unwrap() =
        Some(format!(r#"state=moved, service="orders", key="t1", owner="b", epoch=6, revision={revision}, table="{table}""#));
    let body = vec![b'x'; 40_000];
    let answer = waypost.client().await.request("POST", "/", &[("x-tenant", "t1")], &body).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "b"));
    assert_eq!(b.last().body, body);
    assert_eq!((to_a.shaken()[0].sni.as_deref(), to_b.shaken()[0].sni.as_deref()), (Some("a.internal"), Some("b.internal")));
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let stage = Stage::with(|_, _| {}, |seen| Reply::Say(200, Vec::new(), seen.body.clone())).await;
    let front = stage.front(&Handshaking::by(&stage.certificates.sign("a"))).await;
    stage.put(upstream(front.address, stage.trusting())).await;
    let body: Vec<u8> = (0..8_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut client = stage.waypost.client().await;
    for _ in 0..3 {
        let answer = client.request("POST", "/", &[], &body).await;
        assert!(answer.status == 200 && answer.body == body, "{} with {} bytes", answer.status, answer.body.len());
    }
    assert_eq!(front.shaken().len(), 1, "one connection has carried all");
}

/// Each change is another name, another authority and another endpoint at once: no request meets one without the others.
#[tokio::test]
async fn no_request_fails_while_records_change() {
    let stage = Stage::start().await;
    let authorities = [Certificates::new(), Certificates::new()];
    let mut fronts = Vec::new();
    for (at, authority) in authorities.iter().enumerate() {
        let name = format!("cell-{at}.internal");
        let front = stage.front(&Handshaking::by(&authority.sign_for("cell", &[&name]))).await;
        fronts.push((upstream(front.address, json!({ "sni": name, "ca": file(&authority.ca) })), front));
    }
    stage.put(fronts[0].0.clone()).await;
    let asked = AtomicUsize::new(0);
    let is_over = AtomicBool::new(false);
    let asking = async {
        let mut client = stage.waypost.client().await;
        while !is_over.load(Ordering::Relaxed) {
            let answer = client.get("/", &[]).await;
            assert_eq!((answer.status, answer.reason()), (200, ""), "{}", stage.waypost.said());
            asked.fetch_add(1, Ordering::Relaxed);
        }
    };
    let changing = async {
        for change in 1..=60 {
            let before = asked.load(Ordering::Relaxed);
            stage.etcd.put("upstreams/a", fronts[change % 2].0.clone()).await;
            until_true("requests go on", async || asked.load(Ordering::Relaxed) > before + 2).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(asking, changing);
    for (_, front) in &fronts {
        assert!(front.shaken().len() > 5 && front.failed().is_empty(), "{} shaken, failed: {:?}", front.shaken().len(), front.failed());
    }
}

/// The raw stage with TLS before its backend.
pub(crate) async fn secured<F: Future<Output = ()> + Send + 'static>(
    script: impl Fn(Peer, usize) -> F + Send + 'static,
) -> (Raw, SecureFront, Certificates) {
    let (certificates, backend) = (Certificates::new(), RawBackend::start(script).await);
    let front = SecureFront::start(&Handshaking::by(&certificates.sign("a")), backend.address).await;
    let record = upstream(front.address, json!({ "ca": file(&certificates.ca) }));
    (Raw::on(backend, &record, json!({}), "").await, front, certificates)
}

#[tokio::test]
async fn fields_are_checked_before_they_are_put() {
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join("records.yaml");
    let check = async |tls: &str| {
        std::fs::write(&records, format!("upstreams/a: {{ endpoints: [{{ address: 'a:1' }}], tls: {tls} }}\n")).unwrap();
        let (status, out, said) = Waypost::run(&["check", records.to_str().unwrap()]).await;
        (status, out + &said)
    };
    let (status, said) = check("{ sni: cell-7.internal, ca: 'file:/ca.pem', cert: 'file:/c.pem', key: 'env:K' }").await;
    assert!(status == 0 && !said.contains("not acted on"), "{said}");
    for (tls, wanted) in [
        ("{ sni: '' }", "would turn the check of the name off"),
        ("{ verify: false }", "field \"tls.verify\" is unknown"),
        ("{ cert: 'file:/c.pem' }", "needs a \"key\""),
        ("{ ca: /ca.pem }", "file:PATH or a PEM chain would be right"),
    ] {
        let (status, said) = check(tls).await;
        assert!(status == 1 && said.contains(wanted), "{tls}: {said}");
    }
}

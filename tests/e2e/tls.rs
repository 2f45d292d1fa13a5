//! TLS towards clients: which certificate is shown, how it is swapped, what a bad one costs, and clients' own.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use waypost_tests::{Backend, Certificates, Etcd, Peer, RawBackend, Reply, SecureClient, Signed, Waypost, program, until, until_true};

use crate::scene::service;

struct Stage {
    etcd: Etcd,
    backend: Backend,
    waypost: Waypost,
    certificates: Certificates,
    _folder: tempfile::TempDir,
}

fn record(hosts: &[&str], signed: &Signed) -> Value {
    json!({ "hosts": hosts, "cert": format!("file:{}", signed.cert.display()), "key": format!("file:{}", signed.key.display()) })
}

fn default(signed: &Signed) -> Value {
    let mut record = record(&[], signed);
    record["default"] = json!(true);
    record
}

/// What a certificate file holds, as it is shown in a handshake.
fn der(signed: &Signed) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_file(&signed.cert).unwrap().to_vec()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";

impl Stage {
    /// A secure listener whose section has these lines, and no certificate yet.
    async fn start(lines: impl Fn(&Certificates) -> String) -> Self {
        let certificates = Certificates::new();
        let (etcd, backend) = (Etcd::start().await, Backend::start(|_| Reply::ok("secure")).await);
        let records = [("services/web", service(json!({ "key": null, "default_owner": "a" }))), ("upstreams/a", backend.upstream())];
        etcd.put_all(&records).await;
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = folder.path().join("waypost.toml");
        std::fs::write(&bootstrap, format!("[[listener]]\naddress = \"127.0.0.1:1\"\ntls = true\n{}\n", lines(&certificates))).unwrap();
        let waypost = Waypost::start(&etcd.url(), &["--config", bootstrap.to_str().unwrap()]).await;
        Self { etcd, backend, waypost, certificates, _folder: folder }
    }

    fn client(&self) -> SecureClient {
        SecureClient::new(&self.certificates.ca, None)
    }

    /// Puts a certificate's record, and waits until it is shown for this host.
    async fn put(&self, name: &str, record: Value, host: &str, signed: &Signed) {
        self.etcd.put(&format!("certificates/{name}"), record).await;
        self.shows(host, signed).await;
    }

    async fn shows(&self, host: &str, signed: &Signed) {
        until(&format!("{host} is shown its certificate"), async || match self.client().connect(self.waypost.listen, host).await {
            Ok(connection) if connection.certificate() == der(signed) => Ok(()),
            Ok(_) => Err("another one".to_owned()),
            Err(error) => Err(error),
        })
        .await;
    }

    /// What curl gets for a host, with these arguments.
    async fn curl(&self, host: &str, args: &[&str]) -> (i32, String) {
        let port = self.waypost.listen.port();
        let (resolve, url) = (format!("{host}:{port}:127.0.0.1"), format!("https://{host}:{port}/"));
        let ca = self.certificates.ca.to_str().unwrap();
        let given = [&["-sS", "--max-time", "20", "--cacert", ca, "--resolve", &resolve], args, &[&url]].concat();
        let ran = program("curl", &given, b"").await;
        (ran.status, ran.text() + &ran.stderr)
    }
}

#[tokio::test]
async fn each_host_is_shown_its_own_certificate() {
    let stage = Stage::start(|_| String::new()).await;
    let sign = |name: &str, hosts: &[&str]| stage.certificates.sign_for(name, hosts);
    let refused = stage.client().connect(stage.waypost.listen, "a.example.com").await.err().expect("there is no certificate");
    assert!(refused.contains("alert") || refused.contains("eof"), "{refused}");
    let (a, wild, deeper, other) = (
        sign("a", &["a.example.com"]),
        sign("wild", &["*.example.com"]),
        sign("deeper", &["*.deep.example.com"]),
        sign("other", &["other.org"]),
    );
    stage.put("a", record(&["a.example.com"], &a), "a.example.com", &a).await;
    stage.put("wild", record(&["*.example.com"], &wild), "b.example.com", &wild).await;
    stage.put("deeper", record(&["*.deep.example.com"], &deeper), "c.deep.example.com", &deeper).await;
    stage.shows("a.example.com", &a).await;
    assert!(stage.client().connect(stage.waypost.listen, "other.org").await.is_err(), "no record names it, and none is the default");
    stage.put("other", default(&other), "other.org", &other).await;
    for (host, args) in [("a.example.com", &[][..]), ("b.example.com", &["--tls-max", "1.2"]), ("c.deep.example.com", &["--tlsv1.3"])] {
        assert_eq!(stage.curl(host, args).await, (0, "secure".to_owned()), "{host}");
    }
    assert_eq!(stage.backend.last().header("x-forwarded-proto"), "https");
    // A client without a name gets the default, whose names are not that.
    let (status, said) = stage.curl("nobody.example.net", &[]).await;
    assert!(status == 60, "{status} {said}");
    until_true("each request is logged, and nothing else", async || stage.waypost.access_log().len() == 3).await;
}

const MANY: usize = 1000;

#[tokio::test]
async fn a_process_that_takes_over_has_read_its_certificates_before_it_accepts() {
    let mut stage = Stage::start(|_| String::new()).await;
    let signed = stage.certificates.sign_for("a", &["a.example.com"]);
    // So many that reading them takes a while.
    for number in 0..MANY {
        stage.etcd.put(&format!("certificates/{number:04}"), record(&[&format!("{number}.example.com")], &signed)).await;
    }
    stage.put("a", record(&["a.example.com"], &signed), "a.example.com", &signed).await;
    let (client, listen) = (stage.client(), stage.waypost.listen);
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let handshakes = tokio::spawn(async move {
        let mut count = 0;
        while stopped.try_recv().is_err() {
            let mut connection = client.connect(listen, "a.example.com").await.map_err(|why| format!("handshake {count}: {why}"))?;
            assert!(connection.ask(GET).await.contains("secure"), "after {count}");
            count += 1;
        }
        Ok::<usize, String>(count)
    });
    for _ in 0..3 {
        assert!(stage.waypost.upgrade_gently().await.success());
    }
    stop.send(()).unwrap();
    assert!(handshakes.await.unwrap().unwrap() > 10);
}

#[tokio::test]
async fn a_certificate_is_swapped_while_connections_go_on() {
    let stage = Stage::start(|_| String::new()).await;
    let sign = || stage.certificates.sign_for("a", &["a.example.com"]);
    let (first, second, third) = (sign(), sign(), sign());
    stage.put("a", record(&["a.example.com"], &first), "a.example.com", &first).await;
    let mut connection = stage.client().connect(stage.waypost.listen, "a.example.com").await.unwrap();
    assert!(connection.ask(GET).await.contains("secure"));
    stage.put("a", record(&["a.example.com"], &second), "a.example.com", &second).await;
    assert!(connection.ask(GET).await.contains("secure"), "the old connection is not touched");
    // Renewed on disk, as tools do it: the key first, then the certificate; for a moment they do not fit.
    std::fs::copy(&third.key, &second.key).unwrap();
    std::fs::copy(&third.cert, &second.cert).unwrap();
    stage.shows("a.example.com", &third).await;
    assert!(connection.ask(GET).await.contains("secure"));
    // An inline chain, with the key in a file.
    let pem = std::fs::read_to_string(&first.cert).unwrap();
    let inline = json!({ "hosts": ["a.example.com"], "cert": pem, "key": format!("file:{}", first.key.display()) });
    stage.put("a", inline, "a.example.com", &first).await;
    let client = stage.client();
    for is_resumed in [false, true] {
        let mut connection = client.connect(stage.waypost.listen, "a.example.com").await.unwrap();
        // The tickets of TLS 1.3 come with the first answer.
        assert!(connection.ask(GET).await.contains("secure"));
        assert_eq!(connection.is_resumed(), is_resumed);
    }
}

#[tokio::test]
async fn a_certificate_that_can_not_be_used_costs_nobody_else_and_is_told() {
    let stage = Stage::start(|_| String::new()).await;
    let sign = |host: &str| stage.certificates.sign_for(host, &[host]);
    let (a, b) = (sign("a.example.com"), sign("b.example.com"));
    stage.put("a", record(&["a.example.com"], &a), "a.example.com", &a).await;
    stage.put("b", record(&["b.example.com"], &b), "b.example.com", &b).await;
    let with = |cert: &Path, key: &Path| json!({ "hosts": ["a.example.com"], "cert": format!("file:{}", cert.display()), "key": format!("file:{}", key.display()) });
    let expired = stage.certificates.sign_expired("a");
    let secret = std::fs::read_to_string(&a.key).unwrap();
    let bad = [
        (with(&a.cert, &b.key), "the private key is not the certificate's"),
        (with(Path::new("/nowhere.pem"), &a.key), "there is no such file"),
        (with(Path::new("/dev/zero"), &a.key), "it is a pipe or a device; a file would be right"),
        (with(&a.key, &a.key), "no certificate is in it"),
        (with(&a.cert, &a.cert), "no private key"),
        (record(&["a.example.com"], &expired), "expired on 2020-01-01"),
        (
            json!({ "hosts": ["a.example.com"], "cert": format!("file:{}", a.cert.display()), "key": "env:NOT_THERE" }),
            "there is no NOT_THERE",
        ),
    ];
    for (bad, why) in bad {
        stage.etcd.put("certificates/a", bad).await;
        let told = async || {
            let status = stage.waypost.status().await;
            let held = status["quarantined"].as_array().unwrap().iter().find(|held| held["key"] == "/waypost/v1/certificates/a").cloned();
            held.filter(|held| held["reason"].as_str().unwrap().contains(why) && held["revision"].as_u64() > Some(0))
                .ok_or(status.to_string())
        };
        until(&format!("it is told that {why}"), told).await;
        stage.shows("a.example.com", &a).await;
        stage.shows("b.example.com", &b).await;
    }
    assert!(stage.waypost.metric("waypost_records_quarantined").await >= 1.0);
    let body = secret.lines().nth(1).unwrap();
    assert!(!stage.waypost.said().contains(body) && !stage.waypost.status().await.to_string().contains(body));
}

#[tokio::test]
async fn a_certificate_that_ends_while_it_is_in_force_is_told_and_stays() {
    let stage = Stage::start(|_| String::new()).await;
    let signed = stage.certificates.sign_for_a_while("a", &["a.example.com"], Duration::from_secs(4));
    stage.put("a", record(&["a.example.com"], &signed), "a.example.com", &signed).await;
    until("it is told that it has ended", async || {
        let status = stage.waypost.status().await;
        let held = status["quarantined"].as_array().unwrap().iter().any(|held| held["reason"].as_str().unwrap().contains("expired on"));
        if held { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let ends = stage.waypost.metric("waypost_certificate_end_seconds").await;
    assert!(ends > 0.0, "it is what there is");
}

#[tokio::test]
async fn a_certificate_that_ends_soon_or_lacks_a_host_is_a_warning() {
    let stage = Stage::start(|_| String::new()).await;
    let signed = stage.certificates.sign_for_a_while("a", &["a.example.com"], Duration::from_secs(10 * 86_400));
    stage.put("a", record(&["a.example.com", "b.example.com"], &signed), "a.example.com", &signed).await;
    let warnings = stage.waypost.status().await["warnings"].to_string();
    assert!(warnings.contains("certificates/a: the certificate ends on"), "{warnings}");
    assert!(warnings.contains("does not name b.example.com"), "{warnings}");
    let ends = stage.waypost.metric("waypost_certificate_end_seconds").await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now..now + 30.0 * 86_400.0).contains(&ends), "{ends}");
}

#[tokio::test]
async fn clients_show_who_they_are_and_nobody_else_can_say_it() {
    for required in [false, true] {
        let stage = Stage::start(|certificates| {
            let wanted = if required { "required" } else { "optional" };
            format!("client_ca = \"file:{}\"\nclient_cert = \"{wanted}\"", certificates.ca.display())
        })
        .await;
        let server = stage.certificates.sign_for("server", &["a.example.com"]);
        stage.etcd.put("certificates/a", record(&["a.example.com"], &server)).await;
        let shown = stage.certificates.sign("tenant forty-two, O=admins");
        let client = SecureClient::new(&stage.certificates.ca, Some(&shown));
        let connected = async || client.connect(stage.waypost.listen, "a.example.com").await;
        let mut connection = until("a client with a certificate is let in", connected).await;
        let forged = "GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: x-client-cert-subject\r\n\
            X-Client-Cert-Subject: CN=root\r\nx_client_cert_subject: CN=root\r\n\r\n";
        assert!(connection.ask(forged).await.contains("secure"));
        assert_eq!(stage.backend.last().header("x-client-cert-subject"), r"CN=tenant forty-two\, O\=admins");
        assert_eq!(stage.backend.last().header("x_client_cert_subject"), "");
        let others = Certificates::new();
        let stranger = SecureClient::new(&stage.certificates.ca, Some(&others.sign("stranger")));
        let mut said = String::new();
        if let Ok(mut connection) = stranger.connect(stage.waypost.listen, "a.example.com").await {
            said = connection.ask(GET).await;
        }
        assert_eq!(said, "", "signed by another authority");
        let mut said = String::new();
        if let Ok(mut connection) = stage.client().connect(stage.waypost.listen, "a.example.com").await {
            said = connection.ask(forged).await;
        }
        assert_eq!(said.contains("secure"), !required, "{said}");
        if !required {
            assert_eq!(stage.backend.last().header("x-client-cert-subject"), "");
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_shake_hands_is_left() {
    let stage = Stage::start(|_| String::new()).await;
    let revision = stage.etcd.put("policies/default", json!({ "timeouts": { "header_ms": 300 } })).await;
    stage.waypost.at(revision).await;
    let mut silent = Peer::connect(stage.waypost.listen).await;
    assert_eq!(silent.rest().await, "");
    let mut plain = Peer::connect(stage.waypost.listen).await;
    plain.send(GET).await;
    assert!(!plain.rest().await.contains("HTTP/1.1"));
    until_true("both are counted", async || stage.waypost.metric("waypost_tls_handshakes_failed_total").await >= 2.0).await;
}

/// A client's first record for this host, as rustls writes it.
async fn hello(stage: &Stage, host: &str) -> Vec<u8> {
    let caught = RawBackend::start(|mut peer, _| async move { while peer.some().await.is_some() {} }).await;
    let (client, address, host) = (stage.client(), caught.address, host.to_owned());
    let connecting = tokio::spawn(async move { client.connect(address, &host).await.map(|_| ()) });
    let whole = until("the hello has come", async || {
        let bytes = caught.received().into_iter().next().unwrap_or_default().bytes;
        let length = bytes.get(3..5).map(|two| 5 + usize::from(two[0]) * 256 + usize::from(two[1]));
        if length.is_some_and(|length| bytes.len() >= length) { Ok(bytes) } else { Err(format!("{} bytes", bytes.len())) }
    })
    .await;
    connecting.abort();
    whole
}

#[tokio::test]
async fn a_hello_may_come_in_any_pieces() {
    let stage = Stage::start(|_| String::new()).await;
    let signed = stage.certificates.sign_for("a", &["a.example.com"]);
    stage.put("a", record(&["a.example.com"], &signed), "a.example.com", &signed).await;
    let whole = hello(&stage, "a.example.com").await;
    let records = whole[5..].chunks(7).flat_map(|part| [&whole[..3], &[0, u8::try_from(part.len()).unwrap()], part].concat());
    for pieces in [whole.clone(), records.collect()] {
        let mut client = Peer::connect(stage.waypost.listen).await;
        assert!(client.send_bytewise(&pieces).await);
        // A record of the handshake, not an alert.
        assert_eq!(client.exactly(1).await, Some(vec![22]));
    }
}

/// Anybody may connect, so nobody may write into the log at will.
#[tokio::test]
async fn what_a_hello_says_amiss_is_told_to_its_client_and_not_to_the_log() {
    let stage = Stage::start(|_| String::new()).await;
    let signed = stage.certificates.sign_for("a", &["a.example.com"]);
    stage.put("a", default(&signed), "a.example.com", &signed).await;
    let whole = hello(&stage, "a.example.com").await;
    let at = whole.windows(13).position(|name| name == b"a.example.com").unwrap();
    for name in [
        b"a example com",
        b"a.example\r\n!x",
        b"\xff\xff.example.co",
        b"*.example.com",
        b"a.example.co\0",
        b".............",
        b"127.0.0.1.1.1",
    ] {
        let mut sent = whole.clone();
        sent[at..at + 13].copy_from_slice(name);
        let mut client = Peer::connect(stage.waypost.listen).await;
        client.send(&sent).await;
        // An alert, or, of a name that can be one, the default.
        let first = client.exactly(1).await;
        assert!(first == Some(vec![21]) || (first == Some(vec![22]) && name == b"127.0.0.1.1.1"), "{name:?}: {first:?}");
    }
    let mut warning = Peer::connect(stage.waypost.listen).await;
    warning.send([21, 3, 1, 0, 2, 1, 0].repeat(100)).await;
    warning.rest().await;
    let failed = async || stage.waypost.metric("waypost_tls_handshakes_failed_total").await >= 7.0;
    until_true("they are counted", failed).await;
    let said = stage.waypost.said();
    assert!(!said.contains("SNI") && !said.contains("alert") && !said.contains("example.co\\0"), "{said}");
}

#[tokio::test]
async fn quiet_connections_rest_and_are_served_on() {
    let stage = Stage::start(|_| String::new()).await;
    let signed = stage.certificates.sign_for("a", &["a.example.com"]);
    stage.put("a", default(&signed), "a.example.com", &signed).await;
    let mut connection = stage.client().connect(stage.waypost.listen, "a.example.com").await.unwrap();
    let resting = async |count: usize| {
        let now = async || stage.waypost.metric("waypost_connections{state=\"resting\"}").await as usize;
        until_true(&format!("{count} connections rest"), async || now().await == count).await;
    };
    for _ in 0..3 {
        resting(1).await;
        assert!(connection.ask(GET).await.ends_with("secure"));
    }
    resting(1).await;
    drop(connection);
    resting(0).await;
}

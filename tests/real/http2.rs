//! HTTP/2 by programs that nobody here wrote: curl, nghttp, h2load as clients, nghttpd as an owner; and an etcd as the data service of its own
//! command, puts, reads and a watch.

use std::{process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use waypost_tests::{Certificates, Etcd, Nginx, RecordFile, Waypost, free_address, program, until_true};

use crate::stage::bytes;

/// What h2load counted.
fn counted(report: &str, what: &str) -> u64 {
    let line = report.lines().find(|line| line.starts_with("requests:")).unwrap_or_else(|| panic!("{report}"));
    let part = line.split(", ").find(|part| part.trim_end_matches(|c: char| c.is_alphabetic()).len() < part.len() && part.ends_with(what));
    part.and_then(|part| part.trim_start_matches("requests: ").split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

async fn in_front_of(upstream: Value, extra: &[&str]) -> (Waypost, RecordFile) {
    let records = RecordFile::of(&json!({ "services/all": { "match": [{}], "default_owner": "a" }, "upstreams/a": upstream }));
    (Waypost::start(&records.gold(), extra).await, records)
}

/// nghttpd with these files; gone when dropped.
struct Nghttpd {
    address: std::net::SocketAddr,
    folder: tempfile::TempDir,
    _child: Child,
}

impl Nghttpd {
    async fn start() -> Self {
        let (address, folder) = (free_address(), tempfile::tempdir().unwrap());
        let mut command = Command::new("nghttpd");
        command.args(["--no-tls", "--address=127.0.0.1", "--echo-upload", "-d"]).arg(folder.path()).arg(address.port().to_string());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn();
        let child = child.expect("nghttpd; `make setup` installs it");
        until_true("nghttpd listens", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        Self { address, folder, _child: child }
    }

    fn upstream(&self) -> Value {
        json!({ "endpoints": [{ "address": self.address.to_string() }], "protocol": "h2" })
    }
}

#[tokio::test]
async fn curl_gets_and_sends_files_in_every_pairing() {
    let (nginx, nghttpd) = (Nginx::start("").await, Nghttpd::start().await);
    let content = bytes(3_000_001);
    nginx.write("file", &content);
    std::fs::write(nghttpd.folder.path().join("file"), &content).unwrap();
    let plain = json!({ "endpoints": [{ "address": nginx.address.to_string() }] });
    for upstream in [plain, nghttpd.upstream()] {
        let (waypost, _records) = in_front_of(upstream, &[]).await;
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let url = format!("http://{}/file", waypost.listen);
            let got = program("curl", &["-sSf", version, "-w", "%{stderr}%{http_version}", &url], b"").await.succeeded();
            assert!(got.stdout == content, "{version}: {} bytes", got.stdout.len());
            assert_eq!(got.stderr, if version == "--http1.1" { "1.1" } else { "2" });
        }
    }
    // What is uploaded comes back.
    let (waypost, _records) = in_front_of(nghttpd.upstream(), &[]).await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let url = format!("http://{}/file", waypost.listen);
        let got = program("curl", &["-sSf", version, "--data-binary", "@-", &url], &content).await.succeeded();
        assert!(got.stdout == content, "{version}: {} bytes", got.stdout.len());
    }
}

#[tokio::test]
async fn h2load_is_answered_to_the_last_request_in_every_pairing() {
    let (nginx, nghttpd) = (Nginx::start("").await, Nghttpd::start().await);
    nginx.write("file", b"some");
    std::fs::write(nghttpd.folder.path().join("file"), b"some").unwrap();
    let plain = json!({ "endpoints": [{ "address": nginx.address.to_string() }] });
    for upstream in [plain, nghttpd.upstream()] {
        let (waypost, _records) = in_front_of(upstream, &[]).await;
        for version in ["--h1", "--no-tls-proto=h2c"] {
            let url = format!("http://{}/file", waypost.listen);
            let ran = program("h2load", &[version, "-n5000", "-c10", "-m20", &url], b"").await.succeeded();
            assert_eq!(counted(&ran.text(), "succeeded"), 5000, "{version} {}", ran.text());
            assert!(ran.text().contains("status codes: 5000 2xx"), "{}", ran.text());
        }
    }
}

#[tokio::test]
async fn nghttp_and_curl_agree_on_it_in_the_handshake() {
    let nginx = Nginx::start("").await;
    nginx.write("file", b"some");
    let certificates = Certificates::new();
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = folder.path().join("waypost.toml");
    std::fs::write(&bootstrap, "[[listener]]\naddress = \"127.0.0.1:1\"\ntls = true\n").unwrap();
    let shown = certificates.sign("localhost");
    let records = RecordFile::of(&json!({
        "services/all": { "match": [{}], "default_owner": "a" },
        "upstreams/a": { "endpoints": [{ "address": nginx.address.to_string() }] },
        "certificates/all": {
            "hosts": ["localhost"], "default": true,
            "cert": format!("file:{}", shown.cert.display()), "key": format!("file:{}", shown.key.display()),
        },
    }));
    let waypost = Waypost::start(&records.gold(), &["--config", bootstrap.to_str().unwrap()]).await;
    let url = format!("https://localhost:{}/file", waypost.listen.port());
    let ca = certificates.ca.to_str().unwrap();
    until_true("the certificate is in force", async || program("curl", &["-sSf", "--http2", "--cacert", ca, &url], b"").await.status == 0)
        .await;
    for (version, wanted) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let got = program("curl", &["-sSf", version, "--cacert", ca, "-w", " %{http_version}", &url], b"").await.succeeded();
        assert_eq!(got.text(), format!("some {wanted}"));
    }
    let ran = program("nghttp", &["-m20", &url], b"").await.succeeded();
    assert_eq!(ran.text().matches("some").count(), 20, "{}", ran.text());
    let ran = program("h2load", &["-n1000", "-c10", "-m10", &url], b"").await.succeeded();
    assert!(ran.text().contains("status codes: 1000 2xx") && ran.text().contains("Application protocol: h2"), "{}", ran.text());
}

#[tokio::test]
async fn an_etcd_behind_it_serves_its_own_command_and_a_watch() {
    let data = Etcd::start().await;
    let upstream = json!({ "endpoints": [{ "address": data.address().to_string() }], "protocol": "h2" });
    let (waypost, _records) = in_front_of(upstream, &[]).await;
    let endpoints = format!("--endpoints=http://{}", waypost.listen);
    let etcdctl = async |args: &[&str]| program("etcdctl", &[&[&*endpoints], args].concat(), b"").await.succeeded().text();
    assert_eq!(etcdctl(&["put", "k", "v0"]).await.trim(), "OK");
    assert_eq!(etcdctl(&["get", "k"]).await.trim(), "k\nv0");
    let mut watch = Command::new("etcdctl");
    let watch = watch.args([&*endpoints, "watch", "k"]).env("ETCDCTL_API", "3").stdout(Stdio::piped()).kill_on_drop(true).spawn();
    let mut watch = watch.unwrap();
    let mut events = BufReader::new(watch.stdout.take().unwrap()).lines();
    until_true("the watch is under way", async || waypost.metric("waypost_in_flight").await > 0.5).await;
    let mut seen = 0;
    for turn in 1..=30 {
        etcdctl(&["put", "k", &format!("v{turn}")]).await;
        // The first ones may come before the watch has begun.
        let wanted = format!("v{turn}");
        while let Ok(Ok(Some(line))) = tokio::time::timeout(Duration::from_secs(if seen == 0 { 1 } else { 20 }), events.next_line()).await {
            if line == wanted {
                seen += 1;
                break;
            }
        }
    }
    assert!(seen >= 25, "{seen} of 30 changes were seen by the watch");
}

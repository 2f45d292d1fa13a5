//! Secrets reach no log, no metric and no admin answer, also where much is said and much goes wrong.

use std::{fs, path::Path};

use serde_json::json;
use waypost_tests::{Certificates, Client, Etcd, PREFIX, Reply, SecureClient, Waypost, until, until_true};

use crate::scene::{route, service};

const PASSWORD: &str = "pa55-of-the-edge-user";
const WRONG: &str = "pa55-that-is-not-it";
const TOKEN: &str = "t0ken-of-the-admin-door";
const OTHER_TOKEN: &str = "t0ken-that-does-not-open";
const PASTED: &str = "cGFzdGVkLWludG8tdGhlLXJlY29yZC1ieS1taXN0YWtl";
/// What clients send: in fields, and in queries.
const CLIENTS: &str = "s3cret-of-a-client";
/// Cheap hashing of passwords.
const CHEAP: [&str; 2] = ["--bcrypt-cost", "4"];

/// Whatever would show a secret: itself, and its bytes as numbers.
fn forms(secret: &str) -> [String; 2] {
    let numbers = format!("{:?}", secret.as_bytes());
    [secret.to_owned(), numbers.trim_matches(['[', ']']).to_owned()]
}

/// The lines of a private key that hold it.
fn lines_of(key: &Path) -> Vec<String> {
    fs::read_to_string(key).unwrap().lines().filter(|line| !line.starts_with('-') && line.len() > 20).map(str::to_owned).collect()
}

async fn ask(waypost: &Waypost, method: &str, path: &str, token: &str, body: &str) -> String {
    let shown = format!("Bearer {token}");
    let mut client = Client::connect(waypost.admin).await;
    let answer = client.request(method, path, &[("Authorization", &shown)], body.as_bytes()).await;
    format!("{} {:?}\n{}", answer.status, answer.headers, answer.text())
}

#[tokio::test]
async fn no_secret_is_ever_printed_or_told() {
    let certificates = Certificates::new();
    let (by_file, by_env) =
        (certificates.sign_for("by file", &["file.example.com"]), certificates.sign_for("by env", &["env.example.com"]));
    let mut etcd = Etcd::with(&CHEAP).await;
    let backend = waypost_tests::Backend::start(|_| Reply::ok("a")).await;
    let record = |cert: &Path, key: String, host: &str| json!({ "hosts": [host], "cert": format!("file:{}", cert.display()), "key": key });
    etcd.put_all(&[
        ("services/orders", service(json!({}))),
        ("upstreams/a", backend.upstream()),
        ("routes/orders/t1", route("a", 5)),
        ("certificates/by-file", record(&by_file.cert, format!("file:{}", by_file.key.display()), "file.example.com")),
        ("certificates/by-env", record(&by_env.cert, "env:ORDERS_KEY".to_owned(), "env.example.com")),
        // A key where its certificate belongs, another's key, and a key that somebody has pasted.
        ("certificates/swapped", record(&by_file.key, format!("file:{}", by_file.cert.display()), "swapped.example.com")),
        ("certificates/other", record(&by_file.cert, "env:ORDERS_KEY".to_owned(), "other.example.com")),
        ("certificates/pasted", record(&by_file.cert, format!("-----BEGIN PRIVATE KEY-----\n{PASTED}\n"), "pasted.example.com")),
    ])
    .await;
    etcd.enable_auth().await;
    etcd.add_user("edge", PASSWORD).await;
    etcd.grant("edge", &format!("{PREFIX}/"), false).await;

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let settings = "[[listener]]\naddress = \"127.0.0.1:1\"\ntls = true\n";
    let (password, token, bootstrap) = (file("password", PASSWORD), file("token", TOKEN), file("waypost.toml", settings));
    let flags =
        ["--config", &bootstrap, "--gold-user", "edge", "--gold-password-file", &password, "--admin-token-file", &token, "--threads", "1"];
    let mut waypost = Waypost::new(&etcd.url(), &flags);
    waypost.env("RUST_LOG", "trace");
    waypost.env("ORDERS_KEY", &fs::read_to_string(&by_env.key).unwrap());
    waypost.spawn();
    waypost.ready().await;

    // Requests that carry secrets, over either certificate; a handshake that fails.
    let secure = SecureClient::new(&certificates.ca, None);
    for host in ["file.example.com", "env.example.com"] {
        let mut connection = until("a certificate is shown", async || secure.connect(waypost.listen, host).await).await;
        let request = format!(
            "GET /note?password={CLIENTS} HTTP/1.1\r\nHost: {host}\r\nx-tenant: t1\r\nAuthorization: Bearer {CLIENTS}\r\nCookie: s={CLIENTS}\r\n\
             Connection: close\r\n\r\n"
        );
        assert!(connection.ask(&request).await.starts_with("HTTP/1.1 200 "));
    }
    assert!(secure.connect(waypost.listen, "nobody.example.com").await.is_err());

    // The door, with the wrong token; settings that name a password where none belongs; a token file that holds none.
    let mut told = vec![ask(&waypost, "GET", "/status", OTHER_TOKEN, "").await];
    fs::write(&bootstrap, format!("{settings}[gold]\nendpoints = [\"http://edge:{PASSWORD}@127.0.0.1:2379\"]\n")).unwrap();
    waypost.hang_up();
    until_true("the URL is refused", async || waypost.said().contains("a user does not belong here")).await;
    fs::write(&bootstrap, settings).unwrap();
    fs::write(&token, format!("{OTHER_TOKEN} {TOKEN}")).unwrap();
    waypost.hang_up();
    until_true("the token is refused", async || waypost.said().contains("holds no admin token")).await;
    waypost.quit();

    // A key that is damaged, and a store that does not take the password any more.
    let damaged = fs::read_to_string(&by_file.key).unwrap().replacen('\n', "\nA", 1);
    let secrets_of_keys = [lines_of(&by_file.key), lines_of(&by_env.key)].concat();
    fs::write(&by_file.key, damaged).unwrap();
    fs::write(&password, WRONG).unwrap();
    etcd.restart().await;
    until_true("the damaged key is told", async || {
        let status = ask(&waypost, "GET", "/status", TOKEN, "").await;
        let quarantined = status.split_once("\"quarantined\"").map_or("", |(_, rest)| rest);
        quarantined.split(']').next().is_some_and(|quarantined| quarantined.contains("certificates/by-file"))
    })
    .await;
    until("the refusal is told", async || {
        let status = ask(&waypost, "GET", "/status", TOKEN, "").await;
        if status.contains("password") { Ok(()) } else { Err(status) }
    })
    .await;

    let explained =
        format!(r#"{{"method":"GET","url":"http://h/x?password={CLIENTS}","headers":{{"authorization":"{CLIENTS}","x-tenant":"t1"}}}}"#);
    told.push(ask(&waypost, "POST", "/explain", TOKEN, &explained).await);
    for path in ["/status", "/metrics", "/records", "/routes/orders/t1", "/healthz", "/readyz", "/nothing", "/requests/x"] {
        told.push(ask(&waypost, "GET", path, TOKEN, "").await);
    }
    for request in waypost.access_log() {
        let id = request["request_id"].as_str().unwrap().to_owned();
        told.push(ask(&waypost, "GET", &format!("/requests/{id}"), TOKEN, "").await);
    }
    told.push(fs::read_to_string(waypost.access_log_path()).unwrap());
    told.push(waypost.said());
    waypost.terminate();
    waypost.wait(std::time::Duration::from_secs(20));
    told.push(waypost.said());

    let mut secrets: Vec<String> = [PASSWORD, WRONG, TOKEN, OTHER_TOKEN, PASTED, CLIENTS].into_iter().flat_map(forms).collect();
    secrets.extend(secrets_of_keys.iter().flat_map(|line| forms(line)));
    let shown: Vec<String> = told
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| secrets.iter().any(|secret| line.contains(secret)))
        .map(|line| line.chars().take(600).collect())
        .collect();
    assert!(shown.is_empty(), "{} lines: {:#?}", shown.len(), &shown[..shown.len().min(20)]);
}

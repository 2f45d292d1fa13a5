//! What a person is told when something can't be done: what was wrong, where, and what would be right.

use tempfile::tempdir;
use waypost_tests::{Etcd, Waypost, free_address, until_true};

/// Nobody's certificate: enough to begin TLS with.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBejCCAR+gAwIBAgIUB+T5SC9EMKSqeA9EIYjVsdXzb+swCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyNDE4NDcxMVoYDzIxMjYxMDMxMTg0
NzExWjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AASubdP7wATQv5IIYaGM4eKrcwOl0O5wea6shNPGYzn//LcHnCvb415PByFzG3bU
zCjt3z65Cj4NrFzQ69BKS2y1o1MwUTAdBgNVHQ4EFgQU8ClInv+yl9hWhzf675gV
nADjDdEwHwYDVR0jBBgwFoAU8ClInv+yl9hWhzf675gVnADjDdEwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEA862JMKeS6IaZ+CLFmDeCkmk7xVGg
DIcUGU3EwbYnEVUCIQCfxK6NAPv1RUJyrcB5BXP7UX616NH/tFhrOqIr96MrUQ==
-----END CERTIFICATE-----
";

/// Runs a command that must end with a status and one line that holds all of these.
async fn one_line(args: &[&str], status: i32, wanted: &[&str]) {
    let (ended, out, said) = Waypost::run(args).await;
    assert_eq!((ended, out.as_str()), (status, ""), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    for wanted in wanted {
        assert!(said.contains(wanted), "{args:?} does not say {wanted}: {said}");
    }
}

#[tokio::test]
async fn settings_that_can_t_be_used_start_nothing() {
    let folder = tempdir().unwrap();
    let toml = folder.path().join("waypost.toml");
    let toml = toml.to_str().unwrap();
    for (content, wanted) in [("[golf]\n", "did you mean \"gold\"?"), ("[gold]\n", "neither endpoints nor file"), ("x = \n", ":1")] {
        std::fs::write(toml, content).unwrap();
        one_line(&["run", "--config", toml], 2, &[wanted]).await;
    }
    one_line(&["run", "--config", "/nonexistent.toml"], 2, &["/nonexistent.toml", "there is no such file"]).await;
    one_line(&["run", "--config", folder.path().to_str().unwrap()], 2, &["it is a directory"]).await;
    let bad = folder.path().join("bad.yaml");
    std::fs::write(&bad, "upstreams/a:\n  endpoint: []\n").unwrap();
    let gold = format!("file:{}", bad.display());
    let (listen, admin) = (["--listen", "127.0.0.1:0"], ["--admin", "127.0.0.1:0"]);
    let run = |flags: &[&'static str]| [&["run", "--gold", gold.as_str()][..], &listen, &admin, flags].concat();
    one_line(&run(&[]), 2, &["bad.yaml:2: upstreams/a: field \"endpoint\" is unknown; did you mean \"endpoints\"?"]).await;
    one_line(
        &["run", "--gold", "file:/dev/zero", "--listen", listen[1]],
        2,
        &["/dev/zero", "it is a pipe or a device; a file would be right"],
    )
    .await;
    std::fs::write(&bad, "").unwrap();
    one_line(&run(&["--access-log", "/nonexistent/log"]), 1, &["/nonexistent/log", "there is no such file or directory", "--access-log"])
        .await;
    one_line(&run(&["--id", "a b"]), 2, &["--id", "\"a b\" is no name"]).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flags, wanted) in
        [(["--listen", &address, "--admin", "127.0.0.1:0"], "--listen"), (["--listen", "127.0.0.1:0", "--admin", &address], "--admin")]
    {
        one_line(&[&["run", "--gold", &gold][..], &flags].concat(), 1, &[&address, "in use", wanted]).await;
    }
}

#[tokio::test]
async fn a_gold_copy_s_place_that_can_t_be_one_is_exit_2() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "secret").unwrap();
    let file = file.to_str().unwrap();
    for (flags, wanted) in [
        (&["--gold", "ftp://x"][..], "\"ftp://x\" is no URL of an etcd: it begins neither with http://"),
        (&["--gold", "http://127.0.0.1"], "the port is missing"),
        (&["--gold", "http://127.0.0.1:2379/x"], "behind the port"),
        (&["--gold", "127.0.0.1:2379"], "http://host:2379"),
        (&["--gold", "file:"], "names no file"),
        (&["--gold", "http://h:1", "--prefix", "/x/"], "ends with /"),
        (&["--gold", "http://h:1", "--gold-user", "a"], "--gold-user is given without --gold-password-file"),
        (&["--gold", "http://h:1", "--gold-user", "a", "--gold-password-file", "/nonexistent"], "/nonexistent can't be read"),
        (&["--gold", "http://h:1", "--gold-ca", file], "http://h:1 is plain; https:// would be right"),
        (&["--gold", "https://h:1"], "needs --gold-ca"),
        (&["--gold", "https://h:1", "--gold-ca", file], "PEM"),
        (&["--gold", "https://h:1", "--gold-ca", file, "--gold-cert", file], "--gold-cert is given without --gold-key"),
    ] {
        one_line(&[&["route", "list", "orders"][..], flags].concat(), 2, &[wanted]).await;
    }
}

#[tokio::test]
async fn a_store_that_can_t_be_asked_says_why() {
    let nobody = free_address();
    let url = format!("http://{nobody}");
    one_line(&["route", "get", "orders", "t1", "--gold", &url], 1, &[&url, "the connection was refused"]).await;
    let closing = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closes = format!("http://{}", closing.local_addr().unwrap());
    let task = tokio::spawn(async move { while closing.accept().await.is_ok() {} });
    one_line(&["check", "--gold", &closes], 1, &[&closes, "if it wants TLS, https:// would be right"]).await;
    task.abort();
    let etcd = Etcd::start().await;
    let folder = tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, CERTIFICATE).unwrap();
    let secure = etcd.url().replace("http://", "https://");
    let args = ["check", "--gold", &secure, "--gold-ca", ca.to_str().unwrap()];
    one_line(&args, 1, &[&secure, "does not speak TLS; http:// would be right"]).await;
    let password = folder.path().join("password");
    std::fs::write(&password, "x").unwrap();
    let plain = etcd.url();
    let user = ["check", "--gold", &plain, "--gold-user", "a", "--gold-password-file", password.to_str().unwrap()];
    one_line(&user, 1, &["has no users; leave --gold-user out"]).await;
    let (status, _, said) = Waypost::run(&["route", "get", "orders", "t1", "--gold", &plain]).await;
    assert!(status == 1 && said.contains("there is no routes/orders/t1: there is no services/orders"), "{said}");
    etcd.put("services/orders", serde_json::json!({ "match": [{}], "default_owner": "a" })).await;
    etcd.put("upstreams/cell-1", serde_json::json!({})).await;
    one_line(&["route", "get", "order", "t1", "--gold", &plain], 1, &["did you mean \"orders\"?"]).await;
    one_line(&["route", "get", "orders", "t1", "--gold", &plain], 1, &["there is no routes/orders/t1", "default_owner"]).await;
    let set = ["route", "set", "orders", "t1", "--owner", "cel-1", "--gold", &plain];
    one_line(&set, 1, &["upstreams/cel-1", "did you mean \"cell-1\"?", "--allow-missing"]).await;
}

#[tokio::test]
async fn an_admin_address_that_is_another_s_is_named() {
    let nobody = free_address().to_string();
    one_line(&["status", "--admin", &nobody], 1, &[&nobody, "the connection was refused", "--admin"]).await;
    let etcd = Etcd::start().await;
    let other = etcd.address().to_string();
    one_line(&["status", "--admin", &other], 1, &[&other, "is not a proxy's admin endpoints", "--admin"]).await;
    one_line(&["status", "--admin", "nowhere"], 1, &["no host:port"]).await;
}

#[tokio::test]
async fn a_snapshot_that_can_t_be_kept_starts_nothing() {
    let etcd = Etcd::start().await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    let url = etcd.url();
    let taken = waypost.snapshot();
    let with = async |snapshot: &str, wanted: &[&str]| {
        let args = ["run", "--gold", &url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--snapshot", snapshot];
        one_line(&args, 1, wanted).await;
    };
    with(taken.to_str().unwrap(), &["belongs to another running proxy", "--snapshot or --id"]).await;
    with("/proc/nowhere/x", &["/proc/nowhere", "--snapshot"]).await;
    with("/proc/x", &["/proc/x.lock", "--snapshot"]).await;
}

#[tokio::test]
async fn typing_errors_are_exit_2_with_what_was_meant() {
    for (args, wanted) in [
        (&["run", "--lisen", "x"][..], "--listen"),
        (&["chekc"], "check"),
        (&["run", "--listen", "localhost:80"], "numeric address, not a name; \"127.0.0.1:8080\""),
        (&["run", "--admin", "127.0.0.1"], "the port is missing"),
        (&["route", "set", "orders", "t1"], "--owner"),
        (&["apply"], "FILE"),
        (&["route", "list", "or ders"], "\"or ders\" is no name"),
        (&["bench", "ftp://x"], "http://host:port/path would be right"),
        (&["conform", "--to", "https://127.0.0.1:1"], "http://host:port would be right"),
    ] {
        let (status, out, said) = Waypost::run(args).await;
        assert_eq!((status, out.as_str()), (2, ""), "{args:?}: {said}");
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
}

#[tokio::test]
async fn a_proxy_without_a_store_says_so_and_what_it_answers_meanwhile() {
    let nobody = free_address();
    let mut waypost = Waypost::new(&format!("http://{nobody}"), &[]);
    waypost.spawn();
    until_true("it says why there is no table", async || {
        let said = waypost.said();
        said.contains("the connection was refused") && said.contains("there is no table yet")
    })
    .await;
}

//! The admin endpoints' door: who may ask, and how commands and balancers get by.

use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;
use waypost_tests::{Answer, Client, Etcd, Waypost, command, until_true};

use crate::scene::{route, service};

const TOKEN: &str = "fd8c1a6be2d94f7c";
const NEXT: &str = "0b74c2e19a53d86f";

struct Door {
    etcd: Etcd,
    waypost: Waypost,
    folder: TempDir,
}

impl Door {
    async fn start() -> Self {
        let etcd = Etcd::start().await;
        etcd.put_all(&[("services/orders", service(json!({}))), ("routes/orders/t1", route("a", 5))]).await;
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let waypost = Waypost::start(&etcd.url(), &["--admin-token-file", token.to_str().unwrap()]).await;
        Self { etcd, waypost, folder }
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    async fn ask(&self, method: &str, path: &str, token: &str) -> Answer {
        let shown = format!("Bearer {token}");
        let headers: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("Authorization", &shown)] };
        Client::connect(self.waypost.admin).await.request(method, path, headers, b"").await
    }
}

#[tokio::test]
async fn without_the_token_only_health_and_readiness_are_told() {
    let door = Door::start().await;
    let request = r#"{"method":"GET","url":"http://h/","headers":{}}"#;
    for path in ["/status", "/metrics", "/routes/orders/t1", "/records", "/watch", "/requests/1", "/nothing", "/healthz/x", "/readyz%2f"] {
        for token in ["", "wrong", NEXT] {
            let answer = door.ask("GET", path, token).await;
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{path}");
            assert!(!answer.text().contains("orders") && !answer.text().contains(TOKEN), "{}", answer.text());
        }
    }
    assert_eq!(door.ask("POST", "/explain", "").await.status, 401);
    assert_eq!(door.ask("HEAD", "/status", "").await.status, 401);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(door.ask("GET", path, "").await.status, 200);
    }
    for path in ["/status", "/metrics", "/routes/orders/t1", "/records", "/healthz", "/readyz"] {
        assert_eq!(door.ask("GET", path, TOKEN).await.status, 200, "{path}");
    }
    let shown = format!("Bearer {TOKEN}");
    let explained =
        Client::connect(door.waypost.admin).await.request("POST", "/explain", &[("Authorization", &shown)], request.as_bytes()).await;
    assert_eq!(explained.status, 200, "{}", explained.text());
}

/// Exit status, stdout, stderr.
async fn run(args: &[&str], token_file: Option<&Path>) -> (i32, String, String) {
    let mut command = command(args);
    if let Some(file) = token_file {
        command.env("WAYPOST_ADMIN_TOKEN_FILE", file);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn commands_show_the_token_and_say_when_it_is_wanted() {
    let door = Door::start().await;
    let (admin, gold) = (door.waypost.admin.to_string(), door.etcd.url());
    let wrong = door.folder.path().join("wrong");
    std::fs::write(&wrong, NEXT).unwrap();
    let commands: [&[&str]; 3] = [
        &["status", "--admin", &admin],
        &["explain", "GET", "http://h/", "-H", "x-tenant: t1", "--admin", &admin],
        &["check", "--against", &admin, "--gold", &gold],
    ];
    for command in commands {
        let (status, _, said) = run(command, None).await;
        assert!(status == 1 && said.contains("name the file that holds it with --admin-token-file"), "{command:?}: {status} {said}");
        let (status, _, said) = run(command, Some(&wrong)).await;
        assert!(status == 1 && said.contains("is not one of those that open it") && !said.contains(NEXT), "{command:?}: {status} {said}");
        let (status, out, said) = run(command, Some(&door.token_file())).await;
        assert_eq!(status, 0, "{command:?}: {out}{said}");
        let file = door.token_file();
        let by_flag = [command, &["--admin-token-file", file.to_str().unwrap()]].concat();
        assert_eq!(run(&by_flag, None).await.0, 0, "{by_flag:?}");
    }
    let (status, _, said) = run(&["watch", "--admin", &admin], None).await;
    assert!(status == 1 && said.contains("--admin-token-file"), "{said}");
    let (status, _, said) = run(&["status", "--admin", &admin], Some(&door.folder.path().join("none"))).await;
    assert!(status == 2 && said.contains("can't be read"), "{said}");
}

#[tokio::test]
async fn a_token_is_replaced_without_a_restart_and_a_bad_file_replaces_nothing() {
    let door = Door::start().await;
    std::fs::write(door.token_file(), format!("{TOKEN}\n{NEXT}\n")).unwrap();
    door.waypost.hang_up();
    until_true("the new one opens", async || door.ask("GET", "/status", NEXT).await.status == 200).await;
    assert_eq!(door.ask("GET", "/status", TOKEN).await.status, 200, "so does the old one while it is there");
    std::fs::write(door.token_file(), "short\n").unwrap();
    door.waypost.hang_up();
    until_true("what is wrong is said", async || door.waypost.said().contains("nothing else is changed")).await;
    assert_eq!(door.ask("GET", "/status", NEXT).await.status, 200);
    std::fs::write(door.token_file(), NEXT).unwrap();
    door.waypost.hang_up();
    until_true("the old one opens no more", async || door.ask("GET", "/status", TOKEN).await.status == 401).await;
    assert_eq!(door.ask("GET", "/status", NEXT).await.status, 200);
}

#[tokio::test]
async fn an_address_that_others_can_reach_needs_a_token_or_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let (records, bootstrap) = (folder.path().join("records.json"), folder.path().join("waypost.toml"));
    std::fs::write(&records, "{}").unwrap();
    let gold = format!("file:{}", records.display());
    let open = ["--gold", &gold, "--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0", "--access-log", "off"];
    let (status, _, said) = run(&[&["run"][..], &open].concat(), None).await;
    assert_eq!(status, 2, "{said}");
    for word in ["0.0.0.0:0", "token_file", "--admin-token-file", "insecure = true", "127.0.0.1"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    std::fs::write(&bootstrap, "[admin]\ninsecure = true\n").unwrap();
    let mut waypost = Waypost::new(&gold, &["--config", bootstrap.to_str().unwrap()]);
    waypost.admin.set_ip([0, 0, 0, 0].into());
    waypost.spawn();
    waypost.ready().await;
    assert_eq!(Client::fetch(waypost.admin, "/status").await.unwrap().status, 200);
}

//! `waypost watch` and `GET /watch`: what is told, to how many, and what it costs the others.

use std::{
    net::SocketAddr,
    process::{Child, Stdio},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use waypost_tests::{Client, Waypost, command, until, until_true};

use crate::scene::{Scene, route, service};

/// A raw reader of `/watch`.
struct Watcher {
    lines: BufReader<TcpStream>,
}

impl Watcher {
    /// Asks; gives the reader once its first line is there, or the status.
    async fn open(admin: SocketAddr, query: &str) -> Result<Self, u16> {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        stream.write_all(format!("GET /watch{query} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut watcher = Self { lines: BufReader::new(stream) };
        let status = watcher.raw_line().await.split(' ').nth(1).unwrap().parse().unwrap();
        if status != 200 {
            return Err(status);
        }
        let first = watcher.next().await;
        assert_eq!(first["change"], "watching", "{first}");
        Ok(watcher)
    }

    async fn raw_line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(waypost_tests::LIMIT, self.lines.read_line(&mut line)).await;
        assert_ne!(read.expect("a line in time").unwrap(), 0, "the stream has ended");
        line
    }

    /// The next line that tells of something; heads and chunk sizes are passed over.
    async fn next_told(&mut self) -> Value {
        loop {
            let line = self.raw_line().await;
            if let Ok(Value::Object(change)) = serde_json::from_str(&line) {
                return change.into();
            }
        }
    }

    /// The next change of the table. A proxy is ready with its list; that it was made, and that it is in contact, may be told a moment later.
    async fn next(&mut self) -> Value {
        loop {
            let change = self.next_told().await;
            if change["change"] != "contact" && change["reason"] != "first" {
                return change;
            }
        }
    }

    /// The next of one kind.
    async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let change = self.next_told().await;
            if change["change"] == kind {
                return change;
            }
        }
    }
}

/// `waypost watch`, with its output in files.
struct Command {
    child: Child,
    folder: tempfile::TempDir,
}

impl Command {
    fn start(waypost: &Waypost, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| std::fs::File::create(folder.path().join(name)).unwrap();
        let mut command = command(&["watch", "--admin", &waypost.admin.to_string()]);
        let child = command.args(args).stdin(Stdio::null()).stdout(file("out")).stderr(file("err")).spawn().unwrap();
        Self { child, folder }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    async fn says(&self, what: &str) -> String {
        until(&format!("watch says {what}"), async || {
            let out = self.read("out");
            out.lines().find(|line| line.contains(what)).map(str::to_owned).ok_or(out)
        })
        .await
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn every_kind_of_change_is_told_as_it_comes_into_force() {
    let mut scene = Scene::start().await;
    let mut watcher = Watcher::open(scene.waypost.admin, "").await.unwrap_or_else(|status| panic!("{status}"));
    let revision = scene.put("routes/orders/t1", route("b", 6)).await;
    let moved = watcher.next().await;
    assert_eq!((&moved["change"], &moved["key"], &moved["revision"]), (&json!("route"), &json!("t1"), &json!(revision)), "{moved}");
    assert_eq!((&moved["before"]["owner"], &moved["after"]["owner"], &moved["after"]["epoch"]), (&json!("a"), &json!("b"), &json!(6)));
    assert!(moved["in_force_ms"].as_f64() >= Some(0.0), "{moved}");
    scene.delete("routes/orders/t1").await;
    assert_eq!(watcher.next().await["after"], Value::Null);
    scene.put("routes/orders/new", json!({ "owner": "a", "epoch": 1, "state": "frozen" })).await;
    let new = watcher.next().await;
    assert_eq!((&new["before"], &new["after"]["state"]), (&Value::Null, &json!("frozen")), "{new}");
    scene.put("services/orders", service(json!({ "default_owner": "a" }))).await;
    let record = watcher.next().await;
    assert_eq!((&record["kind"], &record["name"], &record["what"]), (&json!("service"), &json!("orders"), &json!("changed")), "{record}");
    scene.put("policies/default", json!({ "max_hops": 2 })).await;
    assert_eq!(watcher.next().await["what"], "new");
    scene.put("endpoints/a/x", json!({ "address": "127.0.0.1:1" })).await;
    assert_eq!(watcher.next().await["name"], "a/x");
    scene.etcd.put_raw("routes/orders/new", b"{").await;
    let bad = watcher.next().await;
    assert_eq!((&bad["change"], &bad["key"]), (&json!("quarantined"), &json!("routes/orders/new")), "{bad}");
    scene.etcd.kill();
    let lost = watcher.next_of("contact").await;
    assert_eq!(lost["connected"], false, "{lost}");
    scene.etcd.restart().await;
    until("contact is told", async || {
        let change = watcher.next_of("contact").await;
        if change["connected"] == true { Ok(()) } else { Err(change.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn the_number_of_watchers_is_bounded_and_the_rest_is_served_meanwhile() {
    let scene = Scene::start().await;
    let admin = scene.waypost.admin;
    let mut watchers = Vec::new();
    for _ in 0..16 {
        watchers.push(Watcher::open(admin, "").await.unwrap_or_else(|status| panic!("{status}")));
    }
    let refused = Client::fetch(admin, "/watch").await.unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("16 readers watch already"), "{}", refused.text());
    assert_eq!(Client::fetch(admin, "/healthz").await.unwrap().status, 200);
    assert_eq!(Client::fetch(admin, "/metrics").await.unwrap().status, 200);
    scene.put("routes/orders/t1", route("b", 6)).await;
    for watcher in &mut watchers {
        assert_eq!(watcher.next().await["after"]["owner"], "b");
    }
    watchers.pop();
    until_true("a place is free again", async || Watcher::open(admin, "").await.is_ok()).await;
}

#[tokio::test]
async fn a_watcher_that_does_not_read_holds_nobody_up_and_is_told_what_it_missed() {
    let scene = Scene::start().await;
    let mut stalled = TcpStream::connect(scene.waypost.admin).await.unwrap();
    stalled.write_all(b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 16];
    stalled.read_exact(&mut first).await.unwrap();
    // More than the kernel's buffers and the ring hold; each transaction has 100 routes of long keys.
    let padding = "x".repeat(900);
    let mut revision = 0;
    for round in 0..250 {
        let records: Vec<(String, Value)> =
            (0..100).map(|n| (format!("routes/orders/{}-{n}-{padding}", round % 5), route("a", round + 1))).collect();
        let records: Vec<(&str, Value)> = records.iter().map(|(key, value)| (&**key, value.clone())).collect();
        revision = scene.etcd.put_all(&records).await;
    }
    scene.waypost.at(revision).await;
    assert_eq!(scene.waypost.get("t1", "/").await.status, 200);
    let mut lines = BufReader::new(stalled);
    let read = tokio::time::timeout(waypost_tests::LIMIT, async {
        loop {
            let mut line = Vec::new();
            assert_ne!(lines.read_until(b'\n', &mut line).await.unwrap(), 0, "the stream has ended");
            if let Ok(change) = serde_json::from_slice::<Value>(&line)
                && change["change"] == "missed"
            {
                return change["missed"].as_u64().unwrap();
            }
        }
    });
    let missed = read.await.expect("what was missed is told");
    assert!((1..25_000).contains(&missed), "{missed}");
}

#[tokio::test]
async fn the_command_says_a_line_a_change_and_goes_on_when_the_proxy_is_back() {
    let mut scene = Scene::start().await;
    let all = Command::start(&scene.waypost, &[]);
    let one = Command::start(&scene.waypost, &["--service", "orders", "--key", "t2", "--json"]);
    all.says("watching edge-1").await;
    one.says("watching").await;
    let revision = scene.put("routes/orders/t1", route("b", 6)).await;
    let said = all.says("t1  a → b").await;
    assert!(said.starts_with(&format!("t1  a → b  epoch 6  revision {revision}  in force ")), "{said}");
    assert!(said.ends_with(" ms after it arrived"), "{said}");
    scene.waypost.terminate();
    scene.waypost.wait(std::time::Duration::from_secs(20));
    until_true("the loss is said", async || all.read("err").contains("is away")).await;
    scene.waypost.spawn();
    scene.waypost.ready().await;
    until_true("it watches again", async || all.read("out").matches("watching edge-1").count() == 2).await;
    until_true("the other does too", async || one.read("out").matches("watching").count() == 2).await;
    scene.put("routes/orders/t2", route("a", 1)).await;
    all.says("t2  new → a  epoch 1").await;
    one.says("\"t2\"").await;
    assert!(!one.read("out").contains("\"t1\""), "{}", one.read("out"));
    assert_eq!(all.read("err").lines().count(), 1, "said once: {}", all.read("err"));
}

#[tokio::test]
async fn the_command_ends_quietly_when_nobody_reads_or_on_interrupt() {
    let scene = Scene::start().await;
    let mut unread = command(&["watch", "--admin", &scene.waypost.admin.to_string()]);
    let mut unread = unread.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    let mut interrupted = Command::start(&scene.waypost, &[]);
    interrupted.says("watching").await;
    let pid = interrupted.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
    let mut epoch = 5;
    until("both have ended", async || {
        epoch += 1;
        scene.etcd.put("routes/orders/t1", route("a", epoch)).await;
        match (unread.try_wait().unwrap(), interrupted.child.try_wait().unwrap()) {
            (Some(one), Some(other)) if one.success() && other.success() => Ok(()),
            ended => Err(format!("{ended:?}")),
        }
    })
    .await;
    assert_eq!(interrupted.read("err"), "");
    let (status, _, said) = Waypost::run(&["watch", "--admin", "127.0.0.1:1"]).await;
    assert_eq!(status, 1);
    assert!(said.contains("--admin"), "{said}");
}

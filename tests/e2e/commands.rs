//! The commands as a person meets them: results, messages, exit statuses.

mod against;
mod apply;
mod bench;
mod check;
mod messages;

use std::{
    fs::File,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::json;
use tempfile::tempdir;
use waypost_tests::{Backend, Etcd, Reply, Waypost, until_true};

use crate::scene::{route, service};

/// Runs the binary with this text on its standard input.
async fn fed(args: &[&str], text: &str) -> (i32, String, String) {
    let mut command = waypost_tests::command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let text = text.to_owned();
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        // It may end without having read: that is not what is tested.
        let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
        child.wait_with_output().unwrap()
    });
    let ended = ended.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ended.status.code().unwrap_or(-1), text(&ended.stdout), text(&ended.stderr))
}

#[tokio::test]
async fn routes_are_read_set_and_deleted() {
    let etcd = Etcd::start().await;
    let folder = tempdir().unwrap();
    let path = folder.path().join("records.yaml");
    let name = path.to_str().unwrap();
    let url = etcd.url();
    let gold = ["--gold", &url];
    std::fs::write(&path, "services/orders: { match: [{}], key: { header: x-tenant } }\nupstreams/a: {}\nupstreams/b: {}\nroutes/orders/t1: { owner: a, epoch: 4 }\n").unwrap();
    let run = async |args: &[&str]| Waypost::run(&[args, &gold[..]].concat()).await;
    assert_eq!(run(&["apply", name]).await.0, 0);

    let (status, out, _) = run(&["route", "get", "orders", "t1", "--json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &shown["value"]), (0, &json!({ "owner": "a", "epoch": 4 })));
    assert_eq!(run(&["route", "set", "orders", "t1", "--owner", "b"]).await.0, 0);
    assert_eq!(etcd.get("routes/orders/t1").await, Some(json!({ "owner": "b", "epoch": 5 })), "the epoch is raised");
    assert_eq!(run(&["route", "set", "orders", "t2", "--owner", "b"]).await.0, 0);
    assert_eq!(etcd.get("routes/orders/t2").await, Some(json!({ "owner": "b" })), "no epoch where there was none");
    let (status, _, said) = run(&["route", "set", "orders", "t3", "--owner", "nobody"]).await;
    assert_eq!(status, 1);
    assert!(said.contains("upstreams/nobody") && said.contains("--allow-missing"), "{said}");
    assert_eq!(run(&["route", "set", "orders", "t3", "--owner", "nobody", "--allow-missing"]).await.0, 0);
    let (_, out, _) = run(&["route", "list", "orders", "--owner", "b"]).await;
    assert_eq!(out.lines().count(), 2, "{out}");
    assert_eq!(run(&["route", "delete", "orders", "t2"]).await.0, 0);
    assert_eq!(etcd.get("routes/orders/t2").await, None);
    assert_eq!(run(&["route", "delete", "orders", "t2"]).await.0, 1);
    assert_eq!(run(&["route", "get", "orders", "t2"]).await.0, 1);
}

#[tokio::test]
async fn a_record_file_is_followed_and_a_broken_one_changes_nothing() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("routes.yaml");
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let records = |owner: &str| {
        json!({ "services/orders": service(json!({})), "upstreams/a": a.upstream(), "upstreams/b": b.upstream(), "routes/orders/t1": { "owner": owner } })
            .to_string()
    };
    std::fs::write(&path, records("a")).unwrap();
    let waypost = Waypost::start(&format!("file:{}", path.display()), &[]).await;
    assert_eq!(waypost.get("t1", "/").await.text(), "a");
    let status = waypost.status().await;
    assert_eq!(
        (&status["gold"][0]["source"], &status["gold"][0]["table"], &status["gold"][0]["revision"]),
        (&json!("file"), &json!("file-0"), &json!(1))
    );
    std::fs::write(&path, "routes/orders/t1: { ownr: b }").unwrap();
    until_true("the fault is said", async || waypost.status().await["gold"][0]["last_error"].to_string().contains("did you mean")).await;
    assert_eq!(waypost.get("t1", "/").await.text(), "a");
    std::fs::write(&path, records("b")).unwrap();
    until_true("the new file is in force", async || waypost.get("t1", "/").await.text() == "b").await;
    assert_eq!(waypost.status().await["gold"][0]["revision"], 2);
}

#[tokio::test]
async fn sigterm_finishes_what_is_under_way_and_then_ends() {
    let release = std::sync::Arc::new(std::sync::Barrier::new(2));
    let gate = std::sync::Arc::clone(&release);
    let slow = move |seen: &waypost_tests::Seen| {
        if seen.target == "/slow" {
            gate.wait();
        }
        Reply::ok("a")
    };
    let a = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let backend = runtime.block_on(Backend::start(slow));
        (runtime, backend)
    });
    let (runtime, backend) = a.join().unwrap();
    let etcd = Etcd::start().await;
    etcd.put_all(&[("services/orders", service(json!({}))), ("upstreams/a", backend.upstream()), ("routes/orders/t1", route("a", 1))])
        .await;
    let mut waypost = Waypost::start(&etcd.url(), &[]).await;
    let mut idle = waypost.client().await;
    assert_eq!(idle.get("/", &[("x-tenant", "t1")]).await.status, 200);
    let mut busy = waypost.client().await;
    let slow = tokio::spawn(async move { busy.get("/slow", &[("x-tenant", "t1")]).await });
    until_true("the slow request has arrived", async || backend.heads() == 2).await;
    waypost.terminate();
    assert!(idle.is_closed().await, "an idle connection is closed soon");
    until_true("readiness says that it drains", async || {
        waypost_tests::Client::fetch(waypost.admin, "/readyz").await.is_ok_and(|answer| answer.reason() == "draining")
    })
    .await;
    tokio::task::spawn_blocking(move || release.wait()).await.unwrap();
    let answer = slow.await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert!(waypost.wait(Duration::from_secs(20)).success());
    drop(backend);
    runtime.shutdown_background();
}

#[tokio::test]
async fn every_command_has_help_with_an_example() {
    for command in ["run", "demo", "check", "apply", "status", "explain", "bench"] {
        let (status, out, _) = Waypost::run(&[command, "--help"]).await;
        assert_eq!(status, 0, "{command}");
        assert!(out.contains("Example"), "{command}: {out}");
    }
    for command in ["get", "list", "set", "delete"] {
        let (status, out, _) = Waypost::run(&["route", command, "--help"]).await;
        assert!(status == 0 && out.contains("Example"), "route {command}: {out}");
    }
    assert_eq!(Waypost::run(&["rune"]).await.0, 2);
}

/// The longest test: the whole story.
#[tokio::test]
async fn a_demo_that_is_asked_to_stop_leaves_no_process_behind() {
    for signal in ["INT", "TERM"] {
        let folder = tempdir().unwrap();
        let (told, out) = (folder.path().join("told"), File::create(folder.path().join("told")).unwrap());
        let mut demo = waypost_tests::command(&["demo"]).stdout(out).stderr(Stdio::null()).spawn().unwrap();
        // The store and the proxy are there by then.
        until_true("the demo tells", async || std::fs::read_to_string(&told).unwrap().contains("\n2. ")).await;
        let children = children_of(demo.id());
        assert!(children.len() > 1, "{children:?}");
        assert!(Command::new("kill").args([&format!("-{signal}"), &demo.id().to_string()]).status().unwrap().success());
        let status = tokio::task::spawn_blocking(move || demo.wait().unwrap()).await.unwrap();
        assert_eq!(status.code(), Some(if signal == "INT" { 130 } else { 143 }));
        until_true("what it started is gone", async || children.iter().all(|child| !Path::new(&format!("/proc/{child}")).exists())).await;
    }
}

/// The processes that one has started, whichever of its threads did.
fn children_of(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    children.flat_map(|of| of.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<_>>()).collect()
}

#[tokio::test]
async fn the_demo_holds() {
    let (status, out, said) = Waypost::run(&["demo", "--once"]).await;
    assert_eq!(status, 0, "{out}\n{said}");
    assert!(out.contains("every step held"), "{out}");
}

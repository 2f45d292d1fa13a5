//! Restarts: sockets that are handed to another process, and what a drain ends when.

mod load;
mod reload;

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tokio::net::TcpStream;
use waypost_tests::{Client, Peer, RawBackend, Waypost, until, until_true};

use crate::{
    scene::{Scene, route},
    stage::{OK, Requests, Stage, body, field, keeping, statuses},
};

const END: Duration = Duration::from_secs(20);
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// A stage with these lines of the bootstrap file, whose owner keeps what it was asked, and begins a body that never ends for `/endless`.
async fn stage(bootstrap_lines: &str) -> (Stage, Requests) {
    let requests = Requests::default();
    let kept = requests.clone();
    let backend = RawBackend::start(move |mut peer: Peer, _| {
        let kept = kept.clone();
        async move {
            while let Some(request) = peer.request().await {
                let is_endless = request.head.starts_with("GET /endless");
                kept.lock().unwrap().push(request);
                if is_endless {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
                    peer.rest().await;
                    return;
                }
                peer.send(OK).await;
            }
        }
    })
    .await;
    let upstream = backend.upstream();
    (Stage::on(backend, &upstream, json!({}), bootstrap_lines).await, requests)
}

async fn readiness(admin: SocketAddr) -> String {
    Client::fetch(admin, "/readyz").await.map_or_else(|error| error, |answer| format!("{} {}", answer.status, answer.reason()))
}

#[tokio::test]
async fn readiness_fails_for_a_while_before_connections_are_refused() {
    let (mut stage, _) = stage("[drain]\nready_delay_ms = 700").await;
    stage.waypost.terminate();
    let admin = stage.waypost.admin;
    until_true("readiness says that it drains", async || readiness(admin).await == "503 draining").await;
    let answer = stage.ask(GET).await;
    assert_eq!((statuses(&answer), field(&answer, "connection")), (vec![200], "close"), "connections are still accepted");
    assert!(stage.waypost.wait(END).success());
}

#[tokio::test]
async fn once_it_drains_no_connection_is_accepted_however_long_others_last() {
    let (mut stage, _) = stage("[drain]\nlimit_ms = 3000").await;
    let mut busy = stage.client().await;
    busy.send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").await;
    busy.until("half").await.unwrap();
    stage.waypost.terminate();
    let listen = stage.waypost.listen;
    until("connections are refused", async || match TcpStream::connect(listen).await {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(!stage.waypost.has_ended(), "the request under way is waited for");
    assert!(stage.waypost.wait(END).success(), "it is cut in time");
    assert_eq!(busy.rest().await, "");
    assert!(stage.waypost.said().contains("what is still under way after 3s is cut"), "{}", stage.waypost.said());
}

#[tokio::test]
async fn whoever_was_accepted_may_bring_a_last_request_while_it_drains() {
    let (mut stage, requests) = stage("[drain]\nidle_ms = 2000").await;
    let (mut kept, mut fresh) = (stage.client().await, stage.client().await);
    kept.send(GET).await;
    kept.until("ok").await.unwrap();
    let admin = stage.waypost.admin;
    stage.waypost.terminate();
    until_true("it drains", async || readiness(admin).await == "503 draining").await;
    for client in [&mut kept, &mut fresh] {
        // In two parts, so that the end of its time finds it in the middle of a head.
        client.send("GET /late HTTP/1.1\r\n").await;
        client.send("Host: h\r\n\r\n").await;
        let answer = client.rest().await;
        assert_eq!((statuses(&answer), field(&answer, "connection"), body(&answer)), (vec![200], "close", "ok"));
    }
    assert!(stage.waypost.wait(END).success());
    assert_eq!(requests.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn who_waits_to_be_accepted_when_it_drains_is_served() {
    let (mut stage, _) = stage("").await;
    for _ in 0..5 {
        stage.waypost.pause();
        let mut clients = Vec::new();
        for _ in 0..100 {
            let mut client = stage.client().await;
            client.send(GET).await;
            clients.push(client);
        }
        stage.waypost.terminate();
        stage.waypost.resume();
        for client in &mut clients {
            assert_eq!(statuses(&client.rest().await), [200]);
        }
        assert!(stage.waypost.wait(END).success());
        stage.waypost.spawn();
        stage.waypost.ready().await;
    }
}

#[tokio::test]
async fn without_a_process_that_waits_sigquit_is_answered_with_a_sentence_and_nothing_else() {
    let (mut stage, _) = stage("").await;
    stage.waypost.quit();
    until_true("it says so", async || stage.waypost.said().contains("no process waits at")).await;
    assert_eq!(statuses(&stage.get("/").await), [200]);
    assert!(!stage.waypost.has_ended());
    let old = stage.waypost.upgrade().await;
    assert_eq!(statuses(&stage.get("/").await), [200], "and later it can be done");
    drop(old);
}

#[tokio::test]
async fn the_snapshot_passes_over_with_the_sockets() {
    let mut scene = Scene::start().await;
    until_true("the first has written its snapshot", async || scene.waypost.snapshot().exists()).await;
    let mut old = scene.waypost.upgrade().await;
    assert!(old.wait(END).success());
    let revision = scene.put("routes/orders/t2", route("b", 7)).await;
    until("the second writes it", async || {
        let snapshot = scene.waypost.status().await["gold"][0]["snapshot"].clone();
        if snapshot["revision"] == revision { Ok(()) } else { Err(snapshot.to_string()) }
    })
    .await;
    assert_eq!(scene.waypost.get("t2", "/").await.text(), "b");
    let snapshot = scene.waypost.snapshot().display().to_string();
    let (status, _, said) =
        Waypost::run(&["run", "--gold", &scene.etcd.url(), "--snapshot", &snapshot, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .await;
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("belongs to another running proxy"), "{said}");
}

#[tokio::test]
async fn a_new_process_that_can_not_serve_leaves_the_old_one_as_it_was() {
    let (mut stage, _) = stage("[upgrade]\nlimit_ms = 2000").await;
    let gold = |address: SocketAddr| format!("http://{address}");
    // A store that nobody can reach, and no snapshot: it is never ready.
    let records = stage.waypost.gold().to_owned();
    stage.waypost.follow(&gold(waypost_tests::free_address()));
    let mut kept = stage.client().await;
    kept.send(GET).await;
    kept.until("ok").await.unwrap();
    let old = stage.waypost.spawn_upgrade();
    old.quit();
    assert_eq!(stage.waypost.wait(END).code(), Some(1));
    let said = stage.waypost.said();
    assert!(said.contains("the old process goes on: the new process was not ready within 2s"), "{said}");
    stage.waypost.follow(&records);
    // Killed before it is ready.
    let mut failed = stage.waypost.goes_on(old);
    assert!(failed.has_ended());
    for turn in 1..=2 {
        stage.waypost.follow(&gold(waypost_tests::free_address()));
        let old = stage.waypost.spawn_upgrade();
        old.quit();
        until_true("the sockets have come", async || stage.waypost.said().matches("it serves until this one can").count() > turn).await;
        stage.waypost.goes_on(old).kill();
        stage.waypost.follow(&records);
        until_true("the old one says so", async || stage.waypost.said().matches("the new process has ended").count() >= turn).await;
    }
    kept.send(GET).await;
    assert!(kept.until("ok").await.is_some(), "not even a connection has noticed");
    assert_eq!(statuses(&stage.get("/").await), [200]);
    assert_eq!(readiness(stage.waypost.admin).await, "200 ");
    drop(stage.waypost.upgrade().await);
    assert_eq!(statuses(&stage.get("/").await), [200]);
}

#[tokio::test]
async fn if_the_old_process_dies_meanwhile_the_new_one_takes_its_place() {
    let (mut stage, _) = stage("").await;
    let records = stage.waypost.gold().to_owned();
    stage.waypost.follow(&format!("http://{}", waypost_tests::free_address()));
    let old = stage.waypost.spawn_upgrade();
    old.quit();
    until_true("the sockets have come", async || stage.waypost.said().contains("it serves until this one can")).await;
    old.kill();
    stage.waypost.serves().await;
    assert_eq!(readiness(stage.waypost.admin).await, "503 not_ready");
    stage.waypost.follow(&records);
    drop(stage.waypost.upgrade().await);
    assert_eq!(statuses(&stage.get("/").await), [200]);
}

#[tokio::test]
async fn what_the_new_settings_say_decides_where_it_listens() {
    let (mut stage, _) = stage("[drain]\nlimit_ms = 1000").await;
    let before = stage.waypost.listen;
    stage.waypost.listen = waypost_tests::free_address();
    let mut old = stage.waypost.upgrade().await;
    assert_eq!(statuses(&stage.get("/").await), [200], "it has bound what is new");
    assert!(old.wait(END).success());
    until_true("what is gone is closed", async || TcpStream::connect(before).await.is_err()).await;
    // Where the new address is taken nothing changes.
    let other = RawBackend::start(|_, _| async {}).await;
    let now = stage.waypost.listen;
    stage.waypost.listen = other.address;
    let old = stage.waypost.spawn_upgrade();
    old.quit();
    assert_eq!(stage.waypost.wait(END).code(), Some(1));
    stage.waypost.listen = now;
    drop(stage.waypost.goes_on(old));
    until_true("the old one says why", async || stage.waypost.said().contains("the new process has declined: can't listen on")).await;
    assert_eq!(statuses(&stage.get("/").await), [200]);
}

#[tokio::test]
async fn a_process_of_another_name_gets_no_sockets() {
    let (mut stage, _) = stage("").await;
    let folder = stage.waypost.snapshot().with_extension("upgrade");
    let mut other = waypost_tests::command(&["run", "--upgrade", "--id", "edge-2", "--gold", stage.waypost.gold(), "--upgrade-socket"]);
    other.arg(&folder).args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let other = tokio::task::spawn_blocking(move || other.output().unwrap());
    until_true("it waits", async || folder.exists()).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&folder).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "nobody else may offer or ask there");
    stage.waypost.quit();
    let output = other.await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the old process is edge-1, this one is edge-2"), "{said}");
    assert!(!folder.exists(), "the socket goes with it");
    assert_eq!(statuses(&stage.get("/").await), [200]);
    assert!(!stage.waypost.has_ended());
}

#[tokio::test]
async fn a_guard_hands_nothing_over() {
    let etcd = waypost_tests::Etcd::start().await;
    etcd.put_all(&[("services/orders", crate::scene::service(json!({}))), ("routes/orders/t1", route("a", 5))]).await;
    let requests = Requests::default();
    let backend = RawBackend::start(keeping(requests)).await;
    let mut guard = waypost_tests::Guard::start(&etcd.url(), "a", "a-1", backend.address, &[]).await;
    guard.quit();
    until_true("it says so", async || guard.said().contains("a guard hands nothing over")).await;
    assert!(!guard.has_ended());
}

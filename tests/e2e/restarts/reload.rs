//! SIGHUP: what of the bootstrap file comes into force while the process runs.

use std::fs;

use waypost_tests::{Peer, Waypost, until_true};

use super::{GET, stage};
use crate::stage::{Stage, field, reason, statuses};

/// Rewrites the bootstrap file: of its listener's section, then of others.
fn write(stage: &Stage, lines: &str) {
    fs::write(stage.bootstrap(), format!("[[listener]]\naddress = \"127.0.0.1:1\"\n{lines}\n")).unwrap();
}

async fn says(waypost: &Waypost, what: &str) {
    until_true(&format!("it says {what:?}"), async || waypost.said().contains(what)).await;
}

#[tokio::test]
async fn limits_come_into_force_and_connections_that_are_open_stay() {
    let (stage, _) = stage("").await;
    let mut first = stage.client().await;
    first.send(GET).await;
    assert_ne!(field(&first.until("ok").await.unwrap(), "connection"), "close");
    write(&stage, "[limits]\nconnections = 1\nrequests_per_connection = 1");
    stage.waypost.hang_up();
    says(&stage.waypost, "in force now: limits.connections, limits.requests_per_connection").await;
    let answer = stage.ask(GET).await;
    assert_eq!((statuses(&answer), reason(&answer)), (vec![503], "overloaded"), "one is open already");
    first.send(GET).await;
    assert!(first.until("ok").await.is_some(), "it goes on");
    write(&stage, "[limits]\nrequests_per_connection = 1");
    stage.waypost.hang_up();
    says(&stage.waypost, "in force now: limits.connections\"").await;
    let answer = stage.ask(GET).await;
    assert_eq!((statuses(&answer), field(&answer, "connection")), (vec![200], "close"));
    stage.waypost.hang_up();
    says(&stage.waypost, "was reread, and changes nothing").await;
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing_and_says_where() {
    let (mut stage, _) = stage("[log]\naccess = \"off\"").await;
    stage.waypost.leave_access_log_to_settings();
    drop(stage.waypost.upgrade().await);
    for (wrong, said) in [
        (
            "[limits]\nconnections = 1\nrequest_per_connection = 1",
            "waypost.toml:5: setting \\\"limits.request_per_connection\\\" is unknown",
        ),
        ("[limits]\nconnections = 1\n[drain]\nlimit_ms = \"soon\"", "waypost.toml:6: "),
        ("[limits]\nconnections = 1\n[log]\naccess = \"/no/such/folder/access.log\"", "the access log can't be opened"),
    ] {
        write(&stage, wrong);
        stage.waypost.hang_up();
        says(&stage.waypost, said).await;
        let (_one, _two) = (stage.client().await, stage.client().await);
        assert_eq!(statuses(&stage.ask(GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await), [200], "{wrong}");
    }
    fs::remove_file(stage.bootstrap()).unwrap();
    stage.waypost.hang_up();
    says(&stage.waypost, "can't be read: ").await;
}

#[tokio::test]
async fn what_needs_a_restart_is_named_each_time() {
    let (stage, _) = stage("").await;
    write(&stage, "[[listener]]\naddress = \"127.0.0.1:2\"\n[limits]\nrecords = 7\n[drain]\nidle_ms = 7\n[snapshot]\npath = \"/tmp/x\"");
    for times in 1..=2 {
        stage.waypost.hang_up();
        let said = "not in force before a restart: listener.address, snapshot.path, limits.records";
        until_true("it says so", async || stage.waypost.said().matches(said).count() == times).await;
    }
    assert!(stage.waypost.said().contains("in force now: drain.idle_ms"), "{}", stage.waypost.said());
}

#[tokio::test]
async fn what_holds_for_a_listener_s_connections_holds_for_new_ones() {
    let (stage, requests) = stage("").await;
    let says_who = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    let forwarded = async |client: &mut Peer| {
        client.send(says_who).await;
        assert!(client.until("ok").await.is_some());
        requests.lock().unwrap().last().unwrap().values("x-forwarded-for").join(", ")
    };
    let mut before = stage.client().await;
    assert_eq!(forwarded(&mut before).await, "127.0.0.1");
    write(&stage, "trusted = [\"127.0.0.0/8\"]");
    stage.waypost.hang_up();
    says(&stage.waypost, "in force now: listener\"").await;
    assert_eq!(forwarded(&mut before).await, "127.0.0.1", "it goes on as it began");
    assert_eq!(forwarded(&mut stage.client().await).await, "192.0.2.1, 127.0.0.1");
    write(&stage, "tls = true\nclient_ca = \"file:/nowhere\"\nclient_cert = \"required\"");
    stage.waypost.hang_up();
    says(&stage.waypost, "nothing else is changed: the listener on 127.0.0.1:1: client_ca /nowhere can't be read").await;
    assert_eq!(forwarded(&mut stage.client().await).await, "192.0.2.1, 127.0.0.1");
    write(&stage, "tls = true");
    stage.waypost.hang_up();
    until_true("it wants a handshake", async || {
        let mut client = stage.client().await;
        client.send(GET).await;
        client.until("ok").await.is_none()
    })
    .await;
    assert!(!forwarded(&mut before).await.is_empty(), "what is open stays open");
}

#[tokio::test]
async fn the_access_log_moves_and_changes_its_format() {
    let (mut stage, _) = stage("").await;
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.log"), folder.path().join("second.log"));
    let log = |access: &str, format: &str| format!("[log]\naccess = \"{access}\"\nformat = \"{format}\"");
    write(&stage, &log(first.to_str().unwrap(), "json"));
    // Another process, whose log the bootstrap file places.
    stage.waypost.leave_access_log_to_settings();
    drop(stage.waypost.upgrade().await);
    stage.get("/one").await;
    let has = async |file: &std::path::Path, what: &str| {
        until_true(&format!("{what} is in {}", file.display()), async || fs::read_to_string(file).unwrap_or_default().contains(what)).await;
    };
    has(&first, "\"path\":\"/one\"").await;
    write(&stage, &log(second.to_str().unwrap(), "text"));
    stage.waypost.hang_up();
    says(&stage.waypost, "in force now: log.access, log.format").await;
    stage.get("/two").await;
    has(&second, " GET h/two 200 ").await;
    write(&stage, &log("off", "text"));
    stage.waypost.hang_up();
    says(&stage.waypost, "in force now: log.access\"").await;
    stage.get("/three").await;
    write(&stage, &log(first.to_str().unwrap(), "json"));
    stage.waypost.hang_up();
    until_true("it says so again", async || stage.waypost.said().matches("in force now: log.access, log.format").count() == 2).await;
    stage.get("/four").await;
    has(&first, "\"path\":\"/four\"").await;
    let all = [&first, &second].map(|file| fs::read_to_string(file).unwrap()).concat();
    assert_eq!(all.lines().count(), 3, "{all}");
    assert!(!all.contains("/three"));
}

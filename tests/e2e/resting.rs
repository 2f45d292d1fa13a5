//! Connections that are quiet for a while: they rest, and nobody outside can tell. Secure ones are in [`crate::tls`].

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waypost_tests::{Peer, RawBackend, until_true};

use crate::stage::{Requests, Stage, body, field, keeping, reason, statuses};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const END: Duration = Duration::from_secs(20);

async fn stage(policy: Value, bootstrap_lines: &str) -> Stage {
    let backend = RawBackend::start(keeping(Requests::default())).await;
    let upstream = backend.upstream();
    Stage::on(backend, &upstream, policy, bootstrap_lines).await
}

impl Stage {
    /// Waits until so many connections rest, and so many do not.
    async fn rest(&self, resting: usize, active: usize) {
        let count = async |state: &str| self.waypost.metric(&format!("waypost_connections{{state=\"{state}\"}}")).await as usize;
        until_true(&format!("{resting} connections rest, and {active} do not"), async || {
            (count("resting").await, count("active").await) == (resting, active)
        })
        .await;
    }
}

async fn is_answered(client: &mut Peer) -> String {
    client.send(GET).await;
    let answer = client.until("ok").await.unwrap_or_default();
    assert_eq!(statuses(&answer), [200], "{answer:?}");
    answer
}

#[tokio::test]
async fn a_quiet_connection_rests_and_is_served_on_when_it_brings_a_request() {
    let stage = stage(json!({}), "[limits]\nrequests_per_connection = 3").await;
    let (mut used, mut fresh) = (stage.client().await, stage.client().await);
    is_answered(&mut used).await;
    stage.rest(2, 0).await;
    is_answered(&mut fresh).await;
    stage.rest(2, 0).await;
    for client in [&mut used, &mut fresh] {
        let answer = is_answered(client).await;
        assert_ne!(field(&answer, "connection"), "close", "two of its requests are over");
    }
    // What it had brought before it rested counts, also where it brings several at once.
    stage.rest(2, 0).await;
    for client in [&mut used, &mut fresh] {
        client.send(GET.repeat(2)).await;
        let answers = client.rest().await;
        assert_eq!((statuses(&answers), field(&answers, "connection")), (vec![200], "close"), "{answers:?}");
    }
    stage.rest(0, 0).await;
    assert_eq!(stage.backend.count("GET / "), 6);
}

#[tokio::test]
async fn a_head_that_comes_in_parts_over_a_resting_connection_has_its_time_and_no_more() {
    let stage = stage(json!({ "timeouts": { "header_ms": 900 } }), "").await;
    let (mut slow, mut late) = (stage.client().await, stage.client().await);
    stage.rest(2, 0).await;
    for part in ["G", "ET / HTT", "P/1.1\r\nHost", ": h\r\n\r", "\n"] {
        slow.send(part).await;
    }
    assert_eq!(statuses(&slow.until("ok").await.unwrap_or_default()), [200]);
    late.send("GET / HTTP/1.1\r\nHo").await;
    let answer = late.rest().await;
    assert_eq!((statuses(&answer), reason(&answer)), (vec![408], "client_timeout"), "{answer:?}");
}

#[tokio::test]
async fn a_resting_connection_ends_when_it_was_idle_for_as_long_as_any_may_be() {
    const IDLE: Duration = Duration::from_millis(3500);
    let stage = stage(json!({ "timeouts": { "idle_ms": IDLE.as_millis() as u64 } }), "").await;
    let (mut left, mut used) = (stage.client().await, stage.client().await);
    is_answered(&mut left).await;
    stage.rest(2, 0).await;
    // Each request begins its time anew.
    is_answered(&mut used).await;
    let used_at = Instant::now();
    assert_eq!(left.rest().await, "");
    assert_eq!(used.rest().await, "");
    assert!(used_at.elapsed() >= IDLE, "{:?}", used_at.elapsed());
    stage.rest(0, 0).await;
}

#[tokio::test]
async fn a_resting_connection_has_its_place_until_its_client_goes() {
    let stage = stage(json!({}), "[limits]\nconnections = 2").await;
    let (closes, resets) = (stage.client().await, stage.client().await);
    stage.rest(2, 0).await;
    let turned_away = stage.ask(GET).await;
    assert_eq!((statuses(&turned_away), reason(&turned_away)), (vec![503], "overloaded"));
    drop(closes);
    stage.rest(1, 0).await;
    resets.reset();
    stage.rest(0, 0).await;
    is_answered(&mut stage.client().await).await;
}

#[tokio::test]
async fn a_resting_connection_may_bring_a_last_request_while_the_process_drains() {
    let mut stage = stage(json!({}), "[drain]\nidle_ms = 5000").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = stage.client().await;
        is_answered(&mut client).await;
        clients.push(client);
    }
    stage.rest(3, 0).await;
    stage.waypost.terminate();
    until_true("it drains", async || stage.waypost.said().contains("SIGTERM")).await;
    for client in &mut clients[..2] {
        // In two parts, so that the end of its time may find it in the middle of a head.
        client.send("GET /late HTTP/1.1\r\n").await;
        client.send("Host: h\r\n\r\n").await;
        let answer = client.rest().await;
        assert_eq!((statuses(&answer), field(&answer, "connection"), body(&answer)), (vec![200], "close", "ok"));
    }
    assert_eq!(clients[2].rest().await, "", "it brought nothing");
    assert!(stage.waypost.wait(END).success(), "and nothing else is waited for");
}

#[tokio::test]
async fn a_resting_connection_stays_with_the_process_that_accepted_it() {
    let mut stage = stage(json!({}), "[drain]\nidle_ms = 20000").await;
    let mut client = stage.client().await;
    is_answered(&mut client).await;
    stage.rest(1, 0).await;
    let mut old = stage.waypost.upgrade().await;
    until_true("the old process drains", async || old.said().contains("another process serves on these sockets")).await;
    client.send(GET).await;
    let answer = client.rest().await;
    assert_eq!((statuses(&answer), field(&answer, "connection")), (vec![200], "close"));
    assert!(old.wait(END).success());
    is_answered(&mut stage.client().await).await;
}

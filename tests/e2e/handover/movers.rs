//! Movers that die, are interrupted, meet one another, or can't wait.

use waypost_tests::{Guard, command};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_mover_was_killed_is_taken_back_and_no_client_sees_more_than_a_wait() {
    let stage = Stage::start().await;
    // The mark of a dead mover stays for two or three seconds, and then the owner waits a moment.
    let revision = stage.etcd.put("policies/default", json!({ "park_ms": 15000 })).await;
    stage.waypost.at(revision).await;
    // A second instance: whoever comes first takes the key back, the other finds it done.
    let _second = instance(&stage.etcd, "a", "two").await;
    stage.slow.store(300, Ordering::Relaxed);
    let writers = Writers::start(&stage);
    until_true("the owner is busy", async || stage.a.backend.count("x-tenant: t0") > 0).await;
    let gold = stage.etcd.url();
    let mut mover = command(&["route", "move", "orders", "t0", "--to", "b", "--gold", &gold]).spawn().unwrap();
    let route = async || stage.etcd.get("routes/orders/t0").await.unwrap();
    until_true("the key is frozen", async || route().await["state"] == "frozen").await;
    mover.kill().unwrap();
    mover.wait().unwrap();
    stage.slow.store(5, Ordering::Relaxed);
    until("the key is taken back", async || {
        let route = route().await;
        if route == json!({ "owner": "a", "epoch": 6 }) { Ok(()) } else { Err(route.to_string()) }
    })
    .await;
    let (status, _, said) = stage.run(&["t0", "--to", "b"]).await;
    assert_eq!(status, 0, "{said}");
    let answers = writers.stop().await;
    judge(&stage.history.lock().unwrap(), &answers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_left_frozen_is_taken_back_by_its_owner_and_what_a_person_froze_is_not() {
    let stage = Stage::start().await;
    let frozen = |owner: &str, by: Option<&str>| {
        let epoch = if owner == "a" { 5 } else { 6 };
        let mut record = json!({ "owner": owner, "epoch": epoch, "state": "frozen", "target": "b" });
        if let Some(by) = by {
            record["move"] = by.into();
        }
        record
    };
    stage.etcd.put("upstreams/c", json!({})).await;
    for (key, record) in
        [("t0", frozen("a", Some("dead"))), ("t1", frozen("a", None)), ("t2", frozen("c", Some("dead"))), ("t3", frozen("a", Some("dead")))]
    {
        stage.etcd.put(&format!("routes/orders/{key}"), record).await;
    }
    // An owner that begins finds what was left frozen before.
    let _later = instance(&stage.etcd, "a", "two").await;
    for key in ["t0", "t3"] {
        until(&format!("{key} is taken back"), async || {
            let route = stage.etcd.get(&format!("routes/orders/{key}")).await.unwrap();
            if route == json!({ "owner": "a", "epoch": 6 }) { Ok(()) } else { Err(route.to_string()) }
        })
        .await;
    }
    until("the proxy warns of those that stay frozen, and of no others", async || {
        let warnings = stage.waypost.status().await["warnings"].clone();
        let about: Vec<&str> = warnings.as_array().unwrap().iter().filter_map(|said| said.as_str()?.split(": frozen for").next()).collect();
        if about == ["routes/orders/t1", "routes/orders/t2"] { Ok(()) } else { Err(warnings.to_string()) }
    })
    .await;
    for (key, record) in [("t1", frozen("a", None)), ("t2", frozen("c", Some("dead")))] {
        assert_eq!(stage.etcd.get(&format!("routes/orders/{key}")).await.unwrap(), record);
        assert_eq!(stage.run(&[key, "--abort"]).await.0, 0);
    }
    until_true("nothing is left to warn of", async || stage.waypost.status().await["warnings"] == json!([])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_killed_is_gone_on_with_by_the_next_and_two_runs_at_once_do_each_other_no_harm() {
    let stage = Stage::start().await;
    let revision = stage.etcd.put("policies/default", json!({ "park_ms": 15000 })).await;
    stage.waypost.at(revision).await;
    stage.slow.store(200, Ordering::Relaxed);
    let writers = Writers::start(&stage);
    until_true("the owner is busy", async || stage.a.backend.count("x-tenant: t0") > 0).await;
    let gold = stage.etcd.url();
    let mut mover = command(&["route", "move", "orders", "--owner", "a", "--to", "b", "--parallel", "3", "--gold", &gold]).spawn().unwrap();
    let frozen = async || {
        let keys = (0..TENANTS).map(|n| format!("routes/orders/t{n}"));
        let mut frozen = 0;
        for key in keys {
            frozen += usize::from(stage.etcd.get(&key).await.unwrap()["state"] == "frozen");
        }
        frozen
    };
    until_true("keys are frozen", async || frozen().await >= 2).await;
    mover.kill().unwrap();
    mover.wait().unwrap();
    stage.slow.store(5, Ordering::Relaxed);
    let args = ["--owner", "a", "--to", "b", "--parallel", "3", "--json"];
    let ((status, out, said), (other_status, other_out, other_said)) = tokio::join!(stage.run(&args), stage.run(&args));
    assert_eq!((status, other_status), (0, 0), "{out}{said}{other_out}{other_said}");
    for n in 0..TENANTS {
        assert_eq!(stage.etcd.get(&format!("routes/orders/t{n}")).await.unwrap()["owner"], "b");
    }
    // Each key was moved by one of the three.
    let moves = |out: &str| out.lines().filter(|line| line.contains("frozen_ms") && !line.contains("summary")).count();
    assert!(moves(&out) + moves(&other_out) <= TENANTS, "{out}{other_out}");
    let summary: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["summary"]["failed"], &summary["summary"]["not_begun"]), (&json!(0), &json!(0)), "{summary}");
    let answers = writers.stop().await;
    judge(&stage.history.lock().unwrap(), &answers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_interrupted_ends_what_it_has_begun_and_begins_no_more() {
    let stage = Stage::start().await;
    stage.slow.store(150, Ordering::Relaxed);
    let writers = Writers::start(&stage);
    until_true("the owner is busy", async || stage.a.backend.count("x-tenant: t0") > 0).await;
    let gold = stage.etcd.url();
    let mut mover = command(&["route", "move", "orders", "--owner", "a", "--to", "b", "--parallel", "1", "--gold", &gold]);
    let mover = mover.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let is_frozen = async || stage.etcd.get("routes/orders/t0").await.unwrap()["state"] == "frozen";
    until_true("the first key is frozen", is_frozen).await;
    assert!(std::process::Command::new("kill").args(["-s", "INT", &mover.id().to_string()]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || mover.wait_with_output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("7 of 8 routes were not moved, since the run was interrupted; another run goes on with them"), "{said}");
    assert_eq!(stage.etcd.get("routes/orders/t0").await.unwrap(), json!({ "owner": "b", "epoch": 6 }));
    let answers = writers.stop().await;
    judge(&stage.history.lock().unwrap(), &answers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_ended_by_a_freeze_and_long_requests_only_where_the_mover_says_so() {
    let stage = Stage::start().await;
    stage.slow.store(20_000, Ordering::Relaxed);
    let address = stage.waypost.listen;
    let long = tokio::spawn(async move { Client::connect(address).await.request("POST", "/", &[("x-tenant", "t1")], b"1").await });
    until_true("the owner is busy", async || stage.a.backend.count("x-tenant: t1") > 0).await;
    // Without it the owner keeps the key.
    let (status, _, said) = stage.run(&["t1", "--to", "b"]).await;
    assert!(status == 1 && said.contains("still serves requests"), "{said}");
    assert!(!long.is_finished());
    let (status, _, said) = stage.run(&["t1", "--to", "b", "--cut"]).await;
    assert_eq!(status, 0, "{said}");
    let answer = long.await.unwrap();
    assert_eq!((answer.status, answer.reason()), (502, "upstream_reset"), "its outcome is not known");
    assert_eq!(stage.history.lock().unwrap().len(), 0);

    let head = Head { method: "GET", service: "orders", key: b"t2", stamp: None };
    let permit = stage.a.owner.admit(&head).await.unwrap();
    let request = permit.recalled(Served::Request);
    let stream = permit.recalled(Served::Stream);
    let (moved, ()) = tokio::join!(stage.run(&["t2", "--to", "b"]), async move {
        stream.await;
        drop(permit);
    });
    assert_eq!(moved.0, 0, "{}", moved.2);
    let mut request = std::pin::pin!(request);
    let is_ended = std::future::poll_fn(|context| std::task::Poll::Ready(request.as_mut().poll(context).is_ready())).await;
    assert!(!is_ended, "a request would not have been disturbed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_ends_long_requests_only_where_the_mover_says_so() {
    let stage = Stage::start().await;
    let history = crate::writes::History::default();
    history.slow(Duration::from_secs(20));
    let backend = history.cell("c-1").await;
    let guard = Guard::start(&stage.etcd.url(), "c", "c-1", backend.address, &[]).await;
    stage.etcd.put("upstreams/c", guard.record()).await;
    let revision = stage.etcd.put("routes/orders/t1", route("c", 6)).await;
    stage.waypost.at(revision).await;
    let address = stage.waypost.listen;
    let long = tokio::spawn(async move { Client::connect(address).await.request("POST", "/", &[("x-tenant", "t1")], b"1").await });
    until_true("the write is under way", async || guard.status().await["guard"]["serving"] == 1).await;
    let (status, _, said) = stage.run(&["t1", "--to", "b"]).await;
    assert!(status == 1 && said.contains("still serves requests") && !long.is_finished(), "{said}");
    let (status, _, said) = stage.run(&["t1", "--to", "b", "--cut"]).await;
    assert_eq!(status, 0, "{said}");
    assert_eq!(long.await.unwrap().status, 502, "its outcome is not known");
}

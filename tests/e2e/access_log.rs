//! The access log: a line for every end that a request can have, rotation, and places that can't be written.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use waypost_tests::{Client, Reply, command, free_address, until, until_true};

use crate::scene::{Scene, route};

/// The line of the request with this `User-Agent`.
async fn line_of(scene: &Scene, agent: &str) -> Value {
    until(&format!("the line of {agent}"), async || {
        let lines = scene.waypost.access_log();
        lines.iter().find(|line| line["user_agent"] == agent).cloned().ok_or_else(|| format!("{lines:?}"))
    })
    .await
}

#[tokio::test]
async fn every_end_of_a_request_has_its_line() {
    let scene = Scene::with(
        |seen| match &*seen.target {
            "/hang" => Reply::Hang,
            "/close" => Reply::Close,
            "/early" => Reply::RawAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart".to_vec()),
            "/moved" => {
                let stamped = |member: &str| seen.stamped(member);
                let claim =
                    format!("moved, service=\"orders\", key=\"dDI=\", owner=\"b\", epoch=9, revision=1, table=\"{}\"", stamped("table"));
                Reply::stale(claim)
            }
            _ => Reply::ok("a"),
        },
        |_| Reply::ok("b"),
    )
    .await;
    scene.put("routes/orders/lost", route("nobody", 1)).await;
    let send = async |agent: &str, method: &str, path: &str, tenant: &str, body: &[u8]| {
        let mut client = scene.waypost.client().await;
        client.try_request(method, path, &[("x-tenant", tenant), ("user-agent", agent)], body).await
    };
    let _ = send("plain", "GET", "/x?secret=1", "t1", b"").await;
    let _ = send("head", "HEAD", "/x", "t1", b"").await;
    let _ = send("body", "POST", "/x", "t1", b"12345").await;
    let _ = send("refused", "GET", "/x", "lost", b"").await;
    let _ = send("failed", "POST", "/close", "t1", b"1").await;
    let _ = send("broken", "GET", "/early", "t1", b"").await;
    let mut chunked = scene.waypost.client().await;
    let head = "POST /x HTTP/1.1\r\nHost: orders.example.com\r\nx-tenant: t1\r\nUser-Agent: chunked\r\nTransfer-Encoding: chunked\r\n\r\n";
    chunked.send(format!("{head}3\r\nabc\r\n0\r\n\r\n").as_bytes()).await.unwrap();
    assert_eq!(chunked.answer(false).await.unwrap().status, 200);
    let mut gone = scene.waypost.client().await;
    let head = "POST /x HTTP/1.1\r\nHost: orders.example.com\r\nx-tenant: t1\r\nUser-Agent: gone\r\nContent-Length: 9\r\n\r\nabc";
    gone.send(head.as_bytes()).await.unwrap();
    until_true("the request is under way", async || scene.waypost.metric("waypost_in_flight").await >= 1.0).await;
    drop(gone);
    let mut garbage = scene.waypost.client().await;
    garbage.send(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n").await.unwrap();
    assert_eq!(garbage.answer(false).await.unwrap().status, 400);

    let plain = line_of(&scene, "plain").await;
    assert_eq!((&plain["path"], &plain["status"], &plain["reason"]), (&json!("/x"), &json!(200), &Value::Null), "{plain}");
    assert_eq!((&plain["service"], &plain["key"], &plain["owner"]), (&json!("orders"), &json!("t1"), &json!("a")), "{plain}");
    assert_eq!((&plain["epoch"], &plain["hops"], &plain["bytes_out"]), (&json!(5), &json!(0), &json!(1)), "{plain}");
    let names: Vec<&str> = plain.as_object().unwrap().keys().map(String::as_str).collect();
    let mut contract = vec![
        "time",
        "request_id",
        "client",
        "method",
        "host",
        "path",
        "status",
        "reason",
        "service",
        "key",
        "owner",
        "endpoint",
        "epoch",
        "revision",
        "hops",
        "bytes_in",
        "bytes_out",
        "duration_us",
        "upstream_us",
        "protocol",
        "user_agent",
    ];
    contract.sort_unstable();
    assert!(contract.iter().all(|name| names.contains(name)), "{names:?}");
    let head = line_of(&scene, "head").await;
    assert_eq!((&head["method"], &head["status"], &head["bytes_out"]), (&json!("HEAD"), &json!(200), &json!(0)), "{head}");
    assert_eq!(line_of(&scene, "body").await["bytes_in"], 5);
    assert_eq!(line_of(&scene, "chunked").await["bytes_in"], 3);
    let refused = line_of(&scene, "refused").await;
    assert_eq!(
        (&refused["status"], &refused["reason"], &refused["endpoint"]),
        (&json!(503), &json!("no_upstream"), &Value::Null),
        "{refused}"
    );
    let failed = line_of(&scene, "failed").await;
    assert_eq!((&failed["status"], &failed["reason"]), (&json!(502), &json!("upstream_reset")), "{failed}");
    let gone = line_of(&scene, "gone").await;
    assert_eq!((&gone["status"], &gone["reason"], &gone["owner"]), (&json!(0), &Value::Null, &json!("a")), "{gone}");
    assert_eq!(line_of(&scene, "broken").await["status"], 200, "what was begun is what was answered");
    until_true("what was no request has a line", async || {
        let lines = scene.waypost.access_log();
        lines.iter().any(|line| line["status"] == 400 && line["reason"] == "bad_request" && line["method"] == "")
    })
    .await;
    let lines = scene.waypost.access_log();
    assert_eq!(lines.len(), 9, "a line each: {lines:?}");
}

#[tokio::test]
async fn a_moved_log_file_is_opened_anew_by_itself_and_on_hangup() {
    let scene = Scene::start().await;
    let path = scene.waypost.access_log_path();
    let has_line = |path: &Path| std::fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n'));
    scene.waypost.get("t1", "/").await;
    until_true("the first line", async || has_line(&path)).await;
    std::fs::rename(&path, path.with_extension("1")).unwrap();
    until_true("a line in a new file", async || {
        scene.waypost.get("t1", "/").await;
        has_line(&path)
    })
    .await;
    std::fs::rename(&path, path.with_extension("2")).unwrap();
    scene.waypost.hang_up();
    until_true("the file is there without any request", async || path.exists()).await;
}

#[tokio::test]
async fn a_closed_pipe_costs_only_lines_and_they_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join("records.yaml");
    std::fs::write(&records, "services/s:\n  match: [{}]\n  default_owner: nobody\n").unwrap();
    let (listen, admin) = (free_address(), free_address());
    let stderr = std::fs::File::create(folder.path().join("err")).unwrap();
    let mut command = command(&["run", "--access-log", "stdout", "--listen", &listen.to_string(), "--admin", &admin.to_string()]);
    command.arg("--gold").arg(format!("file:{}", records.display()));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
    drop(child.stdout.take());
    until("it is ready", async || Client::fetch(admin, "/readyz").await).await;
    until("lost lines are counted", async || {
        assert_eq!(Client::fetch(listen, "/").await?.reason(), "no_upstream");
        let text = Client::fetch(admin, "/metrics").await?.text();
        let lost = text.lines().find_map(|line| line.strip_prefix("waypost_access_log_lines_dropped_total "));
        if lost.is_some_and(|lost| lost != "0") { Ok(()) } else { Err(text) }
    })
    .await;
    let said = || std::fs::read_to_string(folder.path().join("err")).unwrap();
    // Counted first, said a moment later.
    until_true("the loss is said", async || said().contains("the access log can't be written")).await;
    let _ = child.kill();
    let _ = child.wait();
    let said = said();
    assert_eq!(said.matches("the access log can't be written").count(), 1, "said once: {said}");
}

//! `/explain` and `waypost explain`: what would become of a request, held against what becomes of it.

use serde_json::{Value, json};
use waypost_tests::{Answer, Backend, Client, Etcd, Reply, Waypost, free_address, until_true};

use crate::scene::{Scene, route, service};

async fn post(waypost: &Waypost, body: &[u8]) -> Answer {
    Client::connect(waypost.admin).await.request("POST", "/explain", &[], body).await
}

async fn explain(waypost: &Waypost, question: Value) -> Value {
    let answer = post(waypost, question.to_string().as_bytes()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// The question for one tenant's GET.
async fn of_tenant(waypost: &Waypost, tenant: &str) -> Value {
    explain(waypost, json!({ "method": "GET", "url": "http://orders.example.com/x", "headers": { "x-tenant": tenant } })).await
}

#[tokio::test]
async fn the_answer_is_the_contract_s() {
    let scene = Scene::start().await;
    scene.put("policies/patient", json!({ "park_ms": 5 })).await;
    scene.put("services/billing", json!({ "match": [{ "hosts": ["billing.example.com"] }], "default_owner": "a" })).await;
    let exact = json!({ "match": [{ "hosts": ["orders.example.com"] }], "policy": "patient" });
    let revision = scene.put("services/orders", service(exact)).await;
    let answer = of_tenant(&scene.waypost, "t1").await;
    let wanted = json!({
        "revision": revision, "decision": "forward", "reason": null, "why": null, "service": "orders",
        "matched": { "host": "orders.example.com", "path_prefix": "/" },
        "key": "t1", "key_percent_encoded": "t1",
        "route": { "record": "t1", "owner": "a", "epoch": 5, "state": "serving", "target": null, "source": "watch", "over": null, "why": null },
        "policy": "patient", "upstream": "a",
        "endpoints": [{ "address": scene.a.address.to_string(), "usable": true, "why": null }],
        "not_chosen": [{ "service": "billing", "why": "host: wants billing.example.com" }],
        "warnings": [],
    });
    assert_eq!(answer, wanted);
    assert_eq!(scene.a.heads(), 0, "nothing is sent anywhere");
}

/// Asks about a request and sends it: reason, owner and epoch must agree.
async fn agrees(scene: &Scene, method: &str, target: &str, headers: &[(&str, &str)]) -> Value {
    let mut fields = serde_json::Map::new();
    for (name, value) in headers {
        let values = fields.entry((*name).to_owned()).or_insert_with(|| json!([]));
        values.as_array_mut().unwrap().push(json!(value));
    }
    let said = explain(&scene.waypost, json!({ "method": method, "url": target, "headers": fields })).await;
    let mut request = format!("{method} {target} HTTP/1.1\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    let mut client = scene.waypost.client().await;
    client.send(format!("{request}\r\n").as_bytes()).await.unwrap();
    let done = client.answer(method == "HEAD").await.unwrap();
    let reason = if said["decision"] == "park" { "park_timeout" } else { said["reason"].as_str().unwrap_or_default() };
    assert_eq!(reason, done.reason(), "{method} {target} {headers:?}: {said}");
    assert_eq!(said["decision"] == "forward", done.reason().is_empty(), "{said}");
    if said["decision"] == "forward" {
        let owner = if said["upstream"] == "a" { &scene.a } else { &scene.b };
        assert_eq!(said["route"]["epoch"].to_string(), owner.last().stamped("epoch"), "{said}");
        assert_eq!(owner.last().target, target);
    } else {
        assert!(said["why"].as_str().is_some_and(|why| !why.is_empty()), "{said}");
    }
    said
}

#[tokio::test]
async fn what_is_said_is_what_is_done() {
    let scene = Scene::start().await;
    let host = ("Host", "orders.example.com");
    scene.put("routes/orders/frozen", json!({ "owner": "b", "epoch": 7, "state": "frozen" })).await;
    scene.put("routes/orders/lost", route("nobody", 1)).await;
    scene.put("upstreams/empty", json!({})).await;
    scene.put("routes/orders/nowhere", route("empty", 1)).await;
    scene.etcd.put("routes/orders/bad", json!({ "ownr": "a" })).await;
    scene.put("policies/default", json!({ "limits": { "body_bytes": 3 } })).await;

    let said = agrees(&scene, "GET", "/x?y=1", &[host, ("x-tenant", "t1")]).await;
    assert_eq!((&said["decision"], &said["key"]), (&json!("forward"), &json!("t1")));
    let said = agrees(&scene, "GET", "/", &[host, ("x-tenant", "t1"), ("x-tenant", "t2")]).await;
    assert_eq!(said["reason"], "bad_request");
    let said = agrees(&scene, "GET", "/", &[host]).await;
    assert_eq!((&said["reason"], &said["service"]), (&json!("no_key"), &json!("orders")));
    assert!(said["why"].as_str().unwrap().contains("header x-tenant"), "{said}");
    let said = agrees(&scene, "GET", "/", &[host, ("x-tenant", "unknown")]).await;
    assert_eq!((&said["reason"], &said["route"]), (&json!("no_route"), &Value::Null));
    assert!(said["why"].as_str().unwrap().contains("routes/orders/unknown"), "{said}");
    let said = agrees(&scene, "GET", "/", &[host, ("x-tenant", "frozen")]).await;
    assert_eq!((&said["decision"], &said["reason"]), (&json!("park"), &Value::Null));
    assert_eq!((&said["route"]["state"], &said["route"]["owner"], &said["route"]["epoch"]), (&json!("frozen"), &json!("b"), &json!(7)));
    let said = agrees(&scene, "GET", "/", &[host, ("x-tenant", "bad")]).await;
    assert_eq!(
        (&said["reason"], &said["route"]["state"], &said["route"]["owner"]),
        (&json!("quarantined"), &json!("quarantined"), &Value::Null)
    );
    let said = agrees(&scene, "GET", "/", &[host, ("x-tenant", "lost")]).await;
    assert_eq!((&said["reason"], &said["route"]["owner"], &said["upstream"]), (&json!("no_upstream"), &json!("nobody"), &Value::Null));
    assert_eq!(agrees(&scene, "GET", "/", &[host, ("x-tenant", "nowhere")]).await["reason"], "no_endpoint");
    assert_eq!(agrees(&scene, "GET", "/a/../b", &[host, ("x-tenant", "t1")]).await["reason"], "bad_path");
    assert_eq!(agrees(&scene, "GET", "/", &[("x-tenant", "t1")]).await["reason"], "bad_request", "no Host");
    assert_eq!(agrees(&scene, "GET", "/", &[host, host, ("x-tenant", "t1")]).await["reason"], "bad_request", "two of them");
    assert_eq!(agrees(&scene, "GET", "/", &[host, ("x-tenant", "t1"), ("Bad Name", "x")]).await["reason"], "bad_request");
    assert_eq!(agrees(&scene, "GET", "/", &[host, ("x-tenant", "t1"), ("CDN-Loop", "waypost-edge-1")]).await["reason"], "loop");
    assert_eq!(agrees(&scene, "POST", "/", &[host, ("x-tenant", "t1"), ("Content-Length", "4")]).await["reason"], "body_too_large");
    scene.delete("services/orders").await;
    assert_eq!(agrees(&scene, "GET", "/", &[host, ("x-tenant", "t1")]).await["reason"], "no_service");
}

#[tokio::test]
async fn a_hint_is_shown_over_the_record_and_refusing_endpoints_as_such() {
    let word = std::sync::Arc::<std::sync::Mutex<Option<String>>>::default();
    let said = std::sync::Arc::clone(&word);
    let a = move |_: &_| said.lock().unwrap().clone().map_or_else(|| Reply::ok("a"), Reply::stale);
    let scene = Scene::with(a, |_| Reply::ok("b")).await;
    let table = scene.table().await;
    *word.lock().unwrap() =
        Some(format!(r#"state=moved, service="orders", key="t1", owner="b", epoch=6, revision=99999, table="{table}""#));
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "b");
    for _ in 0..2 {
        let said = of_tenant(&scene.waypost, "t1").await;
        assert_eq!((&said["decision"], &said["upstream"]), (&json!("forward"), &json!("b")));
        let route = &said["route"];
        assert_eq!((&route["source"], &route["epoch"], &route["over"]), (&json!("hint"), &json!(6), &json!({ "owner": "a", "epoch": 5 })));
        assert!(route["why"].as_str().unwrap().contains(&scene.a.address.to_string()), "{said}");
    }
    assert_eq!(scene.waypost.status().await["hints"]["count"], 1, "the hint outlives being shown");

    let gone = free_address().to_string();
    let both =
        json!({ "endpoints": [{ "address": gone }, { "address": scene.b.address.to_string() }, { "address": "no-such-host.invalid:1" }] });
    scene.put("upstreams/b", both).await;
    let seen = until_refusing(&scene, &gone).await;
    let usable: Vec<bool> = seen["endpoints"].as_array().unwrap().iter().map(|endpoint| endpoint["usable"] == true).collect();
    assert_eq!(usable, [false, true, false], "{seen}");
    assert!(seen["endpoints"][2]["why"].as_str().unwrap().contains("resolved"), "{seen}");
}

/// Sends requests until the endpoint that is not there has been met, and an explanation has seen it refuse.
async fn until_refusing(scene: &Scene, gone: &str) -> Value {
    waypost_tests::until("the endpoint is seen to refuse", async || {
        assert_eq!(scene.waypost.get("t1", "/").await.text(), "b");
        let said = of_tenant(&scene.waypost, "t1").await;
        assert_eq!(said["endpoints"][0]["address"], gone);
        if said["endpoints"][0]["usable"] == false { Ok(said) } else { Err(said.to_string()) }
    })
    .await
}

#[tokio::test]
async fn a_question_that_is_none_is_told_what_would_be_one() {
    let scene = Scene::start().await;
    let waypost = &scene.waypost;
    let right = r#"{"method":"GET","url":"http://orders.example.com/x","headers":{"x-tenant":"t1"}}"#;
    for (body, wanted) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "invalid"),
        (r#"{"method":"GET"}"#, "missing field `url`"),
        (r#"{"ulr":"/"}"#, "unknown field `ulr`"),
        (r#"{"url":"/","headers":{"x":1}}"#, "a string or an array of strings"),
        (r#"{"url":"/","headers":["x"]}"#, "an object of header fields"),
        (r#"{"url":"orders.example.com/x"}"#, "http://host/path"),
        (r#"{"url":"ftp://orders.example.com/x"}"#, "http://host/path"),
        (r#"{"url":"/a b"}"#, "http://host/path"),
        (r#"{"url":"/","headers":{"x":"a\r\nHost: b"}}"#, "line break"),
        (r#"{"url":"/","method":"GET / HTTP/1.1\r\nX:"}"#, "line break"),
    ] {
        let answer = post(waypost, body.as_bytes()).await;
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/problem+json"), "{body}");
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(wanted), "{body}: {detail}");
        assert!(detail.contains(right) || detail.contains("would be right") || detail.contains("no request can carry"), "{body}: {detail}");
    }
    let large = json!({ "url": "/", "headers": { "x": "y".repeat(70_000) } });
    assert_eq!(post(waypost, large.to_string().as_bytes()).await.status, 413);
    assert_eq!(post(waypost, right.as_bytes()).await.status, 200, "{right} is one");
    let got = Client::fetch(waypost.admin, "/explain").await.unwrap();
    assert_eq!((got.status, got.header("allow")), (405, "POST"));
    let posted = Client::connect(waypost.admin).await.request("POST", "/status", &[], b"{}").await;
    assert_eq!((posted.status, posted.header("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn urls_and_keys_of_every_kind_are_understood() {
    let scene = Scene::start().await;
    let waypost = &scene.waypost;
    let by_path = json!({ "match": [{ "hosts": ["*.example.com"], "path_prefix": "/buckets" }], "key": { "path": "/buckets/{key}" }, "default_owner": "b" });
    scene.put("services/buckets", by_path).await;
    let said = explain(waypost, json!({ "url": "https://s3.example.com/buckets/b%20%C3%A4?x#y" })).await;
    assert_eq!((&said["service"], &said["key"], &said["matched"]["host"]), (&json!("buckets"), &json!("b ä"), &json!("*.example.com")));
    assert_eq!(
        (&said["route"]["record"], &said["route"]["source"], &said["key_percent_encoded"]),
        (&Value::Null, &json!("default"), &json!("b%20%C3%A4"))
    );
    let said = explain(waypost, json!({ "url": "http://127.0.0.1:8080/buckets/%FF", "headers": { "host": "x.example.com" } })).await;
    assert_eq!((&said["key"], &said["key_percent_encoded"]), (&json!("\\xff"), &json!("%FF")), "the Host header given wins, as with curl");
    let said = explain(waypost, json!({ "url": "http://h?x=1", "headers": { "x-tenant": ["t1", " t1 "] } })).await;
    assert_eq!((&said["decision"], &said["key"]), (&json!("forward"), &json!("t1")));
}

#[tokio::test]
async fn before_any_table_it_is_not_ready() {
    let nowhere = format!("http://{}", free_address());
    let mut waypost = Waypost::new(&nowhere, &[]);
    waypost.spawn();
    until_true("it answers", async || Client::fetch(waypost.admin, "/healthz").await.is_ok_and(|answer| answer.status == 200)).await;
    let said = of_tenant(&waypost, "t1").await;
    assert_eq!((&said["decision"], &said["reason"]), (&json!("answer"), &json!("not_ready")));
    assert!(said["why"].as_str().unwrap().contains("/status"), "{said}");
}

#[tokio::test]
async fn the_command_says_it_to_a_person() {
    let etcd = Etcd::start().await;
    let a = Backend::named("a").await;
    let records = [
        ("services/orders", service(json!({ "match": [{ "hosts": ["orders.example.com"] }] }))),
        ("services/billing", json!({ "match": [{ "hosts": ["billing.example.com"] }], "default_owner": "a" })),
        ("upstreams/a", a.upstream()),
        ("routes/orders/t1", route("a", 5)),
    ];
    etcd.put_all(&records).await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    let admin = waypost.admin.to_string();
    let run = async |args: &[&str]| Waypost::run(&[&["explain"], args, &["--admin", &admin]].concat()).await;
    let (status, out, said) = run(&["GET", "http://orders.example.com/x", "-H", "x-tenant: t1"]).await;
    assert_eq!(status, 0, "{said}");
    for line in [
        "decision   forward to a, 1 of 1 endpoints usable",
        "service    orders  by host orders.example.com, path prefix /",
        "key        t1",
        "route      routes/orders/t1  owner a, epoch 5, serving, from the watch",
        "upstream   a",
        "not chosen billing  host: wants billing.example.com",
    ] {
        assert!(out.lines().any(|given| given == line), "{line}\n{out}");
    }
    let (status, out, _) = run(&["GET", "/x", "-H", "Host: orders.example.com", "-H", "x-tenant: t9"]).await;
    assert_eq!(status, 0, "explained, whatever the decision");
    assert!(out.starts_with("decision   answer no_route: there is no routes/orders/t9"), "{out}");
    let (status, out, _) = run(&["GET", "http://orders.example.com/x", "-H", "x-tenant: t1", "--json"]).await;
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &shown["decision"]), (0, &json!("forward")));
    let (status, _, said) = run(&["GET", "orders.example.com/x"]).await;
    assert!(status == 2 && said.contains("http://host/path") && said.lines().count() == 1, "{said}");
    let (status, _, said) = run(&["GET", "/x", "-H", "x-tenant"]).await;
    assert!(status == 2 && said.contains("'name: value'"), "{said}");
    let nobody = free_address().to_string();
    let (status, _, said) = Waypost::run(&["explain", "GET", "/", "--admin", &nobody]).await;
    assert!(status == 1 && said.contains(&nobody) && said.contains("--admin"), "{said}");
}

#[tokio::test]
async fn the_admin_address_lists_what_it_has_and_answers_head_as_get() {
    let scene = Scene::start().await;
    let lost = Client::fetch(scene.waypost.admin, "/nothing").await.unwrap();
    assert_eq!(lost.status, 404);
    for endpoint in ["/healthz", "/readyz", "/metrics", "/status", "/routes/<service>/<key>", "/requests/<request-id>", "/explain"] {
        assert!(lost.text().contains(endpoint), "{endpoint}");
    }
    for path in ["/healthz", "/readyz", "/metrics", "/status", "/routes/orders/t1", "/routes/orders/none", "/requests/none"] {
        let mut client = Client::connect(scene.waypost.admin).await;
        let head = client.request("HEAD", path, &[], b"").await;
        let get = client.get(path, &[]).await;
        assert_eq!((head.status, head.header("content-type")), (get.status, get.header("content-type")), "{path}");
    }
}

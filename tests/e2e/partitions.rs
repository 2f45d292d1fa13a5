//! Services whose routes cover slots or ranges of routing keys, and the change from one to another while everything runs.

use serde_json::{Value, json};
use waypost_tests::{FaultProxy, Reply, Waypost, until_true};

use crate::scene::{Scene, route, service};

async fn warnings(scene: &Scene) -> String {
    scene.waypost.status().await["warnings"].to_string()
}

async fn answers(scene: &Scene, wanted: &[(&str, &str)]) {
    for (key, owner) in wanted {
        let answer = scene.waypost.get(key, "/").await;
        let got = if answer.status == 200 { answer.text() } else { answer.reason().to_owned() };
        assert_eq!(got, *owner, "{key}");
    }
}

#[tokio::test]
async fn slots_are_redis_cluster_s_and_the_narrowest_record_owns_one() {
    let scene = Scene::start().await;
    scene.put("services/orders", service(json!({ "partition": { "slots": 16384, "hash": "crc16" } }))).await;
    assert!(warnings(&scene).await.contains("no route covers the slots 0-16383"));
    scene.put("routes/orders/0-8191", route("a", 1)).await;
    scene.put("routes/orders/8192-16383", route("b", 2)).await;
    // Slots 12182, 5061, and 5061 again by its tag.
    answers(&scene, &[("foo", "b"), ("bar", "a"), ("x{bar}y", "a")]).await;
    let shown = scene.route("bar").await;
    assert_eq!((&shown["record"], &shown["key"], &shown["epoch"]), (&json!("0-8191"), &json!("bar"), &json!(1)));
    assert_eq!(scene.a.last().stamped("key"), "x{bar}y", "the stamp is of the routing key");
    let said = warnings(&scene).await;
    assert!(!said.contains("no route covers") && said.contains("routes/orders/t1: covers nothing"), "{said}");

    scene.put("routes/orders/5061", route("b", 3)).await;
    answers(&scene, &[("bar", "b"), ("foo", "b"), ("hello", "a")]).await;
    assert!(warnings(&scene).await.contains("routes/orders/0-8191: overlaps 5061"));
    scene.delete("routes/orders/5061").await;
    answers(&scene, &[("bar", "a")]).await;
    assert!(warnings(&scene).await.contains("routes/orders/0-8191: took over what another record covered"));
    scene.put("routes/orders/0-8191", route("a", 4)).await;
    assert!(!warnings(&scene).await.contains("took over"));
    // A bad value takes its slots out of service, never to the record behind it.
    scene.etcd.put_raw("routes/orders/5061", b"{").await;
    until_true("the bad record is in force", async || scene.waypost.get("bar", "/").await.reason() == "quarantined").await;
    answers(&scene, &[("hello", "a")]).await;
    scene.delete("routes/orders/5061").await;
    scene.delete("routes/orders/8192-16383").await;
    answers(&scene, &[("bar", "a"), ("foo", "no_route")]).await;
    let explained =
        Waypost::run(&["explain", "GET", "http://h/", "-H", "x-tenant: bar", "--admin", &scene.waypost.admin.to_string()]).await;
    assert!(explained.1.contains("0-8191"), "{explained:?}");
}

#[tokio::test]
async fn a_range_begins_with_its_record_and_ends_before_the_next() {
    let scene = Scene::start().await;
    scene.put("services/orders", service(json!({ "partition": "range" }))).await;
    scene.put("routes/orders/m", route("b", 2)).await;
    scene.put("routes/orders/a", route("a", 1)).await;
    scene.delete("routes/orders/t1").await;
    answers(&scene, &[("a", "a"), ("lz", "a"), ("m", "b"), ("zebra", "b"), ("B", "no_route")]).await;
    assert_eq!(scene.route("lz").await["record"], "a");
    scene.put("routes/orders/lz", route("b", 3)).await;
    answers(&scene, &[("ly", "a"), ("lz", "b"), ("lzz", "b")]).await;
    scene.delete("routes/orders/lz").await;
    answers(&scene, &[("lz", "a"), ("lzz", "a")]).await;
    assert!(warnings(&scene).await.contains("routes/orders/a: took over"));
}

#[tokio::test]
async fn a_service_changes_its_partition_while_running_and_after_a_restart_it_is_the_same() {
    let mut scene = Scene::start().await;
    scene.put("routes/orders/7", route("b", 1)).await;
    scene.put("routes/orders/a", route("b", 1)).await;
    answers(&scene, &[("t1", "a"), ("7", "b"), ("zz", "no_route")]).await;
    scene.put("services/orders", service(json!({ "partition": "range" }))).await;
    answers(&scene, &[("t1", "a"), ("7", "b"), ("zz", "a"), ("9", "b")]).await;
    scene.put("services/orders", service(json!({ "partition": { "slots": 8, "hash": "xxh3" } }))).await;
    let mut of_slot_7 = Vec::new();
    for key in 0..64 {
        let key = format!("k{key}");
        if scene.waypost.get(&key, "/").await.status == 200 {
            of_slot_7.push(key);
        }
    }
    assert!((2..20).contains(&of_slot_7.len()), "{of_slot_7:?}");
    until_true("the snapshot is written", async || scene.waypost.snapshot().exists()).await;
    scene.waypost.terminate();
    scene.waypost.wait(std::time::Duration::from_secs(20));
    scene.etcd.kill();
    scene.waypost.spawn();
    scene.waypost.ready().await;
    answers(&scene, &[(&*of_slot_7[0], "b"), (&*of_slot_7[1], "b"), ("t1", "no_route")]).await;
    scene.etcd.restart().await;
    scene.put("services/orders", service(json!({}))).await;
    answers(&scene, &[("t1", "a"), ("7", "b"), (&*of_slot_7[0], if of_slot_7[0] == "7" { "b" } else { "no_route" })]).await;
}

#[tokio::test]
async fn a_check_of_a_range_waits_for_the_watch_and_not_for_ever() {
    let scene = Scene::with(
        |seen| if seen.stamped("epoch") == "5" { Reply::stale("state=moved, key=\"z\"") } else { Reply::ok("a") },
        |_| Reply::ok("b"),
    )
    .await;
    scene.put("services/orders", service(json!({ "partition": "range" }))).await;
    // The store has nothing newer, and says so at once: it names the owner that has refused.
    let began = std::time::Instant::now();
    assert_eq!(scene.waypost.get("z", "/").await.reason(), "stale_unhealed");
    assert!(began.elapsed() < std::time::Duration::from_secs(5));
    let between = FaultProxy::start(scene.etcd.address()).await;
    let late = Waypost::start(&between.url(), &crate::store::WITHOUT_REPORTS).await;
    until_true("its watch stands", async || late.status().await["gold"][0]["connected"] == true).await;
    between.hold_newest();
    let revision = scene.etcd.put("routes/orders/z", route("b", 6)).await;
    assert_eq!(late.get("z", "/").await.reason(), "stale_unhealed", "the watch does not come within the check's time");
    // The watch comes while the check waits.
    let asking = tokio::spawn(async move { (late.get("z", "/").await.text(), late) });
    between.pass();
    let (text, late) = asking.await.unwrap();
    assert_eq!(text, "b");
    late.at(revision).await;
    assert_eq!(late.json("/routes/orders/z").await["source"], Value::from("watch"));
}

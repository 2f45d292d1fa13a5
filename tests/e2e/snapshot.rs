//! The snapshot on disk: what it keeps, and that nothing about its file can cost a request.

use std::{fs, time::Duration};

use etcd_client::PutOptions;
use serde_json::json;
use waypost_tests::{Waypost, until, until_true};

use crate::scene::{Scene, route};

/// How long a proxy may take to end.
const END: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_second_process_on_the_same_file_is_refused_and_the_first_goes_on() {
    let scene = Scene::start().await;
    let path = scene.waypost.snapshot();
    let (gold, path) = (scene.etcd.url(), path.to_str().unwrap());
    let args = ["run", "--gold", &gold, "--snapshot", path, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let (status, _, said) = Waypost::run(&args).await;
    assert_eq!(status, 1);
    assert!(said.contains("belongs to another running proxy") && said.contains("--snapshot"), "{said}");
    scene.put("routes/orders/t1", route("b", 6)).await;
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "b");
}

#[tokio::test]
async fn a_full_disk_costs_only_the_snapshot() {
    let mut scene = Scene::start().await;
    let path = scene.waypost.snapshot();
    until_true("the first snapshot is there", async || path.exists()).await;
    // Every write to this device fails as on a full disk.
    std::os::unix::fs::symlink("/dev/full", path.with_extension("snapshot.new")).unwrap();
    let before = fs::read(&path).unwrap();
    scene.put("routes/orders/t1", route("b", 6)).await;
    until_true("it is said", async || scene.waypost.said().contains("the snapshot can't be written")).await;
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "b");
    let gold = scene.waypost.status().await["gold"][0].clone();
    assert!(gold["snapshot"]["error"].is_string() && gold["publish_ms"].is_number(), "{gold}");
    assert!(gold["snapshot"]["revision"].as_u64() < gold["revision"].as_u64(), "{gold}");
    assert!(scene.waypost.metric("waypost_snapshot_failed").await > 0.0);
    assert_eq!(fs::read(&path).unwrap(), before, "the last whole one stays");
    // The device has gone from the way: at the latest at its end the process writes what it had to leave out.
    scene.waypost.terminate();
    assert!(scene.waypost.wait(END).success());
    scene.etcd.kill();
    scene.waypost.spawn();
    scene.waypost.ready().await;
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "b");
}

#[tokio::test]
async fn what_is_no_snapshot_is_set_aside_with_one_message() {
    let mut scene = Scene::start().await;
    let path = scene.waypost.snapshot();
    let newer = [&b"WAYPOST\n"[..], &99_u32.to_le_bytes(), &[0; 100]].concat();
    let strange: [(&[u8], &str); 4] = [
        (b"", "it is no snapshot"),
        (b"services: {}\n", "it is no snapshot"),
        (&newer, "it has format 99"),
        (&newer[..30], "it has format 99"),
    ];
    for (bytes, why) in strange {
        scene.waypost.terminate();
        assert!(scene.waypost.wait(END).success());
        fs::write(&path, bytes).unwrap();
        scene.waypost.spawn();
        scene.waypost.ready().await;
        assert_eq!(scene.waypost.get("t1", "/").await.text(), "a");
        let said = scene.waypost.said();
        let messages: Vec<&str> = said.lines().filter(|line| line.contains("was set aside")).collect();
        let last = messages.last().unwrap();
        assert!(last.contains(why) && last.contains("the table comes from the store"), "{said}");
        assert_eq!(fs::read(path.with_extension("snapshot.damaged")).unwrap(), bytes);
    }
}

#[tokio::test]
async fn the_last_leased_endpoint_outlives_its_lease_and_a_restart_without_the_store() {
    let mut scene = Scene::start().await;
    let address = scene.a.address.to_string();
    scene.put("upstreams/leased", json!({})).await;
    scene.put("routes/orders/t9", route("leased", 1)).await;
    let mut client = scene.etcd.client().await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let record = json!({ "address": address }).to_string();
    client.put("/waypost/v1/endpoints/leased/x", record, Some(PutOptions::new().with_lease(lease))).await.unwrap();
    until("it is used", async || match scene.waypost.get("t9", "/").await.reason() {
        "" => Ok(()),
        reason => Err(reason.to_owned()),
    })
    .await;
    client.lease_revoke(lease).await.unwrap();
    // What comes behind it shows that the end of the lease has been applied.
    let revision = scene.put("routes/orders/behind", route("a", 1)).await;
    assert_eq!(scene.waypost.get("t9", "/").await.text(), "a", "orphaned at {revision}");
    scene.waypost.terminate();
    assert!(scene.waypost.wait(END).success());
    scene.etcd.kill();
    scene.waypost.spawn();
    scene.waypost.ready().await;
    let gold = scene.waypost.status().await["gold"][0].clone();
    assert_eq!((&gold["source"], &gold["snapshot"]["revision"]), (&json!("snapshot"), &json!(revision)));
    assert_eq!(scene.waypost.get("t9", "/").await.text(), "a");
}

//! `waypost check --against`: proof that a proxy's table is the store's, and what is said where it is not.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use waypost_tests::{Backend, Client, Etcd, FaultProxy, RecordFile, Reply, Waypost, until};

use crate::scene::{Scene, route};

async fn check(admin: &str, gold: &str, flags: &[&str]) -> (i32, String, String) {
    Waypost::run(&[&["check", "--against", admin, "--gold", gold][..], flags].concat()).await
}

/// What answers as the admin endpoints of this proxy do, but for the records, which are changed.
async fn liar(waypost: &Waypost, change: impl Fn(Vec<Value>) -> Vec<Value>) -> Backend {
    let mut status = waypost.status().await;
    status["table"]["digest"] = json!("0");
    let records = Client::fetch(waypost.admin, "/records").await.unwrap().text();
    let mut lines: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines[0]["digest"] = json!("0");
    let records: Vec<String> = change(lines).iter().map(|line| format!("{line}\n")).collect();
    let records = records.concat();
    Backend::start(move |seen| match seen.target.as_str() {
        "/status" => Reply::ok(status.to_string()),
        _ => Reply::ok(records.clone()),
    })
    .await
}

#[tokio::test]
async fn a_table_that_is_the_store_s_is_proved_to_be_and_what_is_quarantined_is_named() {
    let scene = Scene::start().await;
    let (admin, gold) = (scene.waypost.admin.to_string(), scene.etcd.url());
    let revision = scene.put("routes/orders/t2", route("b", 1)).await;
    let (status, out, said) = check(&admin, &gold, &[]).await;
    assert_eq!((status, &*out), (0, ""), "{said}");
    assert!(said.contains("equal: 5 records") && said.contains(&format!("at revision {revision}")), "{said}");
    let revision = scene.etcd.put_raw("routes/orders/t1", b"{").await;
    scene.waypost.at(revision).await;
    let (status, out, _) = check(&admin, &gold, &["--json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &report["equal"], &report["records"], &report["revision"]), (0, &json!(true), &json!(5), &json!(revision)));
    assert_eq!((&report["digest"]["proxy"], &report["differences"]), (&report["digest"]["store"], &json!([])));
    assert_eq!(report["quarantined"][0]["key"], "/waypost/v1/routes/orders/t1");
    let (_, out, _) = check(&admin, &gold, &[]).await;
    assert!(out.starts_with("quarantined  /waypost/v1/routes/orders/t1 at revision"), "{out}");
}

#[tokio::test]
async fn a_proxy_that_is_behind_is_compared_at_its_own_revision_or_waited_for() {
    let scene = Scene::start().await;
    let between = FaultProxy::start(scene.etcd.address()).await;
    let waypost = Waypost::start(&between.url(), &crate::store::WITHOUT_REPORTS).await;
    let (admin, gold) = (waypost.admin.to_string(), scene.etcd.url());
    between.hold_newest();
    let before = waypost.status().await["gold"][0]["revision"].clone();
    let revision = scene.etcd.put("routes/orders/t1", route("b", 6)).await;
    let (status, _, said) = check(&admin, &gold, &[]).await;
    assert_eq!(status, 0, "{said}");
    assert!(said.contains(&format!("at revision {before}")) && said.contains(&format!("the store is at revision {revision}")), "{said}");
    scene.etcd.compact().await;
    let (checked, ()) = tokio::join!(check(&admin, &gold, &[]), async {
        between.pass();
        waypost.at(revision).await;
    });
    assert_eq!(checked.0, 0, "{}", checked.2);
    assert!(checked.2.contains(&format!("at revision {revision}")), "{}", checked.2);
}

#[tokio::test]
async fn what_differs_is_listed_by_key_and_more_than_some_is_counted() {
    let scene = Scene::start().await;
    let many: Vec<(String, Value)> = (0..110).map(|n| (format!("routes/orders/many{n}"), route("a", 1))).collect();
    let many: Vec<(&str, Value)> = many.iter().map(|(key, value)| (&**key, value.clone())).collect();
    let revision = scene.etcd.put_all(&many).await;
    scene.waypost.at(revision).await;
    let gold = scene.etcd.url();
    let few = liar(&scene.waypost, |lines| {
        let mut lines: Vec<Value> = lines.into_iter().filter(|line| line["key"] != "upstreams/a").collect();
        for line in &mut lines {
            match line["key"].as_str() {
                Some("upstreams/b") => line["mod_revision"] = json!(1),
                Some("routes/orders/t1") => line["digest"] = json!("7"),
                _ => {}
            }
        }
        lines.insert(1, json!({ "key": "routes/orders/gone", "mod_revision": 3, "digest": "1" }));
        lines.insert(1, json!({ "key": "routes/orders/held", "mod_revision": 3, "digest": "0", "state": "held_back" }));
        lines
    })
    .await;
    let (status, out, said) = check(&few.address.to_string(), &gold, &[]).await;
    assert_eq!((status, out.lines().count()), (1, 4), "{out}{said}");
    assert!(said.contains("not equal: 4 differences; 114 records"), "{said}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("differs      /waypost/v1/routes/orders/gone: not in the store (proxy: 3, store: none)"), "{out}");
    assert!(lines[1].contains("routes/orders/t1: of another value"), "{out}");
    assert!(lines[2].contains("upstreams/a: missing in the proxy (proxy: none, store: "), "{out}");
    assert!(lines[3].contains("upstreams/b: of another revision (proxy: 1, store: "), "{out}");
    let none = liar(&scene.waypost, |lines| vec![lines[0].clone(), json!({ "records": 0 })]).await;
    let (status, out, _) = check(&none.address.to_string(), &gold, &[]).await;
    assert_eq!((status, out.lines().count()), (1, 101), "{out}");
    assert!(out.ends_with("…and 14 more\n"), "{out}");
    let cut = liar(&scene.waypost, |lines| lines[..5].to_vec()).await;
    let (status, out, said) = check(&cut.address.to_string(), &gold, &[]).await;
    assert_eq!((status, &*out), (1, ""));
    assert!(said.contains("ended in the middle"), "{said}");
}

#[tokio::test]
async fn what_can_not_be_compared_is_said() {
    let scene = Scene::start().await;
    let (admin, gold) = (scene.waypost.admin.to_string(), scene.etcd.url());
    let other = Etcd::start().await;
    let (status, _, said) = check(&admin, &other.url(), &[]).await;
    assert_eq!(status, 1);
    assert!(said.contains("follows another store") && said.contains(&scene.table().await), "{said}");
    let (status, _, said) = check(&admin, &gold, &["--prefix", "/other"]).await;
    assert_eq!(status, 1);
    assert!(said.contains("--prefix /waypost/v1 would be right"), "{said}");
    let (status, _, said) = check("127.0.0.1:1", &gold, &[]).await;
    assert_eq!(status, 1);
    assert!(said.contains("127.0.0.1:1 can't be asked"), "{said}");
    let (status, _, said) = check(&admin, "file:routes.yaml", &[]).await;
    assert_eq!(status, 2);
    assert!(said.contains("is the file routes.yaml"), "{said}");
    let file = RecordFile::of(&json!({ "upstreams/a": {} }));
    let of_file = Waypost::start(&file.gold(), &[]).await;
    let (status, _, said) = check(&of_file.admin.to_string(), &gold, &[]).await;
    assert_eq!(status, 1);
    assert!(said.contains("there is no store to compare its table with"), "{said}");
    let (status, _, _) = Waypost::run(&["check", "routes.yaml", "--against", &admin]).await;
    assert_eq!(status, 2);
}

#[tokio::test]
async fn readers_of_the_records_are_few_and_one_that_does_not_read_holds_nobody_up() {
    let scene = Scene::start().await;
    let mut stalled = Vec::new();
    let padding = "x".repeat(900);
    let mut revision = 0;
    for round in 0..50 {
        let many: Vec<(String, Value)> = (0..100).map(|n| (format!("routes/orders/{round}-{n}-{padding}"), route("a", 1))).collect();
        let many: Vec<(&str, Value)> = many.iter().map(|(key, value)| (&**key, value.clone())).collect();
        revision = scene.etcd.put_all(&many).await;
    }
    scene.waypost.at(revision).await;
    for _ in 0..2 {
        // With a small window, so that the kernel does not keep all of it.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(scene.waypost.admin).await.unwrap();
        stream.write_all(b"GET /records HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut begun = [0; 12];
        stream.read_exact(&mut begun).await.unwrap();
        assert_eq!(&begun, b"HTTP/1.1 200");
        stalled.push(stream);
    }
    assert_eq!(Client::fetch(scene.waypost.admin, "/records").await.unwrap().status, 503, "a third is refused");
    scene.put("routes/orders/t1", route("b", 6)).await;
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "b");
    drop(stalled);
    until("there is a place again", async || match Client::fetch(scene.waypost.admin, "/records").await?.status {
        200 => Ok(()),
        status => Err(status.to_string()),
    })
    .await;
}

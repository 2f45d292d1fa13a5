//! `waypost apply`: what differs, shown and put; what is refused; what is said when it stops in between.

use std::fmt::Write;

use etcd_client::{ConnectOptions, Permission, PermissionType};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use waypost_tests::{Etcd, FaultProxy, Waypost, until_true};

use super::fed;

/// A record file in a folder of its own.
struct Records {
    folder: TempDir,
    etcd: Etcd,
}

impl Records {
    async fn new() -> Self {
        Self { folder: tempdir().unwrap(), etcd: Etcd::start().await }
    }

    fn path(&self) -> String {
        self.folder.path().join("records.yaml").display().to_string()
    }

    async fn apply(&self, text: &str, flags: &[&str]) -> (i32, String, String) {
        std::fs::write(self.path(), text).unwrap();
        let (path, url) = (self.path(), self.etcd.url());
        Waypost::run(&[&["apply", &path, "--gold", &url][..], flags].concat()).await
    }
}

const SCENE: &str = "services/orders: { match: [{}], key: { header: x-tenant } }\nupstreams/a: {}\nupstreams/b: {}\n";

#[tokio::test]
async fn a_dry_run_shows_the_difference_field_by_field_and_changes_nothing() {
    let records = Records::new().await;
    let (status, out, said) = records.apply(&format!("{SCENE}routes/orders/t1: {{ owner: a, epoch: 4 }}\n"), &["--dry-run"]).await;
    assert_eq!((status, records.etcd.count().await), (0, 0), "{said}");
    let wanted = "+ upstreams/a: {}\n+ upstreams/b: {}\n+ services/orders: key {\"header\":\"x-tenant\"}, match [{}]\n+ routes/orders/t1: epoch 4, owner \"a\"\n";
    assert_eq!(out, wanted);
    let text = format!("{SCENE}routes/orders/t1: {{ owner: a, epoch: 4, state: frozen }}\n");
    assert_eq!(records.apply(&text, &[]).await.0, 0);
    let (status, out, said) = records.apply(&format!("{SCENE}routes/orders/t1: {{ owner: b, epoch: 5 }}\n"), &["--dry-run", "-v"]).await;
    assert_eq!(status, 0, "{said}");
    let wanted =
        "~ routes/orders/t1: epoch 4 → 5, owner \"a\" → \"b\", - state \"frozen\"\n= upstreams/a\n= upstreams/b\n= services/orders\n";
    assert_eq!(out, wanted, "no colours where no person reads");
    assert!(said.contains("1 record would be put, 3 are the same already; nothing was changed"), "{said}");
    let (_, out, _) = records.apply(&format!("{SCENE}routes/orders/t1: {{ owner: b, epoch: 5 }}\n"), &["--dry-run", "--json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["changes"][0]["fields"][1], json!({ "path": "owner", "before": "a", "after": "b" }));
    assert_eq!(report["left_alone"].as_array().unwrap().len(), 3);
    assert_eq!(records.etcd.get("routes/orders/t1").await, Some(json!({ "owner": "a", "epoch": 4, "state": "frozen" })));
}

#[tokio::test]
async fn what_is_the_same_is_left_alone_and_a_broken_file_puts_nothing() {
    let records = Records::new().await;
    let text = format!("{SCENE}routes/orders/t1: {{ owner: a, epoch: 4 }}\n");
    let (status, out, said) = records.apply(&text, &[]).await;
    assert_eq!((status, out.lines().count(), records.etcd.count().await), (0, 4, 4), "{said}");
    let (status, out, said) = records.apply(&text, &[]).await;
    assert_eq!((status, out.as_str()), (0, ""));
    assert!(said.contains("0 records put, 4 left alone"), "{said}");
    let (status, _, said) = records.apply(&format!("{text}routes/orders/t9: {{ ownr: a }}\n"), &[]).await;
    assert_eq!((status, records.etcd.count().await), (2, 4));
    assert!(said.contains("records.yaml:5: routes/orders/t9: field \"ownr\" is unknown; did you mean \"owner\"?"), "{said}");
    let url = records.etcd.url();
    let (status, _, said) = fed(&["apply", "-", "--gold", &url], "routes/orders/t2: { owner: bb }\n").await;
    assert_eq!(status, 0, "{said}");
    let wanted = "-:1: routes/orders/t2: warning: owner \"bb\" has no record upstreams/bb in these files or in the store; did you mean \"";
    assert!(said.contains(wanted), "{said}");
    assert_eq!(records.etcd.get("routes/orders/t2").await, Some(json!({ "owner": "bb" })));
}

#[tokio::test]
async fn what_every_proxy_would_quarantine_is_refused_with_what_would_be_right() {
    let records = Records::new().await;
    records.apply(&format!("{SCENE}routes/orders/t1: {{ owner: a, epoch: 43 }}\n"), &[]).await;
    for (route, wanted) in [
        (
            "{ owner: b, epoch: 43 }",
            ":2: routes/orders/t1: the owner changes from \"a\" to \"b\" but the epoch stays 43; every proxy would quarantine it; epoch 44 would be right",
        ),
        (
            "{ owner: a, epoch: 42 }",
            ":2: routes/orders/t1: the epoch goes down from 43 to 42; every proxy would quarantine it; epoch 44 would be right",
        ),
        ("{ owner: b }", "epoch 44 would be right"),
    ] {
        for flags in [&[][..], &["--dry-run"]] {
            let (status, _, said) = records.apply(&format!("upstreams/c: {{}}\nroutes/orders/t1: {route}\n"), flags).await;
            assert_eq!(status, 1, "{said}");
            assert!(said.contains(wanted), "{route}: {said}");
        }
    }
    let (status, out, _) = records.apply("routes/orders/t1: { owner: a, epoch: 42 }\n", &["--json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &report["put"], &report["refused"][0]["line"]), (1, &json!(0), &json!(1)));
    assert_eq!(records.etcd.get("routes/orders/t1").await, Some(json!({ "owner": "a", "epoch": 43 })));
    assert_eq!(records.etcd.get("upstreams/c").await, None, "nothing of it is put");
    assert_eq!(records.apply("routes/orders/t1: { owner: b, epoch: 44 }\n", &[]).await.0, 0);
    let afresh = "incarnation: 1\nroutes/orders/t1: { owner: a, epoch: 1 }\n";
    assert_eq!(records.apply(afresh, &[]).await.0, 0, "another incarnation starts epochs afresh");
}

#[tokio::test]
async fn what_does_not_fit_in_one_transaction_is_said_before_and_put_in_several() {
    let records = Records::new().await;
    let mut text = SCENE.to_owned();
    (0..300).for_each(|n| writeln!(text, "routes/orders/k{n}: {{ owner: a }}").unwrap());
    let (status, out, said) = records.apply(&text, &["--json"]).await;
    assert_eq!((status, records.etcd.count().await), (0, 303), "{said}");
    assert!(said.contains("303 records do not fit in one transaction") && said.contains("they go into 3"), "{said}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["put"], &report["transactions"]), (&json!(303), &json!(3)));
    let large = "x".repeat(600_000);
    let zones = (0..4).fold(String::new(), |text, n| text + &format!("endpoints/a/{n}: {{ address: \"h:{}\", zone: {large} }}\n", n + 1));
    let (status, _, said) = records.apply(&zones, &[]).await;
    assert_eq!(status, 0, "etcd's limit on a request's size is kept: {}", said.chars().take(500).collect::<String>());
    assert_eq!(records.etcd.count().await, 307);
}

#[tokio::test]
async fn what_was_put_is_said_when_it_stops_in_between() {
    let records = Records::new().await;
    let mut admin = records.etcd.client().await;
    admin.role_add("upstreams").await.unwrap();
    for (permission, folder) in [(PermissionType::Read, "/waypost/v1/"), (PermissionType::Readwrite, "/waypost/v1/upstreams/")] {
        admin.role_grant_permission("upstreams", Permission::new(permission, folder).with_prefix()).await.unwrap();
    }
    for (user, role) in [("root", "root"), ("editor", "upstreams")] {
        if user == "root" {
            admin.role_add("root").await.unwrap();
        }
        admin.user_add(user, "secret", None).await.unwrap();
        admin.user_grant_role(user, role).await.unwrap();
    }
    admin.auth_enable().await.unwrap();
    let password = records.folder.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let user = ["--gold-user", "editor", "--gold-password-file", password.to_str().unwrap()];
    let mut text = "services/orders: { match: [{}], default_owner: u0 }\n".to_owned();
    (0..130).for_each(|n| writeln!(text, "upstreams/u{n}: {{}}").unwrap());
    let (status, out, said) = records.apply(&text, &user).await;
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("does not let user \"editor\" write; grant one of its roles READWRITE"), "{said}");
    assert!(said.contains("128 records were put before") && said.contains("3 records were not put, from upstreams/u128 on"), "{said}");
    assert_eq!(out.lines().count(), 128, "the lines are what was put");
    let options = ConnectOptions::new().with_user("root", "secret");
    let mut root = etcd_client::Client::connect([records.etcd.url()], Some(options)).await.unwrap();
    let all = etcd_client::GetOptions::new().with_prefix().with_count_only();
    assert_eq!(root.get("/waypost/v1/", Some(all)).await.unwrap().count(), 128);
    let (status, out, _) = records.apply(&text, &[&user[..], &["--json"]].concat()).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &report["put"], &report["not_put"].as_array().unwrap().len()), (1, &json!(0), &3));
    let (status, _, said) = records.apply(&text, &[]).await;
    assert!(status == 1 && said.contains("wants a user; name one with --gold-user"), "{said}");
    std::fs::write(&password, "wrong").unwrap();
    let (status, _, said) = records.apply(&text, &user).await;
    assert!(status == 1 && said.contains("does not know user \"editor\", or not by this password"), "{said}");
}

#[tokio::test]
async fn a_transaction_whose_answer_is_lost_is_said_to_be_in_doubt() {
    let records = Records::new().await;
    let way = FaultProxy::start(records.etcd.address()).await;
    let mut text = String::new();
    (0..20_000).for_each(|n| writeln!(text, "routes/orders/k{n}: {{ owner: a }}").unwrap());
    std::fs::write(records.path(), text).unwrap();
    let (path, url) = (records.path(), way.url());
    let apply = tokio::spawn(async move { Waypost::run(&["apply", &path, "--gold", &url, "--json"]).await });
    until_true("some of it is put", async || records.etcd.count().await > 0).await;
    way.cut();
    let (status, out, said) = apply.await.unwrap();
    let report: Value = serde_json::from_str(&out).unwrap();
    let count = |name: &str| report[name].as_array().unwrap().len();
    let put = usize::try_from(report["put"].as_u64().unwrap()).unwrap();
    assert_eq!((status, put + count("unknown") + count("not_put")), (1, 20_000), "{said}");
    assert_eq!(count("unknown"), 128);
    assert!(said.contains("is not known") && said.contains("were not put"), "{said}");
    let there = records.etcd.count().await;
    assert!((put..=put + count("unknown")).contains(&there), "{there} are there, {said}");
}

#[tokio::test]
async fn who_changed_a_record_in_between_is_not_overwritten_but_named() {
    let records = Records::new().await;
    let mut client = records.etcd.client().await;
    let writer = tokio::spawn(async move {
        for weight in 1u64.. {
            let value = json!({ "endpoints": [{ "address": "h:1", "weight": weight % 1000 + 1 }] }).to_string();
            client.put("/waypost/v1/upstreams/busy", value, None).await.unwrap();
        }
    });
    // A change falls between reading and writing nearly every time.
    let mut said = String::new();
    for try_ in 0..100 {
        let text = format!("upstreams/busy: {{ public_url: \"http://h{try_}\" }}\nupstreams/idle: {{ public_url: \"http://h{try_}\" }}\n");
        let ended = records.apply(&text, &[]).await;
        if ended.0 == 1 {
            said = ended.2;
            assert!(!ended.1.contains(&format!("h{try_}")), "nothing of it is put");
            break;
        }
    }
    writer.abort();
    assert!(said.contains("somebody changed upstreams/busy after it was read") && said.contains("nothing was put"), "{said}");
}

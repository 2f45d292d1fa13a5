//! Records that are far too large, and very many that are bad: each costs its own key only.

use serde_json::{Value, json};
use waypost_tests::{Client, Etcd, Steady, Waypost, resident_bytes, until};

use super::{Leased, equals_a_fresh_one, put_many, routes};
use crate::{scene::route, store::Cells};

/// A value of so many bytes that would be good but for that.
fn padded(owner: &str, bytes: usize) -> String {
    let value = route(owner, 9).to_string();
    format!("{value}{}", " ".repeat(bytes.saturating_sub(value.len())))
}

/// Waits until a revision is in force, by what costs the same however much there is to be told.
async fn until_revision(waypost: &Waypost, revision: u64) {
    until(&format!("revision {revision} is in force"), async || match waypost.metric("waypost_table_revision").await {
        reached if reached >= revision as f64 => Ok(()),
        reached => Err(reached.to_string()),
    })
    .await;
}

#[tokio::test]
async fn a_record_of_two_megabytes_costs_its_own_key_only() {
    const LARGE: usize = 2 << 20;
    let etcd = Etcd::with(&["--max-request-bytes", "8388608"]).await;
    let _cells = Cells::of(&etcd).await;
    let mut waypost = Waypost::start(&etcd.url(), &[]).await;
    let steady = Steady::start(&waypost, &[("t1", "a")]);
    // The good ones of the same transaction apply.
    let records = vec![
        ("routes/orders/before".to_owned(), route("b", 1).to_string(), 0),
        ("routes/orders/t1".to_owned(), padded("b", LARGE), 0),
        ("routes/orders/t2".to_owned(), padded("b", LARGE), 0),
        ("routes/orders/zz".to_owned(), route("b", 1).to_string(), 0),
    ];
    let revision = put_many(&etcd, records).await;
    waypost.at(revision).await;
    for (key, wanted) in [("before", "b"), ("zz", "b"), ("t1", "a")] {
        assert_eq!(waypost.get(key, "/").await.text(), wanted, "{key}");
    }
    assert_eq!(waypost.get("t2", "/").await.reason(), "quarantined");
    let said = Client::fetch(waypost.admin, "/status").await.unwrap().text();
    let status: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(status["quarantined"].as_array().map(Vec::len), Some(2), "{said}");
    assert!(said.contains("at most 1048576 would be right") && said.len() < 20_000, "{said}");
    waypost.equals(&["--gold", &etcd.url()]).await;
    steady.more(20).await;
    steady.stop().await;
    // What is large is not kept: the snapshot holds the good values only.
    waypost.terminate();
    assert!(waypost.wait(waypost_tests::LIMIT).success());
    assert!(std::fs::metadata(waypost.snapshot()).unwrap().len() < 20_000);
    // A list that has many of them is larger than any one answer may be.
    let large: Vec<Leased> = (0..40).map(|n| (format!("routes/orders/large{n}"), padded("b", LARGE), 0)).collect();
    for record in large {
        put_many(&etcd, vec![record]).await;
    }
    let fresh = Waypost::start(&etcd.url(), &[]).await;
    assert_eq!(fresh.get("zz", "/").await.text(), "b");
    assert_eq!(fresh.get("large7", "/").await.reason(), "quarantined");
}

#[tokio::test]
async fn a_hundred_thousand_bad_records_stay_bearable_and_are_mended() {
    const BAD: usize = 100_000;
    let etcd = Etcd::start().await;
    let _cells = Cells::of(&etcd).await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    let steady = Steady::start(&waypost, &[("t1", "a")]);
    steady.more(20).await;
    let pid = waypost.pid();
    let before = resident_bytes(pid);
    let bad = (0..BAD).map(|n| (format!("routes/orders/bad{n}"), r#"{"owner":7}"#.to_owned(), 0)).collect();
    let writes = put_many(&etcd, bad);
    // Good ones beside them are in force as soon as they are known.
    let beside = async {
        for epoch in 2..20 {
            let revision = etcd.put("routes/orders/t2", route("b", epoch)).await;
            until_revision(&waypost, revision).await;
            assert_eq!(waypost.get("t2", "/").await.text(), "b");
        }
    };
    let (revision, ()) = tokio::join!(writes, beside);
    until_revision(&waypost, revision).await;
    let count = async || waypost.metric("waypost_records_quarantined").await;
    let until_bad = async |wanted: usize| {
        until(&format!("{wanted} are told"), async || match count().await {
            told if (told - wanted as f64).abs() < 0.5 => Ok(()),
            told => Err(told.to_string()),
        })
        .await;
    };
    until_bad(BAD).await;
    let took = resident_bytes(pid).saturating_sub(before);
    assert!(took < 2500 * BAD as u64, "{took} bytes");
    let said = Client::fetch(waypost.admin, "/status").await.unwrap();
    assert!(said.body.len() < 400 * BAD, "{} bytes", said.body.len());
    assert_eq!(waypost.get("bad77", "/").await.reason(), "quarantined");
    assert_eq!(waypost.get("t2", "/").await.text(), "b");
    // All are mended, in force at once, and nothing is left of it.
    let revision = put_many(&etcd, routes("bad", BAD, "b")).await;
    until_revision(&waypost, revision).await;
    assert_eq!(waypost.get("bad77", "/").await.text(), "b");
    until_bad(0).await;
    assert_eq!(waypost.status().await["quarantined"], json!([]));
    equals_a_fresh_one(&etcd, &waypost).await;
    steady.stop().await;
}

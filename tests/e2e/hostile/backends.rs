//! Backends that lie.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use serde_json::json;
use waypost_tests::{Peer, RawBackend, Waypost, resident_bytes, until, until_true};

use super::stage::{SERVED, Stage, assert_no_leak, moved, refusal, stale};
use crate::{
    scene::{route, service},
    stage::statuses,
};

#[tokio::test]
async fn hints_to_addresses_and_to_nobody_dial_nothing() {
    let stage = Stage::start().await;
    let address = stage.stranger.address;
    let port = address.port();
    let long = "a".repeat(4000);
    let owners = [
        address.to_string(),
        format!("http://{address}"),
        format!("//{address}/"),
        format!("localhost:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("b@{address}"),
        format!("b:{port}"),
        format!("b,{address}"),
        format!("b#{address}"),
        format!("2130706433:{port}"),
        "127.0.0.1".to_owned(),
        String::new(),
        "B".to_owned(),
        " b".to_owned(),
        "b ".to_owned(),
        "../b".to_owned(),
        "upstreams/b".to_owned(),
        "nobody".to_owned(),
        long,
    ];
    let heads = stage.b.heads();
    for owner in owners {
        stage.say(stale(&moved(&owner, "6", 999_999, &stage.table)));
        let (status, reason, _) = stage.ask("t1", "x").await;
        assert_eq!((status, reason.as_str()), (503, "stale_unhealed"), "{owner:?}");
    }
    assert_eq!((stage.b.heads(), stage.hints().await), (heads, (0, 0)));
    stage.is_sound("addresses").await;
}

/// What is no refusal in the words of the contract is one all the same: the store is asked, nothing is believed.
#[tokio::test]
async fn what_is_malformed_doubled_or_huge_is_never_followed() {
    let stage = Stage::start().await;
    let good = moved("b", "6", 999_999, &stage.table);
    let field = |value: &str| format!("Route-Stale: {value}\r\n");
    let fields = [
        field(""),
        field("="),
        field("\""),
        field(&good.replace("state=moved", "state=\"moved\"")),
        field(&good.replace("state=moved, ", "")),
        field(&good.replace("state=moved", "state=MOVED")),
        field(&good.replace("epoch=6", "epoch=\"6\"")),
        field(&good.replace("epoch=6", "epoch=6.0")),
        field(&good.replace("epoch=6", "epoch=-6")),
        field(&good.replace("epoch=6", "epoch=1000000000000000")),
        field(&good.replace("owner=\"b\"", "owner=b")),
        field(&good.replace("owner=\"b\"", "owner=(\"b\")")),
        field(&good.replace("owner=\"b\"", "owner=:Yg==:")),
        field(&good.replace("key=\"t1\"", "key=t1")),
        field(&good.replace("key=\"t1\"", "key=(\"t1\" \"t2\")")),
        field(&good.replace("key=\"t1\"", "key=\"T1\"")),
        field(&good.replace("table=", "Table=")),
        field(&format!("{good};")),
        field(&format!("{good}, {{\"json\": 1}}")),
        field("{\"state\": \"moved\", \"owner\": \"b\", \"epoch\": 6}"),
        // Two fields, whether they agree or not, and one in many parts.
        field(&good).repeat(2),
        field(&good) + "route-stale: state=handoff\r\n",
        "Route-Stale: state=moved, service=\"orders\"\r\nRoute-Stale: key=\"t1\", owner=\"b\", epoch=6\r\n".to_owned(),
    ];
    let heads = stage.b.heads();
    for fields in &fields {
        stage.say(refusal(fields));
        let (status, reason, got) = stage.ask("t1", "x").await;
        assert_eq!((status, reason.as_str()), (503, "stale_unhealed"), "{fields:?}: {got}");
    }
    for bytes in [8_000, 60_000, 2_000_000] {
        stage.say(stale(&format!("{good}, padding=\"{}\"", "x".repeat(bytes))));
        let (status, reason, got) = stage.ask("t1", "x").await;
        // A member that is not known is no fault, where the head is not too large for an answer.
        assert!(matches!((status, &*reason), (200, "") | (502, "bad_response") | (503, "stale_unhealed")), "{bytes}: {status} {reason}");
        assert!(status != 200 || got.ends_with('b'));
        stage.etcd.put("routes/orders/t1", route("a", 5)).await;
    }
    assert!(stage.b.heads() <= heads + 3);
    stage.is_sound("malformed").await;
}

#[tokio::test]
async fn other_keys_services_tables_and_epochs_are_not_theirs_to_name() {
    let stage = Stage::start().await;
    let good = moved("b", "6", 999_999, &stage.table);
    let (cluster, _) = stage.table.rsplit_once('-').unwrap();
    let heads = stage.b.heads();
    for said in [
        good.replace("\"t1\"", "\"t2\""),
        good.replace("\"t1\"", "\"\""),
        good.replace("\"t1\"", ":dDI=:"),
        good.replace("key=\"t1\", ", ""),
        good.replace("orders", "billing"),
        good.replace("orders", ""),
        moved("b", "6", 999_999, &format!("{cluster}-1")),
        moved("b", "6", 999_999, &cluster.to_uppercase()),
        moved("b", "6", 999_999, "file-0"),
        moved("b", "6", 999_999, ""),
        moved("b", "5", 999_999, &stage.table),
        moved("b", "4", 999_999, &stage.table),
        moved("b", "0", 999_999, &stage.table),
        moved("a", "5", 999_999, &stage.table),
    ] {
        stage.say(stale(&said));
        let (status, reason, _) = stage.ask("t1", "x").await;
        assert_eq!((status, reason.as_str()), (503, "stale_unhealed"), "{said}");
    }
    assert_eq!((stage.b.heads(), stage.hints().await), (heads, (0, 0)));
    let shown = stage.waypost.json("/routes/orders/t2").await;
    assert_eq!((&shown["owner"], &shown["source"]), (&json!("b"), &json!("watch")));
    stage.is_sound("others").await;
}

/// A hint that fits and is false serves its one request, at an owner of the table. Then it is refuted and counted, and who said it is not
/// believed for a while, whatever the key; who speaks the truth elsewhere is.
#[tokio::test]
async fn a_false_hint_is_refuted_and_who_gave_it_is_ignored() {
    let stage = Stage::start().await;
    stage.etcd.put("routes/orders/t3", route("a", 5)).await;
    let last = stage.etcd.put("routes/orders/t4", route("b", 5)).await;
    stage.waypost.at(last).await;
    // Its revision has been reached: the table shows at the next look that it is false.
    stage.say(stale(&moved("b", "999999999999999", last, &stage.table)));
    let (status, _, got) = stage.ask("t1", "x").await;
    assert!(status == 200 && got.ends_with('b'), "followed once: {got}");
    until_true("it is refuted", async || stage.hints().await == (0, 1)).await;
    let heads = stage.b.heads();
    for (key, said) in [("t1", moved("b", "7", 999_999, &stage.table)), ("t3", moved("b", "7", 999_999, &stage.table).replace("t1", "t3"))]
    {
        stage.say(stale(&said));
        let (status, reason, _) = stage.ask(key, "x").await;
        assert_eq!((status, reason.as_str()), (503, "stale_unhealed"), "{key}: it is not believed any more");
    }
    assert_eq!(stage.b.heads(), heads);
    assert_eq!(stage.hints().await, (0, 1));
    // What it serves is served all the same, and what it corrects beside that is not believed either.
    stage.say(format!("HTTP/1.1 200 OK\r\nRoute-Update: {}\r\nContent-Length: 1\r\n\r\na", moved("b", "8", 999_999, &stage.table)));
    assert_eq!(stage.ask("t1", "x").await.0, 200);
    assert_eq!(stage.waypost.json("/routes/orders/t1").await["source"], "watch");
    stage.is_sound("refuted").await;
}

/// With a revision of the far future the table never shows that it is false: a check does, after five seconds.
#[tokio::test]
async fn a_false_hint_of_the_future_is_refuted_by_a_check() {
    let stage = Stage::start().await;
    stage.say(stale(&moved("b", "6", 999_999_999_999_999, &stage.table)));
    assert_eq!(stage.ask("t1", "x").await.0, 200);
    assert_eq!(stage.hints().await, (1, 0));
    until_true("a check refutes it", async || stage.hints().await == (0, 1)).await;
    stage.say(SERVED);
    let (_, _, got) = stage.ask("t1", "x").await;
    assert!(got.ends_with('a'), "the owner is the store's again: {got}");
    stage.is_sound("future").await;
}

#[tokio::test]
async fn refusals_on_other_statuses_are_no_refusals_and_leak_nothing() {
    let stage = Stage::start().await;
    let said = moved("b", "6", 999_999, &stage.table);
    for status in ["200 OK", "204 No Content", "307 Temporary Redirect", "404 Not Found", "409 Conflict", "500 Oops", "503 Busy"] {
        let length = if status.starts_with("204") { "" } else { "Content-Length: 0\r\n" };
        stage.say(format!("HTTP/1.1 {status}\r\nRoute-Stale: {said}\r\nROUTE_STALE: {said}\r\nRoute-Secret: 1\r\n{length}\r\n"));
        let (seen, reason, _) = stage.ask("t1", "x").await;
        assert_eq!((seen.to_string(), reason.as_str()), (status[..3].to_owned(), ""));
    }
    // In trailers they are nothing at all: announced, the answer is none; else they are dropped.
    let trailing = |announced: &str| {
        format!("HTTP/1.1 200 OK\r\n{announced}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nRoute-Stale: {said}\r\n\r\n")
    };
    stage.say(trailing("Trailer: Route-Stale\r\n"));
    assert_eq!(stage.ask("t1", "x").await.1, "bad_response");
    stage.say(trailing(""));
    let (seen, _, got) = stage.ask("t1", "x").await;
    assert!(seen == 200 && !got.contains("moved"), "{got}");
    // Nor are interim ones: the final answer counts, and the client sees nothing of either.
    for interim in ["103 Early Hints", "102 Processing", "100 Continue", "199 Odd"] {
        stage.say(format!("HTTP/1.1 {interim}\r\nRoute-Stale: {said}\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"));
        let (seen, _, got) = stage.ask("t1", "x").await;
        assert!(seen == 200 && got.ends_with('a'), "{interim}: {got}");
        stage.say(format!("HTTP/1.1 {interim}\r\nX-Own: 1\r\n\r\n{}", stale("state=moved, key=\"t1\"")));
        let (seen, reason, _) = stage.ask("t1", "x").await;
        assert_eq!((seen, reason.as_str()), (503, "stale_unhealed"), "a refusal behind {interim} is one");
    }
    stage.say(format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\nRoute-Stale: {said}\r\n\r\n"));
    assert_eq!(stage.ask("t1", "x").await.1, "bad_response");
    assert_eq!((stage.b.heads(), stage.hints().await), (0, (0, 0)));
    stage.is_sound("statuses").await;
}

#[tokio::test]
async fn updates_that_lie_change_nothing() {
    let stage = Stage::start().await;
    let good = moved("b", "6", 999_999, &stage.table).replace("state=moved, service=\"orders\", ", "");
    let (cluster, _) = stage.table.rsplit_once('-').unwrap();
    let field = |value: String| format!("Route-Update: {value}\r\n");
    for fields in [
        field(good.replace("\"b\"", &format!("\"{}\"", stage.stranger.address))),
        field(good.replace("\"b\"", "\"nobody\"")),
        field(good.replace("\"t1\"", "\"t2\"")),
        field(good.replace("key=\"t1\", ", "")),
        field(good.replace(&stage.table, &format!("{cluster}-7"))),
        field(good.replace("epoch=6", "epoch=5")),
        field(good.replace("epoch=6", "epoch=0")),
        field(good.replace("epoch=6", "epoch=?1")),
        field("=".to_owned()),
        field(good.clone()).repeat(2),
    ] {
        stage.say(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 1\r\n\r\na"));
        let (status, _, got) = stage.ask("t1", "x").await;
        assert!(status == 200 && got.ends_with('a'), "{fields}: {got}");
        assert_eq!(stage.hints().await, (0, 0), "{fields}");
    }
    stage.is_sound("updates").await;
}

/// A refusal that comes while the body is still on its way: what is at hand is sent on whole, and nothing is ever cut short.
#[tokio::test]
async fn a_refusal_within_the_body_loses_nothing_of_it() {
    let stage = Stage::start().await;
    let refuses = RawBackend::start({
        let table = stage.table.clone();
        move |mut peer: Peer, _| {
            let table = table.clone();
            async move {
                let Some(head) = peer.until("\r\n\r\n").await else { return };
                let stamped = head.split("epoch=").nth(1).and_then(|rest| rest.split(',').next()?.parse::<u64>().ok()).unwrap();
                if peer.exactly(1000).await.is_some() {
                    peer.send(stale(&moved("b", &(stamped + 1).to_string(), 999_999, &table))).await;
                }
                peer.rest().await;
            }
        }
    })
    .await;
    let revision = stage.etcd.put("upstreams/a", refuses.upstream()).await;
    stage.waypost.at(revision).await;
    let (status, _, got) = stage.ask("t1", &"0123456789".repeat(4000)).await;
    assert!(status == 200 && got.ends_with('b'), "{got}");
    assert_eq!(stage.b.last().body, "0123456789".repeat(4000).as_bytes());
    // The same while the client has sent no more than a part of it.
    let revision = stage.etcd.put("routes/orders/t1", route("a", 7)).await;
    stage.waypost.at(revision).await;
    let mut client = Peer::connect(stage.waypost.listen).await;
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nx-tenant: t1\r\nConnection: close\r\nContent-Length: 5000\r\n\r\n").await;
    client.send("a".repeat(2000)).await;
    until_true("its owner has refused it", async || stage.waypost.json("/routes/orders/t1").await["source"] == "hint").await;
    client.send("b".repeat(3000)).await;
    let got = client.rest().await;
    assert_no_leak(&got);
    assert!(statuses(&got) == [200] && got.ends_with('b'), "{got}");
    assert_eq!(stage.b.last().body, ("a".repeat(2000) + &"b".repeat(3000)).as_bytes());
    stage.is_sound("within the body").await;
}

#[tokio::test]
async fn a_refusal_that_never_ends_is_left() {
    let stage = Stage::start().await;
    let (sent, is_cut) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
    let endless = RawBackend::start({
        let (sent, is_cut) = (Arc::clone(&sent), Arc::clone(&is_cut));
        let head = stale(&moved("b", "6", 999_999, &stage.table)).replace("Content-Length: 4", "Transfer-Encoding: chunked");
        let head = head.split("\r\n\r\n").next().unwrap().to_owned();
        move |mut peer: Peer, _| {
            let (sent, is_cut, head) = (Arc::clone(&sent), Arc::clone(&is_cut), head.clone());
            async move {
                peer.request().await;
                peer.send(format!("{head}\r\n\r\n")).await;
                let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
                while peer.send(&chunk).await {
                    sent.fetch_add(0x8000, Ordering::Relaxed);
                }
                is_cut.store(true, Ordering::Relaxed);
            }
        }
    })
    .await;
    let revision = stage.etcd.put("upstreams/a", endless.upstream()).await;
    stage.waypost.at(revision).await;
    let (status, _, got) = stage.ask("t1", "x").await;
    assert!(status == 200 && got.ends_with('b'), "{got}");
    until_true("its connection is closed", async || is_cut.load(Ordering::Relaxed)).await;
    assert!(sent.load(Ordering::Relaxed) < 32 << 20, "{} bytes were taken", sent.load(Ordering::Relaxed));
    // As often as it is asked.
    let before = resident_bytes(stage.waypost.pid());
    for round in 0..30 {
        let revision = stage.etcd.put("routes/orders/t1", route("a", 10 + round)).await;
        stage.waypost.at(revision).await;
        // Its epoch is no news any more: the store is asked, and says the same.
        assert_eq!(stage.ask("t1", "x").await.1, "stale_unhealed");
    }
    let grown = resident_bytes(stage.waypost.pid()).saturating_sub(before);
    assert!(grown < 32 << 20, "memory grew by {grown} bytes");
    stage.is_sound("endless").await;
}

/// The bound of 65,536 is held by a unit test; here, that a flood costs neither memory out of all proportion nor other keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_hints_is_no_more_than_one_a_key() {
    const KEYS: usize = 1500;
    let stage = Stage::start().await;
    let revision = stage.etcd.put("services/orders", service(json!({ "default_owner": "a" }))).await;
    stage.waypost.at(revision).await;
    let table = stage.table.clone();
    let epoch = AtomicU64::new(1);
    stage.reply(move |request| {
        let key = request.values("x-tenant")[0].to_owned();
        let said = moved("b", &epoch.fetch_add(1, Ordering::Relaxed).to_string(), 999_999, &table).replace("t1", &key);
        Some(stale(&said).into_bytes())
    });
    let asking: Vec<_> = (0..10)
        .map(|part| {
            let address = stage.waypost.listen;
            tokio::spawn(async move {
                let mut client = waypost_tests::Client::connect(address).await;
                for number in (part..KEYS).step_by(10) {
                    let answer = client.request("POST", "/", &[("x-tenant", &format!("flood-{number}"))], b"x").await;
                    assert_eq!((answer.status, answer.text().as_str()), (200, "b"), "{}", answer.reason());
                    if answer.header("connection") == "close" {
                        client = waypost_tests::Client::connect(address).await;
                    }
                }
            })
        })
        .collect();
    for part in asking {
        part.await.unwrap();
    }
    let (count, _) = stage.hints().await;
    assert!(count <= KEYS as u64, "{count} hints");
    stage.is_sound("a flood").await;
    // No key has a route: each hint only goes once it was looked at, and nobody is blamed.
    until("the hints are checked and go", async || {
        let (count, refuted) = stage.hints().await;
        if count < KEYS as u64 && refuted == 0 { Ok(()) } else { Err(format!("{count} hints, {refuted} refuted")) }
    })
    .await;
}

/// Of two proxies, one is lied to: what it believes is its own affair.
#[tokio::test]
async fn a_lie_to_one_proxy_is_none_to_another() {
    let stage = Stage::start().await;
    let other = Waypost::start(&stage.etcd.url(), &[]).await;
    stage.say(stale(&moved("b", "6", 999_999, &stage.table)));
    assert_eq!(stage.ask("t1", "x").await.0, 200);
    stage.say(SERVED);
    let answer = other.get("t1", "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "a"));
}

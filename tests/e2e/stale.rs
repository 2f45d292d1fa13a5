//! Stale routes: followed, redirected, refused, checked, bounded.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use serde_json::json;
use waypost_tests::{Backend, FaultProxy, Reply, Waypost, until, until_true};

use crate::scene::{Scene, route, service};

/// What cell `a` says; set once the incarnation is known.
type Word = Arc<Mutex<Option<String>>>;

/// A stage on which `a` refuses with a word that the test sets, and serves while there is none.
async fn refusing() -> (Scene, Word) {
    let word = Word::default();
    let said = Arc::clone(&word);
    let a = move |_: &_| said.lock().unwrap().clone().map_or_else(|| Reply::ok("a"), Reply::stale);
    let scene = Scene::with(a, |_| Reply::ok("b")).await;
    (scene, word)
}

fn moved(owner: &str, epoch: u64, revision: u64, table: &str) -> String {
    format!(r#"state=moved, service="orders", key="t1", owner="{owner}", epoch={epoch}, revision={revision}, table="{table}""#)
}

fn say(word: &Word, what: impl Into<String>) {
    *word.lock().unwrap() = Some(what.into());
}

#[tokio::test]
async fn a_moved_key_is_followed_and_the_client_sees_nothing_of_it() {
    let (scene, word) = refusing().await;
    let now = scene.waypost.status().await["gold"][0]["revision"].as_u64().unwrap();
    say(&word, moved("b", 6, now + 1, &scene.table().await));
    let body = vec![b'x'; 40_000];
    let mut client = scene.waypost.client().await;
    let answer = client.request("POST", "/write?x=%2F", &[("x-tenant", "t1")], &body).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "b"));
    let (first, second) = (scene.a.last(), scene.b.last());
    assert_eq!(second.body, body, "the body is replayed whole");
    assert_eq!(second.target, "/write?x=%2F");
    assert_eq!((first.stamped("epoch"), first.stamped("hop")), ("5".into(), "0".into()));
    assert_eq!((second.stamped("epoch"), second.stamped("hop")), ("6".into(), "1".into()));
    assert_eq!(scene.route("t1").await["source"], "hint");
    let hints = scene.waypost.status().await["hints"].clone();
    let mut shown = hints["newest"][0].clone();
    assert!(shown["age_ms"].take().is_u64(), "{hints}");
    let reporter = scene.a.address.to_string();
    let wanted = json!({
        "service": "orders", "key": "t1", "owner": "b", "epoch": 6, "revision": now + 1, "reporter": reporter, "age_ms": null
    });
    assert_eq!((&hints["count"], hints["newest"].as_array().unwrap().len(), shown), (&json!(1), 1, wanted));
    assert_eq!(scene.waypost.get("t1", "/").await.text(), "b");
    assert_eq!(scene.a.seen().len(), 1, "the hint serves the next request");
    let line_of = async |method: &str| {
        let logged = async || scene.waypost.access_log().into_iter().find(|line| line["method"] == method).ok_or("no line yet".to_owned());
        until("the request is logged", logged).await
    };
    let line = line_of("POST").await;
    assert_eq!((&line["hops"], &line["owner"], &line["epoch"]), (&json!(1), &json!("b"), &json!(6)));
    let to = scene.b.address;
    assert_eq!(line["chain"], json!([format!("a {reporter} 5 stale moved to b at 6"), format!("b {to} 6 answered 200")]));
    let plain = line_of("GET").await;
    assert_eq!(plain.get("chain"), None, "{plain}");
    scene.put("routes/orders/t1", route("b", 6)).await;
    assert_eq!(scene.route("t1").await["source"], "watch", "the watch has caught up");
    until_true("the hint is dropped", async || scene.waypost.status().await["hints"]["count"] == 0).await;
    assert!(scene.waypost.metric("waypost_stale_outcome_total").await >= 1.0);
}

#[tokio::test]
async fn a_redirecting_policy_sends_the_client() {
    let (scene, word) = refusing().await;
    let table = scene.table().await;
    scene.put("policies/r", json!({ "on_stale": "redirect" })).await;
    let now = scene.put("services/orders", service(json!({ "policy": "r" }))).await;
    say(&word, moved("b", 6, now + 100, &table));
    let answer = scene.waypost.get("t1", "/a//b?c=%20d").await;
    assert_eq!((answer.status, answer.reason()), (307, "moved"));
    assert_eq!((answer.header("location"), answer.header("cache-control")), ("/a//b?c=%20d", "no-store"));
    assert_eq!(answer.header("route-stale"), "");
    assert_eq!(scene.waypost.get("t1", "/a//b?c=%20d").await.text(), "b", "following it, the proxy has healed");
    scene.put("policies/r", json!({ "on_stale": "redirect", "redirect_to": "owner" })).await;
    let mut public = scene.b.upstream();
    public["public_url"] = json!("https://b.example.com");
    scene.put("upstreams/c", public).await;
    scene.put("routes/orders/t2", route("a", 5)).await;
    say(&word, moved("c", 6, now + 100, &table).replace("t1", "t2"));
    assert_eq!(scene.waypost.get("t2", "/x?y").await.header("location"), "https://b.example.com/x?y");
}

#[tokio::test]
async fn what_may_not_be_followed_is_checked_and_dials_nobody() {
    let (scene, word) = refusing().await;
    let table = scene.table().await;
    let stranger = Backend::named("stranger").await;
    let words = [
        moved("b", 5, 999, &table),
        moved("b", 4, 999, &table),
        moved("b", 6, 999, "cdf818194e3a8c32-0"),
        moved("b", 6, 999, &table).replace("t1", "t2"),
        moved("b", 6, 999, &table).replace("orders", "billing"),
        moved("nobody", 6, 999, &table),
        moved(&stranger.address.to_string(), 6, 999, &table),
        "state=moved, key=\"t1\"".to_owned(),
        "gibberish, =".to_owned(),
    ];
    for said in words {
        say(&word, said.clone());
        let answer = scene.waypost.get("t1", "/").await;
        assert_eq!((answer.status, answer.reason(), answer.header("retry-after")), (503, "stale_unhealed", "1"), "{said}");
    }
    assert_eq!((scene.b.heads(), stranger.heads()), (0, 0));
    assert_eq!(scene.waypost.status().await["hints"]["count"], 0);
}

/// A proxy whose watch can be held back while its reads go through.
#[tokio::test]
async fn a_check_finds_the_owner_that_nobody_names() {
    let (scene, word) = refusing().await;
    say(&word, "state=moved, key=\"t1\"");
    assert_eq!(scene.waypost.get("t1", "/").await.reason(), "stale_unhealed", "the store still names the cell that refused");
    let between = FaultProxy::start(scene.etcd.address()).await;
    let late = Waypost::start(&between.url(), &crate::store::WITHOUT_REPORTS).await;
    until_true("its watch stands", async || late.status().await["gold"][0]["connected"] == true).await;
    between.hold_newest();
    let known = late.status().await["gold"][0]["revision"].clone();
    let revision = scene.etcd.put("routes/orders/t1", route("b", 6)).await;
    let answer = late.get("t1", "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "b"));
    let shown = late.json("/routes/orders/t1").await;
    assert_eq!(
        (&shown["source"], &shown["owner"], &shown["revision"]),
        (&json!("store"), &json!("b"), &known),
        "the watch knows nothing yet"
    );
    scene.etcd.delete("routes/orders/t1").await;
    *word.lock().unwrap() = None;
    assert_eq!(late.get("t1", "/").await.text(), "b", "a delete that nobody has told of yet");
    between.pass();
    late.at(revision + 1).await;
    assert_eq!(late.get("t1", "/").await.reason(), "no_route");
}

#[tokio::test]
async fn with_the_store_gone_a_check_fails_in_bounded_time() {
    let (mut scene, word) = refusing().await;
    say(&word, "state=moved, key=\"t1\"");
    scene.etcd.kill();
    let began = std::time::Instant::now();
    assert_eq!(scene.waypost.get("t1", "/").await.reason(), "stale_unhealed");
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn two_cells_that_blame_each_other_are_left_after_max_hops() {
    let epoch = Arc::new(AtomicU64::new(6));
    let table = Arc::<Mutex<String>>::default();
    let blame = |other: &'static str| {
        let (epoch, table) = (Arc::clone(&epoch), Arc::clone(&table));
        move |_: &_| Reply::stale(moved(other, epoch.fetch_add(1, Ordering::Relaxed), 999, &table.lock().unwrap()))
    };
    let scene = Scene::with(blame("b"), blame("a")).await;
    *table.lock().unwrap() = scene.table().await;
    let answer = scene.waypost.get("t1", "/").await;
    assert_eq!((answer.status, answer.reason()), (503, "stale_unhealed"));
    assert_eq!(scene.a.seen().len() + scene.b.seen().len(), 4, "at most four owners are dispatched to");
    let hops: Vec<String> = scene.a.seen().iter().chain(&scene.b.seen()).map(|seen| seen.stamped("hop")).collect();
    assert_eq!(hops, ["0", "2", "1", "3"]);
}

#[tokio::test]
async fn a_421_of_the_application_passes_through() {
    let scene = Scene::with(|_| Reply::Say(421, Vec::new(), b"mine".to_vec()), |_| Reply::ok("b")).await;
    let answer = scene.waypost.get("t1", "/").await;
    assert_eq!((answer.status, answer.text().as_str(), answer.reason()), (421, "mine", ""));
}

#[tokio::test]
async fn states_of_later_versions_are_not_guessed_at() {
    let (scene, word) = refusing().await;
    say(&word, "state=evaporated, key=\"t1\", owner=\"b\", epoch=6");
    assert_eq!(scene.waypost.get("t1", "/").await.reason(), "stale_unhealed");
    assert_eq!(scene.b.heads(), 0);
}

/// Owners that speak the protocol are asked before a body goes that could not be sent twice.
#[tokio::test]
async fn a_large_body_waits_for_the_word_of_an_owner_that_knows_the_protocol() {
    let (scene, word) = refusing().await;
    for (name, cell) in [("a", &scene.a), ("b", &scene.b)] {
        let mut upstream = cell.upstream();
        upstream["stale_aware"] = json!(true);
        scene.put(&format!("upstreams/{name}"), upstream).await;
    }
    say(&word, moved("b", 6, 999, &scene.table().await));
    let body = vec![b'x'; 3_000_000];
    let answer = scene.waypost.client().await.request("POST", "/", &[("x-tenant", "t1")], &body).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "b"), "{}", answer.reason());
    assert_eq!((scene.b.last().body.len(), scene.b.last().header("expect")), (body.len(), "100-continue"));
    assert_eq!(scene.a.last().body.len(), 0, "it was refused unread");
    // A small one is kept and needs no question.
    scene.waypost.client().await.request("POST", "/", &[("x-tenant", "t1")], b"small").await;
    assert_eq!(scene.b.last().header("expect"), "");
}

#[tokio::test]
async fn a_body_beyond_the_replay_buffer_is_not_sent_again() {
    let (scene, word) = refusing().await;
    say(&word, moved("b", 6, 999, &scene.table().await));
    let body = vec![b'x'; 300_000];
    let answer = scene.waypost.client().await.request("POST", "/", &[("x-tenant", "t1")], &body).await;
    assert_eq!((answer.status, answer.reason()), (503, "stale_unhealed"));
    assert!(scene.b.seen().iter().all(|seen| seen.body.len() == body.len()), "no cut body is ever sent");
    let answer = scene.waypost.client().await.request("POST", "/", &[("x-tenant", "t1")], &body).await;
    assert_eq!(answer.text(), "b", "the next request profits from the hint");
}

#[tokio::test]
async fn a_file_source_has_no_order_but_its_hints_are_of_one_table() {
    let folder = tempfile::tempdir().unwrap();
    let a = Backend::start(|_| Reply::stale(r#"state=moved, key="t1", owner="b", epoch=3, revision=2, table="file-0""#)).await;
    let b = Backend::named("b").await;
    let file = folder.path().join("routes.json");
    let records = json!({
        "services/orders": service(json!({})),
        "upstreams/a": a.upstream(),
        "upstreams/b": b.upstream(),
        "routes/orders/t1": { "owner": "a" },
    });
    std::fs::write(&file, records.to_string()).unwrap();
    let waypost = Waypost::start(&format!("file:{}", file.display()), &[]).await;
    let answer = waypost.get("t1", "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "b"));
    assert_eq!((a.last().stamped("epoch"), a.last().stamped("table")), ("0".into(), "file-0".into()));
}

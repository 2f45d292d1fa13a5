//! The watcher against a real etcd: what is written is seen, whole, and outages, compaction and restores change nothing that they
//! should not. Each test starts an etcd of its own on free ports and waits for conditions, never for time to pass.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use tempfile::TempDir;
use waypost_conf::Name;
use waypost_policy::{
    Source, Table,
    table::{Entry, RequestKey},
};
use waypost_watcher::{
    Checked, Credentials, EtcdPlace, GoldPlace, GoldStatus, Settings, View, Watcher,
    store::{Change, Store, Swapped},
};

const PREFIX: &str = "/waypost/v1";
const SERVICE: &str = r#"{"match":[{"hosts":["orders.example.com"]}],"key":{"header":"x-tenant"}}"#;
const LIMIT: Duration = Duration::from_secs(20);

/// One member with its own data; killed when dropped.
struct Etcd {
    directory: TempDir,
    data: String,
    child: Child,
    client_port: u16,
    peer_port: u16,
}

impl Etcd {
    async fn start() -> Self {
        // Another process may take a free port before etcd does: then other ports.
        for _ in 0..5 {
            let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
            let [client_port, peer_port] = held.each_ref().map(|held| held.local_addr().unwrap().port());
            drop(held);
            let directory = tempfile::tempdir().unwrap();
            let child = spawn(&directory.path().join("data"), client_port, peer_port);
            let mut etcd = Self { directory, data: "data".to_owned(), child, client_port, peer_port };
            if etcd.is_up().await {
                return etcd;
            }
        }
        panic!("etcd did not start; it must be in PATH, or named by ETCD_BIN");
    }

    async fn is_up(&mut self) -> bool {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            if let Ok(client) = Client::connect([self.url()], None).await
                && client.kv_client().get("health", None).await.is_ok()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    async fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.directory.path().join(&self.data), self.client_port, self.peer_port);
        assert!(self.is_up().await, "etcd did not start again");
    }

    async fn client(&self) -> Client {
        Client::connect([self.url()], None).await.unwrap()
    }

    async fn put(&self, key: &str, value: &str) -> u64 {
        let done = self.client().await.kv_client().put(format!("{PREFIX}/{key}"), value, None).await.unwrap();
        u64::try_from(done.header().unwrap().revision()).unwrap()
    }

    async fn delete(&self, key: &str) -> u64 {
        let done = self.client().await.kv_client().delete(format!("{PREFIX}/{key}"), None).await.unwrap();
        u64::try_from(done.header().unwrap().revision()).unwrap()
    }

    async fn compact(&self, revision: u64) {
        self.client().await.kv_client().compact(i64::try_from(revision).unwrap(), None).await.unwrap();
    }

    /// A service with a route `t1` of owner `a`; the revision.
    async fn filled(&self) -> u64 {
        self.put("services/orders", SERVICE).await;
        self.put("upstreams/a", "{}").await;
        self.put("upstreams/b", "{}").await;
        self.put("routes/orders/t1", r#"{"owner":"a"}"#).await
    }

    fn etcdctl(&self, arguments: &[&str]) {
        let done = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url()])
            .args(arguments)
            .current_dir(self.directory.path())
            .output();
        let done = done.unwrap();
        assert!(done.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn backup(&self) {
        self.etcdctl(&["snapshot", "save", "backup"]);
    }

    /// Stops, and puts the backup's data in place of the present ones, with unchanged flags: the cluster's id stays.
    fn restore(&mut self) {
        self.kill();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let cluster = format!("default={peer}");
        self.etcdctl(&[
            "snapshot",
            "restore",
            "backup",
            "--data-dir",
            "restored",
            "--initial-cluster",
            &cluster,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        self.data = "restored".to_owned();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(data: &Path, client_port: u16, peer_port: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    Command::new(std::env::var("ETCD_BIN").unwrap_or_else(|_| "etcd".to_owned()))
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--logger", "zap", "--log-level", "error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn settings(url: &str, snapshot: Option<&Path>) -> Settings {
    let endpoints = vec![url.to_owned()];
    Settings {
        place: GoldPlace::Etcd(EtcdPlace { endpoints, prefix: PREFIX.to_owned(), credentials: Credentials::default() }),
        allow_empty: false,
        snapshot: snapshot.map(Path::to_owned),
        seed: 1,
        origin: Instant::now(),
        on_publish: None,
    }
}

fn watch(etcd: &Etcd) -> Watcher {
    waypost_watcher::start(settings(&etcd.url(), None)).unwrap()
}

/// The snapshot lies beside etcd's data.
fn watch_with_snapshot(etcd: &Etcd) -> Watcher {
    waypost_watcher::start(settings(&etcd.url(), Some(&etcd.directory.path().join("edge.snapshot")))).unwrap()
}

/// Waits until something holds of the table and the status, and gives that table.
async fn until(view: &View, what: &str, mut holds: impl FnMut(&Table, &GoldStatus) -> bool) -> Arc<Table> {
    let end = Instant::now() + LIMIT;
    loop {
        let status = view.status();
        if let Some(table) = view.load_full().filter(|table| holds(table, &status)) {
            return table;
        }
        let seen = view.load_full().map(|table| (table.revision(), owner(&table, "t1"), table.source()));
        assert!(Instant::now() < end, "waited {LIMIT:?} until {what}; seen: {seen:?}, {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_revision(view: &View, revision: u64) -> Arc<Table> {
    until(view, &format!("revision {revision} is in force"), |table, _| table.revision() >= revision).await
}

fn request_key(table: &Table, tenant: &str) -> Option<RequestKey> {
    Some(RequestKey { service: table.service_named("orders")?.id, key: tenant.as_bytes().into() })
}

fn owner(table: &Table, tenant: &str) -> Option<String> {
    match table.entry(&request_key(table, tenant)?) {
        Entry::Route(route, _) => table.upstream_name(route.owner).map(ToString::to_string),
        Entry::Absent(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_deletes_and_whole_transactions_are_seen() {
    let etcd = Etcd::start().await;
    etcd.filled().await;
    let watcher = watch(&etcd);
    let table = until(&watcher.view, "the first list is in force", |_, status| status.connected).await;
    assert_eq!((owner(&table, "t1").as_deref(), table.source()), (Some("a"), Source::Watch));
    let revision = etcd.put("routes/orders/t2", r#"{"owner":"a"}"#).await;
    assert_eq!(owner(&*until_revision(&watcher.view, revision).await, "t2").as_deref(), Some("a"));

    // Two routes that always change together are never seen apart.
    let done = Arc::new(AtomicBool::new(false));
    let (view, is_done) = (watcher.view.clone(), Arc::clone(&done));
    let reader = tokio::task::spawn_blocking(move || {
        let mut seen = 0u64;
        while !is_done.load(Ordering::Relaxed) {
            let table = view.load_full().unwrap();
            assert_eq!(owner(&table, "t1"), owner(&table, "t2"), "at revision {}", table.revision());
            seen += 1;
        }
        seen
    });
    let mut kv = etcd.client().await.kv_client();
    let mut revision = 0;
    for turn in 0..200 {
        let value = format!(r#"{{"owner":"{}"}}"#, if turn % 2 == 0 { "b" } else { "a" });
        let puts = ["t1", "t2"].map(|key| TxnOp::put(format!("{PREFIX}/routes/orders/{key}"), value.clone(), None));
        let swapped = kv.txn(Txn::new().and_then(puts)).await.unwrap();
        revision = u64::try_from(swapped.header().unwrap().revision()).unwrap();
    }
    until_revision(&watcher.view, revision).await;
    done.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 0);

    let revision = etcd.delete("routes/orders/t2").await;
    assert_eq!(owner(&*until_revision(&watcher.view, revision).await, "t2"), None);
    assert_eq!(watcher.view.status().resyncs.len(), 0);
    watcher.stop().await;
}

#[tokio::test]
async fn a_killed_member_is_followed_again_from_the_cursor() {
    let mut etcd = Etcd::start().await;
    etcd.filled().await;
    let watcher = watch(&etcd);
    until(&watcher.view, "the first list is in force", |_, status| status.connected).await;
    etcd.kill();
    let table = until(&watcher.view, "the loss is told", |_, status| !status.connected && status.last_error.is_some()).await;
    assert_eq!(owner(&table, "t1").as_deref(), Some("a"), "what is known goes on being served");
    etcd.restart().await;
    let revision = etcd.put("routes/orders/t1", r#"{"owner":"b"}"#).await;
    let table = until_revision(&watcher.view, revision).await;
    assert_eq!(owner(&table, "t1").as_deref(), Some("b"));
    let table = until(&watcher.view, "the contact is told", |_, status| status.connected && status.last_error.is_none()).await;
    assert_eq!(table.source(), Source::Watch);
    assert_eq!(watcher.view.status().resyncs.len(), 0, "resumed, not listed");
    watcher.stop().await;
}

#[tokio::test]
async fn a_snapshot_serves_without_the_store_and_catches_up_with_it() {
    let mut etcd = Etcd::start().await;
    etcd.filled().await;
    etcd.put("routes/orders/bad", "{").await;
    let revision = etcd.put("routes/orders/gone", r#"{"owner":"a"}"#).await;
    let watcher = watch_with_snapshot(&etcd);
    let saved = until_revision(&watcher.view, revision).await;
    watcher.stop().await;
    etcd.kill();

    let watcher = watch_with_snapshot(&etcd);
    let table = watcher.view.load_full().expect("a table is in force when start returns");
    assert_eq!((table.source(), table.digest(), table.id()), (Source::Snapshot, saved.digest(), saved.id()));
    assert_eq!((owner(&table, "t1").as_deref(), owner(&table, "gone").as_deref()), (Some("a"), Some("a")));
    assert_eq!(watcher.view.status().quarantined[0].key, format!("{PREFIX}/routes/orders/bad"));

    etcd.restart().await;
    let table = until(&watcher.view, "the snapshot is confirmed", |table, _| table.source() == Source::Watch).await;
    assert_eq!(table.revision(), revision, "nothing has changed, and the source is the watch all the same");
    etcd.delete("routes/orders/gone").await;
    let revision = etcd.put("routes/orders/t1", r#"{"owner":"b"}"#).await;
    let table = until_revision(&watcher.view, revision).await;
    assert_eq!((owner(&table, "t1").as_deref(), owner(&table, "gone")), (Some("b"), None));
    assert_eq!(watcher.view.status().resyncs.len(), 0, "resumed, not listed");
    watcher.stop().await;
}

#[tokio::test]
async fn what_was_compacted_while_away_is_found_by_comparison() {
    let etcd = Etcd::start().await;
    etcd.filled().await;
    let revision = etcd.put("routes/orders/gone", r#"{"owner":"a"}"#).await;
    let watcher = watch_with_snapshot(&etcd);
    until_revision(&watcher.view, revision).await;
    watcher.stop().await;
    etcd.delete("routes/orders/gone").await;
    etcd.put("routes/orders/new", r#"{"owner":"b"}"#).await;
    let revision = etcd.put("routes/orders/t1", r#"{"owner":"b"}"#).await;
    etcd.compact(revision).await;

    let watcher = watch_with_snapshot(&etcd);
    // The live table is never without the routes that it had.
    let table = until(&watcher.view, "the list is in force", |table, _| {
        assert!(owner(table, "t1").is_some());
        table.revision() >= revision
    });
    let table = table.await;
    let owners = ["t1", "new", "gone"].map(|key| owner(&table, key));
    assert_eq!(owners.each_ref().map(Option::as_deref), [Some("b"), Some("b"), None]);
    assert_eq!(watcher.view.status().resyncs.get("compacted"), Some(&1));
    let fresh = watch(&etcd);
    let listed = until_revision(&fresh.view, revision).await;
    assert_eq!(listed.digest(), table.digest(), "two proxies at one revision have one digest");
    fresh.stop().await;
    watcher.stop().await;
}

#[tokio::test]
async fn what_a_check_read_is_in_force_when_it_is_answered() {
    let mut etcd = Etcd::start().await;
    etcd.filled().await;
    let watcher = watch(&etcd);
    let table = until(&watcher.view, "the first list is in force", |_, status| status.connected).await;
    let (service, key) = (Name::try_from("orders").unwrap(), request_key(&table, "t1").unwrap());
    for turn in 0..20 {
        let now = if turn % 2 == 0 { "b" } else { "a" };
        etcd.put("routes/orders/t1", &format!(r#"{{"owner":"{now}"}}"#)).await;
        assert_eq!(watcher.asker.check(&service, &key).await, Checked::Answered);
        assert_eq!(owner(&watcher.view.load_full().unwrap(), "t1").as_deref(), Some(now));
    }
    etcd.delete("routes/orders/t1").await;
    assert_eq!(watcher.asker.check(&service, &key).await, Checked::Answered);
    assert_eq!(owner(&watcher.view.load_full().unwrap(), "t1"), None, "absence is an answer");

    // A crowd that asks for one key shares a read; one that asks for many meets the cap.
    let ask = |key: RequestKey| {
        let (asker, service) = (watcher.asker.clone(), service.clone());
        tokio::spawn(async move { asker.check(&service, &key).await })
    };
    let same: Vec<_> = (0..500).map(|_| ask(key.clone())).collect();
    // One caller's going away fails no other.
    same[0].abort();
    for answer in same.into_iter().skip(1) {
        assert_eq!(answer.await.unwrap(), Checked::Answered);
    }
    let many: Vec<_> = (0..500).map(|n| ask(RequestKey { key: format!("k{n}").as_bytes().into(), ..key.clone() })).collect();
    let mut capped = 0;
    for answer in many {
        capped += usize::from(answer.await.unwrap() == Checked::Capped);
    }
    assert!((300..500).contains(&capped), "{capped}");

    etcd.kill();
    let lone = RequestKey { key: b"lone".as_slice().into(), ..key };
    let end = Instant::now() + LIMIT;
    while watcher.asker.check(&service, &lone).await != Checked::Unavailable {
        assert!(Instant::now() < end, "a check without a store must end as unavailable");
    }
    watcher.stop().await;
}

#[tokio::test]
async fn a_restored_backup_is_taken_only_when_its_incarnation_is_raised() {
    let mut etcd = Etcd::start().await;
    etcd.filled().await;
    etcd.backup();
    let revision = etcd.put("routes/orders/rolled-back", r#"{"owner":"b"}"#).await;
    let watcher = watch(&etcd);
    let before = until_revision(&watcher.view, revision).await;
    etcd.restore();
    // Written to behind the watcher's back until it is past the cursor: neither cluster id nor revision tells then, only what was
    // applied last does.
    let known_port = std::mem::replace(&mut etcd.client_port, free_port());
    etcd.restart().await;
    for _ in 0..5 {
        etcd.put("routes/orders/other", r#"{"owner":"b"}"#).await;
    }
    etcd.kill();
    etcd.client_port = known_port;
    etcd.restart().await;
    let table = until(&watcher.view, "the restore is noticed", |_, status| {
        status.last_error.as_deref().is_some_and(|error| error.contains("raise the integer"))
    });
    let table = table.await;
    assert_eq!((table.revision(), table.digest()), (before.revision(), before.digest()), "the live table goes on serving");

    etcd.put("incarnation", "1").await;
    let table = until(&watcher.view, "the new incarnation is in force", |table, _| table.id() != before.id()).await;
    assert!(table.id().as_str().ends_with("-1"));
    assert_eq!((owner(&table, "other").as_deref(), owner(&table, "rolled-back")), (Some("b"), None));
    assert_eq!(watcher.view.status().resyncs.get("incarnation"), Some(&1));
    watcher.stop().await;
}

#[tokio::test]
async fn a_bad_incarnation_costs_nothing_but_itself() {
    let mut etcd = Etcd::start().await;
    etcd.filled().await;
    etcd.put("incarnation", "3").await;
    let revision = etcd.put("incarnation", "three").await;
    etcd.put("incarnation", "3").await;
    let watcher = watch(&etcd);
    let before = until_revision(&watcher.view, revision + 1).await;
    assert!(before.id().as_str().ends_with("-3"));
    let revision = etcd.put("incarnation", "three").await;
    until_revision(&watcher.view, revision).await;
    etcd.restart().await;
    let revision = etcd.put("routes/orders/t1", r#"{"owner":"b"}"#).await;
    let table = until_revision(&watcher.view, revision).await;
    assert_eq!((table.id(), watcher.view.status().resyncs.len()), (before.id(), 0), "no new incarnation");
    assert_eq!(watcher.view.status().quarantined[0].key, format!("{PREFIX}/incarnation"));
    watcher.stop().await;
}

#[tokio::test]
async fn a_first_start_without_the_store_waits_for_it() {
    let mut etcd = Etcd::start().await;
    let revision = etcd.filled().await;
    etcd.kill();
    let watcher = watch(&etcd);
    let end = Instant::now() + LIMIT;
    while watcher.view.status().last_error.is_none() {
        assert!(Instant::now() < end, "the store's absence is told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(watcher.view.load_full().is_none() && !watcher.view.status().connected);
    assert!(watcher.view.status().last_error.unwrap().contains(&etcd.url()), "which endpoint");
    etcd.restart().await;
    until_revision(&watcher.view, revision).await;
    watcher.stop().await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_set_aside_and_the_store_is_listed() {
    let etcd = Etcd::start().await;
    let revision = etcd.filled().await;
    let path = etcd.directory.path().join("edge.snapshot");
    fs::write(&path, "neither whole nor ours").unwrap();
    let watcher = watch_with_snapshot(&etcd);
    assert!(watcher.view.load_full().is_none());
    until_revision(&watcher.view, revision).await;
    watcher.stop().await;
    assert!(etcd.directory.path().join("edge.snapshot.damaged").exists() && path.exists());
}

#[tokio::test]
async fn commands_read_and_swap_on_what_they_read() {
    let etcd = Etcd::start().await;
    etcd.filled().await;
    let GoldPlace::Etcd(place) = settings(&etcd.url(), None).place else { panic!("an etcd place was made") };
    let store = Store::connect(&place).await.unwrap();
    let found = store.get(b"routes/orders/t1").await.unwrap().unwrap();
    assert_eq!((found.key.as_slice(), found.value.as_slice()), (b"routes/orders/t1".as_slice(), br#"{"owner":"a"}"#.as_slice()));
    assert_eq!(store.list(b"upstreams/").await.unwrap().len(), 2);
    let change = Change { key: found.key.clone(), value: Some(br#"{"owner":"b"}"#.to_vec()), read_at: found.mod_revision };
    assert!(matches!(store.swap(std::slice::from_ref(&change), &[]).await.unwrap(), Swapped::Done(_)));
    let key = change.key.clone();
    assert_eq!(store.swap(&[change], &[]).await.unwrap(), Swapped::Moved(vec![key.clone()]), "the second swap read an older value");
    let create = Change { key: b"routes/orders/t1".to_vec(), value: Some(b"{}".to_vec()), read_at: 0 };
    assert_eq!(store.swap(&[create], &[]).await.unwrap(), Swapped::Moved(vec![key]), "the key is there already");
    let unset = Compare::version(format!("{PREFIX}/routes/orders/t9"), CompareOp::Equal, 0);
    assert!(etcd.client().await.kv_client().txn(Txn::new().when([unset])).await.unwrap().succeeded());

    let nowhere = EtcdPlace { endpoints: vec!["http://127.0.0.1:1".to_owned()], ..place };
    let error = Store::connect(&nowhere).await.unwrap_err();
    assert!(error.contains("http://127.0.0.1:1") && error.contains("--gold"), "{error}");
}

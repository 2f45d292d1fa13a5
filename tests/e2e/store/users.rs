//! A store with users: what a proxy's role must have, what is said where something is missing, and tokens that expire.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use etcd_client::{Client, ConnectOptions};
use tempfile::TempDir;
use waypost_tests::{Etcd, FaultProxy, PREFIX, Steady, Waypost, until, until_true};

use super::{Cells, checked::Checked, is_refused, moved, until_said};
use crate::scene::route;

/// How long a token lives: longer than a busy machine stands still between giving one and its first use, which one second is not.
const TTL: Duration = Duration::from_secs(2);
/// etcd forgets simple tokens once a second, and signed ones at a whole second.
const FORGETTING: Duration = Duration::from_secs(1);
/// Hashing a password is made cheap: it is not what is tested.
const CHEAP: [&str; 2] = ["--bcrypt-cost", "4"];

/// A user's name and its password in a file, as a proxy's flags.
pub(super) struct User {
    folder: TempDir,
    name: &'static str,
}

impl User {
    fn new(name: &'static str, password: &str) -> Self {
        let user = Self { folder: tempfile::tempdir().unwrap(), name };
        std::fs::write(user.path(), format!("{password}\n")).unwrap();
        user
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    pub(super) fn flags(&self) -> Vec<String> {
        ["--gold-user", self.name, "--gold-password-file", self.path().to_str().unwrap()].map(str::to_owned).to_vec()
    }
}

fn texts(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// A store with users, of whom `edge` has the rights of a proxy and no more.
pub(super) async fn with_users(flags: &[&str]) -> (Etcd, Cells, User) {
    let mut etcd = Etcd::with(&[&CHEAP[..], flags].concat()).await;
    let cells = Cells::of(&etcd).await;
    etcd.enable_auth().await;
    etcd.add_user("edge", "secret").await;
    etcd.grant("edge", &format!("{PREFIX}/"), false).await;
    etcd.grant("edge", &format!("{PREFIX}-state/fleet/edge-1"), true).await;
    (etcd, cells, User::new("edge", "secret"))
}

#[tokio::test]
async fn a_role_that_may_read_the_prefix_is_enough() {
    let (etcd, _cells, user) = with_users(&[]).await;
    let mut checked = Checked::start(&etcd, &texts(&user.flags())).await;
    let steady = Steady::start(&checked.waypost, &[("t1", "a"), ("t2", "c")]);
    moved(&etcd, &checked.waypost, &steady, "b", 2).await;
    checked.reads(&etcd, &steady).await;
    checked.waypost.equals(&[&["--gold", &etcd.url()][..], &texts(&user.flags())].concat()).await;
    let (status, _, said) =
        Waypost::run(&[&["route", "set", "orders", "t1", "--owner", "a", "--gold", &etcd.url()][..], &texts(&user.flags())].concat()).await;
    let wanted = ["edge", "write", "READWRITE", "/waypost/v1/"];
    assert!(status == 1 && wanted.iter().all(|word| said.contains(word)), "{status} {said}");
    steady.stop().await;
}

#[tokio::test]
async fn a_common_name_is_a_user() {
    let certificates = waypost_tests::Certificates::new();
    let mut etcd = Etcd::with_tls(&certificates, true, &CHEAP).await;
    let _cells = Cells::of(&etcd).await;
    etcd.enable_auth().await;
    etcd.add_user("edge-1", "unused").await;
    let own = certificates.sign("edge-1");
    let flags = [&["--gold-ca", certificates.ca.to_str().unwrap()][..], &own.flags()].concat();
    is_refused(&etcd.url(), &flags, &["certificate", "READ", "/waypost/v1/"]).await;
    etcd.grant("edge-1", &format!("{PREFIX}/"), false).await;
    let waypost = Waypost::start(&etcd.url(), &flags).await;
    let steady = Steady::start(&waypost, &[("t1", "a")]);
    moved(&etcd, &waypost, &steady, "b", 2).await;
    waypost.equals(&[&["--gold", &etcd.url()][..], &flags].concat()).await;
    steady.stop().await;
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let (etcd, _cells, _) = with_users(&[]).await;
    let open = Etcd::start().await;
    is_refused(&etcd.url(), &[], &["wants a user", "--gold-user"]).await;
    for user in [User::new("edge", "wrong"), User::new("nobody", "secret")] {
        let said = is_refused(&etcd.url(), &texts(&user.flags()), &[user.name, "password", "--gold-password-file"]).await;
        assert!(!said.contains("secret") && !said.contains("wrong"), "{said}");
    }
    is_refused(&open.url(), &texts(&User::new("edge", "secret").flags()), &["has no users", "--gold-user"]).await;
}

#[tokio::test]
async fn a_missing_right_names_itself_and_is_enough_once_it_is_granted() {
    let (etcd, _cells, _) = with_users(&[]).await;
    etcd.add_user("half", "secret").await;
    let user = User::new("half", "secret");
    let mut waypost = Waypost::new(&etcd.url(), &texts(&user.flags()));
    waypost.spawn();
    until("the admin endpoint answers", async || waypost_tests::Client::fetch(waypost.admin, "/healthz").await).await;
    let wanted = ["half", "READ", "/waypost/v1/"];
    until_said(&waypost, &wanted).await;
    // One key alone can be read; the watch needs all of them.
    etcd.grant("half", &format!("{PREFIX}/incarnation"), false).await;
    until_said(&waypost, &[&wanted[..], &["watch"]].concat()).await;
    etcd.grant("half", &format!("{PREFIX}/"), false).await;
    waypost.ready().await;
    assert_eq!(waypost.get("t1", "/").await.text(), "a");
}

#[tokio::test]
async fn a_right_that_is_taken_away_is_missed_and_found_again() {
    let (etcd, _cells, user) = with_users(&[]).await;
    let between = FaultProxy::start(etcd.address()).await;
    let waypost = Waypost::start(&between.url(), &texts(&user.flags())).await;
    let steady = Steady::start(&waypost, &[("t1", "a")]);
    etcd.revoke("edge", &format!("{PREFIX}/")).await;
    // etcd asks for rights when a watch is opened, not while it stands.
    between.cut();
    waypost.until_connected(false).await;
    between.pass();
    until_said(&waypost, &["edge", "READ", "/waypost/v1/"]).await;
    steady.may("t1", "b");
    let revision = etcd.put("routes/orders/t1", route("b", 2)).await;
    steady.more(20).await;
    assert_eq!(waypost.get("t1", "/").await.text(), "a", "what was known goes on being served");
    etcd.grant("edge", &format!("{PREFIX}/"), false).await;
    waypost.at(revision).await;
    assert_eq!(waypost.status().await["gold"][0]["resyncs"], 0, "resumed from the cursor");
    steady.stop().await;
}

/// Outlives several tokens, and reads, watches and reconnects with each.
async fn outlives_tokens(etcd: Etcd, user: &User) {
    let mut checked = Checked::start(&etcd, &texts(&user.flags())).await;
    let steady = Steady::start(&checked.waypost, &[("t1", "a"), ("t2", "c")]);
    for round in 0..2 {
        expired(&etcd).await;
        checked.reads(&etcd, &steady).await;
        moved(&etcd, &checked.waypost, &steady, if round % 2 == 0 { "b" } else { "a" }, 2 + round).await;
        expired(&etcd).await;
        checked.between.cut();
        checked.waypost.until_connected(false).await;
        checked.between.pass();
        checked.waypost.until_connected(true).await;
    }
    checked.waypost.equals(&[&["--gold", &etcd.url()][..], &texts(&user.flags())].concat()).await;
    assert_eq!(checked.waypost.status().await["gold"][0]["resyncs"], 0);
    steady.stop().await;
}

/// Waits until every token has expired that was given before: one that was given now is refused.
async fn expired(etcd: &Etcd) {
    let (given, options) = (Instant::now(), ConnectOptions::new().with_user("edge", "secret"));
    let client = Client::connect([etcd.url()], Some(options)).await.unwrap();
    // Each use of a simple token makes it young again.
    until_true("its time has passed", async || given.elapsed() > TTL + FORGETTING).await;
    let key = format!("{PREFIX}/incarnation");
    until_true("the token is refused", async || client.kv_client().get(&*key, None).await.is_err()).await;
}

#[tokio::test]
async fn a_password_that_is_replaced_is_read_anew() {
    let (etcd, _cells, user) = with_users(&[]).await;
    let mut checked = Checked::start(&etcd, &texts(&user.flags())).await;
    let steady = Steady::start(&checked.waypost, &[("t1", "a"), ("t2", "c")]);
    std::fs::write(user.path(), "another").unwrap();
    // That ends all of the user's tokens.
    etcd.client().await.auth_client().user_change_password("edge", "another").await.unwrap();
    checked.reads(&etcd, &steady).await;
    checked.between.cut();
    checked.waypost.until_connected(false).await;
    checked.between.pass();
    moved(&etcd, &checked.waypost, &steady, "b", 2).await;
    steady.stop().await;
}

fn jwt(folder: &TempDir, lives: Duration) -> [String; 2] {
    let key = folder.path().join("key");
    std::fs::write(&key, [7; 64]).unwrap();
    ["--auth-token".to_owned(), format!("jwt,priv-key={},sign-method=HS256,ttl={}s", key.display(), lives.as_secs())]
}

#[tokio::test]
async fn simple_and_signed_tokens_expire_without_anybody_s_noticing() {
    let folder = tempfile::tempdir().unwrap();
    let jwt = jwt(&folder, TTL);
    let simple = async {
        let (etcd, _cells, user) = with_users(&["--auth-token-ttl", &TTL.as_secs().to_string()]).await;
        outlives_tokens(etcd, &user).await;
    };
    let signed = async {
        let (etcd, _cells, user) = with_users(&texts(&jwt)).await;
        outlives_tokens(etcd, &user).await;
    };
    // Most of it is waiting for tokens to expire.
    tokio::join!(simple, signed);
}

#[tokio::test]
async fn a_signed_token_from_before_a_change_of_any_user_s_rights_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (etcd, _cells, user) = with_users(&texts(&jwt(&folder, Duration::from_secs(600)))).await;
    let mut checked = Checked::start(&etcd, &texts(&user.flags())).await;
    let steady = Steady::start(&checked.waypost, &[("t1", "a"), ("t2", "c")]);
    etcd.add_user("somebody", "else").await;
    checked.reads(&etcd, &steady).await;
    steady.stop().await;
}

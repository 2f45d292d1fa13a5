//! One lane: a proxy, owners on one port whose every address is another case's, and all that was seen of a course of cases.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use waypost_tests::{Etcd, Peer, RawBackend, SecureClient, Waypost};

use super::{
    case::{Act, Case, OK, Then, Way},
    http2,
    message::{self, End, Kind, Message},
};

/// What came to owners, case by case: who it was, and what.
type Owned = Arc<Mutex<Vec<Vec<(&'static str, Message)>>>>;

/// What was seen of one case.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) owner: Vec<(&'static str, Message)>,
    pub(super) client: Vec<Message>,
    /// Behind the last answer.
    pub(super) behind: Vec<u8>,
}

/// One lane.
pub(super) struct Lane {
    pub(super) waypost: Waypost,
    owned: Owned,
    cases: Arc<Vec<Case>>,
    /// The incarnation of its store, as claims name it.
    table: Arc<str>,
    secure: Option<SecureClient>,
    is_http2: bool,
    owners: RawBackend,
    _etcd: Option<Etcd>,
    _folder: tempfile::TempDir,
}

/// What its proxy is like.
#[derive(Clone, Default)]
pub(super) struct Setting<'a> {
    pub(super) is_general: bool,
    /// Lines of the listener's section.
    pub(super) listener: String,
    /// More of each upstream's record.
    pub(super) upstream: Value,
    pub(super) has_etcd: bool,
    /// Its clients speak HTTP/2.
    pub(super) is_http2: bool,
    pub(super) secure: Option<&'a SecureClient>,
    /// More records.
    pub(super) records: Vec<(String, Value)>,
}

fn records(setting: &Setting<'_>, count: usize, port: u16) -> Vec<(String, Value)> {
    let mut records = vec![("policies/default".to_owned(), json!({ "timeouts": { "header_ms": 5000, "first_byte_ms": 60_000 } }))];
    let short = json!({ "header_ms": 900, "connect_ms": 600, "first_byte_ms": 700, "idle_ms": 1100 });
    records.push(("policies/short".to_owned(), json!({ "timeouts": short })));
    records.push(("policies/limit".to_owned(), json!({ "limits": { "body_bytes": 10 } })));
    records.push(("policies/redirect".to_owned(), json!({ "on_stale": "redirect" })));
    let key = json!({ "header": "x-case" });
    records.push(("services/web".to_owned(), json!({ "match": [{}], "key": key })));
    for policy in ["short", "limit", "redirect"] {
        let service = json!({ "match": [{ "path_prefix": format!("/{policy}") }], "key": key, "policy": policy });
        records.push((format!("services/{policy}"), service));
    }
    for number in 0..count {
        for (owner, first) in [("a", 1), ("b", 101)] {
            let (high, low) = (number / 200, number % 200 + 1);
            let mut upstream = json!({ "endpoints": [{ "address": format!("127.{first}.{high}.{low}:{port}") }] });
            if let (Value::Object(into), Value::Object(more)) = (&mut upstream, setting.upstream.clone()) {
                into.extend(more);
            }
            upstream["public_url"] = json!(format!("http://{owner}{number}.example.com"));
            records.push((format!("upstreams/{owner}{number}"), upstream));
        }
        for service in ["web", "short", "limit", "redirect"] {
            records.push((format!("routes/{service}/{number}"), json!({ "owner": format!("a{number}"), "epoch": 5 })));
        }
    }
    records.extend(setting.records.iter().cloned());
    records
}

/// Which owner is at an address, of which case.
fn owner_at(address: IpAddr) -> (&'static str, usize) {
    let IpAddr::V4(address) = address else { return ("nobody", usize::MAX) };
    let [_, owner, high, low] = address.octets();
    (if owner == 1 { "a" } else { "b" }, usize::from(high) * 200 + usize::from(low) - 1)
}

impl Lane {
    pub(super) async fn start(setting: Setting<'_>, cases: Arc<Vec<Case>>) -> Self {
        let owned: Owned = Arc::new(Mutex::new(vec![Vec::new(); cases.len()]));
        let table = Arc::new(Mutex::new(Arc::<str>::from("file-0")));
        let (all, into, of_table) = (Arc::clone(&cases), Arc::clone(&owned), Arc::clone(&table));
        let owners = RawBackend::start_at("0.0.0.0:0", move |peer, _| {
            let table = Arc::clone(&of_table.lock().unwrap());
            own(peer, Arc::clone(&all), Arc::clone(&into), table)
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = folder.path().join("waypost.toml");
        let listener = &setting.listener;
        std::fs::write(&bootstrap, format!("[[listener]]\naddress = \"127.0.0.1:1\"\n{listener}\n")).unwrap();
        let records = records(&setting, cases.len(), owners.address.port());
        let etcd = if setting.has_etcd { Some(Etcd::start().await) } else { None };
        let gold = match &etcd {
            Some(etcd) => {
                let borrowed: Vec<(&str, Value)> = records.iter().map(|(key, value)| (&**key, value.clone())).collect();
                for some in borrowed.chunks(100) {
                    etcd.put_all(some).await;
                }
                etcd.url()
            }
            None => {
                let file = folder.path().join("records.json");
                std::fs::write(&file, json!(serde_json::Map::from_iter(records)).to_string()).unwrap();
                format!("file:{}", file.display())
            }
        };
        let config = ["--config", bootstrap.to_str().unwrap()];
        let extra = if setting.is_general { [&config[..], &["--no-express"]].concat() } else { config.to_vec() };
        let waypost = Waypost::start(&gold, &extra).await;
        if etcd.is_some() {
            let gold = waypost.until_connected(true).await;
            *table.lock().unwrap() = gold["table"].as_str().unwrap().into();
        }
        let table = table.lock().unwrap().clone();
        let (secure, is_http2) = (setting.secure.cloned(), setting.is_http2);
        Self { waypost, owned, cases, table, secure, is_http2, owners, _etcd: etcd, _folder: folder }
    }

    /// Plays a case.
    pub(super) async fn play(&self, number: usize) -> Seen {
        let case = &self.cases[number];
        let sent = case.sent(number);
        if self.is_http2 {
            let client = http2::play(self.waypost.listen, &sent).await;
            return Seen { owner: Vec::new(), client, behind: Vec::new() };
        }
        let bytes = match &self.secure {
            Some(secure) => {
                let mut client = secure.connect(self.waypost.listen, "localhost").await.unwrap();
                client.exchange(&sent.concat()).await
            }
            None => send(self.waypost.listen, case, &sent).await,
        };
        let (client, behind) = message::answers(&bytes, &case.methods());
        Seen { owner: Vec::new(), client, behind }
    }

    /// What owners saw of a case.
    pub(super) fn owned(&self, number: usize) -> Vec<(&'static str, Message)> {
        self.owned.lock().unwrap()[number].clone()
    }

    /// The lines of its access log, with the number of the case.
    pub(super) fn logged(&self) -> Vec<(Option<usize>, Value)> {
        let lines = self.waypost.access_log().into_iter();
        lines.map(|line| (line["key"].as_str().and_then(|key| key.parse().ok()), line)).collect()
    }

    /// Where its owners listen.
    pub(super) fn port(&self) -> u16 {
        self.owners.address.port()
    }

    /// What claims of its table say instead of `TABLE`.
    pub(super) fn table(&self) -> &str {
        &self.table
    }
}

async fn send(to: std::net::SocketAddr, case: &Case, requests: &[Vec<u8>]) -> Vec<u8> {
    let mut client = Peer::connect(to).await;
    let bytes = requests.concat();
    match case.way {
        Way::AtOnce if case.then == Then::Reads => {
            client.send_and_read(&bytes).await;
        }
        Way::AtOnce => _ = client.send(&bytes).await,
        Way::Bytewise => _ = client.send_bytewise(&bytes).await,
        Way::Parts(seed) => {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let mut left = &bytes[..];
            while !left.is_empty() {
                let (part, rest) = left.split_at(rng.usize(1..=left.len()));
                left = rest;
                if !client.send(part).await {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        Way::InTurn => {
            for count in 1..=requests.len() {
                client.send(&requests[count - 1]).await;
                let has_come = |bytes: &[u8]| {
                    let (answers, _) = message::answers(bytes, &case.methods());
                    answers.iter().filter(|answer| !answer.is_interim() && answer.end == End::Whole).count() >= count
                };
                while !has_come(&client.received().bytes) {
                    if client.some().await.is_none() {
                        break;
                    }
                }
            }
        }
    }
    match case.then {
        Then::Leaves => return Vec::new(),
        Then::Resets => {
            client.reset();
            return Vec::new();
        }
        Then::Finishes => client.finish_sending().await,
        Then::Reads => {}
    }
    while client.some().await.is_some() {}
    client.received().bytes
}

/// An owner's connection.
async fn own(mut peer: Peer, cases: Arc<Vec<Case>>, owned: Owned, table: Arc<str>) {
    let (who, number) = owner_at(peer.address().ip());
    let Some(case) = cases.get(number) else { return };
    let mut bytes = Vec::new();
    loop {
        let first = loop {
            if let Some((message, _)) = Message::read(&bytes, Kind::Request) {
                break message;
            }
            match peer.some().await {
                Some(more) => bytes.extend(more),
                None => return,
            }
        };
        let is_next = first.first.contains(" /next ");
        let at = {
            let of_case = &mut owned.lock().unwrap()[number];
            of_case.push((who, first));
            of_case.len() - 1
        };
        // Notes what has come; how much it is, if it is whole.
        let note = |bytes: &[u8]| {
            let (message, taken) = Message::read(bytes, Kind::Request)?;
            let is_whole = message.end == End::Whole;
            owned.lock().unwrap()[number][at].1 = message;
            is_whole.then_some(taken)
        };
        let plain = super::case::answers(OK);
        let acts = match who {
            _ if is_next => &plain,
            "a" => &case.owner,
            _ => &case.next_owner,
        };
        for act in acts {
            match act {
                Act::Body => {
                    while note(&bytes).is_none() {
                        let Some(more) = peer.some().await else { return };
                        bytes.extend(more);
                    }
                }
                Act::Send(answer) => {
                    if !peer.send(with_table(answer, number, &table)).await {
                        return;
                    }
                }
                Act::SendBytewise(answer) => {
                    if !peer.send_bytewise(&with_table(answer, number, &table)).await {
                        return;
                    }
                }
                Act::Close => return,
                Act::Finish => peer.finish_sending().await,
                Act::Reset => return peer.reset(),
                Act::Hang => {
                    while let Some(more) = peer.some().await {
                        bytes.extend(more);
                        note(&bytes);
                    }
                    return;
                }
            }
        }
        loop {
            if let Some(taken) = note(&bytes) {
                bytes.drain(..taken);
                break;
            }
            match peer.some().await {
                Some(more) => bytes.extend(more),
                None => return,
            }
        }
    }
}

/// A claim with the number of its case and the incarnation of its store.
fn with_table(answer: &[u8], number: usize, table: &str) -> Vec<u8> {
    if !answer.windows(5).any(|window| window == b"TABLE") {
        return answer.to_vec();
    }
    let claim = message::text(answer).replace("TABLE", table).replace("NUMBER", &number.to_string());
    claim.chars().map(|letter| letter as u8).collect()
}

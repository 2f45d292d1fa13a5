//! `waypost check --against ADMIN`: proves that a proxy's table is what the store has, or lists what differs.
//!
//! The store is listed at the very revision that the table reflects, and summed up by the code that the proxy itself uses: equal digests
//! are the proof, however busy the store is. Only where they differ is the proxy asked for every key. A history that has been compacted
//! away can't be listed: then the present revision is compared, once the proxy has reached it.

use std::{collections::HashMap, time::Duration};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use waypost_conf::{Record, RecordKey, decode, escaped};
use waypost_policy::TableId;
use waypost_watcher::{
    EtcdPlace, GoldPlace,
    record::digest,
    store::{ListFault, Pinned, Store},
};

use super::print;
use crate::{
    admin_client::Admin,
    cli::CheckArgs,
    failure::{Failed, Outcome},
    gold,
};

/// How often a proxy or a store that has moved on meanwhile is followed.
const TRIES: usize = 5;
/// How long a proxy may take to reach the store's revision where its own can't be listed any more.
const REACH_LIMIT: Duration = Duration::from_secs(10);
const REACH_POLL: Duration = Duration::from_millis(100);
/// How many differences, quarantined keys and held keys are said, of each; the others are counted.
const MAX_LINES: usize = 100;

/// A proxy's table.
#[derive(Clone, Debug)]
struct Table {
    id: String,
    revision: u64,
    digest: String,
    /// Each key with its mod_revision, digest, and whether it is held back; asked for only when something differs.
    keys: Option<HashMap<String, (u64, String, bool)>>,
}

/// The store at one revision.
struct Listed {
    pinned: Pinned,
    id: TableId,
    digest: u128,
    keys: Vec<(Vec<u8>, u64, u128)>,
}

/// One key that differs.
struct Difference {
    key: String,
    what: &'static str,
    proxy: Option<u64>,
    store: Option<u64>,
}

/// What a comparison came to.
struct Compared {
    table: Table,
    listed: Listed,
    /// The table's own revision could not be listed any more.
    compacted: bool,
    /// Empty where the digests are equal.
    differences: Vec<Difference>,
    status: Value,
}

/// Runs the command.
pub(super) fn run(admin: &str, args: &CheckArgs) -> Outcome {
    let bootstrap = gold::bootstrap(&args.gold)?;
    let place = match gold::place(&args.gold, &bootstrap.content)? {
        GoldPlace::Etcd(place) => place,
        GoldPlace::File(path) => {
            return Err(Failed::unusable(format!(
                "--against compares with an etcd, and the gold copy named here is the file {}; a file has no history to compare with, so name \
                 an etcd with --gold http://host:2379",
                path.display()
            )));
        }
    };
    let admin = Admin::at(admin, args.admin_token_file.as_deref())?;
    let compared = print::runtime()?.block_on(compare(&admin, &place))?;
    report(args, &place, &compared)
}

async fn compare(admin: &Admin, place: &EtcdPlace) -> Result<Compared, Failed> {
    let status = ask_status(admin).await?;
    check_place(admin, &status, place)?;
    let mut table = Table::of(admin, &status)?;
    let store = Store::connect(place).await.map_err(Failed::not_done)?;
    for _ in 0..TRIES {
        let (listed, compacted) = list(&store, &table, admin, place).await?;
        if listed.is(&table) {
            return Ok(Compared { table, listed, compacted, differences: Vec::new(), status });
        }
        if compacted && let Some(reached) = wait_for(admin, &table, listed.pinned.revision).await? {
            table = reached;
            continue;
        }
        if table.keys.is_none() {
            table = ask_records(admin).await?;
        }
        // A table that has moved on meanwhile is compared with the store at its new revision.
        if compacted || table.revision == listed.pinned.revision {
            let differences = differences(&table, &listed);
            return Ok(Compared { table, listed, compacted, differences, status });
        }
    }
    Err(Failed::not_done(format!(
        "the proxy at {admin} and the store move on faster than they can be compared ({TRIES} tries); try again when less is written"
    )))
}

/// What can't be compared is said before anything is read.
fn check_place(admin: &Admin, status: &Value, place: &EtcdPlace) -> Result<(), Failed> {
    let gold = &status["gold"][0];
    if gold["source"] == "file" {
        let file = gold["endpoint"].as_str().unwrap_or_default();
        return Err(Failed::not_done(format!(
            "the gold copy of the proxy at {admin} is the file {file}: there is no store to compare its table with; waypost check {file} \
             validates the file"
        )));
    }
    match gold["prefix"].as_str() {
        Some(prefix) if prefix != place.prefix => Err(Failed::not_done(format!(
            "the proxy at {admin} follows the prefix {prefix}, not {}; --prefix {prefix} would be right",
            place.prefix
        ))),
        _ => Ok(()),
    }
}

/// The store at the table's revision, or, if that has been compacted away, at the present one (then true).
async fn list(store: &Store, table: &Table, admin: &Admin, place: &EtcdPlace) -> Result<(Listed, bool), Failed> {
    let endpoints = place.endpoints.join(",");
    let read = Listed::read(store, Some(table.revision)).await;
    let (listed, is_ahead) = match &read {
        Ok(_) | Err(ListFault::Unreadable(_)) => (read, false),
        // Whose store it is comes first: revisions of two stores have nothing to do with one another.
        Err(fault) => (Listed::read(store, None).await, *fault == ListFault::Ahead),
    };
    let listed = listed.map_err(Failed::not_done)?;
    if listed.id.as_str() != table.id {
        return Err(Failed::not_done(format!(
            "the proxy at {admin} follows another store: its table is {}, that of {endpoints} is {}; name the proxy's with --gold",
            table.id, listed.id
        )));
    }
    if is_ahead {
        return Err(Failed::not_done(format!(
            "the store at {endpoints} has not come to revision {}, which the proxy's table reflects: this member lags, or the store was \
             restored from a backup without raising <prefix>/incarnation",
            table.revision
        )));
    }
    let compacted = listed.pinned.revision != table.revision;
    Ok((listed, compacted))
}

/// The table once it has reached a revision; `None` if it does not in time.
async fn wait_for(admin: &Admin, table: &Table, revision: u64) -> Result<Option<Table>, Failed> {
    if table.revision >= revision {
        return Ok(None);
    }
    let ends = tokio::time::Instant::now() + REACH_LIMIT;
    while tokio::time::Instant::now() < ends {
        let now = Table::of(admin, &ask_status(admin).await?)?;
        if now.revision >= revision {
            return Ok(Some(now));
        }
        tokio::time::sleep(REACH_POLL).await;
    }
    Ok(None)
}

async fn ask_status(admin: &Admin) -> Result<Value, Failed> {
    let answer = admin.fetch(Method::GET, "/status", &[], b"").await.map_err(|why| not_asked(admin, &why))?;
    let body = Some(&answer.body).filter(|_| answer.status == StatusCode::OK);
    let status: Option<Value> = body.and_then(|body| serde_json::from_slice(body).ok()).filter(|status: &Value| status["gold"].is_array());
    status.ok_or_else(|| not_asked(admin, &format!("it answers {} for /status, as no proxy does", answer.status)))
}

fn not_asked(admin: &Admin, why: &str) -> Failed {
    Failed::not_done(format!("the proxy's admin endpoints at {admin} can't be asked: {why}; --against names them, as in 127.0.0.1:9901"))
}

async fn ask_records(admin: &Admin) -> Result<Table, Failed> {
    let mut table = None;
    let mut keys = HashMap::new();
    let mut count = None;
    let read = admin.lines("/records", |line| {
        let line: Value = serde_json::from_slice(line).map_err(|_| "a line is not JSON".to_owned())?;
        if let Some(key) = line["key"].as_str() {
            let digest = line["digest"].as_str().unwrap_or_default().to_owned();
            keys.insert(key.to_owned(), (line["mod_revision"].as_u64().unwrap_or(0), digest, line["state"] == "held_back"));
        } else if let Some(records) = line["records"].as_u64() {
            count = Some(records);
        } else {
            table = Table::from_parts(&line["table"], &line["revision"], &line["digest"]);
        }
        Ok(())
    });
    read.await.map_err(|why| not_asked(admin, &why))?;
    match (table, count) {
        (Some(table), Some(_)) => Ok(Table { keys: Some(keys), ..table }),
        _ => Err(not_asked(admin, "its records ended in the middle")),
    }
}

impl Table {
    fn of(admin: &Admin, status: &Value) -> Result<Self, Failed> {
        let gold = &status["gold"][0];
        Self::from_parts(&gold["table"], &gold["revision"], &status["table"]["digest"])
            .ok_or_else(|| Failed::not_done(format!("the proxy at {admin} has no table in force yet")))
    }

    fn from_parts(id: &Value, revision: &Value, digest: &Value) -> Option<Self> {
        Some(Self { id: id.as_str()?.to_owned(), revision: revision.as_u64()?, digest: digest.as_str()?.to_owned(), keys: None })
    }
}

impl Listed {
    async fn read(store: &Store, revision: Option<u64>) -> Result<Self, ListFault> {
        let (mut keys, mut sum, mut incarnation) = (Vec::new(), 0_u128, 0);
        let pinned = store
            .list_at(revision, |stored| {
                let one = digest(&stored.key, stored.mod_revision, &stored.value);
                sum = sum.wrapping_add(one);
                if let (Ok(RecordKey::Incarnation), Ok(decoded)) =
                    (RecordKey::parse(&stored.key), decode(&RecordKey::Incarnation, &stored.value))
                    && let Record::Incarnation(value) = decoded.record
                {
                    incarnation = value;
                }
                keys.push((stored.key, stored.mod_revision, one));
            })
            .await?;
        Ok(Self { pinned, id: TableId::etcd(pinned.cluster_id, incarnation), digest: sum, keys })
    }

    fn is(&self, table: &Table) -> bool {
        hex(self.digest) == table.digest
    }
}

fn hex(digest: u128) -> String {
    format!("{digest:032x}")
}

/// What differs, by key.
fn differences(table: &Table, listed: &Listed) -> Vec<Difference> {
    let mut known = table.keys.clone().unwrap_or_default();
    let mut found = Vec::new();
    for (key, mod_revision, digest) in &listed.keys {
        let key = escaped(key);
        let store = Some(*mod_revision);
        let (what, proxy) = match known.remove(&key) {
            None => ("missing in the proxy", None),
            Some((proxy, _, true)) => ("held back in the proxy, but in the store", Some(proxy)),
            Some((proxy, ..)) if proxy != *mod_revision => ("of another revision", Some(proxy)),
            Some((proxy, other, _)) if other != hex(*digest) => ("of another value", Some(proxy)),
            Some(_) => continue,
        };
        found.push(Difference { key, what, proxy, store });
    }
    let extra = known.into_iter().filter(|(_, (.., is_held))| !is_held);
    found.extend(extra.map(|(key, (proxy, ..))| Difference { key, what: "not in the store", proxy: Some(proxy), store: None }));
    found.sort_by(|one, other| one.key.cmp(&other.key));
    found
}

fn report(args: &CheckArgs, place: &EtcdPlace, compared: &Compared) -> Outcome {
    let Compared { table, listed, compacted, differences, status } = compared;
    let equal = listed.is(table);
    let quarantined: Vec<&Value> = status["quarantined"].as_array().into_iter().flatten().collect();
    let held: Vec<&Value> = status["held_back"].as_array().into_iter().flatten().collect();
    if args.json {
        let told = differences
            .iter()
            .take(MAX_LINES)
            .map(|one| json!({ "key": format!("{}/{}", place.prefix, one.key), "what": one.what, "proxy": one.proxy, "store": one.store }));
        print::json(&json!({
            "equal": equal, "revision": table.revision, "compared_at": listed.pinned.revision, "store_revision": listed.pinned.store_revision,
            "compacted": compacted, "table": table.id, "digest": { "proxy": table.digest, "store": hex(listed.digest) },
            "records": listed.keys.len(), "differences": told.collect::<Vec<_>>(), "difference_count": differences.len(),
            "quarantined": quarantined, "held_back": held,
        }));
    } else {
        show(place, differences, &quarantined, &held);
    }
    let place = place.endpoints.join(",");
    let records = print::count(listed.keys.len(), "record");
    if *compacted {
        let Pinned { revision, .. } = listed.pinned;
        let late = if table.revision < revision && !equal { ", which it has not reached: what differs may only be late" } else { "" };
        eprintln!("waypost: the store's history at the table's revision has been compacted away: compared at revision {revision}{late}");
    }
    if equal {
        let behind = if listed.pinned.store_revision > table.revision {
            format!("; the store is at revision {} by now", listed.pinned.store_revision)
        } else {
            String::new()
        };
        eprintln!("waypost: equal: {records} of table {} at revision {}, digest {}{behind}", table.id, table.revision, table.digest);
        return Ok(());
    }
    let count = if differences.is_empty() {
        "the digests differ although no key does: a fault of the proxy's, please report it".to_owned()
    } else {
        print::count(differences.len(), "difference")
    };
    eprintln!(
        "waypost: not equal: {count}; {records} in the store at {place} at revision {}, digest {}; the proxy's is {} at revision {}",
        listed.pinned.revision,
        hex(listed.digest),
        table.digest,
        table.revision
    );
    Err(Failed::said(1))
}

fn show(place: &EtcdPlace, differences: &[Difference], quarantined: &[&Value], held: &[&Value]) {
    let revision = |of: Option<u64>| of.map_or_else(|| "none".to_owned(), |revision| revision.to_string());
    some(differences, |one| {
        let (proxy, store) = (revision(one.proxy), revision(one.store));
        format!("differs      {}/{}: {} (proxy: {proxy}, store: {store})", place.prefix, one.key, one.what)
    });
    let text = |value: &Value| escaped(value.as_str().unwrap_or_default().as_bytes());
    some(quarantined, |bad| format!("quarantined  {} at revision {}: {}", text(&bad["key"]), bad["revision"], text(&bad["reason"])));
    some(held, |key| format!("held back    {}/{}: in force, although the store has deleted it", place.prefix, text(key)));
}

/// A line for each, up to the limit, then how many more there are.
fn some<T>(all: &[T], line: impl Fn(&T) -> String) {
    all.iter().take(MAX_LINES).for_each(|one| print::line(line(one)));
    if all.len() > MAX_LINES {
        print::line(format_args!("…and {} more", all.len() - MAX_LINES));
    }
}

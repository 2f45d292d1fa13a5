//! The gold copy that the backend under test follows: an etcd of the command's own, or a fresh prefix of a given one.
//!
//! Nothing that was there before is touched, and what was put is taken away again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use waypost_owner::Announcement;
use waypost_watcher::{
    EtcdPlace, GoldPlace, Settings, Watcher,
    store::{Change, Store, Swapped},
    transactions::MAX_TXN_OPERATIONS,
};

use crate::{cli::ConformArgs, failure::Failed, gold, local_etcd::LocalEtcd, until::until};

const VIEW_LIMIT: Duration = Duration::from_secs(15);

/// It.
pub(super) struct World {
    pub(super) place: EtcdPlace,
    store: Store,
    /// What processes report, beside the records.
    reports: Store,
    /// Whatever was put.
    put: BTreeSet<Vec<u8>>,
    /// The incarnation of the store.
    pub(super) table: String,
    own: Option<(LocalEtcd, TempDir)>,
}

/// What one instance of the backend says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// The announcement, or why it can't be read.
    pub(super) said: Result<Announcement, String>,
    /// Whether it goes when its process has ended.
    pub(super) is_leased: bool,
}

impl World {
    /// Starts an etcd, or makes sure that there is nothing yet where the given one is to be used.
    pub(super) async fn start(args: &ConformArgs) -> Result<Self, Failed> {
        let mut own = None;
        let place = if args.gold.gold.is_some() || args.gold.config.is_some() {
            let fresh = || Some(format!("/waypost-conform-{:08x}", fastrand::u32(..)));
            let args = crate::cli::GoldArgs { prefix: args.gold.prefix.clone().or_else(fresh), ..args.gold.clone() };
            gold::store_place(&args)?
        } else {
            let folder = tempfile::Builder::new().prefix("waypost-conform-").tempdir();
            let folder = folder.map_err(|error| Failed::not_done(format!("no folder could be made: {error}")))?;
            let mut etcd = LocalEtcd::new(folder.path()).map_err(Failed::not_done)?;
            etcd.start().await.map_err(Failed::not_done)?;
            let place = etcd.place();
            own = Some((etcd, folder));
            place
        };
        let beside = EtcdPlace { prefix: format!("{}-state", place.prefix), ..place.clone() };
        let store = Store::connect(&place).await.map_err(Failed::not_done)?;
        let reports = Store::connect(&beside).await.map_err(Failed::not_done)?;
        if let Some(there) = store.keys(b"").await.map_err(Failed::not_done)?.first() {
            let key = waypost_conf::escaped(there);
            return Err(Failed::unusable(format!(
                "--prefix {}: there are records below it already, {key} for one; a prefix of nobody's, or none, would be right",
                place.prefix
            )));
        }
        let table = table(&place).await.map_err(Failed::not_done)?;
        Ok(Self { place, store, reports, put: BTreeSet::new(), table, own })
    }

    /// Puts records, all in one transaction where they fit in one; the revision of the last.
    pub(super) async fn put(&mut self, records: &[(Vec<u8>, Value)]) -> Result<u64, String> {
        let mut revision = 0;
        for batch in records.chunks(MAX_TXN_OPERATIONS) {
            let keys: Vec<Vec<u8>> = batch.iter().map(|(key, _)| key.clone()).collect();
            let found = self.store.get_many(&keys).await?.records;
            let changes = batch.iter().zip(found).map(|((key, value), found)| Change {
                key: key.clone(),
                value: Some(value.to_string().into_bytes()),
                read_at: found.map_or(0, |found| found.mod_revision),
            });
            revision = self.swap(changes.collect()).await?;
            self.put.extend(keys);
        }
        Ok(revision)
    }

    async fn swap(&self, changes: Vec<Change>) -> Result<u64, String> {
        match self.store.swap(&changes, &[]).await.map_err(|fault| fault.message)? {
            Swapped::Done(revision) => Ok(revision),
            Swapped::Moved(_) => Err(format!("somebody else writes below {}", self.place.prefix)),
        }
    }

    /// The backend's instances, by id.
    pub(super) async fn announced(&self, upstream: &str) -> Result<BTreeMap<String, Announced>, String> {
        let start = format!("owners/{upstream}/");
        let found = self.reports.list(start.as_bytes()).await?;
        let instances = found.into_iter().map(|stored| {
            let id = String::from_utf8_lossy(stored.key.get(start.len()..).unwrap_or_default()).into_owned();
            let said = serde_json::from_slice(&stored.value)
                .map_err(|error| format!("{error}; {{\"applied\": REVISION, \"busy\": [{{\"service\": …, \"key\": …}}]}} would be right"));
            (id, Announced { said, is_leased: stored.leased })
        });
        Ok(instances.collect())
    }

    /// Takes away what was put, and ends what was started.
    pub(super) async fn end(mut self) -> Result<(), String> {
        if let Some((etcd, _folder)) = &mut self.own {
            return etcd.kill().await;
        }
        let keys: Vec<Vec<u8>> = self.put.iter().cloned().collect();
        for batch in keys.chunks(MAX_TXN_OPERATIONS) {
            let found = self.store.get_many(batch).await?.records;
            let changes = batch
                .iter()
                .zip(found)
                .filter_map(|(key, found)| Some(Change { key: key.clone(), value: None, read_at: found?.mod_revision }));
            self.swap(changes.collect()).await?;
        }
        Ok(())
    }
}

/// The incarnation of the store, as whoever watches the prefix computes it.
async fn table(place: &EtcdPlace) -> Result<String, String> {
    let settings = Settings::new(GoldPlace::Etcd(place.clone()), fastrand::u64(..), Instant::now());
    let watcher: Watcher = waypost_watcher::start(settings)?;
    let view = watcher.view.clone();
    let seen = until("the gold copy could not be followed", VIEW_LIMIT, async || Some(view.load_full()?.id().as_str().to_owned())).await;
    watcher.stop().await;
    seen
}

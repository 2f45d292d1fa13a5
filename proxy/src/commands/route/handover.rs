//! One key's handover, step by step (STALE-ROUTES.md, "Handover"): freeze, wait until the old owner has let go, commit.
//!
//! What always holds: the new owner is committed only by compare and swap on the record that froze the key, and only after every known
//! instance of the old owner has said that it judges by that record and serves nothing of the key any more. Not in time, the key
//! is given back to the old owner.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use waypost_conf::{Name, Record, RecordKey, Route, RouteState};
use waypost_owner::Announcement;
use waypost_watcher::{
    EtcdPlace,
    leased::Leased,
    store::{Change, Store, Swapped},
};

/// How long the old owner may take to let go; below `park_ms`, so that the clients that wait meanwhile are served.
const LET_GO_LIMIT: Duration = Duration::from_millis(500);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How often a key is frozen before the move is given up, and the pause between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// How long a move's mark outlives its mover.
const MARKED_FOR: Duration = Duration::from_secs(10);

/// What a mover works with.
pub(super) struct Mover {
    pub(super) place: EtcdPlace,
    /// The records.
    pub(super) store: Store,
    /// What processes report, beside them.
    pub(super) reports: Store,
    /// Instances of the old owner that are known to be dead, whatever they have announced.
    pub(super) assume_dead: Vec<String>,
    /// Whether a move is made although no instance of the old owner, or of the new one, has announced itself.
    pub(super) force: bool,
}

/// A move that was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    /// The revision of the commit.
    pub(super) revision: u64,
    /// How often the key was frozen.
    pub(super) tries: u32,
    /// The freeze, the wait, and the commit of the last try.
    pub(super) took: [Duration; 3],
}

/// How a step ended that did not lead on.
#[derive(Debug)]
enum Halt {
    /// It may be tried again.
    NotLetGo(String),
    /// It is given up.
    Failed(String),
}

impl Mover {
    /// The instances of an upstream that have announced themselves, by id.
    pub(super) async fn instances(&self, upstream: &Name) -> Result<BTreeMap<String, Announcement>, String> {
        let start = format!("owners/{upstream}/");
        let found = self.reports.list(start.as_bytes()).await?;
        let instances = found.into_iter().map(|stored| {
            let id = String::from_utf8_lossy(stored.key.get(start.len()..).unwrap_or_default()).into_owned();
            // What can't be read says nothing: it has applied nothing.
            (id, serde_json::from_slice(&stored.value).unwrap_or_default())
        });
        Ok(instances.filter(|(id, _)| !self.assume_dead.contains(id)).collect())
    }

    /// Why a move may not begin, if it may not.
    pub(super) async fn check(&self, from: &Name, to: &Name) -> Result<(), String> {
        if self.store.get(&RecordKey::Upstream(to.clone()).suffix()).await?.is_none() {
            return Err(format!("there is no upstreams/{to}; put it first"));
        }
        for (upstream, role) in [(from, "old"), (to, "new")] {
            if !self.force && self.instances(upstream).await?.is_empty() {
                return Err(format!(
                    "no instance of the {role} owner \"{upstream}\" has announced itself: whether it has let go can't be known; --force moves \
                     all the same, which is safe only if no process of \"{from}\" runs"
                ));
            }
        }
        Ok(())
    }

    /// Moves a key.
    pub(super) async fn hand_over(&self, key: &RecordKey, to: &Name) -> Result<Moved, String> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_once(key, to).await {
                Ok((revision, took)) => return Ok(Moved { revision, tries, took }),
                Err(Halt::NotLetGo(_)) if tries < TRIES => tokio::time::sleep(PAUSE).await,
                Err(Halt::NotLetGo(why)) => return Err(format!("{why}; it was given back {tries} times, and stays where it was")),
                Err(Halt::Failed(why)) => return Err(why),
            }
        }
    }

    async fn try_once(&self, key: &RecordKey, to: &Name) -> Result<(u64, [Duration; 3]), Halt> {
        let (known, read_at) = self.read(key).await.map_err(Halt::Failed)?;
        let id = format!("{:016x}", fastrand::u64(..));
        let mark = serde_json::json!({ "key": key.to_string(), "from": known.owner, "to": to }).to_string();
        let mark = Leased::start(self.place.clone(), format!("{}-state/moves/{id}", self.place.prefix), mark.into_bytes(), MARKED_FOR);
        mark.written().await;
        let began = Instant::now();
        let state = RouteState::Frozen { move_id: Some(id), target: Some(to.clone()) };
        let frozen_at = self.swap(key, Route { state, ..known.clone() }, read_at).await.map_err(Halt::Failed)?;
        let frozen = Instant::now();
        let let_go = self.let_go(key, &known.owner, frozen_at).await;
        let waited = Instant::now();
        // A change of owner raises the epoch; so does giving back, or an owner that judged by the frozen record could not tell.
        let next = |owner: &Name| Route { owner: owner.clone(), epoch: known.epoch.map(|epoch| epoch + 1), state: RouteState::Serving };
        match let_go {
            Ok(()) => {
                let revision = self.swap(key, next(to), frozen_at).await.map_err(Halt::Failed)?;
                Ok((revision, [frozen - began, waited - frozen, waited.elapsed()]))
            }
            Err(why) => {
                self.swap(key, next(&known.owner), frozen_at).await.map_err(|fault| Halt::Failed(format!("{why}; {fault}")))?;
                Err(Halt::NotLetGo(why))
            }
        }
    }

    /// Waits until every instance of the old owner judges by the record that froze the key, and serves nothing of it.
    async fn let_go(&self, key: &RecordKey, owner: &Name, frozen_at: u64) -> Result<(), String> {
        let ends = Instant::now() + LET_GO_LIMIT;
        loop {
            let held = holding(&self.instances(owner).await?, key, frozen_at);
            if held.is_empty() {
                return Ok(());
            }
            if Instant::now() >= ends {
                return Err(format!("{key} was not let go within {LET_GO_LIMIT:?} by {owner}'s {}", held.join(", ")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Gives a frozen key back to its owner.
    pub(super) async fn abort(&self, key: &RecordKey) -> Result<u64, String> {
        let (known, read_at) = self.read(key).await?;
        if known.state == RouteState::Serving {
            return Err(format!("{key} is not being moved; {} serves it", known.owner));
        }
        let back = Route { epoch: known.epoch.map(|epoch| epoch + 1), state: RouteState::Serving, owner: known.owner };
        self.swap(key, back, read_at).await
    }

    pub(super) async fn read(&self, key: &RecordKey) -> Result<(Route, u64), String> {
        let found = self.store.get(&key.suffix()).await?.ok_or_else(|| format!("there is no {key}"))?;
        Ok((super::route_of(&found).map_err(|fault| format!("{key} has a bad value: {fault}"))?, found.mod_revision))
    }

    async fn swap(&self, key: &RecordKey, route: Route, read_at: u64) -> Result<u64, String> {
        let value = serde_json::to_vec(&Record::Route(route).to_json()).unwrap_or_default();
        let change = Change { key: key.suffix(), value: Some(value), read_at };
        match self.store.swap(&[change], &[]).await.map_err(|fault| fault.to_string())? {
            Swapped::Done(revision) => Ok(revision),
            Swapped::Moved(_) => Err(format!("somebody else has changed {key} meanwhile; look at it and try again")),
        }
    }
}

/// The instances that have not let a key go: they judge by an older revision, or still serve requests of before.
fn holding(instances: &BTreeMap<String, Announcement>, key: &RecordKey, frozen_at: u64) -> Vec<String> {
    let RecordKey::Route { service, key: routing_key } = key else { return Vec::new() };
    let routing_key = String::from_utf8_lossy(routing_key);
    let holds = |announced: &Announcement| {
        let is_busy = announced.busy.iter().any(|busy| *busy.service == **service && busy.key == routing_key);
        match (announced.applied < frozen_at, is_busy) {
            (true, _) => Some("has not heard of it"),
            (false, true) => Some("still serves requests"),
            (false, false) => None,
        }
    };
    instances.iter().filter_map(|(id, announced)| Some(format!("{id} ({})", holds(announced)?))).collect()
}

#[cfg(test)]
mod tests {
    use waypost_owner::BusyKey;

    use super::*;

    #[test]
    fn a_key_is_let_go_when_all_know_and_none_is_busy() {
        let key = RecordKey::parse(b"routes/orders/t1").unwrap();
        let busy = |key: &str| vec![BusyKey { service: "orders".to_owned(), key: key.to_owned() }];
        let held = |instances: &[(u64, Vec<BusyKey>)]| {
            let instances = instances.iter().enumerate();
            let instances = instances.map(|(id, (applied, busy))| (id.to_string(), Announcement { applied: *applied, busy: busy.clone() }));
            holding(&instances.collect(), &key, 10)
        };
        assert_eq!(held(&[(10, vec![]), (12, busy("t2"))]), [""; 0]);
        assert_eq!(held(&[(9, vec![]), (12, busy("t1"))]), ["0 (has not heard of it)", "1 (still serves requests)"]);
    }
}

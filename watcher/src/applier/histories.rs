//! The applier held against small stores with a true history of revisions: good values, bad ones, transactions, lists.

use std::collections::BTreeMap;

use proptest::prelude::*;
use waypost_policy::table::Entry;

use super::*;
use crate::{
    listed::{Listed, Part},
    record::digest,
};

const SERVICE: &str = r#"{"match":[{"hosts":["orders.example.com"]}],"key":{"header":"x-tenant"}}"#;

fn applier() -> Applier {
    Applier::new(TableId::etcd(7, 0), Source::Watch, false)
}

/// A store of one writer: every change is a revision of its own unless it is part of a transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(crate) revision: u64,
    pub(crate) records: BTreeMap<Vec<u8>, Stored>,
}

impl Store {
    /// Puts (`Some`) and deletes (`None`) in one revision; its events.
    pub(crate) fn transact(&mut self, changes: &[(&str, Option<&str>)]) -> Vec<Event> {
        self.revision += 1;
        let mod_revision = self.revision;
        let mut events = Vec::new();
        for (key, value) in changes {
            let key = key.as_bytes().to_vec();
            let before = self.records.remove(&key);
            match value {
                Some(value) => {
                    let create_revision = before.map_or(mod_revision, |before| before.create_revision);
                    let value = value.as_bytes().to_vec();
                    let stored = Stored { key: key.clone(), value, create_revision, mod_revision, leased: false };
                    self.records.insert(key, stored.clone());
                    events.push(Event::Put(stored));
                }
                None if before.is_some() => events.push(Event::Delete { key, mod_revision }),
                None => {}
            }
        }
        events
    }

    /// What a list at the present revision gives.
    pub(crate) fn list(&self) -> Vec<Stored> {
        self.records.values().cloned().collect()
    }

    pub(crate) fn digest(&self) -> u128 {
        self.records.values().fold(0, |sum, stored| sum.wrapping_add(digest(&stored.key, stored.mod_revision, &stored.value)))
    }
}

/// A store and an applier that has followed it.
pub(crate) struct Scene {
    pub(crate) store: Store,
    pub(crate) applier: Applier,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let mut scene = Self { store: Store::default(), applier: applier() };
        scene.change(&[("services/orders", Some(SERVICE)), ("upstreams/a", Some("{}")), ("upstreams/b", Some("{}"))]);
        scene
    }

    pub(crate) fn change(&mut self, changes: &[(&str, Option<&str>)]) {
        let events = self.store.transact(changes);
        self.applier.apply(events).unwrap();
        self.applier.advance(self.store.revision);
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) {
        self.change(&[(key, Some(value))]);
    }

    pub(crate) fn resync(&mut self, fresh: bool) {
        let id = TableId::etcd(7, u64::from(fresh));
        self.applier.resync(self.store.revision, self.store.list(), id, fresh).unwrap();
    }

    pub(crate) fn owner(&mut self, key: &str) -> Option<String> {
        routes(&self.applier.publish(), &[key]).remove(key).map(|(owner, ..)| owner)
    }

    pub(crate) fn bad_keys(&self) -> Vec<String> {
        self.applier.bad().keys().map(|key| escaped(key)).collect()
    }
}

/// Owner, epoch, state and where it comes from, of those keys of `orders` that have a route.
pub(crate) fn routes(table: &Table, keys: &[&str]) -> BTreeMap<String, (String, u64, &'static str, &'static str)> {
    let Some(service) = table.service_named("orders") else { return BTreeMap::new() };
    let found = keys.iter().filter_map(|key| match table.entry(&RequestKey { service: service.id, key: key.as_bytes().into() }) {
        Entry::Route(route, source) => {
            let owner = table.upstream_name(route.owner).map_or_else(String::new, ToString::to_string);
            Some(((*key).to_owned(), (owner, route.epoch, route.state.as_str(), source.as_str())))
        }
        Entry::Absent(_) => None,
    });
    found.collect()
}

#[test]
fn a_bad_record_costs_only_itself_and_its_last_good_value_stays() {
    let mut scene = Scene::new();
    scene.put("routes/orders/t1", r#"{"owner":"a"}"#);
    scene.change(&[("routes/orders/t1", Some("{")), ("routes/orders/t2", Some(r#"{"owner":"b"}"#)), ("routes/orders/t3", Some("[]"))]);
    assert_eq!(scene.owner("t1").as_deref(), Some("a"));
    assert_eq!(scene.owner("t2").as_deref(), Some("b"));
    let table = scene.applier.publish();
    assert_eq!(routes(&table, &["t3"])["t3"].2, "quarantined", "no last good value");
    assert_eq!(scene.bad_keys(), ["routes/orders/t1", "routes/orders/t3"]);
    scene.change(&[("routes/orders/t1", Some(r#"{"owner":"b"}"#)), ("routes/orders/t3", None)]);
    assert_eq!(scene.bad_keys(), [""; 0], "a good value and a delete each end a quarantine");
    assert_eq!((scene.owner("t1").as_deref(), scene.owner("t3")), (Some("b"), None));
}

#[test]
fn a_key_that_names_no_kind_of_record_is_quarantined_with_a_reason() {
    let mut scene = Scene::new();
    scene.put("servces/orders", "{}");
    let held = scene.applier.held("/waypost/v1");
    assert_eq!(held[0].key, "/waypost/v1/servces/orders");
    assert!(held[0].reason.contains("did you mean \"services\""), "{}", held[0].reason);
    scene.change(&[("servces/orders", None)]);
    assert_eq!(scene.bad_keys(), [""; 0]);
}

#[test]
fn a_service_whose_value_is_bad_still_claims_its_requests() {
    let mut scene = Scene::new();
    scene.put("services/new", r#"{"match":[{"path_prefix":"/new"}],"key":7}"#);
    let table = scene.applier.publish();
    let service = table.find_service(Some(b"any"), b"/new/x").unwrap();
    assert!(service.quarantined && &*service.name == "new");
    assert!(!table.service_named("orders").unwrap().quarantined);
}

#[test]
fn within_a_create_revision_the_epoch_never_goes_down_and_a_new_owner_raises_it() {
    let mut scene = Scene::new();
    scene.put("routes/orders/t1", r#"{"owner":"a","epoch":900}"#);
    for refused in [r#"{"owner":"a","epoch":899}"#, r#"{"owner":"b","epoch":900}"#, r#"{"owner":"b"}"#] {
        scene.put("routes/orders/t1", refused);
        assert_eq!(scene.owner("t1").as_deref(), Some("a"), "{refused}");
        assert_eq!(scene.bad_keys(), ["routes/orders/t1"], "{refused}");
    }
    scene.put("routes/orders/t1", r#"{"owner":"b","epoch":901}"#);
    assert_eq!((scene.owner("t1").as_deref(), scene.bad_keys().len()), (Some("b"), 0));
    scene.change(&[("routes/orders/t1", None)]);
    scene.put("routes/orders/t1", r#"{"owner":"a","epoch":1}"#);
    assert_eq!((scene.owner("t1").as_deref(), scene.bad_keys().len()), (Some("a"), 0), "made anew: starts afresh");
}

#[test]
fn another_incarnation_starts_epochs_afresh() {
    let mut scene = Scene::new();
    scene.put("routes/orders/t1", r#"{"owner":"a","epoch":900}"#);
    let stored = scene.store.records.get_mut(b"routes/orders/t1".as_slice()).unwrap();
    stored.value = br#"{"owner":"b","epoch":3}"#.to_vec();
    stored.mod_revision += 1;
    scene.store.revision += 1;
    scene.resync(false);
    assert_eq!(scene.owner("t1").as_deref(), Some("a"), "the same incarnation: the epoch may not go down");
    scene.resync(true);
    assert_eq!((scene.owner("t1").as_deref(), scene.bad_keys().len()), (Some("b"), 0));
}

#[test]
fn what_is_missing_from_a_list_is_gone_bad_records_without_a_good_value_included() {
    let mut scene = Scene::new();
    let bad = ["upstreams/x", "policies/x", "services/x", "routes/orders/x", "strange/x"];
    for key in bad {
        scene.put(key, "{");
    }
    scene.put("routes/orders/t1", r#"{"owner":"a"}"#);
    for key in bad.into_iter().chain(["routes/orders/t1"]) {
        scene.store.transact(&[(key, None)]);
    }
    scene.resync(false);
    assert_eq!(scene.bad_keys(), [""; 0]);
    assert_eq!(scene.owner("t1"), None);
    assert_eq!(scene.applier.digest(), scene.store.digest());
}

#[test]
fn a_check_runs_ahead_of_the_watch_until_the_watch_has_caught_up() {
    let mut scene = Scene::new();
    scene.put("routes/orders/t1", r#"{"owner":"a"}"#);
    let key = RequestKey { service: scene.applier.publish().service_named("orders").unwrap().id, key: b"t1".as_slice().into() };
    let route_key = RecordKey::parse(b"routes/orders/t1").unwrap();
    let late = scene.store.transact(&[("routes/orders/t1", None)]);
    assert!(scene.applier.adopt(key.clone(), &route_key, scene.store.revision, None));
    assert_eq!(scene.owner("t1"), None, "absence is a tombstone");
    assert!(!scene.applier.adopt(key.clone(), &route_key, scene.applier.revision(), None), "an older read changes nothing");
    scene.applier.apply(late).unwrap();
    scene.applier.advance(scene.store.revision);
    let again = scene.store.transact(&[("routes/orders/t1", Some(r#"{"owner":"b"}"#))]);
    scene.applier.apply(again).unwrap();
    scene.applier.advance(scene.store.revision);
    let table = scene.applier.publish();
    assert_eq!(routes(&table, &["t1"])["t1"].3, "watch");
}

#[test]
fn the_last_changes_are_known_whether_put_deleted_or_listed() {
    let mut scene = Scene::new();
    scene.put("routes/orders/t1", r#"{"owner":"a"}"#);
    let put = scene.applier.last_changes().newest().unwrap().clone();
    assert_eq!((put.key.as_slice(), put.mod_revision, put.digest.is_some()), (b"routes/orders/t1".as_slice(), 2, true));
    scene.change(&[("routes/orders/t1", None)]);
    assert_eq!(scene.applier.last_changes().newest().unwrap().digest, None);
    scene.resync(false);
    let newest = scene.applier.last_changes().newest().unwrap();
    assert_eq!((newest.key.as_slice(), newest.digest.is_some()), (b"services/orders".as_slice(), true));
}

#[test]
fn a_change_that_comes_late_is_told_and_one_that_comes_again_is_not() {
    let mut scene = Scene::new();
    scene.put("routes/orders/t1", r#"{"owner":"a"}"#);
    let before = scene.store.transact(&[("routes/orders/t1", Some(r#"{"owner":"b"}"#)), ("routes/orders/t2", None)]);
    let lost = scene.store.transact(&[("routes/orders/t1", Some(r#"{"owner":"c"}"#))]);
    scene.put("routes/orders/t3", r#"{"owner":"a"}"#);
    assert_eq!(scene.applier.apply(lost.clone()), Err(Refused::Late(lost[0].mod_revision())));
    assert_eq!(scene.owner("t1").as_deref(), Some("a"), "nothing is applied out of order");
    scene.resync(false);
    assert_eq!((scene.applier.apply(before), scene.applier.apply(lost)), (Ok(()), Ok(())));
    let late = Event::Delete { key: b"routes/orders/t1".to_vec(), mod_revision: scene.store.revision };
    assert!(scene.applier.apply(vec![late]).is_err());
}

#[test]
fn a_list_of_another_history_changes_nothing() {
    let mut scene = Scene::new();
    scene.put("routes/orders/t1", r#"{"owner":"a"}"#);
    let backup = (scene.store.revision, scene.store.records.clone());
    scene.put("routes/orders/t1", r#"{"owner":"b"}"#);
    let (before, digest) = (scene.applier.revision(), scene.applier.digest());
    (scene.store.revision, scene.store.records) = backup;
    let lists = [
        scene.store.list(),
        {
            scene.store.transact(&[("routes/orders/t1", Some(r#"{"owner":"c"}"#))]);
            scene.store.list()
        },
        {
            scene.store.transact(&[("routes/orders/t2", Some(r#"{"owner":"c"}"#))]);
            scene.store.list()
        },
    ];
    for list in lists {
        let id = scene.applier.id().clone();
        let refused = scene.applier.resync(before + 1, list.clone(), id.clone(), false);
        assert!(matches!(refused, Err(Refused::OtherHistory { .. })), "{refused:?}");
        assert_eq!((scene.applier.revision(), scene.applier.digest()), (before, digest));
    }
    scene.resync(true);
    assert_eq!(scene.owner("t1").as_deref(), Some("c"), "another incarnation is believed");
}

#[test]
fn a_table_takes_no_more_than_it_may_hold() {
    let mut scene = Scene::new();
    scene.applier.most_keys = 5;
    for tenant in ["t1", "t2"] {
        scene.put(&format!("routes/orders/{tenant}"), r#"{"owner":"a"}"#);
    }
    let (revision, digest) = (scene.applier.revision(), scene.applier.digest());
    let more = scene.store.transact(&[("routes/orders/t1", Some(r#"{"owner":"b"}"#)), ("routes/orders/t3", Some("{"))]);
    assert_eq!(scene.applier.apply(more), Err(Refused::Full(5)));
    assert_eq!((scene.applier.revision(), scene.applier.digest()), (revision, digest), "all of it or nothing");
    let id = scene.applier.id().clone();
    assert_eq!(scene.applier.resync(scene.store.revision, scene.store.list(), id, false), Err(Refused::Full(5)));
    assert_eq!(scene.owner("t1").as_deref(), Some("a"));
    scene.store.transact(&[("routes/orders/t2", None)]);
    scene.resync(false);
    assert_eq!(scene.owner("t1").as_deref(), Some("b"), "a list that fits is taken");
    scene.change(&[("routes/orders/t1", None)]);
    scene.put("routes/orders/t4", r#"{"owner":"a"}"#);
    assert_eq!(scene.owner("t4").as_deref(), Some("a"), "what has gone makes room");
}

#[test]
fn the_digest_is_remembered_as_of_a_mark() {
    let mut scene = Scene::new();
    scene.applier.set_mark(scene.applier.revision() + 1);
    assert_eq!(scene.applier.digest_at_mark(), Some((scene.applier.digest(), false)), "what leads to it may still come");
    scene.put("routes/orders/t1", r#"{"owner":"a"}"#);
    let digest = scene.applier.digest();
    scene.put("routes/orders/t2", r#"{"owner":"a"}"#);
    assert_eq!(scene.applier.digest_at_mark(), Some((digest, true)));
    scene.resync(false);
    assert_eq!(scene.applier.digest_at_mark(), None);
    scene.applier.set_mark(scene.applier.revision());
    scene.applier.advance(scene.applier.revision() + 5);
    assert_eq!(scene.applier.digest_at_mark(), Some((scene.applier.digest(), true)));
}

/// One revision: changes of distinct keys.
pub(crate) fn history(values: &'static [&'static str]) -> impl Strategy<Value = Vec<Vec<(usize, Option<&'static str>)>>> {
    let change = (0..KEYS.len(), proptest::option::weighted(0.8, proptest::sample::select(values)));
    let transaction = proptest::collection::btree_map(0..KEYS.len(), change, 1..4);
    let transaction = transaction.prop_map(|changes| changes.into_iter().map(|(key, (_, value))| (key, value)).collect());
    proptest::collection::vec(transaction, 1..30)
}

/// Keys that histories change; the routes are `orders`'.
pub(crate) const KEYS: [&str; 8] = [
    "routes/orders/t0",
    "routes/orders/t1",
    "routes/orders/t2",
    "services/other",
    "upstreams/c",
    "policies/p",
    "incarnation",
    "no/such/folder",
];
/// The routing keys among them.
pub(crate) const TENANTS: [&str; 3] = ["t0", "t1", "t2"];
/// Values without epochs: good for a route, a service, an upstream, or for nothing.
pub(crate) const VALUES: &[&str] =
    &[r#"{"owner":"a"}"#, r#"{"owner":"b"}"#, r#"{"match":[{"path_prefix":"/x"}],"key":7}"#, r#"{"endpoints":[]}"#, "{", "{}", "5"];
const EPOCHS: &[&str] = &[r#"{"owner":"a","epoch":3}"#, r#"{"owner":"b","epoch":3}"#, r#"{"owner":"b","epoch":40}"#, r#"{"owner":"a"}"#];

/// The revisions' events, and the store at their end.
pub(crate) fn play(history: &[Vec<(usize, Option<&str>)>]) -> (Vec<(u64, Vec<Event>)>, Store) {
    let mut store = Store::default();
    let mut revisions = vec![(1, store.transact(&[("services/orders", Some(SERVICE))]))];
    for transaction in history {
        let changes: Vec<_> = transaction.iter().map(|(key, value)| (KEYS[*key], *value)).collect();
        let events = store.transact(&changes);
        revisions.push((store.revision, events));
    }
    (revisions, store)
}

pub(crate) fn follow(applier: &mut Applier, revisions: &[(u64, Vec<Event>)]) {
    for (revision, events) in revisions {
        applier.apply(events.clone()).unwrap();
        applier.advance(*revision);
    }
}

proptest! {
    #[test]
    fn following_and_listing_come_to_the_same(history in history(VALUES), cut in 0usize..30) {
        let (revisions, store) = play(&history);
        let mut followed = applier();
        follow(&mut followed, &revisions);
        let mut listed = applier();
        listed.resync(store.revision, store.list(), TableId::etcd(7, 0), false).unwrap();
        // Away from some revision on, then a list instead of the rest.
        let mut resynced = applier();
        follow(&mut resynced, &revisions[..cut.min(revisions.len())]);
        resynced.resync(store.revision, store.list(), TableId::etcd(7, 0), false).unwrap();
        prop_assert_eq!(followed.digest(), store.digest());
        for other in [&mut listed, &mut resynced] {
            prop_assert_eq!(other.digest(), store.digest());
            prop_assert_eq!(other.bad().keys().collect::<Vec<_>>(), followed.bad().keys().collect::<Vec<_>>());
            let good: Vec<&str> = TENANTS.into_iter().filter(|key| !followed.bad().contains_key(format!("routes/orders/{key}").as_bytes())).collect();
            prop_assert_eq!(routes(&other.publish(), &good), routes(&followed.publish(), &good));
            prop_assert_eq!(other.revision(), followed.revision());
        }
    }

    #[test]
    fn what_was_applied_before_changes_nothing(history in history(VALUES), again in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20)) {
        let (revisions, _) = play(&history);
        let mut applier = applier();
        follow(&mut applier, &revisions);
        let before = (routes(&applier.publish(), &TENANTS), applier.digest(), applier.bad().clone(), applier.revision(), applier.last_changes().clone());
        for index in again {
            // A put of a key that has gone since may count as missed: it is not known any more that it was there.
            let _ = applier.apply(index.get(&revisions).1.clone());
        }
        let after = (routes(&applier.publish(), &TENANTS), applier.digest(), applier.bad().clone(), applier.revision(), applier.last_changes().clone());
        prop_assert_eq!(before, after);
    }

    #[test]
    fn the_epoch_in_force_never_goes_down_within_a_create_revision(history in history(EPOCHS), relist in proptest::collection::vec(any::<bool>(), 30)) {
        let (revisions, _) = play(&history);
        let mut store = Store::default();
        let mut applier = applier();
        let mut known: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for ((revision, events), relist) in revisions.iter().zip(relist) {
            store.revision = *revision;
            for event in events {
                match event {
                    Event::Put(stored) => { store.records.insert(stored.key.clone(), stored.clone()); }
                    Event::Delete { key, .. } => { store.records.remove(key); }
                }
            }
            if relist {
                applier.resync(*revision, store.list(), TableId::etcd(7, 0), false).unwrap();
            } else {
                follow(&mut applier, &[(*revision, events.clone())]);
            }
            for key in TENANTS {
                let Some(route) = applier.builder.route("orders", key.as_bytes()) else { known.remove(key); continue };
                let (create_revision, epoch) = (route.meta.create_revision, route.epoch);
                if let Some((made, before)) = known.insert(key, (create_revision, epoch)) {
                    prop_assert!(made != create_revision || before <= epoch, "{} went from {} to {}", key, before, epoch);
                }
            }
        }
    }

    #[test]
    fn the_digest_does_not_depend_on_the_order(history in history(VALUES), seed in any::<u64>()) {
        let (_, store) = play(&history);
        let mut shuffled = store.list();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let mut applier = applier();
        applier.resync(store.revision, shuffled, TableId::etcd(7, 0), false).unwrap();
        prop_assert_eq!(applier.digest(), store.digest());
    }

    #[test]
    fn a_list_in_parts_comes_to_the_same_as_a_whole_one(
        history in history(VALUES), cut in 0usize..30, parts in proptest::collection::vec(0usize..4, 0..12), seed in any::<u64>(), fresh in any::<bool>()
    ) {
        let (revisions, store) = play(&history);
        let mut records = store.list();
        fastrand::Rng::with_seed(seed).shuffle(&mut records);
        let mut rest = records.clone();
        let mut listed = Listed::default();
        for size in parts {
            let part = rest.split_off(rest.len() - size.min(rest.len()));
            listed.add(Part::of(part));
        }
        listed.add(Part::of(rest));
        prop_assert_eq!(listed.len(), records.len());
        // Nothing known, or what was known when the watch was lost.
        for known in [0, cut.min(revisions.len())] {
            let [mut whole, mut in_parts] = [applier(), applier()];
            for applier in [&mut whole, &mut in_parts] {
                follow(applier, &revisions[..known]);
            }
            whole.resync(store.revision, records.clone(), TableId::etcd(7, 1), fresh).unwrap();
            in_parts.resync(store.revision, listed.clone(), TableId::etcd(7, 1), fresh).unwrap();
            let shown = |applier: &mut Applier| {
                // Of changes of one revision none is the last.
                let mut last: Vec<_> = applier.last_changes().iter().map(|change| (change.mod_revision, change.key.clone())).collect();
                last.sort_unstable();
                let state = (applier.digest(), applier.keys, applier.revision(), applier.bad().clone(), applier.notes(), last);
                (state, routes(&applier.publish(), &TENANTS), applier.incarnation())
            };
            prop_assert_eq!(shown(&mut in_parts), shown(&mut whole));
            prop_assert_eq!(whole.digest(), store.digest());
        }
    }
}

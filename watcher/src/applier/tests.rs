//! The applier and the snapshot by script and by property: whatever is put, deleted, repeated and listed.

use proptest::prelude::*;
use waypost_policy::table::Entry;

use super::*;
use crate::snapshot::tests::{decoded, encode};

fn applier() -> Applier {
    Applier::new(TableId::etcd(7, 0), Source::Watch, false)
}

fn stored(key: &str, value: &str, create_revision: u64, mod_revision: u64) -> Stored {
    Stored { key: key.as_bytes().to_vec(), value: value.as_bytes().to_vec(), create_revision, mod_revision, leased: false }
}

fn put(key: &str, value: &str, create_revision: u64, mod_revision: u64) -> Event {
    Event::Put(stored(key, value, create_revision, mod_revision))
}

fn delete(key: &str, mod_revision: u64) -> Event {
    Event::Delete { key: key.as_bytes().to_vec(), mod_revision }
}

fn apply(applier: &mut Applier, events: Vec<Event>) {
    let revision = events.last().map_or(0, Event::mod_revision);
    applier.apply(events).unwrap();
    applier.advance(revision);
}

/// Owner and epoch of a route in the table that would be published now.
fn owner(applier: &mut Applier, key: &str) -> Option<(String, u64)> {
    let service = applier.builder.service_id(&"s".try_into().unwrap());
    let table = applier.publish();
    match table.entry(&RequestKey { service, key: key.as_bytes().into() }) {
        Entry::Route(route, _) if route.state != State::Quarantined => Some((table.upstream_name(route.owner)?.to_string(), route.epoch)),
        _ => None,
    }
}

#[test]
fn an_epoch_never_goes_down_and_an_owner_never_changes_without_one() {
    let mut applier = applier();
    apply(&mut applier, vec![put("routes/s/k", r#"{"owner":"a","epoch":5}"#, 1, 1)]);
    for (revision, value) in [(2, r#"{"owner":"b","epoch":4}"#), (3, r#"{"owner":"b","epoch":5}"#), (4, "{"), (5, r#"{"owner":"b"}"#)] {
        apply(&mut applier, vec![put("routes/s/k", value, 1, revision)]);
        if revision < 5 {
            assert_eq!(owner(&mut applier, "k"), Some(("a".to_owned(), 5)), "{value}");
            assert!(applier.bad().contains_key(&b"routes/s/k"[..]), "{value}");
        }
    }
    // Without a written epoch it is the revision: 5 is not above the 5 that was written, 6 is.
    assert_eq!(owner(&mut applier, "k"), Some(("a".to_owned(), 5)));
    apply(&mut applier, vec![put("routes/s/k", r#"{"owner":"b"}"#, 1, 6)]);
    assert_eq!(owner(&mut applier, "k"), Some(("b".to_owned(), 6)));
    assert!(applier.bad().is_empty());
    apply(&mut applier, vec![delete("routes/s/k", 7), put("routes/s/k", r#"{"owner":"c","epoch":1}"#, 8, 8)]);
    assert_eq!(owner(&mut applier, "k"), Some(("c".to_owned(), 1)), "a key made anew starts afresh");
}

#[test]
fn a_read_ahead_counts_until_the_watch_has_passed_it() {
    let mut applier = applier();
    apply(
        &mut applier,
        vec![put("services/s", r#"{"match":[{}],"key":{"header":"k"}}"#, 1, 1), put("routes/s/k", r#"{"owner":"a"}"#, 2, 2)],
    );
    let route_key = RecordKey::parse(b"routes/s/k").unwrap();
    let service = applier.builder.service_id(&"s".try_into().unwrap());
    let key = RequestKey { service, key: b"k"[..].into() };
    assert!(!applier.adopt(key.clone(), &route_key, 2, None), "as old as the table: nothing new");
    assert!(applier.adopt(key.clone(), &route_key, 5, None));
    assert_eq!(owner(&mut applier, "k"), None, "absent is an answer too");
    assert!(applier.adopt(key.clone(), &route_key, 7, Some(stored("routes/s/k", r#"{"owner":"b"}"#, 6, 6))));
    assert!(!applier.adopt(key, &route_key, 6, None));
    assert_eq!(owner(&mut applier, "k"), Some(("b".to_owned(), 6)), "a late, older read never overwrites a newer one");
    apply(&mut applier, vec![put("routes/s/k", r#"{"owner":"a"}"#, 2, 4)]);
    assert_eq!(owner(&mut applier, "k"), Some(("b".to_owned(), 6)), "nor does a late event");
    apply(&mut applier, vec![put("routes/s/k", r#"{"owner":"c"}"#, 6, 8)]);
    assert_eq!(owner(&mut applier, "k"), Some(("c".to_owned(), 8)));
}

#[test]
fn what_the_watch_has_found_bad_is_not_made_good_by_a_check() {
    let mut applier = applier();
    let service = put("services/s", r#"{"match":[{}],"key":{"header":"k"}}"#, 1, 1);
    apply(&mut applier, vec![service, put("routes/s/k", r#"{"owner":"a"}"#, 2, 2)]);
    apply(&mut applier, vec![put("routes/s/k", r#"{"owner":"b","epoch":1}"#, 2, 3)]);
    let service = applier.builder.service_id(&"s".try_into().unwrap());
    let (key, route_key) = (RequestKey { service, key: b"k"[..].into() }, RecordKey::parse(b"routes/s/k").unwrap());
    let read = |value, mod_revision| Some(stored("routes/s/k", value, 2, mod_revision));
    assert!(!applier.adopt(key.clone(), &route_key, 5, read(r#"{"owner":"b","epoch":1}"#, 3)));
    assert_eq!(owner(&mut applier, "k"), Some(("a".to_owned(), 2)));
    assert!(applier.adopt(key, &route_key, 7, read(r#"{"owner":"b"}"#, 7)), "another value");
    assert_eq!(owner(&mut applier, "k"), Some(("b".to_owned(), 7)));
}

/// A small world of keys and values, good and bad, in which everything meets everything.
fn histories() -> impl Strategy<Value = Vec<(usize, Option<usize>)>> {
    proptest::collection::vec((0usize..7, proptest::option::weighted(0.8, 0usize..7)), 0..40)
}

const KEYS: [&str; 7] = ["routes/s/a", "routes/s/b", "services/s", "upstreams/u", "endpoints/u/1", "strange/key", "policies/default"];
const VALUES: [&str; 7] = [
    r#"{"owner":"u","epoch":3}"#,
    r#"{"owner":"v","epoch":4}"#,
    r#"{"owner":"v"}"#,
    r#"{"match":[{}],"key":{"header":"k"}}"#,
    "not json",
    r#"{"address":"127.0.0.1:1"}"#,
    "{}",
];

/// The events of a history with a revision each, and what the store has in the end.
fn play(history: &[(usize, Option<usize>)]) -> (Vec<Event>, Vec<Stored>) {
    let mut store: BTreeMap<&str, Stored> = BTreeMap::new();
    let mut events = Vec::new();
    for (at, (key, value)) in history.iter().enumerate() {
        let (key, revision) = (KEYS[*key], at as u64 + 1);
        match value {
            Some(value) => {
                let create_revision = store.get(key).map_or(revision, |stored| stored.create_revision);
                let stored = stored(key, VALUES[*value], create_revision, revision);
                store.insert(key, stored.clone());
                events.push(Event::Put(stored));
            }
            None => {
                store.remove(key);
                events.push(delete(key, revision));
            }
        }
    }
    (events, store.into_values().collect())
}

fn sum(records: &[Stored]) -> u128 {
    records.iter().fold(0, |sum, stored| sum.wrapping_add(stored.meta().digest))
}

proptest! {
    /// However the events are cut into batches, and however often old ones are repeated: the digest is that of what the store has.
    #[test]
    fn the_digest_is_the_store_s_whatever_was_repeated(history in histories(), cuts in proptest::collection::vec(0usize..40, 0..6)) {
        let (events, records) = play(&history);
        let mut applier = applier();
        let mut from = 0;
        let mut cuts = cuts;
        cuts.sort_unstable();
        for cut in cuts.into_iter().chain([events.len()]) {
            let to = cut.clamp(from, events.len());
            // Everything so far once more, and then what is new. A put of a key that has gone since may count as missed, and ends it.
            if applier.apply(events[..to].to_vec()).is_err() {
                applier.apply(events[from..to].to_vec()).unwrap();
            }
            from = to;
        }
        prop_assert_eq!(applier.digest(), sum(&records));
    }

    /// A list beside the live table comes to the same as the events would have: the same digest, the same keys.
    #[test]
    fn a_resync_comes_to_what_the_store_has(history in histories(), seen in 0usize..40) {
        let (events, records) = play(&history);
        let mut applier = applier();
        apply(&mut applier, events[..seen.min(events.len())].to_vec());
        applier.resync(events.len() as u64 + 1, records.clone(), TableId::etcd(7, 0), false).unwrap();
        prop_assert_eq!(applier.digest(), sum(&records));
        let listed: BTreeSet<Vec<u8>> = records.iter().map(|stored| stored.key.clone()).collect();
        let kept = applier.builder.keys().map(|key| key.suffix()).chain(applier.bad().keys().cloned());
        prop_assert_eq!(kept.collect::<BTreeSet<_>>(), listed);
    }

    /// Within one create_revision the epoch in force never goes down, whatever is written.
    #[test]
    fn epochs_never_go_down_within_a_create_revision(history in histories()) {
        let mut applier = applier();
        let mut last: Option<(u64, u64)> = None;
        for event in play(&history).0 {
            apply(&mut applier, vec![event]);
            let now = applier.builder.route("s", b"a").filter(|route| route.state != State::Quarantined);
            let now = now.map(|route| (route.meta.create_revision, route.epoch));
            if let (Some((created, epoch)), Some((created_now, epoch_now))) = (last, now) {
                prop_assert!(created != created_now || epoch_now >= epoch, "{} after {}", epoch_now, epoch);
            }
            last = now;
        }
    }

    /// What is saved is loaded: the same records, the same quarantine, the same digest, the same cursor.
    #[test]
    fn a_snapshot_loads_to_what_was_saved(history in histories()) {
        let mut applier = applier();
        apply(&mut applier, play(&history).0);
        let mut loaded = decoded(&encode(&applier)).unwrap();
        prop_assert_eq!((loaded.digest(), loaded.revision(), loaded.bad()), (applier.digest(), applier.revision(), applier.bad()));
        for key in ["a", "b"] {
            prop_assert_eq!(owner(&mut loaded, key), owner(&mut applier, key));
        }
    }
}

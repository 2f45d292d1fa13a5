//! The difference between two tables, without a socket.

use waypost_policy::{TableId, table::RequestKey};

use super::*;
use crate::{
    applier::Applier,
    record::{Event, Stored},
};

fn put(key: &str, value: &str, revision: u64) -> Event {
    Event::Put(Stored {
        key: key.as_bytes().to_vec(),
        value: value.as_bytes().to_vec(),
        create_revision: 1,
        mod_revision: revision,
        leased: false,
    })
}

fn delete(key: &str, mod_revision: u64) -> Event {
    Event::Delete { key: key.as_bytes().to_vec(), mod_revision }
}

/// What one publish told, and what it counted only.
fn told(applier: &mut Applier, events: Vec<Event>) -> (Vec<Change>, u64) {
    let before = applier.publish();
    let revision = events.last().map_or(0, Event::mod_revision);
    applier.note_touches(true);
    applier.apply(events).unwrap();
    applier.advance(revision);
    let Touches { list, omitted } = applier.take_touches();
    (difference(Some(&before), &applier.publish(), list), omitted)
}

fn applier() -> Applier {
    let mut applier = Applier::new(TableId::etcd(7, 0), Source::Watch, false);
    applier
        .apply(vec![put("services/s", r#"{"match":[{}],"key":{"header":"k"}}"#, 1), put("routes/s/k", r#"{"owner":"a","epoch":5}"#, 1)])
        .unwrap();
    applier.advance(1);
    applier
}

fn serving(owner: &str, epoch: u64) -> Option<Shown> {
    Some(Shown { owner: Some(owner.try_into().unwrap()), epoch, state: "serving", target: None })
}

fn route(before: Option<Shown>, after: Option<Shown>) -> Change {
    Change::Route { service: "s".try_into().unwrap(), key: "k".to_owned(), before, after, source: "watch" }
}

#[test]
fn a_route_is_told_once_a_publish_and_only_if_something_else_is_in_force() {
    let mut applier = applier();
    let (changes, _) =
        told(&mut applier, vec![put("routes/s/k", r#"{"owner":"b","epoch":6}"#, 2), put("routes/s/k", r#"{"owner":"c","epoch":7}"#, 3)]);
    assert_eq!(changes, [route(serving("a", 5), serving("c", 7))], "what was in force for nobody is not told");
    assert_eq!(told(&mut applier, vec![put("routes/s/k", r#"{"owner":"c","epoch":7}"#, 4)]).0, []);
    assert_eq!(told(&mut applier, vec![delete("routes/s/k", 5)]).0, [route(serving("c", 7), None)]);
    assert_eq!(told(&mut applier, vec![put("routes/s/k", r#"{"owner":"c"}"#, 6)]).0, [route(None, serving("c", 6))]);
}

#[test]
fn other_records_are_told_by_name_and_a_bad_value_with_its_reason() {
    let mut applier = applier();
    let record = |kind, name: &str, what| Change::Record { kind, name: name.to_owned(), what };
    let (changes, _) = told(
        &mut applier,
        vec![
            put("upstreams/a", "{}", 2),
            put("endpoints/a/1", r#"{"address":"127.0.0.1:1"}"#, 2),
            put("policies/default", r#"{"max_hops":2}"#, 2),
            put("policies/default", r#"{"max_hops":2}"#, 3),
            put("services/s", r#"{"match":[{}],"key":{"header":"other"}}"#, 3),
        ],
    );
    let expected = [
        record("upstream", "a", What::New),
        record("endpoint", "a/1", What::New),
        record("policy", "default", What::New),
        record("service", "s", What::Changed),
    ];
    assert_eq!(changes, expected);
    let (changes, _) = told(&mut applier, vec![put("routes/s/k", "{", 4), delete("policies/default", 4)]);
    assert!(matches!(&changes[0], Change::Quarantined { key, reason } if key == "routes/s/k" && !reason.is_empty()), "{changes:?}");
    assert_eq!(changes[1..], [record("policy", "default", What::Deleted)], "the last good route stays in force");
    let (changes, _) = told(&mut applier, vec![put("routes/s/k", r#"{"owner":"a","epoch":9}"#, 5)]);
    assert_eq!(changes, [Change::Released { key: "routes/s/k".to_owned() }, route(serving("a", 5), serving("a", 9))]);
}

#[test]
fn a_read_ahead_of_the_watch_is_told_when_it_is_in_force_and_not_again() {
    let mut applier = applier();
    let before = applier.publish();
    let service = before.service_named("s").unwrap().id;
    let key = RecordKey::parse(b"routes/s/k").unwrap();
    let Event::Put(read) = put("routes/s/k", r#"{"owner":"b","epoch":6}"#, 9) else { unreachable!() };
    applier.note_touches(true);
    assert!(applier.adopt(RequestKey { service, key: b"k".as_slice().into() }, &key, 9, Some(read.clone())));
    let changes = difference(Some(&before), &applier.publish(), applier.take_touches().list);
    assert!(matches!(&changes[..], [Change::Route { after: Some(after), source: "store", .. }] if after.epoch == 6), "{changes:?}");
    assert_eq!(told(&mut applier, vec![Event::Put(read)]).0, [], "the watch brings what was in force already");
}

#[test]
fn a_mass_change_is_bounded_and_counted_and_without_watchers_nothing_is_kept() {
    let mut applier = applier();
    let mass = |revision| (0..100_000).map(|n| put(&format!("routes/s/{n}"), r#"{"owner":"a"}"#, revision)).collect::<Vec<_>>();
    let (changes, omitted) = told(&mut applier, mass(2));
    assert_eq!((changes.len(), omitted), (MAX_TOUCHES, 100_000 - MAX_TOUCHES as u64));
    applier.note_touches(false);
    applier.apply(mass(3)).unwrap();
    assert_eq!(applier.take_touches(), Touches::default());
}

#[test]
fn a_watcher_of_one_key_hears_of_it_and_of_the_whole_table() {
    let change = route(None, serving("a", 1));
    assert!(change.concerns(None, None) && change.concerns(Some("s"), Some("k")) && change.concerns(None, Some("k")));
    assert!(!change.concerns(Some("t"), None) && !change.concerns(Some("s"), Some("l")));
    let bad = |key: &str| Change::Quarantined { key: key.to_owned(), reason: String::new() };
    assert!(bad("routes/s/k").concerns(Some("s"), Some("k")) && bad("services/s").concerns(Some("s"), None));
    assert!(!bad("routes/t/k").concerns(Some("s"), None) && !bad("upstreams/s").concerns(Some("s"), None));
    assert!(Change::Contact { connected: false, error: None }.concerns(Some("s"), Some("k")));
}

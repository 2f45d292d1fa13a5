//! Mass deletes, by a revision and by a list: held, confirmed, taken, or not at all.

use std::collections::BTreeMap;

use proptest::prelude::*;
use waypost_policy::TableId;

use super::*;
use crate::{
    applier::{
        Source,
        histories::{Scene, Store},
    },
    record::Stored,
    snapshot::tests::{decoded, encode},
};

const SERVICE: &str = r#"{"match":[{"hosts":["orders.example.com"]}],"key":{"header":"x-tenant"}}"#;

/// The service and the two upstreams of a scene.
const OTHERS: usize = 3;

fn with_routes(count: usize) -> Scene {
    let mut scene = Scene::new();
    (0..count).for_each(|n| scene.put(&format!("routes/orders/t{n}"), r#"{"owner":"a"}"#));
    scene
}

fn delete(scene: &mut Scene, numbers: std::ops::Range<usize>) {
    let keys: Vec<String> = numbers.map(|n| format!("routes/orders/t{n}")).collect();
    let changes: Vec<_> = keys.iter().map(|key| (&**key, None)).collect();
    scene.change(&changes);
}

fn said(scene: &Scene, has_routes: bool, contradicts: bool) -> Said {
    Said { number: scene.applier.to_confirm().unwrap().number, has_routes, contradicts }
}

#[test]
fn a_store_that_has_lost_all_of_many_routes_is_not_believed() {
    for fresh in [false, true] {
        let mut scene = with_routes(GUARDED_ROUTES + 1);
        scene.store = Store { revision: scene.store.revision + 1, records: BTreeMap::new() };
        scene.resync(fresh);
        assert_eq!(scene.owner("t7").as_deref(), Some("a"), "fresh: {fresh}");
        assert!(scene.applier.publish().upstream_named("a").is_some(), "what routes need is held with them");
        assert_eq!(scene.applier.held_back().len(), GUARDED_ROUTES + 1 + OTHERS);
        assert_eq!(scene.applier.to_confirm(), None, "there is nothing to ask");
        assert_eq!(scene.applier.digest(), scene.store.digest(), "the digest is over what the store has");
        scene.put("routes/orders/t7", r#"{"owner":"b","epoch":1}"#);
        assert_eq!(scene.owner("t7").as_deref(), Some("b"), "a put ends the hold, and its epochs start afresh");
        assert_eq!(scene.applier.held_back().len(), GUARDED_ROUTES + OTHERS);
        scene.put("services/orders", SERVICE);
        scene.resync(fresh);
        assert_eq!(scene.owner("t8").as_deref(), Some("a"), "a list without most routes is confirmed first");
        if !fresh {
            assert_eq!(
                (scene.applier.to_confirm(), scene.applier.held_back().len()),
                (None, GUARDED_ROUTES + OTHERS - 1),
                "one route more is no reason"
            );
            assert_eq!(scene.applier.digest(), scene.store.digest());
            continue;
        }
        assert_eq!(scene.applier.settle(said(&scene, true, false)), Settled::Taken(GUARDED_ROUTES));
        assert_eq!((scene.owner("t8"), scene.applier.held_back().len()), (None, 0), "a store that holds routes is believed");
        assert_eq!(scene.applier.digest(), scene.store.digest());
    }
}

#[test]
fn what_was_put_again_meanwhile_contradicts_nothing() {
    let mut scene = with_routes(2 * GUARDED_ROUTES);
    delete(&mut scene, 0..GUARDED_ROUTES + 1);
    scene.put("routes/orders/t0", r#"{"owner":"b","epoch":9}"#);
    // More is held: the store is asked as of then, and has `t0` from before.
    delete(&mut scene, GUARDED_ROUTES + 1..2 * GUARDED_ROUTES);
    let doubt = scene.applier.to_confirm().unwrap();
    assert!(!doubt.samples.is_empty());
    for sample in &doubt.samples {
        assert!(scene.applier.held_back().contains(sample), "{}", String::from_utf8_lossy(sample));
    }
}

#[test]
fn what_is_held_from_another_incarnation_has_no_say_about_revisions() {
    let mut scene = with_routes(200);
    scene.store = Store::default();
    scene.resync(true);
    assert_eq!(scene.applier.held_back().len(), 200 + OTHERS);
    scene.store.transact(&[("services/orders", Some(SERVICE)), ("routes/orders/t7", Some(r#"{"owner":"b"}"#))]);
    let id = scene.applier.id().clone();
    scene.applier.resync(scene.store.revision, scene.store.list(), id, false).unwrap();
    assert_eq!((scene.owner("t7").as_deref(), scene.owner("t8").as_deref()), (Some("b"), Some("a")));
    assert_eq!(scene.applier.digest(), scene.store.digest());
}

#[test]
fn a_revision_that_deletes_all_routes_is_not_taken_and_later_ones_are() {
    let mut scene = with_routes(200);
    delete(&mut scene, 0..200);
    assert_eq!((scene.owner("t7").as_deref(), scene.applier.held_back().len()), (Some("a"), 200));
    assert_eq!(scene.applier.to_confirm(), None, "the store holds no routes: there is nothing to ask");
    assert_eq!(scene.applier.digest(), scene.store.digest());
    scene.put("routes/orders/t7", r#"{"owner":"b","epoch":1}"#);
    scene.put("routes/orders/new", r#"{"owner":"b"}"#);
    assert_eq!((scene.owner("t7").as_deref(), scene.owner("new").as_deref()), (Some("b"), Some("b")));
    assert_eq!((scene.owner("t8").as_deref(), scene.applier.held_back().len()), (Some("a"), 199));
    delete(&mut scene, 7..8);
    assert_eq!(scene.owner("t7"), None, "a single delete is believed");
    assert_eq!(scene.applier.digest(), scene.store.digest());
}

#[test]
fn a_revision_that_deletes_most_routes_waits_for_the_store_s_word() {
    let mut scene = with_routes(200);
    delete(&mut scene, 0..120);
    assert_eq!((scene.owner("t7").as_deref(), scene.applier.held_back().len()), (Some("a"), 120));
    let doubt = scene.applier.to_confirm().unwrap();
    assert_eq!(doubt.revision, scene.applier.revision());
    assert!(!doubt.samples.is_empty() && doubt.samples.len() <= SAMPLES);
    scene.put("routes/orders/t7", r#"{"owner":"b"}"#);
    let late = Said { number: doubt.number - 1, has_routes: true, contradicts: false };
    assert_eq!(scene.applier.settle(late), Settled::Past, "an answer to another question");
    assert_eq!(scene.applier.settle(said(&scene, true, false)), Settled::Taken(119));
    assert_eq!((scene.owner("t7").as_deref(), scene.owner("t8"), scene.owner("t150").as_deref()), (Some("b"), None, Some("a")));
    assert_eq!((scene.applier.held_back().len(), scene.applier.to_confirm()), (0, None));
    assert_eq!(scene.applier.digest(), scene.store.digest());
}

#[test]
fn deletes_that_the_store_does_not_confirm_stay_held() {
    for (has_routes, contradicts) in [(false, false), (true, true)] {
        let mut scene = with_routes(200);
        delete(&mut scene, 0..120);
        let settled = scene.applier.settle(said(&scene, has_routes, contradicts));
        assert!(matches!(settled, Settled::Empty(120) | Settled::Contradicted(120)), "{settled:?}");
        assert_eq!((scene.owner("t7").as_deref(), scene.applier.held_back().len()), (Some("a"), 120));
        assert_eq!(scene.applier.to_confirm(), None);
        // The list that follows has them, or it has not.
        let kept = |key| Stored { key, value: br#"{"owner":"b"}"#.to_vec(), create_revision: 999, mod_revision: 999, leased: false };
        let listed = if contradicts { scene.applier.builder.keys().map(|key| kept(key.suffix())).collect() } else { scene.store.list() };
        let id = scene.applier.id().clone();
        scene.applier.resync(1000, listed, id, false).unwrap();
        assert_eq!(scene.applier.held_back().len(), if contradicts { 0 } else { 120 });
    }
}

#[test]
fn a_list_takes_what_was_in_doubt_and_has_gone() {
    let mut scene = with_routes(200);
    delete(&mut scene, 0..120);
    scene.resync(false);
    assert_eq!((scene.applier.held_back().len(), scene.applier.to_confirm().is_some()), (120, true), "it is a mass delete as well");
    assert_eq!(scene.applier.settle(said(&scene, true, false)), Settled::Taken(120));
}

#[test]
fn a_doubt_outlives_the_process() {
    let mut scene = with_routes(200);
    let most: Vec<String> = (0..120).map(|n| format!("routes/orders/t{n}")).chain(["upstreams/b".to_owned()]).collect();
    scene.change(&most.iter().map(|key| (&**key, None)).collect::<Vec<_>>());
    scene.put("routes/orders/t7", "{");
    scene.applier = decoded(&encode(&scene.applier)).unwrap();
    assert_eq!((scene.owner("t7").as_deref(), scene.applier.held_back().len()), (Some("a"), 120), "one was put again");
    assert!(scene.applier.publish().upstream_named("b").is_some());
    assert_eq!(scene.applier.settle(said(&scene, true, false)), Settled::Taken(119));
    assert_eq!((scene.owner("t8"), scene.owner("t7").as_deref()), (None, Some("a")));
    assert!(scene.applier.publish().upstream_named("b").is_none());
    assert_eq!(scene.applier.digest(), scene.store.digest());
}

#[test]
fn a_second_mass_delete_that_leaves_nothing_ends_the_first_one_s_doubt() {
    let mut scene = with_routes(300);
    delete(&mut scene, 0..160);
    let first = said(&scene, true, false);
    delete(&mut scene, 160..300);
    assert_eq!(scene.applier.held_back().len(), 160, "140 of 300 are no mass delete");
    let mut scene = with_routes(300);
    delete(&mut scene, 0..160);
    (160..300).for_each(|n| scene.put(&format!("routes/orders/more{n}"), r#"{"owner":"a"}"#));
    let keys: Vec<String> = scene.store.records.keys().map(|key| String::from_utf8(key.clone()).unwrap()).collect();
    let routes: Vec<_> = keys.iter().filter(|key| key.starts_with("routes/")).map(|key| (&**key, None)).collect();
    scene.change(&routes);
    assert_eq!(scene.applier.held_back().len(), 440);
    assert_eq!(scene.applier.settle(first), Settled::Past);
    assert_eq!(scene.owner("t7").as_deref(), Some("a"));
}

#[test]
fn what_may_be_emptied_is() {
    let mut small = with_routes(GUARDED_ROUTES);
    delete(&mut small, 0..GUARDED_ROUTES);
    assert_eq!((small.owner("t7"), small.applier.held_back().len()), (None, 0), "a small table");
    let mut half = with_routes(200);
    delete(&mut half, 0..100);
    assert_eq!((half.owner("t7"), half.applier.held_back().len()), (None, 0), "half is not more than half");
    let mut allowed = with_routes(0);
    allowed.applier = Applier::new(TableId::etcd(7, 0), Source::Watch, true);
    (0..200).for_each(|n| allowed.put(&format!("routes/orders/t{n}"), r#"{"owner":"a"}"#));
    delete(&mut allowed, 0..200);
    assert_eq!((allowed.owner("t7"), allowed.applier.held_back().len()), (None, 0), "allow_empty");
}

proptest! {
    /// Puts and mass deletes in any order: the digest is the store's, what the store has is in force, and what is more is held.
    #[test]
    fn what_is_in_force_is_the_store_s_and_what_is_held(steps in proptest::collection::vec((0usize..150, 1usize..150, 0u8..6), 1..12)) {
        let mut scene = with_routes(150);
        for (from, count, kind) in steps {
            match kind {
                0 => {
                    let keys: Vec<String> = (from..from + count).map(|n| format!("routes/orders/t{n}")).collect();
                    let changes: Vec<_> = keys.iter().map(|key| (&**key, Some(r#"{"owner":"a"}"#))).collect();
                    scene.change(&changes);
                }
                1 => scene.resync(false),
                2 => if scene.applier.to_confirm().is_some() {
                    let answer = said(&scene, true, false);
                    scene.applier.settle(answer);
                },
                3 => scene.put(&format!("routes/orders/t{from}"), "{"),
                _ => delete(&mut scene, from..from + count),
            }
            prop_assert_eq!(scene.applier.digest(), scene.store.digest());
            let in_force: Vec<_> = scene.applier.builder.keys().map(|key| key.suffix()).collect();
            for key in scene.store.records.keys() {
                prop_assert!(in_force.contains(key));
            }
            for key in in_force {
                prop_assert_eq!(scene.applier.held_back.contains(&key), !scene.store.records.contains_key(&key));
            }
        }
    }
}

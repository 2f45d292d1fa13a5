//! The three ways of keeping routes, held against one list of records.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use waypost_conf::SlotHash;

use super::{super::testing_meta, *};

/// By service and record, the number of the put.
type Model = BTreeMap<(u32, Vec<u8>), u64>;

fn route(number: u64) -> Route {
    Route { owner: UpstreamId::new(0), epoch: number, state: State::Serving, meta: testing_meta(number) }
}

#[test]
fn the_greatest_record_that_is_not_above_a_key_owns_it_bytewise() {
    let mut routes = Routes::default();
    let service = ServiceId::new(1);
    routes.set_partition(service, Partition::Range);
    for (number, record) in ["b", "d", "d/x", "\u{e9}"].iter().enumerate() {
        routes.insert(service, record.as_bytes(), route(number as u64));
    }
    for (key, record) in [
        ("a", None),
        ("b", Some("b")),
        ("c", Some("b")),
        ("cz", Some("b")),
        ("d", Some("d")),
        ("d/", Some("d")),
        ("d/xy", Some("d/x")),
        ("z", Some("d/x")),
    ] {
        let found = routes.find(service, key.as_bytes()).map(|(record, _)| record.unwrap());
        assert_eq!(found, record.map(str::as_bytes), "{key}");
    }
    assert_eq!(routes.find(service, b"\xff").unwrap().0, Some("\u{e9}".as_bytes()));
}

#[test]
fn a_range_that_grows_needs_a_newer_epoch() {
    let mut routes = Routes::default();
    let service = ServiceId::new(1);
    routes.set_partition(service, Partition::Range);
    for (record, epoch) in [("a", 3), ("m", 5), ("t", 4)] {
        routes.insert(service, record.as_bytes(), route(epoch));
    }
    routes.settle();
    assert_eq!(routes.doubts(service, false), []);
    routes.remove(service, b"m");
    routes.settle();
    assert_eq!(routes.doubts(service, false), [(Some(b"a"[..].into()), GROWN.to_owned())]);
    // Written again at a newer epoch, in the same transaction or later, it is in order.
    routes.remove(service, b"t");
    routes.insert(service, b"a", route(6));
    routes.settle();
    assert!(routes.doubts(service, false).is_empty());
}

proptest! {
    #[test]
    fn whatever_the_partition_records_are_kept_found_and_moved(
        steps in proptest::collection::vec((0u8..12, 0u32..3, 0u32..40), 1..200),
        keys in proptest::collection::vec(0u32..60, 10),
    ) {
        let mut routes = Routes::default();
        let mut partitions: BTreeMap<u32, Partition> = BTreeMap::new();
        let mut model: Model = BTreeMap::new();
        let mut published: Option<(Routes, Model)> = None;
        for (number, (what, service, record)) in steps.into_iter().enumerate() {
            let (id, name) = (ServiceId::new(service), record.to_string().into_bytes());
            match what {
                0 => {
                    let partition = match record % 4 {
                        0 => Partition::Exact,
                        1 => Partition::Range,
                        2 => Partition::Slots { count: 50, hash: SlotHash::Crc16 },
                        _ => Partition::Slots { count: 41, hash: SlotHash::Xxh3 },
                    };
                    routes.set_partition(id, partition);
                    partitions.insert(service, partition);
                }
                1..=7 => {
                    routes.insert(id, &name, route(number as u64));
                    model.insert((service, name), number as u64);
                }
                8 => {
                    routes.settle();
                    published = Some((routes.clone(), model.clone()));
                }
                _ => {
                    routes.remove(id, &name);
                    model.remove(&(service, name));
                }
            }
            prop_assert_eq!(routes.len(), model.len());
        }
        routes.settle();
        for (service, record) in model.keys() {
            prop_assert!(routes.get(ServiceId::new(*service), record).is_some());
        }
        for key in keys {
            let key = key.to_string().into_bytes();
            for service in 0..3 {
                let found = routes.find(ServiceId::new(service), &key).map(|(record, route)| (record.unwrap_or(&key).to_vec(), route.epoch));
                let of_service = || model.iter().filter(|((of, _), _)| *of == service).map(|((_, record), number)| (record.clone(), *number));
                let wanted = match partitions.get(&service).copied().unwrap_or_default() {
                    Partition::Exact => of_service().find(|(record, _)| *record == key),
                    Partition::Range => of_service().filter(|(record, _)| *record <= key).max(),
                    // One slot a record here: it is the key's, or none is.
                    Partition::Slots { .. } => found.clone().filter(|found| of_service().any(|record| record == *found)),
                };
                prop_assert_eq!(found, wanted);
            }
        }
        // What was published stays what it was.
        if let Some((routes, model)) = published {
            let all: BTreeMap<_, _> = routes.iter().map(|(service, record, route)| ((service.index() as u32, record.to_vec()), route.epoch)).collect();
            prop_assert_eq!(all, model);
        }
    }
}

fn frozen_of(routes: &Routes) -> BTreeSet<(u32, Vec<u8>)> {
    let (records, are_more) = routes.frozen();
    assert!(!are_more);
    records.map(|(service, record, _)| (u32::try_from(service.index()).unwrap(), record.to_vec())).collect()
}

proptest! {
    /// Whatever is put, taken out, and kept in which way: the records that are frozen are known, and no others.
    #[test]
    fn frozen_records_are_known(acts in proptest::collection::vec((0u8..6, 0u32..2, 0u8..200), 0..400)) {
        let mut routes = Routes::default();
        let mut frozen = BTreeSet::new();
        for (number, (act, service, key)) in acts.into_iter().enumerate() {
            let (id, record) = (ServiceId::new(service), key.to_string().into_bytes());
            let state = if act < 3 { State::Frozen } else { State::Serving };
            match act {
                0..5 => {
                    routes.insert(id, &record, Route { state, ..route(number as u64) });
                    if act < 3 { frozen.insert((service, record)); } else { frozen.remove(&(service, record)); }
                }
                _ if key == 0 => routes.set_partition(id, Partition::Range),
                _ => {
                    routes.remove(id, &record);
                    frozen.remove(&(service, record));
                }
            }
            if number % 32 == 0 { prop_assert_eq!(&frozen_of(&routes), &frozen); }
        }
        prop_assert_eq!(&frozen_of(&routes), &frozen);
    }
}

#[test]
fn of_very_many_frozen_records_some_are_left_out_until_there_are_fewer() {
    let (mut routes, service) = (Routes::default(), ServiceId::new(0));
    let put =
        |routes: &mut Routes, number: usize, state| routes.insert(service, number.to_string().as_bytes(), Route { state, ..route(1) });
    let all = 2 * frozen::MOST;
    (0..all).for_each(|number| put(&mut routes, number, State::Frozen));
    let (records, are_more) = routes.frozen();
    assert_eq!((records.count(), are_more), (frozen::MOST, true));
    (0..all - 5).for_each(|number| put(&mut routes, number, State::Serving));
    // It is noticed when more are frozen.
    (all..all + frozen::MOST / 2).for_each(|number| put(&mut routes, number, State::Frozen));
    (all..all + frozen::MOST / 2).for_each(|number| put(&mut routes, number, State::Serving));
    (all..all + 100).for_each(|number| put(&mut routes, number, State::Frozen));
    assert_eq!(frozen_of(&routes).len(), 105);
}

//! The hash against Redis Cluster's published values, and the pages against the rule written as a search over all records.

use proptest::prelude::*;

use super::{super::super::testing_meta, *};

fn route(number: u64, epoch: u64) -> Route {
    Route { owner: super::super::UpstreamId::new(0), epoch, state: super::super::State::Serving, meta: testing_meta(number) }
}

#[test]
fn the_slots_are_redis_cluster_s() {
    // The check value of the specification's hash, and what `CLUSTER KEYSLOT` answers in Redis' own documentation.
    assert_eq!(CRC16.checksum(b"123456789"), 0x31c3);
    let keys = [("somekey", 11058), ("foo{hash_tag}", 2515), ("bar{hash_tag}", 2515), ("foo", 12182), ("bar", 5061), ("hello", 866)];
    for (key, slot) in keys {
        assert_eq!(slot_of(key.as_bytes(), 16384, SlotHash::Crc16), slot, "{key}");
    }
    // The rule of the tag, by the examples of the cluster specification.
    for (key, hashed) in [
        ("{user1000}.following", "user1000"),
        ("foo{}{bar}", "foo{}{bar}"),
        ("foo{{bar}}zap", "{bar"),
        ("foo{bar}{zap}", "bar"),
        ("foo{bar", "foo{bar"),
        ("}foo{", "}foo{"),
    ] {
        assert_eq!(hash_tag(key.as_bytes()), hashed.as_bytes(), "{key}");
    }
}

#[test]
fn a_record_names_one_slot_or_a_range_of_those_that_there_are() {
    for (record, wanted) in [("7", Some((7, 7))), ("0-99", Some((0, 99))), ("99", Some((99, 99))), ("05-6", Some((5, 6)))] {
        assert_eq!(parse(record.as_bytes(), 100), wanted, "{record}");
    }
    for record in ["", "-", "7-", "-7", "9-8", "100", "0-100", "a", "1-2-3", " 7", "+7", "99999999999"] {
        assert_eq!(parse(record.as_bytes(), 100), None, "{record}");
    }
}

#[test]
fn what_is_doubtful_is_named() {
    let mut slots = Slots::new(100, SlotHash::Xxh3);
    for (number, record) in ["0-9", "5-12", "20-99", "x", "200"].iter().enumerate() {
        slots.insert(record.as_bytes(), route(number as u64, 1));
    }
    slots.settle();
    let said: Vec<String> = slots
        .doubts(true)
        .into_iter()
        .map(|(record, text)| {
            format!("{}: {text}", record.map_or_else(String::new, |record| String::from_utf8_lossy(&record).into_owned()))
        })
        .collect();
    assert_eq!(said.len(), 4, "{said:#?}");
    assert!(said[0].starts_with("200: covers nothing") && said[1].starts_with("x: covers nothing"), "{said:#?}");
    assert!(said[2].starts_with("0-9: overlaps 5-12"), "{said:#?}");
    assert!(said[3].starts_with(": no route covers the slots 13-19; they go to the default owner"), "{said:#?}");
}

#[test]
fn a_record_that_takes_slots_over_needs_a_newer_epoch() {
    let mut slots = Slots::new(10, SlotHash::Crc16);
    slots.insert(b"0-9", route(1, 5));
    slots.insert(b"3", route(2, 6));
    slots.settle();
    slots.remove(b"3");
    slots.settle();
    assert!(slots.doubts(true).iter().any(|(record, text)| record.as_deref() == Some(b"0-9") && text == GROWN));
    slots.insert(b"0-9", route(3, 7));
    slots.settle();
    assert!(slots.doubts(true).is_empty());
}

proptest! {
    #[test]
    fn every_slot_is_its_narrowest_then_newest_record_s(
        batches in proptest::collection::vec(proptest::collection::vec((any::<bool>(), 0u32..700, 0u32..90), 1..12), 1..12),
    ) {
        const COUNT: u32 = 700;
        let mut slots = Slots::new(COUNT, SlotHash::Xxh3);
        let mut model = std::collections::BTreeMap::new();
        let mut revision = 0;
        for batch in batches {
            for (is_put, first, width) in batch {
                revision += 1;
                let last = (first + width).min(COUNT - 1);
                let record = if width == 0 { first.to_string() } else { format!("{first}-{last}") };
                if is_put {
                    slots.insert(record.as_bytes(), route(revision, revision));
                    model.insert(record, (first, last, revision));
                } else {
                    // What is there is removed as often as what is not.
                    let gone = model.keys().nth(first as usize % (model.len() + 1)).cloned().unwrap_or(record);
                    slots.remove(gone.as_bytes());
                    model.remove(&gone);
                }
            }
            slots.settle();
            for slot in 0..COUNT {
                let covering = model.iter().filter(|(_, (first, last, _))| (*first..=*last).contains(&slot));
                let wanted = covering.min_by_key(|(_, (first, last, revision))| (last - first, std::cmp::Reverse(*revision)));
                let found = slots.pages[slot as usize / PAGE][slot as usize % PAGE].as_deref();
                prop_assert_eq!(found.map(|found| &*found.record), wanted.map(|(record, _)| record.as_bytes()), "slot {}", slot);
            }
        }
    }
}

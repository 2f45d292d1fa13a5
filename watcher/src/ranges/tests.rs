//! Plans held against a store in memory that counts what each read would cost etcd.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What etcd 3.4 would have had to do.
#[derive(Debug, Default)]
struct Cost {
    reads: usize,
    /// Keys walked: all of each range, whatever the limit.
    walked: usize,
}

fn stored(key: &[u8]) -> Stored {
    Stored { key: key.to_vec(), value: Vec::new(), create_revision: 1, mod_revision: 1, leased: false }
}

/// All keys in the order in which they came, as a list with answers of so many would get them.
fn list(store: &BTreeSet<Vec<u8>>, mut plan: Plan, limit: usize) -> (Vec<Vec<u8>>, Cost) {
    let (mut listed, mut cost) = (Vec::new(), Cost::default());
    while let Some(range) = plan.next() {
        let inside: Vec<&Vec<u8>> = match &range.end {
            Some(end) if *end > range.from => store.range(range.from.clone()..end.clone()).collect(),
            Some(_) => Vec::new(),
            None => store.range(range.from.clone()..).collect(),
        };
        cost.reads += 1;
        cost.walked += inside.len();
        let got: Vec<Stored> = inside.iter().take(limit).map(|key| stored(key)).collect();
        if inside.len() > limit {
            plan.more(range, &got, inside.len()).unwrap();
        }
        listed.extend(got.into_iter().map(|stored| stored.key));
        assert!(cost.reads < 100_000, "a list without end");
    }
    (listed, cost)
}

fn cut(fences: impl IntoIterator<Item = Vec<u8>>) -> Plan {
    let mut plan = Plan::new();
    plan.cut(fences);
    plan
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(prop_oneof![Just(0u8), Just(255), Just(b'a'), any::<u8>()], 0..5),
        "routes/[a-c]{1,2}/t-[0-9]{1,4}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn every_key_is_listed_once_and_in_order_whatever_the_fences(
        store in proptest::collection::btree_set(key(), 0..120), fences in proptest::collection::vec(key(), 0..12), limit in 1usize..20
    ) {
        let (listed, _) = list(&store, cut(fences), limit);
        prop_assert_eq!(listed, store.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn what_starts_alike_is_listed_alone(
        store in proptest::collection::btree_set(key(), 0..120), start in key(), length in 0usize..5, limit in 1usize..20
    ) {
        let start = &start[..length.min(start.len())];
        let (listed, _) = list(&store, Plan::below(start), limit);
        let wanted: Vec<Vec<u8>> = store.iter().filter(|key| key.starts_with(start)).cloned().collect();
        prop_assert_eq!(listed, wanted);
    }

    #[test]
    fn cuts_guessed_from_a_few_keys_are_in_order_and_behind_them(keys in proptest::collection::btree_set(key(), 1..40), apart in 1usize..50) {
        let records: Vec<Stored> = keys.iter().map(|key| stored(key)).collect();
        let cuts = spread::cuts(&records, apart, 30);
        prop_assert!(cuts.is_sorted());
        prop_assert!(cuts.first().is_none_or(|cut| cut >= &records[0].key), "{cuts:?}");
    }
}

#[test]
fn cuts_go_on_evenly_and_then_beyond_what_the_keys_have_in_common() {
    let records: Vec<Stored> = (100..200).map(|n| stored(format!("routes/service-1/tenant-{n}").as_bytes())).collect();
    let cuts = spread::cuts(&records, 10, 5);
    assert!(cuts.is_sorted());
    assert!(cuts.iter().take(5).all(|cut| cut.starts_with(b"routes/service-1/tenant-2")), "{cuts:?}");
    let elsewhere = cuts.iter().filter(|cut| cut.as_slice() > b"routes/service-2".as_slice()).count();
    assert!((1..100).contains(&elsewhere), "{elsewhere}: {cuts:?}");
}

/// A deterministic scatter of numbers.
fn scattered(n: u64) -> u64 {
    (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (n << 32).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

/// Names as people give them: words of unequal frequency.
fn named(n: u64) -> String {
    const WORDS: [&str; 12] = ["acme", "alpha", "bank", "beta", "cafe", "delta", "mart", "north", "shop", "south", "store", "zoo"];
    let mut bits = scattered(n);
    let mut word = || {
        let at = (bits % 12).min(bits / 12 % 12);
        bits /= 144;
        WORDS[usize::try_from(at).unwrap()]
    };
    format!("{}-{}-{}-{n}", word(), word(), word())
}

type Naming = fn(u64) -> String;

#[test]
fn a_list_does_not_cost_the_square_of_what_there_is() {
    const KEYS: usize = 120_000;
    let spreads: [(&str, Naming); 7] = [
        ("numbers", |n| format!("routes/orders/tenant-{n}")),
        ("padded numbers", |n| format!("routes/orders/tenant-{n:08}")),
        ("hexadecimal", |n| format!("routes/orders/{:016x}", scattered(n))),
        ("names", |n| format!("routes/orders/{}", named(n))),
        ("regions", |n| format!("routes/orders/{}/tenant-{n}", ["ap-south", "eu-west", "us-east"][usize::try_from(n % 3).unwrap()])),
        ("services", |n| format!("routes/service-{}/tenant-{n}", n % 20)),
        ("clumps", |n| if n % 2 == 0 { format!("routes/orders/a-{n}") } else { format!("routes/orders/{:016x}-b", scattered(n)) }),
    ];
    for (name, key) in spreads {
        let keys = (0..KEYS as u64).map(|n| key(n).into_bytes());
        let store: BTreeSet<Vec<u8>> = keys.chain([b"services/orders".to_vec()]).collect();
        // A store that nothing is known of: pages of an open range would walk six times what there is, and more the more there is.
        let (listed, cost) = list(&store, Plan::new(), LIMIT);
        assert!(listed.iter().eq(&store), "{name}");
        assert!(cost.walked < 4 * KEYS && cost.reads < KEYS / 400, "{name}: {cost:?}");
        // With the keys that were known, or half of them.
        let half = store.iter().enumerate().filter(|(n, _)| n % 2 == 0).map(|(_, key)| key.clone());
        for known in [fences(store.iter().cloned().step_by(ONE_IN)), fences(half.step_by(ONE_IN))] {
            let (listed, cost) = list(&store, cut(known), LIMIT);
            assert!(listed.iter().eq(&store), "{name}");
            assert!(cost.walked < 2 * KEYS && cost.reads < KEYS / 400, "{name}, known: {cost:?}");
        }
    }
}

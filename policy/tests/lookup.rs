//! A look-up takes what is there: no allocation, whatever the partition and whether or not there is a route.
#![allow(clippy::unwrap_used, reason = "a test that can't go on ends with the reason")]

use std::{alloc::System, sync::Arc};

use cap::Cap;
use waypost_conf::{RecordKey, decode};
use waypost_policy::{
    Source, TableId,
    table::{Builder, Entry, Meta, Publication, RequestKey, Table},
};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const SERVICES: [(&str, &str); 3] = [
    ("exact", r#"{"match":[{"hosts":["exact.example"]}],"key":{"header":"k"}}"#),
    ("slots", r#"{"match":[{"hosts":["slots.example"]}],"key":{"header":"k"},"partition":{"slots":16384,"hash":"crc16"}}"#),
    ("range", r#"{"match":[{"hosts":["range.example"]}],"key":{"header":"k"},"partition":"range"}"#),
];

fn table() -> Arc<Table> {
    let mut builder = Builder::default();
    let mut put = |key: String, value: &str| {
        let key = RecordKey::parse(key.as_bytes()).unwrap();
        builder.put(&key, decode(&key, value.as_bytes()).unwrap().record, Meta::default());
    };
    for (service, record) in SERVICES {
        put(format!("services/{service}"), record);
    }
    for number in 0..1000 {
        put(format!("routes/exact/tenant-{number}"), r#"{"owner":"a"}"#);
        put(format!("routes/slots/{}-{}", number * 16, number * 16 + 7), r#"{"owner":"a"}"#);
        put(format!("routes/range/tenant-{number}"), r#"{"owner":"a"}"#);
    }
    builder.publish(Publication { revision: 1, id: TableId::file(), source: Source::Watch, digest: 0 })
}

/// How many of these keys have a route.
fn found(table: &Table, keys: &[RequestKey]) -> usize {
    keys.iter().filter(|key| matches!(table.entry(key), Entry::Route(..))).count()
}

#[test]
fn a_lookup_allocates_nothing() {
    let table = table();
    for (service, _) in SERVICES {
        let id = table.service_named(service).unwrap().id;
        let keys: Vec<_> = (0..2000).map(|n| RequestKey { service: id, key: format!("tenant-{n}").into_bytes().into() }).collect();
        let host = format!("{service}.example");
        // The harness has a thread of its own, which may allocate now and then, but not in every round.
        let allocated = (0..10).map(|_| {
            let before = ALLOCATOR.total_allocated();
            assert!(table.find_service(Some(host.as_bytes()), b"/a/path").is_some());
            assert!(found(&table, &keys) >= 900, "{service}");
            ALLOCATOR.total_allocated() - before
        });
        assert_eq!(allocated.min(), Some(0), "{service}");
    }
}

//! What a publish costs where a service is cut into slots or ranges, with as many records as Redis Cluster has slots: of one route, and of one
//! endpoint, which has nothing to do with them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use waypost_conf::{RecordKey, decode};
use waypost_policy::{
    Source, Table, TableId,
    table::{Builder, Meta, Publication},
};

use crate::ALLOCATOR;

const RECORDS: u64 = 16_384;
const OWNERS: u64 = 100;
const PUBLISHES: usize = 100;

/// Its name, what the service's record says of it, and the key of a record.
type Kind<'a> = (&'a str, &'a str, fn(u64) -> String);

struct Writer {
    builder: Builder,
    revision: u64,
}

impl Writer {
    fn put(&mut self, key: &str, value: &str) {
        self.revision += 1;
        let meta = Meta { create_revision: 1, mod_revision: self.revision, digest: u128::from(self.revision), leased: true };
        let decoded = RecordKey::parse(key.as_bytes()).ok().and_then(|key| Some((decode(&key, value.as_bytes()).ok()?.record, key)));
        match decoded {
            Some((record, key)) => self.builder.put(&key, record, meta),
            None => unreachable!("{key}: {value}"),
        }
    }

    fn publish(&mut self) -> Arc<Table> {
        let about = Publication { revision: self.revision, id: TableId::file(), source: Source::Watch, digest: 0 };
        self.builder.publish(about)
    }

    /// The middle one and the slowest.
    fn publishes(&mut self, mut change: impl FnMut(&mut Self, u64)) -> (Duration, Duration) {
        let mut rng = fastrand::Rng::with_seed(6);
        let mut table = self.publish();
        let mut took: Vec<Duration> = (0..PUBLISHES)
            .map(|_| {
                change(self, rng.u64(..RECORDS));
                let since = Instant::now();
                let old = std::mem::replace(&mut table, self.publish());
                let took = since.elapsed();
                drop(old);
                took
            })
            .collect();
        took.sort();
        (took[PUBLISHES / 2], took[PUBLISHES - 1])
    }
}

/// Measures each kind and prints it.
pub(crate) fn run() {
    println!("\n{RECORDS} records of one service, {PUBLISHES} publishes: the middle one and the slowest");
    println!("{:<22} {:>21} {:>21} {:>9}", "way", "one route", "one endpoint", "B/record");
    let slots = format!(r#","partition":{{"slots":{RECORDS},"hash":"crc16"}}"#);
    let kinds: [Kind<'_>; 3] = [
        ("exact", "", |number| format!("tenant-{number:05}")),
        ("slots", &slots, |number| number.to_string()),
        ("range", r#","partition":"range""#, |number| format!("tenant-{number:05}")),
    ];
    for (name, partition, record) in kinds {
        let before = ALLOCATOR.allocated();
        let mut writer = Writer { builder: Builder::default(), revision: 0 };
        writer.put("services/s", &format!(r#"{{"match":[{{}}],"key":{{"header":"k"}}{partition}}}"#));
        for number in 0..OWNERS {
            writer.put(&format!("upstreams/cell-{number}"), "{}");
        }
        writer.publish();
        let put = |writer: &mut Writer, number: u64| {
            let owner = (number + writer.revision) % OWNERS;
            writer.put(&format!("routes/s/{}", record(number)), &format!(r#"{{"owner":"cell-{owner}"}}"#));
        };
        (0..RECORDS).for_each(|number| put(&mut writer, number));
        drop(writer.publish());
        let bytes = ALLOCATOR.allocated().saturating_sub(before) as f64 / RECORDS as f64;
        let route = writer.publishes(put);
        let endpoint = writer.publishes(|writer, number| {
            writer.put(&format!("endpoints/cell-{}/e", number % OWNERS), r#"{"address":"127.0.0.1:1"}"#);
        });
        let both = |(middle, slowest): (Duration, Duration)| format!("{middle:.1?} / {slowest:.1?}");
        println!("{name:<22} {:>21} {:>21} {bytes:>9.0}", both(route), both(endpoint));
    }
}

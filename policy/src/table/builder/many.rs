//! What concerns a great many routes at once: putting them, and telling which of those that are known a list has.

use waypost_conf::RecordKey;

use super::{
    super::routes::{Batch, Marks},
    Builder, Meta, ServiceId,
};

/// Which of the known routes a list has; good until the next change.
#[derive(Debug)]
pub struct Met(Marks);

impl Builder {
    /// Puts all routes of some batches in force at the next publish.
    pub fn put_batches<'a>(&mut self, batches: impl Iterator<Item = &'a Batch>) {
        let mut numbered = Vec::new();
        for batch in batches {
            // Each name is looked up once a batch.
            let services: Vec<ServiceId> = batch.services().map(|name| self.service_id(name)).collect();
            numbered.push(batch.numbered(services, |name| self.upstream_id(name)));
        }
        self.routes.insert_all(&numbered);
    }

    /// None met yet.
    pub fn nothing_met(&self) -> Met {
        Met(self.routes.marks())
    }

    /// A list has this route; what the store said of it before, if it was known.
    pub fn meet(&self, met: &mut Met, service: &str, key: &[u8]) -> Option<Meta> {
        let service = ServiceId::new(self.service_names.number(service)?);
        self.routes.mark(&mut met.0, service, key).map(|route| route.meta)
    }

    /// The known routes that were not met.
    pub fn unmet<'a>(&'a self, met: &'a Met) -> impl Iterator<Item = RecordKey> {
        self.routes.unmarked(&met.0).filter_map(|(service, key)| self.route_key(service, key))
    }

    /// About one in `every` routes, chosen without regard to their keys.
    pub fn sample(&self, every: usize) -> impl Iterator<Item = RecordKey> {
        self.routes.sample(every.max(1)).filter_map(|(service, key)| self.route_key(service, key))
    }

    fn route_key(&self, service: ServiceId, key: &[u8]) -> Option<RecordKey> {
        let service = self.service_names.name(service.index())?.clone();
        Some(RecordKey::Route { service, key: key.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use waypost_conf::{Name, Record};

    use super::*;
    use crate::table::{Source, TableId, builder::Publication, testing_meta};

    /// Enough for two threads.
    const ROUTES: u64 = 20_000;

    fn route(number: u64) -> (RecordKey, waypost_conf::Route, Meta) {
        let service = Name::try_from(["exact", "ranges", "new"][usize::try_from(number % 3).unwrap()]).unwrap();
        let key = RecordKey::Route { service, key: format!("tenant-{number}").into_bytes() };
        let state = if number.is_multiple_of(5) { r#","state":"moving","target":"c""# } else { "" };
        let value = format!(r#"{{"owner":"cell-{}","epoch":{}{state}}}"#, number % 7, number + 1);
        let Record::Route(route) = waypost_conf::decode(&key, value.as_bytes()).unwrap().record else { panic!("no route") };
        (key, route, testing_meta(number + 1))
    }

    fn batches(numbers: impl Iterator<Item = u64>) -> Vec<Batch> {
        let mut batches = vec![Batch::default(); 3];
        for number in numbers {
            let (key, route, meta) = route(number);
            let RecordKey::Route { service, key } = key else { panic!("no route") };
            assert!(batches[usize::try_from(number * 3 / ROUTES).unwrap()].push(&service, &key, &route, meta));
        }
        batches
    }

    fn records(builder: &Builder) -> BTreeSet<String> {
        builder.records().map(|record| format!("{record:?}")).collect()
    }

    /// `ranges` is kept another way, if its record comes first.
    fn builder(is_cut: bool) -> Builder {
        let mut builder = Builder::default();
        if is_cut {
            let key = RecordKey::parse(b"services/ranges").unwrap();
            let value = br#"{"match":[{"path_prefix":"/r"}],"key":{"header":"x"},"partition":"range"}"#;
            builder.put(&key, waypost_conf::decode(&key, value).unwrap().record, testing_meta(1));
            builder.publish(Publication { revision: 1, id: TableId::file(), source: Source::Watch, digest: 0 });
        }
        builder
    }

    #[test]
    fn many_put_at_once_are_what_they_are_one_by_one() {
        for is_cut in [false, true] {
            let (mut together, mut alone) = (builder(is_cut), builder(is_cut));
            // Numbers of names are others than the batches', and some routes are known already.
            for number in [5, 4, ROUTES - 1] {
                let (key, route, meta) = route(number);
                together.put(&key, Record::Route(route), meta);
            }
            let all = batches(0..ROUTES);
            together.put_batches(all.iter());
            for (key, route, meta) in (0..ROUTES).map(route) {
                alone.put(&key, Record::Route(route), meta);
            }
            assert_eq!(together.route_count(), alone.route_count());
            assert!(records(&together) == records(&alone), "is_cut: {is_cut}");
            let back: BTreeSet<String> =
                all.iter().flat_map(|batch| batch.select(0..batch.len())).map(|(key, ..)| key.to_string()).collect();
            assert_eq!(back.len() as u64, ROUTES);
        }
    }

    #[test]
    fn what_a_list_has_not_is_told() {
        for is_cut in [false, true] {
            let mut builder = builder(is_cut);
            builder.put_batches(batches(0..ROUTES).iter());
            let mut met = builder.nothing_met();
            let is_listed = |number: u64| number % 10 != 3;
            for batch in batches((0..ROUTES).filter(|number| is_listed(*number))) {
                for (service, key, meta) in batch.metas() {
                    assert_eq!(builder.meet(&mut met, service, key), Some(meta));
                    builder.meet(&mut met, service, key);
                }
            }
            assert_eq!(builder.meet(&mut met, "exact", b"another"), None);
            let wanted: BTreeSet<RecordKey> = (0..ROUTES).filter(|number| !is_listed(*number)).map(|number| route(number).0).collect();
            assert!(builder.unmet(&met).collect::<BTreeSet<_>>() == wanted, "is_cut: {is_cut}");
        }
    }

    #[test]
    fn a_sample_is_about_as_large_as_is_asked_for() {
        let mut builder = builder(false);
        builder.put_batches(batches(0..ROUTES).iter());
        let sampled = builder.sample(50).count() as u64;
        assert!((ROUTES / 75..ROUTES / 35).contains(&sampled), "{sampled}");
    }
}

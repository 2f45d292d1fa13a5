//! Since when records have been frozen, as one process has seen it in its tables.

use std::{collections::HashMap, time::Duration};

use waypost_conf::Name;

use crate::{Moment, Table};

/// A frozen record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// The service's name.
    pub service: Name,
    /// The key below `routes/<service>/`.
    pub record: Vec<u8>,
    /// Who is to serve it when it is given back.
    pub owner: Option<Name>,
    /// The record's `mod_revision`.
    pub revision: u64,
    /// When it was seen frozen first.
    pub since: Moment,
}

/// All that are frozen now.
#[derive(Debug, Default)]
pub struct Freezes {
    known: HashMap<(Name, Vec<u8>), Freeze>,
    are_more: bool,
}

impl Freezes {
    /// Looks at the table in force. A record that was written anew is a freeze of its own. Those that were not there the last time.
    pub fn look(&mut self, table: &Table, now: Moment) -> Vec<Freeze> {
        let mut before = std::mem::take(&mut self.known);
        let mut new = Vec::new();
        let (records, are_more) = table.frozen();
        self.are_more = are_more;
        for (service, record, route) in records {
            let key = (service.clone(), record.to_vec());
            let revision = route.meta.mod_revision;
            let freeze = before.remove(&key).filter(|known| known.revision == revision).unwrap_or_else(|| {
                let owner = table.upstream_name(route.owner).cloned();
                let freeze = Freeze { service: key.0.clone(), record: key.1.clone(), owner, revision, since: now };
                new.push(freeze.clone());
                freeze
            });
            self.known.insert(key, freeze);
        }
        new
    }

    /// Those that are frozen, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Freeze> {
        self.known.values()
    }

    /// Whether this one is still there.
    pub fn has(&self, freeze: &Freeze) -> bool {
        let key = (freeze.service.clone(), freeze.record.clone());
        self.known.get(&key).is_some_and(|known| known.revision == freeze.revision)
    }

    /// Those that have been frozen for longer than a move takes, and whether there are more than are known.
    pub fn longer_than(&self, limit: Duration, now: Moment) -> (Vec<&Freeze>, bool) {
        let mut long: Vec<&Freeze> = self.all().filter(|freeze| now.since(freeze.since) > limit).collect();
        long.sort_unstable_by(|one, other| (&one.service, &one.record).cmp(&(&other.service, &other.record)));
        (long, self.are_more)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::table::testing;

    fn table(t1: &str, t2: &str, revision: u64) -> Arc<Table> {
        let mut builder = testing::builder(&[("upstreams/a", "{}"), ("routes/orders/t2", t2)]);
        testing::put(&mut builder, "routes/orders/t1", t1, revision);
        let (id, source) = (crate::TableId::etcd(1, 0), crate::Source::Watch);
        builder.publish(crate::table::Publication { revision, id, source, digest: 0 })
    }

    #[test]
    fn a_freeze_counts_from_when_it_was_seen_and_anew_when_it_was_written_anew() {
        const SERVING: &str = r#"{"owner":"a"}"#;
        const FROZEN: &str = r#"{"owner":"a","state":"frozen"}"#;
        let at = |ms| Moment::default() + Duration::from_millis(ms);
        let limit = Duration::from_secs(2);
        let mut freezes = Freezes::default();
        assert_eq!(freezes.look(&table(SERVING, SERVING, 5), at(0)), []);
        let new = freezes.look(&table(FROZEN, FROZEN, 6), at(10));
        let one = new.iter().find(|freeze| freeze.record == b"t1").unwrap();
        assert_eq!((new.len(), one.owner.as_deref(), one.revision, one.since), (2, Some("a"), 6, at(10)));
        assert_eq!(freezes.look(&table(FROZEN, FROZEN, 6), at(20)), []);
        assert!(freezes.longer_than(limit, at(2010)).0.is_empty());
        let records =
            |freezes: &Freezes, now| freezes.longer_than(limit, now).0.iter().map(|freeze| freeze.record.clone()).collect::<Vec<_>>();
        assert_eq!(records(&freezes, at(2011)), [b"t1", b"t2"]);
        let again = freezes.look(&table(FROZEN, FROZEN, 7), at(1000));
        assert_eq!(again.len(), 1, "its freeze is another one");
        assert!(!freezes.has(one) && freezes.has(&again[0]));
        assert_eq!(records(&freezes, at(2011)), [b"t2"]);
        freezes.look(&table(SERVING, FROZEN, 8), at(2012));
        assert_eq!(records(&freezes, at(4000)), [b"t2"]);
    }
}

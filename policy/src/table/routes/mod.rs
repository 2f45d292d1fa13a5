//! The routes of all services, kept as each service's partition has it: by name in one hash table, by hash slots, or by ranges.
//!
//! A clone shares everything; a change copies the part that it touches: a partition of the hash table, a page of slots, a chunk of ranges. A
//! service that has no record yet, or says nothing, is exact; when it changes its partition, its records move. Records are kept by the
//! service and the record's own key, whatever they cover.

mod batch;
mod frozen;
mod hashed;
mod index;
mod packed;
mod ranges;
mod slots;
mod sorted;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use waypost_conf::Partition;

use super::{Meta, ServiceId, UpstreamId};
pub use batch::Batch;
use batch::Numbered;
use frozen::Frozen;
use hashed::Hashed;
use ranges::Ranges;
use slots::Slots;

/// Something doubtful about routes: the record's key, if it is about one, and a sentence.
pub(super) type Doubt = (Option<Box<[u8]>>, String);

/// What is said of a record whose coverage grew.
const GROWN: &str = "took over what another record covered, at no newer epoch: proxies and owners that are behind can't tell which is \
                     newer; write it again with a higher epoch, next time in the transaction that deletes the other";

/// What a route's record says about serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The owner serves.
    Serving,
    /// The owner serves, and single items may have gone to the target.
    Moving(UpstreamId),
    /// Nobody may serve now.
    Frozen,
    /// The record is quarantined and there is no last good value: answered 503.
    Quarantined,
}

impl State {
    /// As it is written in records and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Moving(_) => "moving",
            Self::Frozen => "frozen",
            Self::Quarantined => "quarantined",
        }
    }
}

/// One route in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Who owns the key. Meaningless when quarantined.
    pub owner: UpstreamId,
    /// The generation of the ownership; 0 has no order.
    pub epoch: u64,
    /// What the record says about serving.
    pub state: State,
    /// The record, as the store has it, that this value came from.
    pub meta: Meta,
}

impl Route {
    /// A key whose only value is bad.
    pub fn quarantined(meta: Meta) -> Self {
        Self { owner: UpstreamId::new(u32::MAX), epoch: 0, state: State::Quarantined, meta }
    }
}

/// The routes of a service that is not exact.
#[derive(Clone, Debug)]
enum Cut {
    Slots(Slots),
    Ranges(Ranges),
}

/// Which records have been met.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    exact: hashed::Marks,
    cut: HashSet<(ServiceId, Box<[u8]>), ahash::RandomState>,
    count: usize,
}

/// The routes of all services.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    exact: Hashed,
    /// Services that are not exact; there are few.
    cut: Arc<BTreeMap<ServiceId, Cut>>,
    frozen: Frozen,
}

impl Routes {
    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.exact.len() + self.cut.values().map(Cut::len).sum::<usize>()
    }

    /// The route under a record's own key.
    pub(super) fn get(&self, service: ServiceId, record: &[u8]) -> Option<Route> {
        match self.cut.get(&service) {
            None => self.exact.get(service, record),
            Some(cut) => cut.records().get(record).copied(),
        }
    }

    /// The record that covers a routing key (`None`: it is the key itself), and its route.
    #[inline]
    pub(super) fn find(&self, service: ServiceId, key: &[u8]) -> Option<(Option<&[u8]>, Route)> {
        if self.cut.is_empty() {
            return self.exact.get(service, key).map(|route| (None, route));
        }
        match self.cut.get(&service) {
            None => self.exact.get(service, key).map(|route| (None, route)),
            Some(Cut::Slots(slots)) => slots.find(key).map(|covering| (Some(&*covering.record), covering.route)),
            Some(Cut::Ranges(ranges)) => ranges.find(key).map(|(record, route)| (Some(record), *route)),
        }
    }

    pub(super) fn insert(&mut self, service: ServiceId, record: &[u8], route: Route) {
        if route.state == State::Frozen {
            self.note_frozen(service, record);
        }
        match Self::cut_mut(&mut self.cut, service) {
            None => self.exact.insert(service, record, &route),
            Some(cut) => cut.insert(record, route),
        }
    }

    pub(super) fn remove(&mut self, service: ServiceId, record: &[u8]) {
        // Looked for first, so that removing nothing copies nothing.
        if self.get(service, record).is_none() {
            return;
        }
        match Self::cut_mut(&mut self.cut, service) {
            None => self.exact.remove(service, record),
            Some(cut) => cut.remove(record),
        }
    }

    /// Puts many.
    pub(super) fn insert_all(&mut self, batches: &[Numbered<'_>]) {
        for (service, record) in batches.iter().flat_map(Numbered::frozen) {
            self.note_frozen(service, record);
        }
        if self.cut.is_empty() {
            return self.exact.insert_all(batches);
        }
        batches.iter().flat_map(Numbered::routes).for_each(|(service, key, route)| self.insert(service, key, route));
    }

    /// Nothing met yet. The marks are of these routes as they are: a change makes them worthless.
    pub(super) fn marks(&self) -> Marks {
        Marks { exact: self.exact.marks(), cut: HashSet::default(), count: 0 }
    }

    /// Marks the route under a record's own key as met, and gives it.
    pub(super) fn mark(&self, marks: &mut Marks, service: ServiceId, record: &[u8]) -> Option<Route> {
        let (is_new, route) = match self.cut.get(&service) {
            None => self.exact.mark(&mut marks.exact, service, record)?,
            Some(cut) => {
                let route = *cut.records().get(record)?;
                (marks.cut.insert((service, record.into())), route)
            }
        };
        marks.count += usize::from(is_new);
        Some(route)
    }

    /// The records that were not met.
    pub(super) fn unmarked<'a>(&'a self, marks: &'a Marks) -> impl Iterator<Item = (ServiceId, &'a [u8])> {
        let cut = self.cut.iter().flat_map(|(service, cut)| cut.records().iter().map(move |(record, _)| (*service, record)));
        let cut = cut.filter(|(service, record)| !marks.cut.contains(&(*service, Box::from(*record))));
        let all = self.exact.unmarked(&marks.exact).chain(cut);
        // Mostly there are none, and nothing is to be looked for.
        all.take(self.len() - marks.count)
    }

    /// About one in `every` records, whatever their keys.
    pub(super) fn sample(&self, every: usize) -> impl Iterator<Item = (ServiceId, &[u8])> {
        let cut =
            self.cut.iter().flat_map(move |(service, cut)| cut.records().iter().step_by(every).map(move |(record, _)| (*service, record)));
        self.exact.sample(every).chain(cut)
    }

    /// All records.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ServiceId, &[u8], Route)> {
        let cut = self.cut.iter().flat_map(|(service, cut)| cut.records().iter().map(move |(record, route)| (*service, record, *route)));
        self.exact.iter().chain(cut)
    }

    /// The records that are frozen, in no order, and whether there are more.
    pub(super) fn frozen(&self) -> (impl Iterator<Item = (ServiceId, &[u8], Route)>, bool) {
        let records = self.frozen.kept().filter_map(|(service, record)| {
            let route = self.get(*service, record).filter(|route| route.state == State::Frozen)?;
            Some((*service, &**record, route))
        });
        (records, self.frozen.are_more())
    }

    /// A record is about to be frozen.
    fn note_frozen(&mut self, service: ServiceId, record: &[u8]) {
        if !self.frozen.note(service, record) {
            return;
        }
        let mut frozen = std::mem::take(&mut self.frozen);
        let is_frozen = |(of, key): &frozen::FrozenKey| {
            (*of == service && **key == *record) || self.get(*of, key).is_some_and(|route| route.state == State::Frozen)
        };
        if frozen.look_through(is_frozen) {
            frozen.note(service, record);
            for (of, key, _) in self.iter().filter(|(.., route)| route.state == State::Frozen) {
                frozen.note(of, key);
            }
        }
        self.frozen = frozen;
    }

    /// Keeps a service's routes this way from now on; its records move if that is another way than before.
    pub(super) fn set_partition(&mut self, service: ServiceId, partition: Partition) {
        let next = match (partition, self.cut.get(&service)) {
            (Partition::Exact, None) | (Partition::Range, Some(Cut::Ranges(_))) => return,
            (Partition::Slots { count, hash }, Some(Cut::Slots(slots))) if slots.is(count, hash) => return,
            (Partition::Exact, _) => None,
            (Partition::Slots { count, hash }, _) => Some(Cut::Slots(Slots::new(count, hash))),
            (Partition::Range, _) => Some(Cut::Ranges(Ranges::default())),
        };
        let records: Vec<(Box<[u8]>, Route)> = match self.cut.get(&service) {
            None => self.exact.take(service),
            Some(cut) => cut.records().iter().map(|(record, route)| (record.into(), *route)).collect(),
        };
        let cut = Arc::make_mut(&mut self.cut);
        match next {
            None => cut.remove(&service),
            Some(next) => cut.insert(service, next),
        };
        for (record, route) in records {
            self.insert(service, &record, route);
        }
    }

    /// Before a publish: finishes what changed records touch.
    pub(super) fn settle(&mut self) {
        let is_due = self.cut.values().any(|cut| match cut {
            Cut::Slots(slots) => slots.is_unsettled(),
            Cut::Ranges(ranges) => ranges.is_unsettled(),
        });
        if !is_due {
            return;
        }
        for cut in Arc::make_mut(&mut self.cut).values_mut() {
            match cut {
                Cut::Slots(slots) => slots.settle(),
                Cut::Ranges(ranges) => ranges.settle(),
            }
        }
    }

    /// What is doubtful about a service's routes. `is_gap_served`: it has a default owner.
    pub(super) fn doubts(&self, service: ServiceId, is_gap_served: bool) -> Vec<Doubt> {
        match self.cut.get(&service) {
            None => Vec::new(),
            Some(Cut::Slots(slots)) => slots.doubts(is_gap_served),
            Some(Cut::Ranges(ranges)) => ranges.doubts(),
        }
    }

    /// The part to change; copied if a table shares it.
    fn cut_mut(cut: &mut Arc<BTreeMap<ServiceId, Cut>>, service: ServiceId) -> Option<&mut Cut> {
        if !cut.contains_key(&service) {
            return None;
        }
        Arc::make_mut(cut).get_mut(&service)
    }
}

impl Cut {
    fn records(&self) -> &sorted::Sorted<Route> {
        match self {
            Self::Slots(slots) => slots.records(),
            Self::Ranges(ranges) => ranges.records(),
        }
    }

    fn len(&self) -> usize {
        self.records().len()
    }

    fn insert(&mut self, record: &[u8], route: Route) {
        match self {
            Self::Slots(slots) => slots.insert(record, route),
            Self::Ranges(ranges) => ranges.insert(record, route),
        };
    }

    fn remove(&mut self, record: &[u8]) {
        match self {
            Self::Slots(slots) => slots.remove(record),
            Self::Ranges(ranges) => ranges.remove(record),
        };
    }
}

#[cfg(test)]
mod tests;

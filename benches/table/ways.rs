//! The ways that are compared. Each has a writer, whose every publish gives a table that never changes.

use std::sync::Arc;

use hashbrown::HashTable;
use imbl::shared_ptr::DefaultSharedPtr;
use waypost_conf::{Name, Record, RecordKey, Route as RouteRecord, RouteState};
use waypost_policy::{
    Source, Table, TableId,
    table::{Builder, Entry, Meta, Publication, RequestKey, Route, ServiceId},
};

/// An overlay of more entries is merged into a new base.
const MAX_OVERLAY: usize = 4_096;
const OWNERS: u64 = 100;

/// A way of keeping routes.
pub(crate) trait Way {
    /// What is swapped in.
    type Table: Send + 'static;
    /// A key as a look-up brings it.
    type Key;

    fn new() -> Self;
    fn put(&mut self, key: &Arc<[u8]>, epoch: u64);
    fn publish(&mut self) -> Self::Table;
    fn asked(&self, key: &Arc<[u8]>) -> Self::Key;
    fn epoch(table: &Self::Table, key: &Self::Key) -> u64;
}

/// The routes that all but the product's own table keep.
struct Routes {
    builder: Builder,
    owners: Vec<Name>,
}

impl Routes {
    fn new() -> Self {
        let name = |number| Name::try_from(&*format!("cell-{number}")).ok();
        Self { builder: Builder::default(), owners: (0..OWNERS).filter_map(name).collect() }
    }

    fn record(&self, epoch: u64) -> RouteRecord {
        RouteRecord { owner: self.owners[(epoch % OWNERS) as usize].clone(), epoch: Some(epoch), state: RouteState::Serving }
    }

    fn meta(epoch: u64) -> Meta {
        Meta { create_revision: 1, mod_revision: epoch, digest: u128::from(epoch), leased: false }
    }

    fn route(&mut self, epoch: u64) -> Route {
        self.builder.route_from(&self.record(epoch), Self::meta(epoch))
    }
}

/// What the product has: its own builder and table, services and all.
pub(crate) struct Production {
    routes: Routes,
    service: Name,
    service_id: ServiceId,
}

impl Way for Production {
    type Table = Arc<Table>;
    type Key = RequestKey;

    fn new() -> Self {
        let mut routes = Routes::new();
        let service = routes.owners[0].clone();
        let service_id = routes.builder.service_id(&service);
        Self { routes, service, service_id }
    }

    fn put(&mut self, key: &Arc<[u8]>, epoch: u64) {
        let record = Record::Route(self.routes.record(epoch));
        let key = RecordKey::Route { service: self.service.clone(), key: key.to_vec() };
        self.routes.builder.put(&key, record, Routes::meta(epoch));
    }

    fn publish(&mut self) -> Self::Table {
        self.routes.builder.publish(Publication { revision: 1, id: TableId::file(), source: Source::Watch, digest: 0 })
    }

    fn asked(&self, key: &Arc<[u8]>) -> RequestKey {
        RequestKey { service: self.service_id, key: Arc::clone(key) }
    }

    fn epoch(table: &Self::Table, key: &RequestKey) -> u64 {
        match table.entry(key) {
            Entry::Route(route, _) => route.epoch,
            Entry::Absent(_) => 0,
        }
    }
}

/// A route in such a table.
#[derive(Clone)]
pub(crate) struct Slot {
    key: Box<[u8]>,
    route: Route,
}

/// Hash tables of routes behind one array; a change copies its partition and the array.
pub(crate) struct Partitioned<const N: usize> {
    routes: Routes,
    partitions: Arc<[Arc<HashTable<Slot>>]>,
    hasher: ahash::RandomState,
}

impl<const N: usize> Way for Partitioned<N> {
    type Table = (Arc<[Arc<HashTable<Slot>>]>, ahash::RandomState);
    type Key = Arc<[u8]>;

    fn new() -> Self {
        let empty = Arc::new(HashTable::new());
        let partitions = (0..N).map(|_| Arc::clone(&empty)).collect();
        Self { routes: Routes::new(), partitions, hasher: ahash::RandomState::new() }
    }

    fn put(&mut self, key: &Arc<[u8]>, epoch: u64) {
        let route = self.routes.route(epoch);
        let Self { partitions, hasher, .. } = self;
        let hash = hasher.hash_one(key);
        let partition = Arc::make_mut(&mut Arc::make_mut(partitions)[(hash >> 32) as usize % N]);
        match partition.find_mut(hash, |slot| *slot.key == **key) {
            Some(slot) => slot.route = route,
            None => {
                partition.insert_unique(hash, Slot { key: (&**key).into(), route }, |slot| hasher.hash_one(&slot.key));
            }
        }
    }

    fn publish(&mut self) -> Self::Table {
        (Arc::clone(&self.partitions), self.hasher.clone())
    }

    fn asked(&self, key: &Arc<[u8]>) -> Self::Key {
        Arc::clone(key)
    }

    fn epoch((partitions, hasher): &Self::Table, key: &Self::Key) -> u64 {
        let hash = hasher.hash_one(key);
        partitions[(hash >> 32) as usize % N].find(hash, |slot| *slot.key == **key).map_or(0, |slot| slot.route.epoch)
    }
}

type Hamt = imbl::GenericHashMap<Arc<[u8]>, Route, ahash::RandomState, DefaultSharedPtr>;

/// A hash array mapped trie, whose versions share all but a path.
pub(crate) struct Persistent {
    routes: Routes,
    map: Hamt,
}

impl Way for Persistent {
    type Table = Hamt;
    type Key = Arc<[u8]>;

    fn new() -> Self {
        Self { routes: Routes::new(), map: Hamt::default() }
    }

    fn put(&mut self, key: &Arc<[u8]>, epoch: u64) {
        let route = self.routes.route(epoch);
        // The key is the table's own, as in all the others.
        self.map.insert((&**key).into(), route);
    }

    fn publish(&mut self) -> Self::Table {
        self.map.clone()
    }

    fn asked(&self, key: &Arc<[u8]>) -> Self::Key {
        Arc::clone(key)
    }

    fn epoch(table: &Self::Table, key: &Self::Key) -> u64 {
        table.get(&**key).map_or(0, |route| route.epoch)
    }
}

type Map = std::collections::HashMap<Arc<[u8]>, Route, ahash::RandomState>;

/// A large map that is never changed under a small one that is copied each time, until the two are merged.
pub(crate) struct Overlay {
    routes: Routes,
    base: Arc<Map>,
    overlay: Arc<Map>,
}

impl Way for Overlay {
    type Table = (Arc<Map>, Arc<Map>);
    type Key = Arc<[u8]>;

    fn new() -> Self {
        Self { routes: Routes::new(), base: Arc::default(), overlay: Arc::default() }
    }

    fn put(&mut self, key: &Arc<[u8]>, epoch: u64) {
        let route = self.routes.route(epoch);
        Arc::make_mut(&mut self.overlay).insert((&**key).into(), route);
    }

    fn publish(&mut self) -> Self::Table {
        if self.overlay.len() > MAX_OVERLAY {
            let overlay = std::mem::take(&mut self.overlay);
            Arc::make_mut(&mut self.base).extend(overlay.iter().map(|(key, route)| (Arc::clone(key), *route)));
        }
        (Arc::clone(&self.base), Arc::clone(&self.overlay))
    }

    fn asked(&self, key: &Arc<[u8]>) -> Self::Key {
        Arc::clone(key)
    }

    fn epoch((base, overlay): &Self::Table, key: &Self::Key) -> u64 {
        overlay.get(&**key).or_else(|| base.get(&**key)).map_or(0, |route| route.epoch)
    }
}

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

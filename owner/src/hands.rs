//! What the machines of a handover ask for, done at the store: by a mover's command, and by an owner that takes a key back.

use waypost_conf::{Record, RecordKey, Route, decode};
use waypost_policy::handover::{Input, Known, Mark};
use waypost_watcher::{
    EtcdPlace,
    store::{Change, Store, Swapped},
};

/// A connection to the store.
#[derive(Clone, Debug)]
pub struct Hands {
    /// The records.
    pub records: Store,
    /// What processes report, beside them.
    pub reports: Store,
}

impl Hands {
    /// Connects to the first member that answers.
    ///
    /// # Errors
    /// A sentence that says of each member why not.
    pub async fn connect(place: &EtcdPlace) -> Result<Self, String> {
        let beside = EtcdPlace { prefix: format!("{}-state", place.prefix), ..place.clone() };
        let records = Box::pin(Store::connect(place)).await?;
        Ok(Self { records, reports: Box::pin(Store::connect(&beside)).await? })
    }

    /// A route's record, linearizably.
    ///
    /// # Errors
    /// A sentence, if the store can't be read or the record is not a good one.
    pub async fn read(&self, key: &RecordKey) -> Result<Option<Known>, String> {
        let Some(found) = self.records.get(&key.suffix()).await? else { return Ok(None) };
        match decode(key, &found.value).map_err(|fault| format!("{key} has a bad value: {fault}"))?.record {
            Record::Route(route) => Ok(Some(Known { route, revision: found.mod_revision })),
            _ => Err(format!("{key} is no route")),
        }
    }

    /// A mover's mark, if it is there.
    ///
    /// # Errors
    /// A sentence, if the store can't be read.
    pub async fn mark(&self, id: &str) -> Result<Option<Mark>, String> {
        let found = self.reports.get(format!("moves/{id}").as_bytes()).await?;
        Ok(found.map(|found| serde_json::from_slice(&found.value).unwrap_or_default()))
    }

    /// Writes a route's record by compare and swap.
    pub async fn swap(&self, key: &RecordKey, route: Route, read_at: u64) -> Input<'static> {
        let value = serde_json::to_vec(&Record::Route(route).to_json()).unwrap_or_default();
        let change = Change { key: key.suffix(), value: Some(value), read_at };
        match self.records.swap(&[change], &[]).await {
            Ok(Swapped::Done(revision)) => Input::Swapped(revision),
            Ok(Swapped::Moved(_)) => Input::Lost,
            Err(fault) if fault.may_be_written => Input::Unsure(fault.message),
            Err(fault) => Input::Failed(fault.message),
        }
    }
}

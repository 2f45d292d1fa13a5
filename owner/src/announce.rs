//! What an owner announces, and when it is written anew: at once when a record that names its upstream freezes or leaves, and when the
//! last request for such a key has ended.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waypost_conf::Name;
use waypost_policy::owner;
use waypost_watcher::{
    Changes, Heard, View,
    change::{Change, Shown},
    leased::Leased,
};

use crate::busy::Busy;

/// The value at `<prefix>-state/owners/<upstream>/<id>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The store's revision that this process judges by.
    pub applied: u64,
    /// Keys that it may not serve any more, with requests of before that have not ended.
    pub busy: Vec<BusyKey>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyKey {
    /// The service's name.
    pub service: String,
    /// The routing key; what is no text is replaced.
    pub key: String,
}

impl Announcement {
    /// What is to be said now. The table is looked at first: see [`Busy`].
    pub(crate) fn of(view: &View, upstream: &Name, busy: &Busy) -> Self {
        let Some(table) = view.load_full() else { return Self::default() };
        let mut lost = busy.await_end_of(|(service, key)| !owner::owns(&table, upstream, service, key));
        lost.sort_unstable();
        let busy = lost
            .into_iter()
            .map(|(service, key)| BusyKey { service: service.to_string(), key: String::from_utf8_lossy(&key).into_owned() });
        Self { applied: table.revision(), busy: busy.collect() }
    }

    /// As it is written.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Keeps the announcement right for as long as the gold copy is followed.
pub(crate) async fn announce(view: View, upstream: Name, busy: Arc<Busy>, leased: Leased, mut changes: Changes) {
    loop {
        tokio::select! {
            heard = changes.next() => match heard {
                Some(Heard::Told(told)) if !concerns(&told.change, &upstream) => continue,
                Some(_) => {}
                None => return,
            },
            () = busy.ended() => {}
        }
        leased.set(Announcement::of(&view, &upstream, &busy).to_json());
    }
}

/// Whether a record that named the upstream may not be served by it any more, or that may be so.
fn concerns(change: &Change, upstream: &Name) -> bool {
    let serves = |shown: &Option<Shown>| shown.as_ref().is_some_and(|it| it.owner.as_ref() == Some(upstream) && it.state != "frozen");
    match change {
        Change::Route { before, after, .. } => serves(before) && !serves(after),
        Change::Resync { .. } | Change::NewIncarnation { .. } => true,
        // A service's default owner, or its partition.
        Change::Record { kind, .. } => *kind == "service",
        Change::Quarantined { .. } | Change::Released { .. } | Change::Contact { .. } => false,
    }
}

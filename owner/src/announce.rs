//! What an owner announces, and when it is written anew: at once when a record that names its upstream freezes or leaves, and when the
//! last request for such a key has ended.

use std::sync::Arc;

use waypost_conf::Name;
use waypost_policy::handover::Announcement;
use waypost_watcher::{
    Changes, Heard, View,
    change::{Change, Shown},
    leased::Leased,
};

use crate::busy::Busy;

/// What is to be said now, as it is written.
pub(crate) fn announcement(view: &View, upstream: &Name, busy: &Busy) -> Vec<u8> {
    let announced = view.load_full().map_or_else(Announcement::default, |table| busy.announce(&table, upstream));
    serde_json::to_vec(&announced).unwrap_or_default()
}

/// Keeps the announcement right for as long as the gold copy is followed.
pub(crate) async fn announce(view: View, upstream: Name, busy: Arc<Busy>, leased: Arc<Leased>, mut changes: Changes) {
    loop {
        tokio::select! {
            heard = changes.next() => match heard {
                Some(Heard::Told(told)) if !concerns(&told.change, &upstream) => continue,
                Some(_) => {}
                None => return,
            },
            () = busy.ended() => {}
        }
        leased.set(announcement(&view, &upstream, &busy));
    }
}

/// Whether a record that names the upstream, or did, may not be served by it any more, or that may be so.
fn concerns(change: &Change, upstream: &Name) -> bool {
    let names = |shown: &Option<Shown>| shown.as_ref().is_some_and(|it| it.owner.as_ref() == Some(upstream));
    let serves = |shown: &Option<Shown>| names(shown) && shown.as_ref().is_some_and(|it| it.state != "frozen");
    match change {
        Change::Route { before, after, .. } => (names(before) || names(after)) && !serves(after),
        Change::Resync { .. } | Change::NewIncarnation { .. } => true,
        // A service's default owner, or its partition.
        Change::Record { kind, .. } => *kind == "service",
        Change::Quarantined { .. } | Change::Released { .. } | Change::Contact { .. } => false,
    }
}

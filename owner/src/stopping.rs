//! An owner that stops without the store: its lease as it is kept, what may be served by it, and looking anew after it may have ended.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use waypost_policy::{
    Moment,
    tenure::{Standing, Tenure},
};
use waypost_watcher::{
    Asker, EtcdPlace, View,
    leased::{Leased, Renewed},
    store::Store,
};

/// How soon it is looked again whether the view has come far enough, or the store can be read.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For so long the watch is waited for, which says by itself how far it has come, if the store's version can; then the store is listed anew.
const PATIENCE: Duration = Duration::from_secs(1);
/// How soon that is asked for again.
const LIST_AGAIN: Duration = Duration::from_secs(10);

/// Its lease.
#[derive(Debug)]
pub(crate) struct Stopping {
    tenure: Mutex<Tenure>,
    /// What moments are counted from.
    origin: Instant,
    changed: watch::Sender<()>,
    asker: Asker,
}

impl Stopping {
    /// Of a process that has just announced itself, and whose view will be read from here on.
    pub(crate) fn announced(leased: &Leased, asker: Asker) -> Self {
        // Before any lease, so that no moment is cut off.
        let origin = leased.renewed().borrow().map_or_else(Instant::now, |renewed| renewed.asked_at);
        let stopping = Self { tenure: Mutex::default(), origin, changed: watch::Sender::new(()), asker };
        if let Some(renewed) = *leased.renewed().borrow() {
            stopping.renew(renewed);
        }
        stopping
    }

    /// The first view is in force: it was read behind the announcement.
    pub(crate) fn begins(&self, term: u64) {
        self.lock().confirm(term);
        self.changed.send_replace(());
    }

    /// The term in which it has not been looked yet, for [`Stopping::begins`].
    pub(crate) fn unconfirmed(&self) -> Option<u64> {
        self.lock().unconfirmed()
    }

    /// Whether a request may be admitted now.
    pub(crate) fn admits(&self) -> bool {
        matches!(self.standing(), Standing::Serves(_))
    }

    /// Ends when what was admitted has to end: a stream when nothing is admitted any more.
    pub(crate) async fn over(self: Arc<Self>, is_stream: bool) {
        let mut changed = self.changed.subscribe();
        loop {
            let until = match (self.standing(), is_stream) {
                (Standing::Over, _) | (Standing::Finishes(_), true) => return,
                (Standing::Serves(until) | Standing::Finishes(until), _) => until,
            };
            tokio::select! {
                () = tokio::time::sleep_until(self.origin + until.since(Moment::default())) => {}
                // An error means that the lease is kept no more.
                _ = changed.changed() => {}
            }
        }
    }

    /// Follows the lease for as long as it is kept, and looks anew at the store when it may have ended.
    pub(crate) async fn keep(self: Arc<Self>, mut renewed: watch::Receiver<Option<Renewed>>, gold: EtcdPlace, view: View) {
        loop {
            if let Some(now) = *renewed.borrow_and_update() {
                self.renew(now);
            }
            let Some(term) = self.unconfirmed() else {
                match renewed.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            let mut catching_up = pin!(self.catch_up(&gold, &view));
            // Renewals do not begin it anew, another term does.
            while self.unconfirmed() == Some(term) {
                tokio::select! {
                    changed = renewed.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if let Some(now) = *renewed.borrow_and_update() {
                            self.renew(now);
                        }
                    }
                    () = &mut catching_up => self.begins(term),
                }
            }
        }
    }

    /// Ends when the view has come to where the store is now.
    async fn catch_up(&self, gold: &EtcdPlace, view: &View) {
        let revision = loop {
            if let Ok(store) = Box::pin(Store::connect(gold)).await
                && let Ok(found) = store.get_many(&[b"incarnation".to_vec()]).await
            {
                break found.revision;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let mut lists_at = Instant::now() + PATIENCE;
        while view.load().as_ref().is_none_or(|table| table.revision() < revision) {
            if Instant::now() >= lists_at {
                self.asker.list_anew();
                lists_at += LIST_AGAIN;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn renew(&self, Renewed { asked_at, lasts, known_at }: Renewed) {
        let moment = |at: Instant| Moment::after_origin(at.saturating_duration_since(self.origin));
        self.lock().renewed(moment(asked_at), lasts, moment(known_at));
        self.changed.send_replace(());
    }

    fn standing(&self) -> Standing {
        let now = Moment::after_origin(self.origin.elapsed());
        self.lock().standing(now)
    }

    /// A poisoned lock guards plain data that is valid after any panic.
    fn lock(&self) -> MutexGuard<'_, Tenure> {
        self.tenure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

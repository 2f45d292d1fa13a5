//! The owner's side of the stale-route protocol, for backends written in Rust.
//!
//! An [`Owner`] follows the gold copy, announces itself at `<prefix>-state/owners/<upstream>/<id>` under a lease before it first serves,
//! and judges each request by its head ([`Owner::admit`]): serve it under a [`Permit`], or answer 421 with the `Route-Stale` that it is
//! given. What always holds (STALE-ROUTES.md, "Handover"): a key is announced as let go only when no permit for it is left and
//! none will be given any more, so that a move that waits for that word never has two owners at work. A key that a mover froze and then
//! died is taken back after two seconds.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod announce;
mod busy;
pub mod hands;
mod rescue;
mod stopping;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;
use waypost_conf::Name;
pub use waypost_policy::{
    TableId,
    handover::{Announcement, BusyKey},
    wire::{STALE_HEADER, STAMP_HEADER, Stale, StaleState, UPDATE_HEADER, Update},
};
use waypost_policy::{
    owner::{self, Asked, Judgement},
    wire::Stamp,
};
pub use waypost_watcher::{Asker, Credentials, EtcdPlace, View};
use waypost_watcher::{GoldPlace, Watcher, leased::Leased};

use busy::{Busy, Held};
use stopping::Stopping;

/// The longest that a request waits for this process's own view, whatever its stamp allows.
const WAIT_AT_MOST: Duration = Duration::from_secs(1);
/// How long an announcement outlives its process, or its contact with the store.
pub const ANNOUNCED_FOR: Duration = Duration::from_secs(10);

/// Who this is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gold copy.
    pub gold: EtcdPlace,
    /// The upstream that this process is an endpoint of.
    pub upstream: Name,
    /// This process among the upstream's; no two may have the same.
    pub id: Name,
}

/// A request, as far as it is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a str,
    /// The service that it belongs to, by its name in the gold copy.
    pub service: &'a str,
    /// Its routing key; empty where the service has none.
    pub key: &'a [u8],
    /// The value of its `Route-Stamp` header, if it has one.
    pub stamp: Option<&'a [u8]>,
}

/// A request may be served while this is held. Dropping it is the word that nothing of it is executed any more.
#[derive(Debug)]
pub struct Permit {
    /// The generation of the ownership that the request is served under.
    pub epoch: u64,
    /// The incarnation of the store; with the epoch a fencing token, to be handed to storage that can tell old ones from new.
    pub table: TableId,
    /// What is to be said beside the answer, as the value of `Route-Update`.
    pub update: Option<Update>,
    held: Held,
    /// The revision of the view that it was given by.
    viewed: u64,
    stopping: Option<Arc<Stopping>>,
}

/// What is served under a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// A request that will end by itself.
    Request,
    /// What may last for ever: an upgraded connection, or a stream of gRPC. It is ended for a move, instead of holding it up.
    Stream,
}

impl Permit {
    /// Ends when what is served under this permit is to be ended and the permit given up: a stream when its key freezes or leaves, a request
    /// only when whoever moves its key says so (`waypost route move --cut`); of an owner that stops without the store also when that
    /// was not heard of for too long. Never ends otherwise.
    pub fn recalled(&self, served: Served) -> impl Future<Output = ()> + Send + use<> {
        let is_stream = served == Served::Stream;
        let recalled = self.held.recalled(is_stream, (self.table.clone(), self.viewed));
        let stopping = self.stopping.clone();
        async move {
            match stopping {
                None => recalled.await,
                Some(stopping) => tokio::select! {
                    () = recalled => {}
                    () = stopping.over(is_stream) => {}
                },
            }
        }
    }
}

/// A process that owns keys.
#[derive(Debug)]
pub struct Owner {
    upstream: Name,
    view: View,
    busy: Arc<Busy>,
    leased: Arc<Leased>,
    /// `None`: somebody else follows the gold copy.
    watcher: Option<Watcher>,
    announcing: JoinHandle<()>,
    rescuing: JoinHandle<()>,
    /// Where it stops without the store.
    stopping: Option<(Arc<Stopping>, JoinHandle<()>)>,
}

/// A process that has announced itself, and serves nothing yet.
#[derive(Debug)]
pub struct Announced {
    gold: EtcdPlace,
    upstream: Name,
    leased: Arc<Leased>,
    stopping: Option<Arc<Stopping>>,
}

impl Announced {
    /// The process stops serving some seconds before its lease ends, should the store be out of its reach, and its lease's end counts as its word
    /// that it has let go. Without this it serves its last view for as long as that lasts. To be said before the view's watcher, which is
    /// asked to look anew once the lease may have ended, has read anything.
    #[must_use]
    pub fn stopping_without_store(self, watcher: Asker) -> Self {
        Self { stopping: Some(Arc::new(Stopping::announced(&self.leased, watcher))), ..self }
    }

    /// Serves by a view that somebody else keeps: one of a watcher that has been started since, without a snapshot. Ends when the first view is
    /// in force and the announcement says so.
    ///
    /// # Errors
    /// A sentence, if following the gold copy has ended.
    pub async fn serve(self, view: View) -> Result<Owner, String> {
        let Self { gold, upstream, leased, stopping } = self;
        let term = stopping.as_ref().and_then(|stopping| stopping.unconfirmed());
        let busy = Arc::new(Busy::new(stopping.is_some()));
        let changes = view.watch();
        let mut published = view.changed();
        while view.load().is_none() {
            published.changed().await.map_err(|_| "following the gold copy has ended".to_owned())?;
        }
        leased.set(announce::announcement(&view, &upstream, &busy));
        leased.written().await;
        let announcing = announce::announce(view.clone(), upstream.clone(), Arc::clone(&busy), Arc::clone(&leased), changes);
        let announcing = tokio::spawn(announcing);
        let rescuing = tokio::spawn(rescue::rescue(gold.clone(), upstream.clone(), view.clone(), Arc::clone(&busy)));
        let stopping = stopping.map(|stopping| {
            term.into_iter().for_each(|term| stopping.begins(term));
            let keeping = Arc::clone(&stopping).keep(leased.renewed(), gold, view.clone());
            (stopping, tokio::spawn(keeping))
        });
        Ok(Owner { upstream, view, busy, leased, watcher: None, announcing, rescuing, stopping })
    }
}

impl Owner {
    /// Announces the process, which serves nothing yet; ends when that is in the store, however long it takes.
    ///
    /// Before the first view is read: a mover either meets this process, or has frozen its key before, and the view has it so.
    pub async fn announce(settings: Settings) -> Announced {
        let Settings { gold, upstream, id } = settings;
        let key = format!("{}-state/owners/{upstream}/{id}", gold.prefix);
        let silent = serde_json::to_vec(&Announcement::default()).unwrap_or_default();
        let leased = Arc::new(Leased::start(gold.clone(), key, silent, ANNOUNCED_FOR));
        leased.written().await;
        Announced { gold, upstream, leased, stopping: None }
    }

    /// Follows the gold copy; ends when the first view of it is in force and the announcement is in the store, however long that takes.
    ///
    /// # Errors
    /// A sentence, if the settings can't be used.
    pub async fn start(settings: Settings) -> Result<Self, String> {
        // Never from a snapshot: the first view is a list at a revision that was read linearizably.
        let place = GoldPlace::Etcd(settings.gold.clone());
        let announced = Self::announce(settings).await;
        let watcher = waypost_watcher::start(waypost_watcher::Settings::new(place, fastrand::u64(..), Instant::now()))?;
        let owner = announced.serve(watcher.view.clone()).await?;
        Ok(Self { watcher: Some(watcher), ..owner })
    }

    /// Whether a request may be served here. To be asked on its head alone, before its body is read or load is shed; takes no
    /// longer than the stamp allows, and normally no time at all.
    ///
    /// # Errors
    /// What is to be answered with 421 and `Cache-Control: no-store`, as the value of `Route-Stale`; nothing may have been executed.
    pub async fn admit(&self, head: &Head<'_>) -> Result<Permit, Stale> {
        let stamp = head.stamp.and_then(|stamp| Stamp::parse(stamp).ok());
        let wait = Duration::from_millis(stamp.as_ref().map_or(0, |stamp| stamp.wait_ms)).min(WAIT_AT_MOST);
        let until = tokio::time::Instant::now() + wait;
        let mut changed = self.view.changed();
        loop {
            // Before the table is looked at: whoever announces a later one then sees that the key is busy.
            let held = self.busy.enter(head.service, head.key);
            if !self.admits() {
                return Err(Stale { state: StaleState::Handoff, ..Stale::without_view(head.service, head.key) });
            }
            let Some(table) = self.view.load_full() else { return Err(Stale::without_view(head.service, head.key)) };
            let may_wait = tokio::time::Instant::now() < until;
            let is_safe = owner::is_safe(head.method);
            let asked = Asked { service: head.service, key: head.key, stamp: stamp.as_ref(), is_safe, may_wait };
            match owner::judge(&table, &self.upstream, &asked) {
                Judgement::Serve(serving) => {
                    let (epoch, update, viewed) = (serving.epoch, serving.update, table.revision());
                    let stopping = self.stopping.as_ref().map(|(stopping, _)| Arc::clone(stopping));
                    return Ok(Permit { epoch, table: table.id().clone(), update, held, viewed, stopping });
                }
                Judgement::Refuse(stale) => return Err(stale),
                Judgement::Wait => {
                    drop(held);
                    let _ = tokio::time::timeout_at(until, changed.changed()).await;
                }
            }
        }
    }

    /// The gold copy as this process knows it.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether requests are admitted at all: always, but of an owner that stops without the store only while that is heard of.
    pub fn admits(&self) -> bool {
        self.stopping.as_ref().is_none_or(|(stopping, _)| stopping.admits())
    }

    /// How many requests are being served.
    pub fn serving(&self) -> usize {
        self.busy.count()
    }

    /// Takes the announcement away. Only to be called when nothing is executed any more and nothing will be.
    pub async fn withdraw(&self) {
        self.end_tasks();
        self.leased.end().await;
    }

    /// Stops following. The announcement goes with its lease; until then a move takes this process for one that is silent.
    pub async fn stop(self) {
        self.end_tasks();
        if let Some(watcher) = self.watcher {
            watcher.stop().await;
        }
    }

    fn end_tasks(&self) {
        self.announcing.abort();
        self.rescuing.abort();
        if let Some((_, keeping)) = &self.stopping {
            keeping.abort();
        }
    }
}

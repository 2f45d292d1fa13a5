//! What a guard stands before, and its coming and going: the owner that it judges as, the backend behind it, its endpoint's record.
//!
//! What always holds: it is announced before the first request is judged, and registered after that; it leaves in the opposite order: the
//! endpoint's record goes first, so that no proxy chooses it any more, the announcement last, when nothing is executed any more.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::Notify;
use waypost_conf::{Address, Endpoint, Name, Record};
use waypost_owner::{ANNOUNCED_FOR, Owner, Settings};
use waypost_policy::Upstream;
use waypost_watcher::{Asker, EtcdPlace, View, leased::Leased};

use crate::cli::WithoutStore;

/// For so long a guard goes on accepting connections once its endpoint's record has gone: proxies see that within milliseconds, and what
/// they have sent by then arrives.
const SETTLE: Duration = Duration::from_secs(1);

/// A guard.
pub(crate) struct Guard {
    upstream: Name,
    id: Name,
    backend: Arc<Upstream>,
    /// Where proxies reach it, if it is to say so itself.
    advertised: Option<Address>,
    without_store: WithoutStore,
    /// Once it is announced.
    owner: OnceLock<Owner>,
    registration: Mutex<Registration>,
}

#[derive(Default)]
struct Registration {
    leased: Option<Arc<Leased>>,
    is_leaving: bool,
}

impl Guard {
    /// A guard of an upstream before this backend; `advertised`: register that as an endpoint.
    pub(crate) fn new(upstream: Name, id: Name, to: Address, advertised: Option<Address>, without_store: WithoutStore) -> Self {
        let backend = Arc::new(Upstream::alone(upstream.clone(), to));
        Self { upstream, id, backend, advertised, without_store, owner: OnceLock::new(), registration: Mutex::default() }
    }

    /// Who judges; `None` until it is announced.
    pub(crate) fn owner(&self) -> Option<&Owner> {
        self.owner.get()
    }

    /// Where what is let through goes to.
    pub(crate) fn backend(&self) -> Arc<Upstream> {
        Arc::clone(&self.backend)
    }

    /// Announces it, lets the watcher of the view begin by `begins`, and registers its endpoint; ends when all of that is in the store,
    /// however long it takes.
    ///
    /// # Errors
    /// A sentence, if following the gold copy has ended.
    pub(crate) async fn arrive(&self, view: View, asker: Asker, begins: &Notify, gold: EtcdPlace) -> Result<(), String> {
        let settings = Settings { gold: gold.clone(), upstream: self.upstream.clone(), id: self.id.clone() };
        let announced = Owner::announce(settings).await;
        let announced = match self.without_store {
            WithoutStore::Serve => announced,
            WithoutStore::Stop => announced.stopping_without_store(asker),
        };
        begins.notify_one();
        let owner = announced.serve(view).await?;
        // Nobody else sets it.
        let _ = self.owner.set(owner);
        let Some(address) = self.advertised.clone() else { return Ok(()) };
        let record = Record::Endpoint(Endpoint { address, weight: 1, zone: None }).to_json();
        let key = format!("{}/endpoints/{}/{}", gold.prefix, self.upstream, self.id);
        let leased = {
            let mut registration = self.lock();
            if registration.is_leaving {
                return Ok(());
            }
            let leased = Arc::new(Leased::start(gold, key, serde_json::to_vec(&record).unwrap_or_default(), ANNOUNCED_FOR));
            registration.leased = Some(Arc::clone(&leased));
            leased
        };
        leased.written().await;
        Ok(())
    }

    /// Takes the endpoint's record away, where it has one, and gives proxies the time to notice.
    pub(crate) async fn leave(&self) {
        let leased = {
            let mut registration = self.lock();
            registration.is_leaving = true;
            registration.leased.take()
        };
        if let Some(leased) = leased {
            leased.end().await;
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Takes the announcement away, if nothing is executed any more; else it goes with its lease.
    pub(crate) async fn withdraw(&self) {
        match self.owner() {
            Some(owner) if owner.serving() == 0 => owner.withdraw().await,
            Some(owner) => {
                tracing::warn!(requests = owner.serving(), "requests are still being served; the announcement goes with its lease")
            }
            None => {}
        }
    }

    /// As `/status` shows it.
    pub(crate) fn status(&self) -> Value {
        let owner = self.owner();
        let applied = owner.and_then(|owner| Some(owner.view().load().as_ref()?.revision()));
        json!({
            "upstream": self.upstream,
            "id": self.id,
            "to": self.backend.endpoints.first().map(|endpoint| endpoint.address.as_str()),
            "announced": owner.is_some(),
            "admits": owner.is_some_and(Owner::admits),
            "without_store": self.without_store.as_str(),
            "registered": self.lock().leased.as_ref().and(self.advertised.as_ref()),
            "applied": applied.unwrap_or(0),
            "serving": owner.map_or(0, Owner::serving),
        })
    }

    /// A poisoned lock guards plain data that is valid after any panic.
    fn lock(&self) -> MutexGuard<'_, Registration> {
        self.registration.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

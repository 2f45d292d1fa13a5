//! A client that sends all along, and judges every answer: whatever happens to the store, no request fails, and none is served by an
//! owner that never owned its key.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{client::Client, until_true, waypost::Waypost};

/// Between two requests: a steady client, not a flood beside all the other tests.
const PAUSE: Duration = Duration::from_millis(2);
/// How many failures are told.
const MAX_TOLD: usize = 10;

type Owned = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// The client.
pub struct Steady {
    owned: Owned,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Steady {
    /// Starts sending for these keys (of the header `x-tenant`), each with the owner that it has now. Owners answer with their names.
    pub fn start(waypost: &Waypost, keys: &[(&str, &str)]) -> Self {
        let owned = keys.iter().map(|(key, owner)| ((*key).to_owned(), BTreeSet::from([(*owner).to_owned()])));
        let owned: Owned = Arc::new(Mutex::new(owned.collect()));
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let sending = Sending {
            listen: waypost.listen,
            owned: Arc::clone(&owned),
            answered: Arc::clone(&answered),
            stop: Arc::clone(&stop),
            failures: Vec::new(),
        };
        Self { owned, answered, stop, task: tokio::spawn(sending.run()) }
    }

    /// From now on this owner may serve the key too: said before the store is told.
    pub fn may(&self, key: &str, owner: &str) {
        self.owned.lock().unwrap().entry(key.to_owned()).or_default().insert(owner.to_owned());
    }

    /// Waits until so many more requests were answered.
    pub async fn more(&self, requests: usize) {
        let wanted = self.answered.load(Ordering::Relaxed) + requests;
        until_true("requests go on being answered", async || self.answered.load(Ordering::Relaxed) >= wanted || self.task.is_finished())
            .await;
    }

    /// Stops; panics if any request failed, or was served by who never owned its key.
    pub async fn stop(self) {
        self.more(1).await;
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.task.await.unwrap();
        let told = &failures[..failures.len().min(MAX_TOLD)];
        assert!(failures.is_empty(), "{} of {} requests failed: {told:#?}", failures.len(), self.answered.load(Ordering::Relaxed));
    }
}

struct Sending {
    listen: std::net::SocketAddr,
    owned: Owned,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    failures: Vec<String>,
}

impl Sending {
    async fn run(mut self) -> Vec<String> {
        let mut client = Client::connect(self.listen).await;
        let mut turn = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let (key, owners) = self.next(turn);
            turn += 1;
            let failure = match client.try_request("GET", "/", &[("x-tenant", &key)], b"").await {
                // Who owned the key by now: it may have moved while the request was under way.
                Ok(answer) if answer.status == 200 && self.has_owned(&key, &answer.text()) => None,
                Ok(answer) if answer.status == 200 => Some(format!("{key}: served by {}, owned by {owners:?}", answer.text())),
                Ok(answer) => Some(format!("{key}: {} {}", answer.status, answer.reason())),
                Err(why) => {
                    self.failures.push(format!("{key}: {why}"));
                    return self.failures;
                }
            };
            self.failures.extend(failure);
            self.answered.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
        self.failures
    }

    fn next(&self, turn: usize) -> (String, BTreeSet<String>) {
        let owned = self.owned.lock().unwrap();
        owned.iter().nth(turn % owned.len()).map(|(key, owners)| (key.clone(), owners.clone())).unwrap()
    }

    fn has_owned(&self, key: &str, owner: &str) -> bool {
        self.owned.lock().unwrap().get(key).is_some_and(|owners| owners.contains(owner))
    }
}

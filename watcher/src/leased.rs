//! One key under a lease that is kept alive: how a process says that it is there, and what it knows.
//!
//! What always holds: the newest value is written as soon as the store can be reached, and told written only when it is; when the process
//! ends, or can't reach the store for as long as the lease lasts, the key goes by itself.

use std::time::Duration;

use etcd_client::{Client, LeaseKeepAliveStream, LeaseKeeper, PutOptions};
use tokio::{sync::watch, task::JoinHandle};

use crate::connect::{EtcdPlace, Wanted, connect};

/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// How long to wait after the store could not be reached.
const PAUSE: Duration = Duration::from_millis(500);
/// So many times within a lease's time it is renewed.
const RENEWALS: u32 = 3;

/// The key.
#[derive(Debug)]
pub struct Leased {
    value: watch::Sender<Vec<u8>>,
    written: watch::Receiver<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Leased {
    /// Keeps `key` (whole, as it is in etcd) with this value, under leases of `ttl`.
    pub fn start(place: EtcdPlace, key: String, value: Vec<u8>, ttl: Duration) -> Self {
        let (wanted, to_write) = watch::channel(value);
        let (wrote, written) = watch::channel(Vec::new());
        let task = tokio::spawn(keep(place, key, ttl, to_write, wrote));
        Self { value: wanted, written, task }
    }

    /// From now on this is its value.
    pub fn set(&self, value: Vec<u8>) {
        self.value.send_if_modified(|known| {
            let is_news = *known != value;
            *known = value;
            is_news
        });
    }

    /// Ends when the value that was set last is in the store.
    pub async fn written(&self) {
        let wanted = self.value.borrow().clone();
        let mut written = self.written.clone();
        // An error means that the task has ended, which it does only with this.
        let _ = written.wait_for(|written| *written == wanted).await;
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(place: EtcdPlace, key: String, ttl: Duration, mut value: watch::Receiver<Vec<u8>>, written: watch::Sender<Vec<u8>>) {
    let mut was_told = false;
    for endpoint in place.endpoints.iter().cycle() {
        match keep_at(&place, endpoint, &key, ttl, &mut value, &written).await {
            Ok(()) => return,
            Err(why) if !was_told => {
                tracing::warn!(key, "this process can't be announced: {why}; it is tried again");
                was_told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ends well when nobody wants the key any more.
async fn keep_at(
    place: &EtcdPlace,
    endpoint: &str,
    key: &str,
    ttl: Duration,
    value: &mut watch::Receiver<Vec<u8>>,
    written: &watch::Sender<Vec<u8>>,
) -> Result<(), String> {
    let client = connect(place, endpoint).await?;
    let mut lease = Lease::grant(client, ttl).await.map_err(|error| format!("etcd at {endpoint} {}", place.say(&error, endpoint)))?;
    loop {
        let now = value.borrow_and_update().clone();
        lease.put(key, now.clone()).await.map_err(|error| format!("etcd at {endpoint} {}", place.say_later(&error, Wanted::Write)))?;
        written.send_replace(now);
        loop {
            tokio::select! {
                changed = value.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    break;
                }
                () = tokio::time::sleep(ttl / RENEWALS) => {
                    lease.renew().await.map_err(|error| format!("etcd at {endpoint} {}", place.say_later(&error, Wanted::Write)))?;
                }
            }
        }
    }
}

struct Lease {
    client: Client,
    id: i64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Lease {
    async fn grant(client: Client, ttl: Duration) -> Result<Self, etcd_client::Error> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let id = limited(client.lease_client().grant(seconds, None)).await?.id();
        let (keeper, answers) = limited(client.lease_client().keep_alive(id)).await?;
        Ok(Self { client, id, keeper, answers })
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<(), etcd_client::Error> {
        let options = PutOptions::new().with_lease(self.id);
        limited(self.client.kv_client().put(key, value, Some(options))).await.map(drop)
    }

    async fn renew(&mut self) -> Result<(), etcd_client::Error> {
        limited(self.keeper.keep_alive()).await?;
        match limited(self.answers.message()).await? {
            Some(answer) if answer.ttl() > 0 => Ok(()),
            // It has ended meanwhile, and the key with it.
            _ => Err(etcd_client::Error::IoError(std::io::ErrorKind::NotConnected.into())),
        }
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, etcd_client::Error> {
    match Box::pin(tokio::time::timeout(CALL_LIMIT, call)).await {
        Ok(answer) => answer,
        Err(_) => Err(etcd_client::Error::IoError(std::io::ErrorKind::TimedOut.into())),
    }
}

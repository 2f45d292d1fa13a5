//! One key under a lease that is kept alive: how a process says that it is there, and what it knows.
//!
//! What always holds: the newest value is written as soon as the store can be reached, and told written only when it is; when the process
//! ends, or can't reach the store for as long as the lease lasts, the key goes by itself; [`Leased::end`] takes it away at once. That the store
//! can't be reached, or does not let this user write, is said once and costs nothing else.

use std::time::Duration;

use etcd_client::{Client, LeaseKeepAliveStream, LeaseKeeper, PutOptions};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::connect::{EtcdPlace, Wanted, connect, is_denied};

/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// How long it is waited for the key to go.
const END_LIMIT: Duration = Duration::from_secs(2);
/// So many times within a lease's time it is renewed.
const RENEWALS: u32 = 3;

/// The key.
#[derive(Debug)]
pub struct Leased {
    /// `None`: the key is to go.
    value: watch::Sender<Option<Vec<u8>>>,
    written: watch::Receiver<Vec<u8>>,
    renewed: watch::Receiver<Option<Renewed>>,
    task: JoinHandle<()>,
}

/// What a key is for, and how much is made of it.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// What can't be done without it, as a sentence begins; for the log.
    pub purpose: &'static str,
    /// How long the lease lasts.
    pub ttl: Duration,
    /// How long to wait after the store could not be reached.
    pub pause: Duration,
    /// And after it did not let this user write.
    pub pause_if_denied: Duration,
}

impl Manner {
    /// For a process that is of no use while its key is not there.
    pub fn pressing(ttl: Duration) -> Self {
        let pause = Duration::from_millis(500);
        Self { purpose: "this process can't be announced", ttl, pause, pause_if_denied: pause }
    }
}

/// When a key's lease was made or renewed last, by the clock of this process.
#[derive(Clone, Copy, Debug)]
pub struct Renewed {
    /// When that was asked for: the lease's time began no sooner.
    pub asked_at: Instant,
    /// How long it lasts from then on.
    pub lasts: Duration,
    /// When the key was known to be in the store under it.
    pub known_at: Instant,
}

/// What is told of it.
struct Kept {
    written: watch::Sender<Vec<u8>>,
    renewed: watch::Sender<Option<Renewed>>,
}

impl Leased {
    /// Keeps `key` (whole, as it is in etcd) with this value, under leases of `ttl`, and lets nothing keep it from trying.
    pub fn start(place: EtcdPlace, key: String, value: Vec<u8>, ttl: Duration) -> Self {
        Self::start_as(place, key, value, Manner::pressing(ttl))
    }

    /// The same, with as much made of it as it is worth.
    pub fn start_as(place: EtcdPlace, key: String, value: Vec<u8>, manner: Manner) -> Self {
        let (wanted, to_write) = watch::channel(Some(value));
        let (wrote, written) = watch::channel(Vec::new());
        let (renews, renewed) = watch::channel(None);
        let task = tokio::spawn(keep(place, key, manner, to_write, Kept { written: wrote, renewed: renews }));
        Self { value: wanted, written, renewed, task }
    }

    /// From now on this is its value.
    pub fn set(&self, value: Vec<u8>) {
        self.value.send_if_modified(|known| match known {
            Some(known) if *known != value => {
                *known = value;
                true
            }
            // As it is, or gone for good.
            _ => false,
        });
    }

    /// Ends when the value that was set last is in the store.
    pub async fn written(&self) {
        let Some(wanted) = self.value.borrow().clone() else { return };
        let mut written = self.written.clone();
        // An error means that the task has ended, which it does only with this.
        let _ = written.wait_for(|written| *written == wanted).await;
    }

    /// When the key's lease was made or renewed last; `None` before the key was first written.
    pub fn renewed(&self) -> watch::Receiver<Option<Renewed>> {
        self.renewed.clone()
    }

    /// Takes the key away, and ends when it is gone. Where the store can't be reached in time, it goes with its lease.
    pub async fn end(&self) {
        self.value.send_replace(None);
        let mut written = self.written.clone();
        let gone = async { while written.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(END_LIMIT, gone).await;
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a key is not there.
struct Lost {
    why: String,
    is_denied: bool,
}

impl From<String> for Lost {
    fn from(why: String) -> Self {
        Self { why, is_denied: false }
    }
}

async fn keep(place: EtcdPlace, key: String, manner: Manner, mut value: watch::Receiver<Option<Vec<u8>>>, kept: Kept) {
    let mut was_told = false;
    for endpoint in place.endpoints.iter().cycle() {
        if value.borrow().is_none() {
            return;
        }
        let Err(Lost { why, is_denied }) = keep_at(&place, endpoint, &key, manner.ttl, &mut value, &kept).await else { return };
        let pause = if is_denied { manner.pause_if_denied } else { manner.pause };
        if !was_told {
            tracing::warn!(key, "{}: {why}; it is tried again every {pause:?}", manner.purpose);
            was_told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = value.wait_for(Option::is_none) => return,
        }
    }
}

/// Ends well when nobody wants the key any more.
async fn keep_at(
    place: &EtcdPlace,
    endpoint: &str,
    key: &str,
    ttl: Duration,
    value: &mut watch::Receiver<Option<Vec<u8>>>,
    kept: &Kept,
) -> Result<(), Lost> {
    let later = |error: etcd_client::Error| {
        let why = format!("etcd at {endpoint} {}", place.say_later(&error, Wanted::Write));
        Lost { why, is_denied: is_denied(&error) }
    };
    let client = connect(place, endpoint).await?;
    let mut lease = Lease::grant(client, ttl).await.map_err(|error| format!("etcd at {endpoint} {}", place.say(&error, endpoint)))?;
    let every = ttl / RENEWALS;
    // However often the value changes: writing it renews nothing.
    let mut renew_at = Instant::now() + every;
    loop {
        let Some(now) = value.borrow_and_update().clone() else { return lease.revoke().await.map_err(later) };
        if let Err(error) = lease.put(key, now.clone()).await {
            if is_denied(&error) {
                // Nothing hangs on it: it need not last until its end.
                let _ = lease.revoke().await;
            }
            return Err(later(error));
        }
        kept.renewed.send_replace(Some(lease.renewed()));
        kept.written.send_replace(now);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(renew_at) => {
                    renew_at = Instant::now() + every;
                    lease.renew().await.map_err(later)?;
                    kept.renewed.send_replace(Some(lease.renewed()));
                }
                changed = value.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    break;
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
    /// When it was asked for, or for its last renewal, and for how long it then was.
    asked_at: Instant,
    lasts: Duration,
}

impl Lease {
    async fn grant(client: Client, ttl: Duration) -> Result<Self, etcd_client::Error> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let asked_at = Instant::now();
        let granted = limited(client.lease_client().grant(seconds, None)).await?;
        let (keeper, answers) = limited(client.lease_client().keep_alive(granted.id())).await?;
        Ok(Self { client, id: granted.id(), keeper, answers, asked_at, lasts: seconds_of(granted.ttl()) })
    }

    fn renewed(&self) -> Renewed {
        Renewed { asked_at: self.asked_at, lasts: self.lasts, known_at: Instant::now() }
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<(), etcd_client::Error> {
        let options = PutOptions::new().with_lease(self.id);
        limited(self.client.kv_client().put(key, value, Some(options))).await.map(drop)
    }

    async fn revoke(&mut self) -> Result<(), etcd_client::Error> {
        limited(self.client.lease_client().revoke(self.id)).await.map(drop)
    }

    async fn renew(&mut self) -> Result<(), etcd_client::Error> {
        let asked_at = Instant::now();
        limited(self.keeper.keep_alive()).await?;
        match limited(self.answers.message()).await? {
            Some(answer) if answer.ttl() > 0 => {
                (self.asked_at, self.lasts) = (asked_at, seconds_of(answer.ttl()));
                Ok(())
            }
            // It has ended meanwhile, and the key with it.
            _ => Err(etcd_client::Error::IoError(std::io::ErrorKind::NotConnected.into())),
        }
    }
}

/// What the store grants, as it says.
fn seconds_of(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

async fn limited<T>(call: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, etcd_client::Error> {
    match Box::pin(tokio::time::timeout(CALL_LIMIT, call)).await {
        Ok(answer) => answer,
        Err(_) => Err(etcd_client::Error::IoError(std::io::ErrorKind::TimedOut.into())),
    }
}

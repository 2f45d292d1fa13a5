//! What a proxy says of itself to whoever looks at the fleet: `<prefix>-state/fleet/<proxy>`, what it has applied (INTERFACE.md).
//!
//! What always holds: it is written at most every [`EVERY`], and only when the records have changed or the key was lost. The store's revision
//! alone is no reason: each report raises it, and a fleet would report its own reports. The key hangs on a lease, so that who is there can be
//! told from who has gone. Nothing else depends on it: whoever may not write it serves as well.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use waypost_policy::{Table, TableId};

use crate::{
    EtcdPlace, View,
    leased::{Leased, Manner},
};

/// How often it is looked whether there is something to report.
pub const EVERY: Duration = Duration::from_secs(5);
/// How long a key outlives its process.
pub const LASTS: Duration = Duration::from_secs(20);
/// The first look is not before: what a process replaces has ended its own reports by then.
const FIRST_AFTER: Duration = Duration::from_secs(1);
/// How long the end waits for the key to go.
const END_LIMIT: Duration = Duration::from_secs(1);
const MANNER: Manner = Manner {
    purpose: "what this proxy has applied can't be reported, which matters to nobody but who asks for it",
    ttl: LASTS,
    pause: EVERY,
    pause_if_denied: Duration::from_secs(600),
};

/// The reports of one proxy.
#[derive(Debug)]
pub struct Reports {
    end: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Reports {
    /// Reports what is in force. `proxy` and `version` are this process's; `seed` spreads a fleet that sees a change at once.
    pub fn start(place: EtcdPlace, view: View, proxy: &str, version: &'static str, seed: u64) -> Self {
        let folder = format!("{}-state/fleet", place.prefix);
        let key = format!("{folder}/{proxy}");
        let end = Arc::new(Notify::new());
        let ended = Arc::clone(&end);
        // What is said of missing rights is said of these keys.
        let place = EtcdPlace { prefix: folder, ..place };
        let task = tokio::spawn(async move {
            let mut leased = None;
            tokio::select! {
                () = ended.notified() => {}
                never = report(place, key, &view, version, seed, &mut leased) => match never {},
            }
            // One that was never written has not to go.
            if let Some(leased) = leased.filter(|leased| leased.renewed().borrow().is_some()) {
                let _ = timeout(END_LIMIT, leased.end()).await;
            }
        });
        Self { end, task }
    }

    /// Reports nothing more, and takes the key away: another process may report under it from now on.
    pub fn leave(&self) {
        self.end.notify_one();
    }

    /// The same; ends when the key has gone, or the store can't be reached for it to go.
    pub async fn end(mut self) {
        self.leave();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn report(
    place: EtcdPlace,
    key: String,
    view: &View,
    version: &'static str,
    seed: u64,
    leased: &mut Option<Leased>,
) -> std::convert::Infallible {
    let first = FIRST_AFTER + EVERY.mul_f64(fastrand::Rng::with_seed(seed).f64());
    let mut looks = interval_at(Instant::now() + first, EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<(TableId, u128)> = None;
    loop {
        looks.tick().await;
        let Some(table) = view.load_full() else { continue };
        let now = (table.id().clone(), table.digest());
        if told.as_ref() == Some(&now) {
            continue;
        }
        let value = value(&table, version, SystemTime::now());
        told = Some(now);
        match leased {
            Some(leased) => leased.set(value),
            None => *leased = Some(Leased::start_as(place.clone(), key.clone(), value, MANNER)),
        }
    }
}

/// What is in force: as `/status` has it, and when that was written.
fn value(table: &Table, version: &str, at: SystemTime) -> Vec<u8> {
    let at_ms = at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let value = json!({
        "revision": table.revision(),
        "table": table.id().as_str(),
        "digest": format!("{:032x}", table.digest()),
        "source": table.source().as_str(),
        "version": version,
        "at_ms": at_ms,
    });
    value.to_string().into_bytes()
}

//! Confirming a mass delete: a linearizable read that asks whether the store holds any route, and whether some keys are really gone.
//!
//! One read at a time, repeated until the store answers; nothing waits for it.

use std::{pin::Pin, time::Duration};

use etcd_client::{GetOptions, Txn, TxnOp, TxnOpResponse};

use super::wire::{end_of_prefix, stored};
use crate::{
    applier::{Doubt, Said},
    connect::Reads,
};

/// How long one read may take.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long to wait after one that failed.
const PAUSE: Duration = Duration::from_millis(500);

type Read = Pin<Box<dyn Future<Output = Said> + Send>>;

/// The read under way.
#[derive(Default)]
pub(super) struct Confirming {
    /// With the number of its doubt.
    read: Option<(u64, Read)>,
}

impl Confirming {
    /// Reads what is in doubt, unless that is being done.
    pub(super) fn begin(&mut self, doubt: Option<Doubt>, reads: Option<Reads>, prefix: &str) {
        let is_under_way = self.read.as_ref().map(|(number, _)| *number) == doubt.as_ref().map(|doubt| doubt.number);
        if !is_under_way {
            let begin = |(doubt, reads): (Doubt, _)| (doubt.number, Box::pin(confirm(reads, prefix.to_owned(), doubt)) as Read);
            self.read = doubt.zip(reads).map(begin);
        }
    }

    /// Gives a read up: its connection is old.
    pub(super) fn give_up(&mut self) {
        self.read = None;
    }

    /// What the store says; never ends while nothing is asked.
    pub(super) async fn next(&mut self) -> Said {
        let Some((_, read)) = &mut self.read else { return std::future::pending().await };
        let said = read.await;
        self.read = None;
        said
    }
}

async fn confirm(reads: Reads, prefix: String, doubt: Doubt) -> Said {
    loop {
        match tokio::time::timeout(READ_LIMIT, read(&reads, &prefix, &doubt)).await {
            Ok(Some(said)) => return said,
            Ok(None) | Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// `None` if the store could not be read, or has not come to the doubt's revision.
async fn read(reads: &Reads, prefix: &str, doubt: &Doubt) -> Option<Said> {
    let routes = format!("{prefix}/routes/");
    let any = GetOptions::new().with_range(end_of_prefix(routes.as_bytes())).with_limit(1).with_keys_only();
    let any = TxnOp::get(routes, Some(any));
    let samples = doubt.samples.iter().map(|key| {
        let full_key = [prefix.as_bytes(), b"/", key.as_slice()].concat();
        TxnOp::get(full_key, Some(GetOptions::new().with_keys_only()))
    });
    let answer = reads.txn(Txn::new().and_then([any].into_iter().chain(samples).collect::<Vec<_>>())).await.ok()?;
    if u64::try_from(answer.header()?.revision()).ok()? < doubt.revision {
        return None;
    }
    let mut found = answer.op_responses().into_iter().map(|answer| match answer {
        TxnOpResponse::Get(mut found) => found.take_kvs(),
        _ => Vec::new(),
    });
    let has_routes = !found.next()?.is_empty();
    let contradicts = found.flatten().any(|kv| stored(kv, 0).mod_revision <= doubt.revision);
    Some(Said { number: doubt.number, has_routes, contradicts })
}

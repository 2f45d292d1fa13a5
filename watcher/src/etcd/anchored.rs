//! Reading what a store's history says of the changes that were applied last.
//!
//! Each is read at its own revision, linearizably, all at once; what the answers mean is [`anchor`]'s.

use etcd_client::{Error, GetOptions};
use futures_util::future::try_join_all;

use super::wire::{Cursor, READ_LIMIT, stored};
use crate::{
    anchor::{Anchor, Found, LastChange, Proof, judge, resume_behind},
    connect::Reads,
};

/// Whether the store's history is the one that was applied, and behind which revision a watch is resumed.
pub(super) async fn anchored(reads: &Reads, prefix: &str, cursor: &Cursor) -> Result<(Anchor, u64), Error> {
    let changes = &cursor.last_changes;
    let proofs = try_join_all(changes.iter().map(|change| proof(reads, prefix, change))).await?;
    let newest = changes.newest();
    let all_forgotten = proofs.iter().all(|proof| *proof == Proof::Forgotten);
    let at_cursor = match newest.filter(|_| all_forgotten) {
        Some(newest) => Some(found(reads, prefix, &newest.key, cursor.revision).await?),
        None => None,
    };
    Ok((judge(changes, &proofs, at_cursor), resume_behind(cursor.revision, changes, proofs.last().copied())))
}

/// Whether the store's history holds this change; false also where it has been forgotten, or can't be read.
pub(super) async fn holds(reads: &Reads, prefix: &str, change: &LastChange) -> bool {
    proof(reads, prefix, change).await.is_ok_and(|proof| proof == Proof::Same)
}

async fn proof(reads: &Reads, prefix: &str, change: &LastChange) -> Result<Proof, Error> {
    let at = found(reads, prefix, &change.key, change.mod_revision).await?;
    let before = if change.digest.is_none() && at == Found::Nothing {
        Some(found(reads, prefix, &change.key, change.mod_revision - 1).await?)
    } else {
        None
    };
    Ok(change.proof(at, before))
}

async fn found(reads: &Reads, prefix: &str, key: &[u8], revision: u64) -> Result<Found, Error> {
    if revision == 0 {
        // For etcd that would be the present.
        return Ok(Found::Nothing);
    }
    let full_key = [prefix.as_bytes(), b"/", key].concat();
    let options = GetOptions::new().with_revision(i64::try_from(revision).unwrap_or(i64::MAX));
    let read = tokio::time::timeout(READ_LIMIT, reads.get(full_key, Some(options))).await;
    match read.unwrap_or_else(|_| Err(Error::IoError(std::io::ErrorKind::TimedOut.into()))) {
        Ok(mut read) => {
            let record = read.take_kvs().into_iter().next();
            Ok(record.map_or(Found::Nothing, |kv| Found::Record(stored(kv, prefix.len() + 1).meta().digest)))
        }
        Err(Error::GRpcStatus(status)) if status.message().contains("required revision has been compacted") => Ok(Found::Compacted),
        Err(error) => Err(error),
    }
}

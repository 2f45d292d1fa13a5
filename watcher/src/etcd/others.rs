//! Asking the other members whether the cluster that was followed is still there, before another one is believed to have replaced it.

use std::time::Duration;

use tokio::task::JoinSet;
use waypost_policy::TableId;

use crate::connect::{EtcdPlace, Reads, connect};

/// How long the others may take, all at once. Whoever takes longer can't be followed either.
const LIMIT: Duration = Duration::from_secs(5);

/// Another endpoint than this one that still answers for the cluster from which the records in force came.
pub(super) async fn known_by_others(place: &EtcdPlace, endpoint: &str, table: &TableId) -> Option<String> {
    let mut asked = JoinSet::new();
    for other in place.endpoints.iter().filter(|other| *other != endpoint) {
        let (place, other) = (place.clone(), other.clone());
        asked.spawn(async move { Some((cluster_id(&place, &other).await?, other)) });
    }
    let answered = async {
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some((id, other))) = answer
                && table.is_of_cluster(id)
            {
                return Some(other);
            }
        }
        None
    };
    tokio::time::timeout(LIMIT, answered).await.ok().flatten()
}

async fn cluster_id(place: &EtcdPlace, endpoint: &str) -> Option<u64> {
    let reads = Reads::over(connect(place, endpoint).await.ok()?, &place.credentials);
    let read = reads.get(format!("{}/incarnation", place.prefix), None).await.ok()?;
    Some(read.header()?.cluster_id())
}

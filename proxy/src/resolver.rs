//! Endpoint names to addresses, off the request path.
//!
//! A name is resolved when an upstream brings it and again every 30 seconds; where a look-up fails the last good answer
//! stays. An endpoint written as an address never comes here.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;
use waypost_policy::endpoint::EndpointState;

use crate::{guard::Guard, state::Shared};

/// How often a name is resolved again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How soon after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long one look-up may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// Resolves until the process ends.
pub(crate) async fn keep_resolved(shared: Arc<Shared>) {
    let mut changed = shared.view.changed();
    let mut due: HashMap<String, Instant> = HashMap::new();
    loop {
        let named = named_endpoints(&shared);
        due.retain(|address, _| named.iter().any(|(name, _)| name == address));
        for (address, state) in named {
            // A new state under a known name (its upstream was deleted and came back) is resolved at once.
            let known = due.get(&address).copied().filter(|_| state.socket_addr().is_some());
            if known.is_some_and(|at| at > Instant::now()) {
                continue;
            }
            let next = if resolve(&address, &state).await { AGAIN_AFTER } else { RETRY_AFTER };
            due.insert(address, Instant::now() + next);
        }
        let soonest = due.values().min().copied().unwrap_or_else(|| Instant::now() + AGAIN_AFTER);
        let pause = soonest.max(Instant::now() + Duration::from_millis(100));
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep_until(pause) => {}
        }
    }
}

/// Whether there is an address for every name.
pub(crate) fn is_resolved(shared: &Shared) -> bool {
    named_endpoints(shared).iter().all(|(_, state)| state.socket_addr().is_some())
}

/// Endpoints whose address is no literal, one a name and state.
fn named_endpoints(shared: &Shared) -> Vec<(String, Arc<EndpointState>)> {
    let table = shared.view.load_full();
    // A guard sends to nobody but its backend.
    let backend = shared.guard.as_ref().map(Guard::backend);
    let upstreams = table.iter().filter(|_| backend.is_none()).flat_map(|table| table.upstreams());
    let endpoints = upstreams.chain(&backend).flat_map(|upstream| upstream.endpoints.iter());
    let named = endpoints.filter(|endpoint| endpoint.address.as_str().parse::<std::net::SocketAddr>().is_err());
    named.map(|endpoint| (endpoint.address.as_str().to_owned(), Arc::clone(&endpoint.state))).collect()
}

async fn resolve(address: &str, state: &EndpointState) -> bool {
    match tokio::time::timeout(LOOKUP_LIMIT, tokio::net::lookup_host(address)).await {
        Ok(Ok(mut addresses)) => {
            let Some(first) = addresses.next() else { return false };
            state.resolved(first);
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(endpoint = address, %error, "the endpoint's name could not be resolved; its last address stays in use");
            false
        }
        Err(_) => false,
    }
}

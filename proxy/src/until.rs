//! Waiting for something to become so: polled, with a limit, never for a fixed time.

use std::time::{Duration, Instant};

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(2);

/// Polls a condition until it gives something.
///
/// # Errors
/// `what` and the limit, if it has passed.
pub(crate) async fn until<T>(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> Result<T, String> {
    let ends = Instant::now() + limit;
    loop {
        if let Some(found) = condition().await {
            return Ok(found);
        }
        if Instant::now() >= ends {
            return Err(format!("{what} within {limit:?}"));
        }
        tokio::time::sleep(EVERY).await;
    }
}

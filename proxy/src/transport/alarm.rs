//! One timer for all waits of a connection, one after the other.
//!
//! Most waits end long before their time, and setting a timer for each would cost more than what is waited for. So the timer stays set for the earliest
//! time that it was ever set for: it goes off too early now and then, and is set anew. What always holds: nobody waits past the time given.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep};

/// The timer, made at the first wait.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Set>);

#[derive(Debug)]
struct Set {
    sleep: Pin<Box<Sleep>>,
    /// `None`: it has gone off.
    at: Option<Instant>,
}

impl Alarm {
    /// Ready at this time or later.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, due: Instant) -> Poll<()> {
        let set = self.0.get_or_insert_with(|| Set { sleep: Box::pin(tokio::time::sleep_until(due)), at: Some(due) });
        loop {
            let at = match set.at {
                Some(at) if at <= due => at,
                _ => {
                    set.sleep.as_mut().reset(due);
                    *set.at.insert(due)
                }
            };
            ready!(set.sleep.as_mut().poll(context));
            set.at = None;
            if at >= due || Instant::now() >= due {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test]
    async fn it_goes_off_at_no_time_but_the_last_that_was_asked_for() {
        let mut alarm = Alarm::default();
        for wait_ms in [5, 1, 20, 20, 1] {
            let due = Instant::now() + Duration::from_millis(wait_ms);
            poll_fn(|context| alarm.poll(context, due)).await;
            assert!(Instant::now() >= due);
        }
        // Waits that end by themselves, shorter ones and longer ones: the next is cut short by none of them.
        for wait_ms in [10, 60_000, 2] {
            let due = Instant::now() + Duration::from_millis(wait_ms);
            let is_waiting = poll_fn(|context| Poll::Ready(alarm.poll(context, due).is_pending())).await;
            assert!(is_waiting);
        }
        let due = Instant::now() + Duration::from_millis(30);
        poll_fn(|context| alarm.poll(context, due)).await;
        assert!(Instant::now() >= due);
    }
}

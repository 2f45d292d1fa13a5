//! Freeing of what is no longer in force, by a thread of its own.
//!
//! A reader may be the last to look at an old table, but is never the one that frees it: the thread keeps a reference until no other is
//! left. Nor does the writer wait: it hands the old table over and goes on. What always holds: nothing comes here that a new reader
//! could still find, so a count of one stays one.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use crate::threads::stand_back;

/// How often it is looked whether readers have gone. Until then an old table costs what the next one did not share with it.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The thread's name; Linux shows 15 bytes.
const THREAD: &str = "waypost-retire";

/// The way to the thread, which ends with it.
#[derive(Debug)]
pub(crate) struct Retirement<T> {
    retired: Sender<Arc<T>>,
}

impl<T: Send + Sync + 'static> Retirement<T> {
    pub(crate) fn start() -> Self {
        let (retired, arrivals) = mpsc::channel();
        if let Err(error) = thread::Builder::new().name(THREAD.to_owned()).spawn(move || free(&arrivals)) {
            tracing::warn!(%error, "no thread for freeing old tables; they are freed where they are left");
        }
        Self { retired }
    }

    /// Frees this as soon as nobody looks at it any more.
    pub(crate) fn retire(&self, old: Arc<T>) {
        // Without the thread it comes back, and ends here.
        let _ = self.retired.send(old);
    }
}

fn free<T>(arrivals: &Receiver<Arc<T>>) {
    stand_back();
    let mut held: Vec<Arc<T>> = Vec::new();
    loop {
        let arrival = match held.is_empty() {
            true => arrivals.recv().map_err(RecvTimeoutError::from),
            false => arrivals.recv_timeout(LOOK_EVERY),
        };
        match arrival {
            Ok(old) => held.push(old),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        held.extend(arrivals.try_iter());
        held.retain(|old| Arc::strong_count(old) > 1);
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Says on which thread it was freed.
    struct Heavy(&'static str, Sender<(&'static str, Option<String>)>);

    impl Drop for Heavy {
        fn drop(&mut self) {
            let _ = self.1.send((self.0, thread::current().name().map(ToOwned::to_owned)));
        }
    }

    #[test]
    fn a_reader_may_be_the_last_but_never_frees_a_table() {
        let (freed_on, freed) = mpsc::channel();
        let heavy = |name| Arc::new(Heavy(name, freed_on.clone()));
        let here = Some(THREAD.to_owned());
        let retirement = Retirement::start();
        let table = ArcSwap::new(heavy("old"));
        thread::scope(|scope| {
            let (looks, looking) = mpsc::channel();
            let (done, is_done) = mpsc::channel::<()>();
            let table = &table;
            let request = scope.spawn(move || {
                let (_guard, _kept) = (table.load(), table.load_full());
                looks.send(()).unwrap();
                // Until the test says so, or has failed.
                let _ = is_done.into_iter().next();
            });
            looking.recv_timeout(LIMIT).unwrap();
            retirement.retire(table.swap(heavy("new")));
            // What nobody looks at is freed although it came later: the thread has looked at both.
            retirement.retire(heavy("unread"));
            assert_eq!(freed.recv_timeout(LIMIT).unwrap(), ("unread", here.clone()));
            done.send(()).unwrap();
            request.join().unwrap();
        });
        assert_eq!(freed.recv_timeout(LIMIT).unwrap(), ("old", here));
    }
}

//! Connections to owners that are kept between requests.
//!
//! Each worker thread has a shelf of its own; it takes from another's only where its own has none for the owner. What always holds: a connection is on one
//! shelf or with one request; what an owner has closed, or has sent something on unasked, is not given to a request as far as that is known by then.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use rustix::{io::Errno, net::RecvFlags};
use tokio::net::TcpStream;

use crate::worker;

/// How long a connection may lie idle.
const IDLE: Duration = Duration::from_secs(55);
/// How often those that are of no use any more are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// Connections kept, for the whole process.
const KEPT: usize = 4096;

/// All kept connections.
pub(crate) struct Pool {
    shelves: Box<[Mutex<Shelf>]>,
}

#[derive(Default)]
struct Shelf {
    idle: HashMap<SocketAddr, Vec<Idle>, ahash::RandomState>,
    count: usize,
}

struct Idle {
    stream: TcpStream,
    since: Instant,
}

impl Idle {
    /// Whether it may serve another request. Asks the system where it has said that there is something to read, and where one must be sure.
    fn is_usable(&self, now: Instant, is_sure: bool) -> bool {
        let is_silent = || matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let is_open = || matches!(rustix::net::recv(&self.stream, &mut [0_u8; 1][..], flags), Err(Errno::WOULDBLOCK));
        now.duration_since(self.since) < IDLE && is_silent() && (!is_sure || is_open())
    }
}

impl Pool {
    /// For so many worker threads.
    pub(super) fn new(threads: usize) -> Self {
        Self { shelves: (0..threads.max(1)).map(|_| Mutex::default()).collect() }
    }

    /// A connection to the owner, the one that was used last, if there is one. `is_sure`: an owner that has just closed it must not get the request,
    /// which could not be sent again.
    pub(super) fn take(&self, owner: SocketAddr, now: Instant, is_sure: bool) -> Option<TcpStream> {
        let own = self.own();
        if let Some(stream) = lock(&self.shelves[own]).take(owner, now, is_sure) {
            return Some(stream);
        }
        let mut others = self.shelves.iter().enumerate().filter(|(shelf, _)| *shelf != own);
        let another = others.find_map(|(_, shelf)| match shelf.try_lock() {
            Ok(mut shelf) => shelf.take(owner, now, is_sure),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(owner, now, is_sure),
            Err(TryLockError::WouldBlock) => None,
        })?;
        // From here on this thread's own driver looks after it.
        TcpStream::from_std(another.into_std().ok()?).ok()
    }

    /// Keeps a connection whose last answer has been read to its end. Where there is no room another goes that nobody has used lately.
    pub(super) fn keep(&self, owner: SocketAddr, stream: TcpStream, now: Instant) {
        let mut shelf = lock(&self.shelves[self.own()]);
        if shelf.count >= (KEPT / self.shelves.len()).max(1) {
            shelf.let_one_go();
        }
        shelf.count += 1;
        shelf.idle.entry(owner).or_default().push(Idle { stream, since: now });
    }

    fn own(&self) -> usize {
        worker::number() % self.shelves.len()
    }

    fn sweep(&self, now: Instant) {
        for shelf in &self.shelves {
            let mut shelf = lock(shelf);
            for kept in shelf.idle.values_mut() {
                kept.retain(|idle| idle.is_usable(now, false));
            }
            shelf.idle.retain(|_, kept| !kept.is_empty());
            shelf.count = shelf.idle.values().map(Vec::len).sum();
        }
    }
}

impl Shelf {
    fn take(&mut self, owner: SocketAddr, now: Instant, is_sure: bool) -> Option<TcpStream> {
        let kept = self.idle.get_mut(&owner)?;
        while let Some(idle) = kept.pop() {
            self.count -= 1;
            if idle.is_usable(now, is_sure) {
                return Some(idle.stream);
            }
        }
        None
    }

    /// The oldest of one owner's or another's.
    fn let_one_go(&mut self) {
        if let Some(kept) = self.idle.values_mut().find(|kept| !kept.is_empty()) {
            kept.remove(0);
            self.count -= 1;
        }
    }
}

/// Lets go what is of no use any more. Never ends.
pub(crate) async fn keep_swept(pool: Arc<Pool>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        pool.sweep(Instant::now());
    }
}

/// A poisoned lock guards plain data that is valid after any panic.
fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    /// Two ends of a connection.
    async fn connection(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn a_connection_is_given_once_and_only_while_it_is_of_use() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let owner = listener.local_addr().unwrap();
        let (pool, now) = (Pool::new(2), Instant::now());
        let (ours, theirs) = connection(&listener).await;
        let port = ours.local_addr().unwrap();
        pool.keep(owner, ours, now);
        let taken = pool.take(owner, now, false).unwrap();
        assert_eq!(taken.local_addr().unwrap(), port);
        assert!(pool.take(owner, now, false).is_none(), "it is with a request");
        pool.keep(owner, taken, now);
        assert!(pool.take(owner, now + IDLE, false).is_none(), "it has been idle for too long");
        drop(theirs);

        for closes in [true, false] {
            let (ours, mut theirs) = connection(&listener).await;
            if !closes {
                theirs.write_all(b"HTTP/1.1 408 Late\r\n\r\n").await.unwrap();
            }
            let held = (!closes).then_some(theirs);
            ours.readable().await.unwrap();
            pool.keep(owner, ours, now);
            assert!(pool.take(owner, now, false).is_none(), "closed: {closes}");
            drop(held);
        }
    }

    #[tokio::test]
    async fn what_is_of_no_use_is_swept_and_what_another_thread_keeps_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let owner = listener.local_addr().unwrap();
        let (pool, now) = (Arc::new(Pool::new(2)), Instant::now());
        let (ours, theirs) = connection(&listener).await;
        pool.take(owner, now, false);
        let keeper = Arc::clone(&pool);
        std::thread::spawn(move || keeper.keep(owner, ours, now)).join().unwrap();
        pool.sweep(now);
        let taken = pool.take(owner, now, false).expect("from the other's shelf");
        pool.keep(owner, taken, now);
        drop(theirs);
        pool.sweep(now + IDLE);
        assert!(pool.shelves.iter().all(|shelf| lock(shelf).count == 0 && lock(shelf).idle.is_empty()));
    }
}

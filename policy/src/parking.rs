//! Where requests wait for the owner of their key to change: bounded, woken by key, let go at a pace.
//!
//! Register, look again, then sleep: who registers before the last look can't miss a wake-up, since whatever changes the key afterwards
//! finds it here. A wake-up says only that it is worth looking again. What always holds: a place is given back when its [`Place`] is
//! dropped, whoever ends the wait and however; only waiters of changed keys are woken; of a crowd so many at a time that the new
//! owner is not met by all of them at once.
//!
//! Sans-IO: a [`Place`] is a future of the standard library; timers are the transport's.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{Moment, Table, table::RequestKey};

/// Requests that may wait at once, in the whole proxy (STALE-ROUTES.md, "Parking").
pub const MAX_PARKED: usize = 4096;
/// Bytes of requests that may wait at once.
pub const MAX_PARKED_BYTES: usize = 64 << 20;
/// Of a crowd so many are let go at once: each may need a new connection, and a server's queue of those is often no longer than 128, ...
pub const AT_ONCE: usize = 16;
/// ... and the next ones so much later.
pub const PACE: Duration = Duration::from_millis(2);

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as many requests wait as may")]
pub struct Full;

/// All waiting requests of a proxy.
#[derive(Debug)]
pub struct Parking {
    inner: Arc<Mutex<Inner>>,
    most: usize,
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    numbers: u64,
    places: BTreeMap<u64, Waiter>,
    by_key: HashMap<RequestKey, Vec<u64>, ahash::RandomState>,
    bytes: usize,
    /// Woken, but not let go yet, in the order in which they came.
    queue: VecDeque<u64>,
    /// When the next ones may be let go.
    next_at: Moment,
}

#[derive(Debug)]
struct Waiter {
    key: RequestKey,
    bytes: usize,
    is_queued: bool,
    /// It may look again.
    is_released: bool,
    waker: Option<Waker>,
}

/// One request's place. As a future it ends when it is worth looking again, and may then be waited for once more.
#[derive(Debug)]
pub struct Place {
    number: u64,
    inner: Arc<Mutex<Inner>>,
}

impl Default for Parking {
    fn default() -> Self {
        Self::with_room(MAX_PARKED, MAX_PARKED_BYTES)
    }
}

impl Parking {
    /// Room for so many requests of so many bytes together.
    pub fn with_room(most: usize, most_bytes: usize) -> Self {
        Self { inner: Arc::default(), most, most_bytes }
    }

    /// Takes a place for a request that holds so many bytes.
    ///
    /// # Errors
    /// If there is no room.
    pub fn register(&self, key: &RequestKey, bytes: usize) -> Result<Place, Full> {
        let mut inner = lock(&self.inner);
        if inner.places.len() >= self.most || inner.bytes.saturating_add(bytes) > self.most_bytes {
            return Err(Full);
        }
        inner.numbers += 1;
        let number = inner.numbers;
        inner.bytes += bytes;
        inner.by_key.entry(key.clone()).or_default().push(number);
        inner.places.insert(number, Waiter { key: key.clone(), bytes, is_queued: false, is_released: false, waker: None });
        Ok(Place { number, inner: Arc::clone(&self.inner) })
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        lock(&self.inner).places.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes they hold.
    pub fn bytes(&self) -> usize {
        lock(&self.inner).bytes
    }

    /// A key has changed: whoever waits for it is to look again, some of them at once. When the next ones are to be let go
    /// ([`Parking::let_go`]); `None` if nobody is left to be.
    pub fn wake(&self, key: &RequestKey, now: Moment) -> Option<Moment> {
        let mut inner = lock(&self.inner);
        let Inner { places, by_key, queue, .. } = &mut *inner;
        for number in by_key.get(key).into_iter().flatten() {
            if let Some(waiter) = places.get_mut(number) {
                waiter.queue(*number, queue);
            }
        }
        inner.let_go(now)
    }

    /// A table has come into force: whoever waits for a key that is not as it was is to look again, in the order in which they came. Where
    /// there is no table to compare with, everybody may have missed a change on the way here, and looks once more.
    pub fn wake_changed(&self, before: Option<&Table>, after: Option<&Table>, now: Moment) -> Option<Moment> {
        let is_same = |key: &RequestKey| {
            before.zip(after).is_some_and(|(before, after)| before.id() == after.id() && before.entry(key) == after.entry(key))
        };
        let keys: Vec<RequestKey> = lock(&self.inner).by_key.keys().cloned().collect();
        let changed: HashSet<RequestKey, ahash::RandomState> = keys.into_iter().filter(|key| !is_same(key)).collect();
        let mut inner = lock(&self.inner);
        if !changed.is_empty() {
            let Inner { places, queue, .. } = &mut *inner;
            for (number, waiter) in places.iter_mut().filter(|(_, waiter)| changed.contains(&waiter.key)) {
                waiter.queue(*number, queue);
            }
        }
        inner.let_go(now)
    }

    /// Lets the next ones go, if it is time. When the next are to be; `None` if nobody is left to be.
    pub fn let_go(&self, now: Moment) -> Option<Moment> {
        lock(&self.inner).let_go(now)
    }
}

impl Waiter {
    /// Takes its turn among those that are let go, unless it has one.
    fn queue(&mut self, number: u64, queue: &mut VecDeque<u64>) {
        if !self.is_queued && !self.is_released {
            self.is_queued = true;
            queue.push_back(number);
        }
    }
}

impl Inner {
    fn let_go(&mut self, now: Moment) -> Option<Moment> {
        if self.next_at <= now && !self.queue.is_empty() {
            let mut let_go = 0;
            while let_go < AT_ONCE
                && let Some(number) = self.queue.pop_front()
            {
                // Who has gone meanwhile takes nobody's turn.
                let Some(waiter) = self.places.get_mut(&number) else { continue };
                waiter.is_queued = false;
                waiter.is_released = true;
                let_go += 1;
                if let Some(waker) = waiter.waker.take() {
                    waker.wake();
                }
            }
            self.next_at = now + PACE;
        }
        (!self.queue.is_empty()).then_some(self.next_at)
    }
}

impl Future for Place {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut inner = lock(&self.inner);
        let Some(waiter) = inner.places.get_mut(&self.number) else { return Poll::Ready(()) };
        if std::mem::take(&mut waiter.is_released) {
            return Poll::Ready(());
        }
        waiter.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = lock(&self.inner);
        let Some(waiter) = inner.places.remove(&self.number) else { return };
        inner.bytes -= waiter.bytes;
        if let Some(numbers) = inner.by_key.get_mut(&waiter.key) {
            numbers.retain(|number| *number != self.number);
            if numbers.is_empty() {
                inner.by_key.remove(&waiter.key);
            }
        }
    }
}

/// A poisoned lock guards plain data that is valid after any panic.
fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::table::ServiceId;

    fn key(name: &str) -> RequestKey {
        RequestKey { service: ServiceId::new(0), key: name.as_bytes().into() }
    }

    fn at(ms: u64) -> Moment {
        Moment::default() + Duration::from_millis(ms)
    }

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_released(place: &mut Place, bell: &Arc<Bell>) -> bool {
        let waker = Waker::from(Arc::clone(bell));
        Pin::new(place).poll(&mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn only_who_waits_for_the_changed_key_is_woken_and_may_wait_again() {
        let (parking, bell) = (Parking::default(), Arc::<Bell>::default());
        let (mut one, mut other) = (parking.register(&key("t1"), 10).unwrap(), parking.register(&key("t2"), 10).unwrap());
        assert!(!is_released(&mut one, &bell) && !is_released(&mut other, &bell));
        assert_eq!(parking.wake(&key("t1"), at(0)), None);
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
        assert!(is_released(&mut one, &bell) && !is_released(&mut other, &bell));
        assert!(!is_released(&mut one, &bell), "it looked, and waits again");
        parking.wake(&key("t1"), at(5));
        assert!(is_released(&mut one, &bell));
        assert_eq!((parking.len(), parking.bytes()), (2, 20));
        drop((one, other));
        assert!((parking.len(), parking.bytes()) == (0, 0) && lock(&parking.inner).by_key.is_empty());
    }

    #[test]
    fn a_change_between_registering_and_sleeping_is_not_lost() {
        let (parking, bell) = (Parking::default(), Arc::<Bell>::default());
        let mut place = parking.register(&key("t1"), 0).unwrap();
        parking.wake(&key("t1"), at(0));
        assert!(is_released(&mut place, &bell));
    }

    #[test]
    fn there_is_room_for_so_many_and_so_many_bytes() {
        let parking = Parking::with_room(2, 100);
        let one = parking.register(&key("t1"), 60).unwrap();
        assert_eq!(parking.register(&key("t1"), 41).unwrap_err(), Full);
        let _other = parking.register(&key("t1"), 40).unwrap();
        assert_eq!(parking.register(&key("t1"), 0).unwrap_err(), Full);
        drop(one);
        assert!(parking.register(&key("t1"), 0).is_ok());
    }

    #[test]
    fn a_crowd_is_let_go_at_a_pace_in_the_order_in_which_it_came() {
        let (parking, bell) = (Parking::default(), Arc::<Bell>::default());
        let mut crowd: Vec<Place> = (0..3 * AT_ONCE).map(|_| parking.register(&key("t1"), 0).unwrap()).collect();
        let next = parking.wake(&key("t1"), at(10));
        assert_eq!(next, Some(at(10) + PACE));
        assert_eq!(parking.let_go(at(11)), next, "not yet");
        // One of the second group goes away: it takes nobody's turn.
        drop(crowd.remove(AT_ONCE));
        let released = |crowd: &mut Vec<Place>| crowd.iter_mut().map(|place| is_released(place, &bell)).collect::<Vec<_>>();
        assert_eq!(released(&mut crowd).iter().position(|released| !released), Some(AT_ONCE));
        parking.let_go(at(12));
        assert_eq!(released(&mut crowd).iter().filter(|released| **released).count(), AT_ONCE);
        assert_eq!(parking.let_go(at(14)), None);
        assert_eq!(released(&mut crowd).iter().filter(|released| **released).count(), AT_ONCE - 1);
    }

    proptest! {
        /// Whatever is registered, woken, looked at and dropped: places and bytes are conserved, and nobody whose key changed waits on.
        #[test]
        fn places_are_conserved(acts in proptest::collection::vec((0u8..4, 0usize..4, 0usize..50), 0..200)) {
            let (parking, bell) = (Parking::with_room(8, 200), Arc::<Bell>::default());
            let mut places: Vec<(usize, usize, Place)> = Vec::new();
            for (turn, (act, name, bytes)) in acts.into_iter().enumerate() {
                match act {
                    0 => if let Ok(place) = parking.register(&key(&name.to_string()), bytes) { places.push((name, bytes, place)) },
                    1 if !places.is_empty() => drop(places.remove(bytes % places.len())),
                    2 => {
                        let next = parking.wake(&key(&name.to_string()), at(10 * turn as u64));
                        prop_assert_eq!(next, None);
                        for (waits_for, _, place) in &mut places {
                            prop_assert!(*waits_for != name || is_released(place, &bell));
                        }
                    }
                    _ => for (.., place) in &mut places { let _ = is_released(place, &bell); },
                }
                prop_assert_eq!(parking.len(), places.len());
                prop_assert_eq!(parking.bytes(), places.iter().map(|(_, bytes, _)| bytes).sum::<usize>());
                prop_assert!(parking.len() <= 8 && parking.bytes() <= 200);
            }
            drop(places);
            prop_assert!(parking.is_empty() && lock(&parking.inner).by_key.is_empty());
        }
    }
}

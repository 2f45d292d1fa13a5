//! What an owner does about its frozen keys beside waiting: ends what is served for them if their mover says so, and takes them back when
//! it has died.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::{sync::Semaphore, task::JoinSet};
use waypost_conf::{Name, RecordKey, RouteState};
use waypost_policy::{
    Moment, Table,
    handover::{Effect, Freeze, Freezes, Input, Rescue, Rescued},
};
use waypost_watcher::{EtcdPlace, View};

use crate::{busy::Busy, hands::Hands};

/// So many keys are dealt with at the store at the same time.
const AT_ONCE: usize = 16;

struct Rescuer {
    gold: EtcdPlace,
    busy: Arc<Busy>,
    freezes: Mutex<Freezes>,
    /// A connection that worked the last time.
    hands: Mutex<Option<Hands>>,
    places: Semaphore,
    origin: Instant,
}

/// Looks after the keys of an upstream for as long as the gold copy is followed.
pub(crate) async fn rescue(gold: EtcdPlace, upstream: Name, view: View, busy: Arc<Busy>) {
    let rescuer = Arc::new(Rescuer {
        gold,
        busy,
        freezes: Mutex::default(),
        hands: Mutex::default(),
        places: Semaphore::new(AT_ONCE),
        origin: Instant::now(),
    });
    let mut changed = view.changed();
    let mut under_way = JoinSet::new();
    loop {
        if let Some(table) = view.load_full() {
            let new = lock(&rescuer.freezes).look(&table, rescuer.now());
            for freeze in new.into_iter().filter(|freeze| freeze.owner.as_ref() == Some(&upstream)) {
                under_way.spawn(Arc::clone(&rescuer).look_after(freeze, Arc::clone(&table)));
            }
        }
        while under_way.try_join_next().is_some() {}
        if changed.changed().await.is_err() {
            return;
        }
    }
}

impl Rescuer {
    fn now(&self) -> Moment {
        Moment::after_origin(self.origin.elapsed())
    }

    /// `table`: the first one that has the freeze.
    async fn look_after(self: Arc<Self>, freeze: Freeze, table: Arc<Table>) {
        let key = RecordKey::Route { service: freeze.service.clone(), key: freeze.record.clone() };
        if self.busy.has(&table, &freeze.service, &freeze.record) && Box::pin(self.says_cut(&key)).await {
            self.busy.cut(&table, &freeze.service, &freeze.record);
        }
        drop(table);
        match self.take_back(&key, &freeze).await {
            Rescued::GivenBack(revision) => {
                tracing::warn!(%key, revision, "the key was left frozen by a mover that has died; it was taken back")
            }
            Rescued::ByHand => tracing::warn!(%key, "the key is frozen, by no mover: it stays so until its record is changed"),
            Rescued::Over => {}
        }
    }

    /// Whether the mover that froze a key says that its requests are to be ended. Where that can't be read they are not.
    async fn says_cut(&self, key: &RecordKey) -> bool {
        let Ok(hands) = self.hands().await else { return false };
        let Ok(Some(known)) = hands.read(key).await else { return false };
        let RouteState::Frozen { move_id: Some(id), .. } = known.route.state else { return false };
        hands.mark(&id).await.ok().flatten().is_some_and(|mark| mark.cut)
    }

    async fn take_back(&self, key: &RecordKey, freeze: &Freeze) -> Rescued {
        let mut rescue = Rescue::new(freeze.revision, &mut fastrand::Rng::new());
        let mut asked = rescue.begin(freeze.since);
        loop {
            let told = match asked {
                Effect::End(rescued) => return rescued,
                Effect::Sleep(until) => {
                    tokio::time::sleep(until.since(self.now())).await;
                    if !lock(&self.freezes).has(freeze) {
                        return Rescued::Over;
                    }
                    Input::Woke
                }
                // Boxed: most keys are never dealt with at the store.
                effect => Box::pin(self.carry_out(key, effect)).await,
            };
            asked = rescue.step(told, self.now());
        }
    }

    async fn carry_out(&self, key: &RecordKey, effect: Effect<Rescued>) -> Input<'static> {
        let Ok(_place) = self.places.acquire().await else { return Input::Failed("the owner has stopped".to_owned()) };
        let hands = match self.hands().await {
            Ok(hands) => hands,
            Err(why) => return Input::Failed(why),
        };
        let told = match effect {
            Effect::Read => hands.read(key).await.map_or_else(Input::Failed, Input::Read),
            Effect::LookForMark(id) => hands.mark(&id).await.map_or_else(Input::Failed, |mark| Input::Mark(mark.is_some())),
            Effect::Swap { route, read_at } => hands.swap(key, route, read_at).await,
            // A rescue asks for nothing else.
            Effect::Mark | Effect::Look(_) | Effect::Sleep(_) | Effect::End(_) => Input::Woke,
        };
        if matches!(told, Input::Failed(_) | Input::Unsure(_)) {
            // The next one may go to another member.
            *lock(&self.hands) = None;
        }
        told
    }

    async fn hands(&self) -> Result<Hands, String> {
        let known = lock(&self.hands).clone();
        if let Some(hands) = known {
            return Ok(hands);
        }
        let hands = Hands::connect(&self.gold).await?;
        *lock(&self.hands) = Some(hands.clone());
        Ok(hands)
    }
}

/// A poisoned lock guards plain data that is valid after any panic.
fn lock<T>(it: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

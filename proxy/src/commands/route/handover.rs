//! The mover's hands: what a [`Move`] asks for is done at the store, and it is told how that ended.
//!
//! All moves of one run share a mark, by which others see that their mover lives, and reads of what owners announce.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use waypost_conf::{Name, Partition, Record, RecordKey, RouteState};
use waypost_policy::handover::{Effect, Input, Instances, Known, Move, Moved, Plan};
use waypost_watcher::{
    EtcdPlace,
    leased::Leased,
    store::{Change, Store, Swapped},
};

use crate::clock::Clock;

/// How long a move's mark outlives its mover: the least that etcd grants, since until then nobody gives its keys back.
const MARKED_FOR: Duration = Duration::from_secs(2);

/// What a mover works with.
pub(super) struct Mover {
    /// The records.
    pub(super) store: Store,
    /// What processes report, beside them.
    reports: Store,
    /// Instances of the old owner that are known to be dead, whatever they have announced.
    assume_dead: Vec<String>,
    /// Whether a move is made although no instance of the old owner, or of the new one, has announced itself.
    force: bool,
    place: EtcdPlace,
    /// This run's, in the records that it freezes.
    id: String,
    /// Written when the first key is about to be moved.
    mark: OnceLock<Leased>,
    looks: Looks,
    clock: Clock,
}

impl Mover {
    /// A mover that has not begun.
    pub(super) async fn start(place: EtcdPlace, assume_dead: Vec<String>, force: bool) -> Result<Self, String> {
        let beside = EtcdPlace { prefix: format!("{}-state", place.prefix), ..place.clone() };
        let store = Store::connect(&place).await?;
        let reports = Store::connect(&beside).await?;
        let id = format!("{:016x}", fastrand::u64(..));
        let looks = Looks::start(reports.clone());
        Ok(Self { store, reports, assume_dead, force, place, id, mark: OnceLock::new(), looks, clock: Clock::start() })
    }

    /// Why a move may not begin, if it may not.
    pub(super) async fn check(&self, from: &Name, to: &Name) -> Result<(), String> {
        if self.store.get(&RecordKey::Upstream(to.clone()).suffix()).await?.is_none() {
            return Err(format!("there is no upstreams/{to}; put it first"));
        }
        for (upstream, role) in [(from, "old"), (to, "new")] {
            if !self.force && self.looks.look(upstream).await?.keys().all(|id| self.assume_dead.contains(id)) {
                return Err(format!(
                    "no instance of the {role} owner \"{upstream}\" has announced itself: whether it has let go can't be known; --force moves \
                     all the same, which is safe only if no process of \"{from}\" runs"
                ));
            }
        }
        Ok(())
    }

    /// Whether one record of a service covers more than one routing key.
    pub(super) async fn covers_many(&self, service: &Name) -> Result<bool, String> {
        let key = RecordKey::Service(service.clone());
        let Some(found) = self.store.get(&key.suffix()).await? else { return Ok(false) };
        let decoded = waypost_conf::decode(&key, &found.value).map_err(|fault| format!("{key} has a bad value: {fault}"))?;
        Ok(matches!(decoded.record, Record::Service(service) if service.partition != Partition::Exact))
    }

    /// Moves a key.
    pub(super) async fn hand_over(&self, key: &RecordKey, from: &Name, to: &Name, covers_many: bool) -> Result<Moved, String> {
        let plan = Plan {
            key: key.clone(),
            from: Some(from.clone()),
            to: to.clone(),
            id: self.id.clone(),
            covers_many,
            force: self.force,
            assume_dead: self.assume_dead.clone(),
        };
        let mut moving = Move::new(plan);
        let mut asked = moving.step(Input::Woke, self.clock.now());
        loop {
            let seen;
            let told = match asked {
                Effect::End(outcome) => return outcome,
                Effect::Mark => {
                    self.mark.get_or_init(|| self.mark()).written().await;
                    Input::Marked
                }
                Effect::Read => self.known(key).await.map_or_else(Input::Failed, Input::Read),
                Effect::LookForMark(id) => {
                    let found = self.reports.get(format!("moves/{id}").as_bytes()).await;
                    found.map_or_else(Input::Failed, |found| Input::Mark(found.is_some()))
                }
                Effect::Look(upstream) => match self.looks.look(&upstream).await {
                    Ok(instances) => {
                        seen = instances;
                        Input::Saw(&seen)
                    }
                    Err(why) => Input::Failed(why),
                },
                Effect::Swap { route, read_at } => self.swap(key, route, read_at).await,
                Effect::Sleep(until) => {
                    tokio::time::sleep(until.since(self.clock.now())).await;
                    Input::Woke
                }
            };
            asked = moving.step(told, self.clock.now());
        }
    }

    fn mark(&self) -> Leased {
        Leased::start(self.place.clone(), format!("{}-state/moves/{}", self.place.prefix, self.id), b"{}".to_vec(), MARKED_FOR)
    }

    /// Gives a frozen key back to its owner.
    pub(super) async fn abort(&self, key: &RecordKey) -> Result<u64, String> {
        let Known { route, revision } = self.read(key).await?;
        if route.state == RouteState::Serving {
            return Err(format!("{key} is not being moved; {} serves it", route.owner));
        }
        match self.swap(key, waypost_policy::handover::given_back(&route), revision).await {
            Input::Swapped(revision) => Ok(revision),
            Input::Unsure(why) | Input::Failed(why) => Err(why),
            _ => Err(format!("somebody else has changed {key} meanwhile; look at it and try again")),
        }
    }

    /// The record as it is.
    pub(super) async fn read(&self, key: &RecordKey) -> Result<Known, String> {
        self.known(key).await?.ok_or_else(|| format!("there is no {key}"))
    }

    async fn known(&self, key: &RecordKey) -> Result<Option<Known>, String> {
        let Some(found) = self.store.get(&key.suffix()).await? else { return Ok(None) };
        let route = super::route_of(&found).map_err(|fault| format!("{key} has a bad value: {fault}"))?;
        Ok(Some(Known { route, revision: found.mod_revision }))
    }

    async fn swap(&self, key: &RecordKey, route: waypost_conf::Route, read_at: u64) -> Input<'static> {
        let value = serde_json::to_vec(&Record::Route(route).to_json()).unwrap_or_default();
        let change = Change { key: key.suffix(), value: Some(value), read_at };
        match self.store.swap(&[change], &[]).await {
            Ok(Swapped::Done(revision)) => Input::Swapped(revision),
            Ok(Swapped::Moved(_)) => Input::Lost,
            Err(fault) if fault.may_be_written => Input::Unsure(fault.message),
            Err(fault) => Input::Failed(fault.message),
        }
    }
}

type Saw = Result<Arc<Instances>, String>;
type Asking = (Name, oneshot::Sender<Saw>);

/// Reads of what an upstream's instances have announced: one read answers all who asked before it began.
struct Looks {
    asking: mpsc::UnboundedSender<Asking>,
}

impl Looks {
    fn start(reports: Store) -> Self {
        let (asking, mut asked) = mpsc::unbounded_channel::<Asking>();
        tokio::spawn(async move {
            while let Some(first) = asked.recv().await {
                let mut waiting: HashMap<Name, Vec<oneshot::Sender<Saw>>> = HashMap::new();
                let mut next = Some(first);
                while let Some((upstream, answer)) = next {
                    waiting.entry(upstream).or_default().push(answer);
                    next = asked.try_recv().ok();
                }
                for (upstream, answers) in waiting {
                    let saw = instances(&reports, &upstream).await.map(Arc::new);
                    for answer in answers {
                        // Who has gone needs no answer.
                        let _ = answer.send(saw.clone());
                    }
                }
            }
        });
        Self { asking }
    }

    /// What the instances have announced, by a linearizable read that begins after this call.
    async fn look(&self, upstream: &Name) -> Saw {
        let (answer, answered) = oneshot::channel();
        let ended = || "the owners' announcements can't be read any more".to_owned();
        self.asking.send((upstream.clone(), answer)).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

async fn instances(reports: &Store, upstream: &Name) -> Result<Instances, String> {
    let start = format!("owners/{upstream}/");
    let found = reports.list(start.as_bytes()).await?;
    let instances = found.into_iter().map(|stored| {
        let id = String::from_utf8_lossy(stored.key.get(start.len()..).unwrap_or_default()).into_owned();
        (id, serde_json::from_slice(&stored.value).unwrap_or_default())
    });
    Ok(instances.collect())
}

//! The mover's hands: what a [`Move`] asks for is done at the store, and it is told how that ended.
//!
//! All moves of one run share a mark, by which others see that their mover lives, and reads of what owners announce.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use waypost_conf::{Name, Partition, Record, RecordKey, RouteState, decode};
use waypost_owner::hands::Hands;
use waypost_policy::handover::{Effect, Input, Instances, Known, Mark, Move, Moved, Plan};
use waypost_watcher::{EtcdPlace, leased::Leased, store::Store};

use crate::clock::Clock;

/// How long a move's mark outlives its mover: the least that etcd grants, since until then nobody gives its keys back.
const MARKED_FOR: Duration = Duration::from_secs(2);

/// What a mover works with.
pub(super) struct Mover {
    pub(super) hands: Hands,
    settings: Settings,
    /// This run's, in the records that it freezes.
    id: String,
    /// Written when the first key is about to be moved.
    mark: OnceLock<Leased>,
    looks: Looks,
    clock: Clock,
}

/// What a mover is told.
pub(super) struct Settings {
    /// The gold copy.
    pub(super) place: EtcdPlace,
    /// Instances of the old owner that are known to be dead, whatever they have announced.
    pub(super) assume_dead: Vec<String>,
    /// Whether a move is made although no instance of the old owner, or of the new one, has announced itself.
    pub(super) force: bool,
    /// What other processes read of this run.
    pub(super) mark: Mark,
}

impl Mover {
    /// A mover that has not begun.
    pub(super) async fn start(settings: Settings) -> Result<Self, String> {
        let hands = Hands::connect(&settings.place).await?;
        let looks = Looks::start(hands.reports.clone());
        let id = format!("{:016x}", fastrand::u64(..));
        Ok(Self { hands, settings, id, mark: OnceLock::new(), looks, clock: Clock::start() })
    }

    /// Why a move may not begin, if it may not.
    pub(super) async fn check(&self, from: &Name, to: &Name) -> Result<(), String> {
        if self.hands.records.get(&RecordKey::Upstream(to.clone()).suffix()).await?.is_none() {
            return Err(format!("there is no upstreams/{to}; put it first"));
        }
        for (upstream, role) in [(from, "old"), (to, "new")] {
            if !self.settings.force && self.looks.look(upstream).await?.keys().all(|id| self.settings.assume_dead.contains(id)) {
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
        let Some(found) = self.hands.records.get(&key.suffix()).await? else { return Ok(false) };
        let decoded = decode(&key, &found.value).map_err(|fault| format!("{key} has a bad value: {fault}"))?;
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
            force: self.settings.force,
            assume_dead: self.settings.assume_dead.clone(),
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
                Effect::Read => self.hands.read(key).await.map_or_else(Input::Failed, Input::Read),
                Effect::LookForMark(id) => self.hands.mark(&id).await.map_or_else(Input::Failed, |mark| Input::Mark(mark.is_some())),
                Effect::Look(upstream) => match self.looks.look(&upstream).await {
                    Ok(instances) => {
                        seen = instances;
                        Input::Saw(&seen)
                    }
                    Err(why) => Input::Failed(why),
                },
                Effect::Swap { route, read_at } => self.hands.swap(key, route, read_at).await,
                Effect::Sleep(until) => {
                    tokio::time::sleep(until.since(self.clock.now())).await;
                    Input::Woke
                }
            };
            asked = moving.step(told, self.clock.now());
        }
    }

    fn mark(&self) -> Leased {
        let Settings { place, mark, .. } = &self.settings;
        let key = format!("{}-state/moves/{}", place.prefix, self.id);
        Leased::start(place.clone(), key, serde_json::to_vec(mark).unwrap_or_default(), MARKED_FOR)
    }

    /// Gives a frozen key back to its owner.
    pub(super) async fn abort(&self, key: &RecordKey) -> Result<u64, String> {
        let Known { route, revision } = self.read(key).await?;
        if route.state == RouteState::Serving {
            return Err(format!("{key} is not being moved; {} serves it", route.owner));
        }
        match self.hands.swap(key, waypost_policy::handover::given_back(&route), revision).await {
            Input::Swapped(revision) => Ok(revision),
            Input::Unsure(why) | Input::Failed(why) => Err(why),
            _ => Err(format!("somebody else has changed {key} meanwhile; look at it and try again")),
        }
    }

    /// The record as it is.
    pub(super) async fn read(&self, key: &RecordKey) -> Result<Known, String> {
        self.hands.read(key).await?.ok_or_else(|| format!("there is no {key}"))
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

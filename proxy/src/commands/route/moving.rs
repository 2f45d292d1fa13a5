//! `waypost route move`: one key, or all keys of an owner, handed over with nothing lost and no two owners at work.
//!
//! Keys that a run of before has left frozen come first: clients wait for them. A run that is interrupted, or sees one move fail after the
//! other, begins no more, and ends those that are under way.

mod told;

use std::{sync::Arc, time::Instant};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use waypost_conf::{Name, RecordKey, RouteState};
use waypost_policy::handover::{Known, Mark};

use self::told::Told;
use super::{
    handover::{Mover, Settings},
    name, route_key, route_of,
};
use crate::{
    cli::RouteMoveArgs,
    commands::print,
    failure::{Failed, Outcome},
    gold,
};

/// Runs the command.
pub(super) async fn run(args: &RouteMoveArgs) -> Outcome {
    let wanted = Wanted::of(args)?;
    let place = gold::store_place(&args.gold)?;
    let mark = Mark { service: args.service.clone(), to: args.to.clone().unwrap_or_default(), cut: args.cut };
    let settings = Settings { place, assume_dead: args.assume_dead.clone(), force: args.force, mark };
    let mover = Arc::new(Mover::start(settings).await.map_err(Failed::not_done)?);
    let (to, which) = match wanted {
        Wanted::Abort(key) => {
            let revision = mover.abort(&key).await.map_err(Failed::not_done)?;
            print::line(format_args!("{key}: given back at revision {revision}"));
            return Ok(());
        }
        Wanted::Move(to, which) => (to, which),
    };
    let todo = todo(&mover, &to, which).await?;
    if args.dry_run {
        for key in &todo {
            let frozen = if key.is_frozen { " (frozen: it is taken over)" } else { "" };
            print::line(format_args!("{}: {} → {to}{frozen}", key.key, key.from));
        }
        eprintln!("waypost: {} would be moved; nothing was changed", print::count(todo.len(), "route"));
        return Ok(());
    }
    let mut sources: Vec<&Name> = todo.iter().map(|key| &key.from).collect();
    sources.sort_unstable();
    sources.dedup();
    for from in sources {
        mover.check(from, &to).await.map_err(Failed::not_done)?;
    }
    let covers_many = mover.covers_many(&name("SERVICE", &args.service)?).await.map_err(Failed::not_done)?;
    let told = Told::new(args.json, todo.len());
    Run { mover, to, covers_many, parallel: args.parallel.max(1) }.move_all(todo, told).await
}

/// What is asked for, before anything is looked at.
enum Wanted {
    /// To give a key back.
    Abort(RecordKey),
    /// To move these keys to an upstream.
    Move(Name, Which),
}

enum Which {
    One(RecordKey),
    /// All of a service's that belong to an upstream.
    All(Name, Name),
}

impl Wanted {
    fn of(args: &RouteMoveArgs) -> Result<Self, Failed> {
        let key = args.key.as_deref().map(|key| route_key(&args.service, key)).transpose()?;
        if args.abort {
            let key = key.ok_or_else(|| Failed::unusable("--abort wants a KEY: which one is to be given back".to_owned()))?;
            return Ok(Self::Abort(key));
        }
        let to = args.to.as_deref().ok_or_else(|| Failed::unusable("--to is missing: which upstream is to own it".to_owned()))?;
        let to = name("--to", to)?;
        let which = match (key, args.owner.as_deref()) {
            (Some(key), _) => Which::One(key),
            (None, Some(owner)) => Which::All(name("SERVICE", &args.service)?, name("--owner", owner)?),
            (None, None) => return Err(Failed::unusable("name a KEY, or whose keys are to be moved with --owner".to_owned())),
        };
        if matches!(&which, Which::All(_, owner) if *owner == to) {
            return Err(Failed::unusable(format!("--owner and --to are the same upstream, {to}")));
        }
        Ok(Self::Move(to, which))
    }
}

/// A key that is to be moved.
struct Todo {
    key: RecordKey,
    from: Name,
    is_frozen: bool,
}

/// What is to be moved, and from whom; what is frozen already comes first.
async fn todo(mover: &Mover, to: &Name, which: Which) -> Result<Vec<Todo>, Failed> {
    let is_frozen = |state: &RouteState| matches!(state, RouteState::Frozen { .. });
    let (service, owner) = match which {
        Which::All(service, owner) => (service, owner),
        Which::One(key) => {
            let Known { route, .. } = mover.read(&key).await.map_err(Failed::not_done)?;
            if route.owner == *to && route.state == RouteState::Serving {
                return Err(Failed::not_done(format!("{key} belongs to {to} already; nothing was changed")));
            }
            return Ok(vec![Todo { key, is_frozen: is_frozen(&route.state), from: route.owner }]);
        }
    };
    let found = mover.hands.records.list(format!("routes/{service}/").as_bytes()).await.map_err(Failed::not_done)?;
    let keys = found.iter().filter_map(|stored| {
        let route = route_of(stored).ok().filter(|route| route.owner == owner)?;
        Some(Todo { key: RecordKey::parse(&stored.key).ok()?, is_frozen: is_frozen(&route.state), from: route.owner })
    });
    let mut keys: Vec<Todo> = keys.collect();
    keys.sort_by_key(|key| !key.is_frozen);
    Ok(keys)
}

/// After so many moves that failed one behind the other no more are begun: each of them holds clients up, for nothing.
const MOST_FAILED_IN_A_ROW: usize = 16;

/// The moves of one run.
struct Run {
    mover: Arc<Mover>,
    to: Name,
    covers_many: bool,
    parallel: usize,
}

impl Run {
    async fn move_all(&self, todo: Vec<Todo>, mut told: Told) -> Outcome {
        let began = Instant::now();
        let mut todo = todo.into_iter();
        let mut under_way = JoinSet::new();
        let handled = |error| Failed::not_done(format!("signals can't be handled: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(handled)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(handled)?;
        let mut is_interrupted = false;
        loop {
            let goes_on = !is_interrupted && told.failed_in_a_row() < MOST_FAILED_IN_A_ROW;
            while goes_on
                && under_way.len() < self.parallel
                && let Some(Todo { key, from, .. }) = todo.next()
            {
                let (mover, to, covers_many) = (Arc::clone(&self.mover), self.to.clone(), self.covers_many);
                under_way.spawn(async move { (mover.hand_over(&key, &from, &to, covers_many).await, key) });
            }
            tokio::select! {
                ended = under_way.join_next() => match ended {
                    None => break,
                    Some(Ok((Ok(moved), key))) => told.moved(&key, &self.to, &moved),
                    Some(Ok((Err(why), key))) => self.not_moved(&key, &why, &mut told).await,
                    Some(Err(_)) => told.failed("a move has ended by a fault of its own"),
                },
                _ = interrupt.recv() => match is_interrupted {
                    // What is left frozen is taken back by its owner.
                    true => return Err(Failed::said(130)),
                    false => is_interrupted = true,
                },
                _ = terminate.recv() => is_interrupted = true,
            }
        }
        told.end(todo.len(), began.elapsed())
    }

    /// A key that belongs to the target all the same has been moved by somebody else.
    async fn not_moved(&self, key: &RecordKey, why: &str, told: &mut Told) {
        let now = self.mover.read(key).await;
        match now {
            Ok(Known { route, revision }) if route.owner == self.to && route.state == RouteState::Serving => {
                told.moved_by_another(key, &self.to, revision);
            }
            _ => told.failed(why),
        }
    }
}

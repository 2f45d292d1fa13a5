//! `waypost route move`: one key, or all keys of an owner, handed over with nothing lost and no two owners at work.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::task::JoinSet;
use waypost_conf::{Name, RecordKey, RouteState};
use waypost_policy::handover::{Known, Mark, Moved};

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
    let keys = keys(&mover, &to, which).await?;
    if args.dry_run {
        for (key, from) in &keys {
            print::line(format_args!("{key}: {from} → {to}"));
        }
        eprintln!("waypost: {} would be moved; nothing was changed", print::count(keys.len(), "route"));
        return Ok(());
    }
    let mut sources: Vec<&Name> = keys.iter().map(|(_, from)| from).collect();
    sources.sort_unstable();
    sources.dedup();
    for from in sources {
        mover.check(from, &to).await.map_err(Failed::not_done)?;
    }
    let total = keys.len();
    let covers_many = mover.covers_many(&name("SERVICE", &args.service)?).await.map_err(Failed::not_done)?;
    let failed = move_all(args, &mover, keys, &to, covers_many).await;
    if failed > 0 {
        return Err(Failed::not_done(format!(
            "{failed} of {} were not moved; another run goes on with them",
            print::count(total, "route")
        )));
    }
    Ok(())
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
        let which = match (key, args.owner.as_deref()) {
            (Some(key), _) => Which::One(key),
            (None, Some(owner)) => Which::All(name("SERVICE", &args.service)?, name("--owner", owner)?),
            (None, None) => return Err(Failed::unusable("name a KEY, or whose keys are to be moved with --owner".to_owned())),
        };
        Ok(Self::Move(name("--to", to)?, which))
    }
}

/// What is to be moved, and from whom.
async fn keys(mover: &Mover, to: &Name, which: Which) -> Result<Vec<(RecordKey, Name)>, Failed> {
    let (service, owner) = match which {
        Which::All(service, owner) => (service, owner),
        Which::One(key) => {
            let Known { route, .. } = mover.read(&key).await.map_err(Failed::not_done)?;
            if route.owner == *to && route.state == RouteState::Serving {
                return Err(Failed::not_done(format!("{key} belongs to {to} already; nothing was changed")));
            }
            return Ok(vec![(key, route.owner)]);
        }
    };
    let found = mover.hands.records.list(format!("routes/{service}/").as_bytes()).await.map_err(Failed::not_done)?;
    let keys = found.iter().filter_map(|stored| {
        let route = route_of(stored).ok().filter(|route| route.owner == owner)?;
        Some((RecordKey::parse(&stored.key).ok()?, route.owner))
    });
    Ok(keys.collect())
}

/// How many were not moved.
async fn move_all(args: &RouteMoveArgs, mover: &Arc<Mover>, keys: Vec<(RecordKey, Name)>, to: &Name, covers_many: bool) -> usize {
    let mut todo = keys.into_iter();
    let mut under_way = JoinSet::new();
    let mut failed = 0;
    loop {
        while under_way.len() < args.parallel.max(1)
            && let Some((key, from)) = todo.next()
        {
            let (mover, to) = (Arc::clone(mover), to.clone());
            under_way.spawn(async move { (mover.hand_over(&key, &from, &to, covers_many).await, key, from) });
        }
        let Some(ended) = under_way.join_next().await else { return failed };
        match ended {
            Ok((Ok(moved), key, from)) => tell(args, &key, &from, to, &moved),
            Ok((Err(why), ..)) => {
                failed += 1;
                eprintln!("waypost: {why}");
            }
            Err(_) => failed += 1,
        }
    }
}

fn tell(args: &RouteMoveArgs, key: &RecordKey, from: &Name, to: &Name, moved: &Moved) {
    let Moved { revision, tries, took, .. } = moved;
    let [froze, let_go, committed] = took.map(|took| took.as_secs_f64() * 1000.0);
    if args.json {
        print::json(&json!({
            "key": key.to_string(), "from": from, "to": to, "revision": revision, "tries": tries,
            "frozen_ms": froze, "let_go_ms": let_go, "committed_ms": committed,
        }));
        return;
    }
    let total = took.iter().sum::<Duration>().as_secs_f64() * 1000.0;
    print::line(format_args!(
        "{key}: {from} → {to} at revision {revision} in {total:.1} ms (frozen {froze:.1}, let go {let_go:.1}, committed {committed:.1})"
    ));
}

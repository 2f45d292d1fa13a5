//! `waypost route get|list|set|delete|move`: single routes, read linearizably and changed by compare and swap.

mod handover;
mod moving;

use serde_json::{Value, json};
use waypost_conf::{Name, Record, RecordKey, Route, RouteState, decode, decode_strict, did_you_mean, escaped};
use waypost_watcher::{
    record::Stored,
    store::{Change, Store, Swapped},
};

use super::print;
use crate::{
    cli::{GoldArgs, RouteCommand, RouteGetArgs, RouteListArgs, RouteSetArgs},
    failure::{Failed, Outcome},
    gold,
};

/// Runs the command.
pub(crate) fn run(command: RouteCommand) -> Outcome {
    let runtime = print::runtime()?;
    match command {
        RouteCommand::Get(args) => runtime.block_on(get(&args)),
        RouteCommand::List(args) => runtime.block_on(list(&args)),
        RouteCommand::Set(args) => runtime.block_on(set(&args)),
        RouteCommand::Delete(args) => runtime.block_on(delete(&args)),
        RouteCommand::Move(args) => runtime.block_on(moving::run(&args)),
    }
}

async fn get(args: &RouteGetArgs) -> Outcome {
    let key = route_key(&args.service, &args.key)?;
    let store = connect(&args.gold).await?;
    let found = store.get(&key.suffix()).await.map_err(Failed::not_done)?;
    let Some(found) = found else { return Err(no_route(&store, &key, "its requests go to the service's default_owner").await) };
    show(&found, args.json);
    Ok(())
}

async fn list(args: &RouteListArgs) -> Outcome {
    let service = name("SERVICE", &args.service)?;
    let owner = args.owner.as_deref().map(|owner| name("--owner", owner)).transpose()?;
    let store = connect(&args.gold).await?;
    let records = store.list(format!("routes/{service}/").as_bytes()).await.map_err(Failed::not_done)?;
    let mut shown = 0usize;
    for stored in &records {
        if owner.is_none() || route_of(stored).is_ok_and(|route| Some(&route.owner) == owner.as_ref()) {
            show(stored, args.json);
            shown += 1;
        }
    }
    if !args.json {
        eprintln!("waypost: {}", print::count(shown, "route"));
    }
    let service = RecordKey::Service(service);
    if records.is_empty() && store.get(&service.suffix()).await.map_err(Failed::not_done)?.is_none() {
        eprintln!("waypost: there is no {service}{}", near(&store, &service).await);
    }
    Ok(())
}

async fn set(args: &RouteSetArgs) -> Outcome {
    let key = route_key(&args.service, &args.key)?;
    let owner = name("--owner", &args.owner)?;
    let store = connect(&args.gold).await?;
    let mut also = Vec::new();
    if !args.allow_missing {
        for needed in [RecordKey::Service(name("SERVICE", &args.service)?), RecordKey::Upstream(owner.clone())] {
            match store.get(&needed.suffix()).await.map_err(Failed::not_done)? {
                Some(found) => also.push((needed.suffix(), found.mod_revision)),
                None => return Err(missing(&store, &needed).await),
            }
        }
    }
    let found = store.get(&key.suffix()).await.map_err(Failed::not_done)?;
    let known = found.as_ref().and_then(|found| route_of(found).ok());
    let epoch = known.as_ref().and_then(|known| known.epoch).map(|epoch| epoch + 1);
    let route = Record::Route(Route { owner, epoch, state: RouteState::Serving }).to_json();
    // Written values pass the same check as a person's file.
    let value = serde_json::to_vec(&route).unwrap_or_default();
    decode_strict(&key, &value)
        .map_err(|faults| Failed::not_done(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    let change = Change { key: key.suffix(), value: Some(value), read_at: found.map_or(0, |found| found.mod_revision) };
    let revision = swap(&store, change, &also).await?;
    if args.json {
        print::json(&json!({ "key": key.to_string(), "value": route, "revision": revision }));
    } else {
        let before = known.map_or_else(|| "nobody".to_owned(), |known| known.owner.to_string());
        print::line(format_args!("{key}: {before} → {} at revision {revision}", args.owner));
    }
    Ok(())
}

async fn delete(args: &RouteGetArgs) -> Outcome {
    let key = route_key(&args.service, &args.key)?;
    let store = connect(&args.gold).await?;
    let found = store.get(&key.suffix()).await.map_err(Failed::not_done)?;
    let Some(found) = found else { return Err(no_route(&store, &key, "nothing was changed").await) };
    let revision = swap(&store, Change { key: key.suffix(), value: None, read_at: found.mod_revision }, &[]).await?;
    if args.json {
        print::json(&json!({ "key": key.to_string(), "deleted": true, "revision": revision }));
    } else {
        print::line(format_args!("{key}: deleted at revision {revision}"));
    }
    Ok(())
}

async fn swap(store: &Store, change: Change, also: &[(Vec<u8>, u64)]) -> Result<u64, Failed> {
    match store.swap(&[change], also).await.map_err(Failed::not_done)? {
        Swapped::Done(revision) => Ok(revision),
        Swapped::Moved(keys) => {
            let keys: Vec<String> = keys.iter().map(|key| escaped(key)).collect();
            let keys = keys.join(", ");
            Err(Failed::not_done(format!("somebody changed {keys} after it was read; nothing was changed; look at it and try again")))
        }
    }
}

/// A record that `set` needs is not there: which one, and what may have been meant.
async fn missing(store: &Store, needed: &RecordKey) -> Failed {
    let meant = near(store, needed).await;
    Failed::not_done(format!("there is no {needed}{meant}; put it first, or say --allow-missing; nothing was changed"))
}

/// A route is not there: because the service isn't, or only the route.
async fn no_route(store: &Store, key: &RecordKey, consequence: &str) -> Failed {
    if let RecordKey::Route { service, .. } = key {
        let service = RecordKey::Service(service.clone());
        if let Ok(None) = store.get(&service.suffix()).await {
            let meant = near(store, &service).await;
            return Failed::not_done(format!("there is no {key}: there is no {service}{meant}"));
        }
    }
    Failed::not_done(format!("there is no {key}; {consequence}"))
}

/// "; did you mean …?" for a record that is not there, from those beside it.
async fn near(store: &Store, needed: &RecordKey) -> String {
    let needed = needed.to_string();
    let Some((folder, name)) = needed.split_once('/') else { return String::new() };
    let start = format!("{folder}/");
    let keys = store.keys(start.as_bytes()).await.unwrap_or_default();
    let names: Vec<String> = keys.iter().filter_map(|key| Some(escaped(key.strip_prefix(start.as_bytes())?))).collect();
    did_you_mean(name, names.iter().map(String::as_str))
}

async fn connect(args: &GoldArgs) -> Result<Store, Failed> {
    let place = gold::store_place(args)?;
    Store::connect(&place).await.map_err(Failed::not_done)
}

fn show(stored: &Stored, as_json: bool) {
    let value: Option<Value> = serde_json::from_slice(&stored.value).ok();
    let key = escaped(&stored.key);
    if as_json {
        let value = value.unwrap_or_else(|| String::from_utf8_lossy(&stored.value).into());
        print::json(&json!({ "key": key, "value": value, "create_revision": stored.create_revision, "mod_revision": stored.mod_revision }));
        return;
    }
    match route_of(stored) {
        Ok(route) => {
            let epoch = route.epoch.unwrap_or(stored.mod_revision);
            let written = if route.epoch.is_some() { "" } else { " (its revision)" };
            let state = match route.state {
                RouteState::Serving => "serving".to_owned(),
                RouteState::Moving { target } => format!("moving to {target}"),
                RouteState::Frozen { .. } => "frozen".to_owned(),
            };
            print::line(format_args!("{key}  {}  epoch {epoch}{written}  {state}  revision {}", route.owner, stored.mod_revision));
        }
        Err(fault) => print::line(format_args!("{key}  bad value: {fault}")),
    }
}

fn route_of(stored: &Stored) -> Result<Route, String> {
    let key = RecordKey::parse(&stored.key).map_err(|fault| fault.to_string())?;
    match decode(&key, &stored.value).map_err(|fault| fault.to_string())?.record {
        Record::Route(route) => Ok(route),
        _ => Err("no route".to_owned()),
    }
}

fn route_key(service: &str, key: &str) -> Result<RecordKey, Failed> {
    let suffix = format!("routes/{service}/{key}");
    name("SERVICE", service)?;
    RecordKey::parse(suffix.as_bytes()).map_err(|fault| Failed::unusable(format!("KEY: {fault}")))
}

fn name(what: &str, given: &str) -> Result<Name, Failed> {
    Name::try_from(given).map_err(|fault| Failed::unusable(format!("{what}: {fault}")))
}

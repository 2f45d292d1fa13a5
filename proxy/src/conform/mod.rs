//! `waypost conform`: plays every row of the stale-route protocol against a backend in any language, and says which it does not keep.
//!
//! The cases and the judging of answers (`cases`, `judge`) are pure; `exchange` sends and reads, `world` keeps the store, `play` and `handover`
//! put them together. A case is judged by one answer: once the backend serves a key of the same transaction, it knows all of them.

mod backend;
mod cases;
mod exchange;
mod handover;
mod judge;
mod play;
mod show;
mod world;

use waypost_conf::Name;

use crate::{
    cli::ConformArgs,
    commands::print,
    failure::{Failed, Outcome},
    interrupted::interrupted,
};
use backend::{Backend, Process, placeholders};
use cases::{CASES, Cast, EXECUTED, HANDOVER, rows};
use play::{Played, Stage};
use world::World;

/// Runs the command.
pub(crate) fn run(args: &ConformArgs) -> Outcome {
    let backend = Backend::of(args)?;
    for (flag, name) in [("--upstream", &args.upstream), ("--other", &args.other), ("--service", &args.service)] {
        Name::try_from(name.as_str()).map_err(|fault| Failed::unusable(format!("{flag}: {fault}")))?;
    }
    if args.upstream == args.other {
        return Err(Failed::unusable("--upstream and --other are the same; two names would be right"));
    }
    if let Some(unknown) = args.only.iter().find(|row| !rows().contains(&row.as_str())) {
        return Err(Failed::unusable(format!("--only: there is no row \"{unknown}\"; there are {}", rows().join(", "))));
    }
    print::runtime()?.block_on(async {
        let mut world = Box::pin(World::start(args)).await?;
        let played = tokio::select! {
            played = played(args, &backend, &mut world) => played,
            stopped = interrupted() => Err(stopped),
        };
        // Boxed: what it holds of the store is large.
        let ended = Box::pin(world.end()).await;
        let played = played?;
        ended.map_err(Failed::not_done)?;
        if args.json {
            print::json(&show::as_json(&played));
        } else {
            show::summary(&played);
        }
        let [_, failed, _] = show::counts(&played);
        if failed > 0 { Err(Failed::said(1)) } else { Ok(()) }
    })
}

async fn played(args: &ConformArgs, backend: &Backend, world: &mut World) -> Result<Vec<Played>, Failed> {
    let cast = Cast { service: args.service.clone(), me: args.upstream.clone(), other: args.other.clone(), table: world.table.clone() };
    let (gold, prefix) = (world.place.endpoints.join(","), world.place.prefix.clone());
    let mut stage = Stage::set(backend, cast.clone(), world, &args.key_header, backend.to).await.map_err(Failed::not_done)?;
    let mut process = if args.command.is_empty() {
        invite(args, &gold, &prefix);
        None
    } else {
        Some(Process::start(&args.command, &placeholders(args, &gold, &prefix, &cast))?)
    };
    let played = rows_of(args, &mut stage, &mut process).await;
    if let Some(process) = process {
        process.end().await;
    }
    played
}

/// How the backend is to be pointed at the store.
fn invite(args: &ConformArgs, gold: &str, prefix: &str) {
    let ConformArgs { to, upstream, service, key_header, .. } = args;
    eprintln!(
        "waypost: the backend at {to} is to follow this gold copy:\n  \
         etcd        {gold}\n  prefix      {prefix}\n  upstream    {upstream}      (that is the backend itself)\n  \
         service     {service}      (the routing key is in the header {key_header})\n\
         Waiting up to {} until it serves a key that it owns …",
        humantime::format_duration(args.wait)
    );
}

async fn rows_of(args: &ConformArgs, stage: &mut Stage<'_>, process: &mut Option<Process>) -> Result<Vec<Played>, Failed> {
    let began = std::time::Instant::now();
    let is_wanted = |row: &str| args.only.is_empty() || args.only.iter().any(|only| only == row);
    let mut all = Vec::new();
    let mut tell = |played: Played| {
        if !args.json {
            show::row(&played, args.verbose);
        }
        all.push(played);
    };
    let first = match stage.ready(args.wait, process).await {
        Ok(exchange) => exchange,
        Err((exchange, why)) => {
            let limit = humantime::format_duration(args.wait);
            let faults = vec![
                why,
                format!("a key that it owns, at the same epoch, has to be served before anything can be judged (--wait {limit})"),
            ];
            tell(Played::of("f", "a key that it owns: served", began, exchange.into_iter().collect(), faults));
            return Ok(all);
        }
    };
    if let Some(answer) = first.answer.as_ref().ok().filter(|answer| answer.status >= 400 && answer.status != 404) {
        let [read, _] = stage.backend.asked();
        eprintln!(
            "waypost: the application answers {read} with {}; --read and --request name what it does, -H what it wants",
            answer.status
        );
    }
    let mut is_late_played = !is_wanted("d");
    for (number, case) in CASES.iter().enumerate().filter(|(_, case)| is_wanted(case.row)) {
        // In the order of the table.
        if case.row > "d" && !is_late_played {
            tell(stage.catches_up().await.map_err(Failed::not_done)?);
            is_late_played = true;
        }
        tell(stage.case(number, case).await);
    }
    if !is_late_played {
        tell(stage.catches_up().await.map_err(Failed::not_done)?);
    }
    if is_wanted(EXECUTED) {
        tell(stage.executed().await.map_err(Failed::not_done)?);
    }
    if is_wanted(HANDOVER) && !args.without_handover {
        stage.handover().await.map_err(Failed::not_done)?.into_iter().for_each(&mut tell);
    }
    Ok(all)
}

//! `waypost bench`: the load generator's command line.

use std::{
    fs::OpenOptions,
    io::IsTerminal,
    path::{Path, PathBuf},
};

use waypost_bench::{Body, Hooks, Keys, Pace, Plan, Protocol, Scale, Second, Spread, Stale, Target, Trust, svg};

use super::print;
use crate::{
    cli::BenchArgs,
    failure::{Failed, Outcome},
};

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Outcome {
    let plan = plan(args)?;
    let json_file = args.json.as_deref().filter(|file| *file != Path::new("-"));
    for file in [json_file, args.svg.as_deref()].into_iter().flatten() {
        // Said before the load, not after it.
        OpenOptions::new().create(true).append(true).open(file).map_err(not_written(file))?;
    }
    let mut show = |second: &Second| eprintln!("{second}");
    let mut hooks = Hooks::default();
    if args.progress || std::io::stderr().is_terminal() {
        hooks.progress = Some(&mut show);
    }
    let report = waypost_bench::run_with(&plan, hooks).map_err(Failed::not_done)?;
    let json = || serde_json::to_value(&report).unwrap_or_default();
    if let Some(file) = json_file {
        std::fs::write(file, format!("{}\n", json())).map_err(not_written(file))?;
    }
    if let Some(file) = &args.svg {
        let scale = if args.linear { Scale::Linear } else { Scale::Log };
        std::fs::write(file, svg(&[(&args.url, &report)], scale)).map_err(not_written(file))?;
    }
    if args.json.is_some() && json_file.is_none() {
        print::json(&json());
    } else {
        print::line(&report);
    }
    if report.requests == 0 {
        return Err(Failed::not_done(format!("no request to {} was answered in time", args.url)));
    }
    Ok(())
}

fn not_written(file: &Path) -> impl Fn(std::io::Error) -> Failed {
    move |error| Failed::not_done(format!("{} can't be written: {error}", file.display()))
}

fn plan(args: &BenchArgs) -> Result<Plan, Failed> {
    let mut headers = Vec::new();
    for header in &args.header {
        let pair = header.split_once('=').or_else(|| header.split_once(": "));
        let pair = pair.filter(|(name, value)| !name.is_empty() && ![name, value].iter().any(|part| part.contains(['\r', '\n'])));
        let (name, value) = pair.ok_or_else(|| Failed::unusable(format!("--header {header}: x-tenant={{key}} would be right")))?;
        headers.push((name.to_owned(), value.to_owned()));
    }
    let keys = |text: &String| Keys::parse(text).map_err(Failed::unusable);
    let stale = args.stale.zip(args.stale_keys.as_ref()).map(|(share, text)| Ok::<_, Failed>(Stale { share, keys: keys(text)? }));
    let plan = Plan {
        protocol: if args.http2 { Protocol::Http2 { streams: args.streams } } else { Protocol::Http1 },
        trust: trust(args.insecure, args.cacert.as_ref()),
        method: args.method.clone(),
        headers,
        body: Body { bytes: args.body, chunked: args.chunked },
        keys: keys(&args.keys)?,
        spread: args.zipf.map_or(Spread::Uniform, Spread::Zipf),
        stale: stale.transpose()?,
        pace: args.rate.map_or(Pace::Closed, |requests_per_second| Pace::Open { requests_per_second }),
        connections: args.connections,
        new_connections: args.new_connections,
        duration: args.duration,
        warm_up: args.warm_up,
        threads: args.threads,
        seed: args.seed,
        watch_pids: args.watch_pid.clone(),
        ..Plan::to(Target::parse(&args.url).map_err(Failed::unusable)?)
    };
    plan.check().map_err(Failed::unusable)?;
    Ok(plan)
}

fn trust(is_insecure: bool, authorities: Option<&PathBuf>) -> Trust {
    match authorities {
        _ if is_insecure => Trust::Anyone,
        Some(file) => Trust::Ca(file.clone()),
        None => Trust::System,
    }
}

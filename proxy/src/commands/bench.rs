//! `waypost bench`: the load generator's command line.

use waypost_bench::{Keys, Pace, Plan, Target};

use super::print;
use crate::{
    cli::BenchArgs,
    failure::{Failed, Outcome},
};

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Outcome {
    let plan = plan(args)?;
    let report = waypost_bench::run(&plan).map_err(Failed::not_done)?;
    if args.json {
        print::json(&serde_json::to_value(&report).unwrap_or_default());
    } else {
        print::line(&report);
    }
    if report.requests == 0 {
        return Err(Failed::not_done(format!("no request to {} was answered; is anything listening there?", args.url)));
    }
    Ok(())
}

fn plan(args: &BenchArgs) -> Result<Plan, Failed> {
    let mut headers = Vec::new();
    for header in &args.header {
        let pair = header.split_once('=').or_else(|| header.split_once(": "));
        let (name, value) = pair.ok_or_else(|| Failed::unusable(format!("--header {header}: x-tenant={{key}} would be right")))?;
        if name.is_empty() || [name, value].iter().any(|part| part.contains(['\r', '\n'])) {
            return Err(Failed::unusable(format!("--header {header}: x-tenant={{key}} would be right")));
        }
        headers.push((name.to_owned(), value.to_owned()));
    }
    let pace = match args.rate {
        None => Pace::Closed,
        Some(rate) if rate.is_finite() && rate > 0.0 => Pace::Open { requests_per_second: rate },
        Some(rate) => return Err(Failed::unusable(format!("--rate {rate}: a number above 0 would be right"))),
    };
    if args.connections == 0 || args.connections > 65_536 {
        return Err(Failed::unusable("--connections: 1 to 65536 would be right"));
    }
    Ok(Plan {
        target: Target::parse(&args.url).map_err(Failed::unusable)?,
        method: args.method.clone(),
        headers,
        keys: Keys::parse(&args.keys).map_err(Failed::unusable)?,
        pace,
        connections: args.connections,
        duration: args.duration,
        warm_up: args.warm_up,
        threads: args.threads,
        seed: args.seed,
        body_bytes: args.body_bytes,
        watch_pid: args.pid,
    })
}

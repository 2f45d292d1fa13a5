//! HAProxy, nginx, Envoy, Traefik and the built Waypost beside one another: the same work, in turn, in one run, as a report.
//!
//! Each peer is a file, with its configuration as a template in `configs/`; [`rows`] says what is measured, [`running`] in which order.
//! What it means is said in README.md. `--quick` does all of it in small, with those peers that are installed, and judges nothing.
#![allow(clippy::print_stdout, reason = "the report is what this program is for")]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod client;
mod ending;
mod envoy;
mod figures;
mod gold;
mod haproxy;
mod instance;
mod machine;
mod measure;
mod nginx;
mod options;
mod owners;
mod peer;
mod ports;
mod report;
mod rows;
mod running;
mod stage;
mod table;
mod targets;
mod traefik;
mod tree;
mod waypost;

use std::time::Instant;

use clap::Parser;
use waypost_bench::processes::Told;

use options::Options;

fn main() -> Told<()> {
    let options = Options::parse();
    let size = options.size();
    let all = rows::all(&size);
    let rows: Vec<_> = all.iter().filter(|row| options.wants_row(row.id, &all)).cloned().collect();
    if options.list {
        rows.iter().for_each(|row| println!("{:<18} {}", row.id, row.name));
        return Ok(());
    }
    if rows.is_empty() {
        return Err("there is no such row; `bench-peers --list` names them".to_owned());
    }
    if let Some(unknown) = options.peer.iter().find(|wanted| !peer::PEERS.iter().any(|peer| peer.name().eq_ignore_ascii_case(wanted))) {
        return Err(format!("there is no peer \"{unknown}\"; {} would be right", peer::PEERS.map(|peer| peer.name()).join(", ")));
    }
    let since = Instant::now();
    let results = running::run(rows, &size, |peer| options.wants_peer(peer.name()))?;
    let text = report::text(&results, &size, since.elapsed());
    match &options.report {
        Some(file) => report::put(&text, &results, file),
        None => {
            println!("{text}");
            Ok(())
        }
    }
}

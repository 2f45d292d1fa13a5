//! The `waypost` binary: reads the command line, runs one command, and turns its outcome into an exit status.
//!
//! Results go to stdout, messages to stderr. `anyhow` is not needed even here: each command says in a sentence why it failed.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod access_log;
mod admin;
mod admin_client;
mod cli;
mod clock;
mod commands;
mod conform;
mod demo;
mod exposition;
mod failure;
mod gold;
mod guard;
mod http_client;
mod interrupted;
mod local_etcd;
mod metrics;
mod proxy_protocol;
mod recent;
mod reload;
mod resolver;
mod server;
mod state;
mod tls;
mod transport;
mod until;
mod upgrade;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Run(args) => commands::run::run(args),
        Command::Guard(args) => commands::guard::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => commands::check::run(&args),
        Command::Apply(args) => commands::apply::run(&args),
        Command::Route(command) => commands::route::run(command),
        Command::Watch(args) => commands::watch::run(&args),
        Command::Status(args) => commands::status::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Conform(args) => conform::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Reference => commands::reference::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            if !failed.message.is_empty() {
                eprintln!("waypost: {}", failed.message);
            }
            ExitCode::from(failed.status)
        }
    }
}

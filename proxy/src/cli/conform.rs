//! The arguments of `waypost conform`.

use std::time::Duration;

use clap::Args;

use super::GoldArgs;

/// What stands below its help.
pub(super) const EXAMPLES: &str = "\
It starts an etcd of its own, unless --gold names one, and says how the backend is to be pointed at it; or it starts
the backend by itself, as the last arguments say, with {gold}, {prefix}, {upstream}, {service} and {to} filled in.
With --gold it uses a prefix of its own, or the --prefix that is given if nothing is below it, and takes away what it
has put. What is asked must be something that the application does: a write that a read then shows, best of all.
Exit status: 0 every row passed; 1 one did not, or could not be played; 2 wrong usage.

Examples:
  waypost conform --to http://127.0.0.1:9000
  waypost conform --to http://127.0.0.1:9000 --request 'PUT /note' --read 'GET /note' --verbose
  waypost conform --to http://127.0.0.1:9000 --gold http://127.0.0.1:2379 --prefix /conform --only d,e
  waypost conform --to http://127.0.0.1:9000 -- ./backend --etcd {gold} --prefix {prefix} --upstream {upstream}";

#[derive(Clone, Debug, Args)]
pub(crate) struct ConformArgs {
    /// The backend: http://host:port
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,
    /// The upstream that the backend is
    #[arg(long, value_name = "NAME", default_value = "cell-a")]
    pub(crate) upstream: String,
    /// The name of another upstream, which nobody is
    #[arg(long, value_name = "NAME", default_value = "cell-b")]
    pub(crate) other: String,
    /// The service that its requests belong to
    #[arg(long, value_name = "NAME", default_value = "orders")]
    pub(crate) service: String,
    /// The header that carries the routing key
    #[arg(long, value_name = "NAME", default_value = "x-tenant")]
    pub(crate) key_header: String,
    /// An unsafe request that the application executes; its body is a short text
    #[arg(long, value_name = "METHOD PATH", default_value = "PUT /conform")]
    pub(crate) request: String,
    /// A safe request; where its answer shows what the other wrote, nothing can have been executed unseen
    #[arg(long, value_name = "METHOD PATH", default_value = "GET /conform")]
    pub(crate) read: String,
    /// A header of both; may be given several times
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    /// How long the backend may take to serve its first request: 60s
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) wait: Duration,
    /// Only these rows of the table: a to h, g', head, executed, handover
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// The backend announces nothing, so no key can be moved away from it without --force; rows of handover are not played
    #[arg(long)]
    pub(crate) without_handover: bool,
    /// Show every exchange, not only those that failed
    #[arg(long, short = 'v')]
    pub(crate) verbose: bool,
    /// For machines: one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// The command that starts the backend; it is ended when all is played
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
    #[command(flatten)]
    pub(crate) gold: GoldArgs,
}

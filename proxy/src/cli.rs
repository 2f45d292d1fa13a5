//! The command line: every command, flag and environment variable, with its help and an example.
//!
//! Nothing is decided here. Flags beat the environment, which beats the bootstrap file; clap does the first two, `gold` and `run` the
//! third.

mod bench;
mod conform;

use std::{net::SocketAddr, path::PathBuf};

pub(crate) use bench::BenchArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
pub(crate) use conform::ConformArgs;

/// An edge proxy for data services whose routing table is pushed to it, never looked up.
#[derive(Debug, Parser)]
#[command(
    name = "waypost",
    version,
    max_term_width = 110,
    propagate_version = true,
    after_help = "\
Examples:
  waypost demo                                   the whole story on this machine
  waypost run --gold file:conf/examples/orders.yaml
  waypost run --gold http://127.0.0.1:2379 --listen 0.0.0.0:8080

Exit status: 0 done; 1 it could not be done; 2 wrong usage or an unusable file."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the proxy.
    #[command(after_help = "\
Without flags: ./waypost.toml, else /etc/waypost/waypost.toml, else etcd at http://127.0.0.1:2379.
SIGTERM drains and exits 0; SIGINT stops at once; SIGHUP rereads logging and limits. SIGQUIT hands the sockets
to a new process, started before with --upgrade, and drains: no connection is refused or reset.

Examples:
  waypost run --config waypost.toml --upgrade      then, elsewhere: kill -QUIT of the old process
  waypost run --gold file:conf/examples/orders.yaml --listen 127.0.0.1:8080
  waypost run --gold http://10.0.0.1:2379,http://10.0.0.2:2379 --id edge-1
  WAYPOST_LISTEN=127.0.0.1:8080 waypost run --config waypost.toml")]
    Run(RunArgs),
    /// Stand before a backend that knows nothing of stale routes: what its upstream owns goes through, anything else is refused.
    #[command(after_help = "\
Beside each backend of an upstream stands one guard; proxies reach the guard instead of the backend. A request
whose key the upstream owns goes on to --to; any other is answered 421 with Route-Stale, and the proxy heals.
The guard announces itself, so that `waypost route move` can hand keys over, and serves only then. Only proxies
should be able to reach it: it believes their stamps.
SIGTERM: with --register the endpoint's record goes first; requests under way are finished; exit 0.

Examples:
  waypost guard --upstream cell-7 --listen 10.0.0.7:8080 --to 127.0.0.1:9000
  waypost guard --upstream cell-7 --listen 0.0.0.0:8080 --to 127.0.0.1:9000 --register --advertise 10.0.0.7:8080")]
    Guard(GuardArgs),
    /// Tell the whole story on this machine: a real etcd, three cells and the proxy.
    #[command(after_help = "Example:\n  waypost demo --once")]
    Demo(DemoArgs),
    /// Validate record files and bootstrap files, or, without one, what is in the store, or a proxy's table against it.
    #[command(after_help = "\
A line a fault: what, where, and what would be right. A directory stands for the files directly in it; - is
standard input. Names without a record are warnings, since records may come in any order.
With --against the store is listed at the revision that a proxy's table reflects, and compared with it by digest,
and key by key where that differs. What is quarantined or held back in the proxy is named.
Exit status: 0 no fault, or equal; 1 a fault, or not equal, or it can't be read; 2 wrong usage, or a file can't
be read.

Examples:
  waypost check routes.yaml waypost.toml
  waypost check /etc/waypost/records/
  waypost check --gold http://127.0.0.1:2379
  waypost check --against 127.0.0.1:9901 --gold http://127.0.0.1:2379")]
    Check(CheckArgs),
    /// Put the records of files into the store.
    #[command(after_help = "\
Compares with the store first, puts only what differs, and only if nobody has changed it meanwhile: in one etcd
transaction where it fits in one (128 records), else in several, and says so before. Deletes nothing. Refuses a
record that every proxy would quarantine: an epoch that goes down, or an owner that changes at the same epoch.
Exit status: 0 done; 1 refused, somebody else was faster, or the store is away; 2 wrong usage or an unusable file.

Examples:
  waypost apply routes.yaml --dry-run
  waypost apply records/ --gold http://127.0.0.1:2379
  generate-routes | waypost apply -")]
    Apply(ApplyArgs),
    /// Read and write single routes.
    #[command(subcommand)]
    Route(RouteCommand),
    /// A person's view of a running proxy.
    #[command(after_help = "Example:\n  waypost status --admin 127.0.0.1:9901")]
    Status(StatusArgs),
    /// Say where a request would go, and why not elsewhere. Nothing is sent anywhere.
    #[command(after_help = "\
The URL's host becomes the Host header unless -H gives one. What a client would add by itself is not added.
Exit status: 0 explained, whatever the decision; 1 the proxy can't be asked; 2 what is given is no request.

Examples:
  waypost explain GET http://orders.example.com/x -H 'x-tenant: tenant-42'
  waypost explain GET /x -H 'Host: orders.example.com' -H 'x-tenant: tenant-42' --admin 127.0.0.1:9901")]
    Explain(ExplainArgs),
    /// A line for each change of a running proxy's table, as it comes into force.
    #[command(after_help = "\
Example:
  waypost watch --service orders
  tenant-42  cell-7 → cell-9  epoch 44  revision 918377  in force 0.4 ms after it arrived")]
    Watch(WatchArgs),
    /// Play every row of the stale-route protocol against a backend in any language, and say which it does not keep.
    #[command(after_help = conform::EXAMPLES)]
    Conform(ConformArgs),
    /// Load-test a proxy or a backend over HTTP/1.1 or HTTP/2.
    #[command(after_help = bench::EXAMPLES)]
    Bench(BenchArgs),
    /// Print docs/reference.md: every record, setting, flag and variable.
    #[command(hide = true)]
    Reference,
}

/// Where something is to listen.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| waypost_conf::not_an_address(text))
}

/// Where something listens, by name or address.
fn endpoint(text: &str) -> Result<waypost_conf::Address, String> {
    text.try_into()
}

/// Where the gold copy is; the same for every command that needs the store.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Gold copy")]
pub(crate) struct GoldArgs {
    /// URL[,URL…] of etcd, or file:PATH; http://127.0.0.1:2379 by default
    #[arg(long, env = "WAYPOST_GOLD", hide_env_values = true, value_name = "URL[,URL…]|file:PATH")]
    pub(crate) gold: Option<String>,
    /// What all keys in etcd start with; /waypost/v1 by default
    #[arg(long, env = "WAYPOST_PREFIX", value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
    /// The etcd user
    #[arg(long, env = "WAYPOST_GOLD_USER", value_name = "NAME")]
    pub(crate) gold_user: Option<String>,
    /// A file with the etcd user's password
    #[arg(long, env = "WAYPOST_GOLD_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) gold_password_file: Option<PathBuf>,
    /// Certificates that etcd's must be signed by (PEM)
    #[arg(long, env = "WAYPOST_GOLD_CA", value_name = "FILE")]
    pub(crate) gold_ca: Option<PathBuf>,
    /// The certificate shown to etcd (PEM)
    #[arg(long, env = "WAYPOST_GOLD_CERT", value_name = "FILE")]
    pub(crate) gold_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "WAYPOST_GOLD_KEY", value_name = "FILE")]
    pub(crate) gold_key: Option<PathBuf>,
    /// The bootstrap file; ./waypost.toml, else /etc/waypost/waypost.toml, if there is one, by default
    #[arg(long, env = "WAYPOST_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Where clients connect to; 0.0.0.0:8080 by default
    #[arg(long, env = "WAYPOST_LISTEN", value_name = "ADDR", value_parser = address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Where the admin endpoints are; 127.0.0.1:9901 by default
    #[arg(long, env = "WAYPOST_ADMIN", value_name = "ADDR", value_parser = address)]
    pub(crate) admin: Option<SocketAddr>,
    /// A file with the token that the admin endpoints want; required if other machines can reach them
    #[arg(long, env = "WAYPOST_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// Where the table is kept for a start without the store; by default in the state directory, named after --id
    #[arg(long, env = "WAYPOST_SNAPSHOT", value_name = "PATH")]
    pub(crate) snapshot: Option<PathBuf>,
    /// This proxy's name; the host's name by default
    #[arg(long, env = "WAYPOST_ID", value_name = "NAME")]
    pub(crate) id: Option<String>,
    /// Worker threads; one a core by default
    #[arg(long, env = "WAYPOST_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// The access log: stdout, off, or a file; stdout by default
    #[arg(long, env = "WAYPOST_ACCESS_LOG", value_name = "WHERE")]
    pub(crate) access_log: Option<String>,
    /// Carry every request as those are carried that are not plain: slower, the same to clients and owners, and of use to rule things out
    #[arg(long, env = "WAYPOST_NO_EXPRESS")]
    pub(crate) no_express: bool,
    /// Take the sockets of the running process of the same --id over; it gives them when it gets SIGQUIT
    #[arg(long)]
    pub(crate) upgrade: bool,
    /// Where an old and a new process meet; by default where the snapshot is, ending in .upgrade
    #[arg(long, env = "WAYPOST_UPGRADE_SOCKET", value_name = "PATH")]
    pub(crate) upgrade_socket: Option<PathBuf>,
    // Last, as everywhere: its heading would stand over what follows.
    #[command(flatten)]
    pub(crate) gold: GoldArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GuardArgs {
    /// The upstream that the backend is an endpoint of
    #[arg(long, env = "WAYPOST_UPSTREAM", value_name = "NAME")]
    pub(crate) upstream: String,
    /// Where proxies connect to
    #[arg(long, env = "WAYPOST_LISTEN", value_name = "ADDR", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// The backend, host:port
    #[arg(long, env = "WAYPOST_TO", value_name = "ADDR", value_parser = endpoint)]
    pub(crate) to: waypost_conf::Address,
    /// Its name among the upstream's guards, no two of which may have the same; the host's name and the port by default
    #[arg(long, env = "WAYPOST_ID", value_name = "NAME")]
    pub(crate) id: Option<String>,
    /// Put this guard among the upstream's endpoints, under a lease
    #[arg(long)]
    pub(crate) register: bool,
    /// With --register: where proxies reach it, host:port; --listen by default
    #[arg(long, env = "WAYPOST_ADVERTISE", value_name = "ADDR", value_parser = endpoint)]
    pub(crate) advertise: Option<waypost_conf::Address>,
    /// What is done while the store is out of reach: serve by what is known, or stop before the guard's lease ends
    #[arg(long, env = "WAYPOST_WITHOUT_STORE", value_name = "WHAT", value_enum, default_value_t = WithoutStore::Serve)]
    pub(crate) without_store: WithoutStore,
    /// Where the admin endpoints are; 127.0.0.1:9901 by default
    #[arg(long, env = "WAYPOST_ADMIN", value_name = "ADDR", value_parser = address)]
    pub(crate) admin: Option<SocketAddr>,
    /// A file with the token that the admin endpoints want; required if other machines can reach them
    #[arg(long, env = "WAYPOST_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// Worker threads; one a core by default
    #[arg(long, env = "WAYPOST_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// The access log: stdout, off, or a file; stdout by default
    #[arg(long, env = "WAYPOST_ACCESS_LOG", value_name = "WHERE")]
    pub(crate) access_log: Option<String>,
    #[command(flatten)]
    pub(crate) gold: GoldArgs,
}

/// What an owner does while the store is out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WithoutStore {
    /// Serve by what is known; nothing can be handed over meanwhile
    Serve,
    /// Stop some three seconds before the guard's lease of ten ends, which then counts as its word that it has let go
    Stop,
}

impl WithoutStore {
    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Stop => "stop",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Exit when the story is told: 0 if every step held, else 1
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Record files (YAML, JSON), bootstrap files (TOML), directories of them, or - for records on standard input
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Prove that the table of the proxy with this admin address is what the store has, or list what differs
    #[arg(long, value_name = "ADMIN", conflicts_with = "files")]
    pub(crate) against: Option<String>,
    /// With --against: a file with the token to show there
    #[arg(long, env = "WAYPOST_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// For machines: one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) gold: GoldArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Record files (YAML, JSON), directories of them, or - for standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Print the difference and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// List the records that are left alone, too
    #[arg(long, short = 'v')]
    pub(crate) verbose: bool,
    /// For machines: one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) gold: GoldArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Show one route as the store has it.
    #[command(after_help = "Example:\n  waypost route get orders tenant-42")]
    Get(RouteGetArgs),
    /// List a service's routes.
    #[command(after_help = "Example:\n  waypost route list orders --owner cell-7")]
    List(RouteListArgs),
    /// Give a key an owner; compares and swaps on what was read.
    #[command(after_help = "\
Raises the epoch by one where the record has one, else leaves it out (it is then the revision).
This promises only healing, not exclusion.

Example:
  waypost route set orders tenant-42 --owner cell-7")]
    Set(RouteSetArgs),
    /// Delete a route.
    #[command(after_help = "Example:\n  waypost route delete orders tenant-42")]
    Delete(RouteGetArgs),
    /// Hand a key, or all keys of an owner, over to another owner: no request fails, and no two owners serve a key at once.
    #[command(after_help = "\
The key is frozen, its old owner lets go, the new owner is committed: requests wait a few milliseconds meanwhile.
Owners announce themselves (waypost-owner); one that does not let go within half a second keeps the key.
A run that ended early, or was killed, is gone on with by the next one.

Examples:
  waypost route move orders tenant-42 --to cell-9
  waypost route move orders --owner cell-7 --to cell-9 --parallel 8")]
    Move(RouteMoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RouteMoveArgs {
    /// The service
    pub(crate) service: String,
    /// The routing key; left out: all keys of --owner
    pub(crate) key: Option<String>,
    /// The upstream that is to own it
    #[arg(long, value_name = "UPSTREAM")]
    pub(crate) to: Option<String>,
    /// Whose keys are moved
    #[arg(long, value_name = "UPSTREAM", conflicts_with = "key")]
    pub(crate) owner: Option<String>,
    /// How many keys are moved at the same time
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) parallel: usize,
    /// Show what would be moved, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Give a frozen key back to its owner
    #[arg(long, conflicts_with_all = ["to", "owner", "dry_run"])]
    pub(crate) abort: bool,
    /// End the requests that are under way for a key when it is frozen, instead of waiting for them
    #[arg(long)]
    pub(crate) cut: bool,
    /// Move although an owner has not announced itself
    #[arg(long)]
    pub(crate) force: bool,
    /// An instance of the old owner that is dead, whatever it has announced
    #[arg(long, value_name = "ID")]
    pub(crate) assume_dead: Vec<String>,
    /// For machines: one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) gold: GoldArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RouteGetArgs {
    /// The service
    pub(crate) service: String,
    /// The routing key
    pub(crate) key: String,
    /// For machines: one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) gold: GoldArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RouteListArgs {
    /// The service
    pub(crate) service: String,
    /// Only routes of this owner
    #[arg(long, value_name = "UPSTREAM")]
    pub(crate) owner: Option<String>,
    /// For machines: one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) gold: GoldArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RouteSetArgs {
    /// The service
    pub(crate) service: String,
    /// The routing key
    pub(crate) key: String,
    /// The upstream that is to own it
    #[arg(long, value_name = "UPSTREAM")]
    pub(crate) owner: String,
    /// Do not refuse a service or upstream that has no record
    #[arg(long)]
    pub(crate) allow_missing: bool,
    /// For machines: one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) gold: GoldArgs,
}

/// A running proxy's admin endpoints; the same for every command that asks them.
#[derive(Clone, Debug, Args)]
pub(crate) struct AdminArgs {
    /// The proxy's admin address
    #[arg(long, env = "WAYPOST_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:9901")]
    pub(crate) admin: String,
    /// A file with the token to show there
    #[arg(long, env = "WAYPOST_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// For machines: /status as it is
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Only what concerns this service, and the whole table
    #[arg(long, value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    /// Only what concerns this routing key, and the whole table
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// For machines: one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The method
    pub(crate) method: String,
    /// http://host/path, or /path beside a Host header
    pub(crate) url: String,
    /// A header; may be given several times
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// For machines: the answer of /explain as it is
    #[arg(long)]
    pub(crate) json: bool,
}

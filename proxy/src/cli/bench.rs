//! The command line of `waypost bench`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

/// How it is used.
pub(crate) const EXAMPLES: &str = "\
Closed loop: each connection, or stream of HTTP/2, sends its next request when the last is
answered. With --rate (open loop) requests are due at a fixed rate and latency counts from when
each was due, so that a stall is charged for all that waited behind it.

Examples:
  waypost bench http://127.0.0.1:8080/ -H x-tenant={key} --keys tenant-0..1000 --duration 10s
  waypost bench http://127.0.0.1:8080/ --rate 5000 --connections 64 --svg latency.svg
  waypost bench https://localhost:8443/ --cacert ca.pem --http2 --streams 10 --json=report.json
  waypost bench http://127.0.0.1:8080/ -X POST --body 1048576 --chunked --new-connections
  waypost bench http://127.0.0.1:8080/ -H x-tenant={key} --keys t-0..9000 --zipf 0.99 \\
    --stale 0.1 --stale-keys t-9000..9100";

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Where to: http://host:port/path, or https
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Connections kept open
    #[arg(long, short = 'c', default_value_t = 32, value_name = "N")]
    pub(crate) connections: usize,
    /// How long to measure: 10s, 1m
    #[arg(long, short = 'd', default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) duration: Duration,
    /// How long to warm up before
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) warm_up: Duration,
    /// Open loop: so many requests a second, latency counted from when each was due
    #[arg(long, short = 'r', allow_negative_numbers = true, value_name = "N")]
    pub(crate) rate: Option<f64>,
    /// Worker threads
    #[arg(long, short = 't', default_value_t = 1, value_name = "N")]
    pub(crate) threads: usize,
    /// HTTP/2: by ALPN to https, with prior knowledge to http
    #[arg(long)]
    pub(crate) http2: bool,
    /// Requests at once on each connection of HTTP/2
    #[arg(long, default_value_t = 1, requires = "http2", value_name = "N")]
    pub(crate) streams: usize,
    /// A connection for each request, as many at once as --connections; with TLS each a whole handshake
    #[arg(long)]
    pub(crate) new_connections: bool,
    /// Certificates that the target's must be signed by (PEM); those of this system by default
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Take any certificate
    #[arg(long, conflicts_with = "cacert")]
    pub(crate) insecure: bool,
    /// A header; {key} in it is replaced by a key of --keys: x-tenant={key}
    #[arg(long, short = 'H', value_name = "NAME=VALUE")]
    pub(crate) header: Vec<String>,
    /// The keys: a prefix and a range
    #[arg(long, default_value = "tenant-0..1", value_name = "PREFIXA..B")]
    pub(crate) keys: String,
    /// Ask for keys by Zipf's law, 0.99 being usual, instead of each as often
    #[arg(long, allow_negative_numbers = true, value_name = "EXPONENT")]
    pub(crate) zipf: Option<f64>,
    /// This share of the requests asks for --stale-keys, 0 to 1; counted apart
    #[arg(long, requires = "stale_keys", allow_negative_numbers = true, value_name = "SHARE")]
    pub(crate) stale: Option<f64>,
    /// Keys whose routes you have made stale
    #[arg(long, requires = "stale", value_name = "PREFIXA..B")]
    pub(crate) stale_keys: Option<String>,
    /// The method
    #[arg(long, short = 'X', default_value = "GET", value_name = "METHOD")]
    pub(crate) method: String,
    /// Bytes of request body
    #[arg(long, alias = "body-bytes", default_value_t = 0, value_name = "BYTES")]
    pub(crate) body: usize,
    /// Send the body in chunks, or over HTTP/2 without its length
    #[arg(long)]
    pub(crate) chunked: bool,
    /// A process on this machine whose CPU time is counted with its children's, for requests a CPU-second; may be given several times
    #[arg(long, alias = "pid", value_name = "PID")]
    pub(crate) watch_pid: Vec<u32>,
    /// The seed that keys are drawn by
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// A line on stderr for each second; by default if it is a terminal
    #[arg(long)]
    pub(crate) progress: bool,
    /// For machines: one JSON object, to stdout instead of the table, or to a file (--json=FILE)
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub(crate) json: Option<PathBuf>,
    /// Draw the percentiles of latency into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Draw latencies from 0, not by powers of ten
    #[arg(long, requires = "svg")]
    pub(crate) linear: bool,
}

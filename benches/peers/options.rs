//! The command line, and how much of everything it asks for.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use crate::rows::Row;

/// HAProxy, nginx, Envoy, Traefik and Waypost beside one another: the same work, in turn, in one run.
#[derive(Debug, Parser)]
#[command(name = "bench-peers")]
pub(crate) struct Options {
    /// Everything in small, judging nothing: to see that it works
    #[arg(long)]
    pub(crate) quick: bool,
    /// How often each row is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) rounds: u16,
    /// How long each is measured: 2s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Only these rows; may be given several times, and a row's beginning is enough: routes
    #[arg(long, value_name = "ID")]
    pub(crate) row: Vec<String>,
    /// Only these peers; may be given several times: haproxy
    #[arg(long, value_name = "NAME")]
    pub(crate) peer: Vec<String>,
    /// The file whose measured part is replaced, or made; pictures go to the folder `results` beside it. Left out: standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "row", "peer"])]
    pub(crate) report: Option<PathBuf>,
    /// List the rows, and measure nothing
    #[arg(long)]
    pub(crate) list: bool,
}

/// How much of everything.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    pub(crate) is_judged: bool,
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    /// Tenants of the four tables.
    pub(crate) tenants: [u64; 4],
    /// Usual, many, very many.
    pub(crate) connections: [usize; 3],
    /// Requests a second that every peer can bear.
    pub(crate) rate: f64,
    /// Routes moved a second.
    pub(crate) updates: u64,
    /// Idle connections.
    pub(crate) idle: usize,
    /// Updates whose effect is waited for, and how long they may take together.
    pub(crate) effects: usize,
    pub(crate) effects_limit: Duration,
}

impl Options {
    pub(crate) fn size(&self) -> Size {
        if self.quick {
            return Size {
                is_judged: false,
                rounds: 1,
                duration: Duration::from_millis(50),
                warm_up: Duration::from_millis(20),
                tenants: [1, 100, 200, 300],
                connections: [8, 16, 64],
                rate: 500.0,
                updates: 200,
                idle: 20,
                effects: 2,
                effects_limit: Duration::from_secs(5),
            };
        }
        Size {
            is_judged: true,
            rounds: usize::from(self.rounds),
            duration: self.duration,
            warm_up: Duration::from_millis(500),
            tenants: [1, 10_000, 100_000, 1_000_000],
            connections: [32, 256, 5_000],
            rate: 8_000.0,
            updates: 1_000,
            idle: 5_000,
            effects: 20,
            effects_limit: Duration::from_secs(20),
        }
    }

    /// Whether a row is to be measured; of one that is named in full, none that only begins like it.
    pub(crate) fn wants_row(&self, id: &str, all: &[Row]) -> bool {
        let is_named = |wanted: &str| if all.iter().any(|row| row.id == wanted) { id == wanted } else { id.starts_with(wanted) };
        self.row.is_empty() || self.row.iter().any(|wanted| is_named(wanted))
    }

    pub(crate) fn wants_peer(&self, name: &str) -> bool {
        self.peer.is_empty() || self.peer.iter().any(|wanted| name.eq_ignore_ascii_case(wanted))
    }
}

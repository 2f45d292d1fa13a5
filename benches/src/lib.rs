//! The load generator: closed and open loop over HTTP/1.1 and HTTP/2, with TLS or without, keys from a range, latency percentiles from HDR
//! histograms.
//!
//! It shares its machine with what it measures, so it is cheap: requests are made once and only given their keys, answers are read into one buffer
//! for all connections of a thread, nothing is armed or allocated for a request over HTTP/1.1. In the open loop requests are due on a schedule and
//! a latency counts from when its request was *due*, if it waited for the last answer: a server that stalls is charged for everything that waited
//! behind the stall (coordinated omission). If it waited for nothing but its timer, which has a resolution of a millisecond, it counts from when it
//! was sent.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod answer;
mod connection;
mod cpu;
mod fixed;
mod keys;
mod lane;
mod plan;
pub mod processes;
mod report;
mod request;
mod run;
mod tally;
mod tls;

pub use cpu::{cpu_seconds_of, cpu_seconds_of_all};
pub use fixed::{OWNER_HEADER, serve_fixed, serve_owner};
pub use keys::{Draw, Keys, Spread, Stale};
pub use lane::{Check, Seen};
pub use plan::{Body, Pace, Plan, PlanFault, Protocol, Target, Trust};
pub use report::{Class, Failures, Latencies, Percentile, Report, Scale, Second, svg};
pub use run::{Hooks, run, run_with};

//! Waypost from the outside: a real etcd, the built binary, scripted backends.
//!
//! One test binary, one module a subject. Each test has its own processes on its own ports and is bounded in time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on ends with the reason")]

mod access_log;
mod admin_door;
mod answers;
mod atomic;
mod commands;
mod conform;
mod documented;
mod expect;
mod explain;
mod fleet;
mod forwarded;
mod framing;
mod framing_bodies;
mod guard;
mod guard_moves;
mod guard_store;
mod guard_streams;
mod handover;
mod headers;
mod hop_by_hop;
mod hostile;
mod http;
mod http2;
mod keep_alive;
mod lanes;
mod limits;
mod mass_delete;
mod observe;
mod outages;
mod owners;
mod owners_time;
mod parking;
mod partitions;
mod pool;
mod quarantine;
mod refusals;
mod requests;
mod restarts;
mod resting;
mod routing;
mod scene;
mod secrets;
mod smuggling;
mod snapshot;
mod stage;
mod stale;
mod store;
mod storms;
mod tls;
mod tls_upstream;
mod upgrades;
mod watch;
mod writes;

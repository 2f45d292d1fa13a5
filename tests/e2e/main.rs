//! Waypost from the outside: a real etcd, the built binary, scripted backends.
//!
//! One test binary, one module a subject. Each test has its own processes on its own ports and is bounded in time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on ends with the reason")]

mod access_log;
mod atomic;
mod commands;
mod explain;
mod headers;
mod http;
mod observe;
mod outages;
mod quarantine;
mod requests;
mod routing;
mod scene;
mod stale;
mod watch;

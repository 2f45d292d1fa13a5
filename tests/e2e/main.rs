//! Waypost from the outside: a real etcd, the built binary, scripted backends.
//!
//! One test binary, one module a subject. Each test has its own processes on its own ports and is bounded in time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on ends with the reason")]

mod atomic;
mod commands;
mod framing;
mod framing_bodies;
mod headers;
mod http;
mod outages;
mod quarantine;
mod routing;
mod scene;
mod stage;
mod stale;

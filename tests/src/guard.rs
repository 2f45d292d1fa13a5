//! A guard before a backend: the built binary with the command `guard`, as a process of the test's own.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
};

use crate::waypost::Waypost;

/// A running guard. It listens, logs and is asked as a proxy is.
pub struct Guard {
    process: Waypost,
    upstream: String,
}

impl Guard {
    /// Starts a guard of an upstream before a backend, and waits until it serves.
    pub async fn start(gold: &str, upstream: &str, id: &str, to: SocketAddr, extra: &[&str]) -> Self {
        let mut guard = Self::new(gold, upstream, id, to, extra);
        guard.spawn();
        guard.ready().await;
        guard
    }

    /// One that is not started yet.
    pub fn new(gold: &str, upstream: &str, id: &str, to: SocketAddr, extra: &[&str]) -> Self {
        let process = Waypost::running(&["guard", "--upstream", upstream, "--id", id, "--to", &to.to_string()], gold, extra);
        Self { process, upstream: upstream.to_owned() }
    }

    /// The upstream that it guards.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Its upstream's record, with this guard as the only endpoint.
    pub fn record(&self) -> serde_json::Value {
        serde_json::json!({ "endpoints": [{ "address": self.listen.to_string() }] })
    }
}

impl Deref for Guard {
    type Target = Waypost;

    fn deref(&self) -> &Waypost {
        &self.process
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Waypost {
        &mut self.process
    }
}

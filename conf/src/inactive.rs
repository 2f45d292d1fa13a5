//! What is set and has no effect, in one place: what this version reads and checks but does not act on yet, and settings that contradict one another. A
//! person is told by `check` and `/status`.
//!
//! Whoever makes one of these work deletes its line here.

use crate::{Balance, Bootstrap, Limits, Policy, Record, Upstream};

/// The fields of a record that are not acted on yet.
pub(crate) fn of_record(record: &Record) -> Vec<&'static str> {
    match record {
        Record::Service(_) | Record::Route(_) | Record::Certificate(_) => Vec::new(),
        Record::Upstream(upstream) => of_upstream(upstream),
        Record::Endpoint(endpoint) => of(&[(endpoint.zone.is_some(), "zone")]),
        Record::Policy(policy) => of_policy(policy),
        Record::Incarnation(_) => Vec::new(),
    }
}

/// The settings of a bootstrap file that have no effect beside its others, by their path in it.
pub(crate) fn of_bootstrap(bootstrap: &Bootstrap) -> Vec<String> {
    let listeners = bootstrap.listeners.iter().enumerate().flat_map(|(at, listener)| {
        let settings = of(&[
            // Over TLS it is agreed on.
            (listener.tls && !listener.h2c, "h2c"),
            (!listener.tls && listener.client_ca.is_some(), "client_ca"),
            (!listener.tls && listener.client_cert.is_some(), "client_cert"),
        ]);
        settings.into_iter().map(move |setting| format!("listener[{at}].{setting}"))
    });
    listeners.collect()
}

fn of_upstream(upstream: &Upstream) -> Vec<&'static str> {
    of(&[
        (matches!(upstream.balance, Balance::LeastRequest | Balance::Hash), "balance"),
        (upstream.health.is_some(), "health"),
        (upstream.endpoints.iter().any(|endpoint| endpoint.zone.is_some()), "endpoints.zone"),
    ])
}

fn of_policy(policy: &Policy) -> Vec<&'static str> {
    let Limits { requests_per_second, in_flight, .. } = policy.limits;
    of(&[(requests_per_second != 0, "limits.requests_per_second"), (in_flight != 0, "limits.in_flight")])
}

fn of(fields: &[(bool, &'static str)]) -> Vec<&'static str> {
    fields.iter().filter(|(present, _)| *present).map(|(_, field)| *field).collect()
}

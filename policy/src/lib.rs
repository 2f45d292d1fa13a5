//! Everything that Waypost decides, and nothing that it does: matching, the table and its lookup, the exchange, the
//! protocol's wire forms, hints, balancing and budgets.
//!
//! Sans-IO: no socket, no task, no clock and no randomness of its own. Time is a [`Moment`] and randomness a seeded generator, both
//! handed in, so that the code that production runs is the code that a simulation runs. The import direction is
//! `policy → conf`, never the other way, and nothing in here knows a transport or a store.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod balance;
pub mod budget;
pub mod checks;
pub mod endpoint;
pub mod exchange;
pub mod explain;
pub mod framing;
pub mod handover;
pub mod head;
pub mod hints;
pub mod matching;
pub mod owner;
pub mod parking;
pub mod problem;
pub mod routing_key;
pub mod table;
pub mod tenure;
pub mod time;
pub mod wire;

pub use endpoint::{Endpoint, Lease, Upstream};
pub use exchange::{Body, Exchange, Failure, Found, Input, Next, Sent, World};
pub use head::{Head, Reply};
pub use hints::{Hint, Hints};
pub use problem::Code;
pub use table::{Source, Table, TableId};
pub use time::Moment;

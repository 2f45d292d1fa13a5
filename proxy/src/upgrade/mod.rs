//! Handing the listening sockets from a running process to one that was started with `--upgrade`, so that no connection is ever refused.
//!
//! The new process waits at a unix socket; SIGQUIT makes the old one connect there. They then say, a line of JSON each:
//!
//! | old | new |
//! |---|---|
//! | `offer`, then every listening socket with a `socket` | |
//! | | `ready`: it has bound what is new, and a table of its own is in force |
//! | `yours` | |
//! | | `serving`: it accepts connections. The old one stops accepting, and drains |
//!
//! What always holds: a listening socket is closed by neither before the other accepts from it. Until `serving` has come the old process
//! serves as if nothing were; whatever goes wrong before leaves it doing so. If the old one dies meanwhile, the new one takes its place. Both
//! look at whose process the other one is, and the socket is for its owner alone.

mod able;
mod give;
mod link;
mod meeting;
mod take;

pub(crate) use able::{Known, can_serve};
pub(crate) use give::give;
pub(crate) use meeting::Meeting;
pub(crate) use take::{Taken, Waiting};

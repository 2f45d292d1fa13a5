//! The commands, one file each. A command reads its arguments, does its one thing and prints; what it decides with lives in the
//! crates below.

mod against;
pub(crate) mod apply;
pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod guard;
mod input;
pub(crate) mod print;
pub(crate) mod reference;
pub(crate) mod route;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod watch;

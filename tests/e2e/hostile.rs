//! Backends and clients that lie, flood and blame: nothing is dialled outside the table, nothing leaks, nothing loops, and other keys
//! notice nothing.

mod backends;
mod clients;
mod liars;
mod stage;

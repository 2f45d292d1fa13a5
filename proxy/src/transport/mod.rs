//! Carrying requests: the client's connection, the general transport on pingora, and the answers of the proxy's own.
//!
//! Transports only carry out what an `Exchange` of `waypost-policy` says. `connection` is the front door: it reads and checks each head
//! and hands the request to a lane: plain ones to `express`, which may hand them over to `general`, all others to `general`.

mod accepted;
mod alarm;
mod answer;
mod asked;
mod client_socket;
mod connection;
mod deadline;
mod downstream;
mod ending;
mod express;
mod framing;
mod general;
mod grpc;
mod headers;
mod http2;
mod timing;
mod upgrade;

pub(crate) use accepted::Accepted;
pub(crate) use answer::problem_json;
pub(crate) use asked::Asked;
pub(crate) use client_socket::{ClientSocket, UNWATCHED};
pub(crate) use connection::{ConnectionInfo, Lanes, Speaks, Waiting, drained, head_limit, serve_connection, turn_away};
pub(crate) use express::{Express, keep_swept};
pub(crate) use general::{General, general_lane};

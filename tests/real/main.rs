//! Waypost between servers and clients that nobody here wrote: nginx, uvicorn, moto, etcd, nghttpd; curl, wrk, requests,
//! boto3, h2load, nghttp, etcdctl; tonic on both sides.
//!
//! One test binary, one module a subject. Wherever it makes sense, an answer is compared with what the server says when it is asked
//! directly. `make setup` installs what is needed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on ends with the reason")]

mod asgi;
mod clients;
mod connections;
mod grpc;
mod http2;
mod memory;
mod nginx;
mod protocol;
mod redirects;
mod s3;
mod stage;
mod webdav;

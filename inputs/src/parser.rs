//! The parser behind: what pingora makes of bytes that were let through.

use std::cell::RefCell;

use pingora_core::protocols::http::ServerSession;
use tokio::{
    io::AsyncWriteExt,
    runtime::{Builder, Runtime},
};

/// A request as pingora has read it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    pub(crate) method: String,
    pub(crate) target: Vec<u8>,
    /// Lower-case names with their values, sorted.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    /// The body, where it was asked for.
    pub(crate) body: Vec<u8>,
}

thread_local! {
    /// One for a thread: to make one costs more than to parse.
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// Runs to its end what waits for nothing but what is there.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> Option<T> {
    RUNTIME.with_borrow_mut(|runtime| {
        if runtime.is_none() {
            *runtime = Builder::new_current_thread().enable_all().build().ok();
        }
        runtime.as_ref().map(|runtime| runtime.block_on(work))
    })
}

/// What pingora makes of a request; `None` if it refuses it.
pub(crate) fn behind(request: &[u8], with_body: bool) -> Option<Behind> {
    run(async {
        let (mut client, server) = tokio::io::duplex(request.len() + 1);
        client.write_all(request).await.ok()?;
        let mut session = ServerSession::new_http1(Box::new(server));
        if !session.read_request().await.ok()? {
            return None;
        }
        let mut body = Vec::new();
        while with_body && let Some(part) = session.read_request_body().await.ok()? {
            body.extend_from_slice(&part);
        }
        let head = session.req_header();
        let mut fields: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
        fields.sort();
        Some(Behind { method: head.method.as_str().to_owned(), target: head.raw_path().to_vec(), fields, body })
    })
    .flatten()
}

//! Buffers between requests: each thread keeps a few, so that a request allocates none and a connection that waits for its next one has none.

use std::cell::RefCell;

use bytes::BytesMut;

/// So many sets a thread keeps.
const SETS: usize = 32;
/// Larger ones are let go.
const MOST_WRITTEN: usize = 64 << 10;
const MOST_READ: usize = 256 << 10;

thread_local! {
    static SPARE: RefCell<Vec<Buffers>> = const { RefCell::new(Vec::new()) };
}

/// What one request needs; empty.
#[derive(Default)]
pub(super) struct Buffers {
    /// To be written to an owner.
    pub(super) to_owner: Vec<u8>,
    /// To be written to the client.
    pub(super) to_client: Vec<u8>,
    /// Read from an owner.
    pub(super) from_owner: BytesMut,
}

/// A set that is spare, or a new one.
pub(super) fn take() -> Buffers {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps a set for the next request.
pub(super) fn put(mut buffers: Buffers) {
    let Buffers { to_owner, to_client, from_owner } = &mut buffers;
    to_owner.clear();
    to_client.clear();
    from_owner.clear();
    // The capacity of one that has been read from is not all of its memory.
    let is_small = to_owner.capacity() <= MOST_WRITTEN && to_client.capacity() <= MOST_WRITTEN && !from_owner.try_reclaim(MOST_READ + 1);
    SPARE.with_borrow_mut(|spare| {
        if is_small && spare.len() < SETS {
            spare.push(buffers);
        }
    });
}

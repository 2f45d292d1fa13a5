//! Which of the worker threads this one is: what each of them has for itself is found by that number.

use std::cell::Cell;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// From now on this thread is the worker of that number; they are counted from 0.
pub(crate) fn begin(number: usize) {
    NUMBER.set(number);
}

/// This worker's number; 0 on any other thread.
pub(crate) fn number() -> usize {
    NUMBER.get()
}

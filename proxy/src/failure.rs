//! How a command ends when it did not succeed: one message for a person, and the exit status of INTERFACE.md.

use std::fmt::Display;

/// A failure and its exit status.
#[derive(Debug)]
pub(crate) struct Failed {
    /// 1: it could not be done; 2: wrong usage or an unusable file.
    pub(crate) status: u8,
    /// What was wrong, where, and what would be right; empty where it has been said already.
    pub(crate) message: String,
}

impl Failed {
    /// It could not be done: exit 1.
    pub(crate) fn not_done(message: impl Display) -> Self {
        Self { status: 1, message: message.to_string() }
    }

    /// Wrong usage, or a file that can't be used: exit 2.
    pub(crate) fn unusable(message: impl Display) -> Self {
        Self { status: 2, message: message.to_string() }
    }

    /// Exit with this status; everything has been said.
    pub(crate) fn said(status: u8) -> Self {
        Self { status, message: String::new() }
    }
}

/// What a command gives back.
pub(crate) type Outcome = Result<(), Failed>;

//! The rule that epochs obey within one create_revision, for whoever applies records and for whoever is about to write them.

/// Why a record would be quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochFault {
    /// The epoch is below the known one.
    #[error("the epoch goes down from {known} to {next}; a number above {known} would be right")]
    Down {
        /// The epoch in force.
        known: u64,
        /// The one that would follow.
        next: u64,
    },
    /// Another owner at the same epoch.
    #[error("the owner changes but the epoch stays {known}; a number above it would be right")]
    NotRaised {
        /// The epoch in force.
        known: u64,
    },
}

/// Whether an owner at an epoch may follow another: an epoch never goes down, and a change of owner raises it.
///
/// # Errors
/// If it may not.
pub fn may_follow<O: PartialEq>((known_owner, known): (&O, u64), (next_owner, next): (&O, u64)) -> Result<(), EpochFault> {
    if next < known {
        return Err(EpochFault::Down { known, next });
    }
    if next == known && next_owner != known_owner {
        return Err(EpochFault::NotRaised { known });
    }
    Ok(())
}

//! Names as small numbers, so that a route holds four bytes instead of a string.
//!
//! A number, once given, means the same name in every later table of the process; hints and checks may hold it
//! across publishes.

use std::collections::HashMap;

use waypost_conf::Name;

/// The number of a service's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(u32);

/// The number of an upstream's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamId(u32);

impl ServiceId {
    pub(crate) fn new(number: u32) -> Self {
        Self(number)
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl UpstreamId {
    pub(crate) fn new(number: u32) -> Self {
        Self(number)
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Names in the order in which they were first seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    numbers: HashMap<Name, u32, ahash::RandomState>,
    names: Vec<Name>,
}

impl Names {
    /// The number of a name, given now if it is new.
    pub(crate) fn intern(&mut self, name: &Name) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        // Four billion names do not fit into memory; the last number would be shared, never out of range.
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }

    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    pub(crate) fn name(&self, index: usize) -> Option<&Name> {
        self.names.get(index)
    }

    /// All names, by their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Name> {
        self.names.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

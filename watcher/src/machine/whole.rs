//! Whole revisions out of what a watch says, and what is kept of them while a list is under way. Sans-IO.
//!
//! What always holds: a revision is given on only when all of it has come. A large response comes in fragments, cut anywhere; the
//! last revision of one is whole when a later one begins or the last fragment has come.

use std::collections::HashMap;

use crate::record::Event;

/// What an event takes in memory beside its key and value, about.
const EVENT_BYTES: usize = 96;

/// A watch that goes back in time, which etcd promises that it does not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutOfOrder;

/// Fragments of which the last revision is not whole yet.
#[derive(Debug, Default)]
pub(super) struct Whole {
    part: Vec<Event>,
}

impl Whole {
    /// Adds what a response says and gives the revisions that are whole now. `more`: the response goes on in the next one.
    pub(super) fn add(&mut self, events: Vec<Event>, more: bool) -> Result<Vec<Event>, OutOfOrder> {
        let begins_at = self.part.last().map_or(0, Event::mod_revision);
        let revisions = events.iter().map(Event::mod_revision);
        if !std::iter::once(begins_at).chain(revisions).is_sorted() {
            return Err(OutOfOrder);
        }
        self.part.extend(events);
        let open = if more { self.part.last().map_or(0, Event::mod_revision) } else { u64::MAX };
        let whole = self.part.partition_point(|event| event.mod_revision() < open);
        let rest = self.part.split_off(whole);
        Ok(std::mem::replace(&mut self.part, rest))
    }

    /// Whether nothing is waited for.
    pub(super) fn is_empty(&self) -> bool {
        self.part.is_empty()
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.part.iter().map(bytes).sum()
    }
}

/// Whole revisions that came while a list was under way: of each key the last change.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    last: HashMap<Vec<u8>, Event>,
    bytes: usize,
}

impl Buffer {
    /// Adds whole revisions, in whatever order they come.
    pub(super) fn add(&mut self, events: Vec<Event>) {
        for event in events {
            let known = self.last.get(event.key());
            if known.is_some_and(|known| known.mod_revision() >= event.mod_revision()) {
                continue;
            }
            self.bytes += bytes(&event);
            if let Some(before) = self.last.insert(event.key().to_vec(), event) {
                self.bytes -= bytes(&before);
            }
        }
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The changes in the order of their revisions, and the last of these; `None` if there are none.
    pub(super) fn into_events(self) -> Option<(Vec<Event>, u64)> {
        let mut last: Vec<Event> = self.last.into_values().collect();
        last.sort_unstable_by(|one, other| (one.mod_revision(), one.key()).cmp(&(other.mod_revision(), other.key())));
        let revision = last.last()?.mod_revision();
        Some((last, revision))
    }
}

/// The key is counted twice: a buffer holds it beside the event.
fn bytes(event: &Event) -> usize {
    let value = if let Event::Put(stored) = event { stored.value.len() } else { 0 };
    EVENT_BYTES + 2 * event.key().len() + value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(revisions: &[u64]) -> Vec<Event> {
        revisions.iter().map(|revision| Event::Delete { key: b"k".to_vec(), mod_revision: *revision }).collect()
    }

    fn revisions(events: &[Event]) -> Vec<u64> {
        events.iter().map(Event::mod_revision).collect()
    }

    #[test]
    fn a_revision_that_is_cut_waits_for_its_rest() {
        let mut whole = Whole::default();
        assert_eq!(revisions(&whole.add(events(&[3, 4, 5]), true).unwrap()), [3, 4]);
        assert_eq!(revisions(&whole.add(events(&[5]), true).unwrap()), [0; 0]);
        assert_eq!(revisions(&whole.add(events(&[5, 6]), true).unwrap()), [5, 5, 5]);
        assert_eq!(revisions(&whole.add(events(&[6]), false).unwrap()), [6, 6]);
        assert!(whole.is_empty());
        assert_eq!(whole.add(events(&[9, 8]), false), Err(OutOfOrder));
        assert_eq!(revisions(&whole.add(events(&[7]), true).unwrap()), [0; 0]);
        assert_eq!(whole.add(events(&[6]), false), Err(OutOfOrder));
    }

    #[test]
    fn a_buffer_keeps_the_last_change_of_each_key_in_the_order_of_revisions() {
        let event = |key: &str, mod_revision| Event::Delete { key: key.as_bytes().to_vec(), mod_revision };
        let mut buffer = Buffer::default();
        buffer.add(vec![event("a", 5), event("b", 5), event("c", 6)]);
        let bytes = buffer.bytes();
        buffer.add(vec![event("a", 7)]);
        buffer.add(vec![event("b", 5), event("c", 4)]);
        assert_eq!(buffer.bytes(), bytes, "a key counts once");
        buffer.add(vec![event("d", 3)]);
        let wanted = vec![event("d", 3), event("b", 5), event("c", 6), event("a", 7)];
        assert_eq!(buffer.into_events(), Some((wanted, 7)), "what comes late is not lost");
        assert_eq!(Buffer::default().into_events(), None);
    }

    proptest! {
        #[test]
        fn however_a_response_is_cut_all_of_it_comes_out_whole(
            mut all in proptest::collection::vec(1u64..12, 0..40), cuts in proptest::collection::vec(0usize..40, 0..6)
        ) {
            all.sort_unstable();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
            cuts.sort_unstable();
            let (mut whole, mut out, mut from) = (Whole::default(), Vec::new(), 0);
            for cut in cuts {
                let given = whole.add(events(&all[from..cut]), true).unwrap();
                // What is still to come is of later revisions only.
                prop_assert!(given.last().is_none_or(|last| all[cut..].iter().all(|later| *later > last.mod_revision())));
                out.extend(given);
                from = cut;
            }
            out.extend(whole.add(events(&all[from..]), false).unwrap());
            prop_assert_eq!(revisions(&out), all);
        }
    }
}

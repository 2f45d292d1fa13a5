//! Cutting a list of the whole store into ranges that are bounded at both ends. Sans-IO.
//!
//! Up to etcd 3.6 a read walks its range to the end to count it, whatever its limit: pages of an open range cost the square of what
//! there is. So the key space is cut at *fences*, about [`AIM`] keys apart. They need not be right, nor new: what always holds is that
//! the ranges cover the key space once, whatever fences there are. A range that holds more than fits in one answer is cut again, by
//! what the answer showed: how its keys are spread, and how many are left.
//!
//! Keys are below the prefix; an end that is `None` is the end of the prefix.

mod spread;

use crate::record::Stored;

/// How many keys a range should have.
pub(crate) const AIM: usize = 5000;
/// How many keys one answer may hold: most ranges fit in one although fences are guesses.
pub(crate) const LIMIT: usize = 2 * AIM;
/// The most cuts that one answer leads to.
const MAX_CUTS: usize = 4096;
/// Of so many known keys one is looked at for fences, and of those each [`SAMPLES`]th is one: ranges are then within a factor of two of
/// [`AIM`], and no more than a sample has to be sorted.
pub(crate) const ONE_IN: usize = AIM / SAMPLES;
const SAMPLES: usize = 16;

/// Keys from one to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first key that may be in it.
    pub(crate) from: Vec<u8>,
    /// The first key behind it.
    pub(crate) end: Option<Vec<u8>>,
}

/// An answer that can't be: it says that there is more, and brings nothing that would lead on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Astray;

/// What is still to be asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the order of their keys, the next one last.
    todo: Vec<Range>,
}

impl Plan {
    /// Everything below the prefix.
    pub(crate) fn new() -> Self {
        Self { todo: vec![Range { from: Vec::new(), end: None }] }
    }

    /// Everything that starts with this.
    pub(crate) fn below(start: &[u8]) -> Self {
        // The first key behind it is the shortest: without the bytes at its end that can't be raised.
        let raised = start.iter().rposition(|b| *b < u8::MAX);
        let end = raised.map(|last| [&start[..last], &[start[last] + 1]].concat());
        Self { todo: vec![Range { from: start.to_vec(), end }] }
    }

    /// Cuts what is still to be asked for.
    pub(crate) fn cut(&mut self, fences: impl IntoIterator<Item = Vec<u8>>) {
        let mut fences: Vec<Vec<u8>> = fences.into_iter().collect();
        fences.sort_unstable();
        fences.dedup();
        let whole = std::mem::take(&mut self.todo);
        let mut fences = fences.into_iter().rev().peekable();
        for range in whole {
            // Both go down; a fence that is not inside any range is passed over.
            let mut end = range.end.clone();
            while let Some(fence) = fences.next_if(|fence| *fence > range.from) {
                if end.as_ref().is_none_or(|end| fence < *end) {
                    self.todo.push(Range { from: fence.clone(), end: end.replace(fence) });
                }
            }
            self.todo.push(Range { from: range.from, end });
        }
    }

    /// The next range to be asked for.
    pub(crate) fn next(&mut self) -> Option<Range> {
        self.todo.pop()
    }

    /// A range was answered in part: `got` are its first keys, of `total` as the store counts them; what is left is asked for later.
    ///
    /// # Errors
    /// If nothing that was got is in the range.
    pub(crate) fn more(&mut self, range: Range, got: &[Stored], total: usize) -> Result<(), Astray> {
        self.rest(rest(range, got, total)?);
        Ok(())
    }

    /// What is left of a range ([`rest`]) is asked for next.
    pub(crate) fn rest(&mut self, mut rest: Vec<Range>) {
        self.todo.append(&mut rest);
    }
}

/// What is left of a range that was answered in part: `got` are its first keys, of `total` as the store counts them. The next one is the
/// last.
///
/// # Errors
/// If nothing that was got is in the range.
pub(crate) fn rest(range: Range, got: &[Stored], total: usize) -> Result<Vec<Range>, Astray> {
    let last = &got.last().ok_or(Astray)?.key;
    if *last < range.from || range.end.as_ref().is_some_and(|end| last >= end) {
        return Err(Astray);
    }
    let rest = Range { from: [last, &b"\0"[..]].concat(), end: range.end };
    let left = total.saturating_sub(got.len());
    let mut part = Plan { todo: vec![rest] };
    if left > LIMIT {
        // The later half: what follows is likelier to be like it.
        let like = got.get(got.len() / 2..).unwrap_or_default();
        part.cut(spread::cuts(like, AIM, left.div_ceil(AIM).min(MAX_CUTS)));
    }
    Ok(part.todo)
}

/// Fences of some of the known keys, about one in [`ONE_IN`], in any order.
pub(crate) fn fences(some: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut sample: Vec<Vec<u8>> = some.collect();
    sample.sort_unstable();
    sample.into_iter().step_by(SAMPLES).skip(1).collect()
}

#[cfg(test)]
mod tests;

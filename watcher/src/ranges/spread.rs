//! How keys are spread, guessed from some of them: where cuts would have to be so that about as many keys lie between two.
//!
//! Keys are taken for numbers: behind a start that all of them share, each byte is a digit, and the digits are the bytes that occur.
//! So `tenant-1` to `tenant-999999` are as evenly spread as they look to a person. A guess that is wrong costs time and nothing else.

use crate::record::Stored;

/// How many cuts follow the even ones at most, each twice as far away as the one before: they reach the end of any spread.
const MAX_LEAPS: usize = 128;

/// So many cuts behind the last of some records, in order, each about `apart` keys from the one before; then ever further apart, first
/// among keys that are like those given and then among all.
pub(super) fn cuts(like: &[Stored], apart: usize, count: usize) -> Vec<Vec<u8>> {
    let empty: &[u8] = &[];
    let (first, last) = (like.first().map_or(empty, |first| &first.key), like.last().map_or(empty, |last| &last.key));
    let shared = first.iter().zip(last).take_while(|(one, other)| one == other).count();
    let near = Numbers::new(like, first.get(..shared).unwrap_or_default(), true);
    let keys = u128::try_from(like.len()).unwrap_or(1).max(2) - 1;
    let step = near.number(last).saturating_sub(near.number(first)) / keys;
    let mut cuts = near.steps(last, step.saturating_mul(apart as u128), count);
    let far = Numbers::new(like, empty, false);
    let reached = cuts.last().cloned().unwrap_or_else(|| last.to_vec());
    cuts.extend(far.steps(last, 1, 0).into_iter().filter(|cut| *cut > reached));
    cuts
}

/// Keys as numbers.
struct Numbers {
    /// What all keys begin with.
    start: Vec<u8>,
    /// The bytes that occur behind that, in order.
    digits: Vec<u8>,
    /// How many digits a number has.
    places: u32,
}

impl Numbers {
    /// `widely`: as much of `start` counts as digits as consists of them.
    fn new(like: &[Stored], mut start: &[u8], widely: bool) -> Self {
        let mut occurs = [false; 256];
        for byte in like.iter().flat_map(|record| record.key.get(start.len()..).unwrap_or_default()) {
            if let Some(occurs) = occurs.get_mut(usize::from(*byte)) {
                *occurs = true;
            }
        }
        while let Some((last, before)) = start.split_last()
            && widely
            && occurs.get(usize::from(*last)) == Some(&true)
        {
            start = before;
        }
        let digits: Vec<u8> = (0..=u8::MAX).zip(occurs).filter_map(|(byte, occurs)| occurs.then_some(byte)).collect();
        let base = digits.len() as u128 + 1;
        Self { start: start.to_vec(), digits, places: u128::MAX.checked_ilog(base.max(2)).unwrap_or(1) }
    }

    /// So many keys behind one, evenly, and then others, each twice as far away as the one before, to the greatest that is a number.
    fn steps(&self, from: &[u8], step: u128, count: usize) -> Vec<Vec<u8>> {
        let greatest = self.base().saturating_pow(self.places) - 1;
        let (mut at, mut by) = (self.number(from), step.max(1));
        let mut keys = Vec::new();
        for number in 0..count + MAX_LEAPS {
            let next = at.checked_add(by).filter(|next| *next <= greatest);
            let Some(next) = next else { break };
            at = next;
            keys.push(self.key(at));
            if number >= count {
                by = by.saturating_mul(2);
            }
        }
        keys
    }

    fn base(&self) -> u128 {
        self.digits.len() as u128 + 1
    }

    /// The digit 0 stands for a key's end, so that a key comes before those that go on from it.
    fn number(&self, key: &[u8]) -> u128 {
        let rest = key.get(self.start.len()..).unwrap_or_default();
        let digits = rest.iter().map(|byte| self.digits.partition_point(|digit| digit <= byte) as u128);
        let places = usize::try_from(self.places).unwrap_or_default();
        digits.chain(std::iter::repeat(0)).take(places).fold(0, |number, digit| number * self.base() + digit)
    }

    fn key(&self, mut number: u128) -> Vec<u8> {
        let mut rest = Vec::new();
        for _ in 0..self.places {
            let digit = usize::try_from(number % self.base()).unwrap_or_default();
            number /= self.base();
            rest.push(digit.checked_sub(1).and_then(|at| self.digits.get(at)).copied());
        }
        self.start.iter().copied().chain(rest.into_iter().rev().map_while(|digit| digit)).collect()
    }
}

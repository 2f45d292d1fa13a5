//! Which key a request asks for: a range of numbers behind a prefix, drawn evenly or by Zipf's law, some of them from a second range that is stale.
//!
//! The same seed draws the same keys in the same order.

use std::{convert::Infallible, ops::Range};

use rand_core::TryRng;
use rand_distr::{Distribution, Zipf};
use serde::Serialize;

use crate::plan::PlanFault;

/// Spreads the frequent keys over the range. It has no divisor in common with a power of ten, so that no two ranks share a key there.
const STRIDE: u64 = 7919;

/// Keys of one prefix and a range of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Keys {
    /// What stands before the number.
    pub prefix: String,
    /// The numbers.
    pub range: Range<u64>,
}

/// How often each key of a range is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Each as often as any other.
    #[default]
    Uniform,
    /// By Zipf's law: the second as often as the first divided by 2 to this power, the third by 3 to it, and so on; 0.99 is usual. The frequent
    /// ones are anywhere in the range, not next to each other.
    Zipf(f64),
}

/// A share of the requests asks for keys of a second range, whose routes somebody has made stale; they are counted apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stale {
    /// Of all requests; 0 to 1.
    pub share: f64,
    /// Their keys, drawn as the others are.
    pub keys: Keys,
}

impl Keys {
    /// Reads `tenant-0..1000`.
    ///
    /// # Errors
    /// If it is no range, or an empty one.
    pub fn parse(text: &str) -> Result<Self, PlanFault> {
        let wrong = || PlanFault::Keys(text.to_owned());
        let (start, end) = text.rsplit_once("..").ok_or_else(wrong)?;
        let digits = start.len() - start.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (prefix, first) = start.split_at(start.len() - digits);
        let range = first.parse::<u64>().map_err(|_| wrong())?..end.parse::<u64>().map_err(|_| wrong())?;
        if range.is_empty() { Err(wrong()) } else { Ok(Self { prefix: prefix.to_owned(), range }) }
    }
}

/// Draws numbers of one range.
#[derive(Clone, Debug)]
pub struct Draw {
    range: Range<u64>,
    zipf: Option<Zipf<f64>>,
}

impl Draw {
    /// Of a range that is not empty.
    ///
    /// # Errors
    /// If it is empty, or the exponent is below 0 or no number.
    pub fn new(range: Range<u64>, spread: Spread) -> Result<Self, PlanFault> {
        let size = range.end.saturating_sub(range.start);
        if size == 0 {
            return Err(PlanFault::Keys(format!("{}..{}", range.start, range.end)));
        }
        let zipf = match spread {
            Spread::Uniform => None,
            Spread::Zipf(exponent) => Some(Zipf::new(size as f64, exponent).map_err(|_| PlanFault::Zipf(exponent))?),
        };
        Ok(Self { range, zipf })
    }

    /// The next number.
    pub fn next(&self, rng: &mut fastrand::Rng) -> u64 {
        let Some(zipf) = &self.zipf else { return rng.u64(self.range.clone()) };
        let size = self.range.end - self.range.start;
        let rank = (zipf.sample(&mut Drawn(rng)) as u64).clamp(1, size) - 1;
        let place = u128::from(rank) * u128::from(STRIDE) % u128::from(size);
        self.range.start + u64::try_from(place).unwrap_or(0)
    }
}

/// The project's generator as the distribution wants it.
struct Drawn<'a>(&'a mut fastrand::Rng);

impl TryRng for Drawn<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.u32(..))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.u64(..))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(Keys::parse("tenant-5..10"), Ok(Keys { prefix: "tenant-".to_owned(), range: 5..10 }));
        for bad in ["", "tenant-", "tenant-5..5", "a..b", "5"] {
            assert!(Keys::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_key_of_a_range_is_drawn_and_no_other() {
        for spread in [Spread::Uniform, Spread::Zipf(0.99)] {
            let (draw, mut rng) = (Draw::new(100..200, spread).unwrap(), fastrand::Rng::with_seed(7));
            let mut counts = [0_u32; 100];
            (0..100_000).for_each(|_| counts[usize::try_from(draw.next(&mut rng) - 100).unwrap()] += 1);
            assert!(counts.iter().all(|count| *count > 0), "{spread:?}: {counts:?}");
            counts.sort_unstable_by(|one, other| other.cmp(one));
            let ratio = f64::from(counts[0]) / f64::from(counts[9]);
            match spread {
                Spread::Uniform => assert!(ratio < 1.2, "{ratio}"),
                // The first is asked for 10 to the power of 0.99 times as often as the tenth: 9.8.
                Spread::Zipf(_) => assert!((8.0..12.0).contains(&ratio), "{ratio}"),
            }
        }
    }

    #[test]
    fn what_can_t_be_drawn_from_is_said() {
        assert!(Draw::new(5..5, Spread::Uniform).is_err());
        assert_eq!(Draw::new(0..5, Spread::Zipf(-1.0)).unwrap_err(), PlanFault::Zipf(-1.0));
        assert!(Draw::new(0..5, Spread::Zipf(f64::NAN)).is_err());
    }
}

//! What is kept of what was measured: samples of each round, and what stands in a cell.

use waypost_bench::Report;

/// One row of one peer in one round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) requests_per_second: f64,
    pub(crate) per_cpu: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// The figure of a row that has one only.
    pub(crate) value: f64,
    pub(crate) failed: u64,
    /// Its latencies, for a picture.
    pub(crate) report: Option<Report>,
    /// What has to be said beside it.
    pub(crate) note: Option<String>,
}

/// What a peer did in a row.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    /// A sample a round.
    Measured(Vec<Sample>),
    /// It can't, or could not, and why.
    Cannot(String),
}

/// The middle of several, and how far they reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of none there is none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, least, most })
    }
}

impl Cell {
    /// One figure of the samples.
    pub(crate) fn spread(&self, of: impl Fn(&Sample) -> f64) -> Option<Spread> {
        match self {
            Self::Measured(samples) => Spread::of(samples.iter().map(of)),
            Self::Cannot(_) => None,
        }
    }

    /// Requests that failed in all rounds.
    pub(crate) fn failed(&self) -> u64 {
        match self {
            Self::Measured(samples) => samples.iter().map(|sample| sample.failed).sum(),
            Self::Cannot(_) => 0,
        }
    }

    /// What has to be said beside it.
    pub(crate) fn note(&self) -> Option<&str> {
        match self {
            Self::Measured(samples) => samples.iter().find_map(|sample| sample.note.as_deref()),
            Self::Cannot(why) => Some(why),
        }
    }

    /// The report of the round whose p99 is the middle one.
    pub(crate) fn report(&self) -> Option<&Report> {
        let Self::Measured(samples) = self else { return None };
        let mut samples: Vec<&Sample> = samples.iter().filter(|sample| sample.report.is_some()).collect();
        samples.sort_by(|one, other| one.p99_us.total_cmp(&other.p99_us));
        samples.get(samples.len() / 2)?.report.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of([]), None);
    }
}

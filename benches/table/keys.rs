//! The keys that are written and asked for: `tenant-<n>`, every one as likely, or by Zipf's law.

use std::sync::Arc;

/// Look-ups a round.
const ASKED: usize = 200_000;
/// How fast keys get rarer; 0.99 is what YCSB uses.
const ZIPF: f64 = 0.99;

/// The keys of one size of table.
pub(crate) struct Sample {
    /// All keys.
    pub(crate) keys: Vec<Arc<[u8]>>,
    /// Keys to ask for, each as likely.
    pub(crate) uniform: Vec<Arc<[u8]>>,
    /// Keys to ask for, few of them often.
    pub(crate) zipf: Vec<Arc<[u8]>>,
}

impl Sample {
    pub(crate) fn new(size: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(4);
        let keys = (0..size).map(key).collect();
        let uniform = (0..ASKED).map(|_| key(rng.usize(..size))).collect();
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=size).map(|rank| (sum += (rank as f64).powf(-ZIPF), sum).1).collect();
        // The frequent ones are anywhere, not next to each other: the factor has no divisor in common with a power of ten.
        let zipf = (0..ASKED).map(|_| key(sums.partition_point(|below| *below < rng.f64() * sum).min(size - 1) * 7919 % size));
        let zipf = zipf.collect();
        Self { keys, uniform, zipf }
    }
}

// A copy of its own, as a request brings one: what is compared is not the memory of the table.
fn key(number: usize) -> Arc<[u8]> {
    format!("tenant-{number}").into_bytes().into()
}

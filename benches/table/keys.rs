//! The keys that are written and asked for: `tenant-<n>`, every one as likely, or by Zipf's law.

use std::sync::Arc;

use waypost_bench::{Draw, Spread};

/// Look-ups a round.
const ASKED: usize = 200_000;
/// How fast keys get rarer; 0.99 is what YCSB uses.
const ZIPF: Spread = Spread::Zipf(0.99);

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
        let mut asked = |spread| -> Vec<Arc<[u8]>> {
            let draw = Draw::new(0..size as u64, spread).unwrap_or_else(|_| unreachable!("no table is empty"));
            (0..ASKED).map(|_| key(draw.next(&mut rng) as usize)).collect()
        };
        let (uniform, zipf) = (asked(Spread::Uniform), asked(ZIPF));
        Self { keys, uniform, zipf }
    }
}

// A copy of its own, as a request brings one: what is compared is not the memory of the table.
fn key(number: usize) -> Arc<[u8]> {
    format!("tenant-{number}").into_bytes().into()
}

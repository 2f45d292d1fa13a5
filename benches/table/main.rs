//! Ways of keeping routes, side by side: look-up, publish, memory and freeing, at a thousand to a million routes.
//!
//! Every way holds the same routes under the same keys and is driven by the same changes. What is measured is said in README.md. The
//! allocator is the product's, and counted. Then what a publish costs where services are not exact (`-- cut`: only that).
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

mod cut;
mod keys;
mod measure;
mod ways;

use cap::Cap;
use mimalloc::MiMalloc;

use keys::Sample;
use measure::Row;
use ways::{Overlay, Partitioned, Persistent, Production};

#[global_allocator]
static ALLOCATOR: Cap<MiMalloc> = Cap::new(MiMalloc, usize::MAX);

const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

fn main() {
    if std::env::args().any(|argument| argument == "cut") {
        return cut::run();
    }
    for size in SIZES {
        println!("\n{size} routes");
        Row::print_head();
        let sample = Sample::new(size);
        // In turn, and the one in production at both ends: what drifts on a shared machine shows.
        measure::run::<Production>("production", &sample);
        measure::run::<Partitioned<1_024>>("1,024 partitions", &sample);
        measure::run::<Partitioned<4_096>>("4,096 partitions", &sample);
        measure::run::<Partitioned<16_384>>("16,384 partitions", &sample);
        measure::run::<Persistent>("persistent (HAMT)", &sample);
        measure::run::<Overlay>("base and overlay", &sample);
        measure::run::<Production>("production, again", &sample);
    }
    cut::run();
}

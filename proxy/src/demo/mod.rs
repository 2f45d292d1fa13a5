//! The demo.
use crate::{cli::DemoArgs, failure::Outcome};
pub(crate) fn run(_args: &DemoArgs) -> Outcome {
    Ok(())
}

//! The replicated tick never runs ahead of the monotonic time of the leaders.

use registry_core::metadata::clock;

use super::{Invariant, Step};

pub(super) struct Ticks;

impl Invariant for Ticks {
    fn name(&self) -> &'static str {
        "ticks are not ahead of time"
    }

    fn entry(&mut self, step: &Step<'_>) -> Result<(), String> {
        let (clock, elapsed_ms) = (clock::read(&step.facts.rows), step.facts.elapsed_ms());
        if clock.tick * clock.tick_ms <= elapsed_ms {
            return Ok(());
        }
        Err(format!("{} ticks of {} ms after {elapsed_ms} ms", clock.tick, clock.tick_ms))
    }
}

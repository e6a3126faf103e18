//! When to ask a second copy as well: after the time in which 95 of 100 reads had their first byte, and for at most one
//! read in twenty. Source: §5.4.

use std::time::Duration;

use parking_lot::Mutex;
use registry_core::vocabulary::limits::{HEDGE_DELAY_MS_MIN, HEDGE_PERCENT_MAX};

/// Latest first-byte times that are remembered.
const SAMPLES: usize = 128;
/// The percentile is worked out anew after this many samples.
const RECOUNT_EVERY: usize = 16;
/// Price of a hedge; each read pays in [`HEDGE_PERCENT_MAX`].
const PRICE: u32 = 100;
/// Hedges that may be saved up for a bad moment.
const SAVED_MAX: u32 = 10 * PRICE;

pub(super) struct Hedger(Mutex<State>);

struct State {
    saved: u32,
    samples_us: [u32; SAMPLES],
    count: usize,
    p95_us: u32,
}

impl Hedger {
    pub(super) fn new() -> Hedger {
        Hedger(Mutex::new(State { saved: PRICE, samples_us: [0; SAMPLES], count: 0, p95_us: 0 }))
    }

    /// A read begins: it pays in. Returns how long it waits before it may hedge.
    pub(super) fn begin(&self) -> Duration {
        let mut state = self.0.lock();
        state.saved = (state.saved + HEDGE_PERCENT_MAX).min(SAVED_MAX);
        Duration::from_millis(HEDGE_DELAY_MS_MIN).max(Duration::from_micros(state.p95_us.into()))
    }

    /// Takes the price of one hedge, if it is there.
    pub(super) fn try_take(&self) -> bool {
        let mut state = self.0.lock();
        let left = state.saved.checked_sub(PRICE);
        state.saved = left.unwrap_or(state.saved);
        left.is_some()
    }

    /// A first byte came after `elapsed`.
    pub(super) fn record(&self, elapsed: Duration) {
        let mut state = self.0.lock();
        let at = state.count % SAMPLES;
        state.samples_us[at] = u32::try_from(elapsed.as_micros()).unwrap_or(u32::MAX);
        state.count += 1;
        if state.count.is_multiple_of(RECOUNT_EVERY) {
            let known = state.count.min(SAMPLES);
            let mut sorted = state.samples_us;
            let sorted = &mut sorted[..known];
            sorted.sort_unstable();
            state.p95_us = sorted[known * 95 / 100];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Over many reads at most one in twenty hedges, whatever happens.
    #[test]
    fn budget() {
        let hedger = Hedger::new();
        let hedges = (0..10_000).filter(|_| {
            hedger.begin();
            hedger.try_take()
        });
        let count = hedges.count();
        assert!((495..=502).contains(&count), "{count}");
    }

    // Quick reads wait the minimum; slow ones their own 95th percentile.
    #[test]
    fn delay() {
        let hedger = Hedger::new();
        assert_eq!(hedger.begin(), Duration::from_millis(50));
        (0..200).for_each(|_| hedger.record(Duration::from_millis(2)));
        assert_eq!(hedger.begin(), Duration::from_millis(50));
        (0..200).for_each(|i| hedger.record(Duration::from_millis(if i % 10 == 0 { 400 } else { 2 })));
        assert_eq!(hedger.begin(), Duration::from_millis(400));
    }
}

//! Everything that is left to chance: one seed, and streams of draws that do not disturb each other.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// A stream of draws. Clones share it.
#[derive(Clone)]
pub(crate) struct Dice(Arc<Mutex<fastrand::Rng>>);

impl Dice {
    /// The streams of a seed.
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// A stream of its own, decided by this one.
    pub(crate) fn fork(&self) -> Dice {
        Dice::new(self.0.lock().u64(..))
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.0.lock().u64(..limit)
    }

    /// A number of a range, both ends included.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        self.0.lock().u64(low..=high)
    }

    /// True so many times of a hundred.
    pub(crate) fn percent(&self, share: u64) -> bool {
        self.below(100) < share
    }

    /// One of them; there is at least one.
    pub(crate) fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// A time between two, in milliseconds.
    pub(crate) fn wait(&self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_millis(self.between(low_ms, high_ms))
    }

    /// Fills a buffer.
    pub(crate) fn fill(&self, out: &mut [u8]) {
        self.0.lock().fill(out);
    }
}

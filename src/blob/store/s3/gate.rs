//! Whether the bucket is asked at all: not for a moment after nobody answered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long it is left alone.
const REST: Duration = Duration::from_secs(2);

/// Shut for a moment after a request that nobody answered.
pub(super) struct Gate {
    began: Instant,
    /// Milliseconds since it began; 0: open.
    shut_until: AtomicU64,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { began: Instant::now(), shut_until: AtomicU64::new(0) }
    }
}

impl Gate {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn is_open(&self) -> bool {
        self.now() >= self.shut_until.load(Ordering::Relaxed)
    }

    /// A request has ended; `is_outage`: nobody answered.
    pub(super) fn note(&self, is_outage: bool) {
        let until = if is_outage { self.now() + REST.as_millis() as u64 } else { 0 };
        let before = self.shut_until.swap(until, Ordering::Relaxed);
        if is_outage && before == 0 {
            tracing::warn!("the bucket does not answer; what is in a cache is served, pushes are refused");
        } else if !is_outage && before != 0 {
            tracing::info!("the bucket answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // An outage shuts it for the rest, one answer opens it.
    #[test]
    fn shuts_and_opens() {
        let gate = Gate::default();
        assert!(gate.is_open());
        gate.note(true);
        assert!(!gate.is_open());
        gate.note(false);
        assert!(gate.is_open());
    }
}

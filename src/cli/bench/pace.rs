//! How much and how long: which operation is next, and when it is due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Hands out operations until there are enough or the time is over.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    ends: Instant,
    count: u64,
    rate: Option<u32>,
    next: AtomicU64,
}

impl Pace {
    /// From now on.
    pub(super) fn new(count: u64, duration: Duration, rate: Option<u32>) -> Pace {
        let began = Instant::now();
        Pace { began, ends: began + duration, count, rate, next: AtomicU64::new(0) }
    }

    /// When the run began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// The next operation, and when it is due: now, or when the rate allows it.
    fn take(&self, now: Instant) -> Option<(u64, Instant)> {
        if now >= self.ends {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        if index >= self.count {
            return None;
        }
        let Some(rate) = self.rate else { return Some((index, now)) };
        let due = self.began + Duration::from_secs_f64(index as f64 / f64::from(rate));
        (due < self.ends).then_some((index, due))
    }

    /// The next operation once it is due. Latency counts from there, so that a server that stands still is charged for
    /// all it kept waiting.
    pub(super) async fn next(&self) -> Option<(u64, Instant)> {
        let (index, due) = self.take(Instant::now())?;
        if self.rate.is_some() {
            tokio::time::sleep_until(due).await;
        }
        Some((index, due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A run ends by count and by time, whichever comes first.
    #[test]
    fn bounds() {
        let now = Instant::now();
        let by_count = Pace::new(2, Duration::from_secs(60), None);
        let taken: Vec<u64> = (0..5).filter_map(|_| by_count.take(now)).map(|(index, _)| index).collect();
        assert_eq!(taken, [0, 1]);
        let by_time = Pace::new(u64::MAX, Duration::from_secs(60), None);
        assert!(by_time.take(now + Duration::from_secs(59)).is_some());
        assert!(by_time.take(by_time.ends).is_none());
    }

    // Operations are due at even distances; one that comes late is charged from when it was due.
    #[test]
    fn rate() {
        let pace = Pace::new(10, Duration::from_secs(60), Some(10));
        let due = |now: Instant| pace.take(now).map(|(_, due)| due - pace.began());
        for step in 0..3 {
            assert_eq!(due(pace.began()), Some(Duration::from_millis(100 * step)));
        }
        assert_eq!(due(pace.began() + Duration::from_secs(5)), Some(Duration::from_millis(300)));
        let short = Pace::new(10, Duration::from_millis(150), Some(10));
        assert!(short.take(short.began()).is_some() && short.take(short.began()).is_some());
        assert!(short.take(short.began()).is_none(), "an operation due after the end never begins");
    }
}

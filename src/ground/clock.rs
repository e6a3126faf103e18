//! The three clocks, and why there are three.
//!
//! *Wall* time is for people and for `at` stamps; it jumps. *Monotonic* time measures waits; it stands still while a
//! machine is suspended. *Boot* time goes on during suspension, so it is what "how old is my knowledge" is measured by.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry_core::decide::clock_skew::Reading;
use rustix::time::{ClockId, clock_gettime};

/// Where time comes from; a test hands in a [`ManualClock`].
pub trait Clock: Debug + Send + Sync + 'static {
    /// Milliseconds since 1970-01-01 UTC; may jump both ways.
    fn wall_ms(&self) -> u64;
    /// Milliseconds since some fixed moment; never goes back, stands still while the machine is suspended.
    fn monotonic_ms(&self) -> u64;
    /// Milliseconds since boot, suspension included (`CLOCK_BOOTTIME`); never goes back.
    fn boot_ms(&self) -> u64;
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        // A clock set before 1970 reads as 1970: stamps of the log are raised to the last one anyway.
        whole_ms(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
    }

    fn monotonic_ms(&self) -> u64 {
        kernel_ms(ClockId::Monotonic)
    }

    fn boot_ms(&self) -> u64 {
        kernel_ms(ClockId::Boottime)
    }
}

fn kernel_ms(clock: ClockId) -> u64 {
    let at = clock_gettime(clock);
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(at.tv_nsec / 1_000_000).unwrap_or(0)
}

/// What a wall clock shows less the time since boot, milliseconds: stays the same while the clock is right, whenever it
/// is asked. Time that passes between the questions makes it wrong by half of that at most.
pub fn epoch_ms(clock: &dyn Clock) -> i64 {
    let before_ms = clock.boot_ms();
    let wall_ms = clock.wall_ms();
    Reading::of_answer(wall_ms, before_ms, clock.boot_ms()).epoch_ms
}

/// A duration in whole milliseconds, at most what fits.
pub fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A clock that a test moves by hand; all three start at the same value and move together.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `now_ms`.
    pub fn at(now_ms: u64) -> ManualClock {
        ManualClock(AtomicU64::new(now_ms))
    }

    /// Moves on by `by_ms`.
    pub fn advance(&self, by_ms: u64) {
        self.0.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.wall_ms()
    }

    fn boot_ms(&self) -> u64 {
        self.wall_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The machine's clocks read in milliseconds, and the two that must not go back do not.
    #[test]
    fn system_clock() {
        let clock = SystemClock;
        assert!(clock.wall_ms() > 1_700_000_000_000, "milliseconds, after 2023");
        let (monotonic, boot) = (clock.monotonic_ms(), clock.boot_ms());
        std::thread::sleep(Duration::from_millis(5));
        let waited = clock.monotonic_ms() - monotonic;
        assert!((4..10_000).contains(&waited), "{waited}");
        assert!(clock.boot_ms() > boot);
    }

    // A manual clock stands until it is moved.
    #[test]
    fn manual_clock() {
        let clock = ManualClock::at(7);
        assert_eq!((clock.wall_ms(), clock.boot_ms()), (7, 7));
        clock.advance(3);
        assert_eq!(clock.monotonic_ms(), 10);
    }
}

//! The pace of reading whole copies: what a scrub hashes, and what somebody asks for.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Longest sleep between two reads, so that it is seen when nobody waits any more.
const SLEEP_MAX: Duration = Duration::from_millis(200);

/// Sleeps until so many bytes, read since `began`, have had their time; breaks off when it is to stop.
pub fn paced(bytes: u64, began: Instant, bytes_per_s: u64, stops: impl Fn() -> bool) -> ControlFlow<()> {
    let due = Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64);
    loop {
        if stops() {
            return ControlFlow::Break(());
        }
        match due.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
            Some(left) => std::thread::sleep(left.min(SLEEP_MAX)),
            None => return ControlFlow::Continue(()),
        }
    }
}

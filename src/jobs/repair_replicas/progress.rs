//! What this node's repair has made, how fast, and what failed: for operators, and for the next attempt.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use registry_core::metadata::absence::Patience;
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::limits::REPAIR_FAILURES_MAX;
use tokio::time::Instant;

/// Pause after the first failure of a copy; it doubles with each further one.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Longest pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(120);
/// Over which time the rate is told.
const WINDOW: Duration = Duration::from_secs(30);

/// Shared by the job and those who ask. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Repairs(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    made: u64,
    made_bytes: u64,
    /// Copies made lately.
    lately: VecDeque<(Instant, u64)>,
    failures: BTreeMap<Digest, Failed>,
    moved: u64,
    moved_bytes: u64,
    to_move_bytes: u64,
}

#[derive(Clone, Debug)]
struct Failed {
    times: u32,
    reason: String,
    again: Instant,
}

/// A copy that could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of which blob.
    pub digest: Digest,
    /// How often in a row.
    pub times: u32,
    /// Why, the last time.
    pub reason: String,
    /// When it is tried again, from now on.
    pub again_in: Duration,
}

/// How repair is set up, as operators are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairSettings {
    /// What this node's repair may take, MiB a second.
    pub mib_per_s: u32,
    /// When a node that is not heard is replaced.
    pub patience: Patience,
}

/// What repair on this node has come to since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Copies made.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes a second, lately.
    pub rate_bytes_per_s: u64,
    /// What failed last, soonest attempt first.
    pub failures: Vec<Failure>,
    /// Copies that moved here because this node held less than its share.
    pub moved: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Bytes that are still to move here.
    pub to_move_bytes: u64,
}

impl Repairs {
    pub(super) fn made(&self, digest: &Digest, size_bytes: u64, now: Instant) {
        let mut state = self.0.lock();
        state.made += 1;
        state.made_bytes += size_bytes;
        state.lately.push_back((now, size_bytes));
        state.forget_old(now);
        state.failures.remove(digest);
        metrics::counter!("portolan_repair_copies_made_total").increment(1);
        metrics::counter!("portolan_repair_bytes_made_total").increment(size_bytes);
    }

    /// A copy moved here.
    pub(in crate::jobs) fn moved(&self, size_bytes: u64) {
        let mut state = self.0.lock();
        state.moved += 1;
        state.moved_bytes += size_bytes;
        metrics::counter!("portolan_rebalance_copies_moved_total").increment(1);
        metrics::counter!("portolan_rebalance_bytes_moved_total").increment(size_bytes);
    }

    /// How much is to move here; 0 when this node has its share.
    pub(in crate::jobs) fn to_move(&self, left_bytes: u64) {
        self.0.lock().to_move_bytes = left_bytes;
        metrics::gauge!("portolan_rebalance_left_bytes").set(left_bytes as f64);
    }

    pub(super) fn failed(&self, digest: Digest, reason: String, now: Instant) {
        let mut state = self.0.lock();
        if state.failures.len() >= REPAIR_FAILURES_MAX && !state.failures.contains_key(&digest) {
            state.failures.retain(|_, failed| failed.again > now);
            // with more than that at once, those that are not remembered are tried again at once
            if state.failures.len() >= REPAIR_FAILURES_MAX {
                return;
            }
        }
        let times = state.failures.get(&digest).map_or(1, |failed| failed.times.saturating_add(1));
        let pause = (BACK_OFF * 2u32.pow((times - 1).min(16))).min(BACK_OFF_MAX);
        state.failures.insert(digest, Failed { times, reason, again: now + pause });
    }

    /// Whether a copy that failed rests.
    pub(super) fn rests(&self, digest: &Digest, now: Instant) -> bool {
        self.0.lock().failures.get(digest).is_some_and(|failed| failed.again > now)
    }

    /// When the first of those that rest is due, from now on.
    pub(super) fn next_due(&self, now: Instant) -> Option<Duration> {
        let state = self.0.lock();
        let due = state.failures.values().filter(|failed| failed.again > now).map(|failed| failed.again);
        due.min().map(|again| again.duration_since(now))
    }

    /// What it has come to.
    pub fn told(&self) -> Made {
        let now = Instant::now();
        let mut state = self.0.lock();
        state.forget_old(now);
        let bytes: u64 = state.lately.iter().map(|(_, bytes)| bytes).sum();
        let span = state.lately.front().map_or(WINDOW, |(at, _)| now.duration_since(*at)).max(Duration::from_secs(1));
        let failure = |(digest, failed): (&Digest, &Failed)| Failure {
            digest: *digest,
            times: failed.times,
            reason: failed.reason.clone(),
            again_in: failed.again.saturating_duration_since(now),
        };
        let mut failures: Vec<Failure> = state.failures.iter().map(failure).collect();
        failures.sort_by_key(|failure| failure.again_in);
        let rate_bytes_per_s = (bytes as f64 / span.as_secs_f64()) as u64;
        let State { moved, moved_bytes, to_move_bytes, .. } = *state;
        let (copies, bytes) = (state.made, state.made_bytes);
        Made { copies, bytes, rate_bytes_per_s, failures, moved, moved_bytes, to_move_bytes }
    }
}

impl State {
    fn forget_old(&mut self, now: Instant) {
        while self.lately.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.lately.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What fails rests twice as long each time, and is forgotten once it was made.
    #[test]
    fn backs_off() {
        let (repairs, digest, now) = (Repairs::default(), Digest::sha256(b"x"), Instant::now());
        assert_eq!((repairs.rests(&digest, now), repairs.next_due(now)), (false, None));
        for seconds in [1, 2, 4, 8] {
            repairs.failed(digest, "no copy".to_owned(), now);
            assert_eq!(repairs.next_due(now), Some(Duration::from_secs(seconds)));
            assert!(repairs.rests(&digest, now + Duration::from_millis(seconds * 1000 - 1)));
            assert!(!repairs.rests(&digest, now + Duration::from_secs(seconds)));
        }
        let told = repairs.told();
        assert_eq!((told.failures.len(), told.failures[0].times, &told.failures[0].reason[..]), (1, 4, "no copy"));
        (0..40).for_each(|_| repairs.failed(digest, String::new(), now));
        assert_eq!(repairs.next_due(now), Some(BACK_OFF_MAX));
        repairs.made(&digest, 7, now);
        let told = repairs.told();
        assert_eq!((told.copies, told.bytes, told.failures), (1, 7, vec![]));
    }
}

//! A fault put in on purpose: a leader that loses patience with a follower and counts as acknowledged what it has sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long it waits for an answer: on a good link far longer than one takes.
pub(super) const PATIENCE: Duration = Duration::from_millis(30);

static HASTY: AtomicBool = AtomicBool::new(false);

/// From now on no leader of this process waits longer for a follower.
pub fn acknowledge_at_send() {
    HASTY.store(true, Ordering::Release);
}

pub(super) fn is_on() -> bool {
    HASTY.load(Ordering::Acquire)
}

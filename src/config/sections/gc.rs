//! `[gc]`

use std::time::Duration;

use registry_core::vocabulary::limits;

use super::{ms, s};
use crate::config::section::section;

section! {
    /// Garbage collection: it runs all the time and never stops pushes.
    GcSection "gc"

    /// How long a blob that nothing names any more is kept. Longer than the longest pause inside a push. All nodes of a
    /// cluster should have the same; the leader's counts.
    grace: Duration = ms(limits::GRACE_MS_DEFAULT) => s(1)..=s(90 * 24 * 3600);
}

//! Deletes what has lain in this node's quarantine for a week: whoever wanted a look at it has had one.

use std::sync::Arc;
use std::time::Duration;

use registry_core::vocabulary::limits::QUARANTINE_MS;

use super::driver::{Reconciler, Step, StepFuture};
use super::volume::blocking;
use crate::blob::store::BlobStore;
use crate::ground::Clock;

/// Files deleted in one step.
const FILES_PER_STEP: usize = 256;

/// Every node's job: empties the quarantine.
pub struct PurgeQuarantine {
    store: Arc<dyn BlobStore>,
    /// The clock by which the store notes when it set something aside.
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for PurgeQuarantine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("PurgeQuarantine")
    }
}

impl PurgeQuarantine {
    /// For this volume, by the clock that its store has.
    pub fn new(store: Arc<dyn BlobStore>, clock: Arc<dyn Clock>) -> PurgeQuarantine {
        PurgeQuarantine { store, clock }
    }
}

impl Reconciler for PurgeQuarantine {
    fn name(&self) -> &'static str {
        "purge_quarantine"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let before_ms = self.clock.wall_ms().saturating_sub(QUARANTINE_MS);
            match blocking(&self.store, move |store| store.purge_quarantine(before_ms, FILES_PER_STEP)).await {
                Ok(0) => Step::IDLE,
                Ok(purged) => Step { done: purged as u64, failed: 0, more: purged == FILES_PER_STEP },
                Err(error) => {
                    tracing::warn!(%error, "the quarantine could not be emptied; it is tried again");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}

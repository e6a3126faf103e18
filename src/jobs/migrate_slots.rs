//! Brings the step to a higher feature level to its end: slot by slot, then the step itself.

use std::time::Duration;

use registry_core::metadata::keys;
use registry_core::metadata::upgrade;

use super::driver::{Reconciler, Step, StepFuture};
use crate::metadata::Metadata;

/// Slots migrated by one proposal: a migration is as large as its slot.
const SLOTS_PER_STEP: usize = 16;

/// Leader's job: migrates slots after the cluster has stepped up. Every node's: tells consensus what all can read.
#[derive(Debug)]
pub struct MigrateSlots {
    metadata: Metadata,
    principal: String,
}

impl MigrateSlots {
    /// For the node that calls itself `principal`.
    pub fn new(metadata: Metadata, principal: String) -> MigrateSlots {
        MigrateSlots { metadata, principal }
    }
}

impl Reconciler for MigrateSlots {
    fn name(&self) -> &'static str {
        "migrate_slots"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            // also where the level was raised by a snapshot
            let level = self.metadata.peek(|view| upgrade::level_of(view, keys::SYSTEM));
            self.metadata.group().record_suspects(level >= upgrade::LEVEL_2);
            if !self.metadata.leadership().is_leader {
                return Step::IDLE;
            }
            let commands = self.metadata.peek(|view| upgrade::due(view, SLOTS_PER_STEP));
            if commands.is_empty() {
                return Step::IDLE;
            }
            let done = commands.len() as u64;
            match self.metadata.propose(&self.principal, commands).await {
                Ok(_) => Step { done, failed: 0, more: true },
                Err(error) => {
                    tracing::warn!(%error, "slots could not be migrated; it is tried again");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}

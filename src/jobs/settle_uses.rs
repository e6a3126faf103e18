//! Drops uses of blobs that no link stands on any more, where the proposer of the change did not come to it itself, and
//! forgets them once nothing under way can name them.

use std::time::Duration;

use registry_core::metadata::command::Command;
use registry_core::metadata::keys::SLOTS;
use registry_core::metadata::link;

use super::driver::{Reconciler, Step, StepFuture};
use crate::metadata::Metadata;

/// Commands of one proposal.
const COMMANDS_PER_STEP: usize = 200;

/// Leader's job: settles loose uses.
#[derive(Debug)]
pub struct SettleUses {
    metadata: Metadata,
    principal: String,
}

impl SettleUses {
    /// For the node that calls itself `principal`.
    pub fn new(metadata: Metadata, principal: String) -> SettleUses {
        SettleUses { metadata, principal }
    }

    fn commands(&self) -> Vec<Command> {
        let applied_index = self.metadata.applied_index();
        self.metadata.peek(|view| {
            let mut commands = Vec::new();
            for slot in 0..SLOTS {
                let left = COMMANDS_PER_STEP - commands.len();
                commands.extend(link::settlement(view, slot, applied_index, left));
                if commands.len() == COMMANDS_PER_STEP {
                    break;
                }
            }
            commands
        })
    }
}

impl Reconciler for SettleUses {
    fn name(&self) -> &'static str {
        "settle_uses"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            if !self.metadata.leadership().is_leader {
                return Step::IDLE;
            }
            let commands = self.commands();
            if commands.is_empty() {
                return Step::IDLE;
            }
            let done = commands.len() as u64;
            match self.metadata.propose(&self.principal, commands).await {
                Ok(_) => Step { done, failed: 0, more: true },
                Err(error) => {
                    tracing::debug!(%error, "loose uses were not settled");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}

//! Drops what is remembered about uploads once they are over by age.

use std::time::Duration;

use registry_core::metadata::clock;
use registry_core::metadata::command::Command;
use registry_core::metadata::keys::SLOTS;
use registry_core::metadata::upload::{self, ForgetUploads as Forget};

use super::driver::{Reconciler, Step, StepFuture};
use crate::metadata::Metadata;

/// Slots cleared by one proposal.
const SLOTS_PER_STEP: usize = 64;

/// Leader's job: drops expired upload rows.
#[derive(Debug)]
pub struct ForgetUploads {
    metadata: Metadata,
    principal: String,
}

impl ForgetUploads {
    /// For the node that calls itself `principal`.
    pub fn new(metadata: Metadata, principal: String) -> ForgetUploads {
        ForgetUploads { metadata, principal }
    }
}

impl Reconciler for ForgetUploads {
    fn name(&self) -> &'static str {
        "forget_uploads"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            if !self.metadata.leadership().is_leader {
                return Step::IDLE;
            }
            let commands: Vec<Command> = self.metadata.peek(|view| {
                let clock = clock::read(view);
                let due = (0..SLOTS).filter(|slot| upload::forgettable(view, *slot, &clock));
                due.take(SLOTS_PER_STEP).map(|slot| Forget { slot }.into()).collect()
            });
            if commands.is_empty() {
                return Step::IDLE;
            }
            let done = commands.len() as u64;
            match self.metadata.propose(&self.principal, commands).await {
                Ok(_) => Step { done, failed: 0, more: true },
                Err(error) => {
                    tracing::debug!(%error, "expired uploads were not dropped");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}

//! Removes the rows of deleted repositories in bounded steps, and before what names them their uses of blobs.

use std::time::Duration;

use registry_core::metadata::blob::DropUse;
use registry_core::metadata::command::Command;
use registry_core::metadata::keys::SLOTS;
use registry_core::metadata::repository::{self, PurgeRepository, RepositoryKey};
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::ids::UseId;

use super::driver::{Reconciler, Step, StepFuture};
use crate::metadata::{Metadata, ProposeError};

/// Uses dropped by one proposal.
const HOLDS_PER_STEP: usize = 200;

/// Leader's job: purges deleted repositories.
#[derive(Debug)]
pub struct PurgeRepositories {
    metadata: Metadata,
    principal: String,
}

impl PurgeRepositories {
    /// For the node that calls itself `principal`.
    pub fn new(metadata: Metadata, principal: String) -> PurgeRepositories {
        PurgeRepositories { metadata, principal }
    }

    async fn purge(&self, key: RepositoryKey) -> Result<(), ProposeError> {
        let dropped = self.metadata.peek(|view| repository::holds(view, &key, HOLDS_PER_STEP));
        let drop =
            |(digest, hold): &(Digest, UseId)| DropUse { digest: *digest, repository: key.clone(), hold: *hold }.into();
        let mut commands: Vec<Command> = dropped.iter().map(drop).collect();
        commands.push(PurgeRepository { key, dropped }.into());
        self.metadata.propose(&self.principal, commands).await.map(|_| ())
    }
}

impl Reconciler for PurgeRepositories {
    fn name(&self) -> &'static str {
        "purge_repositories"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            if !self.metadata.leadership().is_leader {
                return Step::IDLE;
            }
            let deleted = self
                .metadata
                .peek(|view| (0..SLOTS).find_map(|slot| repository::deleted(view, slot, 1).into_iter().next()));
            let Some(key) = deleted else { return Step::IDLE };
            match self.purge(key).await {
                Ok(()) => Step { done: 1, failed: 0, more: true },
                Err(error) => {
                    tracing::debug!(%error, "a deleted repository was not purged");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}

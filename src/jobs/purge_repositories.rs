//! Removes the rows of deleted repositories in bounded steps, and their uses of blobs after their links.

use std::time::Duration;

use registry_core::metadata::blob::DropUse;
use registry_core::metadata::command::Command;
use registry_core::metadata::keys::SLOTS;
use registry_core::metadata::reply::Reply;
use registry_core::metadata::repository::{self, PurgeRepository, RepositoryKey};

use super::driver::{Reconciler, Step, StepFuture};
use crate::metadata::{Metadata, ProposeError};

/// Links whose uses are dropped by one proposal.
const LINKS_PER_STEP: usize = 200;

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

    async fn purge(&self, key: RepositoryKey) -> Result<bool, ProposeError> {
        let links = self.metadata.peek(|view| repository::links(view, &key, LINKS_PER_STEP));
        let digests = links.iter().map(|(digest, _)| *digest).collect();
        let mut commands: Vec<Command> = vec![PurgeRepository { key: key.clone(), links: digests }.into()];
        let accepted = self.metadata.propose(&self.principal, commands.split_off(0)).await?;
        // the links are gone now if nothing else was left to purge; uses follow, and one that stays is only over-retention
        let held = self.metadata.peek(|view| repository::links(view, &key, LINKS_PER_STEP));
        let dropped = links.into_iter().filter(|link| !held.contains(link));
        let uses: Vec<Command> = dropped
            .map(|(digest, hold)| DropUse { digest, repository: key.clone(), hold }.into())
            .collect();
        if !uses.is_empty() {
            self.metadata.propose(&self.principal, uses).await?;
        }
        Ok(matches!(accepted.replies.first(), Some(Reply::Purged(rows)) if *rows > 0))
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
            let deleted = self.metadata.peek(|view| {
                (0..SLOTS).find_map(|slot| repository::deleted(view, slot, 1).into_iter().next())
            });
            let Some(key) = deleted else { return Step::IDLE };
            match self.purge(key).await {
                Ok(_) => Step { done: 1, failed: 0, more: true },
                Err(error) => {
                    tracing::debug!(%error, "a deleted repository was not purged");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}

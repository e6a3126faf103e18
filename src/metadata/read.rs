//! Consistent views: linearizable on any node, or fresh enough, or as old as the caller allows.

use registry_core::mutants::{self, Mutant};
use registry_core::vocabulary::ids::Revision;
use registry_core::vocabulary::limits::{RETRY_AFTER_MS, STALE_MAX_MS};
use registry_core::vocabulary::refusal::Refusal;
use tracing::Instrument as _;

use super::{Metadata, PATIENCE, View};
use crate::ground::traces::traced_within;

/// How old a view may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// It has everything that was acknowledged before the read began.
    Linearizable,
    /// It was confirmed by a leader within [`STALE_MAX_MS`]; else as [`Consistency::Linearizable`].
    Fresh,
    /// It has at least what the caller has seen, and is fresh.
    AtLeast(Revision),
}

/// No view of that consistency is to be had now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader with a quorum confirmed in time.
    #[error("the cluster has no leader with a quorum now")]
    Unavailable,
    /// The caller claims to have seen what is not committed.
    #[error("the revision lies in the future: it was made up, or belongs to another cluster")]
    FromTheFuture,
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Refusal {
        match error {
            ReadError::Unavailable => Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS },
            ReadError::FromTheFuture => {
                Refusal::ParameterInvalid { parameter: "revision".into(), detail: error.to_string() }
            }
        }
    }
}

impl Metadata {
    /// Waits until this node's state is consistent enough.
    pub async fn ready(&self, consistency: Consistency) -> Result<(), ReadError> {
        match consistency {
            Consistency::Linearizable => self.linearize().await,
            Consistency::Fresh if self.0.consensus.confirmed_age_ms() <= STALE_MAX_MS => Ok(()),
            Consistency::Fresh => self.linearize().await,
            Consistency::AtLeast(seen) => {
                let here = self.0.state.revision();
                if here.lineage != seen.lineage || here.index >= seen.index {
                    return Box::pin(self.ready(Consistency::Fresh)).await;
                }
                self.linearize().await?;
                if self.0.state.revision().index < seen.index { Err(ReadError::FromTheFuture) } else { Ok(()) }
            }
        }
    }

    async fn linearize(&self) -> Result<(), ReadError> {
        if mutants::is_on(Mutant::StaleReads) {
            return Ok(());
        }
        self.0
            .consensus
            .linearize(PATIENCE)
            .instrument(traced_within!("linearize"))
            .await
            .map(|_| ())
            .map_err(|_| ReadError::Unavailable)
    }

    /// Looks at a view that is consistent enough.
    pub async fn read<R>(&self, consistency: Consistency, read: impl FnOnce(&View<'_>) -> R) -> Result<R, ReadError> {
        self.ready(consistency).await?;
        Ok(self.peek(read))
    }
}

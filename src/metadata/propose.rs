//! Offering changes. A proposal without an answer is repeated under the same request id until its time is up, so that
//! it applies once or is reported as unknown.

use std::sync::atomic::Ordering;
use std::time::Duration;

use registry_core::metadata::command::{Command, Proposal};
use registry_core::metadata::reply::{Outcome, Reply};
use registry_core::vocabulary::ids::{RequestId, Revision};
use registry_core::vocabulary::limits::{PROPOSAL_BYTES_MAX, RETRY_AFTER_MS};
use registry_core::vocabulary::refusal::Refusal;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::{Metadata, PATIENCE};
use crate::ground::random;
use crate::ground::traces::traced_within;

/// How long an answer waits for this node to apply what the leader has applied.
const CATCH_UP: Duration = Duration::from_secs(2);

/// A change was committed and applied.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Where in the log.
    pub revision: Revision,
    /// One reply per command.
    pub replies: Vec<Reply>,
}

/// A change was not made, or nobody knows.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// The state says no. Commands before the refused one are in effect.
    #[error("{refusal}")]
    Refused {
        /// Why.
        refusal: Box<Refusal>,
        /// Replies of the commands before it.
        replies: Vec<Reply>,
    },
    /// Certainly not applied: no leader, no quorum, or the queue is full. Repeat later.
    #[error("the cluster has no leader with a quorum now, or too much to do")]
    Unavailable,
    /// It may have been applied, and may still be. Repeat: every act of the registry can be repeated.
    #[error("the cluster did not answer in time; the change may or may not have been made")]
    Unknown,
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Refusal {
        match error {
            ProposeError::Refused { refusal, .. } => *refusal,
            ProposeError::Unavailable | ProposeError::Unknown => {
                Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS }
            }
        }
    }
}

impl Metadata {
    /// Proposes an envelope of commands in the name of `principal` and waits until it is applied here or at the leader.
    pub async fn propose(&self, principal: &str, commands: Vec<Command>) -> Result<Accepted, ProposeError> {
        if !self.0.admits_growth.load(Ordering::Acquire) && commands.iter().any(Command::grows) {
            return Err(ProposeError::Refused { refusal: Box::new(Refusal::StorageFull), replies: Vec::new() });
        }
        let count = commands.len();
        let proposal = Proposal {
            request: RequestId(random::number128()),
            base: self.0.consensus.applied_index(),
            min_level: Proposal::level(&commands),
            principal: principal.to_owned(),
            commands,
        };
        let payload = bytes::Bytes::from(proposal.encode());
        if payload.len() > PROPOSAL_BYTES_MAX {
            let limit = "bytes in one change".to_owned();
            let refusal = Box::new(Refusal::LimitReached { limit, allowed: PROPOSAL_BYTES_MAX as u64 });
            return Err(ProposeError::Refused { refusal, replies: Vec::new() });
        }
        let span = traced_within!("propose", portolan.commands = count, portolan.bytes = payload.len());
        let (index, outcome) = self.offer(payload).instrument(span).await?;
        // what was just acknowledged must be seen by the next read here, also by one that takes a merely fresh state
        if self.0.consensus.wait_applied(index, CATCH_UP).await.is_err() {
            tracing::debug!(index, "this node lags behind a change it proposed");
        }
        match outcome.refusal {
            None => Ok(Accepted { revision: Revision { index, ..self.0.state.revision() }, replies: outcome.replies }),
            // an id too old to be told from a new one: nothing is known about an earlier copy
            Some(Refusal::ProposalExpired) => Err(ProposeError::Unknown),
            Some(refusal) => Err(ProposeError::Refused { refusal: Box::new(refusal), replies: outcome.replies }),
        }
    }

    async fn offer(&self, payload: bytes::Bytes) -> Result<(u64, Outcome), ProposeError> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(20);
        let mut unknown = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.0.consensus.propose(payload.clone(), left).await {
                Ok(proposed) => {
                    let outcome = Outcome::decode(&proposed.reply);
                    return Ok((proposed.index, outcome.expect("replies are made by the same binary level")));
                }
                Err(raft::ProposeError::Busy) if !unknown => return Err(ProposeError::Unavailable),
                Err(raft::ProposeError::Busy | raft::ProposeError::Unavailable) => {}
                Err(raft::ProposeError::Unknown) => unknown = true,
            }
            if Instant::now() + pause >= deadline {
                return Err(if unknown { ProposeError::Unknown } else { ProposeError::Unavailable });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }
}

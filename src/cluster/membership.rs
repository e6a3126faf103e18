//! Changes of membership that an operator asks for: join, remove, transfer.

use std::time::Duration;

use raft::{ChangeError, Member};
use registry_core::metadata::node::{NodeState, SetNodeState};
use registry_core::vocabulary::ids::NodeId;

use super::{Cluster, KnownElsewhere};
use crate::metadata::ProposeError;

/// How long a change may take before its outcome is called unknown.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why membership did not change.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The directory is new or old, and others know its node.
    #[error(transparent)]
    Known(#[from] KnownElsewhere),
    /// Consensus says no, or does not know.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The state says no, or does not know.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl MembershipError {
    /// Whether the same change may succeed later, or has already: look at the members and ask again.
    pub fn is_passing(&self) -> bool {
        match self {
            MembershipError::Change(ChangeError::Unavailable | ChangeError::Unknown)
            | MembershipError::Propose(ProposeError::Unavailable | ProposeError::Unknown) => true,
            MembershipError::Known(_)
            | MembershipError::Change(ChangeError::Rejected(_))
            | MembershipError::Propose(ProposeError::Refused { .. }) => false,
        }
    }
}

/// How soon after joining a leader speaks to the node.
const TOLD_WITHIN: Duration = Duration::from_millis(500);

impl Cluster {
    /// Has this node join the cluster of which some node listens at one of the `seeds` (consensus addresses).
    pub async fn join(&self, seeds: Vec<String>, me: Member) -> Result<(), MembershipError> {
        self.ensure_unknown()?;
        self.metadata.group().join(seeds, me, PATIENCE).await?;
        // The cluster takes a node it knows without a word; whoever fed it before says so when it speaks to it.
        tokio::time::sleep(TOLD_WITHIN).await;
        Ok(self.ensure_unknown()?)
    }

    /// Hands leadership to a voter and waits until it leads.
    pub async fn transfer(&self, to: NodeId) -> Result<(), MembershipError> {
        Ok(self.metadata.group().transfer_leader(to.0, PATIENCE).await?)
    }

    /// Removes a member for good: first from consensus, then from the topology. Its id is never used again.
    pub async fn remove(&self, node: NodeId, principal: &str) -> Result<(), MembershipError> {
        self.metadata.group().remove(node.0, PATIENCE).await?;
        let removed = SetNodeState { node, state: NodeState::Removed };
        self.metadata.propose(principal, vec![removed.into()]).await?;
        Ok(())
    }

    /// Gives a caught-up member a vote.
    pub async fn promote(&self, node: NodeId) -> Result<(), MembershipError> {
        let group = self.metadata.group();
        let voters = group.status().voters.into_iter().chain([node.0]);
        Ok(group.change_voters(voters, PATIENCE).await?)
    }
}

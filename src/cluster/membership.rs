//! Changes of membership that an operator asks for: join, drain, remove, transfer.

use std::time::Duration;

use raft::{ChangeError, Member};
use registry_core::metadata::census::{self, Losses};
use registry_core::metadata::node::{self, NodeState, SetNodeState};
use registry_core::vocabulary::ids::NodeId;
use registry_core::vocabulary::limits::LOSSES_TOLD_MAX;

use super::{Cluster, KnownElsewhere};
use crate::metadata::{Consistency, ProposeError};

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
    /// Blobs would be worse off, and nobody has said that this is meant.
    #[error("{}", told(.0))]
    Costs(Losses),
    /// What it would cost was not counted: the node is ending, or there is no quorum.
    #[error("what the removal would cost can't be counted now")]
    Uncounted,
}

/// What a removal may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Nothing: the copies of other nodes are all that is wanted.
    Nothing,
    /// Copies, which are made again; no blob.
    FewerCopies,
    /// Whatever stands nowhere else.
    Losses,
}

/// Says what a removal costs, and what to do instead.
fn told(losses: &Losses) -> String {
    let Losses { below, lost, lost_bytes, shown } = losses;
    let mut told = format!("{below} blobs would have fewer copies than they should, until they are made again. ");
    if *lost > 0 {
        let names: Vec<String> = shown.iter().map(ToString::to_string).collect();
        let and_more = if *lost > shown.len() as u64 { ", and more" } else { "" };
        told += &format!("{lost} of them ({lost_bytes} bytes) are nowhere else and would be gone: ");
        told += &format!("{}{and_more}. `portolan why <digest>` tells whose they are. ", names.join(", "));
    }
    told + "Drain the node first (`portolan cluster drain`), or say --force"
}

impl MembershipError {
    /// Whether the same change may succeed later, or has already: look at the members and ask again.
    pub fn is_passing(&self) -> bool {
        match self {
            MembershipError::Uncounted
            | MembershipError::Change(ChangeError::Unavailable | ChangeError::Unknown)
            | MembershipError::Propose(ProposeError::Unavailable | ProposeError::Unknown) => true,
            MembershipError::Known(_)
            | MembershipError::Costs(_)
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

    /// Gives no new copies to a node and has its copies made elsewhere, then dropped there; or takes it back.
    pub async fn drain(&self, node: NodeId, is_over: bool, principal: &str) -> Result<(), MembershipError> {
        let state = if is_over { NodeState::Active } else { NodeState::Draining };
        self.metadata.propose(principal, vec![SetNodeState { node, state }.into()]).await?;
        Ok(())
    }

    /// What the removal of a node would cost, by a state that has everything acknowledged so far.
    async fn losses(&self, node: NodeId) -> Result<Losses, MembershipError> {
        let ready = self.metadata.ready(Consistency::Linearizable).await;
        ready.map_err(|_| MembershipError::Uncounted)?;
        let metadata = self.metadata.clone();
        let count = move || metadata.peek(|view| census::losses(view, node, LOSSES_TOLD_MAX));
        tokio::task::spawn_blocking(count).await.map_err(|_| MembershipError::Uncounted)
    }

    /// Removes a member for good: first from consensus, then from the topology. Its id is never used again. Refused
    /// while blobs would be worse off without it than is `accepted`.
    pub async fn remove(&self, node: NodeId, accepted: Accepted, principal: &str) -> Result<(), MembershipError> {
        let is_known = self.metadata.peek(|view| node::read(view, node).is_some());
        if is_known && accepted != Accepted::Losses {
            let losses = self.losses(node).await?;
            if losses.lost > 0 || losses.below > 0 && accepted == Accepted::Nothing {
                return Err(MembershipError::Costs(losses));
            }
        }
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

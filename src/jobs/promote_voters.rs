//! Gives caught-up members a vote until three, or five of five or more nodes, have one, spread over zones; and has a
//! leader that is being emptied hand leadership on.

use std::time::Duration;

use registry_core::decide::voters::{Standing, next_voter};
use registry_core::metadata::node::{self, NodeState};
use registry_core::vocabulary::ids::NodeId;

use super::driver::{Reconciler, Step, StepFuture};
use crate::cluster::Cluster;
use crate::metadata::Metadata;

/// Entries a member may lag behind when it is made a voter.
const LAG_ENTRIES: u64 = 500;

/// Leader's job: promotes learners.
#[derive(Debug)]
pub struct PromoteVoters {
    metadata: Metadata,
    cluster: Cluster,
}

impl PromoteVoters {
    /// For this node.
    pub fn new(metadata: Metadata, cluster: Cluster) -> PromoteVoters {
        PromoteVoters { metadata, cluster }
    }

    /// Who is to lead instead of this node, if it is being emptied.
    fn heir(&self, standings: &[Standing]) -> Option<NodeId> {
        let own = self.cluster.node();
        let row = self.metadata.peek(|view| node::read(view, own))?;
        let may_lead = |standing: &&Standing| standing.node != own && standing.votes && standing.is_fit;
        let heir = standings.iter().find(may_lead).map(|standing| standing.node);
        heir.filter(|_| row.state == NodeState::Draining)
    }

    async fn hand_on(&self, heir: NodeId) -> Step {
        match self.cluster.transfer(heir).await {
            Ok(()) => {
                tracing::info!(%heir, "this node is being emptied: another one leads");
                Step { done: 1, failed: 0, more: false }
            }
            Err(error) => {
                tracing::warn!(%heir, %error, "leadership was not handed on; it is tried again");
                Step { done: 0, failed: 1, more: false }
            }
        }
    }
}

impl Reconciler for PromoteVoters {
    fn name(&self) -> &'static str {
        "promote_voters"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            if !self.metadata.leadership().is_leader {
                return Step::IDLE;
            }
            let standings = self.cluster.standings(LAG_ENTRIES);
            if let Some(heir) = self.heir(&standings) {
                return self.hand_on(heir).await;
            }
            let Some(node) = next_voter(&standings) else { return Step::IDLE };
            match self.cluster.promote(node).await {
                Ok(()) => {
                    tracing::info!(%node, "a member votes from now on");
                    Step { done: 1, failed: 0, more: true }
                }
                Err(error) => {
                    tracing::warn!(%node, %error, "a member was not given a vote; it is tried again");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}

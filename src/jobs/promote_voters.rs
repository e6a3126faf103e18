//! Gives caught-up members a vote until three, or five of five or more nodes, have one, spread over zones.

use std::time::Duration;

use registry_core::decide::voters::next_voter;

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
            let Some(node) = next_voter(&self.cluster.standings(LAG_ENTRIES)) else { return Step::IDLE };
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

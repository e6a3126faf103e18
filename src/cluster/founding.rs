//! Founding a cluster: the first voter, the cluster's own row, the first principal.

use std::time::Duration;

use raft::Member;
use registry_core::metadata::cluster::{self, InitCluster};
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::ids::{ClusterId, Lineage};
use registry_core::vocabulary::limits::TICKS_PER_GRACE;

use super::{Cluster, KnownElsewhere};
use crate::ground::random;
use crate::metadata::ProposeError;

/// How long founding waits for the first leader: itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a new cluster is.
#[derive(Clone, Debug)]
pub struct Founding {
    /// Its id.
    pub cluster: ClusterId,
    /// The first life of its log.
    pub lineage: Lineage,
    /// Name of the region.
    pub region: String,
    /// Number of the region, unique among linked regions.
    pub region_number: u16,
    /// How long what nobody names is kept, milliseconds.
    pub grace_ms: u64,
    /// The first voter: this node.
    pub member: Member,
    /// How long this node must have been reachable before it may found: a cluster that knows its id calls meanwhile.
    pub settle: Duration,
}

/// What founding came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Founded {
    /// The cluster was made now.
    Now,
    /// An earlier founding by this node had not come to its end; it has now.
    Completed,
}

/// Why a cluster was not founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// There is one.
    #[error("this node already belongs to a cluster; `portolan cluster status` shows it")]
    Exists,
    /// The directory is new or old, and others know its node.
    #[error("{0}")]
    Known(#[from] KnownElsewhere),
    /// Consensus did not begin.
    #[error("the first voter did not come up: {0}")]
    Consensus(String),
    /// The first change was not made.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl Cluster {
    /// Makes this node the first voter of a new cluster. A second founding is refused.
    pub async fn found(&self, founding: Founding) -> Result<Founded, FoundingError> {
        if self.metadata.peek(|view| cluster::read(view)).is_some() {
            return Err(FoundingError::Exists);
        }
        tokio::time::sleep_until(self.reachable_since + founding.settle).await;
        self.ensure_unknown()?;
        let group = self.metadata.group();
        let mut founded = Founded::Completed;
        if group.status().voters.is_empty() {
            let begun = group.initialize(founding.member.clone()).await;
            begun.map_err(|error| FoundingError::Consensus(error.to_string()))?;
            founded = Founded::Now;
        }
        let led = tokio::time::timeout(PATIENCE, async {
            while !self.metadata.leadership().is_leader {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        led.await.map_err(|_| FoundingError::Consensus("no leader within 20 s".into()))?;
        let init = InitCluster {
            cluster: founding.cluster,
            lineage: founding.lineage,
            region: founding.region,
            region_number: founding.region_number,
            token_secret: random::bytes(),
            tick_ms: (founding.grace_ms / TICKS_PER_GRACE).max(100),
            feature_level: cluster::FEATURE_LEVEL,
        };
        match self.metadata.propose(&Cluster::principal(self.node), vec![init.into()]).await {
            Ok(_) => Ok(founded),
            Err(ProposeError::Refused { refusal, .. }) if *refusal == Refusal::ClusterInitialised => {
                Err(FoundingError::Exists)
            }
            Err(error) => Err(error.into()),
        }
    }
}

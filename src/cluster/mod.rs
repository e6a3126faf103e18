//! This node among the others: its identity, its registration, the topology it and the blob plane live by.
//!
//! Never serves a request and never moves a byte. Start at [`identity`] for who this node is, at [`Cluster`] for what
//! an operator may ask and do.

pub mod backup;
mod clocks;
mod dry_run;
mod export;
pub mod feed;
pub mod founding;
mod healing;
pub mod identity;
mod membership;
mod regions;
pub mod registration;
mod status;
mod upgrade;

pub use clocks::{Clocks, Look};
pub use dry_run::RulesTried;
pub use export::{Direction, ExportPage, ExportPlace};
pub use founding::{Founded, Founding, FoundingError};
pub use healing::{Healing, Patient};
pub use identity::{Identity, IdentityError};
pub use membership::{Accepted, MembershipError};
pub use regions::{KnownRegion, RegionCard, RegionDoor};
pub use status::{ClusterStatus, NodeStatus, StoreStatus};

use std::path::PathBuf;
use std::sync::Arc;

use registry_core::vocabulary::ids::NodeId;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::metadata::Metadata;

/// What an operator may ask of the cluster and do to it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cluster {
    metadata: Metadata,
    node: NodeId,
    clocks: Clocks,
    reachable_since: Instant,
    backups: Arc<backup::Backups>,
    healing: Arc<healing::Counted>,
    region_door: Option<RegionDoor>,
    /// Counts of what rules would copy.
    dry_runs: Arc<Semaphore>,
}

/// A node id is known to a cluster that has told it more than its data directory holds: it was emptied, or is an old
/// copy. Taking part with it could vote twice in a term, or found a second cluster under the name of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a cluster knows node {0} and has told it more than this data directory holds, which was emptied or is an old copy. \
     Restore it; or remove the node (`portolan cluster remove {0}` at another one), make a new id with \
     `portolan certs node` under another name, and join with an empty directory"
)]
pub struct KnownElsewhere(pub NodeId);

impl Cluster {
    /// As seen from this node. Backups are made below `backups_dir`, on the file system of the state.
    pub fn new(metadata: Metadata, node: NodeId, clocks: Clocks, backups_dir: PathBuf) -> Cluster {
        let backups = Arc::new(backup::Backups::new(backups_dir));
        let (reachable_since, healing, dry_runs) = (Instant::now(), Arc::default(), Arc::new(Semaphore::new(1)));
        Cluster { metadata, node, clocks, reachable_since, backups, healing, region_door: None, dry_runs }
    }

    /// This node answers other regions.
    #[must_use]
    pub fn with_region_door(self, door: RegionDoor) -> Cluster {
        Cluster { region_door: Some(door), ..self }
    }

    /// Refuses when others know this node as somebody further on.
    fn ensure_unknown(&self) -> Result<(), KnownElsewhere> {
        let status = self.metadata.group().status();
        if status.emptied || status.suspicion.is_some() { Err(KnownElsewhere(self.node)) } else { Ok(()) }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The name under which this node acts in the log.
    pub fn principal(node: NodeId) -> String {
        format!("node/{node}")
    }
}

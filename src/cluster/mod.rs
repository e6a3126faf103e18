//! This node among the others: its identity, its registration, the topology it and the blob plane live by.
//!
//! Never serves a request and never moves a byte. Start at [`identity`] for who this node is, at [`Cluster`] for what
//! an operator may ask and do.

pub mod feed;
pub mod founding;
pub mod identity;
mod membership;
pub mod registration;
mod status;

pub use founding::{Founded, Founding, FoundingError};
pub use identity::{Identity, IdentityError};
pub use membership::MembershipError;
pub use status::{ClusterStatus, NodeStatus, StoreStatus};

use registry_core::vocabulary::ids::NodeId;

use crate::metadata::Metadata;

/// What an operator may ask of the cluster and do to it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cluster {
    metadata: Metadata,
    node: NodeId,
}

impl Cluster {
    /// As seen from this node.
    pub fn new(metadata: Metadata, node: NodeId) -> Cluster {
        Cluster { metadata, node }
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

//! Feeds the topology that is in the state to whoever lives by it.

use registry_core::metadata::node::{self, NodeState};
use registry_core::vocabulary::ids::NodeId;
use registry_core::vocabulary::names::ZoneName;

use crate::ground::Shutdown;
use crate::metadata::Metadata;
use registry_core::decide::placement::Topology;

/// A node as the state names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seated {
    /// The node.
    pub node: NodeId,
    /// Its failure domain.
    pub zone: ZoneName,
    /// Where other nodes reach its blobs.
    pub blob_address: String,
}

/// Reads the topology now.
pub fn read(metadata: &Metadata) -> (Vec<Seated>, Topology) {
    metadata.peek(|view| {
        let nodes = node::list(view).into_iter().filter(|(_, row)| row.state != NodeState::Removed);
        let seat =
            |(node, row): (NodeId, node::NodeRow)| Seated { node, zone: row.zone, blob_address: row.blob_address };
        (nodes.map(seat).collect(), node::topology(view))
    })
}

/// Hands the topology to `take` now and after every change, until shutdown.
pub async fn feed(metadata: Metadata, shutdown: Shutdown, take: impl Fn(Vec<Seated>, Topology) + Send) {
    let mut changed = metadata.watch().topology();
    loop {
        changed.mark_unchanged();
        let (nodes, topology) = read(&metadata);
        take(nodes, topology);
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            seen = changed.changed() => if seen.is_err() { return },
        }
    }
}

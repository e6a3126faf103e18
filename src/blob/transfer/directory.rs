//! Who is where: the registered nodes, their blob addresses, zones and stores. Given from outside.

use std::collections::BTreeMap;
use std::sync::Arc;

use registry_core::decide::placement::{NodePlace, StorePlace, Topology, TopologyError};
use registry_core::vocabulary::ids::{NodeId, StoreId};
use registry_core::vocabulary::names::ZoneName;

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeat {
    /// The node.
    pub id: NodeId,
    /// Its failure domain.
    pub zone: ZoneName,
    /// Where its blob service listens, `host:port`.
    pub blob_address: Arc<str>,
}

/// Why rows are not a directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct DirectoryError(#[from] TopologyError);

/// The nodes and stores of the region. Immutable; a change is a new one.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    nodes: BTreeMap<NodeId, NodeSeat>,
    topology: Topology,
}

impl Directory {
    /// Joins rows, in any order, removed nodes left out. `StorePlace::state` is the registered one; how full a store is
    /// this room learns by itself.
    pub fn new(
        nodes: impl IntoIterator<Item = NodeSeat>,
        stores: impl IntoIterator<Item = StorePlace>,
    ) -> Result<Directory, DirectoryError> {
        let nodes: Vec<NodeSeat> = nodes.into_iter().collect();
        let places = nodes.iter().map(|seat| NodePlace { id: seat.id, zone: seat.zone.clone() });
        let topology = Topology::new(places, stores)?;
        Ok(Directory { nodes: nodes.into_iter().map(|seat| (seat.id, seat)).collect(), topology })
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&NodeSeat> {
        self.nodes.get(&id)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeSeat> {
        self.nodes.values()
    }

    /// The nodes as the placement sees them.
    pub(super) fn places(&self) -> impl Iterator<Item = NodePlace> {
        self.nodes.values().map(|seat| NodePlace { id: seat.id, zone: seat.zone.clone() })
    }

    /// The node a store is attached to.
    pub fn node_of(&self, store: StoreId) -> Option<&NodeSeat> {
        self.node(self.topology.store(store)?.node)
    }

    /// What is configured, as the placement sees it.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }
}

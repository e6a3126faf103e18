//! What is configured: region ⊃ zone ⊃ node ⊃ store. Registered rows, never reachability.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use crate::vocabulary::ids::{NodeId, StoreId};
use crate::vocabulary::names::ZoneName;
use crate::vocabulary::stored::stored_enum;

stored_enum! {
    /// What a store may be used for. All of them serve reads of what they hold.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum StoreState {
        /// Takes new copies.
        Up = 1,
        /// Its copies are to move elsewhere; takes no new ones.
        Draining = 2,
        /// Above its watermark: keeps what it has, takes no new copies.
        Full = 3,
        /// Its node has been away for so long that its copies are made elsewhere. They count again when it returns.
        Away = 4,
        /// Away for so long that its zone, if nothing of it is left, is not waited for with a single copy.
        Stranded = 5,
    }
}

impl StoreState {
    /// Whether its node is taken for lost, so that its copies do not count.
    pub fn is_absent(self) -> bool {
        matches!(self, StoreState::Away | StoreState::Stranded)
    }
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlace {
    /// The node.
    pub id: NodeId,
    /// The failure domain it stands in.
    pub zone: ZoneName,
}

/// A registered store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorePlace {
    /// The store.
    pub id: StoreId,
    /// The node it is attached to.
    pub node: NodeId,
    /// Its share of new copies against the other stores; a natural choice is its capacity in GiB.
    pub weight: NonZeroU32,
    /// What it may be used for.
    pub state: StoreState,
}

/// Why rows are not a topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Two rows of one node.
    #[error("node {0} is listed twice")]
    NodeTwice(NodeId),
    /// Two rows of one store.
    #[error("store {0} is listed twice")]
    StoreTwice(StoreId),
    /// A store on a node that is not listed.
    #[error("store {store} stands on node {node}, which is not listed")]
    NodeUnknown {
        /// The store.
        store: StoreId,
        /// Its node.
        node: NodeId,
    },
}

/// The nodes and stores of a region, as registered. A zone exists for placement once it has a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    nodes: BTreeMap<NodeId, ZoneName>,
    stores: BTreeMap<StoreId, StorePlace>,
}

impl Topology {
    /// Joins rows to a topology; the order of the rows does not matter.
    pub fn new(
        nodes: impl IntoIterator<Item = NodePlace>,
        stores: impl IntoIterator<Item = StorePlace>,
    ) -> Result<Topology, TopologyError> {
        let mut topology = Topology::default();
        for NodePlace { id, zone } in nodes {
            if topology.nodes.insert(id, zone).is_some() {
                return Err(TopologyError::NodeTwice(id));
            }
        }
        for store in stores {
            if !topology.nodes.contains_key(&store.node) {
                return Err(TopologyError::NodeUnknown { store: store.id, node: store.node });
            }
            if topology.stores.insert(store.id, store).is_some() {
                return Err(TopologyError::StoreTwice(store.id));
            }
        }
        Ok(topology)
    }

    /// The stores, by id.
    pub fn stores(&self) -> impl Iterator<Item = &StorePlace> {
        self.stores.values()
    }

    /// A store, if it is registered.
    pub fn store(&self, id: StoreId) -> Option<&StorePlace> {
        self.stores.get(&id)
    }

    /// The zone of a node.
    pub fn zone_of_node(&self, id: NodeId) -> Option<&ZoneName> {
        self.nodes.get(&id)
    }

    /// The zone of a store.
    pub fn zone_of(&self, id: StoreId) -> Option<&ZoneName> {
        self.zone_of_node(self.store(id)?.node)
    }

    /// The zones that have at least one store, whatever its state.
    pub fn zones(&self) -> BTreeSet<&ZoneName> {
        self.stores.values().filter_map(|store| self.zone_of_node(store.node)).collect()
    }

    /// Whether some zone has nothing but stranded stores.
    pub fn has_lost_zone(&self) -> bool {
        let standing = self.stores.values().filter(|store| store.state != StoreState::Stranded);
        let standing: BTreeSet<&ZoneName> = standing.filter_map(|store| self.zone_of_node(store.node)).collect();
        self.zones().len() > standing.len()
    }

    /// The nodes that have at least one store, whatever its state.
    pub fn storing_nodes(&self) -> BTreeSet<NodeId> {
        self.stores.values().map(|store| store.node).collect()
    }
}

/// A compact notation for tests: `a: 1=s10*4 s11(full), 2=s20; b: 3=s30` is zone a with nodes 1 and 2, and so on.
#[cfg(test)]
pub(super) fn draw(text: &str) -> Topology {
    let (mut nodes, mut stores) = (Vec::new(), Vec::new());
    for zone in text.split(';').filter(|zone| !zone.trim().is_empty()) {
        let (name, list) = zone.split_once(':').unwrap();
        for node in list.split(',').filter(|node| !node.trim().is_empty()) {
            let (id, list) = node.split_once('=').unwrap();
            let id = NodeId(id.trim().parse().unwrap());
            nodes.push(NodePlace { id, zone: ZoneName::parse(name.trim()).unwrap() });
            for store in list.split_whitespace() {
                let (store, state) = match store.split_once('(') {
                    Some((store, "full)")) => (store, StoreState::Full),
                    Some((store, "draining)")) => (store, StoreState::Draining),
                    Some((store, "away)")) => (store, StoreState::Away),
                    Some((store, "stranded)")) => (store, StoreState::Stranded),
                    Some(_) => panic!("{store}"),
                    None => (store, StoreState::Up),
                };
                let (store, weight) = store.split_once('*').unwrap_or((store, "1"));
                let weight = NonZeroU32::new(weight.parse().unwrap()).unwrap();
                let id_of_store = StoreId(store.strip_prefix('s').unwrap().parse().unwrap());
                stores.push(StorePlace { id: id_of_store, node: id, weight, state });
            }
        }
    }
    Topology::new(nodes, stores).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Contradicting rows are refused; zones and nodes count only with a store.
    #[test]
    fn rows() {
        let topology = draw("a: 1=s10*4 s11(full), 2=s20; b: 3=s30(draining); c: 4=");
        assert_eq!(topology.zones().into_iter().map(ZoneName::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(topology.storing_nodes().len(), 3);
        assert_eq!(topology.zone_of(StoreId(20)).map(ZoneName::as_str), Some("a"));
        assert_eq!(topology.store(StoreId(10)).unwrap().weight.get(), 4);
        let node = |id| NodePlace { id: NodeId(id), zone: ZoneName::parse("a").unwrap() };
        let store = |id, node| StorePlace {
            id: StoreId(id),
            node: NodeId(node),
            weight: NonZeroU32::MIN,
            state: StoreState::Up,
        };
        assert_eq!(Topology::new([node(1), node(1)], []), Err(TopologyError::NodeTwice(NodeId(1))));
        assert_eq!(Topology::new([node(1)], [store(5, 1), store(5, 1)]), Err(TopologyError::StoreTwice(StoreId(5))));
        let unknown = TopologyError::NodeUnknown { store: StoreId(5), node: NodeId(2) };
        assert_eq!(Topology::new([node(1)], [store(5, 2)]), Err(unknown));
    }
}

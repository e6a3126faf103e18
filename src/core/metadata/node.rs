//! Nodes and their blob volumes as the cluster knows them, and the summary that says what 201 needs.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use bincode::{Decode, Encode};

use super::absence::{self, Stage};
use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot, table};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use crate::decide::placement::{NodePlace, StorePlace, StoreState, Topology, write_rule};
use crate::vocabulary::ids::{NodeId, StoreId};
use crate::vocabulary::limits::{ADDRESS_BYTES_MAX, NODES_MAX, STORES_MAX};
use crate::vocabulary::names::ZoneName;
use crate::vocabulary::refusal::Refusal;

/// Whether a node takes new copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum NodeState {
    /// It takes part in everything.
    Active,
    /// It serves what it has and gets nothing new.
    Draining,
    /// It is gone for good; its id is never used again.
    Removed,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NodeRow {
    /// Its failure domain.
    pub zone: ZoneName,
    /// Where consensus reaches it, `host:port`.
    pub raft_address: String,
    /// Where other nodes reach its blobs, `host:port`.
    pub blob_address: String,
    /// Where clients reach it, a URL.
    pub public_url: String,
    /// Whether it takes new copies.
    pub state: NodeState,
    /// When it registered first, replicated milliseconds since 1970.
    pub registered_at_ms: u64,
    /// The binary's version, as it told last.
    pub version: String,
    /// Highest feature level its binary knows.
    pub feature_level: u16,
}

impl Stored for NodeRow {}

/// A blob volume.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StoreRow {
    /// The node that serves it now.
    pub node: NodeId,
    /// Share of new copies relative to the other volumes of the zone; 100 is usual.
    pub weight: u32,
}

impl Stored for StoreRow {}

/// The configured topology in one row, without removed nodes, so that a commit reads one row and not all of them.
/// Unreachable zones are in it: reachability never lowers what 201 means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct TopologyRow {
    pub(crate) nodes: Vec<(NodeId, ZoneName)>,
    pub(crate) stores: Vec<(StoreId, NodeId, u32, StoreState)>,
}

impl Stored for TopologyRow {}

/// The configured topology.
pub fn topology(tables: &impl TablesRead) -> Topology {
    let row: TopologyRow =
        tables.get(&keys::system(table::TOPOLOGY)).map_or(TopologyRow::default(), |bytes| codec::row(&bytes));
    let nodes = row.nodes.into_iter().map(|(id, zone)| NodePlace { id, zone });
    let stores = row.stores.into_iter().map(|(id, node, weight, state)| {
        let weight = NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN);
        StorePlace { id, node, weight, state }
    });
    Topology::new(nodes, stores).expect("the row was made from rows that agree")
}

/// Refuses unless copies on these volumes are what 201 needs.
pub fn require_durable(tables: &impl TablesRead, stores: &[StoreId]) -> Result<(), Refusal> {
    let topology = topology(tables);
    write_rule(&topology).check(&topology, stores)
}

/// Reads a node.
pub fn read(tables: &impl TablesRead, node: NodeId) -> Option<NodeRow> {
    tables.get(&keys::node(node)).map(|bytes| codec::row(&bytes))
}

/// Every node, also removed ones.
pub fn list(tables: &impl TablesRead) -> Vec<(NodeId, NodeRow)> {
    let rows = tables.prefix(&keys::system(table::NODE), NODES_MAX);
    let id = |key: &[u8]| NodeId(u64::from_be_bytes(key[3..].try_into().expect("a node key ends with its id")));
    rows.iter().map(|(key, value)| (id(key), codec::row(value))).collect()
}

/// Every blob volume.
pub fn stores(tables: &impl TablesRead) -> Vec<(StoreId, StoreRow)> {
    let rows = tables.prefix(&keys::system(table::STORE), STORES_MAX);
    let id = |key: &[u8]| StoreId(u64::from_be_bytes(key[3..].try_into().expect("a store key ends with its id")));
    rows.iter().map(|(key, value)| (id(key), codec::row(value))).collect()
}

pub(super) fn summarise(tables: &mut impl Tables) {
    let nodes: BTreeMap<NodeId, NodeRow> =
        list(tables).into_iter().filter(|(_, row)| row.state != NodeState::Removed).collect();
    let place = |(id, store): (StoreId, StoreRow)| {
        let state = state_of_stores(nodes.get(&store.node)?.state, absence::stage(tables, store.node));
        Some((id, store.node, store.weight.max(1), state))
    };
    let stores = stores(tables).into_iter().filter_map(place).collect();
    let nodes = nodes.into_iter().map(|(id, row)| (id, row.zone)).collect();
    tables.put(keys::system(table::TOPOLOGY), codec::encode(&TopologyRow { nodes, stores }));
}

/// What the volumes of a registered node may be used for.
fn state_of_stores(state: NodeState, absence: Option<Stage>) -> StoreState {
    match (state, absence) {
        (NodeState::Draining | NodeState::Removed, _) => StoreState::Draining,
        (NodeState::Active, Some(Stage::Stranded)) => StoreState::Stranded,
        (NodeState::Active, Some(Stage::Replaced)) => StoreState::Away,
        (NodeState::Active, Some(Stage::Missed) | None) => StoreState::Up,
    }
}

/// Every node but one is gone for good.
pub(crate) fn remove_all_but(tables: &mut impl Tables, keeps: Option<NodeId>) {
    for (id, row) in list(tables) {
        if Some(id) != keeps && row.state != NodeState::Removed {
            tables.put(keys::node(id), codec::encode(&NodeRow { state: NodeState::Removed, ..row }));
        }
        absence::forget(tables, id);
    }
    summarise(tables);
}

/// A node makes itself known, or tells new addresses. A removed id stays removed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RegisterNode {
    /// Its id.
    pub node: NodeId,
    /// Its failure domain; fixed once told.
    pub zone: ZoneName,
    /// Where consensus reaches it.
    pub raft_address: String,
    /// Where other nodes reach its blobs.
    pub blob_address: String,
    /// Where clients reach it.
    pub public_url: String,
    /// Its binary's version.
    pub version: String,
    /// Highest feature level its binary knows.
    pub feature_level: u16,
}

impl Apply for RegisterNode {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let texts = [&self.raft_address, &self.blob_address, &self.public_url, &self.version];
        if texts.iter().any(|text| text.len() > ADDRESS_BYTES_MAX) {
            let detail = format!("addresses have at most {ADDRESS_BYTES_MAX} bytes");
            return Err(Refusal::ParameterInvalid { parameter: "address".into(), detail });
        }
        if self.feature_level < context.level {
            return Err(Refusal::FeatureLevel { level: context.level.into() });
        }
        let before = read(tables, self.node);
        if let Some(row) = &before {
            if row.state == NodeState::Removed {
                return Err(Refusal::NodeExists { node: self.node });
            }
            if row.zone != self.zone {
                let detail =
                    format!("node {} is in zone '{}', which never changes; join as a new node", self.node, row.zone);
                return Err(Refusal::ParameterInvalid { parameter: "zone".into(), detail });
            }
        } else if list(tables).len() >= NODES_MAX {
            return Err(Refusal::LimitReached { limit: "nodes".into(), allowed: NODES_MAX as u64 });
        }
        let row = NodeRow {
            zone: self.zone,
            raft_address: self.raft_address,
            blob_address: self.blob_address,
            public_url: self.public_url,
            state: before.as_ref().map_or(NodeState::Active, |row| row.state),
            registered_at_ms: before.map_or(context.clock.now_ms, |row| row.registered_at_ms),
            version: self.version,
            feature_level: self.feature_level,
        };
        tables.put(keys::node(self.node), codec::encode(&row));
        summarise(tables);
        Ok(Reply::Done)
    }
}

/// A node takes a volume into service: a new one, or one of a node that was removed. While that node is not removed,
/// two nodes that serve one volume are a copied disk, and neither can be told from the other.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RegisterStore {
    /// The volume.
    pub store: StoreId,
    /// Who serves it.
    pub node: NodeId,
    /// Share of new copies.
    pub weight: u32,
}

impl Apply for RegisterStore {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if read(tables, self.node).is_none_or(|row| row.state == NodeState::Removed) {
            return Err(Refusal::NodeUnknown { node: self.node });
        }
        if self.weight == 0 {
            let detail = "a volume without weight would never get a copy; drain its node instead".to_owned();
            return Err(Refusal::ParameterInvalid { parameter: "weight".to_owned(), detail });
        }
        let before: Option<StoreRow> = tables.get(&keys::store(self.store)).map(|bytes| codec::row(&bytes));
        let serves = |node| read(tables, node).is_some_and(|row| row.state != NodeState::Removed);
        match before.map(|row| row.node) {
            Some(other) if other != self.node && serves(other) => {
                return Err(Refusal::StoreExists { store: self.store, node: other });
            }
            Some(_) => {}
            None if stores(tables).len() >= STORES_MAX => {
                return Err(Refusal::LimitReached { limit: "stores".to_owned(), allowed: STORES_MAX as u64 });
            }
            None => {}
        }
        let row = StoreRow { node: self.node, weight: self.weight };
        tables.put(keys::store(self.store), codec::encode(&row));
        summarise(tables);
        Ok(Reply::Done)
    }
}

/// An operator drains, reinstates or removes a node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetNodeState {
    /// Which node.
    pub node: NodeId,
    /// What it shall be.
    pub state: NodeState,
}

impl Apply for SetNodeState {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let Some(mut row) = read(tables, self.node) else { return Err(Refusal::NodeUnknown { node: self.node }) };
        if row.state == NodeState::Removed && self.state != NodeState::Removed {
            return Err(Refusal::NodeExists { node: self.node });
        }
        row.state = self.state;
        tables.put(keys::node(self.node), codec::encode(&row));
        if row.state == NodeState::Removed {
            absence::forget(tables, self.node);
        }
        summarise(tables);
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::cluster::FEATURE_LEVEL;
    use crate::metadata::testing::World;

    // A volume has one node at a time: another one gets it only after the first was removed.
    #[test]
    fn volumes_have_one_node() {
        let mut world = World::region(&["a", "b"]);
        let taken = |node| RegisterStore { store: StoreId(1), node: NodeId(node), weight: 100 };
        assert_eq!(world.refused(taken(2)), Refusal::StoreExists { store: StoreId(1), node: NodeId(1) });
        world.ok(taken(1));
        world.ok(SetNodeState { node: NodeId(1), state: NodeState::Removed });
        assert!(topology(&world.tables).store(StoreId(1)).is_none());
        assert_eq!(world.refused(taken(1)), Refusal::NodeUnknown { node: NodeId(1) });
        world.ok(taken(2));
        assert_eq!(topology(&world.tables).zone_of(StoreId(1)).unwrap().as_str(), "b");
        let weightless = RegisterStore { weight: 0, ..taken(2) };
        assert!(matches!(world.refused(weightless), Refusal::ParameterInvalid { .. }));
    }

    // A removed id never comes back, a zone never changes, and a start tells new addresses.
    #[test]
    fn nodes() {
        let mut world = World::region(&["a"]);
        let register = |node, zone: &str| RegisterNode {
            node: NodeId(node),
            zone: ZoneName::parse(zone).unwrap(),
            raft_address: "h:1".to_owned(),
            blob_address: "h:2".to_owned(),
            public_url: "http://h".to_owned(),
            version: "2".to_owned(),
            feature_level: FEATURE_LEVEL,
        };
        world.ok(register(1, "a"));
        assert_eq!(read(&world.tables, NodeId(1)).unwrap().version, "2");
        assert!(matches!(world.refused(register(1, "b")), Refusal::ParameterInvalid { .. }));
        let long = RegisterNode { public_url: "x".repeat(ADDRESS_BYTES_MAX + 1), ..register(2, "b") };
        assert!(matches!(world.refused(long), Refusal::ParameterInvalid { .. }));
        world.ok(SetNodeState { node: NodeId(1), state: NodeState::Removed });
        assert_eq!(world.refused(register(1, "a")), Refusal::NodeExists { node: NodeId(1) });
        let back = SetNodeState { node: NodeId(1), state: NodeState::Active };
        assert_eq!(world.refused(back), Refusal::NodeExists { node: NodeId(1) });
    }
}

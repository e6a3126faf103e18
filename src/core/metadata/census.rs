//! What is missing, what stands on a node, what would be lost without it: looks for operators, which decide nothing.
//!
//! Each walks over rows of all slots; who asks keeps them from being asked too often.

use std::collections::BTreeMap;

use super::blob::{self, BlobRow, BlobState};
use super::keys::SLOTS;
use super::need;
use super::node::{self, NodeState};
use super::tables::TablesRead;
use crate::decide::placement::{NodePlace, Topology, assign};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{NodeId, StoreId};
use crate::vocabulary::names::ZoneName;

/// Records read at once.
const RECORDS_PER_PAGE: usize = 256;

/// Copies that a zone lacks, by how urgent they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneNeeds {
    /// The zone.
    pub zone: ZoneName,
    /// Of blobs without a confirmed copy on a node that is here: nobody can make them now.
    pub of_none: u64,
    /// Of blobs with one such copy left.
    pub of_one: u64,
    /// Of blobs with two or more.
    pub of_more: u64,
    /// Bytes of all these copies.
    pub bytes: u64,
    /// The tick since which the oldest of them has been missing.
    pub oldest_tick: Option<u64>,
}

impl ZoneNeeds {
    fn none(zone: ZoneName) -> ZoneNeeds {
        ZoneNeeds { zone, of_none: 0, of_one: 0, of_more: 0, bytes: 0, oldest_tick: None }
    }

    /// All of them.
    pub fn copies(&self) -> u64 {
        self.of_none + self.of_one + self.of_more
    }
}

/// Counts what the zones lack; at most `limit` copies of each slot and zone.
pub fn needs(tables: &impl TablesRead, limit: usize) -> Vec<ZoneNeeds> {
    let topology = node::topology(tables);
    let count = |zone: &ZoneName| {
        let mut found = ZoneNeeds::none(zone.clone());
        for slot in 0..SLOTS {
            for (digest, need) in need::list(tables, slot, zone.as_str(), limit) {
                let Some(row) = blob::read(tables, &digest) else { continue };
                match copies_here(&topology, &row) {
                    0 => found.of_none += 1,
                    1 => found.of_one += 1,
                    _ => found.of_more += 1,
                }
                found.bytes += row.size_bytes;
                found.oldest_tick = found.oldest_tick.into_iter().chain([need.since_tick]).min();
            }
        }
        found
    };
    topology.zones().into_iter().map(count).collect()
}

/// Confirmed copies on nodes that are not taken for lost.
pub fn copies_here(topology: &Topology, row: &BlobRow) -> usize {
    let here = row.stores.iter().filter(|id| topology.store(**id).is_some_and(|store| !store.state.is_absent()));
    here.count()
}

/// What stands on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnNode {
    /// Copies on record.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that the placement does not let go yet: another copy has to be made first.
    pub held_back: u64,
    /// Those of them for which no other node is there.
    pub stuck: u64,
}

/// Counts what stands on each node that is being emptied.
pub fn leaving(tables: &impl TablesRead) -> BTreeMap<NodeId, OnNode> {
    let topology = node::topology(tables);
    let drains = node::list(tables).into_iter().filter(|(_, row)| row.state == NodeState::Draining);
    let mut found: BTreeMap<NodeId, OnNode> = drains.map(|(id, _)| (id, OnNode::default())).collect();
    if found.is_empty() {
        return found;
    }
    each_record(tables, |digest, row| {
        let stores = row.stores.iter().filter_map(|id| topology.store(*id));
        let stores: Vec<_> = stores.filter(|store| found.contains_key(&store.node)).copied().collect();
        if stores.is_empty() {
            return;
        }
        let plan = assign(&topology, digest, &row.stores);
        for store in stores {
            let on = found.entry(store.node).or_default();
            on.copies += 1;
            on.bytes += row.size_bytes;
            on.held_back += u64::from(!plan.is_met());
            on.stuck += u64::from(plan.add.is_empty() && !plan.waiting.is_empty());
        }
    });
    found
}

/// What the removal of a node costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Blobs that would have fewer copies than the nodes that stay could hold, until they are made again.
    pub below: u64,
    /// Blobs of which no other node has a copy: they would be gone.
    pub lost: u64,
    /// Their bytes.
    pub lost_bytes: u64,
    /// The first of those.
    pub shown: Vec<Digest>,
}

/// Looks for blobs that would be worse off without a node; names the first `shown_max` of those that would be gone.
pub fn losses(tables: &impl TablesRead, node: NodeId, shown_max: usize) -> Losses {
    let topology = node::topology(tables);
    let after = without(&topology, node);
    let mut losses = Losses::default();
    each_record(tables, |digest, row| {
        let is_on_node = |id: &StoreId| topology.store(*id).is_some_and(|store| store.node == node);
        if row.state != BlobState::Present || !row.stores.iter().any(is_on_node) {
            return;
        }
        let others = row.stores.iter().filter_map(|id| after.store(*id));
        if !others.clone().any(|store| !store.state.is_absent()) {
            losses.lost += 1;
            losses.lost_bytes += row.size_bytes;
            if losses.shown.len() < shown_max {
                losses.shown.push(*digest);
            }
        }
        let held: Vec<StoreId> = others.map(|store| store.id).collect();
        losses.below += u64::from(!assign(&after, digest, &held).is_met());
    });
    losses
}

fn without(topology: &Topology, node: NodeId) -> Topology {
    let stores: Vec<_> = topology.stores().filter(|store| store.node != node).copied().collect();
    let nodes: BTreeMap<NodeId, ZoneName> =
        stores.iter().filter_map(|store| Some((store.node, topology.zone_of_node(store.node)?.clone()))).collect();
    let nodes = nodes.into_iter().map(|(id, zone)| NodePlace { id, zone });
    Topology::new(nodes, stores).expect("part of a topology is one")
}

fn each_record(tables: &impl TablesRead, mut look: impl FnMut(&Digest, &BlobRow)) {
    let mut cursor = blob::Cursor::default();
    while !cursor.is_over() {
        cursor.page(tables, RECORDS_PER_PAGE).iter().for_each(|(digest, row)| look(digest, row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::node::SetNodeState;
    use crate::metadata::replica::ConfirmCopy;
    use crate::metadata::testing::{World, upload};

    fn world() -> World {
        let mut world = World::region(&["a", "b", "c"]);
        let repository = world.repository("r", 1, Default::default());
        world.push_blob(&repository, b"one", 1, &[1, 2]);
        world.push_blob(&repository, b"three", 2, &[1, 2, 3]);
        world
    }

    fn set(world: &mut World, node: u64, state: NodeState) {
        world.ok(SetNodeState { node: NodeId(node), state });
    }

    // What is missing is counted by zone and by how many copies are left.
    #[test]
    fn missing() {
        let mut world = world();
        let found = needs(&world.tables, 99);
        assert_eq!(found.iter().map(ZoneNeeds::copies).collect::<Vec<_>>(), [0, 0, 1]);
        assert_eq!((found[2].of_more, found[2].bytes, found[2].oldest_tick), (1, 3, Some(0)));
        let (digest, generation) = (Digest::sha256(b"one"), upload(1));
        for store in [StoreId(1), StoreId(2)] {
            world.ok(blob::UnconfirmReplica { digest, generation, store });
            let left = needs(&world.tables, 99);
            let urgent = left.iter().map(|zone| (zone.of_none, zone.of_one)).collect::<Vec<_>>();
            let expected = if store == StoreId(1) { vec![(0, 1), (0, 0), (0, 1)] } else { vec![(1, 0); 3] };
            assert_eq!(urgent, expected);
        }
    }

    // A node that is emptied: what stands there, and what can't go for want of another node in its zone.
    #[test]
    fn emptied() {
        let mut world = world();
        assert_eq!(leaving(&world.tables), BTreeMap::new());
        set(&mut world, 3, NodeState::Draining);
        let stuck = OnNode { copies: 1, bytes: 5, held_back: 1, stuck: 1 };
        assert_eq!(leaving(&world.tables), [(NodeId(3), stuck)].into());
        world.add_node(4, "c");
        assert_eq!(leaving(&world.tables)[&NodeId(3)], OnNode { stuck: 0, ..stuck });
        world.ok(ConfirmCopy { digest: Digest::sha256(b"three"), generation: upload(2), store: StoreId(4), fence: 0 });
        assert_eq!(leaving(&world.tables)[&NodeId(3)], OnNode { stuck: 0, held_back: 0, ..stuck });
    }

    // What a removal costs: nothing where others have all that is wanted; copies that can be made again; blobs.
    #[test]
    fn removals() {
        let mut world = world();
        assert_eq!(losses(&world.tables, NodeId(3), 9), Losses::default(), "two zones are left, with all there is");
        world.add_node(4, "c");
        let below = Losses { below: 1, ..Losses::default() };
        assert_eq!(losses(&world.tables, NodeId(3), 9), below);
        assert_eq!(losses(&world.tables, NodeId(4), 9), Losses::default());
        let (digest, generation) = (Digest::sha256(b"one"), upload(1));
        world.ok(blob::UnconfirmReplica { digest, generation, store: StoreId(1) });
        let lost = Losses { below: 2, lost: 1, lost_bytes: 3, shown: vec![digest] };
        assert_eq!(losses(&world.tables, NodeId(2), 9), lost);
        assert_eq!(losses(&world.tables, NodeId(2), 0).shown, []);
    }
}

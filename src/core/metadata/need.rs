//! Needs: which zones lack a confirmed copy of a blob. Derived from the record and the topology; repair works them off.
//!
//! A change of the topology leaves the rows of old blobs as they were: whoever looks after them compares rows with
//! [`outdated`] and proposes [`ReviewNeeds`] for those that are out of line.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use super::apply::Context;
use super::blob;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, Slot, table};
use super::node::{self, TopologyRow};
use super::reply::Reply;
use super::tables::{Tables, TablesRead, after_prefix};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::StoreId;
use crate::vocabulary::limits::REPLICAS_TARGET;
use crate::vocabulary::refusal::Refusal;

/// Since when a zone lacks a confirmed copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NeedRow {
    /// The tick.
    pub since_tick: u64,
}

impl Stored for NeedRow {}

/// The zones that lack a copy of `digest`, held by `stores`: three copies, spread over zones first, then over nodes.
///
/// What is held counts before what is chosen, so that nothing is copied only to lie where chance would have put it.
pub fn wanted<'a>(topology: &'a TopologyRow, digest: &Digest, stores: &[StoreId]) -> Vec<&'a str> {
    struct Zone<'a> {
        name: &'a str,
        room: usize,
        held: usize,
        want: usize,
    }
    let nodes_of = |places: &[node::Place], held: bool| {
        let counted = places.iter().filter(|place| !held || stores.contains(&place.store));
        counted.map(|place| place.node).collect::<std::collections::BTreeSet<_>>().len()
    };
    let mut zones: Vec<Zone<'_>> = topology
        .zones
        .iter()
        .map(|(name, places)| Zone { name, room: nodes_of(places, false), held: nodes_of(places, true), want: 0 })
        .collect();
    if let Some(first) = usize::from(digest.raw()[31]).checked_rem(zones.len()) {
        // with more zones than copies, which zones get one must not always be the first by name
        zones.rotate_left(first);
    }
    for _ in 0..REPLICAS_TARGET {
        let open = zones.iter_mut().filter(|zone| zone.want < zone.room);
        let Some(next) = open.min_by_key(|zone| (zone.want, zone.held <= zone.want)) else { break };
        next.want += 1;
    }
    let mut lacking: Vec<&str> = zones.iter().filter(|zone| zone.want > zone.held).map(|zone| zone.name).collect();
    lacking.sort_unstable();
    lacking
}

/// Up to `limit` digests of a slot that lack a confirmed copy in `zone`.
pub fn needs(tables: &impl TablesRead, slot: Slot, zone: &str, limit: usize) -> Vec<Digest> {
    let rows = tables.prefix(&keys::needs(slot, zone, None), limit);
    rows.iter().map(|(key, _)| keys::need_in(key).expect("a need key ends with a digest").1).collect()
}

/// Since when `zone` lacks a confirmed copy of `digest`.
pub fn read(tables: &impl TablesRead, zone: &str, digest: &Digest) -> Option<NeedRow> {
    tables.get(&keys::need(zone, digest)).map(|bytes| codec::row(&bytes))
}

/// Brings the configured zones' rows in line with the record.
pub(crate) fn note(tables: &mut impl Tables, topology: &TopologyRow, digest: &Digest, stores: &[StoreId], tick: u64) {
    let wanted = wanted(topology, digest, stores);
    for zone in topology.zones.keys() {
        let key = keys::need(zone, digest);
        match (wanted.contains(&zone.as_str()), tables.contains(&key)) {
            (true, false) => tables.put(key, codec::encode(&NeedRow { since_tick: tick })),
            (false, true) => tables.delete(key),
            (true, true) | (false, false) => {}
        }
    }
}

/// What [`outdated`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outdated {
    /// One command for each digest whose rows are out of line.
    pub reviews: Vec<ReviewNeeds>,
    /// Where to go on; `None` at the end of the slot.
    pub next: Option<Digest>,
}

/// Compares the rows of up to `limit` records of a slot after `after` with what [`wanted`] says.
pub fn outdated(tables: &impl TablesRead, slot: Slot, after: Option<&Digest>, limit: usize) -> Outdated {
    let topology = node::topology(tables);
    let mut gone = if after.is_none() { strays(tables, &topology, slot, limit) } else { BTreeMap::new() };
    let records = blob::list(tables, slot, after, limit);
    let next = records.last().filter(|_| records.len() == limit).map(|(digest, _)| *digest);
    let is_out_of_line = |digest: &Digest, stores: &[StoreId]| {
        let wanted = wanted(&topology, digest, stores);
        topology.zones.keys().any(|zone| wanted.contains(&zone.as_str()) != read(tables, zone, digest).is_some())
    };
    for (digest, row) in records {
        if is_out_of_line(&digest, &row.stores) {
            gone.entry(digest).or_default();
        }
    }
    Outdated { reviews: gone.into_iter().map(|(digest, gone)| ReviewNeeds { digest, gone }).collect(), next }
}

/// Up to `limit` needs of zones that are not configured any more, by digest. Skips over those that are.
fn strays(tables: &impl TablesRead, topology: &TopologyRow, slot: Slot, limit: usize) -> BTreeMap<Digest, Vec<String>> {
    let mut from = keys::of_slot(slot, table::NEED);
    let end = after_prefix(&from);
    let mut found: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    while found.len() < limit
        && let Some((key, _)) = tables.range(&from, &end, 1).pop()
    {
        let (zone, digest) = keys::need_in(&key).expect("a need key holds a zone and a digest");
        from = if topology.zones.contains_key(zone) {
            after_prefix(&keys::needs(slot, zone, None))
        } else {
            found.entry(digest).or_default().push(zone.to_owned());
            [&key[..], &[0]].concat()
        };
    }
    found
}

/// The topology has changed since the needs of a digest were noted: they are noted anew. Never refuses: many travel in
/// one envelope.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReviewNeeds {
    /// Which blob.
    pub digest: Digest,
    /// Zones with a row of it that were not configured when the proposer looked.
    pub gone: Vec<String>,
}

impl Apply for ReviewNeeds {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let topology = node::topology(tables);
        for zone in self.gone.iter().filter(|zone| !topology.zones.contains_key(*zone)) {
            tables.delete(keys::need(zone, &self.digest));
        }
        if let Some(row) = blob::read(tables, &self.digest) {
            note(tables, &topology, &self.digest, &row.stores, context.clock.tick);
        }
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::node::{NodeState, SetNodeState};
    use crate::metadata::testing::World;
    use crate::vocabulary::ids::NodeId;

    fn topology(zones: &[(&str, &[u64])]) -> TopologyRow {
        let place = |id: &u64| node::Place { store: StoreId(*id), node: NodeId(*id) };
        TopologyRow {
            zones: zones.iter().map(|(zone, ids)| ((*zone).to_owned(), ids.iter().map(place).collect())).collect(),
        }
    }

    // Three copies, spread over zones before nodes; fewer nodes than copies degrade openly.
    #[test]
    fn table() {
        let three = topology(&[("a", &[1, 2]), ("b", &[3]), ("c", &[4])]);
        let two = topology(&[("a", &[1, 2]), ("b", &[3])]);
        let single = topology(&[("a", &[1, 2, 3, 4])]);
        let alone = topology(&[("a", &[1])]);
        let digest = Digest::sha256(b"x");
        for (topology, stores, lacking) in [
            (&three, &[1, 3, 4][..], &[][..]),
            (&three, &[1, 3], &["c"]),
            (&three, &[1, 2], &["b", "c"]),
            (&three, &[], &["a", "b", "c"]),
            (&three, &[9], &["a", "b", "c"]),
            (&two, &[1, 3], &["a"]),
            (&two, &[1, 2], &["b"]),
            (&two, &[1, 2, 3], &[]),
            (&single, &[1, 2], &["a"]),
            (&single, &[1, 2, 4], &[]),
            (&alone, &[1], &[]),
            (&alone, &[], &["a"]),
            (&TopologyRow::default(), &[1], &[]),
        ] {
            let stores: Vec<StoreId> = stores.iter().map(|id| StoreId(*id)).collect();
            assert_eq!(wanted(topology, &digest, &stores), lacking, "{stores:?}");
        }
    }

    // With more zones than copies the digest picks, but what is held stays; the picks spread over all zones.
    #[test]
    fn more_zones_than_copies() {
        let five = topology(&[("a", &[1]), ("b", &[2]), ("c", &[3]), ("d", &[4]), ("e", &[5])]);
        let mut picked = BTreeMap::new();
        for byte in 0..200u8 {
            let digest = Digest::sha256(&[byte]);
            let lacking = wanted(&five, &digest, &[StoreId(2), StoreId(5)]);
            assert_eq!(lacking.len(), 1, "{lacking:?}");
            assert!(!["b", "e"].contains(&lacking[0]));
            *picked.entry(lacking[0]).or_insert(0) += 1;
        }
        assert!(picked.len() == 3 && picked.values().all(|count| *count > 20), "{picked:?}");
    }

    // Zones that come and go leave rows behind, which a review brings in line; a second look finds nothing.
    #[test]
    fn review_after_a_change() {
        let mut world = World::region(&["a"]);
        let repository = world.repository("r", 1, Default::default());
        let digests: Vec<Digest> =
            (0..20u64).map(|number| world.push_blob(&repository, &number.to_be_bytes(), number, &[1])).collect();
        let review = |world: &mut World| {
            let mut reviewed = 0;
            for slot in 0..keys::SLOTS {
                let mut after = None;
                loop {
                    let Outdated { reviews, next } = outdated(&world.tables, slot, after.as_ref(), 1);
                    for command in reviews {
                        world.ok(command);
                        reviewed += 1;
                    }
                    let Some(next) = next else { break };
                    after = Some(next);
                }
            }
            reviewed
        };
        assert_eq!(review(&mut world), 0);
        world.add_node(2, "b");
        world.add_node(3, "c");
        assert_eq!(review(&mut world), 20);
        assert!(digests.iter().all(|digest| read(&world.tables, "c", digest).is_some()));
        world.ok(SetNodeState { node: NodeId(3), state: NodeState::Removed });
        assert!(review(&mut world) > 0);
        assert!(digests.iter().all(|digest| read(&world.tables, "c", digest).is_none()));
        assert!(digests.iter().all(|digest| read(&world.tables, "b", digest).is_some()));
        assert_eq!(review(&mut world), 0);
    }
}

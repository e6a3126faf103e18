//! Needs: which zones lack a confirmed copy of a blob. Derived from the record and the topology; repair works them off.
//!
//! A change of the topology leaves the rows of old blobs as they were: whoever looks after them compares rows with
//! [`outdated`] and proposes [`ReviewNeeds`] for those that are out of line.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};

use super::apply::Context;
use super::blob;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, Slot, table};
use super::node;
use super::reply::Reply;
use super::tables::{Tables, TablesRead, after_prefix};
use crate::decide::placement::{Topology, assign};
use crate::mutants::{self, Mutant};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::StoreId;
use crate::vocabulary::names::ZoneName;
use crate::vocabulary::refusal::Refusal;

/// Since when a zone lacks a confirmed copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NeedRow {
    /// The tick.
    pub since_tick: u64,
}

impl Stored for NeedRow {}

/// The zones where the placement wants another copy of a blob that lies on `stores`.
pub fn wanted(topology: &Topology, digest: &Digest, stores: &[StoreId]) -> BTreeSet<ZoneName> {
    assign(topology, digest, stores).add.into_iter().map(|choice| choice.zone).collect()
}

/// Up to `limit` digests of a slot that lack a confirmed copy in `zone`.
pub fn needs(tables: &impl TablesRead, slot: Slot, zone: &str, limit: usize) -> Vec<Digest> {
    let rows = tables.prefix(&keys::needs(slot, zone, None), limit);
    rows.iter().map(|(key, _)| keys::need_in(key).expect("a need key ends with a digest").1).collect()
}

/// The same, with what is noted of each.
pub fn list(tables: &impl TablesRead, slot: Slot, zone: &str, limit: usize) -> Vec<(Digest, NeedRow)> {
    let rows = tables.prefix(&keys::needs(slot, zone, None), limit);
    let digest = |key: &[u8]| keys::need_in(key).expect("a need key ends with a digest").1;
    rows.iter().map(|(key, value)| (digest(key), codec::row(value))).collect()
}

/// Since when `zone` lacks a confirmed copy of `digest`.
pub fn read(tables: &impl TablesRead, zone: &ZoneName, digest: &Digest) -> Option<NeedRow> {
    tables.get(&keys::need(zone.as_str(), digest)).map(|bytes| codec::row(&bytes))
}

/// Brings the configured zones' rows in line with the record.
pub(crate) fn note(tables: &mut impl Tables, topology: &Topology, digest: &Digest, stores: &[StoreId], tick: u64) {
    let wanted = if mutants::is_on(Mutant::ForgetNeeds) { BTreeSet::new() } else { wanted(topology, digest, stores) };
    for zone in topology.zones() {
        let key = keys::need(zone.as_str(), digest);
        match (wanted.contains(zone), tables.contains(&key)) {
            (true, false) => tables.put(key, codec::encode(&NeedRow { since_tick: tick })),
            (false, true) => tables.delete(key),
            (true, true) | (false, false) => {}
        }
    }
}

/// Forgets the needs of a digest whose record goes, also those of zones that are not configured any more.
pub(crate) fn forget(tables: &mut impl Tables, digest: &Digest) {
    let mut from = keys::of_slot(keys::digest_slot(digest), table::NEED);
    let end = after_prefix(&from);
    // one seek for each zone that lacks anything in this slot
    while let Some((key, _)) = tables.range(&from, &end, 1).pop() {
        let (zone, _) = keys::need_in(&key).expect("a need key holds a zone and a digest");
        from = after_prefix(&keys::needs(keys::digest_slot(digest), zone, None));
        tables.delete_present(keys::need(zone, digest));
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
        topology.zones().into_iter().any(|zone| wanted.contains(zone) != read(tables, zone, digest).is_some())
    };
    for (digest, row) in records {
        if is_out_of_line(&digest, &row.stores) {
            gone.entry(digest).or_default();
        }
    }
    Outdated { reviews: gone.into_iter().map(|(digest, gone)| ReviewNeeds { digest, gone }).collect(), next }
}

/// Up to `limit` needs of zones that are not configured any more, by digest. Skips over those that are.
fn strays(tables: &impl TablesRead, topology: &Topology, slot: Slot, limit: usize) -> BTreeMap<Digest, Vec<ZoneName>> {
    let configured = topology.zones();
    let mut from = keys::of_slot(slot, table::NEED);
    let end = after_prefix(&from);
    let mut found: BTreeMap<Digest, Vec<ZoneName>> = BTreeMap::new();
    while found.len() < limit
        && let Some((key, _)) = tables.range(&from, &end, 1).pop()
    {
        let (zone, digest) = keys::need_in(&key).expect("a need key holds a zone and a digest");
        let zone = ZoneName::parse(zone).expect("stored zones were parsed");
        from = if configured.contains(&zone) {
            after_prefix(&keys::needs(slot, zone.as_str(), None))
        } else {
            found.entry(digest).or_default().push(zone);
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
    pub gone: Vec<ZoneName>,
}

impl Apply for ReviewNeeds {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let topology = node::topology(tables);
        let configured = topology.zones();
        for zone in self.gone.iter().filter(|zone| !configured.contains(zone)) {
            tables.delete(keys::need(zone.as_str(), &self.digest));
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
        let zone = |name| ZoneName::parse(name).unwrap();
        assert!(digests.iter().all(|digest| read(&world.tables, &zone("c"), digest).is_some()));
        world.ok(SetNodeState { node: NodeId(3), state: NodeState::Removed });
        assert!(review(&mut world) > 0);
        assert!(digests.iter().all(|digest| read(&world.tables, &zone("c"), digest).is_none()));
        assert!(digests.iter().all(|digest| read(&world.tables, &zone("b"), digest).is_some()));
        assert_eq!(review(&mut world), 0);
    }
}

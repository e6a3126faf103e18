//! Copies that go while their record stays: surplus ones, and those of nodes that are emptied or gone.
//!
//! The order is copy, confirm, drop, fence, unlink. [`DropReplica`] takes a volume out of a record; its apply looks
//! again whether the copies that stay are all that the placement wants, and the proposer has just asked each of them.
//! Then the volume's node unlinks the file, and no confirmation that is still under way may bring it back on record:
//! the node locks the digest, has [`FenceCopy`] applied, and unlinks only after that. A confirmation carries the number
//! of the fence that its proposer saw before it looked at the file ([`ConfirmCopy`]); with an older one it is refused.
//! No step is right because enough time has passed. Source: consensus-and-faults §5.5, §5.6; decision 9.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use super::apply::Context;
use super::blob;
use super::codec::{self, Stored};
use super::command::{Apply, Command};
use super::keys::{self, Slot, table};
use super::need;
use super::node;
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use super::upgrade;
use crate::decide::placement::{StoreState, Topology, assign};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{StoreId, UploadId};
use crate::vocabulary::limits::{REPLICAS_TARGET, STORES_MAX};
use crate::vocabulary::refusal::Refusal;

/// A copy on a volume was let go so many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FenceRow {
    /// The generation that was let go; another one begins at nothing.
    pub generation: UploadId,
    /// Confirmations count only with this number.
    pub number: u64,
}

impl Stored for FenceRow {}

/// The number that a confirmation of a copy must carry; 0 for one that was never let go.
pub fn fence(tables: &impl TablesRead, digest: &Digest, generation: &UploadId, store: StoreId) -> u64 {
    let row: Option<FenceRow> = tables.get(&keys::fence(digest, store)).map(|bytes| codec::row(&bytes));
    row.filter(|row| row.generation == *generation).map_or(0, |row| row.number)
}

/// The same; `None` below the level that knows of fences.
pub fn known_fence(tables: &impl TablesRead, digest: &Digest, generation: &UploadId, store: StoreId) -> Option<u64> {
    let knows = upgrade::level_of(tables, keys::SYSTEM) >= upgrade::LEVEL_2;
    knows.then(|| fence(tables, digest, generation, store))
}

/// What confirms a copy under the fence that was seen before it was looked at.
pub fn confirmation(digest: Digest, generation: UploadId, store: StoreId, fence: Option<u64>) -> Command {
    match fence {
        Some(fence) => ConfirmCopy { digest, generation, store, fence }.into(),
        None => blob::ConfirmReplica { digest, generation, store }.into(),
    }
}

fn raise(tables: &mut impl Tables, digest: &Digest, generation: UploadId, store: StoreId) {
    let number = fence(tables, digest, &generation, store) + 1;
    tables.put(keys::fence(digest, store), codec::encode(&FenceRow { generation, number }));
}

/// Forgets the fences of a digest whose record goes: its generation is closed, which no confirmation passes either.
pub(crate) fn forget(tables: &mut impl Tables, digest: &Digest) {
    for (key, _) in tables.prefix(&keys::fences(digest), STORES_MAX) {
        tables.delete(key);
    }
}

/// Whether a file of a record's own generation is of no use on a volume that the record does not name: the copies on
/// record are all that the placement wants.
pub fn is_unwanted(tables: &impl TablesRead, digest: &Digest, generation: &UploadId, store: StoreId) -> bool {
    let Some(row) = blob::read(tables, digest).filter(|row| row.generation == *generation) else { return false };
    !row.stores.contains(&store) && assign(&node::topology(tables), digest, &row.stores).is_met()
}

/// Copies of one record that may go, and those that have to be there meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spare {
    /// Which blob.
    pub digest: Digest,
    /// Its generation.
    pub generation: UploadId,
    /// The copies that may go now; none while others have to be made first.
    pub spare: Vec<StoreId>,
    /// The copies that stay: each is asked before.
    pub keep: Vec<StoreId>,
}

/// What of a record is more than the placement wants, or will be once others are made.
pub fn spare(topology: &Topology, digest: &Digest, row: &blob::BlobRow) -> Option<Spare> {
    let plan = assign(topology, digest, &row.stores);
    if plan.surplus.is_empty() && plan.leaving.is_empty() {
        return None;
    }
    let spare = row.stores.iter().copied().filter(|store| plan.can_spare(*store)).collect();
    let keep = plan.keep.iter().map(|choice| choice.store).collect();
    Some(Spare { digest: *digest, generation: row.generation, spare, keep })
}

/// Whether a copy on `into` would take the place of one that is on record: the placement prefers it, and has all that
/// it wants already.
pub fn would_move(topology: &Topology, digest: &Digest, row: &blob::BlobRow, into: StoreId) -> bool {
    if row.stores.contains(&into) || !assign(topology, digest, &row.stores).is_met() {
        return false;
    }
    let held: Vec<StoreId> = row.stores.iter().copied().chain([into]).collect();
    let plan = assign(topology, digest, &held);
    plan.is_met() && !plan.surplus.is_empty() && plan.keep.iter().any(|choice| choice.store == into)
}

/// By how many bytes a volume holds less than its weight's share of what its zone holds; 0 while a node of its zone is
/// away, being emptied or full.
pub fn shortfall(topology: &Topology, held: &BTreeMap<StoreId, u64>, store: StoreId) -> u64 {
    let zone = topology.zone_of(store);
    let of_zone: Vec<_> = topology.stores().filter(|other| topology.zone_of(other.id) == zone).collect();
    if of_zone.iter().any(|other| other.state != StoreState::Up) {
        return 0;
    }
    let bytes = |id: StoreId| u128::from(held.get(&id).copied().unwrap_or(0));
    let all: u128 = of_zone.iter().map(|other| bytes(other.id)).sum();
    let weights: u128 = of_zone.iter().map(|other| u128::from(other.weight.get())).sum();
    let Some(own) = topology.store(store) else { return 0 };
    let share = all * u128::from(own.weight.get()) / weights.max(1);
    u64::try_from(share.saturating_sub(bytes(store))).unwrap_or(u64::MAX)
}

/// Whether a written row may have made a record overfull: who drops copies looks again.
pub fn may_overfill(key: &[u8], value: &[u8]) -> bool {
    matches!(keys::place(key), Some((_, table::BLOB)))
        && codec::decode::<blob::BlobRow>(value).is_ok_and(|row| row.stores.len() > REPLICAS_TARGET)
}

/// A copy is more than the placement wants. Never refuses: many travel in one envelope.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DropReplica {
    /// Which blob.
    pub digest: Digest,
    /// The generation of the copy.
    pub generation: UploadId,
    /// The volume that it goes from.
    pub store: StoreId,
    /// The volumes that have just said that theirs is there.
    pub good: Vec<StoreId>,
}

impl Apply for DropReplica {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let Some(mut row) = blob::read(tables, &self.digest) else { return Ok(Reply::Unchanged) };
        if row.generation != self.generation {
            return Ok(Reply::Unchanged);
        }
        let topology = node::topology(tables);
        let plan = assign(&topology, &self.digest, &row.stores);
        let is_there = |store: &StoreId| self.good.contains(store);
        if !plan.can_spare(self.store) || !plan.keep.iter().all(|choice| is_there(&choice.store)) {
            return Ok(Reply::Unchanged);
        }
        row.stores.retain(|store| *store != self.store);
        blob::put(tables, &self.digest, &row);
        // what was under way for it counts no more, and who has the file is told
        raise(tables, &self.digest, self.generation, self.store);
        need::note(tables, &topology, &self.digest, &row.stores, context.clock.tick);
        Ok(Reply::Done)
    }
}

/// A node is about to unlink a file that its record does not name and the placement does not want; it holds the
/// digest's lock until it has heard the answer. `Done` lets it. Never refuses.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FenceCopy {
    /// Which blob.
    pub digest: Digest,
    /// The generation of the file.
    pub generation: UploadId,
    /// The volume.
    pub store: StoreId,
}

impl Apply for FenceCopy {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if !is_unwanted(tables, &self.digest, &self.generation, self.store) {
            return Ok(Reply::Unchanged);
        }
        raise(tables, &self.digest, self.generation, self.store);
        Ok(Reply::Done)
    }
}

/// As [`ConfirmReplica`](blob::ConfirmReplica), by who has seen the fence before it looked at the file. Never refuses.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConfirmCopy {
    /// Which blob.
    pub digest: Digest,
    /// The generation of the copy.
    pub generation: UploadId,
    /// Where it lies.
    pub store: StoreId,
    /// The fence's number as it was seen.
    pub fence: u64,
}

impl Apply for ConfirmCopy {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let ConfirmCopy { digest, generation, store, fence } = self;
        Ok(blob::confirm(tables, context, digest, generation, store, fence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::blob::ConfirmReplica;
    use crate::metadata::node::{NodeState, SetNodeState};
    use crate::metadata::testing::{World, upload};
    use crate::vocabulary::ids::NodeId;

    const STORES: [StoreId; 4] = [StoreId(1), StoreId(2), StoreId(3), StoreId(4)];

    fn world() -> (World, Digest) {
        let mut world = World::region(&["a", "b", "c"]);
        world.add_node(4, "c");
        let repository = world.repository("r", 1, Default::default());
        let digest = world.push_blob(&repository, b"layer", 1, &[1, 2, 3]);
        (world, digest)
    }

    fn confirm(digest: Digest, store: u64, fence: u64) -> ConfirmCopy {
        ConfirmCopy { digest, generation: upload(1), store: StoreId(store), fence }
    }

    fn drop_copy(digest: Digest, store: StoreId, good: &[StoreId]) -> DropReplica {
        DropReplica { digest, generation: upload(1), store, good: good.to_vec() }
    }

    fn held(world: &World, digest: &Digest) -> Vec<StoreId> {
        blob::read(&world.tables, digest).unwrap().stores
    }

    fn fenced(digest: Digest, store: StoreId) -> FenceCopy {
        FenceCopy { digest, generation: upload(1), store }
    }

    // A copy goes only while all that is wanted is there and has said so; a confirmation from before changes nothing.
    #[test]
    fn copies_go() {
        let (mut world, digest) = world();
        assert_eq!(world.ok(drop_copy(digest, StoreId(3), &STORES)), Reply::Unchanged, "nothing to spare");
        assert_eq!(world.ok(confirm(digest, 4, 0)), Reply::Done);
        let topology = node::topology(&world.tables);
        let found = spare(&topology, &digest, &blob::read(&world.tables, &digest).unwrap()).unwrap();
        let [gone] = found.spare[..] else { panic!("{found:?}") };
        let stays = StoreId(7 - gone.0);
        assert!(found.keep.contains(&stays) && found.keep.len() == 3, "{found:?}");
        assert_eq!(world.ok(drop_copy(digest, gone, &[StoreId(1), StoreId(2)])), Reply::Unchanged, "one was not asked");
        assert_eq!(world.ok(drop_copy(digest, stays, &STORES)), Reply::Unchanged, "that one stays");
        let late = DropReplica { generation: upload(2), ..drop_copy(digest, gone, &STORES) };
        assert_eq!(world.ok(late), Reply::Unchanged);
        assert_eq!(world.ok(drop_copy(digest, gone, &STORES)), Reply::Done);
        assert_eq!(world.ok(drop_copy(digest, gone, &STORES)), Reply::Unchanged);
        assert_eq!(held(&world, &digest).len(), 3);
        for late in [confirm(digest, gone.0, 0).into(), old_confirm(digest, gone)] {
            let late: Command = late;
            assert_eq!(world.ok(late), Reply::Unchanged);
        }
        assert_eq!(held(&world, &digest).len(), 3);
        assert_eq!(world.ok(fenced(digest, gone)), Reply::Done);
        assert_eq!(world.ok(fenced(digest, stays)), Reply::Unchanged, "it is on record");
        assert_eq!(world.ok(confirm(digest, gone.0, 1)), Reply::Unchanged);
        assert_eq!(fence(&world.tables, &digest, &upload(1), gone), 2);
        assert_eq!(world.ok(confirm(digest, gone.0, 2)), Reply::Done, "it was made again");
    }

    fn old_confirm(digest: Digest, store: StoreId) -> Command {
        ConfirmReplica { digest, generation: upload(1), store }.into()
    }

    // A node that is emptied: nothing goes before its zone has another copy; then its copies do. Where its zone has no
    // other node they stay.
    #[test]
    fn emptied_nodes() {
        let (mut world, digest) = world();
        world.ok(SetNodeState { node: NodeId(3), state: NodeState::Draining });
        assert_eq!(world.ok(drop_copy(digest, StoreId(3), &STORES)), Reply::Unchanged);
        world.ok(confirm(digest, 4, 0));
        assert_eq!(world.ok(drop_copy(digest, StoreId(3), &STORES)), Reply::Done);
        assert_eq!(held(&world, &digest), [StoreId(1), StoreId(2), StoreId(4)]);
        world.ok(SetNodeState { node: NodeId(1), state: NodeState::Draining });
        assert_eq!(world.ok(drop_copy(digest, StoreId(1), &STORES)), Reply::Unchanged);
    }

    // A new volume of a zone takes the place of the other one for those blobs that the hash gives it, and only for
    // them; how much it should hold goes by weights, and nothing is moved while its zone is not whole.
    #[test]
    fn moves_to_a_new_volume() {
        let mut world = World::region(&["a", "b", "c"]);
        let repository = world.repository("r", 1, Default::default());
        let digests: Vec<Digest> =
            (0..40u64).map(|number| world.push_blob(&repository, &number.to_be_bytes(), number, &[1, 2, 3])).collect();
        world.add_node(4, "c");
        let topology = node::topology(&world.tables);
        let is_moved = |digest: &&Digest| {
            let row = blob::read(&world.tables, digest).unwrap();
            assert!(![1, 2].iter().any(|store| would_move(&topology, digest, &row, StoreId(*store))));
            would_move(&topology, digest, &row, StoreId(4))
        };
        let moved = digests.iter().filter(is_moved).count();
        assert!((8..32).contains(&moved), "{moved}");
        let held = [(StoreId(1), 400), (StoreId(2), 400), (StoreId(3), 400)].into();
        let short = |world: &World| shortfall(&node::topology(&world.tables), &held, StoreId(4));
        assert_eq!((short(&world), shortfall(&topology, &held, StoreId(3))), (200, 0));
        world.ok(SetNodeState { node: NodeId(3), state: NodeState::Draining });
        assert_eq!(short(&world), 0);
    }

    // Only a record with more copies than any blob should have is told of.
    #[test]
    fn overfull_rows_are_told() {
        let (mut world, digest) = world();
        let told = |world: &World| {
            let key = keys::blob(&digest);
            may_overfill(&key, &world.tables.get(&key).unwrap())
        };
        assert!(!told(&world));
        world.ok(confirm(digest, 4, 0));
        assert!(told(&world) && !may_overfill(&keys::fences(&digest), &[]));
    }
}

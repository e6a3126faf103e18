//! Changes of another region that can't be applied here: put aside with the reason, so that those behind them go on,
//! and tried again when an operator says so. They count as seen.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot};
use super::outbox::Change;
use super::peer;
use super::reply::Reply;
use super::tables::{Row, Tables, TablesRead};
use crate::vocabulary::limits::{DETAIL_BYTES_MAX, PARKED_MAX};
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;

/// A change that was put aside.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ParkedRow {
    /// In which repository.
    pub repository: RepositoryName,
    /// What was to change.
    pub change: Change,
    /// Why it did not.
    pub reason: String,
    /// When it was put aside, replicated milliseconds since 1970.
    pub at_ms: u64,
}

impl Stored for ParkedRow {}

/// Names a parked change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct ParkedId {
    /// The number of the region that it came from.
    pub source: u16,
    /// Its index in that region's log.
    pub index: u64,
    /// Tells it from others of that index.
    pub register: u64,
}

impl ParkedId {
    /// Of a change.
    pub fn of(source: u16, index: u64, repository: &RepositoryName, change: &Change) -> ParkedId {
        let bytes = [repository.as_str().as_bytes(), &[0], &change.register().key()].concat();
        ParkedId { source, index, register: xxhash_rust::xxh3::xxh3_64(&bytes) }
    }
}

/// Up to `limit` parked changes of a region behind `after`, oldest first.
pub fn list(
    tables: &impl TablesRead,
    source: u16,
    after: Option<ParkedId>,
    limit: usize,
) -> Vec<(ParkedId, ParkedRow)> {
    let all = keys::parked_of(source);
    let from = after.map_or_else(|| all.clone(), |after| [&keys::parked(after)[..], &[0]].concat());
    let rows = tables.range(&from, &super::tables::after_prefix(&all), limit);
    let read = |(key, value): &Row| (keys::parked_in(key).expect("the key names it"), codec::row(value));
    rows.iter().map(read).collect()
}

/// Puts a change aside. Refused when too many are: then the stream stands still until somebody looks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ParkEvent {
    /// The number of the region that it came from.
    pub source: u16,
    /// Its index in that region's log.
    pub index: u64,
    /// In which repository.
    pub repository: RepositoryName,
    /// What was to change.
    pub change: Change,
    /// Why it did not.
    pub reason: String,
}

impl Apply for ParkEvent {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if peer::read(tables, self.source).is_none() {
            return Err(Refusal::Changed);
        }
        let key = keys::parked(ParkedId::of(self.source, self.index, &self.repository, &self.change));
        if !tables.contains(&key) && tables.prefix(&keys::parked_of(self.source), PARKED_MAX).len() >= PARKED_MAX {
            let limit = "changes of a region that are put aside".to_owned();
            return Err(Refusal::LimitReached { limit, allowed: PARKED_MAX as u64 });
        }
        let ParkEvent { repository, change, mut reason, .. } = self;
        if let Some((end, _)) = reason.char_indices().nth(DETAIL_BYTES_MAX / 4) {
            reason.truncate(end);
        }
        let row = ParkedRow { repository, change, reason, at_ms: context.clock.now_ms };
        tables.put(key, codec::encode(&row));
        Ok(Reply::Done)
    }
}

/// A parked change was applied after all, or given up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UnparkEvent {
    /// Which.
    pub id: ParkedId,
}

impl Apply for UnparkEvent {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let key = keys::parked(self.id);
        if !tables.contains(&key) {
            return Ok(Reply::Unchanged);
        }
        tables.delete(key);
        Ok(Reply::Done)
    }
}

/// A region is forgotten, and what was put aside of it.
pub(super) fn forget(tables: &mut impl Tables, source: u16) {
    for (key, _) in tables.prefix(&keys::parked_of(source), PARKED_MAX) {
        tables.delete(key);
    }
}

/// What stands in the system slot under this table.
pub(super) fn check(tables: &impl TablesRead, key: &[u8], row: &ParkedRow) -> Result<(), String> {
    let id = keys::parked_in(key).ok_or("a key that can't be read")?;
    if id != ParkedId::of(id.source, id.index, &row.repository, &row.change) {
        return Err(format!("a parked change of index {} stands under another name than its own", id.index));
    }
    let is_known = tables.contains(&keys::peer(id.source));
    if is_known { Ok(()) } else { Err(format!("a parked change of region {}, which is not known", id.source)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::peer::DeletePeer;
    use crate::metadata::testing::{World, peer, repository_key, tags};
    use crate::vocabulary::version::Version;

    fn park(index: u64, tag: &str, reason: &str) -> ParkEvent {
        let change =
            Change::TagGone { tag: tags(&[tag]).remove(0), version: Version::default(), previous: Version::default() };
        ParkEvent { source: 2, index, repository: repository_key("r", 1).name, change, reason: reason.to_owned() }
    }

    // Changes of one entry stand side by side, the same one once; they go one by one, or with their region.
    #[test]
    fn put_aside() {
        let mut world = World::cluster();
        assert_eq!(world.refused(park(5, "a", "no room")), Refusal::Changed);
        world.ok(peer(2, "eu"));
        world.ok(park(5, "b", "no room"));
        world.ok(park(5, "a", "no room"));
        world.ok(park(5, "a", &"ä".repeat(DETAIL_BYTES_MAX)));
        world.ok(park(3, "a", "no room"));
        let found = list(&world.tables, 2, None, 9);
        assert_eq!(found.iter().map(|(id, _)| id.index).collect::<Vec<_>>(), [3, 5, 5]);
        assert!(found.iter().all(|(_, row)| row.reason.len() <= DETAIL_BYTES_MAX));
        assert_eq!(list(&world.tables, 2, Some(found[0].0), 9), found[1..]);
        world.ok(UnparkEvent { id: found[0].0 });
        assert_eq!(world.ok(UnparkEvent { id: found[0].0 }), Reply::Unchanged);
        assert_eq!(list(&world.tables, 2, None, 9), found[1..]);
        world.ok(DeletePeer { number: 2 });
        assert_eq!(list(&world.tables, 2, None, 9), []);
    }
}

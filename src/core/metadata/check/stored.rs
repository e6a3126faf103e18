//! What the tables say about copies and zones, read so that damage is skipped and never panics: the rows that can't be
//! read are told by [`check`](super::check) itself.

use std::collections::BTreeMap;

use super::super::apply::StateDigest;
use super::super::blob::BlobRow;
use super::super::cluster::ClusterRow;
use super::super::keys::{self, SLOTS, table};
use super::super::node::{NodeRow, StoreRow};
use super::super::tables::{Pages, TablesRead};
use super::{PAGE_ROWS, get, value};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{NodeId, StoreId};
use crate::vocabulary::limits::STORES_MAX;
use crate::vocabulary::names::ZoneName;

/// A blob record, and whether a repository uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Of which bytes.
    pub digest: Digest,
    /// The record.
    pub row: BlobRow,
    /// A repository uses it: its bytes must stay.
    pub used: bool,
}

/// A volume as the tables know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Whose it is.
    pub node: NodeId,
    /// The failure domain it stands in.
    pub zone: ZoneName,
}

/// The record of a digest.
pub fn record(tables: &impl TablesRead, digest: &Digest) -> Option<BlobRow> {
    get(tables, &keys::blob(digest))
}

/// Every blob record, read in pages.
pub fn records<T: TablesRead>(tables: &T) -> impl Iterator<Item = Record> {
    let pages = (0..SLOTS).flat_map(move |slot| {
        let mut pages = Pages::under(keys::blobs(slot), PAGE_ROWS);
        std::iter::from_fn(move || pages.read(tables))
    });
    pages.flatten().filter_map(|(key, bytes)| {
        let (digest, row) = (keys::blob_in(&key)?, value(&bytes).ok()?);
        let used = !tables.prefix(&keys::blob_uses(&digest), 1).is_empty();
        Some(Record { digest, row, used })
    })
}

/// Every volume and where it stands.
pub fn seats(tables: &impl TablesRead) -> BTreeMap<StoreId, Seat> {
    let rows = tables.prefix(&keys::system(table::STORE), STORES_MAX);
    let seat = |(key, bytes): &(Vec<u8>, Vec<u8>)| {
        let node = value::<StoreRow>(bytes).ok()?.node;
        let zone = get::<NodeRow>(tables, &keys::node(node))?.zone;
        Some((keys::store_in(key)?, Seat { node, zone }))
    };
    rows.iter().filter_map(seat).collect()
}

/// The cluster's own row.
pub fn cluster(tables: &impl TablesRead) -> Option<ClusterRow> {
    get(tables, &keys::system(table::CLUSTER))
}

/// The running hash the tables stand at.
pub fn state_digest(tables: &impl TablesRead) -> Option<StateDigest> {
    get(tables, &keys::system(table::STATE_DIGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::blob;
    use crate::metadata::tables::Tables;
    use crate::metadata::testing::World;

    // Every record of every slot is visited once, with whether somebody uses it; damaged ones are left out.
    #[test]
    fn all_records() {
        let mut world = World::busy();
        let by_slot = |world: &World| {
            let list = |slot| blob::list(&world.tables, slot, None, usize::MAX);
            (0..SLOTS).flat_map(list).collect::<Vec<_>>()
        };
        let expected = by_slot(&world);
        let found: Vec<Record> = records(&world.tables).collect();
        assert!(found.len() > 3 && found.iter().any(|record| record.used));
        let pairs: Vec<_> = found.iter().map(|found| (found.digest, found.row.clone())).collect();
        assert_eq!(pairs, expected);
        for record in &found {
            assert_eq!(record.used, !blob::users(&world.tables, &record.digest, 1).is_empty());
        }
        world.tables.put(keys::blob(&found[0].digest), b"rubbish".to_vec());
        assert_eq!(records(&world.tables).count(), found.len() - 1);
        assert_eq!(record(&world.tables, &found[0].digest), None);
    }

    // Volumes stand in the zone of their node.
    #[test]
    fn zones() {
        let world = World::region(&["a", "b", "c"]);
        let zones: Vec<String> = seats(&world.tables).values().map(|seat| seat.zone.to_string()).collect();
        assert_eq!(zones, ["a", "b", "c"]);
        assert!(cluster(&world.tables).is_some() && state_digest(&world.tables).is_some());
        assert_eq!(cluster(&World::empty().tables), None);
    }
}

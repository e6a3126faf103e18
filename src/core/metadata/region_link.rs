//! What operators want of the link to another region: whether its changes are followed, and how fast.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot};
use super::peer;
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use crate::vocabulary::refusal::Refusal;

/// What is wanted of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RegionLinkRow {
    /// Nothing is taken from the region until an operator says so; it keeps its changes for as long as it keeps any.
    pub is_paused: bool,
    /// Bytes of blobs that are taken from it in a second; zero for as many as there can be.
    pub bytes_per_second: u64,
}

impl Stored for RegionLinkRow {}

/// What is wanted of the link to a region.
pub fn read(tables: &impl TablesRead, number: u16) -> RegionLinkRow {
    tables.get(&keys::region_link(number)).map_or(RegionLinkRow::default(), |bytes| codec::row(&bytes))
}

/// A region is forgotten.
pub(super) fn forget(tables: &mut impl Tables, number: u16) {
    tables.delete_present(keys::region_link(number));
}

/// Changes what is wanted of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetRegionLink {
    /// The region's number.
    pub number: u16,
    /// Whether it is paused; `None` for as it is.
    pub is_paused: Option<bool>,
    /// Bytes in a second; `None` for as it is.
    pub bytes_per_second: Option<u64>,
}

impl Apply for SetRegionLink {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let SetRegionLink { number, is_paused, bytes_per_second } = self;
        if peer::read(tables, number).is_none() {
            return Err(Refusal::Changed);
        }
        let before = read(tables, number);
        let row = RegionLinkRow {
            is_paused: is_paused.unwrap_or(before.is_paused),
            bytes_per_second: bytes_per_second.unwrap_or(before.bytes_per_second),
        };
        if row == before {
            return Ok(Reply::Unchanged);
        }
        tables.put(keys::region_link(number), codec::encode(&row));
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::peer::DeletePeer;
    use crate::metadata::testing::{World, peer};

    // Each wish is changed alone, and forgotten with the region.
    #[test]
    fn wishes() {
        let mut world = World::cluster();
        let set = |is_paused, bytes_per_second| SetRegionLink { number: 2, is_paused, bytes_per_second };
        assert_eq!(world.refused(set(Some(true), None)), Refusal::Changed);
        world.ok(peer(2, "eu"));
        assert_eq!(world.ok(set(Some(false), Some(0))), Reply::Unchanged);
        world.ok(set(Some(true), None));
        world.ok(set(None, Some(1 << 20)));
        assert_eq!(read(&world.tables, 2), RegionLinkRow { is_paused: true, bytes_per_second: 1 << 20 });
        world.ok(DeletePeer { number: 2 });
        assert_eq!(read(&world.tables, 2), RegionLinkRow::default());
    }
}

//! What operators want of the link to another region: whether its changes are followed, how fast, and that this region
//! takes over from one that is lost.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use super::{cursor, offer, peer};
use crate::vocabulary::ids::Lineage;
use crate::vocabulary::refusal::Refusal;

/// What is wanted of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RegionLinkRow {
    /// Nothing is taken from the region until an operator says so; it keeps its changes for as long as it keeps any.
    pub is_paused: bool,
    /// Bytes of blobs that are taken from it in a second; zero for as many as there can be.
    pub bytes_per_second: u64,
    /// This region has taken over from it, until it is resumed.
    pub taken_over: Option<TakenOver>,
}

impl Stored for RegionLinkRow {}

/// What was here of a region when this one took over from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TakenOver {
    /// When, replicated milliseconds since 1970.
    pub at_ms: u64,
    /// The life of the region's log, and everything up to an index of it; `None`: nothing was ever applied.
    pub applied: Option<(Lineage, u64)>,
    /// All that it acknowledged before this time of its own clock, milliseconds since 1970.
    pub complete_ms: u64,
}

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
            // who is followed again is not lost
            taken_over: before.taken_over.filter(|_| is_paused != Some(false)),
        };
        if row == before {
            return Ok(Reply::Unchanged);
        }
        tables.put(keys::region_link(number), codec::encode(&row));
        Ok(Reply::Done)
    }
}

/// This region takes over from one that is lost: nothing is taken from it, and what it would have sent is absent, not
/// late, until it is followed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TakeOverRegion {
    /// The lost region's number.
    pub number: u16,
    /// Up to which time of its clock the proposer knows that everything is here; the cursor may know more.
    pub complete_ms: u64,
}

impl Apply for TakeOverRegion {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let TakeOverRegion { number, complete_ms } = self;
        if peer::read(tables, number).is_none() {
            return Err(Refusal::Changed);
        }
        let before = read(tables, number);
        if before.taken_over.is_some() {
            return Ok(Reply::Unchanged);
        }
        let cursor = cursor::of_source(tables, number);
        let taken_over = TakenOver {
            at_ms: context.clock.now_ms,
            applied: cursor.map(|row| (row.lineage, row.index)),
            complete_ms: cursor.map_or(0, |row| row.complete_ms).max(complete_ms),
        };
        let row = RegionLinkRow { is_paused: true, taken_over: Some(taken_over), ..before };
        tables.put(keys::region_link(number), codec::encode(&row));
        offer::forget(tables, number);
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::replication::rules::ReadThrough;
    use crate::decide::replication::tags::TagScope;
    use crate::metadata::cursor::MoveCursor;
    use crate::metadata::offer::{NoteOffer, OfferRow};
    use crate::metadata::peer::DeletePeer;
    use crate::metadata::replication_rules::SentRow;
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
        let expected = RegionLinkRow { is_paused: true, bytes_per_second: 1 << 20, taken_over: None };
        assert_eq!(read(&world.tables, 2), expected);
        world.ok(DeletePeer { number: 2 });
        assert_eq!(read(&world.tables, 2), RegionLinkRow::default());
    }

    // What was here is written down once; what the lost region would send is not waited for, until it is followed
    // again.
    #[test]
    fn taking_over() {
        let mut world = World::cluster();
        let take_over = |complete_ms| TakeOverRegion { number: 2, complete_ms };
        assert_eq!(world.refused(take_over(1)), Refusal::Changed);
        world.ok(peer(2, "eu"));
        let lineage = Lineage(7);
        world.ok(MoveCursor { source: 2, before: None, lineage, index: 5, complete_ms: 50 });
        let (filters, read_through) = (vec![], ReadThrough::Full);
        let sent = SentRow { filters, read_through, transitive: false, settings: false, tags: TagScope::ALL };
        let offer = NoteOffer { number: 2, offer: OfferRow(vec![sent]) };
        world.ok(offer.clone());
        world.ok(take_over(40));
        assert_eq!(world.ok(take_over(90)), Reply::Unchanged);
        let row = read(&world.tables, 2);
        let taken_over = row.taken_over.unwrap();
        assert_eq!((taken_over.applied, taken_over.complete_ms), (Some((lineage, 5)), 50));
        assert!(row.is_paused);
        // what was under way does not bring it back
        assert_eq!(world.refused(offer.clone()), Refusal::Changed);
        assert_eq!(offer::read(&world.tables, 2), OfferRow::default());
        let set = |is_paused| SetRegionLink { number: 2, is_paused, bytes_per_second: Some(9) };
        world.ok(set(None));
        assert!(read(&world.tables, 2).taken_over.is_some());
        world.ok(set(Some(false)));
        assert_eq!(read(&world.tables, 2).taken_over, None);
        world.ok(offer);
    }
}

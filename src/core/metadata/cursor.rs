//! How far replication has come: for each region that changes come from, what has been applied here; for each that they
//! go to, what it has said.
//!
//! A cursor of changes that come in never runs ahead of them: it moves in a later command than they do. Applying one
//! again does no harm, so it may lag. It names the life of the source's log, whose indexes mean nothing in another.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use super::{cluster, peer};
use crate::vocabulary::ids::Lineage;
use crate::vocabulary::refusal::Refusal;

/// A place in a region's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CursorRow {
    /// Which life of the log.
    pub lineage: Lineage,
    /// Everything up to this index counts.
    pub index: u64,
    /// When it got there, replicated milliseconds since 1970, of this cluster.
    pub at_ms: u64,
    /// Of a source: all that it acknowledged before this time of its own clock, milliseconds since 1970, is here. Zero
    /// where that is not known.
    pub complete_ms: u64,
}

impl Stored for CursorRow {}

/// How far changes of a region have been applied here.
pub fn of_source(tables: &impl TablesRead, number: u16) -> Option<CursorRow> {
    tables.get(&keys::source_cursor(number)).map(|bytes| codec::row(&bytes))
}

/// How far a region says it has applied the changes of this one.
pub fn of_destination(tables: &impl TablesRead, number: u16) -> Option<CursorRow> {
    tables.get(&keys::destination_cursor(number)).map(|bytes| codec::row(&bytes))
}

/// A region is forgotten.
pub(super) fn forget(tables: &mut impl Tables, number: u16) {
    tables.delete_present(keys::source_cursor(number));
    tables.delete_present(keys::destination_cursor(number));
}

/// Everything up to an index of a region's log has been applied here, or was seen not to concern this region.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MoveCursor {
    /// The region's number.
    pub source: u16,
    /// The cursor that the proposer saw; another one means that somebody else is at work.
    pub before: Option<(Lineage, u64)>,
    /// The life of its log.
    pub lineage: Lineage,
    /// The index.
    pub index: u64,
    /// Up to which time of its clock that is everything; see [`CursorRow`].
    pub complete_ms: u64,
}

impl Apply for MoveCursor {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if peer::read(tables, self.source).is_none() {
            return Err(Refusal::Changed);
        }
        let row = of_source(tables, self.source);
        let present = row.map(|row| (row.lineage, row.index));
        if present == Some((self.lineage, self.index)) {
            return Ok(Reply::Unchanged);
        }
        let is_back = present.is_some_and(|(lineage, index)| lineage == self.lineage && index > self.index);
        if present != self.before || is_back {
            return Err(Refusal::Changed);
        }
        let MoveCursor { lineage, index, .. } = self;
        // what is here stays, whatever becomes of the source's log
        let complete_ms = row.map_or(0, |row| row.complete_ms).max(self.complete_ms);
        let row = CursorRow { lineage, index, at_ms: context.clock.now_ms, complete_ms };
        tables.put(keys::source_cursor(self.source), codec::encode(&row));
        Ok(Reply::Done)
    }
}

/// A region says how far it has applied the changes of this one: they need not be kept for it any more.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NoteDestination {
    /// The region's number.
    pub number: u16,
    /// The life of this cluster's log that it speaks of.
    pub lineage: Lineage,
    /// The index.
    pub index: u64,
}

impl Apply for NoteDestination {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let own = cluster::read(tables).map(|row| row.lineage);
        if peer::read(tables, self.number).is_none() || own != Some(self.lineage) || self.index > context.index {
            return Err(Refusal::Changed);
        }
        let present = of_destination(tables, self.number).filter(|row| row.lineage == self.lineage);
        if present.is_some_and(|row| row.index >= self.index) {
            return Ok(Reply::Unchanged);
        }
        let (at_ms, complete_ms) = (context.clock.now_ms, 0);
        let row = CursorRow { lineage: self.lineage, index: self.index, at_ms, complete_ms };
        tables.put(keys::destination_cursor(self.number), codec::encode(&row));
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::peer::DeletePeer;
    use crate::metadata::testing::{World, peer};

    fn world() -> World {
        let mut world = World::cluster();
        world.ok(peer(2, "eu"));
        world
    }

    // A cursor moves on, never back in one life of the source's log, and only for who saw where it stands.
    #[test]
    fn of_a_source() {
        let mut world = world();
        let to = |before: Option<(u64, u64)>, lineage, index| MoveCursor {
            source: 2,
            before: before.map(|(lineage, index)| (Lineage(lineage), index)),
            lineage: Lineage(lineage),
            index,
            complete_ms: index * 10,
        };
        world.ok(to(None, 7, 10));
        assert_eq!(world.ok(to(None, 7, 10)), Reply::Unchanged);
        assert_eq!(world.refused(to(None, 7, 11)), Refusal::Changed);
        assert_eq!(world.refused(to(Some((7, 10)), 7, 9)), Refusal::Changed);
        world.ok(to(Some((7, 10)), 7, 20));
        world.ok(to(Some((7, 20)), 8, 3));
        let row = of_source(&world.tables, 2).unwrap();
        assert_eq!((row.lineage, row.index, row.complete_ms), (Lineage(8), 3, 200), "what was here stays");
        assert_eq!(world.refused(MoveCursor { source: 3, ..to(None, 1, 1) }), Refusal::Changed);
        world.ok(DeletePeer { number: 2 });
        assert_eq!(of_source(&world.tables, 2), None);
        assert_eq!(world.refused(to(None, 8, 4)), Refusal::Changed);
    }

    // What a region says of this one counts if it speaks of this life of the log, and not of its future.
    #[test]
    fn of_a_destination() {
        let mut world = world();
        let note = |lineage, index| NoteDestination { number: 2, lineage: Lineage(lineage), index };
        world.ok(note(1, 2));
        assert_eq!(world.ok(note(1, 1)), Reply::Unchanged);
        assert_eq!(world.refused(note(9, 1)), Refusal::Changed);
        assert_eq!(world.refused(note(1, 1000)), Refusal::Changed);
        assert_eq!(world.refused(NoteDestination { number: 3, ..note(1, 1) }), Refusal::Changed);
        world.ok(note(1, 4));
        assert_eq!(of_destination(&world.tables, 2).unwrap().index, 4);
    }
}

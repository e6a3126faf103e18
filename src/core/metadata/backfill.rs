//! What another region held before its rules, and how much of it has been taken over here.
//!
//! A rule may have what was pushed before it copied as well. The destination walks through it by itself and notes how
//! far it is, so that another leader goes on there. Everything passes the same ranks as any change, so that a walk may
//! begin anew at any time and undoes nothing. Source: consensus-and-faults §6.4.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot};
use super::peer;
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use crate::vocabulary::ids::Lineage;
use crate::vocabulary::limits::REGISTER_KEY_BYTES_MAX;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;
use crate::vocabulary::version::Version;

/// A place in the walk: repositories by name, the records of each from the newest to the oldest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Place {
    /// The repository.
    pub repository: RepositoryName,
    /// Version and register key of the last record that was settled; `None` when all of them were.
    pub record: Option<(Version, Vec<u8>)>,
}

/// The walk through what a region held before its rules: the one under way, or the last one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BackfillRow {
    /// The life of that region's log that the indexes are of.
    pub lineage: Lineage,
    /// Index there of the youngest rule that asks for it.
    pub rule: u64,
    /// What rules up to this index ask for is here already.
    pub done: u64,
    /// Everything up to here is settled; `None` at the beginning.
    pub at: Option<Place>,
    /// Records settled.
    pub settled: u64,
    /// Records that the region said it has of it, when the walk began.
    pub total: u64,
    /// When it began, replicated milliseconds since 1970.
    pub began_at_ms: u64,
    /// When it ended; `None` while it is under way.
    pub ended_at_ms: Option<u64>,
}

impl Stored for BackfillRow {}

impl BackfillRow {
    /// Index of the youngest rule whose backfill has ended.
    fn filled(&self) -> u64 {
        if self.ended_at_ms.is_some() { self.rule } else { self.done }
    }
}

/// The walk through what a region held.
pub fn of_source(tables: &impl TablesRead, number: u16) -> Option<BackfillRow> {
    tables.get(&keys::backfill(number)).map(|bytes| codec::row(&bytes))
}

/// Up to which index of a life of a region's log what its rules ask for is here.
pub fn filled(tables: &impl TablesRead, number: u16, lineage: Lineage) -> u64 {
    of_source(tables, number).filter(|row| row.lineage == lineage).map_or(0, |row| row.filled())
}

/// A region is forgotten.
pub(super) fn forget(tables: &mut impl Tables, number: u16) {
    tables.delete_present(keys::backfill(number));
}

/// A walk begins, has come further, or has ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MoveBackfill {
    /// The region's number.
    pub source: u16,
    /// What the proposer saw; anything else means that somebody else is at work.
    pub before: Option<BackfillRow>,
    /// What it is now; when it began is taken from here, and so is when it ended, if it did.
    pub row: BackfillRow,
}

impl Apply for MoveBackfill {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let MoveBackfill { source, before, mut row } = self;
        let key_bytes = row.at.as_ref().and_then(|at| at.record.as_ref()).map_or(0, |(_, register)| register.len());
        if key_bytes > REGISTER_KEY_BYTES_MAX {
            let detail = format!("the key of a register, up to {REGISTER_KEY_BYTES_MAX} bytes");
            return Err(Refusal::ParameterInvalid { parameter: "row".to_owned(), detail });
        }
        if peer::read(tables, source).is_none() || of_source(tables, source) != before {
            return Err(Refusal::Changed);
        }
        let now_ms = context.clock.now_ms;
        let same = before.filter(|before| (before.lineage, before.rule) == (row.lineage, row.rule));
        row.began_at_ms = same.map_or(now_ms, |before| before.began_at_ms);
        row.ended_at_ms = row.ended_at_ms.map(|_| now_ms);
        tables.put(keys::backfill(source), codec::encode(&row));
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::peer::DeletePeer;
    use crate::metadata::testing::{World, peer, repository_key};

    fn row(rule: u64, done: u64, settled: u64) -> BackfillRow {
        let (lineage, total) = (Lineage(7), 9);
        BackfillRow { lineage, rule, done, at: None, settled, total, began_at_ms: 0, ended_at_ms: None }
    }

    // A walk goes on for who saw where it stands, counts when it has ended, and is forgotten with its region.
    #[test]
    fn walks() {
        let mut world = World::cluster();
        let to = |before: Option<BackfillRow>, row: BackfillRow| MoveBackfill { source: 2, before, row };
        assert_eq!(world.refused(to(None, row(30, 0, 0))), Refusal::Changed);
        world.ok(peer(2, "eu"));
        world.ok(to(None, row(30, 0, 0)));
        let read = |world: &World| of_source(&world.tables, 2);
        let begun = read(&world).unwrap();
        assert!(begun.began_at_ms > 0);
        assert_eq!(world.refused(to(None, row(30, 0, 5))), Refusal::Changed);
        let name = repository_key("team/app", 1).name;
        let at = Some(Place { repository: name.clone(), record: Some((Version::default(), vec![2; 129])) });
        world.ok(to(read(&world), BackfillRow { at, ..row(30, 0, 5) }));
        assert_eq!(read(&world).unwrap().began_at_ms, begun.began_at_ms);
        let filled = |world: &World, lineage| filled(&world.tables, 2, Lineage(lineage));
        assert_eq!(filled(&world, 7), 0);
        world.ok(to(read(&world), BackfillRow { ended_at_ms: Some(0), ..row(30, 0, 9) }));
        assert_eq!((filled(&world, 7), filled(&world, 8)), (30, 0));
        // the next one leaves what the first one brought counted
        world.ok(to(read(&world), row(50, 30, 0)));
        assert_eq!(filled(&world, 7), 30);
        let at = Some(Place { repository: name, record: Some((Version::default(), vec![0; 200])) });
        let long = to(read(&world), BackfillRow { at, ..row(50, 30, 1) });
        assert!(matches!(world.refused(long), Refusal::ParameterInvalid { .. }));
        world.ok(DeletePeer { number: 2 });
        assert_eq!(read(&world), None);
    }
}

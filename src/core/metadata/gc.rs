//! Where garbage collection stands, and what operators want of it: one row, so that a new leader goes on where the old
//! one stopped and any node can tell.
//!
//! A leader walks the slots in [`Phase`]s; that makes a cycle. It writes down where it is now and then; what it wrote
//! last is where the next one goes on. The rows that are collected say themselves whether they still may be, so walking
//! over a slot twice is harmless.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot, table};
use super::reply::Reply;
use super::sweep::Survey;
use super::tables::{Tables, TablesRead};
use crate::vocabulary::refusal::Refusal;

/// What a walk over all slots does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Phase {
    /// Deletes untagged and orphaned manifests, where that is wanted.
    Manifests,
    /// Takes from repositories what none of their manifests names.
    Links,
    /// Fences uses that no link stands on.
    Uses,
    /// Drops loose uses from their records.
    Settle,
    /// Counts records, and those that nobody uses.
    Survey,
    /// Condemns records that nobody uses, sweeps those whose grace time is over.
    Sweep,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Phase; 6] =
        [Phase::Manifests, Phase::Links, Phase::Uses, Phase::Settle, Phase::Survey, Phase::Sweep];

    /// The one after this; `None` after the last.
    pub fn next(self) -> Option<Phase> {
        Phase::ALL.into_iter().find(|phase| *phase > self)
    }

    /// Its name, for people and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Manifests => "manifests",
            Phase::Links => "links",
            Phase::Uses => "uses",
            Phase::Settle => "settle",
            Phase::Survey => "survey",
            Phase::Sweep => "sweep",
        }
    }
}

/// What a cycle has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Tally {
    /// Rows looked at.
    pub looked_at: u64,
    /// Manifests deleted.
    pub manifests: u64,
    /// Links taken from repositories.
    pub links: u64,
    /// Uses dropped from records.
    pub uses: u64,
    /// Records that are not condemned, and the bytes of one copy of each.
    pub records: u64,
    /// See `records`.
    pub bytes: u64,
    /// Those of them that nobody uses.
    pub unused: u64,
    /// See `unused`.
    pub unused_bytes: u64,
    /// Records condemned.
    pub condemned: u64,
    /// Bytes of one copy of each.
    pub condemned_bytes: u64,
    /// Records swept.
    pub swept: u64,
    /// Bytes of one copy of each.
    pub swept_bytes: u64,
}

impl Tally {
    /// Takes over what a survey has counted.
    pub fn count(&mut self, survey: &Survey) {
        let Survey { records, bytes, unused, unused_bytes } = *survey;
        (self.records, self.bytes, self.unused, self.unused_bytes) = (records, bytes, unused, unused_bytes);
    }

    /// What the survey has counted so far.
    pub fn surveyed(&self) -> Survey {
        let Tally { records, bytes, unused, unused_bytes, .. } = *self;
        Survey { records, bytes, unused, unused_bytes }
    }

    /// Whether anything changed.
    pub fn is_idle(&self) -> bool {
        self.manifests + self.links + self.uses + self.condemned + self.swept == 0
    }
}

/// A cycle under way.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UnderWay {
    /// What it does.
    pub phase: Phase,
    /// The slot it is at; those before are done.
    pub slot: Slot,
    /// Per cent of all bytes that it may condemn, if an operator said so; else the leader's setting counts.
    pub allow_percent: Option<u8>,
    /// When it began, replicated milliseconds since 1970.
    pub began_at_ms: u64,
    /// What it has done so far.
    pub tally: Tally,
}

/// How a cycle ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Ending {
    /// It did all there was to do.
    Done,
    /// It would have condemned too much, and waits for an operator.
    Held,
    /// Something could not be read or proposed: it gave up, and the next one begins anew.
    Aborted,
}

/// The last cycle.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ended {
    /// When it began, replicated milliseconds since 1970.
    pub began_at_ms: u64,
    /// When it ended.
    pub ended_at_ms: u64,
    /// How.
    pub ending: Ending,
    /// What it did.
    pub tally: Tally,
}

/// Where collection stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct GcRow {
    /// Counts the changes of this row.
    pub version: u64,
    /// No cycle runs until an operator says otherwise.
    pub paused: bool,
    /// An operator wants a cycle now, which may condemn so many per cent of all bytes.
    pub asked: Option<Option<u8>>,
    /// Cycles so far that were written down.
    pub cycles: u64,
    /// The one under way.
    pub under_way: Option<UnderWay>,
    /// The last one.
    pub last: Option<Ended>,
}

impl Stored for GcRow {}

impl GcRow {
    /// Whether the last cycle would have condemned too much, and waits for an operator.
    pub fn is_held(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.ending == Ending::Held)
    }
}

/// Reads where collection stands.
pub fn read(tables: &impl TablesRead) -> GcRow {
    tables.get(&keys::system(table::GC)).map_or_else(GcRow::default, |bytes| codec::row(&bytes))
}

fn put(tables: &mut impl Tables, row: GcRow) {
    tables.put(keys::system(table::GC), codec::encode(&GcRow { version: row.version + 1, ..row }));
}

/// An operator pauses collection, resumes it, or wants a cycle now.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ControlGc {
    /// Pause or resume; `None` leaves it as it is.
    pub paused: Option<bool>,
    /// Run a cycle now, which may condemn so many per cent of all bytes; without a number the setting counts.
    pub run: Option<Option<u8>>,
}

impl Apply for ControlGc {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let invalid = |parameter: &str, detail: &str| {
            Err(Refusal::ParameterInvalid { parameter: parameter.to_owned(), detail: detail.to_owned() })
        };
        let mut row = read(tables);
        row.paused = self.paused.unwrap_or(row.paused);
        if let Some(allow_percent) = self.run {
            if row.paused {
                return invalid("run", "collection is paused; resume it first (`portolan gc resume`)");
            }
            if allow_percent.is_some_and(|percent| percent > 100) {
                return invalid("allow_percent", "it is a number from 0 to 100");
            }
            row.asked = Some(allow_percent);
        }
        put(tables, row);
        Ok(Reply::Done)
    }
}

/// The leader writes down where its cycle stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NoteGc {
    /// The row's version that it saw: another leader's or an operator's word since then makes this one void.
    pub version: u64,
    /// The cycle takes up what an operator asked for.
    pub takes_asked: bool,
    /// The cycle under way from now on.
    pub under_way: Option<UnderWay>,
    /// The cycle that ended now.
    pub ended: Option<Ended>,
}

impl Apply for NoteGc {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let mut row = read(tables);
        if row.version != self.version {
            return Ok(Reply::Unchanged);
        }
        if self.takes_asked {
            row.asked = None;
        }
        if self.ended.is_some() {
            row.cycles += 1;
            row.last = self.ended;
        }
        row.under_way = self.under_way;
        put(tables, row);
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::testing::World;

    // Pausing, resuming and asking; a paused collection takes no wish for a run.
    #[test]
    fn control() {
        let mut world = World::cluster();
        assert_eq!(read(&world.tables), GcRow::default());
        let run = |percent| ControlGc { paused: None, run: Some(percent) };
        world.ok(ControlGc { paused: Some(true), run: None });
        assert!(matches!(world.refused(run(None)), Refusal::ParameterInvalid { .. }));
        assert_eq!(read(&world.tables).version, 1);
        world.ok(ControlGc { paused: Some(false), run: Some(Some(100)) });
        assert!(matches!(world.refused(run(Some(101))), Refusal::ParameterInvalid { .. }));
        let row = read(&world.tables);
        assert_eq!((row.paused, row.asked), (false, Some(Some(100))));
    }

    // Of two leaders the one that saw less writes nothing; an operator's word is not lost under a leader's.
    #[test]
    fn notes_are_conditional() {
        let mut world = World::cluster();
        let under_way = UnderWay {
            phase: Phase::Links,
            slot: 5,
            allow_percent: Some(40),
            began_at_ms: 7,
            tally: Tally { links: 3, ..Tally::default() },
        };
        world.ok(ControlGc { paused: None, run: Some(None) });
        let note = NoteGc { version: 1, takes_asked: true, under_way: Some(under_way.clone()), ended: None };
        assert_eq!(world.ok(NoteGc { version: 0, ..note.clone() }), Reply::Unchanged);
        assert_eq!(world.ok(note.clone()), Reply::Done);
        assert_eq!(world.ok(note), Reply::Unchanged);
        let row = read(&world.tables);
        assert_eq!((row.asked, row.under_way, row.cycles), (None, Some(under_way), 0));
        let ended = Ended { began_at_ms: 7, ended_at_ms: 9, ending: Ending::Held, tally: Tally::default() };
        world.ok(ControlGc { paused: Some(true), run: None });
        let end = NoteGc { version: 2, takes_asked: false, under_way: None, ended: Some(ended.clone()) };
        assert_eq!(world.ok(end.clone()), Reply::Unchanged);
        assert_eq!(world.ok(NoteGc { version: 3, ..end }), Reply::Done);
        let row = read(&world.tables);
        assert_eq!((row.paused, row.under_way, row.last, row.cycles), (true, None, Some(ended), 1));
    }

    // The phases follow each other once.
    #[test]
    fn phases() {
        let mut walked = vec![Phase::ALL[0]];
        while let Some(next) = walked[walked.len() - 1].next() {
            walked.push(next);
        }
        assert_eq!(walked, Phase::ALL);
    }
}

//! Nodes that the leader does not hear: for how long, and when their copies are made elsewhere.
//!
//! No two clocks are ever compared. A leader counts spans of its own monotonic time in which it heard nothing at all
//! of a node, and adds each whole span to the node's row; a change of leader loses at most the span under way. So the
//! sum never runs ahead of real time, and what follows from it (another copy) is never early. A node that is heard
//! again has no row. The ticks of [`clock`](super::clock) are for bytes that are freed: hours each, too coarse here.
//!
//! Source: consensus-and-faults §5.6.

use std::time::Duration;

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot};
use super::node::{self, NodeState};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use crate::vocabulary::ids::NodeId;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::stored::stored_enum;

stored_enum! {
    /// What follows from a node's absence.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Stage {
        /// Nothing: it may be starting again.
        Missed = 1,
        /// Its copies are made elsewhere in its zone.
        Replaced = 2,
        /// If its whole zone is, a last copy does not wait for it.
        Stranded = 3,
    }
}

/// A node that leaders do not hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AbsenceRow {
    /// For how long, as leaders have counted.
    pub absent_ms: u64,
    /// What follows.
    pub stage: Stage,
}

impl Stored for AbsenceRow {}

/// After how long what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A node's copies are made elsewhere in its zone.
    pub node: Duration,
    /// A zone of such nodes is not waited for with a last copy.
    pub zone: Duration,
}

impl Patience {
    /// The row after another span in which nothing of a node was heard; the same when no more follows from it.
    pub fn counted(&self, before: Option<AbsenceRow>, span: Duration) -> AbsenceRow {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if let Some(before) = before.filter(|before| before.stage == Stage::Stranded) {
            return before;
        }
        let (absent_ms, before) = before.map_or((0, Stage::Missed), |row| (row.absent_ms, row.stage));
        let absent_ms = absent_ms.saturating_add(ms(span));
        let stage = match absent_ms {
            _ if absent_ms >= ms(self.zone.max(self.node)) => Stage::Stranded,
            _ if absent_ms >= ms(self.node) => Stage::Replaced,
            _ => Stage::Missed,
        };
        AbsenceRow { absent_ms, stage: stage.max(before) }
    }
}

/// Reads a node's absence; `None` while it is heard.
pub fn read(tables: &impl TablesRead, node: NodeId) -> Option<AbsenceRow> {
    tables.get(&keys::absence(node)).map(|bytes| codec::row(&bytes))
}

pub(super) fn stage(tables: &impl TablesRead, node: NodeId) -> Option<Stage> {
    read(tables, node).map(|row| row.stage)
}

/// A node is gone for good, or of another life: nobody waits for it.
pub(super) fn forget(tables: &mut impl Tables, node: NodeId) {
    tables.delete_present(keys::absence(node));
}

/// The leader has counted another span, or has heard the node. `before` makes a late or repeated one harmless.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NoteAbsence {
    /// Which node.
    pub node: NodeId,
    /// What the leader saw.
    pub before: Option<AbsenceRow>,
    /// What is so now; `None`: it was heard.
    pub now: Option<AbsenceRow>,
}

impl Apply for NoteAbsence {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let Some(row) = node::read(tables, self.node) else { return Err(Refusal::NodeUnknown { node: self.node }) };
        let before = read(tables, self.node);
        let is_back = self.now.zip(before).is_some_and(|(now, before)| now.absent_ms < before.absent_ms);
        if row.state == NodeState::Removed || before != self.before || before == self.now || is_back {
            return Ok(Reply::Unchanged);
        }
        match self.now {
            Some(now) => tables.put(keys::absence(self.node), codec::encode(&now)),
            None => tables.delete(keys::absence(self.node)),
        }
        let standing = |row: Option<AbsenceRow>| row.map_or(Stage::Missed, |row| row.stage);
        // the topology's row wakes everybody who looks after copies: only when something follows
        if standing(before) != standing(self.now) {
            node::summarise(tables);
        }
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::placement::StoreState;
    use crate::metadata::node::SetNodeState;
    use crate::metadata::testing::World;
    use crate::vocabulary::ids::StoreId;

    const PATIENCE: Patience = Patience { node: Duration::from_secs(900), zone: Duration::from_secs(3600) };
    const SPAN: Duration = Duration::from_secs(60);

    /// A leader that knows this much notes one more span without a word.
    fn miss(world: &mut World, node: NodeId) -> Reply {
        let before = read(&world.tables, node);
        world.ok(NoteAbsence { node, before, now: Some(PATIENCE.counted(before, SPAN)) })
    }

    fn state(world: &World) -> StoreState {
        node::topology(&world.tables).store(StoreId(3)).unwrap().state
    }

    // Fourteen whole minutes change nothing; the fifteenth takes the node's copies out of the count, the sixtieth its
    // zone, and then nothing is written any more. Heard once, it is as before, and counts from nothing.
    #[test]
    fn minutes() {
        let (mut world, node) = (World::region(&["a", "b", "c"]), NodeId(3));
        let before = node::topology(&world.tables);
        for _ in 0..14 {
            miss(&mut world, node);
            assert_eq!(state(&world), StoreState::Up);
        }
        miss(&mut world, node);
        assert_eq!(state(&world), StoreState::Away);
        (0..44).for_each(|_| drop(miss(&mut world, node)));
        assert_eq!((state(&world), node::topology(&world.tables).has_lost_zone()), (StoreState::Away, false));
        miss(&mut world, node);
        assert_eq!((state(&world), node::topology(&world.tables).has_lost_zone()), (StoreState::Stranded, true));
        assert_eq!(miss(&mut world, node), Reply::Unchanged);
        let heard = NoteAbsence { node, before: read(&world.tables, node), now: None };
        assert_eq!(world.ok(heard.clone()), Reply::Done);
        assert_eq!(world.ok(heard), Reply::Unchanged);
        assert_eq!(node::topology(&world.tables), before);
        (0..14).for_each(|_| drop(miss(&mut world, node)));
        assert_eq!(state(&world), StoreState::Up);
    }

    // What a leader that was cut off saw does not count; who drains or is gone is not taken for lost.
    #[test]
    fn old_views() {
        let (mut world, node) = (World::region(&["a", "b", "c"]), NodeId(3));
        let late = NoteAbsence { node, before: None, now: Some(AbsenceRow { absent_ms: 9, stage: Stage::Stranded }) };
        miss(&mut world, node);
        assert_eq!(world.ok(late), Reply::Unchanged);
        let before = read(&world.tables, node);
        let back = NoteAbsence { node, before, now: Some(AbsenceRow { absent_ms: 1, stage: Stage::Missed }) };
        assert_eq!(world.ok(back), Reply::Unchanged);
        world.ok(SetNodeState { node, state: NodeState::Draining });
        (0..20).for_each(|_| drop(miss(&mut world, node)));
        assert_eq!(state(&world), StoreState::Draining);
        world.ok(SetNodeState { node, state: NodeState::Removed });
        assert_eq!((read(&world.tables, node), miss(&mut world, node)), (None, Reply::Unchanged));
        let nobody = NoteAbsence { node: NodeId(77), before: None, now: None };
        assert_eq!(world.refused(nobody), Refusal::NodeUnknown { node: NodeId(77) });
    }
}

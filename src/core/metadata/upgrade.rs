//! Feature levels: what all nodes of a cluster understand, and the step from one level to the next.
//!
//! Nodes of two releases may serve one cluster as long as its level stays at the older one's: a command above the level
//! is refused by nodes of every age alike, and what older commands do *beside* their old work is not done. The step
//! ([`RaiseLevel`]) is for good, and possible once every node knows the new level. After it a slot still works at the
//! old level until [`MigrateSlot`] has written the rows that the new one counts on; a cluster that was founded at its
//! level has nothing to migrate.
//!
//! | level | since | what it brings |
//! |---|---|---|
//! | 1 | 0.1.0 | |
//! | 2 | 0.2.0 | collection of garbage, lists of untagged manifests, counters of what is held, quotas, lost nodes |
//! | 3 | 0.2.0 | other regions: what tags rank by, the stream of changes, deletes that are remembered |
//!
//! Source: security-cases R7.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::cluster;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SLOTS, SYSTEM, Slot, table};
use super::node::{self, NodeState};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use super::{repository, settings, tag, untagged, usage};
use crate::vocabulary::refusal::Refusal;

/// The lower level of 0.2.0; see the table above.
pub const LEVEL_2: u16 = 2;

/// The level of 0.2.0.
pub const LEVEL_3: u16 = 3;

/// A step under way: not all slots have been migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UpgradeRow {
    /// The level that slots without a [`SlotLevelRow`] work at.
    pub from: u16,
}

impl Stored for UpgradeRow {}

/// The level that a slot's rows were migrated to, last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SlotLevelRow(pub u16);

impl Stored for SlotLevelRow {}

/// The step under way.
pub fn read(tables: &impl TablesRead) -> Option<UpgradeRow> {
    tables.get(&keys::system(table::UPGRADE)).map(|bytes| codec::row(&bytes))
}

/// The level at which commands work in a slot; 0 before the founding.
pub fn level_of(tables: &impl TablesRead, slot: Slot) -> u16 {
    let level = cluster::read(tables).map_or(0, |cluster| cluster.feature_level);
    if level < LEVEL_2 || slot == SYSTEM {
        return level;
    }
    read(tables).map_or(level, |under_way| migrated_to(tables, slot).unwrap_or(under_way.from))
}

fn migrated_to(tables: &impl TablesRead, slot: Slot) -> Option<u16> {
    tables.get(&keys::of_slot(slot, table::SLOT_LEVEL)).map(|bytes| codec::row::<SlotLevelRow>(&bytes).0)
}

/// What has to be proposed to bring a step under way to its end, at most so many commands; nothing when there is none.
pub fn due(tables: &impl TablesRead, limit: usize) -> Vec<super::command::Command> {
    let Some(level) = read(tables).and(cluster::read(tables)).map(|cluster| cluster.feature_level) else {
        return Vec::new();
    };
    let is_left = |slot: &Slot| migrated_to(tables, *slot) != Some(level);
    let left = (0..SLOTS).filter(is_left).take(limit);
    let commands: Vec<_> = left.map(|slot| MigrateSlot { slot, level }.into()).collect();
    if commands.is_empty() { vec![EndUpgrade { level }.into()] } else { commands }
}

/// Nodes that do not know a level, so that the cluster can't step up to it.
pub fn too_old(tables: &impl TablesRead, level: u16) -> Vec<String> {
    let nodes = node::list(tables).into_iter();
    let old = nodes.filter(|(_, row)| row.state != NodeState::Removed && row.feature_level < level);
    old.map(|(id, row)| format!("node {id} runs {}", row.version)).collect()
}

/// The cluster works at a higher level from now on, and no node can go back to an older release. Refused while a node
/// that was not removed runs one that does not know the level.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RaiseLevel {
    /// The new level.
    pub level: u16,
}

impl Apply for RaiseLevel {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let invalid = |detail: String| Refusal::ParameterInvalid { parameter: "level".to_owned(), detail };
        let Some(mut row) = cluster::read(tables) else {
            return Err(invalid("there is no cluster yet".to_owned()));
        };
        if row.feature_level >= self.level {
            return Ok(Reply::Unchanged);
        }
        if read(tables).is_some() {
            return Err(invalid(format!("the step to level {} is still under way", row.feature_level)));
        }
        let old = too_old(tables, self.level);
        if !old.is_empty() {
            return Err(invalid(format!("upgrade all nodes first, or remove them: {}", old.join(", "))));
        }
        tables.put(keys::system(table::UPGRADE), codec::encode(&UpgradeRow { from: row.feature_level }));
        row.feature_level = self.level;
        tables.put(keys::system(table::CLUSTER), codec::encode(&row));
        Ok(Reply::Done)
    }
}

/// Writes the rows that a level counts on, from those that a slot has. The work is as large as the slot: at most one
/// thousandth of the cluster, or its largest repository.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MigrateSlot {
    /// Which.
    pub slot: Slot,
    /// To which level: the cluster's.
    pub level: u16,
}

impl Apply for MigrateSlot {
    fn slot(&self) -> Slot {
        self.slot
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let level = cluster::read(tables).map_or(0, |cluster| cluster.feature_level);
        if self.slot >= SLOTS || self.level != level || context.level >= level {
            return Ok(Reply::Unchanged);
        }
        for key in repository::all_live(tables, self.slot) {
            if context.level < LEVEL_2 {
                // what the slot holds is counted as if it came now
                usage::recount(tables, &key);
                untagged::list_anew(tables, &Context { level, ..*context }, &key);
            }
            if context.level < LEVEL_3
                && let Some(row) = repository::live(tables, &key)
            {
                tag::rank_anew(tables, &key, &row.settings);
                settings::note(tables, &key, &row);
            }
        }
        tables.put(keys::of_slot(self.slot, table::SLOT_LEVEL), codec::encode(&SlotLevelRow(level)));
        Ok(Reply::Done)
    }
}

/// The step is over: all slots were migrated. Refused while one was not.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EndUpgrade {
    /// To which level: the cluster's.
    pub level: u16,
}

impl Apply for EndUpgrade {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let level = cluster::read(tables).map_or(0, |cluster| cluster.feature_level);
        if read(tables).is_none() || self.level != level {
            return Ok(Reply::Unchanged);
        }
        if (0..SLOTS).any(|slot| migrated_to(tables, slot) != Some(level)) {
            return Err(Refusal::Changed);
        }
        tables.delete(keys::system(table::UPGRADE));
        Ok(Reply::Done)
    }
}

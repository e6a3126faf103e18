//! The cluster's own row, and the check that finds nodes whose state diverged.
//!
//! The check: a leader proposes [`TakeDigest`]; every node notes its running hash right after that entry and reports it
//! through the log ([`ReportDigest`]). A node whose own note differs from a strict majority stops ([`verdict`]).

use bincode::{Decode, Encode};

use super::apply::{Context, StateDigest};
use super::clock::ClockRow;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot, table};
use super::node;
use super::reply::Reply;
use super::tables::{Tables, TablesRead, Writes};
use crate::vocabulary::ids::{ClusterId, Lineage, NodeId};
use crate::vocabulary::limits::NODES_MAX;
use crate::vocabulary::refusal::Refusal;

/// What the cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClusterRow {
    /// Its id.
    pub cluster: ClusterId,
    /// This life of its log.
    pub lineage: Lineage,
    /// Name of the region, for example `eu-west-1`.
    pub region: String,
    /// Number of the region in versions; unique among linked regions.
    pub region_number: u16,
    /// Commands above this level are not proposed yet: some node may not know them.
    pub feature_level: u16,
    /// When it was made, replicated milliseconds since 1970.
    pub created_at_ms: u64,
    /// Secret from which the keys of tokens are derived; never leaves the cluster.
    pub token_secret: [u8; 32],
    /// The secret before the last change, still accepted for one token lifetime.
    pub token_secret_before: Option<[u8; 32]>,
}

impl Stored for ClusterRow {}

/// The feature level of this binary; what each brings is told in [`upgrade`](super::upgrade).
pub const FEATURE_LEVEL: u16 = 3;

/// Reads the cluster's row; `None` before `cluster init`.
pub fn read(tables: &impl TablesRead) -> Option<ClusterRow> {
    tables.get(&keys::system(table::CLUSTER)).map(|bytes| codec::row(&bytes))
}

/// This region's number in versions; zero before there is a cluster.
pub fn region_number(tables: &impl TablesRead) -> u16 {
    read(tables).map_or(0, |row| row.region_number)
}

/// The first command of a cluster. Refused when there is one already.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InitCluster {
    /// Its id.
    pub cluster: ClusterId,
    /// This life of its log.
    pub lineage: Lineage,
    /// Name of the region.
    pub region: String,
    /// Number of the region.
    pub region_number: u16,
    /// Secret from which the keys of tokens are derived.
    pub token_secret: [u8; 32],
    /// Length of a tick, milliseconds.
    pub tick_ms: u64,
    /// Feature level the cluster begins at: the proposer's [`FEATURE_LEVEL`]. In the command, because another binary
    /// may apply it.
    pub feature_level: u16,
}

impl Apply for InitCluster {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if read(tables).is_some() {
            return Err(Refusal::ClusterInitialised);
        }
        if self.tick_ms == 0 {
            let detail = "a tick takes at least a millisecond".to_owned();
            return Err(Refusal::ParameterInvalid { parameter: "tick_ms".to_owned(), detail });
        }
        let row = ClusterRow {
            cluster: self.cluster,
            lineage: self.lineage,
            region: self.region,
            region_number: self.region_number,
            feature_level: self.feature_level,
            created_at_ms: context.clock.now_ms,
            token_secret: self.token_secret,
            token_secret_before: None,
        };
        tables.put(keys::system(table::CLUSTER), codec::encode(&row));
        let clock = ClockRow { tick_ms: self.tick_ms, ..context.clock };
        tables.put(keys::system(table::CLOCK), codec::encode(&clock));
        Ok(Reply::Done)
    }
}

/// The first command of a new life of the log, after a restore or a forced recovery: nothing that refers to the life
/// before counts any more, and its nodes are gone. Their volumes may come back with new nodes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BeginLineage {
    /// The new life.
    pub lineage: Lineage,
    /// The node that stays, if one does.
    pub keeps: Option<NodeId>,
}

impl Apply for BeginLineage {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let Some(mut row) = read(tables) else {
            let detail = "there is no cluster whose life could begin anew".to_owned();
            return Err(Refusal::ParameterInvalid { parameter: "lineage".to_owned(), detail });
        };
        if row.lineage == self.lineage {
            return Ok(Reply::Unchanged);
        }
        row.lineage = self.lineage;
        tables.put(keys::system(table::CLUSTER), codec::encode(&row));
        node::remove_all_but(tables, self.keeps);
        Ok(Reply::Done)
    }
}

/// Asks every node to note its running hash right after this entry.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TakeDigest {}

/// The log index the running hash was asked for at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct AskedRow(u64);

impl Stored for AskedRow {}

impl Apply for TakeDigest {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        tables.put(keys::system(table::DIGEST_ASKED), codec::encode(&AskedRow(context.index)));
        Ok(Reply::Done)
    }
}

/// Whether these writes ask for the running hash.
pub(crate) fn asks_digest(writes: &Writes) -> bool {
    writes.contains_key(&keys::system(table::DIGEST_ASKED))
}

/// A running hash and where it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DigestNote {
    /// Log index.
    pub index: u64,
    /// The running hash right after it.
    pub digest: StateDigest,
}

impl Stored for DigestNote {}

/// Notes this node's own hash. The one row that may differ between nodes, so it is no part of the hash.
pub(crate) fn note_digest(tables: &mut impl Tables, index: u64, digest: StateDigest) {
    tables.put(keys::system(table::OWN_DIGEST), codec::encode(&DigestNote { index, digest }));
}

/// This node's own last note.
pub fn own_digest(tables: &impl TablesRead) -> Option<DigestNote> {
    tables.get(&keys::system(table::OWN_DIGEST)).map(|bytes| codec::row(&bytes))
}

/// A node tells its note.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReportDigest {
    /// Whose.
    pub node: NodeId,
    /// What it noted.
    pub note: DigestNote,
}

impl Apply for ReportDigest {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        tables.put(keys::digest_report(self.node), codec::encode(&self.note));
        Ok(Reply::Done)
    }
}

/// What the reports say about this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A strict majority of the voters agrees with it, or too few have reported yet.
    Agrees,
    /// A strict majority agrees on another hash: this node must stop.
    Diverged {
        /// Where.
        index: u64,
    },
    /// All voters have reported and no hash has a strict majority: alarm, and nothing is purged anywhere.
    NoMajority {
        /// Where.
        index: u64,
    },
}

/// Judges this node's own note by the reports of `voters` for the same index.
pub fn verdict(tables: &impl TablesRead, voters: &[NodeId]) -> Verdict {
    let Some(own) = own_digest(tables) else { return Verdict::Agrees };
    let mut counts = std::collections::BTreeMap::new();
    let mut reported = 0usize;
    for (key, value) in tables.prefix(&keys::system(table::DIGEST_REPORT), NODES_MAX) {
        let note: DigestNote = codec::row(&value);
        let node = NodeId(u64::from_be_bytes(key[3..].try_into().expect("a report key ends with a node id")));
        if note.index == own.index && voters.contains(&node) {
            reported += 1;
            *counts.entry(note.digest.0).or_insert(0usize) += 1;
        }
    }
    match counts.iter().find(|(_, count)| **count * 2 > voters.len()) {
        Some((digest, _)) if *digest == own.digest.0 => Verdict::Agrees,
        Some(_) => Verdict::Diverged { index: own.index },
        None if reported >= voters.len() && reported > 0 => Verdict::NoMajority { index: own.index },
        None => Verdict::Agrees,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::node::{NodeState, RegisterStore, topology};
    use crate::metadata::testing::World;
    use crate::vocabulary::ids::StoreId;

    // A new life keeps one node; the volumes of the others are free for new nodes. Beginning it twice changes nothing.
    #[test]
    fn a_new_life() {
        let mut world = World::region(&["a", "b"]);
        let begin = BeginLineage { lineage: Lineage(9), keeps: Some(NodeId(1)) };
        world.ok(begin.clone());
        assert_eq!(read(&world.tables).unwrap().lineage, Lineage(9));
        let states = node::list(&world.tables).into_iter().map(|(_, row)| row.state).collect::<Vec<_>>();
        assert_eq!(states, [NodeState::Active, NodeState::Removed]);
        assert!(topology(&world.tables).store(StoreId(2)).is_none());
        world.ok(RegisterStore { store: StoreId(2), node: NodeId(1), weight: 100 });
        assert_eq!(world.ok(begin), Reply::Unchanged);
        let unfounded = BeginLineage { lineage: Lineage(9), keeps: None };
        assert!(matches!(World::empty().refused(unfounded), Refusal::ParameterInvalid { .. }));
    }
}

//! Where this room reads and changes users, keys and policies: the cluster's metadata; in unit tests the same commands
//! on tables in memory.

use registry_core::metadata::command::Command;
use registry_core::metadata::tables::TablesRead;
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::ids::Revision;

use super::Freshness;
use crate::metadata::{Consistency, Metadata, revision};

/// The state, behind one door.
#[derive(Debug)]
pub(super) enum State {
    /// Of the cluster.
    Cluster(Metadata),
    /// Of a test.
    #[cfg(test)]
    Memory(memory::Memory),
}

impl State {
    /// Waits until this node's state is new enough.
    pub(super) async fn ready(&self, freshness: Freshness) -> Result<(), Refusal> {
        match self {
            State::Cluster(metadata) => {
                let consistency = match freshness {
                    Freshness::Linearizable => Consistency::Linearizable,
                    Freshness::Fresh => Consistency::Fresh,
                };
                Ok(metadata.ready(consistency).await?)
            }
            #[cfg(test)]
            State::Memory(memory) => memory.ready(freshness),
        }
    }

    /// Looks at the state at one revision.
    pub(super) fn peek<R>(&self, read: impl FnOnce(&dyn TablesRead, Revision) -> R) -> R {
        match self {
            State::Cluster(metadata) => metadata.peek(|view| read(view, revision(view))),
            #[cfg(test)]
            State::Memory(memory) => memory.peek(read),
        }
    }

    /// Changes the state in the name of a principal.
    pub(super) async fn propose(&self, principal: &str, commands: Vec<Command>) -> Result<Revision, Refusal> {
        match self {
            State::Cluster(metadata) => Ok(metadata.propose(principal, commands).await?.revision),
            #[cfg(test)]
            State::Memory(memory) => memory.propose(principal, commands),
        }
    }
}

#[cfg(test)]
pub(super) mod memory {
    use parking_lot::Mutex;
    use registry_core::metadata::apply::{Entry, Machine};
    use registry_core::metadata::cluster;
    use registry_core::metadata::command::Proposal;
    use registry_core::metadata::reply::Outcome;
    use registry_core::metadata::tables::MemoryTables;
    use registry_core::vocabulary::ids::{Lineage, RequestId};

    use super::*;

    /// A node that may lag behind: `tables` is committed, `seen` is what merely fresh reads get.
    #[derive(Debug, Default)]
    pub(in crate::auth) struct Memory(Mutex<Inner>);

    #[derive(Debug, Default)]
    struct Inner {
        machine: Machine,
        tables: MemoryTables,
        index: u64,
        seen: Option<MemoryTables>,
        has_no_quorum: bool,
    }

    impl Memory {
        /// From here on fresh reads see the state of now, until a linearizable one catches up.
        pub(in crate::auth) fn lag(&self) {
            let mut inner = self.0.lock();
            inner.seen = Some(inner.tables.clone());
        }

        /// Consensus is lost, or found again.
        pub(in crate::auth) fn quorum(&self, is_there: bool) {
            self.0.lock().has_no_quorum = !is_there;
        }

        pub(super) fn ready(&self, freshness: Freshness) -> Result<(), Refusal> {
            let mut inner = self.0.lock();
            match freshness {
                Freshness::Fresh => Ok(()),
                Freshness::Linearizable if inner.has_no_quorum => Err(Refusal::Unavailable { retry_after_ms: 1000 }),
                Freshness::Linearizable => {
                    inner.seen = None;
                    Ok(())
                }
            }
        }

        pub(super) fn peek<R>(&self, read: impl FnOnce(&dyn TablesRead, Revision) -> R) -> R {
            let inner = self.0.lock();
            let tables = inner.seen.as_ref().unwrap_or(&inner.tables);
            let lineage = cluster::read(tables).map_or(Lineage(0), |row| row.lineage);
            read(tables, Revision { lineage, index: inner.index })
        }

        pub(super) fn propose(&self, principal: &str, commands: Vec<Command>) -> Result<Revision, Refusal> {
            let mut inner = self.0.lock();
            if inner.has_no_quorum {
                return Err(Refusal::Unavailable { retry_after_ms: 1000 });
            }
            let Inner { machine, tables, index, .. } = &mut *inner;
            *index += 1;
            let request = RequestId(u128::from(*index));
            let payload =
                Proposal { request, base: *index - 1, min_level: 1, principal: principal.into(), commands }.encode();
            let entry = Entry { index: *index, at_ms: 1_800_000_000_000 + *index, payload: &payload };
            let applied = machine.apply(tables, &[entry]).unwrap();
            tables.write(applied.writes);
            let lineage = cluster::read(tables).map_or(Lineage(0), |row| row.lineage);
            match Outcome::decode(&applied.effects[0].outcome).unwrap().refusal {
                None => Ok(Revision { lineage, index: *index }),
                Some(refusal) => Err(refusal),
            }
        }
    }
}

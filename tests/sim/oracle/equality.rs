//! Equal log, equal state: every node that has applied an entry stands where the oracle's machine stood then, and gave
//! the same answer, whatever batches and lives lie between.

use std::collections::BTreeMap;

use portolan::metadata::tables::State;
use raft::Effect;
use registry_core::metadata::apply::StateDigest;
use registry_core::metadata::tables::MemoryTables;
use registry_core::vocabulary::ids::NodeId;

pub(super) const NAME: &str = "equal log, equal state";

#[derive(Default)]
pub(super) struct Equality {
    /// After each entry.
    digests: Vec<StateDigest>,
    effects: Vec<Effect>,
}

impl Equality {
    pub(super) fn entry(&mut self, tables: &MemoryTables, effect: Effect) {
        self.digests.push(StateDigest::read(tables));
        self.effects.push(effect);
    }

    pub(super) fn applied(
        &self,
        node: NodeId,
        index: u64,
        state: &State,
        effects: &BTreeMap<u64, Effect>,
    ) -> Result<(), String> {
        let at = index as usize - 1;
        let found = state.read(|view| StateDigest::read(view));
        if found != self.digests[at] {
            return Err(format!("{node} stands elsewhere after entry {index}"));
        }
        match effects.get(&index) {
            Some(effect) if *effect != self.effects[at] => Err(format!("{node} answered entry {index} otherwise")),
            Some(_) | None => Ok(()),
        }
    }
}

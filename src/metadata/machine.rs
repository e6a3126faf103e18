//! Joins the core's apply to the trait that consensus drives.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use raft::{Committed, Effect, MachineError, StateMachine};
use registry_core::metadata::apply::{Entry, Machine};

use super::tables::{Live, State};
use super::watch::{Touched, Watch};

/// The state machine of this node: the core's [`Machine`] over RocksDB.
#[derive(Debug)]
pub struct MetadataMachine {
    state: Arc<State>,
    watch: Arc<Watch>,
    machine: Mutex<Machine>,
}

impl MetadataMachine {
    /// Over an open state; rebuilds the view of the exactly-once window.
    pub fn new(state: Arc<State>, watch: Arc<Watch>) -> MetadataMachine {
        let machine = Mutex::new(Machine::open(&Live(&state.live())));
        MetadataMachine { state, watch, machine }
    }
}

fn failed(error: impl std::fmt::Display) -> MachineError {
    MachineError::new(error.to_string())
}

impl StateMachine for MetadataMachine {
    fn apply(&self, entries: &[Committed], meta: &[u8]) -> Result<Vec<Effect>, MachineError> {
        let Some(last) = entries.last() else { return Ok(Vec::new()) };
        let batch: Vec<Entry<'_>> =
            entries.iter().map(|at| Entry { index: at.index, at_ms: at.at_ms, payload: &at.payload }).collect();
        let applied = self.machine.lock().apply(&Live(&self.state.live()), &batch).map_err(failed)?;
        let touched = Touched::of(&applied.writes);
        self.state.write(applied.writes, last.index, meta).map_err(failed)?;
        self.watch.applied(last.index, touched);
        Ok(applied.effects.into_iter().map(|at| Effect { index: at.index, reply: at.outcome.into() }).collect())
    }

    fn meta(&self) -> Result<Option<Vec<u8>>, MachineError> {
        self.state.live().meta().map_err(failed)
    }

    fn checkpoint(&self, dir: &Path) -> Result<Vec<u8>, MachineError> {
        self.state.checkpoint(dir).map_err(failed)
    }

    fn inspect(&self, dir: &Path) -> Result<Vec<u8>, MachineError> {
        self.state.inspect(dir).map_err(failed)?.ok_or_else(|| failed("the copy holds no applied index"))
    }

    fn verify(&self, dir: &Path) -> Result<Vec<u8>, MachineError> {
        self.state.verify(dir).map_err(failed)?.ok_or_else(|| failed("the copy holds no applied index"))
    }

    fn install(&self, dir: &Path) -> Result<(), MachineError> {
        let mut machine = self.machine.lock();
        self.state.install(dir).map_err(failed)?;
        // applies were skipped: every view is built anew, and reconcilers look at their rows again
        *machine = Machine::open(&Live(&self.state.live()));
        self.watch.replaced();
        Ok(())
    }
}

//! The end of a process: its databases are closed before it.
//!
//! RocksDB's locks go with the process, while a thread that still reads would take one: it would abort, and the exit
//! status would tell of a crash that was none.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use crate::metadata::tables::State;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// The databases that a node has opened. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Databases(Arc<OnceLock<(raft::Lifetime, Weak<()>)>>);

impl Databases {
    /// Those of this group and this state.
    pub(super) fn opened(&self, group: &raft::Group, state: &State) {
        let _first = self.0.set((group.lifetime(), state.lifetime()));
    }

    /// Waits until they are closed, which they are when the last thread that uses them has ended; false if one still
    /// runs when `patience` is over. Blocking; to be called when the node's runtime is gone.
    pub fn wait_closed(&self, patience: Duration) -> bool {
        let began = Instant::now();
        let is_open = || self.0.get().is_some_and(|(log, state)| !log.is_over() || state.strong_count() > 0);
        while is_open() {
            if began.elapsed() >= patience {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }
}

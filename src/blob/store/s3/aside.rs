//! Objects that this node found damaged and does not use, until good bytes took their place or the process ends.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;

use crate::blob::store::BlobKey;

/// Most findings that are remembered for the count of the quarantine.
const NOTES_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct Aside(Mutex<State>);

#[derive(Default)]
struct State {
    marked: HashSet<BlobKey>,
    /// When each was found, oldest first, on the store's clock.
    found_at_ms: VecDeque<u64>,
}

impl Aside {
    /// Marks an object; false if it was marked.
    pub(super) fn mark(&self, key: &BlobKey, now_ms: u64) -> bool {
        let mut state = self.0.lock();
        let is_new = state.marked.insert(*key);
        if is_new {
            if state.found_at_ms.len() == NOTES_MAX {
                state.found_at_ms.pop_front();
            }
            state.found_at_ms.push_back(now_ms);
        }
        is_new
    }

    pub(super) fn is_marked(&self, key: &BlobKey) -> bool {
        self.0.lock().marked.contains(key)
    }

    /// Good bytes took its place, or it is gone.
    pub(super) fn unmark(&self, key: &BlobKey) {
        self.0.lock().marked.remove(key);
    }

    /// Forgets at most `limit` findings from `before_ms` or earlier; how many.
    pub(super) fn purge(&self, before_ms: u64, limit: usize) -> usize {
        let mut state = self.0.lock();
        let old = state.found_at_ms.iter().take(limit).take_while(|at_ms| **at_ms <= before_ms).count();
        state.found_at_ms.drain(..old);
        old
    }
}

//! Blocks that several readers of one blob use: a herd that pulls one image reads and checks each block once.
//!
//! Only what was checked is kept, only while a blob has several readers, and within a bound over all blobs of a store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use registry_core::vocabulary::limits::BLOCKS_SHARED_BYTES;

/// Bytes kept of one blob.
const BLOB_BYTES_MAX: usize = 8 << 20;

/// The room of all shared blocks of a store.
#[derive(Clone, Default)]
pub(super) struct SharedRoom(Arc<AtomicUsize>);

impl SharedRoom {
    fn take(&self, bytes: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= BLOCKS_SHARED_BYTES);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What the readers of one blob have read lately.
pub(super) struct Shared {
    room: SharedRoom,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    readers: usize,
    /// Runs of whole blocks by where they begin, the oldest first.
    runs: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl Shared {
    pub(super) fn new(room: SharedRoom) -> Shared {
        Shared { room, state: Mutex::default() }
    }

    /// A reader begins.
    pub(super) fn enter(&self) {
        self.state.lock().readers += 1;
    }

    /// A reader has gone; the last one takes everything with it.
    pub(super) fn leave(&self) {
        let mut state = self.state.lock();
        state.readers -= 1;
        if state.readers == 0 {
            self.room.give(state.bytes);
            *state = State::default();
        }
    }

    /// The bytes from `at` to the end of the run that holds it.
    pub(super) fn find(&self, at: u64) -> Option<Bytes> {
        let state = self.state.lock();
        let holds = |(from, bytes): &&(u64, Bytes)| *from <= at && at - *from < bytes.len() as u64;
        let (from, bytes) = state.runs.iter().rev().find(holds)?;
        // It lies inside a buffer in memory.
        Some(bytes.slice((at - from) as usize..))
    }

    /// Keeps blocks that were just checked, if somebody else may want them.
    pub(super) fn add(&self, from: u64, bytes: &Bytes) {
        let mut state = self.state.lock();
        if state.readers < 2 || bytes.is_empty() || state.runs.iter().any(|(known, _)| *known == from) {
            return;
        }
        while state.bytes + bytes.len() > BLOB_BYTES_MAX || !self.room.take(bytes.len()) {
            let Some((_, old)) = state.runs.pop_front() else { return };
            state.bytes -= old.len();
            self.room.give(old.len());
        }
        state.bytes += bytes.len();
        state.runs.push_back((from, bytes.clone()));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.room.give(self.state.get_mut().bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: usize = 512 << 10;

    fn run() -> Bytes {
        Bytes::from(vec![7; RUN])
    }

    // One reader keeps nothing; two share what either has read, and the last one to go leaves nothing behind.
    #[test]
    fn several_readers_share() {
        let room = SharedRoom::default();
        let shared = Shared::new(room.clone());
        shared.enter();
        shared.add(0, &run());
        assert!(shared.find(0).is_none());
        shared.enter();
        shared.add(RUN as u64, &run());
        assert!(shared.find(0).is_none());
        assert_eq!(shared.find(RUN as u64).map(|bytes| bytes.len()), Some(RUN));
        assert_eq!(shared.find(RUN as u64 + 5).map(|bytes| bytes.len()), Some(RUN - 5));
        assert!(shared.find(2 * RUN as u64).is_none());
        shared.leave();
        assert!(shared.find(RUN as u64).is_some());
        shared.leave();
        assert!(shared.find(RUN as u64).is_none());
        assert_eq!(room.0.load(Ordering::Relaxed), 0);
    }

    // One blob takes its share and no more, and all together take no more than the room.
    #[test]
    fn bounded() {
        let room = SharedRoom::default();
        let blobs: Vec<Shared> = (0..100).map(|_| Shared::new(room.clone())).collect();
        for blob in &blobs {
            blob.enter();
            blob.enter();
            (0..40).for_each(|number| blob.add(number * RUN as u64, &run()));
            let bytes = blob.state.lock().bytes;
            assert!(bytes <= BLOB_BYTES_MAX && room.0.load(Ordering::Relaxed) <= BLOCKS_SHARED_BYTES);
        }
        // the youngest blocks of a blob are the ones that are kept
        assert!(blobs[0].find(39 * RUN as u64).is_some() && blobs[0].find(0).is_none());
        drop(blobs);
        assert_eq!(room.0.load(Ordering::Relaxed), 0);
    }
}

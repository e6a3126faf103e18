//! What survives a process: the blobs and stagings of a memory store.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};
use registry_core::vocabulary::digest::Algorithm;
use registry_core::vocabulary::ids::UploadId;

use crate::blob::store::{
    BLOCK_BYTES, BlobKey, BlobStat, Home, Step, StoreError, StoreResult, UploadPhase, UploadStatus, block_sum,
};

/// A disk in memory.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub(super) life: u64,
    leases: u64,
    pub(super) uploads: BTreeMap<UploadId, Upload>,
    pub(super) blobs: BTreeMap<BlobKey, Arc<Stored>>,
    pub(super) quarantine: Vec<(u64, Arc<Stored>)>,
    /// Placed without a sync, by a build that is broken on purpose.
    pub(super) unsynced: BTreeSet<BlobKey>,
    /// What was removed since the last crash: no removal is synced.
    removed: BTreeMap<BlobKey, Arc<Stored>>,
    pub(super) failed: Option<Arc<str>>,
}

/// A staged upload. Its bytes are not synced; its epoch is.
pub(super) struct Upload {
    epoch: u64,
    algorithm: Algorithm,
    pub(super) bytes: Vec<u8>,
    pub(super) phase: UploadPhase,
    pub(super) touched_at_ms: u64,
    pub(super) writer: Option<u64>,
}

/// A durable blob.
pub(super) struct Stored {
    bytes: RwLock<Bytes>,
    pub(super) sums: Vec<u64>,
    home: Home,
    is_damaged: AtomicBool,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// Cuts the power: the running store is dead, and of each staging only a prefix is left, as long as `keep` says
    /// (`None`: not even the name). What was placed stays, and what was removed is back where `returns` says so.
    pub fn crash(&self, keep: &mut dyn FnMut(UploadId, u64) -> Option<u64>, returns: &mut dyn FnMut(&BlobKey) -> bool) {
        let mut state = self.begin();
        for key in std::mem::take(&mut state.unsynced) {
            state.blobs.remove(&key);
        }
        for (key, stored) in std::mem::take(&mut state.removed) {
            if returns(&key) {
                state.blobs.entry(key).or_insert(stored);
            }
        }
        state.uploads.retain(|id, upload| match keep(*id, upload.bytes.len() as u64) {
            None => false,
            Some(left) => {
                upload.bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                true
            }
        });
    }

    /// Flips one bit of a stored blob; false if there is none at this offset.
    pub fn damage(&self, key: &BlobKey, offset: u64) -> bool {
        let Some(stored) = self.lock().blobs.get(key).cloned() else { return false };
        let mut bytes = stored.bytes.write();
        let mut changed = bytes.to_vec();
        let Some(byte) = usize::try_from(offset).ok().and_then(|offset| changed.get_mut(offset)) else { return false };
        *byte ^= 1;
        *bytes = changed.into();
        stored.is_damaged.store(true, Ordering::Relaxed);
        true
    }

    /// Whether a blob is here, and if so, whether all its bits are as they were stored.
    pub fn look(&self, key: &BlobKey) -> Option<bool> {
        self.lock().blobs.get(key).map(|stored| !stored.is_damaged.load(Ordering::Relaxed))
    }

    pub(super) fn begin_life(&self) -> u64 {
        self.begin().life
    }

    /// Ends the running store: its writers are gone, and what it had sealed is not.
    fn begin(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.life += 1;
        state.failed = None;
        for upload in state.uploads.values_mut() {
            upload.writer = None;
            upload.phase = UploadPhase::Receiving;
        }
        state
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl State {
    pub(super) fn upload(&mut self, id: UploadId) -> StoreResult<&mut Upload> {
        self.uploads.get_mut(&id).ok_or(StoreError::UploadUnknown)
    }

    pub(super) fn begin(&mut self, id: UploadId, epoch: u64, algorithm: Algorithm, now_ms: u64) -> UploadStatus {
        let phase = UploadPhase::Receiving;
        let upload = Upload { epoch, algorithm, bytes: Vec::new(), phase, touched_at_ms: now_ms, writer: None };
        let status = upload.status(id);
        self.uploads.insert(id, upload);
        status
    }

    pub(super) fn next_lease(&mut self) -> u64 {
        self.leases += 1;
        self.leases
    }

    /// Takes a blob away. The next crash may bring it back.
    pub(super) fn take(&mut self, key: &BlobKey) -> Option<Arc<Stored>> {
        let stored = self.blobs.remove(key)?;
        if !self.unsynced.remove(key) {
            self.removed.insert(*key, Arc::clone(&stored));
        }
        Some(stored)
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let staged = self.uploads.values().map(|upload| upload.bytes.len() as u64);
        let stored = self.blobs.values().chain(self.quarantine.iter().map(|(_, stored)| stored));
        staged.chain(stored.map(|stored| stored.stat().size_bytes)).sum()
    }

    pub(super) fn fail(&mut self, step: Step, error: &io::Error) -> StoreError {
        let reason: Arc<str> = format!("{step:?}: {error}").into();
        self.failed.get_or_insert_with(|| Arc::clone(&reason));
        StoreError::VolumeFailed { reason }
    }
}

impl Upload {
    pub(super) fn status(&self, id: UploadId) -> UploadStatus {
        UploadStatus {
            id,
            epoch: self.epoch,
            offset: self.bytes.len() as u64,
            algorithm: self.algorithm,
            phase: self.phase,
            touched_at_ms: self.touched_at_ms,
        }
    }

    pub(super) fn take_epoch(&mut self, epoch: u64) -> StoreResult<()> {
        if epoch < self.epoch {
            return Err(StoreError::Fenced { current: self.epoch });
        }
        if epoch > self.epoch {
            self.epoch = epoch;
            self.writer = None;
        }
        Ok(())
    }

    /// Whether `lease` may still write.
    pub(super) fn check_lease(&self, lease: u64) -> StoreResult<()> {
        if self.writer == Some(lease) { Ok(()) } else { Err(StoreError::Fenced { current: self.epoch }) }
    }
}

impl Stored {
    pub(super) fn new(bytes: Bytes, home: Home) -> Stored {
        let sums = bytes.chunks(BLOCK_BYTES).map(block_sum).collect();
        Stored { bytes: RwLock::new(bytes), sums, home, is_damaged: AtomicBool::new(false) }
    }

    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.read().clone()
    }

    pub(super) fn stat(&self) -> BlobStat {
        BlobStat { size_bytes: self.bytes.read().len() as u64, home: self.home }
    }
}

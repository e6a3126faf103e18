//! The disk of a node: the store in memory, whose power cuts take what was not synced, watched by the oracle.
//!
//! Everything runs on one thread here, so nothing may wait for a lock: where the real store waits until a digest is
//! free, this one says that it is busy.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use portolan::blob::store::memory::MemoryStore;
use portolan::blob::store::{
    BlobKey, BlobReader, BlobStat, BlobStore, Compaction, DigestLock, Health, ImportWriter, Scrubbed, StoreError,
    StoreResult, UploadStatus, UploadWriter, Usage, WalkCursor, WalkPage,
};
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::{StoreId, UploadId};

use crate::oracle::Oracle;

/// A running store of a simulated disk.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) store: MemoryStore,
    pub(crate) oracle: Oracle,
}

impl Disk {
    fn free(&self, digest: &Digest) -> StoreResult<()> {
        self.store.try_lock(digest).map(drop).ok_or(StoreError::Busy)
    }

    fn placed(&self, key: &BlobKey, stat: BlobStat) -> BlobStat {
        // to place what is here already changes nothing, also where it has rotted
        if matches!(self.store.verify(key, &mut |_| ControlFlow::Continue(())), Ok(Scrubbed::Good { .. })) {
            self.oracle.placed(self.store.store_id(), key);
        }
        stat
    }

    fn removed(&self, key: &BlobKey, was_here: bool) -> bool {
        if was_here {
            self.oracle.removed(self.store.store_id(), key);
        }
        was_here
    }
}

/// A copy on its way in.
struct Import {
    inner: Box<dyn ImportWriter>,
    key: BlobKey,
    disk: Disk,
}

impl ImportWriter for Import {
    fn append(&mut self, parts: &[Bytes]) -> StoreResult<()> {
        self.inner.append(parts)
    }

    fn finish(self: Box<Self>) -> StoreResult<BlobStat> {
        self.disk.free(&self.key.digest)?;
        let Import { inner, key, disk } = *self;
        inner.finish().map(|stat| disk.placed(&key, stat))
    }
}

impl BlobStore for Disk {
    fn store_id(&self) -> StoreId {
        self.store.store_id()
    }

    fn begin_upload(&self, id: UploadId, epoch: u64, algorithm: Algorithm) -> StoreResult<UploadStatus> {
        self.store.begin_upload(id, epoch, algorithm)
    }

    fn note_epoch(&self, id: UploadId, epoch: u64) -> StoreResult<UploadStatus> {
        self.store.note_epoch(id, epoch)
    }

    fn upload(&self, id: UploadId) -> StoreResult<UploadStatus> {
        self.store.upload(id)
    }

    fn write_upload(&self, id: UploadId, epoch: u64) -> StoreResult<Box<dyn UploadWriter>> {
        self.store.write_upload(id, epoch)
    }

    fn read_upload(&self, id: UploadId, epoch: u64, offset: u64, len: usize) -> StoreResult<Bytes> {
        self.store.read_upload(id, epoch, offset, len)
    }

    fn seal_upload(&self, id: UploadId, epoch: u64, digest: Digest) -> StoreResult<u64> {
        self.free(&digest)?;
        self.store.seal_upload(id, epoch, digest)
    }

    fn place_upload(&self, id: UploadId, digest: Digest) -> StoreResult<BlobStat> {
        self.free(&digest)?;
        self.store.place_upload(id, digest).map(|stat| self.placed(&BlobKey::new(digest, id), stat))
    }

    fn discard_upload(&self, id: UploadId) -> StoreResult<bool> {
        self.store.discard_upload(id)
    }

    fn uploads(&self, after: Option<UploadId>, limit: usize) -> Vec<UploadStatus> {
        self.store.uploads(after, limit)
    }

    fn expire_uploads(&self, idle_ms: u64, limit: usize) -> StoreResult<Vec<UploadId>> {
        self.store.expire_uploads(idle_ms, limit)
    }

    fn put(&self, key: &BlobKey, bytes: &[u8]) -> StoreResult<BlobStat> {
        self.free(&key.digest)?;
        self.store.put(key, bytes).map(|stat| self.placed(key, stat))
    }

    fn import(&self, key: &BlobKey, size_bytes: u64) -> StoreResult<Box<dyn ImportWriter>> {
        let inner = self.store.import(key, size_bytes)?;
        Ok(Box::new(Import { inner, key: *key, disk: self.clone() }))
    }

    fn lock(&self, digest: &Digest) -> DigestLock {
        self.store.try_lock(digest).expect("who waits for a lock here waits for ever")
    }

    fn try_lock(&self, digest: &Digest) -> Option<DigestLock> {
        self.store.try_lock(digest)
    }

    fn stat(&self, key: &BlobKey) -> StoreResult<Option<BlobStat>> {
        self.store.stat(key)
    }

    fn confirm(&self, key: &BlobKey) -> StoreResult<BlobStat> {
        self.free(&key.digest)?;
        self.store.confirm(key)
    }

    fn open(&self, key: &BlobKey) -> StoreResult<Arc<dyn BlobReader>> {
        self.store.open(key)
    }

    fn verify(&self, key: &BlobKey, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> StoreResult<Scrubbed> {
        self.store.verify(key, pace)
    }

    fn quarantine(&self, key: &BlobKey) -> StoreResult<bool> {
        let held = self.store.try_lock(&key.digest).ok_or(StoreError::Busy)?;
        self.set_aside(&held, key.generation)
    }

    fn set_aside(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        let was_here = self.store.set_aside(held, generation)?;
        Ok(self.removed(&BlobKey::new(*held.digest(), generation), was_here))
    }

    fn purge_quarantine(&self, before_ms: u64, limit: usize) -> StoreResult<usize> {
        self.store.purge_quarantine(before_ms, limit)
    }

    fn remove(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        let was_here = self.store.remove(held, generation)?;
        Ok(self.removed(&BlobKey::new(*held.digest(), generation), was_here))
    }

    fn walk(&self, after: Option<&WalkCursor>, limit: usize) -> StoreResult<WalkPage> {
        self.store.walk(after, limit)
    }

    fn usage(&self) -> StoreResult<Usage> {
        self.store.usage()
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    fn compact(
        &self,
        live_percent: u8,
        segments: usize,
        is_live: &mut dyn FnMut(&BlobKey) -> bool,
    ) -> StoreResult<Compaction> {
        let before = self.store.walk(None, usize::MAX)?.entries;
        before.iter().try_for_each(|entry| self.free(&entry.key.digest))?;
        let done = self.store.compact(live_percent, segments, is_live)?;
        for key in before.into_iter().map(|entry| entry.key) {
            let is_gone = self.store.stat(&key)?.is_none();
            self.removed(&key, is_gone);
        }
        Ok(done)
    }
}

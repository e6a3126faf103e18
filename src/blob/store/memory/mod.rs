//! The blob store in memory: the twin of [`super::fs`] for the simulator and for property tests.
//!
//! A [`MemoryDisk`] outlives its stores, as a disk outlives processes: [`MemoryDisk::crash`] ends the running store and
//! takes what was not synced, [`MemoryStore::open`] starts the next one. It is written as simply as possible, one lock
//! and whole blobs in vectors, because it is also the model that the file system is compared with. Never used in
//! production.

use std::collections::{BTreeMap, HashSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use registry_core::mutants::{self, Mutant};
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::{StoreId, UploadId};

use self::disk::{State, Stored};
use self::handles::{Import, Reader, Writer};
use super::lock::DigestLocks;
use super::settings::Options;
use super::status::used_percent;
use super::{
    BlobKey, BlobReader, BlobStat, BlobStore, Compaction, DigestLock, Health, Home, ImportWriter, PACK_BLOB_BYTES_MAX,
    Pressure, READ_BYTES_MAX, Scrubbed, Step, StoreError, StoreResult, UploadPhase, UploadStatus, UploadWriter, Usage,
    WalkCursor, WalkEntry, WalkPage,
};

mod disk;
mod handles;

pub use self::disk::MemoryDisk;

/// A running store on a [`MemoryDisk`].
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    store_id: StoreId,
    disk: MemoryDisk,
    /// Which start of the store this is; handles of an earlier one are dead.
    life: u64,
    options: Options,
    locks: DigestLocks,
    importing: Mutex<HashSet<BlobKey>>,
}

impl MemoryStore {
    /// Starts a store on `disk`, ending the one that ran.
    pub fn open(disk: &MemoryDisk, store_id: StoreId, options: Options) -> MemoryStore {
        let life = disk.begin_life();
        MemoryStore(Arc::new(Inner {
            store_id,
            disk: disk.clone(),
            life,
            options,
            locks: DigestLocks::default(),
            importing: Mutex::default(),
        }))
    }
}

impl Inner {
    fn state(&self) -> StoreResult<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.life != self.life {
            return Err(StoreError::VolumeFailed { reason: "this store has crashed".into() });
        }
        Ok(state)
    }

    fn writable(&self) -> StoreResult<MutexGuard<'_, State>> {
        let state = self.state()?;
        match &state.failed {
            None => Ok(state),
            Some(reason) => Err(StoreError::VolumeFailed { reason: Arc::clone(reason) }),
        }
    }

    fn now_ms(&self) -> u64 {
        (self.options.clock)()
    }

    fn total(&self) -> u64 {
        self.options.settings.capacity_bytes.unwrap_or(1 << 50)
    }

    fn admit(&self, state: &State, from: Pressure) -> StoreResult<()> {
        let free = self.total().saturating_sub(state.used_bytes());
        self.options.settings.admit(used_percent(self.total(), free), from)
    }

    fn reserve(&self, state: &State, bytes: u64) -> StoreResult<()> {
        if state.used_bytes().saturating_add(bytes) > self.total() { Err(StoreError::NoSpace) } else { Ok(()) }
    }

    /// Makes bytes durable and visible. A hook's error at a sync takes the volume out of service, as a disk's would.
    fn place(&self, state: &mut State, key: &BlobKey, bytes: Bytes) -> StoreResult<BlobStat> {
        if let Some(stored) = state.blobs.get(key) {
            return Ok(stored.stat());
        }
        let home = Home::of(bytes.len() as u64);
        let (sync, name) = match home {
            Home::Pack => (Step::PackSync, Step::PackSync),
            Home::File => (Step::FileSync, Step::DirSync),
        };
        if let Err(error) = self.options.steps.before(sync) {
            return Err(state.fail(sync, &error));
        }
        let stored = Arc::new(Stored::new(bytes, home));
        let stat = stored.stat();
        state.blobs.insert(*key, stored);
        if let Err(error) = self.options.steps.before(name) {
            state.blobs.remove(key);
            return Err(state.fail(name, &error));
        }
        if mutants::is_on(Mutant::SkipBlobSync) || mutants::is_on(Mutant::SkipDirSync) {
            state.unsynced.insert(*key);
        }
        self.options.steps.before(Step::Placed).map_err(|error| StoreError::io("place", error))?;
        Ok(stat)
    }
}

impl BlobStore for MemoryStore {
    fn store_id(&self) -> StoreId {
        self.0.store_id
    }

    fn begin_upload(&self, id: UploadId, epoch: u64, algorithm: Algorithm) -> StoreResult<UploadStatus> {
        let mut state = self.0.writable()?;
        if state.uploads.contains_key(&id) {
            drop(state);
            return self.note_epoch(id, epoch);
        }
        self.0.admit(&state, Pressure::Refuse)?;
        let max = self.0.options.settings.uploads_max;
        if state.uploads.len() >= max {
            return Err(StoreError::TooManyUploads { max });
        }
        Ok(state.begin(id, epoch, algorithm, self.0.now_ms()))
    }

    fn note_epoch(&self, id: UploadId, epoch: u64) -> StoreResult<UploadStatus> {
        let now_ms = self.0.now_ms();
        let mut state = self.0.writable()?;
        let upload = state.upload(id)?;
        upload.take_epoch(epoch)?;
        upload.touched_at_ms = now_ms;
        Ok(upload.status(id))
    }

    fn upload(&self, id: UploadId) -> StoreResult<UploadStatus> {
        self.0.state()?.upload(id).map(|upload| upload.status(id))
    }

    fn write_upload(&self, id: UploadId, epoch: u64) -> StoreResult<Box<dyn UploadWriter>> {
        let mut state = self.0.writable()?;
        let lease = state.next_lease();
        let upload = state.upload(id)?;
        upload.take_epoch(epoch)?;
        if matches!(upload.phase, UploadPhase::Sealed(_)) {
            return Err(StoreError::Sealed);
        }
        if upload.writer.is_some() {
            return Err(StoreError::Busy);
        }
        upload.writer = Some(lease);
        upload.touched_at_ms = self.0.now_ms();
        let offset = upload.bytes.len() as u64;
        Ok(Box::new(Writer { inner: Arc::clone(&self.0), id, lease, offset }))
    }

    fn read_upload(&self, id: UploadId, epoch: u64, offset: u64, len: usize) -> StoreResult<Bytes> {
        let mut state = self.0.state()?;
        let upload = state.upload(id)?;
        upload.take_epoch(epoch)?;
        let from = offset.min(upload.bytes.len() as u64) as usize;
        let until = from.saturating_add(len.min(READ_BYTES_MAX)).min(upload.bytes.len());
        Ok(Bytes::copy_from_slice(&upload.bytes[from..until]))
    }

    fn seal_upload(&self, id: UploadId, epoch: u64, digest: Digest) -> StoreResult<u64> {
        let mut state = self.0.state()?;
        let Ok(upload) = state.upload(id) else {
            drop(state);
            return self.confirm(&BlobKey::new(digest, id)).map(|stat| stat.size_bytes).map_err(unknown_if_absent);
        };
        upload.take_epoch(epoch)?;
        if upload.writer.is_some() {
            return Err(StoreError::Busy);
        }
        upload.touched_at_ms = self.0.now_ms();
        let actual = match upload.phase {
            UploadPhase::Sealed(sealed) => sealed,
            UploadPhase::Receiving => Digest::of(digest.algorithm(), &upload.bytes),
        };
        if actual != digest {
            if upload.phase == UploadPhase::Receiving {
                state.uploads.remove(&id);
            }
            return Err(StoreError::DigestMismatch { actual });
        }
        upload.phase = UploadPhase::Sealed(digest);
        Ok(upload.bytes.len() as u64)
    }

    fn place_upload(&self, id: UploadId, digest: Digest) -> StoreResult<BlobStat> {
        let key = BlobKey::new(digest, id);
        let _held = self.0.locks.lock(&digest);
        let mut state = self.0.writable()?;
        let Ok(upload) = state.upload(id) else {
            return state.blobs.get(&key).map(|stored| stored.stat()).ok_or(StoreError::UploadUnknown);
        };
        if upload.writer.is_some() {
            return Err(StoreError::Busy);
        }
        upload.touched_at_ms = self.0.now_ms();
        match upload.phase {
            UploadPhase::Sealed(sealed) if sealed == digest => {}
            UploadPhase::Sealed(actual) => return Err(StoreError::DigestMismatch { actual }),
            UploadPhase::Receiving => return Err(StoreError::NotSealed),
        }
        let bytes = Bytes::copy_from_slice(&upload.bytes);
        let stat = self.0.place(&mut state, &key, bytes)?;
        state.uploads.remove(&id);
        Ok(stat)
    }

    fn discard_upload(&self, id: UploadId) -> StoreResult<bool> {
        Ok(self.0.state()?.uploads.remove(&id).is_some())
    }

    fn uploads(&self, after: Option<UploadId>, limit: usize) -> Vec<UploadStatus> {
        let Ok(state) = self.0.state() else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        state.uploads.range((from, Bound::Unbounded)).take(limit).map(|(id, upload)| upload.status(*id)).collect()
    }

    fn expire_uploads(&self, idle_ms: u64, limit: usize) -> StoreResult<Vec<UploadId>> {
        let now_ms = self.0.now_ms();
        let mut state = self.0.state()?;
        let idle = state
            .uploads
            .iter()
            .filter(|(_, upload)| upload.writer.is_none() && now_ms.saturating_sub(upload.touched_at_ms) >= idle_ms);
        let expired: Vec<UploadId> = idle.map(|(id, _)| *id).take(limit).collect();
        state.uploads.retain(|id, _| !expired.contains(id));
        Ok(expired)
    }

    fn put(&self, key: &BlobKey, bytes: &[u8]) -> StoreResult<BlobStat> {
        if bytes.len() > PACK_BLOB_BYTES_MAX {
            return Err(StoreError::TooLarge { max: PACK_BLOB_BYTES_MAX as u64 });
        }
        check(key, bytes)?;
        let _held = self.0.locks.lock(&key.digest);
        let mut state = self.0.writable()?;
        self.0.admit(&state, Pressure::Refuse)?;
        self.0.reserve(&state, bytes.len() as u64)?;
        self.0.place(&mut state, key, Bytes::copy_from_slice(bytes))
    }

    fn import(&self, key: &BlobKey, size_bytes: u64) -> StoreResult<Box<dyn ImportWriter>> {
        let state = self.0.writable()?;
        self.0.admit(&state, Pressure::Urgent)?;
        if state.blobs.contains_key(key) {
            return Err(StoreError::Exists);
        }
        if !self.0.importing.lock().insert(*key) {
            return Err(StoreError::Busy);
        }
        Ok(Box::new(Import { inner: Arc::clone(&self.0), key: *key, size_bytes, bytes: Vec::new() }))
    }

    fn lock(&self, digest: &Digest) -> DigestLock {
        self.0.locks.lock(digest)
    }

    fn try_lock(&self, digest: &Digest) -> Option<DigestLock> {
        self.0.locks.try_lock(digest)
    }

    fn stat(&self, key: &BlobKey) -> StoreResult<Option<BlobStat>> {
        Ok(self.0.state()?.blobs.get(key).map(|stored| stored.stat()))
    }

    fn confirm(&self, key: &BlobKey) -> StoreResult<BlobStat> {
        let _held = self.0.locks.lock(&key.digest);
        self.0.writable()?.blobs.get(key).map(|stored| stored.stat()).ok_or(StoreError::NotFound)
    }

    fn open(&self, key: &BlobKey) -> StoreResult<Arc<dyn BlobReader>> {
        let stored = self.0.state()?.blobs.get(key).cloned().ok_or(StoreError::NotFound)?;
        if stored.stat().home == Home::Pack && check(key, &stored.bytes()).is_err() {
            return Err(StoreError::Damaged { key: Box::new(*key), offset: 0, detail: "record" });
        }
        Ok(Arc::new(Reader { key: *key, stored }))
    }

    fn verify(&self, key: &BlobKey, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> StoreResult<Scrubbed> {
        let stored = self.0.state()?.blobs.get(key).cloned().ok_or(StoreError::NotFound)?;
        let bytes = stored.bytes();
        if stored.stat().home == Home::File && pace(bytes.len() as u64).is_break() {
            return Ok(Scrubbed::Stopped);
        }
        Ok(match check(key, &bytes) {
            Ok(()) => Scrubbed::Good { size_bytes: bytes.len() as u64 },
            Err(_) => Scrubbed::Bad,
        })
    }

    fn set_aside(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        let now_ms = self.0.now_ms();
        let mut state = self.0.state()?;
        let key = BlobKey::new(*held.digest(), generation);
        let Some(stored) = state.take(&key) else { return Ok(false) };
        state.quarantine.push((now_ms, stored));
        Ok(true)
    }

    fn purge_quarantine(&self, before_ms: u64, limit: usize) -> StoreResult<usize> {
        let mut state = self.0.state()?;
        let old: Vec<usize> = (0..state.quarantine.len()).filter(|i| state.quarantine[*i].0 <= before_ms).collect();
        let purged = old.len().min(limit);
        for index in old[..purged].iter().rev() {
            state.quarantine.remove(*index);
        }
        Ok(purged)
    }

    fn remove(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        Ok(self.0.state()?.take(&BlobKey::new(*held.digest(), generation)).is_some())
    }

    fn walk(&self, after: Option<&WalkCursor>, limit: usize) -> StoreResult<WalkPage> {
        let state = self.0.state()?;
        let after = after.and_then(|cursor| BlobKey::parse_file_name(&cursor.0));
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries: Vec<WalkEntry> = state
            .blobs
            .range((from, Bound::Unbounded))
            .take(limit)
            .map(|(key, stored)| {
                let BlobStat { size_bytes, home } = stored.stat();
                WalkEntry { key: *key, size_bytes, home }
            })
            .collect();
        let next = entries.last().map(|last| WalkCursor(last.key.file_name()));
        Ok(WalkPage { entries, next })
    }

    fn usage(&self) -> StoreResult<Usage> {
        let state = self.0.state()?;
        let (total_bytes, free_bytes) = (self.0.total(), self.0.total().saturating_sub(state.used_bytes()));
        let packed = state.blobs.values().filter(|stored| stored.stat().home == Home::Pack);
        Ok(Usage {
            total_bytes,
            free_bytes,
            uploads: state.uploads.len(),
            pack_bytes: packed.map(|stored| stored.stat().size_bytes).sum(),
            pack_dead_bytes: 0,
            pressure: self.0.options.settings.pressure(used_percent(total_bytes, free_bytes)),
        })
    }

    fn health(&self) -> Health {
        let failed = match self.0.state() {
            Ok(state) => state.failed.clone(),
            Err(error) => Some(error.to_string().into()),
        };
        Health { failed, damaged_pack_regions: 0 }
    }

    /// Removed bytes are gone at once here, so there is nothing to compact; what nobody names goes all the same.
    fn compact(
        &self,
        _live_percent: u8,
        segments: usize,
        is_live: &mut dyn FnMut(&BlobKey) -> bool,
    ) -> StoreResult<Compaction> {
        let packed: BTreeMap<BlobKey, u64> = self
            .0
            .state()?
            .blobs
            .iter()
            .filter(|(_, stored)| stored.stat().home == Home::Pack)
            .map(|(key, stored)| (*key, stored.stat().size_bytes))
            .collect();
        let mut done = Compaction::default();
        for (key, size_bytes) in packed.into_iter().take(if segments == 0 { 0 } else { usize::MAX }) {
            let held = self.lock(&key.digest);
            if !is_live(&key) && self.remove(&held, key.generation)? {
                done.dropped += 1;
                done.freed_bytes += size_bytes;
            }
        }
        Ok(done)
    }
}

/// Whether the bytes hash to the key's digest.
fn check(key: &BlobKey, bytes: &[u8]) -> StoreResult<()> {
    let actual = Digest::of(key.digest.algorithm(), bytes);
    if actual == key.digest { Ok(()) } else { Err(StoreError::DigestMismatch { actual }) }
}

fn unknown_if_absent(error: StoreError) -> StoreError {
    if matches!(error, StoreError::NotFound) { StoreError::UploadUnknown } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::store::suite::{Subject, World, blob_store_suite, content, push, read_all, stage, upload_id};

    struct Memory {
        disk: MemoryDisk,
        store: MemoryStore,
        world: World,
        crashes: u64,
    }

    impl Subject for Memory {
        fn new(world: &World) -> Memory {
            let disk = MemoryDisk::new();
            let store = MemoryStore::open(&disk, StoreId(1), world.options());
            Memory { disk, store, world: world.clone(), crashes: 0 }
        }

        fn store(&self) -> Arc<dyn BlobStore> {
            Arc::new(self.store.clone())
        }

        // A power cut: every second one takes half of what was staged.
        fn crash(&mut self) {
            self.crashes += 1;
            let half = self.crashes.is_multiple_of(2);
            self.disk.crash(&mut |_, len| Some(if half { len / 2 } else { len }), &mut |_| false);
            self.store = MemoryStore::open(&self.disk, StoreId(1), self.world.options());
        }

        fn damage(&self, key: &BlobKey, offset: u64) {
            assert!(self.disk.damage(key, offset));
        }
    }

    blob_store_suite!(Memory);

    // What was removed may be back after a power cut: no store promises that a removal is durable.
    #[test]
    fn removed_may_return() {
        let disk = MemoryDisk::new();
        let world = World::new();
        let store = MemoryStore::open(&disk, StoreId(1), world.options());
        let keys = [1, 2].map(|number| push(&store, number, &content(number as u64, 70_000)).unwrap().0);
        for key in keys {
            assert!(store.remove(&store.lock(&key.digest), key.generation).unwrap());
            assert_eq!(disk.look(&key), None);
        }
        disk.crash(&mut |_, _| None, &mut |key| *key == keys[0]);
        assert_eq!(keys.map(|key| disk.look(&key)), [Some(true), None]);
        assert!(disk.damage(&keys[0], 5));
        assert_eq!(keys.map(|key| disk.look(&key)), [Some(false), None]);
        disk.crash(&mut |_, _| None, &mut |_| true);
        assert_eq!(disk.look(&keys[1]), None, "gone for good");
    }

    // A power cut takes what was staged, as much as it likes, and nothing that was placed; the store that ran is dead.
    #[test]
    fn power_cut() {
        let disk = MemoryDisk::new();
        let world = World::new();
        let store = MemoryStore::open(&disk, StoreId(1), world.options());
        let bytes = content(1, 100_000);
        let (key, _) = push(&store, 1, &bytes).unwrap();
        for number in [2, 3, 4] {
            stage(&store, upload_id(number), &bytes, 100_000).unwrap();
        }
        disk.crash(&mut |id, len| [Some(len), Some(7), None][id.random as usize - 2], &mut |_| true);
        assert!(matches!(store.open(&key), Err(StoreError::VolumeFailed { .. })));
        let store = MemoryStore::open(&disk, StoreId(1), world.options());
        assert_eq!(read_all(&store, &key, 1 << 20).unwrap(), bytes);
        let left: Vec<_> = store.uploads(None, 10).iter().map(|status| (status.id.random, status.offset)).collect();
        assert_eq!(left, [(2, 100_000), (3, 7)]);
    }
}

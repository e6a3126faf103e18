//! The blob store on a local file system.
//!
//! ```text
//! store.toml                     whose volume this is (marker.rs); locked while the store is open
//! staging/<upload id>            bytes of an upload (upload.rs, uploads.rs, staged.rs)
//! staging/<upload id>.note       its epoch and algorithm, when they are not the usual ones (note.rs)
//! staging/<name>.part            a copy on its way in from another node (import.rs)
//! blobs/<aa>/<hex>.<generation>  a blob: whole, verified, synced before it got this name (place.rs)
//! blobs/<aa>/….sum               its block sums (sums.rs)
//! pack/<number>.seg              small blobs (pack/)
//! quarantine/<name>.<ms>         damaged copies, for a look
//! ```
//!
//! It never follows a link, never writes to a file that has its final name, and never syncs twice what failed to sync
//! once: the volume takes no more writes then (volume.rs). Start at [`FsStore::open`]; [`StoppedVolume`] only looks.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::{ClusterId, StoreId, UploadId};

use self::buffers::Buffers;
use self::cache::Cache;
use self::import::{Import, Importing};
pub use self::marker::{Identity, marked};
pub(in crate::blob::store) use self::open_blob::SmallReader;
use self::pack::Packs;
use self::shared::SharedRoom;
pub use self::stopped::{Depth, Examined, Lying, StoppedVolume};
use self::store::Inner;
pub(in crate::blob::store) use self::sums::Sums;
use self::uploads::Uploads;
use self::volume::Volume;
use super::lock::DigestLocks;
use super::settings::Options;
use super::status::used_percent;
use super::{
    BlobKey, BlobReader, BlobStat, BlobStore, Compaction, DigestLock, Health, ImportWriter, OpenError,
    PACK_BLOB_BYTES_MAX, Pressure, Scrubbed, StoreError, StoreResult, UploadStatus, UploadWriter, Usage, WalkCursor,
    WalkPage,
};

mod buffers;
mod cache;
mod dir;
mod import;
mod inventory;
mod marker;
mod note;
mod open_blob;
mod pack;
mod place;
mod scrub;
mod serve;
mod shared;
mod staged;
mod stopped;
mod store;
mod sums;
#[cfg(test)]
mod tests;
mod upload;
mod uploads;
mod volume;
mod wait;

/// A blob store in a directory. One process may have it open.
pub struct FsStore(Arc<Inner>);

impl FsStore {
    /// Opens or makes the store in `root`. Frees what a crash left half done, and reads the index of the packs.
    pub fn open(root: &Path, cluster: ClusterId, identity: Identity, options: Options) -> Result<FsStore, OpenError> {
        let settings = options.settings.clone();
        let volume = Arc::new(Volume::open(root, cluster, identity, options)?);
        let inner = Inner {
            uploads: Uploads::recover(&volume)?,
            packs: Packs::open(&volume)?,
            cache: Cache::new(settings.open_files_max, settings.sums_bytes_max),
            buffers: Buffers::default(),
            shared_room: SharedRoom::default(),
            locks: DigestLocks::default(),
            importing: Importing::default(),
            volume,
        };
        Ok(FsStore(Arc::new(inner)))
    }
}

impl BlobStore for FsStore {
    fn store_id(&self) -> StoreId {
        self.0.volume.store_id
    }

    fn begin_upload(&self, id: UploadId, epoch: u64, algorithm: Algorithm) -> StoreResult<UploadStatus> {
        self.0.uploads.begin(id, epoch, algorithm)
    }

    fn note_epoch(&self, id: UploadId, epoch: u64) -> StoreResult<UploadStatus> {
        self.0.uploads.get(id)?.note_epoch(epoch)
    }

    fn upload(&self, id: UploadId) -> StoreResult<UploadStatus> {
        self.0.uploads.get(id)?.status()
    }

    fn write_upload(&self, id: UploadId, epoch: u64) -> StoreResult<Box<dyn UploadWriter>> {
        Ok(Box::new(self.0.uploads.writer(id, epoch)?))
    }

    fn read_upload(&self, id: UploadId, epoch: u64, offset: u64, len: usize) -> StoreResult<Bytes> {
        self.0.uploads.get(id)?.read(epoch, offset, len)
    }

    fn seal_upload(&self, id: UploadId, epoch: u64, digest: Digest) -> StoreResult<u64> {
        match self.0.uploads.seal(id, epoch, digest) {
            Err(StoreError::UploadUnknown) => {
                self.0.confirm(&BlobKey::new(digest, id)).map(|stat| stat.size_bytes).map_err(store::unknown_if_absent)
            }
            sealed => sealed,
        }
    }

    fn place_upload(&self, id: UploadId, digest: Digest) -> StoreResult<BlobStat> {
        self.0.place_upload(id, digest)
    }

    fn discard_upload(&self, id: UploadId) -> StoreResult<bool> {
        self.0.uploads.discard(id)
    }

    fn uploads(&self, after: Option<UploadId>, limit: usize) -> Vec<UploadStatus> {
        self.0.uploads.list(after, limit)
    }

    fn expire_uploads(&self, idle_ms: u64, limit: usize) -> StoreResult<Vec<UploadId>> {
        Ok(self.0.uploads.expire(idle_ms, limit))
    }

    fn put(&self, key: &BlobKey, bytes: &[u8]) -> StoreResult<BlobStat> {
        if bytes.len() > PACK_BLOB_BYTES_MAX {
            return Err(StoreError::TooLarge { max: PACK_BLOB_BYTES_MAX as u64 });
        }
        self.0.volume.admit(Pressure::Refuse)?;
        self.0.put_small(key, Bytes::copy_from_slice(bytes))
    }

    fn import(&self, key: &BlobKey, size_bytes: u64) -> StoreResult<Box<dyn ImportWriter>> {
        self.0.volume.admit(Pressure::Urgent)?;
        match self.0.confirm(key) {
            Ok(_) => return Err(StoreError::Exists),
            Err(StoreError::NotFound) => {}
            Err(error) => return Err(error),
        }
        Ok(Box::new(Import::begin(&self.0, key, size_bytes)?))
    }

    fn lock(&self, digest: &Digest) -> DigestLock {
        self.0.locks.lock(digest)
    }

    fn try_lock(&self, digest: &Digest) -> Option<DigestLock> {
        self.0.locks.try_lock(digest)
    }

    fn stat(&self, key: &BlobKey) -> StoreResult<Option<BlobStat>> {
        self.0.stat(key)
    }

    fn confirm(&self, key: &BlobKey) -> StoreResult<BlobStat> {
        self.0.confirm(key)
    }

    fn open(&self, key: &BlobKey) -> StoreResult<Arc<dyn BlobReader>> {
        self.0.open(key)
    }

    fn open_now(&self, key: &BlobKey) -> Option<StoreResult<Arc<dyn BlobReader>>> {
        self.0.open_now(key)
    }

    fn verify(&self, key: &BlobKey, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> StoreResult<Scrubbed> {
        self.0.verify(key, pace)
    }

    fn set_aside(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        self.0.set_aside(held, generation)
    }

    fn purge_quarantine(&self, before_ms: u64, limit: usize) -> StoreResult<usize> {
        self.0.purge_quarantine(before_ms, limit)
    }

    fn remove(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        self.0.remove(held, generation)
    }

    fn walk(&self, after: Option<&WalkCursor>, limit: usize) -> StoreResult<WalkPage> {
        self.0.walk(after, limit)
    }

    fn usage(&self) -> StoreResult<Usage> {
        let (total_bytes, free_bytes) = self.0.volume.space()?;
        let (pack_bytes, pack_dead_bytes) = self.0.packs.usage();
        let pressure = self.0.volume.options.settings.pressure(used_percent(total_bytes, free_bytes));
        let uploads = self.0.uploads.len();
        Ok(Usage { total_bytes, free_bytes, uploads, pack_bytes, pack_dead_bytes, pressure })
    }

    fn health(&self) -> Health {
        Health { failed: self.0.volume.failure(), damaged_pack_regions: self.0.packs.damaged() }
    }

    fn compact(
        &self,
        live_percent: u8,
        segments: usize,
        is_live: &mut dyn FnMut(&BlobKey) -> bool,
    ) -> StoreResult<Compaction> {
        self.0.volume.writable()?;
        let mut keep = |key: &BlobKey| {
            let kept = format!("{}.{:016x}", key.file_name(), self.0.volume.now_ms());
            self.0.keep_record(key, &kept);
        };
        self.0.packs.compact(&self.0.locks, live_percent, segments, is_live, &mut keep)
    }
}

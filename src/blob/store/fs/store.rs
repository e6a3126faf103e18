//! What all verbs share, and the verbs on stored blobs.

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use registry_core::vocabulary::digest::Digest;
use registry_core::vocabulary::ids::UploadId;

use super::buffers::Buffers;
use super::cache::Cache;
use super::import::Importing;
use super::pack::Packs;
use super::place::sum_name;
use super::shared::SharedRoom;
use super::sums::Sums;
use super::upload::{Finish, Remains};
use super::uploads::Uploads;
use super::volume::Volume;
use crate::blob::store::lock::{DigestLock, DigestLocks};
use crate::blob::store::{BlobKey, BlobStat, Home, PACK_BLOB_BYTES_MAX, Step, StoreError, StoreResult};

pub(super) struct Inner {
    pub(super) volume: Arc<Volume>,
    pub(super) uploads: Uploads,
    pub(super) packs: Packs,
    pub(super) cache: Cache,
    pub(super) buffers: Buffers,
    pub(super) shared_room: SharedRoom,
    pub(super) locks: DigestLocks,
    pub(super) importing: Importing,
}

impl Inner {
    // ---- in ------------------------------------------------------------------------------------------------------

    /// Places the sealed bytes of an upload.
    pub(super) fn place_upload(&self, id: UploadId, digest: Digest) -> StoreResult<BlobStat> {
        let key = BlobKey::new(digest, id);
        let Ok(upload) = self.uploads.get(id) else {
            return self.confirm(&key).map_err(unknown_if_absent);
        };
        let (leased, finish, len) = upload.finish(None)?;
        let sums = match finish {
            Finish::Sealed(sealed, sums) if sealed == digest => sums,
            Finish::Sealed(actual, _) => return Err(StoreError::DigestMismatch { actual }),
            Finish::Receiving(tally) => {
                upload.give_back(&leased, tally);
                return Err(StoreError::NotSealed);
            }
        };
        let file = upload.open_file()?;
        if len <= PACK_BLOB_BYTES_MAX as u64 {
            let mut bytes = Vec::with_capacity(len as usize);
            (&file).take(len).read_to_end(&mut bytes).map_err(|error| StoreError::io("read staged bytes", error))?;
            let stat = self.put_small(&key, bytes.into())?;
            upload.end(Some(&leased), Remains::Free)?;
            self.uploads.forget(&upload);
            return Ok(stat);
        }
        let name = id.to_string();
        if let Err(failed) = self.volume.make_durable(&name, &file, &sums) {
            if failed.spoiled {
                upload.end(Some(&leased), Remains::Free)?;
                self.uploads.forget(&upload);
            }
            return Err(failed.error);
        }
        let held = self.locks.lock(&digest);
        if let Some(stat) = self.confirm_locked(&held, &key)? {
            // An earlier upload of this id got here first; its file may be open, and is not replaced.
            upload.end(Some(&leased), Remains::Free)?;
            self.uploads.forget(&upload);
            return Ok(stat);
        }
        let published = self.volume.publish(&held, &name, &key, len);
        drop(held);
        match published {
            Err(failed) if !failed.spoiled => Err(failed.error),
            // Placed, or given up: either way there is no staging any more.
            published => {
                upload.end(Some(&leased), Remains::Moved)?;
                self.uploads.forget(&upload);
                published.map_err(|failed| failed.error)
            }
        }
    }

    /// Stores a small blob after checking it.
    pub(super) fn put_small(&self, key: &BlobKey, bytes: Bytes) -> StoreResult<BlobStat> {
        let actual = Digest::of(key.digest.algorithm(), &bytes);
        if actual != key.digest {
            return Err(StoreError::DigestMismatch { actual });
        }
        let held = self.locks.lock(&key.digest);
        if let Some(stat) = self.confirm_locked(&held, key)? {
            return Ok(stat);
        }
        self.packs.put(key, bytes)
    }

    // ---- here ----------------------------------------------------------------------------------------------------

    pub(super) fn stat(&self, key: &BlobKey) -> StoreResult<Option<BlobStat>> {
        if let Some(stat) = self.packs.stat(key) {
            return Ok(Some(stat));
        }
        let (shard, name) = (self.volume.shard(key), key.file_name());
        let stat = shard.stat(&name).map_err(|error| shard.error("stat", &name, error))?;
        Ok(stat.map(|stat| BlobStat { size_bytes: stat.size_bytes, home: Home::File }))
    }

    pub(super) fn confirm(&self, key: &BlobKey) -> StoreResult<BlobStat> {
        let held = self.locks.lock(&key.digest);
        self.confirm_locked(&held, key)?.ok_or(StoreError::NotFound)
    }

    /// Whether a durable copy is here. The bytes of a visible file were synced before it got its name; the name is
    /// synced by who placed it, who holds the lock meanwhile, or settled now.
    pub(super) fn confirm_locked(&self, _held: &DigestLock, key: &BlobKey) -> StoreResult<Option<BlobStat>> {
        self.volume.writable()?;
        let stat = self.stat(key)?;
        if stat.is_some_and(|stat| stat.home == Home::File) {
            self.volume.settle(key.shard())?;
        }
        Ok(stat)
    }

    pub(super) fn remove(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        let key = BlobKey::new(*held.digest(), generation);
        let packed = self.packs.remove(&key);
        let (shard, name) = (self.volume.shard(&key), key.file_name());
        let error = |error| shard.error("unlink", &name, error);
        self.volume.before(Step::Unlink).map_err(error)?;
        let size_bytes = shard.stat(&name).map_err(error)?.map_or(0, |stat| stat.size_bytes);
        // The blob first: a sidecar alone is nothing.
        let unlinked = shard.unlink(&name).map_err(error)?;
        if unlinked {
            let sums = shard.unlink(&sum_name(&name)).map_err(error)?;
            self.volume.release(size_bytes + if sums { Sums::encoded_bytes(size_bytes) } else { 0 });
        }
        self.cache.remove(&key);
        Ok(packed || unlinked)
    }
}

/// Nothing staged and nothing placed: the upload isn't known here.
pub(super) fn unknown_if_absent(error: StoreError) -> StoreError {
    if matches!(error, StoreError::NotFound) { StoreError::UploadUnknown } else { error }
}

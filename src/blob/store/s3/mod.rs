//! The blob store on a bucket that all nodes of a region share.
//!
//! ```text
//! <prefix><cluster>/owner                       who may delete (owner.rs)
//! <prefix><cluster>/<aa>/<hex>.<generation>     a blob: whole, or not there (send.rs)
//! <prefix><cluster>/<aa>/….sum                  the block sums of one above 1 MiB, made before it
//! ```
//!
//! Beside it each node has a local volume, a whole [`FsStore`]: uploads are staged on it as ever, and it is the cache.
//! A blob is *placed* when its object is complete in the bucket; that this node can say so is what its record means by
//! naming this store. Redundancy is the bucket's, so several nodes that confirm one object are several doors to it, not
//! several copies: nothing here takes an object away because one door is closed ([`S3Store::set_aside`] only marks it).
//!
//! Reads come from the cache, else from the bucket by ranges, each block checked against its sum before it is handed
//! out; what was read from its first byte to its last, and hashes to the digest, stays in the cache. Only what was seen
//! in the bucket is evicted from there. An object goes when the state has let go of its generation and this lineage
//! owns the bucket. Source: reference "consensus and faults" §5.8; why so: `src/docs/decisions/0008-one-bucket.md`.
//!
//! Start at [`S3Store::open`], then send.rs (in) and read.rs (out).

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::{ClusterId, Lineage, StoreId, UploadId};

use self::import::Import;
use self::store::Inner;
use super::fs::{FsStore, Identity};
use super::{
    BlobKey, BlobReader, BlobStat, BlobStore, Compaction, DigestLock, Health, ImportWriter, OpenError, Options,
    Scrubbed, StoreError, StoreResult, UploadStatus, UploadWriter, Usage, WalkCursor, WalkPage,
};
use crate::ground::{Secret, files};

mod aside;
mod bucket;
mod cache;
mod gate;
mod import;
mod owner;
mod read;
mod scrub;
mod send;
mod store;
#[cfg(test)]
mod tests;
mod walk;

/// Marks a local volume as the cache of a bucket: what is missing on it is not lost.
const MARKER: &str = "bucket";

/// Whether the volume in a directory is the cache of a bucket.
pub fn is_cache(root: &Path) -> bool {
    root.join(MARKER).exists()
}

/// Where a bucket is, and who asks.
#[derive(Clone, Debug)]
pub struct BucketAddress {
    /// URL of the service; `None`: the vendor's of the region.
    pub endpoint: Option<String>,
    /// The service's region.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// What all names begin with: nothing, or something that ends in a slash.
    pub prefix: String,
    /// Whether the bucket stands in the path of a URL, and not in its host name.
    pub path_style: bool,
    /// Id of the access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: Secret<String>,
}

/// What an operator tunes.
#[derive(Clone, Debug)]
pub struct BucketSettings {
    /// Bytes of blobs that are kept on the local volume.
    pub cache_bytes: u64,
    /// The same as a share of the local volume, in percent; the smaller one counts.
    pub cache_percent: u8,
    /// Age from which on parts and sums go that no object came of.
    pub parts_idle: Duration,
    /// Share of the objects that a scrub reads whole, in percent; it asks the bucket about every one.
    pub scrub_percent: u8,
}

/// A blob store on a bucket, with a local volume. One process may have the volume open.
pub struct S3Store(Arc<Inner>);

impl S3Store {
    /// Opens or makes the local volume in `root`. The bucket isn't asked: a node starts without it.
    pub fn open(
        root: &Path,
        cluster: ClusterId,
        identity: Identity,
        options: Options,
        bucket: (&BucketAddress, BucketSettings),
    ) -> Result<S3Store, OpenError> {
        let clock = Arc::clone(&options.clock);
        let local = FsStore::open(root, cluster, identity, options)?;
        let (address, settings) = bucket;
        let inner = Inner::new(local, cluster, address, settings, clock)?;
        if !is_cache(root) {
            if inner.cache.len() > 0 {
                let detail = "it holds blobs of a node without a bucket: give another blobs.dir".to_owned();
                return Err(OpenError::Marker { path: root.display().to_string(), detail });
            }
            let text = format!("{} {}\n", address.endpoint.as_deref().unwrap_or("-"), address.bucket);
            let marker = root.join(MARKER);
            // durable before the first blob is: with blobs and without it the next start would refuse the directory
            files::write_atomic(&marker, text.as_bytes(), files::PUBLIC_FILE_MODE)
                .map_err(|error| StoreError::io(format!("write {}", marker.display()), error))?;
        }
        Ok(S3Store(Arc::new(inner)))
    }

    /// How this node learns the life of the cluster's log it is in; until then it deletes nothing in the bucket.
    pub fn set_lineage(&self, lineage: impl Fn() -> Lineage + Send + Sync + 'static) {
        self.0.owner.set_lineage(Box::new(lineage));
    }
}

impl BlobStore for S3Store {
    fn store_id(&self) -> StoreId {
        self.0.local.store_id()
    }

    fn shares_bytes(&self) -> bool {
        true
    }

    fn adopt(&self) -> StoreResult<()> {
        self.0.owner.adopt(&self.0.bucket)
    }

    fn begin_upload(&self, id: UploadId, epoch: u64, algorithm: Algorithm) -> StoreResult<UploadStatus> {
        self.0.local.begin_upload(id, epoch, algorithm)
    }

    fn note_epoch(&self, id: UploadId, epoch: u64) -> StoreResult<UploadStatus> {
        self.0.local.note_epoch(id, epoch)
    }

    fn upload(&self, id: UploadId) -> StoreResult<UploadStatus> {
        self.0.local.upload(id)
    }

    fn write_upload(&self, id: UploadId, epoch: u64) -> StoreResult<Box<dyn UploadWriter>> {
        self.0.local.write_upload(id, epoch)
    }

    fn read_upload(&self, id: UploadId, epoch: u64, offset: u64, len: usize) -> StoreResult<Bytes> {
        self.0.local.read_upload(id, epoch, offset, len)
    }

    fn seal_upload(&self, id: UploadId, epoch: u64, digest: Digest) -> StoreResult<u64> {
        match self.0.local.seal_upload(id, epoch, digest) {
            // placed before, and evicted since
            Err(StoreError::UploadUnknown) => Ok(self.0.placed(&BlobKey::new(digest, id))?.size_bytes),
            sealed => sealed,
        }
    }

    fn place_upload(&self, id: UploadId, digest: Digest) -> StoreResult<BlobStat> {
        let key = BlobKey::new(digest, id);
        match self.0.local.place_upload(id, digest) {
            Ok(stat) => self.0.publish(&key, stat),
            Err(StoreError::UploadUnknown) => self.0.placed(&key),
            Err(error) => Err(error),
        }
    }

    fn discard_upload(&self, id: UploadId) -> StoreResult<bool> {
        self.0.local.discard_upload(id)
    }

    fn uploads(&self, after: Option<UploadId>, limit: usize) -> Vec<UploadStatus> {
        self.0.local.uploads(after, limit)
    }

    fn expire_uploads(&self, idle_ms: u64, limit: usize) -> StoreResult<Vec<UploadId>> {
        self.0.tidy();
        self.0.local.expire_uploads(idle_ms, limit)
    }

    fn put(&self, key: &BlobKey, bytes: &[u8]) -> StoreResult<BlobStat> {
        let stat = self.0.local.put(key, bytes)?;
        self.0.publish(key, stat)
    }

    fn import(&self, key: &BlobKey, size_bytes: u64) -> StoreResult<Box<dyn ImportWriter>> {
        match self.0.local.import(key, size_bytes) {
            Ok(_) if self.0.found(key)?.is_some() => Err(StoreError::Exists),
            Ok(writer) => Ok(Box::new(Import::new(&self.0, key, writer))),
            Err(StoreError::Exists) => {
                self.0.confirm(key)?;
                Err(StoreError::Exists)
            }
            Err(error) => Err(error),
        }
    }

    fn lock(&self, digest: &Digest) -> DigestLock {
        self.0.local.lock(digest)
    }

    fn try_lock(&self, digest: &Digest) -> Option<DigestLock> {
        self.0.local.try_lock(digest)
    }

    fn stat(&self, key: &BlobKey) -> StoreResult<Option<BlobStat>> {
        match self.0.local.stat(key)? {
            Some(stat) => Ok(Some(stat)),
            None => self.0.found(key),
        }
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

    /// Marks the object as one that this node does not use. It stays in the bucket: this node may be what is broken,
    /// and others judge by themselves. A copy of good bytes that comes in takes its place.
    fn set_aside(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        self.0.set_aside(held, generation)
    }

    fn purge_quarantine(&self, before_ms: u64, limit: usize) -> StoreResult<usize> {
        let local = self.0.local.purge_quarantine(before_ms, limit)?;
        Ok(local + self.0.aside.purge(before_ms, limit - local.min(limit)))
    }

    fn remove(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        self.0.remove(held, generation)
    }

    fn walk(&self, after: Option<&WalkCursor>, limit: usize) -> StoreResult<WalkPage> {
        self.0.walk(after, limit)
    }

    fn usage(&self) -> StoreResult<Usage> {
        self.0.local.usage()
    }

    fn health(&self) -> Health {
        self.0.local.health()
    }

    /// The packs of the cache are compacted; the object of a record that nobody names goes with it.
    fn compact(
        &self,
        live_percent: u8,
        segments: usize,
        is_live: &mut dyn FnMut(&BlobKey) -> bool,
    ) -> StoreResult<Compaction> {
        let mut keep = |key: &BlobKey| {
            if is_live(key) {
                return true;
            }
            match self.0.delete_object(key) {
                Ok(_) => {
                    self.0.cache.remove(key);
                    false
                }
                Err(error) => {
                    tracing::warn!(blob = %key, %error, "an object that nobody names can't be deleted yet");
                    true
                }
            }
        };
        self.0.local.compact(live_percent, segments, &mut keep)
    }
}

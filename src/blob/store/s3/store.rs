//! What all verbs share, and the verbs that touch both the bucket and the local volume.

use registry_core::vocabulary::digest::Algorithm;
use registry_core::vocabulary::ids::{ClusterId, UploadId};
use registry_core::vocabulary::limits::BUCKET_SENDS_MAX;
use tokio::sync::Semaphore;

use super::aside::Aside;
use super::bucket::{Bucket, Found};
use super::cache::Cache;
use super::owner::Owner;
use super::{BucketAddress, BucketSettings};
use crate::blob::store::fs::FsStore;
use crate::blob::store::lock::{DigestLock, DigestLocks};
use crate::blob::store::settings::Clock;
use crate::blob::store::{BlobKey, BlobStat, BlobStore as _, Home, READ_BYTES_MAX, StoreError, StoreResult};

/// Blobs above this size have their block sums beside them: less is read in one go and hashed.
pub(super) const SUMS_FROM_BYTES: u64 = READ_BYTES_MAX as u64;
/// Entries of the local volume read at once when it is opened.
const ENTRIES_PER_PAGE: usize = 1024;

pub(super) struct Inner {
    pub(super) local: FsStore,
    pub(super) bucket: Bucket,
    pub(super) root: String,
    pub(super) cache: Cache,
    pub(super) owner: Owner,
    pub(super) aside: Aside,
    pub(super) settings: BucketSettings,
    pub(super) clock: Clock,
    /// Blobs sent at once; each takes the memory of one part.
    pub(super) sends: Semaphore,
    /// Who sends an object of a digest; apart from the digest's own lock, which reads and removes wait for.
    pub(super) sending: DigestLocks,
}

impl Inner {
    pub(super) fn new(
        local: FsStore,
        cluster: ClusterId,
        address: &BucketAddress,
        settings: BucketSettings,
        clock: Clock,
    ) -> StoreResult<Inner> {
        let root = format!("{}{cluster}/", address.prefix);
        let inner = Inner {
            bucket: Bucket::new(address)?,
            cache: Cache::default(),
            owner: Owner::new(cluster, &root),
            aside: Aside::default(),
            sends: Semaphore::new(BUCKET_SENDS_MAX),
            sending: DigestLocks::default(),
            local,
            root,
            settings,
            clock,
        };
        let mut after = None;
        loop {
            let page = inner.local.walk(after.as_ref(), ENTRIES_PER_PAGE)?;
            page.entries.iter().for_each(|entry| inner.cache.insert(&entry.key, entry.size_bytes));
            match page.next {
                None => return Ok(inner),
                next => after = next,
            }
        }
    }

    /// The name of a blob's object.
    pub(super) fn name(&self, key: &BlobKey) -> String {
        format!("{}{:02x}/{}", self.root, key.shard(), key.file_name())
    }

    /// The name of its block sums.
    pub(super) fn sums_name(&self, key: &BlobKey) -> String {
        format!("{}.sum", self.name(key))
    }

    // ---- here ----------------------------------------------------------------------------------------------------

    /// What the bucket has of a blob; one that this node found damaged counts as absent.
    pub(super) fn found(&self, key: &BlobKey) -> StoreResult<Option<BlobStat>> {
        if self.aside.is_marked(key) {
            return Ok(None);
        }
        Ok(self.bucket.head(&self.name(key))?.map(|found| stat(found.size_bytes)))
    }

    /// A blob that was placed and may have been evicted since.
    pub(super) fn placed(&self, key: &BlobKey) -> StoreResult<BlobStat> {
        self.found(key)?.ok_or(StoreError::UploadUnknown)
    }

    /// Whether its object is in the bucket now. One that lies here and is missing there is sent.
    pub(super) fn confirm(&self, key: &BlobKey) -> StoreResult<BlobStat> {
        match self.local.confirm(key) {
            Ok(stat) => {
                self.cache.settle(key, false);
                self.publish(key, stat)
            }
            Err(StoreError::NotFound) => self.found(key)?.ok_or(StoreError::NotFound),
            Err(error) => Err(error),
        }
    }

    /// A blob lies on the local volume, verified and synced: sees to it that its object is in the bucket.
    pub(super) fn publish(&self, key: &BlobKey, stat: BlobStat) -> StoreResult<BlobStat> {
        self.cache.insert(key, stat.size_bytes);
        self.ensure_object(key, stat.size_bytes)?;
        self.trim();
        Ok(stat)
    }

    // ---- gone ----------------------------------------------------------------------------------------------------

    pub(super) fn set_aside(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        let key = BlobKey::new(*held.digest(), generation);
        let was_cached = self.local.set_aside(held, generation)?;
        self.cache.remove(&key);
        if self.found(&key)?.is_none() {
            return Ok(was_cached);
        }
        tracing::error!(blob = %key, "this node uses an object no more that it found damaged");
        metrics::counter!("portolan_blob_quarantined_total").increment(1);
        Ok(self.aside.mark(&key, (self.clock)()) || was_cached)
    }

    pub(super) fn remove(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        let key = BlobKey::new(*held.digest(), generation);
        let was_cached = self.local.remove(held, generation)?;
        self.cache.remove(&key);
        Ok(self.delete_object(&key)? || was_cached)
    }

    /// Deletes an object and its sums; false if it isn't there, or is not ours to delete.
    pub(super) fn delete_object(&self, key: &BlobKey) -> StoreResult<bool> {
        let name = self.name(key);
        let Some(found) = self.bucket.head(&name)? else { return Ok(false) };
        if !self.owner.may_delete(&self.bucket)? {
            return Ok(false);
        }
        self.bucket.delete(&name)?;
        if found.size_bytes > SUMS_FROM_BYTES {
            self.bucket.delete(&self.sums_name(key))?;
        }
        self.aside.unmark(key);
        Ok(true)
    }

    // ---- room ----------------------------------------------------------------------------------------------------

    /// Bytes that the cache may have.
    fn room(&self) -> u64 {
        let Ok(usage) = self.local.usage() else { return self.settings.cache_bytes };
        let share = u128::from(usage.total_bytes) * u128::from(self.settings.cache_percent) / 100;
        self.settings.cache_bytes.min(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// Evicts what was used least lately while there is too much. What is not known to be in the bucket is asked for
    /// first, and stays if it isn't.
    pub(super) fn trim(&self) {
        let mut tries = self.cache.len();
        let room = self.room();
        while self.cache.bytes() > room && tries > 0 {
            tries -= 1;
            let Some((key, size_bytes)) = self.cache.oldest() else { break };
            if !self.cache.is_settled(&key) {
                match self.bucket.head(&self.name(&key)) {
                    Ok(Some(found)) if is_same(&found, &key, size_bytes) => self.cache.settle(&key, true),
                    Ok(_) => {
                        self.cache.touch(&key);
                        continue;
                    }
                    Err(_) => break,
                }
            }
            self.evict(&key);
        }
        metrics::gauge!("portolan_blob_cache_bytes").set(self.cache.bytes() as f64);
    }

    fn evict(&self, key: &BlobKey) {
        let Some(held) = self.local.try_lock(&key.digest) else {
            self.cache.touch(key);
            return;
        };
        match self.local.remove(&held, key.generation) {
            Ok(_) => {
                self.cache.remove(key);
                metrics::counter!("portolan_blob_cache_evictions_total").increment(1);
            }
            Err(error) => {
                tracing::warn!(blob = %key, %error, "a cached blob can't be evicted");
                self.cache.touch(key);
            }
        }
    }
}

pub(super) fn stat(size_bytes: u64) -> BlobStat {
    BlobStat { size_bytes, home: Home::of(size_bytes) }
}

/// Whether an object is the one that this blob has, as far as the server can tell.
pub(super) fn is_same(found: &Found, key: &BlobKey, size_bytes: u64) -> bool {
    let expected = data_encoding::BASE64.encode(key.digest.raw());
    let told = found.sha256.as_ref().filter(|_| key.digest.algorithm() == Algorithm::Sha256);
    found.size_bytes == size_bytes && told.is_none_or(|told| *told == expected)
}

//! Blobs on their way out: from the cache, else from the bucket, never a byte that wasn't checked.
//!
//! A blob above 1 MiB is read by ranges, each block checked against the block sums that lie beside the object.
//! Whoever reads it from its first byte to its last fills the cache on the way, and its last bytes are held back
//! until the whole hashes to the digest. A smaller one, and one whose sums are lost, is read and hashed whole before
//! anything of it is handed out.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use registry_core::vocabulary::digest::{Digest, Hasher};

use super::store::{Inner, SUMS_FROM_BYTES};
use crate::blob::store::block::cover;
use crate::blob::store::fs::{SmallReader, Sums};
use crate::blob::store::{
    BlobKey, BlobReader, BlobStore as _, Blocks, ImportWriter, PACK_BLOB_BYTES_MAX, StoreError, StoreResult,
};

/// Bytes asked for at once where a whole object is read.
const PIECE_BYTES: u64 = 4 << 20;

impl Inner {
    pub(super) fn open_now(self: &Arc<Inner>, key: &BlobKey) -> Option<StoreResult<Arc<dyn BlobReader>>> {
        match self.local.open_now(key)? {
            Ok(reader) => Some(Ok(self.cached(key, reader))),
            // only `open` can go on to the bucket
            Err(_) => None,
        }
    }

    pub(super) fn open(self: &Arc<Inner>, key: &BlobKey) -> StoreResult<Arc<dyn BlobReader>> {
        match self.local.open(key) {
            Ok(reader) => return Ok(self.cached(key, reader)),
            Err(error) if error.is_damage() => self.drop_cached(key)?,
            Err(StoreError::NotFound) => {}
            Err(error) => return Err(error),
        }
        self.open_cold(key)
    }

    fn cached(self: &Arc<Inner>, key: &BlobKey, local: Arc<dyn BlobReader>) -> Arc<dyn BlobReader> {
        self.cache.touch(key);
        metrics::counter!("portolan_blob_cache_reads_total", "found" => "yes").increment(1);
        Arc::new(CachedReader { inner: Arc::clone(self), local, cold: OnceLock::new() })
    }

    /// A cached copy that rotted is only a cached copy.
    pub(super) fn drop_cached(&self, key: &BlobKey) -> StoreResult<()> {
        tracing::warn!(blob = %key, "a cached blob is damaged; it is read from the bucket again");
        self.cache.remove(key);
        self.local.quarantine(key).map(|_| ())
    }

    /// Opens a blob that isn't in the cache.
    fn open_cold(self: &Arc<Inner>, key: &BlobKey) -> StoreResult<Arc<dyn BlobReader>> {
        let size_bytes = self.found(key)?.ok_or(StoreError::NotFound)?.size_bytes;
        metrics::counter!("portolan_blob_cache_reads_total", "found" => "no").increment(1);
        if size_bytes <= SUMS_FROM_BYTES {
            return Ok(Arc::new(self.read_small(key, size_bytes)?));
        }
        // its size has a bound, and its sums 1/8192 of that
        let most = usize::try_from(Sums::encoded_bytes(size_bytes)).unwrap_or(usize::MAX);
        let sums = self.bucket.read_all(&self.sums_name(key), most)?;
        let Some(sums) = sums.and_then(|bytes| Sums::decode(&bytes, size_bytes)) else {
            return self.read_whole(key, size_bytes);
        };
        let fill = Mutex::new(self.local.import(key, size_bytes).ok().map(|writer| Fill { writer, at: 0 }));
        Ok(Arc::new(ColdReader { inner: Arc::clone(self), key: *key, sums, fill }))
    }

    fn read_small(&self, key: &BlobKey, size_bytes: u64) -> StoreResult<SmallReader> {
        // at most SUMS_FROM_BYTES
        let bytes = self.bucket.read(&self.name(key), 0, size_bytes as usize)?.ok_or(StoreError::NotFound)?;
        if Digest::of(key.digest.algorithm(), &bytes) != key.digest {
            return Err(damaged(key, 0));
        }
        let kept = if bytes.len() <= PACK_BLOB_BYTES_MAX {
            self.local.put(key, &bytes).map(|_| ())
        } else {
            self.local.import(key, size_bytes).and_then(|mut writer| {
                writer.append(std::slice::from_ref(&bytes))?;
                writer.finish().map(|_| ())
            })
        };
        self.filled(key, size_bytes, kept);
        Ok(SmallReader { key: *key, bytes })
    }

    /// The sums are lost: the whole comes first.
    fn read_whole(self: &Arc<Inner>, key: &BlobKey, size_bytes: u64) -> StoreResult<Arc<dyn BlobReader>> {
        tracing::warn!(blob = %key, "the block sums of an object are missing; it is read whole before it is served");
        let name = self.name(key);
        let mut writer = self.local.import(key, size_bytes)?;
        let mut at = 0;
        while at < size_bytes {
            let len = PIECE_BYTES.min(size_bytes - at);
            let bytes = self.bucket.read(&name, at, len as usize)?.ok_or(StoreError::NotFound)?;
            writer.append(&[bytes])?;
            at += len;
        }
        match writer.finish() {
            Err(StoreError::DigestMismatch { .. }) => return Err(damaged(key, 0)),
            finished => finished?,
        };
        let reader = self.local.open(key)?;
        self.filled(key, size_bytes, Ok(()));
        Ok(reader)
    }

    /// A blob of the bucket lies in the cache now, unless there was no room: that costs time only.
    fn filled(&self, key: &BlobKey, size_bytes: u64, kept: StoreResult<()>) {
        match kept {
            Ok(()) | Err(StoreError::Exists) => {
                self.cache.insert(key, size_bytes);
                self.cache.settle(key, true);
                self.trim();
            }
            Err(error) => tracing::debug!(blob = %key, %error, "a blob was not kept in the cache"),
        }
    }

    /// Reads an object whole; whether it hashes to the digest, `None` when `pace` stopped it.
    pub(super) fn hash_object(
        &self,
        key: &BlobKey,
        size_bytes: u64,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> StoreResult<Option<bool>> {
        let name = self.name(key);
        let (mut hasher, mut at) = (Hasher::new(key.digest.algorithm()), 0);
        while at < size_bytes {
            let len = PIECE_BYTES.min(size_bytes - at);
            let bytes = self.bucket.read(&name, at, len as usize)?.ok_or(StoreError::NotFound)?;
            hasher.update(&bytes);
            at += len;
            if pace(at).is_break() {
                return Ok(None);
            }
        }
        Ok(Some(hasher.finish() == key.digest))
    }
}

fn damaged(key: &BlobKey, offset: u64) -> StoreError {
    StoreError::Damaged { key: Box::new(*key), offset, detail: "an object of the bucket is not what was sent" }
}

/// A cached blob; goes on in the bucket where the cached copy has rotted.
struct CachedReader {
    inner: Arc<Inner>,
    local: Arc<dyn BlobReader>,
    cold: OnceLock<Arc<dyn BlobReader>>,
}

impl BlobReader for CachedReader {
    fn key(&self) -> &BlobKey {
        self.local.key()
    }

    fn size_bytes(&self) -> u64 {
        self.local.size_bytes()
    }

    fn read_blocks(&self, offset: u64, len: usize) -> StoreResult<Blocks> {
        if let Some(cold) = self.cold.get() {
            return cold.read_blocks(offset, len);
        }
        match self.local.read_blocks(offset, len) {
            Err(error) if error.is_damage() => {
                self.inner.drop_cached(self.key())?;
                let cold = self.inner.open_cold(self.key())?;
                self.cold.get_or_init(|| cold).read_blocks(offset, len)
            }
            read => read,
        }
    }

    fn read_blocks_now(&self, offset: u64, len: usize) -> Option<StoreResult<Blocks>> {
        if self.cold.get().is_some() {
            return None;
        }
        self.local.read_blocks_now(offset, len).filter(|read| !read.as_ref().is_err_and(StoreError::is_damage))
    }
}

/// The cache's copy of a blob that is being read from its first byte on.
struct Fill {
    writer: Box<dyn ImportWriter>,
    at: u64,
}

/// A blob that is read from the bucket by ranges.
struct ColdReader {
    inner: Arc<Inner>,
    key: BlobKey,
    sums: Sums,
    fill: Mutex<Option<Fill>>,
}

impl ColdReader {
    /// Keeps blocks for the cache, if they follow those it has. At the end the whole must be right.
    fn keep(&self, blocks: &Blocks) -> StoreResult<()> {
        let mut slot = self.fill.lock();
        let Some(mut fill) = slot.take() else { return Ok(()) };
        if blocks.end() <= fill.at {
            *slot = Some(fill);
            return Ok(());
        }
        // a gap: whoever jumps about does not fill
        if blocks.offset > fill.at || fill.writer.append(&[blocks.slice(fill.at, u64::MAX)]).is_err() {
            return Ok(());
        }
        fill.at = blocks.end();
        if fill.at < self.sums.size_bytes {
            *slot = Some(fill);
            return Ok(());
        }
        match fill.writer.finish() {
            Err(StoreError::DigestMismatch { .. }) => Err(damaged(&self.key, blocks.offset)),
            finished => {
                self.inner.filled(&self.key, self.sums.size_bytes, finished.map(|_| ()));
                Ok(())
            }
        }
    }
}

impl BlobReader for ColdReader {
    fn key(&self) -> &BlobKey {
        &self.key
    }

    fn size_bytes(&self) -> u64 {
        self.sums.size_bytes
    }

    fn read_blocks(&self, offset: u64, len: usize) -> StoreResult<Blocks> {
        let (from, len) = cover(offset, len, self.size_bytes())?;
        let bytes = self.inner.bucket.read(&self.inner.name(&self.key), from, len)?.ok_or(StoreError::NotFound)?;
        let blocks = self.sums.blocks(from, bytes);
        match blocks.first_damaged() {
            Some(at) => Err(damaged(&self.key, at)),
            None => self.keep(&blocks).map(|()| blocks),
        }
    }
}

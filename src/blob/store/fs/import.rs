//! Copies from other nodes on their way in.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::staged;
use super::store::Inner;
use super::sums::Sums;
use crate::blob::store::tally::Tally;
use crate::blob::store::{BlobKey, BlobStat, ImportWriter, PACK_BLOB_BYTES_MAX, StoreError, StoreResult};

/// The keys being imported: one import of each at a time.
#[derive(Clone, Default)]
pub(super) struct Importing(Arc<Mutex<HashSet<BlobKey>>>);

/// One of them, until dropped.
struct Claim {
    key: BlobKey,
    importing: Importing,
}

impl Importing {
    fn claim(&self, key: &BlobKey) -> StoreResult<Claim> {
        if self.0.lock().insert(*key) {
            Ok(Claim { key: *key, importing: self.clone() })
        } else {
            Err(StoreError::Busy)
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.importing.0.lock().remove(&self.key);
    }
}

/// Where the bytes wait.
enum Waiting {
    /// A small blob, for a pack.
    Memory(BytesMut),
    /// A file in the staging directory.
    Staged(Box<StagedCopy>),
    /// Handed over.
    Nowhere,
}

struct StagedCopy {
    name: String,
    file: File,
    tally: Tally,
}

pub(super) struct Import {
    inner: Arc<Inner>,
    claim: Claim,
    size_bytes: u64,
    written: u64,
    waiting: Waiting,
}

impl Import {
    pub(super) fn begin(inner: &Arc<Inner>, key: &BlobKey, size_bytes: u64) -> StoreResult<Import> {
        let claim = inner.importing.claim(key)?;
        let waiting = if size_bytes <= PACK_BLOB_BYTES_MAX as u64 {
            Waiting::Memory(BytesMut::new())
        } else {
            let name = format!("{}.part", key.file_name());
            let staging = &inner.volume.staging;
            let file = staging.recreate(&name).map_err(|error| staging.error("create", &name, error))?;
            Waiting::Staged(Box::new(StagedCopy { name, file, tally: Tally::new(key.digest.algorithm()) }))
        };
        Ok(Import { inner: Arc::clone(inner), claim, size_bytes, written: 0, waiting })
    }

    /// Verifies and places; `waiting` keeps what has to be freed when this fails.
    fn place(&mut self) -> StoreResult<BlobStat> {
        if self.written != self.size_bytes {
            return Err(StoreError::SizeMismatch { expected: self.size_bytes, actual: self.written });
        }
        let key = self.claim.key;
        match &mut self.waiting {
            Waiting::Nowhere => Err(StoreError::UploadUnknown),
            Waiting::Memory(bytes) => self.inner.put_small(&key, bytes.split().freeze()),
            Waiting::Staged(copy) => {
                let (actual, sums) = copy.tally.finish();
                if actual != key.digest {
                    return Err(StoreError::DigestMismatch { actual });
                }
                let sums = Sums { size_bytes: self.size_bytes, sums };
                let volume = &self.inner.volume;
                volume.make_durable(&copy.name, &copy.file, &sums).map_err(|failed| failed.error)?;
                let held = self.inner.locks.lock(&key.digest);
                if let Some(stat) = self.inner.confirm_locked(&held, &key)? {
                    return Ok(stat);
                }
                let published = volume.publish(&held, &copy.name, &key, self.size_bytes);
                if published.as_ref().map_or_else(|failed| failed.spoiled, |_| true) {
                    self.waiting = Waiting::Nowhere;
                }
                published.map_err(|failed| failed.error)
            }
        }
    }
}

impl ImportWriter for Import {
    fn append(&mut self, parts: &[Bytes]) -> StoreResult<()> {
        let more: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if more > self.size_bytes - self.written {
            return Err(StoreError::TooLarge { max: self.size_bytes });
        }
        match &mut self.waiting {
            Waiting::Nowhere => return Err(StoreError::UploadUnknown),
            Waiting::Memory(bytes) => parts.iter().for_each(|part| bytes.extend_from_slice(part)),
            Waiting::Staged(copy) => {
                staged::append(&self.inner.volume, &copy.file, &mut copy.tally, self.written, parts)?;
            }
        }
        self.written += more;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> StoreResult<BlobStat> {
        self.place()
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        if let Waiting::Staged(copy) = &self.waiting {
            let volume = &self.inner.volume;
            volume.drop_file(&volume.staging, &copy.name);
            volume.release(self.written);
            volume.drop_sums(&copy.name, self.size_bytes);
        }
    }
}

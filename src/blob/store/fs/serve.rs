//! Opening blobs for verified reading, and their sums.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use super::open_blob::{FileReader, OpenBlob, SmallReader};
use super::pack::Packed;
use super::place::sum_name;
use super::shared::Shared;
use super::staged;
use super::store::Inner;
use super::sums::Sums;
use super::wait::Wait;
use crate::blob::store::lock::DigestLock;
use crate::blob::store::tally::Tally;
use crate::blob::store::{BlobKey, BlobReader, Step, StoreError, StoreResult};

impl Inner {
    pub(super) fn open_now(&self, key: &BlobKey) -> Option<StoreResult<Arc<dyn BlobReader>>> {
        match self.packs.read(key, Wait::Never) {
            Ok(Packed::Here(bytes)) => Some(Ok(Arc::new(SmallReader { key: *key, bytes }))),
            Ok(Packed::WouldWait) => None,
            Ok(Packed::Absent) => {
                let blob = self.cache.get(key).ok()?;
                Some(Ok(Arc::new(FileReader::new(blob, self.buffers.clone()))))
            }
            Err(error) => Some(Err(error)),
        }
    }

    pub(super) fn open(&self, key: &BlobKey) -> StoreResult<Arc<dyn BlobReader>> {
        if let Packed::Here(bytes) = self.packs.read(key, Wait::Long)? {
            return Ok(Arc::new(SmallReader { key: *key, bytes }));
        }
        let blob = match self.cache.get(key) {
            Ok(blob) => blob,
            Err(before) => {
                let blob = Arc::new(self.open_file(key)?);
                self.cache.insert(&blob, before);
                blob
            }
        };
        Ok(Arc::new(FileReader::new(blob, self.buffers.clone())))
    }

    fn open_file(&self, key: &BlobKey) -> StoreResult<OpenBlob> {
        let (shard, name) = (self.volume.shard(key), key.file_name());
        let file = match shard.open_read(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::NotFound),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Err(damaged(key, "a link in place of the file"));
            }
            Err(error) => return Err(shard.error("open", &name, error)),
        };
        let size_bytes = file.metadata().map_err(|error| shard.error("stat", &name, error))?.len();
        let sums = match self.load_sums(key, size_bytes) {
            Some(sums) => sums,
            None => self.rebuild_sums(key, &file, size_bytes)?,
        };
        Ok(OpenBlob { key: *key, file, sums, shared: Shared::new(self.shared_room.clone()) })
    }

    /// The sidecar's sums, if they can be read and fit the file.
    pub(super) fn load_sums(&self, key: &BlobKey, size_bytes: u64) -> Option<Sums> {
        let name = sum_name(&key.file_name());
        let mut bytes = Vec::new();
        let file = self.volume.shard(key).open_read(&name).ok()?;
        file.take(Sums::encoded_bytes(size_bytes) + 1).read_to_end(&mut bytes).ok()?;
        Sums::decode(&bytes, size_bytes)
    }

    /// Makes the sums anew from bytes that hash to the digest. Under the digest's lock, so that a herd hashes once.
    fn rebuild_sums(&self, key: &BlobKey, file: &File, size_bytes: u64) -> StoreResult<Sums> {
        let held = self.locks.lock(&key.digest);
        if let Some(sums) = self.load_sums(key, size_bytes) {
            return Ok(sums);
        }
        tracing::warn!(blob = %key, "block sums are missing or damaged; hashing the blob to make them anew");
        let mut tally = Tally::new(key.digest.algorithm());
        staged::feed(file, &mut tally, size_bytes).map_err(|_| damaged(key, "unreadable"))?;
        let (actual, sums) = tally.finish();
        if actual != key.digest {
            return Err(damaged(key, "file does not hash to its digest"));
        }
        let sums = Sums { size_bytes, sums };
        self.save_sums(&held, key, &sums);
        Ok(sums)
    }

    /// Replaces the sidecar. The sums in memory are good either way, so errors only cost time later.
    pub(super) fn save_sums(&self, _held: &DigestLock, key: &BlobKey, sums: &Sums) {
        let name = sum_name(&key.file_name());
        let temporary = format!("{name}.new");
        let shard = self.volume.shard(key);
        let saved = self
            .volume
            .writable()
            .and_then(|()| self.volume.write_sums(shard, &temporary, sums))
            .and_then(|file| self.volume.sync_file(Step::SumSync, &file, "sync block sums"))
            .and_then(|()| shard.rename(&temporary, shard, &name).map_err(|error| shard.error("rename", &name, error)));
        if let Err(error) = saved {
            tracing::warn!(blob = %key, %error, "could not save block sums");
        }
    }
}

fn damaged(key: &BlobKey, detail: &'static str) -> StoreError {
    StoreError::Damaged { key: Box::new(*key), offset: 0, detail }
}

//! What all verbs share, and the verbs on stored blobs.

use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use registry_core::vocabulary::digest::Digest;
use registry_core::vocabulary::ids::UploadId;
use rustix::fs::Advice;

use super::buffers::Buffers;
use super::cache::Cache;
use super::import::Importing;
use super::open_blob::{FileReader, OpenBlob, SmallReader};
use super::pack::Packs;
use super::place::sum_name;
use super::staged;
use super::sums::Sums;
use super::upload::{Finish, Remains};
use super::uploads::Uploads;
use super::volume::Volume;
use crate::blob::store::lock::{DigestLock, DigestLocks};
use crate::blob::store::tally::Tally;
use crate::blob::store::{
    BlobKey, BlobReader, BlobStat, Home, PACK_BLOB_BYTES_MAX, READ_BYTES_MAX, Scrubbed, Step, StoreError, StoreResult,
};

pub(super) struct Inner {
    pub(super) volume: Arc<Volume>,
    pub(super) uploads: Uploads,
    pub(super) packs: Packs,
    pub(super) cache: Cache,
    pub(super) buffers: Buffers,
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

    pub(super) fn open(&self, key: &BlobKey) -> StoreResult<Arc<dyn BlobReader>> {
        if let Some(bytes) = self.packs.read(key)? {
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
        Ok(Arc::new(FileReader { blob, buffers: self.buffers.clone() }))
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
        Ok(OpenBlob { key: *key, file, sums })
    }

    /// The sidecar's sums, if they can be read and fit the file.
    fn load_sums(&self, key: &BlobKey, size_bytes: u64) -> Option<Sums> {
        let name = sum_name(&key.file_name());
        let mut bytes = Vec::new();
        let file = self.volume.shard(key).open_read(&name).ok()?;
        file.take(Sums::encoded_bytes(size_bytes) + 1).read_to_end(&mut bytes).ok()?;
        Sums::decode(&bytes, size_bytes)
    }

    /// Makes the sums anew from bytes that hash to the digest. Under the digest's lock, so that a herd hashes once.
    fn rebuild_sums(&self, key: &BlobKey, file: &std::fs::File, size_bytes: u64) -> StoreResult<Sums> {
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
    fn save_sums(&self, _held: &DigestLock, key: &BlobKey, sums: &Sums) {
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

    // ---- judged --------------------------------------------------------------------------------------------------

    pub(super) fn verify(&self, key: &BlobKey, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> StoreResult<Scrubbed> {
        match self.packs.read(key) {
            Ok(Some(bytes)) => return Ok(Scrubbed::Good { size_bytes: bytes.len() as u64 }),
            Ok(None) => {}
            Err(error) if error.is_damage() => return Ok(Scrubbed::Bad),
            Err(error) => return Err(error),
        }
        let (shard, name) = (self.volume.shard(key), key.file_name());
        let file = match shard.open_read(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::NotFound),
            Err(_) => return Ok(Scrubbed::Bad),
        };
        let size_bytes = file.metadata().map_err(|error| shard.error("stat", &name, error))?.len();
        // The page cache would vouch for bytes that the disk no longer has.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        let mut tally = Tally::new(key.digest.algorithm());
        while tally.offset() < size_bytes {
            let until = (tally.offset() + READ_BYTES_MAX as u64).min(size_bytes);
            if staged::feed(&file, &mut tally, until).is_err() {
                return Ok(Scrubbed::Bad);
            }
            if pace(tally.offset()).is_break() {
                return Ok(Scrubbed::Stopped);
            }
        }
        let (actual, sums) = tally.finish();
        if actual != key.digest {
            return Ok(Scrubbed::Bad);
        }
        self.heal_sums(key, Sums { size_bytes, sums });
        Ok(Scrubbed::Good { size_bytes })
    }

    /// A good file whose sidecar differs gets a good sidecar.
    fn heal_sums(&self, key: &BlobKey, sums: Sums) {
        let held = self.locks.lock(&key.digest);
        let is_here = matches!(self.volume.shard(key).stat(&key.file_name()), Ok(Some(_)));
        if is_here && self.load_sums(key, sums.size_bytes).as_ref() != Some(&sums) {
            self.save_sums(&held, key, &sums);
            self.cache.remove(key);
        }
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

    // ---- quarantine ----------------------------------------------------------------------------------------------

    /// Moves a file, or writes a record's bytes out, to `quarantine/<name>.<now>`.
    pub(super) fn quarantine(&self, key: &BlobKey) -> StoreResult<bool> {
        let _held = self.locks.lock(&key.digest);
        let (shard, name) = (self.volume.shard(key), key.file_name());
        let quarantine = &self.volume.quarantine;
        let kept = format!("{name}.{:016x}", self.volume.now_ms());
        if self.packs.stat(key).is_some() {
            self.keep_record(key, &kept);
            return Ok(self.packs.remove(key));
        }
        let moved = match shard.rename(&name, quarantine, &kept) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(shard.error("quarantine", &name, error)),
        };
        self.cache.remove(key);
        if moved {
            self.volume.drop_file(shard, &sum_name(&name));
            // Not durable: the copy would only come back and be found bad again.
            tracing::warn!(blob = %key, "quarantined a damaged copy");
        }
        Ok(moved)
    }

    /// Best effort: the bytes are for a person's eyes.
    pub(super) fn keep_record(&self, key: &BlobKey, kept: &str) {
        let Some(bytes) = self.packs.read_unchecked(key) else { return };
        let quarantine = &self.volume.quarantine;
        let written = self.volume.reserve(bytes.len() as u64).and_then(|()| {
            quarantine
                .recreate(kept)
                .and_then(|mut file| file.write_all(&bytes))
                .map_err(|error| quarantine.error("write", kept, error))
        });
        match written {
            Ok(()) => tracing::warn!(blob = %key, "quarantined a damaged pack record"),
            Err(error) => tracing::warn!(blob = %key, %error, "could not keep the bytes of a damaged pack record"),
        }
    }

    pub(super) fn purge_quarantine(&self, before_ms: u64, limit: usize) -> StoreResult<usize> {
        let quarantine = &self.volume.quarantine;
        let names = quarantine.names().map_err(|error| quarantine.error("list", ".", error))?;
        let old = names.iter().filter(|name| quarantined_at(name).is_none_or(|at_ms| at_ms <= before_ms));
        let mut purged = 0;
        for name in old.take(limit) {
            let error = |error| quarantine.error("purge", name, error);
            let size_bytes = quarantine.stat(name).map_err(error)?.map_or(0, |stat| stat.size_bytes);
            if quarantine.unlink(name).map_err(error)? {
                self.volume.release(size_bytes);
                purged += 1;
            }
        }
        Ok(purged)
    }
}

/// When a file was quarantined; `None` for a name that isn't ours.
fn quarantined_at(name: &str) -> Option<u64> {
    u64::from_str_radix(name.rsplit_once('.')?.1, 16).ok()
}

fn damaged(key: &BlobKey, detail: &'static str) -> StoreError {
    StoreError::Damaged { key: Box::new(*key), offset: 0, detail }
}

/// Nothing staged and nothing placed: the upload isn't known here.
pub(super) fn unknown_if_absent(error: StoreError) -> StoreError {
    if matches!(error, StoreError::NotFound) { StoreError::UploadUnknown } else { error }
}

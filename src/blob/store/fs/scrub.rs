//! Judging copies: the full hash, and the quarantine for those that fail it or that nobody remembers.

use std::io::{self, Write as _};
use std::ops::ControlFlow;

use registry_core::vocabulary::ids::UploadId;
use rustix::fs::Advice;

use super::pack::Packed;
use super::place::sum_name;
use super::staged;
use super::store::Inner;
use super::sums::Sums;
use super::wait::Wait;
use crate::blob::store::error::is_of_now;
use crate::blob::store::lock::DigestLock;
use crate::blob::store::tally::Tally;
use crate::blob::store::{BlobKey, READ_BYTES_MAX, Scrubbed, StoreError, StoreResult};

impl Inner {
    pub(super) fn verify(&self, key: &BlobKey, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> StoreResult<Scrubbed> {
        match self.packs.read(key, Wait::Long) {
            Ok(Packed::Here(bytes)) => return Ok(Scrubbed::Good { size_bytes: bytes.len() as u64 }),
            Ok(Packed::Absent | Packed::WouldWait) => {}
            Err(error) if error.is_damage() => return Ok(Scrubbed::Bad),
            Err(error) => return Err(error),
        }
        let (shard, name) = (self.volume.shard(key), key.file_name());
        let file = match shard.open_read(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::NotFound),
            Err(error) if is_of_now(&error) => return Err(shard.error("open", &name, error)),
            Err(_) => return Ok(Scrubbed::Bad),
        };
        let size_bytes = file.metadata().map_err(|error| shard.error("stat", &name, error))?.len();
        // The page cache would vouch for bytes that the disk no longer has.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        let mut tally = Tally::new(key.digest.algorithm());
        while tally.offset() < size_bytes {
            let until = (tally.offset() + READ_BYTES_MAX as u64).min(size_bytes);
            match staged::feed(&file, &mut tally, until) {
                Ok(()) => {}
                Err(StoreError::Io { source, what }) if is_of_now(&source) => {
                    return Err(StoreError::Io { source, what });
                }
                Err(_) => return Ok(Scrubbed::Bad),
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

    /// Moves a file, or writes a record's bytes out, to `quarantine/<name>.<now>`.
    pub(super) fn set_aside(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool> {
        let key = &BlobKey::new(*held.digest(), generation);
        let (shard, name) = (self.volume.shard(key), key.file_name());
        let quarantine = &self.volume.quarantine;
        let kept = format!("{name}.{:016x}", self.volume.now_ms());
        if self.packs.stat(key).is_some() {
            self.keep_record(key, &kept);
            metrics::counter!("portolan_blob_quarantined_total").increment(1);
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
            metrics::counter!("portolan_blob_quarantined_total").increment(1);
            // Not durable: the copy would only come back and be found bad again.
            tracing::warn!(blob = %key, "quarantined a copy");
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
            Ok(()) => tracing::warn!(blob = %key, "quarantined a pack record"),
            Err(error) => tracing::warn!(blob = %key, %error, "could not keep the bytes of a pack record"),
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

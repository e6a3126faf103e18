//! Making verified bytes durable and visible, for uploads and imports alike.
//!
//! Order: bytes synced, sums written and synced, both renamed (sums first), directory synced. A crash before the blob's
//! rename leaves nothing under the digest; after it, everything: what the names point at was synced before.

use std::fs::File;
use std::io::{self, Write as _};

use super::dir::Dir;
use super::sums::Sums;
use super::volume::Volume;
use crate::blob::store::lock::DigestLock;
use crate::blob::store::{BlobKey, BlobStat, Home, Step, StoreError, StoreResult};

/// The sidecar's name beside a blob or staging file.
pub(super) fn sum_name(name: &str) -> String {
    format!("{name}.sum")
}

/// Why a placing did not succeed, and what became of the bytes.
pub(super) struct PlaceError {
    pub(super) error: StoreError,
    /// The staged bytes are of no more use: a sync of them failed and must not be tried again, or they have moved.
    pub(super) spoiled: bool,
}

impl From<StoreError> for PlaceError {
    fn from(error: StoreError) -> PlaceError {
        PlaceError { error, spoiled: false }
    }
}

impl Volume {
    /// Syncs the staged file `name` and its sums, outside the digest's lock: it may take long.
    pub(super) fn make_durable(&self, name: &str, file: &File, sums: &Sums) -> Result<(), PlaceError> {
        self.writable()?;
        self.sync_file(Step::FileSync, file, "sync a blob").map_err(|error| PlaceError { error, spoiled: true })?;
        let sum_file = self.write_sums(&self.staging, &sum_name(name), sums)?;
        self.sync_file(Step::SumSync, &sum_file, "sync block sums")
            .inspect_err(|_| self.drop_sums(name, sums.size_bytes))?;
        Ok(())
    }

    /// Frees the sums beside a staged file, if a placing got that far.
    pub(super) fn drop_sums(&self, name: &str, size_bytes: u64) {
        if matches!(self.staging.unlink(&sum_name(name)), Ok(true)) {
            self.release(Sums::encoded_bytes(size_bytes));
        }
    }

    /// Gives the durable staged file `name` its final name, and makes that durable. If that can't be synced the copy is
    /// given up: a later sync might lie about it.
    pub(super) fn publish(
        &self,
        held: &DigestLock,
        name: &str,
        key: &BlobKey,
        size: u64,
    ) -> Result<BlobStat, PlaceError> {
        debug_assert_eq!(held.digest(), &key.digest);
        self.writable()?;
        let shard = self.shard(key);
        let final_name = key.file_name();
        let rename = |step: Step, from: &str, to: &str| {
            self.before(step)
                .and_then(|()| self.staging.rename(from, shard, to))
                .map_err(|error| self.staging.error("place", from, error))
        };
        rename(Step::SumRename, &sum_name(name), &sum_name(&final_name))?;
        rename(Step::FileRename, name, &final_name)?;
        self.sync_dir(Step::DirSync, shard).map_err(|error| {
            self.drop_file(shard, &final_name);
            self.drop_file(shard, &sum_name(&final_name));
            self.release(size + Sums::encoded_bytes(size));
            PlaceError { error, spoiled: true }
        })?;
        self.before(Step::Placed).map_err(|error| {
            // Visible and durable, only not told: a repeat confirms it.
            PlaceError { error: shard.error("place", &final_name, error), spoiled: true }
        })?;
        metrics::counter!("portolan_blob_stored_total", "home" => "file").increment(1);
        metrics::counter!("portolan_blob_stored_bytes_total", "home" => "file").increment(size);
        Ok(BlobStat { size_bytes: size, home: Home::File })
    }

    /// Writes sums to a new file `name` in `dir`, not synced.
    pub(super) fn write_sums(&self, dir: &Dir, name: &str, sums: &Sums) -> StoreResult<File> {
        let bytes = sums.encode();
        self.reserve(bytes.len() as u64)?;
        let written = (|| {
            self.before(Step::SumWrite)?;
            let mut file = dir.recreate(name)?;
            file.write_all(&bytes)?;
            Ok::<File, io::Error>(file)
        })();
        written.map_err(|error| {
            self.release(bytes.len() as u64);
            self.drop_file(dir, name);
            dir.error("write", name, error)
        })
    }

    /// Unlinks a file that nobody needs. If that fails it is found again at the next start.
    pub(super) fn drop_file(&self, dir: &Dir, name: &str) {
        if let Err(error) = dir.unlink(name) {
            tracing::warn!(dir = dir.path(), name, %error, "could not unlink a file that nobody needs");
        }
    }
}

//! Looks at objects again: the bucket is asked about each, a share of them is read whole; and what broken-off calls
//! left.

use std::ops::ControlFlow;
use std::time::SystemTime;

use registry_core::vocabulary::limits::BUCKET_PARTS_MAX;
use xxhash_rust::xxh3::xxh3_64;

use super::store::{Inner, is_same};
use crate::blob::store::{BlobKey, BlobStore as _, Scrubbed, StoreError, StoreResult};

/// A day of the store's clock: each day another share of the objects is read whole.
const DAY_MS: u64 = 24 * 3600 * 1000;

impl Inner {
    /// A bad object of which this node has a good copy is replaced.
    pub(super) fn verify(&self, key: &BlobKey, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> StoreResult<Scrubbed> {
        let cached = match self.local.verify(key, pace) {
            Ok(Scrubbed::Good { size_bytes }) => Some(size_bytes),
            Ok(Scrubbed::Bad) => {
                self.drop_cached(key)?;
                None
            }
            Ok(Scrubbed::Stopped) => return Ok(Scrubbed::Stopped),
            Err(StoreError::NotFound) => None,
            Err(error) => return Err(error),
        };
        let found = if self.aside.is_marked(key) { None } else { self.bucket.head(&self.name(key))? };
        let size_bytes = match (&found, cached) {
            (None, None) => return Err(StoreError::NotFound),
            (_, Some(size_bytes)) => size_bytes,
            (Some(found), None) => found.size_bytes,
        };
        let is_good = match &found {
            None => false,
            Some(found) if !is_same(found, key, size_bytes) => false,
            Some(_) if !self.is_sampled(key) => true,
            Some(_) => match self.hash_object(key, size_bytes, pace)? {
                Some(is_good) => is_good,
                None => return Ok(Scrubbed::Stopped),
            },
        };
        if is_good {
            self.cache.settle(key, true);
            return Ok(Scrubbed::Good { size_bytes });
        }
        if cached.is_none() {
            return Ok(Scrubbed::Bad);
        }
        tracing::warn!(blob = %key, "an object is missing or bad; it is made again from the cache");
        self.cache.settle(key, false);
        if found.is_some() {
            self.aside.mark(key, (self.clock)());
        }
        self.ensure_object(key, size_bytes)?;
        Ok(Scrubbed::Good { size_bytes })
    }

    /// Whether this object is read whole today, by this node.
    fn is_sampled(&self, key: &BlobKey) -> bool {
        let day = (self.clock)() / DAY_MS;
        let lot = xxh3_64(format!("{}{day}{}", key.file_name(), self.local.store_id()).as_bytes());
        lot % 100 < u64::from(self.settings.scrub_percent)
    }

    // ---- what broken-off calls left ------------------------------------------------------------------------------

    /// Gives up parts that no object came of, and makes room in the cache.
    pub(super) fn tidy(&self) {
        self.trim();
        if let Err(error) = self.abort_old_parts() {
            tracing::warn!(%error, "old parts in the bucket can't be given up; it is tried again");
        }
    }

    fn abort_old_parts(&self) -> StoreResult<()> {
        let old = |begun: Option<SystemTime>| self.is_old(begun);
        let open: Vec<_> = self.bucket.open_uploads(&self.root)?.into_iter().filter(|open| old(open.begun)).collect();
        if open.is_empty() || !self.owner.may_delete(&self.bucket)? {
            return Ok(());
        }
        for upload in open.iter().take(BUCKET_PARTS_MAX as usize) {
            tracing::info!(object = upload.name, "gives up the parts of an object that nobody completed");
            self.bucket.abort(&upload.name, &upload.id)?;
        }
        Ok(())
    }

    /// Whether something was made so long ago that nobody works on it.
    pub(super) fn is_old(&self, made: Option<SystemTime>) -> bool {
        let age = made.and_then(|made| SystemTime::now().duration_since(made).ok());
        age.is_some_and(|age| age >= self.settings.parts_idle)
    }
}

//! A blob of the local volume becomes an object of the bucket.
//!
//! What is sent was checked against its block sums when it was read, and travels with its SHA-256, which the server
//! checks. A server that doesn't say that it did is read back. An object is made only where there is none; an answer
//! that got lost is made up for by a look: the same name, size and checksum is success.

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use registry_core::vocabulary::limits::{BUCKET_PART_BYTES, BUCKET_PARTS_MAX};

use super::bucket::{Refused, unavailable};
use super::store::{Inner, SUMS_FROM_BYTES, is_same};
use crate::blob::store::fs::Sums;
use crate::blob::store::{BlobKey, BlobReader, BlobStore as _, StoreError, StoreResult};

/// Bytes of each part but the last: whole reads, and not more parts than a server takes.
pub(super) fn part_bytes(size_bytes: u64) -> u64 {
    let least = size_bytes.div_ceil(BUCKET_PARTS_MAX);
    least.div_ceil(BUCKET_PART_BYTES).max(1) * BUCKET_PART_BYTES
}

impl Inner {
    /// Sees to it that the object of a cached blob is in the bucket, and knows it afterwards.
    pub(super) fn ensure_object(&self, key: &BlobKey, size_bytes: u64) -> StoreResult<()> {
        if self.cache.is_settled(key) && !self.aside.is_marked(key) {
            return Ok(());
        }
        let _alone = self.sending.lock(&key.digest);
        let is_bad = self.aside.is_marked(key);
        if self.cache.is_settled(key) && !is_bad {
            return Ok(());
        }
        let found = if is_bad { None } else { self.bucket.head(&self.name(key))? };
        let is_there = found.as_ref().is_some_and(|found| is_same(found, key, size_bytes));
        if !is_there {
            self.owner.claim(&self.bucket)?;
            // what has the name and is something else gives way: nobody can use it
            self.send(key, &*self.local.open(key)?, !is_bad && found.is_none())?;
            self.aside.unmark(key);
        }
        self.cache.settle(key, true);
        Ok(())
    }

    /// Sends a blob. `is_new`: only where there is none.
    fn send(&self, key: &BlobKey, reader: &dyn BlobReader, is_new: bool) -> StoreResult<()> {
        // never closed
        let _slot = self.bucket.wait(self.sends.acquire());
        let (name, size_bytes) = (self.name(key), reader.size_bytes());
        let part = part_bytes(size_bytes);
        let is_vouched = if size_bytes > part {
            self.send_parts(key, &name, reader, part, is_new)?
        } else {
            let mut sums = Vec::new();
            let bytes = gather(reader, 0, size_bytes, &mut sums)?;
            self.send_sums(key, size_bytes, sums)?;
            match self.bucket.put(&name, bytes, is_new) {
                Ok(is_told) => is_told,
                Err(refused) => self.made_anyway(key, size_bytes, is_new, refused)?,
            }
        };
        if !is_vouched && !self.hash_object(key, size_bytes, &mut |_| ControlFlow::Continue(()))?.unwrap_or(true) {
            let text = format!("{name} does not read back as what was sent");
            return Err(unavailable("put", text));
        }
        metrics::counter!("portolan_bucket_sent_bytes_total").increment(size_bytes);
        Ok(())
    }

    /// The sums come first: where the object is, they are.
    fn send_sums(&self, key: &BlobKey, size_bytes: u64, sums: Vec<u64>) -> StoreResult<()> {
        if size_bytes <= SUMS_FROM_BYTES {
            return Ok(());
        }
        let bytes = Sums { size_bytes, sums }.encode();
        self.bucket.put(&self.sums_name(key), bytes.into(), false)?;
        Ok(())
    }

    /// Whether the server vouched for every part. What fails leaves no parts behind, if the bucket can be asked.
    fn send_parts(
        &self,
        key: &BlobKey,
        name: &str,
        reader: &dyn BlobReader,
        part: u64,
        is_new: bool,
    ) -> StoreResult<bool> {
        let id = self.bucket.begin_parts(name)?;
        let sent = self.fill_parts(key, name, &id, reader, part, is_new);
        let made = match sent {
            Ok(is_vouched) => return Ok(is_vouched),
            Err(Failure::Local(error)) => Err(error),
            Err(Failure::Bucket(refused)) => Ok(refused),
        };
        if let Err(error) = self.bucket.abort(name, &id) {
            tracing::debug!(blob = %key, %error, "parts stay behind; they go when they are old");
        }
        self.made_anyway(key, reader.size_bytes(), is_new, made?)
    }

    fn fill_parts(
        &self,
        key: &BlobKey,
        name: &str,
        id: &str,
        reader: &dyn BlobReader,
        part: u64,
        is_new: bool,
    ) -> Result<bool, Failure> {
        let size_bytes = reader.size_bytes();
        let (mut parts, mut sums, mut at, mut is_vouched) = (Vec::new(), Vec::new(), 0, true);
        while at < size_bytes {
            let until = size_bytes.min(at + part);
            let bytes = gather(reader, at, until, &mut sums)?;
            // at most BUCKET_PARTS_MAX of them
            let (sent, is_told) = self.bucket.send_part(name, id, parts.len() as i32 + 1, bytes)?;
            parts.push(sent);
            is_vouched &= is_told;
            at = until;
        }
        self.send_sums(key, size_bytes, sums)?;
        self.bucket.complete(name, id, parts, is_new)?;
        Ok(is_vouched)
    }

    /// A request was refused or got no answer: whether the object is there all the same, because an earlier try has
    /// made it, or another node. Where a damaged one was to be replaced, nobody can tell. What was made without a
    /// word of the server is not vouched for unless its checksum is.
    fn made_anyway(&self, key: &BlobKey, size_bytes: u64, is_new: bool, refused: Refused) -> StoreResult<bool> {
        if !is_new {
            return Err(refused.into());
        }
        match self.bucket.head(&self.name(key))? {
            Some(found) if is_same(&found, key, size_bytes) => Ok(found.sha256.is_some()),
            Some(_) | None => Err(refused.into()),
        }
    }
}

enum Failure {
    Local(StoreError),
    Bucket(Refused),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Local(error)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        Failure::Bucket(refused)
    }
}

/// The checked bytes `from .. until`, which begin at a whole read; their sums are added.
fn gather(reader: &dyn BlobReader, from: u64, until: u64, sums: &mut Vec<u64>) -> StoreResult<Bytes> {
    // a part fits into memory
    let mut bytes = BytesMut::with_capacity((until - from) as usize);
    while from + (bytes.len() as u64) < until {
        let at = from + bytes.len() as u64;
        let blocks = reader.read_blocks(at, (until - at) as usize)?;
        bytes.extend_from_slice(&blocks.bytes);
        sums.extend(&blocks.sums);
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use registry_core::vocabulary::limits::BLOB_BYTES_MAX;

    use super::*;

    // Parts are whole reads and few enough, also of the largest blob.
    #[test]
    fn parts() {
        for size in [0, 1, BUCKET_PART_BYTES, BUCKET_PART_BYTES + 1, 100 << 30, BLOB_BYTES_MAX] {
            let part = part_bytes(size);
            assert!(part.is_multiple_of(SUMS_FROM_BYTES) && size.div_ceil(part) <= BUCKET_PARTS_MAX, "{size}");
        }
        assert_eq!(part_bytes(BUCKET_PART_BYTES * BUCKET_PARTS_MAX), BUCKET_PART_BYTES);
    }
}

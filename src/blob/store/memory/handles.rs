//! Writers and readers of the memory store.

use std::sync::Arc;

use bytes::Bytes;
use registry_core::vocabulary::ids::UploadId;

use super::Inner;
use super::disk::Stored;
use crate::blob::store::block::cover;
use crate::blob::store::{
    BLOCK_BYTES, BlobKey, BlobReader, BlobStat, Blocks, ImportWriter, Step, StoreError, StoreResult, UploadWriter,
};

pub(super) struct Writer {
    pub(super) inner: Arc<Inner>,
    pub(super) id: UploadId,
    pub(super) lease: u64,
    pub(super) offset: u64,
}

impl UploadWriter for Writer {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn append(&mut self, offset: u64, parts: &[Bytes]) -> StoreResult<u64> {
        let now_ms = self.inner.now_ms();
        let mut state = self.inner.writable()?;
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let upload = state.upload(self.id)?;
        upload.check_lease(self.lease)?;
        let expected = upload.bytes.len() as u64;
        if offset != expected {
            return Err(StoreError::OffsetMismatch { expected });
        }
        self.inner.reserve(&state, len)?;
        self.inner.options.steps.before(Step::StagingWrite).map_err(|error| StoreError::io("append", error))?;
        let upload = state.upload(self.id)?;
        parts.iter().for_each(|part| upload.bytes.extend_from_slice(part));
        upload.touched_at_ms = now_ms;
        self.offset = upload.bytes.len() as u64;
        Ok(self.offset)
    }

    fn truncate(&mut self, offset: u64) -> StoreResult<()> {
        let now_ms = self.inner.now_ms();
        let mut state = self.inner.writable()?;
        let upload = state.upload(self.id)?;
        upload.check_lease(self.lease)?;
        let expected = upload.bytes.len() as u64;
        if offset > expected {
            return Err(StoreError::OffsetMismatch { expected });
        }
        // Not beyond a length in memory.
        upload.bytes.truncate(offset as usize);
        upload.touched_at_ms = now_ms;
        self.offset = offset;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Ok(mut state) = self.inner.state()
            && let Ok(upload) = state.upload(self.id)
            && upload.check_lease(self.lease).is_ok()
        {
            upload.writer = None;
        }
    }
}

pub(super) struct Import {
    pub(super) inner: Arc<Inner>,
    pub(super) key: BlobKey,
    pub(super) size_bytes: u64,
    pub(super) bytes: Vec<u8>,
}

impl ImportWriter for Import {
    fn append(&mut self, parts: &[Bytes]) -> StoreResult<()> {
        let more: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if more > self.size_bytes - self.bytes.len() as u64 {
            return Err(StoreError::TooLarge { max: self.size_bytes });
        }
        let state = self.inner.writable()?;
        self.inner.reserve(&state, self.bytes.len() as u64 + more)?;
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> StoreResult<BlobStat> {
        let (expected, actual) = (self.size_bytes, self.bytes.len() as u64);
        if actual != expected {
            return Err(StoreError::SizeMismatch { expected, actual });
        }
        super::check(&self.key, &self.bytes)?;
        let bytes = std::mem::take(&mut self.bytes).into();
        let _held = self.inner.locks.lock(&self.key.digest);
        self.inner.place(&mut *self.inner.writable()?, &self.key, bytes)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        self.inner.importing.lock().remove(&self.key);
    }
}

pub(super) struct Reader {
    pub(super) key: BlobKey,
    pub(super) stored: Arc<Stored>,
}

impl BlobReader for Reader {
    fn key(&self) -> &BlobKey {
        &self.key
    }

    fn size_bytes(&self) -> u64 {
        self.stored.stat().size_bytes
    }

    fn read_blocks(&self, offset: u64, len: usize) -> StoreResult<Blocks> {
        let (begin, len) = cover(offset, len, self.size_bytes())?;
        // Both lie inside a buffer in memory.
        let bytes = self.stored.bytes().slice(begin as usize..begin as usize + len);
        let first = (begin / BLOCK_BYTES as u64) as usize;
        let sums = self.stored.sums[first..first + len.div_ceil(BLOCK_BYTES)].to_vec();
        let blocks = Blocks { offset: begin, bytes, sums };
        match blocks.first_damaged() {
            None => Ok(blocks),
            Some(offset) => Err(StoreError::Damaged { key: Box::new(self.key), offset, detail: "block" }),
        }
    }
}

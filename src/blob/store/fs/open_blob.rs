//! An open blob file with its sums, and the small blob that is read whole.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::buffers::Buffers;
use super::shared::Shared;
use super::sums::Sums;
use super::wait::{Wait, read_exact};
use crate::blob::store::block::cover;
use crate::blob::store::{BLOCK_BYTES, BlobKey, BlobReader, Blocks, StoreError, StoreResult, block_sum};

/// Bytes read and then checked while they are still in the second-level cache.
const PIECE_BYTES: usize = 256 << 10;

/// What the cache holds.
pub(super) struct OpenBlob {
    pub(super) key: BlobKey,
    pub(super) file: File,
    pub(super) sums: Sums,
    pub(super) shared: Shared,
}

/// A reader of an [`OpenBlob`].
pub(super) struct FileReader {
    blob: Arc<OpenBlob>,
    buffers: Buffers,
}

impl Drop for FileReader {
    fn drop(&mut self) {
        self.blob.shared.leave();
    }
}

impl FileReader {
    pub(super) fn new(blob: Arc<OpenBlob>, buffers: Buffers) -> FileReader {
        blob.shared.enter();
        FileReader { blob, buffers }
    }

    fn damaged(&self, offset: u64, detail: &'static str) -> StoreError {
        StoreError::Damaged { key: Box::new(self.blob.key), offset, detail }
    }

    /// Reads one piece at the block boundary `at` and checks its blocks; false if it would have to wait.
    fn read_piece(&self, piece: &mut [u8], at: u64, wait: Wait) -> StoreResult<bool> {
        match read_exact(&self.blob.file, piece, at, wait) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait == Wait::Never => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.damaged(at, "file is cut off"));
            }
            Err(error) => {
                tracing::warn!(blob = %self.blob.key, offset = at, %error, "a blob file cannot be read");
                return Err(self.damaged(at, "unreadable"));
            }
        }
        let first = (at / BLOCK_BYTES as u64) as usize;
        for (index, block) in piece.chunks(BLOCK_BYTES).enumerate() {
            if self.blob.sums.sums.get(first + index) != Some(&block_sum(block)) {
                return Err(self.damaged(at + (index * BLOCK_BYTES) as u64, "block does not match its sum"));
            }
        }
        Ok(true)
    }

    /// The blocks that cover a range; `None` if they would have to be waited for.
    fn read(&self, offset: u64, len: usize, wait: Wait) -> StoreResult<Option<Blocks>> {
        let (begin, len) = cover(offset, len, self.size_bytes())?;
        if let Some(bytes) = self.blob.shared.find(begin).filter(|bytes| bytes.len() >= len) {
            return Ok(Some(self.blob.sums.blocks(begin, bytes.slice(..len))));
        }
        let mut buffer = self.buffers.take(len);
        let mut at = begin;
        for piece in buffer.as_mut().chunks_mut(PIECE_BYTES) {
            if !self.read_piece(piece, at, wait)? {
                return Ok(None);
            }
            at += piece.len() as u64;
        }
        let bytes = buffer.freeze();
        self.blob.shared.add(begin, &bytes);
        Ok(Some(self.blob.sums.blocks(begin, bytes)))
    }
}

impl BlobReader for FileReader {
    fn key(&self) -> &BlobKey {
        &self.blob.key
    }

    fn size_bytes(&self) -> u64 {
        self.blob.sums.size_bytes
    }

    fn read_blocks(&self, offset: u64, len: usize) -> StoreResult<Blocks> {
        let read = self.read(offset, len, Wait::Long)?;
        read.ok_or_else(|| self.damaged(offset, "unreadable"))
    }

    fn read_blocks_now(&self, offset: u64, len: usize) -> Option<StoreResult<Blocks>> {
        self.read(offset, len, Wait::Never).transpose()
    }
}

/// A small blob, read and hashed as a whole when it was opened.
pub(in crate::blob::store) struct SmallReader {
    pub(in crate::blob::store) key: BlobKey,
    pub(in crate::blob::store) bytes: Bytes,
}

impl BlobReader for SmallReader {
    fn key(&self) -> &BlobKey {
        &self.key
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_blocks(&self, offset: u64, len: usize) -> StoreResult<Blocks> {
        let (begin, len) = cover(offset, len, self.size_bytes())?;
        // Both lie inside a buffer in memory.
        let bytes = self.bytes.slice(begin as usize..begin as usize + len);
        let sums = bytes.chunks(BLOCK_BYTES).map(block_sum).collect();
        Ok(Blocks { offset: begin, bytes, sums })
    }

    fn read_blocks_now(&self, offset: u64, len: usize) -> Option<StoreResult<Blocks>> {
        Some(self.read_blocks(offset, len))
    }
}

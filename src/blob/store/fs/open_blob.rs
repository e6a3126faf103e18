//! An open blob file with its sums, and the small blob that is read whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;

use super::buffers::Buffers;
use super::sums::Sums;
use crate::blob::store::block::cover;
use crate::blob::store::{BLOCK_BYTES, BlobKey, BlobReader, Blocks, StoreError, StoreResult, block_sum};

/// Bytes read and then checked while they are still in the second-level cache.
const PIECE_BYTES: usize = 256 << 10;

/// What the cache holds.
pub(super) struct OpenBlob {
    pub(super) key: BlobKey,
    pub(super) file: File,
    pub(super) sums: Sums,
}

/// A reader of an [`OpenBlob`].
pub(super) struct FileReader {
    pub(super) blob: Arc<OpenBlob>,
    pub(super) buffers: Buffers,
}

impl FileReader {
    fn damaged(&self, offset: u64, detail: &'static str) -> StoreError {
        StoreError::Damaged { key: Box::new(self.blob.key), offset, detail }
    }

    /// Reads one piece at the block boundary `at` and checks its blocks.
    fn read_piece(&self, piece: &mut [u8], at: u64) -> StoreResult<()> {
        match self.blob.file.read_exact_at(piece, at) {
            Ok(()) => {}
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
        Ok(())
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
        let (begin, len) = cover(offset, len, self.size_bytes())?;
        let mut buffer = self.buffers.take(len);
        let mut at = begin;
        for piece in buffer.as_mut().chunks_mut(PIECE_BYTES) {
            self.read_piece(piece, at)?;
            at += piece.len() as u64;
        }
        let first = (begin / BLOCK_BYTES as u64) as usize;
        let sums = self.blob.sums.sums[first..first + len.div_ceil(BLOCK_BYTES)].to_vec();
        Ok(Blocks { offset: begin, bytes: buffer.freeze(), sums })
    }
}

/// A small blob, read and hashed as a whole when it was opened.
pub(super) struct SmallReader {
    pub(super) key: BlobKey,
    pub(super) bytes: Bytes,
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
}

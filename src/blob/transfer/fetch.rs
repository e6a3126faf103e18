//! Reads: the best copy first, another one from the block where the first fails.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use registry_core::vocabulary::ids::StoreId;

use crate::blob::store::BlobKey;

use super::{Transfer, TransferError, TransferResult};

/// A blob and where its copies are, as the metadata records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobSource {
    /// Which bytes.
    pub key: BlobKey,
    /// How many.
    pub size_bytes: u64,
    /// The stores that hold them.
    pub replicas: Vec<StoreId>,
}

/// The bytes of a blob, each verified on this node. An error is final: the connection to the client must be cut, never
/// ended cleanly.
pub struct BlobStream {
    _todo: (),
}

impl BlobStream {
    /// Bytes still to come.
    pub fn remaining_bytes(&self) -> u64 {
        unimplemented!()
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, TransferError>;

    fn poll_next(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        unimplemented!()
    }
}

impl Transfer {
    /// Opens `range` of a blob (`0..size_bytes` for all of it) for streaming. When it returns, the first bytes are here
    /// and verified, so an answer can begin. Dropping the stream ends all work for it.
    ///
    /// Errors: `NoCopy`; `Store(OutOfRange)` for a range outside the blob.
    pub async fn fetch(&self, blob: BlobSource, range: Range<u64>) -> TransferResult<BlobStream> {
        let _ = (blob, range);
        unimplemented!()
    }

    /// Reads a whole blob of at most `limit` bytes: a manifest that isn't inline.
    ///
    /// Errors: `NoCopy`; `Store(TooLarge)`.
    pub async fn read(&self, blob: BlobSource, limit: usize) -> TransferResult<Bytes> {
        let _ = (blob, limit);
        unimplemented!()
    }
}

//! One copy of a blob as a stream of blocks: from an own disk, or from another node.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use registry_core::vocabulary::ids::StoreId;
use registry_core::vocabulary::limits::{BLOCK_BYTES, TRANSFER_READ_BYTES, TRANSFER_READS_BYTES};
use tokio::task::JoinHandle;

use crate::blob::store::{BlobKey, BlobReader, BlobStore, Blocks, StoreError, StoreResult};
use crate::ground::threads;

use super::TransferResult;
use super::peers::Peer;
use super::volumes::{blocking, joined};
use super::wire::{self, proto};

/// Which bytes of which blob.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) key: BlobKey,
    /// The blob's size by the metadata.
    pub(super) size_bytes: u64,
    pub(super) at: u64,
    pub(super) until: u64,
}

/// Reads from own disks under way, so that all of them together take bounded memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads(Arc<AtomicUsize>);

/// One of them.
struct Reading(Reads);

impl Reads {
    fn begin(&self) -> Reading {
        self.0.fetch_add(1, Ordering::Relaxed);
        Reading(self.clone())
    }
}

impl Reading {
    /// How much to read at `at`: whole blocks, up to where every reader of a blob stops, so that they can share.
    fn step(&self, at: u64, until: u64) -> usize {
        // one buffer is on its way out while the next one is read
        let share = TRANSFER_READS_BYTES / (2 * self.0.0.load(Ordering::Relaxed).max(1));
        let step: u64 = 1 << share.clamp(BLOCK_BYTES, TRANSFER_READ_BYTES).ilog2();
        let stop = (at / step + 1) * step;
        // At most TRANSFER_READ_BYTES, so it fits.
        (until.min(stop) - at) as usize
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The blocks of a store of this node, each checked by the store after it was read. What is in memory is read when it
/// is wanted; what the disk is waited for is read ahead. Never more than two buffers are in memory. The first is here
/// when this returns.
pub(super) async fn local(
    reads: &Reads,
    store: Arc<dyn BlobStore>,
    span: Span,
) -> StoreResult<(Blocks, BoxStream<'static, StoreResult<Blocks>>)> {
    let reading = reads.begin();
    let len = reading.step(span.at, span.until);
    let (reader, first) = match begin_now(&*store, &span, len) {
        Some(begun) => begun?,
        None => blocking(move || begin(&*store, &span, len)).await?,
    };
    let rest = Rest { reader, reading, at: first.end(), until: span.until, ahead: None };
    let rest = stream::unfold(rest, |mut rest| async { rest.next().await.map(|blocks| (blocks, rest)) });
    Ok((first, rest.boxed()))
}

type Begun = (Arc<dyn BlobReader>, Blocks);

fn begin(store: &dyn BlobStore, span: &Span, len: usize) -> StoreResult<Begun> {
    let reader = sized(store.open(&span.key)?, span)?;
    let first = reader.read_blocks(span.at, len)?;
    Ok((reader, first))
}

fn begin_now(store: &dyn BlobStore, span: &Span, len: usize) -> Option<StoreResult<Begun>> {
    let reader = match store.open_now(&span.key)?.and_then(|reader| sized(reader, span)) {
        Ok(reader) => reader,
        Err(error) => return Some(Err(error)),
    };
    let first = reader.read_blocks_now(span.at, len)?;
    Some(first.map(|first| (reader, first)))
}

fn sized(reader: Arc<dyn BlobReader>, span: &Span) -> StoreResult<Arc<dyn BlobReader>> {
    if reader.size_bytes() == span.size_bytes {
        return Ok(reader);
    }
    // Not called damage: whoever asks could be wrong, and must not make this node give up a good copy.
    Err(StoreError::SizeMismatch { expected: span.size_bytes, actual: reader.size_bytes() })
}

/// What of a blob is still to be read.
struct Rest {
    reader: Arc<dyn BlobReader>,
    reading: Reading,
    at: u64,
    until: u64,
    /// A read on its way, behind blocks that had to be waited for as well.
    ahead: Option<JoinHandle<StoreResult<Blocks>>>,
}

impl Rest {
    /// The next blocks; nothing comes after an error.
    async fn next(&mut self) -> Option<StoreResult<Blocks>> {
        if self.at >= self.until {
            return None;
        }
        let read = match self.ahead.take() {
            Some(read) => joined(read.await),
            None => match self.reader.read_blocks_now(self.at, self.reading.step(self.at, self.until)) {
                Some(read) => read,
                None => {
                    let read = joined(self.begin_read(self.at).await);
                    let next = read.as_ref().map_or(self.until, Blocks::end);
                    self.ahead = (next < self.until).then(|| self.begin_read(next));
                    read
                }
            },
        };
        self.at = read.as_ref().map_or(self.until, Blocks::end);
        Some(read)
    }

    fn begin_read(&self, at: u64) -> JoinHandle<StoreResult<Blocks>> {
        let (reader, len) = (Arc::clone(&self.reader), self.reading.step(at, self.until));
        threads::blocking(move || reader.read_blocks(at, len))
    }
}

/// The blocks of another node's store, as they arrive, not yet checked here.
pub(super) async fn remote(
    peer: Arc<Peer>,
    store: StoreId,
    span: Span,
) -> TransferResult<(Blocks, BoxStream<'static, TransferResult<Blocks>>)> {
    let request = proto::FetchRequest {
        blob: Some(wire::blob_request(store, &span.key)),
        size_bytes: span.size_bytes,
        offset: span.at,
        until: span.until,
    };
    let mut client = peer.bulk();
    let node = peer.node;
    let read = |status: tonic::Status| wire::error_of(node, &status);
    let mut blocks = client.fetch(request).await.map_err(read)?.into_inner();
    let first = match blocks.message().await.map_err(read)? {
        Some(reply) => wire::blocks(reply),
        None => return Err(peer.unreachable("sent no bytes")),
    };
    let rest = blocks.map(move |reply| reply.map(wire::blocks).map_err(|status| wire::error_of(node, &status)));
    Ok((first, rest.boxed()))
}

/// Whether blocks begin where they should; what they hold otherwise is never used.
pub(super) fn is_in_place(blocks: &Blocks, at: u64) -> bool {
    blocks.offset <= at && at < blocks.end()
}

/// Whether blocks of another node are good, and begin where they should.
pub(super) fn is_sound(blocks: &Blocks, at: u64) -> bool {
    is_in_place(blocks, at) && blocks.first_damaged().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    // However many read, all their buffers together stay within the bound, until each reads single blocks; readers of
    // one blob stop at the same places wherever they began.
    #[test]
    fn reads_share_their_memory() {
        let reads = Reads::default();
        let mut under_way = Vec::new();
        for _ in 0..2000 {
            under_way.push(reads.begin());
            let step = under_way[0].step(0, u64::MAX);
            assert!(step.is_multiple_of(BLOCK_BYTES) && step <= TRANSFER_READ_BYTES);
            assert!(2 * step * under_way.len() <= TRANSFER_READS_BYTES || step == BLOCK_BYTES);
        }
        under_way.truncate(1);
        let alone = &under_way[0];
        assert_eq!(alone.step(0, u64::MAX), TRANSFER_READ_BYTES);
        assert_eq!(alone.step(5, u64::MAX), TRANSFER_READ_BYTES - 5);
        assert_eq!(alone.step(5, 9), 4);
    }
}

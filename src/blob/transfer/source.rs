//! One copy of a blob as a stream of blocks: from an own disk, or from another node.

use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use registry_core::vocabulary::ids::StoreId;
use registry_core::vocabulary::limits::TRANSFER_READ_BYTES;
use tokio::task::JoinHandle;

use crate::blob::store::{BlobKey, BlobReader, BlobStore, Blocks, StoreError, StoreResult};

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

/// The blocks of a store of this node, each checked by the store after it was read. The next ones are read while these
/// are used; never more than two buffers are in memory. The first is here when this returns.
pub(super) async fn local(
    store: Arc<dyn BlobStore>,
    span: Span,
) -> StoreResult<(Blocks, BoxStream<'static, StoreResult<Blocks>>)> {
    let Span { key, size_bytes, at, until } = span;
    let (reader, first) = blocking(move || {
        let reader = store.open(&key)?;
        if reader.size_bytes() != size_bytes {
            let detail = "its size is not the recorded one";
            return Err(StoreError::Damaged { key: Box::new(key), offset: 0, detail });
        }
        let first = reader.read_blocks(at, step(at, until))?;
        Ok((reader, first))
    })
    .await?;
    let ahead = ReadAhead::begin(reader, first.end(), until);
    let rest = stream::unfold(ahead, |ahead| async {
        let ReadAhead { reader, until, read } = ahead?;
        match joined(read.await) {
            Ok(blocks) => {
                let next = ReadAhead::begin(reader, blocks.end(), until);
                Some((Ok(blocks), next))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok((first, rest.boxed()))
}

struct ReadAhead {
    reader: Arc<dyn BlobReader>,
    until: u64,
    read: JoinHandle<StoreResult<Blocks>>,
}

impl ReadAhead {
    fn begin(reader: Arc<dyn BlobReader>, at: u64, until: u64) -> Option<ReadAhead> {
        let reading = Arc::clone(&reader);
        let read = move || reading.read_blocks(at, step(at, until));
        (at < until).then(|| ReadAhead { reader, until, read: tokio::task::spawn_blocking(read) })
    }
}

fn step(at: u64, until: u64) -> usize {
    // At most TRANSFER_READ_BYTES, so it fits.
    (until - at).min(TRANSFER_READ_BYTES as u64) as usize
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

/// Whether the first blocks are good and begin where they should; what they hold otherwise is never used.
pub(super) fn is_sound(blocks: &Blocks, at: u64) -> bool {
    blocks.offset <= at && at < blocks.end() && blocks.first_damaged().is_none()
}

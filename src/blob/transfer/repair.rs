//! One copy pulled to this node. Which copies, and when, the jobs decide.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use registry_core::vocabulary::ids::StoreId;
use registry_core::vocabulary::limits::TRANSFER_BATCH_BYTES;

use crate::blob::store::{BlobStat, BlobStore, ImportWriter, StoreError};
use crate::ground::pacer::Pacer;

use super::volumes::{At as _, blocking};
use super::{BlobSource, Transfer, TransferError, TransferResult};

impl Transfer {
    /// Pulls a copy of `blob` into the store `into` of this node from the best replica, verifies and places it; waits
    /// for its turn and its share of bandwidth. A copy that is here already is the answer.
    ///
    /// Errors: `StoreUnknown` when `into` isn't on this node, `NoCopy`, `Store`.
    pub async fn replicate_here(&self, blob: BlobSource, into: StoreId) -> TransferResult<BlobStat> {
        let store = self.inner.holder.volumes.get(into).ok_or(TransferError::StoreUnknown(into))?;
        // Never closed, so a permit always comes.
        let _turn = self.inner.repairs.acquire().await;
        self.pull(blob, store, Some(&self.inner.pacer)).await
    }

    /// As [`Transfer::replicate_here`] into the roomiest store, at once and at full speed: a client waits for it.
    pub(super) async fn replicate_anywhere_here(&self, blob: BlobSource) -> TransferResult<StoreId> {
        let volumes = self.inner.holder.volumes.clone();
        let store = blocking(move || volumes.roomiest()).await.at(self.inner.holder.node)?;
        let into = store.store_id();
        self.pull(blob, store, None).await.map(|_| into)
    }

    async fn pull(
        &self,
        mut blob: BlobSource,
        store: Arc<dyn BlobStore>,
        pacer: Option<&Pacer>,
    ) -> TransferResult<BlobStat> {
        let node = self.inner.holder.node;
        let (key, size_bytes) = (blob.key, blob.size_bytes);
        blob.replicas.retain(|replica| *replica != store.store_id());
        let opening = Arc::clone(&store);
        let mut writer = match blocking(move || opening.import(&key, size_bytes)).await {
            Ok(writer) => writer,
            Err(StoreError::Exists) => return blocking(move || store.confirm(&key)).await.at(node),
            Err(error) => return Err(TransferError::Store { node, error }),
        };
        let mut bytes = self.fetch(blob, 0..size_bytes).await?;
        let (mut batch, mut len) = (Vec::new(), 0);
        while let Some(part) = bytes.next().await.transpose()? {
            if let Some(pacer) = pacer {
                pacer.pass(part.len() as u64).await;
            }
            len += part.len();
            batch.push(part);
            if len >= TRANSFER_BATCH_BYTES {
                writer = append(writer, std::mem::take(&mut batch)).await.at(node)?;
                len = 0;
            }
        }
        writer = append(writer, batch).await.at(node)?;
        blocking(move || writer.finish()).await.at(node)
    }
}

async fn append(mut writer: Box<dyn ImportWriter>, batch: Vec<Bytes>) -> Result<Box<dyn ImportWriter>, StoreError> {
    blocking(move || writer.append(&batch).map(|()| writer)).await
}
